"""The data of the digits_few_labels recipe: the digits recipe's images, of which few have labels.

    python recipes/digits_few_labels/prepare_data.py out/digits_few_labels/data

The training images, validation images and test images are those of recipes/digits. As many training images of each digit keep
their label, drawn at random; that of all others is empty. Called by `recipes/train_conditional.py` through the setting
`data_script`, and by run.py for each number of labels and seed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:] = [str(Path(__file__).resolve().parents[2]), *sys.path[1:]]

import numpy as np

from recipes.digits import prepare_data as digits

NUM_CLASSES = 10
LABELLED_SHARE = 0.09
"""About what share of the training rows has labels, at least: labelled images are repeated, so that all batches have some."""


def choose_labelled(names: list[str], num_labels: int, seed: int) -> np.ndarray:
    """The places of the images that keep their label, as many of each digit.

    Args:
        names: The digit of each training image.
        num_labels: How many labels are kept, a multiple of ten.
        seed: Which ones.

    Raises:
        ValueError: for a number that is no multiple of ten, or more than there are of a digit.
    """
    each, rest = divmod(num_labels, NUM_CLASSES)
    counts = np.unique(names, return_counts=True)[1]
    if rest or not 0 < each <= counts.min():
        raise ValueError(f"num_labels must be a multiple of 10 from 10 to {NUM_CLASSES * counts.min()}, got {num_labels}.")
    generator = np.random.default_rng([seed, num_labels])
    order = generator.permutation(len(names))
    shuffled = np.array(names)[order]
    return np.sort(np.concatenate([order[shuffled == name][:each] for name in np.unique(names)]))


def prepare_data(folder: Path, *, num_labels: int = 10, seed: int = 1, num_rows: int | None = None) -> dict[str, Any]:
    """Write images of which few have labels, those alone, and images to score by.

    Args:
        folder: Where to; made if it is not there.
        num_labels: How many training images keep their label.
        seed: Which ones.
        num_rows: The most training images.

    Returns:
        `train_file`, `validation_file`, `test_file`, `labelled_file` (the labelled training images alone, each once), and
        `facts` about the data.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = digits.prepare_data(folder, num_rows=num_rows)
    table = pq.read_table(found["train_file"])
    names = table["digit"].to_pylist()
    places = choose_labelled(names, num_labels, seed)
    kept = set(places.tolist())
    labels = [name if place in kept else None for place, name in enumerate(names)]
    table = table.set_column(1, "digit", pa.array(labels, pa.string()))
    repeats = max(1, round(LABELLED_SHARE * len(names) / num_labels))
    labelled, unlabelled = table.take(places), table.take(sorted(set(range(len(names))) - kept))
    files = {**found, "labelled_file": str(folder / "labelled.parquet")}
    pq.write_table(labelled, files["labelled_file"])
    pq.write_table(pa.concat_tables([*[labelled] * repeats, unlabelled]), files["train_file"])
    return {**files, "facts": {**found["facts"], "labels": num_labels, "training_images": len(names)}}


if __name__ == "__main__":
    for name, value in prepare_data(Path(sys.argv[1] if len(sys.argv) > 1 else "out/digits_few_labels/data")).items():
        print(f"{name}: {value}")

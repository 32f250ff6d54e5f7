"""The data of the fashion_mnist recipe: Zalando's pictures of clothes, 28x28 pixels of 0 to 255 (Xiao et al. 2017).

    python recipes/fashion_mnist/prepare_data.py out/fashion_mnist/data

Debian's package dataset-fashion-mnist brings them, once, into the folder that HF_GENEXT_CACHE names (else ~/.cache/hf_genext).
The 10,000 test images are the official ones; of the 60,000 others 5,000 are for validation. Called by
`recipes/train_conditional.py` through the setting `data_script`.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:] = [str(ROOT), *(folder for folder in sys.path if Path(folder).resolve() not in (ROOT, Path(__file__).parent))]

import numpy as np

from recipes.debian_packages import bring_debian_package, find_cache

PACKAGE = "dataset-fashion-mnist"
SEED = 0
"""Which images are held out for validation: fixed, so that runs compare."""

NAMES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def read_idx(path: Path) -> np.ndarray:
    """The numbers of a compressed IDX file of bytes (LeCun et al. 1998).

    Raises:
        ValueError: if it is none, or cut.
    """
    with gzip.open(path) as file:
        content = file.read()
    axes = content[3] if len(content) > 3 else 0
    if content[:3] != b"\0\0\x08" or not axes or len(content) < 4 + 4 * axes:
        raise ValueError(f"{str(path)!r} is no IDX file of bytes.")
    shape = np.frombuffer(content, ">u4", axes, 4).astype(int)
    if len(content) != 4 + 4 * axes + shape.prod():
        raise ValueError(f"{str(path)!r} should hold {shape.prod():,} numbers, and holds {len(content) - 4 - 4 * axes:,}.")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def prepare_data(folder: Path, *, num_held_out: int = 5_000, num_rows: int | None = None) -> dict[str, Any]:
    """Write the images to train on, to choose by, and to score.

    Args:
        folder: Where to; made if it is not there.
        num_held_out: Images for validation, drawn at random.
        num_rows: The most images of each part, the first.

    Returns:
        `train_file`, `validation_file`, `test_file`, and `facts` about the data.

    Raises:
        RuntimeError: if the package cannot be brought; the message says how to bring it by hand.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    cache = find_cache()
    version = bring_debian_package(cache, PACKAGE)
    source = cache / "unpacked" / PACKAGE / "usr" / "share" / "datasets" / "fashion-mnist"
    known, test = (
        (read_idx(source / f"{part}-images-idx3-ubyte.gz"), read_idx(source / f"{part}-labels-idx1-ubyte.gz"))
        for part in ("train", "t10k")
    )
    order = np.random.default_rng(SEED).permutation(len(known[1]))
    parts = {
        "train": (known[0][order[num_held_out:]], known[1][order[num_held_out:]]),
        "validation": (known[0][order[:num_held_out]], known[1][order[:num_held_out]]),
        "test": test,
    }
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, (images, labels) in parts.items():
        flat = images[:num_rows].reshape(-1, images[0].size)
        pixels = pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1])
        names = pa.array([NAMES[label] for label in labels[:num_rows]])
        files[f"{name}_file"] = str(folder / f"{name}.parquet")
        pq.write_table(pa.table({"pixels": pixels, "article": names}), files[f"{name}_file"])
    facts = {"name": "Fashion-MNIST, 28x28 pixels of 0 to 255", "packages": f"{PACKAGE} {version}", "license": "MIT"}
    return {**files, "facts": facts}


if __name__ == "__main__":
    for name, value in prepare_data(Path(sys.argv[1] if len(sys.argv) > 1 else "out/fashion_mnist/data")).items():
        print(f"{name}: {value}")

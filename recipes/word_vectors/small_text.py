"""The small text of the smoke run: 300 newspaper articles that gensim ships. Called through the setting `data_script`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

SCRIPT = "recipes/word_vectors/small_text.py"


def prepare_data(folder: Path) -> dict[str, Any]:
    """Say where the text lies; nothing is written.

    Args:
        folder: Not used.

    Returns:
        `train_file` and `facts` about the data.

    Raises:
        FileNotFoundError: if gensim is not installed.
    """
    found = importlib.util.find_spec("gensim")
    if found is None or found.origin is None:
        raise FileNotFoundError(f"{SCRIPT} reads a text that gensim ships: pip install gensim, or set train_file.")
    text = Path(found.origin).parent / "test" / "test_data" / "lee_background.cor"
    return {"train_file": str(text), "facts": {"name": "Lee background corpus (300 articles)", "license": "as gensim ships it"}}


if __name__ == "__main__":
    print(prepare_data(Path())["train_file"])

"""Data of smoke tests, which need no network: the 300 short news texts that are packaged with gensim.

Called by `recipes/train_language_model.py` and `recipes/train_embedding.py` through the setting `data_script`.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any


def prepare_data(folder: Path) -> dict[str, Any]:
    """Find the text.

    Args:
        folder: Not needed.

    Returns:
        `train_file` and `facts` about the data.

    Raises:
        ImportError: if gensim is not there.
    """
    gensim = importlib.util.find_spec("gensim")
    if gensim is None or gensim.origin is None:
        raise ImportError('The smoke test takes its text from gensim: pip install "hf_genext[recipes]"')
    return {
        "train_file": str(Path(gensim.origin).parent / "test" / "test_data" / "lee_background.cor"),
        "facts": {"name": "Lee background corpus (300 articles), packaged with gensim", "license": "as gensim ships it"},
    }

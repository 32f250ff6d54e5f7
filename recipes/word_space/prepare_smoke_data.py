"""Data of the smoke test: the most frequent words of the word_space recipe's data.

Called by `recipes/train_conditional.py` through the setting `data_script`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recipes.word_space import prepare_data as whole


def prepare_data(folder: Path) -> dict[str, Any]:
    """As the recipe's own, of GloVe's first 5,000 words."""
    return whole.prepare_data(folder, num_words=5000, held_out=500)

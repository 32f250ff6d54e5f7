"""Data of the smoke test: the most frequent words of the definition recipe's data.

Called by `recipes/train_conditional.py` through the setting `data_script`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recipes.definition import prepare_data as whole


def prepare_data(folder: Path) -> dict[str, Any]:
    """As the recipe's own, with GloVe's first 20,000 words, of which the smoke test of the glove recipe makes its space."""
    return whole.prepare_data(folder, num_words=20_000, held_out=60)

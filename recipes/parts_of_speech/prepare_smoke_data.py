"""Data of the smoke test: the more frequent words of the parts_of_speech recipe's data.

Called by `recipes/train_conditional.py` through the setting `data_script`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recipes.parts_of_speech import prepare_data as whole


def prepare_data(folder: Path) -> dict[str, Any]:
    """As the recipe's own, of GloVe's first 10,000 words."""
    return whole.prepare_data(folder, num_words=10_000, held_out=200)

"""Data of the smoke test: every letter of it comes with pip.

Called by `recipes/train_conditional.py` through the setting `data_script`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recipes.frequency import prepare_data as whole


def prepare_data(folder: Path) -> dict[str, Any]:
    """As the recipe's own, of GloVe's first 10,000 words, forms told by their endings alone."""
    return whole.prepare_data(folder, num_words=10_000, held_out=200, irregular_forms=False)

"""Data of the smoke test: fewer of the digits recipe's digits, and thirty labels.

Called by `recipes/train_conditional.py` through the setting `data_script`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recipes.digits_few_labels import prepare_data as whole


def prepare_data(folder: Path) -> dict[str, Any]:
    """As the recipe's own, of 300 digits to train on."""
    return whole.prepare_data(folder, num_labels=30, num_rows=300)

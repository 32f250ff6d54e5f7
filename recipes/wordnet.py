"""WordNet 3.0 (Fellbaum 1998): its words, what each means first, and which words are forms of one lemma.

Debian's package wordnet-base brings it, once, into the folder that HF_GENEXT_CACHE names (else ~/.cache/hf_genext).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from recipes.debian_packages import bring_debian_package, find_cache

PACKAGE = "wordnet-base"
PARTS = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
"""Files, and the letter of the part of speech."""

CATEGORIES = (
    "adj.all",
    "adj.pert",
    "adv.all",
    "noun.Tops",
    "noun.act",
    "noun.animal",
    "noun.artifact",
    "noun.attribute",
    "noun.body",
    "noun.cognition",
    "noun.communication",
    "noun.event",
    "noun.feeling",
    "noun.food",
    "noun.group",
    "noun.location",
    "noun.motive",
    "noun.object",
    "noun.person",
    "noun.phenomenon",
    "noun.plant",
    "noun.possession",
    "noun.process",
    "noun.quantity",
    "noun.relation",
    "noun.shape",
    "noun.state",
    "noun.substance",
    "noun.time",
    "verb.body",
    "verb.change",
    "verb.cognition",
    "verb.communication",
    "verb.competition",
    "verb.consumption",
    "verb.contact",
    "verb.creation",
    "verb.emotion",
    "verb.motion",
    "verb.perception",
    "verb.possession",
    "verb.social",
    "verb.stative",
    "verb.weather",
    "adj.ppl",
)
"""The lexicographers' 45 files by their number, as lexnames(5WN) lists them."""

# The endings that WordNet's own morphy(7WN) takes off, and what it puts in their place.
_ENDINGS = {
    "n": [("s", ""), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"), ("men", "man"), ("ies", "y")],
    "v": [("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")],
    "a": [("er", ""), ("est", ""), ("er", "e"), ("est", "e")],
    "r": [],
}
_Item = TypeVar("_Item")

_KINDS = {"n": 1, "v": 2, "a": 3, "r": 4, "s": 5}


@dataclass(frozen=True)
class Sense:
    """One meaning of a word.

    Attributes:
        word: In lower case; words of several pieces have underscores.
        part: Part of speech: n, v, a or r.
        category: One of [`CATEGORIES`].
        gloss: The definition, without its examples.
        count: How often the word was met in this sense in texts that people had marked.
        rank: Which sense of the word's part of speech it is, the first being 0.
    """

    word: str
    part: str
    category: str
    gloss: str
    count: int
    rank: int


def bring_wordnet() -> tuple[Path, str]:
    """The folder of WordNet's files, and the package's version.

    Raises:
        RuntimeError: if the package cannot be brought; the message says how to bring it by hand.
    """
    cache = find_cache()
    version = bring_debian_package(cache, PACKAGE)
    return cache / "unpacked" / PACKAGE / "usr/share/wordnet", version


def read_senses(folder: Path) -> dict[str, list[Sense]]:
    """All senses of every word, those first that are met most often.

    Args:
        folder: WordNet's files.

    Returns:
        Senses by word.
    """
    counts: dict[tuple[str, ...], int] = defaultdict(int)
    for line in (folder / "cntlist.rev").read_text(encoding="utf-8").splitlines():
        key, _, count = line.split()
        word, _, rest = key.partition("%")
        kind, file, number = rest.split(":")[:3]
        counts[word, kind, file, number] += int(count)
    senses: dict[str, list[Sense]] = defaultdict(list)
    for file, part in PARTS.items():
        ranks = _read_ranks(folder / f"index.{file}")
        for line in (folder / f"data.{file}").read_text(encoding="utf-8").splitlines():
            if line.startswith("  "):
                continue  # The licence.
            fields, _, gloss = line.partition(" | ")
            offset, category, kind, size, *rest = fields.split(" ")
            for place in range(int(size, 16)):
                word, number = re.sub(r"\(\w+\)$", "", rest[2 * place]).lower(), int(rest[2 * place + 1], 16)
                count = counts[word, str(_KINDS[kind]), category, f"{number:02d}"]
                rank = ranks[word, offset]
                senses[word].append(Sense(word, part, CATEGORIES[int(category)], split_gloss(gloss), count, rank))
    order = list(PARTS.values())
    return {word: sorted(found, key=lambda s: (-s.count, order.index(s.part), s.rank)) for word, found in senses.items()}


def _read_ranks(path: Path) -> dict[tuple[str, str], int]:
    ranks = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("  "):
            continue
        word, _, size, *rest = line.split()
        ranks |= {(word, offset): rank for rank, offset in enumerate(rest[-int(size) :])}
    return ranks


def split_gloss(gloss: str) -> str:
    """A gloss without its examples.

    Example:
        >>> split_gloss('draw air into, and expel out of, the lungs; "I can breathe better when the air is clean"  ')
        'draw air into, and expel out of, the lungs'
    """
    return re.split(r'[;:,]?\s*"', gloss, maxsplit=1)[0].strip().rstrip(";").strip()


def read_exceptions(folder: Path) -> dict[str, dict[str, list[str]]]:
    """For each part of speech the irregular forms and what they are forms of."""
    read = {}
    for file, part in PARTS.items():
        lines = (folder / f"{file}.exc").read_text(encoding="utf-8").splitlines()
        read[part] = {form: bases for form, *bases in map(str.split, lines)}
    return read


def group_words(words: Iterable[Sense], exceptions: dict[str, dict[str, list[str]]]) -> list[list[Sense]]:
    """Words that belong together: forms of one lemma, by WordNet's own rules, and words with one gloss.

    Args:
        words: The sense that stands for each word.
        exceptions: As [`read_exceptions`] gives them.

    Returns:
        The groups, each in the order in which the words came.

    Example:
        >>> glosses = {"mice": "a", "dog": "b", "mouse": "c", "hound": "b"}
        >>> senses = [Sense(word, "n", "noun.animal", gloss, 0, 0) for word, gloss in glosses.items()]
        >>> [[sense.word for sense in group] for group in group_words(senses, {"n": {"mice": ["mouse"]}})]
        [['mice', 'mouse'], ['dog', 'hound']]
    """
    senses = list(words)
    known = {sense.word for sense in senses}
    marks = [
        [sense.word, *(base for base in list_bases(sense.word, exceptions) if base in known), ("gloss", sense.gloss)]
        for sense in senses
    ]
    return [[senses[place] for place in places] for places in group_by_marks(marks)]


def group_by_marks(marks: Iterable[Iterable[Hashable]]) -> list[list[int]]:
    """Which items belong together, because they share a mark, or are joined by others that do.

    Args:
        marks: Those of each item, one at least.

    Returns:
        The places of the items of each group, in their order.

    Example:
        >>> group_by_marks([["dogs", "dog"], ["cat"], ["dog"], ["cats", "cat"]])
        [[0, 2], [1, 3]]
    """
    parents: dict[Hashable, Hashable] = {}

    def find(mark: Hashable) -> Hashable:
        while parents.setdefault(mark, mark) != mark:
            parents[mark] = parents[parents[mark]]
            mark = parents[mark]
        return mark

    firsts = []
    for first, *others in marks:
        firsts.append(first)
        for other in others:
            parents[find(other)] = find(first)
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for place, first in enumerate(firsts):
        groups[find(first)].append(place)
    return list(groups.values())


def list_bases(word: str, exceptions: Mapping[str, Mapping[str, list[str]]]) -> list[str]:
    """What a word may be a form of, whether there is such a word or not: by the lists of irregular forms and by its endings.

    Args:
        word: In lower case.
        exceptions: As [`read_exceptions`] gives them; without any, regular forms alone.

    Example:
        >>> list_bases("mice", {"n": {"mice": ["mouse"]}}), list_bases("cats", {})
        (['mouse'], ['cat', 'cat'])
    """
    return [base for part in _ENDINGS for base in (*exceptions.get(part, {}).get(word, []), *_strip_endings(word, part))]


def _strip_endings(word: str, part: str) -> list[str]:
    return [word.removesuffix(end) + new for end, new in _ENDINGS[part] if word.endswith(end) and len(word) > len(end) + 1]


def find_parts(
    word: str, lemmas: Mapping[str, Collection[str]], exceptions: Mapping[str, Mapping[str, list[str]]]
) -> list[str]:
    """The parts of speech that a word or a form of a word can have, as WordNet's morphy(7WN) finds them.

    For each part of speech the word itself is looked up, and what it is a form of: as the list of irregular forms says, or
    where it stands in none, without an ending. Nouns in -ss are no plurals, and two letters stay before an ending.

    Args:
        word: In lower case.
        lemmas: The parts of speech of each word of WordNet.
        exceptions: As [`read_exceptions`] gives them.

    Returns:
        Some of n, v, a and r, in this order; none for a word that WordNet does not know.

    Example:
        >>> find_parts("dogs", {"dog": ["n", "v"]}, {})
        ['n', 'v']
    """
    found = []
    for part in _ENDINGS:
        bases = exceptions.get(part, {}).get(word) or (
            [] if part == "n" and word.endswith("ss") else _strip_endings(word, part)
        )
        if any(part in lemmas.get(base, ()) for base in (word, *bases)):
            found.append(part)
    return found


def choose_first_senses(senses: dict[str, list[Sense]], is_wanted: Callable[[str], bool]) -> list[Sense]:
    """The sense that each wanted word is met in most often."""
    return [found[0] for word, found in senses.items() if is_wanted(word) and found[0].gloss]


def split_groups(groups: Sequence[list[_Item]], sizes: list[int], *, seed: int) -> list[list[_Item]]:
    """Divide groups at random.

    Args:
        groups: Groups that must not be parted.
        sizes: How many groups each part gets, of which it takes the first item alone; what is left over is one more part, the
            last, with all of theirs.
        seed: Which ones.

    Returns:
        The items of each part.

    Raises:
        ValueError: if there are fewer groups.
    """
    if sum(sizes) >= len(groups):
        raise ValueError(f"{sum(sizes)} groups are asked for, but there are {len(groups)}, of which some must be left.")
    order = np.random.default_rng(seed).permutation(len(groups))
    ends = np.cumsum(sizes)
    parts = [[groups[place][0] for place in order[end - size : end]] for size, end in zip(sizes, ends, strict=True)]
    return [*parts, [item for place in order[ends[-1] :] for item in groups[place]]]


__all__ = [
    "CATEGORIES",
    "Sense",
    "bring_wordnet",
    "choose_first_senses",
    "find_parts",
    "group_by_marks",
    "group_words",
    "list_bases",
    "read_exceptions",
    "read_senses",
    "split_gloss",
    "split_groups",
]

"""WordNet 3.0 (Fellbaum 1998): its words, what each means first, and which words are forms of one lemma.

Debian's package wordnet-base brings it, once, into the folder that HF_GENEXT_CACHE names (else ~/.cache/hf_genext).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recipes.word_vectors.prepare_data import bring_debian_package, find_cache

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
    known = {sense.word: place for place, sense in enumerate(senses)}
    parents = list(range(len(senses)))

    def find(place: int) -> int:
        while parents[place] != place:
            parents[place] = parents[parents[place]]
            place = parents[place]
        return place

    first_with: dict[str, int] = {}
    for place, sense in enumerate(senses):
        others = [known[base] for base in _list_bases(sense.word, exceptions) if base in known]
        for other in [*others, first_with.setdefault(sense.gloss, place)]:
            first, second = sorted((find(place), find(other)))
            parents[second] = first
    groups: dict[int, list[Sense]] = defaultdict(list)
    for place, sense in enumerate(senses):
        groups[find(place)].append(sense)
    return list(groups.values())


def _list_bases(word: str, exceptions: dict[str, dict[str, list[str]]]) -> list[str]:
    bases = []
    for part, endings in _ENDINGS.items():
        bases += exceptions.get(part, {}).get(word, [])
        bases += [word.removesuffix(end) + new for end, new in endings if word.endswith(end) and len(word) > len(end) + 1]
    return bases


def choose_first_senses(senses: dict[str, list[Sense]], is_wanted: Callable[[str], bool]) -> list[Sense]:
    """The sense that each wanted word is met in most often."""
    return [found[0] for word, found in senses.items() if is_wanted(word) and found[0].gloss]


def split_groups(groups: list[list[Sense]], sizes: list[int], *, seed: int) -> list[list[Sense]]:
    """Divide groups at random.

    Args:
        groups: Groups that must not be parted.
        sizes: How many groups each part gets, of which it takes the first word alone; what is left over is one more part, the
            last, with all words.
        seed: Which ones.

    Returns:
        The words of each part.

    Raises:
        ValueError: if there are fewer groups.
    """
    if sum(sizes) >= len(groups):
        raise ValueError(f"{sum(sizes)} groups are asked for, but there are {len(groups)}, of which some must be left.")
    order = np.random.default_rng(seed).permutation(len(groups))
    ends = np.cumsum(sizes)
    parts = [[groups[place][0] for place in order[end - size : end]] for size, end in zip(sizes, ends, strict=True)]
    return [*parts, [sense for place in order[ends[-1] :] for sense in groups[place]]]


__all__ = [
    "CATEGORIES",
    "Sense",
    "bring_wordnet",
    "choose_first_senses",
    "group_words",
    "read_exceptions",
    "read_senses",
    "split_gloss",
    "split_groups",
]

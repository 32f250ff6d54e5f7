"""Texts on three sides: to train on, to choose by, and to score, no text on two of them; and the files that hold them."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

SIDES = ("train", "validation", "test")


def fold_words(text: str) -> str:
    """The words of a text in lower case, without marks: what makes two texts one.

    Example:
        >>> fold_words("A bowed instrument; of the Violin-family.")
        'a bowed instrument of the violin family'
    """
    return " ".join(re.findall(r"\w+", text.casefold()))


def split_texts(
    texts: Iterable[str],
    held_out: int,
    *,
    most: int | None = None,
    seed: int = 0,
    fold: Callable[[str], str] = fold_words,
) -> dict[str, list[str]]:
    """Divide texts at random; of texts that are one when folded the first is taken.

    Args:
        texts: The texts.
        held_out: Texts for the validation, and as many for the test.
        most: Take so many texts only, drawn at random.
        seed: Which ones.
        fold: What makes two texts one.

    Returns:
        The texts of each of [`SIDES`].

    Raises:
        ValueError: if there are fewer texts than are held out.

    Example:
        >>> sides = split_texts(["cat", "dog", "Dog!", "bird"], 1)
        >>> sorted(map(len, sides.values())), "Dog!" in sum(sides.values(), [])
        ([1, 1, 1], False)
    """
    distinct: dict[str, str] = {}
    for text in texts:
        distinct.setdefault(fold(text), text)
    chosen = [distinct[key] for key in sorted(distinct)]
    order = np.random.default_rng(seed).permutation(len(chosen))[:most]
    if len(order) <= 2 * held_out:
        raise ValueError(f"{2 * held_out} texts are to be held out, but there are {len(order)}, of which some must be left.")
    places = {"test": order[:held_out], "validation": order[held_out : 2 * held_out], "train": order[2 * held_out :]}
    return {side: [chosen[place] for place in places[side]] for side in SIDES}


def find_like(texts: Sequence[str], held_out: Iterable[str], *, least_overlap: float = 0.8, fewest_words: int = 4) -> set[int]:
    """Which texts give away one that is held out: they hold its words in a row, or nearly the same words and no others.

    Args:
        texts: The texts.
        held_out: Those that they must not give away; shorter ones than `fewest_words` are looked for as whole texts alone.
        least_overlap: From which share of all words of both that are in both on two texts are nearly the same.
        fewest_words: How many words in a row are more than chance.

    Returns:
        Their places.

    Example:
        >>> texts = ["Brasslike: resembling the sound of brass.", "a sound of bells", "Resembling the sound of a brass."]
        >>> sorted(find_like(texts, ["resembling the sound of brass"]))
        [0, 2]
    """
    folded = [fold_words(text).split() for text in texts]
    counts = Counter(word for words in folded for word in set(words))
    rarest: dict[str, list[list[str]]] = defaultdict(list)
    whole = set()
    for text in held_out:
        words = fold_words(text).split()
        whole.add(tuple(words))
        # Nearly the same words can lack some: one more of the rarest than those leads to the text.
        distinct = sorted(set(words), key=lambda word: (counts[word], word))
        if len(words) >= fewest_words:
            for word in distinct[: 1 + int(1e-9 + (1 - least_overlap) / least_overlap * len(distinct))]:
                rarest[word].append(words)
    found = set()
    for place, words in enumerate(folded):
        own, line = set(words), f" {' '.join(words)} "
        for others in (others for word in own for others in rarest.get(word, ())):
            shared = len(own.intersection(others))
            if f" {' '.join(others)} " in line or shared >= least_overlap * (len(own) + len(set(others)) - shared):
                found.add(place)
                break
        if tuple(words) in whole:
            found.add(place)
    return found


def write_table(path: Path, columns: Mapping[str, Sequence[Any]]) -> str:
    """Write columns into a .tsv or .parquet file, which is there whole or not at all; its path.

    Columns of a .tsv file are texts; a tab or a line's end in one is refused, since it would part it.

    Raises:
        ValueError: for such a text.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.unfinished")
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        # A column that is an array of vectors, (rows, size), becomes lists.
        arrays = {
            name: pa.array(list(values) if isinstance(values, np.ndarray) else values) for name, values in columns.items()
        }
        pq.write_table(pa.table(arrays), unfinished)
    else:
        lines = ["\t".join(row) for row in zip(*columns.values(), strict=True)]
        parted = next((line for line in lines if line.count("\t") >= len(columns) or len(line.splitlines()) > 1), None)
        if parted is not None:
            raise ValueError(f"A row of {path.name} holds a tab or a line's end: {parted!r:.80}.")
        unfinished.write_text("\n".join(["\t".join(columns), *lines]) + "\n", encoding="utf-8")
    os.replace(unfinished, path)
    return str(path)


def read_column(path: Path, name: str) -> list[str]:
    """A column of a .tsv file that [`write_table`] wrote."""
    names, *lines = (line.split("\t") for line in path.read_text(encoding="utf-8").splitlines())
    place = names.index(name)
    return [line[place] for line in lines]


__all__ = ["SIDES", "find_like", "fold_words", "read_column", "split_texts", "write_table"]

"""N-gram models with modified Kneser-Ney smoothing: what a neural language model has to beat.

Legend: tokens (running tokens of a text), types (distinct n-grams of one length).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass
class _Level:
    """The n-grams of one length.

    Attributes:
        keys: Place of the first n - 1 tokens among their types, times the vocabulary, plus the last token; sorted. (types,)
        shares: What of the probability comes from the n-gram itself. (types,)
        left: What of it is left to the shorter context, for each context. (types of n - 1,)
    """

    keys: np.ndarray
    shares: np.ndarray
    left: np.ndarray


@dataclass
class _Counts:
    """The n-grams of one length, counted.

    Attributes:
        keys: As a level has them.
        counts: How often each counts.
        starts: Whether it begins with a start token.
    """

    keys: np.ndarray
    counts: np.ndarray
    starts: np.ndarray


class KneserNeyModel:
    """Interpolated n-gram model with modified Kneser-Ney smoothing (Chen & Goodman 1998, section 3.3).

    Below the unigrams stands the uniform distribution, so every token of the vocabulary has a probability.

    Args:
        tokens: The training text as token ids, (tokens,).
        order: The longest n-gram.
        vocab_size: Tokens of the vocabulary.
        discounts: What is taken from counts of 1, of 2, and of 3 or more; left out, estimated at each length by the counts of
            counts (equations 26), or 0.5, 1 and 1.5 where a text is too small for that.
        start_token: A token that begins each of several texts, which then know nothing of each other: contexts go back to it
            and no further, and it is never predicted. Since nothing comes before it, n-grams that begin with it count as often
            as they occur, as in SRILM.

    Raises:
        ValueError: if every text is shorter than the order, one holds a token outside the vocabulary, or the first does not
            begin with the start token.

    Example:
        >>> model = KneserNeyModel([0, 1, 0, 1, 0, 2], order=2, vocab_size=3, discounts=(0.5, 0.5, 0.5))
        >>> float(np.exp(model.score([0, 1])[1]).round(4))
        0.6111
    """

    def __init__(
        self,
        tokens: np.ndarray | list[int],
        *,
        order: int,
        vocab_size: int,
        discounts: tuple[float, float, float] | None = None,
        start_token: int | None = None,
    ) -> None:
        self._vocab_size, self._start = vocab_size, start_token
        tokens = self._check(tokens)
        before = self._count_before(tokens)
        longest = int(before.max(initial=-1)) + 1
        if not 1 <= order <= longest:
            where = "the text" if start_token is None else "the longest text, its start and end among them"
            raise ValueError(f"order must be 1 to the {longest:,} tokens of {where}, got {order}.")
        counted: list[_Counts] = []
        ending = np.zeros(len(tokens), dtype=np.int64)  # The place of the n-gram that ends at each position.
        for length in range(1, order + 1):
            positions = np.flatnonzero(before >= length - 1)
            contexts = ending[positions - 1] if counted else np.zeros(len(positions), dtype=np.int64)
            keys, firsts, of_position, counts = np.unique(
                contexts * vocab_size + tokens[positions], return_index=True, return_inverse=True, return_counts=True
            )
            firsts = positions[firsts]
            if counted:
                # A shorter n-gram counts how many different tokens it follows, not how often it occurs.
                shorter = counted[-1]
                spread = np.bincount(ending[firsts], minlength=len(shorter.keys))
                shorter.counts = np.where(shorter.starts, shorter.counts, spread)
            starts = (before[firsts] == length - 1) & (start_token is not None)
            counted.append(_Counts(keys, counts, starts))
            ending = np.full(len(tokens), -1, dtype=np.int64)
            ending[positions] = of_position
        counted[0].counts[counted[0].starts] = 0  # A start is a context alone.
        self._levels = []
        contexts_known = 1
        for found in counted:
            self._levels.append(_smooth(found.keys, found.counts, contexts_known, vocab_size, discounts))
            contexts_known = len(found.keys)

    def score(self, tokens: np.ndarray | list[int]) -> np.ndarray:
        """The log-probability of each token after those before it, in nats, (tokens,).

        The first ones have shorter contexts. A start token has no probability, and the logarithm 0.
        """
        tokens = self._check(tokens)
        probabilities = self._uniform[tokens]
        before = self._count_before(tokens)
        contexts = np.zeros(len(tokens), dtype=np.int64)
        for length, level in enumerate(self._levels, 1):
            probabilities, places = self._refine(level, contexts, tokens, probabilities)
            contexts = np.concatenate([[-1], places[:-1]])
            contexts[before < length] = -1
        return np.log(np.where(tokens == self._start, 1.0, probabilities))

    def predict(self, contexts: np.ndarray) -> np.ndarray:
        """The probability of each token after what came before.

        Args:
            contexts: Token ids, (rows, length); a start token can only be the first.

        Returns:
            (rows, vocab).
        """
        contexts = np.asarray(contexts, dtype=np.int64)
        probabilities = np.repeat(self._uniform[None], len(contexts), axis=0)
        following = np.arange(self._vocab_size)[None]
        for length, level in enumerate(self._levels[: contexts.shape[1] + 1]):
            places = np.zeros(len(contexts), dtype=np.int64)
            for shorter, column in zip(self._levels, contexts[:, contexts.shape[1] - length :].T, strict=False):
                _, places = self._refine(shorter, places, column, np.zeros(len(places)))
            probabilities, _ = self._refine(level, places[:, None], following, probabilities)
        return probabilities

    def _refine(
        self, level: _Level, contexts: np.ndarray, tokens: np.ndarray, probabilities: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities with what a level knows, and the places of its n-grams; -1 for a context or n-gram that it has not."""
        keys = contexts * self._vocab_size + tokens
        places = np.minimum(np.searchsorted(level.keys, keys), len(level.keys) - 1)
        known = contexts >= 0
        found = (level.keys[places] == keys) & known
        shares = np.where(found, level.shares[places], 0.0)
        return np.where(known, shares + level.left[contexts] * probabilities, probabilities), np.where(found, places, -1)

    @property
    def _uniform(self) -> np.ndarray:
        """The distribution below the unigrams, (vocab,)."""
        if self._start is None:
            return np.full(self._vocab_size, 1.0 / self._vocab_size)
        return np.where(np.arange(self._vocab_size) == self._start, 0.0, 1.0 / (self._vocab_size - 1))

    def _count_before(self, tokens: np.ndarray) -> np.ndarray:
        """How many tokens of the same text stand before each, (tokens,)."""
        places = np.arange(len(tokens))
        if self._start is None or not len(tokens):
            return places
        if tokens[0] != self._start:
            raise ValueError(f"Texts must begin with the start token {self._start}, got {tokens[0]}.")
        return places - np.maximum.accumulate(np.where(tokens == self._start, places, 0))

    def _check(self, tokens: np.ndarray | list[int]) -> np.ndarray:
        tokens = np.asarray(tokens, dtype=np.int64)
        if len(tokens) and not 0 <= tokens.min() <= tokens.max() < self._vocab_size:
            raise ValueError(f"Tokens must be 0 to {self._vocab_size - 1}, got {tokens.min()} to {tokens.max()}.")
        return tokens


def _smooth(
    keys: np.ndarray,
    counts: np.ndarray,
    contexts: int,
    vocab_size: int,
    discounts: tuple[float, float, float] | None,
) -> _Level:
    discount = np.array([0.0, *(_estimate_discounts(counts) if discounts is None else discounts)])[np.minimum(counts, 3)]
    prefixes = keys // vocab_size
    totals = np.bincount(prefixes, weights=counts, minlength=contexts)
    taken = np.bincount(prefixes, weights=discount, minlength=contexts)
    seen = totals > 0
    left = np.divide(taken, totals, out=np.ones(contexts), where=seen)
    shares = np.divide(counts - discount, totals[prefixes], out=np.zeros(len(keys)), where=seen[prefixes])
    return _Level(keys, shares, left)


def _estimate_discounts(counts: np.ndarray) -> tuple[float, float, float]:
    one, two, three, four = (int((counts == count).sum()) for count in (1, 2, 3, 4))
    if not (one and two and three and four):
        return 0.5, 1.0, 1.5
    ratio = one / (one + 2 * two)
    estimated = (1 - 2 * ratio * two / one, 2 - 3 * ratio * three / two, 3 - 4 * ratio * four / three)
    return estimated if all(0 <= value <= count for count, value in enumerate(estimated, 1)) else (0.5, 1.0, 1.5)


class CharacterNgrams:
    """Texts as a distribution over their characters by n-grams; each text ends, and knows nothing of the others.

    Args:
        texts: What to learn from.
        order: The longest n-gram, the start and the end of a text counted as characters.
        alphabet: The characters that there are; those of the texts if left out.
        discounts: As [`KneserNeyModel`] takes them.

    Raises:
        ValueError: for a text with a character outside the alphabet, or if all are shorter than the order.
    """

    _START, _END = 0, 1

    def __init__(
        self,
        texts: Iterable[str],
        *,
        order: int,
        alphabet: Iterable[str] | None = None,
        discounts: tuple[float, float, float] | None = None,
    ) -> None:
        texts = list(texts)
        self.alphabet = sorted(set(alphabet) if alphabet is not None else {one for text in texts for one in text})
        self._ids = {character: place for place, character in enumerate(self.alphabet, 2)}
        vocab_size = len(self.alphabet) + 2
        self.model = KneserNeyModel(
            self._encode(texts), order=order, vocab_size=vocab_size, discounts=discounts, start_token=self._START
        )
        self._order = order

    def log_prob(self, texts: Sequence[str]) -> np.ndarray:
        """The log-probability of each text with its end, in nats, (texts,)."""
        if not texts:
            return np.zeros(0)
        starts = np.cumsum([0, *(len(text) + 2 for text in texts[:-1])])
        return np.add.reduceat(self.model.score(self._encode(texts)), starts)

    def sample(self, count: int, generator: np.random.Generator, *, max_length: int) -> list[str]:
        """Draw texts; one that does not end by itself is cut.

        Args:
            count: How many.
            generator: What draws.
            max_length: The most characters of a text.
        """
        drawn = np.full((count, 1), self._START)
        for _ in range(max_length):
            probabilities = self.model.predict(drawn[:, -(self._order - 1) :] if self._order > 1 else drawn[:, :0])
            ends = probabilities.cumsum(axis=1)
            chosen = (ends < generator.random((count, 1)) * ends[:, -1:]).sum(axis=1)
            drawn = np.concatenate([drawn, chosen[:, None]], axis=1)
        return ["".join(self.alphabet[token - 2] for token in _cut(row[1:], self._END)) for row in drawn.tolist()]

    def _encode(self, texts: Iterable[str]) -> np.ndarray:
        try:
            return np.array([token for text in texts for token in (self._START, *map(self._ids.__getitem__, text), self._END)])
        except KeyError as error:
            raise ValueError(f"The character {error.args[0]!r} is not in the alphabet {''.join(self.alphabet)!r}.") from error


def _cut(tokens: list[int], end: int) -> list[int]:
    return tokens[: tokens.index(end)] if end in tokens else tokens


__all__ = ["CharacterNgrams", "KneserNeyModel"]

"""N-gram models with modified Kneser-Ney smoothing: what a neural language model has to beat.

Legend: tokens (running tokens of a text), types (distinct n-grams of one length).
"""

from __future__ import annotations

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


class KneserNeyModel:
    """Interpolated n-gram model with modified Kneser-Ney smoothing (Chen & Goodman 1998, section 3.3).

    Below the unigrams stands the uniform distribution, so every token of the vocabulary has a probability.

    Args:
        tokens: The training text as token ids, (tokens,).
        order: The longest n-gram.
        vocab_size: Tokens of the vocabulary.
        discounts: What is taken from counts of 1, of 2, and of 3 or more; left out, estimated at each length by the counts of
            counts (equations 26), or 0.5, 1 and 1.5 where a text is too small for that.

    Raises:
        ValueError: if the text is shorter than the order, or holds a token outside the vocabulary.

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
    ) -> None:
        tokens = self._check(tokens, vocab_size)
        if not 1 <= order <= len(tokens):
            raise ValueError(f"order must be 1 to the {len(tokens):,} tokens of the text, got {order}.")
        self._vocab_size = vocab_size
        counted: list[tuple[np.ndarray, np.ndarray]] = []
        places = np.zeros(len(tokens) + 1, dtype=np.int64)  # Of the n-gram that ends before each position.
        for length in range(1, order + 1):
            keys, ends, of_token, counts = np.unique(
                places[:-1][length - 1 :] * vocab_size + tokens[length - 1 :],
                return_index=True,
                return_inverse=True,
                return_counts=True,
            )
            if counted:
                # A shorter n-gram counts how many different tokens it follows, not how often it occurs.
                suffixes = places[1:][ends + length - 1]
                counted[-1] = (counted[-1][0], np.bincount(suffixes, minlength=len(counted[-1][0])))
            counted.append((keys, counts))
            places[1:][: length - 1] = -1
            places[1:][length - 1 :] = of_token
        self._levels = []
        contexts = 1
        for keys, counts in counted:
            self._levels.append(_smooth(keys, counts, contexts, vocab_size, discounts))
            contexts = len(keys)

    def score(self, tokens: np.ndarray | list[int]) -> np.ndarray:
        """The log-probability of each token after those before it, in nats, (tokens,); the first ones have shorter contexts."""
        tokens = self._check(tokens, self._vocab_size)
        probabilities = np.full(len(tokens), 1.0 / self._vocab_size)
        contexts = np.zeros(len(tokens), dtype=np.int64)
        for level in self._levels:
            keys = contexts * self._vocab_size + tokens
            places = np.minimum(np.searchsorted(level.keys, keys), len(level.keys) - 1)
            found = (level.keys[places] == keys) & (contexts >= 0)
            known = contexts >= 0
            shares = np.where(found, level.shares[places], 0.0)
            probabilities = np.where(known, shares + level.left[contexts] * probabilities, probabilities)
            contexts = np.concatenate([[-1], np.where(found, places, -1)[:-1]])
        return np.log(probabilities)

    @staticmethod
    def _check(tokens: np.ndarray | list[int], vocab_size: int) -> np.ndarray:
        tokens = np.asarray(tokens, dtype=np.int64)
        if len(tokens) and not 0 <= tokens.min() <= tokens.max() < vocab_size:
            raise ValueError(f"Tokens must be 0 to {vocab_size - 1}, got {tokens.min()} to {tokens.max()}.")
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


__all__ = ["KneserNeyModel"]

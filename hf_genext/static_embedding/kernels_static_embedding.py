"""Compiled loops that learn word vectors on a processor: skip-gram and CBOW with negative sampling, with subwords or without.

One pass over a piece of text, as word2vec makes it (Mikolov et al. 2013): frequent words are left out at random, the window of
each word has a random reach, the rates come down from word to word. Two things differ. The random words that a word is told
from are drawn once and serve all its neighbours (Ji et al. 2016), so that their vectors stay in the cache. And a word's
subword vector is put together once for a sentence, not once for each neighbour; what it learned goes back to its parts at the
sentence's end.

Nothing of Transformers is touched here; numba compiles each loop for the size of the vectors when it is first run, and keeps
what it compiled on disk.

Legend: words, size (of a vector), buckets (rows of hashed n-grams), tokens (running words of the text).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

try:
    from numba import njit
except ImportError as error:  # pragma: no cover
    raise ImportError(
        "The compiled training of word vectors needs numba: pip install 'hf_genext[embedding]'. Or choose engine=\"torch\"."
    ) from error

MAX_SENTENCE = 1_000
"""Longer lines are parted, in words."""

SIGMOID_RANGE, SIGMOID_STEPS = 8.0, 4_096
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_FAST = {"reassoc", "nsz", "arcp", "contract", "afn"}
"""Sums may be made in any order; what is no number stays what it is, or vectors that diverge would read outside of tables."""
_HALF, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)
_SHIFT_1, _SHIFT_2, _SHIFT_3 = np.uint64(30), np.uint64(27), np.uint64(31)


def tabulate_sigmoid() -> np.ndarray:
    """The logistic function and minus its logarithm, from -8 to 8: (2, steps)."""
    scores = (np.arange(SIGMOID_STEPS + 1) / SIGMOID_STEPS * 2.0 - 1.0) * SIGMOID_RANGE
    return np.stack([1.0 / (1.0 + np.exp(-scores)), np.log1p(np.exp(-scores))]).astype(np.float32)


def build_alias_table(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tables from which a word is drawn in constant time, in proportion to its weight (Vose 1991).

    Args:
        weights: (words,), not negative, with a positive sum.

    Returns:
        For each place the share of draws that stay there, in units of 2^-32, and where the others go; each (words,).
    """
    count = len(weights)
    shares = np.asarray(weights, dtype=np.float64) * (count / np.sum(weights, dtype=np.float64))
    others = np.arange(count, dtype=np.int32)
    small = [int(place) for place in np.flatnonzero(shares < 1.0)]
    large = [int(place) for place in np.flatnonzero(shares >= 1.0)]
    while small and large:
        low, high = small.pop(), large[-1]
        others[low] = high
        shares[high] -= 1.0 - shares[low]
        if shares[high] < 1.0:
            small.append(large.pop())
    for place in small + large:
        shares[place] = 1.0
    return np.minimum(shares * 2.0**32, 2.0**32 - 1).astype(np.uint32), others


@njit(inline="always")
def _mix(state: Any) -> Any:
    """The output function of SplitMix64 (Steele et al. 2014)."""
    mixed = (state ^ (state >> _SHIFT_1)) * _MIX_1
    mixed = (mixed ^ (mixed >> _SHIFT_2)) * _MIX_2
    return mixed ^ (mixed >> _SHIFT_3)


@functools.cache
def build_kernel(size: int, num_negatives: int, objective: str, has_subwords: bool) -> Callable[..., None]:
    """The loop for vectors of one size; compiled when it is first called.

    Args:
        size: Size of the vectors.
        num_negatives: Random words for each word.
        objective: `"skip_gram"` or `"cbow"`.
        has_subwords: Whether a word's vector is the mean of its own row and those of its n-grams.

    Returns:
        `train(ids, places, rows, ngram_rows, ngram_starts, ngrams, outputs, keep, shares, others, table, window, rate,
        end_rate, seed, totals)`, which changes `rows` (words, size), `ngram_rows` (buckets, size) and `outputs` (words, size)
        in place, and adds to `totals` the loss in nats, the number of predictions it stands for, and the tokens seen. `ids`
        (tokens,) are looked up in `places`; `keep` (words,) is the share of a word's tokens that stay, in units of 2^-32;
        `shares` and `others` are of [`build_alias_table`], `table` is of [`tabulate_sigmoid`]. It lets other threads run.
    """
    num_outputs = num_negatives + 1
    is_cbow = objective == "cbow"
    scale = np.float32(SIGMOID_STEPS / (2.0 * SIGMOID_RANGE))
    limit = np.float32(SIGMOID_RANGE - 1e-3)
    offset, last_bin = np.float32(SIGMOID_RANGE), np.int32(SIGMOID_STEPS)
    zero, one, half = np.float32(0.0), np.float32(1.0), np.float32(0.5)
    capacity = MAX_SENTENCE

    @njit(fastmath=_FAST, nogil=True, boundscheck=False, error_model="numpy", cache=True)
    def train(
        ids: np.ndarray,
        places: np.ndarray,
        rows: np.ndarray,
        ngram_rows: np.ndarray,
        ngram_starts: np.ndarray,
        ngrams: np.ndarray,
        outputs: np.ndarray,
        keep: np.ndarray,
        shares: np.ndarray,
        others: np.ndarray,
        table: np.ndarray,
        window: int,
        rate: float,
        end_rate: float,
        seed: np.uint64,
        totals: np.ndarray,
    ) -> None:
        num_words = np.uint64(outputs.shape[0])
        state = np.uint64(seed)
        sentence = np.empty(capacity, np.int32)
        reach = np.empty(capacity, np.int32)
        inputs = np.empty(capacity, np.int32)
        drawn = np.empty(num_outputs, np.int32)
        score = np.empty(num_outputs, np.float32)
        step = np.empty(num_outputs, np.float32)
        local_outputs = np.zeros((num_outputs, size), np.float32)
        mean = np.empty(size, np.float32)
        change = np.empty(size, np.float32)
        composed = np.empty((capacity if has_subwords else 1, size), np.float32)
        begun = np.empty((capacity if has_subwords else 1, size), np.float32)
        vectors = composed if has_subwords else rows
        loss, pairs, seen = 0.0, 0, 0
        length = len(ids)
        position = 0
        while position < length:
            # One sentence.
            count = 0
            now = np.float32(rate + (end_rate - rate) * (position / length))
            while position < length and count < capacity:
                place = places[ids[position]]
                position += 1
                if place == -2:
                    break
                seen += 1
                if place >= 0:
                    state += _GOLDEN
                    random = _mix(state)
                    if np.uint32(random >> _HALF) <= keep[place]:
                        sentence[count] = place
                        reach[count] = np.int32(1 + (((random & _LOW) * np.uint64(window)) >> _HALF))
                        inputs[count] = count if has_subwords else place
                        count += 1
            if count < 2:
                continue
            if has_subwords:
                for index in range(count):
                    place = sentence[index]
                    for axis in range(size):
                        composed[index, axis] = rows[place, axis]
                    start, stop = ngram_starts[place], ngram_starts[place + 1]
                    for entry in range(start, stop):
                        ngram = ngrams[entry]
                        for axis in range(size):
                            composed[index, axis] += ngram_rows[ngram, axis]
                    share = one / np.float32(1 + stop - start)
                    for axis in range(size):
                        composed[index, axis] *= share
                        begun[index, axis] = composed[index, axis]
            for index in range(count):
                drawn[0] = sentence[index]
                for k in range(1, num_outputs):
                    state += _GOLDEN
                    random = _mix(state)
                    other = np.int32(((random >> _HALF) * num_words) >> _HALF)
                    if np.uint32(random & _LOW) > shares[other]:
                        other = others[other]
                    for earlier in range(k):
                        if drawn[earlier] == other:
                            other = np.int32(-1)
                    drawn[k] = other
                # Their vectors are kept beside each other while the neighbours are told apart from them.
                for k in range(num_outputs):
                    if drawn[k] >= 0:
                        for axis in range(size):
                            local_outputs[k, axis] = outputs[drawn[k], axis]
                first = max(0, index - reach[index])
                last = min(count, index + reach[index] + 1)
                is_counted = index % 16 == 0
                if is_cbow:
                    for axis in range(size):
                        mean[axis] = zero
                    for neighbour in range(first, last):
                        if neighbour != index:
                            row = inputs[neighbour]
                            for axis in range(size):
                                mean[axis] += vectors[row, axis]
                    share = one / np.float32(last - first - 1)
                    for axis in range(size):
                        mean[axis] *= share
                for neighbour in range(first, first + 1 if is_cbow else last):
                    if not is_cbow and neighbour == index:
                        continue
                    row = inputs[neighbour]
                    for k in range(num_outputs):
                        product = zero
                        if is_cbow:
                            for axis in range(size):
                                product += mean[axis] * local_outputs[k, axis]
                        else:
                            for axis in range(size):
                                product += vectors[row, axis] * local_outputs[k, axis]
                        score[k] = product
                    for k in range(num_outputs):
                        product = min(max(score[k], -limit), limit)
                        bin_of_score = min(max(np.int32((product + offset) * scale + half), np.int32(0)), last_bin)
                        target = one if k == 0 else zero
                        step[k] = (target - table[0, bin_of_score]) * now
                        if drawn[k] < 0:
                            step[k] = zero
                        elif is_counted:
                            # What is no number shows in the loss.
                            loss += table[1, bin_of_score if k == 0 else last_bin - bin_of_score] + score[k] * zero
                    pairs += is_counted
                    if is_cbow:
                        for axis in range(size):
                            value = mean[axis]
                            total = zero
                            for k in range(num_outputs):
                                output = local_outputs[k, axis]
                                total += step[k] * output
                                local_outputs[k, axis] = output + step[k] * value
                            change[axis] = total
                    else:
                        for axis in range(size):
                            value = vectors[row, axis]
                            total = value
                            for k in range(num_outputs):
                                output = local_outputs[k, axis]
                                total += step[k] * output
                                local_outputs[k, axis] = output + step[k] * value
                            vectors[row, axis] = total
                if is_cbow:
                    # Each neighbour takes the whole step, as in word2vec: its rates are tuned to that.
                    for neighbour in range(first, last):
                        if neighbour != index:
                            row = inputs[neighbour]
                            for axis in range(size):
                                vectors[row, axis] += change[axis]
                for k in range(num_outputs):
                    if drawn[k] >= 0:
                        for axis in range(size):
                            outputs[drawn[k], axis] = local_outputs[k, axis]
            if has_subwords:
                # A row that is one of n in a mean takes the whole step, as in fastText.
                for index in range(count):
                    place = sentence[index]
                    for axis in range(size):
                        begun[index, axis] = composed[index, axis] - begun[index, axis]
                        rows[place, axis] += begun[index, axis]
                    for entry in range(ngram_starts[place], ngram_starts[place + 1]):
                        ngram = ngrams[entry]
                        for axis in range(size):
                            ngram_rows[ngram, axis] += begun[index, axis]
        totals[0] += loss
        totals[1] += pairs
        totals[2] += seen

    return train


__all__ = ["MAX_SENTENCE", "build_alias_table", "build_kernel", "tabulate_sigmoid"]

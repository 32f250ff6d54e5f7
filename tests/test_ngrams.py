"""Kneser-Ney n-gram models beside their definition, written out."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from recipes.ngrams import KneserNeyModel

VOCAB_SIZE = 6


def draw_text(count, seed):
    """Tokens, some frequent; the last one of the vocabulary never comes."""
    return np.random.default_rng(seed).choice(VOCAB_SIZE - 1, count, p=[0.4, 0.3, 0.15, 0.1, 0.05])


def write_out(tokens, order, discounts):
    """The probability of a token after others, by the recursion of Chen & Goodman."""
    grams = {length: Counter(zip(*(tokens[start:] for start in range(length)), strict=False)) for length in range(1, order + 1)}
    counts = {order: grams[order]}
    for length in range(1, order):
        counts[length] = Counter(gram[1:] for gram in grams[length + 1])

    def discount(count):
        return 0.0 if count == 0 else discounts[min(count, 3) - 1]

    def probability(token, context):
        context = context[len(context) - order + 1 :] if len(context) >= order else context
        level = counts[len(context) + 1]
        shorter = probability(token, context[1:]) if context else 1 / VOCAB_SIZE
        following = [count for gram, count in level.items() if gram[:-1] == context]
        if not following:
            return shorter
        count = level[(*context, token)]
        left = sum(map(discount, following)) / sum(following)
        return (count - discount(count)) / sum(following) + left * shorter

    return probability


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_probabilities_are_those_of_the_definition(order):
    tokens, text, discounts = draw_text(400, 0).tolist(), draw_text(60, 1).tolist(), (0.4, 0.9, 1.3)
    text[20] = VOCAB_SIZE - 1  # Never seen.
    found = KneserNeyModel(tokens, order=order, vocab_size=VOCAB_SIZE, discounts=discounts).score(text)
    probability = write_out(tokens, order, discounts)
    expected = [math.log(probability(token, tuple(text[:place]))) for place, token in enumerate(text)]
    assert found == pytest.approx(expected, abs=1e-12)


def test_discounts_are_estimated_from_the_counts_of_counts():
    tokens = draw_text(3000, 2).tolist()
    counts = Counter(zip(*(tokens[start:] for start in range(4)), strict=False)).values()
    one, two, three, four = (sum(count == wanted for count in counts) for wanted in (1, 2, 3, 4))
    ratio = one / (one + 2 * two)
    estimated = (1 - 2 * ratio * two / one, 2 - 3 * ratio * three / two, 3 - 4 * ratio * four / three)
    model = KneserNeyModel(tokens, order=4, vocab_size=VOCAB_SIZE)
    # The weight that is left of a context which comes once is the discount of one.
    contexts = Counter(zip(*(tokens[start:] for start in range(3)), strict=False))
    once = [gram for gram, count in contexts.items() if count == 1 and tokens[-3:] != list(gram)]
    assert once
    left = model._levels[-1].left
    assert np.isclose(left, estimated[0]).sum() >= len(once)


def test_every_context_leaves_a_distribution():
    model = KneserNeyModel(draw_text(200, 3), order=3, vocab_size=VOCAB_SIZE)
    for context in ([0, 1], [4, 4], [5, 5], [5, 0], []):
        total = sum(math.exp(model.score([*context, token])[-1]) for token in range(VOCAB_SIZE))
        assert total == pytest.approx(1.0, abs=1e-12)


def test_longer_contexts_help_where_the_text_repeats():
    text = [0, 1, 2, 3, 4] * 40
    unigrams, bigrams = (-KneserNeyModel(text, order=order, vocab_size=VOCAB_SIZE).score(text)[1:].mean() for order in (1, 2))
    assert unigrams > 5 * bigrams > 0


@pytest.mark.parametrize(
    ("tokens", "order", "message"),
    [
        ([0, 1], 3, "order must be 1 to the 2 tokens"),
        ([0, 6], 1, "Tokens must be 0 to 5, got 0 to 6"),
        ([0], 0, "order must be"),
    ],
)
def test_texts_that_cannot_be_counted_are_refused(tokens, order, message):
    with pytest.raises(ValueError, match=message):
        KneserNeyModel(tokens, order=order, vocab_size=VOCAB_SIZE)

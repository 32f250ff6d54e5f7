"""Kneser-Ney n-gram models beside their definition, written out."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from recipes.ngrams import CharacterNgrams, KneserNeyModel

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


def test_an_order_that_no_text_is_as_long_as_is_refused():
    assert CharacterNgrams(["ab", "b"], order=4).log_prob(["ab"]) < 0.0
    for texts, order, longest in ((["ab", "b"], 5, 4), (["", ""], 3, 2), ([], 1, 0)):
        with pytest.raises(ValueError, match=f"order must be 1 to the {longest} tokens of the longest text.*, got {order}"):
            CharacterNgrams(texts, order=order)


# Texts that know nothing of each other

TEXTS = ["abab", "abc", "ba", "", "cab", "abab", "bca", "a"]


def write_out_texts(texts, order, discounts, alphabet):
    """The log-probability of a text by the recursion, n-grams counted text by text; "^" starts and "$" ends one."""
    rows = [("^", *text, "$") for text in texts]
    grams = {
        length: Counter(row[start : start + length] for row in rows for start in range(len(row) - length + 1))
        for length in range(1, order + 1)
    }
    counts = {order: grams[order]}
    for length in range(1, order):
        counts[length] = Counter(gram[1:] for gram in grams[length + 1])
        counts[length].update({gram: count for gram, count in grams[length].items() if gram[0] == "^"})
    counts[1].pop(("^",))
    tokens = [*alphabet, "$"]

    def discount(count):
        return 0.0 if count == 0 else discounts[min(count, 3) - 1]

    def probability(token, context):
        shorter = probability(token, context[1:]) if context else 1 / len(tokens)
        following = {gram: count for gram, count in counts[len(context) + 1].items() if gram[:-1] == context}
        if not following:
            return shorter
        count, total = following.get((*context, token), 0), sum(following.values())
        return (count - discount(count)) / total + sum(map(discount, following.values())) / total * shorter

    def score(text):
        row = ("^", *text, "$")
        return sum(math.log(probability(row[place], row[max(0, place - order + 1) : place])) for place in range(1, len(row)))

    return score


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_texts_have_the_probabilities_of_the_definition_and_no_past_beyond_their_start(order):
    model = CharacterNgrams(TEXTS, order=order, alphabet="abcd", discounts=(0.4, 0.9, 1.3))
    expected = write_out_texts(TEXTS, order, (0.4, 0.9, 1.3), "abcd")
    asked = ["ab", "", "dab", "abcabc", "ba"]
    assert model.log_prob(asked) == pytest.approx([expected(text) for text in asked], abs=1e-12)
    assert model.log_prob(asked[::-1]) == pytest.approx(model.log_prob(asked)[::-1], abs=1e-12)
    with pytest.raises(ValueError, match="'e' is not in the alphabet 'abcd'"):
        model.log_prob(["e"])
    with pytest.raises(ValueError, match="must begin with the start token 0, got 2"):
        model.model.score([2, 1])


def test_drawn_texts_are_as_frequent_as_they_are_likely():
    model = CharacterNgrams(TEXTS, order=3)
    drawn = Counter(model.sample(20_000, np.random.default_rng(0), max_length=30))
    likely = ["ab", "abab", "a", "abc", "cab", "ba", ""]
    expected = np.exp(model.log_prob(likely)) * 20_000
    counts = np.array([drawn[text] for text in likely])
    rest = 20_000 - np.array([counts.sum(), expected.sum()])
    assert chisquare([*counts, rest[0]], [*expected, rest[1]]).pvalue > 1e-3
    following = model.model.predict(np.array([[0, 2]]))  # After the start and an "a".
    assert following.sum() == pytest.approx(1.0, abs=1e-12) and following[0, 0] == 0.0

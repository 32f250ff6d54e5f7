"""Metrics against brute force and against the libraries that define them."""

from __future__ import annotations

import itertools
import math
import sys

import evaluate
import jiwer
import numpy as np
import pytest
import sacrebleu

from hf_genext.metrics import METRICS, bootstrap_interval, build_metrics


def levenshtein(first, second):
    """Edit distance by the recursion that defines it, in a table."""
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for row, column in itertools.product(range(len(first) + 1), range(len(second) + 1)):
        if row == 0 or column == 0:
            table[row][column] = row + column
        else:
            table[row][column] = min(
                table[row - 1][column] + 1,
                table[row][column - 1] + 1,
                table[row - 1][column - 1] + (first[row - 1] != second[column - 1]),
            )
    return table[-1][-1]


def draw_items(count=60, seed=2):
    generator = np.random.default_rng(seed)

    def text():
        return " ".join(generator.choice(list("ABCD"), generator.integers(1, 7)))

    references = [[text() for _ in range(generator.integers(1, 4))] for _ in range(count)]
    predictions = [text() if generator.random() < 0.6 else str(generator.choice(items)) for items in references]
    return predictions, references


def compute(name, predictions, references):
    return METRICS[name]().compute(predictions=predictions, references=references)[name]


def test_rates_equal_brute_force_over_the_best_reference():
    predictions, references = draw_items()
    for name, split in (("phoneme_error_rate", str.split), ("token_error_rate", str.split), ("character_error_rate", list)):
        edits = length = 0
        for prediction, candidates in zip(predictions, references, strict=True):
            rated = [(levenshtein(split(prediction), split(c)), len(split(c))) for c in candidates]
            best = min(rated, key=lambda pair: (pair[0] / pair[1], -pair[1]))
            edits, length = edits + best[0], length + best[1]
        assert compute(name, predictions, references) == pytest.approx(100 * edits / length, rel=1e-12)
    right = sum(prediction in candidates for prediction, candidates in zip(predictions, references, strict=True))
    assert 5 < right < 55
    assert compute("word_error_rate", predictions, references) == pytest.approx(100 - 100 * right / 60)
    assert compute("exact_match", predictions, references) == pytest.approx(100 * right / 60)
    nearest = [min(levenshtein(p, c) for c in cs) for p, cs in zip(predictions, references, strict=True)]
    assert compute("edit_distance", predictions, references) == pytest.approx(np.mean(nearest))


def test_the_token_rate_with_one_reference_is_jiwers():
    predictions, references = draw_items()
    single = [candidates[0] for candidates in references]
    assert compute("token_error_rate", predictions, single) == pytest.approx(100 * jiwer.wer(single, predictions))


def test_bleu_and_chrf_take_items_with_different_numbers_of_references():
    predictions = ["the cat sat on the mat today", "a dog ran off into the wood"]
    references = [["the cat sat on a mat today", "a cat sat on the mat today"], ["a dog ran away into the wood"]]
    streams = [[references[0][0], references[1][0]], [references[0][1], None]]
    assert compute("bleu", predictions, references) == pytest.approx(sacrebleu.corpus_bleu(predictions, streams).score)
    assert compute("chrf", predictions, references) == pytest.approx(sacrebleu.corpus_chrf(predictions, streams).score)
    assert 0 < compute("bleu", predictions, references) < 100


def test_rouge_takes_the_best_reference():
    scores = METRICS["rouge"]().compute(predictions=["the cat sat", "no"], references=[["a dog", "the cat sat down"], ["yes"]])
    # 3 of 3 words and 3 of 4: F = 6 / 7; 2 of 2 and 2 of 3 word pairs: F = 4 / 5; the second item has nothing.
    assert scores == pytest.approx({"rouge1": 100 * 6 / 14, "rouge2": 40.0, "rougel": 100 * 6 / 14})


def test_token_f1_is_that_of_words_taken_away_one_by_one():
    def score(prediction, candidate):
        given, wanted = (
            ["".join(c for c in w if c.isalnum()) for w in text.lower().split()] for text in (prediction, candidate)
        )
        left, shared = list(wanted), 0
        for word in given:
            if word in left:
                left.remove(word)
                shared += 1
        precision, recall = shared / len(given), shared / len(wanted)
        return 2 * precision * recall / (precision + recall) if shared else 0.0

    generator = np.random.default_rng(3)
    draw = lambda: " ".join(generator.choice(["a", "A", "b.", "(b)", "c", "d,", "e"], generator.integers(1, 8)))  # noqa: E731
    predictions = [draw() for _ in range(80)]
    references = [[draw() for _ in range(generator.integers(1, 4))] for _ in range(80)]
    best = [max(score(p, c) for c in cs) for p, cs in zip(predictions, references, strict=True)]
    assert min(best) < 0.5 and max(best) == 1 and len(set(best)) > 10
    assert compute("token_f1", predictions, references) == pytest.approx(100 * np.mean(best))


def test_token_f1_is_rouge_1_where_the_words_are_plain_and_texts_without_words_are_alike():
    predictions, references = draw_items()
    words = {"A": "cat", "B": "dog", "C": "sun", "D": "oak"}
    plain = [" ".join(words[unit] for unit in text.split()) for text in predictions]
    single = [" ".join(words[unit] for unit in candidates[0].split()) for candidates in references]
    rouge = METRICS["rouge"]().compute(predictions=plain, references=single)["rouge1"]
    assert compute("token_f1", plain, single) == pytest.approx(rouge)
    assert compute("token_f1", ["", "...", "a"], ["--", "a", ""]) == pytest.approx(100 / 3)


def test_metrics_work_added_in_batches_and_combined_without_a_network():
    metric = METRICS["exact_match"]()
    metric.add_batch(predictions=["a", "b"], references=[["a"], ["c"]])
    metric.add(prediction="d", reference=["d", "e"])
    assert metric.compute()["exact_match"] == pytest.approx(200 / 3)
    combined = evaluate.combine([METRICS["exact_match"](), METRICS["edit_distance"]()])
    assert combined.compute(predictions=["ab"], references=[["ac"]]) == {"exact_match": 0.0, "edit_distance": 1.0}


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        (["a", "b"], [["a"]], "2 predictions and 1 references"),
        ([], [], "nothing to compare"),
        (["a", "b"], [["a"], []], "Item 1 has no reference"),
    ],
)
def test_items_that_cannot_be_compared_are_refused(predictions, references, message):
    with pytest.raises(ValueError, match=message):
        METRICS["exact_match"]().compute(predictions=predictions, references=references)


def test_a_single_text_is_not_compared_letter_by_letter():
    with pytest.raises(TypeError, match=r"predictions must be a list, got 'ab'\. Put a single one into a list"):
        METRICS["exact_match"]().compute(predictions="ab", references=["a", "c"])


def test_an_unknown_metric_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no metric 'wer'; known are bleu, .*word_error_rate"):
        build_metrics(["wer"])


def test_the_bootstrap_interval_is_that_of_a_proportion():
    scores = np.array([1.0] * 800 + [0.0] * 200)
    low, high = bootstrap_interval(scores, num_samples=4000)
    half = 1.96 * math.sqrt(0.8 * 0.2 / 1000)
    assert low == pytest.approx(0.8 - half, abs=0.004)
    assert high == pytest.approx(0.8 + half, abs=0.004)
    assert bootstrap_interval([3.0]) == (3.0, 3.0)
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_interval([])


@pytest.mark.parametrize(
    ("name", "module"),
    [("bleu", "sacrebleu"), ("chrf", "sacrebleu"), ("rouge", "rouge_score"), ("phoneme_error_rate", "rapidfuzz")],
)
def test_a_package_that_is_missing_is_told_when_metrics_are_built_and_not_when_they_are_needed(name, module, monkeypatch):
    for known in [known for known in sys.modules if known.partition(".")[0] == module] + [module]:
        monkeypatch.setitem(sys.modules, known, None)
    with pytest.raises(ImportError, match=rf'This metric needs {module}: pip install "hf_genext\[metrics\]"'):
        build_metrics(["exact_match", name])
    assert build_metrics(["exact_match"])(["a"], [["a"]]) == {"exact_match": 100.0}

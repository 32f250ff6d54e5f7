"""The field's tests of word vectors, beside gensim's and scipy's."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import evaluate
import numpy as np
import pytest
import scipy.stats
from gensim.models import KeyedVectors
from gensim.test.utils import datapath

from hf_genext import StaticEmbeddingModel
from hf_genext.word_metrics import SimLex999, WordAnalogies, WordPairs, WordSim353, evaluate_space
from recipes.glove.read_vectors import read_vectors


@pytest.fixture(scope="module")
def glove():
    """GloVe 6B.50d, as our space and as gensim's."""
    words, vectors = read_vectors()
    peer = KeyedVectors(vectors.shape[1])
    peer.add_vectors(words, vectors)
    return StaticEmbeddingModel.from_words(words, vectors, lowercase=True), peer


def build_space(seed=0):
    """A random space of the words of WordSim-353 but five, so that some pairs are not known."""
    words = sorted({word.lower() for first, second, _ in WordSim353().pairs for word in (first, second)})[5:]
    vectors = np.random.default_rng(seed).normal(size=(len(words), 8)).astype(np.float32)
    return StaticEmbeddingModel.from_words(words, vectors, lowercase=True)


def test_glove_has_its_known_scores_and_they_are_gensims(glove):
    space, peer = glove
    for metric, file, known in ((WordSim353(), "wordsim353.tsv", 0.5033), (SimLex999(), "simlex999.txt", 0.2646)):
        scores = metric.compute(space=space)
        name = metric.name_of_result
        assert round(scores[name], 4) == known
        pearson, spearman, _ = peer.evaluate_word_pairs(datapath(file), restrict_vocab=len(peer))
        assert scores[name] == pytest.approx(spearman[0], abs=1e-6)
        assert scores[f"{name}_pearson"] == pytest.approx(pearson[0], abs=1e-6)
        assert (scores[f"{name}_pairs"], scores[f"{name}_out_of_vocabulary"]) == (len(metric.pairs), 0)


def test_analogies_are_answered_as_gensim_does(glove):
    space, peer = glove
    scores = WordAnalogies().compute(space=space, restrict_vocabulary=3000)
    accuracy, sections = peer.evaluate_word_analogies(datapath("questions-words.txt"), restrict_vocab=3000)
    assert scores["analogies"] == pytest.approx(accuracy, abs=1e-3)  # Ties in rounding may differ.
    total = sum(len(questions) for questions in WordAnalogies().questions.values())
    assert scores["analogies_questions"] + scores["analogies_out_of_vocabulary"] == total == 19544
    kinds = {
        kind: [s for s in sections if s["section"].startswith("gram") == (kind == "syntactic") and s["section"][0] != "T"]
        for kind in ("semantic", "syntactic")
    }
    for kind, parts in kinds.items():
        right, wrong = (sum(len(part[side]) for part in parts) for side in ("correct", "incorrect"))
        assert scores[f"analogies_{kind}"] == pytest.approx(right / (right + wrong), abs=1e-3)


def test_pairs_that_are_not_known_are_left_out_and_counted():
    space, metric = build_space(), WordSim353()
    scores = metric.compute(space=space)
    known = [
        (space.similarity(first, second), judgement)
        for first, second, judgement in metric.pairs
        if first in space and second in space
    ]
    assert 300 < len(known) < 353
    expected = scipy.stats.spearmanr(*zip(*known, strict=True)).statistic
    assert scores["wordsim353"] == pytest.approx(expected, abs=1e-9)
    assert (scores["wordsim353_pairs"], scores["wordsim353_out_of_vocabulary"]) == (len(known), 353 - len(known))


def test_columns_give_what_the_space_gives_alone_added_and_combined():
    space, metric = build_space(), WordSim353()
    expected = metric.compute(space=space)
    cosines = [
        space.similarity(first, second) if first in space and second in space else None for first, second, _ in metric.pairs
    ]
    assert WordSim353().compute(predictions=cosines) == expected
    judgements = [judgement for *_, judgement in metric.pairs]
    metric.add_batch(predictions=[math.nan if cosine is None else cosine for cosine in cosines], references=judgements)
    assert metric.compute() == expected
    half = [-value for value in judgements]
    combined = evaluate.combine([WordSim353(), WordPairs(path=metric.path)]).compute(predictions=half, references=judgements)
    assert combined["wordsim353"] == combined["word_pairs"] == pytest.approx(-1.0)


def test_answers_to_analogies_are_compared_as_columns_too(tmp_path):
    path = tmp_path / "questions.txt"
    path.write_text(": family\nman king woman queen\nboy he girl she\n: gram\ncat cats dog dogs\nhat hats bat bats\n")
    scores = WordAnalogies(path=path).compute(predictions=["queen", "him", None, "bats"])
    assert scores == {"analogies": pytest.approx(2 / 3), "analogies_questions": 3, "analogies_out_of_vocabulary": 1}
    # A space where king - man + woman is queen by construction, and nothing is known of cats and hats.
    space = StaticEmbeddingModel.from_words(
        ["man", "king", "woman", "queen", "boy", "he", "girl", "she"],
        np.array(
            [
                *([1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 1, 1, 0]),
                *([0, 0, 0, 1.0], [0.1, 0, 0, 1], [0, 0, 0, -1], [0, 0, 0.5, 1]),
            ]
        ),
    )
    scores = WordAnalogies(path=path).compute(space=space)
    assert scores["analogies_semantic"] == scores["analogies"]
    assert "analogies_syntactic" not in scores
    assert (scores["analogies_questions"], scores["analogies_out_of_vocabulary"]) == (2, 2)
    assert scores["analogies"] == 0.5


def test_ones_own_file_of_pairs_is_read(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("# first\tsecond\tjudgement\n\nsun\tmoon\t7.5\nsun\tviolin\t1\n")
    metric = WordPairs(path=path)
    assert metric.pairs == [("sun", "moon", 7.5), ("sun", "violin", 1.0)]
    space = StaticEmbeddingModel.from_words(["sun", "moon", "violin"], np.array([[1, 0], [0.9, 0.1], [0, 1.0]]))
    assert metric.compute(space=space)["word_pairs"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("build", "content", "message"),
    [
        (WordPairs, "sun\tmoon\n", r"line 1: expected two words and a number, parted by tabs, got 'sun\\tmoon'"),
        (WordPairs, "a\tb\t1\nsun\tmoon\tmuch\n", "line 2: expected two words and a number"),
        (WordAnalogies, ": x\nman king woman\n", "line 2: expected four words"),
        (WordPairs, "sun\tmoon\t3\n", "two known pairs at least, got 0 of 1"),
        (WordAnalogies, "a b c d\n", "none of the 1 questions"),
    ],
)
def test_files_and_spaces_that_cannot_be_tested_are_refused(tmp_path, build, content, message):
    path = tmp_path / "file.txt"
    path.write_text(content)
    space = StaticEmbeddingModel.from_words(["violin", "viola"], np.eye(2))
    with pytest.raises(ValueError, match=message):
        build(path=path).compute(space=space)


def test_columns_of_unequal_length_and_unknown_names_are_refused():
    with pytest.raises(ValueError, match="got 2 predictions and 353 references"):
        WordSim353().compute(predictions=[0.1, 0.2])
    with pytest.raises(ValueError, match="no test of words 'wordsim'; known are wordsim353, simlex999, analogies"):
        evaluate_space(build_space(), ["wordsim"])


def test_without_the_packaged_data_the_error_names_what_to_install(monkeypatch, tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        WordSim353(path=tmp_path / "wordsim.tsv")
    with pytest.raises(ValueError, match=r"WordPairs\(path=...\)"):
        WordPairs()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install gensim"):
        WordSim353()
    assert WordSim353(path=Path(datapath("wordsim353.tsv"))).pairs

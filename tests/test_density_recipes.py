"""Densities and linear models from settings alone, and the recipe word_space by its real command."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA
from transformers import pipeline

from hf_genext.conditions import read_rows, stack_targets
from hf_genext.hub import read_results
from recipes.arguments import SettingsError
from recipes.evaluate import main as evaluate
from recipes.glove.read_vectors import read_vectors
from recipes.train_conditional import main as train
from recipes.word_space import baselines, samples
from recipes.word_space.prepare_data import prepare_data

ROOT = Path(__file__).parents[1]
SMALL = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Rows with a vector, its numbers in columns of their own, a side on which it lies, and a text that says so."""
    folder = tmp_path_factory.mktemp("densities")
    generator = np.random.default_rng(0)
    lines = []
    for row in range(240):
        side = row % 2
        x, y, z = (generator.normal(size=3) @ np.diag([1.0, 0.5, 0.1]) + 4 * side).tolist()
        named = {
            "vector": [x, y, z],
            "x": x,
            "y": y,
            "side": "ab"[side],
            "numbers": [float(side), 0.5 * x, y + x, z, x * y],
        }
        lines.append(json.dumps({**named, "gloss": ("left it is", "right")[side], "same": [x, 1.0]}) + "\n")
    for name, part in (("train", lines[:200]), ("test", lines[200:])):
        (folder / f"{name}.jsonl").write_text("".join(part), encoding="utf-8")
    return folder


def write_settings(folder, name, **settings):
    common = {
        "train_file": [str(folder / "train.jsonl")],
        "validation_size": 30,
        "test_file": [str(folder / "test.jsonl")],
        "target_column": "vector",
        "output_dir": str(folder / name),
        "max_steps": 30,
        "per_device_train_batch_size": 50,
        "per_device_eval_batch_size": 16,
        "learning_rate": 0.01,
        "save_strategy": "no",
        "report_to": "none",
        "num_threads": 1,
        "disable_tqdm": True,
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(common | settings), encoding="utf-8")
    return str(path)


def read_vectors_of(path):
    return np.array([json.loads(line)["vector"] for line in path.read_text(encoding="utf-8").splitlines()])


@pytest.mark.parametrize("kind", ["mixture", "flow", "ppca", "ica"])
def test_a_density_without_conditions_is_trained_scored_and_sampled(folder, kind):
    flow = {"num_transforms": 2, "transform_size": 16, "num_bins": 4}
    head = {"kind": kind, **(flow if kind == "flow" else {"num_components": 2}), **({"num_bins": 4} if kind == "ica" else {})}
    settings = write_settings(folder, kind, conditions={}, encoder={"hidden_size": 4}, head=head)
    train([settings])
    results = read_results(folder / kind / "results.json")
    assert set(results["metrics"]) == {"log_likelihood", "log_likelihood_per_dimension"}
    # Validation rows are told apart by their targets, for they have no condition.
    assert [results["data"][name] for name in ("training_rows", "validation_sources", "test_sources")] == [170, 30, 40]
    pipe = pipeline("conditional-generation", model=str(folder / kind))
    vectors = read_vectors_of(folder / "test.jsonl")
    scores = [answer["score"] for answer in pipe.score([{}] * 40, vectors.tolist(), batch_size=40)]
    assert results["metrics"]["log_likelihood"] == pytest.approx(np.mean(scores), rel=1e-4)
    assert results["metrics"]["log_likelihood_per_dimension"] == pytest.approx(np.mean(scores) / 3, rel=1e-4)
    drawn = pipe(num_samples=16, seed=7)
    assert [len(answer["value"]) for (answer,) in drawn] == [3] * 16
    assert np.isfinite([answer["value"] for (answer,) in drawn]).all()
    words = [settings, "--model", str(folder / kind), "--test_file", str(folder / "test.jsonl")]
    assert evaluate(words)["log_likelihood"] == pytest.approx(np.mean(scores), rel=1e-4)
    config = json.loads((folder / kind / "config.json").read_text())
    assert config["conditioner"]["hidden_size"] == 4
    if kind == "ppca":  # Fitted in closed form, to what scikit-learn finds.
        rows = stack_targets(_split_as_the_recipe(folder))
        assert np.mean(scores) == pytest.approx(PCA(2).fit(rows).score(vectors), rel=1e-4)
        assert config["head"].get("output_means") is None


def _split_as_the_recipe(folder):
    from hf_genext.data import split_by_source

    rows, _ = read_rows(str(folder / "train.jsonl"), [], target_columns=["vector"], output="ppca")
    return split_by_source(rows, 30, seed=0, column="target", key=str)[0]


def test_a_density_depends_on_its_condition_and_its_numbers_may_stand_in_columns(folder):
    head = {"kind": "mixture", "num_components": 2}
    both = {"conditions": {"label": "side"}, "target_columns": ["x", "y"], "head": head}
    train([write_settings(folder, "sides", **both, encoder={"hidden_size": 8}, max_steps=150)])
    pipe = pipeline("conditional-generation", model=str(folder / "sides"))
    for side, centre in (("a", 0.0), ("b", 4.0)):
        drawn = [answer["value"] for answer in pipe({"label": side}, num_return_sequences=200, seed=1)]
        assert np.median(drawn, axis=0) == pytest.approx([centre, centre], abs=1.0)
    assert read_results(folder / "sides" / "results.json")["metrics"]["log_likelihood"] > -4.5


def test_reduce_then_generate_is_one_line(folder):
    settings = {"conditions": {"vector": "numbers"}, "target_column": "gloss", "decoder": SMALL, "metrics": ["exact_match"]}
    train([write_settings(folder, "reduced", **settings, bottleneck={"kind": "linear", "hidden_size": 2}, max_steps=60)])
    rows = [json.loads(line) for line in (folder / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    pipe = pipeline("conditional-generation", model=str(folder / "reduced"))
    found = [answer["generated_text"] for (answer,) in pipe([{"vector": row["numbers"]} for row in rows], batch_size=40)]
    assert np.mean([text == row["gloss"] for text, row in zip(found, rows, strict=True)]) > 0.9
    weights = load_file(folder / "reduced" / "model.safetensors")
    assert weights["encoder.bottleneck.projection"].shape == (2, 5)
    assert pipe.model.config.bottleneck.is_fitted
    # Going on from a model keeps the components that its decoder knows.
    more = write_settings(
        folder, "more", **settings, model=str(folder / "reduced"), max_steps=2, train_file=[str(folder / "test.jsonl")]
    )
    train([more])
    again = load_file(folder / "more" / "model.safetensors")
    assert torch.equal(again["encoder.bottleneck.projection"], weights["encoder.bottleneck.projection"])
    train([write_settings(folder, "plain", **settings, bottleneck="linear", max_steps=2)])
    assert load_file(folder / "plain" / "model.safetensors")["encoder.bottleneck.projection"].shape == (5, 5)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"head": {"kind": "flow"}, "target_column": "same"}, "Number 2 of 2 of the targets is 1 in every row"),
        ({"head": {"kind": "ppca"}, "target_column": "same"}, "Number 2 of 2 of the targets is 1 in every row"),
        ({"head": {"kind": "flow"}, "calibrate": True}, "calibrate has nothing to fit in a head of kind flow"),
        ({"head": {"kind": "flow"}, "encoder": "bert"}, "Without conditions nothing is encoded, got the encoder 'bert'"),
        ({"head": {"kind": "flow"}, "metrics": ["r2"]}, "no metric 'r2' of a head of kind 'flow'; known are log_likelihood"),
        ({"head": {"kind": "class"}, "target_columns": ["x", "y"]}, "a regression of several numbers, or a density"),
        (
            {"head": {"kind": "ppca", "num_components": 3}, "train_file": ["few.jsonl"], "validation_file": ["few.jsonl"]},
            "3 components were asked for, but there are 3 rows",
        ),
        (
            {"head": {"kind": "ppca", "num_components": 3}, "train_file": ["nan.jsonl"]},
            "Row 2: the vector .* not a finite number",
        ),
        (
            {
                "head": {"kind": "image", "output_shape": [1, 2], "num_levels": 4},
                "target_column": "pixels",
                "train_file": ["pixels.jsonl"],
                "validation_file": ["pixels.jsonl"],
            },
            "Row 2: the vector in column 'pixels' .* not a finite number",
        ),
        (
            {
                "head": {"kind": "regression"},
                "target_column": "x",
                "conditions": {"text": "gloss"},
                "bottleneck": "linear",
                "validation_file": ["few.jsonl"],
            },
            "the encoder would be trained after it",
        ),
    ],
)
def test_what_has_no_density_is_refused(folder, settings, told):
    lines = (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()[:3]
    (folder / "few.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "nan.jsonl").write_text('{"vector": [1.0, 2.0, 3.0]}\n{"vector": [NaN, 2.0, 3.0]}\n', encoding="utf-8")
    (folder / "pixels.jsonl").write_text('{"pixels": [1, 2]}\n{"pixels": [NaN, 2]}\n', encoding="utf-8")
    for name in ("train_file", "validation_file"):
        if name in settings:
            settings = {**settings, name: [str(folder / settings[name][0])]}
    with pytest.raises((SettingsError, ValueError), match=told):
        train([write_settings(folder, "refused", **{"conditions": {}, **settings})])


# The recipe word_space


def test_the_recipes_words_are_parted_and_whole(tmp_path):
    prepared = prepare_data(tmp_path, num_words=3000, held_out=500)
    words, vectors = read_vectors()
    found = {}
    for side, size in (("train", 2000), ("validation", 500), ("test", 500)):
        rows, _ = read_rows(prepared[f"{side}_file"], [], target_columns=["vector"], output="flow")
        assert len(rows) == size
        named = read_table_words(prepared[f"{side}_file"])
        assert not found.keys() & set(named)
        found |= dict(zip(named, stack_targets(rows), strict=True))
    assert set(found) == set(words[:3000])
    for word in words[:50]:
        np.testing.assert_allclose(found[word], vectors[words.index(word)], rtol=1e-6)
    with pytest.raises(ValueError, match="3000 words are to be held out, but there are 3000"):
        prepare_data(tmp_path, num_words=3000, held_out=1500)


def read_table_words(path):
    import pyarrow.parquet as pq

    return pq.read_table(path)["word"].to_pylist()


def read_targets(folder, side):
    path = str(folder / "data" / f"{side}.parquet")
    return stack_targets(read_rows(path, [], target_columns=["vector"], output="flow")[0])


@pytest.fixture(scope="module")
def words_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("word_space") / "model"
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "recipes/train_conditional.py"]
    command = [*launcher, "recipes/word_space/smoke.yaml", "--output_dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_smoke_run_leaves_a_density_over_words(words_model):
    results = read_results(words_model / "results.json")
    assert results["better"] == {"log_likelihood": "higher"}
    assert results["data"]["test_sources"] == 500
    pipe, test = pipeline("conditional-generation", model=str(words_model)), read_targets(words_model, "test")
    scores = [answer["score"] for answer in pipe.score([{}] * 500, test.tolist(), batch_size=500)]
    assert results["metrics"]["log_likelihood"] == pytest.approx(np.mean(scores), abs=1e-3)
    assert "pipe(num_samples=16, seed=7)" in (words_model / "README.md").read_text()


@pytest.mark.slow
def test_the_baselines_are_those_of_other_libraries_and_join_the_results(words_model, tmp_path):
    for name in ("smoke.yaml", "prepare_smoke_data.py"):
        shutil.copy(ROOT / "recipes" / "word_space" / name, tmp_path)
    shutil.copy(words_model / "results.json", tmp_path)
    words = [str(tmp_path / "smoke.yaml"), "--output_dir", str(words_model), "--update_results", "true", "--num_threads", "1"]
    scores = baselines.main([*words, "--components", "5", "20", "--em_components", "2", "--em_rounds", "3"])
    assert read_results(tmp_path / "results.json")["baselines"] == scores
    rows, test = read_targets(words_model, "train"), read_targets(words_model, "test")
    gaussian = multivariate_normal(rows.mean(axis=0), np.cov(rows.T)).logpdf(test).mean()
    assert scores["one Gaussian with all covariances"]["log_likelihood"] == pytest.approx(gaussian)
    pca = scores["probabilistic PCA, 20 components"]["log_likelihood"]
    assert pca == pytest.approx(PCA(20).fit(rows).score(test), abs=1e-8)
    assert scores["ICA, 20 components"]["log_likelihood"] > pca


@pytest.mark.slow
def test_a_picture_shows_what_is_drawn(words_model, tmp_path):
    picture = tmp_path / "samples.png"
    samples.main(["--models", str(words_model), "--data_dir", str(tmp_path), "--picture", str(picture)])
    with Image.open(picture) as opened:
        assert opened.size == (3 * 3 * 120, 3 * 120)

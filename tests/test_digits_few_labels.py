"""The digits_few_labels recipe by its real commands: which images keep their label, the runs, and the baselines."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from hf_genext import pipeline
from hf_genext.hub import read_results
from recipes.arguments import SettingsError
from recipes.digits.prepare_data import prepare_data as prepare_digits
from recipes.digits_few_labels import baselines, run
from recipes.digits_few_labels.choices import Choice
from recipes.digits_few_labels.prepare_data import prepare_data

ROOT = Path(__file__).resolve().parents[1]
DIGITS = list("0123456789")


def read(path: str) -> tuple[list[tuple[float, ...]], list[str | None]]:
    """Images, and what they show."""
    columns = pq.read_table(path).to_pydict()
    return [tuple(row) for row in columns["pixels"]], columns["digit"]


def test_each_digit_keeps_as_many_labels_and_the_test_images_are_those_of_digits(tmp_path):
    whole = prepare_digits(tmp_path / "whole")
    images, truth = read(whole["train_file"])
    shown = dict(zip(images, truth, strict=True))
    choices = {}
    for count, seed in ((10, 1), (10, 2), (30, 1), (100, 1)):
        files = prepare_data(tmp_path / f"{count}-{seed}", num_labels=count, seed=seed)
        labelled, names = read(files["labelled_file"])
        assert Counter(names) == dict.fromkeys(DIGITS, count // 10) and len(set(labelled)) == count
        assert all(shown[image] == name for image, name in zip(labelled, names, strict=True))
        rows, labels = read(files["train_file"])
        assert set(rows) == set(images), "every training image is there"
        known = Counter(row for row, label in zip(rows, labels, strict=True) if label is not None)
        assert set(known) == set(labelled) and len(set(known.values())) == 1, "labelled images are repeated alike"
        assert not set(known) & {row for row, label in zip(rows, labels, strict=True) if label is None}
        assert 0.07 < sum(known.values()) / len(rows) < 0.1
        for part in ("test_file", "validation_file"):
            assert read(files[part]) == read(whole[part])
        choices[count, seed] = set(labelled)
    assert choices[10, 1] != choices[10, 2]
    with pytest.raises(ValueError, match="num_labels must be a multiple of 10 from 10 to"):
        prepare_data(tmp_path / "odd", num_labels=15)


def test_the_data_are_brought_by_the_script_alone(tmp_path):
    command = [sys.executable, "recipes/digits_few_labels/prepare_data.py", str(tmp_path)]
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert f"labelled_file: {tmp_path / 'labelled.parquet'}" in done.stdout


def test_the_linear_baseline_sees_each_image_once_and_the_labelled_ones(tmp_path):
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression

    files = prepare_data(tmp_path, num_labels=30, seed=3)
    images, truth = (np.array(column) for column in read(prepare_digits(tmp_path / "whole")["train_file"]))
    pca = PCA(8, random_state=0).fit(images / 16)
    labelled, names = (np.array(column) for column in read(files["labelled_file"]))
    regression = LogisticRegression(C=0.5, max_iter=2000).fit(pca.transform(labelled / 16), names)
    choice = Choice(30, 3, {**files, "scored_file": files["test_file"]})
    test, shown = (np.array(column) for column in read(files["test_file"]))
    expected = 100 * regression.score(pca.transform(test / 16), shown)
    assert baselines.score_linear(choice, 8, 0.5) == pytest.approx(expected, abs=0.3)
    assert len(truth) == 1197


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    """A copy of the recipe's smoke settings, so that its results stand there."""
    folder = tmp_path_factory.mktemp("recipe")
    for name in ("smoke.yaml", "supervised.yaml", "prepare_smoke_data.py"):
        shutil.copy(ROOT / "recipes" / "digits_few_labels" / name, folder)
    return folder


@pytest.mark.slow
def test_the_smoke_run_leaves_a_model_that_tells_digits_apart(tmp_path):
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "recipes/train_conditional.py"]
    command = [*launcher, "recipes/digits_few_labels/smoke.yaml", "--output_dir", str(tmp_path / "model")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "270 changed: learned from without digit" in done.stderr
    answer = pipeline("conditional-generation", model=str(tmp_path / "model"))({"vector": [0.0] * 64})[0]
    assert answer["label"] in DIGITS and 0.1 <= answer["score"] <= 1.0


@pytest.mark.slow
def test_runs_are_gathered_by_seed_and_go_on_where_they_were(recipe, tmp_path, capsys):
    words = [str(recipe / "smoke.yaml"), "--output_dir", str(tmp_path), "--num_rows", "200", "--label_counts", "10", "30"]
    with pytest.raises(SettingsError, match="train with --update_results true first"):
        baselines.main([*words, "--seeds", "1", "--update_results", "true"])
    one = [*words, "--max_steps", "3", "--update_results", "true"]
    scores = run.main([*one, "--seeds", "1"])
    written = (tmp_path / "10-1" / "model.safetensors").stat().st_mtime_ns
    scores = {**scores, **run.main([*one, "--seeds", "1", "2"])}
    assert (tmp_path / "10-1" / "model.safetensors").stat().st_mtime_ns == written, "what was done is taken"
    results = read_results(recipe / "results.json")
    assert results["seeds"] == [1, 2] and set(results["better"]) == {"accuracy_10", "accuracy_30"}
    for name in ("accuracy_10", "accuracy_30"):
        values = [scores[seed][name] for seed in (1, 2)]
        assert results["metrics"][name] == pytest.approx(np.mean(values))
        assert results["spread"][name] == pytest.approx(np.std(values, ddof=1))
    with pytest.raises(SettingsError, match="is the folder of another run: max_steps was 3 and is 4"):
        run.main([*words, "--seeds", "1", "--max_steps", "4"])
    found = baselines.main([*words, "--seeds", "1", "2", "--update_results", "true"])
    assert set(found) == {baselines.SUPERVISED, baselines.LINEAR}
    assert read_results(recipe / "results.json")["baselines"] == found
    assert all(set(values) == {"accuracy_10", "accuracy_30"} for values in found.values())
    assert all(value > 15.0 for values in found.values() for value in values.values())


def test_settings_that_make_no_sense_are_refused(recipe):
    with pytest.raises(SettingsError, match="Give the settings file"):
        run.main(["--seeds", "1"])
    with pytest.raises(SettingsError, match="score_on is test or validation, got 'train'"):
        run.main([str(recipe / "smoke.yaml"), "--score_on", "train"])
    for script in (run, baselines):
        with pytest.raises(SettingsError, match="The results are those of the test images"):
            script.main([str(recipe / "smoke.yaml"), "--score_on", "validation", "--update_results", "true"])

"""The digits recipe by its real commands, and the baselines and metrics of images by other ways."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy import stats

from hf_genext import pipeline
from hf_genext.hub import read_results
from recipes import compare_images, drawn_images, pythae_baselines, score_images
from recipes.arguments import SettingsError
from recipes.digits.prepare_data import prepare_data
from recipes.image_baselines import BinnedGaussian, BumpDensity, FullGaussian, IndependentComponents, PrincipalComponents
from recipes.image_metrics import ImageJudge

ROOT = Path(__file__).resolve().parents[1]
FEW = ["--num_judged", "50", "--num_learned", "50"]
"""Images that the judge and the baselines learn from."""


def build_images(rows: int = 300, pixels: int = 2, levels: int = 5) -> np.ndarray:
    """Images whose pixels depend on each other."""
    generator = np.random.default_rng(3)
    values = generator.standard_normal((rows, pixels)) @ np.array([[1.0, 0.8], [0.0, 0.5]])[:pixels, :pixels] + levels / 2
    return np.clip(np.rint(values), 0, levels - 1)


# Baselines and metrics


def test_a_binned_gaussian_is_a_distribution_over_whole_numbers():
    images = build_images()
    outcomes = np.array(list(itertools.product(range(5), repeat=2)), dtype=float)
    gaussian = BinnedGaussian(images, 5, 0.1)
    generator = np.random.default_rng(0)
    probabilities = np.exp(gaussian.log_prob(outcomes, generator))
    assert probabilities.sum() == pytest.approx(1.0, abs=1e-12)
    drawn = gaussian.sample(20_000, generator)
    counts = [int((drawn == outcome).all(axis=1).sum()) for outcome in outcomes]
    often = probabilities * 20_000 > 5
    expected = probabilities[often] * 20_000
    assert stats.chisquare(np.array(counts)[often], expected * sum(np.array(counts)[often]) / expected.sum()).pvalue > 1e-3
    # Far out in a tail a difference of distribution functions would be 0.
    narrow = BinnedGaussian(np.zeros((3, 1)), 17, 0.1)
    assert np.isfinite(narrow.log_prob(np.array([[16.0]]), generator)).all()
    assert narrow.log_prob(np.array([[0.0]]), generator) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize(
    "build",
    [
        lambda images: FullGaussian(images, 5, 0.1),
        lambda images: PrincipalComponents(images, 5, 1),
        lambda images: IndependentComponents(images, 5, 1),
    ],
    ids=["gaussian", "pca", "ica"],
)
def test_densities_integrate_to_one_and_bound_a_distribution(build):
    density = build(build_images())
    axis = np.linspace(-5.0, 11.0, 321)
    grid = np.array(list(itertools.product(axis, repeat=2)))
    mass = np.exp(density.score(grid)).sum() * (axis[1] - axis[0]) ** 2
    assert mass == pytest.approx(1.0, abs=2e-3)
    outcomes = np.array(list(itertools.product(range(5), repeat=2)), dtype=float)
    assert 0.3 < np.exp(density.log_prob(outcomes, np.random.default_rng(0))).sum() <= 1.0
    drawn = density.draw(20_000, np.random.default_rng(1))
    centre = (np.exp(density.score(grid))[:, None] * grid).sum(axis=0) * (axis[1] - axis[0]) ** 2
    np.testing.assert_allclose(drawn.mean(axis=0), centre, atol=0.05)
    # The density of the draws is what the integral says it is on average.
    entropy = -(np.exp(density.score(grid)) * density.score(grid)).sum() * (axis[1] - axis[0]) ** 2
    assert -density.score(drawn).mean() == pytest.approx(entropy, abs=0.05)


@pytest.mark.parametrize("gap", [0.0, 5.5, 300.0])
def test_the_density_of_a_component_is_the_mean_of_its_bumps(gap):
    generator = np.random.default_rng(4)
    centres = np.concatenate([generator.normal(size=400), gap + generator.normal(size=50)])
    values = np.concatenate([generator.normal(scale=4.0, size=300), np.linspace(-40.0, gap + 30.0, 500)])
    bumps = stats.norm.logpdf(values[:, None], centres, 0.2)
    expected = np.logaddexp.reduce(bumps, axis=1) - np.log(len(centres))
    np.testing.assert_allclose(BumpDensity(centres, 0.2).score(values), expected, rtol=1e-3, atol=5e-4)


@pytest.mark.slow
def test_the_autoencoder_of_pythae_is_a_distribution_over_whole_numbers():
    if not pythae_baselines.is_there():
        pytest.skip("needs pythae: pip install pythae (requirements-slow.txt)")
    images = build_images()
    model = pythae_baselines.PythaeAutoencoder(images, 5, 1, 50, num_epochs=20, num_samples=3000)
    outcomes = np.array(list(itertools.product(range(5), repeat=2)), dtype=float)
    # The mean of the weights is right on average whatever the posterior, so that they sum to 1.
    assert np.exp(model.log_prob(outcomes, np.random.default_rng(0))).sum() == pytest.approx(1.0, abs=0.05)
    drawn = model.sample(1000, np.random.default_rng(1))
    assert drawn.shape == (1000, 2) and set(np.unique(drawn)) <= set(range(5))
    found = pythae_baselines.count_parameters(2, 1, pythae_baselines.choose_width(2, 1, 50))
    assert model.num_parameters == found == sum(weight.numel() for weight in model.model.parameters())
    wide = model.limit_scale(2.0)
    assert (wide._scale >= 2.0).all() and (model._scale < 2.0).any()
    assert np.exp(wide.log_prob(outcomes, np.random.default_rng(0))).sum() == pytest.approx(1.0, abs=0.05)


def test_the_judge_finds_real_images_good_and_noise_bad(tmp_path):
    import pyarrow.parquet as pq

    files = prepare_data(tmp_path)
    parts = {name: pq.read_table(files[f"{name}_file"]).to_pydict() for name in ("train", "test")}
    train, test = (np.array(parts[name]["pixels"]) for name in parts)
    shown, classes = (np.array(parts[name]["digit"]).astype(int) for name in parts)
    judge = ImageJudge(train, shown, 17)
    real = judge.judge(train, shown, test, classes)
    noise = np.random.default_rng(0).integers(0, 17, train.shape).astype(float)
    drawn = judge.judge(noise, shown, test, classes)
    assert real["frechet_distance"] < 0.3 < drawn["frechet_distance"]
    assert real["novelty"] == 0.0 and drawn["novelty"] == 100.0
    assert real["sample_accuracy"] > 90 > drawn["sample_accuracy"] and real["validity"] > 98 > drawn["validity"]
    assert judge.compute_distance(test, test) == pytest.approx(0.0, abs=1e-3)


def test_draws_are_judged_each_by_itself_and_averaged(tmp_path):
    prepared = prepare_data(tmp_path)
    parts = {}
    for name in ("train", "test"):
        table = pq.read_table(prepared[f"{name}_file"])
        pixels, classes = np.array(table["pixels"].to_pylist()), np.array(table["digit"].to_pylist())
        parts[name] = drawn_images.Images(pixels, classes, 17, is_conditional=True)
    judge = ImageJudge(parts["train"].pixels, parts["train"].classes, 17)

    def draw(classes, seed):
        generator = np.random.default_rng(seed)
        return np.stack([generator.choice(parts["train"].pixels[parts["train"].select(name)]) for name in classes])

    settings = drawn_images.ImageSettings(num_drawn=300, num_draws=3)
    found, first = drawn_images.judge_draws(judge, draw, parts, settings)
    classes = drawn_images.draw_classes(parts["train"], 300)
    assert (first == draw(classes, 0)).all()
    test = parts["test"]
    each = [judge.judge(draw(classes, seed), classes, test.pixels, test.classes, seed) for seed in range(3)]
    for name, value in found.items():
        assert value == pytest.approx(np.mean([one[name] for one in each]))
    assert found["sample_accuracy"] > 85.0


@pytest.mark.parametrize("name", ["config", "unconditional"])
def test_the_judge_knows_what_images_show_whatever_the_model_is_told(tmp_path, name):
    words = [str(ROOT / "recipes" / "digits" / f"{name}.yaml"), "--output_dir", str(tmp_path), *FEW]
    _, _, size, images, _, _, _ = drawn_images.read_images(drawn_images.ImageSettings, words)
    assert size == 16
    for part in images.values():
        assert part.is_conditional == (name == "config") and part.num_levels == 17
        assert len(part.pixels) == len(part.classes) == 50
    known = {row["pixels"].tobytes(): row["digit"] for row in _read_digits(tmp_path)}
    for row, shown in zip(images["test"].pixels, images["test"].classes, strict=True):
        assert known[row.astype(np.float32).tobytes()] == shown


def test_the_scripts_use_as_many_threads_as_they_are_told(tmp_path):
    words = [str(ROOT / "recipes" / "digits" / "config.yaml"), "--output_dir", str(tmp_path), *FEW]
    try:
        drawn_images.read_images(drawn_images.ImageSettings, [*words, "--num_threads", "2"])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def _read_digits(folder):
    for file in (folder / "data").glob("test.parquet"):
        table = pq.read_table(file)
        pixels = np.array(table["pixels"].to_pylist(), dtype=np.float32)
        yield from ({"pixels": row, "digit": digit} for row, digit in zip(pixels, table["digit"].to_pylist(), strict=True))


def test_the_digits_stand_on_one_side_each(tmp_path):
    import pyarrow.parquet as pq

    files = prepare_data(tmp_path)
    tables = {name: pq.read_table(files[f"{name}_file"]).to_pydict() for name in ("train", "validation", "test")}
    assert {name: len(table["digit"]) for name, table in tables.items()} == {"train": 1197, "validation": 200, "test": 400}
    sides = [{tuple(row) for row in table["pixels"]} for table in tables.values()]
    assert not any(first & second for first, second in itertools.combinations(sides, 2))
    assert all(set(table["digit"]) == set("0123456789") for table in tables.values())


# The recipe by its commands


@pytest.mark.slow
def test_the_smoke_run_leaves_a_model_that_draws_digits_and_is_scored(tmp_path, capsys):
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "recipes/train_conditional.py"]
    command = [*launcher, "recipes/digits/smoke.yaml", "--output_dir", str(tmp_path / "model")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    pipe = pipeline("conditional-generation", model=str(tmp_path / "model"))
    assert pipe({"label": "7"}, seed=7)[0]["generated_image"].size == (8, 8)
    log = json.loads((tmp_path / "model" / "trainer_state.json").read_text())["log_history"]
    assert any("eval_active_units" in entry for entry in log)

    recipe = tmp_path / "recipe"
    recipe.mkdir()
    for file in ("smoke.yaml", "prepare_smoke_data.py"):
        shutil.copy(ROOT / "recipes" / "digits" / file, recipe)
    words = [str(recipe / "smoke.yaml"), "--output_dir", str(tmp_path / "out"), "--num_drawn", "300", "--num_draws", "2"]
    with pytest.raises(SettingsError, match="--model"):
        score_images.main(words)
    with pytest.raises(SettingsError, match="train with --update_results true first"):
        compare_images.main([*words, "--update_results", "true"])
    own = [*words, "--model", str(tmp_path / "model"), "--num_importance_samples", "20", "--update_results", "true"]
    scores = score_images.main(own)
    results = read_results(recipe / "results.json")
    assert results["metrics"] == scores and set(results["better"]) == {
        "bits_per_dimension",
        "sample_accuracy",
        "frechet_distance",
    }
    assert results["data"]["importance_samples"] == 20
    assert 1.0 < scores["bits_per_dimension"] < np.log2(17.0)
    assert (tmp_path / "model" / "samples.png").is_file()
    assert "samples.png" in (tmp_path / "model" / "README.md").read_text()
    found = compare_images.main([*words, "--update_results", "true"])
    assert len(found) in (4, 5) and all(set(values) == set(scores) for values in found.values())
    assert read_results(recipe / "results.json")["baselines"] == found

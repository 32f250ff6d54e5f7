"""The fashion_mnist recipe: its files read, its parts, and its smoke run by the real command."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from hf_genext import pipeline
from hf_genext.hub import read_results
from recipes import compare_images, score_images
from recipes.debian_packages import PackageError, bring_debian_package, find_cache
from recipes.fashion_mnist.prepare_data import NAMES, PACKAGE, prepare_data, read_idx

ROOT = Path(__file__).resolve().parents[1]


def write_idx(path: Path, values: np.ndarray) -> None:
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, dtype=">u4").tobytes()
    with gzip.open(path, "wb") as file:
        file.write(header + values.astype(np.uint8).tobytes())


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache with a package of forty images to learn from and ten others."""
    monkeypatch.setenv("HF_GENEXT_CACHE", str(tmp_path / "cache"))
    folder = find_cache() / "unpacked" / PACKAGE / "usr" / "share" / "datasets" / "fashion-mnist"
    folder.mkdir(parents=True)
    (find_cache() / "packages").mkdir()
    (find_cache() / "packages" / f"{PACKAGE}_0.0~git1-1_all.deb").touch()
    generator = np.random.default_rng(0)
    for part, rows in (("train", 40), ("t10k", 10)):
        labels = np.arange(rows) % 10
        images = generator.integers(0, 256, (rows, 28, 28))
        images[:, 0, 0] = labels
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", labels)
    return folder


def test_the_official_test_images_stay_apart_and_names_stand_by_their_images(cache, tmp_path):
    prepared = prepare_data(tmp_path / "data", num_held_out=15)
    parts = {name: pq.read_table(prepared[f"{name}_file"]) for name in ("train", "validation", "test")}
    assert {name: len(part) for name, part in parts.items()} == {"train": 25, "validation": 15, "test": 10}
    pixels = {name: np.array(part["pixels"].to_pylist()) for name, part in parts.items()}
    for name, part in parts.items():
        assert [NAMES[label] for label in pixels[name][:, 0]] == part["article"].to_pylist()
    np.testing.assert_array_equal(pixels["test"].reshape(10, 28, 28), read_idx(cache / "t10k-images-idx3-ubyte.gz"))
    known = {row.tobytes() for row in read_idx(cache / "train-images-idx3-ubyte.gz").reshape(40, -1)}
    drawn = [row.astype(np.uint8).tobytes() for row in np.concatenate([pixels["train"], pixels["validation"]])]
    assert set(drawn) == known and len(drawn) == 40
    again = prepare_data(tmp_path / "again", num_held_out=15)
    assert pq.read_table(again["train_file"]).equals(parts["train"])
    assert prepared["facts"]["packages"] == f"{PACKAGE} 0.0~git1-1"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\0\0\x08\x01\0\0\0\x05abc", "should hold 5 numbers, and holds 3"),
        (b"PK", "no IDX file"),
        (b"\0\0\x0d\x01abcd", "no IDX"),
    ],
)
def test_files_that_are_broken_are_refused(tmp_path, content, told):
    with gzip.open(tmp_path / "broken.gz", "wb") as file:
        file.write(content)
    with pytest.raises(ValueError, match=told):
        read_idx(tmp_path / "broken.gz")


def test_a_package_that_cannot_be_brought_is_named_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        PackageError, match=rf"{PACKAGE} cannot be brought: there is no program 'apt-get'.*put {PACKAGE}_\*.deb"
    ):
        bring_debian_package(tmp_path / "cache", PACKAGE)


@pytest.mark.slow
def test_the_smoke_run_leaves_a_model_that_draws_clothes_and_is_scored(tmp_path):
    try:
        bring_debian_package(find_cache(), PACKAGE)
    except PackageError as error:
        pytest.skip(str(error))
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "recipes/train_conditional.py"]
    command = [*launcher, "recipes/fashion_mnist/smoke.yaml", "--output_dir", str(tmp_path / "model")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    pipe = pipeline("conditional-generation", model=str(tmp_path / "model"))
    picture = pipe({"label": "sneaker"}, seed=7)[0]["generated_image"]
    assert picture.size == (28, 28)
    words = [str(ROOT / "recipes" / "fashion_mnist" / "smoke.yaml"), "--output_dir", str(tmp_path / "out")]
    words += ["--num_drawn", "200", "--num_draws", "1", "--num_judged", "200", "--num_learned", "200"]
    scores = score_images.main([*words, "--model", str(tmp_path / "model"), "--num_importance_samples", "5"])
    assert 1.0 < scores["bits_per_dimension"] < 8.0
    assert read_results(tmp_path / "model" / "results.json")["metrics"] == scores
    found = compare_images.main(words)
    assert len(found) in (4, 5) and all(set(values) == set(scores) for values in found.values())
    assert all(np.isfinite(list(values.values())).all() for values in found.values())

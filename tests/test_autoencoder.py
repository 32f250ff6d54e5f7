"""The autoencoder recipe by its real commands, its data without leaks, and PCA against brute force."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from transformers import AutoModelForSeq2SeqLM, AutoProcessor, pipeline

import recipes.autoencoder.position_pca as position_pca
from hf_genext.hub import read_results
from recipes.arguments import SettingsError
from recipes.autoencoder import baselines, curve
from recipes.autoencoder.prepare_data import prepare_data
from recipes.evaluate import main as evaluate
from recipes.plots import draw_curve
from recipes.reuse import RECORD, describe_run, train_unless_done
from recipes.text_splits import SIDES, read_column

ROOT = Path(__file__).parents[1]
SMOKE = "recipes/autoencoder/smoke.yaml"
FEW = ["--num_threads", "1", "--max_steps", "4", "--eval_steps", "4", "--save_steps", "4"]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The folder of the smoke run."""
    folder = tmp_path_factory.mktemp("autoencoder") / "model"
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "recipes/train_conditional.py", SMOKE]
    done = subprocess.run([*launcher, "--output_dir", folder], cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_smoke_run_leaves_a_model_with_a_state_of_fixed_length(smoke, capsys):
    results = read_results(smoke / "results.json")
    assert set(results["metrics"]) == {"exact_match", "character_error_rate", "token_f1"}
    assert results["better"] == {"exact_match": "higher"}
    assert results["data"]["test_sources"] == 200
    model, processor = AutoModelForSeq2SeqLM.from_pretrained(smoke), AutoProcessor.from_pretrained(smoke)
    texts = read_column(smoke / "data" / "test.tsv", "text")
    batch = processor(text=[texts[0], "violin", "a"], padding=True, return_tensors="pt")
    memory = model.encode(**batch)
    assert memory.shape == (3, 2, 8)
    written = processor.target_tokenizer.batch_decode(model.reconstruct(**batch), skip_special_tokens=True)
    pipe = pipeline("conditional-generation", model=str(smoke))
    assert written == [pipe(text)[0]["generated_text"] for text in (texts[0], "violin", "a")]
    scores = evaluate([SMOKE, "--model", str(smoke), "--output_dir", str(smoke), "--num_threads", "1"])
    assert scores == pytest.approx(results["metrics"])


def test_no_word_stands_on_two_sides(smoke):
    sides = {side: [text.casefold() for text in read_column(smoke / "data" / f"{side}.tsv", "text")] for side in SIDES}
    assert [len(sides[side]) for side in SIDES] == [3600, 200, 200]
    assert len(set().union(*sides.values())) == 4000


def test_the_baselines_are_scored_as_the_model_is(smoke, tmp_path, capsys):
    recipe = tmp_path / "recipe"
    recipe.mkdir()
    for name in ("smoke.yaml", "prepare_smoke_data.py"):
        (recipe / name).write_text((ROOT / "recipes/autoencoder" / name).read_text(encoding="utf-8"), encoding="utf-8")
    (recipe / "results.json").write_text((smoke / "results.json").read_text())
    output = tmp_path / "out"
    scores = baselines.main([str(recipe / "smoke.yaml"), *FEW, "--output_dir", str(output), "--update_results", "true"])
    results = json.loads((recipe / "results.json").read_text())
    assert results["baselines"] == scores
    assert results["metrics"] == read_results(smoke / "results.json")["metrics"]
    assert all(set(values) == set(results["metrics"]) for values in scores.values())
    assert [*scores] == [
        "nearest training text by MiniLM",
        "nearest training text by TF-IDF",
        baselines.DECODED,
        baselines.INVERTED,
    ]
    # No text stands on two sides, so a copy is never right, but nearer by its spelling than by its meaning.
    for label in [*scores][:2]:
        assert scores[label]["exact_match"] == 0
    rates = [scores[label]["character_error_rate"] for label in scores]
    assert rates[1] < rates[0]
    settings = json.loads((tmp_path / "out-pca" / "config.json").read_text())
    assert (settings["conditioner"]["vector_size"], settings["conditioner"]["num_states"]) == (16, 2)
    given = yaml.safe_load((ROOT / SMOKE).read_text())["decoder"]
    assert {name: settings["decoder"][name] for name in given} == given
    assert "pca" not in results["data"]["name"]
    # What is there already is taken as it is.
    (tmp_path / "out-pca" / "results.json").write_text(
        json.dumps({**read_results(tmp_path / "out-pca" / "results.json"), "metrics": {"exact_match": 12.5}})
    )
    again = baselines.main([str(recipe / "smoke.yaml"), *FEW, "--output_dir", str(output), "--retrieval", "false"])
    assert again == {baselines.DECODED: {"exact_match": 12.5}, baselines.INVERTED: scores[baselines.INVERTED]}


def test_position_pca_is_that_of_the_matrix_written_out():
    generator = np.random.default_rng(0)
    texts = ["".join(generator.choice(list("abc"), generator.integers(1, 6))) for _ in range(300)]
    pca = position_pca.PositionPCA(texts, 7)
    matrix = np.array([[float((text[i : i + 1] or "") == c) for i in range(5) for c in ["", "a", "b", "c"]] for text in texts])
    centred = matrix - matrix.mean(axis=0)
    directions = np.linalg.svd(centred, full_matrices=False)[2][:7]
    expected, actual = centred @ directions.T, pca.encode(texts)
    np.testing.assert_allclose(np.abs(actual), np.abs(expected) / np.sqrt(np.mean(expected**2)), atol=1e-4)
    back = (expected @ directions + matrix.mean(axis=0)).reshape(300, 5, 4).argmax(axis=2)
    written = ["".join(" abc"[number] for number in row).split(" ")[0] for row in back.tolist()]
    assert pca.decode(actual) == written
    right = np.mean([first == second for first, second in zip(written, texts, strict=True)])
    assert 0.1 < right < 0.9
    whole = position_pca.PositionPCA(texts, 20)
    assert whole.decode(whole.encode(texts)) == texts
    assert whole.encode(["abcabcabc", "aXb"]).shape == (2, 20)
    with pytest.raises(ValueError, match="at most 20 components; 21 are asked for"):
        position_pca.PositionPCA(texts, 21)


def test_the_curve_shows_means_over_seeds(tmp_path):
    labels = [curve.OURS, baselines.DECODED, baselines.INVERTED]
    points = {1: [dict(zip(labels, (10.0, 5.0, 0.0), strict=True)), dict(zip(labels, (14.0, 7.0, 0.0), strict=True))]}
    table = curve.tabulate(points, 8)
    assert table["columns"] == ["slots", *labels, "spread of this autoencoder over seeds"]
    assert table["rows"] == [["1 (8 numbers)", 12.0, 6.0, 0.0, pytest.approx(8**0.5)]]
    draw_curve([8, 16], {"a": [[1.0, 3.0], [2.0]], "b": [[0.0], [4.0]]}, tmp_path / "c.png", x_label="x", y_label="y")
    with Image.open(tmp_path / "c.png") as picture:
        assert min(picture.size) > 200
    with pytest.raises(ValueError, match="'a' needs runs for each of the 2 places"):
        draw_curve([8, 16], {"a": [[1.0]]}, tmp_path / "d.png", x_label="x", y_label="y")
    words = ["x.yaml", "--slots", "1", "2", "--seed", "3", "--seeds=4", "--max_steps", "2"]
    assert curve._leave_out(words, ["slots", "seeds"]) == ["x.yaml", "--seed", "3", "--max_steps", "2"]


def test_results_are_taken_for_those_of_the_same_settings_and_data_alone(tmp_path):
    words = [SMOKE, *FEW, "--output_dir", str(tmp_path)]
    data = [{"source": ["a", "b"], "references": [["a"], ["b"]]}]
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(SettingsError, match=r"holds results, but no run\.json that says of what. Choose another --output_dir"):
        train_unless_done(words, tmp_path, data)
    (tmp_path / RECORD).write_text(json.dumps(describe_run(words, data)))
    train_unless_done(words, tmp_path, data)
    train_unless_done([*words, "--title", "Another", "--num_threads", "2"], tmp_path, data)
    for others, rows, message in (
        (["--learning_rate", "0.5"], data, "another run: learning_rate was 0.00.* and is 0.5. Choose"),
        (["--bottleneck.num_latents", "7", "--max_steps", "5"], data, "bottleneck was .*7.*; max_steps was 4 and is 5"),
        ([], [{"source": ["a", "c"], "references": [["a"], ["b"]]}], "another run: the data are others"),
    ):
        with pytest.raises(SettingsError, match=message):
            train_unless_done([*words, *others], tmp_path, rows)
    assert (tmp_path / "results.json").read_text() == "{}", "it has trained"
    (tmp_path / "results.json").unlink()
    with pytest.raises(SettingsError, match="another run: learning_rate was"):
        # A run of other settings that has not come to its end would go on from their checkpoints.
        train_unless_done([*words, "--learning_rate", "0.5"], tmp_path, data)


@pytest.mark.slow
def test_the_curve_trains_what_is_missing(tmp_path, capsys):
    recipe = tmp_path / "recipe"
    recipe.mkdir()
    for name in ("smoke.yaml", "prepare_smoke_data.py"):
        (recipe / name).write_text((ROOT / "recipes/autoencoder" / name).read_text(encoding="utf-8"), encoding="utf-8")
    words = [str(recipe / "smoke.yaml"), *FEW, "--slots", "1", "2", "--output_dir", str(tmp_path / "out")]
    table = curve.main([*words, "--update_results", "true"])
    assert {path.name for path in recipe.iterdir() if path.is_file()} - {"smoke.yaml", "prepare_smoke_data.py"} == {
        *("curve.png", "experiments.json", "results.json")
    }
    # Those of the settings' own number of slots are the recipe's.
    assert read_results(recipe / "results.json")["metrics"] == read_results(tmp_path / "out-2-1" / "results.json")["metrics"]
    assert curve.main(words) == table
    assert [row[0] for row in table["rows"]] == ["1 (8 numbers)", "2 (16 numbers)"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"curve.png", "experiments.json"}
    folders = {path.name for path in tmp_path.iterdir()}
    assert {"out-1-1", "out-1-1-pca", "out-2-1", "out-2-1-pca"} <= folders
    assert json.loads((tmp_path / "out-1-1" / "config.json").read_text())["bottleneck"]["num_latents"] == 1
    changed = [path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")]
    assert curve.main(words) == table
    assert [path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")] == changed
    with pytest.raises(SettingsError, match=r"out-1-1' is the folder of another run: learning_rate was .* and is 0.5"):
        curve.main([*words, "--learning_rate", "0.5"])
    assert [path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")] == changed


@pytest.mark.slow
@pytest.mark.usefixtures("debian_wordnet")
def test_words_and_phrases_of_wordnet_stand_on_one_side(tmp_path):
    prepared = prepare_data(tmp_path, held_out=500)
    sides = [read_column(Path(prepared[f"{side}_file"]), "text") for side in SIDES]
    assert [len(side) for side in sides[1:]] == [500, 500]
    assert len(sides[0]) > 100_000
    everything = [text.casefold() for side in sides for text in side]
    assert len(set(everything)) == len(everything)
    assert max(map(len, everything)) == 24
    assert sum(" " in text for text in everything) > 30_000
    assert set("".join(everything)) <= set("abcdefghijklmnopqrstuvwxyz '.-")

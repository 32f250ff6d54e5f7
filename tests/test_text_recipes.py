"""The recipes of distributions over texts, names and sentences, by their real commands."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from specimens import sharpen

from hf_genext import GenextConfig, GenextForConditionalGeneration, GenextProcessor, pipeline, train_tokenizer
from hf_genext.hub import read_results
from recipes.arguments import SettingsError
from recipes.evaluate import main as evaluate
from recipes.names import baselines as name_baselines
from recipes.names import score as name_score
from recipes.names.prepare_data import prepare_data as prepare_names
from recipes.names.prepare_data import read_words
from recipes.names.words import WordJudge
from recipes.sentences import baselines as sentence_baselines
from recipes.sentences import score as sentence_score
from recipes.sentences.prepare_data import prepare_data as prepare_sentences
from recipes.text_distributions import Texts
from recipes.text_splits import SIDES, read_column

ROOT = Path(__file__).resolve().parents[1]


def read_sides(files, *columns):
    """The rows of each side."""
    return {
        side: list(zip(*(read_column(Path(files[f"{side}_file"]), name) for name in columns), strict=True)) for side in SIDES
    }


def test_words_stand_on_one_side_and_in_the_list_of_their_language(tmp_path):
    languages = ("english", "german", "swedish")
    sides = read_sides(prepare_names(tmp_path, num_words=600, held_out=200, languages=languages), "word", "language")
    spellings = {side: {word for word, _ in rows} for side, rows in sides.items()}
    assert not any(first & second for first, second in itertools.combinations(spellings.values(), 2))
    assert sum(len(rows) for rows in sides.values()) > 1750  # All but words with a letter that training lacks.
    for language in languages:
        known = set(read_words(language))
        assert {word for rows in sides.values() for word, of in rows if of == language} <= known
    assert "haus" in read_words("german") and "paris" not in read_words("english") and "får" in read_words("swedish")


def test_the_judge_of_words_counts_what_it_says():
    words = ["aba", "abab", "baba", "cdc", "cdcd", "dcdc"]
    texts = Texts(words, [{"label": {"language": name}} for name in ("left",) * 3 + ("right",) * 3])
    judge = WordJudge(texts)
    invented, languages = ["aba", "ababa", "abab", "cdcdc"], ["left", "left", "right", "right"]
    # ^ab, aba, bab, ba$ are runs of words of the left; "cdcdc" has ^cd, cdc, dcd, dc$ of the right.
    found = judge.judge(invented, None)
    assert found["novelty"] == 50.0 and found["diversity"] == 100.0 and found["validity"] == 100.0
    assert judge.recover(invented, languages) == 75.0
    assert "real_words" not in found and judge.choose(3) == ["left", "right", "left"]
    judge._find_real = lambda *_: 0.0  # These languages have no lists.
    assert judge.judge(invented, languages)["validity"] == 75.0


def test_a_model_of_sentences_is_scored_the_same_each_time_and_described_by_its_own_size():
    texts = ["a red cat", "a dog", "the red dog", "a cat", "the dog", "a red dog"]
    tokenizer = train_tokenizer(texts, unit="character")
    small = {"vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    torch.manual_seed(0)
    config = GenextConfig(
        conditioner={**small, "num_attention_heads": 2},
        bottleneck={"kind": "variational", "num_latents": 2, "latent_size": 3},
        decoder={**small, "num_attention_heads": 2, "max_position_embeddings": 12},
    )
    model = sharpen(GenextForConditionalGeneration(config)).eval()
    processor = GenextProcessor(tokenizer=tokenizer, target_tokenizer=tokenizer)
    pipe = pipeline("conditional-generation", model=model, processor=processor)
    settings = sentence_score.ScoreSettings(num_drawn=4, num_importance_samples=2)
    (scores, samples), (again, _) = (sentence_score.score_model(pipe, texts[:3], texts, settings) for _ in range(2))
    assert scores == again and scores["mutual_information"] > 0.0
    shown = sentence_score.describe_model(pipe, samples, texts)
    assert "what comes out of their 6 numbers" in shown and shown.count("→") == 6


@pytest.mark.slow
def test_sentences_stand_on_one_side(tmp_path):
    sides = read_sides(prepare_sentences(tmp_path, held_out=300, num_glosses=1500), "gloss")
    assert len(sides["train"]) == 900 and 290 <= len(sides["test"]) <= 300
    assert all(10 <= len(gloss) <= 60 for rows in sides.values() for (gloss,) in rows)
    assert not any(set(first) & set(second) for first, second in itertools.combinations(sides.values(), 2))


def train(*words):
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "recipes/train_conditional.py"]
    done = subprocess.run([*launcher, *map(str, words)], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def copy_recipe(name, folder):
    """The settings of a smoke run where its results may be written."""
    folder.mkdir()
    for file in ("smoke.yaml", "prepare_smoke_data.py"):
        shutil.copy(ROOT / "recipes" / name / file, folder)
    return folder


@pytest.mark.slow
def test_the_smoke_run_of_names_leaves_a_model_that_invents_words_and_is_scored(tmp_path):
    model, plain = tmp_path / "model", tmp_path / "plain"
    train("recipes/names/smoke.yaml", "--output_dir", model)
    train("recipes/names/smoke.yaml", "--output_dir", plain, "--conditions", "{}", "--condition_dropout", "null")
    pipe = pipeline("conditional-generation", model=str(model))
    assert pipe({"label": "italian"}, do_sample=True, seed=7, guidance_scale=2.0)[0]["generated_text"]
    trained = read_results(model / "results.json")["metrics"]
    assert trained["bits_per_character"] == pytest.approx(-trained["log_likelihood_per_character"] / math.log(2))

    recipe = copy_recipe("names", tmp_path / "recipe")
    words = [str(recipe / "smoke.yaml"), "--output_dir", str(tmp_path / "out"), "--num_drawn", "90"]
    with pytest.raises(SettingsError, match="--model"):
        name_score.main(words)
    with pytest.raises(SettingsError, match="train with --update_results true first"):
        name_baselines.main([*words, "--update_results", "true"])
    scores = name_score.main([*words, "--model", str(model), "--update_results", "true"])
    results = read_results(recipe / "results.json")
    assert results["metrics"] == scores and list(results["better"]) == ["log_likelihood_per_character"]
    # Training, the recipe's own script and the general one say the same.
    for name in ("log_likelihood_per_character", "perplexity"):
        assert scores[name] == pytest.approx(trained[name], rel=1e-4)
    again = evaluate([str(recipe / "smoke.yaml"), "--model", str(model), "--output_dir", str(tmp_path / "out")])
    assert again["perplexity"] == pytest.approx(trained["perplexity"], rel=1e-4)
    assert {"recovered_1", "recovered_2", "recovered_3", "novelty", "diversity", "validity", "real_words"} <= set(scores)
    assert "| italian |" in (recipe / "samples.md").read_text(encoding="utf-8")
    found = name_baselines.main(
        [*words, "--orders", "2", "3", "--model", str(model), "--without", str(plain), "--update_results", "true"]
    )
    assert read_results(recipe / "results.json")["baselines"] == found
    assert len(found) == 5 and sum("log_likelihood_per_character" in values for values in found.values()) == 4
    assert found["the test words themselves"]["novelty"] == 100.0


@pytest.mark.slow
def test_the_smoke_run_of_sentences_leaves_a_space_of_sentences_and_is_scored(tmp_path):
    model, plain = tmp_path / "model", tmp_path / "plain"
    train("recipes/sentences/smoke.yaml", "--output_dir", model)
    fields = ["--conditions", "{}", "--bottleneck", "null", "--encoder", "{hidden_size: 32}"]
    train("recipes/sentences/smoke.yaml", "--output_dir", plain, *fields)
    trained = read_results(model / "results.json")["metrics"]
    log = json.loads((model / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    assert any("eval_bits_per_character" in entry and "eval_active_units" in entry for entry in log)

    recipe = copy_recipe("sentences", tmp_path / "recipe")
    words = [str(recipe / "smoke.yaml"), "--output_dir", str(tmp_path / "out"), "--num_drawn", "40"]
    words += ["--num_importance_samples", "10"]
    scores = sentence_score.main([*words, "--model", str(model), "--update_results", "true"])
    results = read_results(recipe / "results.json")
    assert results["metrics"] == scores and list(results["better"]) == ["bits_per_character"]
    assert results["data"]["importance_samples"] == 10
    # The bound of ten draws is above that of one.
    assert scores["bits_per_character"] < trained["bits_per_character"]
    assert {"active_share", "kl", "reconstruction_token_f1", "novelty", "validity"} <= set(scores)
    assert "On the straight line" in (recipe / "samples.md").read_text(encoding="utf-8")
    # A model without latent numbers has no bound, and no draws that it is of.
    sentence_score.main([*words, "--model", str(plain)])
    assert "importance_samples" not in read_results(plain / "results.json")["data"]
    found = sentence_baselines.main([*words, "--orders", "3", "4", "--plain", str(plain), "--update_results", "true"])
    assert read_results(recipe / "results.json")["baselines"] == found
    assert len(found) == 3 and "active_share" not in found["the same decoder without latent numbers"]

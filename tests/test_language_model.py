"""The language model recipe by its real command, and what its numbers mean."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from hf_genext import StaticEmbeddingModel
from hf_genext.hub import read_results
from recipes.arguments import SettingsError
from recipes.ngrams import KneserNeyModel
from recipes.train_language_model import TokenBlocks, encode_lines, read_lines
from recipes.train_language_model import main as train

ROOT = Path(__file__).parents[1]
SMOKE = "recipes/language_model/smoke.yaml"


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The smoke run of the recipe: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("language_model") / "model"
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    command = [*launcher, "recipes/train_language_model.py", SMOKE, "--output_dir", str(folder), "--num_threads", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def split_smoke_text():
    """The lines that the smoke run trains on and validates on."""
    from recipes.language_model.prepare_smoke_data import prepare_data

    lines = read_lines(prepare_data(Path())["train_file"])
    chosen = set(np.random.default_rng(0).choice(len(lines), 30, replace=False).tolist())
    return [line for place, line in enumerate(lines) if place not in chosen], [lines[place] for place in sorted(chosen)]


def test_the_folder_generates_and_is_complete(smoke):
    folder, printed = smoke
    names = {path.name for path in folder.iterdir()}
    assert {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "results.json",
        "README.md",
    } <= names
    assert not [path for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pkl")]  # Nothing to unpickle.
    pipe = pipeline("text-generation", model=str(folder))
    assert pipe("The violin is a", max_new_tokens=5, do_sample=False)[0]["generated_text"].startswith("The violin is a")
    card = ModelCard.load(folder / "README.md")
    assert card.data.pipeline_tag == "text-generation"
    assert f"{read_results(folder / 'results.json')['metrics']['perplexity']:.4g}" in printed


def test_its_numbers_are_those_of_a_plain_pass_over_the_validation_text(smoke):
    folder, _ = smoke
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    training, validation = split_smoke_text()
    tokens = torch.from_numpy(encode_lines(validation, tokenizer).astype(np.int64))
    nats, predicted = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(tokens) - 1, 31):
            block = tokens[start : start + 32]
            scores = model(block[None]).logits[0, :-1].double().log_softmax(-1)
            nats -= float(scores.gather(1, block[1:, None]).sum())
            predicted += len(block) - 1
    assert predicted == len(tokens) - 1
    results = read_results(folder / "results.json")
    characters = sum(len(line) + 1 for line in validation)
    assert results["metrics"]["perplexity"] == pytest.approx(math.exp(nats / predicted), rel=2e-2)  # bfloat16 where it is fast.
    assert results["metrics"]["bits_per_character"] == pytest.approx(nats / math.log(2) / characters, rel=5e-3)
    # It has learned something, and the n-grams are scored on the same tokens.
    assert results["metrics"]["perplexity"] < 0.5 * len(tokenizer)
    trigrams = KneserNeyModel(encode_lines(training, tokenizer), order=3, vocab_size=len(tokenizer))
    loss = -trigrams.score(tokens.numpy())[1:].mean()
    baseline = results["baselines"]["3-grams, modified Kneser-Ney"]
    assert baseline["bits_per_character"] == pytest.approx(loss * predicted / math.log(2) / characters)


def test_words_and_sentences_are_read_out_to_a_space(smoke, tmp_path):
    folder, _ = smoke
    texts = ["violin", "the violin", "The fire was put out on Monday."]
    space = StaticEmbeddingModel.from_pretrained_model(str(folder), words=texts, show_progress=False)
    assert list(space.words) == texts
    assert space[texts[2]].shape == (32,)
    assert -1 <= space.similarity(texts[0], texts[1]) < 1
    command = [sys.executable, "recipes/read_out.py", "--model", str(folder), "--words_file", str(folder / "words.tsv")]
    read_out = [*command, "--output_dir", str(tmp_path / "space"), "--num_threads", "1"]
    done = subprocess.run(read_out, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    words = StaticEmbeddingModel.from_pretrained(tmp_path / "space")
    counted = Counter(re.findall(r"[A-Za-z]+", " ".join(split_smoke_text()[0])))
    assert len(words) == 100
    assert list(words.words[:5]) == [word for word, _ in counted.most_common(5)]


def test_blocks_predict_every_token_once():
    tokens = np.arange(100, 123)
    blocks = TokenBlocks(tokens, 6, pad_to_full=True)
    predicted = [label for block in blocks for label in block["labels"] if label != -100]
    assert predicted == tokens[1:].tolist()
    assert all(len(block["input_ids"]) == 6 for block in blocks)
    assert all((block["labels"] == block["input_ids"])[block["labels"] != -100].all() for block in blocks)
    assert len(TokenBlocks(tokens, 6)) == 4  # The shorter last block is left out.
    with pytest.raises(ValueError, match="A block needs 24 tokens, the text has 23"):
        TokenBlocks(tokens, 24)


@pytest.mark.parametrize(
    ("content", "extra", "message"),
    [
        (b"\n \n", [], "holds no text"),
        (b"caf\xe9\n", [], "is not UTF-8"),
        (b"one\ntwo\n", ["--validation_size", "2"], "validation_size=2 of the 2 lines"),
        (b"one\ntwo\n", ["--update_results", "true"], "needs a settings file"),
        (
            b"one\ntwo\n",
            ["--architecture.n_embed", "8", "--blok_size", "3"],
            "no setting 'blok_size' .*Did you mean 'block_size'",
        ),
    ],
)
def test_texts_and_settings_that_cannot_be_used_are_refused(tmp_path, content, extra, message):
    path = tmp_path / "mine.txt"
    path.write_bytes(content)
    settings = [] if "--update_results" in extra else [str(ROOT / SMOKE)]
    with pytest.raises((SettingsError, ValueError), match=message):
        train([*settings, "--train_file", str(path), "--output_dir", str(tmp_path / "out"), *extra])
    assert not list((tmp_path / "out").glob("*.safetensors"))

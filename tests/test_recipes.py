"""Recipes by their real commands, and what they say to settings and data that cannot be used."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoProcessor, pipeline
from transformers.testing_utils import CaptureLogger
from transformers.utils import logging

from hf_genext.checkpoints import hold_folder
from hf_genext.data import group_references, read_pairs, split_by_source
from hf_genext.devices import has_compiler
from hf_genext.genext.tokenization_genext import train_tokenizer
from hf_genext.hub import read_results
from hf_genext.metrics import build_metrics
from hf_genext.training import GenextTrainingArguments
from recipes.arguments import SettingsError, parse_settings
from recipes.conditional_data import RowReader, find_data, group_rows, load_data
from recipes.conditional_model import check_generation, load_model
from recipes.evaluate import main as evaluate
from recipes.g2p.prepare_data import prepare_data
from recipes.train_conditional import DataSettings, ModelSettings, RunSettings
from recipes.train_conditional import main as train

ROOT = Path(__file__).parents[1]
SMOKE_CONFIGS = sorted(ROOT.glob("recipes/*/smoke.yaml"))
SMOKE = "recipes/g2p/smoke.yaml"
PIECES = ["--max_steps", "4", "--eval_steps", "4", "--save_steps", "4", "--num_threads", "1", "--validation_size", "40"]


def start(*arguments, **kwargs):
    """Start a recipe as the documentation says."""
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    command = [*launcher, "recipes/train_conditional.py", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, **kwargs
    )


def write_tsv(path, rows):
    path.write_text("".join(f"{word}\t{phones}\n" for word, phones in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The smoke run of the g2p recipe: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("smoke") / "model"
    kept = (ROOT / "recipes/g2p/results.json").read_bytes()
    process = start(SMOKE, "--output_dir", folder)
    printed, _ = process.communicate(timeout=400)
    assert process.returncode == 0, printed
    assert (ROOT / "recipes/g2p/results.json").read_bytes() == kept, "only --update_results may write it"
    return folder, printed


def test_the_smoke_run_leaves_a_complete_folder(smoke):
    folder, printed = smoke
    names = {path.name for path in folder.iterdir()}
    assert {
        *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "target_tokenizer"),
        *("README.md", "results.json", "validation_curve.png", "trainer_state.json"),
    } <= names
    assert not [path for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pkl")]  # Nothing to unpickle.
    results = read_results(folder / "results.json")
    assert results["data"]["validation_sources"] == 200
    assert 0 < results["metrics"]["word_error_rate"] <= 100 < results["data"]["training_rows"]
    assert f"{results['metrics']['word_error_rate']:.4g}" in printed
    card = ModelCard.load(folder / "README.md")
    assert card.data.eval_results[0].metric_type == "word_error_rate"
    assert "hf_genext" in card.data.tags


def test_the_folder_is_what_every_door_understands(smoke):
    folder, _ = smoke
    pipe = pipeline("conditional-generation", model=str(folder))
    assert pipe("Violin") == pipe("VIOLIN")
    assert pipe("violin")[0]["generated_text"]
    model, processor = AutoModelForSeq2SeqLM.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert model.config.vocab_size == len(processor.target_tokenizer)
    assert model.generation_config.eos_token_id == processor.target_tokenizer.eos_token_id


def kill_and_go_on(folder, *options):
    """Kill a smoke run behind its first checkpoint, and let it go on; once it has been told to."""
    process = start(SMOKE, "--output_dir", folder, *options)
    try:
        deadline = time.monotonic() + 300
        while not (folder / "checkpoint-30" / "complete.json").is_file():
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert not (folder / "model.safetensors").exists()
    process = start(SMOKE, "--output_dir", folder, *options)
    printed, _ = process.communicate(timeout=400)
    assert process.returncode != 0
    assert "holds checkpoints of an earlier run" in printed
    process = start(SMOKE, "--output_dir", folder, "--resume_from_checkpoint", "auto", *options)
    printed, _ = process.communicate(timeout=400)
    assert process.returncode == 0, printed
    assert f"Going on from {folder / 'checkpoint-30'}" in printed


def assert_same_weights(*folders):
    expected, actual = (load_file(path / "model.safetensors") for path in folders)
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


def test_a_run_that_is_killed_goes_on_to_the_same_weights(smoke, tmp_path):
    kill_and_go_on(tmp_path / "model")
    assert_same_weights(smoke[0], tmp_path / "model")


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(), reason="needs a C++ compiler and Python's headers")
def test_a_compiled_run_in_half_precision_goes_on_to_the_same_weights(tmp_path):
    options = ("--precision", "bf16", "--compile_layers", "yes", "--num_threads", "1")
    process = start(SMOKE, "--output_dir", tmp_path / "whole", *options)
    printed, _ = process.communicate(timeout=400)
    assert process.returncode == 0, printed
    kill_and_go_on(tmp_path / "model", *options)
    assert_same_weights(tmp_path / "whole", tmp_path / "model")


def test_fine_tuning_goes_on_from_the_folder(smoke, tmp_path, capsys):
    rows = [(f"{first}{second}", f"{first.upper()} AH") for first in "bdfgklmnpst" for second in "aeiou"]
    mine = write_tsv(tmp_path / "mine.tsv", rows)
    settings = ["--model", str(smoke[0]), "--train_file", mine, "--output_dir", str(tmp_path / "tuned")]
    # The phonemes of the model are the vocabulary: what it lacks is named.
    with pytest.raises(ValueError, match=r"Row \d+: the target vocabulary lacks 'QQ'"):
        train(
            [SMOKE, *settings, "--train_file", write_tsv(tmp_path / "bad.tsv", [*rows, ("quq", "QQ"), ("qui", "QQ")]), *PIECES]
        )
    train([SMOKE, *settings, *PIECES, "--validation_size", "10", "--example="])
    assert re.search(r'^pipe\("[bdfgklmnpst][aeiou]"\)$', (tmp_path / "tuned" / "README.md").read_text(), re.MULTILINE)
    before, after = (load_file(folder / "model.safetensors") for folder in (smoke[0], tmp_path / "tuned"))
    change = max((before[name] - after[name]).abs().max().item() for name in before)
    assert 0 < change < 0.1
    tuned = AutoProcessor.from_pretrained(tmp_path / "tuned")
    assert tuned.target_tokenizer.get_vocab() == AutoProcessor.from_pretrained(smoke[0]).target_tokenizer.get_vocab()


def test_a_model_of_both_directions_is_trained_reranked_and_tuned_as_such(smoke, tmp_path, capsys):
    rows = [(f"{first}{second}", f"{first.upper()} {second.upper()}") for first in "bdfgklmnpst" for second in "aeiou"]
    mine = write_tsv(tmp_path / "mine.tsv", rows)
    words = ["--train_file", mine, *PIECES, "--validation_size", "10"]
    train([SMOKE, "--both_directions", "true", "--output_dir", str(tmp_path / "both"), *words])
    processor = AutoProcessor.from_pretrained(tmp_path / "both")
    config = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "both").config
    assert processor.target_tokenizer.convert_ids_to_tokens(config.reversed_start_token_id) == "<reversed>"
    capsys.readouterr()
    search = ["--test_file", mine, "--num_beams", "3", "--limit", "9", "--num_threads", "1"]
    predictions = [tmp_path / "plain.tsv", tmp_path / "reranked.tsv"]
    for path, rerank in zip(predictions, ("false", "true"), strict=True):
        more = ["--rerank", rerank, "--predictions_file", str(path)]
        evaluate([SMOKE, "--model", str(tmp_path / "both"), *search, *more])
    pipe = pipeline("conditional-generation", model=str(tmp_path / "both"))
    sources = [source for source, _ in rows[:9]]
    expected = [answer[0]["generated_text"] for answer in pipe(sources, num_beams=3, rerank=True)]
    assert [line.split("\t")[1] for line in predictions[1].read_text().splitlines()] == expected
    with pytest.raises(ValueError, match="writes forwards only"):
        evaluate([SMOKE, "--model", str(smoke[0]), *search, "--rerank", "true"])
    # What goes on from the folder trains both directions again; a model of one direction can be taught the other.
    train([SMOKE, "--model", str(tmp_path / "both"), "--output_dir", str(tmp_path / "tuned"), *words])
    assert AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "tuned").config.reversed_start_token_id is not None
    words[1] = write_tsv(tmp_path / "known.tsv", [(source, f"{target[0]} AH") for source, target in rows])
    train([SMOKE, "--model", str(smoke[0]), "--both_directions", "true", "--output_dir", str(tmp_path / "taught"), *words])
    taught = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "taught").config
    names = AutoProcessor.from_pretrained(tmp_path / "taught").target_tokenizer
    assert (
        len(names) == taught.decoder.vocab_size == AutoModelForSeq2SeqLM.from_pretrained(smoke[0]).config.decoder.vocab_size + 1
    )
    assert names.convert_ids_to_tokens(taught.reversed_start_token_id) == "<reversed>"
    pipe = pipeline("conditional-generation", model=str(tmp_path / "taught"))
    first, second = (pipe("bark", rerank=rerank, return_scores=True)[0]["score"] for rerank in (True, False))
    assert first < 0 > second
    # What the model knew is as it was: but for the new token it writes what it wrote.
    before = AutoModelForSeq2SeqLM.from_pretrained(smoke[0]).eval()
    after, processor = load_model(ModelSettings(model=str(smoke[0]), both_directions=True), None)
    inputs = processor(text=["bark", "violin"], padding=True, return_tensors="pt")
    labels = torch.tensor([[5, 6, 7, 2], [9, 4, 2, 2]])
    logits = [model.eval()(**inputs, labels=labels).logits for model in (before, after)]
    assert torch.equal(logits[0], logits[1][..., :-1]) and logits[1].shape[-1] == after.config.reversed_start_token_id + 1


def test_training_stops_early_when_nothing_gets_better(tmp_path):
    rows = [(f"{first}{second}", f"{first.upper()} AH") for first in "bdfgklmnpst" for second in "aeiou"]
    words = ["--train_file", write_tsv(tmp_path / "mine.tsv", rows), "--output_dir", str(tmp_path / "out"), *PIECES]
    words += [
        "--max_steps",
        "400",
        "--learning_rate",
        "0",
        "--early_stopping_patience",
        "2",
        "--load_best_model_at_end",
        "true",
    ]
    with CaptureLogger(logging.get_logger("transformers.trainer")) as said:
        train([SMOKE, *words, "--metric_for_best_model", "loss", "--validation_size", "10", "--metrics", "exact_match"])
    assert "missing keys" not in said.out  # Of the best checkpoint, which has tied weights once.
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    assert state["global_step"] == 12  # Three evaluations, four steps apart: the first, and two that are no better.


@pytest.mark.parametrize(
    ("saved", "asked"),
    [
        ({"num_beams": 3}, {"num_beams": 3}),
        ({"num_candidates": 6, "candidate_temperature": 1.5, "num_beams": 2}, {"num_candidates": 6, "temperature": 1.5}),
    ],
    ids=["beams", "candidates"],
)
def test_defaults_of_generation_are_what_the_model_is_scored_and_saved_with(smoke, tmp_path, saved, asked):
    words = ["cat", "dog", "violin", "read"]
    pipe = pipeline("conditional-generation", model=str(smoke[0]))
    answers = [answer[0]["generated_text"] for answer in pipe(words, max_new_tokens=6, **asked)]
    assert answers != [answer[0]["generated_text"] for answer in pipe(words)]
    rows = write_tsv(tmp_path / "rows.tsv", list(zip(words, answers, strict=True)))
    command = [SMOKE, *PIECES[:-2], "--max_steps", "1", "--learning_rate", "0", "--model", str(smoke[0]), "--train_file", rows]
    command += ["--validation_file", rows, "--test_file", rows, "--output_dir", str(tmp_path / "out")]
    given = {**saved, "max_new_tokens": 6}
    train([*command, *(word for name, value in given.items() for word in (f"--generation.{name}", str(value)))])
    assert read_results(tmp_path / "out" / "results.json")["metrics"]["word_error_rate"] == 0
    pipe = pipeline("conditional-generation", model=str(tmp_path / "out"))
    assert [answer[0]["generated_text"] for answer in pipe(words)] == answers


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_beans": 3}, "generation has no 'num_beans'. Did you mean 'num_beams'"),
        ({"num_beams": 0}, "num_beams must be a whole number of 1 or more, got 0"),
        ({"top_p": 0.9}, "generation: .*top_p.*do_sample"),
        ({"guidance_scale": -1.0}, "guidance_scale must be a finite number of 0 or more, got -1"),
        ({"guidance_scale": 2.0}, "generation: .*trained with some of its conditions taken away"),
        ({"max_new_tokens": "many"}, "max_new_tokens must be a whole number of 1 or more, got 'many'"),
        ({"output_scores": True}, "output_scores changes what is given"),
        ({"num_candidates": 0}, "num_candidates must be a whole number of 1 or more, got 0"),
        ({"num_candidate": 3}, "generation has no 'num_candidate'. Did you mean 'num_candidates'"),
        ({"num_candidates": 3, "candidate_temperature": -1}, "candidate_temperature must be a finite number above 0, got -1"),
        ({"candidate_temperature": 0.5}, "candidate_temperature is that of num_candidates, which is missing"),
        ({"num_candidates": 3, "num_return_sequences": 4}, "num_return_sequences=4 is more than num_candidates=3"),
    ],
)
def test_defaults_of_generation_that_cannot_be_are_refused_before_the_training(smoke, fields, message):
    model, _ = load_model(ModelSettings(model=str(smoke[0])), None)
    with pytest.raises(SettingsError, match=f"(?s){message}"):
        check_generation(model, fields)
    assert model.generation_config.num_beams in (None, 1)


def test_any_model_is_scored_on_any_file(smoke, tmp_path, capsys, caplog):
    words = ["cat", "dog", "violin", "read"]
    pipe = pipeline("conditional-generation", model=str(smoke[0]))
    answers = [answer[0]["generated_text"] for answer in pipe(words, num_beams=2)]
    # Two are right by one of their references, one is wrong by one phoneme too many, one wholly.
    rows = [(words[0], answers[0]), (words[0], "QQ"), (words[1], "QQ"), (words[1], answers[1])]
    rows += [(words[2], answers[2].rsplit(" ", 1)[0]), (words[3], "QQ")]
    file = write_tsv(tmp_path / "test.tsv", rows)
    predictions = tmp_path / "a folder" / "predictions.tsv"
    arguments = ["--model", str(smoke[0]), "--test_file", file, "--num_beams", "2", "--predictions_file", str(predictions)]
    scores = evaluate([SMOKE, *arguments])
    assert scores["word_error_rate"] == 50.0
    lengths = [len(answer.split()) for answer in answers]
    errors = 1 + max(1, lengths[3])
    expected = 100 * errors / (lengths[0] + lengths[1] + lengths[2] - 1 + 1)
    assert scores["phoneme_error_rate"] == pytest.approx(expected)
    assert json.loads(capsys.readouterr().out.splitlines()[0])["sources"] == 4
    assert [line.split("\t")[1] for line in predictions.read_text().splitlines()] == answers
    with pytest.raises(SettingsError, match="--model FOLDER and --test_file FILE"):
        evaluate([SMOKE])
    with pytest.raises(SettingsError, match="limit must be 1 or more, got -1"):
        evaluate([SMOKE, *arguments, "--limit", "-1"])
    caplog.clear()
    long = write_tsv(tmp_path / "long.tsv", [("cat", "K AE T"), ("c" * 60, "K")])
    evaluate([SMOKE, "--model", str(smoke[0]), "--test_file", long])
    assert "1 of 2 conditions are longer than the model takes, and were cut" in caplog.text


KINDS = [ModelSettings, DataSettings, RunSettings]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--vaildation_size", "3"], "no setting 'vaildation_size' .*Did you mean 'validation_size'"),
        (["--decoder", "3"], "decoder must have named parts"),
        (["--title.size", "3"], "title has no parts"),
        (["--validation_size", "many"], "invalid float value: 'many'"),
        (["--decoder", "{a: "], "--decoder: '{a: ' is not valid YAML"),
        (["--decoder.hidden_size", "{a: "], "--decoder.hidden_size: '{a: ' is not valid YAML"),
        (["no.yaml"], "no settings file 'no.yaml'"),
    ],
)
def test_settings_that_cannot_be_used_are_named(words, message):
    with pytest.raises(SettingsError, match=message):
        parse_settings(KINDS, words)


def test_settings_come_from_the_file_then_from_the_command_line(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("validation_size: 3\ndecoder: {hidden_size: 8, dropout: 0.1}\nmetrics: [bleu, chrf]\n")
    model, data, run, found = parse_settings(KINDS, [str(path), "--decoder.hidden_size", "16", "--title=A b"])
    assert model.decoder == {"hidden_size": 16, "dropout": 0.1}
    assert (data.validation_size, data.metrics, run.title, found) == (3, ["bleu", "chrf"], "A b", path)
    with pytest.raises(SettingsError, match="Unexpected 'extra'"):
        parse_settings(KINDS, [str(path), "extra"])
    assert parse_settings(KINDS, [str(path), "--metrics", "null"])[1].metrics is None
    model, data, *_ = parse_settings(KINDS, [str(path), "--decoder", "a/folder", "--conditions.vector.space", "out/glove"])
    assert (model.decoder, data.conditions) == ("a/folder", {"vector": {"space": "out/glove"}})
    with pytest.raises(SettingsError, match="decoder is 'a/folder', which has no part 'hidden_size'"):
        parse_settings(KINDS, [str(path), "--decoder", "a/folder", "--decoder.hidden_size", "3"])
    for content, message in (
        (b"validatoin_size: 3\n", "Did you mean 'validation_size'"),
        (b"- 3\n", "key: value"),
        (b"a: [", "YAML"),
        (b"3: a\n", "no setting 3 "),
        (b"title: \xe9\n", "not UTF-8: byte 0xe9 at offset 7"),
        (b"title: a\ntask: b\ntitle: c\n", "sets 'title' a second time in line 3"),
        (b"decoder: {dropout: 0.1, hidden_size: 8, dropout: 0.2}\n", "sets 'dropout' a second time in line 1"),
    ):
        path.write_bytes(content)
        with pytest.raises(SettingsError, match=message):
            parse_settings(KINDS, [str(path)])


def test_numbers_may_be_written_with_an_exponent_alone(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("decoder: {dropout: 1e-1}\nlora: {lora_dropout: 2E-2, lora_alpha: .5e+1}\n")
    model, *_ = parse_settings(KINDS, [str(path), "--decoder.initializer_range", "1e-3", "--decoder.name", "e5"])
    assert model.decoder == {"dropout": 0.1, "initializer_range": 0.001, "name": "e5"}
    assert model.lora == {"lora_dropout": 0.02, "lora_alpha": 5.0}


def test_words_are_taken_as_they_are_written(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text(
        "source_column: no\ntarget_column: On\ncolumn_names: [no, yes, On]\nexample: -ness\nmetrics: []\ncalibrate: on\n"
        "eval_strategy: no\ncompile_layers: no\noutput_dir: out\n"
    )
    model, data, run, args, _ = parse_settings([*KINDS, GenextTrainingArguments], [str(path)])
    assert (data.source_column, data.target_column, data.column_names) == ("no", "On", ["no", "yes", "On"])
    assert (run.example, data.metrics, model.calibrate) == ("-ness", None, True)
    assert (args.eval_strategy, args.compile_layers) == ("no", "no")
    assert parse_settings(KINDS, ["--example", "-ness"])[2].example == "-ness"


@pytest.mark.parametrize(
    ("content", "extra", "message"),
    [
        (b"", [], "is empty"),
        (b"cat\tK \xff\n", [], "not UTF-8"),
        (
            b"cat\tK AE T\ndog\tD AO G\n",
            ["--source_column", "spelling"],
            "no column 'spelling' in .*it has 'word', 'pronunciation'",
        ),
        (b"c" * 60 + b"\tK\ndog\tD AO G\n" * 9, ["--validation_size", "1"], "source of 61 tokens .*the model takes 48"),
        (b"cat\tK AE T\ndog\tD AO G\n", ["--metrics", "wer"], "no metric 'wer'"),
        (b"cat\tK AE T\ndog\tD AO G\n", ["--decoder.hiden_size", "8"], "no field 'hiden_size'. Did you mean 'hidden_size'"),
        (b"cat\tK AE T\ndog\tD AO G\n", ["--validation_size", "7"], "7 of 2 distinct sources"),
        (b"cat\tK AE T\ndog\tD AO G\n", ["--model", "no/folder"], r"no model 'no/folder', neither as a folder \(looked from"),
        (
            b"cat\tK AE T\ndog\tD AO G\n",
            ["--metric_for_best_model", "word_rate"],
            "'word_rate', which no evaluation gives; known are loss, word_error_rate, phoneme_error_rate",
        ),
        (
            b"cat\tK AE T\ndog\tD AO G\n",
            ["--deciding_metrics", "{word_eror_rate: lower}"],
            "no metric 'word_eror_rate'. Did you mean 'word_error_rate'",
        ),
        (
            b"cat\tK AE T\ndog\tD AO G\n",
            ["--deciding_metrics", "{word_error_rate: less}"],
            "word_error_rate must be higher or lower, got 'less'",
        ),
    ],
)
def test_data_and_models_that_cannot_be_used_are_refused(tmp_path, content, extra, message):
    path = tmp_path / "mine.tsv"
    path.write_bytes(content)
    output = ["--output_dir", str(tmp_path / "out")]
    with pytest.raises(ValueError, match=message):
        train([SMOKE, "--train_file", str(path), *output, *PIECES, "--validation_size", "1", *extra])
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_rows_to_score_that_are_refused_are_so_before_the_training(tmp_path):
    mine = write_tsv(tmp_path / "mine.tsv", [("cat", "K AE T"), ("dog", "D AO G"), ("god", "G AO D"), ("tac", "T AE K")])
    files = ["--train_file", mine, "--test_file", write_tsv(tmp_path / "test.tsv", [("cat", "K AE QQ")])]
    words = [*PIECES, "--metrics", "perplexity", "--validation_size", "1", "--output_dir", str(tmp_path / "out")]
    with pytest.raises(ValueError, match="Row 1: the target vocabulary lacks 'QQ'"):
        train([SMOKE, *files, "--max_steps", "1", "--save_steps", "1", *words])
    assert not list((tmp_path / "out").glob("checkpoint-*"))


def test_results_that_cannot_be_updated_are_refused_before_the_training(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text((ROOT / SMOKE).read_text())
    mine = write_tsv(tmp_path / "mine.tsv", [("cat", "K AE T"), ("dog", "D AO G")])
    words = ["--train_file", mine, "--output_dir", str(tmp_path / "out"), *PIECES, "--update_results", "true"]
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(ValueError, match="lack the field 'metrics'"):
        train([str(config), *words])
    with pytest.raises(SettingsError, match="needs a settings file"):
        train(words)
    assert not list((tmp_path / "out").glob("checkpoint-*"))


def test_the_command_ends_with_one_line_and_no_traceback(tmp_path):
    process = start(SMOKE, "--learning_rat", "3", "--output_dir", tmp_path)
    printed, _ = process.communicate(timeout=200)
    assert process.returncode != 0
    script = printed.split("Traceback")[0]  # What follows is the launcher's own.
    assert "error: There is no setting 'learning_rat' (in the command line). Did you mean 'learning_rate'?" in script


@pytest.mark.parametrize(
    ("ending", "status", "message"),
    [
        ("os.kill(os.getpid(), signal.SIGINT); time.sleep(60)", 130, "interrupted; "),
        ("save_file({'weight': torch.zeros(10_000)}, sys.argv[1])", 1, "error: .*File too large"),  # As on a full disk.
    ],
)
def test_a_command_that_is_interrupted_or_finds_no_room_says_so_in_one_line(tmp_path, ending, status, message):
    program = (
        "import os, resource, signal, sys, time, torch; from safetensors.torch import save_file\n"
        "from recipes.running import run_main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler); signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))\n"
        f"def main():\n    {ending}\n"
        "run_main(main)\n"
    )
    words = [sys.executable, "-c", program, str(tmp_path / "weights.safetensors")]
    run = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    assert run.returncode == status, run.stderr
    assert len(run.stderr.splitlines()) == 1 and re.match(message, run.stderr), run.stderr


def test_an_output_folder_in_use_is_refused(tmp_path):
    with hold_folder(tmp_path), pytest.raises(RuntimeError, match="is in use by process"):
        train([SMOKE, "--output_dir", str(tmp_path), *PIECES])


def test_stopping_early_needs_something_to_wait_for(tmp_path):
    without = ["--metric_for_best_model", "null", "--load_best_model_at_end", "false"]
    with pytest.raises(SettingsError, match="set metric_for_best_model"):
        train([SMOKE, "--output_dir", str(tmp_path), "--early_stopping_patience", "2", *without])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--metric_for_best_model", "word_error_rate", "--greater_is_better", "true"], "set greater_is_better: false"),
        (["--baselines", "{rival: 24.5}"], "baselines: 'rival' needs its numbers by the names of metrics"),
        (["--baselines", "{rival: {word_error_rate: '24'}}"], "baselines: 'rival' needs"),
    ],
)
def test_what_only_the_end_of_a_training_would_find_is_refused_before_it(tmp_path, words, message):
    with pytest.raises(SettingsError, match=message):
        train([SMOKE, "--output_dir", str(tmp_path), *words])


def test_sources_that_differ_in_case_are_one_where_the_model_makes_no_difference():
    rows = datasets.Dataset.from_dict({"source": ["Polish", "polish", "POLISH", "cat"], "target": ["a", "b", "c", "d"]})
    tokenizers = [train_tokenizer(rows["source"], unit="character", lowercase=lowercase) for lowercase in (True, False)]
    folded, kept = (group_rows(rows, tokenizer) for tokenizer in tokenizers)
    assert folded["source"] == ["Polish", "cat"] and folded["references"] == [["a", "b", "c"], ["d"]]
    assert kept["source"] == ["Polish", "polish", "POLISH", "cat"] and kept["references"] == [["a"], ["b"], ["c"], ["d"]]


def test_references_are_what_the_target_tokenizer_can_write():
    references = ["K AE T ", "K  AE T", "cafe\u0301", "KAFE", "K ZH T"]
    rows = datasets.Dataset.from_dict({"source": list("abcde"), "target": references})
    tokenizer = train_tokenizer(["K AE T", "caf\u00e9", "kafe"], unit="word", lowercase=True)
    expected = ["k ae t", "k ae t", "caf\u00e9", "kafe", "K ZH T"]
    assert group_rows(rows, None, tokenizer)["references"] == [[text] for text in expected]
    assert group_rows(rows)["references"] == [[text] for text in references]
    written = tokenizer.batch_decode(tokenizer(references)["input_ids"], skip_special_tokens=True)
    scores = build_metrics(["word_error_rate"])(written, group_rows(rows, None, tokenizer)["references"])
    assert scores["word_error_rate"] == pytest.approx(20.0)  # The last, whose token is not known.


def test_the_readmes_commands_take_files_of_any_size(tmp_path):
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    commands = [
        line.split()[3:] for line in text.splitlines() if line.startswith("accelerate") and "--train_file mine.tsv" in line
    ]
    assert len(commands) == 2
    for words in commands:
        words[words.index("mine.tsv")] = write_tsv(
            tmp_path / "mine.tsv", [(f"{number}", f"K {number}") for number in range(60)]
        )
        kinds = [ModelSettings, DataSettings, RunSettings, GenextTrainingArguments]
        _, settings, _, _, config_path = parse_settings(kinds, words)
        data = load_data(settings, RowReader(settings), find_data(settings, tmp_path, config_path))
        assert (len(data.train), len(data.validation)) == (54, 6)


def test_every_recipe_has_its_files_and_its_settings_are_known():
    assert SMOKE_CONFIGS
    for folder in {path.parent for path in SMOKE_CONFIGS}:
        for name in ("config.yaml", "README.md"):
            assert (folder / name).is_file(), f"{folder} lacks {name}"
        if "Not run in full yet" not in (folder / "README.md").read_text(encoding="utf-8"):
            settings = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
            read_results(folder / settings.get("results_file", "results.json"))
        for config in folder.glob("*.yaml"):
            text = config.read_text(encoding="utf-8")
            named = re.search(
                rf"^#   (?:accelerate launch|python) recipes/(\w+)\.py {config.relative_to(ROOT)}$", text, re.MULTILINE
            )
            assert named, f"{config} does not name its command"
            script = importlib.import_module(f"recipes.{named[1]}")
            kinds = [kind for name, kind in vars(script).items() if name.endswith(("Settings", "Arguments"))]
            assert kinds
            assert yaml.safe_load(text)["output_dir"].startswith("out/")
            parse_settings(kinds, [str(config)])


@pytest.mark.slow
def test_two_ranks_are_two_and_leave_one_folder(tmp_path):
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1"}
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu", "--num_processes", "2"]
    command = [*launcher, "recipes/train_conditional.py", SMOKE, "--output_dir", str(tmp_path / "model"), "--num_threads", "1"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr
    results = read_results(tmp_path / "model" / "results.json")
    assert "2 threads" in results["hardware"]
    # What the ranks scored together is what one process scores alone: no word twice, none left out.
    rows, _ = read_pairs(
        prepare_data(tmp_path)["train_file"],
        source_column="word",
        target_column="pronunciation",
        column_names=["word", "pronunciation"],
    )
    references = group_references(split_by_source(rows, 200, seed=0)[1])
    answers = pipeline("conditional-generation", model=str(tmp_path / "model"))(list(references["source"]), batch_size=64)
    metrics = build_metrics(["word_error_rate", "phoneme_error_rate"])
    alone = metrics([answer[0]["generated_text"] for answer in answers], list(references["references"]))
    assert results["metrics"] == pytest.approx(alone)

"""The contract of a Transformers pipeline, kept by ours."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import datasets
import numpy as np
import pandas
import pytest
import torch
from specimens import WORDS, build_native_model, build_processor
from transformers import AutoModelForSeq2SeqLM, AutoProcessor, AutoTokenizer, GenerationConfig, pipeline
from transformers.pipelines.pt_utils import KeyDataset

from hf_genext import ConditionalGenerationPipeline, GenextForConditionalGeneration, GenextModel
from hf_genext.agreement import generate_by_agreement

TASK = "conditional-generation"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder as a training leaves it, with random weights that answer differently to each word."""
    processor = build_processor()
    model = build_native_model(processor, tie_word_embeddings=True)
    model.generation_config = GenerationConfig(
        max_new_tokens=9,
        decoder_start_token_id=model.config.decoder_start_token_id,
        pad_token_id=model.config.pad_token_id,
        eos_token_id=model.config.eos_token_id,
    )
    path = tmp_path_factory.mktemp("model")
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def pipe(folder):
    return pipeline(TASK, model=str(folder))


@pytest.fixture(scope="module")
def expected(folder):
    """The answers by `generate` itself, one word at a time."""
    model, processor = AutoModelForSeq2SeqLM.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    answers = []
    for word in WORDS:
        ids = model.generate(**processor(text=word, return_tensors="pt"))
        answers.append([{"generated_text": processor.batch_decode(ids, skip_special_tokens=True)[0]}])
    assert len({answer[0]["generated_text"] for answer in answers}) > len(WORDS) // 2
    return answers


def test_one_string_and_a_list(pipe, expected):
    assert isinstance(pipe, ConditionalGenerationPipeline)
    assert pipe(WORDS[0]) == expected[0]
    assert pipe(WORDS) == expected
    assert pipe(tuple(WORDS)) == expected
    assert pipe([WORDS[1]]) == [expected[1]]
    assert pipe([]) == []


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_every_kind_of_input_gives_the_same_alone_and_in_a_batch(pipe, expected, batch_size):
    rows = datasets.Dataset.from_dict({"word": WORDS})
    assert pipe(WORDS, batch_size=batch_size) == expected
    assert list(pipe((word for word in WORDS), batch_size=batch_size)) == expected
    assert pipe(rows["word"], batch_size=batch_size) == expected
    assert list(pipe(KeyDataset(rows, "word"), batch_size=batch_size)) == expected
    table = pandas.DataFrame({"word": WORDS})
    for column in (table["word"], table["word"].astype("string"), np.array(WORDS), np.array(WORDS, dtype=object)):
        assert pipe(column, batch_size=batch_size) == expected
    assert pipe.score(table["word"], np.array(WORDS)) == pipe.score(WORDS, WORDS)


def test_what_is_read_but_once_is_answered_as_a_generator_is(pipe, expected):
    rows = datasets.Dataset.from_dict({"word": WORDS})
    with pytest.raises(TypeError, match='Of a dataset pass one column, such as dataset\\["word"\\]'):
        pipe(rows)
    for inputs in (iter(WORDS), map(str.lower, WORDS), rows.to_iterable_dataset()["word"]):
        assert list(pipe(inputs)) == expected
    assert [list(stream)[-1]["generated_text"] for stream in pipe.stream(word for word in WORDS[:2])] == [
        answer["generated_text"] for (answer,) in expected[:2]
    ]
    targets = ["K", "AE T"]
    assert pipe.score(iter(WORDS[:2]), map(str, targets)) == pipe.score(WORDS[:2], targets)


def test_a_generator_is_read_as_it_is_needed(pipe, expected):
    read = []

    def words():
        for word in WORDS:
            read.append(word)
            yield word

    answers = iter(pipe(words()))
    assert next(answers) == expected[0]
    assert len(read) < len(WORDS)


def test_generation_arguments_reach_generate(pipe, folder):
    model, processor = pipe.model, AutoProcessor.from_pretrained(folder)
    beams = {"num_beams": 4, "num_return_sequences": 3, "max_new_tokens": 6}
    for batch_size in (1, 4):
        for word, answers in zip(WORDS, pipe(WORDS, batch_size=batch_size, **beams), strict=True):
            ids = model.generate(**processor(text=word, return_tensors="pt"), **beams)
            assert [answer["generated_text"] for answer in answers] == processor.batch_decode(ids, skip_special_tokens=True)
    assert len(pipe("cat", max_new_tokens=2, min_new_tokens=2)[0]["generated_text"].split()) <= 2


def test_sampling_gives_several_answers_and_the_seed_decides(pipe):
    def sample():
        torch.manual_seed(7)
        return pipe("violin", do_sample=True, num_return_sequences=8)

    answers = sample()
    assert len(answers) == 8
    assert len({answer["generated_text"] for answer in answers}) > 1
    assert sample() == answers


def test_saved_generation_defaults_hold_and_a_call_overrides_them(folder, tmp_path):
    copied = tmp_path / "copied"
    shutil.copytree(folder, copied)
    saved = json.loads((copied / "generation_config.json").read_text())
    (copied / "generation_config.json").write_text(json.dumps({**saved, "num_beams": 3, "num_return_sequences": 2}))
    opened = pipeline(TASK, model=str(copied))
    assert len(opened("cat")) == 2
    assert len(opened("cat", num_return_sequences=1)) == 1


def test_a_saved_pipeline_opens_again_without_remote_code(pipe, expected, tmp_path):
    pipe.save_pretrained(tmp_path)
    assert pipeline(TASK, model=str(tmp_path))(WORDS) == expected
    assert "custom_pipelines" not in json.loads((tmp_path / "config.json").read_text())
    with pytest.raises(NotADirectoryError, match="is a file"):
        pipe.save_pretrained(tmp_path / "config.json")


def test_model_and_processor_objects_are_taken_too(folder, expected):
    model, processor = AutoModelForSeq2SeqLM.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert pipeline(TASK, model=model, processor=processor)(WORDS) == expected


def test_the_folder_opens_through_every_door_that_fits(folder):
    assert type(AutoModelForSeq2SeqLM.from_pretrained(folder)) is GenextForConditionalGeneration
    assert AutoTokenizer.from_pretrained(folder)("Cat")["input_ids"] == build_processor()(text="cat")["input_ids"]
    encoder = GenextModel.from_pretrained(folder)
    inputs = AutoProcessor.from_pretrained(folder)(text=["cat", "violin"], padding=True, return_tensors="pt")
    whole = AutoModelForSeq2SeqLM.from_pretrained(folder)
    torch.testing.assert_close(encoder.encode(**inputs), whole.encode(**inputs))


@pytest.mark.parametrize("given", [3, None, {"word": "cat"}, ["cat", 3], ["cat", None], b"cat"])
def test_what_is_no_text_is_refused(pipe, given):
    with pytest.raises((TypeError, ValueError), match="must be a string"):
        pipe(given)


@pytest.mark.parametrize("given", ["", "  ", ["cat", "\n"]])
def test_a_text_without_content_is_refused(pipe, given):
    with pytest.raises(ValueError, match="must have some content"):
        pipe(given)


def test_half_a_pair_of_surrogates_is_refused_by_the_name_of_its_row(pipe, expected):
    with pytest.raises(ValueError, match=r"'do\\ud800g' is no text that can be written: its character 2 is half") as caught:
        pipe(["cat", "do\ud800g", "at"], batch_size=2)
    assert caught.value.__notes__ == ["This was input 1, counted from 0."]
    answers = pipe.answer_each([*WORDS, "\ud800"])
    assert answers[:-1] == expected and isinstance(answers[-1], ValueError)
    for asked in ({"target_prefix": "\ud800"}, {"banned_words": ["\ud800"]}, {"allowed_outputs": ["\ud800"]}):
        with pytest.raises(ValueError, match="is no text that can be written"):
            pipe("cat", **asked)


def test_a_text_longer_than_the_model_is_refused_or_cut_on_request(pipe):
    with pytest.raises(ValueError, match=r"has 41 tokens; the model takes 24.*truncation=\"truncate\""):
        pipe("a" * 40)
    cut = pipe("a" * 40, truncation=True)
    assert cut == [{**answer, "truncated": True} for answer in pipe("a" * 23)]


def test_ten_megabytes_of_text_are_refused_or_cut(pipe):
    for huge in ("a" * 10_000_000, "at " * 3_000_000):
        with pytest.raises(ValueError, match=rf"has {len(huge):,} characters; the model takes 24 tokens"):
            pipe(["cat", huge])
        assert pipe(huge, truncation="truncate") == pipe(huge[:40], truncation="truncate")


def test_no_compiler_is_needed_to_generate(folder):
    code = (
        "import os, shutil; os.environ['PATH'] = ''; assert shutil.which('cc') is None\n"
        "from transformers import pipeline; import hf_genext\n"
        f"pipe = pipeline({TASK!r}, model={str(folder)!r}, engine='torch')\n"
        "print(pipe(['cat', 'violin']), pipe('cat', num_beams=3), pipe('cat', do_sample=True, seed=1))"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("CC", "CXX")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_folder_without_a_processor_says_what_is_missing(folder, tmp_path):
    GenextForConditionalGeneration.from_pretrained(folder).save_pretrained(tmp_path)
    with pytest.raises(OSError, match="tokenizer"):
        pipeline(TASK, model=str(tmp_path))


@pytest.mark.parametrize("length", [0, 5, 2000])
def test_half_a_file_of_weights_is_told_by_its_folder(pipe, tmp_path, length):
    pipe.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:length])
    with pytest.raises(ValueError, match=rf"The weights in '{tmp_path}' are damaged, or half of them were written"):
        pipeline(TASK, model=str(tmp_path))


def test_a_model_that_generates_nothing_is_refused(folder):
    with pytest.raises(ValueError, match="does not generate"):
        pipeline(TASK, model=GenextModel.from_pretrained(folder), processor=AutoProcessor.from_pretrained(folder))


def test_a_lost_target_tokenizer_is_an_error(folder, tmp_path):
    copied = tmp_path / "copied"
    shutil.copytree(folder, copied)
    shutil.rmtree(copied / "target_tokenizer")
    with pytest.raises(OSError, match="target_tokenizer"):
        AutoProcessor.from_pretrained(copied)
    with pytest.raises(OSError, match="target_tokenizer"):
        pipeline(TASK, model=str(copied))


def test_reranking_is_generation_by_agreement_of_both_directions(folder, pipe, tmp_path):
    model, processor = AutoModelForSeq2SeqLM.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    model.config.reversed_start_token_id = processor.target_tokenizer.unk_token_id
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    both = pipeline(TASK, model=str(tmp_path))
    answers = both(WORDS, rerank=True, num_beams=3, batch_size=4)
    for word, answer in zip(WORDS, answers, strict=True):
        ids = generate_by_agreement(model, num_beams=3, max_new_tokens=9, **processor(text=word, return_tensors="pt"))
        assert [answer[0]["generated_text"]] == processor.batch_decode(ids, skip_special_tokens=True)
    assert answers != both(WORDS, num_beams=3)
    assert both(WORDS, rerank=False) == pipe(WORDS)
    assert len(both("cat", rerank=True, num_beams=3, num_return_sequences=2)) == 2
    with pytest.raises(ValueError, match="writes forwards only"):
        pipe(WORDS[0], rerank=True, num_beams=3)

"""Batch jobs: a row of the output for each row of the input, whatever kills the job, and the pipeline's answers in it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import resource
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from batch_job_specimens import make_words, read, run, save_model, write_words
from specimens import WORDS, build_config, build_native_model, build_prediction, build_processor, sharpen
from transformers import pipeline

from hf_genext import GenextForPrediction, GenextHeadConfig, GenextProcessor, row_shards, train_tokenizer
from hf_genext.checkpoints import hold_folder
from hf_genext.media import open_picture
from hf_genext.row_sources import open_source
from hf_genext.tables import to_string
from recipes.generate import main

ROOT = Path(__file__).resolve().parents[1]
TASK = "conditional-generation"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def pipe(folder):
    return pipeline(TASK, model=str(folder))


# Reading, answering, writing


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("in.parquet", "out.parquet"),
        ("in.parquet", "out.jsonl"),
        ("in.jsonl", "out.parquet"),
        ("in.jsonl", "out.jsonl"),
        ("in.csv", "out.parquet"),
        ("in.tsv.gz", "out.jsonl"),
    ],
)
def test_every_row_has_the_answer_of_the_pipeline(folder, pipe, tmp_path, source, output):
    words = make_words(50)
    has_types = "parquet" in source or "jsonl" in source
    report = run(folder, write_words(tmp_path / source, words), tmp_path / output, "--rows_per_shard", 8)
    assert (report.rows, report.failed) == (50, 0)
    for number, (row, word) in enumerate(zip(read(tmp_path / output), words, strict=True)):
        answer = pipe(word)[0]["generated_text"]
        expected_number = number if has_types else str(number)
        assert row == {"word": word, "number": expected_number, "generated_text": answer, "error": None}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([source, output])


def test_lines_of_text_and_streams_of_datasets(folder, pipe, tmp_path):
    words = make_words(20)
    expected = [pipe(word)[0]["generated_text"] for word in words]
    (tmp_path / "in.txt").write_text("\n".join(words))
    given = ["--model", str(folder), "--input", str(tmp_path / "in.txt"), "--output", str(tmp_path / "lines.jsonl")]
    main(given)
    assert [row["generated_text"] for row in read(tmp_path / "lines.jsonl")] == expected
    rows = datasets.Dataset.from_dict({"word": words})
    datasets.DatasetDict({"test": rows}).save_to_disk(tmp_path / "saved")
    run(folder, tmp_path / "saved", tmp_path / "saved.parquet", "--dataset_split", "test")
    assert [row["generated_text"] for row in read(tmp_path / "saved.parquet")] == expected
    (tmp_path / "streamed").mkdir()
    write_words(tmp_path / "streamed" / "data.jsonl", words)
    run(folder, tmp_path / "streamed", tmp_path / "streamed.parquet", "--rows_per_shard", 7)
    assert [row["generated_text"] for row in read(tmp_path / "streamed.parquet")] == expected


def test_what_nobody_says_is_found_and_what_is_said_in_words_is_taken(folder, pipe, tmp_path):
    given = ["--model", str(folder), "--input", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl")]
    for columns, used in ((("source", "target"), "source"), (("source", "text"), "text")):
        (tmp_path / "in.jsonl").write_text(json.dumps(dict(zip(columns, WORDS, strict=False))) + "\n")
        main(given)
        (row,) = read(tmp_path / "out.jsonl")
        assert row["generated_text"] == pipe(row[used])[0]["generated_text"]
        (tmp_path / "out.jsonl").unlink()
    (tmp_path / "in.jsonl").write_text('{"text": "cat"}\n' + json.dumps({"text": "a" * 99}) + "\n")
    for word, is_cut in (("truncate", True), ("true", True), ("error", False), ("False", False)):
        main([*given, "--truncation", word])
        assert (read(tmp_path / "out.jsonl")[1]["error"] is None) == is_cut
        (tmp_path / "out.jsonl").unlink()
    with pytest.raises(ValueError, match='truncation must be "error"'):
        main([*given, "--truncation", "longest_first"])


def test_several_answers_scores_and_seeds(folder, pipe, tmp_path):
    words = make_words(30)
    source = write_words(tmp_path / "in.parquet", words)
    arguments = {"do_sample": True, "num_return_sequences": 2, "return_scores": True, "temperature": 0.8}
    settings = [word for name, value in arguments.items() for word in (f"--{name}", value)]
    run(folder, source, tmp_path / "out.parquet", *settings, "--seed", 7, "--rows_per_shard", 11, "--keep_columns", "number")
    for number, (row, answers) in enumerate(zip(read(tmp_path / "out.parquet"), pipe(words, seed=7, **arguments), strict=True)):
        assert row["number"] == number
        assert "word" not in row
        assert row["generated_text"] == [answer["generated_text"] for answer in answers]
        assert row["score"] == pytest.approx([answer["score"] for answer in answers], abs=1e-4)
        for found, answer in zip(row["token_scores"], answers, strict=True):
            assert found == pytest.approx(answer["token_scores"], abs=1e-4)


def test_what_is_chosen_from_draws_is_the_same_each_time(folder, pipe, tmp_path):
    words = make_words(12)
    source = write_words(tmp_path / "in.parquet", words)
    for name, more in (("one.parquet", []), ("two.parquet", ["--rows_per_shard", 5])):
        run(folder, source, tmp_path / name, "--num_candidates", 5, *more)
        found = [row["generated_text"] for row in read(tmp_path / name)]
        assert found == [row[0]["generated_text"] for row in pipe(words, num_candidates=5)]
    run(folder, source, tmp_path / "seeded.parquet", "--num_candidates", 5, "--seed", 4)
    found = [row["generated_text"] for row in read(tmp_path / "seeded.parquet")]
    assert found == [row[0]["generated_text"] for row in pipe(words, num_candidates=5, seed=4)]


@pytest.mark.parametrize("kind", ["class", "labels", "regression"])
def test_single_outputs(tmp_path, kind):
    config, processor = build_config(), build_processor()
    config.conditioner.vocab_size, config.decoder.vocab_size = len(processor.tokenizer), len(processor.target_tokenizer)
    config.head = GenextHeadConfig(kind=kind, output_names=["height", "width"])
    sharpen(GenextForPrediction(config)).save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    source = write_words(tmp_path / "in.tsv", WORDS)
    for output in (tmp_path / "out.parquet", tmp_path / "out.jsonl"):
        run(tmp_path / "model", source, output, "--batch_size", 3)
        for row, (answer,) in zip(read(output), pipeline(TASK, model=str(tmp_path / "model"))(WORDS), strict=True):
            for name, value in answer.items():
                if isinstance(value, dict):
                    assert row[name] == pytest.approx(value, abs=1e-4)
                else:
                    assert row[name] == (pytest.approx(value, abs=1e-4) if isinstance(value, float) else value)


@pytest.mark.parametrize("kind", ["class", "labels", "regression", "mixture", "image"])
@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_single_outputs_that_are_drawn(tmp_path, kind, suffix):
    processor, model = build_processor(), build_prediction(kind)
    model.config.conditioner.vocab_size = len(processor.tokenizer)
    sharpen(GenextForPrediction(model.config)).save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    pipe = pipeline(TASK, model=str(tmp_path / "model"))
    source, output = write_words(tmp_path / "in.tsv", WORDS), tmp_path / f"out.{suffix}"
    for arguments in ({"seed": 7, "num_return_sequences": 3}, {"seed": 7}, {} if kind in ("mixture", "image") else {"seed": 8}):
        run(tmp_path / "model", source, output, *(word for name, value in arguments.items() for word in (f"--{name}", value)))
        for row, answers in zip(read(output), pipe(WORDS, **arguments), strict=True):
            (name,) = answers[0]
            assert set(row) == {"word", "number", "error", name}
            assert row["error"] is None
            given = row[name] if "num_return_sequences" in arguments else [row[name]]
            wanted = [answer[name] for answer in answers]
            if kind == "image":
                # What is written is what the pipeline, and `datasets`, open.
                given = [np.asarray(open_picture(picture)) for picture in given]
                wanted = [np.asarray(picture.convert("RGB")) for picture in wanted]
            if kind in ("class", "labels"):
                assert given == wanted
            else:
                assert len(given) == len(wanted)
                for one, other in zip(given, wanted, strict=True):
                    assert one == pytest.approx(other, abs=1e-4)
        output.unlink()


# Rows that fail


def test_rows_that_fail_have_their_error_and_leave_the_others_alone(folder, pipe, tmp_path):
    lines = [
        b'{"word": "cat"}',
        b'{"word": ""}',
        b'{"word": "vi',
        b'{"number": 3}',
        b'["tacit"]',
        b'{"word": "' + b"a" * 99 + b'"}',
        b'{"word": "\xff"}',
        b'{"word": [5]}',
        b'{"word": "violin"}',
    ]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines))
    report = run(folder, tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    rows = read(tmp_path / "out.jsonl")
    assert (report.rows, report.failed) == (9, 7)
    for place, word in ((0, "cat"), (8, "violin")):
        assert rows[place] == {"word": word, "generated_text": pipe(word)[0]["generated_text"], "error": None}
    told = [
        "There is no condition: 'word' is empty",
        "Row 2 of .* is not JSON",
        "There is no condition: 'word' is empty",
        "Row 4 of .* is no object but list",
        "has 100 tokens; the model takes 24",
        "Row 6 of .* is not UTF-8",
        "text must be a string, got list",
    ]
    for row, expected in zip(rows[1:8], told, strict=True):
        assert "generated_text" not in row
        assert re.search(expected, row["error"]), row["error"]


def test_texts_that_are_numbers_are_those_of_the_training(tmp_path):
    """A column of numbers is one of texts for a training, too."""
    processor = GenextProcessor(
        tokenizer=train_tokenizer(["0123456789.", "true", "false"], unit="character"),
        target_tokenizer=train_tokenizer(["a", "b"], unit="character"),
    )
    model = build_native_model(processor, tie_word_embeddings=True)
    model.generation_config.max_new_tokens = 9
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    values = [1984, 2.5, 7.0, True]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"word": value}) + "\n" for value in values))
    run(tmp_path / "model", tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    texts = [to_string(value) for value in values]
    assert texts == [*pa.array(values[:3]).cast(pa.string()).to_pylist(), "true"]
    expected = [answer["generated_text"] for (answer,) in pipeline(TASK, model=str(tmp_path / "model"))(texts)]
    assert [row["generated_text"] for row in read(tmp_path / "out.jsonl")] == expected
    assert [row["word"] for row in read(tmp_path / "out.jsonl")] == values


def test_a_quote_that_is_never_closed_swallows_no_rows(folder, tmp_path):
    (tmp_path / "in.csv").write_text('word\n"cat\ndog\nhen\n')
    with pytest.raises(ValueError, match=r"in\.csv' cannot be read as CSV at line 4: .*Close each quote"):
        run(folder, tmp_path / "in.csv", tmp_path / "out.parquet")


def test_ragged_rows_of_tables(folder, tmp_path):
    (tmp_path / "in.csv").write_text('word,note\ncat,"two\nlines"\nviolin\ntacit,b,c\n\nat,d\n')
    run(folder, tmp_path / "in.csv", tmp_path / "out.parquet")
    rows = read(tmp_path / "out.parquet")
    assert [row["word"] for row in rows] == ["cat", None, None, "at"]
    assert rows[0]["note"] == "two\nlines"
    assert [row["error"] and row["error"].split("has ")[1] for row in rows] == [
        None,
        "1 fields, not 2.",
        "3 fields, not 2.",
        None,
    ]


def test_a_job_without_a_single_answer_stops(folder, tmp_path):
    source = write_words(tmp_path / "in.tsv", WORDS)
    with pytest.raises(ValueError, match=r"None of the rows 0 to 7 .* the first: .*'nonsense'"):
        run(folder, source, tmp_path / "out.parquet", "--arguments.nonsense", 3)
    # Nothing was answered, so it can be begun again in another way.
    assert run(folder, source, tmp_path / "out.parquet", "--num_beams", 2).failed == 0


def test_rows_that_fail_for_any_other_reason_have_their_error_and_the_job_goes_on(folder, pipe, tmp_path, monkeypatch):
    """Also where a whole shard of them does, and a library calls what is wrong with them a runtime error."""
    words, forward = make_words(40), type(pipe).forward
    bad = iter(range(1, 1000))

    def fail(self, inputs, **kwargs):
        if next(bad) > 2:  # The first shards are answered.
            raise RuntimeError("The size of tensor a (3) must match the size of tensor b (5) at dimension 1")
        return forward(self, inputs, **kwargs)

    monkeypatch.setattr(type(pipe), "forward", fail)
    job = run(folder, write_words(tmp_path / "words.csv", words), tmp_path / "out.jsonl", "--rows_per_shard", "10")
    errors = [row["error"] for row in read(tmp_path / "out.jsonl")]
    assert job.failed == sum(error is not None for error in errors) > 10
    assert errors[:10] == [None] * 10 and errors[30:] == [errors[-1]] * 10 and "must match the size" in errors[-1]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("no memory is left"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=["accelerator", "python", "processor"],
)
def test_a_machine_that_fails_stops_a_job_and_is_no_answer(folder, pipe, tmp_path, monkeypatch, error):
    """What is out of memory today is answered tomorrow."""
    source, output = tmp_path / "words.csv", tmp_path / "out.jsonl"
    write_words(source, make_words(40))
    steps, forward = [], type(pipe).forward

    def run_out(self, *args, **kwargs):
        steps.append(1)
        if len(steps) > 1:
            raise error
        return forward(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(type(pipe), "forward", run_out)
        with pytest.raises(type(error)):
            run(folder, source, output, "--rows_per_shard", "10")
    assert not output.exists()
    run(folder, source, output, "--rows_per_shard", "10")
    assert [row["error"] for row in read(output)] == [None] * 40


def test_a_machine_that_fails_in_the_middle_of_a_shard_leaves_all_of_it_to_be_answered(folder, pipe, tmp_path, monkeypatch):
    source, output = write_words(tmp_path / "words.csv", make_words(40)), tmp_path / "out.jsonl"
    steps, forward = [], type(pipe).forward

    def run_out(self, *args, **kwargs):
        steps.append(1)
        if len(steps) > 2:
            raise torch.OutOfMemoryError("no memory is left")
        return forward(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(type(pipe), "forward", run_out)
        with pytest.raises(torch.OutOfMemoryError):
            run(folder, source, output, "--rows_per_shard", "20", "--batch_size", "4")
    assert run(folder, source, output, "--rows_per_shard", "20", "--batch_size", "4").failed == 0


def test_a_row_that_is_too_large_for_a_machine_is_the_only_one_that_has_an_error(folder, pipe, tmp_path, monkeypatch):
    forward, words = type(pipe).forward, [*make_words(19), "a" * 20]

    def run_out(self, inputs, **kwargs):
        if inputs["input_ids"].shape[1] > 20:
            raise torch.OutOfMemoryError("no memory is left")
        return forward(self, inputs, **kwargs)

    monkeypatch.setattr(type(pipe), "forward", run_out)
    assert max(map(len, words[:19])) < 19
    job = run(folder, write_words(tmp_path / "words.csv", words), tmp_path / "out.jsonl", "--rows_per_shard", "20")
    errors = [row["error"] for row in read(tmp_path / "out.jsonl")]
    assert job.failed == 1 and errors == [None] * 19 + ["OutOfMemoryError: no memory is left"]


def test_columns_of_late_rows_are_columns_too(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_genext.row_sources._SCANNED", 3)
    rows = [{"word": "cat"}] * 4 + [{"word": "violin", "late": 1}]
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(folder, source, tmp_path / "out.jsonl", "--keep_columns", "late")
    assert [row["late"] for row in read(tmp_path / "out.jsonl")] == [None] * 4 + [1]
    for name in ("error", "generated_text"):
        source.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"word": "cat", name: "mine"}]))
        with pytest.raises(ValueError, match=f"The input has a column '{name}', as the output will"):
            run(folder, source, tmp_path / "new.jsonl")
        assert run(folder, source, tmp_path / f"{name}.jsonl", "--keep_columns", "word").failed == 0


def test_files_of_others_where_the_shards_go_are_left_alone(folder, tmp_path):
    source = write_words(tmp_path / "words.csv", make_words(3))
    other = tmp_path / "out.jsonl.shards" / "thesis.txt"
    other.parent.mkdir()
    other.write_text("years of work")
    with pytest.raises(FileExistsError, match=r"holds 'thesis.txt'. Move that"):
        run(folder, source, tmp_path / "out.jsonl")
    assert other.read_text() == "years of work"


def test_what_cannot_be_is_said_before_the_work(folder, tmp_path):
    source = write_words(tmp_path / "in.jsonl", WORDS)
    cases = [
        (["--conditions.text", "wort"], "There is no column 'wort' in .*; it has 'word', 'number'"),
        (["--rows_per_shard", "0"], "rows_per_shard must be 1 or more"),
        (["--keep_columns", "wort"], "keep_columns names 'wort', which the input lacks"),
        (["--batch_size", "0"], "batch_size must be a whole number of 1 or more, got 0"),
        (["--seed", "-1"], r"A seed is a whole number of 0 to 2\*\*63 - 1, got -1"),
    ]
    for words, message in cases:
        with pytest.raises(ValueError, match=message):
            run(folder, source, tmp_path / "out.parquet", *words)
        assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
    with pytest.raises(ValueError, match="keep_columns names 'wort', which the input lacks; it has 'word', 'number'"):
        run(folder, source, tmp_path / "out.jsonl", "--keep_columns", "wort")
    (tmp_path / "array.json").write_text(json.dumps([{"word": "cat"}]))
    with pytest.raises(ValueError, match=r"No row of .*array\.json.* no object but list.* Write a row a line, as `jq"):
        run(folder, tmp_path / "array.json", tmp_path / "out.jsonl")
    (tmp_path / "empty.tsv").write_text("word\n")
    with pytest.raises(ValueError, match=r"There are no rows in .*empty\.tsv"):
        run(folder, tmp_path / "empty.tsv", tmp_path / "out.parquet")
    with pytest.raises(ValueError, match=r"must end in \.parquet or \.jsonl"):
        run(folder, source, tmp_path / "out.csv")
    (tmp_path / "out.parquet").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="is there already"):
        run(folder, source, tmp_path / "out.parquet")
    assert (tmp_path / "out.parquet").read_bytes() == b"mine"
    pq.write_table(pa.table({"word": ["cat"], "error": ["mine"], "raw": [b"\x00"]}), tmp_path / "taken.parquet")
    with pytest.raises(ValueError, match="has a column 'error', as the output will"):
        run(folder, tmp_path / "taken.parquet", tmp_path / "new.parquet")
    with pytest.raises(ValueError, match="'raw' holds bytes, which JSON lines cannot"):
        run(folder, tmp_path / "taken.parquet", tmp_path / "new.jsonl", "--keep_columns", "raw")
    (tmp_path / "mixed.jsonl").write_text('{"word": "cat", "note": 1}\n{"word": "at", "note": "two"}\n')
    with pytest.raises(ValueError, match=r"'note' of .* holds values that are of no one type"):
        run(folder, tmp_path / "mixed.jsonl", tmp_path / "new.parquet")
    assert run(folder, tmp_path / "mixed.jsonl", tmp_path / "new.jsonl").rows == 2
    with pytest.raises(FileNotFoundError, match="no file"):
        open_source(str(tmp_path / "none.parquet"))
    (tmp_path / "large.jsonl").write_text('{"word": "cat", "note": 123456789012345678901234567890}\n')
    with pytest.raises(ValueError, match=r"'note' of .* holds values that are of no one type"):
        run(folder, tmp_path / "large.jsonl", tmp_path / "new.parquet")
    cut = write_words(tmp_path / "cut.tsv.gz", make_words(2000))
    cut.write_bytes(cut.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"cut.tsv.gz' was cut off"):
        run(folder, cut, tmp_path / "cut.jsonl")
    cut.write_bytes(b"word\tnumber\ncat\t1\n")
    with pytest.raises(ValueError, match=r"cut.tsv.gz' was cut off, .*Not a gzipped file"):
        run(folder, cut, tmp_path / "cut.jsonl")
    (tmp_path / "wide.csv").write_bytes("word,number\ncat,1\n".encode("utf-16"))
    with pytest.raises(ValueError, match=r"header of .*wide\.csv' is not UTF-8"):
        run(folder, tmp_path / "wide.csv", tmp_path / "wide.jsonl")
    with pytest.raises(ValueError, match="batch_size is a setting of the job: --batch_size"):
        run(folder, source, tmp_path / "new.parquet", "--arguments.batch_size", "4")


def test_a_data_set_that_was_written_again_is_another(tmp_path):
    (tmp_path / "words").mkdir()
    part = tmp_path / "words" / "train.jsonl"
    prints = []
    for words in (["cat"], ["cat", "violin"], ["cat", "violin"]):
        if not prints or len(words) != len(part.read_text().splitlines()):
            part.write_text("".join(json.dumps({"word": word}) + "\n" for word in words))
        prints.append(open_source(str(tmp_path / "words")).fingerprint())
    assert prints[0] != prints[1] == prints[2]


# Interruptions


def interrupt(monkeypatch, shards):
    """Stop this process' job before it writes another shard than the first."""
    write, written = row_shards.ShardWriter.write, []

    def stop(self, shard, records):
        if len(written) == shards:
            raise KeyboardInterrupt
        written.append(shard)
        write(self, shard, records)

    monkeypatch.setattr(row_shards.ShardWriter, "write", stop)


def test_another_job_does_not_go_on_with_the_shards_of_one(folder, tmp_path, monkeypatch):
    words = make_words(40)
    source = write_words(tmp_path / "in.parquet", words)
    settings = [tmp_path / "out.parquet", "--rows_per_shard", 10]
    with monkeypatch.context() as patch:
        interrupt(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            run(folder, source, *settings)
    with pytest.raises(ValueError, match=r"those of another job: arguments was \{\}, and is \{'num_beams': 3\}"):
        run(folder, source, *settings, "--num_beams", 3)
    with pytest.raises(ValueError, match="those of another job: rows_per_shard was 10, and is 9"):
        run(folder, source, tmp_path / "out.parquet", "--rows_per_shard", 9)
    write_words(source, [*words[:-1], "cat"])
    with pytest.raises(ValueError, match="those of another job: input was"):
        run(folder, source, *settings)
    write_words(source, words)
    with (tmp_path / "out.parquet.shards" / "job.json").open() as file:
        assert json.load(file)["rows"] == 40
    # A seed that nobody gave is kept with the job, and how many rows run at once is no part of it.
    assert run(folder, source, *settings, "--batch_size", 3).rows == 40
    assert [row["word"] for row in read(tmp_path / "out.parquet")] == words


@contextlib.contextmanager
def limit_files(size):
    """Files of this process cannot grow beyond a size, as if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_a_full_disk_loses_nothing(folder, pipe, tmp_path, suffix):
    words = make_words(60)
    words[45] = "a" * 23  # Noise that does not compress makes its shard the largest.
    rows = [
        {"word": word, "note": "x" if place < 40 else random.Random(place).randbytes(4000).hex()}
        for place, word in enumerate(words)
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = [tmp_path / "in.jsonl", tmp_path / f"out.{suffix}", "--rows_per_shard", 10]
    with limit_files(20_000), pytest.raises(OSError, match=r"cannot be written: .*What is written stays: make room"):
        run(folder, *settings)
    shards = tmp_path / f"out.{suffix}.shards"
    assert row_shards.list_shards(shards) == [0, 1, 2, 3]
    assert not list(shards.glob("*.unfinished*"))
    # Room for every shard, but not for all of them in one file.
    with limit_files(100_000), pytest.raises(OSError, match="cannot be written"):
        run(folder, *settings)
    assert row_shards.list_shards(shards) == [0, 1, 2, 3, 4, 5]
    assert not (tmp_path / f"out.{suffix}").exists()
    assert run(folder, *settings).rows == 60
    found = read(tmp_path / f"out.{suffix}")
    assert [(row["word"], row["note"]) for row in found] == [(row["word"], row["note"]) for row in rows]
    assert [row["generated_text"] for row in found] == [pipe(word)[0]["generated_text"] for word in words]


def test_a_kill_after_the_join_leaves_one_output(folder, tmp_path, monkeypatch):
    words = make_words(20)
    source = write_words(tmp_path / "in.tsv", words)
    settings = [source, tmp_path / "out.jsonl", "--rows_per_shard", 6]
    shards = tmp_path / "out.jsonl.shards"
    unlink, seen = Path.unlink, []

    def stop(self, missing_ok=False):
        if self.parent == shards and self.suffix == ".jsonl":
            seen.append(self.name)
            if len(seen) == 2:
                raise KeyboardInterrupt
        unlink(self, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", stop)
        with pytest.raises(KeyboardInterrupt):
            run(folder, *settings)
    assert shards.is_dir()
    before = (tmp_path / "out.jsonl").read_bytes()
    with pytest.raises(ValueError, match="those of another job: arguments was"):
        run(folder, *settings, "--num_beams", "3")
    assert (shards / "joined.json").is_file()
    assert run(folder, *settings).rows == 20
    assert (tmp_path / "out.jsonl").read_bytes() == before
    assert not shards.exists()


def test_two_jobs_cannot_write_one_output(folder, tmp_path):
    source = write_words(tmp_path / "in.parquet", WORDS)
    with (
        hold_folder(tmp_path / "out.parquet.shards"),
        pytest.raises(RuntimeError, match=f"in use by process {os.getpid()}"),
    ):
        run(folder, source, tmp_path / "out.parquet")
    assert run(folder, source, tmp_path / "out.parquet").rows == len(WORDS)

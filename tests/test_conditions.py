"""Rows with conditions of every kind: reading, encoding, and batching."""

from __future__ import annotations

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from condition_specimens import write_jsonl, write_media
from transformers import ViTImageProcessor, WhisperFeatureExtractor

from hf_genext import (
    GenextProcessor,
    StaticEmbeddingModel,
    train_tokenizer,
)
from hf_genext.batching import ConditionalCollator, EncodedRows
from hf_genext.conditions import (
    group_conditions,
    list_conditions,
    parse_condition_columns,
    read_rows,
    stack_targets,
)
from hf_genext.encoding import encode_rows
from hf_genext.media import open_condition

ROWS = [
    {"name": "a b", "numbers": [1.0, 2.0], "pos": "n", "size": "big", "gloss": "x y"},
    {"name": None, "numbers": [3.0, 4.0], "pos": None, "size": "small", "gloss": "y"},
    {"name": "b", "numbers": None, "pos": "v", "size": None, "gloss": "x x x"},
    {"name": " ", "numbers": None, "pos": None, "size": "", "gloss": "y"},
    {"name": "a", "numbers": [0.0, 1.0], "pos": "n", "size": "big", "gloss": None},
]
COLUMNS = parse_condition_columns({"text": "name", "vector": "numbers", "label": ["pos", "size"]})


def build_processor(**arguments):
    return GenextProcessor(
        **{
            "tokenizer": train_tokenizer(["a b"], unit="word"),
            "target_tokenizer": train_tokenizer(["x y"], unit="word"),
            "vector_size": 2,
            "label_names": {"pos": ["n", "v"], "size": ["big", "small"]},
            **arguments,
        }
    )


def test_rows_are_read_with_what_they_have(tmp_path):
    rows, report = read_rows(write_jsonl(tmp_path / "rows.jsonl", ROWS), COLUMNS, target_columns=["gloss"])
    assert "5 rows read, 3 kept; 1 dropped: no condition (rows 4); 1 dropped: empty gloss (rows 5)" in str(report)
    assert list_conditions(rows) == [
        {"text": "a b", "vector": [1.0, 2.0], "label": {"pos": "n", "size": "big"}},
        {"vector": [3.0, 4.0], "label": {"pos": None, "size": "small"}},
        {"text": "b", "label": {"pos": "v", "size": None}},
    ]


def test_rows_are_batches_of_what_the_processor_gives_for_the_same_conditions(tmp_path):
    rows, _ = read_rows(write_jsonl(tmp_path / "rows.jsonl", ROWS), COLUMNS, target_columns=["gloss"])
    processor = build_processor()
    encoded, report = encode_rows(rows, processor, max_source_length=9, max_target_length=9)
    assert report.kept == len(encoded) == 3
    assert encoded.lengths.tolist() == [[3, 3], [1, 2], [2, 4]]
    batch = ConditionalCollator(processor.tokenizer.pad_token_id)([encoded[index] for index in range(3)])
    expected = processor.read_conditions(list_conditions(rows), padding=True, return_tensors="pt")
    assert set(batch) == {*expected, "labels"}
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 0], [1, 1, 0]]
    for name in expected:
        real = batch["attention_mask"].bool() if name == "input_ids" else ...
        torch.testing.assert_close(batch[name][real], expected[name][real], equal_nan=True)
    assert batch["condition_vectors"][2].isnan().all()
    assert batch["condition_labels"].tolist() == [[0, 0], [-1, 1], [1, -1]]
    targets = processor(text_target=["x y", "y", "x x x"])["labels"]
    assert [[token for token in row if token != -100] for row in batch["labels"].tolist()] == targets


def test_what_is_refused_or_unknown_is_told_by_the_row_of_the_file(tmp_path):
    rows = [
        {"name": None, "pos": None, "size": None, "gloss": "x"},
        {"name": "a b", "pos": "n", "size": "big", "gloss": None},
        {"name": "a c", "pos": "n", "size": "big", "gloss": "x y"},
        {"name": "a", "pos": "w", "size": "big", "gloss": "x z"},
    ]
    columns = parse_condition_columns({"text": "name", "label": ["pos", "size"]})
    read, _ = read_rows(write_jsonl(tmp_path / "rows.jsonl", rows), columns, target_columns=["gloss"])
    assert read["row"][:] == [3, 4]
    limits = {"max_source_length": 9, "max_target_length": 9}
    with pytest.raises(ValueError, match="Row 4: Field 'pos' has no label 'w'; known are 'n', 'v'"):
        encode_rows(read, build_processor(), **limits)
    encoded, report = encode_rows(read, build_processor(), **limits, unknown_label="missing", unknown_target="keep")
    assert "1 changed: unknown label read as missing (rows 4)" in str(report)
    assert [encoded[index]["condition_labels"].tolist() for index in (0, 1)] == [[0, 0], [-1, 0]]
    with pytest.raises(ValueError, match="unknown_label must be one of 'error', 'missing', got 'drop'"):
        encode_rows(read, build_processor(), **limits, unknown_label="drop")
    # A number is no unknown name: it stays, or is refused, whatever the rule.
    for rule in ("error", "missing"):
        numbered = datasets.Dataset.from_dict({"label": [{"pos": 1, "size": 0}], "target": ["x"]})
        assert encode_rows(numbered, build_processor(), **limits, unknown_label=rule)[0][0]["condition_labels"].tolist() == [
            1,
            0,
        ]
        numbered = datasets.Dataset.from_dict({"label": [{"pos": 2, "size": 0}], "target": ["x"]})
        with pytest.raises(ValueError, match="Field 'pos' has the labels 0 to 1, and -1 for none; got 2"):
            encode_rows(numbered, build_processor(), **limits, unknown_label=rule)
    processor = build_processor(label_names={"pos": ["n", "v", "w"], "size": ["big", "small"]})
    with pytest.raises(ValueError, match="Row 4: the target vocabulary lacks 'z'"):
        encode_rows(read, processor, **limits)
    _, report = encode_rows(read, processor, **limits, unknown_target="keep")
    assert "1 changed: unknown token in the source (rows 3)" in str(report)
    assert "1 changed: unknown token in the target (rows 4)" in str(report)
    read, _ = read_rows(tmp_path / "rows.jsonl", columns, target_columns=["pos"], output="class")
    with pytest.raises(ValueError, match="Row 4: the target 'w' is not among the 1 names"):
        encode_rows(read, processor, **limits, output="class", output_names=["n"])


def test_words_are_looked_up_in_a_space_and_unknown_ones_counted(tmp_path):
    space = StaticEmbeddingModel.from_words(["cat", "dog"], np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float32))
    rows = [{"word": word, "gloss": "x"} for word in ("dog", "cat", "unicorn")]
    columns = parse_condition_columns({"vector": {"column": "word", "space": "out/space"}})
    read, report = read_rows(
        write_jsonl(tmp_path / "rows.jsonl", rows), columns, target_columns=["gloss"], spaces={"out/space": space}
    )
    assert "1 dropped: not in the space: word (rows 3)" in str(report)
    assert list_conditions(read) == [{"vector": [3.0, 4.0]}, {"vector": [1.0, 2.0]}]
    assert group_conditions(read)["name"] == ["dog", "cat"]


@pytest.mark.parametrize("kind", ["list", "fixed"])
def test_long_vectors_are_read_as_they_are_and_told_apart(tmp_path, kind):
    vectors = np.random.default_rng(0).normal(size=(5, 40)).astype(np.float32)
    vectors[3], vectors[4, -1] = vectors[1], vectors[2, -1] + 1
    vectors[4, :-1] = vectors[2, :-1]
    flat = pa.array(vectors.ravel())
    column = (
        pa.FixedSizeListArray.from_arrays(flat, 40) if kind == "fixed" else pa.ListArray.from_arrays(range(0, 201, 40), flat)
    )
    pq.write_table(pa.table({"v": column, "y": list("abcde")}), tmp_path / "rows.parquet", row_group_size=2)
    read, _ = read_rows(tmp_path / "rows.parquet", parse_condition_columns({"vector": "v"}), target_columns=["y"])
    np.testing.assert_array_equal(np.array(read["vector"][:], dtype=np.float32), vectors)
    grouped = group_conditions(read)
    assert grouped["references"] == [["a"], ["b", "d"], ["c"], ["e"]]
    assert all(len(name) < 120 for name in grouped["name"])


def test_vectors_and_labels_stand_in_text_files_too(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text("v\tset\ty\n1 2\tb a\t0.5\n\ta\t1\n3 4.5\t\t-2e3\n", encoding="utf-8")
    vectors = parse_condition_columns({"vector": "v"})
    read, report = read_rows(path, vectors, target_columns=["set"], output="labels")
    assert (read["target"][:], report.kept) == ([["a", "b"]], 1)
    assert "1 dropped: empty set (rows 3)" in str(report)
    read, _ = read_rows(path, vectors, target_columns=["y"], output="regression")
    assert list(read["target"]) == [[0.5], [-2000.0]]
    for content, message in (
        ("v\ty\n1 2\t1\n1 2 3\t1\n", "vectors of one size"),
        ("v\ty\n1 x\t1\n", "must hold vectors, lists of numbers"),
        ("v\ty\n1 nan\t1\n", "Row 1: the vector .* finite"),
    ):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            read_rows(path, vectors, target_columns=["y"], output="regression")
    path.write_text("v\ty\n1 2\tmany\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"Row 1: column 'y' .* holds 'many', which is no number"):
        read_rows(path, vectors, target_columns=["y"], output="regression")


def test_labels_that_are_null_are_none_and_an_empty_list_says_that_none_is_true(tmp_path):
    rows = [{"w": "abc", "t": labels} for labels in (["b", None, "a"], [], None, [None], ["None"])]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    read, report = read_rows(path, parse_condition_columns({"text": "w"}), target_columns=["t"], output="labels")
    assert read["target"][:] == [["a", "b"], [], ["None"]]
    assert "2 dropped: empty t (rows 3, 4)" in str(report)


def test_a_regression_learns_from_rows_that_lack_some_of_their_numbers(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("w,h,g\na,1,\nb,2,3\nc,,inf\nd,nan,5\n", encoding="utf-8")
    text = parse_condition_columns({"text": "w"})
    read, report = read_rows(path, text, target_columns=["h", "g"], output="regression")
    np.testing.assert_array_equal(stack_targets(read), [[1, np.nan], [2, 3], [np.nan, 5]])
    assert "1 dropped: empty h and g (rows 3)" in str(report)
    assert "1 changed: learned from without h (rows 4); 1 changed: learned from without g (rows 1)" in str(report)
    # A density is of all numbers together.
    read, report = read_rows(path, text, target_columns=["h", "g"], output="flow")
    assert read["target"][:] == [[2.0, 3.0]]
    assert "2 dropped: empty h (rows 3, 4); 1 dropped: empty g (rows 1)" in str(report)


def test_numbers_to_predict_may_stand_in_one_list(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"w": "a", "t": [1.0, 2.0]}, {"w": "b", "t": None}, {"w": "c", "t": [3, 4]}])
    read, report = read_rows(path, parse_condition_columns({"text": "w"}), target_columns=["t"], output="regression")
    assert read["target"][:] == [[1.0, 2.0], [3.0, 4.0]]
    assert "1 dropped: empty t (rows 2)" in str(report)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"smell": "x"}, "no condition 'smell'; known are text, vector, label, image, audio"),
        ({"text": ["a", "b"]}, "'text' stands in one column, got 2"),
        ({"text": {"column": "a", "space": "out"}}, "A space gives vectors"),
        ({"vector": {"colum": "a"}}, "needs a column"),
    ],
)
def test_conditions_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        parse_condition_columns(settings)


def test_pictures_and_recordings_are_opened_when_a_batch_needs_them(tmp_path):
    write_media(tmp_path)
    rows = [
        {"picture": "0.png", "sound": "1.wav", "gloss": "x"},
        {"picture": None, "sound": "0.wav", "gloss": "y"},
        {"picture": "1.png", "sound": None, "gloss": "y"},
    ]
    columns = parse_condition_columns({"image": "picture", "audio": "sound"})
    read, _ = read_rows(write_jsonl(tmp_path / "rows.jsonl", rows), columns, target_columns=["gloss"])
    processor = build_processor(
        tokenizer=None,
        vector_size=None,
        label_names=None,
        image_processor=ViTImageProcessor(size={"height": 8, "width": 8}),
        feature_extractor=WhisperFeatureExtractor(feature_size=8, chunk_length=1),
    )
    encoded, _ = encode_rows(read, processor, max_source_length=9, max_target_length=9)
    batch = ConditionalCollator(0)([encoded[index] for index in range(3)])
    opened = [open_condition(condition) for condition in list_conditions(read)]
    expected = processor.read_conditions(opened, return_tensors="pt")
    assert {name: tuple(value.shape) for name, value in expected.items()} == {
        "pixel_values": (3, 3, 8, 8),
        "input_features": (3, 8, 100),
    }
    for name, value in expected.items():
        torch.testing.assert_close(batch[name], value, equal_nan=True)
    samples, rate = opened[1]["audio"], opened[1]["sampling_rate"]
    assert (samples.shape, rate) == ((400,), 16000)
    assert 0.9 < np.abs(samples).max() <= 1
    with pytest.raises(FileNotFoundError, match=r"no file 'lost\.png'"):
        read_rows(write_jsonl(tmp_path / "rows.jsonl", [{**rows[0], "picture": "lost.png"}]), columns, target_columns=["gloss"])
    (tmp_path / "0.png").write_text("no picture")
    with pytest.raises(ValueError, match="is no picture"):
        open_condition({"image": tmp_path / "0.png"})


@pytest.mark.parametrize("kind", ["image", "audio"])
def test_a_damaged_picture_or_recording_is_named_or_still_opens(tmp_path, kind):
    write_media(tmp_path)
    path = tmp_path / ("0.png" if kind == "image" else "0.wav")
    whole, draw, refused = path.read_bytes(), np.random.default_rng(1), 0
    for _ in range(150):
        damaged = bytearray(whole[: draw.integers(0, len(whole) + 1)])
        for place in draw.integers(0, max(1, min(len(damaged), 80)), draw.integers(0, 4)):
            damaged[place : place + 1] = bytes([draw.integers(256)])
        path.write_bytes(damaged)
        try:
            open_condition({kind: path})
        except ValueError as error:
            refused += 1
            assert str(path) in str(error)
    assert refused > 50


def test_waves_of_unequal_length_are_padded_with_a_mask():
    rows = [
        {"input_values": np.ones(3, np.float32), "feature_attention_mask": np.ones(3, np.int64), "labels": [2]},
        {"labels": [3, 2]},
        {"input_values": np.ones(2, np.float32), "feature_attention_mask": np.ones(2, np.int64), "labels": [2]},
    ]
    batch = ConditionalCollator(0)(rows)
    assert batch["feature_attention_mask"].tolist() == [[1, 1, 1], [0, 0, 0], [1, 1, 0]]
    assert batch["input_values"][1].isnan().all()
    assert batch["input_values"][2].tolist() == [1, 1, 0]


def test_rows_that_differ_in_number_are_refused():
    with pytest.raises(ValueError, match="got 1 rows of condition_vectors and 2 targets"):
        EncodedRows({"condition_vectors": np.zeros((1, 2))}, [[1], [2]])
    rows = EncodedRows({}, np.array([1, 2]))
    assert [int(rows[index]["labels"]) for index in (0, -1)] == [1, 2]
    with pytest.raises(IndexError):
        rows[2]


def test_datasets_are_read_as_files_are():
    rows = datasets.Dataset.from_list(ROWS)
    read, _ = read_rows(rows, COLUMNS, target_columns=["gloss"])
    assert read["target"][:] == ["x y", "y", "x x x"]

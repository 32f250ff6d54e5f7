"""Rows with conditions of every kind: reading, encoding, batching, generating, and training from settings alone."""

from __future__ import annotations

import json
import wave

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers import GPT2Config, GPT2LMHeadModel, ViTConfig, ViTImageProcessor, ViTModel, WhisperFeatureExtractor, pipeline

from hf_genext import (
    GenextForConditionalGeneration,
    GenextProcessor,
    GenextTrainer,
    GenextTrainingArguments,
    StaticEmbeddingModel,
    train_tokenizer,
)
from hf_genext.adapters import find_fresh_modules
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
from recipes.arguments import SettingsError
from recipes.evaluate import main as evaluate
from recipes.train_conditional import main as train

ROWS = [
    {"name": "a b", "numbers": [1.0, 2.0], "pos": "n", "size": "big", "gloss": "x y"},
    {"name": None, "numbers": [3.0, 4.0], "pos": None, "size": "small", "gloss": "y"},
    {"name": "b", "numbers": None, "pos": "v", "size": None, "gloss": "x x x"},
    {"name": " ", "numbers": None, "pos": None, "size": "", "gloss": "y"},
    {"name": "a", "numbers": [0.0, 1.0], "pos": "n", "size": "big", "gloss": None},
]
COLUMNS = parse_condition_columns({"text": "name", "vector": "numbers", "label": ["pos", "size"]})


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


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


def write_media(folder):
    generator = np.random.default_rng(0)
    for index in range(2):
        pixels = generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        with wave.open(str(folder / f"{index}.wav"), "wb") as file:
            file.setparams((1, 2, 16000, 0, "NONE", "not compressed"))
            file.writeframes((generator.uniform(-1, 1, 400) * 32767).astype(np.int16).tobytes())


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


# Training from settings


SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}


def make_rows(count=240):
    """Rows whose gloss follows from the label and, where it is there, from the sign of a number."""
    generator = np.random.default_rng(0)
    rows = []
    for index in range(count):
        numbers = generator.normal(size=3)
        size, pos = ("big", "small")[int(numbers[0] > 0)], "nv"[index % 2]
        rows.append(
            {
                "name": f"{size} {pos}",
                "numbers": [float(number) for number in numbers],
                "pos": pos if index % 7 else None,
                "gloss": f"{size} {'thing' if pos == 'n' else 'act'}",
                "class": size,
                "set": [name for name, number in zip("xyz", numbers, strict=True) if number > 0],
                "value": float(numbers[1]),
            }
        )
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Rows, and pretrained parts to build from."""
    folder = tmp_path_factory.mktemp("parts")
    write_jsonl(folder / "rows.jsonl", make_rows())
    torch.manual_seed(0)
    sizes = {"vocab_size": 300, "n_embd": 32, "n_layer": 1, "n_head": 2}
    # As far from uniform as a trained one, for its output layer stays as it is under an adapter.
    config = GPT2Config(**sizes, bos_token_id=1, eos_token_id=2, resid_pdrop=0.0, initializer_range=0.3)
    GPT2LMHeadModel(config).save_pretrained(folder / "gpt2")
    tokenizer = train_tokenizer(["big small thing act"], unit="subword", vocab_size=300)
    tokenizer.save_pretrained(folder / "gpt2")
    vectors = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)
    StaticEmbeddingModel.from_words(["big", "small", "n", "v"], vectors, lowercase=True).save_pretrained(folder / "space")
    ViTModel(
        ViTConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4)
    ).save_pretrained(folder / "vit")
    ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(folder / "vit")
    return folder


def write_settings(folder, name, **settings):
    path = folder / f"{name}.json"
    path.write_text(
        json.dumps(
            {
                "train_file": [str(folder / "rows.jsonl")],
                "validation_size": 40,
                "target_column": "gloss",
                "output_dir": str(folder / name),
                "max_steps": 60,
                "per_device_train_batch_size": 40,
                "per_device_eval_batch_size": 7,
                "learning_rate": 0.01,
                "lr_scheduler_type": "constant",
                "save_strategy": "no",
                "report_to": "none",
                "num_threads": 1,
                "disable_tqdm": True,
                **settings,
            }
        ),
        encoding="utf-8",
    )
    return str(path)


def test_several_conditions_are_learned_scored_and_opened(folder, capsys):
    settings = write_settings(
        folder,
        "several",
        conditions={"vector": "numbers", "label": "pos"},
        encoder={"vector": {"hidden_size": 32}, "label": {"hidden_size": 16}},
        decoder=SMALL,
        num_latents=2,
        condition_dropout=0.05,
        metrics=["exact_match"],
        max_tokens_per_batch=120,
        max_steps=150,
    )
    train([settings])
    pipe = pipeline("conditional-generation", model=str(folder / "several"))
    assert pipe({"vector": [-2.0, 0.0, 0.0], "label": "n"})[0]["generated_text"] == "big thing"
    assert pipe({"vector": [2.0, 0.0, 0.0], "label": "v"})[0]["generated_text"] == "small act"
    assert pipe({"vector": [2.0, 0.0, 0.0]})[0]["generated_text"].startswith("small")
    predictions = folder / "predictions.tsv"
    arguments = ["--model", str(folder / "several"), "--test_file", str(folder / "rows.jsonl")]
    scores = evaluate([settings, *arguments, "--predictions_file", str(predictions)])
    assert scores["exact_match"] > 80
    assert len(predictions.read_text().splitlines()) == 240
    card = (folder / "several" / "README.md").read_text(encoding="utf-8")
    assert "pipe({'vector': [" in card


@pytest.mark.parametrize(
    ("kind", "column", "metrics", "deciding", "least"),
    [
        ("class", "class", None, "accuracy", 85),
        ("labels", "set", ["micro_f1"], "micro_f1", 85),
        ("regression", "value", None, "spearman", 0.8),
    ],
)
def test_single_outputs_are_learned_scored_and_opened(folder, kind, column, metrics, deciding, least, capsys):
    settings = write_settings(
        folder,
        kind,
        conditions={"vector": "numbers"},
        encoder={"hidden_size": 32},
        bottleneck={"kind": "pooled", "num_latents": 1},
        head={"kind": kind},
        target_column=column,
        metrics=metrics,
        metric_for_best_model=deciding,
    )
    train([settings])
    results = json.loads((folder / kind / "results.json").read_text())
    assert results["metrics"][deciding] > least
    scores = evaluate([settings, "--model", str(folder / kind), "--test_file", str(folder / "rows.jsonl")])
    pipe = pipeline("conditional-generation", model=str(folder / kind))
    rows = make_rows()
    answers = [answer[0] for answer in pipe([{"vector": row["numbers"]} for row in rows], batch_size=16)]
    if kind == "class":
        right = np.mean([answer["label"] == row["class"] for answer, row in zip(answers, rows, strict=True)])
        assert scores["accuracy"] == pytest.approx(100 * right)
    elif kind == "labels":
        hits = sum(len({*answer["labels"]} & {*row["set"]}) for answer, row in zip(answers, rows, strict=True))
        total = sum(len(answer["labels"]) + len(row["set"]) for answer, row in zip(answers, rows, strict=True))
        assert scores["micro_f1"] == pytest.approx(200 * hits / total)
    else:
        errors = np.array([answer["value"] - row["value"] for answer, row in zip(answers, rows, strict=True)])
        variance = np.var([row["value"] for row in rows])
        assert scores["r2"] == pytest.approx(1 - (errors**2).mean() / variance, abs=1e-4)


@pytest.mark.parametrize("lora", [None, {"r": 16, "lora_alpha": 64}])
def test_pretrained_parts_are_joined_and_trained_at_their_own_rate(folder, lora, capsys):
    name = f"joined-{'lora' if lora else 'whole'}"
    settings = write_settings(
        folder,
        name,
        validation_file=[str(folder / "rows.jsonl")],
        conditions={"text": "name"},
        encoder=str(folder / "space"),
        decoder=str(folder / "gpt2"),
        freeze_encoder=True,
        num_latents=2,
        max_target_length=12,
        pretrained_learning_rate=0.01 if lora else 0.003,
        lora=lora,
        metrics=["exact_match"],
        max_steps=250 if lora else 80,
    )
    train([settings])
    results = json.loads((folder / name / "results.json").read_text())
    assert results["metrics"]["exact_match"] > 90
    pipe = pipeline("conditional-generation", model=str(folder / name))
    assert pipe("small n")[0]["generated_text"] == "small thing"
    model = GenextForConditionalGeneration.from_pretrained(folder / name)
    space = StaticEmbeddingModel.from_pretrained(folder / "space")
    kept = model.encoder.conditioner.model.embeddings
    assert torch.equal(kept, space.embeddings), "a frozen encoder has changed"


def test_two_rates_are_those_of_fresh_and_pretrained_parts(folder, tmp_path):
    model = GenextForConditionalGeneration.from_encoder_decoder_pretrained(folder / "space", folder / "gpt2", num_latents=2)
    arguments = GenextTrainingArguments(
        output_dir=str(tmp_path), learning_rate=1.0, pretrained_learning_rate=0.25, weight_decay=0.5, report_to="none"
    )
    optimizer = GenextTrainer(model=model, args=arguments, data_collator=ConditionalCollator(0)).create_optimizer()
    rates = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    named = {name: rates[id(parameter)] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(named) == len(rates)
    for name, rate in named.items():
        is_fresh = "bottleneck" in name or "cross" in name or "memory_projection" in name
        assert rate == (1.0 if is_fresh else 0.25), name
    assert {0.25, 1.0} == set(named.values())
    native = GenextTrainer(
        model=GenextForConditionalGeneration.from_encoder_decoder_pretrained(
            {"model_type": "genext_vector_conditioner", "vector_size": 2}, {"model_type": "genext_decoder"}
        ),
        args=arguments,
        data_collator=ConditionalCollator(0),
    )
    with pytest.raises(ValueError, match="no pretrained part is trained beside a fresh one"):
        native.create_optimizer()
    # Of one width, with nothing in between.
    sizes = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    bare = GenextForConditionalGeneration.from_encoder_decoder_pretrained(
        {"model_type": "bert", **sizes}, {"model_type": "llama", **sizes, "bos_token_id": 1, "eos_token_id": 2}
    )
    assert not find_fresh_modules(bare)
    with pytest.raises(ValueError, match="no pretrained part is trained beside a fresh one"):
        GenextTrainer(model=bare, args=arguments, data_collator=ConditionalCollator(0)).create_optimizer()


def test_pictures_are_described_from_settings_alone(folder, tmp_path, capsys):
    write_media(folder)
    rows = [{"picture": f"{index % 2}.png", "gloss": ("thing", "act")[index % 2]} for index in range(20)]
    settings = write_settings(
        folder,
        "pictures",
        train_file=[write_jsonl(folder / "pictures.jsonl", rows)],
        validation_file=[str(folder / "pictures.jsonl")],
        conditions={"image": "picture"},
        encoder=str(folder / "vit"),
        decoder=SMALL,
        metrics=["exact_match"],
        max_steps=40,
        per_device_train_batch_size=10,
    )
    train([settings])
    assert json.loads((folder / "pictures" / "results.json").read_text())["metrics"]["exact_match"] == 100
    pipe = pipeline("conditional-generation", model=str(folder / "pictures"))
    assert pipe({"image": Image.open(folder / "1.png")})[0]["generated_text"] == "act"


def test_rows_may_have_no_condition_at_all(folder, capsys):
    settings = write_settings(folder, "nothing", conditions={}, decoder=SMALL, validation_file=[str(folder / "rows.jsonl")])
    train([settings])
    pipe = pipeline("conditional-generation", model=str(folder / "nothing"))
    torch.manual_seed(0)
    texts = {answer[0]["generated_text"] for answer in pipe(num_samples=40, do_sample=True)}
    assert {"big thing", "small thing", "big act", "small act"} <= texts


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"head": {"kind": "class"}, "decoder": SMALL}, "a decoder belongs to sequences"),
        ({"cross_attention": False}, "cross_attention chooses how a language model"),
        ({"conditioner": {}, "encoder": "x"}, "encoder and conditioner both say"),
        ({"freeze_encoder": True, "tune_encoder_from_layer": 1}, "leave one of them out"),
        ({"encoder": "somewhere/lost"}, "no model 'somewhere/lost', neither as a folder"),
        ({"decoder": "somewhere/lost"}, "no model 'somewhere/lost', neither as a folder"),
        ({"encoder": {"model_type": "brt"}}, "no model_type 'brt'"),
        ({"conditions": {"vector": {"column": "name", "space": "somewhere/lost"}}}, "no model 'somewhere/lost'"),
        ({"conditions": {"vector": "numbers"}, "encoder": "bert"}, "vector has no pretrained encoder"),
        ({"conditions": {"vector": "numbers"}, "encoder": {"vector_size": 7}}, "vector_size is 7, but the data have 3"),
        ({"conditions": {"vector": "numbers", "label": "pos"}, "encoder": "bert"}, "several conditions .vector, label."),
        ({"metrics": ["accuracy"]}, "no metric 'accuracy'"),
        ({"head": {"kind": "class"}, "target_column": "class", "metrics": ["chrf"]}, "no metric 'chrf' of a head"),
        ({"head": {"kind": "class"}, "target_column": "class", "label_smoothing_factor": 0.1}, "a head has none"),
        ({"target_columns": ["class"]}, "a regression of several numbers"),
        ({"lora": {"rank": 2}, "conditions": {"text": "name"}, "encoder": "SPACE", "decoder": "GPT2"}, "lora: .*rank"),
        ({"encoder": {"text": 3}}, "encoder: text must be a folder, a Hub id or fields, .* got 3"),
        ({"conditions": {"label": "lang"}}, r"no column 'lang' in .*\. Set conditions"),
        ({"pretrained_learning_rate": 0.1, "muon_learning_rate": 0.1}, "give one. Muon"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(folder, settings, message):
    places = {"SPACE": str(folder / "space"), "GPT2": str(folder / "gpt2")}
    settings = {name: places.get(value, value) if isinstance(value, str) else value for name, value in settings.items()}
    rows = str(folder / "rows.jsonl")
    path = write_settings(folder, "refused", **{"source_column": "name", "validation_file": [rows], **settings})
    with pytest.raises(ValueError, match=message) as error:
        train([path])
    assert "\n" not in str(error.value).split(" nor on the Hub")[0]
    assert not list((folder / "refused").glob("*.safetensors"))


def test_means_and_spreads_are_of_the_numbers_that_are_known(folder, tmp_path, capsys):
    rows = [{"w": "ab"[place % 2], "h": place if place % 3 else None, "g": 5.0 * (place % 2)} for place in range(30)]
    arguments = {"source_column": "w", "head": {"kind": "regression"}, "validation_file": [str(tmp_path / "rows.jsonl")]}
    files = {"train_file": [write_jsonl(tmp_path / "rows.jsonl", rows)], "validation_size": 1, "max_steps": 2}
    path = write_settings(folder, "partly", **arguments, **files, target_columns=["h", "g"], target_column=None)
    train([path])
    head = json.loads((folder / "partly" / "config.json").read_text())["head"]
    known = [place for place in range(30) if place % 3]
    assert head["output_means"] == pytest.approx([np.mean(known), 2.5])
    assert head["output_scales"] == pytest.approx([np.std(known), 2.5])
    write_jsonl(tmp_path / "rows.jsonl", [{**row, "h": None} for row in rows])
    path = write_settings(folder, "unknown", **arguments, **files, target_columns=["h", "g"], target_column=None)
    with pytest.raises(ValueError, match="Number 1 of 2 of the targets is missing in every row"):
        train([path])


def test_a_model_of_another_recipe_is_named_with_its_command(folder, tmp_path):
    space = str(tmp_path / "space")
    settings = {
        "conditions": {"vector": {"column": "class", "space": space}},
        "validation_file": [str(folder / "rows.jsonl")],
        "decoder": SMALL,
        "needs": {space: "python recipes/import_vectors.py --vectors nowhere.txt"},
    }
    path = write_settings(folder, "needing", **settings)
    with pytest.raises(SettingsError, match=r"not there yet. Make it with: python recipes/import_vectors\.py"):
        train([path])
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("big 1 2 3\nsmall 3 4 -5\nhuge 1 2 2\n", encoding="utf-8")
    settings["needs"] = {space: f"python recipes/import_vectors.py --vectors {vectors} --license pddl --example big"}
    train([write_settings(folder, "needing", **settings, max_steps=2), "--make_missing", "true"])
    pipe = pipeline("conditional-generation", model=str(folder / "needing"))
    assert pipe({"vector": StaticEmbeddingModel.from_pretrained(space)["big"]})


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

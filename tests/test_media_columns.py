"""Columns of pictures and recordings in every form, opened for training as the pipeline opens them."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import wave
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from composition_specimens import DECODERS
from PIL import Image
from scipy.signal import resample_poly
from specimens import PHONEMES
from transformers import (
    ViTConfig,
    ViTImageProcessor,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    WhisperConfig,
    WhisperFeatureExtractor,
    pipeline,
)

from hf_genext import GenextForConditionalGeneration, GenextProcessor, train_tokenizer
from hf_genext.batching import ConditionalCollator
from hf_genext.conditions import ConditionColumns, group_conditions, list_conditions, read_rows
from hf_genext.encoding import encode_rows
from hf_genext.media import open_picture, open_recording
from recipes.conditional_data import write_example

DRAW = np.random.default_rng(0)
PIXELS = DRAW.integers(0, 256, (3, 9, 7, 3), dtype=np.uint8)
WAVES = [DRAW.uniform(-1, 1, size).astype(np.float32) for size in (900, 1100, 700)]
COUNTS = [(wave * 32767).astype(np.int16) for wave in WAVES]
RATE = 8000


def encode_png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def encode_wave(samples, rate=RATE):
    file = io.BytesIO()
    with wave.open(file, "wb") as opened:
        opened.setparams((1, 2, rate, 0, "NONE", "not compressed"))
        opened.writeframes(samples.tobytes())
    return file.getvalue()


CONTENTS = {"image": [encode_png(pixels) for pixels in PIXELS], "audio": [encode_wave(samples) for samples in COUNTS]}
SUFFIXES = {"image": "png", "audio": "wav"}


def write_files(folder, kind):
    paths = []
    for index, content in enumerate(CONTENTS[kind]):
        paths.append(folder / f"{index}.{SUFFIXES[kind]}")
        paths[-1].write_bytes(content)
    return paths


def build_columns(folder, kind):
    """The same pictures or recordings in every form that a column can have."""
    contents, stored = CONTENTS[kind], pa.struct({"bytes": pa.binary(), "path": pa.string()})
    paths = [path.name for path in write_files(folder, kind)]
    urls = [f"data:{kind}/{SUFFIXES[kind]};base64,{base64.b64encode(content).decode()}" for content in contents]
    columns = {
        "paths": pa.array(paths),
        "paths in a dictionary": pa.array(paths).dictionary_encode(),
        "data URLs": pa.array(urls),
        "bytes": pa.array(contents),
        "bytes and path": pa.array([{"bytes": content, "path": path} for content, path in zip(contents, paths, strict=True)]),
        "stored paths": pa.array(
            [{"bytes": None, "path": path} for path in paths], pa.struct({"bytes": "binary", "path": "str"})
        ),
    }
    if kind == "image":
        columns["pixels"] = pa.array(PIXELS.tolist(), pa.list_(pa.list_(pa.list_(pa.uint8()))))
        columns["channels first"] = pa.array(PIXELS.transpose(0, 3, 1, 2).tolist())
        pictures = datasets.Dataset.from_dict({"x": [Image.fromarray(pixels) for pixels in PIXELS]})
        columns["Pillow's, as datasets stores them"] = pictures.with_format("arrow")[:]["x"]
        array = datasets.Features({"x": datasets.Array3D((9, 7, 3), "uint8")})
        columns["arrays of datasets"] = datasets.Dataset.from_dict({"x": PIXELS}, array).with_format("arrow")[:]["x"]
    else:
        kinds = pa.struct({"array": pa.list_(pa.int16()), "sampling_rate": pa.int64()})
        columns["samples and rate"] = pa.array([{"array": samples, "sampling_rate": RATE} for samples in COUNTS], kinds)
        columns["samples alone"] = pa.array(COUNTS, pa.list_(pa.int16()))
        stored = [{"bytes": content, "path": None} for content in contents]
        features = datasets.Features({"x": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}})
        columns["as datasets stores them"] = (
            datasets.Dataset.from_dict({"x": stored}, features)
            .cast_column("x", datasets.Audio(decode=False))
            .with_format("arrow")[:]["x"]
        )
    return columns


def build_conditions(kind, folder):
    """The same again, as a pipeline is given them."""
    contents, paths = CONTENTS[kind], [str(folder / f"{index}.{SUFFIXES[kind]}") for index in range(3)]
    forms = [
        [{kind: path} for path in paths],
        paths,
        contents,
        [{"bytes": content, "path": "somewhere"} for content in contents],
        [{kind: {"bytes": None, "path": path}} for path in paths],
    ]
    if kind == "image":
        return [*forms, [Image.fromarray(pixels) for pixels in PIXELS], list(PIXELS), list(PIXELS.transpose(0, 3, 1, 2))]
    return [
        *forms,
        [{"array": samples, "sampling_rate": RATE} for samples in COUNTS],
        [{"audio": samples, "sampling_rate": RATE} for samples in COUNTS],
    ]


PARTS = {
    "image": (
        ViTConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4),
        {"image_processor": ViTImageProcessor(size={"height": 8, "width": 8})},
    ),
    "whisper": (
        WhisperConfig(
            d_model=16,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            num_mel_bins=8,
            max_source_positions=50,
        ),
        {"feature_extractor": WhisperFeatureExtractor(feature_size=8, chunk_length=1)},
    ),
    "wav2vec2": (
        Wav2Vec2Config(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            conv_dim=(8, 8),
            conv_kernel=(10, 3),
            conv_stride=(5, 2),
            num_feat_extract_layers=2,
            num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2,
        ),
        {"feature_extractor": Wav2Vec2FeatureExtractor()},
    ),
}


@pytest.mark.parametrize("part", list(PARTS))
def test_every_form_gives_the_tensors_of_the_pipeline(part, tmp_path):
    kind = "image" if part == "image" else "audio"
    encoder, parts = PARTS[part]
    processor = GenextProcessor(target_tokenizer=train_tokenizer(PHONEMES, unit="word", model_max_length=24), **parts)
    decoder = DECODERS["gpt2"]()
    decoder.vocab_size = len(processor.target_tokenizer)
    model = GenextForConditionalGeneration.from_encoder_decoder_pretrained(encoder, decoder, num_latents=2)
    pipe = pipeline("conditional-generation", model=model, processor=processor)
    names = ("pixel_values", "input_features", "input_values")
    expected = None
    for form, column in build_columns(tmp_path, kind).items():
        table = pa.table({"x": column, "target": PHONEMES[:3]})
        pq.write_table(table, tmp_path / "rows.parquet")
        columns = [ConditionColumns(kind, ("x",), sampling_rate=RATE if form == "samples alone" else None)]
        rows, report = read_rows(tmp_path / "rows.parquet", columns, target_columns=["target"])
        assert (report.kept, len(set(rows["source"]))) == (3, 3), form
        encoded, _ = encode_rows(rows, processor, max_source_length=9, max_target_length=9)
        trained = [{name: encoded[index][name] for name in names if name in encoded[index]} for index in range(3)]
        asked = [pipe.preprocess(condition) for condition in list_conditions(rows)]
        expected = trained if expected is None else expected
        for row, (ours, theirs) in enumerate(zip(trained, asked, strict=True)):
            assert len(ours) == 1
            for name, values in ours.items():
                assert np.array_equal(values, expected[row][name]), f"{form}: {name} is not that of {rows['source'][row]}"
                assert np.array_equal(values, theirs[name][0].numpy()), form
    assert len({values.tobytes() for row in expected for values in row.values()}) == 3
    for form in build_conditions(kind, tmp_path):
        for row, condition in enumerate(form):
            inputs = pipe.preprocess(condition)
            assert all(np.array_equal(inputs[name][0].numpy(), values) for name, values in expected[row].items()), condition
    if part == "wav2vec2":  # What the tensors are: the samples, resampled from 8 to 16 kHz, of mean 0 and variance 1.
        waves = resample_poly(COUNTS[0].astype(np.float32) / 32768, 2, 1)
        np.testing.assert_allclose(expected[0]["input_values"], (waves - waves.mean()) / waves.std(), atol=1e-3)
    batch = ConditionalCollator(0)([encoded[index] for index in range(3)])
    together = processor.read_conditions(
        [{kind: open_picture(value)} if kind == "image" else
         {"audio": resample_poly(open_recording(value)[0], 2, 1).astype(np.float32), "sampling_rate": 16000}
         for value in CONTENTS[kind]],
        return_tensors="pt",
    )  # fmt: skip
    for name, values in together.items():
        torch.testing.assert_close(batch[name], values)


def test_pictures_of_any_mode_are_red_green_and_blue():
    grey = PIXELS[0, :, :, 0]
    expected = np.repeat(grey[..., None], 3, axis=2)
    transparent = np.concatenate([expected, np.full((9, 7, 1), 7, np.uint8)], axis=2)
    for source in (grey, grey[..., None], grey[None], Image.fromarray(grey), encode_png(grey), transparent, grey.tolist()):
        assert np.array_equal(np.asarray(open_picture(source)), expected)
    assert np.array_equal(np.asarray(open_picture(grey > 100)), np.where(expected > 100, 255, 0))
    assert np.array_equal(np.asarray(open_picture(torch.from_numpy(grey))), expected)
    assert np.array_equal(open_picture(grey / 255), expected / 255), "fractions are left to the image processor"
    turned = Image.fromarray(PIXELS[0])
    turned.getexif()[0x0112] = 6
    assert open_picture(turned).size == (9, 7)
    for source, message in (
        (np.zeros((2, 5, 5), np.uint8), r"1, 3 or 4 channels, got uint8 of the shape \(2, 5, 5\)"),
        (np.zeros(4), "must have the shape"),
        ([[300]], "must be 0 to 255, got 300 to 300"),
        ({"array": []}, r"need bytes or path, got \['array'\]"),
        (np.array([["a"]]), "got <U1"),
    ):
        with pytest.raises(ValueError, match=message):
            open_picture(source)


def test_recordings_of_several_channels_and_kinds_of_number():
    both = np.stack([COUNTS[0], -COUNTS[0] // 2], axis=1)
    expected = both.astype(np.float32).mean(axis=1) / 32768
    for source in (both, both.T, both.astype(np.int32) * 65536, both / 32768):
        waves, rate = open_recording(source, RATE)
        np.testing.assert_allclose(waves, expected, atol=1e-6)
        assert (waves.dtype, rate) == (np.float32, RATE)
    for source, message in (
        (np.zeros(0), "holds no samples"),
        (encode_wave(COUNTS[0][:0]), "holds no samples"),
        ([0.5, float("nan")], "no finite numbers"),
        (np.zeros((2, 2, 2)), r"got float64 of the shape \(2, 2, 2\)"),
    ):
        with pytest.raises(ValueError, match=message):
            open_recording(source, RATE)


@pytest.mark.parametrize("kind", ["image", "audio"])
def test_what_cannot_be_opened_is_refused_or_counted_before_training(kind, tmp_path):
    paths = write_files(tmp_path, kind)
    broken = tmp_path / "broken"
    broken.write_bytes(CONTENTS[kind][0][: 60 if kind == "image" else 10])
    values = [paths[0], broken, None, paths[1], "lost.png", paths[2], " ", broken]
    table = pa.table({"x": [None if value is None else str(value) for value in values], "y": ["a"] * 7 + [None]})
    rows = datasets.Dataset(table)
    columns = [ConditionColumns(kind, ("x",))]
    with pytest.raises(ValueError, match=rf"Row 2: '{broken}' is no .* unreadable to \"drop\". So it is with 2 rows in all"):
        read_rows(rows, columns, target_columns=["y"])
    with pytest.raises(FileNotFoundError, match=r"Row 5: There is no file 'lost.png' \(looked in"):
        read_rows(rows.select([0, 0, 0, 0, 4]), columns, target_columns=["y"])
    read, report = read_rows(rows, columns, target_columns=["y"], unreadable="drop")
    assert (report.read, report.kept) == (8, 3)
    assert dict(report.dropped) == {"empty x": 2, "empty y": 1, "unreadable x": 2}
    assert f"2 dropped: unreadable x (rows 2, 5, the first: '{broken}' is no " in str(report)
    assert read["row"][:] == [1, 4, 6]
    _, parts = PARTS["image" if kind == "image" else "whisper"]
    processor = GenextProcessor(target_tokenizer=train_tokenizer(["a"], unit="word"), **parts)
    encoded, _ = encode_rows(read, processor, max_source_length=9, max_target_length=9)
    assert len(encoded[1]) == 2
    paths[1].write_bytes(b"")
    with pytest.raises(ValueError, match=rf"Row 4 \({paths[1]}\): '{paths[1]}' is no "):
        encoded[1]
    paths[2].unlink()
    with pytest.raises(ValueError, match=rf"Row 6 \({paths[2]}\): There is no"):
        encoded[2]
    with pytest.raises(ValueError, match="unreadable must be 'error' or 'drop', got 'ignore'"):
        read_rows(rows, columns, target_columns=["y"], unreadable="ignore")


def test_pixels_and_samples_that_are_no_array_are_rows_that_cannot_be_read():
    whole, ragged, missing = [[0, 255], [9, 9]], [[0, 255], [9]], [[0, 255], [9, None]]
    rows = datasets.Dataset(pa.table({"x": [whole, ragged, missing], "y": ["a"] * 3}))
    columns = [ConditionColumns("image", ("x",))]
    with pytest.raises(ValueError, match=r"Row 2: .*in lists must have lists of one length"):
        read_rows(rows, columns, target_columns=["y"])
    with pytest.raises(ValueError, match=r"Row 3: .*some of the 4 are missing"):
        read_rows(rows.select([0, 0, 2]), columns, target_columns=["y"])
    read, report = read_rows(rows, columns, target_columns=["y"], unreadable="drop")
    assert read["row"][:] == [1] and dict(report.dropped) == {"unreadable x": 2}
    with pytest.raises(ValueError, match="must have finite numbers"):
        open_picture([[0.5, float("nan")]])
    with pytest.raises(ValueError, match="A recording in lists must have lists of one length"):
        open_recording([[0.5, 0.5], [0.5]], RATE)


def test_two_ranks_open_each_a_share_and_report_the_same(tmp_path):
    lines = []
    for number in range(9):
        path = tmp_path / f"{number}.png"
        path.write_bytes(b"no picture" if number in (3, 4) else encode_png(np.full((2, 3, 3), number, dtype=np.uint8)))
        lines.append({"picture": path.name if number != 8 else "nowhere.png", "caption": "K AE T"})
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    told = {}
    for count in (1, 2):
        out = tmp_path / str(count)
        out.mkdir()
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
        program = Path(__file__).parent / "programs" / "check_media.py"
        command = [sys.executable, *launcher, str(program), str(file), str(out)]
        subprocess.run(command, check=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
        told[count] = [json.loads((out / f"{rank}.json").read_text()) for rank in range(count)]
    (alone,), (first, second) = told[1], told[2]
    assert alone["drop"]["rows"] == [1, 2, 3, 6, 7, 8] and alone["error"].startswith("ValueError: Row 4: ")
    assert "So it is with 3 rows in all" in alone["error"]
    for rule in ("drop", "error"):
        assert first[rule] == second[rule] == alone[rule]
    # Both rules: each picture twice on one of the ranks.
    assert sorted(first["opened"] + second["opened"]) == sorted(alone["opened"])
    assert len(set(alone["opened"])) == 9 and set(first["opened"]).isdisjoint(second["opened"]) and second["opened"]


@pytest.mark.parametrize(
    ("kind", "column", "message"),
    [
        ("image", [1, 2], "Column 'x' of the dataset holds int64; a condition of kind image is a path, a data URL, bytes"),
        ("image", [["a"], ["b"]], "holds list"),
        ("image", [{"a": 1}, {"a": 2}], "holds struct"),
        ("audio", [[0.5, 1.0], [0.25]], "without saying how many there are a second. Store {array, sampling_rate}, or write"),
        ("audio", [{"array": [0.5], "sampling_rate": RATE}, {"array": [0.5], "sampling_rate": None}], "Row 2: Column 'x'"),
        ("image", ["https://example.org/x.png", "b"], "Row 1: 'https://example.org/x.png' is on the network"),
        ("image", ["data:image/png;base64,????", "b"], "Row 1: The data URL 'data:image/png;base64,.* is not base64"),
    ],
)  # fmt: skip
def test_columns_that_hold_something_else_are_refused(kind, column, message):
    rows = datasets.Dataset(pa.table({"x": column, "y": ["a", "b"]}))
    with pytest.raises(ValueError, match=message):
        read_rows(rows, [ConditionColumns(kind, ("x",))], target_columns=["y"])


def test_pictures_that_are_the_same_are_one_condition_and_files_that_differ_in_capitals_are_two(tmp_path):
    for name, pixels in (("a.png", PIXELS[0]), ("A.png", PIXELS[1])):
        Image.fromarray(pixels).save(tmp_path / name)
    rows = datasets.Dataset(
        pa.table({"x": [str(tmp_path / name) for name in ("a.png", "A.png", "a.png")], "y": ["b", "c", "d"]})
    )
    read, _ = read_rows(rows, [ConditionColumns("image", ("x",))], target_columns=["y"])
    assert group_conditions(read)["references"] == [["b", "d"], ["c"]]
    contents = pa.table({"x": [CONTENTS["image"][row] for row in (0, 1, 0)], "y": ["b", "c", "d"]})
    read, _ = read_rows(datasets.Dataset(contents), [ConditionColumns("image", ("x",))], target_columns=["y"])
    assert group_conditions(read)["references"] == [["b", "d"], ["c"]]


def test_the_card_names_a_file_for_what_is_none():
    columns = {"image": "x", "audio": "y"}
    for value in (b"...", {"bytes": b"...", "path": None}, "data:image/png;base64,AAAA", PIXELS[0]):
        assert write_example({"image": "x"}, "", {"image": value}) == "{'image': 'picture.png'}"
    example = write_example(columns, "", {"image": "a/b.png", "audio": {"array": WAVES[0], "sampling_rate": RATE}})
    assert example == "{'image': 'a/b.png', 'audio': 'recording.wav'}"


def test_a_folder_of_pictures_is_read_as_datasets_reads_it(tmp_path):
    write_files(tmp_path, "image")
    (tmp_path / "metadata.jsonl").write_text(
        "".join(f'{{"file_name": "{index}.png", "caption": "c{index}"}}\n' for index in range(3)), encoding="utf-8"
    )
    read, _ = read_rows(str(tmp_path), [ConditionColumns("image", ("image",))], target_columns=["caption"])
    opened = [np.asarray(open_picture(condition["image"])) for condition in list_conditions(read)]
    assert all(np.array_equal(opened[int(caption[1])], PIXELS[int(caption[1])]) for caption in read["target"])

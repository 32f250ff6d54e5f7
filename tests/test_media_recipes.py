"""From pictures and recordings to texts, from settings alone: encoders from fields, and what reads for them."""

from __future__ import annotations

import json
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from transformers import AutoProcessor, pipeline

from hf_genext.batching import ConditionalCollator
from recipes.conditional_data import RowReader, encode_dataset
from recipes.conditional_model import load_model
from recipes.conditional_settings import DataSettings, ModelSettings

ROOT = Path(__file__).parents[1]
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DECODER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
CONV = {"conv_dim": [8, 8], "conv_kernel": [10, 3], "conv_stride": [5, 2], "num_feat_extract_layers": 2}
POSITIONS = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
ENCODERS = {
    "vit": {**SMALL, "image_size": 16, "patch_size": 8},
    "clip_vision_model": {**SMALL, "image_size": 16, "patch_size": 8, "projection_dim": 16},
    "siglip_vision_model": {**SMALL, "image_size": 16, "patch_size": 8},
    "dinov2": {**SMALL, "image_size": 16, "patch_size": 8},
    "deit": {**SMALL, "image_size": 16, "patch_size": 8},
    "swin": {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2},
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "convnext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "image_size": 16, "patch_size": 2},
    "whisper": {
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 16,
        "num_mel_bins": 8,
        "max_source_positions": 50,
    },
    "wav2vec2": {**SMALL, **CONV, **POSITIONS},
    "hubert": {**SMALL, **CONV, **POSITIONS},
    "audio-spectrogram-transformer": {**SMALL, "num_mel_bins": 16, "max_length": 32},
}
"""Sizes of tiny encoders by model type."""
VIT = {"model_type": "vit", **ENCODERS["vit"]}
WHISPER = {"model_type": "whisper", **ENCODERS["whisper"]}


def write_tones(folder, count, rate=8000):
    """Recordings of tones that are high or low, and rise or do not; what they are called, and the rows of the data."""
    generator = np.random.default_rng(0)
    rows = []
    for index in range(count):
        pitch, rises = generator.choice([300, 900]), generator.integers(2)
        seconds = np.arange(int(rate * generator.uniform(0.3, 0.6))) / rate
        tone = np.sin(2 * np.pi * pitch * (seconds + rises * seconds**2)) + generator.normal(0, 0.05, len(seconds))
        with wave.open(str(folder / f"{index}.wav"), "wb") as file:
            file.setparams((1, 2, rate, 0, "NONE", "not compressed"))
            file.writeframes((tone * 16000).astype(np.int16).tobytes())
        rows.append(
            {"sound": f"{index}.wav", "caption": f"{'high' if pitch > 600 else 'low'} {'rising' if rises else 'steady'}"}
        )
    return rows


def write_digits(folder, count):
    """scikit-learn's pictures of digits, eight times eight pixels, and their names."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    rows = []
    for index in range(count):
        pixels = (digits.images[index] * 15.9).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        rows.append({"picture": f"{index}.png", "caption": NAMES[digits.target[index]]})
    return rows


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return [str(path)]


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """A folder with a few pictures and recordings, and a file that names them."""
    folder = tmp_path_factory.mktemp("media")
    rows = [{**digit, **tone} for digit, tone in zip(write_digits(folder, 4), write_tones(folder, 4), strict=True)]
    return write_rows(folder / "rows.jsonl", rows)


@pytest.mark.parametrize("model_type", list(ENCODERS))
def test_an_encoder_of_fields_gets_what_reads_for_it(media, model_type, tmp_path):
    kind = "audio" if model_type in list(ENCODERS)[-4:] else "image"
    resized = {"image_processor": {"size": {"shortest_edge": 16}}} if model_type == "resnet" else {}
    settings = ModelSettings(encoder={"model_type": model_type, **ENCODERS[model_type]}, decoder=DECODER, **resized)
    data = DataSettings(conditions={kind: "picture" if kind == "image" else "sound"}, target_column="caption")
    reader = RowReader(data)
    rows = reader.read(media)
    model, processor = load_model(settings, rows)
    encoded, _ = encode_dataset(rows, processor, data, reader, max_source_length=9, max_target_length=9)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):  # In the first step the decoder's gates are closed to the memory.
        optimizer.zero_grad()
        loss = model(**ConditionalCollator(0)([encoded[0], encoded[1]])).loss
        loss.backward()
        optimizer.step()
    assert torch.isfinite(loss)
    assert any(parameter.grad.abs().max() > 0 for parameter in model.encoder.parameters() if parameter.grad is not None)
    processor.save_pretrained(tmp_path)
    opened = AutoProcessor.from_pretrained(tmp_path)
    part = opened.image_processor if kind == "image" else opened.feature_extractor
    saved = getattr(processor, "image_processor" if kind == "image" else "feature_extractor")
    assert (type(part), part.to_dict()) == (type(saved), saved.to_dict())


def test_several_encoders_of_fields_stand_side_by_side(media, tmp_path):
    rows = [json.loads(line) for line in Path(media[0]).read_text().splitlines()]
    rows[1]["picture"] = rows[2]["sound"] = None
    folder = Path(media[0]).parent
    settings = ModelSettings(
        encoder={"image": VIT, "audio": WHISPER, "text": {"hidden_size": 16, "num_attention_heads": 2}}, decoder=DECODER
    )
    conditions = {"image": "picture", "audio": "sound", "text": "caption"}
    data = DataSettings(conditions=conditions, target_column="caption")
    reader = RowReader(data)
    read = reader.read(write_rows(folder / "some.jsonl", rows))
    model, processor = load_model(settings, read)
    encoded, _ = encode_dataset(read, processor, data, reader, max_source_length=20, max_target_length=9)
    batch = ConditionalCollator(0)([encoded[index] for index in range(4)])
    assert batch["pixel_values"].isnan().flatten(1).all(dim=1).tolist() == [False, True, False, False]
    assert batch["input_features"].isnan().flatten(1).all(dim=1).tolist() == [False, False, True, False]
    assert torch.isfinite(model(**batch).loss)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"kind image needs an encoder: .* such as \{model_type: vit, .*got none"),
        ({"encoder": {"hidden_size": 16}}, r"fields with a model_type.*got \{'hidden_size': 16\}"),
        ({"encoder": {"model_type": "vitt"}}, "no model_type 'vitt' in Transformers"),
        ({"encoder": {**VIT, "hiden_size": 16}}, "ViTConfig has no field 'hiden_size'. Did you mean 'hidden_size'?"),
        ({"encoder": {**VIT, "num_channels": 1}}, "num_channels must be 3, got 1"),
        ({"encoder": {"model_type": "bert"}}, "a bert has none of its own. Name another, such as image_processor:"),
        ({"encoder": VIT, "image_processor": {"sise": 8}}, "has no 'sise'; it has .*image_mean"),
        ({"encoder": VIT, "image_processor": {"image_processor_type": "X"}}, "there is no 'X' in Transformers"),
        ({"encoder": VIT, "image_processor": "somewhere/lost"}, "no model 'somewhere/lost'"),
        ({"encoder": VIT, "feature_extractor": {}}, "feature_extractor is for conditions of kind audio"),
        ({"encoder": "somewhere/lost"}, "no model 'somewhere/lost'"),
        ({"audio": True, "encoder": {**WHISPER, "max_source_positions": 60}}, "multiple of 50, got 60"),
        (
            {"audio": True, "encoder": WHISPER, "feature_extractor": {"feature_extractor_type": "Wav2Vec2FeatureExtractor"}},
            "a whisper reads input_features, but a Wav2Vec2FeatureExtractor gives input_values",
        ),
    ],
)
def test_encoders_that_cannot_be_built_say_why(media, settings, message):
    kind, column = ("audio", "sound") if settings.pop("audio", False) else ("image", "picture")
    rows = RowReader(DataSettings(conditions={kind: column}, target_column="caption")).read(media)
    with pytest.raises(ValueError, match=message):
        load_model(ModelSettings(decoder=DECODER, **settings), rows)


RUN = {
    "target_column": "caption",
    "unreadable": "drop",
    "target_unit": "word",
    "decoder": DECODER,
    "metrics": ["exact_match"],
    "deciding_metrics": {"exact_match": "higher"},
    "learning_rate": 0.01,
    "warmup_steps": 20,
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 50,
    "save_strategy": "no",
    "report_to": "none",
    "num_threads": 1,
    "seed": 1,
}


def run_command(folder, **settings):
    """Train by the command that the documentation gives, from a settings file, and return what it printed."""
    (folder / "config.yaml").write_text(
        yaml.safe_dump({**RUN, **settings, "output_dir": str(folder / "model")}), encoding="utf-8"
    )
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "recipes/train_conditional.py"]
    finished = subprocess.run([*command, str(folder / "config.yaml")], cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout + finished.stderr


@pytest.mark.slow
def test_pictures_are_named_by_the_real_command(tmp_path):
    rows = write_digits(tmp_path, 900)
    (tmp_path / "broken.png").write_bytes((tmp_path / "0.png").read_bytes()[:40])
    printed = run_command(
        tmp_path,
        train_file=write_rows(tmp_path / "rows.jsonl", [*rows[:800], {"picture": "broken.png", "caption": "one"}]),
        validation_file=write_rows(tmp_path / "held_out.jsonl", rows[800:]),
        conditions={"image": "picture"},
        encoder={"model_type": "vit", **DECODER, "image_size": 8, "patch_size": 4, "initializer_range": 0.1},
        max_steps=150,
    )
    assert "801 rows read, 800 kept; 1 dropped: unreadable picture (rows 801, the first:" in printed
    results = json.loads((tmp_path / "model" / "results.json").read_text())
    assert results["metrics"]["exact_match"] > 50, printed
    pipe = pipeline("conditional-generation", model=str(tmp_path / "model"))
    names = [rows[index]["caption"] for index in range(40)]
    paths = [str(tmp_path / f"{index}.png") for index in range(40)]
    answers = [answer[0]["generated_text"] for answer in pipe(paths, batch_size=8)]
    assert np.mean([answer == name for answer, name in zip(answers, names, strict=True)]) > 0.7
    pictures = [Image.open(path) for path in paths]
    assert [answer[0]["generated_text"] for answer in pipe(pictures, batch_size=8)] == answers
    arrays = [{"image": np.asarray(picture)} for picture in pictures]
    assert [answer[0]["generated_text"] for answer in pipe(arrays, batch_size=8)] == answers


@pytest.mark.slow
def test_recordings_are_described_by_the_real_command(tmp_path):
    rows = write_tones(tmp_path, 160)
    printed = run_command(
        tmp_path,
        train_file=write_rows(tmp_path / "rows.jsonl", rows[:120]),
        validation_file=write_rows(tmp_path / "held_out.jsonl", rows[120:]),
        conditions={"audio": "sound"},
        encoder={**WHISPER, "d_model": 32},
        max_steps=100,
    )
    results = json.loads((tmp_path / "model" / "results.json").read_text())
    assert results["metrics"]["exact_match"] > 60, printed
    pipe = pipeline("conditional-generation", model=str(tmp_path / "model"))
    answers = [pipe(str(tmp_path / f"{index}.wav"))[0]["generated_text"] for index in range(20)]
    assert np.mean([answer == row["caption"] for answer, row in zip(answers, rows, strict=False)]) > 0.7
    arrays = []
    for index in range(20):
        with wave.open(str(tmp_path / f"{index}.wav")) as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), np.int16)
            arrays.append({"array": samples, "sampling_rate": file.getframerate()})
    assert [answer[0]["generated_text"] for answer in pipe(arrays)] == answers

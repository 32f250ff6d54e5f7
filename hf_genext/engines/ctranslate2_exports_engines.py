"""Models to folders for CTranslate2: native models of texts, and those of Transformers that its own converters take.

CTranslate2 knows tokens by their text. Here that is their number, so that no two are one and no tokenizer is needed.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedModel

from ..genext.bottlenecks_genext import NoBottleneck
from ..genext.layers_genext import GenextRMSNorm
from ..genext.text_conditioners_genext import GenextTextConditioner
from .models_engines import require_package

CONVERTED: dict[str, dict[str, Any]] = {
    "BartConfig": {"normalize_before": False, "normalize_embedding": True},
    "M2M100Config": {},
    "MBartConfig": {"normalize_before": True, "normalize_embedding": True},
    "MT5Config": {},
    "MarianConfig": {},
    "T5Config": {},
    "WhisperConfig": {},
}
"""Configurations whose models CTranslate2's converters read, with what these ask for and Transformers 5 has no more."""

_ACTIVATIONS = {
    "gelu": "GELU",
    "gelu_new": "GELUTanh",
    "gelu_pytorch_tanh": "GELUTanh",
    "relu": "RELU",
    "silu": "SWISH",
    "swish": "SWISH",
}


@torch.no_grad()
def write_ctranslate2(model: PreTrainedModel, folder: Path, quantization: str | None) -> dict[str, Any]:
    """Write a model of texts, or Whisper.

    Args:
        model: The model, on the CPU.
        folder: An empty folder.
        quantization: `None` or `"int8"`.

    Returns:
        Nothing more for `export.json`.

    Raises:
        ValueError: for a model that CTranslate2 cannot run exactly.
    """
    obstacle = _find_obstacle(model)
    if obstacle is not None:
        raise ValueError(f"CTranslate2 cannot run this {type(model).__name__}, because {obstacle}.")
    converters = require_package("ctranslate2.converters.transformers")
    # The converters write into the configuration, and the quantisation into the weights.
    model = copy.deepcopy(model).float()
    if hasattr(model.config, "conditioner"):
        spec = _describe(model)
    else:
        for name, value in CONVERTED[type(model.config).__name__].items():
            setattr(model.config, name, value)
        loader = converters._MODEL_LOADERS[type(model.config).__name__]
        spec = loader.get_model_spec(model)
        if type(model.config).__name__ == "WhisperConfig":
            loader.set_config(spec.config, model, None)
    _name_tokens(spec, model)
    spec.validate()
    spec.optimize(quantization=quantization or "float32")
    spec.save(str(folder))
    return {}


def _find_obstacle(model: PreTrainedModel) -> str | None:
    """Why it cannot run a model, the end of a sentence with "because"."""
    config = model.config
    if hasattr(config, "conditioner"):
        return _find_native_obstacle(model)
    kind = type(config).__name__
    if kind not in CONVERTED:
        return f"its converters read no {kind} under Transformers 5; they read {', '.join(sorted(CONVERTED))}"
    if kind == "MarianConfig" and config.pad_token_id != config.vocab_size - 1:
        return f"its converter takes the last token for padding, which here is {config.pad_token_id} of {config.vocab_size:,}"
    return None


def _find_native_obstacle(model: Any) -> str | None:
    if not hasattr(model, "find_stepping_obstacle"):
        return "it writes no sequences"
    if (obstacle := model.find_stepping_obstacle()) is not None:
        return obstacle
    encoder, decoder = model.encoder, model.decoder
    instead = 'export it with engine="onnx"'
    if type(encoder.conditioner) is not GenextTextConditioner:
        return f"its condition is not a text that is encoded from scratch; {instead}"
    if not isinstance(encoder.bottleneck, NoBottleneck):
        return f"it takes no bottleneck; {instead}"
    sides = (encoder.conditioner.config, decoder.config)
    if decoder.config.use_qk_norm and decoder.config.num_attention_heads > 1:
        return (
            "it normalises the queries of cross-attention before they are split into heads, and this decoder after "
            f"(use_qk_norm with {decoder.config.num_attention_heads} heads); {instead}"
        )
    for config in sides:
        if config.rope_parameters["rope_type"] != "default":
            return f"it is not given rotary positions of type {config.rope_parameters['rope_type']!r} here; {instead}"
        if config.hidden_act not in _ACTIVATIONS:
            return f"it has no activation {config.hidden_act!r}; {instead}"
    if sides[0].rms_norm_eps != sides[1].rms_norm_eps:
        return f"it has one epsilon for all norms, and here are {sides[0].rms_norm_eps} and {sides[1].rms_norm_eps}; {instead}"
    return None


def _describe(model: Any) -> Any:
    """The specification of a native model."""
    specs = require_package("ctranslate2.specs.transformer_spec")
    activations = require_package("ctranslate2.specs.common_spec").Activation
    conditioner, decoder = model.encoder.conditioner, model.decoder

    def describe_stack(kind: Any, config: Any) -> Any:
        return kind(
            config.num_hidden_layers,
            config.num_attention_heads,
            activation=activations[_ACTIVATIONS[config.hidden_act]],
            ffn_glu=True,
            rms_norm=True,
            rotary_dim=0,
            rotary_interleave=False,
            rotary_base=config.rope_parameters["rope_theta"],
            qk_norm=config.use_qk_norm,
        )

    encoder_spec = describe_stack(specs.TransformerEncoderSpec, conditioner.config)
    decoder_spec = describe_stack(specs.TransformerDecoderSpec, decoder.config)
    del encoder_spec.position_encodings
    for spec, stack in ((encoder_spec, conditioner), (decoder_spec, decoder)):
        embeddings = spec.embeddings[0] if isinstance(spec.embeddings, list) else spec.embeddings
        embeddings.weight = stack.embed_tokens.weight
        spec.scale_embeddings = False
        spec.layer_norm.gamma = stack.norm.weight
        for layer_spec, layer in zip(spec.layer, stack.layers, strict=True):
            _fill_layer(layer_spec, layer)
    decoder_spec.projection.weight = model.head.projection.weight
    spec = specs.TransformerSpec(encoder_spec, decoder_spec)
    spec.config.layer_norm_epsilon = decoder.config.rms_norm_eps
    return spec


def _fill_layer(spec: Any, layer: Any) -> None:
    spec.self_attention.layer_norm.gamma = layer.self_attn_norm.weight
    _fill_attention(spec.self_attention, layer.self_attn, [layer.self_attn.qkv_proj])
    if hasattr(layer, "cross_attn"):
        spec.attention.layer_norm.gamma = layer.cross_attn_norm.weight
        _fill_attention(spec.attention, layer.cross_attn, [layer.cross_attn.q_proj, layer.cross_attn.kv_proj])
    gate, up = layer.mlp.gate_up_proj.weight.chunk(2)
    spec.ffn.layer_norm.gamma = layer.mlp_norm.weight
    spec.ffn.linear_0.weight, spec.ffn.linear_0_noact.weight = gate, up
    spec.ffn.linear_1.weight = layer.mlp.down_proj.weight


def _fill_attention(spec: Any, attention: Any, projections: list[nn.Linear]) -> None:
    for linear, projection in zip(spec.linear, [*projections, attention.o_proj], strict=True):
        linear.weight = projection.weight
    if isinstance(attention.q_norm, GenextRMSNorm):
        spec.q_norm.gamma, spec.k_norm.gamma = attention.q_norm.weight, attention.k_norm.weight


def _name_tokens(spec: Any, model: PreTrainedModel) -> None:
    """Every token's number as its name, and which of them begin and end."""
    config, generation = model.config, model.generation_config
    if hasattr(spec, "register_vocabulary"):  # Whisper
        spec.register_vocabulary(_name_tokens_of_whisper(spec.get_vocabulary_size(), generation))
        return
    (source,), target = spec.get_source_vocabulary_size(), spec.get_target_vocabulary_size()
    spec.register_source_vocabulary([str(number) for number in range(source)])
    spec.register_target_vocabulary([str(number) for number in range(target)])
    end = generation.eos_token_id
    end = end[0] if isinstance(end, list) else end
    start = generation.decoder_start_token_id
    # Marian's start is a zero embedding, whatever its token is called.
    start = end if type(config).__name__ == "MarianConfig" else start
    spec.config.bos_token = spec.config.decoder_start_token = str(start)
    spec.config.eos_token = str(end)
    spec.config.unk_token = "0"


def _name_tokens_of_whisper(count: int, generation: GenerationConfig) -> list[str]:
    """Names of Whisper's tokens: those that CTranslate2 asks for by name, and the numbers of all others."""
    names = [str(number) for number in range(count)]
    known = {"startoftranscript": generation.decoder_start_token_id, "endoftext": generation.eos_token_id}
    known |= {"notimestamps": generation.no_timestamps_token_id, "startofprev": getattr(generation, "prev_sot_token_id", None)}
    for name, number in (known | (getattr(generation, "task_to_id", None) or {})).items():
        if number is not None:
            names[number[0] if isinstance(number, list) else number] = f"<|{name}|>"
    for step, number in enumerate(range(generation.no_timestamps_token_id + 1, count)):
        names[number] = f"<|{0.02 * step:.2f}|>"
    return names


__all__ = ["CONVERTED", "write_ctranslate2"]

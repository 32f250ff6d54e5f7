"""Models to folders for ONNX Runtime, each compared with the model that it was written from.

Legend: batch, length (input positions), slots (memory positions).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.utils import logging

from ..genext.outputs_genext import GenextEncoderOutput
from .models_engines import require_package
from .onnx_encoders_engines import ENCODER, EncoderGraph
from .onnx_engines import DECODER, MEMORY, OnnxModel
from .onnx_forward_engines import OnnxForwardModel
from .onnx_graphs_engines import can_write_encoder, write_decoder, write_encoder, write_memory
from .onnx_rounding_engines import round_weights
from .onnx_traces_engines import find_tracing_obstacle, trace_decoder, trace_encoder, trace_language_model, wrap_memory

logger = logging.get_logger(__name__)

_ROWS, _SLOTS = 3, 5
"""Of the memory by which a decoder is traced."""

_LARGEST = 2**30
"""Bytes of a graph beyond which its weights stand beside it."""

_TOLERANCE = 1e-3
"""How far logits may be from PyTorch's, for a spread of 1."""


@torch.no_grad()
def write_onnx(
    model: PreTrainedModel,
    folder: Path,
    quantization: str | None,
    examples: Sequence[Mapping[str, torch.Tensor]] | None = None,
) -> dict[str, Any]:
    """Write a model's encoder and decoder.

    Args:
        model: The model, on the CPU.
        folder: An empty folder.
        quantization: `None` or `"int8"`.
        examples: The model's inputs for two conditions, a batch of one each, by which an encoder is traced that is not written
            out here. Axes in which they differ may have any size.

    Returns:
        What else `export.json` says: `encoder`, the engine that runs it. An encoder with no graph stays in PyTorch.

    Raises:
        ValueError: for a model whose decoder cannot be written, or that differs in ONNX.
    """
    require_package("onnxruntime")
    is_native = getattr(model, "head", None) is not None and hasattr(model, "find_stepping_obstacle")
    obstacle = model.find_stepping_obstacle() if is_native else find_tracing_obstacle(model)
    if obstacle is not None:
        raise ValueError(f"This {type(model).__name__} cannot be written as ONNX, because {obstacle}.")
    if is_native:
        _write_graphs(model, folder, None)
        _compare(model, OnnxModel(model, folder))
        if quantization is not None:
            for path in folder.iterdir():
                path.unlink()
            _write_graphs(model, folder, quantization)
    written = set(folder.iterdir())
    if examples is not None and not (folder / ENCODER).is_file():
        _trace_encoder(model, examples, folder)
    if not is_native:
        memory, mask = _trace_decoder(model, examples, folder)
        _compare_steps(model, OnnxForwardModel(model, folder), memory, mask)
    if quantization is not None:
        for path in sorted(set(folder.glob("*.onnx")) - written):
            round_weights(path)
    return {"encoder": "onnx" if (folder / ENCODER).is_file() else "torch"}


def _write_graphs(model: Any, folder: Path, quantization: str | None) -> None:
    _save(write_memory(model.decoder, quantization), folder / MEMORY)
    _save(write_decoder(model.decoder, model.head.projection.weight, quantization), folder / DECODER)
    if can_write_encoder(model.encoder):
        _save(write_encoder(model.encoder, quantization), folder / ENCODER)


def _trace_encoder(model: Any, examples: Sequence[Mapping[str, torch.Tensor]], folder: Path) -> None:
    """Write an encoder that can be traced; any other stays in PyTorch, and why is told."""
    encoder, path = model.get_encoder(), folder / ENCODER
    if getattr(encoder, "has_latents", False) or model.dtype != torch.float32:
        return
    try:
        is_written = trace_encoder(encoder, examples, path)
    except ValueError as error:
        logger.warning("The encoder stays in PyTorch. %s", error)
        return
    for example in examples if is_written else []:
        given, wanted = EncoderGraph(path).encode(example), encoder(**example, return_dict=True)
        if given is None:
            raise ValueError(f"The exported {type(encoder).__name__} does not take what it was exported with.")
        mask = getattr(wanted, "memory_mask", None)
        real = 1.0 if mask is None else mask[:, :, None]
        _require_near("memories", wanted.last_hidden_state * real, given[0] * real)


def _trace_decoder(
    model: Any, examples: Sequence[Mapping[str, torch.Tensor]] | None, folder: Path
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Write a decoder, and give the memory and the mask by which it was traced."""
    if hasattr(model, "start_steps"):
        memory = torch.randn(_ROWS, _SLOTS, model.config.hidden_size, generator=torch.Generator().manual_seed(0))
        mask: torch.Tensor | None = torch.ones(_ROWS, _SLOTS, dtype=torch.long)
        mask[-1, -1] = 0  # type: ignore[index]
    elif examples is None:
        raise ValueError(f"This {type(model).__name__} is traced by what its encoder gives, and there are no examples.")
    else:
        longest = max(examples, key=lambda example: sum(value.numel() for value in example.values()))
        inputs = {name: value.repeat_interleave(_ROWS, dim=0) for name, value in longest.items()}
        memory, mask = model.get_encoder()(**inputs, return_dict=True).last_hidden_state, inputs.get("attention_mask")
    if getattr(model.decoder if hasattr(model, "start_steps") else None, "style", None) == "prefix":
        trace_language_model(model.decoder.language_model, folder)
    else:
        trace_decoder(model, memory, mask, folder)
    return memory, mask


def _compare_steps(model: Any, exported: OnnxForwardModel, memory: torch.Tensor, mask: torch.Tensor | None) -> None:
    """Raise unless both give the same logits for random tokens, read one by one.

    Raises:
        ValueError: saying where they differ.
    """
    vocab_size = model.config.get_text_config(decoder=True).vocab_size
    tokens = torch.randint(vocab_size, (len(memory), 4), generator=torch.Generator().manual_seed(0))
    wrapped = wrap_memory(model, memory, mask)
    wanted = model(**wrapped, decoder_input_ids=tokens, use_cache=False).logits
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    steps = [
        exported.run_pass(**wrapped, decoder_input_ids=tokens[:, [index]], past_key_values=cache, use_cache=True).logits
        for index in range(tokens.shape[1])
    ]
    if exported.obstacle is not None:
        raise ValueError(f"The exported {type(model).__name__} cannot run its own steps, because {exported.obstacle}.")
    _require_near("logits", wanted, torch.cat(steps, dim=1))


def _save(graph: Any, path: Path) -> None:
    onnx = require_package("onnx")
    is_large = graph.ByteSize() > _LARGEST
    more = {"save_as_external_data": True, "location": f"{path.name}_data"} if is_large else {}
    onnx.save(graph, str(path), **more)


def _compare(model: Any, exported: OnnxModel) -> None:
    """Raise unless both give the same memories and logits, for random conditions and tokens.

    Raises:
        ValueError: saying where they differ.
    """
    reference = model if model.dtype == torch.float32 else copy.deepcopy(model).float()
    generator = torch.Generator().manual_seed(0)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    if can_write_encoder(model.encoder):
        vocab_size = model.encoder.conditioner.config.vocab_size
        inputs = {"input_ids": torch.randint(vocab_size, mask.shape, generator=generator), "attention_mask": mask}
        wanted = reference.encoder(**inputs).last_hidden_state
        given: Any = exported.encode_conditions(inputs)
        real = mask[:, :, None] if wanted.shape[1] == mask.shape[1] else 1.0
        _require_near("memories", wanted * real, given.last_hidden_state * real)
    memory = torch.randn(*mask.shape, model.config.hidden_size, generator=generator)
    outputs = GenextEncoderOutput(last_hidden_state=memory, memory_mask=mask)
    tokens = torch.randint(model.config.decoder.vocab_size, (2, 4), generator=generator)
    wanted = reference(encoder_outputs=outputs, decoder_input_ids=tokens, use_cache=False).logits
    stepper = exported.start_steps(outputs)
    _require_near("logits", wanted, torch.stack([stepper.step(column).clone() for column in tokens.t()], dim=1))


def _require_near(what: str, wanted: torch.Tensor, given: torch.Tensor) -> None:
    distance = float((wanted - given).abs().max() / wanted.std().clamp(min=1e-6))
    if not distance < _TOLERANCE:
        raise ValueError(
            f"The ONNX graphs give other {what} than the model: they differ by {distance:.2g} times their spread. Something in "
            "the model is not what its configuration says, an adapter for example; merge it, and export again."
        )


__all__ = ["write_onnx"]

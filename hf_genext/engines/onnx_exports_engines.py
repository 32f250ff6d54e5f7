"""Models to folders for ONNX Runtime, each compared with the model that it was written from.

Legend: batch, length (input positions), slots (memory positions).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.utils import logging

from ..genext.outputs_genext import GenextEncoderOutput
from .models_engines import require_package
from .onnx_engines import OnnxModel
from .onnx_forward_engines import OnnxForwardModel
from .onnx_graphs_engines import can_write_encoder, write_decoder, write_encoder, write_memory
from .onnx_rounding_engines import round_weights
from .onnx_sessions_engines import DECODER, ENCODER, LARGEST_GRAPH, MEMORY, EncoderGraph, open_session
from .onnx_traces_engines import (
    find_free_axes,
    find_tracing_obstacle,
    trace_decoder,
    trace_encoder,
    trace_language_model,
    wrap_memory,
)

logger = logging.get_logger(__name__)

_ROWS, _SLOTS = 3, 5
"""Of the memory by which a decoder is traced."""

_UNREAD = {"last_hidden_state", "hidden_states", "attentions", "extract_features", "pooler_output"}
"""What encoders give that no decoder reads, but for the first."""

_LENGTH, _TIMES = 100, 5
"""How long inputs are by which an encoder is compared, too: at least so much, and so many times what it was traced with."""

_TOKENS = 10_000
"""By how many of its tokens a decoder is compared."""

_TOLERANCE = 1e-3
"""How far logits may be from PyTorch's, for a spread of 1."""

Examples = Sequence[Mapping[str, torch.Tensor]]
"""The model's inputs for two conditions, a batch of one each. Axes in which they differ may have any size."""


@torch.no_grad()
def write_onnx(
    model: PreTrainedModel,
    folder: Path,
    quantization: str | None,
    build_examples: Callable[[], Examples] | None = None,
) -> dict[str, Any]:
    """Write a model's encoder and decoder.

    Args:
        model: The model, on the CPU.
        folder: An empty folder.
        quantization: `None` or `"int8"`.
        build_examples: Gives inputs of the model by which what is not written out here is traced, as [`Examples`] says; it
            raises a `ValueError` where there are none. Left out, encoders that are not text from scratch stay in PyTorch.

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
    examples: Examples | None = None
    if build_examples is not None and not (folder / ENCODER).is_file():
        try:
            examples = build_examples()
            _trace_encoder(model, examples, folder / ENCODER)
        except (ValueError, ImportError) as error:
            if examples is None and not hasattr(model, "start_steps"):
                raise
            for path in folder.glob(f"{ENCODER}*"):
                path.unlink()
            logger.warning("The encoder stays in PyTorch. %s", error)
    if not is_native:
        memory, mask = _trace_decoder(model, examples, folder)
        _compare_steps(model, folder, memory, mask)
    if quantization is not None:
        for path in sorted(set(folder.glob("*.onnx")) - written):
            round_weights(path)
            open_session(path)
    return {"encoder": "onnx" if (folder / ENCODER).is_file() else "torch"}


def _write_graphs(model: Any, folder: Path, quantization: str | None) -> None:
    _save(write_memory(model.decoder, quantization), folder / MEMORY)
    _save(write_decoder(model.decoder, model.head.projection.weight, quantization), folder / DECODER)
    if can_write_encoder(model.encoder):
        _save(write_encoder(model.encoder, quantization), folder / ENCODER)


def _stack(examples: Examples) -> dict[str, torch.Tensor]:
    """A batch of both examples, the shorter one padded with zeros, by masks too."""
    batch = {}
    for name in examples[0]:
        rows = [example[name] for example in examples]
        longest = [max(sizes) for sizes in zip(*(row.shape[1:] for row in rows), strict=True)]
        padded = []
        for row in rows:
            missing = [size - own for size, own in zip(longest, row.shape[1:], strict=True)]
            padded.append(nn.functional.pad(row, [size for count in reversed(missing) for size in (0, count)]))
        batch[name] = torch.cat(padded)
    return batch


def _lengthen(value: torch.Tensor, free: list[int]) -> torch.Tensor:
    """Inputs several times as long, if they may have any length."""
    if not free:
        return value
    return torch.cat([value] * max(_TIMES, _LENGTH // value.shape[free[0]]), dim=free[0])


def _trace_encoder(model: Any, examples: Examples, path: Path) -> None:
    """Write an encoder.

    Raises:
        ValueError: if it cannot be traced, or gives something else in ONNX.
    """
    encoder = model.get_encoder()
    kind = type(encoder).__name__
    if getattr(encoder, "has_latents", False):
        raise ValueError(f"This {kind} has latent numbers, which PyTorch draws.")
    if model.dtype != torch.float32:
        raise ValueError(f"Only float32 can be traced, and it is in {str(model.dtype).removeprefix('torch.')}.")
    batch, free = _stack(examples), find_free_axes(examples)
    trace_encoder(encoder, batch, free, path)
    graph = EncoderGraph(path, model)
    longer = {name: _lengthen(value, free[name]) for name, value in batch.items()}
    for inputs in (batch, *examples, longer):
        try:
            wanted, given = encoder(**inputs, return_dict=True), graph.encode(inputs)
        except Exception:
            if inputs is longer:  # More than it takes, or than the graph does, and then PyTorch runs it.
                continue
            raise
        if given is None:
            raise ValueError(f"The exported {kind} does not take what it was exported with.")
        mask = getattr(wanted, "memory_mask", None)
        if mask is None and (own := inputs.get("attention_mask")) is not None and own.shape == given[0].shape[:2]:
            mask = own
        real = 1.0 if mask is None else mask[:, :, None]
        _require_near("memories", wanted.last_hidden_state * real, given[0] * real)


def _trace_decoder(model: Any, examples: Examples | None, folder: Path) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Write a decoder, and give the memory and the mask by which it was traced."""
    if hasattr(model, "start_steps"):
        memory = torch.randn(_ROWS, _SLOTS, model.config.hidden_size, generator=torch.Generator().manual_seed(0))
        mask: torch.Tensor | None = torch.ones(_ROWS, _SLOTS, dtype=torch.long)
        mask[-1, -1] = 0  # type: ignore[index]
        if model.decoder.style == "prefix":
            trace_language_model(model.decoder.language_model, folder)
            return memory, mask
    elif examples is None:
        raise ValueError(f"This {type(model).__name__} is traced by what its encoder gives, and there are no examples.")
    else:
        batch = _stack(examples)
        encoded = model.get_encoder()(**batch, return_dict=True)
        memory, mask = encoded.last_hidden_state, batch.get("attention_mask")
        more = sorted({name for name, value in encoded.items() if value is not None} - _UNREAD)
        if more:
            raise ValueError(
                f"This {type(model).__name__} cannot be written as ONNX, because its encoder gives {more[0]} beside its states."
            )
    trace_decoder(model, memory, mask, folder)
    return memory, mask


def _compare_steps(model: Any, folder: Path, memory: torch.Tensor, mask: torch.Tensor | None) -> None:
    """Raise unless both give the same logits for random tokens, the first of which are read at once, in a batch and alone.

    Raises:
        ValueError: saying where they differ.
    """
    exported = OnnxForwardModel(model, folder)
    config = model.config.get_text_config(decoder=True)
    ids = torch.tensor([token for token in range(min(config.vocab_size, _TOKENS)) if token != config.pad_token_id])
    tokens = ids[torch.randint(len(ids), (len(memory), 6), generator=torch.Generator().manual_seed(0))]
    for rows in (slice(None), slice(1)):
        wrapped = wrap_memory(model, memory[rows], None if mask is None else mask[rows])
        wanted = model(**wrapped, decoder_input_ids=tokens[rows], use_cache=False).logits
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        steps = [
            exported.run_pass(**wrapped, decoder_input_ids=part, past_key_values=cache, use_cache=True).logits[:, -1:]
            for part in (tokens[rows, :3], *tokens[rows, 3:].split(1, dim=1))
        ]
        if exported.obstacle is not None:
            raise ValueError(f"The exported {type(model).__name__} cannot run its own steps, because {exported.obstacle}.")
        _require_near("logits", wanted[:, 2:], torch.cat(steps, dim=1))


def _save(graph: Any, path: Path) -> None:
    onnx = require_package("onnx")
    is_large = graph.ByteSize() > LARGEST_GRAPH
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
            "the model is not what its configuration says, an adapter for example, or cannot be traced."
        )


__all__ = ["write_onnx"]

"""Native models to folders for ONNX Runtime, each compared with the model that it was written from.

Legend: batch, length (input positions), slots (memory positions).
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from ..genext.outputs_genext import GenextEncoderOutput
from .models_engines import require_package
from .onnx_engines import OnnxModel
from .onnx_graphs_engines import can_write_encoder, write_decoder, write_encoder, write_memory

_LARGEST = 2**30
"""Bytes of a graph beyond which its weights stand beside it."""

_TOLERANCE = 1e-3
"""How far logits may be from PyTorch's, for a spread of 1."""


@torch.no_grad()
def write_onnx(model: PreTrainedModel, folder: Path, quantization: str | None) -> dict[str, Any]:
    """Write a native model's encoder, memory and decoder.

    Args:
        model: The model, on the CPU.
        folder: An empty folder.
        quantization: `None` or `"int8"`.

    Returns:
        What else `export.json` says: `encoder`, the engine that runs it. An encoder with no graph here stays in PyTorch.

    Raises:
        ValueError: for a model that has no native decoder, or differs in ONNX.
    """
    obstacle = _find_obstacle(model)
    if obstacle is not None:
        raise ValueError(f"This {type(model).__name__} cannot be written as ONNX, because {obstacle}.")
    require_package("onnxruntime")
    _write_graphs(model, folder, None)
    _compare(model, OnnxModel(model, folder))
    if quantization is not None:
        for path in folder.iterdir():
            path.unlink()
        _write_graphs(model, folder, quantization)
    return {"encoder": "onnx" if can_write_encoder(model.encoder) else "torch"}


def _write_graphs(model: Any, folder: Path, quantization: str | None) -> None:
    _save(write_memory(model.decoder, quantization), folder / "memory.onnx")
    _save(write_decoder(model.decoder, model.head.projection.weight, quantization), folder / "decoder.onnx")
    if can_write_encoder(model.encoder):
        _save(write_encoder(model.encoder, quantization), folder / "encoder.onnx")


def _find_obstacle(model: PreTrainedModel) -> str | None:
    if not hasattr(model, "find_stepping_obstacle"):
        return "it is none of this package's models that write sequences"
    return model.find_stepping_obstacle()


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

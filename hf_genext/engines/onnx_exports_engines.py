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
    graphs = {
        "memory.onnx": write_memory(model.decoder),
        "decoder.onnx": write_decoder(model.decoder, model.head.projection.weight),
    }
    if can_write_encoder(model.encoder):
        graphs["encoder.onnx"] = write_encoder(model.encoder)
    for name, graph in graphs.items():
        _save(graph, folder / name)
    _compare(model, OnnxModel(model, folder))
    if quantization == "int8":
        for name in graphs:
            _quantize(folder / name)
    return {"encoder": "onnx" if "encoder.onnx" in graphs else "torch"}


def _find_obstacle(model: PreTrainedModel) -> str | None:
    if not hasattr(model, "find_stepping_obstacle"):
        return "it is none of this package's models that write sequences"
    return model.find_stepping_obstacle()


def _save(graph: Any, path: Path) -> None:
    onnx = require_package("onnx")
    is_large = graph.ByteSize() > _LARGEST
    more = {"save_as_external_data": True, "location": f"{path.name}_data"} if is_large else {}
    onnx.save(graph, str(path), **more)


def _quantize(path: Path) -> None:
    """The matrices of a graph as int8, one scale for each column."""
    quantization = require_package("onnxruntime.quantization")
    onnx = require_package("onnx")
    graph = onnx.load(str(path))
    for left in path.parent.glob(f"{path.name}*"):
        left.unlink()
    # There is nothing to be simplified first, which it would advise.
    onnx.helper.set_model_props(graph, {"onnx.quant.pre_process": "onnxruntime.quant"})
    # Unsigned weights, because the products of signed ones overflow on processors without VNNI.
    kind = quantization.QuantType.QUInt8
    quantization.quantize_dynamic(graph, str(path), op_types_to_quantize=["MatMul"], per_channel=True, weight_type=kind)


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

"""The graphs of an export in ONNX Runtime: their files, how they are opened and run, and the encoder among them.

Legend: batch, slots (memory positions), hidden.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from .models_engines import require_package

ENCODER, MEMORY = "encoder.onnx", "memory.onnx"
"""From conditions to a memory, and from that to keys and values of all layers."""

DECODER = "decoder.onnx"
"""A token of a native decoder, as `write_decoder` says."""

STEP, LANGUAGE_MODEL = "step.onnx", "language_model.onnx"
"""Tokens of a traced decoder, and embeddings of a traced language model, as `trace_decoder` and `trace_language_model` say."""

LARGEST_GRAPH = 2**30
"""Bytes beyond which a graph's weights stand beside it."""

_KINDS = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_}


def open_session(path: Path) -> Any:
    """A graph in ONNX Runtime, with as many threads as PyTorch has."""
    runtime = require_package("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def list_kinds(session: Any) -> dict[str, Any]:
    """The inputs of a graph, in their order, and what kind of numbers each is."""
    return {one.name: _KINDS[one.type] for one in session.get_inputs()}


def run_session(session: Any, feeds: Mapping[str, torch.Tensor], kinds: Mapping[str, Any]) -> list[torch.Tensor]:
    """What a graph gives for its inputs."""
    arrays = {name: tensor.detach().contiguous().numpy().astype(kinds[name], copy=False) for name, tensor in feeds.items()}
    return [torch.from_numpy(array) for array in session.run(None, arrays)]


class EncoderGraph:
    """An encoder in ONNX Runtime.

    Args:
        path: The graph, of `encoder.onnx`.
        model: The PyTorch model that was exported.
    """

    def __init__(self, path: Path, model: PreTrainedModel) -> None:
        self._session = open_session(path)
        self._kinds = list_kinds(self._session)
        conditioner = getattr(getattr(model, "encoder", None), "conditioner", None)
        parts = [] if conditioner is None else list(getattr(conditioner.config, "conditioners", {}).values())
        counts = (getattr(part, "label_counts", None) for part in (*parts, getattr(conditioner, "config", None)))
        self._label_counts = next((torch.tensor(found) for found in counts if found is not None), None)
        self._shapes = {one.name: one.shape for one in self._session.get_inputs()}

    @classmethod
    def open(cls, folder: Path, model: PreTrainedModel) -> EncoderGraph | None:
        """That of an export, or `None` where the encoder stays in PyTorch."""
        path = folder / ENCODER
        return cls(path, model) if path.is_file() else None

    @property
    def names(self) -> list[str]:
        """Its inputs."""
        return list(self._kinds)

    def encode(self, inputs: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None] | None:
        """The memory (batch, slots, hidden) and its mask; `None` for what the graph does not take, or PyTorch would refuse."""
        if set(inputs) != set(self._kinds) or not all(self._fits(name, value) for name, value in inputs.items()):
            return None
        memory, *mask = run_session(self._session, inputs, self._kinds)
        return memory, mask[0] if mask else None

    def _fits(self, name: str, value: torch.Tensor) -> bool:
        wanted = self._shapes[name]
        if value.is_floating_point() and not value.isfinite().all():
            return False
        if name == "condition_labels" and self._label_counts is not None and (value >= self._label_counts).any():
            return False
        return value.dim() == len(wanted) and all(
            not isinstance(size, int) or size == given for size, given in zip(wanted, value.shape, strict=True)
        )


__all__ = [
    "DECODER",
    "ENCODER",
    "LANGUAGE_MODEL",
    "LARGEST_GRAPH",
    "MEMORY",
    "STEP",
    "EncoderGraph",
    "list_kinds",
    "open_session",
    "run_session",
]

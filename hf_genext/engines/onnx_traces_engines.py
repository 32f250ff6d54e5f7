"""Any encoder, and any decoder with a cache of keys and values, as ONNX graphs that PyTorch's exporter traces.

Native decoders have graphs of their own, which are faster (see `onnx_graphs_engines`). What stands here takes whatever
Transformers generates with: the decoders of sequence-to-sequence models, and language models that read a memory.

Legend: batch, length (input positions), slots (memory positions), rows (outputs), seen (positions in the cache), target (new
positions), heads, head (the width of one), hidden, vocab.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from ..genext.outputs_genext import GenextEncoderOutput
from .models_engines import require_package
from .onnx_sessions_engines import LANGUAGE_MODEL, LARGEST_GRAPH, MEMORY, STEP

_UNBOUNDED = 2**30
"""A size that nothing reaches; the exporter has one for axes that may have any."""

_ROWS, _SEEN, _TARGET = 3, 4, 2
"""Sizes of the examples, all above 1: the exporter takes an axis of 1 for one that never changes."""


def list_keys_and_values(cache: Cache) -> list[torch.Tensor]:
    """Keys and values, layer by layer, each (rows, heads, seen, head)."""
    return [part for layer in cache.layers for part in (layer.keys, layer.values)]


def fill_cache(parts: Sequence[torch.Tensor]) -> DynamicCache:
    """The opposite of [`list_keys_and_values`]."""
    return DynamicCache(list(zip(parts[::2], parts[1::2], strict=True)))


def wrap_memory(model: PreTrainedModel, memory: torch.Tensor, mask: torch.Tensor | None) -> dict[str, Any]:
    """The arguments of a model's `forward` that say what its encoder gave.

    Args:
        model: The model.
        memory: (rows, slots, hidden).
        mask: As the model takes it: over slots for one of this package, over the encoder's inputs for others; `None` for none.
    """
    if hasattr(model, "_take_encoder_outputs"):
        return {"encoder_outputs": GenextEncoderOutput(last_hidden_state=memory, memory_mask=mask)}
    masks = {} if mask is None else {"attention_mask": mask}
    return {"encoder_outputs": BaseModelOutput(last_hidden_state=memory), **masks}


def _choose_token(model: PreTrainedModel) -> int:
    """A target token that is not padding, of which models warn."""
    return int(model.config.get_text_config(decoder=True).pad_token_id == 0)


def _list_arguments(model: nn.Module) -> set[str]:
    """The names that a module's `forward` takes."""
    return set(inspect.signature(model.forward).parameters)


class _Encoder(nn.Module):
    """An encoder with inputs by their place."""

    def __init__(self, encoder: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.encoder, self.names = encoder, list(names)

    def forward(self, *inputs: torch.Tensor) -> list[torch.Tensor]:
        outputs = self.encoder(**dict(zip(self.names, inputs, strict=True)), return_dict=True)
        mask = getattr(outputs, "memory_mask", None)
        return [outputs.last_hidden_state, *([] if mask is None else [mask])]


class _Memory(nn.Module):
    """What a decoder caches of a memory."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, memory: torch.Tensor, mask: torch.Tensor | None) -> list[torch.Tensor]:
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        tokens = torch.full((memory.shape[0], 1), _choose_token(self.model))
        self.model(**wrap_memory(self.model, memory, mask), decoder_input_ids=tokens, past_key_values=cache, use_cache=True)
        return list_keys_and_values(cache.cross_attention_cache)


class _Step(nn.Module):
    """Logits of the last of some tokens, and the grown cache."""

    def __init__(self, model: PreTrainedModel, memory_size: int) -> None:
        super().__init__()
        self.model, self.memory_size = model, memory_size

    def forward(
        self, tokens: torch.Tensor, mask: torch.Tensor | None, own: list[torch.Tensor], cross: list[torch.Tensor]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        cache = EncoderDecoderCache(fill_cache(own), fill_cache(cross))
        cache.is_updated = dict.fromkeys(range(len(cross) // 2), True)
        # Its keys and values are there; only its shape is looked at.
        memory = cross[0].new_zeros(1).expand(cross[0].shape[0], cross[0].shape[2], self.memory_size)
        outputs = self.model(
            **wrap_memory(self.model, memory, mask), decoder_input_ids=tokens, past_key_values=cache, use_cache=True
        )
        return outputs.logits[:, -1:], list_keys_and_values(cache.self_attention_cache)


class _LanguageModel(nn.Module):
    """Logits of the last of some embeddings, and the grown cache, of a causal language model."""

    def __init__(self, model: PreTrainedModel, arguments: Mapping[str, Any]) -> None:
        super().__init__()
        self.model, self.arguments = model, dict(arguments)

    def forward(
        self, embeddings: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor | None, own: list[torch.Tensor]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        cache = fill_cache(own)
        placed = {} if positions is None else {"position_ids": positions}
        outputs = self.model(
            inputs_embeds=embeddings, attention_mask=mask, past_key_values=cache, use_cache=True, **placed, **self.arguments
        )
        return outputs.logits[:, -1:], list_keys_and_values(cache)


def find_tracing_obstacle(model: PreTrainedModel) -> str | None:
    """Why a model's decoder cannot be traced, the end of a sentence with "because"; or `None`."""
    if not model.can_generate() or not model.config.is_encoder_decoder:
        return "it is no encoder-decoder that generates sequences"
    if model.training:
        return "the model is in training mode; call model.eval()"
    if model.dtype != torch.float32:
        return f'only float32 can be, and it is in {str(model.dtype).removeprefix("torch.")}; open it with dtype="float32"'
    known = (DynamicLayer, DynamicSlidingWindowLayer)
    odd = next((type(layer).__name__ for layer in list_cache_layers(model) if type(layer) not in known), None)
    return None if odd is None else f"a layer of its decoder keeps a {odd} in place of keys and values"


def list_cache_layers(model: PreTrainedModel) -> list[Any]:
    """The layers of the cache that `generate` makes for what a model writes."""
    config = getattr(model.config, "decoder", None) or model.config.get_text_config(decoder=True)
    return list(DynamicCache(config=config).layers)


def find_free_axes(examples: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, list[int]]:
    """The axes of inputs, but for the batch, in which two examples differ.

    Raises:
        ValueError: for examples that have not the same inputs.
    """
    first, second = examples
    if {name: value.dim() for name, value in first.items()} != {name: value.dim() for name, value in second.items()}:
        raise ValueError(f"Two conditions have unlike inputs: {', '.join(first)}; {', '.join(second)}.")
    return {
        name: [axis for axis in range(1, value.dim()) if value.shape[axis] != second[name].shape[axis]]
        for name, value in first.items()
    }


def trace_encoder(encoder: nn.Module, batch: Mapping[str, torch.Tensor], free: Mapping[str, list[int]], path: Path) -> None:
    """Write an encoder: conditions -> `memory` (batch, slots, hidden), and its mask where it has one.

    Args:
        encoder: What `generate` calls on conditions.
        batch: Inputs of two rows or more, every free axis longer than 1.
        free: The axes of each input that may have any size, beside that of the batch.
        path: The file.

    Raises:
        ValueError: for what cannot be traced.
    """
    axes = tuple(dict.fromkeys((0, *free[name]), torch.export.Dim.DYNAMIC) for name in batch)
    _save(_Encoder(encoder, list(batch)), tuple(batch.values()), (axes,), path, list(batch))


def trace_decoder(model: PreTrainedModel, memory: torch.Tensor, mask: torch.Tensor | None, folder: Path) -> None:
    """Write what a decoder caches of a memory, and a step of it.

    `memory.onnx` has `memory` (rows, slots, hidden) and `mask`, and gives keys and values of each layer; `step.onnx` has tokens
    (rows, target), `mask`, and the keys and values of what was written and of the memory, and gives logits (rows, 1, vocab) of
    the last token and the keys and values of what is written then. There is no mask where the model takes none.

    Args:
        model: The model.
        memory: What its encoder gave, two rows or more.
        mask: What `generate` hands to `forward` beside it.
        folder: Where the graphs go.
    """
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    wrapped = wrap_memory(model, memory, mask)
    tokens = torch.full((len(memory), _SEEN + _TARGET), _choose_token(model))
    model(**wrapped, decoder_input_ids=tokens[:, :_SEEN], past_key_values=cache, use_cache=True)
    own, cross = (list_keys_and_values(part) for part in (cache.self_attention_cache, cache.cross_attention_cache))
    free = torch.export.Dim.DYNAMIC
    masked = None if mask is None else {0: free, 1: free}
    _save(_Memory(model), (memory, mask), ({0: free, 1: free}, masked), folder / MEMORY)
    parts = [[{0: free, 2: free} for _ in part] for part in (own, cross)]
    step = _Step(model, memory.shape[-1])
    _save(step, (tokens[:, _SEEN:], mask, own, cross), ({0: free, 1: free}, masked, *parts), folder / STEP)


def trace_language_model(model: PreTrainedModel, folder: Path) -> None:
    """Write a causal language model: embeddings, a mask, positions and a cache -> logits of the last one, and the grown cache.

    Args:
        model: The language model that reads a memory before its tokens.
        folder: Where `language_model.onnx` goes.
    """
    embeddings = torch.zeros(_ROWS, _SEEN + _TARGET, model.get_input_embeddings().weight.shape[-1])
    mask = torch.ones(_ROWS, _SEEN + _TARGET, dtype=torch.long)
    cache = DynamicCache()
    model(inputs_embeds=embeddings[:, :_SEEN], attention_mask=mask[:, :_SEEN], past_key_values=cache, use_cache=True)
    own, free = list_keys_and_values(cache), torch.export.Dim.DYNAMIC
    accepted = _list_arguments(model)
    positions = torch.arange(_SEEN, _SEEN + _TARGET).repeat(_ROWS, 1) if "position_ids" in accepted else None
    arguments = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
    axes = {0: free, 1: free}
    shapes = (axes, axes, None if positions is None else axes, [{0: free, 2: free} for _ in own])
    _save(_LanguageModel(model, arguments), (embeddings[:, _SEEN:], mask, positions, own), shapes, folder / LANGUAGE_MODEL)


def _count_positions(module: nn.Module) -> int:
    """How long what a wrapped model reads may be; what is longer is PyTorch's, where it takes that."""
    config = getattr(getattr(module, "model", None) or getattr(module, "encoder", None), "config", None)
    return getattr(config, "max_position_embeddings", None) or _UNBOUNDED


def _save(module: nn.Module, inputs: tuple[Any, ...], free: Any, path: Path, names: Sequence[str] | None = None) -> None:
    """Trace a module and write its graph.

    Raises:
        ValueError: for what PyTorch's exporter cannot trace.
    """
    require_package("onnxscript")
    # The strides of a part of a tensor would be taken for something that changes.
    inputs = tree_map(lambda value: value.contiguous() if torch.is_tensor(value) else value, inputs)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    try:
        # What the exporter tells is of its own working.
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            module.training = False  # Of the module itself; what stands in it is its owner's.
            program = torch.onnx.export(module, inputs, dynamo=True, dynamic_shapes=free, input_names=names, verbose=False)
    except Exception as error:  # It has errors of its own for each of its stages.
        inner = type(getattr(module, "model", None) or getattr(module, "encoder", module)).__name__
        raise ValueError(
            f"PyTorch cannot trace {inner} for {path.name} ({type(error).__name__}: {str(error).strip().splitlines()[0]}). Use "
            'engine="torch".'
        ) from error
    finally:
        logger.setLevel(level)
    for symbol, sizes in program.exported_program.range_constraints.items():
        if sizes.upper < _count_positions(module):
            raise ValueError(f"What PyTorch traces for {path.name} holds for sizes up to {sizes.upper} alone ({symbol}).")
    size = sum(weight.numel() * weight.element_size() for weight in module.parameters())
    program.save(str(path), external_data=size > LARGEST_GRAPH)


__all__ = [
    "fill_cache",
    "find_free_axes",
    "find_tracing_obstacle",
    "list_cache_layers",
    "list_keys_and_values",
    "trace_decoder",
    "trace_encoder",
    "trace_language_model",
    "wrap_memory",
]

"""Whatever Transformers generates with in ONNX Runtime: its own loops, whose passes run in traced graphs.

Caches are Transformers', so that a pass which a graph cannot do is PyTorch's, and the next one the graph's again.

Legend: batch, slots (memory positions), rows (outputs), seen (positions in the cache), target (new positions), heads, head,
hidden, vocab.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutputWithPast, Seq2SeqLMOutput

from ..fast_decoding import get_setting
from ..genext.latents_genext import ENCODER_INPUTS
from ..genext.outputs_genext import GenextEncoderOutput
from .models_engines import EngineModel
from .onnx_sessions_engines import LANGUAGE_MODEL, MEMORY, STEP, EncoderGraph, list_kinds, open_session, run_session
from .onnx_traces_engines import list_cache_layers

_OF_EVERY_TOKEN = (
    *("assistant_early_exit", "assistant_model", "custom_generate", "dola_layers", "penalty_alpha"),
    *("prompt_lookup_num_tokens", "use_mtp"),
)
"""Settings of searches that read more than the logits of the last token."""

_ARGUMENTS = ("decoder_input_ids", "encoder_outputs", "past_key_values", "attention_mask", "decoder_attention_mask")
"""What a pass of a model with an encoder is given."""

_CALLS = ("use_cache", "return_dict", "cache_position", "logits_to_keep")
"""Arguments that change nothing in what the graphs give."""


class OnnxForwardModel(EngineModel):
    """A model whose encoder and decoder run in ONNX Runtime wherever `generate` calls them.

    Args:
        model: The PyTorch model that was exported.
        folder: The export.
    """

    engine = "onnx"
    title = "ONNX Runtime"

    def __init__(self, model: PreTrainedModel, folder: Path) -> None:
        super().__init__(model)
        self._runner = _copy_module(model)
        self._has_windows = any(type(layer) is not DynamicLayer for layer in list_cache_layers(model))
        encoder_graph = EncoderGraph.open(folder, model)
        if encoder_graph is not None:
            encoder = _copy_module(model.get_encoder())
            encoder.forward = self._prefer(_EncoderPass(encoder_graph, model), model.get_encoder().forward)
            self._runner.get_encoder = lambda *_, **__: encoder
        if (folder / STEP).is_file():
            self._runner.forward = self._prefer(_DecoderPass(folder, model), model.forward)
            return
        decoder = self._runner.decoder = _copy_module(model.decoder)
        language_model = decoder.language_model = _copy_module(model.decoder.language_model)
        language_model.forward = self._prefer(_LanguageModelPass(folder), model.decoder.language_model.forward)

    @torch.no_grad()
    def generate(self, inputs: torch.Tensor | None = None, generation_config: Any = None, **arguments: Any) -> Any:
        """What the PyTorch model's `generate` gives for the same arguments."""
        given = {"inputs": inputs, "generation_config": generation_config}
        arguments |= {name: value for name, value in given.items() if value is not None}
        obstacle = self._find_obstacle(arguments)
        if obstacle is not None:
            return self._fall_back(obstacle, arguments)
        if self._has_windows and arguments.get("past_key_values") is None:
            # The graphs look back as far as their layers do, in a cache of all keys and values.
            arguments["past_key_values"] = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self._runner.generation_config = self.torch_model.generation_config
        return self._runner.generate(**arguments)

    def _find_obstacle(self, arguments: dict[str, Any]) -> str | None:
        """Why PyTorch runs a whole call, or `None`."""
        if (changed := self.find_change()) is not None:
            return changed
        if torch.is_autocast_enabled("cpu"):
            return "autocast is on"
        if self.torch_model.dtype != torch.float32:
            return "the model is no longer in float32"
        for name in _OF_EVERY_TOKEN:
            if get_setting(self.torch_model, arguments, name) not in (None, False):
                return f"{name} is set"
        if get_setting(self.torch_model, arguments, "use_cache") is False:
            return "use_cache is False"
        kind = get_setting(self.torch_model, arguments, "cache_implementation")
        return None if kind in (None, "dynamic") else f"cache_implementation is {kind!r}"

    def run_pass(self, **arguments: Any) -> Any:
        """A pass of the model as `generate` makes them."""
        return self._runner(**arguments)

    def _prefer(self, graph: Callable[[dict[str, Any]], Any], forward: Callable[..., Any]) -> Callable[..., Any]:
        """A `forward` that is the graph's where it knows what it is given, and else PyTorch's."""

        @functools.wraps(forward)
        def run(*args: Any, **kwargs: Any) -> Any:
            given = {name: value for name, value in kwargs.items() if value is not None and value is not False}
            try:
                if args:
                    raise _UnknownError("a pass has arguments without names")
                return graph(given)
            except _OutsideError:
                pass
            except _UnknownError as error:
                self.note_obstacle(str(error))
            except Exception as error:
                if not type(error).__module__.startswith("onnxruntime"):
                    raise
                # Caches are filled once a graph has run, so PyTorch can go on from them.
                self.note_obstacle(f"the graph fails ({error})")
            return forward(*args, **kwargs)

        return run


class _UnknownError(Exception):
    """A pass that a graph cannot do, the end of a sentence with "because"."""


class _OutsideError(Exception):
    """A pass that is none of a search, such as one that finds the language of a recording."""


def _check_names(given: Mapping[str, Any], known: Iterable[str]) -> None:
    unknown = sorted(set(given) - {*known, *_CALLS})
    if unknown:
        raise _UnknownError(f"{unknown[0]} is given")


def _copy_module(module: nn.Module) -> Any:
    """A module with the same parts, whose `forward` and parts can be others."""
    copied = copy.copy(module)
    copied.__dict__["_modules"] = dict(module._modules)
    return copied


class _EncoderPass:
    """An encoder's `forward`: conditions -> memory."""

    def __init__(self, graph: EncoderGraph, model: PreTrainedModel) -> None:
        self._graph, self._is_ours = graph, hasattr(model, "start_steps")

    def __call__(self, given: dict[str, Any]) -> GenextEncoderOutput | BaseModelOutput:
        _check_names(given, self._graph.names)
        encoded = self._graph.encode({name: value for name, value in given.items() if name not in _CALLS})
        if encoded is None:
            raise _UnknownError(f"the exported encoder takes other {', '.join(self._graph.names)}")
        if self._is_ours:
            return GenextEncoderOutput(last_hidden_state=encoded[0], memory_mask=encoded[1])
        return BaseModelOutput(last_hidden_state=encoded[0])


class _CachedPass:
    """What passes with a cache have in common.

    Args:
        path: The graph, whose last inputs are keys and values.
    """

    def __init__(self, path: Path) -> None:
        self._session = open_session(path)
        inputs = self._session.get_inputs()
        self._kinds = list_kinds(self._session)
        # (heads, head) of each layer's keys and values; the other axes are free.
        self._sizes = [(one.shape[1], one.shape[3]) for one in inputs if len(one.shape) == 4]

    def list_cached(self, cache: Cache, rows: int) -> list[torch.Tensor]:
        """Keys and values of all layers, empty ones where there are none yet."""
        if any(type(layer) is not DynamicLayer for layer in cache.layers):
            raise _UnknownError(f"the cache is a {type(cache).__name__} with a {type(cache.layers[0]).__name__}")
        found: list[torch.Tensor] = []
        for index in range(len(self._sizes) // 2):
            layer = cache.layers[index] if index < len(cache.layers) else None
            if layer is None or not layer.is_initialized:
                found += [torch.empty(rows, heads, 0, head) for heads, head in self._sizes[2 * index : 2 * index + 2]]
            else:
                found += [layer.keys, layer.values]
        return found

    def run(self, feeds: list[torch.Tensor], cache: Cache) -> torch.Tensor:
        """Run the graph, put what it gives into the cache, and give the logits of the last token, (rows, 1, vocab)."""
        logits, *parts = run_session(self._session, dict(zip(self._kinds, feeds, strict=True)), self._kinds)
        fill(cache, parts)
        return logits


def fill(cache: Cache, parts: list[torch.Tensor]) -> None:
    """Put keys and values of all layers in the place of what a cache has."""
    for index, (keys, values) in enumerate(zip(parts[::2], parts[1::2], strict=True)):
        layer = cache.layers[index] if index < len(cache.layers) else None
        if layer is None or not layer.is_initialized:
            cache.update(keys, values, index)
        else:
            layer.keys, layer.values = keys, values


class _MemoryCache(DynamicCache):
    """Keys and values of a memory, which all beams of a condition share: in whatever order they go on, it is the same."""

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Nothing to do."""


class _DecoderPass(_CachedPass):
    """The `forward` of a model whose decoder has cross-attention: see `trace_decoder`."""

    def __init__(self, folder: Path, model: PreTrainedModel) -> None:
        super().__init__(folder / STEP)
        self._memory = open_session(folder / MEMORY)
        self._memory_kinds = list_kinds(self._memory)
        self._has_mask = len(self._memory_kinds) == 2
        self._sizes = self._sizes[: len(self._sizes) // 2]
        self._take = getattr(model, "_take_encoder_outputs", None)
        # `generate` hands on what the encoder has read already.
        conditions = (
            model.main_input_name,
            *(() if self._take is None else (*ENCODER_INPUTS, "latent_noise", "sample_latents")),
        )
        self._known = (*_ARGUMENTS, "decoder_position_ids", *conditions)
        self._reads_tokens = model.main_input_name == "input_ids"

    def __call__(self, given: dict[str, Any]) -> Seq2SeqLMOutput:
        tokens, outputs, cache = (given.get(name) for name in _ARGUMENTS[:3])
        if tokens is None or outputs is None or not isinstance(cache, EncoderDecoderCache):
            raise _OutsideError
        _check_names(given, self._known)
        memory, masks = self._read_memory(outputs, given.get("attention_mask"))
        own = self.list_cached(cache.self_attention_cache, len(tokens))
        seen, written, positions = own[0].shape[2], given.get("decoder_attention_mask"), given.get("decoder_position_ids")
        if seen and tokens.shape[1] > 1:
            raise _UnknownError("logits of several tokens are asked for")
        if len(memory) != len(tokens):
            raise _UnknownError("a memory is that of several rows")
        if written is not None and not written.all():
            raise _UnknownError("decoder_attention_mask hides some tokens")
        if positions is not None and not (positions == torch.arange(seen, seen + tokens.shape[1])).all():
            raise _UnknownError("decoder_position_ids are not those of the tokens' places")
        if not cache.is_updated.get(0):
            cache.cross_attention_cache = _MemoryCache()
            feeds = dict(zip(self._memory_kinds, [memory, *masks], strict=True))
            fill(cache.cross_attention_cache, run_session(self._memory, feeds, self._memory_kinds))
            cache.is_updated.update(dict.fromkeys(range(len(own) // 2), True))
        crossed = self.list_cached(cache.cross_attention_cache, len(tokens))
        logits = self.run([tokens, *masks, *own, *crossed], cache.self_attention_cache)
        return Seq2SeqLMOutput(logits=logits, past_key_values=cache, encoder_last_hidden_state=memory)

    def _read_memory(self, outputs: Any, attention_mask: torch.Tensor | None) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The memory, and its mask if the graph takes one."""
        mask = attention_mask
        if self._take is not None:
            outputs = self._take(outputs, attention_mask)
            mask = outputs.memory_mask
        memory = outputs[0]
        if not self._has_mask:
            if mask is not None and not mask.all():
                raise _UnknownError("some of the memory is masked")
            return memory, []
        if mask is None and self._take is None and not self._reads_tokens:
            raise _UnknownError("attention_mask is not given")
        return memory, [torch.ones(memory.shape[:2], dtype=torch.long) if mask is None else mask.long()]


class _LanguageModelPass(_CachedPass):
    """The `forward` of a causal language model that reads the memory before its tokens: see `trace_language_model`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / LANGUAGE_MODEL)
        self._has_positions = len(self._kinds) - len(self._sizes) == 3

    def __call__(self, given: dict[str, Any]) -> CausalLMOutputWithPast:
        embeddings, cache = given.get("inputs_embeds"), given.get("past_key_values")
        if embeddings is None or cache is None:
            raise _OutsideError
        _check_names(given, ("inputs_embeds", "attention_mask", "position_ids", "past_key_values"))
        rows, count = embeddings.shape[:2]
        own = self.list_cached(cache, rows)
        if own[0].shape[2] and count > 1:
            raise _UnknownError("logits of several tokens are asked for")
        seen, mask, positions = own[0].shape[2], given.get("attention_mask"), given.get("position_ids")
        mask = torch.ones(rows, seen + count, dtype=torch.long) if mask is None else mask.long()
        positions = torch.arange(seen, seen + count)[None] if positions is None else positions
        placed = [positions.expand(rows, -1)] if self._has_positions else []
        logits = self.run([embeddings, mask, *placed, *own], cache)
        return CausalLMOutputWithPast(logits=logits, past_key_values=cache)


__all__ = ["OnnxForwardModel"]

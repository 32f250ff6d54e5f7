"""The native decoder one token at a time, with room for keys and values made beforehand and the memory read once.

`forward` serves any caller, and most of its time on one token is not arithmetic. What stands here computes the same for one
token of each row, and nothing else.

Legend: batch (conditions), rows (batch * outputs of each condition), slots (memory positions), target (output positions),
hidden, vocab, head (its width).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.utils.output_capturing import capture_outputs

from .layers_genext import (
    GenextCrossAttention,
    GenextDecoderLayer,
    GenextDropout,
    GenextMLP,
    GenextResidualLinear,
    GenextRMSNorm,
    GenextRotaryEmbedding,
    GenextSelfAttention,
    GenextStackedLinear,
)

_PLAIN = (
    nn.Embedding,
    nn.Identity,
    nn.Linear,
    nn.ModuleList,
    GenextCrossAttention,
    GenextDecoderLayer,
    GenextDropout,
    GenextMLP,
    GenextResidualLinear,
    GenextRMSNorm,
    GenextRotaryEmbedding,
    GenextSelfAttention,
    GenextStackedLinear,
)
"""Layers that are what they seem: adapters and quantisation put other classes in their places."""

STEADY_ROPE_TYPES = ("default", "linear", "llama3", "proportional", "yarn")
"""Rotary positions whose frequencies do not depend on how long the sequence has become."""

_FIRST_CAPACITY = 32


class _Layer(NamedTuple):
    """The weights of a layer, and what its cross-attention reads."""

    self_norm: torch.Tensor
    qkv: torch.Tensor
    qk_norm: torch.Tensor | None  # (2, 1, head)
    self_out: torch.Tensor
    cross_norm: torch.Tensor
    cross_query: torch.Tensor
    cross_query_norm: torch.Tensor | None
    cross_out: torch.Tensor
    mlp_norm: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor
    activation: Callable[[torch.Tensor], torch.Tensor]


def find_stepping_obstacle(decoder: nn.Module, projection: nn.Module) -> str | None:
    """Why a native decoder and its head cannot be stepped, or `None`: adapters, quantisation, hooks, training.

    Args:
        decoder: The native decoder.
        projection: The projection of the token head.

    Returns:
        The end of a sentence that begins with "because".
    """
    if decoder.training:
        return "the model is in training mode; call model.eval()"
    implementation = decoder.config._attn_implementation
    if implementation not in ("eager", "sdpa"):
        return f"the attention is {implementation!r}, and steps know eager and sdpa"
    rope_type = decoder.config.rope_parameters["rope_type"]
    if rope_type not in STEADY_ROPE_TYPES:
        return f"the rotary positions of type {rope_type!r} change with the length"
    for module in (*(child for child in decoder.modules() if child is not decoder), projection):
        # Activations have no weights and are called as they are.
        known = type(module) in _PLAIN or not any(True for _ in module.parameters())
        if not known or _has_hooks(module):
            return f"a {type(module).__name__} stands in the decoder, or a layer has hooks"
    if projection.bias is not None:
        return "the token head has a bias"
    return None


def _has_hooks(module: nn.Module) -> bool:
    """Whether somebody changes or watches what a layer does; what records attention stays there, and does nothing by itself."""
    hooks = (hook for hook in module._forward_hooks.values() if hook.__module__ != capture_outputs.__module__)
    return any(True for _ in hooks) or bool(module._forward_pre_hooks) or "forward" in module.__dict__


class GenextStepper:
    """A native decoder and its head on a batch of memories, at one length.

    In float32 and beyond, the factor of the attention scores stands in the rotary tables and in the memory's keys. In half
    precision, where that would round otherwise than `forward` does, everything happens in the order of `forward`.

    Args:
        decoder: The native decoder, for which [`find_stepping_obstacle`] finds none.
        projection: Weight of the token head, (vocab, hidden).
        memory: (batch, slots, memory hidden).
        memory_mask: 1 where a slot is real, (batch, slots); `None` where all are.
        num_outputs: Rows of each memory, which stand beside each other: beams, or samples. They share its keys and values.
    """

    @torch.no_grad()
    def __init__(
        self,
        decoder: Any,
        projection: torch.Tensor,
        memory: torch.Tensor,
        memory_mask: torch.Tensor | None,
        num_outputs: int,
    ) -> None:
        config = decoder.config
        self.length = 0
        self._num_outputs = num_outputs
        self._num_heads = config.num_attention_heads
        self._head_dim = config.hidden_size // config.num_attention_heads
        self._scaling = self._head_dim**-0.5
        self._eps = config.rms_norm_eps
        self._is_precise = memory.dtype in (torch.float32, torch.float64)
        # Half precision rounds between the operations of a plain attention, and the fused one does not.
        self._is_plain = self._is_precise or config._attn_implementation == "eager"
        self._rotary = decoder.rotary_emb
        self._embedding: torch.Tensor = decoder.embed_tokens.weight
        self._projection = projection
        self._layers = [self._read_layer(layer) for layer in decoder.layers]
        self._final_norm = self._read_norm(decoder.norm)
        self._floors = {
            width: memory.new_tensor(math.sqrt(self._eps * width), dtype=torch.float32)
            for width in (config.hidden_size, self._head_dim)
        }
        self._memory_keys, self._memory_values = self._read_memory(decoder.layers, memory)
        self._memory_bias = self._read_mask(memory_mask, memory.dtype)
        self._cache = memory.new_empty(0, len(self._layers), 2, memory.shape[0] * num_outputs * self._num_heads, self._head_dim)

    @torch.no_grad()
    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Take one token of each row: ids (rows,) -> logits (rows, vocab)."""
        if self.length == self._cache.shape[0]:
            self._grow()
        place, rows = self.length, tokens.shape[0]
        linear = nn.functional.linear
        cos, sin = self._cos[place], self._sin[place]
        states = nn.functional.embedding(tokens, self._embedding)
        for index, layer in enumerate(self._layers):
            mixed = linear(self._normalize(states, layer.self_norm), layer.qkv)
            mixed = mixed.view(rows, 3, self._num_heads, self._head_dim)
            query_key = mixed[:, :2]
            if layer.qk_norm is not None:
                query_key = self._normalize(query_key, layer.qk_norm)
            query_key = query_key * cos + query_key.roll(self._head_dim // 2, -1) * sin
            keys, values = self._views[index]
            keys[place].copy_(query_key[:, 1].reshape(-1, self._head_dim))
            values[place].copy_(mixed[:, 2].reshape(-1, self._head_dim))
            attended = self._attend(
                query_key[:, 0].reshape(-1, 1, self._head_dim),
                keys[: place + 1].transpose(0, 1),
                values[: place + 1].transpose(0, 1),
            )
            states = states + linear(attended.view(rows, -1), layer.self_out)
            query = linear(self._normalize(states, layer.cross_norm), layer.cross_query)
            query = query.view(-1, self._num_outputs, self._num_heads, self._head_dim)
            if layer.cross_query_norm is not None:
                query = self._normalize(query, layer.cross_query_norm)
            query = query.transpose(1, 2).reshape(-1, self._num_outputs, self._head_dim)
            attended = self._attend(query, self._memory_keys[index], self._memory_values[index], self._memory_bias)
            attended = attended.view(-1, self._num_heads, self._num_outputs, self._head_dim).transpose(1, 2)
            states = states + linear(attended.reshape(rows, -1), layer.cross_out)
            gate, up = linear(self._normalize(states, layer.mlp_norm), layer.gate_up).chunk(2, dim=-1)
            states = states + linear(layer.activation(gate) * up, layer.down)
        self.length += 1
        return linear(self._normalize(states, self._final_norm), self._projection)

    @torch.no_grad()
    def select(self, rows: torch.Tensor, memories: torch.Tensor | None = None) -> None:
        """Go on with some of the rows, in a new order.

        Args:
            rows: Which row each row goes on from, (new rows,).
            memories: Which memories are kept, (new batch,), where some are dropped; else each row stays with its memory.
        """
        heads = self._num_heads
        seen = self._cache[: self.length].unflatten(3, (-1, heads)).index_select(3, rows).flatten(3, 4)
        self._cache = seen.new_empty(self._cache.shape[0], *seen.shape[1:])
        self._cache[: self.length] = seen
        self._view_cache()
        if memories is not None:
            self._memory_keys, self._memory_values = (
                tensor.unflatten(1, (-1, heads)).index_select(1, memories).flatten(1, 2)
                for tensor in (self._memory_keys, self._memory_values)
            )
            if self._memory_bias is not None:
                self._memory_bias = self._memory_bias.unflatten(0, (-1, heads)).index_select(0, memories).flatten(0, 1)

    def _grow(self) -> None:
        """Make room for as many tokens again, and look up the angles of their positions."""
        capacity = max(_FIRST_CAPACITY, 2 * self.length)
        cache = self._cache.new_empty(capacity, *self._cache.shape[1:])
        cache[: self.length] = self._cache
        self._cache = cache
        self._view_cache()
        cos, sin = self._rotary(self._embedding, torch.arange(capacity, device=cache.device)[None])
        half = self._head_dim // 2
        # Turning the halves is a roll once the first half of the sines is negative.
        sin = torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)
        # The first row is for queries, the second for keys.
        scales = cos.new_tensor([self._scaling if self._is_precise else 1.0, 1.0])[:, None, None]
        self._cos, self._sin = (table.view(capacity, 1, 1, self._head_dim) * scales for table in (cos, sin))

    def _view_cache(self) -> None:
        """Keys and values of each layer, each (capacity, rows * heads, head)."""
        self._views = [layer.unbind(1) for layer in self._cache.unbind(1)]

    def _normalize(self, states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """RMSNorm over the last axis; in float32 with half as many operations as PyTorch's own on a CPU."""
        width = states.shape[-1]
        if self._is_precise:
            norms = torch.linalg.vector_norm(states, dim=-1, keepdim=True)
            return states / torch.hypot(norms, self._floors[width]) * weight
        if weight.dim() == 1:
            return nn.functional.rms_norm(states, (width,), weight.to(states.dtype), self._eps)
        return (nn.functional.rms_norm(states.float(), (width,), None, self._eps) * weight).to(states.dtype)

    def _attend(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Attention of n heads: (n, target, head) and twice (n, length, head) -> (n, target, head)."""
        if not self._is_plain:
            return nn.functional.scaled_dot_product_attention(
                query[None], keys[None], values[None], None if bias is None else bias[None], scale=self._scaling
            )[0]
        keys = keys.transpose(1, 2)
        if self._is_precise:
            scores = torch.bmm(query, keys) if bias is None else torch.baddbmm(bias, query, keys)
            return torch.bmm(scores.softmax(dim=-1), values)
        scores = torch.bmm(query, keys) * self._scaling
        if bias is not None:
            scores = scores + bias
        return torch.bmm(scores.softmax(dim=-1, dtype=torch.float32).to(values.dtype), values)

    def _read_memory(self, layers: nn.ModuleList, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of the memory in all layers, each (layers, batch * heads, slots, head)."""
        keys, values = [], []
        for layer in layers:
            attention: Any = layer.cross_attn
            key, value = (attention.split_heads(part).flatten(0, 1) for part in attention.kv_proj(memory).chunk(2, dim=-1))
            keys.append(attention.k_norm(key) * (self._scaling if self._is_precise else 1.0))
            values.append(value)
        return torch.stack(keys), torch.stack(values)

    def _read_mask(self, mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
        """What is added to scores, for the fused attention where to look: (batch, slots) -> (batch * heads, 1, slots)."""
        if mask is None or bool(mask.all()):
            return None
        bias = mask.bool()
        if self._is_plain:
            bias = torch.zeros_like(mask, dtype=dtype).masked_fill_(mask == 0, torch.finfo(dtype).min)
        return bias[:, None].repeat_interleave(self._num_heads, dim=0)

    def _read_layer(self, layer: Any) -> _Layer:
        attention, cross, mlp = layer.self_attn, layer.cross_attn, layer.mlp
        has_norm = isinstance(attention.q_norm, GenextRMSNorm)
        return _Layer(
            self_norm=self._read_norm(layer.self_attn_norm),
            qkv=attention.qkv_proj.weight,
            qk_norm=self._read_norm(attention.q_norm, attention.k_norm) if has_norm else None,
            self_out=attention.o_proj.weight,
            cross_norm=self._read_norm(layer.cross_attn_norm),
            cross_query=cross.q_proj.weight,
            cross_query_norm=self._read_norm(cross.q_norm) if has_norm else None,
            cross_out=cross.o_proj.weight,
            mlp_norm=self._read_norm(layer.mlp_norm),
            gate_up=mlp.gate_up_proj.weight,
            down=mlp.down_proj.weight,
            activation=nn.functional.silu if type(mlp.act_fn) is nn.SiLU else mlp.act_fn,
        )

    def _read_norm(self, *norms: Any) -> torch.Tensor:
        """The weight of one norm, (width,), or of two, (2, 1, width), as `_normalize` takes them."""
        weight = norms[0].weight if len(norms) == 1 else torch.stack([norm.weight for norm in norms])[:, None]
        # In float32 states are divided by the root of their sum of squares, not of their mean.
        return weight * math.sqrt(weight.shape[-1]) if self._is_precise else weight


__all__ = ["GenextStepper", "find_stepping_obstacle"]

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

_PLAIN = {
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
}
"""Layers that are what they seem: adapters and quantisation put other classes in their places."""

STEADY_ROPE_TYPES = ("default", "linear", "llama3", "proportional", "yarn")
"""Rotary positions whose frequencies do not depend on how long the sequence has become."""

_FIRST_CAPACITY = 32


class _Layer(NamedTuple):
    """The weights of a layer, matrices as (in, out)."""

    self_norm: torch.Tensor
    qkv: torch.Tensor
    qk_norm: torch.Tensor | None  # (2, 1, head); in the rotary tables where they are precise
    self_out: torch.Tensor
    cross_norm: torch.Tensor
    cross_query: torch.Tensor
    cross_query_norm: torch.Tensor | None  # in the memory's keys where they are precise
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
    # Every call asks; `modules()` would put together a name for each layer.
    waiting = [*decoder._modules.values(), projection]
    while waiting:
        module = waiting.pop()
        if module is None:
            continue
        if not (type(module) in _PLAIN or _is_activation(module)) or _has_hooks(module):
            return f"a {type(module).__name__} stands in the decoder, or a layer has hooks"
        waiting.extend(module._modules.values())
    if projection.bias is not None:
        return "the token head has a bias"
    return None


def _is_activation(module: nn.Module) -> bool:
    """Whether a module has no weights, of whatever kind, so that it is called as it is."""
    if module._buffers or hasattr(module, "weight"):
        return False
    return not module._parameters and (not module._modules or not any(True for _ in module.parameters()))


def _has_hooks(module: nn.Module) -> bool:
    """Whether somebody changes or watches what a layer does; what records attention stays there, and does nothing by itself."""
    if module._forward_pre_hooks or "forward" in module.__dict__:
        return True
    hooks = module._forward_hooks
    return bool(hooks) and any(hook.__module__ != capture_outputs.__module__ for hook in hooks.values())


class GenextStepper:
    """A native decoder and its head on a batch of memories, at one length.

    In float32 and beyond, the rotary tables and the memory's keys hold what would be a product of its own in every step: the
    factor of the attention scores, and the weights of the norms of queries and keys. In half precision, where that would round
    otherwise than `forward` does, everything happens in the order of `forward`.

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
        self._has_qk_norm = config.use_qk_norm
        self._is_precise = memory.dtype in (torch.float32, torch.float64)
        # Half precision rounds between the operations of a plain attention, and the fused one does not.
        self._is_plain = self._is_precise or config._attn_implementation == "eager"
        self._rotary = decoder.rotary_emb
        self._embedding: torch.Tensor = decoder.embed_tokens.weight
        self._projection = projection.t()
        self._layers = [self._read_layer(layer) for layer in decoder.layers]
        self._final_norm = self._read_norm(decoder.norm)
        self._head_floor = memory.new_tensor(math.sqrt(self._eps * self._head_dim))
        self._memory_keys, self._memory_values = self._read_memory(decoder.layers, memory)
        self._memories = self._view_memories()
        self._memory_bias = self._read_mask(memory_mask, memory.dtype)
        self._qk_weights = self._read_qk_weights(decoder.layers)
        self._cache = memory.new_empty(0, len(self._layers), 2, memory.shape[0] * num_outputs * self._num_heads, self._head_dim)
        self._stream = memory.new_empty(0, config.hidden_size + 1)

    @torch.no_grad()
    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Take one token of each row: ids (rows,) -> logits (rows, vocab)."""
        if self.length == self._cache.shape[0]:
            self._grow()
        place, rows, width = self.length, tokens.shape[0], self._head_dim
        states = self._begin(nn.functional.embedding(tokens, self._embedding))
        for layer, (key_rows, value_rows, keys, values), (cos, sin), memory in zip(
            self._layers, self._views, self._tables, self._memories, strict=True
        ):
            mixed = torch.mm(self._normalize(states, layer.self_norm), layer.qkv).view(rows, 3, self._num_heads, width)
            query_key = self._normalize_heads(mixed[:, :2], layer.qk_norm)
            query_key = self._turn(query_key, cos[place], sin[place])
            key_rows[place].copy_(query_key[:, 1])
            value_rows[place].copy_(mixed[:, 2])
            query = query_key[:, 0].reshape(-1, 1, width)
            attended = self._attend(query, keys[:, :, : place + 1], values[:, : place + 1])
            states = self._add(states, attended.view(rows, -1), layer.self_out)
            query = torch.mm(self._normalize(states, layer.cross_norm), layer.cross_query)
            query = self._normalize_heads(query.view(-1, self._num_outputs, self._num_heads, width), layer.cross_query_norm)
            attended = self._attend(self._swap(query), *memory, self._memory_bias)
            states = self._add(states, self._swap_back(attended).reshape(rows, -1), layer.cross_out)
            gate, up = torch.mm(self._normalize(states, layer.mlp_norm), layer.gate_up).chunk(2, dim=-1)
            states = self._add(states, layer.activation(gate) * up, layer.down)
        self.length += 1
        return torch.mm(self._normalize(states, self._final_norm), self._projection)

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
            self._memories = self._view_memories()
            if self._memory_bias is not None:
                self._memory_bias = self._memory_bias.unflatten(0, (-1, heads)).index_select(0, memories).flatten(0, 1)

    # Rooms and tables

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
        # (layers or 1, capacity, 2, 1, head), queries before keys; what is rolled meets weights that are rolled, too.
        cos, sin = (table.view(1, capacity, 1, 1, self._head_dim) for table in (cos, sin))
        if self._qk_weights is not None:
            cos, sin = cos * self._qk_weights, sin * self._qk_weights.roll(half, -1)
        count = len(self._layers)
        self._tables = list(zip(cos.expand(count, *cos.shape[1:]), sin.expand(count, *sin.shape[1:]), strict=True))

    def _view_cache(self) -> None:
        """Keys and values of each layer as they are written, (capacity, rows, heads, head), and as they are read."""
        self._views = []
        for layer in self._cache.unbind(1):
            keys, values = layer.unbind(1)
            rows = (part.unflatten(1, (-1, self._num_heads)) for part in (keys, values))
            self._views.append((*rows, keys.permute(1, 2, 0), values.transpose(0, 1)))

    def _view_memories(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The memory's keys and values of each layer, (batch * heads, head, slots) and (batch * heads, slots, head)."""
        return list(zip(self._memory_keys.mT, self._memory_values, strict=True))

    # Parts of a layer

    def _begin(self, embedded: torch.Tensor) -> torch.Tensor:
        """The states of one token of each row, (rows, hidden), with a number behind each row that makes norms of their length.

        `_normalize` divides by the root of a sum of squares and an epsilon; the number is the root of that.
        """
        if not self._is_precise:
            return embedded
        rows, width = embedded.shape
        if self._stream.shape[0] != rows:
            self._stream = embedded.new_full((rows, width + 1), math.sqrt(self._eps * width))
            self._states = self._stream[:, :width]
        return self._states.copy_(embedded)

    def _normalize(self, states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """RMSNorm of the states; in float32 with half as many operations as PyTorch's own on a CPU."""
        if self._is_precise:
            return states / torch.linalg.vector_norm(self._stream, dim=-1, keepdim=True) * weight
        return nn.functional.rms_norm(states, (states.shape[-1],), weight.to(states.dtype), self._eps)

    def _normalize_heads(self, heads: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        """RMSNorm of queries and keys, if there is one, (..., head); in float32 without its weight, which stands elsewhere."""
        if not self._has_qk_norm:
            return heads
        if self._is_precise:
            return heads / torch.hypot(torch.linalg.vector_norm(heads, dim=-1, keepdim=True), self._head_floor)
        return (nn.functional.rms_norm(heads.float(), (self._head_dim,), None, self._eps) * weight).to(heads.dtype)

    def _turn(self, query_key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Rotary positions: (rows, 2, heads, head) -> the same."""
        rolled = query_key.roll(self._head_dim // 2, -1)
        if self._is_precise:
            return torch.addcmul(query_key * cos, rolled, sin)
        return query_key * cos + rolled * sin

    def _add(self, states: torch.Tensor, added: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Add a product to the states, (rows, hidden); in float32 in their place."""
        return states.addmm_(added, weight) if self._is_precise else states + torch.mm(added, weight)

    def _swap(self, query: torch.Tensor) -> torch.Tensor:
        """(batch, outputs, heads, head) -> (batch * heads, outputs, head)."""
        if self._num_outputs > 1:
            query = query.transpose(1, 2)
        return query.reshape(-1, self._num_outputs, self._head_dim)

    def _swap_back(self, attended: torch.Tensor) -> torch.Tensor:
        """(batch * heads, outputs, head) -> what is (rows, hidden) once it is reshaped."""
        if self._num_outputs == 1:
            return attended
        return attended.view(-1, self._num_heads, self._num_outputs, self._head_dim).transpose(1, 2)

    def _attend(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Attention of n heads: (n, target, head), (n, head, length) and (n, length, head) -> (n, target, head)."""
        if not self._is_plain:
            return nn.functional.scaled_dot_product_attention(
                query[None], keys.mT[None], values[None], None if bias is None else bias[None], scale=self._scaling
            )[0]
        if self._is_precise:
            scores = torch.bmm(query, keys) if bias is None else torch.baddbmm(bias, query, keys)
            return torch.bmm(scores.softmax(dim=-1), values)
        scores = torch.bmm(query, keys) * self._scaling
        if bias is not None:
            scores = scores + bias
        return torch.bmm(scores.softmax(dim=-1, dtype=torch.float32).to(values.dtype), values)

    # What is read once

    def _read_memory(self, layers: nn.ModuleList, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of the memory in all layers, each (layers, batch * heads, slots, head)."""
        keys, values = [], []
        for layer in layers:
            attention: Any = layer.cross_attn
            key, value = attention.kv_proj(memory).unflatten(-1, (2, -1, self._head_dim)).unbind(2)
            if not self._is_precise:
                key = attention.k_norm(key)
            elif self._has_qk_norm:
                weight = attention.q_norm.weight * attention.k_norm.weight * (self._scaling * self._head_dim)
                key = self._normalize_heads(key, None) * weight
            else:
                key = key * self._scaling
            keys.append(key.transpose(1, 2).flatten(0, 1))
            values.append(value.transpose(1, 2).flatten(0, 1))
        return torch.stack(keys), torch.stack(values)

    def _read_qk_weights(self, layers: Any) -> torch.Tensor | None:
        """What queries and keys of all layers are multiplied by, (layers or 1, 1, 2, 1, head or 1)."""
        if not self._is_precise:
            return None
        factors = self._embedding.new_tensor([self._scaling, 1.0]).view(1, 1, 2, 1, 1)
        if not self._has_qk_norm:
            return factors
        weights = [norm.weight for layer in layers for norm in (layer.self_attn.q_norm, layer.self_attn.k_norm)]
        # In float32 heads are divided by the root of their sum of squares, not of their mean.
        return torch.stack(weights).view(-1, 1, 2, 1, self._head_dim) * (factors * math.sqrt(self._head_dim))

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
        has_weights = self._has_qk_norm and not self._is_precise
        return _Layer(
            self_norm=self._read_norm(layer.self_attn_norm),
            qkv=attention.qkv_proj.weight.t(),
            qk_norm=torch.stack([norm.weight for norm in (attention.q_norm, attention.k_norm)])[:, None]
            if has_weights
            else None,
            self_out=attention.o_proj.weight.t(),
            cross_norm=self._read_norm(layer.cross_attn_norm),
            cross_query=cross.q_proj.weight.t(),
            cross_query_norm=cross.q_norm.weight if has_weights else None,
            cross_out=cross.o_proj.weight.t(),
            mlp_norm=self._read_norm(layer.mlp_norm),
            gate_up=mlp.gate_up_proj.weight.t(),
            down=mlp.down_proj.weight.t(),
            activation=nn.functional.silu if type(mlp.act_fn) is nn.SiLU else mlp.act_fn,
        )

    def _read_norm(self, norm: Any) -> torch.Tensor:
        """The weight of a norm of the states, (hidden,), as `_normalize` takes it."""
        # In float32 states are divided by the root of their sum of squares, not of their mean.
        return norm.weight * math.sqrt(norm.weight.shape[0]) if self._is_precise else norm.weight


__all__ = ["GenextStepper", "find_stepping_obstacle"]

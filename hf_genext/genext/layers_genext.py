"""The native blocks: pre-norm, RMSNorm, gated MLP, rotary positions, and any of Transformers' attention functions.

They are shaped so that inference engines can run them: queries, keys and values are one matrix, gate and up projection are
one matrix, rotary positions turn halves (not neighbours), and nothing has a bias.

Legend: batch, length (input positions), slots (memory positions), target (output positions), hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, dynamic_rope_update
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


class GenextRMSNorm(nn.Module):
    """Root mean square layer normalisation (Zhang and Sennrich 2019), computed in float32 at least."""

    def __init__(self, hidden_size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Normalise the last axis: (..., hidden) -> (..., hidden)."""
        return nn.functional.rms_norm(hidden_states, self.weight.shape, self.weight.to(hidden_states.dtype), self.eps)


class GenextRotaryEmbedding(nn.Module):
    """Rotary position embedding (Su et al. 2021), with the variants that Transformers knows by `rope_type`."""

    inv_freq: torch.Tensor
    attention_scaling: float

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.config = config
        self.max_seq_len_cached = config.max_position_embeddings
        self.original_max_seq_len = config.max_position_embeddings
        self.rope_type = config.rope_parameters["rope_type"]
        init_function = (
            self.compute_default_rope_parameters if self.rope_type == "default" else ROPE_INIT_FUNCTIONS[self.rope_type]
        )
        inv_freq, self.attention_scaling = init_function(config)
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.register_buffer("original_inv_freq", inv_freq.clone(), persistent=False)

    @staticmethod
    def compute_default_rope_parameters(
        config: PreTrainedConfig, device: torch.device | None = None, seq_len: int | None = None
    ) -> tuple[torch.Tensor, float]:
        """Inverse frequencies, (head / 2,), and the scale of the rotated states, which is 1."""
        head_size = config.hidden_size // config.num_attention_heads
        exponents = torch.arange(0, head_size, 2, dtype=torch.int64, device=device).float() / head_size
        return 1.0 / (config.rope_parameters["rope_theta"] ** exponents), 1.0

    @torch.no_grad()
    @dynamic_rope_update
    def forward(self, states: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines of the positions.

        Args:
            states: Any tensor of the dtype that the tables shall have.
            position_ids: (batch or 1, length).

        Returns:
            Cosines and sines, each (batch or 1, 1, length, head).
        """
        with torch.autocast(device_type=states.device.type, enabled=False):
            angles = position_ids[:, None, :, None].float() * self.inv_freq.float()
            angles = torch.cat((angles, angles), dim=-1)
            cos, sin = angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling
        return cos.to(states.dtype), sin.to(states.dtype)


def apply_rotary(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn each half of the heads by the angle of its position: (batch, heads, length, head) -> the same."""
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat((-second, first), dim=-1) * sin


def eager_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Plain attention, which also gives its weights.

    Args:
        module: The attention module, asked only whether it trains.
        query: (batch, heads, target, head).
        key: (batch, heads, length, head).
        value: (batch, heads, length, head).
        attention_mask: Added to the scores, (batch, 1, target, length), or `None`.
        scaling: Factor of the scores.
        dropout: Dropout on the weights.
        kwargs: What other attention functions take.

    Returns:
        The result, (batch, target, heads, head), and the weights, (batch, heads, target, length).
    """
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class GenextStackedLinear(nn.Linear):
    """A linear layer that stacks several of one size; optimizers that treat matrices as such take them apart.

    Its result is one tensor, as that of any linear layer, so that adapters can add to it; whoever calls it takes it apart.
    """

    def __init__(self, in_features: int, out_features: int, num_blocks: int) -> None:
        super().__init__(in_features, num_blocks * out_features, bias=False)
        self.num_blocks = num_blocks


class GenextResidualLinear(nn.Linear):
    """A linear layer, without bias, whose result is added to the stream of states."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)


class GenextAttention(nn.Module):
    """What self- and cross-attention share: head sizes, the output projection and the choice of attention function."""

    is_causal = False

    def __init__(self, config: PreTrainedConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.o_proj = GenextResidualLinear(config.hidden_size, config.hidden_size)
        normalize = config.use_qk_norm
        self.q_norm = GenextRMSNorm(self.head_dim, config.rms_norm_eps) if normalize else nn.Identity()
        self.k_norm = GenextRMSNorm(self.head_dim, config.rms_norm_eps) if normalize else nn.Identity()

    def split_heads(self, states: torch.Tensor) -> torch.Tensor:
        """(batch, length, hidden) -> (batch, heads, length, head)."""
        return states.view(*states.shape[:-1], -1, self.head_dim).transpose(1, 2)

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend with the function that the configuration names and project: -> (batch, target, hidden), weights."""
        attention_function: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        output, weights = attention_function(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.config.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.o_proj(output.reshape(*output.shape[:2], -1)), weights


class GenextSelfAttention(GenextAttention):
    """Self-attention with rotary positions, causal or not."""

    def __init__(self, config: PreTrainedConfig, layer_idx: int, *, is_causal: bool) -> None:
        super().__init__(config, layer_idx)
        self.is_causal = is_causal
        self.qkv_proj = GenextStackedLinear(config.hidden_size, config.hidden_size, num_blocks=3)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(batch, length, hidden) -> (batch, length, hidden), weights."""
        query, key, value = (self.split_heads(part) for part in self.qkv_proj(hidden_states).chunk(3, dim=-1))
        query = apply_rotary(self.q_norm(query), *position_embeddings)
        key = apply_rotary(self.k_norm(key), *position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        return self.attend(query, key, value, attention_mask, **kwargs)


class GenextCrossAttention(GenextAttention):
    """Attention to a memory of any width; its keys and values are computed once and cached."""

    def __init__(self, config: PreTrainedConfig, layer_idx: int, memory_size: int) -> None:
        super().__init__(config, layer_idx)
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.kv_proj = GenextStackedLinear(memory_size, config.hidden_size, num_blocks=2)

    def forward(
        self,
        hidden_states: torch.Tensor,
        memory: torch.Tensor,
        memory_mask: torch.Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(batch, target, hidden) and (batch, slots, memory hidden) -> (batch, target, hidden), weights."""
        query = self.q_norm(self.split_heads(self.q_proj(hidden_states)))
        if past_key_values is not None and past_key_values.is_updated.get(self.layer_idx):
            layer = past_key_values.cross_attention_cache.layers[self.layer_idx]
            key, value = layer.keys, layer.values
        else:
            key, value = (self.split_heads(part) for part in self.kv_proj(memory).chunk(2, dim=-1))
            key = self.k_norm(key)
            if past_key_values is not None:
                key, value = past_key_values.cross_attention_cache.update(key, value, self.layer_idx)
                past_key_values.is_updated[self.layer_idx] = True
        return self.attend(query, key, value, memory_mask, **kwargs)


class GenextDropout(nn.Module):
    """Dropout with one mask for all positions of a row (Gal and Ghahramani 2016), which costs next to nothing."""

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0.0 <= p < 1.0:
            raise ValueError(f"dropout must be at least 0 and below 1, got {p}.")
        self.p = p

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(batch, length, hidden) -> the same shape."""
        if not self.training or self.p == 0.0:
            return states
        mask = torch.rand(states.shape[0], 1, states.shape[2], device=states.device) >= self.p
        return states * (mask / (1.0 - self.p)).to(states.dtype)


class GenextMLP(nn.Module):
    """Gated MLP (Shazeer 2020): down(act(gate(x)) * up(x))."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.gate_up_proj = GenextStackedLinear(config.hidden_size, config.intermediate_size, num_blocks=2)
        self.down_proj = GenextResidualLinear(config.intermediate_size, config.hidden_size)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(..., hidden) -> (..., hidden)."""
        gate, up = self.gate_up_proj(hidden_states).chunk(2, dim=-1)
        return self.down_proj(self.act_fn(gate) * up)


class GenextEncoderLayer(GradientCheckpointingLayer):
    """A bidirectional layer: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: PreTrainedConfig, layer_idx: int) -> None:
        super().__init__()
        self.self_attn_norm = GenextRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = GenextSelfAttention(config, layer_idx, is_causal=False)
        self.mlp_norm = GenextRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = GenextMLP(config)
        self.dropout = GenextDropout(config.dropout)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """(batch, length, hidden) -> (batch, length, hidden)."""
        attended, _ = self.self_attn(self.self_attn_norm(hidden_states), position_embeddings, attention_mask, **kwargs)
        hidden_states = hidden_states + self.dropout(attended)
        return hidden_states + self.dropout(self.mlp(self.mlp_norm(hidden_states)))


class GenextDecoderLayer(GradientCheckpointingLayer):
    """A causal layer that also reads the memory: x + self(norm(x)), x + cross(norm(x), memory), x + mlp(norm(x))."""

    def __init__(self, config: PreTrainedConfig, layer_idx: int) -> None:
        super().__init__()
        self.self_attn_norm = GenextRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = GenextSelfAttention(config, layer_idx, is_causal=True)
        self.cross_attn_norm = GenextRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.cross_attn = GenextCrossAttention(config, layer_idx, config.cross_attention_hidden_size)
        self.mlp_norm = GenextRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = GenextMLP(config)
        self.dropout = GenextDropout(config.dropout)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None,
        memory: torch.Tensor,
        memory_mask: torch.Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """(batch, target, hidden) and (batch, slots, memory hidden) -> (batch, target, hidden)."""
        attended, _ = self.self_attn(
            self.self_attn_norm(hidden_states),
            position_embeddings,
            attention_mask,
            past_key_values.self_attention_cache if past_key_values is not None else None,
            **kwargs,
        )
        hidden_states = hidden_states + self.dropout(attended)
        attended, _ = self.cross_attn(self.cross_attn_norm(hidden_states), memory, memory_mask, past_key_values, **kwargs)
        hidden_states = hidden_states + self.dropout(attended)
        return hidden_states + self.dropout(self.mlp(self.mlp_norm(hidden_states)))


__all__ = [
    "GenextAttention",
    "GenextCrossAttention",
    "GenextDecoderLayer",
    "GenextDropout",
    "GenextEncoderLayer",
    "GenextMLP",
    "GenextRMSNorm",
    "GenextResidualLinear",
    "GenextRotaryEmbedding",
    "GenextSelfAttention",
    "GenextStackedLinear",
    "apply_rotary",
    "eager_attention",
]

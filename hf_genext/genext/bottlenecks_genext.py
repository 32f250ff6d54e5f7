"""Bottlenecks: each turns states of any length into the memory that the decoder reads.

Legend: batch, length (input positions), slots (memory positions), hidden.
"""

from __future__ import annotations

import torch
from torch import nn

from .configuration_bottlenecks_genext import GenextBottleneckConfig
from .linear_bottlenecks_genext import LinearBottleneck
from .outputs_genext import BottleneckOutput
from .pooled_genext import PooledBottleneck
from .quantized_genext import QuantizedBottleneck
from .variational_genext import VariationalBottleneck


class NoBottleneck(nn.Module):
    """Hands the states on: the memory has one slot for each input position."""

    def forward(self, states: torch.Tensor, mask: torch.Tensor | None) -> BottleneckOutput:
        """(batch, length, hidden), (batch, length) -> the same as memory and memory mask."""
        return BottleneckOutput(memory=states, memory_mask=mask)


def build_bottleneck(config: GenextBottleneckConfig, states_size: int) -> nn.Module:
    """Build the bottleneck that a configuration describes, for states of a given width."""
    if config.kind == "linear":
        return LinearBottleneck(config, states_size)
    if config.kind == "variational":
        return VariationalBottleneck(config, states_size)
    if config.kind == "quantized":
        return QuantizedBottleneck(config, states_size)
    return PooledBottleneck(config, states_size) if config.kind == "pooled" else NoBottleneck()


__all__ = ["NoBottleneck", "PooledBottleneck", "QuantizedBottleneck", "VariationalBottleneck", "build_bottleneck"]

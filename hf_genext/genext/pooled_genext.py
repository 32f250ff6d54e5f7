"""The bottleneck of learned queries: a fixed number of slots from states of any length.

Legend: batch, length (input positions), slots (memory positions), hidden.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers.masking_utils import create_bidirectional_mask

from .configuration_bottlenecks_genext import GenextBottleneckConfig
from .layers_genext import GenextCrossAttention, GenextDropout, GenextMLP, GenextRMSNorm
from .outputs_genext import BottleneckOutput
from .pretrained_genext import GenextPreTrainedModel


class PooledBottleneck(GenextPreTrainedModel):
    """Reads the states with learned queries, so that the memory has a fixed number of slots.

    One cross-attention and one gated MLP, both pre-norm and residual, as in the Perceiver's encoder (Jaegle et al. 2021) and
    the pooling by multihead attention of the Set Transformer (Lee et al. 2019).
    """

    config_class = GenextBottleneckConfig

    def __init__(self, config: GenextBottleneckConfig, states_size: int) -> None:
        super().__init__(config)
        hidden_size = config.hidden_size or states_size
        self.queries = nn.Embedding(config.num_latents, hidden_size)
        self.queries_norm = GenextRMSNorm(hidden_size, config.rms_norm_eps)
        self.states_norm = GenextRMSNorm(states_size, config.rms_norm_eps)
        self.cross_attn = GenextCrossAttention(config, layer_idx=0, memory_size=states_size)
        self.mlp_norm = GenextRMSNorm(hidden_size, config.rms_norm_eps)
        self.mlp = GenextMLP(config)
        self.norm = GenextRMSNorm(hidden_size, config.rms_norm_eps)
        self.dropout = GenextDropout(config.dropout)
        self.post_init()

    def forward(self, states: torch.Tensor, mask: torch.Tensor | None) -> BottleneckOutput:
        """(batch, length, states hidden), (batch, length) -> memory (batch, slots, hidden), every slot real."""
        memory = self.queries.weight.to(states.dtype).expand(states.shape[0], -1, -1)
        attention_bias = create_bidirectional_mask(
            config=self.config, inputs_embeds=memory, attention_mask=mask, encoder_hidden_states=states
        )
        attended, _ = self.cross_attn(self.queries_norm(memory), self.states_norm(states), attention_bias)
        memory = memory + self.dropout(attended)
        memory = memory + self.dropout(self.mlp(self.mlp_norm(memory)))
        return BottleneckOutput(memory=self.norm(memory))


__all__ = ["PooledBottleneck"]

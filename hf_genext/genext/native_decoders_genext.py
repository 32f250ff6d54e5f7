"""The native decoder: a causal Transformer that turns a memory and the tokens so far into states.

Legend: batch, slots (memory positions), target (output positions), hidden.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_genext import GenextDecoderConfig
from .layers_genext import (
    GenextCrossAttention,
    GenextDecoderLayer,
    GenextDropout,
    GenextRMSNorm,
    GenextRotaryEmbedding,
    GenextSelfAttention,
)
from .pretrained_genext import GenextPreTrainedModel


class GenextDecoder(GenextPreTrainedModel):
    """The native decoder: embedding, causal pre-norm layers that read the memory, final norm."""

    config_class = GenextDecoderConfig
    _can_record_outputs = {
        "hidden_states": GenextDecoderLayer,
        "attentions": OutputRecorder(GenextSelfAttention, index=1),
        "cross_attentions": OutputRecorder(GenextCrossAttention, index=1),
    }

    def __init__(self, config: GenextDecoderConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.dropout = GenextDropout(config.dropout)
        self.rotary_emb = GenextRotaryEmbedding(config)
        self.layers = nn.ModuleList(GenextDecoderLayer(config, index) for index in range(config.num_hidden_layers))
        self.norm = GenextRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        memory: torch.FloatTensor | None = None,
        memory_mask: torch.Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Run the decoder over the tokens so far.

        Args:
            input_ids: Target tokens, (batch, target).
            attention_mask: 1 where a token is real, 0 where it is padding, (batch, seen + target).
            position_ids: (batch or 1, target); counted on from the cache if left out.
            inputs_embeds: Instead of `input_ids`, (batch, target, hidden).
            memory: (batch, slots, memory hidden).
            memory_mask: 1 where a slot is real, (batch, slots).
            past_key_values: Keys and values of what was seen.
            use_cache: Whether to make such a cache where none is given (never while training).
            kwargs: `output_attentions` and `output_hidden_states`.

        Returns:
            States (batch, target, hidden), the cache, and on request every layer's states and attention weights.

        Raises:
            ValueError: unless `memory` and exactly one of `input_ids` and `inputs_embeds` are given.
        """
        if (input_ids is None) == (inputs_embeds is None):
            given = "neither" if input_ids is None else "both"
            raise ValueError(f"Give either the target tokens or their embeddings; got {given}.")
        if memory is None:
            raise ValueError("The decoder needs a memory; give encoder_outputs, or the inputs of the encoder.")
        states = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if self.training and self.config.token_dropout:
            states = self._drop_tokens(states)
        if past_key_values is None and use_cache and not self.training:
            past_key_values = EncoderDecoderCache(DynamicCache(config=self.config), DynamicCache())
        self_attention_cache = past_key_values.self_attention_cache if past_key_values is not None else None
        if position_ids is None:
            seen = self_attention_cache.get_seq_length() if self_attention_cache is not None else 0
            position_ids = (torch.arange(states.shape[1], device=states.device) + seen)[None]
        position_embeddings = self.rotary_emb(states, position_ids)
        causal_bias = create_causal_mask(
            config=self.config,
            inputs_embeds=states,
            attention_mask=attention_mask,
            past_key_values=self_attention_cache,
            position_ids=position_ids,
        )
        memory_bias = create_bidirectional_mask(
            config=self.config, inputs_embeds=states, attention_mask=memory_mask, encoder_hidden_states=memory
        )
        states = self.dropout(states)
        for layer in self.layers:
            states = layer(states, position_embeddings, causal_bias, memory, memory_bias, past_key_values)
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=self.norm(states), past_key_values=past_key_values)

    def _drop_tokens(self, states: torch.Tensor) -> torch.Tensor:
        """Embeddings of which some are 0, (batch, target, hidden): each by chance, but for those of the first tokens."""
        seen = torch.rand(states.shape[:2], device=states.device) >= self.config.token_dropout
        seen[:, 0] = True
        return states * seen[:, :, None]


__all__ = ["GenextDecoder"]

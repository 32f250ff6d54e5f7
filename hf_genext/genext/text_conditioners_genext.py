"""The native text conditioner: from tokens to states and their mask.

Legend: batch, length (input positions), hidden.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.masking_utils import create_bidirectional_mask
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_conditioners_genext import GenextTextConditionerConfig
from .layers_genext import GenextDropout, GenextEncoderLayer, GenextRMSNorm, GenextRotaryEmbedding, GenextSelfAttention
from .outputs_genext import ConditionerOutput
from .pretrained_genext import GenextPreTrainedModel


class GenextTextConditioner(GenextPreTrainedModel):
    """A text conditioner built from scratch: embedding, bidirectional pre-norm layers, final norm."""

    config_class = GenextTextConditionerConfig
    input_names = ("input_ids", "inputs_embeds", "attention_mask")
    can_pad = True
    _can_record_outputs = {
        "hidden_states": GenextEncoderLayer,
        "attentions": OutputRecorder(GenextSelfAttention, index=1),
    }

    def __init__(self, config: GenextTextConditionerConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.dropout = GenextDropout(config.dropout)
        self.rotary_emb = GenextRotaryEmbedding(config)
        self.layers = nn.ModuleList(GenextEncoderLayer(config, index) for index in range(config.num_hidden_layers))
        self.norm = GenextRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        **kwargs: Any,
    ) -> ConditionerOutput:
        """Encode a batch of texts.

        Args:
            input_ids: Source tokens, (batch, length).
            attention_mask: 1 where a token is real, 0 where it is padding, on either side, (batch, length).
            inputs_embeds: Instead of `input_ids`, (batch, length, hidden).
            kwargs: `output_attentions`, `output_hidden_states`.

        Returns:
            States (batch, length, hidden) and their mask.

        Raises:
            ValueError: unless exactly one of `input_ids` and `inputs_embeds` is given.
        """
        if (input_ids is None) == (inputs_embeds is None):
            given = "neither" if input_ids is None else "both"
            raise ValueError(f"Give either input_ids or inputs_embeds; got {given}.")
        states = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        # Rotary positions are relative, so counting from the first column is right with padding on either side.
        positions = torch.arange(states.shape[1], device=states.device)[None]
        position_embeddings = self.rotary_emb(states, positions)
        attention_bias = create_bidirectional_mask(config=self.config, inputs_embeds=states, attention_mask=attention_mask)
        states = self.dropout(states)
        for layer in self.layers:
            states = layer(states, position_embeddings, attention_bias)
        return ConditionerOutput(states=self.norm(states), mask=attention_mask)


__all__ = ["GenextTextConditioner"]

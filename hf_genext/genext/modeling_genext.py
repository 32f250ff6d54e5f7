"""The composed models: encoder (conditioner and bottleneck), decoder and head.

Legend: batch, length (input positions), slots (memory positions), target (output positions), hidden, vocab.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn
from transformers.cache_utils import EncoderDecoderCache
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput
from transformers.modeling_utils import slice_logits_to_keep
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .bottlenecks_genext import build_bottleneck
from .conditioners_genext import build_conditioner
from .configuration_genext import GenextConfig
from .decoders_genext import build_decoder
from .heads_genext import TokenHead, compute_token_loss
from .outputs_genext import GenextEncoderOutput
from .pretrained_genext import GenextPreTrainedModel


class GenextEncoder(GenextPreTrainedModel):
    """Conditioner and bottleneck in one module: from the condition to the memory and its own mask."""

    # What the conditioner records of itself is passed on.
    _can_record_outputs = {name: OutputRecorder(None) for name in ("hidden_states", "attentions")}

    def __init__(self, config: GenextConfig) -> None:
        super().__init__(config)
        self.conditioner = build_conditioner(config.conditioner)
        self.bottleneck = build_bottleneck(config.bottleneck, config.conditioner.hidden_size)  # type: ignore[arg-type]
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The embedding of the source tokens."""
        return self.conditioner.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embedding of the source tokens."""
        self.conditioner.set_input_embeddings(value)

    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        **kwargs: Any,
    ) -> GenextEncoderOutput:
        """Turn a batch of conditions into memories.

        Args:
            input_ids: Source tokens, (batch, length).
            attention_mask: 1 where a token is real, (batch, length).
            inputs_embeds: Instead of `input_ids`, (batch, length, hidden).
            kwargs: `output_attentions`, `output_hidden_states`, `return_dict`.

        Returns:
            The memory (batch, slots, hidden) and its mask (batch, slots).
        """
        condition = self.conditioner(input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds)
        bottleneck = self.bottleneck(condition.states, condition.mask)
        return GenextEncoderOutput(
            last_hidden_state=bottleneck.memory, memory_mask=bottleneck.memory_mask, losses=bottleneck.losses
        )


class GenextModel(GenextPreTrainedModel):
    """The encoder alone: features and fixed-length states. Opens folders of every kind of `Genext` model.

    Example:
        >>> import torch
        >>> from hf_genext import GenextConfig, GenextModel
        >>> config = GenextConfig(conditioner={"vocab_size": 32}, bottleneck={"kind": "pooled", "num_latents": 4})
        >>> GenextModel(config).encode(input_ids=torch.tensor([[5, 6, 7]])).shape
        torch.Size([1, 4, 256])
    """

    _opens_folders_of = ("GenextForConditionalGeneration",)
    _keys_to_ignore_on_load_unexpected = [r"^decoder\.", r"^head\."]

    def __init__(self, config: GenextConfig) -> None:
        super().__init__(config)
        self.encoder = GenextEncoder(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The embedding of the source tokens."""
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embedding of the source tokens."""
        self.encoder.set_input_embeddings(value)

    def forward(self, **inputs: Any) -> GenextEncoderOutput:
        """The memory and its mask; inputs as [`GenextEncoder.forward`] takes them."""
        return self.encoder(**inputs)

    def encode(self, **inputs: Any) -> torch.Tensor:
        """The memory of a batch of conditions, (batch, slots, hidden)."""
        return self.encoder(**inputs).last_hidden_state


class GenextForConditionalGeneration(GenextPreTrainedModel, GenerationMixin):
    """A conditional model with a sequence output: encoder, decoder and token head.

    Example:
        >>> import torch
        >>> from hf_genext import GenextConfig, GenextForConditionalGeneration
        >>> config = GenextConfig(conditioner={"vocab_size": 32}, decoder={"vocab_size": 48})
        >>> model = GenextForConditionalGeneration(config).eval()
        >>> outputs = model(input_ids=torch.tensor([[5, 6, 7]]), labels=torch.tensor([[8, 9, 2]]))
        >>> outputs.logits.shape
        torch.Size([1, 3, 48])
        >>> model.generate(input_ids=torch.tensor([[5, 6, 7]]), max_new_tokens=4, min_new_tokens=4).shape
        torch.Size([1, 5])
    """

    _tied_weights_keys = {"head.projection.weight": "decoder.embed_tokens.weight"}

    def __init__(self, config: GenextConfig) -> None:
        super().__init__(config)
        self.encoder = GenextEncoder(config)
        self.decoder = build_decoder(config.decoder)
        self.head = TokenHead(config.decoder.hidden_size, config.decoder.vocab_size)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The embedding of the source tokens."""
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embedding of the source tokens."""
        self.encoder.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The projection of the token head."""
        return self.head.projection

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the projection of the token head."""
        self.head.projection = new_embeddings

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
        side: Literal["source", "target"] = "target",
    ) -> nn.Embedding:
        """Resize one of the two vocabularies, which differ in size.

        Args:
            new_num_tokens: The new number of tokens.
            pad_to_multiple_of: Round it up to a multiple.
            mean_resizing: Whether new rows start around the mean of the old ones.
            side: `"target"` resizes the decoder's embedding and the head, `"source"` the conditioner's embedding.

        Returns:
            The resized embedding.

        Raises:
            ValueError: for another side.
        """
        if side not in ("source", "target"):
            raise ValueError(f'side must be "source" or "target", got {side!r}.')
        if new_num_tokens is None and pad_to_multiple_of is None:
            return self.get_input_embeddings() if side == "source" else self.decoder.get_input_embeddings()
        part = self.encoder.conditioner if side == "source" else self.decoder
        old = part.get_input_embeddings()
        new = self._get_resized_embeddings(old, new_num_tokens, pad_to_multiple_of, mean_resizing)
        new.requires_grad_(old.weight.requires_grad)
        part.set_input_embeddings(new)
        part.config.vocab_size = new.num_embeddings
        if side == "target":
            if self.config.tie_word_embeddings:
                projection = nn.Linear(new.embedding_dim, new.num_embeddings, bias=False)
                projection.weight = new.weight
            else:
                projection = self._get_resized_lm_head(
                    self.get_output_embeddings(), new.num_embeddings, mean_resizing=mean_resizing
                )
                projection.requires_grad_(self.get_output_embeddings().weight.requires_grad)
            self.set_output_embeddings(projection)
            self.tie_weights()
        return new

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """Shift the labels right behind the start token, with padding for -100: (batch, target) -> the same shape."""
        shifted = labels.new_empty(labels.shape)
        shifted[:, 1:] = labels[:, :-1]
        shifted[:, 0] = self.config.decoder_start_token_id
        return shifted.masked_fill_(shifted == -100, self.config.pad_token_id)

    def encode(self, **inputs: Any) -> torch.Tensor:
        """The memory of a batch of conditions, (batch, slots, hidden)."""
        return self.encoder(**inputs).last_hidden_state

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        decoder_position_ids: torch.LongTensor | None = None,
        encoder_outputs: GenextEncoderOutput | BaseModelOutput | tuple[torch.Tensor, ...] | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        decoder_inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput:
        """Run the model, and compute the loss where labels are given.

        A condition may have several targets, (batch * targets of each, target), those of one condition beside each other. Each
        condition is encoded once.

        Args:
            input_ids: Source tokens, (batch, length).
            attention_mask: 1 where a source token is real, (batch, length). Only the encoder sees it.
            decoder_input_ids: Target tokens so far, (batch, target); made from `labels` if left out.
            decoder_attention_mask: 1 where a target token is real, (batch, seen + target); needed only where padding stands
                to the left of real tokens.
            decoder_position_ids: (batch or 1, target).
            encoder_outputs: What the encoder gave, to decode the same memory again.
            past_key_values: Keys and values of what was seen.
            inputs_embeds: Instead of `input_ids`, (batch, length, hidden).
            decoder_inputs_embeds: Instead of `decoder_input_ids`, (batch, target, hidden).
            labels: Target tokens, (batch, target), -100 where there is nothing to predict.
            use_cache: Whether to return a cache (never while training).
            num_items_in_batch: Labelled positions of the whole optimizer step, by which the loss is divided.
            logits_to_keep: Compute logits for the last so many positions only, or for the positions given; 0 for all.
            kwargs: `output_attentions`, `output_hidden_states`, `return_dict`.

        Returns:
            The loss (nats per labelled position), logits (batch, target, vocab), cache, and what was asked for.

        Raises:
            ValueError: if the inputs of the encoder or of the decoder are missing or given twice, or conditions differ in their
                number of targets.
        """
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, **kwargs
            )
        elif not isinstance(encoder_outputs, GenextEncoderOutput):
            # Somebody else's output carries no mask of its own: without a bottleneck the input's is right.
            memory_mask = attention_mask if self.config.bottleneck.kind == "none" else None
            encoder_outputs = GenextEncoderOutput(last_hidden_state=encoder_outputs[0], memory_mask=memory_mask)
        if labels is not None and decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        memory, memory_mask = encoder_outputs.last_hidden_state, encoder_outputs.memory_mask
        targets = decoder_inputs_embeds if decoder_input_ids is None else decoder_input_ids
        if targets is not None and targets.shape[0] != memory.shape[0]:
            memory = _repeat_rows(memory, targets.shape[0])
            memory_mask = _repeat_rows(memory_mask, targets.shape[0]) if memory_mask is not None else None
        decoder_outputs = self.decoder(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            position_ids=decoder_position_ids,
            inputs_embeds=decoder_inputs_embeds,
            memory=memory,
            memory_mask=memory_mask,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **kwargs,
        )
        logits = self.head(slice_logits_to_keep(decoder_outputs.last_hidden_state, logits_to_keep))
        loss = None
        if labels is not None:
            loss = compute_token_loss(logits, labels, num_items_in_batch)
            for part in (encoder_outputs.losses or {}).values():
                loss = loss + part
        return Seq2SeqLMOutput(
            loss=loss,
            logits=logits,
            past_key_values=decoder_outputs.past_key_values,
            decoder_hidden_states=decoder_outputs.hidden_states,
            decoder_attentions=decoder_outputs.attentions,
            cross_attentions=decoder_outputs.cross_attentions,
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
            encoder_hidden_states=encoder_outputs.hidden_states,
            encoder_attentions=encoder_outputs.attentions,
        )


def _repeat_rows(rows: torch.Tensor, count: int) -> torch.Tensor:
    if count % rows.shape[0]:
        raise ValueError(
            f"Each condition needs the same number of targets, got {rows.shape[0]} conditions and {count} targets. Give the "
            "targets of one condition beside each other."
        )
    return rows.repeat_interleave(count // rows.shape[0], dim=0)


__all__ = ["GenextEncoder", "GenextForConditionalGeneration", "GenextModel"]

"""The composed models: the encoder alone, and encoder, decoder and head together.

Legend: batch, length (input positions), slots (memory positions), target (output positions), hidden, vocab.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin
from transformers.masking_utils import create_masks_for_generate
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import slice_logits_to_keep
from transformers.utils.generic import can_return_tuple

from .composition_genext import Part, compose
from .configuration_bottlenecks_genext import SLOT_FOR_EACH_STATE
from .configuration_genext import GenextConfig
from .decoders_genext import build_decoder
from .encoders_genext import CONDITION_INPUTS, GenextEncoder
from .fitting_genext import ClosedFormFitting
from .guidance_genext import GuidedGeneration
from .heads_genext import TokenHead, add_losses, compute_token_loss, require_tokens
from .latents_genext import count_conditions
from .memory_genext import MemoryDecoding, MemoryEncoding
from .outputs_genext import GenextEncoderOutput, GenextSeq2SeqLMOutput
from .pretrained_genext import GenextPreTrainedModel
from .resizing_genext import resize_part
from .sampling_genext import SequenceSampling
from .stepping_genext import GenextStepper, find_stepping_obstacle

_GENERATION = frozenset(name for name in vars(GenerationMixin) if not name.startswith("__"))
"""What of a model Transformers' generation consists of."""


class GenextModel(MemoryEncoding, ClosedFormFitting, GenextPreTrainedModel):
    """The encoder alone: features and fixed-length states. Opens folders of every kind of `Genext` model.

    Example:
        >>> import torch
        >>> from hf_genext import GenextConfig, GenextModel
        >>> config = GenextConfig(conditioner={"vocab_size": 32}, bottleneck={"kind": "pooled", "num_latents": 4})
        >>> GenextModel(config).encode(input_ids=torch.tensor([[5, 6, 7]])).shape
        torch.Size([1, 4, 256])
    """

    _opens_folders_of = ("GenextForConditionalGeneration", "GenextForPrediction")
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

    def save_sentence_transformer(
        self, save_directory: str | os.PathLike, processor: ProcessorMixin, *, normalize: bool = True
    ) -> None:
        """Save a folder that sentence-transformers opens: `SentenceTransformer(folder)`, after `import hf_genext`.

        Its vectors are those of [`GenextModel.embed`]. The folder opens in `AutoModel` and `AutoProcessor` too.

        Args:
            save_directory: Where to.
            processor: The processor of the model, which reads texts.
            normalize: Whether the vectors have length 1.

        Raises:
            ValueError: if the model reads no text.
        """
        if getattr(processor, "tokenizer", None) is None or self.main_input_name != "input_ids":
            raise ValueError(
                f"sentence-transformers gives its models texts, but this one reads {self.main_input_name}. Save it with "
                "save_pretrained, and call embed for its vectors."
            )
        self.save_pretrained(save_directory)
        processor.save_pretrained(save_directory)
        modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
        if normalize:
            modules.append({"idx": 1, "name": "1", "path": "1_Normalize", "type": "sentence_transformers.models.Normalize"})
            os.makedirs(os.path.join(save_directory, "1_Normalize"), exist_ok=True)
        transformer = {
            "transformer_task": "feature-extraction",
            "modality_config": {"text": {"method": "embed", "method_output_name": None}},
            "module_output_name": "sentence_embedding",
        }
        for name, content in (("modules.json", modules), ("sentence_bert_config.json", transformer)):
            with open(os.path.join(save_directory, name), "w", encoding="utf-8") as file:
                json.dump(content, file, indent=2)


class GenextForConditionalGeneration(
    MemoryEncoding,
    MemoryDecoding,
    SequenceSampling,
    GuidedGeneration,
    ClosedFormFitting,
    GenextPreTrainedModel,
    GenerationMixin,
):
    """A conditional model with a sequence output: encoder, decoder and token head.

    Args:
        config: The configuration of the whole.
        encoder_models: A pretrained model for the conditioner, for a fusion one for each name; else they are built.
        language_model: A pretrained language model for the decoder; else it is built.

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

    _tied_weights_keys: dict[str, str] | None = {"head.projection.weight": "decoder.embed_tokens.weight"}

    def __init__(
        self,
        config: GenextConfig,
        encoder_models: PreTrainedModel | Mapping[str, PreTrainedModel | None] | None = None,
        language_model: PreTrainedModel | None = None,
    ) -> None:
        super().__init__(config)
        self.encoder = GenextEncoder(config, encoder_models)
        self.decoder = build_decoder(config.decoder, config.hidden_size, language_model)
        config.decoder = self.decoder.config
        # A language model has a head of its own.
        self.head: TokenHead | None = None
        if config.has_native_decoder:
            self.head = TokenHead(config.decoder.hidden_size, config.decoder.vocab_size)
        else:
            self._tied_weights_keys = None
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The embedding of the source tokens."""
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embedding of the source tokens."""
        self.encoder.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The projection of the token head, or the language model's own head."""
        return self.decoder.get_output_embeddings() if self.head is None else self.head.projection

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the projection of the token head, or the language model's own head."""
        if self.head is None:
            self.decoder.set_output_embeddings(new_embeddings)
        else:
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
            ValueError: for another side, or a side without tokens.
        """
        if side not in ("source", "target"):
            raise ValueError(f'side must be "source" or "target", got {side!r}.')
        if new_num_tokens is None and pad_to_multiple_of is None:
            return self.get_input_embeddings() if side == "source" else self.decoder.get_input_embeddings()
        part = self.encoder.conditioner if side == "source" else self.decoder
        new = resize_part(part, new_num_tokens, pad_to_multiple_of, mean_resizing)
        if side == "target" and self.head is not None:
            if self.config.tie_word_embeddings:
                projection = nn.Linear(new.embedding_dim, new.num_embeddings, bias=False)
                projection.weight = new.weight
            else:
                projection = self._get_resized_lm_head(self.head.projection, new.num_embeddings, mean_resizing=mean_resizing)
                projection.requires_grad_(self.head.projection.weight.requires_grad)
            self.head.projection = projection
        self.tie_weights()
        return new

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """Shift the labels right behind the start token, with padding for -100: (batch, target) -> the same shape."""
        shifted = labels.new_empty(labels.shape)
        shifted[:, 1:] = labels[:, :-1]
        shifted[:, 0] = self.config.decoder_start_token_id
        return shifted.masked_fill_(shifted == -100, self.config.pad_token_id)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        decoder_position_ids: torch.LongTensor | None = None,
        encoder_outputs: GenextEncoderOutput | BaseModelOutput | tuple[torch.Tensor, ...] | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        decoder_inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        pixel_values: torch.FloatTensor | None = None,
        input_features: torch.FloatTensor | None = None,
        input_values: torch.FloatTensor | None = None,
        feature_attention_mask: torch.Tensor | None = None,
        condition_vectors: torch.FloatTensor | None = None,
        condition_vectors_mask: torch.Tensor | None = None,
        condition_labels: torch.LongTensor | None = None,
        condition_mask: torch.Tensor | None = None,
        num_samples: int | None = None,
        condition_states: torch.FloatTensor | Mapping[str, torch.FloatTensor] | None = None,
        condition_states_mask: torch.Tensor | Mapping[str, torch.Tensor] | None = None,
        latent_noise: torch.Tensor | None = None,
        sample_latents: bool | None = None,
        **kwargs: Any,
    ) -> GenextSeq2SeqLMOutput:
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
            pixel_values: See [`GenextEncoder.forward`], as all that follows.
            input_features: Features of audio.
            input_values: Waveforms, (batch, samples).
            feature_attention_mask: 1 where audio is real.
            condition_vectors: (batch, size) or (batch, count, size).
            condition_vectors_mask: 1 where a vector is real, (batch, count).
            condition_labels: (batch, fields), -1 where a label is missing.
            condition_mask: 1 where a condition is given, (batch, conditions).
            num_samples: The number of rows where no condition is given at all; that of the targets if left out.
            condition_states: What frozen conditioners gave before, (batch, length, hidden), in place of a condition, or of
                several fused ones by their names.
            condition_states_mask: 1 where such a state is real, (batch, length), or likewise by names.
            latent_noise: See [`GenextEncoder.forward`], as what follows.
            sample_latents: Whether a variational or quantised bottleneck draws.
            kwargs: `output_attentions`, `output_hidden_states`, `return_dict`, and what a pretrained encoder takes besides.

        Returns:
            The loss (nats per labelled position), logits (batch, target, vocab), cache, and what was asked for. With a
            variational bottleneck the loss is the negative evidence bound of the drawn latent numbers, and in training their
            divergence from the prior has the weight that the configuration plans; its parts are in `losses`.

        Raises:
            ValueError: if the inputs of the encoder or of the decoder are missing or given twice, or conditions differ in their
                number of targets.
        """
        if encoder_outputs is None:
            conditions = {
                "input_ids": input_ids,
                "inputs_embeds": inputs_embeds,
                "pixel_values": pixel_values,
                "input_features": input_features,
                "input_values": input_values,
                "condition_vectors": condition_vectors,
                "condition_labels": condition_labels,
                "condition_mask": condition_mask,
            }
            targets = next((given for given in (labels, decoder_input_ids, decoder_inputs_embeds) if given is not None), None)
            if (
                num_samples is None
                and targets is not None
                and (condition_states is None or (isinstance(condition_states, Mapping) and not condition_states))
                and all(value is None for value in conditions.values())
            ):
                num_samples = targets.shape[0] if self.encoder.can_be_unconditional else None
            encoder_outputs = self.encoder(
                attention_mask=attention_mask,
                feature_attention_mask=feature_attention_mask,
                condition_vectors_mask=condition_vectors_mask,
                num_samples=num_samples,
                condition_states=condition_states,
                condition_states_mask=condition_states_mask,
                latent_noise=latent_noise,
                sample_latents=sample_latents,
                **conditions,
                **kwargs,
            )
        else:
            encoder_outputs = self._take_encoder_outputs(encoder_outputs, attention_mask)
        if labels is not None and labels.device.type == "cpu":
            # Elsewhere asking would wait for the device at every step.
            require_tokens(labels, self.config.vocab_size)
        if labels is not None and decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        memory, memory_mask = encoder_outputs.last_hidden_state, encoder_outputs.memory_mask
        targets = decoder_inputs_embeds if decoder_input_ids is None else decoder_input_ids
        if targets is not None and targets.shape[0] != memory.shape[0]:
            memory = _repeat_rows(memory, targets.shape[0])
            memory_mask = _repeat_rows(memory_mask, targets.shape[0]) if memory_mask is not None else None
        own_head = {"logits_to_keep": logits_to_keep} if self.head is None else {}
        decoder_outputs = self.decoder(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            position_ids=decoder_position_ids,
            inputs_embeds=decoder_inputs_embeds,
            memory=memory,
            memory_mask=memory_mask,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **own_head,
            **kwargs,
        )
        if self.head is None:
            logits = decoder_outputs.logits
        else:
            logits = self.head(slice_logits_to_keep(decoder_outputs.last_hidden_state, logits_to_keep))
        loss, losses = None, None
        if labels is not None:
            loss = compute_token_loss(logits, labels, num_items_in_batch)
            count = labels.ne(-100).sum() if num_items_in_batch is None else num_items_in_batch
            loss, losses = add_losses(loss, encoder_outputs.losses, count)
        return GenextSeq2SeqLMOutput(
            loss=loss,
            logits=logits,
            past_key_values=decoder_outputs.past_key_values,
            decoder_hidden_states=decoder_outputs.hidden_states,
            decoder_attentions=decoder_outputs.attentions,
            cross_attentions=decoder_outputs.cross_attentions,
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
            encoder_hidden_states=encoder_outputs.hidden_states,
            encoder_attentions=encoder_outputs.attentions,
            losses=losses,
            latents=encoder_outputs.latents,
        )

    def _take_encoder_outputs(
        self,
        encoder_outputs: GenextEncoderOutput | BaseModelOutput | tuple[torch.Tensor, ...],
        attention_mask: torch.Tensor | None,
    ) -> GenextEncoderOutput:
        if isinstance(encoder_outputs, GenextEncoderOutput):
            return encoder_outputs
        # Somebody else's output carries no mask of its own: without a bottleneck the input's is right.
        memory_mask = attention_mask if self.config.bottleneck.kind in SLOT_FOR_EACH_STATE and self.encoder.reads_text else None
        return GenextEncoderOutput(last_hidden_state=encoder_outputs[0], memory_mask=memory_mask)

    # Generation

    def find_stepping_obstacle(self) -> str | None:
        """Why the decoder cannot be stepped as [`start_steps`] does, the end of a sentence with "because"; or `None`."""
        if self.head is None:
            return "the decoder is a language model and not the native one"
        return find_stepping_obstacle(self.decoder, self.head.projection)

    def encode_for_steps(self, inputs: Mapping[str, torch.Tensor]) -> GenextEncoderOutput | None:
        """The memory that `generate` would hand to a loop of steps.

        Args:
            inputs: Tensors as `generate` takes them.

        Returns:
            As the encoder gives it; `None` where `generate` does more than encode them.
        """
        does_more = self.changes_generation() or self.encoder.has_latents
        if does_more or not inputs.keys() <= {*self.encoder.conditioner.input_names}:
            return None
        return self.encoder(**inputs, return_dict=True)

    def changes_generation(self) -> bool:
        """Whether somebody's class, or something put into this model, may generate otherwise than this class does."""
        return type(self) is not GenextForConditionalGeneration or not _GENERATION.isdisjoint(vars(self))

    def start_steps(
        self,
        encoder_outputs: GenextEncoderOutput | BaseModelOutput | tuple[torch.Tensor, ...],
        attention_mask: torch.Tensor | None = None,
        num_outputs: int = 1,
        *,
        is_checked: bool = False,
    ) -> GenextStepper:
        """Begin to decode one token at a time, with nothing computed twice.

        Args:
            encoder_outputs: As `forward` takes them, one row for each condition.
            attention_mask: As `forward` takes it; needed beside the output of somebody else's encoder.
            num_outputs: Outputs of each condition, whose rows stand beside each other.
            is_checked: Whether [`find_stepping_obstacle`] has just found nothing.

        Returns:
            An object whose `step(tokens)` turns ids (rows,) into logits (rows, vocab), and whose `select(rows, memories)` goes
            on with some of the rows.

        Raises:
            ValueError: if there is an obstacle.
        """
        obstacle = None if is_checked else self.find_stepping_obstacle()
        if obstacle is not None:
            raise ValueError(f"This model cannot be decoded step by step, because {obstacle}. Use generate.")
        outputs = self._take_encoder_outputs(encoder_outputs, attention_mask)
        return GenextStepper(
            self.decoder, self.head.projection.weight, outputs.last_hidden_state, outputs.memory_mask, num_outputs
        )

    def _prepare_model_inputs(
        self, inputs: torch.Tensor | None, bos_token_id: torch.Tensor | None, model_kwargs: dict[str, Any]
    ) -> tuple[torch.Tensor, str | None, dict[str, Any]]:
        """Find the condition by whatever name it is given, and make rows where there is none."""
        if model_kwargs.get("encoder_outputs") is not None:
            return super()._prepare_model_inputs(inputs, bos_token_id, model_kwargs)
        num_samples = model_kwargs.pop("num_samples", None)
        given = [name for name in CONDITION_INPUTS if model_kwargs.get(name) is not None]
        if inputs is not None:
            name = self.encoder.main_input_name
            if name in given:
                raise ValueError(f"The condition is given twice, as the first argument and as {name}=; give it once.")
            return inputs, name, model_kwargs
        if given:
            return model_kwargs.pop(given[0]), given[0], model_kwargs
        states = model_kwargs.get("condition_states")
        if torch.is_tensor(states):
            return model_kwargs.pop("condition_states"), "condition_states", model_kwargs
        if (rows := count_conditions({"condition_states": states})) is not None:
            # Those that have states are given, and no other ones.
            given_all = torch.ones(rows, self.encoder.num_conditions, dtype=torch.long, device=self.device)
            return given_all, "condition_mask", model_kwargs
        if not self.encoder.can_be_unconditional:
            raise ValueError(f"Give a condition: {', '.join(self.encoder.conditioner.input_names)}.")
        shape = (1 if num_samples is None else num_samples, self.encoder.num_conditions)
        return torch.zeros(shape, dtype=torch.long, device=self.device), "condition_mask", model_kwargs

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], generation_mode: Any, batch_size: int, max_cache_length: int
    ) -> Any:
        """Make room for a memory that stands before the tokens."""
        if self._decodes_from_prefix:
            max_cache_length += model_kwargs["encoder_outputs"].last_hidden_state.shape[1]
        return super()._prepare_cache_for_generation(
            generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
        )

    def create_masks_for_generate(self, *, attention_mask: torch.Tensor | None, **kwargs: Any) -> Any:
        """Masks of a preallocated cache; a decoder that reads a prefix makes its own, which has the memory in it."""
        if self._decodes_from_prefix:
            return attention_mask
        return create_masks_for_generate(attention_mask=attention_mask, **kwargs)

    @property
    def _decodes_from_prefix(self) -> bool:
        return getattr(self.decoder, "style", None) == "prefix"

    # Composition

    @classmethod
    def from_encoder_decoder_pretrained(
        cls,
        encoder: Part | Mapping[str, Part] | None = None,
        decoder: str | os.PathLike[str] | PreTrainedModel | PreTrainedConfig | None = None,
        *,
        bottleneck: str | dict[str, Any] | PreTrainedConfig | None = None,
        num_latents: int | None = None,
        freeze_encoder: bool = False,
        tune_encoder_from_layer: int | None = None,
        condition_dropout: float | None = None,
        cross_attention: bool | None = None,
        dtype: torch.dtype | str | None = None,
        device_map: Any = None,
        quantization_config: Any = None,
        **config: Any,
    ) -> Self:
        """Join an encoder and a decoder that each exist already, with a bottleneck between them.

        Args:
            encoder: A Hub id, a folder, a model, or a configuration (then it starts at random) of anything that gives hidden
                states, or of a native conditioner. A dictionary of such fuses several conditions. Left out, the model is given
                nothing. Of a sequence-to-sequence model the encoder is taken.
            decoder: A Hub id, a folder, a model or a configuration of a causal language model, or of a sequence-to-sequence
                model, whose decoder is taken, one of this package's too, with its head; or a [`GenextDecoderConfig`].
            bottleneck: `"none"`, `"pooled"`, or a [`GenextBottleneckConfig`] or its fields; left out, `"pooled"` where
                `num_latents` is given, else `"none"`.
            num_latents: Slots of a pooled memory.
            freeze_encoder: See [`GenextConfig`].
            tune_encoder_from_layer: See [`GenextConfig`].
            condition_dropout: In training, the share of rows in which a condition is taken away. With a number, even 0, a
                single condition may be missing too.
            cross_attention: Whether the decoder reads the memory by cross-attention; left out, where it can. `False` puts the
                memory before its tokens.
            dtype: Kind of number of all parts, as `from_pretrained` takes it.
            device_map: Where the parts go, as `from_pretrained` takes it; fresh parts stand beside the decoder.
            quantization_config: Quantisation of the decoder.
            config: More fields of [`GenextConfig`], such as `decoder_start_token_id`.

        Returns:
            The model in evaluation mode. A language model starts undisturbed where its cross-attention is fresh: the output
            projections of that begin as zero.

        Raises:
            ValueError: for a decoder that is no language model, or parts that do not fit.
            TypeError: for an encoder or a decoder of another kind.

        Example:
            >>> import torch
            >>> from transformers import BertConfig, GPT2Config
            >>> from hf_genext import GenextForConditionalGeneration
            >>> model = GenextForConditionalGeneration.from_encoder_decoder_pretrained(
            ...     encoder=BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2),
            ...     decoder=GPT2Config(vocab_size=30, n_embd=24, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2),
            ...     num_latents=4,
            ... )
            >>> model.encode(input_ids=torch.tensor([[5, 6, 7]])).shape
            torch.Size([1, 4, 24])
        """
        return compose(
            cls,
            encoder,
            decoder,
            bottleneck=bottleneck,
            num_latents=num_latents,
            condition_dropout=condition_dropout,
            cross_attention=cross_attention,
            loading={"dtype": dtype, "device_map": device_map},
            quantization_config=quantization_config,
            config={"freeze_encoder": freeze_encoder, "tune_encoder_from_layer": tune_encoder_from_layer, **config},
        )


def _repeat_rows(rows: torch.Tensor, count: int) -> torch.Tensor:
    if count % rows.shape[0]:
        raise ValueError(
            f"Each condition needs the same number of targets, got {rows.shape[0]} conditions and {count} targets. Give the "
            "targets of one condition beside each other."
        )
    return rows.repeat_interleave(count // rows.shape[0], dim=0)


__all__ = ["GenextForConditionalGeneration", "GenextModel"]

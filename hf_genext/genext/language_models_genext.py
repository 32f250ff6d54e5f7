"""Decoders that wrap a language model of Transformers', which keeps its own head.

Legend: batch, slots (memory positions), target (output positions), seen (tokens in the cache), hidden, vocab.
"""

from __future__ import annotations

import inspect
import re
from typing import Any, Literal

import torch
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutputWithCrossAttentions
from transformers.modeling_utils import slice_logits_to_keep

from .configuration_genext import GenextConfig
from .pretrained_genext import GenextPreTrainedModel

ReadingStyle = Literal["cross_attention", "prefix", "seq2seq"]
"""How a language model reads the memory: by its own cross-attention, as leading embeddings, or as its encoder's output."""

_CROSS_ATTENTION = re.compile(
    r"(^|\.)(crossattention|cross_attention|cross_attn|encoder_attn|multi_head_attention_cross)(\.|$)"
)
_OUTPUT_PROJECTIONS = ("c_proj", "o_proj", "out_proj", "dense")


class GenextLanguageModelDecoder(GenextPreTrainedModel):
    """A causal language model, or the decoder half of a sequence-to-sequence model, that reads a memory.

    With cross-attention of its own it reads the memory there; a memory of another width is projected. Without it the memory
    stands before the tokens as embeddings (prefix-tuning's input, Li and Liang 2021): padded slots are moved to the far left,
    so that masks, positions and sliding windows are those of the real slots alone.

    Args:
        config: The language model's configuration.
        memory_size: Width of the memory.
        model: The language model; built from the configuration, with random weights, if left out.
    """

    def __init__(self, config: PreTrainedConfig, memory_size: int, model: PreTrainedModel | None = None) -> None:
        model = build_language_model(config) if model is None else model
        super().__init__(model.config)
        self.language_model = model
        self.style = find_reading_style(model)
        if self.style == "seq2seq":
            drop_encoder(model)
        count_layers_of_the_decoder(model.config)
        self.accepted = set(inspect.signature(model.forward).parameters)
        self._first_position = find_first_position(model)
        size = self._get_memory_size()
        self.memory_projection = nn.Identity() if size == memory_size else nn.Linear(memory_size, size)
        self.post_init()

    def _get_memory_size(self) -> int:
        if self.style == "prefix":
            return self.get_input_embeddings().weight.shape[-1]
        return self.language_model.config.hidden_size

    def get_input_embeddings(self) -> nn.Module:
        """The embedding of the target tokens."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embedding of the target tokens."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The language model's own head."""
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the language model's head."""
        self.language_model.set_output_embeddings(new_embeddings)

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        memory: torch.FloatTensor | None = None,
        memory_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithCrossAttentions:
        """Run the language model over the tokens so far.

        Args:
            input_ids: Target tokens, (batch, target).
            attention_mask: 1 where a token is real, (batch, seen + target).
            position_ids: (batch or 1, target), counted without the memory.
            inputs_embeds: Instead of `input_ids`, (batch, target, hidden).
            memory: (batch, slots, memory hidden).
            memory_mask: 1 where a slot is real, (batch, slots).
            past_key_values: Keys and values of what was seen.
            use_cache: Whether to return a cache (never while training).
            logits_to_keep: Compute logits for the last so many positions only, or for the positions given; 0 for all.
            kwargs: `output_attentions` and `output_hidden_states`.

        Returns:
            Logits (batch, target, vocab), the cache, and on request every layer's states and attention weights.

        Raises:
            ValueError: unless `memory` and exactly one of `input_ids` and `inputs_embeds` are given.
        """
        if (input_ids is None) == (inputs_embeds is None):
            given = "neither" if input_ids is None else "both"
            raise ValueError(f"Give either the target tokens or their embeddings; got {given}.")
        if memory is None:
            raise ValueError("The decoder needs a memory; give encoder_outputs, or the inputs of the encoder.")
        arguments: dict[str, Any] = {"use_cache": False if self.training else use_cache, "return_dict": True}
        arguments |= {name: kwargs[name] for name in ("output_attentions", "output_hidden_states") if name in kwargs}
        tokens = {"input_ids": input_ids, "inputs_embeds": inputs_embeds}
        if self.style == "prefix":
            return self._read_as_prefix(
                tokens, attention_mask, position_ids, memory, memory_mask, past_key_values, logits_to_keep, arguments
            )
        memory = self._project(memory, past_key_values)
        if self.style == "seq2seq":
            outputs = self.language_model(
                encoder_outputs=BaseModelOutput(last_hidden_state=memory),
                attention_mask=memory_mask,
                decoder_attention_mask=attention_mask,
                past_key_values=past_key_values,
                **{f"decoder_{name}": value for name, value in tokens.items()},
                **arguments,
            )
            return CausalLMOutputWithCrossAttentions(
                logits=slice_logits_to_keep(outputs.logits, logits_to_keep),
                past_key_values=outputs.past_key_values,
                hidden_states=outputs.decoder_hidden_states,
                attentions=outputs.decoder_attentions,
                cross_attentions=outputs.cross_attentions,
            )
        if position_ids is None:
            position_ids = self._count_positions(
                input_ids if inputs_embeds is None else inputs_embeds, attention_mask, past_key_values
            )
        return self._call(
            logits_to_keep,
            **tokens,
            attention_mask=attention_mask,
            position_ids=position_ids,
            encoder_hidden_states=memory,
            encoder_attention_mask=memory_mask,
            past_key_values=past_key_values,
            **arguments,
        )

    def _count_positions(
        self, tokens: torch.Tensor, attention_mask: torch.Tensor | None, past_key_values: Cache | None
    ) -> torch.Tensor | None:
        """Positions that leave out padding; `None` where the model counts them as well by itself."""
        count = tokens.shape[1]
        if attention_mask is not None and attention_mask.dim() == 2:
            return (attention_mask.long().cumsum(dim=-1) - 1).clamp(min=0)[:, -count:] + self._first_position
        if not self._first_position:
            return None
        # Models that begin behind their padding position would leave out padding tokens that were generated.
        seen = past_key_values.get_seq_length() if past_key_values is not None else 0
        return (torch.arange(count, device=tokens.device) + seen)[None] + self._first_position

    def _project(self, memory: torch.Tensor, past_key_values: Cache | None) -> torch.Tensor:
        """The memory in the language model's width; only its shape where keys and values are cached already."""
        is_read = past_key_values.is_updated if isinstance(past_key_values, EncoderDecoderCache) else {}
        if is_read and all(is_read.values()):
            return memory.new_zeros(1).expand(*memory.shape[:2], self._get_memory_size())
        return self.memory_projection(memory)

    def _call(self, logits_to_keep: int | torch.Tensor, **arguments: Any) -> CausalLMOutputWithCrossAttentions:
        if arguments.get("position_ids") is None or "position_ids" not in self.accepted:
            arguments.pop("position_ids", None)
        if "logits_to_keep" in self.accepted:
            return self.language_model(logits_to_keep=logits_to_keep, **arguments)
        outputs = self.language_model(**arguments)
        outputs.logits = slice_logits_to_keep(outputs.logits, logits_to_keep)
        return outputs

    def _read_as_prefix(
        self,
        tokens: dict[str, torch.Tensor | None],
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        memory: torch.Tensor,
        memory_mask: torch.Tensor | None,
        past_key_values: Cache | None,
        logits_to_keep: int | torch.Tensor,
        arguments: dict[str, Any],
    ) -> CausalLMOutputWithCrossAttentions:
        cache = past_key_values.self_attention_cache if isinstance(past_key_values, EncoderDecoderCache) else past_key_values
        cached = int(cache.get_seq_length()) if cache is not None else 0
        embeddings = tokens["inputs_embeds"]
        if embeddings is None:
            embeddings = self.get_input_embeddings()(tokens["input_ids"])
        batch_size, slots = memory.shape[:2]
        count, seen = embeddings.shape[1], max(0, cached - slots)
        if memory_mask is not None:
            order = memory_mask.argsort(dim=1, stable=True)
            memory_mask = memory_mask.gather(1, order)
        leading = 0 if cached else slots
        if leading:
            prefix = self.memory_projection(memory)
            if memory_mask is not None:
                prefix = prefix.gather(1, order[:, :, None].expand_as(prefix))
            embeddings = torch.cat([prefix.to(embeddings.dtype), embeddings], dim=1)
        if memory_mask is None and attention_mask is None:
            mask = None
            positions = torch.arange(cached, cached + embeddings.shape[1], device=embeddings.device)[None]
        else:
            real = torch.ones(batch_size, slots + seen + count, dtype=torch.long, device=embeddings.device)
            if memory_mask is not None:
                real[:, :slots] = memory_mask
            if attention_mask is not None:
                real[:, slots:] = attention_mask
            mask = real
            positions = (real.cumsum(dim=-1) - 1).clamp(min=0)[:, -embeddings.shape[1] :]
        if position_ids is not None:
            offset = slots if memory_mask is None else memory_mask.sum(dim=1, keepdim=True)
            positions = torch.cat([positions.expand(batch_size, -1)[:, :leading], position_ids + offset], dim=1)
        # Logits of the memory's own positions are nobody's.
        if leading and torch.is_tensor(logits_to_keep):
            logits_to_keep = logits_to_keep + leading
        elif leading and not logits_to_keep:
            logits_to_keep = count
        outputs = self._call(
            logits_to_keep,
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            **arguments,
        )
        states = outputs.get("hidden_states")
        return CausalLMOutputWithCrossAttentions(
            logits=outputs.logits,
            past_key_values=past_key_values if past_key_values is not None else outputs.get("past_key_values"),
            hidden_states=None if states is None else tuple(layer[:, leading:] for layer in states),
            attentions=outputs.get("attentions"),
        )


def find_reading_style(model: PreTrainedModel) -> ReadingStyle:
    """How a language model can read a memory.

    Raises:
        ValueError: if it can in no way.
    """
    accepted = inspect.signature(model.forward).parameters
    if "encoder_outputs" in accepted and "decoder_input_ids" in accepted:
        return "seq2seq"
    if "encoder_hidden_states" in accepted and any(_CROSS_ATTENTION.search(name) for name, _ in model.named_modules()):
        return "cross_attention"
    needed = ("inputs_embeds", "attention_mask", "past_key_values")
    missing = [name for name in needed if name not in accepted]
    if missing or "encoder_outputs" in accepted:
        reason = f"its forward takes no {missing[0]}" if missing else "it masks no memory"
        raise ValueError(
            f"{type(model).__name__} cannot read a memory: it has no cross-attention for one, and {reason}, so one cannot "
            "stand before its tokens either. Choose a model of the kinds of GPT-2, Llama, Qwen or OPT."
        )
    return "prefix"


def find_first_position(model: PreTrainedModel) -> int:
    """The number of the first position, which stands behind that of padding in RoBERTa's kind of models."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return module.padding_idx + 1
    return 0


def build_language_model(config: PreTrainedConfig) -> PreTrainedModel:
    """A language model with random weights, its cross-attention closed.

    Raises:
        ValueError: if the configuration describes no language model.
    """
    require_language_model(config)
    model = choose_opener(config).from_config(config)
    close_cross_attention(model)
    return model


def choose_opener(config: PreTrainedConfig) -> type[AutoModelForCausalLM] | type[AutoModelForSeq2SeqLM]:
    """The Auto class of a language model: of one that is both, whole models are opened as such, halves as causal ones."""
    is_whole = type(config) in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING and config.is_encoder_decoder
    return AutoModelForSeq2SeqLM if is_whole else AutoModelForCausalLM


def require_language_model(config: PreTrainedConfig, given: str | None = None) -> None:
    """Raise unless a configuration describes something that generates tokens.

    Raises:
        ValueError: saying what can decode.
    """
    known = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or type(config) in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING
    if not known or isinstance(config, GenextConfig):
        raise ValueError(
            f"{given or type(config).__name__} (model type {config.model_type!r}) is no causal language model, so it cannot "
            "decode. Give one that AutoModelForCausalLM opens (GPT-2, Llama, Qwen, OPT, ...), a sequence-to-sequence model, "
            "whose decoder is taken, or a GenextDecoderConfig for a native decoder."
        )


@torch.no_grad()
def close_cross_attention(model: PreTrainedModel, only: set[str] | None = None) -> list[str]:
    """Set the output projections of cross-attention to zero, so that the language model starts undisturbed.

    Args:
        model: The language model.
        only: Names of parameters that are fresh; left out, all are.

    Returns:
        Names of the parameters that are zero now.
    """
    closed = []
    for name, parameter in model.named_parameters():
        is_projection = any(part in _OUTPUT_PROJECTIONS for part in name.split("."))
        if _CROSS_ATTENTION.search(name) and is_projection and (only is None or name in only):
            parameter.zero_()
            closed.append(name)
    return closed


def count_layers_of_the_decoder(config: PreTrainedConfig) -> None:
    """Have a sequence-to-sequence configuration count the decoder's layers alone.

    The encoder is not there, but Transformers makes a cache with as many layers as the encoder has.
    """
    for theirs, ours in (("encoder_layers", "decoder_layers"), ("num_layers", "num_decoder_layers")):
        if hasattr(config, theirs) and hasattr(config, ours):
            setattr(config, theirs, getattr(config, ours))


class _NoEncoder(nn.Module):
    """Stands where a sequence-to-sequence model had its encoder, and takes no embedding for it.

    Args:
        embedding: The decoder's, which some models ask their encoder for.
    """

    def __init__(self, embedding: nn.Module) -> None:
        super().__init__()
        self.set_input_embeddings(embedding)

    def get_input_embeddings(self) -> nn.Module:
        """The decoder's, or what was set last."""
        return self.__dict__["_embedding"]

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Nothing here embeds; it is kept for whoever asks, and no part of this."""
        self.__dict__["_embedding"] = value

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "embed_tokens":
            super().__setattr__(name, value)


def drop_encoder(model: PreTrainedModel) -> None:
    """Take the encoder out of a sequence-to-sequence language model, and its weights out of those that are tied."""
    encoder = model.get_encoder()
    path = next(name for name, module in model.named_modules() if module is encoder)
    model.set_submodule(path, _NoEncoder(model.get_decoder().get_input_embeddings()))
    for name, module in model.named_modules():
        if not isinstance(module, PreTrainedModel):
            continue
        below = path.removeprefix(f"{name}.") if name else path
        for attribute in ("_tied_weights_keys", "all_tied_weights_keys"):
            if isinstance(tied := getattr(module, attribute, None), dict):
                kept = {target: source for target, source in tied.items() if not target.startswith(f"{below}.")}
                setattr(module, attribute, kept)


__all__ = [
    "GenextLanguageModelDecoder",
    "build_language_model",
    "choose_opener",
    "close_cross_attention",
    "drop_encoder",
    "find_first_position",
    "find_reading_style",
    "require_language_model",
]

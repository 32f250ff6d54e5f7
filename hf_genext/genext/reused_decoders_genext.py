"""The decoder of a conditional model that was trained before, as the start of another's."""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from .configuration_genext import GenextConfig, GenextDecoderConfig

logger = logging.getLogger(__name__)


def take_decoder_config(source: PreTrainedModel) -> GenextDecoderConfig:
    """The configuration of a model's native decoder, for a memory of any width."""
    config = copy.deepcopy(source.config.decoder)
    config.cross_attention_hidden_size = None
    return config


def take_fields(source: PreTrainedModel, given: dict[str, Any]) -> dict[str, Any]:
    """Fields of a whole configuration that belong to its decoder, with those that are given.

    Raises:
        ValueError: for a model with an adapter; if the embedding would be shared with the head where it was not, or the other
            way round.
    """
    if getattr(source, "_hf_peft_config_loaded", False):
        raise ValueError("The model whose decoder is to be taken has an adapter. Merge it into the model, and save that first.")
    is_tied = source.config.tie_word_embeddings
    if given.get("tie_word_embeddings", is_tied) != is_tied:
        raise ValueError(
            f"The decoder was trained with tie_word_embeddings={is_tied}, got {not is_tied}. Leave it out, or say the same."
        )
    ids = {"decoder_start_token_id": source.config.decoder_start_token_id}
    return {**ids, **given, "tie_word_embeddings": is_tied}


def take_generation_config(source: PreTrainedModel) -> GenerationConfig:
    """How long outputs may be; what else the source is saved with belongs to its own task."""
    own = source.generation_config
    return GenerationConfig(max_length=own.max_length, max_new_tokens=own.max_new_tokens)


@torch.no_grad()
def copy_decoder(source: PreTrainedModel, composed: PreTrainedModel) -> None:
    """Copy decoder and token head; what reads a memory of another width stays as it is.

    Args:
        source: The trained model.
        composed: The new one, whose decoder [`take_decoder_config`] describes.
    """
    trained = source.state_dict()
    kept = []
    for name, parameter in composed.named_parameters():
        if not name.startswith(("decoder.", "head.")):
            continue
        if trained[name].shape == parameter.shape:
            parameter.copy_(trained[name])
        else:
            kept.append(name)
    if kept:
        logger.warning(
            "The memory has another width than the one that the decoder has read, so what reads it starts anew: %s.",
            ", ".join(kept),
        )


def is_conditional(config: Any) -> bool:
    """Whether a configuration is that of a conditional model of this package, with a sequence output."""
    return isinstance(config, GenextConfig) and config.head is None


__all__ = ["copy_decoder", "is_conditional", "take_decoder_config", "take_fields", "take_generation_config"]

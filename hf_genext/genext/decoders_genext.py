"""Decoders: each turns a memory and the tokens so far into states."""

from __future__ import annotations

from transformers import PreTrainedConfig, PreTrainedModel

from .configuration_genext import GenextDecoderConfig
from .language_models_genext import GenextLanguageModelDecoder
from .native_decoders_genext import GenextDecoder


def build_decoder(
    config: PreTrainedConfig, memory_size: int, model: PreTrainedModel | None = None
) -> GenextDecoder | GenextLanguageModelDecoder:
    """Build the decoder that a configuration describes.

    Args:
        config: The native decoder's, or that of a language model.
        memory_size: Width of the memory.
        model: A language model that is there already.

    Returns:
        The decoder.

    Raises:
        ValueError: for a configuration that describes no decoder.
    """
    if isinstance(config, GenextDecoderConfig):
        return GenextDecoder(config)
    return GenextLanguageModelDecoder(config, memory_size, model)


__all__ = ["GenextDecoder", "build_decoder"]

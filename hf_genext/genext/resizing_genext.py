"""Resizing the vocabulary of one side, whichever kind of part has it."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from .conditioners_genext import GenextFusionConditioner
from .language_models_genext import GenextLanguageModelDecoder
from .pretrained_conditioners_genext import GenextPretrainedConditioner


def resize_part(
    part: PreTrainedModel, new_num_tokens: int | None, pad_to_multiple_of: int | None, mean_resizing: bool
) -> nn.Embedding:
    """Resize the embedding of a part, and the head where it is the part's own.

    Args:
        part: A conditioner or a decoder.
        new_num_tokens: The new number of tokens.
        pad_to_multiple_of: Round it up to a multiple.
        mean_resizing: Whether new rows start around the mean of the old ones.

    Returns:
        The resized embedding.

    Raises:
        ValueError: for a part that reads no tokens.
    """
    if isinstance(part, GenextFusionConditioner):
        part = part.get_text_conditioner()
    if isinstance(part, GenextLanguageModelDecoder):
        return part.language_model.resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
    if isinstance(part, GenextPretrainedConditioner) and part.is_text:
        return part.model.resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
    if not hasattr(part, "embed_tokens"):
        raise ValueError(f"{type(part).__name__} reads no tokens, so it has no vocabulary to resize.")
    old = part.get_input_embeddings()
    new = part._get_resized_embeddings(old, new_num_tokens, pad_to_multiple_of, mean_resizing)
    new.requires_grad_(old.weight.requires_grad)
    part.set_input_embeddings(new)
    part.config.vocab_size = new.num_embeddings
    return new


__all__ = ["resize_part"]

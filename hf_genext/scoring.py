"""How likely a model finds given outputs: one pass over all positions at once.

Legend: batch, returned (outputs of each condition), target (output positions), vocab.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


@torch.no_grad()
def score_tokens(
    model: PreTrainedModel,
    inputs: dict[str, Any],
    decoder_input_ids: torch.LongTensor,
    labels: torch.LongTensor,
) -> torch.FloatTensor:
    """The log-probability of each given token, in nats: the model's own, whatever a search would do to it.

    Args:
        model: Any encoder-decoder.
        inputs: The encoder's inputs for a batch, or its `encoder_outputs` with `attention_mask`.
        decoder_input_ids: (batch * returned, target), the outputs of one condition beside each other.
        labels: The token that follows each of them, likewise; -100 where none is asked for.

    Returns:
        (batch * returned, target), 0 where none is asked for.
    """
    if "encoder_outputs" not in inputs:
        inputs = encode(model, inputs)
    batch_size = inputs["encoder_outputs"][0].shape[0]
    if len(decoder_input_ids) != batch_size:
        repeats = len(decoder_input_ids) // batch_size
        inputs = take_rows(inputs, torch.arange(batch_size, device=labels.device).repeat_interleave(repeats))
    logits = model(**inputs, decoder_input_ids=decoder_input_ids, use_cache=False).logits
    losses = nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none")
    return -losses.view(labels.shape)


@torch.no_grad()
def encode(model: PreTrainedModel, inputs: dict[str, Any]) -> dict[str, Any]:
    """Run the encoder alone: its inputs -> `encoder_outputs`, and what the decoder needs besides."""
    outputs = model.get_encoder()(**inputs, return_dict=True)
    return {"encoder_outputs": outputs, **{name: inputs[name] for name in ("attention_mask",) if name in inputs}}


def take_rows(inputs: dict[str, Any], rows: torch.LongTensor) -> dict[str, Any]:
    """Some rows of an encoder's output, and of what goes with it: (batch, ...) -> (rows, ...)."""

    def take(value: Any) -> Any:
        if torch.is_tensor(value):
            return value[rows] if value.dim() else value
        if hasattr(value, "to_tuple"):
            return type(value)(**{name: take(part) for name, part in value.items()})
        return tuple(take(part) for part in value) if isinstance(value, tuple) else value

    return {name: take(value) for name, value in inputs.items()}


def label_generated(
    sequences: torch.LongTensor, prompt_length: int, end_ids: list[int], pad_id: int | None
) -> torch.LongTensor:
    """Labels for what a search wrote: the tokens behind the prompt up to the end token, which is one of them.

    Args:
        sequences: (rows, target), from the start token on.
        prompt_length: Tokens that were there before.
        end_ids: Tokens that end an output.
        pad_id: What follows the end; a row that was cut has it nowhere.

    Returns:
        (rows, target - 1): the token that follows each position, -100 in the prompt and behind the end.
    """
    labels = sequences[:, 1:].clone()
    positions = torch.arange(1, sequences.shape[1], device=sequences.device)
    is_written = (positions >= prompt_length).expand_as(labels)
    is_end = torch.isin(labels, torch.tensor(end_ids, dtype=labels.dtype, device=labels.device)) & is_written
    ended_before = is_end.cumsum(dim=1) - is_end.long() > 0
    is_padding = torch.zeros_like(is_end) if pad_id is None or pad_id in end_ids else labels == pad_id
    return labels.masked_fill(~is_written | ended_before | is_padding, -100)


__all__ = ["encode", "label_generated", "score_tokens", "take_rows"]

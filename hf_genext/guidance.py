"""Guidance: away from what a model writes without its condition, in one pass over a batch twice as large.

Legend: batch, slots (memory positions), hidden, rows (of the doubled batch and its beams), vocab.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import LogitsProcessor, PreTrainedModel


class GuidedScores(LogitsProcessor):
    """Mixes the log-probabilities of a row with its condition and of its twin without.

    Each row gets null + scale * (conditional - null) (Ho and Salimans 2022, "Classifier-free diffusion guidance"; Sanchez et
    al. 2023 for text), and so does its twin, so that both write the same.

    Args:
        scale: 1 leaves the conditional model as it is, 0 is the one without condition; above 1 the condition counts for more.
    """

    def __init__(self, scale: float) -> None:
        self._scale = scale

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Scores (rows, vocab), the rows with their condition in the first half, their twins in the second."""
        conditional, null = nn.functional.log_softmax(scores.float(), dim=-1).chunk(2)
        mixed = null + self._scale * (conditional - null)
        mixed = mixed.masked_fill((conditional == -torch.inf) | (null == -torch.inf), -torch.inf)
        return torch.cat([mixed, mixed])


def double_memory(model: PreTrainedModel, conditions: dict[str, torch.Tensor]) -> Any:
    """Encode conditions, and below them as many rows without any.

    Args:
        model: A conditional model that was trained with condition dropout.
        conditions: The encoder's inputs.

    Returns:
        The encoder's output with a memory (2 * batch, slots, hidden) and its mask.

    Raises:
        ValueError: if the model never met rows without their condition in training.
    """
    encoder: Any = model.get_encoder() if hasattr(model, "get_encoder") else None
    dropout = getattr(getattr(model.config, "conditioner", None), "condition_dropout", 0.0)
    if not dropout or not getattr(encoder, "can_be_unconditional", False):
        raise ValueError(
            f"guidance_scale= needs a model that was trained with some of its conditions taken away; this "
            f"{type(model).__name__} was not. Train it with condition_dropout= (0.1, for example), or leave guidance_scale out."
        )
    outputs = encoder(**conditions)
    memory = outputs.last_hidden_state
    mask = torch.ones(memory.shape[:2], dtype=torch.long, device=memory.device)
    mask = mask if outputs.memory_mask is None else outputs.memory_mask
    null = encoder(condition_mask=torch.zeros(len(memory), encoder.num_conditions, dtype=torch.long, device=memory.device))
    if getattr(encoder, "has_latents", False):
        # Both write from the same latent numbers, and differ in their conditions alone.
        null.last_hidden_state, null.memory_mask = encoder.bottleneck.write(outputs.latents.values, null.latents)
    null_mask = mask.new_ones(null.last_hidden_state.shape[:2]) if null.memory_mask is None else null.memory_mask
    slots = max(memory.shape[1], null.last_hidden_state.shape[1])
    pairs = ((memory, mask), (null.last_hidden_state, null_mask))
    return type(outputs)(
        last_hidden_state=torch.cat([nn.functional.pad(states, (0, 0, 0, slots - states.shape[1])) for states, _ in pairs]),
        memory_mask=torch.cat([nn.functional.pad(known, (0, slots - known.shape[1])) for _, known in pairs]),
    )


__all__ = ["GuidedScores", "double_memory"]

"""Guidance: memories of conditions, and below them as many of none, so that one pass says what both would write.

Legend: batch, slots (memory positions), hidden.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


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
    encoder: Any = getattr(model, "encoder", None)
    dropout = getattr(getattr(model.config, "conditioner", None), "condition_dropout", 0.0)
    if not dropout or not getattr(encoder, "can_be_unconditional", False):
        if not getattr(encoder, "num_contexts", 1):
            raise ValueError("guidance_scale= strengthens a condition, and this model has none; leave it out.")
        raise ValueError(
            f"guidance_scale= needs a model that was trained with some of its conditions taken away; this "
            f"{type(model).__name__} was not. Train it with condition_dropout= (0.1, for example), or leave guidance_scale out."
        )
    outputs = encoder(**conditions)
    memory = outputs.last_hidden_state
    mask = torch.ones(memory.shape[:2], dtype=torch.long, device=memory.device)
    mask = mask if outputs.memory_mask is None else outputs.memory_mask
    nothing = torch.zeros(len(memory), encoder.num_conditions, dtype=torch.long, device=memory.device)
    own = {"sample_latents": False} if getattr(encoder, "has_latents", False) else {}
    null = encoder(condition_mask=nothing, **own)
    if own:
        # Both write from the same latent numbers, and differ in their conditions alone.
        null.last_hidden_state, null.memory_mask = encoder.bottleneck.write(outputs.latents.values, null.latents)
    null_mask = mask.new_ones(null.last_hidden_state.shape[:2]) if null.memory_mask is None else null.memory_mask
    slots = max(memory.shape[1], null.last_hidden_state.shape[1])
    pairs = ((memory, mask), (null.last_hidden_state, null_mask))
    return type(outputs)(
        last_hidden_state=torch.cat([nn.functional.pad(states, (0, 0, 0, slots - states.shape[1])) for states, _ in pairs]),
        memory_mask=torch.cat([nn.functional.pad(known, (0, slots - known.shape[1])) for _, known in pairs]),
    )


def check_guidance_scale(scale: object) -> float:
    """A scale of guidance as a number.

    Raises:
        ValueError: unless it is a finite number of 0 or more.
    """
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0.0 <= scale < math.inf:
        raise ValueError(f"guidance_scale must be a finite number of 0 or more, got {scale!r}.")
    return float(scale)


__all__ = ["check_guidance_scale", "double_memory"]

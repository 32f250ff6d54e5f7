"""Latent numbers in a pipeline: drawn by a row's seed, as many for each condition as outputs are asked for, and scored without.

Legend: rows (of a batch), returned (outputs of each condition).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from .fast_decoding import get_setting
from .genext.latents_genext import repeat_conditions
from .genext.seeding_genext import make_keys

_CONDITION_OF_OUTPUT = {"input_ids": "text", "condition_vectors": "vector", "pixel_values": "image"}
"""What a target is called as a condition, by the input that a posterior reads."""

_LARGEST_SEED = 2**63 - 1


def has_latents(model: PreTrainedModel) -> bool:
    """Whether a model makes its memory of latent numbers."""
    return bool(getattr(getattr(model, "encoder", None), "has_latents", False))


def draw_latents(
    model: Any,
    inputs: dict[str, Any],
    seeds: Sequence[tuple[int, int]] | None,
    *,
    num_returned: int = 1,
    temperature: float = 1.0,
    sample: bool = False,
) -> tuple[dict[str, Any], list[tuple[int, int]] | None]:
    """A batch's inputs with the noise of its latent numbers, each row as often as outputs are asked for.

    Args:
        model: A model with latent numbers.
        inputs: Of a batch.
        seeds: For each row a seed and its place.
        num_returned: Outputs of each condition, each from latent numbers of its own.
        temperature: Factor of the standard deviations; 0 takes the middle of the prior.
        sample: Whether what is encoded is drawn too, or its mean taken.

    Returns:
        The inputs, and a seed and place for each of the rows that these have become.
    """
    num_rows = len(next(iter(inputs.values())))
    noise = model.draw_latent_noise(num_rows, seeds, temperature=temperature, num_samples=num_returned)
    inputs = {**repeat_conditions(inputs, num_returned), "latent_noise": noise}
    if sample or temperature == 0.0:
        inputs["sample_latents"] = temperature > 0.0
    if seeds is None:
        return inputs, None
    # Of a single output too, so that it is the first of several.
    return inputs, [(key & _LARGEST_SEED, 0) for key in make_keys(seeds, num_returned).tolist()]


def add_target(
    model: Any, condition: dict[str, Any], target: Any, read_numbers: Callable[[Any], torch.Tensor]
) -> dict[str, Any]:
    """A condition with the target as what the posterior reads, unless that is among the conditions already.

    Args:
        model: A model with latent numbers.
        condition: As a dictionary.
        target: As it was given.
        read_numbers: Makes a vector of a target, where that is what the posterior reads.
    """
    conditioner, chosen = model.encoder.conditioner, model.config.bottleneck.posterior_conditions
    parts = getattr(conditioner, "conditioners", {"": conditioner})
    names = [
        _CONDITION_OF_OUTPUT[part.input_names[0]]
        for name, part in parts.items()
        if (chosen is None or name in chosen) and part.input_names[0] in _CONDITION_OF_OUTPUT
    ]
    if len(names) != 1 or condition.get(names[0]) is not None:
        return condition
    return {**condition, names[0]: read_numbers(target).tolist() if names[0] == "vector" else target}


def score_latents(
    model: Any, inputs: dict[str, Any], labels: torch.Tensor, seeds: Sequence[tuple[int, int]], count: int
) -> list[dict[str, Any]]:
    """The importance-weighted bound of each row's target, with the number of its samples."""
    # A code leaves no doubt about the target's, so that one draw says as much as many.
    count = 1 if model.encoder.bottleneck.is_certain else count
    scores = model.log_prob(labels, count, seed=seeds, **inputs).tolist()
    return [{"score": score, "num_importance_samples": count} for score in scores]


def prepare_latents(
    model: Any,
    inputs: dict[str, Any],
    arguments: dict[str, Any],
    temperature: float,
    seeds: list[tuple[int, int]] | None,
) -> tuple[dict[str, Any], dict[str, Any], list[tuple[int, int]] | None]:
    """Inputs with latent numbers of their own for each output, what is left to ask of `generate`, and seeds of the rows."""
    samples = bool(get_setting(model, arguments, "do_sample"))
    num_beams = get_setting(model, arguments, "num_beams") or 1
    num_returned = (get_setting(model, arguments, "num_return_sequences") or 1) if num_beams == 1 else 1
    if num_returned > 1:
        arguments = {**arguments, "num_return_sequences": 1}
    if not samples:
        arguments = {name: value for name, value in arguments.items() if name != "temperature"}
    inputs, seeds = draw_latents(
        model,
        inputs,
        seeds,
        num_returned=num_returned,
        temperature=temperature,
        sample=samples,
    )
    return inputs, arguments, seeds


__all__ = ["add_target", "draw_latents", "has_latents", "prepare_latents", "score_latents"]

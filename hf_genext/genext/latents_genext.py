"""What a model can do with latent numbers or codes: read them, draw them, and say how likely outputs are without them.

Legend: batch (conditions), slots (latent slots of the memory), latent (numbers of a slot), samples (of each row), hidden.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any

import torch

from .encoders_genext import CONDITION_INPUTS
from .latent_bottlenecks_genext import LatentBottleneck
from .outputs_genext import GenextEncoderOutput, LatentOutput
from .seeding_genext import check_seed, draw_normal, make_keys, require_seeds

Score = Callable[[torch.Tensor, torch.Tensor | None, int], torch.Tensor]
"""The log-likelihoods of the targets: memory (batch * samples, ...), its mask, samples -> (batch * samples,)."""

ENCODER_INPUTS = (
    *CONDITION_INPUTS,
    "attention_mask",
    "feature_attention_mask",
    "condition_vectors_mask",
    "condition_states",
    "condition_states_mask",
    "num_samples",
)
"""All that an encoder is told about conditions."""


class LatentEncoding:
    """Latent numbers of a model with a variational bottleneck, codes of one with a quantised one."""

    config: Any
    encoder: Any
    device: torch.device

    def encode_latents(self, *, sample: bool = False, **inputs: Any) -> torch.Tensor:
        """The latent numbers of a batch of targets.

        Args:
            sample: Whether to draw them from the posterior, or to take its means.
            inputs: As [`GenextEncoder.forward`] takes them.

        Returns:
            (batch, slots, latent); codes (batch, slots).

        Raises:
            ValueError: if the model has no latent numbers.
        """
        self._require_latents("encode_latents")
        latents = self.encoder(**inputs, sample_latents=sample).latents
        return latents.values.view(len(latents.values), *self.encoder.bottleneck.latent_shape)

    def write_latents(self, latents: torch.Tensor, **inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """The memory of latent numbers, with the states of conditions that the decoder reads besides.

        Args:
            latents: (batch, slots, latent), from [`encode_latents`], or from between two of those; codes (batch, slots).
            inputs: The conditions beside the target, as [`GenextEncoder.forward`] takes them; or of one row for all.

        Returns:
            The memory (batch, slots + length, hidden) and its mask, which `decode` takes.

        Raises:
            ValueError: for latent numbers of another shape, or as many conditions as do not fit.
        """
        self._require_latents("write_latents")
        shape = self.encoder.bottleneck.latent_shape
        if latents.shape[1:] != shape:
            raise ValueError(
                f"Latents of this model are (batch, {', '.join(map(str, shape))}), got the shape {tuple(latents.shape)}."
            )
        num_codes = self.config.bottleneck.num_codes if self.config.bottleneck.kind == "quantized" else None
        if num_codes is not None and (latents.is_floating_point() or ((latents < 0) | (latents >= num_codes)).any()):
            raise ValueError(f"Codes of this model are whole numbers from 0 to {num_codes - 1}, as encode_latents gives them.")
        found = self.encoder(**(inputs or {"num_samples": 1}), sample_latents=False).latents
        if len(latents) % len(found.values):
            raise ValueError(f"There are conditions for {len(found.values)} rows, but latent numbers of {len(latents)}.")
        memory, mask = self.encoder.bottleneck.write(latents.flatten(1), found)
        return memory, memory.new_ones(memory.shape[:2], dtype=torch.long) if mask is None else mask

    def draw_latent_noise(
        self,
        num_rows: int,
        seed: int | Sequence[tuple[int, int]] | None = None,
        *,
        temperature: float = 1.0,
        num_samples: int = 1,
    ) -> torch.Tensor:
        """The noise that decides which latent numbers are drawn, as `latent_noise` of a model's inputs.

        Args:
            num_rows: Conditions.
            seed: A number, or for each row a seed and a place, so that a row draws the same alone and in any batch; torch's own
                randomness if left out.
            temperature: Factor of the standard deviations of numbers that are drawn; what logits of codes are divided by.
            num_samples: Draws of each row, which stand beside each other.

        Returns:
            (num_rows * num_samples, units + 1).

        Raises:
            ValueError: for a model without latent numbers, or a temperature below 0.
        """
        self._require_latents("draw_latent_noise")
        check_temperature("temperature", temperature)
        size = self.encoder.bottleneck.num_noise
        if seed is None:
            noise = torch.randn(num_rows * num_samples, size, device=self.device)
        else:
            pairs = [(check_seed(seed), place) for place in range(num_rows)] if isinstance(seed, (int, Integral)) else seed
            require_seeds(pairs, num_rows)
            noise = draw_normal(make_keys(pairs, num_samples), size).to(self.device)
        return self.encoder.bottleneck.shape_noise(noise, temperature)

    def set_training_progress(self, progress: float) -> None:
        """Say which share of the training has passed, 0 to 1, by which the weight of the divergence is planned.

        `GenextTrainer` does so before each step; in a loop of your own call it where `kl_delay` or `kl_warmup` is used.
        """
        for module in self.modules():  # type: ignore[attr-defined]
            if isinstance(module, LatentBottleneck):
                module.training_progress = float(progress)

    def _require_latents(self, name: str) -> None:
        if not self.encoder.has_latents:
            raise ValueError(
                f'{name} is for a model with a bottleneck of kind "variational" or "quantized", and this one\'s is '
                f'"{self.config.bottleneck.kind}". Build it with bottleneck={{"kind": "variational"}} or "quantized".'
            )

    def _choose_latent_temperature(self, temperature: float, latent_temperature: float | None) -> float:
        """What the latent numbers are drawn at: the temperature of the outputs, unless they have one of their own."""
        if latent_temperature is None:
            return temperature
        self._require_latents("latent_temperature")
        return check_temperature("latent_temperature", latent_temperature)

    def _estimate(
        self,
        outputs: GenextEncoderOutput,
        score: Score,
        num_importance_samples: int,
        seed: int | Sequence[tuple[int, int]] | None,
        rows_at_once: int,
    ) -> torch.Tensor:
        """The log-likelihood of each row's target, (batch,): exact without latent numbers, else the weighted bound."""
        if not self.encoder.has_latents:
            return score(outputs.last_hidden_state, outputs.memory_mask, 1)
        num_importance_samples = check_number("num_importance_samples", num_importance_samples)
        latents: Any = outputs.latents
        batch_size = len(latents.values)
        if self.encoder.bottleneck.is_certain and latents.is_encoded.all():
            num_importance_samples = 1
        noise = self.draw_latent_noise(batch_size, seed, num_samples=num_importance_samples)
        noise = noise.view(batch_size, num_importance_samples, -1)
        step = max(1, rows_at_once // batch_size)
        parts = [self._weigh(latents, score, some) for some in noise.split(step, dim=1)]
        return torch.cat(parts).logsumexp(dim=0) - math.log(num_importance_samples)

    def _weigh(self, latents: LatentOutput, score: Score, noise: torch.Tensor) -> torch.Tensor:
        """The log-weights of some draws: noise (batch, samples, units + 1) -> (samples, batch)."""
        bottleneck, samples = self.encoder.bottleneck, noise.shape[1]
        values = torch.stack([bottleneck.draw(latents, some, sample=True) for some in noise.unbind(1)])
        memory, mask = bottleneck.write(values.transpose(0, 1).flatten(0, 1), latents)
        log_likelihoods = score(memory, mask, samples)
        return log_likelihoods.view(-1, samples).T + bottleneck.compute_log_ratio(values, latents)


def check_number(name: str, number: object) -> int:
    """A number of rows, draws or outputs.

    Raises:
        ValueError: unless it is a whole number of 1 or more.
    """
    if isinstance(number, bool) or not isinstance(number, Integral) or int(number) < 1:
        raise ValueError(f"{name} must be a whole number of 1 or more, got {number!r}.")
    return int(number)


def check_temperature(name: str, temperature: object) -> float:
    """A temperature as a number.

    Raises:
        ValueError: unless it is a finite number of 0 or more.
    """
    if isinstance(temperature, bool) or not isinstance(temperature, (int, float)) or not 0.0 <= temperature < math.inf:
        raise ValueError(f"{name} must be a finite number of 0 or more, got {temperature!r}.")
    return float(temperature)


def count_conditions(inputs: Mapping[str, Any]) -> int | None:
    """The rows of an encoder's inputs, or `None` where there are none."""
    if inputs.get("num_samples") is not None:
        return int(inputs["num_samples"])
    for name in (*CONDITION_INPUTS, "condition_states"):
        value = inputs.get(name)
        if isinstance(value, Mapping):
            value = next(iter(value.values()), None)
        if value is not None:
            return len(value)
    return None


def move_inputs(inputs: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """A model's inputs on a device, those that are dictionaries by the names of conditions, too."""

    def move(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: move(part) for name, part in value.items()}
        return value.to(device) if torch.is_tensor(value) else value

    return {name: move(value) for name, value in inputs.items()}


def repeat_conditions(inputs: Mapping[str, Any], count: int) -> dict[str, Any]:
    """An encoder's inputs with each row so many times, beside each other."""

    def repeat(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: repeat(part) for name, part in value.items()}
        return value.repeat_interleave(count, dim=0) if torch.is_tensor(value) else value

    repeated = {name: repeat(value) for name, value in inputs.items()}
    if repeated.get("num_samples") is not None:
        repeated["num_samples"] = count * repeated["num_samples"]
    return repeated


__all__ = [
    "ENCODER_INPUTS",
    "LatentEncoding",
    "Score",
    "check_number",
    "check_temperature",
    "count_conditions",
    "move_inputs",
    "repeat_conditions",
]

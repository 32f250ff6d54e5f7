"""The head of an image as a single output: a distribution over the whole number of each pixel, exact to score and to draw from.

Given the memory the pixels are independent, so what they share has to come from it: from latent numbers, or a condition.

Legend: batch, rows, hidden, pixels (of all channels), levels (values of a pixel), components (of a mixture).
"""

from __future__ import annotations

import torch
from torch import nn

from .layers_genext import GenextResidualLinear, GenextRMSNorm
from .noise_genext import Noise
from .prediction_heads_genext import PredictionHead

_LEAST_LOG_SCALE = -7.0


class ImageLayer(nn.Module):
    """A residual layer of the network before the pixels: x + down(act(up(norm(x))))."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.norm = GenextRMSNorm(hidden_size)
        self.up_proj = nn.Linear(hidden_size, 2 * hidden_size)
        self.down_proj = GenextResidualLinear(2 * hidden_size, hidden_size)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(batch, hidden) -> the same."""
        return states + self.down_proj(nn.functional.silu(self.up_proj(self.norm(states))))


class ImageHead(PredictionHead):
    """An image of whole numbers from 0 to `num_levels` - 1, with a distribution for each pixel.

    Targets are (batch, *output_shape), or flat; NaN in all of a row without one. The distributions are

    * `"bernoulli"`: two levels, each pixel by its probability;
    * `"categorical"`: a probability for each level of each pixel;
    * `"logistic"`: a mixture of logistic distributions, cut into the levels (Salimans et al. 2017, "PixelCNN++", eq. 2), whose
      tails belong to the first and the last level.
    """

    def build(self, hidden_size: int) -> int:
        """The network before the projection."""
        config = self.config
        self.layers = nn.ModuleList(ImageLayer(hidden_size) for _ in range(config.num_hidden_layers))
        self.norm = GenextRMSNorm(hidden_size)
        each = {"bernoulli": 1, "categorical": config.num_levels, "logistic": 3 * config.num_components}
        return config.num_outputs * each[config.pixel_distribution]

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """(batch, hidden) -> (batch, parameters)."""
        for layer in self.layers:
            vectors = layer(vectors)
        return super().forward(self.norm(vectors))

    def apply_temperature(self, parameters: torch.Tensor) -> torch.Tensor:
        """Nothing: images are not calibrated."""
        return parameters

    def fit_temperature(self, parameters: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Images are not calibrated.

        Raises:
            ValueError: always.
        """
        raise ValueError("A head of images has no temperature to calibrate; leave calibrate out.")

    def is_given(self, targets: torch.Tensor) -> torch.Tensor:
        """Where a pixel is known, as the targets."""
        return ~targets.isnan() if targets.is_floating_point() else torch.ones_like(targets, dtype=torch.bool)

    def require_fit(self, targets: torch.Tensor) -> None:
        """Images have the configured shape, or are flat, and hold whole numbers of the levels."""
        config, shape = self.config, tuple(self.config.output_shape)
        if tuple(targets.shape[1:]) not in (shape, (config.num_outputs,)):
            raise ValueError(
                f"An image of this model is {shape}, or flat, ({config.num_outputs},); got targets of the shape "
                f"{tuple(targets.shape)}, whose first axis is the batch."
            )
        if torch.compiler.is_compiling():
            return
        flat = targets.flatten(1)
        known = self.is_given(flat)
        halves = known.any(dim=1) & ~known.all(dim=1)
        if halves.any():
            row = int(halves.nonzero()[0, 0])
            raise ValueError(
                f"In row {row} of the batch {int((~known[row]).sum())} of {config.num_outputs} pixels are missing (NaN). Give "
                "whole images, or make all of the row NaN where there is none."
            )
        values = flat[known]
        wrong = (values < 0) | (values >= config.num_levels) | (values != values.round())
        if wrong.any():
            raise ValueError(
                f"A pixel of this model is a whole number from 0 to {config.num_levels - 1}, got {values[wrong][0].item():g}. "
                "Scale the pixels to that, or build the model with another num_levels."
            )

    def compute_log_probs(self, parameters: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """(batch, parameters), or (1, parameters) for all rows, and (batch, *output_shape) -> (batch,)."""
        flat, parameters = targets.flatten(1), parameters.expand(len(targets), -1)
        given = self.is_given(flat)
        levels = flat.masked_fill(~given, 0).long()
        return (self._score_pixels(parameters, levels) * given).sum(dim=1)

    def _score_pixels(self, parameters: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        """The log-probability of each pixel: (batch, parameters), (batch, pixels) -> (batch, pixels)."""
        if self.config.pixel_distribution == "bernoulli":
            return -nn.functional.binary_cross_entropy_with_logits(parameters, levels.to(parameters.dtype), reduction="none")
        if self.config.pixel_distribution == "categorical":
            logits = parameters.view(*levels.shape, -1).log_softmax(dim=-1)
            return logits.gather(-1, levels[..., None])[..., 0]
        weights, means, log_scales = self._split(parameters)
        half = 1.0 / (self.config.num_levels - 1)
        centred = (levels[..., None] * 2.0 * half - 1.0 - means).to(parameters.dtype)
        steepness = (-log_scales).exp()
        upper, lower = steepness * (centred + half), steepness * (centred - half)
        # The difference of two sigmoids, written so that nothing is lost where both are near 0 or 1.
        inner = (
            nn.functional.logsigmoid(upper)
            + nn.functional.logsigmoid(-lower)
            + torch.log(-torch.expm1(-2.0 * half * steepness))
        )
        inner = torch.where(levels[..., None] == 0, nn.functional.logsigmoid(upper), inner)
        last = levels[..., None] == self.config.num_levels - 1
        inner = torch.where(last, nn.functional.logsigmoid(-lower), inner)
        return (weights.log_softmax(dim=-1) + inner).logsumexp(dim=-1)

    def _split(self, parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Weights, means and log-scales of the logistic distributions in [-1, 1], each (batch, pixels, components)."""
        split = parameters.view(len(parameters), self.config.num_outputs, 3, -1)
        weights, means, log_scales = split.unbind(dim=2)
        places = torch.linspace(-1.0, 1.0, self.config.num_components + 2, device=means.device, dtype=means.dtype)[1:-1]
        return weights, means + places, (log_scales - 1.5).clamp(min=_LEAST_LOG_SCALE)

    def draw(self, parameters: torch.Tensor, noise: Noise, temperature: float = 1.0) -> torch.Tensor:
        """(rows, parameters), or (1, parameters) for all rows -> (rows, *output_shape) of whole numbers."""
        config, parameters = self.config, parameters.expand(noise.num_rows, -1)
        if config.pixel_distribution == "bernoulli":
            drawn = (noise.uniform(config.num_outputs) < (parameters / temperature).sigmoid()).long()
        elif config.pixel_distribution == "categorical":
            drawn = self._draw_levels(parameters, noise, temperature)
        else:
            weights, means, log_scales = self._split(parameters)
            chosen = weights / temperature + noise.gumbel(weights[0].numel()).view(weights.shape)
            place = chosen.argmax(dim=-1, keepdim=True)
            logistic = torch.logit(noise.uniform(config.num_outputs))
            values = means.gather(-1, place)[..., 0] + temperature * log_scales.gather(-1, place)[..., 0].exp() * logistic
            drawn = self._round(values)
        return drawn.view(-1, *config.output_shape)

    def guide(self, conditional: torch.Tensor, null: torch.Tensor, scale: float) -> torch.Tensor:
        """Log-probabilities of the levels but for a constant: twice (rows, parameters) -> (rows, pixels * levels)."""
        tables = [self._tabulate(parameters) for parameters in (null, conditional)]
        return torch.lerp(*tables, scale).flatten(1)

    def draw_guided(
        self, conditional: torch.Tensor, null: torch.Tensor, scale: float, noise: Noise, temperature: float = 1.0
    ) -> torch.Tensor:
        """Each pixel by itself: -> (rows, *output_shape)."""
        table = self.guide(conditional, null, scale).expand(noise.num_rows, -1)
        return self._draw_levels(table, noise, temperature).view(-1, *self.config.output_shape)

    def _tabulate(self, parameters: torch.Tensor) -> torch.Tensor:
        """The log-probability of each level of each pixel: (batch, parameters) -> (batch, pixels, levels)."""
        levels = torch.arange(self.config.num_levels, device=parameters.device)[:, None, None]
        levels = levels.expand(-1, len(parameters), self.config.num_outputs)
        return torch.stack([self._score_pixels(parameters, level) for level in levels], dim=-1)

    def _draw_levels(self, logits: torch.Tensor, noise: Noise, temperature: float) -> torch.Tensor:
        """(rows, pixels * levels) -> (rows, pixels)."""
        drawn = logits / temperature + noise.gumbel(logits.shape[-1])
        return drawn.view(len(logits), self.config.num_outputs, -1).argmax(dim=-1)

    def locate(self, parameters: torch.Tensor) -> torch.Tensor:
        """An image that stands for the distribution: (batch, parameters) -> (batch, *output_shape).

        The likeliest level of each pixel; of a mixture that of the middle of its heaviest component.
        """
        config = self.config
        if config.pixel_distribution == "bernoulli":
            found = (parameters > 0).long()
        elif config.pixel_distribution == "categorical":
            found = parameters.view(len(parameters), config.num_outputs, -1).argmax(dim=-1)
        else:
            weights, means, _ = self._split(parameters)
            found = self._round(means.gather(-1, weights.argmax(dim=-1, keepdim=True))[..., 0])
        return found.view(-1, *config.output_shape)

    def _round(self, values: torch.Tensor) -> torch.Tensor:
        """From [-1, 1] to the nearest level."""
        last = self.config.num_levels - 1
        return ((values + 1.0) * 0.5 * last).round().clamp(0, last).long()


__all__ = ["ImageHead"]

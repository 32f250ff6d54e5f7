"""The head of an image as a single output: a distribution over the whole number of each pixel, exact to score and to draw from.

Given the memory the pixels are independent, so that what they share has to come from it, from latent numbers or a condition; or
each reads those before it, by a masked network.

Legend: batch, rows, hidden, pixels (of all channels), levels (values of a pixel), components (of a mixture), each (parameters
of a pixel), size (of the masked network).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from .noise_genext import Noise, choose_outcomes
from .pixel_contexts_genext import NearContext, PixelContext, WholeContext
from .prediction_heads_genext import PredictionHead

_LEAST_LOG_SCALE = -7.0

_LARGEST_TABLE = 1 << 24
"""Probabilities of levels that are held at once."""

Choose = Callable[[list[torch.Tensor], slice], torch.Tensor]
"""Levels of some pixels, (rows, pixels), from one or several sets of their parameters, each (rows, pixels, each)."""


class ImageHead(PredictionHead):
    """An image of whole numbers from 0 to `num_levels` - 1, with a distribution for each pixel.

    Targets are (batch, *output_shape), or flat; NaN in all of a row without one. The distributions are

    * `"bernoulli"`: two levels, each pixel by its probability;
    * `"categorical"`: a probability for each level of each pixel;
    * `"logistic"`: a mixture of logistic distributions, cut into the levels (Salimans et al. 2017, "PixelCNN++", eq. 2), whose
      tails belong to the first and the last level.

    With a `context_size` the distribution of a pixel depends on those before it, row by row, with a `context_reach` on those
    near it: all are scored in one pass, and drawn one after the other.
    """

    def build(self, hidden_size: int) -> int:
        """What the pixels say of each other."""
        config = self.config
        kinds = {"bernoulli": 1, "categorical": config.num_levels, "logistic": 3 * config.num_components}
        self.each = kinds[config.pixel_distribution]
        self.context: PixelContext | None = None
        if config.context_reach is not None:
            self.context = NearContext(config.output_shape, self.each, config.context_size, config.context_reach)
        elif config.context_size:
            self.context = WholeContext(config.num_outputs, self.each, config.context_size)
        return config.num_outputs * self.each + config.context_size

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, PixelContext):
            module.start_anew()

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
        own, hints = self._separate(parameters)
        if self.context is not None:
            values = self._scale(levels, own.dtype)
            if self.training and self.config.context_dropout:
                values = values * (torch.rand_like(values[:, :1]) >= self.config.context_dropout)
            own = own + self.context(values, hints)
        return (self._score_pixels(own, levels) * given).sum(dim=1)

    def _separate(self, parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Those of the pixels, (batch, pixels, each), and what units of the context are told, (batch, size)."""
        count = self.config.num_outputs * self.each
        return parameters[:, :count].unflatten(1, (self.config.num_outputs, self.each)), parameters[:, count:]

    def _scale(self, levels: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Levels as numbers in [-1, 1]."""
        return levels.to(dtype) * (2.0 / (self.config.num_levels - 1)) - 1.0

    def _score_pixels(self, parameters: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        """The log-probability of each pixel: (batch, pixels, each), (batch, pixels) -> (batch, pixels)."""
        if self.config.pixel_distribution == "bernoulli":
            wanted = levels.to(parameters.dtype)
            return -nn.functional.binary_cross_entropy_with_logits(parameters[..., 0], wanted, reduction="none")
        if self.config.pixel_distribution == "categorical":
            return parameters.log_softmax(dim=-1).gather(-1, levels[..., None])[..., 0]
        weights, means, log_scales = self._split(parameters)
        half = 1.0 / (self.config.num_levels - 1)
        centred = self._scale(levels, parameters.dtype)[..., None] - means
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
        weights, means, log_scales = parameters.unflatten(-1, (3, -1)).unbind(dim=-2)
        places = torch.linspace(-1.0, 1.0, self.config.num_components + 2, device=means.device, dtype=means.dtype)[1:-1]
        return weights, means + places, (log_scales - 1.5).clamp(min=_LEAST_LOG_SCALE)

    def draw(self, parameters: torch.Tensor, noise: Noise, temperature: float = 1.0) -> torch.Tensor:
        """(rows, parameters), or (1, parameters) for all rows -> (rows, *output_shape) of whole numbers."""
        config, kind = self.config, self.config.pixel_distribution
        gumbel = None
        if kind == "logistic":
            gumbel = noise.gumbel(config.num_outputs * config.num_components).view(noise.num_rows, config.num_outputs, -1)
        uniform = noise.uniform(config.num_outputs)

        def choose(sets: list[torch.Tensor], some: slice) -> torch.Tensor:
            (own,) = sets
            if kind == "bernoulli":
                return (uniform[:, some] < (own[..., 0] / temperature).sigmoid()).long()
            if gumbel is None:
                return choose_outcomes(own / temperature, uniform[:, some])
            weights, means, log_scales = self._split(own)
            place = (weights / temperature + gumbel[:, some]).argmax(dim=-1, keepdim=True)
            scale = temperature * log_scales.gather(-1, place)[..., 0].exp()
            return self._round(means.gather(-1, place)[..., 0] + scale * torch.logit(uniform[:, some]))

        return self._fill([parameters.expand(noise.num_rows, -1)], choose)

    def draw_guided(
        self, conditional: torch.Tensor, null: torch.Tensor, scale: float, noise: Noise, temperature: float = 1.0
    ) -> torch.Tensor:
        """Each pixel from its guided distribution, its logarithms divided by the temperature: -> (rows, *output_shape)."""
        uniform = noise.uniform(self.config.num_outputs)
        at_once = max(1, _LARGEST_TABLE // (noise.num_rows * self.config.num_levels))

        def choose(sets: list[torch.Tensor], some: slice) -> torch.Tensor:
            drawn = []
            for *parts, places in zip(*(own.split(at_once, dim=1) for own in (*sets, uniform[:, some])), strict=True):
                null, conditional = (self._tabulate(part) for part in parts)
                drawn.append(choose_outcomes(torch.lerp(null, conditional, scale) / temperature, places))
            return torch.cat(drawn, dim=1)

        return self._fill([parameters.expand(noise.num_rows, -1) for parameters in (null, conditional)], choose)

    def _tabulate(self, parameters: torch.Tensor) -> torch.Tensor:
        """The log-probability of each level: (batch, pixels, each) -> (batch, pixels, levels)."""
        if self.config.pixel_distribution == "categorical":
            return parameters.log_softmax(dim=-1)
        count = self.config.num_levels
        if self.config.pixel_distribution == "bernoulli":
            levels = torch.arange(count, device=parameters.device).expand(*parameters.shape[:2], -1)
            return self._score_pixels(parameters[:, :, None].expand(-1, -1, count, -1), levels)
        # As `_score_pixels`, but each edge between two levels is worked out once, component by component.
        weights, means, log_scales = self._split(parameters)
        half, shares = 1.0 / (count - 1), weights.log_softmax(dim=-1)
        edges = torch.linspace(-1.0 + half, 1.0 - half, count - 1, device=parameters.device, dtype=parameters.dtype)
        total = None
        for share, mean, log_scale in zip(shares.unbind(-1), means.unbind(-1), log_scales.unbind(-1), strict=True):
            steepness = (-log_scale).exp()[..., None]
            places = steepness * (edges - mean[..., None])
            below = nn.functional.logsigmoid(places)  # Of each edge the logarithm of what lies below it, and above it.
            above = below - places
            widths = torch.log(-torch.expm1(-2.0 * half * steepness))
            inner = torch.cat((below[..., :1], below[..., 1:] + above[..., :-1] + widths, above[..., -1:]), dim=-1)
            inner += share[..., None]
            total = inner if total is None else torch.logaddexp(total, inner)
        assert total is not None
        return total

    def locate(self, parameters: torch.Tensor) -> torch.Tensor:
        """An image that stands for the distribution: (batch, parameters) -> (batch, *output_shape).

        The likeliest level of each pixel, given those before it where it reads them; of a mixture that of the middle of its
        heaviest component.
        """

        def choose(sets: list[torch.Tensor], some: slice) -> torch.Tensor:
            (own,) = sets
            if self.config.pixel_distribution == "bernoulli":
                return (own[..., 0] > 0).long()
            if self.config.pixel_distribution == "categorical":
                return own.argmax(dim=-1)
            weights, means, _ = self._split(own)
            return self._round(means.gather(-1, weights.argmax(dim=-1, keepdim=True))[..., 0])

        return self._fill([parameters], choose)

    def _fill(self, sets: list[torch.Tensor], choose: Choose) -> torch.Tensor:
        """All pixels at once, or where they read each other one after the other: -> (rows, *output_shape)."""
        separated = [self._separate(parameters) for parameters in sets]
        if self.context is None:
            levels = choose([own for own, _ in separated], slice(None))
            return levels.view(-1, *self.config.output_shape)
        values = torch.zeros_like(separated[0][0][..., 0])
        levels = torch.zeros_like(values, dtype=torch.long)
        units = [hints for _, hints in separated]
        for place in range(self.config.num_outputs):
            some = slice(place, place + 1)
            parts = [
                own[:, some] + self.context.step(place, values, known) for (own, _), known in zip(separated, units, strict=True)
            ]
            levels[:, some] = choose(parts, some)
            values[:, some] = self._scale(levels[:, some], values.dtype)
            units = [self.context.tell(place, values[:, place], known) for known in units]
        return levels.view(-1, *self.config.output_shape)

    def _round(self, values: torch.Tensor) -> torch.Tensor:
        """From [-1, 1] to the nearest level."""
        last = self.config.num_levels - 1
        return ((values + 1.0) * 0.5 * last).round().clamp(0, last).long()


__all__ = ["ImageHead"]

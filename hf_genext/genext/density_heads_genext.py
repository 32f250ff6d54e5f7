"""Heads that are densities over whole vectors, with exact log-probabilities and samples.

Legend: batch, rows, hidden, outputs (numbers of a vector).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn
from transformers import initialization as init

from .densities_genext import GaussianMixture, SplineCoupling, SplineFlow, TriangularLinear
from .linear_genext import LinearDensity, Moments, find_components, find_rotation, find_source_knots, keep_rows, regress
from .noise_genext import Noise
from .prediction_heads_genext import PredictionHead, describe_targets, require_finite


class DensityHead(PredictionHead):
    """A density over whole vectors. Targets are (batch, outputs), or (batch,) for one number; NaN in all of a row without one.

    The density is one of numbers with the configuration's `output_means` taken away and divided by its `output_scales`;
    log-probabilities and samples are those of the numbers themselves. Where nothing is a condition, the parameters of one row
    are those of all.
    """

    density: Any

    def apply_temperature(self, parameters: torch.Tensor) -> torch.Tensor:
        """Nothing: densities are not calibrated."""
        return parameters

    def fit_temperature(self, parameters: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Densities are not calibrated.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f'A head of kind "{self.config.kind}" has no temperature to calibrate: it is a density, trained by its own '
            "likelihood. Leave calibrate out."
        )

    def is_given(self, targets: torch.Tensor) -> torch.Tensor:
        """Where a number is known, as the targets."""
        return ~targets.isnan()

    def require_fit(self, targets: torch.Tensor) -> None:
        """Vectors are (batch, outputs), each known as a whole or not at all."""
        count = self.config.num_outputs
        if (1 if targets.dim() == 1 else targets.shape[-1]) != count or targets.dim() > 2:
            raise ValueError(f"Each row has a vector of {count} numbers, (batch, {count}); got {describe_targets(targets)}.")
        if torch.compiler.is_compiling() or targets.dim() == 1:
            return
        known = self.is_given(targets)
        halves = known.any(dim=1) & ~known.all(dim=1)
        if halves.any():
            row = int(halves.nonzero()[0, 0])
            raise ValueError(
                f"A density takes vectors that are known as a whole; in row {row} of the batch {int((~known[row]).sum())} of "
                f"{count} numbers are missing (NaN). Leave such rows out, or make all of the row NaN."
            )

    def score(self, parameters: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The log-density of each row's vector, in nats: (batch,).

        Args:
            parameters: (batch, parameters), or (1, parameters) for all rows.
            targets: (batch, outputs), or (batch,) for one number.
        """
        require_finite(targets)
        return super().score(parameters, targets)

    def compute_log_probs(self, parameters: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """(batch, parameters), or (1, parameters) for all rows, and (batch, outputs) -> (batch,)."""
        targets = targets[:, None] if targets.dim() == 1 else targets
        given = self.is_given(targets).all(dim=1)
        values = targets.to(parameters.dtype).masked_fill(~given[:, None], 0.0)
        shift, unit = self._get_units(values)
        # In half precision a likelihood would be right to a nat at best.
        with torch.autocast(values.device.type, enabled=False):
            log_density = self.density.log_prob(parameters, (values - shift) / unit) - unit.log().sum()
        return log_density.masked_fill(~given, 0.0)

    def draw(self, parameters: torch.Tensor, noise: Noise, temperature: float = 1.0) -> torch.Tensor:
        """(rows, parameters), or (1, parameters) for all rows -> (rows, outputs)."""
        return self.scale_back(self.density.sample(parameters, noise, temperature))

    def scale_back(self, values: torch.Tensor) -> torch.Tensor:
        """From units of `output_scales` around `output_means` to the numbers themselves, (batch, outputs)."""
        shift, unit = self._get_units(values)
        return values * unit + shift

    def _get_units(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`output_means` and `output_scales`, each (outputs,)."""
        means, scales = self.config.output_means, self.config.output_scales
        count = self.config.num_outputs
        return (
            like.new_zeros(count) if means is None else like.new_tensor(means),
            like.new_ones(count) if scales is None else like.new_tensor(scales),
        )

    @abstractmethod
    def locate(self, parameters: torch.Tensor) -> torch.Tensor:
        """A point that stands for the density: (batch, parameters) -> (batch, outputs)."""


class MixtureHead(DensityHead):
    """A mixture of Gaussians ("mixture density network", Bishop 1994)."""

    def build(self, hidden_size: int) -> int:
        """The mixture, and where its Gaussians stand before anything is learned."""
        config = self.config
        self.density = GaussianMixture(config.num_outputs, config.num_components, config.covariance, config.least_scale)
        self.starts = nn.Parameter(torch.empty(config.num_components, config.num_outputs))
        return self.density.num_parameters

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            # Nearly alike but for where they stand: in any number of dimensions so near that none is left without rows.
            init.normal_(self.starts, std=2.0 * self.config.num_outputs**-0.5)
            init.copy_(self.projection.weight, 0.1 * self.projection.weight)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """(batch, hidden) -> (batch, parameters)."""
        logits, means, rest = super().forward(vectors).split(self._sections, dim=-1)
        return torch.cat([logits, means + self.starts.to(means.dtype).flatten(), rest], dim=-1)

    @property
    def _sections(self) -> list[int]:
        logits, means, *rest = self.density.parts
        return [logits, means, sum(rest)]

    def locate(self, parameters: torch.Tensor) -> torch.Tensor:
        """The mean: (batch, parameters) -> (batch, outputs)."""
        return self.scale_back(self.density.mean(parameters))


class FlowHead(DensityHead):
    """A normalising flow whose steps depend on the memory (Durkan et al. 2019)."""

    def build(self, hidden_size: int) -> int:
        """The flow, and the numbers of the memory that it sees."""
        config = self.config
        context_size = min(hidden_size, config.transform_size)
        self.density = SplineFlow(
            config.num_outputs, context_size, config.num_transforms, config.transform_size, config.num_bins, config.tail_bound
        )
        return context_size

    def locate(self, parameters: torch.Tensor) -> torch.Tensor:
        """What noise of 0 becomes: (batch, parameters) -> (batch, outputs)."""
        noise = parameters.new_zeros(len(parameters), self.config.num_outputs)
        return self.scale_back(self.density.to_values(noise, parameters))

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, TriangularLinear):
            for parameter in module.parameters():
                init.zeros_(parameter)
        elif isinstance(module, SplineCoupling):
            init.zeros_(module.write.weight)  # No bend at first.


class LinearHead(DensityHead):
    """Probabilistic PCA, or ICA in its subspace, around a mean that is linear in the memory."""

    def build(self, hidden_size: int) -> int:
        """The density; the projection gives its mean."""
        config = self.config
        num_bins = config.num_bins if config.kind == "ica" else None
        self.density = LinearDensity(config.num_outputs, config.num_components, num_bins)
        return config.num_outputs

    def locate(self, parameters: torch.Tensor) -> torch.Tensor:
        """The mean: (batch, outputs) -> (batch, outputs)."""
        return self.scale_back(parameters)

    @torch.no_grad()
    def fit(self, read: Callable[[], Iterable[tuple[torch.Tensor, torch.Tensor]]], *, is_conditional: bool) -> None:
        """Fit mean, components, noise and sources to targets.

        Args:
            is_conditional: Whether there are conditions that the mean could depend on.
            read: Gives all rows from the start, in parts: memories (rows, hidden), or (1, hidden) where nothing is a condition,
                and targets as `forward` takes them.

        Raises:
            ValueError: for targets that have no such fit.
        """
        moments, hidden = Moments(), 0
        for vectors, values in self._unite(read(), is_conditional):
            hidden = vectors.shape[1] if is_conditional else 0
            moments.update(torch.cat([vectors[:, :hidden].expand(len(values), -1), values], dim=1))
        if not moments.count:
            raise ValueError("A density is fitted to rows whose targets are known; there are none. Give labelled rows.")
        weights, covariance, rank = regress(moments.covariance, moments.mean, hidden)
        if rank and moments.count <= rank + self.config.num_components + 1:
            raise ValueError(
                f"{moments.count} rows are too few: the mean follows {rank} numbers of the conditions, and "
                f"{self.config.num_components} components are to be found in what it leaves. Give more than "
                f"{rank + self.config.num_components + 1} rows, or choose fewer components."
            )
        bias = moments.mean[hidden:] - weights @ moments.mean[:hidden]
        directions, variances, rest = find_components(covariance, self.config.num_components, moments.count, of_density=True)
        mixing = directions * variances.sqrt()[:, None]
        density = self.density
        if density.num_bins is not None:
            white = directions / variances.sqrt()[:, None]
            rows = (
                (values - vectors[:, :hidden] @ weights.T - bias) @ white.T
                for vectors, values in self._unite(read(), is_conditional)
            )
            kept = keep_rows(rows, moments.count)
            rotation = find_rotation(kept)
            mixing, knots = rotation @ mixing, find_source_knots(kept @ rotation.T, density.num_bins)
            density.starts.copy_(knots[:, 0])
            density.log_steps.copy_(knots.diff(dim=1).log())
        density.mixing.copy_(mixing)
        if density.log_noise is not None:
            density.log_noise.fill_(0.5 * math.log(rest))
        self.projection.weight.zero_()
        self.projection.weight[:, :hidden] = weights.to(self.projection.weight)
        self.projection.bias.copy_(bias)

    def _unite(
        self, parts: Iterable[tuple[torch.Tensor, torch.Tensor]], is_conditional: bool
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Memories and targets of the rows that have one, in the units of the density and in float64."""
        for vectors, targets in parts:
            self.require_fit(targets)
            targets = targets.view(len(targets), -1).double().cpu()
            given = self.is_given(targets).all(dim=1)
            shift, unit = self._get_units(targets)
            vectors = vectors.double().cpu()
            yield vectors[given] if is_conditional else vectors, (targets[given] - shift) / unit

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, LinearDensity):
            module.start_anew()


__all__ = ["DensityHead", "FlowHead", "LinearHead", "MixtureHead"]

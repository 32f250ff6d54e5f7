"""Heads: each turns states into a distribution that can be sampled from and that gives log-probabilities.

Legend: batch, target (output positions), hidden, vocab, outputs (classes, labels or numbers of a single output).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers import initialization as init

from .calibration_genext import find_threshold, fit_class_temperature, fit_label_temperatures, fit_scale_temperatures
from .configuration_genext import GenextHeadConfig
from .densities_genext import GaussianMixture, SplineCoupling, SplineFlow, TriangularLinear
from .noise_genext import Noise
from .pretrained_genext import GenextPreTrainedModel


class TokenHead(nn.Module):
    """A categorical distribution over the target tokens at each position."""

    def __init__(self, hidden_size: int, vocab_size: int) -> None:
        super().__init__()
        self.projection = nn.Linear(hidden_size, vocab_size, bias=False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Logits: (..., hidden) -> (..., vocab)."""
        return self.projection(states)

    def log_prob(self, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Log-probability, in nats, of each token: (..., hidden), (...) -> (...)."""
        log_probs = self(states).float().log_softmax(dim=-1)
        return log_probs.gather(-1, tokens[..., None])[..., 0]

    def sample(self, states: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Draw one token at each position: (..., hidden) -> (...)."""
        probabilities = self(states).float().softmax(dim=-1)
        drawn = torch.multinomial(probabilities.flatten(0, -2), 1, generator=generator)
        return drawn.view(states.shape[:-1])


class PredictionHead(GenextPreTrainedModel):
    """What the heads of a single output share: from one vector for each row to the parameters of a distribution."""

    config_class = GenextHeadConfig

    def __init__(self, config: PreTrainedConfig, hidden_size: int) -> None:
        super().__init__(config)
        self.dropout = nn.Dropout(config.dropout)
        self.projection = nn.Linear(hidden_size, self.build(hidden_size))
        self.post_init()

    def build(self, hidden_size: int) -> int:
        """Make what the head has besides the projection, and say how many numbers that has to give for each row."""
        return self.config.num_outputs

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """The distribution's parameters, calibrated: (batch, hidden) -> (batch, parameters)."""
        parameters = self.projection(self.dropout(vectors))
        return self.apply_temperature(parameters if parameters.dtype == torch.float64 else parameters.float())

    @property
    def temperature(self) -> float | torch.Tensor:
        """One number for all outputs, or (outputs,)."""
        value = self.config.temperature
        return self.projection.weight.new_tensor(value, dtype=torch.float32) if isinstance(value, list) else value

    def apply_temperature(self, parameters: torch.Tensor) -> torch.Tensor:
        """Divide logits by the temperature: (batch, parameters) -> the same."""
        return parameters if self.config.temperature == 1.0 else parameters / self.temperature

    @abstractmethod
    def fit_temperature(self, parameters: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The further temperature that makes known targets likeliest: (rows, parameters) -> a scalar or (outputs,)."""

    def calibrate(self, parameters: torch.Tensor, targets: torch.Tensor) -> None:
        """Set the temperature so that the probabilities are right on rows that the model was not trained on.

        Args:
            parameters: What `forward` gave, (rows, parameters).
            targets: What it should have given.

        Raises:
            ValueError: if no target is known.
        """
        self.require_fit(targets)
        if not self.is_given(targets).any():
            raise ValueError("Calibration needs rows whose targets are known; there are none. Give labelled rows.")
        self.config.temperature = (self.fit_temperature(parameters, targets) * self.temperature).tolist()

    def choose_threshold(self, parameters: torch.Tensor, targets: torch.Tensor) -> None:
        """Set the probability from which on a label is predicted, for the highest F1 (labels only).

        Args:
            parameters: What `forward` gave, (rows, parameters).
            targets: What it should have given.

        Raises:
            ValueError: for a head that predicts no labels, and if none is known to be there.
        """
        raise ValueError(
            f'A head of kind "{self.config.kind}" predicts without a threshold; only one of kind "labels" has it. Leave it out.'
        )

    @abstractmethod
    def compute_log_probs(self, parameters: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The log-probability of each target, in nats, and 0 where there is none: (batch, parameters) -> as the targets."""

    @abstractmethod
    def require_fit(self, targets: torch.Tensor) -> None:
        """Raise unless the targets are of this head's shape and kind.

        Raises:
            ValueError: saying what was given and what is taken.
        """

    @abstractmethod
    def draw(self, parameters: torch.Tensor, noise: Noise, temperature: float = 1.0) -> torch.Tensor:
        """A sample for each row of the noise.

        Args:
            parameters: (rows, parameters).
            noise: That of the rows.
            temperature: What logits are divided by, and the standard deviations of numbers multiplied by, once more.
        """

    @abstractmethod
    def is_given(self, targets: torch.Tensor) -> torch.Tensor:
        """Where there is a target."""

    def score(self, parameters: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The log-probability of each row's target, in nats, that of several outputs together: (batch,).

        Args:
            parameters: What `forward` gave, (batch, parameters).
            targets: As the kind of head takes them.
        """
        self.require_fit(targets)
        log_probs = self.compute_log_probs(parameters, targets)
        return log_probs if log_probs.dim() == 1 else log_probs.sum(dim=1)

    def compute_loss(
        self, log_probs: torch.Tensor, targets: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """The negative of what `score` gave, averaged over the targets that are given, or divided by a number of them."""
        given = self.is_given(targets).sum().clamp(min=1)
        return -log_probs.sum() / (given if num_items_in_batch is None else num_items_in_batch)


class ClassHead(PredictionHead):
    """One of several classes: a categorical distribution. Targets are (batch,), -100 where there is none."""

    def is_given(self, targets: torch.Tensor) -> torch.Tensor:
        """Where there is a class, (batch,)."""
        return targets != -100

    def require_fit(self, targets: torch.Tensor) -> None:
        """Classes are whole numbers, (batch,)."""
        count = self.config.num_outputs
        if targets.dim() != 1 or targets.is_floating_point():
            raise ValueError(f"Classes are whole numbers, (batch,); got {_describe(targets)}.")
        _require_range(targets, count, f"This head has the classes 0 to {count - 1}")

    def compute_log_probs(self, parameters: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """(batch, outputs), (batch,) -> (batch,)."""
        return -nn.functional.cross_entropy(parameters, targets, ignore_index=-100, reduction="none")

    def fit_temperature(self, parameters: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """(rows, outputs), (rows,) -> a scalar."""
        given = self.is_given(targets)
        return fit_class_temperature(parameters[given], targets[given])

    def draw(self, parameters: torch.Tensor, noise: Noise, temperature: float = 1.0) -> torch.Tensor:
        """(rows, outputs) -> (rows,)."""
        return (parameters / temperature + noise.gumbel(parameters.shape[-1])).argmax(dim=-1)


class LabelsHead(PredictionHead):
    """Any number of several labels, each by itself. Targets are 0 or 1, (batch, outputs), -100 where nothing is known."""

    def is_given(self, targets: torch.Tensor) -> torch.Tensor:
        """Where something is known, (batch, outputs)."""
        return targets != -100

    def require_fit(self, targets: torch.Tensor) -> None:
        """Labels are 0 or 1, (batch, outputs)."""
        if targets.dim() != 2 or targets.shape[1] != self.config.num_outputs:
            raise ValueError(
                f"Labels are 0 or 1 for each of the {self.config.num_outputs} outputs, (batch, {self.config.num_outputs}); got "
                f"{_describe(targets)}."
            )
        _require_range(targets, 2, "A label is 0 or 1")

    def compute_log_probs(self, parameters: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """(batch, outputs), (batch, outputs) -> (batch, outputs)."""
        given = self.is_given(targets)
        target = targets.to(parameters.dtype).masked_fill(~given, 0)
        losses = nn.functional.binary_cross_entropy_with_logits(parameters, target, reduction="none")
        return -losses.masked_fill(~given, 0)

    def fit_temperature(self, parameters: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """(rows, outputs), (rows, outputs) -> (outputs,)."""
        return fit_label_temperatures(parameters, targets, self.is_given(targets))

    def choose_threshold(self, parameters: torch.Tensor, targets: torch.Tensor) -> None:
        """(rows, outputs), (rows, outputs)."""
        self.require_fit(targets)
        threshold = find_threshold(parameters, targets, self.is_given(targets))
        if threshold is None:
            raise ValueError("A threshold is chosen on rows that have labels, and no row has one. Give labelled rows.")
        self.config.threshold = threshold

    def draw(self, parameters: torch.Tensor, noise: Noise, temperature: float = 1.0) -> torch.Tensor:
        """(rows, outputs) -> (rows, outputs) of 0 and 1."""
        return (noise.uniform(parameters.shape[-1]) < (parameters / temperature).sigmoid()).long()


class RegressionHead(PredictionHead):
    """One or several numbers, each with a normal distribution whose mean and width are predicted (Nix and Weigend 1994).

    Targets are (batch, outputs), or (batch,) for one; not a number (NaN) where nothing is known. The projection gives them
    with the configuration's `output_means` taken away and divided by its `output_scales`.
    """

    def build(self, hidden_size: int) -> int:
        """A mean and a width for each number."""
        return 2 * self.config.num_outputs

    def split(self, parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Means and standard deviations: (batch, 2 * outputs) -> twice (batch, outputs)."""
        mean, raw = parameters.chunk(2, dim=-1)
        scale = (nn.functional.softplus(raw) + self.config.least_scale) * self.temperature
        if self.config.output_scales is not None:
            unit = mean.new_tensor(self.config.output_scales)
            mean, scale = mean * unit, scale * unit
        if self.config.output_means is not None:
            mean = mean + mean.new_tensor(self.config.output_means)
        return mean, scale

    def apply_temperature(self, parameters: torch.Tensor) -> torch.Tensor:
        """Nothing: the widths are multiplied by the temperature when they are made."""
        return parameters

    def fit_temperature(self, parameters: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """(rows, 2 * outputs), (rows, outputs) -> (outputs,)."""
        targets = targets.view(len(targets), -1)
        return fit_scale_temperatures(*self.split(parameters), targets, self.is_given(targets))

    def is_given(self, targets: torch.Tensor) -> torch.Tensor:
        """Where a number is known, as the targets."""
        return ~targets.isnan()

    def require_fit(self, targets: torch.Tensor) -> None:
        """Numbers are (batch, outputs), or (batch,) for one."""
        count = self.config.num_outputs
        if (1 if targets.dim() == 1 else targets.shape[-1]) != count or targets.dim() > 2:
            raise ValueError(f"Each row has {count} numbers to predict, (batch, {count}); got {_describe(targets)}.")

    def compute_log_probs(self, parameters: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """(batch, 2 * outputs), (batch, outputs) -> (batch, outputs)."""
        mean, scale = self.split(parameters)
        targets = targets[:, None] if targets.dim() == 1 else targets
        given = self.is_given(targets)
        target = torch.where(given, targets.to(mean.dtype), mean.detach())
        normal = torch.distributions.Normal(mean, scale, validate_args=False)
        return normal.log_prob(target).masked_fill(~given, 0)

    def draw(self, parameters: torch.Tensor, noise: Noise, temperature: float = 1.0) -> torch.Tensor:
        """(rows, 2 * outputs) -> (rows, outputs)."""
        mean, scale = self.split(parameters)
        return mean + temperature * scale * noise.normal(mean.shape[-1]).to(mean.dtype)


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
            raise ValueError(f"Each row has a vector of {count} numbers, (batch, {count}); got {_describe(targets)}.")
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
            init.normal_(self.starts)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """(batch, hidden) -> (batch, parameters)."""
        logits, means, rest = super().forward(vectors).split(self._sections, dim=-1)
        return torch.cat([logits, means + self.starts.float().flatten(), rest], dim=-1)

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


def _describe(targets: torch.Tensor) -> str:
    return f"labels of the shape {tuple(targets.shape)}, {str(targets.dtype).removeprefix('torch.')}"


def _require_range(targets: torch.Tensor, count: int, known: str) -> None:
    """Raise for a target that is neither from 0 to below a number nor -100."""
    if torch.compiler.is_compiling():
        return
    wrong = ((targets < 0) | (targets >= count)) & (targets != -100)
    if wrong.any():
        raise ValueError(f"{known}, and -100 where nothing is known; got {targets[wrong][0].item()}.")


_PREDICTION_HEADS: dict[str, type[PredictionHead]] = {
    "class": ClassHead,
    "labels": LabelsHead,
    "regression": RegressionHead,
    "mixture": MixtureHead,
    "flow": FlowHead,
}


def build_prediction_head(config: GenextHeadConfig, hidden_size: int) -> PredictionHead:
    """Build the head of a single output that a configuration describes, for memories of a given width."""
    return _PREDICTION_HEADS[config.kind](config, hidden_size)


def compute_token_loss(
    logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
) -> torch.Tensor:
    """Cross-entropy in nats, averaged over the labelled positions, computed in float32 (of float64 in that).

    Args:
        logits: (batch, target, vocab).
        labels: (batch, target), -100 where there is nothing to predict.
        num_items_in_batch: What the sum is divided by: the labelled positions of the whole optimizer step, over all its
            accumulated batches and ranks. Left out, those of this batch.

    Returns:
        A scalar.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    total = nn.functional.cross_entropy(
        logits.flatten(0, -2), labels.flatten().to(logits.device), ignore_index=-100, reduction="sum"
    )
    if num_items_in_batch is None:
        return total / labels.ne(-100).sum().clamp(min=1).to(total.device)
    return total / (num_items_in_batch.to(total.device) if torch.is_tensor(num_items_in_batch) else num_items_in_batch)


__all__ = [
    "ClassHead",
    "DensityHead",
    "FlowHead",
    "LabelsHead",
    "MixtureHead",
    "PredictionHead",
    "RegressionHead",
    "TokenHead",
    "build_prediction_head",
    "compute_token_loss",
]

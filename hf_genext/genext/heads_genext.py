"""Heads: each turns states into a distribution that can be sampled from and that gives log-probabilities.

Legend: batch, target (output positions), hidden, vocab, outputs (classes, labels or numbers of a single output).
"""

from __future__ import annotations

import torch
from torch import nn

from .calibration_genext import find_threshold, fit_class_temperature, fit_label_temperatures, fit_scale_temperatures
from .configuration_heads_genext import GenextHeadConfig
from .density_heads_genext import FlowHead, LinearHead, MixtureHead
from .image_heads_genext import ImageHead
from .noise_genext import Noise
from .prediction_heads_genext import PredictionHead, at_least_one, describe_targets, require_finite


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
        logits = self(states)
        log_probs = (logits if logits.dtype == torch.float64 else logits.float()).log_softmax(dim=-1)
        return log_probs.gather(-1, tokens[..., None])[..., 0]

    def sample(self, states: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Draw one token at each position: (..., hidden) -> (...)."""
        probabilities = self(states).float().softmax(dim=-1)
        drawn = torch.multinomial(probabilities.flatten(0, -2), 1, generator=generator)
        return drawn.view(states.shape[:-1])


class ClassHead(PredictionHead):
    """One of several classes: a categorical distribution. Targets are (batch,), -100 where there is none."""

    def is_given(self, targets: torch.Tensor) -> torch.Tensor:
        """Where there is a class, (batch,)."""
        return targets != -100

    def require_fit(self, targets: torch.Tensor) -> None:
        """Classes are whole numbers, (batch,)."""
        count = self.config.num_outputs
        if targets.dim() != 1 or targets.is_floating_point():
            raise ValueError(f"Classes are whole numbers, (batch,); got {describe_targets(targets)}.")
        _require_range(targets, count, f"This head has the classes 0 to {count - 1}")

    def compute_log_probs(self, parameters: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """(batch, outputs), (batch,) -> (batch,)."""
        return -nn.functional.cross_entropy(parameters, targets, ignore_index=-100, reduction="none")

    def fit_temperature(self, parameters: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """(rows, outputs), (rows,) -> a scalar."""
        given = self.is_given(targets)
        return fit_class_temperature(parameters[given], targets[given])

    def draw_guided(
        self, conditional: torch.Tensor, null: torch.Tensor, scale: float, noise: Noise, temperature: float = 1.0
    ) -> torch.Tensor:
        """Twice (rows, outputs) -> (rows,)."""
        return self.draw(torch.lerp(null.log_softmax(dim=-1), conditional.log_softmax(dim=-1), scale), noise, temperature)

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
                f"{describe_targets(targets)}."
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

    def calibrate(self, parameters: torch.Tensor, targets: torch.Tensor) -> None:
        """(rows, outputs), (rows, outputs); a threshold that was chosen is chosen again, of the new probabilities."""
        before = self.temperature
        super().calibrate(parameters, targets)
        if self.config.threshold != 0.5:
            calibrated = parameters * before / self.temperature
            self.config.threshold = find_threshold(calibrated, targets, self.is_given(targets)) or self.config.threshold

    def choose_threshold(self, parameters: torch.Tensor, targets: torch.Tensor) -> None:
        """(rows, outputs), (rows, outputs)."""
        self.require_fit(targets)
        threshold = find_threshold(parameters, targets, self.is_given(targets))
        if threshold is None:
            raise ValueError("A threshold is chosen on rows that have labels, and no row has one. Give labelled rows.")
        self.config.threshold = threshold

    def draw_guided(
        self, conditional: torch.Tensor, null: torch.Tensor, scale: float, noise: Noise, temperature: float = 1.0
    ) -> torch.Tensor:
        """Each label by itself: twice (rows, outputs) -> (rows, outputs) of 0 and 1."""
        return self.draw(torch.lerp(null, conditional, scale), noise, temperature)

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
        """Finite numbers are (batch, outputs), or (batch,) for one."""
        count = self.config.num_outputs
        if (1 if targets.dim() == 1 else targets.shape[-1]) != count or targets.dim() > 2:
            raise ValueError(f"Each row has {count} numbers to predict, (batch, {count}); got {describe_targets(targets)}.")
        require_finite(targets)

    def compute_log_probs(self, parameters: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """(batch, 2 * outputs), (batch, outputs) -> (batch, outputs)."""
        mean, scale = self.split(parameters)
        targets = targets[:, None] if targets.dim() == 1 else targets
        given = self.is_given(targets)
        target = torch.where(given, targets.to(mean.dtype), mean.detach())
        normal = torch.distributions.Normal(mean, scale, validate_args=False)
        return normal.log_prob(target).masked_fill(~given, 0)

    def draw_guided(
        self, conditional: torch.Tensor, null: torch.Tensor, scale: float, noise: Noise, temperature: float = 1.0
    ) -> torch.Tensor:
        """Each number by itself, for powers of normal densities multiply to one: -> (rows, outputs).

        Raises:
            ValueError: where they do not, because the density without a condition is so much narrower than the other.
        """
        (mean, width), (null_mean, null_width) = self.split(conditional), self.split(null)
        precision = torch.lerp(null_width**-2, width**-2, scale)
        if (precision <= 0).any():
            raise ValueError(
                f"With guidance_scale={scale} there is nothing to draw from: without its condition a number is surer than with "
                "it, so that their ratio grows without bound. Use a smaller guidance_scale."
            )
        middle = torch.lerp(null_mean * null_width**-2, mean * width**-2, scale) / precision
        return middle + temperature * precision**-0.5 * noise.normal(mean.shape[-1]).to(mean.dtype)

    def draw(self, parameters: torch.Tensor, noise: Noise, temperature: float = 1.0) -> torch.Tensor:
        """(rows, 2 * outputs) -> (rows, outputs)."""
        mean, scale = self.split(parameters)
        return mean + temperature * scale * noise.normal(mean.shape[-1]).to(mean.dtype)


def _require_range(targets: torch.Tensor, count: int, known: str) -> None:
    """Raise for a target that is neither from 0 to below a number nor -100."""
    if torch.compiler.is_compiling():
        return
    wrong = ((targets < 0) | (targets >= count)) & (targets != -100)
    if wrong.any():
        raise ValueError(f"{known}, and -100 where nothing is known; got {targets[wrong][0].item()}.")


def require_tokens(labels: torch.Tensor, vocab_size: int) -> None:
    """Raise for a label that is no token of a model; a compiled one does not look.

    Args:
        labels: (batch, target), -100 where there is nothing to predict.
        vocab_size: Tokens of the model.

    Raises:
        ValueError: naming one that is not.
    """
    _require_range(labels, vocab_size, f"This model writes the tokens 0 to {vocab_size - 1}")


_PREDICTION_HEADS: dict[str, type[PredictionHead]] = {
    "class": ClassHead,
    "labels": LabelsHead,
    "regression": RegressionHead,
    "mixture": MixtureHead,
    "flow": FlowHead,
    "image": ImageHead,
    "ppca": LinearHead,
    "ica": LinearHead,
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
    return total / at_least_one(num_items_in_batch, total.device)


def add_losses(
    loss: torch.Tensor, parts: dict[str, torch.Tensor] | None, count: torch.Tensor | int
) -> tuple[torch.Tensor, dict[str, torch.Tensor] | None]:
    """Add what a bottleneck adds to the loss.

    Args:
        loss: The reconstruction, a scalar: a sum of nats divided by a number of targets.
        parts: Named parts in nats of each row, each (batch,).
        count: That number of targets, so that all parts of an optimizer step are divided alike.

    Returns:
        The whole loss, and its parts without gradient; `None` for these where the bottleneck adds nothing.
    """
    if not parts:
        return loss, None
    scaled = divide_losses(parts, count)
    losses = {"reconstruction": loss.detach(), **{name: part.detach() for name, part in scaled.items()}}
    return loss + sum(scaled.values()), losses


def divide_losses(parts: dict[str, torch.Tensor], count: torch.Tensor | int) -> dict[str, torch.Tensor]:
    """Named parts of a loss in nats of each row, (batch,), as scalars: sums divided by a number of targets, at least 1."""
    return {name: part.sum() / at_least_one(count, part.device) for name, part in parts.items()}


__all__ = [
    "ClassHead",
    "LabelsHead",
    "RegressionHead",
    "TokenHead",
    "add_losses",
    "build_prediction_head",
    "compute_token_loss",
    "divide_losses",
    "require_tokens",
]

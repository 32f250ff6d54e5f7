"""What the heads of single outputs share.

Legend: batch, rows, hidden, outputs (classes, labels or numbers of a single output).
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import nn
from transformers import PreTrainedConfig

from .configuration_heads_genext import GenextHeadConfig
from .layers_genext import GenextResidualLinear, GenextRMSNorm
from .noise_genext import Noise
from .pretrained_genext import GenextPreTrainedModel


class HeadLayer(nn.Module):
    """A residual layer of the network before the distribution: x + down(act(up(norm(x))))."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.norm = GenextRMSNorm(hidden_size)
        self.up_proj = nn.Linear(hidden_size, 2 * hidden_size)
        self.down_proj = GenextResidualLinear(2 * hidden_size, hidden_size)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(batch, hidden) -> the same."""
        return states + self.down_proj(nn.functional.silu(self.up_proj(self.norm(states))))


class PredictionHead(GenextPreTrainedModel):
    """What the heads of a single output share: from one vector for each row to the parameters of a distribution."""

    config_class = GenextHeadConfig

    def __init__(self, config: PreTrainedConfig, hidden_size: int) -> None:
        super().__init__(config)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(HeadLayer(hidden_size) for _ in range(config.num_hidden_layers or 0))
        self.norm = GenextRMSNorm(hidden_size) if config.num_hidden_layers else nn.Identity()
        self.projection = nn.Linear(hidden_size, self.build(hidden_size))
        self.post_init()

    def build(self, hidden_size: int) -> int:
        """Make what the head has besides the projection, and say how many numbers that has to give for each row."""
        return self.config.num_outputs

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """The distribution's parameters, calibrated: (batch, hidden) -> (batch, parameters)."""
        for layer in self.layers:
            vectors = layer(vectors)
        parameters = self.projection(self.dropout(self.norm(vectors)))
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

    def draw_guided(
        self, conditional: torch.Tensor, null: torch.Tensor, scale: float, noise: Noise, temperature: float = 1.0
    ) -> torch.Tensor:
        """A sample, for each row of the noise, of the distribution whose logarithm is null + scale * (conditional - null).

        But for a constant (Ho and Salimans 2022). See [`draw`].

        Args:
            conditional: Parameters given a condition, (rows, parameters).
            null: Parameters given none.
            scale: 1 is the first, 0 the second.
            noise: That of the rows.
            temperature: As [`draw`] takes it.

        Raises:
            ValueError: for heads of which there is no such distribution that can be drawn from.
        """
        raise ValueError(
            f'There is no guidance for a head of kind "{self.config.kind}", whose densities do not mix into one that can be '
            'drawn from; "class", "labels", "regression" and "image" have it. Leave guidance_scale out.'
        )

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
        count = self.is_given(targets).sum() if num_items_in_batch is None else num_items_in_batch
        return -log_probs.sum() / at_least_one(count, log_probs.device)


def require_finite(targets: torch.Tensor) -> None:
    """Raise for numbers that are infinite; those that are missing (NaN) may be.

    Raises:
        ValueError: saying which row has one.
    """
    if torch.compiler.is_compiling():
        return
    infinite = targets.isinf()
    if infinite.any():
        row = int(infinite.nonzero()[0, 0])
        raise ValueError(
            f"Numbers to predict are finite, and row {row} of the batch holds an infinite one. Leave it out, or make it NaN."
        )


def at_least_one(count: torch.Tensor | int, device: torch.device) -> torch.Tensor | int:
    """A number of targets to divide by; of an optimizer step that has none the loss is 0."""
    return count.to(device).clamp(min=1) if torch.is_tensor(count) else max(1, count)


def describe_targets(targets: torch.Tensor) -> str:
    """Shape and kind of targets, for errors."""
    return f"labels of the shape {tuple(targets.shape)}, {str(targets.dtype).removeprefix('torch.')}"


__all__ = ["PredictionHead", "at_least_one", "describe_targets", "require_finite"]

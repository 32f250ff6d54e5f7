"""What bottlenecks with a distribution over their memory have in common: latents that are read from the target or drawn.

Legend: batch, length (states), slots (latent slots of the memory), hidden, units (of a row's latents, numbers or codes),
samples (drawn for each row).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from .configuration_bottlenecks_genext import GenextBottleneckConfig
from .layers_genext import GenextMLP, GenextRMSNorm
from .outputs_genext import BottleneckOutput, ConditionerOutput, LatentOutput
from .pretrained_genext import GenextPreTrainedModel


class Context(NamedTuple):
    """What the decoder reads beside the latents: the states of conditions that do not hold the target."""

    states: torch.Tensor | None  # (batch, length, hidden)
    mask: torch.Tensor | None  # (batch, length)
    is_encoded: torch.Tensor | None  # (batch,), where the conditions tell which rows have a target


class LatentBottleneck(GenextPreTrainedModel):
    """A memory of a fixed number of slots that is read from the target, or where there is none drawn from a prior.

    Args:
        config: Its configuration, with `posterior_conditions` as the encoder has them.
        states_size: Width of the conditioner's states.

    Attributes:
        num_units: Latents of a row.
        training_progress: The share of the training that has passed, 0 to 1, by which schedules are planned. `GenextTrainer`
            sets it before each step; a training loop of one's own does, where there is a schedule.
        is_certain: Whether a target leaves no doubt about its latents, so that one draw says as much as many.
    """

    config_class = GenextBottleneckConfig
    is_certain = False

    def __init__(self, config: GenextBottleneckConfig, states_size: int) -> None:
        super().__init__(config)
        self.training_progress = 1.0
        self.num_units = config.num_latents * config.latent_size

    def add_mlp(self, states_size: int) -> None:
        """Make the layers of [`build_memory`], the last that a bottleneck makes."""
        config, hidden_size = self.config, self.config.hidden_size or states_size
        has_context = config.posterior_conditions is not None
        self.mlp_norm = GenextRMSNorm(hidden_size, config.rms_norm_eps)
        self.mlp = GenextMLP(config)
        self.norm = GenextRMSNorm(hidden_size, config.rms_norm_eps)
        self.context_projection = (
            nn.Linear(states_size, hidden_size) if has_context and states_size != hidden_size else nn.Identity()
        )

    @property
    def num_noise(self) -> int:
        """Numbers of noise that decide what is drawn for a row: one for each unit, and one more."""
        return self.num_units + 1

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The latents of a row, as they are shown."""
        return (self.config.num_latents, self.config.latent_size)

    @property
    def schedule(self) -> dict[str, float]:
        """The weights in the training loss that change, by their names in the logs."""
        return {}

    def shape_noise(self, noise: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
        """The noise for [`forward`] of standard normal numbers, (rows, `num_noise`), at a temperature."""
        raise NotImplementedError

    def forward(
        self,
        condition: ConditionerOutput,
        batch_size: int,
        noise: torch.Tensor | None = None,
        sample: bool | None = None,
        is_encoded: torch.Tensor | None = None,
    ) -> BottleneckOutput:
        """Read or draw latents, and make the memory of them.

        Args:
            condition: What the conditioner gave; without states where no row has a target.
            batch_size: Rows.
            noise: Decides what is drawn, (batch, `num_noise`), as [`shape_noise`] gives it; torch's own randomness if left out.
            sample: Whether to draw (`True`), or to take what is likeliest (`False`). Left out, training draws all, and
                evaluation the rows without a target.
            is_encoded: Which rows have a target, (batch,), where the condition does not tell.

        Returns:
            The memory (batch, slots + length of what the decoder reads besides, hidden), its mask, the parts of the loss, each
            (batch,), and the latents.
        """
        raise NotImplementedError

    def write(self, values: torch.Tensor, latents: LatentOutput) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The memory of latents.

        Args:
            values: (batch * samples, units), those of a row beside each other.
            latents: What [`forward`] gave for the rows.

        Returns:
            (batch * samples, slots + length, hidden), and 1 where a slot is real, (batch * samples, slots + length), or `None`.
        """
        raise NotImplementedError

    def draw(self, latents: LatentOutput, noise: torch.Tensor | None = None, sample: bool | None = None) -> torch.Tensor:
        """The target's latents, and the prior's where a row has no target; (batch, units). See [`forward`]."""
        raise NotImplementedError

    def compute_log_ratio(self, values: torch.Tensor, latents: LatentOutput) -> torch.Tensor:
        """The logarithm of the prior's density over that of what the values were drawn from.

        Args:
            values: (samples, batch, units).
            latents: What [`forward`] gave for the rows.

        Returns:
            (samples, batch); 0 for rows that are not encoded, whose latents are the prior's.
        """
        raise NotImplementedError

    def split_context(self, condition: ConditionerOutput) -> Context:
        """The states that are no target's, their mask, and which rows have a target."""
        lengths, names = condition.part_lengths, self.config.posterior_conditions
        if lengths is None:
            return Context(None, None, None)
        states: Any = condition.states
        present: Any = condition.present
        is_target = torch.tensor([names is None or name in names for name in lengths], device=states.device)
        present = present[:, is_target].any(dim=1)
        if names is None or all(name in names for name in lengths):
            return Context(None, None, present)
        is_context = ~is_target.repeat_interleave(torch.tensor(list(lengths.values()), device=states.device))
        places = is_context.nonzero()[:, 0]
        return Context(states[:, places], None if condition.mask is None else condition.mask[:, places], present)

    def build_memory(self, states: torch.Tensor, latents: LatentOutput) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The memory and its mask: one MLP over the states of latents, and behind them what the decoder reads besides.

        Args:
            states: (batch * samples, slots, hidden).
            latents: What [`forward`] gave for the rows.

        Returns:
            See [`write`].
        """
        states = states + self.slots.weight
        memory = self.norm(states + self.mlp(self.mlp_norm(states)))
        if latents.context is None:
            return memory, None
        samples = len(memory) // len(latents.context)
        context = self.context_projection(latents.context).repeat_interleave(samples, dim=0)
        mask = latents.context_mask
        if mask is not None:
            mask = torch.cat([mask.new_ones(memory.shape[:2]), mask.repeat_interleave(samples, dim=0)], dim=1)
        return torch.cat([memory, context.to(memory.dtype)], dim=1), mask


__all__ = ["Context", "LatentBottleneck"]

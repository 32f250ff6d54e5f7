"""The variational bottleneck: latent numbers with a posterior that reads the target, and a prior that does not.

A variational autoencoder (Kingma and Welling 2014), conditional where some conditions are no target (Sohn et al. 2015). The
encoder's conditioners are its recognition network: what they read of the target, pooled by learned queries, gives the
posterior. The decoder reads the latent numbers, and the states of the conditions that are not the target.

Legend: batch, length (states), slots (latent slots of the memory), hidden, units (latent numbers of a row: slots * latent
size), components (of the prior), samples (drawn for each row).
"""

from __future__ import annotations

import math

import torch
from torch import nn
from transformers import initialization as init

from .configuration_bottlenecks_genext import GenextBottleneckConfig
from .latent_bottlenecks_genext import LatentBottleneck
from .noise_genext import choose_outcomes, find_places
from .outputs_genext import BottleneckOutput, ConditionerOutput, GaussianOutput
from .pooled_genext import PooledBottleneck
from .pretrained_genext import GenextPreTrainedModel

_LARGEST_LOG_VARIANCE = 14.0


class GaussianNetwork(GenextPreTrainedModel):
    """Reads states with learned queries, and gives the mean and the log-variance of each latent number."""

    config_class = GenextBottleneckConfig

    def __init__(self, config: GenextBottleneckConfig, states_size: int) -> None:
        super().__init__(config)
        self.pool = PooledBottleneck(config, states_size)
        self.projection = nn.Linear(config.hidden_size or states_size, 2 * config.latent_size)
        self.post_init()

    def forward(self, states: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, length, hidden), (batch, length) -> means and log-variances, each (batch, units), in float32 at least."""
        means, log_variances = _widen(self.projection(self.pool(states, mask).memory)).chunk(2, dim=-1)
        return means.flatten(1), log_variances.flatten(1).clamp(-_LARGEST_LOG_VARIANCE, _LARGEST_LOG_VARIANCE)


class VariationalBottleneck(LatentBottleneck):
    """Draws a memory of a fixed number of slots from a normal posterior, or where there is no target from a prior.

    Args:
        config: Its configuration, with `posterior_conditions` as the encoder has them.
        states_size: Width of the conditioner's states.
    """

    def __init__(self, config: GenextBottleneckConfig, states_size: int) -> None:
        super().__init__(config, states_size)
        hidden_size = config.hidden_size or states_size
        self.posterior = GaussianNetwork(config, states_size)
        self.prior = GaussianNetwork(config, states_size) if config.prior == "conditional" else None
        if config.prior == "mixture":
            self.component_logits = nn.Parameter(torch.empty(config.num_components))
            self.component_means = nn.Parameter(torch.empty(config.num_components, self.num_units))
            self.component_log_variances = nn.Parameter(torch.empty(config.num_components, self.num_units))
        self.slots = nn.Embedding(config.num_latents, hidden_size)
        self.latents_projection = nn.Linear(self.num_units, config.num_latents * hidden_size, bias=False)
        self.add_mlp(states_size)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self and self.config.prior == "mixture":
            init.zeros_(self.component_logits)
            init.normal_(self.component_means)
            init.zeros_(self.component_log_variances)

    @property
    def kl_weight(self) -> float:
        """What the divergence counts in the training loss, at this point of the training."""
        config = self.config
        position = self.training_progress * config.kl_cycles
        in_cycle = 1.0 if self.training_progress >= 1.0 else position - math.floor(position)
        if in_cycle >= config.kl_delay + config.kl_warmup:
            return float(config.kl_weight)
        if in_cycle <= config.kl_delay:
            return 0.0
        return float(config.kl_weight) * (in_cycle - config.kl_delay) / config.kl_warmup

    @property
    def schedule(self) -> dict[str, float]:
        """The weight of the divergence."""
        return {"kl_weight": self.kl_weight}

    def shape_noise(self, noise: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
        """The noise of the latent numbers times the temperature; the last, which chooses a component, stays as it is."""
        return torch.cat([noise[:, :-1] * temperature, noise[:, -1:]], dim=1)

    def forward(
        self,
        condition: ConditionerOutput,
        batch_size: int,
        noise: torch.Tensor | None = None,
        sample: bool | None = None,
        is_encoded: torch.Tensor | None = None,
    ) -> BottleneckOutput:
        """Draw latent numbers, and make the memory of them.

        Args:
            condition: See [`LatentBottleneck.forward`], as all that follows.
            batch_size: Rows.
            noise: (batch, units + 1), one number for each unit, and one that chooses a component of the prior.
            sample: `False` takes the posterior's means, and the middle of the prior's largest component.
            is_encoded: Which rows have a target, (batch,).

        Returns:
            The memory; the divergence as the part `kl` of the loss, weighted in training; and the latent numbers.
        """
        latents = self._infer(condition, batch_size, is_encoded)
        latents.values = self.draw(latents, noise, sample)
        memory, memory_mask = self.write(latents.values, latents)
        loss = latents.kl
        if self.training:
            loss = self.kl_weight * loss.clamp(min=float(self.config.free_nats)) * latents.is_encoded[:, None]
        return BottleneckOutput(memory=memory, memory_mask=memory_mask, losses={"kl": loss.sum(dim=1)}, latents=latents)

    def write(self, values: torch.Tensor, latents: GaussianOutput) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The memory of latent numbers: (batch * samples, units) -> see [`LatentBottleneck.write`]."""
        states = self.latents_projection(values.to(self.latents_projection.weight.dtype))
        return self.build_memory(states.view(len(values), self.config.num_latents, -1), latents)

    def _infer(self, condition: ConditionerOutput, batch_size: int, is_encoded: torch.Tensor | None) -> GaussianOutput:
        """Posterior, prior, and the divergence between them."""
        like = self.latents_projection.weight
        states, mask = condition.states, condition.mask
        context, context_mask, present = self.split_context(condition)
        if states is None:
            is_encoded = torch.zeros(batch_size, dtype=torch.bool, device=like.device)
            means = torch.zeros(batch_size, self.num_units, device=like.device)
            log_variances = torch.zeros_like(means)
        else:
            means, log_variances = self.posterior(states, mask)
            if is_encoded is None:
                is_encoded = torch.ones(batch_size, dtype=torch.bool, device=like.device) if present is None else present
        if self.config.prior == "mixture":
            log_weights = _widen(self.component_logits).log_softmax(dim=0).expand(batch_size, -1)
            prior_means = _widen(self.component_means).expand(batch_size, -1, -1)
            clamped = _widen(self.component_log_variances).clamp(-_LARGEST_LOG_VARIANCE, _LARGEST_LOG_VARIANCE)
            prior_log_variances = clamped.expand(batch_size, -1, -1)
        else:
            log_weights = means.new_zeros(batch_size, 1)
            if self.prior is None:
                prior_means = prior_log_variances = means.new_zeros(batch_size, 1, self.num_units)
            else:
                prior_means, prior_log_variances = (part[:, None] for part in self.prior(context, context_mask))
        latents = GaussianOutput(
            means=means,
            log_variances=log_variances,
            is_encoded=is_encoded,
            prior_log_weights=log_weights,
            prior_means=prior_means,
            prior_log_variances=prior_log_variances,
            context=context,
            context_mask=context_mask,
        )
        latents.kl = compute_divergence(latents) * is_encoded[:, None]
        return latents

    def draw(self, latents: GaussianOutput, noise: torch.Tensor | None = None, sample: bool | None = None) -> torch.Tensor:
        """Latent numbers of the posterior, and of the prior where a row has no target: (batch, units)."""
        encoded = latents.is_encoded[:, None]
        if sample is False:
            return torch.where(encoded, latents.means, draw_from_prior(latents, None))
        if noise is None:
            noise = torch.randn(len(encoded), self.num_noise, device=encoded.device)
        posterior = latents.means
        if sample or self.training:
            posterior = posterior + (0.5 * latents.log_variances).exp() * noise[:, :-1]
        return torch.where(encoded, posterior, draw_from_prior(latents, noise))

    def compute_log_ratio(self, values: torch.Tensor, latents: GaussianOutput) -> torch.Tensor:
        """Prior over posterior density: see [`LatentBottleneck.compute_log_ratio`]."""
        posterior = _log_normal(values, latents.means, latents.log_variances)
        prior = _log_normal(values[:, :, None], latents.prior_means, latents.prior_log_variances)
        ratio = (latents.prior_log_weights + prior).logsumexp(dim=-1) - posterior
        return ratio.masked_fill(~latents.is_encoded, 0.0)


def draw_from_prior(latents: GaussianOutput, noise: torch.Tensor | None) -> torch.Tensor:
    """Latent numbers of the prior.

    Args:
        latents: What the bottleneck gave.
        noise: (batch, units + 1), the last of which chooses a component; without it the middle of the largest is taken.

    Returns:
        (batch, units).
    """
    rows = torch.arange(len(latents.prior_means), device=latents.prior_means.device)
    if noise is None:
        return latents.prior_means[rows, latents.prior_log_weights.argmax(dim=1)]
    chosen = torch.zeros_like(rows)
    if latents.prior_log_weights.shape[1] > 1:
        chosen = choose_outcomes(latents.prior_log_weights, find_places(noise[:, -1]))
    scales = (0.5 * latents.prior_log_variances[rows, chosen]).exp()
    return latents.prior_means[rows, chosen] + scales * noise[:, :-1]


def compute_divergence(latents: GaussianOutput) -> torch.Tensor:
    """The Kullback-Leibler divergence of the posterior from the prior, in nats, by units.

    Exact for a prior with one component. Of a mixture it is the bound -log sum w exp(-KL to each) (Hershey and Olsen 2007), of
    which each unit has what it adds to that of the units before it; none of these is below 0.

    Args:
        latents: Posterior and prior.

    Returns:
        (batch, units).
    """
    means, log_variances = latents.means[:, None], latents.log_variances[:, None]
    ratio = log_variances - latents.prior_log_variances
    distance = (means - latents.prior_means).square() / latents.prior_log_variances.exp()
    divergence = 0.5 * (ratio.exp() - 1.0 - ratio + distance)
    if divergence.shape[1] == 1:
        return divergence[:, 0]
    passed = -(latents.prior_log_weights[..., None] - divergence.cumsum(dim=-1)).logsumexp(dim=1)
    return torch.diff(passed, dim=-1, prepend=torch.zeros_like(passed[:, :1]))


def _log_normal(values: torch.Tensor, means: torch.Tensor, log_variances: torch.Tensor) -> torch.Tensor:
    """The log-density of independent normal numbers: (..., units) -> (...)."""
    normal = (values - means).square() * (-log_variances).exp() + log_variances + math.log(2.0 * math.pi)
    return -0.5 * normal.sum(dim=-1)


def _widen(values: torch.Tensor) -> torch.Tensor:
    """Numbers in float32 at least."""
    return values if values.dtype == torch.float64 else values.float()


__all__ = [
    "GaussianNetwork",
    "VariationalBottleneck",
    "compute_divergence",
    "draw_from_prior",
]

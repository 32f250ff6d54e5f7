"""Whether latents say anything: divergence, units, mutual information, codes in use; and the loss by parts.

Legend: rows, units (latent numbers of a row), slots (each with a code).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from hf_genext.genext.latent_bottlenecks_genext import LatentBottleneck
from hf_genext.genext.missing_labels_genext import plan_generative_losses
from hf_genext.genext.outputs_genext import GaussianOutput, LatentOutput
from hf_genext.genext.seeding_genext import draw_normal, make_keys

ACTIVE_VARIANCE = 0.01
"""A unit is active where the means of its posteriors vary by more than this over the data (Burda et al. 2016)."""

MUTUAL_INFORMATION_ROWS = 2_000
"""Rows, at most, of which mutual information is estimated; its estimate cannot exceed the logarithm of their number."""

INFORMATIVE_NATS = 0.01
"""Without free bits a unit tells something where its mean divergence from the prior is above this, in nats."""

_SHOWN_UNITS = 64
_SAME_PRIOR = 1e-3
_FEWEST_COMPARED = 30


def measure_latents(
    means: torch.Tensor,
    log_variances: torch.Tensor,
    kl: torch.Tensor,
    noise: torch.Tensor | None = None,
    *,
    prior_means: torch.Tensor | None = None,
    prior_log_variances: torch.Tensor | None = None,
    free_nats: float = 0.0,
) -> dict[str, float]:
    """What the posteriors of a data set tell of its latent numbers. A collapsed model has next to none of any.

    Means are counted from those of the prior, in its standard deviations, so that what a conditional prior knows without the
    target is no activity.

    Args:
        means: Of the posteriors, (rows, units).
        log_variances: Likewise.
        kl: The divergence of each from the prior in nats, (rows, units).
        noise: Standard normal numbers for the estimate of mutual information, (rows, units); drawn if left out.
        prior_means: Of each row's prior, as [`describe_priors`] gives them, (rows, units); 0 if left out.
        prior_log_variances: Likewise.
        free_nats: What the training lets each unit have without counting it.

    Returns:
        `kl`, the mean divergence of a row in nats; `active_units`, how many units have posterior means whose variance over the
        rows is above 0.01 (Burda et al. 2016), and `active_share`, which share of all; `informative_units`, how many have a
        mean divergence above twice the free nats, or above 0.01 where there are none: free bits keep units active that tell
        next to nothing; `mutual_information` of rows and latent numbers in nats, by draws from the posteriors against their
        mean, the aggregated posterior (Hoffman and Johnson 2016), at most the logarithm of the number of rows, of which the
        first 2,000 are taken; `kl_unit_N`, the mean divergence of each unit, up to 64 of them.

        Where priors differ by conditions, mutual information is that given the condition: the mean is over the rows with the
        same prior. Where few rows share one (below 30 for half of them), it is over all rows, each in the units of its own
        prior, which counts too what these posteriors tell of the condition.

    Example:
        >>> import torch
        >>> found = measure_latents(torch.zeros(10, 2), torch.zeros(10, 2), torch.zeros(10, 2))
        >>> found["active_units"], found["informative_units"], round(found["mutual_information"], 6)
        (0.0, 0.0, 0.0)
    """
    means, log_variances = means.double(), log_variances.double()
    same = None
    if prior_means is not None and prior_log_variances is not None:
        prior_means, prior_log_variances = prior_means.double(), prior_log_variances.double()
        scales = (-0.5 * prior_log_variances).exp()
        same = _find_same_priors(prior_means * scales, prior_log_variances)
        means, log_variances = (means - prior_means) * scales, log_variances - prior_log_variances
    active = float((means.var(dim=0, unbiased=False) > ACTIVE_VARIANCE).sum())
    by_unit = kl.double().mean(dim=0)
    found = {
        "kl": float(by_unit.sum()),
        "active_units": active,
        "active_share": active / means.shape[1],
        "informative_units": float((by_unit > (2.0 * free_nats or INFORMATIVE_NATS)).sum()),
        "mutual_information": _estimate_mutual_information(means, log_variances, noise, same),
    }
    return {**found, **{f"kl_unit_{unit}": float(value) for unit, value in enumerate(by_unit[:_SHOWN_UNITS])}}


def describe_priors(latents: GaussianOutput) -> tuple[torch.Tensor, torch.Tensor]:
    """The means and log-variances of the latent numbers before a target is seen, each (batch, units); of a mixture its whole.

    Args:
        latents: What the bottleneck gave.
    """
    weights = latents.prior_log_weights.exp()[..., None]
    means = (weights * latents.prior_means).sum(dim=1)
    distances = (latents.prior_means - means[:, None]).square()
    return means, (weights * (latents.prior_log_variances.exp() + distances)).sum(dim=1).log()


def measure_codes(codes: torch.Tensor, kl: torch.Tensor, num_codes: int) -> dict[str, float]:
    """How a data set uses a codebook. A collapsed one has few codes in use.

    Args:
        codes: Of each row, (rows, slots).
        kl: Minus their log-probabilities in nats, (rows, slots).
        num_codes: Codes of the codebook.

    Returns:
        `kl`, what a row's codes take in nats by their prior; `code_usage`, the share of codes that are used at all;
        `code_perplexity`, of the frequencies with which they are used: so many codes, all used alike, would be as hard to
        guess.

    Example:
        >>> import torch
        >>> found = measure_codes(torch.tensor([[0, 1], [1, 0]]), torch.zeros(2, 2), 8)
        >>> found["code_usage"], round(found["code_perplexity"], 6)
        (0.25, 2.0)
    """
    counts = torch.bincount(codes.flatten(), minlength=num_codes).double()
    shares = counts / counts.sum()
    return {
        "kl": float(kl.double().sum(dim=1).mean()),
        "code_usage": float((counts > 0).double().mean()),
        "code_perplexity": float(torch.special.entr(shares).sum().exp()),
    }


def _find_same_priors(means: torch.Tensor, log_variances: torch.Tensor) -> torch.Tensor | None:
    """Which of the first rows have the same prior, (rows, rows); `None` where all have, or too few share one.

    Args:
        means: In standard deviations, (rows, units).
        log_variances: (rows, units).
    """
    priors = torch.cat([means, log_variances], dim=1)[:MUTUAL_INFORMATION_ROWS]
    # The same condition gives the same numbers but for rounding, which depends on the batch.
    same = torch.cdist(priors, priors, p=torch.inf) < _SAME_PRIOR
    return None if same.all() or same.sum(dim=1).median() < _FEWEST_COMPARED else same


def _estimate_mutual_information(
    means: torch.Tensor, log_variances: torch.Tensor, noise: torch.Tensor | None, same: torch.Tensor | None
) -> float:
    """The mean of log q(z|x) - log q(z), for a draw of each row; q(z) of the rows that are the same in something."""
    means, log_variances = means[:MUTUAL_INFORMATION_ROWS], log_variances[:MUTUAL_INFORMATION_ROWS]
    rows = len(means)
    noise = torch.randn_like(means) if noise is None else noise[:rows].double()
    values = means + (0.5 * log_variances).exp() * noise
    # The logarithms of all densities at all draws, (draws, rows), by the square of a difference written out.
    precision = (-log_variances).exp()
    squares = values.square() @ precision.T - 2.0 * values @ (means * precision).T + (means.square() * precision).sum(dim=1)
    densities = -0.5 * (squares + log_variances.sum(dim=1) + means.shape[1] * math.log(2.0 * math.pi))
    own = densities.diagonal()
    if same is None:
        return max(0.0, float((own - densities.logsumexp(dim=1)).mean()) + math.log(rows))
    aggregated = densities.masked_fill(~same, -torch.inf).logsumexp(dim=1) - same.sum(dim=1).log()
    return max(0.0, float((own - aggregated).mean()))


class LatentMonitor:
    """What a trainer has to do with the latent numbers of its model: plan, draw, and report.

    Args:
        model: Any model.
        seed: Of the draws in evaluation.
        rank: Of this process, whose rows are not those of the others.

    Attributes:
        is_evaluated: Whether evaluations draw latent numbers, too.
    """

    def __init__(self, model: nn.Module, seed: int, rank: int = 0) -> None:
        found = {name: module for name, module in model.named_modules() if isinstance(module, LatentBottleneck)}
        self._bottlenecks = list(found.values())
        # The generative half of a classifier is run in training alone.
        self.is_evaluated = any("generative" not in name.split(".") for name in found)
        self._generative = getattr(getattr(model, "config", None), "generative", None)
        self._seed, self._rank = seed, rank
        self._parts: dict[str, float | torch.Tensor] = {}
        self._collected: list[tuple[torch.Tensor, ...]] = []
        self._drawn = 0

    @property
    def is_needed(self) -> bool:
        """Whether the model has latent numbers."""
        return bool(self._bottlenecks)

    @property
    def schedule(self) -> dict[str, float]:
        """How much the parts of the loss count by now, each by its name; nothing for a model without latent numbers."""
        if not self._bottlenecks:
            return {}
        first, generative = self._bottlenecks[0], self._generative
        planned = {} if generative is None else plan_generative_losses(generative, first.training_progress)
        return {**first.schedule, **planned}

    def plan(self, progress: float) -> None:
        """Say which share of the training has passed, 0 to 1."""
        for bottleneck in self._bottlenecks:
            bottleneck.training_progress = progress

    def note_parts(self, losses: dict[str, torch.Tensor] | None) -> None:
        """Add the parts of a batch's loss to those of the steps since the last log."""
        for name, value in (losses or {}).items():
            self._parts[name] = self._parts.get(name, 0.0) + value

    def take_parts(self, steps: int, gather: Any) -> dict[str, float]:
        """The parts of the loss, averaged over steps and summed over ranks, for the log; and what of them counts by now."""
        if not self._parts:
            return {}
        names = sorted(self._parts)
        sums = gather(torch.stack([torch.as_tensor(self._parts[name]) for name in names])[None]).sum(dim=0)
        self._parts = {}
        found = {f"loss_{name}": float(total) / max(steps, 1) for name, total in zip(names, sums, strict=True)}
        return {**found, **self.schedule}

    def start_evaluation(self) -> None:
        """Forget what an evaluation before has collected."""
        self._collected, self._drawn = [], 0

    def draw_noise(self, num_rows: int, device: torch.device) -> torch.Tensor:
        """Noise for the next rows of an evaluation, the same each time: (rows, units + 1)."""
        first = (self._rank << 32) + self._drawn
        places = range(first, first + num_rows)
        self._drawn += num_rows
        bottleneck = self._bottlenecks[0]
        noise = draw_normal(make_keys([(self._seed, place) for place in places], 1), bottleneck.num_noise)
        return bottleneck.shape_noise(noise).to(device)

    def collect(self, latents: LatentOutput) -> None:
        """Keep the posteriors or the codes of a batch."""
        rows = latents.is_encoded
        if isinstance(latents, GaussianOutput):
            of_rows = (latents.means, latents.log_variances, latents.kl, *describe_priors(latents))
            kept: tuple[torch.Tensor, ...] = tuple(part[rows] for part in of_rows)
        else:
            kept = (latents.values[rows], latents.kl[rows])
        self._collected.append(tuple(part.float().cpu() for part in kept))

    def report(self, gather: Any) -> dict[str, float]:
        """What [`measure_latents`] or [`measure_codes`] says of an evaluation's rows, of all ranks."""
        collected = gather(self._collected)
        if not collected:
            return {}
        parts = [torch.cat(several) for several in zip(*collected, strict=True)]
        if len(parts) == 2:
            codes, kl = parts
            return measure_codes(codes.long(), kl, self._bottlenecks[0].config.num_codes) if len(codes) else {}
        means, log_variances, kl, *priors = parts
        if not len(means):
            return {}
        noise = draw_normal(make_keys([(self._seed, len(means))], 1), means.shape[1] * min(len(means), MUTUAL_INFORMATION_ROWS))
        return measure_latents(
            means,
            log_variances,
            kl,
            noise.view(-1, means.shape[1]),
            prior_means=priors[0],
            prior_log_variances=priors[1],
            free_nats=self._bottlenecks[0].config.free_nats,
        )


__all__ = ["ACTIVE_VARIANCE", "INFORMATIVE_NATS", "LatentMonitor", "describe_priors", "measure_codes", "measure_latents"]

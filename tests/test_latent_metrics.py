"""What is told of latent numbers: known posteriors, priors that know the condition, free bits, mixtures."""

from __future__ import annotations

import math

import pytest
import torch
from specimens import build_latents

from hf_genext.genext.outputs_genext import GaussianOutput
from hf_genext.genext.variational_genext import compute_divergence
from hf_genext.latent_metrics import describe_priors, measure_latents


def test_mutual_information_and_active_units_of_known_posteriors():
    torch.manual_seed(0)
    means = torch.zeros(1000, 3)
    means[:, 0] = torch.tensor([-20.0, 0.0, 20.0, 40.0]).repeat(250)
    means[:, 1] = 0.05 * torch.randn(1000)
    found = measure_latents(means, torch.zeros(1000, 3), torch.full((1000, 3), 0.25))
    assert found["active_units"] == 1.0 and found["active_share"] == pytest.approx(1 / 3)
    assert found["mutual_information"] == pytest.approx(math.log(4.0), abs=0.02)
    assert found["kl"] == 0.75 and found["kl_unit_2"] == 0.25


def build_clusters(centres: torch.Tensor, scales: torch.Tensor, shifts: torch.Tensor) -> dict[str, torch.Tensor]:
    """Posteriors of rows with a class, in the last unit as their prior, in the first in clusters around its mean.

    Args:
        centres: Of the clusters in standard deviations of the prior, (classes, clusters).
        scales: Standard deviations of the priors, (classes,).
        shifts: Means of the priors, (classes,).
    """
    rows = 2000
    classes = torch.arange(rows) % len(centres)
    clusters = (torch.arange(rows) // len(centres)) % centres.shape[1]
    prior_means = shifts[classes][:, None].expand(-1, 2)
    prior_log_variances = 2.0 * scales.log()[classes][:, None].expand(-1, 2)
    means, log_variances = prior_means.clone(), prior_log_variances.clone()
    means[:, 0] += centres[classes, clusters] * scales[classes]
    log_variances[:, 0] -= 2.0 * math.log(10.0)
    latents = GaussianOutput(
        means=means,
        log_variances=log_variances,
        prior_log_weights=torch.zeros(rows, 1),
        prior_means=prior_means[:, None],
        prior_log_variances=prior_log_variances[:, None],
    )
    # Rounding differs from batch to batch.
    noisy = prior_means + 1e-6 * torch.randn(rows, 2, dtype=prior_means.dtype)
    return {
        "means": means,
        "log_variances": log_variances,
        "kl": compute_divergence(latents),
        "prior_means": noisy,
        "prior_log_variances": prior_log_variances,
    }


def test_what_a_conditional_prior_knows_is_no_activity_and_no_information():
    torch.manual_seed(0)
    scales, shifts = torch.tensor([1.0, 0.1, 2.0]).double(), torch.tensor([-50.0, 0.0, 50.0]).double()
    collapsed = build_clusters(torch.zeros(3, 1).double(), scales, shifts)
    collapsed |= {"log_variances": collapsed["prior_log_variances"], "kl": torch.zeros(2000, 2)}
    found = measure_latents(**collapsed)
    assert (found["active_units"], found["informative_units"], found["kl"]) == (0.0, 0.0, 0.0)
    assert found["mutual_information"] == pytest.approx(0.0, abs=0.01)
    # The same without the priors: classes far apart, of which the posteriors know what the priors know.
    blind = measure_latents(**{name: collapsed[name] for name in ("means", "log_variances", "kl")})
    assert blind["active_units"] == 2.0 and blind["mutual_information"] == pytest.approx(math.log(3.0), abs=0.1)


def test_mutual_information_given_the_condition_is_that_of_each_condition_by_itself():
    torch.manual_seed(1)
    # Elsewhere in each class, so that where a row stands tells its class, too.
    centres = torch.tensor([[-4.0, -1.0], [5.0, 9.0], [-9.0, 1.5]]).double()
    scales, shifts = torch.tensor([1.0, 0.1, 2.0]).double(), torch.tensor([-50.0, 0.0, 50.0]).double()
    posteriors, noise = build_clusters(centres, scales, shifts), torch.randn(2000, 2)
    found = measure_latents(**posteriors, noise=noise)
    by_class = []
    for first in range(3):
        rows = torch.arange(first, 2000, 3)
        normal = torch.distributions.Normal(posteriors["means"][rows], (0.5 * posteriors["log_variances"][rows]).exp())
        values = normal.mean + normal.stddev * noise[rows]
        densities = normal.log_prob(values[:, None]).sum(dim=-1)
        by_class.append(densities.diagonal() - (densities.logsumexp(dim=1) - math.log(len(rows))))
    assert found["mutual_information"] == pytest.approx(float(torch.cat(by_class).mean()), abs=1e-4)
    assert found["mutual_information"] == pytest.approx(math.log(2.0), abs=0.02)
    assert found["active_units"] == 1.0 and found["informative_units"] == 1.0
    # Conditions that come once have nothing of their own to be compared with, and are in the units of their priors.
    shifted = posteriors["prior_means"] + 5.0 * torch.arange(2000, dtype=torch.float64)[:, None]
    single = {**posteriors, "means": posteriors["means"] - posteriors["prior_means"] + shifted, "prior_means": shifted}
    found = measure_latents(**single, noise=noise)
    assert found["mutual_information"] == pytest.approx(math.log(6.0), abs=0.05)


def test_units_that_free_bits_keep_active_are_not_informative():
    torch.manual_seed(0)
    means = torch.randn(500, 3) * torch.tensor([0.4, 0.4, 2.0])
    kl = torch.tensor([[0.08, 0.15, 2.0]]).expand(500, -1)
    found = [measure_latents(means, torch.zeros(500, 3), kl, free_nats=free)["informative_units"] for free in (0.0, 0.05, 0.1)]
    assert found == [3.0, 2.0, 1.0]
    assert measure_latents(means, torch.zeros(500, 3), kl, free_nats=0.1)["active_units"] == 3.0
    assert measure_latents(means, torch.zeros(500, 3), 0.1 * kl)["informative_units"] == 2.0


def test_the_prior_of_a_mixture_is_described_as_a_whole():
    latents = build_latents(4, rows=2)
    prior = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=latents.prior_log_weights[:, None].expand(-1, 3, -1)),
        torch.distributions.Normal(
            latents.prior_means.transpose(1, 2), (0.5 * latents.prior_log_variances.transpose(1, 2)).exp()
        ),
    )
    means, log_variances = describe_priors(latents)
    torch.testing.assert_close(means, prior.mean)
    torch.testing.assert_close(log_variances.exp(), prior.variance)
    # As many posteriors spread as much, whatever the unit of the latent numbers.
    found = [
        measure_latents(
            0.05 * size * torch.randn(500, 3, generator=torch.Generator().manual_seed(1)),
            torch.zeros(500, 3),
            torch.ones(500, 3),
            prior_means=torch.zeros(500, 3),
            prior_log_variances=torch.full((500, 3), 2.0 * math.log(size)),
        )["active_units"]
        for size in (0.1, 1.0, 100.0)
    ]
    assert found == [0.0] * 3

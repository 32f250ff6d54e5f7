"""Guidance of single outputs: samples of null + scale * (conditional - null), against that distribution by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from specimens import sharpen

from hf_genext import GenextConfig, GenextForPrediction
from hf_genext.genext.guidance_genext import double_memory

ROWS = 4000


def build(head: dict, dropout: float = 0.2, bottleneck: dict | None = None) -> GenextForPrediction:
    """A model of a label, trained as if with condition dropout, in float64."""
    conditioner = {"model_type": "genext_label_conditioner", "label_counts": [3], "hidden_size": 16}
    torch.manual_seed(2)
    config = GenextConfig(
        conditioner={
            "model_type": "genext_fusion_conditioner",
            "conditioners": {"label": conditioner},
            "condition_dropout": dropout,
        },
        head=head,
        bottleneck=bottleneck,
    )
    return sharpen(GenextForPrediction(config)).double()


@torch.no_grad()
def compute_parameters(model: GenextForPrediction, label: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What the head has with the condition, and without."""
    conditional = model.head(model.embed(condition_labels=torch.tensor([[label]])))
    null = model.head(model.embed(condition_mask=torch.zeros(1, 1, dtype=torch.long)))
    return conditional, null


def mix(conditional: torch.Tensor, null: torch.Tensor, scale: float) -> np.ndarray:
    """Probabilities of the guided distribution: (..., outcomes) log-probabilities -> the same."""
    return torch.softmax(null + scale * (conditional - null), dim=-1).numpy()


def assert_drawn_from(drawn: np.ndarray, probabilities: np.ndarray) -> None:
    """By a chi-squared test."""
    counts = np.bincount(drawn, minlength=len(probabilities))
    kept = probabilities * len(drawn) > 5
    observed, expected = counts[kept].astype(float), probabilities[kept] * len(drawn)
    assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-4, (observed, expected)
    assert counts[~kept].sum() < 60


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_classes(scale):
    model = build({"kind": "class", "num_outputs": 5})
    conditional, null = compute_parameters(model, 1)
    drawn = model.sample(condition_labels=torch.tensor([[1]]), num_return_sequences=ROWS, seed=3, guidance_scale=scale)
    assert_drawn_from(drawn.numpy(), mix(conditional.log_softmax(-1), null.log_softmax(-1), scale)[0])
    if scale == 1.0:
        plain = model.sample(condition_labels=torch.tensor([[1]]), num_return_sequences=ROWS, seed=3)
        assert torch.equal(drawn, plain)
    else:
        assert np.abs(mix(conditional, null, scale) - mix(conditional, null, 1.0)).max() > 0.05, "guidance changes nothing"


def test_labels():
    model = build({"kind": "labels", "num_outputs": 4})
    conditional, null = compute_parameters(model, 2)
    drawn = model.sample(condition_labels=torch.tensor([[2]]), num_return_sequences=ROWS, seed=3, guidance_scale=2.0)
    # The logit of a label is the difference of the two log-probabilities.
    both = [
        torch.stack([torch.nn.functional.logsigmoid(-p), torch.nn.functional.logsigmoid(p)], -1)[0] for p in (conditional, null)
    ]
    wanted = mix(*both, 2.0)
    for output in range(4):
        assert_drawn_from(drawn[:, output].numpy(), wanted[output])


def test_numbers_are_of_the_mixed_density():
    model = build({"kind": "regression", "num_outputs": 1, "output_means": [3.0], "output_scales": [2.0]})
    (mean, width), (null_mean, null_width) = (model.head.split(p) for p in compute_parameters(model, 0))
    scale = 1.5
    axis = torch.linspace(-60, 60, 200_001, dtype=torch.float64)
    log_density = scale * torch.distributions.Normal(mean[0], width[0]).log_prob(axis) + (
        1 - scale
    ) * torch.distributions.Normal(null_mean[0], null_width[0]).log_prob(axis)
    density = (log_density - log_density.logsumexp(0)).exp()
    middle = float((density * axis).sum())
    spread = math.sqrt(float((density * (axis - middle) ** 2).sum()))
    drawn = model.sample(condition_labels=torch.tensor([[0]]), num_return_sequences=ROWS, seed=4, guidance_scale=scale).detach()
    assert float(drawn.mean()) == pytest.approx(middle, abs=5 * spread / math.sqrt(ROWS))
    assert float(drawn.std()) == pytest.approx(spread, rel=0.06)
    assert abs(middle - float(mean)) > 10 * spread / math.sqrt(ROWS), "guidance changes nothing"


def test_numbers_without_a_mixed_density_are_refused():
    model = build({"kind": "regression", "num_outputs": 1})
    conditional, null = (torch.tensor([[0.0, raw]], dtype=torch.float64) for raw in (3.0, -3.0))
    with pytest.raises(ValueError, match="Use a smaller guidance_scale"):
        model.head.draw_guided(conditional, null, 2.0, None)


@pytest.mark.parametrize("kind", ["bernoulli", "categorical", "logistic"])
def test_pixels(kind):
    levels = 2 if kind == "bernoulli" else 4
    head = {"kind": "image", "output_shape": [1, 3], "num_levels": levels, "pixel_distribution": kind}
    model = build(head)
    conditional, null = compute_parameters(model, 1)
    tables = []
    for parameters in (conditional, null):
        rows = torch.arange(levels)[:, None].expand(-1, 3)
        tables.append(model.head._score_pixels(parameters.view(1, 3, -1).expand(levels, -1, -1), rows).T)
        torch.testing.assert_close(tables[-1].exp().sum(-1), torch.ones(3, dtype=torch.float64))
    wanted = mix(*tables, 2.0)
    drawn = model.sample(condition_labels=torch.tensor([[1]]), num_return_sequences=ROWS, seed=5, guidance_scale=2.0)
    assert drawn.shape == (ROWS, 1, 3)
    for pixel in range(3):
        assert_drawn_from(drawn[:, 0, pixel].numpy(), wanted[pixel])


def test_with_latent_numbers_both_halves_share_them():
    conditioner = {"model_type": "genext_label_conditioner", "label_counts": [3], "hidden_size": 16}
    torch.manual_seed(2)
    config = GenextConfig(
        conditioner={
            "model_type": "genext_fusion_conditioner",
            "conditioners": {
                "label": conditioner,
                "vector": {"model_type": "genext_vector_conditioner", "vector_size": 4, "hidden_size": 16},
            },
            "condition_dropout": 0.2,
        },
        head={"kind": "image", "output_shape": [2, 2], "num_levels": 3},
        bottleneck={"kind": "variational", "prior": "conditional", "latent_size": 3, "posterior_conditions": ["vector"]},
    )
    model = sharpen(GenextForPrediction(config)).double()
    labels = torch.tensor([[0], [1], [2]])
    noise = model.draw_latent_noise(3, seed=1).double()
    with torch.no_grad():
        doubled = double_memory(model, {"condition_labels": labels, "latent_noise": noise, "sample_latents": True})
    with_condition, without = doubled.last_hidden_state.chunk(2)
    torch.testing.assert_close(with_condition[:, 0], without[:, 0])
    assert (with_condition[:, 1:] - without[:, 1:]).abs().max() > 0.1
    together = model.sample(condition_labels=labels, num_return_sequences=2, seed=7, guidance_scale=2.0)
    assert together.shape == (6, 2, 2)
    assert torch.equal(
        model.sample(condition_labels=labels[:1], num_return_sequences=2, seed=7, guidance_scale=2.0), together[:2]
    )


def test_what_it_refuses():
    model = build({"kind": "class", "num_outputs": 5}, dropout=0.0)
    label = torch.tensor([[1]])
    with pytest.raises(ValueError, match="needs a model that was trained with some of its conditions taken away"):
        model.sample(condition_labels=label, guidance_scale=2.0)
    with pytest.raises(ValueError, match="guidance_scale must be a finite number of 0 or more, got -1"):
        build({"kind": "class", "num_outputs": 5}).sample(condition_labels=label, guidance_scale=-1)
    assert model.sample(condition_labels=label, guidance_scale=1.0, seed=1) == model.sample(condition_labels=label, seed=1)
    none = build({"kind": "class", "num_outputs": 5}).sample(
        guidance_scale=2.0, condition_labels=torch.zeros(0, 1, dtype=torch.long)
    )
    assert none.shape == (0,)
    with pytest.raises(ValueError, match="num_samples=12 is the number of rows without any condition, and condition_labels"):
        model.sample(condition_labels=label, num_samples=12)
    with pytest.raises(ValueError, match='no guidance for a head of kind "flow"'):
        build({"kind": "flow", "num_outputs": 3}).sample(condition_labels=label, guidance_scale=2.0)

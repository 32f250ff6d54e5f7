"""Densities over vectors: against SciPy, scikit-learn, autograd and quadrature; learning; what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from scipy.stats import kstest, multivariate_normal
from sklearn.datasets import make_moons
from sklearn.mixture import GaussianMixture as SklearnMixture
from specimens import PREDICTION_LABELS, build_inputs, build_prediction, sharpen

from hf_genext import GenextForPrediction, GenextProcessor, GenextVectorConditionerConfig, pipeline
from hf_genext.genext.densities_genext import GaussianMixture, SplineFlow, bend, straighten
from hf_genext.genext.noise_genext import Noise

INPUTS = build_inputs(with_labels=False)
KINDS = ["mixture", "flow"]


def build_flow(size: int, context_size: int = 2, spread: float = 0.15, bins: int = 8) -> SplineFlow:
    """A flow in float64 that bends."""
    torch.manual_seed(size)
    flow = SplineFlow(size, context_size, 4, 16, bins, 4.0).double()
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=spread)
    return flow


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_a_mixture_is_that_of_scipy(covariance):
    torch.manual_seed(0)
    mixture = GaussianMixture(4, 3, covariance, 1e-3).double()
    parameters, values = torch.randn(5, mixture.num_parameters).double(), torch.randn(5, 4).double()
    logits, means, scales, below = mixture.split(parameters)
    lower = mixture.fill(below) if covariance == "full" else None
    for row in range(5):
        density = 0.0
        for component, weight in enumerate(logits[row].softmax(dim=-1).tolist()):
            factor = np.eye(4) if lower is None else np.eye(4) + lower[row, component].numpy()
            inverse = np.linalg.inv(factor)
            spread = inverse @ np.diag(scales[row, component].numpy() ** 2) @ inverse.T
            density += weight * multivariate_normal(means[row, component].numpy(), spread).pdf(values[row].numpy())
        assert mixture.log_prob(parameters, values)[row].item() == pytest.approx(math.log(density), abs=1e-10)
    samples = mixture.sample(parameters[:1], Noise(100_000, "cpu", torch.Generator().manual_seed(1)))
    spread = samples.std(dim=0) / math.sqrt(100_000)
    assert ((samples.mean(dim=0) - mixture.mean(parameters[:1])[0]).abs() < 5 * spread).all()


def test_where_a_mixture_starts_is_as_exact_as_its_model():
    encoder = GenextVectorConditionerConfig(vector_size=3)
    model = GenextForPrediction.from_encoder_pretrained(encoder, {"kind": "mixture", "num_outputs": 2}).double()
    starts = torch.nn.init.normal_(model.head.starts.data)
    for parameter in model.head.projection.parameters():
        torch.nn.init.zeros_(parameter)
    _, means, _, _ = model.head.density.split(model.head(torch.ones(1, 3).double()))
    assert torch.equal(means[0], starts)


@pytest.mark.parametrize("bins", [1, 2, 8])
def test_a_spline_bends_and_straightens_and_knows_its_slope(bins):
    torch.manual_seed(0)
    knots = torch.randn(1000, 3 * bins - 1).double()
    values = (12 * torch.rand(1000).double() - 6).requires_grad_()
    bent, log_slopes = bend(values, knots, 4.0)
    (slopes,) = torch.autograd.grad(bent.sum(), values)
    torch.testing.assert_close(log_slopes, slopes.log())
    torch.testing.assert_close(straighten(bent, knots, 4.0), values, atol=1e-10, rtol=0)
    edges = torch.tensor([-4.0, 4.0]).double()
    torch.testing.assert_close(bend(edges, knots[:2], 4.0)[0], edges)
    same, _ = bend(values, torch.zeros_like(knots), 4.0)
    torch.testing.assert_close(same, values)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_flow_inverts_and_its_determinant_is_autograds(size):
    flow = build_flow(size)
    values, context = 2 * torch.randn(40, size).double(), torch.randn(40, 2).double()
    noise, log_determinants = flow.to_noise(values, context)
    assert (noise - values).abs().max() > 0.1
    torch.testing.assert_close(flow.to_values(noise, context), values, atol=1e-8, rtol=0)
    single = build_flow(size, spread=0.05).float()
    again = single.to_values(single.to_noise(values.float(), context.float())[0], context.float())
    torch.testing.assert_close(again, values.float(), atol=1e-5, rtol=1e-5)
    for row in range(10):
        jacobian = torch.autograd.functional.jacobian(
            lambda one, row=row: flow.to_noise(one[None], context[row : row + 1])[0][0], values[row]
        )
        assert log_determinants[row].item() == pytest.approx(torch.linalg.slogdet(jacobian)[1].item(), abs=1e-8)


def test_a_flow_is_a_density_and_its_samples_follow_it():
    flow = build_flow(1, spread=0.2)
    with torch.no_grad():
        grid = torch.linspace(-30, 30, 30_001).double()[:, None]
        context = torch.tensor([[0.5, -1.0]]).double()
        density = flow.log_prob(context.expand(len(grid), -1), grid).exp()
        assert torch.trapezoid(density, grid[:, 0]).item() == pytest.approx(1.0, abs=1e-5)
        cumulated = torch.cumulative_trapezoid(density, grid[:, 0]).numpy()
        for seed in range(10):
            samples = flow.sample(context, Noise(2000, "cpu", torch.Generator().manual_seed(seed)))[:, 0].numpy()
            found = kstest(samples, lambda x: np.interp(x, grid[1:, 0].numpy(), cumulated))
            assert found.pvalue > 1e-3, seed
        plane = build_flow(2)
        axis = torch.linspace(-15, 15, 401).double()
        points = torch.cartesian_prod(axis, axis)
        density = torch.cat([plane.log_prob(context.expand(len(part), -1), part) for part in points.split(100_000)]).exp()
        assert torch.trapezoid(torch.trapezoid(density.view(401, 401), axis), axis).item() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_likelihood_of_what_is_known_in_any_unit(kind):
    model = sharpen(build_prediction(kind)).eval()
    labels = PREDICTION_LABELS[kind]
    log_probs = model.log_prob(labels, **INPUTS)
    assert log_probs.isnan().tolist() == [False, True, False]
    torch.testing.assert_close(model(**INPUTS, labels=labels).loss, -log_probs.nansum() / 4)
    means, scales = torch.tensor([3.0, -7.0]), torch.tensor([10.0, 0.01])
    scaled = sharpen(build_prediction(kind, output_means=means.tolist(), output_scales=scales.tolist())).eval()
    scaled.load_state_dict(model.state_dict())
    known = torch.tensor([True, False, True])
    torch.testing.assert_close(
        scaled.log_prob(labels * scales + means, **INPUTS)[known], (log_probs - scales.log().sum())[known], atol=1e-3, rtol=0
    )
    generators = [torch.Generator().manual_seed(4) for _ in range(2)]
    drawn, drawn_scaled = (one.sample(**INPUTS, generator=rng) for one, rng in zip((model, scaled), generators, strict=True))
    torch.testing.assert_close(drawn_scaled, drawn * scales + means)
    assert drawn.shape == (3, 2)
    assert model(**INPUTS).logits.shape == (3, 2)


def fit(head: dict, values: torch.Tensor, conditions: torch.Tensor, steps: int) -> GenextForPrediction:
    """Train with the whole data at each step."""
    torch.manual_seed(0)
    conditioner = GenextVectorConditionerConfig(vector_size=conditions.shape[1], hidden_size=32)
    model = GenextForPrediction.from_encoder_pretrained(conditioner, {"num_outputs": values.shape[1], **head}).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        model(condition_vectors=conditions, labels=values).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return model.eval()


def test_both_learn_two_moons_better_than_a_gaussian_and_the_mixture_as_well_as_scikit_learns():
    points, sides = make_moons(2000, noise=0.08, random_state=0)
    points, held_out = points[:1000], points[1000:]
    scales, means = points.std(axis=0), points.mean(axis=0)
    common = {"output_means": means.tolist(), "output_scales": scales.tolist()}
    train, test = (torch.tensor(part, dtype=torch.float32) for part in (points, held_out))
    nothing = torch.zeros(1000, 1)
    gaussian = SklearnMixture(1).fit(points).score(held_out)
    peer = SklearnMixture(8, random_state=0).fit(points).score(held_out)
    scores = {}
    for kind, fields in (("mixture", {}), ("flow", {"num_transforms": 4, "transform_size": 32})):
        model = fit({"kind": kind, **common, **fields}, train, nothing, 200)
        with torch.no_grad():
            scores[kind] = model.log_prob(test, condition_vectors=nothing).mean().item()
    assert scores["mixture"] > peer - 0.1
    assert scores["flow"] > gaussian + 0.8
    # A condition that says on which moon a point lies is worth up to ln 2.
    told = torch.tensor(sides[:, None], dtype=torch.float32)
    model = fit({"kind": "mixture", **common}, train, told[:1000], 200)
    with torch.no_grad():
        assert model.log_prob(test, condition_vectors=told[1000:]).mean().item() > scores["mixture"] + 0.4


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_fit_is_refused(kind):
    model = build_prediction(kind)
    with pytest.raises(ValueError, match=r"in row 0 of the batch 1 of 2 numbers are missing"):
        model(**INPUTS, labels=torch.tensor([[0.5, math.nan], [1.0, 1.0], [0.0, 1.0]]))
    with pytest.raises(ValueError, match=r"a vector of 2 numbers, \(batch, 2\); got labels of the shape \(3, 3\)"):
        model(**INPUTS, labels=torch.zeros(3, 3))
    with pytest.raises(ValueError, match="row 1 of the batch holds an infinite one"):
        model.log_prob(torch.tensor([[0.5, 0.5], [math.inf, 0.0], [0.0, 1.0]]), **INPUTS)
    with pytest.raises(ValueError, match="no temperature to calibrate"):
        model.calibrate([{**INPUTS, "labels": PREDICTION_LABELS[kind]}])
    own = {
        "mixture": [
            ({"num_components": 0}, "num_components must be 1 or more, got 0"),
            ({"num_bins": 4}, "num_bins is for a head"),
        ],
        "flow": [
            ({"num_bins": 0}, "num_bins must be 1 or more"),
            ({"num_bins": 2000}, "num_bins must be 100 or less"),
            ({"tail_bound": -1.0}, "tail_bound must be a finite number above 0"),
            ({"covariance": "diagonal"}, 'covariance is for a head of kind "mixture", not "flow"; leave it out'),
        ],
    }
    for fields, told in (*own[kind], ({"temperature": 2.0}, 'temperature is for a head of kind "class" or "labels" or')):
        with pytest.raises(StrictDataclassError) as caught:
            build_prediction(kind, **fields)
        assert told in str(caught.value.__cause__ or caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_the_pipeline_gives_a_point_and_scores_vectors(kind, tmp_path):
    names = ["height", "width"]
    conditioner = GenextVectorConditionerConfig(vector_size=3, hidden_size=16)
    head = {"kind": kind, "output_names": names, "output_scales": [2.0, 0.5]}
    model = sharpen(GenextForPrediction.from_encoder_pretrained(conditioner, head)).eval()
    model.save_pretrained(tmp_path)
    GenextProcessor(vector_size=3).save_pretrained(tmp_path)
    pipe = pipeline("conditional-generation", model=str(tmp_path))
    vectors = torch.randn(4, 3)
    rows = [{"vector": row} for row in vectors.tolist()]
    with torch.no_grad():
        points = model(condition_vectors=vectors).logits
        scores = model.log_prob(torch.tensor([[1.0, 2.0]]).expand(4, -1), condition_vectors=vectors)
    for answers in (pipe(rows), pipe(rows, batch_size=4)):
        found = torch.tensor([[answer["value"][name] for name in names] for (answer,) in answers])
        torch.testing.assert_close(found, points, atol=1e-4, rtol=1e-4)
    targets = [{"width": 2.0, "height": 1.0}, [1.0, 2.0], [1.0, 2.0], [1.0, 2.0]]
    for given in (targets, torch.tensor([[1.0, 2.0]]).expand(4, -1), np.tile([1.0, 2.0], (4, 1))):
        torch.testing.assert_close(torch.tensor([answer["score"] for answer in pipe.score(rows, given)]), scores)

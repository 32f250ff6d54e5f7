"""Linear models: PCA and ICA beside scikit-learn's, as densities and as bottlenecks; quadrature; what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from scipy.stats import kstest
from sklearn.decomposition import PCA, FastICA
from specimens import build_config, sharpen

from hf_genext import (
    GenextForConditionalGeneration,
    GenextForPrediction,
    GenextModel,
    GenextNullConditionerConfig,
    GenextProcessor,
    GenextVectorConditionerConfig,
    pipeline,
)
from hf_genext.genext.linear_genext import MOST_ROWS, Moments, find_rotation, keep_rows
from hf_genext.genext.noise_genext import Noise

NOTHING = GenextNullConditionerConfig(hidden_size=3)


def draw_rows(count: int = 600, seed: int = 0) -> np.ndarray:
    """Six numbers that are made of four sources, two of them with heavy tails and one with none, and some noise."""
    generator = np.random.default_rng(seed)
    sources = generator.laplace(size=(count, 4))
    sources[:, 1] = generator.uniform(-2, 2, count)
    sources[:, 2] = generator.normal(size=count)
    return sources @ generator.normal(size=(4, 6)) + 0.3 * generator.normal(size=(count, 6)) + np.arange(6)


def build_density(kind: str, num_outputs: int = 6, encoder=NOTHING, **fields) -> GenextForPrediction:
    model = GenextForPrediction.from_encoder_pretrained(encoder, {"kind": kind, "num_outputs": num_outputs, **fields})
    return model.double()


def fit_in_parts(model, rows, size=70, **inputs):
    """Fit, given the rows in parts of unequal length."""
    parts = [torch.tensor(rows[start : start + size]) for start in range(0, len(rows), size)]
    cut = [{name: values[start : start + size] for name, values in inputs.items()} for start in range(0, len(rows), size)]
    return model.fit([{"labels": part, **more} for part, more in zip(parts, cut, strict=True)])


@pytest.mark.parametrize("num_components", [1, 3, 5, 6])
def test_probabilistic_pca_is_scikit_learns(num_components):
    rows, held_out = draw_rows(), draw_rows(seed=1)
    model = fit_in_parts(build_density("ppca", num_components=num_components), rows)
    peer = PCA(num_components).fit(rows)
    for some in (rows, held_out, 100 * held_out):
        found = model.log_prob(torch.tensor(some)).detach().numpy()
        np.testing.assert_allclose(found, peer.score_samples(some), atol=1e-8, rtol=1e-12)
    np.testing.assert_allclose(model.head.projection.bias.detach(), peer.mean_, atol=1e-10)
    mixing = model.head.density.mixing.detach().numpy()
    cosines = np.abs((mixing * peer.components_).sum(axis=1)) / np.sqrt(peer.explained_variance_)
    np.testing.assert_allclose(cosines, 1.0, atol=1e-8)
    # In units of its own the density is that of the numbers all the same.
    scaled = fit_in_parts(
        build_density("ppca", num_components=num_components, output_scales=[2.0] * 6, output_means=[5.0] * 6), rows
    )
    np.testing.assert_allclose(scaled.log_prob(torch.tensor(rows)).detach(), peer.score_samples(rows), atol=1e-8, rtol=1e-12)


def test_sums_over_batches_are_those_over_all_rows():
    rows = torch.tensor(draw_rows()) + 1e6  # Where sums of squares would have nothing left.
    moments = Moments()
    for part in rows.split([1, 0, 99, 500]):
        moments.update(part)
    torch.testing.assert_close(moments.mean, rows.mean(dim=0), rtol=1e-14, atol=0)
    torch.testing.assert_close(moments.covariance, rows.T.cov(), rtol=1e-8, atol=0)
    count = 3 * MOST_ROWS - 5
    kept = keep_rows(torch.arange(count)[:, None].split([7, 100_001, 0, 2, count - 100_010]), count)
    assert torch.equal(kept[:, 0], torch.arange(0, count, 3))


@pytest.mark.parametrize("kind", ["ppca", "ica"])
def test_samples_follow_the_density_and_widen_with_the_temperature(kind):
    rows = draw_rows(3000)
    model = fit_in_parts(build_density(kind, num_components=3), rows)
    density, mean = model.head.density, model.head.projection.bias
    with torch.no_grad():
        for seed in range(10):
            drawn = model.sample(num_samples=1000, generator=torch.Generator().manual_seed(seed))
            # What the density takes for normal numbers has to be.
            sources, rest, _ = density.split(drawn - mean)
            noise, _ = density._to_noise(sources)
            for column in noise.T:
                assert kstest(column.numpy(), "norm").pvalue > 1e-3, seed
            outside = rest @ torch.linalg.svd(density.mixing)[2][3:].T / density.log_noise.exp()
            assert kstest(outside.flatten().numpy(), "norm").pvalue > 1e-3, seed
        wide = model.sample(num_samples=2000, temperature=2.0, noise=Noise(2000, "cpu", torch.Generator().manual_seed(5)))
        narrow = model.sample(num_samples=2000, noise=Noise(2000, "cpu", torch.Generator().manual_seed(5)))
    if kind == "ppca":
        torch.testing.assert_close(wide - mean, 2 * (narrow - mean))
    assert (wide.std(dim=0) > 1.5 * narrow.std(dim=0)).all()


def test_ica_is_a_density_that_finds_sources_likelier_than_pca_does():
    generator = np.random.default_rng(0)
    sources = np.stack([generator.laplace(size=4000), generator.uniform(-2, 2, 4000)], axis=1)
    rows = sources @ np.array([[1.0, 0.4], [-0.3, 0.8]]) + 1
    model = fit_in_parts(build_density("ica", 2, num_components=2), rows[:3000])
    held_out = torch.tensor(rows[3000:])
    with torch.no_grad():
        axis = torch.linspace(-25, 25, 1001).double()
        density = model.log_prob(torch.cartesian_prod(axis, axis)).exp().view(1001, 1001)
        assert torch.trapezoid(torch.trapezoid(density, axis), axis).item() == pytest.approx(1.0, abs=2e-3)
        pca = fit_in_parts(build_density("ppca", 2, num_components=2), rows[:3000])
        assert model.log_prob(held_out).mean() > pca.log_prob(held_out).mean() + 0.15
        found = model.head.density.split(held_out - model.head.projection.bias)[0].numpy()
    correlations = np.abs(np.corrcoef(found.T, sources[3000:].T)[:2, 2:])
    assert np.sort(correlations.max(axis=1)).min() > 0.99
    assert sorted(correlations.argmax(axis=1)) == [0, 1]


def test_the_rotation_is_scikit_learns():
    rows = draw_rows(5000)[:, :4]
    white = PCA(4, whiten=True).fit_transform(rows)
    peer = FastICA(whiten=False, random_state=0, tol=1e-9, max_iter=2000, fun="logcosh").fit(white)
    theirs = peer.components_ / np.linalg.norm(peer.components_, axis=1, keepdims=True)
    ours = find_rotation(torch.tensor(white)).numpy()
    np.testing.assert_allclose(ours @ ours.T, np.eye(4), atol=1e-10)
    matches = np.abs(ours @ theirs.T)
    np.testing.assert_allclose(matches.max(axis=0), 1.0, atol=1e-3)
    assert sorted(matches.argmax(axis=0)) == [0, 1, 2, 3]


def test_ica_of_normal_numbers_is_pca_of_them():
    rows = np.random.default_rng(0).normal(size=(20_000, 3)) @ np.diag([3.0, 1.0, 0.2])
    held_out = torch.tensor(np.random.default_rng(1).normal(size=(5000, 3)) @ np.diag([3.0, 1.0, 0.2]))
    scores = [
        fit_in_parts(build_density(kind, 3, num_components=2), rows, 5000).log_prob(held_out).mean().item()
        for kind in ("ppca", "ica")
    ]
    assert scores[0] == pytest.approx(scores[1], abs=0.01)


def test_with_a_condition_the_mean_is_that_of_least_squares():
    generator = np.random.default_rng(0)
    conditions = generator.normal(size=(600, 3))
    rows = draw_rows() + conditions @ generator.normal(size=(3, 6))
    rows[7] = np.nan  # Nothing is known there.
    known = np.arange(600) != 7
    model = build_density("ppca", encoder=GenextVectorConditionerConfig(vector_size=3, hidden_size=5), num_components=2)
    fit_in_parts(model, rows, condition_vectors=torch.tensor(conditions))
    inputs = np.hstack([conditions, np.ones((600, 1))])
    weights = np.linalg.lstsq(inputs[known], rows[known], rcond=None)[0]
    left = (rows - inputs @ weights)[known]
    log_probs = model.log_prob(torch.tensor(rows), condition_vectors=torch.tensor(conditions)).detach().numpy()
    np.testing.assert_allclose(log_probs[known], PCA(2).fit(left).score_samples(left), atol=1e-8)
    assert np.isnan(log_probs[7])
    point = model.eval()(condition_vectors=torch.tensor(conditions)).logits.detach().numpy()
    np.testing.assert_allclose(point, inputs @ weights, atol=1e-8)
    # A condition that is the same in all rows says nothing, and leaves no trace.
    same = build_density("ppca", encoder=GenextVectorConditionerConfig(vector_size=3, hidden_size=5), num_components=2)
    fit_in_parts(same, rows, condition_vectors=torch.full((600, 3), 0.1).double())
    found = same.log_prob(torch.tensor(rows), condition_vectors=torch.full((600, 3), 0.1).double()).detach().numpy()
    np.testing.assert_allclose(found[known], PCA(2).fit(rows[known]).score_samples(rows[known]), atol=1e-8)


@pytest.mark.parametrize("kind", ["ppca", "ica"])
def test_a_linear_density_is_sampled_and_scored_by_the_pipeline_and_saved(kind, tmp_path):
    rows = draw_rows()
    model = fit_in_parts(build_density(kind, num_components=3), rows).float()
    pipe = pipeline("conditional-generation", model=model, processor=GenextProcessor(label_names={}))
    pipe.save_pretrained(tmp_path)
    opened = pipeline("conditional-generation", model=str(tmp_path))
    drawn = [[answer["value"] for (answer,) in one(num_samples=5, seed=3)] for one in (pipe, opened)]
    np.testing.assert_allclose(drawn[1], drawn[0], rtol=1e-5, atol=1e-5)
    scores = [answer["score"] for answer in opened.score([{}] * 4, rows[:4].tolist())]
    np.testing.assert_allclose(scores, model.log_prob(torch.tensor(rows[:4])).detach(), rtol=1e-5)


@pytest.mark.parametrize("linear_kind", ["pca", "ica"])
def test_the_bottleneck_gives_the_components_of_the_states(linear_kind, tmp_path):
    rows = draw_rows(2000)
    bottleneck = {"kind": "linear", "hidden_size": 3, "linear_kind": linear_kind}
    model = GenextForPrediction.from_encoder_pretrained(
        GenextVectorConditionerConfig(vector_size=6), {"kind": "regression", "num_outputs": 1}, bottleneck=bottleneck
    )
    batches = [{"condition_vectors": torch.tensor(part, dtype=torch.float32)} for part in np.array_split(rows, 9)]
    with pytest.raises(ValueError, match=r"not fitted yet: call model\.fit\(batches\)"):
        model.encode(**batches[0])
    memory = torch.cat([model.fit(batches).encode(**batch) for batch in batches])[:, 0].numpy()
    white = PCA(3, whiten=True).fit_transform(rows)
    theirs = white if linear_kind == "pca" else FastICA(whiten=False, random_state=0, tol=1e-8).fit_transform(white)
    correlations = np.abs(np.corrcoef(memory.T, theirs.T)[:3, 3:])
    np.testing.assert_allclose(correlations.max(axis=1), 1.0, atol=1e-3)
    np.testing.assert_allclose(np.cov(memory.T), np.eye(3), atol=1e-4)
    model.save_pretrained(tmp_path)
    opened = GenextModel.from_pretrained(tmp_path)
    torch.testing.assert_close(opened.encode(**batches[0]), model.encode(**batches[0]))
    assert not [name for name, _ in model.encoder.named_parameters()]


def test_padding_is_no_state_and_a_frozen_encoder_is_fitted_to():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 8, (60,), generator=generator)
    ids = torch.randint(4, 31, (60, 7), generator=generator)
    mask = (torch.arange(7) < lengths[:, None]).long()
    config = build_config("linear")
    config.bottleneck.is_fitted = False
    model = sharpen(GenextForConditionalGeneration(config))
    with pytest.raises(ValueError, match=r"the encoder would be trained after it.*freeze_encoder=True"):
        model.fit([{"input_ids": ids, "attention_mask": mask}])
    model.encoder.conditioner.requires_grad_(False)
    model.fit([{"input_ids": ids, "attention_mask": mask, "labels": ids}] * 2)
    memory = model.encode(input_ids=ids, attention_mask=mask)[mask.bool()]
    torch.testing.assert_close(memory.T.cov(), torch.eye(30) * (2 * len(memory) - 1) / (2 * len(memory) - 2), atol=2e-2, rtol=0)
    alone = model.generate(input_ids=ids[:1, : lengths[0]], max_new_tokens=4, min_new_tokens=4)
    assert torch.equal(
        model.generate(input_ids=ids[:3], attention_mask=mask[:3], max_new_tokens=4, min_new_tokens=4)[:1], alone
    )


def spoil(rows, row, column, value):
    rows = rows.copy()
    rows[row, column] = value
    return rows


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (draw_rows(3), r"3 components were asked for, but there are 3 rows\. Choose fewer components, or give more rows"),
        (spoil(draw_rows(), slice(None), 4, 7.0), "Number 5 of the vectors is the same in all rows: its variance is 0"),
        (draw_rows() * [1, 1, 1e-7, 1, 1, 1], r"Number 3 of the vectors has a variance of \d.*e-14 beside .*to like sizes"),
        (spoil(draw_rows(), 3, 1, math.nan), "in row 3 of the batch 1 of 6 numbers are missing"),
        (spoil(draw_rows(), 90, 1, math.inf), "Number 2 of row 91 is inf, and a linear model needs finite numbers"),
        (
            np.repeat(draw_rows()[:, :2], 3, axis=1) * [1, 1, 2, 2, 3, 3],
            r"the 600 rows lie in 2 dimensions of the 6\. A density needs some noise .* Choose 1 components or fewer",
        ),
        (draw_rows() * np.nan, "there are none. Give labelled rows"),
    ],
)
def test_rows_without_a_fit_are_refused(rows, told):
    with pytest.raises(ValueError, match=told):
        fit_in_parts(build_density("ppca", num_components=3), rows)


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(TypeError, match="a generator gives them once"):
        build_density("ppca", num_components=1).fit(batch for batch in [{"labels": torch.zeros(3, 6)}])
    with pytest.raises(ValueError, match="Nothing of this GenextForPrediction is fitted in closed form"):
        build_density("flow").fit([])
    with pytest.raises(ValueError, match="give them as labels"):
        build_density("ppca", num_components=1).fit([{"num_samples": 3}])
    with pytest.raises(
        StrictDataclassError, match="at most as many components as a vector has numbers, 6; got num_components=7"
    ):
        build_density("ppca", num_components=7)
    with pytest.raises(StrictDataclassError, match="fitted in closed form, so it has no num_hidden_layers, got 1"):
        build_density("ppca", num_components=1, num_hidden_layers=1)
    with pytest.raises(StrictDataclassError, match="num_hidden_layers must be 0 or more, got -1"):
        build_density("flow", num_hidden_layers=-1)
    with pytest.raises(ValueError, match="gives 1 to 6 components of states of that width, got hidden_size=7"):
        GenextForPrediction.from_encoder_pretrained(
            GenextVectorConditionerConfig(vector_size=6), {"kind": "class"}, bottleneck={"kind": "linear", "hidden_size": 7}
        )
    with pytest.raises(ValueError, match="fitted to the states of rows, and there are none"):
        GenextForPrediction.from_encoder_pretrained(
            GenextVectorConditionerConfig(vector_size=6), {"kind": "class"}, bottleneck={"kind": "linear", "hidden_size": 2}
        ).fit([])
    with pytest.raises(ValueError, match="All 5 rows are the same"):
        GenextForPrediction.from_encoder_pretrained(
            GenextVectorConditionerConfig(vector_size=6), {"kind": "class"}, bottleneck={"kind": "linear", "hidden_size": 2}
        ).fit([{"condition_vectors": torch.ones(5, 6)}])
    with pytest.raises(ValueError, match='bottleneck="linear" hands on as many states'):
        GenextForPrediction.from_encoder_pretrained(
            GenextVectorConditionerConfig(vector_size=6), {"kind": "class"}, bottleneck="linear", num_latents=2
        )


@pytest.mark.parametrize(("count", "told"), [(6, "follows exactly from the conditions"), (11, "11 rows are too few")])
def test_a_mean_that_runs_through_every_row_is_refused(count, told):
    """With about as many rows as the conditions have numbers, what is left is rounding, and as likely as one likes."""
    conditions = torch.tensor(np.random.default_rng(1).normal(size=(count, 9)))
    model = build_density("ppca", num_components=2, encoder=GenextVectorConditionerConfig(vector_size=9))
    with pytest.raises(ValueError, match=told):
        fit_in_parts(model, draw_rows(count), condition_vectors=conditions.float())


def test_parts_of_one_row_are_fitted_as_all_others():
    rows = draw_rows(71)
    found = fit_in_parts(build_density("ppca", num_components=2), rows).log_prob(torch.tensor(rows)).mean().item()
    assert found == pytest.approx(PCA(2).fit(rows).score(rows), abs=1e-8)


def test_icas_likelihood_holds_for_numbers_of_very_different_size():
    rows = np.random.default_rng(0).uniform(size=(1000, 3)) * (1, 1, 3e-5)
    model = fit_in_parts(build_density("ica", 3, num_components=3), rows)
    exact = model.log_prob(torch.tensor(rows)).mean().item()
    single = model.float().log_prob(torch.tensor(rows, dtype=torch.float32)).mean().item()
    assert single == pytest.approx(exact, abs=0.05)


def test_a_bottleneck_takes_states_that_lie_in_fewer_dimensions():
    rows = np.repeat(draw_rows()[:, :2], 3, axis=1)
    rows[:, 5] = 1.0  # As of a unit that never fires.
    batches = [{"condition_vectors": torch.tensor(rows, dtype=torch.float32)}]

    def build(size):
        bottleneck = {"kind": "linear", "hidden_size": size}
        encoder = GenextVectorConditionerConfig(vector_size=6)
        return GenextForPrediction.from_encoder_pretrained(encoder, {"kind": "class"}, bottleneck=bottleneck)

    memory = build(2).fit(batches).encode(**batches[0])[:, 0]
    torch.testing.assert_close(memory.T.cov(), torch.eye(2), atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match=r"lie in 2 dimensions of the 6\. Choose 2 components or fewer"):
        build(3).fit(batches)

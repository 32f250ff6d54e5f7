"""Images as single outputs: exact probabilities, draws, pictures, latent numbers, and what is refused."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from specimens import sharpen
from torch import nn

from hf_genext import (
    ConditionalGenerationPipeline,
    GenextConfig,
    GenextForPrediction,
    GenextHeadConfig,
    GenextNullConditionerConfig,
    GenextProcessor,
)
from hf_genext.genext.pixel_contexts_genext import NearContext
from hf_genext.genext.seeding_genext import KeyedNoise, make_keys
from hf_genext.pipeline_outputs import read_single
from hf_genext.prediction_metrics import score_bits_per_dimension

LABEL = {"model_type": "genext_label_conditioner", "label_counts": [3], "hidden_size": 16}
PIXELS = {"model_type": "genext_vector_conditioner", "vector_size": 4, "hidden_size": 16}
KINDS = {"bernoulli": 2, "categorical": 3, "logistic": 3}


def build_image_model(
    distribution: str = "categorical",
    *,
    latents: bool = False,
    levels: int | None = None,
    context_size: int = 0,
    context_reach: int | None = None,
    context_dropout: float = 0.0,
):
    """A model of 2x2 pixels, by a label, and with latent numbers that read the pixels."""
    torch.manual_seed(2)
    conditioner, bottleneck = LABEL, {"kind": "none"}
    if latents:
        parts = {"vector": PIXELS, "label": LABEL}
        conditioner = {"model_type": "genext_fusion_conditioner", "conditioners": parts, "hidden_size": 16}
        bottleneck = {"kind": "variational", "latent_size": 2, "posterior_conditions": ["vector"]}
    head = {
        "kind": "image",
        "output_shape": [2, 2],
        "num_levels": levels or KINDS[distribution],
        "pixel_distribution": distribution,
        **({"num_components": 2} if distribution == "logistic" else {}),
        "context_size": context_size,
        "context_reach": context_reach,
        "context_dropout": context_dropout,
    }
    return sharpen(GenextForPrediction(GenextConfig(conditioner=conditioner, bottleneck=bottleneck, head=head)))


def build_image_pipeline(**arguments) -> ConditionalGenerationPipeline:
    processor = GenextProcessor(vector_size=4, label_names={"digit": ["0", "1", "2"]})
    return ConditionalGenerationPipeline(model=build_image_model(latents=True, **arguments), processor=processor)


def list_images(levels: int) -> torch.Tensor:
    return torch.tensor(list(itertools.product(range(levels), repeat=4)), dtype=torch.float64)


CONTEXTS = pytest.mark.parametrize(
    "context",
    [{}, {"context_size": 7}, {"context_size": 7, "context_reach": 1}],
    ids=["independent", "whole context", "near context"],
)


@CONTEXTS
@pytest.mark.parametrize("distribution", KINDS)
def test_probabilities_of_all_images_sum_to_one_and_draws_agree(distribution, context):
    levels = KINDS[distribution]
    model, images = build_image_model(distribution, **context).double(), list_images(levels)
    label = torch.tensor([[1]])
    with torch.no_grad():
        expected = model.log_prob(images, condition_labels=label.expand(len(images), -1)).exp()
    assert float(expected.sum()) == pytest.approx(1.0, abs=1e-9)
    places = torch.tensor([levels**power for power in (3, 2, 1, 0)])
    values = []
    for seed in range(10):
        drawn = model.sample(num_return_sequences=2000, seed=seed, condition_labels=label)
        assert drawn.shape == (2000, 2, 2)
        counts = np.bincount((drawn.flatten(1) * places).sum(dim=1).numpy(), minlength=len(images))
        often = expected.numpy() * 2000 > 5
        observed = np.append(counts[often], counts[~often].sum())
        wanted = np.append(expected.numpy()[often], expected.numpy()[~often].sum()) * 2000
        values.append(stats.chisquare(observed + 1e-9, wanted + 1e-9).pvalue)
    assert min(values) > 1e-3 and stats.kstest(values, "uniform").pvalue > 1e-3, values


@pytest.mark.parametrize("levels", [17, 256])
def test_the_logistic_distribution_is_that_of_its_definition(levels):
    model, half = build_image_model("logistic", levels=levels).double(), 1 / (levels - 1)
    parameters = torch.randn(1, model.head.config.num_outputs * 6, dtype=torch.float64)
    weights, means, log_scales = model.head._split(parameters.view(1, 4, 6))
    edges = torch.linspace(-1 - half, 1 + half, levels + 1, dtype=torch.float64)
    edges[0], edges[-1] = -torch.inf, torch.inf
    cumulative = torch.sigmoid((edges[:, None, None] - means[0]) / log_scales[0].exp())
    expected = ((cumulative[1:] - cumulative[:-1]) * weights[0].softmax(dim=-1)).sum(dim=-1)
    for level in range(levels):
        found = model.head._score_pixels(parameters.view(1, 4, 6), torch.full((1, 4), level))
        torch.testing.assert_close(found[0].exp(), expected[level], atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("reach", [None, 1])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_pixels_that_read_those_before_them_run_in_half_precision(dtype, reach):
    model = build_image_model("logistic", context_size=7, context_reach=reach, levels=5)
    images, label = torch.randint(0, 5, (6, 2, 2)), torch.zeros(6, 1, dtype=torch.long)
    with torch.no_grad():
        expected = model.log_prob(images, condition_labels=label)
        half = model.to(dtype)
        torch.testing.assert_close(half.log_prob(images, condition_labels=label).float(), expected, atol=0.3, rtol=0.05)
        assert half(condition_labels=label).logits.dtype == torch.long
        assert half.sample(condition_labels=label, seed=1).shape == (6, 2, 2)


def test_many_levels_are_tabulated_as_one_by_one():
    model = build_image_model("logistic", levels=64).double()
    parameters = torch.randn(3, 4, 6, dtype=torch.float64)
    one_by_one = [model.head._score_pixels(parameters, torch.full((3, 4), level)) for level in range(64)]
    torch.testing.assert_close(model.head._tabulate(parameters), torch.stack(one_by_one, dim=-1))


def test_a_pixel_reads_those_before_it_and_no_other():
    model = build_image_model("logistic", context_size=5).double()
    own = torch.zeros(1, 4, 6, dtype=torch.float64)
    values = torch.linspace(-1.0, 1.0, 4, dtype=torch.float64)[None].requires_grad_()
    added = model.head.context(values, torch.randn(1, 5, dtype=torch.float64))
    for place in range(4):
        (gradient,) = torch.autograd.grad(added[0, place].square().sum() + 0 * values.sum(), values, retain_graph=True)
        assert (gradient[0, place:] == 0).all()
        assert (gradient[0, :place] != 0).all()
    assert added.shape == own.shape


@pytest.mark.parametrize(("shape", "reach"), [([4, 5], 1), ([5, 4, 3], 1), ([5, 6], 2)])
def test_a_near_context_is_what_is_drawn_before_within_its_reach(shape, reach):
    torch.manual_seed(0)
    context = NearContext(shape, each=2, size=6, reach=reach).double()
    for weight in context.parameters():
        nn.init.normal_(weight)
    height, width, channels = *shape[:2], shape[2] if len(shape) == 3 else 1
    places = list(itertools.product(range(height), range(width), range(channels)))
    values, hints = torch.randn(1, len(places), dtype=torch.float64, requires_grad=True), torch.randn(1, 6, dtype=torch.float64)
    added = context(values, hints)
    for place, (row, column, _) in enumerate(places):
        (gradient,) = torch.autograd.grad(added[0, place].square().sum() + 0 * values.sum(), values, retain_graph=True)
        expected = [
            other < place and row - above <= reach and abs(column - aside) <= reach
            for other, (above, aside, _) in enumerate(places)
        ]
        assert (gradient[0] != 0).tolist() == expected
        known = values.detach().clone()
        known[:, place:] = 0  # As it is while pixels are drawn.
        torch.testing.assert_close(context.step(place, known, hints), added[:, place : place + 1])


@pytest.mark.parametrize("reach", [None, 1])
def test_in_training_some_images_are_scored_without_their_context(reach):
    model = build_image_model("categorical", context_size=5, context_reach=reach, context_dropout=0.4).double()
    head, images = model.head, torch.tensor([[0.0, 2.0, 1.0, 2.0]], dtype=torch.float64).expand(2000, -1)
    parameters = torch.randn(1, 4 * 3 + 5, dtype=torch.float64)
    with torch.no_grad():
        whole = head.score(parameters, images[:1])
        assert head.score(parameters, images).eq(whole).all(), "outside of training all pixels are read"
        own, hints = head._separate(parameters)
        without = head._score_pixels(own + head.context(torch.zeros(1, 4, dtype=torch.float64), hints), images[:1].long()).sum()
        head.train()
        scores = head.score(parameters, images)
    is_without = (scores - without).abs() < 1e-9
    assert (is_without | ((scores - whole).abs() < 1e-9)).all() and not torch.isclose(whole, without).any()
    assert stats.binomtest(int(is_without.sum()), len(images), 0.4).pvalue > 1e-3


@pytest.mark.parametrize("reach", [None, 1])
def test_guided_pixels_that_read_those_before_them_are_of_the_mixed_distribution(reach):
    model = build_image_model("categorical", context_size=5, context_reach=reach).double()
    images, generator = list_images(3), torch.Generator().manual_seed(3)
    sets = [torch.randn(1, 4 * 3 + 5, dtype=torch.float64, generator=generator) for _ in range(2)]
    # Of each pixel given those before it, by the two, mixed and made to sum to 1.
    expected = torch.zeros(len(images), dtype=torch.float64)
    for place in range(4):
        tables = []
        for parameters in sets:
            own, hints = model.head._separate(parameters.expand(len(images), -1))
            own = own + model.head.context(images - 1.0, hints)
            tables.append(own[:, place].log_softmax(dim=-1))
        mixed = (tables[1] + 2.0 * (tables[0] - tables[1])).log_softmax(dim=-1)
        expected += mixed.gather(-1, images[:, place, None].long())[:, 0]
    expected = expected.exp().detach()
    assert float(expected.sum()) == pytest.approx(1.0, abs=1e-9)
    noise = KeyedNoise(make_keys([(5, 0)], 20_000))
    with torch.no_grad():
        drawn = model.head.draw_guided(sets[0].expand(20_000, -1), sets[1].expand(20_000, -1), 2.0, noise)
    places = (drawn.flatten(1) * torch.tensor([27, 9, 3, 1])).sum(dim=1)
    counts = np.bincount(places.numpy(), minlength=81)
    often = expected.numpy() * 20_000 > 5
    wanted = expected.numpy()[often] * 20_000
    assert stats.chisquare(counts[often], wanted * counts[often].sum() / wanted.sum()).pvalue > 1e-3


def test_a_pixel_far_from_its_logistic_distribution_still_has_a_gradient():
    model = build_image_model("logistic", levels=256)
    parameters = torch.zeros(1, 24)
    parameters.view(4, 3, 2)[:, 2] = -9.0
    parameters.requires_grad_()
    log_prob = model.head.score(parameters, torch.tensor([[0.0, 255.0, 100.0, 30.0]]))
    log_prob.sum().backward()
    assert log_prob.isfinite().all() and parameters.grad.isfinite().all() and parameters.grad.abs().sum() > 0


def test_the_bound_of_a_model_with_latent_numbers_rises_to_the_exact_probability():
    model, images = build_image_model(latents=True).double(), list_images(3)
    with torch.no_grad():
        model.encoder.bottleneck.posterior.projection.weight.mul_(0.3)  # So that weights have no long tails.
        axis = torch.linspace(-7.0, 7.0, 94, dtype=torch.float64)
        grid = torch.cartesian_prod(axis, axis)
        density = torch.distributions.Normal(0.0, 1.0).log_prob(grid).sum(dim=1).exp() * float(axis[1] - axis[0]) ** 2
        label = torch.tensor([[2]])
        latents = model.encoder(condition_labels=label, sample_latents=False).latents
        memory, mask = model.encoder.bottleneck.write(grid, latents)
        parameters = model.head(model._average(memory, mask))
        exact = torch.stack(
            [(model.head.score(parameters, image.expand(len(grid), -1)).exp() * density).sum() for image in images]
        )
        assert float(exact.sum()) == pytest.approx(1.0, abs=1e-5)
        inputs = {"condition_vectors": images.float().double(), "condition_labels": label.expand(len(images), -1)}
        bounds = {
            count: torch.stack([model.log_prob(images, count, seed=seed, **inputs) for seed in range(repeats)]).mean(dim=0)
            for count, repeats in ((1, 60), (16, 10), (512, 2))
        }
    means = {count: float((bound * exact).sum()) for count, bound in bounds.items()}
    entropy = float((exact.log() * exact).sum())
    assert means[1] < means[16] < means[512] + 0.005
    assert means[512] == pytest.approx(entropy, abs=0.03) and means[1] < entropy - 0.02


def test_samples_of_a_model_with_latent_numbers_are_the_same_alone_and_in_a_batch():
    model = build_image_model(latents=True)
    labels = torch.tensor([[0], [1], [2]])
    together = model.sample(seed=5, condition_labels=labels)
    assert torch.equal(model.sample(seed=5, condition_labels=labels[:2]), together[:2])
    several = model.sample(seed=5, num_return_sequences=8, condition_labels=labels)
    assert several.shape == (24, 2, 2) and len(several[:8].unique(dim=0)) > 1
    assert torch.equal(several[:8], model.sample(seed=5, num_return_sequences=8, condition_labels=labels[:1]))
    assert model.sample(num_samples=4, seed=1).shape == (4, 2, 2)


@CONTEXTS
@pytest.mark.parametrize("distribution", KINDS)
def test_pixels_and_latent_numbers_have_temperatures_of_their_own(distribution, context):
    model = build_image_model(distribution, latents=True, **context)
    label, several = torch.tensor([[1]]), {"seed": 5, "num_return_sequences": 40}
    noise = KeyedNoise(make_keys([(5, 0)], 40)).normal(model.encoder.bottleneck.num_noise).float()
    with torch.no_grad():  # The likeliest image of each draw of the latent numbers.
        expected = model(condition_labels=label.expand(40, -1), latent_noise=noise, sample_latents=True).logits
    drawn = model.sample(condition_labels=label, temperature=0.0, latent_temperature=1.0, **several)
    assert torch.equal(drawn, expected) and len(drawn.flatten(1).unique(dim=0)) > 1
    # Left out, it is the one temperature, and at 0 of both there is one image.
    own = model.sample(condition_labels=label, **several)
    assert torch.equal(model.sample(condition_labels=label, latent_temperature=1.0, **several), own)
    assert len(model.sample(condition_labels=label, temperature=0.0, **several).unique(dim=0)) == 1
    middle = model.sample(condition_labels=label, latent_temperature=0.0, **several)
    assert not torch.equal(middle, own) and len(middle.unique(dim=0)) > 1
    # What is given of them takes the place of what is drawn, and means that of both.
    given = model.sample(condition_labels=label, temperature=0.0, latent_noise=noise, num_return_sequences=40)
    assert torch.equal(given, expected)
    means = model.sample(condition_labels=label, temperature=0.0, sample_latents=False, latent_temperature=1.0, **several)
    assert len(means.unique(dim=0)) == 1
    with pytest.raises(ValueError, match="latent_noise is for a model whose memory is drawn"):
        build_image_model(distribution).sample(condition_labels=label, latent_noise=noise)
    with pytest.raises(ValueError, match='latent_temperature is for a model with a bottleneck of kind "variational" or'):
        build_image_model(distribution).sample(condition_labels=label, latent_temperature=1.0)


# The pipeline


def test_the_pipeline_draws_pictures_by_seed_alone_and_in_a_batch(tmp_path):
    pipe = build_image_pipeline()
    answers = pipe(num_samples=6, seed=3)
    pictures = [np.asarray(answer[0]["generated_image"]) for answer in answers]
    assert pictures[0].shape == (2, 2) and {*np.unique(pictures)} <= {0, 128, 255}
    assert len({picture.tobytes() for picture in pictures}) > 1
    again = [np.asarray(answer[0]["generated_image"]) for answer in pipe(num_samples=3, seed=3, batch_size=1)]
    np.testing.assert_array_equal(again, pictures[:3])
    several = pipe({"label": "2"}, seed=3, num_return_sequences=5)
    assert len(several) == 5
    pipe.save_pretrained(tmp_path)
    opened = type(pipe)(model=GenextForPrediction.from_pretrained(tmp_path), processor=pipe.processor)
    same = [np.asarray(answer[0]["generated_image"]) for answer in opened(num_samples=6, seed=3)]
    np.testing.assert_array_equal(same, pictures)


def test_the_pipeline_draws_pictures_without_noise_of_their_pixels():
    pipe = build_image_pipeline()
    answers = pipe([{"label": "1"}] * 8, seed=3, temperature=0.0, latent_temperature=1.0)
    places = [[(3, place)] for place in range(8)]
    noise = torch.cat([KeyedNoise(make_keys(place, 1)).normal(3) for place in places]).float()
    with torch.no_grad():
        expected = pipe.model(condition_labels=torch.ones(8, 1).long(), latent_noise=noise, sample_latents=True).logits
    pictures = [np.rint(np.asarray(answer[0]["generated_image"]) / 127.5) for answer in answers]
    np.testing.assert_array_equal(np.stack(pictures), expected.numpy())


def test_the_pipeline_scores_pictures_and_arrays_by_the_bound():
    pipe = build_image_pipeline()
    image = np.array([[0, 1], [2, 1]])
    (drawn,) = (picture for picture in [pipe({"label": "1"}, seed=0)[0]["generated_image"]])
    found = pipe.score([{"label": "1"}, {"label": "1"}], [image, image.flatten().tolist()], num_importance_samples=9)
    assert found[0]["num_importance_samples"] == 9 and found[0]["score"] < 0
    more = pipe.score({"label": "1"}, image, num_importance_samples=3000)["score"]
    model = pipe.model
    with torch.no_grad():
        vector = torch.tensor(image, dtype=torch.float32).flatten()[None]
        mean = model.log_prob(vector, 3000, seed=9, condition_vectors=vector, condition_labels=torch.tensor([[1]]))
    assert more == pytest.approx(float(mean), abs=0.1)
    levels = torch.from_numpy(np.rint(np.asarray(drawn) / 127.5)).flatten()
    as_picture, as_numbers = pipe.score([{"label": "1"}] * 2, [drawn, levels.tolist()], num_importance_samples=4, batch_size=1)
    assert as_picture["score"] < 0 and as_numbers["score"] < 0


def test_images_are_read_as_a_target_once():
    pipe = build_image_pipeline()
    answer = pipe({"vector": [0.0, 1.0, 2.0, 1.0], "label": "0"})
    again = pipe({"vector": [0.0, 1.0, 2.0, 1.0], "label": "0"})
    np.testing.assert_array_equal(*(np.asarray(one[0]["generated_image"]) for one in (answer, again)))


def test_pictures_of_any_mode_are_scored_as_what_they_show_and_only_those_of_the_right_size():
    model = build_image_model(levels=3)
    head = model.config.head
    grey = np.array([[0, 255], [128, 0]], dtype=np.uint8)
    expected = torch.tensor([0.0, 2.0, 1.0, 0.0])
    picture = Image.fromarray(grey)
    for given in (picture, picture.convert("RGB"), picture.convert("P"), picture.convert("RGBA")):
        assert torch.equal(read_single(head, given), expected)
    black = Image.fromarray(np.array([[0, 255], [255, 0]], dtype=np.uint8)).convert("1")
    assert read_single(head, black).tolist() == [0.0, 2.0, 2.0, 0.0]
    assert read_single(head, [[0, 1], [2, 0]]).tolist() == read_single(head, [[[0], [1]], [[2], [0]]]).tolist() == [0, 1, 2, 0]
    for wrong in (Image.fromarray(grey.reshape(1, 4)), grey.reshape(1, 4), grey.reshape(1, 2, 2)):
        with pytest.raises(ValueError, match=r"is \(2, 2\), or flat, 4 numbers; got one of the shape \(1, "):
            read_single(head, wrong)


# What is refused


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(2, 3), r"An image of this model is \(2, 2\), or flat, \(4,\); got targets of the shape \(2, 3\)"),
        (torch.tensor([[0.0, 1.0, float("nan"), 0.0]]), "In row 0 of the batch 1 of 4 pixels are missing"),
        (torch.tensor([[0.0, 3.0, 1.0, 0.0]]), "whole number from 0 to 2, got 3"),
        (torch.tensor([[0.0, 0.5, 1.0, 0.0]]), "whole number from 0 to 2, got 0.5"),
        (torch.tensor([[0.0, -1.0, 1.0, 0.0]]), "whole number from 0 to 2, got -1"),
    ],
)
def test_targets_that_are_no_images_are_refused(labels, message):
    model = build_image_model()
    with pytest.raises(ValueError, match=message):
        model(labels=labels, condition_labels=torch.zeros(len(labels), 1, dtype=torch.long))


@pytest.mark.parametrize("distribution", KINDS)
def test_without_a_condition_all_images_have_one_distribution(distribution):
    head = build_image_model(distribution).config.head
    model = sharpen(GenextForPrediction.from_encoder_pretrained(GenextNullConditionerConfig(hidden_size=8), head)).double()
    images = list_images(KINDS[distribution])
    with torch.no_grad():
        assert float(model.log_prob(images).exp().sum()) == pytest.approx(1.0, abs=1e-9)
        loss = model(labels=images, num_samples=len(images)).loss
    assert 4 * loss.item() == pytest.approx(-model.log_prob(images).mean().item())  # A loss is that of a pixel.
    drawn = model.sample(num_samples=50, seed=3)
    assert drawn.shape == (50, 2, 2) and len(drawn.flatten(1).unique(dim=0)) > 3 and drawn.max() < KINDS[distribution]


def test_a_missing_image_counts_nothing():
    model = build_image_model()
    labels = torch.tensor([[0.0, 1.0, 2.0, 0.0], [float("nan")] * 4])
    inputs = torch.tensor([[0], [1]])
    both = model(labels=labels, condition_labels=inputs)
    one = model(labels=labels[:1], condition_labels=inputs[:1])
    torch.testing.assert_close(both.loss, one.loss)
    assert both.log_probs[1].item() == 0.0
    assert torch.equal(model(labels=labels.view(2, 2, 2), condition_labels=inputs).loss, both.loss)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "image"}, "needs output_shape"),
        ({"kind": "image", "output_shape": [2, 2], "num_components": 3}, 'num_components is for pixel_distribution="logistic"'),
        ({"kind": "class", "num_levels": 3}, 'num_levels is for a head of kind "image", not "class"; leave it out'),
        ({"kind": "image", "output_shape": [8]}, "needs output_shape"),
        ({"kind": "image", "output_shape": [8, 8], "num_levels": 1}, "2 values or more"),
        ({"kind": "image", "output_shape": [8, 8], "pixel_distribution": "bernoulli"}, "just 2; got num_levels=256"),
        (
            {"kind": "image", "output_shape": [1, 2], "output_means": [0.0, 0.0]},
            'output_means is for a head of kind "regression" or',
        ),
        ({"kind": "class", "output_shape": [8, 8]}, 'output_shape is for a head of kind "image"'),
        ({"kind": "class", "context_reach": 2}, 'context_reach is for a head of kind "image"'),
        ({"kind": "image", "output_shape": [8, 8], "context_reach": 2}, "with a context_size, whose units read so far"),
        ({"kind": "image", "output_shape": [8, 8], "context_size": 4, "context_reach": 0}, "context_reach must be 1 or more"),
        ({"kind": "image", "output_shape": [8, 9], "context_size": 4, "context_reach": 9}, "up to 8 in an image of 8x9"),
        ({"kind": "class", "context_dropout": 0.1}, 'context_dropout is for a head of kind "image"'),
        ({"kind": "image", "output_shape": [8, 8], "context_dropout": 0.1}, "pixels that read others by a context_size"),
        ({"kind": "image", "output_shape": [8, 8], "context_size": 4, "context_dropout": 1.0}, "at least 0 and below 1"),
    ],
)
def test_heads_that_make_no_image_are_refused(fields, message):
    with pytest.raises(Exception, match=message):
        GenextHeadConfig(**fields)


def test_a_picture_of_another_size_is_refused():
    with pytest.raises(
        ValueError, match=r"An image of this model is \(2, 2\), or flat, 4 numbers; got one of the shape \(3, 3\)"
    ):
        build_image_pipeline().score({"label": "1"}, np.zeros((3, 3)))


def test_bits_are_those_of_a_uniform_distribution():
    log_probs = np.full(3, -4 * np.log(17.0))
    assert score_bits_per_dimension(log_probs, np.zeros((3, 4))) == pytest.approx(np.log2(17.0))

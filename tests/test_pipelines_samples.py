"""Single outputs that the pipeline draws: by seeds, alone and in a batch; as likely as the model says; what is refused."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest
from specimens import sharpen

from hf_genext import (
    GenextForPrediction,
    GenextNullConditionerConfig,
    GenextProcessor,
    GenextVectorConditionerConfig,
    pipeline,
)
from hf_genext.genext.noise_genext import Noise
from hf_genext.genext.seeding_genext import KeyedNoise, make_keys

TASK = "conditional-generation"
FIELDS = {
    "class": {"output_names": ["a", "b", "c"]},
    "labels": {"output_names": ["a", "b", "c"]},
    "regression": {"output_names": ["x", "y"], "output_scales": [10.0, 0.1]},
    "mixture": {"num_outputs": 3, "num_components": 2},
    "flow": {"num_outputs": 3, "num_transforms": 2, "transform_size": 8},
    "ppca": {"num_outputs": 3, "num_components": 2},
    "ica": {"num_outputs": 3, "num_components": 2},
}
ROWS = [{"vector": [0.5 * row, 1.0, -row]} for row in range(5)]


def build_pipe(kind, *, conditional=True, condition_dropout=None, **fields):
    torch.manual_seed(0)
    encoder = (
        GenextVectorConditionerConfig(vector_size=3, hidden_size=8)
        if conditional
        else GenextNullConditionerConfig(hidden_size=8)
    )
    head = {"kind": kind, **FIELDS[kind], **fields}
    model = sharpen(GenextForPrediction.from_encoder_pretrained(encoder, head, condition_dropout=condition_dropout))
    processor = GenextProcessor(vector_size=3) if conditional else GenextProcessor(label_names={})
    return pipeline(TASK, model=model, processor=processor)


def flatten(answers):
    """What stands in answers, numbers and names each in a list of their own."""
    numbers, names = [], []
    for value in (value for answer in answers for drawn in answer for value in drawn.values()):
        parts = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else [value]
        for part in parts:
            (names if isinstance(part, str) else numbers).append(part)
    return numbers, names


def assert_same(found, expected):
    (numbers, names), (more_numbers, more_names) = flatten(found), flatten(expected)
    assert names == more_names
    np.testing.assert_allclose(numbers, more_numbers, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", sorted(FIELDS))
def test_a_row_draws_the_same_alone_and_in_any_batch(kind):
    pipe = build_pipe(kind)
    expected = pipe(ROWS, seed=7, num_return_sequences=4)
    assert [len(answer) for answer in expected] == [4] * 5
    assert any(drawn != answer[0] for answer in expected for drawn in answer[1:])
    for batch_size in (2, 5):
        assert_same(pipe(ROWS, seed=7, num_return_sequences=4, batch_size=batch_size), expected)
    assert_same(list(pipe(iter(ROWS), seed=7, num_return_sequences=4, batch_size=3)), expected)
    assert_same([pipe(ROWS[0], seed=7, num_return_sequences=4)], expected[:1])
    # A seed of its own is that of a row alone, and more samples begin with the same.
    assert_same([pipe(row, seed=9) for row in ROWS], pipe(ROWS, seed=[9] * 5, batch_size=5))
    assert_same([pipe(ROWS[1], seed=[9][0], num_return_sequences=2)[:1]], [pipe(ROWS[1], seed=9)])
    assert flatten(pipe(ROWS, seed=8, num_return_sequences=4)) != flatten(expected)


@pytest.mark.parametrize("kind", ["class", "labels", "regression"])
def test_guided_rows_draw_the_same_alone_and_in_any_batch(kind):
    pipe = build_pipe(kind, condition_dropout=0.2)
    expected = pipe(ROWS, seed=7, num_return_sequences=4, guidance_scale=1.3)
    assert_same(pipe(ROWS, seed=7, num_return_sequences=4, guidance_scale=1.3, batch_size=2), expected)
    assert_same([pipe(ROWS[0], seed=7, num_return_sequences=4, guidance_scale=1.3)], expected[:1])
    assert_same(pipe(ROWS, seed=7, guidance_scale=1.0), pipe(ROWS, seed=7))
    assert flatten(pipe(ROWS, seed=7, num_return_sequences=4)) != flatten(expected)
    with pytest.raises(ValueError, match="guidance_scale must be a finite number of 0 or more"):
        pipe(ROWS[0], guidance_scale="2")
    with pytest.raises(ValueError, match="trained with some of its conditions taken away"):
        build_pipe(kind)(ROWS[0], guidance_scale=2.0)


@pytest.mark.parametrize("kind", ["mixture", "flow", "ppca", "ica"])
def test_vectors_are_drawn_from_nothing(kind):
    pipe = build_pipe(kind, conditional=False)
    drawn = pipe(num_samples=6, seed=7)
    assert len({tuple(answer["value"]) for (answer,) in drawn}) == 6
    assert_same(pipe([{}] * 6, seed=7, batch_size=4), drawn)
    assert_same([pipe({}, seed=7)], drawn[:1])
    assert pipe(num_samples=2, do_sample=False) == [pipe({})] * 2
    assert len(pipe(num_samples=1234)) == 1234
    scores = pipe.score([{}] * 6, [answer["value"] for (answer,) in drawn])
    with torch.no_grad():
        expected = pipe.model.log_prob(torch.tensor([answer["value"] for (answer,) in drawn]))
    torch.testing.assert_close(torch.tensor([one["score"] for one in scores]), expected)


@pytest.mark.parametrize("seed", range(10))
def test_names_are_drawn_as_often_as_the_model_finds_them_likely(seed):
    pipe, row = build_pipe("class"), ROWS[2]
    for temperature in (1.0, 2.0):
        shares = torch.tensor([answer["score"] for answer in pipe(row, top_k=3)]).double()
        shares = (shares.log() / temperature).softmax(dim=0)
        names = [answer["label"] for answer in pipe(row, top_k=3)]
        drawn = Counter(answer["label"] for answer in pipe(row, seed=seed, num_return_sequences=2000, temperature=temperature))
        assert chisquare([drawn[name] for name in names], 2000 * shares.numpy()).pvalue > 1e-4
    labels = build_pipe("labels")
    shares = labels(row)[0]["scores"]
    drawn = Counter(name for answer in labels(row, seed=seed, num_return_sequences=2000) for name in answer["labels"])
    for name, share in shares.items():
        assert abs(drawn[name] - 2000 * share) < 4.5 * math.sqrt(2000 * share * (1 - share))
    numbers = build_pipe("regression")
    answer = numbers(row)[0]
    values = [drawn["value"]["x"] for drawn in numbers(row, seed=seed, num_return_sequences=500, temperature=0.5)]
    assert kstest(values, "norm", args=(answer["value"]["x"], 0.5 * answer["uncertainty"]["x"])).pvalue > 1e-4


@pytest.mark.parametrize("kind", sorted(FIELDS))
def test_at_a_temperature_of_0_the_likeliest_is_drawn(kind):
    pipe = build_pipe(kind)
    for row in ROWS:
        drawn = pipe(row, seed=3, num_return_sequences=5, temperature=0.0)
        assert_same([drawn], [[drawn[0]] * 5])
        if kind == "ica":  # The middle of skewed sources is not their mean.
            continue
        if kind == "mixture":  # The middle of the heaviest component, where the pipeline gives the mean.
            with torch.no_grad():
                logits, means, _, _ = pipe.model.head.density.split(pipe.model.read_head(*encode(pipe, row)))
            expected = [{"value": means[0, logits[0].argmax()].tolist()}]
        else:
            (answer,) = pipe(row)
            expected = [{name: answer[name] for name in drawn[0]}]
        assert_same([drawn[:1]], [expected])


def encode(pipe, row):
    return pipe.model.encode(condition_vectors=torch.tensor([row["vector"]]), return_mask=True)


def test_noise_by_keys_is_uniform_and_depends_on_nothing_but_the_key():
    keys = make_keys([(7, place) for place in range(2000)], 1)
    noise = KeyedNoise(keys)
    first, second = noise.uniform(3), noise.uniform(3)
    for column in torch.cat([first, second], dim=1).T:
        assert kstest(column.numpy(), "uniform").pvalue > 1e-3
    assert torch.cat([first, second], dim=1).T.corrcoef().triu(1).abs().max() < 0.1
    some = KeyedNoise(keys[100:103])
    assert torch.equal(some.uniform(3), first[100:103])
    assert torch.equal(some.uniform(3), second[100:103])
    for columns in (Noise(2000, "cpu", torch.Generator().manual_seed(1)).normal(2), KeyedNoise(keys).normal(2)):
        assert kstest(columns.flatten().numpy(), "norm").pvalue > 1e-3


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"temperature": -1.0}, "temperature must be a finite number of 0 or more, got -1.0"),
        ({"latent_temperature": 1.0}, "latent_temperature is for a model with latent numbers"),
        ({"num_return_sequences": 0}, "num_return_sequences must be a whole number of 1 or more, got 0"),
        ({"temperature": 2.0, "do_sample": False}, "temperature is of what is drawn, and do_sample=False draws nothing"),
        ({"seed": 1, "do_sample": False}, "A seed is of what is drawn"),
        ({"seed": 1, "top_k": 2}, "top_k gives the likeliest classes, where nothing is drawn"),
        ({"seed": -1}, "A seed is a whole number"),
        ({"num_beams": 2}, "takes no num_beams. It takes top_k, truncation and batch_size; to draw from what it predicts"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, told):
    with pytest.raises(ValueError, match=told):
        build_pipe("class")(ROWS[0], **arguments)


def test_samples_from_nothing_need_a_model_that_can():
    with pytest.raises(ValueError, match="This model needs a condition"):
        build_pipe("flow")(num_samples=3)
    with pytest.raises(ValueError, match="leave the inputs out"):
        build_pipe("flow")(ROWS, num_samples=3)
    for number in (-2, "3", True, 1.5):
        with pytest.raises(ValueError, match="num_samples must be a whole number of 0 or more"):
            build_pipe("flow", conditional=False)(num_samples=number)


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ([math.nan, math.nan], "What is not known has no score"),
        ([0.0, math.inf], "is finite numbers"),
        ("violin", "is 3 numbers, got 'violin'"),
        ([[1.0], [1.0, 2.0]], "is 3 numbers"),
        ({"height": 1.0}, r"has the numbers '0', '1', '2'; got \['height'\]"),
        ([1.0, 2.0], "Each row has a vector of 3 numbers"),
    ],
)
def test_targets_that_are_no_vectors_are_not_scored(target, told):
    with pytest.raises(ValueError, match=told):
        build_pipe("flow", conditional=False).score([{}], [target])

"""Single outputs: distributions against PyTorch's own, missing targets, exact accumulation, and real learning."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from composition_specimens import CONDITIONS, TOKENS, Cell, build_bert, build_text_and_labels
from huggingface_hub.errors import StrictDataclassError
from sklearn.metrics import f1_score
from specimens import PREDICTION_LABELS, build_config, build_inputs, build_prediction, sharpen
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification, BertModel

from hf_genext import GenextConfig, GenextForPrediction, GenextNullConditionerConfig, GenextVectorConditionerConfig
from hf_genext.genext.calibration_genext import fit_class_temperature, fit_label_temperatures
from hf_genext.genext.latents_genext import move_inputs
from hf_genext.pipeline_outputs import name_single
from hf_genext.prediction_metrics import score_micro_f1

INPUTS = build_inputs(with_labels=False)


def compute_expected(kind, model, labels):
    """Log-probabilities of each row's target by PyTorch's distributions."""
    with torch.no_grad():
        outputs = model(**INPUTS)
    if kind == "class":
        return torch.distributions.Categorical(logits=outputs.logits).log_prob(labels)
    if kind == "labels":
        given = labels != -100
        log_probs = torch.distributions.Bernoulli(logits=outputs.logits).log_prob(labels.clamp(min=0).float())
        return (log_probs * given).sum(dim=1)
    given = ~labels.isnan()
    return (torch.distributions.Normal(outputs.logits, outputs.scale).log_prob(labels.nan_to_num()) * given).sum(dim=1)


@pytest.mark.parametrize("kind", ["class", "labels", "regression"])
def test_log_probabilities_and_the_loss_are_those_of_the_distribution(kind):
    model, labels = sharpen(build_prediction(kind)), PREDICTION_LABELS[kind]
    expected = compute_expected(kind, model, labels)
    torch.testing.assert_close(model.log_prob(labels, **INPUTS), expected)
    known = {"class": 3, "labels": 8, "regression": 5}[kind]
    torch.testing.assert_close(model(**INPUTS, labels=labels).loss, -expected.sum() / known)
    model(**INPUTS, labels=labels).loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("kind", ["class", "labels", "regression"])
def test_samples_have_the_distribution_and_the_seed_decides(kind):
    model = sharpen(build_prediction(kind))
    inputs = {name: tensor[:1].repeat(4000, 1) for name, tensor in INPUTS.items()}
    with torch.no_grad():
        outputs = model(**{name: tensor[:1] for name, tensor in INPUTS.items()})
        samples = model.sample(**inputs, generator=torch.Generator().manual_seed(1))
        again = model.sample(**inputs, generator=torch.Generator().manual_seed(1))
    assert torch.equal(samples, again)
    if kind == "class":
        shares = samples.bincount(minlength=5) / 4000
        torch.testing.assert_close(shares, outputs.logits[0].softmax(dim=-1), atol=0.03, rtol=0)
    elif kind == "labels":
        torch.testing.assert_close(samples.float().mean(dim=0), outputs.logits[0].sigmoid(), atol=0.03, rtol=0)
    else:
        error = 4 * outputs.scale[0] / math.sqrt(4000)
        assert ((samples.mean(dim=0) - outputs.logits[0]).abs() < error).all()
        torch.testing.assert_close(samples.std(dim=0), outputs.scale[0], atol=0, rtol=0.06)


@pytest.mark.parametrize("kind", ["class", "labels", "regression"])
def test_accumulation_is_exact(kind):
    model, labels = sharpen(build_prediction(kind)), PREDICTION_LABELS[kind]
    model(**INPUTS, labels=labels).loss.backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    known = {"class": 3, "labels": 8, "regression": 5}[kind]
    for row in range(3):
        part = {name: tensor[row : row + 1] for name, tensor in INPUTS.items()}
        model(**part, labels=labels[row : row + 1], num_items_in_batch=known).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-5, rtol=1e-4, msg=name)


def test_a_regression_learns_the_uncertainty_of_its_data():
    torch.manual_seed(0)
    vectors = torch.randn(512, 2)
    numbers = 2 * vectors[:, 0] + torch.randn(512) * torch.where(vectors[:, 1] > 0, 1.0, 0.1)
    model = GenextForPrediction.from_encoder_pretrained(
        GenextVectorConditionerConfig(vector_size=2, hidden_size=64), {"kind": "regression"}
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-2)
    for _ in range(200):
        model(condition_vectors=vectors, labels=numbers).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    outputs = model.eval()(condition_vectors=vectors)
    noisy = vectors[:, 1] > 0.3
    quiet = vectors[:, 1] < -0.3
    assert outputs.scale[noisy].mean() > 3 * outputs.scale[quiet].mean()
    assert (outputs.logits[:, 0] - 2 * vectors[:, 0]).abs().mean() < 0.4


def test_a_regression_in_any_unit_is_the_same_model():
    """With the data's mean and deviation what is learned does not depend on the unit, and what is given is in it."""
    torch.manual_seed(0)
    vectors = torch.randn(64, 2)
    numbers = torch.stack([vectors[:, 0] + 0.1 * torch.randn(64), vectors[:, 1]], dim=1)
    units, starts = torch.tensor([1000.0, 0.01]), torch.tensor([-5000.0, 3.0])
    outputs, losses = [], []
    for scaled, fields in (
        (numbers, {}),
        (numbers * units + starts, {"output_means": starts.tolist(), "output_scales": units.tolist()}),
    ):
        torch.manual_seed(1)
        model = GenextForPrediction.from_encoder_pretrained(
            GenextVectorConditionerConfig(vector_size=2, hidden_size=16),
            {"kind": "regression", "num_outputs": 2, "least_scale": 0.05, **fields},
        ).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(20):
            model(condition_vectors=vectors, labels=scaled).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            outputs.append(model.eval()(condition_vectors=vectors, labels=scaled))
        losses.append(outputs[-1].loss)
        expected = -torch.distributions.Normal(outputs[-1].logits, outputs[-1].scale).log_prob(scaled).mean()
        torch.testing.assert_close(outputs[-1].loss, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(outputs[1].logits, outputs[0].logits * units + starts, atol=0.5, rtol=1e-3)
    torch.testing.assert_close(outputs[1].scale, outputs[0].scale * units, atol=0, rtol=1e-2)
    torch.testing.assert_close(losses[1], losses[0] + units.log().mean(), atol=2e-2, rtol=0)
    assert losses[0] < 1.0


def test_a_regression_is_never_more_certain_than_it_may_be():
    model = build_prediction("regression", output_scales=[2.0, 4.0], least_scale=0.5)
    with torch.no_grad():
        model.head.projection.bias[2:] = -100.0
        model.head.projection.weight.zero_()
        scale = model(**INPUTS).scale
    torch.testing.assert_close(scale, torch.tensor([[1.0, 2.0]]).expand_as(scale))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"kind": "labels", "num_outputs": 2, "output_means": [0.0, 1.0]},
            'output_means is for a head of kind "regression" or "mixture"',
        ),
        ({"kind": "regression", "output_scales": [1.0, 2.0]}, "a number for each of the 1 outputs, got 2"),
        ({"kind": "regression", "output_scales": [0.0]}, "finite numbers above 0"),
        ({"kind": "regression", "output_means": [math.nan]}, "output_means must be finite numbers"),
        ({"kind": "regression", "least_scale": 0.0}, "least_scale must be a finite number above 0"),
    ],
)
def test_means_and_scales_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(StrictDataclassError, match=message):
        GenextConfig(head=fields)


@pytest.mark.parametrize("condition", ["bert", "vit", "whisper", "static", "vectors", "labels", "text_and_labels", "wav2vec2"])
@pytest.mark.parametrize("num_latents", [None, 2])
def test_every_condition_has_a_single_output_that_is_saved_and_opened(condition, num_latents, tmp_path):
    inputs = CONDITIONS[condition].inputs
    model = sharpen(
        GenextForPrediction.from_encoder_pretrained(
            CONDITIONS[condition].config(), {"kind": "class", "num_outputs": 4}, num_latents=num_latents
        )
    )
    with torch.no_grad():
        expected = model(**inputs).logits
    assert expected.diff(dim=0).abs().amax(dim=1).min() > 1e-3
    model.save_pretrained(tmp_path)
    opened = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(opened) is GenextForPrediction
    with torch.no_grad():
        torch.testing.assert_close(opened(**inputs).logits, expected, atol=0, rtol=0)
        torch.testing.assert_close(AutoModel.from_pretrained(tmp_path).encode(**inputs), model.encode(**inputs))


def test_a_frozen_encoder_keeps_its_numbers_under_a_head():
    bert = sharpen(BertModel(build_bert()))
    model = GenextForPrediction.from_encoder_pretrained(bert, {"kind": "class", "num_outputs": 3}, freeze_encoder=True)
    with torch.no_grad():
        torch.testing.assert_close(model.encode(**TOKENS), bert(**TOKENS).last_hidden_state)
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == {
        "head.projection.weight",
        "head.projection.bias",
    }


def test_a_model_without_a_head_is_refused(tmp_path):
    with pytest.raises(ValueError, match="give the configuration a head"):
        GenextForPrediction(build_config())
    with pytest.raises(StrictDataclassError, match="output_names has 2 names"):
        GenextConfig(head={"kind": "labels", "num_outputs": 3, "output_names": ["a", "b"]})
    Cell("bert", "native", 1).build().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"holds a GenextForConditionalGeneration.*AutoModelForSeq2SeqLM"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("kind", "labels", "message"),
    [
        ("class", torch.tensor([0, 3, 1]), "classes 0 to 2, and -100 where nothing is known; got 3"),
        ("class", torch.tensor([0.0, 1.0, 1.0]), r"whole numbers, \(batch,\); got labels of the shape \(3,\), float32"),
        ("class", torch.zeros(3, 1).long(), r"got labels of the shape \(3, 1\)"),
        ("labels", torch.tensor([0, 1, 1]), r"each of the 3 outputs, \(batch, 3\); got labels of the shape \(3,\)"),
        ("labels", torch.full((3, 3), 2), "A label is 0 or 1.*got 2"),
        ("regression", torch.zeros(3), r"3 numbers to predict, \(batch, 3\); got labels of the shape \(3,\)"),
        ("regression", torch.tensor([[0.0] * 3, [0.0, math.inf, 0.0], [1.0] * 3]), "row 1 of the batch holds an infinite one"),
    ],
)
def test_targets_that_do_not_fit_the_head_are_refused(kind, labels, message):
    model = GenextForPrediction.from_encoder_pretrained(build_bert(), {"kind": kind, "num_outputs": 3})
    with pytest.raises(ValueError, match=message):
        model(**TOKENS, labels=labels)
    with pytest.raises(ValueError, match=message):
        model.log_prob(labels, **TOKENS)


@pytest.mark.parametrize("kind", PREDICTION_LABELS)
def test_there_are_as_many_conditions_as_labels(kind):
    model, labels = sharpen(build_prediction(kind)), PREDICTION_LABELS[kind]
    for wrong in (labels[:1], labels[:2], labels.repeat(2, *[1] * (labels.dim() - 1))):
        for call in (model, model.log_prob):
            with pytest.raises(ValueError, match=f"There are 3 conditions and {len(wrong)} labels; give one for each"):
                call(labels=wrong, **INPUTS)


@pytest.mark.parametrize("kind", PREDICTION_LABELS)
def test_what_is_not_known_at_all_has_no_probability(kind):
    model, labels = sharpen(build_prediction(kind)), PREDICTION_LABELS[kind].clone()
    labels[1] = math.nan if labels.is_floating_point() else -100
    with torch.no_grad():
        found = model.log_prob(labels, **INPUTS)
        assert found.isnan().tolist() == [False, True, False]
        one = model.log_prob(labels[:1], **{name: tensor[:1] for name, tensor in INPUTS.items()})
    torch.testing.assert_close(found[:1], one, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", PREDICTION_LABELS)
def test_draws_keep_no_graph(kind):
    assert len(sharpen(build_prediction(kind)).sample(**INPUTS, seed=1).numpy()) == 3


def test_outputs_of_one_name_and_misspelled_arguments_are_refused():
    with pytest.raises(StrictDataclassError, match="'a' twice"):
        GenextConfig(head={"kind": "labels", "output_names": ["a", "b", "a"]})
    with pytest.raises(TypeError, match=r"takes no 'freeze_encoders'\. Did you mean 'freeze_encoder'"):
        GenextForPrediction.from_encoder_pretrained(build_bert(), {"kind": "class"}, freeze_encoders=True)


def test_a_fusion_has_a_single_output_too():
    model = GenextForPrediction.from_encoder_pretrained(build_text_and_labels(), {"kind": "regression", "num_outputs": 2})
    assert model(**CONDITIONS["text_and_labels"].inputs).logits.shape == (3, 2)


def draw_outputs(kind, model, temperature, num_rows=1200):
    """Inputs, and outputs drawn from the model's distribution at another temperature."""
    generator = torch.Generator().manual_seed(0)
    repeats = num_rows // len(INPUTS["input_ids"])
    inputs = {name: tensor.repeat(repeats, 1) for name, tensor in INPUTS.items()}
    with torch.no_grad():
        outputs = model(**inputs)
    if kind == "class":
        drawn = torch.multinomial((outputs.logits / temperature).softmax(dim=-1), 1, generator=generator)[:, 0]
    elif kind == "labels":
        drawn = torch.bernoulli((outputs.logits / temperature).sigmoid(), generator=generator).long()
    else:
        drawn = torch.normal(outputs.logits, outputs.scale * temperature, generator=generator)
    return inputs, drawn


@pytest.mark.parametrize("temperature", [0.5, 3.0])
@pytest.mark.parametrize("kind", ["class", "labels", "regression"])
def test_calibration_finds_the_temperature_under_which_the_outputs_are_likeliest(kind, temperature, tmp_path):
    model = sharpen(build_prediction(kind))
    inputs, drawn = draw_outputs(kind, model, temperature)
    before = model(**inputs, labels=drawn).loss.item()
    predicted = model(**INPUTS).logits.argmax(dim=-1)
    halves = [{name: tensor[part] for name, tensor in inputs.items()} for part in (slice(0, 300), slice(300, None))]
    batches = [{**half, "labels": labels} for half, labels in zip(halves, (drawn[:300], drawn[300:]), strict=True)]
    found = model.calibrate(batches)
    after = model(**inputs, labels=drawn).loss.item()
    assert after < before
    # No other temperature of one output is better (brute force), and the one that the outputs were drawn with is found.
    outputs = found if isinstance(found, list) else [found]
    for place, value in enumerate(outputs):
        for factor in (0.97, 1.03):
            other = [*outputs]
            other[place] = value * factor
            model.config.head.temperature = other if isinstance(found, list) else other[0]
            assert model(**inputs, labels=drawn).loss.item() >= after - 1e-6
    assert sum(abs(value - temperature) for value in outputs) / len(outputs) < 0.3 * temperature
    model.config.head.temperature = found
    assert torch.equal(model(**INPUTS).logits.argmax(dim=-1), predicted)
    assert model.calibrate(batches) == pytest.approx(found, rel=1e-3)  # A second time nothing is left to mend.
    model.save_pretrained(tmp_path)
    loaded = GenextForPrediction.from_pretrained(tmp_path)
    assert loaded.config.head.temperature == pytest.approx(found, rel=1e-3)
    torch.testing.assert_close(loaded.log_prob(drawn, **inputs), model.log_prob(drawn, **inputs))


def test_the_threshold_is_the_best_of_all_and_decides_what_is_predicted(tmp_path):
    model = sharpen(build_prediction("labels"))
    inputs, drawn = draw_outputs("labels", model, 2.0)
    drawn[::7, 0] = -100
    batches = [
        {name: tensor[part] for name, tensor in {**inputs, "labels": drawn}.items()} for part in (slice(300), slice(300, None))
    ]
    threshold = model.choose_threshold(batches)
    assert threshold == model.config.head.threshold != 0.5
    logits, labels = model(**inputs).logits.detach().double().numpy(), drawn.numpy()
    score = score_micro_f1(logits, labels, threshold)
    known = labels != -100
    every = np.unique(logits[known])
    assert score == pytest.approx(max(100 * f1_score(labels[known], logits[known] >= cut) for cut in every))
    assert score >= score_micro_f1(logits, labels)
    model.save_pretrained(tmp_path)
    loaded = GenextForPrediction.from_pretrained(tmp_path)
    head = loaded.config.head
    cut = math.log(threshold / (1 - threshold))
    for shift, count in ((1e-3, head.num_outputs), (-1e-3, 0)):
        assert len(name_single(head, torch.full((head.num_outputs,), cut + shift), None, 1)[0]["labels"]) == count


def test_a_threshold_near_one_parts_labels_that_are_all_but_sure():
    model = build_prediction("labels")
    logits, targets = torch.tensor([[20.0, 19.0, 18.0]]), torch.tensor([[1, 0, 0]])
    model.head.choose_threshold(logits, targets)
    assert name_single(model.config.head, logits[0], None, 1)[0]["labels"] == [(model.config.head.output_names or ["0"])[0]]


def test_thresholds_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match='only one of kind "labels"'):
        build_prediction("class").choose_threshold(
            [{**INPUTS, "labels": torch.zeros(len(INPUTS["input_ids"]), dtype=torch.long)}]
        )
    model = build_prediction("labels")
    with pytest.raises(ValueError, match="no row has one"):
        model.choose_threshold([{**INPUTS, "labels": torch.zeros_like(PREDICTION_LABELS["labels"])}])
    with pytest.raises(StrictDataclassError, match='threshold is for a head of kind "labels"'):
        GenextConfig(conditioner={"vocab_size": 32}, head={"kind": "class", "num_outputs": 3, "threshold": 0.4})
    with pytest.raises(StrictDataclassError, match="threshold must be a probability"):
        GenextConfig(conditioner={"vocab_size": 32}, head={"kind": "labels", "num_outputs": 3, "threshold": 1.0})


def test_where_no_temperature_is_best_targets_are_smoothed():
    """Every row is right, or a label is never there: the surest probabilities would be the likeliest."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 3, generator=generator)
    found = fit_class_temperature(logits, logits.argmax(dim=1))
    # Brute force over the likelihood of targets that are one row more right, and one more wrong.
    smoothed = torch.full((50, 3), 0.5 / 52).scatter(1, logits.argmax(dim=1, keepdim=True), 51 / 52)
    grid = torch.logspace(-2, 2, 4001)
    losses = torch.stack([-(smoothed * (logits / value).log_softmax(dim=1)).sum() for value in grid])
    assert found.item() == pytest.approx(grid[losses.argmin()].item(), rel=2e-3)
    assert 0.02 < found.item() < 1.0

    logits = -torch.rand(40, 2, generator=generator) - 2.0
    targets = torch.stack([torch.zeros(40), (torch.arange(40) % 8 == 0).float()], dim=1)
    found = fit_label_temperatures(logits, targets, torch.ones(40, 2, dtype=torch.bool))
    losses = torch.stack(
        [nn.functional.binary_cross_entropy_with_logits(logits[:, 0] / value, torch.full((40,), 1 / 42)) for value in grid]
    )
    assert found[0].item() == pytest.approx(grid[losses.argmin()].item(), rel=2e-3)
    # The other is what it was.
    losses = torch.stack(
        [nn.functional.binary_cross_entropy_with_logits(logits[:, 1] / value, targets[:, 1]) for value in grid]
    )
    assert found[1].item() == pytest.approx(grid[losses.argmin()].item(), rel=2e-3)


def test_a_threshold_that_was_chosen_is_chosen_anew_when_probabilities_change():
    model = sharpen(build_prediction("labels"))
    inputs, drawn = draw_outputs("labels", model, 3.0)
    batches = [{**inputs, "labels": drawn}]
    model.choose_threshold(batches)
    before = score_micro_f1(model(**inputs).logits.detach().double().numpy(), drawn.numpy(), model.config.head.threshold)
    model.calibrate(batches)
    threshold = model.config.head.threshold
    logits = model(**inputs).logits.detach().double().numpy()
    assert model.choose_threshold(batches) == threshold
    # Labels have temperatures of their own, so that others may be predicted, by what is the best cut of them.
    assert score_micro_f1(logits, drawn.numpy(), threshold) > before - 2.0


def test_calibration_without_labels_is_refused_and_labels_without_targets_keep_theirs():
    model = build_prediction("class")
    for batches in ([], [{**INPUTS, "labels": torch.full((len(INPUTS["input_ids"]),), -100)}]):
        with pytest.raises(ValueError, match="Give labelled rows"):
            model.calibrate(batches)
    with pytest.raises(ValueError, match="give them as labels"):
        model.calibrate([INPUTS])
    model = build_prediction("labels")
    labels = torch.full_like(PREDICTION_LABELS["labels"], -100)
    labels[:, 1] = torch.arange(len(labels)) % 2
    found = model.calibrate([{**INPUTS, "labels": labels}])
    assert [value == 1.0 for value in found] == [place != 1 for place in range(len(found))]


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), [1.0, 2.0]])
def test_temperatures_that_make_no_sense_are_refused(temperature):
    with pytest.raises(StrictDataclassError, match="emperature"):
        GenextConfig(conditioner={"vocab_size": 32}, head={"kind": "class", "num_outputs": 3, "temperature": temperature})


@pytest.mark.parametrize(
    ("kind", "bottleneck", "count"),
    [
        ("regression", {"kind": "variational"}, 2),
        ("mixture", {"kind": "quantized", "hidden_size": 8}, 2),
        ("regression", {"kind": "pooled"}, 0),
        ("class", {"kind": "variational"}, 0),
    ],
)
def test_numbers_behind_latent_numbers_have_a_network_of_their_own(kind, bottleneck, count, tmp_path):
    conditioner = {"model_type": "genext_vector_conditioner", "vector_size": 2, "hidden_size": 8}
    config = GenextConfig(conditioner=conditioner, bottleneck=bottleneck, head={"kind": kind, "num_outputs": 2})
    assert len(GenextForPrediction(config).head.layers) == config.head.num_hidden_layers == count
    config.save_pretrained(tmp_path)
    assert GenextConfig.from_pretrained(tmp_path).head.num_hidden_layers == count
    chosen = {"kind": kind, "num_outputs": 2, "num_hidden_layers": 1}
    assert len(GenextForPrediction(GenextConfig(conditioner=conditioner, bottleneck=bottleneck, head=chosen)).head.layers) == 1


def test_a_class_without_any_condition_is_calibrated_too():
    model = GenextForPrediction.from_encoder_pretrained(
        GenextNullConditionerConfig(hidden_size=8), {"kind": "class", "num_outputs": 2}
    )
    labels = torch.tensor([0, 1, 1, 1])
    temperature = model.calibrate([{"labels": labels[:3]}, {"labels": labels[3:]}])
    assert temperature == model.config.head.temperature != 1.0


def test_calibration_and_fits_move_states_by_the_names_of_conditions_to_the_device_too():
    states = {"text": torch.zeros(2, 3, 4)}
    moved = move_inputs({"condition_states": states, "labels": torch.zeros(2), "num_samples": 2}, torch.device("meta"))
    assert moved["condition_states"]["text"].is_meta and moved["labels"].is_meta and moved["num_samples"] == 2
    assert not states["text"].is_meta

"""Learning from rows without labels: the loss against brute force and quadrature, its count, and what it is good for."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

from hf_genext import (
    ConditionalGenerationPipeline,
    GenextConfig,
    GenextForPrediction,
    GenextProcessor,
    GenextTrainer,
    GenextTrainingArguments,
)
from hf_genext.batching import ConditionalCollator, EncodedRows
from hf_genext.conditions import find_output_names, parse_condition_columns, read_rows
from hf_genext.encoding import encode_rows
from hf_genext.prediction_metrics import build_prediction_metrics
from recipes import train_conditional
from recipes.arguments import SettingsError

MISSING = -100
VECTOR = {"model_type": "genext_vector_conditioner", "vector_size": 3, "hidden_size": 8}
REGRESSION = {"kind": "regression", "num_outputs": 3}


def build_classifier(
    generative: dict[str, Any] | None = None, *, dropout: float = 0.0, is_fused: bool = False, **fields: Any
) -> GenextForPrediction:
    """A classifier of three classes by three numbers, in float64, with a generative half."""
    torch.manual_seed(5)
    fused = {"model_type": "genext_fusion_conditioner", "conditioners": {"vector": VECTOR}}
    settings: dict[str, Any] = {
        "conditioner": fused if is_fused else VECTOR,
        "bottleneck": {"kind": "pooled", "dropout": dropout},
        "head": {"kind": "class", "num_outputs": 3},
        "generative": {
            "head": REGRESSION,
            "bottleneck": {"latent_size": 2, "dropout": dropout},
            "hidden_size": 8,
            **(generative or {}),
        },
        **fields,
    }
    return spread(GenextForPrediction(GenextConfig(**settings))).double().train()


def spread(model: GenextForPrediction) -> GenextForPrediction:
    """Weights that make outputs depend on inputs visibly."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.4)
    return model


def build_rows(count: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Vectors, classes of which two of three are missing, and noise of the latent numbers."""
    labels = torch.full((count,), MISSING)
    labels[::3] = torch.arange(len(labels[::3])) % 3
    return torch.randn(count, 3, dtype=torch.float64), labels, torch.randn(count, 3, dtype=torch.float64)


# The loss


@pytest.mark.parametrize("posterior", ["classifier", "bound"])
@pytest.mark.parametrize("prior", [None, [0.5, 0.3, 0.2]])
def test_a_missing_class_is_summed_out_as_by_trying_one_class_after_the_other(posterior, prior):
    weights = {"supervised_weight": 0.0, "unlabelled_weight": 0.7, "label_posterior": posterior, "label_prior": prior}
    model = build_classifier(weights)
    vectors, _, noise = build_rows(4)
    missing = torch.full((4,), MISSING)
    outputs = model(condition_vectors=vectors, labels=missing, latent_noise=noise)
    expected = torch.zeros((), dtype=torch.float64)
    for row in range(4):
        one = {"condition_vectors": vectors[row : row + 1], "latent_noise": noise[row : row + 1]}
        costs = torch.stack([model(**one, labels=torch.tensor([label])).loss for label in range(3)])
        classifier = outputs.logits[row].softmax(dim=0)
        chosen = classifier if posterior == "classifier" else (-costs).softmax(dim=0)
        expected = expected + (chosen * costs).sum() + (chosen * chosen.log()).sum()
        if posterior == "bound":
            # At its best the sum is the logarithm of what all classes make together; the classifier follows.
            torch.testing.assert_close((chosen * costs).sum() + (chosen * chosen.log()).sum(), -(-costs).logsumexp(dim=0))
            expected = expected + (chosen * (chosen / classifier).log()).sum()
    torch.testing.assert_close(outputs.loss, 0.7 * expected / 4)
    assert outputs.losses["supervised"] == 0.0
    torch.testing.assert_close(outputs.loss.detach(), sum(outputs.losses.values()))


def test_between_classifier_and_bounds_the_probabilities_mix_in_the_logarithm():
    fields = {"supervised_weight": 0.0, "label_posterior": "bound", "posterior_warmup": [0.1, 0.6]}
    model = build_classifier(fields)
    model.set_training_progress(0.2)
    vectors, _, noise = build_rows(1)
    one = {"condition_vectors": vectors, "latent_noise": noise}
    outputs = model(**one, labels=torch.tensor([MISSING]))
    costs = torch.stack([model(**one, labels=torch.tensor([label])).loss for label in range(3)])
    classifier = outputs.logits[0].softmax(dim=0)
    chosen = classifier.pow(0.8) * (-costs).exp().pow(0.2)
    chosen = chosen / chosen.sum()
    torch.testing.assert_close(outputs.losses["entropy"], (chosen * chosen.log()).sum())
    torch.testing.assert_close(outputs.losses["agreement"], (chosen * (chosen / classifier).log()).sum())


def test_a_batch_is_the_sum_of_its_rows_with_and_without_classes_and_vectors():
    model = build_classifier({"supervised_weight": 3.0, "labelled_weight": 0.5, "unlabelled_weight": 0.25}, is_fused=True)
    vectors, labels, noise = build_rows(9)
    vectors[3] = vectors[4] = math.nan  # One row with a class alone, and one with nothing.
    whole = model(condition_vectors=vectors, labels=labels, latent_noise=noise)
    parts: dict[str, Any] = {}
    for row in range(9):
        one = slice(row, row + 1)
        outputs = model(condition_vectors=vectors[one], labels=labels[one], latent_noise=noise[one])
        for name, value in outputs.losses.items():
            parts[name] = parts.get(name, 0.0) + value / 9
        is_there, is_labelled = not bool(vectors[row].isnan().any()), bool(labels[row] != MISSING)
        assert bool(outputs.losses["supervised"]) == is_labelled
        assert bool(outputs.losses["reconstruction"]) == is_there
        assert bool(outputs.losses["entropy"]) == (is_there and not is_labelled)
        if is_labelled:
            plain = torch.nn.functional.cross_entropy(outputs.logits, labels[one])
            torch.testing.assert_close(outputs.losses["supervised"], 3.0 * plain.detach())
    torch.testing.assert_close({name: value.detach() for name, value in whole.losses.items()}, parts)
    torch.testing.assert_close(whole.loss.detach(), sum(parts.values()))
    # A mask takes vectors away as NaN does.
    present = torch.ones(9, 1, dtype=torch.long)
    present[3:5] = 0
    masked = model(condition_vectors=vectors.nan_to_num(), condition_mask=present, labels=labels, latent_noise=noise)
    torch.testing.assert_close(masked.loss, whole.loss)


def test_the_bound_stays_below_the_exact_likelihood_by_quadrature():
    model = build_classifier(
        {"head": {"kind": "image", "output_shape": [1, 2], "num_levels": 2, "pixel_distribution": "bernoulli"}}
        | {"bottleneck": {"latent_size": 1}, "supervised_weight": 0.0, "label_prior": [0.7, 0.3]},
        conditioner={**VECTOR, "vector_size": 2},
        head={"kind": "class", "num_outputs": 2},
    )
    half = model.generative
    grid = torch.linspace(-9.0, 9.0, 2001, dtype=torch.float64)
    noise = torch.stack([grid, torch.zeros_like(grid)], dim=1)
    step = float(grid[1] - grid[0])
    density = torch.distributions.Normal(0.0, 1.0).log_prob(grid)
    images = torch.tensor(list(itertools.product([0.0, 1.0], repeat=2)), dtype=torch.float64)
    likelihoods = torch.zeros(4, dtype=torch.float64)
    with torch.no_grad():
        for label, prior in enumerate([0.7, 0.3]):
            classes = torch.full((2001, 1), label)
            drawn = half.encoder(condition_labels=classes, latent_noise=noise, sample_latents=True)  # Of the prior.
            torch.testing.assert_close(drawn.latents.values[:, 0], grid)
            parameters = half.read_head(drawn.last_hidden_state, drawn.memory_mask)
            for place, image in enumerate(images):
                scores = half.head.score(parameters, image.expand(2001, 2)) + density
                likelihoods[place] += prior * scores.exp().sum() * step
        torch.testing.assert_close(likelihoods.sum(), torch.ones((), dtype=torch.float64))
        for place, image in enumerate(images):
            rows = image.expand(4000, 2)
            draws = torch.randn(4000, 2, dtype=torch.float64)
            bound = -model(condition_vectors=rows, labels=torch.full((4000,), MISSING), latent_noise=draws).loss
            assert -3.0 < bound - likelihoods[place].log() < -0.01


@pytest.mark.parametrize(
    ("trainer_class", "arguments_class"), [(GenextTrainer, GenextTrainingArguments), (Seq2SeqTrainer, Seq2SeqTrainingArguments)]
)
def test_one_step_of_eight_is_four_steps_of_two_also_under_transformers_own_trainer(trainer_class, arguments_class, tmp_path):
    vectors, labels, noise = build_rows(8)
    columns = {"condition_vectors": vectors.float(), "labels": labels, "latent_noise": noise.float()}
    rows = [{name: column[row].numpy() for name, column in columns.items()} for row in range(8)]
    weights = []
    for batch, accumulated in ((8, 1), (2, 4)):
        arguments = arguments_class(
            str(tmp_path / str(batch)),
            max_steps=1,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulated,
            learning_rate=0.1,
            optim="sgd",
            max_grad_norm=0.0,
            lr_scheduler_type="constant",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        model = build_classifier({"supervised_weight": 2.0}).float()
        trainer = trainer_class(model=model, args=arguments, train_dataset=rows, data_collator=ConditionalCollator(0))
        trainer.train()
        expected = build_classifier({"supervised_weight": 2.0}).float()
        whole = expected(condition_vectors=vectors.float(), labels=labels, latent_noise=noise.float())
        log = trainer.state.log_history[0]
        assert log["loss"] == pytest.approx(float(whole.loss.detach()), rel=1e-4)
        if trainer_class is GenextTrainer:
            for name in ("supervised", "reconstruction", "kl", "label_prior", "entropy"):
                assert log[f"loss_{name}"] == pytest.approx(float(whole.losses[name]), rel=1e-4, abs=1e-5)
        weights.append(model.state_dict())
    assert not torch.equal(weights[0]["head.projection.weight"], build_classifier().float().head.projection.weight)
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], atol=1e-5, rtol=1e-4, msg=name)


def test_the_generative_weights_rise_and_what_has_no_class_at_all_has_a_loss():
    model = build_classifier({"warmup": 0.5})
    vectors, _, noise = build_rows(4)
    missing = torch.full((4,), MISSING)
    losses = []
    for progress in (0.0, 0.25, 0.5, 1.0):
        model.set_training_progress(progress)
        losses.append(model(condition_vectors=vectors, labels=missing, latent_noise=noise).loss.detach())
    torch.testing.assert_close(torch.stack(losses), losses[-1] * torch.tensor([0.0, 0.5, 1.0, 1.0], dtype=torch.float64))
    # Who counts labels may find none in a step.
    assert model(condition_vectors=vectors, labels=missing, num_items_in_batch=torch.tensor(0)).loss.isfinite()


@pytest.mark.parametrize("posterior", ["classifier", "bound"])
@pytest.mark.parametrize(
    "head", [REGRESSION, {"kind": "mixture", "num_outputs": 3, "num_components": 2}, {"kind": "flow", "num_outputs": 3}]
)
def test_every_parameter_has_a_gradient_and_a_saved_model_is_the_same(head, posterior, tmp_path):
    model = build_classifier({"head": head, "label_posterior": posterior}).float()
    vectors, labels, noise = build_rows(9)
    inputs = {"condition_vectors": vectors.float(), "labels": labels, "latent_noise": noise.float()}
    model(**inputs).loss.backward()
    # A vector or a class is never missing where one is scored, so that what stands for it waits.
    untouched = {
        name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.abs().any()
    }
    # Over a single state there is nothing to attend to, so that by what it is chosen has no gradient, but for rounding.
    choosing = ("q_proj.", "k_proj.", "q_norm.", "k_norm.", "queries")
    idle = {name for name in untouched if name.startswith("encoder.bottleneck.") and any(map(name.count, choosing))}
    assert untouched - idle == {"generative.encoder.conditioner.null_states.weight"}
    model.save_pretrained(tmp_path)
    opened = GenextForPrediction.from_pretrained(tmp_path)
    saved = opened.config.generative.to_dict()
    assert {**saved, "dtype": None} == model.config.generative.to_dict()
    torch.testing.assert_close(opened.train()(**inputs).loss, model(**inputs).loss, atol=0, rtol=0)
    # In evaluation it is a classifier that has never heard of the half.
    opened.eval()
    with torch.no_grad():
        outputs = opened(condition_vectors=vectors.float(), labels=labels)
    known = labels != MISSING
    assert outputs.losses is None
    torch.testing.assert_close(outputs.loss, torch.nn.functional.cross_entropy(outputs.logits[known], labels[known]))


def test_the_generative_half_draws_and_scores_by_itself():
    model = build_classifier().float().eval()
    drawn = model.generative.sample(condition_labels=torch.tensor([[0], [2]]), seed=3, num_return_sequences=2)
    assert drawn.shape == (4, 3)
    scores = model.generative.log_prob(drawn[:1], condition_vectors=drawn[:1], condition_labels=torch.tensor([[0]]), seed=1)
    assert scores.shape == (1,) and scores.isfinite().all()


# What it is good for


def draw_crossed_lines(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points near one of two lines that cross, by their class: what it means depends on where along its line a point is."""
    generator = torch.Generator().manual_seed(1)
    classes = torch.arange(count) % 2
    along = torch.randn(count, generator=generator)
    points = torch.stack([along, torch.where(classes == 0, along, -along)], dim=1)
    return points + 0.1 * torch.randn(count, 2, generator=generator), classes


@pytest.mark.parametrize(("layers", "tells_apart"), [(2, True), (None, False)])
def test_with_layers_class_and_latent_numbers_act_together_on_what_is_generated(layers, tells_apart):
    """Added up, they cannot tell the lines apart."""
    torch.manual_seed(0)
    config = GenextConfig(
        conditioner={**VECTOR, "vector_size": 2},
        head={"kind": "class", "num_outputs": 2},
        generative={
            "head": {"kind": "regression", "num_outputs": 2, "num_hidden_layers": layers},
            "bottleneck": {"latent_size": 1},
            "hidden_size": 32,
        },
    )
    model = GenextForPrediction(config).generative
    points, classes = draw_crossed_lines(400)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(300):
        loss = model(condition_vectors=points, condition_labels=classes[:, None], labels=points).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        given, other = (
            model.log_prob(points, condition_vectors=points, condition_labels=shown[:, None], seed=1)
            for shown in (classes, 1 - classes)
        )
    assert ((given - other).mean() > 1.0) == tells_apart


def build_clusters(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points of two long clusters beside each other, and which each belongs to."""
    generator = torch.Generator().manual_seed(2)
    classes = torch.arange(count) % 2
    points = torch.randn(count, 2, generator=generator) * torch.tensor([2.0, 0.3])
    return points + torch.stack([torch.zeros(count), 2.0 * classes - 1.0], dim=1), classes


@pytest.mark.parametrize("posterior", [{}, {"label_posterior": "bound", "posterior_warmup": [0.0, 0.5]}])
def test_rows_without_labels_show_where_the_classes_part(posterior):
    points, classes = build_clusters(400)
    # One label each, where the line between the two points crosses both clusters.
    points[:2] = torch.tensor([[-2.5, -1.0], [2.5, 1.0]])
    test, truth = build_clusters(1000)
    found = {}
    for is_generative in (False, True):
        torch.manual_seed(0)
        generative = {
            "head": {"kind": "regression", "num_outputs": 2, "least_scale": 0.1},
            "bottleneck": {"latent_size": 1},
            "hidden_size": 16,
            "supervised_weight": 2.0,
            "warmup": 0.2,
            **posterior,
        }
        config = GenextConfig(
            conditioner={**VECTOR, "vector_size": 2, "hidden_size": 16},
            head={"kind": "class", "num_outputs": 2},
            bottleneck={"kind": "pooled"},
            generative=generative if is_generative else None,
        )
        model = GenextForPrediction(config).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
        generator = torch.Generator().manual_seed(1)
        for step in range(120):
            model.set_training_progress(step / 120)
            others = torch.randint(2, 400, (30,), generator=generator)
            rows = torch.cat([torch.tensor([0, 1]), others])
            labels = torch.cat([classes[:2], torch.full((30,), MISSING)])
            model(condition_vectors=points[rows], labels=labels).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            found[is_generative] = (model.eval()(condition_vectors=test).logits.argmax(dim=1) == truth).double().mean()
    assert found[True] > 0.97 and found[False] < 0.9, found


# Data, training and the pipeline


def write_rows(path, labels: list[str | None]) -> str:
    """A file of vectors of three whole numbers of 0 to 4, and classes of which some are empty."""
    generator = np.random.default_rng(0)
    lines = [json.dumps({"pixels": generator.integers(0, 5, 3).tolist(), "name": label}) + "\n" for label in labels]
    path.write_text("".join(lines), encoding="utf-8")
    return str(path)


def read(path: str, **arguments: Any) -> tuple[Any, Any]:
    conditions = parse_condition_columns({"vector": "pixels"})
    return read_rows(path, conditions, target_columns=["name"], output="class", **arguments)


def test_rows_without_a_class_stay_where_that_is_asked_for(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", ["cat", None, " ", "dog", ""])
    rows, report = read(path)
    assert list(rows["target"]) == ["cat", "dog"] and report.dropped == {"empty name": 3}
    rows, report = read(path, keep_unlabelled=True)
    assert list(rows["target"]) == ["cat", None, None, "dog", None] and report.kept == 5
    assert "3 changed: learned from without name (rows 2, 3, 5)" in str(report)
    names = find_output_names(rows, "class")
    assert names == ["cat", "dog"]
    processor = GenextProcessor(vector_size=3, label_names={})
    encoded, _ = encode_rows(rows, processor, max_source_length=9, max_target_length=9, output="class", output_names=names)
    assert [int(encoded[row]["labels"]) for row in range(5)] == [0, MISSING, MISSING, 1, MISSING]
    with pytest.raises(ValueError, match="Row 4: the target 'dog' is not among the 1 names"):
        encode_rows(rows, processor, max_source_length=9, max_target_length=9, output="class", output_names=["cat"])
    with pytest.raises(ValueError, match=r"No row of .* has a target in column 'name'.*Label some rows"):
        read(write_rows(tmp_path / "none.jsonl", [None, ""]), keep_unlabelled=True)


def list_words(tmp_path, train: str, test: str) -> list[str]:
    """The command line of a small training."""
    head = "{kind: image, output_shape: [1, 3], num_levels: 5}"
    settings = f"""
conditions: {{vector: pixels}}
target_column: name
validation_size: 2
head: {{kind: class}}
bottleneck: pooled
generative: {{head: {head}, bottleneck: {{latent_size: 2}}, hidden_size: 8, supervised_weight: 2.0}}
metrics: [accuracy]
max_steps: 4
max_tokens_per_batch: 4
logging_steps: 2
save_strategy: "no"
eval_strategy: steps
eval_steps: 2
num_threads: 1
report_to: none
"""
    (tmp_path / "settings.yaml").write_text(settings, encoding="utf-8")
    files = ["--train_file", train, "--test_file", test, "--output_dir", str(tmp_path / "model")]
    return [str(tmp_path / "settings.yaml"), *files]


def test_a_settings_file_trains_on_rows_without_classes_and_judges_by_those_with(tmp_path):
    train = write_rows(tmp_path / "train.jsonl", ["cat", None, "dog", None, None, "cat", "dog", None, "cat", ""])
    test = write_rows(tmp_path / "test.jsonl", ["cat", None, "dog", "cat"])
    words = list_words(tmp_path, train, test)
    schedule = {"warmup": "0.5", "label_posterior": "bound", "posterior_warmup": "[0.0, 1.0]"}
    train_conditional.main([*words, *(word for name in schedule for word in (f"--generative.{name}", schedule[name]))])
    results = json.loads((tmp_path / "model" / "results.json").read_text())
    assert results["data"]["training_rows"] == 8 and results["data"]["validation_sources"] == 2
    assert results["data"]["test_sources"] == 3 and round(0.03 * results["metrics"]["accuracy"], 9) in (0, 1, 2, 3)
    history = json.loads((tmp_path / "model" / "trainer_state.json").read_text())["log_history"]
    log = next(entry for entry in history if "loss" in entry)
    parts = [log[f"loss_{name}"] for name in ("supervised", "reconstruction", "kl", "label_prior", "entropy", "agreement")]
    assert log["loss"] == pytest.approx(sum(parts), abs=1e-3)
    # Of the second of four steps.
    assert (log["kl_weight"], log["generative_weight"], log["bound_share"]) == (1.0, 0.5, 0.25)
    assert not any("active_units" in name for entry in history for name in entry)

    pipe = ConditionalGenerationPipeline(
        model=GenextForPrediction.from_pretrained(tmp_path / "model"),
        processor=GenextProcessor.from_pretrained(tmp_path / "model"),
    )
    answer = pipe({"vector": [1.0, 2.0, 3.0]})[0]
    assert answer["label"] in ("cat", "dog") and 0.5 <= answer["score"] <= 1.0
    # The model goes on from its folder as it was trained.
    again = [*words[:-1], str(tmp_path / "again"), "--model", str(tmp_path / "model")]
    train_conditional.main(again)
    assert json.loads((tmp_path / "again" / "results.json").read_text())["data"]["training_rows"] == 8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--head.kind", "labels"], "for a head of kind class"),
        (["--generative.head.kind", "class"], "generative needs a head"),
        (["--generative.head.output_shape", "[2, 3]"], "generative: head: output_shape .2, 3. has 6 pixels, but the rows 3"),
        (["--generative.head.num_levels", "3"], "generative: head: num_levels is 3"),
    ],
)
def test_settings_that_make_no_sense_are_refused(words, message, tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", ["cat", None, "dog", "cat", "dog", "cat"])
    with pytest.raises(SettingsError, match=message):
        train_conditional.main([*list_words(tmp_path, path, path), *words])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"head": {"kind": "labels", "num_outputs": 3}}, 'for a head of kind "class".*got .labels.'),
        ({"head": None}, "got no head"),
        ({"bottleneck": {"kind": "variational"}}, "draws nothing itself"),
        ({"conditioner": {"vocab_size": 9}}, "it reads none"),
        ({"generative": {}}, "needs a head that says what it generates"),
        ({"generative": {"head": {"kind": "class"}}}, "got 'class'"),
        ({"generative": {"head": {"kind": "ppca", "num_components": 1}}}, "got 'ppca'"),
        ({"generative": {"head": {**REGRESSION, "num_outputs": 4}}}, "gives 4 numbers, but the condition has 3"),
        ({"generative": {"head": REGRESSION, "bottleneck": {"kind": "pooled"}}}, 'got "pooled"; leave kind out'),
        ({"generative": {"head": REGRESSION, "bottleneck": {"hidden_size": 7}}}, "leave posterior_conditions and hidden_size"),
        ({"generative": {"head": REGRESSION, "warmup": 2.0}}, "warmup is a share"),
        ({"generative": {"head": REGRESSION, "label_posterior": "bound", "posterior_warmup": [0.5]}}, "two shares"),
        ({"generative": {"head": REGRESSION, "posterior_warmup": [0.1, 0.5]}}, 'is for label_posterior="bound"'),
        ({"generative": {"head": REGRESSION, "supervised_weight": -1.0}}, "supervised_weight must be a finite number"),
        ({"generative": {"head": REGRESSION, "label_prior": [0.5, 0.5]}}, "a probability for each of the 3 classes"),
        ({"generative": {"head": REGRESSION, "label_prior": [0.5, 0.4, 0.2]}}, "sum to 1"),
        ({"generative": {"head": REGRESSION, "supervised_weigth": 1.0}}, "Did you mean 'supervised_weight'"),
    ],
)
def test_configurations_that_make_no_sense_are_refused(fields, message):
    known = {"conditioner": VECTOR, "head": {"kind": "class", "num_outputs": 3}, "generative": {"head": REGRESSION}}
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        GenextConfig(**{**known, **fields})


def test_broken_vectors_and_unknown_classes_are_told():
    model = build_classifier(is_fused=True)
    vectors, labels, _ = build_rows(3)
    broken = vectors.clone()
    broken[1, 2] = math.nan
    with pytest.raises(ValueError, match="In row 1 of the batch 1 of 3 numbers are not finite"):
        model(condition_vectors=broken, labels=labels)
    with pytest.raises(ValueError, match="classes 0 to 2, and -100 where nothing is known; got 3"):
        model(condition_vectors=vectors, labels=torch.tensor([0, 3, MISSING]))
    with pytest.raises(ValueError, match="a model of one vector for each row, got 2"):
        model(condition_vectors=vectors[:, None].expand(-1, 2, -1), labels=labels)


def test_evaluations_of_the_trainer_judge_rows_with_classes(tmp_path):
    vectors, labels, _ = build_rows(12)
    rows = EncodedRows({"condition_vectors": vectors.float().numpy()}, labels.numpy())
    model = build_classifier().float()
    arguments = GenextTrainingArguments(str(tmp_path), report_to="none", use_cpu=True, disable_tqdm=True)
    trainer = GenextTrainer(
        model=model,
        args=arguments,
        eval_dataset=rows,
        data_collator=ConditionalCollator(0),
        prediction_metrics=build_prediction_metrics(["accuracy"], "class"),
    )
    found = trainer.evaluate()
    with torch.no_grad():
        outputs = model.eval()(condition_vectors=vectors.float(), labels=labels)
    known = labels != MISSING
    assert found["eval_loss"] == pytest.approx(float(outputs.loss), rel=1e-5)
    right = (outputs.logits.argmax(dim=1) == labels)[known].double().mean()
    assert found["eval_accuracy"] == pytest.approx(100.0 * float(right))


@pytest.mark.parametrize(
    "generative",
    [
        {"head": {**REGRESSION, "dropout": 0.5}},
        {"bottleneck": {"latent_size": 2, "dropout": 0.4}},
        {"bottleneck": {"latent_size": 2, "kl_weight": 0.0}},
        {"bottleneck": {"latent_size": 2, "free_nats": 3.0}},
    ],
    ids=["head dropout", "bottleneck dropout", "no weight", "free bits"],
)
def test_the_classes_of_bounds_are_those_of_the_bound_whatever_stands_in_the_loss(generative):
    fields = {"supervised_weight": 0.0, "label_posterior": "bound"}
    plain, other = (build_classifier({**fields, **given}) for given in ({}, generative))
    other.load_state_dict(plain.state_dict())
    vectors, _, noise = build_rows()
    found = []
    for model in (plain, other):
        for module in model.modules():
            if hasattr(module, "training_progress"):
                module.training_progress = 1.0
        out = model(condition_vectors=vectors, labels=torch.full((len(vectors),), MISSING), latent_noise=noise)
        found.append(out.losses["agreement"].item())
    assert found[0] != 0.0 and found[1] == pytest.approx(found[0], rel=1e-9)

"""The variational bottleneck: its distributions, its bound against exact values, seeds, schedules, and what it refuses."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from specimens import build_config, build_inputs, build_latents, sharpen
from transformers import GenerationConfig

from hf_genext import (
    GenextConfig,
    GenextForConditionalGeneration,
    GenextForPrediction,
)
from hf_genext.batching import ConditionalCollator
from hf_genext.genext.guidance_genext import double_memory
from hf_genext.genext.outputs_genext import GaussianOutput, GenextEncoderOutput
from hf_genext.genext.seeding_genext import draw_normal, make_keys
from hf_genext.genext.variational_genext import compute_divergence, draw_from_prior
from hf_genext.training import GenextTrainer, GenextTrainingArguments

TINY = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
VOCAB = 5
DROPPING = {
    "model_type": "genext_fusion_conditioner",
    "conditioners": {"text": {"model_type": "genext_text_conditioner", "vocab_size": 9}},
    "condition_dropout": 0.1,
}
LABEL = {"model_type": "genext_label_conditioner", "label_counts": [3], "hidden_size": 16}


def build_tiny(prior: str = "standard", latent_size: int = 2, **bottleneck) -> GenextForConditionalGeneration:
    """A sequence model with few outcomes and one or two latent numbers, in float64."""
    bottleneck = {"kind": "variational", "latent_size": latent_size, "prior": prior, **bottleneck}
    if prior == "mixture":
        bottleneck["num_components"] = 3
    conditioner = {"vocab_size": VOCAB, **TINY}
    if prior == "conditional":
        bottleneck["posterior_conditions"] = ["text"]
        parts = {"text": {"model_type": "genext_text_conditioner", **conditioner}, "label": LABEL}
        conditioner = {"model_type": "genext_fusion_conditioner", "conditioners": parts, "hidden_size": 16}
    torch.manual_seed(3)
    model = GenextForConditionalGeneration(
        GenextConfig(conditioner=conditioner, bottleneck=bottleneck, decoder={"vocab_size": VOCAB, **TINY})
    )
    sharpen(model)
    with torch.no_grad():
        # So that the latent numbers decide much of what is written.
        model.encoder.bottleneck.latents_projection.weight.mul_(4.0)
        # And that weights of draws from the posterior have no long tails.
        model.encoder.bottleneck.posterior.projection.weight.mul_(0.3)
    return model.double()


def list_outcomes() -> torch.Tensor:
    """All pairs of tokens."""
    return torch.tensor(list(itertools.product(range(VOCAB), repeat=2)))


@torch.no_grad()
def integrate(model: GenextForConditionalGeneration, outcomes: torch.Tensor, **inputs) -> torch.Tensor:
    """The exact probability of each outcome: a sum over a fine grid of the latent numbers, weighted by the prior."""
    latents = model.encoder(**(inputs or {"num_samples": 1}), sample_latents=False).latents
    units = latents.values.shape[1]
    axis = torch.linspace(-7.0, 7.0, 94 if units == 2 else 1401, dtype=torch.float64)
    grid = torch.cartesian_prod(*[axis] * units).view(-1, units)
    density = torch.zeros(len(grid), dtype=torch.float64)
    for weight, mean, log_variance in zip(
        latents.prior_log_weights[0].exp(), latents.prior_means[0], latents.prior_log_variances[0], strict=True
    ):
        normal = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
        density += weight * normal.log_prob(grid).sum(dim=1).exp()
    density *= float(axis[1] - axis[0]) ** units
    memory, mask = model.encoder.bottleneck.write(grid, latents)
    encoded = GenextEncoderOutput(last_hidden_state=memory, memory_mask=mask)
    start = model.config.decoder_start_token_id
    found = torch.zeros(len(outcomes), dtype=torch.float64)
    for first in outcomes[:, 0].unique().tolist():
        ids = torch.tensor([[start, first]]).expand(len(grid), -1)
        logits = model(encoder_outputs=encoded, decoder_input_ids=ids).logits.log_softmax(dim=-1)
        for place in (outcomes[:, 0] == first).nonzero()[:, 0].tolist():
            log_probs = logits[:, 0, first] + logits[:, 1, outcomes[place, 1]]
            found[place] = (density * log_probs.exp()).sum()
    return found


# The bound


@pytest.mark.parametrize(("prior", "latent_size"), [("standard", 1), ("standard", 2), ("mixture", 2), ("conditional", 2)])
def test_the_bound_rises_with_its_samples_to_the_exact_value_from_below(prior, latent_size):
    model, outcomes = build_tiny(prior, latent_size), list_outcomes()[[1, 8, 14, 23]]
    label = {"condition_labels": torch.tensor([[1]])} if prior == "conditional" else {}
    exact = integrate(model, outcomes, **label).log()
    inputs = {"input_ids": outcomes, **{name: value.expand(len(outcomes), -1) for name, value in label.items()}}
    with torch.no_grad():
        means = {}
        for count, repeats in ((1, 500), (8, 120), (64, 20), (512, 8)):
            repeated = {name: value.repeat(repeats, 1) for name, value in inputs.items()}
            bounds = model.log_prob(outcomes.repeat(repeats, 1), count, seed=count, **repeated).view(repeats, -1)
            means[count] = bounds.mean(dim=0)
            error = bounds.std(dim=0) / math.sqrt(repeats)
            assert (means[count] <= exact + 4.0 * error + 0.02).all(), (count, means[count], exact)
    assert float(means[1].mean()) < float(means[8].mean()) < float(means[64].mean()) < float(means[512].mean()) + 0.02
    torch.testing.assert_close(means[512], exact, atol=0.2, rtol=0)
    assert (exact - means[1]).mean() > 0.1, "the bound is tight from the start, so that nothing is shown"


@pytest.mark.parametrize("prior", ["standard", "mixture"])
def test_probabilities_of_all_outcomes_sum_to_one(prior):
    model, outcomes = build_tiny(prior), list_outcomes()
    exact = integrate(model, outcomes)
    assert float(exact.sum()) == pytest.approx(1.0, abs=1e-5)
    # What no posterior has read is drawn from the prior, the same numbers for all rows: they are one distribution, too.
    with torch.no_grad():
        seeds = [(5, 0)] * len(outcomes)
        drawn = model.log_prob(outcomes, 2000, seed=seeds, num_samples=len(outcomes)).exp()
    assert float(drawn.sum()) == pytest.approx(1.0, abs=1e-5)
    torch.testing.assert_close(drawn, exact, atol=0.03, rtol=0)


@pytest.mark.parametrize(
    "saved",
    [
        {"temperature": 0.2},
        {"top_k": 1},
        {"top_p": 0.2},
        {"top_h": 0.2},
        {"min_p": 0.6},
        {"typical_p": 0.2},
        {"epsilon_cutoff": 0.3},
        {"eta_cutoff": 0.6},
        {"repetition_penalty": 4.0},
        {"no_repeat_ngram_size": 1},
        {"bad_words_ids": [[3]]},
        {"suppress_tokens": [3]},
        {"begin_suppress_tokens": [3, 4]},
        {"sequence_bias": [[[3], -9.0]]},
        {"exponential_decay_length_penalty": (1, 3.0)},
        {"forced_eos_token_id": 2, "max_new_tokens": 2},
        {"min_length": 6},
        {"min_new_tokens": 6},
        {"num_beams": 3},
        {"num_return_sequences": 2, "do_sample": True},
    ],
    ids=lambda saved: next(iter(saved)),
)
def test_draws_are_of_the_models_own_distribution_whatever_it_is_saved_with(saved):
    model = build_tiny("mixture").float()
    model.generation_config.max_new_tokens = saved.get("max_new_tokens", 6)
    own, likeliest = model.sample(30, seed=3), model.sample(1, temperature=0.0)
    asked = {name: value for name, value in saved.items() if name not in ("max_new_tokens", "temperature", "num_beams")}
    for name, value in saved.items():
        setattr(model.generation_config, name, value)
    assert torch.equal(model.sample(30, seed=3), own) and torch.equal(model.sample(30, seed=np.int64(3)), own)
    assert torch.equal(model.sample(1, temperature=0.0), likeliest)
    if not asked or "num_return_sequences" in asked:
        return
    # What a call itself asks for counts.
    for arguments in (asked, {"generation_config": GenerationConfig(**asked)}):
        assert not torch.equal(model.sample(30, seed=3, **arguments), own)


def test_a_setting_of_the_model_itself_stays_in_its_draws():
    model = build_tiny()
    model.generation_config.update(max_new_tokens=3, forced_bos_token_id=4)
    drawn = model.sample(20, seed=1)
    assert drawn.shape[1] <= 4 and (drawn[:, 1] == 4).all()


def test_latent_numbers_may_have_a_temperature_of_their_own():
    model = build_tiny("mixture").float()
    # The likeliest tokens of drawn latent numbers.
    latents = model.encoder(num_samples=20, latent_noise=model.draw_latent_noise(20, 5), sample_latents=True).latents.values
    expected = model.decode(*model.write_latents(latents.view(20, 1, 2)), max_new_tokens=4)
    drawn = model.sample(20, temperature=0.0, latent_temperature=1.0, seed=5, max_new_tokens=4)
    assert torch.equal(drawn, expected) and len(drawn.unique(dim=0)) > 1
    assert torch.equal(
        model.sample(20, latent_temperature=1.0, seed=5, max_new_tokens=4), model.sample(20, seed=5, max_new_tokens=4)
    )
    with pytest.raises(ValueError, match="latent_temperature must be a finite number of 0 or more, got -1"):
        model.sample(2, latent_temperature=-1.0)
    plain = GenextForConditionalGeneration(build_config())
    with pytest.raises(ValueError, match='latent_temperature is for a model with a bottleneck of kind "variational"'):
        plain.sample(latent_temperature=1.0, **build_inputs(with_labels=False))


def test_at_a_temperature_of_0_nothing_is_drawn():
    model = build_tiny("mixture")
    first, *others = (model.sample(1, temperature=0.0, seed=seed, max_new_tokens=4).tolist() for seed in range(6))
    assert all(other == first for other in others)


@pytest.mark.parametrize("prior", ["standard", "mixture", "conditional"])
def test_samples_agree_with_the_distribution(prior):
    model, outcomes = build_tiny(prior), list_outcomes()
    label = {"condition_labels": torch.tensor([[2]])} if prior == "conditional" else {}
    expected = integrate(model, outcomes, **label).numpy()
    end = model.config.eos_token_id
    # Behind an end token there is nothing to tell apart.
    kinds = [(int(first), int(second) if first != end else end) for first, second in outcomes]
    merged = {kind: sum(expected[place] for place, other in enumerate(kinds) if other == kind) for kind in kinds}
    values = []
    for seed in range(10):
        drawn = model.sample(1000, seed=seed, max_new_tokens=2, **label)[:, 1:].tolist()
        found = dict.fromkeys(merged, 0)
        for row in drawn:
            first, second = [*row, end][:2]
            found[first, second if first != end else end] += 1
        names = [name for name, probability in merged.items() if probability > 0.005]
        counts = np.array([found[name] for name in names] + [1000 - sum(found[name] for name in names)])
        shares = np.array([merged[name] for name in names] + [1.0 - sum(merged[name] for name in names)])
        values.append(stats.chisquare(counts, 1000 * shares / shares.sum()).pvalue)
    assert min(values) > 1e-3 and stats.kstest(values, "uniform").pvalue > 1e-3, values
    other = model.sample(1000, seed=0, temperature=0.3, max_new_tokens=2, **label)
    assert len({tuple(row) for row in other.tolist()}) < len({tuple(row) for row in drawn})


def test_without_latent_numbers_log_prob_is_exact_and_sums_to_one():
    model = sharpen(
        GenextForConditionalGeneration(
            GenextConfig(conditioner={"vocab_size": VOCAB, **TINY}, decoder={"vocab_size": VOCAB, **TINY})
        )
    ).double()
    outcomes = list_outcomes()
    with torch.no_grad():
        found = model.log_prob(outcomes, input_ids=torch.tensor([[1, 3]]).expand(len(outcomes), -1))
    assert float(found.exp().sum()) == pytest.approx(1.0, abs=1e-9)


def test_a_target_that_is_missing_has_no_probability_and_unknown_tokens_are_told():
    model, outcomes = build_tiny(), list_outcomes()[:3].clone()
    outcomes[1] = -100
    found = model.log_prob(outcomes, 4, seed=1, input_ids=outcomes.clamp(min=1))
    assert found.isnan().tolist() == [False, True, False]
    outcomes[2, 1] = VOCAB
    for call in (model, model.log_prob):
        with pytest.raises(ValueError, match=f"This model writes the tokens 0 to {VOCAB - 1}, and -100 .*; got {VOCAB}"):
            call(labels=outcomes, input_ids=outcomes.clamp(1, VOCAB - 1))


# Divergence and prior


def test_the_divergence_of_two_normal_distributions_is_exact():
    latents = build_latents(1)
    posterior = torch.distributions.Normal(latents.means, (0.5 * latents.log_variances).exp())
    prior = torch.distributions.Normal(latents.prior_means[:, 0], (0.5 * latents.prior_log_variances[:, 0]).exp())
    torch.testing.assert_close(compute_divergence(latents), torch.distributions.kl_divergence(posterior, prior))


def test_the_divergence_from_a_mixture_is_bounded_from_above_and_exact_for_equal_components():
    latents = build_latents(4)
    found = compute_divergence(latents)
    assert (found >= -1e-12).all(), "a unit's share is below 0"
    posterior = torch.distributions.Normal(latents.means, (0.5 * latents.log_variances).exp())
    torch.manual_seed(0)
    values = posterior.sample((50_000,))
    prior = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=latents.prior_log_weights),
        torch.distributions.Independent(
            torch.distributions.Normal(latents.prior_means, (0.5 * latents.prior_log_variances).exp()), 1
        ),
    )
    estimate = (posterior.log_prob(values).sum(dim=-1) - prior.log_prob(values)).mean(dim=0)
    assert (found.sum(dim=1) >= estimate - 0.03).all() and (found.sum(dim=1) - estimate).max() < 1.0
    one = build_latents(1)
    same = GaussianOutput(
        **{
            **dict(one.items()),
            "prior_log_weights": torch.full((4, 3), -math.log(3.0), dtype=torch.float64),
            "prior_means": one.prior_means.expand(-1, 3, -1),
            "prior_log_variances": one.prior_log_variances.expand(-1, 3, -1),
        }
    )
    torch.testing.assert_close(compute_divergence(same), compute_divergence(one))


def test_draws_of_a_mixture_follow_its_weights():
    latents = build_latents(3, rows=1, units=1)
    latents.prior_means = torch.tensor([[[-50.0], [0.0], [50.0]]], dtype=torch.float64)
    noise = draw_normal(make_keys([(1, place) for place in range(20_000)], 1), 2)
    rows = GaussianOutput(**{name: value.expand(20_000, *value.shape[1:]) for name, value in latents.items()})
    drawn = draw_from_prior(rows, noise)[:, 0]
    counts = [int(((drawn > low) & (drawn < low + 50)).sum()) for low in (-75, -25, 25)]
    assert stats.chisquare(counts, 20_000 * latents.prior_log_weights[0].exp().numpy()).pvalue > 1e-3


def test_keyed_normal_noise_is_normal_and_independent_of_its_neighbours():
    noise = draw_normal(make_keys([(9, place) for place in range(2000)], 1), 50).double()
    assert stats.kstest(noise.flatten().numpy(), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(noise[:, :25].flatten(), noise[:, 25:].flatten())[0, 1]) < 0.01


# Rows, seeds, folders


def test_the_same_seed_draws_the_same_rows_alone_and_in_a_batch(tmp_path):
    model = build_tiny("mixture").float()
    together = model.sample(6, seed=4, max_new_tokens=5, min_new_tokens=5)
    assert len(together.unique(dim=0)) > 2
    assert torch.equal(model.sample(2, seed=4, max_new_tokens=5, min_new_tokens=5), together[:2])
    alone = [model.sample(seed=[(4, place)], max_new_tokens=5, min_new_tokens=5, num_samples=1) for place in range(6)]
    assert torch.equal(torch.cat(alone), together)
    assert not torch.equal(model.sample(6, seed=5, max_new_tokens=5, min_new_tokens=5), together)
    model.save_pretrained(tmp_path)
    opened = GenextForConditionalGeneration.from_pretrained(tmp_path)
    assert torch.equal(opened.sample(6, seed=4, max_new_tokens=5, min_new_tokens=5), together)
    outcomes = list_outcomes()[:3]
    scores = [one.log_prob(outcomes, 8, seed=1, input_ids=outcomes) for one in (model, opened)]
    torch.testing.assert_close(*scores, atol=0, rtol=0)
    torch.testing.assert_close(model.log_prob(outcomes[:1], 8, seed=1, input_ids=outcomes[:1]), scores[0][:1])


def test_encoding_gives_means_or_draws_and_the_way_back():
    model, inputs = sharpen(GenextForConditionalGeneration(build_config("variational"))), build_inputs(with_labels=False)
    means = model.encode_latents(**inputs)
    assert means.shape == (3, 3, 4)
    assert torch.equal(means, model.encode_latents(**inputs))
    drawn = model.encode_latents(sample=True, **inputs)
    assert not torch.equal(means, drawn)
    assert not torch.equal(model.encode(sample=True, **inputs), model.encode(**inputs))
    torch.testing.assert_close(model.encode(**inputs), model.write_latents(means)[0])
    path = model.interpolate(means[0], means[1], steps=5)
    torch.testing.assert_close(path[[0, -1]], means[:2])
    assert model.decode(*model.write_latents(path), max_new_tokens=4, min_new_tokens=4).shape == (5, 5)
    assert torch.equal(model.decode(*model.write_latents(means), max_new_tokens=4), model.generate(**inputs, max_new_tokens=4))


def test_rows_without_a_target_are_drawn_from_the_prior_of_their_condition():
    model = build_tiny("conditional")
    ids, labels = torch.tensor([[1, 3], [2, 4], [2, 4]]), torch.tensor([[0], [1], [2]])
    mask = torch.tensor([[1, 1], [0, 1], [0, 1]])
    latents = model.encoder(input_ids=ids, condition_labels=labels, condition_mask=mask, latent_noise=torch.zeros(3, 3)).latents
    assert latents.is_encoded.tolist() == [True, False, False]
    assert (latents.kl[1:] == 0).all() and (latents.kl[0] > 0).any()
    torch.testing.assert_close(latents.values[0], latents.means[0])
    torch.testing.assert_close(latents.values[1:], latents.prior_means[1:, 0])
    assert not torch.allclose(latents.prior_means[1], latents.prior_means[2])
    # The prior and what the decoder reads besides know nothing of the target.
    other = model.encoder(input_ids=ids.flip(1), condition_labels=labels, latent_noise=torch.zeros(3, 3)).latents
    torch.testing.assert_close(other.prior_means, latents.prior_means)
    torch.testing.assert_close(other.context, latents.context)


def test_condition_dropout_takes_no_target_away():
    model = build_tiny("conditional").train()
    model.encoder.conditioner.config.condition_dropout = 0.5
    ids, labels = torch.randint(1, VOCAB, (200, 3)), torch.randint(3, (200, 1))
    assert model.encoder(input_ids=ids, condition_labels=labels).latents.is_encoded.all()
    presence = model.encoder.conditioner(input_ids=ids, condition_labels=labels).present
    assert presence[:, 0].all() and 60 < int(presence[:, 1].sum()) < 140


def test_guidance_compares_rows_with_the_same_latent_numbers():
    model = build_tiny("conditional").float()
    model.config.conditioner.condition_dropout = model.encoder.conditioner.config.condition_dropout = 0.1
    inputs = {"condition_labels": torch.tensor([[0], [2]]), "latent_noise": torch.randn(2, 3)}
    memory = double_memory(model, inputs).last_hidden_state
    slots = model.config.bottleneck.num_latents
    torch.testing.assert_close(memory[:2, :slots], memory[2:, :slots])
    assert not torch.allclose(memory[:2, slots:], memory[2:, slots:])


# The loss


def test_the_parts_of_the_loss_sum_to_it_and_accumulate_exactly():
    model = build_tiny("mixture", free_nats=0.3, kl_weight=0.7, kl_warmup=0.5).train()
    model.set_training_progress(0.25)
    labels = torch.randint(1, VOCAB, (6, 4))
    labels[1, 2:] = -100
    noise, count = torch.randn(6, 3, dtype=torch.float64), labels.ne(-100).sum()
    outputs = model(input_ids=labels.clamp(min=0), labels=labels, latent_noise=noise)
    assert set(outputs.losses) == {"reconstruction", "kl"}
    torch.testing.assert_close(outputs.loss.detach(), sum(outputs.losses.values()))
    expected = 0.35 * outputs.latents.kl.clamp(min=0.3).sum() / count
    torch.testing.assert_close(outputs.losses["kl"], expected.detach())
    outputs.loss.backward()
    whole = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    for rows in ([0], [1, 2, 3], [4, 5]):
        part = labels[rows]
        model(input_ids=part.clamp(min=0), labels=part, latent_noise=noise[rows], num_items_in_batch=count).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, whole[name], msg=name)


def test_in_evaluation_the_loss_is_the_bound_of_one_draw():
    model, outcomes = build_tiny(kl_weight=0.1, free_nats=2.0), list_outcomes()
    noise = model.draw_latent_noise(len(outcomes), 8)
    with torch.no_grad():
        found = model(input_ids=outcomes, labels=outcomes, latent_noise=noise, sample_latents=True)
    assert float(found.losses["kl"]) == pytest.approx(float(found.latents.kl.sum()) / outcomes.numel())
    assert float(found.loss) == pytest.approx(sum(map(float, found.losses.values())))


def test_the_weight_of_the_divergence_is_planned_in_cycles():
    bottleneck = build_tiny(kl_weight=2.0, kl_warmup=0.5, kl_cycles=4).encoder.bottleneck
    assert bottleneck.kl_weight == 2.0, "without a plan it has its full weight"
    found = {}
    for progress in (0.0, 0.0625, 0.125, 0.2, 0.25, 0.3125, 0.99, 1.0):
        bottleneck.training_progress = progress
        found[progress] = bottleneck.kl_weight
    expected = {0.0: 0.0, 0.0625: 1.0, 0.125: 2.0, 0.2: 2.0, 0.25: 0.0, 0.3125: 1.0, 0.99: 2.0, 1.0: 2.0}
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        ({"kl_delay": 0.25, "kl_warmup": 0.5}, [0.0, 0.0, 1.0, 2.0, 2.0]),
        ({"kl_delay": 0.5}, [0.0, 0.0, 2.0, 2.0, 2.0]),
        ({"kl_delay": 0.5, "kl_warmup": 0.5, "kl_cycles": 2}, [0.0, 0.0, 0.0, 0.0, 2.0]),
        ({}, [2.0] * 5),
    ],
)
def test_an_autoencoder_comes_first_where_the_divergence_is_delayed(plan, expected):
    bottleneck = build_tiny(kl_weight=2.0, **plan).encoder.bottleneck
    found = []
    for progress in (0.0, 0.25, 0.5, 0.75, 1.0):
        bottleneck.training_progress = progress
        found.append(bottleneck.kl_weight)
    assert found == pytest.approx(expected)


class Rows(torch.utils.data.Dataset):
    """Pairs of tokens, and themselves as targets."""

    def __init__(self, count: int) -> None:
        tokens = torch.randint(3, VOCAB, (count, 2), generator=torch.Generator().manual_seed(1))
        self.tokens = torch.cat([tokens, torch.full((count, 1), 2)], dim=1).numpy()
        self.lengths = np.full((count, 2), 3)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, place: int) -> dict[str, np.ndarray]:
        return {"input_ids": self.tokens[place], "labels": self.tokens[place]}


def test_the_trainer_plans_the_weight_logs_the_parts_and_reports_collapse(tmp_path):
    model = build_tiny(kl_warmup=0.5).float()
    arguments = GenextTrainingArguments(
        str(tmp_path),
        max_steps=20,
        max_tokens_per_batch=24,
        gradient_accumulation_steps=2,
        logging_steps=5,
        eval_strategy="steps",
        eval_steps=10,
        save_strategy="no",
        learning_rate=0.01,
        seed=3,
        report_to="none",
        disable_tqdm=True,
        num_evaluations=1,
    )
    trainer = GenextTrainer(
        model=model,
        args=arguments,
        train_dataset=Rows(64),
        eval_dataset=Rows(16),
        data_collator=ConditionalCollator(0),
    )
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["kl_weight"] for entry in logs] == pytest.approx([0.4, 0.9, 1.0, 1.0])
    for entry in logs:
        assert entry["loss"] == pytest.approx(entry["loss_reconstruction"] + entry["loss_kl"], abs=2e-4)
    found = trainer.evaluate()
    names = {
        *("eval_kl", "eval_active_units", "eval_active_share", "eval_informative_units", "eval_mutual_information"),
        *("eval_kl_unit_0", "eval_kl_unit_1"),
    }
    assert names <= set(found)
    assert found["eval_kl"] == pytest.approx(found["eval_kl_unit_0"] + found["eval_kl_unit_1"], rel=1e-5)
    again = trainer.evaluate()
    assert {name: again[name] for name in (*names, "eval_loss")} == {name: found[name] for name in (*names, "eval_loss")}
    # The bound of one draw of each row, by hand.
    ids = torch.from_numpy(Rows(16).tokens)
    with torch.no_grad():
        order = list(next(iter(trainer.get_eval_dataloader()))["input_ids"])
        noise = model.draw_latent_noise(16, 3)
        rows = torch.stack(order)
        outputs = model(input_ids=rows, labels=rows, latent_noise=noise, sample_latents=True)
    assert rows.shape == ids.shape and found["eval_loss"] == pytest.approx(float(outputs.loss), rel=1e-5)


def test_label_smoothing_beside_latent_numbers_is_refused(tmp_path):
    arguments = GenextTrainingArguments(str(tmp_path), label_smoothing_factor=0.1, report_to="none")
    with pytest.raises(ValueError, match="label_smoothing_factor and compute_loss_func put another in the place of"):
        GenextTrainer(model=build_tiny(), args=arguments, data_collator=ConditionalCollator(0))


# What is refused


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bottleneck": {"kind": "variational", "latent_size": 0}}, "latent_size must be 1 or more, got 0"),
        ({"bottleneck": {"kind": "variational", "kl_warmup": 1.5}}, "kl_warmup is a share of the training"),
        ({"bottleneck": {"kind": "variational", "kl_delay": 0.6, "kl_warmup": 0.5}}, "1 at most together, got 0.6 and 0.5"),
        ({"bottleneck": {"kind": "variational", "kl_weight": -1.0}}, "kl_weight must be a finite number of 0 or more"),
        ({"bottleneck": {"kind": "pooled", "prior": "mixture"}}, 'prior is for a bottleneck of kind "variational"'),
        ({"bottleneck": {"kind": "pooled", "free_nats": 0.5}}, 'free_nats is for a bottleneck of kind "variational"'),
        ({"bottleneck": {"kind": "variational", "linear_kind": "ica"}}, 'linear_kind is for a bottleneck of kind "linear"'),
        ({"bottleneck": {"kind": "variational", "kl_cycles": 4}}, "give kl_warmup too"),
        ({"bottleneck": {"kind": "variational", "num_components": 4}}, 'num_components is for prior="mixture", not "standard"'),
        ({"bottleneck": {"kind": "linear", "num_latents": 4}}, 'num_latents is for a bottleneck of kind "pooled" or "variat'),
        ({"bottleneck": {"kind": "variational"}, "conditioner": DROPPING}, "here all hold the target"),
        ({"bottleneck": {"kind": "variational", "prior": "conditional"}}, "there are none: name those that hold the target"),
        ({"bottleneck": {"kind": "variational", "posterior_conditions": ["text"]}}, "this model has one; leave it out"),
        (
            {"bottleneck": {"kind": "variational"}, "conditioner": {"model_type": "genext_null_conditioner"}},
            "the target must be a condition too",
        ),
    ],
)
def test_configurations_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(Exception, match=message):
        GenextConfig(**fields)


def test_latent_questions_to_a_model_without_latent_numbers_name_the_fix():
    model = sharpen(GenextForPrediction(GenextConfig(conditioner={"vocab_size": 9, **TINY}, head={"num_outputs": 2})))
    with pytest.raises(ValueError, match="Build it with bottleneck="):
        model.encode_latents(input_ids=torch.tensor([[1]]))
    with pytest.raises(ValueError, match="latent_noise is for a model whose memory is drawn at random"):
        model(input_ids=torch.tensor([[1]]), latent_noise=torch.zeros(1, 3))
    variational = build_tiny()
    with pytest.raises(ValueError, match=r"latent_noise is \(batch, 3\)"):
        variational.generate(num_samples=2, latent_noise=torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"Latents of this model are \(batch, 1, 2\)"):
        variational.write_latents(torch.zeros(2, 2, 2))
    with pytest.raises(ValueError, match="num_importance_samples must be a whole number of 1 or more"):
        variational.log_prob(torch.tensor([[1]]), 0, input_ids=torch.tensor([[1]]))
    with pytest.raises(ValueError, match="temperature must be"):
        variational.sample(2, temperature=-1.0)
    with pytest.raises(ValueError, match="temperature must be"):
        variational.draw_latent_noise(2, temperature=-1.0)


def test_a_mistyped_condition_is_no_missing_one():
    model = build_tiny()
    labels = torch.tensor([[3, 4, 2]])
    with pytest.raises(ValueError, match=r"input_id is nothing that this model takes; is input_ids meant\?"):
        model.log_prob(labels, 4, input_id=labels)
    with pytest.raises(ValueError, match=r"num_importance_sample is nothing that this model takes"):
        model.log_prob(labels, num_importance_sample=4, input_ids=labels)
    with pytest.raises(ValueError, match=r"input_idz is nothing .* is input_ids meant"):
        model(input_idz=labels, labels=labels, input_ids=labels)
    with pytest.raises(ValueError, match="There are 1 rows, but 2 seeds"):
        model.log_prob(labels, 4, seed=[(1, 0), (2, 0)], input_ids=labels)
    with pytest.raises(ValueError, match="There are 1 rows, but 2 seeds"):
        model.sample(2, seed=[(1, 0), (2, 0)], input_ids=labels)
    with pytest.raises(ValueError, match="is num_samples=; leave out num_return_sequences"):
        model.sample(2, seed=1, num_return_sequences=2)
    with pytest.raises(ValueError, match="num_samples must be a whole number of 1 or more, got True"):
        model.sample(True)
    assert model.log_prob(labels, np.int64(2), seed=1, input_ids=labels) == model.log_prob(labels, 2, seed=1, input_ids=labels)

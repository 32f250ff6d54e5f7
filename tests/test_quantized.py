"""The quantised bottleneck: codes, their codebook and its moves, their prior, scores, seeds, and what it refuses."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from scipy import stats
from specimens import build_config, build_inputs, sharpen

from hf_genext import GenextConfig, GenextForConditionalGeneration, GenextForPrediction
from hf_genext.genext.configuration_bottlenecks_genext import GenextBottleneckConfig
from hf_genext.genext.outputs_genext import GenextEncoderOutput
from hf_genext.genext.quantized_genext import Codebook
from hf_genext.latent_metrics import LatentMonitor, measure_codes
from hf_genext.optimizers import build_muon_groups

TINY = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
VOCAB = 5
LABEL = {"model_type": "genext_label_conditioner", "label_counts": [3], "hidden_size": 16}


def build_tiny(with_label: bool = False, **bottleneck) -> GenextForConditionalGeneration:
    """A sequence model with few outcomes and few codes, in float64."""
    bottleneck = {"kind": "quantized", "num_latents": 2, "latent_size": 2, "num_codes": 3, "num_prior_layers": 1, **bottleneck}
    conditioner = {"vocab_size": VOCAB, **TINY}
    if with_label:
        bottleneck["posterior_conditions"] = ["text"]
        parts = {"text": {"model_type": "genext_text_conditioner", **conditioner}, "label": LABEL}
        conditioner = {"model_type": "genext_fusion_conditioner", "conditioners": parts, "hidden_size": 16}
    torch.manual_seed(3)
    model = GenextForConditionalGeneration(
        GenextConfig(conditioner=conditioner, bottleneck=bottleneck, decoder={"vocab_size": VOCAB, **TINY})
    )
    sharpen(model)
    return model.double().eval()


def list_outcomes() -> torch.Tensor:
    """All pairs of tokens."""
    return torch.tensor(list(itertools.product(range(VOCAB), repeat=2)))


@torch.no_grad()
def list_code_probabilities(model, **inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """All codes of a row and their probabilities, token by token by hand."""
    latents = model.encoder(**(inputs or {"num_samples": 1}), sample_latents=False).latents
    config, prior = model.config.bottleneck, model.encoder.bottleneck.prior
    codes = torch.tensor(list(itertools.product(range(config.num_codes), repeat=config.num_latents)))
    found = []
    for row in codes.tolist():
        seen, total = [config.num_codes], 0.0
        for code in row:
            logits, _ = prior(torch.tensor([seen]), latents.context, latents.context_mask)
            total += float(logits[0, -1].softmax(dim=-1)[code].log())
            seen.append(code)
        found.append(total)
    return codes, torch.tensor(found, dtype=torch.float64).exp()


@torch.no_grad()
def compute_exact(model, outcomes: torch.Tensor, **inputs) -> torch.Tensor:
    """The probability of each outcome: the sum over all codes."""
    latents = model.encoder(**(inputs or {"num_samples": 1}), sample_latents=False).latents
    codes, probabilities = list_code_probabilities(model, **inputs)
    memory, mask = model.encoder.bottleneck.write(codes, latents)
    encoded = GenextEncoderOutput(last_hidden_state=memory, memory_mask=mask)
    found = []
    for outcome in outcomes:
        ids = torch.tensor([[model.config.decoder_start_token_id, int(outcome[0])]]).expand(len(codes), -1)
        logits = model(encoder_outputs=encoded, decoder_input_ids=ids).logits.log_softmax(dim=-1)
        log_probs = logits[:, 0, outcome[0]] + logits[:, 1, outcome[1]]
        found.append((probabilities * log_probs.exp()).sum())
    return torch.stack(found)


# Scores and samples


@pytest.mark.parametrize("with_label", [False, True])
def test_probabilities_of_all_outcomes_sum_to_one_and_the_bound_stays_below(with_label):
    model, outcomes = build_tiny(with_label), list_outcomes()
    label = {"condition_labels": torch.tensor([[1]])} if with_label else {}
    assert float(list_code_probabilities(model, **label)[1].sum()) == pytest.approx(1.0, abs=1e-9)
    exact = compute_exact(model, outcomes, **label)
    assert float(exact.sum()) == pytest.approx(1.0, abs=1e-9)
    labels = {name: value.expand(len(outcomes), -1) for name, value in label.items()}
    with torch.no_grad():
        bound = model.log_prob(outcomes, input_ids=outcomes, **labels)
        many = model.log_prob(outcomes, 200, input_ids=outcomes, **labels)
        outputs = model(input_ids=outcomes, labels=outcomes, **labels)
        # What nothing has encoded is drawn from the prior, the same codes for all rows: they are one distribution, too.
        seeds = [(3, 0)] * len(outcomes)
        drawn = model.log_prob(outcomes, 500, seed=seeds, **(labels or {"num_samples": len(outcomes)})).exp()
    assert (bound <= exact.log() + 1e-9).all()
    torch.testing.assert_close(many, bound)
    # The loss is minus the bound, for each label.
    assert float(outputs.loss) == pytest.approx(-float(bound.sum()) / outcomes.numel(), abs=1e-9)
    assert float(drawn.sum()) == pytest.approx(1.0, abs=1e-5)
    torch.testing.assert_close(drawn, exact, atol=0.05, rtol=0)


@pytest.mark.parametrize("with_label", [False, True])
def test_samples_agree_with_the_distribution(with_label):
    model, outcomes = build_tiny(with_label), list_outcomes()
    label = {"condition_labels": torch.tensor([[2]])} if with_label else {}
    expected, end = compute_exact(model, outcomes, **label).tolist(), model.config.eos_token_id
    kinds = [(int(first), int(second) if first != end else end) for first, second in outcomes]
    merged: dict[tuple[int, int], float] = {}
    for kind, probability in zip(kinds, expected, strict=True):
        merged[kind] = merged.get(kind, 0.0) + probability
    values = []
    for seed in range(10):
        found = dict.fromkeys(merged, 0)
        for row in model.sample(1000, seed=seed, max_new_tokens=2, **label)[:, 1:].tolist():
            first, second = [*row, end][:2]
            found[first, second if first != end else end] += 1
        names = [name for name, probability in merged.items() if probability > 0.005]
        rest = sum(count for name, count in found.items() if name not in names)
        counts = [found[name] for name in names] + [rest]
        shares = [merged[name] for name in names]
        shares.append(1.0 - sum(shares))
        kept = [place for place, share in enumerate(shares) if share > 1e-9]
        wanted = [1000 * shares[place] for place in kept]
        total = sum(wanted)
        observed = [counts[place] for place in kept]
        values.append(stats.chisquare(observed, [value * sum(observed) / total for value in wanted]).pvalue)
    assert min(values) > 1e-3, values
    assert max(values) > 0.05, values


def test_a_low_temperature_sharpens_the_prior_of_codes():
    model = build_tiny()
    codes, probabilities = list_code_probabilities(model)
    hot = torch.tensor([[0.3, -0.2, 1.0]]).double()
    bottleneck = model.encoder.bottleneck
    noise = torch.randn(3000, 3, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        likeliest = bottleneck.prior.draw(1, None, None, None)
        cold = bottleneck.prior.draw(3000, None, None, bottleneck.shape_noise(noise, 1e-3))
        warm = bottleneck.prior.draw(3000, None, None, bottleneck.shape_noise(noise, 1.0))
    assert bottleneck.shape_noise(hot, 0.5)[0, -1] == 0.5
    assert (cold == likeliest).all()
    shares = [float((warm == row).all(dim=1).double().mean()) for row in codes]
    torch.testing.assert_close(torch.tensor(shares).double(), probabilities, atol=0.04, rtol=0)


def test_a_row_draws_the_same_alone_and_in_a_batch():
    model = GenextForConditionalGeneration(build_config("quantized")).eval()
    sharpen(model)
    together = model.sample(6, seed=11, max_new_tokens=5, min_new_tokens=5)
    for place in (0, 4):
        alone = model.sample(1, seed=[(11, place)], max_new_tokens=5, min_new_tokens=5)
        assert alone[0].tolist() == together[place].tolist()
    assert len({tuple(row) for row in together.tolist()}) > 1


def test_codes_are_encoded_and_written_again():
    model = GenextForConditionalGeneration(build_config("quantized")).eval()
    sharpen(model)
    inputs = build_inputs(with_labels=False)
    with torch.no_grad():
        codes = model.encode_latents(**inputs)
        memory, _ = model.write_latents(codes)
        torch.testing.assert_close(memory, model.encode(**inputs))
    assert codes.shape == (len(memory), 3)
    assert codes.dtype == torch.long
    with pytest.raises(ValueError, match=r"Latents of this model are \(batch, 3\), got the shape \(3, 2\)"):
        model.write_latents(codes[:, :2])
    with pytest.raises(ValueError, match="nothing between two codes"):
        model.interpolate(codes[:1], codes[1:2])


# The codebook


def build_codebook(num_codes: int = 4, size: int = 2, decay: float = 0.9) -> Codebook:
    torch.manual_seed(0)
    return Codebook(GenextBottleneckConfig(kind="quantized", num_codes=num_codes, latent_size=size, code_decay=decay))


def test_the_nearest_code_is_found():
    codebook = build_codebook(9, 3)
    states = torch.randn(5, 4, 3)
    wanted = torch.cdist(states.flatten(0, 1), codebook.vectors).argmin(dim=1).view(5, 4)
    assert (codebook.find(states) == wanted).all()


def test_codes_are_the_running_means_of_what_they_stand_for():
    codebook, decay = build_codebook(), 0.9
    generator = torch.Generator().manual_seed(1)
    sums, counts = torch.zeros(4, 2), torch.zeros(4)
    is_encoded = torch.tensor([True, True, False])
    for step in range(1, 5):
        states = torch.randn(3, 4, 2, generator=generator)
        codes = torch.arange(4).expand(3, 4)
        codebook.meet(states, codes, is_encoded)
        before = codebook.vectors.clone()
        codebook.move(codebook.watched)
        assert torch.equal(codebook.vectors, before), "the step is not over"
        codebook.move(torch.full((2,), float(step)))
        sums = decay * sums + (1 - decay) * states[:2].sum(dim=0)
        counts = decay * counts + (1 - decay) * 2.0
        torch.testing.assert_close(codebook.vectors, sums / counts[:, None])


def test_dead_codes_are_drawn_anew_around_those_in_use():
    codebook = build_codebook(8, 2)
    generator = torch.Generator().manual_seed(1)
    middles = torch.tensor([[10.0, 0.0], [-10.0, 0.0]])
    used = []
    for step in range(1, 60):
        states = middles[torch.randint(2, (64,), generator=generator)] + torch.randn(64, 2, generator=generator)
        codes = codebook.find(states)
        used.append(len(codes.unique()))
        codebook.meet(states[None], codes[None], torch.tensor([True]))
        codebook.move(torch.full((2,), float(step)))
    assert used[0] < 8
    assert used[-1] == 8
    assert (torch.cdist(codebook.vectors, middles).min(dim=1).values < 4.0).all()


def test_accumulated_batches_move_the_codes_as_one():
    inputs = build_inputs(with_labels=True)
    torch.manual_seed(0)
    whole = GenextForConditionalGeneration(build_config("quantized")).double().train()
    parts = copy.deepcopy(whole)
    count = int((inputs["labels"] != -100).sum())
    for step in range(3):
        for model, batches in ((whole, [slice(None)]), (parts, [slice(0, 1), slice(1, None)])):
            for rows in batches:
                batch = {name: value[rows] for name, value in inputs.items()}
                model(**batch, num_items_in_batch=count).loss.backward()
            with torch.no_grad():
                for weight in model.parameters():
                    if weight.grad is not None:
                        weight -= 0.05 * weight.grad
                        weight.grad = None
        if step:
            moved = whole.encoder.bottleneck.codebook
            assert int(moved.num_moves) == step
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], value, msg=name)


def test_a_saved_model_goes_on_as_one_that_was_not_saved(tmp_path):
    inputs = build_inputs(with_labels=True)
    torch.manual_seed(0)
    model = GenextForConditionalGeneration(build_config("quantized")).train()

    def step(model) -> None:
        model(**inputs).loss.backward()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.grad is not None:
                    weight -= 0.05 * weight.grad
                    weight.grad = None

    step(model)
    step(model)
    model.save_pretrained(tmp_path)
    again = GenextForConditionalGeneration.from_pretrained(tmp_path).train()
    step(model)
    step(again)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


@pytest.mark.parametrize("with_label", [False, True])
def test_nothing_flows_back_from_the_prior(with_label):
    model = build_tiny(with_label).train()
    outcomes = list_outcomes()
    label = {"condition_labels": torch.ones(len(outcomes), 1, dtype=torch.long)} if with_label else {}
    encoded = model.encoder(input_ids=outcomes, **label)
    encoded.losses["code_prior"].sum().backward()
    touched = {name.split(".")[0] for name, weight in model.encoder.bottleneck.named_parameters() if weight.grad is not None}
    assert touched == {"prior"}
    assert all(weight.grad is None for weight in model.encoder.conditioner.parameters())


def test_codes_stay_right_whatever_a_model_is_cast_to(tmp_path):
    """In bfloat16 counts would stand still at 256; in float16 sums of a large batch are infinite."""
    generator = torch.Generator().manual_seed(1)
    codebooks = {dtype: build_codebook(2, 2, 0.99).to(dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)}
    states = torch.cat([torch.full((9000, 2), 5.0), torch.full((1000, 2), -5.0)]) + 0.1 * torch.randn(
        10_000, 2, generator=generator
    )
    for dtype, codebook in codebooks.items():
        codebook.vectors.copy_(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
        for step in range(1, 200):
            given = states.to(dtype)
            codebook.meet(given[None], codebook.find(given)[None], torch.tensor([True]))
            codebook.move(torch.full((2,), float(step)))
        assert codebook.vectors.dtype == torch.float32
        torch.testing.assert_close(codebook.vectors, torch.tensor([[5.0, 5.0], [-5.0, -5.0]]), atol=0.05, rtol=0)
    model = GenextForConditionalGeneration(build_config("quantized"))
    model.save_pretrained(tmp_path)
    opened = GenextForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert opened.encoder.bottleneck.code_projection.weight.dtype == torch.bfloat16
    assert opened.encoder.bottleneck.codebook.vectors.dtype == torch.float32
    assert torch.equal(opened.encoder.bottleneck.codebook.vectors, model.encoder.bottleneck.codebook.vectors)
    assert model.double().encoder.bottleneck.codebook.vectors.dtype == torch.float64


def test_the_nearest_code_is_found_under_autocast():
    codebook = build_codebook(256, 16)
    codebook.vectors += 3.0
    states = 3.0 + torch.randn(2000, 16, generator=torch.Generator().manual_seed(2))
    wanted = torch.cdist(states.double(), codebook.vectors.double()).argmin(dim=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (codebook.find(states) == wanted).double().mean() > 0.999


def test_a_step_that_overflows_leaves_the_codes_as_they_are():
    codebook = build_codebook()
    states = torch.randn(1, 6, 2, generator=torch.Generator().manual_seed(2))
    broken = states.clone()
    broken[0, 2] = torch.nan
    for step, given in enumerate((states, broken, states), start=1):
        codebook.meet(given, codebook.find(states), torch.tensor([True]))
        codebook.meet(broken, codebook.find(states), torch.tensor([False]))
        codebook.move(torch.full((2,), float(step)))
    assert codebook.vectors.isfinite().all()
    assert float(codebook.counts.sum()) > 0


def test_at_a_temperature_of_0_the_likeliest_codes_are_taken():
    model = build_tiny()
    with torch.no_grad():
        noise = model.draw_latent_noise(4, 1, temperature=0.0)
        cold = model.encoder(num_samples=4, latent_noise=noise).latents.values
        likeliest = model.encoder(num_samples=4, sample_latents=False).latents.values
    assert torch.equal(cold, likeliest)


@pytest.mark.parametrize("kind", ["quantized", "variational"])
def test_that_all_conditions_hold_the_target_is_the_same_as_naming_none(kind):
    text = {"model_type": "genext_text_conditioner", "vocab_size": VOCAB, **TINY}
    conditioner = {"model_type": "genext_fusion_conditioner", "conditioners": {"text": text, "label": LABEL}, "hidden_size": 16}
    bottleneck = {"kind": kind, "num_latents": 2, "latent_size": 2, "posterior_conditions": ["text", "label"]}
    config = GenextConfig(conditioner=conditioner, bottleneck=bottleneck, decoder={"vocab_size": VOCAB, **TINY})
    assert config.bottleneck.posterior_conditions is None
    model = GenextForConditionalGeneration(config).eval()
    outcomes = list_outcomes()[:3]
    labels = torch.zeros(3, 1, dtype=torch.long)
    assert model.log_prob(outcomes, input_ids=outcomes, condition_labels=labels).isfinite().all()
    assert model.sample(2, max_new_tokens=2).shape[0] == 2


def test_codes_that_are_none_are_refused():
    model = build_tiny()
    for wrong in (torch.tensor([[0, 3]]), torch.tensor([[-1, 0]]), torch.tensor([[0.0, 1.0]])):
        with pytest.raises(ValueError, match="Codes of this model are whole numbers from 0 to 2"):
            model.write_latents(wrong)


# Training and reports


@pytest.mark.slow
def test_a_quantised_autoencoder_learns_data_and_their_prior():
    """Eight texts of four tokens become two codes each; drawn again they are those texts, and as often."""
    texts = torch.randint(3, 20, (8, 4), generator=torch.Generator().manual_seed(5))
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = GenextForConditionalGeneration(
        GenextConfig(
            conditioner={"vocab_size": 20, **sizes},
            bottleneck={"kind": "quantized", "num_latents": 2, "latent_size": 8, "num_codes": 8, "code_decay": 0.9},
            decoder={"vocab_size": 20, **sizes},
        )
    ).train()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=300)
    labels = torch.cat([texts, torch.full((8, 1), 2)], dim=1)
    for _ in range(300):
        optimizer.zero_grad()
        model(input_ids=texts, labels=labels).loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        bound = model.log_prob(labels, input_ids=texts)
    # The best that there is: all of it is known but which of the eight.
    assert (bound > -math.log(8) - 0.4).all(), bound
    drawn = [tuple(row[1:6]) for row in model.sample(200, seed=1, max_new_tokens=6).tolist()]
    known = {tuple(row) for row in labels.tolist()}
    assert sum(row in known for row in drawn) > 180
    assert len(set(drawn) & known) == 8


def test_the_logits_of_the_prior_are_not_for_muon():
    model = GenextForConditionalGeneration(build_config("quantized"))
    groups = build_muon_groups(model, learning_rate=1e-3, muon_learning_rate=1e-2, weight_decay=0.0)
    muon = {id(weight) for group in groups if "num_blocks" in group for weight in group["params"]}
    assert id(model.encoder.bottleneck.prior.projection.weight) not in muon
    assert id(model.encoder.bottleneck.code_projection.weight) in muon


def test_codes_in_use_are_reported():
    found = measure_codes(torch.tensor([[0, 1], [2, 1]]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]), 8)
    assert found["kl"] == pytest.approx(5.0)
    assert found["code_usage"] == pytest.approx(3 / 8)
    assert found["code_perplexity"] == pytest.approx(math.exp(-(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25))))
    model = build_tiny()
    monitor = LatentMonitor(model, seed=0)
    monitor.start_evaluation()
    outcomes = list_outcomes()
    with torch.no_grad():
        noise = monitor.draw_noise(len(outcomes), torch.device("cpu"))
        assert (noise[:, -1] == 1.0).all()
        latents = model(input_ids=outcomes, labels=outcomes, latent_noise=noise, sample_latents=True).latents
    other = LatentMonitor(model, seed=0, rank=1)
    assert not torch.equal(other.draw_noise(len(outcomes), torch.device("cpu")), noise), "two ranks draw the same"
    monitor.collect(latents)
    report = monitor.report(list)
    assert report["kl"] == pytest.approx(float(latents.kl.sum(dim=1).mean()), rel=1e-5)
    assert 0.0 < report["code_usage"] <= 1.0


@pytest.mark.parametrize(
    ("bottleneck", "told"),
    [
        ({"kind": "quantized", "num_codes": 1}, "num_codes must be 2 or more, got 1"),
        ({"kind": "quantized", "code_decay": 1.0}, "code_decay must be at least 0 and below 1"),
        ({"kind": "quantized", "commitment_weight": -1}, "commitment_weight must be a finite number of 0 or more"),
        ({"kind": "quantized", "num_prior_layers": 0}, "num_prior_layers must be 1 or more"),
        ({"kind": "quantized", "hidden_size": 15, "num_attention_heads": 1}, "needs an even hidden_size"),
        ({"kind": "quantized", "prior": "mixture"}, 'prior is for a bottleneck of kind "variational", not "quantized"'),
        ({"kind": "pooled", "num_codes": 9}, 'num_codes is for a bottleneck of kind "quantized", not "pooled"'),
        ({"kind": "pooled", "latent_size": 9}, 'latent_size is for a bottleneck of kind "variational" or "quantized"'),
    ],
)
def test_what_it_refuses(bottleneck, told):
    with pytest.raises((StrictDataclassError, ValueError), match=told):
        GenextConfig(bottleneck=bottleneck)


def test_images_are_drawn_from_codes():
    torch.manual_seed(0)
    model = GenextForPrediction(
        GenextConfig(
            conditioner={"model_type": "genext_vector_conditioner", "vector_size": 4, "hidden_size": 16},
            bottleneck={"kind": "quantized", "num_latents": 2, "num_codes": 5, "latent_size": 3},
            head={"kind": "image", "output_shape": [2, 2], "num_levels": 3},
        )
    ).eval()
    drawn = model.sample(seed=1, num_samples=5)
    assert drawn.shape == (5, 2, 2)
    levels = torch.tensor(list(itertools.product(range(3), repeat=4)))
    bound = model.log_prob(levels, condition_vectors=levels.float()).detach()
    # A bound of probabilities, whose sum over all images is below 1.
    assert 0.0 < float(bound.exp().sum()) < 1.0
    with torch.no_grad():
        exact = torch.zeros(len(levels))
        codes, probabilities = list_code_probabilities(model)
        latents = model.encoder(num_samples=1, sample_latents=False).latents
        memory, mask = model.encoder.bottleneck.write(codes, latents)
        parameters = model.head(model._average(memory, mask))
        for place, image in enumerate(levels):
            exact[place] = (model.head.score(parameters, image.expand(len(codes), -1)).exp() * probabilities).sum()
    assert float(exact.sum()) == pytest.approx(1.0, abs=1e-4)
    assert (bound <= exact.log() + 1e-4).all()

"""Learning word vectors: compiled loops and tensors beside plain float64 code, and draws beside what they should be."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gensim.models import Word2Vec
from gensim.test.utils import datapath

from hf_genext import StaticEmbeddingForPreTraining
from hf_genext.static_embedding import kernels_static_embedding as kernels
from hf_genext.static_embedding.engines_static_embedding import CompiledEngine, TensorEngine, compute_keep_shares
from hf_genext.static_embedding.objectives_static_embedding import BAND, compute_damping, compute_fit, compute_loss, count_bands

WORDS = [f"w{index}" for index in range(23)]
COUNTS = np.arange(23, 0, -1) ** 2
NO_WORD, END = 23, 24
PLACES = np.array([*range(23), -1, -2], dtype=np.int32)


def build_model(counts=COUNTS, **settings):
    model = StaticEmbeddingForPreTraining.from_words(WORDS, counts, **{"hidden_size": 7, "window": 3, **settings})
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.4, generator=generator)
    return model


def build_text(length=300, seed=3):
    draws = np.random.default_rng(seed).integers(0, 25, length)
    draws[-1] = END
    return draws.astype(np.int32)


# A second, plain writing of what the compiled loops do, in float64


class SplitMix64:
    def __init__(self, seed):
        self.state = seed

    def draw(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) % 2**64
        value = self.state
        value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
        return value ^ (value >> 31)


def learn_plainly(model, ids, keep, rate, end_rate, seed):
    """Skip-gram and CBOW with negative sampling, word by word; subword vectors are put together once a sentence."""
    config = model.config
    rows, outputs = (model.input_embeddings.detach().double().numpy(), model.output_embeddings.detach().double().numpy())
    rows, outputs = rows.copy(), outputs.copy()
    ngram_rows = model.ngram_embeddings.detach().double().numpy().copy() if config.num_buckets else None
    starts, ngrams = model.list_ngrams()
    shares, others = kernels.build_alias_table(model.noise[:-2].numpy())
    source = SplitMix64(seed)
    limits = np.minimum(keep * 2.0**32, 2.0**32 - 1).astype(np.uint32)
    position = 0
    while position < len(ids):
        now, sentence = rate + (end_rate - rate) * position / len(ids), []
        while position < len(ids):
            place = PLACES[ids[position]]
            position += 1
            if place == -2:
                break
            if place >= 0:
                draw = source.draw()
                if draw >> 32 <= limits[place]:
                    sentence.append((int(place), 1 + (draw % 2**32 * config.window >> 32)))
        if len(sentence) < 2:
            continue
        parts = [[(rows, place)] for place, _ in sentence]
        if config.num_buckets:
            for entry, (place, _) in zip(parts, sentence, strict=True):
                entry += [(ngram_rows, bucket) for bucket in ngrams[starts[place] : starts[place + 1]]]
            local = [np.mean([matrix[row] for matrix, row in entry], axis=0) for entry in parts]
            begun = [vector.copy() for vector in local]
        else:
            local = [matrix[row] for ((matrix, row),) in parts]  # Views: what a word learns shows at once.
        for index, (word, reach) in enumerate(sentence):
            drawn = [word]
            for _ in range(config.num_negatives):
                draw = source.draw()
                other = (draw >> 32) * len(outputs[:-2]) >> 32
                if draw % 2**32 > shares[other]:
                    other = int(others[other])
                if other not in drawn:
                    drawn.append(other)
            targets = np.array([1.0] + [0.0] * (len(drawn) - 1))
            neighbours = [j for j in range(max(0, index - reach), min(len(sentence), index + reach + 1)) if j != index]
            groups = [neighbours] if config.objective == "cbow" else [[neighbour] for neighbour in neighbours]
            for group in groups:
                mean = np.mean([local[j] for j in group], axis=0)
                step = (targets - 1 / (1 + np.exp(-outputs[drawn] @ mean))) * now
                change = step @ outputs[drawn]
                outputs[drawn] += step[:, None] * mean
                for j in group:
                    local[j] += change
        if config.num_buckets:
            for entry, vector, before in zip(parts, local, begun, strict=True):
                for matrix, row in entry:
                    matrix[row] += vector - before
    return rows, ngram_rows, outputs


@pytest.mark.parametrize("num_buckets", [0, 11])
@pytest.mark.parametrize("objective", ["skip_gram", "cbow"])
@pytest.mark.parametrize("num_negatives", [0, 4])
def test_compiled_loops_do_what_plain_code_does(objective, num_buckets, num_negatives):
    model = build_model(objective=objective, num_buckets=num_buckets, num_negatives=num_negatives)
    ids, keep = build_text(), np.linspace(0.4, 1.0, 23)
    engine = CompiledEngine(model, PLACES, keep)
    seed = int(np.random.SeedSequence(9).generate_state(1, np.uint64)[0])
    rows, ngram_rows, outputs = learn_plainly(model, ids, keep, 0.05, 0.02, seed)
    before = model.input_embeddings.detach().clone()
    progress = engine.train(ids, 0.05, 0.02, seed=9)
    assert (model.input_embeddings - before).abs().max() > 0.05, "nothing was learned; the comparison would be empty"
    # The logistic function is read from a table of 4,096 steps.
    np.testing.assert_allclose(model.input_embeddings.detach(), rows, atol=2e-3)
    np.testing.assert_allclose(model.output_embeddings.detach(), outputs, atol=2e-3)
    if num_buckets:
        np.testing.assert_allclose(model.ngram_embeddings.detach(), ngram_rows, atol=2e-3)
    assert progress.tokens == int((ids != END).sum()) and progress.predictions > 0


def test_the_table_of_the_logistic_function_is_exact_to_its_step():
    table = kernels.tabulate_sigmoid().astype(np.float64)
    scores = np.linspace(-8, 8, kernels.SIGMOID_STEPS + 1)
    np.testing.assert_allclose(table[0], 1 / (1 + np.exp(-scores)), atol=1e-7)
    np.testing.assert_allclose(table[1], np.log(1 + np.exp(-scores)), rtol=1e-6)


def test_random_words_are_drawn_in_proportion_to_their_weights():
    weights = np.random.default_rng(0).pareto(1.0, 1000) + 1e-3
    shares, others = kernels.build_alias_table(weights)
    stay = (shares.astype(np.float64) + 1) / 2**32
    drawn = stay.copy()
    np.add.at(drawn, others, 1 - stay)
    np.testing.assert_allclose(drawn / len(weights), weights / weights.sum(), rtol=1e-5, atol=1e-9)


def test_frequent_words_are_left_out_as_gensim_does():
    model = Word2Vec(sample=1e-3, min_count=5, workers=1)
    model.build_vocab(corpus_file=datapath("lee_background.cor"))
    counts = np.array([model.wv.get_vecattr(word, "count") for word in model.wv.index_to_key])
    theirs = np.array([model.wv.get_vecattr(word, "sample_int") for word in model.wv.index_to_key], dtype=np.float64) / 2**32
    ours = compute_keep_shares(counts, 1e-3)
    assert ours.min() < 0.5
    np.testing.assert_allclose(ours, np.minimum(theirs, 1), atol=1e-6)
    assert (compute_keep_shares(counts, 0) == 1).all()


# Tensors


def compute_loss_plainly(inputs, outputs, negatives, sentences, reach, objective, num_negatives):
    total, predictions = 0.0, 0
    softplus = lambda score: math.log1p(math.exp(score))  # noqa: E731
    for center in range(len(inputs)):
        near = [
            j
            for j in range(center - int(reach[center]), center + int(reach[center]) + 1)
            if j != center and 0 <= j < len(inputs) and sentences[j] == sentences[center] >= 0
        ]
        groups = ([near] if near else []) if objective == "cbow" else [[j] for j in near]
        for group in groups:
            mean = np.mean([inputs[j] for j in group], axis=0)
            total += softplus(-mean @ outputs[center])
            random_words = negatives[center // BAND]
            total += num_negatives / len(random_words) * sum(softplus(mean @ other) for other in random_words)
            predictions += 1
    return total, predictions


@pytest.mark.parametrize("objective", ["skip_gram", "cbow"])
def test_the_loss_is_what_plain_code_counts(objective):
    draw = np.random.default_rng(1)
    length, window = 2 * BAND + 9, 4
    inputs, outputs = draw.normal(size=(2, length, 5))
    negatives = draw.normal(size=(count_bands(length), 6, 5))
    sentences = np.sort(draw.integers(0, 12, length))
    sentences[[3, 70, 71]] = -1
    reach = draw.integers(0, window + 1, length)
    expected = compute_loss_plainly(inputs, outputs, negatives, sentences, reach, objective, 3)
    tensors = [torch.from_numpy(array) for array in (inputs, outputs, negatives, sentences, reach)]
    loss, predictions = compute_loss(*tensors, objective=objective, window=window, num_negatives=3)
    assert int(predictions) == expected[1] > 50
    # A neighbour's random words are those of its own band; across a border they are the next band's, so compare without any.
    loss, _ = compute_loss(
        tensors[0], tensors[1], tensors[2] * 0, *tensors[3:], objective=objective, window=window, num_negatives=3
    )
    expected = compute_loss_plainly(inputs, outputs, negatives * 0, sentences, reach, objective, 3)
    assert float(loss) == pytest.approx(expected[0], rel=1e-9)


def test_how_well_words_fit_is_their_mean_score():
    draw = np.random.default_rng(2)
    inputs, outputs = (torch.from_numpy(array) for array in draw.normal(size=(2, 9, 5)))
    sentences = torch.tensor([0, 0, 0, 0, -1, 1, 1, 2, 2])
    fit = compute_fit(inputs, outputs, sentences, torch.full((9,), 2), 2)
    assert float(fit[0]) == pytest.approx(float((outputs[0] @ (inputs[1] + inputs[2])) / 2))
    assert float(fit[4]) == 0.0
    assert float(fit[8]) == pytest.approx(float(outputs[8] @ inputs[7]))


@pytest.mark.parametrize(("objective", "num_buckets"), [("skip_gram", 0), ("skip_gram", 97), ("cbow", 0)])
@pytest.mark.parametrize(("num_negatives", "tolerance"), [(0, 0.03), (1, 0.1)])
def test_both_engines_take_the_same_steps_on_average(objective, num_buckets, num_negatives, tolerance):
    """At a small rate, over many seeds; the draws are each engine's own.

    A random word that is the word itself, 1 in 23 here, counts in the tensor engine only.
    """
    ids, keep = build_text(120), np.full(23, 0.8)
    steps = {}
    for engine_class in (CompiledEngine, TensorEngine):
        totals = {}
        for seed in range(250):
            model = build_model(np.ones(23), objective=objective, num_buckets=num_buckets, num_negatives=num_negatives)
            before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
            engine_class(model, PLACES, keep).train(ids, 1e-4, 1e-4, seed)
            for name, parameter in model.named_parameters():
                totals[name] = totals.get(name, 0) + (parameter.detach() - before[name]) / 250
        steps[engine_class] = totals
    for name, step in steps[CompiledEngine].items():
        other = steps[TensorEngine][name]
        agreement = torch.nn.functional.cosine_similarity(step.flatten(), other.flatten(), dim=0)
        assert agreement > 0.985, name
        assert float(step.norm() / other.norm()) == pytest.approx(1.0, abs=tolerance), name


def test_damping_is_what_steps_one_after_the_other_come_to():
    from hf_genext.static_embedding.objectives_static_embedding import CURVATURE

    rate, updates = 0.05, torch.tensor([0.0, 1.0, 3.0, 40.0, 4000.0], dtype=torch.float64)
    share = 1 - math.exp(-CURVATURE * rate)  # Of the way to rest, one update
    after_each_other = torch.tensor([1 - (1 - share) ** count for count in updates.tolist()], dtype=torch.float64)
    beside_each_other = updates * CURVATURE * rate
    factors = compute_damping(updates, rate)
    torch.testing.assert_close(factors * beside_each_other, after_each_other)
    assert float(factors[0]) == 1.0


def test_one_thread_gives_the_same_vectors_again_and_another_seed_others():
    ids, keep = build_text(), np.ones(23)
    runs = []
    for seed in (1, 1, 2):
        model = build_model()
        CompiledEngine(model, PLACES, keep).train(ids, 0.05, 0.05, seed)
        runs.append(model.input_embeddings.detach())
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_threads_share_all_of_the_text():
    ids = build_text(1000)
    model = build_model()
    progress = CompiledEngine(model, PLACES, np.ones(23), num_threads=3).train(ids, 0.05, 0.05, 1)
    assert progress.tokens == int((ids != END).sum())
    nothing = CompiledEngine(model, PLACES, np.ones(23), num_threads=3).train(ids[:0], 0.05, 0.05, 1)
    assert nothing.tokens == 0
    assert TensorEngine(model, PLACES, np.ones(23)).train(ids[:0], 0.05, 0.05, 1).tokens == 0


def test_a_space_with_subwords_gives_unknown_words_the_mean_of_their_ngrams(tmp_path):
    model = build_model(num_buckets=11)
    space = model.to_space()
    starts, ngrams = model.list_ngrams()
    own = [model.input_embeddings[4], *model.ngram_embeddings[ngrams[starts[4] : starts[5]]]]
    np.testing.assert_allclose(space["w4"], torch.stack(own).mean(dim=0).detach(), atol=1e-6)
    assert space["w44"].shape == (7,)
    model.save_pretrained(tmp_path)
    opened = StaticEmbeddingForPreTraining.from_pretrained(tmp_path)
    assert np.array_equal(opened.to_space()["w4"], space["w4"])
    space.save_pretrained(tmp_path / "space")
    with pytest.raises(ValueError, match=r"lacks 'input_embeddings'.*opened with AutoModel"):
        StaticEmbeddingForPreTraining.from_pretrained(tmp_path / "space")


def test_transformers_trainer_trains_it_too(tmp_path):
    from transformers import Trainer, TrainingArguments

    topics = np.random.default_rng(0).integers(0, 2, 200)
    rows = [{"input_ids": list(np.random.default_rng(i).integers(0, 11, 12) + 11 * topic)} for i, topic in enumerate(topics)]
    model = StaticEmbeddingForPreTraining.from_words(WORDS, np.ones(23), hidden_size=8, window=3)
    arguments = TrainingArguments(
        tmp_path,
        learning_rate=0.1,
        num_train_epochs=4,
        per_device_train_batch_size=8,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )

    def collate(batch):
        ids = torch.tensor(np.array([row["input_ids"] for row in batch]))
        return {"input_ids": ids, "labels": ids}

    Trainer(model, arguments, train_dataset=rows, data_collator=collate).train()
    space = model.to_space()
    assert space.similarity("w0", "w5") > 0.3 > space.similarity("w0", "w15")

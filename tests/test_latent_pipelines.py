"""The pipeline with latent numbers: new texts by seed, temperatures, bounds of given texts, means of what is encoded."""

from __future__ import annotations

import pytest
import torch
from specimens import build_config, sharpen

from hf_genext import (
    ConditionalGenerationPipeline,
    GenextForConditionalGeneration,
    GenextProcessor,
    train_tokenizer,
)


def build_text_pipeline(prior: str = "standard") -> ConditionalGenerationPipeline:
    """A sequence VAE of words, random, that writes something else for each draw."""
    words = ["cat", "violin", "tacit", "civil"]
    tokenizers = [train_tokenizer(words, unit="character", model_max_length=24) for _ in range(2)]
    processor = GenextProcessor(tokenizer=tokenizers[0], target_tokenizer=tokenizers[1])
    config = build_config("variational")
    config.bottleneck.prior = prior
    config.conditioner.vocab_size = config.decoder.vocab_size = len(tokenizers[0])
    model = sharpen(GenextForConditionalGeneration(config))
    with torch.no_grad():
        model.encoder.bottleneck.latents_projection.weight.mul_(4.0)
    model.generation_config.max_new_tokens = 7
    return ConditionalGenerationPipeline(model=model, processor=processor, tokenizer=processor.tokenizer)


def test_the_pipeline_draws_new_texts_by_seed_alone_and_in_a_batch():
    pipe = build_text_pipeline()
    drawn = pipe(num_samples=8, seed=7)
    assert len({answer[0]["generated_text"] for answer in drawn}) > 2
    assert pipe(num_samples=3, seed=7, batch_size=1) == drawn[:3]
    assert pipe({}, seed=7) == drawn[0]
    assert pipe(num_samples=8, seed=8) != drawn
    several = pipe({}, seed=7, num_return_sequences=4)
    assert len(several) == 4 and len({answer["generated_text"] for answer in several}) > 1
    assert pipe([{}, {}], seed=7, num_return_sequences=4)[0] == several
    sampled = pipe(num_samples=4, seed=7, do_sample=True, return_scores=True)
    assert (
        pipe(num_samples=2, seed=7, do_sample=True, return_scores=True, batch_size=1)[0][0]["generated_text"]
        == (sampled[0][0]["generated_text"])
    )
    middle = pipe(num_samples=3, seed=7, temperature=0.0)
    assert middle[0] == middle[1] == middle[2]
    one, several = (pipe({}, seed=7, do_sample=True, num_return_sequences=count) for count in (1, 3))
    assert several[0] == one[0]


@pytest.mark.parametrize("asked", [{"num_return_sequences": 2}, {"num_candidates": 3}])
def test_alignments_of_several_outputs_have_the_names_of_their_row(asked):
    pipe = build_text_pipeline()
    words = ["cat", "violin"]
    answers = pipe(words, batch_size=2, seed=1, return_alignments=True, **asked)
    alone = [pipe(word, seed=1, return_alignments=True)[0]["alignment"]["source_tokens"] for word in words]
    assert [[output["alignment"]["source_tokens"] for output in row] for row in answers] == [
        [names] * asked.get("num_return_sequences", 1) for names in alone
    ]


def test_the_pipeline_gives_latent_numbers_a_temperature_of_their_own():
    pipe = build_text_pipeline()
    drawn = pipe(num_samples=6, seed=7)
    # Without do_sample tokens are the likeliest, so that it is that of the latent numbers either way.
    assert pipe(num_samples=6, seed=7, latent_temperature=1.0) == drawn
    assert pipe(num_samples=6, seed=7, temperature=0.0, latent_temperature=1.0) == drawn
    middle = pipe(num_samples=6, seed=7, latent_temperature=0.0)
    assert middle == pipe(num_samples=6, seed=7, temperature=0.0) != drawn
    sampled = pipe(num_samples=6, seed=7, do_sample=True, temperature=1e-4, latent_temperature=1.0)
    assert sampled == drawn != pipe(num_samples=6, seed=7, do_sample=True, temperature=1e-4)
    plain = GenextForConditionalGeneration(build_config())
    with pytest.raises(ValueError, match="latent_temperature is for a model with latent numbers"):
        ConditionalGenerationPipeline(model=plain, processor=pipe.processor)("cat", latent_temperature=1.0)


def test_bounds_of_many_rows_have_errors_that_average_out():
    pipe = build_text_pipeline()
    many = [one["score"] for one in pipe.score([{}] * 40, ["violin"] * 40, num_importance_samples=1, batch_size=40)]
    assert len({round(score, 3) for score in many}) > 30


def test_the_pipeline_encodes_a_text_to_the_means_and_scores_by_the_bound():
    pipe = build_text_pipeline()
    assert pipe("violin") == pipe("violin")
    scored = pipe.score([{}, "civil", {}], ["violin", "violin", ["cat", "tacit"]], num_importance_samples=5)
    assert scored[0]["num_importance_samples"] == 5 and len(scored[2]) == 2
    (alone,) = pipe.score([{}], ["violin"], num_importance_samples=5)
    assert alone == {"score": pytest.approx(scored[0]["score"], abs=1e-4), "num_importance_samples": 5}
    # Of draws of their own, by the places; with a number of its own a row has the same score alone.
    again = pipe.score([{}, "civil", {}], ["violin", "violin", "cat"], num_importance_samples=5, batch_size=3)
    assert [one["score"] for one in again] == pytest.approx([*(one["score"] for one in scored[:2]), scored[2][0]["score"]])
    assert pipe.score("civil", "violin", num_importance_samples=5)["score"] != pytest.approx(scored[1]["score"], abs=1e-4)
    same = pipe.score(["civil"] * 2, ["violin"] * 2, num_importance_samples=5, seed=[0, 0])
    alone = pipe.score("civil", "violin", num_importance_samples=5)["score"]
    assert [one["score"] for one in same] == pytest.approx([alone] * 2, abs=1e-4)
    with pytest.raises(ValueError, match="There are 2 inputs, but 3 seeds"):
        pipe.score([{}] * 2, ["violin"] * 2, seed=[1, 2, 3])
    ids = pipe.processor(text="violin", text_target="violin", return_tensors="pt")
    with torch.no_grad():
        labels = torch.as_tensor(ids["labels"])
        expected = pipe.model.log_prob(labels, 5, seed=0, input_ids=ids["input_ids"])
    assert scored[0]["score"] == pytest.approx(float(expected), rel=1e-4)


def test_a_temperature_of_0_takes_the_middle_of_a_mixture_as_the_model_does():
    pipe = build_text_pipeline(prior="mixture")
    for asked in ({"temperature": 0.0}, {"latent_temperature": 0.0}):
        found = {row[0]["generated_text"] for seed in (1, 2, 3) for row in pipe(num_samples=3, seed=seed, **asked)}
        ids = pipe.model.sample(2, seed=5, temperature=0.0)
        assert found == set(pipe.target_tokenizer.batch_decode(ids, skip_special_tokens=True))

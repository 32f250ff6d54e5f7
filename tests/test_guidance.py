"""Guidance in generation: against two passes by hand, by every door, with beams, samples, seeds and saved defaults."""

from __future__ import annotations

import functools

import pytest
import torch
from composition_specimens import build_guidable_pipeline
from specimens import PHONEMES, WORDS, build_pipeline
from transformers import GenerationConfig, pipeline
from transformers.modeling_outputs import BaseModelOutput

TASK = "conditional-generation"


@pytest.fixture(scope="module")
def guided():
    return build_guidable_pipeline("llama")


def guide_by_hand(pipe, word, scale, steps=6):
    """Greedy, with two separate passes for each token, in float64."""
    model = pipe.model.double()
    inputs = pipe.processor(text=word, return_tensors="pt")
    nothing = {"condition_mask": torch.zeros(1, 1, dtype=torch.long)}
    ids = [model.config.decoder_start_token_id]
    with torch.no_grad():
        for _ in range(steps):
            passes = [
                model(**conditions, decoder_input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(dim=-1)
                for conditions in (inputs, nothing)
            ]
            ids.append(int((passes[1] + scale * (passes[0] - passes[1])).argmax()))
            if ids[-1] == model.config.eos_token_id:
                break
    model.float()
    return pipe.processor.batch_decode(torch.tensor([ids]), skip_special_tokens=True)[0]


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.0, 5.0])
def test_guidance_is_the_mixture_of_two_passes(guided, scale):
    expected = [guide_by_hand(guided, word, scale) for word in WORDS]
    for batch_size in (1, 3):
        found = [row[0]["generated_text"] for row in guided(WORDS, guidance_scale=scale, batch_size=batch_size)]
        assert found == expected


def test_guidance_goes_with_beams_samples_and_seeds(guided):
    plain = guided(WORDS, num_beams=3, batch_size=3)
    assert guided(WORDS, num_beams=3, batch_size=3, guidance_scale=1.0) == plain
    assert guided(WORDS, num_beams=3, batch_size=4, guidance_scale=4.0) == guided(WORDS, num_beams=3, guidance_scale=4.0)
    assert guided(WORDS, num_beams=3, guidance_scale=4.0) != plain
    sampling = {"do_sample": True, "seed": 3, "guidance_scale": 2.0, "num_return_sequences": 2}
    samples = guided(WORDS, batch_size=3, **sampling)
    assert samples == guided(WORDS, **sampling)
    assert all(len(row) == 2 for row in samples)
    with pytest.raises(ValueError, match="guidance_scale must be a finite number of 0 or more, got -3"):
        guided(WORDS[0], guidance_scale=-3.0)
    allowed = PHONEMES[:4]
    assert {row[0]["generated_text"] for row in guided(WORDS, guidance_scale=3.0, allowed_outputs=allowed)} <= set(allowed)


@pytest.mark.parametrize("search", [{}, {"num_beams": 3, "num_return_sequences": 2}, {"do_sample": True}], ids=str)
def test_generate_itself_is_guided_as_the_pipeline_is(guided, search):
    model, inputs = guided.model, guided.processor(text=WORDS[:3], padding=True, return_tensors="pt")
    write = functools.partial(guided.processor.batch_decode, skip_special_tokens=True)
    settings = {**search, "max_new_tokens": 8}
    torch.manual_seed(0)
    found = write(model.generate(**inputs, guidance_scale=4.0, **settings))
    assert found != write(model.generate(**inputs, guidance_scale=1.0, **settings))
    torch.manual_seed(0)
    memory, mask = model.encode(return_mask=True, **inputs)
    assert write(model.decode(memory, mask, guidance_scale=4.0, **settings)) == found
    if not search.get("do_sample"):
        answers = guided(WORDS[:3], batch_size=3, guidance_scale=4.0, **settings)
        assert [answer["generated_text"] for row in answers for answer in row] == found
    with pytest.raises(ValueError, match="there are ids alone"):
        model.generate(**inputs, guidance_scale=4.0, return_dict_in_generate=True, **settings)
    with pytest.raises(ValueError, match="a streamer would show"):
        model.generate(**inputs, guidance_scale=4.0, streamer=object(), **settings)


def test_guided_generation_takes_what_generate_takes(guided):
    model, inputs = guided.model, guided.processor(text=WORDS[:3], padding=True, return_tensors="pt")
    settings = {"max_new_tokens": 6, "guidance_scale": 4.0}
    plain = model.generate(**inputs, **settings)
    memory, mask = model.encode(return_mask=True, **inputs)
    outputs = BaseModelOutput(last_hidden_state=memory)
    assert torch.equal(model.generate(encoder_outputs=outputs, attention_mask=mask, **settings), plain)
    seen = set()

    def allow(row, ids):
        seen.add(row)
        return list(range(model.config.vocab_size))

    assert torch.equal(model.generate(**inputs, prefix_allowed_tokens_fn=allow, **settings), plain)
    assert seen == {0, 1, 2}
    prompts = plain[:, :3]
    assert torch.equal(model.generate(**inputs, decoder_input_ids=prompts, **{**settings, "max_new_tokens": 4}), plain)


def test_draws_of_the_model_itself_are_guided_where_that_is_asked_for_alone(guided):
    model, inputs = guided.model, guided.processor(text=WORDS[:2], padding=True, return_tensors="pt")
    drawn = model.sample(3, seed=5, max_new_tokens=5, guidance_scale=4.0, **inputs)
    assert drawn.shape[0] == 6
    assert torch.equal(drawn, model.sample(3, seed=5, max_new_tokens=5, guidance_scale=4.0, **inputs))
    own = model.sample(3, seed=5, max_new_tokens=5, **inputs)
    assert own.shape != drawn.shape or not torch.equal(own, drawn)
    try:
        model.generation_config.guidance_scale = 4.0
        assert torch.equal(model.sample(3, seed=5, max_new_tokens=5, **inputs), own)
    finally:
        model.generation_config.guidance_scale = None


def test_guidance_that_a_model_is_saved_with_is_what_every_door_does(guided, tmp_path):
    guided.save_pretrained(tmp_path)
    config = GenerationConfig.from_pretrained(tmp_path)
    config.guidance_scale = 4.0
    config.save_pretrained(tmp_path)
    opened = pipeline("conditional-generation", model=str(tmp_path))
    expected = [answer["generated_text"] for row in guided(WORDS, guidance_scale=4.0) for answer in row]
    assert [answer["generated_text"] for row in opened(WORDS) for answer in row] == expected
    assert opened(WORDS, guidance_scale=1.0) == guided(WORDS) != opened(WORDS)
    inputs = opened.processor(text=WORDS, padding=True, return_tensors="pt")
    texts = opened.processor.target_tokenizer.batch_decode(opened.model.generate(**inputs), skip_special_tokens=True)
    assert texts == expected


def test_guidance_needs_a_model_that_was_trained_for_it():
    with pytest.raises(ValueError, match="Train it with condition_dropout="):
        build_pipeline()(WORDS[0], guidance_scale=2.0)

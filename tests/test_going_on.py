"""Going on from a model that exists: what a recipe's settings still decide about it."""

from __future__ import annotations

import re

import pytest
import torch
from datasets import Dataset
from huggingface_hub.errors import StrictDataclassError
from specimens import PHONEMES, WORDS
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel

from hf_genext import (
    GenextConfig,
    GenextForConditionalGeneration,
    GenextForPrediction,
    GenextProcessor,
    GenextVectorConditionerConfig,
    train_tokenizer,
)
from recipes.arguments import SettingsError
from recipes.conditional_model import load_model
from recipes.conditional_settings import ModelSettings

SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture
def folder(tmp_path):
    """A classifier of two conditions, whose text is read by a frozen BERT."""
    processor = GenextProcessor(tokenizer=train_tokenizer(WORDS, unit="character"), vector_size=3)
    bert = BertModel(BertConfig(vocab_size=len(processor.tokenizer), pad_token_id=0, **SMALL))
    model = GenextForPrediction.from_encoder_pretrained(
        {"text": bert, "vector": GenextVectorConditionerConfig(vector_size=3, hidden_size=16)},
        {"kind": "class", "num_outputs": 2},
        freeze_encoder=True,
    )
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def count_tuned_layers(model):
    """Of BERT's two."""
    layers = model.encoder.conditioner.conditioners["text"].model.encoder.layer
    return sum(all(parameter.requires_grad for parameter in layer.parameters()) for layer in layers)


@pytest.mark.parametrize(
    ("settings", "tuned"),
    [({}, 0), ({"freeze_encoder": True}, 0), ({"freeze_encoder": False}, 2), ({"tune_encoder_from_layer": 1}, 1)],
)
def test_what_is_tuned_is_as_it_was_unless_the_settings_say_else(folder, settings, tuned):
    model, _ = load_model(ModelSettings(model=folder, head={"kind": "class"}, **settings), None)
    assert count_tuned_layers(model) == tuned
    assert model.config.freeze_encoder == (not tuned)


@pytest.mark.parametrize("side", ["decoder", "encoder"])
def test_half_of_another_model_comes_with_its_vocabulary(side, tmp_path):
    processor = GenextProcessor(
        tokenizer=train_tokenizer(WORDS, unit="character"), target_tokenizer=train_tokenizer(PHONEMES, unit="word")
    )
    model = GenextForConditionalGeneration(
        GenextConfig(
            conditioner={"vocab_size": len(processor.tokenizer), **SMALL},
            decoder={"vocab_size": len(processor.target_tokenizer), **SMALL},
            tie_word_embeddings=True,
        )
    )
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    if side == "decoder":
        rows = Dataset.from_dict({"source": [""], "vector": [[0.0, 1.0, 2.0]], "target": PHONEMES[:1]})
        settings = ModelSettings(encoder={"hidden_size": 16}, decoder=str(tmp_path), max_target_length=20)
    else:
        rows = Dataset.from_dict({"source": WORDS, "target": PHONEMES})
        settings = ModelSettings(encoder=str(tmp_path), decoder=dict(SMALL), max_target_length=20)
    built, found = load_model(settings, rows)
    assert found.target_tokenizer.get_vocab() == processor.target_tokenizer.get_vocab()
    assert built.generation_config.max_new_tokens == 20
    if side == "decoder":
        assert torch.equal(built.decoder.embed_tokens.weight, model.decoder.embed_tokens.weight)
        ids = built.generate(**found(condition_vectors=[[0.0, 1.0, 2.0]], return_tensors="pt"))
    else:
        assert found.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
        assert torch.equal(built.encoder.get_input_embeddings().weight, model.encoder.get_input_embeddings().weight)
        ids = built.generate(**found(text=WORDS[:1], return_tensors="pt"))
    assert ids.shape[0] == 1


def test_conditions_are_taken_away_from_models_with_null_states_alone(folder, tmp_path):
    model, _ = load_model(ModelSettings(model=folder, head={"kind": "class"}, condition_dropout=0.5), None)
    assert model.encoder.conditioner.config.condition_dropout == model.config.conditioner.condition_dropout == 0.5
    processor = GenextProcessor(
        tokenizer=train_tokenizer(WORDS, unit="character"), target_tokenizer=train_tokenizer(PHONEMES, unit="word")
    )
    sizes = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    config = GenextConfig(
        conditioner={"vocab_size": len(processor.tokenizer), **sizes},
        decoder={"vocab_size": len(processor.target_tokenizer), **sizes},
    )
    GenextForConditionalGeneration(config).save_pretrained(tmp_path / "plain")
    processor.save_pretrained(tmp_path / "plain")
    with pytest.raises(SettingsError, match="has no null states that could stand for its condition"):
        load_model(ModelSettings(model=str(tmp_path / "plain"), condition_dropout=0.5), None)


@pytest.mark.parametrize("vocabulary", ["its own", "padded"])
def test_a_second_direction_gets_a_token_of_its_own(vocabulary, tmp_path):
    processor = GenextProcessor(
        tokenizer=train_tokenizer(WORDS, unit="character"), target_tokenizer=train_tokenizer(PHONEMES, unit="word")
    )
    size = len(processor.target_tokenizer) + (5 if vocabulary == "padded" else 0)
    conditioner = {"vocab_size": len(processor.tokenizer), **SMALL}
    model = GenextForConditionalGeneration(GenextConfig(conditioner=conditioner, decoder={"vocab_size": size, **SMALL}))
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    taught, found = load_model(ModelSettings(model=str(tmp_path), both_directions=True), None)
    assert taught.config.reversed_start_token_id == len(processor.target_tokenizer) == len(found.target_tokenizer) - 1
    assert taught.config.decoder.vocab_size == max(size, len(found.target_tokenizer))
    known = model.decoder.embed_tokens.weight
    assert torch.equal(taught.decoder.embed_tokens.weight[: len(known)], known)


def test_a_second_direction_is_for_native_decoders(tmp_path):
    processor = GenextProcessor(vector_size=3, target_tokenizer=train_tokenizer(PHONEMES, unit="word"))
    gpt = GPT2LMHeadModel(GPT2Config(vocab_size=len(processor.target_tokenizer), n_embd=16, n_layer=1, n_head=2))
    vector = GenextVectorConditionerConfig(vector_size=3, hidden_size=16)
    model = GenextForConditionalGeneration.from_encoder_decoder_pretrained(vector, gpt)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with pytest.raises(SettingsError, match=r"both_directions is for a native decoder, and that of .* is of type gpt2"):
        load_model(ModelSettings(model=str(tmp_path), both_directions=True), None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"head": {"kind": "labels"}}, "has a head of kind class, got head: {kind: labels}"),
        ({"condition_dropout": 1.5}, "condition_dropout must be at least 0 and below 1, got 1.5"),
        ({"tune_encoder_from_layer": -1}, "tune_encoder_from_layer must be 0 or more, got -1"),
        ({"lora": {"r": 2}, "calibrate": True}, "calibrate finds a number that is kept in the configuration"),
        ({"generation": {"num_beams": 2}}, "generation is for outputs of several tokens"),
        ({"generation": {"num_beams": 2}, "head": None, "lora": {"r": 2}}, "generation is saved with a whole model"),
    ],
    ids=["head", "dropout", "layer", "calibrate", "generation", "generation of an adapter"],
)
def test_settings_that_the_model_cannot_have_are_refused(folder, settings, message):
    with pytest.raises((ValueError, StrictDataclassError), match=re.escape(message)):
        load_model(ModelSettings(**{"model": folder, "head": {"kind": "class"}, **settings}), None)

"""What would change nothing of a composition; its single outputs in Transformers' own pipeline; Marian's half."""

from __future__ import annotations

import datasets
import peft
import pytest
import torch
from composition_specimens import DECODERS, TOKENS, build_bert
from specimens import WORDS, build_processor
from transformers import BitsAndBytesConfig, pipeline

from hf_genext import (
    GenextForConditionalGeneration,
    GenextForPrediction,
    GenextTextConditionerConfig,
    build_lora_config,
)
from recipes.arguments import SettingsError
from recipes.conditional_model import build_processor as build_processor_of_recipe
from recipes.conditional_settings import ModelSettings

NATIVE = {"vocab_size": 40, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 16}
HEAD = {"kind": "class", "num_outputs": 3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"freeze_encoder": True}, "freeze_encoder is for pretrained encoders, and this model has none"),
        ({"tune_encoder_from_layer": 0}, "tune_encoder_from_layer is for pretrained encoders"),
        ({"device_map": "cpu"}, "device_map is for parts that are loaded"),
        ({"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}, "quantization_config is for a decoder that is loaded"),
        ({"head": HEAD}, "takes no 'head'"),
    ],
)
def test_what_would_change_nothing_of_a_composition_is_refused(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        GenextForConditionalGeneration.from_encoder_decoder_pretrained(
            encoder=GenextTextConditionerConfig(**NATIVE), decoder=DECODERS["gpt2"](), **arguments
        )


@pytest.mark.parametrize("name", ["decoder", "conditioner"])
def test_a_single_output_has_no_decoder(name):
    with pytest.raises(TypeError, match=f"takes no {name!r}"):
        GenextForPrediction.from_encoder_pretrained(build_bert(), HEAD, **{name: DECODERS["gpt2"]()})


def test_the_half_of_marian_is_resized_and_adapted():
    model = GenextForConditionalGeneration.from_encoder_decoder_pretrained(encoder=build_bert(), decoder=DECODERS["marian"]())
    embedding = model.decoder.get_input_embeddings()
    size = embedding.weight.shape[0]
    adapted = peft.get_peft_model(model, build_lora_config(model))
    adapted(**TOKENS, labels=TOKENS["input_ids"].clamp(min=1)).loss.backward()
    model = GenextForConditionalGeneration.from_encoder_decoder_pretrained(encoder=build_bert(), decoder=DECODERS["marian"]())
    model.resize_token_embeddings(size + 3)
    logits = model(**TOKENS, labels=torch.full_like(TOKENS["input_ids"], size + 2)).logits
    assert logits.shape[-1] == size + 3 == model.decoder.get_input_embeddings().weight.shape[0]


@pytest.mark.parametrize("kind", ["class", "labels", "regression"])
def test_transformers_own_pipeline_knows_what_single_outputs_are_called(kind, tmp_path):
    names = ["x", "y", "z"]
    processor = build_processor()
    conditioner = GenextTextConditionerConfig(**{**NATIVE, "vocab_size": len(processor.tokenizer)})
    head = {"kind": kind, **({"num_outputs": 1} if kind == "regression" else {"output_names": names})}
    model = GenextForPrediction.from_encoder_pretrained(conditioner, head)
    model.save_pretrained(tmp_path)
    processor.tokenizer.save_pretrained(tmp_path)
    with torch.no_grad():
        logits = model(**processor(text=WORDS[0], return_tensors="pt")).logits[0]
    found = pipeline("text-classification", model=str(tmp_path), top_k=None)(WORDS[0])
    expected = {"class": logits.softmax(dim=0), "labels": logits.sigmoid(), "regression": logits}[kind].tolist()
    found = found[0] if isinstance(found[0], list) else found
    told = {answer["label"]: answer["score"] for answer in found}
    assert told == pytest.approx(dict(zip(["LABEL_0"] if kind == "regression" else names, expected, strict=True)), rel=1e-5)


def test_a_condition_that_no_row_has_is_told_by_its_name():
    rows = datasets.Dataset.from_dict({"source": ["1"], "target": ["a"], "text": ["cat"], "vector": [None]})
    with pytest.raises(SettingsError, match="No row has a vector: its column is empty"):
        build_processor_of_recipe(ModelSettings(), rows)

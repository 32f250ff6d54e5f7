"""Adapters for compositions: what they leave out, what is saved along with them, and how PEFT learns of the model type."""

from __future__ import annotations

import json
import subprocess
import sys

import peft
import pytest
import torch
from composition_specimens import DECODERS, TOKENS, Cell, build_bert, build_labels
from transformers import GPT2LMHeadModel, pipeline

from hf_genext import GenextForConditionalGeneration, GenextForPrediction, build_lora_config

compose = GenextForConditionalGeneration.from_encoder_decoder_pretrained


def test_what_is_frozen_shared_or_fresh_is_not_adapted():
    model = compose(encoder=build_bert(), decoder=DECODERS["gpt2"](), num_latents=2, freeze_encoder=True)
    config = build_lora_config(model, r=3)
    assert config.r == 3
    assert config.target_modules
    assert not any(name.startswith("encoder.") for name in config.target_modules)
    assert not any("crossattention" in name or "lm_head" in name or "wte" in name for name in config.target_modules)
    layers = "decoder.language_model.transformer.h"
    assert set(config.modules_to_save) == {
        "encoder.bottleneck",
        *(f"{layers}.{layer}.{name}" for layer in (0, 1) for name in ("crossattention", "ln_cross_attn")),
    }
    adapted = peft.get_peft_model(model, config)
    trained = {name for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert not any("encoder.conditioner" in name for name in trained)
    assert any("encoder.bottleneck" in name for name in trained)
    assert any(".attn.c_attn.lora_A" in name for name in trained)


def test_cross_attention_that_was_pretrained_is_adapted_and_not_saved_whole():
    config = build_lora_config(Cell("bert", "t5", None).build())
    assert config.modules_to_save == ["decoder.memory_projection"]
    assert any("EncDecAttention" in name for name in config.target_modules)


def test_nothing_to_adapt_is_said():
    model = compose(encoder=build_bert(), decoder=GPT2LMHeadModel(DECODERS["gpt2"]()), num_latents=2, freeze_encoder=True)
    model.decoder.language_model.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to adapt"):
        build_lora_config(model)


def test_merging_an_adapter_gives_the_same_numbers():
    model = Cell("bert", "llama", 2).build()
    adapted = peft.get_peft_model(model, build_lora_config(model, init_lora_weights=False)).eval()
    with torch.no_grad():
        expected = adapted(**TOKENS, labels=build_labels()).logits
        merged = adapted.merge_and_unload()
        torch.testing.assert_close(merged(**TOKENS, labels=build_labels()).logits, expected, atol=1e-4, rtol=1e-4)
    assert type(merged) is GenextForConditionalGeneration


def test_an_adapter_for_another_base_is_refused(tmp_path):
    base = Cell("bert", "llama", 2).build()
    peft.get_peft_model(base, build_lora_config(base)).save_pretrained(tmp_path)
    with pytest.raises((ValueError, RuntimeError), match=r"not found|size mismatch"):
        peft.PeftModel.from_pretrained(Cell("bert", "opt", 2).build(), tmp_path)


@pytest.mark.parametrize("how", ["another architecture", "other sizes", "more layers", "fewer layers"])
def test_an_adapter_folder_whose_base_is_another_is_refused(tmp_path, how):
    adapted = Cell("bert", "gpt2", 2).build()
    peft.get_peft_model(adapted, build_lora_config(adapted)).save_pretrained(tmp_path / "adapter")
    decoder = DECODERS["opt" if how == "another architecture" else "gpt2"]()
    if how == "other sizes":
        decoder.n_embd = 64
    elif how != "another architecture":
        decoder.n_layer = 3 if how == "more layers" else 1
    compose(encoder=build_bert(), decoder=decoder, num_latents=2).save_pretrained(tmp_path / "base")
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = str(tmp_path / "base")
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    message = rf"The adapter '{tmp_path / 'adapter'}' cannot be put into this GenextForConditionalGeneration: .*another base"
    with pytest.raises(ValueError, match=message):
        GenextForConditionalGeneration.from_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match=message):
        GenextForConditionalGeneration.from_pretrained(tmp_path / "base").load_adapter(str(tmp_path / "adapter"))


def test_an_adapter_folder_opens_as_a_pipeline(tmp_path):
    from specimens import WORDS, build_pipeline

    plain = build_pipeline()
    plain.save_pretrained(tmp_path / "base")
    base = GenextForConditionalGeneration.from_pretrained(tmp_path / "base")
    config = build_lora_config(base, init_lora_weights=False)
    peft.get_peft_model(base, config).save_pretrained(tmp_path / "adapter")
    plain.processor.save_pretrained(tmp_path / "adapter")
    adapted = pipeline("conditional-generation", model=str(tmp_path / "adapter"))
    assert adapted(WORDS) != plain(WORDS)
    assert len(adapted(WORDS)) == len(WORDS)


PREDICTED = {
    "class": ({"kind": "class", "num_outputs": 3}, torch.tensor([2, 0, 1])),
    "labels": ({"kind": "labels", "num_outputs": 3}, torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 1]])),
    "regression": ({"kind": "regression", "num_outputs": 2, "output_scales": [3.0, 0.5]}, torch.randn(3, 2)),
    "mixture": ({"kind": "mixture", "num_outputs": 2, "num_components": 3}, torch.randn(3, 2)),
    "image": ({"kind": "image", "output_shape": [2, 2], "num_levels": 3}, torch.tensor([[0, 1, 2, 0]] * 3)),
}


@pytest.mark.parametrize("kind", PREDICTED)
def test_an_adapter_leaves_the_outputs_of_a_head_as_they_were(kind):
    head, labels = PREDICTED[kind]
    model = GenextForPrediction.from_encoder_pretrained(build_bert(), head)
    with torch.no_grad():
        expected = model(**TOKENS, labels=labels)
        found = peft.get_peft_model(model, build_lora_config(model)).eval()(**TOKENS, labels=labels)
    assert expected.keys() == found.keys() and "logits" in found
    for name in ("loss", "logits", "scale", "log_probs"):
        assert (expected.get(name) is None) == (found.get(name) is None), name
        if found.get(name) is not None:
            torch.testing.assert_close(found[name], expected[name])


@pytest.mark.parametrize("kind", ["class", "labels", "regression"])
def test_what_a_head_with_an_adapter_is_calibrated_to_is_saved_with_the_merged_model(kind, tmp_path):
    head, labels = PREDICTED[kind]
    model = GenextForPrediction.from_encoder_pretrained(build_bert(), head)
    adapted = peft.get_peft_model(model, build_lora_config(model))
    batches = [{**TOKENS, "labels": labels}]
    temperature = adapted.calibrate(batches)
    assert temperature not in (1.0, [1.0] * 3, [1.0] * 2)
    threshold = adapted.choose_threshold(batches) if kind == "labels" else 0.5
    assert (threshold != 0.5) == (kind == "labels")
    with torch.no_grad():
        expected = adapted(**TOKENS)
    adapted.merge_and_unload().save_pretrained(tmp_path)
    opened = GenextForPrediction.from_pretrained(tmp_path)
    assert (opened.config.head.temperature, opened.config.head.threshold) == (temperature, threshold)
    with torch.no_grad():
        found = opened(**TOKENS)
    what = "scale" if kind == "regression" else "logits"
    torch.testing.assert_close(found[what], expected[what])


@pytest.mark.parametrize("order", ["import peft, hf_genext", "import hf_genext, peft"])
def test_peft_knows_the_model_type_whichever_is_imported_first(order):
    program = (
        f"{order}\n"
        "import hf_genext.auto; hf_genext.auto.register()\n"
        "from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as mapping\n"
        "import peft.tuners.lora.model as lora\n"
        "print(mapping['genext'], lora.LoraModel.target_module_mapping['genext'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.split() == ["all-linear", "all-linear"], done.stderr

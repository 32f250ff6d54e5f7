"""Models whose ONNX graphs are traced: the tokens of `generate`, from the graphs and not from PyTorch."""

from __future__ import annotations

import functools
import json
import sys

import pytest
import torch
from composition_specimens import CONDITIONS, DECODERS, LATENT_CELLS, Cell
from specimens import sharpen
from test_foreign_models import MODELS
from transformers import GenerationConfig

from hf_genext import ConditionalGenerationPipeline, GenextForConditionalGeneration, pipeline
from hf_genext.engines.onnx_engines import OnnxModel
from hf_genext.engines.onnx_exports_engines import write_onnx
from hf_genext.engines.onnx_forward_engines import OnnxForwardModel
from hf_genext.engines.opening_engines import open_onnx_model
from hf_genext.export import export_model
from hf_genext.export_examples import build_examples as build_made_up_examples

pytest.importorskip("onnxscript", reason="needs the extra: pip install 'hf_genext[onnx]'")

CALLS = (
    {},
    {"num_beams": 3, "num_return_sequences": 2},
    {"do_sample": True, "num_return_sequences": 2},
    {"repetition_penalty": 1.5, "min_new_tokens": 4},
)
FREE = {"input_ids": 1, "attention_mask": 1, "condition_vectors": 1, "condition_vectors_mask": 1}
"""Axes of conditions that have any length."""

FAST = [Cell("bert", "gpt2", None), Cell("vectors", "llama", 1), Cell("whisper", "native", 5)]
SLOW = [
    *(Cell("bert", decoder, None) for decoder in DECODERS if decoder not in ("gpt2", "native")),
    *(Cell(condition, "native", None) for condition in ("bert", "vit", "static", "vectors", "labels", "text_and_labels")),
    Cell("text_and_labels", "gpt2", 5),
    Cell("vit", "opt", None),
    *(cell for cell in LATENT_CELLS if cell.decoder != "native"),
]


def build_examples(inputs: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """Two conditions of those, the second one shorter."""
    shorter = {name: value[:1].narrow(FREE[name], 0, 2) if name in FREE else value[:1] for name, value in inputs.items()}
    return [{name: value[:1] for name, value in inputs.items()}, shorter]


def forbid(forward):
    """A `forward` that nobody may call."""

    @functools.wraps(forward)
    def fail(*args, **kwargs):
        raise AssertionError("PyTorch computes what the graph should")

    return fail


@pytest.mark.parametrize(
    "cell", [*FAST, *(pytest.param(cell, marks=pytest.mark.slow) for cell in SLOW)], ids=lambda cell: cell.name
)
def test_a_composed_model_writes_the_same_by_onnx(cell, tmp_path, monkeypatch):
    model = cell.build()
    kind = "torch" if cell in LATENT_CELLS else "onnx"
    assert write_onnx(model, tmp_path, None, lambda: build_examples(cell.inputs)) == {"encoder": kind}
    exported = open_onnx_model(model, tmp_path)
    assert isinstance(exported, OnnxModel if cell.decoder == "native" else OnnxForwardModel)
    wanted = []
    for call in CALLS:
        torch.manual_seed(3)
        wanted.append(model.generate(**cell.inputs, **call, max_new_tokens=7))
    if kind == "onnx":
        monkeypatch.setattr(model.encoder.conditioner, "forward", forbid(model.encoder.conditioner.forward))
    for call, ids in zip(CALLS, wanted, strict=True):
        torch.manual_seed(3)
        torch.testing.assert_close(
            exported.generate(**cell.inputs, **call, max_new_tokens=7), ids, rtol=0, atol=0, msg=str(call)
        )
    assert exported.obstacle is None


def test_a_window_is_that_of_the_decoder_beyond_what_was_traced(tmp_path):
    config = DECODERS["windowed"]()
    config.sliding_window = 9
    torch.manual_seed(0)
    encoder = CONDITIONS["vectors"].config()
    model = sharpen(GenextForConditionalGeneration.from_encoder_decoder_pretrained(encoder=encoder, decoder=config))
    write_onnx(model, tmp_path, None)
    exported, conditions = open_onnx_model(model, tmp_path), {"condition_vectors": torch.randn(3, 2, 9)}
    settings = {"max_new_tokens": 30, "min_new_tokens": 30}
    assert torch.equal(exported.generate(**conditions, **settings), model.generate(**conditions, **settings))
    assert exported.obstacle is None


def test_what_the_graphs_do_not_know_is_pytorchs(tmp_path):
    cell = Cell("bert", "gpt2", None)
    model = cell.build()
    write_onnx(model, tmp_path, None)
    exported = open_onnx_model(model, tmp_path)
    settings = {**cell.inputs, "max_new_tokens": 5, "return_dict_in_generate": True, "output_attentions": True}
    given, wanted = exported.generate(**settings), model.generate(**settings)
    assert torch.equal(given.sequences, wanted.sequences)
    torch.testing.assert_close(given.cross_attentions[1], wanted.cross_attentions[1])
    assert exported.obstacle == "output_attentions is given"
    single = {name: value[:1] for name, value in cell.inputs.items()}
    exported.generate(**single, max_new_tokens=5, prompt_lookup_num_tokens=2)
    assert exported.obstacle == "prompt_lookup_num_tokens is set"
    for name, value in (("use_cache", False), ("cache_implementation", "static")):
        ids = exported.generate(**cell.inputs, max_new_tokens=5, **{name: value})
        assert torch.equal(ids, model.generate(**cell.inputs, max_new_tokens=5, **{name: value}))
        assert exported.obstacle.startswith(name)
    model.generation_config = GenerationConfig(**{**model.generation_config.to_dict(), "num_beams": 2, "max_length": 9})
    assert torch.equal(exported.generate(**cell.inputs), model.generate(**cell.inputs))
    with torch.no_grad():
        model.decoder.language_model.transformer.wte.weight.mul_(-1.0)
    changed = model.generate(**cell.inputs, max_new_tokens=5)
    assert torch.equal(exported.generate(**cell.inputs, max_new_tokens=5), changed)
    assert "weights were changed" in exported.obstacle


def test_half_precision_is_refused(tmp_path):
    with pytest.raises(ValueError, match='only float32 can be, and it is in bfloat16; open it with dtype="float32"'):
        write_onnx(Cell("bert", "gpt2", None).build().bfloat16(), tmp_path, None)


@pytest.mark.parametrize("decoder", ["gpt2", pytest.param("llama", marks=pytest.mark.slow)])
def test_whole_numbers_are_near_and_a_row_does_not_depend_on_others(decoder, tmp_path):
    cell = Cell("bert", decoder, None)
    model = cell.build()
    write_onnx(model, tmp_path, "int8", lambda: build_examples(cell.inputs))
    exported = open_onnx_model(model, tmp_path)
    settings = {"max_new_tokens": 5, "min_new_tokens": 5, "output_logits": True, "return_dict_in_generate": True}
    given, wanted = (
        torch.stack(one.generate(**cell.inputs, **{**settings, "max_new_tokens": 1, "min_new_tokens": 1}).logits)
        for one in (exported, model)
    )
    assert 0.0 < (given - wanted).std() < 0.1 * wanted.std()
    together = exported.generate(**cell.inputs, **settings)
    for row in range(3):
        alone = exported.generate(**{name: value[[row]] for name, value in cell.inputs.items()}, **settings)
        torch.testing.assert_close(torch.stack(alone.logits)[:, 0], torch.stack(together.logits)[:, row])
    assert exported.obstacle is None


FOREIGN_CALLS = (
    {},
    {"batch_size": 3},
    {"num_beams": 3, "num_return_sequences": 2, "batch_size": 3, "return_scores": True},
    {"do_sample": True, "seed": 5, "batch_size": 2},
)


def test_a_missing_exporter_is_named_and_nothing_is_left(tmp_path, monkeypatch):
    build, parts, _ = MODELS["vision"]
    ConditionalGenerationPipeline(model=build().eval(), **parts).save_pretrained(tmp_path)
    before = sorted(tmp_path.iterdir())
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r'needs onnxscript.*pip install "hf_genext\[onnx\]"'):
        export_model(tmp_path, engine="onnx")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", [name if name == "vision" else pytest.param(name, marks=pytest.mark.slow) for name in MODELS])
def test_other_peoples_models_write_the_same_by_onnx(name, tmp_path):
    build, parts, inputs = MODELS[name]
    torch.manual_seed(0)
    model = sharpen(build().eval())
    model.generation_config.max_new_tokens = 6
    ConditionalGenerationPipeline(model=model, **parts).save_pretrained(tmp_path)
    facts = json.loads((export_model(tmp_path, engine="onnx") / "export.json").read_text(encoding="utf-8"))
    assert facts["encoder"] == "onnx"
    served, pipe = (pipeline("conditional-generation", model=str(tmp_path), engine=engine) for engine in ("onnx", "torch"))
    assert isinstance(served.engine_model, OnnxForwardModel)
    for call in FOREIGN_CALLS:
        assert served(inputs, **call) == pipe(inputs, **call), call
    assert served.engine_model.obstacle is None


def test_a_speech_model_without_a_mask_is_pytorchs(tmp_path):
    build, parts, _ = MODELS["speech"]
    torch.manual_seed(0)
    pipe = ConditionalGenerationPipeline(model=sharpen(build().eval()), **parts)
    write_onnx(pipe.model, tmp_path, None, functools.partial(build_made_up_examples, pipe))
    exported = open_onnx_model(pipe.model, tmp_path)
    waves = torch.randn(2, 900)
    wanted = pipe.model.generate(input_values=waves, max_new_tokens=6)
    assert torch.equal(exported.generate(input_values=waves, max_new_tokens=6), wanted)
    masks = {"attention_mask": (torch.arange(900) < torch.tensor([[900], [500]])).long()}
    wanted = pipe.model.generate(input_values=waves, **masks, max_new_tokens=6)
    exported.obstacle = None
    assert torch.equal(exported.generate(input_values=waves, **masks, max_new_tokens=6), wanted)
    assert exported.obstacle is None

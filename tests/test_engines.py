"""Exported models: the same outputs as PyTorch's, and exports that do not fit are refused."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from composition_specimens import build_bert
from peft import LoraConfig
from specimens import PHONEMES, WORDS, build_native_model, build_processor, sharpen
from test_fast_decoding import SETTINGS, build_batch, build_model
from transformers import (
    pipeline,
)
from transformers.utils import logging as transformers_logging

from hf_genext import (
    ConditionalGenerationPipeline,
    GenextConfig,
    GenextDecoderConfig,
    GenextForConditionalGeneration,
)
from hf_genext.engines.ctranslate2_engines import CTranslate2Model
from hf_genext.engines.ctranslate2_exports_engines import write_ctranslate2
from hf_genext.engines.models_engines import EngineModel
from hf_genext.engines.onnx_engines import OnnxModel
from hf_genext.engines.onnx_exports_engines import write_onnx
from hf_genext.export import export_model, main
from hf_genext.genext.stepping_genext import GenextStepper

pytest.importorskip("onnxruntime", reason="needs the extra: pip install 'hf_genext[onnx]'")
ctranslate2 = pytest.importorskip("ctranslate2", reason="needs the extra: pip install 'hf_genext[ctranslate2]'")

TASK = "conditional-generation"
CALLS = {
    "greedy": {},
    "a batch": {"batch_size": 3},
    "beams": {"num_beams": 3, "num_return_sequences": 2, "batch_size": 3},
    "scores": {"return_scores": True, "batch_size": 8},
    "scores of beams": {"return_scores": True, "num_beams": 2},
    "alignments": {"return_alignments": True, "batch_size": 3},
    "seeds": {"do_sample": True, "seed": 5, "num_return_sequences": 2, "batch_size": 3},
    "a prefix": {"target_prefix": "V AY", "return_scores": True, "batch_size": 8},
    "banned": {"banned_words": ["IH"], "num_beams": 2},
    "allowed": {"allowed_outputs": PHONEMES, "batch_size": 8, "return_scores": True},
    "allowed beams": {"allowed_outputs": PHONEMES, "num_beams": 2, "batch_size": 3},
    "penalties": {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "encoder_no_repeat_ngram_size": 2},
}
BY_CTRANSLATE2 = ("greedy", "a batch", "beams", "scores", "scores of beams", "alignments", "a prefix", "banned")


def build_trained_pipeline(*, use_qk_norm: bool) -> ConditionalGenerationPipeline:
    """A model that has learned how eight words are pronounced."""
    processor = build_processor()
    model = build_native_model(processor, tie_word_embeddings=True)
    config = model.config
    config.decoder.use_qk_norm = config.conditioner.use_qk_norm = use_qk_norm
    config.initializer_range = None
    torch.manual_seed(3)
    model = GenextForConditionalGeneration(config)
    batch = processor(text=WORDS, text_target=PHONEMES, padding=True, return_tensors="pt")
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(140):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval().generation_config.max_new_tokens = 9
    return ConditionalGenerationPipeline(model=model, processor=processor, tokenizer=processor.tokenizer)


@pytest.fixture(scope="module")
def onnx_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("onnx") / "model"
    build_trained_pipeline(use_qk_norm=True).save_pretrained(folder)
    for quantization in (None, "int8"):
        export_model(folder, engine="onnx", quantization=quantization, samples=WORDS)
    return folder


@pytest.fixture(scope="module")
def ctranslate2_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ctranslate2") / "model"
    build_trained_pipeline(use_qk_norm=False).save_pretrained(folder)
    for quantization in (None, "int8"):
        export_model(folder, engine="ctranslate2", quantization=quantization, samples=WORDS)
    return folder


def open_pipeline(folder: Path, **arguments) -> ConditionalGenerationPipeline:
    return pipeline(TASK, model=str(folder), **arguments)


def test_a_trained_model_answers_the_same_by_every_engine(onnx_folder, ctranslate2_folder):
    for folder, engine in ((onnx_folder, "onnx"), (ctranslate2_folder, "ctranslate2")):
        for quantization in (None, "int8"):
            pipe = open_pipeline(folder, engine=engine, quantization=quantization)
            assert [answer[0]["generated_text"] for answer in pipe(WORDS, batch_size=3)] == PHONEMES
            assert pipe.engine_model.engine == engine and pipe.engine_model.obstacle is None


def assert_equal_answers(given, wanted):
    """The same texts, and scores to 1e-4."""
    assert len(given) == len(wanted)
    for row, wanted_row in zip(given, wanted, strict=True):
        assert [answer["generated_text"] for answer in row] == [answer["generated_text"] for answer in wanted_row]
        for answer, wanted_answer in zip(row, wanted_row, strict=True):
            assert answer.keys() == wanted_answer.keys()
            assert answer.get("token_scores", []) == pytest.approx(wanted_answer.get("token_scores", []), abs=1e-4)
            assert answer.get("alignment") == wanted_answer.get("alignment")


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_onnx_answers_as_pytorch_does_whatever_is_asked(onnx_folder, call, monkeypatch):
    wanted = open_pipeline(onnx_folder, engine="torch")(WORDS, **call)
    pipe = open_pipeline(onnx_folder, engine="onnx")

    def refuse(self, tokens):
        raise AssertionError("PyTorch took a step")

    monkeypatch.setattr(GenextStepper, "step", refuse)
    assert_equal_answers(pipe(WORDS, **call), wanted)
    assert pipe.engine_model.obstacle is None
    if "allowed_outputs" in call:
        assert {answer[0]["generated_text"] for answer in pipe(WORDS, **call)} <= set(PHONEMES)


def test_onnx_streams(onnx_folder):
    pipe = open_pipeline(onnx_folder, engine="onnx")
    texts = [answer["generated_text"] for answer in pipe.stream("violin")]
    assert texts[:3] == ["V", "V AY", "V AY AH"] and texts[-1] == PHONEMES[1]
    assert pipe.engine_model.obstacle is None


@pytest.mark.parametrize("name", CALLS)
def test_ctranslate2_answers_as_pytorch_does_or_lets_it_answer(ctranslate2_folder, name):
    wanted = open_pipeline(ctranslate2_folder, engine="torch")(WORDS, **CALLS[name])
    # By "auto" what might be another answer is left to PyTorch, which is the search with beams.
    for engine in ("ctranslate2", "auto"):
        pipe = open_pipeline(ctranslate2_folder, engine=engine)
        has_beams = "num_beams" in CALLS[name]
        answers = pipe(WORDS, **CALLS[name])
        if not has_beams or engine == "auto":
            assert_equal_answers(answers, wanted)
        runs_it = name in BY_CTRANSLATE2 and not (has_beams and engine == "auto")
        assert (pipe.engine_model.obstacle is None) == runs_it


def test_beams_of_ctranslate2_are_its_own(ctranslate2_folder):
    pipe = open_pipeline(ctranslate2_folder, engine="ctranslate2")
    bare = ctranslate2.Translator(str(ctranslate2_folder / "ctranslate2"))
    answers = pipe(WORDS, num_beams=4, num_return_sequences=3, batch_size=8)
    for word, row in zip(WORDS, answers, strict=True):
        ids = map(str, pipe.tokenizer(word)["input_ids"])
        result = bare.translate_batch([list(ids)], beam_size=4, num_hypotheses=3, max_decoding_length=9, min_decoding_length=0)
        texts = [pipe.target_tokenizer.decode(list(map(int, tokens))) for tokens in result[0].hypotheses]
        assert [answer["generated_text"] for answer in row] == texts


def test_guidance_and_both_directions_go_by_onnx(tmp_path, monkeypatch):
    processor = build_processor()
    text, decoder = (
        build_bert(),
        GenextDecoderConfig(vocab_size=len(processor.target_tokenizer), hidden_size=32, num_attention_heads=2),
    )
    text.vocab_size = len(processor.tokenizer)
    model = GenextForConditionalGeneration.from_encoder_decoder_pretrained(text, decoder, condition_dropout=0.1)
    sharpen(model).config.reversed_start_token_id = processor.target_tokenizer.unk_token_id
    model.generation_config.max_new_tokens = 6
    pipe = pipeline(TASK, model=model, processor=processor)
    export_model(pipe, tmp_path)
    fast = open_pipeline(tmp_path)
    calls = ({"guidance_scale": 3.0, "num_beams": 2}, {"rerank": True, "num_beams": 3, "batch_size": 8})
    wanted = [pipe(WORDS, **call) for call in calls]
    monkeypatch.setattr(GenextStepper, "step", None)
    assert [fast(WORDS, **call) for call in calls] == wanted
    assert fast.engine_model.obstacle is None


FEW_SETTINGS = ("greedy to the end of the room", "least length", "of the source", "beams, long", "beams without an end")


def assert_equal_to_generate(model, folder, settings):
    write_onnx(model, folder, None)
    exported = OnnxModel(model, folder)
    batch = build_batch(7)
    for name in settings:
        arguments = {**batch, **SETTINGS[name]}
        assert torch.equal(exported.generate(**arguments), model.generate(**arguments)), name
        assert exported.obstacle is None, name


@pytest.mark.parametrize("bottleneck", ["none", "pooled"])
def test_onnx_gives_the_tokens_of_generate(tmp_path, bottleneck):
    assert_equal_to_generate(build_model(bottleneck), tmp_path, FEW_SETTINGS)


@pytest.mark.slow
@pytest.mark.parametrize("model", [{"tie": False}, {"qk_norm": False}, {"bottleneck": "pooled", "seed": 4}], ids=str)
def test_onnx_gives_the_tokens_of_generate_whatever_the_model(tmp_path, model):
    assert_equal_to_generate(build_model(**model), tmp_path, SETTINGS)


@pytest.mark.parametrize("activation", ["gelu", "gelu_pytorch_tanh", "relu"])
def test_activations_and_scaled_rotary_positions_are_exported(tmp_path, activation):
    config = build_model().config
    for part in (config.conditioner, config.decoder):
        part.hidden_act = activation
        part.rope_parameters = {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}
    model = sharpen(GenextForConditionalGeneration(config))
    assert_equal_to_generate(model, tmp_path, ["greedy, several ends"])


def test_an_encoder_that_is_not_exported_stays_in_pytorch(tmp_path):
    config = GenextConfig(
        conditioner={"model_type": "genext_vector_conditioner", "vector_size": 6, "hidden_size": 24, "num_states": 3},
        decoder={"vocab_size": 37, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
    )
    model = sharpen(GenextForConditionalGeneration(config))
    assert write_onnx(model, tmp_path, None) == {"encoder": "torch"}
    exported = OnnxModel(model, tmp_path)
    arguments = {"condition_vectors": torch.randn(4, 6), "max_new_tokens": 9, "num_beams": 3}
    assert torch.equal(exported.generate(**arguments), model.generate(**arguments))
    assert exported.obstacle is None
    with pytest.raises(ValueError, match="not a text that is encoded from scratch"):
        write_ctranslate2(model, tmp_path, None)


def test_the_agreement_of_int8_is_measured_and_stored(onnx_folder, ctranslate2_folder):
    for folder in (onnx_folder / "onnx-int8", ctranslate2_folder / "ctranslate2-int8"):
        agreement = json.loads((folder / "export.json").read_text(encoding="utf-8"))["agreement"]
        assert agreement == {"samples": len(WORDS), "equal_outputs": 1.0, "equal_tokens": 1.0}
    # Random weights have close calls, and int8 gets some of them wrong.
    processor = build_processor()
    model = build_native_model(processor, tie_word_embeddings=False)
    model.generation_config.max_new_tokens = 9
    folder = onnx_folder.parent / "random"
    ConditionalGenerationPipeline(model=model, processor=processor, tokenizer=processor.tokenizer).save_pretrained(folder)
    agreement = json.loads((export_model(folder, quantization="int8", samples=WORDS) / "export.json").read_text())["agreement"]
    exact, rounded = (
        [pipe.engine_model.generate(**pipe.processor(text=word, return_tensors="pt"))[0, 1:].tolist() for word in WORDS]
        for pipe in (open_pipeline(folder, engine="torch"), open_pipeline(folder, engine="onnx", quantization="int8"))
    )
    equal = [sum(map(int.__eq__, *pair)) for pair in zip(exact, rounded, strict=True)]
    longest = [max(map(len, pair)) for pair in zip(exact, rounded, strict=True)]
    assert agreement["equal_tokens"] == pytest.approx(sum(equal) / sum(longest))
    assert agreement["equal_outputs"] == pytest.approx(sum(map(int.__eq__, equal, longest)) / len(WORDS))
    assert 0 < agreement["equal_tokens"] < 1


def read_messages(caplog, call):
    """What is logged by a call."""
    transformers_logging.enable_propagation()
    try:
        with caplog.at_level(logging.WARNING):
            call()
    finally:
        transformers_logging.disable_propagation()
    return [record.getMessage() for record in caplog.records if record.name.startswith("hf_genext")]


def test_what_an_engine_cannot_do_pytorch_does_and_says_so_once(onnx_folder, caplog):
    call = {"do_sample": True, "num_beams": 2}
    pipe = open_pipeline(onnx_folder, engine="onnx")
    torch.manual_seed(2)
    wanted = open_pipeline(onnx_folder, engine="torch")(WORDS, **call)
    torch.manual_seed(2)
    transformers_logging.warning_once.cache_clear()
    messages = read_messages(caplog, lambda: [pipe("cat", **call) for _ in range(3)])
    assert messages == ["ONNX Runtime cannot run such a call, because beams are to be sampled; PyTorch runs it."]
    torch.manual_seed(2)
    assert pipe(WORDS, **call) == wanted


def copy_folder(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target


def test_an_export_of_other_weights_is_refused_with_the_command_that_mends_it(onnx_folder, tmp_path, caplog):
    folder = copy_folder(onnx_folder, tmp_path / "model")
    pipe = open_pipeline(folder, engine="torch")
    with torch.no_grad():
        pipe.model.decoder.norm.weight[3] += 1e-3
    pipe.model.save_pretrained(folder)
    command = rf"python -m hf_genext.export {folder} --engine onnx --quantization int8"
    with pytest.raises(ValueError, match=rf"of other weights or another configuration than the model has.*{command}"):
        open_pipeline(folder, engine="onnx", quantization="int8")
    # Nobody asked for an engine: PyTorch serves, and says why.
    transformers_logging.warning_once.cache_clear()
    opened = []
    messages = read_messages(caplog, lambda: opened.append(open_pipeline(folder)))
    assert len(messages) == 1 and "PyTorch runs this model" in messages[0] and "other weights" in messages[0]
    assert not isinstance(opened[0].engine_model, EngineModel)
    main([str(folder), "--engine", "onnx"])
    assert isinstance(open_pipeline(folder).engine_model, OnnxModel)


def test_an_export_of_another_configuration_is_refused(onnx_folder, tmp_path):
    folder = copy_folder(onnx_folder, tmp_path / "model")
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["decoder"]["rms_norm_eps"] = 1e-2
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ValueError, match="another configuration than the model has"):
        open_pipeline(folder, engine="onnx")
    # What is of training alone may differ.
    config["decoder"]["rms_norm_eps"], config["decoder"]["token_dropout"] = 1e-6, 0.3
    path.write_text(json.dumps(config), encoding="utf-8")
    assert isinstance(open_pipeline(folder, engine="onnx").engine_model, OnnxModel)


@pytest.mark.parametrize("harm", ["cut export.json", "no decoder.onnx", "cut decoder.onnx"])
def test_a_broken_export_leaves_the_model_to_pytorch(onnx_folder, tmp_path, harm):
    folder = copy_folder(onnx_folder, tmp_path / "model")
    path = folder / "onnx" / harm.split()[1]
    if harm.startswith("no"):
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"rite (it|the export) again"):
        open_pipeline(folder, engine="onnx")
    pipe = open_pipeline(folder)
    assert not isinstance(pipe.engine_model, OnnxModel)
    assert pipe("cat") == open_pipeline(folder, engine="torch")("cat")


def test_half_precision_stays_with_pytorch_unless_an_engine_is_named(onnx_folder):
    """Engines compute in float32, whose answers may be others."""
    assert not isinstance(open_pipeline(onnx_folder, dtype="bfloat16").engine_model, EngineModel)
    with pytest.raises(ValueError, match="is of weights in float32, and the model is opened in bfloat16"):
        open_pipeline(onnx_folder, dtype="bfloat16", engine="onnx")


def test_ctranslate2_leaves_other_start_tokens_to_pytorch(ctranslate2_folder):
    pipe, peer = (open_pipeline(ctranslate2_folder, engine=engine) for engine in ("ctranslate2", "torch"))
    assert pipe(WORDS, decoder_start_token_id=7) == peer(WORDS, decoder_start_token_id=7)


def test_ctranslate2_cuts_batches_of_int8_into_parts_and_answers_the_same(ctranslate2_folder):
    pipe = open_pipeline(ctranslate2_folder, engine="ctranslate2", quantization="int8")
    engine, inputs = pipe.engine_model, pipe.processor(text=WORDS, padding=True, return_tensors="pt")
    whole = engine.generate(**inputs)
    for engine._tokens_of_part in (1, 7, 20):
        assert torch.equal(engine.generate(**inputs), whole)
    # Nothing but padding is no part at all.
    nothing = {"input_ids": torch.zeros(2, 3, dtype=torch.long), "attention_mask": torch.zeros(2, 3, dtype=torch.long)}
    assert engine.generate(**nothing).shape[0] == 2
    assert open_pipeline(ctranslate2_folder, engine="ctranslate2").engine_model._tokens_of_part == 0


def test_a_generate_of_somebodys_own_is_asked_by_onnx_too(onnx_folder):
    engine = open_pipeline(onnx_folder, engine="onnx").engine_model
    inputs = {"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    expected = [engine.generate(**inputs) for _ in range(3)]
    assert all(torch.equal(ids, expected[0]) and not ids.is_inference() for ids in expected)
    asked, own = [], engine.torch_model.generate
    engine.torch_model.generate = lambda *args, **kwargs: asked.append(1) or own(*args, **kwargs)
    for calls in (1, 2, 3):
        assert torch.equal(engine.generate(**inputs), expected[0])
        assert len(asked) == calls


def test_a_row_by_int8_does_not_depend_on_its_batch(tmp_path):
    model = build_model(seed=5)
    # Rows of one length, so that nothing is masked; one of them has far larger states, whose scale the others must not take.
    ids = build_batch(9)["input_ids"].clamp(min=4)
    with torch.no_grad():
        model.encoder.conditioner.embed_tokens.weight[ids[3, 0]] *= 50
    write_onnx(model, tmp_path, "int8")
    exported = OnnxModel(model, tmp_path)
    tokens = torch.randint(4, 37, (9, 6), generator=torch.Generator().manual_seed(1))

    def run(rows):
        memory = exported.encode_conditions({"input_ids": ids[rows], "attention_mask": torch.ones_like(ids[rows])})
        stepper = exported.start_steps(memory)
        return memory.last_hidden_state, torch.stack([stepper.step(column).clone() for column in tokens[rows].t()], dim=1)

    memory, logits = run(slice(0, 9))
    for row in range(9):
        for given, wanted in zip(run(slice(row, row + 1)), (memory, logits), strict=True):
            torch.testing.assert_close(given[0], wanted[row], atol=1e-5, rtol=1e-5)
    exact = model.encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    assert not torch.allclose(memory, exact, atol=1e-3), "nothing was rounded; the specimen shows nothing"


def test_answers_by_int8_are_those_of_each_row_alone(onnx_folder):
    pipe = open_pipeline(onnx_folder, engine="onnx", quantization="int8")
    call = {"return_scores": True, "num_beams": 2, "num_return_sequences": 2}
    alone = [pipe(word, **call) for word in WORDS]
    for batch_size in (None, 3):
        assert_equal_answers(pipe(WORDS, batch_size=batch_size, **call), alone)
    assert pipe._choose_batch_size() == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "has the format 2, and this version knows those up to 1. Install a newer hf_genext"),
        ({"format_version": None}, "has the format None"),
        ({"dtype": "bfloat16"}, "is of weights in bfloat16, and the model is opened in float32"),
        ({"files": 3}, "does not say what an export says"),
        ({"files": ["../../model.onnx"]}, "does not say what an export says"),
    ],
)
def test_exports_that_are_not_understood_are_refused(onnx_folder, tmp_path, change, message):
    folder = copy_folder(onnx_folder, tmp_path / "model")
    path = folder / "onnx" / "export.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **change}), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        open_pipeline(folder, engine="onnx")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"engine": "tensorrt"}, "engine must be one of 'auto', 'torch', 'onnx', 'ctranslate2', got 'tensorrt'"),
        ({"engine": "onnx", "quantization": "int4"}, "quantization must be None or \"int8\", got 'int4'"),
        ({"engine": "torch", "quantization": "int8"}, 'is of exported models; take engine="onnx" or "ctranslate2"'),
        (
            {"engine": "ctranslate2"},
            r"no 'ctranslate2' export in .*Write it: python -m hf_genext.export .* --engine ct",
        ),
    ],
)
def test_what_there_is_not_is_named(onnx_folder, asked, message):
    with pytest.raises(ValueError, match=message):
        open_pipeline(onnx_folder, **asked)


def test_auto_takes_what_is_there(onnx_folder, ctranslate2_folder, tmp_path):
    assert isinstance(open_pipeline(onnx_folder).engine_model, OnnxModel)
    assert isinstance(open_pipeline(ctranslate2_folder).engine_model, CTranslate2Model)
    folder = copy_folder(onnx_folder, tmp_path / "model")
    for name in ("onnx", "onnx-int8"):
        shutil.rmtree(folder / name)
    pipe = open_pipeline(folder)
    assert pipe.engine_model is pipe.model
    with pytest.raises(ValueError, match="There is no int8 export of this model that can be used"):
        open_pipeline(folder, quantization="int8")


def test_a_missing_package_is_named_with_its_extra(onnx_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r'needs onnxruntime.*pip install "hf_genext\[onnx\]"'):
        open_pipeline(onnx_folder, engine="onnx")
    pipe = open_pipeline(onnx_folder)
    assert pipe.engine_model is pipe.model


def test_a_model_goes_to_another_folder_with_its_export(onnx_folder, tmp_path):
    pipe = open_pipeline(onnx_folder, engine="torch", allowed_outputs=PHONEMES[:4])
    out = tmp_path / "served"
    assert export_model(pipe, out) == out / "onnx"
    served = open_pipeline(out)
    assert isinstance(served.engine_model, OnnxModel) and served.allowed_outputs == PHONEMES[:4]
    assert served(WORDS) == pipe(WORDS)
    facts = json.loads((out / "onnx" / "export.json").read_text(encoding="utf-8"))
    assert facts["agreement"] is None and set(facts["versions"]) >= {"hf_genext", "torch", "onnxruntime"}
    assert sorted(path.name for path in out.iterdir() if path.name.startswith(".")) == []
    unsaved = ConditionalGenerationPipeline(
        model=build_native_model(pipe.processor, tie_word_embeddings=False), processor=pipe.processor
    )
    with pytest.raises(ValueError, match="is in no folder here, which the export could go into; give out="):
        export_model(unsaved)


def test_an_export_that_fails_leaves_the_one_that_was_there(onnx_folder, tmp_path):
    folder = copy_folder(onnx_folder, tmp_path / "model")
    with pytest.raises(ValueError, match="no samples"):
        export_model(folder, samples=[])
    with pytest.raises(ValueError, match="must have some content"):
        export_model(folder, samples=["cat", ""])
    assert isinstance(open_pipeline(folder, engine="onnx").engine_model, OnnxModel)
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in onnx_folder.iterdir())


def test_samples_may_be_a_file_and_the_command_says_what_is_wrong_in_one_line(onnx_folder, tmp_path, capsys):
    samples = tmp_path / "samples.txt"
    samples.write_text("\n".join([*WORDS[:3], ""]), encoding="utf-8")
    for given in (samples, str(samples)):
        target = export_model(onnx_folder, tmp_path / "out", samples=given)
        assert json.loads((target / "export.json").read_text())["agreement"]["samples"] == 3
    for words, message in (
        ([str(onnx_folder), "--samples", "lost.txt"], "error: There is no file of samples 'lost.txt' "),
        (["nofolder"], "error: There is no model 'nofolder', neither as a folder "),
    ):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert re.match(message, ended.value.code)


@pytest.mark.slow
def test_the_command_writes_an_export(onnx_folder, tmp_path):
    samples = tmp_path / "samples.txt"
    samples.write_text("\n".join([*WORDS[:3], ""]), encoding="utf-8")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "hf_genext.export", str(onnx_folder), str(out), "--quantization", "int8"]
    done = subprocess.run([*command, "--samples", str(samples)], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.splitlines() == [
        str(out / "onnx-int8"),
        '{"samples": 3, "equal_outputs": 1.0, "equal_tokens": 1.0}',
    ]


@pytest.mark.slow
def test_an_export_is_found_in_a_repository(onnx_folder, tmp_path):
    repository = tmp_path / "hub" / "models--me--g2p"
    revision = "a" * 40
    copy_folder(onnx_folder, repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    code = (
        "import hf_genext\nfrom transformers import AutoProcessor, pipeline\n"
        f"processor = AutoProcessor.from_pretrained({str(onnx_folder)!r})\n"
        f"pipe = pipeline({TASK!r}, model='me/g2p', processor=processor)\n"
        "print(type(pipe.engine_model).__name__, pipe('violin')[0]['generated_text'], sep=': ')"
    )
    home = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=home)
    assert done.stdout.strip() == f"OnnxModel: {PHONEMES[1]}"


def test_models_that_ctranslate2_cannot_run_exactly_are_refused(onnx_folder, tmp_path):
    with pytest.raises(ValueError, match=r'normalises the queries.*use_qk_norm with 2 heads.*engine="onnx"'):
        export_model(onnx_folder, engine="ctranslate2")
    assert not (onnx_folder / "ctranslate2").exists()


@pytest.mark.parametrize("engine", ["onnx", "ctranslate2"])
@pytest.mark.parametrize("change", ["training", "adapter"])
def test_a_model_that_is_changed_after_its_export_was_opened_answers_by_pytorch(
    onnx_folder, ctranslate2_folder, engine, change
):
    pipe = open_pipeline(onnx_folder if engine == "onnx" else ctranslate2_folder, engine=engine)
    before = pipe(WORDS)
    assert pipe.engine_model.obstacle is None
    if change == "training":
        optimizer = torch.optim.SGD(pipe.model.parameters(), lr=0.5)
        pipe.model(**pipe.processor(text=WORDS, text_target=PHONEMES[::-1], padding=True, return_tensors="pt")).loss.backward()
        optimizer.step()
    else:
        layers = [name for name, _ in pipe.model.decoder.named_modules() if name.endswith("_proj")]
        pipe.model.add_adapter(LoraConfig(target_modules=layers, lora_alpha=200, init_lora_weights=False))
    texts = [
        pipe.processor.batch_decode(
            pipe.model.generate(**pipe.processor(text=word, return_tensors="pt")), skip_special_tokens=True
        )
        for word in WORDS
    ]
    assert [[answer["generated_text"] for answer in answers] for answers in pipe(WORDS)] == texts
    assert pipe(WORDS) != before
    assert "weights were changed since" in pipe.engine_model.obstacle


@pytest.mark.parametrize("engine", ["onnx", "ctranslate2"])
def test_a_model_with_an_adapter_is_refused(ctranslate2_folder, tmp_path, engine):
    """An export would be of the weights without it."""
    pipe = open_pipeline(ctranslate2_folder, engine="torch")
    layers = [name for name, _ in pipe.model.encoder.named_modules() if name.endswith("_proj")]
    pipe.model.add_adapter(LoraConfig(target_modules=layers, lora_alpha=200, init_lora_weights=False))
    assert pipe(WORDS) != open_pipeline(ctranslate2_folder)(WORDS)
    with pytest.raises(ValueError, match=r"has an adapter, .* Merge it first"):
        export_model(pipe, tmp_path / "out", engine=engine)
    pipe.model.save_pretrained(tmp_path / "adapter")
    before = sorted(ctranslate2_folder.rglob("*"))
    with pytest.raises(ValueError, match=r"has an adapter, .* Merge it first"):
        export_model(tmp_path / "adapter", engine=engine)
    assert sorted(ctranslate2_folder.rglob("*")) == before

"""The contract of every registered class, as a list of checks. A new class gets them by having a specimen.

Each check takes a specimen and raises AssertionError where the contract does not hold.
"""

from __future__ import annotations

import copy
import functools
import json
import logging
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors import safe_open
from specimens import ModelSpecimen, PipelineSpecimen
from transformers import AutoConfig, AutoProcessor, PreTrainedConfig, PreTrainedModel, ProcessorMixin, pipeline
from transformers.utils import ModelOutput

TOLERANCE = 1e-5

_IMPORT_TWICE = """
import json, sys
import hf_genext
for name in [name for name in sys.modules if name.startswith("hf_genext")]:
    del sys.modules[name]
first = hf_genext
import hf_genext
assert hf_genext is not first
hf_genext.auto.register()
from transformers import AutoConfig
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.pipelines import PIPELINE_REGISTRY
auto = hf_genext.auto
opened = [(kind, type(AutoConfig.for_model(kind.model_type))) for kind in auto.CONFIGS]
opened += [(kind, door._model_mapping[config]) for door, config, kind in auto.MODELS]
opened += [(kind, PROCESSOR_MAPPING[config]) for config, kind in auto.PROCESSORS]
opened += [(kind, PIPELINE_REGISTRY.supported_tasks[task]["impl"]) for task, kind, _ in auto.PIPELINES]
print(json.dumps([kind.__name__ for kind, found in opened if found is kind]))
"""


def assert_near(actual: torch.Tensor, expected: torch.Tensor, message: str = "") -> None:
    """Equal but for float32 rounding: to 1e-5 of the largest number."""
    difference = (actual - expected).abs().max().item()
    assert difference <= TOLERANCE * max(1.0, expected.abs().max().item()), f"{message} differ by {difference:.2e}"


@functools.cache
def list_classes_after_importing_twice() -> list[str]:
    """Of the classes of a process that imported the package, and then anew, those that their doors open."""
    done = subprocess.run([sys.executable, "-c", _IMPORT_TWICE], capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def check_double_import_is_harmless(registered: type) -> None:
    """Imported a second time, the package registers its classes anew: each door opens the class of today."""
    assert registered.__name__ in list_classes_after_importing_twice()


REGISTRATION_CHECKS = [check_double_import_is_harmless]


def run(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The model's main output."""
    with torch.no_grad():
        return get_main_output(model(**inputs))


def get_main_output(outputs: ModelOutput) -> torch.Tensor:
    """Logits, a pooled vector, or states."""
    return next(outputs[name] for name in ("logits", "pooler_output", "last_hidden_state") if outputs.get(name) is not None)


def compute_loss(specimen: ModelSpecimen, outputs: ModelOutput) -> torch.Tensor:
    """The model's own loss; without labels squares of its output, and what an encoder adds to a loss."""
    if "labels" in specimen.inputs:
        return outputs.loss
    output = get_main_output(outputs)
    # Of different weight: all together the squares of a normalised vector are 1, whatever the parameters.
    weights = torch.linspace(1.0, 3.0, output.numel()).view_as(output)
    return (weights * output.square()).mean() + sum(part.mean() for part in (outputs.get("losses") or {}).values())


def pad_left(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Move each row's padding from the right to the left."""
    moved = {name: tensor.clone() for name, tensor in inputs.items()}
    for row, length in enumerate(inputs["attention_mask"].sum(dim=1).tolist()):
        for name in ("input_ids", "attention_mask"):
            moved[name][row] = torch.roll(inputs[name][row], inputs[name].shape[1] - length)
    return moved


def check_save_and_load_are_equal(specimen: ModelSpecimen) -> None:
    """A saved and opened model gives the same numbers, and its folder the same configuration."""
    model = specimen.build()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        opened = type(model).from_pretrained(folder)
        assert opened.config.to_dict().keys() == model.config.to_dict().keys()
        torch.testing.assert_close(run(opened, specimen.inputs), run(model, specimen.inputs), atol=0, rtol=0)
        weights = opened.state_dict()
        for name, tensor in model.state_dict().items():
            torch.testing.assert_close(weights[name], tensor, atol=0, rtol=0)


def check_weights_are_safetensors_and_tied_ones_saved_once(specimen: ModelSpecimen) -> None:
    """The folder holds safetensors only, and a tied weight under one name."""
    model = specimen.build()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        assert {path.suffix for path in Path(folder).iterdir()} <= {".json", ".safetensors"}
        with safe_open(Path(folder) / "model.safetensors", "pt") as file:
            saved = set(file.keys())
    distinct = {tensor.data_ptr() for tensor in model.state_dict().values()}
    assert len(saved) == len(distinct), "a tied weight is saved twice, or one is lost"


def check_runs_are_deterministic(specimen: ModelSpecimen) -> None:
    """In evaluation mode the same input gives the same numbers."""
    model = specimen.build()
    torch.testing.assert_close(run(model, specimen.inputs), run(model, specimen.inputs), atol=0, rtol=0)


def check_every_parameter_is_initialised(specimen: ModelSpecimen) -> None:
    """`init_weights` reaches every parameter, so that a weight absent from a checkpoint never holds garbage."""
    model = specimen.build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    for module in model.modules():
        module.__dict__.pop("_is_hf_initialized", None)
    for parameter in model.parameters():
        parameter.__dict__.pop("_is_hf_initialized", None)
    model.initialize_weights()
    untouched = [name for name, parameter in model.named_parameters() if parameter.isnan().any()]
    assert not untouched, untouched
    buffers = [name for name, buffer in model.named_buffers() if not buffer.isfinite().all()]
    assert not buffers, buffers


def check_every_parameter_is_trained(specimen: ModelSpecimen) -> None:
    """Two steps change every parameter."""
    model = specimen.build().train()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        outputs = model(**specimen.inputs)
        compute_loss(specimen, outputs).backward()
        optimizer.step()
        optimizer.zero_grad()
    still = [name for name, parameter in model.named_parameters() if torch.equal(before[name], parameter)]
    assert not still, still


def check_alone_is_as_in_a_batch(specimen: ModelSpecimen) -> None:
    """A row gives the same alone, without padding, as in a padded batch."""
    model = specimen.build()
    together = run(model, specimen.inputs)
    for row, length in enumerate(specimen.inputs["attention_mask"].sum(dim=1).tolist()):
        alone = {name: tensor[row : row + 1] for name, tensor in specimen.inputs.items()}
        alone["input_ids"] = alone["input_ids"][:, :length]
        alone["attention_mask"] = alone["attention_mask"][:, :length]
        if specimen.is_as_long_as_input and "labels" in alone:
            alone["labels"] = alone["labels"][:, :length]
        kept = together[row, :length] if specimen.is_as_long_as_input else together[row]
        assert_near(kept, run(model, alone)[0])


def check_padding_is_ignored_on_either_side(specimen: ModelSpecimen) -> None:
    """Padding may stand left or right, and hold any token."""
    model = specimen.build()
    expected = run(model, specimen.inputs)
    other = {name: tensor.clone() for name, tensor in specimen.inputs.items()}
    other["input_ids"][specimen.inputs["attention_mask"] == 0] = 9
    left = pad_left(specimen.inputs)
    for row, length in enumerate(specimen.inputs["attention_mask"].sum(dim=1).tolist()):
        if specimen.is_as_long_as_input:
            assert_near(run(model, other)[row, :length], expected[row, :length])
            assert_near(run(model, left)[row, -length:], expected[row, :length])
        else:
            assert_near(run(model, other)[row], expected[row])
            assert_near(run(model, left)[row], expected[row])


def check_bfloat16_is_close(specimen: ModelSpecimen) -> None:
    """In bfloat16 the numbers stay finite and near those of float32."""
    model = specimen.build()
    expected = run(model, specimen.inputs)
    half = run(copy.deepcopy(model).to(torch.bfloat16), specimen.inputs)
    assert half.dtype == (torch.bfloat16 if expected.is_floating_point() else expected.dtype)
    assert (half.float() - expected).abs().mean() < 0.05 * expected.float().abs().mean() + 0.02


def check_attention_implementations_agree(specimen: ModelSpecimen) -> None:
    """Eager, SDPA and flex attention give the same numbers and, but for flex on a CPU, the same gradients."""
    if not specimen.attends:
        return
    outputs, gradients = {}, {}
    for implementation in ("eager", "sdpa", "flex_attention"):
        model = specimen.build()
        model.set_attn_implementation(implementation)
        outputs[implementation] = run(model, specimen.inputs)
        if implementation != "flex_attention" or torch.cuda.is_available():
            result = model(**specimen.inputs)
            compute_loss(specimen, result).backward()
            gradients[implementation] = {name: p.grad for name, p in model.named_parameters()}
    mask = specimen.inputs["attention_mask"].bool()
    for implementation, output in outputs.items():
        expected = outputs["eager"]
        if specimen.is_as_long_as_input:
            output, expected = output[mask], expected[mask]
        assert_near(output, expected, implementation)
    if not specimen.is_as_long_as_input:
        for name, gradient in gradients["sdpa"].items():
            assert_near(gradient, gradients["eager"][name], name)


def check_activation_checkpointing_keeps_gradients(specimen: ModelSpecimen) -> None:
    """Recomputing activations changes no gradient."""
    if not specimen.attends:
        return
    gradients = []
    for checkpointing in (False, True):
        model = specimen.build().train()
        if checkpointing:
            # Its name before Transformers 5.23 is the second one.
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
            assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
        torch.manual_seed(6)  # Latent numbers are drawn in training.
        result = model(**specimen.inputs)
        compute_loss(specimen, result).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed, atol=1e-6, rtol=1e-5)


def check_cached_generation_is_as_uncached(specimen: ModelSpecimen) -> None:
    """Dynamic, static and no cache generate the same tokens, greedily and with beams."""
    model = specimen.build()
    if not model.can_generate():
        return
    inputs = {name: tensor for name, tensor in specimen.inputs.items() if name != "labels"}
    for arguments in ({}, {"num_beams": 3, "num_return_sequences": 2}):
        outputs = [
            model.generate(**inputs, max_new_tokens=9, min_new_tokens=5, **arguments, **cache)
            for cache in ({}, {"use_cache": False}, {"cache_implementation": "static"})
        ]
        assert len(outputs[0].unique()) > 3, "the specimen generates one token only; the check would be empty"
        assert torch.equal(outputs[0], outputs[1]), (arguments, "no cache")
        assert torch.equal(outputs[0], outputs[2]), (arguments, "static cache")


def check_generation_alone_is_as_in_a_batch(specimen: ModelSpecimen) -> None:
    """A row generates the same tokens alone as in a padded batch, with padding on either side."""
    model = specimen.build()
    if not model.can_generate():
        return
    inputs = {name: tensor for name, tensor in specimen.inputs.items() if name != "labels"}
    together = model.generate(**inputs, max_new_tokens=8, min_new_tokens=8)
    assert torch.equal(model.generate(**pad_left(inputs), max_new_tokens=8, min_new_tokens=8), together)
    for row, length in enumerate(inputs["attention_mask"].sum(dim=1).tolist()):
        alone = model.generate(input_ids=inputs["input_ids"][row : row + 1, :length], max_new_tokens=8, min_new_tokens=8)
        assert torch.equal(alone[0], together[row])


def check_output_depends_on_the_condition(specimen: ModelSpecimen) -> None:
    """Another condition gives other numbers."""
    model = specimen.build()
    changed = {name: tensor.clone() for name, tensor in specimen.inputs.items()}
    changed["input_ids"][:, 0] = (changed["input_ids"][:, 0] + 5) % 31
    assert (run(model, changed) - run(model, specimen.inputs)).abs().max() > 1e-3


def check_hidden_states_and_attentions_are_given(specimen: ModelSpecimen) -> None:
    """On request every layer's states and weights are in the output, and weights sum to one over what is real."""
    if not specimen.attends:
        return
    model = specimen.build()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        outputs = model(**specimen.inputs, output_hidden_states=True, output_attentions=True)
    prefix = "encoder_" if model.can_generate() else ""
    layers = model.config.conditioner.num_hidden_layers
    assert len(outputs[f"{prefix}hidden_states"]) == layers + 1
    assert len(outputs[f"{prefix}attentions"]) == layers
    if model.can_generate():
        assert len(outputs.decoder_hidden_states) == model.config.decoder.num_hidden_layers + 1
        assert len(outputs.decoder_attentions) == len(outputs.cross_attentions) == model.config.decoder.num_hidden_layers
        weights = outputs.cross_attentions[0]
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights.sum(-1)))
        if model.config.bottleneck.kind == "none":
            hidden = (specimen.inputs["attention_mask"] == 0)[:, None, None].expand_as(weights)
            assert weights[hidden].abs().max() == 0, "the decoder attends to padding"


def check_embeddings_resize(specimen: ModelSpecimen) -> None:
    """Either vocabulary grows and shrinks; old tokens keep their numbers, and the change survives saving."""
    model = specimen.build()
    if not model.can_generate():
        return
    before = run(model, specimen.inputs)
    model.resize_token_embeddings(41)
    model.resize_token_embeddings(33, side="source")
    assert model.config.vocab_size == 41 and model.config.conditioner.vocab_size == 33
    after = run(model, specimen.inputs)
    assert after.shape[-1] == 41
    assert_near(after[..., :37], before)
    tied = model.get_output_embeddings().weight is model.decoder.get_input_embeddings().weight
    assert tied == model.config.tie_word_embeddings
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        opened = type(model).from_pretrained(folder)
    torch.testing.assert_close(run(opened, specimen.inputs), after, atol=0, rtol=0)


def check_newer_format_is_refused(specimen: ModelSpecimen) -> None:
    """A folder of a later format is refused, and the error says what to upgrade."""
    with tempfile.TemporaryDirectory() as folder:
        specimen.build().save_pretrained(folder)
        path = Path(folder) / "config.json"
        config = json.loads(path.read_text())
        assert config["format_version"] >= 1
        config["format_version"] += 1
        path.write_text(json.dumps(config))
        try:
            type(specimen.build()).from_pretrained(folder)
        except ValueError as error:
            assert "pip install --upgrade hf_genext" in str(error)
        else:
            raise AssertionError("a newer format was opened")


def check_missing_weights_are_refused(specimen: ModelSpecimen) -> None:
    """A folder without one of the weights is refused, never filled up at random."""
    model = specimen.build()
    state = model.state_dict()
    lost = next(iter(state))
    if len(state) == 1:
        return  # Without its only weight it is no model folder at all, and Transformers says so.
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, state_dict={name: tensor for name, tensor in state.items() if name != lost})
        try:
            type(model).from_pretrained(folder)
        except ValueError as error:
            assert lost in str(error)
        else:
            raise AssertionError("a folder without a weight was opened")


def check_compiles_without_a_graph_break(specimen: ModelSpecimen) -> None:
    """`torch.compile(fullgraph=True)` takes forward and backward, and gives the same numbers."""
    model = specimen.build()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=True)
    inputs = dict(specimen.inputs)
    if model.can_generate():
        inputs["use_cache"] = torch.tensor(False).item()
    result, expected = compiled(**inputs), model(**inputs)
    assert_near(get_main_output(result), get_main_output(expected))
    (result.loss if "labels" in specimen.inputs else get_main_output(result).square().mean()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    torch._dynamo.reset()


MODEL_CHECKS = [
    check_save_and_load_are_equal,
    check_weights_are_safetensors_and_tied_ones_saved_once,
    check_runs_are_deterministic,
    check_every_parameter_is_initialised,
    check_every_parameter_is_trained,
    check_alone_is_as_in_a_batch,
    check_padding_is_ignored_on_either_side,
    check_bfloat16_is_close,
    check_attention_implementations_agree,
    check_activation_checkpointing_keeps_gradients,
    check_cached_generation_is_as_uncached,
    check_generation_alone_is_as_in_a_batch,
    check_output_depends_on_the_condition,
    check_hidden_states_and_attentions_are_given,
    check_embeddings_resize,
    check_newer_format_is_refused,
    check_missing_weights_are_refused,
    check_compiles_without_a_graph_break,
]


def check_config_round_trip(config: PreTrainedConfig) -> None:
    """A saved configuration opens through AutoConfig with the same fields."""
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        opened = AutoConfig.from_pretrained(folder)
    assert type(opened) is type(config)
    ignored = {"_name_or_path", "transformers_version"}
    before, after = config.to_dict(), opened.to_dict()
    assert {k: v for k, v in before.items() if k not in ignored} == {k: v for k, v in after.items() if k not in ignored}


def check_config_refuses_mistyped_names(config: PreTrainedConfig) -> None:
    """A name that is nearly a field is an error which names the field."""
    for name in ("initialiser_range",):
        try:
            type(config)(**{name: 0.1})
        except ValueError as error:
            assert "initializer_range" in str(error)
        else:
            raise AssertionError(f"{type(config).__name__} took {name}")


def check_config_tells_what_nothing_reads(config: PreTrainedConfig) -> None:
    """A name that is like no field is kept, and said to be read by nothing; a saved configuration has none such."""
    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(type(config).__module__.rpartition(".")[0])
    logger.addHandler(handler)
    try:
        with tempfile.TemporaryDirectory() as folder:
            config.save_pretrained(folder)
            path = Path(folder) / "config.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), "use_cache": False}))  # As Trainer leaves it.
            AutoConfig.from_pretrained(folder)
            assert not told, told
            path.write_text(json.dumps({**json.loads(path.read_text()), "colour": "red"}))
            assert AutoConfig.from_pretrained(folder).colour == "red"
    finally:
        logger.removeHandler(handler)
    assert len(told) == 1 and f"{type(config).__name__} has no field 'colour'" in told[0], told


def check_config_refuses_wrong_types(config: PreTrainedConfig) -> None:
    """A value of the wrong type is an error which names the field."""
    try:
        type(config)(initializer_range="wide")
    except Exception as error:
        assert "initializer_range" in str(error)
    else:
        raise AssertionError(f"{type(config).__name__} took a string for a number")


CONFIG_CHECKS = [
    check_config_round_trip,
    check_config_refuses_mistyped_names,
    check_config_tells_what_nothing_reads,
    check_config_refuses_wrong_types,
]


def check_processor_round_trip(processor: ProcessorMixin, texts: list[str], targets: list[str]) -> None:
    """A saved processor opens through AutoProcessor and gives the same tensors."""
    with tempfile.TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        (Path(folder) / "config.json").write_text(json.dumps({"model_type": "genext"}))
        opened = AutoProcessor.from_pretrained(folder)
    assert type(opened) is type(processor)
    arguments = {"text": texts, "text_target": targets, "padding": True, "return_tensors": "pt"}
    before, after = processor(**arguments), opened(**arguments)
    assert before.keys() == after.keys()
    for name in before:
        assert torch.equal(before[name], after[name])


def check_processor_decodes_what_it_encodes(processor: ProcessorMixin, texts: list[str], targets: list[str]) -> None:
    """Targets come back from their labels."""
    labels = processor(text_target=targets, padding=True, return_tensors="pt")["labels"]
    assert processor.batch_decode(labels, skip_special_tokens=True) == targets


PROCESSOR_CHECKS = [check_processor_round_trip, check_processor_decodes_what_it_encodes]


def check_pipeline_answers_alone_as_in_a_batch(specimen: PipelineSpecimen) -> None:
    """An input gives the same alone, in a list, in a batch of any size and out of a generator."""
    pipe = specimen.build()
    alone = [pipe(item) for item in specimen.inputs]
    assert any(answer != alone[0] for answer in alone), "the specimen answers the same to everything; the check would be empty"
    for batch_size in (1, 3, len(specimen.inputs) + 1):
        assert pipe(list(specimen.inputs), batch_size=batch_size) == alone
        assert list(pipe((item for item in specimen.inputs), batch_size=batch_size)) == alone
    assert pipe([]) == []


def check_pipeline_saves_a_folder_that_its_task_opens(specimen: PipelineSpecimen) -> None:
    """A saved pipeline opens by its task, as the same class, without remote code, and answers the same."""
    pipe = specimen.build()
    expected = pipe(list(specimen.inputs))
    with tempfile.TemporaryDirectory() as folder:
        pipe.save_pretrained(folder)
        opened = pipeline(specimen.task, model=folder)
        assert "custom_pipelines" not in json.loads((Path(folder) / "config.json").read_text())
    assert type(opened) is type(pipe)
    assert opened(list(specimen.inputs)) == expected


def check_pipeline_refuses_what_is_no_input(specimen: PipelineSpecimen) -> None:
    """Something that is no input is an error of the pipeline, which says what it takes."""
    pipe = specimen.build()
    for given in (object(), [object()]):
        try:
            pipe(given)
        except (TypeError, ValueError) as error:
            assert "must be" in str(error)
        else:
            raise AssertionError(f"{type(pipe).__name__} took {given!r}")


PIPELINE_CHECKS = [
    check_pipeline_answers_alone_as_in_a_batch,
    check_pipeline_saves_a_folder_that_its_task_opens,
    check_pipeline_refuses_what_is_no_input,
]

__all__ = ["CONFIG_CHECKS", "MODEL_CHECKS", "PIPELINE_CHECKS", "PROCESSOR_CHECKS", "REGISTRATION_CHECKS", "run"]

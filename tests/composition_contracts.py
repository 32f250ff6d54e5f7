"""What must hold for every composition of a condition, a decoder and a bottleneck, as a list of checks."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import peft
import torch
from composition_specimens import Cell, build_labels
from contracts import assert_near
from safetensors import safe_open
from transformers import AutoModelForSeq2SeqLM

from hf_genext import build_lora_config

ASKS = re.compile(r"q_attn|ln_cross_attn|queries|q_proj|q_norm|k_norm|cross_attn_norm|\.query\.|\.key\.")
# Random models like to say one thing again and again, which would show little.
GENERATION = {"max_new_tokens": 7, "min_new_tokens": 7, "no_repeat_ngram_size": 1}


def get_logits(model, inputs, labels) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs, labels=labels, use_cache=False).logits


def take_row(inputs: dict[str, torch.Tensor], row: int) -> dict[str, torch.Tensor]:
    """One row without its padding."""
    alone = {name: tensor[row : row + 1] for name, tensor in inputs.items()}
    mask = alone.get("attention_mask")
    if mask is not None:
        length = int(mask.sum())
        for name in ("input_ids", "input_values", "attention_mask"):
            if name in alone:
                alone[name] = alone[name][:, :length]
    return alone


def check_generation_with_a_cache_is_as_without(cell: Cell) -> None:
    """Dynamic, static and no cache give the same ids, greedily and with beams."""
    model = cell.build()
    for arguments in ({}, {"num_beams": 3, "num_return_sequences": 2}):
        cached = model.generate(**cell.inputs, **GENERATION, **arguments)
        assert len(cached.unique()) > 6
        assert torch.equal(cached, model.generate(**cell.inputs, **GENERATION, **arguments, use_cache=False)), arguments
        static = model.generate(**cell.inputs, **GENERATION, **arguments, cache_implementation="static")
        assert torch.equal(cached, static), arguments


def check_alone_is_as_in_a_batch(cell: Cell) -> None:
    """A row gives the same numbers and ids alone, without padding, as in a batch."""
    model, inputs, labels = cell.build(), cell.inputs, build_labels()
    together, generated = get_logits(model, inputs, labels), model.generate(**inputs, **GENERATION)
    beams = model.generate(**inputs, **GENERATION, num_beams=3)
    for row in range(3):
        alone = take_row(inputs, row)
        assert_near(get_logits(model, alone, labels[row : row + 1])[0], together[row])
        assert torch.equal(model.generate(**alone, **GENERATION)[0], generated[row])
        assert torch.equal(model.generate(**alone, **GENERATION, num_beams=3)[0], beams[row])


def check_padding_of_the_target_does_not_matter(cell: Cell) -> None:
    """A prompt of the decoder gives the same with padding to its left."""
    model, inputs, labels = cell.build(), cell.inputs, build_labels()
    prompt = torch.cat([torch.ones(3, 1, dtype=torch.long), labels[:, :3]], dim=1)
    padded = torch.cat([torch.ones(3, 2, dtype=torch.long), prompt], dim=1)
    mask = torch.cat([torch.zeros(3, 2, dtype=torch.long), torch.ones_like(prompt)], dim=1)
    if cell.decoder in ("bart", "marian", "t5", "bert", "windowed"):
        return  # Their positions, or their windows, count the columns of padding that stand before the prompt.
    with torch.no_grad():
        expected = model(**inputs, decoder_input_ids=prompt).logits
        assert_near(model(**inputs, decoder_input_ids=padded, decoder_attention_mask=mask).logits[:, 2:], expected)
    continued = model.generate(**inputs, decoder_input_ids=padded, decoder_attention_mask=mask, **GENERATION)
    assert torch.equal(continued[:, 2:], model.generate(**inputs, decoder_input_ids=prompt, **GENERATION))


def check_sampling_runs_and_the_seed_decides(cell: Cell) -> None:
    """Samples differ from each other, and come again with the seed."""
    model = cell.build()
    samples = []
    for _ in range(2):
        torch.manual_seed(3)
        samples.append(model.generate(**cell.inputs, **GENERATION, do_sample=True, num_return_sequences=3))
    assert samples[0].shape == (9, 8)
    assert torch.equal(*samples)
    assert not torch.equal(samples[0][0], samples[0][1])


def check_decoding_the_memory_is_generating(cell: Cell) -> None:
    """`decode(encode(x))` gives the ids of `generate(x)`, and a memory of fixed length needs no mask."""
    model = cell.build()
    memory, mask = model.encode(**cell.inputs, return_mask=True)
    assert memory.shape[:2] == mask.shape
    assert memory.shape[-1] == model.config.hidden_size
    if cell.num_latents is not None:
        assert memory.shape[1] == cell.num_latents
    for arguments in ({}, {"num_beams": 2}):
        expected = model.generate(**cell.inputs, **GENERATION, **arguments)
        assert torch.equal(model.decode(memory, mask, **GENERATION, **arguments), expected)
        if mask.all() and not (cell.num_latents is None and model.encoder.conditioner.can_pad):
            assert torch.equal(model.decode(memory, **GENERATION, **arguments), expected)


def check_save_and_load_are_equal(cell: Cell) -> None:
    """A saved model opens without the sources of its parts, gives the same numbers, and generates the same."""
    model = cell.build()
    expected = get_logits(model, cell.inputs, build_labels())
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        opened = AutoModelForSeq2SeqLM.from_pretrained(folder)
    assert type(opened) is type(model)
    before, after = (config.to_dict() | {"_name_or_path": ""} for config in (model.config, opened.config))
    assert before == after
    torch.testing.assert_close(get_logits(opened, cell.inputs, build_labels()), expected, atol=0, rtol=0)
    assert torch.equal(opened.generate(**cell.inputs, **GENERATION), model.generate(**cell.inputs, **GENERATION))


def check_tied_weights_are_saved_once(cell: Cell) -> None:
    """Every distinct tensor has one name in the folder, but for constants that a part's class never saves."""
    model = cell.build()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        assert {path.suffix for path in Path(folder).iterdir()} <= {".json", ".safetensors"}
        with safe_open(Path(folder) / "model.safetensors", "pt") as file:
            saved = set(file.keys())
    constants = {
        f"{name}.{key}" for name, part in model.named_modules() for key in getattr(part, "_keys_to_ignore_on_save", None) or ()
    }
    assert not saved & constants
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name not in constants}
    distinct = {tensor.data_ptr() for tensor in tensors.values() if tensor.numel()}
    assert len(saved) == len(distinct), "a tied weight is saved twice, or one is lost"


def check_every_unfrozen_parameter_gets_a_gradient(cell: Cell) -> None:
    """From the very start, where gates are closed, two steps open the way to every parameter that is not frozen."""
    model = cell.build(sharp=False).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(2):
        model(**cell.inputs, labels=build_labels()).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model(**cell.inputs, labels=build_labels()).loss.backward()
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert parameters
    unreached = [name for name, parameter in parameters.items() if parameter.grad is None or not parameter.grad.any()]
    if cell.num_latents == 1 or cell.condition == "nothing":
        # Attention to one slot is always 1, so what asks and what is asked for have nothing to learn.
        unreached = [name for name in unreached if not ASKS.search(name)]
    assert not unreached, unreached


def check_the_memory_changes_the_output(cell: Cell) -> None:
    """Another memory, and another condition where there is one, gives other numbers."""
    model, labels = cell.build(), build_labels()
    memory, mask = model.encode(**cell.inputs, return_mask=True)
    outputs = model.encoder(**cell.inputs)
    expected = get_logits(model, {"encoder_outputs": outputs}, labels)
    outputs.last_hidden_state = memory + mask[:, :, None] * torch.linspace(-1, 1, memory.shape[-1])
    assert (get_logits(model, {"encoder_outputs": outputs}, labels) - expected).abs().max() > 1e-3
    if cell.condition != "nothing":
        assert (get_logits(model, cell.inputs, labels[:1].repeat(3, 1)).diff(dim=0).abs().amax(dim=(1, 2)) > 1e-3).all()


def check_accumulation_is_exact(cell: Cell) -> None:
    """Gradients of single rows, divided by the step's tokens, sum to those of the batch."""
    model, inputs, labels = cell.build(), cell.inputs, build_labels()
    count = labels.ne(-100).sum()
    model(**inputs, labels=labels).loss.backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    for row in range(3):
        part = {name: tensor[row : row + 1] for name, tensor in inputs.items()}
        model(**part, labels=labels[row : row + 1], num_items_in_batch=count).loss.backward()
    scale = max(gradient.abs().max() for gradient in expected.values())
    for name, parameter in model.named_parameters():
        if name in expected:
            assert (parameter.grad - expected[name]).abs().max() < 1e-4 * scale, name


def check_adapters_train_and_reload(cell: Cell) -> None:
    """A low-rank adapter, without named targets and from `build_lora_config`, learns, and its folder opens by itself."""
    inputs, labels = cell.inputs, build_labels()
    for build_config in (lambda model: peft.LoraConfig(task_type="SEQ_2_SEQ_LM"), build_lora_config):
        with tempfile.TemporaryDirectory() as folder:
            cell.build().save_pretrained(f"{folder}/base")
            base = AutoModelForSeq2SeqLM.from_pretrained(f"{folder}/base")
            adapted = peft.get_peft_model(base, build_config(base)).eval()  # Without dropout, so that losses compare
            optimizer = torch.optim.SGD([weight for weight in adapted.parameters() if weight.requires_grad], lr=0.05)
            losses = []
            for _ in range(3):
                losses.append(adapted(**inputs, labels=labels).loss)
                losses[-1].backward()
                optimizer.step()
                optimizer.zero_grad()
            # Codes jump from one to another while the encoder learns, so that their loss goes down, but not at each step.
            is_jumpy = base.config.bottleneck.kind == "quantized"
            assert (min(losses[1:]) if is_jumpy else losses[-1]) < losses[0]
            adapted.save_pretrained(f"{folder}/adapter")
            opened = AutoModelForSeq2SeqLM.from_pretrained(f"{folder}/adapter")
            assert_near(get_logits(opened, inputs, labels), get_logits(adapted, inputs, labels))
            assert torch.equal(opened.generate(**inputs, **GENERATION), adapted.generate(**inputs, **GENERATION))


COMPOSITION_CHECKS = [
    check_generation_with_a_cache_is_as_without,
    check_alone_is_as_in_a_batch,
    check_padding_of_the_target_does_not_matter,
    check_sampling_runs_and_the_seed_decides,
    check_decoding_the_memory_is_generating,
    check_save_and_load_are_equal,
    check_tied_weights_are_saved_once,
    check_every_unfrozen_parameter_gets_a_gradient,
    check_the_memory_changes_the_output,
    check_accumulation_is_exact,
    check_adapters_train_and_reload,
]

__all__ = ["COMPOSITION_CHECKS"]

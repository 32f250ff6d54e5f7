"""Where a model looks while it writes: cross-attention of a layer, over what was given, for each token that was written.

Legend: batch, returned (outputs of each condition), rows (batch * returned), target (output positions), written (those of them
that a search wrote), slots (memory positions), heads.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from .scoring import take_rows


@torch.no_grad()
def align_tokens(
    model: PreTrainedModel, encoded: dict[str, Any], decoder_input_ids: torch.LongTensor, layer: int | None = None
) -> torch.FloatTensor:
    """The cross-attention of a layer, the mean of its heads, from one pass over all positions at once.

    Args:
        model: Any encoder-decoder whose decoder has cross-attention.
        encoded: `encoder_outputs` of a batch, with the `attention_mask` that goes with them.
        decoder_input_ids: (rows, target), the outputs of one condition beside each other.
        layer: Which of the decoder's layers, from the first one on, or with a minus from the last one back. Left out, the last
            but one, which aligns best by itself in translation (Garg et al. 2019, "Jointly learning to align and translate with
            Transformer models"); the only one where there is one.

    Returns:
        (rows, target, slots): at each position where the model looks as it writes the token after it. A row sums to 1.

    Raises:
        ValueError: for a model without cross-attention, or a layer that there is not.
    """
    batch_size = encoded["encoder_outputs"][0].shape[0]
    copies = torch.arange(batch_size, device=decoder_input_ids.device).repeat_interleave(len(decoder_input_ids) // batch_size)
    plain = _copy_with_plain_attention(getattr(model, "torch_model", model))
    outputs = plain(**take_rows(encoded, copies), decoder_input_ids=decoder_input_ids, output_attentions=True, use_cache=False)
    layers = [weights for weights in outputs.get("cross_attentions") or () if weights is not None]
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no cross-attention: its decoder reads the memory in another way, such as before its "
            "tokens. So nothing says which part of a condition a token comes from; leave out return_alignments=."
        )
    chosen = max(len(layers) - 2, 0) if layer is None else layer
    if isinstance(chosen, bool) or not isinstance(chosen, int) or not -len(layers) <= chosen < len(layers):
        raise ValueError(
            f"alignment_layer must be a whole number of {-len(layers)} to {len(layers) - 1}, for the decoder has {len(layers)} "
            f"layers of cross-attention; got {layer!r}."
        )
    return layers[chosen].float().mean(dim=1)


def _copy_with_plain_attention(model: PreTrainedModel) -> PreTrainedModel:
    """The model, its weights shared, with attention that tells its weights, which the fused kernels do not.

    A copy, because others may run the model meanwhile.
    """
    copied = copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})
    for part in copied.modules():
        if isinstance(part, PreTrainedModel):
            part.config._attn_implementation_internal = "eager"  # Each by itself; the public attribute reaches into others.
    return copied


def find_real_slots(model: PreTrainedModel, encoded: Mapping[str, Any]) -> torch.BoolTensor:
    """Which slots of a batch of memories are real, and no padding: (batch, slots)."""
    outputs = encoded["encoder_outputs"]
    batch_size, slots = outputs[0].shape[:2]
    mask = getattr(outputs, "memory_mask", None)
    if not hasattr(outputs, "memory_mask"):
        mask = encoded.get("attention_mask")
    if mask is not None and mask.shape[1] != slots:
        # Speech: several samples make a state.
        shorten = getattr(model.get_encoder(), "_get_feature_vector_attention_mask", None)
        mask = None if shorten is None else shorten(slots, mask)
    return torch.ones(batch_size, slots, dtype=torch.bool) if mask is None else mask.bool()


class SourceNamer:
    """Calls the slots of a memory by what stands in them: tokens of a text, fields of labels, else numbers from 0.

    Args:
        model: Any encoder-decoder.
        processor: Its processor, if it has one.
        tokenizer: What reads its text, if anything.
    """

    def __init__(self, model: PreTrainedModel, processor: Any, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._fields = list(getattr(processor, "label_names", None) or {})
        conditioner = getattr(model.get_encoder(), "conditioner", None)
        self._parts = dict(getattr(conditioner, "conditioners", {}).items())
        self._is_mixed = conditioner is not None and model.config.bottleneck.kind != "none"

    def name(self, inputs: Mapping[str, torch.Tensor], slots: int) -> list[list[str]]:
        """The names of all slots of a batch: lists (batch, slots).

        Args:
            inputs: What the encoder was given.
            slots: How many there are.
        """
        batch_size = next(iter(inputs.values())).shape[0]
        numbers = [[str(place) for place in range(slots)] for _ in range(batch_size)]
        if self._is_mixed:
            return numbers
        if self._parts:
            return self._name_parts(inputs, slots, numbers)
        return self._name_part(None, inputs, slots) or numbers

    def _name_part(self, part: Any, inputs: Mapping[str, torch.Tensor], slots: int) -> list[list[str]] | None:
        """What is in the slots of one condition, where that is known."""
        reads = getattr(part, "input_names", tuple(inputs))
        ids = inputs.get("input_ids") if "input_ids" in reads else None
        if ids is not None and ids.shape[1] == slots and self._tokenizer is not None:
            return [self._tokenizer.convert_ids_to_tokens(row) for row in ids.tolist()]
        labels = inputs.get("condition_labels") if "condition_labels" in reads else None
        return None if labels is None or slots != len(self._fields) else [self._fields for _ in range(len(labels))]

    def _name_parts(self, inputs: Mapping[str, torch.Tensor], slots: int, numbers: list[list[str]]) -> list[list[str]]:
        """Several conditions, whose slots stand one behind the other: `vector 0`, `image 3`, or what is in them."""
        counts = {name: _count_slots(part, inputs) for name, part in self._parts.items()}
        unknown = [name for name, count in counts.items() if count is None]
        left = slots - sum(count for count in counts.values() if count is not None)
        if len(unknown) > 1 or (left != 0 and not unknown):
            return numbers
        named: list[list[str]] = [[] for _ in numbers]
        for name, part in self._parts.items():
            count = left if counts[name] is None else int(counts[name] or 0)
            known = self._name_part(part, inputs, count)
            for row, names in enumerate(named):
                names += known[row] if known else [f"{name} {place}" for place in range(count)]
        return named


def _count_slots(part: Any, inputs: Mapping[str, torch.Tensor]) -> int | None:
    """How many states one of several conditions has, where its inputs tell."""
    given = {name: inputs[name] for name in part.input_names if not name.endswith("_mask") and inputs.get(name) is not None}
    if not given:
        return 1  # The null state.
    name, tensor = next(iter(given.items()))
    if name == "condition_vectors":
        return (1 if tensor.dim() == 2 else tensor.shape[1]) * getattr(part.config, "num_states", 1)
    if name in ("input_ids", "condition_labels"):
        return 1 if tensor.dim() == 1 else tensor.shape[1]
    return None


def describe_alignments(
    sequences: torch.LongTensor,
    is_written: torch.BoolTensor,
    weights: torch.FloatTensor,
    is_real: torch.BoolTensor,
    source_tokens: Sequence[Sequence[str]],
    tokenizer: Any,
) -> list[tuple[dict[str, Any], ...]]:
    """Alignments as answers have them.

    Args:
        sequences: Ids, (batch, returned, target), with or without the start token.
        is_written: Which of the last ones were written, and are no padding, (batch, returned, written).
        weights: (batch, returned, written, slots).
        is_real: (batch, slots).
        source_tokens: Names of all slots, (batch, slots).
        tokenizer: That of the target.

    Returns:
        For each condition and each of its outputs `{"target_tokens", "source_tokens", "weights"}`, the weights a list for each
        target token with a number for each source token.
    """
    ids = sequences[..., sequences.shape[-1] - is_written.shape[-1] :]
    answers = []
    for row, names in enumerate(source_tokens):
        real = is_real[row].to(weights.device)
        kept = [name for name, is_kept in zip(names, real.tolist(), strict=True) if is_kept]
        answers.append(
            tuple(
                {
                    "target_tokens": tokenizer.convert_ids_to_tokens(ids[row, place][written].tolist()),
                    "source_tokens": kept,
                    "weights": weights[row, place][written][:, real].tolist(),
                }
                for place, written in enumerate(is_written[row])
            )
        )
    return answers


__all__ = ["SourceNamer", "align_tokens", "describe_alignments", "find_real_slots"]

"""Outputs on which both directions of writing agree.

Legend: batch, length (input positions), candidates (of each condition), target (output positions).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from .fast_decoding import get_setting
from .scoring import encode, score_tokens

_FORWARDS_ONLY = (
    *("forced_bos_token_id", "forced_eos_token_id", "begin_suppress_tokens", "prefix_allowed_tokens_fn", "logits_processor"),
    *("stopping_criteria", "stop_strings", "force_words_ids", "constraints", "decoder_input_ids"),
)
"""What `generate` takes that says where in an output something is, or sees it as it is written."""


@torch.no_grad()
def generate_by_agreement(
    model: PreTrainedModel, *, num_beams: int | None = None, num_return_sequences: int | None = None, **inputs: Any
) -> torch.LongTensor:
    """Generate with a model that writes in both directions, and let each direction judge what the other wrote.

    Beam search from the first token on gives `num_beams` candidates, beam search from the last token back as many. Every
    candidate gets the sum of its two log-probabilities, and the best ones are returned (Liu et al. 2016, "Agreement on
    target-bidirectional neural machine translation"): a model that commits itself to a wrong start is overruled by one that
    comes to it last, and the other way round. Candidates that are cut at the greatest length are no outputs: those from the
    end lack their beginning, and what the others lack nobody has judged. The latter fill up what is missing.

    Args:
        model: An encoder-decoder whose configuration has a `reversed_start_token_id`.
        num_beams: Candidates of each direction; left out, the beams that the generation configuration names.
        num_return_sequences: How many to return for each condition, best first; at most `num_beams`. Left out, likewise.
        inputs: The encoder's inputs, which are all that is a tensor, and what `generate` takes besides.

    Returns:
        Ids in reading order behind the start token, padded on the right: (batch * num_return_sequences, target).

    Raises:
        ValueError: if the model writes forwards only, more is to be returned than one direction finds, or something is asked
            that a search from the end cannot do.
    """
    config = model.config
    reversed_start = getattr(config, "reversed_start_token_id", None)
    if reversed_start is None:
        raise ValueError(
            f"{type(model).__name__} writes forwards only: its configuration has no reversed_start_token_id. Train a model "
            "with both_directions, or generate without rerank."
        )
    num_beams = num_beams or get_setting(model, inputs, "num_beams") or 1
    num_return_sequences = num_return_sequences or get_setting(model, inputs, "num_return_sequences") or 1
    if not 1 <= num_return_sequences <= num_beams:
        raise ValueError(f"num_return_sequences must be 1 to num_beams={num_beams}, got {num_return_sequences}.")
    if inputs.get("decoder_start_token_id") is not None:
        raise ValueError("rerank= starts from two tokens of its own; leave out decoder_start_token_id.")
    if inputs.get("do_sample"):
        raise ValueError("rerank= lets two searches judge each other, which do_sample=True does not go with; leave one out.")
    search = {**inputs, "do_sample": False, "num_beams": num_beams, "num_return_sequences": num_beams}
    search["return_dict_in_generate"] = False
    turned = _turn_arguments(model, inputs)
    forwards, backwards = (
        model.generate(**{**search, **more}, decoder_start_token_id=start).tolist()
        for start, more in ((config.decoder_start_token_id, {}), (reversed_start, turned))
    )
    ends = _list_ids(config.eos_token_id)
    starts = range(0, len(forwards), num_beams)
    from_the_start, from_the_end = (
        [[_strip(ids, config.pad_token_id, ends) for ids in found[at : at + num_beams]] for at in starts]
        for found in (forwards, backwards)
    )
    lists = [
        [*(ids for ids, is_whole in ahead if is_whole), *(ids[::-1] for ids, is_whole in back if is_whole)]
        for ahead, back in zip(from_the_start, from_the_end, strict=True)
    ]
    conditions = {name: value for name, value in inputs.items() if torch.is_tensor(value)}
    # What is short is filled up, so that each condition has as many.
    width = max(map(len, lists))
    filled = [[*targets, *[[]] * (width - len(targets))] for targets in lists]
    scores = score_targets(model, conditions, filled) if width else torch.zeros(len(lists), 0)
    best = []
    for row, targets in enumerate(lists):
        order = scores[row, : len(targets)].argsort(descending=True, stable=True).tolist()
        distinct = list(dict.fromkeys(tuple(targets[index]) for index in order))[:num_return_sequences]
        cut = [ids for ids, is_whole in from_the_start[row] if not is_whole]
        found = [*([*ids, ends[0]] for ids in distinct), *cut]
        # Where there are no more outputs than these, the least of them stands for those that are missing.
        best += [found[min(place, len(found) - 1)] for place in range(num_return_sequences)]
    return _pad([[config.decoder_start_token_id, *ids] for ids in best], config.pad_token_id, model.device)


@torch.no_grad()
def score_targets(model: PreTrainedModel, conditions: dict[str, torch.Tensor], targets: list[list[list[int]]]) -> torch.Tensor:
    """The log-probability of whole targets, in nats, summed over both directions.

    Args:
        model: As in [`generate_by_agreement`].
        conditions: The encoder's inputs.
        targets: For each condition as many targets, without start and end token.

    Returns:
        (batch, candidates).
    """
    config = model.config
    encoded = encode(model, conditions)
    total = torch.zeros(len(targets), len(targets[0]), device=model.device)
    end = _list_ids(config.eos_token_id)[0]
    for start, step in ((config.decoder_start_token_id, 1), (config.reversed_start_token_id, -1)):
        flat = [[*ids[::step], end] for row in targets for ids in row]
        labels = _pad(flat, -100, model.device)
        decoder_input_ids = _pad([[start, *ids[:-1]] for ids in flat], config.pad_token_id, model.device)
        total += score_tokens(model, encoded, decoder_input_ids, labels).sum(dim=1).view(total.shape)
    return total


def _turn_arguments(model: PreTrainedModel, asked: dict[str, Any]) -> dict[str, Any]:
    """What is asked of `generate` about several tokens in their order, for a search from the end."""
    found = {
        name: given
        for name in (*_FORWARDS_ONLY, "bad_words_ids", "sequence_bias")
        if (given := get_setting(model, asked, name)) not in (None, [], {})
    }
    misfits = [name for name in _FORWARDS_ONLY if name in found]
    if misfits:
        raise ValueError(f"rerank= searches from both ends, which {misfits[0]} does not go with; leave one of them out.")
    turned: dict[str, Any] = {}
    if "bad_words_ids" in found:
        turned["bad_words_ids"] = [list(ids)[::-1] for ids in found["bad_words_ids"]]
    if "sequence_bias" in found:
        biases = found["sequence_bias"]
        pairs = biases.items() if isinstance(biases, dict) else biases
        turned["sequence_bias"] = [[list(ids)[::-1], bias] for ids, bias in pairs]
    return turned


def _list_ids(ids: int | list[int]) -> list[int]:
    return ids if isinstance(ids, list) else [ids]


def _strip(ids: list[int], pad_id: int, end_ids: list[int]) -> tuple[list[int], bool]:
    """A generated row without its start token, and without its end token and what follows; and whether it has an end."""
    body = ids[1:]
    place = next((place for place, token in enumerate(body) if token == pad_id or token in end_ids), None)
    return (body, False) if place is None else (body[:place], True)


def _pad(rows: list[list[int]], value: int, device: torch.device) -> torch.Tensor:
    tensors = [torch.tensor(row, device=device) for row in rows]
    return nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)


__all__ = ["generate_by_agreement", "score_targets"]

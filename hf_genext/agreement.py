"""Outputs on which both directions of writing agree.

Legend: batch, length (input positions), candidates (of each condition), target (output positions).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from .scoring import encode, score_tokens


@torch.no_grad()
def generate_by_agreement(
    model: PreTrainedModel, *, num_beams: int | None = None, num_return_sequences: int | None = None, **inputs: Any
) -> torch.LongTensor:
    """Generate with a model that writes in both directions, and let each direction judge what the other wrote.

    Beam search from the first token on gives `num_beams` candidates, beam search from the last token back as many. Every
    candidate gets the sum of its two log-probabilities, and the best ones are returned (Liu et al. 2016, "Agreement on
    target-bidirectional neural machine translation"): a model that commits itself to a wrong start is overruled by one that
    comes to it last, and the other way round.

    Args:
        model: An encoder-decoder whose configuration has a `reversed_start_token_id`.
        num_beams: Candidates of each direction; left out, the beams that the generation configuration names.
        num_return_sequences: How many to return for each condition, best first; at most `num_beams`. Left out, likewise.
        inputs: The encoder's inputs, which are all that is a tensor, and what `generate` takes besides.

    Returns:
        Ids in reading order behind the start token, padded on the right: (batch * num_return_sequences, target).

    Raises:
        ValueError: if the model writes forwards only, or more is to be returned than one direction finds.
    """
    config = model.config
    reversed_start = getattr(config, "reversed_start_token_id", None)
    if reversed_start is None:
        raise ValueError(
            f"{type(model).__name__} writes forwards only: its configuration has no reversed_start_token_id. Train a model "
            "with both_directions, or generate without rerank."
        )
    defaults = inputs.get("generation_config") or model.generation_config
    num_beams = num_beams or defaults.num_beams or 1
    num_return_sequences = num_return_sequences or defaults.num_return_sequences or 1
    if not 1 <= num_return_sequences <= num_beams:
        raise ValueError(f"num_return_sequences must be 1 to num_beams={num_beams}, got {num_return_sequences}.")
    search = {**inputs, "num_beams": num_beams, "num_return_sequences": num_beams, "return_dict_in_generate": False}
    candidates = [
        _strip(ids, config.pad_token_id, config.eos_token_id)
        for ids in model.generate(**search, decoder_start_token_id=config.decoder_start_token_id).tolist()
    ]
    from_the_end = [
        _strip(ids, config.pad_token_id, config.eos_token_id)[::-1]
        for ids in model.generate(**search, decoder_start_token_id=reversed_start).tolist()
    ]
    ends = list(range(num_beams, len(candidates) + 1, num_beams))
    lists = [candidates[end - num_beams : end] + from_the_end[end - num_beams : end] for end in ends]
    conditions = {name: value for name, value in inputs.items() if torch.is_tensor(value)}
    scores = score_targets(model, conditions, lists)
    best = []
    for row, targets in enumerate(lists):
        order = scores[row].argsort(descending=True, stable=True).tolist()
        distinct = list(dict.fromkeys(tuple(targets[index]) for index in order))
        best += [[*ids, _first_id(config.eos_token_id)] for ids in distinct[:num_return_sequences]]
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
    end = _first_id(config.eos_token_id)
    for start, step in ((config.decoder_start_token_id, 1), (config.reversed_start_token_id, -1)):
        flat = [[*ids[::step], end] for row in targets for ids in row]
        labels = _pad(flat, -100, model.device)
        decoder_input_ids = _pad([[start, *ids[:-1]] for ids in flat], config.pad_token_id, model.device)
        total += score_tokens(model, encoded, decoder_input_ids, labels).sum(dim=1).view(total.shape)
    return total


def _first_id(ids: int | list[int]) -> int:
    return ids[0] if isinstance(ids, list) else ids


def _strip(ids: list[int], pad_id: int, end_ids: int | list[int]) -> list[int]:
    """A generated row without its start token, and without its end token and what follows."""
    ends = {pad_id, *(end_ids if isinstance(end_ids, list) else [end_ids])}
    body = ids[1:]
    return body[: next((place for place, token in enumerate(body) if token in ends), len(body))]


def _pad(rows: list[list[int]], value: int, device: torch.device) -> torch.Tensor:
    tensors = [torch.tensor(row, device=device) for row in rows]
    return nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)


__all__ = ["generate_by_agreement", "score_targets"]

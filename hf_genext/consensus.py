"""Of many outputs that are drawn, those that are most like the others.

Legend: batch (conditions), candidates (drawn outputs of each condition), target (output positions).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from .fast_decoding import get_setting

ORDERS = (1, 2)
"""Lengths of the n-grams of tokens that two outputs are compared by."""

BETA = 2.0
"""How many times as much it counts to have what another output has as to have nothing else."""

_MULTIPLIER = 0x9E3779B97F4A7C15 - (1 << 64)


@dataclass(frozen=True)
class Consensus:
    """Minimum Bayes risk decoding by sampling (Eikema and Aziz 2020, "Is MAP decoding all you need?").

    Outputs are drawn, and those are given whose expected similarity to an output of the model, estimated by the other draws,
    is the largest.

    Attributes:
        num_candidates: Outputs that are drawn of each condition.
        num_returned: How many of them are given, best first.
        temperature: At which they are drawn, where the model's settings say it and the call does not.
    """

    num_candidates: int
    num_returned: int = 1
    temperature: float | None = None

    @classmethod
    def find(cls, model: PreTrainedModel, asked: Mapping[str, Any], num_candidates: int | None = None) -> Consensus | None:
        """What a call comes to, or `None` where outputs are not chosen so.

        Args:
            model: Its saved settings may have `num_candidates`, which count where the call asks for no other way, and
                `candidate_temperature` (settings with a `temperature` would have to sample always).
            asked: What the call gives of `generate`'s arguments, and of other ways to find outputs.
            num_candidates: What the call gives; 1 is as if there were none.

        Raises:
            ValueError: for another way beside it, or if more is to be returned than drawn.
        """
        num_beams, do_sample, rerank = asked.get("num_beams"), asked.get("do_sample"), bool(asked.get("rerank"))
        if num_candidates is None:
            if num_beams is not None or do_sample is not None or rerank:
                return None
            num_candidates = get_setting(model, asked, "num_candidates")
        if num_candidates is None or num_candidates <= 1:
            return None
        if (num_beams or 1) > 1 or do_sample is False or rerank:
            other = "rerank" if rerank else "do_sample=False" if do_sample is False else f"num_beams={num_beams}"
            raise ValueError(
                f"num_candidates={num_candidates} draws outputs and compares them, which {other} does not go with; leave one "
                "of them out."
            )
        num_returned = int(get_setting(model, asked, "num_return_sequences") or 1)
        if num_returned > num_candidates:
            raise ValueError(f"num_return_sequences={num_returned} is more than num_candidates={num_candidates}.")
        temperature = None if asked.get("temperature") is not None else get_setting(model, asked, "candidate_temperature")
        if temperature is not None and (isinstance(temperature, (bool, str)) or not 0.0 < temperature < float("inf")):
            raise ValueError(f"candidate_temperature must be a finite number above 0, got {temperature!r}.")
        return cls(int(num_candidates), num_returned, temperature)

    def draw(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """What `generate` has to be asked for, beside all else that was asked."""
        heat = {} if self.temperature is None else {"temperature": float(self.temperature)}
        return {**arguments, **heat, "do_sample": True, "num_beams": 1, "num_return_sequences": self.num_candidates}

    def choose(self, sequences: torch.LongTensor, hidden: Sequence[int]) -> torch.LongTensor:
        """Places of the outputs to give, best first, (batch, returned).

        Args:
            sequences: Ids, (batch, candidates, target).
            hidden: Ids that do not count: those of special tokens.
        """
        # Of equals the first: the order of what is equal is kept.
        ranked = measure_agreement(sequences, hidden).argsort(dim=-1, descending=True, stable=True)
        return ranked[:, : self.num_returned]


NAMES = ("num_candidates", "candidate_temperature")
"""What Transformers does not know of saved settings, and keeps."""


def measure_agreement(sequences: torch.LongTensor, hidden: Sequence[int]) -> torch.FloatTensor:
    """How like the other outputs of its condition each output is, from 0 to 1: (batch, candidates).

    The mean over all others of the F-score with which an output finds their n-grams of tokens, as chrF does with those of
    letters (Popovic 2015, "chrF: character n-gram F-score"), counted twice as much by recall as by precision.

    Args:
        sequences: Ids, (batch, candidates, target).
        hidden: Ids that do not count: those of special tokens.

    Example:
        >>> import torch
        >>> from hf_genext.consensus import measure_agreement
        >>> measure_agreement(torch.tensor([[[7, 8, 0], [7, 8, 9], [5, 0, 0]]]), [0]).argmax(dim=1)
        tensor([0])
    """
    shown = ~torch.isin(sequences, torch.tensor(list(hidden), dtype=sequences.dtype, device=sequences.device))
    return torch.stack([_compare(*row) for row in zip(sequences, shown, strict=True)])


def _compare(ids: torch.LongTensor, shown: torch.BoolTensor) -> torch.FloatTensor:
    """The mean F-score of each of some outputs against all others; ids (candidates, target) -> (candidates,)."""
    count = len(ids)
    # What is shown stands first, in its order, so that n-grams reach over what is not.
    order = (~shown).to(torch.uint8).argsort(dim=1, stable=True)
    ids, shown = ids.gather(1, order), shown.gather(1, order)
    grams, there = ids, shown
    scores = torch.zeros(count, count, device=ids.device)
    num_orders = torch.zeros(count, count, device=ids.device)
    for length in range(1, max(ORDERS) + 1):
        if length > 1:
            if ids.shape[1] < length:
                break
            grams = grams[:, :-1] * _MULTIPLIER + ids[:, length - 1 :]
            there = shown[:, length - 1 :]
        if length not in ORDERS:
            continue
        kinds, places = torch.unique(grams, return_inverse=True)
        counts = torch.zeros(count, len(kinds), device=ids.device).scatter_add_(1, places, there.float())
        totals = counts.sum(dim=1)
        shared = torch.stack([torch.minimum(counts, counts[place]).sum(dim=1) for place in range(count)], dim=1)
        # F = (1 + b2) shared / (b2 |other| + |own|): rows are the outputs, columns those they are compared with.
        weights = BETA**2 * totals[None, :] + totals[:, None]
        scores += (1 + BETA**2) * shared / weights.clamp(min=1)
        num_orders += weights > 0
    scores = torch.where(num_orders > 0, scores / num_orders.clamp(min=1), 1.0)  # Nothing is like nothing.
    return (scores.sum(dim=1) - scores.diagonal()) / max(1, count - 1)


__all__ = ["BETA", "NAMES", "ORDERS", "Consensus", "measure_agreement"]

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

NAMES = ("num_candidates", "candidate_temperature")
"""Saved settings that Transformers does not know, and keeps."""

BETA = 3.0
"""How many times as much recall counts as precision: as in METEOR (Banerjee and Lavie 2005)."""

_OTHER_WAYS: dict[str, tuple[Any, ...]] = {"num_beams": (1,), "do_sample": (True,), "rerank": ()}
"""Other ways to find outputs, and with which of their values candidates go."""


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
    def find(cls, model: PreTrainedModel, asked: Mapping[str, Any]) -> Consensus | None:
        """What a call comes to, or `None` where outputs are not chosen so.

        Args:
            model: Its saved settings may have `num_candidates`, which count where no other way is asked for, and
                `candidate_temperature` (settings with a `temperature` would have to sample always).
            asked: Arguments of `generate`, `num_candidates` (1 is as if it were not there) and `rerank`.

        Raises:
            ValueError: if more is to be returned than drawn, or for a temperature that is none.
        """
        config = asked.get("generation_config")
        num_candidates = asked.get("num_candidates")
        if num_candidates is None and not _list_ways(asked):
            num_candidates = getattr(config, "num_candidates", None)
            if num_candidates is None and (config is None or not _list_ways(vars(config))):
                num_candidates = getattr(model.generation_config, "num_candidates", None)
        if num_candidates is None or num_candidates <= 1:
            return None
        num_returned = int(get_setting(model, asked, "num_return_sequences") or 1)
        if num_returned > num_candidates:
            raise ValueError(f"num_return_sequences={num_returned} is more than num_candidates={num_candidates}.")
        is_given = any(given is not None for given in (asked.get("temperature"), getattr(config, "temperature", None)))
        temperature = None if is_given else get_setting(model, asked, "candidate_temperature")
        if temperature is not None and (isinstance(temperature, (bool, str)) or not 0.0 < temperature < float("inf")):
            raise ValueError(f"candidate_temperature must be a finite number above 0, got {temperature!r}.")
        return cls(int(num_candidates), num_returned, temperature)

    @staticmethod
    def settle(asked: Mapping[str, Any]) -> dict[str, int]:
        """What a call adds, so that the way that it asks for counts before that of settings and of an opened pipeline.

        Raises:
            ValueError: for two ways.
        """
        ways, num_candidates = _list_ways(asked), asked.get("num_candidates")
        if num_candidates is None:
            return {"num_candidates": 1} if ways else {}
        others = [name for name, value in ways.items() if value not in _OTHER_WAYS[name]]
        if num_candidates > 1 and others:
            other = "rerank" if others[0] == "rerank" else f"{others[0]}={ways[others[0]]}"
            raise ValueError(
                f"num_candidates={num_candidates} draws outputs and compares them, which {other} does not go with; leave one "
                "of them out."
            )
        return {}

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


def _list_ways(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Other ways to find outputs that are asked for, or asked not to be taken."""
    return {name: asked[name] for name in _OTHER_WAYS if asked.get(name) is not None and (name != "rerank" or asked[name])}


def measure_agreement(sequences: torch.LongTensor, hidden: Sequence[int]) -> torch.FloatTensor:
    """How like the other outputs of its condition each output is, from 0 to 1: (batch, candidates).

    The mean over all others of the F-score with which an output finds their tokens, each as often as it is there. Recall counts
    three times as much as precision, as in METEOR (Banerjee and Lavie 2005): of two that say the same the fuller is chosen.

    Args:
        sequences: Ids, (batch, candidates, target).
        hidden: Ids that do not count: those of special tokens.

    Example:
        >>> import torch
        >>> from hf_genext.consensus import measure_agreement
        >>> measure_agreement(torch.tensor([[[7, 8, 0], [7, 8, 9], [5, 0, 0]]]), [0]).argmax(dim=1)
        tensor([1])
    """
    shown = ~torch.isin(sequences, torch.tensor(list(hidden), dtype=sequences.dtype, device=sequences.device))
    return torch.stack([_compare(*row) for row in zip(sequences, shown, strict=True)])


def _compare(ids: torch.LongTensor, shown: torch.BoolTensor) -> torch.FloatTensor:
    """The mean F-score of each of some outputs against all others; ids (candidates, target) -> (candidates,)."""
    kinds, places = torch.unique(ids, return_inverse=True)
    counts = torch.zeros(len(ids), len(kinds), device=ids.device).scatter_add_(1, places, shown.float())
    totals = counts.sum(dim=1)
    shared = torch.stack([torch.minimum(counts, own).sum(dim=1) for own in counts])
    # F = (1 + b2) shared / (b2 |other| + |own|): rows are the outputs, columns those they are compared with.
    weights = BETA**2 * totals[None, :] + totals[:, None]
    scores = torch.where(weights > 0, (1 + BETA**2) * shared / weights.clamp(min=1), 1.0)  # Nothing is like nothing.
    return (scores.sum(dim=1) - scores.diagonal()) / max(1, len(ids) - 1)


__all__ = ["BETA", "NAMES", "Consensus", "measure_agreement"]

"""Guidance: away from what a model writes without its condition, in one pass over a batch twice as large.

Legend: rows (of the doubled batch and its beams), vocab.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import LogitsProcessor


class GuidedScores(LogitsProcessor):
    """Mixes the log-probabilities of a row with its condition and of its twin without.

    Each row gets null + scale * (conditional - null) (Ho and Salimans 2022, "Classifier-free diffusion guidance"; Sanchez et
    al. 2023 for text), and so does its twin, so that both write the same.

    Args:
        scale: 1 leaves the conditional model as it is, 0 is the one without condition; above 1 the condition counts for more.
    """

    def __init__(self, scale: float) -> None:
        self._scale = scale

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Scores (rows, vocab), the rows with their condition in the first half, their twins in the second."""
        conditional, null = nn.functional.log_softmax(scores.float(), dim=-1).chunk(2)
        mixed = null + self._scale * (conditional - null)
        mixed = mixed.masked_fill((conditional == -torch.inf) | (null == -torch.inf), -torch.inf)
        return torch.cat([mixed, mixed])


__all__ = ["GuidedScores"]

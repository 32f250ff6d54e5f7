"""Metrics of how likely a model finds given sequences: perplexity, and bits or log-likelihood for a character.

They come of a log-probability alone, in nats: exact, or of a model with latent numbers a bound from below, so that its
perplexity and bits are bounds from above. Nothing is generated.

Legend: rows, target (output positions).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

_LARGEST_EXPONENT = 700.0
"""e to the power of more is no number; a model that has just begun, or diverged, may be there."""

SequenceMetrics = Callable[[float, int, int], dict[str, float]]
"""Turns the log-probability of all targets in nats, their tokens and their characters into named numbers."""


def count_characters(texts: Iterable[str]) -> int:
    """The characters of texts (Unicode code points), and one more for the end of each.

    Example:
        >>> count_characters(["cat", "näive"])
        10
    """
    return sum(len(text) + 1 for text in texts)


def count_target_characters(labels: torch.Tensor, tokenizer: Any) -> int:
    """The characters that labels stand for: those of the decoded texts, and one for each end token.

    Special tokens have none, one for what is not known neither. A target that was cut has no end.

    Args:
        labels: (rows, target), -100 where there is none.
        tokenizer: That of the targets.
    """
    end = tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    texts = tokenizer.batch_decode(
        labels.masked_fill(labels == -100, end), skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return sum(map(len, texts)) + int(labels.eq(end).sum())


def score_perplexity(log_prob: float, num_tokens: int, num_characters: int) -> float:
    """The perplexity of a token, ends included: e to the mean negative log-probability (Jelinek et al. 1977).

    It depends on what a token is; models with other tokens are compared by characters. Infinite where no number holds it, and
    not a number (NaN) where the log-probability is none.

    Args:
        log_prob: The log-probability of all targets, in nats.
        num_tokens: Tokens of the targets, their ends among them.
        num_characters: Characters, likewise.

    Example:
        >>> round(score_perplexity(3 * math.log(0.25), 3, 9), 6)
        4.0
    """
    mean = -log_prob / max(num_tokens, 1)
    return math.inf if mean >= _LARGEST_EXPONENT else math.exp(mean)


def score_log_likelihood_per_character(log_prob: float, num_tokens: int, num_characters: int) -> float:
    """The log-probability of the targets in nats, divided by their characters, ends included. Arguments as for perplexity."""
    return log_prob / max(num_characters, 1)


def score_bits_per_character(log_prob: float, num_tokens: int, num_characters: int) -> float:
    """What it takes to tell a character of the decoded targets, in bits; the end of a target is one character more.

    Models with other tokens, and n-grams of characters, are compared by it. Arguments as for perplexity.

    Example:
        >>> score_bits_per_character(3 * math.log(0.25), 3, 12)
        0.5
    """
    return -score_log_likelihood_per_character(log_prob, num_tokens, num_characters) / math.log(2.0)


SEQUENCE_METRICS: dict[str, Callable[[float, int, int], float]] = {
    "bits_per_character": score_bits_per_character,
    "log_likelihood_per_character": score_log_likelihood_per_character,
    "perplexity": score_perplexity,
}
"""Metrics by the name that a recipe uses."""


def build_sequence_metrics(names: Sequence[str]) -> SequenceMetrics:
    """One function that computes several metrics.

    Args:
        names: Names of [`SEQUENCE_METRICS`].

    Returns:
        A function of a log-probability in nats and of the numbers of tokens and characters, that gives all results.

    Raises:
        ValueError: for a name that is not known.

    Example:
        >>> build_sequence_metrics(["bits_per_character"])(6 * math.log(0.5), 2, 6)
        {'bits_per_character': 1.0}
    """
    unknown = [name for name in names if name not in SEQUENCE_METRICS]
    if unknown:
        raise ValueError(f"There is no metric {unknown[0]!r} of given sequences; known are {', '.join(SEQUENCE_METRICS)}.")
    functions = {name: SEQUENCE_METRICS[name] for name in names}
    return lambda *totals: {name: function(*totals) for name, function in functions.items()}


__all__ = [
    "SEQUENCE_METRICS",
    "SequenceMetrics",
    "build_sequence_metrics",
    "count_characters",
    "count_target_characters",
    "score_bits_per_character",
    "score_log_likelihood_per_character",
    "score_perplexity",
]

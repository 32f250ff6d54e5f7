"""What the scripts of the sentences recipe share: how much is drawn, and what drawn sentences are worth."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from hf_genext.sample_metrics import Validity
from recipes.text_distributions import measure_samples


@dataclass
class SentenceSettings:
    """How models are scored and judged."""

    num_drawn: int = field(default=500, metadata={"help": "Sentences that are drawn to be judged."})


def judge_sentences(samples: Sequence[str], training_texts: Sequence[str]) -> dict[str, float]:
    """What drawn sentences are worth, in percent.

    Args:
        samples: What was drawn.
        training_texts: What was trained on.

    Returns:
        `novelty`, `diversity`, `distinct_1` and `distinct_2`, of words, and `validity`, the share of sentences of which every
        word stands in a training text.
    """
    known = {word for text in training_texts for word in _list_words(text)}
    rule = Validity(rule=lambda sample: bool(sample) and known.issuperset(_list_words(sample)))
    return measure_samples(samples, training_texts, rule)


def _list_words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


__all__ = ["SentenceSettings", "judge_sentences"]

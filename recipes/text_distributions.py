"""What recipes of distributions over texts share: log-probabilities of given texts, drawn texts, and what these are worth.

Legend: rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from hf_genext.sample_metrics import Diversity, Novelty, SampleMetric
from hf_genext.sequence_metrics import SEQUENCE_METRICS, build_sequence_metrics, count_characters


def score_texts(
    pipe: Any,
    conditions: Sequence[Any],
    texts: Sequence[str],
    *,
    num_importance_samples: int = 64,
    batch_size: int = 100,
) -> np.ndarray:
    """The log-probability of each text given its condition, in nats, of a model with latent numbers the bound: (rows,).

    Args:
        pipe: The pipeline of a model that writes texts.
        conditions: As it takes them.
        texts: One for each.
        num_importance_samples: Draws of the latent numbers of each row, where there are some.
        batch_size: Texts that run at once, those of like length.
    """
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    scores = np.zeros(len(texts))
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            found = pipe.score(
                [conditions[place] for place in places],
                [texts[place] for place in places],
                batch_size=batch_size,
                num_importance_samples=num_importance_samples,
            )
            scores[places] = [answer["score"] for answer in found]
    return scores


def measure_given(
    pipe: Any, conditions: Sequence[Any], texts: Sequence[str], names: Sequence[str] = (*SEQUENCE_METRICS,), **how: Any
) -> dict[str, float]:
    """The metrics of given texts, by a model.

    Args:
        pipe: The pipeline of a model that writes texts.
        conditions: As it takes them.
        texts: One for each.
        names: Which metrics of [`SEQUENCE_METRICS`].
        how: As [`score_texts`] takes it.
    """
    total = float(score_texts(pipe, conditions, texts, **how).sum())
    num_tokens = sum(map(len, pipe.target_tokenizer(list(texts), verbose=False)["input_ids"]))
    return build_sequence_metrics(names)(total, num_tokens, count_characters(texts))


def draw_texts(
    pipe: Any, conditions: Sequence[Any], *, seed: int = 0, batch_size: int = 250, **arguments: Any
) -> list[str]:
    """A text for each condition, drawn from the model's own distribution.

    Args:
        pipe: The pipeline of a model that writes texts.
        conditions: As it takes them; `{}` for none.
        seed: Of the draws.
        batch_size: Texts that are drawn at once.
        arguments: More that a call of the pipeline takes, such as `guidance_scale`.
    """
    arguments = {"do_sample": True, "top_k": 0, "top_p": 1.0, **arguments}
    with torch.inference_mode():
        answers = pipe(list(conditions), seed=seed, batch_size=batch_size, **arguments)
    return [answer[0]["generated_text"] for answer in answers]


def measure_samples(samples: Sequence[str], training_texts: Sequence[str], *metrics: SampleMetric, **how: Any) -> dict[str, float]:
    """Novelty and diversity of drawn texts, and what more metrics of samples say.

    Args:
        samples: What was drawn.
        training_texts: What was trained on.
        metrics: More metrics.
        how: As [`Diversity`] takes it.
    """
    found: dict[str, float] = {}
    for metric in (Novelty(training_texts=training_texts), Diversity(**how), *metrics):
        found |= metric.compute(predictions=list(samples)) or {}
    return found


__all__ = ["draw_texts", "measure_given", "measure_samples", "score_texts"]

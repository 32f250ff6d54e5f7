"""The retrieval rank of the definition recipe: does a generated gloss find its word?

Called by `recipes/train_conditional.py` and `recipes/evaluate.py` through the setting `metrics_script`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from recipes.sentence_vectors import compute_retrieval_ranks, encode_texts


def build_metrics() -> Callable[[list[str], list[list[str]]], dict[str, float]]:
    """A function of generated glosses and the true ones of each word.

    It gives `median_retrieval_rank`: where the right word stands, in the median, among all words that are scored, by the cosine
    of MiniLM's vectors of its generated gloss and of every true gloss (the first of each word).
    """
    known: dict[str, Any] = {}

    def compute(predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        true = [glosses[0] for glosses in references]
        if known.get("texts") != true:
            known.update(texts=true, vectors=encode_texts(true))
        ranks = compute_retrieval_ranks(encode_texts(predictions), known["vectors"])
        return {"median_retrieval_rank": float(np.median(ranks))}

    return compute

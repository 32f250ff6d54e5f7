"""How near the vector of a generated text comes to the one that it was written from.

Called by `recipes/train_conditional.py` and `recipes/evaluate.py` through the setting `metrics_script`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from recipes.sentence_vectors import encode_texts


def build_metrics() -> Callable[[list[str], list[list[str]]], dict[str, float]]:
    """A function of generated texts and the true ones.

    It gives `cosine`: that of MiniLM's vectors of the generated and of the true text (the first, where several have one
    vector), the mean over the texts, in hundredths. A text without words has the cosine 0.
    """
    known: dict[str, Any] = {}

    def compute(predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        true = [texts[0] for texts in references]
        if known.get("texts") != true:
            known.update(texts=true, vectors=encode_texts(true))
        cosines = (encode_texts(predictions) * known["vectors"]).sum(axis=1)
        there = np.array([bool(text.strip()) for text in predictions])
        return {"cosine": 100.0 * float(np.mean(np.where(there, cosines, 0.0)))}

    return compute

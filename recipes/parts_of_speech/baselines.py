"""What the parts_of_speech recipe's model is compared with, on its test words.

    python recipes/parts_of_speech/baselines.py recipes/parts_of_speech/config.yaml
    python recipes/parts_of_speech/baselines.py recipes/parts_of_speech/config.yaml --update_results true

* most frequent set: for every word the parts of speech that most words of the training have;
* character n-grams and logistic regression, one for each part of speech: once of TF-IDF, once of counts. Their length, the
  regression's C, and the probability from which on a part of speech counts are chosen on the validation words.

`--update_results true` puts them beside the model's own metrics in the recipe's results.json, which the training wrote.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:] = [str(ROOT), *(folder for folder in sys.path if Path(folder).resolve() not in (ROOT, Path(__file__).parent))]

import numpy as np
from scipy.sparse import csr_matrix

from recipes.output_baselines import OutputComparison, run_output_baselines
from recipes.running import run_main
from recipes.spelling_baselines import (
    NgramSettings,
    choose_features,
    choose_threshold,
    number_labels,
    predict_labels,
    read_words,
)


@dataclass
class BaselineSettings(NgramSettings):
    """How to compare."""

    strengths: list[float] = field(
        default_factory=lambda: [0.03, 0.1, 0.3, 1.0, 3.0], metadata={"help": "C of logistic regressions."}
    )


def _score(comparison: OutputComparison) -> Iterator[tuple[str, dict[str, float]]]:
    parts = read_words(comparison)
    names = sorted({name for _, targets in parts.values() for target in targets for name in target})
    labels = {part: number_labels(targets, names) for part, (_, targets) in parts.items()}
    metrics = comparison.metrics
    frequent = Counter(map(tuple, labels["train"].tolist())).most_common(1)[0][0]
    yield "the most frequent set of parts", metrics(np.tile(frequent, (len(labels["test"]), 1)) - 0.5, labels["test"])

    def fit(features: dict[str, csr_matrix], strength: float) -> tuple[float, np.ndarray]:
        validation, test = predict_labels(features, labels["train"], strength)
        threshold, score = choose_threshold(validation, labels["validation"], lambda *pair: metrics(*pair)["micro_f1"])
        return score, test - threshold

    words = {part: spelled for part, (spelled, _) in parts.items()}
    for label, test in choose_features(words, comparison.own, fit):
        yield f"{label} and logistic regression", metrics(test, labels["test"])


def main(argv: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Score the baselines and print them; see the top of the file."""
    return run_output_baselines(_score, BaselineSettings, argv, output="labels")


if __name__ == "__main__":
    run_main(main)

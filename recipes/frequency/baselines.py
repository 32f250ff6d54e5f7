"""What the frequency recipe's model is compared with, on its test words.

    python recipes/frequency/baselines.py recipes/frequency/config.yaml
    python recipes/frequency/baselines.py recipes/frequency/config.yaml --update_results true

* length: a line through the number of letters;
* character n-grams and ridge regression: once of TF-IDF, once of counts. Their length and the regression's alpha are chosen on
  the validation words.

`--update_results true` puts them beside the model's own metrics in the recipe's results.json, which the training wrote.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:] = [str(ROOT), *(folder for folder in sys.path if Path(folder).resolve() not in (ROOT, Path(__file__).parent))]

import numpy as np
from scipy.sparse import csr_matrix

from recipes.output_baselines import OutputComparison, run_output_baselines
from recipes.running import run_main
from recipes.spelling_baselines import NgramSettings, choose_features, predict_numbers, read_words


@dataclass
class BaselineSettings(NgramSettings):
    """How to compare."""

    strengths: list[float] = field(
        default_factory=lambda: [1.0, 3.0, 10.0, 30.0, 100.0], metadata={"help": "alpha of ridge regressions."}
    )


def _score(comparison: OutputComparison) -> Iterator[tuple[str, dict[str, float]]]:
    parts = read_words(comparison)
    words = {part: spelled for part, (spelled, _) in parts.items()}
    numbers = {part: np.array(targets)[:, 0] for part, (_, targets) in parts.items()}
    metrics = comparison.metrics
    lengths = {part: np.array([len(word) for word in spelled]) for part, spelled in words.items()}
    slope, start = np.polyfit(lengths["train"], numbers["train"], 1)
    yield "length of the word", metrics((slope * lengths["test"] + start)[:, None], numbers["test"])

    def fit(features: dict[str, csr_matrix], strength: float) -> tuple[float, np.ndarray]:
        validation, test = predict_numbers(features, numbers["train"], strength)
        return metrics(validation[:, None], numbers["validation"])["spearman"], test[:, None]

    for label, test in choose_features(words, comparison.own, fit):
        yield f"{label} and ridge regression", metrics(test, numbers["test"])


def main(argv: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Score the baselines and print them; see the top of the file."""
    return run_output_baselines(_score, BaselineSettings, argv, output="regression")


if __name__ == "__main__":
    run_main(main)

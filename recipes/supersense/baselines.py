"""What the supersense recipe's models are compared with: scikit-learn's logistic regression on three inputs.

    python recipes/supersense/baselines.py recipes/supersense/config.yaml
    python recipes/supersense/baselines.py recipes/supersense/config.yaml --update_results true

* linear probe: MiniLM's vectors of the glosses as they are;
* PCA: the first 64 principal components of those vectors;
* TF-IDF: weighted counts of words and pairs of words.

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
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from recipes.output_baselines import OutputComparison, run_output_baselines
from recipes.running import run_main
from recipes.sentence_vectors import encode_texts


@dataclass
class BaselineSettings:
    """How to compare."""

    num_components: int = field(default=64, metadata={"help": "Principal components."})
    max_iter: int = field(default=300, metadata={"help": "The most steps of a regression."})


def _score(comparison: OutputComparison) -> Iterator[tuple[str, dict[str, float]]]:
    own, parts = comparison.own, [comparison.train, comparison.test]
    (train_texts, test_texts), (train_names, test_names) = (
        [list(part[column]) for part in parts] for column in ("text", "target")
    )
    train_vectors, test_vectors = encode_texts(train_texts), encode_texts(test_texts)
    regression = LogisticRegression(max_iter=own.max_iter)
    for label, features, model in (
        ("linear probe on MiniLM", (train_vectors, test_vectors), make_pipeline(StandardScaler(), regression)),
        (
            f"PCA of MiniLM ({own.num_components}) and logistic regression",
            (train_vectors, test_vectors),
            make_pipeline(PCA(own.num_components, random_state=0), StandardScaler(), regression),
        ),
        (
            "TF-IDF and logistic regression",
            (train_texts, test_texts),
            make_pipeline(TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True), regression),
        ),
    ):
        model.fit(features[0], train_names)
        names = {name: number for number, name in enumerate(sorted({*train_names, *test_names}))}
        log_probs = np.full((len(test_names), len(names)), -1e9)
        log_probs[:, [names[name] for name in model.classes_]] = model.predict_log_proba(features[1])
        yield label, comparison.metrics(log_probs, np.array([names[name] for name in test_names]))


def main(argv: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Score the baselines and print them; see the top of the file."""
    return run_output_baselines(_score, BaselineSettings, argv, output="class")


if __name__ == "__main__":
    run_main(main)

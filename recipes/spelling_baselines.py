"""Character n-grams under a linear model: what a model that reads the letters of a word has to beat.

Legend: words, features (distinct n-grams), outputs (labels).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from recipes.output_baselines import OutputComparison

Fitted = TypeVar("Fitted")

WEIGHTINGS: dict[str, dict[str, Any]] = {"TF-IDF": {"sublinear_tf": True}, "counts": {"use_idf": False, "norm": None}}
"""How n-grams are weighted, as scikit-learn's `TfidfVectorizer` takes it."""

THRESHOLDS = np.linspace(0.2, 0.7, 51)
"""The probabilities among which that is chosen from which on a label counts as predicted."""


@dataclass
class NgramSettings:
    """What is tried on the validation words."""

    longest_ngrams: list[int] = field(
        default_factory=lambda: [4, 5, 6], metadata={"help": "N-grams of one character to so many."}
    )
    strengths: list[float] = field(default_factory=list, metadata={"help": "Strengths of the linear model."})
    min_df: int = field(default=2, metadata={"help": "Words of the training that an n-gram stands in at least."})


def read_words(comparison: OutputComparison) -> dict[str, tuple[list[str], list[Any]]]:
    """The words and targets that are trained on, chosen by and scored, by `train`, `validation` and `test`."""
    parts = {"train": comparison.train, "validation": comparison.validation, "test": comparison.test}
    return {name: (list(part["text"]), list(part["target"])) for name, part in parts.items()}


def extract_ngrams(words: dict[str, Sequence[str]], weighting: str, longest: int, *, min_df: int = 1) -> dict[str, csr_matrix]:
    """The weights of the character n-grams of words, of which the first and the last character are marked.

    Args:
        words: Those of each part; the n-grams are those of `train`.
        weighting: One of [`WEIGHTINGS`].
        longest: Characters of the longest n-gram.
        min_df: Words of the training that an n-gram stands in at least.

    Returns:
        For each part (words, features).

    Example:
        >>> found = extract_ngrams({"train": ["ab", "b"], "test": ["bb"]}, "counts", 2)
        >>> found["test"].toarray().astype(int).tolist()  # $  ^  ^a  ^b  a  ab  b  b$
        [[1, 1, 0, 1, 0, 0, 2, 1]]
    """
    vectorizer = TfidfVectorizer(
        analyzer="char", ngram_range=(1, longest), min_df=min_df, dtype=np.float32, **WEIGHTINGS[weighting]
    )
    marked = {name: [f"^{word}$" for word in part] for name, part in words.items()}
    vectorizer.fit(marked["train"])
    return {name: vectorizer.transform(part) for name, part in marked.items()}


def choose_features(
    words: dict[str, Sequence[str]],
    settings: NgramSettings,
    fit: Callable[[dict[str, csr_matrix], float], tuple[float, Fitted]],
) -> Iterator[tuple[str, Fitted]]:
    """For each weighting what scores best on the validation words, over the longest n-gram and the strength.

    Args:
        words: Those of each part.
        settings: What is tried.
        fit: Fits a model to the features at a strength; gives its score on the validation words, and what is wanted of it.

    Yields:
        A label that says what was chosen, and what the best fit gave.
    """
    for weighting in WEIGHTINGS:
        tried = []
        for longest in settings.longest_ngrams:
            features = extract_ngrams(words, weighting, longest, min_df=settings.min_df)
            tried += [(*fit(features, strength), longest) for strength in settings.strengths]
        _, fitted, longest = max(tried, key=lambda result: result[0])
        yield f"{weighting} of 1- to {longest}-grams", fitted


def predict_labels(features: dict[str, csr_matrix], train: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """The probabilities of labels, each by a logistic regression of its own.

    Args:
        features: Those of `train`, `validation` and `test`.
        train: 0 or 1, (words, outputs).
        strength: How little the weights are held down (C).

    Returns:
        Those of the validation and of the test, each (words, outputs).
    """
    found: dict[str, list[np.ndarray]] = {"validation": [], "test": []}
    for column in train.T:
        model = LogisticRegression(C=strength, solver="liblinear").fit(features["train"], column)
        for name, columns in found.items():
            columns.append(model.predict_proba(features[name])[:, 1])
    return np.stack(found["validation"], axis=1), np.stack(found["test"], axis=1)


def choose_threshold(
    probabilities: np.ndarray, labels: np.ndarray, score: Callable[[np.ndarray, np.ndarray], float]
) -> tuple[float, float]:
    """The probability from which on labels are best predicted, and the score there.

    Args:
        probabilities: (words, outputs).
        labels: 0 or 1, (words, outputs).
        score: Of what is predicted where it is not below 0, and the labels.
    """
    scores = [score(probabilities - threshold, labels) for threshold in THRESHOLDS]
    best = int(np.argmax(scores))
    return float(THRESHOLDS[best]), scores[best]


def predict_numbers(features: dict[str, csr_matrix], train: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Numbers by a ridge regression.

    Args:
        features: Those of `train`, `validation` and `test`.
        train: (words,).
        strength: How much the weights are held down (alpha).

    Returns:
        Those of the validation and of the test, each (words,).
    """
    model = Ridge(alpha=strength, solver="sparse_cg", tol=1e-4).fit(features["train"], train)
    return model.predict(features["validation"]), model.predict(features["test"])


def number_labels(targets: Iterable[Sequence[str]], names: Sequence[str]) -> np.ndarray:
    """0 or 1 for each of some labels, (words, outputs)."""
    return np.array([[int(name in target) for name in names] for target in targets])


__all__ = [
    "NgramSettings",
    "choose_features",
    "choose_threshold",
    "extract_ngrams",
    "number_labels",
    "predict_labels",
    "predict_numbers",
    "read_words",
]

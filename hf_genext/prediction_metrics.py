"""Metrics of single outputs, as scikit-learn and SciPy compute them: of classes, labels and numbers. Shares are in percent.

What is not known, -100 or for numbers NaN, is left out. Densities are judged by what they find likely: log-likelihoods in nats.

Legend: rows, outputs (classes, labels or numbers).
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from hf_genext.genext.configuration_heads_genext import DENSITY_KINDS

NUM_BINS = 15
_SCIKIT_LEARN, _SCIPY = "sklearn.metrics", "scipy.stats"


def _require(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError('Metrics of single outputs need scikit-learn: pip install "hf_genext[metrics]"') from error


def score_accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """The share of rows whose likeliest class is the right one, in percent.

    Args:
        logits: (rows, outputs).
        labels: (rows,).

    Example:
        >>> score_accuracy(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0, 1]))
        50.0
    """
    known = labels != -100
    return 100.0 * float((logits.argmax(axis=1) == labels)[known].mean())


def score_macro_f1(logits: np.ndarray, labels: np.ndarray) -> float:
    """The mean over the classes of F1, in percent: a rare class counts as much as a frequent one. Arguments as for accuracy.

    Classes that neither a label nor a prediction names are left out.
    """
    known = labels != -100
    predicted = logits.argmax(axis=1)[known]
    return 100.0 * float(_require(_SCIKIT_LEARN).f1_score(labels[known], predicted, average="macro", zero_division=0))


def score_calibration_error(logits: np.ndarray, labels: np.ndarray) -> float:
    """How far the probability of the likeliest class is from how often it is right, in percentage points.

    The expected calibration error over 15 bins of equal width (Guo et al. 2017, eq. 3). Arguments as for accuracy.

    Example:
        >>> score_calibration_error(np.array([[0.0, 100.0], [0.0, 100.0]]), np.array([1, 0]))
        50.0
    """
    known = labels != -100
    logits = logits[known].astype(np.float64)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    confidences = exponentials.max(axis=1) / exponentials.sum(axis=1)
    right = logits.argmax(axis=1) == labels[known]
    bins = np.minimum((confidences * NUM_BINS).astype(int), NUM_BINS - 1)
    gaps = np.bincount(bins, right - confidences, NUM_BINS)
    return 100.0 * float(np.abs(gaps).sum() / len(right))


def score_micro_f1(logits: np.ndarray, labels: np.ndarray, threshold: float = 0.5) -> float:
    """F1 over all labels of all rows together, in percent.

    Args:
        logits: (rows, outputs).
        labels: 0 or 1, (rows, outputs).
        threshold: The probability from which on a label is predicted.

    Example:
        >>> score_micro_f1(np.array([[0.0, -1.0, -1.0]]), np.array([[1, 1, 1]]), threshold=0.25)
        100.0
    """
    known = labels != -100
    predicted = logits[known] >= np.log(threshold / (1.0 - threshold))
    return 100.0 * float(_require(_SCIKIT_LEARN).f1_score(labels[known], predicted, zero_division=0))


def score_spearman(means: np.ndarray, labels: np.ndarray) -> float:
    """Spearman's rank correlation of predicted with true numbers; of several numbers the mean; 0 where it is not defined.

    Args:
        means: (rows, outputs).
        labels: (rows, outputs), or (rows,) for one.
    """
    spearmanr = _require(_SCIPY).spearmanr
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of a constant, which has no ranks.
        values = [float(spearmanr(mean, label).statistic) for mean, label in _list_known(means, labels)]
    return float(np.mean(np.nan_to_num(values)))


def score_r2(means: np.ndarray, labels: np.ndarray) -> float:
    """The coefficient of determination R²: 1 is perfect, 0 as good as the mean; of several numbers the mean.

    NaN where fewer than two true numbers are known. Arguments as for Spearman's correlation.
    """
    r2_score = _require(_SCIKIT_LEARN).r2_score
    values = [r2_score(label, mean) for mean, label in _list_known(means, labels) if len(label) > 1]
    return float(np.mean(values)) if values else float("nan")


def score_log_likelihood(log_probs: np.ndarray, labels: np.ndarray) -> float:
    """The mean log-density of the rows, in nats.

    Args:
        log_probs: The log-density of each row, (rows,).
        labels: What it is of, (rows, outputs), or (rows,) for one number.

    Example:
        >>> score_log_likelihood(np.array([-1.0, -3.0]), np.array([[0.5, 1.0], [0.0, 2.0]]))
        -2.0
    """
    known = ~np.isnan(labels).reshape(len(labels), -1).any(axis=1)
    return float(log_probs[known].astype(np.float64).mean())


def score_log_likelihood_per_dimension(log_probs: np.ndarray, labels: np.ndarray) -> float:
    """The mean log-density of the rows divided by the numbers of each. Arguments as for the log-likelihood."""
    return score_log_likelihood(log_probs, labels) / labels.reshape(len(labels), -1).shape[1]


def score_bits_per_dimension(log_probs: np.ndarray, labels: np.ndarray) -> float:
    """The mean of what it takes to tell a pixel, in bits.

    Args:
        log_probs: The log-probability of each image in nats, (rows,); of a model with latent numbers the bound of one draw.
        labels: The images, (rows, pixels).

    Example:
        >>> score_bits_per_dimension(np.array([-4 * np.log(2.0)]), np.zeros((1, 4)))
        1.0
    """
    return -score_log_likelihood_per_dimension(log_probs, labels) / float(np.log(2.0))


def _list_known(means: np.ndarray, labels: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each output the predicted and the true numbers of those rows that have one."""
    columns = zip(means.T, labels.reshape(means.shape).T, strict=True)
    return [(mean[~np.isnan(label)], label[~np.isnan(label)]) for mean, label in columns]


PREDICTION_METRICS: dict[str, tuple[str, Callable[[np.ndarray, np.ndarray], float]]] = {
    "accuracy": ("class", score_accuracy),
    "bits_per_dimension": ("image", score_bits_per_dimension),
    "calibration_error": ("class", score_calibration_error),
    "log_likelihood": ("density", score_log_likelihood),
    "log_likelihood_per_dimension": ("density", score_log_likelihood_per_dimension),
    "macro_f1": ("class", score_macro_f1),
    "micro_f1": ("labels", score_micro_f1),
    "r2": ("regression", score_r2),
    "spearman": ("regression", score_spearman),
}
"""Metrics by the name that a recipe uses: the kind of head that they are for (all densities are one), and the function."""


_NEEDS = {"macro_f1": _SCIKIT_LEARN, "micro_f1": _SCIKIT_LEARN, "r2": _SCIKIT_LEARN, "spearman": _SCIPY}
"""What metrics need besides NumPy."""


def list_prediction_metrics(kind: str) -> list[str]:
    """The metrics that are for a kind of head."""
    kind = "density" if kind in DENSITY_KINDS else kind
    return [name for name, (known, _) in PREDICTION_METRICS.items() if known == kind]


def build_prediction_metrics(
    names: Sequence[str], kind: str, *, threshold: float = 0.5
) -> Callable[[np.ndarray, np.ndarray], dict[str, float]]:
    """One function that computes several metrics.

    Args:
        names: Names of [`PREDICTION_METRICS`].
        kind: The kind of the head: `"class"`, `"labels"`, `"regression"`, `"mixture"`, `"flow"` or `"image"`.
        threshold: The probability from which on a label is predicted.

    Returns:
        A function that gives all results, of logits or means, (rows, outputs), of a density log-probabilities, (rows,), and of
        labels.

    Raises:
        ImportError: for a metric whose package is not installed.
        ValueError: for a name that is not known, or not for this kind.

    Example:
        >>> metrics = build_prediction_metrics(["accuracy"], "class")
        >>> metrics(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 1]))
        {'accuracy': 100.0}
    """
    known = list_prediction_metrics(kind)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"There is no metric {unknown[0]!r} of a head of kind {kind!r}; known are {', '.join(known)}.")
    for name in names:
        if name in _NEEDS:
            _require(_NEEDS[name])
    functions = {name: PREDICTION_METRICS[name][1] for name in names}
    if "micro_f1" in functions:
        functions["micro_f1"] = partial(score_micro_f1, threshold=threshold)
    return lambda outputs, labels: {name: function(outputs, labels) for name, function in functions.items()}


__all__ = [
    "PREDICTION_METRICS",
    "build_prediction_metrics",
    "list_prediction_metrics",
    "score_accuracy",
    "score_bits_per_dimension",
    "score_calibration_error",
    "score_log_likelihood",
    "score_log_likelihood_per_dimension",
    "score_macro_f1",
    "score_micro_f1",
    "score_r2",
    "score_spearman",
]

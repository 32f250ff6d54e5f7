"""Metrics of single outputs beside counting by hand, with and without what is not known."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from hf_genext.prediction_metrics import PREDICTION_METRICS, build_prediction_metrics

DRAW = np.random.default_rng(0)
MISSING = {"class": -100, "labels": -100, "regression": np.nan, "density": np.nan, "image": np.nan}


def build(kind):
    """Outputs and labels of 60 rows."""
    if kind == "class":
        return DRAW.standard_normal((60, 4)), DRAW.integers(0, 4, 60)
    if kind == "labels":
        return DRAW.standard_normal((60, 5)), DRAW.integers(0, 2, (60, 5))
    if kind == "image":
        return DRAW.standard_normal(60).astype(np.float32), DRAW.integers(0, 17, (60, 4)).astype(np.float32)
    if kind == "density":
        return DRAW.standard_normal(60).astype(np.float32), DRAW.standard_normal((60, 3)).astype(np.float32)
    means = DRAW.standard_normal((60, 2)).astype(np.float32)
    return means, means + DRAW.standard_normal((60, 2)).astype(np.float32)


def compute_f1(predicted, true):
    hits = (predicted & true).sum()
    return 2 * hits / max((predicted.sum() + true.sum()), 1)


def rank(values):
    return np.argsort(np.argsort(values))


def count_by_hand(name, outputs, labels):
    if name == "accuracy":
        return 100 * np.mean([row.argmax() == label for row, label in zip(outputs, labels, strict=True)])
    if name == "calibration_error":
        shares = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
        error = 0.0
        for low in np.arange(15) / 15:
            inside = (shares.max(axis=1) >= low) & (shares.max(axis=1) < low + 1 / 15)
            if inside.any():
                right = outputs.argmax(axis=1)[inside] == labels[inside]
                error += inside.mean() * abs(right.mean() - shares.max(axis=1)[inside].mean())
        return 100 * error
    if name == "macro_f1":
        chosen = outputs.argmax(axis=1)
        return 100 * np.mean([compute_f1(chosen == place, labels == place) for place in range(4)])
    if name == "micro_f1":
        return 100 * compute_f1(outputs >= 0, labels == 1)
    if name == "bits_per_dimension":
        return -sum(outputs.tolist()) / 60 / 4 / np.log(2)
    if name.startswith("log_likelihood"):
        return sum(outputs.tolist()) / 60 / (3 if name.endswith("dimension") else 1)
    columns = list(zip(outputs.T.astype(np.float64), labels.T.astype(np.float64), strict=True))
    if name == "spearman":
        return np.mean([np.corrcoef(rank(mean), rank(label))[0, 1] for mean, label in columns])
    return np.mean([1 - ((label - mean) ** 2).sum() / ((label - label.mean()) ** 2).sum() for mean, label in columns])


@pytest.mark.parametrize("name", sorted(PREDICTION_METRICS))
def test_metrics_are_what_counting_by_hand_gives(name):
    kind = PREDICTION_METRICS[name][0]
    outputs, labels = build(kind)
    found = build_prediction_metrics([name], "flow" if kind == "density" else kind)(outputs, labels)[name]
    assert found == pytest.approx(count_by_hand(name, outputs, labels), rel=1e-5)


@pytest.mark.parametrize("name", sorted(PREDICTION_METRICS))
def test_what_is_not_known_changes_no_metric(name):
    kind = PREDICTION_METRICS[name][0]
    outputs, labels = build(kind)
    metric = build_prediction_metrics([name], "mixture" if kind == "density" else kind)
    expected = metric(outputs, labels)
    unknown = np.full((20, *labels.shape[1:]), MISSING[kind], dtype=labels.dtype)
    more = np.concatenate([outputs, DRAW.standard_normal((20, *outputs.shape[1:])).astype(outputs.dtype)])
    assert metric(more, np.concatenate([labels, unknown])) == pytest.approx(expected)


def test_a_package_that_is_missing_is_told_when_metrics_are_built_and_not_when_they_are_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    with pytest.raises(ImportError, match=r"scikit-learn: pip install \"hf_genext\[metrics\]"):
        build_prediction_metrics(["accuracy", "macro_f1"], "class")
    assert build_prediction_metrics(["accuracy"], "class")(np.eye(2), np.arange(2)) == {"accuracy": 100.0}

"""An evaluator for the task: a model or pipeline, a dataset and a metric in, scores with bootstrap intervals out.

It is called, and answers, as `evaluate.evaluator(...).compute` does, which knows no such task.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import evaluate
import numpy as np
from transformers import Pipeline, PreTrainedModel, PreTrainedTokenizerBase, pipeline

from hf_genext.metrics import METRICS, GenerationMetric
from hf_genext.tables import find_class_names, name_classes

TASK = "conditional-generation"

Scoring: TypeAlias = Callable[[list[Any], list[Any]], Mapping[str, float]]
"""Turns predictions and references into named numbers."""


class ConditionalGenerationEvaluator:
    """Scores models of the task on datasets.

    Example:
        >>> from datasets import Dataset
        >>> data = Dataset.from_dict({"text": ["a", "b", "c", "d"], "label": ["A", "B", "C", "E"]})
        >>> def capitalise(texts, **kwargs):
        ...     return [[{"generated_text": text.upper()}] for text in texts]
        >>> scores = ConditionalGenerationEvaluator().compute(capitalise, data, "exact_match", strategy="bootstrap")
        >>> scores["exact_match"]["score"]
        75.0
        >>> scores["exact_match"]["confidence_interval"]
        (25.0, 100.0)
    """

    task = TASK

    def compute(
        self,
        model_or_pipeline: str | os.PathLike[str] | PreTrainedModel | Pipeline | Callable[..., Any],
        data: Any,
        metric: str | Sequence[str] | evaluate.EvaluationModule | evaluate.CombinedEvaluations | Scoring = "exact_match",
        *,
        processor: Any | None = None,
        strategy: Literal["simple", "bootstrap"] = "simple",
        confidence_level: float = 0.95,
        n_resamples: int = 1000,
        random_state: int | None = 0,
        input_column: str = "text",
        label_column: str = "label",
        batch_size: int = 32,
        **call_kwargs: Any,
    ) -> dict[str, Any]:
        """Predict every row and score what was predicted.

        Args:
            model_or_pipeline: A folder or Hub id, a model, a pipeline, or a function that answers as one.
            data: A dataset, or a dictionary of columns.
            metric: A name of `hf_genext.metrics.METRICS` or several, a metric of `evaluate` or several combined, or a function
                of predictions and references. Of a single output the predictions are class names, lists of label names, or
                numbers.
            processor: Of a model that is given itself; its tokenizer, where it has no processor.
            strategy: `"bootstrap"` adds intervals: rows are drawn with replacement and scored again.
            confidence_level: Share of the resampled scores inside an interval.
            n_resamples: How often to draw.
            random_state: Seed of the drawing.
            input_column: The column of the conditions, as the pipeline takes them.
            label_column: The column of the references; a list of texts is several references of a row. Classes of `datasets`
                are taken by their names.
            batch_size: How many rows run at once.
            call_kwargs: As a call of the pipeline takes them, such as `num_beams`.

        Returns:
            For each name of the metric its score, or with `"bootstrap"` a dictionary of `score`, `confidence_interval` (the
            percentile interval, Efron 1979) and `standard_error`. Besides `total_time_in_seconds`, `samples_per_second` and
            `latency_in_seconds`.

        Raises:
            ValueError: for a column that is not there, no rows, or a strategy or metric that is not known.
        """
        if strategy not in ("simple", "bootstrap"):
            raise ValueError(f'strategy must be "simple" or "bootstrap", got {strategy!r}.')
        if not 0.0 < confidence_level < 1.0:
            raise ValueError(f"confidence_level must be between 0 and 1, got {confidence_level}.")
        scoring = _build_scoring(metric)
        conditions, references = (_take_column(data, name) for name in (input_column, label_column))
        if not conditions or len(conditions) != len(references):
            raise ValueError(
                f"An evaluation needs rows with a reference each, got {len(conditions)} rows and {len(references)} references."
            )
        pipe = _open_pipeline(model_or_pipeline, processor)
        started = time.perf_counter()
        predictions = [_read_answer(answer) for answer in pipe(conditions, batch_size=batch_size, **call_kwargs)]
        seconds = time.perf_counter() - started
        scores: dict[str, Any] = dict(scoring(predictions, references))
        if strategy == "bootstrap":
            drawn = draw_scores(scoring, predictions, references, n_resamples=n_resamples, random_state=random_state)
            scores = {
                name: {"score": score, **_summarise_drawn(drawn[name], confidence_level)} for name, score in scores.items()
            }
        return {
            **scores,
            "total_time_in_seconds": seconds,
            "samples_per_second": len(conditions) / seconds,
            "latency_in_seconds": seconds / len(conditions),
        }


def draw_scores(
    scoring: Scoring, predictions: Sequence[Any], references: Sequence[Any], *, n_resamples: int, random_state: int | None = 0
) -> dict[str, np.ndarray]:
    """Scores of rows that are drawn with replacement, as many as there are (Efron 1979).

    Args:
        scoring: Turns predictions and references into named numbers.
        predictions: One for each row.
        references: One for each row.
        n_resamples: How often to draw.
        random_state: Seed of the drawing.

    Returns:
        For each name the score of each draw, (resamples,).

    Raises:
        ValueError: for fewer than two draws.
    """
    if n_resamples < 2:
        raise ValueError(f"n_resamples must be 2 or more, got {n_resamples}; 1000 is usual.")
    generator = np.random.default_rng(random_state)
    drawn: dict[str, list[float]] = {}
    for _ in range(n_resamples):
        rows = generator.integers(0, len(predictions), len(predictions))
        for name, score in scoring([predictions[row] for row in rows], [references[row] for row in rows]).items():
            drawn.setdefault(name, []).append(float(score))
    return {name: np.array(values) for name, values in drawn.items()}


def _summarise_drawn(drawn: np.ndarray, confidence_level: float) -> dict[str, Any]:
    low, high = np.quantile(drawn, [(1 - confidence_level) / 2, (1 + confidence_level) / 2])
    return {"confidence_interval": (float(low), float(high)), "standard_error": float(drawn.std(ddof=1))}


def _build_scoring(metric: Any) -> Scoring:
    if isinstance(metric, str):
        metric = [metric]
    if isinstance(metric, (list, tuple)):
        unknown = [name for name in metric if name not in METRICS]
        if unknown:
            raise ValueError(f"There is no metric {unknown[0]!r}; known are {', '.join(sorted(METRICS))}.")
        return _compare_with([METRICS[name]() for name in metric])
    if isinstance(metric, GenerationMetric):
        return _compare_with([metric])
    if hasattr(metric, "compute"):
        return lambda predictions, references: metric.compute(predictions=predictions, references=references)
    if callable(metric):
        return metric
    raise ValueError(f"metric must be a name among {', '.join(sorted(METRICS))}, a metric or a function, got {metric!r:.60}.")


def _compare_with(metrics: Sequence[GenerationMetric]) -> Scoring:
    """Score with metrics of our own: checked at the first call, and then without the way over Arrow, which is slow."""
    checked = False

    def score(predictions: list[Any], references: list[Any]) -> dict[str, float]:
        nonlocal checked
        lists = [[reference] if isinstance(reference, str) else list(reference) for reference in references]
        results: dict[str, float] = {}
        for metric in metrics:
            compare = metric.compare if checked else lambda p, r, metric=metric: metric.compute(predictions=p, references=r)
            results.update(compare(predictions, lists))
        checked = True
        return results

    return score


def _take_column(data: Any, name: str) -> list[Any]:
    known = getattr(data, "column_names", None) or list(data)
    if name not in known:
        raise ValueError(
            f"The data have no column {name!r}; there are {', '.join(map(str, known))}. Choose with input_column= and "
            "label_column=."
        )
    features = getattr(data, "features", None)
    names = None if features is None else find_class_names(features[name])
    return list(data[name]) if names is None else [name_classes(value, names) for value in data[name]]


def _open_pipeline(given: Any, processor: Any | None) -> Callable[..., Any]:
    if isinstance(given, (str, os.PathLike)):
        return pipeline(TASK, model=os.fspath(given))
    if isinstance(given, PreTrainedModel):
        if isinstance(processor, PreTrainedTokenizerBase):
            return pipeline(TASK, model=given, tokenizer=processor)
        return pipeline(TASK, model=given, processor=processor, tokenizer=getattr(processor, "tokenizer", None))
    if callable(given):
        return given
    raise TypeError(f"An evaluation needs a folder, a model, a pipeline or a function, got {type(given).__name__}.")


def _read_answer(answer: Any) -> Any:
    """What a pipeline says of a row first."""
    first = answer[0] if isinstance(answer, list) else answer
    for name in ("generated_text", "label", "labels", "value"):
        if name in first:
            return first[name]
    raise ValueError(f"An answer has none of generated_text, label, labels and value: {first!r:.80}.")


__all__ = ["ConditionalGenerationEvaluator", "draw_scores"]

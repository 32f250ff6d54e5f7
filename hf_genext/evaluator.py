"""An evaluator for the task: a model or pipeline, a dataset and a metric in, scores with bootstrap intervals out.

It is called, and answers, as `evaluate.evaluator(...).compute` does, which knows no such task.

Legend: rows, outputs (classes, labels or numbers).
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
from hf_genext.prediction_metrics import PREDICTION_METRICS, build_prediction_metrics
from hf_genext.tables import find_class_names, name_classes

TASK = "conditional-generation"

_METRICS = {
    "text": tuple(METRICS),
    "class": ("accuracy", "macro_f1", *METRICS),  # A class is a name, and that a text.
    "labels": ("micro_f1",),
    "regression": ("r2", "spearman"),
}
"""Named metrics of each kind of output; those of heads that need more than what a pipeline answers are left out."""

_DEFAULTS = {"text": "exact_match", "class": "accuracy", "labels": "micro_f1", "regression": "r2"}

_REFERENCES = {
    "text": "a text, or a list of several of which one is right",
    "class": "the name of a class",
    "labels": "a list of the names of labels, [] where there are none",
    "regression": "a number, of several outputs a list of them or a dictionary by their names",
}

_ANSWERS = {"label": "class", "labels": "labels", "value": "regression"}
"""The kind of output, by what an answer calls it; what has another name is a text."""

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
        metric: str | Sequence[str] | evaluate.EvaluationModule | evaluate.CombinedEvaluations | Scoring | None = None,
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
            metric: A name or several, a metric of `evaluate` or several combined, or a function of predictions and references.
                Names are those of `hf_genext.metrics.METRICS` for texts and classes; `accuracy` and `macro_f1` for classes,
                `micro_f1` for labels, `r2` and `spearman` for numbers. Left out, `exact_match`, `accuracy`, `micro_f1` or
                `r2`. A function gets class names, lists of label names, or numbers as the pipeline answers them.
            processor: Of a model that is given itself; its tokenizer, where it has no processor.
            strategy: `"bootstrap"` adds intervals: rows are drawn with replacement and scored again.
            confidence_level: Share of the resampled scores inside an interval.
            n_resamples: How often to draw.
            random_state: Seed of the drawing.
            input_column: The column of the conditions, as the pipeline takes them.
            label_column: The column of the references: texts, or lists of several references of a row; names of classes,
                lists of names of labels, or numbers (of several a list, or a dictionary by their names, NaN where one is not
                known). Classes of `datasets` are taken by their names.
            batch_size: How many rows run at once.
            call_kwargs: As a call of the pipeline takes them, such as `num_beams`.

        Returns:
            For each name of the metric its score, or with `"bootstrap"` a dictionary of `score`, `confidence_interval` (the
            percentile interval, Efron 1979) and `standard_error`; what is no number, such as BLEU's list of precisions, stays
            as it is. Besides `total_time_in_seconds`, `samples_per_second` and `latency_in_seconds`.

        Raises:
            TypeError: for what is no model, or no data.
            ValueError: for a column that is not there, no rows, a reference that the metric cannot take, or a strategy or
                metric that is not known.
        """
        if strategy not in ("simple", "bootstrap"):
            raise ValueError(f'strategy must be "simple" or "bootstrap", got {strategy!r}.')
        if not 0.0 < confidence_level < 1.0:
            raise ValueError(f"confidence_level must be between 0 and 1, got {confidence_level}.")
        if strategy == "bootstrap":
            _require_resamples(n_resamples)
        metric = _require_known(metric)
        conditions, references = (_take_column(data, name) for name in (input_column, label_column))
        if not conditions or len(conditions) != len(references):
            raise ValueError(
                f"An evaluation needs rows with a reference each, got {len(conditions)} rows and {len(references)} references."
            )
        pipe = _open_pipeline(model_or_pipeline, processor)
        # What a function answers is known when it has answered.
        kind, names = _find_outputs(pipe)
        scoring = None if kind is None else _build_scoring(metric, kind, names, references)
        key = call_kwargs.get("output_key") or getattr(pipe, "_postprocess_params", {}).get("output_key")
        started = time.perf_counter()
        answers = list(pipe(conditions, batch_size=batch_size, **call_kwargs))
        seconds = time.perf_counter() - started
        if len(answers) != len(conditions):
            raise ValueError(f"Each row needs an answer: got {len(answers)} answers of {len(conditions)} rows.")
        read = [_read_answer(row, answer, key) for row, answer in enumerate(answers)]
        predictions = [prediction for _, prediction in read]
        if scoring is None:
            names = list(predictions[0]) if isinstance(predictions[0], Mapping) else None
            scoring = _build_scoring(metric, read[0][0], names, references)
        scores: dict[str, Any] = dict(scoring(predictions, references))
        if strategy == "bootstrap":
            drawn = draw_scores(scoring, predictions, references, n_resamples=n_resamples, random_state=random_state)
            scores = {
                name: {"score": score, **_summarise_drawn(score, drawn[name], confidence_level)} if name in drawn else score
                for name, score in scores.items()
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
        For each name the score of each draw, (resamples,), where it is a number.

    Raises:
        ValueError: for fewer than two draws.
    """
    _require_resamples(n_resamples)
    generator = np.random.default_rng(random_state)
    drawn: dict[str, list[float]] = {}
    for _ in range(n_resamples):
        rows = generator.integers(0, len(predictions), len(predictions))
        for name, score in scoring([predictions[row] for row in rows], [references[row] for row in rows]).items():
            if np.ndim(score) == 0 and score is not None and not isinstance(score, str):
                drawn.setdefault(name, []).append(float(score))
    return {name: np.array(values) for name, values in drawn.items()}


def _require_resamples(n_resamples: int) -> None:
    if n_resamples < 2:
        raise ValueError(f"n_resamples must be 2 or more, got {n_resamples}; 1000 is usual.")


def _summarise_drawn(score: float, drawn: np.ndarray, confidence_level: float) -> dict[str, Any]:
    drawn = drawn[~np.isnan(drawn)]  # Of rows that happen to have no reference there is no score.
    if len(drawn) < 2 or np.isnan(score):
        return {"confidence_interval": (float("nan"), float("nan")), "standard_error": float("nan")}
    low, high = np.quantile(drawn, [(1 - confidence_level) / 2, (1 + confidence_level) / 2])
    return {"confidence_interval": (float(low), float(high)), "standard_error": float(drawn.std(ddof=1))}


# Metrics


def _require_known(metric: Any) -> Any:
    """A metric as it was given, names as a list.

    Raises:
        ValueError: for a name that no kind of output has, or what is no metric.
    """
    known = sorted({name for names in _METRICS.values() for name in names})
    names = [metric] if isinstance(metric, str) else metric
    if isinstance(names, (list, tuple)):
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            told = f"There is no metric {unknown[0]!r}" if unknown else "There are no metrics in an empty list"
            raise ValueError(f"{told}; known are {', '.join(known)}.")
    elif names is not None and not hasattr(names, "compute") and not callable(names):
        raise ValueError(f"metric must be a name among {', '.join(known)}, a metric or a function, got {metric!r:.60}.")
    return names


def _find_outputs(pipe: Any) -> tuple[str | None, list[str] | None]:
    """The kind of output of a pipeline of ours, with the names of its numbers; `None` where it is not known yet."""
    if not isinstance(pipe, Pipeline):
        return None, None
    if pipe.model.can_generate():
        return "text", None
    head = getattr(pipe.model.config, "head", None)
    if head is None:
        return None, None
    if head.kind == "image":
        raise ValueError(
            "The evaluator scores texts, classes, labels and numbers, and this model gives images. pipe.score says how likely "
            "it finds given ones."
        )
    if head.kind in ("class", "labels"):
        return head.kind, None
    return "regression", list(head.output_names or map(str, range(head.num_outputs)))


def _build_scoring(metric: Any, kind: str, names: list[str] | None, references: list[Any]) -> Scoring:
    """What scores outputs of a kind; references are checked where the metric is one of ours.

    Raises:
        ValueError: for a metric of another kind, or naming the first row whose reference the metric cannot take.
    """
    if metric is None:
        metric = [_DEFAULTS[kind]]
    if isinstance(metric, list):
        unfit = [name for name in metric if name not in _METRICS[kind]]
        if unfit:
            raise ValueError(
                f"The metric {unfit[0]!r} is not for outputs of kind {kind!r}; those have {', '.join(_METRICS[kind])}."
            )
        own = [name for name in metric if name in PREDICTION_METRICS]
        texts = [METRICS[name]() for name in metric if name not in own]
    elif isinstance(metric, GenerationMetric):
        own, texts = [], [metric]
    else:
        if not hasattr(metric, "compute"):
            return metric
        return lambda predictions, references: metric.compute(predictions=predictions, references=references)
    # Classes alone by texts may have several references.
    taken = kind if own else "text"
    for row, reference in enumerate(references):
        if not _fits(reference, taken, names):
            raise ValueError(f"Row {row}: a reference is {_REFERENCES[taken]}; got {reference!r:.60}.")
    parts = [_compare_with(texts)] if texts else []
    if own:
        parts.append(_compare_arrays(build_prediction_metrics(own, kind), kind, names))
    return lambda predictions, references: {
        name: score for part in parts for name, score in part(predictions, references).items()
    }


def _fits(reference: Any, kind: str, names: list[str] | None) -> bool:
    """Whether a reference is one of a kind of output."""
    if kind == "regression":
        try:
            numbers = _read_numbers(reference, names)
        except (KeyError, TypeError, ValueError):
            return False
        return reference is not None and numbers.shape == (len(names or [0]),) and not np.isinf(numbers).any()
    if isinstance(reference, str):
        return kind != "labels"
    is_list = isinstance(reference, (list, tuple, np.ndarray)) and all(isinstance(name, str) for name in reference)
    return is_list and (kind == "labels" or (kind == "text" and len(reference) > 0))


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


def _compare_arrays(compute: Callable[..., dict[str, float]], kind: str, names: list[str] | None) -> Scoring:
    """Score with metrics of single outputs, which take arrays: what was predicted stands for the logits that say it."""

    def score(predictions: list[Any], references: list[Any]) -> dict[str, float]:
        if kind == "regression":
            means, labels = (np.stack([_read_numbers(value, names) for value in side]) for side in (predictions, references))
            return compute(means, labels)
        if kind == "class":
            places = {name: place for place, name in enumerate(sorted({*predictions, *references}))}
            chosen, labels = (np.array([places[name] for name in side]) for side in (predictions, references))
            return compute(np.eye(len(places))[chosen], labels)
        known = sorted({name for row in (*predictions, *references) for name in row}) or [""]
        chosen, labels = (np.array([[name in row for name in known] for row in side]) for side in (predictions, references))
        return compute(np.where(chosen, 1.0, -1.0), labels.astype(int))

    return score


def _read_numbers(value: Any, names: list[str] | None) -> np.ndarray:
    """A number, or several in the order of their names, (outputs,)."""
    values = [value[name] for name in names or value] if isinstance(value, Mapping) else value
    return np.array(values, dtype=np.float64, ndmin=1)


# Models and data


def _take_column(data: Any, name: str) -> list[Any]:
    if isinstance(data, (list, tuple)) or not hasattr(data, "__getitem__"):
        raise TypeError(f"An evaluation needs a dataset or a dictionary of columns, got {type(data).__name__}.")
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


def _read_answer(row: int, answer: Any, output_key: str | None) -> tuple[str, Any]:
    """What a pipeline says of a row first, and what kind of output that is."""
    if not answer:
        raise ValueError(f"Row {row} has no answer, got {answer!r}. Each row needs one to be scored.")
    first = answer[0] if isinstance(answer, list) else answer
    names = (output_key or "generated_text", *_ANSWERS)
    for name in names:
        if name in first:
            return _ANSWERS.get(name, "text"), first[name]
    raise ValueError(f"Row {row}: an answer has one of {', '.join(names)}; got {first!r:.80}.")


__all__ = ["ConditionalGenerationEvaluator", "draw_scores"]

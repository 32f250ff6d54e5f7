"""Metrics of generated texts, as `evaluate.Metric` classes that need no network.

Every metric takes several references for a prediction: the best one counts. References are a list of strings, or for each
prediction a list of them. Rates are in percent.
"""

from __future__ import annotations

import importlib
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import datasets
import evaluate
import numpy as np

from hf_genext.offline_metrics import OfflineMetric

References = Sequence[str] | Sequence[Sequence[str]]
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


class GenerationMetric(OfflineMetric):
    """Base of the metrics: checks what comes in, then compares each prediction with its references.

    Subclasses set `description` and `citation`, name the module of another package that they need in `needs`, and implement
    `compare`.
    """

    needs: ClassVar[str | None] = None

    @classmethod
    def open_package(cls) -> Any:
        """The module that the metric needs, or `None`.

        Raises:
            ImportError: if it is not installed.
        """
        try:
            return None if cls.needs is None else importlib.import_module(cls.needs)
        except ImportError as error:
            package = str(cls.needs).split(".")[0]
            raise ImportError(f'This metric needs {package}: pip install "hf_genext[metrics]"') from error

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.description,
            citation=self.citation,
            inputs_description="predictions: list of str; references: list of str, or of lists of str.",
            features=datasets.Features(
                {
                    "predictions": datasets.Value("string"),
                    "references": datasets.Sequence(datasets.Value("string")),
                }
            ),
        )

    def compute(
        self, *, predictions: Sequence[str] | None = None, references: References | None = None, **kwargs: Any
    ) -> dict[str, float] | None:
        """Compare predictions with references.

        Args:
            predictions: One text for each item.
            references: One text, or a list of texts, for each item.
            kwargs: As `evaluate.Metric.compute` takes them.

        Returns:
            The metric by name.

        Raises:
            ValueError: if the numbers of items differ, there are none, or an item has no reference.
        """
        if predictions is not None and references is not None:
            references = [[item] if isinstance(item, str) else list(item) for item in references]
            if len(predictions) != len(references):
                raise ValueError(
                    f"Each prediction needs its references: got {len(predictions)} predictions and {len(references)} "
                    "references."
                )
            if not references:
                raise ValueError("There is nothing to compare: got no predictions.")
            empty = next((index for index, item in enumerate(references) if not item), None)
            if empty is not None:
                raise ValueError(f"Item {empty} has no reference; each prediction needs one at least.")
        return super().compute(predictions=predictions, references=references, **kwargs)

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        return self.compare(list(predictions), [list(item) for item in references])

    def compare(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        """Compare, both sides checked and of equal length."""
        raise NotImplementedError


class ExactMatch(GenerationMetric):
    """Share of predictions that equal one of their references, in percent.

    Example:
        >>> ExactMatch().compute(predictions=["a b", "c"], references=[["a b", "b"], ["d"]])
        {'exact_match': 50.0}
    """

    description = "Share of predictions that equal one of their references, in percent."

    def compare(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        """See the class."""
        return {"exact_match": 100.0 * float(np.mean(score_exact(predictions, references)))}


class WordErrorRate(GenerationMetric):
    """Share of items that are wrong as a whole, in percent: what pronunciation and inflection call word error rate.

    An item is one word, and is right if it equals one of its references. (Speech recognition means the edit distance over
    words by that name; here that is [`TokenErrorRate`].)

    Example:
        >>> WordErrorRate().compute(predictions=["K AE T", "B"], references=[["K AE T"], ["B AE"]])
        {'word_error_rate': 50.0}
    """

    description = "Share of items that equal none of their references, in percent."

    def compare(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        """See the class."""
        return {"word_error_rate": 100.0 - 100.0 * float(np.mean(score_exact(predictions, references)))}


class TokenErrorRate(GenerationMetric):
    """Edit distance over white-space tokens divided by the reference's tokens, over all items, in percent.

    For each item the reference with the lowest rate counts, the longer one where rates are equal.
    """

    description = "Edit distance over tokens, divided by the number of reference tokens, in percent."
    needs = "rapidfuzz.distance"
    name_of_result: ClassVar[str] = "token_error_rate"

    def split(self, text: str) -> Sequence[str]:
        """The units that are compared."""
        return text.split()

    def compare(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        """See the class."""
        distance = self.open_package().Levenshtein.distance
        errors = length = 0
        for prediction, candidates in zip(predictions, references, strict=True):
            given = self.split(prediction)
            rated = []
            for candidate in candidates:
                expected = self.split(candidate)
                edits = distance(given, expected)
                rated.append((edits / max(len(expected), 1), -len(expected), edits))
            _, negative_length, edits = min(rated)
            errors, length = errors + edits, length - negative_length
        return {self.name_of_result: 100.0 * errors / max(length, 1)}


class PhonemeErrorRate(TokenErrorRate):
    """[`TokenErrorRate`] over phonemes: edits divided by phonemes of the best reference, in percent.

    Example:
        >>> PhonemeErrorRate().compute(predictions=["K AE", "AH B"], references=[["K AE T", "K AE"], ["AH"]])
        {'phoneme_error_rate': 33.33333333333333...}
    """

    description = "Edit distance over phonemes, divided by the number of reference phonemes, in percent."
    name_of_result = "phoneme_error_rate"


class CharacterErrorRate(TokenErrorRate):
    """[`TokenErrorRate`] over characters, in percent."""

    description = "Edit distance over characters, divided by the number of reference characters, in percent."
    name_of_result = "character_error_rate"

    def split(self, text: str) -> Sequence[str]:
        """The text itself: a sequence of characters."""
        return text


class EditDistance(GenerationMetric):
    """Mean Levenshtein distance, in characters, to the nearest reference.

    Example:
        >>> EditDistance().compute(predictions=["cat", "dog"], references=[["cut", "car"], ["dog"]])
        {'edit_distance': 0.5}
    """

    description = "Mean Levenshtein distance in characters to the nearest reference."
    needs = "rapidfuzz.distance"

    def compare(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        """See the class."""
        distance = self.open_package().Levenshtein.distance
        nearest = [
            min(distance(prediction, candidate) for candidate in candidates)
            for prediction, candidates in zip(predictions, references, strict=True)
        ]
        return {"edit_distance": float(np.mean(nearest))}


def _streams(references: list[list[str]]) -> list[list[str | None]]:
    """For sacrebleu: the n-th references of all items, `None` where an item has fewer."""
    most = max(map(len, references))
    return [[item[index] if index < len(item) else None for item in references] for index in range(most)]


class Bleu(GenerationMetric):
    """BLEU of the corpus (Papineni et al. 2002) as sacrebleu computes it, 0 to 100."""

    description = "BLEU of the corpus as sacrebleu computes it."
    needs = "sacrebleu"
    citation = "Post 2018, A Call for Clarity in Reporting BLEU Scores"

    def compare(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        """See the class."""
        return {"bleu": float(self.open_package().BLEU().corpus_score(predictions, _streams(references)).score)}


class ChrF(GenerationMetric):
    """chrF of the corpus (Popović 2015) as sacrebleu computes it, 0 to 100."""

    description = "chrF of the corpus as sacrebleu computes it."
    needs = "sacrebleu"
    citation = "Popović 2015, chrF: character n-gram F-score for automatic MT evaluation"

    def compare(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        """See the class."""
        return {"chrf": float(self.open_package().CHRF().corpus_score(predictions, _streams(references)).score)}


class Rouge(GenerationMetric):
    """ROUGE-1, -2 and -L F-measures (Lin 2004) as rouge-score computes them, means over the items, 0 to 100."""

    description = "ROUGE-1, ROUGE-2 and ROUGE-L F-measures as rouge-score computes them."
    needs = "rouge_score.rouge_scorer"
    citation = "Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries"

    def compare(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        """See the class."""
        names = ["rouge1", "rouge2", "rougeL"]
        scorer = self.open_package().RougeScorer(names)
        scores = [
            scorer.score_multi(candidates, prediction) for prediction, candidates in zip(predictions, references, strict=True)
        ]
        return {name.lower(): 100.0 * float(np.mean([score[name].fmeasure for score in scores])) for name in names}


class TokenF1(GenerationMetric):
    """Mean F1 of the bags of words of prediction and best reference, in percent, as in SQuAD (Rajpurkar et al. 2016).

    Words are apart by white space; case and ASCII punctuation do not count. Articles do, unlike in SQuAD. Where neither text
    has a word F1 is 100, where one has none, 0.

    Example:
        >>> TokenF1().compute(predictions=["The small dog, a dog."], references=[["the dog barks", "a cat"]])
        {'token_f1': 50.0}
    """

    description = "Mean F1 of the words of prediction and best reference, as bags, in percent."
    citation = "Rajpurkar et al. 2016, SQuAD: 100,000+ Questions for Machine Comprehension of Text"

    def compare(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        """See the class."""
        scores = []
        for prediction, candidates in zip(predictions, references, strict=True):
            given = _count_words(prediction)
            scores.append(max(_compute_overlap(given, _count_words(candidate)) for candidate in candidates))
        return {"token_f1": 100.0 * float(np.mean(scores))}


def _count_words(text: str) -> Counter[str]:
    return Counter(text.casefold().translate(_WITHOUT_PUNCTUATION).split())


def _compute_overlap(first: Counter[str], second: Counter[str]) -> float:
    """F1 of two bags: twice what they share, divided by the sizes of both (Dice 1945)."""
    sizes = first.total() + second.total()
    return 2 * (first & second).total() / sizes if sizes else 1.0


METRICS: dict[str, type[GenerationMetric]] = {
    "bleu": Bleu,
    "character_error_rate": CharacterErrorRate,
    "chrf": ChrF,
    "edit_distance": EditDistance,
    "exact_match": ExactMatch,
    "phoneme_error_rate": PhonemeErrorRate,
    "rouge": Rouge,
    "token_error_rate": TokenErrorRate,
    "token_f1": TokenF1,
    "word_error_rate": WordErrorRate,
}
"""Metrics by the name that a recipe uses."""


def build_metrics(names: Sequence[str]) -> Callable[[list[str], list[list[str]]], dict[str, float]]:
    """One function that computes several metrics.

    Args:
        names: Names of [`METRICS`].

    Returns:
        A function of predictions and references that gives all results.

    Raises:
        ImportError: for a metric whose package is not installed.
        ValueError: for a name that is not known.
    """
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise ValueError(f"There is no metric {unknown[0]!r}; known are {', '.join(sorted(METRICS))}.")
    for name in names:
        METRICS[name].open_package()
    metrics = [METRICS[name]() for name in names]

    def compute(predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        results: dict[str, float] = {}
        for metric in metrics:
            results.update(metric.compute(predictions=predictions, references=references) or {})
        return results

    return compute


def score_exact(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """For each item 1 if the prediction equals one of its references, else 0: (items,)."""
    return np.array(
        [prediction in candidates for prediction, candidates in zip(predictions, references, strict=True)], dtype=float
    )


def bootstrap_interval(
    scores: Sequence[float] | np.ndarray, *, confidence: float = 0.95, num_samples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The percentile bootstrap interval (Efron 1979) of a mean.

    Args:
        scores: One score for each item, (items,).
        confidence: Share of the resampled means inside.
        num_samples: How often to resample.
        seed: Seed of the resampling.

    Returns:
        Lower and upper end.

    Raises:
        ValueError: for no scores.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.size == 0:
        raise ValueError("An interval needs at least one score.")
    generator = np.random.default_rng(seed)
    means = [scores[generator.integers(0, scores.size, scores.size)].mean() for _ in range(num_samples)]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


__all__ = [
    "METRICS",
    "Bleu",
    "CharacterErrorRate",
    "ChrF",
    "EditDistance",
    "ExactMatch",
    "GenerationMetric",
    "PhonemeErrorRate",
    "Rouge",
    "TokenErrorRate",
    "TokenF1",
    "WordErrorRate",
    "bootstrap_interval",
    "build_metrics",
    "score_exact",
]

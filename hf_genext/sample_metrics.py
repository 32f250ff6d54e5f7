"""Metrics of texts that a model drew, as `evaluate.Metric` classes that need no network: novelty, diversity and validity.

A model that copies its training data is likely to score well by all else; these three are to be read together. Shares are in
percent.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import datasets
import evaluate

from hf_genext.offline_metrics import OfflineMetric

Rule = Callable[[str], bool] | Collection[str]
"""What says whether a text is valid: a function, or all that are."""


class SampleMetric(OfflineMetric):
    """Base of the metrics: checks what comes in, then looks at the samples.

    Subclasses set `description` and `citation` and implement `measure`.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.description,
            citation=self.citation,
            inputs_description="predictions: list of str, the texts that were drawn.",
            features=datasets.Features({"predictions": datasets.Value("string")}),
        )

    def compute(self, *, predictions: Sequence[str] | None = None, **kwargs: Any) -> dict[str, float] | None:
        """Look at samples.

        Args:
            predictions: The texts that were drawn.
            kwargs: As `evaluate.Metric.compute` takes them.

        Returns:
            The metric by name.

        Raises:
            TypeError: for a single text in their place.
            ValueError: if there are none.
        """
        if predictions is not None and not len(predictions):
            raise ValueError("There is nothing to measure: got no samples.")
        return super().compute(predictions=predictions, **kwargs)

    def _compute(self, predictions: list[str]) -> dict[str, float]:
        return self.measure(list(predictions))

    def measure(self, samples: list[str]) -> dict[str, float]:
        """Measure samples, of which there is one at least."""
        raise NotImplementedError


class Novelty(SampleMetric):
    """The share of samples that are none of the texts that were trained on.

    Args:
        training_texts: Those; texts are compared as they are written.

    Example:
        >>> Novelty(training_texts=["cat", "dog"]).compute(predictions=["cat", "cow", "cow", "pig"])
        {'novelty': 75.0}
    """

    description = "Share of samples that are none of the training texts, in percent."
    citation = "Brown et al. 2019, GuacaMol: Benchmarking Models for de Novo Molecular Design"

    def __init__(self, *, training_texts: Iterable[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._known = _collect(training_texts, "training_texts")

    def measure(self, samples: list[str]) -> dict[str, float]:
        """See the class."""
        return {"novelty": 100.0 * sum(sample not in self._known for sample in samples) / len(samples)}


class Diversity(SampleMetric):
    """The share of samples that are distinct, as `diversity`, and for some n `distinct_n` (Li et al. 2016).

    `distinct_n` is the number of distinct n-grams of all samples divided by the number of all their n-grams. It falls with the
    number of samples and their lengths, so that only equal numbers of samples are compared; texts of the data say what is
    natural.

    Args:
        ngram_sizes: The n.
        split: Makes the units of a text: its words if left out; `list` makes its characters.

    Example:
        >>> Diversity().compute(predictions=["a cat", "a dog", "a cat", "a cat"])
        {'diversity': 50.0, 'distinct_1': 37.5, 'distinct_2': 50.0}
    """

    description = "Share of distinct samples, and of distinct n-grams among all n-grams of the samples, in percent."
    citation = "Li et al. 2016, A Diversity-Promoting Objective Function for Neural Conversation Models"

    def __init__(
        self, *, ngram_sizes: Sequence[int] = (1, 2), split: Callable[[str], Sequence[str]] = str.split, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if any(size < 1 for size in ngram_sizes):
            raise ValueError(f"ngram_sizes must be numbers of 1 or more, got {list(ngram_sizes)}.")
        self._sizes, self._split = list(ngram_sizes), split

    def measure(self, samples: list[str]) -> dict[str, float]:
        """See the class."""
        texts = [tuple(self._split(sample)) for sample in samples]
        found = {"diversity": 100.0 * len(set(samples)) / len(samples)}
        for size in self._sizes:
            ngrams = [text[start : start + size] for text in texts for start in range(len(text) - size + 1)]
            found[f"distinct_{size}"] = 100.0 * len(set(ngrams)) / max(len(ngrams), 1)
        return found


class Validity(SampleMetric):
    """The share of samples that a rule accepts.

    Args:
        rule: A function of a text, or a collection of all texts that are valid.

    Example:
        >>> Validity(rule=str.isalpha).compute(predictions=["cat", "c4t"])
        {'validity': 50.0}
        >>> Validity(rule={"cat", "dog"}).compute(predictions=["cat", "dog", "cow", "cat"])
        {'validity': 75.0}
    """

    description = "Share of samples that a rule or a list of valid texts accepts, in percent."
    citation = "Brown et al. 2019, GuacaMol: Benchmarking Models for de Novo Molecular Design"

    def __init__(self, *, rule: Rule, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._accepts = rule if callable(rule) else _collect(rule, "rule").__contains__

    def measure(self, samples: list[str]) -> dict[str, float]:
        """See the class."""
        return {"validity": 100.0 * sum(bool(self._accepts(sample)) for sample in samples) / len(samples)}


def _collect(texts: Iterable[str], name: str) -> frozenset[str]:
    """Texts to compare samples with.

    Raises:
        TypeError: for what is no collection of texts, such as a single one, which is one of letters.
        ValueError: if there are none.
    """
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
        also = " or a function" if name == "rule" else ""
        raise TypeError(f"{name} must be a collection of texts{also}, got {texts!r:.60}.")
    found = frozenset(texts)
    if not found:
        raise ValueError(f"{name} is empty, so that no sample could be one of them. Give the texts to compare with.")
    return found


__all__ = ["Diversity", "Novelty", "Rule", "SampleMetric", "Validity"]

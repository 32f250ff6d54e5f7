"""The field's tests of word vectors, as `evaluate.Metric` classes that need no network.

They take a space, or, as other metrics do, columns: `WordSim353().compute(space=space)`, or
`WordSim353().compute(predictions=cosines, references=judgements)`. What a space does not know is left out and always counted.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import datasets
import evaluate

from hf_genext.offline_metrics import OfflineMetric
from hf_genext.static_embedding.words_static_embedding import WordMapping, correlate

logger = logging.getLogger(__name__)


class WordMetric(OfflineMetric):
    """Base of the tests: a list of items, from a file of one's own or from gensim's test data.

    Subclasses set `name_of_result`, `packaged_file`, `description` and `citation`.

    Args:
        path: A file of the same format; left out, the one that is packaged with gensim.
        kwargs: As `evaluate.Metric` takes them.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if the packaged file is wanted and gensim is not installed.
        ValueError: for a line that cannot be read, with its number.
    """

    name_of_result: ClassVar[str] = ""
    packaged_file: ClassVar[str] = ""
    column_type: ClassVar[str] = "float64"

    def __init__(self, path: str | os.PathLike[str] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path = self._find_packaged_file() if path is None else Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"There is no file {str(self.path)!r} (looked from {os.getcwd()!r}).")

    def _find_packaged_file(self) -> Path:
        if not self.packaged_file:
            raise ValueError(f"{type(self).__name__} needs the path of a file: {type(self).__name__}(path=...).")
        gensim = importlib.util.find_spec("gensim")
        if gensim is None or gensim.origin is None:
            raise ImportError(
                f"{self.packaged_file} comes with gensim, which is not installed: pip install gensim, or pass the path of a "
                f"copy: {type(self).__name__}(path=...)."
            )
        return Path(gensim.origin).parent / "test" / "test_data" / self.packaged_file

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.description,
            citation=self.citation,
            inputs_description="space: a StaticEmbeddingModel; or predictions and references, a value for each item.",
            features=datasets.Features(
                {"predictions": datasets.Value(self.column_type), "references": datasets.Value(self.column_type)}
            ),
        )

    def _name(self, scores: dict[str, float]) -> dict[str, float]:
        """Scores under names that several metrics can share one dictionary with; the first is the test itself."""
        first = next(iter(scores))
        return {
            self.name_of_result if name == first else f"{self.name_of_result}_{name}": value for name, value in scores.items()
        }


class WordPairs(WordMetric):
    """How a space's cosines of pairs of words agree with people's judgements: Spearman's correlation.

    The file has a pair a line, two words and a number, parted by tabs; lines that begin with `#` are passed over.

    Example:
        >>> WordPairs(path=getfixture("tmp_path").joinpath("pairs.tsv"))
        Traceback (most recent call last):
        FileNotFoundError: There is no file ...
    """

    name_of_result = "word_pairs"
    description = "Spearman's correlation of the cosines of pairs of words with people's judgements."

    @property
    def pairs(self) -> list[tuple[str, str, float]]:
        """The pairs, each with its judgement."""
        pairs = []
        for number, line in enumerate(self.path.read_text(encoding="utf-8").splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            try:
                first, second, judgement = line.split("\t")
                pairs.append((first.strip(), second.strip(), float(judgement)))
            except ValueError:
                raise ValueError(
                    f"{str(self.path)!r}, line {number}: expected two words and a number, parted by tabs, got {line[:60]!r}."
                ) from None
        return pairs

    def compute(
        self,
        *,
        predictions: Sequence[float | None] | None = None,
        references: Sequence[float] | None = None,
        space: WordMapping | None = None,
        **kwargs: Any,
    ) -> dict[str, float] | None:
        """Correlate.

        Args:
            predictions: A similarity for each pair; `None` or NaN where the pair is not known.
            references: A judgement for each; left out, those of the file.
            space: Any object whose `similarity(first, second)` raises `KeyError` for unknown words, instead of predictions.
            kwargs: As `evaluate.Metric.compute` takes them.

        Returns:
            Spearman's correlation under the name of the metric, and with that name before them `pearson`, `pairs` (those
            that count) and `out_of_vocabulary` (those left out).

        Raises:
            ValueError: if columns differ in length, or fewer than two pairs are known.
        """
        if space is not None:
            predictions = []
            for first, second, _ in self.pairs:
                try:
                    predictions.append(float(space.similarity(first, second)))
                except KeyError:
                    predictions.append(None)
        if predictions is not None:
            references = [judgement for _, _, judgement in self.pairs] if references is None else references
            if len(predictions) != len(references):
                raise ValueError(
                    f"Each pair needs a similarity and a judgement: got {len(predictions)} predictions and {len(references)} "
                    "references."
                )
            predictions = [math.nan if value is None else value for value in predictions]
        return super().compute(predictions=predictions, references=references, **kwargs)

    def _compute(self, predictions: Sequence[float], references: Sequence[float]) -> dict[str, float]:
        known = [
            (float(prediction), float(reference))
            for prediction, reference in zip(predictions, references, strict=True)
            if not math.isnan(prediction)
        ]
        if len(known) < 2:
            raise ValueError(f"A correlation needs two known pairs at least, got {len(known)} of {len(predictions)}.")
        scores = correlate(*zip(*known, strict=True))
        return self._name({**scores, "pairs": len(known), "out_of_vocabulary": len(predictions) - len(known)})


class WordSim353(WordPairs):
    """WordSim-353: how related two words are (353 pairs), see [`WordPairs`]."""

    name_of_result = "wordsim353"
    packaged_file = "wordsim353.tsv"
    description = "Spearman's correlation with people's judgements of how related two words are."
    citation = "Finkelstein et al. 2002, Placing Search in Context: The Concept Revisited"


class SimLex999(WordPairs):
    """SimLex-999: how similar two words are, not how related (999 pairs), see [`WordPairs`]."""

    name_of_result = "simlex999"
    packaged_file = "simlex999.txt"
    description = "Spearman's correlation with people's judgements of how similar two words are."
    citation = "Hill, Reichart & Korhonen 2015, SimLex-999: Evaluating Semantic Models with (Genuine) Similarity Estimation"


class WordAnalogies(WordMetric):
    """How many questions "a is to b as c is to ?" are answered right (19,544 questions, by 3CosAdd).

    The file has a question a line, four words; a line `: name` begins a section. Sections whose name begins with `gram` are
    syntactic, the others semantic.
    """

    name_of_result = "analogies"
    packaged_file = "questions-words.txt"
    description = 'Share of the questions "a is to b as c is to ?" that are answered right.'
    citation = "Mikolov et al. 2013, Efficient Estimation of Word Representations in Vector Space"
    column_type = "string"

    @property
    def questions(self) -> dict[str, list[tuple[str, str, str, str]]]:
        """The questions by section."""
        sections: dict[str, list[tuple[str, str, str, str]]] = {}
        name = ""
        for number, line in enumerate(self.path.read_text(encoding="utf-8").splitlines(), 1):
            if line.startswith(":"):
                name = line[1:].strip()
            elif line.strip():
                words = line.split()
                if len(words) != 4:
                    raise ValueError(f"{str(self.path)!r}, line {number}: expected four words, got {line[:60]!r}.")
                sections.setdefault(name, []).append((words[0], words[1], words[2], words[3]))
        return sections

    def compute(
        self,
        *,
        predictions: Sequence[str | None] | None = None,
        references: Sequence[str] | None = None,
        space: WordMapping | None = None,
        restrict_vocabulary: int | None = 300_000,
        **kwargs: Any,
    ) -> dict[str, float] | None:
        """Compare answers.

        Args:
            predictions: An answer to each question; `None` or empty where a word of the question is not known.
            references: The right answer to each; left out, those of the file.
            space: A [`StaticEmbeddingModel`], instead of predictions.
            restrict_vocabulary: Look for answers among the first so many words of the space only.
            kwargs: As `evaluate.Metric.compute` takes them.

        Returns:
            Accuracy over the known questions under the name of the metric, and with that name before them `questions` (those
            that count) and `out_of_vocabulary` (those left out); of a space also `semantic` and `syntactic`, the accuracy over
            either kind, where it knows any.

        Raises:
            ValueError: if columns differ in length, or no question is known.
        """
        if space is not None:
            return self._compute_of_space(space, restrict_vocabulary)
        if predictions is not None:
            if references is None:
                references = [question[3] for questions in self.questions.values() for question in questions]
            if len(predictions) != len(references):
                raise ValueError(
                    f"Each question needs two answers: got {len(predictions)} predictions and {len(references)} references."
                )
            predictions = [value or "" for value in predictions]
        return super().compute(predictions=predictions, references=references, **kwargs)

    def _compute_of_space(self, space: WordMapping, restrict_vocabulary: int | None) -> dict[str, float]:
        kinds: dict[str, list[tuple[str, str, str, str]]] = {"semantic": [], "syntactic": []}
        for section, questions in self.questions.items():
            kinds["syntactic" if section.startswith("gram") else "semantic"].extend(questions)
        right, known, unknown, shares = 0.0, 0, 0, {}
        for kind, questions in kinds.items():
            try:
                scores = space.evaluate_word_analogies(questions, restrict_vocabulary=restrict_vocabulary)
            except ValueError:  # The space knows none of them whole.
                unknown += len(questions)
                continue
            shares[kind] = scores["accuracy"]
            right += scores["accuracy"] * scores["questions"]
            known += int(scores["questions"])
            unknown += int(scores["out_of_vocabulary"])
        if not known:
            raise ValueError(f"The space knows none of the {unknown} questions whole.")
        return self._name({"accuracy": right / known, **shares, "questions": known, "out_of_vocabulary": unknown})

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        known = [(given, right) for given, right in zip(predictions, references, strict=True) if given]
        if not known:
            raise ValueError(f"None of the {len(predictions)} questions is answered.")
        accuracy = sum(given == right for given, right in known) / len(known)
        return self._name({"accuracy": accuracy, "questions": len(known), "out_of_vocabulary": len(predictions) - len(known)})


WORD_METRICS: dict[str, type[WordMetric]] = {metric.name_of_result: metric for metric in (WordSim353, SimLex999, WordAnalogies)}
"""The packaged tests by the name that a recipe uses."""


def evaluate_space(space: WordMapping, names: Sequence[str] = tuple(WORD_METRICS)) -> dict[str, float]:
    """Every number of several tests of a space in one dictionary.

    Args:
        space: The space.
        names: Names of [`WORD_METRICS`].

    Returns:
        The scores by name. A test of which the space knows too little, or whose data are not there, is left out with a
        warning.

    Raises:
        ValueError: for a name that is not known.
    """
    unknown = [name for name in names if name not in WORD_METRICS]
    if unknown:
        raise ValueError(f"There is no test of words {unknown[0]!r}; known are {', '.join(WORD_METRICS)}.")
    scores: dict[str, float] = {}
    for name in names:
        try:
            scores.update(WORD_METRICS[name]().compute(space=space) or {})
        except (ImportError, ValueError) as error:
            logger.warning("%s is left out: %s", name, error)
    return scores


__all__ = [
    "WORD_METRICS",
    "SimLex999",
    "WordAnalogies",
    "WordMetric",
    "WordPairs",
    "WordSim353",
    "evaluate_space",
]

"""What the scripts of the names recipe share: its words, and what judges invented ones.

Legend: words, languages.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from hf_genext.sample_metrics import Validity
from recipes.names.prepare_data import read_words
from recipes.text_distributions import TextRecipe, Texts, measure_samples, read_text_recipe

CONDITIONS = {"label": "language"}
_RUN = 3
"""Letters of the runs by which a word is valid."""


@dataclass
class NameSettings:
    """How invented words are judged."""

    num_drawn: int = field(default=1000, metadata={"help": "Words that are drawn to be judged, of all languages together."})
    guidance_scales: list[float] = field(
        default_factory=lambda: [1.0, 2.0, 3.0], metadata={"help": "Strengths of the condition to draw with."}
    )


def read_names(own: type[NameSettings], argv: list[str] | None, *, needs_model: bool = False) -> TextRecipe:
    """As [`read_text_recipe`], each word with its language."""
    return read_text_recipe(own, argv, CONDITIONS, needs_model=needs_model)


def list_languages(texts: Texts) -> list[str]:
    """The language of each word."""
    return [condition["label"]["language"] for condition in texts.conditions]


class WordJudge:
    """Tells how far invented words are those of a language.

    Args:
        train: The words that were trained on.
    """

    def __init__(self, train: Texts) -> None:
        self._words, languages = train.texts, list_languages(train)
        self.languages = sorted(set(languages))
        self._runs: dict[str, set[str]] = defaultdict(set)
        for word, language in zip(train.texts, languages, strict=True):
            self._runs[language] |= _list_runs(word)
        self._runs[""] = set.union(*self._runs.values())  # Of no language in particular.
        self._classifier = make_pipeline(
            TfidfVectorizer(analyzer="char", ngram_range=(1, 4), min_df=2, sublinear_tf=True, dtype=np.float32),
            LogisticRegression(C=10.0, max_iter=200),
        ).fit(_mark(train.texts), languages)

    def choose(self, count: int) -> list[str]:
        """The languages one after the other, so many."""
        return [self.languages[place % len(self.languages)] for place in range(count)]

    def judge(self, words: Sequence[str], languages: Sequence[str] | None) -> dict[str, float]:
        """What invented words are worth, in percent.

        Args:
            words: Invented words.
            languages: That which each was asked in; `None` where none was.

        Returns:
            `novelty`; `diversity` and `distinct_3`, of runs of three letters; `validity`, the share of words of which every run
            of three letters, with marks at both ends, stands in a training word of the language, or of any where none was
            asked for; and where `languages` are given `real_words`, the share of words that were not trained on and stand in
            the whole list of the language.
        """
        asked = [""] * len(words) if languages is None else languages
        # A metric is told a text alone, so each word goes with its language.
        with_language = [f"{language} {word}" for word, language in zip(words, asked, strict=True)]
        found = {
            **measure_samples(words, self._words, ngram_sizes=(_RUN,), split=list),
            **(Validity(rule=self._is_valid).compute(predictions=with_language) or {}),
        }
        if languages is not None:
            found["real_words"] = self._find_real(words, languages)
        return found

    def recover(self, words: Sequence[str], languages: Sequence[str]) -> float:
        """How often a linear model of runs of letters, learned from the training words, sees the language asked for."""
        return 100.0 * float(np.mean(self._classifier.predict(_mark(words)) == np.array(languages)))

    def _is_valid(self, with_language: str) -> bool:
        language, _, word = with_language.partition(" ")
        return _list_runs(word) <= self._runs[language]

    def _find_real(self, words: Sequence[str], languages: Sequence[str]) -> float:
        known, trained = {language: set(read_words(language, set(words))) for language in set(languages)}, set(self._words)
        real = [word in known[language] and word not in trained for word, language in zip(words, languages, strict=True)]
        return 100.0 * float(np.mean(real))


def name_recovered(scale: float) -> str:
    """The metric of how often a language is recovered at a guidance scale."""
    return f"recovered_{scale:g}"


def _list_runs(word: str) -> set[str]:
    marked = f"^{word}$"
    return {marked[start : start + _RUN] for start in range(max(1, len(marked) - _RUN + 1))}


def _mark(words: Sequence[str]) -> list[str]:
    return [f"^{word}$" for word in words]


__all__ = ["CONDITIONS", "NameSettings", "WordJudge", "list_languages", "name_recovered", "read_names"]

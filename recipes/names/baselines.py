"""What the names recipe's models are compared with, on their test words.

    python recipes/names/baselines.py recipes/names/config.yaml --model out/names --without out/names-unconditional
    python recipes/names/baselines.py recipes/names/config.yaml --model out/names --without out/names-unconditional \
        --update_results true

* n-grams of characters with modified Kneser-Ney smoothing, for each language its own, and one for all; how long they are is
  chosen on the validation words;
* the recipe's model where it is not told the language;
* the same model trained without the language, one or several trainings of `unconditional.yaml`;
* the test words themselves, for what is said of words that were drawn.

`--update_results true` puts them beside the model's own metrics in the recipe's results file, which score.py wrote.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:] = [str(ROOT), *(folder for folder in sys.path if Path(folder).resolve() not in (ROOT, Path(__file__).parent))]

import numpy as np

from hf_genext import pipeline
from hf_genext.sequence_metrics import build_sequence_metrics, count_characters
from recipes.names.prepare_data import LENGTHS
from recipes.names.score import score_model
from recipes.names.words import NameSettings, WordJudge, list_languages, name_recovered, read_names
from recipes.ngrams import CharacterNgrams
from recipes.results import add_baselines
from recipes.running import find_results_to_join, run_main
from recipes.text_distributions import TextRecipe, Texts


@dataclass
class BaselineSettings(NameSettings):
    """How to compare."""

    orders: list[int] = field(default_factory=lambda: [3, 4, 5, 6, 7, 8], metadata={"help": "Lengths to choose from."})
    without: list[str] = field(default_factory=list, metadata={"help": "Folders of the same model without the language."})


class WordNgrams:
    """N-grams of characters, for each language its own or one for all.

    Args:
        train: What to learn from.
        order: The longest n-gram.
        is_conditional: Whether each language has its own.
    """

    def __init__(self, train: Texts, order: int, *, is_conditional: bool) -> None:
        alphabet = {character for word in train.texts for character in word}
        self._is_conditional = is_conditional
        self._parts = {
            language: CharacterNgrams(words, order=order, alphabet=alphabet)
            for language, words in self._group(train.texts, list_languages(train)).items()
        }

    def log_prob(self, texts: Texts) -> float:
        """The log-probability of all words, in nats."""
        grouped = self._group(texts.texts, list_languages(texts))
        return float(sum(self._parts[language].log_prob(words).sum() for language, words in grouped.items()))

    def sample(self, languages: list[str], seed: int = 0) -> list[str]:
        """A word in each of some languages."""
        generator = np.random.default_rng(seed)
        counts = {language: len(words) for language, words in self._group(languages, languages).items()}
        drawn: dict[str, Iterator[str]] = {
            language: iter(self._parts[language].sample(count, generator, max_length=LENGTHS[1] + 4))
            for language, count in counts.items()
        }
        return [next(drawn[language if self._is_conditional else ""]) for language in languages]

    def _group(self, words: list[str], languages: list[str]) -> dict[str, list[str]]:
        grouped: dict[str, list[str]] = {}
        for word, language in zip(words, languages, strict=True):
            grouped.setdefault(language if self._is_conditional else "", []).append(word)
        return grouped


def score_ngrams(recipe: TextRecipe, judge: WordJudge, *, is_conditional: bool) -> tuple[str, dict[str, float]]:
    """The label and the metrics of the n-grams that the validation words find likeliest."""
    candidates = {order: WordNgrams(recipe.train, order, is_conditional=is_conditional) for order in recipe.own.orders}
    order = max(candidates, key=lambda one: candidates[one].log_prob(recipe.validation))
    chosen, characters = candidates[order], count_characters(recipe.test.texts)
    measure = build_sequence_metrics(["log_likelihood_per_character", "bits_per_character"])
    scores = measure(chosen.log_prob(recipe.test), characters, characters)
    languages = judge.choose(recipe.own.num_drawn)
    drawn = chosen.sample(languages)
    scores |= judge.judge(drawn, languages if is_conditional else None)
    if is_conditional:
        scores[name_recovered(1.0)] = judge.recover(drawn, languages)
    return f"{'class-wise ' if is_conditional else ''}{order}-grams, modified Kneser-Ney", scores


def main(argv: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Score the baselines and print them; see the top of the file."""
    recipe = read_names(BaselineSettings, argv)
    results_path = find_results_to_join(recipe.config_path, wanted=recipe.run.update_results, name=recipe.run.results_file)
    judge = WordJudge(recipe.train)
    scores = dict(score_ngrams(recipe, judge, is_conditional=told) for told in (True, False))
    for label, folders in (
        ("this model, not told the language", [str(recipe.model)] if recipe.model.name else []),
        ("the same model, trained without the language", recipe.own.without),
    ):
        pipes = [pipeline("conditional-generation", model=folder) for folder in folders]
        runs = [score_model(pipe, judge, recipe.test, recipe.own, is_conditional=False) for pipe in pipes]
        if runs:
            scores[label] = {name: statistics.fmean(run[name] for run in runs) for name in runs[0]}
    # As many as are drawn, since fewer words are more diverse.
    words, languages = (column[: recipe.own.num_drawn] for column in (recipe.test.texts, list_languages(recipe.test)))
    scores["the test words themselves"] = {
        **judge.judge(words, languages),
        name_recovered(1.0): judge.recover(words, languages),
    }
    add_baselines(results_path, scores)
    return scores


if __name__ == "__main__":
    run_main(main)

"""What the sentences recipe's models are compared with, on their test sentences.

    python recipes/sentences/baselines.py recipes/sentences/config.yaml --plain out/sentences-plain
    python recipes/sentences/baselines.py recipes/sentences/config.yaml --plain out/sentences-plain --update_results true

* n-grams of characters with modified Kneser-Ney smoothing, how long they are chosen on the validation sentences;
* the same decoder without latent numbers, one or several trainings of `plain.yaml`;
* the test sentences themselves, for what is said of sentences that were drawn.

`--update_results true` puts them beside the model's own metrics in the recipe's results file, which score.py wrote.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:] = [str(ROOT), *(folder for folder in sys.path if Path(folder).resolve() not in (ROOT, Path(__file__).parent))]

import numpy as np

from hf_genext import pipeline
from hf_genext.sequence_metrics import build_sequence_metrics, count_characters
from recipes.ngrams import CharacterNgrams
from recipes.results import add_baselines
from recipes.running import find_results_to_join, run_main
from recipes.sentences.glosses import judge_sentences
from recipes.sentences.prepare_data import LENGTHS
from recipes.sentences.score import ScoreSettings, score_model
from recipes.text_distributions import TextRecipe, read_text_recipe


@dataclass
class BaselineSettings(ScoreSettings):
    """How to compare."""

    orders: list[int] = field(default_factory=lambda: [8, 10, 12, 14, 16, 20, 24], metadata={"help": "Lengths to choose from."})
    plain: list[str] = field(default_factory=list, metadata={"help": "Folders of the same decoder without latent numbers."})


def score_ngrams(recipe: TextRecipe) -> tuple[str, dict[str, float]]:
    """The label and the metrics of the n-grams that the validation sentences find likeliest."""
    train = recipe.train.texts
    alphabet = {character for text in train for character in text}
    candidates = {order: CharacterNgrams(train, order=order, alphabet=alphabet) for order in recipe.own.orders}
    order = max(candidates, key=lambda one: candidates[one].log_prob(recipe.validation.texts).sum())
    chosen, characters = candidates[order], count_characters(recipe.test.texts)
    total = float(chosen.log_prob(recipe.test.texts).sum())
    scores = build_sequence_metrics(["bits_per_character"])(total, characters, characters)
    drawn = chosen.sample(recipe.own.num_drawn, np.random.default_rng(0), max_length=2 * LENGTHS[1])
    return f"{order}-grams of characters, modified Kneser-Ney", {**scores, **judge_sentences(drawn, train)}


def main(argv: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Score the baselines and print them; see the top of the file."""
    recipe = read_text_recipe(BaselineSettings, argv, {})
    results_path = find_results_to_join(recipe.config_path, wanted=recipe.run.update_results, name=recipe.run.results_file)
    train, test = recipe.train.texts, recipe.test.texts
    scores = dict([score_ngrams(recipe)])
    runs = [
        score_model(pipeline("conditional-generation", model=folder), train, test, recipe.own)[0] for folder in recipe.own.plain
    ]
    if runs:
        means = {name: statistics.fmean(run[name] for run in runs) for name in runs[0]}
        scores["the same decoder without latent numbers"] = means
    scores["the test sentences themselves"] = judge_sentences(test[: recipe.own.num_drawn], train)
    add_baselines(results_path, scores)
    return scores


if __name__ == "__main__":
    run_main(main)

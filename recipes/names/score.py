"""Score a trained model of the names recipe on its test words, and judge the words that it invents.

    python recipes/names/score.py recipes/names/config.yaml --model out/names
    python recipes/names/score.py recipes/names/config.yaml --model out/names --update_results true

The metrics go into the model's folder and onto its card, and with `--update_results true` into the recipe's results file.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:] = [str(ROOT), *(folder for folder in sys.path if Path(folder).resolve() not in (ROOT, Path(__file__).parent))]

from hf_genext import pipeline
from recipes.names.words import NameSettings, WordJudge, name_recovered, read_names
from recipes.running import find_recipe_results, run_main
from recipes.scored_models import require_results, store_scores
from recipes.text_distributions import Texts, draw_texts, measure_given

_SHOWN = 4


def score_model(pipe: Any, judge: WordJudge, test: Texts, settings: NameSettings, *, is_conditional: bool) -> dict[str, float]:
    """The metrics of a model.

    Args:
        pipe: Its pipeline.
        judge: What judges the words that it invents.
        test: Words that it has not seen.
        settings: How many to draw, and how.
        is_conditional: Whether it is told the language.
    """
    languages = judge.choose(settings.num_drawn)
    if not is_conditional:
        nothing: list[dict[str, Any]] = [{} for _ in test.texts]
        return {**measure_given(pipe, nothing, test.texts), **judge.judge(draw_texts(pipe, [{} for _ in languages]), None)}
    scores = measure_given(pipe, test.conditions, test.texts)
    for scale in settings.guidance_scales:
        guidance = {} if scale == 1.0 else {"guidance_scale": scale}
        drawn = draw_texts(pipe, [{"label": language} for language in languages], **guidance)
        if scale == 1.0:
            scores |= judge.judge(drawn, languages)
        scores[name_recovered(scale)] = judge.recover(drawn, languages)
    return scores


def describe_model(pipe: Any, languages: list[str], scales: list[float]) -> str:
    """Words that a model invents in each language at each strength of the condition, as a Markdown table."""
    columns = [
        draw_texts(
            pipe,
            [{"label": language} for language in languages for _ in range(_SHOWN)],
            **({} if scale == 1.0 else {"guidance_scale": scale}),
        )
        for scale in scales
    ]
    lines = [f"| language | {' | '.join(f'guidance {scale:g}' for scale in scales)} |", f"|---|{'---|' * len(scales)}"]
    for place, language in enumerate(languages):
        cells = [", ".join(column[place * _SHOWN : (place + 1) * _SHOWN]) for column in columns]
        lines.append(f"| {language} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Score and print; see the top of the file."""
    recipe = read_names(NameSettings, argv, needs_model=True)
    results = find_recipe_results(recipe.config_path, recipe.run.results_file) if recipe.run.update_results else None
    require_results(recipe.model)
    pipe = pipeline("conditional-generation", model=str(recipe.model))
    judge, is_conditional = WordJudge(recipe.train), bool(recipe.conditions)
    scores = score_model(pipe, judge, recipe.test, recipe.own, is_conditional=is_conditional)
    store_scores(recipe.model, recipe.run, scores, {"drawn_words": recipe.own.num_drawn}, recipe_results=results)
    if is_conditional:
        shown = recipe.model / "samples.md"
        shown.write_text(describe_model(pipe, judge.languages, recipe.own.guidance_scales), encoding="utf-8")
        if results is not None and results.name == "results.json":
            shutil.copy(shown, results.parent)
    return scores


if __name__ == "__main__":
    run_main(main)

"""Scores of a trained model beyond what its training reports: into its folder, onto its card, and into the recipe's results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_genext.hub import read_results, render_model_card, write_results
from recipes.arguments import SettingsError
from recipes.conditional_settings import RunSettings
from recipes.results import summarize, update_recipe_results


def require_results(folder: Path) -> None:
    """Raise where a folder is not that of a training.

    Raises:
        SettingsError: saying what to give.
    """
    if not (folder / "results.json").is_file():
        raise SettingsError(f"{str(folder)!r} holds no results.json of a training; give --model the folder of one.")


def store_scores(
    folder: Path,
    run: RunSettings,
    scores: Mapping[str, float],
    facts: Mapping[str, Any],
    *,
    recipe_results: Path | None = None,
    pictures: Mapping[str, str] | None = None,
) -> None:
    """Put scores in the place of those that the training left, render the card again, and print.

    Args:
        folder: That of the model.
        run: How the recipe was run; its `deciding_metrics` are those of `scores` that decide.
        scores: The metrics.
        facts: How they were found, to stand among the facts about the data.
        recipe_results: The results file of the recipe that the run joins, or `None`.
        pictures: Files in the folder by their captions, to stand on the card before the validation curve.
    """
    results = read_results(folder / "results.json")
    results["metrics"] = dict(scores)
    results["better"] = {name: how for name, how in (run.deciding_metrics or {}).items() if name in scores}
    results["data"] |= facts
    # With the settings that it was trained by, by which runs of others are told apart.
    results["runs"] = [{**results["runs"][0], "metrics": dict(scores)}]
    write_results(folder / "results.json", results)
    card = render_model_card(
        results,
        title=run.title,
        task=run.task,
        example=run.example,
        example_code=run.example_code,
        license=run.license,
        pictures={**(pictures or {}), "Validation": "validation_curve.png"},
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    if recipe_results is not None:
        update_recipe_results(recipe_results, results)
    print(summarize(results))


__all__ = ["require_results", "store_scores"]

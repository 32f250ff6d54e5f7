"""What every recipe's baselines.py does around its baselines: settings, data, printing, and the recipe's results."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch

from hf_genext.hub import read_results, write_results
from hf_genext.training import GenextTrainingArguments
from recipes.arguments import SettingsError, parse_settings
from recipes.conditional_data import ConditionalData, RowReader, load_data
from recipes.conditional_model import require_needed_models
from recipes.conditional_settings import DataSettings, ModelSettings, RunSettings
from recipes.running import count_threads, find_recipe_results, set_up_logging


@dataclass
class Comparison:
    """What baselines work on.

    Attributes:
        own: The settings of the recipe's baselines.
        model: Those of the model that they stand beside.
        data: Those of the data.
        config_path: The settings file.
        rows: What is trained on, chosen by and scored.
        scored: The rows that are scored: those of the test, or where there are none those of the validation.
    """

    own: Any
    model: ModelSettings
    data: DataSettings
    config_path: Path | None
    rows: ConditionalData
    scored: datasets.Dataset


def run_baselines(
    score: Callable[[Comparison], Iterable[tuple[str, dict[str, float]]]],
    own_settings: type,
    argv: list[str] | None,
    *,
    output: str = "text",
    needs_model: bool = False,
) -> dict[str, dict[str, float]]:
    """Score baselines, print them, and with `update_results` put them beside the model's own metrics.

    Args:
        score: Gives each baseline's label and its metrics.
        own_settings: A dataclass with the settings of these baselines, read along with the recipe's.
        argv: The command line without the program's name; `None` takes that of this process.
        output: `"text"`, or the kind of a single output.
        needs_model: Whether they need the recipe's model.

    Returns:
        The metrics of each baseline.

    Raises:
        SettingsError: if the model is not named, or there are no results yet that could be updated.
    """
    own, model, data, run, args, config_path = parse_settings(
        [own_settings, ModelSettings, DataSettings, RunSettings, GenextTrainingArguments],
        sys.argv[1:] if argv is None else argv,
    )
    set_up_logging()
    torch.set_num_threads(count_threads(run.num_threads))
    if needs_model and model.model is None:
        raise SettingsError("Give --model FOLDER, the model of this recipe.")
    results_path = find_recipe_results(config_path) if run.update_results else None
    if results_path is not None and not results_path.is_file():
        raise SettingsError(f"There is no {str(results_path)!r} yet: train with --update_results true first.")
    require_needed_models(model, data.conditions)
    rows = load_data(data, RowReader(data, output), Path(args.output_dir or "out") / "data", config_path)
    scored = rows.validation if rows.test is None else rows.test
    scores = {}
    for label, values in score(Comparison(own, model, data, config_path, rows, scored)):
        scores[label] = values
        print(label, "  ".join(f"{name} {value:.4g}" for name, value in values.items()), sep=": ", flush=True)
    if results_path is not None:
        results = read_results(results_path)
        write_results(results_path, {**results, "baselines": {**results["baselines"], **scores}})
    return scores


__all__ = ["Comparison", "run_baselines"]

"""What models with a single output are compared with, as far as recipes share it: settings, rows and metrics.

Legend: rows, outputs (classes, labels or numbers).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch

from hf_genext.training import GenextTrainingArguments
from recipes.arguments import parse_settings
from recipes.conditional_data import RowReader, build_output_metrics, find_data, load_data
from recipes.conditional_settings import DataSettings, ModelSettings, RunSettings
from recipes.results import add_baselines
from recipes.running import count_threads, find_results_to_join, set_up_logging


@dataclass
class OutputComparison:
    """A recipe's rows and metrics, for baselines that are scored as its model is.

    Attributes:
        own: The settings of the script itself.
        train: Rows with a column for each condition, and `target`.
        validation: Likewise.
        test: Likewise, what is scored.
        metrics: Turns logits or means (rows, outputs), or log-densities (rows,), and their labels, into named numbers.
    """

    own: Any
    train: datasets.Dataset
    validation: datasets.Dataset
    test: datasets.Dataset
    metrics: Callable[[np.ndarray, np.ndarray], dict[str, float]]


def run_output_baselines(
    score: Callable[[OutputComparison], Iterable[tuple[str, dict[str, float]]]],
    own: type,
    argv: list[str] | None,
    *,
    output: str,
) -> dict[str, dict[str, float]]:
    """Score baselines, print them, and with `update_results` put them beside the model's own metrics.

    Args:
        score: Gives each baseline's label and its metrics.
        own: The dataclass of the script's own settings, read along with the recipe's.
        argv: The command line without the program's name; that of this process if left out.
        output: The kind of the output, as a head names it: `"class"`, `"labels"`, `"regression"`, `"flow"`, ...

    Returns:
        The metrics of each baseline.

    Raises:
        SettingsError: for settings that cannot be used, or where there are no results yet that could be updated.
    """
    settings, _, data, run, args, config_path = parse_settings(
        [own, ModelSettings, DataSettings, RunSettings, GenextTrainingArguments], sys.argv[1:] if argv is None else argv
    )
    set_up_logging()
    torch.set_num_threads(count_threads(run.num_threads))
    results_path = find_results_to_join(config_path, wanted=run.update_results, name=run.results_file)
    metrics = build_output_metrics(data, output)
    files = find_data(data, Path(args.output_dir or "out") / "data", config_path)
    rows = load_data(data, RowReader(data, output), files)
    test = rows.validation if rows.test is None else rows.test
    scores = dict(score(OutputComparison(settings, rows.train, rows.validation, test, metrics)))
    add_baselines(results_path, scores)
    return scores


__all__ = ["OutputComparison", "run_output_baselines"]

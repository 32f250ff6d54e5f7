"""Trainings that were run before: what lies in a folder is taken, if it is of the same settings and data, and refused else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hf_genext.training import GenextTrainingArguments
from recipes.arguments import SettingsError, parse_settings
from recipes.conditional_settings import DataSettings, ModelSettings, RunSettings
from recipes.running import launch_training

RECORD = "run.json"
_WITHOUT_EFFECT = (
    *("output_dir", "logging_dir", "run_name", "resume_from_checkpoint", "report_to", "disable_tqdm", "log_level", "project"),
    *("title", "task", "example", "example_code", "license", "baselines", "deciding_metrics", "update_results", "results_file"),
    *("needs", "make_missing", "num_threads"),
)
"""Settings that change neither the model nor its metrics."""


def train_unless_done(
    words: Sequence[str], folder: Path, data: Any, train: Callable[[list[str]], Any] = launch_training
) -> None:
    """Train, unless a folder holds the results of the same settings and data.

    Args:
        words: The settings file, and `--key value` pairs, of which one is the output folder.
        folder: That folder.
        data: The rows, as JSON can write them.
        train: What trains, given the words: in a process of its own, or many short ones in this one.

    Raises:
        SettingsError: if the folder holds results of other settings, of other data, or of nobody knows what.
        RuntimeError: if the training fails.
    """
    record, wanted = folder / RECORD, describe_run(words, data)
    is_done = (folder / "results.json").is_file()
    if record.is_file():
        _require_same(json.loads(record.read_text(encoding="utf-8")), wanted, folder)
    elif is_done:
        raise SettingsError(f"{str(folder)!r} holds results, but no {RECORD} that says of what. {_MEND}")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
    if not is_done:
        train(list(words))


def _require_same(found: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path) -> None:
    # What is not said is as if it were left out: a later version may know more settings.
    names = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
    if names:
        changes = [
            "the data are others" if name == "data" else f"{name} was {found.get(name)!r:.60} and is {wanted.get(name)!r:.60}"
            for name in names[:3]
        ]
        more = f", and {len(names) - 3} more" if len(names) > 3 else ""
        raise SettingsError(f"{str(folder)!r} is the folder of another run: {'; '.join(changes)}{more}. {_MEND}")


_MEND = "Choose another --output_dir, or remove the folder."


def digest_settings(
    model: ModelSettings,
    rows: DataSettings,
    run: RunSettings,
    args: GenextTrainingArguments,
    without: Sequence[str] = ("seed",),
) -> str:
    """A few letters that are others for runs of other settings; those that are left out do not count."""
    settings = _list_settings(model, rows, run, args)
    counted = {name: value for name, value in settings.items() if name not in without and value is not None}
    return hashlib.sha256(json.dumps(counted, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _list_settings(model: ModelSettings, rows: DataSettings, run: RunSettings, args: GenextTrainingArguments) -> dict[str, Any]:
    settings = {**asdict(model), **asdict(rows), **asdict(run), **args.to_dict()}
    return {name: value for name, value in sorted(settings.items()) if name not in _WITHOUT_EFFECT}


def describe_run(words: Sequence[str], data: Any) -> dict[str, Any]:
    """Every setting that has an effect, and a hash of the data, as JSON gives them back."""
    model, rows, run, args, _ = parse_settings([ModelSettings, DataSettings, RunSettings, GenextTrainingArguments], list(words))
    kept = _list_settings(model, rows, run, args)
    digest = hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()
    return json.loads(json.dumps({**kept, "data": digest}, default=str))


__all__ = ["RECORD", "describe_run", "digest_settings", "train_unless_done"]

"""What the scripts of the digits_few_labels recipe share: which images keep their label, and a training for each choice."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_genext.hub import read_results
from hf_genext.training import GenextTrainingArguments
from recipes.arguments import SettingsError, parse_settings
from recipes.conditional_settings import DataSettings, ModelSettings, RunSettings
from recipes.digits_few_labels.prepare_data import prepare_data
from recipes.reuse import digest_settings, train_unless_done
from recipes.train_conditional import main as train


@dataclass
class ChoiceSettings:
    """Which images keep their label."""

    seeds: list[int] = field(default_factory=lambda: list(range(1, 11)), metadata={"help": "Choices of labelled images."})
    label_counts: list[int] = field(default_factory=lambda: [10, 30, 100], metadata={"help": "How many labels are kept."})
    num_rows: int | None = field(default=None, metadata={"help": "The most training images; left out, all."})
    score_on: str = field(
        default="test", metadata={"help": "test, or validation: by what settings are chosen, with seeds of their own."}
    )


@dataclass
class Choice:
    """A choice of labelled images, and what it left.

    Attributes:
        count: How many labels.
        seed: Which.
        files: As [`prepare_data`] gives them, `scored_file` among them.
    """

    count: int
    seed: int
    files: dict[str, Any]

    @property
    def metric(self) -> str:
        """What its accuracy is called."""
        return f"accuracy_{self.count}"


@dataclass
class Settings:
    """The settings of a script, and the words that set what only the training knows."""

    own: Any
    run: RunSettings
    folder: Path
    config_path: Path
    words: list[str]


def read_choice_settings(own: type[ChoiceSettings], argv: list[str] | None) -> Settings:
    """The settings of a script of this recipe.

    Args:
        own: Its own settings.
        argv: The command line without the program's name; that of this process if left out.

    Raises:
        SettingsError: without a settings file, for another part of the data than there is, or for results of other images than
            those of the test.
    """
    words = sys.argv[1:] if argv is None else argv
    settings, _, _, run, args, config_path = parse_settings(
        [own, ModelSettings, DataSettings, RunSettings, GenextTrainingArguments], words
    )
    if config_path is None:
        raise SettingsError("Give the settings file: recipes/digits_few_labels/config.yaml.")
    if settings.score_on not in ("test", "validation"):
        raise SettingsError(f"score_on is test or validation, got {settings.score_on!r}.")
    if settings.score_on == "validation" and run.update_results:
        raise SettingsError("The results are those of the test images; leave out --update_results, or --score_on validation.")
    hidden = {*own.__dataclass_fields__, "seed", "output_dir", "update_results"}
    return Settings(settings, run, Path(args.output_dir or "out"), config_path, _without(words[1:], hidden))


def _without(words: list[str], names: set[str]) -> list[str]:
    """`--key value` words without those of some keys."""
    kept: list[str] = []
    is_kept = True
    for word in words:
        if word.startswith("--"):
            is_kept = word[2:].partition("=")[0] not in names
        if is_kept:
            kept.append(word)
    return kept


def list_choices(settings: Settings) -> Iterator[Choice]:
    """The choices that the settings ask for, their files written, all numbers of labels of a seed one after the other."""
    own = settings.own
    for seed in own.seeds:
        for count in own.label_counts:
            folder = settings.folder / "data" / f"{count}-{seed}"
            files = prepare_data(folder, num_labels=count, seed=seed, num_rows=own.num_rows)
            yield Choice(count, seed, {**files, "scored_file": files[f"{own.score_on}_file"]})


def digest_choices(settings: Settings) -> str:
    """A few letters that are others where the settings of some number of labels are."""
    digests = []
    for path in sorted({find_config(settings.config_path, count) for count in settings.own.label_counts}):
        model, rows, run, args, _ = parse_settings(
            [ModelSettings, DataSettings, RunSettings, GenextTrainingArguments], [str(path), *settings.words]
        )
        digests.append(digest_settings(model, rows, run, args))
    return "-".join(digests)


def find_config(config_path: Path, count: int) -> Path:
    """The settings for a number of labels: `config_COUNT.yaml` beside `config.yaml` where there is one, else that itself."""
    own = config_path.with_name(f"{config_path.stem}_{count}{config_path.suffix}")
    return own if own.is_file() else config_path


def train_choice(config_path: Path, choice: Choice, folder: Path, train_file: str, words: list[str]) -> dict[str, Any]:
    """The results of a training, which is run in this process unless the folder holds it already.

    Args:
        config_path: The settings file.
        choice: What it is scored on, and its seed.
        folder: Where the model goes.
        train_file: Its rows.
        words: More settings.
    """
    options = {
        "train_file": train_file,
        "validation_file": choice.files["validation_file"],
        "test_file": choice.files["scored_file"],
        "seed": str(choice.seed),
        "output_dir": str(folder),
    }
    line = [str(config_path), *words, *(word for name, value in options.items() for word in (f"--{name}", value))]
    train_unless_done(line, folder, [choice.files["facts"], choice.seed], train=train)
    return read_results(folder / "results.json")


__all__ = [
    "Choice",
    "ChoiceSettings",
    "Settings",
    "digest_choices",
    "find_config",
    "list_choices",
    "read_choice_settings",
    "train_choice",
]

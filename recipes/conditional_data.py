"""From settings to the rows and metrics of a conditional model."""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
from accelerate import PartialState

import hf_genext
from hf_genext.batching import EncodedPairs, EncodedRows
from hf_genext.conditions import (
    NUMBER_KINDS,
    ConditionColumns,
    group_conditions,
    list_kinds,
    parse_condition_columns,
    read_rows,
)
from hf_genext.data import DataReport, encode_pairs, fold_text, group_references, read_pairs, split_by_source
from hf_genext.encoding import encode_rows
from hf_genext.genext.tokenization_genext import find_unknown_token
from hf_genext.media_columns import MEDIA_KINDS
from hf_genext.metrics import METRICS, build_metrics
from hf_genext.prediction_metrics import build_prediction_metrics, list_prediction_metrics
from hf_genext.sequence_metrics import SEQUENCE_METRICS, SequenceMetrics, build_sequence_metrics
from recipes.arguments import SettingsError
from recipes.conditional_settings import DataSettings
from recipes.running import describe_missing_model, import_script

logger = logging.getLogger("recipes")


@dataclass
class ConditionalData:
    """Rows to train on, to choose by, and to score the finished model on, with facts about them."""

    train: datasets.Dataset
    validation: datasets.Dataset
    test: datasets.Dataset | None = None
    facts: dict[str, Any] = field(default_factory=dict)


class RowReader:
    """Reads files as the settings say; spaces of word vectors are opened once.

    Args:
        settings: Which columns hold what.
        output: `"text"`, or the kind of a single output.
        ranks: Those that all read the same files together, if there are several.
        keep_unlabelled: Whether rows to train on may lack their class.
    """

    def __init__(
        self,
        settings: DataSettings,
        output: str = "text",
        ranks: PartialState | None = None,
        *,
        keep_unlabelled: bool = False,
    ) -> None:
        self.settings, self.output, self._ranks, self.keep_unlabelled = settings, output, ranks, keep_unlabelled
        self.is_plain = settings.conditions is None and output == "text"
        conditions = {"text": settings.source_column} if settings.conditions is None else settings.conditions
        self.conditions: list[ConditionColumns] = parse_condition_columns(conditions)
        self._spaces: dict[str, Any] | None = None
        if settings.target_columns is not None and output not in NUMBER_KINDS:
            raise SettingsError("target_columns is for a regression of several numbers, or a density; give target_column.")

    def read(self, files: Sequence[str], *, keep_unlabelled: bool = False) -> datasets.Dataset:
        """The rows of a file, a `datasets` source, or two text files, and say what was left out.

        Args:
            files: Where they are.
            keep_unlabelled: Whether rows without a class stay.
        """
        settings = self.settings
        source = files[0] if len(files) == 1 else list(files)
        how = {
            "column_names": settings.column_names,
            "config_name": settings.dataset_config,
            "split": settings.dataset_split,
        }
        if self.is_plain:
            rows, report = read_pairs(source, source_column=settings.source_column, target_column=settings.target_column, **how)
        else:
            rows, report = read_rows(
                source,
                self.conditions,
                target_columns=settings.target_columns or [settings.target_column],
                output=self.output,
                spaces=self._open_spaces(),
                unreadable=settings.unreadable,
                keep_unlabelled=keep_unlabelled,
                ranks=self._ranks,
                **how,
            )
        logger.info("%s: %s", " + ".join(files), report)
        return rows

    def _open_spaces(self) -> dict[str, Any]:
        if self._spaces is None:
            self._spaces = {}
            for name in {condition.space for condition in self.conditions if condition.space is not None}:
                try:
                    self._spaces[name] = hf_genext.StaticEmbeddingModel.from_pretrained(name)
                except OSError as error:
                    raise SettingsError(f"conditions: {describe_missing_model(name, error)}") from error
        return self._spaces


@dataclass
class DataFiles:
    """Where the rows are, each a file, two text files, or a `datasets` source.

    Attributes:
        train: Rows to train on.
        validation: Rows to choose by; left out, some of the former.
        test: Rows to score the finished model on.
        facts: What is known of them.
    """

    train: list[str]
    validation: list[str] | None
    test: list[str] | None
    facts: dict[str, Any]


def find_data(settings: DataSettings, folder: Path, config_path: Path | None) -> DataFiles:
    """The files that the settings name, or that their script makes.

    Args:
        settings: The settings.
        folder: Where a `data_script` may write.
        config_path: The settings file, beside which the script stands.

    Raises:
        SettingsError: if there is no training data.
    """
    files = {"train_file": settings.train_file, "validation_file": settings.validation_file, "test_file": settings.test_file}
    facts: dict[str, Any] = {}
    if settings.train_file is None and settings.data_script is not None:
        prepared = import_script(config_path, "data_script", settings.data_script).prepare_data(folder)
        facts = dict(prepared["facts"])
        files |= {name: [prepared[name]] for name in files if files[name] is None and name in prepared}
    train_file = files["train_file"]
    if train_file is None:
        raise SettingsError("There is no training data: set train_file (a file, two text files, or a `datasets` source).")
    facts.setdefault("name", " + ".join(Path(name).name for name in train_file))
    return DataFiles(train_file, files["validation_file"], files["test_file"], facts)


def load_data(settings: DataSettings, reader: RowReader, files: DataFiles) -> ConditionalData:
    """The rows of files.

    Args:
        settings: The settings.
        reader: Built from them.
        files: Where the rows are.
    """
    train = reader.read(files.train, keep_unlabelled=reader.keep_unlabelled)
    if files.validation is not None:
        validation = reader.read(files.validation)
    else:
        size = settings.validation_size
        # Rows without a condition, or with labels alone, none of which may be wholly held out, are told apart by their targets.
        is_open = all(condition.kind == "label" for condition in reader.conditions) and reader.output not in ("class", "labels")
        how: dict[str, Any] = {"column": "target", "key": str} if is_open else {}
        unlabelled = train.filter(lambda target: target is None, input_columns="target") if reader.keep_unlabelled else None
        if unlabelled is not None:  # What is held out is there to be judged by.
            train = train.filter(lambda target: target is not None, input_columns="target")
        train, validation = split_by_source(train, int(size) if size >= 1 else size, seed=settings.validation_seed, **how)
        if unlabelled is not None:
            train = datasets.concatenate_datasets([train, unlabelled])
    return ConditionalData(train, validation, None if files.test is None else reader.read(files.test), files.facts)


def encode_dataset(
    rows: datasets.Dataset,
    processor: hf_genext.GenextProcessor,
    settings: DataSettings,
    reader: RowReader,
    *,
    max_source_length: int,
    max_target_length: int,
    output_names: Sequence[str] | None = None,
) -> tuple[EncodedPairs | EncodedRows, DataReport]:
    """Rows as the model takes them, lengths no longer than the tokenizers allow."""
    limits = {
        "max_source_length": _limit(max_source_length, processor.tokenizer),
        "max_target_length": _limit(max_target_length, processor.target_tokenizer),
    }
    rules: dict[str, Any] = {"too_long": settings.too_long, "unknown_target": settings.unknown_target}
    if reader.is_plain:
        return encode_pairs(rows, processor, **limits, **rules)
    rules["unknown_label"] = settings.unknown_label
    return encode_rows(rows, processor, **limits, **rules, output=reader.output, output_names=output_names)


def _limit(length: int, tokenizer: Any) -> int:
    return length if tokenizer is None else min(length, tokenizer.model_max_length)


def group_rows(rows: datasets.Dataset, tokenizer: Any = None, target_tokenizer: Any = None) -> dict[str, list[Any]]:
    """`source` (distinct conditions), `name` (what tells them apart) and `references` (the targets of each).

    Texts that differ in nothing but case are one source where the source's tokenizer makes no difference between them.
    References are as the target's tokenizer writes them, white space and capitals for example, but for those with a token that
    it does not know: no model can write any other text.
    """
    grouped = _group_sources(rows, tokenizer)
    if target_tokenizer is not None:
        texts = list(dict.fromkeys(text for references in grouped["references"] for text in references))
        written = dict(zip(texts, _rewrite(texts, target_tokenizer), strict=True))
        grouped["references"] = [[written[text] for text in references] for references in grouped["references"]]
    return grouped


def _rewrite(texts: list[str], tokenizer: Any) -> list[str]:
    """Texts as a tokenizer writes them."""
    unknown_id = find_unknown_token(tokenizer)
    ids = tokenizer(text_target=texts)["input_ids"]
    written = tokenizer.batch_decode(ids, skip_special_tokens=True)
    known = [bool(new) and unknown_id not in row for new, row in zip(written, ids, strict=True)]
    return [new if is_known else text for text, new, is_known in zip(texts, written, known, strict=True)]


def _group_sources(rows: datasets.Dataset, tokenizer: Any) -> dict[str, list[Any]]:
    if list_kinds(rows) or not any(rows[:100]["source"]):
        return group_conditions(rows)
    texts = list(dict.fromkeys(rows["source"]))
    ids = [None] * len(texts) if tokenizer is None else tokenizer(texts)["input_ids"]
    keys = {text: f"{fold_text(text)}\n{read}" for text, read in zip(texts, ids, strict=True)}
    grouped = group_references(rows, keys.__getitem__)
    sources = list(grouped["source"])
    return {"source": sources, "name": sources, "references": list(grouped["references"])}


def spread_rows(rows: dict[str, list[Any]], limit: int | None) -> dict[str, list[Any]]:
    """So many rows at most, spread evenly over all of them, as files are often sorted.

    Args:
        rows: Columns of equal length.
        limit: How many; `None` for all.

    Raises:
        SettingsError: for a limit below 1.

    Example:
        >>> spread_rows({"source": ["a", "b", "c", "d", "e"]}, 2)
        {'source': ['a', 'c']}
    """
    if limit is None:
        return rows
    if limit < 1:
        raise SettingsError(f"max_generated must be 1 or more, got {limit}; leave it out for all.")
    count = len(next(iter(rows.values())))
    kept = range(count) if count <= limit else [place * count // limit for place in range(limit)]
    return {name: [column[place] for place in kept] for name, column in rows.items()}


def count_scored(side: str, grouped: dict[str, list[Any]], *, scores_rows: bool) -> dict[str, int]:
    """What a score is of, for results.

    Args:
        side: `"validation"` or `"test"`.
        grouped: Rows as [`group_rows`] gathered them.
        scores_rows: Whether every target is scored by itself, how likely it is, and not one output against all of them.

    Returns:
        `..._sources`, the distinct conditions, or of rows without any their distinct targets; and `..._rows`, the targets,
        where they are scored and more than that.

    Example:
        >>> grouped = {"source": ["dutch"], "name": ["dutch"], "references": [["fiets", "boot"]]}
        >>> count_scored("test", grouped, scores_rows=True)
        {'test_sources': 1, 'test_rows': 2}
    """
    rows = sum(map(len, grouped["references"]))
    sources = len(grouped["source"]) if any(grouped["name"]) else rows
    return {f"{side}_sources": sources, **({f"{side}_rows": rows} if scores_rows and rows > sources else {})}


def write_example(conditions: dict[str, Any] | None, example: str, fallback: Any = None) -> str | None:
    """Python that gives an example of a condition, where that is no text: `None` for a text.

    Args:
        conditions: As the settings have them.
        example: What the settings give: for a vector out of a space the word.
        fallback: A condition, where the settings give none.
    """
    if conditions is None or (example and set(conditions) == {"text"}):
        return None
    parsed = parse_condition_columns(conditions)
    if example and len(parsed) == 1:
        (condition,) = parsed
        if condition.space is not None:
            space, word = (json.dumps(name, ensure_ascii=False) for name in (condition.space, example))
            return f'{{"vector": AutoModel.from_pretrained({space})[{word}]}}'
        return json.dumps({condition.kind: example}, ensure_ascii=False)
    rows = fallback if isinstance(fallback, dict) else {}
    return repr({kind: _shorten(kind, value) for kind, value in rows.items()})


def _shorten(kind: str, value: Any) -> Any:
    """Numbers with four digits; labels that are there; a picture or recording that is no file by a name that one could have."""
    if kind in MEDIA_KINDS:
        is_path = isinstance(value, str) and not value.startswith("data:")
        return value if is_path else {"image": "picture.png", "audio": "recording.wav"}[kind]
    if isinstance(value, dict):
        return {name: label for name, label in value.items() if label is not None}
    return [float(f"{number:.4g}") for number in value] if isinstance(value, list) else value


def build_text_metrics(settings: DataSettings, config_path: Path | None) -> Callable[..., dict[str, float]] | None:
    """The metrics of generated texts that the settings name, those of a script among them; `None` for none.

    Raises:
        SettingsError: for a metric that there is not.
    """
    unknown = [name for name in settings.metrics or [] if name not in {*METRICS, *SEQUENCE_METRICS}]
    if unknown:
        known = ", ".join(sorted([*METRICS, *SEQUENCE_METRICS]))
        raise SettingsError(f"metrics: there is no metric {unknown[0]!r} of sequences; known are {known}.")
    names = [name for name in settings.metrics or [] if name in METRICS]
    parts = [build_metrics(names)] if names else []
    if settings.metrics_script is not None:
        parts.append(import_script(config_path, "metrics_script", settings.metrics_script).build_metrics())
    if not parts:
        return None

    def compute(predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        return {name: value for part in parts for name, value in part(predictions, references).items()}

    return compute


def require_metrics(
    settings: DataSettings, config_path: Path | None, output: str, best: str | None, deciding: dict[str, str]
) -> None:
    """Raise for a metric that chooses the best checkpoint, or that decides, and is mistyped: before the training, not after it.

    What decides may also come of a script that scores the model later, and is not known yet.

    Args:
        settings: What names the metrics of an evaluation.
        config_path: The settings file, beside which a script of metrics stands.
        output: `"text"`, or the kind of a single output.
        best: What chooses the best checkpoint, if something does.
        deciding: What decides, and whether it is to be higher or lower.

    Raises:
        SettingsError: naming the metric that was meant, or all that there are.
    """
    for name, direction in deciding.items():
        if direction not in ("higher", "lower"):
            raise SettingsError(f"deciding_metrics: {name} must be higher or lower, got {direction!r}.")
    chosen = "loss" if best is None else best.removeprefix("eval_")
    known = _list_metrics(replace(settings, metrics_script=None), config_path, output)
    if settings.metrics_script is not None and not {chosen, *deciding} <= {"loss", *known}:
        known = _list_metrics(settings, config_path, output)  # A script tells by what it gives for a text.
    if chosen not in ("loss", *known):
        raise SettingsError(
            f"metric_for_best_model is {best!r}, which no evaluation gives; known are {', '.join(['loss', *known])}. Set "
            "metrics to have more."
        )
    folded = {name.casefold(): name for name in known or ["loss"]}
    for name in deciding:
        if name in folded.values():
            continue
        meant = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.85)
        if meant:
            raise SettingsError(f"deciding_metrics: there is no metric {name!r}. Did you mean {folded[meant[0]]!r}?")
        logger.info(
            "%s decides, too, but is none of the metrics of this training: what scores the model later has to add it.", name
        )


def _list_metrics(settings: DataSettings, config_path: Path | None, output: str) -> list[str]:
    if output != "text":
        return list(settings.metrics or list_prediction_metrics(output))
    generated, given = build_text_metrics(settings, config_path), build_given_metrics(settings)
    return [*(generated(["a"], [["a"]]) if generated else {}), *(given(-1.0, 1, 1) if given else {})]


def build_given_metrics(settings: DataSettings) -> SequenceMetrics | None:
    """The metrics of how likely given texts are that the settings name; `None` for none."""
    names = [name for name in settings.metrics or [] if name in SEQUENCE_METRICS]
    return build_sequence_metrics(names) if names else None


def build_output_metrics(settings: DataSettings, kind: str, *, threshold: float = 0.5) -> Callable[..., dict[str, float]]:
    """The metrics of single outputs that the settings name, or all that there are for the kind of head.

    Args:
        settings: What names them.
        kind: The kind of the head.
        threshold: The probability from which on a label is predicted.
    """
    if settings.metrics_script is not None:
        raise SettingsError("metrics_script is for generated texts; a head's metrics are named in metrics.")
    return build_prediction_metrics(settings.metrics or list_prediction_metrics(kind), kind, threshold=threshold)


__all__ = [
    "ConditionalData",
    "DataFiles",
    "RowReader",
    "build_given_metrics",
    "build_output_metrics",
    "build_text_metrics",
    "count_scored",
    "encode_dataset",
    "find_data",
    "group_rows",
    "load_data",
    "require_metrics",
    "spread_rows",
    "write_example",
]

"""Rows with conditions of any kind: which columns hold them, and reading.

A condition is written as `pipeline("conditional-generation")` takes it: a dictionary with some of `text`, `vector`, `label`,
`image` and `audio`.

Legend: rows, size (numbers of a vector), fields (of labels), outputs (of a single output).
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hf_genext.data import DataReport, fold_text, group_by_key
from hf_genext.genext.configuration_heads_genext import DENSITY_KINDS
from hf_genext.media_columns import MEDIA_KINDS, find_unreadable, list_media, read_media_column
from hf_genext.tables import is_nested, read_table, require_columns, to_strings

if TYPE_CHECKING:
    import pyarrow as pa
    from accelerate import PartialState
    from datasets import Dataset


CONDITION_KINDS = ("text", "vector", "label", "image", "audio")
"""What a row can be conditioned on, by the names that the pipeline gives them."""

OUTPUT_KINDS = ("text", "class", "labels", "regression", *DENSITY_KINDS, "image")
"""What a row's target can be: a text, or a single output as a [`GenextHeadConfig`] names it."""

NUMBER_KINDS = ("regression", *DENSITY_KINDS, "image")
"""Outputs that are numbers, of which several may stand in a column each."""

_SHOWN_NUMBERS = 16


@dataclass(frozen=True)
class ConditionColumns:
    """Where a condition stands in a data set.

    Args:
        kind: One of [`CONDITION_KINDS`].
        columns: Its columns: one, but for labels, of which each field has its own.
        space: For a vector, the folder of a `StaticEmbeddingModel` in which the column's word is looked up.
        sampling_rate: For audio, the samples a second of a column that holds nothing but samples.

    Raises:
        ValueError: for another kind, several columns of anything but labels, a space of anything but a vector, or a rate of
            anything but audio.
    """

    kind: str
    columns: tuple[str, ...]
    space: str | None = None
    sampling_rate: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in CONDITION_KINDS:
            raise ValueError(f"There is no condition {self.kind!r}; known are {', '.join(CONDITION_KINDS)}.")
        if not self.columns or (len(self.columns) > 1 and self.kind != "label"):
            raise ValueError(
                f"The condition {self.kind!r} stands in one column, got {len(self.columns)}. Only labels have several."
            )
        if self.space is not None and self.kind != "vector":
            raise ValueError(f"A space gives vectors, so it goes with the condition 'vector', not {self.kind!r}.")
        if self.sampling_rate is not None and self.kind != "audio":
            raise ValueError(f"A sampling_rate is of recordings, so it goes with the condition 'audio', not {self.kind!r}.")


def parse_condition_columns(settings: Mapping[str, Any]) -> list[ConditionColumns]:
    """Conditions as a settings file writes them.

    Args:
        settings: For each condition a column, a list of columns, or a dictionary with `column` and `space` or `sampling_rate`.

    Returns:
        The conditions, in their order.

    Raises:
        ValueError: for what cannot be read so.

    Example:
        >>> parse_condition_columns({"vector": {"column": "word", "space": "out/glove"}, "label": ["pos", "domain"]})[1]
        ConditionColumns(kind='label', columns=('pos', 'domain'), space=None, sampling_rate=None)
    """
    conditions = []
    for kind, given in settings.items():
        fields = given if isinstance(given, Mapping) else {"column": given}
        unknown = [name for name in fields if name not in ("column", "space", "sampling_rate")]
        if unknown or fields.get("column") is None:
            raise ValueError(
                f"The condition {kind!r} needs a column, and may have a space or a sampling_rate; got {given!r:.80}. Write for "
                "example {vector: {column: word, space: out/glove}}."
            )
        column = fields["column"]
        columns = tuple(map(str, column)) if isinstance(column, (list, tuple)) else (str(column),)
        conditions.append(ConditionColumns(kind, columns, fields.get("space"), fields.get("sampling_rate")))
    return conditions


# Reading


def read_rows(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Dataset,
    conditions: Sequence[ConditionColumns],
    *,
    target_columns: Sequence[str],
    output: str = "text",
    column_names: Sequence[str] | None = None,
    split: str | None = None,
    config_name: str | None = None,
    spaces: Mapping[str, Any] | None = None,
    unreadable: Literal["error", "drop"] = "error",
    keep_unlabelled: bool = False,
    ranks: PartialState | None = None,
) -> tuple[Dataset, DataReport]:
    """Read rows of conditions and targets. Pictures and recordings are opened once, to see that they can be, and not kept.

    Args:
        source: As [`hf_genext.data.read_pairs`] takes it.
        conditions: What the rows are conditioned on; of several, any may be missing in a row (null, or nothing but white
            space). Vectors are lists of numbers, in text files numbers apart by white space. Pictures and recordings stand in a
            column as [`hf_genext.media_columns.read_media_column`] takes them.
        target_columns: Column of the target; of a regression or a density one for each number, or one of vectors. An image is
            the vector of its pixels, row by row. A row of a regression has one number at least; the others may be missing.
        output: One of [`OUTPUT_KINDS`]. Labels are a list, in text files names apart by white space; an empty list says that
            none of them is true, null and an empty cell that nobody knows. Vectors are written as those of a condition.
        column_names: As [`hf_genext.data.read_pairs`] takes it, as the two that follow.
        split: Split of a `datasets` source.
        config_name: Configuration of a `datasets` source.
        spaces: For each folder that a condition names the space: a mapping of words to vectors (size,).
        unreadable: What to do with a row whose picture or recording cannot be opened.
        keep_unlabelled: Whether rows without a class stay, with null as their target, for a model with a generative half.
        ranks: Those that all read the same rows together: each opens its share of the pictures and recordings.

    Returns:
        A dataset with `source` (what tells conditions apart, for people and for splits), a column for each condition, `target`,
        and `row` (its number in the file, from 1); and the report on what was left out: rows without any condition, without a
        target, whose word the space lacks where it is the one condition, or whose picture or recording cannot be opened.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for data that cannot be read, a column that is not there, or vectors of several sizes; with
            `keep_unlabelled` also where no row has a target.
    """
    import datasets
    import pyarrow as pa

    text_columns = [condition.columns[0] for condition in conditions if condition.kind == "text"]
    table, name = read_table(
        source,
        column_names=column_names,
        split=split,
        config_name=config_name,
        text_columns=(text_columns[0], target_columns[0]) if text_columns else None,
    )
    own = [column for condition in conditions for column in condition.columns]
    require_columns(table, name, own, "conditions (or source_column, of a text alone)")
    require_columns(table, name, target_columns, "target_column" if len(target_columns) == 1 else "target_columns")
    folder = Path(source).parent if isinstance(source, (str, os.PathLike)) else Path()
    report = DataReport(read=table.num_rows)
    keep = np.ones(table.num_rows, dtype=bool)
    columns: dict[str, pa.Array] = {}
    shown: list[list[str]] = []
    present = np.zeros(table.num_rows, dtype=bool)
    for condition in conditions:
        values, names = _read_condition(table, name, condition, folder, (spaces or {}).get(condition.space or ""))
        columns[condition.kind] = values
        shown.append(names)
        is_there = ~np.asarray(values.is_null())
        if len(conditions) == 1:
            why = "empty" if condition.space is None else "not in the space:"
            _drop(report, keep, ~is_there, f"{why} {condition.columns[0]}")
        present |= is_there
    if len(conditions) > 1:
        _drop(report, keep, ~present, "no condition")
    target, has_numbers = _read_target(table, name, target_columns, output)
    needs_all = output != "regression"
    is_given = np.asarray(has_numbers.all(axis=1) if needs_all else has_numbers.any(axis=1))
    if keep_unlabelled:
        _note_unlabelled(report, keep, is_given, target_columns[0], name)
    elif needs_all:
        for column, is_there in zip(target_columns, has_numbers.T, strict=True):
            _drop(report, keep, ~is_there, f"empty {column}")
    else:
        _drop(report, keep, ~is_given, f"empty {' and '.join(target_columns)}")
        for column, is_there in zip(target_columns, has_numbers.T, strict=True):
            report.note(f"learned from without {column}", np.flatnonzero(keep & ~is_there), kept=True)
    _drop_unreadable(report, keep, conditions, columns, folder, rule=unreadable, ranks=ranks)
    report.kept = int(keep.sum())
    if report.kept == 0:
        raise ValueError(f"No row of {name} has both sides: {report}.")
    labels = [" | ".join(parts) for parts in zip(*shown, strict=True)] if shown else [""] * table.num_rows
    numbers = np.arange(1, table.num_rows + 1)
    rows = pa.table({"source": pa.array(labels, pa.large_string()), **columns, "target": target, "row": numbers})
    return datasets.Dataset(rows.filter(keep).combine_chunks()), report


def _drop(report: DataReport, keep: np.ndarray, unwanted: np.ndarray, reason: str, cause: object = "") -> None:
    rows = np.flatnonzero(unwanted & keep)
    report.note(reason, rows, kept=False, cause=str(cause))
    keep[rows] = False


def _note_unlabelled(report: DataReport, keep: np.ndarray, is_given: np.ndarray, column: str, name: str) -> None:
    """Count the rows that stay without a class, and raise where all do."""
    if not (is_given & keep).any():
        raise ValueError(
            f"No row of {name} has a target in column {column!r}, so there is no class to learn. Label some rows, at least one "
            "of each class, and leave the others empty."
        )
    report.note(f"learned from without {column}", np.flatnonzero(keep & ~is_given), kept=True)


def _drop_unreadable(
    report: DataReport,
    keep: np.ndarray,
    conditions: Sequence[ConditionColumns],
    columns: Mapping[str, Any],
    folder: Path,
    *,
    rule: str,
    ranks: PartialState | None,
) -> None:
    """Drop or refuse rows whose pictures or recordings cannot be opened."""
    if rule not in ("error", "drop"):
        raise ValueError(f"unreadable must be 'error' or 'drop', got {rule!r}.")
    for condition in conditions:
        if condition.kind not in MEDIA_KINDS:
            continue
        found = find_unreadable(columns[condition.kind], condition.kind, np.flatnonzero(keep).tolist(), folder, ranks)
        if not found:
            continue
        row, cause = next(iter(found.items()))
        if rule == "error":
            kind = FileNotFoundError if isinstance(cause, FileNotFoundError) else ValueError
            more = f" So it is with {len(found):,} rows in all." if len(found) > 1 else ""
            raise kind(f'Row {row + 1}: {cause} Mend it, or set unreadable to "drop".{more}') from cause
        unwanted = np.zeros(len(keep), dtype=bool)
        unwanted[list(found)] = True
        _drop(report, keep, unwanted, f"unreadable {condition.columns[0]}", cause)


def _read_condition(
    table: pa.Table, name: str, condition: ConditionColumns, folder: Path, space: Any
) -> tuple[pa.Array, list[str]]:
    """The values of a condition, null where it is missing, and what stands for them in the column `source`."""
    import pyarrow as pa

    if condition.kind == "vector":
        return _read_vectors(table, name, condition, space)
    if condition.kind in MEDIA_KINDS:
        place = f"Column {condition.columns[0]!r} of {name}"
        return read_media_column(table[condition.columns[0]], condition.kind, place, folder, condition.sampling_rate)
    texts = [_list_texts(table, column, name) for column in condition.columns]
    if condition.kind == "label":
        rows = [
            None if all(label is None for label in labels) else dict(zip(condition.columns, labels, strict=True))
            for labels in zip(*texts, strict=True)
        ]
        fields = pa.struct([(column, pa.string()) for column in condition.columns])
        return pa.array(rows, fields), [", ".join(label or "" for label in labels) for labels in zip(*texts, strict=True)]
    return pa.array(texts[0], pa.large_string()), [text or "" for text in texts[0]]


def _list_texts(table: pa.Table, column: str, name: str) -> list[str | None]:
    values = to_strings(table, column, name).to_pylist()
    return [None if value is None or not value.strip() else value for value in values]


def _read_vectors(table: pa.Table, name: str, condition: ConditionColumns, space: Any) -> tuple[pa.Array, list[str]]:
    import pyarrow as pa

    column = condition.columns[0]
    if condition.space is not None:
        words = _list_texts(table, column, name)
        vectors: list[Any] = [None if word is None else look_up(space, word) for word in words]
        return pa.array(vectors, pa.list_(pa.float32())), [word or "" for word in words]
    arrays = _list_vectors(table, column, name)
    return pa.array(arrays, pa.list_(pa.float32())), ["" if array is None else _show_vector(array) for array in arrays]


def _list_vectors(table: pa.Table, column: str, name: str) -> list[np.ndarray | None]:
    """The vectors of a column, all of one size, `None` where there is none."""
    if is_nested(table[column].type):
        # As arrays: numbers of Python would take ten times the memory.
        vectors: list[Any] = [vector for chunk in table[column].chunks for vector in chunk.to_numpy(zero_copy_only=False)]
    else:
        vectors = [None if text is None else text.split() for text in _list_texts(table, column, name)]
    try:
        arrays = [None if vector is None or not len(vector) else np.array(vector, dtype=np.float32) for vector in vectors]
    except (TypeError, ValueError) as error:
        raise ValueError(f"Column {column!r} of {name} must hold vectors, lists of numbers: {error}.") from error
    sizes = Counter(array.shape for array in arrays if array is not None)
    if len(sizes) > 1 or any(len(shape) != 1 for shape in sizes):
        raise ValueError(f"Column {column!r} of {name} must hold vectors of one size, got the shapes {sorted(sizes)}.")
    broken = [row for row, array in enumerate(arrays) if array is not None and not np.isfinite(array).all()]
    if broken:
        raise ValueError(f"Row {broken[0] + 1}: the vector in column {column!r} of {name} holds what is not a finite number.")
    return arrays


def _show_vector(vector: np.ndarray) -> str:
    """What stands for a vector and tells it from all others: its numbers, or of a long one the first and a hash of all."""
    numbers = [f"{number:.9g}" for number in vector[:_SHOWN_NUMBERS]]
    if len(vector) <= _SHOWN_NUMBERS:
        return " ".join(numbers)
    digest = hashlib.blake2b(vector.tobytes(), digest_size=12).hexdigest()
    return " ".join([*numbers[:4], f"... ({len(vector)} numbers, {digest})"])


def look_up(space: Any, word: str) -> np.ndarray | None:
    """The vector of a word, (size,), or `None` where the space has none."""
    try:
        return np.asarray(space[word], dtype=np.float32)
    except KeyError:
        return None


def _read_target(table: pa.Table, name: str, columns: Sequence[str], output: str) -> tuple[pa.Array, np.ndarray]:
    """The targets, and of which columns each row has something, (rows, columns)."""
    import pyarrow as pa

    if output not in OUTPUT_KINDS:
        raise ValueError(f"output must be one of {', '.join(map(repr, OUTPUT_KINDS))}, got {output!r}.")
    if len(columns) != 1 and output not in NUMBER_KINDS:
        raise ValueError(f"An output of kind {output!r} stands in one column, got {', '.join(map(repr, columns))}.")
    values: list[Any]
    if output in NUMBER_KINDS and len(columns) == 1 and (output != "regression" or is_nested(table[columns[0]].type)):
        values, kind = list(_list_vectors(table, columns[0], name)), pa.list_(pa.float32())
    elif output in NUMBER_KINDS:
        numbers = np.stack([_read_numbers(table, column, name) for column in columns], axis=1)
        return pa.array(list(numbers), pa.list_(pa.float32())), np.isfinite(numbers)
    elif output == "labels":
        values, kind = _list_labels(table, columns[0], name), pa.list_(pa.string())
    else:
        values, kind = list(_list_texts(table, columns[0], name)), pa.large_string()
    return pa.array(values, kind), np.array([[value is not None] for value in values]).reshape(-1, 1)


def _list_labels(table: pa.Table, column: str, name: str) -> list[list[str] | None]:
    """The names of the labels of each row, in the order of the alphabet; `None` where there is nothing but nulls."""
    if not is_nested(table[column].type):
        return [None if text is None else sorted(set(text.split())) for text in _list_texts(table, column, name)]
    rows: list[list[str] | None] = []
    for labels in table[column].to_pylist():
        known = {str(label) for label in labels or [] if label is not None}
        rows.append(sorted(known) if known or labels == [] else None)
    return rows


def _read_numbers(table: pa.Table, column: str, name: str) -> np.ndarray:
    texts = _list_texts(table, column, name)
    numbers = np.full(len(texts), np.nan, dtype=np.float32)
    for row, text in enumerate(texts):
        try:
            numbers[row] = np.nan if text is None else float(text)
        except ValueError as error:
            raise ValueError(f"Row {row + 1}: column {column!r} of {name} holds {text!r:.40}, which is no number.") from error
    return np.where(np.isfinite(numbers), numbers, np.nan)


# What rows hold


def list_kinds(dataset: Dataset) -> list[str]:
    """The conditions of rows that [`read_rows`] gave, in their order."""
    return [name for name in dataset.column_names if name in CONDITION_KINDS]


def list_conditions(dataset: Dataset) -> list[dict[str, Any]]:
    """The condition of each row, as the pipeline takes it; what is missing is left out."""
    kinds = list_kinds(dataset)
    columns = [list_media(dataset, kind) if kind in MEDIA_KINDS else dataset[kind] for kind in kinds]
    return [
        {kind: value for kind, value in zip(kinds, values, strict=True) if value is not None}
        for values in zip(*columns, strict=True)
    ] or [{} for _ in range(len(dataset))]


def group_conditions(dataset: Dataset) -> dict[str, list[Any]]:
    """Gather the targets of each condition.

    Args:
        dataset: Rows that [`read_rows`] gave.

    Returns:
        `source` (the distinct conditions), `name` (what tells them apart, for people), and `references` (their targets).
    """
    conditions, names, targets = list_conditions(dataset), list(dataset["source"]), list(dataset["target"])
    # Two texts may differ in capitals alone, two files may not.
    groups = group_by_key(names, fold_text if "text" in dataset.column_names else str).values()
    return {
        "source": [conditions[rows[0]] for rows in groups],
        "name": [names[rows[0]] for rows in groups],
        "references": [_list_distinct([targets[row] for row in rows]) for rows in groups],
    }


def _list_distinct(targets: list[Any]) -> list[Any]:
    return list({str(target): target for target in targets}.values())


def find_label_names(dataset: Dataset, column: str = "label") -> dict[str, list[str]]:
    """The names of the labels of each field of a column, in the order of the alphabet."""
    names: dict[str, set[str]] = {}
    for row in dataset[column]:
        for field, label in (row or {}).items():
            names.setdefault(field, set()).update([] if label is None else [label])
    return {field: sorted(labels) for field, labels in names.items()}


def find_output_names(dataset: Dataset, output: str) -> list[str]:
    """The names of the classes or labels among the targets, in the order of the alphabet; a missing class has none."""
    if output == "class":
        return sorted(set(dataset["target"]) - {None})
    return sorted({name for row in dataset["target"] for name in row})


def stack_targets(dataset: Dataset) -> np.ndarray:
    """The targets of a regression or a density as one array, (rows, outputs)."""
    column = dataset.with_format("arrow")[:]["target"].combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(dataset), -1).astype(np.float64)


__all__ = [
    "CONDITION_KINDS",
    "NUMBER_KINDS",
    "OUTPUT_KINDS",
    "ConditionColumns",
    "find_label_names",
    "find_output_names",
    "group_conditions",
    "list_conditions",
    "list_kinds",
    "look_up",
    "parse_condition_columns",
    "read_rows",
    "stack_targets",
]

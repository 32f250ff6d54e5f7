"""From rows with conditions of any kind to what a model takes: tokens, numbers of labels and outputs, and files left closed.

Legend: rows, fields (of labels), outputs (of a single output).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hf_genext.batching import EncodedRows
from hf_genext.conditions import NUMBER_KINDS, list_kinds, stack_targets
from hf_genext.data import (
    DataReport,
    check_rules,
    cut_long_rows,
    find_unknown_targets,
    note_unknown_sources,
    number_rows,
)
from hf_genext.media_columns import MEDIA_KINDS, MediaReader

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_genext.genext.processing_genext import GenextProcessor

_ENCODING_CHUNK = 10_000


def encode_rows(
    dataset: Dataset,
    processor: GenextProcessor,
    *,
    max_source_length: int,
    max_target_length: int,
    too_long: Literal["error", "truncate", "drop"] = "error",
    unknown_target: Literal["error", "keep", "drop"] = "error",
    unknown_label: Literal["error", "missing"] = "error",
    output: str = "text",
    output_names: Sequence[str] | None = None,
) -> tuple[EncodedRows, DataReport]:
    """Turn conditions and targets into what a model takes. Pictures and recordings stay files until a batch needs them.

    Args:
        dataset: Rows that [`read_rows`] gave.
        processor: With the parts that the conditions need.
        max_source_length: The longest text of a condition in tokens, the end token included.
        max_target_length: The longest target in tokens, the end token included.
        too_long: What to do with a longer row.
        unknown_target: What to do with a target text that holds what the target vocabulary lacks, or a target class or label
            that is not among the names.
        unknown_label: What to do with a label of a condition that the processor does not know.
        output: One of [`OUTPUT_KINDS`].
        output_names: The names of classes or labels.

    Returns:
        The rows, and the report on what was left out or cut.

    Raises:
        ValueError: for a row that the rules refuse, with its number; or if no row is left.
    """
    check_rules(too_long, unknown_target, unknown_label)
    report = DataReport(read=len(dataset))
    kinds = list_kinds(dataset)
    keep = np.ones(len(dataset), dtype=bool)
    parts: dict[str, list[Any]] = {}
    labels: list[Any] = []
    limits: dict[str, Any] = {"limit": max_source_length, "too_long": too_long}
    places_in_file = number_rows(dataset)
    # Numbers are taken as arrays: as numbers of Python they would take ten times the memory.
    numbers = stack_targets(dataset).astype(np.float32) if output in NUMBER_KINDS else None
    read = dataset if numbers is None else dataset.remove_columns("target")
    for start in range(0, len(dataset), _ENCODING_CHUNK):
        chunk: dict[str, Any] = read[start : start + _ENCODING_CHUNK]
        kept, in_file = (array[start : start + _ENCODING_CHUNK] for array in (keep, places_in_file))
        if "text" in kinds:
            texts = list(chunk["text"])
            rows = _read_tokens(processor, texts)
            cut_long_rows(rows, texts, kept, report, side="source", numbers=in_file, **limits)
            note_unknown_sources(rows, kept, report, processor=processor, numbers=in_file)
            parts.setdefault("input_ids", []).extend(rows)
        if "vector" in kinds:
            parts.setdefault("condition_vectors", []).append(
                processor(condition_vectors=list(chunk["vector"]))["condition_vectors"]
            )
        if "label" in kinds:
            found = _read_labels(processor, list(chunk["label"]), report, rule=unknown_label, numbers=in_file)
            parts.setdefault("condition_labels", []).append(found)
        if numbers is not None:
            continue
        targets = list(chunk["target"])
        if output == "text":
            rows = processor(text_target=targets)["labels"]
            cut_long_rows(
                rows, targets, kept, report, side="target", limit=max_target_length, too_long=too_long, numbers=in_file
            )
            find_unknown_targets(rows, targets, kept, report, processor=processor, rule=unknown_target, numbers=in_file)
            labels.extend(rows)
        else:
            labels.extend(
                _number_outputs(targets, output, list(output_names or []), kept, report, rule=unknown_target, numbers=in_file)
            )
    report.kept = int(keep.sum())
    if report.kept == 0:
        raise ValueError(f"No row is left: {report}.")
    places = np.flatnonzero(keep)
    conditions: dict[str, Any] = {
        name: [values[place] for place in places] if name == "input_ids" else np.concatenate(values)[places]
        for name, values in parts.items()
    }
    wanted: Any = [labels[place] for place in places] if numbers is None else numbers[places]
    media = None if set(kinds).isdisjoint(MEDIA_KINDS) else MediaReader(dataset.select(places), processor)
    return EncodedRows(conditions, wanted if output == "text" else np.array(wanted), media), report


def _read_tokens(processor: GenextProcessor, texts: list[str | None]) -> list[list[int]]:
    """Token rows; that of a missing text is empty."""
    there = [text for text in texts if text is not None]
    tokens: Iterator[list[int]] = iter(processor(text=there)["input_ids"] if there else [])
    return [[] if text is None else next(tokens) for text in texts]


def _read_labels(
    processor: GenextProcessor, rows: list[Any], report: DataReport, *, rule: str, numbers: np.ndarray
) -> np.ndarray:
    """The labels of a condition as numbers, (rows, fields), -1 where one is missing, or not known and to be read so."""
    known = {field: set(names) for field, names in (processor.label_names or {}).items()}

    def is_unknown(field: str, label: Any) -> bool:
        # Numbers, and fields that there are not, are the processor's to judge.
        return isinstance(label, str) and field in known and label not in known[field]

    unknown = [place for place, row in enumerate(rows) if any(is_unknown(*label) for label in (row or {}).items())]
    if unknown and rule == "error":
        try:
            processor(condition_labels=[rows[unknown[0]]])
        except ValueError as error:
            raise ValueError(
                f'Row {numbers[unknown[0]] + 1}: {error} Correct the row, or set unknown_label to "missing".'
            ) from error
    report.note("unknown label read as missing", numbers[unknown], kept=True)
    for place in unknown:
        rows[place] = {field: None if is_unknown(field, label) else label for field, label in rows[place].items()}
    return processor(condition_labels=rows)["condition_labels"]


def _number_outputs(
    targets: list[Any], output: str, names: list[str], keep: np.ndarray, report: DataReport, *, rule: str, numbers: np.ndarray
) -> list[Any]:
    """Single outputs as numbers: a class, -100 where it is missing, or 0 and 1 for each label."""
    known = {name: number for number, name in enumerate(names)}
    missing = [
        row
        for row, target in enumerate(targets)
        if target is not None and any(name not in known for name in ([target] if output == "class" else target))
    ]
    if missing and rule == "error":
        raise ValueError(
            f"Row {numbers[missing[0]] + 1}: the target {targets[missing[0]]!r:.60} is not among the {len(names)} names of the "
            'model\'s outputs. Correct the row, or set unknown_target to "drop".'
        )
    report.note("unknown target", numbers[missing], kept=rule == "keep")
    if rule == "drop":
        keep[missing] = False
    if output == "class":
        return [known.get(target, -100) for target in targets]
    return [[int(name in target) for name in names] for target in map(set, targets)]


__all__ = ["encode_rows"]

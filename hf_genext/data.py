"""From files to token rows: reading pairs of source and target, splitting them, and encoding them with a processor.

Legend: batch, length (input positions), target (output positions).
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hf_genext.batching import EncodedPairs
from hf_genext.genext.tokenization_genext import find_unknown_token
from hf_genext.tables import read_table, require_columns, to_strings

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

    from hf_genext.genext.processing_genext import GenextProcessor

_EXAMPLES_KEPT = 5
_ENCODING_CHUNK = 10_000


@dataclass
class DataReport:
    """What became of the rows of a data set.

    Attributes:
        read: Rows read.
        kept: Rows kept, changed ones included.
        dropped: For each reason the number of rows that were left out.
        changed: For each reason the number of rows that were kept with a change.
        examples: For each reason the first row numbers, counted from 1.
        causes: For a reason what was wrong with the first row, where that differs from row to row.
    """

    read: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[int]] = field(default_factory=dict)
    causes: dict[str, str] = field(default_factory=dict)

    def note(self, reason: str, rows: Sequence[int] | np.ndarray, *, kept: bool, cause: str = "") -> None:
        """Count rows, numbered from 0, under a reason."""
        if len(rows):
            self.causes.setdefault(reason, cause)
            (self.changed if kept else self.dropped)[reason] += len(rows)
            shown = self.examples.setdefault(reason, [])
            shown.extend(int(row) + 1 for row in rows[: _EXAMPLES_KEPT - len(shown)])

    def __str__(self) -> str:
        """One line: `113,438 rows read, 113,430 kept; 8 dropped: empty target (rows 3, 17, ...)`."""
        parts = [f"{self.read:,} rows read, {self.kept:,} kept"]
        for word, counts in (("dropped", self.dropped), ("changed", self.changed)):
            for reason, count in counts.items():
                rows = ", ".join(map(str, self.examples[reason])) + (", ..." if count > len(self.examples[reason]) else "")
                cause = f", the first: {self.causes[reason]}" if self.causes.get(reason) else ""
                parts.append(f"{count:,} {word}: {reason} (rows {rows}{cause})")
        return "; ".join(parts)


def read_pairs(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Dataset,
    *,
    source_column: str,
    target_column: str,
    column_names: Sequence[str] | None = None,
    split: str | None = None,
    config_name: str | None = None,
) -> tuple[Dataset, DataReport]:
    """Read rows of source and target text.

    Args:
        source: A .tsv, .csv, .jsonl or .parquet file (text ones may be gzipped); two text files, one row a line; a folder
            that `save_to_disk` wrote; the name of anything that `datasets.load_dataset` opens; or a dataset.
        source_column: Column of the source.
        target_column: Column of the target.
        column_names: Names of the columns of a .tsv or .csv file without a header.
        split: Split of a `datasets` source; `"train"` if left out.
        config_name: Configuration of a `datasets` source.

    Returns:
        A dataset with the string columns `source` and `target` and `row`, the number in the file from 1; and the report on what
        was left out. Rows with an empty side are left out.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a file that is empty, not UTF-8 or ragged, or a column that is not there.
    """
    import pyarrow as pa

    table, name = read_table(
        source,
        column_names=column_names,
        split=split,
        config_name=config_name,
        text_columns=(source_column, target_column),
    )
    require_columns(table, name, [source_column, target_column])
    return _drop_empty(
        pa.table(
            {
                "source": to_strings(table, source_column, name),
                "target": to_strings(table, target_column, name),
            }
        )
    )


def _drop_empty(table: pa.Table) -> tuple[Dataset, DataReport]:
    import datasets
    import pyarrow.compute as pc

    report = DataReport(read=table.num_rows)
    keep = np.ones(table.num_rows, dtype=bool)
    for column in ("source", "target"):
        blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(table[column])), 0)
        rows = np.flatnonzero(pc.fill_null(blank, True).to_numpy(zero_copy_only=False) & keep)
        report.note(f"empty {column}", rows, kept=False)
        keep[rows] = False
    report.kept = int(keep.sum())
    if report.kept == 0:
        raise ValueError(f"No row has both sides: {report}.")
    table = table.append_column("row", [np.arange(1, table.num_rows + 1)])
    return datasets.Dataset(table.filter(keep).combine_chunks()), report


def number_rows(dataset: Dataset) -> np.ndarray:
    """The number of each row in its file, from 0: as `row` has it, which counts from 1, or else its place, (rows,)."""
    return np.asarray(dataset["row"][:]) - 1 if "row" in dataset.column_names else np.arange(len(dataset))


def group_by_key(sources: Sequence[Any], key: Callable[[Any], str]) -> dict[str, list[int]]:
    """The rows of each distinct source, in the order in which they come."""
    groups: dict[str, list[int]] = {}
    for row, text in enumerate(sources):
        groups.setdefault(key(text), []).append(row)
    return groups


def fold_text(text: str) -> str:
    """A text in Unicode NFC, as tokenizers read it, and without case: what makes two sources one."""
    return unicodedata.normalize("NFC", text).casefold()


def split_by_source(
    dataset: Dataset,
    validation_size: int | float,
    *,
    seed: int,
    key: Callable[[Any], str] = fold_text,
    column: str = "source",
) -> tuple[Dataset, Dataset]:
    """Split rows so that no source stands on both sides, whatever the order of the rows.

    Args:
        dataset: Rows with `source`, or another column.
        validation_size: How many distinct sources to hold out: a number (`int`) or a share of them (`float`).
        seed: Which ones.
        key: Sources with one key are one source.
        column: Where the sources stand; of rows without any, the targets may take their place.

    Returns:
        Training rows and validation rows.

    Raises:
        ValueError: if the size leaves one side empty.
    """
    groups = group_by_key(dataset[column], key)
    count = round(validation_size * len(groups)) if isinstance(validation_size, float) else validation_size
    if not 0 < count < len(groups):
        raise ValueError(
            f"validation_size={validation_size} asks for {count:,} of {len(groups):,} distinct sources; both sides need some."
        )
    names = sorted(groups)
    chosen = np.random.default_rng(seed).choice(len(names), size=count, replace=False)
    held_out = np.zeros(len(dataset), dtype=bool)
    for index in chosen:
        held_out[groups[names[index]]] = True
    return dataset.select(np.flatnonzero(~held_out)), dataset.select(np.flatnonzero(held_out))


def group_references(dataset: Dataset, key: Callable[[str], str] = fold_text) -> Dataset:
    """Gather the targets of each source.

    Args:
        dataset: Rows with `source` and `target`.
        key: Sources with one key are one source.

    Returns:
        Rows with `source` and `references`, the distinct targets in their order.
    """
    import datasets

    sources, targets = list(dataset["source"]), list(dataset["target"])
    groups = group_by_key(sources, key).values()
    return datasets.Dataset.from_dict(
        {
            "source": [sources[rows[0]] for rows in groups],
            "references": [list(dict.fromkeys(targets[row] for row in rows)) for rows in groups],
        }
    )


def encode_pairs(
    dataset: Dataset,
    processor: GenextProcessor,
    *,
    max_source_length: int,
    max_target_length: int,
    too_long: Literal["error", "truncate", "drop"] = "error",
    unknown_target: Literal["error", "keep", "drop"] = "error",
) -> tuple[EncodedPairs, DataReport]:
    """Turn texts into token rows.

    Args:
        dataset: Rows with `source` and `target`, and their numbers as `row`, if they are not as they stand in their file.
        processor: Both tokenizers.
        max_source_length: The longest source in tokens, the end token included.
        max_target_length: The longest target in tokens, the end token included.
        too_long: What to do with a longer row.
        unknown_target: What to do with a target that holds what the target vocabulary lacks.

    Returns:
        The token rows, and the report on what was left out or cut.

    Raises:
        ValueError: for a row that the rules refuse, with its number; or if no row is left.
    """
    check_rules(too_long, unknown_target)
    report = DataReport(read=len(dataset))
    encoded: dict[str, list[list[int]]] = {"source": [], "target": []}
    limits = {"source": max_source_length, "target": max_target_length}
    for numbers, sources, targets in _chunks(dataset):
        rows = {
            "source": processor(text=sources)["input_ids"],
            "target": processor(text_target=targets)["labels"],
        }
        keep = np.ones(len(sources), dtype=bool)
        for side, limit in limits.items():
            texts = sources if side == "source" else targets
            cut_long_rows(rows[side], texts, keep, report, side=side, limit=limit, too_long=too_long, numbers=numbers)
        note_unknown_sources(rows["source"], keep, report, processor=processor, numbers=numbers)
        find_unknown_targets(rows["target"], targets, keep, report, processor=processor, rule=unknown_target, numbers=numbers)
        for side in encoded:
            encoded[side].extend(tokens for tokens, wanted in zip(rows[side], keep, strict=True) if wanted)
    report.kept = len(encoded["source"])
    if report.kept == 0:
        raise ValueError(f"No row is left: {report}.")
    return EncodedPairs(encoded["source"], encoded["target"]), report


def check_rules(too_long: str, unknown_target: str, unknown_label: str = "error") -> None:
    """Raise unless all say something that is known, as [`hf_genext.encoding.encode_rows`] takes them."""
    for name, value, allowed in (
        ("unknown_label", unknown_label, ("error", "missing")),
        ("too_long", too_long, ("error", "truncate", "drop")),
        ("unknown_target", unknown_target, ("error", "keep", "drop")),
    ):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}.")


def cut_long_rows(
    rows: list[list[int]],
    texts: Sequence[str | None],
    keep: np.ndarray,
    report: DataReport,
    *,
    side: str,
    limit: int,
    too_long: str,
    numbers: np.ndarray,
) -> None:
    """Cut, drop or refuse token rows that are longer than the model takes.

    Args:
        rows: Token rows, which are cut in place.
        texts: What they were read from.
        keep: Which rows stay, (rows,), changed in place.
        report: Where to note them.
        side: `"source"` or `"target"`.
        limit: The most tokens.
        too_long: As [`encode_pairs`] takes it.
        numbers: Those of the rows in their file, from 0, (rows,).

    Raises:
        ValueError: for a longer row, where the rule is `"error"`.
    """
    long = [row for row, tokens in enumerate(rows) if len(tokens) > limit and keep[row]]
    if long and too_long == "error":
        raise ValueError(
            f"Row {numbers[long[0]] + 1} has a {side} of {len(rows[long[0]])} tokens ({(texts[long[0]] or '')[:60]!r}); the "
            f'model takes {limit}. Set too_long to "truncate" or "drop"; a new model takes what max_{side}_length says.'
        )
    if too_long == "drop":
        keep[long] = False
    for row in long:
        closing = rows[row][-1:]  # The end token stays.
        rows[row] = rows[row][: limit - 1] + closing
    report.note(f"{side} longer than {limit} tokens", numbers[long], kept=too_long == "truncate")


def find_unknown_targets(
    rows: list[list[int]],
    texts: Sequence[str],
    keep: np.ndarray,
    report: DataReport,
    *,
    processor: GenextProcessor,
    rule: str,
    numbers: np.ndarray,
) -> None:
    """Keep, drop or refuse targets with a token that the vocabulary lacks; arguments as [`cut_long_rows`] takes them.

    Raises:
        ValueError: for such a row, where the rule is `"error"`.
    """
    unknown_id = find_unknown_token(processor.target_tokenizer)
    if unknown_id is None:
        return
    unknown = [row for row, tokens in enumerate(rows) if unknown_id in tokens and keep[row]]
    if unknown and rule == "error":
        raise ValueError(
            f"Row {numbers[unknown[0]] + 1}: the target vocabulary lacks "
            f"{_find_unknown(processor, texts[unknown[0]])!r} (in {texts[unknown[0]][:60]!r}). Correct the row, or set "
            'unknown_target to "drop" or "keep".'
        )
    report.note("unknown token in the target", numbers[unknown], kept=rule == "keep")
    if rule == "drop":
        keep[unknown] = False


def note_unknown_sources(
    rows: list[list[int]], keep: np.ndarray, report: DataReport, *, processor: GenextProcessor, numbers: np.ndarray
) -> None:
    """Count the sources with a token that the vocabulary lacks; arguments as [`cut_long_rows`] takes them."""
    unknown_id = find_unknown_token(processor.tokenizer)
    if unknown_id is not None:
        unknown = [row for row, tokens in enumerate(rows) if unknown_id in tokens and keep[row]]
        report.note("unknown token in the source", numbers[unknown], kept=True)


def _chunks(dataset: Dataset) -> Iterator[tuple[np.ndarray, list[str], list[str]]]:
    numbers = number_rows(dataset)
    for start in range(0, len(dataset), _ENCODING_CHUNK):
        chunk: dict[str, Any] = dataset[start : start + _ENCODING_CHUNK]
        yield numbers[start : start + _ENCODING_CHUNK], list(chunk["source"]), list(chunk["target"])


def _find_unknown(processor: GenextProcessor, text: str) -> str:
    tokenizer = processor.target_tokenizer
    if not tokenizer.is_fast:
        return text
    encoding = tokenizer(text, return_offsets_mapping=True)
    start, end = encoding["offset_mapping"][encoding["input_ids"].index(tokenizer.unk_token_id)]
    return text[start:end]


__all__ = [
    "DataReport",
    "check_rules",
    "cut_long_rows",
    "encode_pairs",
    "find_unknown_targets",
    "fold_text",
    "group_by_key",
    "group_references",
    "note_unknown_sources",
    "number_rows",
    "read_pairs",
    "split_by_source",
]

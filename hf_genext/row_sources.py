"""Rows of files and data sets one after the other, read as they are needed, whatever their number.

A row that cannot be read is an error in its place, and those behind it are read all the same.

Legend: rows, pieces (rows that stand beside each other, all of one size but the last).
"""

from __future__ import annotations

import csv
import functools
import gzip
import hashlib
import io
import itertools
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from hf_genext.tables import ARRAY_HINT, find_class_names, name_class_type, name_classes, warn_of_header

if TYPE_CHECKING:
    import pyarrow as pa

TEXT_KINDS = (".csv", ".tsv", ".jsonl", ".json", ".txt")
"""Kinds of text files, each of which may be gzipped; of .txt every line is a row, with the column `text`."""
KINDS = (".parquet", *TEXT_KINDS)

_SCANNED = 10_000

ReadRow = dict[str, Any] | ValueError
"""A row by its columns, or why it cannot be read."""
Piece = tuple[int, Callable[[], list[ReadRow]]]
"""How many rows there are, and what reads them."""


class RowSource:
    """The rows of one source, in their order.

    Attributes:
        name: What to call it in an error.
        folder: Where paths in its rows begin.
        has_lines_of_json: Whether its rows are JSON, whose columns have no types until all have been read.
    """

    name: str
    folder: Path
    has_lines_of_json = False

    def pieces(self, size: int) -> Iterator[Piece]:
        """All rows, parted by a size; a piece that nobody reads costs little."""
        raise NotImplementedError

    def count(self) -> int | None:
        """How many rows there are; `None` where that is not known beforehand."""
        raise NotImplementedError

    def list_columns(self, *, of_all_rows: bool = False) -> list[str]:
        """The columns; of JSON lines those of the first rows, or of all by reading them.

        Args:
            of_all_rows: Which of them.

        Raises:
            ValueError: if none of the rows can be read.
        """
        return self.scan_schema().names

    def scan_schema(self) -> pa.Schema:
        """The columns and their types, of JSON lines by reading them all."""
        raise NotImplementedError

    def fingerprint(self) -> dict[str, Any]:
        """What changes when the rows do."""
        raise NotImplementedError


def open_source(
    name: str, *, column_names: Sequence[str] | None = None, split: str | None = None, config_name: str | None = None
) -> RowSource:
    """Open a file or a data set.

    Args:
        name: A file of one of [`KINDS`], a folder that `save_to_disk` wrote, or the name of anything that
            `datasets.load_dataset` streams.
        column_names: Names of the columns of a .csv or .tsv file without a header.
        split: Split of a `datasets` source; `"train"` if left out.
        config_name: Configuration of a `datasets` source.

    Raises:
        FileNotFoundError: if there is no such file or data set.
        ValueError: for another kind of file, or one whose columns cannot be read.
    """
    path = Path(name)
    kind = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if kind in KINDS and not path.is_dir():
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {name!r} (looked from {os.getcwd()!r}).")
        if kind == ".parquet":
            return _ParquetSource(path)
        return _TextSource(path, kind, column_names)
    if path.is_file():
        raise ValueError(f"{name!r} ends in {kind or 'nothing'!r}; known are {', '.join(KINDS)}, text also with .gz.")
    return _DatasetSource(name, split or "train", config_name)


class _ParquetSource(RowSource):
    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.name, self.folder, self._path = repr(str(path)), path.parent, path
        try:
            self._schema, self._count = pq.read_schema(path), pq.read_metadata(path).num_rows
        except pa.ArrowInvalid as error:
            raise ValueError(f"{self.name} is not a parquet file that can be read: {error}") from error

    def pieces(self, size: int) -> Iterator[Piece]:
        import pyarrow.parquet as pq

        with pq.ParquetFile(self._path) as file:
            yield from _cut_batches(file.iter_batches(batch_size=min(size, 4096)), size)

    def count(self) -> int | None:
        return self._count

    def scan_schema(self) -> pa.Schema:
        return self._schema

    def fingerprint(self) -> dict[str, Any]:
        return {"sha256": hash_file(self._path)}


class _TextSource(RowSource):
    """CSV (with quotes), TSV (without), JSON lines and plain lines, in UTF-8."""

    def __init__(self, path: Path, kind: str, column_names: Sequence[str] | None) -> None:
        self.name, self.folder, self._path = repr(str(path)), path.parent, path
        self._kind = ".jsonl" if kind == ".json" else kind
        self.has_lines_of_json = self._kind == ".jsonl"
        self._has_header = kind in (".csv", ".tsv") and column_names is None
        self._columns = ["text"] if kind == ".txt" else list(column_names or [])
        if self._has_header:
            with self._open() as file:
                self._columns = next(self._split(file), [])
        elif column_names and self._kind in (".csv", ".tsv"):
            with self._open() as file:
                warn_of_header(next(self._split(file), []), column_names, self.name)
        try:
            "".join(self._columns).encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"The header of {self.name} is not UTF-8. Convert the file, for example with iconv.") from error
        twice = [name for place, name in enumerate(self._columns) if name in self._columns[:place]]
        if twice or (self._has_header and not any(self._columns)):
            what = f"the column {twice[0]!r} twice" if twice else "no header"
            raise ValueError(f"{self.name} has {what}. Give the names of its columns: --column_names.")

    def pieces(self, size: int) -> Iterator[Piece]:
        with self._open() as file:
            records = enumerate(itertools.islice(self._split(file), int(self._has_header), None))
            while piece := list(itertools.islice(records, size)):
                yield len(piece), functools.partial(self._parse_all, piece)

    def count(self) -> int | None:
        with self._open() as file:
            return sum(1 for _ in self._split(file)) - self._has_header

    def list_columns(self, *, of_all_rows: bool = False) -> list[str]:
        if self._kind != ".jsonl":
            return self._columns
        columns: dict[str, None] = {}
        error: ValueError | None = None
        for _, read in itertools.islice(self.pieces(_SCANNED), None if of_all_rows else 1):
            for row in read():
                if isinstance(row, dict):
                    columns.update(dict.fromkeys(row))
                elif error is None:
                    error = row
        if error is not None and not columns:
            with self._open() as file:
                more = ARRAY_HINT if file.read(_SCANNED).lstrip().startswith("[") else ""
            raise ValueError(f"No row of {self.name} can be read; what is wrong with the first: {error}{more}") from error
        return list(columns)

    def scan_schema(self) -> pa.Schema:
        import pyarrow as pa

        if self._kind != ".jsonl":
            return pa.schema([(name, pa.string()) for name in self._columns])
        schema = pa.schema([])
        for _, read in self.pieces(_SCANNED):
            schema = _widen(schema, [row for row in read() if isinstance(row, dict)], self.name)
        # A column that is null everywhere is one of texts.
        return pa.schema([(field.name, pa.string() if pa.types.is_null(field.type) else field.type) for field in schema])

    def fingerprint(self) -> dict[str, Any]:
        return {"sha256": hash_file(self._path), "columns": self._columns}

    def _open(self) -> IO[str]:
        raw = gzip.open(self._path) if self._path.suffix == ".gz" else open(self._path, "rb")  # noqa: SIM115
        # Only line feeds part lines. What is not UTF-8 must come back, for it is a row's error.
        return io.TextIOWrapper(
            raw, encoding="utf-8-sig", errors="surrogateescape", newline="" if self._kind == ".csv" else "\n"
        )

    def _split(self, file: IO[str]) -> Iterator[Any]:
        """The records: fields of .csv and .tsv, else lines."""
        try:
            yield from self._cut(file)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"{self.name} was cut off, or is not what it was when it was compressed: {error}.") from error

    def _cut(self, file: IO[str]) -> Iterator[Any]:
        if self._kind == ".csv":
            csv.field_size_limit(1 << 30)
            # Else all that follows a quote which is never closed is one field.
            reader = csv.reader(file, strict=True)
            try:
                yield from (fields for fields in reader if fields)
            except csv.Error as error:
                raise ValueError(
                    f"{self.name} cannot be read as CSV at line {reader.line_num}: {error}. Close each quote that is opened, "
                    "and write one inside a quoted field twice."
                ) from error
            return
        for line in file:
            text = line.removesuffix("\n").removesuffix("\r")
            if self._kind == ".tsv" and text:
                yield text.split("\t")
            elif self._kind == ".txt" or text.strip():
                yield text

    def _parse_all(self, records: list[tuple[int, Any]]) -> list[ReadRow]:
        return [self._parse(place, record) for place, record in records]

    def _parse(self, place: int, record: Any) -> ReadRow:
        fields = [record] if isinstance(record, str) else record
        try:
            "".join(fields).encode("utf-8")
        except UnicodeEncodeError:
            return ValueError(f"Row {place} of {self.name} (counted from 0) is not UTF-8.")
        if self._kind != ".jsonl":
            if len(fields) == len(self._columns):
                return dict(zip(self._columns, fields, strict=True))
            return ValueError(
                f"Row {place} of {self.name} (counted from 0) has {len(fields)} fields, not {len(self._columns)}."
            )
        try:
            row = json.loads(record)
            if "\\ud" in record.lower():
                json.dumps(row, ensure_ascii=False).encode("utf-8")  # Half of a surrogate pair cannot be written.
        except (ValueError, RecursionError) as error:
            return ValueError(f"Row {place} of {self.name} (counted from 0) is not JSON: {error}.")
        if not isinstance(row, dict):
            return ValueError(f"Row {place} of {self.name} (counted from 0) is no object but {type(row).__name__}.")
        return row


class _DatasetSource(RowSource):
    def __init__(self, name: str, split: str, config_name: str | None) -> None:
        import datasets

        self.name, self.folder = repr(name), Path()
        self._identity: dict[str, Any] = {"dataset": name, "split": split, "config_name": config_name}
        is_saved = (Path(name) / "state.json").is_file() or (Path(name) / "dataset_dict.json").is_file()
        try:
            if is_saved:
                opened = datasets.load_from_disk(name)
                if isinstance(opened, datasets.DatasetDict):
                    if split not in opened:
                        raise ValueError(f"There is no split {split!r} in {name!r}; it has {', '.join(map(repr, opened))}.")
                    opened = opened[split]
                self._count: int | None = len(opened)
                self._identity["fingerprint"] = opened._fingerprint
                opened = opened.to_iterable_dataset()
            else:
                opened = datasets.load_dataset(name, config_name, split=split, streaming=True)
                # Of files when they were written, of a repository its commit.
                files = datasets.load_dataset_builder(name, config_name).config.data_files or {}
                self._identity["files"] = [list(map(list, part.origin_metadata)) for part in files.values()]
                self._count = (getattr(opened.info, "splits", None) or {}).get(split, None)
                self._count = getattr(self._count, "num_examples", None)
        except (FileNotFoundError, ConnectionError) as error:
            raise FileNotFoundError(
                f"{name!r} is neither a file ({', '.join(KINDS)}) nor a dataset that can be opened: {error}"
            ) from error
        opened = opened if opened.features is not None else opened._resolve_features()
        # Pictures and recordings stay bytes and paths: they are opened when their row is generated from.
        self._rows = opened.decode(False) if hasattr(opened, "decode") else opened
        found = {column: find_class_names(feature) for column, feature in self._rows.features.items()}
        self._classes = {column: names for column, names in found.items() if names is not None}

    def _read(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row with classes by their names, as training reads them."""
        return {**row, **{column: name_classes(row[column], names) for column, names in self._classes.items()}}

    def pieces(self, size: int) -> Iterator[Piece]:
        rows = map(self._read, self._rows)
        while piece := list(itertools.islice(rows, size)):
            yield len(piece), functools.partial(list, piece)

    def count(self) -> int | None:
        return self._count

    def scan_schema(self) -> pa.Schema:
        schema = self._rows.features.arrow_schema
        for place, field in enumerate(schema):
            if field.name in self._classes:
                schema = schema.set(place, field.with_type(name_class_type(field.type)))
        return schema

    def fingerprint(self) -> dict[str, Any]:
        return self._identity


def hash_file(path: Path) -> str:
    """SHA-256 of what a file holds."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cut_batches(batches: Iterable[pa.RecordBatch], size: int) -> Iterator[Piece]:
    """Batches of whatever size, as pieces of one."""
    import pyarrow as pa

    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        while sum(map(len, waiting)) >= size:
            table = pa.Table.from_batches(waiting)
            yield size, table.slice(0, size).to_pylist
            waiting = table.slice(size).to_batches()
    if waiting:
        table = pa.Table.from_batches(waiting)
        yield len(table), table.to_pylist


def _widen(schema: pa.Schema, rows: Sequence[dict[str, Any]], name: str) -> pa.Schema:
    """A schema that holds further rows, too."""
    import pyarrow as pa

    columns = dict.fromkeys(column for row in rows for column in row)
    for column in columns:
        try:
            found = pa.schema([(column, pa.array([row.get(column) for row in rows]).type)])
            schema = pa.unify_schemas([schema, found], promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise ValueError(
                f"Column {column!r} of {name} holds values that are of no one type of a parquet file: {error}. Write JSON "
                "lines (--output NAME.jsonl), or leave the column out (--keep_columns)."
            ) from error
    return schema


__all__ = ["KINDS", "ReadRow", "RowSource", "hash_file", "open_source"]

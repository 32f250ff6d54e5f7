"""Files and data sets as tables: read whole, with whatever columns they have."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import logging
import os
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

logger = logging.getLogger(__name__)

_KINDS = (".tsv", ".csv", ".jsonl", ".json", ".parquet")
ARRAY_HINT = " Write a row a line, as `jq -c '.[]'` does."
"""What to do with a file of JSON that is one array."""

_BLOCK_SIZE = 1 << 20
_LARGEST_BLOCK_SIZE = (1 << 31) - 1


def read_table(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Dataset,
    *,
    column_names: Sequence[str] | None = None,
    split: str | None = None,
    config_name: str | None = None,
    text_columns: tuple[str, str] | None = None,
) -> tuple[pa.Table, str]:
    """Read rows with whatever columns they have.

    Args:
        source: As [`hf_genext.data.read_pairs`] takes it.
        column_names: Likewise, as the two that follow.
        split: Split of a `datasets` source.
        config_name: Configuration of a `datasets` source.
        text_columns: What the lines of two text files are called; without it two files are refused.

    Returns:
        The table, and what to call it in an error.

    Raises:
        FileNotFoundError: if there is no such file.
        TypeError: for a stream, several splits, or what is no data set.
        ValueError: for a file that is empty, not UTF-8 or ragged.
    """
    import datasets

    if isinstance(source, datasets.Dataset):
        table, name = _to_table(source), "the dataset"
    elif isinstance(source, (str, os.PathLike)):
        table, name = _read_table(source, column_names, split, config_name), repr(str(source))
    elif not isinstance(source, Sequence):
        raise TypeError(
            "Rows are read from a file, two text files, or a whole datasets.Dataset, got "
            f'{type(source).__name__}. Of several splits give one, such as dataset["train"]; of anything else make a '
            "datasets.Dataset."
        )
    elif len(source) > 1 and all(_find_kind(path) in _KINDS for path in source):
        table, name = _join([_read_table(path, column_names, split, config_name) for path in source], source), "the files"
    elif len(source) == 2 and any(_find_kind(path) in _KINDS for path in source):
        raise ValueError(
            f"{str(source[0])!r} and {str(source[1])!r} are a table and a text: give tables alone, or two texts (source and "
            "target)."
        )
    elif len(source) == 2 and text_columns is not None:
        table, name = _read_text_pair(Path(source[0]), Path(source[1]), *text_columns), "the text files"
    elif len(source) == 1:
        table, name = _read_table(source[0], column_names, split, config_name), repr(str(source[0]))
    else:
        raise ValueError(
            f"Give tables ({', '.join(_KINDS)}), or two text files (source and target), got {len(source)} other files."
        )
    return table, name


def require_columns(
    table: pa.Table, name: str, columns: Sequence[str], settings: str = "source_column and target_column"
) -> None:
    """Raise unless a table has rows, and all columns, each once.

    Args:
        table: The table.
        name: What to call it in an error.
        columns: The columns.
        settings: What names them.

    Raises:
        ValueError: naming the first column that is not there and those that are, or the first that is there twice.
    """
    missing = [column for column in columns if column not in table.column_names]
    if missing:
        raise ValueError(
            f"There is no column {missing[0]!r} in {name}; it has {', '.join(map(repr, table.column_names))}. Set "
            f"{settings}, or column_names for a file without a header."
        )
    twice = [column for column in columns if table.column_names.count(column) > 1]
    if twice:
        raise ValueError(
            f"There are {table.column_names.count(twice[0])} columns {twice[0]!r} in {name}. Rename them, or set column_names "
            "for a file without a header."
        )
    if table.num_rows == 0:
        raise ValueError(f"There are no rows in {name}.")


def warn_of_header(first_row: Sequence[str], column_names: Sequence[str], name: str) -> None:
    """Warn where the first row of a file whose columns were named looks like a header, which makes it a row like any other."""
    found = {cell.strip().casefold() for cell in first_row} & {column.casefold() for column in column_names}
    if found:
        logger.warning(
            "column_names names the columns of %s, so that its first line is a row; but that holds %r. If it is a header, "
            "leave column_names out (in a recipe --column_names null), or delete the line.",
            name,
            min(found),
        )


def is_nested(kind: pa.DataType) -> bool:
    """Whether a column holds lists or named fields; older pyarrow says no of lists of one size."""
    import pyarrow as pa

    return pa.types.is_nested(kind) or pa.types.is_fixed_size_list(kind)


def to_strings(table: pa.Table, column: str, name: str) -> pa.ChunkedArray:
    """A column of a table as strings.

    Raises:
        ValueError: if it holds lists or named fields.
    """
    import pyarrow as pa

    values = table[column]
    if is_nested(values.type):
        raise ValueError(f"Column {column!r} of {name} holds {values.type}, not text.")
    return values.cast(pa.large_string())


def to_string(value: Any) -> str:
    """A value as [`to_strings`] writes it: `true` for True, and `1` for 1.0."""
    import pyarrow as pa

    return pa.scalar(value).cast(pa.large_string()).as_py() if isinstance(value, (bool, float)) else str(value)


def _find_kind(path: str | os.PathLike[str]) -> str:
    named = Path(path)
    return Path(named.stem).suffix if named.suffix == ".gz" else named.suffix


def _join(tables: list[pa.Table], names: Sequence[str | os.PathLike[str]]) -> pa.Table:
    """Tables of the same columns, one behind the other."""
    import pyarrow as pa

    for table, name in zip(tables, names, strict=True):
        if set(table.column_names) != set(tables[0].column_names):
            raise ValueError(
                f"{str(name)!r} has the columns {', '.join(table.column_names)}, and {str(names[0])!r} has "
                f"{', '.join(tables[0].column_names)}; files that are read together need the same."
            )
    return pa.concat_tables(tables, promote_options="permissive")


def _read_table(
    source: str | os.PathLike[str], column_names: Sequence[str] | None, split: str | None, config_name: str | None
) -> pa.Table:
    path, kind = Path(source), _find_kind(source)
    if kind in _KINDS:
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {str(path)!r} (looked from {os.getcwd()!r}).")
        table = _read_file(path, kind, column_names)
        if column_names and kind in (".csv", ".tsv") and table.num_rows:
            warn_of_header(list(table.slice(0, 1).to_pylist()[0].values()), column_names, repr(str(path)))
        return table
    if path.is_file():
        raise ValueError(f"{str(path)!r} ends in {kind or 'nothing'!r}; known are {', '.join(_KINDS)}, text also with .gz.")
    return _read_dataset(str(source), split, config_name)


def _read_dataset(name: str, split: str | None, config_name: str | None) -> pa.Table:
    import datasets

    if (Path(name) / "state.json").is_file() or (Path(name) / "dataset_dict.json").is_file():
        opened = datasets.load_from_disk(name)
        if isinstance(opened, datasets.DatasetDict):
            if (split or "train") not in opened:
                raise ValueError(f"There is no split {split or 'train'!r} in {name!r}; it has {', '.join(map(repr, opened))}.")
            opened = opened[split or "train"]
    else:
        try:
            opened = datasets.load_dataset(name, config_name, split=split or "train")
        except (FileNotFoundError, ConnectionError) as error:
            raise FileNotFoundError(
                f"{name!r} is neither a file ({', '.join(_KINDS)}) nor a dataset that can be opened: {error}"
            ) from error
    return _to_table(opened)


def _to_table(dataset: Dataset) -> pa.Table:
    """All rows, classes by their names."""
    table = dataset.with_format("arrow")[:]
    for place, (column, feature) in enumerate(dataset.features.items()):
        names = find_class_names(feature)
        if names is not None:
            table = table.set_column(place, column, _name_column(table[column], names))
    return table


def find_class_names(feature: Any) -> list[str] | None:
    """The names of a feature of `datasets` that is a class, or a list of classes, kept by their numbers; else `None`."""
    import datasets

    inner = getattr(feature, "feature", feature)
    return list(inner.names) if isinstance(inner, datasets.ClassLabel) else None


def name_classes(value: int | list[int] | None, names: Sequence[str]) -> str | list[str] | None:
    """The number of a class as its name, or a list of them as theirs; -1 stands for none, and has no name.

    Example:
        >>> name_classes(1, ["cat", "dog"]), name_classes(-1, ["cat", "dog"]), name_classes([1, -1], ["cat", "dog"])
        ('dog', None, ['dog'])
    """
    if isinstance(value, list):
        return [names[number] for number in value if number >= 0]
    return None if value is None or value < 0 else names[value]


def name_class_type(kind: pa.DataType) -> pa.DataType:
    """The type of a column of classes, or of lists of them, by their names."""
    import pyarrow as pa

    return pa.list_(pa.string()) if is_nested(kind) else pa.string()


def _name_column(numbers: pa.ChunkedArray, names: list[str]) -> pa.Array:
    import pyarrow as pa

    return pa.array([name_classes(value, names) for value in numbers.to_pylist()], name_class_type(numbers.type))


def _read_file(path: Path, kind: str, column_names: Sequence[str] | None) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet

    if kind == ".parquet":
        try:
            return pa.parquet.read_table(path)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{str(path)!r} is not a parquet file that can be read: {error}") from error
    content = _read_utf8(path)
    read = _read_json if kind in (".jsonl", ".json") else _read_tsv if kind == ".tsv" else _read_csv
    try:
        try:
            return read(content, _BLOCK_SIZE, column_names)
        except pa.ArrowInvalid:
            if len(content) <= _BLOCK_SIZE:
                raise
            # A row may be longer than a block.
            return read(content, min(len(content), _LARGEST_BLOCK_SIZE), column_names)
    except pa.ArrowInvalid as error:
        more = ARRAY_HINT if kind == ".json" and content.lstrip().startswith(b"[") else ""
        raise ValueError(f"{str(path)!r} cannot be read as {kind[1:]}: {error}.{more}") from error


def _read_json(content: bytes, block_size: int, column_names: Sequence[str] | None) -> pa.Table:
    import pyarrow as pa
    import pyarrow.json

    options = pa.json.ReadOptions(block_size=block_size)
    table = pa.json.read_json(io.BytesIO(content), options)
    fields = [field.with_type(_keep_texts(field.type)) for field in table.schema]
    dates = [field for field in fields if field.type != table.schema.field(field.name).type]
    if not dates:
        return table
    parsing = pa.json.ParseOptions(explicit_schema=pa.schema(dates))
    return pa.json.read_json(io.BytesIO(content), options, parsing).select(table.column_names)


def _keep_texts(kind: pa.DataType) -> pa.DataType:
    """The type of a column of JSON, with texts where the reader found points in time, which it would write in its own way."""
    import pyarrow as pa

    if pa.types.is_timestamp(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(_keep_texts(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_keep_texts(field.type)) for field in kind])
    return kind


def _read_csv(content: bytes, block_size: int, column_names: Sequence[str] | None) -> pa.Table:
    return _read_delimited(content, block_size, column_names, {"delimiter": ",", "quote_char": '"', "newlines_in_values": True})


def _read_tsv(content: bytes, block_size: int, column_names: Sequence[str] | None) -> pa.Table:
    # A tab-separated file has no quotes: a lone " is a character like any other.
    return _read_delimited(content, block_size, column_names, {"delimiter": "\t", "quote_char": False})


def _read_delimited(content: bytes, block_size: int, column_names: Sequence[str] | None, parsing: dict[str, Any]) -> pa.Table:
    import pyarrow as pa
    import pyarrow.csv

    content = content.strip(b"\r\n") + b"\n"
    first_line = re.match(rb"[^\r\n]*", content).group().decode("utf-8")  # type: ignore[union-attr]
    quotes = csv.QUOTE_MINIMAL if parsing["quote_char"] else csv.QUOTE_NONE
    found = next(csv.reader([first_line], delimiter=parsing["delimiter"], quoting=quotes), [])  # type: ignore[arg-type]
    content = _fill_blank_lines(content, parsing, len(column_names or found))
    return pa.csv.read_csv(
        io.BytesIO(content),
        read_options=pa.csv.ReadOptions(
            column_names=list(column_names) if column_names else None, use_threads=False, block_size=block_size
        ),
        parse_options=pa.csv.ParseOptions(**parsing),
        convert_options=pa.csv.ConvertOptions(
            column_types={name: pa.string() for name in column_names or found}, strings_can_be_null=False
        ),
    )


def _fill_blank_lines(content: bytes, parsing: dict[str, Any], num_columns: int) -> bytes:
    """Write blank lines as rows of empty cells: the reader would not count them, and rows be told by wrong numbers."""
    if num_columns < 2 or not re.search(rb"\n\r?\n", content):
        return content
    delimiter = parsing["delimiter"].encode()
    quoted = rb'(?<![^\n%b])"[^"]*(?:""[^"]*)*"|' % re.escape(delimiter) if parsing["quote_char"] else b""
    return re.sub(
        quoted + rb"(?<=\n)\r?\n",
        lambda found: found[0] if found[0].startswith(b'"') else delimiter * (num_columns - 1) + b"\n",
        content,
    )


def _read_utf8(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"{str(path)!r} cannot be unpacked with gzip: {error}. Is it whole?") from error
    if not content.strip():
        raise ValueError(f"{str(path)!r} is empty.")
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "latin1"
        raise ValueError(
            f"{str(path)!r} is not UTF-8: byte 0x{content[error.start]:02x} at offset {error.start}, line {line}. Convert it, "
            f"for example with iconv -f {encoding} -t utf-8."
        ) from error
    return content.removeprefix(b"\xef\xbb\xbf")


def _read_text_pair(source: Path, target: Path, source_column: str, target_column: str) -> pa.Table:
    import pyarrow as pa

    sides = []
    for path in (source, target):
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {str(path)!r} (looked from {os.getcwd()!r}).")
        # Only line feeds part lines: `splitlines` would also part at form feeds and the like.
        lines = re.split("\r?\n", _read_utf8(path).decode("utf-8"))
        sides.append(lines[:-1] if not lines[-1] else lines)  # What ends in a line feed has no line behind it.
    if len(sides[0]) != len(sides[1]):
        raise ValueError(
            f"The two text files must have a line for each row: {str(source)!r} has {len(sides[0]):,} lines, {str(target)!r} "
            f"has {len(sides[1]):,}."
        )
    return pa.table({source_column: sides[0], target_column: sides[1]})


__all__ = [
    "ARRAY_HINT",
    "find_class_names",
    "is_nested",
    "name_class_type",
    "name_classes",
    "read_table",
    "require_columns",
    "to_string",
    "to_strings",
    "warn_of_header",
]

"""Rows with their answers on disk: shards that are there whole or not at all, and one file of all of them.

Legend: rows, shards (rows that stand beside each other).
"""

from __future__ import annotations

import base64
import datetime
import io
import json
import math
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

KINDS_WRITTEN = (".parquet", ".jsonl")

_SHARD_NAME = re.compile(r"shard-(\d{9})\.(?:parquet|jsonl)")
_BYTES_OF_ROW_GROUP = 64 << 20


class ShardWriter:
    """Writes shards.

    Args:
        folder: Where they go.
        kind: One of [`KINDS_WRITTEN`].
        schema: Columns and their types, of parquet.
    """

    def __init__(self, folder: Path, kind: str, schema: pa.Schema | None) -> None:
        self._folder, self._kind, self._schema = folder, kind, schema

    def write(self, shard: int, records: Sequence[Mapping[str, Any]]) -> None:
        """Write a shard, whole or not at all.

        Raises:
            OSError: if it cannot be written; nothing is left of it.
        """
        path = self._folder / f"shard-{shard:09d}{self._kind}"
        # A name of its own, for a rank that outlived its job may be at the same shard.
        unfinished = path.with_name(f"{path.name}.{secrets.token_hex(4)}.unfinished")
        try:
            if self._schema is None:
                unfinished.write_text("".join(map(write_line, records)), encoding="utf-8")
            else:
                import pyarrow as pa
                import pyarrow.parquet as pq

                rows = [{name: _pack(value) for name, value in record.items()} for record in records]
                pq.write_table(pa.Table.from_pylist(rows, schema=self._schema), unfinished)
            put_in_place(unfinished, path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise


def put_in_place(unfinished: Path, path: Path) -> None:
    """Give a file that is written its name, once it is on the disk."""
    with open(unfinished, "rb") as file:
        os.fsync(file.fileno())
    os.replace(unfinished, path)


def list_shards(folder: Path) -> list[int]:
    """The numbers of the shards of a folder, in order."""
    if not folder.is_dir():
        return []
    matches = (_SHARD_NAME.fullmatch(path.name) for path in folder.iterdir())
    return sorted(int(match[1]) for match in matches if match is not None)


def join_shards(folder: Path, shards: Sequence[int], target: Path, kind: str) -> tuple[int, int]:
    """Write one file of all shards, in their order; no more than a part of them is in memory.

    Returns:
        Its rows, and how many of them have an error.
    """
    paths = [folder / f"shard-{shard:09d}{kind}" for shard in shards]
    try:
        return _join_lines(paths, target) if kind == ".jsonl" else _join_tables(paths, target)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _join_lines(paths: Sequence[Path], target: Path) -> tuple[int, int]:
    rows, failed = 0, 0
    with open(target, "wb") as joined:
        for path in paths:
            for line in path.read_bytes().splitlines(keepends=True):
                rows += 1
                failed += json.loads(line)["error"] is not None
                joined.write(line)
    return rows, failed


def _join_tables(paths: Sequence[Path], target: Path) -> tuple[int, int]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, failed = 0, 0
    with pq.ParquetWriter(target, pq.read_schema(paths[0])) as writer:
        for tables in _group_tables(pq.read_table(path) for path in paths):
            table = pa.concat_tables(tables)
            rows += len(table)
            failed += len(table) - table["error"].null_count
            writer.write_table(table, row_group_size=len(table))
    return rows, failed


def _group_tables(tables: Iterable[pa.Table]) -> Iterator[list[pa.Table]]:
    """Tables that make a group of rows large enough to be read in one go."""
    group: list[pa.Table] = []
    for table in tables:
        group.append(table)
        if sum(each.nbytes for each in group) >= _BYTES_OF_ROW_GROUP:
            yield group
            group = []
    if group:
        yield group


def write_line(record: Mapping[str, Any]) -> str:
    """A row as a line of JSON; a picture is a data URL, what JSON has no word for a text, and a number that is none null."""
    return json.dumps(_simplify(record), ensure_ascii=False, allow_nan=False) + "\n"


def _pack(value: Any) -> Any:
    """A picture, or a list of them, as parquet holds it; all else as it is."""
    if isinstance(value, list):
        return [_pack(part) for part in value] if value and hasattr(value[0], "getbands") else value
    return {"bytes": _write_picture(value), "path": None} if hasattr(value, "getbands") else value


def _write_picture(picture: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _simplify(value: Any) -> Any:
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if hasattr(value, "getbands"):
        return f"data:image/png;base64,{base64.b64encode(_write_picture(value)).decode()}"
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _simplify(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_simplify(part) for part in value]
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    return str(value)


def build_answer_schema(pipe: Any, arguments: Mapping[str, Any], *, has_several: bool, is_drawn: bool = False) -> pa.Schema:
    """The columns that a pipeline's answers have.

    Args:
        pipe: The pipeline.
        arguments: Of its call.
        has_several: Whether a row has a list of answers.
        is_drawn: Whether single outputs are drawn.
    """
    import pyarrow as pa

    number, text = pa.float64(), pa.string()
    if pipe.model.can_generate():
        types = {arguments.get("output_key") or "generated_text": text}
        if arguments.get("return_scores"):
            types |= {"score": number, "token_scores": pa.list_(number)}
    else:
        types = _list_single_types(pipe.model.config.head, is_drawn=is_drawn)
    if has_several:
        types = {name: pa.list_(kind) for name, kind in types.items()}
    if arguments.get("truncation"):
        types["truncated"] = pa.bool_()
    return pa.schema([*types.items(), ("error", text)])


def _list_single_types(head: Any, *, is_drawn: bool) -> dict[str, pa.DataType]:
    """The columns of a single output."""
    import pyarrow as pa

    number, text = pa.float64(), pa.string()
    names = list(head.output_names or map(str, range(head.num_outputs)))
    numbers = pa.struct([(name, number) for name in names])
    if head.kind == "class":
        return {"label": text} if is_drawn else {"label": text, "score": number}
    if head.kind == "labels":
        return {"labels": pa.list_(text)} if is_drawn else {"labels": pa.list_(text), "scores": numbers}
    if head.kind == "image":
        return {"generated_image": pa.struct([("bytes", pa.binary()), ("path", text)])}  # As `datasets` stores pictures.
    if len(names) == 1:
        value = number
    else:
        value = pa.list_(number) if head.output_names is None and head.kind != "regression" else numbers
    return {"value": value} if is_drawn or head.kind != "regression" else {"value": value, "uncertainty": value}


def join_schemas(
    given: pa.Schema | None, answers: pa.Schema, names: Iterable[str], kind: str, columns: Sequence[str]
) -> pa.Schema | None:
    """The columns of the output: those of the input that are kept, and those of the answers; `None` of JSON lines.

    Args:
        given: The columns of the input with their types; `None` where they have none and need none.
        answers: Those of the answers.
        names: Those of the input that are kept.
        kind: One of [`KINDS_WRITTEN`].
        columns: All of the input.

    Raises:
        ValueError: for columns that are not there, or are called as an answer is, or that JSON lines cannot hold.
    """
    import pyarrow as pa

    names = list(names)
    taken = [name for name in names if name in answers.names]
    if taken:
        raise ValueError(
            f"The input has a column {taken[0]!r}, as the output will. Rename it, or say which columns to keep: --keep_columns."
        )
    unknown = [name for name in names if name not in columns]
    if unknown:
        raise ValueError(f"keep_columns names {unknown[0]!r}, which the input lacks; it has {', '.join(map(repr, columns))}.")
    if given is None:
        return None
    kept = [given.field(name) for name in names]
    if kind == ".parquet":
        # What cannot be read is null, whatever the input says of its columns.
        return pa.schema([*(field.with_nullable(True) for field in kept), *answers])
    binary = [field.name for field in kept if "binary" in str(field.type)]
    if binary:
        raise ValueError(
            f"Column {binary[0]!r} holds bytes, which JSON lines cannot. Write parquet, or say which columns to keep: "
            "--keep_columns."
        )
    return None


__all__ = [
    "KINDS_WRITTEN",
    "ShardWriter",
    "build_answer_schema",
    "join_schemas",
    "join_shards",
    "list_shards",
    "put_in_place",
]

"""Columns of pictures and recordings: what they may hold, a check of every row before a training, and opening one at a time.

Legend: rows, channels, height, width.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_genext.media import get_sampling_rate, open_condition
from hf_genext.rank_exchange import gather_texts
from hf_genext.tables import is_nested

if TYPE_CHECKING:
    import pyarrow as pa
    from accelerate import PartialState
    from datasets import Dataset

    from hf_genext.genext.processing_genext import GenextProcessor

MEDIA_KINDS = ("image", "audio")
"""The conditions that stand in files, or could."""

MEDIA_INPUTS = {"image": {"pixel_values"}, "audio": {"input_features", "input_values"}}
"""The inputs of a model that pictures and recordings give."""

_EXPECTED = {
    "image": "a path, a data URL, bytes, a dictionary with bytes and path, or the numbers of its pixels",
    "audio": "a path, a data URL, bytes, a dictionary with bytes and path, or with array and sampling_rate",
}


def read_media_column(
    column: pa.ChunkedArray, kind: str, place: str, folder: Path, sampling_rate: int | None = None
) -> tuple[pa.ChunkedArray, list[str]]:
    """A column of pictures or recordings, its paths found and its content as it was.

    Args:
        column: Paths (relative to the folder, else to the working folder), data URLs, bytes, dictionaries with `bytes` and
            `path` as `datasets` stores its features Image and Audio, numbers of pixels, or dictionaries with `array` and
            `sampling_rate`.
        kind: `"image"` or `"audio"`.
        place: What to call the column in an error.
        folder: Where the paths begin.
        sampling_rate: Samples a second of recordings that are numbers alone.

    Returns:
        The values, null where there is none, and for each row what tells it from others, for people.

    Raises:
        ValueError: for a column of anything else.
    """
    import pyarrow as pa

    if isinstance(column.type, pa.BaseExtensionType):  # Such as the arrays of several axes of `datasets`.
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    stored = column.type
    fields = [field.name for field in stored] if pa.types.is_struct(stored) else []
    if pa.types.is_null(stored) or pa.types.is_string(stored) or pa.types.is_large_string(stored):
        column = _find_paths(column, folder)
    elif pa.types.is_binary(stored) or pa.types.is_large_binary(stored):
        column = column.cast(pa.large_binary())  # Offsets of 64 bits: a table of pictures is soon larger than 2 GiB.
    elif "bytes" in fields or ("path" in fields and "array" not in fields):
        column = _find_stored(column, fields, folder)
    elif kind == "audio" and "array" in fields:
        column = _join_rate(column, "sampling_rate" in fields, place, sampling_rate)
    elif is_nested(stored) and not fields and _is_of_numbers(stored):
        column = column if kind == "image" else _add_rate(column, place, sampling_rate)
    else:
        raise ValueError(f"{place} holds {stored}; a condition of kind {kind} is {_EXPECTED[kind]}.")
    shown = [_show(take_value(scalar)) for scalar in column]
    is_there = np.array([bool(text) for text in shown])
    if not is_there.all():  # What says nothing, as an empty path, becomes a null.
        column = column.take(pa.array(np.arange(len(column)), mask=~is_there))
    return column, shown


def _find_paths(column: pa.ChunkedArray, folder: Path) -> pa.ChunkedArray:
    import pyarrow as pa

    paths = [None if text is None or not text.strip() else find_path(text, folder) for text in column.to_pylist()]
    return pa.chunked_array([pa.array(paths, pa.large_string())])


def find_path(path: str, folder: Path) -> str:
    """A path as it can be opened from here; one that leads nowhere, and what is no path, as it is."""
    if path.startswith("data:") or "://" in path:
        return path
    return str(folder / path) if os.path.isfile(folder / path) else path


def _find_stored(column: pa.ChunkedArray, fields: Collection[str], folder: Path) -> pa.ChunkedArray:
    """Dictionaries of bytes and path as `datasets` stores them, the paths found where there are no bytes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    nothing = pa.nulls(len(column))
    content = (pc.struct_field(column, "bytes") if "bytes" in fields else nothing).cast(pa.large_binary())
    paths = (pc.struct_field(column, "path") if "path" in fields else nothing).cast(pa.large_string())
    found = [
        path if path is None or is_inside else find_path(path, folder)
        for path, is_inside in zip(paths.to_pylist(), content.is_valid().to_pylist(), strict=True)
    ]
    return _build_struct({"bytes": content, "path": pa.array(found, pa.large_string())})


def _join_rate(column: pa.ChunkedArray, has_rate: bool, place: str, sampling_rate: int | None) -> pa.ChunkedArray:
    """Dictionaries of array and rate, the rate from the settings where the column has none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    samples = pc.struct_field(column, "array")
    rates = pc.struct_field(column, "sampling_rate") if has_rate else pa.nulls(len(column))
    rates = rates.cast(pa.int64())
    if sampling_rate is not None:
        rates = pc.fill_null(rates, sampling_rate)
    unknown = pc.and_(rates.is_null(), samples.is_valid()).to_pylist()
    if any(unknown):
        raise ValueError(_ask_for_rate(f"Row {unknown.index(True) + 1}: {place}"))
    return _build_struct({"array": samples, "sampling_rate": rates})


def _add_rate(column: pa.ChunkedArray, place: str, sampling_rate: int | None) -> pa.ChunkedArray:
    import pyarrow as pa

    if sampling_rate is None:
        raise ValueError(_ask_for_rate(place))
    return _build_struct({"array": column, "sampling_rate": pa.array([sampling_rate] * len(column), pa.int64())})


def _ask_for_rate(place: str) -> str:
    return (
        f"{place} holds samples without saying how many there are a second. Store {{array, sampling_rate}}, or write "
        "{audio: {column: ..., sampling_rate: 16000}} among the conditions."
    )


def _build_struct(parts: dict[str, Any]) -> pa.ChunkedArray:
    import pyarrow as pa

    arrays = [part.combine_chunks() if isinstance(part, pa.ChunkedArray) else part for part in parts.values()]
    return pa.chunked_array([pa.StructArray.from_arrays(arrays, names=list(parts))])


def _is_of_numbers(kind: pa.DataType) -> bool:
    import pyarrow as pa

    while is_nested(kind) and not pa.types.is_struct(kind):
        kind = kind.value_type
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


# Values


def take_value(scalar: pa.Scalar) -> Any:
    """A value of a column as the pipeline takes it: a string, bytes, an array, a dictionary of them, or `None`.

    Numbers that are no array, for some are missing or rows have several lengths, stay lists.
    """
    import pyarrow as pa

    if not scalar.is_valid:
        return None
    if pa.types.is_struct(scalar.type):
        return {name: take_value(scalar[name]) for name in scalar}
    if not is_nested(scalar.type):
        return scalar.as_py()
    array = _to_array(scalar.values)
    return scalar.as_py() if array is None else array  # What opens it says what is wrong with lists that are no array.


def _to_array(values: pa.Array) -> np.ndarray | None:
    """Numbers in lists as an array; `None` where some are missing, or lists have several lengths."""
    if values.null_count:
        return None
    if not is_nested(values.type):
        return values.to_numpy(zero_copy_only=False)
    rows = [_to_array(row.values) for row in values]
    if any(row is None for row in rows) or len({row.shape for row in rows if row is not None}) > 1:
        return None
    return np.stack([row for row in rows if row is not None]) if rows else np.zeros(0)


def list_media(dataset: Dataset, kind: str) -> list[Any]:
    """The pictures or recordings of all rows, none of them opened."""
    return [take_value(scalar) for scalar in dataset.select_columns([kind]).with_format("arrow")[:][kind]]


def _show(value: Any) -> str:
    """What tells a picture or recording from others: its path, or a hash of what it is; nothing where there is none."""
    if value is None:
        return ""
    if isinstance(value, str):
        return f"{value.partition(';')[0]} ({_compute_digest(value)})" if value.startswith("data:") else value
    if isinstance(value, bytes):
        return f"{len(value):,} bytes ({_compute_digest(value)})" if value else ""
    if isinstance(value, np.ndarray):
        return f"array of {' x '.join(map(str, value.shape))} ({_compute_digest(value)})"
    if isinstance(value, list):
        return f"{len(value):,} lists or numbers ({_compute_digest(json.dumps(value))})"
    if "array" in value:
        return _show(value["array"])
    path, content = value["path"] or "", value["bytes"]
    return path if not content else f"{path} ({_compute_digest(content)})" if path else _show(content)


def _compute_digest(value: Any) -> str:
    content: Any = value.encode() if isinstance(value, str) else value
    content = content if isinstance(content, bytes) else np.ascontiguousarray(content)
    return hashlib.blake2b(content, digest_size=8).hexdigest()


# Opening


def find_unreadable(
    column: pa.ChunkedArray, kind: str, rows: Sequence[int], folder: Path, ranks: PartialState | None = None
) -> dict[int, Exception]:
    """Open every picture or recording once.

    Args:
        column: As [`read_media_column`] gave it.
        kind: `"image"` or `"audio"`.
        rows: Which rows to open.
        folder: Where the paths began, for errors.
        ranks: Those that all call this together, with the same rows: each opens its share. Left out, this process opens all.

    Returns:
        By their numbers the rows that cannot be opened, in their order, and why; on all ranks the same.
    """
    from datasets.utils import tqdm

    def attempt(row: int) -> Exception | None:
        value = take_value(column[row])
        try:
            open_condition({} if value is None else {kind: value})
        except FileNotFoundError:
            path = value if isinstance(value, str) else value["path"]
            return FileNotFoundError(f"There is no file {path!r} (looked in {str(folder)!r} and {os.getcwd()!r}).")
        except (OSError, ValueError) as error:
            return error
        return None

    share = rows if ranks is None else rows[ranks.process_index :: ranks.num_processes]
    # Decoders of pictures let other threads run.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        tried = threads.map(attempt, share)
        if len(share) > 1000:
            tried = tqdm(tried, total=len(share), desc=f"opening every {kind} once")
        found = {row: error for row, error in zip(share, tried, strict=True) if error is not None}
    return found if ranks is None else _exchange_findings(found, ranks)


def _exchange_findings(found: Mapping[int, Exception], ranks: PartialState) -> dict[int, Exception]:
    """What each rank found of its share, on all of them."""
    told = json.dumps([(row, isinstance(error, FileNotFoundError), str(error)) for row, error in found.items()])
    everything = sorted(finding for text in gather_texts(told, ranks) for finding in json.loads(text))
    return {row: (FileNotFoundError if is_missing else ValueError)(message) for row, is_missing, message in everything}


class MediaReader:
    """Opens the pictures and recordings of rows when they are asked for, as the pipeline opens them.

    Args:
        dataset: Rows with `row`, their number in the file, and columns named by [`MEDIA_KINDS`] as [`read_media_column`] gave
            them.
        processor: What turns them into numbers, recordings at its rate.
    """

    def __init__(self, dataset: Dataset, processor: GenextProcessor) -> None:
        self._kinds = [kind for kind in dataset.column_names if kind in MEDIA_KINDS]
        self._rows = dataset.select_columns([*self._kinds, "row"]).with_format("arrow")
        self._processor, self._sampling_rate = processor, get_sampling_rate(processor)

    def list_files(self, names: Collection[str]) -> Iterator[bytes]:
        """Each row's pictures and recordings that give some inputs: a hash of each, and empty where one is missing."""
        for kind in self._kinds:
            if not MEDIA_INPUTS[kind].isdisjoint(names):
                yield kind.encode()
                for row in range(len(self._rows)):
                    yield self._hash(self._take(row, kind))

    def _hash(self, value: Any) -> bytes:
        if isinstance(value, dict) and "array" in value:
            return self._hash(value["array"]) + str(value["sampling_rate"]).encode()
        if isinstance(value, dict):
            value = value["bytes"] or value["path"]
        if isinstance(value, np.ndarray):
            return hashlib.sha256(f"{value.dtype} {value.shape}".encode() + value.tobytes()).digest()
        if isinstance(value, str):
            value = value.encode() if value.startswith("data:") else Path(value).read_bytes()
        return b"" if value is None else hashlib.sha256(value).digest()

    def _take(self, index: int, kind: str) -> Any:
        return take_value(self._rows[index][kind][0])

    def __call__(self, index: int, without: Collection[str] = ()) -> dict[str, np.ndarray]:
        """What is there of a row: `pixel_values` (channels, height, width), or what the feature extractor gives.

        Args:
            index: The row.
            without: Inputs that are not wanted; their files are not opened.

        Raises:
            ValueError: for a file that cannot be opened any more, with the number of its row.
        """
        wanted = {kind: self._take(index, kind) for kind in self._kinds if MEDIA_INPUTS[kind].isdisjoint(without)}
        given = {kind: value for kind, value in wanted.items() if value is not None}
        if not given:
            return {}
        try:
            opened = open_condition(given, self._sampling_rate)
            batch = self._processor.read_conditions([opened], return_tensors="np")
        except (OSError, ValueError) as error:
            number = self._rows[index]["row"][0].as_py()
            raise ValueError(f"Row {number} ({', '.join(map(_show, given.values()))}): {error}") from error
        return {name: np.asarray(values)[0] for name, values in batch.items()}


__all__ = [
    "MEDIA_INPUTS",
    "MEDIA_KINDS",
    "MediaReader",
    "find_path",
    "find_unreadable",
    "list_media",
    "read_media_column",
    "take_value",
]

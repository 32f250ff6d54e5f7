"""What readers of vector files stand on: a stream whose claims are checked, and a matrix that grows with what was read.

Legend: words, size (of a vector), buckets (rows of hashed n-grams).
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn, cast

import numpy as np
import torch

UNPACKING_ERRORS = (EOFError, OSError, lzma.LZMAError, zipfile.BadZipFile, zlib.error)
BLOCK = 1 << 20
"""What is read at once; its numbers and their places fit a processor's cache."""
LONGEST_WORD = 1 << 16
LARGEST_SIZE = 1 << 16
"""More numbers than any published vector has; a header that claims more is damaged."""


@dataclass
class Vectors:
    """Words and their vectors as a file gave them.

    Attributes:
        words: The distinct words in the file's order.
        matrix: Their vectors, (words, size), and the extra rows that were asked for.
        counts: How often each occurs, (words,), where the file says it.
        ngrams: Vectors of hashed character n-grams, (buckets, size), where the file has them.
        min_ngram: Shortest n-gram in characters.
        max_ngram: Longest n-gram in characters.
    """

    words: list[str]
    matrix: np.ndarray
    counts: np.ndarray | None = None
    ngrams: np.ndarray | None = None
    min_ngram: int = 0
    max_ngram: int = 0


@dataclass(frozen=True)
class Wanted:
    """What [`read_vectors`] was asked for."""

    limit: int | None
    dtype: np.dtype
    encoding: str
    errors: str | None
    extra_rows: int

    def decode(self, word: bytes, source: Source, line: int | None = None) -> str:
        """A word as text."""
        try:
            return word.decode(self.encoding, self.errors or "strict")
        except UnicodeDecodeError as error:
            source.fail(f"the word {word[:40]!r} is not {self.encoding} ({error.reason}); pass encoding= or errors=", line)


class Source:
    """A stream with what is known of it: its name for messages, and how many bytes can still come."""

    def __init__(self, stream: IO[bytes], name: str, size: int | None) -> None:
        self.stream, self.name, self.size, self.position = stream, name, size, 0
        self._held = b""

    def peek(self, count: int) -> bytes:
        """The next bytes, which stay where they are."""
        while len(self._held) < count:
            more = self.stream.read(max(count - len(self._held), 1 << 16))
            if not more:
                break
            self._held += more
        return self._held[:count]

    def read(self, count: int) -> bytes:
        """The next bytes, fewer at the end."""
        if len(self._held) >= count:
            data, self._held = self._held[:count], self._held[count:]
        else:
            data, self._held = self._held + self.stream.read(count - len(self._held)), b""
        self.position += len(data)
        return data

    def read_exactly(self, count: int, what: str) -> bytes:
        """The next bytes, or an error."""
        data = self.read(count)
        if len(data) < count:
            self.fail(f"it ends in the middle of {what}")
        return data

    def unpack(self, layout: str, what: str) -> tuple:
        """Little-endian numbers."""
        return struct.unpack(f"<{layout}", self.read_exactly(struct.calcsize(f"<{layout}"), what))

    def read_until(self, end: bytes, longest: int, what: str) -> bytes:
        """What stands before a byte, which is taken too."""
        count = 1 << 8
        while True:
            seen = self.peek(count)
            position = seen.find(end)
            if position >= 0:
                data = self.read(position + 1)
                return data[:-1]
            if len(seen) < count:
                self.fail(f"it ends in the middle of {what}")
            if count >= longest:
                self.fail(f"{what} is longer than {longest:,} bytes")
            count *= 4

    def require(self, count: int, what: str) -> None:
        """Refuse a claim of more bytes than can come."""
        if self.size is not None and count > self.size - self.position:
            self.fail(f"it claims {what}, {count:,} bytes at least, but {self.size - self.position:,} are left")

    def fail(self, reason: str, line: int | None = None) -> NoReturn:
        """Raise with the place."""
        what = f"{reason} (at byte {self.position:,})" if line is None else f"line {line:,}: {reason}"
        raise ValueError(f"{self.name!r} is damaged or no file of word vectors: {what}.")


def open_source(path: Path) -> tuple[IO[bytes], int | None]:
    """The unpacked stream, and its size where it is known."""
    with open(path, "rb") as file:
        magic = file.read(6)
    if magic[:2] == b"\x1f\x8b":
        return cast(IO[bytes], gzip.open(path, "rb")), None
    if magic[:3] == b"BZh":
        return bz2.open(path, "rb"), None
    if magic == b"\xfd7zXZ\x00":
        return lzma.open(path, "rb"), None
    if magic[:4] == b"PK\x03\x04":
        try:
            archive = zipfile.ZipFile(path)
            names = [name for name in archive.namelist() if not name.endswith("/")]
            stream = archive.open(names[0]) if len(names) == 1 else None
        except (*UNPACKING_ERRORS, ValueError, RuntimeError, struct.error) as error:  # One that is encrypted: RuntimeError.
            raise ValueError(f"{str(path)!r} is a zip file that cannot be read: {error}") from error
        if stream is None:
            raise ValueError(
                f"{str(path)!r} holds {len(names)} files ({', '.join(names[:5])}); unpack it and give the one to read."
            )
        return stream, None
    return io.BufferedReader(io.FileIO(path), BLOCK), path.stat().st_size


class GrowingMatrix:
    """A matrix that grows with what was really read, so that a header that lies costs nothing.

    Where the file's size vouches for the expected rows, they are taken at once.
    """

    def __init__(self, source: Source, size: int, wanted: Wanted, expected: int | None) -> None:
        self._size, self._dtype, self._extra = size, wanted.dtype, wanted.extra_rows
        self._most = expected
        first = max(1, BLOCK // size)
        self._matrix = self._allocate(first if expected is None or source.size is None else expected)
        self.rows = 0

    def _allocate(self, rows: int) -> np.ndarray:
        # PyTorch's memory: for NumPy's the system looks for huge pages, which may cost more than all the parsing of numbers.
        memory = torch.empty((rows + self._extra) * self._size * self._dtype.itemsize, dtype=torch.uint8)
        return memory.numpy().view(self._dtype).reshape(-1, self._size)

    def append(self, block: np.ndarray) -> None:
        """Add rows."""
        end = self.rows + len(block)
        if end + self._extra > len(self._matrix):
            larger = 2 * len(self._matrix) if self._most is None else min(2 * len(self._matrix), self._most)
            matrix = self._allocate(max(end, larger))
            matrix[: self.rows] = self._matrix[: self.rows]
            self._matrix = matrix
        self._matrix[self.rows : end] = block
        self.rows = end

    def finish(self) -> np.ndarray:
        """The rows, and the extra ones."""
        self._matrix[self.rows : self.rows + self._extra] = 0
        return self._matrix[: self.rows + self._extra]


def convert_rows(source: Source, block: np.ndarray, names: list[str], dtype: np.dtype) -> np.ndarray:
    """The rows, the first of which have these names, as another kind of number; what is none there is refused."""
    with np.errstate(over="ignore"):
        block = block.astype(dtype, copy=False)
    wrong = np.flatnonzero(~np.isfinite(block).all(axis=1))
    if len(wrong):
        row = int(wrong[0])
        whose = f"the vector of {names[row]!r}" if row < len(names) else f"row {row + 1:,} of its n-grams"
        source.fail(f"{whose} holds what is no number, or none that {dtype} can hold")
    return block


__all__ = [
    "BLOCK",
    "LARGEST_SIZE",
    "LONGEST_WORD",
    "UNPACKING_ERRORS",
    "GrowingMatrix",
    "Source",
    "Vectors",
    "Wanted",
    "convert_rows",
    "open_source",
]

"""Foreign files of word vectors: word2vec text and binary, GloVe, fastText .vec and .bin, compressed or not.

Every size that a file claims is checked against what the file holds before memory is taken for it, and nothing is unpickled.

Legend: words, size (of a vector), buckets (rows of hashed n-grams).
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import logging
import lzma
import os
import re
import struct
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, NamedTuple, NoReturn, cast

import numpy as np
import torch

logger = logging.getLogger(__name__)

_FASTTEXT_MAGIC = 793_712_314
_FOREIGN = {
    rb"\x80[\x02-\x05][^\x00]": "a Python pickle",  # With a zero it would be a size, of fastText's first format.
    rb"\x93NUMPY": "an array of NumPy",
    rb"\x89HDF": "an HDF5 file",
}
"""What is often taken for a file of vectors, by its first bytes. A pickle would run code."""
_UNPACKING_ERRORS = (EOFError, OSError, lzma.LZMAError, zipfile.BadZipFile, zlib.error)
_BLOCK = 1 << 20
"""What is read at once; its numbers and their places fit a processor's cache."""
_LONGEST_WORD = 1 << 16
_LONGEST_LINE = 1 << 24
_LARGEST_SIZE = 1 << 16
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


def read_vectors(
    path: str | os.PathLike[str],
    *,
    limit: int | None = None,
    dtype: str | np.dtype = "float32",
    encoding: str = "utf-8",
    errors: str | None = None,
    extra_rows: int = 0,
) -> Vectors:
    """Read a file of word vectors; its format is recognised by its content.

    Args:
        path: The file; gzip, bzip2, xz and zip (of one file) are unpacked on the way.
        limit: Read the first so many words only.
        dtype: Kind of number to keep, such as `"float32"` or `"float16"`.
        encoding: Encoding of the words.
        errors: What to do with bytes that are no text in that encoding, as `bytes.decode` takes it; left out, they are an error
            in text and word2vec files, and escaped in fastText's binary files, which hold cut characters.
        extra_rows: So many rows of zeros follow the words' in the matrix, for the caller to fill without a copy of it.

    Returns:
        The words and their vectors. Of a word that comes twice the first vector counts; how many did is logged.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a file that is none of these, or is damaged; the message says where.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r} (looked from {os.getcwd()!r}).")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be 1 or more, got {limit}.")
    wanted = _Wanted(limit, np.dtype(dtype), encoding, errors, extra_rows)
    if wanted.dtype.kind != "f":
        raise ValueError(f'dtype must be a kind of real number, such as "float32" or "float16", got {dtype!r}.')
    try:
        codecs.lookup(encoding)
    except LookupError as error:
        raise ValueError(f"{error}; encoding must be one that Python knows, such as 'utf-8' or 'latin-1'.") from error
    stream, size = _open(path)
    with stream:
        source = _Source(stream, str(path), size)
        try:
            read = _recognise(source)
            vectors = read(source, wanted)
        except _UNPACKING_ERRORS as error:
            raise ValueError(f"{str(path)!r} breaks off or cannot be unpacked: {error}") from error
    return _drop_repeated(vectors, str(path), extra_rows)


@dataclass(frozen=True)
class _Wanted:
    """What [`read_vectors`] was asked for."""

    limit: int | None
    dtype: np.dtype
    encoding: str
    errors: str | None
    extra_rows: int

    def decode(self, word: bytes, source: _Source, line: int | None = None) -> str:
        """A word as text."""
        try:
            return word.decode(self.encoding, self.errors or "strict")
        except UnicodeDecodeError as error:
            source.fail(f"the word {word[:40]!r} is not {self.encoding} ({error.reason}); pass encoding= or errors=", line)


class _Source:
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


_Reader = Callable[[_Source, _Wanted], Vectors]


def _open(path: Path) -> tuple[IO[bytes], int | None]:
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
        except (*_UNPACKING_ERRORS, ValueError, RuntimeError, struct.error) as error:  # One that is encrypted: RuntimeError.
            raise ValueError(f"{str(path)!r} is a zip file that cannot be read: {error}") from error
        if stream is None:
            raise ValueError(
                f"{str(path)!r} holds {len(names)} files ({', '.join(names[:5])}); unpack it and give the one to read."
            )
        return stream, None
    return io.BufferedReader(io.FileIO(path), _BLOCK), path.stat().st_size


def _recognise(source: _Source) -> _Reader:
    head = source.peek(1 << 12)
    if len(head) < 4:
        source.fail("it is empty" if not head else "it is too short")
    foreign = next((kind for start, kind in _FOREIGN.items() if re.match(start, head)), None)
    if foreign is not None:
        source.fail(f"it is {foreign}, which is not read here; have the program that wrote it export a word2vec file")
    if struct.unpack("<i", head[:4])[0] == _FASTTEXT_MAGIC:
        return _read_fasttext
    line = head.split(b"\n", 1)[0]
    header = line.split()
    if len(header) == 2 and all(field.isdigit() for field in header) and b"\n" in head:
        return _read_word2vec_text if _looks_like_text(source, len(line) + 1) else _read_word2vec_binary
    if b"\x00" in head[:256]:
        # fastText's first format had no magic number: it begins with the size.
        return _read_fasttext
    return _read_headless_text


def _looks_like_text(source: _Source, start: int) -> bool:
    """Whether what follows the header is a line of numbers in letters, not in bytes."""
    for count in (1 << 10, 1 << 14, 1 << 18):
        seen = source.peek(start + count)[start:]
        line, newline, _ = seen.partition(b"\n")
        if newline or len(seen) < count:
            fields = line.split()[1:] or [b""]
            try:
                [float(field) for field in fields[:8]]
            except ValueError:
                return False
            return b"\x00" not in line
    return False


def _check_header(source: _Source, count: int, size: int, least: int, limit: int | None) -> int:
    """Refuse impossible numbers; returns how many words to read."""
    if not (1 <= size <= _LARGEST_SIZE):
        source.fail(f"its header claims vectors of {size:,} numbers")
    if count < 1:
        source.fail("its header claims no words")
    source.require(count * least, f"{count:,} words of {size:,} numbers")
    return count if limit is None else min(count, limit)


class _Growing:
    """A matrix that grows with what was really read, so that a header that lies costs nothing.

    Where the file's size vouches for the expected rows, they are taken at once.
    """

    def __init__(self, source: _Source, size: int, wanted: _Wanted, expected: int | None) -> None:
        self._size, self._dtype, self._extra = size, wanted.dtype, wanted.extra_rows
        self._most = expected
        first = max(1, _BLOCK // size)
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


def _read_word2vec_binary(source: _Source, wanted: _Wanted) -> Vectors:
    count, size = _read_header(source)
    kept = _check_header(source, count, size, 4 * size + 1, wanted.limit)
    words: list[str] = []
    matrix = _Growing(source, size, wanted, kept)
    rows = max(1, _BLOCK // (4 * size))
    block = np.empty((min(rows, kept), size), dtype="<f4")
    filled = 0
    for place in range(kept):
        word = source.read_until(b" ", _LONGEST_WORD, f"word {place + 1} of {count:,}").lstrip(b"\n")
        words.append(wanted.decode(word, source))
        block[filled] = np.frombuffer(source.read_exactly(4 * size, f"the vector of word {place + 1} of {count:,}"), "<f4")
        filled += 1
        if filled == len(block):
            matrix.append(_convert(source, block, words[-filled:], wanted.dtype))
            filled = 0
    matrix.append(_convert(source, block[:filled], words[len(words) - filled :], wanted.dtype))
    return Vectors(words, matrix.finish())


def _convert(source: _Source, block: np.ndarray, names: list[str], dtype: np.dtype) -> np.ndarray:
    """The rows, the first of which have these names, as another kind of number; what is none there is refused."""
    with np.errstate(over="ignore"):
        block = block.astype(dtype, copy=False)
    wrong = np.flatnonzero(~np.isfinite(block).all(axis=1))
    if len(wrong):
        row = int(wrong[0])
        whose = f"the vector of {names[row]!r}" if row < len(names) else f"row {row + 1:,} of its n-grams"
        source.fail(f"{whose} holds what is no number, or none that {dtype} can hold")
    return block


def _read_header(source: _Source) -> tuple[int, int]:
    fields = source.read_until(b"\n", 1 << 12, "its header").split()
    return int(fields[0]), int(fields[1])


def _read_word2vec_text(source: _Source, wanted: _Wanted) -> Vectors:
    count, size = _read_header(source)
    kept = _check_header(source, count, size, 2 * size + 1, wanted.limit)
    vectors = _read_lines(source, size, wanted, most=kept, expected=kept, first_line=2)
    if len(vectors.words) < kept:
        source.fail(f"its header claims {count:,} words, but {len(vectors.words):,} follow")
    return vectors


def _read_headless_text(source: _Source, wanted: _Wanted) -> Vectors:
    lines = source.peek(1 << 18).split(b"\n")
    lines = [line for line in (lines[:-1] or lines)[:100] if line.strip()]
    # A word may hold spaces and end in a number, so most lines tell the size, not each.
    sizes = Counter(_count_last_numbers(line.split()) for line in lines).most_common(1)
    size = sizes[0][0] if sizes else 0
    if not 1 <= size <= _LARGEST_SIZE:
        source.fail("its first lines are not each a word and its numbers")
    expected = None
    if source.size is not None:
        # As many as the first lines are to the file, and some more.
        expected = int(1.02 * len(lines) * source.size / sum(len(line) + 1 for line in lines)) + 1
        expected = expected if wanted.limit is None else min(expected, wanted.limit)
    return _read_lines(source, size, wanted, most=wanted.limit, expected=expected, first_line=1)


def _count_last_numbers(fields: list[bytes]) -> int:
    """How many numbers end a line, not counting its first field."""
    for count, field in enumerate(reversed(fields[1:])):
        try:
            float(field)
        except ValueError:
            return count
    return max(len(fields) - 1, 0)


def _read_lines(
    source: _Source, size: int, wanted: _Wanted, *, most: int | None, expected: int | None, first_line: int
) -> Vectors:
    words: list[str] = []
    matrix = _Growing(source, size, wanted, expected)
    rest = b""
    number = first_line
    while most is None or len(words) < most:
        data = source.read(_BLOCK)
        block = rest + data if data or not rest else rest + b"\n"
        end = block.rfind(b"\n") + 1
        block, rest = block[:end], block[end:]
        if len(rest) > _LONGEST_LINE:
            source.fail(f"it is longer than {_LONGEST_LINE:,} bytes", number + block.count(b"\n"))
        if block:
            left = None if most is None else most - len(words)
            parsed = _parse_regular_lines(block, size, number, left) or _parse_any_lines(source, block, size, number, left)
            found = [wanted.decode(word, source, line) for line, word in parsed.words]
            words.extend(found)
            matrix.append(_convert(source, parsed.numbers, found, wanted.dtype))
            number += parsed.num_lines
        if not data:
            break
    if not words:
        source.fail("it holds no words")
    return Vectors(words, matrix.finish())


class _Lines(NamedTuple):
    """What lines of a text hold: words with the numbers of their lines, and their vectors, (words, size)."""

    num_lines: int
    words: list[tuple[int, bytes]]
    numbers: np.ndarray


def _parse_regular_lines(block: bytes, size: int, first: int, most: int | None) -> _Lines | None:
    """Whole lines where each is a word and its numbers, a space before each number; `None` where one is not."""
    letters = np.frombuffer(block, dtype=np.uint8)
    newlines = np.flatnonzero(letters == ord("\n"))
    spaces = np.flatnonzero(letters == ord(" "))
    fields = len(spaces) // len(newlines)
    # Some programs put a space before each line's end, some a carriage return.
    if len(spaces) != fields * len(newlines) or fields not in (size, size + 1):
        return None
    table = spaces.reshape(-1, fields)
    starts = np.concatenate([[0], newlines[:-1] + 1])
    ends = newlines - (letters[newlines - 1] == ord("\r"))
    if (table[:, 0] < starts).any() or (table[:, -1] > ends).any() or (fields > size and (table[:, -1] + 1 != ends).any()):
        return None
    if most is not None:
        table, starts, ends = table[:most], starts[:most], ends[:most]
    words = [block[start:end] for start, end in zip(starts.tolist(), table[:, 0].tolist(), strict=True)]
    offsets = np.empty(2 * len(table) * size + 1, dtype=np.int32)
    spans = offsets[:-1].reshape(-1, size, 2)
    np.add(table[:, :size], 1, out=spans[:, :, 0], casting="unsafe")
    spans[:, :-1, 1] = table[:, 1:size]
    spans[:, -1, 1] = ends if fields == size else table[:, -1]
    offsets[-1] = offsets[-2]
    numbers = _parse_numbers(block, offsets)
    if numbers is None:
        return None
    return _Lines(len(table), list(enumerate(words, start=first)), numbers.reshape(-1, size))


def _parse_numbers(block: bytes, offsets: np.ndarray) -> np.ndarray | None:
    """The numbers of a text, each between an even offset and the next, or `None` if something there is none.

    Arrow reads numbers three times as fast as NumPy, and does where it is installed, as `datasets` requires.
    """
    try:
        import pyarrow
    except ImportError:
        return _parse_numbers_with_numpy(block, offsets)
    # An array of strings: each number, and what stands between it and the next, which is null. So nothing need be copied.
    is_number = np.full(len(offsets) // 8 + 1, 0b01010101, dtype=np.uint8)
    buffers = [pyarrow.py_buffer(part) for part in (is_number, offsets, block)]
    try:
        cast = pyarrow.Array.from_buffers(pyarrow.string(), len(offsets) - 1, buffers).cast(pyarrow.float32())
    except pyarrow.ArrowInvalid:
        return None
    return np.frombuffer(cast.buffers()[1], dtype=np.float32, count=len(offsets) - 1)[::2]


def _parse_numbers_with_numpy(block: bytes, offsets: np.ndarray) -> np.ndarray | None:
    spans = offsets[:-1].reshape(-1, 2).tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        try:
            numbers = np.fromstring(b" ".join(block[start:end] for start, end in spans), dtype=np.float32, sep=" ")
        except (DeprecationWarning, ValueError):
            return None
    return numbers if len(numbers) == len(spans) else None


def _parse_any_lines(source: _Source, block: bytes, size: int, first: int, most: int | None) -> _Lines:
    """The slow way, for words with spaces and for blank lines, which hold nothing; it says which line is wrong."""
    words, rows = [], []
    if block.isspace():
        return _Lines(block.count(b"\n"), [], np.empty((0, size), dtype=np.float32))
    lines = block.split(b"\n")[:-1][:most]
    for number, line in enumerate(lines, start=first):
        fields = line.rstrip().rsplit(None, size)
        if not fields:
            continue
        if len(fields) == size and line[:1].isspace():
            fields.insert(0, b"")
        if len(fields) != size + 1:
            source.fail(f"{len(fields) - 1} numbers instead of {size}", number)
        if b"\t" in fields[0]:
            source.fail(f"{fields[0][:40]!r} before {size} numbers are several fields, not a word", number)
        try:
            rows.append([float(field) for field in fields[1:]])
        except ValueError as error:
            source.fail(f"{error}", number)
        words.append((number, fields[0]))
    with np.errstate(over="ignore"):
        return _Lines(len(lines), words, np.array(rows, dtype=np.float64).astype(np.float32).reshape(-1, size))


def _read_fasttext(source: _Source, wanted: _Wanted) -> Vectors:
    """The binary format of fastText (`FastText::saveModel`), as of version 12 and as it was before it had a version."""
    size, _ = source.unpack("2i", "its header")
    is_new = size == _FASTTEXT_MAGIC
    if is_new:
        size, _ = source.unpack("2i", "its header")
    *_, buckets, min_ngram, max_ngram, _ = source.unpack("10i", "its header")
    source.unpack("d", "its header")
    if not 1 <= size <= _LARGEST_SIZE or buckets < 0 or not -1 <= min_ngram <= 100 or not -1 <= max_ngram <= 100:
        source.fail(
            f"its header claims vectors of {size:,} numbers, {buckets:,} buckets, n-grams of {min_ngram} to {max_ngram}"
        )
    entries, num_words, num_labels = source.unpack("3i", "its dictionary")
    source.unpack("q", "its dictionary")
    (pruned,) = source.unpack("q", "its dictionary") if is_new else (-1,)
    if entries < 1 or num_words < 1 or num_labels < 0 or num_words + num_labels != entries:
        source.fail(f"its dictionary claims {entries:,} entries, {num_words:,} words and {num_labels:,} labels")
    if pruned > 0:
        source.fail("its n-grams are pruned (a quantized model), which is not supported; export the model unquantized")
    source.require(entries * 10, f"{entries:,} dictionary entries")
    words, counts = [], []
    words_wanted = replace(wanted, errors=wanted.errors or "backslashreplace")
    for place in range(entries):
        word = source.read_until(b"\x00", _LONGEST_WORD, f"entry {place + 1} of {entries:,}")
        count, kind = source.unpack("qb", f"entry {place + 1} of {entries:,}")
        if kind == 0:
            words.append(words_wanted.decode(word, source))
            counts.append(count)
    if is_new and source.unpack("?", "its matrix")[0]:
        source.fail("its matrix is quantized, which is not supported; export the model unquantized")
    rows, columns = source.unpack("2q", "its matrix")
    if columns != size or rows != num_words + buckets or len(words) != num_words:
        source.fail(
            f"its matrix claims {rows:,} rows of {columns:,} numbers, which does not fit {num_words:,} words, {buckets:,} "
            f"buckets and vectors of {size:,} numbers"
        )
    source.require(4 * rows * columns, f"a matrix of {rows:,} rows of {columns:,} numbers")
    kept = num_words if wanted.limit is None else min(wanted.limit, num_words)
    words = words[:kept]
    has_subwords = buckets > 0 and max_ngram > 0
    matrix = _read_rows(source, num_words, size, kept, wanted.extra_rows)
    ngrams = _read_rows(source, buckets, size, buckets if has_subwords else 0, 0)
    if has_subwords:
        for place, name in enumerate(words):
            rows_of_word = hash_ngrams(name, min_ngram, max_ngram, buckets)
            with np.errstate(over="ignore"):
                matrix[place] += ngrams[rows_of_word].sum(axis=0)
            matrix[place] /= 1 + len(rows_of_word)
    return Vectors(
        words,
        _convert(source, matrix, words, wanted.dtype),
        np.array(counts[:kept], dtype=np.int64),
        _convert(source, ngrams, [], wanted.dtype) if has_subwords else None,
        min_ngram if has_subwords else 0,
        max_ngram if has_subwords else 0,
    )


def _read_rows(source: _Source, rows: int, size: int, kept: int, extra_rows: int) -> np.ndarray:
    """The first kept rows of a matrix of fastText's; all are read and looked at."""
    matrix = _Growing(source, size, _Wanted(None, np.dtype(np.float32), "utf-8", None, extra_rows), kept)
    step = max(1, _BLOCK // (4 * size))
    for start in range(0, rows, step):
        count = min(step, rows - start)
        block = np.frombuffer(source.read_exactly(4 * size * count, "its matrix"), "<f4").reshape(count, size)
        if not np.isfinite(block).all():
            source.fail("its matrix holds what is no number")
        matrix.append(block[: max(0, kept - start)])
    return matrix.finish()


def hash_ngrams(word: str, min_ngram: int, max_ngram: int, num_buckets: int) -> np.ndarray:
    """The buckets of a word's character n-grams, as fastText computes them (`Dictionary::computeSubwords`).

    The word is put between `<` and `>`; an n-gram's bucket is the 32-bit FNV-1a hash of its UTF-8, with each byte extended as a
    signed one, by the number of buckets. A single boundary is no n-gram.

    Args:
        word: The word.
        min_ngram: Shortest n-gram in characters.
        max_ngram: Longest n-gram in characters.
        num_buckets: Number of buckets.

    Returns:
        (n-grams,), with repetitions.
    """
    letters = [letter.encode("utf-8", "surrogatepass") for letter in f"<{word}>"]
    buckets = []
    for start in range(len(letters)):
        state = 2_166_136_261
        for length, letter in enumerate(letters[start : start + max_ngram], start=1):
            for byte in letter:
                state = ((state ^ (byte if byte < 128 else byte | 0xFFFFFF00)) * 16_777_619) & 0xFFFFFFFF
            is_boundary = length == 1 and (start == 0 or start == len(letters) - 1)
            if length >= min_ngram and not is_boundary:
                buckets.append(state % num_buckets)
    return np.array(buckets, dtype=np.int64)


def _drop_repeated(vectors: Vectors, name: str, extra_rows: int) -> Vectors:
    first: dict[str, int] = {}
    for place, word in enumerate(vectors.words):
        first.setdefault(word, place)
    if len(first) == len(vectors.words):
        return vectors
    repeated = len(vectors.words) - len(first)
    logger.warning("%s: %s of %s words come a second time; their first vectors count.", name, repeated, len(vectors.words))
    places = np.fromiter(first.values(), dtype=np.int64, count=len(first))
    rows = np.concatenate([places, np.arange(len(vectors.words), len(vectors.words) + extra_rows)])
    counts = None if vectors.counts is None else vectors.counts[places]
    return Vectors(list(first), vectors.matrix[rows], counts, vectors.ngrams, vectors.min_ngram, vectors.max_ngram)


def write_word2vec(
    path: str | os.PathLike[str], words: Sequence[str], matrix: np.ndarray, *, binary: bool | None = None
) -> None:
    """Write a word2vec file.

    Args:
        path: The file; `.gz` at its end compresses.
        words: The words.
        matrix: Their vectors, (words, size).
        binary: Binary or text; left out, binary where the name (without `.gz`) ends in `.bin`.

    Raises:
        ValueError: for a word that the format cannot hold: one with white space, or an empty one.
    """
    path = Path(path)
    wrong = next((word for word in words if not word or any(letter in word for letter in " \n\t\r")), None)
    if wrong is not None:
        raise ValueError(f"A word2vec file cannot hold the word {wrong!r}: words stand between spaces. Rename or drop it.")
    if binary is None:
        binary = path.name.removesuffix(".gz").endswith(".bin")
    unfinished = Path(f"{path}.unfinished")
    rows = np.ascontiguousarray(matrix, dtype="<f4")
    with gzip.open(unfinished, "wb") if path.suffix == ".gz" else open(unfinished, "wb") as file:
        file.write(f"{len(words)} {rows.shape[1]}\n".encode())
        for word, row in zip(words, rows, strict=True):
            if binary:
                file.write(word.encode("utf-8") + b" " + row.tobytes() + b"\n")
            else:
                # NumPy spells each number with the fewest digits that give it back.
                file.write(f"{word} {' '.join(map(str, row))}\n".encode())
    os.replace(unfinished, path)


__all__ = ["Vectors", "hash_ngrams", "read_vectors", "write_word2vec"]

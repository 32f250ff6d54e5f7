"""Foreign files of word vectors: word2vec text and binary, GloVe, fastText .vec and .bin, compressed or not.

Every size that a file claims is checked against what the file holds before memory is taken for it, and nothing is unpickled.

Legend: words, size (of a vector), buckets (rows of hashed n-grams).
"""

from __future__ import annotations

import codecs
import gzip
import logging
import os
import re
import struct
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .fasttext_static_embedding import FASTTEXT_MAGIC, read_fasttext
from .sources_static_embedding import (
    BLOCK,
    LARGEST_SIZE,
    LONGEST_WORD,
    UNPACKING_ERRORS,
    GrowingMatrix,
    Source,
    Vectors,
    Wanted,
    convert_rows,
    open_source,
)

logger = logging.getLogger(__name__)

_FOREIGN = {
    rb"\x80[\x02-\x05][^\x00]": "an object of Python's, pickled",  # With a zero it would be a size, of fastText's first format.
    rb"\x93NUMPY": "an array of NumPy",
    rb"\x89HDF": "an HDF5 file",
}
"""What is often taken for a file of vectors, by its first bytes. What is pickled would run code."""
_LONGEST_LINE = 1 << 24


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
    wanted = Wanted(limit, np.dtype(dtype), encoding, errors, extra_rows)
    if wanted.dtype.kind != "f":
        raise ValueError(f'dtype must be a kind of real number, such as "float32" or "float16", got {dtype!r}.')
    try:
        codecs.lookup(encoding)
    except LookupError as error:
        raise ValueError(f"{error}; encoding must be one that Python knows, such as 'utf-8' or 'latin-1'.") from error
    stream, size = open_source(path)
    with stream:
        source = Source(stream, str(path), size)
        try:
            read = _recognise(source)
            vectors = read(source, wanted)
        except UNPACKING_ERRORS as error:
            raise ValueError(f"{str(path)!r} breaks off or cannot be unpacked: {error}") from error
    return _drop_repeated(vectors, str(path), extra_rows)


_Reader = Callable[[Source, Wanted], Vectors]


def _recognise(source: Source) -> _Reader:
    head = source.peek(1 << 12)
    if len(head) < 4:
        source.fail("it is empty" if not head else "it is too short")
    foreign = next((kind for start, kind in _FOREIGN.items() if re.match(start, head)), None)
    if foreign is not None:
        source.fail(f"it is {foreign}, which is not read here; have the program that wrote it export a word2vec file")
    if struct.unpack("<i", head[:4])[0] == FASTTEXT_MAGIC:
        return read_fasttext
    line = head.split(b"\n", 1)[0]
    header = line.split()
    if len(header) == 2 and all(field.isdigit() for field in header) and b"\n" in head:
        return _read_word2vec_text if _looks_like_text(source, len(line) + 1) else _read_word2vec_binary
    if b"\x00" in head[:256]:
        # fastText's first format had no magic number: it begins with the size.
        return read_fasttext
    return _read_headless_text


def _looks_like_text(source: Source, start: int) -> bool:
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


def _check_header(source: Source, count: int, size: int, least: int, limit: int | None) -> int:
    """Refuse impossible numbers; returns how many words to read."""
    if not (1 <= size <= LARGEST_SIZE):
        source.fail(f"its header claims vectors of {size:,} numbers")
    if count < 1:
        source.fail("its header claims no words")
    source.require(count * least, f"{count:,} words of {size:,} numbers")
    return count if limit is None else min(count, limit)


def _read_word2vec_binary(source: Source, wanted: Wanted) -> Vectors:
    count, size = _read_header(source)
    kept = _check_header(source, count, size, 4 * size + 1, wanted.limit)
    words: list[str] = []
    matrix = GrowingMatrix(source, size, wanted, kept)
    rows = max(1, BLOCK // (4 * size))
    block = np.empty((min(rows, kept), size), dtype="<f4")
    filled = 0
    for place in range(kept):
        word = source.read_until(b" ", LONGEST_WORD, f"word {place + 1} of {count:,}").lstrip(b"\n")
        words.append(wanted.decode(word, source))
        block[filled] = np.frombuffer(source.read_exactly(4 * size, f"the vector of word {place + 1} of {count:,}"), "<f4")
        filled += 1
        if filled == len(block):
            matrix.append(convert_rows(source, block, words[-filled:], wanted.dtype))
            filled = 0
    matrix.append(convert_rows(source, block[:filled], words[len(words) - filled :], wanted.dtype))
    return Vectors(words, matrix.finish())


def _read_header(source: Source) -> tuple[int, int]:
    fields = source.read_until(b"\n", 1 << 12, "its header").split()
    return int(fields[0]), int(fields[1])


def _read_word2vec_text(source: Source, wanted: Wanted) -> Vectors:
    count, size = _read_header(source)
    kept = _check_header(source, count, size, 2 * size + 1, wanted.limit)
    vectors = _read_lines(source, size, wanted, most=kept, expected=kept, first_line=2)
    if len(vectors.words) < kept:
        source.fail(f"its header claims {count:,} words, but {len(vectors.words):,} follow")
    return vectors


def _read_headless_text(source: Source, wanted: Wanted) -> Vectors:
    lines = source.peek(1 << 18).split(b"\n")
    lines = [line for line in (lines[:-1] or lines)[:100] if line.strip()]
    # A word may hold spaces and end in a number, so most lines tell the size, not each.
    sizes = Counter(_count_last_numbers(line.split()) for line in lines).most_common(1)
    size = sizes[0][0] if sizes else 0
    if not 1 <= size <= LARGEST_SIZE:
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
    source: Source, size: int, wanted: Wanted, *, most: int | None, expected: int | None, first_line: int
) -> Vectors:
    words: list[str] = []
    matrix = GrowingMatrix(source, size, wanted, expected)
    rest = b""
    number = first_line
    while most is None or len(words) < most:
        data = source.read(BLOCK)
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
            matrix.append(convert_rows(source, parsed.numbers, found, wanted.dtype))
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


def _parse_any_lines(source: Source, block: bytes, size: int, first: int, most: int | None) -> _Lines:
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


__all__ = ["Vectors", "read_vectors", "write_word2vec"]

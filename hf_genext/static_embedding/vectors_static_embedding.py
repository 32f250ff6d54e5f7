"""Foreign files of word vectors: word2vec text and binary, GloVe, fastText .vec and .bin, compressed or not.

Every size that a file claims is checked against what the file holds before memory is taken for it, and nothing is unpickled.

Legend: words, size (of a vector), buckets (rows of hashed n-grams).
"""

from __future__ import annotations

import bz2
import gzip
import io
import logging
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn, cast

import numpy as np

logger = logging.getLogger(__name__)

_FASTTEXT_MAGIC = 793_712_314
_BLOCK = 1 << 23
_LONGEST_WORD = 1 << 16
_LONGEST_LINE = 1 << 24
_LARGEST_SIZE = 1 << 16
"""More numbers than any published vector has; a header that claims more is damaged."""


@dataclass
class Vectors:
    """Words and their vectors as a file gave them.

    Attributes:
        words: The distinct words in the file's order.
        matrix: Their vectors, (words, size).
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
) -> Vectors:
    """Read a file of word vectors; its format is recognised by its content.

    Args:
        path: The file; gzip, bzip2, xz and zip (of one file) are unpacked on the way.
        limit: Read the first so many words only.
        dtype: Kind of number to keep, such as `"float32"` or `"float16"`.
        encoding: Encoding of the words.
        errors: What to do with bytes that are no text in that encoding, as `bytes.decode` takes it; left out, they are an error
            in text and word2vec files, and escaped in fastText's binary files, which hold cut characters.

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
    stream, size = _open(path)
    with stream:
        source = _Source(stream, str(path), size)
        try:
            read = _recognise(source)
            vectors = read(source, limit, np.dtype(dtype), encoding, errors)
        except (EOFError, OSError, lzma.LZMAError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{str(path)!r} breaks off or cannot be unpacked: {error}") from error
    return _drop_repeated(vectors, str(path))


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

    def fail(self, reason: str) -> NoReturn:
        """Raise with the place."""
        raise ValueError(f"{self.name!r} is damaged or no file of word vectors: {reason} (at byte {self.position:,}).")


_Reader = Callable[[_Source, int | None, np.dtype, str, str | None], Vectors]


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
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise ValueError(f"{str(path)!r} is a zip file that cannot be read: {error}") from error
        if len(names) != 1:
            raise ValueError(
                f"{str(path)!r} holds {len(names)} files ({', '.join(names[:5])}); unpack it and give the one to read."
            )
        try:
            return archive.open(names[0]), None
        except (RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
            raise ValueError(f"{str(path)!r} is a zip file that cannot be read: {error}") from error
    return io.BufferedReader(io.FileIO(path), _BLOCK), path.stat().st_size


def _recognise(source: _Source) -> _Reader:
    head = source.peek(1 << 12)
    if len(head) < 4:
        source.fail("it is empty" if not head else "it is too short")
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


def _decode(word: bytes, encoding: str, errors: str | None, source: _Source) -> str:
    try:
        return word.decode(encoding, errors or "strict")
    except UnicodeDecodeError as error:
        source.fail(f"the word {word[:40]!r} is not {encoding} ({error.reason}); pass encoding= or errors='replace'")


def _check_header(source: _Source, count: int, size: int, least: int, limit: int | None) -> int:
    """Refuse impossible numbers; returns how many words to read."""
    if not (1 <= size <= _LARGEST_SIZE):
        source.fail(f"its header claims vectors of {size:,} numbers")
    if count < 1:
        source.fail("its header claims no words")
    source.require(count * least, f"{count:,} words of {size:,} numbers")
    return count if limit is None else min(count, limit)


class _Growing:
    """A matrix that grows with what was really read, so that a header that lies costs nothing."""

    def __init__(self, size: int, dtype: np.dtype, expected: int | None) -> None:
        self._matrix = np.empty((min(expected or 1024, 1 << 14), size), dtype=dtype)
        self._expected = expected
        self.rows = 0

    def append(self, block: np.ndarray) -> None:
        """Add rows."""
        needed = self.rows + len(block)
        if needed > len(self._matrix):
            larger = max(needed, 2 * len(self._matrix))
            if self._expected is not None:
                larger = max(needed, min(larger, self._expected))
            # `resize` gives the old memory back as it goes.
            self._matrix.resize((larger, self._matrix.shape[1]), refcheck=False)
        self._matrix[self.rows : needed] = block
        self.rows = needed

    def finish(self) -> np.ndarray:
        """The rows."""
        if self.rows < len(self._matrix):
            self._matrix.resize((self.rows, self._matrix.shape[1]), refcheck=False)
        return self._matrix


def _read_word2vec_binary(source: _Source, limit: int | None, dtype: np.dtype, encoding: str, errors: str | None) -> Vectors:
    count, size = _read_header(source)
    wanted = _check_header(source, count, size, 4 * size + 1, limit)
    words: list[str] = []
    matrix = _Growing(size, dtype, wanted)
    rows = max(1, _BLOCK // (4 * size))
    block = np.empty((min(rows, wanted), size), dtype="<f4")
    filled = 0
    for place in range(wanted):
        word = source.read_until(b" ", _LONGEST_WORD, f"word {place + 1} of {count:,}").lstrip(b"\n")
        words.append(_decode(word, encoding, errors, source))
        block[filled] = np.frombuffer(source.read_exactly(4 * size, f"the vector of word {place + 1} of {count:,}"), "<f4")
        filled += 1
        if filled == len(block):
            matrix.append(_convert(source, block, words, dtype))
            filled = 0
    matrix.append(_convert(source, block[:filled], words, dtype))
    return Vectors(words, matrix.finish())


def _convert(source: _Source, block: np.ndarray, words: list[str], dtype: np.dtype) -> np.ndarray:
    """The block, which holds the last of the words, as another kind of number; what is none there is refused."""
    with np.errstate(over="ignore"):
        block = block.astype(dtype, copy=False)
    wrong = np.flatnonzero(~np.isfinite(block).all(axis=1))
    if len(wrong):
        word = words[len(words) - len(block) + int(wrong[0])]
        source.fail(f"the vector of {word!r} holds what is no number, or none that {dtype} can hold")
    return block


def _read_header(source: _Source) -> tuple[int, int]:
    fields = source.read_until(b"\n", 1 << 12, "its header").split()
    return int(fields[0]), int(fields[1])


def _read_word2vec_text(source: _Source, limit: int | None, dtype: np.dtype, encoding: str, errors: str | None) -> Vectors:
    count, size = _read_header(source)
    wanted = _check_header(source, count, size, 2 * size + 1, limit)
    vectors = _read_lines(source, size, wanted, dtype, encoding, errors, first_line=2)
    if len(vectors.words) < wanted:
        source.fail(f"its header claims {count:,} words, but {len(vectors.words):,} follow")
    return vectors


def _read_headless_text(source: _Source, limit: int | None, dtype: np.dtype, encoding: str, errors: str | None) -> Vectors:
    # A word may hold spaces, which makes a line longer, never shorter: the shortest of some lines has the size.
    lines = source.peek(1 << 18).split(b"\n")[:20]
    sizes = [len(line.split()) - 1 for line in lines if line.strip()]
    size = min(sizes, default=0)
    if not 1 <= size <= _LARGEST_SIZE:
        source.fail(f"its first line has {size + 1} fields, not a word and its numbers")
    return _read_lines(source, size, limit, dtype, encoding, errors, first_line=1)


def _read_lines(
    source: _Source, size: int, wanted: int | None, dtype: np.dtype, encoding: str, errors: str | None, *, first_line: int
) -> Vectors:
    words: list[str] = []
    matrix = _Growing(size, dtype, wanted)
    rest = b""
    number = first_line
    while wanted is None or len(words) < wanted:
        block = source.read(_BLOCK)
        lines = (rest + block).split(b"\n")
        rest = lines.pop() if block else b""
        if len(rest) > _LONGEST_LINE:
            source.fail(f"line {number + len(lines)} is longer than {_LONGEST_LINE:,} bytes")
        if wanted is not None:
            lines = lines[: wanted - len(words)]
        if lines:
            found, numbers = _parse_lines(source, lines, size, number, encoding, errors)
            words.extend(found)
            matrix.append(_convert(source, numbers, words, dtype))
            number += len(lines)
        if not block:
            break
    if not words:
        source.fail("it holds no words")
    return Vectors(words, matrix.finish())


def _parse_lines(
    source: _Source, lines: list[bytes], size: int, number: int, encoding: str, errors: str | None
) -> tuple[list[str], np.ndarray]:
    """Words and numbers of whole lines; the first has the given number."""
    pairs = [line.rstrip().partition(b" ") for line in lines]
    kept = [(word, rest) for word, _, rest in pairs if word or rest]
    numbers = _parse_numbers(b" ".join(rest for _, rest in kept))
    if numbers is None or len(numbers) != size * len(kept):
        kept, numbers = _parse_line_by_line(source, lines, size, number)
    return [_decode(word, encoding, errors, source) for word, _ in kept], numbers.reshape(-1, size)


def _parse_numbers(text: bytes) -> np.ndarray | None:
    """All numbers of a text, or `None` if something in it is none."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        try:
            return np.fromstring(text, dtype=np.float32, sep=" ")
        except (DeprecationWarning, ValueError):
            return None


def _parse_line_by_line(
    source: _Source, lines: list[bytes], size: int, number: int
) -> tuple[list[tuple[bytes, bytes]], np.ndarray]:
    """The slow way, for words with spaces, and to say which line is wrong."""
    kept, rows = [], []
    for offset, line in enumerate(lines):
        fields = line.rstrip().rsplit(None, size)
        if not fields:
            continue
        if len(fields) != size + 1:
            source.fail(f"line {number + offset} has {len(fields) - 1} numbers instead of {size}")
        try:
            rows.append([float(field) for field in fields[1:]])
        except ValueError as error:
            source.fail(f"line {number + offset}: {error}")
        kept.append((fields[0], b""))
    return kept, np.array(rows, dtype=np.float32).reshape(-1, size)


def _read_fasttext(source: _Source, limit: int | None, dtype: np.dtype, encoding: str, errors: str | None) -> Vectors:
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
    for place in range(entries):
        word = source.read_until(b"\x00", _LONGEST_WORD, f"entry {place + 1} of {entries:,}")
        count, kind = source.unpack("qb", f"entry {place + 1} of {entries:,}")
        if kind == 0:
            words.append(_decode(word, encoding, errors or "backslashreplace", source))
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
    growing = _Growing(size, np.dtype(np.float32), rows)
    step = max(1, _BLOCK // (4 * size))
    for start in range(0, rows, step):
        count = min(step, rows - start)
        data = source.read_exactly(4 * size * count, "its matrix")
        growing.append(np.frombuffer(data, "<f4").reshape(count, size))
    matrix = growing.finish()
    if not np.isfinite(matrix).all():
        source.fail("its matrix holds what is no number")
    has_subwords = buckets > 0 and max_ngram > 0
    kept = slice(0, num_words if limit is None else min(limit, num_words))
    words, found = words[kept], matrix[kept].copy()
    ngrams = matrix[num_words:] if has_subwords else None
    if ngrams is not None:
        for place, name in enumerate(words):
            rows_of_word = hash_ngrams(name, min_ngram, max_ngram, buckets)
            with np.errstate(over="ignore"):
                found[place] += ngrams[rows_of_word].sum(axis=0)
            found[place] /= 1 + len(rows_of_word)
    if ngrams is not None:
        with np.errstate(over="ignore"):
            ngrams = ngrams.astype(dtype, copy=False)
        if not np.isfinite(ngrams).all():
            source.fail(f"its n-grams hold numbers that {dtype} cannot")
    return Vectors(
        words,
        _convert(source, found, words, dtype),
        np.array(counts[kept], dtype=np.int64),
        ngrams,
        min_ngram if has_subwords else 0,
        max_ngram if has_subwords else 0,
    )


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


def _drop_repeated(vectors: Vectors, name: str) -> Vectors:
    first: dict[str, int] = {}
    for place, word in enumerate(vectors.words):
        first.setdefault(word, place)
    if len(first) == len(vectors.words):
        return vectors
    repeated = len(vectors.words) - len(first)
    logger.warning("%s: %s of %s words come a second time; their first vectors count.", name, repeated, len(vectors.words))
    places = np.fromiter(first.values(), dtype=np.int64, count=len(first))
    counts = None if vectors.counts is None else vectors.counts[places]
    return Vectors(list(first), vectors.matrix[places], counts, vectors.ngrams, vectors.min_ngram, vectors.max_ngram)


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

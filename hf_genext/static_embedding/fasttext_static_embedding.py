"""fastText's binary files, and how its words are parted into n-grams (Bojanowski et al. 2017).

Legend: words, size (of a vector), buckets (rows of hashed n-grams).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .sources_static_embedding import (
    BLOCK,
    LARGEST_SIZE,
    LONGEST_WORD,
    GrowingMatrix,
    Source,
    Vectors,
    Wanted,
    convert_rows,
)

FASTTEXT_MAGIC = 793_712_314


def read_fasttext(source: Source, wanted: Wanted) -> Vectors:
    """The binary format of fastText (`FastText::saveModel`), as of version 12 and as it was before it had a version."""
    size, _ = source.unpack("2i", "its header")
    is_new = size == FASTTEXT_MAGIC
    if is_new:
        size, _ = source.unpack("2i", "its header")
    *_, buckets, min_ngram, max_ngram, _ = source.unpack("10i", "its header")
    source.unpack("d", "its header")
    if not 1 <= size <= LARGEST_SIZE or buckets < 0 or not -1 <= min_ngram <= 100 or not -1 <= max_ngram <= 100:
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
        word = source.read_until(b"\x00", LONGEST_WORD, f"entry {place + 1} of {entries:,}")
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
        convert_rows(source, matrix, words, wanted.dtype),
        np.array(counts[:kept], dtype=np.int64),
        convert_rows(source, ngrams, [], wanted.dtype) if has_subwords else None,
        min_ngram if has_subwords else 0,
        max_ngram if has_subwords else 0,
    )


def _read_rows(source: Source, rows: int, size: int, kept: int, extra_rows: int) -> np.ndarray:
    """The first kept rows of a matrix of fastText's; all are read and looked at."""
    matrix = GrowingMatrix(source, size, Wanted(None, np.dtype(np.float32), "utf-8", None, extra_rows), kept)
    step = max(1, BLOCK // (4 * size))
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


__all__ = ["FASTTEXT_MAGIC", "hash_ngrams", "read_fasttext"]

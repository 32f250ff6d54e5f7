"""From plain text to word ids on disk: one pass that counts the words and encodes them, in bounded memory.

Legend: words (of the vocabulary), tokens (running words of the text).
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import logging
import lzma
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from safetensors.numpy import load_file, save_file
from tqdm.auto import tqdm

logger = logging.getLogger(__name__)

DROPPED, SENTENCE_END = -1, -2
"""What stands in `EncodedCorpus.places` for tokens that are not in the vocabulary, and for ends of lines."""

_IDS_NAME, _WORDS_NAME, _FACTS_NAME = "tokens.int32", "words.safetensors", "corpus.json"
_CHUNK = 1 << 20
_LONGEST_LINE = 1 << 24
_END = "\0"
_KINDS = (".txt", ".text", ".gz", ".bz2", ".xz")
_TOKEN = re.compile(rf"{_END}|\w(?:[^\s{_END}]*\w)?|[^\w\s{_END}]+")


@dataclass
class EncodedCorpus:
    """A text as ids.

    Attributes:
        words: The words of the vocabulary, the most frequent first, equal ones in order of appearance.
        counts: How often each occurs, (words,).
        ids: The text, (tokens + lines,), mapped from disk: an arbitrary number for each token and for each end of a line.
        places: From those numbers to places in `words`; `DROPPED` for a token that is not in the vocabulary, `SENTENCE_END` for
            an end of a line. (numbers,)
        num_tokens: Running words of the text, dropped ones included.
        num_distinct: Distinct words before the rare ones were dropped.
    """

    words: list[str]
    counts: np.ndarray
    ids: np.ndarray
    places: np.ndarray
    num_tokens: int
    num_distinct: int

    def __str__(self) -> str:
        """One line: `17,012,345 words of text, 212,345 distinct; 61,234 of them make the vocabulary (98.2% of the text)`."""
        covered = int(self.counts.sum()) / max(self.num_tokens, 1)
        return (
            f"{self.num_tokens:,} words of text, {self.num_distinct:,} distinct; {len(self.words):,} of them make the "
            f"vocabulary ({covered:.1%} of the text)"
        )


def encode_corpus(
    source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | Any,
    folder: str | os.PathLike[str],
    *,
    lowercase: bool = False,
    split: Literal["punctuation", "whitespace"] = "punctuation",
    min_count: int = 5,
    max_vocab_size: int | None = None,
    text_column: str = "text",
    encoding: str = "utf-8",
    max_words_in_memory: int = 10_000_000,
    show_progress: bool = True,
) -> EncodedCorpus:
    """Read a text once, count its words, and write it as ids.

    A corpus that stands in the folder already, of the same files and settings, is opened instead.

    Args:
        source: A text file (plain, .gz, .bz2 or .xz), a folder of such files, or a list of both, a line a sentence; or a
            dataset, streaming or not, with a column of texts.
        folder: Where the ids are written, 4 bytes for each token.
        lowercase: Whether to lower-case the text.
        split: `"whitespace"` parts the text at white space alone, `"punctuation"` also around punctuation, as the tokenizer of
            a space does.
        min_count: Words that occur less often are dropped from the text.
        max_vocab_size: Keep the most frequent so many words; all if left out.
        text_column: The column of a dataset.
        encoding: Encoding of the files.
        max_words_in_memory: When there are more distinct words, the rarest so far are forgotten, as word2vec does.
        show_progress: Whether to show a bar.

    Returns:
        The corpus.

    Raises:
        FileNotFoundError: if a file is not there.
        ValueError: for a text that is empty, not in its encoding, or has no word over `min_count`, and for other settings.
    """
    if split not in ("punctuation", "whitespace"):
        raise ValueError(f'split must be "punctuation" or "whitespace", got {split!r}.')
    if min_count < 1 or (max_vocab_size is not None and max_vocab_size < 1):
        raise ValueError(f"min_count and max_vocab_size must be 1 or more, got {min_count} and {max_vocab_size}.")
    folder = Path(folder)
    settings = [lowercase, split, min_count, max_vocab_size, text_column, encoding, max_words_in_memory]
    files = None if _is_dataset(source) else _list_files(source)
    fingerprint = _compute_fingerprint(source if files is None else files, settings)
    if (folder / _FACTS_NAME).is_file():
        opened = _open_encoded(folder, fingerprint)
        if opened is not None:
            return opened
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _FACTS_NAME).unlink(missing_ok=True)
    size = sum(file.stat().st_size for file in files) if files is not None else None
    texts = _read_dataset(source, text_column) if files is None else _read_files(files, encoding)
    name = "the dataset" if files is None else ", ".join(repr(str(file)) for file in files[:3]) + (", ..." if files[3:] else "")
    encoder = _Encoder(lowercase, split, max_words_in_memory)
    with (
        open(folder / _IDS_NAME, "wb") as file,
        tqdm(total=size, unit="B", unit_scale=True, desc="reading text", disable=not show_progress) as bar,
    ):
        for text, num_bytes in texts:
            encoder.encode(text).tofile(file)
            bar.update(num_bytes)
        file.flush()
        os.fsync(file.fileno())
    words, counts, places = encoder.choose_vocabulary(min_count, max_vocab_size, name)
    letters = np.frombuffer("\n".join(words).encode("utf-8", "surrogatepass"), dtype=np.uint8)
    save_file({"words": letters, "counts": counts, "places": places}, folder / _WORDS_NAME)
    facts = {
        "fingerprint": fingerprint,
        "num_ids": encoder.num_ids,
        "num_tokens": encoder.num_tokens,
        "num_distinct": len(encoder.numbers) - 1,
    }
    unfinished = folder / f"{_FACTS_NAME}.unfinished"
    unfinished.write_text(json.dumps(facts), encoding="utf-8")
    os.replace(unfinished, folder / _FACTS_NAME)
    opened = _open_encoded(folder, fingerprint)
    if opened is None:
        raise RuntimeError(f"The corpus in {str(folder)!r} was changed while it was written. Choose another folder.")
    return opened


class _Numbers(dict[str, int]):
    """Gives each new word the next number."""

    def __init__(self) -> None:
        super().__init__({_END: 0})
        self.next = 1

    def __missing__(self, word: str) -> int:
        number = self[word] = self.next
        self.next += 1
        return number


class _Encoder:
    """Turns text into numbers and counts them."""

    def __init__(self, lowercase: bool, split: str, max_words_in_memory: int) -> None:
        self.numbers = _Numbers()
        self.counts = np.zeros(1 << 16, dtype=np.int64)
        self.num_ids = self.num_tokens = 0
        self._lowercase, self._split, self._limit = lowercase, split, max_words_in_memory
        self._threshold = 1

    def encode(self, text: str) -> np.ndarray:
        """The numbers of a piece of text that ends between words, (tokens + lines,)."""
        if self._lowercase:
            text = text.lower()
        text = text.replace("\n", f" {_END} ")
        words = text.split() if self._split == "whitespace" else _TOKEN.findall(text)
        numbers = np.fromiter(map(self.numbers.__getitem__, words), dtype=np.int32, count=len(words))
        while len(self.counts) < self.numbers.next:
            self.counts = np.concatenate([self.counts, np.zeros_like(self.counts)])
        np.add.at(self.counts, numbers, 1)
        self.num_ids += len(numbers)
        self.num_tokens += len(numbers) - int((numbers == 0).sum())
        while len(self.numbers) > self._limit:
            self._forget_rare()
        return numbers

    def _forget_rare(self) -> None:
        for word in [word for word, number in self.numbers.items() if number and self.counts[number] <= self._threshold]:
            del self.numbers[word]
        logger.info("More than %s distinct words; forgot those seen up to %d times.", f"{self._limit:,}", self._threshold)
        self._threshold += 1

    def choose_vocabulary(
        self, min_count: int, max_vocab_size: int | None, name: str
    ) -> tuple[list[str], np.ndarray, np.ndarray]:
        """The words that stay, their counts, and the place of each number."""
        if self.num_tokens == 0:
            raise ValueError(f"There is no word in {name}.")
        words = [word for word in self.numbers if word != _END]
        numbers = np.fromiter((self.numbers[word] for word in words), dtype=np.int64, count=len(words))
        counts = self.counts[numbers]
        order = np.argsort(-counts, kind="stable")
        order = order[: np.searchsorted(-counts[order], -min_count, side="right")][:max_vocab_size]
        if len(order) == 0:
            raise ValueError(
                f"No word of {name} occurs {min_count} times; the most frequent one, {words[int(counts.argmax())]!r}, occurs "
                f"{int(counts.max())} times. Lower min_count or give more text."
            )
        places = np.full(self.numbers.next, DROPPED, dtype=np.int32)
        places[0] = SENTENCE_END
        places[numbers[order]] = np.arange(len(order), dtype=np.int32)
        return [words[index] for index in order], counts[order], places


def _open_encoded(folder: Path, fingerprint: str) -> EncodedCorpus | None:
    try:
        facts = json.loads((folder / _FACTS_NAME).read_text(encoding="utf-8"))
        if facts["fingerprint"] != fingerprint:
            return None
        arrays = load_file(folder / _WORDS_NAME)
        ids = np.memmap(folder / _IDS_NAME, dtype=np.int32, mode="r")
        if len(ids) != facts["num_ids"]:
            raise ValueError(f"{_IDS_NAME} holds {len(ids):,} ids instead of {facts['num_ids']:,}")
        return EncodedCorpus(
            words=arrays["words"].tobytes().decode("utf-8", "surrogatepass").split("\n"),
            counts=arrays["counts"],
            ids=ids,
            places=arrays["places"],
            num_tokens=facts["num_tokens"],
            num_distinct=facts["num_distinct"],
        )
    except Exception as error:
        logger.warning("The corpus in %s cannot be read (%s); it is made anew.", folder, error)
        return None


def _is_dataset(source: Any) -> bool:
    return hasattr(source, "column_names")


def _list_files(source: Any) -> list[Path]:
    given = [source] if isinstance(source, (str, os.PathLike)) else list(source)
    files: list[Path] = []
    for item in given:
        path = Path(item)
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.is_file() and file.suffix in _KINDS)
            if not found:
                raise FileNotFoundError(f"There is no text file ({', '.join(_KINDS)}) in the folder {str(path)!r}.")
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise FileNotFoundError(f"There is no file or folder {str(path)!r} (looked from {os.getcwd()!r}).")
    if not files:
        raise ValueError("There is no text to learn from: no file was given.")
    return files


def _compute_fingerprint(source: Any, settings: list[Any]) -> str:
    if isinstance(source, list):
        facts = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in source]
        kind = repr(facts)
    else:
        # A streaming dataset has no fingerprint that says what it holds; its own description is the best there is.
        kind = str(getattr(source, "_fingerprint", None) or repr(source))
    return hashlib.blake2b(f"{kind}{settings!r}".encode(), digest_size=16).hexdigest()


def _open_text(file: Path) -> IO[bytes]:
    opener: Any = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}.get(file.suffix, open)
    return opener(file, "rb")


def _read_files(files: list[Path], encoding: str) -> Iterator[tuple[str, int]]:
    """Pieces of text that end between words, and how many bytes of the files each took."""
    for file in files:
        seen = 0
        with closing(_open_text(file)) as stream, io.TextIOWrapper(stream, encoding=encoding) as reader:
            rest = ""
            try:
                while piece := reader.read(_CHUNK):
                    rest, text = _cut(rest + piece, file)
                    position = min(file.stat().st_size, seen + len(piece))
                    yield text, position - seen
                    seen = position
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{str(file)!r} is not {encoding} text: {error.reason} near byte {error.start:,} of the piece after "
                    f"{seen:,} characters. Convert it (iconv -f LATIN1 -t UTF-8), or set encoding."
                ) from error
            except (EOFError, OSError, lzma.LZMAError) as error:
                raise ValueError(f"{str(file)!r} breaks off or cannot be unpacked: {error}") from error
        yield rest.lstrip("\ufeff") + "\n", 0


def _cut(text: str, file: Path) -> tuple[str, str]:
    """What must wait for more, and what can be encoded: all up to the last line's end, or the last space."""
    text = text.lstrip("\ufeff")
    end = text.rfind("\n") + 1 or text.rfind(" ") + 1
    if end == 0 and len(text) > _LONGEST_LINE:
        raise ValueError(f"{str(file)!r} has no white space in {_LONGEST_LINE:,} characters; it is no text.")
    return text[end:], text[:end]


def _read_dataset(source: Any, text_column: str) -> Iterator[tuple[str, int]]:
    names = source.column_names
    if isinstance(names, dict):
        raise ValueError(f"The dataset has splits ({', '.join(names)}); give one of them.")
    if names is not None and text_column not in names:
        raise ValueError(f"There is no column {text_column!r} in the dataset; it has {', '.join(map(repr, names))}.")
    texts: list[str] = []
    length = 0
    for number, row in enumerate(source):
        text = row.get(text_column)
        if not isinstance(text, str):
            raise ValueError(f"Row {number:,} of the dataset has {text!r:.60} in column {text_column!r}, which is no text.")
        texts.append(text)
        length += len(text)
        if length >= _CHUNK:
            yield "\n".join(texts) + "\n", length
            texts, length = [], 0
    if texts:
        yield "\n".join(texts) + "\n", length


__all__ = ["DROPPED", "SENTENCE_END", "EncodedCorpus", "encode_corpus"]

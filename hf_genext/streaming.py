"""Outputs while they are written, each row of a batch through an iterator of its own.

Legend: rows (of a batch, or all of its beams), target (output positions), vocab.
"""

from __future__ import annotations

import queue
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import torch
from transformers import LogitsProcessor


class StreamsClosedError(Exception):
    """Nobody reads the streams of a batch any more."""


class OutputStream(Iterator[dict[str, Any]]):
    """The answers for one condition, as they grow.

    Each is what the pipeline answers, with `is_final`: `False` while more is to come. With beams, what is written so far is
    that of the best beam, and can change from the start on. An error of the generation is raised here.

    Use `close`, or a `with` block, to say that no more is wanted; when no row of a batch is, its generation stops.
    """

    def __init__(self) -> None:
        self._answers: queue.SimpleQueue[dict[str, Any] | BaseException | None] = queue.SimpleQueue()
        self._is_over = False
        self.is_closed = False

    def put(self, answer: dict[str, Any] | BaseException | None) -> None:
        """Hand over an answer, an error, or `None` for the end."""
        self._answers.put(answer)

    def __next__(self) -> dict[str, Any]:
        if self._is_over or self.is_closed:
            raise StopIteration
        answer = self._answers.get()
        if isinstance(answer, dict):
            return answer
        self._is_over = True
        if answer is not None:
            raise answer
        raise StopIteration

    def close(self) -> None:
        """Say that no more is wanted."""
        self.is_closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class OutputChannel:
    """Where the text of a row goes while it grows.

    Args:
        stream: What is read by people.
        key: What the text is called in its answers.
    """

    def __init__(self, stream: OutputStream, key: str) -> None:
        self._put, self._key = stream.put, key
        # The stream itself must be free to go when nobody reads it.
        self._is_closed = weakref.ref(stream)

    def __call__(self, text: str) -> bool:
        """Hand over the text so far, if it is new, and say whether more is wanted."""
        stream = self._is_closed()
        if stream is None or stream.is_closed:
            return False
        if text:
            self._put({self._key: text, "is_final": False})
        return True

    def finish(self, answer: dict[str, Any] | BaseException) -> None:
        """Hand over the last answer, or an error."""
        self._put(answer)
        if isinstance(answer, dict):
            self._put(None)


class StreamingObserver(LogitsProcessor):
    """Hands the text of each row to its stream before each step; the scores stay as they are.

    Args:
        channels: What takes the text of each row so far; says `False` when no more is wanted.
        rows_of_each: Beams of a row.
        decode: Ids (target,) to text.
    """

    def __init__(
        self,
        channels: Sequence[Callable[[str], bool]],
        rows_of_each: int,
        decode: Callable[[list[int]], str],
    ) -> None:
        self._channels, self._rows_of_each, self._decode = channels, rows_of_each, decode
        self._shown = [""] * len(channels)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Scores (rows, vocab) -> the same.

        Raises:
            StreamsClosedError: when all streams of the batch are closed.
        """
        # A search keeps its running beams in order, the best one first.
        best = input_ids[:: self._rows_of_each][: len(self._channels), 1:].tolist()
        is_wanted = False
        for row, (channel, ids) in enumerate(zip(self._channels, best, strict=True)):
            text = self._decode(ids) if ids else ""
            is_wanted |= channel(text if text != self._shown[row] else "")
            self._shown[row] = text
        if not is_wanted:
            raise StreamsClosedError
        return scores


__all__ = ["OutputChannel", "OutputStream", "StreamingObserver", "StreamsClosedError"]

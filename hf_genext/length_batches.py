"""Batches of conditions of like length, out of lists, datasets and streams that are longer than memory.

Rows are read in windows, each window is sorted by length and cut into batches of about equal work, and what comes out is given
back in the order in which the rows came in.

Legend: rows (conditions), length (input positions), returned (outputs of each condition), target (output positions).
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset
from transformers import PreTrainedModel

from .fast_decoding import get_setting

MAX_TOKENS_PER_BATCH = 4096
"""Rows of a batch, beams counted, times the positions of the longest: more is not faster on a processor."""
MAX_ROWS_PER_BATCH = 256
"""Rows of a batch, beams counted: conditions may be short where outputs are long."""
MAX_ROWS_OF_WINDOW = 2048
MAX_ROWS_READ_AHEAD = 256
"""Inputs that are read together."""
MAX_BYTES_OF_WINDOW = 64 << 20

_PADDED = ("input_ids", "attention_mask")


class LengthSorted(IterableDataset):
    """What a model gives for each of many rows, in their order.

    Iterating reads a window of rows ahead, never all. An error of a row is raised when those before it have been answered.

    Args:
        rows: Inputs of the model, each with a batch axis of 1, and whatever else goes with a row in lists.
        forward: Runs the model on a batch, and gives what has as many entries.
        pad: Makes a batch of several rows.
        finish: Makes an answer of each entry of what `forward` gave, of which it is told how many there are.
        max_rows: Of a batch.
        is_eager: Whether all answers are waited for anyhow, so that the first window may be as large as the others. It begins
            with one row else, and each has twice as many as the one before.
        window: So many rows make a window, and a batch, whatever their lengths; rows that are unlike, several batches.
    """

    def __init__(
        self,
        rows: Iterable[Mapping[str, Any]],
        forward: Callable[[dict[str, Any]], Mapping[str, Any]],
        pad: Callable[[list[Mapping[str, Any]]], Mapping[str, Any]],
        finish: Callable[[Mapping[str, Any], int], list[Any]],
        *,
        max_rows: int = MAX_ROWS_PER_BATCH,
        max_tokens: int = MAX_TOKENS_PER_BATCH,
        is_eager: bool = False,
        window: int | None = None,
    ) -> None:
        self._window = window
        if window is not None:
            max_rows, max_tokens = window, sys.maxsize
        self._rows, self._forward, self._pad, self._finish = rows, forward, pad, finish
        self._max_rows, self._max_tokens, self._is_eager = max_rows, max_tokens, is_eager

    def __len__(self) -> int:
        return len(self._rows)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        first = self._window or (1 if not self._is_eager else MAX_ROWS_OF_WINDOW)
        for window, error in read_windows(self._rows, first, self._window):
            yield from self._answer(window)
            if error is not None:
                raise error

    def _answer(self, window: list[Mapping[str, Any]]) -> list[Any]:
        answers: list[Any] = [None] * len(window)
        for planned in plan_batches(window, max_tokens=self._max_tokens, max_rows=self._max_rows):
            batch = planned if self._window is None else sorted(planned)
            outputs = self._forward(dict(self._pad([window[index] for index in batch])))
            for index, answer in zip(batch, self._finish(outputs, len(batch)), strict=True):
                answers[index] = answer
        return answers


class RowsAhead:
    """Rows of inputs that are read some at a time, no more of them than a [`LengthSorted`] asks for at once.

    Args:
        inputs: What is read.
        iterate: Makes an iterator over them.
        read: Reads some inputs to as many rows.
        first: Inputs that are read at first; twice as many each time, up to the most.
        most: The most; as many as are good if left out.
    """

    def __init__(
        self,
        inputs: Any,
        iterate: Callable[[Any], Iterator[Any]],
        read: Callable[[list[Any]], Iterable[Mapping[str, Any]]],
        first: int,
        most: int | None = None,
    ) -> None:
        self._inputs, self._iterate, self._read, self._first = inputs, iterate, read, first
        self._most = most

    def __len__(self) -> int:
        return len(self._inputs)

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        most = self._most or min(MAX_ROWS_READ_AHEAD, MAX_ROWS_OF_WINDOW)
        iterator, count = self._iterate(self._inputs), min(self._first, MAX_ROWS_OF_WINDOW)
        while True:
            given: list[Any] = []
            error = None
            try:
                given.extend(itertools.islice(iterator, count))
            except Exception as failure:  # Those before it are answered first.
                error = failure
            yield from self._read(given)
            if error is not None:
                raise error
            if len(given) < count:
                return
            count = min(2 * count, most)


def run_each(
    rows: Sequence[Mapping[str, Any]],
    forward: Callable[[dict[str, Any]], Mapping[str, Any]],
    pad: Callable[[list[Mapping[str, Any]]], Mapping[str, Any]],
    *,
    max_rows: int,
    max_tokens: int = MAX_TOKENS_PER_BATCH,
) -> list[Mapping[str, Any] | Exception]:
    """What a model gives for each of some rows, or why it gives nothing: a row that fails leaves the others alone.

    Args:
        rows: As [`LengthSorted`] takes them, as all that follows.
        forward: Runs the model on a batch.
        pad: Makes a batch of several rows.
        max_rows: Of a batch.
        max_tokens: Rows of a batch times the positions of its longest.
    """
    answers: list[Mapping[str, Any] | Exception] = [{}] * len(rows)
    waiting = plan_batches(rows, max_tokens=max_tokens, max_rows=max_rows)[::-1]
    while waiting:
        batch = waiting.pop()
        try:
            outputs = forward(dict(pad([rows[index] for index in batch])))
        except Exception as error:
            if len(batch) == 1:
                answers[batch[0]] = error
            else:
                waiting += [batch[len(batch) // 2 :], batch[: len(batch) // 2]]
            continue
        for place, index in enumerate(batch):
            answers[index] = take_entry(outputs, place)
    return answers


def read_windows(
    rows: Iterable[Mapping[str, Any]], first: int = MAX_ROWS_OF_WINDOW, most: int | None = None
) -> Iterator[tuple[list[Mapping[str, Any]], Exception | None]]:
    """Windows of rows, bounded in their number and their bytes, each with the error that ended it, if one did.

    Args:
        rows: Read as far as the window goes.
        first: Rows of the first window; each may have twice as many as the one before, up to the most.
        most: The most; as many as are good if left out, and where it is given, however large they are.
    """
    iterator, place, limit = iter(rows), 0, first
    while True:
        window: list[Mapping[str, Any]] = []
        size, error = 0, None
        while len(window) < limit and (size < MAX_BYTES_OF_WINDOW or most is not None):
            try:
                row = next(iterator)
            except StopIteration:
                if window:
                    yield window, None
                return
            except Exception as failure:
                failure.add_note(f"This was input {place}, counted from 0.")
                error = failure
                break
            window.append(row)
            place += 1
            size += sum(numbers.nbytes for numbers in row.values() if _is_array(numbers))
        yield window, error
        limit = min(2 * limit, most or MAX_ROWS_OF_WINDOW)


def count_outputs(model: PreTrainedModel, generate_kwargs: Mapping[str, Any]) -> int:
    """Rows of a batch for each condition: its beams, or its samples."""
    names = ("num_beams", "num_return_sequences")
    return max(get_setting(model, generate_kwargs, name) or 1 for name in names)


def plan_batches(rows: Sequence[Mapping[str, Any]], *, max_tokens: int, max_rows: int) -> list[list[int]]:
    """Cut rows into batches of like length; only ids with a mask may be of unequal length, all other tensors are alike.

    Returns:
        Indices of the rows of each batch.
    """
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(_describe(row), []).append(index)
    return [
        [members[index] for index in batch]
        for members in groups.values()
        for batch in batch_by_length([_measure(rows[index]) for index in members], max_tokens, max_rows)
    ]


def batch_by_length(lengths: Sequence[int], max_tokens: int, max_rows: int | None = None) -> list[list[int]]:
    """Sort by length, the longest first, and cut into batches whose rows times the longest stay within a budget.

    Args:
        lengths: Of each row.
        max_tokens: The budget; a single row may exceed it.
        max_rows: The most rows of a batch.

    Returns:
        Indices of the rows of each batch.

    Example:
        >>> from hf_genext.length_batches import batch_by_length
        >>> batch_by_length([3, 9, 2, 4], max_tokens=9)
        [[1], [3, 0], [2]]
    """
    batches: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if not batches or (len(batches[-1]) + 1) * longest > max_tokens or len(batches[-1]) == max_rows:
            batches.append([])
            longest = max(1, lengths[index])
        batches[-1].append(index)
    return batches


class RowPadding:
    """Makes a batch: ids with a mask are padded on the right, all other tensors are stacked, lists are joined.

    Ids and masks may be arrays of NumPy: many small ones take a fraction of the time that tensors do.

    Args:
        model: The model, whose id of padding is taken.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        conditioner = getattr(getattr(model, "encoder", None), "conditioner", None)
        config = getattr(conditioner, "config", model.config).get_text_config(decoder=False)
        self._pad_id = getattr(config, "pad_token_id", None) or 0
        self._device = model.device

    def __call__(self, rows: list[Mapping[str, Any]]) -> dict[str, Any]:
        """Rows, each with a batch axis of 1, to a batch."""
        batch: dict[str, Any] = {}
        for name in rows[0]:
            values = [row[name] for row in rows]
            if not _is_array(values[0]):
                batch[name] = [part for value in values for part in value]
                continue
            if len(rows) == 1:
                stacked = torch.as_tensor(values[0])
            elif name in _PADDED and values[0].ndim == 2:
                stacked = torch.from_numpy(_pad_rows(values, self._pad_id if name == "input_ids" else 0))
            else:
                stacked = torch.cat(values)
            batch[name] = stacked.to(self._device)
        return batch


def _is_array(value: Any) -> bool:
    return isinstance(value, (torch.Tensor, np.ndarray))


def _pad_rows(rows: list[Any], padding: int) -> np.ndarray:
    """Rows (1, length) as one array (rows, longest), padded on the right: in a few steps, however many rows there are."""
    lengths = np.array([row.shape[1] for row in rows])
    flat = np.concatenate(rows, axis=1)[0]
    padded = np.full((len(rows), lengths.max()), padding, dtype=flat.dtype)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = flat
    return padded


def _describe(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What rows of one batch must have in common."""
    may_differ = _PADDED if all(name in row and row[name].ndim == 2 for name in _PADDED) else ()
    return tuple(
        (name, str(value.dtype).removeprefix("torch."), None if name in may_differ else tuple(value.shape[1:]))
        for name, value in sorted(row.items())
        if _is_array(value)
    )


def _measure(row: Mapping[str, Any]) -> int:
    """Positions of a condition: those of its ids, else the longest axis behind the batch."""
    for name in _PADDED:
        if name in row:
            return int(row[name].shape[-1])
    return max((value.shape[1] for value in row.values() if _is_array(value) and value.ndim > 1), default=1)


def take_entry(outputs: Mapping[str, Any], place: int) -> dict[str, Any]:
    """A row of a batch's outputs, with the batch axis that it would have alone."""
    return {name: value[place : place + 1] if torch.is_tensor(value) else value[place] for name, value in outputs.items()}


__all__ = [
    "LengthSorted",
    "RowPadding",
    "RowsAhead",
    "batch_by_length",
    "count_outputs",
    "plan_batches",
    "read_windows",
    "run_each",
    "take_entry",
]

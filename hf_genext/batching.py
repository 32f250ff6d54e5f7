"""From token rows to batches: rows in memory, batches of a token budget by length, and padding.

Legend: batch, length (input positions), target (output positions).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler


class EncodedPairs(Dataset):
    """Token rows in flat arrays, so that a batch is read in microseconds and a million rows fit a laptop.

    Args:
        sources: For each row the source tokens.
        targets: For each row the target tokens.

    Attributes:
        lengths: (rows, 2): source and target tokens of each row.
    """

    def __init__(self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> None:
        if len(sources) != len(targets):
            raise ValueError(f"Each source needs a target: got {len(sources)} sources and {len(targets)} targets.")
        self._sources, source_lengths = _flatten(sources)
        self._targets, target_lengths = _flatten(targets)
        self.lengths = np.stack([source_lengths, target_lengths], axis=1)
        self._offsets = np.zeros((len(sources) + 1, 2), dtype=np.int64)
        np.cumsum(self.lengths, axis=0, out=self._offsets[1:])

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.lengths)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """One row: `input_ids` (length,) and `labels` (target,)."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"Row {index} of {len(self)} rows.")
        index %= len(self)
        (source, target), (source_end, target_end) = self._offsets[index], self._offsets[index + 1]
        return {"input_ids": self._sources[source:source_end], "labels": self._targets[target:target_end]}

    def __getitems__(self, indices: list[int]) -> list[dict[str, np.ndarray]]:
        """Several rows at once."""
        return [self[index] for index in indices]


def _flatten(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
    tokens = np.fromiter((token for row in rows for token in row), dtype=np.int32, count=int(lengths.sum()))
    return tokens, lengths


class TokenBudgetBatchSampler(Sampler[list[int]]):
    """Batches of rows of similar length, each within a budget of padded target tokens.

    The plan is made once, from the lengths alone: rows are sorted by source and target length, and cut where the budget is
    full, or where a new source length begins and the batch is at least half full. An epoch then shuffles rows of one
    length class among their places, and the batches among themselves. So every epoch has the same number of batches, a new
    composition and a new order, all of which depend on nothing but seed and epoch; every row comes once over all ranks.

    Args:
        lengths: Source and target tokens of each row, (rows, 2).
        max_tokens: The most padded target tokens of a batch: rows times longest target. A longer row has a batch of its own.
        seed: Seed of the order.
        shuffle: Whether to shuffle; otherwise batches come in order of length.
        num_replicas: Number of ranks. Each gets the same number of batches; those of one step are of similar size.
        rank: Which of them this is.

    Raises:
        ValueError: for a budget below 1, a rank outside the replicas, or fewer rows than replicas.
    """

    def __init__(
        self,
        lengths: np.ndarray | Sequence[tuple[int, int]],
        max_tokens: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        lengths = np.asarray(lengths, dtype=np.int64).reshape(-1, 2)
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be 1 or more, got {max_tokens}.")
        if not 0 <= rank < num_replicas:
            raise ValueError(f"rank must be 0 to num_replicas - 1, got rank={rank} and num_replicas={num_replicas}.")
        if len(lengths) < num_replicas:
            raise ValueError(f"{num_replicas} ranks need a row each, got {len(lengths)} rows.")
        self._seed, self._shuffle, self._num_replicas, self._rank, self._epoch = seed, shuffle, num_replicas, rank, 0
        classes, self._class_of_row, counts = np.unique(_round_up(lengths), axis=0, return_inverse=True, return_counts=True)
        self._class_of_row = self._class_of_row.reshape(-1)
        ends = _plan_batches(classes, counts, max_tokens)
        starts = np.concatenate([[0], ends[:-1]])
        self._starts, self._ends = _split_to_multiple(starts, ends, num_replicas)
        by_class = np.repeat(np.arange(len(classes)), counts)
        widths = classes[by_class[self._ends - 1]].sum(axis=1)
        self._by_cost = np.argsort((self._ends - self._starts) * widths, kind="stable")

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Batches of this rank in an epoch."""
        return len(self._starts) // self._num_replicas

    def __iter__(self) -> Iterator[list[int]]:
        """The batches of this rank."""
        generator = np.random.default_rng([self._seed, self._epoch])
        if self._shuffle:
            order = np.lexsort((generator.random(len(self._class_of_row)), self._class_of_row))
            steps = self._by_cost.reshape(-1, self._num_replicas)
            steps = generator.permuted(steps, axis=1)[generator.permutation(len(steps))]
        else:
            order = np.argsort(self._class_of_row, kind="stable")
            steps = np.arange(len(self._starts)).reshape(-1, self._num_replicas)
        for batch in steps[:, self._rank]:
            yield order[self._starts[batch] : self._ends[batch]].tolist()


def _round_up(lengths: np.ndarray) -> np.ndarray:
    """Lengths up to 32 as they are; longer ones rounded up by at most 6%, so that rows of one class are many."""
    step = 1 << np.maximum(0, np.floor(np.log2(np.maximum(lengths, 1))).astype(np.int64) - 4)
    return -(-lengths // step) * step


def _plan_batches(classes: np.ndarray, counts: np.ndarray, max_tokens: int) -> np.ndarray:
    """Where each batch ends in the rows sorted by class, (batches,)."""
    ends: list[int] = []
    position = rows = longest = last_source = 0
    for (source, target), count in zip(classes.tolist(), counts.tolist(), strict=True):
        if rows and source != last_source and 2 * rows * longest >= max_tokens:
            ends.append(position)
            rows = longest = 0
        last_source = source
        while count:
            room = max_tokens // max(longest, target, 1) - rows
            if room <= 0 and rows:
                ends.append(position)
                rows = longest = 0
                continue
            taken = min(count, max(room, 1))
            position, rows, longest, count = position + taken, rows + taken, max(longest, target), count - taken
    ends.append(position)
    return np.array(ends, dtype=np.int64)


def _split_to_multiple(starts: np.ndarray, ends: np.ndarray, multiple: int) -> tuple[np.ndarray, np.ndarray]:
    """Halve the largest batches until their number is a multiple."""
    pieces = list(zip(starts.tolist(), ends.tolist(), strict=True))
    while len(pieces) % multiple:
        largest = max(range(len(pieces)), key=lambda index: pieces[index][1] - pieces[index][0])
        start, end = pieces[largest]
        pieces[largest : largest + 1] = [(start, (start + end) // 2), ((start + end) // 2, end)]
    return np.array([start for start, _ in pieces]), np.array([end for _, end in pieces])


class ConditionalCollator:
    """Pads rows on the right to a batch.

    Args:
        pad_token_id: The source's padding id. Labels are padded with -100.
        prepare_decoder_input_ids_from_labels: The model's method of that name. The decoder's input then stands beside the
            labels, which is needed where the loss is computed outside the model (label smoothing), or for both directions.
        reversed_start_token_id: With it each row has two targets: as it is, and from its last token to its first behind this
            start token. The end token stays last.

    Raises:
        ValueError: for a `reversed_start_token_id` without `prepare_decoder_input_ids_from_labels`.
    """

    def __init__(
        self,
        pad_token_id: int,
        prepare_decoder_input_ids_from_labels: Callable[[torch.Tensor], torch.Tensor] | None = None,
        reversed_start_token_id: int | None = None,
    ) -> None:
        if reversed_start_token_id is not None and prepare_decoder_input_ids_from_labels is None:
            raise ValueError("Both directions need prepare_decoder_input_ids_from_labels: each has a start token of its own.")
        self.pad_token_id = pad_token_id
        self.prepare_decoder_input_ids_from_labels = prepare_decoder_input_ids_from_labels
        self.reversed_start_token_id = reversed_start_token_id

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Build a batch.

        Args:
            rows: Rows with `input_ids` and `labels`.

        Returns:
            `input_ids` (batch, length) and `labels` (batch, target); `attention_mask` (batch, length) only where a row is
            padded, since attention without a mask is faster; `decoder_input_ids` (batch, target) on request. In both directions
            targets are (2 * batch, target), the two of a row beside each other.

        Raises:
            KeyError: for a row without one of the columns.
        """
        for name in ("input_ids", "labels"):
            if name not in rows[0]:
                raise KeyError(f"A row needs input_ids and labels, got {sorted(rows[0])}. Encode the rows with encode_pairs.")
        input_ids, mask = _pad([row["input_ids"] for row in rows], self.pad_token_id)
        targets = [row["labels"] for row in rows]
        if self.reversed_start_token_id is not None:
            targets = [target for row in targets for target in (row, [*row[-2::-1], *row[-1:]])]
        labels, _ = _pad(targets, -100)
        batch = {"input_ids": torch.from_numpy(input_ids), "labels": torch.from_numpy(labels)}
        if not mask.all():
            batch["attention_mask"] = torch.from_numpy(mask)
        if self.prepare_decoder_input_ids_from_labels is not None:
            batch["decoder_input_ids"] = self.prepare_decoder_input_ids_from_labels(batch["labels"])
        if self.reversed_start_token_id is not None:
            batch["decoder_input_ids"][1::2, 0] = self.reversed_start_token_id
        return batch


def _pad(rows: list[Any], value: int) -> tuple[np.ndarray, np.ndarray]:
    width = max(len(row) for row in rows)
    padded = np.full((len(rows), width), value, dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.int64)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
        mask[index, : len(row)] = 1
    return padded, mask


__all__ = ["ConditionalCollator", "EncodedPairs", "TokenBudgetBatchSampler"]

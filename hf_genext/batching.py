"""From token rows to batches: rows in memory, batches of a token budget by length, and padding.

Legend: batch, length (input positions), target (output positions), outputs (of a single output).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler


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
        return self.get_row(index)

    def __getitems__(self, indices: list[int]) -> list[dict[str, np.ndarray]]:
        """Several rows at once."""
        return [self[index] for index in indices]

    def get_row(self, index: int, without: Collection[str] = ()) -> dict[str, np.ndarray]:
        """One row without some of its inputs: `input_ids` (length,) and `labels` (target,)."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"Row {index} of {len(self)} rows.")
        index %= len(self)
        (source, target), (source_end, target_end) = self._offsets[index], self._offsets[index + 1]
        row = {"input_ids": self._sources[source:source_end], "labels": self._targets[target:target_end]}
        return {name: values for name, values in row.items() if name not in without}

    def list_conditions(self, names: Collection[str]) -> Iterator[bytes]:
        """All that some inputs of the rows depend on, piece by piece."""
        if "input_ids" in names:
            yield self.lengths[:, 0].tobytes()
            yield self._sources.tobytes()


class EncodedRows(Dataset):
    """Rows with conditions of any kind, and a sequence or a single output as target.

    Args:
        conditions: By the names of the model's inputs: `input_ids` as token rows, an empty one where the text is missing;
            anything else as an array, (rows, ...).
        labels: For each row the target tokens; or single outputs, an array (rows,) or (rows, outputs).
        media: What gives pictures and recordings of a row when they are asked for, by the names of the model's inputs: a
            [`hf_genext.media_columns.MediaReader`].

    Raises:
        ValueError: if the numbers of rows differ.

    Attributes:
        lengths: (rows, 2): source and target tokens of each row, 1 where a side has none.
    """

    def __init__(
        self,
        conditions: Mapping[str, Any],
        labels: Sequence[Sequence[int]] | np.ndarray,
        media: Any | None = None,
    ) -> None:
        self._arrays = {name: np.asarray(values) for name, values in conditions.items() if name != "input_ids"}
        self._media = media
        self._outputs = labels if isinstance(labels, np.ndarray) else None
        for name, values in conditions.items():
            if len(values) != len(labels):
                raise ValueError(f"Each row needs a target: got {len(values)} rows of {name} and {len(labels)} targets.")
        self.lengths = np.ones((len(labels), 2), dtype=np.int64)
        self._tokens: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        tokens: dict[str, Any] = {"input_ids": conditions.get("input_ids")}
        tokens["labels"] = None if self._outputs is not None else labels
        for side, (name, rows) in enumerate(tokens.items()):
            if rows is not None:
                flat, lengths = _flatten(rows)
                self.lengths[:, side] = np.maximum(lengths, 1)
                self._tokens[name] = flat, np.concatenate([[0], np.cumsum(lengths)])

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.lengths)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """One row, by the names of the model's inputs, and `labels`: (target,), () or (outputs,)."""
        return self.get_row(index)

    def get_row(self, index: int, without: Collection[str] = ()) -> dict[str, np.ndarray]:
        """One row without some of its inputs, whose files are not opened."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"Row {index} of {len(self)} rows.")
        index %= len(self)
        row = {name: flat[ends[index] : ends[index + 1]] for name, (flat, ends) in self._tokens.items() if name not in without}
        row |= {name: values[index] for name, values in self._arrays.items() if name not in without}
        if self._media is not None:
            row |= self._media(index, without)
        if self._outputs is not None:
            row["labels"] = self._outputs[index]
        return row

    def list_conditions(self, names: Collection[str]) -> Iterator[bytes]:
        """All that some inputs of the rows depend on, piece by piece: tokens, numbers, and what is in files."""
        for name in sorted(self._tokens.keys() & set(names)):
            yield from (name.encode(), *(array.tobytes() for array in self._tokens[name]))
        for name in sorted(self._arrays.keys() & set(names)):
            yield from (name.encode(), self._arrays[name].tobytes())
        if self._media is not None:
            yield from self._media.list_files(names)


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
        max_tokens: The most padded target tokens of a batch: rows times longest target. A longer row has a batch of its own,
            unless there would be too few batches for the replicas: then those with the shortest rows share one.
        max_source_tokens: The same of the sources; their number does not matter if left out.
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
        max_source_tokens: int | None = None,
        seed: int = 0,
        shuffle: bool = True,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        lengths = np.asarray(lengths, dtype=np.int64).reshape(-1, 2)
        for name, budget in (("max_tokens", max_tokens), ("max_source_tokens", max_source_tokens)):
            if budget is not None and budget < 1:
                raise ValueError(f"{name} must be 1 or more, got {budget}.")
        if not 0 <= rank < num_replicas:
            raise ValueError(f"rank must be 0 to num_replicas - 1, got rank={rank} and num_replicas={num_replicas}.")
        if len(lengths) < num_replicas:
            raise ValueError(f"{num_replicas} ranks need a row each, got {len(lengths)} rows.")
        self._seed, self._shuffle, self._num_replicas, self._rank, self._epoch = seed, shuffle, num_replicas, rank, 0
        classes, self._class_of_row, counts = np.unique(_round_up(lengths), axis=0, return_inverse=True, return_counts=True)
        self._class_of_row = self._class_of_row.reshape(-1)
        ends = _plan_batches(classes, counts, max_tokens, max_source_tokens)
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


def _plan_batches(classes: np.ndarray, counts: np.ndarray, max_tokens: int, max_source_tokens: int | None) -> np.ndarray:
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
            if max_source_tokens is not None:  # No earlier source is longer.
                room = min(room, max_source_tokens // max(source, 1) - rows)
            if room <= 0 and rows:
                ends.append(position)
                rows = longest = 0
                continue
            taken = min(count, max(room, 1))
            position, rows, longest, count = position + taken, rows + taken, max(longest, target), count - taken
    ends.append(position)
    return np.array(ends, dtype=np.int64)


def _split_to_multiple(starts: np.ndarray, ends: np.ndarray, multiple: int) -> tuple[np.ndarray, np.ndarray]:
    """Halve the largest batches until their number is a multiple; where there are too few rows for that, join the smallest."""
    pieces = list(zip(starts.tolist(), ends.tolist(), strict=True))
    is_split = int(ends[-1]) >= -(-len(pieces) // multiple) * multiple
    while len(pieces) % multiple:
        if is_split:
            place = max(range(len(pieces)), key=lambda index: pieces[index][1] - pieces[index][0])
            start, end = pieces[place]
            pieces[place : place + 1] = [(start, (start + end) // 2), ((start + end) // 2, end)]
        else:
            place = min(range(len(pieces) - 1), key=lambda index: pieces[index + 1][1] - pieces[index][0])
            pieces[place : place + 2] = [(pieces[place][0], pieces[place + 1][1])]
    return np.array([start for start, _ in pieces]), np.array([end for _, end in pieces])


class _EpochDataLoader(DataLoader):
    """A loader whose batch sampler is told the epoch."""

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)


def build_token_budget_loader(dataset: Any, collator: Any, args: Any, max_tokens: int, *, shuffle: bool) -> DataLoader:
    """A loader of token-budget batches, of one rank.

    Args:
        dataset: Rows that know their lengths; others have one target token each, where nobody asks for a budget of tokens.
        collator: What makes batches; where it gives each row two targets, these count.
        args: [`hf_genext.training_arguments.GenextTrainingArguments`].
        max_tokens: Padded target tokens of a batch.
        shuffle: Whether the order is another in each epoch, as in training.

    Raises:
        ValueError: for rows that do not know their lengths.
    """
    targets_of_a_row = 1 if getattr(collator, "reversed_start_token_id", None) is None else 2
    lengths = getattr(dataset, "lengths", None)
    if lengths is None and args.max_tokens_per_batch is not None:
        raise ValueError(
            f"max_tokens_per_batch needs rows that know their lengths, got a {type(dataset).__name__}. Encode the rows "
            "with encode_pairs or encode_rows, or leave max_tokens_per_batch out."
        )
    sampler = TokenBudgetBatchSampler(
        np.ones((len(dataset), 2), dtype=np.int64) if lengths is None else lengths,
        max(1, max_tokens // targets_of_a_row),
        max_source_tokens=args.max_source_tokens_per_batch if shuffle else None,
        seed=args.data_seed if args.data_seed is not None else args.seed,
        shuffle=shuffle,
        num_replicas=args.world_size,
        rank=args.process_index,
    )
    return _EpochDataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collator,
        num_workers=args.dataloader_num_workers,
        pin_memory=args.dataloader_pin_memory and args.device.type != "cpu",
        persistent_workers=args.dataloader_persistent_workers,
    )


class ConditionalCollator:
    """Pads rows on the right to a batch.

    Args:
        pad_token_id: The source's padding id. Labels are padded with -100.
        prepare_decoder_input_ids_from_labels: The model's method of that name. The decoder's input then stands beside the
            labels, which is needed where the loss is computed outside the model (label smoothing), or for both directions.
        reversed_start_token_id: With it each row has two targets: as it is, and from its last token to its first behind this
            start token. The end token stays last.
        target_tokenizer: What wrote the labels, where they may be padded already: its padding behind their end is cut off.

    Raises:
        ValueError: for a `reversed_start_token_id` without `prepare_decoder_input_ids_from_labels`.
    """

    def __init__(
        self,
        pad_token_id: int,
        prepare_decoder_input_ids_from_labels: Callable[[torch.Tensor], torch.Tensor] | None = None,
        reversed_start_token_id: int | None = None,
        target_tokenizer: Any | None = None,
    ) -> None:
        if reversed_start_token_id is not None and prepare_decoder_input_ids_from_labels is None:
            raise ValueError("Both directions need prepare_decoder_input_ids_from_labels: each has a start token of its own.")
        self.pad_token_id = pad_token_id
        self.prepare_decoder_input_ids_from_labels = prepare_decoder_input_ids_from_labels
        self.reversed_start_token_id = reversed_start_token_id
        self.target_pad_token_id = getattr(target_tokenizer, "pad_token_id", None)
        ends = {getattr(target_tokenizer, name, None) for name in ("eos_token_id", "sep_token_id")}
        self._pads_with_end = self.target_pad_token_id in ends

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Build a batch.

        Args:
            rows: Rows with `labels` and any of the model's inputs, each without its first axis.

        Returns:
            `input_ids` (batch, length) and `labels` (batch, target); `attention_mask` (batch, length) only where a row is
            padded, since attention without a mask is faster, and without a 1 where a row has no text; `decoder_input_ids`
            (batch, target) on request. In both directions targets are (2 * batch, target), the two of a row beside each other.
            Labels of single outputs are (batch,) or (batch, outputs). Any other input is as the rows have it, (batch, ...),
            padded at its end, and filled with what says that it is missing where a row lacks it: not a number (NaN), or 0 in a
            mask. `condition_states` (batch, length, hidden) has its mask (batch, length) only where a row is padded, as text
            has; several of them are a dictionary by the names of the conditions, without those that no row has.

        Raises:
            KeyError: for a row without labels.
        """
        if "labels" not in rows[0]:
            raise KeyError(
                f"A row needs labels and a condition, such as input_ids; got {sorted(rows[0])}. Encode the rows with "
                "encode_pairs or encode_rows."
            )
        batch: dict[str, torch.Tensor] = {}
        if "input_ids" in rows[0]:
            input_ids, mask = _pad([row["input_ids"] for row in rows], self.pad_token_id)
            batch["input_ids"] = torch.from_numpy(input_ids)
        targets = [row["labels"] for row in rows]
        if np.ndim(targets[0]) == 0 or np.asarray(targets[0]).dtype.kind == "f":
            batch["labels"] = torch.from_numpy(np.stack(targets))
        else:
            if self.target_pad_token_id is not None:
                targets = [_cut_padding(row, self.target_pad_token_id, int(self._pads_with_end)) for row in targets]
            if self.reversed_start_token_id is not None:
                targets = [target for row in targets for target in (row, [*row[-2::-1], *row[-1:]])]
            batch["labels"] = torch.from_numpy(_pad(targets, -100)[0])
        if "input_ids" in rows[0] and not mask.all():
            batch["attention_mask"] = torch.from_numpy(mask)
        if "condition_states" in rows[0]:
            batch |= _pad_states([row["condition_states"] for row in rows])
        if rows[0].keys() != {"input_ids", "labels"} or any(row.keys() != rows[0].keys() for row in rows):
            known = ("input_ids", "labels", "condition_states")
            others = dict.fromkeys(name for row in rows for name in row if name not in known)
            batch |= {name: torch.from_numpy(_stack([row.get(name) for row in rows])) for name in others}
        if self.prepare_decoder_input_ids_from_labels is not None:
            batch["decoder_input_ids"] = self.prepare_decoder_input_ids_from_labels(batch["labels"])
        if self.reversed_start_token_id is not None:
            batch["decoder_input_ids"][1::2, 0] = self.reversed_start_token_id
        return batch


def _cut_padding(target: Any, pad_token_id: int, kept: int) -> Any:
    """A target without the padding at its end, of which one token stays where that is the end token."""
    end = len(target)
    while end > kept and target[end - 1] == pad_token_id and (not kept or target[end - 2] == pad_token_id):
        end -= 1
    return target[:end]


def _pad_states(rows: list[Any]) -> dict[str, Any]:
    """`condition_states`, and their mask where it says anything; of several conditions each is a dictionary."""
    if not isinstance(rows[0], Mapping):
        states, mask = _pad_arrays(rows)
        return {"condition_states": states} | ({} if mask is None else {"condition_states_mask": mask})
    padded = {name: _pad_arrays([row[name] for row in rows]) for name in rows[0] if any(len(row[name]) for row in rows)}
    masks = {name: mask for name, (_, mask) in padded.items() if mask is not None}
    batch = {"condition_states": {name: states for name, (states, _) in padded.items()}}
    return batch | ({"condition_states_mask": masks} if masks else {})


def _pad_arrays(arrays: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """States (length, hidden) as a batch, and their mask where some are padding."""
    lengths = np.array([len(array) for array in arrays])
    batch = np.zeros((len(arrays), lengths.max(), *arrays[0].shape[1:]), dtype=arrays[0].dtype)
    for row, array in enumerate(arrays):
        batch[row, : len(array)] = array
    mask = np.arange(lengths.max()) < lengths[:, None]
    return torch.from_numpy(batch), None if mask.all() else torch.from_numpy(mask.astype(np.int64))


def _stack(values: list[Any]) -> np.ndarray:
    """Arrays of one kind as a batch, shorter ones padded with 0, missing ones filled."""
    arrays = [None if value is None else np.asarray(value) for value in values]
    present = [array for array in arrays if array is not None]
    shape = np.max([array.shape for array in present], axis=0)
    missing = np.nan if present[0].dtype.kind == "f" else 0
    batch = np.full((len(values), *shape), missing, dtype=present[0].dtype)
    for row, array in enumerate(arrays):
        if array is not None:
            batch[row] = 0
            places: tuple[Any, ...] = (row, *(slice(size) for size in array.shape))
            batch[places] = array
    return batch


def _pad(rows: list[Any], value: int) -> tuple[np.ndarray, np.ndarray]:
    width = max(1, *(len(row) for row in rows))
    padded = np.full((len(rows), width), value, dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.int64)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
        mask[index, : len(row)] = 1
    return padded, mask


__all__ = [
    "ConditionalCollator",
    "EncodedPairs",
    "EncodedRows",
    "TokenBudgetBatchSampler",
    "build_token_budget_loader",
]

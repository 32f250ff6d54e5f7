"""How ranks bring together what they found and, where they train the same word vectors, what they learned.

Each rank trains a copy on its own part of the text. At a meeting the changes of each row since its last one are added up, so
that two ranks go as far as one would on the text of both; what they changed alike is counted once where a row was trained
often, or it would overshoot. Ranks of one machine read each other's changes from shared memory; others, and those with
accelerators, gather them through Accelerate.

Legend: words, rows (of a matrix of vectors), size (of a vector).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import gather

from hf_genext.static_embedding.pretraining_static_embedding import StaticEmbeddingForPreTraining

BLOCK = 1 << 20
"""Numbers that travel at once."""
SEGMENT = 1 << 18
"""Numbers that are computed with at once: few enough to stay in a processor's cache."""
SHARED_FOLDER = Path("/dev/shm")
_TINY = 1e-30


def gather_texts(text: str, state: PartialState) -> list[str]:
    """The texts of all ranks, in the order of the ranks. All ranks call this together.

    Args:
        text: This rank's.
        state: The ranks.
    """
    if state.num_processes == 1:
        return [text]
    content = torch.tensor([*text.encode()], dtype=torch.uint8, device=state.device)
    lengths = gather(torch.tensor([len(content)], device=state.device)).tolist()
    padded = content.new_zeros(1, max(*lengths, 1))
    padded[0, : len(content)] = content
    return [bytes(row[:length].tolist()).decode() for row, length in zip(gather(padded), lengths, strict=True)]


class GatherChannel:
    """Gathers through Accelerate.

    Args:
        accelerator: The ranks.
        device: Where the numbers are.
    """

    def __init__(self, accelerator: Accelerator, device: torch.device) -> None:
        self._accelerator, self._buffer = accelerator, torch.zeros(BLOCK, device=device)

    def get_block(self, count: int) -> torch.Tensor:
        """Where this rank puts its next numbers, (count,)."""
        return self._buffer[:count]

    def exchange(self, count: int) -> torch.Tensor:
        """The numbers of all ranks, (ranks, count). All ranks call this together."""
        return self._accelerator.gather(self._buffer[:count]).view(-1, count)


class SharedMemoryChannel:
    """Memory that all ranks of one machine write to and read from.

    Args:
        accelerator: The ranks.
        path: A file of shared memory that all of them can open, of [`SharedMemoryChannel.count_numbers`] float32 numbers.
    """

    def __init__(self, accelerator: Accelerator, path: Path) -> None:
        self._accelerator = accelerator
        shape = (2, accelerator.num_processes, BLOCK)
        # A block that the others may still be reading is not written to: there are two, and each meeting of all ranks in
        # between shows that the older one was read.
        self._blocks = torch.from_file(str(path), shared=True, size=self.count_numbers(accelerator)).view(shape)
        self._turn = 0

    @staticmethod
    def count_numbers(accelerator: Accelerator) -> int:
        """How many numbers the shared memory holds."""
        return 2 * accelerator.num_processes * BLOCK

    def get_block(self, count: int) -> torch.Tensor:
        """Where this rank puts its next numbers, (count,)."""
        return self._blocks[self._turn, self._accelerator.process_index, :count]

    def exchange(self, count: int) -> torch.Tensor:
        """The numbers of all ranks, (ranks, count). All ranks call this together."""
        self._accelerator.wait_for_everyone()
        parts = self._blocks[self._turn, :, :count]
        self._turn = 1 - self._turn
        return parts


Channel = GatherChannel | SharedMemoryChannel
Overlap = Callable[[torch.Tensor], torch.Tensor]
"""How far changes of ranks overlap, (rows,), by how often each row was changed, per token and in steps, (rows,)."""


def open_channel(accelerator: Accelerator, device: torch.device) -> Channel:
    """Shared memory where all ranks are processors of one machine that has some left, else gathers through Accelerate.

    All ranks call this together and get the same kind.
    """
    if device.type != "cpu":
        return GatherChannel(accelerator, device)
    is_first = accelerator.is_main_process
    # The first rank's number names the file.
    number = torch.tensor(secrets.randbits(48) if is_first else 0, dtype=torch.int64)
    path = SHARED_FOLDER / f"hf_genext-{int(accelerator.reduce(number)):x}"
    if is_first:
        with suppress(OSError, AttributeError):
            _allocate(path, 4 * SharedMemoryChannel.count_numbers(accelerator))
    accelerator.wait_for_everyone()
    channel = SharedMemoryChannel(accelerator, path) if path.is_file() else None
    num_open = int(accelerator.reduce(torch.tensor(int(channel is not None))))
    if is_first:
        path.unlink(missing_ok=True)  # The memory stays until the last rank ends, however it ends.
    if channel is None or num_open < accelerator.num_processes:
        return GatherChannel(accelerator, device)
    return channel


def _allocate(path: Path, num_bytes: int) -> None:
    """Make a file whose memory is there, or none.

    Raises:
        OSError: if there is no such folder, or too little memory is left.
    """
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, num_bytes)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(descriptor)


def add_up(changes: Sequence[torch.Tensor], overlap: torch.Tensor) -> torch.Tensor:
    """The sum of what the ranks changed, in which what two of them changed alike counts once where it overlaps.

    With an overlap of 1 this is Adasum (Maleki et al. 2021, equation 5) of each row: equal changes are averaged, those at right
    angles added up. With 0 it is the sum.

    Args:
        changes: Of each rank, (rows, size).
        overlap: From 0 to 1, (rows, 1).

    Returns:
        (rows, size).

    >>> alike, apart = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    >>> once, twice = torch.ones(1, 1), torch.zeros(1, 1)
    >>> add_up([alike, alike], once), add_up([alike, alike], twice), add_up([alike, apart], once)
    (tensor([[2., 0.]]), tensor([[4., 0.]]), tensor([[2., 1.]]))
    """
    changes = list(changes)
    while len(changes) > 1:
        pairs = zip(changes[::2], changes[1::2], strict=False)
        changes = [_add_pair(first, second, overlap) for first, second in pairs] + changes[len(changes) // 2 * 2 :]
    return changes[0]


def _add_pair(first: torch.Tensor, second: torch.Tensor, overlap: torch.Tensor) -> torch.Tensor:
    shared = torch.linalg.vecdot(first, second)[:, None].clamp_(min=0.0).mul_(overlap).mul_(0.5)
    parts = [torch.linalg.vecdot(changes, changes)[:, None].clamp_(min=_TINY) for changes in (first, second)]
    return (first * (1.0 - shared / parts[0])).addcmul_(second, 1.0 - shared / parts[1])


class _Table:
    """A matrix that the ranks train, its rows from the most frequent to the rarest that is trained at all.

    Args:
        parameter: The matrix.
        frequencies: Updates of each row for each token of the text, (rows,).
        step: The step at which all ranks have the same rows.
        order: The rows in order of frequency; left out, they stand in it.
    """

    def __init__(
        self, parameter: torch.Tensor, frequencies: torch.Tensor, step: int, order: torch.Tensor | None = None
    ) -> None:
        self._matrix, self._order = parameter.data, order
        self._frequencies = frequencies if order is None else frequencies[order]
        self.count, self.size = len(self._frequencies), self._matrix.shape[1]
        self._agreed = self._matrix[: self.count].clone() if order is None else self._matrix[order]
        self._met_at = torch.full((self.count,), step)

    def list_segments(self, count: int) -> list[slice]:
        """The first rows, parted so that each part has no more numbers than a segment (or one row)."""
        rows = max(1, SEGMENT // self.size)
        return [slice(start, min(start + rows, count)) for start in range(0, count, rows)]

    def put_changes(self, chosen: slice, out: torch.Tensor) -> None:
        """What this rank changed in some rows, into `out` (rows, size)."""
        torch.sub(self._matrix[self._find(chosen)], self._agreed[chosen], out=out)

    def agree(self, chosen: slice, changes: torch.Tensor, step: int, compute_overlap: Overlap) -> None:
        """Take over what all ranks changed in some rows, (ranks, rows, size)."""
        overlap = compute_overlap(self._frequencies[chosen] * (step - self._met_at[chosen]))
        self._agreed[chosen] += add_up(changes.unbind(), overlap.to(changes)[:, None])
        self._matrix[self._find(chosen)] = self._agreed[chosen]
        self._met_at[chosen] = step

    def _find(self, chosen: slice) -> slice | torch.Tensor:
        return chosen if self._order is None else self._order[chosen]


class RankExchange:
    """Brings together what the ranks learned: the changes of each row are added up.

    Frequent words meet often and rare ones seldom, so that few words travel and none changes much between two meetings. Rows of
    n-grams meet in the same way, by their own frequency.

    Args:
        model: What learns; its words stand in order of frequency.
        shares: How often each word is trained on, as a share of the text's tokens, (words,).
        accelerator: The ranks.
        steps_per_sync: Steps between two meetings of the most frequent words.
        tokens_per_step: Tokens of a rank in a step.
        step: Steps that were taken before.
    """

    FIRST_WORDS, GROWTH = 2_000, 2
    CURVATURE = 0.3
    """After n updates at a rate r, changes of two ranks overlap by 1 - exp(-0.3 r n). Chosen by trial, at a rate of 0.05: with
    0 two ranks learn too much, so that four diverge; with 1 they learn too little."""

    def __init__(
        self,
        model: StaticEmbeddingForPreTraining,
        shares: np.ndarray,
        accelerator: Accelerator,
        steps_per_sync: int,
        tokens_per_step: int,
        step: int = 0,
    ) -> None:
        self._ranks, self._steps_per_sync = accelerator.num_processes, steps_per_sync
        self._tokens_per_step = tokens_per_step * self._ranks
        self._channel = open_channel(accelerator, model.input_embeddings.device)
        kept = torch.from_numpy(shares)
        noise = model.noise[: len(kept)].double().cpu()
        draws = model.config.num_negatives * kept.sum() * noise / noise.sum()
        self._tables = [_Table(model.input_embeddings, kept, step), _Table(model.output_embeddings, kept + draws, step)]
        if model.config.num_buckets:
            starts, ngrams = model.list_ngrams()
            of_each = np.bincount(ngrams, np.repeat(shares, np.diff(starts)), minlength=model.config.num_buckets)
            order = np.argsort(-of_each, kind="stable")[: np.count_nonzero(of_each)]
            self._tables.append(_Table(model.ngram_embeddings, torch.from_numpy(of_each), step, torch.from_numpy(order)))

    @torch.no_grad()
    def run(self, step: int, rate: float, *, everything: bool) -> None:
        """Meet, if a meeting is due.

        Args:
            step: Steps that were taken.
            rate: The learning rate.
            everything: Whether all rows meet now.
        """

        def compute_overlap(updates_per_token: torch.Tensor) -> torch.Tensor:
            return -torch.expm1(-self.CURVATURE * rate * self._tokens_per_step * updates_per_token)

        segments = []
        for table in self._tables:
            due = table.count if everything else self.count_due_rows(step, table.count)
            segments += [(table, chosen, (chosen.stop - chosen.start) * table.size) for chosen in table.list_segments(due)]
        while segments:
            # As many as fit in a block travel together: each journey costs the ranks a wait for the slowest.
            ends = np.cumsum([numbers for *_, numbers in segments])
            travelling = max(1, int(np.searchsorted(ends, BLOCK, side="right")))
            self._meet(segments[:travelling], step, compute_overlap)
            segments = segments[travelling:]

    def _meet(self, segments: list[tuple[_Table, slice, int]], step: int, compute_overlap: Overlap) -> None:
        lengths = [numbers for *_, numbers in segments]
        block = self._channel.get_block(sum(lengths))
        for (table, chosen, _), out in zip(segments, block.split(lengths), strict=True):
            table.put_changes(chosen, out.view(-1, table.size))
        changes = self._channel.exchange(sum(lengths))
        for (table, chosen, _), parts in zip(segments, changes.split(lengths, dim=1), strict=True):
            table.agree(chosen, parts.reshape(len(parts), -1, table.size), step, compute_overlap)

    def count_due_rows(self, step: int, num_rows: int) -> int:
        """How many of the most frequent rows meet after a step."""
        meeting, rest = divmod(step, self._steps_per_sync)
        if rest or meeting == 0:
            return 0
        rows = self.FIRST_WORDS
        while rows < num_rows and meeting % self.GROWTH == 0:
            rows, meeting = rows * self.GROWTH, meeting // self.GROWTH
        return min(rows, num_rows)


__all__ = ["RankExchange", "add_up", "gather_texts", "open_channel"]

"""A frozen encoder runs once: its states on disk, in a file of `datasets` that is mapped and not read.

Legend: rows, length (states of a row), hidden, outputs.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from hf_genext.batching import EncodedPairs, EncodedRows
from hf_genext.genext.configuration_conditioners_genext import get_states_size

logger = logging.getLogger(__name__)

Collator = Callable[[list[dict[str, Any]]], dict[str, Any]]


class StateFile:
    """The states of rows in a file, mapped into memory.

    Args:
        path: The file.
        places: Where each row stands in it, (rows,).
        hidden_size: Width of the states.
    """

    def __init__(self, path: Path, places: np.ndarray, hidden_size: int) -> None:
        import datasets

        self.path, self._places, self._hidden_size = path, places, hidden_size
        self._mapped = datasets.Dataset.from_file(str(path))  # Keeps the mapping open.
        chunks = self._mapped.data.column("states").chunks
        # Views of the file, through which a row is read without a copy of any other.
        self._values = [chunk.values.to_numpy(zero_copy_only=True) for chunk in chunks]
        self._offsets = [chunk.offsets.to_numpy(zero_copy_only=True) for chunk in chunks]
        self._ends = np.cumsum([len(chunk) for chunk in chunks])

    def __getitem__(self, index: int) -> np.ndarray:
        """The states of one row, (length, hidden)."""
        place = int(self._places[index])
        chunk = int(np.searchsorted(self._ends, place, side="right"))
        place -= int(self._ends[chunk - 1]) if chunk else 0
        start, end = self._offsets[chunk][place : place + 2]
        return self._values[chunk][start:end].reshape(-1, self._hidden_size)

    def count_numbers(self) -> int:
        """Numbers in the file."""
        return sum(map(len, self._values))


class CachedStates(Dataset):
    """Rows in which the states that frozen encoders gave stand in place of what they read.

    Args:
        rows: The rows themselves, asked for the rest.
        files: The states of the one condition; of several that are fused those of each by its name.
        without: The inputs that are not asked for.

    Attributes:
        files: As given.
        lengths: As the rows have them.
    """

    def __init__(
        self, rows: EncodedPairs | EncodedRows, files: StateFile | Mapping[str, StateFile], without: Collection[str]
    ) -> None:
        self._rows, self.files, self._without = rows, files, frozenset(without)
        self.lengths = rows.lengths

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One row: `condition_states` (length, hidden), of several a dictionary, and what else the row has."""
        row: dict[str, Any] = self._rows.get_row(index, self._without)
        if isinstance(self.files, StateFile):
            return {"condition_states": self.files[index], **row}
        return {"condition_states": {name: file[index] for name, file in self.files.items()}, **row}


def cache_states(
    model: PreTrainedModel,
    rows: EncodedPairs | EncodedRows,
    collator: Collator,
    *,
    processor: Any = None,
    folder: str | os.PathLike[str] | None = None,
    batch_size: int = 64,
    autocast: torch.dtype | None = None,
) -> CachedStates:
    """Run frozen encoders over rows, or find what they gave before.

    Each encoder has a file, which is named by what its states depend on: its weights and configuration, the processor's
    settings, the kind of number, and what it reads of the rows. So another encoder, or other rows, never meet it. What is not
    frozen, as labels' embeddings, runs in every step as ever, and condition dropout takes states away as it does conditions.

    The encoder reads each row without padding. In a batch that is padded to another length, or has another number of rows, the
    same row's states can differ in their last bits, since floating-point sums are then taken in another order; this is all in
    which a training with the cache differs from one without.

    Args:
        model: A model with a condition that is read by a frozen pretrained encoder.
        rows: The rows.
        collator: Makes batches of them.
        processor: What turned conditions into rows.
        folder: Where the files lie; left out, `genext_states` in the cache folder of `datasets`.
        batch_size: Rows that an encoder reads at once.
        autocast: The kind of number of mixed precision, where the training has it.

    Returns:
        The rows with states in place of what the frozen encoders read, for the same collator.

    Raises:
        ValueError: if no condition is read by a frozen pretrained encoder.
    """
    import datasets

    conditioners = find_frozen_conditioners(model)
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "genext_states" if folder is None else Path(folder)
    # The order of lengths, so that batches need no padding.
    order = np.lexsort((np.arange(len(rows)), rows.lengths[:, 0]))
    cuts = list(_cut_by_length(rows.lengths[order, 0], batch_size))
    places = np.empty(len(rows), dtype=np.int64)
    places[order] = np.arange(len(rows))
    files, read = {}, set()
    for name, conditioner in conditioners.items():
        read.update(conditioner.input_names)
        path = folder / f"{compute_fingerprint(conditioner, rows, processor, autocast)}.arrow"
        if path.is_file():
            logger.info("States of %s are there already: %s", _describe(conditioner), path)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            others = set(model.encoder.conditioner.input_names) - set(conditioner.input_names)
            batches = ([rows.get_row(int(index), others) for index in order[cut]] for cut in cuts)
            _write(path, _run(conditioner, batches, collator, autocast))
            logger.info("States of %s over %s rows are in %s", _describe(conditioner), f"{len(rows):,}", path)
        files[name] = StateFile(path, places, get_states_size(conditioner.config))
    is_fused = hasattr(model.encoder.conditioner, "conditioners")
    return CachedStates(rows, files if is_fused else files[""], read)


def find_frozen_conditioners(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The frozen pretrained encoders of a model by the names of their conditions; of a single condition the name is empty.

    Raises:
        ValueError: if there is none.
    """
    conditioner = model.encoder.conditioner
    parts = dict(getattr(conditioner, "conditioners", {"": conditioner}).items())
    frozen = {name: part for name, part in parts.items() if getattr(part, "is_frozen", False)}
    if not frozen:
        reads = ", ".join(f"{name or 'the condition'} by {_describe(part)}" for name, part in parts.items())
        raise ValueError(
            "States can only be kept where they are the same in every epoch, which those of a frozen pretrained encoder are. "
            f"This model has none (it reads {reads}). Build it with a pretrained encoder and freeze_encoder=True, or leave the "
            "cache out."
        )
    return frozen


def refuse_trained_encoders(model: PreTrainedModel) -> None:
    """Raise where something inside a frozen encoder is trained after all, such as an adapter.

    Raises:
        ValueError: naming it.
    """
    for conditioner in find_frozen_conditioners(model).values():
        trained = [name for name, parameter in conditioner.named_parameters() if parameter.requires_grad]
        if trained:
            raise ValueError(
                f"{trained[0]} of {_describe(conditioner)} is trained, but its states are kept as they were. Leave the frozen "
                "encoder out of the adapter's target_modules, or do without the cache."
            )


def _describe(conditioner: nn.Module) -> str:
    return type(getattr(conditioner, "model", conditioner)).__name__


def compute_fingerprint(
    conditioner: nn.Module, rows: EncodedPairs | EncodedRows, processor: Any = None, autocast: torch.dtype | None = None
) -> str:
    """What the states depend on, as a hash: weights, configuration, settings of the processor, kind of number, and rows."""
    digest = hashlib.sha256(f"genext states 2 {autocast}".encode())
    for name, tensor in sorted(conditioner.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    configuration = conditioner.config.to_dict()
    digest.update(json.dumps(configuration, sort_keys=True, default=str).encode())
    if processor is not None:
        digest.update(processor.to_json_string().encode())
    for part in rows.list_conditions(conditioner.input_names):
        digest.update(part)
    return digest.hexdigest()[:32]


@torch.inference_mode()
def _run(
    conditioner: nn.Module, batches: Iterable[list[dict[str, Any]]], collator: Collator, autocast: torch.dtype | None
) -> Iterator[list[np.ndarray]]:
    """The real states of each row, (length, hidden), batch by batch; none of a row that lacks the condition."""
    conditioner.eval()
    device = next(conditioner.parameters()).device
    kind = conditioner.dtype if conditioner.dtype in (torch.float16, torch.float64) else torch.float32  # NumPy has no bfloat16.
    none = torch.zeros(0, get_states_size(conditioner.config), dtype=kind).numpy()
    for batch in batches:
        states = [none] * len(batch)
        given = [place for place, row in enumerate(batch) if _is_there(row.get(conditioner.main_input))]
        if given:
            inputs = collator([batch[place] for place in given])
            inputs = {name: value.to(device) for name, value in inputs.items() if name in conditioner.input_names}
            with torch.autocast(device.type, autocast, enabled=autocast is not None):
                outputs = conditioner(**inputs)
            values = outputs.states.to(kind).cpu().numpy()
            mask = np.ones(values.shape[:2], dtype=bool) if outputs.mask is None else outputs.mask.bool().cpu().numpy()
            for place, row, real in zip(given, values, mask, strict=True):
                states[place] = row[real]
        yield states


def _is_there(condition: np.ndarray | None) -> bool:
    """Whether a row has a condition: its tokens, or numbers that do not begin with what is none."""
    return condition is not None and condition.size > 0 and not np.isnan(condition.flat[0])


def _cut_by_length(lengths: np.ndarray, batch_size: int) -> Iterator[slice]:
    """Batches of rows of one length, where the rows stand in the order of their lengths, (rows,)."""
    start = 0
    for end in range(1, len(lengths) + 1):
        if end == len(lengths) or end - start == batch_size or lengths[end] != lengths[start]:
            yield slice(start, end)
            start = end


def _write(path: Path, batches: Iterator[list[np.ndarray]]) -> None:
    """Write states batch by batch; the file is there whole or not at all."""
    import datasets
    from datasets.arrow_writer import ArrowWriter

    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    first = next(batches)
    features = datasets.Features({"states": datasets.Sequence(datasets.Value(str(first[0].dtype)))})
    try:
        with ArrowWriter(path=str(unfinished), features=features) as writer:
            for states in itertools.chain([first], batches):
                writer.write_batch({"states": [row.ravel() for row in states]})
            writer.finalize()
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


__all__ = [
    "CachedStates",
    "StateFile",
    "cache_states",
    "compute_fingerprint",
    "find_frozen_conditioners",
    "refuse_trained_encoders",
]

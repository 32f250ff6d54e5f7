"""A frozen encoder runs once: its states on disk, in a file of `datasets` that is mapped and not read.

Legend: rows, length (states of a row), hidden, outputs.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from hf_genext.batching import EncodedPairs, EncodedRows

logger = logging.getLogger(__name__)


class CachedStates(Dataset):
    """Rows whose condition is the states that a frozen encoder gave for it.

    Args:
        rows: The rows themselves, asked for their labels.
        path: The file of the states, in the order of `places`.
        places: Where each row stands in it, (rows,).
        hidden_size: Width of the states.

    Attributes:
        lengths: As the rows have them.
    """

    def __init__(self, rows: EncodedPairs | EncodedRows, path: Path, places: np.ndarray, hidden_size: int) -> None:
        import datasets

        self._rows, self._places, self._hidden_size = rows, places, hidden_size
        self.path = path
        self.lengths = rows.lengths
        self._mapped = datasets.Dataset.from_file(str(path))  # Keeps the mapping open.
        chunks = self._mapped.data.column("states").chunks
        # Views of the file, through which a row is read without a copy of any other.
        self._values = [chunk.values.to_numpy(zero_copy_only=True) for chunk in chunks]
        self._offsets = [chunk.offsets.to_numpy(zero_copy_only=True) for chunk in chunks]
        self._ends = np.cumsum([len(chunk) for chunk in chunks])

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """One row: `condition_states` (length, hidden), their mask (length,), all 1, and `labels`."""
        labels = self._rows.get_labels(index)
        place = int(self._places[index])
        chunk = int(np.searchsorted(self._ends, place, side="right"))
        place -= int(self._ends[chunk - 1]) if chunk else 0
        start, end = self._offsets[chunk][place : place + 2]
        states = self._values[chunk][start:end].reshape(-1, self._hidden_size)
        return {"condition_states": states, "condition_states_mask": np.ones(len(states), dtype=np.int64), "labels": labels}


def cache_states(
    model: PreTrainedModel,
    rows: EncodedPairs | EncodedRows,
    collator: Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]],
    *,
    processor: Any = None,
    folder: str | os.PathLike[str] | None = None,
    batch_size: int = 64,
) -> CachedStates:
    """Run a frozen encoder over rows, or find what it gave before.

    The file is named by what it depends on: the encoder's weights and configuration, the processor's settings, and the rows. So
    another encoder, or other rows, never meet it.

    Args:
        model: A model whose one condition is read by a frozen pretrained encoder.
        rows: The rows.
        collator: Makes batches of them.
        processor: What turned conditions into rows.
        folder: Where the file lies; left out, `genext_states` in the cache folder of `datasets`.
        batch_size: Rows that the encoder reads at once.

    Returns:
        The rows with states in place of their condition, for the same collator.

    Raises:
        ValueError: if the encoder is not frozen, or there are several conditions.
    """
    import datasets

    conditioner = find_frozen_conditioner(model)
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "genext_states" if folder is None else Path(folder)
    path = folder / f"{compute_fingerprint(conditioner, rows, processor)}.arrow"
    order = np.lexsort((np.arange(len(rows)), rows.lengths[:, 0]))
    if path.is_file():
        logger.info("States of the frozen encoder are there already: %s", path)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        batches = _run(conditioner, rows, order, collator, batch_size)
        _write(path, batches)
        logger.info("States of the frozen encoder over %s rows are in %s", f"{len(rows):,}", path)
    places = np.empty(len(rows), dtype=np.int64)
    places[order] = np.arange(len(rows))
    return CachedStates(rows, path, places, model.encoder.states_size)


def find_frozen_conditioner(model: PreTrainedModel) -> nn.Module:
    """The frozen encoder of a model that has no other condition.

    Raises:
        ValueError: if it is not so.
    """
    conditioner = model.encoder.conditioner
    if not getattr(conditioner, "is_frozen", False):
        raise ValueError(
            "Only the states of one frozen pretrained encoder can be kept: give one text, image or audio condition with a "
            "pretrained encoder, freeze_encoder=True, and no condition_dropout; or do without the cache."
        )
    return conditioner


def compute_fingerprint(conditioner: nn.Module, rows: EncodedPairs | EncodedRows, processor: Any = None) -> str:
    """What the states depend on, as a hash: weights, configuration, settings of the processor, and rows."""
    digest = hashlib.sha256(b"genext states 1")
    for name, tensor in sorted(conditioner.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    configuration = conditioner.config.to_dict()
    digest.update(json.dumps(configuration, sort_keys=True, default=str).encode())
    if processor is not None:
        digest.update(processor.to_json_string().encode())
    for part in rows.list_conditions():
        digest.update(part)
    return digest.hexdigest()[:32]


@torch.inference_mode()
def _run(
    conditioner: nn.Module,
    rows: EncodedPairs | EncodedRows,
    order: np.ndarray,
    collator: Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]],
    batch_size: int,
) -> Iterator[list[np.ndarray]]:
    """The real states of each row, (length, hidden), batch by batch in an order."""
    conditioner.eval()
    device = next(conditioner.parameters()).device
    names = set(conditioner.input_names)
    for start in range(0, len(order), batch_size):
        batch = collator([rows[int(index)] for index in order[start : start + batch_size]])
        outputs = conditioner(**{name: value.to(device) for name, value in batch.items() if name in names})
        states = outputs.states.float().cpu().numpy()
        mask = np.ones(states.shape[:2], dtype=bool) if outputs.mask is None else outputs.mask.bool().cpu().numpy()
        yield [row[real] for row, real in zip(states, mask, strict=True)]


def _write(path: Path, batches: Iterator[list[np.ndarray]]) -> None:
    """Write states batch by batch; the file is there whole or not at all."""
    import datasets
    from datasets.arrow_writer import ArrowWriter

    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    features = datasets.Features({"states": datasets.Sequence(datasets.Value("float32"))})
    try:
        with ArrowWriter(path=str(unfinished), features=features) as writer:
            for states in batches:
                writer.write_batch({"states": [row.ravel() for row in states]})
            writer.finalize()
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


__all__ = ["CachedStates", "cache_states", "compute_fingerprint", "find_frozen_conditioner"]

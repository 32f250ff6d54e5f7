"""Training speed of `GenextTrainer` beside Transformers' `Seq2SeqTrainer` and a bare loop, in one process.

    python benchmarks/training.py                        # both cores, about 45 minutes
    taskset -c 0 python benchmarks/training.py --num_threads 1

The same model (that of recipes/g2p/config.yaml), the same rows, the same validation words. First each contender's real target
tokens per second, in rounds that take turns; then a short search of each one's learning rate; then each trains for equal time
with its best one. Writes benchmarks/results/training.json and the tables in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), *(folder for folder in sys.path if Path(folder).resolve() != ROOT)]

import torch
import transformers
from torch import nn
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, TrainerCallback, set_seed

from benchmarks.report import write_tables
from hf_genext.batching import ConditionalCollator, EncodedPairs
from hf_genext.data import encode_pairs, read_pairs, split_by_source
from hf_genext.devices import describe_device, has_compiler, has_fast_bfloat16, keep_freed_memory
from hf_genext.training import GenextTrainer, GenextTrainingArguments
from recipes.arguments import parse_settings
from recipes.g2p.prepare_data import prepare_data
from recipes.train_conditional import DataSettings, ModelSettings, RunSettings, load_model

SMOOTHING = 0.1
RESULTS = ROOT / "benchmarks" / "results" / "training.json"


@dataclass
class Task:
    """What every contender gets."""

    settings: ModelSettings
    processor: Any
    train_pairs: Any
    train: EncodedPairs
    validation: EncodedPairs

    def build_model(self) -> nn.Module:
        """The same new model each time."""
        set_seed(1)
        return load_model(self.settings, self.train_pairs, processor=self.processor)[0]


class Meter(TrainerCallback):
    """Counts real target tokens at each step, and stops so many seconds after the steps of the warm-up."""

    def __init__(
        self, collate: Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]], seconds: float, warm_up: int
    ) -> None:
        self._collate, self._seconds, self._warm_up = collate, seconds, warm_up
        self._marks: list[tuple[float, int]] = []
        self._tokens = 0
        self._started_at = 0.0

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate, and count."""
        batch = self._collate(rows)
        self._tokens += int(batch["labels"].ne(-100).sum())
        return batch

    def start(self) -> None:
        """Begin the clock."""
        self._started_at = time.monotonic()

    def count_step(self) -> bool:
        """Note a step; `True` when the time is over."""
        now = time.monotonic() - self._started_at
        self._marks.append((now, self._tokens))
        return len(self._marks) > self._warm_up and now >= self._seconds + (
            self._marks[self._warm_up - 1][0] if self._warm_up else 0.0
        )

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin the clock."""
        self.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Note a step."""
        control.should_training_stop |= self.count_step()
        return control

    def read(self) -> tuple[float, float, float]:
        """Real target tokens and steps per second after the warm-up, and the seconds that the warm-up took longer than that."""
        marks = self._marks[self._warm_up :]
        seconds = marks[-1][0] - marks[0][0]
        steps_per_second = (len(marks) - 1) / seconds
        return (marks[-1][1] - marks[0][1]) / seconds, steps_per_second, marks[0][0] - self._warm_up / steps_per_second


class Contender:
    """One way to train."""

    learning_rates: tuple[float, ...] = (5e-4, 1e-3, 2e-3)

    def __init__(self, name: str, **options: Any) -> None:
        self.name, self.options = name, options

    def run(self, task: Task, *, seconds: float, warm_up: int, learning_rate: float, max_steps: int) -> tuple[nn.Module, Meter]:
        """Train for a time, with a schedule of `max_steps` steps where they are given; returns the model and its meter."""
        model = task.build_model()
        meter = Meter(self._build_collate(model), seconds, warm_up)
        with tempfile.TemporaryDirectory() as folder:
            arguments = {
                "output_dir": folder,
                "learning_rate": learning_rate,
                "lr_scheduler_type": "linear",
                "warmup_steps": 0.03,
                "label_smoothing_factor": SMOOTHING,
                "weight_decay": 0.1,
                "adam_beta2": 0.98,
                "max_steps": max_steps,
                "logging_strategy": "no",
                "save_strategy": "no",
                "report_to": "none",
                "disable_tqdm": True,
                "remove_unused_columns": False,
                "use_cpu": True,
                "seed": 1,
            }
            trainer = self._build_trainer(model, arguments, task, meter)
            trainer.train()
        return model, meter

    def _build_collate(self, model: nn.Module) -> Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]:
        return ConditionalCollator(0, model.prepare_decoder_input_ids_from_labels)

    def _build_trainer(self, model: nn.Module, arguments: dict[str, Any], task: Task, meter: Meter) -> Any:
        args = Seq2SeqTrainingArguments(**{**arguments, "per_device_train_batch_size": 64, **self.options})
        rows = Rows(task.train)
        return Seq2SeqTrainer(model=model, args=args, train_dataset=rows, data_collator=meter.collate, callbacks=[meter])


class Rows(torch.utils.data.Dataset):
    """Token rows, with the column that `group_by_length` sorts by."""

    def __init__(self, pairs: EncodedPairs) -> None:
        self._pairs = pairs
        self.column_names = ["input_ids", "labels", "length"]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._pairs)

    def __getitem__(self, index: int | str) -> Any:
        """One row, or the lengths of all."""
        if index == "length":
            return self._pairs.lengths.sum(axis=1).tolist()
        return self._pairs[index]


class Ours(Contender):
    """`GenextTrainer`."""

    def _build_trainer(self, model: nn.Module, arguments: dict[str, Any], task: Task, meter: Meter) -> Any:
        options = dict(self.options)
        if "muon_learning_rate" in options:
            # The rate that is searched is Muon's; AdamW's keeps the recipe's ratio to it.
            options["muon_learning_rate"] = arguments["learning_rate"]
            arguments["learning_rate"] *= 0.25
            arguments["adam_epsilon"] = 1e-10
        args = GenextTrainingArguments(**{**arguments, **options})
        trainer = GenextTrainer(model=model, args=args, train_dataset=task.train, data_collator=meter.collate)
        trainer.add_callback(meter)
        return trainer


class BareLoop(Contender):
    """The loop that one writes by hand: random batches of 64, AdamW, autocast."""

    def run(self, task: Task, *, seconds: float, warm_up: int, learning_rate: float, max_steps: int) -> tuple[nn.Module, Meter]:
        """Train for a time."""
        model = task.build_model().train()
        meter = Meter(self._build_collate(model), seconds, warm_up)
        optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.1)
        schedule = transformers.get_linear_schedule_with_warmup(optimizer, round(0.03 * max_steps), max_steps)
        meter.start()
        for batch in itertools.islice(self._batches(task.train, meter), max_steps):
            labels = batch.pop("labels")
            with torch.autocast("cpu", torch.bfloat16, enabled=self.options["bf16"]):
                logits = model(**batch).logits
            loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), label_smoothing=SMOOTHING)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            if meter.count_step():
                break
        return model, meter

    def _batches(self, rows: EncodedPairs, meter: Meter) -> Iterator[dict[str, torch.Tensor]]:
        generator = torch.Generator().manual_seed(1)
        while True:
            order = torch.randperm(len(rows), generator=generator).tolist()
            for start in range(0, len(order), 64):
                yield meter.collate(rows.__getitems__(order[start : start + 64]))


@torch.no_grad()
def compute_validation_loss(model: nn.Module, rows: EncodedPairs) -> float:
    """Nats per target token, in float32, without smoothing."""
    model.eval()
    collate = ConditionalCollator(0)
    order = sorted(range(len(rows)), key=lambda row: rows.lengths[row].tolist())
    total = tokens = 0.0
    with torch.compiler.set_stance("force_eager"):
        for start in range(0, len(order), 256):
            batch = collate(rows.__getitems__(order[start : start + 256]))
            count = int(batch["labels"].ne(-100).sum())
            total, tokens = total + float(model(**batch, use_cache=False).loss) * count, tokens + count
    return total / tokens


def load_task() -> Task:
    """The recipe's model and data."""
    kinds = [ModelSettings, DataSettings, RunSettings, GenextTrainingArguments]
    config = str(ROOT / "recipes" / "g2p" / "config.yaml")
    settings, data, *_ = parse_settings(kinds, [config, "--report_to", "none"])
    os.chdir(ROOT)
    file = prepare_data(Path(tempfile.mkdtemp()))["train_file"]
    pairs, _ = read_pairs(
        file, source_column=data.source_column, target_column=data.target_column, column_names=data.column_names
    )
    train, validation = split_by_source(pairs, int(data.validation_size), seed=data.validation_seed)
    _, processor = load_model(settings, train)
    lengths = {"max_source_length": settings.max_source_length, "max_target_length": settings.max_target_length}
    encoded = [encode_pairs(part, processor, **lengths)[0] for part in (train, validation)]
    return Task(settings, processor, train, *encoded)


def build_contenders() -> list[Contender]:
    """Those who run, the reference first."""
    bf16 = has_fast_bfloat16()
    muon = Ours(
        "GenextTrainer",
        max_tokens_per_batch=2000,
        muon_learning_rate=0.0,
        precision="auto",
        compile_layers="yes" if has_compiler() else "no",
    )
    muon.learning_rates = (0.01, 0.02, 0.04)
    contenders = [
        Contender("Seq2SeqTrainer, random batches of 64"),
        Contender("Seq2SeqTrainer, random batches of 64, bf16", bf16=bf16),
        Contender("Seq2SeqTrainer, group_by_length, bf16", bf16=bf16, train_sampling_strategy="group_by_length"),
        BareLoop("bare loop, random batches of 64, bf16", bf16=bf16),
        Ours("GenextTrainer, AdamW, not compiled", max_tokens_per_batch=1000, precision="auto"),
        muon,
    ]
    return contenders


def profile(task: Task, contender: Contender) -> dict[str, float]:
    """Where the time of a step goes: shares of forward and backward matrix products, optimizer, loader, and the rest."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    with record(activities=[ProfilerActivity.CPU]) as recorded:
        contender.options["compile_layers"] = "no"
        contender.run(task, seconds=15.0, warm_up=0, learning_rate=0.02, max_steps=40)
    times: dict[str, float] = {}
    for event in recorded.key_averages():
        times[event.key] = times.get(event.key, 0.0) + event.self_cpu_time_total
    total = sum(times.values())
    products = sum(t for key, t in times.items() if key in ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"))
    return {
        "matrix products": products / total,
        **dict(sorted(((k, t / total) for k, t in times.items()), key=lambda p: -p[1])[:8]),
    }


def count_flops_per_token(task: Task) -> float:
    """Multiplications and additions of forward and backward pass per real target token, on a sample of rows."""
    from torch.utils.flop_counter import FlopCounterMode

    model = task.build_model().train()
    rows = task.train.__getitems__(list(range(0, len(task.train), len(task.train) // 64))[:64])
    rows = [row for row in rows if len(row["input_ids"]) == len(rows[0]["input_ids"])] or rows[:1]
    batch = ConditionalCollator(0)(rows)
    with FlopCounterMode(display=False) as counter:
        model(**batch, use_cache=False).loss.backward()
    return counter.get_total_flops() / int(batch["labels"].ne(-100).sum())


def main() -> None:
    """Run; see the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3, help="Rounds of the speed measurement; the median counts.")
    parser.add_argument("--round_seconds", type=float, default=15.0)
    parser.add_argument("--search_seconds", type=float, default=60.0)
    parser.add_argument("--final_seconds", type=float, default=240.0)
    options = parser.parse_args()
    torch.set_num_threads(options.num_threads)
    keep_freed_memory()  # As GenextTrainer does; it holds for the whole process, so that all begin alike.
    task, contenders = load_task(), build_contenders()

    speeds: dict[str, list[tuple[float, float, float]]] = {contender.name: [] for contender in contenders}
    for _ in range(options.rounds):
        for contender in contenders:
            warm_up = 100 if contender.options.get("compile_layers") == "yes" else 10
            timing = {"seconds": options.round_seconds, "warm_up": warm_up}
            _, meter = contender.run(task, **timing, learning_rate=contender.learning_rates[1], max_steps=10**6)
            speeds[contender.name].append(meter.read())
            print(f"{contender.name:<46} {meter.read()[0]:8.0f} tokens/s", flush=True)

    rows: dict[str, dict[str, Any]] = {}
    for contender in contenders:
        tokens, steps, overhead = map(statistics.median, zip(*speeds[contender.name], strict=True))
        losses = {}
        # A search is too short for a compiler to pay: its rates hold for the compiled model as well.
        compiled, contender.options = contender.options, {**contender.options, "compile_layers": "no"}
        if not isinstance(contender, Ours):
            contender.options = compiled
        for rate in contender.learning_rates:
            max_steps = max(20, round(0.9 * steps * options.search_seconds))
            model, _ = contender.run(task, seconds=options.search_seconds, warm_up=0, learning_rate=rate, max_steps=max_steps)
            losses[rate] = compute_validation_loss(model, task.validation)
            print(f"{contender.name:<46} rate {rate:g}: {losses[rate]:.4f}", flush=True)
        contender.options = compiled
        rows[contender.name] = {
            "tokens_per_second": tokens,
            "steps_per_second": steps,
            "seconds_to_start": overhead,
            "tokens_per_second_rounds": [speed[0] for speed in speeds[contender.name]],
            "search": {str(rate): loss for rate, loss in losses.items()},
            "learning_rate": min(losses, key=losses.get),
        }
    for contender in contenders:
        row = rows[contender.name]
        started = time.monotonic()
        # The schedule ends with the time; what starting and compiling take is part of it.
        max_steps = round(row["steps_per_second"] * (options.final_seconds - row["seconds_to_start"]))
        model, _ = contender.run(
            task, seconds=options.final_seconds, warm_up=0, learning_rate=row["learning_rate"], max_steps=max_steps
        )
        row["seconds"] = time.monotonic() - started
        row["validation_loss"] = compute_validation_loss(model, task.validation)
        print(f"{contender.name:<46} {row['seconds']:.0f} s: {row['validation_loss']:.4f}", flush=True)

    reference = rows[contenders[0].name]["tokens_per_second"]
    for row in rows.values():
        row["ratio"] = row["tokens_per_second"] / reference
    flops = count_flops_per_token(task)
    ours = rows[contenders[-1].name]
    results = {
        "contenders": rows,
        "seconds_of_training": options.final_seconds,
        "mflop_per_target_token": flops / 1e6,
        "gflops_per_second": ours["tokens_per_second"] * flops / 1e9,
        "profile": profile(task, contenders[-1]),
        "num_threads": options.num_threads,
        "hardware": f"{describe_device(options.num_threads)}, bf16 units: {'yes' if has_fast_bfloat16() else 'no'}",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    write_tables()


if __name__ == "__main__":
    main()

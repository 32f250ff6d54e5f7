"""What it gives that a training on the CPU keeps the memory that it frees: target tokens per CPU second, with and without.

    OMP_NUM_THREADS=1 python benchmarks/allocator.py                # about 15 minutes on one core

The model and data of recipes/g2p/config.yaml, trained by `GenextTrainer` as that recipe trains it; and the same with room for
4,000 target tokens, as word pieces need, in place of some 45. Each training is a process of its own, since what an
allocator keeps is kept for all that follows; they take turns. Writes benchmarks/results/allocator.json and the table in
benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), *(folder for folder in sys.path if Path(folder).resolve() not in (ROOT, ROOT / "benchmarks"))]

RESULTS = ROOT / "benchmarks" / "results" / "allocator.json"
OWN_CHOICE = {"GLIBC_TUNABLES": "glibc.malloc.perturb=0"}
"""Changes nothing, and tells the trainer that whoever runs it has chosen for themselves."""

WARM_UP = 60
"""Steps, in which the layers are compiled."""


def train(num_tokens: int, steps: int) -> None:
    """Train in this process, and print what the steps after the warm-up took."""
    from transformers import TrainerCallback

    from benchmarks.training import load_task
    from hf_genext.batching import ConditionalCollator
    from hf_genext.devices import describe_device
    from hf_genext.training import GenextTrainer, GenextTrainingArguments

    task = load_task()
    model = task.build_model()
    if num_tokens:
        model.resize_token_embeddings(num_tokens, side="target")
    tokens, marks = [0], []
    pad = ConditionalCollator(0, model.prepare_decoder_input_ids_from_labels)

    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = pad(rows)
        tokens[0] += int(batch["labels"].ne(-100).sum())
        return batch

    class Marks(TrainerCallback):
        """Notes what was used until the first and the last step that count."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Note it."""
            used = resource.getrusage(resource.RUSAGE_SELF)
            if state.global_step in (WARM_UP, WARM_UP + steps):
                marks.append([used.ru_utime, used.ru_stime, used.ru_minflt, tokens[0]])

    with tempfile.TemporaryDirectory() as folder:
        args = GenextTrainingArguments(
            output_dir=folder,
            max_steps=WARM_UP + steps,
            max_tokens_per_batch=2000,
            learning_rate=5e-3,
            muon_learning_rate=0.02,
            warmup_steps=0.03,
            label_smoothing_factor=0.1,
            precision="auto",
            compile_layers="auto",
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            seed=1,
        )
        trainer = GenextTrainer(model=model, args=args, train_dataset=task.train, data_collator=collate, callbacks=[Marks()])
        trainer.train()
    user, system, faults, seen = (end - begin for begin, end in zip(*marks, strict=True))
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found = {"tokens_per_cpu_second": seen / (user + system), "system_share": system / (user + system)}
    print(json.dumps({**found, "page_faults_per_step": faults / steps, "peak_bytes": largest, "hardware": describe_device()}))


def main() -> None:
    """Run; see the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="Rounds that take turns; the median counts.")
    parser.add_argument("--steps", type=int, default=120, help="Steps that count in each training.")
    parser.add_argument("--train", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train is not None:
        return train(options.train, options.steps)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    sizes, ways = {"45 target tokens": 0, "4,000 target tokens": 4000}, {"kept": {}, "given back": OWN_CHOICE}
    rounds: dict[str, dict[str, list[dict[str, Any]]]] = {size: {way: [] for way in ways} for size in sizes}
    for _ in range(options.rounds):
        for size, num_tokens in sizes.items():
            for way, variables in ways.items():
                command = [sys.executable, __file__, "--train", str(num_tokens), "--steps", str(options.steps)]
                done = subprocess.run(command, env=environment | variables, stdout=subprocess.PIPE, text=True, check=True)
                rounds[size][way].append(json.loads(done.stdout.splitlines()[-1]))
                print(f"{size:<20} {way:<11} {rounds[size][way][-1]['tokens_per_cpu_second']:8.0f} tokens/CPU s", flush=True)
    hardware = rounds["45 target tokens"]["kept"][0]["hardware"]
    results: dict[str, Any] = {"hardware": hardware, "steps": options.steps, "rounds": options.rounds, "sizes": {}}
    for size, found in rounds.items():
        names = ("tokens_per_cpu_second", "system_share", "page_faults_per_step", "peak_bytes")
        medians = {way: {name: statistics.median(row[name] for row in found[way]) for name in names} for way in ways}
        ratios = [
            kept["tokens_per_cpu_second"] / given["tokens_per_cpu_second"]
            for kept, given in zip(found["kept"], found["given back"], strict=True)
        ]
        results["sizes"][size] = {**medians, "ratio": statistics.median(ratios), "ratios": ratios}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")

    from benchmarks.report import write_tables

    write_tables()
    return None


if __name__ == "__main__":
    main()

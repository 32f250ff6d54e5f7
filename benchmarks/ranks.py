"""Target tokens per second of two ranks beside one, each with one thread, on the model of recipes/g2p/config.yaml.

python benchmarks/ranks.py          # on a machine with two idle cores
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), *(folder for folder in sys.path if Path(folder).resolve() != ROOT)]


def measure(seconds: float, *, bucket_mb: int = 25) -> None:
    """Train for some seconds as one of the ranks; rank 0 prints the tokens per second of all."""
    import torch
    from transformers import TrainerCallback

    from benchmarks.training import load_task
    from hf_genext.batching import ConditionalCollator
    from hf_genext.training import GenextTrainer, GenextTrainingArguments

    torch.set_num_threads(1)
    task = load_task()
    model = task.build_model()
    collate = ConditionalCollator(0, model.prepare_decoder_input_ids_from_labels)
    marks: list[tuple[float, int]] = []
    tokens = 0

    class Clock(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):  # noqa: ANN001, ANN003, ANN202
            marks.append((time.monotonic(), tokens))
            # Every rank must take the same number of steps: rank 0's clock decides.
            over = torch.tensor([float(marks[-1][0] - marks[0][0] > seconds + 5)])
            if args.world_size > 1:
                torch.distributed.broadcast(over, src=0)
            control.should_training_stop = bool(over)
            return control

    def count(rows):  # noqa: ANN001, ANN202
        nonlocal tokens
        batch = collate(rows)
        tokens += int(batch["labels"].ne(-100).sum())
        return batch

    with tempfile.TemporaryDirectory() as folder:
        args = GenextTrainingArguments(
            output_dir=folder,
            max_steps=10**6,
            learning_rate=5e-3,
            muon_learning_rate=0.02,
            max_tokens_per_batch=2000,
            label_smoothing_factor=0.1,
            precision="auto",
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            ddp_bucket_cap_mb=bucket_mb,
        )
        GenextTrainer(model=model, args=args, train_dataset=task.train, data_collator=count, callbacks=[Clock()]).train()
    steady = [mark for mark in marks if mark[0] - marks[0][0] >= 5]
    mine = torch.tensor([(steady[-1][1] - steady[0][1]) / (steady[-1][0] - steady[0][0])])
    if args.world_size > 1:
        torch.distributed.all_reduce(mine)
    if args.process_index == 0:
        print(f"RESULT {mine.item()}", flush=True)


def main() -> None:
    """Take turns between one rank and two; medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--as_rank", action="store_true")
    options = parser.parse_args()
    if options.as_rank:
        measure(options.seconds)
        return
    speeds: dict[int, list[float]] = {1: [], 2: []}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
    for _ in range(options.rounds):
        for count in speeds:
            launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(count), "--master_port", "29617"]
            command = [*launcher, str(Path(__file__).resolve()), "--as_rank", "--seconds", str(options.seconds)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr)
            found = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("RESULT")]
            speeds[count].append(float(found[0]))
            print(count, speeds[count][-1], flush=True)
    medians = {count: statistics.median(values) for count, values in speeds.items()}
    results = {
        "ranks": {
            str(count): {"tokens_per_second": speed, "ratio": speed / medians[1], "rounds": speeds[count]}
            for count, speed in medians.items()
        }
    }
    path = ROOT / "benchmarks" / "results" / "ranks.json"
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    from benchmarks.report import write_tables

    write_tables()


if __name__ == "__main__":
    main()

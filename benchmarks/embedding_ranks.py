"""Word vectors by two ranks beside one, each with one thread: words per second, WordSim-353 and SimLex-999.

python benchmarks/embedding_ranks.py out/english/english.txt     # on a machine with two idle cores
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), *(folder for folder in sys.path if Path(folder).resolve() != ROOT)]

METRICS = ("words_per_second", "wordsim353", "simlex999")


def main() -> None:
    """Take turns between one rank and two; medians of the speed, means of the scores over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--size", type=int, default=100)
    options = parser.parse_args()
    runs: dict[int, dict[str, list[float]]] = {count: {name: [] for name in METRICS} for count in (1, 2)}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1", "PYTHONPATH": str(ROOT)}
    for seed in options.seeds:
        for count in runs:
            with tempfile.TemporaryDirectory() as folder:
                launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
                settings = (
                    f"--output_dir {folder} --train_file {options.text} --split whitespace --lowercase true --num_threads 1"
                )
                settings += f" --num_train_epochs 1 --num_checkpoints 0 --hidden_size {options.size} --seed {seed}"
                command = [*launcher, str(ROOT / "recipes" / "train_embedding.py"), *settings.split()]
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
                if done.returncode:
                    sys.exit(done.stderr)
                metrics = json.loads((Path(folder) / "results.json").read_text(encoding="utf-8"))["metrics"]
            for name in METRICS:
                runs[count][name].append(metrics[name])
            print(count, seed, {name: values[-1] for name, values in runs[count].items()}, flush=True)
    rows = {}
    for count, values in runs.items():
        pairs = zip(values["words_per_second"], runs[1]["words_per_second"], strict=True)
        rows[str(count)] = {
            "words_per_second": statistics.median(values["words_per_second"]),
            "ratio": statistics.median(ours / one for ours, one in pairs),
            **{name: statistics.fmean(values[name]) for name in METRICS[1:]},
            "deviation": {name: statistics.stdev(values[name]) for name in METRICS[1:]} if len(options.seeds) > 1 else {},
            "rounds": values,
        }
    path = ROOT / "benchmarks" / "results" / "embedding_ranks.json"
    path.write_text(json.dumps({"size": options.size, "ranks": rows}, indent=2) + "\n", encoding="utf-8")
    from benchmarks.report import write_tables

    write_tables()


if __name__ == "__main__":
    main()

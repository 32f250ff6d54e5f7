"""What a row of a batch job costs, by how many there are: CPU milliseconds and peak memory of `recipes/generate.py`.

    accelerate launch recipes/train_conditional.py recipes/g2p/smoke.yaml --output_dir out/g2p-smoke
    python benchmarks/batch_jobs.py --model out/g2p-smoke --sizes 1000 10000 100000 1000000

Each job is a process of its own, from reading a parquet file of words to the joined file of answers; what a job of one row
costs (imports, opening the model; the median of three) is taken away. A tiny model, so that it does not hide what the job
itself costs. Results are stored after each job, and sizes that are stored already are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), *(folder for folder in sys.path if Path(folder).resolve() not in (ROOT, ROOT / "benchmarks"))]

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.report import write_tables
from hf_genext.devices import describe_device
from recipes.running import describe_versions

RESULTS = ROOT / "benchmarks" / "results" / "batch_jobs.json"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
MAX_NEW_TOKENS = 24


def write_words(path: Path, count: int) -> None:
    """A column of seeded words of three to twelve letters; the first ones are the same for every count."""
    random_words = random.Random(0)
    writer = pq.ParquetWriter(path, pa.schema({"word": pa.string()}))
    for start in range(0, count, 10_000):
        words = [
            "".join(random_words.choices(LETTERS, k=random_words.randint(3, 12))) for _ in range(min(10_000, count - start))
        ]
        writer.write_table(pa.table({"word": words}))
    writer.close()


def run_job(model: str, count: int) -> dict[str, float]:
    """CPU seconds and peak memory (MiB) of one job.

    Raises:
        RuntimeError: for a job that fails, or gives another number of rows.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder, "words.parquet"), Path(folder, "phones.parquet")
        write_words(source, count)
        settings = {
            "model": model,
            "input": source,
            "output": output,
            "source_column": "word",
            "max_new_tokens": MAX_NEW_TOKENS,
        }
        command = [sys.executable, str(ROOT / "recipes" / "generate.py"), "--num_threads", "1"]
        command += [part for name, value in settings.items() for part in (f"--{name}", str(value))]
        process = os.posix_spawn(command[0], command, {**os.environ, "OMP_NUM_THREADS": "1"})
        _, status, usage = os.wait4(process, 0)
        if status:
            raise RuntimeError(f"The job of {count:,} rows ended with {os.waitstatus_to_exitcode(status)}.")
        written = pq.ParquetFile(output).metadata.num_rows
        if written != count:
            raise RuntimeError(f"The job of {count:,} rows wrote {written:,}.")
    return {"cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_mib": usage.ru_maxrss / 1024}


def main() -> None:
    """Measure, and store the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Folder of a model that reads letters.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    config = json.loads(Path(options.model, "config.json").read_text(encoding="utf-8"))["decoder"]
    facts = {
        "hardware": describe_device(1),
        "versions": describe_versions(),
        "model": {name: config[name] for name in ("hidden_size", "num_hidden_layers")},
    }
    starts = sorted((run_job(options.model, 1) for _ in range(3)), key=lambda job: job["cpu_seconds"])
    results: dict[str, Any] = {**facts, "start": starts[1], "jobs": []}
    if options.results.is_file():
        known = json.loads(options.results.read_text(encoding="utf-8"))
        if {name: known[name] for name in facts} == facts:
            results["jobs"] = [job for job in known["jobs"] if job["rows"] not in options.sizes]
    for count in options.sizes:
        found = run_job(options.model, count)
        spent = found["cpu_seconds"] - results["start"]["cpu_seconds"]
        job = {"rows": count, **found, "cpu_milliseconds_per_row": 1e3 * spent / (count - 1)}
        print(job, flush=True)
        results["jobs"] = sorted([*results["jobs"], job], key=lambda one: one["rows"])
        options.results.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    if options.results == RESULTS:
        write_tables()


if __name__ == "__main__":
    main()

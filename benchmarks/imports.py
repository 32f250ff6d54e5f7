"""What `import hf_genext` costs on top of `from transformers import pipeline`, in CPU seconds.

python benchmarks/imports.py
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.report import write_tables

PROGRAM = """
import time
started = time.process_time()
from transformers import pipeline
between = time.process_time()
import hf_genext
print(between - started, time.process_time() - between)
"""


def main() -> None:
    """Measure in fresh interpreters; medians of nine."""
    runs = []
    for _ in range(9):
        done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
        runs.append([float(number) for number in done.stdout.split()])
    names = ["from transformers import pipeline", "then import hf_genext"]
    seconds = {name: statistics.median(run[index] for run in runs) for index, name in enumerate(names)}
    path = Path(__file__).parent / "results" / "imports.json"
    path.write_text(json.dumps({"cpu_seconds": seconds, "runs": runs}, indent=2) + "\n", encoding="utf-8")
    write_tables()
    print(seconds)


if __name__ == "__main__":
    main()

"""Reading word vectors: a GloVe text of 400,000 x 300 beside polars, and from a saved folder to the first word's vector.

python benchmarks/vectors.py [--words 400000] [--rounds 5]

Every measurement is a process of its own, and they take turns. CPU seconds are of the reading alone, without imports; peak
memory is of the whole process. Polars gives columns, we give a space with its vocabulary.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.report import write_tables
from hf_genext.devices import describe_device

SIZE = 300
READ = """
import json, resource, sys, time
{imports}
started, wall = time.process_time(), time.perf_counter()
read = {call}
seconds, wall = time.process_time() - started, time.perf_counter() - wall
assert len(read) == int(sys.argv[2]), len(read)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({{"cpu_seconds": seconds, "wall_seconds": wall, "peak_bytes": peak}}))
"""
CONTENDERS = {
    "polars.read_csv": READ.format(
        imports="import polars",
        call="polars.read_csv(sys.argv[1], separator=' ', has_header=False, quote_char=None, "
        f"schema={{'word': polars.String, **{{f'{{i}}': polars.Float32 for i in range({SIZE})}}}})",
    ),
    "StaticEmbeddingModel.from_vectors": READ.format(
        imports="from hf_genext import StaticEmbeddingModel", call="StaticEmbeddingModel.from_vectors(sys.argv[1])"
    ),
}
SAVE = """
import sys
from hf_genext import StaticEmbeddingModel
StaticEmbeddingModel.from_vectors(sys.argv[1]).save_pretrained(sys.argv[2])
"""
OPEN = """
import json, pathlib, sys, time
import hf_genext
from transformers import AutoModel
def count_resident():
    return sum(int(line.split()[1]) * 1024 for line in pathlib.Path("/proc/self/status").read_text().splitlines()
               if line.startswith(("RssFile", "RssAnon")))
before, started, cpu = count_resident(), time.perf_counter(), time.process_time()
space = AutoModel.from_pretrained(sys.argv[1])
vector = space[sys.argv[2]]
wall, cpu = time.perf_counter() - started, time.process_time() - cpu
assert vector.shape == (int(sys.argv[3]),)
print(json.dumps({"wall_seconds": wall, "cpu_seconds": cpu, "resident_bytes": count_resident() - before}))
"""


def write_glove_text(path: Path, words: int) -> None:
    """Seeded normal numbers, printed with five digits as GloVe's published files are."""
    generator = np.random.default_rng(0)
    line = " ".join(["%.5g"] * SIZE)
    with open(path, "w", encoding="utf-8") as file:
        for start in range(0, words, 4000):
            for place, row in enumerate(generator.normal(scale=0.38, size=(min(4000, words - start), SIZE)), start=start):
                file.write(f"word{place} {line % tuple(row)}\n")


def run(program: str, *arguments: str) -> dict[str, float]:
    """What a program measured of itself."""
    done = subprocess.run([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout or "{}")


def main() -> None:
    """Measure, write results/vectors.json and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", type=int, default=400_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    with tempfile.TemporaryDirectory() as folder:
        text, space = str(Path(folder, "glove.txt")), str(Path(folder, "space"))
        write_glove_text(Path(text), options.words)
        for _ in range(options.rounds):
            for name, program in CONTENDERS.items():
                runs[name].append(run(program, text, str(options.words)))
                print(name, runs[name][-1], flush=True)
        run(SAVE, text, space)
        openings = [run(OPEN, space, f"word{options.words - 1 - place}", str(SIZE)) for place in range(2 * options.rounds)]
        file_bytes = Path(text).stat().st_size
    medians = {
        name: {key: statistics.median(round_[key] for round_ in rounds) for key in rounds[0]} for name, rounds in runs.items()
    }
    peer = medians["polars.read_csv"]["cpu_seconds"]
    results = {
        "words": options.words,
        "size": SIZE,
        "file_bytes": file_bytes,
        "readers": {name: {**row, "ratio": row["cpu_seconds"] / peer, "runs": runs[name]} for name, row in medians.items()},
        "opening": {
            **{key: statistics.median(opening[key] for opening in openings) for key in openings[0]},
            "matrix_bytes": 4 * SIZE * (options.words + 2),
            "runs": openings,
        },
        "versions": {name: version(name) for name in ("numpy", "polars", "pyarrow", "torch", "transformers")},
        "hardware": describe_device(1),
    }
    path = Path(__file__).parent / "results" / "vectors.json"
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    write_tables()
    print(json.dumps({**medians, "opening": results["opening"]}, indent=2))


if __name__ == "__main__":
    main()

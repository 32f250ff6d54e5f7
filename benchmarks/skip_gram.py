"""Skip-gram beside gensim's: words per second from the text file to the vectors, reading and vocabulary counted.

python benchmarks/skip_gram.py out/english/english.txt     # the text that recipes/word_vectors/prepare_data.py writes
python benchmarks/skip_gram.py out/english/english.txt --growth

Both take turns in one process; imports and compilation are not counted. --growth measures ours from 1 to 100 million words.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), *(folder for folder in sys.path if Path(folder).resolve() != ROOT)]

RESULTS = ROOT / "benchmarks" / "results" / "skip_gram.json"


def train_ours(text: Path, size: int, threads: int) -> int:
    """From the file to the vectors; returns the words of the text."""
    from hf_genext.corpora import encode_corpus
    from hf_genext.embedding_training import EmbeddingTrainingArguments, StaticEmbeddingTrainer

    folder = tempfile.mkdtemp()
    try:
        corpus = encode_corpus(text, folder, split="whitespace", show_progress=False)
        args = EmbeddingTrainingArguments(
            output_dir=folder,
            hidden_size=size,
            num_train_epochs=1,
            num_threads=threads,
            engine="compiled",
            num_checkpoints=0,
            disable_tqdm=True,
        )
        trainer = StaticEmbeddingTrainer(args, corpus)
        trainer.train()
        trainer.model.to_space()
        return corpus.num_tokens
    finally:
        shutil.rmtree(folder)


def train_gensim(text: Path, size: int, threads: int) -> int:
    """The same with gensim."""
    from gensim.models import Word2Vec
    from gensim.models.word2vec import LineSentence

    settings = {"sg": 1, "window": 5, "negative": 5, "min_count": 5, "alpha": 0.05, "min_alpha": 1e-4, "sample": 1e-3}
    model = Word2Vec(LineSentence(str(text)), vector_size=size, workers=threads, epochs=1, **settings)
    return model.corpus_total_words


TRAINERS: dict[str, Callable[[Path, int, int], int]] = {"hf_genext": train_ours, "gensim": train_gensim}


def measure_memory(name: str, text: Path, size: int) -> float:
    """Peak memory of a process that does nothing else, in MiB."""
    command = [sys.executable, str(Path(__file__).resolve()), str(text), "--as_child", name, "--sizes", str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def take_turns(text: Path, sizes: list[int], rounds: int) -> list[dict[str, Any]]:
    """Medians of both at each size, with one thread and with two."""
    warm_up = text.with_suffix(".short")
    with open(text, "rb") as file:
        warm_up.write_bytes(file.read(3_000_000))
    rows = []
    for size in sizes:
        for threads in (1, 2):
            speeds: dict[str, dict[str, list[float]]] = {name: {"cpu": [], "wall": []} for name in TRAINERS}
            for train in TRAINERS.values():
                train(warm_up, size, threads)
            for _ in range(rounds):
                for name, train in TRAINERS.items():
                    cpu, wall = time.process_time(), time.monotonic()
                    words = train(text, size, threads)
                    speeds[name]["cpu"].append(words / (time.process_time() - cpu))
                    speeds[name]["wall"].append(words / (time.monotonic() - wall))
                    print(size, threads, name, {kind: round(values[-1]) for kind, values in speeds[name].items()}, flush=True)
            row: dict[str, Any] = {"size": size, "threads": threads, "words": words}
            for kind in ("cpu", "wall"):
                pairs = zip(speeds["hf_genext"][kind], speeds["gensim"][kind], strict=True)
                row[kind] = {
                    **{name: statistics.median(speeds[name][kind]) for name in TRAINERS},
                    "ratio": statistics.median(ours / theirs for ours, theirs in pairs),
                    "rounds": {name: speeds[name][kind] for name in TRAINERS},
                }
            if threads == 1:
                row["peak_mib"] = {name: measure_memory(name, text, size) for name in TRAINERS}
            rows.append(row)
    warm_up.unlink()
    return rows


def read_peak_mib() -> float:
    """Peak memory of this process since it began (`ru_maxrss` counts that of the process which started it, too)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure_growth(text: Path, size: int) -> list[dict[str, Any]]:
    """CPU seconds for a million words, and peak memory, from 1 to 100 million words of text."""
    content = text.read_bytes()
    words_of_text = len(content.split())
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for millions in (1, 10, 100):
            longer = Path(folder) / "text.txt"
            with open(longer, "wb") as file:
                left = millions * 1_000_000
                while left > 0:
                    share = min(1.0, left / words_of_text)
                    file.write(content if share == 1.0 else content[: content.rfind(b"\n", 0, int(share * len(content))) + 1])
                    left -= words_of_text
            command = [sys.executable, str(Path(__file__).resolve()), str(longer), "--as_child", "hf_genext"]
            done = subprocess.run([*command, "--sizes", str(size)], capture_output=True, text=True, check=True)
            words, seconds, peak = map(float, done.stdout.split()[-3:])
            rows.append({"words": words, "cpu_seconds_per_million": seconds / words * 1e6, "peak_mib": peak})
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Measure and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 300])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--memory", action="store_true", help="Measure the peak memory again, nothing else.")
    parser.add_argument("--as_child", choices=TRAINERS)
    options = parser.parse_args()
    if options.as_child:
        # Imports and compilation come first.
        with tempfile.NamedTemporaryFile("wb", suffix=".txt") as file:
            file.write(b"one two three four five six\n" * 100)
            file.flush()
            TRAINERS[options.as_child](Path(file.name), options.sizes[0], 1)
        started_at = time.process_time()
        words = TRAINERS[options.as_child](options.text, options.sizes[0], 1)
        seconds = time.process_time() - started_at
        print(words, seconds, read_peak_mib())
        return
    from hf_genext.devices import describe_device

    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    if options.growth:
        results["growth"] = measure_growth(options.text, options.sizes[0])
    elif options.memory:
        for row in results["rows"]:
            if row["threads"] == 1:
                row["peak_mib"] = {name: measure_memory(name, options.text, row["size"]) for name in TRAINERS}
    else:
        results |= {"hardware": describe_device(1), "rows": take_turns(options.text, options.sizes, options.rounds)}
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    from benchmarks.report import write_tables

    write_tables()


if __name__ == "__main__":
    main()

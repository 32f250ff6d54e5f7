"""Word vectors beside gensim's: WordSim-353 and SimLex-999 on equal text, vocabulary, epochs and rate, three seeds each.

python benchmarks/embedding_quality.py out/english/english.txt     # the text that recipes/word_vectors/prepare_data.py writes

Every finished run is stored at once, and what is stored is not run again; --sizes, --kinds and --seeds choose. Two things are
made equal that are not by default: gensim's rate comes down with the words, as ours does, not with the lines; and words that
are not in the vocabulary are left out of the tests for both, subwords or not.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), *(folder for folder in sys.path if Path(folder).resolve() != ROOT)]

RESULTS = ROOT / "benchmarks" / "results" / "embedding_quality.json"
KINDS = ("skip_gram", "cbow", "subword")
NUM_BUCKETS = 200_000
RATE = 0.05


def train_ours(text: Path, kind: str, size: int, seed: int, epochs: int) -> Any:
    """Our space, by one thread."""
    from hf_genext import StaticEmbeddingModel
    from hf_genext.corpora import encode_corpus
    from hf_genext.embedding_training import EmbeddingTrainingArguments, StaticEmbeddingTrainer

    with tempfile.TemporaryDirectory() as folder:
        corpus = encode_corpus(text, Path(folder) / "corpus", split="whitespace", show_progress=False)
        args = EmbeddingTrainingArguments(
            output_dir=folder,
            objective="cbow" if kind == "cbow" else "skip_gram",
            hidden_size=size,
            num_buckets=NUM_BUCKETS if kind == "subword" else 0,
            num_train_epochs=epochs,
            learning_rate=RATE,
            seed=seed,
            num_threads=1,
            num_checkpoints=0,
            disable_tqdm=True,
        )
        trainer = StaticEmbeddingTrainer(args, corpus)
        trainer.train()
        space = trainer.model.to_space()
        return StaticEmbeddingModel.from_words(space.words, np.stack([space[word] for word in space.words]))


def train_gensim(text: Path, kind: str, size: int, seed: int, epochs: int) -> Any:
    """Gensim's vectors as a space, by one worker."""
    from gensim.models import FastText, Word2Vec
    from gensim.models.word2vec import LineSentence

    from hf_genext import StaticEmbeddingModel

    settings: dict[str, Any] = {"sg": int(kind != "cbow"), "vector_size": size, "window": 5, "negative": 5, "min_count": 5}
    settings |= {"alpha": RATE, "min_alpha": 1e-4, "sample": 1e-3, "epochs": epochs, "workers": 1, "seed": seed}
    lines = LineSentence(str(text))
    model = FastText(min_n=3, max_n=6, bucket=NUM_BUCKETS, **settings) if kind == "subword" else Word2Vec(**settings)
    model.build_vocab(lines)
    model.train(lines, total_words=model.corpus_total_words, epochs=epochs)
    return StaticEmbeddingModel.from_words(model.wv.index_to_key, model.wv.vectors)


def main() -> None:
    """Take turns between the two."""
    from hf_genext.word_metrics import SimLex999, WordSim353

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 300])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, default=1)
    options = parser.parse_args()
    runs: list[dict[str, Any]] = json.loads(RESULTS.read_text(encoding="utf-8"))["runs"] if RESULTS.is_file() else []
    for seed in options.seeds:
        for kind in options.kinds:
            for size in options.sizes:
                for name, train in (("hf_genext", train_ours), ("gensim", train_gensim)):
                    key = {"library": name, "kind": kind, "size": size, "seed": seed, "epochs": options.epochs}
                    if any(key.items() <= run.items() for run in runs):
                        continue
                    started_at = time.process_time()
                    space = train(options.text, kind, size, seed, options.epochs)
                    seconds = time.process_time() - started_at
                    scores = {
                        "wordsim353": WordSim353().compute(space=space)["wordsim353"],
                        "simlex999": SimLex999().compute(space=space)["simlex999"],
                    }
                    runs.append({**key, "cpu_seconds": seconds, **scores})
                    print(runs[-1], flush=True)
                    RESULTS.write_text(
                        json.dumps({"learning_rate": RATE, "runs": runs, "table": tabulate(runs)}, indent=1) + "\n",
                        encoding="utf-8",
                    )


def tabulate(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over the seeds, with the standard error of ours less gensim's."""
    rows = []
    for kind, size, epochs in sorted({(run["kind"], run["size"], run["epochs"]) for run in runs}):
        chosen = [run for run in runs if (run["kind"], run["size"], run["epochs"]) == (kind, size, epochs)]
        row: dict[str, Any] = {"kind": kind, "size": size, "epochs": epochs}
        for metric in ("wordsim353", "simlex999"):
            values = {name: [run[metric] for run in chosen if run["library"] == name] for name in ("hf_genext", "gensim")}
            if min(map(len, values.values())) < 2:
                continue
            variance = sum(statistics.variance(scores) / len(scores) for scores in values.values())
            row[metric] = {name: statistics.fmean(scores) for name, scores in values.items()}
            row[metric] |= {"seeds": len(values["hf_genext"]), "standard_error": variance**0.5}
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()

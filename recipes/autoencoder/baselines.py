"""What the autoencoder recipe's model is compared with, on its test texts.

    python recipes/autoencoder/baselines.py recipes/autoencoder/config.yaml
    python recipes/autoencoder/baselines.py recipes/autoencoder/config.yaml --update_results true

* nearest training text, by MiniLM, and by TF-IDF of runs of one to three characters: what retrieval gives. No text stands on
  two sides, so none of these is the text itself; the other rates say how near they come;
* PCA, read by the same decoder: as many principal components as the state has numbers, of the one-hot matrix of the text's
  characters by their positions, flattened, the empty positions behind the text included. From them a decoder like the model's,
  with as many slots before it, is trained on the same texts with the same settings, for the same time;
* PCA, read by its inverse: at every position the character whose number is largest.

`--update_results true` puts them beside the model's own metrics in the recipe's results.json, which the training wrote.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:] = [str(ROOT), *(folder for folder in sys.path if Path(folder).resolve() not in (ROOT, Path(__file__).parent))]

from hf_genext.hub import read_results
from recipes.autoencoder.position_pca import PositionPCA
from recipes.reuse import train_unless_done
from recipes.running import run_main
from recipes.sentence_vectors import encode_texts
from recipes.text_baselines import Comparison, find_nearest, prepare_comparison
from recipes.text_splits import SIDES, read_column, write_table

DECODED, INVERTED = "PCA of the same size, read by the same decoder", "PCA of the same size, read by its inverse"


@dataclass
class BaselineSettings:
    """How to compare."""

    retrieval: bool = field(default=True, metadata={"help": "Score the nearest training texts too."})


def copy_nearest(train: list[str], test: list[str]) -> dict[str, list[str]]:
    """The nearest training text of each test text, by two kinds of vectors."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    counts = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True)
    spelled = find_nearest(counts.fit_transform(train), counts.transform(test))
    meant = find_nearest(encode_texts(train), encode_texts(test))
    return {
        "nearest training text by MiniLM": [train[place] for place in meant],
        "nearest training text by TF-IDF": [train[place] for place in spelled],
    }


def compare_with_pca(comparison: Comparison) -> dict[str, dict[str, float]]:
    """The metrics of both readings of as many principal components as the state has numbers.

    The decoder that is trained stands beside the output folder of the model, in one that ends in `-pca`; where that holds the
    results of the same settings and data already, they are taken.
    """
    bottleneck = comparison.model.bottleneck
    pca = PositionPCA(comparison.train["source"], bottleneck["num_latents"] * bottleneck["hidden_size"])
    inverted = pca.decode(pca.encode(comparison.test["source"]))
    folder = Path(f"{comparison.args.output_dir}-pca")
    words = [str(comparison.config_path), *_collect_options(comparison, pca, folder)]
    train_unless_done(words, folder, [comparison.train, comparison.test])
    decoded = read_results(folder / "results.json")["metrics"]
    return {DECODED: decoded, INVERTED: comparison.metrics(inverted, comparison.test["references"])}


def _collect_options(comparison: Comparison, pca: PositionPCA, folder: Path) -> list[str]:
    """The settings of the model, but for what stands before its decoder, and for the files."""
    bottleneck, args, run = comparison.model.bottleneck, comparison.args, comparison.run
    options = {
        "title": f"Decoder of {pca.num_components} principal components",
        "example": "",
        "conditioner": "null",
        "encoder": json.dumps({"hidden_size": bottleneck["hidden_size"], "num_states": bottleneck["num_latents"]}),
        "bottleneck": "none",
        "conditions": json.dumps({"vector": "vector"}),
        "output_dir": str(folder),
        "seed": str(args.seed),
        "max_minutes": "null" if args.max_minutes is None else str(args.max_minutes),
        "max_steps": str(args.max_steps),
        "update_results": "false",
        **({} if run.num_threads is None else {"num_threads": str(run.num_threads)}),
    }
    for side in SIDES:
        texts = read_column(comparison.folder / f"{side}.tsv", "text")
        table = {"vector": pca.encode(texts), "text": texts}
        options[f"{side}_file"] = write_table(Path(f"{folder}-data") / f"{side}.parquet", table)
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def main(argv: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Score the baselines and print them; see the top of the file."""
    comparison = prepare_comparison(BaselineSettings, argv, needs_model=False)
    train, test = comparison.train["source"], comparison.test["source"]
    copied = copy_nearest(train, test) if comparison.own.retrieval else {}
    scores = {label: comparison.metrics(texts, comparison.test["references"]) for label, texts in copied.items()}
    return comparison.report({**scores, **compare_with_pca(comparison)})


if __name__ == "__main__":
    run_main(main)

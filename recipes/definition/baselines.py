"""What the definition recipe's model is compared with, on its test words.

    python recipes/definition/baselines.py recipes/definition/config.yaml --model out/definition
    python recipes/definition/baselines.py recipes/definition/config.yaml --model out/definition --update_results true

* nearest training word: the gloss of the word whose vector is nearest by cosine among those that were trained on;
* most frequent words: for every word the words that most glosses hold, as many as a gloss has in the median;
* vectors shuffled: the same model, each word given another word's vector.

`--update_results true` puts them beside the model's own metrics in the recipe's results.json, which the training wrote.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:] = [str(ROOT), *(folder for folder in sys.path if Path(folder).resolve() not in (ROOT, Path(__file__).parent))]

import numpy as np
from transformers import pipeline

from recipes.arguments import SettingsError
from recipes.comparison import Comparison, run_baselines
from recipes.conditional_data import build_text_metrics, group_rows
from recipes.running import run_main

SEED = 0


@dataclass
class BaselineSettings:
    """How to compare."""

    batch_size: int = field(default=250, metadata={"help": "Words that are generated from at once."})


def copy_nearest_glosses(train: dict[str, list[Any]], test: dict[str, list[Any]]) -> list[str]:
    """For each test word the gloss of the training word whose vector is nearest by cosine."""
    known, asked = (_to_units(part) for part in (train, test))
    blocks = np.array_split(asked, max(1, len(asked) // 500))
    return [train["references"][place][0] for block in blocks for place in (block @ known.T).argmax(axis=1)]


def _to_units(rows: dict[str, list[Any]]) -> np.ndarray:
    vectors = np.array([condition["vector"] for condition in rows["source"]], dtype=np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def join_frequent_words(glosses: list[str]) -> str:
    """The words that most glosses hold, the most frequent first, as many as a gloss has in the median.

    Example:
        >>> join_frequent_words(["a small dog", "a cat", "a small bird"])
        'a small dog'
    """
    counts = Counter(word for gloss in glosses for word in dict.fromkeys(gloss.split()))
    length = int(np.median([len(gloss.split()) for gloss in glosses]))
    return " ".join(word for word, _ in counts.most_common(length))


def shuffle_vectors(test: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """The conditions of the test words in an order in which none has its own."""
    order = np.random.default_rng(SEED).permutation(len(test["source"]))
    following = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))  # One cycle through all.
    return [test["source"][following[place]] for place in range(len(order))]


def _score(comparison: Comparison) -> Iterator[tuple[str, dict[str, float]]]:
    train, test = group_rows(comparison.rows.train), group_rows(comparison.scored)
    metrics = build_text_metrics(comparison.data, comparison.config_path)
    if metrics is None:
        raise SettingsError("The settings name no metrics to compare by.")
    yield "gloss of the nearest training word", metrics(copy_nearest_glosses(train, test), test["references"])
    frequent = join_frequent_words([gloss for glosses in train["references"] for gloss in glosses])
    yield "the most frequent words of glosses", metrics([frequent] * len(test["source"]), test["references"])
    generate = pipeline("conditional-generation", model=comparison.model.model)
    answers = generate(shuffle_vectors(test), batch_size=comparison.own.batch_size)
    shuffled = [answer[0]["generated_text"] for answer in answers]
    yield "this model, its vectors shuffled", metrics(shuffled, test["references"])


def main(argv: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Score the baselines and print them; see the top of the file."""
    return run_baselines(_score, BaselineSettings, argv, needs_model=True)


if __name__ == "__main__":
    run_main(main)

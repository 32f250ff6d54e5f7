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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:] = [str(ROOT), *(folder for folder in sys.path if Path(folder).resolve() not in (ROOT, Path(__file__).parent))]

import numpy as np
import torch
from transformers import pipeline

from hf_genext.hub import read_results, write_results
from hf_genext.training import GenextTrainingArguments
from recipes.arguments import SettingsError, parse_settings
from recipes.conditional_data import RowReader, build_text_metrics, group_rows, load_data
from recipes.conditional_model import require_needed_models
from recipes.conditional_settings import DataSettings, ModelSettings, RunSettings
from recipes.running import count_threads, find_recipe_results, run_main, set_up_logging

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


def main(argv: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Score the baselines and print them; see the top of the file."""
    own, model, data, run, args, config_path = parse_settings(
        [BaselineSettings, ModelSettings, DataSettings, RunSettings, GenextTrainingArguments],
        sys.argv[1:] if argv is None else argv,
    )
    set_up_logging()
    torch.set_num_threads(count_threads(run.num_threads))
    if model.model is None:
        raise SettingsError("Give --model FOLDER, the model of this recipe.")
    results_path = find_recipe_results(config_path) if run.update_results else None
    if results_path is not None and not results_path.is_file():
        raise SettingsError(f"There is no {str(results_path)!r} yet: train with --update_results true first.")
    require_needed_models(model, data.conditions)
    rows = load_data(data, RowReader(data), Path(args.output_dir or "out") / "data", config_path)
    train, test = group_rows(rows.train), group_rows(rows.validation if rows.test is None else rows.test)
    metrics = build_text_metrics(data, config_path)
    if metrics is None:
        raise SettingsError("The settings name no metrics to compare by.")
    generate = pipeline("conditional-generation", model=model.model)
    shuffled = [answer[0]["generated_text"] for answer in generate(shuffle_vectors(test), batch_size=own.batch_size)]
    frequent = join_frequent_words([gloss for glosses in train["references"] for gloss in glosses])
    answers = {
        "gloss of the nearest training word": copy_nearest_glosses(train, test),
        "the most frequent words of glosses": [frequent] * len(test["source"]),
        "this model, its vectors shuffled": shuffled,
    }
    scores = {label: metrics(texts, test["references"]) for label, texts in answers.items()}
    for label, values in scores.items():
        print(label, "  ".join(f"{name} {value:.4g}" for name, value in values.items()), sep=": ")
    if results_path is not None:
        results = read_results(results_path)
        write_results(results_path, {**results, "baselines": {**results["baselines"], **scores}})
    return scores


if __name__ == "__main__":
    run_main(main)

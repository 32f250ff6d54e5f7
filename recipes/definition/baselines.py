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
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:] = [str(ROOT), *(folder for folder in sys.path if Path(folder).resolve() not in (ROOT, Path(__file__).parent))]

from recipes.running import run_main
from recipes.text_baselines import (
    copy_nearest_texts,
    generate_texts,
    join_frequent_words,
    list_training_texts,
    prepare_comparison,
    shuffle_conditions,
)


@dataclass
class BaselineSettings:
    """How to compare."""

    batch_size: int = field(default=250, metadata={"help": "Words that are generated from at once."})


def main(argv: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Score the baselines and print them; see the top of the file."""
    comparison = prepare_comparison(BaselineSettings, argv)
    train, test = comparison.train, comparison.test
    shuffled = generate_texts(comparison.open_model(), shuffle_conditions(test), comparison.own.batch_size)
    return comparison.score(
        {
            "gloss of the nearest training word": copy_nearest_texts(train, test),
            "the most frequent words of glosses": [join_frequent_words(list_training_texts(train))] * len(test["source"]),
            "this model, its vectors shuffled": shuffled,
        }
    )


if __name__ == "__main__":
    run_main(main)

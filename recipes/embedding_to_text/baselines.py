"""What the embedding_to_text recipe's model is compared with, on its test vectors.

    python recipes/embedding_to_text/baselines.py recipes/embedding_to_text/config.yaml --model out/embedding_to_text

* nearest training text: the text whose vector is nearest by cosine among those that were trained on;
* most frequent words: for every vector the words that most texts hold, as many as a text has in the median;
* vectors shuffled: the same model, each given the vector of another text.

`--update_results true` puts them beside the model's own metrics in the recipe's results, which the training wrote. Without
`--model` the shuffled vectors are left out.
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

    batch_size: int = field(default=250, metadata={"help": "Vectors that are generated from at once."})


def main(argv: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Score the baselines and print them; see the top of the file."""
    comparison = prepare_comparison(BaselineSettings, argv, needs_model=False)
    train, test = comparison.train, comparison.test
    answers = {
        "nearest training text": copy_nearest_texts(train, test),
        "the most frequent words": [join_frequent_words(list_training_texts(train))] * len(test["source"]),
    }
    if comparison.model.model is not None:
        model = comparison.open_model()
        shuffled = generate_texts(model, shuffle_conditions(test), comparison.own.batch_size)
        answers["this model, its vectors shuffled"] = shuffled
    return comparison.score(answers)


if __name__ == "__main__":
    run_main(main)

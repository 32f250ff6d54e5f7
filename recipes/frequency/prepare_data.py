"""The data of the frequency recipe: words of GloVe's vocabulary, and the logarithm of how frequent each is.

    python recipes/frequency/prepare_data.py out/frequency/data

The vocabulary of GloVe 6B stands in the order of its counts in six billion words of Wikipedia and newspapers; the counts
themselves are not given away with it. So a frequency is estimated from its rank by Zipf's law, which keeps the order of the
counts, and with it Spearman's correlation, as they are. Called by `recipes/train_conditional.py` through the setting
`data_script`.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:] = [str(Path(__file__).resolve().parents[2]), *sys.path[1:]]

from recipes.glove.read_vectors import read_vectors
from recipes.spellings import PACKAGE, read_spellings, write_split
from recipes.wordnet import bring_wordnet, read_exceptions


def estimate_zipf_values(words: list[str]) -> dict[str, float]:
    """The logarithm of each word's frequency on the Zipf scale (van Heuven et al. 2014): to base 10, per billion words.

    By Zipf's law a word's share of the text is in proportion to 1 / rank, and the shares of all words sum to 1.

    Args:
        words: The whole vocabulary, the most frequent first.

    Example:
        >>> estimate_zipf_values(["the", "of"])
        {'the': 8.8239, 'of': 8.5229}
    """
    total = sum(1 / rank for rank in range(1, len(words) + 1))
    return {word: round(9 - math.log10(rank * total), 4) for rank, word in enumerate(words, start=1)}


def prepare_data(
    folder: Path, *, num_words: int | None = None, held_out: int = 10_000, irregular_forms: bool = True
) -> dict[str, Any]:
    """Write the words to train on, to choose by, and to score.

    Args:
        folder: Where to; made if it is not there.
        num_words: Take GloVe's most frequent so many words only.
        held_out: Lemmas for validation, and as many for the test.
        irregular_forms: Tell also the irregular forms of a lemma, for which WordNet is brought.

    Returns:
        `train_file`, `validation_file`, `test_file`, and `facts` about the data.

    Raises:
        ImportError: if the package with GloVe is not there.
        RuntimeError: if WordNet cannot be brought.
        ValueError: if there are fewer lemmas than are held out.
    """
    values = estimate_zipf_values(read_vectors()[0])
    targets = {word: f"{values[word]:.4f}" for word in read_spellings(num_words)}
    wordnet, version = bring_wordnet() if irregular_forms else (None, None)
    exceptions = {} if wordnet is None else read_exceptions(wordnet)
    files, num_lemmas = write_split(folder, ("word", "zipf"), targets, exceptions, held_out=held_out)
    facts = {
        "name": "GloVe 6B's vocabulary, frequencies by rank",
        "packages": PACKAGE if wordnet is None else f"{PACKAGE}, wordnet-base {version} (irregular forms)",
        "license": "PDDL-1.0" if wordnet is None else "PDDL-1.0, WordNet licence",
        "words": len(targets),
        "lemmas": num_lemmas,
    }
    return {**files, "facts": facts}


if __name__ == "__main__":
    for name, value in prepare_data(Path(sys.argv[1] if len(sys.argv) > 1 else "out/frequency/data")).items():
        print(f"{name}: {value}")

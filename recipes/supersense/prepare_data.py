"""The data of the supersense recipe: WordNet's glosses, and the lexicographers' category that each belongs to.

    python recipes/supersense/prepare_data.py out/supersense/data

WordNet 3.0 comes with Debian's wordnet-base. A gloss stands on one side alone. Called by `recipes/train_conditional.py` through
the setting `data_script`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:] = [str(Path(__file__).resolve().parents[2]), *sys.path[1:]]

import numpy as np

from recipes.text_splits import write_table
from recipes.wordnet import bring_wordnet, read_senses

SEED = 0


def prepare_data(folder: Path, *, num_glosses: int | None = None, held_out: int = 5000) -> dict[str, Any]:
    """Write the glosses to train on, to choose by, and to score.

    Args:
        folder: Where to; made if it is not there.
        num_glosses: Take so many only, drawn at random.
        held_out: Glosses for validation, and as many for the test.

    Returns:
        `train_file`, `validation_file`, `test_file`, and `facts` about the data.

    Raises:
        RuntimeError: if WordNet cannot be brought.
        ValueError: if there are fewer glosses than are held out.
    """
    wordnet, version = bring_wordnet()
    categories: dict[str, dict[str, None]] = {}
    for senses in read_senses(wordnet).values():
        for sense in senses:
            if sense.gloss:
                categories.setdefault(sense.gloss, {})[sense.category] = None
    glosses = sorted(categories)
    order = np.random.default_rng(SEED).permutation(len(glosses))[:num_glosses]
    if len(order) <= 2 * held_out:
        raise ValueError(f"{2 * held_out} glosses are to be held out, but there are {len(order)}, of which some must be left.")
    parts = {"test": order[:held_out], "validation": order[held_out : 2 * held_out], "train": order[2 * held_out :]}
    files = {}
    for name, places in parts.items():
        rows = [(glosses[place], category) for place in places for category in categories[glosses[place]]]
        columns = dict(zip(("gloss", "category"), zip(*rows, strict=True), strict=True))
        files[f"{name}_file"] = write_table(folder / f"{name}.tsv", columns)
    facts = {
        "name": "WordNet 3.0, glosses and lexicographers' categories",
        "packages": f"wordnet-base {version}",
        "license": "WordNet licence",
        "glosses": len(order),
    }
    return {**files, "facts": facts}


if __name__ == "__main__":
    for name, value in prepare_data(Path(sys.argv[1] if len(sys.argv) > 1 else "out/supersense/data")).items():
        print(f"{name}: {value}")

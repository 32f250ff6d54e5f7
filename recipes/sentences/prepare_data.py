"""The data of the sentences recipe: short glosses of WordNet.

    python recipes/sentences/prepare_data.py out/sentences/data

WordNet 3.0 comes with Debian's wordnet-base. Glosses of 10 to 60 characters are taken, as they are written; of
those whose words are the same one is. None stands on two sides. Called by `recipes/train_conditional.py` through the setting
`data_script`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:] = [str(Path(__file__).resolve().parents[2]), *sys.path[1:]]

from recipes.text_splits import SIDES, split_texts, write_table
from recipes.wordnet import bring_wordnet, read_senses

LENGTHS = (10, 60)


def prepare_data(folder: Path, *, held_out: int = 2000, num_glosses: int | None = None) -> dict[str, Any]:
    """Write the glosses to train on, to choose by, and to score.

    Args:
        folder: Where to; made if it is not there.
        held_out: Glosses for validation, and as many for the test.
        num_glosses: Take so many only, drawn at random.

    Returns:
        `train_file`, `validation_file`, `test_file`, and `facts` about the data.

    Raises:
        RuntimeError: if WordNet cannot be brought.
        ValueError: if there are fewer glosses than are held out.
    """
    wordnet, version = bring_wordnet()
    least, most = LENGTHS
    glosses = {sense.gloss for senses in read_senses(wordnet).values() for sense in senses}
    sides = split_texts(sorted(gloss for gloss in glosses if least <= len(gloss) <= most), held_out, most=num_glosses)
    known = {character for gloss in sides["train"] for character in gloss}
    files = {
        f"{side}_file": write_table(folder / f"{side}.tsv", {"gloss": list(filter(known.issuperset, sides[side]))})
        for side in SIDES
    }
    facts = {
        "name": "WordNet 3.0, glosses of 10 to 60 characters",
        "packages": f"wordnet-base {version}",
        "license": "WordNet licence",
    }
    return {**files, "facts": facts}


if __name__ == "__main__":
    for name, value in prepare_data(Path(sys.argv[1] if len(sys.argv) > 1 else "out/sentences/data")).items():
        print(f"{name}: {value}")

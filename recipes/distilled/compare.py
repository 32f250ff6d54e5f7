"""Measure what stands beside the distilled recipe: model2vec's own distillation, GloVe, and other ways to read MiniLM out.

    python recipes/distilled/compare.py                      # ten minutes on one core
    python recipes/distilled/compare.py --only_words         # the last two rows alone
    python recipes/distilled/compare.py --development men.tsv mturk-771.tsv simverb-3500.tsv --glosses glosses.txt.gz

Writes every row into experiments.json; the baselines of config.yaml are among them. Development files have two words and a
judgement a line, parted by tabs; a pair that stands in a test too is left out. Glosses have a word and its glosses a line,
parted by a tab and by " | ".

model2vec distills with skeletoken: its own extra `distill` wants an older Transformers.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:] = [str(ROOT), *(folder for folder in sys.path if Path(folder).resolve() not in (HERE, ROOT))]

import numpy as np
import torch
from torch import nn
from transformers import AutoModel, AutoTokenizer, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from hf_genext import StaticEmbeddingModel
from hf_genext.static_embedding.words_static_embedding import correlate
from hf_genext.word_metrics import SimLex999, WordPairs, WordSim353, evaluate_space
from recipes.arguments import parse_settings
from recipes.distilled.find_model import find_model
from recipes.glove.read_vectors import read_vectors
from recipes.read_out import ReadOutSettings, RunSettings, TextSimilarity, read_space, score_space

TESTS = ("wordsim353", "simlex999")
NUM_GLOSSES = 4_000
NUM_WORDS = 20_000
WORDS = f"the {NUM_WORDS:,} most frequent words of GloVe and those of the tests, read out as words"
VARIANTS: dict[str, dict[str, Any]] = {
    "config.yaml": {},
    "first components kept": {"remove_components": 0},
    "first components and mean kept": {"remove_components": 0, "remove_mean": False},
    "all dimensions but the first components": {"pca_dims": None},
    "128 dimensions": {"pca_dims": 128},
    "no weights by frequency": {"frequencies": None},
    "special tokens pooled too": {"pooling": "mean_with_special"},
    "[CLS] alone, last layer": {"pooling": "first", "layer": [-1]},
    "the last layer alone": {"layer": [-1]},
    "the embeddings alone": {"layer": [0]},
    "the mean of all layers": {"layer": list(range(7))},
    "last layer alone, first components and mean kept": {"layer": [-1], "remove_components": 0, "remove_mean": False},
    "last layer alone, special tokens pooled too, first components kept": {
        "layer": [-1],
        "pooling": "mean_with_special",
        "remove_components": 0,
    },
}
"""Ways to read out the tokens, as changes of config.yaml."""


class RememberingModel(nn.Module):
    """Gives the states of a batch that it has seen out of memory, so that many ways to read cost one pass of the network.

    Args:
        model: The network.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model, self.config = model, model.config
        self._states: dict[bytes, tuple[torch.Tensor, ...]] = {}

    def forward(self, input_ids: torch.Tensor, **kwargs: Any) -> BaseModelOutput:
        """As the network's own."""
        batch = input_ids.numpy().tobytes()
        if batch not in self._states:
            self._states[batch] = self.model(input_ids, **kwargs).hidden_states
        return BaseModelOutput(hidden_states=self._states[batch])


def list_words(frequent: list[str]) -> list[str]:
    """A vocabulary to hand to either library, in which every word of the tests has a vector of its own."""
    tested = {word.lower() for test in (WordSim353(), SimLex999()) for pair in test.pairs for word in pair[:2]}
    return list(dict.fromkeys([*(word for word in frequent[:NUM_WORDS] if word.isalpha()), *sorted(tested)]))


def distill_with_model2vec(folder: str, words: list[str] | None = None) -> Callable[[list[str]], np.ndarray]:
    """What encodes texts after model2vec's distillation with its own defaults, which are 256 dimensions too.

    Args:
        folder: The model.
        words: Those that get a vector of their own beside the tokens.
    """
    try:
        from model2vec.distill import distill_from_model
    except ImportError as error:
        raise ImportError('model2vec distills with skeletoken: pip install model2vec "skeletoken>=0.6,<0.7"') from error
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)  # It changes them.
    return distill_from_model(model, tokenizer, words, device="cpu", pca_dims=256).encode


def score_glosses(encode: Callable[[list[str]], np.ndarray], glosses: list[tuple[str, str]]) -> float:
    """How well a gloss finds its word among all words: mean reciprocal rank by cosine, in hundredths."""
    words, texts = (_to_units(encode(list(part))) for part in zip(*glosses, strict=True))
    cosines = texts @ words.T
    ranks = (cosines >= np.diag(cosines)[:, None]).sum(axis=1)
    return 100 * float((1 / ranks).mean())


def _to_units(vectors: np.ndarray) -> np.ndarray:
    rows = np.asarray(vectors, dtype=np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def read_glosses(path: Path) -> list[tuple[str, str]]:
    """Words of one piece and the first gloss of each, drawn with a fixed seed."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        parted = [line.rstrip("\n").split("\t") for line in file]
    pairs = [(word, glosses.split(" | ")[0]) for word, glosses in parted if word.isalpha() and word.islower()]
    return random.Random(0).sample([pair for pair in pairs if len(pair[1].split()) > 3], NUM_GLOSSES)


class Development:
    """Data on which the settings were chosen, apart from the tests.

    Args:
        files: Judged pairs of words.
        glosses: Words and their glosses.
    """

    def __init__(self, files: list[Path], glosses: Path | None) -> None:
        tested = {frozenset(map(str.lower, pair[:2])) for test in (WordSim353(), SimLex999()) for pair in test.pairs}
        self._pairs = []
        for file in files:
            pairs = WordPairs(file).pairs
            self._pairs.append([pair for pair in pairs if frozenset(map(str.lower, pair[:2])) not in tested])
        self._glosses = None if glosses is None else read_glosses(glosses)

    def score(self, encode: Callable[[list[str]], np.ndarray]) -> list[float | None]:
        """The mean correlation over the files, and the score of the glosses; `None` where there are none."""
        correlations = []
        for pairs in self._pairs:
            first, second = (_to_units(encode([pair[place] for pair in pairs])) for place in (0, 1))
            judgements = [judgement for *_, judgement in pairs]
            correlations.append(100 * correlate((first * second).sum(axis=1), judgements)["spearman"])
        mean = float(np.mean(correlations)) if correlations else None
        return [mean, None if self._glosses is None else score_glosses(encode, self._glosses)]


def main() -> None:
    """Run the comparison; see the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--development", nargs="*", type=Path, default=[], help="Judged pairs of words.")
    parser.add_argument("--glosses", type=Path, help="Words and their glosses.")
    parser.add_argument("--only_words", action="store_true", help="Measure the rows of whole words, and keep the others.")
    options = parser.parse_args()
    development = Development(options.development, options.glosses)
    settings, *_ = parse_settings([ReadOutSettings, RunSettings], [str(HERE / "config.yaml")])
    folder = find_model()["model"]
    model, tokenizer = RememberingModel(AutoModel.from_pretrained(folder)), AutoTokenizer.from_pretrained(folder)
    glove_words, glove_vectors = read_vectors()
    rows: list[list[Any]] = []

    def add(label: str, scores: dict[str, float], encode: Callable[[list[str]], np.ndarray] | None) -> None:
        developed = [None, None] if encode is None else development.score(encode)
        rows.append([label, *(100 * scores[name] for name in TESTS), *developed])
        print(*rows[-1], sep=" | ", flush=True)

    if options.only_words:
        written = json.loads((HERE / "experiments.json").read_text(encoding="utf-8"))["rows"]
        rows += [row for row in written if WORDS not in row[0]]
    else:
        for label, changes in VARIANTS.items():
            space = read_space(model, replace(settings, **changes), tokenizer)
            add(label, score_space(space, TESTS), space.encode)
        encode = distill_with_model2vec(folder)
        add("model2vec, its defaults", evaluate_space(TextSimilarity(encode), TESTS), encode)
        glove = StaticEmbeddingModel.from_words(glove_words, np.asarray(glove_vectors), lowercase=True)
        add("GloVe 6B.50d", evaluate_space(glove, TESTS), None)
    words = list_words(glove_words)
    space = read_space(model, replace(settings, words=words), tokenizer)
    add(WORDS, score_space(space, TESTS), None)
    encode = distill_with_model2vec(folder, words)
    add(f"{WORDS}, model2vec", evaluate_space(TextSimilarity(encode), TESTS), None)
    columns = ["what", "WordSim-353", "SimLex-999", "development pairs", "glosses"]
    experiments = json.dumps({"columns": columns, "rows": rows}, indent=2)
    (HERE / "experiments.json").write_text(experiments + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

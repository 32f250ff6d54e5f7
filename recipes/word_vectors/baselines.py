"""What the word_vectors recipe's space is compared with: gensim's Word2Vec on the same words, with the same settings.

    python recipes/word_vectors/baselines.py recipes/word_vectors/config.yaml
    python recipes/word_vectors/baselines.py recipes/word_vectors/config.yaml --update_results true

Its rate comes down with the words, as ours does, not with the lines. `--update_results true` puts it beside the space's own
metrics in the recipe's results.json, which the training wrote.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:] = [str(ROOT), *(folder for folder in sys.path if Path(folder).resolve() not in (ROOT, Path(__file__).parent))]

import numpy as np

from hf_genext import StaticEmbeddingModel
from hf_genext.corpora import DROPPED, SENTENCE_END, EncodedCorpus
from hf_genext.embedding_training import EmbeddingTrainingArguments
from hf_genext.hub import read_results, write_results
from hf_genext.word_metrics import evaluate_space
from recipes.arguments import SettingsError, parse_settings
from recipes.running import count_threads, find_recipe_results, run_main, set_up_logging
from recipes.train_embedding import CorpusSettings, SpaceSettings, read_corpus


@dataclass
class BaselineSettings:
    """How to compare."""

    num_seeds: int = field(default=3, metadata={"help": "Runs, of which the mean is taken."})


class Sentences:
    """The lines of an encoded text, as often as they are asked for, without the words that the vocabulary lacks."""

    def __init__(self, corpus: EncodedCorpus) -> None:
        self.corpus = corpus

    def __iter__(self) -> Iterator[list[str]]:
        words, size = self.corpus.words, 1 << 20
        sentence: list[str] = []
        for start in range(0, len(self.corpus.ids), size):
            for place in self.corpus.places[self.corpus.ids[start : start + size]].tolist():
                if place == SENTENCE_END:
                    yield sentence
                    sentence = []
                elif place != DROPPED:
                    sentence.append(words[place])
        if sentence:
            yield sentence


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train and score the baseline; see the top of the file."""
    from gensim.models import Word2Vec

    own, corpus_settings, space_settings, args, config_path = parse_settings(
        [BaselineSettings, CorpusSettings, SpaceSettings, EmbeddingTrainingArguments],
        sys.argv[1:] if argv is None else argv,
    )
    set_up_logging()
    if args.num_buckets:
        raise SettingsError("The baseline has no subwords: leave num_buckets out.")
    results_path = find_recipe_results(config_path) if space_settings.update_results else None
    if results_path is not None and not results_path.is_file():
        raise SettingsError(f"There is no {str(results_path)!r} yet: train with --update_results true first.")
    corpus, _ = read_corpus(corpus_settings, Path(args.output_dir), config_path, show_progress=True)
    sentences, runs = Sentences(corpus), []
    for seed in range(1, own.num_seeds + 1):
        model = Word2Vec(
            sg=int(args.objective == "skip_gram"),
            vector_size=args.hidden_size,
            window=args.window,
            negative=args.num_negatives,
            min_count=1,
            sample=args.subsample,
            alpha=args.learning_rate,
            workers=count_threads(args.num_threads),
            seed=seed,
        )
        model.build_vocab_from_freq(dict(zip(corpus.words, corpus.counts.tolist(), strict=True)))
        model.train(sentences, total_words=int(corpus.counts.sum()), epochs=int(args.num_train_epochs))
        space = StaticEmbeddingModel.from_words(model.wv.index_to_key, model.wv.vectors)
        runs.append(evaluate_space(space, space_settings.metrics))
        print(f"gensim, seed {seed}", {name: round(runs[-1][name], 4) for name in space_settings.deciding_metrics or runs[-1]})
    scores = {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}
    label = f"gensim's Word2Vec, same text and settings, mean of {own.num_seeds} runs"
    if results_path is not None:
        results = read_results(results_path)
        shown = {name: value for name, value in scores.items() if name in results["better"]}
        write_results(results_path, {**results, "baselines": {label: shown, **results["baselines"]}})
    return scores


if __name__ == "__main__":
    run_main(main)

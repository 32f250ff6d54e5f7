"""Train word vectors from plain text.

    accelerate launch recipes/train_embedding.py recipes/word_vectors/config.yaml
    accelerate launch recipes/train_embedding.py recipes/word_vectors/config.yaml --train_file a.txt folder/ --output_dir out/a

A minute on a laptop:

    accelerate launch recipes/train_embedding.py recipes/word_vectors/smoke.yaml

Two ranks on a machine without a GPU:

    ACCELERATE_USE_CPU=1 accelerate launch --multi_gpu --num_processes 2 recipes/train_embedding.py ...
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# A script's own folder comes first in the path, where evaluate.py would stand before the library of that name.
HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(folder for folder in sys.path if Path(folder).resolve() not in (HERE, HERE.parent))]

import datasets
import torch
import transformers
from accelerate import PartialState

import hf_genext
from hf_genext.checkpoints import hold_folder
from hf_genext.corpora import EncodedCorpus, encode_corpus
from hf_genext.devices import describe_device
from hf_genext.embedding_training import EmbeddingTrainingArguments, StaticEmbeddingTrainer
from hf_genext.hub import render_model_card, write_results
from hf_genext.word_metrics import WORD_METRICS, evaluate_space
from recipes.arguments import SettingsError, parse_settings
from recipes.plots import draw_space_map
from recipes.results import build_results, summarize, update_recipe_results
from recipes.running import (
    count_threads,
    describe_versions,
    find_recipe_results,
    import_script,
    refuse_earlier_run,
    run_main,
    set_up_logging,
)

logger = logging.getLogger("recipes")


@dataclass
class CorpusSettings:
    """What to learn from."""

    data_script: str | None = field(default=None, metadata={"help": "A script beside the settings file that brings the text."})
    train_file: list[str] | None = field(
        default=None, metadata={"help": "Text files and folders of them, a line a sentence; or one `datasets` source."}
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a `datasets` source."})
    dataset_split: str = field(default="train", metadata={"help": "Split of a `datasets` source."})
    streaming: bool = field(default=False, metadata={"help": "Read a `datasets` source without bringing it to disk first."})
    text_column: str = field(default="text", metadata={"help": "Column of a `datasets` source."})
    lowercase: bool = field(default=False, metadata={"help": "Lower-case the text."})
    split: str = field(default="punctuation", metadata={"help": "Part words at punctuation too, or at whitespace alone."})
    encoding: str = field(default="utf-8", metadata={"help": "Encoding of text files."})
    min_count: int = field(default=5, metadata={"help": "Drop words that occur less often."})
    max_vocab_size: int | None = field(default=None, metadata={"help": "Keep the most frequent so many words."})


@dataclass
class SpaceSettings:
    """What is saved, and with what beside it."""

    pooling: str = field(default="mean", metadata={"help": "A sentence's vector: mean, or sif (weighted by frequency)."})
    normalize: bool = field(default=False, metadata={"help": "Give sentence vectors length 1."})
    title: str = field(default="Word vectors", metadata={"help": "Title of the model card."})
    task: str = field(default="", metadata={"help": "One line for the card: what the space holds."})
    example: str = field(default="violin", metadata={"help": "A word for the card's code."})
    license: str = field(default="apache-2.0", metadata={"help": "Licence of the space."})
    metrics: list[str] = field(
        default_factory=lambda: list(WORD_METRICS), metadata={"help": "Tests of words: wordsim353, simlex999, analogies."}
    )
    map_method: str = field(default="pca", metadata={"help": "How the map is drawn: pca, or umap (extra maps)."})
    deciding_metrics: dict | None = field(default=None, metadata={"help": "The metrics that decide: {name: higher | lower}."})
    baselines: dict | None = field(default=None, metadata={"help": "Others' metrics: {label: {name: number}}."})
    update_results: bool = field(default=False, metadata={"help": "Write the results into the recipe's results.json."})


def main(argv: list[str] | None = None) -> None:
    """Run the recipe; see the top of the file."""
    corpus_settings, space_settings, args, config_path = parse_settings(
        [CorpusSettings, SpaceSettings, EmbeddingTrainingArguments], sys.argv[1:] if argv is None else argv
    )
    state = PartialState(cpu=not torch.accelerator.is_available())
    transformers.utils.logging.disable_progress_bar()  # Of files being written, inside the bar of the training.
    set_up_logging(is_main_process=state.is_main_process)
    output_dir = Path(args.output_dir)
    if state.is_main_process and args.resume_from_checkpoint is None:
        refuse_earlier_run(output_dir)
    with hold_folder(output_dir) if state.is_main_process else contextlib.nullcontext():
        recipe_results = find_recipe_results(config_path) if space_settings.update_results else None
        with state.main_process_first():
            corpus, facts = read_corpus(corpus_settings, output_dir, config_path, show_progress=state.is_main_process)
        logger.info("%s: %s", facts["name"], corpus)
        trainer = StaticEmbeddingTrainer(
            args,
            corpus,
            lowercase=corpus_settings.lowercase,
            pooling=space_settings.pooling,
            normalize=space_settings.normalize,
        )
        output = trainer.train()
        logger.info("%.0f words a second, loss %.4f", output.tokens_per_second, output.loss)
        if not state.is_main_process:
            return
        space = trainer.model.to_space(split=corpus_settings.split)
        space.save_pretrained(output_dir)
        metrics = {
            **evaluate_space(space, space_settings.metrics),
            "words_per_second": output.tokens_per_second,
            "loss": output.loss,
        }
        results = build_results(
            metrics,
            kind="static-embedding",
            seed=args.seed,
            minutes=output.minutes,
            deciding=space_settings.deciding_metrics or {},
            baselines=space_settings.baselines or {},
            data={
                **facts,
                "words of text": corpus.num_tokens,
                "vocabulary": len(corpus.words),
                "subwords": args.num_buckets,
                "pooling": space_settings.pooling,
            },
            hardware=describe_device(count_threads(args.num_threads) * state.num_processes),
            versions=describe_versions(),
        )
        write_results(output_dir / "results.json", results)
        _write_card(space, results, space_settings, output_dir)
        if recipe_results is not None:
            update_recipe_results(recipe_results, results)
            shutil.copyfile(output_dir / "map.png", recipe_results.parent / "map.png")
        print(f"\n{summarize(results)}\nThe space is in {output_dir}. Use it:\n")
        print(
            f'  import hf_genext\n  from transformers import AutoModel\n\n  space = AutoModel.from_pretrained("{output_dir}")'
        )
        example = space_settings.example if space_settings.example in space else space.words[0]
        print(f"  space.most_similar({example!r}, topn=3)  # {_round(space.most_similar(example, topn=3))}")


def read_corpus(
    settings: CorpusSettings, output_dir: Path, config_path: Path | None, *, show_progress: bool
) -> tuple[EncodedCorpus, dict[str, Any]]:
    """The text, encoded in `output_dir/corpus`, and facts about it."""
    facts: dict[str, Any] = {}
    source: Any = settings.train_file
    if source is None and settings.data_script is not None:
        prepared = import_script(config_path, "data_script", settings.data_script).prepare_data(output_dir / "data")
        source, facts = [prepared["train_file"]], prepared["facts"]
    if source is None:
        raise SettingsError("There is no text: set train_file (files, folders, or one `datasets` source).")
    facts.setdefault("name", " + ".join(Path(name).name for name in source))
    if len(source) == 1 and not Path(source[0]).exists():
        try:
            source = datasets.load_dataset(
                source[0], settings.dataset_config, split=settings.dataset_split, streaming=settings.streaming
            )
        except (FileNotFoundError, ConnectionError) as error:
            raise FileNotFoundError(
                f"{source[0]!r} is neither a file, a folder nor a dataset that can be opened: {error}"
            ) from error
    corpus = encode_corpus(
        source,
        output_dir / "corpus",
        lowercase=settings.lowercase,
        split=settings.split,
        min_count=settings.min_count,
        max_vocab_size=settings.max_vocab_size,
        text_column=settings.text_column,
        encoding=settings.encoding,
        show_progress=show_progress,
    )
    return corpus, facts


def _write_card(
    space: hf_genext.StaticEmbeddingModel, results: dict[str, Any], settings: SpaceSettings, output_dir: Path
) -> None:
    draw_space_map(space, output_dir / "map.png", method=settings.map_method, title=settings.title)
    card = render_model_card(
        results,
        title=settings.title,
        task=settings.task,
        example=settings.example,
        license=settings.license,
        pictures={"A map of the space": "map.png"},
    )
    (output_dir / "README.md").write_text(card, encoding="utf-8")


def _round(pairs: list[tuple[str, float]]) -> list[tuple[str, float]]:
    return [(word, round(cosine, 2)) for word, cosine in pairs]


if __name__ == "__main__":
    run_main(main)

"""Import word vectors from any file that `StaticEmbeddingModel.from_vectors` reads: score, draw and save them with a card.

    python recipes/import_vectors.py recipes/glove/config.yaml
    python recipes/import_vectors.py --vectors glove.840B.300d.zip --output_dir out/glove-840b
    python recipes/import_vectors.py --vectors cc.en.300.bin --limit 200000 --metrics wordsim353 --output_dir out/fasttext

Some seconds:

    python recipes/import_vectors.py recipes/glove/smoke.yaml
"""

from __future__ import annotations

import time

STARTED_AT = time.monotonic()  # Before the slow imports.

import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(folder for folder in sys.path if Path(folder).resolve() not in (HERE, HERE.parent))]

import torch

from hf_genext import StaticEmbeddingModel
from hf_genext.checkpoints import hold_folder
from hf_genext.devices import describe_device
from hf_genext.hub import render_model_card, write_results
from hf_genext.word_metrics import WORD_METRICS, evaluate_space
from recipes.arguments import SettingsError, parse_settings
from recipes.plots import draw_space_map
from recipes.results import build_results, summarize, update_recipe_results
from recipes.running import describe_versions, find_recipe_results, import_script, run_main


@dataclass
class ImportSettings:
    """What to import, and how to score it."""

    vectors: str | None = field(
        default=None,
        metadata={"help": "A file of word2vec, GloVe or fastText, or the folder of another library."},
    )
    vectors_script: str | None = field(
        default=None,
        metadata={"help": "A script beside the settings file that brings the vectors, where no file is given."},
    )
    limit: int | None = field(default=None, metadata={"help": "Keep the first so many words only."})
    dtype: str = field(default="float32", metadata={"help": "Kind of number to keep."})
    encoding: str = field(default="utf-8", metadata={"help": "Encoding of the words of a file."})
    lowercase: bool | None = field(default=None, metadata={"help": "Lower-case texts; left out, where no word has a capital."})
    pooling: str = field(default="mean", metadata={"help": "Sentence vectors: mean, or sif where the file has counts."})
    normalize: bool = field(default=False, metadata={"help": "Whether sentence vectors have length 1."})
    metrics: list[str] = field(
        default_factory=lambda: list(WORD_METRICS), metadata={"help": "Tests of words: wordsim353, simlex999, analogies."}
    )
    map_method: str = field(default="pca", metadata={"help": "How the map is drawn: pca, or umap (extra maps)."})


@dataclass
class ImportRunSettings:
    """What to leave behind."""

    title: str = field(default="Word vectors", metadata={"help": "Title of the model card."})
    task: str = field(default="A word goes in; its vector comes out.", metadata={"help": "One line for the card."})
    example: str = field(default="violin", metadata={"help": "A word for the card's code."})
    license: str = field(default="unknown", metadata={"help": "Licence of the vectors, by the Hub's identifier."})
    output_dir: str = field(default="out/vectors", metadata={"help": "Folder of the space."})
    deciding_metrics: dict | None = field(default=None, metadata={"help": "The metrics that decide: {name: higher | lower}."})
    baselines: dict | None = field(
        default=None, metadata={"help": "Others' metrics, to stand beside ours: {label: {name: number}}."}
    )
    update_results: bool = field(default=False, metadata={"help": "Write results and map into the recipe's folder."})


def main(argv: list[str] | None = None) -> None:
    """Run the recipe; see the top of the file."""
    settings, run, config_path = parse_settings([ImportSettings, ImportRunSettings], sys.argv[1:] if argv is None else argv)
    recipe = find_recipe_results(config_path).parent if run.update_results else None
    output_dir = Path(run.output_dir)
    with hold_folder(output_dir):
        space, facts = load_space(settings, config_path)
        scores = evaluate_space(space, settings.metrics)
        space.save_pretrained(output_dir)
        results = build_results(
            scores,
            kind="static-embedding",
            seed=0,  # Nothing is drawn.
            minutes=(time.monotonic() - STARTED_AT) / 60,
            deciding=run.deciding_metrics or dict.fromkeys(settings.metrics, "higher"),
            baselines=run.baselines or {},
            data={
                **facts,
                "words": len(space),
                "size": space.config.hidden_size,
                "subwords": space.config.num_buckets,
                "pooling": space.config.pooling,
            },
            hardware=describe_device(torch.get_num_threads()),
            versions=describe_versions(),
        )
        write_results(output_dir / "results.json", results)
        draw_space_map(space, output_dir / "map.png", method=settings.map_method, title=run.title)
        card = render_model_card(
            results,
            title=run.title,
            task=run.task,
            example=run.example,
            license=run.license,
            pictures={"A map of the space": "map.png"},
        )
        (output_dir / "README.md").write_text(card, encoding="utf-8")
        if recipe is not None:
            update_recipe_results(recipe / "results.json", results)
            shutil.copyfile(output_dir / "map.png", recipe / "map.png")
    print(f"\n{summarize(results)}\nThe space is in {output_dir}. Use it:\n")
    print("  import hf_genext\n  from transformers import AutoModel\n")
    print(f'  space = AutoModel.from_pretrained("{output_dir}")\n  space.most_similar({run.example!r})')


def load_space(settings: ImportSettings, config_path: Path | None) -> tuple[StaticEmbeddingModel, dict[str, Any]]:
    """The space, and facts about where it comes from."""
    config = {"pooling": settings.pooling, "normalize": settings.normalize}
    if settings.vectors is not None:
        space = StaticEmbeddingModel.from_vectors(
            settings.vectors,
            limit=settings.limit,
            dtype=settings.dtype,
            encoding=settings.encoding,
            lowercase=settings.lowercase,
            **config,
        )
        return space, {"name": Path(settings.vectors).name}
    if settings.vectors_script is None:
        raise SettingsError("There are no vectors: set vectors (a file of word2vec, GloVe or fastText).")
    module = import_script(config_path, "vectors_script", settings.vectors_script)
    words, vectors = module.read_vectors()
    words, vectors = words[: settings.limit], vectors[: settings.limit].astype(settings.dtype)
    lowercase = all(word == word.lower() for word in words) if settings.lowercase is None else settings.lowercase
    return StaticEmbeddingModel.from_words(words, vectors, lowercase=lowercase, **config), dict(module.FACTS)


if __name__ == "__main__":
    run_main(main)

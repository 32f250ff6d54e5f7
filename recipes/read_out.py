"""Read a pretrained model's words out to a space of static vectors.

    python recipes/read_out.py recipes/distilled/config.yaml
    python recipes/read_out.py recipes/distilled/config.yaml --model bert-base-uncased --output_dir out/bert
    python recipes/read_out.py --model out/gpt2 --words_file sentences.txt --output_dir out/sentences

Some seconds:

    python recipes/read_out.py recipes/distilled/smoke.yaml
"""

from __future__ import annotations

import time

STARTED_AT = time.monotonic()  # Before the slow imports.

import logging
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(folder for folder in sys.path if Path(folder).resolve() not in (HERE, HERE.parent))]

import numpy as np
import torch

from hf_genext import StaticEmbeddingModel
from hf_genext.checkpoints import hold_folder
from hf_genext.devices import describe_device
from hf_genext.hub import render_model_card, write_results
from hf_genext.word_metrics import evaluate_space
from recipes.arguments import SettingsError, parse_settings
from recipes.plots import draw_space_map
from recipes.results import build_results, summarize, update_recipe_results
from recipes.running import count_threads, describe_versions, find_recipe_results, import_script, run_main, set_up_logging

logger = logging.getLogger("recipes")


@dataclass
class ReadOutSettings:
    """What to read out, and how; see `StaticEmbeddingModel.from_pretrained_model`."""

    model: str | None = field(default=None, metadata={"help": "A folder or Hub id: an encoder or a causal language model."})
    model_script: str | None = field(
        default=None, metadata={"help": "A script beside the settings file that finds the model, where none is given."}
    )
    words: list[str] | None = field(
        default=None, metadata={"help": "Words or sentences; without them and words_file, the tokens of the tokenizer."}
    )
    words_file: str | None = field(
        default=None, metadata={"help": "A UTF-8 file, a word or sentence a line; behind a tab may stand how often it occurs."}
    )
    split: str | None = field(default=None, metadata={"help": "How the space parts text: punctuation, whitespace or none."})
    layer: list[int] = field(
        default_factory=lambda: [-1], metadata={"help": "Layer (0: embeddings, -1: last), or several for their mean."}
    )
    pooling: str = field(default="mean", metadata={"help": "mean, mean_with_special, first or last."})
    prompt: str | None = field(default=None, metadata={"help": "What stands in front of each word."})
    pca_dims: int | None = field(default=None, metadata={"help": "How many principal components to keep."})
    remove_mean: bool = field(default=False, metadata={"help": "Take the mean away first."})
    remove_components: int = field(default=0, metadata={"help": "How many of the first components to leave out."})
    frequencies: str | None = field(
        default=None, metadata={"help": "SIF weights from `counts` (of words_file) or by rank (`zipf`); left out, none."}
    )
    sif_coefficient: float = field(default=1e-4, metadata={"help": "The a of those weights."})
    normalize: bool = field(default=False, metadata={"help": "Whether sentence vectors have length 1."})
    batch_size: int = field(default=256, metadata={"help": "Words at once."})
    device: str | None = field(default=None, metadata={"help": "Where to run; left out, the accelerator, if there is one."})


@dataclass
class RunSettings:
    """How to score, and what to leave behind."""

    title: str = field(default="Static word vectors", metadata={"help": "Title of the model card."})
    task: str = field(default="", metadata={"help": "One line for the card: what goes in and what comes out."})
    example: str = field(default="", metadata={"help": "An input for the card's code."})
    license: str = field(default="apache-2.0", metadata={"help": "Licence of the space."})
    output_dir: str = field(default="out/read-out", metadata={"help": "Folder of the space."})
    metrics: list[str] | None = field(default=None, metadata={"help": "Tests of words: wordsim353, simlex999, analogies."})
    map_method: str = field(default="pca", metadata={"help": "How the map is drawn: pca, or umap (extra maps)."})
    deciding_metrics: dict | None = field(default=None, metadata={"help": "The metrics that decide: {name: higher | lower}."})
    baselines: dict | None = field(
        default=None, metadata={"help": "Others' metrics, to stand beside ours: {label: {name: number}}."}
    )
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads; left out, all cores."})
    update_results: bool = field(default=False, metadata={"help": "Write the results into the recipe's results.json."})


class TextSimilarity:
    """Cosines of texts by any encoder of texts, as the tests of words ask a space for them.

    A space over the tokens of a model is asked so: a word that is no token of its own has the vector of its tokens.

    Args:
        encode: Gives a list of texts vectors, (texts, size).
    """

    def __init__(self, encode: Callable[[list[str]], np.ndarray]) -> None:
        self._encode = encode

    def similarity(self, first: str, second: str) -> float:
        """The cosine of two texts."""
        one, other = np.asarray(self._encode([first, second]), dtype=np.float64)
        return float(one @ other / max(float(np.linalg.norm(one) * np.linalg.norm(other)), 1e-12))


def main(argv: list[str] | None = None) -> None:
    """Run the recipe; see the top of the file."""
    read_out, run, config_path = parse_settings([ReadOutSettings, RunSettings], sys.argv[1:] if argv is None else argv)
    set_up_logging()
    torch.set_num_threads(count_threads(run.num_threads))
    recipe = find_recipe_results(config_path).parent if run.update_results else None
    with hold_folder(Path(run.output_dir)):
        _run(read_out, run, config_path, recipe)


def _run(read_out: ReadOutSettings, run: RunSettings, config_path: Path | None, recipe: Path | None) -> None:
    model, facts = _find_model(read_out, config_path)
    space = read_space(model, read_out)
    scores = score_space(space, run.metrics or [])
    output_dir = Path(run.output_dir)
    space.save_pretrained(output_dir)
    results = build_results(
        scores,
        kind="static-embedding",
        seed=0,  # Nothing is drawn.
        minutes=(time.monotonic() - STARTED_AT) / 60,
        deciding=run.deciding_metrics or {},
        # Others' numbers stand beside those of the recipe's own model.
        baselines=(run.baselines or {}) if read_out.model is None else {},
        data={**facts, "words": len(space), "size": space.config.hidden_size, "pooling": space.config.pooling},
        hardware=describe_device(torch.get_num_threads()),
        versions=describe_versions(),
    )
    write_results(output_dir / "results.json", results)
    pictures = {}
    if len(space) > 2:
        draw_space_map(space, output_dir / "map.png", method=run.map_method, title=run.title)
        pictures["A map of the space"] = "map.png"
    card = render_model_card(
        results, title=run.title, task=run.task, example=run.example, license=run.license, pictures=pictures
    )
    (output_dir / "README.md").write_text(card, encoding="utf-8")
    if recipe is not None:
        update_recipe_results(recipe / "results.json", results)
        if pictures:
            shutil.copyfile(output_dir / "map.png", recipe / "map.png")
    print(f"\n{summarize(results)}\nThe space is in {output_dir}. Use it:\n")
    print("  import hf_genext\n  from transformers import AutoModel\n")
    print(f'  space = AutoModel.from_pretrained("{output_dir}")\n  space.most_similar({run.example!r})')


def read_space(model: Any, settings: ReadOutSettings, tokenizer: Any = None) -> StaticEmbeddingModel:
    """The space of a model by the settings of a recipe."""
    words, counts = _read_words(settings)
    if settings.frequencies not in (None, "zipf", "counts"):
        raise SettingsError(f"frequencies must be counts or zipf, got {settings.frequencies!r}.")
    if settings.frequencies == "counts" and counts is None:
        raise SettingsError("frequencies: counts needs a words_file with a tab and a count behind each word.")
    return StaticEmbeddingModel.from_pretrained_model(
        model,
        tokenizer,
        words=words,
        split=settings.split,
        layer=settings.layer,
        pooling=settings.pooling,
        prompt=settings.prompt,
        pca_dims=settings.pca_dims,
        remove_mean=settings.remove_mean,
        remove_components=settings.remove_components,
        frequencies=counts if settings.frequencies == "counts" else settings.frequencies,
        sif_coefficient=settings.sif_coefficient,
        batch_size=settings.batch_size,
        device=settings.device,
        normalize=settings.normalize,
    )


def score_space(space: StaticEmbeddingModel, names: Sequence[str]) -> dict[str, float]:
    """The scores of a space in tests of words; where its words are tokens, pairs of words are pairs of texts."""
    if not space.config.subword_tokens:
        return evaluate_space(space, names)
    pairs = [name for name in names if name != "analogies"]
    by_text = evaluate_space(TextSimilarity(space.encode), pairs)
    return {**by_text, **evaluate_space(space, [name for name in names if name not in pairs])}


def _read_words(settings: ReadOutSettings) -> tuple[list[str] | None, Sequence[float] | None]:
    """The words, and how often each occurs, where the file says that of every one."""
    if settings.words_file is None:
        return settings.words, None
    if settings.words is not None:
        raise SettingsError("words and words_file exclude each other.")
    path = Path(settings.words_file)
    if not path.is_file():
        raise SettingsError(f"words_file names {str(path)!r}, which is not there.")
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    parted = [line.rpartition("\t") for line in lines]
    if not all(word and count.strip().isdigit() for word, _, count in parted):
        return [line.strip() for line in lines], None
    return [word.strip() for word, _, _ in parted], [int(count) for _, _, count in parted]


def _find_model(settings: ReadOutSettings, config_path: Path | None) -> tuple[str, dict[str, Any]]:
    """The model, and facts about it."""
    if settings.model is not None:
        return settings.model, {"name": Path(settings.model).name}
    if settings.model_script is None:
        raise SettingsError("There is no model: set model (a folder or a Hub id).")
    found = import_script(config_path, "model_script", settings.model_script).find_model()
    return found["model"], found["facts"]


if __name__ == "__main__":
    run_main(main)

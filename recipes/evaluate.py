"""Score any saved conditional model on any file.

    python recipes/evaluate.py --model out/g2p --test_file test.tsv --column_names word pronunciation \
        --source_column word --target_column pronunciation --num_beams 5

A settings file may come first, whose data settings then apply: `recipes/evaluate.py recipes/g2p/config.yaml --model ...`.
Several targets of one source are several references; the best one counts.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

# A script's own folder comes first in the path, where this file would stand before the library of its name.
HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(folder for folder in sys.path if Path(folder).resolve() not in (HERE, HERE.parent))]

import torch
from tqdm.auto import tqdm
from transformers import pipeline

import hf_genext
from hf_genext.data import group_references, read_pairs
from hf_genext.metrics import bootstrap_interval, build_metrics, score_exact
from hf_genext.training import GenextTrainingArguments
from recipes.arguments import SettingsError, parse_settings
from recipes.running import describe_missing_model, run_main
from recipes.train_conditional import DataSettings, ModelSettings, RunSettings


@dataclass
class EvaluationSettings:
    """What to score, and how to generate."""

    test_file: list[str] | None = field(
        default=None, metadata={"help": "A file, a `datasets` source, or two text files (source and target)."}
    )
    num_beams: int = field(default=1, metadata={"help": "Beams; 1 is greedy."})
    rerank: bool = field(default=False, metadata={"help": "Search in both directions, each judging what the other found."})
    batch_size: int = field(default=256, metadata={"help": "Sources that are generated from at once."})
    limit: int | None = field(default=None, metadata={"help": "Score the first so many sources only."})
    predictions_file: str | None = field(default=None, metadata={"help": "Write source, output and references here (TSV)."})


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Score and print; see the top of the file."""
    words = sys.argv[1:] if argv is None else argv
    # A recipe's settings file has settings of the training too: they are known here, but only those of the data matter.
    settings, model_settings, data, run, _, _ = parse_settings(
        [EvaluationSettings, ModelSettings, DataSettings, RunSettings, GenextTrainingArguments], words
    )
    if model_settings.model is None or settings.test_file is None:
        raise SettingsError("Give --model FOLDER and --test_file FILE.")
    if run.num_threads is not None:
        torch.set_num_threads(run.num_threads)
    pairs, report = read_pairs(
        settings.test_file[0] if len(settings.test_file) == 1 else settings.test_file,
        source_column=data.source_column,
        target_column=data.target_column,
        column_names=data.column_names,
        config_name=data.dataset_config,
        split=data.dataset_split,
    )
    logging.getLogger("recipes").warning("%s: %s", " + ".join(settings.test_file), report)
    rows = group_references(pairs)
    if settings.limit is not None:
        rows = rows.select(range(min(settings.limit, len(rows))))
    try:
        generate = pipeline("conditional-generation", model=model_settings.model)
    except OSError as error:
        raise SettingsError(describe_missing_model(model_settings.model, error)) from error
    sources, references = list(rows["source"]), list(rows["references"])
    # Sources of one length beside each other need no padding; the answers go back to their places.
    order = sorted(range(len(sources)), key=lambda index: len(sources[index]))

    def stream() -> Iterator[str]:
        for index in order:
            yield sources[index]

    predictions = [""] * len(sources)
    search = {"num_beams": settings.num_beams, "rerank": settings.rerank}
    answers = generate(stream(), batch_size=settings.batch_size, truncation=True, **search)
    for index, answer in zip(order, tqdm(answers, total=len(order), unit="row", desc="generating"), strict=True):
        predictions[index] = answer[0]["generated_text"]
    scores = build_metrics(data.metrics or ["exact_match", "token_error_rate"])(predictions, references)
    low, high = bootstrap_interval(100.0 * score_exact(predictions, references))
    if settings.predictions_file is not None:
        lines = (
            "\t".join([source, prediction, *candidates]) + "\n"
            for source, prediction, candidates in zip(sources, predictions, references, strict=True)
        )
        Path(settings.predictions_file).write_text("".join(lines), encoding="utf-8")
    print(json.dumps({"model": model_settings.model, "sources": len(sources), **search, **scores}))
    for name, value in scores.items():
        print(f"  {name.replace('_', ' '):<28} {value:.2f}")
    print(f"  exact match, 95% interval     {low:.2f} to {high:.2f}   (hf_genext {hf_genext.__version__})")
    return scores


if __name__ == "__main__":
    run_main(main)

"""Score any saved conditional model on any file.

    python recipes/evaluate.py --model out/g2p --test_file test.tsv --column_names word pronunciation \
        --source_column word --target_column pronunciation --num_beams 5

A settings file may come first, whose data settings then apply: `recipes/evaluate.py recipes/g2p/config.yaml --model ...`.
Several targets of one source are several references; the best one counts. Perplexity and bits per character are those of every
target by itself. A model with a single output is scored by the metrics of its head.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

# A script's own folder comes first in the path, where this file would stand before the library of its name.
HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(folder for folder in sys.path if Path(folder).resolve() not in (HERE, HERE.parent))]

import datasets
import torch
from tqdm.auto import tqdm
from transformers import pipeline

import hf_genext
from hf_genext.conditions import list_conditions, list_kinds
from hf_genext.metrics import bootstrap_interval, score_exact
from hf_genext.prediction_metrics import list_prediction_metrics
from hf_genext.sequence_metrics import SEQUENCE_METRICS
from hf_genext.training import GenextTrainer, GenextTrainingArguments
from recipes.arguments import SettingsError, parse_settings
from recipes.conditional_data import (
    RowReader,
    build_output_metrics,
    build_text_metrics,
    encode_dataset,
    find_data,
    group_rows,
    load_data,
)
from recipes.conditional_model import require_needed_models
from recipes.conditional_settings import DataSettings, ModelSettings, RunSettings
from recipes.running import describe_missing_model, run_main, set_up_logging
from recipes.text_distributions import measure_given

logger = logging.getLogger("recipes")

_WITHOUT_BREAKS = str.maketrans("\t\r\n", "   ")
"""Of a text that stands in a field of a TSV file."""


@dataclass
class EvaluationSettings:
    """What to score, and how to generate."""

    num_beams: int | None = field(default=None, metadata={"help": "Beams; 1 is greedy. As the model is saved if left out."})
    num_candidates: int | None = field(
        default=None, metadata={"help": "Draw so many outputs, and take the one that is most like the others."}
    )
    rerank: bool = field(default=False, metadata={"help": "Search in both directions, each judging what the other found."})
    batch_size: int = field(default=256, metadata={"help": "Sources that are generated from at once."})
    limit: int | None = field(default=None, metadata={"help": "Score the first so many sources only."})
    num_importance_samples: int = field(
        default=64, metadata={"help": "Draws of latent numbers, where there are some, for how likely given texts are."}
    )
    predictions_file: str | None = field(default=None, metadata={"help": "Write source, output and references here (TSV)."})


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Score and print; see the top of the file."""
    words = sys.argv[1:] if argv is None else argv
    # A recipe's settings file has settings of the training too: they are known here, but only those of the data matter.
    settings, model_settings, data, run, args, config_path = parse_settings(
        [EvaluationSettings, ModelSettings, DataSettings, RunSettings, GenextTrainingArguments], words
    )
    set_up_logging()
    if model_settings.model is None or (data.test_file is None and data.data_script is None):
        raise SettingsError("Give --model FOLDER and --test_file FILE.")
    if run.num_threads is not None:
        torch.set_num_threads(run.num_threads)
    if settings.limit is not None and settings.limit < 1:
        raise SettingsError(f"limit must be 1 or more, got {settings.limit}; leave it out for all.")
    require_needed_models(model_settings, data.conditions)
    try:
        generate = pipeline("conditional-generation", model=model_settings.model)
    except OSError as error:
        raise SettingsError(describe_missing_model(model_settings.model, error)) from error
    predicts = not generate.model.can_generate()
    reader = RowReader(data, generate.model.config.head.kind if predicts else "text")
    rows = _read_test_rows(data, reader, Path(args.output_dir or "out"), config_path)
    if settings.limit is not None:
        rows = rows.select(range(min(settings.limit, len(rows)))) if predicts else rows
    if predicts:
        scores = _score_outputs(generate, rows, data, reader, settings, args)
        print(json.dumps({"model": model_settings.model, "rows": len(rows), **scores}))
    else:
        given = [name for name in data.metrics or [] if name in SEQUENCE_METRICS]
        scores = _score_given(generate, rows, given, settings) if given else {}
        if not given or len(given) < len(data.metrics or []) or data.metrics_script is not None:
            scores |= _score_texts(generate, rows, data, config_path, settings, str(model_settings.model))
    return scores


def _read_test_rows(data: DataSettings, reader: RowReader, folder: Path, config_path: Path | None) -> datasets.Dataset:
    if data.test_file is not None:
        return reader.read(data.test_file)
    rows = load_data(data, reader, find_data(data, folder / "data", config_path)).test
    if rows is None:
        raise SettingsError("The data script brings no test file: give --test_file FILE.")
    return rows


def _score_outputs(
    generate: Any,
    rows: datasets.Dataset,
    data: DataSettings,
    reader: RowReader,
    settings: EvaluationSettings,
    args: GenextTrainingArguments,
) -> dict[str, float]:
    """Score a model with a single output on every row, and print."""
    processor, head = generate.processor, generate.model.config.head
    encoded, report = encode_dataset(
        rows,
        processor,
        data,
        reader,
        max_source_length=10**9,
        max_target_length=10**9,
        output_names=head.output_names,
    )
    print(f"{report}", file=sys.stderr)
    arguments = replace(args, per_device_eval_batch_size=settings.batch_size, report_to="none")
    trainer = GenextTrainer(
        model=generate.model,
        args=arguments,
        eval_dataset=encoded,
        processing_class=processor,
        prediction_metrics=build_output_metrics(data, head.kind, threshold=head.threshold),
    )
    known = list_prediction_metrics(head.kind)
    scores = {name.removeprefix("eval_"): value for name, value in trainer.evaluate().items()}
    scores = {name: value for name, value in scores.items() if name in known}
    for name, value in scores.items():
        print(f"  {name.replace('_', ' '):<28} {value:.4g}")
    return scores


def _score_given(generate: Any, rows: datasets.Dataset, names: list[str], settings: EvaluationSettings) -> dict[str, float]:
    """Score how likely a model finds every target, and print."""
    rows = rows.select(range(min(settings.limit or len(rows), len(rows))))
    conditions = list_conditions(rows) if list_kinds(rows) or not any(rows[:100]["source"]) else list(rows["source"])
    how = {"num_importance_samples": settings.num_importance_samples, "batch_size": settings.batch_size}
    scores = measure_given(generate, conditions, list(rows["target"]), names, **how)
    for name, value in scores.items():
        print(f"  {name.replace('_', ' '):<28} {value:.4g}")
    return scores


def _score_texts(
    generate: Any,
    rows: datasets.Dataset,
    data: DataSettings,
    config_path: Path | None,
    settings: EvaluationSettings,
    model: str,
) -> dict[str, float]:
    """Score what a model generates from every distinct condition, and print."""
    if settings.predictions_file is not None:  # Before the work: what cannot be written must not cost it.
        Path(settings.predictions_file).parent.mkdir(parents=True, exist_ok=True)
    if not data.metrics and data.metrics_script is None:
        data = replace(data, metrics=["exact_match", "token_error_rate"])
    metrics = build_text_metrics(data, config_path)
    # Those of other families are scored as is usual with them, by references as they are.
    grouped = group_rows(rows, generate.tokenizer, getattr(generate.processor, "target_tokenizer", None))
    grouped = {name: values[: settings.limit] for name, values in grouped.items()}
    conditions, names, references = grouped["source"], grouped["name"], grouped["references"]
    # Sources of one length beside each other need no padding; the answers go back to their places.
    order = sorted(range(len(names)), key=lambda index: len(names[index]))

    def stream() -> Iterator[Any]:
        for index in order:
            yield conditions[index]

    predictions, num_cut = [""] * len(names), 0
    search: dict[str, Any] = {"rerank": settings.rerank}
    if settings.num_beams is not None:
        search["num_beams"] = settings.num_beams
    if settings.num_candidates is not None:
        search["num_candidates"] = settings.num_candidates
    answers = generate(stream(), batch_size=settings.batch_size, truncation=True, **search)
    for index, answer in zip(order, tqdm(answers, total=len(order), unit="row", desc="generating"), strict=True):
        predictions[index] = answer[0]["generated_text"]
        num_cut += answer[0].get("truncated", False)
    if num_cut:
        logger.warning("%d of %d conditions are longer than the model takes, and were cut.", num_cut, len(names))
    scores = {} if metrics is None else metrics(predictions, references)
    low, high = bootstrap_interval(100.0 * score_exact(predictions, references))
    if settings.predictions_file is not None:
        lines = (
            "\t".join(text.translate(_WITHOUT_BREAKS) for text in (name, prediction, *candidates)) + "\n"
            for name, prediction, candidates in zip(names, predictions, references, strict=True)
        )
        Path(settings.predictions_file).write_text("".join(lines), encoding="utf-8")
    is_chosen = generate.chooses_from_draws(**search)
    saved = generate.model.generation_config
    way = {"num_candidates": saved.num_candidates} if is_chosen and settings.num_candidates is None else {}
    shown = {**({} if is_chosen else {"num_beams": saved.num_beams or 1}), **way, **search}
    print(json.dumps({"model": model, "sources": len(names), **shown, **scores}))
    for name, value in scores.items():
        print(f"  {name.replace('_', ' '):<28} {value:.2f}")
    print(f"  exact match, 95% interval     {low:.2f} to {high:.2f}   (hf_genext {hf_genext.__version__})")
    return scores


if __name__ == "__main__":
    run_main(main)

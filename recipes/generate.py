"""Generate from every row of a file, on as many ranks as there are.

    accelerate launch recipes/generate.py --model out/g2p --input words.tsv --output phones.parquet --conditions.text word
    accelerate launch recipes/generate.py --model out/gloss --input rows.parquet --output glosses.jsonl \
        --conditions.vector.column word --conditions.vector.space out/glove --num_beams 5 --return_scores true

Two ranks on a machine without a GPU:

    ACCELERATE_USE_CPU=1 accelerate launch --multi_gpu --num_processes 2 recipes/generate.py ...

The input is a .parquet, .csv, .tsv, .jsonl or .txt file (text also with .gz), a folder that `save_to_disk` wrote, or the name
of a data set that `datasets` streams. The output is a .parquet or .jsonl file with the columns of the input, those of the
answer, and `error`. After a kill the same command goes on; no row is lost, and none is there twice.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

# A script's own folder comes first in the path, where evaluate.py would stand before the library of that name.
HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(folder for folder in sys.path if Path(folder).resolve() not in (HERE, HERE.parent))]

import datasets
import torch
import transformers
from accelerate import PartialState
from transformers import pipeline

import hf_genext
from hf_genext.batch_jobs import BatchJob, JobReport, run_batch_job
from hf_genext.conditions import ConditionColumns, parse_condition_columns
from hf_genext.pipeline_inputs import parse_truncation
from hf_genext.row_sources import RowSource, open_source
from recipes.arguments import SettingsError, parse_settings
from recipes.running import count_threads, describe_missing_model, resolve_name, run_main, set_up_logging


@dataclass
class GenerationSettings:
    """What to generate from, with what, and how."""

    model: str | None = field(default=None, metadata={"help": "A folder or Hub id."})
    input: str | None = field(default=None, metadata={"help": "A file, or a `datasets` source."})
    output: str | None = field(default=None, metadata={"help": "The .parquet or .jsonl file to write."})
    conditions: dict | None = field(
        default=None,
        metadata={
            "help": "Columns of the conditions: {text | vector | label | image | audio: column, list of columns, or {column:, "
            "space: folder of word vectors}}; left out, the text in source_column."
        },
    )
    source_column: str | None = field(
        default=None,
        metadata={"help": "Column of the condition, where it is a text; left out, text, or where there is none source."},
    )
    column_names: list[str] | None = field(default=None, metadata={"help": "Names for a file without a header."})
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a `datasets` source."})
    dataset_split: str | None = field(default=None, metadata={"help": "Split of a `datasets` source."})
    keep_columns: list[str] | None = field(default=None, metadata={"help": "Columns of the input to keep; else all."})
    rows_per_shard: int = field(default=1000, metadata={"help": "Rows that a kill can cost a rank."})
    batch_size: int | None = field(
        default=None, metadata={"help": "The most rows that run at once; left out, chosen by their length, or 1."}
    )
    num_threads: int | None = field(
        default=None, metadata={"help": "CPU threads of a rank; left out, the cores divided by the ranks."}
    )
    num_beams: int | None = field(default=None, metadata={"help": "Beams; 1 is greedy."})
    num_return_sequences: int | None = field(default=None, metadata={"help": "Outputs of a row; several are a list."})
    max_new_tokens: int | None = field(default=None, metadata={"help": "The most tokens of an output."})
    do_sample: bool | None = field(default=None, metadata={"help": "Draw outputs."})
    temperature: float | None = field(default=None, metadata={"help": "Of samples."})
    top_k: int | None = field(default=None, metadata={"help": "Of samples; of a model that predicts a class, how many."})
    top_p: float | None = field(default=None, metadata={"help": "Of samples."})
    seed: int | None = field(default=None, metadata={"help": "Of samples: a row draws by it and its place."})
    return_scores: bool | None = field(default=None, metadata={"help": "Give log-probabilities."})
    num_candidates: int | None = field(
        default=None, metadata={"help": "Draw so many outputs, and give the one that is most like the others."}
    )
    rerank: bool | None = field(default=None, metadata={"help": "Search in both directions."})
    truncation: str | None = field(
        default=None, metadata={"help": "Texts that are too long: truncate (or true) cuts them, error (or false) refuses them."}
    )
    prefix: str | None = field(default=None, metadata={"help": "Put before each text."})
    src_lang: str | None = field(default=None, metadata={"help": "Language of the texts."})
    tgt_lang: str | None = field(default=None, metadata={"help": "Language to translate into."})
    arguments: dict | None = field(default=None, metadata={"help": "Whatever else a call of the pipeline takes."})


_ARGUMENTS = (
    "num_beams",
    "num_return_sequences",
    "max_new_tokens",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "return_scores",
    "num_candidates",
    "rerank",
    "truncation",
    "prefix",
    "src_lang",
    "tgt_lang",
)
"""The settings that a call of the pipeline takes as they are."""


def main(argv: list[str] | None = None) -> JobReport | None:
    """Generate; see the top of the file."""
    settings, _ = parse_settings([GenerationSettings], sys.argv[1:] if argv is None else argv)
    if None in (settings.model, settings.input, settings.output):
        raise SettingsError("Give --model FOLDER, --input FILE and --output FILE.")
    # A rank may be done long before the others, and waits for them.
    ranks = PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(days=365))
    set_up_logging(is_main_process=ranks.is_main_process)
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    torch.set_num_threads(count_threads(settings.num_threads))
    try:
        pipe = pipeline("conditional-generation", model=resolve_name(settings.model), device=ranks.device)
    except OSError as error:
        raise SettingsError(describe_missing_model(settings.model, error)) from error
    source = open_source(
        settings.input,
        column_names=settings.column_names,
        split=settings.dataset_split,
        config_name=settings.dataset_config,
    )
    conditions = parse_condition_columns(settings.conditions or {"text": settings.source_column or _find_text(source)})
    job = BatchJob(
        source=source,
        output=Path(settings.output),
        conditions=conditions,
        arguments=_list_arguments(settings),
        seed=settings.seed,
        rows_per_shard=settings.rows_per_shard,
        batch_size=settings.batch_size,
        keep_columns=settings.keep_columns,
        spaces=_open_spaces(conditions),
    )
    report = run_batch_job(pipe, job, ranks)
    if report is not None:
        failed = f", {report.failed:,} of them with an error (see the column `error`)" if report.failed else ""
        print(f"{settings.output}: {report.rows:,} rows{failed}")
    return report


def _find_text(source: RowSource) -> str:
    """The column of a text that nobody named: `text`, or `source`, as it is called in training."""
    columns = source.list_columns()
    return "source" if "source" in columns and "text" not in columns else "text"


def _list_arguments(settings: GenerationSettings) -> dict[str, Any]:
    """What a call of the pipeline gets."""
    named = {name: getattr(settings, name) for name in _ARGUMENTS if getattr(settings, name) is not None}
    if "truncation" in named:
        word = named["truncation"].lower()
        named["truncation"] = parse_truncation({"true": True, "false": False}.get(word, word))
    twice = [name for name in settings.arguments or {} if name in named]
    if twice:
        raise SettingsError(f"{twice[0]} stands in the arguments, too; give it once.")
    own = [name for name in settings.arguments or {} if name in ("batch_size", "seed")]
    if own:
        raise SettingsError(f"{own[0]} is a setting of the job: --{own[0]}, and not --arguments.{own[0]}.")
    return {**named, **(settings.arguments or {})}


def _open_spaces(conditions: list[ConditionColumns]) -> dict[str, Any]:
    spaces = {}
    for name in {condition.space for condition in conditions if condition.space is not None}:
        try:
            spaces[name] = hf_genext.StaticEmbeddingModel.from_pretrained(name)
        except OSError as error:
            raise SettingsError(f"conditions: {describe_missing_model(name, error)}") from error
    return spaces


if __name__ == "__main__":
    run_main(main)

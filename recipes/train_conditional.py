"""Train or fine-tune a conditional model.

    accelerate launch recipes/train_conditional.py recipes/g2p/config.yaml
    accelerate launch recipes/train_conditional.py recipes/g2p/config.yaml --model out/g2p --train_file mine.tsv

A minute on a laptop:

    accelerate launch recipes/train_conditional.py recipes/g2p/smoke.yaml

Two ranks on a machine without a GPU:

    ACCELERATE_USE_CPU=1 accelerate launch --multi_gpu --num_processes 2 recipes/train_conditional.py recipes/g2p/config.yaml
"""

from __future__ import annotations

import time

STARTED_AT = time.monotonic()  # Before the slow imports: a time budget is for the whole run.

import contextlib
import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# A script's own folder comes first in the path, where evaluate.py would stand before the library of that name.
HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(folder for folder in sys.path if Path(folder).resolve() not in (HERE, HERE.parent))]

import datasets
import torch
from transformers import EarlyStoppingCallback, GenerationConfig, set_seed

import hf_genext
from hf_genext.checkpoints import hold_folder
from hf_genext.data import encode_pairs, group_references, read_pairs, split_by_source
from hf_genext.devices import describe_device
from hf_genext.genext.tokenization_genext import REVERSED
from hf_genext.hub import render_model_card, write_results
from hf_genext.metrics import build_metrics
from hf_genext.training import GenerationMetrics, GenextTrainer, GenextTrainingArguments
from recipes.arguments import SettingsError, parse_settings
from recipes.plots import draw_validation_curve
from recipes.results import build_results, summarize, update_recipe_results
from recipes.running import (
    count_threads,
    describe_missing_model,
    describe_versions,
    find_recipe_results,
    import_script,
    refuse_earlier_run,
    run_main,
    set_up_logging,
)

logger = logging.getLogger("recipes")


@dataclass
class ModelSettings:
    """What to train."""

    model: str | None = field(default=None, metadata={"help": "A folder or Hub id to go on from; else a new model."})
    source_unit: str = field(default="character", metadata={"help": "Source tokens: character, word or subword."})
    target_unit: str = field(default="word", metadata={"help": "Target tokens: character, word or subword."})
    lowercase_source: bool = field(default=False, metadata={"help": "Fold the case of the source."})
    lowercase_target: bool = field(default=False, metadata={"help": "Fold the case of the target."})
    vocab_size: int = field(default=30_000, metadata={"help": "The most tokens on either side."})
    max_source_length: int = field(default=512, metadata={"help": "The longest source in tokens, the end token included."})
    max_target_length: int = field(default=512, metadata={"help": "The longest target in tokens, the end token included."})
    conditioner: dict | None = field(default=None, metadata={"help": "Fields of the conditioner's configuration."})
    bottleneck: dict | None = field(default=None, metadata={"help": "Fields of the bottleneck's configuration."})
    decoder: dict | None = field(default=None, metadata={"help": "Fields of the decoder's configuration."})
    both_directions: bool = field(
        default=False,
        metadata={"help": "A new model learns every target also from its end to its start, for reranking."},
    )
    tie_word_embeddings: bool = field(default=True, metadata={"help": "Share decoder embedding and token head."})
    attn_implementation: str = field(default="sdpa", metadata={"help": "eager, sdpa, flex_attention, ..."})


@dataclass
class DataSettings:
    """What to train and score on."""

    data_script: str | None = field(default=None, metadata={"help": "A script beside the settings file that brings the data."})
    train_file: list[str] | None = field(
        default=None, metadata={"help": "A file, a `datasets` source, or two text files (source and target)."}
    )
    validation_file: list[str] | None = field(default=None, metadata={"help": "As train_file; else a part of it."})
    validation_size: float = field(
        default=0.02, metadata={"help": "Sources for validation: a number of them (>= 1) or a share."}
    )
    validation_seed: int = field(default=0, metadata={"help": "Which sources: fixed, so that runs compare."})
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a `datasets` source."})
    dataset_split: str | None = field(default=None, metadata={"help": "Split of a `datasets` source."})
    source_column: str = field(default="source", metadata={"help": "Column of the condition."})
    target_column: str = field(default="target", metadata={"help": "Column of the output."})
    column_names: list[str] | None = field(default=None, metadata={"help": "Names for a file without a header."})
    too_long: str = field(default="error", metadata={"help": "Rows longer than the model: error, truncate or drop."})
    unknown_target: str = field(
        default="error", metadata={"help": "Targets with a token that the vocabulary lacks: error, keep or drop."}
    )
    metrics: list[str] | None = field(default=None, metadata={"help": "Names of metrics of generated texts."})


@dataclass
class RunSettings:
    """How to run, and what to leave behind."""

    title: str = field(default="Conditional model", metadata={"help": "Title of the model card."})
    task: str = field(default="", metadata={"help": "One line for the card: what goes in and what comes out."})
    example: str = field(default="", metadata={"help": "An input for the card's code; else the first one of the validation."})
    license: str = field(default="apache-2.0", metadata={"help": "Licence of the trained model."})
    deciding_metrics: dict | None = field(default=None, metadata={"help": "The metrics that decide: {name: higher | lower}."})
    baselines: dict | None = field(
        default=None, metadata={"help": "Others' metrics, to stand beside ours: {label: {name: number}}."}
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after so many evaluations without a better one."}
    )
    num_threads: int | None = field(
        default=None, metadata={"help": "CPU threads of a rank; left out, the cores divided by the ranks."}
    )
    update_results: bool = field(default=False, metadata={"help": "Write the results into the recipe's results.json."})


def main(argv: list[str] | None = None) -> None:
    """Run the recipe; see the top of the file."""
    model_settings, data_settings, run_settings, args, config_path = parse_settings(
        [ModelSettings, DataSettings, RunSettings, GenextTrainingArguments], sys.argv[1:] if argv is None else argv
    )
    set_up_logging(is_main_process=args.process_index == 0)
    if args.process_index != 0:
        datasets.disable_progress_bars()
    if args.device.type == "cpu":
        # `accelerate launch` gives each process one thread on a machine without a GPU; a single process may have them all.
        torch.set_num_threads(count_threads(run_settings.num_threads))
    set_seed(args.seed)
    is_main = args.process_index == 0
    output_dir = Path(args.output_dir)
    resume = args.resume_from_checkpoint
    if is_main and resume is None:
        refuse_earlier_run(output_dir)
    with hold_folder(output_dir) if is_main else contextlib.nullcontext():
        _run(model_settings, data_settings, run_settings, args, config_path)


def _run(
    model_settings: ModelSettings,
    data_settings: DataSettings,
    run_settings: RunSettings,
    args: GenextTrainingArguments,
    config_path: Path | None,
) -> None:
    output_dir = Path(args.output_dir)
    metrics = build_metrics(data_settings.metrics) if data_settings.metrics else None
    _require_metric(args.metric_for_best_model, metrics)
    recipe_results = find_recipe_results(config_path) if run_settings.update_results else None
    with args.main_process_first(desc="reading the data"):
        train, validation, facts = _load_data(data_settings, args, config_path)
    model, processor = load_model(model_settings, train)
    lengths = {
        "max_source_length": min(model_settings.max_source_length, processor.tokenizer.model_max_length),
        "max_target_length": min(model_settings.max_target_length, processor.target_tokenizer.model_max_length),
    }
    rules = {"too_long": data_settings.too_long, "unknown_target": data_settings.unknown_target}
    encoded_train, train_report = encode_pairs(train, processor, **lengths, **rules)
    encoded_validation, validation_report = encode_pairs(validation, processor, **lengths, **rules)
    logger.info("training rows: %s", train_report)
    logger.info("validation rows: %s", validation_report)
    references = group_references(validation)
    trainer = GenextTrainer(
        model=model,
        args=args,
        train_dataset=encoded_train,
        eval_dataset=encoded_validation,
        processing_class=processor,
        generation_dataset=references if metrics else None,
        generation_metrics=metrics,
        started_at=STARTED_AT,
    )
    if run_settings.early_stopping_patience is not None:
        trainer.add_callback(EarlyStoppingCallback(run_settings.early_stopping_patience))
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)

    if metrics:
        sources, expected = list(references["source"]), list(references["references"])
        scores = metrics(trainer.generate_texts(sources), expected)
    else:
        scores = {name.removeprefix("eval_"): value for name, value in trainer.evaluate().items() if name == "eval_loss"}
    trainer.save_model(str(output_dir))
    if not args.should_save:
        return
    trainer.state.save_to_json(str(output_dir / "trainer_state.json"))
    example = run_settings.example or references["source"][0]
    results = build_results(
        scores,
        seed=args.seed,
        minutes=trainer.elapsed_minutes,
        deciding=run_settings.deciding_metrics or {},
        baselines=run_settings.baselines or {},
        data={**facts, "training_rows": len(encoded_train), "validation_sources": len(references)},
        hardware=describe_device(torch.get_num_threads() * args.world_size),
        versions=describe_versions(),
    )
    write_results(output_dir / "results.json", results)
    draw_validation_curve(trainer.state.log_history, output_dir / "validation_curve.png", list(results["better"]))
    card = render_model_card(
        results,
        title=run_settings.title,
        task=run_settings.task,
        example=example,
        license=run_settings.license,
        pictures={"Validation": "validation_curve.png"},
    )
    (output_dir / "README.md").write_text(card, encoding="utf-8")
    if recipe_results is not None:
        update_recipe_results(recipe_results, results)
    print(f"\n{summarize(results)}\nThe model is in {output_dir}. Use it:\n")
    print("  import hf_genext\n  from transformers import pipeline\n")
    print(f'  pipe = pipeline("conditional-generation", model="{output_dir}")\n  pipe({example!r})')


def _load_data(
    settings: DataSettings, args: GenextTrainingArguments, config_path: Path | None
) -> tuple[datasets.Dataset, datasets.Dataset, dict[str, Any]]:
    """Training pairs, validation pairs, and facts about them."""
    facts: dict[str, Any] = {}
    train_file = settings.train_file
    if train_file is None and settings.data_script is not None:
        prepared = import_script(config_path, "data_script", settings.data_script).prepare_data(Path(args.output_dir) / "data")
        train_file, facts = [prepared["train_file"]], prepared["facts"]
    if train_file is None:
        raise SettingsError("There is no training data: set train_file (a file, two text files, or a `datasets` source).")
    facts.setdefault("name", " + ".join(Path(name).name for name in train_file))
    columns = {
        "source_column": settings.source_column,
        "target_column": settings.target_column,
        "column_names": settings.column_names,
        "config_name": settings.dataset_config,
        "split": settings.dataset_split,
    }
    train, report = read_pairs(train_file[0] if len(train_file) == 1 else train_file, **columns)
    logger.info("%s: %s", facts["name"], report)
    if settings.validation_file is not None:
        names = settings.validation_file
        validation, report = read_pairs(names[0] if len(names) == 1 else names, **columns)
        logger.info("%s: %s", " + ".join(names), report)
    else:
        size = settings.validation_size
        train, validation = split_by_source(train, int(size) if size >= 1 else size, seed=settings.validation_seed)
    return train, validation, facts


def _require_metric(name: str | None, metrics: GenerationMetrics | None) -> None:
    """The metric that chooses the best checkpoint, checked before the training and not at its first evaluation."""
    known = ["loss", *(metrics(["a"], [["a"]]) if metrics else [])]
    if name is not None and name.removeprefix("eval_") not in known:
        raise SettingsError(
            f"metric_for_best_model is {name!r}, which no evaluation gives; known are {', '.join(known)}. Set "
            "metrics to have more."
        )


def load_model(
    settings: ModelSettings, train: datasets.Dataset, processor: hf_genext.GenextProcessor | None = None
) -> tuple[hf_genext.GenextForConditionalGeneration, hf_genext.GenextProcessor]:
    """An existing model and its processor, or a new model, with vocabularies from the training rows where none are given."""
    if settings.model is not None:
        try:
            model = hf_genext.GenextForConditionalGeneration.from_pretrained(
                settings.model, attn_implementation=settings.attn_implementation
            )
        except OSError as error:
            raise SettingsError(describe_missing_model(settings.model, error)) from error
        if settings.both_directions and model.config.reversed_start_token_id is None:
            raise SettingsError(
                f"{settings.model!r} was trained forwards only, so both_directions cannot be switched on. Leave it out, or "
                "train a new model."
            )
        return model, hf_genext.GenextProcessor.from_pretrained(settings.model)
    processor = processor or hf_genext.GenextProcessor(
        tokenizer=hf_genext.train_tokenizer(
            train["source"],
            unit=settings.source_unit,
            lowercase=settings.lowercase_source,
            vocab_size=settings.vocab_size,
            model_max_length=settings.max_source_length,
        ),
        target_tokenizer=hf_genext.train_tokenizer(
            train["target"],
            unit=settings.target_unit,
            lowercase=settings.lowercase_target,
            vocab_size=settings.vocab_size,
            model_max_length=settings.max_target_length,
            extra_special_tokens=[REVERSED] if settings.both_directions else [],
        ),
    )
    sides = [
        ("conditioner", settings.conditioner, processor.tokenizer, settings.max_source_length),
        ("decoder", settings.decoder, processor.target_tokenizer, settings.max_target_length),
    ]
    parts = {
        name: {
            "max_position_embeddings": limit,
            **(given or {}),
            "vocab_size": len(tokenizer),
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        }
        for name, given, tokenizer, limit in sides
    }
    config = hf_genext.GenextConfig(
        **parts,
        bottleneck=settings.bottleneck,
        reversed_start_token_id=(
            processor.target_tokenizer.convert_tokens_to_ids(REVERSED) if settings.both_directions else None
        ),
        tie_word_embeddings=settings.tie_word_embeddings,
        attn_implementation=settings.attn_implementation,
    )
    model = hf_genext.GenextForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        max_new_tokens=settings.max_target_length,
        decoder_start_token_id=config.decoder_start_token_id,
        pad_token_id=config.pad_token_id,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
    )
    return model, processor


if __name__ == "__main__":
    run_main(main)

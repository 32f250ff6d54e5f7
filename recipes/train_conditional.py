r"""Train or fine-tune a conditional model.

    accelerate launch recipes/train_conditional.py recipes/g2p/config.yaml
    accelerate launch recipes/train_conditional.py recipes/g2p/config.yaml --model out/g2p --train_file mine.tsv \
        --validation_size 0.1

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
from pathlib import Path
from typing import Any

# A script's own folder comes first in the path, where evaluate.py would stand before the library of that name.
HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(folder for folder in sys.path if Path(folder).resolve() not in (HERE, HERE.parent))]

import datasets
import torch
from accelerate import PartialState
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, set_seed

from hf_genext.batching import ConditionalCollator, EncodedPairs, EncodedRows
from hf_genext.checkpoints import hold_folder
from hf_genext.devices import describe_device
from hf_genext.hub import render_model_card, write_results
from hf_genext.prediction_metrics import list_prediction_metrics
from hf_genext.sequence_metrics import SEQUENCE_METRICS
from hf_genext.state_cache import CachedStates, cache_states, refuse_trained_encoders
from hf_genext.training import GenextTrainer, GenextTrainingArguments
from recipes.arguments import SettingsError, parse_settings
from recipes.conditional_data import (
    RowReader,
    build_given_metrics,
    build_output_metrics,
    build_text_metrics,
    count_scored,
    encode_dataset,
    find_data,
    group_rows,
    load_data,
    require_metrics,
    spread_rows,
    write_example,
)
from recipes.conditional_model import (
    adapt,
    check_generation,
    check_model_settings,
    fit_linear_parts,
    learns_without_labels,
    load_model,
    require_needed_models,
)
from recipes.conditional_settings import DataSettings, ModelSettings, RunSettings
from recipes.plots import draw_validation_curve
from recipes.results import build_results, summarize, update_recipe_results
from recipes.reuse import digest_settings
from recipes.running import (
    count_threads,
    describe_versions,
    find_recipe_results,
    refuse_earlier_run,
    run_main,
    set_up_logging,
)

logger = logging.getLogger("recipes")


class EarlyStopping(EarlyStoppingCallback):
    """Transformers' own, which of a run that goes on knows how many evaluations were no better; its patience is today's."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Remember what the checkpoint says."""
        super().on_train_begin(args, state, control, **kwargs)
        attributes = state.stateful_callbacks.get(type(self).__name__, {}).get("attributes", {})
        self.early_stopping_patience_counter = attributes.get("early_stopping_patience_counter", 0)


def main(argv: list[str] | None = None, started_at: float | None = None) -> None:
    """Run the recipe; see the top of the file.

    Args:
        argv: The command line without the program's name; that of this process if left out.
        started_at: When its clock began, as `time.monotonic` counts; now if left out.
    """
    started_at = time.monotonic() if started_at is None else started_at
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
        _run(model_settings, data_settings, run_settings, args, config_path, started_at)


def _run(
    model_settings: ModelSettings,
    data_settings: DataSettings,
    run_settings: RunSettings,
    args: GenextTrainingArguments,
    config_path: Path | None,
    started_at: float,
) -> None:
    output_dir = Path(args.output_dir)
    check_model_settings(model_settings)
    predicts = model_settings.head is not None
    output = model_settings.head.get("kind", "class") if predicts else "text"
    if predicts and args.label_smoothing_factor:
        raise SettingsError("label_smoothing_factor is for sequences of tokens; a head has none, so leave it out.")
    _check_choice(run_settings, args)
    metrics = build_output_metrics(data_settings, output) if predicts else build_text_metrics(data_settings, config_path)
    given_metrics = None if predicts else build_given_metrics(data_settings)
    require_metrics(data_settings, config_path, output, args.metric_for_best_model, run_settings.deciding_metrics or {})
    recipe_results = find_recipe_results(config_path, run_settings.results_file) if run_settings.update_results else None
    with args.main_process_first(desc="preparing the data"):
        require_needed_models(model_settings, data_settings.conditions)
        # A push takes all that stands in the output folder along.
        folder = Path(f"{output_dir}-data") if args.push_to_hub else output_dir / "data"
        files = find_data(data_settings, folder, config_path)
    # All ranks at once, for each opens its share of the pictures and recordings.
    reader = RowReader(data_settings, output, PartialState(), keep_unlabelled=learns_without_labels(model_settings))
    data = load_data(data_settings, reader, files)
    model, processor = load_model(model_settings, data.train)
    if model_settings.generation is not None:
        check_generation(model, model_settings.generation)
        for name in ("generation_num_beams", "generation_max_length"):
            if getattr(args, name) is not None:
                raise SettingsError(f"{name} would count in scoring and not be saved; say it under generation instead.")

    def encode(rows: datasets.Dataset, what: str) -> EncodedPairs | EncodedRows:
        try:
            encoded, report = encode_dataset(
                rows,
                processor,
                data_settings,
                reader,
                max_source_length=model_settings.max_source_length,
                max_target_length=model_settings.max_target_length,
                output_names=model.config.head.output_names if predicts else None,
            )
        except ValueError as error:
            raise SettingsError(f"The {what} rows cannot be used. {error}") from error
        logger.info("%s rows: %s", what, report)
        return encoded

    encoded_train, encoded_validation = encode(data.train, "training"), encode(data.validation, "validation")
    is_evaluated = predicts or given_metrics is not None or not metrics
    # Before the training, too: a row that is refused must not cost one.
    encoded_test = encode(data.test, "test") if data.test is not None and is_evaluated else None
    if model_settings.cache_states:
        encoded_train, encoded_validation = (
            _cache_states(model, processor, rows, args) for rows in (encoded_train, encoded_validation)
        )
    collator = _build_collator(processor)
    is_complete = fit_linear_parts(model.to(args.device), encoded_train, collator, args.per_device_eval_batch_size)
    tokenizers = (processor.tokenizer, None if predicts else processor.target_tokenizer)
    references = group_rows(data.validation, *tokenizers)
    trained = model if model_settings.lora is None else adapt(model, model_settings.lora)
    if model_settings.cache_states:
        refuse_trained_encoders(model)
    trainer = GenextTrainer(
        model=trained,
        args=args,
        train_dataset=encoded_train,
        eval_dataset=encoded_validation,
        processing_class=processor,
        generation_dataset=spread_rows(references, run_settings.max_generated) if metrics and not predicts else None,
        generation_metrics=metrics if not predicts else None,
        prediction_metrics=metrics if predicts else None,
        sequence_metrics=given_metrics,
        started_at=started_at,
    )
    if run_settings.early_stopping_patience is not None:
        trainer.add_callback(EarlyStopping(run_settings.early_stopping_patience))
    if is_complete:
        trainer.evaluate()
    else:
        trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    if model_settings.generation is not None:
        for name, value in model_settings.generation.items():
            setattr(model.generation_config, name, value)
    finished = trainer.accelerator.unwrap_model(trainer.model)
    loader = DataLoader(encoded_validation, args.per_device_eval_batch_size, collate_fn=trainer.data_collator)  # type: ignore[arg-type]
    if model_settings.calibrate:
        logger.info("Temperature of the head: %s", finished.calibrate(loader))
    if model_settings.choose_threshold:
        logger.info("Probability from which on a label is predicted: %s", finished.choose_threshold(loader))
        trainer.prediction_metrics = build_output_metrics(data_settings, output, threshold=model.config.head.threshold)

    scored = references if data.test is None else group_rows(data.test, *tokenizers)
    scores: dict[str, float] = {}
    if metrics and not predicts:
        scores = metrics(trainer.generate_texts(scored["source"]), scored["references"])
        trainer.generation_dataset = None  # What is to be generated has been.
    if is_evaluated:
        # By another name than those of the validation rows, beside which they stand in the history.
        side = "eval" if encoded_test is None else "test"
        trainer.remove_callback(EarlyStopping)
        final = trainer.evaluate(encoded_test, metric_key_prefix=side)
        known = list_prediction_metrics(output) if predicts else list(SEQUENCE_METRICS) if given_metrics else ["loss"]
        scores |= {name: final[f"{side}_{name}"] for name in known if f"{side}_{name}" in final}
    # Pushed as a whole, when it is one.
    is_pushed, args.push_to_hub = args.push_to_hub, False
    _save(trainer, model_settings, output_dir)
    args.push_to_hub = is_pushed
    if not args.should_save:
        return
    trainer.state.save_to_json(str(output_dir / "trainer_state.json"))
    example = run_settings.example or scored["name"][0]
    code = run_settings.example_code or write_example(data_settings.conditions, run_settings.example, scored["source"][0])
    results = build_results(
        scores,
        seed=args.seed,
        minutes=trainer.elapsed_minutes,
        deciding=run_settings.deciding_metrics or {},
        baselines=run_settings.baselines or {},
        data={
            **data.facts,
            "training_rows": len(encoded_train),
            **count_scored("validation", references, scores_rows=given_metrics is not None),
            **({} if data.test is None else count_scored("test", scored, scores_rows=given_metrics is not None)),
        },
        hardware=describe_device(torch.get_num_threads() * args.world_size),
        versions=describe_versions(),
        settings=digest_settings(model_settings, data_settings, run_settings, args),
    )
    write_results(output_dir / "results.json", results)
    draw_validation_curve(trainer.state.log_history, output_dir / "validation_curve.png", list(results["better"]))
    card = render_model_card(
        results,
        title=run_settings.title,
        task=run_settings.task,
        example=example,
        example_code=code,
        license=run_settings.license,
        pictures={"Validation": "validation_curve.png"},
    )
    (output_dir / "README.md").write_text(card, encoding="utf-8")
    if is_pushed:
        trainer.push_to_hub()
    if recipe_results is not None:
        update_recipe_results(recipe_results, results)
    print(f"\n{summarize(results)}\nThe model is in {output_dir}. Use it:\n")
    imports = "AutoModel, pipeline" if code and "AutoModel" in code else "pipeline"
    if code and "SentenceTransformer(" in code:
        print("  from sentence_transformers import SentenceTransformer")
    print(f"  import hf_genext\n  from transformers import {imports}\n")
    print(f'  pipe = pipeline("conditional-generation", model="{output_dir}")\n  pipe({code or repr(example)})')


def _check_choice(settings: RunSettings, args: GenextTrainingArguments) -> None:
    """Raise for what chooses a checkpoint, or when to stop, and cannot."""
    name = (args.metric_for_best_model or "").removeprefix("eval_")
    direction = (settings.deciding_metrics or {}).get(name)
    if direction in ("higher", "lower") and (direction == "higher") != args.greater_is_better:
        raise SettingsError(
            f"deciding_metrics says that {name} is to be {direction}, greater_is_better is {args.greater_is_better} for the "
            f"best checkpoint; set greater_is_better: {str(direction == 'higher').lower()}."
        )
    for label, scores in (settings.baselines or {}).items():
        if not isinstance(scores, dict) or not all(isinstance(score, (int, float)) for score in scores.values()):
            raise SettingsError(
                f"baselines: {label!r} needs its numbers by the names of metrics, such as {{bleu: 3.5}}, got {scores!r}."
            )
    if settings.early_stopping_patience is None:
        return
    if args.metric_for_best_model is None:
        raise SettingsError("early_stopping_patience waits for a metric to get better: set metric_for_best_model (loss, say).")
    if args.eval_strategy == "no":
        raise SettingsError(
            "early_stopping_patience counts evaluations, of which there are none: set eval_strategy or max_minutes."
        )


def _build_collator(processor: Any) -> ConditionalCollator:
    """What makes batches of rows outside training."""
    tokenizer = processor.tokenizer
    return ConditionalCollator(0 if tokenizer is None else tokenizer.pad_token_id)


def _cache_states(model: Any, processor: Any, rows: EncodedPairs | EncodedRows, args: GenextTrainingArguments) -> CachedStates:
    """Rows with the states of the frozen encoders, which one rank of each machine computes."""
    collator = _build_collator(processor)
    model.to(args.device)
    with args.main_process_first(desc="running the frozen encoders"):
        return cache_states(
            model,
            rows,
            collator,
            processor=processor,
            batch_size=args.per_device_eval_batch_size,
            autocast=torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None,
        )


def _save(trainer: GenextTrainer, settings: ModelSettings, output_dir: Path) -> None:
    """Leave a whole model; the adapter of a model that stands in a folder of its own stays an adapter."""
    if settings.lora is not None and settings.model is None:
        adapted = trainer.accelerator.unwrap_model(trainer.model)
        tied = adapted.config.tie_word_embeddings
        trainer.model = adapted.merge_and_unload()
        trainer.model.config.tie_word_embeddings = tied  # PEFT compares source and target embeddings, which never were one.
        trainer.model_wrapped = trainer.model
    trainer.save_model(str(output_dir))


if __name__ == "__main__":
    run_main(lambda: main(started_at=STARTED_AT))

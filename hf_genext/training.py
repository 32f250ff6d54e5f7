"""`GenextTrainer`: what Transformers' `Seq2SeqTrainer` lacks.

Token-budget batches, exact losses, metrics of what is generated or predicted, a time budget, checkpoints that survive a kill.

Legend: batch, length (input positions), target (output positions), rows, outputs (of a single output).
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import DataLoader, Dataset
from transformers import Seq2SeqTrainer
from transformers.optimization import get_scheduler
from transformers.trainer_callback import ProgressCallback
from transformers.trainer_utils import EvalLoopOutput, TrainOutput, has_length

from hf_genext.adapters import find_fresh_modules
from hf_genext.batching import ConditionalCollator, build_token_budget_loader
from hf_genext.checkpoints import (
    CheckpointProofs,
    begin_checkpoint,
    check_same_model,
    delete_old,
    find_last_complete,
    mark_complete,
    require_complete,
)
from hf_genext.decoding import generate_best
from hf_genext.devices import compile_layers, has_fast_bfloat16, keep_freed_memory
from hf_genext.divergence import DivergenceGuard, NewSteps, TrainingDivergedError
from hf_genext.genext.conditioners_genext import GenextFusionConditioner
from hf_genext.latent_metrics import LatentMonitor
from hf_genext.media import get_sampling_rate, open_condition
from hf_genext.optimizers import build_muon, build_rate_groups
from hf_genext.publishing import complete_folder
from hf_genext.sequence_metrics import SequenceMetrics, count_target_characters
from hf_genext.time_budget import TimeBudget, TimeBudgetCallback, build_budgeted_schedule
from hf_genext.training_arguments import GenextTrainingArguments

logger = logging.getLogger(__name__)

CLOCK_NAME = "clock.json"

GenerationMetrics = Callable[[list[str], list[list[str]]], dict[str, float]]
"""Turns generated texts and the references of each into named numbers."""

PredictionMetrics = Callable[[np.ndarray, np.ndarray], dict[str, float]]
"""Turns single outputs and their labels, (rows,) or (rows, outputs), into named numbers.

The outputs are logits or means, (rows, outputs); of a density the log-probabilities of the labels, (rows,).
"""


class GenextTrainer(Seq2SeqTrainer):
    """Trains conditional models; used as [`Seq2SeqTrainer`] is.

    Args:
        generation_dataset: `source` (a list of conditions, as [`GenextTrainer.generate_texts`] takes them) and `references`
            (for each a list of texts). At each evaluation of `eval_dataset` the model generates from the sources, each row on
            one rank only, and `generation_metrics` compares. Of an `eval_dataset` with several sets a dictionary, likewise.
        generation_metrics: Called with the generated texts and their references.
        prediction_metrics: Of a model with a single output, called at each evaluation with what it predicts and the labels.
        sequence_metrics: Of a model with a sequence output, called at each evaluation with the log-probability of all targets
            in nats, of a model with latent numbers its bound of one draw for each row, and with their tokens and characters. A
            model that is trained in both directions has every target twice, once in each.
        started_at: When the clock of `max_minutes` began, as `time.monotonic` counts; with `train` if left out.
        args, kwargs: As [`Seq2SeqTrainer`] takes them. `processing_class` is a [`GenextProcessor`].
    """

    processing_class: Any
    optimizer: Any
    lr_scheduler: Any
    control: Any

    def __init__(
        self,
        *args: Any,
        generation_dataset: Any | None = None,
        generation_metrics: GenerationMetrics | None = None,
        prediction_metrics: PredictionMetrics | None = None,
        sequence_metrics: SequenceMetrics | None = None,
        started_at: float | None = None,
        **kwargs: Any,
    ) -> None:
        given = dict(zip(("model", "args", "data_collator", "train_dataset"), args, strict=False)) | kwargs
        planned: Any = given.get("args")
        rows = given.get("train_dataset")
        if getattr(planned, "max_minutes", None) is not None and not (rows is None or has_length(rows)):
            planned.max_steps = 10**9  # The clock ends what has no length, too.
        super().__init__(*args, **kwargs)
        if self.args.label_names is None:
            self.label_names = ["labels"]  # Those of a condition are none.
        if getattr(self.model.config, "generative", None) is not None:
            self.model_accepts_loss_kwargs = True  # Rows are counted here, see below.
        if (generation_dataset is None) != (generation_metrics is None):
            raise ValueError("generation_dataset and generation_metrics belong together; give both or neither.")
        if generation_dataset is not None and isinstance(self.eval_dataset, dict):
            named = generation_dataset.keys() if isinstance(generation_dataset, Mapping) else {"source", "references"}
            if not named <= self.eval_dataset.keys():
                raise ValueError(
                    f"eval_dataset has the sets {', '.join(self.eval_dataset)}; give generation_dataset as a dictionary by "
                    f"some of these names, got {', '.join(named)}."
                )
        self._latents = LatentMonitor(self.model, self.args.seed, self.args.process_index)
        if self._latents.is_needed and (self.args.label_smoothing_factor or self.compute_loss_func is not None):
            raise ValueError(
                "A variational or quantised bottleneck adds to the model's own loss, which label_smoothing_factor and "
                "compute_loss_func put another in the place of; leave them out."
            )
        if hasattr(self.processing_class, "require_fit"):
            self.processing_class.require_fit(self.model.config)
        self.generation_dataset = generation_dataset
        self.generation_metrics = generation_metrics
        self.prediction_metrics = prediction_metrics
        self.sequence_metrics = sequence_metrics
        if given.get("data_collator") is None and self.processing_class is not None:
            self.data_collator = self._build_collator()
        self._started_at = started_at
        self._has_trained = False
        self._seconds_before = 0.0
        if self.args.should_compile_layers:
            compile_layers(self.model)
        self._steps_of_log = 1
        self._watch(None)
        self._scored: Any = None  # What the evaluation that runs generates from.
        self._is_predicting = False
        self._budget_callback: TimeBudgetCallback | None = None
        if self.args.max_minutes is not None:
            budget = TimeBudget(self.args.max_minutes, self._started_at)
            self._budget_callback = TimeBudgetCallback(budget, self.args.num_evaluations)
            self.remove_callback(ProgressCallback)
            self.add_callback(self._budget_callback)

    def _build_accelerator_args(self, **kwargs: Any) -> dict[str, Any]:
        # Where several conditions are fused, the rows of one rank may all lack one: its conditioner then has no gradient there,
        # and the other ranks would wait for it.
        if self.args.ddp_find_unused_parameters is None:
            self.args.ddp_find_unused_parameters = any(
                isinstance(module, GenextFusionConditioner) for module in self.model.modules()
            )
        return super()._build_accelerator_args(**kwargs)

    def _build_collator(self) -> ConditionalCollator:
        # With label smoothing the Trainer takes the labels away and computes the loss itself.
        takes_labels_away = self.args.label_smoothing_factor != 0 or self.compute_loss_func is not None
        reversed_start_token_id = getattr(self.model.config, "reversed_start_token_id", None)
        needs_inputs = takes_labels_away or reversed_start_token_id is not None
        tokenizer = getattr(self.processing_class, "tokenizer", None)
        return ConditionalCollator(
            pad_token_id=0 if tokenizer is None else tokenizer.pad_token_id,
            prepare_decoder_input_ids_from_labels=self.model.prepare_decoder_input_ids_from_labels if needs_inputs else None,
            reversed_start_token_id=reversed_start_token_id,
            # Only what is written has padding: a 0 at the end of several labels, or of an image, is one.
            target_tokenizer=_find_writer(self.processing_class) if self.model.can_generate() else None,
        )

    # Data

    def get_train_dataloader(self) -> DataLoader:
        """Token-budget batches where `max_tokens_per_batch` is set; else as Transformers builds them."""
        if self.args.max_tokens_per_batch is None or self.train_dataset is None:
            return super().get_train_dataloader()
        return self._build_token_budget_loader(self.train_dataset, self.args.max_tokens_per_batch, shuffle=True)

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        """Token-budget batches in order of length where `max_tokens_per_batch` is set, and for single outputs."""
        predicts = self.prediction_metrics is not None
        # Transformers' own loop gathers batches, which must be of one size on all ranks.
        is_gathered = not self._evaluates_exactly and self.args.world_size > 1
        if is_gathered or (self.args.max_tokens_per_batch is None and not predicts):
            # Ranks may have unequal numbers of rows; made equal, some would count twice.
            is_even, self.accelerator.even_batches = self.accelerator.even_batches, not self._evaluates_exactly
            try:
                return super().get_eval_dataloader(eval_dataset)
            finally:
                self.accelerator.even_batches = is_even
        if eval_dataset is None or isinstance(eval_dataset, str):
            eval_dataset = self.eval_dataset if eval_dataset is None else self.eval_dataset[eval_dataset]
        if eval_dataset is None:
            raise ValueError("Evaluation needs an eval_dataset; pass one to the trainer or to evaluate().")
        # A single output is one token long; so each rank has every row of its share once.
        budget = self.args.eval_max_tokens_per_batch or 4 * (self.args.max_tokens_per_batch or 0)
        budget = self.args.per_device_eval_batch_size if predicts else budget
        return self._build_token_budget_loader(eval_dataset, budget, shuffle=False)

    def _build_token_budget_loader(self, dataset: Dataset, max_tokens: int, *, shuffle: bool) -> DataLoader:
        return build_token_budget_loader(dataset, self.data_collator, self.args, max_tokens, shuffle=shuffle)

    # Training

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train as [`Seq2SeqTrainer.train`] does.

        Args:
            resume_from_checkpoint: A checkpoint folder, or `"auto"` (also `True`) for the newest complete one of the output
                folder, or for a new start where there is none.
            args: As Transformers takes them.
            kwargs: As Transformers takes them.

        Returns:
            Steps, loss and speed.

        Raises:
            TrainingDivergedError: if the loss is no number any more, or far above where it began.
            FileNotFoundError: if there is no such checkpoint.
            ValueError: if the checkpoint is damaged or belongs to another model.
        """
        if resume_from_checkpoint is True or resume_from_checkpoint == "auto":
            found = find_last_complete(self.args.output_dir)
            logger.info("Going on from %s.", found) if found else logger.info("No complete checkpoint: a new start.")
            resume_from_checkpoint = None if found is None else str(found)
        started_at = None if self._has_trained else self._started_at
        self._started_at = time.monotonic() if started_at is None else started_at
        self._has_trained, self._seconds_before = True, 0.0
        self._watch(resume_from_checkpoint if isinstance(resume_from_checkpoint, str) else None)
        if self._budget_callback is not None:
            self._budget_callback.begin(started_at)
        if isinstance(resume_from_checkpoint, str):
            require_complete(resume_from_checkpoint)
            if (Path(resume_from_checkpoint) / "config.json").is_file():  # An adapter has none.
                check_same_model(resume_from_checkpoint, self.model.config.to_dict())
        # Transformers would give the model the token ids of the source tokenizer, and looks for one where there is none.
        self._hidden, self.processing_class = self.processing_class, None
        if self.args.device.type == "cpu":
            keep_freed_memory()
        try:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            self.processing_class = self._hidden

    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> TrainOutput:
        self.processing_class = self._hidden
        checkpoint = kwargs.get("resume_from_checkpoint")
        clock_file = Path(checkpoint) / CLOCK_NAME if checkpoint is not None else None
        if clock_file is not None and clock_file.is_file():
            clock = json.loads(clock_file.read_text(encoding="utf-8"))
            self._seconds_before = float(clock["seconds"])
            self._guard.restore(clock["loss_memory"])
            if self._budget_callback is not None:
                if clock["budget"] is None:
                    raise ValueError(
                        f"{str(checkpoint)!r} was not trained with max_minutes, so its schedule cannot go on by the clock. "
                        "Resume it without --max_minutes, or fine-tune its model in a new --output_dir."
                    )
                self._budget_callback.restore(clock["budget"])
        return super()._inner_training_loop(*args, **kwargs)

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> torch.Tensor | int | None:
        # Transformers counts every number as a label, missing ones too; with a generative half every row is learned from.
        if batch_samples and torch.is_tensor(batch_samples[0].get("labels")):
            counts_rows = getattr(self.model.config, "generative", None) is not None
            mark = torch.zeros_like if counts_rows else _mark_missing
            batch_samples = [{**batch, "labels": mark(batch["labels"])} for batch in batch_samples]
        return super()._get_num_items_in_batch(batch_samples, device)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As Transformers' own, at the weight of the divergence that is planned for this point of the training."""
        if self._latents.is_needed:
            budget = None if self._budget_callback is None else self._budget_callback.budget
            self._latents.plan(self.state.global_step / max(1, self.state.max_steps) if budget is None else budget.progress)
        return super().training_step(*args, **kwargs)

    def compute_loss(self, model: nn.Module, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        """As Transformers' own, its parts remembered for the log."""
        if not self._latents.is_needed:
            return super().compute_loss(model, inputs, return_outputs, **kwargs)
        loss, outputs = super().compute_loss(model, inputs, True, **kwargs)
        if model.training:
            self._latents.note_parts(outputs.get("losses"))
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As Transformers' own, with the parts of the training loss where it has several."""
        if "loss" in logs:
            logs |= self._latents.take_parts(self._steps_of_log, self.accelerator.gather)
        super().log(logs, *args, **kwargs)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Muon with AdamW, or two rates, where the arguments say so; else what Transformers builds."""
        for name in ("muon_learning_rate", "pretrained_learning_rate"):
            if getattr(self.args, name) is not None and self.optimizer_cls_and_kwargs is not None:
                raise ValueError(f"{name} and optimizer_cls_and_kwargs each choose the optimizer; leave one of them out.")
        if self.optimizer is None and self.args.pretrained_learning_rate is not None:
            whole = self.model if model is None else model
            base = whole.get_base_model() if hasattr(whole, "get_base_model") else whole
            fresh = set(find_fresh_modules(base))
            groups = build_rate_groups(
                whole,
                [module for name, module in base.named_modules() if name in fresh],
                learning_rate=self.args.learning_rate,
                pretrained_learning_rate=self.args.pretrained_learning_rate,
                weight_decay=self.args.weight_decay,
                decayed=self.get_decay_parameter_names(whole),
            )
            optimizer_class, arguments = self.get_optimizer_cls_and_kwargs(self.args, whole)
            self.optimizer = optimizer_class(groups, **arguments)
            return self.optimizer
        if self.args.muon_learning_rate is None or self.optimizer is not None:
            return super().create_optimizer(model)
        dtype = torch.bfloat16 if has_fast_bfloat16() else torch.float32
        self.optimizer = build_muon(self.model if model is None else model, self.args, dtype)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        """Transformers' schedule; with `max_minutes` read at the share of the time that is spent."""
        if self._budget_callback is None or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        budget = self._budget_callback.budget
        optimizer = self.optimizer if optimizer is None else optimizer
        schedule = get_scheduler(
            self.args.lr_scheduler_type,
            optimizer=optimizer,
            num_warmup_steps=self.args.get_warmup_steps(budget.virtual_steps),
            num_training_steps=budget.virtual_steps,
            scheduler_specific_kwargs=self.args.lr_scheduler_kwargs,
        )
        if not isinstance(schedule, LambdaLR):
            raise ValueError(
                f"max_minutes cannot plan lr_scheduler_type={str(self.args.lr_scheduler_type)!r}, which is no function of "
                'progress alone. Choose "cosine", "linear", "polynomial" or "warmup_stable_decay".'
            )
        # One factor for each group, whatever the schedule above was built for.
        budgeted = [build_budgeted_schedule(factor, budget) for factor in schedule.lr_lambdas]
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"]
        self.lr_scheduler = LambdaLR(optimizer, budgeted)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def _maybe_log_save_evaluate(self, tr_loss: torch.Tensor, grad_norm: Any, *args: Any, **kwargs: Any) -> None:
        control, step, logged_step = self.control, self.state.global_step, self._globalstep_last_logged
        self._steps_of_log = step - logged_step
        if control.should_log or control.should_save or control.should_evaluate:
            total = float(self.accelerator.gather(tr_loss.detach()).mean())
            loss, steps = self._new_steps.take(total, step, logged_step)
            if steps > 0:
                self._raise_if_diverged(loss, steps)
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *args, **kwargs)

    def _watch(self, resumed: str | None) -> None:
        self._guard, self._new_steps = DivergenceGuard(self.args.divergence_factor), NewSteps()
        self._proofs = CheckpointProofs(self.args.output_dir, resumed)

    def _raise_if_diverged(self, loss: float, steps: int) -> None:
        if not self._guard.has_diverged(loss, steps, self._latents.schedule):
            if self.args.should_save and not self._guard.is_doubtful:
                self._proofs.prove(self.args.save_total_limit, self.state.best_model_checkpoint)
            return
        if self.args.should_save:
            self._proofs.refute()
        self.accelerator.wait_for_everyone()
        kept = find_last_complete(self.args.output_dir)
        raise TrainingDivergedError(self._guard.explain(loss, self.state.global_step, self.args.learning_rate, kept))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        # A pickle of the arguments, which nothing needs and nobody should open.
        (Path(output_dir or self.args.output_dir) / "training_args.bin").unlink(missing_ok=True)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Complete the folder that is about to be pushed: its own card, or else Trainer's, and the code that opens it."""
        if not self.is_world_process_zero():
            return
        folder = Path(self.args.output_dir)
        if not (folder / "README.md").is_file():
            super().create_model_card(*args, **kwargs)
        complete_folder(folder, self.hub_model_id or folder.name)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        # Weights that are tied to others are stored once, and so are not missing.
        tied = getattr(self.accelerator.unwrap_model(self.model), "all_tied_weights_keys", None) or {}
        load_result.missing_keys[:] = [name for name in load_result.missing_keys if name not in tied]
        super()._issue_warnings_after_load(load_result)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            begin_checkpoint(folder)
        self.accelerator.wait_for_everyone()
        # Older checkpoints go only after this one is complete, so Transformers must not delete them.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            clock = {
                "seconds": 60.0 * self.elapsed_minutes,
                "loss_memory": self._guard.state(),
                "budget": self._budget_callback.state() if self._budget_callback is not None else None,
            }
            (folder / CLOCK_NAME).write_text(json.dumps(clock), encoding="utf-8")
            self._proofs.add(folder)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            mark_complete(folder)
            keeps_proven = not self.control.should_training_stop  # At the end nothing can be proven any more.
            delete_old(folder.parent, limit, self.state.best_model_checkpoint, folder, keeps_proven=keeps_proven)

    @property
    def elapsed_minutes(self) -> float:
        """Minutes since `started_at`, those of the runs that this one goes on from included; 0 before the training."""
        if self._started_at is None:
            return 0.0
        return (self._seconds_before + time.monotonic() - self._started_at) / 60.0

    # Evaluation

    @property
    def _evaluates_exactly(self) -> bool:
        """Whether the evaluation is not [`Seq2SeqTrainer`]'s own, which takes the rows that count twice away later."""
        return self.compute_metrics is None and not self.args.predict_with_generate

    @property
    def _has_own_loss(self) -> bool:
        """Whether somebody put another loss in the place of the model's."""
        return self.compute_loss_func is not None or type(self).compute_loss is not GenextTrainer.compute_loss

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> dict[str, float]:
        """Score the trainer's own evaluation rows, or others, from which no texts are generated.

        Args:
            eval_dataset: Other rows, or the name of one of the trainer's own sets.
            ignore_keys: As Transformers takes it.
            metric_key_prefix: Likewise.
            kwargs: Likewise.

        Returns:
            The scores by name.
        """
        before, named = self._scored, self.generation_dataset
        if isinstance(eval_dataset, str):
            named = named.get(eval_dataset) if isinstance(named, Mapping) else None
        elif not (eval_dataset is None or eval_dataset is self.eval_dataset) or isinstance(self.eval_dataset, dict):
            named = None
        self._scored = named
        try:
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix, **kwargs)
        finally:
            self._scored = before

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """As [`Seq2SeqTrainer.predict`]: outputs and labels of all rows, in their order, and no generated texts.

        For these there are [`generate_texts`], and `predict_with_generate`.
        """
        self._is_predicting = True
        try:
            return super().predict(*args, **kwargs)
        finally:
            self._is_predicting = False

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """The loss in nats per target token, exact over batches and ranks, and the generation metrics.

        With `compute_metrics` or `predict_with_generate` it is [`Seq2SeqTrainer`]'s own loop.
        """
        if self._is_predicting or not self._evaluates_exactly:
            return super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        # Compiled layers would be compiled again for evaluation, and for every length of a cache.
        with torch.compiler.set_stance("force_eager" if self.args.should_compile_layers else "default"):
            return self._evaluate_exactly(dataloader, metric_key_prefix)

    def _evaluate_exactly(self, dataloader: DataLoader, metric_key_prefix: str) -> EvalLoopOutput:
        model = self.accelerator.unwrap_model(self.model_wrapped, keep_torch_compile=False)
        model.eval()
        generates = model.can_generate()
        targets_of_a_row = 1 if getattr(self.data_collator, "reversed_start_token_id", None) is None else 2
        predicted: list[tuple[np.ndarray, np.ndarray]] = []
        totals = torch.zeros(4, dtype=torch.float64, device=self.args.device)
        self._latents.start_evaluation()
        with torch.no_grad():
            for inputs in dataloader:
                inputs = self._prepare_inputs(inputs)
                num_rows = len(inputs["labels"]) // targets_of_a_row
                if self._latents.is_evaluated:
                    inputs["latent_noise"] = self._latents.draw_noise(num_rows, self.args.device)
                    inputs["sample_latents"] = True
                labels = inputs["labels"]
                count = _mark_missing(labels).ne(-100).sum()
                with self.compute_loss_context_manager():
                    if self._has_own_loss:
                        loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
                    else:
                        outputs = model(**inputs, **({"use_cache": False} if generates else {}))
                        loss = outputs.loss
                if self._latents.is_evaluated:
                    self._latents.collect(outputs.latents)
                sizes = [num_rows, 0]
                if self.sequence_metrics is not None:
                    sizes[1] = count_target_characters(labels, self.processing_class.target_tokenizer)
                totals += torch.stack([loss.double() * count, count.double(), *totals.new_tensor(sizes)])
                if self.prediction_metrics is not None:
                    log_probs = outputs.get("log_probs")
                    judged = outputs.logits if log_probs is None else log_probs
                    predicted.append((judged.float().cpu().numpy(), labels.cpu().numpy()))
                self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        total_loss, num_tokens, num_rows, num_characters = self.accelerator.reduce(totals, reduction="sum").tolist()
        metrics = {f"{metric_key_prefix}_loss": total_loss / max(num_tokens, 1.0)}
        scores: dict[str, float] = {}
        if self._latents.is_evaluated:
            scores = self._latents.report(gather_object if self.args.world_size > 1 else list)
        if self.prediction_metrics is not None:
            predicted = gather_object(predicted) if self.args.world_size > 1 else predicted
            logits, labels = (np.concatenate(parts) for parts in zip(*predicted, strict=True))
            scores |= self.prediction_metrics(logits, labels)
        if self.sequence_metrics is not None:
            scores |= self.sequence_metrics(-total_loss, int(num_tokens), int(num_characters))
        if self._scored is not None and self.generation_metrics is not None:
            started_at = time.monotonic()
            texts = self.generate_texts(list(self._scored["source"]))
            scores |= self.generation_metrics(texts, list(self._scored["references"]))
            metrics[f"{metric_key_prefix}_generation_seconds"] = round(time.monotonic() - started_at, 2)
        metrics.update({f"{metric_key_prefix}_{name}": value for name, value in scores.items()})
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=metrics, num_samples=int(num_rows))

    @torch.compiler.set_stance("force_eager")
    @torch.no_grad()
    def generate_texts(self, sources: Sequence[str | Mapping[str, Any]], **generate_kwargs: Any) -> list[str]:
        """Generate one text from each condition; every rank does a share and gets all answers.

        Args:
            sources: The conditions: texts, or dictionaries as the pipeline takes them, where pictures and recordings may be
                paths. Longer texts than the model takes are cut.
            generate_kwargs: As `generate` takes them.

        Returns:
            The texts in the order of the conditions.
        """
        model = self.accelerator.unwrap_model(self.model_wrapped, keep_torch_compile=False)
        model.eval()
        order = sorted(range(len(sources)), key=lambda index: len(_get_text(sources[index])))
        mine = order[self.args.process_index :: self.args.world_size]
        answers: list[tuple[int, str]] = []
        writer = _find_writer(self.processing_class)
        for start in range(0, len(mine), self.args.per_device_eval_batch_size):
            indices = mine[start : start + self.args.per_device_eval_batch_size]
            inputs = self._read_conditions([sources[index] for index in indices])
            arguments = {**self._generation_arguments(), "num_return_sequences": 1, **generate_kwargs}
            if "num_samples" in inputs:
                generated = model.generate(**inputs, **arguments)
            else:
                generated = generate_best(model, inputs, arguments, getattr(writer, "all_special_ids", ()))
            texts = self.processing_class.batch_decode(generated, skip_special_tokens=True)
            answers.extend(zip(indices, texts, strict=True))
        if self.args.world_size > 1:
            answers = gather_object(answers)
        return [text for _, text in sorted(answers)]

    def _read_conditions(self, conditions: list[str | Mapping[str, Any]]) -> dict[str, Any]:
        rate = get_sampling_rate(self.processing_class)
        opened = [row if isinstance(row, str) else open_condition(row, rate) for row in conditions]
        reads_text = any(_get_text(row) for row in opened)
        padding = {"padding": True, "truncation": True} if reads_text else {}
        inputs = self.processing_class.read_conditions(opened, **padding, return_tensors="pt").to(self.args.device)
        return {"num_samples": len(conditions)} if not inputs else dict(inputs)

    def _generation_arguments(self) -> dict[str, Any]:
        limits = {"max_length": self.args.generation_max_length, "num_beams": self.args.generation_num_beams}
        return {name: value for name, value in limits.items() if value is not None}


def _mark_missing(labels: torch.Tensor) -> torch.Tensor:
    """Labels with -100 where nothing is known; of numbers, whose sign of that is NaN, 0 where something is."""
    return labels.isnan() * -100 if labels.is_floating_point() else labels


def _find_writer(processing_class: Any) -> Any:
    parts = (getattr(processing_class, name, None) for name in ("target_tokenizer", "tokenizer"))
    return next((part for part in parts if part is not None), processing_class)


def _get_text(condition: str | Mapping[str, Any]) -> str:
    return condition if isinstance(condition, str) else condition.get("text") or ""


__all__ = ["GenerationMetrics", "GenextTrainer", "GenextTrainingArguments", "PredictionMetrics", "TrainingDivergedError"]

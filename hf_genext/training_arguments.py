"""The arguments of `GenextTrainer`: Transformers' own, and what it takes besides."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field

import torch
from transformers import Seq2SeqTrainingArguments

from hf_genext.devices import has_compiler, has_fast_bfloat16

logger = logging.getLogger(__name__)

LOWER_IS_BETTER = frozenset(
    (
        *("character_error_rate", "edit_distance", "phoneme_error_rate", "token_error_rate", "word_error_rate"),
        *("bits_per_character", "bits_per_dimension", "calibration_error", "perplexity"),
    )
)
"""Metrics of ours that are the better the lower they are, as losses are."""


@dataclass
class GenextTrainingArguments(Seq2SeqTrainingArguments):
    """Transformers' arguments and ours.

    Args:
        max_tokens_per_batch: Padded target tokens of a batch on one device; rows of similar length share a batch. Left out,
            batches have `per_device_train_batch_size` rows. Sources are not counted: see the next.
        max_source_tokens_per_batch: Padded source tokens of such a batch, for sources that are long beside their targets.
        eval_max_tokens_per_batch: Padded target tokens of a batch in evaluations, where `per_device_eval_batch_size` does not
            count; left out, four times `max_tokens_per_batch`.
        max_minutes: Plan the whole schedule for this wall time, over resumes too, from the start of `train` on. Replaces
            `num_train_epochs`, and what is said of when to evaluate and save.
        num_evaluations: With `max_minutes`, how many evaluations (each with a checkpoint) are spread over the time.
        divergence_factor: Stop when the loss, a mean over about 50 steps, exceeds this many times what it was at first, or is
            back there after it had come down; `inf` stops for a loss that is no number alone.
        muon_learning_rate: Train the matrices inside the network with [`Muon`] at this rate, the rest with AdamW at
            `learning_rate`. Left out, everything is trained by what `optim` names.
        pretrained_learning_rate: Train the parts that pretraining has seen at this rate, and what is fresh at `learning_rate`:
            bottleneck, projections, heads, native parts, and cross-attention that a language model did not have before.
        precision: `"bf16"` or `"fp32"`; `"auto"` is bf16 where the device has fast units for it, and yields to `fp16`. Left
            out, what `bf16` and `fp16` say.
        greater_is_better: As Transformers'; left out, our own error rates and the like are known for what they are.
        compile_layers: Compile each kind of layer once (`torch.compile`), which takes about a minute and then pays off in
            every step. `"auto"` does so where a compiler is found and the run is long enough.
    """

    max_tokens_per_batch: int | None = field(default=None, metadata={"help": "Padded target tokens of a batch on one device."})
    max_source_tokens_per_batch: int | None = field(
        default=None, metadata={"help": "Padded source tokens of a batch, beside max_tokens_per_batch."}
    )
    eval_max_tokens_per_batch: int | None = field(
        default=None, metadata={"help": "Padded target tokens of a batch in evaluations: 4 * max_tokens_per_batch if left out."}
    )
    max_minutes: float | None = field(
        default=None, metadata={"help": "Plan the whole schedule for this wall time, over resumes too."}
    )
    num_evaluations: int = field(
        default=10, metadata={"help": "With max_minutes: evaluations, each with a checkpoint, over the whole time."}
    )
    divergence_factor: float = field(
        default=3.0, metadata={"help": "Stop when the loss exceeds this many times what it was at first; inf: never."}
    )
    muon_learning_rate: float | None = field(
        default=None, metadata={"help": "Train inner matrices with Muon at this rate, the rest with AdamW."}
    )
    pretrained_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of pretrained parts; left out, that of everything."}
    )
    precision: str | None = field(
        default=None, metadata={"help": "fp32, bf16, or auto: bf16 where the device has fast units for it."}
    )
    compile_layers: str = field(
        default="no", metadata={"help": "Compile each kind of layer: yes, no, or auto (long runs, compiler found)."}
    )
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Hide losses that are no numbers."})
    ddp_find_unused_parameters: bool | None = field(
        default=None,
        metadata={
            "help": "Look for parameters without gradient at each step (slower); left out, where a rank may lack a condition."
        },
    )

    def __post_init__(self) -> None:
        """Check our arguments and fit Transformers' to them.

        Raises:
            ValueError: for a value that is out of range.
        """
        for name in ("max_tokens_per_batch", "max_source_tokens_per_batch", "eval_max_tokens_per_batch"):
            if (budget := getattr(self, name)) is not None and budget < 1:
                raise ValueError(f"{name} must be 1 or more, got {budget}.")
            if budget is not None and self.max_tokens_per_batch is None:
                raise ValueError(f"{name}={budget} is for batches by max_tokens_per_batch; give that too, or leave it out.")
        if not self.divergence_factor > 1:
            raise ValueError(f"divergence_factor must be more than 1 (inf for no limit), got {self.divergence_factor}.")
        if self.max_minutes is not None:
            if not (math.isfinite(self.max_minutes) and self.max_minutes > 0):
                raise ValueError(f"max_minutes must be more than 0, got {self.max_minutes}.")
            if self.max_steps > 0:
                raise ValueError(
                    f"max_minutes={self.max_minutes} and max_steps={self.max_steps} each plan a whole schedule; give one."
                )
            if self.num_evaluations < 1:
                raise ValueError(f"num_evaluations must be 1 or more, got {self.num_evaluations}.")
            if self.warmup_steps >= 1:
                raise ValueError(
                    f"With max_minutes the warm-up is a share of the time: give warmup_steps below 1 (0.03 is usual), got "
                    f"{self.warmup_steps}."
                )
            for name, usual in (("eval_steps", None), ("save_steps", 500)):
                if (value := getattr(self, name)) not in (usual, 10**9):
                    logger.warning(
                        "With max_minutes there are num_evaluations=%d evaluations, each with a checkpoint; %s=%s is void.",
                        self.num_evaluations,
                        name,
                        value,
                    )
            # The clock asks for evaluations and checkpoints and ends the run; no count of steps or epochs may.
            self.num_train_epochs = 1e6
            self.eval_strategy = self.save_strategy = "steps"
            self.eval_steps = self.save_steps = 10**9
        if self.pretrained_learning_rate is not None and self.muon_learning_rate is not None:
            raise ValueError(
                f"pretrained_learning_rate={self.pretrained_learning_rate} and muon_learning_rate={self.muon_learning_rate} "
                "each choose the rates of parts; give one. Muon is for what is trained from scratch."
            )
        if self.precision not in (None, "auto", "bf16", "fp32"):
            raise ValueError(f'precision must be "auto", "bf16" or "fp32", got {self.precision!r}.')
        if self.compile_layers not in ("auto", "yes", "no"):
            raise ValueError(f'compile_layers must be "auto", "yes" or "no", got {self.compile_layers!r}.')
        greater: bool | None = getattr(self, "greater_is_better", None)
        if greater is None and (self.metric_for_best_model or "").removeprefix("eval_") in LOWER_IS_BETTER:
            self.greater_is_better = False
        if not torch.accelerator.is_available():
            self.use_cpu = True
        if self.precision is not None:
            if self.fp16 and self.precision != "auto":
                raise ValueError(f"precision={self.precision!r} and fp16=True contradict each other; leave one of them out.")
            self.bf16 = not self.fp16 and (self.precision == "bf16" or (self.precision == "auto" and has_fast_bfloat16()))
        super().__post_init__()

    @property
    def should_compile_layers(self) -> bool:
        """Whether the layers are compiled, with `"auto"` decided."""
        if self.compile_layers == "auto":
            return (self.max_minutes or 0) >= 8 and has_compiler()
        return self.compile_layers == "yes"


__all__ = ["GenextTrainingArguments"]

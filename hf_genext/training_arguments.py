"""The arguments of `GenextTrainer`: Transformers' own, and what it takes besides."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from transformers import Seq2SeqTrainingArguments

from hf_genext.devices import has_compiler, has_fast_bfloat16


@dataclass
class GenextTrainingArguments(Seq2SeqTrainingArguments):
    """Transformers' arguments and ours.

    Args:
        max_tokens_per_batch: Padded target tokens of a batch on one device; rows of similar length share a batch. Left out,
            batches have `per_device_train_batch_size` rows.
        max_minutes: Plan the whole schedule for this wall time, over resumes too. Replaces `num_train_epochs`.
        num_evaluations: With `max_minutes`, how many evaluations (each with a checkpoint) are spread over the time.
        divergence_factor: Stop when the logged loss exceeds this many times the first logged loss.
        muon_learning_rate: Train the matrices inside the network with [`Muon`] at this rate, the rest with AdamW at
            `learning_rate`. Left out, everything is trained by what `optim` names.
        pretrained_learning_rate: Train the parts that pretraining has seen at this rate, and what is fresh at `learning_rate`:
            bottleneck, projections, heads, native parts, and cross-attention that a language model did not have before.
        precision: `"bf16"` or `"fp32"`; `"auto"` is bf16 where the device has fast units for it. Left out, what `bf16` and
            `fp16` say.
        compile_layers: Compile each kind of layer once (`torch.compile`), which takes about a minute and then pays off in
            every step. `"auto"` does so where a compiler is found and the run is long enough.
    """

    max_tokens_per_batch: int | None = field(default=None, metadata={"help": "Padded target tokens of a batch on one device."})
    max_minutes: float | None = field(
        default=None, metadata={"help": "Plan the whole schedule for this wall time, over resumes too."}
    )
    num_evaluations: int = field(
        default=10, metadata={"help": "With max_minutes: evaluations, each with a checkpoint, over the whole time."}
    )
    divergence_factor: float = field(
        default=3.0, metadata={"help": "Stop when the logged loss exceeds this many times the first logged loss."}
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
        if self.max_tokens_per_batch is not None and self.max_tokens_per_batch < 1:
            raise ValueError(f"max_tokens_per_batch must be 1 or more, got {self.max_tokens_per_batch}.")
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
        if not torch.accelerator.is_available():
            self.use_cpu = True
        if self.precision is not None:
            self.bf16 = self.precision == "bf16" or (self.precision == "auto" and has_fast_bfloat16())
        super().__post_init__()

    @property
    def should_compile_layers(self) -> bool:
        """Whether the layers are compiled, with `"auto"` decided."""
        if self.compile_layers == "auto":
            return (self.max_minutes or 0) >= 8 and has_compiler()
        return self.compile_layers == "yes"


__all__ = ["GenextTrainingArguments"]

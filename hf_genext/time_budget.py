"""A training schedule that is planned for a time, not for a number of steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import distributed
from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

_RESOLUTION = 1_000_000
"""Virtual steps of a whole schedule: a learning-rate function of steps becomes one of time by counting these."""


class TimeBudget:
    """How much of a time budget is spent, over resumes too, and the same on all ranks.

    Args:
        minutes: The budget.
        started_at: When the clock began, in seconds as `time.monotonic` counts; now if left out.
    """

    def __init__(self, minutes: float, started_at: float | None = None) -> None:
        if not minutes > 0:
            raise ValueError(f"The time budget must be more than 0 minutes, got {minutes}.")
        self.seconds = 60.0 * minutes
        self.begin(started_at)

    def begin(self, started_at: float | None = None) -> None:
        """Begin anew, at a moment as `time.monotonic` counts; now if left out."""
        self.started_at = time.monotonic() if started_at is None else started_at
        self.spent_before = 0.0
        self.reserve = 0.0
        self.progress = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds spent, those of earlier runs included."""
        return self.spent_before + time.monotonic() - self.started_at

    def update(self) -> float:
        """Read the clock of rank 0 on every rank; returns the share of the budget that is spent, at most 1.

        What is reserved for the last evaluation and the saving counts as spent, so that the schedule ends before them.
        """
        progress = self.elapsed / max(self.seconds - self.reserve, 1e-9)
        if distributed.is_available() and distributed.is_initialized():
            shared = torch.tensor([progress], dtype=torch.float64)
            if distributed.get_backend() == "nccl":
                shared = shared.cuda()
            distributed.broadcast(shared, src=0)
            progress = float(shared.item())
        self.progress = min(progress, 1.0)
        return self.progress

    def virtual_step(self) -> int:
        """Progress as a step of a schedule of `virtual_steps` steps."""
        return round(self.progress * _RESOLUTION)

    @property
    def virtual_steps(self) -> int:
        """Length of the schedule in virtual steps."""
        return _RESOLUTION


def build_budgeted_schedule(schedule: Callable[[int], float], budget: TimeBudget) -> Callable[[int], float]:
    """Turn a learning-rate function of `budget.virtual_steps` steps into one that is read at the budget's progress.

    The result is a plain function: PyTorch stores nothing of those in a checkpoint.
    """

    def compute_factor(step: int) -> float:
        return schedule(budget.virtual_step())

    return compute_factor


class TimeBudgetCallback(TrainerCallback):
    """Reads the clock at each step, asks for the evaluations that are due, and ends the training in time.

    Args:
        budget: The budget.
        num_evaluations: How many evaluations, each with a checkpoint, are spread over it; the last one ends it.
    """

    def __init__(self, budget: TimeBudget, num_evaluations: int) -> None:
        self.budget = budget
        self.num_evaluations = num_evaluations
        self.evaluations_done = 0
        self._evaluation_started_at: float | None = None
        self._bar: tqdm | None = None

    def state(self) -> dict[str, Any]:
        """What a checkpoint stores."""
        return {"elapsed": self.budget.elapsed, "evaluations_done": self.evaluations_done, "reserve": self.budget.reserve}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what a checkpoint stored."""
        self.budget.spent_before = float(state["elapsed"])
        self.budget.reserve = float(state["reserve"])
        progress = self.budget.update()
        # A longer time has more evaluations to come.
        self.evaluations_done = min(int(state["evaluations_done"]), int(progress * self.num_evaluations))

    def begin(self, started_at: float | None = None) -> None:
        """Begin anew, as [`TimeBudget.begin`]."""
        self.budget.begin(started_at)
        self.evaluations_done = 0
        self._evaluation_started_at = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Show a bar over the time."""
        if state.is_world_process_zero and not args.disable_tqdm:
            self._bar = tqdm(total=round(self.budget.seconds), initial=round(self.budget.elapsed), unit="s", desc="training")

    def on_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Read the clock before the schedule is asked for the next learning rate."""
        self.budget.update()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Ask for an evaluation and a checkpoint where one is due, and for the end when the time is spent."""
        progress = self.budget.progress
        if self._bar is not None:
            self._bar.n = min(round(self.budget.elapsed), self._bar.total)
            self._bar.set_postfix_str(f"step {state.global_step}", refresh=False)
            self._bar.update(0)
        over = progress >= 1.0
        if over or progress * self.num_evaluations >= self.evaluations_done + 1:
            self.evaluations_done = max(int(progress * self.num_evaluations), self.evaluations_done + 1)
            control.should_log = control.should_evaluate = control.should_save = True
            self._evaluation_started_at = time.monotonic()
        if over:
            control.should_training_stop = True
        return control

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Remember how long evaluating and saving took, to leave that much time at the end."""
        if self._evaluation_started_at is not None:
            took = time.monotonic() - self._evaluation_started_at
            self.budget.reserve = min(max(self.budget.reserve, 2.5 * took), 0.2 * self.budget.seconds)
            self._evaluation_started_at = None

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Print what was logged above the bar."""
        if self._bar is not None and logs:
            shown = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in logs.items()}
            self._bar.write(f"{self.budget.elapsed / 60:6.1f} min  {shown}")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


__all__ = ["TimeBudget", "TimeBudgetCallback", "build_budgeted_schedule"]

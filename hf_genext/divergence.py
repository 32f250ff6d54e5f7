"""When a training has diverged: told from the noise of single steps by a mean over about fifty of them."""

from __future__ import annotations

import math
from typing import Any

_SMOOTHED = 50
"""Steps that the mean reaches back, and that a loss must be back where it began."""
_LEAST_SCALE = 0.5
"""Of the first loss, in nats: what goes on from a model that fits well begins near 0, where a factor says little."""


class TrainingDivergedError(RuntimeError):
    """The loss is no number any more, or far above where it began."""


class NewSteps:
    """Tells the steps since it was last asked from a sum of losses that begins anew at each log."""

    def __init__(self) -> None:
        self._step, self._total = 0, 0.0

    def take(self, total: float, step: int, logged_step: int) -> tuple[float, int]:
        """The mean loss of the steps that are new, and how many these are.

        Args:
            total: The sum of the losses since the last log.
            step: How many steps have been taken.
            logged_step: How many had been at the last log.
        """
        known, before = (self._step, self._total) if self._step > logged_step else (logged_step, 0.0)
        self._step, self._total = step, total
        return (total - before) / max(step - known, 1), step - known


class DivergenceGuard:
    """Watches the losses of a training.

    Args:
        factor: How many times its first value the loss may reach; with `inf` only a loss that is no number is too much.

    Example:
        >>> from hf_genext.divergence import DivergenceGuard
        >>> guard = DivergenceGuard(factor=3.0)
        >>> [guard.has_diverged(loss, steps=100) for loss in (4.0, 2.0, 5.0, 20.0)]
        [False, False, False, True]
        >>> guard.describe()
        '; it began at 4 and had come down to 2.234'

    Attributes:
        is_doubtful: Whether the last loss, or the mean, is half the way to a divergence, or back near where it began.
    """

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self.is_doubtful = False
        self._memory: dict[str, Any] = {}
        self._begin(None)

    def _begin(self, schedule: Any) -> None:
        self._memory = {"first": None, "best": None, "sum": 0.0, "weight": 0.0, "steps": 0}
        self._memory |= {"forgotten": 0, "forgotten_steps": 0, "schedule": schedule}

    def state(self) -> dict[str, Any]:
        """What a checkpoint stores."""
        return self._memory

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what a checkpoint stored."""
        self._memory = {**self._memory, **state}

    def has_diverged(self, loss: float, steps: int, schedule: Any = None) -> bool:
        """Whether the loss is no number, far above where it began, or back there for three logs in a row, and fifty steps.

        Args:
            loss: The mean over the steps since the last call.
            steps: How many these are.
            schedule: What its parts count for. While that changes, a loss rises of itself.
        """
        memory, self.is_doubtful = self._memory, False
        if memory["schedule"] != schedule:
            is_new = memory["schedule"] is None and memory["first"] is None
            self._begin(schedule)
            if not is_new and math.isfinite(loss):
                return False  # The first log of steady weights begins anew.
            memory = self._memory
        if not math.isfinite(loss):
            return True
        kept = (1.0 - 1.0 / _SMOOTHED) ** steps
        memory["sum"] = kept * memory["sum"] + (1.0 - kept) * loss
        memory["weight"] = kept * memory["weight"] + (1.0 - kept)
        mean = memory["sum"] / memory["weight"]
        if memory["first"] is None:
            memory["first"] = loss
        if memory["best"] is None or memory["steps"] < _SMOOTHED:  # A mean of few steps is noise.
            memory["best"] = mean
        memory["steps"] += steps
        first, best = memory["first"], memory["best"]
        # The loss of numbers and densities may be negative, where a factor says nothing.
        scale = max(first, _LEAST_SCALE) if first > 0 else max(1.0, -first)
        if math.isinf(self._factor):
            return False
        if mean > first + (self._factor - 1) * scale:
            return True
        back = first - 0.1 * (first - best) if best < first - 0.2 * scale else math.inf
        is_forgotten = mean > back
        self.is_doubtful = max(loss, mean) > min(back, first + 0.5 * (self._factor - 1) * scale)
        memory["forgotten"] = memory["forgotten"] + 1 if is_forgotten else 0
        memory["forgotten_steps"] = memory["forgotten_steps"] + steps if is_forgotten else 0
        memory["best"] = min(best, mean)
        return memory["forgotten"] >= 3 and memory["forgotten_steps"] >= _SMOOTHED

    def describe(self) -> str:
        """Where the loss began and had come to, the end of a sentence."""
        first, best = self._memory["first"], self._memory["best"]
        return "" if first is None else f"; it began at {first:.4g} and had come down to {best:.4g}"

    def explain(self, loss: float, step: int, learning_rate: float, kept: Any) -> str:
        """What happened and what to do about it, with the last good checkpoint, if there is one."""
        return (
            f"The training diverged at step {step}: the loss is {loss:.4g}{self.describe()}. Lower --learning_rate (now "
            f"{learning_rate:g}), or lengthen the warm-up. "
            + (f"The last good checkpoint is {kept}." if kept else "No checkpoint is known to be good.")
        )


__all__ = ["DivergenceGuard", "NewSteps", "TrainingDivergedError"]

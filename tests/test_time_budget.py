"""Schedules that are planned for a time, read from a clock that the tests turn by hand."""

from __future__ import annotations

import types

import pytest
from specimens import build_config, sharpen
from transformers import TrainerCallback

import hf_genext.time_budget
from hf_genext import GenextForConditionalGeneration
from hf_genext.batching import ConditionalCollator, EncodedPairs
from hf_genext.checkpoints import list_checkpoints
from hf_genext.time_budget import TimeBudget, TimeBudgetCallback, build_budgeted_schedule
from hf_genext.training import GenextTrainer, GenextTrainingArguments


class Clock:
    """A clock that stands still until it is turned."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(hf_genext.time_budget, "time", types.SimpleNamespace(monotonic=clock.monotonic))
    return clock


def test_progress_is_the_share_of_the_time_without_the_reserve(clock):
    budget = TimeBudget(2.0)
    clock.now += 30
    assert budget.update() == pytest.approx(0.25)
    budget.reserve = 20.0
    assert budget.update() == pytest.approx(0.3)
    clock.now += 500
    assert budget.update() == 1.0
    with pytest.raises(ValueError, match="more than 0 minutes, got 0"):
        TimeBudget(0)


def test_a_schedule_is_read_at_the_time_that_is_spent(clock):
    budget = TimeBudget(1.0)
    schedule = build_budgeted_schedule(lambda step: 1 - step / budget.virtual_steps, budget)
    assert schedule(123) == 1.0
    clock.now += 15
    budget.update()
    assert schedule(7) == pytest.approx(0.75)


class Turn(TrainerCallback):
    """Turns the clock by some seconds at each step, and notes learning rates and evaluations."""

    def __init__(self, clock, seconds):
        self.clock, self.seconds, self.rates, self.evaluated_at, self.killed_at = clock, seconds, [], [], None

    def on_step_begin(self, args, state, control, **kwargs):
        self.rates.append(kwargs["optimizer"].param_groups[0]["lr"])
        self.clock.now += self.seconds
        if self.killed_at == state.global_step:
            raise KeyboardInterrupt

    def on_evaluate(self, args, state, control, **kwargs):
        self.evaluated_at.append(state.global_step)


def build_trainer(folder, clock, turn, **arguments):
    rows = [[5, 6, 7, 2], [8, 9, 2], [10, 2]] * 4
    args = GenextTrainingArguments(
        output_dir=str(folder),
        max_minutes=1.0,
        num_evaluations=4,
        learning_rate=0.01,
        muon_learning_rate=0.04,
        warmup_steps=0.1,
        lr_scheduler_type="linear",
        max_tokens_per_batch=12,
        disable_tqdm=True,
        save_total_limit=2,
        report_to="none",
    )
    trainer = GenextTrainer(
        model=sharpen(GenextForConditionalGeneration(build_config())),
        args=args,
        train_dataset=EncodedPairs(rows, rows),
        eval_dataset=EncodedPairs(rows, rows),
        data_collator=ConditionalCollator(0),
        **{"started_at": clock.now, **arguments},
    )
    trainer.add_callback(turn)
    return trainer


def test_the_whole_schedule_fits_the_time_and_ends_at_zero(clock, tmp_path):
    turn = Turn(clock, 1.0)
    trainer = build_trainer(tmp_path, clock, turn)
    trainer.train()
    assert trainer.state.global_step == 60  # A minute, a second a step.
    assert turn.evaluated_at == [15, 30, 45, 60]
    # Read at the last turn of the clock: up over 6 s, then down to nothing.
    assert max(turn.rates[5:8]) == max(turn.rates) == pytest.approx(0.04, rel=0.02)
    assert turn.rates[33] == pytest.approx(0.04 * 27 / 54, rel=1e-3)
    assert turn.rates[-1] == pytest.approx(0.04 / 54, rel=1e-3)
    assert [folder.name for folder in list_checkpoints(tmp_path)] == ["checkpoint-45", "checkpoint-60"]


def test_a_run_that_was_stopped_goes_on_with_the_time_that_is_left(clock, tmp_path):
    turn = Turn(clock, 1.0)
    turn.killed_at = 37
    with pytest.raises(KeyboardInterrupt):
        build_trainer(tmp_path, clock, turn).train()
    clock.now += 5000  # The machine was off.
    turn = Turn(clock, 1.0)
    trainer = build_trainer(tmp_path, clock, turn)
    trainer.train(resume_from_checkpoint="auto")
    assert trainer.state.global_step == 60
    assert turn.evaluated_at == [45, 60]
    assert turn.rates[0] == pytest.approx(0.04 * 30 / 54, rel=1e-3)
    assert trainer.state.log_history[0]["step"] <= 15


def test_a_longer_time_has_evaluations_to_come(clock):
    callback = TimeBudgetCallback(TimeBudget(30.0), 10)
    clock.now += 1800
    callback.budget.update()
    callback.evaluations_done = 10
    for minutes, done in ((30.0, 10), (60.0, 5), (300.0, 1)):
        longer = TimeBudgetCallback(TimeBudget(minutes), 10)
        longer.restore(callback.state())
        assert longer.evaluations_done == done


def test_the_clock_begins_with_the_training_and_anew_with_the_next(clock, tmp_path):
    turn = Turn(clock, 2.0)
    trainer = build_trainer(tmp_path, clock, turn, started_at=None)
    clock.now += 10000
    trainer.train()
    first = len(turn.rates)
    trainer.train()
    assert len(turn.rates) == 2 * first > 2

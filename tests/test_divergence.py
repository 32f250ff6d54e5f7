"""What is taken for a training that has diverged, and what for noise."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from hf_genext.divergence import DivergenceGuard, NewSteps


@pytest.mark.parametrize("steps", [1, 10, 200])
def test_the_noise_of_single_steps_is_no_divergence(steps):
    for seed in range(100):
        generator = np.random.default_rng(seed)
        guard = DivergenceGuard(3.0)
        for number in range(1000 // steps + 20):
            loss = 2.0 - 0.3 * min(1.0, number * steps / 800) + generator.normal(0.0, 0.4 / math.sqrt(steps))
            assert not guard.has_diverged(loss, steps), (seed, number, guard.describe())


def test_a_loss_that_comes_back_is_seen_in_noise_too():
    generator = np.random.default_rng(0)
    guard = DivergenceGuard(3.0)
    told = [guard.has_diverged(level + generator.normal(0.0, 0.3), 1) for level in [4.0] * 60 + [2.0] * 200 + [4.2] * 300]
    assert not any(told[:300]) and any(told[300:])


def test_a_model_that_fits_well_may_lose_a_little():
    guard = DivergenceGuard(3.0)
    assert not any(guard.has_diverged(loss, 100) for loss in (0.002, 0.007, 0.2, 0.9))
    assert guard.has_diverged(2.0, 100)


def test_without_a_limit_only_what_is_no_number_is_too_much():
    guard = DivergenceGuard(math.inf)
    assert not any(guard.has_diverged(loss, 100) for loss in (1.0, 0.1, 1.0, 1.0, 1.0, 1e9))
    assert guard.has_diverged(math.inf, 1) and guard.has_diverged(math.nan, 1)


def test_it_goes_on_from_what_a_checkpoint_stored():
    losses = [4.0, 3.0, 2.0, 4.5, 4.5, 4.5, 4.5]
    whole, first = DivergenceGuard(3.0), DivergenceGuard(3.0)
    told = [whole.has_diverged(loss, 60) for loss in losses]
    halves = [first.has_diverged(loss, 60) for loss in losses[:4]]
    second = DivergenceGuard(3.0)
    second.restore(json.loads(json.dumps(first.state())))
    assert told == halves + [second.has_diverged(loss, 60) for loss in losses[4:]] and True in told
    assert whole.describe() == second.describe()


@pytest.mark.parametrize("logging_steps", [20, 200])
@pytest.mark.parametrize("spike", [20, 400])
def test_a_step_is_seen_once_however_often_somebody_looks(logging_steps, spike):
    guard, new_steps = DivergenceGuard(3.0), NewSteps()
    total, logged_step, seen, told = 0.0, 0, [], []
    for step in range(1, 2001):
        total += 6.0 if 800 < step <= 800 + spike else 1.0
        if step % 20 == 0:  # A checkpoint, at every tenth of which or at all there is a log.
            seen.append(new_steps.take(total, step, logged_step))
            told.append(guard.has_diverged(*seen[-1]))
        if step % logging_steps == 0:
            total, logged_step = 0.0, step
    assert seen == [(6.0 if 800 < 20 * number <= 800 + spike else 1.0, 20) for number in range(1, 101)]
    assert any(told) == (spike == 400)


def test_what_is_about_to_diverge_is_doubtful_before_it_is_certain():
    guard = DivergenceGuard(3.0)
    doubts = [(guard.has_diverged(loss, 20), guard.is_doubtful) for loss in (4.0, 3.0, 2.0, 1.0, 1.0, 5.0, 1.0, 9.0)]
    assert doubts == [*[(False, False)] * 5, (False, True), (False, False), (False, True)]

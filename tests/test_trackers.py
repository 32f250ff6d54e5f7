"""What a run logs reaches the tracker that `report_to` names."""

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from recipes.train_conditional import main as train


def test_a_tracker_is_told_what_the_run_logs(tmp_path):
    words = ["--max_steps", "4", "--logging_steps", "1", "--eval_steps", "2", "--save_steps", "4", "--validation_size", "40"]
    words += ["--output_dir", str(tmp_path), "--report_to", "tensorboard", "--num_threads", "1"]
    train(["recipes/g2p/smoke.yaml", *words])
    (events,) = tmp_path.glob("runs/*/events*")
    told = EventAccumulator(str(events))
    told.Reload()
    logged = json.loads((tmp_path / "trainer_state.json").read_text())["log_history"]
    for theirs, ours in (("train/loss", "loss"), ("eval/word_error_rate", "eval_word_error_rate"), ("eval/loss", "eval_loss")):
        expected = {entry["step"]: entry[ours] for entry in logged if ours in entry}
        assert {event.step: event.value for event in told.Scalars(theirs)} == pytest.approx(expected, rel=1e-6)
        assert len(expected) == (4 if ours == "loss" else 2)

"""Training is exact over accumulation and ranks, resumes bit by bit after a kill, and stops when it diverges."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file
from specimens import build_config, build_prediction, build_processor, sharpen
from transformers import TrainerCallback, set_seed

from hf_genext import GenextForConditionalGeneration, GenextProcessor
from hf_genext.batching import ConditionalCollator, EncodedPairs, EncodedRows
from hf_genext.checkpoints import (
    MARKER_NAME,
    check_same_model,
    find_last_complete,
    hold_folder,
    list_checkpoints,
)
from hf_genext.metrics import METRICS
from hf_genext.prediction_metrics import PREDICTION_METRICS
from hf_genext.sequence_metrics import SEQUENCE_METRICS
from hf_genext.training import GenextTrainer, GenextTrainingArguments, TrainingDivergedError
from hf_genext.training_arguments import LOWER_IS_BETTER
from recipes.train_conditional import EarlyStopping

PROGRAM = Path(__file__).parent / "programs" / "train_tiny.py"


def start(out: Path, *options: str, ranks: int = 1) -> subprocess.Popen:
    """Start the training program."""
    launcher = [sys.executable]
    if ranks > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    return subprocess.Popen(
        [*launcher, str(PROGRAM), str(out), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def train(out: Path, *options: str, ranks: int = 1) -> tuple[dict[str, torch.Tensor], str]:
    """Run the training program to its end: the weights and what it printed."""
    process = start(out, *options, ranks=ranks)
    printed, _ = process.communicate(timeout=240)
    assert process.returncode == 0, printed
    return load_file(out / "final.safetensors"), printed


def greatest_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """The largest difference of any weight."""
    assert first.keys() == second.keys() and first
    return max((first[name] - second[name]).abs().max().item() for name in first)


@pytest.mark.parametrize("trainer", ["genext", "plain"])
@pytest.mark.parametrize(("smoothing", "directions"), [("0.0", "1"), ("0.1", "1"), ("0.1", "2")])
def test_accumulated_steps_and_ranks_equal_one_batch(tmp_path, trainer, smoothing, directions):
    # Seven rows in batches of four: one of two ranks has a row less.
    evaluated = ("--evaluated_rows", "7") if trainer == "genext" else ()
    common = ("--trainer", trainer, "--smoothing", smoothing, "--directions", directions, *evaluated)
    whole, told = train(tmp_path / "whole", *common)
    untrained = sharpen(GenextForConditionalGeneration(build_config("pooled"))).state_dict()
    assert greatest_difference(whole, untrained) > 1e-2, "the step changed nothing"
    accumulated, _ = train(tmp_path / "accumulated", *common, "--batch_size", "2", "--accumulate", "4")
    assert greatest_difference(whole, accumulated) < 2e-5
    ranks, printed = train(tmp_path / "ranks", *common, "--batch_size", "4", ranks=2)
    assert "world size 2" in printed
    assert greatest_difference(whole, ranks) < 2e-5
    if evaluated:
        expected, found = (float(text.partition("evaluation ")[2].split()[0]) for text in (told, printed))
        assert found == pytest.approx(expected, abs=1e-4), "a row counts twice"


def test_token_budget_batches_accumulated_over_an_epoch_equal_one_batch(tmp_path):
    whole, _ = train(tmp_path / "whole", "--rows", "40", "--batch_size", "40")
    bucketed, _ = train(tmp_path / "bucketed", "--rows", "40", "--max_tokens", "60", "--accumulate", "100")
    assert greatest_difference(whole, bucketed) < 2e-5
    ranks, _ = train(tmp_path / "ranks", "--rows", "40", "--max_tokens", "60", "--accumulate", "100", ranks=2)
    assert greatest_difference(whole, ranks) < 2e-5


RESUMABLE = ("--rows", "60", "--max_tokens", "60", "--steps", "16", "--save_steps", "4", "--dropout", "0.3")
OPTIMIZERS = {"adamw": ("--optim", "adamw_torch_fused"), "muon": ("--optim", "adamw_torch_fused", "--muon", "0.02")}


def kill_all(process: subprocess.Popen) -> None:
    """Kill a launcher and its ranks, which run in sessions of their own, as a machine that loses power does."""
    processes = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for victim in processes:
        victim.send_signal(signal.SIGKILL)
    process.wait()


def kill_at(out: Path, step: int, *options: str, ranks: int = 1) -> None:
    """Start a run and kill it, with all its processes, after a step."""
    process = start(out, *options, "--sleep", "0.05", ranks=ranks)
    for line in process.stdout:
        if line.strip() == f"step {step}":
            break
    kill_all(process)
    assert not (out / "final.safetensors").exists(), "the run ended before it was killed"


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path, optimizer):
    options = (*RESUMABLE, *OPTIMIZERS[optimizer])
    expected, _ = train(tmp_path / "whole", *options)
    kill_at(tmp_path / "killed", 10, *options)
    assert find_last_complete(tmp_path / "killed") is not None
    resumed, _ = train(tmp_path / "killed", *options, "--resume", "auto")
    assert greatest_difference(expected, resumed) == 0.0


def test_a_half_written_checkpoint_is_passed_over(tmp_path, caplog):
    options = (*RESUMABLE, *OPTIMIZERS["adamw"])
    expected, _ = train(tmp_path / "whole", *options)
    out = tmp_path / "killed"
    shutil.copytree(tmp_path / "whole", out)
    (out / "final.safetensors").unlink()
    last, before = list_checkpoints(out)[-1], list_checkpoints(out)[-2]
    weights = last / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert find_last_complete(out) == before
    assert "model.safetensors has 1,000 bytes instead of" in caplog.text
    (last / MARKER_NAME).unlink()
    assert find_last_complete(out) == before
    assert "its writing was cut off" in caplog.text
    resumed, printed = train(out, *options, "--resume", "auto")
    assert greatest_difference(expected, resumed) == 0.0
    assert "Passing over" in printed


@pytest.mark.slow
def test_two_ranks_killed_go_on_to_the_same_weights(tmp_path):
    options = (*RESUMABLE, *OPTIMIZERS["muon"])
    expected, _ = train(tmp_path / "whole", *options, ranks=2)
    kill_at(tmp_path / "killed", 10, *options, ranks=2)
    resumed, _ = train(tmp_path / "killed", *options, "--resume", "auto", ranks=2)
    assert greatest_difference(expected, resumed) == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("delay", [0.0, 0.005, 0.01, 0.02, 0.04, 0.08])
def test_a_kill_during_a_checkpoint_write_loses_nothing(tmp_path, delay, ranks):
    import time

    options = (*RESUMABLE, *OPTIMIZERS["adamw"])
    expected, _ = train(tmp_path / "whole", *options, ranks=ranks)
    out = tmp_path / "killed"
    process = start(out, *options, "--sleep", "0.05", ranks=ranks)
    while not (out / "checkpoint-8").exists():
        assert process.poll() is None
        time.sleep(0.001)
    time.sleep(delay)
    kill_all(process)
    assert find_last_complete(out) is not None, "no complete checkpoint is left"
    resumed, _ = train(out, *options, "--resume", "auto", ranks=ranks)
    assert greatest_difference(expected, resumed) == 0.0


def build_trainer(out: Path, **arguments) -> GenextTrainer:
    """A trainer in this process."""
    set_seed(1)
    rows = [[5, 6, 7, 2], [8, 9, 2], [4, 6, 2], [7, 5, 4, 3, 2]] * 4
    args = GenextTrainingArguments(
        **{
            "output_dir": str(out),
            "max_tokens_per_batch": 12,
            "max_steps": 12,
            "logging_steps": 1,
            "save_strategy": "steps",
            "save_steps": 4,
            "disable_tqdm": True,
            "report_to": "none",
            "learning_rate": 1e-3,
            **arguments,
        }
    )
    return GenextTrainer(
        model=sharpen(GenextForConditionalGeneration(build_config("none"))),
        args=args,
        train_dataset=EncodedPairs(rows, rows),
        eval_dataset=EncodedPairs(rows, rows),
        data_collator=ConditionalCollator(0),
    )


def test_a_training_that_diverges_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    build_trainer(tmp_path).train()
    kept = find_last_complete(tmp_path)
    trainer = build_trainer(tmp_path, learning_rate=30.0, max_steps=200)
    with pytest.raises(TrainingDivergedError, match=r"diverged at step \d+.*Lower --learning_rate \(now 30\)") as error:
        trainer.train()
    assert str(kept) in str(error.value)
    for tensor in load_file(kept / "model.safetensors").values():
        assert tensor.isfinite().all()


def test_the_guard_is_given_every_step_once(tmp_path):
    trainer, given = build_trainer(tmp_path, logging_steps=5, save_steps=2), []
    trainer._raise_if_diverged = lambda loss, steps: given.append((loss, steps))
    trainer.train()
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert [steps for _, steps in given] == [2, 2, 1, 1, 2, 2, 2]
    assert sum(loss * steps for loss, steps in given[:3]) / 5 == pytest.approx(logged[0])
    assert sum(loss * steps for loss, steps in given[3:6]) / 5 == pytest.approx(logged[1])


class Ruin(TrainerCallback):
    """Raises the learning rate beyond reason from a step on."""

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        if state.global_step >= 5:
            for group in optimizer.param_groups:
                group["lr"] = 30.0


def test_a_checkpoint_behind_a_ruinous_update_is_not_called_good(tmp_path):
    often = {"save_steps": 1, "save_total_limit": 1}
    trainer = build_trainer(tmp_path, max_steps=200, **often)
    trainer.add_callback(Ruin)
    with pytest.raises(TrainingDivergedError, match=r"The last good checkpoint is .*checkpoint-5\."):
        trainer.train()
    assert list_checkpoints(tmp_path)[-1].name != "checkpoint-5"
    again = build_trainer(tmp_path, **often)
    again.train(resume_from_checkpoint="auto")
    assert len([entry for entry in again.state.log_history if entry.get("loss", 9.0) < 6.0]) == 12
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-12"]
    fresh = build_trainer(tmp_path / "fresh", learning_rate=30.0, max_steps=200, **often)
    with pytest.raises(TrainingDivergedError, match="No checkpoint is known to be good"):
        fresh.train()
    assert find_last_complete(tmp_path / "fresh") is None


def test_divergence_is_told_from_noise(tmp_path):
    trainer = build_trainer(tmp_path)
    for loss in (4.0, 2.0, 1.0, 1.9, 1.1, 3.9, 3.9, 1.0, 3.9, 3.9):  # Noise, and a spike of two logs.
        trainer._raise_if_diverged(loss, 200)
    with pytest.raises(TrainingDivergedError, match=r"began at 4 and had come down to 1"):
        trainer._raise_if_diverged(3.9, 200)
    for loss in (float("nan"), float("inf"), 12.5):
        trainer = build_trainer(tmp_path)
        trainer._raise_if_diverged(4.0, 200)
        with pytest.raises(TrainingDivergedError):
            trainer._raise_if_diverged(loss, 200)
    with pytest.raises(TrainingDivergedError):
        build_trainer(tmp_path)._raise_if_diverged(float("nan"), 200)


def test_a_loss_whose_parts_come_to_count_for_more_does_not_diverge(tmp_path):
    trainer = build_trainer(tmp_path)
    for weight, loss in ((0.1, 2.0), (0.5, 9.0), (1.0, 20.0), (1.0, 30.0), (1.0, 25.0)):
        trainer._latents = SimpleNamespace(schedule={"kl_weight": weight})
        trainer._raise_if_diverged(loss, 200)
    with pytest.raises(TrainingDivergedError, match="it began at 30 and had come down to 25"):
        trainer._raise_if_diverged(100.0, 200)
    trainer = build_trainer(tmp_path)
    trainer._raise_if_diverged(2.0, 200)
    trainer._latents = SimpleNamespace(schedule={"kl_weight": 0.5})
    with pytest.raises(TrainingDivergedError):
        trainer._raise_if_diverged(float("nan"), 200)


def test_divergence_is_told_from_a_loss_below_zero(tmp_path):
    trainer = build_trainer(tmp_path)
    for loss in (-0.5, -1.0, -2.0, -1.5, -2.5):  # As of a density over small numbers.
        trainer._raise_if_diverged(loss, 200)
    with pytest.raises(TrainingDivergedError):
        trainer._raise_if_diverged(1.6, 200)


def test_the_source_tokenizer_does_not_overwrite_the_models_token_ids(tmp_path):
    processor = build_processor()
    processor.tokenizer.pad_token = "a"  # Another id than the target's padding.
    model = sharpen(GenextForConditionalGeneration(build_config("none")))
    args = GenextTrainingArguments(output_dir=str(tmp_path), max_steps=1, max_tokens_per_batch=20, report_to="none")
    rows = EncodedPairs([[5, 6, 2]], [[7, 2]])
    GenextTrainer(model=model, args=args, train_dataset=rows, processing_class=processor).train()
    assert processor.tokenizer.pad_token_id != 0
    assert model.config.pad_token_id == model.config.decoder.pad_token_id == model.generation_config.pad_token_id == 0


def test_a_processor_with_its_tokenizers_mixed_up_is_refused_before_training(tmp_path):
    processor = build_processor()
    mixed = GenextProcessor(tokenizer=processor.target_tokenizer, target_tokenizer=processor.tokenizer)
    config = build_config("none")
    config.conditioner.vocab_size, config.decoder.vocab_size = len(processor.tokenizer), len(processor.target_tokenizer)
    args = GenextTrainingArguments(output_dir=str(tmp_path), report_to="none")
    with pytest.raises(ValueError, match="mixed up: exchange tokenizer= and target_tokenizer="):
        GenextTrainer(model=GenextForConditionalGeneration(config), args=args, processing_class=mixed)


def test_evaluation_loss_is_exact_over_batches(tmp_path):
    trainer = build_trainer(tmp_path)
    rows = trainer.eval_dataset
    batch = ConditionalCollator(0)([rows[index] for index in range(len(rows))])
    with torch.no_grad():
        expected = trainer.model(**batch).loss.item()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-6)


def test_evaluation_loss_is_of_both_directions_where_the_model_has_both(tmp_path):
    trainer = build_trainer(tmp_path, max_tokens_per_batch=24)
    model, rows = trainer.model, trainer.eval_dataset
    model.config.reversed_start_token_id = 3
    trainer.data_collator = ConditionalCollator(0, model.prepare_decoder_input_ids_from_labels, reversed_start_token_id=3)
    total = count = 0
    for row in [rows[index] for index in range(len(rows))]:
        source, target = row["input_ids"].tolist(), row["labels"].tolist()
        for start, labels in ((1, target), (3, [*target[:-1][::-1], target[-1]])):
            inputs = {"input_ids": [source], "decoder_input_ids": [[start, *labels[:-1]]], "labels": [labels]}
            with torch.no_grad():
                total += len(labels) * model(**{name: torch.tensor(ids) for name, ids in inputs.items()}).loss.item()
            count += len(labels)
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] == pytest.approx(total / count, rel=1e-5)


def test_checkpoints_hold_no_damage_and_old_ones_go(tmp_path):
    build_trainer(tmp_path, save_total_limit=1).train()
    (checkpoint,) = list_checkpoints(tmp_path)
    assert checkpoint.name == "checkpoint-12"
    assert {"model.safetensors", "optimizer.pt", "trainer_state.json"} <= set(
        json.loads((checkpoint / MARKER_NAME).read_text())["sizes"]
    )


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    trainer = build_trainer(tmp_path)
    trainer.train()
    other = build_config("none")
    other.decoder.num_hidden_layers = 9
    with pytest.raises(ValueError, match=r"decoder\.num_hidden_layers is 3 there and 9 here"):
        check_same_model(find_last_complete(tmp_path), other.to_dict())


def test_a_checkpoint_that_is_not_there_or_damaged_is_refused(tmp_path):
    build_trainer(tmp_path, save_total_limit=2).train()
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*checkpoint-9' .*beside it: checkpoint-8, checkpoint-12"):
        build_trainer(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-9"))
    (tmp_path / "checkpoint-12" / "optimizer.pt").unlink()
    with pytest.raises(ValueError, match=r"checkpoint-12' is damaged: optimizer.pt is missing.*\"auto\""):
        build_trainer(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-12"))


def test_an_output_folder_in_use_is_refused(tmp_path):
    program = (
        "import sys, time; from hf_genext.checkpoints import hold_folder\n"
        f"with hold_folder({str(tmp_path)!r}): print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(RuntimeError, match=f"in use by process {process.pid}"), hold_folder(tmp_path):
            pass
    finally:
        process.kill()
        process.wait()
    with hold_folder(tmp_path):  # A killed process holds nothing.
        pass


def test_a_folder_that_cannot_be_held_is_no_folder_in_use(tmp_path, monkeypatch, caplog):
    def refuse(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)  # As file systems without locks do.
    with caplog.at_level("WARNING", "hf_genext"), hold_folder(tmp_path):
        pass
    assert "has no locks ([Errno" in caplog.text


def test_a_checkpoint_of_another_trainer_is_gone_on_from_where_it_is_named(tmp_path, caplog):
    build_trainer(tmp_path / "own").train()
    others = shutil.copytree(tmp_path / "own" / "checkpoint-4", tmp_path / "others" / "checkpoint-4")
    (others / MARKER_NAME).unlink()
    with caplog.at_level("WARNING", "hf_genext"):
        trainer = build_trainer(tmp_path / "next")
        trainer.train(resume_from_checkpoint=str(others))
    assert "nobody can tell whether it is whole" in caplog.text
    expected, found = (load_file(tmp_path / name / "checkpoint-12" / "model.safetensors") for name in ("own", "next"))
    assert greatest_difference(expected, found) == 0.0
    (others / "writing").touch()
    with pytest.raises(ValueError, match="is damaged"):
        build_trainer(tmp_path / "last").train(resume_from_checkpoint=str(others))


def generate_from(trainer, **arguments):
    trainer.generate_texts = list
    for name, value in arguments.items():
        setattr(trainer, name, value)
    return trainer


def test_texts_are_scored_with_the_rows_that_they_belong_to(tmp_path):
    trainer = generate_from(
        build_trainer(tmp_path),
        generation_dataset={"source": ["a", "b"], "references": [["a"], ["c"]]},
        generation_metrics=lambda texts, references: {"right": sum([t] == r for t, r in zip(texts, references, strict=True))},
    )
    others = EncodedPairs([[5, 6, 2]], [[7, 2]])
    assert trainer.evaluate()["eval_right"] == 1
    assert trainer.evaluate(trainer.eval_dataset)["eval_right"] == 1
    scores = trainer.evaluate(others, metric_key_prefix="test")
    assert "test_loss" in scores and "test_right" not in scores
    trainer.eval_dataset = {"first": trainer.eval_dataset, "second": others}
    trainer.generation_dataset = {"second": {"source": ["x"], "references": [["x"]]}}
    scores = trainer.evaluate()
    assert scores["eval_second_right"] == 1 and "eval_first_right" not in scores
    assert scores["eval_first_loss"] != scores["eval_second_loss"]


def test_predictions_come_in_the_order_of_the_rows(tmp_path):
    trainer = build_trainer(tmp_path, per_device_eval_batch_size=3)
    rows = EncodedPairs([[5, 6, 7, 2], [8, 2], [4, 6, 2], [7, 5, 4, 3, 2]], [[7, 2], [5, 6, 4, 2], [4, 2], [5, 5, 2]])
    found = trainer.predict(rows)
    logits = found.predictions[0] if isinstance(found.predictions, tuple) else found.predictions
    for place in range(len(rows)):
        labels = rows[place]["labels"]
        with torch.no_grad():
            alone = trainer.model(**ConditionalCollator(0)([rows[place]])).logits[0]
        assert found.label_ids[place][: len(labels)].tolist() == labels.tolist()
        torch.testing.assert_close(torch.tensor(logits[place][: len(labels)]), alone, atol=1e-5, rtol=0)
    assert "test_loss" in found.metrics


def test_a_collator_is_kept_wherever_it_stands(tmp_path):
    collator = ConditionalCollator(0)
    given = build_trainer(tmp_path)
    trainer = GenextTrainer(given.model, given.args, collator, given.train_dataset, processing_class=build_processor())
    assert trainer.data_collator is collator


def test_evaluations_are_of_the_loss_that_is_trained(tmp_path):
    class Doubled(GenextTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
            loss, outputs = super().compute_loss(model, inputs, True, **kwargs)
            return (2 * loss, outputs) if return_outputs else 2 * loss

    plain = build_trainer(tmp_path)
    doubled = Doubled(plain.model, plain.args, plain.data_collator, plain.train_dataset, plain.eval_dataset)
    assert doubled.evaluate()["eval_loss"] == pytest.approx(2 * plain.evaluate()["eval_loss"], rel=1e-6)


def test_a_step_without_any_label_changes_nothing(tmp_path):
    model = build_prediction("class")
    rows = EncodedRows({"input_ids": [[5, 6, 2]] * 4}, np.array([1, -100, -100, 2]))
    args = GenextTrainingArguments(
        str(tmp_path), max_steps=4, per_device_train_batch_size=1, logging_steps=1, report_to="none", disable_tqdm=True
    )
    trainer = GenextTrainer(model=model, args=args, train_dataset=rows, data_collator=ConditionalCollator(0))
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 4 and sorted(loss == 0.0 for loss in losses) == [False, False, True, True]


def test_it_is_known_which_metrics_are_to_be_low(tmp_path):
    known = {*METRICS, *SEQUENCE_METRICS, *PREDICTION_METRICS}
    higher = {"bleu", "chrf", "exact_match", "rouge", "token_f1", "log_likelihood_per_character", "accuracy", "log_likelihood"}
    higher |= {"log_likelihood_per_dimension", "macro_f1", "micro_f1", "r2", "spearman"}
    assert known == higher | LOWER_IS_BETTER and not higher & LOWER_IS_BETTER

    def decide(name, **arguments):
        args = GenextTrainingArguments(str(tmp_path), metric_for_best_model=name, report_to="none", **arguments)
        return args.greater_is_better

    assert not any(decide(name) for name in ("loss", "eval_word_error_rate", *LOWER_IS_BETTER))
    assert all(decide(name) for name in (*higher, "of_their_own"))
    assert decide("perplexity", greater_is_better=True)


def test_a_second_training_begins_anew(tmp_path):
    trainer = build_trainer(tmp_path)
    assert trainer.elapsed_minutes == 0.0
    trainer.train()
    trainer._guard.restore({"first": -1e9, "best": -1e9})  # By which any loss would be far too high.
    before = trainer._started_at
    trainer.train()
    assert trainer._started_at > before and trainer.state.global_step == 12


@pytest.mark.parametrize(("patience", "last"), [(2, 3), (3, 4)])
def test_a_run_that_goes_on_stops_as_early_as_one_that_was_never_cut_off(tmp_path, patience, last):
    # Nothing is learned, so that no evaluation but the first is the best.
    often = {"learning_rate": 0.0, "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "loss"}

    def run(out, patience, steps=12, resume=None):
        trainer = build_trainer(out, max_steps=steps, **often)
        trainer.add_callback(EarlyStopping(patience))
        trainer.train(resume_from_checkpoint=resume)
        return trainer.state.global_step

    assert run(tmp_path / "whole", patience) == last
    assert run(tmp_path / "parts", 2, steps=2) == 2
    assert run(tmp_path / "parts", patience, resume="auto") == last


def test_two_choices_of_the_optimizer_are_refused(tmp_path):
    trainer = build_trainer(tmp_path, muon_learning_rate=0.01)
    trainer.optimizer_cls_and_kwargs = (torch.optim.SGD, {"lr": 0.1})
    with pytest.raises(ValueError, match="muon_learning_rate and optimizer_cls_and_kwargs each choose the optimizer"):
        trainer.train()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_tokens_per_batch": 0}, "max_tokens_per_batch must be 1 or more, got 0"),
        ({"max_minutes": -1.0, "max_steps": -1}, "max_minutes must be more than 0"),
        ({"max_minutes": 1.0, "max_steps": 5}, "give one"),
        ({"max_minutes": 1.0, "max_steps": -1, "warmup_steps": 100}, "share of the time"),
        ({"precision": "fp8"}, "precision must be"),
        ({"precision": "fp32", "fp16": True}, "contradict each other"),
        ({"max_source_tokens_per_batch": 0}, "max_source_tokens_per_batch must be 1 or more"),
        ({"eval_max_tokens_per_batch": 9, "max_tokens_per_batch": None}, "is for batches by max_tokens_per_batch"),
        ({"divergence_factor": 0.5}, "divergence_factor must be more than 1"),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        build_trainer(tmp_path, **arguments)

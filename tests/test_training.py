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

import psutil
import pytest
import torch
from safetensors.torch import load_file
from specimens import build_config, build_processor, sharpen
from transformers import set_seed

from hf_genext import GenextForConditionalGeneration, GenextProcessor
from hf_genext.batching import ConditionalCollator, EncodedPairs
from hf_genext.checkpoints import (
    MARKER_NAME,
    check_same_model,
    find_last_complete,
    hold_folder,
    list_checkpoints,
    mark_complete,
)
from hf_genext.training import GenextTrainer, GenextTrainingArguments, TrainingDivergedError

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
@pytest.mark.parametrize("delay", [0.0, 0.005, 0.01, 0.02, 0.04, 0.08])
def test_a_kill_during_a_checkpoint_write_loses_nothing(tmp_path, delay):
    import time

    options = (*RESUMABLE, *OPTIMIZERS["adamw"])
    expected, _ = train(tmp_path / "whole", *options)
    out = tmp_path / "killed"
    process = start(out, *options, "--sleep", "0.05")
    while not (out / "checkpoint-8").exists():
        assert process.poll() is None
        time.sleep(0.001)
    time.sleep(delay)
    kill_all(process)
    assert find_last_complete(out) is not None, "no complete checkpoint is left"
    resumed, _ = train(out, *options, "--resume", "auto")
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


def test_divergence_is_told_from_noise(tmp_path):
    trainer = build_trainer(tmp_path)
    for loss in (4.0, 2.0, 1.0, 1.9, 1.1, 3.9, 3.9, 1.0, 3.9, 3.9):  # Noise, and a spike of two logs.
        trainer._raise_if_diverged(loss)
    with pytest.raises(TrainingDivergedError, match=r"began at 4 and had come down to 1"):
        trainer._raise_if_diverged(3.9)
    for loss in (float("nan"), float("inf"), 12.5):
        trainer = build_trainer(tmp_path)
        trainer._raise_if_diverged(4.0)
        with pytest.raises(TrainingDivergedError):
            trainer._raise_if_diverged(loss)
    with pytest.raises(TrainingDivergedError):
        build_trainer(tmp_path)._raise_if_diverged(float("nan"))


def test_a_loss_whose_parts_come_to_count_for_more_does_not_diverge(tmp_path):
    trainer = build_trainer(tmp_path)
    for weight, loss in ((0.1, 2.0), (0.5, 9.0), (1.0, 20.0), (1.0, 30.0), (1.0, 25.0)):
        trainer._latents = SimpleNamespace(schedule={"kl_weight": weight})
        trainer._raise_if_diverged(loss)
    with pytest.raises(TrainingDivergedError, match="it began at 30 and had come down to 25"):
        trainer._raise_if_diverged(100.0)
    trainer = build_trainer(tmp_path)
    trainer._raise_if_diverged(2.0)
    trainer._latents = SimpleNamespace(schedule={"kl_weight": 0.5})
    with pytest.raises(TrainingDivergedError):
        trainer._raise_if_diverged(float("nan"))


def test_divergence_is_told_from_a_loss_below_zero(tmp_path):
    trainer = build_trainer(tmp_path)
    for loss in (-0.5, -1.0, -2.0, -1.5, -2.5):  # As of a density over small numbers.
        trainer._raise_if_diverged(loss)
    with pytest.raises(TrainingDivergedError):
        trainer._raise_if_diverged(1.6)


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


def test_a_marker_is_whole_or_not_there(tmp_path):
    (tmp_path / "weights").write_bytes(b"x" * 10)
    mark_complete(tmp_path)
    assert json.loads((tmp_path / MARKER_NAME).read_text()) == {"sizes": {"weights": 10}}
    assert sorted(path.name for path in tmp_path.iterdir()) == [MARKER_NAME, "weights"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_tokens_per_batch": 0}, "max_tokens_per_batch must be 1 or more, got 0"),
        ({"max_minutes": -1.0, "max_steps": -1}, "max_minutes must be more than 0"),
        ({"max_minutes": 1.0, "max_steps": 5}, "give one"),
        ({"max_minutes": 1.0, "max_steps": -1, "warmup_steps": 100}, "share of the time"),
        ({"precision": "fp8"}, "precision must be"),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        build_trainer(tmp_path, **arguments)

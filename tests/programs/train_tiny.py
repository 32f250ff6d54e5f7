"""Trains a tiny model on made-up rows and writes its weights; tests start it on one rank or several, and kill it.

torchrun --nproc_per_node 2 tests/programs/train_tiny.py OUT [--key value ...]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

sys.path[:0] = [str(folder) for folder in Path(__file__).parents[1:3]]

from specimens import build_config, sharpen
from transformers import Seq2SeqTrainer, TrainerCallback, set_seed

from hf_genext import GenextForConditionalGeneration
from hf_genext.batching import ConditionalCollator, EncodedPairs
from hf_genext.training import GenextTrainer, GenextTrainingArguments
from recipes.running import leave_ranks


def build_rows(count: int) -> EncodedPairs:
    """Rows of unequal lengths; the target is the source turned round."""
    generator = np.random.default_rng(5)
    sources = [generator.integers(4, 31, generator.integers(2, 12)).tolist() for _ in range(count)]
    return EncodedPairs(sources, [[*reversed(source), 2] for source in sources])


class Slow(TrainerCallback):
    """Gives whoever kills the run the time to do so, and says when a step is done."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_step_end(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            print(f"step {state.global_step}", flush=True)
        time.sleep(self.seconds)


def main() -> None:
    """Train, and write the weights of rank 0."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--max_tokens", type=int, default=None)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--save_steps", type=int, default=0)
    parser.add_argument("--optim", default="sgd")
    parser.add_argument("--muon", type=float, default=None)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--smoothing", type=float, default=0.0)
    parser.add_argument("--directions", type=int, default=1)
    parser.add_argument("--trainer", default="genext")
    parser.add_argument("--evaluated_rows", type=int, default=0)
    parser.add_argument("--resume", default=None)
    parser.add_argument("--sleep", type=float, default=0.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    set_seed(1)
    model = sharpen(GenextForConditionalGeneration(build_config("pooled", dropout=options.dropout)))
    args = GenextTrainingArguments(
        output_dir=options.out,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=options.batch_size,
        gradient_accumulation_steps=options.accumulate,
        max_tokens_per_batch=options.max_tokens,
        max_steps=options.steps,
        learning_rate=0.1 if options.optim == "sgd" else 3e-3,
        muon_learning_rate=options.muon,
        optim=options.optim,
        lr_scheduler_type="constant" if options.optim == "sgd" else "linear",
        label_smoothing_factor=options.smoothing,
        max_grad_norm=0.0,
        train_sampling_strategy="sequential",
        save_strategy="steps" if options.save_steps else "no",
        save_steps=options.save_steps or 1,
        save_total_limit=2,
        logging_steps=1,
        disable_tqdm=True,
        remove_unused_columns=False,
        report_to="none",
        seed=3,
    )
    if options.directions == 2:
        model.config.reversed_start_token_id = 3
    prepare = model.prepare_decoder_input_ids_from_labels if options.smoothing or options.directions == 2 else None
    arguments = {
        "model": model,
        "args": args,
        "train_dataset": build_rows(options.rows),
        "eval_dataset": build_rows(options.evaluated_rows) if options.evaluated_rows else None,
        "data_collator": ConditionalCollator(0, prepare, model.config.reversed_start_token_id),
        "callbacks": [Slow(options.sleep)],
    }
    trainer = GenextTrainer(**arguments) if options.trainer == "genext" else Seq2SeqTrainer(**arguments)
    if options.evaluated_rows:
        loss = trainer.evaluate()["eval_loss"]
        if trainer.args.process_index == 0:
            print(f"evaluation {loss!r}", flush=True)
    trainer.train(resume_from_checkpoint=options.resume)
    if trainer.args.process_index == 0:
        weights = {name: tensor.detach().clone() for name, tensor in trainer.model.state_dict().items()}
        save_file(weights, Path(options.out) / "final.safetensors")
        print(f"world size {trainer.args.world_size}, {os.environ.get('WORLD_SIZE', '1')} started", flush=True)
    leave_ranks()


if __name__ == "__main__":
    main()

"""Trains a small space of word vectors; started by tests that kill it, or start it as several ranks.

python tests/programs/train_words.py OUTPUT_DIR TEXT [--key value ...]
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch

from hf_genext import checkpoints, embedding_training
from hf_genext.corpora import encode_corpus
from hf_genext.embedding_training import EmbeddingTrainingArguments, StaticEmbeddingTrainer
from recipes.arguments import parse_settings


def kill_at(point: str) -> None:
    """Kill this process inside a save: before a checkpoint's marker is written, or right after it."""
    mark = checkpoints.mark_complete
    saves = 0

    def mark_or_die(folder):
        nonlocal saves
        saves += 1
        if saves == 2 and point == "during":
            (Path(folder) / "model.safetensors").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        mark(folder)
        if saves == 2 and point == "after":
            os.kill(os.getpid(), signal.SIGKILL)

    embedding_training.mark_complete = mark_or_die


if __name__ == "__main__":
    if point := os.environ.get("KILL"):
        kill_at(point)
    output_dir, text, *rest = sys.argv[1:]
    (args, _) = parse_settings([EmbeddingTrainingArguments], ["--output_dir", output_dir, *rest])
    corpus = encode_corpus(text, Path(output_dir) / "corpus", min_count=1, split="whitespace", show_progress=False)
    trainer = StaticEmbeddingTrainer(args, corpus)
    output = trainer.train()
    if trainer.accelerator.is_main_process:
        trainer.model.save_pretrained(Path(output_dir) / "final")
        print(f"RANKS {trainer.accelerator.num_processes} TOKENS_PER_SECOND {output.tokens_per_second} LOSS {output.loss}")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()

"""Takes one step of several small compositions and writes their weights; tests start it on one rank or several.

torchrun --nproc_per_node 2 tests/programs/train_compositions.py OUT BATCH_SIZE CASE ...
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch.utils.data import Dataset

sys.path[:0] = [str(folder) for folder in Path(__file__).parents[1:3]]

from composition_specimens import DECODERS, NO_DROPOUT, TARGET_VOCAB, build_bert
from specimens import sharpen
from transformers import PreTrainedModel, ViTConfig, set_seed

from hf_genext import GenextForConditionalGeneration, GenextForPrediction
from hf_genext.batching import ConditionalCollator, EncodedRows
from hf_genext.state_cache import cache_states
from hf_genext.training import GenextTrainer, GenextTrainingArguments
from recipes.running import leave_ranks

ROWS = 8
"""With two ranks, each has four: the first rank the first."""

CASES = ("sequence", "cached", "prefix", "class", "labels", "regression", "generative")


class Pictures:
    """Pictures of some rows, as a MediaReader gives them: a row without one lacks the input."""

    def __init__(self, rows: set[int]) -> None:
        self.rows = rows
        self.pixels = np.random.default_rng(2).normal(size=(ROWS, 3, 8, 8)).astype(np.float32)

    def __call__(self, index: int, without: set[str] = frozenset()) -> dict[str, np.ndarray]:
        return {"pixel_values": self.pixels[index]} if index in self.rows and "pixel_values" not in without else {}

    def list_files(self, names: set[str]) -> list[bytes]:
        return [self.pixels.tobytes()]


def build_rows(case: str) -> EncodedRows:
    """Rows of which the first rank has all pictures and words, and the second none but one; either lacks labels or vectors."""
    generator = np.random.default_rng(5)
    lengths = generator.integers(2, 9, ROWS)
    sources = [generator.integers(4, 31, length).tolist() if row < 4 or row == 6 else [] for row, length in enumerate(lengths)]
    if case == "cached":
        sources[6] = []  # A rank none of whose rows has a text.
    vectors = generator.normal(size=(ROWS, 5)).astype(np.float32)
    vectors[:4] = np.nan
    labels = generator.integers(0, 3, (ROWS, 2))
    labels[1:4], labels[5, 0] = -1, -1
    conditions = {"input_ids": sources, "condition_vectors": vectors, "condition_labels": labels}
    pictures = Pictures({0, 1, 3})
    if case == "class":
        outputs = generator.integers(0, 3, ROWS)
        outputs[[1, 4, 5, 6, 7]] = -100  # One rank has nothing to predict.
    elif case == "generative":
        outputs = generator.integers(0, 3, ROWS)
        outputs[[1, 4, 6, 7]] = -100  # One rank has nothing to generate.
        conditions["latent_noise"] = generator.normal(size=(ROWS, 3)).astype(np.float32)
    elif case == "labels":
        outputs = generator.integers(0, 2, (ROWS, 3))
        outputs[0, 1] = outputs[2] = outputs[5, :2] = -100
    elif case == "regression":
        outputs = generator.normal(size=(ROWS, 2)).astype(np.float32)
        outputs[0, 1] = outputs[2] = outputs[6, 0] = np.nan
    else:
        targets = [[*generator.integers(4, TARGET_VOCAB, length).tolist(), 2] for length in generator.integers(1, 7, ROWS)]
        return EncodedRows(conditions, targets, pictures)
    return EncodedRows(conditions, outputs, pictures)


def build_model(case: str) -> PreTrainedModel:
    """A composition of four conditions; of `cached` those with pretrained encoders are frozen."""
    set_seed(0)
    vit = {"hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    parts = {
        "text": build_bert(),
        "image": ViTConfig(**vit, image_size=8, patch_size=4, **NO_DROPOUT),
        "vector": {"model_type": "genext_vector_conditioner", "vector_size": 5, "hidden_size": 8},
        "label": {"model_type": "genext_label_conditioner", "label_counts": [3, 3], "hidden_size": 8},
    }
    arguments: dict[str, Any] = {"num_latents": 2, "freeze_encoder": case == "cached"}
    if case in ("class", "labels", "regression", "generative"):
        head = {"kind": "class" if case == "generative" else case, "num_outputs": 2 if case == "regression" else 3}
        if case == "generative":
            half = {"head": {"kind": "regression", "num_outputs": 5}, "bottleneck": {"latent_size": 2}, "hidden_size": 8}
            arguments["generative"] = half
        model: PreTrainedModel = GenextForPrediction.from_encoder_pretrained(parts, head, **arguments)
    else:
        decoder = DECODERS["llama" if case == "prefix" else "native"]()
        model = GenextForConditionalGeneration.from_encoder_decoder_pretrained(parts, decoder, **arguments)
    return sharpen(model)


def train(case: str, folder: Path, batch_size: int) -> tuple[PreTrainedModel, GenextTrainer]:
    """One step of plain gradient descent."""
    model, rows, collator = build_model(case), build_rows(case), ConditionalCollator(0)
    args = GenextTrainingArguments(
        output_dir=str(folder / case),
        per_device_train_batch_size=batch_size,
        max_steps=1,
        learning_rate=0.1,
        optim="sgd",
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        train_sampling_strategy="sequential",
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        report_to="none",
        seed=3,
    )
    kept: Dataset = rows
    if case == "cached":
        with args.main_process_first():
            kept = cache_states(model, rows, collator, folder=folder / "states", batch_size=3)
    trainer = GenextTrainer(model=model, args=args, train_dataset=kept, data_collator=collator)
    trainer.train()
    return model, trainer


def main() -> None:
    """Train each case, and write its weights and its loss."""
    out, batch_size, *cases = sys.argv[1:]
    torch.set_num_threads(1)
    for case in cases:
        model, trainer = train(case, Path(out), int(batch_size))
        if trainer.args.process_index == 0:
            weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
            weights["loss"] = torch.tensor(trainer.state.log_history[0]["loss"], dtype=torch.float32)
            save_file(weights, Path(out) / f"{case}.safetensors")
            print(f"{case}: world size {trainer.args.world_size}, {os.environ.get('WORLD_SIZE', '1')} started", flush=True)
    leave_ranks()


if __name__ == "__main__":
    main()

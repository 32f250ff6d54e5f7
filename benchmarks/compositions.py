"""What compositions cost: generation from memories of fixed length, and the loss of a language model that gets a memory.

    python benchmarks/compositions.py
    python benchmarks/compositions.py --language_models out/gpt2 out/llama --texts TEXT     # the second part needs both

1. Generation, and what the cache holds of the memory, for conditions of 8 to 512 tokens: with a pooled memory of 4 slots, and
   with a memory as long as the condition. Else the same new model, 64 tokens for each of 8 rows, rounds that take turns.
2. The loss on the same tokens of language models alone and with a fresh memory: by cross-attention, where they have it, which
   starts closed, and by a prefix of one state and of several, which they have never seen. `--num_rounds 0` leaves the first
   part as it was measured before. A language model of any kind is trained by recipes/train_language_model.py.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), *(folder for folder in sys.path if Path(folder).resolve() not in (ROOT, ROOT / "benchmarks"))]

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.report import write_tables
from hf_genext import GenextConfig, GenextForConditionalGeneration
from hf_genext.devices import describe_device

RESULTS = ROOT / "benchmarks" / "results" / "compositions.json"
LENGTHS = (8, 32, 128, 512)
ROWS, NEW_TOKENS = 8, 64
PREFIXES = (1, 8)
VECTOR_SIZE = 64


def build_model(bottleneck: dict[str, Any]) -> GenextForConditionalGeneration:
    """A new model of the size that the recipes train."""
    torch.manual_seed(0)
    part = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 8000}
    return GenextForConditionalGeneration(GenextConfig(conditioner=part, decoder=part, bottleneck=bottleneck)).eval()


def measure_generation(num_rounds: int) -> list[dict[str, Any]]:
    """Milliseconds for each generated token of a row, and bytes of the cached memory."""
    models = {"pooled, 4 slots": build_model({"kind": "pooled", "num_latents": 4}), "none": build_model({"kind": "none"})}
    times: dict[tuple[str, int], list[float]] = {}
    sizes: dict[tuple[str, int], int] = {}
    for round_number in range(num_rounds + 1):
        for length in LENGTHS:
            ids = torch.randint(4, 8000, (ROWS, length), generator=torch.Generator().manual_seed(length))
            for name, model in models.items():
                memory, mask = model.encode(input_ids=ids, attention_mask=torch.ones_like(ids), return_mask=True)
                started = time.perf_counter()
                outputs = model.decode(
                    memory, mask, min_new_tokens=NEW_TOKENS, max_new_tokens=NEW_TOKENS, return_dict_in_generate=True
                )
                seconds = time.perf_counter() - started
                if round_number:  # The first round warms up.
                    times.setdefault((name, length), []).append(1000 * seconds / NEW_TOKENS)
                layers = outputs.past_key_values.cross_attention_cache.layers
                sizes[name, length] = sum(layer.keys.nbytes + layer.values.nbytes for layer in layers) // ROWS
    return [
        {
            "bottleneck": name,
            "length": length,
            "milliseconds_per_step": statistics.median(times[name, length]),
            "rounds": times[name, length],
            "memory_bytes_per_row": sizes[name, length],
        }
        for name, length in times
    ]


@torch.no_grad()
def measure_start(folder: str, texts: list[str]) -> tuple[str, dict[str, Any]]:
    """Nats for each token of a language model: alone, and with a fresh memory by cross-attention and by prefixes.

    Returns:
        Its model type, and what was measured.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    rows = [tokenizer(text, truncation=True, max_length=64)["input_ids"] for text in texts]
    language_model = AutoModelForCausalLM.from_pretrained(folder).eval()
    losses = {"alone": compute_loss_alone(language_model, rows, tokenizer.eos_token_id)}
    if "encoder_hidden_states" in inspect.signature(language_model.forward).parameters:
        losses["cross-attention"] = compute_loss_with_memory(folder, rows, cross_attention=True, num_states=1)
    for num_states in PREFIXES:
        losses[f"prefix of {num_states}"] = compute_loss_with_memory(folder, rows, False, num_states)
    facts = {"parameters": language_model.num_parameters(), "texts": len(rows), "tokens": sum(map(len, rows))}
    differences = {name: loss - losses["alone"] for name, loss in losses.items()}
    return language_model.config.model_type, {**facts, "losses": losses, "differences": differences}


def compute_loss_alone(language_model: Any, rows: list[list[int]], end: int) -> float:
    """The mean over all tokens, each text behind the start token."""
    start = end if language_model.config.bos_token_id is None else language_model.config.bos_token_id
    total = 0.0
    for row in rows:
        ids = torch.tensor([[start, *row]])
        log_probs = language_model(input_ids=ids).logits[0, :-1].log_softmax(dim=-1)
        total -= float(log_probs.gather(1, ids[0, 1:, None]).sum())
    return total / sum(map(len, rows))


def compute_loss_with_memory(folder: str, rows: list[list[int]], cross_attention: bool, num_states: int) -> float:
    """The same of the model with a memory of random vectors, which nothing was trained to write or read."""
    torch.manual_seed(0)
    model = GenextForConditionalGeneration.from_encoder_decoder_pretrained(
        encoder={"model_type": "genext_vector_conditioner", "vector_size": VECTOR_SIZE, "num_states": num_states},
        decoder=folder,
        cross_attention=cross_attention,
    ).eval()
    vectors = torch.randn(len(rows), VECTOR_SIZE, generator=torch.Generator().manual_seed(0))
    total = 0.0
    for row, vector in zip(rows, vectors, strict=True):
        total += float(model(condition_vectors=vector[None], labels=torch.tensor([row])).loss) * len(row)
    return total / sum(map(len, rows))


def main() -> None:
    """Measure, and store the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_rounds", type=int, default=5)
    parser.add_argument("--language_models", nargs="*", default=[], help="Folders of causal language models.")
    parser.add_argument("--texts", type=Path, help="Texts that they are scored on, a line each; the first 500 are taken.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    results["hardware"] = describe_device(1)
    if options.num_rounds:
        results["generation"] = measure_generation(options.num_rounds)
    if options.language_models and options.texts:
        lines = [line for line in options.texts.read_text(encoding="utf-8").splitlines() if len(line.split()) > 3][:500]
        results.setdefault("start", {}).update(measure_start(folder, lines) for folder in options.language_models)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    write_tables()
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()

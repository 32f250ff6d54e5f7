"""What decoding by steps and batches of like length are worth: CPU seconds beside `generate` and beside a plain pipeline.

    accelerate launch recipes/train_conditional.py recipes/g2p/demo.yaml --output_dir out/g2p-192 --max_minutes 9
    accelerate launch recipes/train_conditional.py recipes/g2p/config.yaml --output_dir out/g2p-256 --max_minutes 9
    python benchmarks/generation.py --models out/g2p-192 out/g2p-256          # about 15 minutes on one core

Trained models, for random weights end where it happens to be: with those the lengths of outputs, and so all times, say nothing.

In each round every way of doing the same takes its turn on the same words, in one process; the order turns, too, and the first
round warms up. The peers are Transformers' own: `model.generate`, and a pipeline with its defaults, which is what its
text2text-generation pipeline was until version 4: one input after the other through `generate`. In a round the plain pipeline
answers a part of the list, for its cost does not depend on how many inputs there are.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), *(folder for folder in sys.path if Path(folder).resolve() not in (ROOT, ROOT / "benchmarks"))]

import torch
import transformers
from transformers import Pipeline, pipeline

import hf_genext  # noqa: F401  registers the pipeline
from benchmarks.report import write_tables
from hf_genext.devices import describe_device
from hf_genext.fast_decoding import generate_fast
from recipes.g2p.prepare_data import prepare_data
from recipes.running import describe_versions

RESULTS = ROOT / "benchmarks" / "results" / "generation.json"
SEARCHES: dict[str, dict[str, Any]] = {"greedy": {}, "beams 5": {"num_beams": 5}}
BATCH_SIZES = (1, 32)
MAX_NEW_TOKENS = 48

Way = Callable[[list[str]], list[str]]
"""Words to pronunciations."""


class PlainPipeline(Pipeline):
    """A pipeline as Transformers would write it: read, `generate`, decode."""

    _load_processor = True
    _load_tokenizer = _load_image_processor = _load_feature_extractor = _load_video_processor = False

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return {}, kwargs, {}

    def preprocess(self, input_: str) -> Any:
        """A word to ids."""
        return self.processor(text=input_, return_tensors="pt")

    def _forward(self, input_tensors: Any, **kwargs: Any) -> Any:
        return self.model.generate(**input_tensors, **kwargs)

    def postprocess(self, model_outputs: Any) -> str:
        """Ids to a pronunciation."""
        return self.processor.target_tokenizer.decode(model_outputs[0], skip_special_tokens=True)


def list_ways(pipe: Any, batch_size: int, search: dict[str, Any]) -> dict[str, Way]:
    """The ways to decode a batch, the peer first; an engine that runs exported models would be one more."""

    def decode(generate: Callable[..., torch.Tensor]) -> Way:
        def run(words: list[str]) -> list[str]:
            answers = []
            for start in range(0, len(words), batch_size):
                batch = pipe.processor(text=words[start : start + batch_size], return_tensors="pt", padding=True)
                ids = generate(**batch, **search, max_new_tokens=MAX_NEW_TOKENS)
                answers += pipe.processor.target_tokenizer.batch_decode(ids, skip_special_tokens=True)
            return answers

        return run

    def step(**arguments: Any) -> torch.Tensor:
        return generate_fast(pipe.model, **arguments)

    return {"generate": decode(pipe.model.generate), "torch": decode(step)}


def list_pipelines(pipe: Any) -> dict[str, Way]:
    """The ways to answer a list, the peer first."""
    plain = PlainPipeline(model=pipe.model, processor=pipe.processor)
    return {
        "plain": lambda words: plain(words, max_new_tokens=MAX_NEW_TOKENS),
        "torch": lambda words: [answer["generated_text"] for (answer,) in pipe(words, max_new_tokens=MAX_NEW_TOKENS)],
    }


def measure(ways: dict[str, Way], words: dict[str, list[str]], num_rounds: int) -> dict[str, Any]:
    """Milliseconds of CPU time for an input in each way, in turns; the peer's over each, and the share of equal answers.

    Args:
        ways: The peer first.
        words: What each way answers; those of the peer are the first of the others'.
        num_rounds: Rounds that count.
    """
    peer, *others = ways
    spent: dict[str, list[float]] = {name: [] for name in ways}
    answers: dict[str, list[str]] = {}
    for number in range(num_rounds + 1):
        for name in ways if number % 2 else reversed(ways):
            started = time.process_time()
            answers[name] = ways[name](words[name])
            spent[name].append(1e3 * (time.process_time() - started) / len(words[name]))
    medians = {name: statistics.median(rounds[1:]) for name, rounds in spent.items()}
    pairs = {name: list(zip(answers[peer], answers[name], strict=False)) for name in others}
    return {
        "inputs": {name: len(given) for name, given in words.items()},
        "milliseconds_per_input": medians,
        "rounds": {name: rounds[1:] for name, rounds in spent.items()},
        "ratio": {name: medians[peer] / medians[name] for name in others},
        "equal": {name: sum(first == second for first, second in found) / len(found) for name, found in pairs.items()},
    }


def measure_model(folder: str, words: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Everything about one model."""
    pipe = pipeline("conditional-generation", model=folder)
    config = pipe.model.config.decoder
    rows = []
    for label, search in SEARCHES.items():
        for batch_size in BATCH_SIZES:
            ways = list_ways(pipe, batch_size, search)
            given = words[: options.num_words * (1 if batch_size == 1 else 8)]
            row = {"search": label, "batch_size": batch_size}
            row |= measure(ways, dict.fromkeys(ways, given), options.num_rounds)
            print(folder, label, batch_size, row["ratio"], row["equal"], flush=True)
            rows.append(row)
    ways = list_pipelines(pipe)
    given = words[: options.num_inputs]
    part = given[: max(1, round(options.peer_share * len(given)))]
    listed = measure(ways, {name: part if name == "plain" else given for name in ways}, options.num_list_rounds)
    print(folder, "list", listed["ratio"], listed["equal"], flush=True)
    return {
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "batches": rows,
        "list": listed,
    }


def read_words(folder: Path) -> list[str]:
    """The distinct words of the g2p recipe, shuffled."""
    with open(prepare_data(folder)["train_file"], encoding="utf-8") as file:
        words = sorted({line.split("\t")[0].lower() for line in file})
    random.Random(0).shuffle(words)
    return words


def main() -> None:
    """Measure, and store the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", required=True, help="Folders of trained g2p models.")
    parser.add_argument("--num_rounds", type=int, default=5)
    parser.add_argument("--num_list_rounds", type=int, default=3)
    parser.add_argument("--num_words", type=int, default=40, help="Words of a round at batch 1; eight times as many at 32.")
    parser.add_argument("--num_inputs", type=int, default=10_000, help="Inputs of the list.")
    parser.add_argument("--peer_share", type=float, default=0.02, help="The share of the list that the plain pipeline answers.")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    words = read_words(Path("out/g2p-data"))
    results: dict[str, Any] = {"hardware": describe_device(1), "versions": describe_versions(), "models": []}
    for folder in options.models:
        results["models"].append(measure_model(folder, words, options))
        options.results.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    if options.results == RESULTS:
        write_tables()


if __name__ == "__main__":
    main()

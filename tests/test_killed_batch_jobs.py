"""Batch jobs that are killed, and such of several ranks: no row is lost, and none is there twice."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from batch_job_specimens import make_words, read, run, save_model, write_words

from hf_genext import row_shards

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


def start(folder, source, output, *words, ranks=1):
    """Start the command."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)] if ranks > 1 else []
    given = ["--model", str(folder), "--input", str(source), "--output", str(output), "--conditions.text", "word"]
    return subprocess.Popen(
        [sys.executable, *launcher, str(ROOT / "recipes" / "generate.py"), *given, *map(str, words), "--num_threads", "1"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def kill_when(process, shards, count, pause):
    """Kill all processes of a job once so many shards are there and a moment has passed; whether it was still at work."""
    deadline = time.monotonic() + 240
    while len(row_shards.list_shards(shards)) < count and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(pause)
    with contextlib.suppress(psutil.NoSuchProcess):
        # Ranks stand in groups of their own, and would go on without their launcher.
        parent = psutil.Process(process.pid)
        for one in [*parent.children(recursive=True), parent]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
    process.communicate()
    return process.returncode == -signal.SIGKILL


def test_a_killed_job_goes_on(folder, tmp_path):
    words = make_words(400)
    source = write_words(tmp_path / "in.parquet", words)
    settings = ["--rows_per_shard", 5, "--do_sample", "true", "--seed", 3]
    run(folder, source, tmp_path / "whole.parquet", *settings)
    output = tmp_path / "killed.parquet"
    assert kill_when(start(folder, source, output, *settings), tmp_path / "killed.parquet.shards", 4, 0.01)
    assert not output.exists()
    kept = row_shards.list_shards(tmp_path / "killed.parquet.shards")
    assert len(kept) >= 4
    run(folder, source, output, *settings)
    assert read(output) == read(tmp_path / "whole.parquet")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("ranks", "kills"), [(1, 10), (2, 3)])
def test_kills_at_random_moments_lose_and_double_nothing(folder, tmp_path, ranks, kills):
    words = make_words(3000 if ranks == 1 else 1000)
    source = write_words(tmp_path / "in.jsonl", words)
    settings = ["--rows_per_shard", 10, "--num_beams", 2]
    run(folder, source, tmp_path / "whole.jsonl", *settings)
    output, shards = tmp_path / "killed.jsonl", tmp_path / "killed.jsonl.shards"
    generator, killed = random.Random(ranks), 0
    for _ in range(kills):
        process = start(folder, source, output, *settings, ranks=ranks)
        at_least = len(row_shards.list_shards(shards)) + generator.randint(0, 6)
        killed += kill_when(process, shards, min(at_least, len(words) // 10), generator.uniform(0, 0.3))
        if output.exists():
            break
    process = start(folder, source, output, *settings, ranks=ranks)
    told, _ = process.communicate(timeout=600)
    assert output.exists(), told
    assert killed == kills
    assert read(output) == read(tmp_path / "whole.jsonl")


@pytest.mark.slow
def test_two_ranks_share_the_work(folder, tmp_path):
    words = make_words(300)
    source = write_words(tmp_path / "in.parquet", words)
    settings = ["--rows_per_shard", 10, "--do_sample", "true", "--seed", 3]
    run(folder, source, tmp_path / "one.parquet", *settings)
    process = start(folder, source, tmp_path / "two.parquet", *settings, ranks=2)
    told, _ = process.communicate(timeout=300)
    assert process.returncode == 0, told
    assert "300 rows" in told
    assert read(tmp_path / "two.parquet") == read(tmp_path / "one.parquet")
    assert not (tmp_path / "two.parquet.shards").exists()

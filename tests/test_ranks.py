"""One step of compositions on two ranks is that of one process, whatever conditions and outputs the rows of one rank lack."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

PROGRAM = Path(__file__).parent / "programs" / "train_compositions.py"


def run(out: Path, batch_size: int, cases: list[str], *launcher: str) -> None:
    """Run the program to its end; it hangs where a rank waits for gradients that another does not have."""
    subprocess.run(
        [sys.executable, *launcher, str(PROGRAM), str(out), str(batch_size), *cases],
        check=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize(
    "cases",
    [["sequence", "labels"], pytest.param(["cached", "prefix", "class", "regression", "generative"], marks=pytest.mark.slow)],
    ids="-".join,
)
def test_one_step_on_two_ranks_is_that_of_one_process(tmp_path, cases):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    run(tmp_path / "one", 8, cases)
    run(tmp_path / "two", 4, cases, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    for case in cases:
        expected, found = (load_file(tmp_path / name / f"{case}.safetensors") for name in ("one", "two"))
        assert expected.keys() == found.keys()
        assert max((expected[name] - found[name]).abs().max().item() for name in expected) < 2e-5, case

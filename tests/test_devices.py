"""Of this machine: the memory that a training keeps, and what compiles."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import torch

from hf_genext.devices import has_compiler

_COUNT_FAULTS = """
import resource, sys, torch
from hf_genext.devices import keep_freed_memory
if sys.argv[1] == "kept":
    print(keep_freed_memory())
def work():
    # Three live at once, so that what is freed lies at the end of the heap and in its middle.
    tensors = [torch.empty(6 << 20).fill_(1.0) for _ in range(3)]
    del tensors[1]
    return torch.cat(tensors).sum()
for _ in range(6):  # Until the heap has found its shape.
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _run(kept: str, **variables: str) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", _COUNT_FAULTS, kept]
    done = subprocess.run(command, env=environment | variables, capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the GNU C library can be asked to keep freed memory")
def test_freed_memory_is_used_again() -> None:
    (returned,) = _run("returned")
    answer, kept = _run("kept")
    assert answer == "True"
    assert int(kept) < int(returned) / 20, f"{kept} page faults with kept memory, {returned} without"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the GNU C library can be asked to keep freed memory")
def test_the_users_own_settings_of_malloc_stay() -> None:
    assert _run("kept", MALLOC_TRIM_THRESHOLD_="131072")[0] == "False"


def test_a_compiler_without_pythons_headers_is_none(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    assert not has_compiler()
    (tmp_path / "Python.h").touch()
    assert has_compiler()
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert not has_compiler()

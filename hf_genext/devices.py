"""What this machine can do."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import torch


def has_fast_bfloat16() -> bool:
    """Whether the device that training would take has units for bfloat16 (emulated, it is many times slower)."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if torch.accelerator.is_available():
        return torch.accelerator.current_accelerator().type == "xpu"
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def has_compiler() -> bool:
    """Whether `torch.compile` finds what it needs: a C++ compiler for the CPU, Triton's own for a GPU."""
    return torch.cuda.is_available() or any(shutil.which(name) for name in ("g++", "clang++", "c++"))


def describe_device(num_threads: int | None = None) -> str:
    """The accelerator, or the processor and how many of its threads are used; for results."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads() if num_threads is None else num_threads
    return f"{_read_processor_name()}, {threads} thread{'' if threads == 1 else 's'}"


def _read_processor_name() -> str:
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


__all__ = ["describe_device", "has_compiler", "has_fast_bfloat16"]

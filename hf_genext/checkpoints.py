"""Which checkpoints can be trusted: a marker written last, a lock on the folder in use, and a check of whose they are."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

MARKER_NAME = "complete.json"
WRITING_NAME = "writing"
"""Stands in a checkpoint from before its first file until it is complete."""
LOCK_NAME = ".lock"
_CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)")


def begin_checkpoint(folder: str | os.PathLike[str]) -> None:
    """Make an empty folder for a checkpoint, and declare it unfinished; what stood there was of a run that was killed."""
    root = Path(folder)
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    (root / WRITING_NAME).touch()


def mark_complete(folder: str | os.PathLike[str]) -> None:
    """Declare a checkpoint complete: flush its files to disk, then write their names and sizes to `complete.json`.

    The marker is renamed into place, so that it is there whole or not at all.
    """
    root = Path(folder)
    sizes = {}
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.name not in (MARKER_NAME, WRITING_NAME):
            with open(path, "rb") as file:
                os.fsync(file.fileno())
            sizes[str(path.relative_to(root))] = path.stat().st_size
    unfinished = root / f"{MARKER_NAME}.unfinished"
    with open(unfinished, "w", encoding="utf-8") as file:
        json.dump({"sizes": sizes}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, root / MARKER_NAME)
    (root / WRITING_NAME).unlink(missing_ok=True)


def find_damage(folder: str | os.PathLike[str]) -> str | None:
    """What is wrong with a checkpoint, or `None` if it is complete."""
    root = Path(folder)
    try:
        sizes = json.loads((root / MARKER_NAME).read_text(encoding="utf-8"))["sizes"]
    except FileNotFoundError:
        return f"it has no {MARKER_NAME}, so its writing was cut off"
    except (ValueError, KeyError, TypeError):
        return f"its {MARKER_NAME} cannot be read"
    for name, size in sizes.items():
        try:
            found = (root / name).stat().st_size
        except FileNotFoundError:
            return f"{name} is missing"
        if found != size:
            return f"{name} has {found:,} bytes instead of {size:,}"
    return None


def require_complete(folder: str | os.PathLike[str]) -> None:
    """Raise unless a checkpoint can be trusted.

    Raises:
        FileNotFoundError: if there is no such folder; the error names the checkpoints beside it.
        ValueError: if it is damaged.
    """
    root = Path(folder)
    if not root.is_dir():
        beside = ", ".join(path.name for path in list_checkpoints(root.parent)) or "none"
        raise FileNotFoundError(
            f"There is no checkpoint {str(root)!r} (looked from {os.getcwd()!r}); checkpoints beside it: {beside}. Give "
            'one that is there, or "auto" for the newest complete one of the output folder.'
        )
    if damage := find_damage(root):
        if _is_of_others(root):
            logger.warning("%s has no %s, so nobody can tell whether it is whole; going on from it.", root, MARKER_NAME)
            return
        raise ValueError(
            f'The checkpoint {str(root)!r} is damaged: {damage}. Give another, or "auto" for the newest complete one.'
        )


def _is_of_others(root: Path) -> bool:
    """Whether a checkpoint looks whole and was written by a Trainer that marks none."""
    has_marks = any((root / name).exists() for name in (MARKER_NAME, WRITING_NAME, f"{MARKER_NAME}.unfinished"))
    return not has_marks and (root / "trainer_state.json").is_file() and any(root.glob("*.safetensors"))


def list_checkpoints(output_dir: str | os.PathLike[str]) -> list[Path]:
    """The folders `checkpoint-N` of an output folder, oldest first, whole or not."""
    root = Path(output_dir)
    if not root.is_dir():
        return []
    named = [(_CHECKPOINT_NAME.fullmatch(path.name), path) for path in root.iterdir() if path.is_dir()]
    return [path for match, path in sorted(((m, p) for m, p in named if m), key=lambda pair: int(pair[0][1]))]


def find_last_complete(output_dir: str | os.PathLike[str]) -> Path | None:
    """The newest complete checkpoint of an output folder; every damaged one above it is named in the log."""
    for checkpoint in reversed(list_checkpoints(output_dir)):
        damage = find_damage(checkpoint)
        if damage is None:
            return checkpoint
        logger.warning("Passing over %s: %s.", checkpoint, damage)
    return None


def delete_old(
    output_dir: str | os.PathLike[str], keep: int | None, best: str | os.PathLike[str] | None, newest: str | os.PathLike[str]
) -> None:
    """Delete all but the last `keep` complete checkpoints to be written and the best one, and those that were never finished.

    Called after a new checkpoint was marked complete, so that at every moment at least one complete checkpoint exists. What
    others wrote, or have changed since, is theirs and stays.

    Args:
        output_dir: Where the checkpoints are.
        keep: How many; all if left out.
        best: One that stays, wherever the folder stood when it was written.
        newest: One that stays: the one just written. Its number may be below those of an earlier run.
    """
    stays = {Path(path).name for path in (best, newest) if path is not None}
    written: list[tuple[int, int, Path]] = []
    for number, path in enumerate(list_checkpoints(output_dir)):
        if (path / MARKER_NAME).is_file():
            if find_damage(path) is None:
                written.append(((path / MARKER_NAME).stat().st_mtime_ns, number, path))
        elif (path / WRITING_NAME).is_file() and path.name not in stays:
            shutil.rmtree(path, ignore_errors=True)
    for *_, path in sorted(written)[: -keep if keep is not None and keep > 0 else 0]:
        if path.name not in stays:
            shutil.rmtree(path, ignore_errors=True)


def check_same_model(checkpoint: str | os.PathLike[str], config: dict[str, Any]) -> None:
    """Raise if a checkpoint belongs to a model of another shape.

    Args:
        checkpoint: The checkpoint.
        config: The configuration of the model that shall go on from it, as `config.to_dict()` gives it.

    Raises:
        ValueError: naming the fields that differ, with both values.
    """
    saved = json.loads((Path(checkpoint) / "config.json").read_text(encoding="utf-8"))
    wanted = json.loads(json.dumps(config, default=str))
    differences = list(_compare_fields(saved, wanted))
    if differences:
        shown = "; ".join(differences[:5]) + (f"; and {len(differences) - 5} more" if len(differences) > 5 else "")
        raise ValueError(
            f"{str(checkpoint)!r} is a checkpoint of another model: {shown}. Train with the same configuration, or start "
            "anew in another --output_dir."
        )


_NOT_ABOUT_SHAPE = frozenset(
    {"_name_or_path", "architectures", "auto_map", "custom_pipelines", "dtype", "transformers_version", "use_cache"}
)


def _compare_fields(saved: dict[str, Any], wanted: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name in sorted(saved.keys() & wanted.keys() - _NOT_ABOUT_SHAPE):
        before, now = saved[name], wanted[name]
        if isinstance(before, dict) and isinstance(now, dict):
            yield from _compare_fields(before, now, f"{prefix}{name}.")
        elif before != now:
            yield f"{prefix}{name} is {before!r} there and {now!r} here"


@contextlib.contextmanager
def hold_folder(output_dir: str | os.PathLike[str]) -> Iterator[None]:
    """Hold an output folder for this process. The system frees it when the process ends, however it ends.

    Raises:
        RuntimeError: if another process holds it.
    """
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    with open(Path(output_dir) / LOCK_NAME, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise RuntimeError(
                f"The output folder {str(output_dir)!r} is in use by process {file.read().strip() or 'unknown'}. Wait for "
                "it, stop it, or choose another --output_dir."
            ) from error
        except OSError as error:
            logger.warning(
                "The file system of %r has no locks (%s), so that nothing keeps two processes from writing there at once.",
                str(output_dir),
                error,
            )
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


__all__ = [
    "begin_checkpoint",
    "check_same_model",
    "delete_old",
    "find_damage",
    "find_last_complete",
    "hold_folder",
    "list_checkpoints",
    "mark_complete",
    "require_complete",
]

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
UNPROVEN_NAME = "unproven"
"""Stands in a checkpoint until its weights have had a loss that gives no cause for doubt."""
DIVERGED_NAME = "diverged"
"""Stands in a checkpoint after which the training diverged before it was proven."""
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
        if path.is_file() and path.name not in (MARKER_NAME, WRITING_NAME, UNPROVEN_NAME):
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
    """The newest complete checkpoint of an output folder from which no training diverged.

    Every one above it that is passed over is named in the log.
    """
    for checkpoint in reversed(list_checkpoints(output_dir)):
        damage = find_damage(checkpoint)
        if (checkpoint / DIVERGED_NAME).is_file():
            damage = "the training diverged at it, or soon after"
        if damage is None:
            return checkpoint
        logger.warning("Passing over %s: %s.", checkpoint, damage)
    return None


class CheckpointProofs:
    """Tells which checkpoints of a training are good: those after which a loss was seen that gives no cause for doubt.

    The last loss that is known when a checkpoint is written was computed before the last update, and is no proof of what that
    made of the weights. Only a file in each checkpoint tells, so that a run that was killed goes on from the newest.

    Args:
        output_dir: Where the checkpoints are.
        resumed: The one that the training goes on from; it and those before it are proven or not as they were.
    """

    def __init__(self, output_dir: str | os.PathLike[str], resumed: str | os.PathLike[str] | None = None) -> None:
        known = list_checkpoints(output_dir)
        last = None if resumed is None else Path(resumed).resolve()
        count = next((place for place, path in enumerate(known, 1) if path.resolve() == last), 0)
        self._unproven = [path for path in known[:count] if (path / UNPROVEN_NAME).is_file()]

    def add(self, folder: Path) -> None:
        """Note a checkpoint that is about to be complete."""
        (folder / UNPROVEN_NAME).touch()
        self._unproven = [*(path for path in self._unproven if path != folder), folder]

    def prove(self, keep: int | None, best: str | os.PathLike[str] | None) -> None:
        """Say that all are good, and delete those that were kept in case they are not, as [`delete_old`]."""
        proven, self._unproven = self._unproven, []
        for folder in proven:
            (folder / UNPROVEN_NAME).unlink(missing_ok=True)
        if proven:
            delete_old(proven[-1].parent, keep, best, proven[-1])

    def refute(self) -> None:
        """Say that the training diverged: what is not proven now is not gone on from."""
        for folder in self._unproven:
            with contextlib.suppress(FileNotFoundError):
                os.replace(folder / UNPROVEN_NAME, folder / DIVERGED_NAME)
        self._unproven = []


def delete_old(
    output_dir: str | os.PathLike[str],
    keep: int | None,
    best: str | os.PathLike[str] | None,
    newest: str | os.PathLike[str],
    *,
    keeps_proven: bool = False,
) -> None:
    """Delete all but the last `keep` complete checkpoints to be written and the best one, and those that were never finished.

    Called after a new checkpoint was marked complete, so that at every moment at least one complete checkpoint exists. What
    others wrote, or have changed since, is theirs and stays.

    Args:
        output_dir: Where the checkpoints are.
        keep: How many; all if left out.
        best: One that stays, wherever the folder stood when it was written.
        newest: One that stays: the one just written. Its number may be below those of an earlier run.
        keeps_proven: Whether the last one that [`CheckpointProofs`] found good stays, too.
    """
    stays = {Path(path).name for path in (best, newest) if path is not None}
    written: list[tuple[bool, int, int, Path]] = []
    for number, path in enumerate(list_checkpoints(output_dir)):
        if (path / MARKER_NAME).is_file():
            if find_damage(path) is None:
                is_good = not (path / DIVERGED_NAME).is_file()
                written.append((is_good, (path / MARKER_NAME).stat().st_mtime_ns, number, path))
        elif (path / WRITING_NAME).is_file() and path.name not in stays:
            shutil.rmtree(path, ignore_errors=True)
    written.sort()
    proven = [path.name for is_good, *_, path in written if is_good and not (path / UNPROVEN_NAME).is_file()]
    stays |= set(proven[-1:] if keeps_proven else [])
    for *_, path in written[: -keep if keep is not None and keep > 0 else 0]:
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
    "CheckpointProofs",
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

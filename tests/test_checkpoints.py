"""Files of checkpoints without a training: what is complete, what is proven good, and what is deleted."""

from __future__ import annotations

import json
from pathlib import Path

from hf_genext.checkpoints import (
    MARKER_NAME,
    CheckpointProofs,
    begin_checkpoint,
    delete_old,
    find_last_complete,
    list_checkpoints,
    mark_complete,
)


def test_a_marker_is_whole_or_not_there(tmp_path):
    (tmp_path / "weights").write_bytes(b"x" * 10)
    mark_complete(tmp_path)
    assert json.loads((tmp_path / MARKER_NAME).read_text()) == {"sizes": {"weights": 10}}
    assert sorted(path.name for path in tmp_path.iterdir()) == [MARKER_NAME, "weights"]


def write_checkpoint(folder: Path, *, is_ours: bool = True, is_finished: bool = True) -> Path:
    if is_ours:
        begin_checkpoint(folder)
    folder.mkdir(exist_ok=True)
    for name in ("trainer_state.json", "model.safetensors"):
        (folder / name).write_text("{}")
    if is_ours and is_finished:
        mark_complete(folder)
    return folder


def test_only_what_this_trainer_wrote_is_deleted(tmp_path):
    write_checkpoint(tmp_path / "checkpoint-500", is_ours=False)
    changed = write_checkpoint(tmp_path / "checkpoint-600")
    (changed / "model.safetensors").unlink()  # By a user who wants the rest.
    write_checkpoint(tmp_path / "checkpoint-700", is_finished=False)
    write_checkpoint(tmp_path / "checkpoint-5000")  # Of a longer run before this one.
    newest = write_checkpoint(tmp_path / "checkpoint-100")
    delete_old(tmp_path, None, None, newest)
    assert [path.name for path in list_checkpoints(tmp_path)] == [f"checkpoint-{n}" for n in (100, 500, 600, 5000)]
    delete_old(tmp_path, 1, None, newest)
    assert [path.name for path in list_checkpoints(tmp_path)] == [f"checkpoint-{n}" for n in (100, 500, 600)]
    best, newest = newest, write_checkpoint(tmp_path / "checkpoint-200")
    delete_old(tmp_path, 1, Path("where/it/stood/before") / best.name, newest)
    assert [path.name for path in list_checkpoints(tmp_path)] == [f"checkpoint-{n}" for n in (100, 200, 500, 600)]


def test_a_checkpoint_is_proven_by_a_later_loss_and_kept_until_another_is(tmp_path):
    names = [f"checkpoint-{number}" for number in (200, 400, 600, 800)]
    proofs = CheckpointProofs(tmp_path)

    def save(name, proofs):
        begin_checkpoint(tmp_path / name)
        (tmp_path / name / "model.safetensors").write_text("{}")
        proofs.add(tmp_path / name)
        mark_complete(tmp_path / name)
        delete_old(tmp_path, 1, None, tmp_path / name, keeps_proven=True)
        return [path.name for path in list_checkpoints(tmp_path)]

    assert save(names[0], proofs) == names[:1]
    proofs.prove(1, None)
    assert save(names[1], proofs) == names[:2]
    assert save(names[2], proofs) == [names[0], names[2]]  # Nothing was seen after the second.
    assert find_last_complete(tmp_path) == tmp_path / names[2]  # Where a run goes on that was killed.
    resumed = CheckpointProofs(tmp_path, tmp_path / names[2])
    proofs.prove(1, None)
    assert [path.name for path in list_checkpoints(tmp_path)] == names[2:3]
    (tmp_path / names[2] / "unproven").touch()
    assert save(names[3], resumed) == names[3:]
    resumed.refute()
    assert find_last_complete(tmp_path) is None

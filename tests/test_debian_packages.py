"""Debian's packages, from files that lie in the cache already."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.debian_packages import bring_debian_package

ROOT = Path(__file__).resolve().parents[1]


def build_package(folder, name, version, files=1):
    """A package file that holds lists of words, its own name and version."""
    whole = folder / f"{name}-{version}"
    (whole / "DEBIAN").mkdir(parents=True)
    lines = [f"Package: {name}", f"Version: {version}", "Architecture: all", "Maintainer: nobody", "Description: words"]
    (whole / "DEBIAN" / "control").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for number in range(files):
        (whole / f"words{number or ''}").write_text(f"{name} {version}", encoding="utf-8")
    packages = folder / "cache" / "packages"
    packages.mkdir(parents=True, exist_ok=True)
    command = ["dpkg-deb", "--build", "--root-owner-group", str(whole), str(packages / f"{name}_{version}_all.deb")]
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")
def test_a_package_is_not_taken_for_another_whose_name_begins_alike(tmp_path):
    build_package(tmp_path, "wamerican", "2")
    build_package(tmp_path, "wamerican-huge", "1")
    build_package(tmp_path, "linux-doc-6.1", "3")
    cache = tmp_path / "cache"
    # The package of linux-doc is that of a kernel.
    for name, version, found in (("wamerican", "2", "wamerican 2"), ("linux-doc", "3", "linux-doc-6.1 3")):
        assert bring_debian_package(cache, name) == version
        assert (cache / "unpacked" / name / "words").read_text(encoding="utf-8") == found


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")
def test_processes_that_unpack_the_same_package_at_once_all_find_it_whole(tmp_path):
    build_package(tmp_path, "wamerican", "2", files=300)
    cache = tmp_path / "cache"
    code = """
import sys
from pathlib import Path
from recipes.debian_packages import bring_debian_package
sys.stdin.read()
bring_debian_package(Path(sys.argv[1]), "wamerican")
"""
    command = [sys.executable, "-c", code, str(cache)]
    processes = [subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE) for _ in range(4)]
    for process in processes:  # All at once, or nearly.
        process.stdin.close()
    assert [process.wait(timeout=100) for process in processes] == [0, 0, 0, 0]
    assert [folder.name for folder in (cache / "unpacked").iterdir()] == ["wamerican"]
    assert len(list((cache / "unpacked" / "wamerican").iterdir())) == 300

"""A Python environment of somebody who reads a repository and has not installed the package.

`venv` makes it, without access to this environment's packages. What Transformers and PyTorch need, by their own metadata, is
linked into it and nothing else: so neither the package, nor anything that only it requires, can be imported there, and a file
of code that needs more than a reader has fails as it would at the reader's.
"""

from __future__ import annotations

import importlib.metadata
import os
import venv
from pathlib import Path

from packaging.requirements import Requirement


def build_reader_environment(folder: Path, *wanted: str) -> Path:
    """Make the environment.

    Args:
        folder: Where it goes.
        wanted: Distributions that it has, with what they require.

    Returns:
        Its Python.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    site_packages = next((folder / "lib").glob("python*")) / "site-packages"
    for distribution in _close_over_requirements(wanted):
        for name in {Path(file).parts[0] for file in distribution.files or []}:
            source, target = Path(distribution.locate_file(name)), site_packages / name
            if name not in ("..", "__pycache__") and source.exists() and not target.exists():
                os.symlink(source, target)
    assert not list(site_packages.glob("*hf_genext*"))
    return folder / "bin" / "python"


def _close_over_requirements(wanted: tuple[str, ...]) -> list[importlib.metadata.Distribution]:
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = list(wanted)
    while waiting:
        name = waiting.pop().lower().replace("_", "-").replace(".", "-")
        if name in found:
            continue
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # Required elsewhere only, such as on a machine with a GPU.
        for line in found[name].requires or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return list(found.values())

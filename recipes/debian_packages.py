"""Data that Debian packages: brought once with `apt-get download`, which needs no root, and unpacked.

They lie in the folder that HF_GENEXT_CACHE names (else ~/.cache/hf_genext), package files in `packages/`, what is in them in
`unpacked/`.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path


class PackageError(RuntimeError):
    """A package cannot be brought or unpacked.

    Args:
        name: The package's.
        problem: Why.
        folder: Where its file may be put by hand.
    """

    def __init__(self, name: str, problem: str, folder: Path) -> None:
        super().__init__(
            f"Debian's package {name} cannot be brought: {problem}. It needs apt-get and dpkg-deb (`apt-get update` brings the "
            f"lists of packages), and a network once. By hand: put {name}_*.deb from https://packages.debian.org into {folder}."
        )
        self.problem = problem


def find_cache() -> Path:
    """The folder into which packages are brought and unpacked."""
    return Path(os.environ.get("HF_GENEXT_CACHE", "~/.cache/hf_genext")).expanduser()


def bring_debian_package(cache: Path, name: str) -> str:
    """Bring and unpack one package, if it is not there yet.

    Args:
        cache: Where to, see [`find_cache`].
        name: The package's.

    Returns:
        Its version.

    Raises:
        PackageError: if it cannot be brought or unpacked.
    """
    packages, unpacked = cache / "packages", cache / "unpacked"
    packages.mkdir(parents=True, exist_ok=True)
    unpacked.mkdir(exist_ok=True)
    # linux-doc only names the package of the current kernel.
    pattern = f"{name}-*_*.deb" if name == "linux-doc" else f"{name}_*.deb"
    file = next(iter(sorted(packages.glob(pattern))), None)
    if file is None:
        run_program(
            name, "apt-get", "download", _find_dependency(name, packages) if name == "linux-doc" else name, folder=packages
        )
        file = next(iter(sorted(packages.glob(pattern))))
    if not (unpacked / name).is_dir():
        # In a folder of its own, for another process may be unpacking the same.
        with tempfile.TemporaryDirectory(prefix=f"{name}.", dir=unpacked) as folder:
            run_program(name, "dpkg-deb", "-x", str(file), f"{folder}/whole", folder=packages)
            try:
                os.replace(f"{folder}/whole", unpacked / name)
            except OSError:
                if not (unpacked / name).is_dir():  # That was first.
                    raise
    return file.name.split("_")[1].replace("%3a", ":")


def _find_dependency(name: str, folder: Path) -> str:
    printed = run_program(name, "apt-cache", "depends", name, folder=folder)
    found = re.search(r"Depends: (\S+)", printed)
    if found is None:
        raise PackageError(name, f"apt-cache names no dependency of {name}: {printed.strip()!r}", folder)
    return found[1]


def run_program(package: str, *command: str, folder: Path) -> str:
    """Run a program that brings a package in the folder of their files, and give what it prints.

    Raises:
        PackageError: if there is no such program, or it fails.
    """
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise PackageError(package, f"there is no program {command[0]!r}", folder) from error
    if done.returncode:
        problem = f"`{' '.join(command)}` failed: {(done.stderr or done.stdout).strip()[-300:]}"
        raise PackageError(package, problem, folder)
    return done.stdout


__all__ = ["PackageError", "bring_debian_package", "find_cache", "run_program"]

"""How long the smoke run of every recipe takes, each by the command that its settings file names, in a process of its own.

    python benchmarks/smoke_runs.py                     # about ten minutes
    python benchmarks/smoke_runs.py --only g2p names

Wall time from the command to its end, with imports, preparation of the data and the final scoring, in the second run of each:
the first brings data and fills caches. What cannot run here stands in the results with the last line that it said. Writes
benchmarks/results/smoke_runs.json and the table in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), *(folder for folder in sys.path if Path(folder).resolve() not in (ROOT, ROOT / "benchmarks"))]

RESULTS = ROOT / "benchmarks" / "results" / "smoke_runs.json"
LIMIT = 600
"""Seconds after which a run is given up."""


def find_command(config: Path) -> list[str]:
    """The command that a settings file names at its top, by this interpreter."""
    named = re.search(r"^#   (accelerate launch|python) (recipes/.*)$", config.read_text(encoding="utf-8"), re.MULTILINE)
    if named is None:
        raise ValueError(f"{config} does not name its command.")
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    return [*(launcher if named[1] != "python" else [sys.executable]), *shlex.split(named[2])]


def run(config: Path) -> dict[str, Any]:
    """Run one, and say how long it took."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*find_command(config), "--output_dir", str(Path(folder, "model"))]
        if "recipes/train_conditional.py" in command:  # Models of other recipes that it needs are made by the first run.
            command += ["--make_missing", "true"]
        started = time.monotonic()
        pipe: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipe)
        try:
            said, _ = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return {"seconds": None, "said": f"not done after {LIMIT} seconds"}
        seconds = time.monotonic() - started
    if process.returncode == 0:
        return {"seconds": seconds}
    lines = said.strip().splitlines()
    return {"seconds": None, "said": lines[-1] if lines else f"exit status {process.returncode}"}


def main() -> None:
    """Run them, and store what the last run of each took."""
    from benchmarks.report import write_tables
    from hf_genext.devices import describe_device
    from recipes.running import describe_versions

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help="Some recipes.")
    parser.add_argument("--num_runs", type=int, default=2, help="Runs of each, of which the last counts.")
    options = parser.parse_args()
    results: dict[str, Any] = {"recipes": {}}
    if options.only and RESULTS.is_file():
        results = json.loads(RESULTS.read_text(encoding="utf-8"))
    results |= {"hardware": describe_device(len(os.sched_getaffinity(0))), "versions": describe_versions()}
    for config in sorted(ROOT.glob("recipes/*/smoke.yaml")):
        name = config.parent.name
        if options.only and name not in options.only:
            continue
        found = [run(config) for _ in range(options.num_runs)][-1]
        print(name, found, flush=True)
        results["recipes"][name] = found
        RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    write_tables()


if __name__ == "__main__":
    main()

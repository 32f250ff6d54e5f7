"""How much a state of so many slots holds: the autoencoder and PCA of the same size, over the number of slots.

    python recipes/autoencoder/curve.py recipes/autoencoder/config.yaml                       # eight trainings
    python recipes/autoencoder/curve.py recipes/autoencoder/config.yaml --slots 1 8 --seeds 1 2 3 --update_results true

For each number of slots and each seed the settings' model is trained in OUTPUT_DIR-SLOTS-SEED, and the decoder of PCA beside it
(see baselines.py). What is there already, of the same settings and data, is taken as it is, so a run that was stopped goes on;
results of others are refused. `--update_results true` writes the table (experiments.json) and the picture (curve.png) beside
the settings, else they lie in the output folder; and what is trained with the settings' own number of slots joins results.json.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:] = [str(ROOT), *(folder for folder in sys.path if Path(folder).resolve() not in (ROOT, Path(__file__).parent))]

from hf_genext.hub import read_results
from hf_genext.training import GenextTrainingArguments
from recipes.arguments import SettingsError, parse_settings
from recipes.autoencoder.baselines import DECODED, INVERTED, BaselineSettings, compare_with_pca
from recipes.conditional_settings import DataSettings, ModelSettings, RunSettings
from recipes.plots import draw_curve
from recipes.reuse import train_unless_done
from recipes.running import run_main
from recipes.text_baselines import prepare_comparison

OURS = "this autoencoder"


@dataclass
class CurveSettings:
    """What the curve runs over."""

    slots: list[int] = field(default_factory=lambda: [1, 2, 4, 8], metadata={"help": "Numbers of slots."})
    seeds: list[int] = field(default_factory=lambda: [1], metadata={"help": "Seeds; the curve shows means over them."})


def measure_point(words: list[str], folder: Path, slots: int, seed: int, *, stores: bool) -> dict[str, float]:
    """Exact match of the autoencoder and of PCA, for one number of slots and one seed; a training may join the results."""
    settings, *options = words
    own = [
        "--bottleneck.num_latents",
        str(slots),
        "--seed",
        str(seed),
        "--output_dir",
        str(folder),
        "--update_results",
    ]
    comparison = prepare_comparison(BaselineSettings, [settings, *options, *own, "false"], needs_model=False)
    train_unless_done([settings, *options, *own, str(stores).lower()], folder, [comparison.train, comparison.test])
    rivals = compare_with_pca(comparison)
    metrics = {OURS: read_results(folder / "results.json")["metrics"], **rivals}
    return {label: values["exact_match"] for label, values in metrics.items()}


def tabulate(points: dict[int, list[dict[str, float]]], width: int) -> dict[str, Any]:
    """The table of [`recipes.render_cards.render_experiments`]: means over the seeds, and the spread of the autoencoder's."""
    labels = [OURS, DECODED, INVERTED]
    rows = []
    for slots, runs in points.items():
        values = {label: [run[label] for run in runs] for label in labels}
        spread = statistics.stdev(values[OURS]) if len(runs) > 1 else None
        rows.append([f"{slots} ({slots * width} numbers)", *(statistics.fmean(values[label]) for label in labels), spread])
    return {"columns": ["slots", *labels, "spread of this autoencoder over seeds"], "rows": rows}


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Train what is missing, and draw; see the top of the file."""
    words = sys.argv[1:] if argv is None else argv
    own, model, _, run, args, config_path = parse_settings(
        [CurveSettings, ModelSettings, DataSettings, RunSettings, GenextTrainingArguments], words
    )
    if config_path is None or not model.bottleneck or "hidden_size" not in model.bottleneck:
        raise SettingsError("Give a settings file whose bottleneck has a hidden_size.")
    rest = _leave_out(words, ["slots", "seeds"])
    points: dict[int, list[dict[str, float]]] = {slots: [] for slots in own.slots}
    for slots, seed in itertools.product(own.slots, own.seeds):
        stores = run.update_results and slots == model.bottleneck.get("num_latents", 1)
        folder = Path(f"{args.output_dir}-{slots}-{seed}")
        points[slots].append(measure_point(rest, folder, slots, seed, stores=stores))
    width = model.bottleneck["hidden_size"]
    table = tabulate(points, width)
    folder = config_path.parent if run.update_results else Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "experiments.json").write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    curves = {label: [[point[label] for point in runs] for runs in points.values()] for label in (OURS, DECODED, INVERTED)}
    draw_curve(
        [slots * width for slots in points],
        curves,
        folder / "curve.png",
        x_label="numbers of the state",
        y_label="exact match (%)",
    )
    for row in table["rows"]:
        print(*("" if cell is None else f"{cell:.2f}" if isinstance(cell, float) else cell for cell in row), sep=" | ")
    print(f"The table and the picture are in {folder}.")
    return table


def _leave_out(words: list[str], names: list[str]) -> list[str]:
    """A command line without some of its settings."""
    kept, skipping = [], False
    for word in words:
        if word.startswith("--"):
            skipping = word[2:].partition("=")[0] in names
        if not skipping:
            kept.append(word)
    return kept


if __name__ == "__main__":
    run_main(main)

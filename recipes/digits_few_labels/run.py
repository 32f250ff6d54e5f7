"""Train the digits_few_labels recipe's model for each number of labels and each choice of them, and gather the accuracies.

    python recipes/digits_few_labels/run.py recipes/digits_few_labels/config.yaml
    python recipes/digits_few_labels/run.py recipes/digits_few_labels/config.yaml --seeds 1 2 --label_counts 10 30
    python recipes/digits_few_labels/run.py recipes/digits_few_labels/config.yaml --update_results true

Each model lies in OUTPUT_DIR/COUNT-SEED. What is there already, of the same settings and data, is taken as it is, so that a run
that was stopped goes on. A seed chooses the images that keep their label, and the first weights. A number of labels may have
settings of its own, in config_COUNT.yaml beside config.yaml. `--update_results true` writes the accuracies (percent of the test
images) into the recipe's results file, a run for each seed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:] = [str(ROOT), *(folder for folder in sys.path if Path(folder).resolve() not in (ROOT, Path(__file__).parent))]

from recipes.digits_few_labels.choices import (
    ChoiceSettings,
    digest_choices,
    find_config,
    list_choices,
    read_choice_settings,
    train_choice,
)
from recipes.results import build_results, summarize, update_recipe_results
from recipes.running import find_recipe_results, run_main, set_up_logging


def main(argv: list[str] | None = None) -> dict[int, dict[str, float]]:
    """Train, gather and print; see the top of the file."""
    settings = read_choice_settings(ChoiceSettings, argv)
    set_up_logging()
    run = settings.run
    recipe_results = find_recipe_results(settings.config_path, run.results_file) if run.update_results else None
    scores: dict[int, dict[str, float]] = {}
    minutes: dict[int, float] = {}
    found: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    for choice in list_choices(settings):
        folder = settings.folder / f"{choice.count}-{choice.seed}"
        config_path = find_config(settings.config_path, choice.count)
        found = train_choice(config_path, choice, folder, choice.files["train_file"], settings.words)
        facts = choice.files["facts"]
        scores.setdefault(choice.seed, {})[choice.metric] = found["metrics"]["accuracy"]
        minutes[choice.seed] = minutes.get(choice.seed, 0.0) + found["minutes"]
    data, settings_digest = {**found["data"], **facts}, digest_choices(settings)
    data = {name: value for name, value in data.items() if name not in ("labels", "training_rows")}
    for seed, metrics in scores.items():
        results = build_results(
            metrics,
            seed=seed,
            minutes=minutes[seed],
            deciding=run.deciding_metrics or {},
            baselines={},
            data=data,
            hardware=found["hardware"],
            versions=found["versions"],
            settings=settings_digest,
        )
        print(f"seed {seed}\n{summarize(results)}", flush=True)
        if recipe_results is not None:
            update_recipe_results(recipe_results, results)
    return scores


if __name__ == "__main__":
    run_main(main)

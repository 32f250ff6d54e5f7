"""`results.json` of a recipe, the one source of every number shown: means over seeds, spread, baselines and facts."""

from __future__ import annotations

import re
import statistics
from pathlib import Path
from typing import Any

from hf_genext.hub import order_metrics, read_results, write_results


def build_results(
    metrics: dict[str, float],
    *,
    seed: int,
    minutes: float,
    deciding: dict[str, str],
    baselines: dict[str, dict[str, float]],
    data: dict[str, Any],
    hardware: str,
    versions: dict[str, str],
    settings: str | None = None,
    kind: str = "conditional-generation",
) -> dict[str, Any]:
    """The results of one run.

    `kind` says which kind of card they make (`hf_genext.hub.CARD_KINDS`), `settings` tells them apart from other settings.
    """
    run = {"seed": seed, "minutes": round(minutes, 1), "metrics": dict(metrics)}
    return {
        "kind": kind,
        "metrics": dict(metrics),
        "spread": {},
        "baselines": baselines,
        "better": {name: direction for name, direction in deciding.items() if name in metrics},
        "data": data,
        "seeds": [seed],
        "minutes": round(minutes, 1),
        "versions": versions,
        "hardware": hardware,
        "runs": [run if settings is None else {**run, "settings": settings}],
    }


def update_recipe_results(path: Path, new: dict[str, Any]) -> None:
    """Write a run into a recipe's results: it replaces the run of its seed and joins the others; baselines stay.

    Runs that are known to be of other settings or other data are no others of its kind: they are named, and left out.
    """
    runs = list(new["runs"])
    baselines: dict[str, Any] = dict(new["baselines"])
    if path.is_file():
        old = read_results(path)
        others = [run for run in old.get("runs", []) if run["seed"] not in new["seeds"]]
        wanted = {run.get("settings") for run in runs} | {None}
        unlike = [run for run in others if run.get("settings") not in wanted or old["data"] != new["data"]]
        if unlike:
            seeds = ", ".join(str(run["seed"]) for run in unlike)
            print(f"Runs of other settings or data are taken out of {path}: seed {seeds}.", flush=True)
        runs += [run for run in others if run not in unlike]
        baselines = {**old["baselines"], **baselines}
    runs.sort(key=lambda run: run["seed"])
    names = sorted(set.intersection(*(set(run["metrics"]) for run in runs)))
    values = {name: [run["metrics"][name] for run in runs] for name in names}
    merged = {
        **new,
        "metrics": {name: statistics.fmean(values[name]) for name in names},
        "spread": {name: statistics.stdev(values[name]) for name in names} if len(runs) > 1 else {},
        "baselines": baselines,
        "seeds": [run["seed"] for run in runs],
        "minutes": round(statistics.fmean(run["minutes"] for run in runs), 1),
        "runs": runs,
    }
    write_results(path, merged)


def add_baselines(path: Path | None, scores: dict[str, dict[str, float]]) -> None:
    """Print the metrics of baselines, and put them beside the model's own in a recipe's results, where there are to be any.

    Those of other labels stay, and are named: they may be of other settings or another script, or of a label that is no more.

    Args:
        path: The results file, or `None`.
        scores: The metrics of each by its label.
    """
    for label, values in scores.items():
        print(label, "  ".join(f"{name} {value:.4g}" for name, value in values.items()), sep=": ", flush=True)
    if path is not None:
        results = read_results(path)
        others = [label for label in results["baselines"] if label not in scores]
        if others:
            print(f"stay as they were in {path}: {', '.join(others)}; take out what is no more", flush=True)
        write_results(path, {**results, "baselines": {**results["baselines"], **scores}})


def replace_marked(text: str, name: str, content: str) -> str:
    """Put content between the marks `<!-- name -->` and `<!-- end -->` of a Markdown text.

    Raises:
        ValueError: if the marks are not there.
    """
    pattern = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)", flags=re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"The text has no marks <!-- {name} --> and <!-- end -->.")
    return pattern.sub(lambda match: f"{match[1]}{content}\n{match[2]}", text)


def summarize(results: dict[str, Any]) -> str:
    """The metrics on one line each, the deciding ones first."""
    return "\n".join(f"  {name.replace('_', ' '):<28} {results['metrics'][name]:.4g}" for name in order_metrics(results))


__all__ = ["add_baselines", "build_results", "replace_marked", "summarize", "update_recipe_results"]

"""Render the card of every recipe's model into model_cards/, and the tables of the READMEs, from the results.json.

python recipes/render_cards.py            # `make cards`
python recipes/render_cards.py --check    # fails where a file is not what the results say
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), *(folder for folder in sys.path if Path(folder).resolve() not in (ROOT, ROOT / "recipes"))]

import yaml

from hf_genext.hub import read_results, render_comparison, render_model_card
from recipes.conditional_data import write_example
from recipes.results import replace_marked

PICTURES = {
    "curve.png": "Exact match by the numbers of the state",
    "map.png": "A map of the space",
    "samples.png": "What the model draws",
}
"""Pictures that a recipe keeps beside its results, with their captions."""


def render_cards() -> dict[Path, str]:
    """What each file must hold, by its path: cards, and READMEs with their tables."""
    cards = {}
    readme = ROOT / "README.md"
    front_page = readme.read_text(encoding="utf-8")
    for folder in sorted({path.parent for path in ROOT.glob("recipes/*/results*.json")}):
        # Of a recipe that was run with other settings than those of config.yaml alone, these make the card.
        results_path = min(folder.glob("results*.json"), key=lambda path: (path.name != "results.json", path.name))
        settings = _read_settings(results_path)
        cards[ROOT / "model_cards" / f"{results_path.parent.name}.md"] = render_model_card(
            read_results(results_path),
            title=settings["title"],
            task=settings["task"],
            example=settings["example"],
            license=settings["license"],
            example_code=settings.get("example_code") or write_example(settings.get("conditions"), settings["example"]),
            pictures={
                caption: f"../recipes/{results_path.parent.name}/{name}"
                for name, caption in PICTURES.items()
                if (results_path.parent / name).is_file()
            },
        )
        table = render_comparison(read_results(results_path))
        recipe_readme = results_path.parent / "README.md"
        text = replace_marked(recipe_readme.read_text(encoding="utf-8"), results_path.stem, table)
        experiments = results_path.parent / "experiments.json"
        if experiments.is_file():
            text = replace_marked(text, "experiments", render_experiments(json.loads(experiments.read_text(encoding="utf-8"))))
        if "<!-- besides -->" in text:
            text = replace_marked(text, "besides", render_besides(read_results(results_path)))
        for samples in sorted(results_path.parent.glob("samples*.md")):
            text = replace_marked(text, samples.stem, samples.read_text(encoding="utf-8").rstrip("\n"))
        for other in sorted(results_path.parent.glob("results_*.json")):
            text = replace_marked(text, other.stem, render_comparison(read_results(other)))
        cards[recipe_readme] = text
        if f"<!-- {results_path.parent.name} -->" in front_page:
            front_page = replace_marked(front_page, results_path.parent.name, table)
    cards[readme] = front_page
    return cards


def _read_settings(results_path: Path) -> dict[str, Any]:
    """The settings that results are of: those that name the file, or config.yaml."""
    for path in sorted(results_path.parent.glob("*.yaml"), key=lambda path: (path.name != "config.yaml", path.name)):
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        if settings.get("results_file", "results.json") == results_path.name and path.name != "smoke.yaml":
            return settings
    raise FileNotFoundError(f"No settings in {str(results_path.parent)!r} name {results_path.name!r} as their results_file.")


def render_besides(results: dict[str, Any]) -> str:
    """A Markdown table of the metrics that do not decide, the model's and those of the baselines."""
    names = set(results["metrics"]) - set(results["better"])
    metrics = {name: value for name, value in results["metrics"].items() if name in names}
    return render_comparison({**results, "metrics": metrics, "better": {}})


def render_experiments(experiments: dict[str, Any]) -> str:
    """A Markdown table of what was tried: `{"columns": [...], "rows": [[...], ...]}`."""
    lines = ["| " + " | ".join(experiments["columns"]) + " |", "|---|" + "---:|" * (len(experiments["columns"]) - 1)]
    for row in experiments["rows"]:
        cells = ["" if cell is None else f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Write or check the cards; see the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="Write nothing; fail where a file is out of date.")
    options = parser.parse_args()
    for path, text in render_cards().items():
        if options.check:
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                sys.exit(f"{path.relative_to(ROOT)} is not what its results.json says; run `make cards`.")
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()

"""What the project's files say of each other: the README's tree and numbers, the cards, the house."""

from __future__ import annotations

import ast
import doctest
import importlib
import itertools
import json
import re
import tomllib
from pathlib import Path

import pytest

import hf_genext
from recipes.render_cards import render_cards

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("hf_genext", "recipes", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
RECIPES_WITH_EXAMPLES = [
    path.relative_to(ROOT) for path in sorted((ROOT / "recipes").rglob("*.py")) if ">>>" in path.read_text(encoding="utf-8")
]


def test_cards_are_what_the_results_say():
    cards = render_cards()
    assert cards
    for path, text in cards.items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run `make cards`"


@pytest.mark.parametrize("path", RECIPES_WITH_EXAMPLES, ids=str)
def test_examples_in_the_documentation_of_recipes_are_true(path):
    tried = doctest.testmod(importlib.import_module(".".join(path.with_suffix("").parts)), optionflags=doctest.ELLIPSIS)
    assert tried.attempted
    assert not tried.failed


@pytest.mark.parametrize("document", ["README.md", "benchmarks/README.md"])
def test_every_measured_number_comes_from_a_results_file(document):
    text = (ROOT / document).read_text(encoding="utf-8").replace("Python 3.11", "").replace("Apache-2.0", "")
    known = {f"{number:.{digits}f}" for number in _read_result_numbers() for digits in (1, 2, 4)}
    known |= {f"{number:.4g}" for number in _read_result_numbers()}
    shown = re.findall(r"(?<![\w.-])\d+\.\d+(?![\w.])", text)
    assert shown
    assert [number for number in shown if number not in known] == []


def _read_result_numbers():
    files = [*ROOT.glob("recipes/*/results*.json"), *ROOT.glob("benchmarks/results/*.json")]
    assert files

    def walk(value):
        if isinstance(value, dict):
            for item in value.values():
                yield from walk(item)
        elif isinstance(value, list):
            for item in value:
                yield from walk(item)
        elif isinstance(value, (int, float)):
            yield float(value)

    for file in files:
        yield from walk(json.loads(file.read_text(encoding="utf-8")))


def test_the_readmes_tree_names_every_file_of_the_package_once():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in (ROOT / "hf_genext").rglob("*.py"):
        if path.parent.name != "hf_genext" and path.name == "__init__.py":
            continue
        assert len(re.findall(rf"^\s*{path.name} ", text, flags=re.MULTILINE)) == 1, path.name


def test_links_in_the_documentation_lead_somewhere():
    checked = 0
    for document in [*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("recipes/*/README.md")]:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
            checked += 1
    assert checked


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == hf_genext.__version__
    assert f"[{hf_genext.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
    pins, lower = (_read_pins(ROOT / name) for name in ("constraints.txt", "constraints-lower.txt"))
    # Those of the demo stand in an environment of their own, those of maps in none, and tools are no part of the package.
    extras = [needed for extra, needed in project["optional-dependencies"].items() if extra not in ("demo", "dev", "maps")]
    for requirement in itertools.chain(project["dependencies"], *extras):
        if not requirement.startswith("hf_genext["):
            name, bound = (part.casefold().replace("_", "-") for part in requirement.split(">="))
            assert name in lower and f"{lower[name]}.".startswith(f"{bound}."), f"{requirement}: constraints-lower.txt differs"
            assert name in pins


def _read_pins(path):
    lines = [line.casefold().replace("_", "-") for line in path.read_text().splitlines() if "==" in line]
    return dict(line.split("==") for line in lines)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_says_what_it_is_for_and_stays_a_room(path):
    text = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) < 600
    for word in ("utils", "helpers", "misc", "common"):
        assert word not in path.stem


def test_nothing_in_the_package_unpickles():
    for path in (ROOT / "hf_genext").rglob("*.py"):
        assert not re.search(r"\bpickle\b(?! of)|torch\.load\(|allow_pickle=True", path.read_text(encoding="utf-8")), path


def test_public_names_exist_and_are_documented():
    assert hf_genext.__all__ == sorted(hf_genext.__all__, key=str.lower)
    for name in hf_genext.__all__:
        assert getattr(hf_genext, name).__doc__

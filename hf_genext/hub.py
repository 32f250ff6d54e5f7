"""Results and model cards: facts from a results file, rendered as the README of a model's folder."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from safetensors import safe_open

_SCHEMA: dict[str, type | tuple[type, ...]] = {
    "metrics": dict,
    "spread": dict,
    "baselines": dict,
    "better": dict,
    "data": dict,
    "seeds": list,
    "minutes": (int, float),
    "versions": dict,
    "hardware": str,
}


def validate_results(results: Mapping[str, Any]) -> None:
    """Check that results have the fields and kinds of values that every recipe's results have.

    Raises:
        ValueError: naming the first field that is wrong, and what it must be.
    """
    if not isinstance(results, Mapping):
        raise ValueError(f"Results must be an object with named fields, got {type(results).__name__}.")
    for name, kind in _SCHEMA.items():
        if name not in results:
            raise ValueError(f"The results lack the field {name!r}; they need {', '.join(_SCHEMA)}.")
        if not isinstance(results[name], kind) or isinstance(results[name], bool):
            expected = kind.__name__ if isinstance(kind, type) else "number"
            raise ValueError(f"The field {name!r} of the results must be a {expected}, got {results[name]!r:.60}.")
    for place, numbers in (
        ("metrics", results["metrics"]),
        ("spread", results["spread"]),
        *((f"baselines.{label}", values) for label, values in results["baselines"].items()),
    ):
        if not isinstance(numbers, Mapping):
            raise ValueError(f"The field {place!r} of the results must be a dict of numbers, got {numbers!r:.60}.")
        for name, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ValueError(f"The field '{place}.{name}' of the results must be a number, got {value!r:.60}.")
    for name, direction in results["better"].items():
        if direction not in ("higher", "lower"):
            raise ValueError(f"The field 'better.{name}' must be 'higher' or 'lower', got {direction!r}.")
        if name not in results["metrics"]:
            raise ValueError(f"The field 'better' names {name!r}, which is not among the metrics.")


def read_results(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read and check a results file.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is no JSON, or a field is wrong.
    """
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{str(path)!r} is not JSON: {error}") from error
    validate_results(results)
    return results


def write_results(path: str | os.PathLike[str], results: Mapping[str, Any]) -> None:
    """Check results and write them; the file is there whole or as it was before."""
    validate_results(results)
    unfinished = Path(f"{path}.unfinished")
    unfinished.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(unfinished, path)


@dataclass(frozen=True)
class CardKind:
    """What the cards of one kind of model have in common.

    Attributes:
        library_name: The library that the Hub shows code for.
        pipeline_tag: The task that the Hub files the model under; `None` where it has none.
        tags: Tags of the Hub.
        task_type: Task of the evaluation results.
        use: Python code that uses the folder; `{example}` stands for an input.
    """

    library_name: str
    pipeline_tag: str | None
    tags: tuple[str, ...]
    task_type: str
    use: str


CARD_KINDS: dict[str, CardKind] = {
    "conditional-generation": CardKind(
        library_name="transformers",
        pipeline_tag=None,
        tags=("hf_genext", "conditional-generation"),
        task_type="conditional-generation",
        use="import hf_genext\nfrom transformers import pipeline\n\n"
        'pipe = pipeline("conditional-generation", model="path/to/this/folder")\n'
        "pipe({example})",
    ),
    "static-embedding": CardKind(
        library_name="sentence-transformers",
        pipeline_tag="feature-extraction",
        tags=("hf_genext", "word-vectors", "static-embeddings", "model2vec"),
        task_type="word-similarity",
        use="import hf_genext\nfrom transformers import AutoModel\n\n"
        'space = AutoModel.from_pretrained("path/to/this/folder")\n'
        "space[{example}]  # the vector of a word\n"
        "space.most_similar({example}, topn=5)\n"
        'space.encode(["a text", "another text"])  # the vectors of texts',
    ),
    "text-generation": CardKind(
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=("hf_genext", "causal-lm"),
        task_type="text-generation",
        use="from transformers import pipeline\n\n"
        'pipe = pipeline("text-generation", model="path/to/this/folder")\n'
        "pipe({example}, do_sample=True)",
    ),
}
"""Kinds of cards by name."""

_BENCHMARKS = {
    "wordsim353": ("WordSim-353", "spearman"),
    "simlex999": ("SimLex-999", "spearman"),
    "analogies": ("analogies", "accuracy"),
}
"""Metrics that have a data set of their own: its name, and what is measured on it."""

_PLACE = "path/to/this/folder"
"""What the code of a card opens before it is pushed."""

PLAIN_MARK = "No results and no licence were given with it."
"""The last line of a card that nobody wrote, by which it is known again."""

_WITHOUT_PACKAGE = (
    "Where hf_genext is not installed, leave out `import hf_genext` and pass `trust_remote_code=True`: then the code that "
    "comes with the model is run."
)

_USE_MODEL = 'import hf_genext\nfrom transformers import AutoModel\n\nmodel = AutoModel.from_pretrained("path/to/this/folder")'

_USE_ADAPTER = (
    "import hf_genext\nfrom transformers import pipeline\n\n"
    'pipe = pipeline("conditional-generation", model="path/to/this/folder")  # opens the base too\npipe({example})'
)

_ELSEWHERE = """Without hf_genext the same folder opens in sentence-transformers and in model2vec:

```python
from sentence_transformers import SentenceTransformer

SentenceTransformer("path/to/this/folder").encode(["a text"])
```

```python
from model2vec import StaticModel

StaticModel.from_pretrained("path/to/this/folder").encode(["a text"])
```"""


def render_model_card(
    results: Mapping[str, Any],
    *,
    title: str,
    task: str,
    example: str,
    license: str,
    pictures: Mapping[str, str] | None = None,
    kind: str | None = None,
    example_code: str | None = None,
) -> str:
    """Render a model card; every number in it stands in the results.

    The card of a space says what other libraries cannot express of it, by two facts among the results' data: `subwords`, the
    number of its hashed n-grams, and `pooling`.

    Args:
        results: As [`validate_results`] checks them.
        title: Title of the card.
        task: One line: what goes in and what comes out.
        example: An input for the code, a text.
        license: Licence of the model, by the Hub's identifier.
        pictures: Caption to path.
        example_code: Python that gives the input, where it is no text.
        kind: One of [`CARD_KINDS`]; left out, the `kind` that the results name, else conditional generation.

    Returns:
        The card, with the Hub's metadata at its head.

    Raises:
        ValueError: if the results are not as they must be, or there is no such kind.
    """
    validate_results(results)
    kind = kind or results.get("kind", "conditional-generation")
    if kind not in CARD_KINDS:
        raise ValueError(f"There is no kind of card {kind!r}; known are {', '.join(CARD_KINDS)}.")
    chosen = CARD_KINDS[kind]
    metadata = ModelCardData(
        library_name=chosen.library_name,
        pipeline_tag=chosen.pipeline_tag,
        license=license,
        tags=list(chosen.tags),
        model_name=title,
        eval_results=[_build_eval_result(results, name, chosen) for name in results["better"] or results["metrics"]],
    )
    use = chosen.use.replace("{example}", example_code or json.dumps(example, ensure_ascii=False))
    if example_code and "AutoModel" in example_code:
        use = use.replace("import pipeline", "import AutoModel, pipeline")
    if example_code and "SentenceTransformer(" in example_code:
        use = use.replace("import hf_genext\n", "import hf_genext\nfrom sentence_transformers import SentenceTransformer\n")
    sections = [
        f"---\n{metadata.to_yaml()}\n---\n\n# {title}\n\n{task}",
        f"## Use\n\n```python\n{use}\n```",
        *(["\n\n".join([_ELSEWHERE, *_list_limits(results["data"])])] if kind == "static-embedding" else []),
        f"## Results\n\n{render_comparison(results)}",
        *(f"![{caption}]({path})" for caption, path in (pictures or {}).items()),
        f"## How it was made\n\n{_render_facts(results)}",
    ]
    return "\n\n".join(sections) + "\n"


def _build_eval_result(results: Mapping[str, Any], name: str, kind: CardKind) -> EvalResult:
    data_name = str(results["data"].get("name", "its training data"))
    dataset_name, metric_type = _BENCHMARKS.get(name, (f"{data_name} (validation)", name))
    return EvalResult(
        task_type=kind.task_type,
        dataset_type=name if name in _BENCHMARKS else "other",
        dataset_name=dataset_name,
        metric_type=metric_type,
        metric_name=_speak(name),
        metric_value=round(results["metrics"][name], 4),
    )


def _list_limits(data: Mapping[str, Any]) -> list[str]:
    """What sentence-transformers and model2vec cannot express of a space."""
    limits = [
        "A word that the space lacks counts for nothing here; sentence-transformers counts it as a word whose vector is 0."
    ]
    if data.get("subwords"):
        limits.append(
            'Only `space["a word"]` makes the vector of an unknown word of its subwords; the others know whole words.'
        )
    if data.get("pooling") == "sif":
        limits.append(
            "Words weigh by their frequency; versions of sentence-transformers that know no `weights` weigh all alike."
        )
    return limits


def address_card(card: str, repo_id: str) -> str:
    """A card whose code names a repository in place of a folder, and says how to open it without the package.

    Args:
        card: As [`render_model_card`] gives it.
        repo_id: The repository.
    """
    if _PLACE not in card:
        return card
    card = card.replace(_PLACE, repo_id)
    if "import hf_genext" not in card or "trust_remote_code" in card:
        return card
    return re.sub(r"(?s)(## Use\n\n```python\n.*?```\n)", rf"\g<1>\n{_WITHOUT_PACKAGE}\n", card, count=1)


def render_plain_card(folder: Path, repo_id: str) -> str:
    """The card of a model without results: what it is, by its saved folder, and code that uses it.

    Args:
        folder: What `save_pretrained` of a model, a pipeline or an adapter wrote.
        repo_id: The repository.
    """
    adapter = _read_if_there(folder / "adapter_config.json")
    settings = {} if adapter else _read_if_there(folder / "config.json")
    architecture = (settings.get("architectures") or ["model"])[0]
    if adapter:
        base = adapter["base_model_name_or_path"]
        title, use = f"An adapter of {base}", _USE_ADAPTER
        facts = {"base": base, "kind": adapter["peft_type"], **{name: adapter[name] for name in ("r",) if name in adapter}}
    else:
        title = repo_id.split("/")[-1]
        use = CARD_KINDS["conditional-generation"].use if settings.get("custom_pipelines") else _USE_MODEL
        parts = {name: settings[name] for name in ("conditioner", "bottleneck", "decoder", "head") if settings.get(name)}
        facts = {"class": architecture}
        facts |= {name: part.get("kind") or part.get("model_type", "") for name, part in parts.items()}
        facts |= {name: settings[name] for name in ("vocab_size", "hidden_size") if name in settings}
    facts["parameters"] = _count_parameters(folder)
    metadata = ModelCardData(
        library_name="peft" if adapter else "transformers",
        base_model=adapter.get("base_model_name_or_path"),
        tags=["hf_genext", *(settings.get("custom_pipelines") or {})],
    )
    lines = [f"- {_speak(name)}: {f'{value:,}' if isinstance(value, int) else value}" for name, value in facts.items()]
    sections = [
        f"---\n{metadata.to_yaml()}\n---\n\n# {title}",
        f"## Use\n\n```python\n{use.replace('{example}', '...')}\n```",
        "## What it is\n\n" + "\n".join(lines),
        PLAIN_MARK,
    ]
    return "\n\n".join(sections) + "\n"


def _read_if_there(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _count_parameters(folder: Path) -> int:
    count = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as tensors:
            count += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return count


def order_metrics(results: Mapping[str, Any]) -> list[str]:
    """Names of the metrics: the deciding ones in their order, then the others by name."""
    return [*results["better"], *sorted(set(results["metrics"]) - set(results["better"]))]


def render_comparison(results: Mapping[str, Any]) -> str:
    """The metrics beside those of the baselines, as a Markdown table; deciding metrics and their best values are bold.

    Where some metrics decide, the others stand in a line below, but for counts of unknown words.
    """
    rows = {"this model": results["metrics"], **results["baselines"]}
    ordered = order_metrics(results)
    names = [name for name in ordered if name in results["better"] or name.endswith("_out_of_vocabulary")]
    names = names if results["better"] else ordered
    besides = [f"{_speak(name)} {_show(results['metrics'][name])}" for name in ordered if name not in names]
    header = [
        f"**{_speak(name)}** ({results['better'][name]} is better)" if name in results["better"] else _speak(name)
        for name in names
    ]
    lines = [f"| system | {' | '.join(header)} |", f"|---|{'---:|' * len(names)}"]
    for label, values in rows.items():
        cells = []
        for name in names:
            if name not in values:
                cells.append("")
                continue
            cell = _show(values[name])
            if label == "this model" and name in results["spread"]:
                cell += f" ± {results['spread'][name]:.2g}"
            rivals = [other[name] for other in rows.values() if name in other]
            direction = results["better"].get(name)
            is_best = direction and values[name] == (max(rivals) if direction == "higher" else min(rivals))
            cells.append(f"**{cell}**" if is_best and len(rivals) > 1 else cell)
        lines.append(f"| {label} | {' | '.join(cells)} |")
    seeds = len(results["seeds"])
    note = f"Means over {seeds} seeds, with their standard deviation." if seeds > 1 else "One run."
    return "\n".join(lines) + f"\n\n{note}" + (f" Besides: {', '.join(besides)}." if besides else "")


def _render_facts(results: Mapping[str, Any]) -> str:
    facts = {_speak(name): value for name, value in results["data"].items()}
    facts["minutes of one run"] = results["minutes"]
    facts["hardware"] = results["hardware"]
    facts["versions"] = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    return "\n".join(f"- {name}: {f'{value:,}' if isinstance(value, (int, float)) else value}" for name, value in facts.items())


def _show(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def _speak(name: str) -> str:
    first, _, rest = name.partition("_")
    spoken, _ = _BENCHMARKS.get(first, (first, ""))
    return f"{spoken} {rest}".strip().replace("_", " ")


__all__ = [
    "CARD_KINDS",
    "CardKind",
    "PLAIN_MARK",
    "address_card",
    "order_metrics",
    "read_results",
    "render_comparison",
    "render_model_card",
    "render_plain_card",
    "validate_results",
    "write_results",
]

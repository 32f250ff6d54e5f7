"""What travels along when something is pushed: the code that opens it anywhere, its card, and what was exported from it.

`push_to_hub` of models, processors, configurations and pipelines is Transformers' own. Between saving and uploading, the folder
gets what it needs to be opened where the package is not installed:

* in config.json an `auto_map` of the Auto classes that open it, and its `custom_pipelines`;
* the package's files that these name, flattened, as Transformers expects a repository's code;
* one file more, which imports all of them, and which the Auto classes are sent to. Transformers fetches, and saves again, a
  file with all that it imports from files beside it; and of a folder it opens each such file's code as modules of their own, so
  that a model would not know its own configuration. With one way in, the code stays together and is there once.

Where the package is installed, its configurations pass over the first of these, so that no flag is needed; see
`forget_remote_code`.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import json
import logging
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import HfApi, ModelCard
from safetensors import safe_open
from transformers import PreTrainedModel
from transformers.models.auto import modeling_auto
from transformers.models.auto.auto_factory import _BaseAutoModelClass
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.pipelines import PIPELINE_REGISTRY

from hf_genext.hub import PLAIN_MARK, address_card, render_plain_card

if TYPE_CHECKING:
    from peft import PeftModel

logger = logging.getLogger(__name__)

_PACKAGE = __name__.split(".")[0]
_ENTRY = "entry_genext"
_TEMPLATE_MARK = "[More Information Needed]"
"""What stands all over the card that Transformers writes where there is none."""


# The code of a folder


@dataclass(frozen=True)
class FolderCode:
    """What opens a folder where the package is not installed.

    Attributes:
        config_class: Its configuration.
        doors: The model class behind each Auto class.
        pipelines: What `custom_pipelines` says of each task.
        pipeline_classes: The classes of those tasks.
        others: Configurations of other families that stand inside, each with the Auto classes and models behind them.
    """

    config_class: type
    doors: dict[str, type]
    pipelines: dict[str, dict[str, Any]]
    pipeline_classes: tuple[type, ...]
    others: dict[type, dict[str, type]]


def add_code(folder: str | os.PathLike[str]) -> list[str]:
    """Make a saved folder one that opens anywhere, with `trust_remote_code=True` where the package is not installed.

    `push_to_hub` does this by itself. It is for folders that go to the Hub in another way, such as `hf upload`.

    Args:
        folder: What `save_pretrained` of a model, a processor or a pipeline wrote.

    Returns:
        The names of the files of code in it; none where the package's code is not needed.

    Raises:
        ValueError: if a file of the package cannot travel, which a test of the package sees first.
    """
    folder = Path(folder)
    sources: dict[str, str] = {}
    if (settings := _read_json(folder / "config.json")) and (code := _find_code(settings)) is not None:
        classes = [code.config_class, *code.doors.values(), *code.pipeline_classes]
        classes += [other for config, doors in code.others.items() for other in (config, *doors.values())]
        processor_class = PROCESSOR_MAPPING._extra_content.get(code.config_class)
        classes += [] if processor_class is None else [processor_class]
        sources |= {**flatten_code(classes), f"{_ENTRY}.py": _write_entry(code, processor_class)}
        settings["auto_map"] = {
            "AutoConfig": f"{_ENTRY}.{code.config_class.__name__}",
            **{door: f"{_ENTRY}.{model_class.__name__}" for door, model_class in code.doors.items()},
        }
        if code.pipelines:
            settings["custom_pipelines"] = code.pipelines
        _write_json(folder / "config.json", settings)
    if (settings := _read_json(folder / "processor_config.json")) and settings.get("processor_class"):
        known = {processor.__name__: processor for processor in PROCESSOR_MAPPING._extra_content.values()}
        processor_class = known.get(settings["processor_class"])
        if processor_class is not None and _is_ours(processor_class):
            sources |= flatten_code([processor_class])
            _write_json(
                folder / "processor_config.json", {**settings, "auto_map": {"AutoProcessor": _name_flat(processor_class)}}
            )
    for name, text in sources.items():
        (folder / name).write_text(text, encoding="utf-8")
    return sorted(sources)


def _find_code(settings: Mapping[str, Any]) -> FolderCode | None:
    config_class = CONFIG_MAPPING._extra_content.get(settings.get("model_type"))
    if config_class is None or not _is_ours(config_class):
        return None
    saved_as = (settings.get("architectures") or [None])[0]
    doors = {
        name: model_class
        for name, model_class in _list_doors(config_class)
        if saved_as in (model_class.__name__, *getattr(model_class, "_opens_folders_of", ()))
    }
    pipelines, classes = {}, []
    for task, facts in PIPELINE_REGISTRY.supported_tasks.items():
        fitting = [door.__name__ for door in facts["pt"] if door.__name__ in doors] if _is_ours(facts["impl"]) else []
        if fitting:
            pipelines[task] = {"impl": _name_flat(facts["impl"]), "pt": fitting, "type": facts["type"]}
            classes.append(facts["impl"])
    inside = {CONFIG_MAPPING._extra_content.get(kind) for kind in _list_model_types(settings)} - {None, config_class}
    for plugin in {other.__module__.split(".")[0] for other in inside if not _is_ours(other)}:
        logger.warning("A part of the model is of the package %r, whose code does not travel: readers need it too.", plugin)
    at_home = set(flatten_code([config_class]))
    others = {
        other: {door: model for door, model in _list_doors(other) if door != "AutoModelForPreTraining"}
        for other in sorted(inside, key=lambda other: other.__name__)
        if _is_ours(other) and f"{other.__module__.rsplit('.', 1)[-1]}.py" not in at_home
    }
    return FolderCode(config_class, doors, pipelines, tuple(classes), others)


def _is_ours(given: Any) -> bool:
    return getattr(given, "__module__", "").split(".")[0] == _PACKAGE


def _name_flat(given: type) -> str:
    return f"{given.__module__.rsplit('.', 1)[-1]}.{given.__name__}"


def _list_doors(config_class: type) -> Iterator[tuple[str, type]]:
    """The Auto classes that open what a configuration describes, and the model class behind each."""
    for name, door in sorted(vars(modeling_auto).items()):
        mapping = getattr(door, "_model_mapping", None)
        if isinstance(door, type) and issubclass(door, _BaseAutoModelClass) and mapping is not None:
            model_class = mapping._extra_content.get(config_class)
            if isinstance(model_class, type) and issubclass(model_class, PreTrainedModel):
                yield name, model_class


def _list_model_types(settings: Any) -> Iterator[str]:
    if isinstance(settings, Mapping):
        if isinstance(settings.get("model_type"), str):
            yield settings["model_type"]
        settings = list(settings.values())
    if isinstance(settings, list):
        for value in settings:
            yield from _list_model_types(value)


def _write_entry(code: FolderCode, processor_class: type | None) -> str:
    """The file that the Auto classes are sent to."""
    opened = [code.config_class, *code.doors.values()]
    executed, seen = list(opened), list(code.pipeline_classes)
    registrations = []
    for config_class, doors in code.others.items():
        executed += [config_class, *doors.values()]
        registrations.append(f"AutoConfig.register({config_class.__name__}.model_type, {config_class.__name__}, exist_ok=True)")
        registrations += [
            f"{door}.register({config_class.__name__}, {model_class.__name__}, exist_ok=True)"
            for door, model_class in doors.items()
        ]
    seen += [] if processor_class is None else [processor_class]
    doors_needed = sorted({"AutoConfig", *(door for doors in code.others.values() for door in doors)})
    writer = f"{_PACKAGE} {sys.modules[_PACKAGE].__version__}"
    parts = [
        f'"""The way into this repository where hf_genext is not installed, written by {writer}.\n\n'
        "Transformers fetches and saves a file with all that it imports from files beside it: this one names them all.\n"
        '"""\n\nfrom typing import TYPE_CHECKING',
        *([f"from transformers import {', '.join(doors_needed)}"] if registrations else []),
        _write_imports(executed),
        *(["if TYPE_CHECKING:\n" + _write_imports(seen, "    ")] if seen else []),
        "# What is opened is saved with this file, so with all of them.\n"
        + "\n".join(f"{given.__name__}.__module__ = __name__" for given in opened),
        *(["# A part is of another family.\n" + "\n".join(registrations)] if registrations else []),
    ]
    return "\n\n".join(parts) + "\n"


def _write_imports(classes: Iterable[type], indent: str = "") -> str:
    lines = {f"{indent}from .{given.__module__.rsplit('.', 1)[-1]} import {given.__name__}" for given in classes}
    return "\n".join(sorted(lines))


# Files of the package, flattened


def flatten_code(classes: Iterable[type]) -> dict[str, str]:
    """The files that define classes of the package, with all that they import of it, as files of one folder.

    What is imported from another folder of the package is imported from a sibling instead, so files of a family and of the top
    level get along.

    Args:
        classes: Classes of the package.

    Returns:
        The text of each file by its name.

    Raises:
        ValueError: if two files have one name, or a file imports a module of the package in a way that Transformers does not
            follow.
    """
    flat: dict[str, str] = {}
    origins: dict[str, Path] = {}
    waiting = [sys.modules[given.__module__].__name__ for given in classes]
    while waiting:
        module = waiting.pop()
        path = _find_source(module)
        if origins.setdefault(path.name, path) != path:
            raise ValueError(f"{path} and {origins[path.name]} would be one file of a repository; rename one of them.")
        if path.name in flat:
            continue
        flat[path.name], imported = _flatten_imports(path.read_text(encoding="utf-8"), module)
        waiting += imported
    return flat


def _find_source(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ValueError(f"There is no module {module!r} in the package.")
    return Path(spec.origin)


def _flatten_imports(text: str, module: str) -> tuple[str, list[str]]:
    """A file's text with every import of the package from a sibling, and the modules that it imports."""
    lines, imported = text.split("\n"), []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import) and any(alias.name.split(".")[0] == _PACKAGE for alias in node.names):
            raise ValueError(
                f"{module}, line {node.lineno}: a repository has no package {_PACKAGE}; write `from .module import name`."
            )
        if not isinstance(node, ast.ImportFrom) or not (node.level or (node.module or "").split(".")[0] == _PACKAGE):
            continue
        given = "." * node.level + (node.module or "")
        target = importlib.util.resolve_name(given, module.rpartition(".")[0]) if node.level else given
        if not node.module or target == _PACKAGE:
            raise ValueError(
                f"{module}, line {node.lineno}: Transformers does not follow `from {given} import`; write "
                "`from .module import name`."
            )
        imported.append(target)
        line = lines[node.lineno - 1]
        lines[node.lineno - 1] = re.sub(r"(\bfrom\s+)\S+(?=\s+import\b)", rf"\g<1>.{target.rsplit('.', 1)[-1]}", line, count=1)
    return "\n".join(lines), imported


# Pushing


def carry_along(publishable: type) -> None:
    """Have what a class uploads be complete: code, card, exports. Safe to call again."""
    upload = publishable._upload_modified_files  # type: ignore[attr-defined]
    if getattr(upload, "carries_along", False):
        return

    @functools.wraps(upload)
    def upload_all(self: Any, working_dir: str | os.PathLike[str], repo_id: str, *args: Any, **kwargs: Any) -> Any:
        complete_folder(working_dir, repo_id, _find_home(self))
        return upload(self, working_dir, repo_id, *args, **kwargs)

    upload_all.carries_along = True  # type: ignore[attr-defined]
    publishable._upload_modified_files = upload_all  # type: ignore[attr-defined]


def _find_home(given: Any) -> Path | None:
    """The folder that a model or pipeline was opened from, if it was one."""
    name = getattr(getattr(given, "model", given), "name_or_path", None)
    return Path(name) if isinstance(name, (str, Path)) and name and Path(name).is_dir() else None


def complete_folder(folder: str | os.PathLike[str], repo_id: str, home: Path | None = None) -> None:
    """Add to a saved folder what its repository needs.

    Args:
        folder: What `save_pretrained` wrote, with the repository's card where it has one.
        repo_id: Where it goes.
        home: The folder that the model was opened from. Its card with its pictures and results goes along, and its
            subfolders of exported models, unless these are of other weights than the saved folder has.
    """
    folder = Path(folder)
    add_code(folder)
    if home is not None and not _has_weights_of(folder, home):
        logger.warning(
            "The weights are others than those of %r, so its card, results and exports stay behind. Save the model in a folder "
            "with a card of its own, and push that.",
            str(home),
        )
        home = None
    if home is not None and home.resolve() != folder.resolve():
        _bring_exports(folder, home)
    if (folder / "config.json").is_file() or (folder / "adapter_config.json").is_file():
        _write_card(folder, repo_id, home)


def _has_weights_of(folder: Path, home: Path) -> bool:
    """Whether a saved folder has the weights of another; in another precision, or in other files, that is taken for granted."""
    if (folder / "adapter_config.json").is_file():
        return False
    for path in folder.glob("*.safetensors"):
        if not (home / path.name).is_file():
            continue
        with safe_open(path, "pt") as saved, safe_open(home / path.name, "pt") as opened:
            for name in set(saved.keys()) & set(opened.keys()):
                one, other = saved.get_tensor(name), opened.get_tensor(name)
                # By their bytes, as a number that is none is equal to nothing.
                if one.dtype == other.dtype and not torch.equal(*(part.flatten().view(torch.uint8) for part in (one, other))):
                    return False
    return True


def _bring_exports(folder: Path, home: Path) -> None:
    for source in sorted(home.iterdir()):
        if not source.is_dir() or not any(file.name == "model.bin" or file.suffix == ".onnx" for file in source.iterdir()):
            continue
        for file in sorted(source.iterdir()):
            if file.is_dir():
                raise ValueError(
                    f"{str(source)!r} holds a folder, {file.name!r}; Transformers uploads subfolders of files. Push it with "
                    "huggingface_hub's upload_folder."
                )
            _bring(file, folder / source.name / file.name)


def _bring(source: Path, target: Path) -> None:
    """A file at another place, without a copy of what may be large where that can be."""
    target.parent.mkdir(exist_ok=True)
    if target.exists():
        return
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _write_card(folder: Path, repo_id: str, home: Path | None) -> None:
    """Choose the card: that of the model's folder, else the repository's own, else one of what is known of the model."""
    # The folder has the repository's card already, or Transformers' empty one: it wrote that before.
    path = folder / "README.md"
    present = path.read_text(encoding="utf-8") if path.is_file() else ""
    own = home / "README.md" if home is not None else None
    if own is not None and own.is_file():
        text = own.read_text(encoding="utf-8")
        for picture in re.findall(r"!\[[^\]]*\]\(([^)\s:]+)\)", text):
            if (own.parent / picture).is_file() and "/" not in picture:
                _bring(own.parent / picture, folder / picture)
        if (own.parent / "results.json").is_file():
            _bring(own.parent / "results.json", folder / "results.json")
    elif present and _TEMPLATE_MARK not in present and PLAIN_MARK not in present:
        text = present
    else:
        text = render_plain_card(folder, repo_id)
    card = ModelCard(address_card(text, repo_id), ignore_metadata_errors=True)
    given = (ModelCard(present, ignore_metadata_errors=True).data.tags if present else None) or []
    card.data.tags = list(dict.fromkeys([*(card.data.tags or []), *given]))
    card.save(path)


def push_adapter(
    model: PeftModel,
    repo_id: str,
    *,
    base_repo_id: str | None = None,
    card: str | None = None,
    commit_message: str = "Upload adapter",
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> str:
    """Push an adapter of PEFT's so that anyone can open it: with the repository of its base, and a card.

    PEFT's own `push_to_hub` uploads the adapter too. But it keeps the base's name as it was opened, which may be a folder of
    this machine, and puts an empty card over its own.

    Args:
        model: What `peft.get_peft_model` gave.
        repo_id: Where the adapter goes.
        base_repo_id: Where its base is; needed where that was not opened from the Hub.
        card: The card's text, such as [`render_model_card`] gives; left out, one of what is known of the adapter.
        commit_message: As in `push_to_hub`.
        private: As in `push_to_hub`.
        token: As in `push_to_hub`.
        revision: As in `push_to_hub`.
        create_pr: As in `push_to_hub`.

    Returns:
        The address of the commit.

    Raises:
        ValueError: if nobody else could open the base.
    """
    base = base_repo_id or model.peft_config[model.active_adapter].base_model_name_or_path or ""
    if not base or os.path.exists(base):
        raise ValueError(
            f"The adapter's base is {base or 'not saved'!r}, which others cannot open. Push the base, and give "
            "base_repo_id= with its repository."
        )
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision is not None and not revision.startswith("refs/pr"):
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        path = Path(folder, "adapter_config.json")
        _write_json(path, {**_read_json(path), "base_model_name_or_path": base})
        text = card if card is not None else render_plain_card(Path(folder), repo_id)
        Path(folder, "README.md").write_text(address_card(text, repo_id), encoding="utf-8")
        return str(
            api.upload_folder(
                repo_id=repo_id, folder_path=folder, commit_message=commit_message, revision=revision, create_pr=create_pr
            )
        )


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _write_json(path: Path, settings: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


__all__ = ["FolderCode", "add_code", "carry_along", "complete_folder", "flatten_code", "push_adapter"]

"""How every recipe reads its settings: a YAML file, then `--key value` on the command line, into dataclasses.

    accelerate launch recipes/train_conditional.py recipes/g2p/config.yaml --learning_rate 1e-3 --decoder.hidden_size 256

A key of a nested setting is reached with a dot. Later values win. A key that no dataclass knows is an error that names the
nearest one.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import re
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from transformers import HfArgumentParser


class _Loader(yaml.SafeLoader):
    """A SafeLoader to which `1e-3` is a number, as it is in YAML 1.2."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)

NameOrFields: TypeAlias = dict | str
"""The type of a setting that is a name, or has named parts."""


class SettingsError(ValueError):
    """A setting that cannot be used; the message says how to mend it."""


def parse_settings(dataclass_types: list[type], argv: list[str]) -> tuple[Any, ...]:
    """Read settings into dataclasses.

    Args:
        dataclass_types: The dataclasses; together they say which keys there are.
        argv: The command line without the program's name: at most one YAML file, then `--key value` pairs.

    Returns:
        One instance of each dataclass, and the path of the YAML file (`None` where there is none).

    Raises:
        SettingsError: for an unknown key, a file that cannot be read, or a value of the wrong type.
    """
    config_path = Path(argv[0]) if argv and not argv[0].startswith("-") else None
    rest = argv[1:] if config_path is not None else argv
    if "--help" in rest or "-h" in rest:
        HfArgumentParser(dataclass_types).print_help()
        sys.exit(0)
    fields = {field.name: field for kind in dataclass_types for field in dataclasses.fields(kind) if field.init}
    # Transformers' parser changes the types of the fields, so those that can be a name are told by the annotations.
    names_or_fields = {
        name
        for kind in dataclass_types
        for name, annotation in getattr(kind, "__annotations__", {}).items()
        if "NameOrFields" in str(annotation)
    }

    words = {name for name, field in fields.items() if "bool" not in str(field.type)}
    settings = _read_yaml(config_path, words) if config_path is not None else {}

    def has_parts(name: str) -> bool:
        return name in names_or_fields or _is_dict(fields[name])

    for key in settings:
        _require_known(key, fields, str(config_path))
    for key, value in _split_overrides(rest):
        name, _, inner = key.partition(".")
        _require_known(name, fields, "the command line")
        if inner:
            if not has_parts(name):
                raise SettingsError(f"--{key}: {name} has no parts; set it as --{name} VALUE.")
            settings[name] = _set_inner(settings.get(name), inner.split("."), _parse_value(key, value), name)
        elif has_parts(name):
            settings[name] = _parse_value(key, value)
        else:
            # `--key null` takes a setting of the file away.
            settings[name] = value if len(value) != 1 else None if value[0] == "null" else value[0]
    nested = {name: settings.pop(name) for name in list(settings) if has_parts(name)}
    for name, value in nested.items():
        if isinstance(value, str) and name in names_or_fields:
            continue
        if value is not None and not isinstance(value, dict):
            raise SettingsError(f"{name} must have named parts ({name}: {{key: value}}), got {value!r}.")
    arguments = [word for name, value in settings.items() for word in _to_words(name, value)]
    parser = HfArgumentParser(dataclass_types, exit_on_error=False)
    try:
        parsed = parser.parse_args_into_dataclasses(args=arguments, look_for_args_file=False)
    except argparse.ArgumentError as error:
        raise SettingsError(str(error)) from error
    for instance in parsed:
        for field in dataclasses.fields(instance):
            if field.name in nested:
                setattr(instance, field.name, nested[field.name])
    return (*parsed, config_path)


def _read_yaml(path: Path, words: Collection[str]) -> dict[str, Any]:
    """The settings of a file; of those that are words, `no`, `on` and the like are no truth values."""
    try:
        text = path.read_text(encoding="utf-8")
        root, settings = yaml.compose(text, _Loader), yaml.load(text, _Loader)
    except FileNotFoundError as error:
        raise SettingsError(
            f"There is no settings file {str(path)!r}. Recipes keep theirs in recipes/*/config.yaml."
        ) from error
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"{path} is not UTF-8: byte 0x{error.object[error.start]:02x} at offset {error.start}. Convert it."
        ) from error
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is not valid YAML: {error}") from error
    if settings is not None and not isinstance(settings, dict):
        raise SettingsError(f"{path} must hold `key: value` lines, got a {type(settings).__name__}.")
    _refuse_twice(root, path)
    for key, node in [] if root is None else root.value:
        if key.value in words and key.value in settings:
            settings[key.value] = _keep_words(settings[key.value], node)
    return settings or {}


def _refuse_twice(node: yaml.Node | None, path: Path) -> None:
    """Raise for a key that stands twice beside the same others, of which YAML's reader takes the last."""
    seen = set()
    for pair in node.value if isinstance(node, yaml.MappingNode) else []:
        name = str(pair[0].value)
        if name in seen:
            raise SettingsError(f"{path} sets {name!r} a second time in line {pair[0].start_mark.line + 1}. Leave one out.")
        seen.add(name)
        _refuse_twice(pair[1], path)


def _keep_words(value: Any, node: yaml.Node) -> Any:
    if isinstance(value, list):
        return [_keep_words(*pair) for pair in zip(value, node.value, strict=True)]
    return node.value if isinstance(value, bool) else value


def _parse_value(key: str, words: list[str]) -> Any:
    """A value of the command line that is a name, a number or has parts."""
    try:
        return yaml.load(" ".join(words), _Loader)
    except yaml.YAMLError as error:
        raise SettingsError(f"--{key}: {' '.join(words)!r} is not valid YAML: {error}") from error


def _require_known(key: Any, fields: dict[str, Any], where: str) -> None:
    if key in fields:
        return
    nearest = difflib.get_close_matches(str(key), fields, n=1, cutoff=0.6)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else " See --help for all settings."
    raise SettingsError(f"There is no setting {key!r} (in {where}).{hint}")


def _split_overrides(words: list[str]) -> list[tuple[str, list[str]]]:
    pairs: list[tuple[str, list[str]]] = []
    for word in words:
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            pairs.append((key, [value] if equals else []))
        elif pairs:
            pairs[-1][1].append(word)
        else:
            raise SettingsError(f"Unexpected {word!r}: after the settings file come `--key value` pairs.")
    return [(key, value or ["true"]) for key, value in pairs]


def _set_inner(settings: Any, keys: list[str], value: Any, name: str) -> dict[str, Any]:
    """Settings with a part of a part, however deep, set to a value."""
    if settings is not None and not isinstance(settings, dict):
        raise SettingsError(f"{name} is {settings!r}, which has no part {keys[0]!r}. Give it named parts, or set it whole.")
    settings = settings or {}
    if len(keys) > 1:
        value = _set_inner(settings.get(keys[0]), keys[1:], value, f"{name}.{keys[0]}")
    return {**settings, keys[0]: value}


def _is_dict(field: dataclasses.Field) -> bool:
    """Whether a setting has named parts; Transformers' own, which also take a string of JSON, are given as that."""
    return "dict" in str(field.type) and "str" not in str(field.type)


def _to_words(name: str, value: Any) -> list[str]:
    """A setting as words of a command line; none where it is left out."""
    if value is None or value == []:
        return []
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}={json.dumps(value) if isinstance(value, dict) else value}"]


__all__ = ["NameOrFields", "SettingsError", "parse_settings"]

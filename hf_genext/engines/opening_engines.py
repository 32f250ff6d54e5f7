"""Exports: what they say of themselves, how they are found beside a model, and whether they are still its own.

An export is a subfolder of a model's folder or repository, `onnx`, `ctranslate2`, or one of these with `-int8`. Its
`export.json` says what is in it, and of which weights it was made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import cached_file, logging

from .ctranslate2_engines import open_ctranslate2_model
from .models_engines import EngineModel, require_package
from .onnx_engines import OnnxModel
from .onnx_forward_engines import OnnxForwardModel
from .onnx_sessions_engines import DECODER

logger = logging.get_logger(__name__)

EXPORT_NAME = "export.json"
FORMAT_VERSION = 1
ENGINES = ("onnx", "ctranslate2")
"""The engines, in the order in which `"auto"` asks for them."""

QUANTIZATIONS = (None, "int8")


def open_onnx_model(model: PreTrainedModel, folder: Path) -> EngineModel:
    """A native model by its own steps, any other under the loops of Transformers."""
    return (OnnxModel if (folder / DECODER).is_file() else OnnxForwardModel)(model, folder)


OPENERS: dict[str, Callable[[PreTrainedModel, Path], EngineModel]] = {
    "onnx": open_onnx_model,
    "ctranslate2": open_ctranslate2_model,
}
"""What opens the folder of an export."""

_PASSING_FIELDS = (
    *("transformers_version", "architectures", "auto_map", "custom_pipelines", "_name_or_path", "name_or_path"),
    *("_commit_hash", "dtype", "torch_dtype", "_attn_implementation", "attn_implementation"),
    *("dropout", "attention_dropout", "token_dropout", "condition_dropout", "context_dropout"),
)
"""Fields of a configuration that say who saved it, where, and in which precision, and those of training alone."""

_PACKAGES = {"onnx": "onnxruntime", "ctranslate2": "ctranslate2"}


class UnfitExportError(ValueError):
    """An export that cannot be used with a model: of other weights, on another device, or of a format that is not known."""


def name_export(engine: str, quantization: str | None) -> str:
    """The name of an export's subfolder.

    Example:
        >>> from hf_genext.engines.opening_engines import name_export
        >>> name_export("onnx", "int8")
        'onnx-int8'
    """
    return engine if quantization is None else f"{engine}-{quantization}"


def check_engine(engine: str, quantization: str | None, *, choices: tuple[str, ...] = ENGINES) -> None:
    """Raise unless engine and quantisation are known.

    Raises:
        ValueError: naming what there is.
    """
    if engine not in choices:
        raise ValueError(f"engine must be one of {', '.join(map(repr, choices))}, got {engine!r}.")
    if quantization not in QUANTIZATIONS:
        raise ValueError(f'quantization must be None or "int8", got {quantization!r}.')
    if engine == "torch" and quantization is not None:
        raise ValueError(f'quantization={quantization!r} is of exported models; take engine="onnx" or "ctranslate2".')


def compute_fingerprint(model: PreTrainedModel) -> str:
    """A digest of what an export is made of: the configuration, and of all weights names, shapes, kinds and every number."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps(_describe_config(model), sort_keys=True, default=str).encode())
    for name, weight in sorted(model.state_dict().items()):
        tensor = weight.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _describe_config(model: PreTrainedModel) -> dict[str, Any]:
    """What the numbers depend on besides the weights; not what only says who saved them, where, and in which precision."""
    config = model.generation_config
    starts = ("decoder_start_token_id", "suppress_tokens", "begin_suppress_tokens")
    return {
        "config": _drop_passing(model.config.to_dict()),
        "generation": {name: getattr(config, name, None) for name in starts},
    }


def _drop_passing(described: Any) -> Any:
    if not isinstance(described, dict):
        return described
    return {name: _drop_passing(value) for name, value in described.items() if name not in _PASSING_FIELDS}


def write_command(model: PreTrainedModel, engine: str, quantization: str | None) -> str:
    """The command that writes a model's export."""
    option = "" if quantization is None else f" --quantization {quantization}"
    return f"python -m hf_genext.export {model.name_or_path or 'MODEL'} --engine {engine}{option}"


def open_engine(
    model: PreTrainedModel,
    engine: str = "auto",
    quantization: str | None = None,
    access: Mapping[str, Any] = MappingProxyType({}),
) -> PreTrainedModel | EngineModel:
    """The model by the engine that is asked for.

    Args:
        model: The PyTorch model, opened from the folder or repository that holds the export.
        engine: `"onnx"`, `"ctranslate2"`, `"torch"`; `"auto"` takes what is there and fits, in this order.
        quantization: `None` or `"int8"`, as the export was made.
        access: What opens the repository's files, such as the `token` of whoever may read it.

    Returns:
        The model itself for PyTorch, else what behaves like it.

    Raises:
        ValueError: for an engine or quantisation that is not known; but for `"auto"`, for an export that is not there, or is
            not of these weights.
        ImportError: where the engine's package is missing; not for `"auto"`.
    """
    check_engine(engine, quantization, choices=("auto", "torch", *ENGINES))
    if engine == "torch":
        return model
    if engine != "auto":
        return _open(model, engine, quantization, access)
    if quantization is None and model.dtype != torch.float32:
        return model  # Engines compute in float32, whose answers are not those of half of it.
    for candidate in ENGINES:
        try:
            if _find_facts(model, name_export(candidate, quantization), access) is None:
                continue
            opened = _open(model, candidate, quantization, access)
            # Who names no engine expects the answers that PyTorch gives.
            opened.only_exact = True
            return opened
        except (UnfitExportError, ImportError) as error:
            logger.warning_once(f"PyTorch runs this model, and no export for {candidate}. {error}")
    if quantization is not None:
        commands = " or ".join(write_command(model, candidate, quantization) for candidate in ENGINES)
        raise ValueError(f"There is no {quantization} export of this model that can be used. Write one: {commands}.")
    return model


def _open(model: PreTrainedModel, engine: str, quantization: str | None, access: Mapping[str, Any]) -> EngineModel:
    name = name_export(engine, quantization)
    command = write_command(model, engine, quantization)
    found = _find_facts(model, name, access)
    if found is None:
        where = model.name_or_path or "the model, which is in no folder"
        raise ValueError(f"There is no {name!r} export in {where!r}. Write it: {command}")
    path, facts = found
    version = facts.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise UnfitExportError(
            f"The export {str(path.parent)!r} has the format {version!r}, and this version knows those up to {FORMAT_VERSION}. "
            f"Install a newer hf_genext, or write it again: {command}"
        )
    require_package(_PACKAGES[engine])
    if model.device.type != "cpu":
        raise UnfitExportError(f'Exported models run on the CPU, and this one is on {str(model.device)!r}; pass device="cpu".')
    dtype = str(model.dtype).removeprefix("torch.")
    if facts.get("dtype") != dtype:
        raise UnfitExportError(
            f"The export {str(path.parent)!r} is of weights in {facts.get('dtype')}, and the model is opened in {dtype}. "
            f"Open it with dtype={facts.get('dtype')!r}, or write the export again: {command}"
        )
    if facts.get("fingerprint") != compute_fingerprint(model):
        raise UnfitExportError(
            f"The export {str(path.parent)!r} is of other weights or another configuration than the model has, which were "
            f"changed since. Write it again: {command}"
        )
    lacking = [file for file in facts["files"] if _find_file(model, f"{name}/{file}", access) is None]
    if lacking:
        raise UnfitExportError(f"The export {str(path.parent)!r} lacks its file {lacking[0]!r}. Write it again: {command}")
    try:
        return OPENERS[engine](model, path.parent)
    except Exception as error:  # Each engine has errors of its own.
        what = f"{_PACKAGES[engine]} cannot open {str(path.parent)!r}: {str(error).rstrip('.')}"
        raise UnfitExportError(f"{what}. Write it again: {command}") from error


def _find_facts(model: PreTrainedModel, name: str, access: Mapping[str, Any]) -> tuple[Path, Mapping[str, Any]] | None:
    """The `export.json` of a model's export, and what it says."""
    path = _find_file(model, f"{name}/{EXPORT_NAME}", access) if model.name_or_path else None
    if path is None:
        return None
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnfitExportError(f"{str(path)!r} is no JSON ({error}); write the export again.") from error
    files = facts.get("files") if isinstance(facts, dict) else None
    if not isinstance(files, list) or not all(isinstance(file, str) and Path(file).name == file for file in files):
        raise UnfitExportError(f"{str(path)!r} does not say what an export says; write the export again.")
    return path, facts


def _find_file(model: PreTrainedModel, name: str, access: Mapping[str, Any]) -> Path | None:
    """A file beside the model's, wherever that was opened from."""
    try:
        found = cached_file(
            model.name_or_path,
            name,
            revision=getattr(model.config, "_commit_hash", None),
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
            **access,
        )
    except OSError as error:  # A folder that is gone, or a repository that only a token which is not known here may read.
        raise UnfitExportError(f"Whether {model.name_or_path!r} holds {name!r} cannot be seen: {error}") from error
    return None if found is None else Path(found)


__all__ = [
    "ENGINES",
    "EXPORT_NAME",
    "FORMAT_VERSION",
    "OPENERS",
    "QUANTIZATIONS",
    "UnfitExportError",
    "check_engine",
    "compute_fingerprint",
    "name_export",
    "open_engine",
    "write_command",
]

"""What a pipeline finds beside a model in its folder or repository, and leaves there."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from transformers import AutoProcessor, PreTrainedModel
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils import cached_file

logger = logging.getLogger(__name__)

ALLOWED_OUTPUTS_NAME = "allowed_outputs.json"
"""The file of a model's folder that holds the outputs that it may give."""


def needs_processor(model: PreTrainedModel, has_parts: bool) -> bool:
    """Whether a model cannot do without its processor: one of this package, and any that has one but no tokenizer."""
    return hasattr(model.config, "conditioner") or (not has_parts and type(model.config) in PROCESSOR_MAPPING)


def reopen_processor(model: PreTrainedModel) -> Any:
    """The processor of a folder, once more, so that its error is seen.

    Of a repository it is an error by itself: its revision, the token of whoever may read it, and whether its code is trusted
    are not known here.

    Raises:
        ValueError: for a repository, or a folder whose code would have to be trusted.
    """
    name = model.name_or_path
    if (os.path.isdir(name) or not name) and type(model.config) in PROCESSOR_MAPPING:
        return AutoProcessor.from_pretrained(name)
    raise ValueError(
        f"Transformers did not open the processor of {name!r}, and does not say why; AutoProcessor.from_pretrained({name!r}), "
        "with the revision=, token= and trust_remote_code= that the pipeline has, does. Once it opens, pass it as processor=."
    )


def find_allowed_outputs(model: PreTrainedModel, processor: Any) -> list[str] | None:
    """The outputs that the folder of a model, or its repository, says that it may give.

    Args:
        model: What was opened.
        processor: Its processor, if it has one.

    Raises:
        ValueError: for a file that holds something else.
    """
    name = model.name_or_path
    if not model.can_generate() or not name:
        return None
    # A processor of ours found it at the revision that was asked for, with the token that was given. Nobody tells where another
    # processor came from: of a repository it is the main branch.
    is_found = hasattr(processor, "outputs_file") and not os.path.isdir(name)
    path = processor.outputs_file if is_found else _find_file(name)
    if path is None:
        return None
    with open(path, encoding="utf-8") as file:
        outputs = json.load(file)
    if not isinstance(outputs, list) or not all(isinstance(output, str) for output in outputs):
        raise ValueError(f"{path!r} must be a list of texts; it is what the model of this folder may give.")
    return outputs


def _find_file(name: str) -> str | None:
    try:
        return cached_file(name, ALLOWED_OUTPUTS_NAME, _raise_exceptions_for_missing_entries=False)
    except OSError as error:
        logger.warning(
            "Whether %s limits its outputs is not known, as %s cannot be read: %s", name, ALLOWED_OUTPUTS_NAME, error
        )
        return None


def write_allowed_outputs(folder: str | os.PathLike[str], outputs: list[str] | None) -> None:
    """Write what [`find_allowed_outputs`] finds; without a limit what an earlier pipeline left there is taken away."""
    if outputs is None:
        Path(folder, ALLOWED_OUTPUTS_NAME).unlink(missing_ok=True)
        return
    with open(os.path.join(folder, ALLOWED_OUTPUTS_NAME), "w", encoding="utf-8") as file:
        json.dump(outputs, file, ensure_ascii=False, indent=0)


__all__ = ["ALLOWED_OUTPUTS_NAME", "find_allowed_outputs", "needs_processor", "reopen_processor", "write_allowed_outputs"]

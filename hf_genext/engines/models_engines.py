"""What every model of another engine is: the PyTorch model, whose generation runs elsewhere where that can be done."""

from __future__ import annotations

import importlib
import operator
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from ..fast_decoding import find_obstacle, generate_fast_if_possible

logger = logging.get_logger(__name__)

_EXTRAS = {"onnxruntime": "onnx", "onnx": "onnx", "onnxscript": "onnx", "ctranslate2": "ctranslate2"}


def require_package(name: str) -> Any:
    """Import a package of an engine.

    Args:
        name: `"onnxruntime"`, `"onnx"`, `"onnxscript"` or `"ctranslate2"`.

    Raises:
        ImportError: naming the extra that brings it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"This needs {name}, which cannot be imported here ({error}). Install it: "
            f'pip install "hf_genext[{_EXTRAS[name.split(".")[0]]}]".'
        ) from error


_get_version = operator.attrgetter("_version")


class EngineModel:
    """A model that generates by another engine, and by PyTorch what that engine cannot do.

    It has every attribute of the PyTorch model, and is called like it. Scores of given outputs, single forward passes and all
    else but generation are PyTorch's.

    Args:
        model: The PyTorch model that was exported.

    Attributes:
        torch_model: That model.
        only_exact: Whether the engine leaves to PyTorch what it would answer otherwise than PyTorch.
        obstacle: Why the last call that the engine could not run was PyTorch's, the end of a sentence with "because".
    """

    engine: str
    title: str
    """The engine's own name, for messages."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.torch_model = model
        self.only_exact = False
        self.obstacle: str | None = None
        # A copy that was made in inference mode has no versions, and cannot be trained either.
        self._weights = [weight for weight in model.parameters() if not weight.is_inference()]
        self._opened = self._count_changes()

    def __getattr__(self, name: str) -> Any:
        if name == "torch_model":  # Not there yet while an object is copied.
            raise AttributeError(name)
        return getattr(self.torch_model, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """A forward pass of the PyTorch model."""
        return self.torch_model(*args, **kwargs)

    def _count_changes(self) -> tuple[int, bool]:
        """How often weights were written to, and whether there is an adapter."""
        return sum(map(_get_version, self._weights)), getattr(self.torch_model, "_hf_peft_config_loaded", False)

    def find_change(self) -> str | None:
        """That the export is no longer of the model's weights, the end of a sentence with "because"."""
        return None if self._count_changes() == self._opened else "the model's weights were changed since the export was opened"

    @torch.no_grad()
    def generate(self, **arguments: Any) -> Any:
        """What the PyTorch model's `generate` gives for the same arguments, by the engine where it can do that."""
        return self._fall_back(find_obstacle(self, **arguments), arguments)

    def note_obstacle(self, reason: str | None) -> None:
        """Keep why PyTorch runs a call or a part of it, and say so once."""
        self.obstacle = reason
        logger.warning_once(f"{self.title} cannot run such a call, because {reason}; PyTorch runs it.")

    def _fall_back(self, reason: str | None, arguments: dict[str, Any]) -> Any:
        """Let PyTorch generate, and say so once."""
        self.note_obstacle(reason)
        return generate_fast_if_possible(self.torch_model, **arguments)


__all__ = ["EngineModel", "require_package"]

"""What a model's encoder is given, made up: by its shapes an exporter sees what may be of any size."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers.utils import logging

from .pipelines import ConditionalGenerationPipeline

logger = logging.get_logger(__name__)

_SECONDS = (0.5, 1.0)


def build_examples(pipe: ConditionalGenerationPipeline) -> list[dict[str, torch.Tensor]] | None:
    """The inputs of two conditions, a batch of one each, as different in size as the model allows.

    Args:
        pipe: A pipeline with the model.

    Returns:
        Tensors as `generate` takes them; `None` where the model takes no condition, or what is made up cannot be read.
    """
    made = [_make_condition(pipe, index) for index in range(2)]
    if not all(made):
        return None
    try:
        examples = [pipe.preprocess(condition) for condition in made]
    except (ValueError, TypeError, OSError) as error:
        logger.warning("The encoder stays in PyTorch, because no condition for it could be made up: %s", error)
        return None
    return [{name: value for name, value in example.items() if torch.is_tensor(value)} for example in examples]


def _make_condition(pipe: ConditionalGenerationPipeline, index: int) -> dict[str, Any]:
    """A short condition or a long one, with everything that the model reads."""
    condition: dict[str, Any] = {}
    for name in pipe.reader.list_conditions():
        if name == "text":
            condition["text"] = "a" if index == 0 else "a a a"
        elif name == "image":
            condition["image"] = np.full((32, 32, 3), 128, dtype=np.uint8)
        elif name == "audio":
            rate = getattr(pipe.feature_extractor, "sampling_rate", 16_000)
            waves = np.random.default_rng(0).normal(0.0, 0.1, int(rate * _SECONDS[index]))
            condition["audio"] = {"array": waves.astype(np.float32), "sampling_rate": rate}
        elif name == "vector":
            condition["vector"] = np.ones(pipe.processor.vector_size, dtype=np.float32)
        elif name == "label":
            condition["label"] = {field: names[0] for field, names in pipe.processor.label_names.items()}
    return condition


__all__ = ["build_examples"]

"""What a model's encoder is given, made up: by its shapes an exporter sees what may be of any size."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .pipelines import ConditionalGenerationPipeline

_SECONDS = (0.5, 1.0)
_WORDS = 500
"""How many of a tokenizer's tokens are tried."""


def build_examples(pipe: ConditionalGenerationPipeline) -> list[dict[str, torch.Tensor]]:
    """The inputs of two conditions, a batch of one each, as different in size as the model allows.

    Args:
        pipe: A pipeline with the model.

    Returns:
        Tensors as `generate` takes them.

    Raises:
        ValueError: if the model takes no condition, or none can be made up that it reads.
    """
    try:
        made = [_make_condition(pipe, index) for index in range(2)]
        examples = [pipe.preprocess(condition) for condition in made if condition]
    except Exception as error:  # Processors have errors of their own.
        raise ValueError(f"No condition could be made up for this model ({type(error).__name__}: {error}).") from error
    if not examples:
        raise ValueError("This model takes no condition.")
    return [{name: value for name, value in example.items() if torch.is_tensor(value)} for example in examples]


def _make_condition(pipe: ConditionalGenerationPipeline, index: int) -> dict[str, Any]:
    """A short condition or a long one, with everything that the model reads."""
    condition: dict[str, Any] = {}
    for name in pipe.reader.list_conditions():
        if name == "text":
            condition["text"] = " ".join([_find_word(pipe.tokenizer)] * (2 if index == 0 else 5))
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


def _find_word(tokenizer: Any) -> str:
    """A text of which more is written as more tokens.

    Raises:
        ValueError: if there is none among the first tokens.
    """
    special = set(tokenizer.all_special_ids)
    for token in range(min(len(tokenizer), _WORDS)):
        word = "" if token in special else tokenizer.decode([token]).strip()
        if word and len(tokenizer(f"{word} {word}")["input_ids"]) < len(tokenizer(" ".join([word] * 5))["input_ids"]):
            return word
    raise ValueError("its tokenizer writes no text as more tokens than another")


__all__ = ["build_examples"]

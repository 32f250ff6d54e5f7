"""What settings of generation come to, worked out once for calls that ask alike.

Transformers copies whole configurations several times a call, which takes longer than a small model's encoder.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from transformers import GenerationConfig, PreTrainedModel

_Answer = TypeVar("_Answer")
_PLAIN = (type(None), bool, int, float, str)


class LastAnswer(Generic[_Answer]):
    """The last answer that was worked out from settings, given again as long as they are the same.

    Example:
        >>> from hf_genext.call_settings import LastAnswer
        >>> last, asked = LastAnswer(), []
        >>> [last.get({"num_beams": beams}, (), lambda: asked.append(beams)) for beams in (4, 4, 1)]
        [None, None, None]
        >>> asked
        [4, 1]
    """

    def __init__(self) -> None:
        self._kept: tuple[Any, _Answer] | None = None

    def get(self, settings: Mapping[str, Any], configs: tuple[GenerationConfig, ...], find: Callable[[], _Answer]) -> _Answer:
        """The answer, which must not be changed.

        Args:
            settings: By name; those that are configurations of generation count by what they hold.
            configs: More of what it follows from.
            find: Works it out.
        """
        others = {name: value for name, value in settings.items() if not isinstance(value, GenerationConfig)}
        given = [vars(value) for value in settings.values() if isinstance(value, GenerationConfig)]
        # `repr` tells True from 1, and what is plain from all else.
        asked = (list(settings), repr(others), given, [vars(config) for config in configs])
        kept = self._kept
        if kept is not None and _is_same(kept[0], asked):
            return kept[1]
        answer = find()
        # Of tensors and objects nobody can tell whether they were written to.
        is_plain = all(map(_is_plain, (others, *given, *asked[3])))
        self._kept = (copy.deepcopy(asked), answer) if is_plain else None
        return answer


def resolve_generation(model: PreTrainedModel, arguments: Mapping[str, Any]) -> tuple[GenerationConfig, dict[str, Any]]:
    """The configuration that `generate` will use, and what of a call belongs to none; neither must be changed.

    Args:
        model: Any model that generates.
        arguments: What `generate` takes beside the conditions.
    """
    others = {name: value for name, value in arguments.items() if name not in ("generation_config", "logits_processor")}
    config = arguments.get("generation_config")
    last = _resolved.get(model)
    if last is None:
        last = _resolved[model] = LastAnswer()
    return last.get(
        {**others, "generation_config": config},
        (model.generation_config,),
        lambda: model._prepare_generation_config(config, **others),
    )


_resolved: WeakKeyDictionary[PreTrainedModel, LastAnswer[tuple[GenerationConfig, dict[str, Any]]]] = WeakKeyDictionary()


def _is_same(kept: Any, asked: Any) -> bool:
    try:
        return bool(kept == asked)
    except (RuntimeError, ValueError):  # There is a tensor or an array now.
        return False


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return type(value) in _PLAIN


__all__ = ["LastAnswer", "resolve_generation"]

"""A pipeline that answers many inputs in batches of like length, by itself where that changes no answer.

Legend: batch (inputs that run at once).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from transformers import Pipeline

from .call_settings import LastAnswer
from .consensus import Consensus
from .fast_decoding import find_obstacle, get_setting
from .length_batches import (
    MAX_ROWS_PER_BATCH,
    MAX_ROWS_READ_AHEAD,
    MAX_TOKENS_PER_BATCH,
    LengthSorted,
    RowPadding,
    RowsAhead,
    count_outputs,
    run_each,
    take_entry,
)
from .pipeline_inputs import Row, check_count, iterate_inputs
from .pipeline_latents import has_latents

AUTOMATIC = 0
"""The batch size of many inputs for which nobody chose one, and that give the same in batches of like length."""


class LengthSortedPipeline(Pipeline):
    """What a pipeline with a model that generates does with many inputs.

    Attributes:
        _own_arguments: Those of its model step that `generate` does not know.
        engine_model: What generates: the model, or what stands for it in another engine.
    """

    _own_arguments: ClassVar[tuple[str, ...]] = ()
    engine_model: Any

    def preprocess_many(self, inputs: Sequence[Any], **parameters: Any) -> Iterable[dict[str, Any]]:
        """What `preprocess` gives for each of some inputs, in their order."""
        return (self.preprocess(given, **parameters) for given in inputs)

    def postprocess_many(self, outputs: Mapping[str, Any], count: int, **parameters: Any) -> list[Any]:
        """What `postprocess` gives for each of the entries of what a batch gave."""
        return [self.postprocess(take_entry(outputs, place), **parameters) for place in range(count)]

    def answer_each(self, inputs: Sequence[Any], *, batch_size: int | None = None, **kwargs: Any) -> list[Any]:
        """What a call gives for a list, with the error of each input that fails in the place of its answer.

        Args:
            inputs: Conditions, or [`Row`]s that have their seeds with them.
            batch_size: The most inputs that run at once; chosen as a call chooses it if left out.
            kwargs: As a call takes them, but for `seed`.
        """
        preprocess, forward, postprocess = (
            {**defaults, **given}
            for defaults, given in zip(
                (self._preprocess_params, self._forward_params, self._postprocess_params),
                self._sanitize_parameters(**kwargs),
                strict=True,
            )
        )
        is_seeded = all(isinstance(given, Row) and given.seed is not None for given in inputs)
        size = self._choose_batch_size(is_seeded=is_seeded, batch_size=batch_size, **kwargs)
        limits = {"max_rows": 1 if size is None else size}
        if size == AUTOMATIC:
            limits = self._limit_batches(forward)
        answers: list[Any]
        try:
            answers = list(self.preprocess_many(inputs, **preprocess))
        except Exception:  # One of them, and each has its own answer.
            answers = [self._try(self.preprocess, given, preprocess) for given in inputs]
        read = [place for place, answer in enumerate(answers) if not isinstance(answer, Exception)]
        run = functools.partial(self.forward, **forward)
        outputs = run_each([answers[place] for place in read], run, RowPadding(self.model), **limits)
        for place, output in zip(read, outputs, strict=True):
            is_error = isinstance(output, Exception)
            answers[place] = output if is_error else self._try(self.postprocess, output, postprocess)
        return answers

    @staticmethod
    def _try(step: Callable[..., Any], given: Any, parameters: dict[str, Any]) -> Any:
        try:
            return step(given, **parameters)
        except Exception as error:
            return error

    def _choose_batch_size(
        self, *, is_seeded: bool = False, batch_size: int | None = None, num_workers: int | None = None, **kwargs: Any
    ) -> int | None:
        """The batch size that was chosen, or the automatic one where it changes no answer."""
        if batch_size is None:
            batch_size = self._batch_size
        if batch_size is not None:
            check_count("batch_size", batch_size)
            return int(batch_size)
        if not self.model.can_generate():
            return None
        asked = {**self._forward_params, **self._sanitize_parameters(**kwargs)[1]}
        arguments = self._list_arguments(asked)
        # Guidance is not left to the loop.
        if find_obstacle(self.model, **{**arguments, "guidance_scale": 1.0}) is not None:
            return None
        is_seeded = is_seeded or self._find_consensus(asked) is not None
        return AUTOMATIC if is_seeded or not get_setting(self.model, arguments, "do_sample") else None

    @functools.cached_property
    def _last_arguments(self) -> LastAnswer[dict[str, Any]]:
        return LastAnswer()

    def _prepare_generate_kwargs(self, generate_kwargs: dict[str, Any], **overrides: Any) -> dict[str, Any]:
        """As Transformers', once for calls that ask alike."""
        find = functools.partial(super()._prepare_generate_kwargs, generate_kwargs, **overrides)
        others = {"overrides": overrides, "own": self._generate_kwargs, "defaults": self._generation_defaults}
        return {**self._last_arguments.get({**generate_kwargs, **others}, (self.model.generation_config,), find)}

    def _list_arguments(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Of what is asked of the model, what `generate` takes."""
        consensus = self._find_consensus(asked)
        arguments = self._prepare_generate_kwargs(
            {name: value for name, value in asked.items() if name not in self._own_arguments}
        )
        return arguments if consensus is None else consensus.draw(arguments)

    def _find_consensus(self, asked: Mapping[str, Any]) -> Consensus | None:
        """How outputs are chosen from many, if they are."""
        return Consensus.find(self.model, {**self._generate_kwargs, **asked})

    def chooses_from_draws(self, **kwargs: Any) -> bool:
        """Whether a call with such arguments draws outputs and gives those that are most like the others."""
        return self._find_consensus({**self._forward_params, **self._sanitize_parameters(**kwargs)[1]}) is not None

    def draws(self, *, batch_size: int | None = None, num_workers: int | None = None, **kwargs: Any) -> bool:
        """Whether chance decides what a call with such arguments gives."""
        asked = {**self._forward_params, **self._sanitize_parameters(**kwargs)[1]}
        return has_latents(self.model) or bool(get_setting(self.model, self._list_arguments(asked), "do_sample"))

    def get_iterator(
        self,
        inputs: Any,
        num_workers: int,
        batch_size: int,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> Any:
        """The answers of many inputs: one after the other, so many at once in their order, or by batches of like length."""
        parameters = (preprocess_params, forward_params, postprocess_params)
        # Rows of several conditions may be unlike, so that no batch of them can be made but by those that are alike.
        answers: Any = super().get_iterator(inputs, num_workers, 1, *parameters)
        if batch_size == 1:
            return answers
        is_eager, window = isinstance(inputs, list), batch_size or None
        rows = answers.loader.loader
        if not num_workers:
            read = functools.partial(self.preprocess_many, **preprocess_params)
            rows = RowsAhead(inputs, iterate_inputs, read, window or (MAX_ROWS_READ_AHEAD if is_eager else 1), window)
        forward = functools.partial(self.forward, **forward_params)
        finish = functools.partial(self.postprocess_many, **postprocess_params)
        limits: dict[str, Any] = self._limit_batches(forward_params) if window is None else {"window": window}
        answers.loader = LengthSorted(rows, forward, RowPadding(self.model), finish, is_eager=is_eager, **limits)
        answers.infer, answers.params = _keep, {}
        return answers

    def _limit_batches(self, forward_params: dict[str, Any]) -> dict[str, int]:
        outputs = count_outputs(self.model, self._list_arguments(forward_params))
        return {"max_rows": max(1, MAX_ROWS_PER_BATCH // outputs), "max_tokens": MAX_TOKENS_PER_BATCH // outputs}


def _keep(answer: Any) -> Any:
    return answer


__all__ = ["AUTOMATIC", "LengthSortedPipeline"]

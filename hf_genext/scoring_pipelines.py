"""A pipeline that says how likely its model finds given outputs.

Legend: batch, target (output positions).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .pipeline_inputs import READING_ARGUMENTS, Row, check_seeds, is_many, iterate_inputs, list_columns, pair_with_seeds
from .pipeline_latents import has_latents, score_latents
from .pipeline_outputs import TargetWriter, cut_scores, read_single
from .position_limits import find_target_limit
from .scoring import encode, score_tokens, take_rows
from .sorted_pipelines import LengthSortedPipeline


class ScoringPipeline(LengthSortedPipeline):
    """What a pipeline does with outputs that are given.

    Attributes:
        _predicts: The kind of its model's single output; `None` of a model that generates.
        _writer: Writes texts as the model does.
    """

    _predicts: str | None
    _writer: TargetWriter

    def score(
        self,
        inputs: Any,
        targets: Any,
        *,
        batch_size: int | None = None,
        truncation: bool | str = False,
        num_importance_samples: int = 64,
        seed: int | Sequence[int] = 0,
        **kwargs: Any,
    ) -> Any:
        """How likely the model finds given outputs.

        Args:
            inputs: One condition, or many.
            targets: For each its output as text, or a list of several. Of a model with a single output, its class, its labels,
                or its number or numbers.
            batch_size: How many inputs run at once.
            truncation: As a call takes it.
            num_importance_samples: Of a model with latent numbers, how many draws of them the bound is made of that stands in
                the place of the log-probability (Burda et al. 2016); the more, the nearer it comes from below. Scores of
                other models are exact, and need none.
            seed: Of those draws, a number, or one for each input, as a call takes it: one number for many inputs means the pair
                of it and the input's place, so that the errors of their bounds average out. A row has the same score in any
                batch; alone it has that of its own number, or of the first place. Targets of one input share their draws.
            kwargs: `prefix`, `src_lang`, `tgt_lang`, as a call takes them.

        Returns:
            For each output `{"score", "token_scores"}`, as a call with `return_scores` gives them; a list of those where
            several were given, and a list of all of it where a list of inputs was given. A single output has `score` alone, and
            of a model with latent numbers each has `score` and `num_importance_samples`. Where the condition was cut,
            `truncated` is true.

        Raises:
            ValueError: if there are not as many targets or seeds as inputs; for a target that cannot be written, or is longer
                than the decoder has positions.

        Example:
            >>> pipe.score(["cat"], ["K AE T"])  # doctest: +SKIP
            [{'score': -0.21, 'token_scores': [-0.05, -0.1, -0.04, -0.02]}]
        """
        inputs, targets = (
            list(iterate_inputs(many)) if is_many(many) else many for many in map(list_columns, (inputs, targets))
        )
        if not isinstance(inputs, list):
            how: dict[str, Any] = {"batch_size": batch_size, "truncation": truncation, "seed": seed, **kwargs}
            return self.score([inputs], [targets], num_importance_samples=num_importance_samples, **how)[0]
        if getattr(targets, "ndim", 0) and hasattr(targets, "tolist"):
            targets = targets.tolist()
        if not isinstance(targets, list) or len(targets) != len(inputs):
            told = f"{len(targets):,}" if isinstance(targets, list) else f"the single one {targets!r:.40}"
            raise ValueError(f"Give a target for each of the {len(inputs):,} inputs; got {told}.")
        unknown = [name for name in kwargs if name not in READING_ARGUMENTS]
        if unknown:
            raise TypeError(f"score takes no {unknown[0]!r}; it takes batch_size, {', '.join(READING_ARGUMENTS)}.")
        has_several = [self._predicts is None and isinstance(target, (list, tuple)) for target in targets]
        lists = [list(target) if several else [target] for target, several in zip(targets, has_several, strict=True)]
        rows = [
            Row(seeded.condition, seeded.seed, part)
            for seeded, several in zip(pair_with_seeds(iter(inputs), check_seeds(seed, inputs)), lists, strict=True)
            # Latent numbers are read from the target, so that each is a row of its own.
            for part in ([[one] for one in several] if has_latents(self.model) else [several])
        ]
        own = {"num_importance_samples": num_importance_samples} if has_latents(self.model) else {}
        size = self._choose_batch_size(is_seeded=True, batch_size=batch_size)
        answers = super().__call__(rows, batch_size=size, truncation=truncation, **kwargs, **own) if rows else []
        found = iter([score for answer in answers for score in answer])
        scores = [[next(found) for _ in several] for several in lists]
        return [each if several else each[0] for each, several in zip(scores, has_several, strict=True)]

    def _score_targets(
        self,
        inputs: dict[str, Any],
        rows: list[Row],
        num_importance_samples: int = 1,
        tgt_lang: str | None = None,
        **arguments: Any,
    ) -> list[tuple[dict[str, Any], ...]]:
        """For each row of a batch the scores of its targets."""
        targets = [row.targets or [] for row in rows]
        if has_latents(self.model):
            if self._predicts is not None:
                labels = torch.stack([read_single(self.model.config.head, target) for (target,) in targets])
            else:
                ids = [torch.tensor(self._write(text)) for (text,) in targets]
                labels = nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=-100)
            seeds = [row.seed for row in rows if row.seed is not None]
            scored = score_latents(self.model, inputs, labels.to(self.device), seeds, num_importance_samples)
            return [(answer,) for answer in scored]
        if self._predicts is not None:
            labels = torch.stack([read_single(self.model.config.head, target) for (target,) in targets]).to(self.device)
            return [({"score": score},) for score in self.model.log_prob(labels, **inputs).tolist()]
        written = [[self._write(text, tgt_lang) for text in row] for row in targets]
        counts = torch.tensor([len(row) for row in written], device=self.device)
        prompt = self._writer.prompt
        unscored = [-100] * (len(prompt) - 1)
        flat = [torch.tensor([*unscored, *ids]) for row in written for ids in row]
        if not flat:
            return [()] * len(written)
        labels = nn.utils.rnn.pad_sequence(flat, batch_first=True, padding_value=-100).to(self.device)
        pad = self.model.generation_config.pad_token_id or 0
        decoder_input_ids = torch.cat([labels.new_zeros(len(labels), 1), labels[:, :-1]], dim=1)
        decoder_input_ids[:, : len(prompt)] = torch.tensor(prompt, device=self.device)
        decoder_input_ids = decoder_input_ids.masked_fill(decoder_input_ids == -100, pad)
        places = torch.repeat_interleave(torch.arange(len(written), device=self.device), counts)
        encoded = encode(self.model, inputs)
        self._require_room(decoder_input_ids.shape[1], encoded)
        scores = score_tokens(self.model, take_rows(encoded, places), decoder_input_ids, labels)
        flat_scores = iter([{"score": sum(found), "token_scores": found} for found in cut_scores(scores, labels != -100)])
        return [tuple(next(flat_scores) for _ in row) for row in written]

    def _require_room(self, length: int, encoded: dict[str, Any]) -> None:
        """Raise where a memory that stands before the tokens leaves them too few positions."""
        limit = self._num_target_positions
        if limit is None or getattr(self.model.get_decoder(), "style", None) != "prefix":
            return
        slots = encoded["encoder_outputs"][0].shape[1]
        if slots + length > limit:
            raise ValueError(
                f"A target takes {length:,} positions, and the memory before it {slots:,}; the model's decoder has {limit:,}. "
                "Shorten the target or, where the memory is as long as it, the condition."
            )

    @functools.cached_property
    def _num_target_positions(self) -> int | None:
        return find_target_limit(self.model)

    def _write(self, text: str, tgt_lang: str | None = None) -> list[int]:
        """The ids of a target; an error where the model has no positions for as many."""
        ids, limit = self._writer.write(text, tgt_lang), self._num_target_positions
        length = len(self._writer.prompt) + len(ids) - 1
        if limit is not None and length > limit:
            raise ValueError(
                f"The target {text[:40]!r}... takes {length:,} positions; the model's decoder has {limit:,}. Shorten it."
            )
        return ids


__all__ = ["ScoringPipeline"]

"""Conditioners without a model of their own: raw vectors, labels, and nothing.

Legend: batch, count (vectors of a row), fields (labels of a row), size (numbers of a vector), length (states), hidden.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import torch
from torch import nn

from .configuration_conditioners_genext import (
    GenextLabelConditionerConfig,
    GenextNullConditionerConfig,
    GenextVectorConditionerConfig,
)
from .outputs_genext import ConditionerOutput
from .pretrained_genext import GenextPreTrainedModel


class GenextVectorConditioner(GenextPreTrainedModel):
    """Raw vectors: one state for each, by one projection where the widths differ; or several, by a projection for each."""

    config_class = GenextVectorConditionerConfig
    input_names = ("condition_vectors", "condition_vectors_mask")
    can_pad = True

    def __init__(self, config: GenextVectorConditionerConfig) -> None:
        super().__init__(config)
        same = config.hidden_size == config.vector_size and config.num_states == 1
        size = config.num_states * (config.hidden_size or config.vector_size)
        self.projection = nn.Identity() if same else nn.Linear(config.vector_size, size)
        self.post_init()

    def forward(
        self,
        condition_vectors: torch.Tensor | None = None,
        condition_vectors_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> ConditionerOutput:
        """Turn vectors into states.

        Args:
            condition_vectors: (batch, size) or (batch, count, size).
            condition_vectors_mask: 1 where a vector is real, (batch, count).
            kwargs: Ignored.

        Returns:
            States (batch, count * num_states, hidden), those of a vector one behind the other, and their mask where one was
            given.

        Raises:
            ValueError: for vectors that are missing, of another size, or of another number of axes.
        """
        if condition_vectors is None:
            raise ValueError("This model takes condition_vectors, (batch, size) or (batch, count, size); got none.")
        size = self.config.vector_size
        if condition_vectors.dim() not in (2, 3) or condition_vectors.shape[-1] != size:
            raise ValueError(
                f"This model takes vectors of {size} numbers, (batch, {size}) or (batch, count, {size}); got condition_vectors "
                f"of shape {tuple(condition_vectors.shape)}, whose vectors have {condition_vectors.shape[-1]} numbers."
            )
        vectors = condition_vectors[:, None] if condition_vectors.dim() == 2 else condition_vectors
        states = self.projection(vectors.to(self.dtype))
        if self.config.num_states == 1:
            return ConditionerOutput(states=states, mask=condition_vectors_mask)
        mask = condition_vectors_mask
        return ConditionerOutput(
            states=states.reshape(states.shape[0], -1, self.config.hidden_size),
            mask=None if mask is None else mask.repeat_interleave(self.config.num_states, dim=1),
        )

    @property
    def dtype(self) -> torch.dtype:
        """The kind of number of the states; where the vectors are the states, that of the configuration."""
        if isinstance(self.projection, nn.Linear):
            return self.projection.weight.dtype
        return self.config.dtype or torch.get_default_dtype()


class GenextLabelConditioner(GenextPreTrainedModel):
    """Labels: one embedding for each label of each field, and one for a field that is missing."""

    config_class = GenextLabelConditionerConfig
    input_names = ("condition_labels",)
    can_pad = False

    def __init__(self, config: GenextLabelConditionerConfig) -> None:
        super().__init__(config)
        rows = [count + 1 for count in config.label_counts]
        self.embeddings = nn.Embedding(sum(rows), config.hidden_size)
        # Row 0 of each field is the missing label, -1.
        self._first_rows = [1 + start for start in accumulate(rows, initial=0)][:-1]
        self.post_init()

    def forward(self, condition_labels: torch.LongTensor | None = None, **kwargs: Any) -> ConditionerOutput:
        """Look labels up.

        Args:
            condition_labels: (batch, fields), or (batch,) for one field; -1 where a label is missing.
            kwargs: Ignored.

        Returns:
            States (batch, fields, hidden), all of them real.

        Raises:
            ValueError: for labels that are missing altogether, of another number of fields, or out of range.
        """
        if condition_labels is None:
            raise ValueError("This model takes condition_labels, (batch, fields); got none.")
        counts = self.config.label_counts
        labels = condition_labels[:, None] if condition_labels.dim() == 1 else condition_labels
        if labels.dim() != 2 or labels.shape[1] != len(counts):
            raise ValueError(
                f"This model takes labels of {len(counts)} fields, (batch, {len(counts)}); got condition_labels of shape "
                f"{tuple(condition_labels.shape)}."
            )
        limits = torch.tensor(counts, device=labels.device)
        if not torch.compiler.is_compiling() and ((labels < -1) | (labels >= limits)).any():
            row, field = ((labels < -1) | (labels >= limits)).nonzero()[0].tolist()
            raise ValueError(
                f"condition_labels[{row}, {field}] is {int(labels[row, field])}; field {field} has the labels 0 to "
                f"{counts[field] - 1}, and -1 where it is missing."
            )
        return ConditionerOutput(states=self.embeddings(labels + torch.tensor(self._first_rows, device=labels.device)))


class GenextNullConditioner(GenextPreTrainedModel):
    """Nothing: one learned state for every row."""

    config_class = GenextNullConditionerConfig
    input_names = ("condition_mask",)
    can_pad = False

    def __init__(self, config: GenextNullConditionerConfig) -> None:
        super().__init__(config)
        self.null_states = nn.Embedding(1, config.hidden_size)
        self.post_init()

    def forward(self, condition_mask: torch.Tensor | None = None, **kwargs: Any) -> ConditionerOutput:
        """The learned state for each row.

        Args:
            condition_mask: (batch, any), asked only how many rows there are.
            kwargs: Ignored.

        Returns:
            States (batch, 1, hidden).

        Raises:
            ValueError: if the number of rows is not given.
        """
        if condition_mask is None:
            raise ValueError("This model takes no condition, so it must be told how many rows to make: give num_samples=.")
        return ConditionerOutput(states=self.null_states.weight[None].expand(condition_mask.shape[0], -1, -1))


__all__ = ["GenextLabelConditioner", "GenextNullConditioner", "GenextVectorConditioner"]

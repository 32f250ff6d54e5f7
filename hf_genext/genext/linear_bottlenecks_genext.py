"""The linear bottleneck: principal or independent components of the states.

Legend: batch, length (input positions), rows (states that are real), hidden.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import nn

from .configuration_bottlenecks_genext import GenextBottleneckConfig
from .linear_genext import Moments, find_components, find_rotation, keep_rows
from .outputs_genext import BottleneckOutput


class LinearBottleneck(nn.Module):
    """Hands on, of each state, its first principal components, or as many independent ones, each of variance 1.

    It is fitted by the model's `fit`, and not trained: its numbers are buffers, saved with the model.

    Args:
        config: With the number of components as `hidden_size`.
        states_size: Width of the states.
    """

    mean: torch.Tensor
    projection: torch.Tensor

    def __init__(self, config: GenextBottleneckConfig, states_size: int) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros(states_size))
        self.register_buffer("projection", torch.eye(config.hidden_size or states_size, states_size))
        self._seen: list[torch.Tensor] | None = None

    def forward(self, states: torch.Tensor, mask: torch.Tensor | None) -> BottleneckOutput:
        """(batch, length, states hidden), (batch, length) -> memory (batch, length, hidden), and the same mask.

        Raises:
            ValueError: if nothing was fitted yet.
        """
        if self._seen is not None:
            self._seen.append(states.flatten(0, 1) if mask is None else states[mask.bool()])
        elif not self.config.is_fitted:
            raise ValueError(
                "The linear bottleneck is not fitted yet: call model.fit(batches) with the training rows, before training."
            )
        memory = (states - self.mean.to(states.dtype)) @ self.projection.to(states.dtype).T
        return BottleneckOutput(memory=memory, memory_mask=mask)

    @contextlib.contextmanager
    def looking_on(self) -> Iterator[list[torch.Tensor]]:
        """Keep the real states that pass, each (rows, states hidden), whatever becomes of them."""
        self._seen = []
        try:
            yield self._seen
        finally:
            self._seen = None

    def fit(self, read: Callable[[], Iterable[torch.Tensor]]) -> None:
        """Find the components of states.

        Args:
            read: Gives all of them from the start, in parts (rows, states hidden).

        Raises:
            ValueError: for states that have no such components.
        """
        moments = Moments()
        for rows in read():
            moments.update(rows)
        if not moments.count:
            raise ValueError("A linear bottleneck is fitted to the states of rows, and there are none. Give rows.")
        directions, variances, _ = find_components(moments.covariance, len(self.projection), moments.count)
        projection = directions / variances.sqrt()[:, None]
        if self.config.linear_kind == "ica":
            white = ((rows.double().cpu() - moments.mean) @ projection.T for rows in read())
            projection = find_rotation(keep_rows(white, moments.count)) @ projection
        self.mean.copy_(moments.mean)
        self.projection.copy_(projection)
        self.config.is_fitted = True


__all__ = ["LinearBottleneck"]

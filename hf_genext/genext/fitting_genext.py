"""Fitting in closed form what has one: a linear bottleneck to the states, and a linear density to the targets.

Legend: batch, length (input positions), rows (states, or targets), hidden, outputs (numbers of a target).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Self

import torch

from .configuration_genext import GenextConfig
from .density_heads_genext import LinearHead
from .field_conditioners_genext import GenextNullConditioner
from .latents_genext import move_inputs
from .linear_bottlenecks_genext import LinearBottleneck


class ClosedFormFitting:
    """What a model can do whose bottleneck or head is linear."""

    config: GenextConfig
    encoder: Any
    device: torch.device
    training: bool
    train: Callable[[bool], Any]

    @torch.no_grad()
    def fit(self, batches: Iterable[Mapping[str, Any]]) -> Self:
        """Fit a bottleneck of kind `"linear"` to the states of the conditions, then a head of kind `"ppca"` or `"ica"`.

        Sums over all rows are kept in float64, so they may be as many as one likes; ICA, which is no sum, is given a hundred
        thousand of them at most. What the memory says of the mean of a linear density is a least-squares fit.

        Args:
            batches: Inputs as the model's `forward` takes them, of a head with `labels`: a `DataLoader`, or a list. They are
                read more than once.

        Returns:
            The model itself.

        Raises:
            TypeError: for a generator, which can be read once only.
            ValueError: if there is nothing to fit, or the states would still change; for rows that have no such fit: fewer than
                components, of variance 0 in a number, or not finite.

        Example:
            >>> import torch
            >>> from hf_genext import GenextForPrediction, GenextNullConditionerConfig
            >>> head = {"kind": "ppca", "num_outputs": 3, "num_components": 1}
            >>> model = GenextForPrediction.from_encoder_pretrained(GenextNullConditionerConfig(hidden_size=2), head)
            >>> rows = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
            >>> peer = torch.distributions.MultivariateNormal(rows.mean(dim=0), 2 * torch.eye(3))
            >>> bool(model.fit([{"labels": rows}]).log_prob(rows).mean() > peer.log_prob(rows).mean())
            True
        """
        if isinstance(batches, Iterator):
            raise TypeError("fit reads the rows more than once, and a generator gives them once: give a list, or a DataLoader.")
        bottleneck, head = self.encoder.bottleneck, getattr(self, "head", None)
        parts = [part for part in (bottleneck, head) if isinstance(part, (LinearBottleneck, LinearHead))]
        if not parts:
            raise ValueError(
                f'Nothing of this {type(self).__name__} is fitted in closed form: that is for a bottleneck of kind "linear" '
                'and a head of kind "ppca" or "ica". Train it.'
            )
        was_training = self.training
        self.train(False)
        try:
            if isinstance(bottleneck, LinearBottleneck):
                self._require_steady_states()
                bottleneck.fit(lambda: self._read_states(batches))
            if isinstance(head, LinearHead):
                is_conditional = not isinstance(self.encoder.conditioner, GenextNullConditioner)
                head.fit(lambda: self._read_targets(batches), is_conditional=is_conditional)
        finally:
            self.train(was_training)
        return self

    def _require_steady_states(self) -> None:
        trained = next((name for name, value in self.encoder.conditioner.named_parameters() if value.requires_grad), None)
        if trained is not None:
            raise ValueError(
                "A linear bottleneck is fitted once, to states that stay as they are, but the encoder would be trained after "
                f"it (such as its {trained}). Set freeze_encoder=True for a pretrained one; give a vector no hidden_size, so "
                "that it is its own state."
            )

    def _move(self, batches: Iterable[Mapping[str, Any]]) -> Iterator[tuple[dict[str, Any], torch.Tensor | None]]:
        """The encoder's inputs of each batch, and its labels."""
        if isinstance(batches, Mapping):
            raise TypeError("fit takes batches, and got one; give a list of them, such as [batch], or a DataLoader.")
        for batch in batches:
            given = {name: value for name, value in batch.items() if not name.startswith("decoder_")}
            inputs = move_inputs(given, self.device)
            yield inputs, inputs.pop("labels", None)

    def _read_states(self, batches: Iterable[Mapping[str, Any]]) -> Iterator[torch.Tensor]:
        for inputs, _ in self._move(batches):
            with self.encoder.bottleneck.looking_on() as seen:
                self.encoder(**inputs)
            yield from seen

    def _read_targets(self, batches: Iterable[Mapping[str, Any]]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for inputs, labels in self._move(batches):
            if labels is None:
                raise ValueError("A density is fitted to the labels of every batch; give them as labels.")
            memory = self.read_memory(labels, inputs)  # type: ignore[attr-defined]
            yield memory, labels


__all__ = ["ClosedFormFitting"]

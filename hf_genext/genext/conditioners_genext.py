"""From conditions to states: several conditioners as one, and the door that builds any of them.

Legend: batch, length (states of one condition, or of all together), conditions, hidden.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from .configuration_conditioners_genext import (
    GenextFusionConditionerConfig,
    GenextLabelConditionerConfig,
    GenextNullConditionerConfig,
    GenextTextConditionerConfig,
    GenextVectorConditionerConfig,
    get_states_size,
)
from .field_conditioners_genext import GenextLabelConditioner, GenextNullConditioner, GenextVectorConditioner
from .outputs_genext import ConditionerOutput
from .pretrained_conditioners_genext import GenextPretrainedConditioner
from .pretrained_genext import GenextPreTrainedModel
from .text_conditioners_genext import GenextTextConditioner


class GenextFusionConditioner(GenextPreTrainedModel):
    """Several conditions as one, each of which may be missing in any row.

    The states of all conditions stand one behind the other, each with a type embedding. Where a condition is missing, one
    learned null state stands in its place. It is missing

    * in all rows, where its input is not given;
    * in a row, where `condition_mask` has a 0 for it, its own mask (a text's `attention_mask`) has no 1, all labels are -1, or
      an image, a recording or a vector begins with what is not a number (NaN);
    * in training, in a random share of the rows (`condition_dropout`). Which rows depends on the random state and on the
      number of rows alone, not on which conditions they have.

    In place of a condition the states that its conditioner gave for it before can be given, before they are projected; a row
    none of whose states is real lacks the condition.

    Args:
        config: Its configuration.
        models: For each name of a condition a model that is there already; the others are built.
    """

    config_class = GenextFusionConditionerConfig
    can_pad = True

    def __init__(
        self, config: GenextFusionConditionerConfig, models: Mapping[str, PreTrainedModel | None] | None = None
    ) -> None:
        super().__init__(config)
        models = models or {}
        self.conditioners = nn.ModuleDict(
            {name: build_conditioner(part, models.get(name)) for name, part in (config.conditioners or {}).items()}
        )
        config.conditioners = {name: part.config for name, part in self.conditioners.items()}
        sizes = {name: get_states_size(part) for name, part in config.conditioners.items()}
        self.projections = nn.ModuleDict(
            {name: nn.Linear(size, config.hidden_size) for name, size in sizes.items() if size != config.hidden_size}
        )
        # Conditions that are never taken away in training, by their names: those that an autoencoder encodes.
        self.kept: frozenset[str] = frozenset()
        self.null_states = nn.Embedding(len(sizes), config.hidden_size)
        self.type_embeddings = nn.Embedding(len(sizes), config.hidden_size)
        _refuse_shared_inputs(self.conditioners)
        self.post_init()

    @property
    def input_names(self) -> tuple[str, ...]:
        """The inputs that it reads: those of all conditions, and which of them are there."""
        return (*(name for part in self.conditioners.values() for name in part.input_names), "condition_mask")

    def get_text_conditioner(self) -> GenextPreTrainedModel:
        """The condition that is text.

        Raises:
            ValueError: if there is none.
        """
        for conditioner in self.conditioners.values():
            if "input_ids" in conditioner.input_names:
                return conditioner
        raise ValueError(f"None of the conditions {', '.join(self.conditioners)} is text, so there is no embedding of tokens.")

    def get_input_embeddings(self) -> nn.Module:
        """The embedding of the source tokens, of the one condition that is text."""
        return self.get_text_conditioner().get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embedding of the source tokens."""
        self.get_text_conditioner().set_input_embeddings(value)

    def forward(
        self,
        condition_mask: torch.Tensor | None = None,
        condition_states: Mapping[str, torch.Tensor] | None = None,
        condition_states_mask: Mapping[str, torch.Tensor] | None = None,
        **inputs: Any,
    ) -> ConditionerOutput:
        """Encode all conditions of a batch.

        Args:
            condition_mask: 1 where a condition is given, (batch, conditions) in the order of the configuration.
            condition_states: For some of the conditions the states that their conditioners gave, each (batch, length, its own
                hidden), in place of their inputs.
            condition_states_mask: For some of those 1 where a state is real, (batch, length).
            inputs: As [`GenextEncoder.forward`] takes them.

        Returns:
            States (batch, length, hidden) of all conditions and their mask (batch, length); how many are those of each, and
            which a row has.

        Raises:
            ValueError: if nothing tells how many rows there are, `condition_mask` has another number of conditions, or states
                are given for a condition that is not there, given itself too, or of another width.
        """
        known = self._read_states(condition_states, condition_states_mask, inputs)
        batch_size, device = self._find_batch(condition_mask, inputs, known)
        parts, masks, presences, hidden_states, attentions = [], [], [], None, None
        for index, (name, conditioner) in enumerate(self.conditioners.items()):
            null_state = self.null_states.weight[index]
            chosen = self._choose_rows(name, index, batch_size, device, condition_mask)
            main = _get_main_input(conditioner, inputs)
            if main is None and name not in known:
                states = null_state.expand(batch_size, 1, -1)
                mask = torch.ones(batch_size, 1, dtype=torch.long, device=device)
                present = torch.zeros_like(chosen)
            else:
                if main is None:
                    output = known[name]
                    present = chosen if output.mask is None else chosen & output.mask.bool().any(dim=1)
                else:
                    present = self._find_present(conditioner, inputs, main, chosen)
                    output = conditioner(**_blank_missing(conditioner, inputs, main, present))
                states, mask = output.states, output.mask
                if hidden_states is None:
                    hidden_states, attentions = output.hidden_states, output.attentions
                if name in self.projections:
                    states = self.projections[name](states)
                mask = torch.ones(states.shape[:2], dtype=torch.long, device=device) if mask is None else mask.long()
                only_first = torch.zeros_like(mask).index_fill(1, torch.zeros(1, dtype=torch.long, device=device), 1)
                states = torch.where(present[:, None, None], states, null_state.to(states.dtype))
                mask = torch.where(present[:, None], mask, only_first)
            parts.append(states + self.type_embeddings.weight[index].to(states.dtype))
            masks.append(mask)
            presences.append(present)
        return ConditionerOutput(
            states=torch.cat([part.to(parts[-1].dtype) for part in parts], dim=1),
            mask=torch.cat(masks, dim=1),
            hidden_states=hidden_states,
            attentions=attentions,
            part_lengths={name: mask.shape[1] for name, mask in zip(self.conditioners, masks, strict=True)},
            present=torch.stack(presences, dim=1),
        )

    def _find_batch(
        self, condition_mask: torch.Tensor | None, inputs: dict[str, Any], known: dict[str, ConditionerOutput]
    ) -> tuple[int, torch.device]:
        given = [condition_mask, *(inputs.get(name) for name in self.input_names), *(kept.states for kept in known.values())]
        first = next((tensor for tensor in given if tensor is not None), None)
        if first is None:
            raise ValueError(
                f"No condition is given. Give some of {', '.join(self.input_names)}, or num_samples= for rows without any."
            )
        if condition_mask is not None and condition_mask.shape[-1] != len(self.conditioners):
            raise ValueError(
                f"condition_mask must have a column for each of the {len(self.conditioners)} conditions "
                f"({', '.join(self.conditioners)}), got the shape {tuple(condition_mask.shape)}."
            )
        return first.shape[0], first.device

    def _read_states(
        self, states: Mapping[str, torch.Tensor] | None, masks: Mapping[str, torch.Tensor] | None, inputs: Mapping[str, Any]
    ) -> dict[str, ConditionerOutput]:
        """The states that are given in place of conditions, by the names of these."""
        known = ", ".join(self.conditioners)
        for name, given in (("condition_states", states), ("condition_states_mask", masks)):
            if given is not None and not isinstance(given, Mapping):
                raise TypeError(
                    f"This model fuses the conditions {known}, so {name} is a dictionary with those of some of them; got "
                    f"{type(given).__name__}."
                )
        outputs = {}
        for name, values in (states or {}).items():
            if name not in self.conditioners:
                raise ValueError(f"There is no condition {name!r} to have states; known are {known}.")
            main = _get_main_input(self.conditioners[name], inputs)
            if main is not None:
                raise ValueError(f"The condition {name!r} is given twice, as condition_states and as {main}; give it once.")
            require_states_size(values, get_states_size(self.config.conditioners[name]))
            dtype = self.conditioners[name].dtype
            outputs[name] = ConditionerOutput(states=values.to(dtype), mask=(masks or {}).get(name))
        return outputs

    def _choose_rows(
        self, name: str, index: int, batch_size: int, device: torch.device, condition_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Which rows may have a condition, (batch,): those that a mask and condition dropout leave it."""
        chosen = torch.ones(batch_size, dtype=torch.bool, device=device)
        if condition_mask is not None:
            chosen = condition_mask[:, index].bool()
        if self.training and self.config.condition_dropout and name not in self.kept:
            chosen = chosen & (torch.rand(batch_size, device=device) >= self.config.condition_dropout)
        return chosen

    def _find_present(self, conditioner: nn.Module, inputs: dict[str, Any], main: str, chosen: torch.Tensor) -> torch.Tensor:
        """Which of the rows that may have a condition say that they do, (batch,)."""
        present = chosen
        for name in conditioner.input_names:
            if name.endswith("_mask") and inputs.get(name) is not None:
                present = present & inputs[name].bool().any(dim=1)
        if main == "condition_vectors":
            require_whole_vectors(inputs[main], present)
        return present & ~find_missing_rows(inputs[main])


def find_missing_rows(condition: torch.Tensor) -> torch.Tensor:
    """Which rows say by themselves that they are missing, (batch,): labels that are all -1, numbers that begin with none."""
    rows = condition.flatten(1) if condition.dim() > 1 else condition[:, None]
    if rows.is_floating_point():
        return rows[:, 0].isnan()
    return (rows == -1).all(dim=1)


def require_whole_vectors(vectors: torch.Tensor, given: torch.Tensor | None = None) -> None:
    """Raise for a row with a number that is infinite, or missing (NaN) while others are there. A compiled model does not look.

    Args:
        vectors: (batch, size) or (batch, count, size).
        given: Which rows are read, (batch,); all if left out.

    Raises:
        ValueError: saying which row it is.
    """
    # A single sum says of nearly every batch that nothing is wrong.
    if torch.compiler.is_compiling() or bool(vectors.sum().isfinite()):
        return
    rows = vectors.flatten(1)
    broken = ~(rows.isfinite().all(dim=1) | rows.isnan().all(dim=1))
    if given is not None:
        broken = broken & given
    if broken.any():
        row = int(broken.nonzero()[0, 0])
        raise ValueError(
            f"In row {row} of the batch {int((~rows[row].isfinite()).sum())} of {rows.shape[1]} numbers are not finite. "
            "Give whole vectors; where a row may lack its vector, make all of it NaN."
        )


def require_states_size(states: torch.Tensor, size: int) -> None:
    """Raise unless states are (batch, length, size).

    Raises:
        ValueError: saying what was given.
    """
    if states.dim() != 3 or states.shape[-1] != size:
        raise ValueError(f"The states of this condition are (batch, length, {size}), got the shape {tuple(states.shape)}.")


def _get_main_input(conditioner: nn.Module, inputs: Mapping[str, Any]) -> str | None:
    """The name under which a condition itself is given, not its mask."""
    names = [name for name in conditioner.input_names if not name.endswith("_mask")]
    return next((name for name in names if inputs.get(name) is not None), None)


def _blank_missing(conditioner: nn.Module, inputs: Mapping[str, Any], main: str, present: torch.Tensor) -> dict[str, Any]:
    """A conditioner's inputs, with something harmless in the rows whose states are thrown away."""
    own = {name: inputs.get(name) for name in conditioner.input_names}
    others = {name: value for name, value in inputs.items() if name not in own}
    rows = ~present
    own[main] = own[main].masked_fill(rows.view(-1, *[1] * (own[main].dim() - 1)), 0)
    for name, value in own.items():
        if name.endswith("_mask") and value is not None:
            own[name] = value.masked_fill(rows.view(-1, *[1] * (value.dim() - 1)), 1)
    return {**others, **own}


def _refuse_shared_inputs(conditioners: nn.ModuleDict) -> None:
    readers: dict[str, str] = {}
    for name, conditioner in conditioners.items():
        main = conditioner.input_names[0]
        if main in readers:
            raise ValueError(f"The conditions {readers[main]!r} and {name!r} both read {main}; only one of them can.")
        if isinstance(conditioner, (GenextFusionConditioner, GenextNullConditioner)):
            raise ValueError(
                f"The condition {name!r} is a {type(conditioner).__name__}, which stands alone. Whatever is missing has a null "
                "state anyway, and conditions need only one level."
            )
        readers[main] = name


_BUILDERS: dict[type[PreTrainedConfig], type[GenextPreTrainedModel]] = {
    GenextLabelConditionerConfig: GenextLabelConditioner,
    GenextNullConditionerConfig: GenextNullConditioner,
    GenextTextConditionerConfig: GenextTextConditioner,
    GenextVectorConditionerConfig: GenextVectorConditioner,
}


def build_conditioner(
    config: PreTrainedConfig, models: PreTrainedModel | Mapping[str, PreTrainedModel | None] | None = None
) -> GenextPreTrainedModel:
    """Build the conditioner that a configuration describes.

    Args:
        config: A native conditioner's, or that of any `AutoModel`.
        models: A model that is there already; for a fusion one for each name.

    Returns:
        The conditioner.

    Raises:
        ValueError: for a configuration that describes no conditioner.
    """
    if isinstance(config, GenextFusionConditionerConfig):
        return GenextFusionConditioner(config, models if isinstance(models, Mapping) else None)
    if type(config) in _BUILDERS:
        return _BUILDERS[type(config)](config)
    return GenextPretrainedConditioner(config, models if isinstance(models, PreTrainedModel) else None)


__all__ = [
    "GenextFusionConditioner",
    "build_conditioner",
    "find_missing_rows",
    "require_states_size",
    "require_whole_vectors",
]

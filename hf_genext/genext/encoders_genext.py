"""The encoder: conditioner and bottleneck in one module.

Legend: batch, length (input positions or states), slots (memory positions), hidden; for conditions: channels, height, width
(of an image), frames, bins (of audio features), samples (of a waveform), count, size (of vectors), fields (of labels).
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils.generic import can_return_tuple

from .bottlenecks_genext import build_bottleneck
from .conditioners_genext import (
    GenextFusionConditioner,
    build_conditioner,
    find_missing_rows,
    require_states_size,
    require_whole_vectors,
)
from .configuration_bottlenecks_genext import LATENT_KINDS
from .configuration_conditioners_genext import get_states_size
from .configuration_genext import GenextConfig
from .field_conditioners_genext import GenextNullConditioner
from .outputs_genext import ConditionerOutput, GenextEncoderOutput
from .pretrained_conditioners_genext import GenextPretrainedConditioner
from .pretrained_genext import GenextPreTrainedModel

CONDITION_INPUTS = (
    "input_ids",
    "inputs_embeds",
    "pixel_values",
    "input_features",
    "input_values",
    "condition_vectors",
    "condition_labels",
    "condition_mask",
)
"""Every input that is a condition, or says which are there; a model takes those that its conditioner reads."""


class GenextEncoder(GenextPreTrainedModel):
    """Conditioner and bottleneck in one module: from the condition to the memory and its own mask.

    Args:
        config: The configuration of the whole.
        models: A pretrained model for the conditioner; for a fusion one for each name.
    """

    def __init__(
        self, config: GenextConfig, models: PreTrainedModel | Mapping[str, PreTrainedModel | None] | None = None
    ) -> None:
        super().__init__(config)
        self.conditioner = build_conditioner(config.conditioner, models)
        config.conditioner = self.conditioner.config
        self.bottleneck = build_bottleneck(config.bottleneck, get_states_size(config.conditioner))  # type: ignore[arg-type]
        if self.has_latents and isinstance(self.conditioner, GenextFusionConditioner):
            chosen = config.bottleneck.posterior_conditions
            self.conditioner.kept = frozenset(self.conditioner.conditioners if chosen is None else chosen)
        self.freeze_as_configured()
        self.post_init()

    def freeze_as_configured(self) -> None:
        """Keep the pretrained models as they are, as far as the configuration says so."""
        for module in self.modules():
            if isinstance(module, GenextPretrainedConditioner):
                module.freeze_unread()
                if self.config.freeze_encoder:
                    module.freeze()
                elif self.config.tune_encoder_from_layer is not None:
                    module.freeze(self.config.tune_encoder_from_layer)

    @property
    def main_input_name(self) -> str:
        """The input that is meant where one is given without a name."""
        return self.conditioner.input_names[0]

    @property
    def has_pretrained(self) -> bool:
        """Whether a pretrained model is among the conditioners."""
        return any(isinstance(module, GenextPretrainedConditioner) for module in self.modules())

    @property
    def num_conditions(self) -> int:
        """Columns of `condition_mask`."""
        return len(self.conditioner.conditioners) if isinstance(self.conditioner, GenextFusionConditioner) else 1

    @property
    def num_contexts(self) -> int:
        """Conditions of the output, those that hold the target not counted."""
        if isinstance(self.conditioner, GenextNullConditioner):
            return 0
        chosen = self.config.bottleneck.posterior_conditions
        return self.num_conditions - len(chosen or range(self.num_conditions)) if self.has_latents else self.num_conditions

    @property
    def has_latents(self) -> bool:
        """Whether the memory is made of latent numbers or codes with a prior, which rows without a target are drawn from."""
        return self.config.bottleneck.kind in LATENT_KINDS

    @property
    def can_be_unconditional(self) -> bool:
        """Whether rows may come without any condition."""
        return self.has_latents or "condition_mask" in self.conditioner.input_names

    @property
    def reads_text(self) -> bool:
        """Whether text is the condition, or one of them."""
        return "input_ids" in self.conditioner.input_names

    def get_input_embeddings(self) -> nn.Module:
        """The embedding of the source tokens."""
        return self.conditioner.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embedding of the source tokens."""
        self.conditioner.set_input_embeddings(value)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        input_features: torch.FloatTensor | None = None,
        input_values: torch.FloatTensor | None = None,
        feature_attention_mask: torch.Tensor | None = None,
        condition_vectors: torch.FloatTensor | None = None,
        condition_vectors_mask: torch.Tensor | None = None,
        condition_labels: torch.LongTensor | None = None,
        condition_mask: torch.Tensor | None = None,
        num_samples: int | None = None,
        condition_states: torch.FloatTensor | Mapping[str, torch.FloatTensor] | None = None,
        condition_states_mask: torch.Tensor | Mapping[str, torch.Tensor] | None = None,
        latent_noise: torch.Tensor | None = None,
        sample_latents: bool | None = None,
        **kwargs: Any,
    ) -> GenextEncoderOutput:
        """Turn a batch of conditions into memories. A model takes those inputs that its conditioner reads.

        Args:
            input_ids: Source tokens, (batch, length).
            attention_mask: 1 where a token is real, (batch, length). A row without any has no text, where several conditions
                are fused.
            inputs_embeds: Instead of `input_ids`, (batch, length, hidden).
            pixel_values: Images, (batch, channels, height, width).
            input_features: Features of audio, (batch, bins, frames) or (batch, frames, bins), as the audio model takes them.
            input_values: Waveforms, (batch, samples).
            feature_attention_mask: 1 where audio is real, (batch, frames) or (batch, samples). Without a text beside it, audio
                may have it as `attention_mask`, the name that feature extractors give it.
            condition_vectors: (batch, size) or (batch, count, size).
            condition_vectors_mask: 1 where a vector is real, (batch, count).
            condition_labels: (batch, fields), -1 where a label is missing; (batch,) for one field.
            condition_mask: 1 where a condition is given, (batch, conditions), in the order of the configuration; only where
                several conditions are fused, or the bottleneck is variational or quantised.
            num_samples: The number of rows where no condition is given at all, and only then.
            condition_states: What the conditioner gave for the condition before, (batch, length, hidden), in place of it; where
                several conditions are fused a dictionary with those of some, by their names.
            condition_states_mask: 1 where such a state is real, (batch, length), or likewise a dictionary. Left out, all are.
            latent_noise: Of a variational or quantised bottleneck what decides what is drawn, (batch, units + 1), as
                `draw_latent_noise` gives it; torch's own randomness if left out.
            sample_latents: Whether such a bottleneck draws (`True`) or takes means (`False`). Left out, training draws all, and
                evaluation only the rows without a target, from the prior.
            kwargs: `output_attentions`, `output_hidden_states`, `return_dict`, and what a pretrained model takes besides.

        Returns:
            The memory (batch, slots, hidden) and its mask (batch, slots).

        Raises:
            ValueError: for a condition that the model does not know, or one that is missing where it must not be.
        """
        names = self.conditioner.input_names
        if "attention_mask" not in names and feature_attention_mask is None:
            feature_attention_mask = attention_mask
        conditions = {
            "input_ids": input_ids,
            "inputs_embeds": inputs_embeds,
            "pixel_values": pixel_values,
            "input_features": input_features,
            "input_values": input_values,
            "condition_vectors": condition_vectors,
            "condition_labels": condition_labels,
            "condition_mask": condition_mask,
        }
        for name, value in conditions.items():
            if value is not None and not torch.is_tensor(value):
                raise TypeError(f"{name} must be a tensor, got {type(value).__name__}. The model's processor makes tensors.")
        given = [name for name, value in conditions.items() if value is not None]
        if num_samples is not None and condition_mask is None:
            if given or condition_states is not None:
                one = (*given, "condition_states")[0]
                raise ValueError(
                    f"num_samples={num_samples} is the number of rows without any condition, and {one} is given. Leave one of "
                    "them out; num_return_sequences= asks for several outputs of each condition."
                )
            condition_mask = torch.zeros(num_samples, self.num_conditions, dtype=torch.long, device=self.device)
            conditions["condition_mask"], given = condition_mask, ["condition_mask"]
        self._check_latent_inputs(latent_noise, sample_latents)
        unknown = [name for name in given if name not in names and (name != "condition_mask" or not self.has_latents)]
        if kwargs and not torch.compiler.is_compiling():
            slips = [name for name, value in kwargs.items() if torch.is_tensor(value) and _is_nearly_known(name)]
            if slips:
                self.require_known(slips)
        if not given and condition_states is None:
            unknown += [name for name, value in kwargs.items() if torch.is_tensor(value)]
        if unknown:
            raise ValueError(self._explain_unknown(unknown[0]))
        if "condition_mask" not in names and not torch.compiler.is_compiling():
            if condition_vectors is not None:
                require_whole_vectors(condition_vectors)
            numbers = [conditions[name] for name in given if conditions[name].is_floating_point()]
            if any(find_missing_rows(value).any() for value in numbers):
                raise ValueError(self._explain_unknown("condition_mask"))
        masks = {
            "attention_mask": attention_mask,
            "feature_attention_mask": feature_attention_mask,
            "condition_vectors_mask": condition_vectors_mask,
        }
        inputs = {name: value for name, value in (conditions | masks).items() if name in names}
        is_single = self.has_latents and not isinstance(self.conditioner, GenextFusionConditioner)
        if is_single and given == ["condition_mask"] and condition_states is None and not condition_mask.any():
            condition = ConditionerOutput()
        elif condition_states is None:
            condition = self.conditioner(**inputs, **kwargs)
        elif isinstance(self.conditioner, GenextFusionConditioner):
            condition = self.conditioner(
                condition_states=condition_states, condition_states_mask=condition_states_mask, **inputs, **kwargs
            )
        else:
            condition = self._take_states(condition_states, condition_states_mask, conditions)
        if self.has_latents:
            is_encoded = condition_mask[:, 0].bool() if is_single and condition_mask is not None else None
            batch_size = condition_mask.shape[0] if condition.states is None else condition.states.shape[0]
            bottleneck = self.bottleneck(condition, batch_size, latent_noise, sample_latents, is_encoded)
        else:
            bottleneck = self.bottleneck(condition.states, condition.mask)
        return GenextEncoderOutput(
            last_hidden_state=bottleneck.memory,
            memory_mask=bottleneck.memory_mask,
            losses=bottleneck.losses,
            latents=bottleneck.latents,
            hidden_states=condition.hidden_states,
            attentions=condition.attentions,
        )

    def require_known(self, names: Iterable[str]) -> None:
        """Raise unless [`forward`] takes inputs of such names; what a pretrained model takes besides, nobody knows.

        Raises:
            ValueError: naming what is taken.
        """
        own = [name for name in inspect.signature(type(self).forward).parameters if name not in ("self", "kwargs")]
        takes_more = self.has_pretrained
        for name in names:
            if name in (*own, "output_attentions", "output_hidden_states", "return_dict"):
                continue
            alike = difflib.get_close_matches(name, own, 1, 0.8)
            if alike or not takes_more:
                told = f"is {alike[0]} meant? " if alike else ""
                raise ValueError(f"{name} is nothing that this model takes; {told}It takes {', '.join(own)}.")

    def _check_latent_inputs(self, noise: torch.Tensor | None, sample: bool | None) -> None:
        if noise is None and sample is None:
            return
        if not self.has_latents:
            name = "latent_noise" if noise is not None else "sample_latents"
            raise ValueError(
                f"{name} is for a model whose memory is drawn at random, and this one's is not. Build it with "
                'bottleneck={"kind": "variational"} or "quantized", or leave it out.'
            )
        if noise is not None and (noise.dim() != 2 or noise.shape[1] != self.bottleneck.num_noise):
            raise ValueError(
                f"latent_noise is (batch, {self.bottleneck.num_noise}), as draw_latent_noise gives it; got the shape "
                f"{tuple(noise.shape)}."
            )

    def _take_states(self, states: Any, mask: Any, conditions: Mapping[str, torch.Tensor | None]) -> ConditionerOutput:
        given = [name for name, value in conditions.items() if value is not None]
        if given:
            raise ValueError(f"The condition is given twice, as condition_states and as {given[0]}; give it once.")
        if isinstance(states, Mapping) or isinstance(mask, Mapping):
            raise TypeError(
                "This model has one condition, whose states are a tensor; a dictionary is for several that are fused. Give "
                "condition_states= and condition_states_mask= as tensors."
            )
        require_states_size(states, get_states_size(self.conditioner.config))
        return ConditionerOutput(states=states.to(self.dtype), mask=mask)

    def _explain_unknown(self, name: str) -> str:
        known = ", ".join(known for known in self.conditioner.input_names if known in CONDITION_INPUTS)
        if name == "condition_mask":
            return (
                f"This model has one condition ({known}), which must be there in every row (one that begins with NaN is not): "
                "it has no null state for a row without it. Build it with a GenextFusionConditionerConfig, or with "
                "condition_dropout=, to allow that."
            )
        return (
            f"This model is not conditioned on {name}; it takes {known}. To condition it on several things build it with a "
            "GenextFusionConditionerConfig, or with encoder={name: part, ...}."
        )


@functools.lru_cache
def _is_nearly_known(name: str) -> bool:
    """Whether a name is that of a condition but for a slip; what decoders and pretrained models take besides is not."""
    return name not in CONDITION_INPUTS and bool(difflib.get_close_matches(name, CONDITION_INPUTS, 1, 0.85))


__all__ = ["CONDITION_INPUTS", "GenextEncoder"]

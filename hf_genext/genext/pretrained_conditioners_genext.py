"""Conditioners that wrap a model of Transformers': text, image and audio encoders, causal models, halves of seq2seq models.

Legend: batch, length (states), hidden.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import typing
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING,
    MODEL_MAPPING,
    AutoModel,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import ModelOutput

from .outputs_genext import ConditionerOutput
from .pretrained_genext import GenextPreTrainedModel

_UNREAD = {
    "clip_vision_model": ("post_layernorm.", "vision_model.post_layernorm."),
    "convnext": ("layernorm.",),
    "convnextv2": ("layernorm.",),
    "dinov2": ("embeddings.mask_token",),
    "dinov2_with_registers": ("embeddings.mask_token",),
    "layoutlm": ("pooler.",),
    "siglip2_vision_model": ("head.", "vision_model.head."),
    "siglip_vision_model": ("head.", "vision_model.head."),
}
"""How the names of those parameters of a model type begin that its states do not depend on, only its pooled output."""


class GenextPretrainedConditioner(GenextPreTrainedModel):
    """Any `AutoModel` that gives hidden states.

    Args:
        config: Its configuration.
        model: The model; built from the configuration, with random weights, if left out. Of a model with a head the body is
            taken, of a seq2seq model its encoder.
    """

    def __init__(self, config: PreTrainedConfig, model: PreTrainedModel | None = None) -> None:
        model = take_encoder(build_encoder(config) if model is None else model)
        _require_hidden_states(model)
        super().__init__(model.config)
        self.model = model
        self.main_input = model.main_input_name
        self.is_text = self.main_input == "input_ids"
        self.is_frozen = False
        forward = model.encoder.forward if isinstance(model, GenextPreTrainedModel) else model.forward
        self._accepted = set(inspect.signature(forward).parameters)
        is_causal = type(model.config) in MODEL_FOR_CAUSAL_LM_MAPPING and type(model.config) not in MODEL_FOR_MASKED_LM_MAPPING
        self._needs_positions = is_causal and "position_ids" in self._accepted
        self.post_init()

    @property
    def input_names(self) -> tuple[str, ...]:
        """The inputs that it reads, the condition itself first."""
        if self.is_text:
            return (self.main_input, "inputs_embeds", "attention_mask")
        return (self.main_input, "feature_attention_mask") if "attention_mask" in self._accepted else (self.main_input,)

    @property
    def can_pad(self) -> bool:
        """Whether some of the states of a row can be padding."""
        return self.is_text or (
            "feature_attention_mask" in self.input_names and hasattr(self.model, "_get_feature_vector_attention_mask")
        )

    def get_input_embeddings(self) -> nn.Module:
        """The embedding of the source tokens."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embedding of the source tokens."""
        self.model.set_input_embeddings(value)

    def freeze_unread(self) -> None:
        """Keep parameters as they are that no state depends on; they would never get a gradient."""
        unread = _UNREAD.get(self.model.config.model_type, ())
        for name, parameter in self.model.named_parameters():
            if name.startswith(unread):
                parameter.requires_grad_(False)

    def freeze(self, from_layer: int | None = None) -> None:
        """Keep the model as it is, or what stands before a layer.

        Args:
            from_layer: Train from this layer on, counted from 0. Left out, nothing is trained, and dropout is off.

        Raises:
            ValueError: if there is no such layer.
        """
        if from_layer is None:
            self.is_frozen = True
            self.model.requires_grad_(False).eval()
            return
        layers = find_layers(self.model)
        if from_layer >= len(layers):
            raise ValueError(
                f"tune_encoder_from_layer is {from_layer}, but {type(self.model).__name__} has the layers 0 to "
                f"{len(layers) - 1}. For none of them set freeze_encoder=True."
            )
        first_tuned, is_before = next(layers[from_layer].parameters()), True
        inside = {id(parameter) for parameter in layers.parameters()}
        for name, parameter in self.model.named_parameters():
            is_before = is_before and parameter is not first_tuned
            # BART's kind names the norm of its embeddings behind the layers.
            if is_before or ("embed" in name and id(parameter) not in inside):
                parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> GenextPretrainedConditioner:
        """Training mode for all but a frozen model, whose states shall not change from step to step."""
        super().train(mode)
        if self.is_frozen:
            self.model.eval()
        return self

    def forward(self, **inputs: Any) -> ConditionerOutput:
        """Encode a batch of conditions.

        Args:
            inputs: As [`GenextEncoder.forward`] takes them, and what the model itself takes.

        Returns:
            States (batch, length, hidden) and their mask: for text the input's, for audio the input's at the states' rate, for
            images none. The states of a feature map (batch, hidden, height, width) are its places, row by row.

        Raises:
            ValueError: if the condition is missing, or the model gives no hidden states.
        """
        if inputs.get(self.main_input) is None and (not self.is_text or inputs.get("inputs_embeds") is None):
            raise ValueError(f"This model takes {self.main_input} ({type(self.model).__name__}); got none.")
        mask = inputs.pop("attention_mask", None) if self.is_text else inputs.pop("feature_attention_mask", None)
        inputs.pop("attention_mask", None)
        given = {name: value for name, value in inputs.items() if value is not None and self._takes(name)}
        if mask is not None and "attention_mask" in self._accepted:
            given["attention_mask"] = mask
            if self._needs_positions:
                given.setdefault("position_ids", (mask.long().cumsum(dim=-1) - 1).clamp(min=0))
        if "use_cache" in self._accepted:
            given["use_cache"] = False
        floats = (self.main_input, "inputs_embeds")
        given |= {name: given[name].to(self.dtype) for name in floats if name in given and given[name].is_floating_point()}
        outputs = self.model(**given, return_dict=True)
        states = outputs.get("last_hidden_state")
        if states is None:
            raise ValueError(_explain_missing_states(self.model, outputs))
        if states.dim() == 4:
            states = states.flatten(2).transpose(1, 2)
        return ConditionerOutput(
            states=states,
            mask=outputs["memory_mask"] if "memory_mask" in outputs else self._read_mask(mask, states.shape[1]),
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
        )

    def _takes(self, name: str) -> bool:
        return name in self._accepted or name in ("output_attentions", "output_hidden_states")

    def _read_mask(self, mask: torch.Tensor | None, length: int) -> torch.Tensor | None:
        """The mask of the states from that of the input; `None` where the model knows no padding, as Whisper."""
        if mask is None or mask.shape[1] == length:
            return mask
        if hasattr(self.model, "_get_feature_vector_attention_mask"):
            return self.model._get_feature_vector_attention_mask(length, mask).long()
        return None


def build_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """An `AutoModel` with random weights.

    Raises:
        ValueError: if `AutoModel` knows no such model.
    """
    if type(config) not in MODEL_MAPPING:
        raise ValueError(
            f"A {type(config).__name__} (model type {config.model_type!r}) describes no conditioner: AutoModel does not build "
            "it. Give the configuration of an encoder, such as BertConfig, or of a native conditioner, such as "
            "GenextTextConditionerConfig."
        )
    return AutoModel.from_config(config, **get_loading_arguments(config))


def get_loading_arguments(config: PreTrainedConfig) -> dict[str, Any]:
    """What `AutoModel` is told so that it leaves out the pooler, which hidden states do not need."""
    model_class = MODEL_MAPPING.get(type(config), None)
    if model_class is not None and "add_pooling_layer" in inspect.signature(model_class.__init__).parameters:
        return {"add_pooling_layer": False}
    return {}


def take_encoder(model: PreTrainedModel) -> PreTrainedModel:
    """What of a model gives hidden states: without head and pooler, of a seq2seq model the encoder. The model stays whole."""
    config = model.config
    if isinstance(model, GenextPreTrainedModel):
        return model
    body = MODEL_MAPPING.get(type(config), None)
    is_sequence_to_sequence = (
        type(config) in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING or type(config) in MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING
    )
    if is_sequence_to_sequence:
        return model.get_encoder()
    if body is not None and not isinstance(model, body):
        model = model.base_model
    if isinstance(getattr(model, "pooler", None), nn.Module) and get_loading_arguments(config):
        model = copy.copy(model)
        model._modules = {name: None if name == "pooler" else module for name, module in model._modules.items()}
    return model


def _require_hidden_states(model: PreTrainedModel) -> None:
    """Raise if a model says of its output that it has no hidden states; one that says nothing is asked when it runs."""
    try:
        told = typing.get_type_hints(model.forward).get("return")
    except Exception:  # Annotations can name what is not there at run time.
        return
    outputs = [kind for kind in (told, *typing.get_args(told)) if isinstance(kind, type) and issubclass(kind, ModelOutput)]
    fields = [field.name for output in outputs for field in dataclasses.fields(output)]
    if fields and "last_hidden_state" not in fields:
        raise ValueError(_explain_missing_states(model, fields))


def _explain_missing_states(model: PreTrainedModel, given: Iterable[str]) -> str:
    return (
        f"{type(model).__name__} gives no hidden states (it gives {', '.join(given)}). Give a model whose output has "
        "last_hidden_state, (batch, length, hidden), such as the encoder inside it."
    )


def find_layers(model: nn.Module) -> nn.ModuleList:
    """The layers of a model: its longest list of modules, the outermost where several are as long.

    Raises:
        ValueError: if it has none.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module)]
    if not lists:
        raise ValueError(f"{type(model).__name__} has no list of layers, so it cannot be tuned from one of them on.")
    return max(lists, key=len)


__all__ = ["GenextPretrainedConditioner", "build_encoder", "find_layers", "get_loading_arguments", "take_encoder"]

"""Joining parts that exist already: loading each, and building the whole around them."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import difflib
import functools
import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import torch
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModel,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from .configuration_bottlenecks_genext import SLOT_FOR_EACH_STATE
from .configuration_conditioners_genext import (
    NATIVE_CONDITIONERS,
    GenextFusionConditionerConfig,
    GenextNullConditionerConfig,
    build_part_config,
    get_states_size,
)
from .configuration_genext import GenextConfig, GenextDecoderConfig
from .language_models_genext import choose_opener, close_cross_attention, require_language_model
from .pretrained_conditioners_genext import get_loading_arguments, take_encoder
from .reused_decoders_genext import (
    copy_decoder,
    is_conditional,
    take_decoder_config,
    take_fields,
    take_generation_config,
)

Part: TypeAlias = str | os.PathLike[str] | PreTrainedModel | PreTrainedConfig
"""A Hub id, a folder, a model, or a configuration."""

Composed = TypeVar("Composed", bound=PreTrainedModel)

_WHAT_A_PART_IS = "a Hub id, a folder, a model or a configuration"


@dataclass
class _LoadedPart:
    """A part's configuration, and its model where there is one already."""

    config: PreTrainedConfig
    model: PreTrainedModel | None = None
    source: PreTrainedModel | None = None
    """The conditional model whose native decoder the new one begins as."""


def compose(
    model_class: type[Composed],
    encoder: Part | Mapping[str, Part] | None,
    decoder: Part | None,
    *,
    bottleneck: str | dict[str, Any] | PreTrainedConfig | None,
    num_latents: int | None,
    condition_dropout: float | None,
    cross_attention: bool | None,
    loading: dict[str, Any],
    quantization_config: Any,
    config: dict[str, Any],
) -> Composed:
    """Load the parts and build a model of them; see `from_encoder_decoder_pretrained` for the arguments.

    Args:
        model_class: The composed class.
        encoder: What gives states.
        decoder: What generates.
        bottleneck: What stands between them.
        num_latents: Slots of a pooled memory.
        condition_dropout: Share of rows in which a condition is taken away in training.
        cross_attention: Whether the decoder reads the memory by cross-attention.
        loading: `dtype` and `device_map` of pretrained parts.
        quantization_config: Quantisation of the decoder.
        config: More fields of the whole's configuration.

    Returns:
        The model in evaluation mode.
    """
    _refuse_unknown_fields(model_class.from_encoder_decoder_pretrained, config)
    loading = {name: value for name, value in loading.items() if value is not None}
    decoder_part = _load_decoder(model_class, decoder, cross_attention, loading, quantization_config)
    source = decoder_part.source
    if source is not None:
        config = take_fields(source, config)
    conditioner, encoder_models = _load_encoders(encoder, condition_dropout, decoder_part, loading)
    pretrained = [part for part in (*_list_models(encoder_models), decoder_part.model) if part is not None]
    attn_implementation = config.pop("attn_implementation", None)
    if not pretrained and attn_implementation is not None:
        config["attn_implementation"] = attn_implementation  # Everything is built from the configuration.
    with _keeping_what_is_given(pretrained):
        whole = GenextConfig(
            conditioner=conditioner,
            bottleneck=_build_bottleneck_fields(bottleneck, num_latents),
            decoder=decoder_part.config,
            **config,
        )
    if whole.decoder_start_token_id is None:
        raise ValueError(
            f"The decoder ({decoder_part.config.model_type}) has neither a start nor an end token of its own. Say which token "
            "every output starts from: decoder_start_token_id=."
        )
    composed = model_class(whole, encoder_models, decoder_part.model)
    _require_use(composed, loading, [encoder, decoder])
    dtype = loading.get("dtype")
    if source is not None:
        copy_decoder(source, composed)
        if dtype in (None, "auto"):
            dtype = functools.reduce(torch.promote_types, [part.dtype for part in pretrained], source.dtype)
    _place(composed, pretrained, decoder_part.model, dtype)
    if source is not None and not pretrained:
        composed.to(source.device)
    if decoder_part.model is not None:
        _enter_at_the_scale_of_embeddings(composed)
    if pretrained and attn_implementation is not None:
        composed.set_attn_implementation(attn_implementation)
    own = getattr(decoder_part.model, "generation_config", None) if source is None else take_generation_config(source)
    composed.generation_config = _build_generation_config(composed, own)
    return composed.eval()


def compose_prediction(
    model_class: type[Composed],
    encoder: Part | Mapping[str, Part],
    head: PreTrainedConfig | dict[str, Any],
    *,
    bottleneck: str | dict[str, Any] | PreTrainedConfig | None,
    num_latents: int | None,
    condition_dropout: float | None,
    loading: dict[str, Any],
    config: dict[str, Any],
) -> Composed:
    """Load an encoder and build a model with a single output of it; see `from_encoder_pretrained` for the arguments."""
    _refuse_unknown_fields(model_class.from_encoder_pretrained, config)
    loading = {name: value for name, value in loading.items() if value is not None}
    conditioner, encoder_models = _load_encoders(encoder, condition_dropout, _LoadedPart(GenextDecoderConfig()), loading)
    pretrained = _list_models(encoder_models)
    with _keeping_what_is_given(pretrained):
        whole = GenextConfig(
            conditioner=conditioner, bottleneck=_build_bottleneck_fields(bottleneck, num_latents), head=head, **config
        )
    composed = model_class(whole, encoder_models)
    _require_use(composed, loading, [encoder])
    _place(composed, pretrained, None, loading.get("dtype"))
    return composed.eval()


def _refuse_unknown_fields(function: Callable[..., Any], config: Mapping[str, Any]) -> None:
    """Raise for an argument that is neither one of a function's own nor a field of the configuration.

    Transformers would keep it as an attribute of the configuration, and nothing would read it.
    """
    parts = {"conditioner", "bottleneck", "decoder", "head"}
    fields = {field.name for field in dataclasses.fields(GenextConfig)} - parts | {"attn_implementation"}
    own = {
        name for name, parameter in inspect.signature(function).parameters.items() if parameter.kind != parameter.VAR_KEYWORD
    }
    for name in config:
        if name not in fields | own:
            meant = difflib.get_close_matches(name, sorted(fields | own), n=1)
            hint = f" Did you mean {meant[0]!r}?" if meant else " It takes its own arguments, and the fields of GenextConfig."
            raise TypeError(f"{function.__qualname__} takes no {name!r}.{hint}")


def _require_use(composed: Any, loading: Mapping[str, Any], given: Sequence[Any]) -> None:
    """Raise for what would change nothing of a model: freezing without a pretrained encoder, devices of what is not loaded."""
    config = composed.config
    name = "freeze_encoder" if config.freeze_encoder else "tune_encoder_from_layer"
    is_asked = config.freeze_encoder or config.tune_encoder_from_layer is not None
    if is_asked and not composed.encoder.has_pretrained:
        raise ValueError(f"{name} is for pretrained encoders, and this model has none; leave it out.")
    parts = [part for one in given for part in (one.values() if isinstance(one, dict) and "model_type" not in one else [one])]
    if "device_map" in loading and not any(isinstance(part, (str, os.PathLike)) for part in parts):
        raise ValueError(
            "device_map is for parts that are loaded from a folder or the Hub, and there are none; leave it out, and move the "
            "model with to(...)."
        )


@contextlib.contextmanager
def _keeping_what_is_given(pretrained: list[PreTrainedModel]) -> Iterator[None]:
    """Keep the attention of pretrained parts, and their weights from being drawn anew, while a configuration is built of them.

    A new configuration sets its own choice of attention, which is none yet, on the configurations below it.
    """
    parts = [module for part in pretrained for module in part.modules() if isinstance(module, PreTrainedModel)]
    attention = [module.config._attn_implementation for module in parts]
    try:
        yield
    finally:
        for module, implementation in zip(parts, attention, strict=True):
            module.config._attn_implementation_internal = implementation
        for part in pretrained:
            for below in part.modules():
                below._is_hf_initialized = True


def _build_bottleneck_fields(bottleneck: Any, num_latents: int | None) -> Any:
    if isinstance(bottleneck, (dict, PreTrainedConfig)):
        if num_latents is not None:
            raise ValueError(f"num_latents={num_latents} is given beside a bottleneck's own fields; put it among them.")
        return bottleneck
    kind = bottleneck or ("none" if num_latents is None else "pooled")
    if kind in SLOT_FOR_EACH_STATE and num_latents is not None:
        raise ValueError(
            f'bottleneck="{kind}" hands on as many states as there are, got num_latents={num_latents}. Choose "pooled".'
        )
    return {"kind": kind} if num_latents is None else {"kind": kind, "num_latents": num_latents}


def _load_encoders(
    encoder: Part | Mapping[str, Part] | None, condition_dropout: float | None, decoder: _LoadedPart, loading: dict[str, Any]
) -> tuple[PreTrainedConfig, PreTrainedModel | dict[str, PreTrainedModel | None] | None]:
    """The conditioner's configuration, and the models for it."""
    if encoder is None:
        return GenextNullConditionerConfig(hidden_size=get_states_size(decoder.config.get_text_config())), None
    if isinstance(encoder, Mapping) and "model_type" in encoder:
        encoder = build_part_config("encoder", dict(encoder))
    if isinstance(encoder, Mapping):
        parts = {name: _load_encoder(f"encoder[{name!r}]", part, decoder.model, loading) for name, part in encoder.items()}
    else:
        part = _load_encoder("encoder", encoder, decoder.model, loading)
        if condition_dropout is None or isinstance(part.config, GenextFusionConditionerConfig):
            return part.config, part.model
        parts = {"condition": part}
    fusion = GenextFusionConditionerConfig(
        conditioners={name: part.config for name, part in parts.items()}, condition_dropout=condition_dropout or 0.0
    )
    return fusion, {name: part.model for name, part in parts.items()}


def _load_encoder(place: str, given: Any, language_model: PreTrainedModel | None, loading: dict[str, Any]) -> _LoadedPart:
    if isinstance(given, Mapping):
        given = build_part_config(place, dict(given))
    if isinstance(given, PreTrainedConfig):
        given = copy.deepcopy(given)
        if "dtype" in loading and loading["dtype"] != "auto":
            given.dtype = loading["dtype"]
        return _LoadedPart(given)
    if isinstance(given, (str, os.PathLike)):
        config = AutoConfig.from_pretrained(given)
        if config.model_type in NATIVE_CONDITIONERS:
            raise ValueError(f"{place}={str(given)!r} is a folder of a conditioner alone; give the folder of a whole model.")
        model = AutoModel.from_pretrained(given, config=config, **get_loading_arguments(config), **loading)
    elif isinstance(given, PreTrainedModel):
        model = given
    else:
        raise TypeError(f"{place} must be {_WHAT_A_PART_IS}, got {type(given).__name__}.")
    model = _separate(take_encoder(model), language_model)
    return _LoadedPart(model.config, model)


def _load_decoder(
    model_class: type[PreTrainedModel],
    given: Any,
    cross_attention: bool | None,
    loading: dict[str, Any],
    quantization_config: Any,
) -> _LoadedPart:
    if isinstance(given, Mapping):
        given = build_part_config("decoder", dict(given))
    if isinstance(given, (str, os.PathLike)) and is_conditional(AutoConfig.from_pretrained(given)):
        given = model_class.from_pretrained(given, **loading)
    if isinstance(given, PreTrainedModel) and is_conditional(given.config) and given.can_generate():
        if given.config.has_native_decoder:
            _refuse_quantization(quantization_config)
            if cross_attention is not None:
                raise ValueError("A native decoder reads the memory by cross-attention always; leave cross_attention out.")
            return _LoadedPart(take_decoder_config(given), source=given)
        given = given.decoder.language_model
    if isinstance(given, GenextDecoderConfig):
        _refuse_quantization(quantization_config)
        return _LoadedPart(copy.deepcopy(given))
    if quantization_config is not None and not isinstance(given, (str, os.PathLike)):
        raise ValueError(
            "quantization_config is for a decoder that is loaded, and this one is a configuration or a model. Give its folder "
            "or Hub id."
        )
    if isinstance(given, PreTrainedConfig):
        require_language_model(given)
        given = copy.deepcopy(given)
        _set_cross_attention(given, cross_attention)
        if "dtype" in loading and loading["dtype"] != "auto":
            given.dtype = loading["dtype"]
        return _LoadedPart(given)
    if isinstance(given, PreTrainedModel):
        require_language_model(given.config, type(given).__name__)
        if given.get_output_embeddings() is None:
            raise ValueError(
                f"{type(given).__name__} has no head over tokens, so it is no causal language model and cannot decode. Open "
                "it with AutoModelForCausalLM."
            )
        model = _prepare_instance(given, cross_attention)
        return _LoadedPart(model.config, model)
    if not isinstance(given, (str, os.PathLike)):
        raise TypeError(f"decoder must be {_WHAT_A_PART_IS}, got {type(given).__name__}.")
    config = AutoConfig.from_pretrained(given)
    require_language_model(config, repr(str(given)))
    _set_cross_attention(config, cross_attention)
    quantization = {} if quantization_config is None else {"quantization_config": quantization_config}
    model, info = choose_opener(config).from_pretrained(
        given, config=config, output_loading_info=True, **loading, **quantization
    )
    close_cross_attention(model, only=set(info["missing_keys"]))
    return _LoadedPart(model.config, model)


def _refuse_quantization(quantization_config: Any) -> None:
    if quantization_config is not None:
        raise ValueError("quantization_config is for a decoder that is a language model, and this one is native. Leave it out.")


def _set_cross_attention(config: PreTrainedConfig, wanted: bool | None) -> None:
    """Have a causal language model built with cross-attention where it can be, or without."""
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or config.is_encoder_decoder:
        return
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    can = "encoder_hidden_states" in inspect.signature(model_class.forward).parameters
    if config.model_type == "gpt_bigcode":
        can = False  # Its cross-attention does not run.
    if wanted and not can:
        raise ValueError(
            f"{model_class.__name__} has no cross-attention, so it reads a memory only as leading embeddings. Leave "
            "cross_attention out."
        )
    if can and hasattr(config, "is_decoder"):
        config.is_decoder = True
    if hasattr(config, "add_cross_attention"):
        config.add_cross_attention = can if wanted is None else wanted


def _prepare_instance(model: PreTrainedModel, wanted: bool | None) -> PreTrainedModel:
    """The model as a decoder: with closed cross-attention where it can have it and has none, itself as far as it fits.

    What is changed is a new model around the same weights, so that the one that was given stays whole.
    """
    config = copy.deepcopy(model.config)
    _set_cross_attention(config, wanted)
    has_what_it_needs = getattr(config, "add_cross_attention", None) == getattr(model.config, "add_cross_attention", None)
    if has_what_it_needs and not model.config.is_encoder_decoder:
        return model
    extended = type(model)(config)
    missing = extended.load_state_dict(model.state_dict(), strict=False, assign=True).missing_keys
    extended.tie_weights()
    close_cross_attention(extended, only=set(missing))
    extended.generation_config = copy.deepcopy(model.generation_config)
    return extended.to(device=model.device, dtype=model.dtype)


def _separate(encoder: PreTrainedModel, language_model: PreTrainedModel | None) -> PreTrainedModel:
    """The encoder, copied where it shares weights with the decoder: each half learns for itself."""
    theirs = set() if language_model is None else {parameter.data_ptr() for parameter in language_model.parameters()}
    shares = any(parameter.data_ptr() in theirs for parameter in encoder.parameters())
    return copy.deepcopy(encoder) if shares else encoder


def _list_models(models: Any) -> list[PreTrainedModel]:
    given = models.values() if isinstance(models, Mapping) else [models]
    return [model for model in given if model is not None]


def _place(
    composed: PreTrainedModel, pretrained: list[PreTrainedModel], language_model: PreTrainedModel | None, dtype: Any
) -> None:
    """Bring fresh parts to the devices of the pretrained ones, and everything to one kind of number."""
    if isinstance(dtype, str) and dtype != "auto":
        dtype = getattr(torch, dtype)
    if not isinstance(dtype, torch.dtype):
        dtype = torch.get_default_dtype() if not pretrained else pretrained[0].dtype
        for part in pretrained:
            dtype = torch.promote_types(dtype, part.dtype)
    quantized = getattr(language_model, "is_quantized", False)
    theirs = {id(module) for part in pretrained for module in part.modules()}
    encoder_side = pretrained[0] if pretrained else composed
    for name, module in composed.named_modules():
        if id(module) in theirs:
            continue
        device = encoder_side.device
        if language_model is not None and name.startswith(("decoder", "head")):
            device = language_model.device
        is_exact = not set(name.split(".")).isdisjoint(composed._keep_in_fp32_modules_strict or ())
        _convert(module, device, None if is_exact else dtype)
    for part in pretrained:
        if part.dtype != dtype and not (quantized and part is language_model):
            for below in part.modules():
                _convert(below, None, dtype)
    for sub in composed.modules():
        if isinstance(sub, PreTrainedModel):
            sub.config.dtype = dtype
    composed.config.bottleneck.dtype = dtype


def _convert(module: nn.Module, device: torch.device | None, dtype: torch.dtype | None) -> None:
    """Bring a module's own tensors to a device and a kind of number; frequencies of positions stay as exact as they are."""
    for tensors in (module._parameters, module._buffers):
        for name, tensor in tensors.items():
            if tensor is not None:
                stays = not tensor.is_floating_point() or name.endswith("inv_freq")
                tensor.data = tensor.data.to(device=device, dtype=None if stays else dtype)


@torch.no_grad()
def _enter_at_the_scale_of_embeddings(composed: Any) -> None:
    """Have a memory that stands before the tokens of a pretrained model begin as large as the embeddings that it knows."""
    decoder = composed.decoder
    if decoder.style != "prefix":
        return
    size = decoder.get_input_embeddings().weight.float().square().mean().sqrt()
    if isinstance(decoder.memory_projection, nn.Linear):
        decoder.memory_projection.weight.normal_(std=float(size) * decoder.memory_projection.in_features**-0.5)
    elif composed.config.bottleneck.kind == "pooled":
        composed.encoder.bottleneck.norm.weight.fill_(float(size))


def _build_generation_config(composed: PreTrainedModel, own: GenerationConfig | None) -> GenerationConfig:
    """The decoder's own settings, with the ids of the whole."""
    generation_config = GenerationConfig() if own is None else copy.deepcopy(own)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"):
        if getattr(generation_config, name, None) is None:
            setattr(generation_config, name, getattr(composed.config, name))
    generation_config._from_model_config = False
    return generation_config


__all__ = ["Part", "compose", "compose_prediction"]

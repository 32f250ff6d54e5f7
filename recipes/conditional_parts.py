"""Parts of a conditional model from its settings: configurations, tokenizers, readers of pictures and recordings.

A new encoder of pictures or recordings gets the reader that Transformers pairs with its model type, fitted to its sizes.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import transformers
from transformers import (
    CONFIG_MAPPING,
    FEATURE_EXTRACTOR_MAPPING,
    IMAGE_PROCESSOR_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.utils import is_torchvision_available

import hf_genext
from hf_genext.genext.configuration_conditioners_genext import refuse_mistyped_names
from recipes.arguments import SettingsError
from recipes.conditional_settings import ModelSettings
from recipes.running import describe_missing_model, resolve_name

_EXAMPLES = {
    "image": "{model_type: vit, hidden_size: 192, image_size: 32, patch_size: 4}",
    "audio": "{model_type: whisper, d_model: 192, num_mel_bins: 80, max_source_positions: 500}",
}
_READERS = {
    "image": ("image_processor", AutoImageProcessor, IMAGE_PROCESSOR_MAPPING),
    "audio": ("feature_extractor", AutoFeatureExtractor, FEATURE_EXTRACTOR_MAPPING),
}
_WHISPER_STRIDE = 2
"""Frames of the features that make one state of Whisper's encoder."""


def open_part(opener: Any, name: str, setting: str, **fields: Any) -> Any:
    """A tokenizer or the like of a pretrained part, by its name.

    Raises:
        SettingsError: if there is no such folder or Hub id.
    """
    try:
        return opener.from_pretrained(resolve_name(name), **fields)
    except OSError as error:
        raise SettingsError(f"{setting}: {describe_missing_model(name, error)}") from error


# Text


def build_tokenizer(part: Any, texts: Iterable[str], settings: ModelSettings, side: str, **kwargs: Any) -> Any:
    """The tokenizer of a pretrained part, or one that is learned from the texts of a side.

    Args:
        part: The encoder or decoder, as the settings have it.
        texts: What to learn from.
        settings: The unit of each side, and the most tokens.
        side: `"source"` or `"target"`.
        kwargs: More that [`hf_genext.train_tokenizer`] takes.
    """
    limit = getattr(settings, f"max_{side}_length")
    if not isinstance(part, str):
        return hf_genext.train_tokenizer(
            texts,
            unit=getattr(settings, f"{side}_unit"),
            lowercase=getattr(settings, f"lowercase_{side}"),
            vocab_size=settings.vocab_size,
            model_max_length=limit,
            **kwargs,
        )
    setting = "encoder" if side == "source" else "decoder"
    if isinstance(open_part(AutoConfig, part, setting), hf_genext.GenextConfig):
        tokenizer = getattr(open_part(hf_genext.GenextProcessor, part, setting), "target_" * (side == "target") + "tokenizer")
        if tokenizer is None:
            raise SettingsError(f"{setting}: the model {part!r} {'reads' if side == 'source' else 'writes'} no text.")
    else:
        tokenizer = open_part(AutoTokenizer, part, setting)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.model_max_length = min(tokenizer.model_max_length, limit)
    return tokenizer


def build_text_config(
    given: dict[str, Any] | None, native: str, tokenizer: PreTrainedTokenizerBase, limit: int
) -> PreTrainedConfig:
    """The configuration of a part that reads or writes tokens, with what its tokenizer says."""
    fields = dict(given or {})
    config_class = _find_config_class(fields, native)
    own = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    takes_limit = config_class.model_type == native or "max_position_embeddings" not in getattr(
        config_class, "attribute_map", {}
    )
    limits = {"max_position_embeddings": limit} if takes_limit and hasattr(config_class(), "max_position_embeddings") else {}
    return config_class(**{**limits, **fields, **own})


def _find_config_class(fields: dict[str, Any], model_type: str | None = None) -> type[PreTrainedConfig]:
    """The class of a configuration, whose model type is taken out of its fields.

    Raises:
        SettingsError: for a model type that Transformers lacks.
        ValueError: for a field that is nearly one of its own.
    """
    model_type = fields.pop("model_type", model_type)
    if model_type not in CONFIG_MAPPING:
        raise SettingsError(f"There is no model_type {model_type!r} in Transformers (of a part with the fields {fields}).")
    config_class = CONFIG_MAPPING[model_type]
    known = {*config_class.__dataclass_fields__, *config_class.attribute_map}
    refuse_mistyped_names(config_class, {name: value for name, value in fields.items() if name not in known})
    return config_class


# Pictures and recordings


def build_media_config(kind: str, given: Mapping[str, Any] | None) -> PreTrainedConfig:
    """The configuration of a new encoder of pictures or recordings.

    Raises:
        SettingsError: without a model type, or for pictures of other than three channels.
    """
    fields = dict(given or {})
    if "model_type" not in fields:
        raise SettingsError(
            f"A condition of kind {kind} needs an encoder: a folder, a Hub id, or fields with a model_type, such as "
            f"{_EXAMPLES[kind]}; got {fields or 'none'}."
        )
    config = _find_config_class(fields)(**fields)
    if kind == "image" and getattr(config, "num_channels", 3) != 3:
        raise SettingsError(f"Pictures are read in red, green and blue, so num_channels must be 3, got {config.num_channels}.")
    return config


def build_media_reader(kind: str, encoder: str | Mapping[str, Any], given: str | Mapping[str, Any] | None) -> Any:
    """An image processor or a feature extractor.

    Args:
        kind: `"image"` or `"audio"`.
        encoder: The encoder, as the settings have it.
        given: A folder or Hub id to take it from; or fields that differ from those of the encoder's own, and for another class
            `image_processor_type` or `feature_extractor_type`.

    Raises:
        SettingsError: if there is none for the encoder, or it gives what the encoder does not read.
    """
    setting, opener, mapping = _READERS[kind]
    if isinstance(given, str):
        return open_part(opener, given, setting)
    fields = dict(given or {})
    if isinstance(encoder, str):
        return open_part(opener, encoder, "encoder", **fields)
    config = build_media_config(kind, encoder)
    name = fields.pop(f"{setting}_type", None)
    reader_class = _find_reader_class(mapping, config.model_type) if name is None else getattr(transformers, str(name), None)
    if reader_class is None:
        missing = f"a {config.model_type} has none of its own" if name is None else f"there is no {name!r} in Transformers"
        example = "ViTImageProcessor" if kind == "image" else "Wav2Vec2FeatureExtractor"
        raise SettingsError(f"{setting}: {missing}. Name another, such as {setting}: {{{setting}_type: {example}}}.")
    unknown = [field for field in fields if not hasattr(reader_class(), field)]
    if unknown:
        raise SettingsError(f"{setting}: a {reader_class.__name__} has no {unknown[0]!r}; it has {_list_fields(reader_class)}.")
    expected = MODEL_MAPPING[type(config)].main_input_name if type(config) in MODEL_MAPPING else None
    if expected is not None and expected not in reader_class.model_input_names:
        raise SettingsError(
            f"{setting}: a {config.model_type} reads {expected}, but a {reader_class.__name__} gives "
            f"{reader_class.model_input_names[0]}. Name another by {setting}_type."
        )
    fit = _fit_image_processor if kind == "image" else _fit_feature_extractor
    return reader_class(**{**fit(reader_class, config, fields), **fields})


def _find_reader_class(mapping: Any, model_type: str) -> Any:
    """The class that Transformers pairs with a model type, or with the whole that a half of that name belongs to."""
    for name in (model_type, model_type.removesuffix("_model").removesuffix("_vision")):
        found = mapping.get(CONFIG_MAPPING[name], None) if name in CONFIG_MAPPING else None
        if isinstance(found, Mapping):
            found = found.get("torchvision" if is_torchvision_available() else "pil") or found.get("torchvision")
        if found is not None:
            return found
    return None


def _list_fields(reader_class: type) -> str:
    return ", ".join(name for name in reader_class().to_dict() if not name.startswith("_") and not name.endswith("_type"))


def _fit_image_processor(reader_class: type, config: PreTrainedConfig, given: Mapping[str, Any]) -> dict[str, Any]:
    """The size of the pictures that an encoder reads, as its image processor writes sizes."""
    size = getattr(config, "image_size", None)
    if size is None:
        return {}
    height, width = (size, size) if isinstance(size, int) else size
    usual, fields = reader_class().to_dict(), {}
    for name in ("size", "crop_size"):
        if usual.get(name):
            is_edge = "height" not in {key for key, value in dict(usual[name]).items() if value is not None}
            fields[name] = {"shortest_edge": min(height, width)} if is_edge else {"height": height, "width": width}
    return fields


def _fit_feature_extractor(reader_class: type, config: PreTrainedConfig, given: Mapping[str, Any]) -> dict[str, Any]:
    """The features that an encoder reads, as its feature extractor names them."""
    parameters = inspect.signature(reader_class.__init__).parameters
    shared = ("num_mel_bins", "max_length")
    fields = {name: getattr(config, name) for name in shared if name in parameters and getattr(config, name, None) is not None}
    if config.model_type != "whisper":
        return fields
    usual = {**reader_class().to_dict(), **given}
    samples = config.max_source_positions * _WHISPER_STRIDE * usual["hop_length"]
    if samples % usual["sampling_rate"]:
        raise SettingsError(
            "Whisper hears whole seconds: max_source_positions must be a multiple of "
            f"{usual['sampling_rate'] // (_WHISPER_STRIDE * usual['hop_length'])}, got {config.max_source_positions}."
        )
    return {**fields, "feature_size": config.num_mel_bins, "chunk_length": samples // usual["sampling_rate"]}


__all__ = ["build_media_config", "build_media_reader", "build_text_config", "build_tokenizer", "open_part"]

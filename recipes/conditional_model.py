"""From settings to a conditional model and its processor: parts by name, folder or fields, joined as the settings say."""

from __future__ import annotations

import copy
import difflib
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import NoneType
from typing import Any

import datasets
import numpy as np
from torch.utils.data import DataLoader
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig, PreTrainedModel

import hf_genext
from hf_genext.conditions import (
    CONDITION_KINDS,
    NUMBER_KINDS,
    find_label_names,
    find_output_names,
    list_kinds,
    stack_targets,
)
from hf_genext.consensus import NAMES, Consensus
from hf_genext.genext.configuration_generative_genext import GENERATED_KINDS
from hf_genext.genext.configuration_heads_genext import DENSITY_KINDS, LINEAR_KINDS
from hf_genext.genext.guidance_genext import check_guidance_scale, require_guidance
from hf_genext.genext.tokenization_genext import REVERSED
from hf_genext.media_columns import MEDIA_KINDS
from hf_genext.pipeline_inputs import check_count
from recipes.arguments import SettingsError
from recipes.conditional_parts import build_media_config, build_media_reader, build_text_config, build_tokenizer
from recipes.conditional_settings import ModelSettings, list_strings
from recipes.running import describe_missing_model, resolve_name

_ROOT = Path(__file__).resolve().parents[1]
_NATIVE_DECODER = "genext_decoder"
_NATIVE_TEXT = "genext_text_conditioner"


# What a recipe needs

_OF_RANKS = ("RANK", "LOCAL_", "WORLD_SIZE", "MASTER_", "TORCHELASTIC_", "GROUP_", "ROLE_", "ACCELERATE_")


def require_needed_models(settings: ModelSettings, conditions: dict[str, Any] | None) -> None:
    """Raise where a folder that another recipe makes is not there; or make it, where `make_missing` says so.

    Raises:
        SettingsError: naming the command that makes it.
    """
    used = set(list_strings([settings.model, settings.encoder, settings.decoder, conditions]))
    for folder, command in (settings.needs or {}).items():
        if folder not in used or (Path(folder) / "config.json").is_file():
            continue
        if not settings.make_missing:
            raise SettingsError(
                f"The model {folder!r} is not there yet. Make it with: {command}   (or add --make_missing true, which runs it)"
            )
        words = str(command).split()
        words = [sys.executable if word == "python" else word for word in words]
        # It is no rank of this training.
        alone = {name: value for name, value in os.environ.items() if not name.startswith(_OF_RANKS)}
        if subprocess.run([*words, "--output_dir", folder], check=False, env=alone).returncode:
            raise SettingsError(f"`{command}` failed; what it said stands above.")


def check_model_settings(settings: ModelSettings) -> None:
    """Raise for settings that do not go together.

    Raises:
        SettingsError: naming both, and which to leave out.
    """
    for kind in CONDITION_KINDS if isinstance(settings.encoder, dict) else ():
        part = settings.encoder.get(kind)
        if not isinstance(part, (str, dict, NoneType)):
            raise SettingsError(
                f"encoder: {kind} must be a folder, a Hub id or fields, such as {{hidden_size: 256}}, got {part!r:.60}."
            )
    building = {
        name: getattr(settings, name)
        for name in ("encoder", "conditioner", "decoder", "bottleneck", "num_latents", "cross_attention", "condition_dropout")
    }
    if settings.encoder is not None and settings.conditioner is not None:
        raise SettingsError(
            "encoder and conditioner both say what reads the condition; conditioner is a text encoder's fields."
        )
    if settings.calibrate and settings.head is None:
        raise SettingsError("calibrate is for the probabilities of a head; leave it out, or give a head.")
    if settings.choose_threshold and (settings.head or {}).get("kind") != "labels":
        raise SettingsError("choose_threshold is for a head of kind labels; leave it out.")
    if settings.calibrate and settings.head.get("kind") in DENSITY_KINDS:
        raise SettingsError(f"calibrate has nothing to fit in a head of kind {settings.head['kind']}; leave it out.")
    if settings.lora is not None and settings.model is not None and (settings.calibrate or settings.choose_threshold):
        name = "calibrate" if settings.calibrate else "choose_threshold"
        raise SettingsError(
            f"{name} finds a number that is kept in the configuration of the model, and an adapter of {settings.model!r} is "
            f"saved without one. Leave {name} out, or tune the model without lora."
        )
    if settings.generative is not None and (settings.head or {}).get("kind", "class") != "class":
        raise SettingsError("generative sums out missing classes, so it is for a head of kind class; leave it out.")
    if settings.generative is not None and settings.head is None:
        raise SettingsError("generative is a part of a classifier; give a head: {kind: class} too, or leave it out.")
    if settings.head is not None:
        for name in ("decoder", "cross_attention"):
            if building[name] is not None:
                raise SettingsError(f"A head gives a single output and a {name} belongs to sequences; leave one of them out.")
        if settings.both_directions:
            raise SettingsError("A head gives a single output, which has no directions; leave both_directions out.")
    if settings.cross_attention is not None and not _is_pretrained_decoder(settings.decoder):
        raise SettingsError("cross_attention chooses how a language model reads the memory; the native decoder has it always.")
    if settings.freeze_encoder and settings.tune_encoder_from_layer is not None:
        raise SettingsError(
            "freeze_encoder keeps all layers as they are, tune_encoder_from_layer those before one; leave one of them out."
        )
    if settings.cache_states and not settings.freeze_encoder:
        raise SettingsError("cache_states keeps what frozen encoders give, so set freeze_encoder: true too.")
    if settings.lora is not None and settings.both_directions:
        raise SettingsError("lora adapts pretrained parts, both_directions is for a native decoder; leave one of them out.")
    if settings.generation is not None and settings.head is not None:
        raise SettingsError("generation is for outputs of several tokens, and a head gives a single one; leave it out.")
    if settings.generation is not None and settings.lora is not None and settings.model is not None:
        raise SettingsError(
            f"generation is saved with a whole model, and an adapter of {settings.model!r} is saved without one. Leave "
            "generation out, or tune the model without lora."
        )
    if settings.both_directions and _is_pretrained_decoder(settings.decoder):
        raise SettingsError("both_directions is for a native decoder, whose vocabulary has a start of its own for each.")


def learns_without_labels(settings: ModelSettings) -> bool:
    """Whether rows to train on may lack their class: a generative half is in the settings, or in the model to go on from."""
    if settings.generative is not None or settings.model is None or settings.head is None:
        return settings.generative is not None
    try:
        return getattr(AutoConfig.from_pretrained(settings.model), "generative", None) is not None
    except OSError as error:
        raise SettingsError(describe_missing_model(settings.model, error)) from error


def _is_pretrained_decoder(decoder: Any) -> bool:
    return isinstance(decoder, str) or (
        isinstance(decoder, dict) and decoder.get("model_type", _NATIVE_DECODER) != _NATIVE_DECODER
    )


# The processor


def build_processor(settings: ModelSettings, train: datasets.Dataset) -> hf_genext.GenextProcessor:
    """The processor of a new model: pretrained parts bring theirs, vocabularies and names of labels come from the rows."""
    kinds = list_kinds(train) if "source" in train.column_names else []
    is_plain = not kinds and not _is_unconditional(train)
    if not kinds and not is_plain and isinstance(settings.encoder, str):
        raise SettingsError(f"Without conditions nothing is encoded, got the encoder {settings.encoder!r}; leave it out.")
    for kind in kinds:
        if all(value is None for value in train[kind]):
            raise SettingsError(f"No row has a {kind}: its column is empty throughout. Take it out of the conditions.")
    encoders = _get_encoders(settings, kinds or ["text"]) if not _is_unconditional(train) else {}
    arguments: dict[str, Any] = {}
    if is_plain or "text" in kinds:
        texts: Iterable[str] = train["source"] if is_plain else (text for text in train["text"] if text is not None)
        arguments["tokenizer"] = build_tokenizer(encoders["text"], texts, settings, "source")
    for kind, setting in (("image", "image_processor"), ("audio", "feature_extractor")):
        given = getattr(settings, setting)
        if kind in kinds:
            arguments[setting] = build_media_reader(kind, encoders[kind], given)
        elif given is not None:
            raise SettingsError(f"{setting} is for conditions of kind {kind}, and there are none; leave it out.")
    if "vector" in kinds:
        arguments["vector_size"] = len(next(vector for vector in train["vector"] if vector is not None))
    if "label" in kinds:
        arguments["label_names"] = find_label_names(train)
    if settings.head is None:
        tokens = [REVERSED] if settings.both_directions else []
        arguments["target_tokenizer"] = build_tokenizer(
            settings.decoder, train["target"], settings, "target", extra_special_tokens=tokens
        )
    elif not kinds and not is_plain:
        arguments["label_names"] = {}  # Nothing is read, and nothing is written as text.
    return hf_genext.GenextProcessor(**arguments)


def _is_unconditional(train: datasets.Dataset) -> bool:
    return not list_kinds(train) and len(train) > 0 and not any(train[:100]["source"])


def _get_encoders(settings: ModelSettings, kinds: list[str]) -> dict[str, Any]:
    """What each condition is read by: a name, or fields."""
    given = settings.encoder if settings.conditioner is None else {"text": settings.conditioner}
    if given is None:
        given = {}
    elif isinstance(given, str) or not set(given) <= set(kinds):
        if len(kinds) > 1:
            raise SettingsError(
                f"There are several conditions ({', '.join(kinds)}), so encoder must have a part for each by its name, such as "
                f"encoder: {{{kinds[0]}: ...}}; got {given!r:.80}."
            )
        given = {kinds[0]: given}
    encoders = {kind: given.get(kind) or {} for kind in kinds}
    for kind in ("vector", "label"):
        if isinstance(encoders.get(kind), str):
            raise SettingsError(
                f"A condition of kind {kind} has no pretrained encoder; give fields, such as hidden_size, got "
                f"{encoders[kind]!r}."
            )
    return encoders


# The model


def _resolve_names(settings: ModelSettings) -> ModelSettings:
    """The settings with the folders of what stands in packages."""
    encoder = settings.encoder
    if isinstance(encoder, dict) and "model_type" not in encoder:
        encoder = {name: resolve_name(part) if isinstance(part, str) else part for name, part in encoder.items()}
    elif isinstance(encoder, str):
        encoder = resolve_name(encoder)
    decoder = resolve_name(settings.decoder) if isinstance(settings.decoder, str) else settings.decoder
    return replace(settings, encoder=encoder, decoder=decoder)


def load_model(
    settings: ModelSettings, train: datasets.Dataset, processor: hf_genext.GenextProcessor | None = None
) -> tuple[PreTrainedModel, hf_genext.GenextProcessor]:
    """An existing model and its processor, or a new model, with vocabularies from the training rows where none are given.

    Args:
        settings: What to build.
        train: Rows with `source` and `target`, or those that [`hf_genext.conditions.read_rows`] gives.
        processor: The processor of a new model, where there is one already.

    Returns:
        The model, not wrapped in an adapter yet, and its processor.

    Raises:
        SettingsError: for a model or part that is not there, or settings that do not go together.
    """
    check_model_settings(settings)
    settings = _resolve_names(settings)
    if settings.model is not None:
        return _open_model(settings)
    processor = processor or build_processor(settings, train)
    given = {} if _is_unconditional(train) else _get_encoders(settings, list_kinds(train) or ["text"])
    parts = {kind: _build_encoder(kind, part, settings, processor) for kind, part in given.items()}
    encoder: Any = parts if len(parts) > 1 else next(iter(parts.values()), None)
    if encoder is None and isinstance(settings.encoder, dict):
        encoder = hf_genext.GenextNullConditionerConfig(**settings.encoder)
    arguments: dict[str, Any] = {
        "bottleneck": settings.bottleneck,
        "num_latents": settings.num_latents,
        "freeze_encoder": bool(settings.freeze_encoder),
        "tune_encoder_from_layer": settings.tune_encoder_from_layer,
        "condition_dropout": settings.condition_dropout,
    }
    try:
        if settings.head is not None:
            head = _build_head_fields(settings.head, train)
            if settings.generative is not None:
                arguments["generative"] = _build_generative_fields(settings.generative, train)
            return hf_genext.GenextForPrediction.from_encoder_pretrained(encoder, head, **arguments), processor
        return _compose(settings, processor, encoder, arguments), processor
    except OSError as error:
        names = [part for part in (*parts.values(), settings.decoder) if isinstance(part, str)]
        raise SettingsError(describe_missing_model(" or ".join(names), error)) from error


def _open_model(settings: ModelSettings) -> tuple[PreTrainedModel, hf_genext.GenextProcessor]:
    model_class = hf_genext.GenextForConditionalGeneration if settings.head is None else hf_genext.GenextForPrediction
    tuning: dict[str, Any] = {}
    if settings.freeze_encoder is not None or settings.tune_encoder_from_layer is not None:
        tuning = {
            "freeze_encoder": bool(settings.freeze_encoder),
            "tune_encoder_from_layer": settings.tune_encoder_from_layer,
        }
    try:
        model = model_class.from_pretrained(settings.model, attn_implementation=settings.attn_implementation, **tuning)
    except OSError as error:
        raise SettingsError(describe_missing_model(str(settings.model), error)) from error
    if (settings.freeze_encoder or settings.tune_encoder_from_layer is not None) and not model.encoder.has_pretrained:
        name = "freeze_encoder" if settings.freeze_encoder else "tune_encoder_from_layer"
        raise SettingsError(f"{name} is for pretrained encoders, and {settings.model!r} has none; leave it out.")
    processor = hf_genext.GenextProcessor.from_pretrained(settings.model)
    if settings.both_directions and model.config.reversed_start_token_id is None:
        _teach_second_direction(model, processor, settings)
    if settings.condition_dropout is not None:
        if not hasattr(model.config.conditioner, "condition_dropout"):
            raise SettingsError(
                f"{settings.model!r} has no null states that could stand for its condition, so condition_dropout cannot be "
                "switched on. Leave it out, or train a new model."
            )
        model.config.conditioner.condition_dropout = settings.condition_dropout
    if settings.head is not None and settings.head.get("kind", "class") != model.config.head.kind:
        raise SettingsError(
            f"{settings.model!r} has a head of kind {model.config.head.kind}, got head: {{kind: "
            f"{settings.head.get('kind', 'class')}}}. Name its own kind, or train a new model."
        )
    # What the settings changed is checked as a new configuration is.
    hf_genext.GenextConfig.from_dict(model.config.to_dict())
    return model, processor


def _teach_second_direction(model: PreTrainedModel, processor: hf_genext.GenextProcessor, settings: ModelSettings) -> None:
    """Give a model that writes forwards the start token from which it learns to write from the end."""
    if model.config.decoder.model_type != "genext_decoder":
        raise SettingsError(
            f"both_directions is for a native decoder, and that of {settings.model!r} is of type "
            f"{model.config.decoder.model_type}; leave it out."
        )
    tokenizer = processor.target_tokenizer
    tokenizer.add_special_tokens({"extra_special_tokens": [REVERSED]}, replace_extra_special_tokens=False)
    reversed_start = tokenizer.convert_tokens_to_ids(REVERSED)
    if reversed_start >= model.config.decoder.vocab_size:
        model.resize_token_embeddings(reversed_start + 1)
    model.config.reversed_start_token_id = reversed_start


def _compose(
    settings: ModelSettings, processor: hf_genext.GenextProcessor, encoder: Any, arguments: dict[str, Any]
) -> PreTrainedModel:
    tokenizer = processor.target_tokenizer
    decoder: Any = settings.decoder
    # A decoder that was trained before says itself whether it shares its embedding.
    tie = True if settings.tie_word_embeddings is None and not isinstance(decoder, str) else settings.tie_word_embeddings
    is_native = not _is_pretrained_decoder(decoder)
    if not isinstance(decoder, str):
        decoder = build_text_config(decoder, _NATIVE_DECODER, tokenizer, settings.max_target_length)
    model = hf_genext.GenextForConditionalGeneration.from_encoder_decoder_pretrained(
        encoder,
        decoder,
        **arguments,
        **({} if is_native else {"cross_attention": settings.cross_attention}),
        reversed_start_token_id=tokenizer.convert_tokens_to_ids(REVERSED) if settings.both_directions else None,
        **({} if tie is None else {"tie_word_embeddings": tie}),
        # "sdpa" is what parts choose by themselves, where they can; ResNet's kind cannot.
        attn_implementation=None if settings.attn_implementation == "sdpa" else settings.attn_implementation,
    )
    if isinstance(decoder, str):
        # The language model's own length would be a second limit, of which each call would warn.
        model.generation_config.max_length, model.generation_config.max_new_tokens = None, settings.max_target_length
        return model
    config = model.config
    model.generation_config = GenerationConfig(
        max_new_tokens=settings.max_target_length,
        decoder_start_token_id=config.decoder_start_token_id,
        pad_token_id=config.pad_token_id,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
    )
    return model


def _build_encoder(
    kind: str, given: str | dict[str, Any], settings: ModelSettings, processor: hf_genext.GenextProcessor
) -> str | PreTrainedConfig:
    if isinstance(given, str):
        return given
    if kind == "text":
        return build_text_config(given, _NATIVE_TEXT, processor.tokenizer, settings.max_source_length)
    if kind in MEDIA_KINDS:
        return build_media_config(kind, given)
    if kind == "vector":
        return hf_genext.GenextVectorConditionerConfig(**_join(given, "vector_size", processor.vector_size))
    counts = [len(names) for names in processor.label_names.values()]
    return hf_genext.GenextLabelConditionerConfig(**_join(given, "label_counts", counts))


def _join(given: dict[str, Any], name: str, found: Any) -> dict[str, Any]:
    """The fields of an encoder, with what the data say; what the settings say of it must be the same."""
    if given.get(name, found) != found:
        raise SettingsError(
            f"encoder: {name} is {given[name]!r}, but the data have {found!r}. Leave it out, or correct the data."
        )
    return {**given, name: found}


def _build_head_fields(head: dict[str, Any], train: datasets.Dataset, setting: str = "head") -> dict[str, Any]:
    """A head's fields, with what the rows say: the names of outputs, or how many numbers there are, their means and spreads."""
    kind = head.get("kind", "class")
    if kind == "image":
        _check_pixels(hf_genext.GenextHeadConfig(**head), stack_targets(train), setting)
        return head
    if kind in NUMBER_KINDS:
        numbers = stack_targets(train)
        unknown = np.flatnonzero(np.isnan(numbers).all(axis=0))
        if len(unknown):
            raise SettingsError(
                f"Number {unknown[0] + 1} of {numbers.shape[1]} of the targets is missing in every row to train on, so there "
                "is nothing to learn it from. Leave its column out of target_columns."
            )
        spread = np.nanstd(numbers, axis=0)
        constant = np.flatnonzero(np.ptp(numbers, axis=0) == 0)
        if kind != "regression" and len(constant):
            raise SettingsError(
                f"Number {constant[0] + 1} of {numbers.shape[1]} of the targets is {numbers[0, constant[0]]:g} in every row, "
                "so its variance is 0 and no density has it. Leave it out."
            )
        found: dict[str, Any] = {"num_outputs": numbers.shape[1]}
        if kind not in LINEAR_KINDS:  # Which find the means themselves, and mean what they find by the scales.
            found["output_means"] = np.nanmean(numbers, axis=0).tolist()
            found["output_scales"] = np.where(spread > 0, spread, 1.0).tolist()
        return {**found, **head, "kind": kind}
    return {"output_names": find_output_names(train, kind), **head, "kind": kind}


def _build_generative_fields(generative: dict[str, Any], train: datasets.Dataset) -> dict[str, Any]:
    """The fields of a generative half, its head with what the vectors of the rows say."""
    head, kinds = generative.get("head"), list_kinds(train)
    if not isinstance(head, dict) or head.get("kind") not in GENERATED_KINDS:
        raise SettingsError(
            f"generative needs a head that says what it generates, of kind {', '.join(GENERATED_KINDS)}; got {head!r:.80}. "
            "Write for example generative: {head: {kind: regression}, bottleneck: {latent_size: 8}}."
        )
    if "vector" not in kinds:
        raise SettingsError(
            f"generative is a model of the vector that the classifier reads, and the conditions are {', '.join(kinds)}. Add a "
            "vector to conditions, or leave generative out."
        )
    there = train.filter(lambda vector: vector is not None, input_columns="vector")
    vectors = there.select_columns("vector").rename_column("vector", "target")
    return {**generative, "head": _build_head_fields(head, vectors, "generative: head")}


def check_generation(model: PreTrainedModel, fields: dict[str, Any]) -> None:
    """Raise for defaults of generation that a model cannot have.

    Args:
        model: The model, with its own.
        fields: What they are to differ in.

    Raises:
        SettingsError: for a name that is none of theirs, or a value that they cannot have.
    """
    for name, value in fields.items():
        if value and (name.startswith("output_") or name == "return_dict_in_generate"):
            raise SettingsError(f"generation: {name} changes what is given, not how it is found; leave it out.")
    config = copy.deepcopy(model.generation_config)
    try:
        for name in ("num_beams", "num_return_sequences", "max_new_tokens", "num_candidates"):
            check_count(name, fields.get(name))
        if Consensus.find(model, fields) is None and NAMES[1] in fields:
            raise ValueError("candidate_temperature is that of num_candidates, which is missing; give both.")
        unknown = [name for name in config.update(**fields) if name not in NAMES]
        config.validate(strict=True)
        if config.guidance_scale is not None and check_guidance_scale(config.guidance_scale) != 1.0:
            require_guidance(model)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"generation: {error}") from error
    if unknown:
        meant = difflib.get_close_matches(unknown[0], [*GenerationConfig().to_dict(), *NAMES], n=1)
        hint = f" Did you mean {meant[0]!r}?" if meant else " It takes what generate takes, such as num_beams."
        raise SettingsError(f"generation has no {unknown[0]!r}.{hint}")


def fit_linear_parts(model: PreTrainedModel, rows: Any, collator: Any, batch_size: int) -> bool:
    """Fit a linear bottleneck that has no components yet, and a linear head, to the training rows.

    Args:
        model: The model, not wrapped in an adapter.
        rows: What it is trained on.
        collator: Makes batches of them.
        batch_size: Rows of a batch.

    Returns:
        Whether that is all there is to learn: the head is fitted, not trained.

    Raises:
        SettingsError: for rows that have no such fit.
    """
    head, bottleneck = model.config.head, model.config.bottleneck
    is_all = head is not None and head.kind in LINEAR_KINDS
    if is_all or (bottleneck.kind == "linear" and not bottleneck.is_fitted):
        try:
            model.fit(DataLoader(rows, batch_size, collate_fn=collator))
        except ValueError as error:
            raise SettingsError(f"{'head' if is_all else 'bottleneck'}: {error}") from error
    return is_all


def _check_pixels(head: hf_genext.GenextHeadConfig, pixels: np.ndarray, setting: str) -> None:
    """Raise where the images of the rows are not those of the head."""
    if pixels.shape[1] != head.num_outputs:
        raise SettingsError(
            f"{setting}: output_shape {head.output_shape} has {head.num_outputs} pixels, but the rows {pixels.shape[1]}."
        )
    if pixels.min() < 0 or pixels.max() >= head.num_levels or (pixels != pixels.round()).any():
        raise SettingsError(
            f"{setting}: num_levels is {head.num_levels}, so pixels are whole numbers from 0 to {head.num_levels - 1}; those "
            f"of the rows go from {pixels.min():g} to {pixels.max():g}. Set num_levels, or scale the pixels."
        )


def adapt(model: PreTrainedModel, fields: dict[str, Any]) -> Any:
    """The model with a low-rank adapter; what is fresh is trained along with it.

    Raises:
        SettingsError: if there is nothing to adapt, or a field that PEFT does not know.
    """
    import peft

    try:
        return peft.get_peft_model(model, hf_genext.build_lora_config(model, **fields))
    except (TypeError, ValueError) as error:
        raise SettingsError(f"lora: {error}") from error


__all__ = [
    "adapt",
    "build_processor",
    "check_generation",
    "check_model_settings",
    "fit_linear_parts",
    "learns_without_labels",
    "load_model",
    "require_needed_models",
]

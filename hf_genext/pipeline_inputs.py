"""Conditions as people give them to a pipeline, to a model's inputs: ours, and those of any encoder-decoder in Transformers.

Legend: batch, length (input positions).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from .genext.latents_genext import check_number
from .genext.seeding_genext import check_seed
from .genext.tokenization_genext import require_unicode
from .languages import find_language, list_languages, speaking
from .media import open_condition
from .position_limits import find_source_limit

ARGUMENTS = {
    "text": "text",
    "image": "images",
    "audio": "audio",
    "vector": "condition_vectors",
    "label": "condition_labels",
    "sampling_rate": "sampling_rate",
}
"""What a condition is called in a dictionary, and by a processor."""

_CONDITIONS = {
    "input_ids": "text",
    "pixel_values": "image",
    "input_features": "audio",
    "input_values": "audio",
    "condition_vectors": "vector",
    "condition_labels": "label",
}
"""What a condition is called in a dictionary, by the input of a model that it becomes."""

_RECORDING = {"array", "sampling_rate", "path", "bytes"}
"""What a recording of a dataset may have."""

_KINDS_OF_TEXTS = ("O", "U", "T")
"""Kinds of NumPy's and pandas' columns that can hold texts: objects, and strings of both sorts."""


@dataclass
class Row:
    """One input of a pipeline on its way, with what goes with it alone.

    Attributes:
        condition: As it was given.
        seed: Its seed and its place.
        targets: Outputs to be scored.
        channel: Takes its text as it grows.
        was_cut: Whether the text or the recording was too long, and cut.
    """

    condition: Any
    seed: tuple[int, int] | None = None
    targets: list[Any] | None = None
    channel: Any = None
    was_cut: bool = False


@dataclass(frozen=True)
class TextOptions:
    """How texts are read.

    Attributes:
        truncation: Whether a text or a recording that is too long is cut; it is an error otherwise.
        prefix: Put before each text; T5's kind of models know their task by it.
        src_lang: Code of the language of the texts, of models that translate.
        tgt_lang: Code of the language to translate into.
    """

    truncation: bool = False
    prefix: str = ""
    src_lang: str | None = None
    tgt_lang: str | None = None


READING_ARGUMENTS = tuple(field.name for field in fields(TextOptions))
"""Arguments of a call that say how texts are read."""


def parse_truncation(truncation: bool | str) -> bool:
    """`True` or `"truncate"`, and `False` or `"error"`.

    Raises:
        ValueError: for anything else.
    """
    known = {True: True, "truncate": True, False: False, "error": False}
    if not isinstance(truncation, (bool, str)) or truncation not in known:
        raise ValueError(f'truncation must be "error" (or False) or "truncate" (or True), got {truncation!r}.')
    return known[truncation]


def check_count(name: str, count: object) -> None:
    """Raise unless a number of beams, outputs or rows is one, or left out; `generate` takes 0 for 1.

    Raises:
        ValueError: for anything but a whole number of 1 or more.
    """
    if count is not None:
        check_number(name, count)


def _write_ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """What a tokenizer's call gives for texts without padding and truncation.

    By what is below it where its class changes nothing: for a short text the call itself takes longer than its work.
    """
    kind, usual = type(tokenizer), PreTrainedTokenizerFast
    if not issubclass(kind, usual) or (kind.__call__, kind._encode_plus) != (usual.__call__, usual._encode_plus):
        return tokenizer(texts, return_attention_mask=False, return_token_type_ids=False)["input_ids"]
    backend = tokenizer.backend_tokenizer
    if backend.padding is not None:
        backend.no_padding()
    if backend.truncation is not None:
        backend.no_truncation()
    if backend.encode_special_tokens != tokenizer.split_special_tokens:
        backend.encode_special_tokens = tokenizer.split_special_tokens
    if len(texts) == 1:
        return [backend.encode(texts[0]).ids]
    return [encoding.ids for encoding in backend.encode_batch(texts)]


HUGE_TEXT = 100_000
"""Characters of a text that is looked at before it is tokenized."""


class ConditionReader:
    """Reads conditions for a model by its processor, or by the parts that it has instead of one.

    Args:
        model: The model.
        processor: Its processor, if there is one.
        tokenizer: What reads text.
        image_processor: What reads pictures, where there is no processor of several parts.
        feature_extractor: What reads recordings, likewise.
    """

    def __init__(
        self, model: PreTrainedModel, processor: Any, tokenizer: Any, image_processor: Any, feature_extractor: Any
    ) -> None:
        self._model, self._processor, self._tokenizer = model, processor, tokenizer
        self._image_processor = getattr(processor, "image_processor", None) or image_processor
        self._feature_extractor = getattr(processor, "feature_extractor", None) or feature_extractor
        self._is_ours = hasattr(processor, "read_conditions")
        self._num_positions = find_source_limit(model)
        has_others = hasattr(getattr(model.config, "conditioner", None), "conditioners")
        self._reads_text_alone = (
            self._is_ours and not has_others and self._find_medium() is None and self.list_conditions() == ["text"]
        )

    def read(self, given: Any, options: TextOptions) -> tuple[dict[str, torch.Tensor], bool]:
        """One condition to the model's inputs, with a batch of one, and whether its text or its recording was cut.

        Raises:
            TypeError: for what is no condition.
            ValueError: for a text without content, a text or a recording longer than the model takes, or a condition that the
                model lacks.
        """
        condition = self.name(given)
        known = self.list_conditions() if self._is_ours else ()
        for kind, many in (("image", "pictures"), ("audio", "recordings")):
            if known and condition.get(kind) is not None and kind not in known:
                raise ValueError(f"This model reads no {many}; it takes {', '.join(known)}.")
        rate = getattr(self._feature_extractor, "sampling_rate", None)
        condition = open_condition({name: value for name, value in condition.items() if value is not None}, rate)
        is_cut = False
        if "text" in condition:
            require_unicode(options.prefix, "The prefix")
            text = options.prefix + _require_content(condition["text"])
            condition["text"], is_cut = self._shorten(text, options.truncation)
        if not any(name in condition for name in ARGUMENTS if name != "sampling_rate"):
            return self._make_unconditional(), False
        is_cut |= "audio" in condition and self._check_recording(condition["audio"], options.truncation)
        inputs, was_cut = (self._read_with_processor if self._is_ours else self._read_with_parts)(condition, options)
        return inputs, was_cut or is_cut

    def read_texts(self, texts: Sequence[Any]) -> list[dict[str, np.ndarray]] | None:
        """Texts to what [`read`] gives for each of them, read together, as arrays: many small tensors would take longer.

        Returns:
            `None` where that would not be the same: for anything but texts with some content that the model takes whole, and
            for a model of more than text.
        """
        if not self._reads_text_alone or not all(isinstance(text, str) and text.strip() for text in texts) or not texts:
            return None
        if max(map(len, texts)) > HUGE_TEXT:
            return None
        try:
            rows = _write_ids(self._processor.tokenizer, list(texts))
        except TypeError:  # One is no text that can be written; read by itself it says so.
            return None
        lengths = [len(ids) for ids in rows]
        if max(lengths) >= self._limit:
            return None
        if len(rows) == 1:
            tokens = np.array(rows, dtype=np.int64)
            return [{"input_ids": tokens, "attention_mask": np.ones_like(tokens)}]
        # All at once, and then apart.
        tokens = np.array([[*itertools.chain.from_iterable(rows)]], dtype=np.int64)
        mask, ends = np.ones_like(tokens), itertools.accumulate(lengths)
        return [
            {"input_ids": tokens[:, end - length : end], "attention_mask": mask[:, end - length : end]}
            for length, end in zip(lengths, ends, strict=True)
        ]

    @property
    def _limit(self) -> int:
        """The longest text in tokens: as long as the tokenizer says, and as the model has positions."""
        limit = self._tokenizer.model_max_length
        return limit if self._num_positions is None else min(limit, self._num_positions)

    def _list_lengths(self, options: TextOptions) -> dict[str, Any]:
        """How a tokenizer is to cut."""
        is_shorter = self._num_positions is not None and self._limit < self._tokenizer.model_max_length
        return {"truncation": options.truncation} | ({"max_length": self._limit} if options.truncation and is_shorter else {})

    def list_conditions(self) -> list[str]:
        """What the model is given: some of text, image, audio, vector and label, or nothing."""
        conditioner = getattr(getattr(self._model, "encoder", None), "conditioner", None)
        if conditioner is None:
            return [self._find_main()]
        return list(dict.fromkeys(_CONDITIONS[name] for name in conditioner.input_names if name in _CONDITIONS))

    def name(self, given: Any) -> dict[str, Any]:
        """A condition as a dictionary of its parts.

        Raises:
            TypeError: for what is no condition.
        """
        if isinstance(given, str):
            return {(self._find_medium() or "text") if self._is_ours else self._find_main(): given}
        if hasattr(given, "getbands"):
            return {"image": given}
        is_recording = isinstance(given, Mapping) and "array" in given and _RECORDING.issuperset(given)
        if is_recording or hasattr(given, "get_all_samples"):
            return {"audio": given}
        is_stored = isinstance(given, Mapping) and bool(given) and {"bytes", "path"}.issuperset(given)
        if is_stored or isinstance(given, (bytes, bytearray, memoryview, os.PathLike)):
            return {self._find_medium() or self._find_main(): given}
        if hasattr(given, "shape") and hasattr(given, "dtype"):
            main = self._find_main()
            if main == "vector" and len(given.shape) > 1:
                raise ValueError(
                    f"An array of the shape {tuple(given.shape)} may be {given.shape[0]:,} conditions or one of several "
                    'vectors. Give list(array) for the former, {"vector": array} for the latter.'
                )
            return {main: given}
        if isinstance(given, (list, tuple)) and given and self._find_main() == "vector":
            return {"vector": given}
        unknown = [name for name in given if name not in ARGUMENTS] if isinstance(given, Mapping) else [given]
        if unknown:
            told = (
                f"a dictionary with {unknown[0]!r}" if isinstance(given, Mapping) else f"{type(given).__name__} ({given!r:.80})"
            )
            raise TypeError(
                f"A condition must be a string, or a dictionary with some of {', '.join(ARGUMENTS)}; got {told}. Of a dataset "
                'pass one column, such as dataset["word"].'
            )
        return dict(given)

    def _find_medium(self) -> str | None:
        """What a path leads to: a picture or a recording, where our model reads one of them and no text."""
        kinds = {"image": self._image_processor, "audio": self._feature_extractor}
        found = [kind for kind, reader in kinds.items() if reader is not None]
        reads_text = getattr(self._processor, "tokenizer", None) is not None
        return found[0] if len(found) == 1 and not reads_text else None

    def _find_main(self) -> str:
        """The condition that is meant by something without a name."""
        kind = _CONDITIONS.get(self._model.main_input_name, "text")
        if kind not in ("text", "label"):
            return kind
        if self._is_ours or (self._image_processor is None and self._feature_extractor is None):
            return "text"
        return "image" if self._feature_extractor is None else "audio"

    def _read_with_processor(self, condition: dict[str, Any], options: TextOptions) -> tuple[dict[str, torch.Tensor], bool]:
        if options.src_lang or options.tgt_lang:
            raise ValueError("This model was not given languages to choose from: leave out src_lang= and tgt_lang=.")
        arguments = {ARGUMENTS[name]: value if name == "sampling_rate" else [value] for name, value in condition.items()}
        kwargs = self._list_lengths(options) if "text" in condition else {}
        inputs = self._processor(**self._mark_missing(arguments), return_tensors="pt", **kwargs)
        was_cut = False
        if "text" in condition:
            was_cut = self._check_length(condition["text"], inputs["input_ids"].shape[-1], options.truncation)
        return dict(inputs), was_cut

    def _read_with_parts(self, condition: dict[str, Any], options: TextOptions) -> tuple[dict[str, torch.Tensor], bool]:
        readers = {"text": self._tokenizer, "image": self._image_processor, "audio": self._feature_extractor}
        if _CONDITIONS.get(self._model.main_input_name, "text") != "text":
            readers["text"] = None  # The tokenizer is that of the outputs.
        unread = [name for name in condition if name != "sampling_rate" and readers.get(name) is None]
        if unread:
            known = [name for name, reader in readers.items() if reader is not None]
            hint = " What outputs begin with is target_prefix=." if unread[0] == "text" else ""
            raise ValueError(f"This pipeline reads no {unread[0]}; it has what reads {', '.join(known) or 'nothing'}.{hint}")
        inputs: dict[str, torch.Tensor] = {}
        was_cut = False
        if "image" in condition:
            inputs.update(self._image_processor(images=condition["image"], return_tensors="pt"))
        if "audio" in condition:
            rate = condition.get("sampling_rate")
            if rate is None:
                raise ValueError(
                    "Say how many samples a second the audio has: give {'array': ..., 'sampling_rate': ...}. The model takes "
                    f"{self._feature_extractor.sampling_rate}."
                )
            # Whisper's features are as long as its window always; others are padded to the longest of a batch.
            masks = {} if hasattr(self._feature_extractor, "n_samples") else {"return_attention_mask": True}
            inputs.update(self._feature_extractor(condition["audio"], sampling_rate=rate, return_tensors="pt", **masks))
        if "text" in condition:
            encoded = self._tokenize(condition["text"], options)
            was_cut = self._check_length(condition["text"], encoded["input_ids"].shape[-1], options.truncation)
            inputs.update(encoded)
        inputs.pop("token_type_ids", None)
        return inputs, was_cut

    def _tokenize(self, text: str, options: TextOptions) -> dict[str, torch.Tensor]:
        with speaking(self._tokenizer, src_lang=options.src_lang):
            return dict(self._tokenizer(text, return_tensors="pt", **self._list_lengths(options)))

    def list_languages(self) -> list[str]:
        """The codes that `src_lang` and `tgt_lang` may have; none where a tokenizer has no languages to choose from."""
        return list_languages(self._tokenizer)

    def find_language(self, code: str) -> int:
        """The token of a language's code.

        Raises:
            ValueError: for a code that the tokenizer lacks.
        """
        return find_language(self._tokenizer, code)

    def _shorten(self, text: str, truncation: bool) -> tuple[str, bool]:
        """A text, of one that no tokens of the model can hold its beginning, and whether that is so.

        A tokenizer takes minutes for some megabytes, of which the model would take a page.
        """
        if len(text) <= HUGE_TEXT or self._tokenizer is None:
            return text, False
        longest = max(map(len, self._tokenizer.get_vocab()))
        limit = self._limit
        most = 4 * limit * longest  # Normalization may make several letters one.
        if len(text) <= most or sum(map(len, text.split())) <= most:
            return text, False
        if not truncation:
            raise ValueError(
                f"The condition {text[:40]!r}... has {len(text):,} characters; the model takes {limit} tokens. Shorten it, or "
                'pass truncation="truncate".'
            )
        end = most
        while sum(map(len, text[:end].split())) < most:
            end *= 2
        return text[:end], True

    def _check_length(self, text: str, length: int, truncation: bool) -> bool:
        """Whether a text was cut; an error where it had to be, and may not."""
        limit = self._limit
        if truncation:
            return length >= limit and len(self._tokenizer(text, truncation=False)["input_ids"]) > limit
        if length > limit:
            raise ValueError(
                f"The condition {text[:40]!r}... has {length} tokens; the model takes {limit}. Shorten it, or pass "
                'truncation="truncate".'
            )
        return False

    def _check_recording(self, waves: Any, truncation: bool) -> bool:
        """Whether a recording is cut, as Whisper's features are those of its window always; an error where it may not be."""
        window = getattr(self._feature_extractor, "n_samples", None)
        if window is None or len(waves) <= window:
            return False
        rate = self._feature_extractor.sampling_rate
        if not truncation:
            raise ValueError(
                f"The recording has {len(waves):,} samples ({len(waves) / rate:.1f} seconds); the model takes {window:,} "
                f'({window / rate:.1f}). Cut it into pieces, or pass truncation="truncate".'
            )
        return True

    def _mark_missing(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Say which of several conditions are missing, so that all rows of a batch have the same tensors."""
        if not hasattr(self._model.config, "conditioner") or not hasattr(self._model.config.conditioner, "conditioners"):
            return arguments
        known = set(self._processor.model_input_names)
        readable = {"text": "input_ids", "condition_vectors": "condition_vectors", "condition_labels": "condition_labels"}
        return {**{name: [None] for name, tensor in readable.items() if tensor in known}, **arguments}

    def _make_unconditional(self) -> dict[str, torch.Tensor]:
        encoder = self._model.get_encoder() if hasattr(self._model, "get_encoder") else None
        if encoder is None or not getattr(encoder, "can_be_unconditional", False):
            raise ValueError("This model needs a condition: it must be a string, or a dictionary of conditions, got none.")
        return {"condition_mask": torch.zeros(1, encoder.num_conditions, dtype=torch.long)}


def is_many(inputs: Any) -> bool:
    """Whether a pipeline answers each of the inputs: a list, a dataset, a generator."""
    return isinstance(inputs, (list, Dataset, Iterator))


def iterate_inputs(inputs: Any) -> Iterator[Any]:
    """Each of many inputs, also of a dataset that is read by places alone."""
    if isinstance(inputs, Dataset) and hasattr(inputs, "__len__"):
        return (inputs[place] for place in range(len(inputs)))
    return iter(inputs)


def check_seeds(seed: int | Sequence[int], inputs: Any) -> int | list[int]:
    """One seed for all of many inputs, or one for each.

    Raises:
        ValueError: for what is no seed, or where there are not as many as inputs.
    """
    given: Any = seed.tolist() if hasattr(seed, "tolist") else seed  # Of NumPy and torch.
    if not isinstance(given, Iterable) or isinstance(given, (str, bytes)):
        return check_seed(given)
    seeds = [check_seed(one) for one in given]
    if is_many(inputs) and hasattr(inputs, "__len__") and len(inputs) != len(seeds):
        raise ValueError(f"There are {len(inputs):,} inputs, but {len(seeds):,} seeds; give one for each, or one for all.")
    return seeds


def pair_with_seeds(inputs: Iterator[Any], seeds: int | list[int]) -> Iterator[Row]:
    """Inputs with their seeds: one for each, or one for all with each input's place."""
    for place, condition in enumerate(inputs):
        if isinstance(seeds, list) and place >= len(seeds):
            raise ValueError(f"There are more inputs than the {len(seeds):,} seeds; give one for each, or one for all.")
        yield Row(condition, seed=(seeds, place) if isinstance(seeds, int) else (seeds[place], 0))


def list_columns(inputs: Any) -> Any:
    """What has many inputs as a list: a tuple, a column of a `datasets` dataset, texts in an array or a series of pandas.

    What is read but once becomes a generator, and all else stays as it is.
    """
    if getattr(inputs, "ndim", None) == 1 and getattr(getattr(inputs, "dtype", None), "kind", None) in _KINDS_OF_TEXTS:
        return inputs.tolist()
    if isinstance(inputs, Sequence) and not isinstance(inputs, (str, bytes, bytearray, memoryview, list)):
        return list(inputs)
    if isinstance(inputs, Iterable) and not isinstance(inputs, (Sized, Dataset)):
        return (given for given in inputs)
    return inputs


def _require_content(text: Any) -> str:
    if not isinstance(text, str):
        shown = " ".join(repr(text).split())
        raise TypeError(
            f"A condition's text must be a string, got {type(text).__name__} ({shown:.80}). Where the model reads more, give a "
            'picture as {"image": ...}, a recording as {"audio": ...}, numbers as {"vector": ...}.'
        )
    if not text.strip():
        raise ValueError(f"A condition must have some content, got {text!r}.")
    require_unicode(text, "The condition")
    return text


__all__ = [
    "ARGUMENTS",
    "READING_ARGUMENTS",
    "ConditionReader",
    "Row",
    "TextOptions",
    "check_count",
    "check_seeds",
    "is_many",
    "iterate_inputs",
    "list_columns",
    "pair_with_seeds",
    "parse_truncation",
]

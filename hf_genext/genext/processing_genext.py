"""The processor: raw conditions to tensors, targets to labels, and generated ids to text.

Legend: batch, length (input positions), target (output positions), channels, height, width (of an image), fields (of labels),
count, size (of vectors).
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import torch
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoTokenizer,
    BatchFeature,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.utils import cached_file

OUTPUTS_NAME = "allowed_outputs.json"
"""The file of a model's folder that holds the outputs that it may give."""

_HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "revision", "token")
_ACCESS_ARGUMENTS = ("cache_dir", "local_files_only", "token")
_PARTS = ("tokenizer", "target_tokenizer", "image_processor", "feature_extractor")
_READS = {
    "text": ("tokenizer", "text"),
    "images": ("image_processor", "pictures"),
    "audio": ("feature_extractor", "audio"),
    "condition_vectors": ("vector_size", "vectors"),
    "condition_labels": ("label_names", "labels"),
}

CONDITION_ARGUMENTS = {
    "text": "text",
    "image": "images",
    "audio": "audio",
    "vector": "condition_vectors",
    "label": "condition_labels",
}
"""What a condition is called in a dictionary, and among the processor's arguments."""


class _PartNames:
    """The names of the parts that a processor can have, asked of the class, or has, asked of a processor."""

    def __get__(self, processor: ProcessorMixin | None, owner: type) -> Callable[[], list[str]]:
        def get_attributes() -> list[str]:
            return [name for name in _PARTS if processor is None or getattr(processor, name, None) is not None]

        return get_attributes


class GenextProcessor(ProcessorMixin):
    """What turns the conditions and targets of a model into tensors, saved and opened as one.

    `tokenizer` reads the source and stands at the root of the folder, so that `AutoTokenizer` finds it; `target_tokenizer`
    writes and reads the target and stands in the subfolder `target_tokenizer`. They differ where the task does: letters on
    one side, phonemes on the other. A processor has the parts that its model's conditions need, and no others.

    Where several conditions are fused, `None` in place of a row's condition says that it is missing: such a text has no
    attention, such labels are -1, such a picture, recording or vector is not a number.

    Args:
        tokenizer: The tokenizer of the source.
        target_tokenizer: The tokenizer of the target; the source's if left out.
        image_processor: Reads pictures.
        feature_extractor: Reads audio.
        label_names: The names of the labels of each field, in the order of their numbers: a dictionary, or pairs of a field and
            its names. An empty one makes a processor that reads nothing, for a single output without any condition.
        vector_size: Numbers in a vector.

    Raises:
        ValueError: if a tokenizer has no padding token, or there is no part at all.

    Example:
        >>> from hf_genext import GenextProcessor, train_tokenizer
        >>> processor = GenextProcessor(
        ...     tokenizer=train_tokenizer(["cat"], unit="character"),
        ...     target_tokenizer=train_tokenizer(["K AE T"], unit="word"),
        ...     label_names={"accent": ["us", "uk"]},
        ... )
        >>> batch = processor(
        ...     text=["cat", "at"],
        ...     condition_labels=["uk", "us"],
        ...     text_target=["K AE T", "AE T"],
        ...     padding=True,
        ...     return_tensors="pt",
        ... )
        >>> {name: tuple(tensor.shape) for name, tensor in batch.items()}
        {'input_ids': (2, 4), 'attention_mask': (2, 4), 'condition_labels': (2, 1), 'labels': (2, 4)}
        >>> processor.batch_decode(batch["labels"], skip_special_tokens=True)
        ['K AE T', 'AE T']
    """

    get_attributes = _PartNames()
    outputs_file: str | None = None
    """Of a processor that was opened: the file beside it that holds the outputs which the model may give, if there is one."""
    access: Mapping[str, Any] = MappingProxyType({})
    """Of a processor that was opened: the `token` and what else opens a file beside it. It is never saved."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None = None,
        target_tokenizer: PreTrainedTokenizerBase | None = None,
        image_processor: Any | None = None,
        feature_extractor: Any | None = None,
        label_names: Mapping[str, Sequence[str]] | Sequence[tuple[str, Sequence[str]]] | None = None,
        vector_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        target_tokenizer = tokenizer if target_tokenizer is None else target_tokenizer
        given = dict(zip(_PARTS, (tokenizer, target_tokenizer, image_processor, feature_extractor), strict=True))
        for name in _PARTS[:2]:
            part = given[name]
            if isinstance(part, PreTrainedTokenizerBase) and part.pad_token_id is None:
                raise ValueError(
                    f"The {name} has no padding token, so batches of unequal length cannot be built. Set one first, for "
                    f"example {name}.pad_token = {name}.eos_token."
                )
        if label_names is None and vector_size is None and not any(part is not None for part in given.values()):
            raise ValueError(
                f"A processor needs one part at least: {', '.join(_PARTS)}, label_names or vector_size. For a model that reads "
                "nothing give label_names={}."
            )
        for name, part in given.items():
            setattr(self, name, part)
        self.label_names = None if label_names is None else {field: list(names) for field, names in dict(label_names).items()}
        self.vector_size = vector_size
        super().__init__(**{name: part for name, part in given.items() if part is not None}, **kwargs)

    def __call__(
        self,
        text: str | list[str] | list[str | None] | None = None,
        text_target: str | list[str] | None = None,
        max_target_length: int | None = None,
        images: Any | None = None,
        audio: Any | None = None,
        condition_vectors: Any | None = None,
        condition_labels: Any | None = None,
        sampling_rate: int | None = None,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Turn conditions and targets into model inputs.

        Args:
            text: Source text, or a list of them.
            text_target: Target text, or a list of them.
            max_target_length: Longest target in tokens, where truncation is on; `max_length` if left out.
            images: A picture as the image processor takes it, or a list of them.
            audio: A waveform, or a list of them.
            condition_vectors: A vector, or a list or array of them: (batch, size) or (batch, count, size).
            condition_labels: For each row a label by name or number; for several fields a dictionary of them. Fields that are
                not there, or `None`, are missing.
            sampling_rate: Samples a second of `audio`.
            return_tensors: `"pt"` for tensors.
            kwargs: As the tokenizers take them: `padding`, `truncation`, `max_length`, ... As in Transformers they may also
                stand in `text_kwargs` and `common_kwargs`.

        Returns:
            `input_ids` and `attention_mask` (batch, length) for text, `pixel_values` (batch, channels, height, width) for
            pictures, the feature extractor's tensors and `feature_attention_mask` for audio, `condition_vectors`,
            `condition_labels` (batch, fields), and `labels` (batch, target) for the target. Labels end with the end token and
            do not begin with the start token, which the model puts before them; they are padded with the target tokenizer's
            padding id, which the collator turns into -100.

        Raises:
            TypeError: for anything but strings as text.
            ValueError: if nothing is given, or something that the processor has no part for; for a label or a vector size that
                is unknown.
        """
        for group in ("text_kwargs", "common_kwargs"):
            kwargs = {**(kwargs.pop(group, None) or {}), **kwargs}
        return_tensors = kwargs.pop("return_tensors", return_tensors)
        conditions = {
            "text": text,
            "images": images,
            "audio": audio,
            "condition_vectors": condition_vectors,
            "condition_labels": condition_labels,
        }
        given = {name: value for name, value in conditions.items() if value is not None}
        if not given and text_target is None:
            raise ValueError("Give text=, text_target= or both, or another condition; got neither.")
        self._require_parts(given)
        data: dict[str, Any] = {}
        if text is not None:
            data.update(self._read_text(text, return_tensors, kwargs))
        if images is not None:
            data.update(self._read_images(images))
        if audio is not None:
            data.update(self._read_audio(audio, sampling_rate))
        if condition_vectors is not None:
            data["condition_vectors"] = self._read_vectors(condition_vectors)
        if condition_labels is not None:
            data["condition_labels"] = self._read_labels(condition_labels)
        if text_target is not None:
            limits = {} if max_target_length is None else {"max_length": max_target_length}
            data["labels"] = self._read_target(text_target, return_tensors, kwargs | limits)
        is_ready = return_tensors == "pt" and all(isinstance(value, torch.Tensor) for value in data.values())
        return BatchFeature(data, tensor_type=None if is_ready else return_tensors)

    def read_conditions(self, conditions: Sequence[str | Mapping[str, Any]], **kwargs: Any) -> BatchFeature:
        """Turn rows of conditions into a batch of model inputs.

        Args:
            conditions: For each row a text, or a dictionary with some of `text`, `image`, `audio` (with its `sampling_rate`),
                `vector` and `label`. What is not there, or `None`, is missing in the row.
            kwargs: As the tokenizers take them; batches of several rows need `padding=True`.

        Returns:
            As a call of the processor gives them. What is missing in all rows is left out; without any condition the batch is
            empty.

        Raises:
            ValueError: for a condition that is not known, or that the processor has no part for.
        """
        rows = [{"text": row} if isinstance(row, str) else row for row in conditions]
        known = (*CONDITION_ARGUMENTS, "sampling_rate")
        unknown = [name for row in rows for name in row if name not in known]
        if unknown:
            raise ValueError(f"There is no condition {unknown[0]!r}; known are {', '.join(known)}.")
        columns: dict[str, Any] = {
            argument: [row.get(name) for row in rows]
            for name, argument in CONDITION_ARGUMENTS.items()
            if any(row.get(name) is not None for row in rows)
        }
        if not columns:
            return BatchFeature({})
        rates = {row["sampling_rate"] for row in rows if row.get("sampling_rate") is not None}
        if len(rates) > 1:
            raise ValueError(f"The recordings of a batch need one rate, got {' and '.join(map(str, sorted(rates)))}.")
        if rates:
            columns["sampling_rate"] = rates.pop()
        return self(**columns, **kwargs)

    def _require_parts(self, given: Mapping[str, Any]) -> None:
        for name in given:
            part, what = _READS[name]
            if getattr(self, part) is None:
                known = [f"{known}=" for known, (needed, _) in _READS.items() if getattr(self, needed) is not None]
                raise ValueError(
                    f"This processor reads no {what}: it has no {part}. It takes {', '.join(known) or 'text_target= alone'}. "
                    f"Build it with {part}= to read {what}."
                )

    def _read_text(
        self, text: str | list[str] | list[str | None], return_tensors: str | None, kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        missing = [row for row, item in enumerate(text) if item is None] if isinstance(text, list) else []
        # Alone, text cannot be missing: a model of one condition has no null state.
        texts = ["" if item is None else item for item in text] if missing and self._reads_more_than_text() else text
        _require_texts("text", texts)
        encoded = dict(self.tokenizer(texts, return_tensors=return_tensors, **kwargs))
        encoded.pop("token_type_ids", None)
        for row in missing:
            encoded["attention_mask"][row] = (
                encoded["attention_mask"][row] * 0 if return_tensors else [0] * len(encoded["input_ids"][row])
            )
        return encoded

    def _reads_more_than_text(self) -> bool:
        return any(getattr(self, part) is not None for part, _ in list(_READS.values())[1:])

    def _read_target(self, texts: str | list[str], return_tensors: str | None, kwargs: dict[str, Any]) -> Any:
        """Target ids behind the start token, up to the end token, whatever the tokenizer adds by itself."""
        _require_texts("text_target", texts)
        tokenizer = self.target_tokenizer
        if tokenizer is None:
            raise ValueError("This processor has no target_tokenizer, so it writes no text. Build it with target_tokenizer=.")
        # BERT's kind of tokenizers have other names for both ends.
        start = tokenizer.cls_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        end = tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
        own = {name: value for name, value in kwargs.items() if name not in ("padding", "pad_to_multiple_of")}
        rows = tokenizer([texts] if isinstance(texts, str) else texts, **own)["input_ids"]
        limit = kwargs.get("max_length") or tokenizer.model_max_length
        for index, row in enumerate(rows):
            if len(row) > 1 and start is not None and start != end and row[0] == start:
                row = row[1:]
            if end is not None and (not row or row[-1] != end):
                row = [*(row[: limit - 1] if kwargs.get("truncation") else row), end]
            rows[index] = row
        if isinstance(texts, str) and return_tensors is None and not kwargs.get("padding"):
            return rows[0]
        if kwargs.get("padding"):
            padding = {name: kwargs[name] for name in ("padding", "max_length", "pad_to_multiple_of") if name in kwargs}
            rows = tokenizer.pad({"input_ids": rows}, **padding)["input_ids"]
            rows = rows[0] if isinstance(texts, str) and return_tensors is None else rows
        return rows

    def _read_images(self, images: Any) -> dict[str, Any]:
        rows = images if isinstance(images, list) else [images]
        present = [image for image in rows if image is not None]
        for image in present:
            if isinstance(image, str):
                raise TypeError(
                    f"images= takes pictures, got the string {image!r:.60}. Open the file first, or give it as text=."
                )
        if not present:
            raise ValueError("All pictures of the batch are missing; leave images= out.")
        pixels = np.asarray(self.image_processor(present, return_tensors="np")["pixel_values"])
        return {"pixel_values": _spread(pixels, rows)}

    def _read_audio(self, audio: Any, sampling_rate: int | None) -> dict[str, Any]:
        rows = audio if isinstance(audio, list) and not (audio and isinstance(audio[0], (int, float))) else [audio]
        present = [np.asarray(item, dtype=np.float32) for item in rows if item is not None]
        if not present:
            raise ValueError("All recordings of the batch are missing; leave audio= out.")
        expected = getattr(self.feature_extractor, "sampling_rate", None)
        if sampling_rate is None and expected is not None:
            raise ValueError(f"Say how many samples a second the audio has: sampling_rate=. The model takes {expected}.")
        # Whisper's features are as long as its window always; others are padded to the longest.
        padding = {} if hasattr(self.feature_extractor, "n_samples") else {"padding": True, "return_attention_mask": True}
        features = dict(self.feature_extractor(present, sampling_rate=sampling_rate, return_tensors="np", **padding))
        mask = features.pop("attention_mask", None)
        data = {name: _spread(np.asarray(values), rows) for name, values in features.items()}
        if mask is not None:
            data["feature_attention_mask"] = _spread(np.asarray(mask), rows, missing=0)
        return data

    def _read_vectors(self, vectors: Any) -> np.ndarray:
        rows = vectors if isinstance(vectors, list) else list(_to_array(vectors))
        if rows and np.ndim(rows[0]) == 0 and rows[0] is not None:
            rows = [np.asarray(rows)]
        arrays = [None if row is None else _to_array(row) for row in rows]
        shapes = {array.shape for array in arrays if array is not None}
        if not shapes:
            return np.full((len(rows), self.vector_size or 0), np.nan, dtype=np.float32)
        for shape in shapes:
            if shape[-1] != self.vector_size or len(shape) > 2:
                raise ValueError(
                    f"This processor takes vectors of {self.vector_size} numbers, got some of {shape[-1]} (shape {shape}). "
                    "Take them from the space that the model was trained with."
                )
        for row, array in enumerate(arrays):
            if array is not None and not np.isfinite(array).all():
                raise ValueError(f"The vector of row {row} holds what is not a finite number. For a missing one give None.")
        if len(shapes) > 1:
            raise ValueError(f"The rows of a batch need vectors of one shape, got {' and '.join(map(str, sorted(shapes)))}.")
        return _spread(np.stack([array for array in arrays if array is not None]), arrays)

    def _read_labels(self, labels: Any) -> np.ndarray:
        rows = (
            labels if isinstance(labels, list) else list(labels) if isinstance(labels, (np.ndarray, torch.Tensor)) else [labels]
        )
        fields = list(self.label_names or {})
        return np.array([[self._find_label(field, self._get_field(row, field)) for field in fields] for row in rows], np.int64)

    def _get_field(self, row: Any, field: str) -> Any:
        fields = list(self.label_names or {})
        if isinstance(row, Mapping):
            unknown = [name for name in row if name not in fields]
            if unknown:
                raise ValueError(f"There is no field {unknown[0]!r} of labels; known are {', '.join(map(repr, fields))}.")
            return row.get(field)
        if isinstance(row, (list, tuple, np.ndarray)) or (isinstance(row, torch.Tensor) and row.dim()):
            if len(row) != len(fields):
                raise ValueError(f"A row has {len(row)} labels, but there are {len(fields)} fields ({', '.join(fields)}).")
            return row[fields.index(field)]
        if len(fields) > 1 and row is not None:
            raise ValueError(
                f"There are {len(fields)} fields of labels ({', '.join(fields)}), got the single label {row!r}. Give a "
                f"dictionary for each row, such as {{{fields[0]!r}: {row!r}}}."
            )
        return row

    def _find_label(self, field: str, label: Any) -> int:
        names = (self.label_names or {})[field]
        if label is None:
            return -1
        if not isinstance(label, str):
            number = int(label) if np.isfinite(label) else None
            if number is None or number != label:
                raise ValueError(f"Field {field!r} has labels with whole numbers or names, got {label!r}. For none give None.")
            if not -1 <= number < len(names):
                raise ValueError(f"Field {field!r} has the labels 0 to {len(names) - 1}, and -1 for none; got {number}.")
            if str(number) in names and names[number] != str(number):
                raise ValueError(
                    f"Field {field!r} has a label of the name {str(number)!r}, and another, {names[number]!r}, of the number "
                    f"{number}. Give the name, as a string."
                )
            return number
        if label not in names:
            near = difflib.get_close_matches(label, names, n=1)
            shown = ", ".join(map(repr, names[:20])) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")
            meant = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"Field {field!r} has no label {label!r}; known are {shown}.{meant}")
        return names.index(label)

    def require_fit(self, config: PreTrainedConfig) -> None:
        """Raise unless this processor can be the one of a model.

        Args:
            config: The model's configuration, a [`GenextConfig`].

        Raises:
            ValueError: if a tokenizer has more tokens than the model, as when the two are mixed up; if vectors differ.
        """
        conditioner, decoder = config.conditioner, config.decoder
        parts = list(getattr(conditioner, "conditioners", {"": conditioner}).values())
        source = next((part.vocab_size for part in map(_get_text_part, parts) if part is not None), None)
        # With a single output nothing is written, whatever tokenizer is there.
        target = decoder.get_text_config().vocab_size if config.head is None else None
        sizes = {"tokenizer": source, "target_tokenizer": target}
        lengths = {name: len(getattr(self, name)) for name in sizes if getattr(self, name) is not None}
        for name, length in lengths.items():
            size = sizes[name]
            if size is None or length <= size:
                continue
            other = lengths.get("target_tokenizer" if name == "tokenizer" else "tokenizer")
            mend = "Resize the model, or open its own processor."
            if other is not None and other <= size:
                mend = "The two tokenizers seem to be mixed up: exchange tokenizer= and target_tokenizer=."
            raise ValueError(f"The {name} has {length:,} tokens, but the model knows {size:,} there. {mend}")
        for part in parts:
            expected = getattr(part, "vector_size", None)
            if expected is not None and self.vector_size not in (None, expected):
                raise ValueError(f"The processor takes vectors of {self.vector_size} numbers, the model of {expected}.")
            counts = getattr(part, "label_counts", None)
            own = None if self.label_names is None else [len(names) for names in self.label_names.values()]
            if counts is not None and own not in (None, list(counts)):
                raise ValueError(f"The processor has fields of {own} labels, the model of {list(counts)}.")

    def decode(self, token_ids: int | list[int] | torch.Tensor, **kwargs: Any) -> str:
        """The text of one row of target ids, (target,)."""
        return self.target_tokenizer.decode(token_ids, **kwargs)

    def batch_decode(self, sequences: list[list[int]] | torch.Tensor, **kwargs: Any) -> list[str]:
        """The texts of rows of target ids, (batch, target)."""
        return self.target_tokenizer.batch_decode(sequences, **kwargs)

    @property
    def model_input_names(self) -> list[str]:
        """What the model takes of what the processor gives."""
        names = ["input_ids", "attention_mask"] if self.tokenizer is not None else []
        names += ["pixel_values"] if self.image_processor is not None else []
        if self.feature_extractor is not None:
            names += [self.feature_extractor.model_input_names[0], "feature_attention_mask"]
        names += ["condition_vectors"] if self.vector_size is not None else []
        return names + (["condition_labels"] if self.label_names else [])

    def to_dict(self) -> dict[str, Any]:
        """The processor as a dictionary, without its tokenizers, but with the names of its parts."""
        output = super().to_dict()
        for name in (*_PARTS, "label_names", "vector_size"):
            if output.get(name, ...) is None:
                del output[name]
        if self.label_names is not None:
            # Pairs keep their order, keys of a file do not.
            output["label_names"] = [[field, names] for field, names in self.label_names.items()]
        for name in ("outputs_file", "access"):
            output.pop(name, None)
        return output | {"parts": self.get_attributes()}

    def __getstate__(self) -> dict[str, Any]:
        """All but the token that a repository was opened with: it stays out of files and copies."""
        return {name: value for name, value in self.__dict__.items() if name != "access"}

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Self:
        """Open a saved processor, as every processor of Transformers, and find with its arguments what stands beside it."""
        processor = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        hub = {name: kwargs[name] for name in _HUB_ARGUMENTS if kwargs.get(name) is not None}
        processor.outputs_file = cached_file(
            pretrained_model_name_or_path, OUTPUTS_NAME, _raise_exceptions_for_missing_entries=False, **hub
        )
        processor.access = {name: hub[name] for name in _ACCESS_ARGUMENTS if name in hub}
        return processor

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], processor_dict: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[Any]:
        """Open the parts that were saved, and no others."""
        processor_dict = {} if processor_dict is None else processor_dict
        saved = processor_dict.pop("parts", _PARTS[:2])
        subfolder = kwargs.pop("subfolder", "")
        openers = {"image_processor": AutoImageProcessor, "feature_extractor": AutoFeatureExtractor}
        arguments: list[Any] = []
        for name in _PARTS:
            if name not in saved:
                arguments.append(None)
            elif name in openers:
                arguments.append(openers[name].from_pretrained(pretrained_model_name_or_path, subfolder=subfolder, **kwargs))
            else:
                arguments.append(
                    cls._load_tokenizer_from_pretrained(name, pretrained_model_name_or_path, subfolder=subfolder, **kwargs)
                )
        return arguments

    @classmethod
    def _load_tokenizer_from_pretrained(
        cls,
        sub_processor_type: str,
        pretrained_model_name_or_path: str | os.PathLike[str],
        subfolder: str = "",
        **kwargs: Any,
    ) -> PreTrainedTokenizerBase:
        """Open one tokenizer. Transformers falls back to the source's where the target's is lost; that is an error here."""
        if sub_processor_type != "tokenizer":
            subfolder = os.path.join(subfolder, sub_processor_type)
        try:
            return AutoTokenizer.from_pretrained(pretrained_model_name_or_path, subfolder=subfolder, **kwargs)
        except (OSError, ValueError) as error:
            raise OSError(
                f"{str(pretrained_model_name_or_path)!r} holds no {sub_processor_type} that can be opened (looked in "
                f"{subfolder or 'its root'!r}): {error}. Save the whole processor there with save_pretrained."
            ) from error


def _require_texts(name: str, texts: Any) -> None:
    if isinstance(texts, str):
        return
    items = texts if isinstance(texts, list) else [texts]
    for index, text in enumerate(items):
        if isinstance(text, str):
            continue
        place = (
            f"{name}[{index}] must be a string" if isinstance(texts, list) else f"{name} must be a string or a list of strings"
        )
        hint = ""
        if hasattr(text, "getbands"):
            hint = " Give a picture as images=."
        elif isinstance(text, (np.ndarray, torch.Tensor)):
            hint = " Give numbers as condition_vectors=, a picture as images=, a recording as audio=."
        raise TypeError(f"{place}, got {type(text).__name__} ({text!r:.80}).{hint}")


def _get_text_part(config: PreTrainedConfig) -> PreTrainedConfig | None:
    """The configuration itself, if it is of something that reads tokens."""
    config = config.get_text_config() if config.model_type != "genext" else config
    reads = getattr(config, "num_channels", None) is None and getattr(config, "num_mel_bins", None) is None
    return config if reads and hasattr(config, "vocab_size") and not hasattr(config, "conv_kernel") else None


def _to_array(values: Any) -> np.ndarray:
    values = values.detach().cpu().float() if isinstance(values, torch.Tensor) else values
    return np.asarray(values, dtype=np.float32)


def _spread(present: np.ndarray, rows: Sequence[Any], missing: float = np.nan) -> np.ndarray:
    """The values of the rows that are there, in their places among all; the others are filled."""
    places = [index for index, row in enumerate(rows) if row is not None]
    if len(places) == len(rows):
        return present
    values = np.full((len(rows), *present.shape[1:]), missing, dtype=present.dtype)
    values[places] = present
    return values


__all__ = ["CONDITION_ARGUMENTS", "GenextProcessor"]

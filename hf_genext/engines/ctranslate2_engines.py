"""Models of texts, and Whisper, in CTranslate2, which writes whole outputs by itself: greedy search and its own beam search.

Greedy outputs are those of `generate`. Its beam search has other rules of when to stop and of how lengths count, so its outputs
may be others; it runs where this engine was asked for by name.

Legend: batch (conditions), length (input positions), returned (outputs of each condition), target (output positions).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedModel

from ..call_settings import LastAnswer
from ..consensus import NAMES
from .models_engines import EngineModel, require_package

_KNOWN = {
    "bad_words_ids",
    "bos_token_id",
    "cache_implementation",
    *NAMES,
    "decoder_start_token_id",
    "early_stopping",
    "eos_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "length_penalty",
    "max_length",
    "max_new_tokens",
    "num_beams",
    "num_return_sequences",
    "pad_token_id",
    "temperature",
    "top_k",
    "top_p",
    "transformers_version",
    "use_cache",
}
"""Settings of generation that are given to CTranslate2, or change nothing without sampling."""


_TOKENS_OF_INT8 = 1024
"""Tokens of the parts that a batch is cut into where weights are whole numbers: what it works on stays near the processor."""

_KNOWN_OF_WHISPER = {
    "alignment_heads",
    "begin_suppress_tokens",
    "is_multilingual",
    "lang_to_id",
    "language",
    "max_initial_timestamp_index",
    "no_timestamps_token_id",
    "prev_sot_token_id",
    "suppress_tokens",
    "task",
    "task_to_id",
}
"""What Whisper's settings have besides: what stands in the export, and what makes its prompt."""


class CTranslate2Model(EngineModel):
    """A model of texts in CTranslate2.

    Args:
        model: The PyTorch model that was exported.
        folder: The export.
    """

    engine = "ctranslate2"
    title = "CTranslate2"
    _own_settings: Set[str] = frozenset()
    """Arguments of the model's own `generate` that are settings."""
    _known_settings: Set[str] = frozenset(_KNOWN)

    def __init__(self, model: PreTrainedModel, folder: Path) -> None:
        super().__init__(model)
        self._engine = self._open(require_package("ctranslate2"), str(folder))
        self._tokens_of_part = _TOKENS_OF_INT8 if "int8" in self._engine.compute_type else 0
        self._settled: LastAnswer[tuple[GenerationConfig, dict[str, Any], str | None]] = LastAnswer()

    def _open(self, ctranslate2: Any, folder: str) -> Any:
        return ctranslate2.Translator(folder, device="cpu", inter_threads=1, intra_threads=torch.get_num_threads())

    def find_stepping_obstacle(self) -> str | None:
        """That it writes whole outputs."""
        return "CTranslate2 writes whole outputs"

    def generate(self, **arguments: Any) -> Any:
        """As [`EngineModel.generate`]."""
        inputs = {name: value for name, value in arguments.items() if torch.is_tensor(value)}
        processors = list(arguments.get("logits_processor") or [])
        settings = {name: value for name, value in arguments.items() if name not in inputs and name != "logits_processor"}
        config, unknown, setting = self._settle(settings)
        obstacle = self.find_change() or self._find_obstacle(inputs, config, unknown, processors)
        obstacle = obstacle or setting or self._find_difference(config)
        if obstacle is not None:
            with torch.no_grad():
                return self._fall_back(obstacle, arguments)
        return self._run(inputs, config, processors)

    def _settle(self, settings: dict[str, Any]) -> tuple[GenerationConfig, dict[str, Any], str | None]:
        """The configuration of a call, what is none, and which setting is an obstacle; once for calls like the one before."""

        def settle() -> tuple[GenerationConfig, dict[str, Any], str | None]:
            others = {name: value for name, value in settings.items() if name != "generation_config"}
            config, unknown = self.torch_model._prepare_generation_config(settings.get("generation_config"), **others)
            for name in self._own_settings & unknown.keys():
                setattr(config, name, unknown.pop(name))
            return config, unknown, _find_setting(config, self._known_settings)

        return self._settled.get(settings, (self.torch_model.generation_config,), settle)

    def _find_obstacle(
        self, inputs: Mapping[str, torch.Tensor], config: GenerationConfig, unknown: Mapping[str, Any], processors: list[Any]
    ) -> str | None:
        """Why it cannot do what `generate` would."""
        for name in inputs:
            if name not in ("input_ids", "attention_mask", "decoder_input_ids"):
                return f"{name} is given"
        if "input_ids" not in inputs:
            return "no text is given"
        if (given := [name for name, value in unknown.items() if value is not None]) != []:
            return f"{given[0]} is given"
        prompts = inputs.get("decoder_input_ids")
        start = config.decoder_start_token_id if prompts is None else prompts[:, 0].unique().tolist()
        if start not in (own := self.torch_model.generation_config.decoder_start_token_id, [own]):
            return f"outputs begin with token {start}, and those of the export with {own}"
        return _find_processor(processors)

    def _find_difference(self, config: GenerationConfig) -> str | None:
        if self.only_exact and (config.num_beams or 1) > 1:
            return 'its beam search is not that of PyTorch, and runs only where engine="ctranslate2" is asked for'
        return None

    def _run(self, inputs: Mapping[str, torch.Tensor], config: GenerationConfig, processors: list[Any]) -> torch.Tensor:
        sources, beams = _list_real(inputs["input_ids"], inputs.get("attention_mask")), config.num_beams or 1
        prompts = self._list_prompts(inputs.get("decoder_input_ids"), config, len(sources))
        returned = config.num_return_sequences or 1
        if processors:
            rows = torch.tensor(prompts).repeat_interleave(max(beams, returned), dim=0)
            for processor in processors:
                processor(rows, None)
        width = len(prompts[0])
        forced = [] if config.forced_bos_token_id is None or width > 1 else [config.forced_bos_token_id]
        prefixes = [_name([*row[1:], *forced]) for row in prompts] if forced or width > 1 else None
        room = config.max_new_tokens or (config.max_length or 20) - width
        last = config.forced_eos_token_id
        longest = width - 1 + room - (last is not None)
        if longest < 1:  # There is room for the end alone.
            return torch.tensor([[*prompt, last] for prompt in prompts for _ in range(returned)])
        ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
        num_tokens = sum(map(len, sources))
        # In parts that are about as large as each other.
        num_parts = max(1, math.ceil(num_tokens / self._tokens_of_part)) if self._tokens_of_part else 1
        results = self._engine.translate_batch(
            [_name(row) for row in sources],
            prefixes,
            beam_size=beams,
            num_hypotheses=returned,
            length_penalty=config.length_penalty if beams > 1 else 1,
            suppress_sequences=None if not config.bad_words_ids else [_name(words) for words in config.bad_words_ids],
            max_batch_size=0 if num_parts == 1 else num_tokens // num_parts + max(map(len, sources)),
            batch_type="tokens",
            end_token=ends,
            return_end_token=True,
            max_input_length=0,
            max_decoding_length=longest,
            min_decoding_length=0,
        )
        outputs = [
            [prompt[0], *map(int, tokens)]
            for result, prompt in zip(results, prompts, strict=True)
            for tokens in result.hypotheses
        ]
        if last is not None:
            # What is cut ends all the same, where the model's settings say so.
            outputs = [written if written[-1] in ends else [*written, last] for written in outputs]
        return _pad(outputs, ends[0] if config.pad_token_id is None else config.pad_token_id)

    @staticmethod
    def _list_prompts(given: torch.Tensor | None, config: GenerationConfig, count: int) -> list[list[int]]:
        """What outputs begin with: of each row the tokens that are given, or the start token."""
        if given is not None:
            return given.tolist()
        start = config.decoder_start_token_id
        return [[config.bos_token_id if start is None else start]] * count


class CTranslate2Whisper(CTranslate2Model):
    """Whisper in CTranslate2: recordings of up to 30 seconds, without time stamps."""

    _own_settings = frozenset(("language", "task"))
    _known_settings = frozenset(_KNOWN | _KNOWN_OF_WHISPER)

    def _open(self, ctranslate2: Any, folder: str) -> Any:
        self._view = ctranslate2.StorageView.from_array
        return ctranslate2.models.Whisper(folder, device="cpu", inter_threads=1, intra_threads=torch.get_num_threads())

    def _find_obstacle(
        self, inputs: Mapping[str, torch.Tensor], config: GenerationConfig, unknown: Mapping[str, Any], processors: list[Any]
    ) -> str | None:
        for name in inputs:
            if name not in ("input_features", "attention_mask"):
                return f"{name} is given"
        frames = 2 * self.torch_model.config.max_source_positions
        if inputs["input_features"].shape[-1] != frames:
            return f"the recording has {inputs['input_features'].shape[-1]:,} frames, not {frames:,}"
        if processors:
            return "what it begins with must be known to what watches or constrains it"
        if (given := [name for name, value in unknown.items() if value is not None]) != []:
            return f"{given[0]} is given"
        own = self.torch_model.generation_config
        for name in ("suppress_tokens", "begin_suppress_tokens"):
            if getattr(config, name) != getattr(own, name):
                return f"{name} is not what was exported"
        return None

    def _run(self, inputs: Mapping[str, torch.Tensor], config: GenerationConfig, processors: list[Any]) -> torch.Tensor:
        features = inputs["input_features"]
        config.return_timestamps = False
        prompts = self.torch_model._retrieve_init_tokens(
            features, len(features), config, self.torch_model.config, features.shape[-1], {}
        )
        beams, returned = config.num_beams or 1, config.num_return_sequences or 1
        room = config.max_new_tokens or (config.max_length or 448) - prompts.shape[1]
        results = self._engine.generate(
            self._view(np.ascontiguousarray(features.float().numpy())),
            prompts.tolist(),
            beam_size=beams,
            num_hypotheses=returned,
            length_penalty=config.length_penalty if beams > 1 else 1,
            max_length=prompts.shape[1] + room,
        )
        # Whisper's own `generate` gives its outputs without prompt and end, too.
        return _pad([tokens for result in results for tokens in result.sequences_ids], config.pad_token_id)


def open_ctranslate2_model(model: PreTrainedModel, folder: Path) -> CTranslate2Model:
    """Open an export for CTranslate2."""
    is_whisper = type(model.config).__name__ == "WhisperConfig"
    return (CTranslate2Whisper if is_whisper else CTranslate2Model)(model, folder)


def _find_setting(config: GenerationConfig, known: Set[str]) -> str | None:
    """The first setting of generation that CTranslate2 is not given."""
    if config.do_sample:
        return "samples are drawn by seeds of this package"
    if (config.num_return_sequences or 1) > (config.num_beams or 1):
        return "there are fewer beams than outputs to return"
    neutral = GenerationConfig._get_default_generation_params()
    for name, value in vars(config).items():
        if value and name[0] != "_" and name not in known and value != neutral.get(name):
            return f"{name} is set"
    return None


def _find_processor(processors: list[Any]) -> str | None:
    for processor in processors:
        if not getattr(processor, "only_sees_prompts", False):
            return f"{type(processor).__name__} must see every step"
    return None


def _name(ids: list[int]) -> list[str]:
    return list(map(str, ids))


def _list_real(ids: torch.Tensor, mask: torch.Tensor | None) -> list[list[int]]:
    """The tokens of each row that are no padding: (batch, length)."""
    rows = ids.tolist()
    if mask is None:
        return rows
    return [row if all(real) else list(itertools.compress(row, real)) for row, real in zip(rows, mask.tolist(), strict=True)]


def _pad(rows: list[list[int]], padding: int | None) -> torch.Tensor:
    """Rows of unlike length as (rows, longest), padded on the right."""
    longest = max(map(len, rows))
    padded = np.array([[*row, *[padding] * (longest - len(row))] for row in rows], dtype=np.int64)
    return torch.from_numpy(padded)  # `torch.tensor` takes twenty times as long.


__all__ = ["CTranslate2Model", "CTranslate2Whisper", "open_ctranslate2_model"]

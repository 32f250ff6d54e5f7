"""Decoding without what costs time in `generate` and changes nothing: greedy search, sampling and beam search by steps.

`generate` itself prepares everything (lengths, special tokens, processors, the encoder's run), and hands the loop over to one
of those here, by its argument `custom_generate`. So what `generate` takes, warns of and refuses stays as it is; what it
prepared serves the calls that follow and ask alike, for with one input it takes nearly as long as the loop. The loops do
without a forward pass that serves any caller, keep keys and values in room made beforehand, read a memory once for all of its
beams, and drop what is finished from the batch.

Legend: batch (conditions), rows (batch * outputs of each condition), target (output positions), vocab.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation import logits_process
from transformers.utils import ModelOutput

from .call_settings import LastAnswer

_UNKNOWN_ARGUMENTS = (
    "assistant_model",
    "cache_implementation",
    "constraints",
    "custom_generate",
    "decoder_attention_mask",
    "decoder_inputs_embeds",
    "decoder_position_ids",
    "diversity_penalty",
    "dola_layers",
    "force_words_ids",
    "low_memory",
    "max_time",
    "num_beam_groups",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
    "past_key_values",
    "penalty_alpha",
    "prompt_lookup_num_tokens",
    "return_dict_in_generate",
    "stop_strings",
    "stopping_criteria",
    "streamer",
    "synced_gpus",
    "token_healing",
)
"""What `generate` takes and the loops here do not, wherever it is more than its neutral value."""

_NEUTRAL = {"num_beam_groups": 1, "diversity_penalty": 0.0}

_ROW_BY_ROW = tuple(
    getattr(logits_process, name)
    for name in (
        "EpsilonLogitsWarper",
        "EtaLogitsWarper",
        "ExponentialDecayLengthPenalty",
        "ForcedBOSTokenLogitsProcessor",
        "ForcedEOSTokenLogitsProcessor",
        "InfNanRemoveLogitsProcessor",
        "LogitNormalization",
        "MinLengthLogitsProcessor",
        "MinNewTokensLengthLogitsProcessor",
        "MinPLogitsWarper",
        "NoBadWordsLogitsProcessor",
        "NoRepeatNGramLogitsProcessor",
        "RepetitionPenaltyLogitsProcessor",
        "SequenceBiasLogitsProcessor",
        "SuppressTokensAtBeginLogitsProcessor",
        "SuppressTokensLogitsProcessor",
        "TemperatureLogitsWarper",
        "TopHLogitsWarper",
        "TopKLogitsWarper",
        "TopPLogitsWarper",
        "TypicalLogitsWarper",
    )
    if hasattr(logits_process, name)
)
"""Processors of Transformers that treat a row the same wherever in the batch it stands."""

_HANDED_ON = ("generation_config", "logits_processor")
"""What `generate` takes besides conditions and settings in a call whose preparation serves the next one, too."""

_NOTHING = -1.0e9
"""The score that `generate` gives to a beam that does not exist."""


@dataclass
class FastGenerationOutput(ModelOutput):
    """What decoding gives beside the ids.

    Attributes:
        sequences: Ids behind the start token, (rows, target), padded on the right.
        log_probs: The model's own log-probability of each generated token, before any processor, in nats, 0 behind the end:
            (rows, target - tokens that were given).
        sequences_scores: Of beam search what the beams are ranked by, (rows,).
    """

    sequences: torch.LongTensor | None = None
    log_probs: torch.FloatTensor | None = None
    sequences_scores: torch.FloatTensor | None = None


def find_obstacle(model: PreTrainedModel, **generate_kwargs: Any) -> str | None:
    """Why [`generate_fast`] cannot do what `generate` would, or `None` where it can.

    Args:
        model: Any model that generates.
        generate_kwargs: As for `generate`, the conditions left out or not.

    Returns:
        The end of a sentence that begins with "because".
    """
    return _look_around(model, generate_kwargs)[0]


def _look_around(model: Any, generate_kwargs: Mapping[str, Any]) -> tuple[str | None, _Prepared | None]:
    """As [`find_obstacle`], and what is prepared for such calls."""
    if not hasattr(model, "find_stepping_obstacle"):
        return f"{type(model).__name__} has no decoder that can be stepped", None
    if (obstacle := model.find_stepping_obstacle()) is not None:
        return obstacle, None
    device = model.device
    if torch.is_autocast_enabled(device.type):
        return "autocast is on", None
    prepared = _find_prepared(model, generate_kwargs, str(device))
    return _find_setting(model, generate_kwargs) if prepared is None else prepared.obstacle, prepared


def _find_setting(model: PreTrainedModel, generate_kwargs: Mapping[str, Any]) -> str | None:
    """What of a call's settings the loops here cannot do."""
    for name in _UNKNOWN_ARGUMENTS:
        value = get_setting(model, generate_kwargs, name)
        is_empty = value is None or value is False or value == _NEUTRAL.get(name) or (name == "stopping_criteria" and not value)
        if not is_empty:
            return f"{name} is set"
    num_beams = get_setting(model, generate_kwargs, "num_beams") or 1
    if num_beams > 1 and get_setting(model, generate_kwargs, "do_sample"):
        return "beams are to be sampled"
    if get_setting(model, generate_kwargs, "guidance_scale") not in (None, 1.0):
        return "guidance_scale is set"
    return None


def generate_fast(model: PreTrainedModel, *, return_log_probs: bool = False, **generate_kwargs: Any) -> Any:
    """What `model.generate` gives, sooner: the same tokens, but for ties within the rounding of one addition.

    Rows that are finished are dropped from the batch, unnoticed by those logits processors of Transformers that treat every
    row alike. With any other processor all rows stay, unless it has a method `select_rows(rows)`, which is told which of the
    rows of the last call go on, (new rows,). Sampling keeps all rows, so that the random numbers are those of `generate`,
    unless a processor draws: one that has `chooses_tokens` leaves a single token of each row.

    Args:
        model: A model for which [`find_obstacle`] finds none.
        return_log_probs: Whether to give the log-probability of every token, too.
        generate_kwargs: As for `generate`.

    Returns:
        Ids (rows, target); with `return_log_probs` a [`FastGenerationOutput`].

    Raises:
        ValueError: if there is an obstacle; `model.generate` has none.
    """
    obstacle, prepared = _look_around(model, generate_kwargs)
    if obstacle is not None:
        raise ValueError(f"This cannot be decoded fast, because {obstacle}. Use model.generate.")
    return _generate(model, return_log_probs, generate_kwargs, prepared)


def generate_fast_if_possible(model: PreTrainedModel, **generate_kwargs: Any) -> Any:
    """What `model.generate` gives, by [`generate_fast`] where nothing stands in its way.

    Args:
        model: Any model that generates.
        generate_kwargs: As for `generate`.
    """
    obstacle, prepared = _look_around(model, generate_kwargs)
    if obstacle is not None:
        return model.generate(**generate_kwargs)
    return _generate(model, False, generate_kwargs, prepared)


def _generate(
    model: PreTrainedModel, return_log_probs: bool, generate_kwargs: dict[str, Any], prepared: _Prepared | None
) -> Any:
    if prepared is not None and prepared.config is not None:
        inputs = {name: value for name, value in generate_kwargs.items() if torch.is_tensor(value)}
        # Not in inference mode: encoders may keep what they make, and be trained later.
        with torch.no_grad():
            encoder_outputs = model.encode_for_steps(inputs)
        if encoder_outputs is not None:
            output = prepared.run(model, encoder_outputs, inputs.get("attention_mask"), return_log_probs)
            return output if return_log_probs else output.sequences

    # Who generates may be the model inside an engine's; the steps are the engine's.
    def decode(_: PreTrainedModel, input_ids: torch.LongTensor, **kwargs: Any) -> FastGenerationOutput:
        if prepared is not None:
            prepared.learn(input_ids, **kwargs)
        return _decode(model, input_ids, return_log_probs=return_log_probs, **kwargs)

    # Steps keep what they have seen in a room of their own, so `generate` need not make one.
    output = model.generate(**{**generate_kwargs, "use_cache": False}, custom_generate=decode)
    return output if return_log_probs else output.sequences


class _Prepared:
    """What `generate` prepares for calls that ask alike, and without processors: the configuration and the start token.

    Args:
        obstacle: Which of their settings the loops here cannot do, if there is one.
    """

    def __init__(self, obstacle: str | None) -> None:
        self.obstacle = obstacle
        self.config: GenerationConfig | None = None
        self._start = 0

    def learn(
        self, input_ids: torch.LongTensor, *, generation_config: GenerationConfig, logits_processor: list[Any], **_: Any
    ) -> None:
        """Keep what a call was given, if others that ask alike will be given the same."""
        start = generation_config.decoder_start_token_id
        if not logits_processor and type(start) is int and input_ids.shape[1] == 1 and bool((input_ids == start).all()):
            self._start = start
            self.config = generation_config  # Last, for another thread may be waiting for it.

    def run(
        self, model: Any, encoder_outputs: Any, attention_mask: torch.Tensor | None, return_log_probs: bool
    ) -> FastGenerationOutput:
        """Decode, as `generate` would have it done."""
        assert self.config is not None
        rows = encoder_outputs.last_hidden_state.shape[0] * _count_outputs(self.config)
        input_ids = torch.full((rows, 1), self._start, device=encoder_outputs.last_hidden_state.device)
        return _search(model, input_ids, self.config, [], encoder_outputs, attention_mask, return_log_probs)


_prepared: WeakKeyDictionary[Any, LastAnswer[_Prepared]] = WeakKeyDictionary()


def _find_prepared(model: Any, generate_kwargs: Mapping[str, Any], device: str) -> _Prepared | None:
    """What is known of calls that ask for the same of the same kinds of conditions; `None` where a call may ask for more."""
    inputs = sorted(name for name, value in generate_kwargs.items() if torch.is_tensor(value))
    settings = {name: value for name, value in generate_kwargs.items() if name not in inputs}
    known = vars(model.generation_config)
    # What stands before a model, such as an adapter's, may have a `generate` of its own, and all else of the model.
    is_models = getattr(getattr(model, "encode_for_steps", None), "__self__", None) is model
    if not is_models or any(name not in known and name not in _HANDED_ON for name in settings):
        return None
    # Transformers looks for padding where there is no mask.
    if not inputs or ("input_ids" in inputs and "attention_mask" not in inputs):
        return None
    last = _prepared.get(model)
    if last is None:
        last = _prepared[model] = LastAnswer()
    asked = {**settings, "inputs": inputs, "device": device}
    return last.get(asked, (model.generation_config,), lambda: _Prepared(_find_setting(model, generate_kwargs)))


def get_setting(model: PreTrainedModel, generate_kwargs: Mapping[str, Any], name: str) -> Any:
    """A setting as `generate` would find it: in the call, in the configuration of the call, in that of the model."""
    for source in (generate_kwargs, generate_kwargs.get("generation_config"), model.generation_config):
        if source is not None:
            value = (source if isinstance(source, Mapping) else vars(source)).get(name)
            if value is not None:
                return value
    return None


# The loops, which `generate` calls


def _decode(
    model: Any,
    input_ids: torch.LongTensor,
    *,
    generation_config: GenerationConfig,
    logits_processor: list[Any],
    encoder_outputs: ModelOutput,
    attention_mask: torch.Tensor | None = None,
    return_log_probs: bool = False,
    **kwargs: Any,
) -> FastGenerationOutput:
    """Decode what `generate` has prepared, each condition repeated for its outputs."""
    outputs = _count_outputs(generation_config)
    if outputs > 1:
        encoder_outputs = type(encoder_outputs)(
            **{name: value[::outputs] for name, value in encoder_outputs.items() if torch.is_tensor(value)}
        )
        attention_mask = attention_mask[::outputs] if attention_mask is not None else None
    return _search(model, input_ids, generation_config, logits_processor, encoder_outputs, attention_mask, return_log_probs)


def _count_outputs(config: GenerationConfig) -> int:
    """Rows of each condition."""
    return max(config.num_beams or 1, config.num_return_sequences or 1)


def _search(
    model: Any,
    input_ids: torch.LongTensor,
    config: GenerationConfig,
    processors: list[Any],
    encoder_outputs: Any,
    attention_mask: torch.Tensor | None,
    return_log_probs: bool,
) -> FastGenerationOutput:
    """Decode from the memories of some conditions, and as many given tokens as each has outputs."""
    search = _BeamSearch if (config.num_beams or 1) > 1 else _RowSearch
    with torch.inference_mode():
        checked = {"is_checked": True} if hasattr(model, "encode_for_steps") else {}
        stepper = model.start_steps(encoder_outputs, attention_mask, _count_outputs(config), **checked)
        found = search(stepper, input_ids, config, processors, return_log_probs).run()
    # What was made in inference mode cannot be used in training.
    return FastGenerationOutput(**{name: value.clone() for name, value in found.items()})


class _Search:
    """What both searches share: the given tokens, special tokens and processors."""

    def __init__(
        self,
        stepper: Any,
        input_ids: torch.LongTensor,
        config: GenerationConfig,
        processors: list[Any],
        return_log_probs: bool,
    ) -> None:
        self.stepper = stepper
        self.config = config
        self.processors = processors
        self.return_log_probs = return_log_probs
        self.given = input_ids.shape[1]
        self.ends: torch.Tensor | None = config._eos_token_tensor
        self.can_drop = all(isinstance(processor, _ROW_BY_ROW) or hasattr(processor, "select_rows") for processor in processors)
        for tokens in input_ids[:, :-1].t():
            stepper.step(tokens)

    def is_end(self, tokens: torch.Tensor) -> torch.Tensor:
        """Which tokens end their sequence: (...) -> (...)."""
        if self.ends is None:
            return torch.zeros_like(tokens, dtype=torch.bool)
        return tokens == self.ends if self.ends.shape[0] == 1 else torch.isin(tokens, self.ends)

    def process(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Let the processors at the scores: (rows, target), (rows, vocab) -> (rows, vocab)."""
        for processor in self.processors:
            scores = processor(ids, scores)
        return scores

    def drop(self, rows: torch.Tensor, memories: torch.Tensor) -> None:
        """Go on with some of the rows."""
        self.stepper.select(rows, memories)
        for processor in self.processors:
            if hasattr(processor, "select_rows"):
                processor.select_rows(rows)


class _RowSearch(_Search):
    """Greedy search and sampling: each row for itself."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        input_ids, config = args[1], args[2]
        rows, width = input_ids.shape[0], config.max_length
        pad = config._pad_token_tensor
        self.pad = 0 if pad is None else int(pad)
        chooses = any(getattr(processor, "chooses_tokens", False) for processor in self.processors)
        self.samples = bool(config.do_sample) and not chooses
        # Rows of one memory stay together.
        self.can_drop = self.can_drop and (config.num_return_sequences or 1) == 1
        self.ids = input_ids.new_full((rows, width), self.pad)
        self.ids[:, : self.given] = input_ids
        self.log_probs = torch.zeros(rows, width - self.given, device=input_ids.device)
        self.finished = torch.zeros(rows, dtype=torch.bool, device=input_ids.device)
        # The rows that are left, where the others have been dropped.
        self.places: torch.Tensor | None = None

    def run(self) -> dict[str, torch.Tensor]:
        """Decode until every row is at its end."""
        all_ids, all_log_probs = self.ids, self.log_probs
        length, width = self.given, self.ids.shape[1]
        tokens, num_finished = self.ids[:, length - 1], 0
        while length < width:
            scores = logits = self.stepper.step(tokens).float()
            if self.processors:
                scores = self.process(self.ids[:, :length], logits.clone() if self.return_log_probs else logits)
            if self.samples:
                tokens = torch.multinomial(nn.functional.softmax(scores, dim=-1), num_samples=1)[:, 0]
            else:
                tokens = scores.argmax(dim=-1)
            if self.return_log_probs:
                chosen = logits.log_softmax(dim=-1).gather(1, tokens[:, None])[:, 0]
                self.log_probs[:, length - self.given] = chosen.masked_fill_(self.finished, 0.0)
            if num_finished:
                tokens = tokens.masked_fill(self.finished, self.pad)
            self.ids[:, length] = tokens
            length += 1
            if self.ends is None or not bool((ends := self.is_end(tokens)).any()):
                continue
            self.finished |= ends
            num_finished = int(self.finished.sum())
            if num_finished == len(tokens):
                break
            if self.can_drop and not self.samples and 8 * num_finished >= len(tokens):
                self._put_back(all_ids, all_log_probs)
                tokens = self._drop_finished(tokens)
                num_finished = 0
        self._put_back(all_ids, all_log_probs)
        found = {"sequences": all_ids[:, :length]}
        return found | ({"log_probs": all_log_probs[:, : length - self.given]} if self.return_log_probs else {})

    def _put_back(self, ids: torch.Tensor, log_probs: torch.Tensor) -> None:
        if self.places is not None:
            ids[self.places] = self.ids
            log_probs[self.places] = self.log_probs

    def _drop_finished(self, tokens: torch.Tensor) -> torch.Tensor:
        left = (~self.finished).nonzero()[:, 0]
        self.places = left if self.places is None else self.places[left]
        self.ids, self.log_probs, self.finished = self.ids[left], self.log_probs[left], self.finished[left]
        self.drop(left, left)
        return tokens[left]


class _BeamSearch(_Search):
    """Beam search as `generate` has it: the beams of a condition, and the best finished sequences that it has so far.

    The rules are those of `GenerationMixin._beam_search` of Transformers: as many candidates are looked at as leave enough
    that go on, only the best `num_beams` of them may finish, and their scores are divided by the length raised to
    `length_penalty`.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        input_ids, config = args[1], args[2]
        self.beams, self.width = config.num_beams, config.max_length
        self.stops_early, self.penalty = config.early_stopping, config.length_penalty
        batch = input_ids.shape[0] // self.beams
        ends, pad = self.ends, config._pad_token_tensor
        self.candidates = max(2, 1 + (0 if ends is None else ends.shape[0])) * self.beams
        filler = (pad or ends[0]) if ends is not None else -1
        shape, device = (batch, self.beams), input_ids.device
        self.ids = input_ids.new_full((*shape, self.width), int(filler))
        self.ids[:, :, : self.given] = input_ids.view(*shape, self.given)
        self.scores = torch.zeros(shape, device=device)
        self.scores[:, 1:] = _NOTHING
        self.log_probs = torch.zeros(*shape, self.width - self.given, device=device)
        # The best sequences that are finished, and how long they are without what was given.
        self.best_ids, self.best_log_probs = self.ids.clone(), self.log_probs.clone()
        self.best_scores = torch.full(shape, _NOTHING, device=device)
        self.best_lengths = torch.zeros(shape, dtype=torch.long, device=device)
        self.is_best_finished = torch.zeros(shape, dtype=torch.bool, device=device)
        self.can_improve = torch.ones(batch, 1, dtype=torch.bool, device=device)
        self.places: torch.Tensor | None = None

    _BEST = ("best_ids", "best_scores", "best_lengths", "best_log_probs")

    def run(self) -> dict[str, torch.Tensor]:
        """Search until no condition's beams can become better than what is finished."""
        results = {name: getattr(self, name) for name in self._BEST}
        length = self.given
        tokens = self.ids[:, :, length - 1].flatten()
        while True:
            parents, added, scores = self._expand(tokens, length)
            is_last = length + 1 >= self.width
            stops = torch.ones_like(added, dtype=torch.bool) if is_last else self.is_end(added)
            running_scores = scores + stops.to(torch.float32) * _NOTHING
            order = running_scores.topk(self.beams)[1]
            finish = stops[:, : self.beams]
            if bool(finish.any()):
                self._finish(parents[:, : self.beams], added[:, : self.beams], scores[:, : self.beams], finish, length)
            self._continue(parents.gather(1, order), added.gather(1, order), running_scores.gather(1, order), length)
            length += 1
            self._look_ahead(length)
            if is_last or self._is_over(stops):
                break
            self._drop_settled(results)
            tokens = self.ids[:, :, length - 1].flatten()
        self._put_back(results)
        return self._return(results)

    def _expand(self, tokens: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The best continuations of each condition's beams: which beam, which token, what score, each (batch, candidates)."""
        log_probs = self.stepper.step(tokens).float().log_softmax(dim=-1)
        self.token_log_probs = log_probs
        if self.processors:
            given = log_probs.clone() if self.return_log_probs else log_probs
            log_probs = self.process(self.ids[:, :, :length].flatten(0, 1), given)
        vocab = log_probs.shape[-1]
        totals = (log_probs.view(-1, self.beams, vocab) + self.scores[:, :, None]).flatten(1)
        scores, indices = totals.topk(self.candidates)
        return indices // vocab, indices % vocab, scores

    def _follow(self, parents: torch.Tensor, added: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and log-probabilities of beams with one token more: (batch, some, width)."""
        ids = _gather(self.ids, parents)
        ids[:, :, length] = added
        if not self.return_log_probs:
            return ids, self.log_probs
        log_probs = _gather(self.log_probs, parents)
        rows = self.token_log_probs.view(*self.scores.shape, -1)
        log_probs[:, :, length - self.given] = _gather(rows, parents).gather(2, added[:, :, None])[:, :, 0]
        return ids, log_probs

    def _continue(self, parents: torch.Tensor, added: torch.Tensor, scores: torch.Tensor, length: int) -> None:
        """Go on with the best beams that are not at their end."""
        self.ids, self.log_probs = self._follow(parents, added, length)
        self.scores = scores
        rows = (parents + torch.arange(len(parents), device=parents.device)[:, None] * self.beams).flatten()
        self.stepper.select(rows)

    def _finish(
        self, parents: torch.Tensor, added: torch.Tensor, scores: torch.Tensor, finish: torch.Tensor, length: int
    ) -> None:
        """Put new finished sequences among the best ones of their condition."""
        scores = scores / ((length + 1 - self.given) ** self.penalty)
        if self.stops_early is True:
            scores = scores + self.is_best_finished.all(dim=-1, keepdim=True).to(torch.float32) * _NOTHING
        scores = scores + (~self.can_improve).to(torch.float32) * _NOTHING + (~finish) * _NOTHING
        ids, log_probs = self._follow(parents, added, length)
        merged, order = torch.cat((self.best_scores, scores), dim=1).topk(self.beams)
        lengths = torch.full_like(self.best_lengths, length + 1 - self.given)
        self.best_scores = merged
        self.best_ids = _gather(torch.cat((self.best_ids, ids), dim=1), order)
        self.best_lengths = torch.cat((self.best_lengths, lengths), dim=1).gather(1, order)
        self.is_best_finished = torch.cat((self.is_best_finished, finish), dim=1).gather(1, order)
        if self.return_log_probs:
            self.best_log_probs = _gather(torch.cat((self.best_log_probs, log_probs), dim=1), order)

    def _look_ahead(self, length: int) -> None:
        """Which conditions' running beams could still become better than the worst of what is finished."""
        hoped = self.width if self.stops_early == "never" and self.penalty > 0.0 else length
        possible = self.scores[:, :1] / ((hoped - self.given) ** self.penalty)
        worst = torch.where(self.is_best_finished, self.best_scores.min(dim=1, keepdim=True)[0], _NOTHING)
        self.can_improve = self.can_improve & (possible > worst).any(dim=-1, keepdim=True)

    def _is_over(self, stops: torch.Tensor) -> bool:
        if self.stops_early is True and bool(self.is_best_finished.all()):
            return True
        return bool(stops.all()) or not bool(self.can_improve.any())

    def _drop_settled(self, results: dict[str, torch.Tensor]) -> None:
        """Drop the conditions whose best sequences are final."""
        if not self.can_drop or len(self.scores) == 1:
            return
        is_full = self.is_best_finished.all(dim=1) & (self.best_scores[:, -1] > 0.1 * _NOTHING)
        settled = is_full if self.stops_early is True else is_full & ~self.can_improve[:, 0]
        count = int(settled.sum())
        if count == 0 or 8 * count < len(settled):
            return
        self._put_back(results)
        left = (~settled).nonzero()[:, 0]
        self.places = left if self.places is None else self.places[left]
        for name in ("ids", "scores", "log_probs", "is_best_finished", "can_improve", *self._BEST):
            setattr(self, name, getattr(self, name)[left])
        rows = (left[:, None] * self.beams + torch.arange(self.beams, device=left.device)).flatten()
        self.drop(rows, left)

    def _put_back(self, results: dict[str, torch.Tensor]) -> None:
        for name in self._BEST:
            if self.places is None:
                results[name] = getattr(self, name)
            else:
                results[name][self.places] = getattr(self, name)

    def _return(self, results: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        returned = self.config.num_return_sequences or 1
        longest = int(results["best_lengths"][:, :returned].max())
        found = {
            "sequences": results["best_ids"][:, :returned, : self.given + longest].flatten(0, 1),
            "sequences_scores": results["best_scores"][:, :returned].flatten(),
        }
        if self.return_log_probs:
            found["log_probs"] = results["best_log_probs"][:, :returned, :longest].flatten(0, 1)
        return found


def _gather(beams: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Of each condition some beams: (batch, beams, ...), (batch, some) -> (batch, some, ...)."""
    return beams.gather(1, indices[:, :, None].expand(-1, -1, beams.shape[2]))


__all__ = ["FastGenerationOutput", "find_obstacle", "generate_fast", "generate_fast_if_possible", "get_setting"]

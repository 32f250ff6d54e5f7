"""Generation with everything that can be asked of it: seeds, allowed outputs, guidance, scores, alignments, streams, ...

Legend: batch, returned (outputs of each condition), rows (batch * returned, or all beams), target (output positions).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from .agreement import generate_by_agreement
from .alignments import align_tokens, find_real_slots
from .call_settings import resolve_generation
from .consensus import Consensus
from .constraints import AllowedOutputs, OutputTrie
from .fast_decoding import generate_fast_if_possible
from .genext.guidance_genext import GuidedScores, check_guidance_scale, double_memory
from .genext.seeding_genext import KeyedSampling, make_keys
from .pipeline_latents import has_latents, prepare_latents
from .scoring import encode, label_generated, score_tokens


@dataclass
class Control:
    """What is asked of a generation beyond the arguments of `generate`.

    Attributes:
        rerank: Whether both directions search, and each judges what the other found.
        seeds: For each condition a seed and its place; of sampling only.
        allowed: The outputs that there may be.
        guidance_scale: How far away from what the model writes without its condition.
        target_prefix: Target tokens, without the start token, with which every output begins.
        return_scores: Whether the tokens get their log-probabilities.
        return_alignments: Whether it is told where the model looked for each token.
        alignment_layer: In which of its layers; see [`align_tokens`].
        watch: Makes, of the number of a row's beams, what sees each step last.
    """

    rerank: bool = False
    seeds: Sequence[tuple[int, int]] | None = None
    allowed: OutputTrie | None = None
    guidance_scale: float | None = None
    target_prefix: list[int] = field(default_factory=list)
    return_scores: bool = False
    return_alignments: bool = False
    alignment_layer: int | None = None
    watch: Callable[[int], LogitsProcessor] | None = None


@dataclass
class Generated:
    """What a generation gave.

    Attributes:
        sequences: Ids, (batch, returned, target); from the start token on, but where scores or allowed outputs were asked for.
        token_scores: For each output the log-probability of each token behind the prompt, the end token included, in nats: a
            tensor (batch, returned, target) that is 0 elsewhere.
        is_scored: Where there is such a token, likewise; beside alignments, too.
        alignments: For each such token where the model looked, (batch, returned, target, slots).
        is_real: Which slots are no padding, (batch, slots).
        is_search: Whether the outputs of a condition are those of beams, so that none comes twice.
    """

    sequences: torch.LongTensor
    token_scores: torch.FloatTensor | None = None
    is_scored: torch.BoolTensor | None = None
    alignments: torch.FloatTensor | None = None
    is_real: torch.BoolTensor | None = None
    is_search: bool = False

    def gather(self, num_conditions: int) -> Generated:
        """With the outputs of one condition beside each other, where each was generated as a row of its own."""
        if len(self.sequences) == num_conditions:
            return self
        parts: dict[str, Any] = {
            name: None if part is None else part.view(num_conditions, -1, *part.shape[2:])
            for name, part in (
                ("sequences", self.sequences),
                ("token_scores", self.token_scores),
                ("is_scored", self.is_scored),
                ("alignments", self.alignments),
            )
        }
        is_real = None if self.is_real is None else self.is_real[:: len(self.sequences) // num_conditions]
        return replace(self, **parts, is_real=is_real)

    def select(self, places: torch.LongTensor) -> Generated:
        """Some of the outputs of each condition, by their places (batch, returned)."""
        rows = torch.arange(len(places), device=places.device)[:, None]
        parts: dict[str, Any] = {
            name: None if (part := getattr(self, name)) is None else part[rows, places]
            for name in ("sequences", "token_scores", "is_scored", "alignments")
        }
        return replace(self, **parts)

    def cut(self, length: int) -> Generated:
        """Without so many tokens at the start of each output."""
        scores, is_scored, alignments = self.token_scores, self.is_scored, self.alignments
        return replace(
            self,
            sequences=self.sequences[..., length:],
            token_scores=None if scores is None else scores[..., length - 1 :],
            is_scored=None if is_scored is None else is_scored[..., length - 1 :],
            alignments=None if alignments is None else alignments[..., length - 1 :, :],
        )


class _PromptWatcher(LogitsProcessor):
    """Sees what the outputs begin with, which only the model's own `generate` knows: a start token, or several."""

    prompts: torch.LongTensor | None = None
    only_sees_prompts = True

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        self.prompts = input_ids.clone() if self.prompts is None else self.prompts
        return scores

    def select_rows(self, rows: torch.LongTensor) -> None:
        """Nothing: what was seen stays seen, whatever rows go on."""

    def complete(self, sequences: torch.LongTensor, batch_size: int, rows_of_each: int) -> torch.LongTensor:
        """Sequences (batch * returned, target) with their prompts before them, where they lack them.

        Args:
            sequences: What `generate` gave.
            batch_size: Conditions.
            rows_of_each: Rows of each condition in the search.
        """
        if self.prompts is None:
            return sequences
        prompts = self.prompts[::rows_of_each][:batch_size].repeat_interleave(len(sequences) // batch_size, dim=0)
        length = prompts.shape[1]
        if sequences.shape[1] >= length and torch.equal(sequences[:, :length], prompts):
            return sequences
        return torch.cat([prompts, sequences], dim=1)

    @property
    def length(self) -> int:
        """Tokens of a prompt."""
        return 1 if self.prompts is None else self.prompts.shape[1]


@torch.no_grad()
def generate_with_control(
    model: PreTrainedModel, inputs: dict[str, torch.Tensor], arguments: dict[str, Any], control: Control
) -> Generated:
    """Generate by the model's own `generate`, controlled; by the faster loop where that gives the same.

    Args:
        model: Any encoder-decoder that generates.
        inputs: The encoder's inputs of a batch.
        arguments: What `generate` takes besides.
        control: What is asked beyond that.

    Raises:
        ValueError: for things that cannot be asked together, or not of this model.
    """
    batch_size = next(iter(inputs.values())).shape[0]
    if control.rerank:
        _refuse_beside_rerank(control)
        if model.generation_config.guidance_scale is not None:
            arguments = {**arguments, "guidance_scale": 1.0}  # Agreement takes the place of what a model is saved with.
        sequences = generate_by_agreement(model, **inputs, **arguments)
        return _look_back(
            model, inputs, sequences.view(batch_size, -1, sequences.shape[-1]), 1, control, model.generation_config
        )
    config, _ = resolve_generation(model, arguments)
    num_beams, num_returned = config.num_beams or 1, config.num_return_sequences or 1
    scale = config.guidance_scale if control.guidance_scale is None else control.guidance_scale
    scale = 1.0 if scale is None else check_guidance_scale(scale)
    is_guided = scale != 1.0
    if config.guidance_scale is not None:
        arguments = {**arguments, "guidance_scale": 1.0}  # It is done here, in one pass.
    encoded: dict[str, Any] = {"encoder_outputs": double_memory(model, inputs)} if is_guided else dict(inputs)
    if control.target_prefix:
        if hasattr(model, "_retrieve_init_tokens"):
            raise ValueError(
                f"The outputs of {type(model).__name__} begin with its language and its task, which it chooses by itself; "
                "leave out target_prefix=."
            )
        start = config.bos_token_id if config.decoder_start_token_id is None else config.decoder_start_token_id
        forced = _list_first_tokens(config)
        # Some tokenizers write them before every text of a target, and others never.
        forced = [] if control.target_prefix[: len(forced)] == forced else forced
        prompt = [_first(start), *forced, *control.target_prefix]
        encoded["decoder_input_ids"] = torch.tensor([prompt] * (batch_size * (1 + is_guided)), device=model.device)
    # Each sees the scores after those before it.
    watcher = _PromptWatcher()
    looks_back = control.return_scores or control.return_alignments
    processors: list[LogitsProcessor] = [watcher] if looks_back or control.allowed is not None else []
    if is_guided:
        processors.append(GuidedScores(scale))
    if control.allowed is not None:
        processors.append(AllowedOutputs(control.allowed, len(control.target_prefix)))
    if config.do_sample and (control.seeds is not None or is_guided):
        if num_beams > 1:
            raise ValueError("A seed and guidance_scale go with sampling or with beams, not with beams that are sampled.")
        seeds = control.seeds or [(int(seed), 0) for seed in torch.randint(2**62, (batch_size,))]
        keys = make_keys(seeds, num_returned)
        processors.append(KeyedSampling(torch.cat([keys, keys]) if is_guided else keys, config))
    if config.do_sample and control.allowed is not None and num_beams > 1:
        raise ValueError("allowed_outputs go with sampling or with beams, not with beams that are sampled.")
    if control.watch is not None:
        processors.append(control.watch(num_beams))
    if processors:
        # In a copy: what the caller gave is theirs.
        arguments = {
            **arguments,
            "logits_processor": LogitsProcessorList([*(arguments.get("logits_processor") or []), *processors]),
        }
    if watcher in processors and hasattr(model, "_retrieve_init_tokens"):
        # Whisper takes the prompt and the end from its outputs, unless it is asked for all that there is.
        arguments["return_dict_in_generate"] = True
    sequences = generate_fast_if_possible(model, **encoded, **arguments)
    sequences = sequences if torch.is_tensor(sequences) else sequences["sequences"]
    sequences = watcher.complete(sequences[: batch_size * num_returned], batch_size, max(num_beams, num_returned))
    # Where all are empty, nobody can work out how long they are.
    sequences = sequences.long().view(batch_size, num_returned, sequences.shape[-1])
    generated = _look_back(model, inputs, sequences, watcher.length, control, config)
    generated.is_search = num_beams > 1
    # What is not shown is not always a special token, so it is taken away where it is known.
    return generated.cut(watcher.length - len(control.target_prefix)) if watcher.prompts is not None else generated


def generate_best(
    model: PreTrainedModel, inputs: dict[str, torch.Tensor], arguments: dict[str, Any], hidden: Sequence[int]
) -> torch.LongTensor:
    """The one output of each condition that a model gives by the settings that it is saved with: ids, (batch, target).

    Args:
        model: Any encoder-decoder that generates.
        inputs: The encoder's inputs of a batch.
        arguments: What `generate` takes besides.
        hidden: Ids of special tokens.
    """
    consensus = Consensus.find(model, arguments)
    if consensus is None:
        return generate_with_control(model, inputs, arguments, Control()).sequences[:, 0]
    num_rows = next(iter(inputs.values())).shape[0]
    seeds: list[tuple[int, int]] | None = [(0, 0)] * num_rows
    arguments = consensus.draw(arguments)
    if has_latents(model):
        inputs, arguments, seeds = prepare_latents(model, inputs, arguments, arguments.get("temperature", 1.0), seeds)
    drawn = generate_with_control(model, inputs, arguments, Control(seeds=seeds)).gather(num_rows)
    return drawn.select(consensus.choose(drawn.sequences, hidden)).sequences[:, 0]


def _look_back(
    model: PreTrainedModel,
    inputs: dict[str, torch.Tensor],
    sequences: torch.LongTensor,
    prompt_length: int,
    control: Control,
    config: GenerationConfig,
) -> Generated:
    """What is asked about outputs that were found: how likely each token is, and where the model looked for it."""
    if not (control.return_scores or control.return_alignments):
        return Generated(sequences)
    rows = sequences.flatten(0, 1)
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    labels = label_generated(rows, prompt_length, [end for end in ends if end is not None], config.pad_token_id)
    encoded = encode(model, inputs)
    shape = (*sequences.shape[:2], -1)
    generated = Generated(sequences, is_scored=(labels != -100).view(shape))
    if control.return_scores:
        generated.token_scores = score_tokens(model, encoded, rows[:, :-1], labels).view(shape)
    if control.return_alignments:
        alignments = align_tokens(model, encoded, rows[:, :-1], control.alignment_layer)
        generated.alignments = alignments.view(*sequences.shape[:2], *alignments.shape[1:])
        generated.is_real = find_real_slots(model, encoded)
    return generated


def _refuse_beside_rerank(control: Control) -> None:
    others = {
        "allowed_outputs": control.allowed,
        "guidance_scale": control.guidance_scale,
        "target_prefix": control.target_prefix or None,
        "stream": control.watch,
    }
    given = [name for name, value in others.items() if value is not None]
    if given:
        raise ValueError(f"rerank= searches from both ends, which {given[0]} does not go with; leave one of them out.")


def _first(ids: int | list[int]) -> int:
    return ids[0] if isinstance(ids, list) else ids


def _list_first_tokens(config: GenerationConfig) -> list[int]:
    """What the model's own defaults put behind the start token: the language of a translation, for example."""
    return [] if config.forced_bos_token_id is None else [config.forced_bos_token_id]


__all__ = ["Control", "Generated", "generate_best", "generate_with_control"]

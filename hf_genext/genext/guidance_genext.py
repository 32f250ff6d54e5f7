"""Guidance: away from what a model writes without its condition, in one pass over a batch twice as large.

Memories of conditions have as many of none below them, so that one pass says what both would write.

Legend: batch, slots (memory positions), hidden; rows (of the doubled batch and its beams), vocab.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from .latents_genext import ENCODER_INPUTS
from .seeding_genext import KeyedSampling, make_keys

_CONDITIONS = (*ENCODER_INPUTS, "latent_noise", "sample_latents")


class GuidedScores(LogitsProcessor):
    """Mixes the log-probabilities of a row with its condition and of its twin without.

    Each row gets null + scale * (conditional - null) (Ho and Salimans 2022, "Classifier-free diffusion guidance"; Sanchez et
    al. 2023 for text), and so does its twin, so that both write the same.

    Args:
        scale: 1 leaves the conditional model as it is, 0 is the one without condition; above 1 the condition counts for more.
    """

    def __init__(self, scale: float) -> None:
        self._scale = scale

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Scores (rows, vocab), the rows with their condition in the first half, their twins in the second."""
        conditional, null = nn.functional.log_softmax(scores.float(), dim=-1).chunk(2)
        mixed = null + self._scale * (conditional - null)
        mixed = mixed.masked_fill((conditional == -torch.inf) | (null == -torch.inf), -torch.inf)
        return torch.cat([mixed, mixed])


class GuidedGeneration:
    """`generate` of a model that can be led away from what it writes without its condition."""

    generation_config: Any
    _prepare_generation_config: Any

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: list[Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Generate, as Transformers' `generate` does; with `guidance_scale` by a batch twice as large.

        Args:
            inputs: The main condition.
            generation_config: Settings; the model's own where it is left out.
            logits_processor: What changes the scores of both passes, before they are mixed.
            kwargs: Conditions, and what `generate` takes besides.

        Returns:
            Ids (batch * returned, target) from the start token on, or what `generate` is asked for.

        Raises:
            ValueError: with guidance, if the model never met rows without their condition in training, or for what does not go
                with it.
        """
        model: Any = self
        parent: Any = super()
        scale = kwargs.get("guidance_scale")
        for config in (generation_config, self.generation_config):
            scale = getattr(config, "guidance_scale", None) if scale is None else scale
        scale = 1.0 if scale is None else check_guidance_scale(scale)
        if scale == 1.0:
            return parent.generate(inputs, generation_config, logits_processor, **kwargs)
        config, _ = self._prepare_generation_config(generation_config, **kwargs)
        if config.return_dict_in_generate:
            raise ValueError("With guidance_scale there are ids alone; leave return_dict_in_generate out, or guidance_scale.")
        if kwargs.get("streamer") is not None:
            raise ValueError("With guidance_scale each row has a twin, which a streamer would show; leave one of them out.")
        conditions = {name: kwargs.pop(name) for name in _CONDITIONS if name in kwargs}
        if inputs is not None:
            conditions[model.main_input_name] = inputs
        if kwargs.get("encoder_outputs") is not None:
            given = model._take_encoder_outputs(kwargs["encoder_outputs"], conditions.get("attention_mask"))
            conditions = {"encoder_outputs": given}
        encoder_outputs = double_memory(model, conditions)
        batch_size = len(encoder_outputs.last_hidden_state) // 2
        for name in ("decoder_input_ids", "decoder_attention_mask"):
            if kwargs.get(name) is not None:
                kwargs[name] = torch.cat([kwargs[name]] * 2)
        if (allow := kwargs.get("prefix_allowed_tokens_fn")) is not None:
            kwargs["prefix_allowed_tokens_fn"] = lambda row, ids: allow(row % batch_size, ids)
        num_returned = config.num_return_sequences or 1
        keyed = [processor.double() for processor in logits_processor or [] if isinstance(processor, KeyedSampling)]
        others = [processor for processor in logits_processor or [] if not isinstance(processor, KeyedSampling)]
        if config.do_sample and not keyed:
            if (config.num_beams or 1) > 1:
                raise ValueError("guidance_scale goes with sampling or with beams, not with beams that are sampled.")
            # Twins draw the same.
            keys = make_keys([(int(seed), 0) for seed in torch.randint(2**62, (batch_size,))], num_returned)
            keyed = [KeyedSampling(keys, config).double()]
        processors = LogitsProcessorList([*others, GuidedScores(scale), *keyed])
        kwargs |= {"encoder_outputs": encoder_outputs, "guidance_scale": 1.0}
        return parent.generate(None, generation_config, processors, **kwargs)[: batch_size * num_returned]


def double_memory(model: PreTrainedModel, conditions: dict[str, torch.Tensor]) -> Any:
    """Encode conditions, and below them as many rows without any.

    Args:
        model: A conditional model that was trained with condition dropout.
        conditions: The encoder's inputs; or `encoder_outputs`, of a model without latent numbers.

    Returns:
        The encoder's output with a memory (2 * batch, slots, hidden) and its mask.

    Raises:
        ValueError: if the model never met rows without their condition in training.
    """
    require_guidance(model)
    encoder: Any = model.encoder
    own = {"sample_latents": False} if getattr(encoder, "has_latents", False) else {}
    outputs = conditions.get("encoder_outputs")
    if outputs is None:
        outputs = encoder(**conditions)
    elif own:
        raise ValueError(
            "guidance_scale= needs the conditions of a model with latent numbers, not its memory: what it would write from the "
            "same latent numbers without the conditions is not in that."
        )
    memory = outputs.last_hidden_state
    mask = torch.ones(memory.shape[:2], dtype=torch.long, device=memory.device)
    mask = mask if outputs.memory_mask is None else outputs.memory_mask
    nothing = torch.zeros(len(memory), encoder.num_conditions, dtype=torch.long, device=memory.device)
    null = encoder(condition_mask=nothing, **own)
    if own:
        # Both write from the same latent numbers, and differ in their conditions alone.
        null.last_hidden_state, null.memory_mask = encoder.bottleneck.write(outputs.latents.values, null.latents)
    null_mask = mask.new_ones(null.last_hidden_state.shape[:2]) if null.memory_mask is None else null.memory_mask
    slots = max(memory.shape[1], null.last_hidden_state.shape[1])
    pairs = ((memory, mask), (null.last_hidden_state, null_mask))
    return type(outputs)(
        last_hidden_state=torch.cat([nn.functional.pad(states, (0, 0, 0, slots - states.shape[1])) for states, _ in pairs]),
        memory_mask=torch.cat([nn.functional.pad(known, (0, slots - known.shape[1])) for _, known in pairs]),
    )


def require_guidance(model: PreTrainedModel) -> None:
    """Raise for a model that cannot be guided.

    Raises:
        ValueError: if the model never met rows without their condition in training.
    """
    encoder: Any = getattr(model, "encoder", None)
    dropout = getattr(getattr(model.config, "conditioner", None), "condition_dropout", 0.0)
    if not dropout or not getattr(encoder, "can_be_unconditional", False):
        if not getattr(encoder, "num_contexts", 1):
            raise ValueError("guidance_scale= strengthens a condition, and this model has none; leave it out.")
        raise ValueError(
            f"guidance_scale= needs a model that was trained with some of its conditions taken away; this "
            f"{type(model).__name__} was not. Train it with condition_dropout= (0.1, for example), or leave guidance_scale out."
        )


def check_guidance_scale(scale: object) -> float:
    """A scale of guidance as a number.

    Raises:
        ValueError: unless it is a finite number of 0 or more.
    """
    if isinstance(scale, bool) or not isinstance(scale, Real) or not 0.0 <= float(scale) < math.inf:
        raise ValueError(f"guidance_scale must be a finite number of 0 or more, got {scale!r}.")
    return float(scale)


__all__ = ["GuidedGeneration", "GuidedScores", "check_guidance_scale", "double_memory", "require_guidance"]

"""Output classes of the conditional family, the one home of every tensor's shape.

Legend: batch, length (input positions), slots (memory positions), target (output positions), hidden, vocab; conditions (those
that are fused), units (latent numbers of a row: slots * latent size), components (of a prior).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers.modeling_outputs import Seq2SeqLMOutput
from transformers.utils import ModelOutput


@dataclass
class ConditionerOutput(ModelOutput):
    """What a conditioner makes of a condition.

    Attributes:
        states: (batch, length, hidden).
        mask: (batch, length), 1 where a state is real, 0 where it is padding; `None` where every state is real.
        hidden_states: On request the states after the embedding and after each layer, each (batch, length, hidden).
        attentions: On request the attention weights of each layer, each (batch, heads, length, length).
        part_lengths: Of several conditions how many of the states are those of each, by its name and in their order.
        present: Of several conditions which a row has, (batch, conditions).
    """

    states: torch.FloatTensor | None = None
    mask: torch.LongTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    part_lengths: dict[str, int] | None = None
    present: torch.BoolTensor | None = None


@dataclass
class LatentOutput(ModelOutput):
    """What a bottleneck with a distribution over its memory has read of the targets, or drawn.

    Attributes:
        values: What the memory is made of, (batch, units).
        is_encoded: Which rows have a target, (batch,): the others are drawn from the prior.
        kl: The divergence of what a target leads to from the prior in nats, by units, (batch, units); 0 where a row is not
            encoded.
        context: States of the conditions that the decoder reads beside the latents, (batch, length, hidden).
        context_mask: 1 where such a state is real, (batch, length).
    """

    values: torch.Tensor = None
    is_encoded: torch.Tensor = None
    kl: torch.Tensor = None
    context: torch.FloatTensor | None = None
    context_mask: torch.LongTensor | None = None


@dataclass
class GaussianOutput(LatentOutput):
    """The latent numbers of a variational bottleneck, with the distributions that they are drawn from.

    Attributes:
        means: Of the posterior, (batch, units); in rows that are not encoded, of no meaning.
        log_variances: Likewise.
        prior_log_weights: Of the prior, (batch, components).
        prior_means: Likewise, (batch, components, units).
        prior_log_variances: Likewise.
    """

    means: torch.Tensor = None
    log_variances: torch.Tensor = None
    prior_log_weights: torch.Tensor = None
    prior_means: torch.Tensor = None
    prior_log_variances: torch.Tensor = None


@dataclass
class CodeOutput(LatentOutput):
    """The codes of a quantised bottleneck: `values` are whole numbers, one for each slot, `kl` minus their log-probability."""


@dataclass
class BottleneckOutput(ModelOutput):
    """What a bottleneck makes of the states.

    Attributes:
        memory: (batch, slots, hidden).
        memory_mask: (batch, slots), 1 where a slot is real; `None` where every slot is real.
        losses: Named parts that the bottleneck adds to the loss, in nats of each row, each (batch,).
        latents: Of a variational or quantised bottleneck what it has read or drawn.
    """

    memory: torch.FloatTensor | None = None
    memory_mask: torch.LongTensor | None = None
    losses: dict[str, torch.FloatTensor] | None = None
    latents: LatentOutput | None = None


@dataclass
class GenextEncoderOutput(ModelOutput):
    """What the encoder (conditioner and bottleneck) hands to the decoder.

    Attributes:
        last_hidden_state: The memory, (batch, slots, hidden).
        memory_mask: (batch, slots), 1 where a slot is real. The decoder sees this mask and never the input's.
        losses: Named parts that the bottleneck adds to the loss, in nats of each row, each (batch,).
        latents: Of a variational or quantised bottleneck what it has read or drawn.
        hidden_states: The conditioner's states after the embedding and after each layer, each (batch, length, hidden).
        attentions: The conditioner's attention weights, one for each layer, each (batch, heads, length, length).
    """

    last_hidden_state: torch.FloatTensor | None = None
    memory_mask: torch.LongTensor | None = None
    losses: dict[str, torch.FloatTensor] | None = None
    latents: LatentOutput | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class GenextSeq2SeqLMOutput(Seq2SeqLMOutput):
    """What a model with a sequence output gives.

    Attributes:
        losses: Where the bottleneck adds to the loss, its named parts, which sum to it: `reconstruction`, the cross-entropy,
            and those of the bottleneck, each a scalar without gradient.
        latents: Of a variational or quantised bottleneck what it has read or drawn.
    """

    losses: dict[str, torch.FloatTensor] | None = None
    latents: LatentOutput | None = None


@dataclass
class GenextPredictionOutput(ModelOutput):
    """What a model with a single output gives.

    Attributes:
        loss: Nats for each target that is given, a scalar.
        logits: Of classes or labels (batch, outputs); of a regression the means; of a density, in evaluation mode, its mean
            (mixture) or what noise of 0 becomes (flow); of an image its likeliest pixels, whole numbers, (batch,
            *output_shape), but where labels are given and pixels read each other.
        scale: The standard deviations of a regression, (batch, outputs).
        log_probs: Of a density or an image the log-probability of each row's target in nats, (batch,), 0 where there is none;
            with latent numbers that are drawn, as in training and with `sample_latents=True`, one draw of its evidence bound.
            Evaluation takes their means else, which is near the bound, and may lie above it.
        last_hidden_state: The memory, (batch, slots, hidden).
        hidden_states: As the encoder gives them.
        attentions: As the encoder gives them.
        losses: As [`GenextSeq2SeqLMOutput`] has them.
        latents: Likewise.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    scale: torch.FloatTensor | None = None
    log_probs: torch.FloatTensor | None = None
    last_hidden_state: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    losses: dict[str, torch.FloatTensor] | None = None
    latents: LatentOutput | None = None


__all__ = [
    "BottleneckOutput",
    "CodeOutput",
    "ConditionerOutput",
    "GaussianOutput",
    "GenextEncoderOutput",
    "GenextPredictionOutput",
    "GenextSeq2SeqLMOutput",
    "LatentOutput",
]

"""Output classes of the conditional family, the one home of every tensor's shape.

Legend: batch, length (input positions), slots (memory positions), target (output positions), hidden, vocab.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


@dataclass
class ConditionerOutput(ModelOutput):
    """What a conditioner makes of a condition.

    Attributes:
        states: (batch, length, hidden).
        mask: (batch, length), 1 where a state is real, 0 where it is padding; `None` where every state is real.
        hidden_states: On request the states after the embedding and after each layer, each (batch, length, hidden).
        attentions: On request the attention weights of each layer, each (batch, heads, length, length).
    """

    states: torch.FloatTensor | None = None
    mask: torch.LongTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class BottleneckOutput(ModelOutput):
    """What a bottleneck makes of the states.

    Attributes:
        memory: (batch, slots, hidden).
        memory_mask: (batch, slots), 1 where a slot is real; `None` where every slot is real.
        losses: Named parts that the bottleneck adds to the loss, each a scalar.
    """

    memory: torch.FloatTensor | None = None
    memory_mask: torch.LongTensor | None = None
    losses: dict[str, torch.FloatTensor] | None = None


@dataclass
class GenextEncoderOutput(ModelOutput):
    """What the encoder (conditioner and bottleneck) hands to the decoder.

    Attributes:
        last_hidden_state: The memory, (batch, slots, hidden).
        memory_mask: (batch, slots), 1 where a slot is real. The decoder sees this mask and never the input's.
        losses: Named parts that the bottleneck adds to the loss, each a scalar.
        hidden_states: The conditioner's states after the embedding and after each layer, each (batch, length, hidden).
        attentions: The conditioner's attention weights, one for each layer, each (batch, heads, length, length).
    """

    last_hidden_state: torch.FloatTensor | None = None
    memory_mask: torch.LongTensor | None = None
    losses: dict[str, torch.FloatTensor] | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class GenextPredictionOutput(ModelOutput):
    """What a model with a single output gives.

    Attributes:
        loss: Nats for each target that is given, a scalar.
        logits: Of classes or labels (batch, outputs); of a regression the means; of a density, in evaluation mode, its mean
            (mixture) or what noise of 0 becomes (flow).
        scale: The standard deviations of a regression, (batch, outputs).
        log_probs: Of a density the log-probability of each row's target in nats, (batch,), 0 where there is none.
        last_hidden_state: The memory, (batch, slots, hidden).
        hidden_states: As the encoder gives them.
        attentions: As the encoder gives them.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    scale: torch.FloatTensor | None = None
    log_probs: torch.FloatTensor | None = None
    last_hidden_state: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


__all__ = ["BottleneckOutput", "ConditionerOutput", "GenextEncoderOutput", "GenextPredictionOutput"]

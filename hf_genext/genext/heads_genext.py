"""Heads: each turns states into a distribution that can be sampled from and that gives log-probabilities.

Legend: batch, target (output positions), hidden, vocab.
"""

from __future__ import annotations

import torch
from torch import nn


class TokenHead(nn.Module):
    """A categorical distribution over the target tokens at each position."""

    def __init__(self, hidden_size: int, vocab_size: int) -> None:
        super().__init__()
        self.projection = nn.Linear(hidden_size, vocab_size, bias=False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Logits: (..., hidden) -> (..., vocab)."""
        return self.projection(states)

    def log_prob(self, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Log-probability, in nats, of each token: (..., hidden), (...) -> (...)."""
        log_probs = self(states).float().log_softmax(dim=-1)
        return log_probs.gather(-1, tokens[..., None])[..., 0]

    def sample(self, states: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Draw one token at each position: (..., hidden) -> (...)."""
        probabilities = self(states).float().softmax(dim=-1)
        drawn = torch.multinomial(probabilities.flatten(0, -2), 1, generator=generator)
        return drawn.view(states.shape[:-1])


def compute_token_loss(
    logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
) -> torch.Tensor:
    """Cross-entropy in nats, averaged over the labelled positions, computed in float32.

    Args:
        logits: (batch, target, vocab).
        labels: (batch, target), -100 where there is nothing to predict.
        num_items_in_batch: What the sum is divided by: the labelled positions of the whole optimizer step, over all its
            accumulated batches and ranks. Left out, those of this batch.

    Returns:
        A scalar.
    """
    total = nn.functional.cross_entropy(
        logits.float().flatten(0, -2), labels.flatten().to(logits.device), ignore_index=-100, reduction="sum"
    )
    if num_items_in_batch is None:
        return total / labels.ne(-100).sum().clamp(min=1).to(total.device)
    return total / (num_items_in_batch.to(total.device) if torch.is_tensor(num_items_in_batch) else num_items_in_batch)


__all__ = ["TokenHead", "compute_token_loss"]

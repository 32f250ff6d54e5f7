"""What word vectors learn by: telling each word from random ones by its neighbours (Mikolov et al. 2013, equation 4).

A text is one row of tokens with the number of its sentence beside each. It is parted into bands, and all scores of a band
are one matrix product; random words are drawn once for a band.

Legend: tokens (running words of the text), bands, band (tokens of a band), span (a band and the window on either side), size
(of a vector), negatives (random words of a band).
"""

from __future__ import annotations

import torch
from torch import nn

BAND = 64


def _part(values: torch.Tensor, window: int, fill: float) -> torch.Tensor:
    """(tokens, ...) -> the spans of all bands, (bands, span, ...)."""
    missing = -len(values) % BAND
    shape = [*[0, 0] * (values.ndim - 1), window, window + missing]
    padded = nn.functional.pad(values, shape, value=fill)
    spans = padded.unfold(0, BAND + 2 * window, BAND)
    return spans.movedim(-1, 1)


def find_pairs(sentences: torch.Tensor, reach: torch.Tensor, window: int) -> torch.Tensor:
    """Which tokens are neighbours.

    Args:
        sentences: The number of each token's sentence, -1 for a token that is none, (tokens,).
        reach: How far each token's own window reaches, from 1 to `window`, (tokens,).
        window: The farthest neighbour.

    Returns:
        (bands, band, span), true where the span's token lies in the window of the band's.
    """
    spans = _part(sentences, window, -1)
    centers, reaches = _part(sentences, 0, -1)[:, :, None], _part(reach, 0, 0)[:, :, None]
    places = torch.arange(BAND + 2 * window, device=sentences.device)
    distance = (places[None, :] - window - places[:BAND, None]).abs()[None]
    return (spans[:, None, :] == centers) & (centers >= 0) & (distance > 0) & (distance <= reaches)


def compute_fit(
    inputs: torch.Tensor, outputs: torch.Tensor, sentences: torch.Tensor, reach: torch.Tensor, window: int
) -> torch.Tensor:
    """How well each word fits its neighbours: the mean of its scores with them, 0 for a word without any.

    Args:
        inputs: Input vectors of the tokens (as neighbours), (tokens, size).
        outputs: Output vectors of the tokens (as words to predict), (tokens, size).
        sentences: As [`find_pairs`] takes them.
        reach: As [`find_pairs`] takes it.
        window: The farthest neighbour.

    Returns:
        (tokens,).
    """
    pairs = find_pairs(sentences, reach, window).to(inputs.dtype)
    scores = _part(outputs, 0, 0.0) @ _part(inputs, window, 0.0).transpose(1, 2)
    mean = (scores * pairs).sum(dim=-1) / pairs.sum(dim=-1).clamp(min=1)
    return mean.flatten()[: len(inputs)]


def compute_loss(
    inputs: torch.Tensor,
    outputs: torch.Tensor,
    negatives: torch.Tensor,
    sentences: torch.Tensor,
    reach: torch.Tensor,
    *,
    objective: str,
    window: int,
    num_negatives: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of a text by negative sampling.

    Args:
        inputs: Input vectors of the tokens, (tokens, size).
        outputs: Output vectors of the tokens, (tokens, size).
        negatives: Output vectors of each band's random words, (bands, negatives, size).
        sentences: As [`find_pairs`] takes them.
        reach: As [`find_pairs`] takes it.
        objective: `"skip_gram"`, where each neighbour predicts the word, or `"cbow"`, where their mean does.
        window: The farthest neighbour.
        num_negatives: Random words that each prediction counts for, however many of them were drawn.

    Returns:
        The sum of the loss over all predictions, in nats, and the number of predictions.
    """
    weight = num_negatives / max(negatives.shape[1], 1)
    spans, centers = _part(inputs, window, 0.0), _part(outputs, 0, 0.0)
    is_pair = find_pairs(sentences, reach, window)
    pairs = is_pair.to(inputs.dtype)
    if objective == "cbow":
        count = pairs.sum(dim=-1, keepdim=True)
        total = pairs @ spans
        mean = total / count.clamp(min=1)
        # Each neighbour takes the whole step and not its share, as in word2vec.
        mean = total + (mean - total).detach()
        has_any = (count > 0).to(inputs.dtype)
        positive = nn.functional.softplus(-(mean * centers).sum(dim=-1, keepdim=True))
        negative = nn.functional.softplus(mean @ negatives.transpose(1, 2)).sum(dim=-1, keepdim=True)
        return ((positive + weight * negative) * has_any).sum(), has_any.sum()
    positive = nn.functional.softplus(-(centers @ spans.transpose(1, 2)))
    negative = nn.functional.softplus(spans @ negatives.transpose(1, 2)).sum(dim=-1)
    return (positive * pairs).sum() + weight * (negative * pairs.sum(dim=1)).sum(), pairs.sum()


CURVATURE = 4.0
"""How fast a row comes to rest: after n updates at a rate r about 1 - exp(-4 r n) of its way is gone. Chosen by trial, on
batches of 4,096 tokens at a rate of 0.05: with 1 the training diverges, with 10 it lags behind the compiled loops."""


def compute_damping(num_updates: torch.Tensor, rate: float) -> torch.Tensor:
    """What to multiply a sum of updates by that were computed beside each other, not one after the other.

    Updates that follow each other take a row the share `1 - exp(-c r n)` of the way to rest; n of them that start from one
    point and are added up go `c r n` of it, and overshoot where that is more than 2. Few updates of a rare word are thus added
    up, those of a frequent word averaged.

    Args:
        num_updates: How many updates each row got, (rows,), as floating-point numbers.
        rate: The learning rate.

    Returns:
        The factors, (rows,), from 1 down to one by the number of updates.
    """
    way = CURVATURE * rate * num_updates
    return torch.where(way < 1e-9, torch.ones_like(way), -torch.expm1(-way) / way.clamp(min=1e-12))


def count_bands(num_tokens: int) -> int:
    """How many bands a text of so many tokens has."""
    return (num_tokens + BAND - 1) // BAND


__all__ = ["BAND", "compute_damping", "compute_fit", "compute_loss", "count_bands", "find_pairs"]

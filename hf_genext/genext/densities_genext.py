"""Densities over vectors with exact log-probabilities and samples: a mixture of Gaussians, and a normalising flow.

Legend: batch, size (numbers of a vector), components, bins (of a spline), hidden, context (numbers on which a density depends).
"""

from __future__ import annotations

import math

import torch
from torch import nn

from .noise_genext import Noise

LEAST_WIDTH = 1e-3
"""Of a spline's bins the least width and height, as a share of its interval, and the least slope between them."""


class GaussianMixture(nn.Module):
    """A mixture of Gaussians, described for each row by itself (Bishop 1994, "Mixture density networks").

    The precision of a component is `(I + N)^T diag(scale)^-2 (I + N)` with N below the diagonal, 0 for a diagonal one: each
    number is normal given those before it, with the standard deviation `scale`.

    Args:
        size: Numbers of a vector.
        num_components: Gaussians.
        covariance: `"diagonal"` or `"full"`.
        least_scale: The least of those standard deviations.
    """

    def __init__(self, size: int, num_components: int, covariance: str, least_scale: float) -> None:
        super().__init__()
        self.size, self.num_components, self.least_scale = size, num_components, least_scale
        below = size * (size - 1) // 2 if covariance == "full" else 0
        self.parts = (num_components, num_components * size, num_components * size, num_components * below)

    @property
    def num_parameters(self) -> int:
        """Numbers that describe the density of a row."""
        return sum(self.parts)

    def split(self, parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Parameters (batch, parameters) by what they say.

        Returns:
            Logits (batch, components), means and scales (batch, components, size), and the numbers of N row by row (batch,
            components, below).
        """
        logits, means, raw, below = parameters.split(self.parts, dim=-1)
        # 1 where the parameter is 0.
        scales = nn.functional.softplus(raw + math.log(math.e - 1.0)) + self.least_scale
        return logits, *(part.view(len(part), self.num_components, -1) for part in (means, scales, below))

    def fill(self, below: torch.Tensor) -> torch.Tensor:
        """The numbers below the diagonal into matrices, (..., below) -> (..., size, size)."""
        flat = below.new_zeros(*below.shape[:-1], self.size**2)
        row, column = torch.tril_indices(self.size, self.size, -1, device=below.device)
        return flat.index_copy(-1, row * self.size + column, below).view(*below.shape[:-1], self.size, self.size)

    def log_prob(self, parameters: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """The log-density in nats: (batch, parameters), or (1, parameters) for all rows, and (batch, size) -> (batch,)."""
        logits, means, scales, below = self.split(parameters)
        errors = values[:, None] - means
        if below.shape[-1]:
            lower = self.fill(below)
            # One matrix for all rows makes one product of them.
            is_one = len(lower) == 1
            products = torch.einsum("bkd,ked->bke", errors, lower[0]) if is_one else (lower @ errors[..., None])[..., 0]
            errors = errors + products
        normal = -0.5 * (errors / scales).square() - scales.log() - 0.5 * math.log(2 * math.pi)
        return (logits.log_softmax(dim=-1) + normal.sum(dim=-1)).logsumexp(dim=-1)

    def mean(self, parameters: torch.Tensor) -> torch.Tensor:
        """(batch, parameters) -> (batch, size)."""
        logits, means, _, _ = self.split(parameters)
        return (logits.softmax(dim=-1)[..., None] * means).sum(dim=1)

    def sample(self, parameters: torch.Tensor, noise: Noise, temperature: float = 1.0) -> torch.Tensor:
        """Draw vectors.

        Args:
            parameters: (rows, parameters), or (1, parameters) for all rows.
            noise: That of the rows.
            temperature: What the logits are divided by, and the standard deviations multiplied by.

        Returns:
            (rows, size).
        """
        logits, *parts = self.split(parameters)
        chosen = (logits / temperature + noise.gumbel(self.num_components).to(logits.dtype)).argmax(dim=-1)
        rows = torch.arange(len(chosen), device=chosen.device)
        means, scales, below = (part.expand(len(rows), -1, -1)[rows, chosen] for part in parts)
        errors = temperature * scales * noise.normal(self.size).to(means.dtype)
        if below.shape[-1]:
            # (I + N) errors = noise, of which the diagonal is not read.
            errors = torch.linalg.solve_triangular(self.fill(below), errors[..., None], upper=False, unitriangular=True)[..., 0]
        return means + errors


class SplineFlow(nn.Module):
    """A normalising flow: a chain of invertible maps that turns a vector into one of independent standard normal numbers.

    Each step mixes the numbers by an invertible matrix, kept as its triangular factors, then bends half of them, each by a
    monotone rational-quadratic spline whose knots depend on the other half and on the context (Durkan et al. 2019, "Neural
    spline flows").

    Args:
        size: Numbers of a vector.
        context_size: Numbers on which the density depends.
        num_transforms: Steps.
        hidden_size: Width of the networks that give the knots.
        num_bins: Pieces of each spline.
        tail_bound: Where the splines end, on either side of 0; beyond it a number stays as it is.
    """

    def __init__(
        self, size: int, context_size: int, num_transforms: int, hidden_size: int, num_bins: int, tail_bound: float
    ) -> None:
        super().__init__()
        self.size = size
        self.transforms = nn.ModuleList()
        for step in range(num_transforms):
            self.transforms.append(TriangularLinear(size))
            self.transforms.append(SplineCoupling(size, context_size, hidden_size, num_bins, tail_bound, reverse=step % 2 == 1))

    def to_noise(self, values: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, size), (batch, context) -> noise (batch, size), and the map's log-determinant (batch,)."""
        total = values.new_zeros(len(values))
        for transform in self.transforms:
            values, log_determinant = transform(values, context)
            total = total + log_determinant
        return values, total

    def to_values(self, noise: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """The inverse: (batch, size), (batch, context) -> (batch, size)."""
        for transform in reversed(self.transforms):
            noise = transform.invert(noise, context)
        return noise

    def log_prob(self, context: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """The log-density in nats: (batch, context), or (1, context) for all rows, and (batch, size) -> (batch,)."""
        noise, log_determinant = self.to_noise(values, context)
        return log_determinant - 0.5 * (noise.square() + math.log(2 * math.pi)).sum(dim=-1)

    def sample(self, context: torch.Tensor, noise: Noise, temperature: float = 1.0) -> torch.Tensor:
        """Draw vectors.

        Args:
            context: (rows, context), or (1, context) for all rows.
            noise: That of the rows.
            temperature: What the standard deviation of the noise is, 1 where the flow was trained (Kingma and Dhariwal 2018).

        Returns:
            (rows, size).
        """
        return self.to_values(temperature * noise.normal(self.size).to(context.dtype), context)


class TriangularLinear(nn.Module):
    """An invertible matrix as the product of a lower and an upper triangular one, the identity at first; with an offset."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.lower = nn.Parameter(torch.zeros(size, size))
        self.upper = nn.Parameter(torch.zeros(size, size))
        self.log_diagonal = nn.Parameter(torch.zeros(size))
        self.offset = nn.Parameter(torch.zeros(size))

    def _build(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The two matrices, the offset and the logarithms of the diagonal, as exact as the values."""
        lower, upper, log_diagonal, offset = (
            parameter.to(values.dtype) for parameter in (self.lower, self.upper, self.log_diagonal, self.offset)
        )
        identity = torch.eye(len(offset), device=values.device, dtype=values.dtype)
        return lower.tril(-1) + identity, upper.triu(1) + log_diagonal.exp().diag_embed(), offset, log_diagonal

    def forward(self, values: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, size) -> the same, and the log-determinant (batch,)."""
        lower, upper, offset, log_diagonal = self._build(values)
        return values @ (lower @ upper).T + offset, log_diagonal.sum().expand(len(values))

    def invert(self, values: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """(batch, size) -> the same."""
        lower, upper, offset, _ = self._build(values)
        columns = torch.linalg.solve_triangular(lower, (values - offset).T, upper=False, unitriangular=True)
        return torch.linalg.solve_triangular(upper, columns, upper=True).T


class SplineCoupling(nn.Module):
    """Bends half of the numbers by splines whose knots depend on the other half and on the context."""

    def __init__(
        self, size: int, context_size: int, hidden_size: int, num_bins: int, tail_bound: float, *, reverse: bool
    ) -> None:
        super().__init__()
        self.num_bins, self.tail_bound = num_bins, tail_bound
        half = size // 2
        self.kept = slice(size - half, size) if reverse else slice(0, half)
        self.bent = slice(0, size - half) if reverse else slice(half, size)
        self.read = nn.Linear(half + context_size, hidden_size)
        self.layers = nn.ModuleList([nn.Linear(hidden_size, hidden_size) for _ in range(2)])
        self.write = nn.Linear(hidden_size, (size - half) * (3 * num_bins - 1))

    def _find_knots(self, kept: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """(batch, kept), (batch, context) -> (batch, bent, 3 * bins - 1)."""
        context = context.expand(len(kept), -1)
        hidden = self.read(torch.cat([kept, context], dim=-1).to(self.read.weight.dtype))
        for layer in self.layers:
            hidden = hidden + layer(nn.functional.silu(hidden))
        knots = self.write(nn.functional.silu(hidden)).to(kept.dtype)
        return knots.view(len(kept), -1, 3 * self.num_bins - 1)

    def _join(self, kept: torch.Tensor, bent: torch.Tensor) -> torch.Tensor:
        return torch.cat([bent, kept] if self.bent.start == 0 else [kept, bent], dim=-1)

    def forward(self, values: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, size), (batch, context) -> (batch, size), and the log-determinant (batch,)."""
        knots = self._find_knots(values[:, self.kept], context)
        bent, log_slopes = bend(values[:, self.bent], knots, self.tail_bound)
        return self._join(values[:, self.kept], bent), log_slopes.sum(dim=-1)

    def invert(self, values: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """(batch, size), (batch, context) -> (batch, size)."""
        knots = self._find_knots(values[:, self.kept], context)
        return self._join(values[:, self.kept], straighten(values[:, self.bent], knots, self.tail_bound))


def bend(values: torch.Tensor, knots: torch.Tensor, bound: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A monotone rational-quadratic spline on (-bound, bound), the identity beyond (Durkan et al. 2019, eq. 4 and 5).

    Args:
        values: (..., ).
        knots: (..., 3 * bins - 1): widths, heights and inner slopes; all 0 is the identity.
        bound: Where the spline ends.

    Returns:
        The bent values, and the logarithms of the slopes, each (...).
    """
    inside = (values > -bound) & (values < bound)
    inner = values.clamp(-bound, bound)
    lefts, bottoms, slopes = _place_knots(knots, bound)
    left, width, bottom, height, first, last = _pick_bin(lefts, bottoms, slopes, inner, lefts)
    ratio, share = height / width, ((inner - left) / width).clamp(0.0, 1.0)
    mixed = share * (1 - share)
    below = ratio + (first + last - 2 * ratio) * mixed
    bent = bottom + height * (ratio * share.square() + first * mixed) / below
    above = ratio.square() * (last * share.square() + 2 * ratio * mixed + first * (1 - share).square())
    log_slopes = above.log() - 2 * below.log()
    return torch.where(inside, bent, values), torch.where(inside, log_slopes, torch.zeros_like(log_slopes))


def straighten(values: torch.Tensor, knots: torch.Tensor, bound: float) -> torch.Tensor:
    """The inverse of [`bend`] (eq. 6 to 8): values (...), knots (..., 3 * bins - 1) -> (...)."""
    inside = (values > -bound) & (values < bound)
    inner = values.clamp(-bound, bound)
    lefts, bottoms, slopes = _place_knots(knots, bound)
    left, width, bottom, height, first, last = _pick_bin(lefts, bottoms, slopes, inner, bottoms)
    ratio, rest = height / width, inner - bottom
    curved = rest * (first + last - 2 * ratio)
    square, linear, constant = height * (ratio - first) + curved, height * first - curved, -ratio * rest
    root = (linear.square() - 4 * square * constant).clamp(min=0.0).sqrt()
    share = (2 * constant / (-linear - root)).clamp(0.0, 1.0)
    return torch.where(inside, left + share * width, values)


def _place_knots(knots: torch.Tensor, bound: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Where the pieces begin and end, across and up, and the slopes there, each (..., bins + 1)."""
    bins = (knots.shape[-1] + 1) // 3
    widths, heights, raw = knots.split([bins, bins, bins - 1], dim=-1)
    edges = []
    for shares in (widths, heights):
        sizes = LEAST_WIDTH + (1 - LEAST_WIDTH * bins) * shares.softmax(dim=-1)
        inner = 2 * bound * sizes.cumsum(dim=-1)[..., :-1] - bound
        ends = torch.full_like(inner[..., :1], bound) if bins > 1 else knots.new_full((*knots.shape[:-1], 1), bound)
        edges.append(torch.cat([-ends, inner, ends], dim=-1))
    # 1 where the parameter is 0, as at the ends.
    slopes = LEAST_WIDTH + nn.functional.softplus(raw + math.log(math.expm1(1 - LEAST_WIDTH)))
    one = torch.ones_like(edges[0][..., :1])
    return edges[0], edges[1], torch.cat([one, slopes, one], dim=-1)


def _pick_bin(
    lefts: torch.Tensor, bottoms: torch.Tensor, slopes: torch.Tensor, values: torch.Tensor, edges: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Of the piece that holds each value: left, width, bottom, height, and the slopes at its two ends, each (...)."""
    place = (values[..., None] >= edges[..., 1:-1]).sum(dim=-1, keepdim=True)

    def pick(numbers: torch.Tensor, offset: int) -> torch.Tensor:
        return numbers.gather(-1, place + offset)[..., 0]

    left, bottom = pick(lefts, 0), pick(bottoms, 0)
    return left, pick(lefts, 1) - left, bottom, pick(bottoms, 1) - bottom, pick(slopes, 0), pick(slopes, 1)


__all__ = ["GaussianMixture", "SplineCoupling", "SplineFlow", "TriangularLinear", "bend", "straighten"]

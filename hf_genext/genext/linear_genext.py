"""Linear models of vectors that are fitted in closed form: probabilistic PCA, and ICA in its subspace.

Legend: rows, batch, size (numbers of a vector), components, bins (pieces of a source's map), n (rows that are kept in memory).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils import logging

from .noise_genext import Noise

logger = logging.get_logger(__name__)

SOURCE_BOUND = 2.5
"""Between this many standard deviations on either side the map of a source has its knots."""

MOST_ROWS = 100_000
"""How many rows ICA is given at most."""

_LEAST_VARIANCE = 1e-12
"""Of the largest variance the share below which one cannot be told from rounding."""

_ROUNDING = 1e-28
"""Of the largest variance the share below which there is none."""

_MOST_ITERATIONS = 200
_TOLERANCE = 1e-6


class LinearDensity(nn.Module):
    """A subspace with independent sources, and the same noise in all directions outside it.

    With normal sources it is probabilistic PCA (Tipping and Bishop 1999): the rows of `mixing` are the principal directions,
    each as long as the standard deviation along it. With `num_bins` each source is what a monotone function of that many
    straight pieces makes of a standard normal number (Chen and Gopinath 2000, "Gaussianization"), and the rows are ICA's.

    Args:
        size: Numbers of a vector.
        num_components: Dimensions of the subspace.
        num_bins: Pieces of each source's function; `None` for normal sources.
    """

    def __init__(self, size: int, num_components: int, num_bins: int | None = None) -> None:
        super().__init__()
        self.size, self.num_bins = size, num_bins
        self.mixing = nn.Parameter(torch.empty(num_components, size))
        self.log_noise = nn.Parameter(torch.empty(())) if num_components < size else None
        if num_bins is not None:
            self.starts = nn.Parameter(torch.empty(num_components))
            self.log_steps = nn.Parameter(torch.empty(num_components, num_bins))

    def start_anew(self) -> None:
        """Set all parameters to those of a standard normal distribution."""
        init.eye_(self.mixing)
        if self.log_noise is not None:
            init.zeros_(self.log_noise)
        if self.num_bins is not None:
            init.constant_(self.starts, -SOURCE_BOUND)
            init.constant_(self.log_steps, math.log(2 * SOURCE_BOUND / self.num_bins))

    def split(self, errors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Vectors by the subspace.

        Args:
            errors: Vectors with their mean taken away, (batch, size).

        Returns:
            Sources (batch, components), what is left outside the subspace (batch, size), and the logarithm of the volume that
            the rows of `mixing` span, a scalar.
        """
        mixing = self.mixing.to(errors.dtype)
        # Not by the products of the rows, whose condition is the square of theirs.
        basis, factor = torch.linalg.qr(mixing.T)
        inside = errors @ basis
        sources = torch.linalg.solve_triangular(factor, inside.T, upper=True).T
        return sources, errors - inside @ basis.T, factor.diagonal().abs().log().sum()

    def log_prob(self, means: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """The log-density in nats: (batch, size), or (1, size) for all rows, and (batch, size) -> (batch,)."""
        sources, rest, log_volume = self.split(values - means)
        noise, log_slopes = self._to_noise(sources)
        total = _log_normal(noise).sum(dim=-1) + log_slopes.sum(dim=-1) - log_volume
        if self.log_noise is not None:
            log_scale, count = self.log_noise.to(values.dtype), self.size - len(self.mixing)
            squares = rest.square().sum(dim=-1) * (-2 * log_scale).exp()
            total = total - 0.5 * squares - count * (log_scale + 0.5 * math.log(2 * math.pi))
        return total

    def sample(self, means: torch.Tensor, noise: Noise, temperature: float = 1.0) -> torch.Tensor:
        """Draw vectors.

        Args:
            means: (rows, size), or (1, size) for all rows.
            noise: That of the rows.
            temperature: What the standard deviations of the noise are multiplied by.

        Returns:
            (rows, size).
        """
        normal = (temperature * noise.normal(len(self.mixing))).to(means.dtype)
        values = means + self._to_sources(normal) @ self.mixing.to(means.dtype)
        if self.log_noise is None:
            return values
        outside = (temperature * noise.normal(self.size)).to(means.dtype) * self.log_noise.to(means.dtype).exp()
        return values + self.split(outside)[1]

    def _place_knots(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Where the pieces of the sources' functions begin and end: sources (components, bins + 1), noise (bins + 1,)."""
        steps = self.log_steps.to(like.dtype).exp().cumsum(dim=-1)
        starts = self.starts.to(like.dtype)[:, None]
        places = torch.linspace(-SOURCE_BOUND, SOURCE_BOUND, steps.shape[-1] + 1, device=like.device, dtype=like.dtype)
        return torch.cat([starts, starts + steps], dim=-1), places

    def _to_noise(self, sources: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Sources as standard normal numbers, and the logarithms of the slopes there: twice (batch, components)."""
        if self.num_bins is None:
            return sources, torch.zeros_like(sources)
        knots, places = self._place_knots(sources)
        piece = (sources[..., None] >= knots[:, 1:-1]).sum(dim=-1)
        left, slope = _pick(knots, piece), _pick(places.diff() / knots.diff(), piece)
        return places[piece] + slope * (sources - left), slope.log()

    def _to_sources(self, noise: torch.Tensor) -> torch.Tensor:
        """The inverse: (rows, components) -> the same."""
        if self.num_bins is None:
            return noise
        knots, places = self._place_knots(noise)
        piece = (noise[..., None] >= places[1:-1]).sum(dim=-1)
        return _pick(knots, piece) + (noise - places[piece]) / _pick(places.diff() / knots.diff(), piece)


class Moments:
    """Mean and covariance of rows that come batch by batch, in float64 (Chan et al. 1983).

    Example:
        >>> rows = torch.tensor([[1.0, 2.0], [3.0, 6.0], [5.0, 4.0]])
        >>> moments = Moments()
        >>> for row in rows:
        ...     moments.update(row[None])
        >>> bool((moments.covariance - rows.double().T.cov()).abs().max() < 1e-12)
        True
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = self._scatter = torch.zeros(())

    def update(self, rows: torch.Tensor) -> None:
        """Count rows, (rows, size).

        Raises:
            ValueError: for what is not a finite number.
        """
        if not len(rows):
            return
        rows = rows.detach().double().cpu()
        broken = (~rows.isfinite()).nonzero()
        if len(broken):
            row, column = broken[0].tolist()
            raise ValueError(
                f"Number {column + 1} of row {self.count + row + 1} is {rows[row, column].item()}, and a linear model needs "
                "finite numbers. Leave such rows out."
            )
        mean = rows.mean(dim=0)
        centred = rows - mean
        total, shift = self.count + len(rows), mean - self.mean
        added = torch.outer(shift, shift) * (self.count * len(rows) / total) if self.count else torch.zeros(())
        self._scatter = self._scatter + centred.T @ centred + added
        self.mean = self.mean + shift * (len(rows) / total)
        self.count = total

    @property
    def covariance(self) -> torch.Tensor:
        """The unbiased one, (size, size)."""
        return self._scatter / max(1, self.count - 1)


def find_components(
    covariance: torch.Tensor, num_components: int, num_rows: int, *, of_density: bool = False
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """The principal components of a covariance.

    Args:
        covariance: (size, size), in float64.
        num_components: How many.
        num_rows: Of how many rows the covariance is.
        of_density: Whether they are a density's, which needs some variance in every number, and outside the components.

    Returns:
        Directions of length 1 (components, size), the variances along them (components,), both from the largest on, and the
        mean of the other variances, 0 where there are none.

    Raises:
        ValueError: for more components than the vectors have numbers or than there are rows, or rows that lie in fewer
            dimensions; of a density for a number that is the same in all rows.
    """
    size = len(covariance)
    if num_components > min(size, num_rows - 1):
        told = f"the vectors have {size} numbers" if num_components > size else f"there are {num_rows} rows"
        raise ValueError(
            f"{num_components} components were asked for, but {told}. Choose fewer components"
            + (", or give more rows than components." if num_components <= size else ".")
        )
    spread = covariance.diagonal()
    if not spread.max():
        raise ValueError(f"All {num_rows} rows are the same, so they have no components. Give rows that differ.")
    constant = (spread <= _LEAST_VARIANCE * spread.max()).nonzero()
    if of_density and len(constant):
        place, widest = int(constant[0, 0]), float(spread.max())
        if spread[place] <= _ROUNDING * widest:
            raise ValueError(
                f"Number {place + 1} of the vectors is the same in all rows: its variance is 0, and no density has that. Leave "
                "it out."
            )
        raise ValueError(
            f"Number {place + 1} of the vectors has a variance of {float(spread[place]):.2g} beside {widest:.2g} of another, "
            "which is too little to be told from rounding. Bring all numbers to like sizes, or leave it out."
        )
    variances, directions = torch.linalg.eigh(covariance)
    variances, directions = variances.flip(0), directions.flip(1).T
    rank = int((variances > _LEAST_VARIANCE * variances[0]).sum())
    most = rank - 1 if of_density and rank < size else rank
    if num_components > most:
        noise = " A density needs some noise outside its components." if of_density else ""
        raise ValueError(
            f"{num_components} components were asked for, but the {num_rows} rows lie in {rank} dimensions of the {size}."
            f"{noise} Choose {most} components or fewer, or leave out numbers that follow from others."
        )
    rest = float(variances[num_components:].mean()) if num_components < size else 0.0
    return directions[:num_components], variances[:num_components], rest


def regress(covariance: torch.Tensor, mean: torch.Tensor, num_inputs: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Least squares of the later numbers of rows on the earlier ones.

    Args:
        covariance: Of all numbers, (inputs + size, inputs + size), in float64.
        mean: Likewise, (inputs + size,).
        num_inputs: How many are the earlier ones.

    Returns:
        Weights (size, inputs), the least ones where several fit alike; the covariance of what is left (size, size); and in how
        many dimensions the inputs lie.

    Raises:
        ValueError: for a number that the earlier ones tell exactly.
    """
    inputs, both, outputs = (
        covariance[:num_inputs, :num_inputs],
        covariance[num_inputs:, :num_inputs],
        covariance[num_inputs:, num_inputs:],
    )
    if not num_inputs:
        return both, outputs, 0
    # Against the squares, not the variance: of inputs that are the same in all rows that is nothing but rounding.
    squares = inputs.diagonal() + mean[:num_inputs].square()
    least = {"atol": _LEAST_VARIANCE * squares.max(), "rtol": 0.0, "hermitian": True}
    weights = both @ torch.linalg.pinv(inputs, **least)
    left = outputs - weights @ both.T
    told = ((left.diagonal() <= _LEAST_VARIANCE * outputs.diagonal()) & (outputs.diagonal() > 0)).nonzero()
    if len(told):
        raise ValueError(
            f"Number {int(told[0, 0]) + 1} of the vectors follows exactly from the conditions in these rows, and no density "
            "has that. Leave it out, or give more rows than the conditions have numbers."
        )
    return weights, (left + left.T) / 2, int(torch.linalg.matrix_rank(inputs, **least))


def find_rotation(rows: torch.Tensor) -> torch.Tensor:
    """The rotation under which the numbers of rows are as independent as can be: FastICA, all at once (Hyvärinen 1999).

    Args:
        rows: Rows of mean 0, whose numbers have variance 1 and no correlation, (n, components), in float64.

    Returns:
        (components, components): the sources are `rows @ rotation.T`, in no order and of no sign that means anything.
    """
    generator = torch.Generator().manual_seed(0)
    size = rows.shape[1]
    rotation = _make_orthogonal(torch.randn(size, size, generator=generator, dtype=rows.dtype))
    for _ in range(_MOST_ITERATIONS):
        sources = rows @ rotation.T
        contrast = sources.tanh()  # That of log cosh.
        slopes = (1 - contrast.square()).mean(dim=0)
        turned = _make_orthogonal(contrast.T @ rows / len(rows) - slopes[:, None] * rotation)
        change = 1 - (turned * rotation).sum(dim=1).abs().min().item()
        rotation = turned
        if change < _TOLERANCE:
            return rotation
    logger.warning(
        f"ICA's rotation still turned after {_MOST_ITERATIONS} rounds: some sources are too near to normal ones to be told "
        "apart. The density is as exact as any."
    )
    return rotation


def find_source_knots(sources: torch.Tensor, num_bins: int) -> torch.Tensor:
    """Where the function of each source has its knots: at the quantiles that a normal distribution has at even steps.

    Args:
        sources: (n, components).
        num_bins: Pieces of each function.

    Returns:
        (components, bins + 1), each rising.
    """
    places = torch.linspace(-SOURCE_BOUND, SOURCE_BOUND, num_bins + 1, dtype=sources.dtype)
    shares = torch.special.ndtr(places) * (len(sources) - 1)
    ordered = sources.sort(dim=0).values
    below = shares.floor().long()
    above = (below + 1).clamp(max=len(sources) - 1)
    knots = torch.lerp(ordered[below], ordered[above], (shares - below)[:, None]).T
    # Sources of few values may have several quantiles at one place.
    least = 1e-3 * (places[1] - places[0])
    return torch.cat([knots[:, :1], knots[:, :1] + knots.diff(dim=1).clamp(min=least).cumsum(dim=1)], dim=1)


def keep_rows(parts: Iterable[torch.Tensor], count: int) -> torch.Tensor:
    """Of rows that come in parts, (rows, any), as many as ICA is given, evenly spaced: (n, any)."""
    step, start, kept = -(-count // MOST_ROWS), 0, []
    for part in parts:
        kept.append(part[-start % step :: step])
        start += len(part)
    return torch.cat(kept)


def _make_orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """The nearest orthogonal matrix."""
    left, _, right = torch.linalg.svd(matrix)
    return left @ right


def _pick(numbers: torch.Tensor, piece: torch.Tensor) -> torch.Tensor:
    """Of each component's row the number of a piece: (components, any), (batch, components) -> (batch, components)."""
    return numbers.gather(1, piece.T).T


def _log_normal(values: torch.Tensor) -> torch.Tensor:
    return -0.5 * (values.square() + math.log(2 * math.pi))


__all__ = ["LinearDensity", "Moments", "find_components", "find_rotation", "find_source_knots", "keep_rows", "regress"]

"""Simple distributions over images of whole numbers, which models of images are compared with.

Each learns from images, draws new ones, and says how likely given ones are. Densities of real numbers are scored on images
to each of whose pixels a uniform random number of 0 to 1 was added ("uniform dequantisation", Theis et al. 2016): the mean of
their logarithms is a bound of the log-probability of the whole numbers from below.

Legend: rows, pixels, levels (values of a pixel), components.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from scipy.special import log_ndtr, logsumexp

_ENOUGH_ROWS = 20_000
"""So many images have noise enough of their own."""

_LARGEST_TABLE = 1 << 22
"""Numbers that are held at once."""

_GRID_STEPS = 32
"""Points of the table of a density on the width of one of its bumps."""


class PixelDistribution(ABC):
    """A distribution over images, (rows, pixels), learned from some."""

    num_levels: int

    @abstractmethod
    def log_prob(self, images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """The log-probability in nats, or a bound of it from below, (rows,)."""

    @abstractmethod
    def sample(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """New images, (count, pixels)."""


def score_binned(images: np.ndarray, means: np.ndarray, scales: np.ndarray, num_levels: int) -> np.ndarray:
    """The log-probability in nats of independent normal pixels, integrated over the unit interval around each level.

    Args:
        images: (rows, pixels).
        means: Of the pixels, (rows, pixels) or (pixels,).
        scales: Their standard deviations, likewise.
        num_levels: Values of a pixel; the tails belong to the end levels.

    Returns:
        (rows,).
    """
    upper = np.where(images >= num_levels - 1, np.inf, (images + 0.5 - means) / scales)
    lower = np.where(images <= 0, -np.inf, (images - 0.5 - means) / scales)
    # On the side of the tail, where a difference of logarithms loses nothing.
    flipped = lower > 0
    upper, lower = np.where(flipped, -lower, upper), np.where(flipped, -upper, lower)
    with np.errstate(divide="ignore", invalid="ignore"):
        tail = np.where(np.isneginf(lower), -np.inf, log_ndtr(lower) - log_ndtr(upper))
    return (log_ndtr(upper) + np.log1p(-np.exp(tail))).sum(axis=1)


class BinnedGaussian(PixelDistribution):
    """Independent normal pixels, integrated over the unit interval around each level; the tails belong to the end levels.

    Args:
        images: To learn from.
        num_levels: Values of a pixel.
        least_scale: The least standard deviation.
    """

    def __init__(self, images: np.ndarray, num_levels: int, least_scale: float) -> None:
        self.num_levels = num_levels
        self._mean, self._scale = images.mean(axis=0), np.maximum(images.std(axis=0), least_scale)

    def log_prob(self, images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """(rows, pixels) -> (rows,), exact."""
        return score_binned(images, self._mean, self._scale, self.num_levels)

    def sample(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """(count, pixels)."""
        drawn = self._mean + self._scale * generator.standard_normal((count, len(self._mean)))
        return np.clip(np.rint(drawn), 0, self.num_levels - 1)


class Dequantised(PixelDistribution):
    """A density of real numbers, learned from images with uniform noise.

    Args:
        num_levels: Values of a pixel.
        num_draws: Draws of the noise, for learning and for scoring; for learning from many images fewer, for the noise of so
            many is as good as several draws of that of few.
    """

    def __init__(self, num_levels: int, num_draws: int) -> None:
        self.num_levels, self._num_draws = num_levels, num_draws

    def _spread(self, images: np.ndarray) -> np.ndarray:
        """Images with noise, to learn from."""
        generator = np.random.default_rng(0)
        repeated = np.repeat(images, max(1, min(self._num_draws, _ENOUGH_ROWS // len(images))), axis=0)
        return repeated + generator.random(repeated.shape)

    @abstractmethod
    def score(self, values: np.ndarray) -> np.ndarray:
        """The log-density of real numbers, (rows,)."""

    @abstractmethod
    def draw(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """Real numbers, (count, pixels)."""

    def log_prob(self, images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """(rows, pixels) -> (rows,), a bound: the mean of the log-density over the noise."""
        return np.mean([self.score(images + generator.random(images.shape)) for _ in range(self._num_draws)], axis=0)

    def sample(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """(count, pixels)."""
        return np.clip(np.floor(self.draw(count, generator)), 0, self.num_levels - 1)


class FullGaussian(Dequantised):
    """A normal distribution with a full covariance, drawn towards its diagonal.

    Args:
        images: To learn from.
        num_levels: Values of a pixel.
        shrinkage: The diagonal's share.
        num_draws: Draws of the noise.
    """

    def __init__(self, images: np.ndarray, num_levels: int, shrinkage: float, num_draws: int = 8) -> None:
        super().__init__(num_levels, num_draws)
        values = self._spread(images)
        covariance = np.cov(values, rowvar=False)
        covariance = (1.0 - shrinkage) * covariance + shrinkage * np.diag(np.diag(covariance))
        self._mean, self._root = values.mean(axis=0), np.linalg.cholesky(covariance)

    def score(self, values: np.ndarray) -> np.ndarray:
        """(rows, pixels) -> (rows,)."""
        errors = np.linalg.solve(self._root, (values - self._mean).T)
        logdet = np.log(np.diag(self._root)).sum()
        return -0.5 * (errors**2).sum(axis=0) - logdet - 0.5 * len(self._mean) * np.log(2.0 * np.pi)

    def draw(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """(count, pixels)."""
        return self._mean + generator.standard_normal((count, len(self._mean))) @ self._root.T


class PrincipalComponents(Dequantised):
    """Probabilistic PCA (Tipping and Bishop 1999), scikit-learn's: normal components, and as much noise in all else.

    Args:
        images: To learn from.
        num_levels: Values of a pixel.
        num_components: Dimensions.
        num_draws: Draws of the noise.
    """

    def __init__(self, images: np.ndarray, num_levels: int, num_components: int, num_draws: int = 8) -> None:
        from sklearn.decomposition import PCA

        super().__init__(num_levels, num_draws)
        self._pca = PCA(num_components, svd_solver="full").fit(self._spread(images))

    def score(self, values: np.ndarray) -> np.ndarray:
        """(rows, pixels) -> (rows,)."""
        return self._pca.score_samples(values)

    def draw(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """(count, pixels)."""
        pca, noise = self._pca, self._pca.noise_variance_
        scales = np.sqrt(np.maximum(pca.explained_variance_ - noise, 0.0))
        values = pca.mean_ + (generator.standard_normal((count, len(scales))) * scales) @ pca.components_
        return values + np.sqrt(noise) * generator.standard_normal(values.shape)


class BumpDensity:
    """The mean of normal densities of one width around some numbers, from a table.

    Args:
        centres: (count,).
        width: Their standard deviation.
    """

    def __init__(self, centres: np.ndarray, width: float) -> None:
        self._centres, self._width = centres, width
        first, last = centres.min() - 6.0 * width, centres.max() + 6.0 * width
        self._grid = np.linspace(first, last, 2 + int((last - first) / width * _GRID_STEPS))
        self._table = self._sum_up(self._grid)

    def _sum_up(self, points: np.ndarray) -> np.ndarray:
        """The log-density by its definition, (points,)."""
        found = []
        for some in np.array_split(points, 1 + len(points) * len(self._centres) // _LARGEST_TABLE):
            exponents = -0.5 * ((some[:, None] - self._centres) / self._width) ** 2
            found.append(logsumexp(exponents, axis=1))
        return np.concatenate(found) - np.log(len(self._centres) * self._width * np.sqrt(2.0 * np.pi))

    def score(self, values: np.ndarray) -> np.ndarray:
        """The log-density: (rows,) -> (rows,)."""
        found = np.interp(values, self._grid, self._table)
        outside = (values < self._grid[0]) | (values > self._grid[-1])
        found[outside] = self._sum_up(values[outside])
        return found


class IndependentComponents(Dequantised):
    """FastICA (Hyvärinen 1999), scikit-learn's, in the space of the principal components, and noise in all else.

    Each component has a density of its own, a sum of normal ones around those of the images learned from, whose width is
    Silverman's.

    Args:
        images: To learn from.
        num_levels: Values of a pixel.
        num_components: Dimensions.
        num_draws: Draws of the noise.
    """

    def __init__(self, images: np.ndarray, num_levels: int, num_components: int, num_draws: int = 8) -> None:
        import warnings

        from sklearn.decomposition import PCA, FastICA
        from sklearn.exceptions import ConvergenceWarning

        super().__init__(num_levels, num_draws)
        values = self._spread(images)
        self._pca = PCA(num_components, whiten=True, svd_solver="full").fit(values)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            # What is white stays so under the rotation that is left to find.
            ica = FastICA(whiten=False, random_state=0, max_iter=500).fit(self._pca.transform(values))
        self._rotation = np.linalg.qr(ica.components_.T)[0]
        self._centres = self._pca.transform(images + 0.5) @ self._rotation
        self._width = 1.06 * self._centres.std(axis=0) * len(images) ** -0.2
        columns = zip(self._centres.T, self._width, strict=True)
        self._densities = [BumpDensity(centres, width) for centres, width in columns]

    def score(self, values: np.ndarray) -> np.ndarray:
        """(rows, pixels) -> (rows,)."""
        white = self._pca.transform(values)
        rest = values - self._pca.inverse_transform(white)
        components = white @ self._rotation
        densities = sum(density.score(values) for density, values in zip(self._densities, components.T, strict=True))
        size, noise = values.shape[1] - components.shape[1], self._pca.noise_variance_
        normal = -0.5 * (rest**2).sum(axis=1) / noise - 0.5 * size * np.log(2.0 * np.pi * noise)
        return densities - 0.5 * np.log(self._pca.explained_variance_).sum() + normal

    def draw(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """(count, pixels)."""
        rows, size = self._centres.shape
        places = generator.integers(rows, size=(count, size))
        components = self._centres[places, np.arange(size)] + self._width * generator.standard_normal((count, size))
        values = self._pca.inverse_transform(components @ self._rotation.T)
        noise = np.sqrt(self._pca.noise_variance_) * generator.standard_normal(values.shape)
        # In the space of the components the density has no noise beside theirs.
        inside = noise @ self._pca.components_.T @ self._pca.components_
        return values + noise - inside


__all__ = [
    "BinnedGaussian",
    "BumpDensity",
    "FullGaussian",
    "IndependentComponents",
    "PixelDistribution",
    "PrincipalComponents",
    "score_binned",
]

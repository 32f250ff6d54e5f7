"""How good drawn images are: a classifier learned from them alone, and how near their features are to those of real ones.

Legend: rows, pixels, features.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np


class ImageJudge:
    """Compares drawn images with real ones by a small classifier of the real ones.

    Args:
        images: Real images to learn from, (rows, pixels).
        classes: What they show, (rows,).
        num_levels: Values of a pixel, from 0 on.
        known: Images that drawn ones may repeat; those to learn from if left out.
    """

    def __init__(self, images: np.ndarray, classes: np.ndarray, num_levels: int, *, known: np.ndarray | None = None) -> None:
        self._scale = num_levels - 1.0
        self._known = {row.tobytes() for row in (images if known is None else known).astype(np.int16)}
        self._classifier = _learn(images / self._scale, classes)

    def extract(self, images: np.ndarray) -> np.ndarray:
        """What the last hidden layer of the classifier says of images: (rows, pixels) -> (rows, features)."""
        states = images / self._scale
        for weight, bias in zip(self._classifier.coefs_[:-1], self._classifier.intercepts_[:-1], strict=True):
            states = np.tanh(states @ weight + bias)
        return states

    def compute_distance(self, drawn: np.ndarray, real: np.ndarray) -> float:
        """The Fréchet distance of normal distributions fitted to the features of two sets of images (Heusel et al. 2017)."""
        from scipy.linalg import sqrtm

        first, second = (self.extract(images).astype(np.float64) for images in (drawn, real))
        covariances = [np.cov(features, rowvar=False) for features in (first, second)]
        root = np.real(sqrtm(covariances[0] @ covariances[1]))
        difference = first.mean(axis=0) - second.mean(axis=0)
        return float(difference @ difference + np.trace(covariances[0] + covariances[1] - 2.0 * root))

    def judge(
        self, drawn: np.ndarray, shown: np.ndarray | None, real: np.ndarray, classes: np.ndarray, seed: int = 0
    ) -> dict[str, float]:
        """What drawn images are worth.

        Args:
            drawn: (rows, pixels).
            shown: What each shall show, (rows,); `None` for images that were drawn without a condition.
            real: Images that nothing was learned from, (rows, pixels).
            classes: What these show, (rows,).
            seed: Of the classifier that learns from the drawn images.

        Returns:
            `frechet_distance`; `novelty`, the share of drawn images that are none of those known, and `diversity`, the
            mean variance of their pixels as a share of that of the real ones, both in percent; and where `shown` is given
            `sample_accuracy`, how often a classifier that learned from the drawn images alone is right on the real ones, and
            `validity`, how often the classifier of the real ones sees in a drawn one what it shall show, both in percent.
        """
        found = {
            "frechet_distance": self.compute_distance(drawn, real),
            "novelty": 100.0 * float(np.mean([row.tobytes() not in self._known for row in drawn.astype(np.int16)])),
            "diversity": 100.0 * float(drawn.var(axis=0).mean() / real.var(axis=0).mean()),
        }
        if shown is not None:
            own = _learn(drawn / self._scale, shown, seed)
            found["sample_accuracy"] = 100.0 * float(own.score(real / self._scale, classes))
            found["validity"] = 100.0 * float(self._classifier.score(drawn / self._scale, shown))
        return found


def _learn(images: np.ndarray, classes: np.ndarray, seed: int = 0) -> Any:
    """A classifier with two hidden layers."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return MLPClassifier((64, 32), activation="tanh", alpha=0.01, max_iter=150, random_state=seed).fit(images, classes)


__all__ = ["ImageJudge"]

"""Principal components of the spelling of short texts: the linear autoencoder beside which the recipe's stands.

Legend: rows, positions, characters (of the alphabet, the empty position among them), components.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_EMPTY = ""


class PositionPCA:
    """PCA of the one-hot matrix of characters by their positions, flattened.

    Args:
        texts: The texts to fit on; the longest has as many characters as there are positions.
        num_components: How many numbers a text becomes.

    Raises:
        ValueError: if there are fewer positions and characters, or texts, than that.

    Example:
        >>> pca = PositionPCA(["ab", "ba", "b", "a", "bb"], 4)
        >>> pca.decode(pca.encode(["ab", "b"]))
        ['ab', 'b']
    """

    def __init__(self, texts: Sequence[str], num_components: int) -> None:
        from sklearn.decomposition import PCA

        self.num_components = num_components
        self.alphabet = [_EMPTY, *sorted(set("".join(texts)))]
        self.num_positions = max(map(len, texts))
        most = min(self.num_positions * len(self.alphabet), len(texts))
        if num_components > most:
            raise ValueError(
                f"{len(texts):,} texts of {self.num_positions} positions with {len(self.alphabet)} characters have at most "
                f"{most} components; {num_components} are asked for."
            )
        self._numbers = {character: number for number, character in enumerate(self.alphabet)}
        self._pca = PCA(num_components, svd_solver="covariance_eigh")
        vectors = self._pca.fit_transform(self._flatten(texts))
        # One number for all components: their proportions are PCA's, their size is one that a network likes.
        self._scale = float(np.sqrt(np.mean(vectors**2))) or 1.0

    def _flatten(self, texts: Sequence[str]) -> np.ndarray:
        """(rows, positions * characters); the rest of a longer text is cut, the place of an unknown character stays empty."""
        numbers = np.zeros((len(texts), self.num_positions), dtype=np.int64)
        for row, text in enumerate(texts):
            found = [self._numbers.get(character, 0) for character in text[: self.num_positions]]
            numbers[row, : len(found)] = found
        return np.eye(len(self.alphabet), dtype=np.float32)[numbers].reshape(len(texts), -1)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(rows, components), float32."""
        return (self._pca.transform(self._flatten(texts)) / self._scale).astype(np.float32)

    def decode(self, vectors: np.ndarray) -> list[str]:
        """At each position the character whose number is largest, up to the first empty position."""
        flat = self._pca.inverse_transform(np.asarray(vectors, dtype=np.float64) * self._scale)
        chosen = flat.reshape(len(flat), self.num_positions, -1).argmax(axis=2)
        texts = []
        for numbers in chosen.tolist():
            end = numbers.index(0) if 0 in numbers else len(numbers)
            texts.append("".join(self.alphabet[number] for number in numbers[:end]))
        return texts


__all__ = ["PositionPCA"]

"""A space as a mapping from words to vectors: look-up, neighbours, and the field's tests of it.

Legend: words, size (of a vector).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from .configuration_static_embedding import StaticEmbeddingConfig
from .fasttext_static_embedding import hash_ngrams
from .vocabulary_static_embedding import Vocabulary


class WordMapping:
    """What a model with a matrix of word vectors answers when it is asked for words."""

    config: StaticEmbeddingConfig
    embeddings: torch.nn.Parameter
    ngram_embeddings: torch.nn.Parameter
    _unit_vectors: tuple[tuple[int, int], np.ndarray] | None

    @property
    def vocabulary(self) -> Vocabulary:
        """The words."""
        raise NotImplementedError

    @property
    def words(self) -> Vocabulary:
        """The words in their order."""
        return self.vocabulary

    def encode(self, texts: str | Sequence[str]) -> np.ndarray:
        """Sentence vectors."""
        raise NotImplementedError

    def _matrix(self) -> np.ndarray:
        """The vectors of the words, (words, size), as they are stored; bfloat16 becomes float32."""
        rows = self.embeddings.detach()[: self.config.vocab_size - 2]
        rows = rows.float() if rows.dtype == torch.bfloat16 else rows
        return rows.cpu().numpy()

    def __len__(self) -> int:
        return self.config.vocab_size - 2

    def __bool__(self) -> bool:
        return True

    def __contains__(self, word: object) -> bool:
        return isinstance(word, str) and self._place(word) >= 0

    def _place(self, word: str) -> int:
        place = self.vocabulary.find(word)
        return self.vocabulary.find(word.lower()) if place < 0 and self.config.lowercase else place

    def __getitem__(self, word: str | Sequence[str]) -> np.ndarray:
        """The vector of a word, (size,), or of several, (words, size); a copy, so that a change of it leaves the space alone.

        Raises:
            KeyError: for a word that the space lacks, with the nearest spellings, unless it has subwords.
        """
        if not isinstance(word, str):
            if not isinstance(word, Iterable):
                raise TypeError(f"A space is asked for a word or a list of words, got {type(word).__name__}.")
            return np.stack([self[item] for item in word]) if len(word) else np.empty((0, self.config.hidden_size), np.float32)
        place = self._place(word)
        if place >= 0:
            row = self.embeddings.detach()[place].clone()
            return (row.float() if row.dtype == torch.bfloat16 else row).cpu().numpy()
        if self.config.num_buckets:
            buckets = hash_ngrams(word, self.config.min_ngram, self.config.max_ngram, self.config.num_buckets)
            if len(buckets):
                return self.ngram_embeddings.detach()[torch.from_numpy(buckets)].float().mean(dim=0).cpu().numpy()
        if self.config.subword_tokens and (vector := self.encode(word)).any():
            return vector
        near = ", ".join(map(repr, self.vocabulary.find_nearest_spellings(word)))
        raise KeyError(f"The space has no word {word!r}; " + (f"near it are {near}." if near else "nor any spelled nearly so."))

    def _units(self) -> np.ndarray:
        """The vectors at length 1, float32, (words, size), kept until the vectors change."""
        version = (self.embeddings.data_ptr(), self.embeddings._version)
        if self._unit_vectors is None or self._unit_vectors[0] != version:
            rows = self._matrix().astype(np.float32)
            rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
            self._unit_vectors = (version, rows)
        return self._unit_vectors[1]

    def most_similar(
        self,
        positive: str | np.ndarray | Sequence[str | np.ndarray] = (),
        negative: str | np.ndarray | Sequence[str | np.ndarray] = (),
        topn: int = 10,
    ) -> list[tuple[str, float]]:
        """The words nearest by cosine to the mean of some words' vectors at length 1, negative ones turned round.

        `most_similar(positive=["woman", "king"], negative=["man"])` asks what is to a woman as a king is to a man.

        Args:
            positive: A word, a vector (size,), which counts with its length, or a list of them.
            negative: As `positive`.
            topn: How many.

        Returns:
            Words with their cosine, the nearest first; words that were given are left out.

        Raises:
            KeyError: for a word that the space lacks.
            ValueError: if nothing is given, or topn is negative.
        """
        given = [(item, 1.0) for item in _as_list(positive)] + [(item, -1.0) for item in _as_list(negative)]
        if not given:
            raise ValueError("most_similar needs at least one word or vector.")
        if topn < 0:
            raise ValueError(f"topn must be 0 or more, got {topn}.")
        mean = np.zeros(self.config.hidden_size, dtype=np.float32)
        for item, sign in given:
            vector = np.asarray(self[item] if isinstance(item, str) else item, dtype=np.float32)
            if vector.shape != mean.shape:
                raise ValueError(f"A vector of this space has {len(mean)} numbers, got one of shape {vector.shape}.")
            mean += sign * (vector / max(float(np.linalg.norm(vector)), 1e-12) if isinstance(item, str) else vector)
        cosines = self._units() @ (mean / max(float(np.linalg.norm(mean)), 1e-12))
        left_out = [self._place(item) for item, _ in given if isinstance(item, str)]
        cosines[[place for place in left_out if place >= 0]] = -np.inf
        topn = min(topn, int(np.isfinite(cosines).sum()))
        best = np.argpartition(-cosines, topn - 1)[:topn] if topn else np.empty(0, dtype=np.int64)
        return [
            (self.vocabulary[int(place)], float(cosines[place])) for place in best[np.argsort(-cosines[best], kind="stable")]
        ]

    def similarity(self, first: str, second: str) -> float:
        """The cosine of two words.

        Raises:
            KeyError: for a word that the space lacks.
        """
        one, other = (self[word].astype(np.float64) for word in (first, second))
        return float(one @ other / max(float(np.linalg.norm(one) * np.linalg.norm(other)), 1e-12))

    def evaluate_word_pairs(self, pairs: Iterable[tuple[str, str, float]]) -> dict[str, float]:
        """Compare cosines with people's judgements of similarity (WordSim-353, SimLex-999).

        Args:
            pairs: Two words and the judgement.

        Returns:
            `spearman` and `pearson` over the pairs that the space knows, `pairs`, and how many pairs are left out
            (`out_of_vocabulary`).

        Raises:
            ValueError: if the space knows fewer than two pairs.
        """
        cosines, judgements, unknown = [], [], 0
        for first, second, judgement in pairs:
            try:
                cosine = self.similarity(first, second)
            except KeyError:
                unknown += 1
                continue
            cosines.append(cosine)
            judgements.append(float(judgement))
        if len(cosines) < 2:
            raise ValueError(
                f"A correlation needs two pairs at least; the space knows {len(cosines)} of {unknown + len(cosines)}."
            )
        return {**correlate(cosines, judgements), "pairs": len(cosines), "out_of_vocabulary": unknown}

    def evaluate_word_analogies(
        self, questions: Iterable[tuple[str, str, str, str]], *, restrict_vocabulary: int | None = 300_000
    ) -> dict[str, float]:
        """How many questions "a is to b as c is to ?" are answered right (3CosAdd, Mikolov et al. 2013).

        Args:
            questions: Four words, the last the answer.
            restrict_vocabulary: Look for answers among the first so many words only.

        Returns:
            `accuracy` over the questions whose words are all known, `questions`, and `out_of_vocabulary`.

        Raises:
            ValueError: if the space knows no question whole.
        """
        units = self._units()[:restrict_vocabulary]
        known, unknown = [], 0
        for question in questions:
            places = [self._place(word) for word in question]
            if len(places) == 4 and all(0 <= place < len(units) for place in places):
                known.append(places)
            else:
                unknown += 1
        if not known:
            raise ValueError(f"The space knows none of the {unknown} questions whole.")
        right = 0
        for start in range(0, len(known), 256):
            rows = np.array(known[start : start + 256])
            cosines = (units[rows[:, 1]] - units[rows[:, 0]] + units[rows[:, 2]]) @ units.T
            np.put_along_axis(cosines, rows[:, :3], -np.inf, axis=1)
            right += int((cosines.argmax(axis=1) == rows[:, 3]).sum())
        return {"accuracy": right / len(known), "questions": len(known), "out_of_vocabulary": unknown}


def _as_list(given: Any) -> list[Any]:
    return [given] if isinstance(given, (str, np.ndarray)) else list(given)


def correlate(first: Sequence[float], second: Sequence[float]) -> dict[str, float]:
    """Spearman's correlation, where equal values share their mean rank, and Pearson's: `spearman` and `pearson`.

    Example:
        >>> correlate([0.1, 0.2, 0.9], [3.0, 4.0, 5.0])["spearman"]
        1.0
    """
    return {
        "spearman": float(np.corrcoef(_rank(first), _rank(second))[0, 1]),
        "pearson": float(np.corrcoef(first, second)[0, 1]),
    }


def _rank(values: Sequence[float]) -> np.ndarray:
    _, inverse, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2.0)[inverse]


__all__ = ["WordMapping", "correlate"]

"""Two ways to take a piece of text into word vectors: compiled loops on a processor, and tensors on any device.

Legend: words, size (of a vector), buckets (rows of hashed n-grams), tokens (running words of the text), bands, negatives.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from .objectives_static_embedding import BAND, compute_damping, compute_loss, count_bands
from .pretraining_static_embedding import StaticEmbeddingForPreTraining

_SENTENCE_END = -2


@dataclass
class Progress:
    """What a piece of text came to.

    Attributes:
        loss: Sum of the loss over the predictions that were looked at, in nats.
        predictions: How many those are.
        tokens: Running words of the text.
    """

    loss: float
    predictions: float
    tokens: int


class Engine(Protocol):
    """Trains a model on text, in place."""

    def train(self, ids: np.ndarray, rate: float, end_rate: float, seed: int) -> Progress:
        """Take a piece of text, (tokens,), with a learning rate that comes down evenly from one to another."""
        ...


def compute_keep_shares(counts: np.ndarray, subsample: float) -> np.ndarray:
    """The share of each word's tokens that are trained on, (words,).

    `sqrt(t / f) + t / f`, at most 1, with f the word's share of the text, as word2vec computes it; `subsample=0` keeps all.
    """
    if subsample == 0:
        return np.ones(len(counts))
    ratio = subsample * counts.sum() / counts
    return np.minimum(np.sqrt(ratio) + ratio, 1.0)


class CompiledEngine:
    """Compiled loops, with threads that share the vectors without locks (Recht et al. 2011).

    With one thread the same seed gives the same vectors, bit by bit.

    Args:
        model: What to train, on the processor.
        places: From ids to words, (ids,); -1 for no word, -2 for an end of a sentence.
        keep: The share of each word's tokens that are trained on, (words,).
        num_threads: How many pieces of text are trained on at once.
    """

    def __init__(
        self, model: StaticEmbeddingForPreTraining, places: np.ndarray, keep: np.ndarray, num_threads: int = 1
    ) -> None:
        # The compiler is imported only where it is used.
        from .kernels_static_embedding import build_alias_table, build_kernel, tabulate_sigmoid

        config = model.config
        self._kernel = build_kernel(config.hidden_size, config.num_negatives, config.objective, config.num_buckets > 0)
        words = config.vocab_size - 2
        starts, ngrams = model.list_ngrams()
        self._places, self._window, self.num_threads = np.ascontiguousarray(places), config.window, num_threads
        self._arrays = (
            model.input_embeddings.detach().numpy()[:words],
            model.ngram_embeddings.detach().numpy() if config.num_buckets else np.zeros((1, config.hidden_size), np.float32),
            starts,
            ngrams,
            model.output_embeddings.detach().numpy()[:words],
            np.minimum(keep * 2.0**32, 2.0**32 - 1).astype(np.uint32),
            *build_alias_table(model.noise[:words].numpy()),
            tabulate_sigmoid(),
        )
        self._pool = ThreadPoolExecutor(num_threads) if num_threads > 1 else None
        self.train(np.zeros(0, dtype=np.int32), 0.0, 0.0, seed=0)  # Compile now, not in the first step.

    def train(self, ids: np.ndarray, rate: float, end_rate: float, seed: int) -> Progress:
        """Take a piece of text, (tokens,), with a learning rate that comes down evenly from one to another."""
        pieces = self._split(ids)
        totals = np.zeros((len(pieces), 3))
        seeds = np.random.SeedSequence(seed).generate_state(len(pieces), np.uint64)

        def run(part: int) -> None:
            self._kernel(
                pieces[part],
                self._places,
                *self._arrays,
                self._window,
                np.float64(rate),
                np.float64(end_rate),
                seeds[part],
                totals[part],
            )

        if self._pool is None:
            run(0)
        else:
            list(self._pool.map(run, range(len(pieces))))
        loss, predictions, tokens = totals.sum(axis=0)
        return Progress(float(loss), float(predictions), int(tokens))

    def _split(self, ids: np.ndarray) -> list[np.ndarray]:
        """One piece for each thread, parted at ends of sentences where there are any."""
        bounds = [0]
        for part in range(1, self.num_threads):
            bound = max(part * len(ids) // self.num_threads, bounds[-1])
            ends = np.flatnonzero(self._places[ids[bound:]] == _SENTENCE_END)
            bounds.append(bound + int(ends[0]) + 1 if len(ends) else bound)
        return [ids[start:stop] for start, stop in zip(bounds, [*bounds[1:], len(ids)], strict=True)]


class TensorEngine:
    """Matrix products over bands of text, on any device.

    A batch's updates of one row are added up, and damped where that would overshoot.

    Args:
        model: What to train.
        places: From ids to words, (ids,); -1 for no word, -2 for an end of a sentence.
        keep: The share of each word's tokens that are trained on, (words,).
        batch_tokens: Tokens of a batch.
    """

    def __init__(
        self, model: StaticEmbeddingForPreTraining, places: np.ndarray, keep: np.ndarray, batch_tokens: int = 4096
    ) -> None:
        self._model, self._batch_tokens = model, batch_tokens
        self._device = model.input_embeddings.device
        self._places = torch.from_numpy(places).to(self._device).long()
        self._keep = torch.from_numpy(keep).float().to(self._device)

    @torch.no_grad()
    def train(self, ids: np.ndarray, rate: float, end_rate: float, seed: int) -> Progress:
        """Take a piece of text, (tokens,), with a learning rate that comes down evenly from one to another."""
        generator = torch.Generator(self._device).manual_seed(seed % 2**63)
        words = self._places[torch.from_numpy(np.ascontiguousarray(ids)).to(self._device).long()]
        sentences = (words == _SENTENCE_END).cumsum(0)
        tokens = len(words) - int(sentences[-1]) if len(words) else 0
        draws = torch.rand(len(words), device=self._device, generator=generator)
        stays = (words >= 0) & (draws <= self._keep[words.clamp(min=0)])
        words, sentences = words[stays], sentences[stays]
        totals = torch.zeros(2, device=self._device)
        for start in range(0, len(words), self._batch_tokens):
            now = rate + (end_rate - rate) * start / len(words)
            batch = slice(start, start + self._batch_tokens)
            totals += self._step(words[batch], sentences[batch], now, generator)
        loss, predictions = totals.tolist()
        return Progress(loss, predictions, tokens)

    def _step(self, words: torch.Tensor, sentences: torch.Tensor, rate: float, generator: torch.Generator) -> torch.Tensor:
        model, config = self._model, self._model.config
        reach = torch.randint(1, config.window + 1, words.shape, device=self._device, generator=generator)
        others = torch.multinomial(model.noise, count_bands(len(words)) * BAND, replacement=True, generator=generator)
        inputs = model.compose(words).requires_grad_()
        outputs = model.output_embeddings.detach()[words].requires_grad_()
        negatives = model.output_embeddings.detach()[others].requires_grad_()
        with torch.enable_grad():
            loss, predictions = compute_loss(
                inputs,
                outputs,
                negatives.view(-1, BAND, config.hidden_size),
                sentences,
                reach,
                objective=config.objective,
                window=config.window,
                num_negatives=config.num_negatives,
            )
            inputs_step, outputs_step, negatives_step = torch.autograd.grad(loss, [inputs, outputs, negatives])
        self._add(model.input_embeddings, words, inputs_step, rate, torch.ones_like(words))
        if config.num_buckets:
            table, counts = model.tabulate_ngrams(self._device)
            is_there = torch.arange(table.shape[1], device=self._device) < counts[words][:, None]
            tokens = torch.arange(len(words), device=self._device)[:, None].expand_as(is_there)[is_there]
            ngrams = table[words][is_there]
            self._add(model.ngram_embeddings, ngrams, inputs_step[tokens], rate, torch.ones_like(ngrams))
        # A random word stands for the `num_negatives` random ones of each token of its band.
        weights = torch.cat([torch.ones_like(words), torch.full_like(others, max(config.num_negatives, 1))])
        step = torch.cat([outputs_step, negatives_step])
        self._add(model.output_embeddings, torch.cat([words, others]), step, rate, weights)
        return torch.stack([loss.detach(), predictions])

    @staticmethod
    def _add(rows: torch.Tensor, places: torch.Tensor, step: torch.Tensor, rate: float, weights: torch.Tensor) -> None:
        num_updates = torch.zeros(len(rows), device=rows.device).index_add_(0, places, weights.float())
        factors = compute_damping(num_updates, rate).to(step.dtype)[places]
        rows.data.index_add_(0, places, step * (-rate * factors)[:, None])


__all__ = ["CompiledEngine", "Engine", "Progress", "TensorEngine", "compute_keep_shares"]

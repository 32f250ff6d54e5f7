"""Learning a space of word vectors: what a [`StaticEmbeddingModel`] is before it is one.

Legend: batch, length (tokens of a text), words, size (of a vector), buckets (rows of hashed n-grams), tokens (running words).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_static_embedding import StaticEmbeddingConfig
from .fasttext_static_embedding import hash_ngrams
from .modeling_static_embedding import StaticEmbeddingModel
from .objectives_static_embedding import BAND, compute_fit, compute_loss, count_bands
from .vocabulary_static_embedding import VOCABULARY_NAME, Vocabulary, find_vocabulary


@dataclass
class StaticEmbeddingPreTrainingOutput(ModelOutput):
    """What learning looks at.

    Attributes:
        loss: Nats per word that is predicted, a scalar; where labels are given.
        logits: How well each word fits its neighbours: the mean of its scores with them, (batch, length).
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None


class StaticEmbeddingForPreTraining(PreTrainedModel):
    """A space that learns: input vectors (which become the space), n-gram vectors, and output vectors.

    `recipes/train_embedding.py` trains it with compiled loops; through `forward` any trainer of Transformers can.

    Example:
        >>> import torch
        >>> from hf_genext import StaticEmbeddingForPreTraining
        >>> words = ["sun", "moon", "violin"]
        >>> model = StaticEmbeddingForPreTraining.from_words(words, counts=[5, 4, 2], hidden_size=8, window=2)
        >>> sentence = torch.tensor([[0, 2, 1, 1]])
        >>> round(float(model.eval()(sentence, labels=sentence).loss), 2)  # 10 pairs, each with 5 random words: 60 ln(2) / 4
        10.4
        >>> len(model.to_space())
        3
    """

    config_class = StaticEmbeddingConfig
    base_model_prefix = "static_embedding"
    main_input_name = "input_ids"
    _no_split_modules: list[str] = []

    def __init__(self, config: StaticEmbeddingConfig) -> None:
        super().__init__(config)
        self.input_embeddings = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
        if config.num_buckets:
            self.ngram_embeddings = nn.Parameter(torch.empty(config.num_buckets, config.hidden_size))
        self.output_embeddings = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
        self.register_buffer("noise", torch.ones(config.vocab_size))
        self._vocabulary: Vocabulary | None = None
        self._ngrams: tuple[np.ndarray, np.ndarray] | None = None
        self._ngram_table: tuple[torch.Tensor, torch.Tensor] | None = None
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, StaticEmbeddingForPreTraining):
            spread = self.config.initializer_range
            for name, parameter in module.named_parameters(recurse=False):
                if spread is not None:
                    init.normal_(parameter, std=spread)
                elif name == "output_embeddings":
                    init.zeros_(parameter)
                else:
                    # As fastText begins, and gensim. Half of this scores lower, with CBOW most, whose means are smaller.
                    init.uniform_(parameter, -1.0 / self.config.hidden_size, 1.0 / self.config.hidden_size)
            init.ones_(module.noise)
            module.noise[[self.config.unk_token_id, self.config.pad_token_id]] = 0.0

    @classmethod
    def from_words(
        cls,
        words: Sequence[str],
        counts: Sequence[int] | np.ndarray,
        *,
        noise_exponent: float = 0.75,
        **config: Any,
    ) -> Self:
        """A new model over a vocabulary.

        Args:
            words: Distinct words.
            counts: How often each occurs in the text.
            noise_exponent: Random words are drawn in proportion to their counts to this power.
            config: Fields of [`StaticEmbeddingConfig`].

        Returns:
            The model, its vectors as word2vec begins.

        Raises:
            ValueError: if there is no word, or not a count for each.
        """
        if not len(words):
            raise ValueError("A space needs at least one word, got none.")
        model = cls(StaticEmbeddingConfig(vocab_size=len(words) + 2, **config))
        model._vocabulary = Vocabulary(words, counts)
        with torch.no_grad():
            model.noise[:-2] = torch.as_tensor(np.asarray(counts, dtype=np.float64) ** noise_exponent).float()
        if model.config.num_buckets:
            model.tabulate_ngrams(model.noise.device)
        return model

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *model_args: Any, **kwargs: Any
    ) -> Self:
        """Open a folder or a Hub repository as Transformers does, but never with vectors left random.

        Args:
            pretrained_model_name_or_path: Folder or Hub id.
            model_args: As in Transformers.
            kwargs: As in Transformers.

        Returns:
            The model; with `output_loading_info=True` also what was read.

        Raises:
            ValueError: if the folder holds a space that is learned already, or lacks weights.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(pretrained_model_name_or_path, *model_args, output_loading_info=True, **kwargs)
        if missing := sorted(info["missing_keys"]):
            raise ValueError(
                f"{str(pretrained_model_name_or_path)!r} lacks {', '.join(map(repr, missing))}, which would be random. It is "
                f"no {cls.__name__}, such as a checkpoint of its training; a space itself is opened with AutoModel."
            )
        opened: Any = (model, info) if wants_info else model
        return opened

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Save the weights and the words.

        Args:
            save_directory: The folder; made if it is not there.
            kwargs: As in Transformers.
        """
        super().save_pretrained(save_directory, **kwargs)
        if self._find_vocabulary() is not None:
            self.vocabulary.save(Path(save_directory) / VOCABULARY_NAME)

    def _find_vocabulary(self) -> Vocabulary | None:
        if self._vocabulary is None and self.name_or_path:
            self._vocabulary = find_vocabulary(self.name_or_path, self.config.vocab_size - 2)
        return self._vocabulary

    @property
    def vocabulary(self) -> Vocabulary:
        """The words.

        Raises:
            ValueError: if the model has none.
        """
        vocabulary = self._find_vocabulary()
        if vocabulary is None:
            raise ValueError("This model has no words for its rows. Make it with from_words.")
        return vocabulary

    def list_ngrams(self) -> tuple[np.ndarray, np.ndarray]:
        """Where each word's n-grams begin, (words + 1,), and the buckets of all n-grams, end to end, (n-grams,)."""
        if self._ngrams is None:
            starts, ngrams = np.zeros(len(self.vocabulary) + 1, dtype=np.int64), np.zeros(0, dtype=np.int32)
            if self.config.num_buckets:
                sizes = (self.config.min_ngram, self.config.max_ngram, self.config.num_buckets)
                each = [hash_ngrams(word, *sizes) for word in self.vocabulary]
                np.cumsum([len(buckets) for buckets in each], out=starts[1:])
                ngrams = np.concatenate(each).astype(np.int32)
            self._ngrams = starts, ngrams
        return self._ngrams

    def compose(self, ids: torch.Tensor) -> torch.Tensor:
        """Input vectors of words: their own rows, or with subwords the mean of those and their n-grams' rows.

        Each row takes a word's whole step in training and not its share of it, as in fastText.

        Args:
            ids: (tokens,).

        Returns:
            (tokens, size).
        """
        rows = nn.functional.embedding(ids, self.input_embeddings)
        if not self.config.num_buckets:
            return rows
        table, counts = self.tabulate_ngrams(ids.device)
        is_there = (torch.arange(table.shape[1], device=ids.device) < counts[ids][:, None]).to(rows.dtype)
        ngrams = nn.functional.embedding_bag(table[ids], self.ngram_embeddings, mode="sum", per_sample_weights=is_there)
        total = rows + ngrams
        return total + (total / (1 + counts[ids])[:, None] - total).detach()

    def tabulate_ngrams(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Every word's n-grams in a row of its own, (words + 2, most n-grams), and how many they are, (words + 2,)."""
        if self._ngram_table is None:
            starts, ngrams = self.list_ngrams()
            counts = np.zeros(self.config.vocab_size, dtype=np.int64)
            counts[: len(starts) - 1] = np.diff(starts)
            table = np.zeros((len(counts), max(int(counts.max()), 1)), dtype=np.int64)
            table[np.arange(table.shape[1]) < counts[:, None]] = ngrams
            self._ngram_table = torch.from_numpy(table), torch.from_numpy(counts)
        self._ngram_table = self._ngram_table[0].to(device), self._ngram_table[1].to(device)
        return self._ngram_table

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        negative_ids: torch.LongTensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> StaticEmbeddingPreTrainingOutput:
        """Score each word with its neighbours, and compute the loss where labels are given.

        Args:
            input_ids: Words, (batch, length).
            attention_mask: 1 where a token is real, (batch, length).
            labels: The words to predict at each place, usually `input_ids`; -100 where there is none, (batch, length).
            negative_ids: Random words, (bands, negatives), a band being 64 places of the batch laid end to end; drawn from the
                model's noise if left out.
            num_items_in_batch: Words to predict in the whole optimizer step, by which the loss is divided.
            kwargs: `return_dict`.

        Returns:
            Loss and scores. In training the window of each word has a random reach up to `config.window`.
        """
        window = self.config.window
        ids = input_ids.flatten()
        is_word = (ids != self.config.unk_token_id) & (ids != self.config.pad_token_id)
        if attention_mask is not None:
            is_word = is_word & attention_mask.flatten().bool()
        rows = torch.arange(input_ids.shape[0], device=ids.device)[:, None].expand(input_ids.shape).reshape(-1)
        sentences = torch.where(is_word, rows, -1)
        inputs = self.compose(ids)
        reach = torch.full_like(ids, window)
        fit = compute_fit(inputs, nn.functional.embedding(ids, self.output_embeddings), sentences, reach, window)
        loss = None
        if labels is not None:
            targets = labels.flatten()
            if self.training:
                reach = torch.randint_like(ids, 1, window + 1)
            reach = torch.where(targets == -100, 0, reach)
            targets = torch.where(targets == -100, self.config.unk_token_id, targets)
            if negative_ids is None:
                bands = count_bands(len(ids))
                drawn = torch.multinomial(self.noise.float(), bands * BAND, replacement=True)
                negative_ids = drawn.view(bands, BAND)
            total, _ = compute_loss(
                inputs,
                nn.functional.embedding(targets, self.output_embeddings),
                nn.functional.embedding(negative_ids, self.output_embeddings),
                sentences,
                reach,
                objective=self.config.objective,
                window=window,
                num_negatives=self.config.num_negatives,
            )
            predicted = ((reach > 0) & is_word).sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
            loss = total / predicted
        return StaticEmbeddingPreTrainingOutput(loss=loss, logits=fit.view(input_ids.shape))

    def to_space(self, **config: Any) -> StaticEmbeddingModel:
        """What was learned, as a space.

        Args:
            config: Fields of [`StaticEmbeddingConfig`] to change, such as `pooling`.

        Returns:
            The space; with subwords, unknown words get vectors too.
        """
        settings = {
            name: getattr(self.config, name)
            for name in ("pooling", "sif_coefficient", "normalize", "lowercase", "objective", "window", "num_negatives")
        }
        ngrams = None
        with torch.no_grad():
            vectors = self.compose(torch.arange(len(self.vocabulary), device=self.input_embeddings.device)).cpu()
            if self.config.num_buckets:
                ngrams = self.ngram_embeddings.detach().cpu().clone()
                settings |= {"min_ngram": self.config.min_ngram, "max_ngram": self.config.max_ngram}
        return StaticEmbeddingModel.from_words(
            list(self.vocabulary), vectors, counts=self.vocabulary.counts, ngrams=ngrams, **{**settings, **config}
        )


__all__ = ["StaticEmbeddingForPreTraining", "StaticEmbeddingPreTrainingOutput"]

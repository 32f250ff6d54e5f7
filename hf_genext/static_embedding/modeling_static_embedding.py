"""Static embeddings as a Transformers model: vectors for words, and from them for sentences.

Legend: batch, length (tokens of a text), words, size (of a vector), buckets (rows of hashed n-grams).
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import cached_file
from transformers.utils.generic import can_return_tuple

from .configuration_static_embedding import StaticEmbeddingConfig
from .folders_static_embedding import StaticFolder, read_static_folder
from .readout_static_embedding import (
    ReadOutPooling,
    compute_sif_weights,
    folds_case,
    list_tokens,
    open_pretrained,
    project_vectors,
    read_out,
    strip_tokenizer,
)
from .tokenization_static_embedding import Split, build_word_tokenizer
from .vectors_static_embedding import read_vectors, write_word2vec
from .vocabulary_static_embedding import VOCABULARY_NAME, Vocabulary, find_vocabulary
from .words_static_embedding import WordMapping

logger = logging.getLogger(__name__)

_MODULES = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.StaticEmbedding"}]
_NORMALIZE = {"idx": 1, "name": "1", "path": "1_Normalize", "type": "sentence_transformers.models.Normalize"}
_HUB_KWARGS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


class StaticEmbeddingModel(WordMapping, PreTrainedModel):
    """A space of word vectors.

    In Transformers' way it takes token ids and gives token vectors and a pooled sentence vector; in Python's way it is a
    mapping from words to vectors: `space["violin"]`, `"violin" in space`, `len(space)`, `space.most_similar("violin")`.

    Example:
        >>> import numpy as np
        >>> from hf_genext import StaticEmbeddingModel
        >>> space = StaticEmbeddingModel.from_words(["sun", "moon", "violin"], np.array([[1, 0], [0.9, 0.1], [0, 1.0]]))
        >>> space["violin"].tolist(), "viola" in space, len(space)
        ([0.0, 1.0], False, 3)
        >>> space.most_similar("sun", topn=1)[0][0]
        'moon'
        >>> space["moom"]
        Traceback (most recent call last):
        KeyError: "The space has no word 'moom'; near it are 'moon'."
        >>> space.encode(["the violin", "sun moon"]).shape
        (2, 2)
    """

    config_class = StaticEmbeddingConfig
    base_model_prefix = "static_embedding"
    main_input_name = "input_ids"
    _supports_sdpa = True
    _no_split_modules: list[str] = []

    def __init__(self, config: StaticEmbeddingConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
        if config.num_buckets:
            self.ngram_embeddings = nn.Parameter(torch.empty(config.num_buckets, config.hidden_size))
        if config.pooling == "sif":
            # The name under which model2vec looks for a token's weight.
            self.register_buffer("weights", torch.ones(config.vocab_size))
        self._vocabulary: Vocabulary | None = None
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._split: Split = "punctuation"
        self._unit_vectors: tuple[tuple[int, int], np.ndarray] | None = None
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, StaticEmbeddingModel):
            spread = self.config.initializer_range
            for parameter in module.parameters(recurse=False):
                if spread is None:
                    init.uniform_(parameter, -1.0 / self.config.hidden_size, 1.0 / self.config.hidden_size)
                else:
                    init.normal_(parameter, std=spread)
            if self.config.pooling == "sif":
                init.ones_(module.weights)

    # The model

    def get_input_embeddings(self) -> nn.Module:
        """An embedding layer over the same numbers."""
        layer = nn.Embedding.from_pretrained(self.embeddings.data, freeze=False, padding_idx=self.config.pad_token_id)
        layer.weight = self.embeddings
        return layer

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Take the numbers of an embedding layer."""
        self.embeddings = value.weight

    @can_return_tuple
    def forward(
        self, input_ids: torch.LongTensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Look up token vectors and pool them.

        Args:
            input_ids: Tokens, (batch, length).
            attention_mask: 1 where a token is real, (batch, length).
            kwargs: `return_dict`.

        Returns:
            `last_hidden_state`: token vectors, (batch, length, size). `pooler_output`: sentence vectors, (batch, size). The
            unknown token counts for nothing there, as in model2vec; a text without any known word has the vector 0.
        """
        states = nn.functional.embedding(input_ids, self.embeddings)
        is_word = (input_ids != self.config.unk_token_id) & (input_ids != self.config.pad_token_id)
        if attention_mask is not None:
            is_word = is_word & attention_mask.bool()
        shares = is_word.to(states.dtype)
        total = shares.sum(dim=1, keepdim=True).clamp(min=1)
        if self.config.pooling == "sif":
            shares = shares * self.weights.to(states.dtype)[input_ids]
        pooled = (states * shares[:, :, None]).sum(dim=1) / total
        if self.config.normalize:
            pooled = nn.functional.normalize(pooled, dim=-1)
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=pooled)

    # Making and opening

    @classmethod
    def from_words(
        cls,
        words: Sequence[str],
        vectors: np.ndarray | torch.Tensor,
        *,
        counts: Sequence[int] | np.ndarray | None = None,
        ngrams: np.ndarray | torch.Tensor | None = None,
        split: Split = "punctuation",
        **config: Any,
    ) -> Self:
        """Make a space of words and vectors.

        Args:
            words: Distinct words.
            vectors: Their vectors, (words, size).
            counts: How often each occurs, which `pooling="sif"` needs.
            ngrams: Vectors of hashed character n-grams, (buckets, size); then `min_ngram` and `max_ngram` are needed too.
            split: How text is parted into words, see [`build_word_tokenizer`].
            config: Fields of [`StaticEmbeddingConfig`].

        Returns:
            The space.

        Raises:
            ValueError: if the sizes do not fit, or words repeat.
        """
        matrix = torch.as_tensor(vectors)
        if not matrix.is_floating_point():
            matrix = matrix.float()
        if matrix.dtype == torch.float64:
            matrix = matrix.float()
        if matrix.ndim != 2 or len(matrix) != len(words):
            raise ValueError(f"Each word needs a vector: got {len(words):,} words and vectors of shape {tuple(matrix.shape)}.")
        if not len(words):
            raise ValueError("A space needs at least one word, got none.")
        if len(set(words)) != len(words):
            raise ValueError(f"Words must be distinct; {len(words) - len(set(words)):,} come a second time.")
        rows = torch.cat([matrix, torch.zeros(2, matrix.shape[1], dtype=matrix.dtype)])
        return cls._from_rows(words, rows, counts, ngrams, split, config)

    @classmethod
    def _from_rows(
        cls,
        words: Sequence[str],
        rows: torch.Tensor,
        counts: Sequence[int] | np.ndarray | None,
        ngrams: np.ndarray | torch.Tensor | None,
        split: Split,
        config: dict[str, Any],
    ) -> Self:
        """Make a space of distinct words and their rows, after which come the two special rows."""
        settings = StaticEmbeddingConfig(
            vocab_size=len(rows),
            hidden_size=rows.shape[1],
            num_buckets=0 if ngrams is None else len(ngrams),
            **config,
        )
        with torch.device("meta"):
            space = cls(settings)
        space.embeddings = nn.Parameter(rows)
        if ngrams is not None:
            space.ngram_embeddings = nn.Parameter(torch.as_tensor(ngrams))
        space._vocabulary, space._split = Vocabulary(words, counts), split
        if settings.pooling == "sif":
            space.set_frequencies(counts)
        return space.eval()

    @classmethod
    def from_vectors(
        cls,
        path: str | os.PathLike[str],
        *,
        limit: int | None = None,
        dtype: str = "float32",
        encoding: str = "utf-8",
        errors: str | None = None,
        lowercase: bool | None = None,
        **config: Any,
    ) -> Self:
        """Read a file of word2vec (text, binary), GloVe or fastText (.vec, .bin), compressed or not, or another's folder.

        Args:
            path: The file; or a folder of model2vec or of sentence-transformers' StaticEmbedding, whose words are the tokens of
                its tokenizer. Of the further arguments only `limit` does not apply to a folder, and is refused.
            limit: Read the first so many words only.
            dtype: Kind of number to keep.
            encoding: Encoding of the words.
            errors: What to do with words that are no text in that encoding, as `bytes.decode` takes it.
            lowercase: Whether texts are lower-cased; left out, they are where no word has a capital.
            config: Further fields of [`StaticEmbeddingConfig`].

        Returns:
            The space.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: for a file that is none of these, or is damaged; the message says where.
        """
        if os.path.isdir(path):
            if limit is not None:
                raise ValueError("A folder's tokenizer needs all its vectors; leave limit out.")
            return cls._from_static_folder(path, dtype, **config)
        read = read_vectors(path, limit=limit, dtype=dtype, encoding=encoding, errors=errors, extra_rows=2)
        if lowercase is None:
            lowercase = all(word == word.lower() for word in read.words)
        subwords: dict[str, Any] = {} if read.ngrams is None else {"min_ngram": read.min_ngram, "max_ngram": read.max_ngram}
        settings = {"lowercase": lowercase, **subwords, **config}
        return cls._from_rows(read.words, torch.from_numpy(read.matrix), read.counts, read.ngrams, "punctuation", settings)

    @classmethod
    def _from_static_folder(cls, path: str | os.PathLike[str], dtype: str, **config: Any) -> Self:
        kind = getattr(torch, dtype, None)
        if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
            raise ValueError(f'dtype must be a kind of real number, such as "float32" or "float16", got {dtype!r}.')
        read = read_static_folder(path)
        return cls._from_tokens(replace(read, matrix=read.matrix.to(kind)), **config)

    @classmethod
    def _from_tokens(cls, read: StaticFolder, **config: Any) -> Self:
        """A space whose words are the tokens of another's tokenizer, which it keeps."""
        count, tokenizer = len(read.tokens), read.tokenizer
        # Other libraries want a token for each row, so the two special rows have theirs where nothing uses them.
        tokenizer.add_tokens([f"[row {row}]" for row in range(len(tokenizer), count + 2)], special_tokens=True)
        settings = {
            "unk_token_id": count + 1 if tokenizer.unk_token_id is None else tokenizer.unk_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "normalize": read.normalize,
            "pooling": "mean" if read.weights is None else "sif",
            "subword_tokens": type(tokenizer.backend_tokenizer.model).__name__ != "WordLevel",
        }
        space = cls.from_words(read.tokens, read.matrix, counts=[1] * count, **{**settings, **config})
        if space.config.pooling == "sif" and read.weights is not None:
            space.weights = torch.cat([read.weights.float(), torch.zeros(2)])
        space._tokenizer = tokenizer
        return space

    @classmethod
    def from_pretrained_model(
        cls,
        model: str | os.PathLike[str] | PreTrainedModel,
        tokenizer: str | os.PathLike[str] | PreTrainedTokenizerBase | None = None,
        *,
        words: Sequence[str] | None = None,
        split: Split | None = None,
        layer: int | Sequence[int] = -1,
        pooling: ReadOutPooling = "mean",
        prompt: str | None = None,
        pca_dims: int | None = None,
        remove_mean: bool = False,
        remove_components: int = 0,
        frequencies: Sequence[float] | np.ndarray | Literal["zipf"] | None = None,
        sif_coefficient: float = 1e-4,
        batch_size: int = 256,
        device: str | torch.device | None = None,
        show_progress: bool = True,
        **config: Any,
    ) -> Self:
        """Read a pretrained model's words, or sentences, out to a space: each has a forward pass of its own.

        Args:
            model: Any encoder, encoder-decoder (its encoder) or causal language model; or its folder or Hub id.
            tokenizer: Its tokenizer; left out, that of the folder.
            words: Words or sentences, each of which becomes a word of the space. Left out, they are the tokens of the
                tokenizer, which the space then keeps, so that it has a vector for every text.
            split: How text is parted into words, see [`build_word_tokenizer`]; left out, `"none"` where most of the words have
                white space in them, which are sentences, else `"punctuation"`.
            layer: Index into the model's `hidden_states` (0: embeddings, -1: last layer), or several, of which the mean is
                taken.
            pooling: `"mean"` over the word's own tokens; `"mean_with_special"` over all, as sentence-transformers does; the
                `"first"` of all ([CLS]) or the `"last"` of all.
            prompt: What stands in front of each word and is no part of it, see [`read_out`].
            pca_dims: How many principal components to keep; left out, the vectors stay as they are.
            remove_mean: Whether to take the mean away first.
            remove_components: How many of the first components to leave out ("all-but-the-top", Mu and Viswanath 2018).
            frequencies: How often each word occurs, or `"zipf"`, by its place: the vectors are multiplied by their SIF weights
                (Arora et al. 2017), so that frequent words count less in a sentence. Cosines of words stay the same.
            sif_coefficient: The `a` of those weights.
            batch_size: Words at once.
            device: Where to run; left out, a model that is given stays where it is, and one that is opened takes the
                accelerator, if there is one.
            show_progress: Whether to show a progress bar.
            config: Fields of [`StaticEmbeddingConfig`], such as `normalize`; texts are lower-cased where no word has a capital.

        Returns:
            The space.

        Raises:
            ValueError: for a layer or pooling that there is not, more components than words, words that repeat or have no
                token, a model without states, or states that are no numbers.
        """
        if isinstance(words, str):
            raise TypeError(f"words must be a list of words or sentences, got one string {words[:40]!r}. Put it in a list.")
        network, reader = open_pretrained(model, tokenizer, device)
        tokens, is_read = list_tokens(reader) if words is None else (list(words), np.ones(len(words), dtype=bool))
        if len(set(tokens)) != len(tokens):
            raise ValueError(f"Words must be distinct; {len(tokens) - len(set(tokens)):,} come a second time.")
        vectors = read_out(
            network,
            reader,
            np.flatnonzero(is_read) if words is None else tokens,
            layer=layer,
            pooling=pooling,
            prompt=prompt,
            batch_size=batch_size,
            show_progress=show_progress,
        )
        if pca_dims is not None or remove_mean or remove_components:
            vectors = project_vectors(vectors, pca_dims, remove_mean=remove_mean, remove_components=remove_components)
        if frequencies is not None:
            vectors *= compute_sif_weights(frequencies, sif_coefficient, is_read)[:, None]
        if words is not None:
            sentences = 2 * sum(len(word.split()) > 1 for word in tokens) > len(tokens)
            settings = {"lowercase": all(word == word.lower() for word in tokens), **config}
            return cls.from_words(tokens, vectors, split=split or ("none" if sentences else "punctuation"), **settings)
        matrix = torch.zeros(len(tokens), vectors.shape[1])
        matrix[torch.from_numpy(is_read)] = torch.from_numpy(vectors)
        folder = StaticFolder(tokens, matrix, None, strip_tokenizer(reader), normalize=False)
        return cls._from_tokens(folder, **{"lowercase": folds_case(reader), **config})

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *model_args: Any, **kwargs: Any
    ) -> Self:
        """Open a folder or a Hub repository; the matrix is mapped, not read, where nothing asks for a change of it.

        Args:
            pretrained_model_name_or_path: Folder or Hub id.
            model_args: As in Transformers.
            kwargs: As in Transformers.

        Returns:
            The space.

        Raises:
            ValueError: if the folder holds another kind of model.
        """
        plain = {name: value for name, value in kwargs.items() if value is not None}
        hub = {name: plain.pop(name) for name in _HUB_KWARGS if name in plain}
        given = plain.pop("config", None)
        wants_info = plain.pop("output_loading_info", False)
        for name in ("trust_remote_code", "_from_auto", "adapter_kwargs", "_commit_hash", "use_safetensors"):
            plain.pop(name, None)
        if plain.get("dtype") == "auto":
            plain.pop("dtype")
        file = (
            cached_file(pretrained_model_name_or_path, "model.safetensors", _raise_exceptions_for_missing_entries=False, **hub)
            if not plain and not model_args and pretrained_model_name_or_path is not None
            else None
        )
        if file is None:
            return super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        config = given if given is not None else cls.config_class.from_pretrained(pretrained_model_name_or_path, **hub)
        if config.architectures and cls.__name__ not in config.architectures:
            raise ValueError(f"{str(pretrained_model_name_or_path)!r} holds a {config.architectures[0]}, not a {cls.__name__}.")
        with torch.device("meta"):
            space = cls(config)
        try:
            tensors = load_file(file)
        except SafetensorError as error:
            raise ValueError(f"{file!r} is damaged: {error}. Save the space again.") from error
        wanted = {name: tuple(tensor.shape) for name, tensor in space.state_dict().items()}
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if wanted != {name: found.get(name) for name in wanted}:
            wrong = next(name for name in wanted if found.get(name) != wanted[name])
            raise ValueError(
                f"{file!r} does not fit its config.json: {wrong!r} should be {wanted[wrong]} and is {found.get(wrong)}."
            )
        kinds = {name: tensors[name].dtype for name in wanted if not tensors[name].is_floating_point()}
        if kinds:
            raise ValueError(f"{file!r} is damaged: vectors are real numbers, but it holds {kinds}. Save the space again.")
        space.load_state_dict({name: tensors[name] for name in wanted}, assign=True)
        space.name_or_path = str(pretrained_model_name_or_path)
        space._hub_kwargs = hub
        space.eval()
        info = {"missing_keys": set(), "unexpected_keys": set(found) - set(wanted), "mismatched_keys": set(), "error_msgs": []}
        opened: Any = (space, info) if wants_info else space
        return opened

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Save one folder that Transformers, sentence-transformers and model2vec open, with equal vectors for known words.

        What they cannot express is logged as a warning: subwords (neither), and frequency weights (sentence-transformers before
        6.2). A word without a vector counts for nothing here and in model2vec; sentence-transformers counts it as a vector of
        zeros, which makes a sentence's vector shorter but does not turn it.

        Args:
            save_directory: The folder; made if it is not there.
            kwargs: As in Transformers.
        """
        super().save_pretrained(save_directory, **kwargs)
        folder = Path(save_directory)
        if self._find_vocabulary() is None:
            return
        for limit in self._list_limits_elsewhere():
            logger.warning("%s: %s", folder, limit)
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        # Without it model2vec would cut texts after 512 tokens.
        settings["max_length"] = None
        (folder / "config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        self.vocabulary.save(folder / VOCABULARY_NAME)
        self.tokenizer.save_pretrained(folder)
        modules = [*_MODULES, _NORMALIZE] if self.config.normalize else _MODULES
        (folder / "modules.json").write_text(json.dumps(modules, indent=2), encoding="utf-8")
        if self.config.normalize:
            (folder / "1_Normalize").mkdir(exist_ok=True)

    def _list_limits_elsewhere(self) -> list[str]:
        """What other libraries that open a saved folder cannot express, a sentence for each."""
        limits = []
        if self.config.num_buckets:
            limits.append(
                "its subwords count in Transformers only; for sentence-transformers and model2vec a word that is not in the "
                "vocabulary has no vector."
            )
        if self.config.pooling == "sif":
            limits.append(
                "its frequency weights count in Transformers, model2vec, and sentence-transformers from version 6.2 on."
            )
        return limits

    def to_vectors(self, path: str | os.PathLike[str], *, binary: bool | None = None) -> None:
        """Write the words and their vectors as a word2vec file.

        Args:
            path: The file.
            binary: Binary or text; left out, binary where the name ends in `.bin`.

        Raises:
            ValueError: for a word that the format cannot hold.
        """
        if self.config.num_buckets:
            logger.warning("%s: a word2vec file cannot hold subwords; words that are not in the vocabulary are left out.", path)
        write_word2vec(path, list(self.vocabulary), self._matrix(), binary=binary)

    # Words

    def _find_vocabulary(self) -> Vocabulary | None:
        if self._vocabulary is None and self.name_or_path:
            self._vocabulary = find_vocabulary(self.name_or_path, len(self), **getattr(self, "_hub_kwargs", {}))
        return self._vocabulary

    @property
    def vocabulary(self) -> Vocabulary:
        """The words, read when they are first needed.

        Raises:
            ValueError: if the model has none.
        """
        vocabulary = self._find_vocabulary()
        if vocabulary is None:
            raise ValueError(
                f"This space has no {VOCABULARY_NAME}, so its rows have no names. Make it with from_words or from_vectors, or "
                "open a folder that its save_pretrained wrote."
            )
        return vocabulary

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the folder; a new one over the words where there is none yet."""
        if self._tokenizer is None:
            if self.name_or_path:
                self._tokenizer = AutoTokenizer.from_pretrained(self.name_or_path, **getattr(self, "_hub_kwargs", {}))
            else:
                self._tokenizer = build_word_tokenizer(
                    list(self.vocabulary), lowercase=self.config.lowercase, split=self._split
                )
        return self._tokenizer

    def set_frequencies(self, counts: Sequence[int] | np.ndarray | None) -> None:
        """Set the weights of `pooling="sif"` from how often each word occurs.

        Args:
            counts: (words,).

        Raises:
            ValueError: if there are none, or not one for each word.
        """
        if self.config.pooling != "sif":
            raise ValueError(f'Only pooling="sif" weights words, this space has pooling={self.config.pooling!r}.')
        if counts is None or len(counts) != self.config.vocab_size - 2:
            raise ValueError(
                f'pooling="sif" needs a count for each of the {self.config.vocab_size - 2:,} words, got '
                f'{"none" if counts is None else f"{len(counts):,}"}. Pass counts=, or choose pooling="mean".'
            )
        shares = torch.as_tensor(np.asarray(counts, dtype=np.float64))
        shares = shares / shares.sum().clamp(min=1)
        weights = self.config.sif_coefficient / (self.config.sif_coefficient + shares)
        self.weights = torch.cat([weights, torch.zeros(2, dtype=torch.float64)]).float().to(self.embeddings.device)

    def encode(self, texts: str | Sequence[str], *, batch_size: int = 1024) -> np.ndarray:
        """Sentence vectors.

        Args:
            texts: A text or a list of texts.
            batch_size: How many at once.

        Returns:
            (size,) for a text, (texts, size) for a list.
        """
        if isinstance(texts, str):
            return self.encode([texts])[0]
        results = [np.empty((0, self.config.hidden_size), dtype=np.float32)]
        tokenizer = self.tokenizer
        for start in range(0, len(texts), batch_size):
            batch = tokenizer(list(texts[start : start + batch_size]), padding=True, return_tensors="pt")
            batch = batch.to(self.embeddings.device)
            with torch.no_grad():
                results.append(self(batch["input_ids"].long(), batch["attention_mask"]).pooler_output.float().cpu().numpy())
        return np.concatenate(results)


__all__ = ["StaticEmbeddingModel"]

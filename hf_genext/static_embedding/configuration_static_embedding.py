"""Configuration of static embeddings."""

# No `from __future__ import annotations` here: `@strict` would see only strings and check no type.
import dataclasses
import difflib
from typing import Any, Literal

import torch
from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME, logging

logger = logging.get_logger(__name__)

FORMAT_VERSION = 1
"""Version of the folder format that this package writes. It grows when an older package could not read a folder."""


@strict
class StaticEmbeddingConfig(PreTrainedConfig):
    """Configuration of a space of word vectors.

    Rows of the matrix are the words in their order, then the unknown token and the padding token, both zero.

    Args:
        vocab_size: Rows of the matrix: the words, and the two special tokens.
        hidden_size: Size of a vector.
        pooling: How a sentence's vector is made of its words': `"mean"`, or `"sif"`, the mean of vectors weighted by
            `a / (a + p(word))` (smooth inverse frequency, Arora et al. 2017, equation 3).
        sif_coefficient: The `a` of that weight.
        normalize: Whether sentence vectors have length 1.
        lowercase: Whether text is lower-cased before words are looked up.
        num_buckets: Rows of the matrix of character n-grams, into which they are hashed (Bojanowski et al. 2017); 0 for none.
        min_ngram: Shortest n-gram in characters.
        max_ngram: Longest n-gram in characters.
        subword_tokens: Whether the words are the tokens of a subword tokenizer, so that any other word has the vector of its
            own tokens.
        initializer_range: Standard deviation of the initial vectors; left out, input vectors uniform within one by the size, as
            gensim and fastText begin, and output vectors zero.
        objective: What [`StaticEmbeddingForPreTraining`] learns: `"skip_gram"`, to tell each word from random ones by one
            neighbour, or `"cbow"`, by the mean of its neighbours (Mikolov et al. 2013).
        window: The farthest neighbour, in words.
        num_negatives: Random words for each real one.
        pad_token_id: Row of the padding token; the last one if left out.
        unk_token_id: Row of the unknown token; the last but one if left out.
        format_version: Version of the folder format; a version newer than the package is refused.

    Example:
        >>> StaticEmbeddingConfig(vocab_size=12, hidden_size=50).unk_token_id
        10
        >>> StaticEmbeddingConfig(hiden_size=50)
        Traceback (most recent call last):
        ValueError: StaticEmbeddingConfig has no field 'hiden_size'. Did you mean 'hidden_size'?
    """

    model_type = "genext_static_embedding"

    vocab_size: int = 2
    hidden_size: int = 100
    pooling: Literal["mean", "sif"] = "mean"
    sif_coefficient: float = 1e-3
    normalize: bool = False
    lowercase: bool = False
    num_buckets: int = 0
    min_ngram: int = 3
    max_ngram: int = 6
    subword_tokens: bool = False
    initializer_range: float | None = None
    objective: Literal["skip_gram", "cbow"] = "skip_gram"
    window: int = 5
    num_negatives: int = 5
    pad_token_id: int | None = None
    unk_token_id: int | None = None
    format_version: int = FORMAT_VERSION

    def __post_init__(self, **kwargs: Any) -> None:
        """Refuse what this version cannot read, fill in the special rows, then let Transformers do the rest."""
        if self.format_version > FORMAT_VERSION:
            raise ValueError(
                f"This folder has format version {self.format_version}; the installed hf_genext reads versions up to "
                f"{FORMAT_VERSION}. Upgrade it: pip install --upgrade hf_genext"
            )
        # Transformers keeps unknown names as attributes. (The other family refuses them with the same lines: files of a
        # family travel as a repository's code and import only their siblings.)
        fields = [field.name for field in dataclasses.fields(type(self))]
        for name in kwargs:
            meant = difflib.get_close_matches(name, fields, n=1, cutoff=0.85)
            if meant and not name.startswith("_"):
                raise ValueError(f"{type(self).__name__} has no field {name!r}. Did you mean {meant[0]!r}?")
            if (
                not name.startswith("_")
                # model2vec reads max_length; Trainer writes use_cache.
                and name not in ("auto_map", "custom_pipelines", "max_length", "use_cache")
                and not hasattr(PreTrainedConfig, name)
            ):
                inherited = {field.name for field in dataclasses.fields(PreTrainedConfig)}
                own = ", ".join(field for field in fields if field not in inherited)
                logger.warning(
                    "%s has no field %r, so nothing will read it. Its own fields are %s.", type(self).__name__, name, own
                )
        if not __name__.startswith(f"{TRANSFORMERS_DYNAMIC_MODULE_NAME}."):
            kwargs.pop("auto_map", None)  # Of a pushed folder's own code, which this is not; pushing writes it again.
        if isinstance(self.dtype, str) and not isinstance(getattr(torch, self.dtype, None), torch.dtype):
            raise ValueError(f'dtype must be a kind of number of PyTorch\'s, such as "float32", got {self.dtype!r}.')
        if self.unk_token_id is None:
            self.unk_token_id = self.vocab_size - 2
        if self.pad_token_id is None:
            self.pad_token_id = self.vocab_size - 1
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Check the numbers against each other (called by `@strict`)."""
        if self.vocab_size < 2 or self.hidden_size < 1:
            raise ValueError(
                f"A space needs rows for the two special tokens and at least one number for each word, got "
                f"vocab_size={self.vocab_size} and hidden_size={self.hidden_size}."
            )
        if self.num_buckets < 0 or (self.num_buckets and not 1 <= self.min_ngram <= self.max_ngram):
            raise ValueError(
                f"Subwords need num_buckets >= 1 and 1 <= min_ngram <= max_ngram, got num_buckets={self.num_buckets}, "
                f"min_ngram={self.min_ngram} and max_ngram={self.max_ngram}. num_buckets=0 turns them off."
            )
        if self.window < 1 or self.num_negatives < 0:
            raise ValueError(
                f"window must be 1 or more and num_negatives 0 or more, got window={self.window} and "
                f"num_negatives={self.num_negatives}. Both are usually 5."
            )
        if not self.sif_coefficient > 0:
            raise ValueError(f"sif_coefficient must be more than 0 (1e-3 is usual), got {self.sif_coefficient}.")


__all__ = ["FORMAT_VERSION", "StaticEmbeddingConfig"]

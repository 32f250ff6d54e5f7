"""Word-level tokenizers for spaces of word vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

UNKNOWN, PADDING = "[UNK]", "[PAD]"
Split = Literal["punctuation", "whitespace", "none"]


def build_word_tokenizer(
    words: Sequence[str], *, lowercase: bool = False, split: Split = "punctuation"
) -> PreTrainedTokenizerFast:
    """A fast tokenizer whose ids are the places of the words, then those of the unknown and the padding token.

    Args:
        words: The distinct words.
        lowercase: Whether to lower-case text first.
        split: `"punctuation"` parts text at white space and around punctuation, but leaves marks inside a word (don't,
            well-known) where they are; `"whitespace"` parts at white space alone; `"none"` takes a text for one word, as a
            space of sentences needs.

    Returns:
        The tokenizer; it adds no special tokens.

    Raises:
        ValueError: for another way to split.

    Example:
        >>> tokenizer = build_word_tokenizer(["the", "violin", ","], lowercase=True)
        >>> tokenizer("The violin, well-known").input_ids
        [0, 1, 2, 3]
    """
    if split not in ("punctuation", "whitespace", "none"):
        raise ValueError(f'split must be "punctuation", "whitespace" or "none", got {split!r}.')
    vocabulary = {word: place for place, word in enumerate(words)}
    specials = []
    for special in (UNKNOWN, PADDING):
        while special in vocabulary:  # A word of that name keeps its vector; the special token takes another name.
            special = f"[{special}]"
        vocabulary[special] = len(vocabulary)
        specials.append(special)
    unknown, padding = specials
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    tokenizer.normalizer = normalizers.Lowercase() if lowercase else None
    if split == "punctuation":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.WhitespaceSplit(),
                pre_tokenizers.Split(Regex(r"[^\w\s]+(?=\s|$)|(?<=^|\s)[^\w\s]+|[\w](?:[^\s]*[\w])?"), behavior="isolated"),
            ]
        )
    elif split == "whitespace":
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=unknown, pad_token=padding, model_input_names=["input_ids", "attention_mask"]
    )


__all__ = ["Split", "build_word_tokenizer"]

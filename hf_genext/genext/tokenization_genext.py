"""Tokenizers: those learned from a data set, of characters, words or subwords, and what any one lacks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

PAD, START, END, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"
REVERSED = "<reversed>"
"""Starts a target that runs from its last token to its first."""


def train_tokenizer(
    texts: Iterable[str],
    *,
    unit: Literal["character", "word", "subword"],
    lowercase: bool = False,
    vocab_size: int = 30_000,
    model_max_length: int = 512,
    extra_special_tokens: Sequence[str] = (),
) -> PreTrainedTokenizerFast:
    """Learn a tokenizer from texts.

    Every text is normalised to Unicode NFC and closed by `</s>`. The ids of `<pad>`, `<s>`, `</s>` and `<unk>` are 0, 1, 2
    and 3; the other tokens follow by falling frequency, ties in order of the alphabet.

    Args:
        texts: The texts to learn from; read once.
        unit: `"character"` (every character is a token), `"word"` (what stands between white space) or `"subword"` (byte-level
            BPE, Sennrich et al. 2016, which knows no unknown token).
        lowercase: Whether to fold case, so that `Violin`, `VIOLIN` and `violin` are one text.
        vocab_size: The most tokens to keep, the special ones included.
        model_max_length: The longest text in tokens; longer ones are cut on `truncation=True`.
        extra_special_tokens: More special tokens, with ids from 4.

    Returns:
        A fast tokenizer.

    Raises:
        ValueError: for another unit, or if the texts hold no token at all.

    Example:
        >>> tokenizer = train_tokenizer(["violin", "viola"], unit="character", lowercase=True)
        >>> tokenizer.tokenize("VIOLA")
        ['v', 'i', 'o', 'l', 'a']
        >>> tokenizer.decode(tokenizer("Viola").input_ids, skip_special_tokens=True)
        'viola'
    """
    special_tokens = [PAD, START, END, UNKNOWN, *extra_special_tokens]
    if unit == "subword":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer: trainers.Trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=special_tokens,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    elif unit in ("character", "word"):
        tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
        if unit == "character":
            tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
            tokenizer.decoder = decoders.Fuse()
        else:
            tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        trainer = trainers.WordLevelTrainer(vocab_size=vocab_size, special_tokens=special_tokens, show_progress=False)
    else:
        raise ValueError(f'unit must be "character", "word" or "subword", got {unit!r}.')
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), *([normalizers.Lowercase()] if lowercase else [])])
    tokenizer.train_from_iterator(texts, trainer)
    if unit != "subword" and tokenizer.get_vocab_size() == len(special_tokens):
        raise ValueError(f"The texts hold no {unit} to learn a vocabulary from; they are empty or only white space.")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, special_tokens.index(END))]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special_tokens])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=START,
        eos_token=END,
        unk_token=UNKNOWN,
        extra_special_tokens=list(extra_special_tokens),
        model_max_length=model_max_length,
        padding_side="right",
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def require_unicode(text: str, what: str) -> None:
    """Raise unless a text can be written, which tokenizers must be able to.

    Args:
        text: Any text.
        what: What to call it in an error, such as "The condition".

    Raises:
        ValueError: for a text with half a pair of surrogates, as files have them that are read in another encoding than theirs.

    Example:
        >>> require_unicode("caf\u00e9", "The condition")
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{what} {text[:40]!a} is no text that can be written: its character {error.start} is half of a pair (U+D800 to "
            "U+DFFF). Read its file as UTF-8, or replace such characters."
        ) from error


def find_unknown_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The id of what a vocabulary lacks; `None` of a byte-level one, which knows all (GPT-2's kind names its end here)."""
    unknown_id = tokenizer.unk_token_id
    return None if unknown_id == tokenizer.eos_token_id else unknown_id


__all__ = ["REVERSED", "find_unknown_token", "train_tokenizer"]

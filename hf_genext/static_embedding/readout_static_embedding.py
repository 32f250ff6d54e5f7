"""Vectors of words and sentences read out of a pretrained Transformers model, an encoder or a causal language model.

Each text has a forward pass of its own; its vector is pooled from the states of one layer. What follows is linear: projection
onto principal components, and weights by frequency.

Legend: texts, words, length (tokens of a text), size (of a vector).
"""

from __future__ import annotations

import copy
import inspect
import logging
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from tokenizers import normalizers, processors
from torch import nn
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils.logging import tqdm

logger = logging.getLogger(__name__)

ReadOutPooling = Literal["mean", "mean_with_special", "first", "last"]
_POOLINGS = ("mean", "mean_with_special", "first", "last")
_RESERVED = re.compile(r"[\[<]unused\d+[\]>]")
"""Tokens that stand in a vocabulary for later use (BERT, Gemma), special by nothing but their names."""
_BLOCK = 8192


def open_pretrained(
    model: str | os.PathLike[str] | PreTrainedModel,
    tokenizer: str | os.PathLike[str] | PreTrainedTokenizerBase | None,
    device: str | torch.device | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Open what is given by its name; what is given as an object stays as it is.

    Args:
        model: A model, or the folder or Hub id of one.
        tokenizer: A tokenizer, or the folder or Hub id of one; left out, that of the model's folder.
        device: Where to run; left out, a model given as an object stays where it is, and one given by its name goes to the
            accelerator, if there is one.

    Returns:
        The part of the model that gives states (without the heads of a language model, and of an encoder-decoder the
        encoder), and the tokenizer.

    Raises:
        ValueError: if there is no tokenizer, or the model does not read text.
    """
    if not isinstance(model, (str, os.PathLike, nn.Module)):
        raise TypeError(f"model must be a Transformers model, a folder or a Hub id, got a {type(model).__name__}.")
    if tokenizer is None:
        tokenizer = model if isinstance(model, (str, os.PathLike)) else getattr(model, "name_or_path", "")
        if not os.fspath(tokenizer):
            raise ValueError(
                f"A {type(model).__name__} made in memory has no tokenizer of its own: pass tokenizer= (an object, a folder or "
                "a Hub id)."
            )
    if isinstance(tokenizer, (str, os.PathLike)):
        tokenizer = AutoTokenizer.from_pretrained(tokenizer)
    if isinstance(model, (str, os.PathLike)):
        model = AutoModel.from_pretrained(model)
        if device is None and torch.accelerator.is_available():
            device = torch.accelerator.current_accelerator()
    if getattr(model, "main_input_name", "input_ids") != "input_ids":
        raise ValueError(f"A {type(model).__name__} reads {model.main_input_name}, not text, so words have no states in it.")
    part = model.get_encoder() if getattr(model.config, "is_encoder_decoder", False) else model
    part = part.base_model if isinstance(part, PreTrainedModel) else part
    return (part if device is None else part.to(device)), tokenizer


def list_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[list[str], np.ndarray]:
    """The tokens of a tokenizer in the order of their ids, and which of them a text can give.

    Returns:
        The tokens, and (tokens,) booleans: false for special tokens and for those that are reserved for later use.

    Raises:
        ValueError: for a tokenizer whose ids have gaps, or that is not a fast one.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(
            f"Only the vocabulary of a fast tokenizer can become a space's, got a {type(tokenizer).__name__}. Pass words= to "
            "read out words of your own."
        )
    places = tokenizer.get_vocab()
    tokens = sorted(places, key=places.__getitem__)
    if [places[token] for token in tokens] != list(range(len(tokens))):
        raise ValueError(f"The {len(tokens):,} tokens have ids up to {max(places.values()):,}, with gaps. Pass words= instead.")
    special = {
        *tokenizer.all_special_tokens,
        *(str(token) for token in tokenizer.added_tokens_decoder.values() if token.special),
    }
    return tokens, np.array([token not in special and not _RESERVED.fullmatch(token) for token in tokens])


def strip_tokenizer(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """A copy that puts no special tokens around a text, cuts nothing off, and takes a text's first word as any other's."""
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    backend.post_processor = processors.Sequence([])
    backend.no_truncation()
    backend.no_padding()
    if _tells_spaces(tokenizer):
        before = [normalizers.Strip(left=True, right=False), normalizers.Prepend(" ")]
        backend.normalizer = normalizers.Sequence([backend.normalizer, *before] if backend.normalizer else before)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token=tokenizer.unk_token,
        pad_token="[PAD]" if tokenizer.pad_token is None else tokenizer.pad_token,
        model_input_names=["input_ids", "attention_mask"],
    )


def folds_case(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether a tokenizer lower-cases text."""
    normalizer = tokenizer.backend_tokenizer.normalizer
    return normalizer is not None and "abc" in normalizer.normalize_str("ABC")


def _tells_spaces(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a word's first token says if a space stands in front, as GPT-2's does, and a text begins without one."""
    bare, spaced = (tokenizer(text, add_special_tokens=False).input_ids for text in ("a", " a"))
    return len(bare) == len(spaced) and bare != spaced


@torch.no_grad()
def read_out(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str] | np.ndarray,
    *,
    layer: int | Sequence[int] = -1,
    pooling: ReadOutPooling = "mean",
    prompt: str | None = None,
    batch_size: int = 256,
    show_progress: bool = True,
) -> np.ndarray:
    """The vector of each text, from its own forward pass.

    Texts of like length share a batch; padding is masked, so that a text's vector does not depend on its batch.

    Args:
        model: What [`open_pretrained`] gives.
        tokenizer: Its tokenizer.
        texts: Words or sentences, or an array of token ids, each of which is read as a text of one token.
        layer: Index into the model's `hidden_states` (0: embeddings, -1: last layer), or several, of which the mean is taken.
        pooling: `"mean"` over the text's own tokens; `"mean_with_special"` over all, as sentence-transformers does; the
            `"first"` of all ([CLS], where the tokenizer puts it) or the `"last"` of all.
        prompt: What stands in front of each text, and is no part of it. Left out, it is nothing for an encoder; a causal
            language model reads a word as it stands in running text, after its start token and a space, where its tokenizer
            puts no start token itself and tells a word with a space from one without.
        batch_size: Texts at once.
        show_progress: Whether to show a progress bar.

    Returns:
        (texts, size), float32.

    Raises:
        ValueError: for an unknown layer or pooling, a text without any token, a model without states, or a state that is no
            number; the message says which.
    """
    if pooling not in _POOLINGS:
        raise ValueError(f"pooling must be one of {', '.join(map(repr, _POOLINGS))}, got {pooling!r}.")
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, got {batch_size}.")
    if not len(texts):
        raise ValueError("There is nothing to read out: words is empty. Leave it out for the tokenizer's own vocabulary.")
    was_training = model.training
    model.eval()
    try:
        if prompt is None:
            prompt = _choose_prompt(model, tokenizer)
        if isinstance(texts, np.ndarray):
            rows = _surround_tokens(tokenizer, texts, prompt)
        else:
            rows = _encode_texts(tokenizer, list(texts), prompt, _find_longest(model, tokenizer))
        _check_ids(model, (token for ids, _ in rows for token in ids))
        order = sorted(range(len(rows)), key=lambda place: -len(rows[place][0]))  # The longest first: memory fails at once.
        pooled = []
        with tqdm(total=len(rows), desc="Reading out", unit=" texts", disable=not show_progress) as bar:
            for start in range(0, len(order), batch_size):
                batch = [rows[place] for place in order[start : start + batch_size]]
                pooled.append(_pool(batch, model, tokenizer, layer, pooling).cpu().numpy())
                bar.update(len(batch))
    finally:
        model.train(was_training)
    vectors = np.empty((len(rows), pooled[0].shape[1]), dtype=np.float32)
    vectors[order] = np.concatenate(pooled)
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        raise ValueError(
            f"{type(model).__name__} gives {len(broken):,} of {len(rows):,} texts a vector that is no number, first of them "
            f"{texts[broken[0]]!r}. A model in float16 may need bfloat16 or float32."
        )
    return vectors


_Row = tuple[list[int], list[bool]]
"""The token ids of a text with all that surrounds it, and which of them are its own."""


def _encode_texts(tokenizer: PreTrainedTokenizerBase, texts: list[str], prompt: str, longest: int) -> list[_Row]:
    if prompt and not tokenizer.is_fast:
        raise ValueError(f"A prompt needs a fast tokenizer, got a {type(tokenizer).__name__}. Leave the prompt out: prompt=''.")

    def encode(part: list[str], **limits: Any) -> list[_Row]:
        encoded = tokenizer(
            [prompt + text for text in part],
            return_special_tokens_mask=True,
            return_offsets_mapping=bool(prompt),
            verbose=False,
            **limits,
        )
        rows = [
            (ids, [not special for special in mask])
            for ids, mask in zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True)
        ]
        if prompt:
            for (_, own), spans in zip(rows, encoded["offset_mapping"], strict=True):
                own[:] = [is_own and end > len(prompt) for is_own, (_, end) in zip(own, spans, strict=True)]
        return rows

    rows = encode(texts)
    too_long = [place for place, (ids, _) in enumerate(rows) if len(ids) > longest]
    if too_long:
        logger.warning("%s texts are longer than the model's %s tokens and are cut.", f"{len(too_long):,}", f"{longest:,}")
        cut = encode([texts[place] for place in too_long], truncation=True, max_length=longest)
        for place, row in zip(too_long, cut, strict=True):
            rows[place] = row
    for text, (_, own) in zip(texts, rows, strict=True):
        if not any(own):
            raise ValueError(f"The tokenizer makes no token of {text!r}. Leave such words out.")
    if tokenizer.unk_token_id is not None:
        unknown = [text for text, (ids, own) in zip(texts, rows, strict=True) if _is_unknown(ids, own, tokenizer.unk_token_id)]
        if unknown:
            logger.warning(
                "%s texts are only unknown tokens to the model, and have one vector: %s",
                f"{len(unknown):,}",
                ", ".join(map(repr, unknown[:5])),
            )
    return rows


def _is_unknown(ids: list[int], own: list[bool], unknown: int) -> bool:
    return all(token == unknown for token, is_own in zip(ids, own, strict=True) if is_own)


def _surround_tokens(tokenizer: PreTrainedTokenizerBase, tokens: np.ndarray, prompt: str) -> list[_Row]:
    prefix, _, suffix = _find_frame(tokenizer)
    # A token knows whether a space stands in front of it.
    before = tokenizer(prompt.rstrip(), add_special_tokens=False).input_ids if prompt.strip() else []
    prefix = [*prefix, *before]
    own = [False] * len(prefix) + [True] + [False] * len(suffix)
    return [([*prefix, int(token), *suffix], own) for token in tokens]


def _find_frame(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int], list[int]]:
    """The special tokens in front of a text, the tokens of some text, and the special tokens behind it."""
    for text in ("a", *tokenizer.get_vocab()):
        encoded = tokenizer(text, return_special_tokens_mask=True)
        ids, special = encoded["input_ids"], encoded["special_tokens_mask"]
        if 0 in special:
            first, end = special.index(0), len(special) - special[::-1].index(0)
            return ids[:first], ids[first:end], ids[end:]
    raise ValueError(f"The {type(tokenizer).__name__} makes no token of any text.")


def _pool(
    rows: list[_Row],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    layer: int | Sequence[int],
    pooling: ReadOutPooling,
) -> torch.Tensor:
    """Pooled states of a batch, (rows, size), float32."""
    device = next(model.parameters()).device
    length = max(len(ids) for ids, _ in rows)
    padding = tokenizer.pad_token_id or 0
    input_ids = torch.tensor([ids + [padding] * (length - len(ids)) for ids, _ in rows], device=device)
    mask = torch.tensor([[1] * len(ids) + [0] * (length - len(ids)) for ids, _ in rows], device=device)
    states = _find_states(model, input_ids, mask, layer)
    if pooling == "first":
        return states[:, 0]
    if pooling == "last":
        return states[torch.arange(len(rows), device=device), mask.sum(dim=1) - 1]
    if pooling == "mean":
        mask = torch.tensor([own + [False] * (length - len(own)) for _, own in rows], device=device)
    # Padding may hold anything, which times 0 need not be 0.
    states = states.masked_fill(~mask.bool()[:, :, None], 0)
    return states.sum(dim=1) / mask.sum(dim=1, keepdim=True)


def _find_states(
    model: PreTrainedModel, input_ids: torch.Tensor, mask: torch.Tensor, layer: int | Sequence[int]
) -> torch.Tensor:
    """States of a layer, or the mean of several, (texts, length, size), float32."""
    options: dict[str, Any] = {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
    outputs = model(input_ids=input_ids, attention_mask=mask, output_hidden_states=True, return_dict=True, **options)
    states = getattr(outputs, "hidden_states", None)
    if not states:
        raise ValueError(f"A {type(model).__name__} gives no hidden_states, so there is no layer to read a word from.")
    layers = [layer] if isinstance(layer, int) else list(layer)
    if not layers or not all(isinstance(index, int) and -len(states) <= index < len(states) for index in layers):
        raise ValueError(
            f"layer must be from 0 (the embeddings) to {len(states) - 1}, or from the end, -1 to {-len(states)}, or a list of "
            f"such; got {layer!r}."
        )
    return torch.stack([states[index].float() for index in layers]).mean(dim=0)


def _choose_prompt(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    prefix, (token, *_), _ = _find_frame(tokenizer)
    _check_ids(model, [token])
    other = (token + 1) % min(len(tokenizer), getattr(model.config, "vocab_size", None) or len(tokenizer))
    pair = torch.tensor([[token, token], [token, other]], device=next(model.parameters()).device)
    states = _find_states(model, pair, torch.ones_like(pair), -1)[:, 0]
    if not torch.allclose(states[0], states[1], rtol=1e-4, atol=1e-4):
        return ""  # The first token sees the second: no causal language model.
    start = "" if prefix else tokenizer.bos_token or tokenizer.eos_token or ""
    return start + (" " if _tells_spaces(tokenizer) else "")


def _check_ids(model: PreTrainedModel, ids: Iterable[int]) -> None:
    known, largest = getattr(model.config, "vocab_size", None), max(ids)
    if known is not None and largest >= known:
        raise ValueError(
            f"The tokenizer gives ids up to {largest:,}, the {type(model).__name__} knows {known:,} tokens. Is it another "
            "model's tokenizer?"
        )


def _find_longest(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    positions = getattr(model.config, "max_position_embeddings", None)
    return int(min(tokenizer.model_max_length, positions or tokenizer.model_max_length, 1 << 30))


def project_vectors(
    vectors: np.ndarray,
    dims: int | None = None,
    *,
    remove_mean: bool = False,
    remove_components: int = 0,
) -> np.ndarray:
    """Principal components, in closed form.

    Without `remove_mean` the components are those of the second moments about zero, so that cosines are kept as well as a
    projection to so many dimensions can. To remove the mean and the first few components, which in many spaces hold frequency
    and little meaning, is "all-but-the-top" (Mu and Viswanath 2018).

    Args:
        vectors: (words, size).
        dims: How many components to keep; left out, all.
        remove_mean: Whether to take the mean away first.
        remove_components: How many of the first components to leave out.

    Returns:
        (words, dims), float32; the largest number of each component's direction is positive.

    Raises:
        ValueError: if there are fewer components than asked for.
    """
    found = min(vectors.shape)
    wanted = vectors.shape[1] - remove_components if dims is None else dims
    if remove_components < 0 or wanted < 1 or wanted + remove_components > found:
        raise ValueError(
            f"{len(vectors):,} vectors of size {vectors.shape[1]:,} have {found:,} principal components; dims={wanted:,} "
            f"after the first remove_components={remove_components:,} cannot be had. Give more words or ask for less."
        )
    mean = vectors.mean(axis=0, dtype=np.float64) if remove_mean else np.zeros(vectors.shape[1])
    moments = np.zeros((vectors.shape[1], vectors.shape[1]))
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK] - mean
        moments += block.T @ block
    _, directions = np.linalg.eigh(moments)
    directions = directions[:, ::-1][:, remove_components : remove_components + wanted]
    directions = directions * np.sign(directions[np.abs(directions).argmax(axis=0), np.arange(wanted)])
    projected = np.empty((len(vectors), wanted), dtype=np.float32)
    for start in range(0, len(vectors), _BLOCK):
        projected[start : start + _BLOCK] = (vectors[start : start + _BLOCK] - mean) @ directions
    return projected


def compute_sif_weights(
    frequencies: Sequence[float] | np.ndarray | Literal["zipf"], coefficient: float, is_read: np.ndarray
) -> np.ndarray:
    """Smooth inverse frequency, `a / (a + p(word))` (Arora et al. 2017, equation 3).

    Args:
        frequencies: How often each word occurs, or its share, (words,); `"zipf"`: the share of the n-th word that is read is in
            proportion to 1 / n.
        coefficient: The `a`.
        is_read: Which of the words have a vector, (words,) booleans.

    Returns:
        (read words,), float32.

    Raises:
        ValueError: for frequencies that are none.
    """
    if not coefficient > 0:
        raise ValueError(f"sif_coefficient must be more than 0 (1e-4 is usual), got {coefficient}.")
    if isinstance(frequencies, str):
        if frequencies != "zipf":
            raise ValueError(f'frequencies must be a number for each word or "zipf", got {frequencies!r}.')
        numbers = 1 / np.arange(1, int(is_read.sum()) + 1)
    else:
        numbers = np.asarray(frequencies, dtype=np.float64)
        if numbers.shape != is_read.shape:
            raise ValueError(f"Each of the {len(is_read):,} words needs a frequency, got numbers of shape {numbers.shape}.")
        numbers = numbers[is_read]
    if not np.isfinite(numbers).all() or (numbers < 0).any() or not numbers.sum() > 0:
        raise ValueError("frequencies must be numbers of 0 or more, and not all 0.")
    return (coefficient / (coefficient + numbers / numbers.sum())).astype(np.float32)


__all__ = [
    "ReadOutPooling",
    "compute_sif_weights",
    "folds_case",
    "list_tokens",
    "open_pretrained",
    "project_vectors",
    "read_out",
    "strip_tokenizer",
]

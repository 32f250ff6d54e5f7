"""Outputs of a pipeline: texts to a model's target ids, and single outputs to names and back.

Legend: returned (outputs of a condition), target (output positions), outputs (of a single output).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from .call_settings import resolve_generation
from .constraints import OutputTrie
from .genext.tokenization_genext import find_unknown_token, require_unicode
from .languages import speaking
from .media import open_picture


class TargetWriter:
    """Writes texts as a model writes them, from behind the start token to the end token.

    Args:
        model: Any encoder-decoder.
        processor: Its processor, if it has one.
        tokenizer: The tokenizer of its target.
    """

    def __init__(self, model: PreTrainedModel, processor: Any, tokenizer: Any) -> None:
        self._model, self._processor, self._tokenizer = model, processor, tokenizer
        self._tries: dict[tuple[str | None, tuple[str, ...]], OutputTrie] = {}

    @property
    def start_id(self) -> int:
        """The token before the first of an output."""
        configs = (self._model.generation_config, self._model.config)
        names = ("decoder_start_token_id", "bos_token_id")
        found = (getattr(config, name, None) for name in names for config in configs)
        return next(token for token in found if token is not None)

    @property
    def prompt(self) -> list[int]:
        """The tokens before the first of an output: the start token, of Whisper with language and task behind it."""
        if self._model.config.model_type == "whisper" and getattr(self._tokenizer, "prefix_tokens", None):
            return list(self._tokenizer.prefix_tokens)
        return [self.start_id]

    @property
    def end_ids(self) -> list[int]:
        """The tokens of which each ends an output."""
        ends = self._model.generation_config.eos_token_id
        return ends if isinstance(ends, list) else [ends]

    def write(self, text: str, tgt_lang: str | None = None) -> list[int]:
        """The ids of a text, (target,), the end token last.

        Args:
            text: The text.
            tgt_lang: Code of the language that it is in, of models that translate into several; else the tokenizer's own.

        Raises:
            TypeError: for anything but a text.
        """
        if not isinstance(text, str):
            raise TypeError(f"An output must be a text, got {type(text).__name__} ({text!r:.60}).")
        require_unicode(text, "The output")
        ends = self.end_ids
        if hasattr(self._processor, "target_tokenizer"):
            ids = list(self._processor(text_target=text)["labels"])
        else:
            with speaking(self._tokenizer, tgt_lang=tgt_lang):
                ids = list(self._tokenizer(text_target=text)["input_ids"])
        prompt = self.prompt
        if ids[: len(prompt)] == prompt and ids[0] not in ends:
            ids = ids[len(prompt) :]
        end = next((place for place, token in enumerate(ids) if token in ends), len(ids))
        return [*ids[:end], ends[0]]

    def write_known(self, text: str, what: str, tgt_lang: str | None = None) -> list[int]:
        """As [`write`], of a text that the tokenizer must be able to write.

        Args:
            text: The text.
            what: What to call it in an error.
            tgt_lang: As [`write`] takes it.

        Raises:
            TypeError: for anything but a text.
            ValueError: for a text that the tokenizer cannot write.
        """
        ids, unknown = self.write(text, tgt_lang), find_unknown_token(self._tokenizer)
        if unknown is not None and unknown in ids:
            raise ValueError(f"The tokenizer cannot write {what} {text!r}: it gives the unknown token. Take it out.")
        return ids

    def plant(self, outputs: Iterable[str], tgt_lang: str | None = None) -> OutputTrie:
        """The tree of allowed outputs, kept for the calls that follow.

        Args:
            outputs: The texts.
            tgt_lang: As [`write`] takes it.

        Raises:
            TypeError: for anything but texts.
            ValueError: for a text that the tokenizer cannot write, or without content.
        """
        if isinstance(outputs, Iterator):
            raise TypeError(f"allowed_outputs must be a list of texts, got a {type(outputs).__name__}, which is read but once.")
        texts = tuple(list_outputs(outputs))
        trie = self._tries.get((tgt_lang, texts))
        if trie is None:
            written = [self.write_known(text, "the allowed output", tgt_lang) for text in texts]
            empty = [text for text, ids in zip(texts, written, strict=True) if len(ids) < 2]
            if empty:
                raise ValueError(f"An allowed output must have some content, got {empty[0]!r}.")
            trie = OutputTrie(written, texts)
            self._tries = {(tgt_lang, texts): trie}
        return trie

    def name_allowed(self, trie: OutputTrie, sequences: list[list[int]], *, distinct: bool) -> tuple[str | None, ...]:
        """Which output of a tree each of the sequences is that a search wrote for one condition, as it was given.

        Beams that are left without any output of their own wander off the tree, or write another's again; they are none.

        Args:
            trie: The outputs.
            sequences: (returned, target), without what comes before an output.
            distinct: Whether an output counts once.
        """
        ends, pad = self.end_ids, self._model.generation_config.pad_token_id
        found: list[str | None] = []
        for ids in sequences:
            end = next((place for place, token in enumerate(ids) if token in ends), len(ids))
            is_whole = all(token == pad or token in ends for token in ids[end + 1 :])
            place = trie.find(ids[: end + 1]) if is_whole else None
            text = None if place is None else trie.texts[place]
            found.append(None if distinct and text in found else text)
        return tuple(found)

    def ban(self, words: Iterable[str]) -> list[list[int]]:
        """What `generate` takes as `bad_words_ids`: each word as it is written at the start and behind a space."""
        if isinstance(words, str):
            raise TypeError(f"banned_words must be a list of words, got the string {words!r}.")
        banned = []
        for word in words:
            if not isinstance(word, str):
                raise TypeError(f"banned_words must be words, got {type(word).__name__} ({word!r:.60}).")
            require_unicode(word, "The banned word")
            for written in dict.fromkeys((word, f" {word}")):
                ids = self._tokenizer(written, add_special_tokens=False)["input_ids"]
                if ids and self._tokenizer.unk_token_id not in ids and ids not in banned:
                    banned.append(ids)
        return banned


def list_outputs(outputs: Iterable[str]) -> list[str]:
    """Allowed outputs as a list.

    Raises:
        TypeError: for anything but texts.
    """
    texts = [] if isinstance(outputs, str) else list(outputs)
    if isinstance(outputs, str) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"allowed_outputs must be a list of texts, got {outputs!r:.80}.")
    return texts


def read_single(head: Any, target: Any) -> torch.Tensor:
    """A single output as the model's head takes it.

    Raises:
        ValueError: for what is no output of the head, or says nothing.
    """
    if head.kind == "image":
        return read_picture(head, target)
    names = head.output_names or [str(index) for index in range(head.num_outputs)]
    if head.kind not in ("class", "labels"):
        if isinstance(target, dict) and set(target) != set(names):
            raise ValueError(
                f"A target of this model has the numbers {', '.join(map(repr, names[:20]))}; got {sorted(target)}."
            )
        values = [target[name] for name in names] if isinstance(target, dict) else target
        return torch.from_numpy(_read_numbers(head, values)).reshape(-1)
    if head.kind == "labels" and (isinstance(target, (str, Mapping)) or not isinstance(target, Iterable)):
        raise ValueError(
            f"The labels of a row are a list of their names, such as {names[:1]!r}, and [] where there are none; got "
            f"{target!r:.60}."
        )
    for name in [target] if head.kind == "class" else target:
        if name not in names:
            raise ValueError(f"There is no output {name!r}; known are {', '.join(map(repr, names[:20]))}.")
    if head.kind == "class":
        return torch.tensor(names.index(target))
    return torch.tensor([int(name in target) for name in names])


def name_single(head: Any, logits: torch.Tensor, scale: torch.Tensor | None, top_k: int) -> list[dict[str, Any]]:
    """What a head gave for one condition, (outputs,), as an answer with names."""
    if head.kind == "image":
        return [{"generated_image": make_picture(head, logits)}]
    names = head.output_names or [str(index) for index in range(len(logits))]
    if head.kind == "class":
        scores, best = logits.softmax(dim=-1).topk(min(top_k, len(names)))
        return [{"label": names[index], "score": score} for index, score in zip(best.tolist(), scores.tolist(), strict=True)]
    if head.kind == "labels":
        # In float64: in float32 those that are all but sure could not be told apart.
        probabilities = dict(zip(names, logits.double().sigmoid().tolist(), strict=True))
        return [{"labels": [name for name, score in probabilities.items() if score >= head.threshold], "scores": probabilities}]
    told = {"value": logits} if scale is None else {"value": logits, "uncertainty": scale[0]}
    return [{key: _name_numbers(head, numbers) for key, numbers in told.items()}]


def name_sample(head: Any, drawn: torch.Tensor) -> dict[str, Any]:
    """What was drawn for one condition, () or (outputs,), as an answer with names."""
    if head.kind == "image":
        return {"generated_image": make_picture(head, drawn)}
    if head.kind == "class":
        return {"label": str(int(drawn)) if head.output_names is None else head.output_names[int(drawn)]}
    if head.kind == "labels":
        names = head.output_names or [str(index) for index in range(len(drawn))]
        return {"labels": [name for name, there in zip(names, drawn.tolist(), strict=True) if there]}
    return {"value": _name_numbers(head, drawn)}


def make_picture(head: Any, levels: torch.Tensor) -> Any:
    """An opened picture of whole numbers (*output_shape): the least is black, the greatest white.

    Raises:
        ImportError: without Pillow.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("Pictures need Pillow: pip install pillow") from error
    values = (levels.float() * (255.0 / (head.num_levels - 1))).round().to(torch.uint8).cpu().numpy()
    return Image.fromarray(values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values)


def read_picture(head: Any, target: Any) -> torch.Tensor:
    """An image as a head takes it, (pixels,): whole numbers, flat or in rows, or an opened picture of the right size.

    Raises:
        ValueError: for another height, width or number of channels.
    """
    is_picture, shape = hasattr(target, "getbands"), tuple(head.output_shape)
    if is_picture and shape[2:] in ((), (1,), (3,)):
        # Of any mode; a palette's numbers are no greys.
        upright = open_picture(target)
        target = upright if shape[2:] == (3,) else upright.convert("L")
    values = torch.from_numpy(_read_numbers(head, target))
    grey = {shape[:2], (*shape[:2], 1)} if shape[2:] in ((), (1,)) else set()
    if tuple(values.shape) not in {shape, (head.num_outputs,), *grey}:
        raise ValueError(
            f"An image of this model is {shape}, or flat, {head.num_outputs} numbers; got one of the shape "
            f"{tuple(values.shape)}."
        )
    return (values * ((head.num_levels - 1) / 255.0)).round().flatten() if is_picture else values.flatten()


def _read_numbers(head: Any, target: Any) -> np.ndarray:
    """Numbers in any form, of the shape that they have, but for one by itself, which becomes (1,)."""
    try:
        numbers = np.array(target, dtype=np.float32, ndmin=1)
    except (TypeError, ValueError) as error:
        raise ValueError(f"A target of this model is {head.num_outputs} numbers, got {target!r:.60}.") from error
    if np.isnan(numbers).all() or np.isinf(numbers).any():
        raise ValueError(f"A target of this model is finite numbers, got {target!r:.60}. What is not known has no score.")
    return numbers


def _name_numbers(head: Any, numbers: torch.Tensor) -> Any:
    """One number by itself; several by their names, but a vector whose numbers have none as a list."""
    if len(numbers) == 1:
        return numbers.item()
    if head.output_names is None and head.kind != "regression":
        return numbers.tolist()
    names = head.output_names or [str(index) for index in range(len(numbers))]
    return dict(zip(names, numbers.tolist(), strict=True))


def read_sampling(arguments: dict[str, Any], model: str, top_k: int | None) -> dict[str, Any]:
    """What a call asks of a model with a single output about drawing from it.

    Args:
        arguments: What is neither for reading conditions nor for naming answers.
        model: The model's class, for errors.
        top_k: What the call says of likeliest classes.

    Returns:
        Those of `do_sample`, `num_return_sequences`, `temperature`, `latent_temperature` and `guidance_scale` that are given,
        and `do_sample` where one of the others is.

    Raises:
        ValueError: for anything else, values that cannot be used, or what does not go together.
    """
    taken = ("do_sample", "num_return_sequences", "temperature", "latent_temperature", "guidance_scale")
    unknown = [name for name in arguments if name not in taken]
    if unknown:
        raise ValueError(
            f"{model} predicts a single output, so it takes no {unknown[0]}. It takes top_k, truncation and batch_size; to "
            f"draw from what it predicts {', '.join(taken)}, seed and num_samples."
        )
    given = {name: value for name, value in arguments.items() if value is not None}
    asked = [name for name in taken[1:] if name in given]
    if not asked:
        sampling = given
    elif given.get("do_sample") is False:
        raise ValueError(f"{asked[0]} is of what is drawn, and do_sample=False draws nothing; leave one of them out.")
    else:
        sampling = {**given, "do_sample": True}
    if sampling.get("do_sample") and top_k is not None:
        raise ValueError("top_k gives the likeliest classes, where nothing is drawn; leave it out, or draw nothing.")
    return sampling


def make_room(arguments: dict[str, Any], trie: OutputTrie, asked_of_call: dict[str, Any]) -> dict[str, Any]:
    """Room for the longest of the allowed outputs, and for no more; an error where a call asks for less."""
    config = arguments.get("generation_config")
    asked = {**({} if config is None else config.to_diff_dict()), **asked_of_call}
    limit = asked.get("max_new_tokens") or (asked["max_length"] - 1 if asked.get("max_length") else None)
    if limit is not None and limit < trie.depth:
        raise ValueError(
            f"The longest of the allowed outputs has {trie.depth} tokens, more than the {limit} that may be written. "
            "Raise max_new_tokens, or take it out."
        )
    if limit is not None:
        return arguments
    # One more than the longest has, for some models are forced to end at the last place, which would favour the longest.
    room = {"max_new_tokens": trie.depth + 1}
    return {**{name: value for name, value in arguments.items() if name != "max_length"}, **room}


def keep_within(
    model: PreTrainedModel, arguments: dict[str, Any], asked_of_call: Mapping[str, Any], most: int, least: int = 1
) -> dict[str, Any]:
    """No more tokens than a decoder has positions for: an error where a call asks for more, else the limit is lowered.

    Args:
        model: The model.
        arguments: What `generate` takes.
        asked_of_call: What was asked, the settings of the model left out.
        most: Tokens that it has positions for, behind the start token and what else an output begins with.
        least: Tokens that there must be room for.
    """
    style = getattr(getattr(model, "decoder", None), "style", None)
    if style == "prefix" or hasattr(model, "_retrieve_init_tokens"):
        return arguments  # A memory takes positions, too, and Whisper counts by itself.
    config, _ = resolve_generation(model, arguments)
    if most < max(least, config.min_new_tokens or 0):
        raise ValueError(f"The decoder has positions for {max(most, 0)} tokens more, too few for what is asked; shorten it.")
    if (asked_of_call.get("max_new_tokens") or 0) > most:
        raise ValueError(
            f"max_new_tokens={asked_of_call['max_new_tokens']} is more than the decoder has positions for, {most}; lower it."
        )
    limit = config.max_new_tokens or (config.max_length or 0) - 1
    if limit <= most:
        return arguments
    return {**{name: value for name, value in arguments.items() if name != "max_length"}, "max_new_tokens": most}


def cut_scores(scores: torch.Tensor, is_scored: torch.Tensor) -> list[list[float]]:
    """The scores of each row that are any: (rows, target), (rows, target) -> lists."""
    return [
        [score for score, counts in zip(*pair, strict=True) if counts]
        for pair in zip(scores.tolist(), is_scored.tolist(), strict=True)
    ]


__all__ = [
    "TargetWriter",
    "cut_scores",
    "keep_within",
    "list_outputs",
    "make_room",
    "name_sample",
    "name_single",
    "read_sampling",
    "read_single",
]

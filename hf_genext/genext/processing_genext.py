"""The processor: raw input to tensors and generated ids to text, with one tokenizer for each side.

Legend: batch, length (input positions), target (output positions).
"""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import AutoTokenizer, BatchFeature, PreTrainedTokenizerBase, ProcessorMixin


def _require_texts(name: str, texts: str | list[str]) -> None:
    if isinstance(texts, str):
        return
    if not isinstance(texts, list):
        raise TypeError(f"{name} must be a string or a list of strings, got {type(texts).__name__}.")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"{name}[{index}] must be a string, got {type(text).__name__} ({text!r:.80}).")


class GenextProcessor(ProcessorMixin):
    """Both tokenizers of a conditional model, saved and opened as one.

    `tokenizer` reads the source and stands at the root of the folder, so that `AutoTokenizer` finds it; `target_tokenizer`
    writes and reads the target and stands in the subfolder `target_tokenizer`. They differ where the task does: letters on
    one side, phonemes on the other.

    Args:
        tokenizer: The tokenizer of the source.
        target_tokenizer: The tokenizer of the target; the source's if left out.

    Raises:
        ValueError: if a tokenizer has no padding token.

    Example:
        >>> from hf_genext import GenextProcessor, train_tokenizer
        >>> processor = GenextProcessor(
        ...     tokenizer=train_tokenizer(["cat"], unit="character"),
        ...     target_tokenizer=train_tokenizer(["K AE T"], unit="word"),
        ... )
        >>> batch = processor(text=["cat", "at"], text_target=["K AE T", "AE T"], padding=True, return_tensors="pt")
        >>> {name: tuple(tensor.shape) for name, tensor in batch.items()}
        {'input_ids': (2, 4), 'attention_mask': (2, 4), 'labels': (2, 4)}
        >>> processor.batch_decode(batch["labels"], skip_special_tokens=True)
        ['K AE T', 'AE T']
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        target_tokenizer: PreTrainedTokenizerBase | None = None,
        **kwargs: Any,
    ) -> None:
        target_tokenizer = tokenizer if target_tokenizer is None else target_tokenizer
        for name, part in (("tokenizer", tokenizer), ("target_tokenizer", target_tokenizer)):
            if isinstance(part, PreTrainedTokenizerBase) and part.pad_token_id is None:
                raise ValueError(
                    f"The {name} has no padding token, so batches of unequal length cannot be built. Set one first, for "
                    f"example {name}.pad_token = {name}.eos_token."
                )
        super().__init__(tokenizer, target_tokenizer, **kwargs)

    def __call__(
        self,
        text: str | list[str] | None = None,
        text_target: str | list[str] | None = None,
        max_target_length: int | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Turn sources and targets into model inputs.

        Args:
            text: Source text, or a list of them.
            text_target: Target text, or a list of them.
            max_target_length: Longest target in tokens, where truncation is on; `max_length` if left out.
            kwargs: As the tokenizers take them: `padding`, `truncation`, `max_length`, `return_tensors`, ...

        Returns:
            `input_ids` and `attention_mask` (batch, length) for the source, `labels` (batch, target) for the target. Labels
            are padded with the target tokenizer's padding id; the collator turns it into -100.

        Raises:
            TypeError: for anything but strings.
            ValueError: if neither `text` nor `text_target` is given.
        """
        if text is None and text_target is None:
            raise ValueError("Give text=, text_target= or both; got neither.")
        data: dict[str, Any] = {}
        if text is not None:
            _require_texts("text", text)
            data.update(self.tokenizer(text, **kwargs))
            data.pop("token_type_ids", None)
        if text_target is not None:
            _require_texts("text_target", text_target)
            if max_target_length is not None:
                kwargs["max_length"] = max_target_length
            data["labels"] = self.target_tokenizer(text_target, **kwargs)["input_ids"]
        return BatchFeature(data)

    def decode(self, token_ids: int | list[int] | torch.Tensor, **kwargs: Any) -> str:
        """The text of one row of target ids, (target,)."""
        return self.target_tokenizer.decode(token_ids, **kwargs)

    def batch_decode(self, sequences: list[list[int]] | torch.Tensor, **kwargs: Any) -> list[str]:
        """The texts of rows of target ids, (batch, target)."""
        return self.target_tokenizer.batch_decode(sequences, **kwargs)

    @property
    def model_input_names(self) -> list[str]:
        """What the model takes of what the processor gives."""
        return ["input_ids", "attention_mask"]

    @classmethod
    def _load_tokenizer_from_pretrained(
        cls,
        sub_processor_type: str,
        pretrained_model_name_or_path: str | os.PathLike[str],
        subfolder: str = "",
        **kwargs: Any,
    ) -> PreTrainedTokenizerBase:
        """Open one tokenizer. Transformers falls back to the source's where the target's is lost; that is an error here."""
        if sub_processor_type != "tokenizer":
            subfolder = os.path.join(subfolder, sub_processor_type)
        try:
            return AutoTokenizer.from_pretrained(pretrained_model_name_or_path, subfolder=subfolder, **kwargs)
        except (OSError, ValueError) as error:
            raise OSError(
                f"{str(pretrained_model_name_or_path)!r} holds no {sub_processor_type} that can be opened (looked in "
                f"{subfolder or 'its root'!r}): {error}. Save the whole processor there with save_pretrained."
            ) from error


__all__ = ["GenextProcessor"]

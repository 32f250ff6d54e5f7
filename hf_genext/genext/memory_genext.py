"""The open middle: from conditions to memories, from memories to outputs, and what lies between two memories.

Legend: batch, slots (memory positions), target (output positions), hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

import torch

from .configuration_bottlenecks_genext import LATENT_KINDS, SLOT_FOR_EACH_STATE
from .latents_genext import ENCODER_INPUTS, LatentEncoding
from .outputs_genext import GenextEncoderOutput


class MemoryEncoding(LatentEncoding):
    """What a model with an `encoder` can do with memories."""

    @property
    def main_input_name(self) -> str:
        """The input that is the condition."""
        return self.encoder.main_input_name

    @overload
    def encode(self, *, return_mask: Literal[False] = False, sample: bool | None = None, **inputs: Any) -> torch.Tensor: ...

    @overload
    def encode(
        self, *, return_mask: Literal[True], sample: bool | None = None, **inputs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]: ...

    def encode(
        self, *, return_mask: bool = False, sample: bool | None = None, **inputs: Any
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """The memory of a batch of conditions.

        Args:
            return_mask: Whether to give the memory's mask too, which a memory as long as its input needs to be decoded.
            sample: Of a variational or quantised bottleneck whether its latents are drawn, or the likeliest taken; left out,
                the means of what is encoded, and of what is not a draw from the prior.
            inputs: As [`GenextEncoder.forward`] takes them.

        Returns:
            (batch, slots, hidden), and on request the mask (batch, slots), 1 where a slot is real.
        """
        outputs = self.encoder(**inputs, **({} if sample is None else {"sample_latents": sample}))
        memory = outputs.last_hidden_state
        if not return_mask:
            return memory
        mask = outputs.memory_mask
        return memory, torch.ones(memory.shape[:2], dtype=torch.long, device=memory.device) if mask is None else mask

    def embed(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        *,
        normalize: bool = False,
        **inputs: Any,
    ) -> torch.Tensor:
        """One vector for each condition: the mean of its real slots.

        Args:
            input_ids: Source tokens, (batch, length).
            attention_mask: 1 where a source token is real, (batch, length).
            normalize: Whether the vectors have length 1, so that their products are cosines.
            inputs: Other conditions, as [`GenextEncoder.forward`] takes them.

        Returns:
            (batch, hidden).
        """
        texts = {"input_ids": input_ids, "attention_mask": attention_mask}
        inputs |= {name: value for name, value in texts.items() if value is not None}
        memory, mask = self.encode(return_mask=True, **inputs)
        vectors = average_slots(memory, mask)
        return torch.nn.functional.normalize(vectors, dim=-1) if normalize else vectors

    @staticmethod
    def interpolate(
        first: torch.Tensor,
        second: torch.Tensor,
        fractions: float | Sequence[float] | torch.Tensor = 0.5,
        *,
        steps: int | None = None,
    ) -> torch.Tensor:
        """Memories, or latent numbers, on the straight line between two.

        Args:
            first: (batch, slots, hidden), or (slots, hidden) for one row.
            second: Of the same shape.
            fractions: How far on the way from the first (0) to the second (1): one number, or one for each step.
            steps: In place of fractions, how many from the first to the second, both included.

        Returns:
            Of the shape of the memories for one number; (steps, ...) for several, where one row gives the batch
            (steps, slots, hidden) that `decode` takes.

        Raises:
            ValueError: if the memories differ in shape.

        Example:
            >>> import torch
            >>> from hf_genext import GenextModel
            >>> GenextModel.interpolate(torch.zeros(1, 2), torch.ones(1, 2), [0.0, 0.25, 1.0])[:, 0, 0].tolist()
            [0.0, 0.25, 1.0]
        """
        if not (first.is_floating_point() and second.is_floating_point()):
            raise ValueError("There is nothing between two codes; interpolate the memories that write_latents makes of them.")
        if first.shape != second.shape:
            raise ValueError(
                f"Two memories of one shape are needed, got {tuple(first.shape)} and {tuple(second.shape)}. Memories as long "
                'as their inputs have no common slots; a bottleneck gives them a fixed number: bottleneck="pooled".'
            )
        if steps is not None:
            if steps < 2:
                raise ValueError(f"steps counts both ends, so it is 2 or more, got {steps}.")
            fractions = torch.linspace(0.0, 1.0, steps)
        places = torch.as_tensor(fractions, dtype=first.dtype, device=first.device)
        return torch.lerp(first, second, places.view(*places.shape, *[1] * first.dim()))


class MemoryDecoding:
    """What a model that generates can do with memories."""

    config: Any
    encoder: Any
    generate: Any

    def decode(self, memory: torch.Tensor, memory_mask: torch.Tensor | None = None, **generate_kwargs: Any) -> Any:
        """Generate from memories: the ids that `generate` gives for the conditions that they came from.

        Args:
            memory: (batch, slots, hidden).
            memory_mask: 1 where a slot is real, (batch, slots); `encode(..., return_mask=True)` gives it.
            generate_kwargs: As `generate` takes them.

        Returns:
            Ids (batch, target) behind the start token, or what else `generate` is asked for.

        Raises:
            ValueError: for a memory of another shape, or without the mask where some of its slots could be padding.
        """
        size = self.config.hidden_size
        if memory.dim() != 3 or memory.shape[-1] != size:
            raise ValueError(f"A memory of this model is (batch, slots, {size}), got the shape {tuple(memory.shape)}.")
        bottleneck, slots = self.config.bottleneck, memory.shape[1]
        has_context = bottleneck.kind in LATENT_KINDS and bottleneck.posterior_conditions is not None
        if bottleneck.kind not in SLOT_FOR_EACH_STATE and not has_context and slots != bottleneck.num_latents:
            raise ValueError(f"A memory of this model has {bottleneck.num_latents} slots, got {slots}.")
        if memory_mask is None and bottleneck.kind in SLOT_FOR_EACH_STATE and slots > 1 and self.encoder.conditioner.can_pad:
            raise ValueError(
                "Without a bottleneck some of the slots can be padding, so decode needs memory_mask=: take both from "
                "encode(..., return_mask=True). If all slots are real, give torch.ones(memory.shape[:2])."
            )
        if memory_mask is not None and memory_mask.shape != memory.shape[:2]:
            raise ValueError(
                f"memory_mask has a number for each slot, {tuple(memory.shape[:2])}; got the shape {tuple(memory_mask.shape)}."
            )
        outputs = GenextEncoderOutput(last_hidden_state=memory, memory_mask=memory_mask)
        return self.generate(encoder_outputs=outputs, **generate_kwargs)

    def reconstruct(self, **arguments: Any) -> Any:
        """Encode texts and generate them again from their memories.

        A model knows the sizes of its vocabularies and not their words: that both sides have one tokenizer is the caller's to
        see to, where they are of one size.

        Args:
            arguments: The encoder's inputs, and what `generate` takes.

        Returns:
            Ids (batch, target) behind the start token.

        Raises:
            ValueError: if the conditions are no text, or the vocabularies of source and target differ in size.
        """
        source = self._get_source_vocab_size()
        if source is None or source != self.config.vocab_size:
            told = "no tokens" if source is None else f"{source:,} tokens"
            raise ValueError(
                f"The source has {told} and the target {self.config.vocab_size:,}, so the output cannot be the input again. "
                "Use decode(encode(...)), or build the model with one tokenizer for both sides."
            )
        inputs = {name: arguments.pop(name) for name in ENCODER_INPUTS if name in arguments}
        memory, mask = self.encode(return_mask=True, **inputs)  # type: ignore[attr-defined]
        return self.decode(memory, mask, **arguments)

    def _get_source_vocab_size(self) -> int | None:
        conditioner = self.encoder.conditioner
        parts = getattr(conditioner, "conditioners", {"": conditioner}).values()
        sizes = [part.config.get_text_config().vocab_size for part in parts if "input_ids" in part.input_names]
        return sizes[0] if sizes else None


def average_slots(memory: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The mean of a memory's real slots: (batch, slots, hidden), (batch, slots) -> (batch, hidden)."""
    if mask is None:
        return memory.mean(dim=1)
    shares = mask.to(memory.dtype)[:, :, None]
    return (memory * shares).sum(dim=1) / shares.sum(dim=1).clamp(min=1)


__all__ = ["MemoryDecoding", "MemoryEncoding", "average_slots"]

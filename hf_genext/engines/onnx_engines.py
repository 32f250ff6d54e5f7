"""Native models in ONNX Runtime: the encoder in one run, the decoder token by token, under the loops of this package.

The loops, the constraints, the seeds and the scores are those that PyTorch's models have; only the arithmetic is elsewhere.

Legend: batch (conditions), outputs (rows of each condition), rows (batch * outputs), slots (memory positions), heads, head (the
width of one), capacity (positions that there is room for), vocab.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from ..fast_decoding import find_obstacle, generate_fast
from ..genext.outputs_genext import GenextEncoderOutput
from .models_engines import EngineModel
from .onnx_sessions_engines import DECODER, MEMORY, EncoderGraph, open_session

_FIRST_CAPACITY = 16


class OnnxModel(EngineModel):
    """A native model whose encoder and decoder run in ONNX Runtime.

    Args:
        model: The PyTorch model that was exported.
        folder: The export.
    """

    engine = "onnx"
    title = "ONNX Runtime"

    def __init__(self, model: PreTrainedModel, folder: Path) -> None:
        super().__init__(model)
        self._memory, self._decoder = open_session(folder / MEMORY), open_session(folder / DECODER)
        self._encoder = EncoderGraph.open(folder, model)

    def find_stepping_obstacle(self) -> str | None:
        """That the weights were changed since; what could not be stepped was not exported."""
        return self.find_change()

    @torch.no_grad()
    def generate(self, **arguments: Any) -> Any:
        """As [`EngineModel.generate`]; with `custom_generate` what is prepared for a loop of this package."""
        if "custom_generate" in arguments:
            return self.torch_model.generate(**self._encode_first(arguments))
        obstacle = find_obstacle(self, **arguments)
        if obstacle is None:
            return generate_fast(self, **arguments)
        return self._fall_back(obstacle, arguments)

    def encode_conditions(self, inputs: Mapping[str, torch.Tensor]) -> GenextEncoderOutput | None:
        """The memory of a batch of conditions.

        Args:
            inputs: As the encoder takes them.

        Returns:
            The memory (batch, slots, hidden) and its mask; `None` for conditions other than those of the exported encoder.
        """
        encoded = None if self._encoder is None else self._encoder.encode(inputs)
        return None if encoded is None else GenextEncoderOutput(last_hidden_state=encoded[0], memory_mask=encoded[1])

    def encode_for_steps(self, inputs: Mapping[str, torch.Tensor]) -> GenextEncoderOutput | None:
        """As the PyTorch model's method of this name."""
        return None if self.torch_model.changes_generation() else self.encode_conditions(inputs)

    def _encode_first(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments of `generate` with the memory in place of the conditions."""
        known = () if self._encoder is None else self._encoder.names
        names = [name for name in known if torch.is_tensor(arguments.get(name))]
        if arguments.get("encoder_outputs") is not None or not names:
            return arguments
        inputs = {name: arguments[name] for name in names}
        if "attention_mask" in known and "input_ids" in inputs:
            inputs.setdefault("attention_mask", torch.ones_like(inputs["input_ids"]))
        others = [name for name in self._read_condition_names() if arguments.get(name) is not None and name not in inputs]
        outputs = None if others else self.encode_conditions(inputs)
        if outputs is None:
            return arguments
        # Processors may ask for the tokens of the source, which `generate` gives them as they were.
        kept = {name: value for name, value in arguments.items() if name not in names or name == "input_ids"}
        masks = {name: inputs[name] for name in ("attention_mask",) if name in inputs}
        return {**kept, **masks, "encoder_outputs": outputs}

    def _read_condition_names(self) -> tuple[str, ...]:
        return (*self.torch_model.encoder.conditioner.input_names, "num_samples")

    def start_steps(
        self,
        encoder_outputs: Any,
        attention_mask: torch.Tensor | None = None,
        num_outputs: int = 1,
        *,
        is_checked: bool = False,
    ) -> OnnxStepper:
        """Begin to decode one token at a time, as the PyTorch model's method of this name does."""
        outputs = self.torch_model._take_encoder_outputs(encoder_outputs, attention_mask)
        return OnnxStepper(
            self._memory,
            self._decoder,
            outputs.last_hidden_state.detach().float(),
            outputs.memory_mask,
            num_outputs,
            self.torch_model.config,
        )


class OnnxStepper:
    """A native decoder in ONNX Runtime on a batch of memories, at one length.

    The cache stands in tensors of ours which the engine reads where they are. Each run gives the keys and values of its one
    token, and they are put in their place here.

    Args:
        memory_session: From a memory to the keys and values of all layers.
        session: From tokens and a cache to logits.
        memory: (batch, slots, memory hidden).
        memory_mask: 1 where a slot is real, (batch, slots); `None` where all are.
        num_outputs: Rows of each memory, which stand beside each other.
        config: The model's.
    """

    def __init__(
        self,
        memory_session: Any,
        session: Any,
        memory: torch.Tensor,
        memory_mask: torch.Tensor | None,
        num_outputs: int,
        config: Any,
    ) -> None:
        self.length = 0
        self._session = session
        decoder = config.decoder
        heads = decoder.num_attention_heads
        self._vocab = decoder.vocab_size
        self._memories = [
            torch.from_numpy(array) for array in memory_session.run(None, {"memory": memory.contiguous().numpy()})
        ]
        self._memory_bias = torch.zeros(memory.shape[0], 1, 1, memory.shape[1])
        if memory_mask is not None:
            self._memory_bias.masked_fill_(memory_mask[:, None, None] == 0, torch.finfo(torch.float32).min)
        self._tokens = torch.zeros(memory.shape[0], num_outputs, dtype=torch.long)
        self._position = torch.zeros((), dtype=torch.long)
        # Keys and values of each layer, (2 * layers, batch, outputs, heads, capacity, head).
        self._cache = torch.empty(
            2 * decoder.num_hidden_layers, memory.shape[0], num_outputs, heads, 0, decoder.hidden_size // heads
        )
        self._spare: torch.Tensor | None = None
        self._bias = torch.empty(0)
        self._is_bound = False

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Take one token of each row: ids (rows,) -> logits (rows, vocab), which the next step overwrites."""
        if self.length == self._cache.shape[4]:
            self._grow()
        if not self._is_bound:
            self._bind()
        self._tokens.copy_(tokens.view_as(self._tokens))
        self._position.fill_(self.length)
        self._session.run_with_iobinding(self._binding)
        self._cache[..., self.length, :] = self._new
        self._bias[self.length] = 0.0
        self.length += 1
        return self._logits.view(-1, self._vocab)

    def select(self, rows: torch.Tensor, memories: torch.Tensor | None = None) -> None:
        """Go on with some of the rows, in a new order.

        Args:
            rows: Which row each row goes on from, (new rows,).
            memories: Which memories are kept, (new batch,), where some are dropped; else each row stays with its memory.
        """
        outputs = self._cache.shape[2]
        seen = self._cache[..., : self.length, :].flatten(1, 2).index_select(1, rows).unflatten(1, (-1, outputs))
        shape = (*seen.shape[:4], *self._cache.shape[4:])
        # Two caches take turns, so that what is behind the last position need not be copied; it must only be numbers.
        spare = self._spare if self._spare is not None and self._spare.shape == shape else torch.zeros(shape)
        spare[..., : self.length, :] = seen
        self._cache, self._spare = spare, self._cache
        if memories is not None:
            self._memories = [part.index_select(0, memories) for part in self._memories]
            self._memory_bias = self._memory_bias.index_select(0, memories)
            self._tokens = self._tokens.new_zeros(len(memories), outputs)
        self._is_bound = False

    def _grow(self) -> None:
        """Make room for as many tokens again."""
        capacity = max(_FIRST_CAPACITY, 2 * self.length)
        seen = self._cache
        # What is masked is read all the same, so it must be numbers.
        self._cache = torch.zeros(*seen.shape[:4], capacity, seen.shape[5])
        self._cache[..., : self.length, :] = seen
        self._bias = torch.full((capacity,), torch.finfo(torch.float32).min)
        self._bias[: self.length] = 0.0
        self._is_bound = False

    def _bind(self) -> None:
        """Tell the engine where everything is."""
        batch, outputs = self._tokens.shape
        self._logits = torch.empty(batch, outputs, self._vocab)
        self._new = torch.empty(*self._cache.shape[:4], self._cache.shape[5])
        self._binding = self._session.io_binding()
        inputs = {
            "tokens": self._tokens,
            "position": self._position,
            "bias": self._bias,
            "memory_bias": self._memory_bias,
            **{f"cache_{index}": part for index, part in enumerate(self._cache)},
            **{f"memory_{index}": part for index, part in enumerate(self._memories)},
        }
        for name, tensor in inputs.items():
            kind = np.int64 if tensor.dtype == torch.long else np.float32
            self._binding.bind_input(name, "cpu", 0, kind, tuple(tensor.shape), tensor.data_ptr())
        for name, tensor in (("logits", self._logits), ("new", self._new)):
            self._binding.bind_output(name, "cpu", 0, np.float32, tuple(tensor.shape), tensor.data_ptr())
        self._is_bound = True


__all__ = ["OnnxModel", "OnnxStepper"]

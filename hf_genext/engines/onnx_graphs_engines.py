"""Native models as ONNX graphs: the encoder of texts, the memory's keys and values, and one token of the decoder.

The graphs are written out, layer by layer, from the weights. They are those of `layers_genext`, in the order of
`stepping_genext`: a memory is read once for all outputs of a condition, and the cache holds positions that are not there yet,
which a bias masks.

Legend: batch (conditions), outputs (rows of each condition), length (input positions), slots (memory positions), capacity (of
the cache), hidden, heads, head (the width of one), vocab.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ..genext.bottlenecks_genext import NoBottleneck, PooledBottleneck
from ..genext.layers_genext import GenextRMSNorm
from ..genext.stepping_genext import STEADY_ROPE_TYPES
from ..genext.text_conditioners_genext import GenextTextConditioner
from .models_engines import require_package

_OPSET = 23
"""The first with RMSNormalization."""

_IR_VERSION = 10
_LEAST = float(np.finfo(np.float32).min)
_TO_THE_END = 2**62

_DOMAIN = "com.microsoft"
_LEVELS, _MIDDLE = 127, 128
"""Of bytes: as many on each side of zero, and the one that is zero."""


class GraphWriter:
    """Writes one graph, node by node; every method returns the names of what it made.

    Args:
        name: The graph's.
        quantization: `"int8"` for products with weights in whole numbers of one byte, `None` for float32.
    """

    def __init__(self, name: str, quantization: str | None = None) -> None:
        self._onnx = require_package("onnx")
        self._name, self._quantization = name, quantization
        self._nodes: list[Any] = []
        self._weights: list[Any] = []
        self._inputs: list[Any] = []
        self._known: dict[tuple[Any, ...], str] = {}

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """A node with one result."""
        return self.add_several(kind, 1, *inputs, **attributes)[0]

    def add_several(self, kind: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """A node with several results."""
        outputs = [f"{kind.lower()}_{len(self._nodes)}_{index}" for index in range(count)]
        self._nodes.append(self._onnx.helper.make_node(kind, list(inputs), outputs, **attributes))
        return outputs

    def declare(self, name: str, shape: Sequence[str | int], *, is_whole: bool = False) -> str:
        """An input of the graph: whole numbers, or float32."""
        kind = self._onnx.TensorProto.INT64 if is_whole else self._onnx.TensorProto.FLOAT
        self._inputs.append(self._onnx.helper.make_tensor_value_info(name, kind, list(shape)))
        return name

    def weight(self, values: torch.Tensor | Sequence[int] | int | float) -> str:
        """A constant: a tensor as float32 or the bytes that it is, whole numbers as int64."""
        if isinstance(values, torch.Tensor):
            kept = values if values.dtype == torch.uint8 else values.float()
            array = kept.detach().cpu().contiguous().numpy()
        else:
            array = np.asarray(values, dtype=np.float32 if isinstance(values, float) else np.int64)
        key = (array.dtype.str, array.shape, array.tobytes()) if array.size <= 64 else (len(self._weights),)
        if key not in self._known:
            self._known[key] = f"weight_{len(self._weights)}"
            self._weights.append(self._onnx.numpy_helper.from_array(array, self._known[key]))
        return self._known[key]

    def linear(self, states: str, weight: torch.Tensor) -> str:
        """(..., in) by (out, in) -> (..., out)."""
        if self._quantization is None:
            return self.add("MatMul", states, self.weight(weight.t()))
        return self._multiply_bytes(states, weight.detach().float())

    def _multiply_bytes(self, states: str, weight: torch.Tensor) -> str:
        """A product of bytes: a scale for each column of the weight, and for each row of the states by itself.

        `quantize_dynamic` of ONNX Runtime takes one scale for all rows that run at once, so that rows change each other.
        """
        scales = (weight.abs().amax(dim=1) / _LEVELS).clamp(min=torch.finfo(torch.float32).tiny)
        # Unsigned, because the products of signed bytes overflow on processors without VNNI.
        numbers = (torch.round(weight / scales[:, None]) + _MIDDLE).to(torch.uint8)
        # Of a row of zeros nothing is known but that it is finite, and it becomes zeros again.
        largest = self.add("ReduceMax", self.add("Abs", states), self.weight([-1]), keepdims=1)
        step, middle = self.weight(torch.tensor(1 / _LEVELS)), self.weight(torch.tensor(_MIDDLE, dtype=torch.uint8))
        rounded = self.add("QuantizeLinear", self.add("Div", states, largest), step, middle)
        middles = torch.full_like(numbers[:, 0], _MIDDLE)
        factors = (self.weight(numbers.t()), step, self.weight(scales), middle, self.weight(middles))
        product = self.add("MatMulIntegerToFloat", rounded, *factors, domain=_DOMAIN)
        return self.add("Mul", product, largest)

    def normalize(self, states: str, norm: Any) -> str:
        """The norm over the last axis."""
        return self.add("RMSNormalization", states, self.weight(norm.weight), epsilon=norm.eps, axis=-1)

    def reshape(self, states: str, *shape: int) -> str:
        """As ONNX reads shapes: 0 keeps an axis, -1 is what is left."""
        return self.add("Reshape", states, self.weight(shape))

    def cut(self, states: str, start: int, end: int, axis: int) -> str:
        """A part of an axis."""
        return self.add("Slice", states, *(self.weight([value]) for value in (start, end, axis)))

    def transpose(self, states: str, *order: int) -> str:
        """The axes in a new order."""
        return self.add("Transpose", states, perm=list(order))

    def split(self, states: str, *sizes: int, axis: int) -> list[str]:
        """Parts of an axis, of given sizes."""
        return self.add_several("Split", len(sizes), states, self.weight(sizes), axis=axis)

    def activate(self, states: str, activation: nn.Module) -> str:
        """The activation of a gated MLP.

        Raises:
            ValueError: for one that has no name in ONNX here.
        """
        kind = type(activation).__name__
        if kind in ("SiLU", "SiLUActivation"):
            return self.add("Mul", states, self.add("Sigmoid", states))
        if kind in ("GELUActivation", "GELU"):
            return self.add("Gelu", states)
        if kind in ("GELUTanh", "NewGELUActivation", "PytorchGELUTanh"):
            return self.add("Gelu", states, approximate="tanh")
        if kind == "ReLU":
            return self.add("Relu", states)
        raise ValueError(f"The activation {kind} cannot be written as ONNX here; silu, gelu, gelu_pytorch_tanh and relu can.")

    def finish(self, outputs: Mapping[str, tuple[str, Sequence[str | int]]]) -> Any:
        """The model: names of the graph's outputs, what they are and their shapes."""
        helper, values = self._onnx.helper, []
        for name, (made, shape) in outputs.items():
            self._nodes.append(helper.make_node("Identity", [made], [name]))
            values.append(helper.make_tensor_value_info(name, self._onnx.TensorProto.FLOAT, list(shape)))
        graph = helper.make_graph(self._nodes, self._name, self._inputs, values, self._weights)
        domains = [helper.make_opsetid("", _OPSET)]
        if self._quantization is not None:
            domains.append(helper.make_opsetid(_DOMAIN, 1))
        return helper.make_model(graph, opset_imports=domains, ir_version=_IR_VERSION, producer_name="hf_genext")

    # Layers

    def mlp(self, states: str, norm: Any, mlp: Any) -> str:
        """The MLP's x + down(act(gate(norm(x))) * up(norm(x))): (..., hidden) -> (..., hidden)."""
        stacked = self.linear(self.normalize(states, norm), mlp.gate_up_proj.weight)
        width = mlp.down_proj.weight.shape[1]
        gate, up = self.split(stacked, width, width, axis=-1)
        return self.add("Add", states, self.linear(self.add("Mul", self.activate(gate, mlp.act_fn), up), mlp.down_proj.weight))

    def turn(self, states: str, cos: str, sin: str, width: int) -> str:
        """Rotary positions; the first half of the sines is negative: (..., head) -> (..., head)."""
        first, second = self.split(states, width // 2, width // 2, axis=-1)
        swapped = self.add("Concat", second, first, axis=-1)
        return self.add("Add", self.add("Mul", states, cos), self.add("Mul", swapped, sin))

    def angles(self, positions: str, rotary: Any) -> tuple[str, str]:
        """Cosines and sines of positions, (..., 1) whole numbers -> twice (..., head)."""
        turned = self.add("Mul", self.add("Cast", positions, to=self._onnx.TensorProto.FLOAT), self.weight(rotary.inv_freq))
        cos, sin = (self.add(kind, turned) for kind in ("Cos", "Sin"))
        if rotary.attention_scaling != 1.0:
            cos, sin = (self.add("Mul", part, self.weight(float(rotary.attention_scaling))) for part in (cos, sin))
        return self.add("Concat", cos, cos, axis=-1), self.add("Concat", self.add("Neg", sin), sin, axis=-1)

    def scale(self, states: str, norm: Any, factor: float) -> str:
        """The norm of heads, if there is one, and the factor of the scores: (..., head) -> (..., head)."""
        if isinstance(norm, GenextRMSNorm):
            return self.add("RMSNormalization", states, self.weight(norm.weight * factor), epsilon=norm.eps, axis=-1)
        return states if factor == 1.0 else self.add("Mul", states, self.weight(factor))

    def cross(self, states: str, attention: Any, keys: str, values: str, bias: str) -> str:
        """Attention to keys and values (batch, heads, slots, head), without its norm: (batch, outputs, hidden) -> the same."""
        query = self.reshape(self.linear(states, attention.q_proj.weight), 0, 0, -1, attention.head_dim)
        query = self.transpose(self.scale(query, attention.q_norm, attention.scaling), 0, 2, 1, 3)
        scores = self.add("Add", self.add("MatMul", query, self.transpose(keys, 0, 1, 3, 2)), bias)
        attended = self.add("MatMul", self.add("Softmax", scores, axis=-1), values)
        return self.linear(self.reshape(self.transpose(attended, 0, 2, 1, 3), 0, 0, -1), attention.o_proj.weight)

    def read(self, states: str, attention: Any) -> tuple[str, str]:
        """Keys and values of what cross-attention reads: (batch, slots, hidden) -> twice (batch, heads, slots, head)."""
        size = attention.o_proj.weight.shape[1]
        parts = self.split(self.linear(states, attention.kv_proj.weight), size, size, axis=-1)
        heads = [self.reshape(part, 0, 0, -1, attention.head_dim) for part in parts]
        key, value = self.scale(heads[0], attention.k_norm, 1.0), heads[1]
        return self.transpose(key, 0, 2, 1, 3), self.transpose(value, 0, 2, 1, 3)


def can_write_encoder(encoder: Any) -> bool:
    """Whether [`write_encoder`] knows an encoder: text from scratch, with positions that do not turn with the length."""
    conditioner = encoder.conditioner
    if not isinstance(encoder.bottleneck, (NoBottleneck, PooledBottleneck)):
        return False
    return type(conditioner) is GenextTextConditioner and conditioner.config.rope_parameters["rope_type"] in STEADY_ROPE_TYPES


def write_encoder(encoder: Any, quantization: str | None = None) -> Any:
    """The encoder of texts: `input_ids` and `attention_mask`, (batch, length) -> `memory`, and `memory_mask` if it has one."""
    writer, conditioner = GraphWriter("encoder", quantization), encoder.conditioner
    ids = writer.declare("input_ids", ("batch", "length"), is_whole=True)
    mask = writer.declare("attention_mask", ("batch", "length"), is_whole=True)
    states = writer.add("Gather", writer.weight(conditioner.embed_tokens.weight), ids)
    real = writer.add("Cast", mask, to=require_package("onnx").TensorProto.FLOAT)
    hidden = writer.add("Mul", writer.add("Sub", writer.weight(1.0), real), writer.weight(_LEAST))
    bias = writer.add("Unsqueeze", hidden, writer.weight([1, 2]))
    length = writer.add("Squeeze", writer.add("Shape", ids, start=1, end=2))
    positions = writer.add("Range", writer.weight(0), length, writer.weight(1))
    angles = writer.angles(writer.add("Unsqueeze", positions, writer.weight([1])), conditioner.rotary_emb)
    for layer in conditioner.layers:
        attended = _attend_all(writer, writer.normalize(states, layer.self_attn_norm), layer.self_attn, angles, bias)
        states = writer.mlp(writer.add("Add", states, attended), layer.mlp_norm, layer.mlp)
    states = writer.normalize(states, conditioner.norm)
    size = encoder.config.hidden_size
    if not isinstance(encoder.bottleneck, PooledBottleneck):
        outputs = {"memory": (states, ("batch", "length", size)), "memory_mask": (real, ("batch", "length"))}
        return writer.finish(outputs)
    memory = _pool(writer, states, encoder.bottleneck, bias)
    return writer.finish({"memory": (memory, ("batch", encoder.bottleneck.queries.num_embeddings, size))})


def _attend_all(writer: GraphWriter, states: str, attention: Any, angles: tuple[str, str], bias: str) -> str:
    """Self-attention in both directions: (batch, length, hidden) -> the same."""
    heads = attention.o_proj.weight.shape[1] // attention.head_dim
    mixed = writer.reshape(writer.linear(states, attention.qkv_proj.weight), 0, 0, 3 * heads, attention.head_dim)
    query, key, value = writer.split(writer.transpose(mixed, 0, 2, 1, 3), heads, heads, heads, axis=1)
    query = writer.turn(writer.scale(query, attention.q_norm, attention.scaling), *angles, attention.head_dim)
    key = writer.turn(writer.scale(key, attention.k_norm, 1.0), *angles, attention.head_dim)
    scores = writer.add("Add", writer.add("MatMul", query, writer.transpose(key, 0, 1, 3, 2)), bias)
    attended = writer.add("MatMul", writer.add("Softmax", scores, axis=-1), value)
    return writer.linear(writer.reshape(writer.transpose(attended, 0, 2, 1, 3), 0, 0, -1), attention.o_proj.weight)


def _pool(writer: GraphWriter, states: str, bottleneck: Any, bias: str) -> str:
    """The learned queries' reading of the states: (batch, length, hidden) -> (batch, slots, memory hidden)."""
    queries = writer.weight(bottleneck.queries.weight[None])
    batch = writer.add("Shape", states, start=0, end=1)
    memory = writer.add("Expand", queries, writer.add("Concat", batch, writer.weight([1, 1]), axis=0))
    keys, values = writer.read(writer.normalize(states, bottleneck.states_norm), bottleneck.cross_attn)
    attended = writer.cross(writer.normalize(memory, bottleneck.queries_norm), bottleneck.cross_attn, keys, values, bias)
    memory = writer.mlp(writer.add("Add", memory, attended), bottleneck.mlp_norm, bottleneck.mlp)
    return writer.normalize(memory, bottleneck.norm)


def write_memory(decoder: Any, quantization: str | None = None) -> Any:
    """What the decoder reads of a memory: `memory` (batch, slots, hidden) -> `memory_0`, ...: keys and values of each layer."""
    writer, config = GraphWriter("memory", quantization), decoder.config
    shape = ("batch", config.num_attention_heads, "slots", config.hidden_size // config.num_attention_heads)
    memory = writer.declare("memory", ("batch", "slots", config.cross_attention_hidden_size))
    parts = [part for layer in decoder.layers for part in writer.read(memory, layer.cross_attn)]
    return writer.finish({f"memory_{index}": (part, shape) for index, part in enumerate(parts)})


def write_decoder(decoder: Any, projection: torch.Tensor, quantization: str | None = None) -> Any:
    """One token of each row: ids and everything before them -> logits, and what the cache lacks.

    Inputs are `tokens` (batch, outputs), `position` (a scalar), `bias` (capacity,), `memory_bias` (batch, 1, 1, slots), and for
    each layer the keys and values `cache_i` (batch, outputs, heads, capacity, head) and `memory_i` (batch, heads, slots, head).
    Outputs are `logits` (batch, outputs, vocab) and `new`, (2 * layers, batch, outputs, heads, head).
    """
    writer, config = GraphWriter("decoder", quantization), decoder.config
    heads = config.num_attention_heads
    head = config.hidden_size // heads
    tokens = writer.declare("tokens", ("batch", "outputs"), is_whole=True)
    position = writer.declare("position", (), is_whole=True)
    bias = writer.declare("bias", ("capacity",))
    memory_bias = writer.declare("memory_bias", ("batch", 1, 1, "slots"))
    cache_shape, memory_shape = ("batch", "outputs", heads, "capacity", head), ("batch", heads, "slots", head)
    numbers = range(2 * len(decoder.layers))
    caches = [writer.declare(f"cache_{number}", cache_shape) for number in numbers]
    memories = [writer.declare(f"memory_{number}", memory_shape) for number in numbers]
    angles = writer.angles(position, decoder.rotary_emb)
    states = writer.add("Gather", writer.weight(decoder.embed_tokens.weight), tokens)
    new = []
    for index, layer in enumerate(decoder.layers):
        attention, keys, values = layer.self_attn, 2 * index, 2 * index + 1
        mixed = writer.linear(writer.normalize(states, layer.self_attn_norm), attention.qkv_proj.weight)
        attended, added = _attend_to_cache(writer, mixed, attention, heads, angles, bias, caches[keys], caches[values])
        new += added
        states = writer.add("Add", states, writer.linear(attended, attention.o_proj.weight))
        query = writer.normalize(states, layer.cross_attn_norm)
        crossed = writer.cross(query, layer.cross_attn, memories[keys], memories[values], memory_bias)
        states = writer.mlp(writer.add("Add", states, crossed), layer.mlp_norm, layer.mlp)
    logits = writer.linear(writer.normalize(states, decoder.norm), projection)
    stacked = writer.add("Concat", *(writer.add("Unsqueeze", part, writer.weight([0])) for part in new), axis=0)
    return writer.finish(
        {
            "logits": (logits, ("batch", "outputs", projection.shape[0])),
            "new": (writer.add("Squeeze", stacked, writer.weight([4])), (len(new), "batch", "outputs", heads, head)),
        }
    )


def _attend_to_cache(
    writer: GraphWriter,
    mixed: str,
    attention: Any,
    heads: int,
    angles: tuple[str, str],
    bias: str,
    cached_keys: str,
    cached_values: str,
) -> tuple[str, list[str]]:
    """Self-attention of one token to itself and to what is cached: the result, and the token's own key and value."""
    width = attention.head_dim
    mixed = writer.reshape(mixed, 0, 0, 3 * heads, 1, width)
    query, key, value = writer.split(mixed, heads, heads, heads, axis=2)
    query = writer.turn(writer.scale(query, attention.q_norm, attention.scaling), *angles, width)
    key = writer.turn(writer.scale(key, attention.k_norm, 1.0), *angles, width)
    before = writer.add("Add", writer.add("MatMul", query, writer.transpose(cached_keys, 0, 1, 2, 4, 3)), bias)
    itself = writer.add("MatMul", query, writer.transpose(key, 0, 1, 2, 4, 3))
    weights = writer.add("Softmax", writer.add("Concat", itself, before, axis=-1), axis=-1)
    attended = writer.add(
        "Add",
        writer.add("Mul", writer.cut(weights, 0, 1, -1), value),
        writer.add("MatMul", writer.cut(weights, 1, _TO_THE_END, -1), cached_values),
    )
    return writer.reshape(attended, 0, 0, heads * width), [key, value]


__all__ = ["GraphWriter", "can_write_encoder", "write_decoder", "write_encoder", "write_memory"]

"""Traced ONNX graphs with weights of one byte.

Weights have a scale for each 32 numbers of a column, and what they are multiplied with one for each 32 numbers of a row, so
that an answer does not depend on the rows that run beside it.
"""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import Any

import numpy as np

from .models_engines import require_package

_BLOCK = 32
_IN_WHOLE_NUMBERS = 4
"""ONNX Runtime's name for products of bytes."""


def round_weights(path: Path) -> None:
    """Write a graph again, the weights of its matrix products as whole numbers of one byte."""
    onnx = require_package("onnx")
    require_package("onnxruntime")
    quantizers = importlib.import_module("onnxruntime.quantization.matmul_nbits_quantizer")
    model = onnx.load(str(path))
    _turn_weights(onnx, model.graph)
    settings = quantizers.DefaultWeightOnlyQuantConfig(
        block_size=_BLOCK, is_symmetric=True, accuracy_level=_IN_WHOLE_NUMBERS, bits=8
    )
    logger = logging.getLogger(quantizers.__name__)
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        quantizer = quantizers.MatMulNBitsQuantizer(model, algo_config=settings)
        quantizer.process()
    finally:
        logger.setLevel(level)
    beside = path.with_name(f"{path.name}.data")
    is_large = beside.is_file()
    for file in (path, beside):
        file.unlink(missing_ok=True)
    quantizer.model.save_model_to_file(str(path), is_large)


def _turn_weights(onnx: Any, graph: Any) -> None:
    """Put a weight in the place of each product's weight that is turned at run time, as that of a token head often is."""
    weights = {weight.name: weight for weight in graph.initializer}
    turns = {node.output[0]: node for node in graph.node if node.op_type == "Transpose" and node.input[0] in weights}
    turned: dict[str, str] = {}
    for node in graph.node:
        if node.op_type != "MatMul" or node.input[1] not in turns:
            continue
        made = node.input[1]
        if made not in turned:
            turn = turns[made]
            order = next((list(one.ints) for one in turn.attribute if one.name == "perm"), None)
            values = np.ascontiguousarray(np.transpose(onnx.numpy_helper.to_array(weights[turn.input[0]]), order))
            turned[made] = f"{made}_turned"
            graph.initializer.append(onnx.numpy_helper.from_array(values, turned[made]))
        node.input[1] = turned[made]
    used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    for made in turned:
        if made not in used:
            graph.node.remove(turns[made])


__all__ = ["round_weights"]

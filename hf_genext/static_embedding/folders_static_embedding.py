"""Folders of static embeddings that other libraries write: model2vec, and sentence-transformers' StaticEmbedding.

Legend: tokens, size (of a vector).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerFast

_SUBFOLDER = "0_StaticEmbedding"


@dataclass
class StaticFolder:
    """What such a folder holds.

    Attributes:
        tokens: The tokens by their ids.
        matrix: Their vectors, (tokens, size).
        weights: What each token's vector is multiplied by in a sentence, (tokens,), where the folder has that.
        tokenizer: Turns text into tokens, without special ones around it.
        normalize: Whether sentence vectors have length 1.
    """

    tokens: list[str]
    matrix: torch.Tensor
    weights: torch.Tensor | None
    tokenizer: PreTrainedTokenizerFast
    normalize: bool


def read_static_folder(path: str | os.PathLike[str]) -> StaticFolder:
    """Read a folder of model2vec (`embeddings`) or of sentence-transformers (`embedding.weight`).

    Args:
        path: The folder.

    Returns:
        Its tokens and vectors.

    Raises:
        ValueError: if it is neither, or its parts do not fit each other.
    """
    root = Path(path)
    folder = root / _SUBFOLDER if (root / _SUBFOLDER).is_dir() else root
    for name in ("model.safetensors", "tokenizer.json"):
        if not (folder / name).is_file():
            raise ValueError(
                f"{str(folder)!r} has no {name}. A folder of static embeddings (model2vec, sentence-transformers) has "
                "model.safetensors and tokenizer.json; files of vectors are given by their own names."
            )
    try:
        tensors = load_file(folder / "model.safetensors")
        backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
        settings = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{str(folder)!r} cannot be read: {error}") from error
    except Exception as error:  # The tokenizers library raises nothing narrower.
        raise ValueError(f"{str(folder / 'tokenizer.json')!r} is no tokenizer: {error}") from error
    matrix = next((tensors[name] for name in ("embeddings", "embedding.weight") if name in tensors), None)
    if matrix is None or matrix.ndim != 2:
        raise ValueError(
            f"{str(folder / 'model.safetensors')!r} holds {', '.join(sorted(tensors)) or 'nothing'}, not a matrix "
            "'embeddings' (model2vec) or 'embedding.weight' (sentence-transformers)."
        )
    if "mapping" in tensors:
        mapping = tensors["mapping"].long()
        if mapping.numel() and not 0 <= int(mapping.min()) <= int(mapping.max()) < len(matrix):
            raise ValueError(f"{str(folder)!r}: its mapping points outside of its {len(matrix):,} vectors.")
        matrix = matrix[mapping]
    places = backend.get_vocab()
    if sorted(places.values()) != list(range(len(places))) or len(places) != len(matrix):
        raise ValueError(f"{str(folder)!r}: {len(places):,} tokens do not fit {len(matrix):,} vectors.")
    weights = tensors.get("weights")
    if weights is not None and weights.shape != (len(matrix),):
        raise ValueError(f"{str(folder)!r}: weights of shape {tuple(weights.shape)} do not fit {len(matrix):,} vectors.")
    unknown = _find_unknown(settings["model"])
    padding = (settings.get("padding") or {}).get("pad_token") or next((t for t in ("[PAD]", "<pad>") if t in places), None)
    backend.post_processor = processors.Sequence([])
    backend.no_truncation()
    backend.no_padding()
    special: dict[str, Any] = {"unk_token": unknown} if unknown in places else {}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=padding if padding in places else "[PAD]",
        model_input_names=["input_ids", "attention_mask"],
        **special,
    )
    tokens = [token for token, _ in sorted(places.items(), key=lambda pair: pair[1])]
    return StaticFolder(tokens, matrix, weights, tokenizer, _is_normalized(root))


def _find_unknown(model: dict[str, Any]) -> str | None:
    if model.get("unk_id") is not None:  # Unigram names a place in its list.
        return model["vocab"][model["unk_id"]][0]
    return model.get("unk_token")


def _is_normalized(root: Path) -> bool:
    def read(name: str) -> Any:
        file = root / name
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    modules = [str(module.get("type", "")) for module in read("modules.json") or []]
    return bool(read("config.json").get("normalize")) or any(kind.endswith(".Normalize") for kind in modules)


__all__ = ["StaticFolder", "read_static_folder"]

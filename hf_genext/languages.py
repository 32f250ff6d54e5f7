"""Tokenizers that know several languages: which these are, and texts read and written in one of them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

_CHANGING = threading.RLock()
"""Held while a tokenizer speaks other languages than its own: streams are read in threads beside each other."""


def list_languages(tokenizer: Any) -> list[str]:
    """The codes of a tokenizer's languages; none where it has none to choose from."""
    if not hasattr(tokenizer, "src_lang"):
        return []
    for name in ("lang_code_to_token", "lang_code_to_id"):
        if getattr(tokenizer, name, None):
            return sorted(getattr(tokenizer, name))
    return sorted(token for token in tokenizer.all_special_tokens if "_" in token)


def find_language(tokenizer: Any, code: str) -> int:
    """The token of a language's code.

    Raises:
        ValueError: for a code that the tokenizer lacks, or a tokenizer that has no languages.
    """
    codes = list_languages(tokenizer)
    if not codes:
        raise ValueError(
            f"A {type(tokenizer).__name__} knows no languages. T5's kind of models take prefix= (such as "
            '"translate English to German: "), multilingual Marian models a prefix such as ">>fra<< ".'
        )
    if code not in codes:
        raise ValueError(f"The tokenizer has no language {code!r}; it has {', '.join(codes[:12])}, ...")
    return tokenizer.convert_tokens_to_ids(tokenizer.get_lang_token(code) if hasattr(tokenizer, "get_lang_token") else code)


@contextlib.contextmanager
def speaking(tokenizer: Any, *, src_lang: str | None = None, tgt_lang: str | None = None) -> Iterator[None]:
    """Have a tokenizer read one language and write another, where they are given, and its own again afterwards.

    Raises:
        ValueError: as [`find_language`].
    """
    asked = {name: code for name, code in (("src_lang", src_lang), ("tgt_lang", tgt_lang)) if code is not None}
    for code in asked.values():
        find_language(tokenizer, code)
    if not hasattr(tokenizer, "src_lang"):
        yield
        return
    with _CHANGING:
        before = {name: getattr(tokenizer, name) for name in asked}
        try:
            for name, code in asked.items():
                setattr(tokenizer, name, code)
            yield
        finally:
            for name, code in before.items():
                setattr(tokenizer, name, code)


__all__ = ["find_language", "list_languages", "speaking"]

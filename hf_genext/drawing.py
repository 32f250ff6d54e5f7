"""Pictures of what a pipeline answers. They need matplotlib: `pip install "hf_genext[recipes]"`.

Legend: target (tokens that were written), source (tokens, or other slots, that were read).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

_MOST_NAMES = 120
"""So many names stand beside an axis; of more, only numbers do."""


def draw_alignment(
    alignment: Mapping[str, Any],
    path: str | os.PathLike[str] | None = None,
    *,
    title: str = "",
) -> Any:
    """Draw where a model looked for each token that it wrote: a row for each of these, darker where it looked more.

    Args:
        alignment: What a pipeline answers with `return_alignments=True`: the answer, or the `alignment` in it.
        path: Where the picture goes, a PNG, SVG or PDF by its ending; left out, it is only returned.
        title: Stands above.

    Returns:
        The picture, a `matplotlib.figure.Figure`, which notebooks show.

    Raises:
        ImportError: without matplotlib.
        ValueError: for an answer without an alignment.

    Example:
        >>> answer = pipe("violin", return_alignments=True)[0]  # doctest: +SKIP
        >>> draw_alignment(answer, "violin.png")  # doctest: +SKIP
    """
    alignment = alignment.get("alignment", alignment)
    missing = [name for name in ("target_tokens", "source_tokens", "weights") if name not in alignment]
    if missing:
        raise ValueError(f"There is no {missing[0]!r} in what was given; ask the pipeline with return_alignments=True.")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('Alignments are drawn with matplotlib: pip install "hf_genext[recipes]"') from error
    targets, sources = alignment["target_tokens"], alignment["source_tokens"]
    width, height = (min(12.0, max(2.0, 1.2 + 0.32 * len(names))) for names in (sources, targets))
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    # Without any token there is an empty picture, not an error: an output can be empty.
    weights = alignment["weights"] or [[0.0] * max(1, len(sources))]
    picture = axes.imshow(weights, cmap="Blues", vmin=0.0, aspect="auto", interpolation="nearest")
    are_numbers = all(name.isdigit() for name in sources)
    if len(sources) <= _MOST_NAMES and not (are_numbers and len(sources) > 20):
        axes.set_xticks(range(len(sources)), sources, rotation=0 if max(map(len, sources), default=0) < 5 else 90)
    if len(targets) <= _MOST_NAMES:
        axes.set_yticks(range(len(targets)), targets)
    axes.xaxis.tick_top()
    axes.set_title(title)
    for text in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        text.set_parse_math(False)  # A token may be a dollar.
    figure.colorbar(picture, ax=axes, shrink=0.8)
    if path is not None:
        figure.savefig(path, dpi=120)
    return figure


__all__ = ["draw_alignment"]

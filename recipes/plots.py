"""Pictures that a run leaves in its output folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np


def draw_validation_curve(log_history: list[dict[str, Any]], path: Path, metrics: list[str]) -> None:
    """Draw training loss, validation loss and the deciding metrics over the steps.

    Args:
        log_history: What the Trainer logged.
        path: The picture, a PNG.
        metrics: Names of metrics, without `eval_`.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    def curve(name: str) -> tuple[list[int], list[float]]:
        rows = [entry for entry in log_history if name in entry]
        return [entry["step"] for entry in rows], [entry[name] for entry in rows]

    figure, (losses, scores) = pyplot.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for name, label in (("loss", "training"), ("eval_loss", "validation")):
        losses.plot(*curve(name), label=label, marker="o" if name == "eval_loss" else None, markersize=3)
    # The loss of a density, as of numbers, can be negative.
    is_positive = all(value > 0 for name in ("loss", "eval_loss") for value in curve(name)[1])
    losses.set(xlabel="step", ylabel="loss (nats per target)", yscale="log" if is_positive else "linear")
    losses.legend()
    for name in metrics:
        scores.plot(*curve(f"eval_{name}"), label=name.replace("_", " "), marker="o", markersize=3)
    scores.set(xlabel="step", ylabel="validation metric")
    if metrics:
        scores.legend()
    for axes in (losses, scores):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def draw_clouds(clouds: Mapping[str, np.ndarray], path: Path, *, x_label: str, y_label: str) -> None:
    """Draw clouds of points beside each other, on the same axes.

    Args:
        clouds: Points (rows, 2) by what they are.
        path: The picture, a PNG.
        x_label: What the points' first number is.
        y_label: What their second is.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        1, len(clouds), figsize=(3 * len(clouds), 3), layout="constrained", sharex=True, sharey=True, squeeze=False
    )
    for axes, (label, points) in zip(panels[0], clouds.items(), strict=True):
        axes.scatter(points[:, 0], points[:, 1], s=2, alpha=0.3, linewidths=0)
        axes.set(title=label, xlabel=x_label)
        axes.title.set_fontsize("medium")
        axes.grid(alpha=0.3)
    panels[0][0].set_ylabel(y_label)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def draw_curve(
    places: Sequence[float],
    curves: Mapping[str, Sequence[Sequence[float]]],
    path: Path,
    *,
    x_label: str,
    y_label: str,
) -> None:
    """Draw means over runs at places that double, with a bar from the lowest to the highest run.

    Args:
        places: Where the points stand, on a logarithmic axis.
        curves: For each label the runs at each place.
        path: The picture, a PNG.
        x_label: Under the axis.
        y_label: Beside it.

    Raises:
        ValueError: if a curve has no runs for a place.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for label, runs in curves.items():
        if len(runs) != len(places) or not all(runs):
            raise ValueError(f"The curve {label!r} needs runs for each of the {len(places)} places.")
        means = np.array([np.mean(values) for values in runs])
        bars = np.abs(np.array([[min(values), max(values)] for values in runs]).T - means)
        axes.errorbar(places, means, bars, label=label, marker="o", markersize=4, capsize=3)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(places), [f"{place:g}" for place in places])
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


MAP_WORDS = {
    "places": "france paris england london germany berlin italy rome japan tokyo",
    "animals": "dog cat horse cow sheep lion wolf eagle salmon whale",
    "food": "bread butter cheese wine beer sugar rice meat",
    "music": "violin piano guitar flute orchestra symphony song melody",
    "the body": "hand foot eye ear mouth heart blood bone",
    "numbers": "two three four five six ten hundred thousand",
    "computing": "computer software file kernel network processor",
    "feelings": "love hate fear anger joy sorrow hope pride",
    "professions": "doctor lawyer teacher soldier farmer priest judge",
}
"""Words by topic, frequent in any English text, from which a map takes those that the space knows."""


def draw_space_map(
    space: Any,
    path: Path,
    *,
    words: dict[str, str] | None = None,
    method: Literal["pca", "umap"] = "pca",
    title: str = "",
) -> None:
    """Draw words of a space in the plane, those of a topic in one colour, labels beside their points.

    Args:
        space: A `StaticEmbeddingModel`.
        path: The picture, a PNG.
        words: Words by topic, parted by white space; left out, [`MAP_WORDS`], and where the space knows fewer than ten of them,
            its first sixty words.
        method: `"pca"`: the two main directions of the drawn words, their vectors at length 1; `"umap"` (McInnes et al. 2018)
            keeps neighbours together and says nothing about distances.
        title: Stands above.

    Raises:
        ImportError: for `"umap"` without the package umap-learn.
        ValueError: if the space knows fewer than three of the words.
    """
    topics = {topic: [word for word in text.split() if word in space] for topic, text in (words or MAP_WORDS).items()}
    if words is None and sum(map(len, topics.values())) < 10:
        topics = {"words": list(space.words[:60])}
    chosen = [word for members in topics.values() for word in members]
    if len(chosen) < 3:
        raise ValueError(f"A map needs three words at least; the space knows {len(chosen)} of the words that were asked for.")
    vectors = space[chosen].astype(np.float64)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    points = project_to_plane(vectors, method)

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 9), layout="constrained")
    palette = pyplot.get_cmap("tab10")
    topic_of = [index for index, members in enumerate(topics.values()) for _ in members]
    for index, topic in enumerate(topics):
        mine = points[np.array(topic_of) == index]
        axes.scatter(mine[:, 0], mine[:, 1], s=14, color=palette(index % 10), label=topic)
    axes.set(xticks=[], yticks=[], title=title)
    axes.margins(x=0.1, y=0.05)
    if len(topics) > 1:
        figure.legend(loc="outside lower center", ncols=5, frameon=False, handletextpad=0.1)
    figure.canvas.draw()  # Fixes where the points stand.
    colours = [palette(topic % 10) for topic in topic_of]
    labels = [axes.text(0, 0, word, fontsize=9, color=colour) for word, colour in zip(chosen, colours, strict=True)]
    sizes = [label.get_window_extent().size for label in labels]
    for label, box in zip(labels, place_labels(axes.transData.transform(points), sizes), strict=True):
        label.set_in_layout(False)
        label.set_position(axes.transData.inverted().transform(box[:2]))
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def project_to_plane(vectors: np.ndarray, method: str) -> np.ndarray:
    """Vectors, (words, size), as points of the plane, (words, 2); `method` as [`draw_space_map`] takes it."""
    if method == "pca":
        centred = vectors - vectors.mean(axis=0)
        return centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
    if method != "umap":
        raise ValueError(f'method must be "pca" or "umap", got {method!r}.')
    try:
        import umap
    except ImportError as error:
        raise ImportError('Maps by UMAP need umap-learn: pip install "hf_genext[maps]"') from error
    neighbours = min(15, len(vectors) - 1)
    return umap.UMAP(n_neighbors=neighbours, metric="cosine", random_state=0, n_jobs=1).fit_transform(vectors)


_DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))


def place_labels(points: Any, sizes: Any) -> list[tuple[float, float, float, float]]:
    """Where labels stand beside their points, each where it covers least of the points and of the labels before it.

    Args:
        points: In pixels, (points, 2).
        sizes: Width and height of each label, (points, 2).

    Returns:
        Left, bottom, right and top of each label.
    """
    points_taken = [(x - 3, y - 3, x + 3, y + 3) for x, y in points]
    boxes: list[tuple[float, float, float, float]] = []
    for (x, y), (width, height) in zip(points, sizes, strict=True):
        candidates = []
        for distance in (5, 11, 18, 27):
            for right, up in _DIRECTIONS:
                left = x + right * distance - width * (1 - right) / 2
                bottom = y + up * distance - height * (1 - up) / 2
                box = (left, bottom, left + width, bottom + height)
                candidates.append((sum(_overlap(box, other) for other in [*points_taken, *boxes]), distance, box))
        boxes.append(min(candidates, key=lambda candidate: candidate[:2])[2])
    return boxes


def _overlap(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(width, 0.0) * max(height, 0.0)


def draw_image_grid(images: np.ndarray, path: Path, *, columns: int) -> None:
    """Draw images beside and below each other, the least number black and the greatest white.

    Args:
        images: (rows, height, width), or (rows, height, width, channels).
        path: The picture, a PNG.
        columns: Images beside each other.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = -(-len(images) // columns)
    figure, axes = pyplot.subplots(lines, columns, figsize=(0.6 * columns, 0.6 * lines), squeeze=False)
    for axis, image in zip(axes.flat, images, strict=False):
        axis.imshow(image, cmap="gray", vmin=0, vmax=images.max())
    for axis in axes.flat:
        axis.axis("off")
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.99, 0.06, 0.06)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


__all__ = [
    "MAP_WORDS",
    "draw_clouds",
    "draw_curve",
    "draw_image_grid",
    "draw_space_map",
    "draw_validation_curve",
    "place_labels",
    "project_to_plane",
]

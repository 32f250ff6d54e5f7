"""Pictures that a run leaves in its output folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any


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
    losses.set(xlabel="step", ylabel="loss (nats per target token)", yscale="log")
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


__all__ = ["draw_validation_curve"]

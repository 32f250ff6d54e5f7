"""What all `evaluate.Metric` classes of the package share: they need no network, and no files of the user's cache."""

from __future__ import annotations

from typing import Any, ClassVar

import evaluate


class OfflineMetric(evaluate.Metric):
    """A metric that lives in memory, for metric files of several processes would collide in the user's cache.

    Subclasses set `description` and `citation`.
    """

    description: ClassVar[str] = ""
    citation: ClassVar[str] = ""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"keep_in_memory": True, **kwargs})

    def compute(self, *, predictions: Any | None = None, **kwargs: Any) -> dict[str, float] | None:
        """As `evaluate.Metric.compute`, which takes a single text for a list of letters.

        Raises:
            TypeError: for such a text.
        """
        if isinstance(predictions, (str, bytes)):
            raise TypeError(f"predictions must be a list, got {predictions!r:.60}. Put a single one into a list.")
        return super().compute(predictions=predictions, **kwargs)


__all__ = ["OfflineMetric"]

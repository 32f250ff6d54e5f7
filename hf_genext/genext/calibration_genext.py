"""Temperatures that make predicted probabilities those that are observed.

Legend: rows, outputs (classes, labels or numbers).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

LOWEST, HIGHEST = 0.01, 100.0
"""Between these a temperature is looked for.

Where every row is right, none is too low. Then the targets are smoothed by Laplace's rule, one more row that is right and one
that is wrong, as Platt (1999, "Probabilistic outputs for support vector machines", section 2.2) has it.
"""

_AT_LIMIT = 1.001 * LOWEST


def fit_class_temperature(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The temperature of one of several classes under which the targets are likeliest (Guo et al. 2017, section 4.2).

    Args:
        logits: (rows, outputs).
        targets: (rows,).

    Returns:
        A scalar; logits are to be divided by it.
    """
    logits = logits.double()
    right, count = logits.gather(1, targets[:, None])[:, 0], len(logits)
    wrong = (logits.sum(dim=1) - right) / max(logits.shape[1] - 1, 1)

    def fit(share: float) -> torch.Tensor:
        mean_of_targets = torch.lerp(right, wrong, share).mean()
        return _find_root(
            lambda inverse: ((logits * inverse).softmax(dim=1) * logits).sum(dim=1).mean() - mean_of_targets,
            logits.new_ones(()),
        )

    found = fit(0.0)
    found = torch.where(found > _AT_LIMIT, found, fit(1.0 / (count + 2)))
    # Logits that are all alike say the same at any temperature.
    return torch.where((logits.amax(dim=1) > logits.amin(dim=1)).any(), found, 1.0)


def fit_label_temperatures(logits: torch.Tensor, targets: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    """The temperature of each of several labels under which the targets are likeliest; 1 where there are none.

    Args:
        logits: (rows, outputs).
        targets: 0 or 1, (rows, outputs).
        given: Where there is a target, (rows, outputs).

    Returns:
        (outputs,); logits are to be divided by them.
    """
    logits = logits.double()
    there = (targets > 0) & given
    num_there, counts = there.sum(dim=0), given.sum(dim=0)
    smoothed = torch.where(there, (num_there + 1.0) / (num_there + 2.0), 1.0 / (counts - num_there + 2.0))

    def fit(targets: torch.Tensor) -> torch.Tensor:
        return _find_root(
            lambda inverse: (((logits * inverse).sigmoid() - targets) * logits).masked_fill(~given, 0).sum(dim=0),
            logits.new_ones(logits.shape[1]),
        )

    found = fit(targets)
    return torch.where(counts > 0, torch.where(found > _AT_LIMIT, found, fit(smoothed)), 1.0)


def fit_scale_temperatures(
    means: torch.Tensor, scales: torch.Tensor, targets: torch.Tensor, given: torch.Tensor
) -> torch.Tensor:
    """What standard deviations are to be multiplied by to make the targets likeliest (Levi et al. 2022).

    Args:
        means: (rows, outputs).
        scales: Standard deviations, (rows, outputs).
        targets: (rows, outputs).
        given: Where there is a target, (rows, outputs).

    Returns:
        (outputs,), 1 where there are no targets.
    """
    squares = (((targets.double() - means) / scales) ** 2).masked_fill(~given, 0)
    counts = given.sum(dim=0)
    factors = (squares.sum(dim=0) / counts.clamp(min=1)).sqrt().clamp(LOWEST, HIGHEST)
    return torch.where(counts > 0, factors, 1.0)


def find_threshold(logits: torch.Tensor, targets: torch.Tensor, given: torch.Tensor) -> float | None:
    """The probability from which on labels are to be predicted for the highest F1 over all labels of all rows together.

    Every cut between two probabilities is tried (Lipton et al. 2014, "Optimal thresholding of classifiers to maximize F1").

    Args:
        logits: (rows, outputs).
        targets: 0 or 1, (rows, outputs).
        given: Where something is known, (rows, outputs).

    Returns:
        The middle between the least probability that is predicted and the next one; `None` if no label is there.
    """
    probabilities, order = logits[given].double().sigmoid().sort(descending=True)
    found = targets[given][order].double().cumsum(dim=0)
    if not len(found) or not found[-1]:
        return None
    predicted = torch.arange(1, len(found) + 1, dtype=torch.float64, device=found.device)
    following = torch.cat([probabilities[1:], probabilities.new_zeros(1)])
    scores = torch.where(probabilities > following, 2.0 * found / (predicted + found[-1]), -1.0)
    best = int(scores.argmax())
    return float((probabilities[best] + following[best]) / 2.0)


def _find_root(slope: Callable[[torch.Tensor], torch.Tensor], like: torch.Tensor) -> torch.Tensor:
    """Halve, by logarithms, the interval in which a slope that only rises with the inverse temperature is zero."""
    low, high = like / HIGHEST, like / LOWEST
    for _ in range(60):
        middle = (low * high).sqrt()
        too_high = slope(middle) > 0
        low, high = torch.where(too_high, low, middle), torch.where(too_high, middle, high)
    return 1.0 / (low * high).sqrt()


__all__ = ["HIGHEST", "LOWEST", "find_threshold", "fit_class_temperature", "fit_label_temperatures", "fit_scale_temperatures"]

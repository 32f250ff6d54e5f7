"""Random numbers for the rows of a batch, from which single outputs are sampled.

Legend: rows, size (numbers of a row).
"""

from __future__ import annotations

import torch


class Noise:
    """Independent random numbers for each row, one after the other from a generator.

    What makes a row's numbers depend on that row alone overrides `uniform`: see [`KeyedNoise`].

    Args:
        num_rows: Rows.
        device: Where the numbers are needed.
        generator: Where the randomness comes from; torch's own if left out.
    """

    def __init__(self, num_rows: int, device: torch.device | str, generator: torch.Generator | None = None) -> None:
        self.num_rows, self.device, self._generator = num_rows, torch.device(device), generator

    def uniform(self, size: int) -> torch.Tensor:
        """Numbers between 0 and 1, neither of them included, in float64 where the device has it: (rows, size)."""
        place = self.device if self._generator is None else self._generator.device
        dtype = torch.float32 if place.type == "mps" else torch.float64
        drawn = torch.rand(self.num_rows, size, generator=self._generator, device=place, dtype=dtype)
        return drawn.clamp(min=torch.finfo(dtype).eps / 2).to(self.device)

    def normal(self, size: int) -> torch.Tensor:
        """Standard normal numbers, (rows, size)."""
        return torch.special.ndtri(self.uniform(size))

    def gumbel(self, size: int) -> torch.Tensor:
        """Numbers of the standard Gumbel distribution, (rows, size): scores plus these are largest where softmax draws."""
        return -torch.log(-torch.log(self.uniform(size)))


def choose_outcomes(logits: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """The outcomes among whose probabilities uniform numbers fall: the inverse of a distribution function.

    Args:
        logits: (..., outcomes).
        places: Between 0 and 1, (...); computed in their kind of number.

    Returns:
        (...).

    Example:
        >>> choose_outcomes(torch.tensor([0.2, 0.5, 0.3]).log().expand(3, -1), torch.tensor([0.1, 0.69, 0.71])).tolist()
        [0, 1, 2]
    """
    ends = logits.to(places.dtype).softmax(dim=-1).cumsum(dim=-1)
    chosen = torch.searchsorted(ends, (places * ends[..., -1])[..., None])[..., 0]
    return chosen.clamp(max=logits.shape[-1] - 1)


def find_places(noise: torch.Tensor) -> torch.Tensor:
    """Uniform numbers of standard normal ones, in float64 where the device has it."""
    return torch.special.ndtr(noise if noise.device.type == "mps" else noise.double())


__all__ = ["Noise", "choose_outcomes", "find_places"]

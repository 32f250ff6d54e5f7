"""What the pixels before a pixel say of it: all of them, or those near it.

Legend: batch, pixels (of all channels), each (parameters of a pixel), size (units of a network), window (pixels near one).
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import nn
from transformers import initialization as init


class PixelContext(nn.Module, ABC):
    """What the pixels before a pixel add to its parameters."""

    @abstractmethod
    def start_anew(self) -> None:
        """Set the initial weights: no pixel reads another."""

    @abstractmethod
    def forward(self, values: torch.Tensor, hints: torch.Tensor) -> torch.Tensor:
        """What is added to the parameters.

        Args:
            values: Of the pixels, in [-1, 1], (batch, pixels).
            hints: What the units are told besides, (batch, size).

        Returns:
            (batch, pixels, each).
        """

    @abstractmethod
    def step(self, place: int, values: torch.Tensor, units: torch.Tensor) -> torch.Tensor:
        """The same for one pixel, (batch, 1, each).

        Args:
            place: Which.
            values: Of the pixels, of which those before it are known, (batch, pixels).
            units: The hints, and what `tell` made of them, (batch, size).
        """

    def tell(self, place: int, level: torch.Tensor, units: torch.Tensor) -> torch.Tensor:
        """The units, (batch, size), with the value of one more pixel, (batch,)."""
        return units


class WholeContext(PixelContext):
    """All pixels before a pixel: one masked hidden layer, and straight lines past it.

    The masks of Germain et al. 2015, "MADE": a unit reads the first so many pixels, and only later pixels read the unit.

    Args:
        num_pixels: Pixels, in the order in which they are drawn.
        each: Parameters of a pixel.
        size: Units.
    """

    def __init__(self, num_pixels: int, each: int, size: int) -> None:
        super().__init__()
        self.num_pixels, self.size = num_pixels, size
        self.read = nn.Parameter(torch.empty(size, num_pixels))
        self.write = nn.Parameter(torch.empty(num_pixels, each, size))
        self.lines = nn.Parameter(torch.empty(num_pixels, each, num_pixels))

    def start_anew(self) -> None:
        """Set the initial weights: no pixel reads another."""
        init.normal_(self.read, std=self.num_pixels**-0.5)
        init.zeros_(self.write)
        init.zeros_(self.lines)

    def forward(self, values: torch.Tensor, hints: torch.Tensor) -> torch.Tensor:
        """As [`PixelContext.forward`]."""
        places = torch.arange(self.num_pixels, device=values.device)
        seen = self._count_seen()
        read, write, lines = (weight.to(values.dtype) for weight in (self.read, self.write, self.lines))
        units = nn.functional.silu(values @ (read * (places < seen[:, None])).T + hints)
        write = write * (seen <= places[:, None])[:, None, :]
        lines = lines * (places < places[:, None])[:, None, :]
        return torch.einsum("bs,pes->bpe", units, write) + torch.einsum("bq,peq->bpe", values, lines)

    def step(self, place: int, values: torch.Tensor, units: torch.Tensor) -> torch.Tensor:
        """As [`PixelContext.step`]."""
        mask = self._count_seen() <= place
        write, lines = self.write[place].to(values.dtype), self.lines[place, :, :place].to(values.dtype)
        return (nn.functional.silu(units) @ (write * mask).T + values[:, :place] @ lines.T)[:, None]

    def tell(self, place: int, level: torch.Tensor, units: torch.Tensor) -> torch.Tensor:
        """The units before their bend, with the value of one more pixel."""
        return units + level[:, None] * self.read[:, place].to(units.dtype) * (place < self._count_seen())

    def _count_seen(self) -> torch.Tensor:
        """How many pixels each unit reads, 1 to all but the last: (size,)."""
        units = torch.arange(self.size, device=self.read.device)
        return 1 + units * max(self.num_pixels - 1, 1) // self.size


class NearContext(PixelContext):
    """The pixels before a pixel that are near it: one network for all pixels, each with a bias of its own.

    What is farther apart can agree by the latent numbers alone, so that these have to tell it (Chen et al. 2017, "Variational
    lossy autoencoder", section 3.2). The order and the network are those of a PixelCNN (van den Oord et al. 2016).

    Args:
        shape: Height, width, and where there are several, channels.
        each: Parameters of a pixel.
        size: Units.
        reach: Rows above, and columns to the left and right, that a pixel reads.
    """

    near: torch.Tensor

    def __init__(self, shape: list[int], each: int, size: int, reach: int) -> None:
        super().__init__()
        height, width, *rest = shape
        self.shape, self.reach = (height, width, rest[0] if rest else 1), reach
        self.register_buffer("near", self._list_near(), persistent=False)
        num_pixels, window = self.near.shape
        self.read = nn.Parameter(torch.empty(size, window))
        self.places = nn.Parameter(torch.empty(num_pixels, size))
        self.write = nn.Parameter(torch.empty(each, size))
        self.lines = nn.Parameter(torch.empty(each, window))

    def start_anew(self) -> None:
        """Set the initial weights: no pixel reads another."""
        init.copy_(self.near, self._list_near())
        init.normal_(self.read, std=self.read.shape[1] ** -0.5)
        init.zeros_(self.places)
        init.zeros_(self.write)
        init.zeros_(self.lines)

    def forward(self, values: torch.Tensor, hints: torch.Tensor) -> torch.Tensor:
        """As [`PixelContext.forward`]."""
        return self._add(values, hints[:, None], slice(None))

    def step(self, place: int, values: torch.Tensor, units: torch.Tensor) -> torch.Tensor:
        """As [`PixelContext.step`]."""
        return self._add(values, units[:, None], slice(place, place + 1))

    def _add(self, values: torch.Tensor, hints: torch.Tensor, some: slice) -> torch.Tensor:
        read, places, write, lines = (
            weight.to(values.dtype) for weight in (self.read, self.places[some], self.write, self.lines)
        )
        # What lies outside of the image, or is not yet drawn, is 0.
        near = nn.functional.pad(values, (0, 1))[:, self.near[some]]
        return nn.functional.silu(near @ read.T + places + hints) @ write.T + near @ lines.T

    def _list_near(self) -> torch.Tensor:
        """Which pixels each pixel reads, and the number of pixels for those that are not there: (pixels, window)."""
        reach, (height, width, channels) = self.reach, self.shape
        # Rows, columns and channels from a pixel to others; those before it in the order of the pixels are less than nothing.
        steps = itertools.product(range(-reach, 1), range(-reach, reach + 1), range(1 - channels, channels))
        offsets = np.array([step for step in steps if step < (0, 0, 0)])
        pixels = np.indices(self.shape).reshape(3, -1).T
        found = pixels[:, None] + offsets
        inside = ((found >= 0) & (found < self.shape)).all(axis=-1)
        flat = found @ np.array([width * channels, channels, 1])
        return torch.from_numpy(np.where(inside, flat, height * width * channels))


__all__ = ["NearContext", "PixelContext", "WholeContext"]

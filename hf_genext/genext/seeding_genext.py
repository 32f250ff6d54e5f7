"""Sampling that can be repeated: a row's noise depends on its seed alone, not on the rows beside it.

Legend: rows (of a batch, several samples of one condition beside each other), vocab.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from numbers import Integral

import torch
from transformers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)
from transformers.generation import TopHLogitsWarper

from .noise_genext import Noise

_INCREMENT = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)
_NORMAL = 0x3C6EF372FE94F82B
"""Tells the keys of normal noise from those of other noise."""


def require_seeds(seeds: Sequence[tuple[int, int]] | None, num_rows: int) -> None:
    """Raise unless there is a seed and place for each row, or none at all.

    Raises:
        ValueError: for another number of them.
    """
    if seeds is not None and len(seeds) != num_rows:
        raise ValueError(f"There are {num_rows:,} rows, but {len(seeds):,} seeds; give one for each, or one for all.")


class KeyedSampling(LogitsProcessor):
    """Chooses the next token of each row by noise that a key decides, and leaves that token alone in the scores.

    Adding Gumbel noise to the scores and taking the largest draws from their softmax (Gumbel 1954; Maddison et al. 2014, "A*
    sampling"). The noise is a function of the row's key, the step and the token: the mixing function of SplitMix64 (Steele et
    al. 2014) makes it on any device. So a row draws the same alone and in any batch, but where rounding differs.

    Args:
        keys: A number for each row, (rows,), from [`make_keys`].
        config: What shapes the distribution before it is drawn from: temperature, `top_k`, `top_p`, ...

    Attributes:
        chooses_tokens: That what it leaves is one token of each row, so that nothing more has to be drawn.
    """

    chooses_tokens = True

    def __init__(self, keys: torch.LongTensor, config: GenerationConfig) -> None:
        self._keys = keys
        self._warpers = build_warpers(config)
        self._step = 0

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Scores (rows, vocab) -> 0 for the token that is drawn, minus infinity for all others.

        Raises:
            ValueError: if rows went away without notice.
        """
        if len(scores) != len(self._keys):
            raise ValueError(
                f"A seed goes with rows that stay together; {len(scores)} of {len(self._keys)} are left. Give recordings of "
                "one window at most, one by one if they are longer."
            )
        scores = self._warpers(input_ids, scores).float()
        keys = _mix(self._keys.to(scores.device) + torch.tensor(self._step, device=scores.device) * _INCREMENT)
        self._step += 1
        winners = (scores + draw_gumbel(keys, scores.shape[-1])).argmax(dim=-1, keepdim=True)
        return torch.full_like(scores, -torch.inf).scatter_(-1, winners, 0.0)

    def double(self) -> KeyedSampling:
        """The same for a batch whose rows have twins below them that draw what they draw."""
        doubled = copy.copy(self)
        doubled._keys = torch.cat([self._keys, self._keys])
        return doubled

    def select_rows(self, rows: torch.LongTensor) -> None:
        """Go on with some of the rows alone, as a loop does that drops those that are finished."""
        self._keys = self._keys.to(rows.device)[rows]


class KeyedNoise(Noise):
    """Random numbers of rows that are a function of each row's key alone, for samples of single outputs.

    So a row draws the same alone and in any batch, but where rounding differs.

    Args:
        keys: A number for each row, (rows,), from [`make_keys`].

    Example:
        >>> keys = make_keys([(7, 0), (7, 1)], 1)
        >>> bool((KeyedNoise(keys).normal(3)[1] == KeyedNoise(keys[1:]).normal(3)[0]).all())
        True
    """

    def __init__(self, keys: torch.LongTensor) -> None:
        super().__init__(len(keys), keys.device)
        self._keys, self._step = keys, 0

    def uniform(self, size: int) -> torch.Tensor:
        """Other numbers at each call, neither 0 nor 1: (rows, size)."""
        keys = _mix(self._keys + torch.tensor(self._step, device=self.device) * _INCREMENT)
        self._step += 1
        return draw_uniform(keys, size)


def build_warpers(config: GenerationConfig) -> LogitsProcessorList:
    """What `generate` does to scores before it samples, in its order."""
    makers = (
        (TemperatureLogitsWarper, config.temperature, config.temperature not in (None, 1.0)),
        (TopHLogitsWarper, getattr(config, "top_h", None), getattr(config, "top_h", None) is not None),
        (TopKLogitsWarper, config.top_k, config.top_k not in (None, 0)),
        (TopPLogitsWarper, config.top_p, config.top_p is not None and config.top_p < 1.0),
        (MinPLogitsWarper, config.min_p, config.min_p is not None),
        (TypicalLogitsWarper, config.typical_p, config.typical_p is not None and config.typical_p < 1.0),
        (EpsilonLogitsWarper, config.epsilon_cutoff, bool(config.epsilon_cutoff)),
        (EtaLogitsWarper, config.eta_cutoff, bool(config.eta_cutoff)),
    )
    return LogitsProcessorList([warper(value) for warper, value, is_on in makers if is_on])


def make_keys(seeds: Sequence[tuple[int, int]], num_samples: int) -> torch.LongTensor:
    """Keys of rows.

    Args:
        seeds: For each condition a seed, and the place by which conditions with one seed differ.
        num_samples: Samples of each condition.

    Returns:
        (conditions * num_samples,), the samples of one condition beside each other.

    Example:
        >>> keys = make_keys([(7, 0), (7, 1)], 2)
        >>> bool((keys[:2] == make_keys([(7, 0)], 2)).all()), len(set(keys.tolist()))
        (True, 4)
    """
    keys = _mix(_mix(torch.tensor(seeds)[:, 0] + _INCREMENT) + torch.tensor(seeds)[:, 1])
    return _mix(keys[:, None] + (1 + torch.arange(num_samples)) * _INCREMENT).flatten()


def draw_gumbel(keys: torch.LongTensor, size: int) -> torch.Tensor:
    """Noise of the standard Gumbel distribution, a function of the keys alone: (rows,) -> (rows, size)."""
    return -torch.log(-torch.log(draw_uniform(keys, size)))


def draw_normal(keys: torch.LongTensor, size: int) -> torch.Tensor:
    """Noise of the standard normal distribution, a function of the keys alone: (rows,) -> (rows, size), in float32.

    It does not depend on the numbers that [`draw_gumbel`] and [`draw_uniform`] make of the same keys.
    """
    return torch.special.ndtri(draw_uniform(_mix(keys ^ _NORMAL), size)).float()


def draw_uniform(keys: torch.LongTensor, size: int) -> torch.Tensor:
    """Numbers between 0 and 1, neither of them included, a function of the keys alone: (rows,) -> (rows, size)."""
    bits = _mix(keys[:, None] + (1 + torch.arange(size, device=keys.device)) * _INCREMENT)
    # MPS has no float64; there 23 bits have to do.
    dtype, places = (torch.float32, 23) if keys.device.type == "mps" else (torch.float64, 52)
    return (_shift(bits, 64 - places).to(dtype) + 0.5) * 2.0**-places


def _mix(values: torch.LongTensor) -> torch.LongTensor:
    """SplitMix64's finalizer, a permutation of 64-bit numbers."""
    values = (values ^ _shift(values, 30)) * _FIRST
    values = (values ^ _shift(values, 27)) * _SECOND
    return values ^ _shift(values, 31)


def _shift(values: torch.LongTensor, places: int) -> torch.LongTensor:
    """Shift to the right, with zeros from the left."""
    return (values >> places) & ((1 << (64 - places)) - 1)


def check_seed(seed: object) -> int:
    """A seed as a number of Python's.

    Raises:
        ValueError: unless it is a whole number of 0 to 2**63 - 1.
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= int(seed) < 2**63:
        raise ValueError(f"A seed is a whole number of 0 to 2**63 - 1, got {seed!r:.60}.")
    return int(seed)


__all__ = [
    "KeyedNoise",
    "KeyedSampling",
    "build_warpers",
    "check_seed",
    "draw_gumbel",
    "draw_normal",
    "draw_uniform",
    "make_keys",
    "require_seeds",
]

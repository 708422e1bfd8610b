"""Random numbers that are the same on every machine: uniform and normal draws from the raw bits of a named stream.

numpy promises the bits of PCG64, not what its distributions make of them. Normal draws use the logarithm of the
platform's library, whose last bits differ: all draws are rounded to 1e-9 before anything is decided by them. It refuses
to know what is drawn.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

_UNIT = NormalDist()
_SCALE = 2.0**-53


class Chance:
    """One stream of draws. `seed` and `stream` not negative; the latter keeps the draws of different rooms apart."""

    def __init__(self, seed: int, *stream: int) -> None:
        if seed < 0:
            raise ValueError(f"seed = {seed}: a seed is a whole number from 0 on")
        self._bits = np.random.PCG64(np.random.SeedSequence((seed, *stream)))

    def share(self) -> float:
        """Uniform in (0, 1), never one of its ends."""
        raw = int(self._bits.random_raw()) >> 11
        return min(max(round(raw * _SCALE, 9), 1e-9), 1 - 1e-9)

    def shares(self, count: int) -> list[float]:
        return [self.share() for _ in range(count)]

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.share()

    def normal(self) -> float:
        """Standard normal, cut at 3.5 standard deviations."""
        return min(max(round(_UNIT.inv_cdf(self.share()), 9), -3.5), 3.5)

    def normals(self, count: int) -> list[float]:
        return [self.normal() for _ in range(count)]

    def happens(self, probability: float) -> bool:
        return self.share() < probability

    def index(self, weights: tuple[float, ...]) -> int:
        """An index drawn in proportion to `weights`."""
        left = self.share() * sum(weights)
        for i, weight in enumerate(weights):
            left -= weight
            if left < 0:
                return i
        return len(weights) - 1

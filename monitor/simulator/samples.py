"""Stacks with their truth, one after the other, for training: nothing touches the disk.

A sample depends on its seed, hour and size alone: to go on after a stop, begin with the seed and hour that were next.
It refuses to know models and batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from monitor.simulator.draw import VirtualEmbryo
from monitor.simulator.life import Life
from monitor.simulator.optics import PLANES_UM
from monitor.simulator.truth import FrameTruth, frame_truth

Hours: TypeAlias = Sequence[float] | Callable[[Life], Sequence[float]]


@dataclass(frozen=True)
class Sample:
    """`stack` (P, H, W) uint8, the planes asked for, and what is true of it."""

    stack: npt.NDArray[np.uint8]
    truth: FrameTruth


def stream(
    seeds: Iterable[int],
    hours: Hours,
    size_px: int = 224,
    planes_um: tuple[int, ...] = PLANES_UM,
    arrest_share: float = 0.36,
) -> Iterator[Sample]:
    """Samples embryo by embryo, hour by hour. `hours`: hours post insemination, or what gives them for a life."""
    for seed in seeds:
        embryo = VirtualEmbryo(seed, arrest_share)
        for hpi_h in hours(embryo.life) if callable(hours) else hours:
            yield Sample(embryo.stack(hpi_h, size_px, planes_um), frame_truth(embryo, hpi_h, size_px))

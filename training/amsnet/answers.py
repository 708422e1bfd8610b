"""Answers for whole embryos and the moments they were given at: what an evaluation is computed from.

It knows hours and probabilities; it refuses to know who gave them, and pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.amsnet.metrics import Bools, Floats
from training.datasets.clock import SEGMENT_H

HALF_SECOND_H = 0.5 / 3600  # as in `engines.segments`: names carry whole seconds


@dataclass(frozen=True)
class Judged:
    """One embryo's answers: `hours_h` and `probability` (T,), and what became of it."""

    name: str
    hours_h: Floats
    probability: Floats
    reaches: bool

    def at(self, hpi_h: float) -> int | None:
        """Index of the last answer by that hour; None where there is none yet, or where it was no longer imaged.

        An embryo is still imaged at an hour when it was seen in the segment before.
        """
        index = int(np.searchsorted(self.hours_h, hpi_h + HALF_SECOND_H, side="right")) - 1
        return None if index < 0 or self.hours_h[-1] < hpi_h - SEGMENT_H else index


def representatives(hours_h: npt.NDArray[np.float64]) -> list[int]:
    """Indices of the first frame of each segment, counted from the first frame: what the stream commits."""
    segment = np.floor((hours_h - hours_h[0] + HALF_SECOND_H) / SEGMENT_H).astype(int)
    return [0, *(1 + np.nonzero(np.diff(segment))[0]).tolist()]


def answers_at(judged: Sequence[Judged], hpi_h: float) -> tuple[Floats, Bools, list[int]]:
    """Scores, truth and which embryos they are of: those that are still imaged at that hour."""
    rows = [(i, one.at(hpi_h)) for i, one in enumerate(judged)]
    held = [(i, t) for i, t in rows if t is not None]
    scores = np.array([judged[i].probability[t] for i, t in held], dtype=np.float64)
    return scores, np.array([judged[i].reaches for i, _ in held], dtype=bool), [i for i, _ in held]

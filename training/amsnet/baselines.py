"""What an answer must be held against: one who knows the truth so far, and one who knows the hour and counts cells.

Both are fitted on virtual lives that nobody draws (seeds from `TEACHER_SEEDS_FROM`) and asked about others. The first,
`targets.Teacher`, is the ceiling: its numbers cannot be read off a picture more exactly than they are. The second is
here. It refuses to know pictures and networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from monitor.simulator.life import CELLS_AT_MOST, Life
from training.amsnet.metrics import Floats
from training.amsnet.targets import TEACHER_SEEDS_FROM

_APART_H, _LAST_H = 2.0, 168.0
_PRIOR_EMBRYOS = 2.0  # how much the overall share weighs against the embryos seen with a count


@dataclass(frozen=True)
class CellCounter:
    """P(blastocyst | hour, true cell count), a logistic regression with a level for every count: a table of shares.

    `shares` (knots, CELLS_AT_MOST + 1): one row every two hours. The count is the true one, no picture is looked at.
    """

    shares: Floats

    @classmethod
    def fit(cls, lives: Sequence[Life]) -> CellCounter:
        """From lives whose end is known."""
        reaches = np.array([life.reaches_blastocyst for life in lives], dtype=np.float64)
        shares = []
        for hpi_h in np.arange(0.0, _LAST_H + _APART_H, _APART_H):
            counts = np.array([life.cell_count_at(float(hpi_h)) for life in lives])
            seen = np.bincount(counts, minlength=CELLS_AT_MOST + 1)
            became = np.bincount(counts, weights=reaches, minlength=CELLS_AT_MOST + 1)
            shares.append((became + _PRIOR_EMBRYOS * reaches.mean()) / (seen + _PRIOR_EMBRYOS))
        return cls(np.array(shares))

    @classmethod
    def of_lives_nobody_draws(cls, lives: int = 4000) -> CellCounter:
        return cls.fit([Life.sample(TEACHER_SEEDS_FROM + n) for n in range(lives)])

    def probability(self, life: Life, hours_h: Sequence[float] | Floats) -> Floats:
        """(T,) at these hours post insemination, by the row of the nearest even hour."""
        rows = [min(round(float(hpi_h) / _APART_H), len(self.shares) - 1) for hpi_h in hours_h]
        counts = [life.cell_count_at(float(hpi_h)) for hpi_h in hours_h]
        return np.asarray(self.shares[rows, counts])

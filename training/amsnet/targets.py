"""What a frame is to be judged as: the outcome, what the truth known so far makes of it, and what is to be seen.

Does: gives for each frame of an embryo the hard label, and for virtual ones the outlook of one who knows the truth up
to that hour (a privileged teacher: the label of one embryo is a single throw, the outlook is the odds it was thrown
with), the phase and the signs that the picture holds. Refuses to know pictures and networks. Unknown is NaN.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monitor.simulator.life import Life
from monitor.simulator.outlook import Outlook, known_by
from training.datasets.embryo import PHASES, Embryo

Floats = npt.NDArray[np.float64]

SIGNS = ("fragments", "unevenness", "cells", "arrested")
NO_PHASE = -100  # what cross-entropy leaves out
BEFORE_ANY_PHASE = len(PHASES)  # a class of its own: a zygote that shows nothing yet
TEACHER_SEEDS_FROM = 2_000_000  # lives that nobody draws
_CLEAVED, _CAVITY = PHASES.index("t2"), PHASES.index("tSB")
_FIRST_H, _APART_H, _LAST_H = 12.0, 6.0, 168.0


@dataclass(frozen=True)
class Targets:
    """One embryo's: `reaches` 0 or 1; each of the others (T,) or (T, 4). NaN where nobody knows."""

    reaches: float
    outlook: Floats
    phase: npt.NDArray[np.int64]
    signs: Floats

    def __post_init__(self) -> None:
        assert self.outlook.shape == self.phase.shape == self.signs.shape[:1]


class Teacher:
    """The odds of reaching tB given the truth so far: one regression every 6 hours, in between in proportion."""

    def __init__(self, lives: int = 4000) -> None:
        fitted = [Life.sample(TEACHER_SEEDS_FROM + n) for n in range(lives)]
        self._hours_h = np.arange(_FIRST_H, _LAST_H + _APART_H / 2, _APART_H)
        self._outlooks = [Outlook.fit(fitted, float(hpi_h)) for hpi_h in self._hours_h]

    def probability(self, life: Life, hours_h: Sequence[float] | Floats) -> Floats:
        """(T,) at these hours post insemination."""
        logits = np.empty(len(hours_h))
        for t, hpi_h in enumerate(hours_h):
            known = np.array([known_by(life, float(hpi_h))])
            after = min(max(bisect_right(self._hours_h.tolist(), float(hpi_h)), 1), len(self._hours_h) - 1)
            share = float(np.clip((hpi_h - self._hours_h[after - 1]) / _APART_H, 0, 1))
            ends = [float(outlook.logits(known)[0]) for outlook in self._outlooks[after - 1 : after + 1]]
            logits[t] = (1 - share) * ends[0] + share * ends[1]
        return np.asarray(1 / (1 + np.exp(-np.clip(logits, -12, 12))))


def targets_of(embryo: Embryo, teacher: Teacher | None = None) -> Targets:
    """What any embryo tells; a virtual one with a teacher tells more. ValueError where the outcome is unknown."""
    if embryo.reaches_blastocyst is None:
        raise ValueError(f"{embryo.source} {embryo.name}: nobody knows whether it reaches the blastocyst stage")
    reaches, life = float(embryo.reaches_blastocyst), getattr(embryo, "life", None)
    hours_h = embryo.hours_h
    blank = np.full(len(hours_h), np.nan)
    if isinstance(life, Life):
        phase = np.array([_phase_index(name, BEFORE_ANY_PHASE) for name in embryo.phases])
        outlook = teacher.probability(life, hours_h) if teacher else blank
        return Targets(reaches, outlook, phase, signs_of(life, hours_h, phase))
    phase = np.array([_phase_index(name, NO_PHASE) for name in embryo.phases])
    return Targets(reaches, blank, phase, np.full((len(hours_h), len(SIGNS)), np.nan))


def _phase_index(name: str | None, otherwise: int) -> int:
    return otherwise if name is None else PHASES.index(name)


def signs_of(life: Life, hours_h: Floats, phase: npt.NDArray[np.int64]) -> Floats:
    """(T, 4) of about unit size: root of the fragments' share, unevenness, log of the cells, and whether it arrested.

    Fragments and unevenness are to be seen from the first cleavage until the cavity forms; else NaN.
    """
    signs = np.empty((len(hours_h), len(SIGNS)))
    signs[:, 0], signs[:, 1] = 3 * life.fragmentation_ratio**0.5, 6 * life.unevenness
    signs[(phase < _CLEAVED) | (phase >= _CAVITY), :2] = np.nan
    signs[:, 2] = [np.log2(life.cell_count_at(float(hpi_h))) / 2 for hpi_h in hours_h]
    signs[:, 3] = hours_h >= life.frozen_after_h
    return signs

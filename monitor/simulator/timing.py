"""Onset hours of virtual embryos: a chain of intervals whose scatter follows the public videos' tables.

Each interval has a distribution (knots over normal quantiles) and carries part of the pace so far and of the embryo's
vigour with it. `KNOTS_H` and `CARRY` are fitted to the tables by `python -m training.virtual_life.fit`, with arrests
and skips in force: a table's percentile is one "of the videos that reach the phase". Everything is arithmetic on arrays
of one row per embryo, so that a fit over thousands runs the code that draws one. It refuses to know seeds and pictures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from monitor.simulator.fate import DIVISIONS, TIMED, Fate
from monitor.simulator.tables import DIRECT_CLEAVAGE_H, LEAST_GAP_H, ONSET_H

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Knots: TypeAlias = tuple[float, ...]
Carry: TypeAlias = tuple[float, float]

INDEX = {phase: i for i, phase in enumerate(TIMED)}
KNOT_Z = (-3.0, -1.645, -0.674, 0.0, 0.674, 1.645, 3.0)
_ONSET_Z = (-2.5, -1.645, -0.674, 0.0, 0.674, 1.645, 2.5)  # of the tables' percentiles and a little beyond
_LEAST_GAP_H = {
    "tPNa": 0.8,
    "tPNf": 6.0,
    "t2": 1.0,
    "t3": DIRECT_CLEAVAGE_H + 0.01,
    "tM": 2.0,
    "tSB": 1.0,
    "tB": 1.5,
    "tEB": 0.4,
}

KNOTS_H: Mapping[str, Knots] = {
    "tPB2": (1.58, 2.0, 2.687, 3.404, 4.38, 5.792, 6.5),
    "tPNa": (3.68, 4.3, 5.487, 6.783, 7.747, 9.731, 10.65),
    "tPNf": (14.32, 16.607, 20.392, 21.809, 24.625, 28.075, 29.8),
    "t2": (0.949, 1.582, 1.974, 2.246, 2.53, 2.938, 3.143),
    "t3": (4.416, 7.359, 9.271, 10.599, 12.1, 14.255, 15.333),
    "t4": (0.152, 0.253, 0.479, 0.745, 1.797, 6.401, 8.703),
    "t5": (1.233, 2.055, 8.035, 12.191, 13.807, 16.134, 17.298),
    "t8": (0.853, 1.421, 2.795, 4.471, 9.015, 24.377, 32.058),
    "t6": (0.02, 0.122, 0.235, 0.314, 0.426, 0.588, 0.814),
    "t7": (0.02, 0.02, 0.02, 0.02, 0.02, 0.07, 0.296),
    "t9+": (0.361, 0.602, 9.051, 14.923, 17.909, 22.21, 24.361),
    "tM": (4.656, 7.76, 13.642, 17.73, 25.022, 35.515, 40.761),
    "tSB": (1.358, 2.263, 4.164, 6.364, 9.476, 16.672, 20.269),
    "tB": (1.793, 2.988, 5.302, 6.906, 8.83, 11.599, 12.983),
    "tEB": (0.445, 0.742, 1.243, 1.785, 4.019, 12.567, 16.84),
}
# phase -> (share of the pace so far, share of the vigour) in its scatter
CARRY: Mapping[str, Carry] = {
    "tPB2": (0.0, 0.1),
    "tPNa": (0.45, 0.1),
    "tPNf": (0.45, 0.25),
    "t2": (0.6, 0.25),
    "t3": (-0.15, 0.25),
    "t4": (0.45, 0.25),
    "t5": (0.3, 0.25),
    "t8": (-0.3, 0.25),
    "t6": (-0.8, 0.25),
    "t7": (0.75, 0.25),
    "t9+": (-0.3, 0.3),
    "tM": (-0.3, 0.2),
    "tSB": (-0.3, 0.15),
    "tB": (0.15, 0.1),
    "tEB": (0.15, 0.1),
}


@dataclass(frozen=True)
class Draws:
    """What chance gave to N embryos, one row each.

    `noise` (N, 15), a column for each of `TIMED`, and `vigour` (N,): standard normal. `direct` (N,): the first daughter
    of the zygote cleaves at once, so that the third cell comes `direct_wait_h` (N,) after the second. `hidden` (N, 6):
    which of `DIVISIONS` falls together with the next one and is not seen.
    """

    noise: Floats
    vigour: Floats
    direct: Flags
    direct_wait_h: Floats
    hidden: Flags

    @classmethod
    def of(cls, fates: Sequence[Fate]) -> Draws:
        return cls(
            noise=np.array([fate.noise for fate in fates]),
            vigour=np.array([fate.vigour for fate in fates]),
            direct=np.array([fate.direct for fate in fates]),
            direct_wait_h=np.array([fate.direct_wait_h for fate in fates]),
            hidden=np.array([fate.hidden for fate in fates]),
        )


def pace_z(phase: str, hours: Floats) -> Floats:
    """How late an onset is, in normal quantiles of the public videos, -2.5 to 2.5."""
    known = ONSET_H[phase]
    ends = (2 * known[0] - known[1], *known, 2 * known[-1] - known[-2])
    return np.asarray(np.interp(hours, ends, _ONSET_Z), dtype=np.float64)


class _Chain:
    def __init__(self, draws: Draws, knots_h: Mapping[str, Knots], carry: Mapping[str, Carry]) -> None:
        self._draws, self._knots_h, self._carry = draws, knots_h, carry

    def drawn(self, phase: str, pace: Floats | float) -> Floats:
        """(N,) of the distribution of `phase`: hours of its onset or since another, or a share of a span (t6, t7)."""
        of_pace, of_vigour = self._carry[phase]
        rest = math.sqrt(1 - of_pace**2 - of_vigour**2)
        z = of_pace * pace - of_vigour * self._draws.vigour + rest * self._draws.noise[:, INDEX[phase]]
        return np.asarray(np.interp(z, KNOT_Z, self._knots_h[phase]), dtype=np.float64)

    def after(self, phase: str, before: str, since_h: Floats) -> Floats:
        """(N,) hours: an interval after `since_h`, the onset of `before`, whose pace it shares in."""
        least_h = _LEAST_GAP_H.get(phase, LEAST_GAP_H)
        return since_h + np.maximum(self.drawn(phase, pace_z(before, since_h)), least_h)

    def within(self, phase: str, low_h: Floats, high_h: Floats) -> Floats:
        """(N,) hours between two others."""
        return low_h + np.clip(self.drawn(phase, pace_z("t5", low_h)), 0.04, 0.96) * (high_h - low_h)


def chain_h(draws: Draws, knots_h: Mapping[str, Knots] = KNOTS_H, carry: Mapping[str, Carry] = CARRY) -> Floats:
    """(N, 15) hours of every timed phase, whether the embryo gets there or not; a hidden one equals the next."""
    chain = _Chain(draws, knots_h, carry)
    at = _first_day(chain)
    usual_t3 = chain.after("t3", "t2", at["t2"])
    at["t3"] = np.where(draws.direct, at["t2"] + draws.direct_wait_h, usual_t3)
    hide = {phase: draws.hidden[:, i] for i, phase in enumerate(DIVISIONS)}
    at["t4"] = np.where(hide["t3"], usual_t3, chain.after("t4", "t3", usual_t3))
    at["t4"] = np.maximum(at["t4"], np.where(draws.direct, at["t3"] + LEAST_GAP_H, 0.0))
    at["t3"] = np.where(hide["t3"], at["t4"], at["t3"])
    at["t5"] = np.maximum(chain.after("t5", "t3", usual_t3), at["t4"] + LEAST_GAP_H)
    at["t8"] = chain.after("t8", "t5", at["t5"])
    at["t6"] = chain.within("t6", at["t5"], at["t8"])
    at["t7"] = chain.within("t7", at["t6"], at["t8"])
    for before, phase in (("t8", "t9+"), ("t9+", "tM"), ("tM", "tSB"), ("tSB", "tB"), ("tB", "tEB")):
        at[phase] = chain.after(phase, before, at[before])
    for hidden, shown in (("t8", "t9+"), ("t7", "t8"), ("t6", "t7"), ("t5", "t6"), ("t4", "t5")):
        at[hidden] = np.where(hide[hidden], at[shown], at[hidden])
    return np.stack([at[phase] for phase in TIMED], axis=1)


def _first_day(chain: _Chain) -> dict[str, Floats]:
    at = {"tPB2": chain.drawn("tPB2", 0.0)}
    for before, phase in (("tPB2", "tPNa"), ("tPNa", "tPNf")):
        onset_h = chain.drawn(phase, pace_z(before, at[before]))
        at[phase] = np.maximum(onset_h, at[before] + _LEAST_GAP_H[phase])
    at["t2"] = chain.after("t2", "tPNf", at["tPNf"])
    return at

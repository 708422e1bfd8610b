"""When a virtual embryo does what: onset hours of the 16 phases, arrest, and the early signs that hint at it.

The hours follow the onset percentiles of 82 public videos and the skips and attrition of 524 (Gomez et al. 2022).
This module refuses to know how any of it looks.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypedDict

import numpy as np

PHASES = (
    "tPB2", "tPNa", "tPNf", "t2", "t3", "t4", "t5", "t6", "t7", "t8", "t9+", "tM", "tSB", "tB", "tEB", "tHB",
)  # fmt: skip
CELLS_AT_MOST = 24  # beyond this a blastocyst's cells are drawn as a sheet and no longer counted

_QUANTILE_Z = (-1.645, -0.674, 0.0, 0.674, 1.645)  # of the percentiles 5, 25, 50, 75, 95
_ONSET_H: Mapping[str, tuple[float, ...]] = {
    "tPB2": (2.0, 2.7, 3.4, 4.4, 5.8),
    "tPNa": (4.4, 5.6, 6.8, 7.8, 9.7),
    "tPNf": (16.6, 20.4, 21.8, 24.7, 28.1),
    "t2": (19.0, 22.8, 24.4, 27.5, 31.4),
    "t3": (27.4, 31.8, 35.0, 38.3, 43.4),
    "t4": (28.9, 33.0, 35.9, 40.0, 44.5),
    "t5": (35.4, 42.8, 45.9, 51.6, 57.3),
    "t6": (40.1, 44.5, 48.7, 53.2, 60.0),
    "t7": (37.0, 44.9, 48.7, 54.3, 63.6),
    "t8": (40.6, 47.1, 51.7, 58.8, 70.4),
    "t9+": (49.7, 60.1, 65.7, 71.6, 81.9),
    "tM": (69.1, 77.3, 83.9, 93.2, 102.4),
    "tSB": (76.9, 84.7, 90.4, 99.7, 110.4),
    "tB": (83.6, 89.1, 99.3, 106.7, 117.2),
    "tEB": (84.4, 91.1, 103.7, 109.1, 128.7),
}
# How much of the pace carries over from the phase before: chosen so that the gaps between phases scatter as theirs do.
_CARRY = dict(
    zip(PHASES[1:15], (0.6, 0.6, 0.997, 0.9, 0.95, 0.8, 0.85, 0.9, 0.85, 0.78, 0.68, 0.92, 0.97, 0.99), strict=True)
)
# The shortest usual time since the phase before (about the 5th percentile): a chain of quantiles must not collapse.
_LEAST_GAP_H = dict(
    zip(PHASES[1:15], (1.0, 7.0, 1.4, 6.2, 0.25, 1.4, 0.3, 0.25, 0.3, 0.9, 6.5, 2.1, 2.6, 0.7), strict=True)
)
# Share of the arresting embryos that stop after each phase, from the attrition of the 524 videos.
_ARREST_AFTER = {"tPNf": 1, "t2": 2, "t4": 3, "t5": 2, "t6": 2, "t7": 1, "t8": 3, "t9+": 7, "tM": 7, "tSB": 8}
_SKIPS = (("t3", 0.24), ("t5", 0.22), ("t7", 0.25), ("t6", 0.12))  # one division hides in the next
_DIRECT_CLEAVAGE_SHARE = 0.12
_REACHES_EXPANSION_SHARE = 0.52 / 0.64
_HATCHES_SHARE = 0.4  # our choice: the public videos carry no tHB


def _onset_h(phase: str, z: float) -> float:
    """Hour of `phase` at normal quantile `z`; straight lines between the percentiles, and a little beyond them."""
    z = min(max(z, -2.3), 2.3)
    hours = _ONSET_H[phase]
    i = min(max(bisect_right(_QUANTILE_Z, z) - 1, 0), 3)
    slope = (hours[i + 1] - hours[i]) / (_QUANTILE_Z[i + 1] - _QUANTILE_Z[i])
    return hours[i] + slope * (z - _QUANTILE_Z[i])


def _all_onsets_h(rng: np.random.Generator, pace_z: float) -> dict[str, float]:
    """Onset hours of all 15 tabled phases, in order: a chain of pace quantiles, each near the one before."""
    z = pace_z + float(rng.normal(0.0, 0.9))
    onsets = {"tPB2": max(_onset_h("tPB2", z), 0.8)}
    for before, phase in pairwise(PHASES[:15]):
        carry = _CARRY[phase]
        z = pace_z + carry * (z - pace_z) + math.sqrt(1 - carry**2) * float(rng.normal(0.0, 0.95))
        onsets[phase] = max(_onset_h(phase, z), onsets[before] + _LEAST_GAP_H[phase] * float(rng.uniform(0.9, 1.5)))
    return onsets


def _cleave_directly(rng: np.random.Generator, onsets_h: dict[str, float]) -> None:
    onsets_h["t3"] = onsets_h["t2"] + float(rng.uniform(0.25, 4.8))
    onsets_h["t4"] = max(onsets_h["t4"] - 3.0, onsets_h["t3"] + _LEAST_GAP_H["t4"])


def _skip_some(rng: np.random.Generator, onsets_h: dict[str, float], keep: str) -> None:
    for phase, share in _SKIPS:
        if float(rng.random()) < share and phase != keep:
            onsets_h.pop(phase, None)


@dataclass(frozen=True)
class Life:
    """What happens to one virtual embryo, and when.

    `onsets_h`: phase -> hours post insemination, in the order of `PHASES`; a phase that is skipped or never reached
    is absent. `fragmentation_ratio`: share of the volume in fragments, 0 to 1. `unevenness`: coefficient of variation
    of sister volumes. `frozen_after_h`: hpi after which nothing develops any more; infinite when it never arrests.
    `divisions_h`: ascending hours at which the body gains a cell. `reverse_cleavage`: spans (start_h, end_h) in which
    two sisters are fused and the count is one less. `multinucleated`: indices of the cells of the 2-cell stage that
    have several nuclei. `vacuoles`: (birth_h, gone_h, radius as a share of the cell's). `collapses`: (start_h, depth 0
    to 1, recovered_h) of the blastocoel. `hatching_h`: hour it begins to leave the zona, infinite when it does not.
    `icm_grade`, `te_grade`: A, B or C of Gardner's scale, None where there is no blastocyst.
    """

    seed: int
    onsets_h: dict[str, float]
    reaches_blastocyst: bool
    fragmentation_ratio: float
    unevenness: float
    frozen_after_h: float = math.inf
    direct_cleavage: bool = False
    divisions_h: tuple[float, ...] = field(default=(), repr=False)
    reverse_cleavage: tuple[tuple[float, float], ...] = ()
    multinucleated: tuple[int, ...] = ()
    vacuoles: tuple[tuple[float, float, float], ...] = ()
    collapses: tuple[tuple[float, float, float], ...] = ()
    hatching_h: float = math.inf
    icm_grade: str | None = None
    te_grade: str | None = None

    @classmethod
    def sample(cls, seed: int, arrest_share: float = 0.36) -> Life:
        """Draw one life; `arrest_share` of the seeds (0 to 1) never reach tB.

        Embryos that will arrest tend to be slower, more fragmented and less even: tendencies with much overlap.
        """
        rng = np.random.default_rng((seed, 0x11FE))
        arrests = float(rng.random()) < arrest_share
        direct = float(rng.random()) < _DIRECT_CLEAVAGE_SHARE * (1.8 if arrests else 0.55)
        onsets_h = _all_onsets_h(rng, pace_z=0.4 if arrests else -0.22)
        if direct:
            _cleave_directly(rng, onsets_h)
        last = _last_phase(rng, arrests)
        _skip_some(rng, onsets_h, keep=last)
        onsets_h = {p: h for p, h in onsets_h.items() if PHASES.index(p) <= PHASES.index(last)}
        if last == "tEB" and float(rng.random()) < _HATCHES_SHARE:
            onsets_h["tHB"] = onsets_h["tEB"] + float(rng.uniform(4.0, 18.0))
        frozen_h = onsets_h[last] + float(rng.uniform(1.5, 9.0)) if arrests else math.inf
        return cls(
            seed=seed,
            onsets_h=onsets_h,
            reaches_blastocyst=not arrests,
            fragmentation_ratio=float(rng.beta(1.6, 6.5) if arrests else rng.beta(1.2, 12.0)),
            unevenness=float(np.clip(rng.gamma(4.0, 0.055 if arrests else 0.035), 0.02, 0.5)),
            frozen_after_h=frozen_h,
            direct_cleavage=direct,
            divisions_h=_divisions_h(onsets_h, frozen_h),
            **_incidents(np.random.default_rng((seed, 0x1C1D)), onsets_h, frozen_h),
        )

    def phase_at(self, hpi_h: float) -> str | None:
        """The phase under way at `hpi_h`; None before the first onset, when a zygote shows nothing yet."""
        reached = [phase for phase, onset_h in self.onsets_h.items() if onset_h <= hpi_h]
        return reached[-1] if reached else None

    def cell_count_at(self, hpi_h: float) -> int:
        """Cells of the body at `hpi_h`, 1 to `CELLS_AT_MOST`: exact up to 8, a plausible number from t9+ on."""
        fused = sum(start_h <= hpi_h < end_h for start_h, end_h in self.reverse_cleavage)
        return max(1 + bisect_right(self.divisions_h, hpi_h) - fused, 1)

    def expansion_at(self, hpi_h: float) -> int:
        """Gardner's expansion at `hpi_h`: 0 before tB, 1 and 2 as the cavity grows, 3 at tEB, 4 as the zona thins, 5 as
        it hatches, 6 when it is out. A collapse does not lower it: it is a grade of what was reached.
        """
        hour = min(hpi_h, self.frozen_after_h)
        blastocyst_h, expanded_h = self.onsets_h.get("tB", math.inf), self.onsets_h.get("tEB", math.inf)
        half_h = blastocyst_h + min(0.5 * (expanded_h - blastocyst_h), 6.0)
        steps = (blastocyst_h, half_h, expanded_h, expanded_h + 5.0, self.hatching_h, self.hatching_h + 14.0)
        return sum(step_h <= hour for step_h in steps)


def _last_phase(rng: np.random.Generator, arrests: bool) -> str:
    """The last tabled phase that is reached."""
    if arrests:
        weight = np.array(list(_ARREST_AFTER.values()), dtype=np.float64)
        return str(rng.choice(list(_ARREST_AFTER), p=weight / weight.sum()))
    return "tEB" if float(rng.random()) < _REACHES_EXPANSION_SHARE else "tB"


def _divisions_h(onsets_h: Mapping[str, float], frozen_h: float) -> tuple[float, ...]:
    """Ascending hours at which the body gains a cell; a skipped count falls together with the next one."""
    hours: list[float] = []
    counted = [("t9+" if n == 9 else f"t{n}", n) for n in range(2, 10)]
    for phase, n in counted:
        if phase in onsets_h:
            hours += [onsets_h[phase]] * (n - 1 - len(hours))
    if "t9+" in onsets_h:
        morula_h = onsets_h.get("tM", onsets_h["t9+"] + 16.0)
        hours += list(np.linspace(onsets_h["t9+"], morula_h, 9)[1:-1])  # to 16 cells
    if "tM" in onsets_h:
        cavity_h = onsets_h.get("tSB", onsets_h["tM"] + 8.0)
        hours += list(np.linspace(onsets_h["tM"], cavity_h, CELLS_AT_MOST - 15))[1:]
    return tuple(float(h) for h in hours if h <= frozen_h)


class _Incidents(TypedDict):
    reverse_cleavage: tuple[tuple[float, float], ...]
    multinucleated: tuple[int, ...]
    vacuoles: tuple[tuple[float, float, float], ...]
    collapses: tuple[tuple[float, float, float], ...]
    hatching_h: float
    icm_grade: str | None
    te_grade: str | None


def _incidents(rng: np.random.Generator, onsets_h: Mapping[str, float], frozen_h: float) -> _Incidents:
    """What happens beside the usual course, within the hours the embryo lives."""
    reverse: tuple[tuple[float, float], ...] = ()
    fusing = [onsets_h[p] for p in ("t3", "t4", "t5", "t6") if p in onsets_h]
    if fusing and float(rng.random()) < 0.1:
        start_h = float(rng.choice(fusing)) + float(rng.uniform(0.5, 3.0))
        if start_h < frozen_h:
            reverse = ((start_h, min(start_h + float(rng.uniform(1.0, 8.0)), frozen_h)),)
    several = rng.random() < 0.2
    multinucleated = tuple(i for i in (0, 1) if float(rng.random()) < 0.6) if several and "t2" in onsets_h else ()
    vacuoles = tuple(
        (birth_h, birth_h + float(rng.uniform(4.0, 40.0)), float(rng.uniform(0.15, 0.55)))
        for birth_h in (20.0 + rng.exponential(25.0, int(rng.poisson(0.35)))).tolist()
    )
    collapses: list[tuple[float, float, float]] = []
    hatching_h, graded = onsets_h.get("tHB", math.inf), "tB" in onsets_h
    since_h = onsets_h.get("tEB", math.inf)
    while len(collapses) < 3 and since_h < math.inf and float(rng.random()) < 0.35:
        since_h += float(rng.uniform(1.0, 10.0))
        recovered_h = since_h + float(rng.uniform(2.0, 8.0))
        collapses.append((since_h, float(rng.uniform(0.15, 0.95)), recovered_h))
        since_h = recovered_h
    grades = [str(rng.choice(["A", "B", "C"], p=[0.4, 0.4, 0.2])) for _ in range(2)]
    return _Incidents(
        reverse_cleavage=reverse,
        multinucleated=multinucleated,
        vacuoles=vacuoles,
        collapses=tuple(collapses),
        hatching_h=hatching_h,
        icm_grade=grades[0] if graded else None,
        te_grade=grades[1] if graded else None,
    )

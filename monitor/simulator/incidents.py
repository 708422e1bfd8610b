"""The early signs and the grades of a virtual embryo, and what happens beside its usual course.

Each sign follows vigour with noise of its own. How often each incident happens is taken from the ranges that reviews of
time-lapse studies give, and is ours where they give none. It refuses to know how any of it looks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict

from monitor.simulator.chance import Chance
from monitor.simulator.fate import Fate

Spans = tuple[tuple[float, float], ...]
Triples = tuple[tuple[float, float, float], ...]

_Z = (-3.0, -1.5, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
_FRAGMENTATION = (0.0, 0.01, 0.03, 0.05, 0.085, 0.14, 0.22, 0.32, 0.43, 0.5)
_UNEVENNESS = (0.02, 0.04, 0.08, 0.11, 0.15, 0.19, 0.24, 0.3, 0.38, 0.45)
_WEAK_FRAGMENTATION, _WEAK_EVENNESS = 0.67, 0.56  # correlation of a sign with vigour
_STRONG_GRADE = 0.55
_GRADE_Z = (0.62, -0.45)  # A above the first, B above the second: of ten blastocysts 3 to 4 are A, 2 are C
_REVERSE = 0.09  # studies: 7 to 27 % with any; ours counts one lasting more than a few frames
_MULTINUCLEATED_Z = 0.75  # 23 % of all at the 2-cell stage
_VACUOLES = 0.10
_COLLAPSES = 0.3
_COLLAPSES_AT_MOST = 3


@dataclass(frozen=True)
class Signs:
    """See `Life`."""

    fragmentation_ratio: float
    unevenness: float
    icm_grade: str | None
    te_grade: str | None


class Incidents(TypedDict):
    """See `Life`."""

    reverse_cleavage: Spans
    multinucleated: tuple[int, ...]
    vacuoles: Triples
    collapses: Triples


def draw_signs(chance: Chance, fate: Fate) -> Signs:
    """Signs that show on the first days, and the grades on day 5."""
    fragmentation = _between(_score(chance, -_WEAK_FRAGMENTATION, fate.vigour), _FRAGMENTATION)
    unevenness = _between(_score(chance, -_WEAK_EVENNESS, fate.vigour), _UNEVENNESS)
    icm, te = (_grade(_score(chance, _STRONG_GRADE, fate.vigour)) for _ in range(2))
    return Signs(fragmentation, unevenness, None if fate.arrests else icm, None if fate.arrests else te)


def _score(chance: Chance, weight: float, vigour: float) -> float:
    """Standard normal over all embryos, correlated with vigour by `weight`."""
    return round(weight * vigour + math.sqrt(1 - weight**2) * chance.normal(), 9)


def _between(z: float, values: tuple[float, ...]) -> float:
    z = min(max(z, _Z[0]), _Z[-1])
    i = max(k for k in range(len(_Z) - 1) if _Z[k] <= z)
    share = (z - _Z[i]) / (_Z[i + 1] - _Z[i])
    return round(values[i] + share * (values[i + 1] - values[i]), 6)


def _grade(z: float) -> str:
    return "A" if z > _GRADE_Z[0] else "B" if z > _GRADE_Z[1] else "C"


def draw_incidents(chance: Chance, fate: Fate, onsets_h: Mapping[str, float], frozen_h: float) -> Incidents:
    """What happens beside the usual course, within the hours the embryo lives."""
    return Incidents(
        reverse_cleavage=_reverse_cleavage(chance, onsets_h, frozen_h),
        multinucleated=_multinucleated(chance, fate, onsets_h),
        vacuoles=_vacuoles(chance, onsets_h),
        collapses=_collapses(chance, onsets_h),
    )


def _reverse_cleavage(chance: Chance, onsets_h: Mapping[str, float], frozen_h: float) -> Spans:
    """At most one: two sisters fuse soon after a division to 3 to 6 cells and part again some hours later."""
    happens, which = chance.happens(_REVERSE), chance.share()
    wait_h, lasts_h = chance.between(0.5, 3.0), chance.between(1.0, 8.0)
    parts = [onsets_h[phase] for phase in ("t3", "t4", "t5", "t6") if phase in onsets_h]
    if not happens or not parts:
        return ()
    start_h = round(parts[int(which * len(parts))] + wait_h, 6)
    end_h = round(min(start_h + lasts_h, frozen_h), 6)
    return ((start_h, end_h),) if start_h < end_h else ()


def _multinucleated(chance: Chance, fate: Fate, onsets_h: Mapping[str, float]) -> tuple[int, ...]:
    several, which = _score(chance, -0.25, fate.vigour) > _MULTINUCLEATED_Z, chance.share()
    if not several or "t2" not in onsets_h:
        return ()
    return ((0,), (1,), (0, 1))[int(3 * which)]


def _vacuoles(chance: Chance, onsets_h: Mapping[str, float]) -> Triples:
    happens, count = chance.happens(_VACUOLES), 1 + chance.index((6.0, 3.0, 1.0))
    if not happens:
        return ()
    first_h = onsets_h.get("tPNf", 20.0)
    drawn = [(chance.between(0.0, 50.0), chance.between(6.0, 45.0), chance.between(0.15, 0.55)) for _ in range(count)]
    return tuple((round(first_h + a, 6), round(first_h + a + lasts, 6), round(size, 6)) for a, lasts, size in drawn)


def _collapses(chance: Chance, onsets_h: Mapping[str, float]) -> Triples:
    """From tEB on, before it hatches: the blastocoel loses `depth` of its volume within minutes, refills over hours."""
    if "tEB" not in onsets_h:
        return ()
    found: list[tuple[float, float, float]] = []
    since_h, until_h = onsets_h["tEB"], onsets_h.get("tHB", math.inf)
    while len(found) < _COLLAPSES_AT_MOST and chance.happens(_COLLAPSES):
        start_h = since_h + chance.between(1.0, 10.0)
        depth, recovered_h = chance.between(0.15, 0.95), start_h + chance.between(2.0, 8.0)
        if recovered_h >= until_h:
            break
        found.append((round(start_h, 6), round(depth, 6), round(recovered_h, 6)))
        since_h = recovered_h
    return tuple(found)

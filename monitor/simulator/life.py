"""One virtual embryo's life: what happens to it, and when, from a seed alone.

The same seed is the same life on every machine: all hours and shares are rounded to 1e-6. Early signs tell of the end
only through vigour, with noise of their own. This module refuses to know how any of it looks.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field

from monitor.simulator.chance import Chance
from monitor.simulator.fate import DIVISIONS, TIMED, Fate, draw_fate
from monitor.simulator.incidents import draw_incidents, draw_signs
from monitor.simulator.tables import LEAST_GAP_H, PHASES
from monitor.simulator.timing import Draws, chain_h

__all__ = ["CELLS_AT_MOST", "PHASES", "Life"]

CELLS_AT_MOST = 24  # beyond this a blastocyst's cells are drawn as a sheet and no longer counted
_FATE, _SIGNS, _COURSE, _INCIDENTS = 0x11FE, 0x5164, 0xC0C5, 0x1C1D  # streams of chance
_HATCHES = 0.4  # of those that expand; our choice: the public videos carry no tHB
_HATCHED_AFTER_H = 14.0


@dataclass(frozen=True)
class Life:
    """What happens to one virtual embryo, and when. Hours are hours post insemination.

    `onsets_h`: phase -> hours, in the order of `PHASES`; a phase that is skipped or never reached is absent.
    `fragmentation_ratio`: share of the volume in fragments, 0 to 0.5. `unevenness`: coefficient of variation of sister
    volumes. `frozen_after_h`: nothing develops any more after it; infinite when it never arrests. `direct_cleavage`:
    the third cell comes less than 5 h after the second. `divisions_h`: ascending hours at which the body gains a cell.
    `reverse_cleavage`: spans (start_h, end_h) in which two sisters are fused and the count is one less.
    `multinucleated`: indices of the cells of the 2-cell stage that have several nuclei. `vacuoles`: (birth_h, gone_h,
    radius as a share of the cell's). `collapses`: (start_h, depth 0 to 1, recovered_h) of the blastocoel.
    `hatching_h`: hour it begins to leave the zona (tHB), infinite when it does not. `icm_grade`, `te_grade`: A, B or C
    of Gardner's scale, None where there is no blastocyst.
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
        """Draw one life; `arrest_share` of the seeds (0 to 1) never reach tB. Raises ValueError on a negative seed."""
        if not 0 <= arrest_share <= 1:
            raise ValueError(f"arrest_share = {arrest_share}: a share lies between 0 and 1")
        fate = draw_fate(Chance(seed, _FATE), arrest_share)
        course = Chance(seed, _COURSE)
        onsets_h = _onsets_h(fate)
        if fate.last == "tEB" and course.happens(_HATCHES):
            onsets_h["tHB"] = round(onsets_h["tEB"] + course.between(4.0, 18.0), 6)
        frozen_h = round(onsets_h[fate.last] + course.between(1.5, 9.0), 6) if fate.arrests else math.inf
        signs = draw_signs(Chance(seed, _SIGNS), fate)
        return cls(
            seed=seed,
            onsets_h=onsets_h,
            reaches_blastocyst=not fate.arrests,
            fragmentation_ratio=signs.fragmentation_ratio,
            unevenness=signs.unevenness,
            frozen_after_h=frozen_h,
            direct_cleavage=fate.direct,
            divisions_h=_divisions_h(course, onsets_h, frozen_h),
            icm_grade=signs.icm_grade,
            te_grade=signs.te_grade,
            hatching_h=onsets_h.get("tHB", math.inf),
            **draw_incidents(Chance(seed, _INCIDENTS), fate, onsets_h, frozen_h),
        )

    def phase_at(self, hpi_h: float) -> str | None:
        """The phase under way at `hpi_h`; None before the first onset, when a zygote shows nothing yet."""
        reached = [phase for phase, onset_h in self.onsets_h.items() if onset_h <= hpi_h]
        return reached[-1] if reached else None

    def cell_count_at(self, hpi_h: float) -> int:
        """Cells of the body at `hpi_h`, 1 to `CELLS_AT_MOST`: exact up to 8, a plausible number from t9+ on.

        While sisters are fused again (reverse cleavage) the count is one less than the phase says: labels never
        step back.
        """
        fused = sum(start_h <= hpi_h < end_h for start_h, end_h in self.reverse_cleavage)
        return 1 + bisect_right(self.divisions_h, hpi_h) - fused

    def expansion_at(self, hpi_h: float) -> int:
        """Gardner's expansion at `hpi_h`: 0 before tB, 1 to 3 as the cavity grows and fills it, 4 at tEB as the zona
        thins, 5 as it hatches, 6 when it is out. A collapse does not lower it: it is a grade of what was reached.
        """
        hour = min(hpi_h, self.frozen_after_h)
        blastocyst_h, expanded_h = self.onsets_h.get("tB", math.inf), self.onsets_h.get("tEB", math.inf)
        third_h = min((expanded_h - blastocyst_h) / 3, 5.0) if blastocyst_h < math.inf else 0.0
        steps = (blastocyst_h, blastocyst_h + third_h, blastocyst_h + 2 * third_h, expanded_h, self.hatching_h)
        return sum(step_h <= hour for step_h in (*steps, self.hatching_h + _HATCHED_AFTER_H))


def _onsets_h(fate: Fate) -> dict[str, float]:
    """Hours of the phases it reaches and shows, in order and at least one frame apart."""
    row = chain_h(Draws.of([fate]))[0]
    hidden = {phase for phase, hides in zip(DIVISIONS, fate.hidden, strict=True) if hides}
    onsets_h: dict[str, float] = {}
    earliest_h = 0.5
    for phase, hour in zip(TIMED[: TIMED.index(fate.last) + 1], row, strict=False):
        if phase not in hidden:
            onsets_h[phase] = round(max(float(hour), earliest_h), 6)
            earliest_h = onsets_h[phase] + LEAST_GAP_H
    return onsets_h


def _divisions_h(chance: Chance, onsets_h: Mapping[str, float], frozen_h: float) -> tuple[float, ...]:
    """Ascending hours at which the body gains a cell; a hidden division falls together with the next one."""
    hours: list[float] = []
    for n in range(2, 10):
        phase = "t9+" if n == 9 else f"t{n}"
        if phase in onsets_h:
            hours += [onsets_h[phase]] * (n - 1 - len(hours))
    if "t9+" in onsets_h:  # from 9 cells on each divides at an hour of its own
        morula_h = onsets_h.get("tM", onsets_h["t9+"] + 16.0)
        hours += _scattered_h(chance, onsets_h["t9+"], morula_h, 16 - 9)
    if "tM" in onsets_h:
        hours += _scattered_h(chance, onsets_h["tM"], onsets_h.get("tSB", onsets_h["tM"] + 8.0), CELLS_AT_MOST - 16)
    return tuple(hour for hour in hours if hour <= frozen_h)


def _scattered_h(chance: Chance, since_h: float, until_h: float, count: int) -> list[float]:
    return sorted(round(since_h + (until_h - since_h) * share, 6) for share in chance.shares(count))

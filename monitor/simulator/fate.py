"""How far a virtual embryo gets, how vigorous it is, and which of its divisions hide in others: drawn before any hour.

The end is drawn first and vigour around it, so that the share of arrests is exactly what was asked for; all early signs
follow vigour with noise of their own, so that they tell of the end only with much overlap. It refuses to know hours.
"""

from __future__ import annotations

from dataclasses import dataclass

from monitor.simulator.chance import Chance
from monitor.simulator.tables import DIRECT_CLEAVAGE_H, LEAST_GAP_H, PHASES

TIMED = PHASES[:15]
DIVISIONS = ("t3", "t4", "t5", "t6", "t7", "t8")  # onsets that can hide in the next one

# last phase -> (share of all embryos in per cent, mean vigour of those that stop there), from the attrition of the
# public videos; the means are ours, set so that a predictor who knows the early signs does as well as one does in life
_ARREST = {
    "tPNf": (1.0, -1.7), "t2": (0.5, -1.7), "t3": (2.0, -1.6), "t4": (2.0, -1.5), "t5": (1.5, -1.4), "t6": (1.0, -1.4),
    "t7": (1.0, -1.3), "t8": (4.5, -1.2), "t9+": (7.5, -1.0), "tM": (7.0, -0.8), "tSB": (8.0, -0.6),
}  # fmt: skip
_BLASTOCYST = {"tB": (12.0, 0.35), "tEB": (52.0, 0.65)}
_WITHIN = 0.65  # scatter of vigour among embryos of one fate
_DIRECT_Z = 1.15  # 12 % of those that reach t3 lie above
_DIRECT_WEAK = 0.45
# chance that an onset hides in the next one, given that the next is reached
_HIDES = {"t3": 0.283, "t4": 0.05, "t5": 0.205, "t6": 0.205, "t7": 0.21, "t8": 0.046}
_T6_AFTER_HIDDEN_T5 = 0.06  # three cells at once are rarer than two of the chances above would make them


def _moments() -> tuple[float, float]:
    fates = [*_ARREST.values(), *_BLASTOCYST.values()]
    total = sum(share for share, _ in fates)
    mean = sum(share * vigour for share, vigour in fates) / total
    between = sum(share * (vigour - mean) ** 2 for share, vigour in fates) / total
    return mean, (between + _WITHIN**2) ** 0.5


_MEAN, _SPREAD = _moments()


@dataclass(frozen=True)
class Fate:
    """What decides one embryo's hours. `vigour` and `noise` (15): standard normal; `hidden` (6): as `DIVISIONS`."""

    last: str
    vigour: float
    direct: bool
    direct_wait_h: float
    hidden: tuple[bool, ...]
    noise: tuple[float, ...]

    @property
    def arrests(self) -> bool:
        """Whether it never reaches tB."""
        return self.last in _ARREST


def draw_fate(chance: Chance, arrest_share: float) -> Fate:
    """One fate; `arrest_share` (0 to 1) of all never reach tB."""
    kinds = _ARREST if chance.happens(arrest_share) else _BLASTOCYST
    last = list(kinds)[chance.index(tuple(share for share, _ in kinds.values()))]
    vigour = round((kinds[last][1] + _WITHIN * chance.normal() - _MEAN) / _SPREAD, 9)
    score = -_DIRECT_WEAK * vigour + (1 - _DIRECT_WEAK**2) ** 0.5 * chance.normal()
    direct = round(score, 9) > _DIRECT_Z and TIMED.index(last) >= TIMED.index("t3")
    longest_h = DIRECT_CLEAVAGE_H - 0.1
    wait_h = LEAST_GAP_H + (longest_h - LEAST_GAP_H) * max(chance.share(), chance.share())
    hidden: dict[str, bool] = {}
    for phase in DIVISIONS:
        drawn, share = chance.share(), _HIDES[phase]
        if phase == "t6" and hidden["t5"]:
            share = _T6_AFTER_HIDDEN_T5
        possible = TIMED.index(phase) < TIMED.index(last) and not (phase == "t3" and direct)
        hidden[phase] = possible and drawn < share and not (phase == "t4" and (hidden["t3"] or direct))
    return Fate(last, vigour, direct, wait_h, tuple(hidden.values()), tuple(chance.normals(len(TIMED))))

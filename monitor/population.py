"""When embryos do what, and how far people agree about it: the numbers that lateness is measured against.

Percentiles of the public videos are those that virtual lives are held against (`monitor.simulator.tables`, one copy);
the scatter is of onsets annotated by several operators. Hours are hours post insemination. It judges no embryo.
"""

from __future__ import annotations

from collections.abc import Mapping

from monitor.simulator.tables import DIRECT_CLEAVAGE_H, INTERVAL_H, ONSET_H, SKIPPED
from monitor.vocabulary import PHASES

__all__ = ["DIRECT_CLEAVAGE_H", "HUMAN_SD_H", "followers", "interval_p95_h", "onset_p95_h"]

# one standard deviation between operators (literature on annotation of time-lapse videos)
HUMAN_SD_H: Mapping[str, float] = {
    "tPNa": 1.13, "tPNf": 0.50, "t2": 0.91, "t3": 1.81, "t4": 1.34, "t5": 1.49, "t6": 1.61, "t7": 2.93, "t8": 5.36,
    "t9+": 4.42, "tM": 5.46, "tSB": 3.78, "tB": 3.29, "tEB": 4.85,
}  # fmt: skip


# stages of which it is known how long embryos take to them. Not t4: three cells are four within an hour, models and
# people take one for the other, and whoever waits for the fifth has seen both
_LANDMARKS = {later for _, later in INTERVAL_H} - {"t4"}


def followers(phase: str) -> tuple[str, ...]:
    """What is waited for in a phase: the next landmark, and what often follows in its place where it is passed over."""
    at = PHASES.index(phase)
    landmark = next(other for other in PHASES[at + 1 :] if other in _LANDMARKS)
    often = [other for one, other in SKIPPED if one == phase and PHASES.index(other) > PHASES.index(landmark)]
    return (landmark, *often)


def onset_p95_h(phase: str) -> float | None:
    """The hour at which 95 % of the videos that reach a phase have reached it."""
    return ONSET_H[phase][-1] if phase in ONSET_H else None


def interval_p95_h(later: str) -> Mapping[str, float]:
    """earlier phase -> the hours within which 95 % of the videos that show both have gone from it to `later`."""
    return {one: hours[-1] for (one, other), hours in INTERVAL_H.items() if other == later}

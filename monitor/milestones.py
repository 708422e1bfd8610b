"""What a reading's stage says of arrest, direct and reverse cleavage, and the blastocyst: numbers, each with its
evidence.

Pure: it knows one reading and the tables of `monitor.population`, no limit and nothing of what came before. Lateness is
counted beyond what 95 of 100 embryos need, in standard deviations between people who annotate it, so that no limit of a
whole unit is tighter than people agree with each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from monitor.population import DIRECT_CLEAVAGE_H, HUMAN_SD_H, followers, interval_p95_h, onset_p95_h
from monitor.vocabulary import PHASES, Stage

Values = dict[str, float | int | str | None]

NOT_LATE = -9.0  # far below every limit: a stage from which nothing more is waited for
WAVERS = 0.25  # of the raw posterior at or beyond the stage that is waited for
BLASTOCYST = ("tB", "tEB", "tHB")
# cycle -> where it begins and ends: in the first of these that was seen, for a phase may hide between two frames
CYCLES = {"cc2": (("t2",), ("t3", "t4")), "cc3": (("t3", "t4"), ("t5", "t6"))}


@dataclass(frozen=True)
class Said:
    """A number (None: it cannot be told), and what it rests on. `fact`: the name of what it tells of."""

    value: float | None
    values: Values = field(default_factory=dict)
    fact: str | None = None


def lateness(stage: Stage, hpi: float | None) -> Said:
    """How late the stage after the present one is.

    Both clocks must say so: the hour post insemination, and the time since an earlier onset. An embryo that was slow
    from the start is late by the first only, one that is early by the second only. The present stage is the further of
    both labels, and where stages are often passed over the more patient of the next two decides. Nothing is said while
    the raw posterior leaves room for the next stage: a model that wavers between two has not seen an embryo stand
    still.
    """
    now = max(stage.live, stage.revised, key=PHASES.index)
    if PHASES.index(now) >= PHASES.index("tB"):
        return Said(NOT_LATE, {"stage": now})
    waited_for = followers(now)
    beyond = sum(p for phase, p in stage.probabilities.items() if PHASES.index(phase) >= PHASES.index(waited_for[0]))
    if beyond >= WAVERS:
        return Said(None, {"stage": now})
    measures = [_late_for(stage, now, later, hpi) for later in waited_for]
    known = [one for one in measures if one.value is not None]
    if not known or len(known) < len(measures):
        return Said(None, {"stage": now})
    return min(known, key=lambda one: one.value or 0.0)


def _late_for(stage: Stage, now: str, later: str, hpi: float | None) -> Said:
    scatter_h = HUMAN_SD_H[later]
    values: Values = {"stage": now, "waited_for": later, "scatter_h": scatter_h}
    found: list[float] = []
    p95_h = onset_p95_h(later)
    if hpi is not None and p95_h is not None:
        values |= {"hpi": hpi, "hpi_p95": p95_h}
        found.append((hpi - p95_h) / scatter_h)
    hour = hpi if stage.onsets_since == "insemination" else None
    for earlier, most_h in interval_p95_h(later).items():
        since = _seen_from(stage, earlier, later)
        if hour is not None and since is not None:
            waited_h = hour - stage.onsets_h[since]
            values |= {"since": since, "waited_h": round(waited_h, 2), "waited_p95_h": most_h}
            found.append((waited_h - most_h) / math.hypot(scatter_h, stage.onsets_sd_h.get(since, 0.0)))
    return Said(max(min(found), NOT_LATE) if found else None, values, now)


def _seen_from(stage: Stage, earlier: str, later: str) -> str | None:
    """The stage itself, or the first that was seen in its place where it lay hidden between two frames."""
    between = PHASES[PHASES.index(earlier) : PHASES.index(later)]
    return next((phase for phase in between if phase in stage.onsets_h), None)


def direct_cleavage(stage: Stage, cycle: str) -> Said:
    """P(the cycle lasted less than 5 h), as if the two onsets erred apart and normally."""
    begin, end = (next((phase for phase in ends if phase in stage.onsets_h), None) for ends in CYCLES[cycle])
    if begin is None or end is None:
        return Said(None, {}, cycle)
    lasted_h = stage.onsets_h[end] - stage.onsets_h[begin]
    sd_h = max(math.hypot(stage.onsets_sd_h.get(begin, 0.0), stage.onsets_sd_h.get(end, 0.0)), 1e-3)
    p = 0.5 * (1 + math.erf((DIRECT_CLEAVAGE_H - lasted_h) / sd_h / math.sqrt(2)))
    values: Values = {"cycle": cycle, "from": begin, "to": end, "lasted_h": round(lasted_h, 2), "sd_h": round(sd_h, 2)}
    return Said(p, values, cycle)


def stepped_back(stage: Stage) -> bool:
    """Whether the raw posterior stands below the cell count that was reached."""
    return stage.stepped_back


def blastocyst_share(stage: Stage) -> Said:
    """The raw posterior's share of the stages from tB on."""
    share = sum(stage.probabilities.get(phase, 0.0) for phase in BLASTOCYST)
    return Said(min(share, 1.0), {"live": stage.live, "revised": stage.revised}, "blastocyst")

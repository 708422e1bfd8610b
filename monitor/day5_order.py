"""Blastocysts in the order of their readings, held against a clinic's word of good or poor: to evaluate, on pictures.

By what the graders expect, and by two measures of the parts: how large the body is, how much of it the cavity. No
reading is told with such a rank: this orders embryos whose outcome is known, to see whether the readings know it too.
It refuses to know pictures, and to say what should be done with an embryo.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from engines.day5 import Grade
from monitor.gardner import Criterion, Day5Reading
from monitor.simulator.outlook import roc_auc

POINTS = {Grade.A: 2.0, Grade.B: 1.0, Grade.C: 0.0}
GOOD, POOR = "good", "poor"


@dataclass(frozen=True)
class Known:
    """One embryo, the clinic's words (`3AA`) and its verdict ("good", "poor" or another), and the reading."""

    embryo: str
    words: str
    quality: str
    reading: Day5Reading


def points_of(reading: Day5Reading) -> float:
    """The expected expansion, and from expansion 3 on two points for A and one for B of each of ICM and TE; 0 where no
    blastocyst is seen. What the graders disagree about is expected all the same."""
    if reading.expansion is None:
        return 0.0
    expected = sum(one * p for one, p in reading.expansion.probabilities.items())
    return float(expected + sum(_letter(one) for one in (reading.icm, reading.te) if one is not None))


def _letter(one: Criterion[Grade]) -> float:
    return sum(POINTS[grade] * p for grade, p in one.probabilities.items())


def body_of(reading: Day5Reading) -> float:
    """The body's diameter: a blastocyst expands. 0 where nothing was measured."""
    return (reading.measured and reading.measured.body_diameter) or 0.0


def cavity_of(reading: Day5Reading) -> float:
    """The cavity's share of the body; 0 where nothing was measured."""
    return (reading.measured and reading.measured.blastocoel_fraction) or 0.0


RANKS: dict[str, Callable[[Day5Reading], float]] = {"grade": points_of, "body": body_of, "cavity": cavity_of}


def auc_of(known: Sequence[Known], rank: Callable[[Day5Reading], float] = points_of) -> float | None:
    """The share of pairs of a good and a poor one that a rank puts right; None without both."""
    judged = [one for one in known if one.quality in (GOOD, POOR)]
    good = np.array([one.quality == GOOD for one in judged])
    if not good.any() or good.all():
        return None
    return roc_auc(np.array([rank(one.reading) for one in judged]), good)


def ordered(title: str, known: Sequence[Known]) -> str:
    """A line for each, the largest first, and the AUC of each rank, for a terminal or a log."""
    lines = [f"{title}: {len(known)} embryos; " + "  ".join(RANKS)]
    for one in sorted(known, key=lambda each: (-body_of(each.reading), each.embryo)):
        ranks = f"{points_of(one.reading):6.2f} {body_of(one.reading):6.0f} {cavity_of(one.reading):6.2f}"
        lines.append(f"  {ranks}  {one.words:<5} {one.quality:<5} {one.embryo:<10} {one.reading.text()}")
    aucs = [(name, auc_of(known, rank)) for name, rank in RANKS.items()]
    told = "  ".join(f"{name} {auc:.2f}" for name, auc in aucs if auc is not None)
    lines.append(f"  AUC of good against poor: {told}" if told else "  no AUC: it needs good and poor ones")
    return "\n".join(lines)

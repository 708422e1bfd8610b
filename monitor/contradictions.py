"""Measurements that speak against a grade: the table of what does not go together, and the words for it.

Pure. A contradiction changes no grade: either the masks or the graders are wrong, or the embryo is unusual, and a
person looks. It refuses to know who is right.

Gardner's scale has words, no figures. The limits lie where the words can no longer be meant, and beyond what 1 in 100
drawn embryos of that grade reaches (measured on the drawing's own masks; to be measured again on masks of real ones).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engines.day5 import Gardner, Grade
from engines.measure import Measurements

ZONA_THICK_UM = 13.0  # "zona thin" from 4 on; a zona before expansion has about 15 um, drawn 4s at most 12.2 (p99)
ZONA_THICK_SHARE = 0.105  # of the body's diameter, where no pixel size is known: 12 um of 115 um
ZONA_THIN_UM = 4.5  # 1 and 2 have a zona not yet stretched; drawn ones at least 5.0 (p1)
CAVITY_SMALL = 0.5  # of the body's area: 3 is a cavity that fills it; drawn 3s at least .59 (p1)
CAVITY_LARGE = 0.8  # 1 is under half of the volume; drawn 1s at most .76 (p99: the sheet above and below hides little)
BODY_SMALL_UM = 120.0  # 4 is larger than the early embryo, which has 115 um inside of the zona; drawn 4s from 127 (p1)
ZONA_OPEN = 0.1  # share of directions without zona: a gap that wide is hatching; drawn 1 to 4 have none
ZONA_CLOSED = 0.02  # 5 and 6 have a gap; drawn ones from .04 (p1)
ICM_SMALL_UM2 = 900.0  # C is "few cells"; drawn A and B from 1,150 (p1)
ICM_LARGE_UM2 = 1000.0  # drawn C to 740 (p99)


@dataclass(frozen=True)
class Contradiction:
    """`word` is the flag; `says` explains it to people; `holds` whether a grade and its measurements clash."""

    word: str
    says: str
    holds: Callable[[Gardner, Measurements], bool]


def contradictions(grade: Gardner, measured: Measurements) -> tuple[str, ...]:
    """The flags of one reading, in order of name. What was not graded or not measured contradicts nothing."""
    return tuple(sorted(one.word for one in TABLE if one.holds(grade, measured)))


def _zona_thick(grade: Gardner, measured: Measurements) -> bool:
    thickness, body = measured.zona_thickness_mean, measured.body_diameter
    if (grade.expansion or 0) < 4 or thickness is None or body is None:
        return False
    return thickness > ZONA_THICK_UM if measured.unit == "um" else thickness > ZONA_THICK_SHARE * body


def _below(value: float | None, limit: float) -> bool:
    return value is not None and value < limit


def _above(value: float | None, limit: float) -> bool:
    return value is not None and value > limit


def _um(measured: Measurements) -> bool:
    return measured.unit == "um"


TABLE = (
    Contradiction("zona_thick", "expansion 4 or more, but the zona is thick", _zona_thick),
    Contradiction(
        "zona_thin",
        "expansion 1 or 2, but the zona is stretched thin",
        lambda g, m: g.expansion in (1, 2) and _um(m) and _below(m.zona_thickness_mean, ZONA_THIN_UM),
    ),
    Contradiction(
        "cavity_small",
        "expansion 3 or more, but the cavity takes less than half of the body",
        lambda g, m: (g.expansion or 0) >= 3 and _below(m.blastocoel_fraction, CAVITY_SMALL),
    ),
    Contradiction(
        "cavity_large",
        "expansion 1, but the cavity takes most of the body",
        lambda g, m: g.expansion == 1 and _above(m.blastocoel_fraction, CAVITY_LARGE),
    ),
    Contradiction(
        "body_small",
        "expansion 4 or more, but no larger than an early embryo",
        lambda g, m: (g.expansion or 0) >= 4 and _um(m) and _below(m.body_diameter, BODY_SMALL_UM),
    ),
    Contradiction(
        "zona_open",
        "expansion below 5, but the zona has a gap",
        lambda g, m: 1 <= (g.expansion or 0) <= 4 and _above(m.zona_gap, ZONA_OPEN),
    ),
    Contradiction(
        "zona_closed",
        "hatching or hatched, but no gap is seen in the zona",
        lambda g, m: (g.expansion or 0) >= 5 and _below(m.zona_gap, ZONA_CLOSED),
    ),
    Contradiction(
        "icm_small",
        "inner cell mass A or B, but small",
        lambda g, m: g.icm in (Grade.A, Grade.B) and _um(m) and _below(m.icm_area, ICM_SMALL_UM2),
    ),
    Contradiction(
        "icm_large",
        "inner cell mass C, but large",
        lambda g, m: g.icm is Grade.C and _um(m) and _above(m.icm_area, ICM_LARGE_UM2),
    ),
)

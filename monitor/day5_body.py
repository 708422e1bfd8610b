"""What is told of day 5, in an event and in the readings after it: grade, measurements, how they came about.

Lengths and areas in the unit that `measured.unit` names: um, or px of the frame where no pixel size is known. Pure
shapes: it refuses to know how any of it was found.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from monitor.body import Body, Time

Day5Outcome = Literal["graded", "no_blastocyst", "not_gradable", "no_embryo"]


class Day5Frame(Body):
    """Which frame was worked on: `reading` is the id of its reading at that time."""

    reading: str
    captured_at: Time | None
    run: int | None
    hpi: float | None


class Day5Grade(Body):
    """Gardner's grade; ICM and TE from expansion 3 on, null also where no class was sure. `source`: who gave it."""

    expansion: int
    icm: str | None
    te: str | None
    source: Literal["networks"] = "networks"


class Day5Criterion(Body):
    """One of expansion, ICM, TE: see `monitor.gardner.Criterion`."""

    grade: str | None
    reason: str | None
    probabilities: dict[str, float]
    said: dict[str, str]
    agreement: str | None


class Day5Measured(Body):
    """See `engines.measure.Measurements`."""

    unit: Literal["um", "px"]
    body_area: float | None
    icm_area: float | None
    te_area: float | None
    zona_area: float | None
    blastocoel_area: float | None
    body_diameter: float | None
    icm_diameter: float | None
    outer_diameter: float | None
    zona_thickness_mean: float | None
    zona_thickness_min: float | None
    te_thickness_mean: float | None
    blastocoel_fraction: float | None
    icm_roundness: float | None
    zona_gap: float | None


class Day5Collapse(Body):
    """Hours as in `Day5Course`."""

    began_h: float
    lowest_h: float
    depth: float
    recovered_h: float | None


class Day5Course(Body):
    """How the body's area went on over the frames worked on; hours since the embryo's first frame."""

    rate_per_h: float | None
    collapses: tuple[Day5Collapse, ...]


class Day5(Body):
    """The result of one frame of day 5. `id` is the event's that told it first; `revision` counts those of an embryo.

    `stage`: the furthest phase by the embryo's history, null for a moment without one. `agreement`: the least of the
    criteria's. `plane_um`: the plane that the overlay shows; `overlay`: SHA-256 of the picture.
    """

    id: str
    revision: int
    frame: Day5Frame
    outcome: Day5Outcome
    reason: str | None
    stage: str | None
    grade: Day5Grade | None = None
    agreement: Literal["same", "one_apart", "apart", "alone"] | None = None
    criteria: dict[Literal["expansion", "icm", "te"], Day5Criterion] = Field(default_factory=dict)
    measured: Day5Measured | None = None
    course: Day5Course | None = None
    flags: tuple[str, ...] = ()
    crop_confidence: float | None = None
    plane_um: int | None = None
    overlay: str | None = None
    engines: dict[str, str] = Field(default_factory=dict)

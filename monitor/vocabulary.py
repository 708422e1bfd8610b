"""The nouns: place, moment, plane file, stack, observation, reading. No behaviour beyond naming and ordering.

Units stand in names (`_um _px _h _s`). Times are aware UTC. Axes: P planes (ascending um), H, W.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from enum import Enum
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import Field

from monitor.body import INTENDED_USE as INTENDED_USE
from monitor.body import Body as Body
from monitor.body import Time as Time
from monitor.body import rfc3339 as rfc3339
from monitor.day5_body import Day5

Gray = npt.NDArray[np.uint8]

# The 16 phases of the public annotations, in order (Gomez et al. 2022).
PHASES = (
    *("tPB2", "tPNa", "tPNf", "t2", "t3", "t4", "t5", "t6", "t7", "t8", "t9+"),
    *("tM", "tSB", "tB", "tEB", "tHB"),
)


class Clock(Protocol):
    """Time, passed in so that tests own it."""

    def now(self) -> datetime:
        """Aware UTC."""

    def monotonic(self) -> float:
        """Seconds that never go back."""


@dataclass(frozen=True, order=True)
class Place:
    """Where an embryo lies. Every part is a topic word (`A-Z a-z 0-9 . _ -`)."""

    incubator: str
    dish: str
    well: str

    def __str__(self) -> str:
        return f"{self.incubator}/{self.dish}/{self.well}"


@dataclass(frozen=True)
class Moment:
    """Which frame: the source's clock where it has one, else the maker's frame number, else the only frame there is.

    `hours` is what a time file says of this frame (hours post insemination), if the layout has such a file.
    `slide` is the maker's own name of the dish that the frame number counts in, where file names hold it.
    `file_at` is when its first file was written, for layouts whose names hold no clock: it tells hours, never identity,
    since a copied or touched file has another.
    """

    captured_at: datetime | None = None
    run: int | None = None
    hours: float | None = None
    slide: str | None = None
    file_at: datetime | None = None

    @property
    def key(self) -> str:
        """The frame's name within its embryo: part of the reading's identity, so it never changes."""
        if self.captured_at is not None:
            return self.captured_at.astimezone(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        return "only" if self.run is None else f"run{self.run}"

    @property
    def order(self) -> float:
        """Sorts frames of one embryo: seconds since 1970, or the frame number."""
        if self.captured_at is not None:
            return self.captured_at.timestamp()
        return 0.0 if self.run is None else float(self.run)

    @property
    def rank(self) -> tuple[str, float]:
        """Sorts frames of one well, also where two slides lay in it (their names begin with the date)."""
        return self.slide or "", self.order

    @property
    def at(self) -> datetime | None:
        """When it was taken, as far as anything tells: the source's clock, else the file's time."""
        return self.captured_at or self.file_at


@dataclass(frozen=True)
class FileSeen:
    """A file as a scan saw it: path relative to the incubator's folder (with `/`), size, time of last change."""

    path: str
    size_bytes: int
    mtime_ns: int

    @property
    def mtime(self) -> datetime:
        return datetime.fromtimestamp(self.mtime_ns / 1e9, timezone.utc)


@dataclass(frozen=True)
class PlaneFile:
    """One plane of one embryo at one moment, in a finished file that the layout understands.

    `page` counts from 0 in a file that holds all planes; None where the file is the plane.
    """

    place: Place
    moment: Moment
    plane_um: int
    file: FileSeen
    page: int | None = None


@dataclass(frozen=True, eq=False)
class PlaneImage:
    """A decoded plane: `gray` (H, W) uint8, and the SHA-256 of the file it came from (the same for all its pages)."""

    source: PlaneFile
    gray: Gray
    digest: str


class Outcome(str, Enum):
    """What became of a frame. A closed set: it labels a metric."""

    JUDGED = "judged"
    UNFIT = "unfit"
    LACKING = "lacking"
    OUT_OF_ORDER = "out_of_order"
    REVISED = "revised"
    ENGINE_FAILED = "engine_failed"


@dataclass(frozen=True, eq=False)
class FocalStack:
    """All planes of one embryo at one moment, or what of them came before the deadline.

    `missing_um`: planes the incubator declares and that are not here. `lacking`: the deadline passed and the models do
    not judge so few planes (or none decoded). `broken`: paths of planes that are there but do not decode.
    """

    place: Place
    moment: Moment
    images: tuple[PlaneImage, ...]
    missing_um: tuple[int, ...]
    broken: tuple[str, ...] = ()
    lacking: bool = False

    @property
    def grays(self) -> dict[int, Gray]:
        """Plane in um -> its pixels."""
        return {image.source.plane_um: image.gray for image in self.images}

    @property
    def complete_at(self) -> datetime | None:
        """When the last of its files was finished."""
        return max((image.source.file.mtime for image in self.images), default=None)


class Measured(Body):
    """What a picture shows, in the interior of the well, all of one plane: the sharpest (`sharpest_plane_um`).

    `mean_gray`: brightness, 0 to 255. `contrast_gray`: how far gray varies over some 4 um to 10 um, where it varies
    most. `sharpness`: detail of about 2 um per such contrast, no unit. `embryo_ratio`: the embryo's diameter, a share
    of the well's; null where no model asked where the embryo lies, or it was not found for sure.
    """

    mean_gray: float
    contrast_gray: float
    sharpness: float
    sharpest_plane_um: int
    embryo_ratio: float | None = None


@dataclass(frozen=True, eq=False)
class Observation:
    """A stack and whether it is fit to be judged. `flags`: words of a closed set, in order of name.

    `measured` is None where no plane decoded.
    """

    stack: FocalStack
    fit: bool
    flags: tuple[str, ...]
    measured: Measured | None = None


class EmbryoName(Body):
    incubator: str
    dish: str
    well: str
    embryo_id: str


class FrameBody(Body):
    """Which frame a reading is about. `run` is the maker's frame number; `sources` are paths below the incubator's, one
    for each plane (the same path again where one file holds them all)."""

    captured_at: Time | None
    run: int | None
    hpi: float | None
    hpi_source: Literal["file", "config", "command", "assumed", "unknown"]
    planes: tuple[int, ...]
    missing_planes: tuple[int, ...]
    sources: tuple[str, ...]


class Calibration(Body):
    """How a model's probabilities were brought in line with what came true, on what, and how far off they still are
    there (`ece`: expected calibration error)."""

    method: str
    fitted_on: str
    ece: float | None = None


class Blastocyst(Body):
    """P(blastocyst) and the age of the memory it rests on (hours; null before the first cache is committed).

    `spread`: largest less smallest probability when the segment's first fit frame is judged with planes taken away;
    null where the model is not asked so, or only one plane was there. `calibration`: null where the model has none.
    """

    probability: float = Field(ge=0, le=1)
    state_age_h: float | None
    segments_missed: int
    spread: float | None = None
    calibration: Calibration | None = None


class Stage(Body):
    """The developmental stage after a frame, in the words of `PHASES`.

    `live`: from this frame and those before it, with hysteresis; `live_probability`: its share of `probabilities`, the
    raw posterior. `revised`: where the likeliest path that never steps back stands now, and `onsets_h` where it entered
    its phases, with the standard deviation of each over all such paths: hours after `onsets_since`. The phase of the
    first frame has no onset. `stepped_back`: the raw posterior stands below the cell count that was reached (reverse
    cleavage, or an error); nothing of it is decoded away. `intervals_h`: cc2 (t3 - t2), s2 (t4 - t3), cc3 (t5 - t3), s3
    (t8 - t5), those of which both onsets are known, with the standard deviation as if the two erred apart.
    """

    live: str
    live_probability: float = Field(ge=0, le=1)
    revised: str
    probabilities: dict[str, float]
    onsets_h: dict[str, float]
    onsets_sd_h: dict[str, float]
    onsets_since: Literal["insemination", "first_frame"]
    stepped_back: bool
    intervals_h: dict[str, float] = Field(default_factory=dict)
    intervals_sd_h: dict[str, float] = Field(default_factory=dict)


class Quality(Body):
    """Whether the frame was fit, why not or what is odd, and what was measured of it when it was judged."""

    fit: bool
    flags: tuple[str, ...]
    measured: Measured | None = None


class Reading(Body):
    """What is told of one frame of one embryo: schema `pellucid.reading/1`.

    `id` is stable: the same fact has the same id however often it is sent. `seq` counts readings, events and alerts of
    this node without gaps; it and `boot_id` are absent from a replay, where nothing is sent. `lacks`: what is not said,
    or rests on too little, and why, in words of a closed set.
    """

    schema_: Literal["pellucid.reading/1"] = Field(default="pellucid.reading/1", alias="schema")
    id: str
    seq: int | None = None
    boot_id: str | None = None
    occurred_at: Time | None
    revision: int
    supersedes: str | None
    embryo: EmbryoName
    frame: FrameBody
    outcome: Outcome
    blastocyst: Blastocyst | None
    stage: Stage | None = None
    day5: Day5 | None = None
    lacks: dict[str, str] = Field(default_factory=dict)
    quality: Quality
    engines: dict[str, str]
    intended_use: str = INTENDED_USE

    def body(self) -> str:
        """The JSON text that is journalled and sent; `published_at` and `historical` are added when it is sent."""
        absent = {name for name in ("seq", "boot_id") if getattr(self, name) is None}
        return self.model_dump_json(by_alias=True, exclude=absent)


def reading_id(site: str, node: str, embryo_id: str, frame_key: str, revision: int) -> str:
    """The digest that names a reading: 32 hex digits of SHA-256 over what it is about, not over what it says."""
    text = "\n".join((site, node, embryo_id, frame_key, str(revision)))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def elapsed_h(later: datetime, earlier: datetime) -> float:
    return (later - earlier) / timedelta(hours=1)

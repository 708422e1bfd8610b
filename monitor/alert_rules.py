"""What an operator may set about alerts: for each kind where it enters and leaves, how long it must last and rests.

It knows numbers and their direction; what is compared with them is decided in `monitor.decide`.
"""

from __future__ import annotations

from datetime import datetime, time, timezone, tzinfo
from typing import Annotated, ClassVar, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Kind = Literal[
    "frame_gap",
    "imaging_degraded",
    "well_empty",
    "low_blastocyst_probability",
    "arrest",
    "direct_cleavage",
    "reverse_cleavage",
    "blastocyst_reached",
    "engine_failing",
    "storage_low",
]
KINDS: tuple[Kind, ...] = (
    *("frame_gap", "imaging_degraded", "well_empty", "low_blastocyst_probability"),
    *("arrest", "direct_cleavage", "reverse_cleavage", "blastocyst_reached"),
    *("engine_failing", "storage_low"),
)
OF_EMBRYOS: tuple[Kind, ...] = KINDS[3:8]  # what the models say of an embryo; the others are of pictures and machines


class Rule(BaseModel):
    """An alert is raised when its value has been at or past `enter` for `for_min` minutes (and `frames` frames), and is
    cleared when it is at or past `leave`; then it rests `cooldown_min` minutes before it may be raised again.

    `low_is_bad`: past means at or below. Without a clock only `frames` counts. `escalate_after_min`: it is called
    again, once, where nobody has acknowledged it for so long.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    low_is_bad: ClassVar[bool] = False
    frames: ClassVar[int] = 1
    unit: ClassVar[str] = ""

    enabled: bool = True
    enter: float
    leave: float
    for_min: float = Field(ge=0)
    cooldown_min: float = Field(ge=0)
    escalate_after_min: float = Field(default=0.0, ge=0, description="0: never")

    @model_validator(mode="after")
    def _leaves_on_the_good_side(self) -> Rule:
        if self.low_is_bad and self.leave <= self.enter:
            raise ValueError(f"leave = {self.leave} must be above enter = {self.enter}: low values are the bad ones")
        if not self.low_is_bad and self.leave >= self.enter:
            raise ValueError(f"leave = {self.leave} must be below enter = {self.enter}: high values are the bad ones")
        return self

    def entered(self, value: float) -> bool:
        return value <= self.enter if self.low_is_bad else value >= self.enter

    def left(self, value: float) -> bool:
        return value >= self.leave if self.low_is_bad else value <= self.leave


class FrameGap(Rule):
    """Silence of an incubator in which embryos lie, in cadences (the time between its frames)."""

    unit: ClassVar[str] = "cadences"
    enter: float = Field(default=2.5, ge=1)
    leave: float = Field(default=1.0, ge=0)
    for_min: float = Field(default=0.0, ge=0)
    cooldown_min: float = Field(default=0.0, ge=0)
    escalate_after_min: float = Field(default=30.0, ge=0)


class _OfPictures(Rule):
    """Share of an embryo's last 6 frames in which something was wrong."""

    unit: ClassVar[str] = "share of the last 6 frames"
    frames: ClassVar[int] = 2
    enter: float = Field(default=0.5, gt=0, le=1)
    leave: float = Field(default=0.2, ge=0, lt=1)
    for_min: float = Field(default=20.0, ge=0)
    cooldown_min: float = Field(default=60.0, ge=0)
    escalate_after_min: float = Field(default=120.0, ge=0)


class ImagingDegraded(_OfPictures):
    """Share of an embryo's last 6 frames that were dark, bright, blurred or short of planes."""


class WellEmpty(_OfPictures):
    """Share of an embryo's last 6 frames in which no embryo was seen."""


class OfMostWells(Rule):
    """Share of an incubator's embryos that are past one kind's limit: most of them at once have one cause."""

    unit: ClassVar[str] = "share of the incubator's embryos"
    enter: float = Field(default=0.5, gt=0, le=1)
    leave: float = Field(default=0.2, ge=0, lt=1)
    for_min: float = Field(default=0.0, ge=0)
    cooldown_min: float = Field(default=0.0, ge=0)
    escalate_after_min: float = Field(default=30.0, ge=0)
    least: int = Field(default=3, ge=2, description="embryos; fewer are told of one by one")


class Checkpoint(BaseModel):
    """An hour post insemination at which the probability is looked at, and the limit that holds there; 0: not looked.
    An hour post insemination at which the probability is looked at, and the limit that holds there; 0: not looked."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    hpi: float = Field(ge=0)
    enter: float = Field(ge=0, lt=1)


class LowBlastocystProbability(Rule):
    """The model's P(blastocyst), at the checks of day 3 and day 4, and from an hour on where it means more."""

    low_is_bad: ClassVar[bool] = True
    frames: ClassVar[int] = 3
    unit: ClassVar[str] = "probability"
    enter: float = Field(default=0.10, ge=0, lt=1)
    leave: float = Field(default=0.20, gt=0, le=1)
    for_min: float = Field(default=360.0, ge=0)  # one segment of AMSNet: the same verdict from two memories
    cooldown_min: float = Field(default=720.0, ge=0)
    from_hpi: float = Field(default=96.0, ge=0, description="hours post insemination from which it always counts")
    day3: Checkpoint = Checkpoint(hpi=68.0, enter=0.05)
    day4: Checkpoint = Checkpoint(hpi=92.0, enter=0.10)

    @model_validator(mode="after")
    def _checks_leave_too(self) -> LowBlastocystProbability:
        for name, check in (("day3", self.day3), ("day4", self.day4)):
            if self.leave <= check.enter:
                raise ValueError(f"leave = {self.leave} must be above {name}.enter = {check.enter}")
        return self


class Arrest(Rule):
    """How late the next stage is: beyond the hour at which 95 of 100 embryos have reached it, and beyond the time they
    take to it, in standard deviations between people who annotate it. Below 1 would be tighter than people agree."""

    frames: ClassVar[int] = 3
    unit: ClassVar[str] = "standard deviations between annotators, beyond the 95th percentile"
    enter: float = Field(default=2.0, ge=1)
    leave: float = Field(default=0.0)
    for_min: float = Field(default=60.0, ge=0)
    cooldown_min: float = Field(default=0.0, ge=0)


class _Probability(Rule):
    """A share of certainty, from 0 to 1."""

    frames: ClassVar[int] = 3
    unit: ClassVar[str] = "probability"
    enter: float = Field(default=0.8, gt=0, le=1)
    leave: float = Field(default=0.2, ge=0, lt=1)
    for_min: float = Field(default=60.0, ge=0)
    cooldown_min: float = Field(default=0.0, ge=0)


class DirectCleavage(_Probability):
    """P(cc2 < 5 h), and P(cc3 < 5 h) for the next cycle, given the onsets and their standard deviations."""


class ReverseCleavage(Rule):
    """Share of an embryo's last 6 staged frames whose raw posterior stood below the cell count that was reached."""

    unit: ClassVar[str] = "share of the last 6 frames"
    enter: float = Field(default=0.3, gt=0, le=1)
    leave: float = Field(default=0.0, ge=0, lt=1)
    for_min: float = Field(default=0.0, ge=0)
    cooldown_min: float = Field(default=720.0, ge=0)


class BlastocystReached(_Probability):
    """The raw posterior's share of the stages from tB on."""


class EngineFailing(Rule):
    """Share of the last 20 frames given to the engine that got no answer."""

    unit: ClassVar[str] = "share of the last 20 frames"
    enter: float = Field(default=0.15, gt=0, le=1)
    leave: float = Field(default=0.0, ge=0, lt=1)
    for_min: float = Field(default=0.0, ge=0)
    cooldown_min: float = Field(default=0.0, ge=0)
    escalate_after_min: float = Field(default=30.0, ge=0)


class StorageLow(Rule):
    """Free space where the journal lies, in GiB."""

    low_is_bad: ClassVar[bool] = True
    unit: ClassVar[str] = "GiB free"
    enter: float = Field(default=2.0, ge=0)
    leave: float = Field(default=3.0, gt=0)
    for_min: float = Field(default=1.0, ge=0)
    cooldown_min: float = Field(default=0.0, ge=0)
    escalate_after_min: float = Field(default=60.0, ge=0)


def _known_zone(name: str) -> str:
    try:
        _zone(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as fault:
        raise ValueError(f"{name!r} is no time zone this machine knows (apt install tzdata)") from fault
    return name


def _zone(name: str) -> tzinfo:
    return timezone.utc if name == "UTC" else ZoneInfo(name)


def _without_offset(at: time) -> time:
    """The zone is said once: an offset would be another one, and not that of summer too."""
    if at.tzinfo is not None:
        raise ValueError('a time of day ("22:00") without an offset; use zone = ...')
    return at


HourOfDay = Annotated[time, AfterValidator(_without_offset)]


class QuietHours(BaseModel):
    """From when to when nobody is to be rung for some kinds; what happens then is recorded and shown all the same."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    begins: HourOfDay
    ends: HourOfDay
    zone: Annotated[str, AfterValidator(_known_zone)] = "UTC"
    kinds: tuple[Kind, ...] = OF_EMBRYOS

    @model_validator(mode="after")
    def _lasts(self) -> QuietHours:
        if self.begins == self.ends:
            raise ValueError(f"begins and ends are both {self.begins:%H:%M}: take the section away, or let them differ")
        return self

    def hold(self, kind: str, now: datetime) -> bool:
        """Whether a word about this kind is quiet at this moment."""
        at = now.astimezone(_zone(self.zone)).time()
        within = self.begins <= at < self.ends if self.begins < self.ends else at >= self.begins or at < self.ends
        return kind in self.kinds and within


class Alerts(BaseModel):
    """`[alerts.<kind>]` of the configuration, `[alerts.quiet]` and `[alerts.most_wells]`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    frame_gap: FrameGap = FrameGap()
    imaging_degraded: ImagingDegraded = ImagingDegraded()
    well_empty: WellEmpty = WellEmpty()
    low_blastocyst_probability: LowBlastocystProbability = LowBlastocystProbability()
    arrest: Arrest = Arrest()
    direct_cleavage: DirectCleavage = DirectCleavage()
    reverse_cleavage: ReverseCleavage = ReverseCleavage()
    blastocyst_reached: BlastocystReached = BlastocystReached()
    engine_failing: EngineFailing = EngineFailing()
    storage_low: StorageLow = StorageLow()
    most_wells: OfMostWells = OfMostWells()
    quiet: QuietHours | None = None

    def of(self, kind: str) -> Rule:
        rule: Rule = getattr(self, kind)
        return rule

    def is_quiet(self, kind: str, now: datetime | None) -> bool:
        """Whether nobody is to be rung for this kind now (None: a replay, which rings nobody)."""
        return self.quiet is not None and now is not None and self.quiet.hold(kind, now)


DEFAULTS = Alerts()

"""What an operator may set about alerts: for each kind where it enters and leaves, how long it must last and rests.

It knows numbers and their direction; what is compared with them is decided in `monitor.decide`.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

KINDS = (
    *("frame_gap", "imaging_degraded", "well_empty", "low_blastocyst_probability"),
    *("engine_failing", "storage_low"),
)


class Rule(BaseModel):
    """An alert is raised when its value has been at or past `enter` for `for_min` minutes (and `frames` frames), and is
    cleared when it is at or past `leave`; then it rests `cooldown_min` minutes before it may be raised again.

    `low_is_bad`: past means at or below. Without a clock only `frames` counts.
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


class _OfPictures(Rule):
    """Share of an embryo's last 6 frames in which something was wrong."""

    unit: ClassVar[str] = "share of the last 6 frames"
    frames: ClassVar[int] = 2
    enter: float = Field(default=0.5, gt=0, le=1)
    leave: float = Field(default=0.2, ge=0, lt=1)
    for_min: float = Field(default=20.0, ge=0)
    cooldown_min: float = Field(default=60.0, ge=0)


class ImagingDegraded(_OfPictures):
    """Share of an embryo's last 6 frames that were dark, bright, blurred or short of planes."""


class WellEmpty(_OfPictures):
    """Share of an embryo's last 6 frames in which no embryo was seen."""


class LowBlastocystProbability(Rule):
    """The model's P(blastocyst), once the embryo is old enough for it to mean something."""

    low_is_bad: ClassVar[bool] = True
    frames: ClassVar[int] = 3
    unit: ClassVar[str] = "probability"
    enter: float = Field(default=0.10, ge=0, lt=1)
    leave: float = Field(default=0.20, gt=0, le=1)
    for_min: float = Field(default=360.0, ge=0)  # one segment of AMSNet: the same verdict from two memories
    cooldown_min: float = Field(default=720.0, ge=0)
    from_hpi: float = Field(default=96.0, ge=0, description="hours post insemination before which nothing is said")


class EngineFailing(Rule):
    """Share of the last 20 frames given to the engine that got no answer."""

    unit: ClassVar[str] = "share of the last 20 frames"
    enter: float = Field(default=0.15, gt=0, le=1)
    leave: float = Field(default=0.0, ge=0, lt=1)
    for_min: float = Field(default=0.0, ge=0)
    cooldown_min: float = Field(default=0.0, ge=0)


class StorageLow(Rule):
    """Free space where the journal lies, in GiB."""

    low_is_bad: ClassVar[bool] = True
    unit: ClassVar[str] = "GiB free"
    enter: float = Field(default=2.0, ge=0)
    leave: float = Field(default=3.0, gt=0)
    for_min: float = Field(default=1.0, ge=0)
    cooldown_min: float = Field(default=0.0, ge=0)


class Alerts(BaseModel):
    """`[alerts.<kind>]` of the configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    frame_gap: FrameGap = FrameGap()
    imaging_degraded: ImagingDegraded = ImagingDegraded()
    well_empty: WellEmpty = WellEmpty()
    low_blastocyst_probability: LowBlastocystProbability = LowBlastocystProbability()
    engine_failing: EngineFailing = EngineFailing()
    storage_low: StorageLow = StorageLow()

    def of(self, kind: str) -> Rule:
        rule: Rule = getattr(self, kind)
        return rule


DEFAULTS = Alerts()

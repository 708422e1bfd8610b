"""The alert as it is told: its subject, state, limits, evidence. Nouns only; what raises one is in `monitor.decide`."""

from __future__ import annotations

from enum import Enum
from typing import Literal

from pydantic import Field

from monitor.vocabulary import INTENDED_USE, Body, Time

WhyCleared = Literal["recovered", "run_ended", "switched_off", "not_configured"]


class AlertState(str, Enum):
    """Where an alert stands. A closed set."""

    RAISED = "raised"
    UPDATED = "updated"
    ACKNOWLEDGED = "acknowledged"
    ESCALATED = "escalated"
    CLEARED = "cleared"


class AlertSubject(Body):
    """What an alert is about: an embryo, an incubator, an engine, or (all null) the node itself."""

    incubator: str | None = None
    dish: str | None = None
    well: str | None = None
    embryo_id: str | None = None
    engine: str | None = None

    @property
    def key(self) -> str:
        """The subject's name: alerts of one kind, one subject and one fact never stand open side by side."""
        if self.embryo_id is not None:
            return f"embryo/{self.embryo_id}"
        if self.incubator is not None:
            return f"incubator/{self.incubator}"
        return "node" if self.engine is None else f"engine/{self.engine}"


class Evidence(Body):
    """On what an alert rests: the reading it began with, the one that is told of, and the numbers looked at."""

    readings: tuple[str, ...] = ()
    values: dict[str, float | int | str | None] = Field(default_factory=dict)


class AlertLimits(Body):
    """The rule as it stood when this was said."""

    enter: float
    leave: float
    for_min: float
    unit: str


class Acknowledged(Body):
    """Who has taken note of an alert, and when."""

    by: str
    at: Time
    note: str | None = None


class Alert(Body):
    """One word about one alert: schema `pellucid.alert/1`. `alert_id` is the same from `raised` to `cleared`.

    `occurred_at` and `raised_at` are null where the frames have no clock. `value` is null where an alert is cleared
    because its run has ended. `members`: the embryos of an alert about an incubator that has one cause. `quiet`:
    said in the quiet hours: to be shown, not to be rung. It says what was seen, never what to do with an embryo.
    """

    schema_: Literal["pellucid.alert/1"] = Field(default="pellucid.alert/1", alias="schema")
    id: str
    seq: int | None = None
    boot_id: str | None = None
    occurred_at: Time | None
    alert_id: str
    kind: str
    state: AlertState
    revision: int
    subject: AlertSubject
    raised_at: Time | None
    value: float | None
    limits: AlertLimits
    text: str
    why_cleared: WhyCleared | None = None
    acknowledged: Acknowledged | None = None
    escalated_at: Time | None = None
    members: tuple[str, ...] = ()
    quiet: bool = False
    evidence: Evidence
    runbook: str
    intended_use: str = INTENDED_USE

    def body(self) -> str:
        """As `Reading.body`."""
        absent = {name for name in ("seq", "boot_id") if getattr(self, name) is None}
        return self.model_dump_json(by_alias=True, exclude=absent)

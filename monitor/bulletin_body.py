"""The standing messages as they are told: the node's status and health, an incubator's status. Nouns only.

They carry no `seq`: the latest replaces the one before.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from monitor.body import INTENDED_USE, Body, Time


class NodeStatus(Body):
    """Schema `pellucid.status/1`. `occurred_at` is null in the will (`offline`): when it is handed over nobody knows
    when the node will be gone. `session` grows by one with each session, so that an old session's will is told apart.
    """

    schema_: Literal["pellucid.status/1"] = Field(default="pellucid.status/1", alias="schema")
    id: str
    status: Literal["online", "stopped", "offline"]
    boot_id: str
    session: int
    version: str
    occurred_at: Time | None
    intended_use: str = INTENDED_USE


class Backlog(Body):
    """Frames seen and not yet journalled; how long the oldest has waited (0: none)."""

    frames: int
    oldest_age_s: float


class OutboxDepth(Body):
    """Messages that the broker has not acknowledged."""

    messages: int
    oldest_age_s: float


class EngineStanding(Body):
    """An engine that serves; `fallback`: on another runtime than it was meant for, and why."""

    task: str
    name: str
    version: str
    runtime: str
    sha256: str
    fallback: bool
    fallback_reason: str | None


class Disk(Body):
    """Where the journal lies."""

    free_bytes: int


class StorageStanding(Body):
    """Whether the journal took what the last turn gave it."""

    ok: bool


class AuditHead(Body):
    """The last row of the journal's hash chain. Kept elsewhere, it shows later that the chain was not written anew."""

    number: int
    hash: str


class Health(Body):
    """Schema `pellucid.health/1`: the node at `occurred_at`."""

    schema_: Literal["pellucid.health/1"] = Field(default="pellucid.health/1", alias="schema")
    id: str
    boot_id: str
    occurred_at: Time
    version: str
    uptime_s: float
    backlog: Backlog
    outbox: OutboxDepth
    last_step_at: Time | None
    engines: tuple[EngineStanding, ...]
    alerts_open: dict[str, int]
    disk: Disk
    storage: StorageStanding
    audit: AuditHead
    intended_use: str = INTENDED_USE


class LastFrameBody(Body):
    """The frame journalled last: by the incubator's clock (null without one) and by ours."""

    captured_at: Time | None
    recorded_at: Time


class IncubatorStatus(Body):
    """Schema `pellucid.incubator/1`: one incubator at `occurred_at`."""

    schema_: Literal["pellucid.incubator/1"] = Field(default="pellucid.incubator/1", alias="schema")
    id: str
    boot_id: str
    occurred_at: Time
    incubator: str
    reachable: bool
    last_frame: LastFrameBody | None
    gap_s: float | None
    cadence_min: float | None
    cadence_source: Literal["config", "measured"] | None
    active_embryos: int
    last_scan_at: Time | None
    intended_use: str = INTENDED_USE

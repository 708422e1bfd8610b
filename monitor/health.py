"""What a node says of itself and of its incubators: message bodies, made from facts and from nothing else.

Pure: no clock, no journal, no broker. Who gathers the facts and when they are told is in `monitor.bulletins`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Literal

from monitor.bulletin_body import (
    AuditHead,
    Backlog,
    Disk,
    EngineStanding,
    Health,
    IncubatorStatus,
    LastFrameBody,
    OutboxDepth,
    StorageStanding,
)
from monitor.vocabulary import rfc3339

HEALTH_TOPIC = "health"


def incubator_topic(incubator: str) -> str:
    """Below the root."""
    return f"incubator/{incubator}/status"


@dataclass(frozen=True)
class EngineFacts:
    """An engine that serves; `sha256` of its graph; `fallback`: on another runtime than it was meant for, and why."""

    task: str
    name: str
    version: str
    runtime: str
    sha256: str
    fallback: bool
    reason: str | None = None


@dataclass(frozen=True)
class NodeFacts:
    """Of the whole node. Ages are 0 where nothing waits; `last_step_at`: when a frame was last judged; `audit_head`:
    number and hash of the last row of the journal's chain."""

    version: str
    uptime_s: float
    frames_waiting: int
    oldest_frame_age_s: float
    outbox_messages: int
    outbox_oldest_age_s: float
    last_step_at: datetime | None
    engines: tuple[EngineFacts, ...]
    alerts_open: Mapping[str, int]
    disk_free_bytes: int
    storage_ok: bool
    audit_head: tuple[int, str]


@dataclass(frozen=True)
class IncubatorFacts:
    """Of one incubator. `recorded_at` is the last frame's time by our clock, `captured_at` by the incubator's."""

    incubator: str
    reachable: bool
    captured_at: datetime | None
    recorded_at: datetime | None
    configured_cadence_min: float | None
    measured_cadence_min: float | None
    active_embryos: int
    last_scan_at: datetime | None


def health_body(facts: NodeFacts, boot_id: str, at: datetime) -> str:
    """`pellucid.health/1` as of `at`; `seq`, `published_at` and `historical` are not here."""
    return Health(
        id=_name(boot_id, "health", at),
        boot_id=boot_id,
        occurred_at=at,
        version=facts.version,
        uptime_s=round(facts.uptime_s, 1),
        backlog=Backlog(frames=facts.frames_waiting, oldest_age_s=round(facts.oldest_frame_age_s, 1)),
        outbox=OutboxDepth(messages=facts.outbox_messages, oldest_age_s=round(facts.outbox_oldest_age_s, 1)),
        last_step_at=facts.last_step_at,
        engines=tuple(_standing(engine) for engine in facts.engines),
        alerts_open=dict(facts.alerts_open),
        disk=Disk(free_bytes=facts.disk_free_bytes),
        storage=StorageStanding(ok=facts.storage_ok),
        audit=AuditHead(number=facts.audit_head[0], hash=facts.audit_head[1]),
    ).model_dump_json(by_alias=True)


def incubator_body(facts: IncubatorFacts, boot_id: str, at: datetime) -> str:
    """`pellucid.incubator/1` as of `at`."""
    last_frame = gap_s = None
    source: Literal["config", "measured"] | None = None
    if facts.recorded_at is not None:
        last_frame = LastFrameBody(captured_at=facts.captured_at, recorded_at=facts.recorded_at)
        gap_s = round(max(0.0, (at - facts.recorded_at).total_seconds()), 1)
    cadence_min = facts.configured_cadence_min
    if cadence_min is not None:
        source = "config"
    elif facts.measured_cadence_min is not None:
        cadence_min, source = round(facts.measured_cadence_min, 2), "measured"
    return IncubatorStatus(
        id=_name(boot_id, facts.incubator, at),
        boot_id=boot_id,
        occurred_at=at,
        incubator=facts.incubator,
        reachable=facts.reachable,
        last_frame=last_frame,
        gap_s=gap_s,
        cadence_min=cadence_min,
        cadence_source=source,
        active_embryos=facts.active_embryos,
        last_scan_at=facts.last_scan_at,
    ).model_dump_json(by_alias=True)


def _standing(engine: EngineFacts) -> EngineStanding:
    facts = asdict(engine)
    return EngineStanding(fallback_reason=facts.pop("reason"), **facts)


def _name(boot_id: str, about: str, at: datetime) -> str:
    """Names the fact "so it stood at that moment": said again it is the same."""
    return f"{boot_id}-{about}-{rfc3339(at)}"

"""One payload or more of each kind, as it is sent: for whoever builds a reader and has no node at hand.

Made from the models, so that each is one; the numbers are invented.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

from monitor.alert import Acknowledged, Alert, AlertLimits, AlertState, AlertSubject, Evidence
from monitor.bulletin_body import (
    AuditHead,
    Backlog,
    Disk,
    EngineStanding,
    Health,
    IncubatorStatus,
    LastFrameBody,
    NodeStatus,
    OutboxDepth,
    StorageStanding,
)
from monitor.command_body import Acknowledge, Answer, Assess, Change, Command, End, Insemination
from monitor.day5_body import Day5, Day5Frame, Day5Grade
from monitor.event import Event, event_id
from monitor.vocabulary import (
    PHASES,
    Blastocyst,
    Body,
    EmbryoName,
    FrameBody,
    Measured,
    Outcome,
    Quality,
    Reading,
    Stage,
    reading_id,
    rfc3339,
)

AT = datetime(2026, 1, 9, 20, 0, tzinfo=timezone.utc)
BOOT = "0a1b2c3d4e5f6071"
EMBRYO = EmbryoName(incubator="inc1", dish="D1", well="3", embryo_id="inc1/D1/3/20260105T080000Z")
ALERT_ID = "5f0c1d2e3a4b59687706"
PLANES_UM = (-45, -30, -15, 0, 15, 30, 45)
MODEL = {"amsnet-small": "9" * 64}


def samples() -> dict[str, dict[str, Any]]:
    """name -> payload; the name begins with that of its schema."""
    said = {
        "reading": _reading(1),
        "reading-lacking": _lacking(),
        "event": _event(),
        "alert-raised": _alert(AlertState.RAISED),
        "alert-acknowledged": _alert(AlertState.ACKNOWLEDGED),
        "alert-cleared": _alert(AlertState.CLEARED),
        "status": _status("online", AT),
        "status-will": _status("offline", None),
        "health": _health(),
        "incubator": _incubator(),
    }
    stamps = {"published_at": rfc3339(AT + timedelta(seconds=4)), "historical": False}
    return {
        **{name: {**_json(body), **stamps} for name, body in said.items()},
        "answer": _json(_answer()),
        **{f"command-{one.name}": _json(one) for one in _commands()},
    }


def _json(body: Body) -> dict[str, Any]:
    absent = {key for key, value in body if value is None} if isinstance(body, Command) else None
    return dict(json.loads(body.model_dump_json(by_alias=True, exclude=absent)))


def _frame(planes: tuple[int, ...]) -> FrameBody:
    return FrameBody(
        captured_at=AT,
        run=None,
        hpi=128.0,
        hpi_source="config",
        planes=planes,
        missing_planes=tuple(um for um in PLANES_UM if um not in planes),
        sources=tuple(f"D1/3/{AT:%Y%m%dT%H%M%SZ}_F{um}.jpg" for um in planes),
    )


def _reading(seq: int) -> Reading:
    return Reading(
        id=reading_id("lab1", "box1", EMBRYO.embryo_id, f"{AT:%Y%m%dT%H%M%SZ}", 1),
        seq=seq,
        boot_id=BOOT,
        occurred_at=AT,
        revision=1,
        supersedes=None,
        embryo=EMBRYO,
        frame=_frame(PLANES_UM),
        outcome=Outcome.JUDGED,
        blastocyst=Blastocyst(probability=0.81, state_age_h=2.0, segments_missed=0, spread=0.05),
        stage=Stage(
            live="tB",
            live_probability=0.7,
            revised="tB",
            probabilities={phase: 0.7 if phase == "tB" else 0.02 for phase in PHASES},
            onsets_h={"t2": 26.1, "t3": 37.2, "tB": 108.4},
            onsets_sd_h={"t2": 0.3, "t3": 0.4, "tB": 1.9},
            onsets_since="insemination",
            stepped_back=False,
        ),
        quality=Quality(
            fit=True,
            flags=(),
            measured=Measured(mean_gray=58.2, contrast_gray=5.1, sharpness=1.31, sharpest_plane_um=0),
        ),
        engines=MODEL,
    )


def _lacking() -> Reading:
    """Too few planes at the deadline: recorded and told, not judged."""
    return _reading(2).model_copy(
        update={
            "frame": _frame((0, 15)),
            "outcome": Outcome.LACKING,
            "blastocyst": None,
            "stage": None,
            "quality": Quality(fit=False, flags=("lacking", "missing_planes")),
        }
    )


def _event() -> Event:
    reading = _reading(1)
    name = event_id("lab1", "box1", EMBRYO.embryo_id, "grade", f"{AT:%Y%m%dT%H%M%SZ}", 1)
    return Event(
        id=name,
        seq=3,
        boot_id=BOOT,
        occurred_at=AT,
        revision=1,
        supersedes=None,
        embryo=EMBRYO,
        day5=Day5(
            id=name,
            revision=1,
            frame=Day5Frame(reading=reading.id, captured_at=AT, run=None, hpi=128.0),
            outcome="graded",
            reason=None,
            stage="tB",
            grade=Day5Grade(expansion=4, icm="A", te="B"),
            agreement="same",
        ),
    )


def _alert(state: AlertState) -> Alert:
    revision = list(AlertState).index(state) + 1
    acknowledged = Acknowledged(by="R. Frank", at=AT, note="seen") if state is not AlertState.RAISED else None
    cleared = state is AlertState.CLEARED
    return Alert(
        id=f"{ALERT_ID}-{revision}",
        seq=3 + revision,
        boot_id=BOOT,
        occurred_at=AT,
        alert_id=ALERT_ID,
        kind="frame_gap",
        state=state,
        revision=revision,
        subject=AlertSubject(incubator="inc1"),
        raised_at=AT - timedelta(hours=1),
        value=0.4 if cleared else 3.1,
        limits=AlertLimits(enter=2.5, leave=1.0, for_min=0.0, unit="cadences"),
        text="no frame for 3.1 cadences",
        why_cleared="recovered" if cleared else None,
        acknowledged=acknowledged,
        evidence=Evidence(values={"silence_s": 1860.0, "cadence_min": 10.0, "embryos": 12}),
        runbook="runbook.md#frame_gap",
    )


def _status(status: Any, at: datetime | None) -> NodeStatus:
    return NodeStatus(id=f"{BOOT}-7-{status}", status=status, boot_id=BOOT, session=7, version="0.3.0", occurred_at=at)


def _health() -> Health:
    return Health(
        id=f"{BOOT}-health-{rfc3339(AT)}",
        boot_id=BOOT,
        occurred_at=AT,
        version="0.3.0",
        uptime_s=86400.5,
        backlog=Backlog(frames=0, oldest_age_s=0.0),
        outbox=OutboxDepth(messages=1, oldest_age_s=0.2),
        last_step_at=AT,
        engines=(
            EngineStanding(
                task="blastocyst",
                name="amsnet-small",
                version="0.2.0",
                runtime="onnxruntime",
                sha256="9" * 64,
                fallback=False,
                fallback_reason=None,
            ),
        ),
        alerts_open={"frame_gap": 1},
        disk=Disk(free_bytes=412_316_860_416),
        storage=StorageStanding(ok=True),
        audit=AuditHead(number=34563, hash="c" * 64),
    )


def _incubator() -> IncubatorStatus:
    return IncubatorStatus(
        id=f"{BOOT}-inc1-{rfc3339(AT)}",
        boot_id=BOOT,
        occurred_at=AT,
        incubator="inc1",
        reachable=True,
        last_frame=LastFrameBody(captured_at=AT - timedelta(minutes=31), recorded_at=AT - timedelta(minutes=31)),
        gap_s=1860.0,
        cadence_min=10.0,
        cadence_source="config",
        active_embryos=12,
        last_scan_at=AT,
    )


def _commands() -> tuple[Command, ...]:
    where = {"incubator": "inc1", "dish": "D1", "well": "3", "by": "R. Frank"}
    return (
        Acknowledge(id="ack-1", by="R. Frank", alert_id=ALERT_ID, note="seen"),
        Insemination.model_validate({**where, "time": rfc3339(AT - timedelta(hours=128))}),
        Assess.model_validate({**where, "grade": "4AB", "stage": "tB"}),
        End.model_validate({**where, "embryo_id": EMBRYO.embryo_id}),
    )


def _answer() -> Answer:
    return Answer(
        id="ack-1",
        command="acknowledge",
        accepted=True,
        code="done",
        reason="the alert is acknowledged",
        changed=(Change(what="acknowledged_by", before=None, after="R. Frank"),),
        boot_id=BOOT,
        occurred_at=AT,
    )

"""What a node says of itself and its incubators: the bodies, when they are told, and that they survive restarts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from monitor.bulletins import EVERY_S, Bulletins
from monitor.cadence import Cadences, measured_cadence_min
from monitor.fakes import ScriptedSession
from monitor.health import (
    EngineFacts,
    IncubatorFacts,
    NodeFacts,
    health_body,
    incubator_body,
)
from monitor.mqtt_session import Ended, Will
from monitor.publish import Publisher
from tests.house import PLANES_UM, START, FakeClock, node_over, take_all, write_frame
from tests.mosquitto import BrokerSettings, Heard, Listener, Mosquitto, needs_mosquitto
from tests.service import LIMIT_S, Service, leave_nothing_running, write_config

ENGINE = EngineFacts("blastocyst", "scripted", "0", "scripted", "0" * 64, fallback=False)
NODE = NodeFacts(
    "0.2.0", 61.04, 3, 12.34, 7, 99.99, START, (ENGINE,), {"frame_gap": 1}, 5_000_000_000, True, (7, "a" * 64)
)
INCUBATOR = IncubatorFacts("inc1", True, START, START + timedelta(minutes=2), None, 10.0, 6, START)
H = timedelta(hours=1)


def test_health_says_what_waits_what_serves_and_how_full_the_disk_is() -> None:
    assert json.loads(health_body(NODE, "boot1", START + H)) == {
        "schema": "pellucid.health/1",
        "id": "boot1-health-2026-01-05T09:00:00Z",
        "boot_id": "boot1",
        "occurred_at": "2026-01-05T09:00:00Z",
        "version": "0.2.0",
        "uptime_s": 61.0,
        "backlog": {"frames": 3, "oldest_age_s": 12.3},
        "outbox": {"messages": 7, "oldest_age_s": 100.0},
        "last_step_at": "2026-01-05T08:00:00Z",
        "engines": [
            {
                "task": "blastocyst",
                "name": "scripted",
                "version": "0",
                "runtime": "scripted",
                "sha256": "0" * 64,
                "fallback": False,
                "fallback_reason": None,
            }
        ],
        "alerts_open": {"frame_gap": 1},
        "disk": {"free_bytes": 5_000_000_000},
        "audit": {"number": 7, "hash": "a" * 64},
        "storage": {"ok": True},
        "intended_use": "research use, not validated on patients; adjunctive information only",
    }


def test_an_incubators_status_counts_the_gap_by_our_clock_and_says_where_the_cadence_comes_from() -> None:
    body = json.loads(incubator_body(INCUBATOR, "boot1", START + H))
    assert body == {
        "schema": "pellucid.incubator/1",
        "id": "boot1-inc1-2026-01-05T09:00:00Z",
        "boot_id": "boot1",
        "occurred_at": "2026-01-05T09:00:00Z",
        "incubator": "inc1",
        "reachable": True,
        "last_frame": {"captured_at": "2026-01-05T08:00:00Z", "recorded_at": "2026-01-05T08:02:00Z"},
        "gap_s": 58 * 60.0,
        "cadence_min": 10.0,
        "cadence_source": "measured",
        "active_embryos": 6,
        "last_scan_at": "2026-01-05T08:00:00Z",
        "intended_use": "research use, not validated on patients; adjunctive information only",
    }


def test_a_configured_cadence_goes_before_a_measured_one_and_what_nobody_knows_is_null() -> None:
    configured = IncubatorFacts("inc1", False, None, None, 5.0, 10.0, 0, None)
    body = json.loads(incubator_body(configured, "boot1", START))
    assert (body["cadence_min"], body["cadence_source"]) == (5.0, "config")
    assert (body["last_frame"], body["gap_s"], body["last_scan_at"]) == (None, None, None)
    unknown = IncubatorFacts("inc1", False, None, START + H, None, None, 0, None)
    body = json.loads(incubator_body(unknown, "boot1", START))
    assert (body["cadence_min"], body["cadence_source"]) == (None, None)
    assert body["last_frame"]["captured_at"] is None and body["gap_s"] == 0.0, "a clock set back makes no negative gap"


def test_the_cadence_is_the_median_over_all_embryos_so_one_gap_does_not_move_it() -> None:
    regular = ["20260105T083000Z", "20260105T082000Z", "20260105T081000Z", "20260105T080000Z"]
    gap = ["20260105T120000Z", "20260105T081000Z", "20260105T080000Z"]
    assert measured_cadence_min([regular, gap]) == 10.0
    assert measured_cadence_min([[], ["20260105T080000Z"]]) is None


@dataclass
class Looked:
    """A share as the bulletins see it."""

    looked_s: float | None
    away: bool = False


class Desk:
    """Bulletins over a real journal; the broker is scripted and takes everything, the clock is the test's."""

    def __init__(self, tmp_path: Path, clock: FakeClock, boot_id: str = "boot1", **incubator: object) -> None:
        self.clock = clock
        self.node = node_over(tmp_path, clock, boot_id=boot_id)
        self.sessions: list[ScriptedSession] = []
        self.looks = {"inc1": Looked(clock.seconds)}
        self.publisher = Publisher(
            *(BrokerSettings(), "root", self.node.journal.outbox),
            boot_id=boot_id,
            version="0.2.0",
            now=clock.now,
            monotonic=clock.monotonic,
            wake=lambda: None,
            jitter=lambda: 0.0,
            open_session=self.open_session,
        )
        cadences = Cadences(
            {"inc1": incubator.get("cadence_min")},  # type: ignore[dict-item]
            self.node.journal.last_frames,
            clock.monotonic,
        )
        self.bulletins = Bulletins(
            *(self.node, cadences, self.looks, lambda: (ENGINE,), tmp_path, self.publisher, clock, boot_id, "0.2.0")
        )

    def open_session(self, will: Will) -> ScriptedSession:
        self.sessions.append(ScriptedSession(will))
        return self.sessions[-1]

    def connect(self) -> None:
        self.publisher.tick()
        self.sessions[-1].accept()
        self.publisher.tick()
        self.answer()

    def answer(self) -> None:
        self.sessions[-1].acknowledge()
        self.publisher.tick()

    def turn(self, seconds: float = 0.0, storage_ok: bool = True) -> list[str]:
        """One turn after so many seconds; the topics below the root that were told in it."""
        self.clock.pass_s(seconds)
        before = len(self.sessions[-1].sent) if self.sessions else 0
        self.publisher.tick()
        self.bulletins.tell(storage_ok)
        told = [topic.removeprefix("root/") for _, topic, _, _ in (self.sessions[-1].sent[before:])]
        self.answer()
        return [topic for topic in told if topic not in ("status",) and not topic.endswith("/reading")]

    def last(self, topic: str) -> dict[str, Any]:
        """What stands in the retained topic."""
        sent = [(payload, retain) for _, name, payload, retain in self.sessions[-1].sent if name == f"root/{topic}"]
        assert sent[-1][1], "it is retained"
        return dict(json.loads(sent[-1][0]))


INC1 = "incubator/inc1/status"


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path, FakeClock())
    yield made
    made.node.journal.close()


def test_both_are_told_at_once_in_every_new_session_then_every_minute(desk: Desk) -> None:
    desk.connect()
    assert desk.turn() == ["health", INC1]
    assert [desk.turn(1.0) for _ in range(59)] == [[]] * 59
    assert desk.turn(1.0) == ["health", INC1]
    assert EVERY_S == 60.0
    desk.sessions[-1].events.append(Ended("lost"))
    desk.publisher.tick()
    desk.clock.pass_s(2.0)
    desk.connect()
    assert desk.turn() == ["health", INC1]


def test_nothing_is_told_and_nothing_is_kept_while_there_is_no_broker(desk: Desk) -> None:
    desk.bulletins.tell(True)
    desk.clock.pass_s(3600)
    desk.bulletins.tell(True)
    assert desk.node.journal.outbox.depth() == (0, None)
    desk.connect()
    desk.turn()
    assert desk.last("health")["uptime_s"] == 3600.0


def test_an_incubator_that_goes_away_or_comes_back_or_sends_a_frame_is_told_of_at_once(
    desk: Desk, tmp_path: Path
) -> None:
    desk.connect()
    desk.turn()
    desk.looks["inc1"].away = True
    assert desk.turn(1.0) == [INC1]
    assert desk.last(INC1)["reachable"] is False
    assert desk.turn(1.0) == []
    desk.looks["inc1"].away = False
    assert desk.turn(1.0) == [INC1]
    assert desk.last(INC1)["reachable"] is True
    write_frame(tmp_path / "inc", "1", START)
    take_all(desk.node)
    assert desk.turn(1.0) == [INC1]
    body = desk.last(INC1)
    assert (body["active_embryos"], body["gap_s"]) == (1, 1.0)
    assert body["last_frame"]["captured_at"] == "2026-01-05T08:00:00Z"


def test_a_volley_of_frames_is_told_of_once_a_second_at_most(desk: Desk, tmp_path: Path) -> None:
    desk.connect()
    desk.turn()
    told = []
    for well in range(20):
        write_frame(tmp_path / "inc", str(well), START)
        take_all(desk.node)
        told += desk.turn(0.1)
    assert told == [INC1] * 2


def test_every_payload_carries_what_every_payload_must(desk: Desk) -> None:
    desk.connect()
    desk.turn()
    for topic in ("health", INC1):
        body = desk.last(topic)
        assert {"schema", "id", "boot_id", "occurred_at", "published_at", "historical", "intended_use"} <= set(body)
        assert "seq" not in body


def test_health_tells_of_the_backlog_the_outbox_and_a_store_that_refuses(desk: Desk, tmp_path: Path) -> None:
    write_frame(tmp_path / "inc", "1", START)
    take_all(desk.node)
    desk.clock.pass_s(600)
    write_frame(tmp_path / "inc", "2", START, PLANES_UM[1:])
    desk.node.intakes["inc1"].look(full=True)
    desk.clock.pass_s(30)
    desk.connect()
    desk.bulletins.tell(False)
    body = desk.last("health")
    assert body["backlog"] == {"frames": 1, "oldest_age_s": 30.0}
    assert body["outbox"] == {"messages": 0, "oldest_age_s": 0.0}, "the scripted broker took it"
    assert body["storage"] == {"ok": False}
    assert body["last_step_at"] == "2026-01-05T08:00:00Z"
    assert body["disk"]["free_bytes"] > 0
    assert body["engines"][0]["name"] == "scripted"


def test_after_a_restart_the_last_frame_the_cadence_and_the_last_step_are_as_before(tmp_path: Path) -> None:
    clock = FakeClock(START + 5 * H)
    first = Desk(tmp_path, clock)
    for k in range(5):
        write_frame(tmp_path / "inc", "1", START + timedelta(minutes=12 * k))
        write_frame(tmp_path / "inc", "2", START + timedelta(minutes=12 * k, seconds=30))
    take_all(first.node)
    write_frame(tmp_path / "inc", "1", START + 3 * H, level=0)  # dark: a frame, not a step
    clock.pass_s(60)
    take_all(first.node)
    first.node.journal.close()
    clock.pass_s(600)
    second = Desk(tmp_path, clock, "boot2")
    second.connect()
    second.turn()
    body = second.last(INC1)
    assert body["last_frame"] == {"captured_at": "2026-01-05T11:00:00Z", "recorded_at": "2026-01-05T13:01:00Z"}
    assert (body["gap_s"], body["cadence_min"], body["active_embryos"]) == (600.0, 12.0, 2)
    assert second.last("health")["last_step_at"] == "2026-01-05T13:00:00Z"
    second.node.journal.close()


def test_a_late_word_about_an_earlier_frame_is_not_the_last_frame(desk: Desk, tmp_path: Path) -> None:
    write_frame(tmp_path / "inc", "1", START + H)
    take_all(desk.node)
    before = desk.node.journal.last_frames.of("inc1")
    desk.clock.pass_s(600)
    write_frame(tmp_path / "inc", "1", START)
    (late,) = take_all(desk.node)
    assert late.outcome.value == "out_of_order"
    assert desk.node.journal.last_frames.of("inc1") == before
    write_frame(tmp_path / "inc", "2", START)  # of another embryo: captured earlier, recorded later
    take_all(desk.node)
    last = desk.node.journal.last_frames.of("inc1")
    assert last is not None and (last.captured_at, last.recorded_at) == (START, desk.clock.at)


def bodies(heard: list[Heard], topic: str) -> list[dict[str, Any]]:
    return [one.body for one in heard if one.topic == f"pellucid/v1/lab/box/{topic}"]


@pytest.mark.broker
@needs_mosquitto
def test_the_service_tells_health_and_status_again_to_a_broker_that_lost_them_and_after_its_own_restart(
    tmp_path: Path,
) -> None:
    try:
        with Mosquitto(tmp_path) as broker:
            config = write_config(tmp_path, broker.port)
            service = Service(config)
            write_frame(tmp_path / "inc1", "1", START)
            with Listener(broker.port) as listener:
                heard = listener.wait_for(
                    lambda heard: any(body["last_frame"] for body in bodies(heard, INC1)), LIMIT_S
                )
                (health, *_) = bodies(heard, "health")
                assert health["schema"] == "pellucid.health/1" and health["storage"] == {"ok": True}
                assert (
                    health["engines"][0]["runtime"].startswith("onnxruntime") and not health["engines"][0]["fallback"]
                )
                last = bodies(heard, INC1)[-1]
                assert last["reachable"] and last["active_embryos"] == 1
            broker.kill()
            broker.lose_store()
            broker.start()
            with Listener(broker.port) as listener:
                listener.wait_for(lambda heard: bodies(heard, "health") and bodies(heard, INC1), LIMIT_S)  # type: ignore[arg-type,return-value]
            assert service.terminate() == 0
            service = Service(config)
            with Listener(broker.port) as listener:
                again = listener.wait_for(
                    lambda heard: any(body["boot_id"] != last["boot_id"] for body in bodies(heard, INC1)), LIMIT_S
                )
                assert bodies(again, INC1)[-1]["last_frame"] == last["last_frame"]
            assert service.terminate() == 0
    finally:
        leave_nothing_running()

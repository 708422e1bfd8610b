"""A row leaves the outbox when the broker has taken responsibility for it, and never before. No broker needed here."""

from __future__ import annotations

import itertools
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.delivery import ACK_LIMIT_S
from monitor.fakes import ScriptedOutbox, ScriptedSession
from monitor.mqtt_login import read_password
from monitor.mqtt_session import Acknowledged, Connected, Ended, Event, MqttSession, Received, Subscribed, Will
from monitor.outbox import OutboxRow, stamped
from monitor.publish import CONNECT_LIMIT_S, FIRST_REASSERT_S, REASSERT_STATUS_S, Publisher, Reply
from tests.mosquitto import BrokerSettings

ROOT = "pellucid/v1/lab1/box1"
NOON = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)


@dataclass
class Desk:
    """A publisher whose clock, broker and outbox belong to the test."""

    broker: BrokerSettings = field(default_factory=BrokerSettings)
    outbox: ScriptedOutbox = field(default_factory=ScriptedOutbox)
    seconds: float = 0.0
    wakes: int = 0
    sessions: list[ScriptedSession] = field(default_factory=list)
    outcomes: list[tuple[str, str, int]] = field(default_factory=list)
    ups: list[tuple[bool, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.publisher = Publisher(
            self.broker,
            ROOT,
            self.outbox,
            boot_id="boot",
            version="0.1.0",
            now=lambda: NOON + timedelta(seconds=self.seconds),
            monotonic=lambda: self.seconds,
            wake=self.wake,
            observe=self,
            jitter=lambda: 0.0,
            open_session=self.open_session,
        )

    def wake(self) -> None:
        self.wakes += 1

    def open_session(self, will: Will) -> ScriptedSession:
        self.sessions.append(ScriptedSession(will))
        return self.sessions[-1]

    def connected(self, up: bool, session: int) -> None:
        self.ups.append((up, session))

    def published(self, kind: str, outcome: str, row: OutboxRow) -> None:
        self.outcomes.append((kind, outcome, row.row_id))

    @property
    def line(self) -> ScriptedSession:
        return self.sessions[-1]

    def put(self, topic: str, **members: object) -> OutboxRow:
        return self.outbox.put("reading", topic, json.dumps(members))

    def connect(self, limits: Connected | None = None) -> None:
        """Tick until the broker has accepted a session and acknowledged its birth (and nothing more)."""
        self.be_let_in(limits)
        self.line.events.append(Acknowledged(self.line.sent[0][0]))
        self.line.answered = max(1, self.line.answered)
        self.publisher.tick()
        assert self.publisher.connected

    def be_let_in(self, limits: Connected | None = None) -> None:
        """Tick until the broker has accepted a session."""
        self.publisher.tick()
        self.line.accept(limits)
        self.publisher.tick()
        assert not self.publisher.connected

    def answer(self, refuse_topics: Sequence[str] = ()) -> None:
        self.line.acknowledge(refuse_topics)
        self.publisher.tick()

    def lose(self, reason: str = "the connection ended") -> None:
        self.line.events.append(Ended(reason))
        self.publisher.tick()

    def said(self, session: ScriptedSession | None = None) -> list[str]:
        """Topics below the root, status left out, in the order sent."""
        topics = [topic.removeprefix(f"{ROOT}/") for _, topic, _, _ in (session or self.line).sent]
        return [topic for topic in topics if topic != "status"]

    def left(self) -> list[int]:
        return [row.row_id for row in self.outbox.pending(0, 1_000_000)]


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_rows_go_out_in_row_order_and_leave_the_outbox_only_when_acknowledged(desk: Desk) -> None:
    for n in range(5):
        desk.put(f"embryo/{n}/reading")
    desk.connect()
    assert desk.said() == [f"embryo/{n}/reading" for n in range(5)]
    assert desk.left() == [1, 2, 3, 4, 5]
    desk.answer()
    assert desk.left() == []
    assert desk.outbox.removals == [[1, 2, 3, 4, 5]]
    assert [outcome for outcome in desk.outcomes if outcome[0] == "reading"] == [
        ("reading", "delivered", row_id) for row_id in range(1, 6)
    ]


@pytest.mark.parametrize(("max_inflight", "receive_maximum", "window"), [(10, 65_535, 10), (100, 20, 20)])
def test_no_more_messages_are_on_their_way_than_both_sides_allow(
    max_inflight: int, receive_maximum: int, window: int
) -> None:
    desk = Desk(BrokerSettings(max_inflight=max_inflight))
    for n in range(70):
        desk.put(f"embryo/{n}/reading")
    desk.connect(Connected(receive_maximum=receive_maximum))
    on_their_way = [desk.publisher.inflight]
    while desk.left():
        desk.answer()
        on_their_way.append(desk.publisher.inflight)
    assert on_their_way[:3] == [window, window, window] and max(on_their_way) == window
    assert desk.said() == [f"embryo/{n}/reading" for n in range(70)]


def test_what_a_lost_session_left_unanswered_goes_out_again_with_the_same_body(desk: Desk) -> None:
    desk.put("embryo/1/reading", id="a", value=0.1)
    desk.connect()
    first = desk.line.sent[-1][2]
    desk.lose()
    assert not desk.publisher.connected
    assert desk.left() == [1]
    desk.seconds += 2
    desk.connect()
    again = desk.line.sent[-1][2]
    assert first.split(b', "published_at"')[0] == again.split(b', "published_at"')[0] == b'{"id": "a", "value": 0.1'
    assert json.loads(again)["published_at"] == "2026-01-31T12:00:02Z"
    assert desk.ups == [(True, 1), (False, 1), (True, 2)]


def test_a_late_acknowledgment_of_an_old_session_removes_nothing(desk: Desk) -> None:
    desk.put("embryo/1/reading")
    desk.connect()
    old = desk.line
    desk.lose()
    old.acknowledge()
    desk.seconds += 2
    desk.connect()
    assert desk.left() == [1]


def test_a_refused_login_is_never_connected_and_the_attempts_grow_rarer_up_to_a_minute(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.put("embryo/1/reading")
    began: list[float] = []
    for _ in range(9):
        while len(desk.sessions) == len(began):
            desk.publisher.tick()
            desk.seconds += 0.25
        began.append(desk.seconds - 0.25)
        desk.lose("the broker refused the connection: Not authorized")
        assert not desk.publisher.connected
    waits = [later - sooner for sooner, later in itertools.pairwise(began)]
    assert waits == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60], abs=0.5)
    assert desk.publisher.session == 9
    assert desk.left() == [1] and desk.ups == []
    assert "Not authorized" in caplog.text and "127.0.0.1" in caplog.text


def test_a_broker_that_accepts_and_hangs_up_is_not_called_every_second(desk: Desk) -> None:
    for _ in range(4):
        desk.be_let_in()
        desk.lose()
        desk.seconds += 60
    desk.lose()
    desk.be_let_in()
    desk.lose()
    before = len(desk.sessions)
    desk.seconds += 15.5
    desk.publisher.tick()
    assert len(desk.sessions) == before


def test_an_acknowledged_birth_makes_the_next_wait_short_again(desk: Desk) -> None:
    for _ in range(4):
        desk.connect()
        desk.lose()
        desk.seconds += 60
    desk.connect()
    desk.answer()
    desk.lose()
    desk.seconds += 1.1
    desk.publisher.tick()
    assert len(desk.sessions) == 6


def test_will_and_birth_carry_the_number_of_their_session(desk: Desk) -> None:
    desk.connect()
    desk.lose()
    desk.seconds += 2
    desk.connect()
    will, birth = json.loads(desk.line.will.payload), json.loads(desk.line.sent[0][2])
    assert (will["status"], will["session"], will["occurred_at"]) == ("offline", 2, None)
    assert (birth["status"], birth["session"], birth["occurred_at"]) == ("online", 2, "2026-01-31T12:00:02Z")
    assert desk.line.will.topic == desk.line.sent[0][1] == f"{ROOT}/status"
    assert desk.line.sent[0][3], "the birth is retained"
    assert {"schema", "id", "boot_id", "version", "published_at", "historical", "intended_use"} <= set(will) & set(
        birth
    )


def test_the_status_is_said_again_from_time_to_time_with_the_same_id(desk: Desk) -> None:
    desk.connect()
    desk.answer()
    for wait_s in (FIRST_REASSERT_S, REASSERT_STATUS_S):  # the last session's will may have come after the birth
        desk.seconds += wait_s - 1
        desk.publisher.tick()
        desk.seconds += 1
        desk.publisher.tick()
        desk.answer()
    said = [json.loads(payload) for _, topic, payload, _ in desk.line.sent if topic.endswith("/status")]
    assert len({status.pop("published_at") for status in said}) == len(said) == 3
    assert said[0] == said[1] == said[2]


def test_retained_topics_are_said_again_at_connect_before_the_waiting_rows(desk: Desk) -> None:
    desk.outbox.put("alert", "alert/7", '{"id": "x"}', retain=True)
    desk.connect()
    desk.answer()
    desk.lose()
    desk.put("embryo/1/reading")
    desk.seconds += 2
    desk.connect()
    assert desk.said() == ["alert/7", "embryo/1/reading"]
    desk.answer()
    assert ("alert", "repeated", 0) in desk.outcomes


def test_a_broker_that_lets_us_in_and_denies_our_birth_is_not_connected_until_it_takes_it(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.be_let_in()
    tries = [0.0]
    desk.answer(refuse_topics=["/status"])
    while len(tries) < 7:
        before = len(desk.line.sent)
        desk.seconds += 0.5
        desk.publisher.tick()
        if len(desk.line.sent) > before:
            tries.append(desk.seconds)
            desk.answer(refuse_topics=["/status"])
    assert not desk.publisher.connected and desk.ups == []
    assert [later - sooner for sooner, later in itertools.pairwise(tries)] == [1, 2, 4, 8, 16, 32]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1 and f"{ROOT}/status" in warnings[0] and "tried again" in warnings[0]
    desk.seconds += 60
    desk.publisher.tick()
    desk.answer()
    assert desk.publisher.connected and desk.ups == [(True, 1)]


def test_retained_state_that_was_refused_is_said_again_when_the_broker_takes_it(desk: Desk) -> None:
    desk.outbox.put("alert", "alert/7", '{"n": 1}', retain=True)
    desk.connect()
    desk.answer()
    desk.lose()
    desk.seconds += 2
    desk.connect()
    desk.answer(refuse_topics=["/7"])
    desk.seconds += 1
    desk.publisher.tick()
    assert desk.said() == ["alert/7", "alert/7"]
    desk.answer()
    desk.seconds += 100
    desk.publisher.tick()
    assert desk.said() == ["alert/7", "alert/7"]


def test_of_a_refused_topic_outside_the_outbox_only_the_latest_word_is_tried_again(desk: Desk) -> None:
    desk.connect()
    desk.publisher.publish_now("health", '{"n": 1}', True)
    desk.answer(refuse_topics=["/health"])
    for n in (2, 3):
        desk.publisher.publish_now("health", json.dumps({"n": n}), True)
    assert len(desk.line.sent) == 2, "it rests"
    desk.seconds += 1
    desk.publisher.tick()
    assert [json.loads(payload)["n"] for _, topic, payload, _ in desk.line.sent[1:]] == [1, 3]


def test_a_refused_repetition_never_follows_a_newer_row_of_its_topic(desk: Desk) -> None:
    desk.outbox.put("reading", "a", '{"n": 1}', retain=True)
    desk.connect()
    desk.answer()
    desk.lose()
    desk.seconds += 2
    desk.connect()
    repeated = desk.line.sent[-1][0]
    desk.outbox.put("reading", "a", '{"n": 2}', retain=True)
    desk.publisher.tick()
    desk.line.events.append(Acknowledged(repeated, "no (135)"))
    desk.line.answered = repeated
    desk.answer()
    desk.seconds += 100
    desk.publisher.tick()
    desk.answer()
    assert [json.loads(payload)["n"] for _, topic, payload, _ in desk.line.sent if topic.endswith("/a")] == [1, 2]
    assert desk.left() == []


def test_a_network_thread_that_dies_in_silence_is_noticed(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.connect()
    desk.line.alive = False
    desk.publisher.tick()
    assert not desk.publisher.connected
    assert "died" in caplog.text
    desk.seconds += 2
    desk.connect()


def test_no_answer_to_connect_ends_the_attempt(desk: Desk) -> None:
    desk.publisher.tick()
    desk.seconds += CONNECT_LIMIT_S
    desk.publisher.tick()
    assert desk.line.abandoned


def test_a_broker_that_acknowledges_nothing_is_left(desk: Desk) -> None:
    desk.connect()
    desk.answer()
    desk.seconds += 10 * ACK_LIMIT_S
    desk.publisher.tick()
    assert desk.publisher.connected, "nothing to acknowledge is no silence"
    desk.answer()
    desk.put("embryo/1/reading")
    desk.publisher.tick()
    desk.seconds += ACK_LIMIT_S
    desk.publisher.tick()
    assert not desk.publisher.connected
    assert desk.line.abandoned and desk.left() == [1]


def test_a_new_session_waits_until_the_old_network_thread_has_ended(desk: Desk) -> None:
    desk.connect()
    old = desk.line
    desk.lose()
    old.alive = True
    desk.seconds += 5
    desk.publisher.tick()
    assert len(desk.sessions) == 1
    old.alive = False
    desk.publisher.tick()
    assert len(desk.sessions) == 2


def test_a_refused_row_stays_and_holds_up_its_own_topic_only(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    for topic in ("a", "b", "a", "b"):
        desk.put(topic)
    desk.connect()
    desk.answer(refuse_topics=["/a"])
    assert desk.left() == [1, 3]
    desk.put("a")
    desk.put("b")
    desk.publisher.tick()
    assert desk.said() == ["a", "b", "a", "b", "b"]
    assert ("reading", "refused", 1) in desk.outcomes
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == 1 and f"{ROOT}/a" in lines[0] and "Not authorized (135)" in lines[0]


def test_a_refused_topic_is_tried_again_one_row_at_a_time_ever_more_rarely(desk: Desk) -> None:
    for _ in range(50):
        desk.put("a")
    desk.connect()
    tries: list[float] = []
    desk.answer(refuse_topics=["/a"])
    while len(tries) < 8:
        before = len(desk.line.sent)
        desk.seconds += 0.5
        desk.publisher.tick()
        if new := sum(not topic.endswith("/status") for _, topic, _, _ in desk.line.sent[before:]):
            assert new == 1
            tries.append(desk.seconds)
            desk.answer(refuse_topics=["/a"])
    assert [later - sooner for sooner, later in itertools.pairwise(tries)] == [2, 4, 8, 16, 32, 60, 60]
    desk.seconds += 60
    desk.publisher.tick()
    desk.answer()
    desk.answer()
    assert desk.left() == []


def test_rows_on_their_way_are_not_sent_twice_when_another_topic_is_tried_again(desk: Desk) -> None:
    desk.put("a")
    desk.put("b")
    desk.connect()
    birth, refused, _ = (message_id for message_id, *_ in desk.line.sent)
    desk.line.events.extend([Acknowledged(birth), Acknowledged(refused, "Not authorized (135)")])
    desk.publisher.tick()
    desk.seconds += 1
    desk.publisher.tick()
    assert desk.said() == ["a", "b", "a"]


def test_a_row_that_overtook_a_refused_one_is_said_again_after_it(desk: Desk) -> None:
    first, second = desk.put("a", n=1), desk.put("a", n=2)
    desk.connect()
    birth, refused, taken = (message_id for message_id, *_ in desk.line.sent)
    desk.line.events.extend([Acknowledged(birth), Acknowledged(refused, "Quota exceeded (151)"), Acknowledged(taken)])
    desk.line.answered = 3
    desk.publisher.tick()
    assert desk.left() == [first.row_id, second.row_id]
    desk.seconds += 1
    desk.publisher.tick()
    desk.answer()
    desk.answer()
    assert [json.loads(payload)["n"] for _, _, payload, _ in desk.line.sent[1:]] == [1, 2, 1, 2]
    assert desk.left() == []


def test_thousands_of_rows_of_a_refused_topic_neither_starve_the_others_nor_make_a_tick_long(desk: Desk) -> None:
    for _ in range(10_000):
        desk.put("a")
    desk.put("b")
    desk.connect()
    desk.answer(refuse_topics=["/a"])
    assert "b" not in desk.said()
    before = desk.wakes
    for _ in range(10):
        desk.publisher.tick()
    assert desk.wakes > before, "it asked to be called again"
    assert desk.said()[-1] == "b"


def test_a_row_that_cannot_be_carried_holds_up_its_own_topic_only(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.put("embryo/+/reading")
    desk.outbox.put("reading", "embryo/1/reading", "not JSON")
    desk.put("embryo/2/reading", text="x" * 2000)
    desk.put("embryo/3/reading")
    desk.connect(Connected(packet_limit_bytes=1000))
    desk.answer()
    assert desk.left() == [1, 2, 3]
    assert "wildcards" in caplog.text and "JSON object" in caplog.text and "above the broker's limit" in caplog.text


def test_a_row_the_broker_hangs_up_on_again_and_again_is_laid_aside_for_a_while(desk: Desk) -> None:
    desk.put("bad")
    desk.put("good")
    for _ in range(3):
        desk.connect()
        desk.line.events.append(Acknowledged(1))
        desk.lose()
        desk.seconds += 60
    desk.connect()
    assert desk.said() == ["good"]
    desk.answer()
    assert desk.left() == [1]
    desk.seconds += 120
    desk.publisher.tick()
    desk.answer()
    assert desk.left() == []


def test_an_outbox_that_fails_is_reported_and_nothing_is_lost(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.put("a")
    desk.connect()
    remove = desk.outbox.remove

    def disk_full(row_ids: Sequence[int]) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(desk.outbox, "remove", disk_full)
    desk.line.acknowledge()
    with pytest.raises(OSError, match="disk full"):
        desk.publisher.tick()
    monkeypatch.setattr(desk.outbox, "remove", remove)
    desk.publisher.tick()
    assert desk.left() == []
    assert desk.said() == ["a"]


def test_an_observer_that_raises_stops_neither_the_session_nor_the_rows(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.put("a")
    desk.put("b")
    desk.connect()

    def broken(kind: str, outcome: str, row: OutboxRow) -> None:
        raise RuntimeError("no such label")

    monkeypatch.setattr(desk, "published", broken)
    desk.line.acknowledge()
    for _ in range(2):
        with pytest.raises(RuntimeError):
            desk.publisher.tick()
    desk.publisher.tick()
    assert desk.publisher.connected and desk.left() == []


def test_coalesced_messages_are_said_while_connected_and_forgotten_otherwise(desk: Desk) -> None:
    assert not desk.publisher.publish_now("health", '{"backlog": 3}', True)
    desk.connect()
    assert desk.publisher.publish_now("health", '{"backlog": 4}', True)
    _, topic, payload, retain = desk.line.sent[-1]
    assert (topic, retain, json.loads(payload)["backlog"]) == (f"{ROOT}/health", True, 4)
    assert len(desk.line.sent) == 2


def test_of_coalesced_messages_that_cannot_leave_only_the_latest_is_said() -> None:
    desk = Desk(BrokerSettings(max_inflight=1))
    desk.be_let_in()
    for backlog in range(5):
        desk.publisher.publish_now("health", json.dumps({"backlog": backlog}), True)
    desk.answer()
    assert [json.loads(p).get("backlog") for _, _, p, _ in desk.line.sent] == [None, 4]


def test_stop_waits_for_late_acknowledgments_within_its_grace_and_leaves_the_rest_in_the_outbox() -> None:
    desk = Desk(BrokerSettings(max_inflight=2))
    for _ in range(100):
        desk.put("a")
    desk.connect()
    answers = desk.line.next_event

    def a_moment_later(timeout_s: float = 0.0) -> Event | None:
        desk.seconds += timeout_s
        if timeout_s:
            desk.line.acknowledge()
        return answers()

    desk.line.next_event = a_moment_later  # type: ignore[method-assign]
    desk.publisher.stop(grace_s=0.5)
    assert 20 < len(desk.left()) < 80
    assert desk.seconds < 1.5
    assert json.loads(desk.line.sent[-1][2])["status"] == "stopped"


def test_stop_says_stopped_and_goodbye_and_does_nothing_more(desk: Desk) -> None:
    desk.connect()
    desk.answer()
    publish = desk.line.publish

    def publish_and_acknowledge(topic: str, payload: bytes, *, retain: bool) -> int:
        message_id = publish(topic, payload, retain=retain)
        desk.line.acknowledge()
        return message_id

    desk.line.publish = publish_and_acknowledge  # type: ignore[method-assign]
    desk.put("a")
    desk.publisher.stop(grace_s=1.0)
    assert desk.said() == ["a"] and desk.left() == []
    assert json.loads(desk.line.sent[-1][2])["status"] == "stopped"
    assert desk.line.said_goodbye and not desk.publisher.connected
    desk.seconds += 100
    desk.publisher.tick()
    assert len(desk.sessions) == 1


@pytest.mark.parametrize(
    ("age_s", "historical"), [(None, False), (0, False), (300, False), (300.001, True), (86_400, True), (-5, False)]
)
def test_a_message_is_historical_when_its_frame_was_complete_over_five_minutes_ago(
    age_s: float | None, historical: bool
) -> None:
    complete_at = None if age_s is None else NOON - timedelta(seconds=age_s)
    row = OutboxRow(1, "reading", "a", '{"id":"x"}', False, complete_at)
    assert json.loads(stamped(row, NOON)) == {
        "id": "x",
        "published_at": "2026-01-31T12:00:00Z",
        "historical": historical,
    }


def test_an_empty_body_leaves_empty_and_an_empty_object_stays_an_object() -> None:
    assert stamped(OutboxRow(1, "clear", "a", "", True, NOON), NOON) == b""
    assert set(json.loads(stamped(OutboxRow(1, "reading", "a", "{}", True, None), NOON))) == {
        "published_at",
        "historical",
    }


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_the_broker_does_every_row_is_taken_and_the_last_word_on_a_topic_is_its_latest_row(
    data: st.DataObject,
) -> None:
    desk = Desk(BrokerSettings(max_inflight=data.draw(st.integers(1, 5))))
    taken: list[tuple[str, int]] = []
    put = 0

    def answer(steps: int, fate: st.SearchStrategy[str]) -> None:
        for message_id, topic, payload, _ in desk.line.sent[desk.line.answered :][:steps]:
            refused = data.draw(fate) == "refuse"
            if not refused and not topic.endswith("/status"):
                taken.append((topic, json.loads(payload)["n"]))
            desk.line.events.append(Acknowledged(message_id, "no (135)" if refused else None))
            desk.line.answered += 1

    for _ in range(data.draw(st.integers(1, 25))):
        action = data.draw(st.sampled_from(["put", "put", "answer", "answer", "lose", "wait", "tick"]))
        if action == "put":
            put += 1
            desk.put(data.draw(st.sampled_from("abc")), n=put)
        elif action == "wait":
            desk.seconds += data.draw(st.sampled_from([0.5, 1, 5, 70]))
        elif desk.sessions and action == "answer" and desk.publisher.connected:
            answer(data.draw(st.integers(1, 6)), st.sampled_from(["take", "take", "refuse"]))
        elif desk.sessions and action == "lose":
            desk.line.events.append(Ended("lost"))
        before = len(desk.sessions)
        desk.publisher.tick()
        if len(desk.sessions) > before:
            desk.line.accept()
        gone = set(range(1, put + 1)) - set(desk.left())
        assert gone <= {n for _, n in taken}, "a row left that the broker never took"
    for _ in range(300):
        desk.seconds += 5
        before = len(desk.sessions)
        desk.publisher.tick()
        if len(desk.sessions) > before:
            desk.line.accept()
        answer(100, st.just("take"))
    assert desk.left() == []
    last = dict(taken)
    for topic in last:
        assert last[topic] == max(n for t, n in taken if t == topic)
    assert {n for _, n in taken} == set(range(1, put + 1))


def test_a_password_loses_the_newline_at_its_end_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "password").write_text(" s3cret \n\n", encoding="utf-8")
    assert read_password(tmp_path / "password") == " s3cret \n"
    assert read_password(None) is None


def test_an_unreadable_password_file_is_a_failed_attempt_and_not_a_crash(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = Publisher(
        BrokerSettings(username="monitor", password_file=tmp_path / "absent"),
        ROOT,
        ScriptedOutbox(),
        boot_id="boot",
        version="0.1.0",
        now=lambda: NOON,
        monotonic=lambda: 0.0,
        wake=lambda: None,
    )
    publisher.tick()
    assert not publisher.connected
    assert "absent" in caplog.text and "next attempt" in caplog.text


@pytest.fixture
def silent_server() -> Iterator[socket.socket]:
    """Takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)
        yield server


def session_to(server: socket.socket | int, protocol: int = 5) -> MqttSession:
    port = server if isinstance(server, int) else server.getsockname()[1]
    return MqttSession(BrokerSettings(port=port, protocol=protocol), "pellucid-test", Will("t", b"{}"), lambda: None)


def test_a_session_cut_before_any_answer_ends_its_thread_at_once(silent_server: socket.socket) -> None:
    session = session_to(silent_server)
    line, _ = silent_server.accept()
    with line:
        assert line.recv(1) == b"\x10", "CONNECT"
        began_s = time.monotonic()
        session.abandon()
        assert session.join(2.0)
        assert time.monotonic() - began_s < 1.0


@pytest.mark.parametrize("answer", [b"\x00\x00\x00", b"\x20\x7f", b"\x20\x03\x00\x00\xff", b"HTTP/1.1 400 Bad\r\n\r\n"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_server_that_talks_nonsense_ends_the_session(silent_server: socket.socket, answer: bytes) -> None:
    session = session_to(silent_server)
    line, _ = silent_server.accept()
    with line:
        line.recv(200)
        line.sendall(answer)
    assert isinstance(session.next_event(5.0) or session.next_event(), Ended)
    session.abandon()
    assert session.join(5.0)


REFUSED = {5: b"\x20\x03\x00\x87\x00", 311: b"\x20\x02\x00\x05"}
ACCEPTED = {5: b"\x20\x0b\x00\x00\x08\x21\x00\x05\x27\x00\x00\x03\xe8", 311: b"\x20\x02\x00\x00"}


@pytest.mark.parametrize("protocol", [5, 311])
def test_a_refused_connack_is_an_end_and_never_a_connection(silent_server: socket.socket, protocol: int) -> None:
    session = session_to(silent_server, protocol)
    line, _ = silent_server.accept()
    with line:
        line.recv(200)
        line.sendall(REFUSED[protocol])
        event = session.next_event(5.0)
    assert isinstance(event, Ended) and "uthori" in event.reason
    assert session.join(5.0)
    while event := session.next_event():
        assert isinstance(event, Ended)
        if "died" in event.reason:
            break


@pytest.mark.parametrize(("protocol", "limits"), [(5, Connected(5, 1000)), (311, Connected())])
def test_the_brokers_limits_and_answers_are_read_from_its_packets(
    silent_server: socket.socket, protocol: int, limits: Connected
) -> None:
    session = session_to(silent_server, protocol)
    line, _ = silent_server.accept()
    with line:
        line.recv(200)
        line.sendall(ACCEPTED[protocol])
        assert session.next_event(5.0) == limits
        message_id = session.publish("a", b"{}", retain=False)
        assert line.recv(200)[0] == 0x32, "PUBLISH, QoS 1"
        denied = b"\x87" if protocol == 5 else b""
        line.sendall(bytes([0x40, 2 + len(denied)]) + message_id.to_bytes(2, "big") + denied)
        answer = session.next_event(5.0)
        said = "Not authorized (135): the broker's ACL does not let mqtt.username write there"
        assert answer == Acknowledged(message_id, said if denied else None)
        session.abandon()
        assert session.join(5.0)


def test_a_closed_port_is_told_with_its_reason() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    session = session_to(port)
    event = session.next_event(5.0)
    assert isinstance(event, Ended) and "refused" in event.reason
    session.abandon()
    assert session.join(2.0)


def test_a_session_given_up_while_connecting_never_says_connect(
    silent_server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connected late, it would push out the session that came after it."""
    create, reached, go_on = socket.create_connection, threading.Event(), threading.Event()

    def slow(*args: object, **kwargs: object) -> socket.socket:
        reached.set()
        assert go_on.wait(5)
        return create(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "create_connection", slow)
    session = session_to(silent_server)
    assert reached.wait(5)
    session.abandon()
    go_on.set()
    line, _ = silent_server.accept()
    with line:
        assert line.recv(100) == b""
    assert session.join(5.0)


# -- commands ----------------------------------------------------------------------------------------------------------


def listening() -> tuple[Desk, list[tuple[str, bytes, Reply]]]:
    """A desk that takes commands, connected; and what it heard."""
    desk, heard = Desk(), []
    desk.publisher._on_command = lambda name, payload, reply: heard.append((name, payload, reply))
    desk.connect()
    return desk, heard


def test_commands_are_subscribed_to_in_every_session_and_only_where_somebody_carries_them_out(desk: Desk) -> None:
    desk.connect()
    assert desk.line.subscribed == []
    deaf, _ = listening()
    assert deaf.line.subscribed == [f"{ROOT}/command/+"]
    deaf.lose()
    deaf.seconds += 60
    deaf.connect()
    assert deaf.line.subscribed == [f"{ROOT}/command/+"]


def test_a_command_is_answered_once_on_the_topic_its_sender_named_with_what_was_sent_along() -> None:
    desk, heard = listening()
    desk.line.events.append(Received(f"{ROOT}/command/end", b"{}", False, "page/7/answers", b"\x00\x01"))
    desk.publisher.tick()
    ((name, payload, reply),) = heard
    assert (name, payload) == ("end", b"{}")
    desk.publisher.answer(reply, '{"accepted": true}')
    message_id, topic, body, retain = desk.line.sent[-1]
    assert (topic, body, retain) == ("page/7/answers", b'{"accepted": true}', False)
    assert desk.line.correlations == {message_id: b"\x00\x01"}
    desk.answer()
    assert desk.outcomes[-1] == ("answer", "delivered", 0)
    assert desk.publisher.inflight == 0


def test_an_answer_that_is_refused_is_not_tried_again_and_holds_nobody_up() -> None:
    desk, heard = listening()
    desk.line.events.append(Received(f"{ROOT}/command/end", b"{}", False, "page/7", None))
    desk.publisher.tick()
    desk.publisher.answer(heard[0][2], "{}")
    desk.put("embryo/1/reading")
    desk.publisher.tick()
    desk.answer(refuse_topics=("page/7",))
    assert desk.left() == []
    desk.seconds += 100
    desk.publisher.tick()
    assert [topic for _, topic, _, _ in desk.line.sent].count("page/7") == 1


@pytest.mark.parametrize(
    ("topic", "may"),
    [
        ("lab/page/answers", True),
        (f"{ROOT}/answer/page7", True),
        (f"{ROOT}/alert/0123", False),
        (f"{ROOT}/embryo/inc1/D1/1/reading", False),
        ("pellucid/v1/lab/another/status", False),
        ("$SYS/broker", False),
        ("with/#/wildcard", False),
        ("", False),
    ],
)
def test_nobody_speaks_through_us_on_topics_that_only_we_may_write(topic: str, may: bool) -> None:
    desk, heard = listening()
    desk.line.events.append(Received(f"{ROOT}/command/end", b"{}", False, topic, None))
    desk.publisher.tick()
    before = len(desk.line.sent)
    desk.publisher.answer(heard[0][2], "{}")
    assert (len(desk.line.sent) > before) is may


def test_a_command_without_a_response_topic_is_heard_and_not_answered() -> None:
    desk, heard = listening()
    desk.line.events.append(Received(f"{ROOT}/command/end", b"{}", False))
    desk.publisher.tick()
    before = len(desk.line.sent)
    desk.publisher.answer(heard[0][2], "{}")
    assert len(heard) == 1 and len(desk.line.sent) == before


def test_an_answer_to_a_session_that_has_ended_is_not_sent_into_the_next() -> None:
    desk, heard = listening()
    desk.line.events.append(Received(f"{ROOT}/command/end", b"{}", False, "page/7", None))
    desk.publisher.tick()
    desk.lose()
    desk.publisher.answer(heard[0][2], "{}")
    desk.seconds += 60
    desk.connect()
    desk.publisher.answer(heard[0][2], "{}")
    assert "page/7" not in [topic for _, topic, _, _ in desk.line.sent]


def test_a_retained_command_is_not_heard_nor_one_from_elsewhere() -> None:
    desk, heard = listening()
    desk.line.events.append(Received(f"{ROOT}/command/end", b"{}", True, "page/7", None))
    desk.line.events.append(Received("pellucid/v1/lab1/other/command/end", b"{}", False, "page/7", None))
    desk.publisher.tick()
    assert heard == []


def test_a_broker_that_lets_us_hear_no_commands_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    desk, _ = listening()
    for _ in range(2):
        desk.line.events.append(Subscribed("Not authorized (135)"))
        desk.publisher.tick()
    lines = [record.getMessage() for record in caplog.records if "commands are not heard" in record.getMessage()]
    assert len(lines) == 1 and f"{ROOT}/command/+" in lines[0]
    assert desk.publisher.connected

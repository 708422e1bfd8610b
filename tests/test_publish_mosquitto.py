"""What `publish` promises, held against a real Mosquitto in both versions of MQTT, and against the demo's broker."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from monitor.broker import EmbeddedBroker
from monitor.fakes import ScriptedOutbox
from monitor.journal import Entry
from monitor.mqtt_session import MqttSession, Will
from monitor.outbox import Outbox, OutboxRow
from monitor.publish import REASSERT_STATUS_S, Publisher
from monitor.vocabulary import Place
from tests.house import START, FakeClock, node_over, take_all, write_frame
from tests.mosquitto import BrokerSettings, Heard, Listener, Mosquitto, free_port, needs_mosquitto, retained

pytestmark = [pytest.mark.broker, needs_mosquitto]

ROOT = "pellucid/v1/lab1/box1"
LIMIT_S = 15.0
both_versions = pytest.mark.parametrize("protocol", [5, 311])


class Worker:
    """The daemon's loop in small: ticks when woken. Its clock can be put forward."""

    def __init__(self, settings: BrokerSettings, outbox: ScriptedOutbox | None = None) -> None:
        self.settings = settings
        self.outbox = outbox or ScriptedOutbox()
        self.waiting: Outbox = self.outbox
        self.lines: list[MqttSession] = []
        self.woken = threading.Event()
        self.ahead_s = 0.0
        self.longest_tick_s = 0.0
        self.outcomes: list[tuple[str, str, int]] = []
        self.ups: list[tuple[bool, int]] = []
        self.use(self.outbox)

    def use(self, outbox: Outbox) -> None:
        """Say what waits in this outbox."""
        self.waiting = outbox
        self.publisher = Publisher(
            self.settings,
            ROOT,
            outbox,
            boot_id="boot",
            version="0.1.0",
            now=lambda: datetime.now(timezone.utc),
            monotonic=lambda: time.monotonic() + self.ahead_s,
            wake=self.wake,
            observe=self,
            jitter=lambda: 0.0,
            open_session=self.open_session,
        )

    def open_session(self, will: Will) -> MqttSession:
        self.lines.append(MqttSession(self.settings, "pellucid-lab1-box1", will, self.wake))
        return self.lines[-1]

    def wake(self) -> None:
        self.woken.set()

    def connected(self, up: bool, session: int) -> None:
        self.ups.append((up, session))

    def published(self, kind: str, outcome: str, row: OutboxRow) -> None:
        self.outcomes.append((kind, outcome, row.row_id))

    def until(self, done: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + LIMIT_S
        while not done():
            assert time.monotonic() < deadline_s, "it did not come about in time"
            self.woken.wait(0.05)
            self.woken.clear()
            began_s = time.monotonic()
            self.publisher.tick()
            self.longest_tick_s = max(self.longest_tick_s, time.monotonic() - began_s)

    def connect(self) -> None:
        """Put the clock past any back-off and wait for the broker's acceptance."""
        self.ahead_s += 61
        self.until(lambda: self.publisher.connected)

    def fail_to_connect(self) -> None:
        """One more attempt, and wait until it has failed."""
        self.ahead_s += 61
        before = len(self.lines)
        self.until(lambda: len(self.lines) > before and not self.lines[-1].alive)
        self.publisher.tick()
        assert not self.publisher.connected

    def left(self) -> list[int]:
        return [row.row_id for row in self.waiting.pending(0, 1_000_000)]

    def deliver(self) -> None:
        self.until(lambda: not self.left() and self.publisher.inflight == 0)


def numbers(heard: list[Heard]) -> list[int]:
    """The `n` of every message that has one, in the order heard."""
    return [message.body["n"] for message in heard if message.payload and "n" in message.body]


def put(outbox: ScriptedOutbox, topic: str, n: int, retain: bool = False) -> None:
    outbox.put("reading", topic, json.dumps({"n": n}), retain=retain)


def statuses(heard: list[Heard]) -> list[tuple[str, int]]:
    bodies = [message.body for message in heard if message.topic == f"{ROOT}/status"]
    return [(body["status"], body["session"]) for body in bodies]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as running:
        yield running


def worker_to(broker: Mosquitto, protocol: int = 5, **more: object) -> Worker:
    return Worker(replace(BrokerSettings(port=broker.port, protocol=protocol), **more))  # type: ignore[arg-type]


@both_versions
def test_rows_arrive_in_order_and_leave_the_outbox_only_when_the_broker_took_them(
    broker: Mosquitto, protocol: int
) -> None:
    worker = worker_to(broker, protocol)
    with Listener(broker.port, f"{ROOT}/embryo/#") as listener:
        worker.connect()
        broker.freeze()
        for n in range(15):  # below the Receive Maximum of 20 that Mosquitto announces
            put(worker.outbox, f"embryo/{n % 3}/reading", n)
        worker.until(lambda: worker.publisher.inflight >= 15)
        assert len(worker.left()) == 15
        broker.thaw()
        worker.deliver()
        assert numbers(listener.wait_for(lambda heard: len(heard) >= 15)) == list(range(15))
    worker.publisher.stop(1.0)


@both_versions
def test_nothing_is_lost_while_the_broker_is_away_and_the_session_number_grows(
    broker: Mosquitto, protocol: int
) -> None:
    worker = worker_to(broker, protocol)
    with Listener(broker.port, f"{ROOT}/embryo/#") as before:
        worker.connect()
        for n in range(10):
            put(worker.outbox, f"embryo/{n % 3}/reading", n)
        worker.deliver()
        before.wait_for(lambda heard: len(heard) == 10)
    first = worker.publisher.session
    broker.stop()
    worker.until(lambda: not worker.publisher.connected)
    for n in range(10, 40):
        put(worker.outbox, f"embryo/{n % 3}/reading", n)
    for _ in range(3):
        worker.fail_to_connect()
    assert len(worker.left()) == 30
    broker.start()
    with Listener(broker.port, f"{ROOT}/embryo/#") as after:
        worker.connect()
        worker.deliver()
        assert numbers(after.wait_for(lambda heard: len(heard) >= 30)) == list(range(10, 40))
    assert worker.publisher.session >= first + 4
    worker.publisher.stop(1.0)


@both_versions
def test_a_broker_killed_in_the_middle_of_a_burst_loses_no_row_and_keeps_each_topics_order(
    broker: Mosquitto, protocol: int
) -> None:
    worker = worker_to(broker, protocol, max_inflight=20)
    removed: list[int] = []
    worker.connect()
    for n in range(1, 1001):
        put(worker.outbox, f"embryo/{n % 3}/reading", n)
    worker.until(lambda: len(worker.left()) < 800)
    broker.kill()
    worker.until(lambda: not worker.publisher.connected)
    left = worker.left()
    removed = sorted(set(range(1, 1001)) - set(left))
    assert left and removed == list(range(1, len(removed) + 1))
    broker.start()
    with Listener(broker.port, f"{ROOT}/embryo/#") as listener:
        worker.connect()
        worker.deliver()
        assert numbers(listener.wait_for(lambda heard: len(heard) >= len(left))) == left
    worker.publisher.stop(1.0)


@both_versions
def test_retained_topics_come_back_when_the_broker_lost_its_store(broker: Mosquitto, protocol: int) -> None:
    worker = worker_to(broker, protocol)
    worker.connect()
    put(worker.outbox, "embryo/1/reading", 1, retain=True)
    put(worker.outbox, "embryo/2/reading", 2, retain=True)
    worker.outbox.put("clear", "embryo/2/reading", "", retain=True)
    worker.deliver()
    broker.kill()
    broker.lose_store()
    broker.start()
    assert retained(broker.port, ROOT) == {}
    worker.until(lambda: not worker.publisher.connected)
    worker.connect()
    worker.until(lambda: ("reading", "repeated", 0) in worker.outcomes)
    told = retained(broker.port, ROOT)
    assert set(told) == {"status", "embryo/1/reading"}
    assert json.loads(told["embryo/1/reading"])["n"] == 1
    worker.publisher.stop(1.0)


@both_versions
def test_what_a_killed_broker_brings_back_from_an_old_save_is_cleared_again(
    broker: Mosquitto, protocol: int, tmp_path: Path
) -> None:
    clock = FakeClock()
    node = node_over(tmp_path, clock)
    write_frame(tmp_path / "inc", "1", START)
    take_all(node)
    topic = "embryo/inc1/D1/1/reading"
    worker = worker_to(broker, protocol)
    worker.use(node.journal.outbox)
    worker.connect()
    worker.deliver()
    broker.stop()  # it saves
    old_save = (broker.folder / "mosquitto.db").read_bytes()
    broker.start()
    worker.until(lambda: not worker.publisher.connected)
    worker.connect()
    (run,) = node.journal.runs(Place("inc1", "D1", "1"))
    node.journal.commit([Entry(run, (run, "end"), None, run.latest, (), {}, None)], clock.now())
    worker.deliver()
    assert topic not in retained(broker.port, ROOT)
    broker.kill()
    (broker.folder / "mosquitto.db").write_bytes(old_save)
    broker.start()
    assert topic in retained(broker.port, ROOT), "the broker brought it back"
    worker.until(lambda: not worker.publisher.connected)
    worker.connect()
    worker.until(lambda: ("clear", "repeated", 0) in worker.outcomes)
    assert topic not in retained(broker.port, ROOT)
    worker.publisher.stop(1.0)
    node.journal.close()


@both_versions
def test_an_empty_message_clears_a_retained_topic(broker: Mosquitto, protocol: int) -> None:
    worker = worker_to(broker, protocol)
    worker.connect()
    put(worker.outbox, "embryo/1/reading", 1, retain=True)
    worker.deliver()
    assert "embryo/1/reading" in retained(broker.port, ROOT)
    worker.outbox.put("clear", "embryo/1/reading", "", retain=True)
    worker.deliver()
    assert "embryo/1/reading" not in retained(broker.port, ROOT)
    worker.publisher.stop(1.0)


DAEMON = """
import sys, time
sys.path.insert(0, {tests!r})
from test_publish_mosquitto import BrokerSettings, Worker
worker = Worker(BrokerSettings(port={port}, protocol={protocol}))
worker.connect()
worker.until(lambda: ("status", "repeated", 0) in worker.outcomes)
print("up", flush=True)
time.sleep(60)
"""


@both_versions
def test_a_killed_daemon_is_told_offline_with_its_session_and_its_successor_online(
    broker: Mosquitto, protocol: int
) -> None:
    code = DAEMON.format(tests=str(Path(__file__).parent), port=broker.port, protocol=protocol)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    with (
        Listener(broker.port, f"{ROOT}/status") as listener,
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) as daemon,
    ):
        assert daemon.stdout is not None and daemon.stdout.readline() == b"up\n"
        daemon.send_signal(signal.SIGKILL)
        listener.wait_for(lambda heard: ("offline", 1) in statuses(heard))
        worker = worker_to(broker, protocol)
        worker.outbox.next_session()  # the killed daemon's
        worker.connect()
        listener.wait_for(lambda heard: statuses(heard) == [("online", 1), ("offline", 1), ("online", 2)])
        worker.publisher.stop(1.0)
        listener.wait_for(lambda heard: statuses(heard)[-1] == ("stopped", 2))
    assert json.loads(retained(broker.port, ROOT)["status"])["status"] == "stopped"


def test_an_old_will_after_a_new_birth_is_told_by_its_session_and_ends_in_online(broker: Mosquitto) -> None:
    worker = worker_to(broker)
    with Listener(broker.port, f"{ROOT}/status") as listener:
        worker.connect()
        worker.deliver()
        worker.lines[-1].abandon()  # the line is cut: the broker says the will
        listener.wait_for(lambda heard: ("offline", 1) in statuses(heard))
        will = listener.heard[-1]
        worker.until(lambda: not worker.publisher.connected)
        worker.connect()
        listener.wait_for(lambda heard: statuses(heard)[-1] == ("online", 2))
        worker.deliver()
        listener.publish(will.topic, will.payload, retain=True)
        listener.wait_for(lambda heard: statuses(heard)[-1] == ("offline", 1))
        worker.ahead_s += REASSERT_STATUS_S
        worker.until(lambda: worker.outcomes.count(("status", "repeated", 0)) == 3)
        listener.wait_for(lambda heard: statuses(heard)[-1] == ("online", 2))
    assert json.loads(retained(broker.port, ROOT)["status"])["status"] == "online"
    worker.publisher.stop(1.0)


@both_versions
def test_a_refused_login_is_never_connected_and_heals_when_the_password_file_is_put_right(
    tmp_path: Path, protocol: int, caplog: pytest.LogCaptureFixture
) -> None:
    password_file = tmp_path / "password"
    password_file.write_text("wrong\n")
    with Mosquitto(tmp_path, passwords={"monitor": "s3cret"}) as broker:
        worker = worker_to(broker, protocol, username="monitor", password_file=password_file)
        put(worker.outbox, "embryo/1/reading", 1)
        for _ in range(3):
            worker.fail_to_connect()
        assert worker.ups == [] and worker.left() == [1]
        lines = [r.getMessage() for r in caplog.records if r.name == "monitor.publish"]
        assert len(lines) == 3 and all("refused" in line and "uthori" in line for line in lines)
        assert ["next attempt in 1.0 s" in lines[0], "in 2.0 s" in lines[1], "in 4.0 s" in lines[2]] == [True] * 3
        assert "wrong" not in caplog.text
        password_file.write_text("s3cret\n")
        worker.connect()
        worker.deliver()
        worker.publisher.stop(1.0)


def test_a_topic_the_broker_denies_keeps_its_rows_while_the_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_to_all = "topic readwrite #\n"
    with Mosquitto(tmp_path, acl=f"topic deny {ROOT}/alert/7\n{open_to_all}") as broker:
        worker = worker_to(broker)
        with Listener(broker.port, f"{ROOT}/+/#") as listener:
            worker.connect()
            for n in range(6):
                put(worker.outbox, "alert/7" if n % 2 else "embryo/1/reading", n)
            worker.until(lambda: len(worker.left()) == 3 and worker.publisher.inflight == 0)
            assert worker.left() == [2, 4, 6]
            assert ("reading", "refused", 2) in worker.outcomes
            assert f"{ROOT}/alert/7" in caplog.text and "(135)" in caplog.text
            broker.write_acl(open_to_all)
            broker.reload()
            worker.ahead_s += 2
            worker.deliver()
            heard = listener.wait_for(lambda heard: len(numbers(heard)) >= 6)
            assert numbers([m for m in heard if m.topic.endswith("alert/7")]) == [1, 3, 5]
        worker.publisher.stop(1.0)


def test_a_message_above_the_brokers_packet_limit_stays_and_the_others_go_on(tmp_path: Path) -> None:
    with Mosquitto(tmp_path, extra="max_packet_size 2000") as broker:
        worker = worker_to(broker)
        worker.connect()
        worker.outbox.put("reading", "embryo/1/reading", json.dumps({"n": 0, "text": "x" * 3000}))
        put(worker.outbox, "embryo/2/reading", 1)
        worker.until(lambda: worker.left() == [1] and worker.publisher.inflight == 0)
        assert worker.ups == [(True, 1)], "the session went on"
        worker.publisher.stop(1.0)


@both_versions
def test_a_wake_that_raises_in_the_network_thread_kills_nothing(
    broker: Mosquitto, protocol: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise RuntimeError("the worker is gone")

    monkeypatch.setattr(Worker, "wake", lambda _self: broken())
    worker = worker_to(broker, protocol)
    worker.connect()
    for n in range(20):
        put(worker.outbox, "embryo/1/reading", n)
    worker.deliver()
    assert worker.ups == [(True, 1)]
    assert "the worker is gone" in caplog.text
    worker.publisher.stop(1.0)


@both_versions
def test_a_message_sent_late_says_so(broker: Mosquitto, protocol: int) -> None:
    worker = worker_to(broker, protocol)
    with Listener(broker.port, f"{ROOT}/embryo/#") as listener:
        worker.connect()
        for n, age_s in enumerate((10, 3600)):
            complete_at = datetime.now(timezone.utc) - timedelta(seconds=age_s)
            worker.outbox.put("reading", f"embryo/{n}/reading", json.dumps({"n": n}), complete_at=complete_at)
        worker.deliver()
        heard = listener.wait_for(lambda heard: len(heard) == 2)
    assert [message.body["historical"] for message in heard] == [False, True]
    assert all(message.body["published_at"].endswith("Z") for message in heard)
    worker.publisher.stop(1.0)


@both_versions
@pytest.mark.parametrize("state", ["running", "frozen", "killed", "never there"])
def test_stop_ends_within_its_grace_and_a_second_whatever_the_broker_does(
    broker: Mosquitto, protocol: int, state: str
) -> None:
    worker = worker_to(broker, protocol)
    if state == "never there":
        worker.settings.port = free_port()
        worker.publisher.tick()
    else:
        worker.connect()
        worker.until(lambda: worker.publisher.inflight == 0)
    if state == "frozen":
        broker.freeze()
    elif state == "killed":
        broker.kill()
    for n in range(1000):
        put(worker.outbox, "embryo/1/reading", n)
    began_s = time.monotonic()
    worker.publisher.stop(1.0)
    took_s = time.monotonic() - began_s
    assert took_s < 2.2
    assert not worker.lines[-1].alive
    if state == "running":
        assert worker.left() == [] and took_s < 1.0
        assert json.loads(retained(broker.port, ROOT)["status"])["status"] == "stopped"


@both_versions
def test_a_burst_of_5000_messages_arrives_complete_and_in_order(broker: Mosquitto, protocol: int) -> None:
    worker = worker_to(broker, protocol)
    with Listener(broker.port, f"{ROOT}/embryo/#") as listener:
        worker.connect()
        for n in range(5000):
            put(worker.outbox, f"embryo/{n % 240}/reading", n)
        worker.deliver()
        assert numbers(listener.wait_for(lambda heard: len(heard) >= 5000)) == list(range(5000))
    assert worker.ups == [(True, 1)]
    assert len(worker.outbox.removals) < 2500, "rows are removed in batches"
    worker.publisher.stop(1.0)


def test_a_broker_with_a_small_receive_maximum_is_not_overrun(tmp_path: Path) -> None:
    with Mosquitto(tmp_path, extra="max_inflight_messages 3") as broker:
        worker = worker_to(broker)
        worker.connect()
        for n in range(500):
            put(worker.outbox, "embryo/1/reading", n)
        worker.deliver()
        assert worker.ups == [(True, 1)]
        worker.publisher.stop(1.0)


def test_a_tick_stays_short_with_a_broker_that_reads_nothing(broker: Mosquitto) -> None:
    worker = worker_to(broker)
    worker.connect()
    broker.freeze()
    for n in range(100):
        worker.outbox.put("reading", "embryo/1/reading", json.dumps({"n": n, "text": "x" * 100_000}))
    worker.until(lambda: worker.publisher.inflight == 20)  # the Receive Maximum Mosquitto announces
    assert worker.longest_tick_s < 0.5  # meant: 0.1; machines are shared
    broker.thaw()
    worker.deliver()
    worker.publisher.stop(1.0)


def test_the_embedded_broker_carries_messages_and_gives_its_port_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    embedded = EmbeddedBroker()
    port = embedded.start()
    worker = Worker(BrokerSettings(port=port, protocol=311))
    with Listener(port, f"{ROOT}/#") as listener:
        worker.connect()
        for n in range(200):
            put(worker.outbox, f"embryo/{n % 5}/reading", n, retain=True)
        worker.deliver()
        heard = listener.wait_for(lambda heard: set(numbers(heard)) == set(range(200)))
        assert ("online", 1) in statuses(heard)
        worker.publisher.stop(1.0)
    began_s = time.monotonic()
    embedded.stop()
    embedded.stop()
    assert time.monotonic() - began_s < 3.0
    assert not [
        r for r in caplog.records if r.name.startswith(("amqtt", "transitions")) and r.levelno < logging.WARNING
    ]
    assert embedded.start() > 0
    embedded.stop()

"""The service, whole, against a real Mosquitto: what is dropped into the folder arrives, whatever dies in between."""

from __future__ import annotations

import json
import queue
import shutil
import subprocess
import threading
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from monitor.cli import main
from tests.house import PLANES_UM, START, plane_path
from tests.house import write_frame as write_frame_of
from tests.mosquitto import Listener, Mosquitto, needs_mosquitto, retained
from tests.service import LIMIT_S, Service, leave_nothing_running, write_config

pytestmark = [pytest.mark.broker, needs_mosquitto]

ROOT = "pellucid/v1/lab/box"
READING = f"{ROOT}/embryo/inc1/D1/1/reading"
H = timedelta(hours=1)
write_frame = partial(write_frame_of, size_px=128)  # the bundled model looks for the embryo: not in 24 px
CHANGES_WITH_SENDING = ("published_at", "historical")
CHANGES_WITH_THE_BOOT = ("seq", "boot_id")


def readings(heard: list[Any]) -> list[dict[str, Any]]:
    return [one.body for one in heard if one.topic.endswith("/reading") and one.payload]


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    yield
    leave_nothing_running()


@pytest.fixture(params=[5, 311])
def protocol(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def test_frames_dropped_plane_by_plane_arrive_as_readings(tmp_path: Path, protocol: int) -> None:
    with Mosquitto(tmp_path) as broker, Listener(broker.port) as listener:
        service = Service(write_config(tmp_path, broker.port, protocol=protocol))
        for hour in range(3):
            for plane_um in PLANES_UM:
                write_frame(tmp_path / "inc1", "1", START + hour * H, (plane_um,))
        heard = listener.wait_for(lambda heard: len(readings(heard)) >= 3, LIMIT_S)
        told = readings(heard)
        assert [reading["occurred_at"] for reading in told] == [f"2026-01-05T{8 + hour:02}:00:00Z" for hour in range(3)]
        assert all(reading["frame"]["planes"] == list(PLANES_UM) for reading in told)
        assert [reading["seq"] for reading in told] == [1, 2, 3]
        assert {one.topic for one in heard if one.topic.endswith("/reading")} == {READING}
        online = [one.body for one in heard if one.topic == "pellucid/v1/lab/box/status"]
        assert online[0]["status"] == "online" and online[0]["session"] == 1
        assert service.terminate() == 0
        last = listener.wait_for(lambda heard: any(b"stopped" in one.payload for one in heard))[-1]
        assert last.body["status"] == "stopped"


def test_a_file_in_pieces_a_truncated_one_a_missing_plane_and_a_bad_name_each_end_as_they_should(
    tmp_path: Path,
) -> None:
    with Mosquitto(tmp_path) as broker, Listener(broker.port) as listener:
        service = Service(write_config(tmp_path, broker.port, deadline_s=3))
        root = tmp_path / "inc1"
        write_frame(root, "1", START, PLANES_UM)
        slow = plane_path(root, "1", START, 45)
        whole = slow.read_bytes()
        slow.unlink()
        with slow.open("wb") as file:  # a writer slower than the quiet time
            for k in range(5):
                file.write(whole[k * len(whole) // 5 : (k + 1) * len(whole) // 5])
                file.flush()
                threading.Event().wait(0.35)
        write_frame(root, "2", START)
        cut = plane_path(root, "2", START, 0)
        cut.write_bytes(cut.read_bytes()[:-200])
        write_frame(root, "3", START, PLANES_UM[:6])
        write_frame(root, "4+4", START)
        heard = listener.wait_for(lambda heard: len(readings(heard)) >= 3, LIMIT_S)
        told = {reading["embryo"]["well"]: reading for reading in readings(heard)}
        assert sorted(told) == ["1", "2", "3"]
        assert (told["1"]["revision"], told["1"]["frame"]["missing_planes"]) == (1, [])
        assert (told["2"]["frame"]["missing_planes"], told["2"]["outcome"]) == ([0], "judged")
        assert "broken_planes" in told["2"]["quality"]["flags"]
        assert (told["3"]["frame"]["missing_planes"], told["3"]["outcome"]) == ([45], "judged")
        assert service.metric("files_quarantined_total", reason="truncated") == 1
        assert service.metric("files_quarantined_total", reason="name") == 7
        assert service.metric("planes_missing_total", incubator="inc1") == 2
        assert all("+" not in one.topic for one in heard)
        assert cut.exists() and plane_path(root, "4+4", START, 0).exists()
        cut.write_bytes(cut.with_name(plane_path(root, "2", START, 15).name).read_bytes())
        heard = listener.wait_for(lambda heard: len(readings(heard)) >= 4, LIMIT_S)
        healed = readings(heard)[-1]
        assert (healed["revision"], healed["supersedes"], healed["frame"]["missing_planes"]) == (
            *(2, told["2"]["id"]),
            [],
        )
        assert service.terminate() == 0


class DurableListener:
    """A subscriber whose session the broker keeps: what is published while it cannot listen waits for it."""

    def __init__(self, port: int) -> None:
        self.readings: list[dict[str, Any]] = []
        self._messages: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        subscribed = threading.Event()
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id="clinic", protocol=paho.MQTTv311, clean_session=False
        )
        self._client.reconnect_delay_set(0.1, 0.5)
        self._client.on_connect = lambda client, *_: client.subscribe("pellucid/v1/+/+/embryo/#", qos=1)
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.on_message = lambda _c, _u, message: self._messages.put(bytes(message.payload))
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert subscribed.wait(LIMIT_S)

    def wait_for_ids(self, count: int) -> list[dict[str, Any]]:
        while len({reading["id"] for reading in self.readings}) < count:
            self.readings.append(json.loads(self._messages.get(timeout=LIMIT_S)))
        return self.readings

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def told_as(reading: dict[str, Any], without: tuple[str, ...]) -> str:
    return json.dumps({key: value for key, value in reading.items() if key not in without}, sort_keys=True)


def test_a_broker_away_and_two_kills_lose_nothing_and_give_no_id_two_contents(tmp_path: Path) -> None:
    wells, root = ("1", "2", "3"), tmp_path / "inc1"

    def drop(hours: range) -> None:
        for hour in hours:
            for well in wells:
                write_frame(root, well, START + hour * H)

    with Mosquitto(tmp_path) as broker:
        config = write_config(tmp_path, broker.port)
        listener = DurableListener(broker.port)
        service = Service(config)
        drop(range(4))
        listener.wait_for_ids(4)
        broker.stop()
        drop(range(4, 14))
        service.wait_for_readings(20)  # of 42: in the middle of the work
        service.kill()
        drop(range(14, 20))
        service = Service(config)
        service.wait_for_readings(3)
        service.kill()
        drop(range(20, 24))
        broker.start()
        service = Service(config)
        heard = listener.wait_for_ids(24 * len(wells))
        assert service.terminate() == 0
        listener.close()

    contents: dict[str, set[str]] = {}
    for reading in heard:
        contents.setdefault(reading["id"], set()).add(told_as(reading, CHANGES_WITH_SENDING))
    assert all(len(different) == 1 for different in contents.values()), "an id was told with two contents"
    assert len({reading["seq"] for reading in heard}) == 24 * len(wells)
    assert {reading["seq"] for reading in heard} == set(range(1, 24 * len(wells) + 1)), "seq has a gap"
    for well in wells:
        first_told = dict.fromkeys(r["occurred_at"] for r in heard if r["embryo"]["well"] == well)
        assert list(first_told) == sorted(first_told), "readings of an embryo came out of order"

    out, store = tmp_path / "undisturbed", str(tmp_path / "store")
    assert main(["replay", str(root), "--out", str(out), "--config", str(config), "--against", store]) == 0
    assert main(["journal", "verify", "--storage", store]) == 0
    never_killed = [json.loads(line) for line in (out / "readings.jsonl").read_text().splitlines()]
    without = (*CHANGES_WITH_SENDING, *CHANGES_WITH_THE_BOOT)
    assert {told_as(reading, without) for reading in heard} == {told_as(reading, without) for reading in never_killed}


def test_what_was_told_late_says_historical_and_what_was_told_in_time_does_not(tmp_path: Path) -> None:
    import os

    with Mosquitto(tmp_path) as broker, Listener(broker.port) as listener:
        config = write_config(tmp_path, broker.port)
        write_frame(tmp_path / "inc1", "1", START)
        for plane_um in PLANES_UM:
            path = plane_path(tmp_path / "inc1", "1", START, plane_um)
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 3600))
        write_frame(tmp_path / "inc1", "1", START + H)
        service = Service(config)
        told = readings(listener.wait_for(lambda heard: len(readings(heard)) >= 2, LIMIT_S))
        assert [reading["historical"] for reading in told] == [True, False]
        assert service.terminate() == 0


def test_retained_readings_come_back_when_the_broker_lost_its_store(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as broker:
        service = Service(write_config(tmp_path, broker.port))
        with Listener(broker.port) as listener:
            write_frame(tmp_path / "inc1", "1", START)
            listener.wait_for(lambda heard: len(readings(heard)) >= 1, LIMIT_S)
        broker.kill()
        broker.lose_store()
        broker.start()
        with Listener(broker.port, READING) as late:
            (heard,) = late.wait_for(lambda heard: len(heard) >= 1, LIMIT_S)
        assert heard.body["occurred_at"] == "2026-01-05T08:00:00Z"
        assert service.terminate() == 0


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool on this machine (apt install prometheus)")
def test_promtool_finds_nothing_wrong_with_the_live_metrics(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as broker, Listener(broker.port) as listener:
        service = Service(write_config(tmp_path, broker.port))
        write_frame(tmp_path / "inc1", "1", START, PLANES_UM[:6])
        write_frame(tmp_path / "inc1", "1+1", START)
        listener.wait_for(lambda heard: len(readings(heard)) >= 1, LIMIT_S)
        text = service.get("/metrics")
        assert service.get("/healthz") == "alive\n"
        assert service.terminate() == 0
    linted = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (linted.returncode, linted.stdout + linted.stderr) == (0, "")
    assert 'pellucid_frames_total{incubator="inc1",outcome="judged"} 1.0' in text


def test_sigterm_with_the_broker_away_still_leaves_within_5_seconds(tmp_path: Path) -> None:
    config = write_config(tmp_path, 1)
    for hour in range(40):
        write_frame(tmp_path / "inc1", "1", START + hour * H)
    service = Service(config)
    service.wait_for_readings(3)
    assert service.terminate(5.0) == 0


def alerts(heard: list[Any]) -> list[dict[str, Any]]:
    return [one.body for one in heard if "/alert/" in one.topic and one.payload]


def test_an_alert_survives_a_kill_stands_retained_while_open_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as broker, Listener(broker.port) as listener:
        config = write_config(tmp_path, broker.port, deadline_s=0.5)
        service = Service(config)
        moments = [START + k * timedelta(minutes=20) for k in range(10)]
        for at in moments[:4]:
            write_frame(tmp_path / "inc1", "1", at, PLANES_UM[:6])
        (raised,) = alerts(listener.wait_for(lambda heard: len(alerts(heard)) >= 1, LIMIT_S))
        service.kill()
        assert json.loads(retained(broker.port, ROOT)[f"alert/{raised['alert_id']}"])["id"] == raised["id"]
        service = Service(config)
        for at in moments[4:]:
            write_frame(tmp_path / "inc1", "1", at)
        told = alerts(listener.wait_for(lambda heard: any(one["state"] == "cleared" for one in alerts(heard)), LIMIT_S))
        assert {one["alert_id"] for one in told} == {raised["alert_id"]}
        assert told[-1]["why_cleared"] == "recovered"
        listener.wait_for(lambda heard: any("/alert/" in one.topic and not one.payload for one in heard), LIMIT_S)
        assert not any(topic.startswith("alert/") for topic in retained(broker.port, ROOT))
        assert service.terminate() == 0

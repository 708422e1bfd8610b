"""Commands against a real Mosquitto, in both versions of MQTT, by a client that is not ours."""

from __future__ import annotations

import json
import queue
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.house import PLANES_UM, START
from tests.house import write_frame as write_frame_of
from tests.mosquitto import Listener, Mosquitto, needs_mosquitto, retained
from tests.service import LIMIT_S, Service, leave_nothing_running, write_config

pytestmark = [pytest.mark.broker, needs_mosquitto]

ROOT = "pellucid/v1/lab/box"
ANSWERS = "lab/page/answers"
WELL = {"incubator": "inc1", "dish": "D1", "well": "1", "by": "mk"}
write_frame = partial(write_frame_of, size_px=128)
both_versions = pytest.mark.parametrize("protocol", [5, 311])


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    yield
    leave_nothing_running()


class Commander:
    """Gives commands and waits for their answers, in v5; in 3.1.1 it only gives them."""

    def __init__(self, port: int, protocol: int = 5, user: str | None = None) -> None:
        self._v5 = protocol == 5
        self.answers: queue.Queue[paho.MQTTMessage] = queue.Queue()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5 if self._v5 else paho.MQTTv311)
        self._client.on_message = lambda _c, _u, message: self.answers.put(message)
        if user is not None:
            self._client.username_pw_set(user, "secret")
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self._client.subscribe(ANSWERS, qos=1)

    def give(self, name: str, said: dict[str, Any] | bytes, correlation: bytes = b"1", retain: bool = False) -> None:
        properties = None
        if self._v5:
            properties = Properties(PacketTypes.PUBLISH)
            properties.ResponseTopic, properties.CorrelationData = ANSWERS, correlation
        payload = said if isinstance(said, bytes) else json.dumps(said).encode()
        sent = self._client.publish(f"{ROOT}/command/{name}", payload, qos=1, retain=retain, properties=properties)
        sent.wait_for_publish(LIMIT_S)

    def answer(self, correlation: bytes = b"1") -> dict[str, Any]:
        message = self.answers.get(timeout=LIMIT_S)
        assert message.properties is not None and message.properties.CorrelationData == correlation
        return dict(json.loads(message.payload))

    def ask(self, name: str, said: dict[str, Any] | bytes, correlation: bytes = b"1") -> dict[str, Any]:
        self.give(name, said, correlation)
        return self.answer(correlation)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def of(heard: list[Any], ending: str) -> list[dict[str, Any]]:
    return [one.body for one in heard if ending in one.topic and one.payload]


def test_every_command_is_carried_out_and_answered_with_its_correlation(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as broker, Listener(broker.port) as listener:
        service = Service(write_config(tmp_path, broker.port))
        for k in range(4):  # short of a plane: an alert
            write_frame(tmp_path / "inc1", "1", START + k * timedelta(minutes=20), PLANES_UM[:6])
        (raised,) = of(listener.wait_for(lambda heard: bool(of(heard, "/alert/")), LIMIT_S), "/alert/")
        commander = Commander(broker.port)

        said = {"alert_id": raised["alert_id"], "by": "mk", "note": "camera cleaned"}
        answer = commander.ask("acknowledge", said, b"\x00one")
        assert (answer["schema"], answer["accepted"], answer["code"]) == ("pellucid.answer/1", True, "done")
        heard = listener.wait_for(lambda heard: len(of(heard, "/alert/")) == 2, LIMIT_S)
        assert of(heard, "/alert/")[-1]["acknowledged"]["by"] == "mk"
        assert commander.ask("acknowledge", said, b"two")["code"] == "nothing_new"

        answer = commander.ask("insemination", {**WELL, "time": "2026-01-04T08:00:00Z"})
        assert answer["changed"][1] == {"what": "hpi_of_the_last_frame", "before": None, "after": 25.0}
        write_frame(tmp_path / "inc1", "1", START + timedelta(minutes=80), PLANES_UM[:6])
        heard = listener.wait_for(lambda heard: len(of(heard, "/reading")) == 5, LIMIT_S)
        assert of(heard, "/reading")[-1]["frame"]["hpi"] == pytest.approx(25.3333)

        assert commander.ask("assess", {**WELL, "grade": "4AB"})["code"] == "done"
        assert commander.ask("assess", {**WELL, "grade": "7"})["code"] == "malformed"
        assert commander.ask("end", b"not json")["code"] == "malformed"
        assert commander.ask("reboot", {})["code"] == "unknown"

        assert commander.ask("end", {**WELL, "id": "c-9"}, b"last")["code"] == "done"
        listener.wait_for(lambda heard: any(b"run_ended" in one.payload for one in heard), LIMIT_S)
        assert commander.ask("end", {**WELL, "id": "c-9"}, b"again")["code"] == "done"  # as before, not once more
        commander.close()
        assert service.terminate() == 0
        left = retained(broker.port, ROOT)
        assert not [topic for topic in left if "/alert/" in topic or "/reading" in topic]


@both_versions
def test_a_command_without_an_answer_is_carried_out_too(tmp_path: Path, protocol: int) -> None:
    """3.1.1 knows no response topic, for the sender and for us."""
    with Mosquitto(tmp_path) as broker, Listener(broker.port) as listener:
        service = Service(write_config(tmp_path, broker.port, protocol=protocol))
        write_frame(tmp_path / "inc1", "1", START)
        listener.wait_for(lambda heard: len(of(heard, "/reading")) == 1, LIMIT_S)
        commander = Commander(broker.port, 311)
        commander.give("end", {**WELL})
        listener.wait_for(
            lambda heard: any(one.topic.endswith("/reading") and not one.payload for one in heard), LIMIT_S
        )
        assert commander.answers.empty()
        assert service.metric("active_embryos", incubator="inc1") == 0
        commander.close()


@both_versions
def test_a_retained_command_of_yesterday_is_not_carried_out_at_a_start(tmp_path: Path, protocol: int) -> None:
    with Mosquitto(tmp_path) as broker, Listener(broker.port) as listener:
        commander = Commander(broker.port)
        commander.give("end", {**WELL}, retain=True)
        service = Service(write_config(tmp_path, broker.port, protocol=protocol))
        write_frame(tmp_path / "inc1", "1", START)
        listener.wait_for(lambda heard: len(of(heard, "/reading")) == 1, LIMIT_S)
        write_frame(tmp_path / "inc1", "1", START + timedelta(hours=1))
        listener.wait_for(lambda heard: len(of(heard, "/reading")) == 2, LIMIT_S)
        assert service.metric("active_embryos", incubator="inc1") == 1
        commander.close()


def test_whom_the_brokers_list_does_not_let_command_changes_nothing(tmp_path: Path) -> None:
    acl = (
        "user pellucid\ntopic readwrite pellucid/#\ntopic write lab/#\n"
        "user page\ntopic readwrite lab/#\ntopic write pellucid/v1/lab/box/command/acknowledge\n"
        "user all\ntopic readwrite #\n"
    )
    users = {"pellucid": "secret", "page": "secret", "all": "secret"}
    with Mosquitto(tmp_path, passwords=users, acl=acl) as broker:
        config = write_config(tmp_path, broker.port)
        (tmp_path / "password").write_text("secret")
        login = f'username = "pellucid"\npassword_file = "{tmp_path / "password"}"\n'
        config.write_text(config.read_text().replace("[mqtt]\n", f"[mqtt]\n{login}"))
        service = Service(config)
        write_frame(tmp_path / "inc1", "1", START)
        service.wait_for_readings(1)
        page = Commander(broker.port, user="page")
        page.give("end", {**WELL})
        assert page.ask("acknowledge", {"alert_id": "0" * 20, "by": "mk"})["code"] == "conflict"  # this one it may
        assert service.metric("active_embryos", incubator="inc1") == 1
        page.close()
        other = Commander(broker.port, user="all")
        assert other.ask("end", {**WELL})["code"] == "done"
        other.close()


def test_a_command_by_http_is_carried_out_by_the_running_service(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as broker:
        service = Service(write_config(tmp_path, broker.port))
        write_frame(tmp_path / "inc1", "1", START)
        service.wait_for_readings(1)

        def post(name: str, said: dict[str, Any]) -> tuple[int, dict[str, Any]]:
            url = f"{service.url}/api/v1/command/{name}"
            asked = urllib.request.Request(url, json.dumps(said).encode(), {"Content-Type": "application/json"})
            try:
                with urllib.request.urlopen(asked, timeout=LIMIT_S) as answer:
                    return answer.status, json.load(answer)
            except urllib.error.HTTPError as fault:
                return fault.code, json.load(fault)

        assert post("assess", {**WELL, "grade": "x"})[0] == 400
        assert post("end", {**WELL, "well": "2"})[0] == 409
        status, answer = post("end", {**WELL})
        assert (status, answer["code"]) == (200, "done")
        assert service.metric("active_embryos", incubator="inc1") == 0


def test_blind_first_no_score_is_on_any_topic_before_the_assessment_and_all_are_after_it(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as broker, Listener(broker.port) as listener:
        config = write_config(tmp_path, broker.port)
        config.write_text(config.read_text() + "\n[commands]\nblind_first = true\n")
        service = Service(config)
        for hour in range(2):
            write_frame(tmp_path / "inc1", "1", START + timedelta(hours=hour))
        heard = listener.wait_for(lambda heard: len(of(heard, "/reading")) == 2, LIMIT_S)
        assert not any(b'"probability"' in one.payload for one in heard)
        assert all(one["lacks"]["blastocyst"] == "withheld" for one in of(heard, "/reading"))
        commander = Commander(broker.port)
        assert commander.ask("assess", {**WELL, "stage": "t2"})["code"] == "done"
        heard = listener.wait_for(lambda heard: len(of(heard, "/reading")) == 3, LIMIT_S)
        before, now = of(heard, "/reading")[-2:]
        assert now["blastocyst"]["probability"] >= 0
        assert (now["frame"], now["seq"]) == (before["frame"], before["seq"]) and now["id"] != before["id"]
        service.kill()
        again = Service(config)
        again.wait_for(lambda lines: any("MQTT session" in line["message"] for line in lines))
        listener.wait_for(lambda heard: len(of(heard, "/reading")) == 4, LIMIT_S)
        left = json.loads(retained(broker.port, ROOT)["embryo/inc1/D1/1/reading"])
        assert left["id"] == now["id"] and left["blastocyst"] == now["blastocyst"]
        commander.close()

"""The broker as deploy/mosquitto sets it up, run by the real Mosquitto: what each role can do, and nothing else.

The files are those of the repository; only the port and the folders are the test's.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from monitor.check import _broker
from monitor.config import Mqtt, Site
from tests.certificates import Authority, needs_openssl
from tests.mosquitto import LIMIT_S, PASSWORDS, PROGRAM, free_port, needs_mosquitto

pytestmark = [pytest.mark.broker, needs_mosquitto, needs_openssl]

HOME = Path(__file__).resolve().parents[1] / "deploy" / "mosquitto"
ROOT = "pellucid/v1/lab1/box1"
USERS = {"pellucid-box1": "m0nitor", "dashboard": "d4shboard", "clinician": "cl1nician"}
NOT_AUTHORIZED = 135
GRANTED = 0


class Broker:
    """Mosquitto under the deployed configuration, everything below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.port, self.folder = free_port(), folder
        self.authority = Authority(folder, "authority")
        served = self.authority.issue("broker")
        text = (HOME / "pellucid.conf").read_text().replace("listener 8883", f"listener {self.port} 127.0.0.1")
        text = text.replace("/etc/mosquitto/certs/pellucid.crt", str(served.cert_file))
        text = text.replace("/etc/mosquitto/certs/pellucid.key", str(served.key_file))
        text = text.replace("/etc/mosquitto", str(folder))
        debian = f"persistence true\npersistence_location {folder}/\nlog_dest stderr\n"
        debian += "user root\n" if os.geteuid() == 0 else ""  # it would become `mosquitto`, who may not read here
        (folder / "mosquitto.conf").write_text(debian + text)
        (folder / "pellucid.acl").write_text((HOME / "pellucid.acl").read_text())
        for path in (folder / "pellucid.passwords", folder / "pellucid.acl"):
            path.touch()
            path.chmod(0o600)
        for user, password in USERS.items():
            assert PASSWORDS is not None
            subprocess.run([PASSWORDS, "-b", str(folder / "pellucid.passwords"), user, password], check=True)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert PROGRAM is not None
        log = self.folder / "log"
        seen = len(log.read_text()) if log.exists() else 0
        with log.open("ab") as lines:
            self._process = subprocess.Popen([PROGRAM, "-c", str(self.folder / "mosquitto.conf")], stderr=lines)
        deadline_s = time.monotonic() + LIMIT_S
        while "running" not in log.read_text()[seen:]:
            assert time.monotonic() < deadline_s, log.read_text()
            threading.Event().wait(0.05)

    def end(self, number: int = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(LIMIT_S)
            self._process = None


class Client:
    """A v5 client of one user: `say` gives the broker's reason code, `hear` what came."""

    def __init__(self, broker: Broker, user: str, client_id: str = "", keep: bool = False) -> None:
        self._came: queue.SimpleQueue[paho.MQTTMessage] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id, protocol=paho.MQTTv5)
        self._client.username_pw_set(user, USERS.get(user, "wrong"))
        self._client.tls_set(str(broker.authority.ca_file))
        self._client.on_connect = lambda _c, _u, _f, reason, _p: self._answers.put(("connect", reason.value))
        self._client.on_publish = lambda _c, _u, _m, reason, _p: self._answers.put(("publish", reason.value))
        self._client.on_subscribe = lambda _c, _u, _m, reasons, _p: self._answers.put(("subscribe", reasons[0].value))
        self._client.on_disconnect = lambda _c, _u, _f, reason, _p: self._answers.put(("disconnect", reason.value))
        self._client.on_message = lambda _c, _u, message: self._came.put(message)
        lasting = Properties(PacketTypes.CONNECT)
        lasting.SessionExpiryInterval = 3600 if keep else 0
        self._client.connect("127.0.0.1", broker.port, clean_start=not keep, properties=lasting)
        self._client.loop_start()
        self.connected = self.answer("connect")

    def answer(self, kind: str) -> int:
        while True:
            told, reason = self._answers.get(timeout=LIMIT_S)
            if told == kind:
                return reason

    def say(self, topic: str, payload: bytes = b"{}", retain: bool = False) -> int:
        self._client.publish(topic, payload, qos=1, retain=retain)
        return self.answer("publish")

    def subscribe(self, topic: str) -> None:
        self._client.subscribe(topic, qos=1)
        assert self.answer("subscribe") <= 1

    def hear(self, count: int) -> list[tuple[str, bytes]]:
        return [(one.topic, one.payload) for one in (self._came.get(timeout=LIMIT_S) for _ in range(count))]

    @property
    def silent(self) -> bool:
        return self._came.empty()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    made = Broker(tmp_path)
    made.start()
    yield made
    made.end()


def test_a_monitor_says_everything_below_its_own_root_and_nothing_elsewhere(broker: Broker) -> None:
    monitor = Client(broker, "pellucid-box1")
    for topic in ("status", "health", "incubator/inc1/status", "embryo/inc1/D1/1/reading", "alert/a1", "answer/r1"):
        assert monitor.say(f"{ROOT}/{topic}", retain=True) in (GRANTED, 16)  # 16: nobody subscribes
    for topic in ("pellucid/v1/lab1/box2/status", "pellucid/v1/lab2/box1/status", "pellucid/v2/x", "else", "$SYS/x"):
        assert monitor.say(topic) == NOT_AUTHORIZED
    monitor.close()


def test_a_monitor_hears_its_commands_and_no_other_box(broker: Broker) -> None:
    monitor, clinician = Client(broker, "pellucid-box1"), Client(broker, "clinician")
    monitor.subscribe("#")
    assert clinician.say("pellucid/v1/lab1/box2/command/acknowledge") in (GRANTED, 16)
    assert clinician.say(f"{ROOT}/command/acknowledge", b"mine") == GRANTED
    assert monitor.hear(1) == [(f"{ROOT}/command/acknowledge", b"mine")] and monitor.silent
    monitor.close()
    clinician.close()


def test_a_dashboard_hears_every_box_and_can_say_nothing_at_all(broker: Broker) -> None:
    monitor, dashboard = Client(broker, "pellucid-box1"), Client(broker, "dashboard")
    dashboard.subscribe("#")
    assert monitor.say(f"{ROOT}/embryo/inc1/D1/1/reading", b"0.5", retain=True) == GRANTED
    assert dashboard.hear(1) == [(f"{ROOT}/embryo/inc1/D1/1/reading", b"0.5")]
    for topic in (f"{ROOT}/command/acknowledge", f"{ROOT}/status", f"{ROOT}/embryo/inc1/D1/1/reading", "else"):
        assert dashboard.say(topic) == NOT_AUTHORIZED
    assert dashboard.say(f"{ROOT}/embryo/inc1/D1/1/reading", b"", retain=True) == NOT_AUTHORIZED  # nor wipe what stands
    late = Client(broker, "dashboard")
    late.subscribe("pellucid/v1/#")
    assert late.hear(1) == [(f"{ROOT}/embryo/inc1/D1/1/reading", b"0.5")]
    for client in (monitor, dashboard, late):
        client.close()


def test_a_clinician_hears_everything_and_says_commands_only(broker: Broker) -> None:
    monitor, clinician = Client(broker, "pellucid-box1"), Client(broker, "clinician")
    clinician.subscribe("pellucid/v1/#")
    assert monitor.say(f"{ROOT}/answer/r1", b"done") == GRANTED
    assert clinician.hear(1) == [(f"{ROOT}/answer/r1", b"done")]
    assert clinician.say(f"{ROOT}/command/acknowledge", b"c") == GRANTED
    for topic in (
        f"{ROOT}/status",
        f"{ROOT}/alert/a1",
        f"{ROOT}/embryo/inc1/D1/1/reading",
        "pellucid/v1/lab1/command/x",
    ):
        assert clinician.say(topic) == NOT_AUTHORIZED
    monitor.close()
    clinician.close()


@pytest.mark.parametrize("user", ["nobody", ""])
def test_who_has_no_password_does_not_come_in(broker: Broker, user: str) -> None:
    assert Client(broker, user).connected in (134, NOT_AUTHORIZED)


def test_nothing_but_tls_is_spoken_and_an_old_version_of_it_is_not(broker: Broker) -> None:
    plain = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    with pytest.raises(ConnectionError):
        plain.connect("127.0.0.1", broker.port)
        while plain.loop(1.0) == paho.MQTT_ERR_SUCCESS:
            pass
        raise ConnectionError
    told = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{broker.port}", "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"],
        input=b"", capture_output=True, check=False,
    )  # fmt: skip
    assert told.returncode != 0 and b"Cipher is (NONE)" in told.stdout


def test_an_absent_dashboard_gets_more_than_the_default_thousand_messages_also_after_a_restart(broker: Broker) -> None:
    monitor = Client(broker, "pellucid-box1")
    absent = Client(broker, "dashboard", "wall", keep=True)
    absent.subscribe("pellucid/v1/#")
    absent.close()
    for number in range(1500):
        monitor.say(f"{ROOT}/embryo/inc1/D1/1/reading", str(number).encode())
    monitor.close()
    broker.end()
    broker.start()
    back = Client(broker, "dashboard", "wall", keep=True)
    assert [int(payload) for _, payload in back.hear(1500)] == list(range(1500))
    back.close()


def test_a_message_beyond_the_limit_sends_its_sender_away_and_reaches_nobody(broker: Broker) -> None:
    monitor, dashboard = Client(broker, "pellucid-box1"), Client(broker, "dashboard")
    dashboard.subscribe("pellucid/v1/#")
    monitor._client.publish(f"{ROOT}/status", b"x" * 300_000, qos=1)
    # packet too large; or 128, where the broker's closing overtakes its word while the sender still writes
    assert monitor.answer("disconnect") in (149, 128)
    monitor._client.loop_stop()
    other = Client(broker, "pellucid-box1")
    other.say(f"{ROOT}/status", b"next")
    assert dashboard.hear(1) == [(f"{ROOT}/status", b"next")]
    other.close()
    dashboard.close()


def test_pellucid_check_is_content_with_this_broker(broker: Broker, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text(USERS["pellucid-box1"])
    settings = Mqtt(
        host="127.0.0.1",
        port=broker.port,
        username="pellucid-box1",
        password_file=password,
        ca_file=broker.authority.ca_file,
    )
    finding = _broker(settings, Site(name="lab1", node="box1"))
    assert (finding.level, finding.what) == ("ok", "mqtt"), finding

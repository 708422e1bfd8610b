"""A real Mosquitto with TLS, passwords, an ACL: what is wrong is named, nothing is lost, and mending it is enough."""

from __future__ import annotations

import logging
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from monitor.check import _broker
from monitor.config import Mqtt, Site
from monitor.fakes import ScriptedOutbox
from monitor.metrics import Metrics
from monitor.publish import FIRST_REASSERT_S
from tests.certificates import Authority, Certificate, needs_openssl
from tests.house import FakeClock, new_metrics
from tests.mosquitto import BrokerSettings, Listener, Mosquitto, needs_mosquitto
from tests.test_publish_mosquitto import ROOT, Worker, both_versions, numbers, put, statuses

pytestmark = [pytest.mark.broker, needs_mosquitto, needs_openssl]


class Lab:
    """A broker with TLS, its authority, and the files an operator would put beside the daemon."""

    def __init__(self, folder: Path) -> None:
        self.authority, self.stranger = Authority(folder, "authority"), Authority(folder, "stranger")
        self.served = self.authority.issue("broker")  # the files the broker serves from
        self.good = self.authority.issue("good")
        self.ca_file = folder / "ca.crt"
        self.password_file = folder / "password"
        self.client = Certificate(folder / "client.crt", folder / "client.key")
        shutil.copy(self.authority.ca_file, self.ca_file)
        self.password_file.write_text("s3cret\n")
        self.give(self.client, self.authority.issue("clinic", "DNS:clinic"))
        self.broker = Mosquitto(
            folder,
            passwords={"monitor": "s3cret", "clinic": "cl1nic"},
            acl="user clinic\ntopic readwrite #\nuser monitor\ntopic readwrite #\n",
            tls=self.served,
        )
        self.settings = BrokerSettings(
            port=self.broker.tls_port,
            username="monitor",
            password_file=self.password_file,
            tls=True,
            ca_file=self.ca_file,
        )

    @staticmethod
    def give(to: Certificate, what: Certificate) -> None:
        """Put other content into the files of a certificate."""
        shutil.copy(what.cert_file, to.cert_file)
        shutil.copy(what.key_file, to.key_file)

    def serve(self, what: Certificate) -> None:
        """The broker starts anew with another certificate in its files."""
        self.give(self.served, what)
        self.restart()

    def restart(self) -> None:
        self.broker.kill()  # a SIGTERM right after its start is lost on 2.0.11
        self.broker.start()

    def demand_certificates(self, by: Authority | None) -> None:
        self.broker.set_tls(self.served, by and by.ca_file)
        self.restart()

    def present_certificate(self) -> None:
        self.settings.cert_file, self.settings.key_file = self.client.cert_file, self.client.key_file

    def allow(self, monitor: str) -> None:
        """Set the ACL line of the daemon's user in a running broker."""
        self.broker.write_acl(f"user clinic\ntopic readwrite #\nuser monitor\n{monitor}\n")
        self.broker.reload()


@dataclass(frozen=True)
class Fault:
    """What an operator got wrong, what the log must say of it, and how he mends it."""

    name: str
    break_it: Callable[[Lab], object]
    says: tuple[str, ...]
    mend: Callable[[Lab], object]


def _refuse_our_certificate(lab: Lab) -> None:
    lab.present_certificate()
    lab.give(lab.client, lab.stranger.issue("clinic", "DNS:clinic"))
    lab.demand_certificates(lab.authority)


FAULTS = [
    Fault(
        "another authority",
        lambda lab: shutil.copy(lab.stranger.ca_file, lab.ca_file),
        ("is not signed by mqtt.ca_file = ",),
        lambda lab: shutil.copy(lab.authority.ca_file, lab.ca_file),
    ),
    Fault(
        "no authority file",
        lambda lab: lab.ca_file.unlink(),
        ("mqtt.ca_file = ", "No such file"),
        lambda lab: shutil.copy(lab.authority.ca_file, lab.ca_file),
    ),
    Fault(
        "an authority file of rubbish",
        lambda lab: lab.ca_file.write_text("no certificate\n"),
        ("mqtt.ca_file = ", "does not hold certificates"),
        lambda lab: shutil.copy(lab.authority.ca_file, lab.ca_file),
    ),
    Fault(
        "another host's name",
        lambda lab: lab.serve(lab.authority.issue("other", "DNS:broker.elsewhere")),
        ("mqtt.host = '127.0.0.1' is not the name in the broker's certificate",),
        lambda lab: lab.serve(lab.good),
    ),
    Fault(
        "expired",
        lambda lab: lab.serve(lab.authority.issue("old", days=-1)),
        ("the broker's certificate", "has expired", "renew it"),
        lambda lab: lab.serve(lab.good),
    ),
    Fault(
        "no client certificate",
        lambda lab: lab.demand_certificates(lab.authority),
        ("demands a client certificate: set mqtt.cert_file and mqtt.key_file",),
        lambda lab: lab.demand_certificates(None),
    ),
    Fault(
        "a client certificate of a stranger",
        _refuse_our_certificate,
        ("does not accept mqtt.cert_file = ",),
        lambda lab: lab.give(lab.client, lab.authority.issue("clinic2", "DNS:clinic")),
    ),
    Fault(
        "a key that is not the certificate's",
        lambda lab: (lab.present_certificate(), shutil.copy(lab.good.key_file, lab.client.key_file)),
        ("mqtt.cert_file = ", "mqtt.key_file = ", "the key that belongs to it"),
        lambda lab: lab.give(lab.client, lab.authority.issue("clinic2", "DNS:clinic")),
    ),
    Fault(
        "another password",
        lambda lab: lab.password_file.write_text("wrong\n"),
        ("refused", "Not authorized (135)", "look at mqtt.username and mqtt.password_file"),
        lambda lab: lab.password_file.write_text("s3cret\n"),
    ),
    Fault(
        "no password file",
        lambda lab: lab.password_file.unlink(),
        ("mqtt.password_file = ", "No such file"),
        lambda lab: lab.password_file.write_text("s3cret\n"),
    ),
    Fault(
        "no TLS on that port",
        lambda lab: (lab.broker.set_tls(None), lab.broker._config_file.write_text(
            lab.broker._config_file.read_text() + f"listener {lab.broker.tls_port} 127.0.0.1\n"), lab.restart()),
        ("does this port speak TLS (mqtt.port, mqtt.tls)?",),
        lambda lab: lab.demand_certificates(None),
    ),
    Fault(
        "no broker",
        lambda lab: lab.broker.kill(),
        ("Connection refused", "mqtt.host and mqtt.port"),
        lambda lab: lab.broker.start(),
    ),
]  # fmt: skip


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    with made.broker:
        yield made


class Watched(Worker):
    """A worker whose observer is the daemon's own metrics."""

    def __init__(self, settings: BrokerSettings, outbox: ScriptedOutbox | None = None) -> None:
        self.metrics: Metrics = new_metrics(FakeClock())
        super().__init__(settings, outbox)

    def connected(self, up: bool, session: int) -> None:
        super().connected(up, session)
        self.metrics.connected(up, session)

    @property
    def mqtt_connected(self) -> float | None:
        return self.metrics.registry.get_sample_value("pellucid_mqtt_connected")


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The publisher's warnings and errors."""
    loggers = ("monitor.publish", "monitor.delivery")
    return [r.getMessage() for r in caplog.records if r.name in loggers and r.levelno >= logging.WARNING]


@both_versions
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_what_is_wrong_is_named_nothing_is_lost_and_mending_it_is_enough(
    lab: Lab, protocol: int, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    fault.break_it(lab)
    lab.settings.protocol = protocol
    worker = Watched(lab.settings)
    for n in range(6):
        put(worker.outbox, f"embryo/{n % 2}/reading", n, retain=True)
    for _ in range(3):
        attempts = len(told(caplog))
        worker.ahead_s += 61
        worker.until(lambda before=attempts: len(told(caplog)) > before)  # type: ignore[misc]
        assert not worker.publisher.connected
    assert (worker.ups, worker.mqtt_connected, len(worker.left())) == ([], 0, 6)
    lines = told(caplog)
    assert len(lines) == 3
    assert [part for line in lines for part in fault.says if part not in line] == []
    assert ["next attempt in 1.0 s" in lines[0], "in 2.0 s" in lines[1], "in 4.0 s" in lines[2]] == [True] * 3
    assert "s3cret" not in caplog.text and "wrong\n" not in caplog.text
    fault.mend(lab)
    with Listener(lab.broker.port, f"{ROOT}/embryo/#", "clinic", "cl1nic") as listener:
        worker.connect()
        assert worker.mqtt_connected == 1
        worker.deliver()
        assert numbers(listener.wait_for(lambda heard: len(heard) >= 6)) == list(range(6))
    worker.publisher.stop(1.0)


@both_versions
def test_with_the_right_client_certificate_mutual_tls_lets_us_in(
    lab: Lab, protocol: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    lab.demand_certificates(lab.authority)
    lab.present_certificate()
    lab.settings.protocol = protocol
    worker = Watched(lab.settings)
    with Listener(lab.broker.port, f"{ROOT}/embryo/#", "clinic", "cl1nic") as listener:
        for n in range(50):
            put(worker.outbox, f"embryo/{n % 3}/reading", n)
        worker.connect()
        worker.deliver()
        assert numbers(listener.wait_for(lambda heard: len(heard) >= 50)) == list(range(50))
    assert worker.publisher.session == 1 and worker.mqtt_connected == 1
    assert "TLSv1.3" in caplog.text
    worker.publisher.stop(1.0)


def test_an_acl_that_denies_everything_is_no_connection_until_it_is_mended(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    lab.allow("topic deny #")
    worker = Watched(lab.settings)
    for n in range(6):
        put(worker.outbox, f"embryo/{n % 2}/reading", n)
    worker.ahead_s += 61
    worker.until(lambda: sum(outcome == "refused" for _, outcome, _ in worker.outcomes) >= 7)  # birth and six rows
    assert (worker.publisher.connected, worker.ups, worker.mqtt_connected) == (False, [], 0)
    assert len(worker.left()) == 6
    for topic in ("status", "embryo/0/reading", "embryo/1/reading"):
        (line,) = [line for line in told(caplog) if f"{ROOT}/{topic}" in line]
        assert "Not authorized (135): the broker's ACL does not let mqtt.username write there" in line
    with Listener(lab.broker.port, f"{ROOT}/#", "clinic", "cl1nic") as listener:
        lab.allow("topic readwrite #")
        worker.ahead_s += 2
        worker.until(lambda: worker.publisher.connected)
        assert worker.mqtt_connected == 1
        worker.deliver()
        heard = listener.wait_for(lambda heard: len(numbers(heard)) >= 6)
    for well in (0, 1):
        said = numbers([message for message in heard if f"embryo/{well}/" in message.topic])
        assert said == [n for n in range(6) if n % 2 == well]
    assert any(message.topic == f"{ROOT}/status" and message.body["status"] == "online" for message in heard)
    assert worker.publisher.session == 1, "no new session was needed"
    worker.publisher.stop(1.0)


def test_with_3_1_1_a_denied_topic_is_acknowledged_and_dropped_as_the_contract_says(lab: Lab) -> None:
    """The broker has no word for it; should a broker find one, this test and the contract are to be changed."""
    lab.allow("topic deny #")
    lab.settings.protocol = 311
    worker = Watched(lab.settings)
    put(worker.outbox, "embryo/0/reading", 0)
    worker.connect()
    worker.deliver()
    assert ("reading", "delivered", 1) in worker.outcomes
    assert any("Denied PUBLISH" in line for line in lab.broker.lines)
    worker.publisher.stop(1.0)


@both_versions
def test_a_password_changed_at_the_broker_ends_the_session_and_the_new_one_in_the_file_begins_another(
    lab: Lab, protocol: int, caplog: pytest.LogCaptureFixture
) -> None:
    lab.settings.protocol = protocol
    worker = Watched(lab.settings)
    worker.connect()
    lab.broker.write_passwords({"monitor": "n3w", "clinic": "cl1nic"})
    lab.broker.reload()
    worker.until(lambda: not worker.publisher.connected)
    put(worker.outbox, "embryo/0/reading", 0)
    worker.fail_to_connect()
    assert worker.mqtt_connected == 0 and "mqtt.password_file" in caplog.text
    lab.password_file.write_text("n3w\n")
    worker.connect()
    worker.deliver()
    assert worker.mqtt_connected == 1
    worker.publisher.stop(1.0)


@both_versions
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_network_thread_that_dies_of_an_error_is_noticed_and_another_session_goes_on(
    lab: Lab, protocol: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.settings.protocol = protocol
    worker = Watched(lab.settings)
    with Listener(lab.broker.port, f"{ROOT}/#", "clinic", "cl1nic") as listener:
        worker.connect()
        first = worker.lines[-1]

        def broken(_timeout_s: float) -> None:
            raise SystemExit  # ends a thread without a word

        monkeypatch.setattr(first._client, "_loop", broken)
        put(worker.outbox, "embryo/0/reading", 0)
        worker.until(lambda: not worker.publisher.connected)
        assert not first.alive and "the network thread died" in caplog.text and worker.mqtt_connected == 0
        began_s = time.monotonic()
        worker.connect()
        worker.deliver()
        assert worker.publisher.session == 2 and worker.mqtt_connected == 1
        assert time.monotonic() - began_s < 5.0
        listener.wait_for(lambda heard: 0 in numbers(heard))
        worker.ahead_s += FIRST_REASSERT_S  # the first session's will may have come after the second's birth
        worker.until(lambda: worker.outcomes.count(("status", "repeated", 0)) >= 3)  # two births, and once more
        listener.wait_for(lambda heard: statuses(heard)[-1:] == [("online", 2)])
    worker.publisher.stop(1.0)


def finding(lab: Lab) -> str:
    """What `check` says of the lab's broker."""
    shape = {name: value for name, value in asdict(lab.settings).items() if value is not None}
    return str(_broker(Mqtt.model_validate(shape), Site(name="lab1", node="box1"), 5.0))


@both_versions
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_check_says_what_is_wrong_and_that_it_is_right_again(lab: Lab, protocol: int, fault: Fault) -> None:
    lab.settings.protocol = protocol
    fault.break_it(lab)
    line = finding(lab)
    assert line.startswith("error    mqtt") and [part for part in fault.says if part not in line] == []
    assert "s3cret" not in line
    fault.mend(lab)
    line = finding(lab)
    assert line.startswith("ok       mqtt") and f"MQTT {'5' if protocol == 5 else '3.1.1'}, TLSv1.3" in line


def test_check_disturbs_no_running_daemon_and_says_nothing_on_any_topic(lab: Lab) -> None:
    worker = Watched(lab.settings)
    with Listener(lab.broker.port, "#", "clinic", "cl1nic") as listener:
        worker.connect()
        worker.deliver()
        listener.wait_for(lambda heard: len(heard) == 1)
        seen = len(lab.broker.lines)
        assert finding(lab).startswith("ok")
        lab.broker.wait_for_line("Received DISCONNECT from pellucid-lab1-box1-check-", seen)
        put(worker.outbox, "embryo/0/reading", 0)
        worker.deliver()
        heard = listener.wait_for(lambda heard: len(heard) >= 2)
    assert numbers(heard) == [0] and len(heard) == 2
    assert worker.publisher.session == 1 and worker.ups == [(True, 1)]
    worker.publisher.stop(1.0)


def test_check_warns_of_a_login_without_tls_beyond_this_machine(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"host": "127.0.0.1", "port": lab.broker.port, "username": "monitor", "password_file": lab.password_file}
    site = Site(name="lab1", node="box1")
    assert str(_broker(Mqtt.model_validate(settings), site)).startswith("ok")
    monkeypatch.setattr("monitor.check.LOOPBACK", ())
    line = str(_broker(Mqtt.model_validate(settings), site))
    assert line.startswith("warning") and "no TLS" in line


def test_check_gives_up_on_a_broker_that_says_nothing_and_names_the_keys() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        settings = Mqtt.model_validate({"host": "127.0.0.1", "port": server.getsockname()[1]})
        line = str(_broker(settings, Site(name="lab1", node="box1"), limit_s=0.5))
    assert line.startswith("error") and "no answer to CONNECT" in line and "mqtt.protocol" in line

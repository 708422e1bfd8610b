"""A real Mosquitto on a free loopback port, with config and store in a folder of the test's; and a listener to it."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from tests.certificates import Certificate

PROGRAM = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
PASSWORDS = shutil.which("mosquitto_passwd")
needs_mosquitto = pytest.mark.skipif(PROGRAM is None, reason="no Mosquitto on this machine (apt install mosquitto)")
LIMIT_S = 10.0


@dataclass
class BrokerSettings:
    """The broker as an operator may set it; by default a port nobody listens on."""

    host: str = "127.0.0.1"
    port: int = 1
    protocol: int = 5
    username: str | None = None
    password_file: Path | None = None
    tls: bool = False
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    keepalive_s: int = 30
    max_inflight: int = 100


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Mosquitto:
    """`with Mosquitto(tmp_path) as broker: ... broker.port`. It can be stopped, killed, frozen and started again.

    `passwords` (user -> password; anonymous where None), `acl` (text of an ACL file) and `extra` (lines of config) hold
    from the next start; `reload()` makes a running broker read the password and ACL files again. With `tls` it listens
    on `tls_port` too; with `client_ca` it demands there a certificate signed by that authority (`set_tls` sets both
    anew for the next start).
    """

    def __init__(
        self,
        folder: Path,
        passwords: Mapping[str, str] | None = None,
        acl: str | None = None,
        extra: str = "",
        tls: Certificate | None = None,
        client_ca: Path | None = None,
    ) -> None:
        self.port, self.tls_port = free_port(), free_port()
        self.folder = folder / f"mosquitto-{self.port}"
        self.folder.mkdir(parents=True)
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._process: subprocess.Popen[str] | None = None
        if passwords is not None:
            self.write_passwords(passwords)
        if acl is not None:
            self.write_acl(acl)
        self._write_config(passwords is not None, acl is not None, extra)
        self._plain_config = self._config_file.read_text()
        self.set_tls(tls, client_ca)

    def set_tls(self, tls: Certificate | None, client_ca: Path | None = None) -> None:
        lines: list[str] = []
        if tls is not None:
            lines += [f"listener {self.tls_port} 127.0.0.1", f"certfile {tls.cert_file}", f"keyfile {tls.key_file}"]
        if client_ca is not None:
            lines += [f"cafile {client_ca}", "require_certificate true"]
        self._config_file.write_text("\n".join([self._plain_config, *lines, ""]))

    @property
    def _config_file(self) -> Path:
        return self.folder / "mosquitto.conf"

    def _write_config(self, passwords: bool, acl: bool, extra: str) -> None:
        lines = [
            f"listener {self.port} 127.0.0.1",
            "max_queued_messages 100000",  # the default of 1000 drops a burst of QoS 1 messages
            "persistence true",
            f"persistence_location {self.folder}/",
            "log_dest stderr",
            "log_type all",
            f"allow_anonymous {'false' if passwords else 'true'}",
        ]
        if passwords:
            lines.append(f"password_file {self.folder / 'passwords'}")
        if acl:
            lines.append(f"acl_file {self.folder / 'acl'}")
        if os.geteuid() == 0:
            lines.append("user root")  # it would become `mosquitto`, who may not write here
        self._config_file.write_text("\n".join([*lines, extra, ""]))

    def write_passwords(self, passwords: Mapping[str, str]) -> None:
        assert PASSWORDS is not None
        path = self.folder / "passwords"
        path.write_text("")
        path.chmod(0o600)
        for user, password in passwords.items():
            subprocess.run([PASSWORDS, "-b", str(path), user, password], check=True, capture_output=True)

    def write_acl(self, acl: str) -> None:
        (self.folder / "acl").write_text(acl)
        (self.folder / "acl").chmod(0o600)

    def __enter__(self) -> Mosquitto:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start and wait until it listens."""
        assert PROGRAM is not None and self._process is None
        seen = len(self.lines)
        self._process = subprocess.Popen([PROGRAM, "-c", str(self._config_file)], stderr=subprocess.PIPE, text=True)
        threading.Thread(target=self._read, args=(self._process,), daemon=True).start()
        self.wait_for_line(" running", seen)

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        with process.stderr as lines:
            for line in lines:
                with self._changed:
                    self.lines.append(line.rstrip())
                    self._changed.notify_all()

    def wait_for_line(self, part: str, after_line: int = 0) -> None:
        """Wait until the broker logged a line with `part`, at position `after_line` or later."""
        with self._changed:
            if not self._changed.wait_for(lambda: any(part in line for line in self.lines[after_line:]), LIMIT_S):
                raise AssertionError(f"Mosquitto did not log {part!r}:\n" + "\n".join(self.lines[-20:]))

    def stop(self) -> None:
        """Stop as systemd does; it saves its store."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill as a power cut does; whatever it had not saved is lost. Harmless when not running."""
        self._end(signal.SIGKILL)

    def lose_store(self) -> None:
        """Remove what a stopped broker saved: retained messages, sessions."""
        (self.folder / "mosquitto.db").unlink(missing_ok=True)

    def freeze(self) -> None:
        """The broker stops answering, its connections stay open."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def reload(self) -> None:
        """Read the password and ACL files again, and wait until it has."""
        seen = len(self.lines)
        self._signal(signal.SIGHUP)
        self.wait_for_line("Reloading config", seen)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _end(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(LIMIT_S)
            self._process = None


@dataclass(frozen=True)
class Heard:
    topic: str
    payload: bytes
    retained: bool

    @property
    def body(self) -> dict[str, Any]:
        return dict(json.loads(self.payload))


class Listener:
    """A client that hears `topic_filter` on 127.0.0.1; subscribed when the constructor returns."""

    def __init__(self, port: int, topic_filter: str = "#", username: str | None = None, password: str = "") -> None:
        self.heard: list[Heard] = []
        self._messages: queue.SimpleQueue[Heard] = queue.SimpleQueue()
        subscribed = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        if username is not None:
            self._client.username_pw_set(username, password)
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.on_message = lambda _c, _u, m: self._messages.put(Heard(m.topic, bytes(m.payload), m.retain))
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self._client.subscribe(topic_filter, qos=1)
        assert subscribed.wait(LIMIT_S), "the broker did not answer the subscription"

    def publish(self, topic: str, payload: bytes, retain: bool = False) -> None:
        """Say something as another client would, and wait for its acknowledgment."""
        self._client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(LIMIT_S)

    def take(self) -> list[Heard]:
        """Everything heard until now, oldest first."""
        while not self._messages.empty():
            self.heard.append(self._messages.get())
        return self.heard

    def wait_for(self, enough: Callable[[list[Heard]], bool], limit_s: float = LIMIT_S) -> list[Heard]:
        """Wait until what was heard satisfies `enough`; AssertionError where it does not within `limit_s`."""
        deadline_s = time.monotonic() + limit_s
        while not enough(self.take()):
            try:
                self.heard.append(self._messages.get(timeout=max(0.0, deadline_s - time.monotonic())))
            except queue.Empty:
                raise AssertionError(f"heard only {self.heard[-5:]} ({len(self.heard)} messages)") from None
        return self.heard

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def retained(port: int, root: str) -> dict[str, bytes]:
    """What a newcomer is told, by topic below `root`."""
    with Listener(port, f"{root}/#") as newcomer:
        newcomer.publish("end/of/retained", b"")  # answered after the retained messages were sent
        return {one.topic.removeprefix(f"{root}/"): one.payload for one in newcomer.take()}

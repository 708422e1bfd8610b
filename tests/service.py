"""The daemon as the service manager starts it: a process, its log lines, its endpoints, its end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

LIMIT_S = 30.0
RUNNING: list[Service] = []

CONFIG = """
[site]
name = "lab"
node = "box"

[[incubator]]
name = "inc1"
path = "{root}/inc1"
stable_s = 0.2
deadline_s = {deadline_s}

[mqtt]
host = "127.0.0.1"
port = {port}
protocol = {protocol}

[storage]
path = "{root}/store"

[engines]
threads = 1

[http]
port = 0
"""


def leave_nothing_running() -> None:
    """Kill what a failed test left behind."""
    while RUNNING:
        RUNNING.pop().kill()


def write_config(root: Path, port: int, deadline_s: float = 2.0, protocol: int = 5) -> Path:
    (root / "inc1").mkdir(exist_ok=True)
    path = root / "pellucid.toml"
    path.write_text(CONFIG.format(root=root, port=port, deadline_s=deadline_s, protocol=protocol))
    return path


class Service:
    """`pellucid run` in a process of its own."""

    def __init__(self, config: Path) -> None:
        self.lines: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "monitor", "run", "--config", str(config)], stderr=subprocess.PIPE, text=True
        )
        RUNNING.append(self)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = self.wait_for(lambda lines: any("url" in line for line in lines), "url")[-1]["url"]

    @property
    def pid(self) -> int:
        return self._process.pid

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as text:
            for line in text:
                with self._changed:
                    self.lines.append(json.loads(line) if line.startswith("{") else {"message": line})
                    self._changed.notify_all()

    def wait_for(self, enough: Callable[[list[dict[str, Any]]], bool], holding: str = "") -> list[dict[str, Any]]:
        """Wait until the log lines satisfy `enough`; those that hold the key `holding` (all without)."""
        with self._changed:
            if not self._changed.wait_for(lambda: enough(self.lines), LIMIT_S):
                raise AssertionError("the service did not log what was waited for:\n" + str(self.lines[-10:]))
            return [line for line in self.lines if not holding or holding in line]

    def wait_for_readings(self, count: int) -> list[dict[str, Any]]:
        """Wait until this process has journalled so many readings."""
        self.wait_for(lambda lines: sum(line["message"] == "reading" for line in lines) >= count)
        return [line for line in self.lines if line["message"] == "reading"]

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(LIMIT_S)
        self._reader.join(LIMIT_S)

    def terminate(self, limit_s: float = 5.0) -> int:
        """As systemd stops it; TimeoutExpired when it takes longer."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(limit_s)

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return str(answer.read().decode())

    def metric(self, name: str, **labels: str) -> float | None:
        """The value of a series, None where it does not exist."""
        for family in text_string_to_metric_families(self.get("/metrics")):
            for sample in family.samples:
                if sample.name == f"pellucid_{name}" and sample.labels == labels:
                    return float(sample.value)
        return None

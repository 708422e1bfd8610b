"""A real Prometheus and Alertmanager on loopback with the rules of deploy/, made fast; and who is called."""

from __future__ import annotations

import json
import queue
import re
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from tests.mosquitto import free_port
from tests.programs import program

HOME = Path(__file__).resolve().parents[1] / "deploy" / "prometheus"
LIMIT_S = 120.0
FASTER = 200  # 45 minutes of silence become 13.5 s
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def hastened(text: str) -> str:
    """Every duration of a configuration or of a rule divided by FASTER; numbers that are no durations stay."""

    def shorter(match: re.Match[str]) -> str:
        return f"{max(100, round(int(match[2]) * UNITS_S[match[3]] * 1000 / FASTER))}ms"

    text = re.sub(r"(\[)(\d+)([smhd])(?=\])", lambda match: "[" + shorter(match), text)
    return re.sub(
        r"((?:for|group_wait|group_interval|repeat_interval): *)(\d+)([smhd])\b",
        lambda match: match[1] + shorter(match),
        text,
    )


class Called:
    """The telephone: hears what Alertmanager's webhook says."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.alerts: list[dict[str, Any]] = []
        calls = self._calls

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                calls.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()

    def forget(self) -> None:
        """What was heard until now does not count: on a busy machine a scrape may have come too late."""
        while not self._calls.empty():
            self._calls.get()
        self.alerts = []

    def wait_for(self, alert: str, status: str, node: str = "box1") -> dict[str, Any]:
        """The first word of that kind that has not been asked for before."""
        deadline_s = time.monotonic() + LIMIT_S
        while True:
            for k, one in enumerate(self.alerts):
                if (one["labels"]["alertname"], one["status"], one["labels"].get("node")) == (alert, status, node):
                    return self.alerts.pop(k)
            try:
                self.alerts += self._calls.get(timeout=max(0.0, deadline_s - time.monotonic()))["alerts"]
            except queue.Empty:
                raise AssertionError(f"nobody was called with {alert} {status}; only {self.alerts}") from None

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Watching:
    """Prometheus, Alertmanager and the telephone. `targets`: node -> port of its monitor."""

    def __init__(self, folder: Path, targets: Mapping[str, int]) -> None:
        prometheus, alertmanager = (
            program("prometheus", "prometheus"),
            program("prometheus-alertmanager", "prometheus-alertmanager"),
        )
        self.called, self.port, alert_port = Called(), free_port(), free_port()
        (folder / "pellucid.rules.yml").write_text(hastened((HOME / "pellucid.rules.yml").read_text()))
        config = yaml.safe_load((HOME / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{alert_port}"]
        config["scrape_configs"][0]["static_configs"] = [
            {"targets": [f"127.0.0.1:{port}"], "labels": {"node": node}} for node, port in targets.items()
        ]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        url = f"http://127.0.0.1:{self.called.port}/alerts"
        text = hastened((HOME / "alertmanager.yml").read_text()).replace("http://127.0.0.1:9095/alerts", url)
        assert url in text
        (folder / "alertmanager.yml").write_text(text)
        log = (folder / "log").open("ab")
        self._processes = [
            subprocess.Popen([str(word) for word in command], stdout=log, stderr=log)
            for command in (
                [alertmanager, f"--config.file={folder}/alertmanager.yml", f"--storage.path={folder}/alertmanager",
                 f"--web.listen-address=127.0.0.1:{alert_port}", "--cluster.listen-address="],
                [prometheus, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb",
                 f"--web.listen-address=127.0.0.1:{self.port}"],
            )
        ]  # fmt: skip
        log.close()
        self._log = folder / "log"

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What Prometheus answers now; AssertionError where it finds the question wrong."""
        return self._ask("query", expression)

    def query_range(self, expression: str) -> list[dict[str, Any]]:
        """What it answers for the last two minutes, every second."""
        now_s = time.time()
        return self._ask("query_range", expression, start=str(now_s - 120), end=str(now_s), step="1")

    def _ask(self, kind: str, expression: str, **times: str) -> list[dict[str, Any]]:
        question = urllib.parse.urlencode({"query": expression, **times})
        url = f"http://127.0.0.1:{self.port}/api/v1/{kind}?{question}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                told = json.loads(answer.read())
        except urllib.error.HTTPError as fault:
            if fault.code == 503:  # it listens, and is not ready yet
                raise
            raise AssertionError(f"{expression}: {fault.read().decode()}") from fault
        return list(told["data"]["result"])

    def wait_for(self, expression: str) -> list[dict[str, Any]]:
        """Its answer, once it has one."""
        deadline_s = time.monotonic() + LIMIT_S
        while True:
            try:
                if found := self.query(expression):
                    return found
            except OSError:  # it is not up yet
                pass
            assert time.monotonic() < deadline_s, f"{expression}: no answer\n" + self._log.read_text()[-2000:]
            threading.Event().wait(0.2)

    def close(self) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            process.wait(10)
        self.called.close()

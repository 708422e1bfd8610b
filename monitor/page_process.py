"""The page beside the daemon: its process started, watched, started anew, and ended with us.

It gets the configuration over its standard input and lives as long as that stays open, so it never outlives the daemon.
What happens to it is logged and touches nothing else. It refuses to know what the page shows.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry

from monitor.config import Config
from monitor.endpoints import Endpoints, Ready, Submit
from monitor.errors import ConfigError
from monitor.relay import Relay

log = logging.getLogger(__name__)

NEEDS = ("fastapi", "uvicorn", "jinja2")  # the extra `web`
_AGAIN_S, _AGAIN_MOST_S = 1.0, 60.0
_SETTLED_S = 60.0  # a page that lived so long is started anew at once
_END_S = 3.0

Command = Callable[[Path, str], list[str]]  # (socket, the daemon's address)


def page_command(path: Path, daemon: str) -> list[str]:
    return [sys.executable, "-m", "monitor", "page", "--config", "-", "--socket", str(path), "--daemon", daemon]


def can_serve() -> bool:
    """Whether the extra `web` is installed."""
    return all(importlib.util.find_spec(name) is not None for name in NEEDS)


class PageProcess:
    """One page process at a time. `start` and `stop` from one thread."""

    def __init__(self, config: Config, path: Path, daemon: str, command: Command = page_command) -> None:
        self._config, self._path, self._daemon, self._command = config, path, daemon, command
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="page", daemon=True)
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        process = self._process
        return None if process is None or process.poll() is not None else process.pid

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        with self._lock:
            process = self._process
        if process is not None:
            _end(process)
        self._thread.join(timeout=_END_S)

    def _watch(self) -> None:
        again_s = _AGAIN_S
        while not self._stopping.is_set():
            began_s = time.monotonic()
            code = self._run_one()
            if self._stopping.is_set():
                return
            if time.monotonic() - began_s >= _SETTLED_S:
                again_s = _AGAIN_S
            log.error("the page has ended; it is started anew", extra={"code": code, "after_s": again_s})
            self._stopping.wait(again_s)
            again_s = min(2 * again_s, _AGAIN_MOST_S)

    def _run_one(self) -> int | None:
        try:
            with self._lock:
                if self._stopping.is_set():
                    return None
                process = subprocess.Popen(self._command(self._path, self._daemon), stdin=subprocess.PIPE)
                self._process = process
            assert process.stdin is not None
            process.stdin.write(self._config.model_dump_json().encode() + b"\n")
            process.stdin.flush()
        except OSError as fault:
            log.error("the page does not start", extra={"fault": str(fault)})
            return None
        return process.wait()


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        try:
            process.stdin.close()
        except OSError as fault:  # it has gone already
            log.debug("the page had closed its input", extra={"fault": str(fault)})
    process.terminate()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()


@contextmanager
def endpoints_up(
    config: Config, registry: CollectorRegistry, ready: Ready, submit: Submit | None = None
) -> Iterator[Endpoints]:
    """The HTTP server, and behind it the page where it is configured. Raises ConfigError."""
    if not config.http.page:
        endpoints = Endpoints(config.http, registry, ready, submit)
        endpoints.start()
        try:
            yield endpoints
        finally:
            endpoints.stop()
        return
    if not can_serve():
        raise ConfigError("http.page = true: the page needs the extra \"web\": pip install 'pellucid[web]'")
    folder = Path(tempfile.mkdtemp(prefix="pellucid-page-", dir=os.environ.get("RUNTIME_DIRECTORY")))
    try:
        path = folder / "socket"
        endpoints = Endpoints(config.http, registry, ready, submit, Relay(path))
        process = PageProcess(config, path, endpoints.url_from_here)
        endpoints.start()
        process.start()
        try:
            yield endpoints
        finally:
            endpoints.stop()
            process.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)

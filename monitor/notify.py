"""systemd's notification socket (sd_notify(3)): ready, alive, stopping. Without a socket every call does nothing."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

log = logging.getLogger(__name__)

STARTING_S = 60


class Notifier:
    """Speaks to the socket in `NOTIFY_SOCKET`, if there is one. `watchdog_s`: how often systemd wants to hear."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        mine = environ.get("WATCHDOG_PID") in (None, str(os.getpid()))
        limit_us = environ.get("WATCHDOG_USEC")
        self.watchdog_s = int(limit_us) / 1e6 if mine and limit_us else None

    def _send(self, text: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as speaker:
                speaker.connect(self._address)
                speaker.sendall(text.encode())
        except OSError as fault:  # the supervisor will notice; the monitor goes on
            log.error("the supervisor cannot be told", extra={"fault": str(fault)})

    def starting(self, status: str) -> None:
        """A start goes on that may take longer than systemd waits (TimeoutStartSec): once a minute at least, and as
        `progress` not by a timer."""
        self._send(f"EXTEND_TIMEOUT_USEC={STARTING_S * 1_000_000}\nSTATUS={status}")

    def ready(self, status: str) -> None:
        self._send(f"READY=1\nSTATUS={status}")

    def progress(self, status: str) -> None:
        """To be called when work has moved, not by a timer: a hang must let the watchdog fire."""
        self._send(f"WATCHDOG=1\nSTATUS={status}")

    def stopping(self) -> None:
        self._send("STOPPING=1")

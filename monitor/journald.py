"""systemd's journal, spoken to directly: each `extra` of a log record becomes a field that journalctl can select by.

`journalctl -u pellucid PELLUCID_EMBRYO_ID=...`, `-p warning`. The message stays the JSON line that standard error would
get. What the journal's socket does not take goes to standard error, where systemd reads it too.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

SOCKET = Path("/run/systemd/journal/socket")
_SYSLOG = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))  # syslog(3)'s levels
_LONGEST_NAME = 64  # journald ignores a field with a longer one


def reads_stderr(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether standard error goes to the journal (`JOURNAL_STREAM`): it may have been redirected since."""
    try:
        stderr = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):  # closed, or no file at all
        return False
    return environ.get("JOURNAL_STREAM") == f"{stderr.st_dev}:{stderr.st_ino}"


class JournalHandler(logging.Handler):
    """Sends records to the journal. `extras` gives what a record carries beside its message; what cannot be sent is
    given to `otherwise`."""

    def __init__(
        self,
        otherwise: logging.Handler,
        extras: Callable[[logging.LogRecord], Mapping[str, object]],
        path: Path = SOCKET,
    ) -> None:
        super().__init__()
        self._otherwise, self._extras, self._path = otherwise, extras, str(path)
        self._speaker = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def emit(self, record: logging.LogRecord) -> None:
        fields = {
            "MESSAGE": self.format(record),
            "PRIORITY": str(next((level for at_least, level in _SYSLOG if record.levelno >= at_least), 7)),
            "SYSLOG_IDENTIFIER": "pellucid",
            "CODE_FILE": record.pathname,
            "CODE_LINE": str(record.lineno),
            "CODE_FUNC": record.funcName,
            "PELLUCID_LOGGER": record.name,
            "PELLUCID_EVENT": record.getMessage(),
        }
        own = {_field_name(name): str(value) for name, value in self._extras(record).items() if value is not None}
        try:
            self._speaker.sendto(b"".join(map(_encode, *zip(*(own | fields).items(), strict=True))), self._path)
        except OSError:  # longer than a datagram may be, or journald is being restarted
            self._otherwise.emit(record)

    def close(self) -> None:
        self._speaker.close()
        super().close()


def _field_name(name: str) -> str:
    return "PELLUCID_" + "".join(c if c.isascii() and c.isalnum() else "_" for c in name.upper())[: _LONGEST_NAME - 9]


def _encode(name: str, value: str) -> bytes:
    """`NAME=value`, or with its length in front where it has more than one line."""
    data = value.encode(errors="backslashreplace")
    if b"\n" not in data:
        return name.encode() + b"=" + data + b"\n"
    return name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"

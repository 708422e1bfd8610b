"""Structured logs: one JSON object a line on standard error, `extra` fields beside the message.

Where standard error is systemd's journal, the line goes there with the same fields for journalctl to select by.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone

from monitor.journald import JournalHandler, reads_stderr
from monitor.vocabulary import rfc3339

_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def extras(record: logging.LogRecord) -> dict[str, object]:
    """What `extra` held."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


class JsonLine(logging.Formatter):
    """time, level, logger, message, then whatever `extra` held."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": rfc3339(datetime.fromtimestamp(record.created, timezone.utc)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= extras(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_to_stderr(level: int = logging.INFO) -> None:
    """Send everything from `level` up to standard error, or to the journal that reads it."""
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLine())
    if reads_stderr():
        handler = JournalHandler(handler, extras)
        handler.setFormatter(JsonLine())
    logging.basicConfig(level=level, handlers=[handler], force=True)

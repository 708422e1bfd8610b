"""What the journal is told, read back by the rules of its native protocol from a socket of the test's own."""

from __future__ import annotations

import json
import logging
import os
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from monitor.journald import JournalHandler, reads_stderr
from monitor.logs import JsonLine, extras


class Fallback(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class Journal:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "socket"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._socket.settimeout(5)

    def take(self) -> dict[str, str]:
        data, fields = self._socket.recv(1 << 20), {}
        while data:
            line, _, rest = data.partition(b"\n")
            name, equals, value = line.partition(b"=")
            if not equals:
                (length,) = struct.unpack("<Q", rest[:8])
                value, rest = rest[8 : 8 + length], rest[9 + length :]
            fields[name.decode()] = value.decode()
            data = rest
        return fields

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path)
    yield made
    made.close()


def handler_of(path: Path) -> tuple[JournalHandler, Fallback]:
    fallback = Fallback()
    handler = JournalHandler(fallback, extras, path)
    handler.setFormatter(JsonLine())
    return handler, fallback


def record(level: int, message: str, **extra: object) -> logging.LogRecord:
    return logging.getLogger("monitor.daemon").makeRecord(
        "monitor.daemon", level, "/x/daemon.py", 7, message, (), None, "turn", extra
    )


def test_each_extra_becomes_a_field_and_the_message_stays_the_json_line(journal: Journal) -> None:
    handler, _ = handler_of(journal.path)
    handler.emit(record(logging.INFO, "reading", embryo_id="inc1/D1/1/run1", hpi=24.5, frame=None, flags=["dark"]))
    told = journal.take()
    assert (told["PELLUCID_EMBRYO_ID"], told["PELLUCID_HPI"], told["PELLUCID_FLAGS"]) == (
        "inc1/D1/1/run1",
        "24.5",
        "['dark']",
    )
    assert "PELLUCID_FRAME" not in told
    assert (told["PELLUCID_EVENT"], told["PELLUCID_LOGGER"], told["SYSLOG_IDENTIFIER"]) == (
        "reading",
        "monitor.daemon",
        "pellucid",
    )
    assert (told["CODE_FILE"], told["CODE_LINE"], told["CODE_FUNC"]) == ("/x/daemon.py", "7", "turn")
    assert json.loads(told["MESSAGE"])["embryo_id"] == "inc1/D1/1/run1"
    handler.close()


@pytest.mark.parametrize(("level", "priority"), [(10, "7"), (20, "6"), (30, "4"), (40, "3"), (50, "2")])
def test_the_level_becomes_the_priority_journalctl_selects_by(journal: Journal, level: int, priority: str) -> None:
    handler, _ = handler_of(journal.path)
    handler.emit(record(level, "x"))
    assert journal.take()["PRIORITY"] == priority
    handler.close()


def test_a_text_of_several_lines_and_an_odd_name_cannot_make_a_field_of_their_own(journal: Journal) -> None:
    handler, _ = handler_of(journal.path)
    handler.emit(
        record(logging.INFO, "x", **{"fault": "one\nPRIORITY=0\ntwo", "päge=1\n": "v", "\udce4": "w", "n" * 99: 1})
    )
    told = journal.take()
    assert told["PELLUCID_FAULT"] == "one\nPRIORITY=0\ntwo" and told["PRIORITY"] == "6"
    assert told["PELLUCID_P_GE_1_"] == "v"
    assert all(len(name) <= 64 and name.replace("_", "A").isalnum() for name in told)
    handler.close()


def test_what_the_journal_does_not_take_goes_to_standard_error(journal: Journal, tmp_path: Path) -> None:
    handler, fallback = handler_of(journal.path)
    handler.emit(record(logging.INFO, "x" * (1 << 22)))
    assert len(fallback.records) == 1
    handler.close()
    nobody, fallback = handler_of(tmp_path / "nobody")
    nobody.emit(record(logging.INFO, "x"))
    assert len(fallback.records) == 1
    nobody.close()


def test_the_journal_is_spoken_to_only_where_it_reads_standard_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "stderr").open("w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        at = os.fstat(stderr.fileno())
        assert reads_stderr({"JOURNAL_STREAM": f"{at.st_dev}:{at.st_ino}"})
        assert not reads_stderr({"JOURNAL_STREAM": f"{at.st_dev}:{at.st_ino + 1}"})
        assert not reads_stderr({})
    assert not reads_stderr({"JOURNAL_STREAM": "1:1"})  # closed

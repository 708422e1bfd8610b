"""What the journal and the state files keep, and what they refuse."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from monitor.database import SCHEMA_VERSION, Database
from monitor.errors import ConfigError, StorageError
from monitor.journal import FileRecord, Journal
from monitor.states import StateFiles
from monitor.vocabulary import FileSeen
from tests.house import START, FakeClock, node_over, picture, scripted, take_all, write_frame


def test_the_journal_is_wal_and_synchronous_full(tmp_path: Path) -> None:
    database = Database(tmp_path)
    assert database.connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert database.connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_second_daemon_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    first = Journal(tmp_path, "a")
    with pytest.raises(ConfigError, match="another pellucid works in this folder"):
        Journal(tmp_path, "b")
    first.close()
    Journal(tmp_path, "b").close()


def test_a_journal_of_another_schema_is_refused_by_number(tmp_path: Path) -> None:
    Journal(tmp_path, "a").close()
    with sqlite3.connect(tmp_path / "journal.sqlite") as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    with pytest.raises(StorageError, match=f"schema {SCHEMA_VERSION + 1}"):
        Journal(tmp_path, "a")


def test_a_damaged_journal_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(StorageError, match="restore it from a backup"):
        Journal(tmp_path, "a")


def test_a_transaction_that_fails_leaves_nothing(tmp_path: Path) -> None:
    database = Database(tmp_path)
    with pytest.raises(StorageError), database.transaction():
        database.count("seq")
        database.connection.execute("INSERT INTO nowhere VALUES (1)")
    assert database.connection.execute("SELECT COUNT(*) FROM meta").fetchone() == (0,)


def test_session_numbers_grow_over_restarts(tmp_path: Path) -> None:
    numbers = []
    for _ in range(3):
        journal = Journal(tmp_path, "a")
        numbers += [journal.next_session(), journal.next_session()]
        journal.close()
    assert numbers == [1, 2, 3, 4, 5, 6]


def test_a_file_put_aside_is_known_and_a_changed_one_is_recorded_anew(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "a")
    journal.put_aside([FileRecord("inc1", FileSeen("a+b.jpg", 3, 7), reason="truncated")])
    journal.put_aside([FileRecord("inc1", FileSeen("a+b.jpg", 4, 8), reason="truncated")])
    assert journal.known_files("inc1") == {"a+b.jpg": (4, 8)}
    assert journal.known_files("inc2") == {}


def test_a_message_leaves_the_outbox_only_when_removed(tmp_path: Path) -> None:
    clock = FakeClock()
    node = node_over(tmp_path, clock)
    for k in range(3):
        write_frame(tmp_path / "inc", "1", START + timedelta(hours=k))
    take_all(node)
    rows = node.journal.pending(0, 100)
    assert [row.row_id for row in rows] == [1, 2, 3]
    assert [row.row_id for row in node.journal.pending(1, 1)] == [2]
    node.journal.remove([2])
    assert [row.row_id for row in node.journal.pending(0, 100)] == [1, 3]
    depth, oldest = node.journal.outbox_depth()
    assert (depth, oldest) == (2, clock.at)


def test_row_ids_are_never_used_again(tmp_path: Path) -> None:
    clock = FakeClock()
    for k in range(3):
        node = node_over(tmp_path, clock)
        write_frame(tmp_path / "inc", "1", START + timedelta(hours=k))
        take_all(node)
        (row,) = node.journal.pending(0, 100)
        assert row.row_id == k + 1
        node.journal.remove([row.row_id])
        node.journal.close()


def test_a_state_is_named_by_its_content_and_found_again(tmp_path: Path) -> None:
    states = StateFiles(tmp_path)
    digest = states.put(b"memory")
    assert states.put(b"memory") == digest
    assert states.get(digest) == b"memory"
    assert [path.name for path in tmp_path.glob("??/*")] == [digest]


def test_a_state_whose_content_is_not_its_name_is_refused(tmp_path: Path) -> None:
    states = StateFiles(tmp_path)
    digest = states.put(b"memory")
    (path,) = tmp_path.glob("??/*")
    path.write_bytes(b"memorx")
    with pytest.raises(StorageError, match="damaged"):
        states.get(digest)


def test_a_state_nobody_names_is_swept_and_a_named_one_stays(tmp_path: Path) -> None:
    states = StateFiles(tmp_path)
    kept, stray = states.put(b"kept"), states.put(b"stray")
    assert states.sweep({kept}) == 1
    assert states.get(kept) == b"kept"
    with pytest.raises(StorageError):
        states.get(stray)


_WRITER = """
import sys
from monitor.journal import FileRecord, Journal
from monitor.vocabulary import FileSeen
from pathlib import Path
journal = Journal(Path(sys.argv[1]), "a")
for k in range(10**6):
    journal.put_aside([FileRecord("inc1", FileSeen(f"{k}.jpg", 1, 1), reason="truncated")])
    print(k, flush=True)
"""


def test_what_was_committed_survives_kill_9(tmp_path: Path) -> None:
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            said = [int(writer.stdout.readline()) for _ in range(50)]
            os.kill(writer.pid, signal.SIGKILL)
        journal = Journal(tmp_path, "a")
        assert {f"{k}.jpg" for k in said} <= set(journal.known_files("inc1"))
        journal.close()


def test_the_earliest_and_the_latest_readings_of_an_incubator_are_found_in_order(tmp_path: Path) -> None:
    node = node_over(tmp_path, FakeClock(START + timedelta(days=1)))
    hours = [timedelta(hours=hour) for hour in range(4)]
    for hour in hours:
        for well in ("1", "2"):
            write_frame(tmp_path / "inc", well, START + hour)
    take_all(node)
    write_frame(
        tmp_path / "inc", "1", START, (-45,), level=60
    )  # a rewritten plane: another revision of the first frame
    (revised,) = take_all(node)
    assert revised.revision == 2
    earliest = node.journal.earliest_readings("inc1", 3)
    assert [reading.occurred_at for reading in earliest] == [START, START, START + hours[1]]
    assert {reading.revision for reading in earliest} == {1}
    latest = node.journal.latest_readings("inc1", 2)
    assert sorted((reading.embryo.well, reading.occurred_at) for reading in latest) == [
        (well, START + hour) for well in ("1", "2") for hour in hours[2:]
    ]
    assert [reading.occurred_at for reading in latest[:2]] == [START + hour for hour in hours[2:]]
    assert node.journal.earliest_readings("inc2", 3) == node.journal.latest_readings("inc2", 2) == []


def test_frames_with_numbers_only_stand_in_order_of_the_number(tmp_path: Path) -> None:
    pattern = r"(?P<dish>[^/]+)/RUN(?P<run>\d+)_F(?P<plane>-?\d+)\.jpg"
    node = node_over(tmp_path, FakeClock(), scripted(counts=(1,)), layout=pattern, planes=[0])
    (tmp_path / "inc" / "D1").mkdir()
    for run in range(8, 13):
        (tmp_path / "inc" / "D1" / f"RUN{run}_F0.jpg").write_bytes(picture(seed=run))
    take_all(node)
    assert [reading.frame.run for reading in node.journal.earliest_readings("inc1", 3)] == [8, 9, 10]
    assert [reading.frame.run for reading in node.journal.latest_readings("inc1", 3)] == [10, 11, 12]

"""What the journal and the state files keep, and what they refuse."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

import monitor.states
from monitor.database import SCHEMA_VERSION, Database
from monitor.errors import ConfigError, StorageError
from monitor.file_table import FileRecord
from monitor.journal import Entry, Journal
from monitor.node import Node
from monitor.states import StateFiles
from monitor.vocabulary import FileSeen, Moment, Place
from tests.house import PLANES_UM, START, FakeClock, node_over, picture, plane_path, scripted, take_all, write_frame


def state_files(root: Path) -> set[str]:
    return {path.name for path in (root / "store" / "states").glob("??/*")}


def _no_room(*args: object, **more: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


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
        numbers += [journal.outbox.next_session(), journal.outbox.next_session()]
        journal.close()
    assert numbers == [1, 2, 3, 4, 5, 6]


def test_a_file_put_aside_is_known_and_a_changed_one_is_recorded_anew(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "a")
    journal.put_aside([FileRecord("inc1", FileSeen("a+b.jpg", 3, 7), reason="truncated")], START)
    journal.put_aside([FileRecord("inc1", FileSeen("a+b.jpg", 4, 8), reason="truncated")], START)
    assert journal.files.known("inc1") == {"a+b.jpg": (4, 8)}
    assert journal.files.known("inc2") == {}


def test_a_message_leaves_the_outbox_only_when_removed(tmp_path: Path) -> None:
    clock = FakeClock()
    node = node_over(tmp_path, clock)
    for k in range(3):
        write_frame(tmp_path / "inc", "1", START + timedelta(hours=k))
    take_all(node)
    rows = node.journal.outbox.pending(0, 100)
    assert [row.row_id for row in rows] == [1, 2, 3]
    assert [row.row_id for row in node.journal.outbox.pending(1, 1)] == [2]
    node.journal.outbox.remove([2])
    assert [row.row_id for row in node.journal.outbox.pending(0, 100)] == [1, 3]
    depth, oldest = node.journal.outbox.depth()
    assert (depth, oldest) == (2, clock.at)
    first, clock.at = clock.at, clock.at - timedelta(hours=2)  # it was set: who waits longest does so all the same
    write_frame(tmp_path / "inc", "1", START + timedelta(hours=3))
    take_all(node)
    assert node.journal.outbox.depth() == (3, first)


def end_run(node: Node, clock: FakeClock) -> None:
    """The one run in the well ends, and no other begins."""
    (run,) = node.journal.runs(Place("inc1", "D1", "1"))
    node.journal.commit([Entry(run, (run, "end"), None, run.latest, (), {}, None)], clock.now())


def deliver(journal: Journal) -> None:
    journal.outbox.remove([row.row_id for row in journal.outbox.pending(0, 1000)])


def told_again(journal: Journal) -> list[tuple[str, str, bool]]:
    """(kind, topic, whether it clears) of what is said at a connect."""
    assert all(row.retain and row.row_id == 0 for row in journal.outbox.retained())
    return [(row.kind, row.topic, row.body == "") for row in journal.outbox.retained()]


READING = "embryo/inc1/D1/1/reading"


def test_a_topic_cleared_lately_is_cleared_again_at_each_connect_also_after_a_restart(tmp_path: Path) -> None:
    clock = FakeClock()
    node = node_over(tmp_path, clock)
    write_frame(tmp_path / "inc", "1", START)
    take_all(node)
    deliver(node.journal)
    assert told_again(node.journal) == [("reading", READING, False)]
    end_run(node, clock)
    assert told_again(node.journal) == [], "it waits in the outbox"
    deliver(node.journal)
    assert told_again(node.journal) == [("clear", READING, True)]
    node.journal.close()
    node = node_over(tmp_path, clock)
    assert told_again(node.journal) == [("clear", READING, True)]


@pytest.mark.parametrize(("hours", "again"), [(47.9, True), (48.1, False)])
def test_a_topic_is_cleared_again_for_48_hours_of_journal_time(tmp_path: Path, hours: float, again: bool) -> None:
    clock = FakeClock()
    node = node_over(tmp_path, clock)
    write_frame(tmp_path / "inc", "1", START)
    take_all(node)
    end_run(node, clock)
    clock.pass_s(hours * 3600)
    write_frame(tmp_path / "inc", "2", clock.at)
    take_all(node)
    deliver(node.journal)
    assert (("clear", READING, True) in told_again(node.journal)) == again


def test_a_topic_spoken_on_again_is_no_longer_cleared(tmp_path: Path) -> None:
    clock = FakeClock()
    node = node_over(tmp_path, clock)
    write_frame(tmp_path / "inc", "1", START)
    take_all(node)
    end_run(node, clock)
    clock.pass_s(30 * 3600)
    write_frame(tmp_path / "inc", "1", clock.at)
    take_all(node)
    deliver(node.journal)
    assert told_again(node.journal) == [("reading", READING, False)]


def test_row_ids_are_never_used_again(tmp_path: Path) -> None:
    clock = FakeClock()
    for k in range(3):
        node = node_over(tmp_path, clock)
        write_frame(tmp_path / "inc", "1", START + timedelta(hours=k))
        take_all(node)
        (row,) = node.journal.outbox.pending(0, 100)
        assert row.row_id == k + 1
        node.journal.outbox.remove([row.row_id])
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


def test_a_run_that_ends_frees_its_states_and_no_others(tmp_path: Path) -> None:
    clock = FakeClock(START + timedelta(days=9))
    node = node_over(tmp_path, clock)
    for well in ("1", "2"):
        for hour in (0, 7):
            write_frame(tmp_path / "inc", well, START + timedelta(hours=hour))
    take_all(node)
    first, other = (node.journal.state_digest(f"inc1/D1/{well}/20260105T080000Z", node.model) for well in ("1", "2"))
    assert first is not None and other is not None
    assert state_files(tmp_path) == {first, other}
    write_frame(tmp_path / "inc", "1", START + timedelta(days=3))
    take_all(node)
    assert node.journal.state_digest("inc1/D1/1/20260105T080000Z", node.model) is None
    assert other in state_files(tmp_path)
    assert first not in state_files(tmp_path)
    assert state_files(tmp_path) == node.journal.state_digests()


def test_a_state_that_two_embryos_share_stays_when_one_of_them_ends(tmp_path: Path) -> None:
    clock = FakeClock(START + timedelta(days=9))
    node = node_over(tmp_path, clock)
    for well in ("1", "2"):
        for hour in (0, 7):
            at = START + timedelta(hours=hour)
            for plane_um in PLANES_UM:
                path = plane_path(tmp_path / "inc", well, at, plane_um)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(picture(seed=hour))
    take_all(node)
    ids = [f"inc1/D1/{well}/20260105T080000Z" for well in ("1", "2")]
    shared = {node.journal.state_digest(embryo_id, node.model) for embryo_id in ids}
    assert len(shared) == 1 and state_files(tmp_path) == shared
    write_frame(tmp_path / "inc", "1", START + timedelta(days=3))
    take_all(node)
    assert shared <= state_files(tmp_path)
    assert node.journal.state_digest(ids[1], node.model) in shared


_KILLED = """
import os, signal, sys
from datetime import timedelta
from pathlib import Path
from monitor.states import StateFiles
from tests.house import START, FakeClock, node_over, take_all
put, drop = StateFiles.put, StateFiles.drop
def die(*args):
    os.kill(os.getpid(), signal.SIGKILL)
root, when = Path(sys.argv[1]), sys.argv[2]
node = node_over(root, FakeClock(START + timedelta(days=9)))
if when == "before the files are removed":
    StateFiles.drop = lambda self, digests: die() if digests else None
if when == "before the transaction":
    node.journal.commit = die
if when == "half a state is written":
    os.fsync = die
take_all(node)
print("not killed")
"""


@pytest.mark.parametrize("when", ["before the files are removed", "before the transaction", "half a state is written"])
def test_a_kill_while_a_run_ends_loses_no_state_that_is_needed_and_leaves_no_other(tmp_path: Path, when: str) -> None:
    clock = FakeClock(START + timedelta(days=9))
    for name in ("killed", "straight"):
        (tmp_path / name).mkdir()
        node = node_over(tmp_path / name, clock)
        for well in ("1", "2"):
            for hour in (0, 7):
                write_frame(tmp_path / name / "inc", well, START + timedelta(hours=hour))
        take_all(node)
        for at in (START + timedelta(days=3), START + timedelta(days=3, hours=7)):
            write_frame(tmp_path / name / "inc", "1", at)
        write_frame(tmp_path / name / "inc", "2", START + timedelta(hours=14))
        if name == "straight":
            take_all(node)
            straight, bodies = node, list(node.journal.bodies())
        else:
            node.journal.close()
    home = Path(__file__).resolve().parents[1]
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, str(tmp_path / "killed"), when],
        capture_output=True,
        text=True,
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(home)},
    )
    assert (killed.returncode, killed.stdout) == (-signal.SIGKILL, ""), killed.stderr
    node = node_over(tmp_path / "killed", clock)
    take_all(node)
    assert list(node.journal.bodies()) == bodies
    assert state_files(tmp_path / "killed") == node.journal.state_digests() == straight.journal.state_digests()


def test_states_that_an_earlier_version_kept_for_ended_runs_are_swept_at_the_start(tmp_path: Path) -> None:
    clock = FakeClock(START + timedelta(days=9))
    node = node_over(tmp_path, clock)
    for at in (START, START + timedelta(hours=7), START + timedelta(days=3), START + timedelta(days=3, hours=7)):
        write_frame(tmp_path / "inc", "1", at)
    take_all(node)
    needed = node.journal.state_digests()
    node.journal._db.execute(
        "INSERT INTO state VALUES ('inc1/D1/1/20260105T080000Z', ?, ?)",
        (node.model, StateFiles(tmp_path / "store" / "states").put(b"of an ended run")),
    )
    node.journal.close()
    node_over(tmp_path, clock)
    assert state_files(tmp_path) == needed and len(needed) == 1


def test_a_journal_that_finds_no_room_refuses_by_name_takes_nothing_and_resumes(tmp_path: Path) -> None:
    clock = FakeClock(START + timedelta(days=9))
    node = node_over(tmp_path, clock)
    write_frame(tmp_path / "inc", "1", START)
    take_all(node)
    db = node.journal._db
    pages = db.execute("PRAGMA page_count").fetchone()[0]
    db.execute(f"PRAGMA max_page_count = {pages}")  # SQLite itself says that the disk is full
    for hour in range(1, 41):
        write_frame(tmp_path / "inc", "1", START + timedelta(hours=hour))
    with pytest.raises(StorageError, match=r"journal\.sqlite: database or disk is full"):
        take_all(node)
    before = list(node.journal.bodies())
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    seq = max(row.row_id for row in node.journal.outbox.pending(0, 1000))
    assert len(before) == seq == db.execute("SELECT COUNT(*) FROM outbox").fetchone()[0]
    db.execute(f"PRAGMA max_page_count = {2**30}")
    take_all(node)
    assert len(list(node.journal.bodies())) == 41
    assert [row.row_id for row in node.journal.outbox.pending(0, 1000)] == list(range(1, 42))
    assert state_files(tmp_path) == node.journal.state_digests()


def test_a_state_that_finds_no_room_is_refused_leaves_no_whole_looking_file_and_its_draft_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = StateFiles(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(monitor.states.os, "fsync", _no_room)
        with pytest.raises(StorageError, match="No space left on device"):
            states.put(b"memory")
    (draft,) = tmp_path.glob("??/*")
    assert draft.suffix == ".part"
    assert states.sweep(set()) == 1
    assert list(tmp_path.glob("??/*")) == []
    assert states.get(states.put(b"memory")) == b"memory"


def test_a_state_whose_folder_could_not_be_synced_is_synced_when_it_is_put_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states, synced = StateFiles(tmp_path), []
    with monkeypatch.context() as patch:
        patch.setattr(monitor.states, "_sync_folder", _no_room)
        with pytest.raises(StorageError, match="No space left"):
            states.put(b"memory")
    monkeypatch.setattr(monitor.states, "_sync_folder", synced.append)
    digest = states.put(b"memory")
    assert synced == [tmp_path / digest[:2]]


def test_a_state_that_cannot_be_removed_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    states = StateFiles(tmp_path)
    digest = states.put(b"memory")
    with monkeypatch.context() as patch:
        patch.setattr(monitor.states.Path, "unlink", _no_room)
        states.drop({digest})
    assert "stays on the disk" in caplog.text
    assert states.sweep(set()) == 1


def test_a_state_nobody_names_is_swept_and_a_named_one_stays(tmp_path: Path) -> None:
    states = StateFiles(tmp_path)
    kept, stray = states.put(b"kept"), states.put(b"stray")
    assert states.sweep({kept}) == 1
    assert states.get(kept) == b"kept"
    with pytest.raises(StorageError):
        states.get(stray)


_WRITER = """
import sys
from monitor.file_table import FileRecord
from monitor.journal import Journal
from monitor.vocabulary import FileSeen
from pathlib import Path
from tests.house import START
journal = Journal(Path(sys.argv[1]), "a")
for k in range(10**6):
    journal.put_aside([FileRecord("inc1", FileSeen(f"{k}.jpg", 1, 1), reason="truncated")], START)
    print(k, flush=True)
"""


def test_what_was_committed_survives_kill_9(tmp_path: Path) -> None:
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).resolve().parents[1],
        ) as writer:
            assert writer.stdout is not None
            said = [int(writer.stdout.readline()) for _ in range(50)]
            os.kill(writer.pid, signal.SIGKILL)
        journal = Journal(tmp_path, "a")
        assert {f"{k}.jpg" for k in said} <= set(journal.files.known("inc1"))
        journal.close()


def test_a_file_of_many_pages_has_a_row_for_each_and_a_new_version_leaves_none_of_the_old(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "a")
    before, after = FileSeen("s.tif", 10, 1), FileSeen("s.tif", 20, 2)
    journal.put_aside([FileRecord("inc1", before, page=page, sha256="x") for page in range(7)], START)
    assert journal.files.known("inc1") == {"s.tif": (10, 1)}
    journal.put_aside([FileRecord("inc1", after, page=page, reason="pages") for page in range(5)], START)
    assert journal.files.known("inc1") == {"s.tif": (20, 2)}
    journal.close()
    with sqlite3.connect(tmp_path / "journal.sqlite") as db:
        assert db.execute("SELECT page, mtime_ns FROM file ORDER BY page").fetchall() == [
            (page, 2) for page in range(5)
        ]
    db.close()


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


def test_finding_a_frames_files_costs_the_same_however_many_files_its_incubator_has(tmp_path: Path) -> None:
    journal, place, steps = Journal(tmp_path, "a"), Place("inc1", "D1", "1"), []
    for count in (10, 500):
        files = [FileRecord("inc1", FileSeen(f"{k}.jpg", 1, 1), place, "e", f"run{k}", 0, "x") for k in range(count)]
        journal.put_aside(files, START)
        said = [0]
        journal._db.set_progress_handler(lambda said=said: said.__setitem__(0, said[0] + 1), 1)
        journal.files.judged_from(place, "e", "run5")
        journal.files.of_frame(place, Moment(run=5), None)
        journal.audit.files(("inc1", "D1", "1", "run5"))
        journal._db.set_progress_handler(None, 0)
        steps.append(said[0])
    assert steps[1] <= steps[0] + 20

"""Nothing that the journal holds can be changed, added or left out unseen; and what a chain cannot find is said."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monitor import audit_rows
from monitor.audit import Link, link_hash
from monitor.audit_check import Report, check
from monitor.cli import main
from monitor.config import make_config
from monitor.daemon import Daemon
from monitor.database import BEFORE_AUDIT, LACKING, expected_schema, opened_for_reading
from monitor.errors import StorageError
from monitor.notify import Notifier
from tests.graded import INSEMINATED, graded, write_blastocyst
from tests.house import START, FakeClock, new_metrics, node_over, scripted, take_all, write_frame
from tests.staged import staged, staged_model
from tests.test_blind import node_over as blind_node
from tests.test_commands import commands_of, give

HOUR = timedelta(hours=1)
DUE = INSEMINATED + 114 * HOUR
TABLES = sorted({name for name, sql in expected_schema().items() if sql.startswith("CREATE TABLE")})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The storage of a node that has done everything once and was stopped as it should be."""
    root = tmp_path_factory.mktemp("whole")
    clock = FakeClock(START + timedelta(days=4))
    node = node_over(root, clock, replace(graded(), stage=staged_model()), insemination=INSEMINATED)
    for k in range(8):  # three dark ones raise an alert that a run's end clears, and one that stands
        write_frame(root / "inc", "2", START + k * HOUR / 3, level=0 if k < 4 else 100)
        write_frame(root / "inc", "3", START + k * HOUR / 3, level=0)
    write_blastocyst(root / "inc", "1", DUE)
    (root / "inc" / "D1" / "1" / "notes.jpg").write_bytes(b"?")
    take_all(node)
    node.day5.catch_up()  # type: ignore[union-attr]
    write_blastocyst(root / "inc", "1", DUE + HOUR)
    write_frame(root / "inc", "2", START + timedelta(days=3))
    write_frame(root / "inc", "4", START, planes_um=(0, 15, -15, 30, 45))
    take_all(node)
    write_frame(root / "inc", "4", START)
    take_all(node)
    commands, well = commands_of(node, clock), {"incubator": "inc1", "dish": "D1", "well": "4"}
    assert give(commands, "insemination", id="c-1", time="2026-01-04T08:00:00Z", **well).code == "done"
    assert give(commands, "assess", id="c-2", grade="4AB", **well).code == "done"
    outbox = node.journal.outbox
    outbox.remove([row.row_id for row in outbox.pending(0, 5)])
    outbox.next_session()
    node.journal.configured({"alerts": {"enter": 0.1}}, clock.now())
    node.journal.seal(clock.now())
    node.journal.close()
    return root / "store"


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Path:
    """A copy to tamper with."""
    return Path(shutil.copytree(whole, tmp_path / "store"))


def report_of(store: Path, heads: dict[int, str] | None = None) -> Report:
    with opened_for_reading(store) as db:
        return check(db, heads)


def tampered(store: Path, *statements: str) -> Report:
    with sqlite3.connect(store / "journal.sqlite") as db:
        for statement in statements:
            assert db.execute(statement).rowcount != 0, statement
    db.close()
    return report_of(store)


def test_a_journal_that_nobody_touched_holds_and_each_table_has_something_to_lose(store: Path) -> None:
    report = report_of(store)
    assert report.faults == [] and report.sealed
    with sqlite3.connect(store / "journal.sqlite") as db:
        counts = {table: db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in TABLES}
    db.close()
    assert min(counts.values()) > 0, counts
    assert report.covered == {table: counts[table] for table in ("reading", "alert", "day5")}


def columns() -> Iterator[tuple[str, str]]:
    db = sqlite3.connect(":memory:")
    for table, sql in expected_schema().items():
        if sql.startswith("CREATE TABLE"):
            db.execute(sql)
            yield from ((table, row[1]) for row in db.execute(f"PRAGMA table_info({table})"))
    db.close()


@pytest.mark.parametrize(("table", "column"), sorted(columns()))
def test_a_value_changed_in_any_column_of_any_table_is_found(store: Path, table: str, column: str) -> None:
    with sqlite3.connect(store / "journal.sqlite") as db:
        rows = db.execute(f"SELECT * FROM {table}").fetchall()
        names = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
        keys = [row[1] for row in db.execute(f"PRAGMA table_info({table})") if row[5]]
        for row in (rows[0], rows[-1]):
            old = row[names.index(column)]
            new = other(old)
            where = " AND ".join(f"{key} = ?" for key in keys)
            values = [row[names.index(key)] for key in keys]
            db.execute(f"UPDATE {table} SET {column} = ? WHERE {where}", (new, *values))
            db.commit()
            assert report_of(store).faults, f"{table}.{column}: {old!r} -> {new!r}"
            back = [new if key == column else value for key, value in zip(keys, values, strict=True)]
            db.execute(f"UPDATE {table} SET {column} = ? WHERE {where}", (old, *back))
            db.commit()
    db.close()
    assert report_of(store).faults == []


def other(value: object) -> object:
    """Another value of the same kind, as little away as can be."""
    if isinstance(value, str):
        return value[:-1] + chr(ord(value[-1]) ^ 1) if value else "x"
    if isinstance(value, bytes):
        return value[:-1] + bytes([value[-1] ^ 1])
    if isinstance(value, float):
        return value + 1e-6
    return 1 if value is None else int(value) + 1000  # type: ignore[call-overload]


@pytest.mark.parametrize("table", TABLES)
def test_a_row_taken_out_of_any_table_is_found(store: Path, table: str) -> None:
    key = "rowid" if table in ("audit", "alert", "run", "outbox") else None
    with sqlite3.connect(store / "journal.sqlite") as db:
        key = key or next(row[1] for row in db.execute(f"PRAGMA table_info({table})") if row[5])
    db.close()
    assert tampered(store, f"DELETE FROM {table} WHERE {key} = (SELECT {key} FROM {table} LIMIT 1)").faults


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ("INSERT INTO reading SELECT 'forged', incubator, dish, well, embryo_id, frame_key, frame_order, 9, "
         "complete_at, body FROM reading LIMIT 1", "the reading forged was added"),
        ("INSERT INTO day5 SELECT 'forged', embryo_id, 9, at_h, body_area, unit, body FROM day5 LIMIT 1", "forged"),
        ("INSERT INTO alert SELECT 999, alert_id, 99, kind, subject, state, recorded_at, body FROM alert LIMIT 1",
         "the alert 999 was added"),
        ("INSERT INTO state VALUES ('inc1/D9/1/x', 'm', 'd')", "was added to `state`"),
        ("INSERT INTO watching VALUES ('embryo/inc1/D9/1/x', 'arrest', '{}')", "was added to `watching`"),
        ("INSERT INTO file VALUES ('inc1', 'new.jpg', 0, 1, 1, 'x', 'D1', '1', 'inc1/D1/1/x', 'k', 0, NULL)",
         "was added"),
        ("INSERT INTO outbox (kind, topic, body, retain, recorded_at) VALUES ('alert', 'alert/x', '{\"a\":1}', 1, 'x')",
         "nothing has recorded"),
        ("CREATE TRIGGER quiet AFTER INSERT ON reading BEGIN DELETE FROM alert; END", "`quiet` does not belong"),
        ("DROP INDEX alert_of_subject", "`alert_of_subject` is not the table or index"),
    ],
)  # fmt: skip
def test_what_was_added_is_found_and_named(store: Path, statement: str, text: str) -> None:
    with sqlite3.connect(store / "journal.sqlite") as db:
        db.execute(statement)
    db.close()
    assert any(text in str(fault) for fault in report_of(store).faults)


def test_the_first_bad_row_is_named_first(store: Path) -> None:
    report = tampered(
        store,
        "UPDATE audit SET body = '{}' WHERE number = 9",
        "UPDATE reading SET body = 'x' WHERE id = (SELECT ref FROM audit WHERE kind = 'reading' ORDER BY number)",
    )
    first = report.faults[0]
    assert first.row is not None and first.row < 9 and "the reading that it tells of was changed" in first.text
    assert any(fault.row == 9 and "is not what was written" in fault.text for fault in report.faults)


def rewritten(store: Path) -> None:
    """What a forger with all the time in the world does: changes a row and makes the whole chain anew."""
    with sqlite3.connect(store / "journal.sqlite") as db:
        db.execute("UPDATE audit SET body = json_set(body, '$.version', '9.9') WHERE number = 1")
        previous = "0" * 64
        for row in db.execute("SELECT * FROM audit ORDER BY number").fetchall():
            link = Link(*row)
            made = link_hash(*row[:6], previous)
            db.execute("UPDATE audit SET previous = ?, hash = ? WHERE number = ?", (previous, made, link.number))
            previous = made
    db.close()


def test_a_chain_made_anew_in_whole_is_found_only_by_a_head_that_was_kept_elsewhere(store: Path) -> None:
    number, made = report_of(store).head
    rewritten(store)
    assert report_of(store).faults == []
    (fault,) = report_of(store, {number: made}).faults
    assert fault.row == number and "kept elsewhere" in fault.text


def test_an_end_cut_off_with_all_it_told_of_is_found_only_by_a_head_that_was_kept_elsewhere(store: Path) -> None:
    number, made = report_of(store).head
    with sqlite3.connect(store / "journal.sqlite") as db:
        db.execute("DELETE FROM audit WHERE number > 2")
        for table in TABLES:
            if table not in ("audit", "meta"):
                db.execute(f"DELETE FROM {table}")
    db.close()
    assert report_of(store).faults == []
    (fault,) = report_of(store, {number: made}).faults
    assert "is not in the chain" in fault.text


def everything(path: Path) -> object:
    db = sqlite3.connect(path)
    try:
        db.text_factory = bytes
        schema = db.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name").fetchall()
        rows = [db.execute(f"SELECT * FROM {table}").fetchall() for table in TABLES]
        return schema, rows, db.execute("PRAGMA user_version").fetchall()
    finally:
        db.close()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_flipped_bit_anywhere_in_the_file_is_found_or_changes_nothing_that_can_be_read(
    whole: Path, tmp_path: Path, data: st.DataObject
) -> None:
    blob = bytearray((whole / "journal.sqlite").read_bytes())
    at = data.draw(st.integers(0, len(blob) - 1))
    blob[at] ^= 1 << data.draw(st.integers(0, 7))
    folder = tmp_path / "flipped"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "journal.sqlite").write_bytes(blob)
    try:
        faults = report_of(folder).faults
    except StorageError:
        return
    assert faults or everything(folder / "journal.sqlite") == everything(whole / "journal.sqlite")


def test_a_journal_that_was_killed_holds_and_says_that_it_is_not_sealed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = node_over(tmp_path, FakeClock())
    write_frame(tmp_path / "inc", "1", START)
    take_all(node)
    assert main(["journal", "verify", "--storage", str(tmp_path / "store")]) == 0, "beside a node that is at work"
    told = capsys.readouterr().out
    assert "1 in reading" in told and "not sealed" in told


def test_a_dead_camera_its_one_alert_and_what_is_said_of_it_leave_a_journal_that_holds(tmp_path: Path) -> None:
    clock = FakeClock(START + timedelta(days=1))
    node = node_over(tmp_path, clock, staged())
    for k in range(14):
        for well in range(1, 7):
            write_frame(tmp_path / "inc", str(well), START + k * HOUR / 3, level=0 if 3 <= k < 8 else 100)
        take_all(node)
        if k == 6:
            open_alerts = node.journal.alerts.open_bodies()
            assert open_alerts
            clock.pass_s(3 * 3600)
            node.alarms.remind(clock.now())
            for alert_id in open_alerts:
                assert give(commands_of(node, clock), "acknowledge", alert_id=alert_id).accepted
        assert report_of(tmp_path / "store").faults == []
    assert give(commands_of(node, clock), "end", incubator="inc1", dish="D1", well="1").accepted
    node.journal.close()
    node = node_over(tmp_path, clock, boot_id="boot2")
    node.alarms.retire([], [], clock.now())
    assert report_of(tmp_path / "store").faults == []


def test_a_journal_that_withholds_scores_holds_before_and_after_the_assessment(tmp_path: Path) -> None:
    clock = FakeClock(START + timedelta(days=4))
    node = blind_node(tmp_path, clock)
    write_blastocyst(tmp_path / "inc", "1", DUE)
    take_all(node)
    assert report_of(tmp_path / "store").faults == []
    said = give(commands_of(node, clock), "assess", incubator="inc1", dish="D1", well="1", grade="4AB")
    assert said.accepted and node.journal.outbox.depth()[0] == 2, "withheld, and as it is"
    assert report_of(tmp_path / "store").faults == []
    assert tampered(
        tmp_path / "store", "UPDATE outbox SET body = replace(body, 'judged', 'unfit') WHERE row_id = 1"
    ).faults


class Told(Notifier):
    """What systemd would hear."""

    def __init__(self) -> None:
        super().__init__({})
        self.said: list[str] = []

    def _send(self, text: str) -> None:
        self.said.append(text)


def as_before_there_was_an_audit(store: Path) -> None:
    with sqlite3.connect(store / "journal.sqlite") as db:
        for table in re.findall(r"CREATE TABLE (\w+)", LACKING[BEFORE_AUDIT]):
            db.execute(f"DROP TABLE {table}")
        db.execute(f"PRAGMA user_version = {BEFORE_AUDIT}")
    db.close()


def test_a_journal_from_before_there_was_an_audit_is_taken_in_and_held_from_then_on(
    store: Path, tmp_path: Path
) -> None:
    as_before_there_was_an_audit(store)
    node_over(tmp_path, FakeClock(START + timedelta(days=5))).journal.close()
    report = report_of(store)
    assert report.faults == [] and report.covered["reading"] > 0
    assert tampered(store, "UPDATE file SET sha256 = 'x' WHERE plane_um = 0").faults


def test_systemd_hears_all_along_that_an_old_journal_is_taken_in(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_before_there_was_an_audit(store)
    monkeypatch.setattr(audit_rows, "GOING_ON_ROWS", 3)
    config = make_config(
        {
            "site": {"name": "lab", "node": "box"},
            "incubator": [{"name": "inc1", "path": tmp_path / "inc"}],
            "mqtt": {"host": "127.0.0.1", "port": 1},
            "storage": {"path": store},
        }
    )
    heard = []
    for _ in range(2):
        clock, notifier = FakeClock(START + timedelta(days=5)), Told()
        node = Daemon(config, scripted(), new_metrics(clock), clock, notifier).node
        (readings,) = node.journal._db.execute("SELECT COUNT(*) FROM reading").fetchone()
        node.journal.close()
        heard.append(notifier.said)
    first, second = heard
    assert len(first) >= readings / 3 and second == [], "and once only"
    assert {line.split("\n")[0] for line in first} == {"EXTEND_TIMEOUT_USEC=60000000"}

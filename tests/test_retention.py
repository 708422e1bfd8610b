"""What is kept no longer goes once a day, never below six months, and what is left still holds."""

from __future__ import annotations

import json
import sqlite3
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monitor import retention
from monitor.alert import Alert
from monitor.audit_check import Report, check
from monitor.config import make_config
from monitor.database import opened_for_reading
from monitor.errors import ConfigError
from monitor.journal import Journal
from monitor.keeping import EVERY_S, FIRST_AFTER_S, Keeping
from monitor.node import Node
from tests.house import START, FakeClock, node_over, take_all, write_frame

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


def report_of(tmp_path: Path) -> Report:
    with opened_for_reading(tmp_path / "store") as db:
        return check(db)


def months(tmp_path: Path, clock: FakeClock, days: tuple[int, ...] = (0, 100, 200, 300)) -> Node:
    """A node that saw an embryo of three frames on each of some days; each ends the one before in its well."""
    node = node_over(tmp_path, clock)
    for day in days:
        clock.at = START + day * DAY
        for hour in range(3):
            write_frame(tmp_path / "inc", "1", clock.at + hour * HOUR / 4)
        (tmp_path / "inc" / f"note-{day}.txt.jpg").write_bytes(b"?")
        take_all(node)
    deliver(node.journal)
    return node


def deliver(journal: Journal) -> None:
    journal.outbox.remove([row.row_id for row in journal.outbox.pending(0, 10_000)])


def keeping_of(node: Node, clock: FakeClock, keep_days: int | None = 183) -> tuple[Keeping, list[Alert]]:
    said: list[Alert] = []
    return Keeping(node.journal, node.alarms, keep_days, clock, node.pipeline.forget, said.extend), said


def keep(node: Node, clock: FakeClock, keep_days: int | None = 183) -> int:
    """Everything that is due at once; how many slices that was."""
    keeping, _ = keeping_of(node, clock, keep_days)
    clock.seconds += FIRST_AFTER_S
    slices = 0
    while keeping.turn():
        slices += 1
    return slices


def another_comes_in(tmp_path: Path, node: Node, clock: FakeClock) -> None:
    """A frame of now in another well: who is silent altogether keeps everything."""
    write_frame(tmp_path / "inc", "9", clock.at)
    take_all(node)


def told(node: Node) -> list[str]:
    return [json.loads(body)["occurred_at"][:10] for body in node.journal.bodies()]


def test_what_is_older_goes_with_all_that_hangs_on_it_and_the_rest_holds(tmp_path: Path) -> None:
    clock = FakeClock()
    node = months(tmp_path, clock)
    node.journal.configured({"a": 1}, START)
    assert told(node) == ["2026-01-05"] * 3 + ["2026-04-15"] * 3 + ["2026-07-24"] * 3 + ["2026-11-01"] * 3
    assert keep(node, clock) == 1
    assert told(node) == ["2026-07-24"] * 3 + ["2026-11-01"] * 3
    report = report_of(tmp_path)
    assert report.faults == [] and report.pruned_through > 0
    db = node.journal._db
    assert db.execute("SELECT COUNT(*) FROM run").fetchone() == (3,), "the second one's end is of day 200"
    assert db.execute("SELECT COUNT(*) FROM file WHERE frame_key IS NOT NULL").fetchone() == (6 * 7,)
    assert keep(node, clock) == 0, "nothing is left to go"


def test_what_still_holds_is_said_again_from_the_chain(tmp_path: Path) -> None:
    clock = FakeClock()
    node = node_over(tmp_path, clock)
    node.journal.configured({"a": 1}, START)
    node.journal.close()
    node = months(tmp_path, clock)
    keep(node, clock)
    node.journal.configured({"a": 2}, clock.now())
    rows = node.journal._db.execute("SELECT kind, body FROM audit WHERE kind IN ('config', 'models') ORDER BY number")
    told = [(kind, json.loads(body)) for kind, body in rows]
    start = node.journal._db.execute("SELECT body FROM audit WHERE kind = 'start'").fetchall()
    assert [json.loads(body)["boot_id"] for (body,) in start] == ["boot1"], "the process has not ended since"
    assert [(kind, body.get("changed")) for kind, body in told] == [
        *(("models", {}), ("config", {})), ("config", {"a": [1, 2]})
    ]  # fmt: skip
    assert report_of(tmp_path).faults == []


def test_a_row_that_was_changed_before_it_was_pruned_makes_nothing_good(tmp_path: Path) -> None:
    clock = FakeClock()
    node = months(tmp_path, clock)
    node.journal._db.execute("UPDATE run SET first_order = first_order + 1 WHERE ended IS NULL")
    keep(node, clock)
    assert any("what is remembered of" in fault.text for fault in report_of(tmp_path).faults)


def test_a_beginning_that_anybody_else_cut_off_is_found(tmp_path: Path) -> None:
    clock = FakeClock()
    node = months(tmp_path, clock)
    keep(node, clock)
    first = node.journal._db.execute("SELECT MIN(number) FROM audit").fetchone()[0]
    node.journal._db.execute("DELETE FROM audit WHERE number = ?", (first,))
    (fault, *_) = report_of(tmp_path).faults
    assert fault.row == first + 1 and "no row says that they were pruned" in fault.text


def test_pictures_that_still_lie_in_the_folder_are_not_taken_for_new_ones(tmp_path: Path) -> None:
    clock = FakeClock()
    node = months(tmp_path, clock)
    keep(node, clock)
    assert take_all(node) == []
    node.journal.close()
    node = node_over(tmp_path, clock)
    assert take_all(node) == []
    write_frame(tmp_path / "inc", "1", START + 300 * DAY + HOUR)
    assert len(take_all(node)) == 1
    assert report_of(tmp_path).faults == []


def test_a_run_that_nobody_ended_is_closed_with_its_alerts_and_then_goes(tmp_path: Path) -> None:
    clock = FakeClock()
    node = node_over(tmp_path, clock)
    for k in range(4):
        write_frame(tmp_path / "inc", "1", START + k * HOUR / 3, level=0)
    take_all(node)
    deliver(node.journal)
    assert sum(node.journal.alerts.open_counts().values()) == 1
    clock.pass_s(200 * 86400)
    another_comes_in(tmp_path, node, clock)
    keeping, said = keeping_of(node, clock)
    clock.seconds += FIRST_AFTER_S
    assert keeping.turn()
    assert [(word.state.value, word.why_cleared) for word in said] == [("cleared", "run_ended")]
    assert node.journal.open_runs() == {"inc1": 1} and node.journal.alerts.open_counts() == {}
    deliver(node.journal)
    clock.pass_s(EVERY_S)
    while keeping.turn():
        pass
    assert told(node) == ["2026-07-24"] and report_of(tmp_path).faults == []


def test_what_waits_to_be_told_stays_however_old_it_is(tmp_path: Path) -> None:
    clock = FakeClock()
    node = node_over(tmp_path, clock)
    write_frame(tmp_path / "inc", "1", START)
    take_all(node)
    clock.pass_s(400 * 86400)
    another_comes_in(tmp_path, node, clock)
    keep(node, clock)
    assert len(told(node)) == 2
    assert [row.kind for row in node.journal.outbox.pending(0, 10)] == ["reading", "reading", "clear"]
    assert report_of(tmp_path).faults == []


def test_it_waits_after_a_start_and_then_a_day(tmp_path: Path) -> None:
    clock = FakeClock()
    node = months(tmp_path, clock)
    keeping, _ = keeping_of(node, clock)
    assert not keeping.turn(), "a start has other things to do"
    clock.pass_s(FIRST_AFTER_S)
    assert keeping.turn() and not keeping.turn()
    clock.pass_s(EVERY_S - 1)
    before = node.journal.audit.head()
    assert not keeping.turn() and node.journal.audit.head() == before


def test_a_clock_that_is_far_ahead_for_minutes_removes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    node = months(tmp_path, clock, (0, 1))
    keeping, said = keeping_of(node, clock)
    clock.at += 5000 * DAY
    for _ in range(3):
        clock.pass_s(FIRST_AFTER_S)
        write_frame(tmp_path / "inc", "1", START + DAY + 10 * HOUR)  # the share's clock is right all the while
        take_all(node)
        assert not keeping.turn()
    assert len(told(node)) == 7 and node.journal.open_runs() == {"inc1": 1} and said == []
    assert [record.message for record in caplog.records].count("nothing is removed that is kept no longer") == 1
    clock.at -= 5000 * DAY
    write_frame(tmp_path / "inc", "1", START + DAY + 12 * HOUR)
    assert len(take_all(node)) == 1
    clock.pass_s(FIRST_AFTER_S)
    assert not keeping.turn() and len(told(node)) == 8, "believed again, and nothing is old"


def test_a_start_under_a_clock_that_is_far_ahead_removes_nothing(tmp_path: Path) -> None:
    clock = FakeClock()
    node = months(tmp_path, clock, (0, 1))
    clock.at += 5000 * DAY
    write_frame(tmp_path / "inc", "1", START + DAY + HOUR)
    take_all(node)
    assert keep(node, clock) == 0 and len(told(node)) == 7
    assert node.journal.open_runs() == {"inc1": 1} and node.journal.kept_since is None


def test_a_journal_that_a_wrong_clock_has_pruned_hides_no_frame(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    node = months(tmp_path, clock, (0, 1))
    assert node.journal.prune(START + 4000 * DAY, START + 4183 * DAY) is not None
    for hour in (1, 2):
        write_frame(tmp_path / "inc", "1", START + DAY + hour * HOUR)
    at = [reading.occurred_at for reading in take_all(node)]
    assert at == [START + DAY + hour * HOUR for hour in (1, 2)]
    words = [record.message for record in caplog.records if "pruned by a clock" in record.message]
    assert len(words) == 1, "not once for each picture"


def test_a_clock_that_went_back_by_hours_makes_no_old_picture_a_new_one(tmp_path: Path) -> None:
    clock = FakeClock()
    node = months(tmp_path, clock)
    keep(node, clock)
    clock.at -= 20 * HOUR
    assert take_all(node) == []


def test_without_a_limit_everything_is_kept_and_below_six_months_none_is_taken(tmp_path: Path) -> None:
    clock = FakeClock()
    node = months(tmp_path, clock)
    assert keep(node, clock, keep_days=None) == 0 and len(told(node)) == 12
    facts = {
        "site": {"name": "lab", "node": "box"},
        "incubator": [{"name": "inc1", "path": tmp_path}],
        "mqtt": {"host": "b"},
    }
    assert make_config({**facts, "storage": {"path": tmp_path, "keep_days": 183}}).storage.keep_days == 183
    with pytest.raises(ConfigError, match=r"storage\.keep_days = 182: .*183"):
        make_config({**facts, "storage": {"path": tmp_path, "keep_days": 182}})


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 420), min_size=1, max_size=4), rows=st.integers(1, 9))
def test_wherever_it_is_cut_and_in_whatever_slices_the_rest_holds(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], rows: int
) -> None:
    tmp_path = tmp_path_factory.mktemp("cut")
    clock = FakeClock()
    node = months(tmp_path, clock, (0, 1, 2, 100, 101, 250))
    kept, retention.SLICE_ROWS = retention.SLICE_ROWS, rows
    try:
        for cut in cuts:
            while node.journal.prune(START + cut * DAY, clock.now()):
                pass
            assert report_of(tmp_path).faults == []
    finally:
        retention.SLICE_ROWS = kept
        node.journal.close()
    with sqlite3.connect(tmp_path / "store" / "journal.sqlite") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()

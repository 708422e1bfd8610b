"""Commands: validated, carried out whole or not at all, answered, audited; the same one twice acts once."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from datetime import timedelta
from pathlib import Path

import pytest

from engines.load import Loaded
from monitor.alert_machine import Watching
from monitor.command_body import COMMANDS, Answer
from monitor.command_inbox import WAITING_AT_MOST, Inbox
from monitor.commands import Commands
from monitor.errors import StorageError
from monitor.journal import Journal
from monitor.node import Node
from tests.house import PLANES_UM, START, FakeClock, node_over, take_all, write_frame
from tests.test_daemon import Scene

WELL = {"incubator": "inc1", "dish": "D1", "well": "1"}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(START + timedelta(hours=20))


def commands_of(node: Node, clock: FakeClock, enabled: tuple[str, ...] = tuple(COMMANDS)) -> Commands:
    return Commands(
        node.journal, node.alarms, node.time_zeros, enabled, "boot1", clock.now, node.pipeline.forget
    )  # fmt: skip


def give(commands: Commands, name: str, **said: object) -> Answer:
    return commands.execute(name, json.dumps({"by": "mk", **said}).encode(), "test")[0]


def embryo(tmp_path: Path, clock: FakeClock, frames: int = 1, loaded: Loaded | None = None, **facts: object) -> Node:
    node = node_over(tmp_path, clock, loaded, **facts)  # type: ignore[arg-type]
    for k in range(frames):
        write_frame(tmp_path / "inc", "1", START + k * timedelta(minutes=20))
    take_all(node)
    return node


def degraded(tmp_path: Path, clock: FakeClock) -> tuple[Node, str]:
    """A node with one alert that stands open."""
    node = node_over(tmp_path, clock)
    for k in range(4):
        write_frame(tmp_path / "inc", "1", START + k * timedelta(minutes=20), PLANES_UM[:6])
    take_all(node)
    ((alert_id, _),) = node.journal.alerts.open_bodies().items()
    return node, alert_id


def state_of(node: Node) -> list[tuple[str, int]]:
    """Every table and how many rows it has, and what is remembered."""
    db = node.journal._db
    tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    counts = [(name, db.execute(f"SELECT COUNT(*) FROM {name}").fetchone()[0]) for name in sorted(tables)]
    return [*counts, ("changes", db.total_changes)]


def audited(node: Node) -> list[dict[str, object]]:
    rows = node.journal._db.execute("SELECT body FROM audit WHERE kind = 'command' ORDER BY number")
    return [json.loads(body) for (body,) in rows]


# -- acknowledge -------------------------------------------------------------------------------------------------------


def test_taking_note_is_told_recorded_and_stands_in_every_later_word(tmp_path: Path, clock: FakeClock) -> None:
    node, alert_id = degraded(tmp_path, clock)
    commands = commands_of(node, clock)
    answer = give(commands, "acknowledge", alert_id=alert_id, note="lamp was changed")
    assert (answer.accepted, answer.code, answer.changed[0].after) == (True, "done", "mk")
    last = json.loads(node.journal.alerts.open_bodies()[alert_id])
    assert (last["state"], last["revision"], last["acknowledged"]["by"]) == ("acknowledged", 2, "mk")
    assert last["seq"] and last["boot_id"] == "boot1"
    (row,) = [row for row in node.journal.outbox.pending(0, 100) if row.body == json.dumps(last, separators=(",", ":"))]
    assert (row.kind, row.retain) == ("alert", True)
    assert audited(node)[0]["said"]["by"] == "mk"  # type: ignore[index]
    again = give(commands, "acknowledge", alert_id=alert_id, by="another")
    assert (again.accepted, again.code, again.changed) == (True, "nothing_new", ())
    assert "mk" in again.reason
    for k in range(4, 10):
        write_frame(tmp_path / "inc", "1", START + k * timedelta(minutes=20))
    take_all(node)
    words = [json.loads(body) for body in node.journal.alerts.bodies()]
    assert [(word["state"], bool(word["acknowledged"])) for word in words] == [
        ("raised", False), ("acknowledged", True), ("cleared", True)
    ]  # fmt: skip


def test_an_alert_that_does_not_stand_open_is_not_taken_note_of(tmp_path: Path, clock: FakeClock) -> None:
    node, _ = degraded(tmp_path, clock)
    before = state_of(node)
    answer = give(commands_of(node, clock), "acknowledge", alert_id="0" * 20)
    assert (answer.accepted, answer.code) == (False, "conflict")
    assert state_of(node) == before


@pytest.mark.parametrize("note_first", [True, False])
def test_a_restart_in_mid_alert_neither_repeats_nor_forgets(tmp_path: Path, clock: FakeClock, note_first: bool) -> None:
    node, alert_id = degraded(tmp_path, clock)
    if note_first:
        give(commands_of(node, clock), "acknowledge", alert_id=alert_id)
    words = list(node.journal.alerts.bodies())
    node.journal.close()
    clock.pass_s(3 * 3600)
    node = node_over(tmp_path, clock, boot_id="boot2")
    take_all(node)
    assert list(node.journal.alerts.bodies()) == words
    called = [word.state.value for word in node.alarms.remind(clock.now())]
    assert called == ([] if note_first else ["escalated"])
    assert node.alarms.remind(clock.now()) == []
    node.journal.close()
    node = node_over(tmp_path, clock, boot_id="boot3")
    assert node.alarms.remind(clock.now()) == []
    again = give(commands_of(node, clock), "acknowledge", alert_id=alert_id)
    assert again.code == ("nothing_new" if note_first else "done")
    write_frame(tmp_path / "inc", "1", START + timedelta(minutes=80), PLANES_UM[:6])
    take_all(node)  # still degraded: nothing is said again
    states = [json.loads(body)["state"] for body in node.journal.alerts.bodies()]
    assert states == (["raised", "acknowledged"] if note_first else ["raised", "escalated", "acknowledged"])


# -- insemination ------------------------------------------------------------------------------------------------------


def test_a_stated_insemination_gives_the_hours_from_the_next_reading_on_and_changes_none_that_was_told(
    tmp_path: Path, clock: FakeClock
) -> None:
    node = embryo(tmp_path, clock)
    told = list(node.journal.bodies())
    answer = give(commands_of(node, clock), "insemination", **WELL, time="2026-01-04T08:00:00Z")
    assert [(change.what, change.before, change.after) for change in answer.changed] == [
        ("insemination", None, "2026-01-04T08:00:00Z"), ("hpi_of_the_last_frame", None, 24.0)
    ]  # fmt: skip
    assert list(node.journal.bodies()) == told
    write_frame(tmp_path / "inc", "1", START + timedelta(hours=1))
    (reading,) = take_all(node)
    assert (reading.frame.hpi, reading.frame.hpi_source) == (25.0, "command")
    assert "hpi" not in reading.lacks
    node.journal.close()
    again = node_over(tmp_path, clock, boot_id="boot2")
    write_frame(tmp_path / "inc", "1", START + timedelta(hours=2))
    (reading,) = take_all(again)
    assert (reading.frame.hpi, reading.frame.hpi_source) == (26.0, "command")


def test_what_somebody_said_holds_before_the_list_until_the_run_ends(tmp_path: Path, clock: FakeClock) -> None:
    node = embryo(tmp_path, clock, insemination=START - timedelta(hours=30))
    commands = commands_of(node, clock)
    answer = give(commands, "insemination", **WELL, time="2026-01-04T08:00:00+01:00")
    assert [change.before for change in answer.changed] == ["2026-01-04T02:00:00Z", 30.0]
    write_frame(tmp_path / "inc", "1", START + timedelta(hours=1))
    (reading,) = take_all(node)
    assert (reading.frame.hpi, reading.embryo.embryo_id) == (26.0, "inc1/D1/1/20260105T080000Z")
    same = give(commands, "insemination", **WELL, time="2026-01-04T07:00:00Z")
    assert (same.code, same.changed) == ("nothing_new", ())


@pytest.mark.parametrize(
    ("time", "because"),
    [
        ("2026-01-09T08:00:00Z", "future"),
        ("2025-12-20T08:00:00Z", "200 h"),
    ],
)
def test_a_time_that_cannot_be_is_refused_and_changes_nothing(
    tmp_path: Path, clock: FakeClock, time: str, because: str
) -> None:
    node = embryo(tmp_path, clock)
    before = state_of(node)
    answer = give(commands_of(node, clock), "insemination", **WELL, time=time)
    assert (answer.accepted, answer.code) == (False, "conflict")
    assert because in answer.reason
    assert state_of(node) == before


# -- assess and end ----------------------------------------------------------------------------------------------------


def test_an_assessment_is_kept_with_the_reading_it_was_made_beside(tmp_path: Path, clock: FakeClock) -> None:
    node = embryo(tmp_path, clock)
    commands = commands_of(node, clock)
    answer = give(commands, "assess", **WELL, grade="4AB", stage="tEB", note="good")
    assert (answer.code, len(answer.changed)) == ("done", 3)
    assert give(commands, "assess", **WELL, grade="4AB", stage="tEB", note="good").code == "nothing_new"
    assert give(commands, "assess", **WELL, grade="4BB").code == "done"
    rows = node.journal._db.execute("SELECT embryo_id, reading, body FROM assessment ORDER BY number").fetchall()
    assert [json.loads(body)["grade"] for _, _, body in rows] == ["4AB", "4BB"]
    assert rows[0][1] == node.journal.newest_reading(rows[0][0])
    assert node.journal.commands.is_assessed(rows[0][0])


def test_the_end_of_a_run_clears_its_topic_its_alerts_and_its_memory_and_the_next_frame_begins_another(
    tmp_path: Path, clock: FakeClock
) -> None:
    (tmp_path / "inc").mkdir()
    node, alert_id = degraded(tmp_path, clock)
    node.journal.outbox.remove([row.row_id for row in node.journal.outbox.pending(0, 100)])
    assert list((tmp_path / "store" / "states").glob("??/*"))
    answer, words = commands_of(node, clock).execute("end", json.dumps({**WELL, "by": "mk"}).encode(), "test")
    assert (answer.code, answer.changed[0].before) == ("done", "inc1/D1/1/20260105T080000Z")
    assert [(word.alert_id, word.state.value, word.why_cleared) for word in words] == [
        (alert_id, "cleared", "run_ended")
    ]
    cleared = {row.topic for row in node.journal.outbox.pending(0, 100) if row.retain and not row.body}
    assert cleared == {"embryo/inc1/D1/1/reading", f"alert/{alert_id}"}
    assert not list((tmp_path / "store" / "states").glob("??/*"))
    assert node.journal.open_runs() == {}
    again = give(commands_of(node, clock), "end", **WELL)
    assert (again.accepted, again.code) == (True, "nothing_new")
    write_frame(tmp_path / "inc", "1", clock.now())
    (reading,) = take_all(node)
    assert reading.embryo.embryo_id == "inc1/D1/1/20260106T040000Z"


def test_a_frame_from_before_the_end_that_comes_after_it_is_kept_with_the_embryo_that_left(
    tmp_path: Path, clock: FakeClock
) -> None:
    node = embryo(tmp_path, clock, frames=2)
    give(commands_of(node, clock), "end", **WELL)
    for late in (START + timedelta(minutes=10), START + timedelta(minutes=40), clock.now() - timedelta(minutes=1)):
        write_frame(tmp_path / "inc", "1", late)
        (reading,) = take_all(node)
        assert reading.embryo.embryo_id == "inc1/D1/1/20260105T080000Z"
        assert (reading.outcome.value, reading.blastocyst) == ("out_of_order", None)
        assert node.journal.open_runs() == {}
    write_frame(tmp_path / "inc", "1", clock.now() + timedelta(minutes=1))
    (reading,) = take_all(node)
    assert (reading.embryo.embryo_id, reading.outcome.value) == ("inc1/D1/1/20260106T040100Z", "judged")


def test_an_incubators_clock_that_is_known_to_be_behind_takes_no_frame_of_the_next_embryo(
    tmp_path: Path, clock: FakeClock
) -> None:
    node = embryo(tmp_path, clock, clock_skew_s=-7200)
    give(commands_of(node, clock), "end", **WELL)
    write_frame(tmp_path / "inc", "1", clock.now() - timedelta(hours=1))  # an hour after the end
    (reading,) = take_all(node)
    assert reading.embryo.embryo_id == "inc1/D1/1/20260106T030000Z"


def test_the_insemination_entry_of_an_embryo_that_was_ended_is_not_the_next_ones(
    tmp_path: Path, clock: FakeClock
) -> None:
    node = embryo(tmp_path, clock, insemination=START - timedelta(hours=30))
    give(commands_of(node, clock), "end", **WELL)
    write_frame(tmp_path / "inc", "1", clock.now())
    (reading,) = take_all(node)
    assert (reading.frame.hpi, reading.frame.hpi_source) == (None, "unknown")
    assert reading.lacks["hpi"] == "time_zero_unknown"


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "payload", "code"),
    [
        ("end", b"", "malformed"),
        ("end", b"[1, 2]", "malformed"),
        ("end", b"\xff\xfe", "malformed"),
        ("end", json.dumps({**WELL}).encode(), "malformed"),  # nobody says it
        ("end", json.dumps({**WELL, "by": " "}).encode(), "malformed"),
        ("end", json.dumps({**WELL, "by": "m\nk"}).encode(), "malformed"),
        ("end", json.dumps({**WELL, "by": "mk", "wel": "2"}).encode(), "malformed"),
        ("end", json.dumps({**WELL, "by": "mk", "dish": "../x"}).encode(), "malformed"),
        ("end", json.dumps({**WELL, "by": "mk", "embryo_id": "another"}).encode(), "conflict"),
        ("end", json.dumps({**WELL, "by": "mk", "incubator": "inc9"}).encode(), "conflict"),
        ("end", json.dumps({**WELL, "by": "mk", "well": "9"}).encode(), "conflict"),
        ("end", b"{" + b" " * 20_000 + b"}", "malformed"),
        ("assess", json.dumps({**WELL, "by": "mk"}).encode(), "malformed"),
        ("assess", json.dumps({**WELL, "by": "mk", "grade": "9ZZ"}).encode(), "malformed"),
        ("assess", json.dumps({**WELL, "by": "mk", "stage": "t99"}).encode(), "malformed"),
        ("insemination", json.dumps({**WELL, "by": "mk", "time": "2026-01-04T08:00:00"}).encode(), "malformed"),
        ("insemination", json.dumps({**WELL, "by": "mk", "time": 1767513600}).encode(), "malformed"),
        ("acknowledge", json.dumps({"by": "mk", "alert_id": "x' OR 1"}).encode(), "malformed"),
        ("reboot", b"{}", "unknown"),
        ("a/b", b"{}", "unknown"),
    ],
)
def test_what_is_malformed_unknown_or_about_nobody_changes_nothing_and_says_why(
    tmp_path: Path, clock: FakeClock, name: str, payload: bytes, code: str
) -> None:
    node = embryo(tmp_path, clock)
    before = state_of(node)
    answer, words = commands_of(node, clock).execute(name, payload, "test")
    assert (answer.accepted, answer.code, answer.changed, words) == (False, code, (), [])
    assert answer.reason
    assert state_of(node) == before
    assert json.loads(answer.body())["schema"] == "pellucid.answer/1"


def test_a_command_that_is_not_enabled_is_not_carried_out(tmp_path: Path, clock: FakeClock) -> None:
    node = embryo(tmp_path, clock)
    answer = give(commands_of(node, clock, ("acknowledge",)), "end", **WELL)
    assert (answer.accepted, answer.code) == (False, "not_allowed")
    assert node.journal.open_runs() == {"inc1": 1}


def test_a_command_under_an_id_acts_once_and_is_answered_as_before_also_after_a_restart(
    tmp_path: Path, clock: FakeClock
) -> None:
    node = embryo(tmp_path, clock)
    first = give(commands_of(node, clock), "end", **WELL, id="c-1")
    node.journal.close()
    clock.pass_s(3600)
    write_frame(tmp_path / "inc", "1", clock.now())
    node = node_over(tmp_path, clock, boot_id="boot2")
    take_all(node)
    assert node.journal.open_runs() == {"inc1": 1}
    again = give(commands_of(node, clock), "end", **WELL, id="c-1")
    assert again == first  # the next embryo is not ended by a command that came twice
    assert node.journal.open_runs() == {"inc1": 1}
    other = give(commands_of(node, clock), "end", **{**WELL, "well": "2"}, id="c-1")
    assert (other.accepted, other.code) == (False, "conflict")


def test_a_command_that_cannot_be_recorded_has_not_happened(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = embryo(tmp_path, clock)
    commands = commands_of(node, clock)

    def full(*_: object) -> None:
        raise StorageError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "_put_verdicts", full)
        with pytest.raises(StorageError):
            give(commands, "end", **WELL, id="c-1")
    assert node.journal.open_runs() == {"inc1": 1}
    assert give(commands, "end", **WELL, id="c-1").code == "done"


def test_a_watching_written_before_there_were_acknowledgements_is_read() -> None:
    old = '{"open":{"alert_id":"a","revision":1,"raised_at":null,"first_reading":null,"worst":1.0,"said_s":null}}'
    standing = Watching.model_validate_json(old).open
    assert standing is not None and standing.acknowledged is None and standing.told_at is None


# -- the inbox and the daemon ------------------------------------------------------------------------------------------


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.daemon.publisher.stop(0)
    made.daemon.node.journal.close()


def test_commands_from_many_threads_are_carried_out_one_by_one_in_the_thread_that_works(scene: Scene) -> None:
    write_frame(scene.root, "1", START)
    scene.turns(6)
    said = json.dumps({**WELL, "by": "mk"}).encode()
    answers: list[Future[Answer]] = []
    threads = [
        threading.Thread(target=lambda: answers.append(scene.daemon.submit("end", said, "http"))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not any(answer.done() for answer in answers)
    scene.turns(1)
    assert sorted(answer.result(0).code for answer in answers) == ["done", *["nothing_new"] * 7]
    assert scene.value("active_embryos", incubator="inc1") == 0


def test_a_full_disk_is_answered_and_the_next_try_succeeds(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    write_frame(scene.root, "1", START)
    scene.turns(6)
    said = json.dumps({**WELL, "by": "mk"}).encode()

    def full(*_: object) -> None:
        raise StorageError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "act", full)
        refused = scene.daemon.submit("end", said, "http")
        scene.turns(1)
    assert (refused.result(0).code, refused.result(0).accepted) == ("failed", False)
    assert scene.value("storage_failures_total") == 1
    again = scene.daemon.submit("end", said, "http")
    scene.turns(1)
    assert again.result(0).code == "done"


def test_who_has_given_up_waiting_changes_nothing_any_more(scene: Scene) -> None:
    write_frame(scene.root, "1", START)
    scene.turns(6)
    waiting = scene.daemon.submit("end", json.dumps({**WELL, "by": "mk"}).encode(), "http")
    assert waiting.cancel()
    scene.turns(1)
    assert scene.value("active_embryos", incubator="inc1") == 1


def test_too_many_commands_and_commands_at_the_end_are_answered_at_once() -> None:
    woken: list[int] = []
    refused = Answer(
        id=None, command="x", accepted=False, code="failed", reason="r", boot_id="b", occurred_at=START
    )  # fmt: skip
    inbox = Inbox(lambda: woken.append(1), lambda name, reason: refused)
    waiting = [inbox.submit("end", b"{}", "mqtt") for _ in range(WAITING_AT_MOST)]
    assert inbox.submit("end", b"{}", "mqtt").result(0) is refused
    assert len(woken) == WAITING_AT_MOST + 1
    inbox.close()
    assert all(answer.result(0) is refused for answer in waiting)
    assert inbox.submit("end", b"{}", "mqtt").result(0) is refused

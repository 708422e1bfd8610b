"""Alerts in the way of a frame: recorded with their reading, remembered over restarts, told and cleared."""

from __future__ import annotations

import json
from datetime import time, timedelta
from pathlib import Path

import pytest

from engines.scripted_engine import ScriptedEngine
from monitor.alarms import Silence
from monitor.alert import Alert
from monitor.alert_rules import Alerts, QuietHours
from monitor.config import Incubator
from monitor.errors import StorageError
from monitor.journal import Journal
from monitor.node import Node, Source, build_node
from monitor.outbox import stamped
from tests.house import PLANES_UM, START, FakeClock, new_metrics, node_over, scripted, take_all, write_frame

MIN = timedelta(minutes=1)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(START + timedelta(days=6))


def words(node: Node) -> list[dict]:
    return [json.loads(body) for body in node.journal.alerts.bodies()]


def told(node: Node) -> list[tuple[str, str]]:
    return [(word["kind"], word["state"]) for word in words(node)]


def outbox(node: Node) -> list[tuple[str, str, bool]]:
    return [
        (row.kind, row.topic, row.retain) for row in node.journal.outbox.pending(0, 10_000) if row.kind != "reading"
    ]


def short_of_planes(root: Path, count: int, first: int = 0) -> None:
    for k in range(first, first + count):
        write_frame(root, "1", START + 20 * k * MIN, PLANES_UM[:6])


def test_an_alert_is_recorded_with_the_reading_that_raises_it_and_stands_retained(
    tmp_path: Path, clock: FakeClock
) -> None:
    node = node_over(tmp_path, clock)
    short_of_planes(tmp_path / "inc", 4)
    readings = take_all(node)
    (word,) = words(node)
    assert (word["kind"], word["state"], word["boot_id"]) == ("imaging_degraded", "raised", "boot1")
    assert word["evidence"]["readings"][-1] == readings[-1].id
    assert word["seq"] == readings[-1].seq + 1  # type: ignore[operator]
    assert outbox(node) == [("alert", f"alert/{word['alert_id']}", True)]


def test_a_cleared_alert_says_its_last_word_and_empties_its_topic(tmp_path: Path, clock: FakeClock) -> None:
    node = node_over(tmp_path, clock)
    short_of_planes(tmp_path / "inc", 4)
    take_all(node)
    for k in range(4, 10):
        write_frame(tmp_path / "inc", "1", START + 20 * k * MIN)
    take_all(node)
    assert told(node) == [("imaging_degraded", "raised"), ("imaging_degraded", "cleared")]
    topic = f"alert/{words(node)[0]['alert_id']}"
    assert outbox(node) == [("alert", topic, True), ("alert", topic, False), ("clear", topic, True)]
    node.journal.outbox.remove([row.row_id for row in node.journal.outbox.pending(0, 10_000)])
    assert [row for row in node.journal.outbox.retained() if row.topic == topic and row.body] == []


def test_an_open_alert_is_among_what_is_said_again_at_every_connect(tmp_path: Path, clock: FakeClock) -> None:
    node = node_over(tmp_path, clock)
    short_of_planes(tmp_path / "inc", 4)
    take_all(node)
    node.journal.outbox.remove([row.row_id for row in node.journal.outbox.pending(0, 10_000)])
    again = {row.topic: json.loads(row.body) for row in node.journal.outbox.retained() if row.kind == "alert"}
    assert list(again.values()) == words(node)


def test_a_restart_between_any_two_frames_changes_no_alert(tmp_path: Path, clock: FakeClock) -> None:
    for name in ("straight", "broken"):
        (tmp_path / name).mkdir()
        short_of_planes(tmp_path / name / "inc", 8)
        for k in range(8, 16):
            write_frame(tmp_path / name / "inc", "1", START + 20 * k * MIN)
    straight = node_over(tmp_path / "straight", clock)
    take_all(straight)
    for _ in range(16):
        node = node_over(tmp_path / "broken", clock)
        (intake,) = node.intakes.values()
        intake.look(full=True)
        frame = intake.assemble(intake.due()[0])
        assert frame is not None
        node.pipeline.advance([frame])
        node.journal.close()
    assert words(node_over(tmp_path / "broken", clock)) == words(straight)
    assert [word["state"] for word in words(straight)] == ["raised", "cleared"]


def test_an_alert_whose_reading_could_not_be_recorded_has_not_been_raised(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = node_over(tmp_path, clock)
    short_of_planes(tmp_path / "inc", 3)
    take_all(node)
    short_of_planes(tmp_path / "inc", 1, first=3)

    def full(*_: object) -> None:
        raise StorageError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "_put_verdicts", full)
        with pytest.raises(StorageError):
            take_all(node)
    assert words(node) == []
    take_all(node)
    assert told(node) == [("imaging_degraded", "raised")]


def test_the_end_of_a_run_clears_its_alerts_and_forgets_what_was_watched(tmp_path: Path, clock: FakeClock) -> None:
    node = node_over(tmp_path, clock)
    short_of_planes(tmp_path / "inc", 4)
    take_all(node)
    write_frame(tmp_path / "inc", "1", START + timedelta(hours=40))
    take_all(node)
    assert [(word["state"], word["why_cleared"]) for word in words(node)] == [
        ("raised", None), ("cleared", "run_ended")
    ]  # fmt: skip
    assert node.journal.alerts.watchings(f"embryo/{words(node)[0]['subject']['embryo_id']}") == {}


def test_silence_of_an_incubator_with_embryos_is_told_and_ends_with_the_next_frame(
    tmp_path: Path, clock: FakeClock
) -> None:
    node = node_over(tmp_path, clock)
    said = []
    for silence_min in (0, 20, 26, 40, 3):
        said += node.alarms.node([Silence("inc1", silence_min * 60, 10, embryos=3)], 10 * 2**30, clock.now())
        clock.pass_s(600)
    assert [(word.kind, word.state.value, word.value) for word in said] == [
        ("frame_gap", "raised", 2.6), ("frame_gap", "cleared", 0.3)
    ]  # fmt: skip
    assert said[0].subject.incubator == "inc1"
    assert said[0].evidence.values == {"silence_s": 1560.0, "cadence_min": 10.0, "embryos": 3}


def test_a_disk_that_runs_full_is_told_of_while_there_is_room_to_tell(tmp_path: Path, clock: FakeClock) -> None:
    node = node_over(tmp_path, clock)
    for free_gib in (9.0, 1.9, 1.9, 2.5, 3.1):
        node.alarms.node([], int(free_gib * 2**30), clock.now())
        clock.pass_s(60)
    assert told(node) == [("storage_low", "raised"), ("storage_low", "cleared")]


def test_a_look_that_changes_nothing_writes_nothing(tmp_path: Path, clock: FakeClock) -> None:
    node = node_over(tmp_path, clock)
    before = node.journal._db.total_changes
    for _ in range(100):
        node.alarms.node([Silence("inc1", 60, 10, embryos=1)], 10 * 2**30, clock.now())
        clock.pass_s(10)
    assert node.journal._db.total_changes == before
    for k in range(10):
        write_frame(tmp_path / "inc", "1", START + 20 * k * MIN)
    readings = take_all(node)
    assert node.journal.alerts.watchings(f"embryo/{readings[0].embryo.embryo_id}") == {}


def test_an_engine_that_loses_frames_is_told_of_with_its_readings_and_cleared_after_twenty_answers(
    tmp_path: Path, clock: FakeClock
) -> None:
    engine = ScriptedEngine(faults=dict.fromkeys(range(3), "no memory"))
    node = node_over(tmp_path, clock, scripted(engine))
    readings = []
    for k in range(24):
        write_frame(tmp_path / "inc", "1", START + 20 * k * MIN)
        readings += take_all(node)
    raised, cleared = words(node)
    assert [(word["kind"], word["state"], word["value"]) for word in (raised, cleared)] == [
        ("engine_failing", "raised", 0.15), ("engine_failing", "cleared", 0.0)
    ]  # fmt: skip
    assert raised["subject"]["engine"] == node.model
    assert raised["evidence"]["readings"] == [readings[2].id]
    assert raised["seq"] == readings[2].seq + 1  # in one transaction


def test_a_batch_that_could_not_be_recorded_leaves_the_engines_window_as_it_was(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = node_over(tmp_path, clock, scripted(ScriptedEngine(faults=dict.fromkeys(range(3), "no memory"))))
    write_frame(tmp_path / "inc", "1", START)

    def full(*_: object) -> None:
        raise StorageError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "_put_run", full)
        with pytest.raises(StorageError):
            take_all(node)
    assert node.journal.alerts.watchings(f"engine/{node.model}") == {}


def test_alerts_of_what_is_configured_no_longer_are_cleared_at_the_next_start(tmp_path: Path, clock: FakeClock) -> None:
    node = node_over(tmp_path, clock, scripted(ScriptedEngine(faults=dict.fromkeys(range(3), "no memory"))))
    for k in range(3):
        write_frame(tmp_path / "inc", "1", START + 20 * k * MIN)
    take_all(node)
    node.alarms.node([Silence("inc1", 9999, 10, embryos=1)], 10 * 2**30, clock.now())
    assert node.alarms.retire(["inc1"], [node.model], clock.now()) == []
    cleared = node.alarms.retire(["inc2"], ["another"], clock.now())
    assert sorted((word.kind, word.why_cleared) for word in cleared) == [
        ("engine_failing", "not_configured"), ("frame_gap", "not_configured")
    ]  # fmt: skip
    assert node.journal.alerts.open_counts() == {}
    assert node.alarms.retire(["inc2"], ["another"], clock.now()) == []


def test_an_alert_sent_late_says_so_also_when_it_is_said_again(tmp_path: Path, clock: FakeClock) -> None:
    node = node_over(tmp_path, clock)
    node.alarms.node([Silence("inc1", 9999, 10, embryos=1)], 10 * 2**30, clock.now())
    ten_hours_later = clock.now() + timedelta(hours=10)
    (row,) = node.journal.outbox.pending(0, 10)
    assert json.loads(stamped(row, clock.now()))["historical"] is False
    assert json.loads(stamped(row, ten_hours_later))["historical"] is True
    node.journal.outbox.remove([row.row_id])
    (again,) = node.journal.outbox.retained()
    assert json.loads(stamped(again, ten_hours_later))["historical"] is True


# -- one cause, quiet hours --------------------------------------------------------------------------------------------

WELLS = ("1", "2", "3", "4", "5")


def dark_moment(root: Path, moment: int, wells: tuple[str, ...], level: int = 0) -> None:
    for well in WELLS:
        write_frame(root, well, START + moment * 20 * MIN, level=level if well in wells else 100)


def take_a_moment(node: Node) -> None:
    """All wells of a moment in one transaction, as the daemon takes them."""
    (intake,) = node.intakes.values()
    intake.look(full=True)
    while due := intake.due():
        frames = [frame for name in due if (frame := intake.assemble(name)) is not None]
        if not frames:
            return
        node.pipeline.advance(frames)
        for frame in frames:
            intake.done(frame)


def about(node: Node) -> list[tuple[str, str, str]]:
    return [
        (word["kind"], word["state"], word["subject"]["embryo_id"] or word["subject"]["incubator"])
        for word in sorted(words(node), key=lambda word: word["seq"] or 0)
    ]


def test_a_lamp_that_goes_out_over_all_wells_is_one_alert_also_over_restarts(tmp_path: Path, clock: FakeClock) -> None:
    for moment in range(12):
        node = node_over(tmp_path, clock, boot_id=f"boot{moment}")
        dark_moment(tmp_path / "inc", moment, WELLS if moment < 5 else ())
        take_a_moment(node)
        if moment == 4:
            (standing,) = node.journal.alerts.standing()
            assert len(standing.members) == len(WELLS)
            assert standing.evidence.values["embryos"] == len(WELLS)
        node.journal.close()
    node = node_over(tmp_path, clock)
    assert about(node) == [("imaging_degraded", "raised", "inc1"), ("imaging_degraded", "cleared", "inc1")]
    assert all(word.revision == 1 or word.why_cleared == "recovered" for word in map(Alert.model_validate, words(node)))


def test_old_dishes_that_nobody_ended_do_not_make_a_dead_camera_an_alert_for_each_well(
    tmp_path: Path, clock: FakeClock
) -> None:
    node = node_over(tmp_path, clock)
    for well in WELLS:
        for dish in ("old1", "old2"):
            write_frame(tmp_path / "inc", well, START - timedelta(hours=30), level=0, dish=dish)
    take_a_moment(node)
    assert node.journal.open_runs() == {"inc1": 10}
    for moment in range(8):
        dark_moment(tmp_path / "inc", moment, WELLS)
    take_a_moment(node)
    assert about(node) == [("imaging_degraded", "raised", "inc1")]
    (standing,) = node.journal.alerts.standing()
    assert len(standing.members) == len(WELLS) and standing.evidence.values["embryos"] == len(WELLS)


def test_when_no_frame_has_come_for_a_day_all_open_runs_count(tmp_path: Path, clock: FakeClock) -> None:
    node = node_over(tmp_path, clock)
    dark_moment(tmp_path / "inc", 0, ())
    take_a_moment(node)
    assert len(node.journal.alerts.lying("inc1", START + timedelta(days=9))) == len(WELLS)
    assert len(node.journal.alerts.lying("inc1", None)) == len(WELLS)


def test_an_alert_from_an_older_version_is_called_again_also_over_a_restart(tmp_path: Path, clock: FakeClock) -> None:
    node = node_over(tmp_path, clock)
    short_of_planes(tmp_path / "inc", 4)
    take_all(node)
    db = node.journal._db
    db.execute("UPDATE watching SET body = json_remove(body, '$.open.told_at') WHERE kind = 'imaging_degraded'")
    assert node.alarms.remind(clock.now()) == []
    node.journal.close()
    node = node_over(tmp_path, clock, boot_id="boot2")
    clock.pass_s(24 * 3600)
    assert [word.state.value for word in node.alarms.remind(clock.now())] == ["escalated"]


def test_two_dark_wells_of_five_are_told_of_one_by_one_and_so_is_who_stays_dark(
    tmp_path: Path, clock: FakeClock
) -> None:
    node = node_over(tmp_path, clock)
    for moment in range(16):
        dark_moment(tmp_path / "inc", moment, WELLS if moment < 5 else ("2",))
        take_a_moment(node)
    told_of = [(state, who.split("/")[2] if "/" in who else who) for _, state, who in about(node)]
    assert told_of == [("raised", "inc1"), ("cleared", "inc1"), ("raised", "2")]


def test_in_quiet_hours_an_alert_is_recorded_and_sent_and_nobody_is_rung_until_they_end(tmp_path: Path) -> None:
    clock = FakeClock(START.replace(hour=23))
    rules = Alerts(quiet=QuietHours(begins=time(22), ends=time(6), kinds=("storage_low",)))
    (tmp_path / "inc").mkdir()
    source = Source(Incubator(name="inc1", path=tmp_path / "inc"))
    node = build_node("lab", "box", [source], scripted(), tmp_path / "store", "b", clock, new_metrics(clock), rules)
    for _ in range(2):
        node.alarms.node([], 2**30, clock.now())
        clock.pass_s(60)
    assert [(word["state"], word["quiet"]) for word in words(node)] == [("raised", True)]
    assert outbox(node) == [("alert", f"alert/{words(node)[0]['alert_id']}", True)]
    assert node.alarms.remind(clock.now()) == []
    clock.pass_s(7 * 3600)
    assert [(word.state.value, word.quiet) for word in node.alarms.remind(clock.now())] == [("updated", False)]
    clock.pass_s(3600)
    assert [word.state.value for word in node.alarms.remind(clock.now())] == ["escalated"]
    assert node.alarms.remind(clock.now() + timedelta(days=1)) == []

"""Day 5 between frames: due at its hour, after every frame that waits, recorded once, told in the next reading."""

from __future__ import annotations

import json
import sqlite3
from datetime import timedelta
from pathlib import Path

import cv2
import numpy as np
import pytest

import tests.staged
from engines.day5 import Part
from engines.load import Loaded
from monitor.blind import Blind
from monitor.config import make_config
from monitor.daemon import Daemon
from monitor.database import BEFORE_DAY5, SCHEMA_VERSION
from monitor.day5_body import Day5
from monitor.errors import ConfigError, StorageError
from monitor.event import Event
from monitor.journal import Journal
from monitor.node import Node, load_models
from monitor.notify import Notifier
from monitor.replay import Summary, replay, sources
from tests.graded import (
    INSEMINATED,
    SIDE_PX,
    drawn_planes,
    graded,
    graders_of,
    segmenter_of,
    write_blastocyst,
)
from tests.house import START, FakeClock, new_metrics, node_over, plane_path, scripted, take_all, write_frame
from tests.staged import staged

HOUR = timedelta(hours=1)
DUE = INSEMINATED + 114 * HOUR


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(START + timedelta(days=3))


def node_at(tmp_path: Path, clock: FakeClock, loaded: Loaded | None = None, **incubator: object) -> Node:
    return node_over(tmp_path, clock, loaded or graded(), **{"insemination": INSEMINATED, **incubator})


def events(node: Node) -> list[Event]:
    return [Event.model_validate_json(body) for body in node.journal.day5.bodies()]


def work(node: Node) -> list[Event]:
    """Take every frame, then do all that is due."""
    take_all(node)
    assert node.day5 is not None
    node.day5.catch_up()
    return events(node)


def one(tmp_path: Path, clock: FakeClock, loaded: Loaded | None = None, **incubator: object) -> Day5:
    """The result of one frame at 114 hpi."""
    write_blastocyst(tmp_path / "inc", "1", DUE)
    (event,) = work(node_at(tmp_path, clock, loaded, **incubator))
    return event.day5


def overlays(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "store" / "day5").glob("??/*"))


def test_a_result_is_an_event_with_exactly_the_keys_of_the_contract(tmp_path: Path, clock: FakeClock) -> None:
    write_blastocyst(tmp_path / "inc", "1", DUE)
    node = node_at(tmp_path, clock, pixel_size_um=1.2)
    (event,) = work(node)
    told = json.loads(event.body())
    assert set(told) == {
        *("schema", "id", "seq", "boot_id", "occurred_at", "kind", "revision", "supersedes", "embryo", "day5"),
        "intended_use",
    }
    assert (told["schema"], told["kind"], told["seq"]) == ("pellucid.event/1", "grade", 2)  # the reading was 1
    assert set(told["day5"]) == {
        *("id", "revision", "frame", "outcome", "reason", "stage", "grade", "agreement", "criteria", "measured"),
        *("course", "flags", "crop_confidence", "plane_um", "overlay", "engines"),
    }
    day5 = event.day5
    assert day5.outcome == "graded" and day5.reason is None and day5.stage is None
    assert told["day5"]["grade"] == {"expansion": 4, "icm": "A", "te": "B", "source": "networks"}
    assert day5.agreement == "same" and list(day5.criteria) == ["expansion", "icm", "te"]
    assert day5.measured is not None and day5.measured.unit == "um" and day5.measured.body_area is not None
    assert set(day5.engines) == {"parts", "one", "two"}
    assert day5.frame.hpi == 114.0 and event.occurred_at == DUE
    (row,) = [row for row in node.journal.outbox.pending(0, 10) if row.kind == "event"]
    assert (row.topic, row.retain) == ("embryo/inc1/D1/1/event", False)
    assert json.loads(row.body) == told


def test_nothing_is_due_before_day_5_and_nothing_is_done_without_models(tmp_path: Path, clock: FakeClock) -> None:
    write_blastocyst(tmp_path / "inc", "1", DUE - HOUR / 10)
    assert work(node_at(tmp_path, clock)) == []
    (tmp_path / "other" / "inc").mkdir(parents=True)
    write_blastocyst(tmp_path / "other" / "inc", "1", DUE)
    bare = node_at(tmp_path / "other", clock, scripted())
    (reading,) = take_all(bare)
    assert bare.day5 is None and reading.day5 is None
    assert not (tmp_path / "other" / "store" / "day5").exists()


def test_the_next_reading_tells_the_result_and_a_late_word_about_an_earlier_frame_does_not(
    tmp_path: Path, clock: FakeClock
) -> None:
    write_blastocyst(tmp_path / "inc", "1", DUE)
    node = node_at(tmp_path, clock)
    (event,) = work(node)
    write_blastocyst(tmp_path / "inc", "1", DUE + HOUR / 4)
    write_blastocyst(tmp_path / "inc", "2", DUE)
    told = {(reading.embryo.well, reading.frame.hpi): reading.day5 for reading in take_all(node)}
    assert told == {("1", 114.25): event.day5, ("2", 114.0): None}
    write_blastocyst(tmp_path / "inc", "1", DUE - HOUR)
    (late,) = take_all(node)
    assert late.outcome.value == "out_of_order" and late.day5 is None


def test_a_revision_of_a_frame_repeats_what_was_told_with_it(tmp_path: Path, clock: FakeClock) -> None:
    write_blastocyst(tmp_path / "inc", "1", DUE)
    node = node_at(tmp_path, clock)
    (first,) = work(node)
    write_blastocyst(tmp_path / "inc", "1", DUE + 2 * HOUR)
    assert len(work(node)) == 2
    write_blastocyst(tmp_path / "inc", "1", DUE + 2 * HOUR, brightness=0.9)  # rewritten
    (revised,) = take_all(node)
    assert revised.outcome.value == "revised" and revised.day5 == first.day5


def test_a_newer_frame_makes_a_new_revision_once_an_hour_and_its_picture_takes_the_place_of_the_last(
    tmp_path: Path, clock: FakeClock
) -> None:
    write_blastocyst(tmp_path / "inc", "1", DUE)
    node = node_at(tmp_path, clock)
    (first,) = work(node)
    assert overlays(tmp_path) == [f"{first.day5.overlay}.png"]
    write_blastocyst(tmp_path / "inc", "1", DUE + HOUR / 2, brightness=0.95)
    assert len(work(node)) == 1
    write_blastocyst(tmp_path / "inc", "1", DUE + HOUR, brightness=0.9)
    _, second = work(node)
    assert (second.revision, second.supersedes) == (2, first.id)
    assert second.id != first.id and second.day5.course is not None
    assert overlays(tmp_path) == [f"{second.day5.overlay}.png"]


@pytest.mark.parametrize("hidden", [True, False])
def test_of_an_embryo_that_is_not_assessed_neither_log_nor_metrics_tell_the_grade(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture, hidden: bool
) -> None:
    write_blastocyst(tmp_path / "inc", "1", DUE)
    node = node_at(tmp_path, clock)
    node.journal.blind = Blind(hidden, lambda embryo_id: False)
    told: list[Event] = []
    assert node.day5 is not None
    node.day5._told = told.append
    with caplog.at_level("INFO"):
        (event,) = work(node)
    (line,) = [record for record in caplog.records if record.message == "day 5"]
    assert [hasattr(line, name) for name in ("result", "outcome")] == [not hidden] * 2
    assert told == ([] if hidden else [event])


def test_the_picture_on_the_disk_is_named_by_its_digest_and_shows_both_views(tmp_path: Path, clock: FakeClock) -> None:
    day5 = one(tmp_path, clock)
    assert day5.overlay is not None
    path = tmp_path / "store" / "day5" / day5.overlay[:2] / f"{day5.overlay}.png"
    picture = cv2.imread(str(path))
    assert picture is not None and picture.shape == (394, 976, 3)


def test_the_picture_goes_with_the_run_and_what_was_told_stays(tmp_path: Path, clock: FakeClock) -> None:
    write_blastocyst(tmp_path / "inc", "1", DUE)
    node = node_at(tmp_path, clock)
    (event,) = work(node)
    write_blastocyst(tmp_path / "inc", "1", DUE + 30 * HOUR)  # after a gap of over a day: the next embryo
    told = take_all(node)
    assert [reading.day5 for reading in told] == [None]
    assert event in events(node)
    assert f"{event.day5.overlay}.png" not in overlays(tmp_path)


def test_a_frame_that_waits_goes_before_all_day_5_work(tmp_path: Path, clock: FakeClock) -> None:
    config = make_config(
        {
            "site": {"name": "lab", "node": "box"},
            "incubator": [{"name": "inc1", "path": tmp_path / "inc", "stable_s": 0, "insemination": INSEMINATED}],
            "mqtt": {"host": "127.0.0.1", "port": 1},
            "storage": {"path": tmp_path / "store"},
        }
    )
    for well in range(1, 11):  # more than a batch
        write_blastocyst(tmp_path / "inc", str(well), DUE)
    order: list[str] = []
    metrics = new_metrics(clock)
    daemon = Daemon(config, graded(), metrics, clock, Notifier({}), lambda reading: order.append("frame"))
    assert daemon.node.day5 is not None
    daemon.node.day5._told = lambda event: order.append("day5")
    for _ in range(60):
        daemon.turn()
        clock.pass_s(1.0)
        if "day5" in order and len(order) < 13 and not (tmp_path / "inc" / "D1" / "11").exists():
            write_blastocyst(tmp_path / "inc", "11", DUE)
            write_blastocyst(tmp_path / "inc", "12", DUE)
    daemon.publisher.stop(0)
    daemon.node.journal.close()
    assert order[:11] == ["frame"] * 10 + ["day5"]
    assert sorted(order) == ["day5"] * 12 + ["frame"] * 12
    assert "frame" not in order[order.index("frame", 10) + 2 :]
    assert order.index("frame", 10) < 15  # two turns after they came, not when all of day 5 was done


def test_no_work_is_done_while_a_frame_waits_or_the_folder_is_away(tmp_path: Path, clock: FakeClock) -> None:
    write_blastocyst(tmp_path / "inc", "1", DUE)
    loaded = graded()
    node = node_at(tmp_path, clock, loaded)
    take_all(node)
    assert node.day5 is not None
    assert not node.day5.turn(1)
    assert not node.day5.turn(0, {"inc1"})
    assert node.day5.turn(0)  # its pictures are read
    assert not node.day5.turn(2)
    assert segmenter_of(loaded).calls == 0 and events(node) == []
    assert node.day5.turn(0)
    assert len(events(node)) == 1
    assert not node.day5.turn(0)


@pytest.mark.parametrize("where", ["before the picture", "before the record", "after the record"])
def test_a_kill_at_any_point_gives_the_same_result_once_under_the_same_id(
    tmp_path: Path, clock: FakeClock, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """Nothing catches it, as nothing catches a SIGKILL."""

    write_blastocyst(tmp_path / "inc", "1", DUE)
    node = node_at(tmp_path, clock)
    take_all(node)
    good = Journal.record_day5

    def kill(*args: object) -> object:
        if where == "after the record":
            good(*args)  # type: ignore[arg-type]
        raise Killed

    assert node.day5 is not None
    with monkeypatch.context() as patch, pytest.raises(Killed):
        if where == "before the picture":
            patch.setattr(node.day5._overlays, "put", kill)
        else:
            patch.setattr(Journal, "record_day5", kill)
        node.day5.catch_up()
    node.journal.close()
    again = node_at(tmp_path, clock)
    (event,) = work(again)
    (row,) = [row for row in again.journal.outbox.pending(0, 10) if row.kind == "event"]
    assert json.loads(row.body)["id"] == event.id
    assert overlays(tmp_path) == [f"{event.day5.overlay}.png"]
    write_blastocyst(tmp_path / "whole" / "inc", "1", DUE)
    (whole,) = work(node_at(tmp_path / "whole", clock))
    assert event == whole


def test_a_disk_that_takes_nothing_costs_no_result(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_blastocyst(tmp_path / "inc", "1", DUE)
    node = node_at(tmp_path, clock)
    take_all(node)
    assert node.day5 is not None

    def full(*args: object) -> object:
        raise StorageError("disk full")

    with monkeypatch.context() as patch, pytest.raises(StorageError):
        patch.setattr(Journal, "record_day5", full)
        node.day5.catch_up()
    node.day5.catch_up()
    assert events(node) == []  # it rests a minute
    clock.pass_s(61)
    node.day5.catch_up()
    assert len(events(node)) == 1


def test_a_picture_that_is_gone_or_has_changed_is_put_off_and_tried_again(tmp_path: Path, clock: FakeClock) -> None:
    write_blastocyst(tmp_path / "inc", "1", DUE)
    node = node_at(tmp_path, clock)
    take_all(node)
    path = plane_path(tmp_path / "inc", "1", DUE, 0).with_suffix(".png")
    whole = path.read_bytes()
    assert node.day5 is not None
    for wrong in (None, whole + b" "):
        path.unlink() if wrong is None else path.write_bytes(wrong)
        node.day5.catch_up()
        assert events(node) == []
        clock.pass_s(61)
    path.write_bytes(whole)
    node.day5.catch_up()
    assert [event.day5.outcome for event in events(node)] == ["graded"]


# -- outcomes ----------------------------------------------------------------------------------------------------------


def at_stage(monkeypatch: pytest.MonkeyPatch, phase: str) -> Loaded:
    """Models whose stage model takes the drawn frames for `phase`."""
    from engines.preprocess import fit_plane
    from monitor.vocabulary import PHASES

    gray = float(np.mean([fit_plane(plane, 8, 8).mean() for plane in drawn_planes()]))
    monkeypatch.setattr(tests.staged, "GRAYS_A_PHASE", gray / (PHASES.index(phase) + 0.5))
    return graded(staged())


def test_an_embryo_below_tsb_on_day_5_is_told_as_no_blastocyst_and_no_network_runs(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = at_stage(monkeypatch, "tM")
    day5 = one(tmp_path, clock, loaded)
    assert (day5.outcome, day5.reason) == ("no_blastocyst", "no blastocyst, not gradable: the stage is tM")
    assert day5.stage == "tM" and day5.grade is None and day5.overlay is None and day5.engines == {}
    assert segmenter_of(loaded).calls == 0


def test_an_embryo_that_reaches_tsb_is_judged_before_day_5(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_blastocyst(tmp_path / "inc", "1", INSEMINATED + 98 * HOUR)
    (event,) = work(node_at(tmp_path, clock, at_stage(monkeypatch, "tSB")))
    assert (event.day5.outcome, event.day5.stage) == ("graded", "tSB")


def test_a_collapse_that_looks_like_a_morula_takes_no_blastocyst_back(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = at_stage(monkeypatch, "tB")
    for number in range(8):
        write_blastocyst(tmp_path / "inc", "1", DUE + number * HOUR / 4)
    for number in range(8, 13):  # darker frames are those of an earlier phase
        write_blastocyst(tmp_path / "inc", "1", DUE + number * HOUR / 4, brightness=11.5 / 13.5)
    node = node_at(tmp_path, clock, loaded)
    told = work(node)
    (body,) = [node.journal.day5._db.execute("SELECT body FROM reading ORDER BY frame_order DESC").fetchone()[0]]
    assert json.loads(body)["stage"]["live"] == "tM"
    assert told[-1].day5.stage == "tB" and told[-1].day5.outcome == "graded"


def test_a_frame_without_an_embryo_is_an_outcome_and_has_its_picture(tmp_path: Path, clock: FakeClock) -> None:
    rng = np.random.default_rng(0)
    for plane_um in (-45, -30, -15, 0, 15, 30, 45):
        path = plane_path(tmp_path / "inc", "1", DUE, plane_um).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.normal(80, 25, (250, 250)).clip(0, 255).astype(np.uint8))
    (event,) = work(node_at(tmp_path, clock))
    assert event.day5.outcome == "no_embryo" and "no embryo found" in (event.day5.reason or "")
    assert event.day5.grade is None and len(overlays(tmp_path)) == 1


def test_a_frame_too_small_to_look_at_is_not_gradable_and_never_met_again(tmp_path: Path, clock: FakeClock) -> None:
    write_frame(tmp_path / "inc", "1", DUE)  # 24 px
    node = node_at(tmp_path, clock)
    (event,) = work(node)
    assert event.day5.outcome == "not_gradable" and "100 px" in (event.day5.reason or "")
    assert work(node) == [event]


def test_a_segmenter_that_fails_makes_the_frame_not_gradable_and_the_next_one_is_judged(
    tmp_path: Path, clock: FakeClock
) -> None:
    loaded = graded()
    segmenter_of(loaded).faults = {0}
    write_blastocyst(tmp_path / "inc", "1", DUE)
    node = node_at(tmp_path, clock, loaded)
    (event,) = work(node)
    assert (event.day5.outcome, event.day5.reason) == ("not_gradable", "not gradable: the segmenter gave no answer")
    assert event.day5.measured is None and event.day5.overlay is not None
    write_blastocyst(tmp_path / "inc", "1", DUE + HOUR)
    assert [event.day5.outcome for event in work(node)] == ["not_gradable", "graded"]


def test_a_grader_that_fails_leaves_the_other_alone_and_two_leave_nobody(tmp_path: Path, clock: FakeClock) -> None:
    loaded = graded()
    graders_of(loaded)[0].faults = {0, 1}
    graders_of(loaded)[1].faults = {1}
    write_blastocyst(tmp_path / "inc", "1", DUE)
    node = node_at(tmp_path, clock, loaded)
    (event,) = work(node)
    assert (event.day5.outcome, event.day5.agreement) == ("graded", "alone")
    assert "grader_failed" in event.day5.flags
    write_blastocyst(tmp_path / "inc", "1", DUE + HOUR)
    _, second = work(node)
    assert (second.day5.outcome, second.day5.reason) == ("not_gradable", "not gradable: no grader gave an answer")


def test_graders_who_disagree_and_graders_who_see_none_give_no_grade(tmp_path: Path, clock: FakeClock) -> None:
    loaded = graded()
    graders_of(loaded)[0].words = ("2", "A", "A")
    graders_of(loaded)[1].words = ("5", "A", "A")
    day5 = one(tmp_path / "a", clock, loaded)
    assert (day5.outcome, day5.agreement) == ("not_gradable", "apart")
    for grader in graders_of(loaded):
        grader.words = ("none", "A", "A")
    day5 = one(tmp_path / "b", clock, loaded)
    assert (day5.outcome, day5.reason) == ("no_blastocyst", "no blastocyst, not gradable: the graders see none")


def test_graders_who_see_none_where_the_history_has_a_blastocyst_make_this_frame_not_gradable(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = at_stage(monkeypatch, "tB")
    for grader in graders_of(loaded):
        grader.words = ("none", "A", "A")
    day5 = one(tmp_path, clock, loaded)
    assert (day5.outcome, day5.reason) == ("not_gradable", "not gradable: the graders see no blastocyst")


@pytest.mark.parametrize("bad", ["all background", "a pixel", "everything", "noise", "a line", "cell mass only"])
def test_no_mask_however_bad_stops_the_work(tmp_path: Path, clock: FakeClock, bad: str) -> None:
    def labels(x: np.ndarray) -> np.ndarray:
        found = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
        if bad == "a pixel":
            found[10, 10] = Part.ZP
        elif bad == "everything":
            found[:] = Part.TE
        elif bad == "noise":
            found = np.random.default_rng(0).integers(0, 5, found.shape).astype(np.uint8)
        elif bad == "a line":
            found[20] = Part.ZP
        elif bad == "cell mass only":
            found[20:30, 20:30] = Part.ICM
        return found

    loaded = graded()
    segmenter_of(loaded).labels = labels
    for hour in range(3):
        write_blastocyst(tmp_path / "inc", "1", DUE + hour * HOUR)
    told = work(node_at(tmp_path, clock, loaded))
    if bad == "all background":
        assert told[-1].day5.reason == "not gradable: no part of an embryo was segmented"
    assert told[-1].day5.overlay is not None


def test_a_fault_nobody_thought_of_is_recorded_and_does_not_come_back_at_every_start(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> object:
        raise cv2.error("(-215) !empty()")

    monkeypatch.setattr("monitor.day5_judge.draw_overlay", broken)
    day5 = one(tmp_path, clock)
    assert day5.outcome == "not_gradable" and "!empty()" in (day5.reason or "")


def test_a_measure_against_the_grade_is_a_flag(tmp_path: Path, clock: FakeClock) -> None:
    def thick(x: np.ndarray) -> np.ndarray:
        y, x = np.mgrid[:SIDE_PX, :SIDE_PX] - (SIDE_PX - 1) / 2
        r = np.hypot(x, y)
        return np.select([r < 17, r < 18, r < 28], [Part.BLASTOCOEL, Part.TE, Part.ZP], Part.BACKGROUND).astype(
            np.uint8
        )

    loaded = graded()
    segmenter_of(loaded).labels = thick
    day5 = one(tmp_path, clock, loaded)
    assert day5.outcome == "graded" and "zona_thick" in day5.flags
    assert day5.measured is not None and day5.measured.unit == "px"


def single(folder: Path, name: str = "E1") -> Path:
    for plane_um in (-45, -30, -15, 0, 15, 30, 45):
        path = folder / name / f"{name}_F{plane_um}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), drawn_planes()[(plane_um + 45) // 15])
    return folder


def test_a_single_moment_is_judged_by_the_networks_themselves_whatever_a_stage_model_says(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = at_stage(monkeypatch, "tM")
    given = sources([single(tmp_path / "stork")], "single-moment", None, None)
    summary = replay(given, tmp_path / "out", loaded, clock)
    assert summary == Summary({"judged": 1}, lines=1, alerts=0, put_aside=0, events=1)
    (told,) = (tmp_path / "out" / "events.jsonl").read_text().splitlines()
    day5 = json.loads(told)["day5"]
    assert (day5["outcome"], day5["stage"], day5["frame"]["hpi"]) == ("graded", None, 116.0)


# -- replay ------------------------------------------------------------------------------------------------------------


def archive(folder: Path) -> Path:
    for well in ("1", "2"):
        for number in range(5):
            write_blastocyst(folder, well, DUE + number * HOUR / 2)
    return folder


def replayed(folder: Path, out: Path, jobs: int = 1) -> Summary:
    (source,) = sources([folder], "generic", None, None)
    incubator = source.incubator.model_copy(update={"insemination": INSEMINATED})
    return replay([type(source)(incubator)], out, graded(), FakeClock(START + timedelta(days=3)), jobs=jobs)


def told_by(out: Path) -> list[bytes]:
    return [(out / name).read_bytes() for name in ("readings.jsonl", "events.jsonl")]


def test_two_replays_tell_the_same_bytes_of_day_5_and_each_frame_knows_the_one_before(tmp_path: Path) -> None:
    folder = archive(tmp_path / "rec")
    assert replayed(folder, tmp_path / "a").events == 6
    replayed(folder, tmp_path / "b", jobs=3)
    assert told_by(tmp_path / "a") == told_by(tmp_path / "b")
    readings = [json.loads(line) for line in told_by(tmp_path / "a")[0].splitlines()]
    revisions = [reading["day5"] and reading["day5"]["revision"] for reading in readings]
    assert revisions == [None, 1, 1, 2, 2] * 2


def test_a_replay_cut_off_between_a_frame_and_its_work_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = archive(tmp_path / "rec")
    replayed(folder, tmp_path / "whole")
    good, left = Journal.record_day5, [2]

    def record(self: Journal, *args: object) -> object:
        left[0] -= 1
        if left[0] < 0:
            raise StorageError("the power went")
        return good(self, *args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(StorageError):
        patch.setattr(Journal, "record_day5", record)
        replayed(folder, tmp_path / "cut")
    replayed(folder, tmp_path / "cut")
    assert told_by(tmp_path / "cut") == told_by(tmp_path / "whole")


def test_a_replay_without_models_of_day_5_writes_no_events(tmp_path: Path, clock: FakeClock) -> None:
    write_frame(tmp_path / "rec", "1", DUE)
    replay(sources([tmp_path / "rec"], "generic", None, None), tmp_path / "out", scripted(), clock)
    assert not (tmp_path / "out" / "events.jsonl").exists()


# -- settings and what was there before --------------------------------------------------------------------------------


def test_a_journal_from_before_day_5_gets_its_tables_and_the_next_frame_is_worked_on(
    tmp_path: Path, clock: FakeClock
) -> None:
    write_blastocyst(tmp_path / "inc", "1", DUE)
    node = node_at(tmp_path, clock, scripted())
    take_all(node)
    node.journal.close()
    with sqlite3.connect(tmp_path / "store" / "journal.sqlite") as db:
        db.executescript(
            "DROP TABLE judged; DROP TABLE day5; DROP TABLE audit; "
            "DROP TABLE command; DROP TABLE assessment; DROP TABLE time_zero;"
        )
        db.execute(f"PRAGMA user_version = {BEFORE_DAY5}")
    node = node_at(tmp_path, clock)
    assert node.journal._db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    assert work(node) == []
    write_blastocyst(tmp_path / "inc", "1", DUE + HOUR)
    assert len(work(node)) == 1


@pytest.mark.parametrize(
    ("engines", "text"),
    [
        ({"segmenter": "i2cnet-small"}, "go together"),
        ({"graders": ["gardner-small"]}, "go together"),
        ({"segmenter": "a", "graders": ["b", "b"]}, "every name may stand once"),
    ],
)
def test_a_segmenter_and_graders_are_configured_together(tmp_path: Path, engines: dict, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        make_config(
            {
                "site": {"name": "lab", "node": "box"},
                "incubator": [{"name": "inc1", "path": tmp_path}],
                "mqtt": {"host": "127.0.0.1"},
                "storage": {"path": tmp_path},
                "engines": engines,
            }
        )


def test_a_model_of_another_task_is_no_segmenter() -> None:
    from monitor.config import Engines

    with pytest.raises(ConfigError, match=r"engines\.segmenter = 'amsnet-small': that model's task is 'blastocyst'"):
        load_models(Engines(threads=1, segmenter="amsnet-small", graders=("amsnet-small",)))


def test_engines_list_says_that_nothing_is_graded_where_no_model_of_day_5_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from engines.load import BUNDLED_MODELS, find_manifest
    from monitor.cli import main

    manifest = find_manifest("amsnet-small", BUNDLED_MODELS)
    (tmp_path / manifest.name).write_bytes(manifest.read_bytes())
    assert main(["engines", "list", "--models", str(tmp_path)]) == 0
    assert "day 5: no model here for grade and segmentation: nothing is graded" in capsys.readouterr().out


def test_the_demo_shows_results_of_day_5_beside_the_truth_and_no_column_without_them() -> None:
    pytest.importorskip("amqtt", reason="the extra `demo` is not installed")
    from rich.console import Console

    from monitor.demo import Board, Settings, _table
    from monitor.simulator import VirtualEmbryo

    seed = next(seed for seed in range(50) if VirtualEmbryo(seed).life.reaches_blastocyst)
    board = Board()
    embryo, frame = {"well": "1"}, {"hpi": 130.0, "planes": [0]}
    quality = {"flags": []}
    reading = {"embryo": embryo, "frame": frame, "blastocyst": None, "stage": None, "quality": quality}
    board.take("x/reading", {**reading, "occurred_at": "t"})

    def shown() -> str:
        console = Console(width=160, record=True)
        console.print(_table(board, Settings(seed=seed)))
        return console.export_text()

    assert "day 5" not in shown()
    graded = {"grade": {"expansion": 4, "icm": "A", "te": None}, "flags": ["zona_thick"], "outcome": "graded"}
    board.take("x/event", {"embryo": embryo, "day5": graded})
    assert "day 5" in shown() and "4A- (1 flags)" in shown()
    life = VirtualEmbryo(seed).life
    assert f"{life.phase_at(130.0):<5} {life.expansion_at(130.0)}{life.icm_grade}{life.te_grade}" in shown()
    board.take("x/event", {"embryo": embryo, "day5": {**graded, "grade": None, "outcome": "no_blastocyst"}})
    assert "none" in shown() and len(shown().splitlines()[1].rstrip()) <= 80


def test_the_demo_keeps_the_last_picture_of_each_well_and_says_where_it_lies(tmp_path: Path) -> None:
    pytest.importorskip("amqtt", reason="the extra `demo` is not installed")
    from rich.console import Console

    from monitor.demo import Board, _keep_pictures

    digest, gone = "ab" + "0" * 62, "cd" + "0" * 62
    (tmp_path / "storage" / "day5" / "ab").mkdir(parents=True)
    (tmp_path / "storage" / "day5" / "ab" / f"{digest}.png").write_bytes(b"picture")
    grade = {"expansion": 4, "icm": "A", "te": "B"}
    board = Board()
    for well, overlay in (("1", digest), ("2", gone), ("3", None)):
        day5 = {"grade": grade, "flags": [], "outcome": "graded", "overlay": overlay}
        board.take("x/event", {"embryo": {"well": well}, "day5": day5})
    console = Console(width=200, record=True)
    _keep_pictures(tmp_path / "kept", tmp_path / "storage", board, console)
    kept = tmp_path / "kept" / "well-1.png"
    assert [path.name for path in kept.parent.iterdir()] == [kept.name] and kept.read_bytes() == b"picture"
    assert console.export_text() == f"day 5, well 1: 4AB, {kept}\n"


def test_check_names_the_models_of_day_5_or_says_that_nothing_is_graded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import monitor.check

    config = make_config(
        {
            "site": {"name": "lab", "node": "box"},
            "incubator": [{"name": "inc1", "path": tmp_path}],
            "mqtt": {"host": "127.0.0.1", "port": 1},
            "storage": {"path": tmp_path},
        }
    )

    def lines(loaded: Loaded) -> str:
        monkeypatch.setattr(monitor.check, "load_models", lambda settings: loaded)
        return "\n".join(str(finding) for finding in monitor.check.check(config))

    with_models = lines(graded())
    assert all(f"{name} 0 on scripted" in with_models for name in ("parts", "one", "two"))
    assert "nothing is graded" not in with_models
    assert "no model of day 5 is configured" in lines(scripted())

"""The way of a frame, with real files, a real journal and a scripted engine."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
import pytest

from engines.load import Loaded
from engines.manifest import Stability
from engines.scripted_engine import ScriptedEngine
from monitor import fitting
from monitor.errors import StorageError
from monitor.journal import Journal
from monitor.simulator import VirtualEmbryo
from monitor.vocabulary import Outcome, Place
from tests.house import (
    PLANES_UM,
    START,
    FakeClock,
    node_over,
    picture,
    plane_path,
    scripted,
    take_all,
    write_frame,
)
from tests.staged import stage_manifest, staged_model

H = timedelta(hours=1)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(START + timedelta(days=6))


def test_a_whole_frame_becomes_one_reading_that_names_it(tmp_path: Path, clock: FakeClock) -> None:
    node = node_over(tmp_path, clock, insemination=START - 17 * H)
    write_frame(tmp_path / "inc", "3", START)
    (reading,) = take_all(node)
    assert reading.outcome is Outcome.JUDGED
    assert reading.embryo.embryo_id == "inc1/D1/3/20260105T080000Z"
    assert (reading.frame.hpi, reading.frame.hpi_source) == (17.0, "config")
    assert reading.frame.planes == PLANES_UM
    assert reading.frame.sources[0] == "D1/3/20260105T080000Z_F-45.jpg"
    assert reading.blastocyst is not None and reading.blastocyst.state_age_h is None
    assert (reading.seq, reading.revision, reading.supersedes, reading.boot_id) == (1, 1, None, "boot1")


def test_a_frame_is_told_once_however_often_the_folder_is_looked_over(tmp_path: Path, clock: FakeClock) -> None:
    node = node_over(tmp_path, clock)
    write_frame(tmp_path / "inc", "1", START)
    assert len(take_all(node)) == 1
    assert take_all(node) == []


def test_a_restart_between_any_two_frames_changes_no_reading(tmp_path: Path, clock: FakeClock) -> None:
    moments = [START + k * H for k in range(15)]
    (tmp_path / "straight").mkdir()
    (tmp_path / "broken").mkdir()
    node = node_over(tmp_path / "straight", clock)
    straight = []
    for at in moments:
        write_frame(tmp_path / "straight" / "inc", "1", at)
        write_frame(tmp_path / "broken" / "inc", "1", at)
    straight = [reading.body() for reading in take_all(node)]
    restarted = []
    for k in range(len(moments)):
        node = node_over(tmp_path / "broken", clock)
        (intake,) = node.intakes.values()
        intake.look()
        frame = intake.assemble(intake.due()[0])
        assert frame is not None
        restarted += [reading.body() for reading in node.pipeline.advance([frame]).readings]
        node.journal.close()
        assert len(restarted) == k + 1
    assert restarted == straight


def test_a_frame_that_could_not_be_committed_has_not_happened(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for at in (START, START + 7 * H, START + 8 * H):
        write_frame(tmp_path / "a" / "inc", "1", at)
        write_frame(tmp_path / "b" / "inc", "1", at)
    undisturbed = [reading.body() for reading in take_all(node_over(tmp_path / "a", clock))]
    node = node_over(tmp_path / "b", clock)
    good = Journal.commit
    faults = iter([True, False, True, True, False, False])  # of three frames, at each try

    def sometimes(self: Journal, *args: object) -> object:
        if next(faults):
            raise StorageError("disk full")
        return good(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Journal, "commit", sometimes)
    for _ in range(6):
        try:
            take_all(node)
        except StorageError:
            continue
    assert list(node.journal.bodies()) == undisturbed


def test_a_late_plane_makes_a_second_revision_and_steps_no_engine(tmp_path: Path, clock: FakeClock) -> None:
    engine = ScriptedEngine()
    node = node_over(tmp_path, clock, scripted(engine))
    write_frame(tmp_path / "inc", "1", START, PLANES_UM[:6])
    (first,) = take_all(node)
    assert first.frame.missing_planes == (45,)
    assert "missing_planes" in first.quality.flags
    calls = engine.calls
    write_frame(tmp_path / "inc", "1", START, PLANES_UM[6:])
    (second,) = take_all(node)
    assert engine.calls == calls
    assert (second.revision, second.supersedes, second.outcome) == (2, first.id, Outcome.REVISED)
    assert second.frame.missing_planes == ()
    assert second.blastocyst == first.blastocyst
    assert second.id != first.id


def test_a_late_plane_that_shows_the_same_pixels_as_another_is_still_a_late_plane(
    tmp_path: Path, clock: FakeClock
) -> None:
    node = node_over(tmp_path, clock)
    write_frame(tmp_path / "inc", "1", START, PLANES_UM[:6])
    take_all(node)
    twin = plane_path(tmp_path / "inc", "1", START, 30).read_bytes()
    plane_path(tmp_path / "inc", "1", START, 45).write_bytes(twin)
    (second,) = take_all(node)
    assert (second.revision, second.frame.missing_planes) == (2, ())


def test_a_named_lack_is_told_and_judged_when_its_planes_come_after_all(tmp_path: Path, clock: FakeClock) -> None:
    node = node_over(tmp_path, clock)
    write_frame(tmp_path / "inc", "1", START, PLANES_UM[:2])
    (lack,) = take_all(node)
    assert (lack.outcome, lack.blastocyst, lack.quality.fit) == (Outcome.LACKING, None, False)
    assert lack.frame.missing_planes == PLANES_UM[2:]
    write_frame(tmp_path / "inc", "1", START, PLANES_UM[2:])
    (whole,) = take_all(node)
    assert (whole.outcome, whole.revision, whole.supersedes) == (Outcome.JUDGED, 2, lack.id)
    assert whole.blastocyst is not None


def test_a_frame_older_than_the_last_one_judged_is_told_and_not_stepped(tmp_path: Path, clock: FakeClock) -> None:
    engine = ScriptedEngine()
    node = node_over(tmp_path, clock, scripted(engine))
    write_frame(tmp_path / "inc", "1", START + H)
    take_all(node)
    calls = engine.calls
    write_frame(tmp_path / "inc", "1", START)
    (late,) = take_all(node)
    assert (late.outcome, late.blastocyst, engine.calls) == (Outcome.OUT_OF_ORDER, None, calls)
    assert late.embryo.embryo_id.endswith("20260105T090000Z")
    retained = [row.retain for row in node.journal.outbox.pending(0, 10)]
    assert retained == [True, False], "an old frame must not replace the newest in the retained topic"


def test_a_touched_file_is_nothing_new_and_a_rewritten_one_is_a_flagged_revision(
    tmp_path: Path, clock: FakeClock
) -> None:
    node = node_over(tmp_path, clock)
    write_frame(tmp_path / "inc", "1", START)
    (first,) = take_all(node)
    path = plane_path(tmp_path / "inc", "1", START, 0)
    os.utime(path, (1, 1))
    assert take_all(node) == []
    node.journal.close()
    node = node_over(tmp_path, clock)
    assert node.intakes["inc1"].look() == 0, "the touch itself is remembered"
    write_frame(tmp_path / "inc", "1", START, (0,), level=60)
    (second,) = take_all(node)
    assert second.revision == 2
    assert "source_changed" in second.quality.flags
    assert second.blastocyst == first.blastocyst


def test_a_broken_file_is_put_aside_with_its_reason_and_heals_when_rewritten(tmp_path: Path, clock: FakeClock) -> None:
    node = node_over(tmp_path, clock)
    write_frame(tmp_path / "inc", "1", START)
    path = plane_path(tmp_path / "inc", "1", START, 15)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    (first,) = take_all(node)
    assert first.frame.missing_planes == (15,)
    assert set(first.quality.flags) >= {"broken_planes", "missing_planes"}
    assert path.exists(), "the picture stays where it is"
    path.write_bytes(whole)
    (second,) = take_all(node)
    assert (second.revision, second.frame.missing_planes) == (2, ())


def test_a_dark_frame_is_told_unfit_without_a_number_and_moves_no_memory(tmp_path: Path, clock: FakeClock) -> None:
    engine = ScriptedEngine()
    node = node_over(tmp_path, clock, scripted(engine))
    write_frame(tmp_path / "inc", "1", START, level=0)
    (reading,) = take_all(node)
    assert (reading.outcome, reading.blastocyst, engine.calls) == (Outcome.UNFIT, None, 0)
    assert reading.quality.flags == ("dark",)


def test_an_engine_fault_loses_one_frame_of_one_embryo_only(tmp_path: Path, clock: FakeClock) -> None:
    def script(_state: object, inputs: dict[str, np.ndarray]) -> float:
        return float("nan") if inputs["x"].mean() > 0.6 else 0.5

    node = node_over(tmp_path, clock, scripted(ScriptedEngine(script=script)))
    write_frame(tmp_path / "inc", "1", START, level=100)
    write_frame(tmp_path / "inc", "2", START, level=200)
    (intake,) = node.intakes.values()
    intake.look()
    frames = [intake.assemble(name) for name in intake.due()]
    told = node.pipeline.advance([frame for frame in frames if frame is not None]).readings
    assert [reading.outcome for reading in told] == [Outcome.JUDGED, Outcome.ENGINE_FAILED]
    assert told[1].blastocyst is None
    assert "not_finite" in told[1].quality.flags


def test_an_engine_that_raises_costs_the_frame_and_leaves_the_memory(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    write_frame(tmp_path / "a" / "inc", "1", START)
    write_frame(tmp_path / "a" / "inc", "1", START + 7 * H)
    for at in (START, START + H, START + 7 * H):
        write_frame(tmp_path / "b" / "inc", "1", at)
    without = take_all(node_over(tmp_path / "a", clock))
    failing = take_all(node_over(tmp_path / "b", clock, scripted(ScriptedEngine(faults={1: "out of memory"}))))
    assert [reading.outcome for reading in failing] == [Outcome.JUDGED, Outcome.ENGINE_FAILED, Outcome.JUDGED]
    assert failing[1].quality.flags == ("engine_failed",)
    assert failing[2].blastocyst == without[1].blastocyst


def test_segments_without_a_frame_are_said_in_the_reading(tmp_path: Path, clock: FakeClock) -> None:
    node = node_over(tmp_path, clock)
    for hours in (0, 6, 19):
        write_frame(tmp_path / "inc", "1", START + hours * H)
    told = [reading.blastocyst for reading in take_all(node)]
    assert [(b.segments_missed, b.state_age_h) for b in told if b] == [(0, None), (0, 6.0), (1, 13.0)]


def test_a_frame_from_before_a_lack_that_began_the_run_is_judged(tmp_path: Path, clock: FakeClock) -> None:
    node = node_over(tmp_path, clock)
    write_frame(tmp_path / "inc", "1", START + H, PLANES_UM[:1])
    take_all(node)
    write_frame(tmp_path / "inc", "1", START)
    (reading,) = take_all(node)
    assert (reading.outcome, reading.embryo.embryo_id) == (Outcome.JUDGED, "inc1/D1/1/20260105T090000Z")


def test_a_frame_later_than_anything_trained_on_says_so(tmp_path: Path, clock: FakeClock) -> None:
    clock.pass_s(7 * 86400)
    node = node_over(tmp_path, clock)
    for hours in range(0, 181, 20):
        write_frame(tmp_path / "inc", "1", START + hours * H)
    flagged = [(r.frame.captured_at, "beyond_training" in r.quality.flags) for r in take_all(node)]
    assert [(at - START) / H for at, beyond in flagged if beyond and at] == [180]


def test_a_gap_over_24_hours_starts_a_run_that_asks_for_confirmation(tmp_path: Path, clock: FakeClock) -> None:
    node = node_over(tmp_path, clock)
    write_frame(tmp_path / "inc", "1", START)
    write_frame(tmp_path / "inc", "1", START + 25 * H)
    first, second = take_all(node)
    assert first.embryo.embryo_id != second.embryo.embryo_id
    assert "run_unconfirmed" in second.quality.flags
    kinds = [row.kind for row in node.journal.outbox.pending(0, 10)]
    assert kinds == ["reading", "clear", "reading"]


def test_a_frame_number_used_again_by_the_next_embryo_in_a_well_is_another_frame(
    tmp_path: Path, clock: FakeClock
) -> None:
    pattern = r"(?P<dish>[^/]+)/w(?P<well>\d+)_(?P<plane>-?\d+)_(?P<run>\d+)\.jpg"

    def drop(run: int, planes_um: tuple[int, ...], level: int) -> None:
        for plane_um in planes_um:
            path = tmp_path / "inc" / "D1" / f"w1_{plane_um}_{run}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(level, seed=run + level + plane_um))

    entry = tmp_path / "insemination.csv"
    entry.write_text("dish,well,time\nD1,1,2026-01-01T00:00:00Z\n")
    node = node_over(tmp_path, clock, layout=pattern, insemination=str(entry))
    drop(1, PLANES_UM, 100)
    drop(2, PLANES_UM, 101)
    old = take_all(node)
    entry.write_text("dish,well,time\nD1,1,2026-01-09T00:00:00Z\n")
    node.time_zeros["inc1"].refresh()
    for path in (tmp_path / "inc" / "D1").glob("*"):
        path.unlink()
    drop(3, PLANES_UM, 103)
    drop(1, PLANES_UM[:5], 130)
    new = take_all(node)
    assert {reading.embryo.embryo_id for reading in old} == {"inc1/D1/1/run1"}
    assert [(r.frame.run, len(r.frame.planes), r.revision) for r in new] == [(1, 5, 1), (3, 7, 1)]
    assert {reading.embryo.embryo_id for reading in new} == {"inc1/D1/1/run1.2"}


def test_a_damaged_memory_is_said_and_never_reset_in_silence(tmp_path: Path, clock: FakeClock) -> None:
    node = node_over(tmp_path, clock)
    write_frame(tmp_path / "inc", "1", START)
    take_all(node)
    node.journal.close()
    (state,) = (tmp_path / "store" / "states").glob("??/*")
    state.write_bytes(state.read_bytes()[:-1] + b"?")
    node = node_over(tmp_path, clock)
    write_frame(tmp_path / "inc", "1", START + H)
    write_frame(tmp_path / "inc", "1", START + 2 * H)
    first, second = take_all(node)
    assert "memory_lost" in first.quality.flags
    assert "memory_lost" not in second.quality.flags


def test_an_embryos_memory_of_another_model_is_refused_by_name(tmp_path: Path, clock: FakeClock) -> None:
    from engines.scripted_engine import scripted_spec

    node = node_over(tmp_path, clock)
    write_frame(tmp_path / "inc", "1", START)
    take_all(node)
    node.journal.close()
    other = ScriptedEngine(scripted_spec())
    spec = other.spec
    object.__setattr__(spec, "state_id", "f" * 64)
    node = node_over(tmp_path, clock, scripted(other))
    write_frame(tmp_path / "inc", "1", START + H)
    (reading,) = take_all(node)
    assert "memory_of_other_model" in reading.quality.flags


def test_state_files_are_replaced_not_piled_up(tmp_path: Path, clock: FakeClock) -> None:
    node = node_over(tmp_path, clock)
    for hours in range(0, 40, 2):
        write_frame(tmp_path / "inc", "1", START + hours * H)
    take_all(node)
    assert len(list((tmp_path / "store" / "states").glob("??/*"))) == 1


def test_one_frame_writes_one_state_in_six_hours(tmp_path: Path, clock: FakeClock) -> None:
    node = node_over(tmp_path, clock)
    digests = set()
    for minutes in range(0, 360, 10):
        write_frame(tmp_path / "inc", "1", START + timedelta(minutes=minutes))
        take_all(node)
        digests |= node.journal.state_digests()
    assert len(digests) == 1


def test_a_reading_has_exactly_the_keys_of_the_contract(tmp_path: Path, clock: FakeClock) -> None:
    node = node_over(tmp_path, clock)
    write_frame(tmp_path / "inc", "1", START)
    (reading,) = take_all(node)
    body = json.loads(reading.body())
    assert set(body) == {
        *("schema", "id", "seq", "boot_id", "occurred_at", "revision", "supersedes", "embryo", "frame", "outcome"),
        *("blastocyst", "stage", "day5", "lacks", "quality", "engines", "intended_use"),
    }
    assert set(body["embryo"]) == {"incubator", "dish", "well", "embryo_id"}
    assert set(body["frame"]) == {
        *("captured_at", "run", "hpi", "hpi_source", "planes", "missing_planes", "sources"),
    }
    assert set(body["blastocyst"]) == {"probability", "state_age_h", "segments_missed", "spread", "calibration"}
    assert set(body["quality"]) == {"fit", "flags", "measured"}
    assert set(body["quality"]["measured"]) == {
        *("mean_gray", "contrast_gray", "sharpness", "sharpest_plane_um", "embryo_ratio")
    }
    assert (body["schema"], body["occurred_at"]) == ("pellucid.reading/1", "2026-01-05T08:00:00Z")


def test_seq_has_no_gaps_over_restarts_and_embryos(tmp_path: Path, clock: FakeClock) -> None:
    seqs = []
    for k in range(3):
        node = node_over(tmp_path, clock, boot_id=f"boot{k}")
        for well in ("1", "2"):
            write_frame(tmp_path / "inc", well, START + k * H)
        seqs += [reading.seq for reading in take_all(node)]
        node.journal.close()
    assert seqs == [1, 2, 3, 4, 5, 6]


def test_the_outbox_gives_the_retained_readings_of_open_runs_that_do_not_wait(tmp_path: Path, clock: FakeClock) -> None:
    node = node_over(tmp_path, clock)
    for well in ("1", "2"):
        write_frame(tmp_path / "inc", well, START)
    take_all(node)
    assert node.journal.outbox.retained() == []
    rows = node.journal.outbox.pending(0, 10)
    node.journal.outbox.remove([rows[0].row_id])
    (row,) = node.journal.outbox.retained()
    assert (row.topic, row.row_id, row.retain) == ("embryo/inc1/D1/1/reading", 0, True)
    assert row.body == rows[0].body


def test_runs_of_a_well_are_recalled_as_they_were(tmp_path: Path, clock: FakeClock) -> None:
    node = node_over(tmp_path, clock, insemination=START - H)
    write_frame(tmp_path / "inc", "1", START)
    take_all(node)
    (run,) = node.journal.runs(Place("inc1", "D1", "1"))
    assert run.ended is None
    assert (run.first.captured_at, run.stepped_order) == (START, START.timestamp())
    assert run.insemination == START - H


def test_a_frame_dated_in_the_future_is_put_aside_and_shuts_out_nobody(tmp_path: Path, clock: FakeClock) -> None:
    node = node_over(tmp_path, clock)
    write_frame(tmp_path / "inc", "1", START)
    write_frame(tmp_path / "inc", "1", START.replace(year=2062))
    write_frame(tmp_path / "inc", "1", START + H)
    told = take_all(node)
    assert [reading.outcome for reading in told] == [Outcome.JUDGED] * 2
    assert {reading.embryo.embryo_id for reading in told} == {"inc1/D1/1/20260105T080000Z"}


def test_a_frame_of_the_next_embryo_dated_back_never_goes_to_the_embryo_before(
    tmp_path: Path, clock: FakeClock
) -> None:
    entry = tmp_path / "insemination.csv"
    entry.write_text("dish,well,time\nD1,1,2026-01-05T07:00:00Z\n")
    engine = ScriptedEngine()
    node = node_over(tmp_path, clock, scripted(engine), insemination=str(entry))
    write_frame(tmp_path / "inc", "1", START)
    write_frame(tmp_path / "inc", "1", START + H)
    take_all(node)
    entry.write_text("dish,well,time\nD1,1,2026-01-09T07:00:00Z\n")
    node.time_zeros["inc1"].refresh()
    write_frame(tmp_path / "inc", "1", START + 96 * H)
    (first,) = take_all(node)
    write_frame(tmp_path / "inc", "1", START + 48 * H)  # the clock was set back to between the two
    (odd,) = take_all(node)
    assert odd.embryo.embryo_id == first.embryo.embryo_id == "inc1/D1/1/20260109T080000Z"
    assert odd.outcome is Outcome.OUT_OF_ORDER
    calls = engine.calls
    write_frame(tmp_path / "inc", "1", START + H / 2)  # a late word of the embryo before
    (late,) = take_all(node)
    assert late.embryo.embryo_id == "inc1/D1/1/20260105T080000Z"
    assert (late.outcome, late.blastocyst, engine.calls) == (Outcome.OUT_OF_ORDER, None, calls)


def test_files_put_aside_for_a_wrong_layout_are_read_when_it_is_put_right(tmp_path: Path, clock: FakeClock) -> None:
    write_frame(tmp_path / "inc", "1", START)
    wrong = node_over(tmp_path, clock, layout="single-moment")
    assert take_all(wrong) == []
    wrong.journal.close()
    assert [reading.outcome for reading in take_all(node_over(tmp_path, clock))] == [Outcome.JUDGED]


def test_a_revision_keeps_what_qualified_the_number_it_repeats(tmp_path: Path, clock: FakeClock) -> None:
    node = node_over(tmp_path, clock, cadence_min=10)
    write_frame(tmp_path / "inc", "1", START)
    write_frame(tmp_path / "inc", "1", START + H, PLANES_UM[:6])
    first = take_all(node)[-1]
    assert first.quality.flags == ("after_gap", "missing_planes")
    write_frame(tmp_path / "inc", "1", START + H, PLANES_UM[6:])
    (second,) = take_all(node)
    assert second.quality.flags == ("after_gap",)


def test_a_late_plane_whose_stack_has_been_archived_is_told_beside_what_was_judged(
    tmp_path: Path, clock: FakeClock
) -> None:
    node = node_over(tmp_path, clock)
    write_frame(tmp_path / "inc", "1", START, PLANES_UM[:6])
    (first,) = take_all(node)
    for plane_um in PLANES_UM[:6]:
        plane_path(tmp_path / "inc", "1", START, plane_um).unlink()
    write_frame(tmp_path / "inc", "1", START, PLANES_UM[6:])
    (second,) = take_all(node)
    assert (second.outcome, second.blastocyst) == (Outcome.REVISED, first.blastocyst)
    assert (second.frame.planes, second.frame.missing_planes) == (PLANES_UM, ())
    assert second.quality.fit and second.quality.flags == ()
    assert second.frame.sources[:6] == first.frame.sources


def test_a_video_whose_time_file_misses_a_frame_is_judged_on_in_the_open_segment(
    tmp_path: Path, clock: FakeClock
) -> None:
    root = tmp_path / "inc"
    video = root / "embryo_dataset" / "V1"
    video.mkdir(parents=True)
    times = root / "embryo_dataset_time_elapsed"
    times.mkdir()
    known = [run for run in range(1, 50) if run not in (30, 31)]
    (times / "V1_timeElapsed.csv").write_text("frame_index,time\n" + "".join(f"{run},{run * 0.25}\n" for run in known))
    for run in range(1, 50):
        (video / f"D2013.01.28_S0717_I132_WELL7_RUN{run}.jpeg").write_bytes(picture(seed=run))
    told = take_all(node_over(tmp_path, clock, scripted(counts=(1,)), layout="nantes", planes=[0]))
    assert [reading.outcome for reading in told] == [Outcome.JUDGED] * 49
    unknown = [reading for reading in told if "clock_unknown" in reading.quality.flags]
    assert [(r.frame.run, r.frame.hpi, r.frame.hpi_source) for r in unknown] == [
        (30, None, "unknown"),
        (31, None, "unknown"),
    ]
    assert all(r.blastocyst is not None and r.blastocyst.state_age_h is None for r in unknown)


def test_an_insemination_entry_left_from_long_ago_gives_no_hour_and_no_second_run(
    tmp_path: Path, clock: FakeClock
) -> None:
    node = node_over(tmp_path, clock, insemination=START - 1000 * H)
    write_frame(tmp_path / "inc", "1", START)
    write_frame(tmp_path / "inc", "1", START + H)
    told = take_all(node)
    assert len({reading.embryo.embryo_id for reading in told}) == 1
    assert [reading.frame.hpi for reading in told] == [None, None]


def looks_at_the_embryo() -> Loaded:
    """The scripted engine, its pictures cut around the embryo."""
    loaded = scripted()
    how = loaded.manifest.preprocess.model_copy(update={"crop": "embryo"})
    return replace(loaded, manifest=loaded.manifest.model_copy(update={"preprocess": how}))


def write_planes(root: Path, at: datetime, encoded: Callable[[int], bytes]) -> None:
    for plane_um in PLANES_UM:
        path = plane_path(root, "1", at, plane_um)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(plane_um))


def test_where_no_embryo_is_found_the_reading_says_so_and_what_is_found_is_not_remarked_upon(
    tmp_path: Path, clock: FakeClock
) -> None:
    node = node_over(tmp_path, clock, looks_at_the_embryo())
    planes = dict(zip(PLANES_UM, VirtualEmbryo(11).stack(40.0, 250), strict=True))
    write_planes(tmp_path / "inc", START, lambda plane_um: cv2.imencode(".jpg", planes[plane_um])[1].tobytes())
    write_planes(tmp_path / "inc", START + H, lambda plane_um: picture(100, 250, seed=plane_um + 45))
    embryo, noise = take_all(node)
    assert embryo.outcome is noise.outcome is Outcome.JUDGED
    assert "embryo_not_located" not in embryo.quality.flags
    assert "embryo_not_located" in noise.quality.flags


def test_a_picture_that_the_locator_cannot_make_anything_of_stops_no_other_frame(
    tmp_path: Path, clock: FakeClock
) -> None:
    """A straight edge of glare over grain, as fit as any: it once ended the process, again at every start."""
    node = node_over(tmp_path, clock, looks_at_the_embryo())
    gray = np.clip(np.random.default_rng(0).normal(20, 25, (250, 250)), 0, 255).astype(np.uint8)
    gray[:, 125:] = 255
    write_planes(tmp_path / "inc", START, lambda plane_um: cv2.imencode(".png", gray)[1].tobytes())
    write_planes(tmp_path / "inc", START + H, lambda plane_um: picture(100, 250, seed=plane_um + 45))
    edge, after = take_all(node)
    assert edge.quality.fit and "embryo_not_located" in edge.quality.flags
    assert edge.outcome is after.outcome is Outcome.JUDGED


def test_a_picture_too_small_to_find_an_embryo_in_is_unfit_and_costs_no_engine_failure(
    tmp_path: Path, clock: FakeClock
) -> None:
    """Only where the model looks at the embryo; the others judge it as ever."""
    node = node_over(tmp_path, clock, looks_at_the_embryo())
    write_frame(tmp_path / "inc", "1", START)
    (reading,) = take_all(node)
    assert reading.outcome is Outcome.UNFIT and reading.quality.flags == ("too_small",)
    assert reading.blastocyst is None and not reading.quality.fit


def test_the_embryo_is_looked_for_once_a_frame(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven planes, two models, one search."""
    searched = []
    real_search = fitting.locate_in
    monkeypatch.setattr(fitting, "locate_in", lambda images: searched.append(len(images)) or real_search(images))
    manifest = stage_manifest()
    cropping = manifest.model_copy(update={"preprocess": manifest.preprocess.model_copy(update={"crop": "embryo"})})
    node = node_over(tmp_path, clock, replace(looks_at_the_embryo(), stage=staged_model(cropping)))
    write_planes(tmp_path / "inc", START, lambda plane_um: picture(100, 250, seed=plane_um + 45))
    (reading,) = take_all(node)
    assert reading.stage is not None
    assert searched == [7]


def test_too_little_data_is_said_in_the_reading(tmp_path: Path, clock: FakeClock) -> None:
    loaded = scripted()
    told = Stability(plane_subsets_um=((-45, 0, 45), (-15, 15)), most_spread=1.0, least_segments=2)
    loaded = replace(loaded, manifest=loaded.manifest.model_copy(update={"stability": told}))
    node = node_over(tmp_path, clock, loaded)
    write_frame(tmp_path / "inc", "1", START)
    write_frame(tmp_path / "inc", "1", START + 7 * H)
    young, old = take_all(node)
    assert "not_enough_data" in young.quality.flags and "not_enough_data" not in old.quality.flags
    assert young.blastocyst is not None and young.blastocyst.spread is not None

"""The stage on its way of a frame: told in the reading, remembered over any restart, never in the blastocyst's way."""

from __future__ import annotations

import json
import sqlite3
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from engines.contract import EngineError
from engines.stages import StageFrame, StagePolicy
from monitor.database import BEFORE_FEATURES, SCHEMA_VERSION
from monitor.node import Node
from monitor.stages import SNAPSHOT_EVERY
from monitor.vocabulary import PHASES, Outcome, Reading
from tests.house import PLANES_UM, START, FakeClock, node_over, scripted, take_all, write_frame
from tests.staged import GRAYS_A_PHASE, encoder_of, stage_manifest, staged, staged_model

QUARTER = timedelta(minutes=15)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(START + timedelta(days=6))


def level_of(phase: str) -> int:
    """The brightness that the scripted model takes for a phase; dark and glaring ones would not be judged."""
    return round((PHASES.index(phase) + 0.5) * GRAYS_A_PHASE)


def write_course(root: Path, phases: list[str], well: str = "1", first: int = 0) -> None:
    for number, phase in enumerate(phases, start=first):
        write_frame(root, well, START + number * QUARTER, level=level_of(phase))


COURSE = ["t2"] * 10 + ["t4"] * 10 + ["t8"] * 10


def bodies(readings: list[Reading]) -> list[str]:
    return [reading.model_copy(update={"seq": None, "boot_id": None}).body() for reading in readings]


def test_a_reading_tells_the_stage_with_exactly_the_keys_of_the_contract(tmp_path: Path, clock: FakeClock) -> None:
    write_course(tmp_path / "inc", COURSE)
    told = take_all(node_over(tmp_path, clock, staged(), insemination=START - timedelta(hours=26)))
    stage = json.loads(told[-1].body())["stage"]
    assert set(stage) == {
        *("live", "live_probability", "revised", "probabilities", "onsets_h", "onsets_sd_h", "onsets_since"),
        *("stepped_back", "intervals_h", "intervals_sd_h"),
    }
    assert (stage["live"], stage["revised"], stage["live_probability"]) == ("t8", "t8", 0.9)
    assert list(stage["probabilities"]) == list(PHASES)
    assert stage["onsets_since"] == "insemination"
    # the scripted head answers with a mean of three frames: it is two late, and passes t3, t5 and t7 on its way
    assert (stage["onsets_h"]["t4"], stage["onsets_h"]["t8"]) == (29.0, 31.5)
    assert stage["intervals_h"]["s2"] == stage["onsets_h"]["t4"] - stage["onsets_h"]["t3"]
    assert list(stage["onsets_h"]) == list(stage["onsets_sd_h"]) == ["t3", "t4", "t5", "t7", "t8"]
    assert all(0 < sd_h < 1 for sd_h in stage["onsets_sd_h"].values())
    assert set(told[-1].engines) == {"scripted", "scripted-stage"}


def test_onsets_are_counted_from_the_first_frame_where_time_zero_is_unknown(tmp_path: Path, clock: FakeClock) -> None:
    write_course(tmp_path / "inc", COURSE)
    stage = take_all(node_over(tmp_path, clock, staged()))[-1].stage
    assert stage is not None and stage.onsets_since == "first_frame"
    assert (stage.onsets_h["t4"], stage.onsets_h["t8"]) == (3.0, 5.5)


def test_without_a_stage_model_a_reading_has_none(tmp_path: Path, clock: FakeClock) -> None:
    write_course(tmp_path / "inc", ["t2"])
    (reading,) = take_all(node_over(tmp_path, clock, scripted()))
    assert reading.stage is None


@pytest.mark.parametrize("killed_after", [1, 7, SNAPSHOT_EVERY - 1, SNAPSHOT_EVERY, SNAPSHOT_EVERY + 5])
def test_a_restart_after_any_frame_gives_the_same_readings(tmp_path: Path, clock: FakeClock, killed_after: int) -> None:
    phases = ["t2"] * 20 + ["t4"] * 20 + ["t8"] * 8
    for name in ("straight", "killed"):
        (tmp_path / name).mkdir()
        write_course(tmp_path / name / "inc", phases[:killed_after])
    nodes = {name: node_over(tmp_path / name, clock, staged()) for name in ("straight", "killed")}
    said = {name: take_all(node) for name, node in nodes.items()}
    nodes["killed"].journal.close()  # what is committed is all that is left
    nodes["killed"] = node_over(tmp_path / "killed", clock, staged())
    for name, node in nodes.items():
        write_course(tmp_path / name / "inc", phases[killed_after:], first=killed_after)
        said[name] += take_all(node)
    assert len(said["straight"]) == len(phases)
    assert bodies(said["straight"]) == bodies(said["killed"])


def stored_states(root: Path) -> list[Path]:
    return list((root / "store" / "states").glob("??/*"))


def test_a_lost_snapshot_costs_nothing_but_time(tmp_path: Path, clock: FakeClock) -> None:
    """The journal keeps every frame's vector: the memory is made again from the first one."""
    phases = ["t2"] * 20 + ["t4"] * 20
    write_course(tmp_path / "inc", phases)
    node = node_over(tmp_path, clock, staged())
    straight = take_all(node)
    digest = node.journal.state_digest(straight[0].embryo.embryo_id, "scripted-stage")
    node.journal.close()
    (snapshot,) = (path for path in stored_states(tmp_path) if path.name == digest)
    snapshot.write_bytes(b"torn")
    write_course(tmp_path / "inc", ["t4"], first=len(phases))
    node = node_over(tmp_path, clock, staged())
    (after,) = take_all(node)
    assert "memory_lost" not in after.quality.flags
    assert after.stage is not None and straight[-1].stage is not None
    assert after.stage.onsets_h == straight[-1].stage.onsets_h


def test_a_snapshot_is_written_once_in_36_frames_and_replaced(tmp_path: Path, clock: FakeClock) -> None:
    write_course(tmp_path / "inc", ["t4"] * (2 * SNAPSHOT_EVERY + 1))
    node = node_over(tmp_path, clock, staged())
    take_all(node)
    embryo_id = "inc1/D1/1/20260105T080000Z"
    assert node.journal.state_digest(embryo_id, "scripted-stage") is not None
    assert len(stored_states(tmp_path)) == 2  # the stage's and the blastocyst's


def vectors(node: Node, embryo_id: str = "inc1/D1/1/20260105T080000Z", state_id: str = "5" * 64) -> int:
    return len(node.journal.features.of(embryo_id, "scripted-stage", state_id, 0))


def test_the_vectors_of_a_run_go_when_it_ends(tmp_path: Path, clock: FakeClock) -> None:
    write_course(tmp_path / "inc", ["t2"] * 3)
    node = node_over(tmp_path, clock, staged())
    take_all(node)
    assert vectors(node) == 3
    write_frame(tmp_path / "inc", "1", START + timedelta(hours=30))
    take_all(node)
    assert vectors(node) == 0


def test_frames_taken_by_other_weights_are_refused_by_name_and_once(tmp_path: Path, clock: FakeClock) -> None:
    write_course(tmp_path / "inc", ["t2"] * 3)
    node = node_over(tmp_path, clock, staged())
    take_all(node)
    flags = []
    for number in (3, 4):  # each after a restart, without a snapshot between
        node.journal.close()
        node = node_over(tmp_path, clock, staged(staged_model(stage_manifest("7" * 64))))
        write_course(tmp_path / "inc", ["t2"], first=number)
        (reading,) = take_all(node)
        flags.append("memory_of_other_model" in reading.quality.flags)
    assert flags == [True, False]


def test_a_stage_model_that_fails_leaves_the_blastocysts_answer_and_its_own_memory(
    tmp_path: Path, clock: FakeClock
) -> None:
    loaded = staged()
    encoder_of(loaded).faults.add(2)
    write_course(tmp_path / "inc", ["t2"] * 4)
    node = node_over(tmp_path, clock, loaded)
    told = take_all(node)
    assert [reading.outcome for reading in told] == [Outcome.JUDGED] * 4
    assert [reading.stage is None for reading in told] == [False, False, True, False]
    assert all(reading.blastocyst is not None for reading in told)
    assert "stage_failed" in told[2].quality.flags
    assert vectors(node) == 3


def test_planes_that_are_not_there_have_no_say_in_the_stage(tmp_path: Path, clock: FakeClock) -> None:
    """A missing plane is filled for a model that needs all; this one is told which are really there."""
    for plane_um in PLANES_UM[:6]:
        write_frame(tmp_path / "inc", "1", START, (plane_um,), level=level_of("t4"))
    node = node_over(tmp_path, clock, staged())
    take_all(node)
    (frame,) = node.journal.features.of("inc1/D1/1/20260105T080000Z", "scripted-stage", "5" * 64, 0)
    assert frame.feature[1] == 6


def test_a_revision_repeats_what_was_said_of_the_stage(tmp_path: Path, clock: FakeClock) -> None:
    node = node_over(tmp_path, clock, staged())
    write_frame(tmp_path / "inc", "1", START, PLANES_UM[:6])
    (first,) = take_all(node)
    write_frame(tmp_path / "inc", "1", START, PLANES_UM[6:])
    (second,) = take_all(node)
    assert (second.outcome, second.stage) == (Outcome.REVISED, first.stage)
    assert vectors(node) == 1


def test_a_count_that_falls_is_told_and_the_revised_label_stays(tmp_path: Path, clock: FakeClock) -> None:
    write_course(tmp_path / "inc", ["t2"] * 8 + ["t4"] * 12 + ["t2"] * 8)
    told = take_all(node_over(tmp_path, clock, staged()))
    stages = [reading.stage for reading in told if reading.stage is not None]
    assert not any(stage.stepped_back for stage in stages[:20])
    assert stages[-1].stepped_back
    assert stages[-1].live == "t2"


def test_two_embryos_interleaved_are_told_as_each_alone(tmp_path: Path, clock: FakeClock) -> None:
    courses = {"1": ["t2"] * 6 + ["t4"] * 6, "2": ["t8"] * 6 + ["tM"] * 6}
    alone = {}
    for well, course in courses.items():
        (tmp_path / well).mkdir()
        write_course(tmp_path / well / "inc", course, well)
        alone[well] = [reading.stage for reading in take_all(node_over(tmp_path / well, clock, staged()))]
    for well, course in courses.items():
        write_course(tmp_path / "inc", course, well)
    node = node_over(tmp_path, clock, staged())
    (intake,) = node.intakes.values()
    intake.look(full=True)
    together: dict[str, list[object]] = {"1": [], "2": []}
    while due := intake.due():
        frames = [frame for name in due if (frame := intake.assemble(name)) is not None]
        for reading in node.pipeline.advance(frames).readings:
            together[reading.embryo.well].append(reading.stage)
        for frame in frames:
            intake.done(frame)
    assert together == alone


def test_a_journal_from_before_there_were_stages_goes_on(tmp_path: Path, clock: FakeClock) -> None:
    write_course(tmp_path / "inc", ["t2"])
    node = node_over(tmp_path, clock, scripted())
    take_all(node)
    node.journal.close()
    with sqlite3.connect(tmp_path / "store" / "journal.sqlite") as db:
        for later in ("feature", "judged", "day5", "audit", "command", "assessment", "time_zero"):
            db.execute(f"DROP TABLE {later}")
        db.execute(f"PRAGMA user_version = {BEFORE_FEATURES}")
    db.close()
    write_course(tmp_path / "inc", ["t2"], first=1)
    node = node_over(tmp_path, clock, staged())
    (reading,) = take_all(node)
    assert reading.stage is not None and reading.stage.live == "t2"
    node.journal.close()
    with sqlite3.connect(tmp_path / "store" / "journal.sqlite") as db:
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    db.close()


def test_a_gap_in_the_kept_vectors_is_never_stepped_over_in_silence(tmp_path: Path, clock: FakeClock) -> None:
    write_course(tmp_path / "inc", ["t2"] * 4)
    node = node_over(tmp_path, clock, staged())
    take_all(node)
    node.journal.close()
    with sqlite3.connect(tmp_path / "store" / "journal.sqlite") as db:
        db.execute("DELETE FROM feature WHERE number = 1")
    db.close()
    write_course(tmp_path / "inc", ["t2"], first=4)
    (reading,) = take_all(node_over(tmp_path, clock, staged()))
    assert "memory_lost" in reading.quality.flags


def test_a_model_of_another_task_is_no_stage_model() -> None:
    with pytest.raises(EngineError, match="no stage model"):
        StagePolicy(scripted())


@pytest.mark.parametrize("hours_told", [True, False])
def test_a_head_that_is_not_to_be_told_the_hour_is_not(hours_told: bool) -> None:
    """Whoever knows the hour leans on it; the onsets are still told in hours."""
    loaded = staged_model(stage_manifest().model_copy(update={"hours_told": hours_told}))
    policy, given = StagePolicy(loaded), []
    engine = loaded.engine
    step = engine.step
    engine.step = lambda states, inputs: given.append(inputs) or step(states, inputs)  # type: ignore[method-assign]
    policy.take([policy.start()], [StageFrame(np.array([40.0, 7.0], np.float32), 30.0, 0.0)])
    assert (float(given[0]["hours"][0, 0]), float(given[0]["hours_known"][0, 0])) == (
        (30.0, 1.0) if hours_told else (0.0, 0.0)
    )

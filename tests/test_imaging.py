"""What frames say of camera and clock, through the daemon: drift that survives a restart, a clock that runs ahead."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import monitor.drift
import monitor.imaging
from monitor.errors import StorageError
from monitor.fitting import Fitting
from monitor.vocabulary import Outcome
from tests.graded import drawn_planes
from tests.house import PLANES_UM, START, plane_path, scripted_manifest, write_frame
from tests.test_daemon import Scene

H = timedelta(hours=1)
MIN = timedelta(minutes=1)


def write_live(scene: Scene, well: str, named: datetime, level: int = 100) -> None:
    """A frame that is finished now and that its name dates `named`."""
    write_frame(scene.root, well, named, level=level)
    for plane_um in PLANES_UM:
        os.utime(plane_path(scene.root, well, named, plane_um), (scene.clock.at.timestamp(),) * 2)


def ended(scene: Scene) -> None:
    scene.daemon.publisher.stop(0)
    scene.daemon.node.journal.close()


def test_an_incubator_silent_for_3_h_that_resumes_20_min_ahead_keeps_its_embryo_and_shows_gap_and_skew(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path, cadence_min=10)
    for _ in range(3):
        write_live(scene, "1", scene.clock.at)
        scene.turns(10, seconds=60)
    assert scene.value("clock_skew_seconds", incubator="inc1") == 0
    scene.turns(180, seconds=60)
    for _ in range(4):
        write_live(scene, "1", scene.clock.at + 20 * MIN)
        scene.turns(10, seconds=60)
    assert [reading.outcome for reading in scene.told] == [Outcome.JUDGED] * 7
    assert len({reading.embryo.embryo_id for reading in scene.told}) == 1
    assert [reading.quality.flags for reading in scene.told] == [
        *[()] * 3,
        ("after_gap", "clock_ahead"),
        *[("clock_ahead",)] * 3,
    ]
    assert scene.value("clock_skew_seconds", incubator="inc1") == 1200
    ended(scene)


def test_a_skew_that_the_operator_has_written_down_is_flagged_no_more_and_stays_to_be_seen(tmp_path: Path) -> None:
    scene = Scene(tmp_path, clock_skew_s=1200)
    write_live(scene, "1", scene.clock.at + 20 * MIN)
    scene.turns(6)
    (reading,) = scene.told
    assert "clock_ahead" not in reading.quality.flags
    assert scene.value("clock_skew_seconds", incubator="inc1") == 1200
    ended(scene)


def test_recorded_frames_say_nothing_of_the_clock_now(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    write_live(scene, "1", scene.clock.at)
    scene.clock.pass_s(3600)
    scene.turns(6)
    assert len(scene.told) == 1
    assert scene.value("clock_skew_seconds", incubator="inc1") is None
    ended(scene)


@pytest.fixture
def short_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor.drift, "BASELINE_FRAMES", 12)
    monkeypatch.setattr(monitor.imaging, "BASELINE_FRAMES", 12)


def drift_of(scene: Scene) -> dict[str, float | None]:
    return {name: scene.value("input_drift", incubator="inc1", feature=name) for name in monitor.drift.FEATURES}


@pytest.mark.usefixtures("short_baseline")
def test_drift_is_there_once_the_baseline_is_and_is_the_same_after_a_restart(tmp_path: Path) -> None:
    scene = Scene(tmp_path, stable_s=0)
    for hour in range(7):
        for well in ("1", "2", "3"):
            write_frame(scene.root, well, START + hour * H, level=100 if hour < 4 else 80)
        scene.turns(3, seconds=6)
        assert (drift_of(scene)["brightness"] is None) is (hour < 3)
    assert len(scene.told) == 21
    before = drift_of(scene)
    assert (before["brightness"] or 0) < -3
    ended(scene)
    again = Scene(tmp_path, stable_s=0)
    again.turns(2)
    assert again.told == []
    assert drift_of(again) == before
    ended(again)


@pytest.mark.usefixtures("short_baseline")
def test_what_the_first_frames_were_like_is_audited_once_and_holds_when_they_are_pruned(tmp_path: Path) -> None:
    scene = Scene(tmp_path, stable_s=0)
    for hour in range(7):
        for well in ("1", "2", "3"):
            write_frame(scene.root, well, START + hour * H, level=100 if hour < 4 else 80)
        scene.turns(3, seconds=6)
    before, journal = drift_of(scene), scene.daemon.node.journal
    assert journal.audit.last("reference/inc1") is not None
    ids = [reading.id for reading in scene.told[:6]]
    journal._db.executemany("DELETE FROM reading WHERE id = ?", [(one,) for one in ids])
    ended(scene)
    again = Scene(tmp_path, stable_s=0)
    again.turns(2)
    assert drift_of(again) == before
    ended(again)


@pytest.mark.usefixtures("short_baseline")
def test_a_revision_and_a_frame_out_of_order_move_no_drift(tmp_path: Path) -> None:
    scene = Scene(tmp_path, stable_s=0, deadline_s=0)
    for hour in range(6):
        for well in ("1", "2"):
            write_frame(scene.root, well, START + hour * H)
        scene.turns(3, seconds=6)
    before = drift_of(scene)
    assert before["brightness"] is not None
    write_frame(scene.root, "1", START + 5 * H, (0,), level=40)
    write_frame(scene.root, "1", START - H, level=40)
    scene.turns(3, seconds=6)
    assert [reading.outcome for reading in scene.told[12:]] == [Outcome.OUT_OF_ORDER, Outcome.REVISED]
    assert drift_of(scene) == before
    ended(scene)


def test_a_revision_keeps_the_numbers_of_the_frame_as_it_was_judged(tmp_path: Path) -> None:
    scene = Scene(tmp_path, stable_s=0, deadline_s=0)
    write_frame(scene.root, "1", START)
    scene.turns(2, seconds=6)
    write_frame(scene.root, "1", START, level=60)
    scene.turns(3, seconds=6)
    first, revised = scene.told
    assert revised.outcome is Outcome.REVISED
    assert revised.quality.measured == first.quality.measured is not None
    ended(scene)


def test_each_incubator_is_judged_by_its_own_limits(tmp_path: Path) -> None:
    scene = Scene(tmp_path, stable_s=0, quality={"mean_gray": 150})
    write_frame(scene.root, "1", START)
    scene.turns(2)
    (reading,) = scene.told
    assert (reading.outcome, reading.quality.flags) == (Outcome.UNFIT, ("dark",))
    measured = reading.quality.measured
    assert measured is not None
    assert 85 < measured.mean_gray < 115
    ended(scene)


@pytest.mark.usefixtures("short_baseline")
def test_a_disk_that_refuses_the_reference_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(tmp_path, stable_s=0)
    journal = scene.daemon.node.journal
    freeze = journal.freeze

    def full(*_: object) -> None:
        raise StorageError("database or disk is full")

    monkeypatch.setattr(journal, "freeze", full)
    for hour in range(4):
        for well in ("1", "2", "3"):
            write_frame(scene.root, well, START + hour * H)
        scene.turns(3, seconds=6)
    assert len(scene.told) == 12 and not scene.daemon.ready()["store_open"]
    assert journal.audit.last("reference/inc1") is None
    monkeypatch.setattr(journal, "freeze", freeze)
    scene.turns(2)
    assert journal.audit.last("reference/inc1") is not None and scene.daemon.ready()["store_open"]
    ended(scene)


def test_an_embryos_size_is_a_share_of_its_wells_and_none_where_nobody_looks_for_it() -> None:
    grays = dict(zip(PLANES_UM, drawn_planes(), strict=True))
    visit = SimpleNamespace(stack=SimpleNamespace(grays=grays))
    fitting = Fitting(visit)  # type: ignore[arg-type]
    how = scripted_manifest().preprocess
    assert fitting.embryo_ratio(how) is None
    looks = how.model_copy(update={"crop": "embryo"})
    ratio = fitting.embryo_ratio(looks)
    assert ratio is not None and 0.38 <= ratio <= 0.95
    empty = SimpleNamespace(stack=SimpleNamespace(grays={um: np.full_like(gray, 90) for um, gray in grays.items()}))
    assert Fitting(empty).embryo_ratio(looks) is None  # type: ignore[arg-type]

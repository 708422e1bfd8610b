"""Silence and a full disk, as the daemon notices them: when they count, when nobody can say, and over a restart."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

import monitor.lookout
from monitor.lookout import CADENCE_UNKNOWN_MIN
from tests.house import PLANES_UM, START, write_frame
from tests.test_daemon import Scene

MIN = timedelta(minutes=1)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    close(made)


def close(scene: Scene) -> None:
    scene.daemon.publisher.stop(0)
    scene.daemon.node.journal.close()


def words(scene: Scene) -> list[tuple[str, str]]:
    bodies = [json.loads(body) for body in scene.daemon.node.journal.alerts.bodies()]
    return [(body["kind"], body["state"]) for body in bodies]


def frames(scene: Scene, count: int, every_min: int = 10) -> None:
    for k in range(count):
        write_frame(scene.root, "1", START + k * every_min * MIN)
    scene.turns(8)


def test_an_incubator_that_falls_silent_is_told_of_after_two_and_a_half_cadences(scene: Scene) -> None:
    frames(scene, 5)
    scene.turns(2, 24 * 60)
    assert words(scene) == []
    scene.turns(2, 60)
    assert words(scene) == [("frame_gap", "raised")]
    assert scene.value("alerts_open", kind="frame_gap") == 1
    write_frame(scene.root, "1", START + 60 * MIN)
    scene.turns(20)
    assert words(scene) == [("frame_gap", "raised"), ("frame_gap", "cleared")]
    assert scene.value("alerts_open", kind="frame_gap") == 0


def test_a_share_lost_in_the_middle_of_a_capture_is_silent_too(tmp_path: Path) -> None:
    scene = Scene(tmp_path, cadence_min=10, deadline_s=10_000)
    frames(scene, 2)
    write_frame(scene.root, "1", START + 20 * MIN, PLANES_UM[:3])
    scene.turns(4)
    scene.root.rename(scene.root.with_name("away"))
    scene.turns(40, 60)
    assert words(scene) == [("frame_gap", "raised")]
    close(scene)


def test_a_share_that_was_never_there_is_told_of_too(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.root.rmdir()
    scene.turns(50, 60)
    assert words(scene) == []
    scene.turns(5, 60)
    assert words(scene) == [("frame_gap", "raised")]
    scene.root.mkdir()
    scene.turns(5, 60)
    assert words(scene) == [("frame_gap", "raised"), ("frame_gap", "cleared")]
    close(scene)


@pytest.mark.parametrize("hours", [48, -48])
def test_a_wall_clock_that_is_set_neither_makes_a_silence_nor_hides_one(scene: Scene, hours: int) -> None:
    frames(scene, 5)
    scene.clock.at += timedelta(hours=hours)
    scene.turns(3, 60)
    assert words(scene) == []
    scene.turns(3, 24 * 60)
    assert words(scene) == [("frame_gap", "raised")]


def test_frames_that_lay_there_at_a_start_are_no_silence(tmp_path: Path) -> None:
    first = Scene(tmp_path)
    frames(first, 5)
    close(first)
    second = Scene(tmp_path)
    second.clock.pass_s(3 * 3600)
    for k in range(5, 18):
        write_frame(second.root, "1", START + k * 10 * MIN)
    second.turns(60, 1)
    assert len(second.told) == 13
    assert words(second) == []
    close(second)


def test_a_share_mounted_a_moment_after_a_start_is_no_silence(tmp_path: Path) -> None:
    first = Scene(tmp_path)
    frames(first, 5)
    close(first)
    away = first.root.rename(first.root.with_name("away"))
    second = Scene(tmp_path)
    second.root.rmdir()
    second.clock.pass_s(3 * 3600)
    second.turns(20, 1)
    for k in range(5, 18):
        write_frame(away, "1", START + k * 10 * MIN)
    away.rename(second.root)
    second.turns(100, 1)
    assert len(second.told) == 13
    assert words(second) == []
    close(second)


def test_an_incubator_without_embryos_may_be_silent(scene: Scene) -> None:
    scene.turns(5, 3600)
    assert words(scene) == []


def test_where_nobody_knows_the_cadence_the_alert_comes_late_not_never(scene: Scene) -> None:
    frames(scene, 1)
    scene.turns(2, 2.3 * CADENCE_UNKNOWN_MIN * 60)
    assert words(scene) == []
    scene.turns(2, 10 * 60)
    assert words(scene) == [("frame_gap", "raised")]


def test_a_frame_that_waits_for_its_planes_is_no_silence(tmp_path: Path) -> None:
    scene = Scene(tmp_path, cadence_min=10, deadline_s=10_000)
    frames(scene, 2)
    write_frame(scene.root, "1", START + 20 * MIN, PLANES_UM[:3])
    scene.turns(10, 300)
    assert words(scene) == []
    close(scene)


def test_a_share_that_is_away_is_silent_too(scene: Scene) -> None:
    frames(scene, 5)
    away = scene.root.rename(scene.root.with_name("away"))
    scene.turns(40, 60)
    assert words(scene) == [("frame_gap", "raised")]
    away.rename(scene.root)


def test_after_a_restart_silence_counts_from_the_last_frame_recorded_but_not_before_the_first_look(
    tmp_path: Path,
) -> None:
    first = Scene(tmp_path)
    frames(first, 5)
    close(first)
    second = Scene(tmp_path)
    second.clock.pass_s(3 * 3600)
    assert second.daemon.lookout.look() == []  # nobody has looked: the frames of three hours may lie there
    second.clock.pass_s(20)
    second.turns(1, 20)
    second.turns(1)
    assert words(second) == [("frame_gap", "raised")]
    close(second)


def test_a_disk_that_runs_full_raises_storage_low_and_room_clears_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    free = 10 * 2**30

    def disk_usage(_path: object) -> tuple[int, int, int]:
        return usage(2**40, 0, free)

    monkeypatch.setattr(monitor.lookout.shutil, "disk_usage", disk_usage)
    scene.turns(3, 60)
    assert words(scene) == []
    free = 2**30
    scene.turns(3, 60)
    assert words(scene) == [("storage_low", "raised")]
    assert scene.value("alerts_open", kind="storage_low") == 1
    free = 4 * 2**30
    scene.turns(2, 60)
    assert words(scene) == [("storage_low", "raised"), ("storage_low", "cleared")]
    assert shutil.disk_usage is disk_usage

"""The virtual incubator: same seed, same embryo; a life that hangs together; files as an incubator writes them."""

import csv
import json
import re
from datetime import datetime, timedelta, timezone
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from monitor.simulator import PLANES_UM, Life, VirtualEmbryo, simulate

START = datetime(2026, 1, 5, 9, 0, tzinfo=timezone.utc)
SIZE_PX = 96


@cache
def life(seed: int) -> Life:
    return Life.sample(seed)


@cache
def embryo_that_expands() -> VirtualEmbryo:
    return VirtualEmbryo(next(seed for seed in range(100) if "tEB" in life(seed).onsets_h))


def embryo_area(stack: np.ndarray, empty: np.ndarray) -> int:
    return int((np.abs(stack[3].astype(int) - empty[3].astype(int)) > 12).sum())


def no_sleep(_: float) -> None:
    raise AssertionError("slept without being asked to keep a speed")


def test_the_same_seed_hour_and_size_give_the_same_bytes():
    first, second = VirtualEmbryo(5), VirtualEmbryo(5)
    second.stack(70.0, SIZE_PX)  # what was drawn before must not matter
    second.stack(30.0, 64)
    assert first.stack(30.0, SIZE_PX).tobytes() == second.stack(30.0, SIZE_PX).tobytes()


def test_a_stack_is_seven_gray_planes_of_the_size_asked_for():
    stack = VirtualEmbryo(1).stack(30.0, SIZE_PX)
    assert stack.shape == (len(PLANES_UM), SIZE_PX, SIZE_PX)
    assert stack.dtype == np.uint8
    assert stack.flags.c_contiguous


def test_another_seed_is_another_embryo():
    a, b = VirtualEmbryo(1), VirtualEmbryo(2)
    assert a.life.onsets_h != b.life.onsets_h
    assert np.abs(a.stack(30.0, SIZE_PX).astype(int) - b.stack(30.0, SIZE_PX).astype(int)).mean() > 2


@pytest.mark.parametrize("seed", range(6))
def test_the_gray_of_a_frame_is_that_of_real_ones(seed: int):
    middle = VirtualEmbryo(seed).stack(40.0, SIZE_PX)[3]
    assert 28 < middle.mean() < 130  # public frames: 37 to 125
    assert middle.std() > 15
    corners = [
        middle[rows, columns].mean() for rows in (slice(4), slice(-4, None)) for columns in (slice(4), slice(-4, None))
    ]
    assert min(corners) < 0.3 * middle.mean()  # dark outside of the well, away from the ring's bright side


def test_planes_differ_in_focus():
    stack = embryo_that_expands().stack(30.0, 250)
    sharpness = [cv2.Laplacian(plane, cv2.CV_64F).var() for plane in stack]
    assert max(sharpness) > 1.1 * min(sharpness)
    assert len({plane.tobytes() for plane in stack}) == len(PLANES_UM)


def test_different_structures_are_sharpest_in_different_planes():
    stack = embryo_that_expands().stack(60.0, 250)
    detail = np.stack([np.abs(cv2.Laplacian(cv2.GaussianBlur(p, (0, 0), 1), cv2.CV_32F)) for p in stack])
    tiles = detail[:, 50:200, 50:200].reshape(len(PLANES_UM), 5, 30, 5, 30).mean(axis=(2, 4))
    busy = tiles.max(0) > np.median(tiles.max(0))
    assert len(set(tiles.argmax(0)[busy].tolist())) >= 2


def test_an_embryo_changes_from_day_to_day_but_hardly_from_frame_to_frame():
    embryo = embryo_that_expands()
    onset_h = embryo.life.onsets_h
    hour = onset_h["t2"] + 2.0
    now, soon, later = (embryo.stack(h, SIZE_PX)[3].astype(int) for h in (hour, hour + 0.1, onset_h["tB"] + 2.0))
    assert np.abs(later - now).mean() > 3 * np.abs(soon - now).mean()


def test_an_expanding_blastocyst_covers_more_than_a_zygote():
    embryo = embryo_that_expands()
    embryo.stack(10.0, SIZE_PX)  # leaves the empty well behind
    empty = np.clip(embryo._well * 255, 0, 255)
    early, late = (embryo_area(embryo.stack(h, SIZE_PX), empty) for h in (10.0, embryo.life.onsets_h["tEB"] + 10))
    assert late > 1.2 * early


def test_an_arrested_embryo_stops_dividing_and_then_decays():
    arrested = next(VirtualEmbryo(seed) for seed in range(50) if not life(seed).reaches_blastocyst)
    last_h = arrested.life.frozen_after_h
    assert arrested.life.cell_count_at(last_h) == arrested.life.cell_count_at(last_h + 60.0)
    assert arrested.life.phase_at(last_h) == arrested.life.phase_at(last_h + 60.0)
    assert np.any(arrested.stack(last_h, SIZE_PX) != arrested.stack(last_h + 60.0, SIZE_PX))


def written(out: Path) -> list[Path]:
    return sorted(out.glob("D1/*/*.jpg"))


def small_run(out: Path, **changed) -> int:
    settings = {"start": START, "embryos": 2, "hours": 2.0, "every_min": 60.0, "size_px": 64, "sleep": no_sleep}
    return simulate(out, **(settings | changed))


def test_frames_are_complete_decodable_and_named_by_the_layout(tmp_path: Path):
    assert small_run(tmp_path) == 6
    files = written(tmp_path)
    assert len(files) == 6 * len(PLANES_UM)
    assert {p.parent.name for p in files} == {"1", "2"}
    assert all(re.fullmatch(r"\d{8}T\d{6}Z_F(-45|-30|-15|0|15|30|45)\.jpg", p.name) for p in files)
    assert {p.name[:16] for p in files} == {"20260105T090000Z", "20260105T100000Z", "20260105T110000Z"}
    assert cv2.imread(str(files[0]), cv2.IMREAD_UNCHANGED).shape == (64, 64)


def test_no_temporary_file_stays_behind(tmp_path: Path):
    small_run(tmp_path)
    assert not [p for p in tmp_path.rglob("*") if p.name.startswith(".") or p.suffix == ".tmp"]


def test_a_second_run_draws_only_what_is_missing_and_draws_it_the_same(tmp_path: Path):
    small_run(tmp_path)
    lost = written(tmp_path)[3]
    before = lost.read_bytes()
    lost.unlink()
    assert small_run(tmp_path) == 1
    assert lost.read_bytes() == before
    assert small_run(tmp_path) == 0


def test_stop_is_obeyed_before_the_next_frame(tmp_path: Path):
    answers = iter([False, False, False, True])
    assert small_run(tmp_path, stop=lambda: next(answers)) == 3
    assert len(written(tmp_path)) == 3 * len(PLANES_UM)


def test_all_wells_of_one_moment_come_before_the_next_moment(tmp_path: Path):
    seen: list[tuple[int, int]] = []
    files_then: list[int] = []

    def on_frame(done: int, total: int) -> None:
        seen.append((done, total))
        files_then.append(len({p.name[:16] for p in written(tmp_path)}))

    small_run(tmp_path, on_frame=on_frame)
    assert seen == [(n, 6) for n in range(1, 7)]
    assert files_then == [1, 1, 2, 2, 3, 3]


class Waiting:
    """A clock that only sleeping and drawing move."""

    def __init__(self, drawing_s: float = 0.0) -> None:
        self.now_s, self.drawing_s = 100.0, drawing_s
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds

    def draw(self, done: int, total: int) -> None:
        self.now_s += self.drawing_s


def test_a_speed_is_kept_by_waiting_until_each_moment_is_due(tmp_path: Path):
    clock = Waiting()
    small_run(tmp_path, speed=1800.0, sleep=clock.sleep, monotonic=lambda: clock.now_s)
    assert sum(clock.slept) == pytest.approx(4.0)
    assert max(clock.slept) <= 1.0  # a wait can be broken off


def test_the_time_that_drawing_took_is_part_of_the_wait(tmp_path: Path):
    clock = Waiting(drawing_s=0.75)
    small_run(tmp_path, speed=1800.0, sleep=clock.sleep, monotonic=lambda: clock.now_s, on_frame=clock.draw)
    assert sum(clock.slept) == pytest.approx(2 * (2.0 - 2 * 0.75))


def test_frames_that_are_there_already_are_not_waited_for(tmp_path: Path):
    small_run(tmp_path, hours=1.0)
    clock = Waiting()
    assert small_run(tmp_path, speed=1800.0, sleep=clock.sleep, monotonic=lambda: clock.now_s) == 2
    assert clock.slept == []


def test_a_wait_is_broken_off_when_asked_to_stop(tmp_path: Path):
    clock = Waiting()
    asked = small_run(
        tmp_path, speed=1.0, sleep=clock.sleep, monotonic=lambda: clock.now_s, stop=lambda: clock.now_s > 105
    )
    assert asked == 2 and 5 < sum(clock.slept) < 7


def test_truth_lies_beside_the_frames_and_fixes_the_hour_of_the_first_one(tmp_path: Path):
    small_run(tmp_path, seed=40, first_hpi_h=18.5)
    with (tmp_path / "truth" / "insemination.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["dish"], row["well"]) for row in rows] == [("D1", "1"), ("D1", "2")]
    inseminated = datetime.fromisoformat(rows[0]["time"].replace("Z", "+00:00"))
    assert START - inseminated == timedelta(hours=18.5)
    known = json.loads((tmp_path / "truth" / "D1_2.json").read_text())
    assert known["seed"] == 41
    assert known["onsets_h"] == life(41).onsets_h
    assert known["reaches_blastocyst"] == life(41).reaches_blastocyst


def test_a_start_without_time_zone_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="time zone"):
        small_run(tmp_path, start=datetime(2026, 1, 5, 9, 0))

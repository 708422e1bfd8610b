"""The virtual incubator: same seed, same embryo; a life that hangs together; files as an incubator writes them."""

import csv
import json
import os
import platform
import re
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from functools import cache
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from monitor.layouts import nantes_hours
from monitor.simulator import PHASES, PLANES_UM, Life, VirtualEmbryo, simulate, stream

START = datetime(2026, 1, 5, 9, 0, tzinfo=timezone.utc)
SIZE_PX = 96


@cache
def life(seed: int) -> Life:
    return Life.sample(seed)


EXPANDS = next(seed for seed in range(100) if life(seed).onsets_h.get("tEB", 999) < 112)


@cache
def embryo_that_expands() -> VirtualEmbryo:
    return VirtualEmbryo(EXPANDS)


def reach_px(embryo: VirtualEmbryo, hpi_h: float, size_px: int) -> float:
    """How far from the embryo's centre the drawing changes the empty well: the 90th percentile of changed pixels."""
    middle = embryo.stack(hpi_h, size_px)[3].astype(int)
    changed = np.abs(middle - np.clip(embryo._well[3] * 255, 0, 255).astype(int)) > 12
    x_px, y_px, _ = embryo.truth_at(hpi_h, size_px).embryo
    rows, columns = np.nonzero(changed)
    away = np.hypot(rows - y_px, columns - x_px)
    return float(np.percentile(away[away < 0.4 * size_px], 90))


def no_sleep(_: float) -> None:
    raise AssertionError("slept without being asked to keep a speed")


def test_the_same_seed_hour_and_size_give_the_same_bytes():
    first, second = VirtualEmbryo(5), VirtualEmbryo(5)
    second.stack(70.0, SIZE_PX)  # what was drawn before must not matter
    second.stack(30.0, 64)
    assert first.stack(30.0, SIZE_PX).tobytes() == second.stack(30.0, SIZE_PX).tobytes()


DRAWN_ELSEWHERE = """
import sys, numpy as np
from monitor.simulator import VirtualEmbryo
np.save(sys.argv[1], np.stack([VirtualEmbryo(seed).stack(h, 224) for seed, h in ((0, 26.0), (1, 60.0), (2, 110.0))]))
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names the instructions of x86 processors")
def test_a_processor_without_wide_instructions_draws_the_same_within_one_gray_level(tmp_path: Path):
    """Another machine changes above all which instructions NumPy and OpenCV choose: here, the oldest."""
    plain = {"OPENCV_CPU_DISABLE": "SSE4.2,AVX,FP16,AVX2,FMA3", "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3"}
    drawn = []
    for name, environment in (("here", {}), ("elsewhere", plain)):
        path = tmp_path / f"{name}.npy"
        command = [sys.executable, "-W", "ignore", "-c", DRAWN_ELSEWHERE, str(path)]
        subprocess.run(command, env={**os.environ, **environment}, check=True, timeout=120)
        drawn.append(np.load(path).astype(int))
    assert np.abs(drawn[0] - drawn[1]).max() <= 1


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


def test_a_plane_is_the_same_whichever_others_are_asked_for():
    embryo = embryo_that_expands()
    for hour in (15.0, 60.0, embryo.life.onsets_h["tB"] + 1.0):
        whole = embryo.stack(hour, SIZE_PX)
        for wanted in ((0,), (45, -45), (-15, 0, 30)):
            few = embryo.stack(hour, SIZE_PX, planes_um=wanted)
            assert few.shape == (len(wanted), SIZE_PX, SIZE_PX)
            for plane, um in zip(few, wanted, strict=True):
                assert np.array_equal(plane, whole[PLANES_UM.index(um)])


def test_a_plane_that_is_not_drawn_is_refused_by_name():
    with pytest.raises(ValueError, match="-45"):
        embryo_that_expands().stack(30.0, SIZE_PX, planes_um=(7,))


def test_masks_of_a_blastocyst_are_whole_apart_and_where_it_is_drawn():
    embryo = embryo_that_expands()
    hour = embryo.life.onsets_h["tEB"] + 1.0
    masks = embryo.masks(hour, SIZE_PX)
    assert set(masks) == {"ICM", "TE", "ZP", "blastocoel"}
    assert all(mask.shape == (SIZE_PX, SIZE_PX) and mask.dtype == bool and mask.any() for mask in masks.values())
    assert sum(mask.astype(int) for mask in masks.values()).max() == 1
    x_px, y_px, radius_px = embryo.truth_at(hour, SIZE_PX).embryo
    rows, columns = np.nonzero(masks["ZP"] | masks["TE"] | masks["blastocoel"] | masks["ICM"])
    assert np.hypot(rows.mean() - y_px, columns.mean() - x_px) < 2.0
    assert abs(np.sqrt(len(rows) / np.pi) - radius_px) < 2.0


def test_before_there_is_a_cavity_only_the_zona_is_marked():
    masks = embryo_that_expands().masks(30.0, SIZE_PX)
    assert masks["ZP"].any()
    assert not any(masks[name].any() for name in ("ICM", "TE", "blastocoel"))


@pytest.mark.parametrize("hour", [12.0, 40.0, 70.0])
def test_the_truth_counts_the_cells_that_are_drawn_and_keeps_them_in_the_zona(hour: float):
    embryo = embryo_that_expands()
    truth = embryo.truth_at(hour, SIZE_PX)
    assert len(truth.cells) == len(truth.depth_um) == embryo.life.cell_count_at(hour)
    x_px, y_px, radius_px = truth.embryo
    assert (np.hypot(truth.cells[:, 0] - x_px, truth.cells[:, 1] - y_px) + truth.cells[:, 2] < radius_px).all()
    x_um, y_um = embryo.centre_um(hour)
    assert (x_px, y_px) == pytest.approx(tuple((v / 280 + 0.5) * SIZE_PX - 0.5 for v in (x_um, y_um)))
    well_x, well_y, well_radius = truth.well
    assert np.hypot(well_x - x_px, well_y - y_px) + radius_px < 1.05 * well_radius


def test_a_zona_thins_as_the_blastocyst_presses_it_outwards():
    embryo = embryo_that_expands()
    zona_px = [embryo.masks(h, 250)["ZP"].sum() for h in (30.0, embryo.life.onsets_h["tEB"] + 12.0)]
    early, late = (embryo.truth_at(h, 250).embryo[2] for h in (30.0, embryo.life.onsets_h["tEB"] + 12.0))
    assert late > early
    assert zona_px[1] / late < 0.8 * zona_px[0] / early  # its thickness in the picture


def test_what_hatches_lies_outside_of_the_zona_and_grows():
    hatching = next(e for e in map(VirtualEmbryo, range(400)) if "tHB" in e.life.onsets_h)
    outside = []
    for hours in (3.0, 10.0):
        hour = hatching.life.hatching_h + hours
        masks, (x_px, y_px, radius_px) = hatching.masks(hour, 250), hatching.truth_at(hour, 250).embryo
        rows, columns = np.nonzero(masks["TE"] | masks["blastocoel"] | masks["ICM"])
        outside.append(int((np.hypot(rows - y_px, columns - x_px) > radius_px).sum()))
    assert 0 < outside[0] < outside[1]


def test_an_embryo_changes_from_day_to_day_but_hardly_from_frame_to_frame():
    embryo = embryo_that_expands()
    onset_h = embryo.life.onsets_h
    hour = onset_h["t2"] + 2.0
    now, soon, later = (embryo.stack(h, SIZE_PX)[3].astype(int) for h in (hour, hour + 0.1, onset_h["tB"] + 2.0))
    assert np.abs(later - now).mean() > 3 * np.abs(soon - now).mean()


def test_an_expanding_blastocyst_reaches_farther_than_a_zygote_and_its_body_fills_the_zona():
    embryo = embryo_that_expands()
    late_h = embryo.life.onsets_h["tEB"] + 10
    assert reach_px(embryo, late_h, 250) > 1.08 * reach_px(embryo, 10.0, 250)
    masks = embryo.masks(late_h, 250)
    body = np.sqrt((masks["ICM"] | masks["TE"] | masks["blastocoel"]).sum() / np.pi)
    assert body > 1.15 * embryo.truth_at(10.0, 250).cells[0, 2]


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


def rows_of(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_a_nantes_run_is_a_public_set_in_small(tmp_path: Path):
    """Annotations and hours in the set's own files, where its loaders look for them."""
    small_run(tmp_path, layout="nantes", hours=110.0, every_min=600.0, first_hpi_h=2.0, size_px=32, seed=EXPANDS)
    assert len(list(tmp_path.glob("embryo_dataset*/D1-1/D2026.01.05_S*_I132_WELL1_RUN*.jpeg"))) == 12 * 7
    phases = rows_of(tmp_path / "embryo_dataset_annotations" / "D1-1_phases.csv")
    assert [row[0] for row in phases] == [p for p in PHASES if p in {row[0] for row in phases}]
    drawn = life(EXPANDS)
    for phase, first, last in phases:
        for run in range(int(first), int(last) + 1):
            assert drawn.phase_at(2.0 + 10.0 * (run - 1)) == phase
    assert all(int(before[2]) + 1 == int(after[1]) for before, after in pairwise(phases))
    assert int(phases[-1][2]) == 12
    times = rows_of(tmp_path / "embryo_dataset_time_elapsed" / "D1-1_timeElapsed.csv")
    assert times[:3] == [["frame_index", "time"], ["0", "0.0000"], ["1", "2.0000"]]
    assert nantes_hours(tmp_path, "D1-1")[12] == 112.0
    grades = rows_of(tmp_path / "embryo_dataset_grades.csv")
    assert grades[0] == ["video_name", "TE", "ICM"]
    assert grades[1] == ["D1-1", drawn.te_grade, drawn.icm_grade]
    assert all(row[1:] == ["NA", "NA"] for row in grades[1:] if not life(EXPANDS + int(row[0][-1]) - 1).icm_grade)


def test_other_layouts_keep_the_same_tables_under_truth(tmp_path: Path):
    small_run(tmp_path, layout="embryoscope")
    assert (tmp_path / "truth" / "embryo_dataset_annotations" / "D1-2_phases.csv").exists()
    assert (tmp_path / "truth" / "embryo_dataset_time_elapsed" / "D1-2_timeElapsed.csv").exists()


def test_each_frame_has_its_own_truth(tmp_path: Path):
    small_run(tmp_path, hours=4.0, first_hpi_h=28.0, size_px=100, seed=EXPANDS, embryos=1)
    frames = [json.loads((tmp_path / "truth" / "frames" / "D1-1" / f"RUN{n}.json").read_text()) for n in range(1, 6)]
    drawn = life(EXPANDS)
    for n, frame in enumerate(frames):
        assert frame["captured_at"] == f"2026-01-05T{9 + n:02}:00:00Z"
        assert (frame["run"], frame["hpi_h"], frame["look"]) == (n + 1, 28.0 + n, "embryo")
        assert (frame["phase"], frame["cell_count"]) == (drawn.phase_at(28.0 + n), drawn.cell_count_at(28.0 + n))
        assert (frame["reaches_blastocyst"], frame["expansion"], frame["arrested"]) == (True, 0, False)
        x, y, radius = frame["embryo"]
        assert 10 < x < 90 and 10 < y < 90 and 20 < radius < 40
        assert len(frame["cells"]) == frame["cell_count"]
        assert all(abs(cx - x) < radius and abs(cy - y) < radius for cx, cy, _, _ in frame["cells"])


def test_masks_lie_on_the_picture_in_the_folders_of_the_public_set(tmp_path: Path):
    small_run(tmp_path / "inc", hours=130.0, every_min=7800.0, size_px=100, embryos=1, seed=EXPANDS,
              masks=tmp_path / "BlastsOnline")  # fmt: skip
    folder = tmp_path / "BlastsOnline"
    picture = cv2.imread(str(folder / "Images" / "D1-1 130h.BMP"), cv2.IMREAD_UNCHANGED)
    masks = {
        part: cv2.imread(str(folder / f"GT_{part}" / f"D1-1 130h {part}_Mask.bmp"), 0) for part in ("ICM", "TE", "ZP")
    }
    assert picture.shape == (100, 100)
    for mask in masks.values():
        assert mask.shape == (100, 100)
        assert set(np.unique(mask)) == {0, 255}
    assert not (masks["TE"] & masks["ICM"]).any() and not (masks["TE"] & masks["ZP"]).any()


def test_masks_within_the_folder_of_the_frames_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="outside of"):
        small_run(tmp_path, masks=tmp_path / "masks")


def test_an_embryo_that_never_becomes_a_blastocyst_has_no_masks(tmp_path: Path):
    small_run(tmp_path / "inc", hours=1.0, masks=tmp_path / "masks")
    assert not (tmp_path / "masks").exists()


def test_single_moment_holds_the_last_moment_only(tmp_path: Path):
    assert small_run(tmp_path, layout="single-moment", hours=116.0, every_min=60.0) == 2
    assert {p.parent.name for p in tmp_path.glob("*/*_F*.jpg")} == {"D1-1", "D1-2"}
    assert [p.name for p in (tmp_path / "truth" / "frames" / "D1-1").iterdir()] == ["RUN117.json"]


def test_a_stream_yields_stacks_with_their_truth_and_can_be_taken_up_again():
    whole = list(stream([3, 4], [20.0, 60.0], size_px=48, planes_um=(-15, 0, 15)))
    assert [(sample.truth.seed, sample.truth.hpi_h) for sample in whole] == [(3, 20.0), (3, 60.0), (4, 20.0), (4, 60.0)]
    rest = next(stream([4], [60.0], size_px=48, planes_um=(-15, 0, 15)))
    assert rest.stack.tobytes() == whole[-1].stack.tobytes() and rest.stack.shape == (3, 48, 48)
    assert rest.truth.as_json() == whole[-1].truth.as_json()
    assert whole[1].truth.phase == life(3).phase_at(60.0)


def test_the_hours_of_a_stream_may_be_drawn_from_each_life():
    onsets = [sample.truth for sample in stream(range(3), lambda one: [one.onsets_h["tPNf"]], size_px=32)]
    assert [truth.phase for truth in onsets] == ["tPNf"] * 3
    assert len({truth.hpi_h for truth in onsets}) == 3


def test_a_stream_touches_no_disk(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a file was opened")

    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    assert next(stream([0], [10.0], size_px=32)).stack.shape == (7, 32, 32)


def test_what_hatches_out_of_the_picture_is_left_out() -> None:
    """Seed 923 has lobes beyond the canvas at that hour: drawing it once raised."""
    assert VirtualEmbryo(923).stack(130.86516726128806, 250, planes_um=(0,)).std() > 10

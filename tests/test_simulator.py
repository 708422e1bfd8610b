"""The virtual incubator: same seed, same embryo; a life that hangs together; files as an incubator writes them."""

import csv
import json
import re
from datetime import datetime, timedelta, timezone
from functools import cache
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.simulator import PHASES, PLANES_UM, Life, VirtualEmbryo, simulate

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


def test_a_plane_is_the_same_whichever_others_are_asked_for():
    embryo = embryo_that_expands()
    for hour in (15.0, 60.0, embryo.life.onsets_h["tB"] + 1.0):
        whole = embryo.stack(hour, SIZE_PX)
        for wanted in ((0,), (45, -45), (-15, 0, 30)):
            few = embryo.stack(hour, SIZE_PX, planes_um=wanted)
            assert few.shape == (len(wanted), SIZE_PX, SIZE_PX)
            for plane, um in zip(few, wanted, strict=True):
                assert np.abs(plane.astype(int) - whole[PLANES_UM.index(um)].astype(int)).max() <= 1


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


@given(st.integers(0, 2**32))
def test_onsets_are_in_the_order_of_the_phases_and_strictly_later_each(seed: int):
    drawn = Life.sample(seed)
    phases = list(drawn.onsets_h)
    assert phases == sorted(phases, key=PHASES.index)
    assert all(before < after for before, after in pairwise(drawn.onsets_h.values()))
    assert drawn.onsets_h["tPB2"] > 0


@given(st.integers(0, 2**32), st.floats(0, 1))
def test_the_outcome_agrees_with_the_onsets(seed: int, arrest_share: float):
    drawn = Life.sample(seed, arrest_share)
    assert drawn.reaches_blastocyst == ("tB" in drawn.onsets_h)
    assert ("tHB" in drawn.onsets_h) <= ("tEB" in drawn.onsets_h) <= ("tB" in drawn.onsets_h)


@given(st.integers(0, 2**32), st.floats(0, 160))
def test_phase_and_cell_count_agree_at_any_hour(seed: int, hpi_h: float):
    drawn = Life.sample(seed)
    phase, cells = drawn.phase_at(hpi_h), drawn.cell_count_at(hpi_h)
    expected = {None: 1, "tPB2": 1, "tPNa": 1, "tPNf": 1} | {f"t{n}": n for n in range(2, 9)}
    fused = sum(start_h <= hpi_h < end_h for start_h, end_h in drawn.reverse_cleavage)
    assert cells + fused == expected[phase] if phase in expected else cells + fused >= 9


@pytest.mark.parametrize("share", [0.0, 0.36, 1.0])
def test_the_share_of_arrest_follows_the_parameter(share: float):
    arrested = np.mean([not Life.sample(seed, share).reaches_blastocyst for seed in range(500)])
    assert abs(arrested - share) < 0.065


def test_arresting_embryos_tend_to_be_slower_and_more_fragmented_with_overlap():
    lives = [life(seed) for seed in range(500)]
    stops = [x for x in lives if not x.reaches_blastocyst]
    goes_on = [x for x in lives if x.reaches_blastocyst]
    assert np.median([x.fragmentation_ratio for x in stops]) > np.median([x.fragmentation_ratio for x in goes_on])
    slow, usual = ([x.onsets_h["t2"] for x in group if "t2" in x.onsets_h] for group in (stops, goes_on))
    assert np.median(slow) > np.median(usual)
    assert min(slow) < np.median(usual) < max(usual)


def test_median_onsets_follow_the_public_videos():
    lives = [life(seed) for seed in range(500)]
    for phase, median_h, tolerance_h in (("t2", 24.4, 1.5), ("t8", 51.7, 4.0), ("tM", 83.9, 5.0), ("tB", 99.3, 5.0)):
        assert abs(np.median([x.onsets_h[phase] for x in lives if phase in x.onsets_h]) - median_h) < tolerance_h


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


def test_a_speed_is_kept_by_the_sleep_that_was_passed_in(tmp_path: Path):
    slept: list[float] = []
    small_run(tmp_path, speed=1800.0, sleep=slept.append)
    assert slept == [2.0, 2.0]


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

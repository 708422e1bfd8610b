"""Data sets behind one interface: the virtual incubator's cache, the public layouts with their defects, splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engines.locate import crop_embryo, locate
from monitor.simulator import VirtualEmbryo
from training.datasets import virtual
from training.datasets.clock import Clock
from training.datasets.embryo import PHASES, Embryo, Grades, outcome_of
from training.datasets.virtual import Settings, VirtualCrops, fill

FEW = Clock("every", step_h=40.0, first_h=30.0, last_h=110.0)  # 30, 70 and 110 h

# --- the words


@pytest.mark.parametrize(
    ("phases", "last_h", "outcome"),
    [
        (("t2", "tM", "tB"), 100.0, True),
        (("t2", None, "tEB"), 100.0, True),
        (("t2", "tM", "tSB"), 130.0, False),
        (("t2", "t8", "t8"), 70.0, None),
        ((None, None, None), 130.0, None),
    ],
)
def test_an_outcome_comes_from_the_labels_and_is_unknown_for_an_embryo_taken_out_early(
    phases: tuple[str | None, ...], last_h: float, outcome: bool | None
) -> None:
    hours_h = np.array([20.0, 60.0, last_h])
    assert outcome_of(phases, hours_h) is outcome
    if outcome is None and any(phases):
        assert outcome_of(phases, hours_h, watched_until_h=0.0) is False


@pytest.mark.parametrize(("expansion", "icm", "te"), [(7, "A", "A"), (3, "D", "A"), (3, "A", "a")])
def test_a_grade_off_the_scale_is_refused(expansion: int, icm: str, te: str) -> None:
    with pytest.raises(ValueError, match=r"scale|is not A, B or C"):
        Grades(expansion, icm, te)


# --- the clock of virtual embryos


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("frames", [1, 3])
def test_a_clock_of_segments_has_as_many_moments_in_every_segment_counted_from_the_first_frame(
    seed: int, frames: int
) -> None:
    hours_h = Clock.read(f"segments:{frames}").hours_h(seed)
    assert 1.0 <= hours_h[0] <= 5.0
    assert (np.diff(hours_h) > 0).all()
    segment = np.floor((hours_h - hours_h[0] + 0.5 / 3600) / 6.0).astype(int)
    assert np.bincount(segment).tolist() == [frames] * (segment[-1] + 1)
    assert 126.0 <= hours_h[0] + 6.0 * (segment[-1] + 1) < 132.0


def test_a_clock_is_read_from_a_word_of_the_command_line() -> None:
    assert Clock.read("hourly").hours_h(0).tolist() == [float(h) for h in range(1, 127)]
    assert Clock.read("every:0.5:3:5").hours_h(9).tolist() == [3.0, 3.5, 4.0, 4.5, 5.0]
    assert Clock.read("every:2").last_h == 126.0
    for wrong in ("daily", "every", "every:0", "every:x", "segments", "segments:1.5", "hourly:3", "every:1:9:2"):
        with pytest.raises(ValueError, match="clock"):
            Clock.read(wrong)


# --- the virtual incubator's cache


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> VirtualCrops:
    return VirtualCrops(tmp_path_factory.mktemp("cache"), seed=11, clock=FEW, planes_um=(-15, 0, 15))


def test_a_cached_stack_is_what_the_locator_cuts_out_of_the_drawing(drawn: VirtualCrops) -> None:
    assert isinstance(drawn, Embryo)
    assert drawn.stacks.shape == (3, 3, 112, 112)
    assert isinstance(drawn.stacks, np.memmap)
    frame = VirtualEmbryo(11).stack(70.0, 250, (-15, 0, 15))
    found = locate(frame[1])
    assert np.array_equal(drawn.stack(1), np.stack([crop_embryo(plane, found, 112, 1.45) for plane in frame]))
    assert drawn.embryo_confidence[1] == found.embryo_confidence
    assert drawn.well_confidence[1] == found.well_confidence


def test_labels_and_truth_are_those_of_the_life_and_places_are_in_pixels_of_the_crop(drawn: VirtualCrops) -> None:
    life = drawn.life
    assert drawn.phases == tuple(life.phase_at(h) for h in (30.0, 70.0, 110.0))
    assert set(drawn.phases) <= {None, *PHASES}
    for t in range(3):
        truth = drawn.truth(t)
        x, y, radius = truth.embryo
        assert np.hypot(x - 55.5, y - 55.5) < 12  # the locator centres the crop on it, within a few um
        assert 0.25 * 112 < radius < 0.6 * 112
        if len(truth.cells):
            assert (np.hypot(truth.cells[:, 0] - x, truth.cells[:, 1] - y) < radius * 1.05).all()


def test_masks_of_a_drawn_blastocyst_lie_where_its_embryo_lies_and_there_are_none_before(tmp_path: Path) -> None:
    seed = next(s for s in range(100) if virtual.Life.sample(s).expansion_at(110.0) == 3)
    embryo = VirtualCrops(tmp_path, seed, FEW, planes_um=(0,))
    assert embryo.masks(0) is None
    masks = embryo.masks(2)
    assert masks is not None
    assert set(masks) == {"ICM", "TE", "ZP"}
    assert {int(value) for mask in masks.values() for value in np.unique(mask)} == {0, 255}
    x, y, radius = embryo.truth(2).embryo
    for part, least, most in (("ZP", 0.75, 1.1), ("TE", 0.5, 1.05), ("ICM", 0.0, 0.95)):
        rows, columns = np.nonzero(masks[part])
        away = np.hypot(columns - x, rows - y) / radius
        assert least < np.percentile(away, 2) and np.percentile(away, 98) < most
    grades = embryo.grades
    assert grades is not None
    assert (grades.expansion, grades.icm) == (embryo.life.expansion_at(110.0), embryo.life.icm_grade)


def test_a_filling_goes_on_where_it_stopped_and_draws_nothing_twice(tmp_path: Path) -> None:
    settings = Settings(Clock("every", 60.0, 1, 40.0, 40.0), planes_um=(0,))
    virtual.draw_missing(settings, tmp_path, 3)
    folder = settings.folder(tmp_path)
    kept = (folder / "3.npy").stat().st_mtime_ns
    (folder / "4.found.npy").write_bytes(b"torn")  # stopped between the two files
    assert list(fill(settings, tmp_path, range(3, 5), workers=1)) == [1, 2]
    assert (folder / "3.npy").stat().st_mtime_ns == kept
    assert VirtualCrops(tmp_path, 4, settings.clock, planes_um=(0,)).embryo_confidence.shape == (1,)
    assert list(fill(settings, tmp_path, range(3, 5), workers=1)) == [2]  # all there: no process is started
    assert not list(folder.glob(".*"))


def test_another_drawing_clock_size_or_plane_never_answers_for_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [
        Settings(FEW),
        Settings(FEW, planes_um=(0,)),
        Settings(FEW, side_px=96),
        Settings(FEW, width_in_well_radii=1.6),
        Settings(FEW, frame_px=300),
        Settings(Clock("every")),
    ]
    folders = {one.folder(tmp_path) for one in settings}
    monkeypatch.setattr(virtual, "drawing_digest", lambda: "another")
    folders.add(settings[0].folder(tmp_path))
    assert len(folders) == len(settings) + 1
    with pytest.raises(ValueError, match="planes"):
        Settings(FEW, planes_um=(15, 0))


def test_the_command_fills_a_cache_and_refuses_what_it_cannot_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["--cache", str(tmp_path), "--clock", "every:9:40:40", "--planes", "0", "--workers", "1"]
    VirtualCrops(tmp_path, 7, Clock("every", 9.0, 1, 40.0, 40.0), planes_um=(0,)).stack(0)
    assert virtual.main([*line, "--seeds", "7:8"]) == 0
    assert "1 of 1 embryos" in capsys.readouterr().out
    for wrong in (["--seeds", "8:7"], ["--seeds", "7:8", "--clock", "daily"], ["--seeds", "7:8", "--planes", "7"]):
        with pytest.raises(SystemExit):
            virtual.main([*line, *wrong])
        assert "error" in capsys.readouterr().err

"""Data sets behind one interface: the virtual incubator's cache, the public layouts with their defects, splits."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.locate import crop_embryo, locate
from engines.manifest import Preprocess
from engines.preprocess import fit_stack, locate_in
from monitor.simulator import VirtualEmbryo
from monitor.simulator.truth import put_masks
from training.datasets import label_clock, nantes, still, survey, virtual
from training.datasets.clock import Clock
from training.datasets.cropped import Cropped
from training.datasets.embryo import PHASES, DatasetError, Embryo, Grades, outcome_of
from training.datasets.splits import split, split_stratified
from training.datasets.stored import StoredEmbryo
from training.datasets.virtual import Settings, VirtualCrops, fill

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_pictures = pytest.mark.skipif(not DATA.is_dir(), reason="the pictures to try on (../shared/data) are not here")

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


@pytest.mark.parametrize("seed", range(3))
def test_a_stream_has_every_frame_of_its_window_and_elsewhere_what_opens_each_segment(seed: int) -> None:
    hours_h = Clock.read("stream:10:60:78:168").hours_h(seed)
    elapsed_s = np.round((hours_h - hours_h[0]) * 3600).astype(int)
    assert (elapsed_s % 600 == 0).all()
    within = (hours_h >= 60) & (hours_h < 78)
    assert within.sum() == 108
    assert (elapsed_s[~within] % (6 * 3600) == 0).all()
    assert np.unique(elapsed_s // (6 * 3600)).tolist() == list(range(len(set(elapsed_s // (6 * 3600)))))
    assert 162 <= hours_h[-1] < 168
    assert hours_h[0] == pytest.approx(Clock.read("segments:1").hours_h(seed)[0], abs=1 / 3600)


def test_a_clock_is_read_from_a_word_of_the_command_line() -> None:
    assert Clock.read("hourly").hours_h(0).tolist() == [float(h) for h in range(1, 127)]
    assert Clock.read("every:0.5:3:5").hours_h(9).tolist() == [3.0, 3.5, 4.0, 4.5, 5.0]
    assert Clock.read("every:2").last_h == 126.0
    for wrong in (
        "daily",
        "every",
        "every:0",
        "every:x",
        "segments",
        "segments:1.5",
        "hourly:3",
        "every:1:9:2",
        "stream:10:9",
        "stream:10:9:8",
    ):
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


def test_a_cached_stack_is_what_the_monitor_would_give_a_model_that_looks_at_the_embryo(drawn: VirtualCrops) -> None:
    images = dict(zip(drawn.planes_um, VirtualEmbryo(11).stack(110.0, 250, drawn.planes_um), strict=True))
    how = Preprocess(
        planes_um=drawn.planes_um,
        height_px=112,
        width_px=112,
        mean=0.5,
        std=0.2,
        allowed_plane_counts=(3,),
        crop="embryo",
    )
    assert np.array_equal(drawn.stack(2), fit_stack(images, how, locate_in(images)))


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


# --- the time-lapse set of Nantes


def one_video(
    root: Path, video: str = "AB12-3", runs: tuple[int, ...] = (1, 2, 4), labels: str = "t2,1,2\nt4,3,5\n"
) -> Path:
    """A tiny copy of the set with one video; each picture's gray is 10 times its run, plus its plane in um."""
    for plane_um in (0, 15):
        folder = root / ("embryo_dataset" if plane_um == 0 else f"embryo_dataset_F{plane_um}") / video
        (folder / "F0").mkdir(parents=True)
        for run in runs:
            gray = np.full((120, 120), 10 * (run % 20) + plane_um, np.uint8)
            for where in (folder, folder / "F0"):  # the set's own second copy
                cv2.imwrite(str(where / f"D2013.01.28_S0717_I132_WELL7_RUN{run}.jpeg"), gray)
    for name in ("embryo_dataset_annotations", "embryo_dataset_time_elapsed"):
        (root / name).mkdir(exist_ok=True)
    (root / "embryo_dataset_annotations" / f"{video}_phases.csv").write_text(labels)
    rows = "".join(f"{run},{20 + 0.25 * run:.4f}\n" for run in range(max(runs) + 1))
    (root / "embryo_dataset_time_elapsed" / f"{video}_timeElapsed.csv").write_text("frame_index,time\n" + rows)
    return root


def test_a_video_is_joined_by_run_numbers_although_runs_are_missing_and_frame_0_has_no_picture(tmp_path: Path) -> None:
    video = nantes.read_video(one_video(tmp_path), "AB12-3")
    assert isinstance(video, Embryo)
    assert (video.group, video.runs, video.planes_um) == ("AB12", (1, 2, 4), (0, 15))
    assert video.hours_h.tolist() == [20.25, 20.5, 21.0]
    assert video.phases == ("t2", "t2", "t4")
    assert [int(video.stack(t)[:, 60, 60].round(-1).min()) for t in range(3)] == [10, 20, 40]
    assert "1 runs have no picture" in video.notes
    assert "starts late, at 20.2 h" in video.notes


def test_the_second_copy_in_a_folder_f0_is_left_alone(tmp_path: Path) -> None:
    root = one_video(tmp_path)
    for path in (root / "embryo_dataset" / "AB12-3" / "F0").iterdir():
        path.write_bytes(b"another copy")
    assert len(nantes.read_video(root, "AB12-3").files) == 3
    assert nantes.video_names(root) == ["AB12-3"]


def test_a_missing_plane_is_filled_with_the_nearest_and_a_truncated_picture_names_its_file(tmp_path: Path) -> None:
    root = one_video(tmp_path)
    folder = root / "embryo_dataset_F15" / "AB12-3"
    (folder / "D2013.01.28_S0717_I132_WELL7_RUN2.jpeg").unlink()
    whole = folder / "D2013.01.28_S0717_I132_WELL7_RUN4.jpeg"
    whole.write_bytes(whole.read_bytes()[:-30])
    video = nantes.read_video(root, "AB12-3")
    filled = video.stack(1)
    assert np.array_equal(filled[0], filled[1])
    with pytest.raises(DatasetError, match=r"F15.AB12-3.*RUN4\.jpeg: truncated"):
        video.stack(2)


def test_labels_on_the_slow_clock_are_told_and_moved_only_when_asked(tmp_path: Path) -> None:
    labels = "tPB2,15,99\nt2,100,124\nt4,125,250\n"
    root = one_video(tmp_path, runs=tuple(range(1, 201)), labels=labels)
    as_released, put_right = (nantes.read_video(root, "AB12-3", put) for put in (False, True))
    assert as_released.phases[99] == "t2"
    assert any("0.2-h clock" in note for note in as_released.notes)
    assert [put_right.phases.index(phase) + 1 for phase in ("tPB2", "t2", "t4")] == [12, 80, 100]
    assert put_right.phases[78] == "tPB2"
    assert any("moved" in note for note in put_right.notes)


def test_a_blastocyst_labelled_behind_the_last_picture_has_not_failed(tmp_path: Path) -> None:
    """On the slow clock its label lies beyond the pictures; whichever clock is right, it became one."""
    root = one_video(tmp_path, runs=tuple(range(1, 401)), labels="t2,1,300\ntM,301,440\ntB,441,500\n")
    for put_right in (False, True):
        video = nantes.read_video(root, "AB12-3", put_right)
        assert video.hours_h[-1] > 117.2 and video.reaches_blastocyst is True


def test_a_picture_that_is_gone_is_named_although_its_crop_is_kept(tmp_path: Path) -> None:
    video = nantes.read_video(one_video(tmp_path), "AB12-3")
    cropped = Cropped(video, side_px=32, cache=tmp_path / "cache")
    cropped.stack(0)
    video.files[0][0].unlink()
    with pytest.raises(DatasetError, match=r"RUN1\.jpeg: .*"):
        cropped.stack(0)


def test_a_correct_video_says_nothing_of_clocks(tmp_path: Path) -> None:
    video = nantes.read_video(one_video(tmp_path, runs=(1, 2, 3), labels="t2,1,2\nt4,3,3\n"), "AB12-3")
    assert not [note for note in video.notes if "clock" in note]


@pytest.mark.parametrize(
    ("file", "text", "fault"),
    [
        ("embryo_dataset_annotations/AB12-3_phases.csv", "t2,1\n", "line 1 has 2 columns"),
        ("embryo_dataset_annotations/AB12-3_phases.csv", "t2,1,2\nt99,3,4\n", "line 2: `t99,3,4`"),
        ("embryo_dataset_annotations/AB12-3_phases.csv", "t2,9,2\n", "line 1: `t2,9,2`"),
        ("embryo_dataset_time_elapsed/AB12-3_timeElapsed.csv", "index,time\n1,2\n", "no column frame_index"),
        ("embryo_dataset_time_elapsed/AB12-3_timeElapsed.csv", "frame_index,time\n1,soon\n", "line 2: could not"),
        ("embryo_dataset_time_elapsed/AB12-3_timeElapsed.csv", "frame_index,time\n1,3\n2,3\n", "frame 2 is not later"),
        ("embryo_dataset_time_elapsed/AB12-3_timeElapsed.csv", "frame_index,time\n", "no hour of any picture"),
        ("embryo_dataset_grades.csv", "video_name,TE,ICM\nAB12-3,A,X\n", "line 2: icm 'X'"),
    ],
)
def test_a_damaged_table_is_named_with_its_line_and_the_other_videos_are_read(
    tmp_path: Path, file: str, text: str, fault: str
) -> None:
    root = one_video(one_video(tmp_path), "CD4-1")
    (root / file).write_text(text)
    with pytest.raises(DatasetError, match=f"{Path(file).name}.*{fault}"):
        nantes.read_video(root, "AB12-3")
    videos, faults = nantes.read_videos(root)
    assert [video.name for video in videos] == ([] if "grades" in file else ["CD4-1"])
    assert len(videos) + len(faults) == 2


def test_grades_of_the_set_go_to_their_videos_and_na_is_no_grade(tmp_path: Path) -> None:
    root = one_video(one_video(tmp_path), "CD4-1")
    (root / "embryo_dataset_grades.csv").write_text("video_name,TE,ICM\nAB12-3,B,A\nCD4-1,NA,NA\n")
    graded = {video.name: video.grades for video in nantes.read_videos(root)[0]}
    assert graded == {"AB12-3": Grades(None, "A", "B"), "CD4-1": None}


def test_a_folder_that_is_not_the_set_says_what_the_set_looks_like(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="embryo_dataset/<VIDEO>"):
        nantes.read_videos(tmp_path)


@needs_pictures
def test_the_real_videos_are_read_and_the_known_wrong_clock_is_put_right_to_a_frame(tmp_path: Path) -> None:
    videos, faults = nantes.read_videos(DATA / "nantes")
    assert [(video.name, video.group, len(video.files)) for video in videos] == [
        ("AA83-7", "AA83", 285),
        ("AAL839-6", "AAL839", 430),
    ]
    assert not faults
    assert 95 not in videos[1].runs
    assert videos[0].stack(0).shape == (1, 500, 500)
    assert (videos[0].reaches_blastocyst, videos[1].reaches_blastocyst) == (None, True)
    wrong = DATA / "nantes" / "embryo_dataset_annotations" / "AAL839-6_phases.as_released.csv"
    spans = [(row[0], int(row[1]), int(row[2])) for row in (line.split(",") for line in wrong.read_text().split())]
    moved = nantes.on_the_pictures_clock(spans, videos[1].runs, videos[1].hours_h)
    for phase, first, _ in moved:
        own = videos[1].phases.index(phase)
        assert abs(videos[1].runs[own] - first) <= 1


# --- single pictures


def gray(path: Path, level: int = 90, side_px: int = 120) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((side_px, side_px), level, np.uint8))
    return path


def test_kromp_codes_become_gardner_grades(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        gray(tmp_path / name)
    table = tmp_path / "train.csv"
    table.write_text("a.png,0,0,2\nb.png,4,3,1\n")
    first, second = still.read_kromp(tmp_path, table)
    assert (first.grades, second.grades) == (Grades(1, "A", "C"), Grades(5, None, "B"))
    assert first.stack(0).shape == (1, 120, 120)
    assert first.reaches_blastocyst and not first.hours_known
    table.write_text("Image;EXP;ICM;TE\na.png;3;1;0\n")
    assert still.read_kromp(tmp_path, table)[0].grades == Grades(4, "B", "A")


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("c.png,1,1,1", "line 2: there is no picture"),
        ("a.png,1,1,1", "line 2: a.png stands here twice"),
        ("b.png,5,1,1", "line 2: .* EXP is 0 to 4"),
        ("b.png,1,-1,1", "line 2: .* EXP is 0 to 4"),
        ("b.png,1,x,1", "line 2: invalid literal"),
        ("b.png,1,1", "line 2 has 3 columns"),
    ],
)
def test_a_row_of_kromps_table_that_cannot_be_is_named(tmp_path: Path, row: str, fault: str) -> None:
    for name in ("a.png", "b.png"):
        gray(tmp_path / name)
    (tmp_path / "train.csv").write_text(f"a.png,0,0,2\n{row}\n")
    with pytest.raises(DatasetError, match=rf"train\.csv: {fault}"):
        still.read_kromp(tmp_path, tmp_path / "train.csv")


def test_what_the_simulator_writes_for_blasts_online_is_read_back(tmp_path: Path) -> None:
    seed = next(s for s in range(100) if virtual.Life.sample(s).expansion_at(116.0) >= 3)
    drawn = VirtualEmbryo(seed)
    put_masks(tmp_path, "Blast PCRM 12", drawn, 116.0, 150)
    (one,) = still.read_blasts_online(tmp_path)
    assert (one.name, one.planes_um) == ("Blast PCRM 12", (0,))
    assert np.array_equal(one.stack(0)[0], drawn.stack(116.0, 150)[3])
    masks, truth = one.masks(0), drawn.masks(116.0, 150)
    assert masks is not None
    assert all(np.array_equal(masks[part] == 255, truth[part]) for part in ("ICM", "TE", "ZP"))


def test_the_sets_own_letter_case_is_forgiven_but_not_a_mask_without_picture(tmp_path: Path) -> None:
    gray(tmp_path / "Images" / "Blast 1.BMP")
    for name in ("GT_ICM/Blast 1 ICM_Mask.bmp", "GT_TE/Blast 1 TE_mask.BMP", "GT_ZP/blast 1 ZP_Mask.bmp"):
        gray(tmp_path / name, 255)
    (one,) = still.read_blasts_online(tmp_path)
    masks = one.masks(0)
    assert masks is not None and masks["TE"].min() == 255
    lonely = gray(tmp_path / "GT_TE" / "Blast 2 TE_Mask.bmp")
    with pytest.raises(DatasetError, match=r"Blast 2 TE_Mask\.bmp: is a mask without a picture"):
        still.read_blasts_online(tmp_path)
    lonely.unlink()
    gray(tmp_path / "Images" / "Blast 3.BMP")
    with pytest.raises(DatasetError, match="no ICM mask for 'blast 3'"):
        still.read_blasts_online(tmp_path)


def stork(root: Path, rows: str) -> Path:
    for plane_um in (-15, 0):
        gray(root / "77" / f"77_F{plane_um}.jpg", 100 + plane_um)
    (root / "index.csv").write_text("file,embryo,plane_um,grade,quality\n" + rows)
    return root


def test_a_stork_embryo_has_its_planes_and_no_gardner_expansion(tmp_path: Path) -> None:
    root = stork(tmp_path, "77/77_F0.jpg,77,0,1B-B+,poor\n77/77_F-15.jpg,77,-15,1B-B+,poor\n")
    (one,) = still.read_stork(root)
    assert (one.planes_um, one.grades) == ((-15, 0), Grades(None, "B", "B"))
    assert one.said == {"grade": "1B-B+", "quality": "poor"}
    assert [int(plane.mean()) for plane in one.stack(0)] == [85, 100]


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ("77/77_F9.jpg,77,9,3AA,good\n", "line 2: there is no picture"),
        ("77/77_F0.jpg,77,0,3AA,good\n77/77_F-15.jpg,77,-15,3AB,good\n", "line 3: embryo 77 is"),
        ("77/77_F0.jpg,77,mid,3AA,good\n", "line 2: invalid literal"),
        ("77/77_F0.jpg,77,0,AA3,good\n", "'AA3' is not a grade"),
    ],
)
def test_a_stork_index_that_cannot_be_is_named(tmp_path: Path, rows: str, fault: str) -> None:
    with pytest.raises(DatasetError, match=rf"index\.csv: {fault}"):
        still.read_stork(stork(tmp_path, rows))


@needs_pictures
def test_the_real_stork_embryos_have_seven_planes_and_known_grades() -> None:
    embryos = still.read_stork(DATA / "stork")
    assert len(embryos) == 10
    assert {embryo.planes_um for embryo in embryos} == {(-45, -30, -15, 0, 15, 30, 45)}
    assert sum(embryo.said["quality"] == "good" for embryo in embryos) == 5
    assert embryos[0].stack(0).shape == (7, 500, 500)


@needs_pictures
def test_generated_pictures_carry_their_stage_and_tuning_never_meets_the_report() -> None:
    tune, report = (still.read_generated(DATA / "stagegen", part) for part in ("tune", "report"))
    assert (len(tune), len(report)) == (150, 150)
    assert not {one.name for one in tune} & {one.name for one in report}
    assert {one.phases for one in tune} == {("t2",), ("t4",), ("t8",), ("tM",), ("tB",)}


# --- cut out


def test_a_stored_embryo_is_cut_exactly_like_a_drawn_one(tmp_path: Path) -> None:
    drawn = VirtualCrops(tmp_path / "cache", seed=11, clock=Clock("every", 1.0, 1, 70.0, 70.0), planes_um=(-15, 0))
    for plane_um, picture in zip((-15, 0), VirtualEmbryo(11).stack(70.0, 250, (-15, 0)), strict=True):
        cv2.imwrite(str(tmp_path / f"{plane_um}.png"), picture)
    stored = StoredEmbryo("x", "test", "x", (-15, 0), ({um: tmp_path / f"{um}.png" for um in (-15, 0)},))
    cut = Cropped(stored)
    assert isinstance(cut, Embryo)
    assert np.array_equal(cut.stack(0), drawn.stack(0))
    assert cut.embryo_confidence(0) == drawn.embryo_confidence[0]


def test_a_cut_frame_is_decoded_once_and_anew_when_its_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "0.png"
    cv2.imwrite(str(path), VirtualEmbryo(11).stack(70.0, 250, (0,))[0])
    cut = Cropped(StoredEmbryo("x", "test", "x", (0,), ({0: path},)), side_px=64, cache=tmp_path / "cache")
    first = cut.stack(0)
    assert first.shape == (1, 64, 64)
    stamp = path.stat().st_mtime_ns
    (kept,) = (tmp_path / "cache").rglob("*.npy")
    np.save(kept, np.zeros_like(first))
    assert not cut.stack(0).any(), "read from the cache"
    cv2.imwrite(str(path), VirtualEmbryo(12).stack(70.0, 250, (0,))[0])
    assert path.stat().st_mtime_ns != stamp
    assert cut.stack(0).any()


def test_masks_are_cut_where_the_picture_is_cut(tmp_path: Path) -> None:
    seed = next(s for s in range(100) if virtual.Life.sample(s).expansion_at(110.0) == 3)
    drawn = VirtualCrops(tmp_path / "cache", seed, Clock("every", 1.0, 1, 110.0, 110.0), planes_um=(0,))
    frame, masks = VirtualEmbryo(seed).stack(110.0, 250, (0,))[0], VirtualEmbryo(seed).masks(110.0, 250)
    cv2.imwrite(str(tmp_path / "0.png"), frame)
    for part in still.MASKS:
        cv2.imwrite(str(tmp_path / f"{part}.png"), masks[part].astype(np.uint8) * 255)
    marked = ({part: tmp_path / f"{part}.png" for part in still.MASKS},)
    cut = Cropped(StoredEmbryo("x", "test", "x", (0,), ({0: tmp_path / "0.png"},), mask_files=marked))
    own, other = cut.masks(0), drawn.masks(0)
    assert own is not None and other is not None
    assert all(np.array_equal(own[part], other[part]) for part in still.MASKS)


# --- splits


def stub(name: str, group: str, outcome: bool = True) -> StoredEmbryo:
    return StoredEmbryo(name, "test", group, (0,), ({0: Path("none.png")},), reaches_blastocyst=outcome)


SHARES = {"train": 0.7, "validation": 0.15, "test": 0.15}
some_embryos = st.lists(st.tuples(st.integers(0, 40), st.booleans()), min_size=1, max_size=120).map(
    lambda drawn: [stub(str(i), f"couple {couple}", outcome) for i, (couple, outcome) in enumerate(drawn)]
)


@settings(max_examples=60, deadline=None)
@given(some_embryos, st.booleans())
def test_a_split_keeps_everybody_once_and_cuts_no_group(embryos: list[StoredEmbryo], stratified: bool) -> None:
    parts = (
        split_stratified(embryos, SHARES, lambda one: one.reaches_blastocyst) if stratified else split(embryos, SHARES)
    )
    assert sorted(one.name for part in parts.values() for one in part) == sorted(one.name for one in embryos)
    groups = [{one.group for one in part} for part in parts.values()]
    assert sum(len(part) for part in groups) == len(set().union(*groups))


@settings(max_examples=30, deadline=None)
@given(some_embryos)
def test_a_groups_part_does_not_change_when_others_join_or_the_order_changes(embryos: list[StoredEmbryo]) -> None:
    few = split(embryos[::2][::-1], SHARES)
    many = {one.name: part for part, own in split(embryos, SHARES).items() for one in own}
    assert all(many[one.name] == part for part, own in few.items() for one in own)


def test_a_stratified_split_spreads_the_rare_label_and_another_salt_is_another_split() -> None:
    embryos = [stub(str(i), f"couple {i // 2}", outcome=i % 20 not in (0, 1)) for i in range(400)]
    parts = split_stratified(embryos, SHARES, lambda one: one.reaches_blastocyst)
    rare = {name: sum(not one.reaches_blastocyst for one in part) for name, part in parts.items()}
    assert rare == {"train": 28, "validation": 6, "test": 6}
    assert [len(part) for part in parts.values()] == [280, 60, 60]
    again = split_stratified(embryos[::-1], SHARES, lambda one: one.reaches_blastocyst)
    assert {one.name for one in again["test"]} == {one.name for one in parts["test"]}
    other = split_stratified(embryos, SHARES, lambda one: one.reaches_blastocyst, salt="2")
    assert {one.name for one in other["test"]} != {one.name for one in parts["test"]}


def test_plain_shares_are_met_within_chance_and_impossible_ones_refused() -> None:
    parts = split([stub(str(i), str(i)) for i in range(4000)], SHARES)
    assert len(parts["train"]) == pytest.approx(2800, abs=90)
    for wrong in ({}, {"a": 0.5}, {"a": 1.2, "b": -0.2}):
        with pytest.raises(ValueError, match="add up to 1"):
            split([], wrong)


# --- what a set holds, and whether its labels were made on its pictures


class Jolted:
    """An embryo that moves at known frames and is still in between; a frame every 15 minutes."""

    name, source, group, planes_um, hours_known, grades, reaches_blastocyst = "j", "test", "j", (0,), True, None, None
    moves_at = (80, 100, 140, 148, 190, 240)

    def __init__(self, factor: float = 1.0) -> None:
        self.hours_h = 1.0 + 0.25 * np.arange(320)
        onsets = {round(factor * t): phase for t, phase in zip(self.moves_at, PHASES[2:], strict=False)}
        phase, labels = None, []
        for t in range(320):
            phase = onsets.get(t, phase)
            labels.append(phase)
        self.phases = tuple(labels)

    def stack(self, t: int) -> np.ndarray:
        rng = np.random.default_rng(sum(t >= moved for moved in self.moves_at))
        scene = cv2.GaussianBlur(rng.normal(0, 60, (112, 112)).astype(np.float32), (0, 0), 4)
        noise = np.random.default_rng((1, t)).normal(0, 2, (112, 112))
        return np.clip(110 + 6 * scene + noise, 0, 255).astype(np.uint8)[None]

    def masks(self, t: int) -> None:
        return None


def test_labels_made_on_the_slow_clock_are_told_from_labels_made_on_the_pictures() -> None:
    right, slow = (label_clock.fit_of(Jolted(factor)) for factor in (1.0, 1.25))
    assert right is not None and slow is not None
    assert right.margin > 1 and "fit as they stand" in str(right)
    assert slow.margin < -1 and "look at it" in str(slow)
    few = Jolted()
    few.phases = tuple("t2" if phase else None for phase in few.phases)
    assert label_clock.fit_of(few) is None


def test_a_survey_counts_a_set_and_names_every_picture_that_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = one_video(one_video(tmp_path), "CD4-1")
    assert survey.main(["nantes", str(root)]) == 0
    said = capsys.readouterr().out
    assert "2 embryos of 2 groups, 6 frames" in said
    assert "AB12-3: starts late" in said
    broken = root / "embryo_dataset" / "AB12-3" / "D2013.01.28_S0717_I132_WELL7_RUN2.jpeg"
    broken.write_bytes(broken.read_bytes()[:-30])
    assert survey.main(["nantes", str(root), "--decode"]) == 1
    said = capsys.readouterr().out
    assert "RUN2.jpeg: truncated" in said
    assert "a blank well?" in said  # these pictures are of one gray
    assert survey.main(["kromp", str(root)]) == 1
    assert "--table" in capsys.readouterr().err

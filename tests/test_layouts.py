"""What a name says: presets, patterns of one's own, and names that are refused at the door."""

import logging
import os
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.errors import ConfigError, FrameError
from monitor.layouts import PRESETS, WORD, layout
from monitor.vocabulary import FileSeen, Moment, Place, PlaneFile

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"
NANTES = "embryo_dataset/AA83-7/D2013.01.28_S0717_I132_WELL7_RUN"
needs_pictures = pytest.mark.skipif(not SHARED.is_dir(), reason="the pictures (../shared/data) are not here")


def read(name: str, path: str, root: Path = Path("/nowhere")) -> PlaneFile | None:
    return layout(name).read("inc1", root, FileSeen(path, 1, 2))


def refused(name: str, path: str) -> None:
    with pytest.raises(FrameError) as fault:
        read(name, path)
    assert fault.value.reason == "name"


def test_generic_tells_dish_well_moment_and_plane():
    plane = read("generic", "D1/W_3/20260131T061000Z_F-45.jpg")
    assert plane is not None
    assert plane.place == Place("inc1", "D1", "W_3")
    assert plane.moment == Moment(datetime(2026, 1, 31, 6, 10, tzinfo=timezone.utc))
    assert plane.moment.key == "20260131T061000Z"
    assert plane.plane_um == -45


@pytest.mark.parametrize("ending", ["jpg", "JPG", "jpeg", "png", "tif", "TIFF", "bmp"])
def test_generic_takes_every_kind_of_picture_in_upper_and_lower_case(ending):
    assert read("generic", f"D1/1/20260131T061000Z_F0.{ending}") is not None


@pytest.mark.parametrize(
    "path",
    [
        "D1/1/20260131T061000Z.jpg",
        "D1/1/20261331T061000Z_F0.jpg",  # month 13
        "D1/1/20260131T061000_F0.jpg",
        "D1/1/00010101T000000Z_F0.jpg",  # no camera: such a time breaks reckoning with skews
        "D1/1/99991231T235959Z_F0.jpg",
        "D1/20260131T061000Z_F0.jpg",
        "D1/1/2/20260131T061000Z_F0.jpg",
        "D1/1/20260131T061000Z_F1.5.jpg",
        "D1/1/20260131T061000Z_F+15.jpg",
        "D1/1/٢٠٢٦٠١٣١T٠٦١٠٠٠Z_F٠.jpg",  # digits, but not ours
    ],
)
def test_a_picture_that_does_not_fit_the_layout_is_refused_by_name(path):
    refused("generic", path)


@pytest.mark.parametrize(
    "word",
    [
        "a+b",
        "a#b",
        "..",
        ".",
        "a b",
        "a\x00b",
        "a\nb",
        "embryo\n",
        "é",
        "胚",
        "d" * 65,
        "d" * 300,
        "",
        "a\\xff",
        "$SYS",
    ],
)
@pytest.mark.parametrize("path", ["{}/1/20260131T061000Z_F0.jpg", "D1/{}/20260131T061000Z_F0.jpg"])
def test_words_that_could_not_stand_in_a_topic_are_refused(word, path):
    refused("generic", path.format(word))


def test_a_name_of_four_thousand_characters_is_refused_with_a_short_detail():
    with pytest.raises(FrameError) as fault:
        read("generic", "d" * 4096 + "/1/20260131T061000Z_F0.jpg")
    assert len(fault.value.detail) < 300


@given(st.text(), st.text(max_size=80))
def test_a_name_is_read_ignored_or_refused_and_what_is_read_is_made_of_topic_words(dish, leaf):
    for preset in PRESETS:
        for path in (f"{dish}/{leaf}.jpg", f"{dish}/1/{leaf}_F0.png", f"{dish}/1/20260131T061000Z_F0.jpg", dish):
            try:
                plane = read(preset, path)
            except FrameError as fault:
                assert fault.reason == "name"
                continue
            if plane is not None:
                assert all(WORD.match(word) for word in (plane.place.dish, plane.place.well))


@pytest.mark.parametrize(
    "path",
    [
        "D1/1/.20260131T061000Z_F0.jpg",
        "D1/1/20260131T061000Z_F0.jpg.part",
        "D1/1/20260131T061000Z_F0.jpg.tmp",
        "D1/1/20260131T061000Z_F0.jpg~",
        "D1/1/Thumbs.db",
        "log.txt",
        ".Trash-1000/files/20260131T061000Z_F0.jpg",
        ".snapshot/D1/1/20260131T061000Z_F0.jpg",
    ],
)
def test_hidden_temporary_and_other_files_are_no_frames_and_no_fault(path):
    assert read("generic", path) is None


# -- the public set ----------------------------------------------------------------------------------------------------


@pytest.fixture
def nantes(tmp_path: Path) -> Path:
    (tmp_path / "embryo_dataset_time_elapsed").mkdir()
    return tmp_path


def time_file(root: Path, text: str, video: str = "AA83-7") -> Path:
    path = root / "embryo_dataset_time_elapsed" / f"{video}_timeElapsed.csv"
    path.write_text(text)
    return path


def test_nantes_reads_the_plane_from_the_folder_and_the_number_from_the_name(nantes):
    name = "D2013.01.28_S0717_I132_WELL7_RUN12.jpeg"
    for folder, plane_um in (("embryo_dataset", 0), ("embryo_dataset_F-15", -15), ("embryo_dataset_F45", 45)):
        plane = read("nantes", f"{folder}/AA83-7/{name}", nantes)
        assert plane is not None
        assert (plane.place, plane.plane_um) == (Place("inc1", "AA83-7", "1"), plane_um)
        assert plane.moment == Moment(run=12)
        assert plane.moment.key == "run12"


def test_nantes_reads_names_with_and_without_p(nantes):
    assert read("nantes", "embryo_dataset/V/D2011.12.29_S0674_I132_P_WELL1_RUN7.jpeg", nantes) is not None


def test_nantes_orders_unpadded_numbers_as_numbers(nantes):
    planes = [read("nantes", f"{NANTES}{run}.jpeg", nantes) for run in (10, 9, 100)]
    assert sorted(planes, key=lambda plane: plane.moment.order)[0].moment.run == 9


def test_nantes_takes_hours_from_the_time_file_and_index_0_has_no_picture(nantes):
    time_file(nantes, "frame_index,time\n0,0.0\n1,18.5\n2,18.75\n")
    assert read("nantes", f"{NANTES}1.jpeg", nantes).moment.hours == 18.5
    assert read("nantes", f"{NANTES}2.jpeg", nantes).moment.hours == 18.75


def test_nantes_hours_are_unknown_without_a_time_file_or_without_the_frames_row(nantes):
    assert read("nantes", f"{NANTES}1.jpeg", nantes).moment.hours is None
    time_file(nantes, "frame_index,time\n1,18.5\n")
    assert read("nantes", f"{NANTES}2.jpeg", nantes).moment.hours is None


@pytest.mark.parametrize(
    "text",
    [
        "frame_index,time\n1,18.5\n2,1o.7\n",
        "1,18.5\n",
        "frame_index,time\n1\n",
        "frame_index,time\n1,nan\n",
        "\x00\xff",
    ],
)
def test_a_damaged_time_file_gives_unknown_hours_and_is_logged(nantes, caplog, text):
    time_file(nantes, text)
    with caplog.at_level(logging.ERROR):
        assert read("nantes", f"{NANTES}1.jpeg", nantes).moment.hours is None
    assert "time file" in caplog.text


def test_a_time_file_with_a_field_beyond_all_limits_is_damaged_too(nantes, caplog):
    time_file(nantes, "frame_index,time\n1," + "9" * 200_000 + "\n")
    assert read("nantes", f"{NANTES}1.jpeg", nantes).moment.hours is None
    assert "time file" in caplog.text


def test_a_time_file_that_is_put_right_is_read_again(nantes):
    path = time_file(nantes, "frame_index,time\n1,x\n")
    assert read("nantes", f"{NANTES}1.jpeg", nantes).moment.hours is None
    time_file(nantes, "frame_index,time\n1,18.5\n")
    os.utime(path, ns=(1, 10**18))
    assert read("nantes", f"{NANTES}1.jpeg", nantes).moment.hours == 18.5


def test_a_share_that_is_away_does_not_make_hours_unknown(nantes, monkeypatch):
    path = time_file(nantes, "frame_index,time\n1,18.5\n")
    opened = Path.open

    def away(self, *rest, **more):
        if self == path:
            raise OSError(5, "Input/output error")
        return opened(self, *rest, **more)

    monkeypatch.setattr(Path, "open", away)
    with pytest.raises(OSError, match="Input"):
        read("nantes", f"{NANTES}1.jpeg", nantes)
    monkeypatch.undo()
    assert read("nantes", f"{NANTES}1.jpeg", nantes).moment.hours == 18.5


def test_nantes_ignores_the_sets_own_second_copies(nantes):
    assert read("nantes", "embryo_dataset/AA83-7/F0/D2013.01.28_S0717_I132_WELL7_RUN1.jpeg", nantes) is None


def test_nantes_ignores_what_is_no_picture_and_refuses_other_pictures(nantes):
    assert read("nantes", "embryo_dataset_annotations/AA83-7_phases.csv", nantes) is None
    refused("nantes", "embryo_dataset/AA83-7/picture1.jpeg")


# -- an EmbryoScope's export, and stacks in one file -------------------------------------------------------------------

SLIDE = "D2013.01.28_S0717_I132"


@pytest.mark.parametrize(
    ("folder", "name", "dish", "well"),
    [
        ("T-2013", "_WELL7_RUN12.jpg", "T-2013", "7"),
        ("T", "_P_WELL7_RUN12.JPG", "T", "7"),
        ("AA83-7", "_WELL7_RUN12.jpg", "AA83", "7"),
        ("AA-83-7", "_WELL7_RUN12.jpeg", "AA-83", "7"),
        ("AA83-7", "_WELL3_RUN12.jpg", "AA83-7", "3"),  # a treatment of that name, with its wells
        ("AA83-17", "_WELL7_RUN12.jpg", "AA83-17", "7"),
        ("-7", "_WELL7_RUN12.jpg", "-7", "7"),
    ],
)
def test_embryoscope_reads_the_folder_as_dish_or_as_slide_and_well(folder, name, dish, well):
    plane = read("embryoscope", f"{folder}/F-45/{SLIDE}{name}")
    assert plane is not None
    assert (plane.place, plane.plane_um, plane.page) == (Place("inc1", dish, well), -45, None)
    assert (plane.moment.key, plane.moment.order, plane.moment.slide) == ("run12", 12.0, SLIDE)


def test_embryoscope_takes_the_hour_from_the_file_and_nothing_else_of_it():
    path = f"D1/F0/{SLIDE}_WELL7_RUN12.jpg"
    seen = datetime(2026, 1, 31, 6, 10, 5, 700_000, timezone.utc)
    plane = layout("embryoscope").read("inc1", Path("/nowhere"), FileSeen(path, 1, int(seen.timestamp() * 1e9)))
    assert plane is not None
    assert (plane.moment.captured_at, plane.moment.at) == (None, seen.replace(microsecond=0))
    assert plane.moment.key == "run12"


@pytest.mark.parametrize(
    "path",
    [
        "D1/D2013.01.28_S0717_I132_WELL7_RUN12.jpg",
        "D1/F0/D2013.01.28_S0717_I132_WELL7.jpg",
        "D1/F0/20260131T061000Z_F0.jpg",
        "D 1/F0/D2013.01.28_S0717_I132_WELL7_RUN12.jpg",
        "D1/Fx/D2013.01.28_S0717_I132_WELL7_RUN12.jpg",
    ],
)
def test_embryoscope_refuses_other_pictures(path):
    refused("embryoscope", path)


def test_a_tiff_stack_stands_for_every_declared_plane_in_ascending_order_of_pages():
    stack = read("tiff-stack", "D1/3/20260131T061000Z.TIFF")
    assert stack is not None
    assert (stack.place, stack.moment.key) == (Place("inc1", "D1", "3"), "20260131T061000Z")
    planes = layout("tiff-stack").planes_of(stack, (15, -15, 0))
    assert [(plane.plane_um, plane.page) for plane in planes] == [(-15, 0), (0, 1), (15, 2)]
    assert {plane.file for plane in planes} == {stack.file}


@pytest.mark.parametrize("path", ["D1/1/20260131T061000Z.png", "D1/1/20260131T061000Z_F0.tif", "D1/1/stack.tif"])
def test_tiff_stack_refuses_other_pictures(path):
    refused("tiff-stack", path)


# -- one moment, and patterns of one's own -----------------------------------------------------------------------------


def test_single_moment_has_one_moment_well_1_and_assumes_day_5():
    plane = read("single-moment", "23765483/23765483_F-45.jpg")
    assert plane is not None
    assert (plane.place, plane.moment, plane.plane_um) == (Place("inc1", "23765483", "1"), Moment(), -45)
    assert plane.moment.key == "only"
    assert layout("single-moment").assumed_hpi == 116.0


def test_single_moment_refuses_a_picture_in_another_embryos_folder():
    refused("single-moment", "23765483/23765484_F0.jpg")


def test_a_pattern_of_ones_own_is_read_by_its_groups():
    pattern = r"(?P<dish>[^_]+)_(?P<well>\d+)_(?P<captured_at>\d{14})_(?P<plane>[+-]\d+)\.png"
    plane = read(pattern, "D7_12_20260131061000_+15.png")
    assert plane is not None
    assert plane.place == Place("inc1", "D7", "12")
    assert plane.moment.key == "20260131T061000Z"
    assert plane.plane_um == 15


def test_a_pattern_with_only_a_dish_is_well_1_plane_0_and_the_only_moment():
    plane = read(r"(?P<dish>.+)\.png", "D7.png")
    assert plane is not None
    assert (plane.place.well, plane.plane_um, plane.moment.key) == ("1", 0, "only")


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        (r"(?P<dish>\w+)_(?P<run>[^.]+)\.png", "D1_twelve.png"),
        (r"(?P<dish>\w+)_(?P<run>[^.]+)\.png", "D1_" + "9" * 200 + ".png"),
        (r"(?P<dish>\w+)_(?P<plane>[^.]+)\.png", "D1_upper.png"),
        (r"(?P<dish>[a-z]+)?\d\.png", "1.png"),
        (r"(?P<dish>\w+)_(?P<captured_at>[^.]+)\.png", "D1_yesterday.png"),
    ],
)
def test_what_a_loose_pattern_lets_through_is_still_refused_and_never_a_crash(pattern, path):
    refused(pattern, path)


@pytest.mark.parametrize(
    "text",
    [
        "embryoscop",
        "",
        r"(?P<dish>[^/]+/x",
        r"(?P<well>\d+)\.png",
        r"(?P<dish>\d+)_(?P<patient>\w+)\.png",
        r"(?P<dish>\d+)_(?P<run>\d+)_(?P<captured_at>\d+)\.png",
    ],
)
def test_a_bad_layout_is_a_configuration_error_that_lists_what_is_known(text):
    with pytest.raises(ConfigError) as fault:
        layout(text)
    for known in (*PRESETS, "dish", "captured_at"):
        assert known in str(fault.value)
    assert repr(text) in str(fault.value)


# -- real names --------------------------------------------------------------------------------------------------------


@needs_pictures
def test_every_file_of_the_public_videos_is_read_with_its_hour():
    root = SHARED / "nantes"
    paths = [path.relative_to(root).as_posix() for path in (root / "embryo_dataset").rglob("*.jpeg")]
    planes = [read("nantes", path, root) for path in paths]
    assert len(planes) == 715
    assert all(plane is not None and plane.moment.hours is not None for plane in planes)
    assert len({(plane.place, plane.moment.key) for plane in planes if plane}) == 715


@needs_pictures
def test_every_file_of_the_blastocysts_is_read_seven_planes_each():
    root = SHARED / "stork"
    planes = [read("single-moment", path.relative_to(root).as_posix(), root) for path in root.rglob("*.jpg")]
    assert len(planes) == 70
    assert {plane.plane_um for plane in planes if plane} == {-45, -30, -15, 0, 15, 30, 45}
    assert len({plane.place for plane in planes if plane}) == 10

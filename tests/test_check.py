"""What `check` says of a folder: how its files would be read, what would not, and what to set."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monitor.check import Finding, folder_findings
from monitor.config import Incubator
from tests.house import PLANES_UM, START, FakeClock, picture, plane_path, write_frame

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason="the real pictures (../shared/data) are not beside the checkout"
)
MIN = timedelta(minutes=1)


def findings(folder: Path, **settings: object) -> list[Finding]:
    incubator = Incubator.model_validate({"name": "inc1", "path": folder, **settings})
    return list(folder_findings(incubator, clock=FakeClock(START + timedelta(days=30))))


def said(folder: Path, what: str, **settings: object) -> str:
    """The findings on one thing, a line each, with their level."""
    found = [f"{each.level} {each.detail}" for each in findings(folder, **settings) if each.what == f"inc1 {what}"]
    return "\n".join(found)


def test_it_tells_embryos_frames_and_the_interval_with_a_cadence_to_set(tmp_path: Path) -> None:
    for well in ("1", "2"):
        for minutes in (0, 10, 20, 60):
            write_frame(tmp_path, well, START + minutes * MIN)
    assert "ok" in said(tmp_path, "folder") and "2 embryos, 8 frames, 8 with all planes" in said(tmp_path, "folder")
    interval = "10.0 min between frames (median; 10.0 to 40.0), by the names' clock"
    assert said(tmp_path, "interval") == f"ok {interval}; cadence_min = 10 would flag longer waits"
    assert said(tmp_path, "interval", cadence_min=10) == f"ok {interval}"
    assert "warning" in said(tmp_path, "interval", cadence_min=1)


def test_what_does_not_fit_is_counted_by_reason_with_three_examples(tmp_path: Path) -> None:
    write_frame(tmp_path, "1", START)
    write_frame(tmp_path, "1", START + 10 * MIN, (60,))
    write_frame(tmp_path, "1", START + timedelta(days=32), (0,))
    for number in range(4):
        write_frame(tmp_path, f"w+{number}", START, (0,))
    plane_path(tmp_path, "1", START, 0).with_suffix(".jpeg").write_bytes(picture())
    text = said(tmp_path, "folder")
    assert "warning 7 files would be put aside: 1 clock, 1 duplicate, 4 name, 1 plane; for example " in text
    assert text.count("w+") == 4  # three examples, and what is said of the first
    assert "planes [60] um are not declared" in text


def test_it_names_the_layout_that_would_read_what_the_one_that_is_set_does_not(tmp_path: Path) -> None:
    for run in (1, 2):
        path = tmp_path / "T1" / "F0" / f"D2026.01.05_S1_I1_WELL7_RUN{run}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture())
    text = said(tmp_path, "folder")
    assert "warning layout 'embryoscope' would read 2 of 2 pictures, 'generic' reads 0" in text
    assert "set layout = 'embryoscope'" in text
    assert "would read" not in said(tmp_path, "folder", layout="embryoscope", planes=[0])


@pytest.mark.parametrize(("apart_s", "expected"), [(600, "ok 10.0 min"), (0, "warning 0.0 min")])
def test_an_archive_copied_without_its_times_is_found_out(tmp_path: Path, apart_s: int, expected: str) -> None:
    for run in (1, 2, 3):
        path = tmp_path / "T1" / "F0" / f"D2026.01.05_S1_I1_WELL7_RUN{run}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture())
        os.utime(path, (START.timestamp() + run * apart_s,) * 2)
    text = said(tmp_path, "interval", layout="embryoscope", planes=[0])
    assert text.startswith(expected) and "the files' own time" in text
    assert ("copied without their times" in text) == (apart_s == 0)


def test_frames_that_only_have_numbers_say_that_nothing_tells_their_time(tmp_path: Path) -> None:
    for run in (1, 2):
        path = tmp_path / "embryo_dataset" / "V1" / f"D2013.01.28_S1_I1_WELL7_RUN{run}.jpeg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture())
    assert said(tmp_path, "interval", layout="nantes", planes=[0]).startswith("warning nothing tells the time")


def test_two_slides_in_a_well_are_said(tmp_path: Path) -> None:
    for slide in ("D2026.01.05_S1_I1", "D2026.01.05_S2_I1"):
        path = tmp_path / "T1" / "F0" / f"{slide}_WELL7_RUN1.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture())
        os.utime(path, (START.timestamp(),) * 2)
    text = said(tmp_path, "folder", layout="embryoscope", planes=[0])
    assert "2 embryos, 2 frames" in text
    assert "warning 1 wells hold several slides, for example inc1/T1/7 holds D2026.01.05_S1_I1, D2026.01.05_S2" in text


def test_it_tells_what_the_pictures_are_and_how_wide_the_field_is(tmp_path: Path) -> None:
    write_frame(tmp_path, "1", START)
    assert said(tmp_path, "pictures") == "ok 24 x 24 px JPEG, 8 bits gray; 7 looked into"
    told = "ok 24 x 24 px JPEG, 8 bits gray; a picture is 24 x 24 px, about 12 um wide; 7 looked into"
    assert said(tmp_path, "pictures", pixel_size_um=0.5) == told


def test_pictures_of_two_sizes_and_pictures_that_do_not_decode_are_warned_of(tmp_path: Path) -> None:
    write_frame(tmp_path, "1", START)
    plane_path(tmp_path, "1", START, 0).write_bytes(picture(size_px=32))
    plane_path(tmp_path, "1", START, 15).write_bytes(b"")
    text = said(tmp_path, "pictures")
    assert "warning 24 x 24 px JPEG, 8 bits gray (5); 32 x 32 px JPEG, 8 bits gray (1)" in text
    assert "warning 7 looked into, 1 of them cannot be used: 1 empty; for example" in text


@pytest.mark.parametrize(("most", "warned"), [(4095, True), (60_000, False)])
def test_a_camera_that_leaves_the_upper_bits_empty_is_found_out(tmp_path: Path, most: int, warned: bool) -> None:
    path = plane_path(tmp_path, "1", START, 0).with_suffix(".png")
    path.parent.mkdir(parents=True)
    Image.fromarray(np.linspace(0, most, 400).reshape(20, 20).astype(np.uint16)).save(path)
    text = said(tmp_path, "pictures", planes=[0])
    assert "20 x 20 px PNG, 16 bits gray" in text
    assert ("needs 12 of 16 bits" in text) == warned


def test_a_stack_of_other_pages_than_planes_is_said_with_both_counts(tmp_path: Path) -> None:
    pages = [Image.fromarray(np.full((20, 20), 9 * k, np.uint8)) for k in range(5)]
    path = tmp_path / "D1" / "1" / "20260105T080000Z.tif"
    path.parent.mkdir(parents=True)
    pages[0].save(path, save_all=True, append_images=pages[1:])
    assert "1 of them cannot be used: 1 pages" in said(tmp_path, "pictures", layout="tiff-stack")
    assert "holds 5 pages, 7 planes are declared" in said(tmp_path, "pictures", layout="tiff-stack")
    assert "20 x 20 px TIFF, 8 bits gray, 5 pages" in said(
        tmp_path, "pictures", layout="tiff-stack", planes=PLANES_UM[:5]
    )


def test_it_changes_nothing(tmp_path: Path) -> None:
    write_frame(tmp_path, "1", START)
    long_ago = datetime(2020, 1, 1, tzinfo=timezone.utc).timestamp()
    for path in tmp_path.rglob("*.jpg"):
        os.utime(path, (long_ago, long_ago))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    findings(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@needs_data
def test_the_public_videos_are_told_as_they_are() -> None:
    settings = {"layout": "nantes", "planes": [0]}
    assert "2 embryos, 715 frames, 715 with all planes" in said(DATA / "nantes", "folder", **settings)
    assert said(DATA / "nantes", "interval", **settings).startswith("ok 15.2 min between frames")
    assert "500 x 500 px JPEG, 8 bits gray; 40 looked into" in said(DATA / "nantes", "pictures", **settings)
    assert "layout 'single-moment' would read 70 of 70 pictures" in said(DATA / "stork", "folder")

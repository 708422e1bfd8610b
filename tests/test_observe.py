"""Is a picture fit to be judged: the limits refuse what shows nothing and pass every real frame."""

from pathlib import Path

import numpy as np
import pytest

from monitor.observe import observe
from monitor.pictures import read_plane
from monitor.vocabulary import FileSeen, FocalStack, Gray, Moment, Place, PlaneFile, PlaneImage

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"
PLACE = Place("inc1", "D1", "1")
PICTURE = np.random.default_rng(1).integers(20, 120, (32, 32)).astype(np.uint8)


def stack(*grays: Gray, **more) -> FocalStack:
    images = tuple(
        PlaneImage(PlaneFile(PLACE, Moment(), plane, FileSeen(f"{plane}", 1, 1)), gray, "d")
        for plane, gray in enumerate(grays)
    )
    return FocalStack(PLACE, Moment(), images, **({"missing_um": ()} | more))


def level(gray: int) -> Gray:
    return np.full((32, 32), gray, np.uint8)


def test_a_good_picture_is_fit_and_has_no_flag():
    seen = observe(stack(PICTURE, PICTURE))
    assert (seen.fit, seen.flags) == (True, ())


@pytest.mark.parametrize("gray", [60, 200, 255])
def test_a_well_that_shows_nothing_is_blank(gray):
    seen = observe(stack(level(gray), level(gray)))
    assert (seen.fit, seen.flags) == (False, ("blank",))


@pytest.mark.parametrize("gray", [0, 7])
def test_a_picture_without_light_is_dark(gray):
    seen = observe(stack(level(gray), level(gray)))
    assert (seen.fit, seen.flags) == (False, ("dark",))


def test_one_plane_that_shows_something_is_enough():
    assert observe(stack(level(0), PICTURE, level(60))).fit


def test_a_stack_with_a_missing_or_broken_plane_is_flagged_and_still_fit():
    seen = observe(stack(PICTURE, missing_um=(15,), broken=("a.jpg",)))
    assert (seen.fit, seen.flags) == (True, ("broken_planes", "missing_planes"))


def test_a_lacking_stack_is_not_fit():
    seen = observe(stack(PICTURE, missing_um=(15,), lacking=True))
    assert (seen.fit, seen.flags) == (False, ("lacking", "missing_planes"))


def test_a_stack_without_pictures_is_not_fit():
    seen = observe(stack(missing_um=(0,), broken=("a.jpg",), lacking=True))
    assert not seen.fit
    assert seen.flags == ("broken_planes", "lacking", "missing_planes")


def test_a_picture_of_one_pixel_is_measured_too():
    assert observe(stack(np.array([[50]], np.uint8))).flags == ("blank",)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the pictures (../shared/data) are not here")
def test_every_real_frame_is_fit():
    videos = sorted((SHARED / "nantes" / "embryo_dataset").rglob("*.jpeg"))[::16]
    blastocysts = sorted((SHARED / "stork").rglob("*.jpg"))[::4]
    assert len(videos) + len(blastocysts) > 55
    for path in videos + blastocysts:
        assert observe(stack(read_plane(path)[0])).flags == (), path.name

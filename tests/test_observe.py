"""Is a picture fit to be judged: the limits refuse what shows nothing and pass every real frame."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from monitor.observe import Limits, Plane, measure_plane, observe, sharpest_of, unfit_for
from monitor.pictures import read_plane
from monitor.simulator import PLANES_UM, VirtualEmbryo
from monitor.vocabulary import FileSeen, FocalStack, Gray, Measured, Moment, Place, PlaneFile, PlaneImage
from tests.degraded import blurred, darkened, emptied

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"
PLACE = Place("inc1", "D1", "1")
PICTURE = np.random.default_rng(1).integers(20, 120, (32, 32)).astype(np.uint8)
LIMITS = Limits()
needs_pictures = pytest.mark.skipif(not SHARED.is_dir(), reason="the pictures (../shared/data) are not here")


def stack(*grays: Gray, **more) -> FocalStack:
    images = tuple(
        PlaneImage(PlaneFile(PLACE, Moment(), plane, FileSeen(f"{plane}", 1, 1)), gray, "d")
        for plane, gray in enumerate(grays)
    )
    return FocalStack(PLACE, Moment(), images, **({"missing_um": ()} | more))


def level(gray: int, side_px: int = 32) -> Gray:
    return np.full((side_px, side_px), gray, np.uint8)


def flags(*grays: Gray) -> tuple[str, ...]:
    return observe(stack(*grays)).flags


def test_a_good_picture_is_fit_and_has_no_flag():
    seen = observe(stack(PICTURE, PICTURE))
    assert (seen.fit, seen.flags) == (True, ())


@pytest.mark.parametrize(
    ("gray", "word"), [(0, "dark"), (7, "dark"), (60, "blank"), (200, "blank"), (240, "bright"), (255, "bright")]
)
def test_a_picture_that_shows_nothing_is_dark_blank_or_bright(gray, word):
    seen = observe(stack(level(gray), level(gray)))
    assert (seen.fit, seen.flags) == (False, (word,))


def test_one_plane_that_shows_something_is_enough():
    seen = observe(stack(level(0), PICTURE, level(60)))
    assert seen.fit
    assert seen.measured is not None
    assert seen.measured.sharpest_plane_um == 1


def test_of_planes_that_show_nothing_the_brightest_is_measured():
    assert flags(level(0), level(60)) == ("blank",)


def test_a_stack_with_a_missing_or_broken_plane_is_flagged_and_still_fit():
    seen = observe(stack(PICTURE, missing_um=(15,), broken=("a.jpg",)))
    assert (seen.fit, seen.flags) == (True, ("broken_planes", "missing_planes"))


def test_a_lacking_stack_is_not_fit():
    seen = observe(stack(PICTURE, missing_um=(15,), lacking=True))
    assert (seen.fit, seen.flags) == (False, ("lacking", "missing_planes"))


def test_a_stack_without_pictures_is_not_fit_and_nothing_is_measured():
    seen = observe(stack(missing_um=(0,), broken=("a.jpg",), lacking=True))
    assert not seen.fit
    assert seen.flags == ("broken_planes", "lacking", "missing_planes")
    assert seen.measured is None


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (4, 3), (5, 5), (124, 124), (126, 700)])
def test_a_picture_of_any_shape_is_measured(shape):
    assert flags(np.full(shape, 50, np.uint8)) == ("blank",)


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((16.0, 5.0, 1.0), []),
        ((15.9, 0.0, 0.0), ["dark"]),
        ((220.0, 40.0, 1.0), []),
        ((220.1, 0.0, 0.0), ["bright"]),
        ((100.0, 2.6, 0.68), []),
        ((100.0, 2.59, 0.68), ["blank"]),
        ((100.0, 2.6, 0.679), ["blurred"]),
        ((100.0, 1.0, 0.5), ["blank", "blurred"]),
        ((100.0, 0.0, 0.0), ["blank"]),
    ],
)
def test_the_words_follow_from_the_numbers_the_reading_tells(numbers, words):
    mean_gray, contrast_gray, sharpness = numbers
    told = Measured(mean_gray=mean_gray, contrast_gray=contrast_gray, sharpness=sharpness, sharpest_plane_um=0)
    assert unfit_for(told, Limits(16.0, 220.0, 0.026, 0.68)) == words


def test_limits_of_an_incubators_own_are_used():
    assert observe(stack(PICTURE), Limits(mean_gray=90.0)).flags == ("dark",)


def virtual(size_px: int = 500, seed: int = 3, hpi_h: float = 60.0) -> np.ndarray:
    return VirtualEmbryo(seed).stack(hpi_h, size_px)


def test_burnt_in_text_makes_no_dark_or_blank_picture_fit():
    for gray in (2, 60):
        picture = level(gray, 500)
        cv2.putText(picture, "WELL 7  2026-01-05 08:10", (4, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 255, 2)
        cv2.putText(picture, "17.3 h  F0", (330, 490), cv2.FONT_HERSHEY_SIMPLEX, 0.8, 255, 2)
        assert flags(picture) == flags(level(gray, 500))


def test_a_well_without_its_embryo_is_never_fit_and_nearly_always_blank():
    wells = [flags(*VirtualEmbryo(seed).empty(50.0, 250)) for seed in range(20)]  # dust and bubbles lie in some
    assert all(wells)
    assert sum("blank" in one for one in wells) >= 18


def test_the_numbers_do_not_depend_on_how_many_pixels_the_camera_has():
    picture = virtual()[3]
    small, large = (cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA) for side in (250, 375))
    odd = cv2.resize(picture, (801, 801), interpolation=cv2.INTER_LINEAR)
    whole = measure_plane(picture)
    for camera in (small, large, odd, np.kron(picture, np.ones((2, 2), np.uint8))):
        other = measure_plane(camera)
        assert other.mean_gray == pytest.approx(whole.mean_gray, rel=0.01)
        assert other.middle_gray == pytest.approx(whole.middle_gray, rel=0.05)
        assert other.sharpness == pytest.approx(whole.sharpness, rel=0.12)  # an enlarged picture is a little softer


def test_sharpness_is_the_same_in_half_the_light():
    picture = virtual()[3]
    assert measure_plane(darkened(picture, 0.5)).sharpness == pytest.approx(measure_plane(picture).sharpness, rel=0.05)


def test_the_sharpest_plane_is_found_where_the_others_are_softened():
    picture = virtual(250)[3]
    planes = [blurred(picture, abs(k - 2) * 2 + 0.1) for k in range(5)]
    measured = sharpest_of(stack(*planes).images)
    assert measured is not None
    assert measured.sharpest_plane_um == 2
    assert measured == sharpest_of(stack(*planes).images)


def test_a_flat_plane_has_no_sharpness():
    for gray in (1, 50, 100, 173):
        assert measure_plane(level(gray, 200)).sharpness == 0.0
    assert Plane(50.0, 0.0, 0.0).sharpness == 0.0


@pytest.mark.parametrize("size_px", [64, 250])
def test_every_frame_that_the_demo_draws_is_fit(size_px):
    for seed in range(4):
        embryo = VirtualEmbryo(seed)
        for hpi_h in range(0, 120, 24):
            assert flags(*embryo.stack(hpi_h, size_px)) == (), (seed, hpi_h)
    assert len(PLANES_UM) == 7


# -- real pictures -----------------------------------------------------------------------------------------------------


def videos(step: int = 1) -> list[Path]:
    return sorted((SHARED / "nantes" / "embryo_dataset").rglob("*.jpeg"))[::step]


def blastocysts(step: int = 1) -> list[Path]:
    return sorted((SHARED / "stork").rglob("*.jpg"))[::step]


def generated(step: int = 1) -> list[Path]:
    return sorted((SHARED / "stagegen").rglob("*.png"))[::step]


def pictures(step: int) -> list[Gray]:
    return [read_plane(path)[0] for path in videos(step) + blastocysts(step) + generated(step)]


@needs_pictures
def test_every_real_frame_is_fit():
    paths = videos(16) + blastocysts(4) + generated(10)
    assert len(paths) > 90
    for path in paths:
        assert flags(read_plane(path)[0]) == (), path.name


# the share of pictures for which each word may be said: (least, most)
FAULTS: list[tuple[str, Callable[[Gray], Gray], dict[str, tuple[float, float]]]] = [
    ("2 px of blur", partial(blurred, sigma_px=2), {"fit": (1, 1)}),
    ("4 px of blur", partial(blurred, sigma_px=4), {"blurred": (0.1, 0.35), "blank": (0, 0)}),
    ("5 px of blur", partial(blurred, sigma_px=5), {"blurred": (0.8, 1), "blank": (0, 0.02)}),
    ("6 px of blur", partial(blurred, sigma_px=6), {"fit": (0, 0), "blurred": (0.98, 1), "blank": (0, 0.08)}),
    ("12 px of blur", partial(blurred, sigma_px=12), {"fit": (0, 0), "blurred": (0.9, 1)}),
    ("16 px of blur", partial(blurred, sigma_px=16), {"fit": (0, 0), "blank": (1, 1)}),
    ("half the light", partial(darkened, factor=0.5), {"fit": (1, 1)}),
    ("a quarter", partial(darkened, factor=0.25), {"dark": (0.3, 0.5), "blank": (0, 0), "blurred": (0, 0)}),
    ("a tenth", partial(darkened, factor=0.1), {"dark": (1, 1)}),
    ("six times", partial(darkened, factor=6), {"bright": (1, 1)}),
    ("no embryo", emptied, {"blank": (1, 1), "blurred": (0, 0.03)}),
    ("no embryo, half", lambda gray: darkened(emptied(gray), 0.5), {"blank": (1, 1), "blurred": (0, 0.03)}),
]


def shares(grays: list[Gray], fault: Callable[[Gray], Gray]) -> dict[str, float]:
    told = [flags(fault(gray)) or ("fit",) for gray in grays]
    words = ("fit", "dark", "bright", "blank", "blurred")
    return {word: sum(word in one for one in told) / len(told) for word in words}


def wrong_shares(grays: list[Gray], names: set[str]) -> list[str]:
    return [
        f"{name}: {word} for {found[word]:.3f}"
        for name, fault, expected in FAULTS
        if name in names
        for found in (shares(grays, fault),)
        for word, (least, most) in expected.items()
        if not least <= found[word] <= most
    ]


@needs_pictures
def test_real_frames_made_worse_fail_from_the_stated_strength_on():
    grays = pictures(80)
    assert len(grays) > 12
    assert not wrong_shares(grays, {"2 px of blur", "6 px of blur", "half the light", "a tenth", "no embryo"})


@needs_pictures
@pytest.mark.slow
def test_the_strengths_at_which_every_sixth_picture_fails_are_those_the_limits_state():
    assert not wrong_shares(pictures(6), {name for name, _, _ in FAULTS})


def stated() -> dict[str, list[tuple[float, float]]]:
    """The ranges in the docstring of Limits: which pictures -> (least, most) of mean, ratio and sharpness."""
    found = {}
    for line in (Limits.__doc__ or "").splitlines():
        words = line.replace(",", "").split()
        if "mean_gray" in words and "to" in words:
            numbers = [float(word) for word in words[words.index("mean_gray") :] if word[0] in ".0123456789"]
            found[" ".join(words[: words.index("mean_gray")])] = list(zip(numbers[::2], numbers[1::2], strict=True))
    return found


@needs_pictures
@pytest.mark.slow
def test_the_figures_that_the_limits_were_set_on_are_measured_again():
    single = {name: [sharpest_of(stack(read_plane(path)[0]).images) for path in paths] for name, paths in {
        "715 public EmbryoScope frames": videos(),
        "each of their 70 planes": blastocysts(),
        "300 generated stagegen": generated(),
    }.items()}  # fmt: skip
    planes = [read_plane(path)[0] for path in blastocysts()]
    single["10 STORK stacks of 7 planes"] = [sharpest_of(stack(*planes[k : k + 7]).images) for k in range(0, 70, 7)]
    single["1880 virtual stacks"] = [
        sharpest_of(stack(*embryo.stack(hpi_h, 250)).images)
        for embryo in map(VirtualEmbryo, range(40))
        for hpi_h in range(0, 140, 3)
    ]
    assert set(stated()) == set(single)
    for name, rows in single.items():
        assert not any(unfit_for(row, LIMITS) for row in rows), name
        numbers = np.array([(row.mean_gray, row.contrast_gray / row.mean_gray, row.sharpness) for row in rows])
        for column, (least, most), rough in zip(numbers.T, stated()[name], (0.06, 0.0006, 0.006), strict=True):
            assert (column.min(), column.max()) == (pytest.approx(least, abs=rough), pytest.approx(most, abs=rough)), (
                name
            )


@pytest.mark.parametrize("side_px", range(1, 40))
def test_a_picture_of_any_size_is_measured(side_px: int) -> None:
    gray = np.random.default_rng(0).integers(0, 255, (side_px, side_px + 3)).astype(np.uint8)
    plane = measure_plane(gray)
    assert np.isfinite([plane.mean_gray, plane.fine_gray, plane.sharpness]).all()

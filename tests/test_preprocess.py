"""Preprocessing: which plane stands in for a missing one, what of a picture is seen, and as which numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.contract import EngineError
from engines.locate import Circle, Located
from engines.manifest import Preprocess
from engines.preprocess import fit_plane, fit_stack, locate_in, nearest_plane_um, refilled, to_tensor
from monitor.simulator import VirtualEmbryo
from training.datasets.cut import cut_stack

PLANES_UM = (-45, -30, -15, 0, 15, 30, 45)
thorough = settings(max_examples=50, deadline=None)  # a shared box may pause in any example
offsets_um = st.integers(-100, 100)


def how(height_px: int = 8, width_px: int = 8, counts: tuple[int, ...] = (1, 3, 5, 7)) -> Preprocess:
    return Preprocess(
        planes_um=PLANES_UM, height_px=height_px, width_px=width_px, mean=0.5, std=0.25, allowed_plane_counts=counts
    )


def flat(value: int, height_px: int = 8, width_px: int = 8) -> np.ndarray:
    return np.full((height_px, width_px), value, np.uint8)


@thorough
@given(offsets_um, st.sets(offsets_um, min_size=1).map(lambda found: tuple(sorted(found))))
def test_no_plane_is_nearer_than_the_one_chosen_and_of_two_as_near_it_is_the_lower(wanted: int, there: tuple[int, ...]):
    chosen = nearest_plane_um(wanted, there)
    assert chosen in there
    for other in there:
        assert abs(chosen - wanted) <= abs(other - wanted)
        assert other >= chosen or abs(other - wanted) > abs(chosen - wanted)


@thorough
@given(st.permutations(PLANES_UM))
def test_the_choice_does_not_depend_on_the_order_the_planes_come_in(order: list[int]):
    there = tuple(plane for plane in order if plane not in (0, 15))
    assert nearest_plane_um(0, there) == -15
    assert nearest_plane_um(15, there) == 30


def test_a_tie_goes_to_the_lower_plane():
    assert nearest_plane_um(0, (-15, 15)) == -15


def test_without_a_single_plane_nothing_is_filled():
    with pytest.raises(EngineError, match="without a single plane"):
        nearest_plane_um(0, ())


def test_a_picture_of_the_size_asked_for_is_left_alone():
    image = np.random.default_rng(0).integers(0, 256, (8, 12), np.uint8)
    assert np.array_equal(fit_plane(image, 8, 12), image)


def test_a_wide_picture_loses_its_left_and_right_alike():
    image = flat(100, 8, 20)
    image[:, :6], image[:, 14:] = 0, 255
    assert np.array_equal(fit_plane(image, 8, 8), flat(100))


def test_a_tall_picture_loses_its_top_and_bottom_alike():
    image = flat(100, 20, 8)
    image[:6], image[14:] = 0, 255
    assert np.array_equal(fit_plane(image, 8, 8), flat(100))


def test_a_target_that_is_not_square_crops_to_its_own_shape():
    image = flat(100, 20, 20)
    image[:5], image[15:] = 0, 255
    assert np.array_equal(fit_plane(image, 4, 8), flat(100, 4, 8))


def test_shrinking_averages_the_grain_away():
    checkers = (np.indices((16, 16)).sum(axis=0) % 2 * 200).astype(np.uint8)
    assert np.array_equal(fit_plane(checkers, 8, 8), flat(100))


def test_a_picture_smaller_than_the_target_is_enlarged_and_keeps_its_sides():
    image = np.zeros((4, 4), np.uint8)
    image[:, 2:] = 200
    wide = fit_plane(image, 8, 8)
    assert wide.shape == (8, 8)
    assert (wide[:, 0] == 0).all()
    assert (wide[:, -1] == 200).all()
    assert (np.diff(wide.astype(int), axis=1) >= 0).all()


sides_px = st.integers(1, 40)


@thorough
@given(sides_px, sides_px, sides_px, sides_px, st.integers(0, 255))
def test_any_picture_fits_any_target_and_an_even_gray_stays_that_gray(
    height: int, width: int, wanted_height: int, wanted_width: int, gray: int
):
    fitted = fit_plane(flat(gray, height, width), wanted_height, wanted_width)
    assert fitted.dtype == np.uint8
    assert np.array_equal(fitted, flat(gray, wanted_height, wanted_width))


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(np.full((8, 8), 300, np.uint16), id="16 bits, which would wrap round in 8"),
        pytest.param(np.full((8, 8), 0.5, np.float32), id="floats, which would all be black"),
        pytest.param(np.zeros((8, 8, 3), np.uint8), id="colour"),
        pytest.param(np.zeros((0, 8), np.uint8), id="no pixel"),
    ],
)
def test_what_is_not_an_8_bit_gray_picture_is_refused(image: np.ndarray):
    with pytest.raises(EngineError, match="uint8"):
        fit_plane(image, 8, 8)


def test_the_caller_may_write_over_a_picture_that_was_fitted():
    images = {plane: flat(10) for plane in PLANES_UM}
    stack = fit_stack(images, how())
    images[0][:] = 200
    assert (stack == 10).all()


@thorough
@given(st.permutations(PLANES_UM))
def test_a_stack_is_in_ascending_um_whatever_the_order_of_the_mapping(order: list[int]):
    stack = fit_stack({plane: flat(plane + 100) for plane in order}, how())
    assert stack.shape == (7, 8, 8)
    assert stack[:, 0, 0].tolist() == [plane + 100 for plane in PLANES_UM]


@thorough
@given(st.sets(st.sampled_from(PLANES_UM), min_size=1))
def test_every_missing_plane_shows_the_nearest_one_there(there: set[int]):
    stack = fit_stack({plane: flat(plane + 100) for plane in there}, how(counts=(1, 2, 3, 4, 5, 6, 7)))
    assert stack[:, 0, 0].tolist() == [nearest_plane_um(plane, tuple(sorted(there))) + 100 for plane in PLANES_UM]


def test_planes_of_different_size_meet_in_one_stack():
    images = {plane: flat(50, 10 + index, 30 - index) for index, plane in enumerate(PLANES_UM)}
    assert np.array_equal(fit_stack(images, how()), np.full((7, 8, 8), 50, np.uint8))


@pytest.mark.parametrize("count", [0, 2, 4, 6])
def test_a_number_of_planes_the_model_was_not_trained_on_is_refused_and_named(count: int):
    with pytest.raises(EngineError, match=rf"{count} planes given, the model judges \[1, 3, 5, 7\]"):
        fit_stack({plane: flat(0) for plane in PLANES_UM[:count]}, how())


@thorough
@given(st.integers(0, 255))
def test_a_gray_value_becomes_its_share_of_255_less_mean_over_std(gray: int):
    tensor = to_tensor(np.full((2, 7, 8, 8), gray, np.uint8), how())
    assert tensor.dtype == np.float32
    assert tensor.shape == (2, 7, 8, 8)
    assert np.allclose(tensor, (gray / 255 - 0.5) / 0.25, rtol=0, atol=1e-6)


def test_black_middle_and_white_have_the_numbers_worked_out_by_hand():
    assert to_tensor(np.array([0, 255], np.uint8), how()).tolist() == [-2.0, 2.0]


@thorough
@given(st.lists(st.integers(0, 255), min_size=1, max_size=4))
def test_a_batch_becomes_the_same_numbers_as_its_stacks_alone(grays: list[int]):
    stacks = np.stack([np.full((7, 8, 8), gray, np.uint8) for gray in grays])
    assert np.array_equal(to_tensor(stacks, how()), np.stack([to_tensor(stack, how()) for stack in stacks]))


def test_pixels_that_are_not_8_bit_become_no_tensor():
    with pytest.raises(EngineError, match="uint8"):
        to_tensor(np.zeros((7, 8, 8), np.float32), how())


AROUND = Preprocess(
    planes_um=PLANES_UM,
    height_px=32,
    width_px=32,
    mean=0.5,
    std=0.25,
    allowed_plane_counts=(1, 3, 7),
    crop="embryo",
    width_in_well_radii=1.45,
)


@pytest.fixture(scope="module")
def drawn() -> dict[int, np.ndarray]:
    """Seven planes of a virtual embryo, 250 px."""
    return dict(zip(PLANES_UM, VirtualEmbryo(11).stack(40.0, 250), strict=True))


@pytest.mark.parametrize("there", [PLANES_UM, (-30, 15, 45), (45,)])
def test_the_monitors_crop_is_that_of_training_pixel_for_pixel(
    drawn: dict[int, np.ndarray], there: tuple[int, ...]
) -> None:
    """With all planes, with some (the embryo is then looked for in the one nearest to the middle), with one."""
    images = {plane: drawn[plane] for plane in there}
    ours = fit_stack(images, AROUND, locate_in(images))
    theirs, _ = cut_stack(np.stack(list(images.values())), there, 32, 1.45)
    shown = [there.index(nearest_plane_um(plane, there)) for plane in PLANES_UM]
    assert np.array_equal(ours, theirs[shown])


def test_an_embryo_that_was_not_found_is_looked_for_in_the_wells_middle_at_the_same_scale(
    drawn: dict[int, np.ndarray],
) -> None:
    """What is cut then hangs on the well alone."""
    found = locate_in(drawn)
    unsure = Located(found.well, Circle(3.0, 5.0, 9.0), found.well_confidence, 0.1)
    middle = Located(found.well, found.well, found.well_confidence, 1.0)
    assert np.array_equal(fit_stack(drawn, AROUND, unsure), fit_stack(drawn, AROUND, middle))
    assert not np.array_equal(fit_stack(drawn, AROUND, unsure), fit_stack(drawn, AROUND, found))


def test_a_model_that_looks_at_the_embryo_is_not_given_a_picture_without_a_place(drawn: dict[int, np.ndarray]) -> None:
    with pytest.raises(EngineError, match="where it lies"):
        fit_stack(drawn, AROUND)


def test_in_a_picture_too_small_nothing_is_looked_for() -> None:
    with pytest.raises(EngineError, match="at least 100 px a side"):
        locate_in({0: flat(100, 99, 99)})


def lit_on_one_side(size_px: int = 250) -> np.ndarray:
    """A straight edge between grain and glare: a picture that is fit, in which no well is to be seen."""
    gray = np.clip(np.random.default_rng(0).normal(20, 25, (size_px, size_px)), 0, 255).astype(np.uint8)
    gray[:, size_px // 2 :] = 255
    return gray


def test_a_picture_with_an_edge_across_it_has_no_embryo_and_raises_nothing_the_monitor_does_not_know() -> None:
    """The nearest circle to a straight edge is larger than any well; the middle is looked at, and it is said."""
    found = locate_in({0: lit_on_one_side()})
    assert not found.embryo_is_sure and found.well_confidence == 0.0
    assert found.middle == Circle(124.5, 124.5, 110.0)
    assert fit_stack({plane: lit_on_one_side() for plane in PLANES_UM}, AROUND, found).shape == (7, 32, 32)


def test_a_crop_around_the_embryo_is_square() -> None:
    with pytest.raises(ValueError, match="square"):
        Preprocess(**{**AROUND.model_dump(), "height_px": 16})


def test_planes_taken_away_afterwards_are_filled_as_if_they_had_never_come() -> None:
    images = {plane: flat(plane + 100) for plane in PLANES_UM}
    kept = (-30, 0, 30)
    fewer = fit_stack({plane: images[plane] for plane in kept}, how())
    assert np.array_equal(refilled(fit_stack(images, how()), PLANES_UM, kept), fewer)

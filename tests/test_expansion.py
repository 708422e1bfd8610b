"""Size over time: rate and collapses of courses whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.day5 import label_image
from engines.measure import measure
from monitor.expansion import Course, Sized, course_of
from monitor.simulator import VirtualEmbryo
from monitor.simulator.life import Life
from monitor.simulator.optics import FIELD_UM

STEP_H = 0.25


def course(areas: np.ndarray, step_h: float = STEP_H) -> Course:
    return course_of([Sized(100 + i * step_h, float(area)) for i, area in enumerate(areas)])


def collapsing(depth: float, fall_h: float = 1.0, back_h: float = 4.0) -> tuple[np.ndarray, np.ndarray]:
    """Hours and areas: 10,000 until 105 h, down by `depth`, and back to 10,000."""
    hours_h = np.arange(100, 116, STEP_H)
    areas = np.interp(hours_h, [105, 105 + fall_h, 105 + fall_h + back_h], [1e4, 1e4 * (1 - depth), 1e4])
    return hours_h, areas


@settings(max_examples=40, deadline=None)
@given(st.floats(-300, 600), st.integers(8, 60))
def test_of_a_steady_course_the_rate_is_its_slope(rate: float, frames: int) -> None:
    hours_h = np.arange(frames) * STEP_H
    told = course(20_000 + rate * hours_h)
    assert told.rate_per_h == pytest.approx(rate, abs=1e-6 + 0.02 * abs(rate))


@settings(max_examples=40, deadline=None)
@given(st.floats(0.25, 0.8), st.floats(1.0, 3.0), st.floats(1.5, 6.0))
def test_a_collapse_is_found_with_its_depth_and_its_recovery(depth: float, fall_h: float, back_h: float) -> None:
    hours_h, areas = collapsing(depth, fall_h, back_h)
    (found,) = course_of([Sized(*pair) for pair in zip(hours_h, areas, strict=True)]).collapses
    assert found.depth == pytest.approx(depth, abs=1.2 * depth * STEP_H / min(fall_h, back_h))  # sampled
    assert found.began_h == pytest.approx(105, abs=0.5)
    assert found.lowest_h == pytest.approx(105 + fall_h, abs=0.5)
    assert found.recovered_h == pytest.approx(105 + fall_h + back_h * (1 - 0.05 / depth), abs=0.5)


def test_a_collapse_that_is_not_over_has_no_recovery_and_counts_in_no_rate() -> None:
    hours_h = np.arange(100, 110, STEP_H)
    areas = np.interp(hours_h, [100, 107, 108, 110], [10_000, 13_500, 9_000, 9_500])
    told = course_of([Sized(*pair) for pair in zip(hours_h, areas, strict=True)])
    assert [one.recovered_h for one in told.collapses] == [None]
    assert told.rate_per_h == pytest.approx(500, rel=0.05)


def test_two_collapses_are_two_and_a_shallow_breath_is_none() -> None:
    hours_h = np.arange(100, 130, STEP_H)
    twice = np.interp(hours_h, [105, 106, 109, 115, 117, 121], [1e4, 7e3, 1e4, 1e4, 5e3, 1e4])
    found = course_of([Sized(*pair) for pair in zip(hours_h, twice, strict=True)]).collapses
    assert [round(one.depth, 1) for one in found] == [0.3, 0.5]
    assert course(1e4 + 400 * np.sin(hours_h)).collapses == ()


def test_one_wrong_mask_is_no_collapse_wherever_it_lies() -> None:
    for wrong in range(40):
        areas = np.linspace(10_000, 14_000, 40)
        areas[wrong] *= 0.4
        told = course(areas)
        assert told.collapses == (), wrong
        assert told.rate_per_h == pytest.approx(4000 / 39 / STEP_H, rel=0.15)


def test_too_little_tells_nothing() -> None:
    assert course_of([]) == Course(None, ())
    assert course(np.array([10_000.0])) == Course(None, ())
    assert course(np.array([10_000.0, 10_100.0, 10_200.0])).rate_per_h is None  # within half an hour
    assert course(np.array([10_000.0, 10_100.0, 10_200.0]), step_h=1.0).rate_per_h == pytest.approx(100)


def test_order_does_not_matter_and_unknown_areas_are_refused() -> None:
    hours_h, areas = collapsing(0.4)
    moments = [Sized(*pair) for pair in zip(hours_h, areas, strict=True)]
    assert course_of(moments[::-1]) == course_of(moments)
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="area above 0"):
            course_of([Sized(100.0, wrong)])


def first_collapse() -> tuple[VirtualEmbryo, tuple[float, float, float]]:
    for seed in range(900_000, 901_000):
        life = Life.sample(seed, 0.0)
        deep = [one for one in life.collapses if one[1] > 0.4 and 100 < one[0] < life.hatching_h - 10]
        if len(life.collapses) == 1 and deep:
            return VirtualEmbryo(seed, 0.0), deep[0]
    raise AssertionError("no embryo of these collapses")


def test_a_drawn_collapse_is_found_in_its_true_masks() -> None:
    one, (start_h, _, recovered_h) = first_collapse()
    hours_h = np.arange(start_h - 2, recovered_h + 4, 0.5)
    areas = [measure(label_image(one.masks(float(h), 200)), FIELD_UM / 200).body_area or 0 for h in hours_h]
    found = course_of([Sized(float(h), area) for h, area in zip(hours_h, areas, strict=True)]).collapses
    assert len(found) == 1
    assert found[0].began_h == pytest.approx(start_h, abs=1.5)
    assert found[0].lowest_h < recovered_h

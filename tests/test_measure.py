"""Measurements on drawn shapes whose answers are known, within 2 %."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.contract import EngineError
from engines.day5 import Labels, Part, label_image
from engines.measure import band_thickness_px, measure, perimeter_px
from monitor.simulator import VirtualEmbryo
from monitor.simulator.optics import FIELD_UM

SIDE_PX = 256
WITHIN = 0.02

Mask = np.ndarray


def disc(x_px: float, y_px: float, radius_px: float) -> Mask:
    rows, columns = np.mgrid[:SIDE_PX, :SIDE_PX]
    return np.asarray(np.hypot(columns - x_px, rows - y_px) <= radius_px)


def ellipse(long_px: float, short_px: float, angle_rad: float) -> Mask:
    rows, columns = np.mgrid[:SIDE_PX, :SIDE_PX] - 128.0
    along = columns * np.cos(angle_rad) + rows * np.sin(angle_rad)
    across = rows * np.cos(angle_rad) - columns * np.sin(angle_rad)
    return np.asarray((along / long_px) ** 2 + (across / short_px) ** 2 <= 1)


def blastocyst(
    outer_px: float = 105,
    zona_px: float = 12,
    te_px: float = 9,
    icm_px: float = 22,
    off_px: float = 0,
    x_px: float = 128,
) -> Labels:
    """Discs in each other; the zona's inside lies `off_px` to the right of its outside. The ICM is in the cavity."""
    inner_px = outer_px - zona_px
    labels = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    labels[disc(x_px, 127.3, outer_px)] = Part.ZP
    labels[disc(x_px + off_px, 127.3, inner_px)] = Part.TE
    labels[disc(x_px + off_px, 127.3, inner_px - te_px)] = Part.BLASTOCOEL
    labels[disc(x_px + off_px - 30, 127.3, icm_px)] = Part.ICM
    return labels


shapes = st.fixed_dictionaries(
    {
        "outer_px": st.floats(85, 115),
        "zona_px": st.floats(8, 22),
        "te_px": st.floats(6, 14),
        "icm_px": st.floats(10, 26),
        "x_px": st.floats(126, 130),
    }
)


@settings(max_examples=40, deadline=None)
@given(shapes)
def test_of_concentric_discs_every_measurement_is_right(shape: dict[str, float]) -> None:
    told = measure(blastocyst(**shape))
    body_px = shape["outer_px"] - shape["zona_px"]
    cavity_px = body_px - shape["te_px"]
    assert told.unit == "px"
    assert told.body_area == pytest.approx(np.pi * body_px**2, rel=WITHIN)
    assert told.body_diameter == pytest.approx(2 * body_px, rel=WITHIN)
    assert told.outer_diameter == pytest.approx(2 * shape["outer_px"], rel=WITHIN)
    assert told.icm_area == pytest.approx(np.pi * shape["icm_px"] ** 2, rel=WITHIN)
    assert told.icm_diameter == pytest.approx(2 * shape["icm_px"], rel=WITHIN)
    assert told.icm_roundness == pytest.approx(1.0, rel=WITHIN)
    assert told.zona_thickness_mean == pytest.approx(shape["zona_px"], rel=WITHIN)
    assert told.te_thickness_mean == pytest.approx(shape["te_px"], rel=WITHIN)
    assert told.blastocoel_fraction == pytest.approx((cavity_px**2 - shape["icm_px"] ** 2) / body_px**2, rel=WITHIN)
    assert told.zona_gap == 0


@settings(max_examples=40, deadline=None)
@given(st.floats(90, 115), st.floats(12, 24), st.floats(0, 0.4))
def test_of_an_offset_ring_the_mean_and_the_least_thickness_are_right(
    outer_px: float, zona_px: float, off: float
) -> None:
    told = measure(blastocyst(outer_px=outer_px, zona_px=zona_px, off_px=off * zona_px))
    assert told.zona_thickness_mean == pytest.approx(zona_px, rel=WITHIN)
    assert told.zona_thickness_min == pytest.approx(zona_px * (1 - off), rel=WITHIN, abs=0.35)  # a third of a pixel


@settings(max_examples=40, deadline=None)
@given(st.floats(24, 60), st.floats(0.5, 1.0), st.floats(0, 3.1))
def test_of_an_ellipse_area_diameter_and_roundness_are_right(long_px: float, ratio: float, angle_rad: float) -> None:
    short_px = ratio * long_px
    labels = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    labels[ellipse(long_px, short_px, angle_rad)] = Part.ICM
    told = measure(labels)
    h = ((long_px - short_px) / (long_px + short_px)) ** 2
    around_px = np.pi * (long_px + short_px) * (1 + 3 * h / (10 + np.sqrt(4 - 3 * h)))  # Ramanujan
    assert told.icm_area == pytest.approx(np.pi * long_px * short_px, rel=WITHIN)
    assert told.icm_diameter == pytest.approx(2 * np.sqrt(long_px * short_px), rel=WITHIN)
    assert told.icm_roundness == pytest.approx(4 * np.pi * np.pi * long_px * short_px / around_px**2, rel=WITHIN)


@pytest.mark.parametrize("gap_rad", [0.3, 0.8, 1.4])
def test_an_open_zona_is_as_thick_as_it_was_and_says_how_open_it_is(gap_rad: float) -> None:
    labels = blastocyst()
    rows, columns = np.mgrid[:SIDE_PX, :SIDE_PX] - 127.5
    labels[(labels == Part.ZP) & (np.abs(np.arctan2(rows, columns)) < gap_rad)] = 0
    told = measure(labels)
    assert told.zona_thickness_mean == pytest.approx(12, rel=WITHIN)
    assert told.zona_thickness_min == pytest.approx(12, rel=WITHIN)
    assert told.zona_gap == pytest.approx(gap_rad / np.pi, abs=0.03)


def test_a_zona_cut_by_the_edge_of_the_picture_keeps_its_thickness_and_loses_gap_and_outer_diameter() -> None:
    whole, cut = measure(blastocyst()), measure(np.ascontiguousarray(blastocyst()[:, :200]))
    assert cut.zona_thickness_mean == pytest.approx(whole.zona_thickness_mean, rel=WITHIN)
    assert (cut.zona_gap, cut.outer_diameter) == (None, None)
    assert whole.zona_gap == 0


@given(st.floats(0.1, 3.0))
@settings(max_examples=10, deadline=None)
def test_with_a_pixel_size_lengths_scale_with_it_and_areas_with_its_square(um_per_px: float) -> None:
    plain, told = measure(blastocyst()), measure(blastocyst(), um_per_px)
    assert told.unit == "um"
    for name in ("body_diameter", "icm_diameter", "outer_diameter", "zona_thickness_min", "te_thickness_mean"):
        assert getattr(told, name) == pytest.approx(getattr(plain, name) * um_per_px)
    assert told.icm_area == pytest.approx((plain.icm_area or 0) * um_per_px**2)
    assert told.icm_roundness == plain.icm_roundness
    assert told.blastocoel_fraction == pytest.approx(plain.blastocoel_fraction)


def test_turning_or_mirroring_the_picture_changes_no_measurement() -> None:
    labels = label_image(VirtualEmbryo(900_001, arrest_share=0.0).masks(116.0, 300))
    plain = measure(labels)
    for turned in (np.rot90(labels), labels[::-1], labels.T):
        told = measure(np.ascontiguousarray(turned))
        for name in ("body_area", "zona_thickness_mean", "te_thickness_mean", "icm_roundness", "blastocoel_fraction"):
            assert getattr(told, name) == pytest.approx(getattr(plain, name), rel=1e-3)
        assert told.zona_thickness_min == pytest.approx(plain.zona_thickness_min, rel=0.04)


def test_a_few_wrong_pixels_beside_the_embryo_change_no_thickness_and_no_roundness() -> None:
    labels = blastocyst()
    speckled = labels.copy()
    speckled[5:9, 5:9], speckled[240:244, 10:13], speckled[10:14, 240:244] = Part.ZP, Part.TE, Part.ICM
    plain, told = measure(labels), measure(speckled)
    for name in ("zona_thickness_mean", "zona_thickness_min", "te_thickness_mean", "icm_roundness"):
        assert getattr(told, name) == pytest.approx(getattr(plain, name), rel=0.01)


def test_what_is_not_there_is_none() -> None:
    nothing = measure(np.zeros((64, 64), np.uint8))
    assert {value for name, value in vars(nothing).items() if name != "unit"} == {None}
    zona_only = np.where(blastocyst() == Part.ZP, int(Part.ZP), 0).astype(np.uint8)
    told = measure(zona_only)
    assert (told.icm_area, told.blastocoel_fraction, told.te_thickness_mean) == (None, None, None)
    assert told.zona_thickness_mean == pytest.approx(12, rel=WITHIN)


def test_the_outline_of_a_square_turned_on_its_corner_is_no_staircase() -> None:
    rows, columns = np.mgrid[:SIDE_PX, :SIDE_PX] - 128
    diamond = (np.abs(rows) + np.abs(columns) <= 60).astype(np.uint8)
    assert perimeter_px(diamond) == pytest.approx(4 * 60 * np.sqrt(2), rel=WITHIN)
    assert band_thickness_px(np.zeros((9, 9), np.uint8)) is None


@pytest.mark.parametrize("um_per_px", [0.0, -1.0, float("nan"), float("inf")])
def test_a_pixel_without_a_width_is_refused(um_per_px: float) -> None:
    with pytest.raises(EngineError, match="um_per_px"):
        measure(blastocyst(), um_per_px)


@pytest.mark.parametrize("labels", [np.full((9, 9), 5, np.uint8), np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9))])
def test_what_are_no_labels_is_refused(labels: np.ndarray) -> None:
    with pytest.raises(EngineError, match="labels"):
        measure(labels)


def test_as_a_drawn_embryo_expands_its_zona_thins_and_its_cavity_grows() -> None:
    one = VirtualEmbryo(900_003, arrest_share=0.0)
    hours_h = (one.life.onsets_h["tB"], one.life.onsets_h["tEB"] + 8.0)
    early, late = (measure(label_image(one.masks(hour_h, 400)), FIELD_UM / 400) for hour_h in hours_h)
    assert (late.zona_thickness_mean or 99) < 0.7 * (early.zona_thickness_mean or 0)
    assert (late.blastocoel_fraction or 0) > (early.blastocoel_fraction or 1)
    assert 90 < (early.body_diameter or 0) < (late.body_diameter or 0) < 230

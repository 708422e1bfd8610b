"""The crop of day 5: found in wells and in still pictures, and "no embryo found" where there is none."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from engines.blastocyst import Found, NotFound, find_in_still, find_in_well, sharpest_plane
from engines.contract import EngineError
from engines.day5 import Part, label_image
from engines.pieces import split_neighbours
from monitor.simulator import VirtualEmbryo

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
STORK = DATA / "stork"
TUNING = ("23765483", "27002081", "32176207", "32898300", "33996213")
real = pytest.mark.skipif(not STORK.is_dir(), reason="the pictures to try on (../shared/data) are not here")

Gray = np.ndarray
DAY_5_H = 116.0


@lru_cache(maxsize=16)
def embryo(seed: int) -> VirtualEmbryo:
    return VirtualEmbryo(seed, arrest_share=0.0)


def parts_kept(found: Found, labels: Gray) -> float:
    """Share of the cells' and the cavity's pixels that lie in the square."""
    inside = (Part.ICM, Part.BLASTOCOEL, Part.TE)
    kept = np.isin(found.square.cut_labels(labels), inside).sum() * found.square.step_px**2
    return float(kept / np.isin(labels, inside).sum())


@lru_cache(maxsize=4)
def still_picture(seed: int, neighbour: bool = False) -> tuple[Gray, Gray]:
    """(480, 640) gray and its labels: a drawn blastocyst without its well, a little off the middle; or two."""
    rows, columns = np.mgrid[:480, :640]
    light = 120 + 20 * np.sin(columns / 400) + rows / 32
    labels = np.zeros((480, 640), np.uint8)
    for k, at in enumerate([(350.0, 230.0), (60.0, 250.0)][: 1 + neighbour]):
        one = embryo(seed + 1000 * k)
        x_px, y_px, radius_px = one.truth_at(DAY_5_H, 500).embryo
        drawn, bare = (s[3].astype(np.float32) + 4 for s in (one.stack(DAY_5_H, 500), one.empty(DAY_5_H, 500)))
        away = np.hypot(np.arange(500)[None] - x_px, np.arange(500)[:, None] - y_px)
        factor = 1 + (cv2.medianBlur(drawn / bare, 3) - 1) * np.clip((1.25 * radius_px - away) / 20, 0, 1)
        move = np.array([[1, 0, at[0] - x_px], [0, 1, at[1] - y_px]])
        light = light * cv2.warpAffine(factor.astype(np.float32), move, (640, 480), borderValue=1)
        if k == 0:
            truth = label_image(one.masks(DAY_5_H, 500))
            labels = cv2.warpAffine(truth, move, (640, 480), flags=cv2.INTER_NEAREST)
    noise = np.random.default_rng(seed).normal(0, 2, light.shape)
    return np.clip(light + noise, 0, 255).astype(np.uint8), labels


def with_marks(gray: Gray, colour: tuple[int, int, int]) -> Gray:
    """(H, W, 3): a black border, a scale bar with its length, a line of text."""
    marked = cv2.cvtColor(gray, cv2.COLOR_GRAY2BGR)
    cv2.rectangle(marked, (0, 0), (639, 479), (0, 0, 0), 9)
    cv2.line(marked, (500, 450), (600, 450), colour, 3)
    cv2.putText(marked, "100 um", (505, 440), cv2.FONT_HERSHEY_SIMPLEX, 0.6, colour, 2)
    cv2.putText(marked, "2012-05-04 ID 7", (12, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 1)
    return marked


@pytest.mark.parametrize("seed", [900_001, 900_003, 900_004, 900_010])
def test_a_drawn_blastocyst_is_found_in_its_well_whole_and_without_much_around_it(seed: int) -> None:
    one = embryo(seed)
    found = find_in_well(one.stack(DAY_5_H, 500, planes_um=(0,))[0])
    assert isinstance(found, Found)
    labels = label_image(one.masks(DAY_5_H, 500))
    assert parts_kept(found, labels) > 0.98
    cells_px = np.sqrt(np.isin(labels, (Part.ICM, Part.BLASTOCOEL, Part.TE)).sum() * 4 / np.pi)
    assert 1.3 < found.square.width_px / cells_px < 2.2
    assert found.well is not None and abs(found.well.radius_px - one.truth_at(DAY_5_H, 500).well[2]) < 12


@pytest.mark.slow
def test_of_200_drawn_blastocysts_at_least_99_in_100_are_found_whole() -> None:
    kept = []
    for seed in range(900_000, 900_200):
        one = embryo(seed)
        hpi_h = max(DAY_5_H, one.life.onsets_h["tB"])
        found = find_in_well(one.stack(hpi_h, 500, planes_um=(0,))[0])
        kept.append(parts_kept(found, label_image(one.masks(hpi_h, 500))) if isinstance(found, Found) else 0.0)
    assert (np.array(kept) > 0.97).mean() >= 0.99


def test_a_frame_upside_down_or_mirrored_gives_the_same_place_upside_down_or_mirrored() -> None:
    frame = embryo(900_001).stack(DAY_5_H, 500, planes_um=(0,))[0]
    upright, turned, mirrored = find_in_well(frame), find_in_well(frame[::-1, ::-1]), find_in_well(frame[:, ::-1])
    assert isinstance(upright, Found) and isinstance(turned, Found) and isinstance(mirrored, Found)
    assert turned.square.x_px == pytest.approx(499 - upright.square.x_px, abs=6)
    assert turned.square.y_px == pytest.approx(499 - upright.square.y_px, abs=6)
    assert turned.square.width_px == pytest.approx(upright.square.width_px, rel=0.05)
    assert (mirrored.square.x_px, mirrored.square.y_px) == pytest.approx(
        (499 - upright.square.x_px, upright.square.y_px), abs=6
    )


def test_at_half_the_size_the_same_part_of_the_frame_is_cut() -> None:
    large = embryo(900_004).stack(DAY_5_H, 500, planes_um=(0,))[0]
    small = cv2.resize(large, (250, 250), interpolation=cv2.INTER_AREA)
    whole, half = find_in_well(large), find_in_well(small)
    assert isinstance(whole, Found) and isinstance(half, Found)
    assert half.square.width_px == pytest.approx(whole.square.width_px / 2, rel=0.08)
    cuts = [found.square.cut(frame).astype(float).ravel() for found, frame in ((whole, large), (half, small))]
    assert np.corrcoef(cuts)[0, 1] > 0.9


@pytest.mark.parametrize("seed", range(900_000, 900_006))
def test_an_empty_well_is_said_to_be_empty(seed: int) -> None:
    told = find_in_well(embryo(seed).empty(100.0, 500)[3])
    assert isinstance(told, NotFound)
    assert "no embryo found" in told.reason


def no_embryo() -> dict[str, Gray]:
    rng = np.random.default_rng(3)
    page, disc = np.full((500, 500), 245, np.uint8), np.full((500, 500), 90, np.uint8)
    for i in range(20):
        cv2.putText(page, "the well holds an embryo", (20 + i, 30 + 23 * i), cv2.FONT_HERSHEY_SIMPLEX, 0.6, 20, 1)
    cv2.circle(disc, (250, 250), 120, 200, cv2.FILLED)
    soft = cv2.GaussianBlur(rng.normal(0, 1, (500, 500)).astype(np.float32), (0, 0), 6)
    return {
        "noise": np.clip(rng.normal(100, 20, (500, 500)), 0, 255).astype(np.uint8),
        "blobs": np.asarray(cv2.normalize(soft, None, 0, 255, cv2.NORM_MINMAX), dtype=np.uint8),
        "page": page,
        "disc": disc,
        "black": np.zeros((500, 500), np.uint8),
        "white": np.full((500, 500), 255, np.uint8),
        "slope": np.tile(np.linspace(0, 255, 500).astype(np.uint8), (500, 1)),
        "stripes": ((np.indices((500, 500)).sum(0) // 25 % 2) * 200).astype(np.uint8),
    }


@pytest.mark.parametrize("name", no_embryo())
def test_what_is_no_embryo_is_not_taken_for_one(name: str) -> None:
    picture = no_embryo()[name]
    for told in (find_in_well(picture), find_in_still(picture)):
        assert isinstance(told, NotFound)
        assert "no embryo found" in told.reason


@pytest.mark.parametrize(
    "frame", [np.zeros((500, 500), np.uint16), np.zeros((500, 500), np.float32), np.zeros((90, 500), np.uint8)]
)
def test_sixteen_bits_and_other_shapes_are_refused_with_the_remedy(frame: Gray) -> None:
    for find in (find_in_well, find_in_still):
        with pytest.raises(EngineError, match=r"uint8 .* bring 16 bits to 8"):
            find(frame)
    with pytest.raises(EngineError, match="uint8"):
        find_in_well(np.zeros((500, 500, 3), np.uint8))


@pytest.mark.parametrize("colour", [(0, 255, 0), (255, 255, 255), (0, 0, 0)])
def test_border_scale_bar_and_text_do_not_move_the_crop_of_a_still_picture(colour: tuple[int, int, int]) -> None:
    gray, labels = still_picture(900_003)
    plain, marked = find_in_still(gray), find_in_still(with_marks(gray, colour))
    assert isinstance(plain, Found) and isinstance(marked, Found)
    assert parts_kept(marked, labels) > 0.98
    assert (marked.square.x_px, marked.square.y_px) == pytest.approx((plain.square.x_px, plain.square.y_px), abs=8)
    assert marked.square.width_px == pytest.approx(plain.square.width_px, rel=0.08)


def test_of_two_neighbours_the_one_nearer_to_the_middle_is_cut() -> None:
    gray, labels = still_picture(900_004, neighbour=True)
    found = find_in_still(with_marks(gray, (0, 255, 0)))
    assert isinstance(found, Found)
    assert parts_kept(found, labels) > 0.98
    rows, columns = np.nonzero(labels)
    assert found.square.x_px == pytest.approx(columns.mean(), abs=25)
    assert found.square.y_px == pytest.approx(rows.mean(), abs=25)


def test_two_bodies_that_touch_are_parted_and_one_with_a_small_bud_is_not() -> None:
    touching, budding = np.zeros((300, 500), np.uint8), np.zeros((300, 500), np.uint8)
    for mask, second, radius in ((touching, 350, 90), (budding, 270, 40)):
        cv2.circle(mask, (160, 150), 110, 1, cv2.FILLED)
        cv2.circle(mask, (second, 150), radius, 1, cv2.FILLED)
    apart = split_neighbours(touching, np.ones_like(touching))
    assert len(apart) == 2
    assert sum(int(piece.sum()) for piece in apart) == touching.sum()
    (whole,) = split_neighbours(budding, np.ones_like(budding))
    assert np.array_equal(whole, budding)


def test_a_neighbour_cut_by_the_edge_of_the_picture_is_taken_off_the_body_it_touches() -> None:
    body, both = np.zeros((300, 500), np.uint8), np.zeros((300, 500), np.uint8)
    for mask in (body, both):
        cv2.circle(mask, (250, 150), 110, 1, cv2.FILLED)
    cv2.circle(both, (60, 150), 95, 1, 40)  # a ring: its inside is not closed at the edge
    (left,) = split_neighbours(both, np.ones_like(both))
    assert (left & body).sum() > 0.98 * body.sum()
    assert left.sum() < 1.1 * body.sum()


def test_the_sharpest_plane_is_the_one_that_was_not_blurred() -> None:
    plane = embryo(900_001).stack(DAY_5_H, 500, planes_um=(0,))[0]
    found = find_in_well(plane)
    assert isinstance(found, Found)
    stack = np.stack([cv2.GaussianBlur(plane, (0, 0), 3), cv2.GaussianBlur(plane, (0, 0), 1.5), plane])
    assert sharpest_plane(stack, found) == 2


@real
@pytest.mark.parametrize("name", TUNING)
def test_real_blastocysts_are_found_in_all_seven_planes_at_one_place(name: str) -> None:
    places = {}
    for plane_um in range(-45, 46, 15):
        told = find_in_well(cv2.imread(str(STORK / name / f"{name}_F{plane_um}.jpg"), cv2.IMREAD_GRAYSCALE))
        assert isinstance(told, Found), plane_um
        places[plane_um] = (told.square.x_px, told.square.y_px)
    near = [place for plane_um, place in places.items() if abs(plane_um) <= 30]  # at -45 dirt on the floor is sharp
    assert np.ptp(np.array(near), axis=0).max() < 60  # of 500: what is sharp differs from plane to plane

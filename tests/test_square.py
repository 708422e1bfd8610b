"""The square of day 5: what is cut out lies where it lay when it is put back."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.contract import EngineError
from engines.day5 import Part
from engines.square import Square

places = st.floats(-50, 350)
squares = st.builds(Square, places, places, st.floats(40, 400), st.sampled_from([64, 256, 320]))


def test_the_crop_is_what_points_say_it_is() -> None:
    frame = np.zeros((300, 300), np.uint8)
    cv2.circle(frame, (140, 90), 4, 255, cv2.FILLED)
    for square in (Square(150, 100, 128, 256), Square(150.3, 99.8, 200, 64)):
        cut = square.cut(frame).astype(float)
        x, y = square.points_to_crop(np.array([[140.0, 90.0]]))[0]
        rows, columns = np.mgrid[: square.side_px, : square.side_px]
        assert (columns * cut).sum() / cut.sum() == pytest.approx(x, abs=0.3)
        assert (rows * cut).sum() / cut.sum() == pytest.approx(y, abs=0.3)


@given(squares, st.floats(-10, 300), st.floats(-10, 300))
def test_points_come_back_to_where_they_were(square: Square, x: float, y: float) -> None:
    points = np.array([[x, y]])
    assert np.allclose(square.points_to_frame(square.points_to_crop(points)), points, atol=1e-6)


@pytest.mark.parametrize("square", [Square(150, 140, 200, 256), Square(60, 60, 200, 256), Square(150, 140, 256, 256)])
def test_labels_put_back_and_cut_again_are_the_same(square: Square) -> None:
    labels = np.zeros((300, 300), np.uint8)
    for part, radius in ((Part.ZP, 60), (Part.TE, 50), (Part.BLASTOCOEL, 42), (Part.ICM, 15)):
        cv2.circle(labels, (140, 130), radius, int(part), cv2.FILLED)
    back = square.labels_to_frame(square.cut_labels(labels), 300, 300)
    x, y = square.points_to_frame(np.array([[0.0, 0.0], [square.side_px - 1.0] * 2])).T
    held = np.zeros((300, 300), bool)
    held[max(round(y[0]) + 1, 0) : round(y[1]), max(round(x[0]) + 1, 0) : round(x[1])] = True
    assert (back[held] == labels[held]).mean() > 0.985
    assert (back[~held] == Part.BACKGROUND).mean() > 0.99


def test_beyond_the_frame_labels_are_background_and_pixels_repeat_the_edge() -> None:
    square = Square(0, 0, 100, 50)
    assert square.cut(np.full((200, 200), 9, np.uint8)).min() == 9
    labels = square.cut_labels(np.full((200, 200), int(Part.TE), np.uint8))
    assert (labels[:24, :] == Part.BACKGROUND).all()
    assert (labels[26:, 26:] == Part.TE).all()


@pytest.mark.parametrize("wrong", [(0, 0, 0, 10), (0, 0, 10, 0), (float("nan"), 0, 10, 10), (0, float("inf"), 10, 10)])
def test_a_square_that_is_none_is_refused(wrong: tuple[float, float, float, int]) -> None:
    with pytest.raises(EngineError, match="square"):
        Square(*wrong)


def test_labels_of_another_size_are_refused() -> None:
    with pytest.raises(EngineError, match="256"):
        Square(10, 10, 20).labels_to_frame(np.zeros((64, 64), np.uint8), 100, 100)

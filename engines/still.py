"""What a still picture carries that is not the microscope's: a coloured or gray scale bar, burnt-in text, a border.

Axes: H, W. It takes marks off and says where the picture is left. It refuses to know what is shown.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Gray = npt.NDArray[np.uint8]

_COLOURED = 60  # levels between the channels of a mark; a gray picture stored as RGB has 0, chroma noise 20
_FLAT = 2.5  # standard deviation of a border's row or column, in levels
_MOST_BORDER = 0.2  # of a side
_INK = 60  # levels between ink and what is around it
_BLACK, _WHITE = 12, 240  # ink is nearly one of these
_THIN_PX = 9  # ink is thinner than that in a picture of 500 px
_EDGE_BAND = 0.22  # of a side: where marks are burnt in


def without_marks(picture: Gray) -> tuple[Gray, npt.NDArray[np.bool_]]:
    """(H, W) or (H, W, 3) uint8 -> gray (H, W) with marks painted over, and where the picture is (H, W): not border."""
    gray = picture if picture.ndim == 2 else np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), dtype=np.uint8)
    inside = _within_border(gray)
    marks = _ink(gray, inside)
    if picture.ndim == 3:
        marks |= np.ptp(picture.astype(np.int16), axis=2) > _COLOURED
    grown = cv2.dilate(marks.astype(np.uint8), np.ones((5, 5), np.uint8))
    if grown.any():
        gray = np.asarray(cv2.inpaint(gray, grown, 3, cv2.INPAINT_TELEA), dtype=np.uint8)
    return gray, inside


def _within_border(gray: Gray) -> npt.NDArray[np.bool_]:
    """(H, W) bool: without the flat rows and columns at its sides, and a little more where there were any."""
    inside = np.ones(gray.shape, np.bool_)
    more = max(round(0.012 * min(gray.shape)), 2)
    for axis in (0, 1):
        lines = gray.astype(np.float32).std(axis=1 - axis) < _FLAT
        most = int(_MOST_BORDER * len(lines))
        first = _run(lines[:most])
        last = _run(lines[::-1][:most])
        keep = slice(first + more if first else 0, len(lines) - (last + more if last else 0))
        kept = np.zeros(len(lines), np.bool_)
        kept[keep] = True
        inside &= kept[:, None] if axis == 0 else kept[None, :]
    return inside


def _run(lines: npt.NDArray[np.bool_]) -> int:
    """How many are true before the first that is not; 0 where all are (a picture without anything)."""
    return int(np.argmin(lines)) if not lines.all() else 0


def _ink(gray: Gray, inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """(H, W) bool: thin strokes near the edges, nearly white or black and far from what is around them."""
    side = min(gray.shape)
    around = cv2.medianBlur(gray, 2 * max(round(0.03 * side), 3) + 1)
    pure = (gray >= _WHITE) | (gray <= _BLACK)
    strokes = ((cv2.absdiff(gray, around) > _INK) & pure).astype(np.uint8)
    width = 2 * max(round(_THIN_PX * side / 1000), 1) + 1
    thick = cv2.morphologyEx(strokes, cv2.MORPH_OPEN, np.ones((width, width), np.uint8))
    band = np.ones(gray.shape, np.bool_)
    down, across = (int(_EDGE_BAND * n) for n in gray.shape)
    band[down : gray.shape[0] - down, across : gray.shape[1] - across] = False
    return np.asarray((strokes > 0) & (thick == 0) & band & inside, dtype=np.bool_)

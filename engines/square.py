"""The square that day 5 looks at: cut out of every plane of a frame, and mapped back onto it.

Axes: x right, y down, pixel centres at whole numbers; points are (N, 2) x, y. It refuses to know what lies in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from engines.contract import EngineError
from engines.day5 import Labels, Part
from engines.locate import crop

Gray = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float64]

SIDE_PX = 256  # of the crop that the segmenter sees (I2CNet's own size)


@dataclass(frozen=True)
class Square:
    """A square of `width_px` around (`x_px`, `y_px`) of a frame, seen as `side_px` x `side_px` pixels.

    Give every plane of a stack the same one. It may reach beyond the frame: the edge is repeated there.
    """

    x_px: float
    y_px: float
    width_px: float
    side_px: int = SIDE_PX

    def __post_init__(self) -> None:
        if not (np.isfinite([self.x_px, self.y_px, self.width_px]).all() and self.width_px > 0 and self.side_px > 0):
            raise EngineError(f"a square needs a place, a width and a side above 0, got {self}")

    @property
    def step_px(self) -> float:
        """Pixels of the frame in one pixel of the crop; times the frame's um a pixel it is the crop's."""
        return self.width_px / self.side_px

    def cut(self, plane: Gray) -> Gray:
        """(H, W) uint8 -> (side_px, side_px) uint8, smoothed before it shrinks."""
        return crop(plane, self.x_px, self.y_px, self.width_px, self.side_px)

    def cut_labels(self, labels: Labels) -> Labels:
        """(H, W) of classes -> (side_px, side_px) of classes, the nearest pixel's; beyond the frame background."""
        back = self._to_frame()
        flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
        cut = cv2.warpAffine(labels, back, (self.side_px,) * 2, flags=flags, borderValue=int(Part.BACKGROUND))
        return np.asarray(cut, dtype=np.uint8)

    def labels_to_frame(self, labels: Labels, height_px: int, width_px: int) -> Labels:
        """(side_px, side_px) of classes -> (height_px, width_px) of the frame; outside of the square background."""
        if labels.shape != (self.side_px, self.side_px):
            raise EngineError(f"labels of shape {labels.shape} do not belong to a crop of {self.side_px} px a side")
        flags, size = cv2.INTER_NEAREST, (width_px, height_px)
        whole = cv2.warpAffine(labels, self._to_frame(), size, flags=flags, borderValue=int(Part.BACKGROUND))
        return np.asarray(whole, dtype=np.uint8)

    def points_to_frame(self, points: Points) -> Points:
        """(N, 2) x, y in the crop -> in the frame."""
        turn = self._to_frame()
        return np.asarray(points @ turn[:, :2].T + turn[:, 2], dtype=np.float64)

    def points_to_crop(self, points: Points) -> Points:
        """(N, 2) x, y in the frame -> in the crop."""
        turn = self._to_frame()
        return np.asarray((points - turn[:, 2]) / self.step_px, dtype=np.float64)

    def _to_frame(self) -> Points:
        """(2, 3) from the crop's pixels to the frame's; the same as `engines.locate.crop` samples by."""
        first = (self.step_px - self.width_px) / 2
        return np.array([[self.step_px, 0, self.x_px + first], [0, self.step_px, self.y_px + first]])

"""What can be measured about a picture's look: gray and local contrast by scale, as a table and as charts.

It refuses to know who drew a picture and where it came from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from monitor.simulator.optics import FIELD_UM

Gray = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float64]

SCALES_UM = (0.6, 1.0, 1.6, 2.5, 4.0, 6.5, 10.0, 16.0)  # standard deviations of the band-pass that measures contrast
_REACH_UM = 52.0  # around the embryo's centre
_CHART_PX = (300, 420)


def detail(gray: Gray, sigma_um: float) -> npt.NDArray[np.float32]:
    """(H, W) difference of two blurs, relative to the brightness around."""
    um_per_px = FIELD_UM / gray.shape[0]
    image = gray.astype(np.float32)
    fine = cv2.GaussianBlur(image, (0, 0), max(sigma_um / um_per_px * 0.7, 0.3))
    wide = cv2.GaussianBlur(image, (0, 0), max(sigma_um / um_per_px * 1.4, 0.6))
    return np.asarray((fine - wide) / (wide + 8.0), dtype=np.float32)


@dataclass(frozen=True)
class Frame:
    """A gray frame (H, W) and the row and column of its embryo."""

    gray: Gray
    centre_px: tuple[int, int]

    def window(self, reach_um: float = _REACH_UM) -> tuple[slice, slice]:
        """Rows and columns of the square of 2 * `reach_um` around the embryo, moved so that the frame holds it."""
        side = self.gray.shape[0]
        half = int(reach_um * side / FIELD_UM)
        row, column = (min(max(v, half), side - half) for v in self.centre_px)
        return slice(row - half, row + half), slice(column - half, column + half)


def contrast_by_scale(frame: Frame) -> FloatArray:
    """(len(SCALES_UM),) local contrast inside of the embryo, relative to its brightness."""
    return np.array([float(detail(frame.gray, sigma_um)[frame.window()].std()) for sigma_um in SCALES_UM])


def table(groups: Mapping[str, Sequence[Frame]]) -> str:
    """Lines of text: gray of the frame and of the embryo, and contrast by scale, as p10, median and p90 of a group."""
    lines = [
        "p10 median p90     frame gray     embryo gray    spread         contrast x 1000 at "
        + " ".join(map(str, SCALES_UM))
    ]
    for name, frames in groups.items():
        if not frames:
            continue
        inner = [frame.gray[frame.window()] for frame in frames]
        columns = [[f.gray.mean() for f in frames], [i.mean() for i in inner], [i.std() for i in inner]]
        columns += list(1000 * np.array([contrast_by_scale(frame) for frame in frames]).T)
        cells = ["/".join(f"{v:.0f}" for v in np.percentile(column, [10, 50, 90])) for column in columns]
        lines.append(f"{name:18s} " + " ".join(f"{cell:>14s}" for cell in cells))
    return "\n".join(lines)


def panel(title: str, names: tuple[str, str]) -> Gray:
    """An empty chart with a title and the names of what is traced in 255 and in 130."""
    panel = np.zeros(_CHART_PX, np.uint8)
    cv2.rectangle(panel, (30, 24), (410, 280), 90, 1)
    for text, at, gray in ((title, (30, 16), 255), (names[0], (300, 40), 255), (names[1], (300, 56), 130)):
        cv2.putText(panel, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.38, gray, 1, cv2.LINE_AA)
    return panel


def trace(panel: Gray, x: FloatArray, y: FloatArray, gray: int) -> None:
    """One curve; `x` and `y` in 0 to 1 of the panel."""
    points = np.column_stack([30 + 380 * np.clip(x, 0, 1), 280 - 256 * np.clip(y, 0, 1)])
    cv2.polylines(panel, [np.round(points).astype(np.int32)], False, gray, 1, cv2.LINE_AA)


def chart(drawn: Sequence[Frame], real: Sequence[Frame]) -> Gray:
    """Histograms of gray around the embryo, and contrast by scale; one thin curve a picture, real ones darker."""
    gray_panel = panel("gray around the embryo, 0 to 255", ("virtual", "real"))
    scale_panel = panel("local contrast by scale, .6 to 16 um, 0 to .25", ("virtual", "real"))
    for frames, shade in ((real, 130), (drawn, 255)):
        for frame in frames:
            counts = np.histogram(frame.gray[frame.window()], bins=32, range=(0, 256))[0].astype(np.float64)
            trace(gray_panel, np.linspace(0, 1, 32), counts / counts.sum() / 0.4, shade)
            contrast = contrast_by_scale(frame)
            trace(scale_panel, np.linspace(0, 1, len(contrast)), contrast / 0.25, shade)
    return np.asarray(np.hstack([gray_panel, scale_panel]), dtype=np.uint8)

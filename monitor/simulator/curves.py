"""What can be measured about a picture's look: gray, local contrast by scale, and sharpness by plane; drawn as charts.

It refuses to know who drew a picture and where it came from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from monitor.simulator.optics import FIELD_UM, PLANES_UM

Gray = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float64]

SCALES_UM = (0.6, 1.0, 1.6, 2.5, 4.0, 6.5, 10.0, 16.0)  # standard deviations of the band-pass that measures contrast
_REACH_UM = 52.0  # around the embryo's centre
_CHART_PX = (300, 420)


def _detail(gray: Gray, sigma_um: float) -> npt.NDArray[np.float32]:
    """(H, W) difference of two blurs, relative to the brightness around."""
    um_per_px = FIELD_UM / gray.shape[0]
    image = gray.astype(np.float32)
    fine = cv2.GaussianBlur(image, (0, 0), max(sigma_um / um_per_px * 0.7, 0.3))
    wide = cv2.GaussianBlur(image, (0, 0), max(sigma_um / um_per_px * 1.4, 0.6))
    return np.asarray((fine - wide) / (wide + 8.0), dtype=np.float32)


def embryo_centre_px(gray: Gray) -> tuple[int, int]:
    """Row and column around which the fine detail of a frame gathers; ring and outside are left out."""
    small = cv2.resize(gray, (125, 125), interpolation=cv2.INTER_AREA)
    energy = np.minimum(np.abs(_detail(np.asarray(small, np.uint8), 5.0)), 0.08)
    smooth = cv2.GaussianBlur(small, (0, 0), 2.0)
    level = float(np.median(smooth[40:85, 40:85]))
    beyond = ((smooth > 1.5 * level) | (smooth < 0.45 * level)).astype(np.uint8)
    rows, columns = np.mgrid[:125, :125]
    beyond[np.hypot(rows - 62, columns - 62) > 52] = 1
    kept = cv2.morphologyEx(beyond, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    energy[cv2.dilate(kept, np.ones((7, 7), np.uint8)) > 0] = 0
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (51, 51)).astype(np.float32)
    held = cv2.GaussianBlur(cv2.filter2D(energy, cv2.CV_32F, disc, borderType=cv2.BORDER_CONSTANT), (0, 0), 3.0)
    row, column = np.unravel_index(int(held.argmax()), held.shape)
    scale = gray.shape[0] / 125
    return round(float(row) * scale), round(float(column) * scale)


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
    return np.array([float(_detail(frame.gray, sigma_um)[frame.window()].std()) for sigma_um in SCALES_UM])


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


def sharpness_by_plane(planes: Sequence[Gray], centre_px: tuple[int, int], tiles: int = 4) -> FloatArray:
    """(tiles, tiles, P) share of each tile's fine detail per plane, around the embryo."""
    side = planes[0].shape[0]
    half = int(0.9 * _REACH_UM * side / FIELD_UM) // tiles * tiles
    row, column = (min(max(v, half), side - half) for v in centre_px)
    window = (slice(row - half, row + half), slice(column - half, column + half))
    energy = []
    for plane in planes:
        fine = np.square(_detail(plane, 1.3)[window])
        energy.append(fine.reshape(tiles, 2 * half // tiles, tiles, 2 * half // tiles).mean(axis=(1, 3)))
    stacked = np.sqrt(np.stack(energy, axis=-1))
    return np.asarray(stacked / stacked.sum(-1, keepdims=True), dtype=np.float64)


def _panel(title: str, names: tuple[str, str]) -> Gray:
    panel = np.zeros(_CHART_PX, np.uint8)
    cv2.rectangle(panel, (30, 24), (410, 280), 90, 1)
    for text, at, gray in ((title, (30, 16), 255), (names[0], (300, 40), 255), (names[1], (300, 56), 130)):
        cv2.putText(panel, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.38, gray, 1, cv2.LINE_AA)
    return panel


def _trace(panel: Gray, x: FloatArray, y: FloatArray, gray: int) -> None:
    """One curve; `x` and `y` in 0 to 1 of the panel."""
    points = np.column_stack([30 + 380 * np.clip(x, 0, 1), 280 - 256 * np.clip(y, 0, 1)])
    cv2.polylines(panel, [np.round(points).astype(np.int32)], False, gray, 1, cv2.LINE_AA)


def chart(drawn: Sequence[Frame], real: Sequence[Frame]) -> Gray:
    """Histograms of gray around the embryo, and contrast by scale; one thin curve a picture, real ones darker."""
    gray_panel = _panel("gray around the embryo, 0 to 255", ("virtual", "real"))
    scale_panel = _panel("local contrast by scale, .6 to 16 um, 0 to .25", ("virtual", "real"))
    for frames, shade in ((real, 130), (drawn, 255)):
        for frame in frames:
            counts = np.histogram(frame.gray[frame.window()], bins=32, range=(0, 256))[0].astype(np.float64)
            _trace(gray_panel, np.linspace(0, 1, 32), counts / counts.sum() / 0.4, shade)
            contrast = contrast_by_scale(frame)
            _trace(scale_panel, np.linspace(0, 1, len(contrast)), contrast / 0.25, shade)
    return np.asarray(np.hstack([gray_panel, scale_panel]), dtype=np.uint8)


def focus_chart(drawn: Sequence[FloatArray], real: Sequence[FloatArray]) -> Gray:
    """How often a plane is a tile's sharpest, and the share of detail per plane of each (`sharpness_by_plane`)."""
    best, shares = (_panel(title, ("virtual", "real")) for title in (
        "share of tiles that are sharpest in a plane, -45 to +45 um, 0 to .6",
        "detail of each tile by plane, 0 to .35",
    ))  # fmt: skip
    x = np.linspace(0.04, 0.96, len(PLANES_UM))
    for group, shade in ((real, 130), (drawn, 255)):
        if not group:
            continue
        tiles = np.concatenate([shares_of_one.reshape(-1, len(PLANES_UM)) for shares_of_one in group])
        won = np.bincount(tiles.argmax(1), minlength=len(PLANES_UM)) / len(tiles)
        _trace(best, x, won / 0.6, shade)
        for tile in tiles[:: max(len(tiles) // 40, 1)]:
            _trace(shares, x, tile / 0.35, shade)
    return np.asarray(np.hstack([best, shares]), dtype=np.uint8)

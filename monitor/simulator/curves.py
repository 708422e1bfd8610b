"""What can be measured about a picture's look: gray, local contrast by scale, and sharpness by plane; drawn as charts.

It refuses to know who drew a picture and where it came from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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


def around_embryo(gray: Gray) -> Gray:
    """The square of 2 * `_REACH_UM` around the embryo."""
    side = gray.shape[0]
    half = int(_REACH_UM * side / FIELD_UM)
    row, column = (min(max(v, half), side - half) for v in embryo_centre_px(gray))
    return np.asarray(gray[row - half : row + half, column - half : column + half])


def contrast_by_scale(gray: Gray) -> FloatArray:
    """(len(SCALES_UM),) local contrast inside of the embryo, relative to its brightness."""
    side = gray.shape[0]
    half = int(_REACH_UM * side / FIELD_UM)
    row, column = (min(max(v, half), side - half) for v in embryo_centre_px(gray))
    window = (slice(row - half, row + half), slice(column - half, column + half))
    return np.array([float(_detail(gray, sigma_um)[window].std()) for sigma_um in SCALES_UM])


def look(gray: Gray) -> dict[str, float]:
    """Figures of one frame: mean and spread of the whole, mean and spread around the embryo, as gray values."""
    inner = around_embryo(gray)
    return {
        "mean": float(gray.mean()),
        "std": float(gray.std()),
        "in": float(inner.mean()),
        "in_std": float(inner.std()),
    }


def sharpness_by_plane(planes: Sequence[Gray], tiles: int = 4) -> FloatArray:
    """(tiles, tiles, P) share of each tile's fine detail per plane, around the embryo of the middle plane."""
    side = planes[0].shape[0]
    half = int(0.9 * _REACH_UM * side / FIELD_UM) // tiles * tiles
    row, column = (min(max(v, half), side - half) for v in embryo_centre_px(planes[len(planes) // 2]))
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


def chart(drawn: Mapping[str, Sequence[Gray]], real: Mapping[str, Sequence[Gray]]) -> Gray:
    """Histograms of gray around the embryo, and contrast by scale; one thin curve a picture, real ones darker."""
    gray_panel = _panel("gray around the embryo, 0 to 255", ("virtual", "real"))
    scale_panel = _panel("local contrast by scale, .6 to 16 um, 0 to .25", ("virtual", "real"))
    for group, shade in ((real, 130), (drawn, 255)):
        for one in [gray for pictures in group.values() for gray in pictures]:
            counts = np.histogram(around_embryo(one), bins=32, range=(0, 256))[0].astype(np.float64)
            _trace(gray_panel, np.linspace(0, 1, 32), counts / counts.sum() / 0.4, shade)
            contrast = contrast_by_scale(one)
            _trace(scale_panel, np.linspace(0, 1, len(contrast)), contrast / 0.25, shade)
    return np.asarray(np.hstack([gray_panel, scale_panel]), dtype=np.uint8)


def focus_chart(drawn: Sequence[Sequence[Gray]], real: Sequence[Sequence[Gray]]) -> Gray:
    """How often a plane is a tile's sharpest, and the share of detail per plane of each tile."""
    best, shares = (_panel(title, ("virtual", "real")) for title in (
        "share of tiles that are sharpest in a plane, -45 to +45 um, 0 to .6",
        "detail of each tile by plane, 0 to .35",
    ))  # fmt: skip
    x = np.linspace(0.04, 0.96, len(PLANES_UM))
    for group, shade in ((real, 130), (drawn, 255)):
        if not group:
            continue
        tiles = np.concatenate([sharpness_by_plane(planes).reshape(-1, len(PLANES_UM)) for planes in group])
        won = np.bincount(tiles.argmax(1), minlength=len(PLANES_UM)) / len(tiles)
        _trace(best, x, won / 0.6, shade)
        for tile in tiles[:: max(len(tiles) // 40, 1)]:
            _trace(shares, x, tile / 0.35, shade)
    return np.asarray(np.hstack([best, shares]), dtype=np.uint8)

"""How a pose becomes light: the focus of each plane, and relief from the gradient of optical path.

Everything is laid into depth bins 15 um apart; a plane sees its own bin sharply and the others ever softer. It refuses
to know what is drawn (cells, fragments) and when.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.float32]

PLANES_UM = (-45, -30, -15, 0, 15, 30, 45)
BINS_UM = (-60, *PLANES_UM, 60)  # what lies higher or lower than all planes is never quite sharp
FIELD_UM = 280.0  # side of the square frame: 0.56 um a pixel at 500 pixels

_STEP_BLUR_UM = (1.5, 2.1, 2.5)  # softening in the first step from a bin, the second, all later; they add as squares
_F = np.float32


def soften(image: Image, sigma_px: float) -> Image:
    """Gaussian blur with a kernel no wider than it needs; a sigma too small to matter leaves the image as it is."""
    if sigma_px < 0.3:
        return image
    side = 2 * math.ceil(2.4 * sigma_px) + 1
    return np.asarray(cv2.GaussianBlur(image, (side, side), sigma_px), dtype=np.float32)


def soft_step(x: Image) -> Image:
    """0 for very negative `x`, 1 for very positive, about as steep as 1 in between."""
    return np.asarray(_F(0.5) + _F(0.5) * np.tanh(x * _F(0.5)), dtype=np.float32)


def speckle(rng: np.random.Generator, side_px: int, fine_px: float, coarse_px: float) -> Image:
    """(side_px, side_px) noise between two scales, standard deviation about 1."""
    noise = rng.standard_normal((side_px, side_px), dtype=np.float32)
    band = soften(noise, fine_px)
    band = band - soften(band, coarse_px)
    return np.asarray(band / _F(float(band.std()) + 1e-6), dtype=np.float32)


@dataclass(frozen=True)
class Light:
    """What one incubator position does to every frame of its embryo. Gray values as shares of 255."""

    well_x_um: float
    well_y_um: float
    well_radius_um: float
    well_floor_um: float
    wall_growth: float  # how much wider the bright ring gets per um above the floor
    gray: float
    ring_gray: float
    outside: float  # brightness outside of the well, of the well's own
    fringes: float
    side: float  # radians: direction of the bright side of the ring, and of the relief
    relief: float
    line: float
    halo: float
    grain: float
    shade: float  # how much darker cells are than the well
    zona: float
    zona_path_um: float  # how much more path than the medium's its shell is
    soft_um: float
    flat: float  # share of the slow part of the relief that is taken away
    noise: float
    flicker: float
    fringe_um: float

    @classmethod
    def sample(cls, seed: int) -> Light:
        """Wide enough to hold EmbryoScope pictures of three clinics: dim to bright, ring lit from above or below."""
        rng = np.random.default_rng((seed, 0x0971C5))
        gray = float(rng.uniform(0.2, 0.62))
        above = rng.random() < 0.62
        return cls(
            well_x_um=float(rng.normal(0.0, 6.0)),
            well_y_um=float(rng.normal(0.0, 6.0)),
            well_radius_um=float(rng.uniform(112.0, 123.0)),
            well_floor_um=float(rng.normal(-46.0, 6.0)),
            wall_growth=float(rng.uniform(0.06, 0.2)),
            gray=gray,
            ring_gray=float(rng.uniform(0.45, 1.0)),
            outside=float(rng.uniform(0.3, 0.75)),
            fringes=float(rng.uniform(0.03, 0.14)),
            side=float((-np.pi / 2 if above else np.pi / 2) + rng.normal(0.15, 0.3)),
            relief=float(np.exp(rng.normal(np.log(0.52), 0.25))),
            line=float(rng.uniform(0.4, 0.9)),
            halo=float(rng.uniform(0.01, 0.032)),
            grain=float(np.exp(rng.normal(np.log(0.11), 0.3))),
            shade=float(rng.uniform(0.02, 0.24)),
            zona=float(rng.uniform(0.08, 0.26)),
            zona_path_um=float(rng.uniform(2.5, 8.0)),
            soft_um=float(rng.uniform(0.25, 0.75)),
            flat=float(rng.uniform(0.05, 0.45)),
            noise=float(rng.uniform(0.003, 0.008)),
            flicker=float(rng.uniform(0.003, 0.02)),
            fringe_um=float(rng.uniform(3.5, 8.0)),
        )


def directional_kernel(light: Light, um_per_px: float) -> Image:
    """(3, 3) kernel: the slope of optical path along the bright side, per um."""
    sobel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], np.float32) / _F(8 * um_per_px)
    return np.asarray(_F(np.cos(light.side)) * sobel + _F(np.sin(light.side)) * sobel.T, dtype=np.float32)


def relief_planes(
    path: Image, line: Image, used: list[bool], light: Light, um_per_px: float, wanted: list[int]
) -> Image:
    """Relative brightness (len(wanted), h, w), about 0, of the planes asked for, as indices of bins.

    `path` (B, h, w): optical path in um laid into depth bins; `line` (B, h, w): darkness of contours, about 0 to 1;
    `used` (B,): bins that hold anything. Out of focus a contour is dark seen from above and bright seen from below,
    and what is thick shines, as in real stacks.
    """
    kernel = directional_kernel(light, um_per_px) * _F(light.relief)
    sharp: list[Image | None] = [None] * len(path)
    from_above, from_below = list(sharp), list(sharp)
    for b in (b for b in range(len(path)) if used[b]):
        bin_path = soften(path[b], light.soft_um / um_per_px)
        relief = cv2.filter2D(bin_path, cv2.CV_32F, kernel)
        dark = _F(light.line) * line[b]
        lens = _F(light.halo) * (bin_path - _box(bin_path, 14.0 / um_per_px))
        sharp[b] = relief - dark
        from_above[b] = relief - _F(0.8) * dark - lens
        from_below[b] = relief + _F(0.4) * dark + lens
    sigmas_px = [sigma_um / um_per_px for sigma_um in _STEP_BLUR_UM]
    blank = np.zeros(path.shape[1:], np.float32)
    planes = {b: (blank.copy() if (own := sharp[b]) is None else own) for b in wanted}
    _cascade(planes, from_above, range(1, max(wanted) + 1), sigmas_px)
    _cascade(planes, from_below, range(len(path) - 2, min(wanted) - 1, -1), sigmas_px)
    stacked = np.stack([planes[b] for b in wanted])
    for plane in stacked:
        plane -= _F(light.flat) * _box(
            plane, 44.0 / um_per_px
        )  # the tilt over a whole embryo goes, that over a cell stays
    bright = _F(1.3) * np.tanh(np.maximum(stacked, 0) * _F(1 / 1.3))
    return np.asarray(bright + _F(0.8) * np.tanh(np.minimum(stacked, 0) * _F(1 / 0.8)), dtype=np.float32)


def _cascade(planes: dict[int, Image], seen: list[Image | None], order: range, sigmas_px: list[float]) -> None:
    """Adds to each plane what it sees of all bins on one side: three blurs a step, not one for each pair."""
    first: Image | None = None
    second: Image | None = None
    far: Image | None = None
    for i in order:
        if second is not None:
            far = second if far is None else far + second
        far = None if far is None else soften(far, sigmas_px[2])
        second = None if first is None else soften(first, sigmas_px[1])
        new = seen[i - order.step]
        first = None if new is None else soften(new, sigmas_px[0])
        if i in planes:
            for carried in (first, second, far):
                if carried is not None:
                    planes[i] = planes[i] + carried


def _box(image: Image, width_px: float) -> Image:
    side = max(int(width_px) | 1, 3)
    return np.asarray(cv2.blur(image, (side, side)), dtype=np.float32)

"""How a pose becomes light: the well around it, the focus of each plane, and relief from the gradient of optical path.

Everything is laid into depth bins, one per plane; a plane then sees its own bin sharply and the others ever softer.
It refuses to know what is drawn (cells, fragments) and when.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.float32]

PLANES_UM = (-45, -30, -15, 0, 15, 30, 45)
FIELD_UM = 280.0  # side of the square frame: 0.56 um a pixel at 500 pixels

_STEP_BLUR_UM = 1.8  # softening from one plane to the next; steps add up as squares
_F = np.float32


def soften(image: Image, sigma_px: float) -> Image:
    """Gaussian blur with a kernel no wider than it needs; a sigma too small to matter leaves the image as it is."""
    if sigma_px < 0.3:
        return image
    side = 2 * math.ceil(2.4 * sigma_px) + 1
    return np.asarray(cv2.GaussianBlur(image, (side, side), sigma_px), dtype=np.float32)


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
    gray: float
    ring_gray: float
    side: float  # radians: direction of the bright side of the ring, and of the relief
    relief: float
    line: float
    halo: float
    grain: float
    noise: float
    fringe_um: float

    @classmethod
    def sample(cls, seed: int) -> Light:
        rng = np.random.default_rng((seed, 0x0971C5))
        gray = float(rng.uniform(0.22, 0.36))
        return cls(
            well_x_um=float(rng.normal(0.0, 7.0)),
            well_y_um=float(rng.normal(-8.0, 7.0)),
            well_radius_um=float(rng.uniform(113.0, 124.0)),
            well_floor_um=float(rng.normal(-42.0, 6.0)),
            gray=gray,
            ring_gray=gray * float(rng.uniform(1.5, 3.2)),
            side=float(-np.pi / 2 + rng.normal(0.25, 0.3)),
            relief=float(rng.uniform(0.5, 0.75)),
            line=float(rng.uniform(0.2, 0.42)),
            halo=float(rng.uniform(0.014, 0.028)),
            grain=float(rng.uniform(0.11, 0.17)),
            noise=float(rng.uniform(0.004, 0.009)),
            fringe_um=float(rng.uniform(2.5, 5.0)),
        )


def draw_well(light: Light, size_px: int, seed: int) -> Image:
    """(P=7, size_px, size_px) float32 in 0 to 1: the empty well, whose wall thickens as the focus rises."""
    rng = np.random.default_rng((seed, 0x3E11))
    um_per_px = FIELD_UM / size_px
    axis = ((np.arange(size_px, dtype=np.float32) + _F(0.5)) * _F(um_per_px)) - _F(FIELD_UM / 2)
    x, y = axis[None, :] - _F(light.well_x_um), axis[:, None] - _F(light.well_y_um)
    away = np.sqrt(x * x + y * y) + _F(1e-3)
    toward = (x * _F(np.cos(light.side)) + y * _F(np.sin(light.side))) / away
    ripple = _F(0.5) * speckle(rng, size_px, 4.0 / um_per_px, 14.0 / um_per_px)
    fringes = _F(1.0) + _F(0.14) * np.sin(away * _F(2 * np.pi / light.fringe_um) + ripple)
    outside = _F(0.6 * light.gray) * np.clip(_F(0.32) + _F(0.75) * toward, 0, 1) ** 2 * fringes
    slope = _F(1) + _F(float(rng.normal(0, 4e-4))) * x + _F(float(rng.normal(0, 4e-4))) * y
    bright = np.clip(_F(0.18) + _F(0.85) * toward, 0.05, 1)
    planes = np.empty((len(PLANES_UM), size_px, size_px), np.float32)
    for i, plane_um in enumerate(PLANES_UM):
        height_um = max(plane_um - light.well_floor_um, 0.0)
        wall_um = 2.2 + 0.085 * height_um
        inside = _F(1) / (_F(1) + np.exp((away - _F(light.well_radius_um + 1.5)) / _F(1.2 + 0.03 * height_um)))
        ring = np.exp(-(((away - _F(light.well_radius_um + 0.3 * wall_um)) / _F(wall_um)) ** 2)) * bright
        level = _F(light.gray * (1 + 0.0012 * plane_um)) * slope
        planes[i] = level * inside + outside * (1 - inside) + _F(light.ring_gray) * ring
    return planes


def directional_kernel(light: Light, um_per_px: float) -> Image:
    """(3, 3) kernel: the slope of optical path along the bright side, per um."""
    sobel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], np.float32) / _F(8 * um_per_px)
    return np.asarray(_F(np.cos(light.side)) * sobel + _F(np.sin(light.side)) * sobel.T, dtype=np.float32)


def relief_planes(path: Image, line: Image, light: Light, um_per_px: float) -> Image:
    """Relative brightness (P, h, w), about 0, of all planes.

    `path` (P, h, w): optical path in um laid into depth bins; `line` (P, h, w): darkness of contours, about 0 to 1.
    Out of focus a contour is dark seen from above and bright seen from below, as in real stacks.
    """
    kernel = directional_kernel(light, um_per_px)
    steps = len(path)
    sigma_px = _STEP_BLUR_UM / um_per_px
    sharp, from_above, from_below = [], [], []
    for b in range(steps):
        bin_path = soften(path[b], 0.55 / um_per_px)
        relief = _F(light.relief) * cv2.filter2D(bin_path, cv2.CV_32F, kernel)
        dark = _F(light.line) * line[b]
        lens = _F(light.halo) * (bin_path - _box(bin_path, 14.0 / um_per_px))
        sharp.append(relief - dark)
        from_above.append(relief - _F(0.8) * dark - lens)
        from_below.append(relief + _F(0.5) * dark + lens)
    planes = np.stack(sharp)
    _cascade(planes, from_above, range(1, steps), sigma_px)
    _cascade(planes, from_below, range(steps - 2, -1, -1), sigma_px)
    for plane in planes:
        plane -= _F(0.4) * _box(plane, 30.0 / um_per_px)  # flat interiors: no plasticine
    bright = np.float32(1.2) * np.tanh(np.maximum(planes, 0) / _F(1.2))
    return np.asarray(bright + _F(0.75) * np.tanh(np.minimum(planes, 0) / _F(0.75)), dtype=np.float32)


def _cascade(planes: Image, seen: list[Image], order: range, sigma_px: float) -> None:
    """Adds to each plane what it sees of all bins on one side: 6 blurs instead of one per pair of plane and bin."""
    carried = np.zeros_like(seen[0])
    for i in order:
        carried = soften(carried + seen[i - order.step], sigma_px)
        planes[i] += carried


def _box(image: Image, width_px: float) -> Image:
    side = max(int(width_px) | 1, 3)
    return np.asarray(cv2.blur(image, (side, side)), dtype=np.float32)

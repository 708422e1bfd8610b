"""The empty well: its flat floor, the bright ring of its wall, fringes outside, and dust on the floor.

It refuses to know the embryo.
"""

from __future__ import annotations

import numpy as np

from monitor.simulator.optics import FIELD_UM, PLANES_UM, Image, Light, soft_step, soften, speckle

_F = np.float32


def draw_well(light: Light, size_px: int, seed: int) -> Image:
    """(P=7, size_px, size_px) float32 in 0 to 1: the empty well, whose wall thickens as the focus rises."""
    rng = np.random.default_rng((seed, 0x3E11))
    um_per_px = FIELD_UM / size_px
    axis = ((np.arange(size_px, dtype=np.float32) + _F(0.5)) * _F(um_per_px)) - _F(FIELD_UM / 2)
    x, y = axis[None, :] - _F(light.well_x_um), axis[:, None] - _F(light.well_y_um)
    away = np.sqrt(x * x + y * y) + _F(1e-3)
    toward = (x * _F(np.cos(light.side)) + y * _F(np.sin(light.side))) / away
    slope = _F(1) + _F(float(rng.normal(0, 5e-4))) * x + _F(float(rng.normal(0, 5e-4))) * y
    reach = np.clip((toward * away + _F(35.0)) * _F(1 / 170.0), 0, 1)  # the far corners are black
    outside = _F(light.outside * light.gray) * np.minimum(reach * _F(1.6), 1) * _fringes(rng, light, away, um_per_px)
    bright = np.clip(_F(0.42) + _F(0.75) * toward, 0.0, 1)
    dust = _dust(rng, light, x, y, um_per_px)
    planes = np.empty((len(PLANES_UM), size_px, size_px), np.float32)
    for i, plane_um in enumerate(PLANES_UM):
        height_um = abs(plane_um - light.well_floor_um)
        wall_um = 1.6 + light.wall_growth * height_um
        inside = soft_step((_F(light.well_radius_um) - away) / _F(0.7 + 0.035 * height_um))
        middle_um = light.well_radius_um - 0.35 * wall_um
        ring = np.exp(-(((away - _F(middle_um)) / _F(wall_um)) ** 2)) * bright
        level = _F(light.gray * (1 + 0.0012 * plane_um)) * slope * (1 + dust[i])
        planes[i] = level * inside + outside * (1 - inside) + _F(light.ring_gray) * ring
    return planes


def _fringes(rng: np.random.Generator, light: Light, away: Image, um_per_px: float) -> Image:
    """Rings of light around the wall: two wavelengths that beat, a little rough."""
    size_px = away.shape[0]
    ripple = _F(0.7) * speckle(rng, size_px, 4.0 / um_per_px, 14.0 / um_per_px)
    waves = np.sin(away * _F(2 * np.pi / light.fringe_um) + ripple)
    waves += _F(0.7) * np.sin(away * _F(2 * np.pi / (0.62 * light.fringe_um)) + _F(2.0) + ripple)
    return np.asarray(_F(1.0) + _F(light.fringes) * waves, dtype=np.float32)


def _dust(rng: np.random.Generator, light: Light, x: Image, y: Image, um_per_px: float) -> Image:
    """(P, H, W) relative brightness: grains on the floor, drawn out sideways the farther the focus is from them."""
    planes = np.zeros((len(PLANES_UM), *np.broadcast_shapes(x.shape, y.shape)), np.float32)
    size_px = planes.shape[-1]
    strength = float(rng.uniform(0.1, 0.5))
    for _ in range(int(rng.poisson(float(rng.choice([0.0, 5.0, 14.0, 30.0]))))):
        angle, away_um = float(rng.uniform(0, 2 * np.pi)), 0.97 * light.well_radius_um * float(np.sqrt(rng.random()))
        x_um, y_um, r_um = away_um * np.cos(angle), away_um * np.sin(angle), float(np.exp(rng.normal(0.2, 0.4)))
        column = int((x_um + light.well_x_um + FIELD_UM / 2) / um_per_px)
        row = int((y_um + light.well_y_um + FIELD_UM / 2) / um_per_px)
        reach = int(26.0 / um_per_px)
        at = (slice(max(row - reach, 0), min(row + reach, size_px)), slice(max(column - reach, 0), column + reach))
        u, v = x[:, at[1]] - _F(x_um), y[at[0]] - _F(y_um)
        for plane, plane_um in zip(planes, PLANES_UM, strict=True):
            off_um = abs(plane_um - light.well_floor_um)
            wide, tall = r_um + 0.13 * off_um, r_um + 0.035 * off_um
            spot = np.exp(-np.square(u / _F(wide)) - np.square(v / _F(tall)))
            tilt = (u * _F(np.cos(light.side)) + v * _F(np.sin(light.side))) * _F(1 / tall)
            plane[at] -= _F(strength * (r_um / tall) ** 0.7) * spot * (_F(0.45) + _F(0.8) * tilt)
    return planes


def bubbles(rng: np.random.Generator, light: Light, size_px: int, planes: Image) -> None:
    """Once in a while an air bubble: a bright round lens with a dark rim, over the picture of the empty well."""
    um_per_px = FIELD_UM / size_px
    axis = ((np.arange(size_px, dtype=np.float32) + _F(0.5)) * _F(um_per_px)) - _F(FIELD_UM / 2)
    for _ in range(int(rng.random() < 0.07)):
        angle, r_um = float(rng.uniform(0, 2 * np.pi)), float(rng.uniform(3.0, 14.0))
        away_um = (light.well_radius_um - r_um) * float(np.sqrt(rng.uniform(0.3, 1.2)))
        x, y = axis[None] - _F(away_um * np.cos(angle)), axis[:, None] - _F(away_um * np.sin(angle))
        inward = np.asarray(_F(r_um) - np.sqrt(x * x + y * y), dtype=np.float32)
        rim = np.exp(-np.square(inward * _F(1 / 2.0)))
        shine = soft_step((inward - _F(0.75 * r_um)) * _F(0.8))
        lens = np.asarray((1 - _F(0.8) * rim) * (1 + _F(1.2) * shine), dtype=np.float32)
        for i in range(len(planes)):
            planes[i] *= soften(lens, (1 + i) / um_per_px)

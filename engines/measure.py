"""What an embryologist reads off a blastocyst, measured from its label image: areas, diameters, thicknesses, shares.

Axes: H, W; labels are `engines.day5.Part`. It measures what the labels say. It refuses to know who drew them, whether
they are right, and what a number is good for.

A band (zona, trophectoderm) is as thick as its area over the length of its midline, which is exact for any two parallel
outlines; the zona's least thickness is read along rays from its middle. Lengths of outlines are read from the softened
mask, for counting pixels of a staircase makes a circle 27 % too long.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from engines.contract import EngineError
from engines.day5 import Labels, Part
from engines.pieces import Bits, filled

_SPECK = 0.03  # of a part's area: smaller pieces of it are specks and are not measured
_SOFT_PX, _SOFT_SHARE = (0.7, 1.5), 0.08  # softened by a share of the depth: enough for stairs, little for curves
_RAYS = 360
_RAY_STEP_PX = 0.25
_SMOOTH_RAYS = 25  # rays averaged for the least thickness: the stairs of a circle are up to that long
_RAGGED_RAYS = 5  # beside a gap, where the zona's end is ragged
_LEAST_ZONA_PX = 1.0  # a ray with less zona than this passes through a gap


@dataclass(frozen=True)
class Measurements:
    """Of one blastocyst at one moment. Lengths in `unit`, areas in its square; None where the part is not there.

    `body` is cells and cavity together, without the zona. `blastocoel_fraction`: the cavity's share of the body's area.
    `icm_roundness`: 4 pi area / perimeter^2 of its largest piece, 1 for a disc; within 2 % from 24 px of half axis on,
    3 % at 18. `zona_gap`: share of the directions
    from the zona's middle in which there is none. Of a zona that the picture's edge cuts (an embryo that has left it)
    the thickness is told, its gap and the outer diameter are not.
    """

    unit: str
    body_area: float | None
    icm_area: float | None
    te_area: float | None
    zona_area: float | None
    blastocoel_area: float | None
    body_diameter: float | None
    icm_diameter: float | None
    outer_diameter: float | None
    zona_thickness_mean: float | None
    zona_thickness_min: float | None
    te_thickness_mean: float | None
    blastocoel_fraction: float | None
    icm_roundness: float | None
    zona_gap: float | None


def measure(labels: Labels, um_per_px: float | None = None) -> Measurements:
    """Of labels (H, W) uint8; in um where the width of a pixel of this label image is known, else in px.

    Raises EngineError on another shape, another class, or a width that is not above 0.
    """
    if labels.ndim != 2 or labels.dtype != np.uint8 or (labels.size and labels.max() > max(Part)):
        raise EngineError(f"labels must be (H, W) uint8 of 0 to {max(Part)}, got {labels.dtype} {labels.shape}")
    if um_per_px is not None and not (np.isfinite(um_per_px) and um_per_px > 0):
        raise EngineError(f"um_per_px = {um_per_px}: the width of a pixel lies above 0; None where it is not known")
    k = um_per_px or 1.0
    icm, te, zona, cavity = (
        (labels == part).astype(np.uint8) for part in (Part.ICM, Part.TE, Part.ZP, Part.BLASTOCOEL)
    )
    body = icm | te | cavity
    area = {name: float(mask.sum()) * k * k for name, mask in zip("itzcb", (icm, te, zona, cavity, body), strict=True)}
    thickness, gap = _zona_along_rays(zona)
    whole = not _at_edge(zona)
    return Measurements(
        unit="px" if um_per_px is None else "um",
        body_area=area["b"] or None,
        icm_area=area["i"] or None,
        te_area=area["t"] or None,
        zona_area=area["z"] or None,
        blastocoel_area=area["c"] or None,
        body_diameter=_diameter(area["b"]),
        icm_diameter=_diameter(area["i"]),
        outer_diameter=_diameter(float(filled(body | zona).sum()) * k * k) if whole else None,
        zona_thickness_mean=_scaled(band_thickness_px(zona), k),
        zona_thickness_min=_scaled(thickness, k),
        te_thickness_mean=_scaled(band_thickness_px(te), k),
        blastocoel_fraction=area["c"] / area["b"] if area["b"] else None,
        icm_roundness=_roundness(icm),
        zona_gap=gap if whole else None,
    )


def _at_edge(mask: Bits) -> bool:
    return bool(mask[[0, -1]].any() or mask[:, [0, -1]].any())


def perimeter_px(mask: Bits) -> float:
    """Length of all outlines of a mask (H, W) of 0 and 1: its steepness, softened, summed over the picture."""
    depth_px = float(cv2.distanceTransform(mask, cv2.DIST_L2, 5).max(initial=0.0))
    wide = cv2.copyMakeBorder(mask.astype(np.float32), 8, 8, 8, 8, cv2.BORDER_CONSTANT, value=0)
    soft = cv2.GaussianBlur(wide, (0, 0), float(np.clip(_SOFT_SHARE * depth_px, *_SOFT_PX)))
    down, across = np.gradient(soft)
    return float(np.hypot(down, across).sum())


def band_thickness_px(mask: Bits) -> float | None:
    """Mean thickness of a ring, or of an arc of one; None where there is none. Specks are left out."""
    area_px = length_px = 0.0
    for piece in _pieces_without_specks(mask):
        piece_px = float(piece.sum())
        area_px += piece_px
        length_px += _midline_px(piece, piece_px)
    return area_px / length_px if length_px > 0 else None


def _midline_px(piece: Bits, area_px: float) -> float:
    """Half of both outlines of a ring. An arc's outline holds its two ends as well: area = t (perimeter - 2 t) / 2."""
    whole = filled(piece)
    hole = whole & (1 - piece)
    if hole.sum() > area_px * 0.25:
        return (perimeter_px(whole) + perimeter_px(np.asarray(hole, np.uint8))) / 2
    around_px = perimeter_px(piece)
    thickness_px = (around_px - np.sqrt(max(around_px**2 - 16 * area_px, 0.0))) / 4
    return area_px / max(float(thickness_px), 0.5)


def _zona_along_rays(zona: Bits) -> tuple[float | None, float | None]:
    """Least thickness in px over neighbouring rays from the zona's middle, and the share of rays that meet none."""
    pieces = list(_pieces_without_specks(zona))
    if not pieces:
        return None, None
    whole = np.maximum.reduce(pieces)
    (x_px, y_px), _ = cv2.minEnclosingCircle(cv2.findNonZero(whole))  # a gap does not move it
    out = np.arange(0, float(np.hypot(*zona.shape)), _RAY_STEP_PX, dtype=np.float32)
    turn = np.arange(_RAYS, dtype=np.float32)[:, None] * np.float32(2 * np.pi / _RAYS)
    to_x, to_y = np.float32(x_px) + np.cos(turn) * out, np.float32(y_px) + np.sin(turn) * out
    soft = cv2.GaussianBlur(whole.astype(np.float32), (0, 0), _SOFT_PX[1])
    rays = cv2.remap(soft, to_x, to_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    along = rays.sum(1) * _RAY_STEP_PX
    there = along >= _LEAST_ZONA_PX
    if there.sum() < _SMOOTH_RAYS:
        return None, float((~there).mean())
    return _least_of_runs(along, there), float((~there).mean())


def _least_of_runs(along: npt.NDArray[np.float32], there: npt.NDArray[np.bool_]) -> float:
    """The least mean of `_SMOOTH_RAYS` neighbours away from any gap; of all rays that meet the zona, where none are."""
    half = _SMOOTH_RAYS // 2
    weights = np.ones(_SMOOTH_RAYS) / _SMOOTH_RAYS
    means = np.convolve(np.concatenate([along[-half:], along, along[:half]]), weights, "valid")
    gaps = np.flatnonzero(~there)
    away = np.abs(np.arange(_RAYS)[:, None] - gaps[None])
    clear = (np.minimum(away, _RAYS - away) > half + _RAGGED_RAYS).all(1)
    return float(means[clear].min()) if clear.any() else float(along[there].mean())


def _roundness(mask: Bits) -> float | None:
    pieces = list(_pieces_without_specks(mask))
    if not pieces:
        return None
    largest = max(pieces, key=lambda piece: int(piece.sum()))
    return float(4 * np.pi * float(largest.sum()) / perimeter_px(largest) ** 2)


def _pieces_without_specks(mask: Bits) -> Iterator[Bits]:
    """Connected pieces of at least `_SPECK` of the mask's area."""
    count, labels, table, _ = cv2.connectedComponentsWithStats(mask)
    for i in range(1, count):
        if table[i, cv2.CC_STAT_AREA] >= _SPECK * mask.sum():
            yield (labels == i).astype(np.uint8)


def _diameter(area: float) -> float | None:
    """Of the disc of that area."""
    return float(np.sqrt(4 * area / np.pi)) if area else None


def _scaled(length_px: float | None, um_per_px: float) -> float | None:
    return None if length_px is None else length_px * um_per_px

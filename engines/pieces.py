"""Shapes in a mask: filled, closed, opened, parted, hulled. Masks are (H, W) uint8 of 0 and 1. It knows no picture."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[np.uint8]

LEAST_AREA_PX = 100  # smaller pieces are dirt
_NECKS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.88)  # levels, in the depth of the thickest body, at which a neck is looked for
_NARROWER = 0.9  # a neck is narrower than this share of the thinner body it joins
_LIKE = 0.55  # a body of like size is at least that thick
_THIN = 0.5  # of the deepest point's distance to the edge
_EDGE_PX = 3  # this near to the edge of the picture a part is cut by it


def filled(mask: Bits) -> Bits:
    """Without holes."""
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.asarray(cv2.drawContours(np.zeros_like(mask), outlines, -1, 1, cv2.FILLED), dtype=np.uint8)


def closed(mask: Bits, radius_px: int) -> Bits:
    """Gaps narrower than twice the radius are bridged."""
    return np.asarray(cv2.morphologyEx(mask, cv2.MORPH_CLOSE, _disc(radius_px)), dtype=np.uint8)


def opened(mask: Bits, radius_px: int) -> Bits:
    """What is thinner than twice the radius is gone."""
    return np.asarray(cv2.morphologyEx(mask, cv2.MORPH_OPEN, _disc(radius_px)), dtype=np.uint8)


def pieces_of(mask: Bits, least_px: int = LEAST_AREA_PX) -> list[Bits]:
    """Each connected piece of at least `least_px` pixels, the largest first."""
    count, labels, table, _ = cv2.connectedComponentsWithStats(mask)
    areas = table[:, cv2.CC_STAT_AREA]
    chosen = sorted((i for i in range(1, count) if areas[i] >= least_px), key=lambda i: -areas[i])
    return [(labels == i).astype(np.uint8) for i in chosen]


def split_neighbours(mask: Bits, where: Bits) -> list[Bits]:
    """The pieces; bodies of like size grown together parted where they touch, and without what hangs on to a body and
    is cut by the edge of the picture (`where` it is 1): that is a neighbour of which too little is seen."""
    inner = cv2.erode(where, np.ones((2 * _EDGE_PX + 1,) * 2, np.uint8), borderValue=0)
    rim = np.asarray(inner == 0, dtype=np.bool_)
    parted = []
    for piece in pieces_of(mask):
        depth = np.asarray(cv2.distanceTransform(piece, cv2.DIST_L2, 5), dtype=np.float32)
        cores = _cores(depth)
        if len(cores) < 2:
            parted.append(_without_cut_off(piece, depth, rim))
            continue
        nearest = np.stack([_distance_to(core) for core in cores]).argmin(0)
        parted += [(piece & (nearest == i)).astype(np.uint8) for i in range(len(cores))]
    return parted


def _without_cut_off(piece: Bits, depth: npt.NDArray[np.float32], rim: npt.NDArray[np.bool_]) -> Bits:
    """The piece without those parts thinner than half of it that reach the rim."""
    radius_px = _THIN * float(depth.max())
    body = piece & (_distance_to((depth > radius_px).astype(np.uint8)) <= radius_px)
    kept: Bits = piece.copy()
    for part in pieces_of(np.asarray(piece & (1 - body), dtype=np.uint8)):
        if part[rim].any():
            kept = np.asarray(kept & (1 - part), dtype=np.uint8)
    return kept


def _distance_to(mask: Bits) -> npt.NDArray[np.float32]:
    return np.asarray(cv2.distanceTransform((1 - mask).astype(np.uint8), cv2.DIST_L2, 5), dtype=np.float32)


def _cores(depth: npt.NDArray[np.float32]) -> list[Bits]:
    """The inner parts of bodies grown together, from the distance (H, W) to the edge: deep parts that the level of a
    neck parts. One body has one, whatever level is looked at; a part much thinner than the body has none."""
    deepest = float(depth.max())
    for level in _NECKS:
        deep = pieces_of((depth > level * deepest).astype(np.uint8), least_px=1)
        own = [core for core in deep if depth[core > 0].max() > max(level / _NARROWER, _LIKE) * deepest]
        if len(own) > 1:
            return own
    return []


def hull_of(mask: Bits) -> Bits:
    """The convex hull, filled; empty where the mask is."""
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    held = np.zeros_like(mask)
    if outlines:
        cv2.fillConvexPoly(held, cv2.convexHull(np.concatenate(outlines)), 1)
    return held


def distance_from(shape: tuple[int, ...], x_px: float, y_px: float) -> npt.NDArray[np.float32]:
    """(H, W) distance of every pixel from a point."""
    columns, rows = np.arange(shape[1], dtype=np.float32)[None], np.arange(shape[0], dtype=np.float32)[:, None]
    return np.asarray(np.hypot(columns - np.float32(x_px), rows - np.float32(y_px)), dtype=np.float32)


@lru_cache(maxsize=16)
def _disc(radius_px: int) -> Bits:
    side = 2 * radius_px + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), dtype=np.uint8)

"""Masks of a blastocyst's parts, as the public sets mark them by hand. It refuses to know light and files."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from monitor.simulator.body import Pose
from monitor.simulator.paint import Canvas, cavity_inward_um

Masks = dict[str, npt.NDArray[np.bool_]]

_LEAST_SHEET = 0.1  # before there is that much trophectoderm nobody would mark it


def masks_of(canvas: Canvas, pose: Pose) -> Masks:
    """Masks (h, w) bool by name, of which no two overlap, in the canvas's bent coordinates, as the body is drawn."""
    away = canvas.away_um
    zona = (away < pose.zona_outer_um) & (away >= pose.zona_inner_um)
    angle, half = pose.zona_gap
    if half > 0:
        zona &= canvas.x * np.cos(angle) + canvas.y * np.sin(angle) < away * np.cos(half)
    nothing = np.zeros(away.shape, bool)
    if pose.sheet < _LEAST_SHEET:
        return {"ICM": nothing, "TE": nothing.copy(), "ZP": zona, "blastocoel": nothing.copy()}
    depth = np.full(away.shape, -99, np.float32)
    for x_um, y_um, r_um in pose.hatch.places():
        depth = np.maximum(depth, canvas.inward_um((slice(None), slice(None)), x_um, y_um, r_um))
    body, mass = depth > 0, _inner_mass(canvas, pose)
    mass &= body
    rim = body & (depth < pose.sheet_um) & ~mass
    hollow = body & ~rim & ~mass
    if len(pose.cavity) and pose.cavity[0, 4] >= 0.99:  # while it grows the rest is still cells
        hollow &= cavity_inward_um(canvas, (slice(None), slice(None)), pose) > 0
        rim = body & ~mass & ~hollow
    return {"ICM": mass, "TE": rim, "ZP": zona & ~body, "blastocoel": hollow}


def _inner_mass(canvas: Canvas, pose: Pose) -> npt.NDArray[np.bool_]:
    """Everything inside of the hull around the inner cells' outlines."""
    held = np.zeros(canvas.x.shape, np.uint8)
    for (x_um, y_um, _), r_um in zip(pose.inner, pose.inner_radii, strict=True):
        at = canvas.box(float(x_um), float(y_um), float(r_um))
        held[at] |= (canvas.inward_um(at, float(x_um), float(y_um), float(r_um)) > 0).astype(np.uint8)
    points = cv2.findNonZero(held)
    if points is not None:
        cv2.fillConvexPoly(held, cv2.convexHull(points), 1)
    return held > 0

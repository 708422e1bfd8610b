"""Lays a pose into depth bins: optical path, contour lines and grain of each structure in the bin nearest to its depth.

It refuses to know hours and light.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from monitor.simulator.body import Pose
from monitor.simulator.optics import BINS_UM, Image, soft_step

_F = np.float32
_BIN_UM = float(BINS_UM[1] - BINS_UM[0])
_LINE_UM = 1.1  # half width of a membrane
_EDGE_UM = 2.8  # within this a cell rises to its height: a steep edge and a flat interior
_DOME_UM = 28.0  # and within this its soft shoulder
_AXIAL = 0.52  # a step of the stage is a longer step within the medium, and embryos lie a little flat
_HIDDEN = 0.28  # how much of its outline a cell shows where another of the same depth covers it
_HIGHEST = len(BINS_UM) - 1


class Canvas:
    """Depth bins (B, h, w) around the embryo's centre. Lengths in um; `x`, `y` (h, w) from the centre, bent a little.

    `away_um` (h, w): distance from the centre as the zona sees it, which is smoother than any cell.
    """

    def __init__(self, x: Image, y: Image, away_um: Image, um_per_px: float, focus_um: float) -> None:
        self.x, self.y, self.um_per_px, self.focus_um = x, y, um_per_px, focus_um
        self.away_um = away_um
        self.left_um, self.top_um = float(x[0, 0]), float(y[0, 0])
        h, w = x.shape
        self.path = np.zeros((len(BINS_UM), h, w), np.float32)
        self.line = np.zeros((len(BINS_UM), h, w), np.float32)
        self.grain = np.zeros((len(BINS_UM), h, w), np.float32)
        self.used = [False] * len(BINS_UM)
        self.line_um = max(_LINE_UM, 0.5 * um_per_px)
        self.line_gain = _LINE_UM / self.line_um  # a pixel wider than the membrane sees it paler

    def bin_of(self, z_um: float) -> int:
        """Index of the bin nearest to `z_um` (from the embryo's centre)."""
        return min(max(round((_AXIAL * z_um + self.focus_um - BINS_UM[0]) / _BIN_UM), 0), _HIGHEST)

    def box(self, x_um: float, y_um: float, reach_um: float) -> tuple[slice, slice]:
        """Rows and columns that hold everything within `reach_um` of a point."""
        h, w = self.x.shape
        reach_um += 2 * self.line_um + 5.0  # the picture is bent by a few um
        scale = 1 / self.um_per_px
        first_x, last_x = (x_um - self.left_um - reach_um) * scale, (x_um - self.left_um + reach_um) * scale
        first_y, last_y = (y_um - self.top_um - reach_um) * scale, (y_um - self.top_um + reach_um) * scale
        rows = slice(min(max(int(first_y), 0), h), min(max(int(last_y) + 2, 0), h))
        return rows, slice(min(max(int(first_x), 0), w), min(max(int(last_x) + 2, 0), w))

    def inward_um(self, at: tuple[slice, slice], x_um: float, y_um: float, radius_um: float) -> Image:
        """How deep each pixel of a box lies inside of a circle; negative outside."""
        inward: Image = _F(radius_um) - cv2.magnitude(self.x[at] - _F(x_um), self.y[at] - _F(y_um))
        return inward

    def inside_lobe_um(self, at: tuple[slice, slice], lobe: npt.NDArray[np.float64]) -> Image:
        """How deep each pixel of a box lies inside of a lobe, about in um; negative outside."""
        x_um, y_um, _, a, b, angle = (float(v) for v in lobe[:6])
        if a == b:
            return self.inward_um(at, x_um, y_um, a)
        cos, sin = np.cos(angle), np.sin(angle)
        x, y = self.x[at] - _F(x_um), self.y[at] - _F(y_um)
        u, v = x * _F(cos / a) + y * _F(sin / a), y * _F(cos / b) - x * _F(sin / b)
        away = cv2.magnitude(u, v)
        steep = cv2.magnitude(u * _F(1 / a), v * _F(1 / b)) + _F(1e-4)
        return np.asarray(np.minimum((1 - away) * away / steep, _F(min(a, b))), dtype=np.float32)

    def bell(self, away_um: Image) -> Image:
        """1 where `away_um` is 0, falling off within a membrane's width."""
        return np.asarray(cv2.exp(-np.square(away_um * _F(1 / self.line_um))), dtype=np.float32)

    def coverage(self, inward_um: Image) -> Image:
        """Share of each pixel that lies inside."""
        return np.asarray(np.clip(inward_um * _F(1 / self.um_per_px) + _F(0.5), 0, 1), dtype=np.float32)


def surface(inward_um: Image, height_um: float, half_um: float, round_: float = 0.5) -> Image:
    """Optical path of a soft body: `round_` of it is a dome, the rest a plateau with a steep edge."""
    inside = np.maximum(inward_um, 0)
    edge_um = min(_EDGE_UM, 0.5 * half_um)
    plateau = 1 - cv2.exp(inside * _F(-1 / edge_um))
    t = np.minimum(inside * _F(1 / min(half_um, _DOME_UM)), 1)
    return np.asarray(_F(height_um * (1 - round_)) * plateau + _F(height_um * round_) * (t * (2 - t)), dtype=np.float32)


def _outside(at: tuple[slice, slice]) -> bool:
    """Whether a box lies beyond the canvas: what hatches may leave the picture."""
    return bool(at[0].start >= at[0].stop or at[1].start >= at[1].stop)


def paint_speck(canvas: Canvas, speck: npt.NDArray[np.float64]) -> None:
    """One small lobe (9,), added to what lies there: both outlines stay."""
    x_um, y_um, z_um, a, b, _, height, outline, grain = (float(v) for v in speck)
    at = canvas.box(x_um, y_um, max(a, b))
    if _outside(at):
        return
    depth = canvas.bin_of(z_um)
    canvas.used[depth] = True
    inward = canvas.inside_lobe_um(at, speck)
    canvas.path[depth][at] += surface(inward, height, min(a, b))
    canvas.line[depth][at] += _F(outline * canvas.line_gain) * canvas.bell(inward)
    if grain > 0.2:
        layer = canvas.grain[depth][at]
        np.maximum(layer, _F(grain) * canvas.coverage(inward), out=layer)


def paint_lobes(canvas: Canvas, pose: Pose) -> None:
    """All lobes, bin by bin: within a bin neighbours meet in one thin line, across bins both outlines stay."""
    bins = np.array([canvas.bin_of(float(z)) for z in pose.lobes[:, 2]], dtype=int)
    for depth in np.unique(bins):
        _paint_layer(canvas, int(depth), pose.lobes[bins == depth], pose.clear)


def _paint_layer(canvas: Canvas, depth: int, lobes: npt.NDArray[np.float64], clear: float) -> None:
    """The higher of two that overlap hides part of the lower one; `clear` (0 to 1) of what it hides is still seen."""
    own = _HIDDEN + (0.85 - _HIDDEN) * clear
    h, w = canvas.x.shape
    top, second = np.full((h, w), -99, np.float32), np.full((h, w), -99, np.float32)
    outline, grain = np.zeros((h, w), np.float32), np.zeros((h, w), np.float32)
    path = canvas.path[depth]
    canvas.used[depth] = True
    for lobe in lobes[np.argsort(lobes[:, 2], kind="stable")]:
        at = canvas.box(float(lobe[0]), float(lobe[1]), float(max(lobe[3], lobe[4])))
        if _outside(at):
            continue
        inward = canvas.inside_lobe_um(at, lobe)
        highest = top[at]
        higher = inward > highest
        second[at] = np.maximum(second[at], np.minimum(highest, inward))
        np.copyto(highest, inward, where=higher)
        np.copyto(outline[at], _F(lobe[7]), where=higher)
        np.copyto(grain[at], _F(lobe[8]), where=higher)
        line, layer = canvas.line[depth][at], path[at]
        if clear > 0:
            line *= 1 - _F(0.45 * clear * min(float(lobe[7]), 1.0)) * canvas.coverage(inward)
        line += _F(own * float(lobe[7]) * canvas.line_gain) * canvas.bell(inward)
        rise = surface(inward, float(lobe[6]), float(min(lobe[3], lobe[4])), 0.75)
        both = np.minimum(layer, rise) * _F(0.6 * clear)
        np.maximum(layer, rise, out=layer)
        layer += both
    touching = canvas.bell((top - second) * _F(0.8)) * (second > 0)
    edge = canvas.bell(top)
    canvas.line[depth] += (
        _F(canvas.line_gain) * outline * np.maximum(_F(1 - own) * edge, _F(0.7 - 0.55 * clear) * touching)
    )
    shape = canvas.coverage(top) * grain
    reach = min(round(float(np.median(lobes[:, 4])) * _AXIAL / _BIN_UM), 2)
    for near in range(max(depth - reach, 0), min(depth + reach, _HIGHEST) + 1):  # a big cell is thicker than a bin
        np.maximum(canvas.grain[near], shape, out=canvas.grain[near])


def paint_compact(canvas: Canvas, pose: Pose) -> None:
    """The common surface that cells of a morula merge into."""
    share = pose.compaction * (1 - pose.sheet)
    if share < 0.05:
        return
    everywhere = (slice(None), slice(None))
    inward = canvas.inward_um(everywhere, 0.0, 0.0, pose.radius_um * 0.97)
    depth = canvas.bin_of(0.0)
    canvas.used[depth] = True
    canvas.path[depth] += surface(inward, 5.0 * share, pose.radius_um)
    canvas.line[depth] += _F(0.25 * share * canvas.line_gain) * canvas.bell(inward)


def paint_cavity(canvas: Canvas, pose: Pose) -> None:
    """The fluid of a growing blastocoel: pale, calm, its border crisp; what lies above and below shines through."""
    if not len(pose.cavity):
        return
    clear, depth = float(pose.cavity[0, 4]), canvas.bin_of(float(pose.cavity[0, 2]))
    at = canvas.box(0.0, 0.0, pose.radius_um)
    inward = cavity_inward_um(canvas, at, pose)
    cover = soft_step(inward * _F(1.2))
    for b in (b for b in range(len(BINS_UM)) if canvas.used[b]):
        canvas.path[b][at] *= 1 - _F(0.4 * clear) * cover
        canvas.line[b][at] *= 1 - _F(0.2 * clear) * cover
        canvas.grain[b][at] *= 1 - _F(0.8 * clear) * cover
    canvas.used[depth] = True
    canvas.line[depth][at] += _F(0.7 * clear * canvas.line_gain) * canvas.bell(inward)


def cavity_inward_um(canvas: Canvas, at: tuple[slice, slice], pose: Pose) -> Image:
    """How deep each pixel of a box lies inside of the growing cavity; negative outside."""
    balls = [canvas.inward_um(at, float(x), float(y), float(r)) for x, y, _, r, _ in pose.cavity]
    return np.asarray(np.maximum.reduce(balls), dtype=np.float32)


def paint_shell(canvas: Canvas, pose: Pose) -> None:
    """The membrane around a blastocyst: one dark line at its widest, inside and outside of the zona."""
    if pose.sheet <= 0:
        return
    depth = canvas.bin_of(0.0)
    canvas.used[depth] = True
    inward = np.full(canvas.x.shape, -99, np.float32)
    for x_um, y_um, r_um in pose.hatch.places():
        inward = np.maximum(inward, canvas.inward_um((slice(None), slice(None)), x_um, y_um, r_um))
    canvas.path[depth] += surface(inward, 2.5 * pose.sheet, 20.0, round_=0.0)
    canvas.line[depth] += _F(1.1 * pose.sheet * canvas.line_gain) * canvas.bell((inward - _F(0.8)) * _F(0.6))
    shape = _F(0.25 * pose.sheet) * canvas.coverage(inward)
    np.maximum(canvas.grain[depth], shape, out=canvas.grain[depth])


def zona_mask(canvas: Canvas, pose: Pose) -> Image:
    """(h, w) 0 to 1: the zona's ring, soft outside, with the gap through which the embryo leaves."""
    away = canvas.away_um
    ring = soft_step((_F(pose.zona_outer_um) - away) * _F(0.8))
    ring *= soft_step((away - _F(pose.zona_inner_um)) * _F(1.2))
    angle, half = pose.zona_gap
    if half > 0:
        toward = (canvas.x * _F(np.cos(angle)) + canvas.y * _F(np.sin(angle))) / (away + _F(1e-3))
        ring *= soft_step((_F(np.cos(half)) - toward) * _F(60.0))
    return ring

"""Lays a pose into depth bins: optical path, contour lines and grain of each structure in the bin nearest to its depth.

It refuses to know hours and light.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from monitor.simulator.body import FloatArray, Pose
from monitor.simulator.optics import PLANES_UM, Image

_F = np.float32
_BINS = len(PLANES_UM)
_BIN_UM = float(PLANES_UM[1] - PLANES_UM[0])
_LINE_UM = 1.1  # half width of a membrane


class Canvas:
    """Depth bins (P, h, w) around the embryo's centre. Lengths in um; `x` (h, w), `y` (h, w) from the centre."""

    def __init__(self, x: Image, y: Image, um_per_px: float, focus_um: float) -> None:
        self.x, self.y, self.um_per_px, self.focus_um = x, y, um_per_px, focus_um
        self.left_um, self.top_um = float(x[0, 0]), float(y[0, 0])
        h, w = x.shape
        self.path = np.zeros((_BINS, h, w), np.float32)
        self.line = np.zeros((_BINS, h, w), np.float32)
        self.grain = np.zeros((_BINS, h, w), np.float32)
        self.mass = np.zeros((h, w), np.float32)
        self.line_um = max(_LINE_UM, 0.55 * um_per_px)
        self.line_gain = _LINE_UM / self.line_um  # a pixel wider than the membrane sees it paler

    def bin_of(self, z_um: float) -> int:
        """Index of the plane nearest to `z_um` (from the embryo's centre)."""
        return min(max(round((z_um + self.focus_um - PLANES_UM[0]) / _BIN_UM), 0), _BINS - 1)

    def box(self, x_um: float, y_um: float, reach_um: float) -> tuple[slice, slice]:
        """Rows and columns that hold everything within `reach_um` of a point."""
        h, w = self.x.shape
        reach_um += 2 * self.line_um + 3.0
        first_x, last_x = x_um - self.left_um - reach_um, x_um - self.left_um + reach_um
        first_y, last_y = y_um - self.top_um - reach_um, y_um - self.top_um + reach_um
        scale = 1 / self.um_per_px
        return (
            slice(max(int(first_y * scale), 0), min(max(int(last_y * scale) + 2, 0), h)),
            slice(max(int(first_x * scale), 0), min(max(int(last_x * scale) + 2, 0), w)),
        )

    def inward_um(self, at: tuple[slice, slice], x_um: float, y_um: float, radius_um: float) -> Image:
        """How deep each pixel of a box lies inside of a circle; negative outside."""
        inward: Image = _F(radius_um) - cv2.magnitude(self.x[at] - _F(x_um), self.y[at] - _F(y_um))
        return inward

    def contour(self, inward_um: Image) -> Image:
        """1 on the edge, falling off within a membrane's width."""
        bell: Image = cv2.exp(-np.square(inward_um * _F(1 / self.line_um)))
        return np.asarray(bell * _F(self.line_gain), dtype=np.float32)


def dome(inward_um: Image, radius_um: Image | np.float32, flat: float = 0.7) -> Image:
    """Optical path of a soft ball, relative to its radius: a steep edge and a flat interior."""
    rest = np.square(1 - np.clip(inward_um / radius_um, 0, 1))
    return np.asarray(_F(1 - flat) * np.sqrt(1 - rest) + _F(flat) * np.sqrt(1 - rest * rest * rest), dtype=np.float32)


def paint_speck(canvas: Canvas, speck: FloatArray, grain: float = 1.3) -> None:
    """One small ball: (6,) x, y, z, radius in um, path gain, outline."""
    x_um, y_um, z_um, radius_um, gain, outline = (float(v) for v in speck)
    b, at = canvas.bin_of(z_um), canvas.box(x_um, y_um, radius_um)
    inward = canvas.inward_um(at, x_um, y_um, radius_um)
    if inward.size == 0:
        return
    canvas.path[b][at] += _F(gain * radius_um) * dome(inward, _F(radius_um))
    canvas.line[b][at] += _F(outline) * canvas.contour(inward)
    if gain > 0.3:
        shape = np.clip(inward * _F(1 / canvas.um_per_px) + _F(0.5), 0, 1)
        canvas.grain[b][at] = np.maximum(canvas.grain[b][at], _F(grain) * shape)
        canvas.mass[at] = np.maximum(canvas.mass[at], shape)


def paint_cells(canvas: Canvas, pose: Pose) -> None:
    """All cells, bin by bin: within a bin neighbours meet in one thin line, across bins both outlines stay."""
    bins = [canvas.bin_of(float(z)) for z in pose.cells[:, 2]]
    gain = 1.0 - 0.25 * pose.compaction
    outline = 1.0 - 0.15 * pose.compaction
    for b in sorted(set(bins)):
        _paint_layer(canvas, b, [i for i, own in enumerate(bins) if own == b], pose, gain, outline)


def _paint_layer(canvas: Canvas, b: int, members: list[int], pose: Pose, gain: float, outline: float) -> None:
    h, w = canvas.x.shape
    top, second = np.full((h, w), -99, np.float32), np.full((h, w), -99, np.float32)
    radius, strength = np.ones((h, w), np.float32), np.zeros((h, w), np.float32)
    for i in members:
        x_um, y_um, r_um = float(pose.cells[i, 0]), float(pose.cells[i, 1]), float(pose.cell_radii[i])
        at = canvas.box(x_um, y_um, r_um)
        inward = canvas.inward_um(at, x_um, y_um, r_um)
        higher = inward > top[at]
        second[at] = np.maximum(second[at], np.minimum(top[at], inward))
        np.copyto(top[at], inward, where=higher)
        np.copyto(radius[at], _F(r_um), where=higher)
        np.copyto(strength[at], _F(pose.cell_strength[i]), where=higher)
    touching = canvas.contour((top - second) * _F(0.8)) * (second > 0)
    shape = np.clip(top * _F(1 / canvas.um_per_px) + _F(0.5), 0, 1)
    height = dome(top, radius) * np.minimum(radius, 26) * (1 - _F(0.3) * touching)
    canvas.path[b] += _F(gain) * strength * height
    canvas.line[b] += _F(outline) * strength * (_F(0.75) * canvas.contour(top) + _F(0.7) * touching)
    for near, share in ((b - 1, 0.5), (b, 1.0), (b + 1, 0.7)):  # a cell is thicker than one bin
        if 0 <= near < _BINS:
            np.maximum(canvas.grain[near], _F(share) * shape * strength, out=canvas.grain[near])
    np.maximum(canvas.mass, shape * strength, out=canvas.mass)


def paint_nuclei(canvas: Canvas, pose: Pose) -> None:
    """Pronuclei with their rows of nucleoli, later one faint nucleus in about every other cell."""
    for k, (x_um, y_um, z_um, r_um) in enumerate(pose.pronuclei):
        paint_speck(canvas, np.array([x_um, y_um, z_um, r_um, -0.28, 0.55]))
        for j in range(5):
            turn = 2.4 * j + k
            place = (x_um + 0.5 * r_um * np.cos(turn), y_um + 0.45 * r_um * np.sin(turn), z_um)
            paint_speck(canvas, np.array([*place, 1.5, 0.9, 0.3]))
    if len(pose.cells) < 2 or pose.nuclei_strength < 0.1:
        return
    for i in range(0, min(len(pose.cells), 10), 2):
        r_um = float(pose.cell_radii[i]) * 0.3
        faint = pose.nuclei_strength
        paint_speck(canvas, np.array([*pose.cells[i], r_um, -0.22 * faint, 0.3 * faint]))


def paint_compact(canvas: Canvas, pose: Pose) -> None:
    """The common surface that cells of a morula merge into."""
    if pose.compaction < 0.05 or pose.sheet > 0.95:
        return
    share = pose.compaction * (1 - pose.sheet)
    everywhere = (slice(None), slice(None))
    inward = canvas.inward_um(everywhere, 0.0, 0.0, pose.body_radius_um * 0.97)
    b = canvas.bin_of(0.0)
    canvas.path[b] += _F(14.0 * share) * dome(inward, _F(pose.body_radius_um), flat=1.0)
    canvas.line[b] += _F(0.45 * share) * canvas.contour(inward)


def paint_blastocyst(canvas: Canvas, pose: Pose, mesh: Image, rim_um: npt.NDArray[np.float32]) -> None:
    """Cavity, trophectoderm rim and its sheet of cells seen from above and below.

    `mesh` (2, 2, M, M): borders (1 on a border) and bumps (0 to 1) of the cells on the upper and lower half of a unit
    ball; `rim_um` (256,): thickness of the rim by angle.
    """
    if pose.sheet <= 0:
        return
    everywhere = (slice(None), slice(None))
    equator, share = canvas.bin_of(0.0), pose.sheet
    inward = canvas.inward_um(everywhere, 0.0, 0.0, pose.body_radius_um)
    angle = cv2.phase(canvas.x, canvas.y)
    thickness = rim_um[np.minimum((angle * _F(256 / (2 * np.pi))).astype(np.int32), 255)] * _F(0.5 + 0.5 * share)
    inside = np.clip(inward * _F(1 / canvas.um_per_px) + _F(0.5), 0, 1)
    bump = np.sqrt(np.clip(1 - np.square(2 * inward / thickness - 1), 0, 1))
    canvas.path[equator] += _F(share) * (_F(11.0) * bump + _F(8.0) * dome(inward, _F(pose.body_radius_um), flat=1.0))
    canvas.line[equator] += _F(share) * (
        canvas.contour(inward) + _F(0.45) * canvas.contour(inward - thickness) * inside
    )
    canvas.grain[equator] = np.maximum(canvas.grain[equator], _F(0.6 * share) * inside)
    canvas.mass[:] = np.maximum(canvas.mass, _F(0.7 * share) * inside)
    depth_um = 0.5 * pose.body_radius_um
    for half, z_um in ((mesh[0], depth_um), (mesh[1], -depth_um)):
        _paint_sheet(canvas, half, canvas.bin_of(z_um), pose.body_radius_um, share)
    _paint_cavity(canvas, pose)


def _paint_sheet(canvas: Canvas, half: Image, b: int, radius_um: float, share: float) -> None:
    side_px = half.shape[-1]
    scale, middle = _F(side_px / (2 * radius_um)), _F(side_px / 2 - 0.5)
    across, down = canvas.x * scale + middle, canvas.y * scale + middle
    border, bump = (cv2.remap(layer, across, down, cv2.INTER_LINEAR) for layer in half)
    canvas.path[b] += _F(11.0 * share) * bump - _F(3.0 * share) * border
    canvas.line[b] += _F(0.4 * share * canvas.line_gain) * border


def _paint_cavity(canvas: Canvas, pose: Pose) -> None:
    """A cavity is thinner than cells: it takes away path and grain, and has its own rim while it is small."""
    x_um, y_um, z_um, r_um = pose.cavity
    if r_um <= 1:
        return
    at = canvas.box(x_um, y_um, r_um)
    inward = canvas.inward_um(at, x_um, y_um, r_um)
    clear = _F(1) / (_F(1) + cv2.exp(inward * _F(-0.35)))
    equator = canvas.bin_of(z_um)
    for b in range(max(equator - 1, 0), min(equator + 2, _BINS)):
        canvas.grain[b][at] *= 1 - _F(0.7) * clear
    canvas.path[equator][at] -= _F(9.0) * dome(inward, _F(r_um), flat=1.0)
    canvas.line[equator][at] += _F(0.5 * (1 - 0.6 * pose.sheet)) * canvas.contour(inward)


def paint_bulge(canvas: Canvas, pose: Pose) -> None:
    """The part that has left the zona."""
    x_um, y_um, r_um = pose.bulge
    if r_um <= 0:
        return
    paint_speck(canvas, np.array([x_um, y_um, 0.0, r_um, 0.4, 0.9]), grain=0.7)
    for k in range(6):
        place = (x_um + 0.7 * r_um * np.cos(1.05 * k), y_um + 0.7 * r_um * np.sin(1.05 * k), 8.0)
        paint_speck(canvas, np.array([*place, 0.4 * r_um, 0.4, 0.5]))

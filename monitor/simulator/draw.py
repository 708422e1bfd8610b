"""One virtual embryo: ask it for the stack of any hour.

It joins life, body, paint and light, and keeps what does not change between frames. It refuses to know files and time
of day.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from monitor.simulator import optics, paint
from monitor.simulator.body import Body, Pose
from monitor.simulator.life import Life
from monitor.simulator.optics import FIELD_UM, PLANES_UM, Image, Light

_F = np.float32
_REACH_UM = 108.0  # half of the square around the embryo that is drawn anew for each frame
_MESH_PX = 128


class VirtualEmbryo:
    """An embryo with a known life, drawn at any hour: the same seed is the same embryo, body, well and noise.

    `seed`: not negative. `arrest_share`: share of the seeds (0 to 1) that never reach a blastocyst.
    """

    def __init__(self, seed: int, arrest_share: float = 0.36) -> None:
        self.seed = seed
        self.life = Life.sample(seed, arrest_share)
        self._body = Body(self.life)
        self._light = Light.sample(seed)
        rng = np.random.default_rng((seed, 0xD4A3))
        reach_um = 0.8 * max(self._light.well_radius_um - 84.0, 0.0)
        turn, away_um = float(rng.uniform(0, 2 * np.pi)), reach_um * float(np.sqrt(rng.random()))
        self._centre_um = (
            self._light.well_x_um + away_um * float(np.cos(turn)),
            self._light.well_y_um + away_um * float(np.sin(turn)),
        )
        self._focus_um = float(rng.normal(6.0, 8.0))
        self._sway = rng.uniform(0, 2 * np.pi, 4)
        self._mottle = float(rng.uniform(0.12, 0.55))
        self._sheet: tuple[Image, npt.NDArray[np.float32]] | None = None  # drawn when first needed: costly
        self._kept_size_px = 0
        self._well: Image = np.zeros((0, 0, 0), np.float32)
        self._texture: Image = np.zeros((0, 0, 0), np.float32)

    def stack(
        self, hpi_h: float, size_px: int = 500, planes_um: tuple[int, ...] = PLANES_UM
    ) -> npt.NDArray[np.uint8]:
        """Gray planes (P=7, H=size_px, W=size_px) uint8 at `hpi_h` hours post insemination, in order of `PLANES_UM`.

        The field is 280 um wide whatever the size. The same arguments give the same bytes on one machine.
        """
        self._keep(size_px)
        um_per_px = FIELD_UM / size_px
        rng = np.random.default_rng((self.seed, size_px, max(round(hpi_h * 3600), 0)))
        pose = self._body.at(hpi_h)
        rows, columns, canvas = self._canvas(hpi_h, size_px, bend=0.4 if len(pose.cells) == 1 else 1.0)
        self._paint(canvas, pose)
        factor = self._factor(canvas, pose, um_per_px)
        lit: Image = self._well * _F(rng.normal(1.0, 0.006))
        lit[:, rows, columns] *= factor
        self._add_noise(lit, rng, size_px)
        np.clip(lit * _F(255) + _F(0.5), 0, 255, out=lit)
        return lit.astype(np.uint8)[[PLANES_UM.index(um) for um in planes_um]]

    def _keep(self, size_px: int) -> None:
        """Draws what all frames of one size share: the well and the grain."""
        if size_px == self._kept_size_px:
            return
        um_per_px = FIELD_UM / size_px
        rng = np.random.default_rng((self.seed, 0x6A11))
        side_px = int(2 * _REACH_UM / um_per_px) + 4
        grain = optics.speckle(rng, side_px, 0.4 / um_per_px, 1.8 / um_per_px)
        coarse = optics.speckle(rng, side_px, 1.5 / um_per_px, 5.0 / um_per_px)
        warp = [optics.speckle(rng, side_px, 11.0 / um_per_px, 30.0 / um_per_px) for _ in range(2)]
        grain = np.asarray(cv2.filter2D(grain, cv2.CV_32F, optics.directional_kernel(self._light, 1.0)), np.float32)
        grain *= _F(min(1.0, (1.1 / um_per_px) ** 0.7) / max(float(grain.std()), 1e-6))
        self._texture = np.stack([grain, coarse, *warp]).astype(np.float32)
        self._well = optics.draw_well(self._light, size_px, self.seed)
        self._kept_size_px = size_px

    def _canvas(self, hpi_h: float, size_px: int, bend: float) -> tuple[slice, slice, paint.Canvas]:
        """The part of the frame around the embryo, with coordinates bent a little so that no ball is a perfect one."""
        um_per_px = FIELD_UM / size_px
        sway_um = 1.2 * np.sin(2 * np.pi * hpi_h / np.array([17.0, 23.0]) + self._sway[:2])
        x_um, y_um = self._centre_um[0] + sway_um[0], self._centre_um[1] + sway_um[1]
        axis = (np.arange(size_px, dtype=np.float32) + _F(0.5)) * _F(um_per_px) - _F(FIELD_UM / 2)
        rows, columns = ((np.abs(axis - _F(c)) < _REACH_UM).nonzero()[0] for c in (y_um, x_um))
        down, across = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
        h, w = len(rows), len(columns)
        shape = self._texture[2:, :h, :w] * _F(bend)
        a, b = np.sin(hpi_h / 4.0 + self._sway[2]), np.cos(hpi_h / 5.3 + self._sway[3])
        bend_um = _F(1.2 + 0.5 * a)
        x = axis[None, across] - _F(x_um) + bend_um * shape[0]
        y = axis[down, None] - _F(y_um) + _F(1.2 + 0.5 * b) * shape[1]
        return down, across, paint.Canvas(x, y, um_per_px, self._focus_um)

    def _paint(self, canvas: paint.Canvas, pose: Pose) -> None:
        paint.paint_cells(canvas, pose)
        paint.paint_nuclei(canvas, pose)
        for speck in pose.specks:
            paint.paint_speck(canvas, speck)
        paint.paint_compact(canvas, pose)
        if pose.sheet > 0:
            if self._sheet is None:
                rng = np.random.default_rng((self.seed, 0x7E))
                self._sheet = (_sample_mesh(rng), _sample_rim_um(rng))
            paint.paint_blastocyst(canvas, pose, *self._sheet)
        paint.paint_bulge(canvas, pose)

    def _factor(self, canvas: paint.Canvas, pose: Pose, um_per_px: float) -> Image:
        """(P, h, w): what the embryo makes of the light of the empty well."""
        h, w = canvas.x.shape
        grain, coarse = self._texture[0, :h, :w], self._texture[1, :h, :w]
        away = cv2.magnitude(canvas.x, canvas.y)
        zona = 1 / (1 + cv2.exp((away - _F(pose.zona_outer_um)) * _F(0.6)))
        zona *= 1 / (1 + cv2.exp((_F(pose.zona_inner_um) - away) * _F(0.9)))
        rough = self._mottle * (0.5 + 0.7 * pose.compaction + 0.6 * pose.decay)
        equator = canvas.bin_of(0.0)
        canvas.path += canvas.grain * (_F(rough) * coarse)
        canvas.path[equator] += _F(1.8) * zona + (_F(0.15) * zona) * coarse
        planes = optics.relief_planes(canvas.path, canvas.line, self._light, um_per_px)
        strength = self._light.grain * (1 + 0.5 * pose.compaction + 0.4 * pose.decay)
        planes += canvas.grain * (_F(strength) * grain)
        planes += zona * (_F(0.35 * self._light.grain) * grain)
        shade = 1 - _F(0.04 + 0.16 * pose.decay) * canvas.mass - _F(0.16) * optics.soften(zona, 2.0 / um_per_px)
        return np.asarray(np.clip(planes + shade, 0.05, 3.0), dtype=np.float32)

    def _add_noise(self, lit: Image, rng: np.random.Generator, size_px: int) -> None:
        """Sensor noise: one field a frame, shifted for each plane, because drawing seven costs more than it shows."""
        slack = 24
        field = rng.standard_normal((size_px + slack, size_px + slack), dtype=np.float32) * _F(self._light.noise)
        for plane, (down, across) in zip(lit, rng.integers(0, slack, (len(PLANES_UM), 2)), strict=True):
            plane += field[down : down + size_px, across : across + size_px]


def _sample_mesh(rng: np.random.Generator) -> Image:
    """(2, 2, M, M) float32: borders and bumps of the trophectoderm's cells, upper and lower half of a unit ball."""
    axis = np.linspace(-1.03, 1.03, _MESH_PX, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    z = np.sqrt(np.clip(1 - x * x - y * y, 0, 1))
    halves = []
    for _ in range(2):
        seeds = rng.normal(size=(int(rng.integers(16, 30)), 3)).astype(np.float32)
        seeds[:, 2] = np.abs(seeds[:, 2])
        seeds /= np.linalg.norm(seeds, axis=1, keepdims=True)
        for _ in range(6):  # spread them
            gap = seeds[:, None] - seeds[None]
            seeds += 0.05 * (gap / ((gap**2).sum(-1) + 0.05)[..., None] ** 1.5).sum(1) / len(seeds) * 6
            seeds[:, 2] = np.abs(seeds[:, 2])
            seeds /= np.linalg.norm(seeds, axis=1, keepdims=True)
        nearness = (np.stack([x, y, z], axis=-1).reshape(-1, 3) @ seeds.T).reshape(*x.shape, -1)
        best, runner_up = np.full(x.shape, -2, np.float32), np.full(x.shape, -2, np.float32)
        for one in np.moveaxis(nearness, -1, 0):
            runner_up = np.maximum(runner_up, np.minimum(best, one))
            best = np.maximum(best, one)
        inward, on_ball = best - runner_up, x * x + y * y < 0.97
        bump = np.sqrt(np.clip(inward / 0.3, 0, 1)) * rng.uniform(0.3, 1.2, len(seeds))[nearness.argmax(-1)]
        halves.append(np.stack([np.exp(-np.square(inward / 0.03)) * on_ball, bump * on_ball]).astype(np.float32))
    return np.stack(halves)


def _sample_rim_um(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """(256,) float32: thickness by angle of the rim, one crescent per cell."""
    turn = np.arange(256) * (2 * np.pi / 256)
    middles = (np.arange(n := int(rng.integers(11, 18))) + rng.uniform(-0.3, 0.3, n)) * (2 * np.pi / n)
    away = np.abs(np.angle(np.exp(1j * (turn[:, None] - middles[None])))).min(1) / (np.pi / n)
    thick_um = rng.uniform(5.0, 9.5)
    return np.asarray(2.2 + thick_um * np.sqrt(np.clip(1 - away**2, 0, 1)), dtype=np.float32)

"""One virtual embryo: ask it for the stack of any hour.

It joins life, body, paint and light, and keeps what does not change between frames. It refuses to know files and time
of day.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from monitor.simulator import optics, paint, well
from monitor.simulator.body import Body, Pose
from monitor.simulator.life import Life
from monitor.simulator.masks import Masks, masks_of
from monitor.simulator.optics import BINS_UM, FIELD_UM, PLANES_UM, Image, Light

_F = np.float32
_FADE_UM = 14.0
_SLACK_PX = 48  # textures are this much wider than a frame: each plane and each hour sees another part


@dataclass(frozen=True)
class Truth:
    """Where things are in a frame, in pixels: `embryo` x, y, radius of the zona's outside; `well` x, y, radius.

    `cells` (N, 3): x, y, radius of each cell that is counted, of a blastocyst those of its inner cell mass;
    `depth_um` (N,): their heights above the middle plane.
    """

    embryo: tuple[float, float, float]
    well: tuple[float, float, float]
    cells: npt.NDArray[np.float64]
    depth_um: npt.NDArray[np.float64]


def _taper(h: int, w: int, um_per_px: float) -> Image:
    """(h, w): 1, and falling to 0 within the last `_FADE_UM` before the edges."""
    sides = [np.minimum(np.arange(n), np.arange(n)[::-1]) * _F(um_per_px / _FADE_UM) for n in (h, w)]
    down, across = (np.clip(side, 0, 1).astype(np.float32) for side in sides)
    return np.asarray(down[:, None] * across[None, :], dtype=np.float32)


class VirtualEmbryo:
    """An embryo with a known life, drawn at any hour: the same seed is the same embryo, body, well and noise.

    `seed`: not negative. `arrest_share`: share of the seeds (0 to 1) that never reach a blastocyst.
    `life`: instead of the one that the seed stands for.
    """

    def __init__(self, seed: int, arrest_share: float = 0.36, life: Life | None = None) -> None:
        self.seed = seed
        self.life = Life.sample(seed, arrest_share) if life is None else life
        self._body = Body(self.life)
        self._light = Light.sample(seed)
        rng = np.random.default_rng((seed, 0xD4A3))
        self._rest = float(rng.uniform(0, 2 * np.pi)), float(np.sqrt(rng.random()))
        self._focus_um = float(rng.normal(-2.0, 5.0))
        self._sway = rng.uniform(0, 2 * np.pi, 8)
        self._turns_h = np.sort(rng.uniform(0.0, 160.0, int(rng.integers(0, 6))))
        self._turns = rng.normal(0.0, 0.5, 8)
        self._mottle = float(rng.uniform(0.02, 0.24))
        self._bend_um = float(rng.uniform(0.9, 2.2))
        self._kept_size_px = 0
        self._well: Image = np.zeros((0, 0, 0), np.float32)
        self._texture: Image = np.zeros((0, 0, 0), np.float32)

    def stack(self, hpi_h: float, size_px: int = 500, planes_um: tuple[int, ...] = PLANES_UM) -> npt.NDArray[np.uint8]:
        """Gray planes (P, H=size_px, W=size_px) uint8 at `hpi_h` hours post insemination, in the order of `planes_um`.

        The field is 280 um wide whatever the size. The same arguments give the same bytes on one machine, and a plane
        is the same whichever others are asked for. ValueError for a plane that is not one of `PLANES_UM`.
        """
        if not planes_um or not set(planes_um) <= set(PLANES_UM):
            raise ValueError(f"planes {planes_um} um: choose some of {PLANES_UM}")
        self._keep(size_px)
        rng = np.random.default_rng((self.seed, size_px, max(round(hpi_h * 3600), 0)))
        pose = self._pose(hpi_h)
        rows, columns, canvas = self._canvas(hpi_h, size_px, pose)
        self._paint(canvas, pose)
        lit: Image = self._well[[PLANES_UM.index(um) for um in planes_um]]
        lit *= _F(rng.normal(1.0, self._light.flicker))
        shift = rng.integers(0, _SLACK_PX, 2)
        lit[:, rows, columns] *= self._factor(canvas, pose, [BINS_UM.index(um) for um in planes_um], shift)
        self._add_noise(lit, rng, size_px, planes_um)
        np.clip(lit * _F(255) + _F(0.5), 0, 255, out=lit)
        return lit.astype(np.uint8)

    def empty(self, hpi_h: float, size_px: int = 500) -> npt.NDArray[np.uint8]:
        """Gray planes (P=7, H, W) uint8 of the same well at the same hour, as if the embryo had never been put in."""
        self._keep(size_px)
        rng = np.random.default_rng((self.seed, size_px, max(round(hpi_h * 3600), 0), 0xE))
        lit: Image = self._well * _F(rng.normal(1.0, self._light.flicker))
        self._add_noise(lit, rng, size_px, PLANES_UM)
        np.clip(lit * _F(255) + _F(0.5), 0, 255, out=lit)
        return lit.astype(np.uint8)

    def centre_um(self, hpi_h: float) -> tuple[float, float]:
        """The embryo's centre (of the zona), right and down from the frame's middle."""
        return self._centre_of(hpi_h, self._pose(hpi_h))

    @property
    def well_um(self) -> tuple[float, float, float]:
        """The well's centre, right and down from the frame's middle, and its radius."""
        return self._light.well_x_um, self._light.well_y_um, self._light.well_radius_um

    def truth_at(self, hpi_h: float, size_px: int = 500) -> Truth:
        """Where embryo, well and counted cells lie in a frame of `size_px`."""
        scale, middle, pose = size_px / FIELD_UM, size_px / 2 - 0.5, self._pose(hpi_h)
        x_um, y_um = self._centre_of(hpi_h, pose)
        cells = np.column_stack([pose.cells[:, 0] + x_um, pose.cells[:, 1] + y_um, pose.cell_radii]) * scale
        cells[:, :2] += middle
        wx, wy, wr = self.well_um
        return Truth(
            embryo=(x_um * scale + middle, y_um * scale + middle, pose.zona_outer_um * scale),
            well=(wx * scale + middle, wy * scale + middle, wr * scale),
            cells=cells,
            depth_um=pose.cells[:, 2] + self._focus_at(hpi_h, pose),
        )

    def masks(self, hpi_h: float, size_px: int = 500) -> Masks:
        """Where a blastocyst's parts lie, as the public sets mark them: "ICM", "TE", "ZP", "blastocoel" (H, W) bool.

        Before there is a cavity all but "ZP" are empty.
        """
        self._keep(size_px)
        pose = self._pose(hpi_h)
        rows, columns, canvas = self._canvas(hpi_h, size_px, pose)
        whole = {}
        for name, part in masks_of(canvas, pose).items():
            whole[name] = np.zeros((size_px, size_px), bool)
            whole[name][rows, columns] = part
        return whole

    def _pose(self, hpi_h: float) -> Pose:
        turn = 0.12 * np.sin(2 * np.pi * hpi_h / 19.0 + self._sway[4])
        turn += float(self._turns[: int((self._turns_h < hpi_h).sum())].sum())
        return self._body.at(hpi_h).turned(float(turn))

    def _centre_of(self, hpi_h: float, pose: Pose) -> tuple[float, float]:
        """Where it lies: anywhere in the well that it fits, a little elsewhere each hour."""
        room_um = max(self._light.well_radius_um - pose.zona_outer_um - 1.0, 0.0)
        angle, share = self._rest
        sway_um = 1.2 * np.sin(2 * np.pi * hpi_h / np.array([17.0, 23.0]) + self._sway[:2])
        x_um = self._light.well_x_um + share * room_um * np.cos(angle) + sway_um[0]
        y_um = self._light.well_y_um + share * room_um * np.sin(angle) + sway_um[1]
        if pose.hatch.share > 0:  # what leaves the zona pushes the zona away
            out = pose.hatch.outside * 0.6 * pose.hatch.share
            x_um, y_um = x_um - out[0], y_um - out[1]
        return float(x_um), float(y_um)

    def _focus_at(self, hpi_h: float, pose: Pose) -> float:
        """Height of the embryo's centre above the middle plane; the stage's focus drifts by a few um."""
        drift_um = 2.5 * np.sin(2 * np.pi * hpi_h / 31.0 + self._sway[5])
        return self._focus_um + pose.lift_um + float(drift_um)

    def _keep(self, size_px: int) -> None:
        """Draws what all frames of one size share: the well and the grain."""
        if size_px == self._kept_size_px:
            return
        um_per_px = FIELD_UM / size_px
        rng = np.random.default_rng((self.seed, 0x6A11))
        side_px = size_px + _SLACK_PX
        kernel = optics.directional_kernel(self._light, 1.0)
        layers = []
        for fine_um, coarse_um in ((0.5, 3.0), (1.1, 4.5)):
            layer = optics.speckle(rng, side_px, fine_um / um_per_px, coarse_um / um_per_px)
            slope = np.asarray(cv2.filter2D(layer, cv2.CV_32F, kernel), np.float32)
            layer = slope / _F(max(float(slope.std()), 1e-6)) + _F(0.45) * layer
            layers.append(layer * (_F(0.6) + _F(0.3) * np.abs(layer)))  # a few granules stand out
        layers[0] *= _F(min(1.0, (1.0 / um_per_px) ** 0.7))
        layers.append(optics.speckle(rng, side_px, 1.5 / um_per_px, 5.0 / um_per_px))
        layers += [optics.speckle(rng, side_px, 11.0 / um_per_px, 30.0 / um_per_px) for _ in range(2)]
        self._texture = np.stack(layers).astype(np.float32)
        self._well = well.draw_well(self._light, size_px, self.seed)
        well.bubbles(rng, self._light, size_px, self._well)
        self._kept_size_px = size_px

    def _canvas(self, hpi_h: float, size_px: int, pose: Pose) -> tuple[slice, slice, paint.Canvas]:
        """The part of the frame around the embryo, with coordinates bent a little so that no ball is a perfect one."""
        um_per_px = FIELD_UM / size_px
        x_um, y_um = self._centre_of(hpi_h, pose)
        reach_um = pose.reach_um + 0.7 * _FADE_UM
        axis = (np.arange(size_px, dtype=np.float32) + _F(0.5)) * _F(um_per_px) - _F(FIELD_UM / 2)
        rows, columns = ((np.abs(axis - _F(c)) < reach_um).nonzero()[0] for c in (y_um, x_um))
        down, across = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
        shape = self._texture[3:, down, across]
        a, b = np.sin(hpi_h / 4.0 + self._sway[2]), np.cos(hpi_h / 5.3 + self._sway[3])
        few = float(
            np.interp(len(pose.cells), [1, 2, 4, 7], [0.2, 0.35, 0.5, 0.65])
        )  # one cell is a ball, many are not
        bend_um = self._bend_um * few * (1.0 - 0.3 * pose.sheet) * (1.0 + 0.6 * pose.compaction * (1 - pose.sheet))
        x = axis[None, across] - _F(x_um) + _F(bend_um * (1 + 0.3 * a)) * shape[0]
        y = axis[down, None] - _F(y_um) + _F(bend_um * (1 + 0.3 * b)) * shape[1]
        u, v = axis[None, across] - _F(x_um), axis[down, None] - _F(y_um)
        away = cv2.magnitude(u + _F(0.2) * (x - u) + 0 * v, v + _F(0.2) * (y - v) + 0 * u)
        return down, across, paint.Canvas(x, y, away, um_per_px, self._focus_at(hpi_h, pose))

    def _paint(self, canvas: paint.Canvas, pose: Pose) -> None:
        paint.paint_lobes(canvas, pose)
        paint.paint_cavity(canvas, pose)
        for speck in pose.specks:
            paint.paint_speck(canvas, speck)
        paint.paint_compact(canvas, pose)
        paint.paint_shell(canvas, pose)

    def _factor(self, canvas: paint.Canvas, pose: Pose, wanted: list[int], shift: npt.NDArray[np.int64]) -> Image:
        """(len(wanted), h, w): what the embryo makes of the light of the empty well."""
        h, w = canvas.x.shape
        light, um_per_px = self._light, canvas.um_per_px
        zona, coarse = paint.zona_mask(canvas, pose), self._texture[2, :h, :w]
        mass = canvas.grain.max(0)
        inside = optics.soft_step((_F(pose.zona_outer_um) - canvas.away_um) * _F(0.8))
        veil = _F(0.5) * (zona + inside)  # the space between cells and zona is darker than the well, too
        rough = self._mottle * (0.6 + 1.0 * pose.compaction * (1 - pose.sheet) - 0.2 * pose.sheet + 0.8 * pose.decay)
        for b in (b for b in range(len(BINS_UM)) if canvas.used[b]):
            canvas.path[b] += canvas.grain[b] * (_F(rough) * coarse)
        equator = canvas.bin_of(0.0)
        canvas.used[equator] = True
        canvas.path[equator] += zona * (_F(light.zona_path_um) + _F(0.25) * coarse)
        inner_um = canvas.away_um - _F(pose.zona_inner_um)
        canvas.line[equator] += _F(0.32 * canvas.line_gain) * canvas.bell(inner_um) * np.minimum(2 * zona, 1)
        planes = optics.relief_planes(canvas.path, canvas.line, canvas.used, light, um_per_px, wanted)
        strength = light.grain * (1 + 0.7 * pose.compaction + 0.4 * pose.decay)
        shade = 1 - _F(light.shade + 0.14 * pose.decay) * np.minimum(mass, 1) - _F(light.zona) * veil
        for plane, b in zip(planes, wanted, strict=True):
            down, across = int(shift[0] + 17 * b) % _SLACK_PX, int(shift[1] + 29 * b) % _SLACK_PX
            fine, soft = self._texture[:2, down : down + h, across : across + w]
            near = canvas.grain[b]
            plane += _F(strength) * (near * (_F(0.5) * fine) + (_F(0.42) * mass + _F(0.1) * near) * soft)
            focus = 1.0 if abs(b - equator) <= 1 else 0.5
            shell = self._texture[0, :h, :w] + _F(0.6) * self._texture[1, :h, :w]
            plane += (zona + _F(0.35) * (inside - zona)) * (_F(0.6 * focus * light.grain) * shell) + shade
        planes = (planes - 1) * _taper(h, w, um_per_px) + 1  # no edge shows where the drawn part ends
        return np.asarray(np.clip(planes, 0.04, 3.0), dtype=np.float32)

    def _add_noise(self, lit: Image, rng: np.random.Generator, size_px: int, planes_um: tuple[int, ...]) -> None:
        """Sensor noise: one field a frame, shifted for each plane, because drawing seven costs more than it shows."""
        slack = 24
        field = rng.standard_normal((size_px + slack, size_px + slack), dtype=np.float32) * _F(self._light.noise)
        offsets = rng.integers(0, slack, (len(PLANES_UM), 2))
        for plane, um in zip(lit, planes_um, strict=True):
            down, across = offsets[PLANES_UM.index(um)]
            plane += field[down : down + size_px, across : across + size_px]

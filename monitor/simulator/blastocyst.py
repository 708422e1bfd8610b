"""The blastocyst: a shell of trophectoderm cells around a cavity, the inner cell mass at one pole, and hatching.

Lengths in um around the centre of the part that is still inside of the zona. It refuses to know light.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from monitor.simulator.cleavage import FloatArray, balls, relaxed
from monitor.simulator.life import Life

_TE_CELLS = {"A": (64, 100), "B": (40, 64), "C": (18, 34)}
_ICM_CELLS = {"A": (24, 38), "B": (14, 22), "C": (4, 9)}
_ICM_RADIUS_UM = {"A": (25.0, 34.0), "B": (22.0, 31.0), "C": (9.0, 17.0)}
_LOOSE_CELLS = {"A": (3, 14), "B": (6, 22), "C": (4, 18)}  # balls that belong to neither
_FLAT = 0.81  # in stacks of real blastocysts the sheets above and below come into focus nearer than a ball's would
_TE_UNEVEN = {"A": 0.2, "B": 0.38, "C": 0.6}  # spread of the cells' sizes and thicknesses


def _spread(rng: np.random.Generator, count: int, uneven: float) -> FloatArray:
    """(count, 3) unit vectors, pushed apart; an uneven sheet is left with gaps and crowds."""
    points = rng.normal(size=(count, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    for _ in range(12 if uneven < 0.3 else 6):
        gap = points[:, None] - points[None]
        points += 0.35 * (gap / ((gap**2).sum(-1) + 0.03)[..., None] ** 1.5).sum(1) / count
        points /= np.linalg.norm(points, axis=1, keepdims=True)
    return points


@dataclass(frozen=True)
class Hatch:
    """How far a blastocyst is out of its zona: a ball inside and a ball outside, joined at the gap.

    `share` 0 (closed) to 1 (out), `angle` of the gap in radians, radii of the two balls and of the zona's inside in um.
    """

    share: float = 0.0
    angle: float = 0.0
    outside_um: float = 0.0
    inside_um: float = 0.0
    zona_um: float = 0.0

    @property
    def gap(self) -> FloatArray:
        """(3,) unit vector from the zona's centre to the gap."""
        return np.array([np.cos(self.angle), np.sin(self.angle), 0.0])

    @property
    def inside(self) -> FloatArray:
        """(3,) centre of the ball inside, in um from the zona's centre: it leans against the gap."""
        return self.gap * max(self.zona_um - self.inside_um, 0.0) * min(4 * self.share, 1.0)

    @property
    def outside(self) -> FloatArray:
        """(3,) centre of the ball outside."""
        return self.gap * (self.zona_um + 0.75 * self.outside_um)

    def places(self) -> list[tuple[float, float, float]]:
        """x, y, radius of each ball that there is."""
        both = ((self.inside, self.inside_um), (self.outside, self.outside_um))
        return [(float(at[0]), float(at[1]), r_um) for at, r_um in both if r_um > 1.0]


def _over_a_ball(ray: FloatArray, gap: FloatArray, out: bool, border: float) -> FloatArray:
    """(N, 3) unit vectors: cells from one side of `border` (radians from the gap) spread over a ball of their own."""
    along = np.clip(ray @ gap, -1.0, 1.0)
    around = ray - along[:, None] * gap
    around /= np.linalg.norm(around, axis=1, keepdims=True) + 1e-9
    turn = np.arccos(along)
    turn = np.pi * turn / border if out else np.pi * (turn - border) / max(np.pi - border, 1e-3)
    return np.asarray(np.cos(turn)[:, None] * gap + np.sin(turn)[:, None] * around)


def around_cavity(lobes: FloatArray, cavity: FloatArray, radius_um: float) -> None:
    """Moves a morula's cells (N, 9) out of the cavity, against the wall at `radius_um`; what has no room is flat."""
    if not len(cavity):
        return
    centre, cavity_um = cavity[0, :3], cavity[0, 3]
    away = lobes[:, :3] - centre
    far = np.linalg.norm(away, axis=1) + 1e-6
    out = away / far[:, None]
    along = out @ centre
    wall = -along + np.sqrt(np.maximum(along**2 + radius_um**2 - centre @ centre, 1.0))  # from the cavity's middle
    room = np.maximum(wall - cavity_um, 4.0)
    size = lobes[:, 3].copy()
    half = np.clip(0.5 * room, 2.5, size)
    goal = np.where(far < cavity_um + 0.8 * half, np.minimum(cavity_um + half, wall - 0.8 * half), far)
    pressed = (goal > far) & (half < 0.95 * size)
    lobes[:, :3] = centre + out * goal[:, None]
    in_plane = np.hypot(out[:, 0], out[:, 1])
    flat = np.where(pressed, in_plane * (1 - half / size), 0.0)
    lobes[:, 5] = np.where(pressed, np.arctan2(out[:, 1], out[:, 0]) + np.pi / 2, lobes[:, 5])
    lobes[:, 3] = size * (1 + 0.3 * flat)
    lobes[:, 4] = lobes[:, 4] * (1 - flat)
    lobes[:, 6] *= np.where(pressed, 0.5 + 0.5 * in_plane, 1.0)


class Shell:
    """Trophectoderm and inner cell mass of one embryo, of the grades its life says."""

    def __init__(self, rng: np.random.Generator, life: Life) -> None:
        te, icm = life.te_grade or "C", life.icm_grade or "C"
        count, uneven = int(rng.integers(*_TE_CELLS[te])), _TE_UNEVEN[te]
        self._ray = _spread(rng, count, uneven)
        self._wide = np.exp(rng.normal(0.0, uneven, count))
        self._thick = np.exp(rng.normal(0.0, uneven, count))
        self._outline = rng.uniform(0.5, 1.1, count)
        self.thickness_um = float(rng.uniform(5.0, 9.5)) * (1.15 if te == "A" else 0.9 if te == "B" else 0.8)
        self._strength = {"A": 1.0, "B": 0.95, "C": 0.86}[te]  # few cells stretched thin show little
        self._cohesion = {"A": 1.15, "B": 1.04, "C": 0.92}[te]
        angle, lift = float(rng.uniform(0, 2 * np.pi)), float(np.clip(rng.normal(0.0, 0.45), -0.9, 0.9))
        flat = np.sqrt(1 - lift * lift)
        self.pole = np.array([np.cos(angle) * flat, np.sin(angle) * flat, lift])
        self._icm_um = float(rng.uniform(*_ICM_RADIUS_UM[icm]))
        members = int(rng.integers(*_ICM_CELLS[icm]))
        loose = {"A": 0.74, "B": 0.9, "C": 1.0}[icm]
        self._icm_cell_um = np.clip(
            self._icm_um * (0.62 / members) ** (1 / 3) * np.exp(rng.normal(0, 0.16, members)), 5, 13
        )
        start = rng.normal(0.0, 0.4 * self._icm_um, (members, 3))
        self._icm = relaxed(start, self._icm_cell_um, self._icm_um + 3.0, loose, rounds=25)
        self._tight = {"A": 1.0, "B": 0.55, "C": 0.2}[icm]
        self._icm_outline = rng.uniform(0.4, 1.1, members)
        folds = int(rng.integers(5, 17))
        self._folds = np.column_stack([
            rng.normal(0.0, 0.32, (folds, 3)), rng.uniform(0.08, 0.36, folds), rng.uniform(0.03, 0.13, folds),
            rng.uniform(0, np.pi, folds), rng.normal(0.0, 3.5, folds), rng.uniform(0.15, 0.7, folds),
        ])  # fmt: skip
        away = np.linalg.norm(self._folds[:, :3], axis=1) + 1e-6
        self._folds[:, :3] *= np.minimum(1.0, (0.93 - self._folds[:, 3]) / away)[:, None]  # none sticks out
        loose_cells = int(rng.integers(*_LOOSE_CELLS[te]))
        ray = rng.normal(size=(loose_cells, 3))
        self._loose_place = ray / np.linalg.norm(ray, axis=1, keepdims=True) * rng.uniform(0.5, 0.86, (loose_cells, 1))
        self._loose_um = rng.uniform(4.0, 9.5, loose_cells)
        bays = int(rng.integers(1, 4))  # a growing cavity is no ball: bays between the cells around it
        ray = rng.normal(size=(bays, 3)) * (1.0, 1.0, 0.4)
        self._bays = np.column_stack([
            ray / np.linalg.norm(ray, axis=1, keepdims=True) * rng.uniform(0.5, 0.85, (bays, 1)),
            rng.uniform(0.35, 0.7, bays),
        ])  # fmt: skip

    def cavity(self, progress: float, radius_um: float, full: float, hatch: Hatch) -> FloatArray:
        """(K, 5) x, y, z, radius, clearness of balls opposite to the inner cell mass; `full` 1 to 0."""
        clear = float(np.interp(progress, [0.03, 0.12, 0.6, 0.9], [0.0, 1.0, 1.0, 0.45]))
        if clear <= 0 or hatch.share > 0:
            return np.zeros((0, 5))
        share = float(np.interp(progress, [0.06, 0.25, 0.5, 0.85], [0.3, 0.55, 0.72, 0.86]))
        own_um = radius_um * share * max(full, 0.1) ** (1 / 3)
        centre = -self.pole * 0.92 * (radius_um - own_um - 3.0)
        centres = np.vstack([centre, centre + own_um * self._bays[:, :3]])
        radii = own_um * np.append(1.0, self._bays[:, 3])
        far = np.linalg.norm(centres, axis=1) + 1e-6
        radii = np.maximum(np.minimum(radii, radius_um - 4.0 - far), 1.0)  # a bay never reaches the wall
        return np.column_stack([centres, radii, np.full(len(radii), clear)])

    def icm_at(self, grown: float, hatch: Hatch) -> FloatArray:
        """(M, 4) x, y, z, radius of the inner cell mass; `grown` 0 (at tSB) to 1 (expanded)."""
        outside = hatch.share >= 0.5
        radius_um, centre = (hatch.outside_um, hatch.outside) if outside else (hatch.inside_um, hatch.inside)
        nest = self.pole * max(radius_um - 0.85 * self._icm_um - 2.0, 0.0)
        flat = self._icm - np.outer(self._icm @ self.pole, self.pole) * (0.35 * grown)
        return np.column_stack([centre + nest + flat * (1.0 - 0.1 * grown), self._icm_cell_um])

    def lobes(self, grown: float, hatch: Hatch, there: float) -> FloatArray:
        """(K, 9) lobes of all cells and folds; `there` 0 to 1 while they take the place of the morula's cells."""
        turn = np.arccos(np.clip(self._ray @ hatch.gap, -1.0, 1.0))
        surface = hatch.outside_um**2 / (hatch.outside_um**2 + hatch.inside_um**2)
        wanted = round(len(turn) * surface)
        border = float(np.sort(turn)[wanted - 1]) + 1e-6 if wanted else 0.0
        out = turn <= border
        parts = []
        for own, radius_um, centre in ((~out, hatch.inside_um, hatch.inside), (out, hatch.outside_um, hatch.outside)):
            if own.any():
                ray = _over_a_ball(self._ray[own], hatch.gap, own is out, border) if wanted else self._ray
                sheet = self._sheet(ray, own, radius_um, grown, there)
                sheet[:, :3] += centre
                parts.append(sheet)
        mass = self.icm_at(grown, hatch)
        height = (10.0 + 3.0 * self._tight) * there
        outline = self._icm_outline * there * (1 - 0.3 * self._tight)
        parts.append(balls(mass[:, :3], mass[:, 3], height, outline, 1.9 * there))
        parts.append(self._loose_in(hatch, grown, there))
        return np.vstack(parts)

    def nuclei(self, lobes: FloatArray, there: float) -> FloatArray:
        """(K, 9) specks: a nucleus in about half of the cells of the sheet, given `lobes` as drawn."""
        cells = lobes[: len(self._ray)][self._thick < 1.05]
        return balls(cells[:, :3], np.minimum(0.8 * cells[:, 4], 4.2), -1.8 * there, 0.45 * there, 0.2)

    def _loose_in(self, hatch: Hatch, grown: float, there: float) -> FloatArray:
        """(K, 9) strands and folds across the cavity of the larger ball, and balls that lie loose in it."""
        outside = hatch.outside_um > hatch.inside_um
        radius_um, centre = (hatch.outside_um, hatch.outside) if outside else (hatch.inside_um, hatch.inside)
        folds = np.column_stack([self._folds, np.full(len(self._folds), 0.3)])
        folds[:, :5] *= radius_um
        folds[:, 6:8] *= there * (0.3 + 0.7 * grown)
        loose = balls(self._loose_place * radius_um, self._loose_um, 8.0 * there, 0.8 * there, 1.2 * there)
        inside = np.vstack([folds, loose])
        inside[:, :3] += centre
        return inside

    def _sheet(self, ray: FloatArray, own: np.ndarray, radius_um: float, grown: float, there: float) -> FloatArray:
        """(T, 9) trophectoderm cells on a sphere: discs where it is seen from above, crescents at its rim."""
        count = len(ray)
        wide_um = radius_um * 2.0 / np.sqrt(max(count, 1)) * self._cohesion * np.clip(self._wide[own], 0.7, 1.3)
        wide_um = np.minimum(wide_um, 21.0 + 6.0 * np.abs(ray[:, 2]))
        thick_um = self.thickness_um * np.clip(self._thick[own], 0.5, 1.8) * (2.0 - 1.0 * grown)
        thick_um = np.minimum(thick_um, 0.9 * wide_um) * min(1.0, (62.0 / radius_um) ** 0.4)
        polar = ray @ self.pole
        thick_um *= 1.0 - 0.5 * (1 - 0.6 * grown) * np.clip(0.3 - polar, 0.0, 1.0)  # stretched thin over the cavity
        rho = np.sqrt(np.maximum(1 - ray[:, 2] ** 2, 0.0))
        across = np.sqrt((wide_um * ray[:, 2]) ** 2 + (0.75 * thick_um * rho) ** 2)
        columns = np.zeros((count, 9))
        columns[:, :3] = ray * (radius_um - 0.62 * thick_um)[:, None]
        columns[:, 2] *= _FLAT
        columns[:, 3], columns[:, 4] = wide_um, across
        columns[:, 5] = np.arctan2(ray[:, 1], ray[:, 0]) + np.pi / 2
        strong = self._strength * (1 - grown) + grown * self._strength**2
        level = 1.15 - 0.15 * rho  # the sheet above and below is seen through the whole body
        columns[:, 6] = (
            there
            * strong
            * (0.3 + 0.2 * grown + 0.5 * rho)
            * np.minimum(thick_um * (1.1 + 0.5 * rho) * (1 + 0.2 * (polar > 0.7)), 11.5)
        )
        columns[:, 7] = there * level * self._outline[own]
        columns[:, 8] = there * strong * (0.5 + 0.8 * rho)
        return columns

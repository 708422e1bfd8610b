"""Where everything of one embryo is at a given hour: cells, fragments, zona, cavity, in um around its centre.

Axes: x right, y down, z up (towards the higher planes). It knows geometry over time; it refuses to know light.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monitor.simulator.life import CELLS_AT_MOST, Life

FloatArray = npt.NDArray[np.float64]

SETTLE_H = 0.45  # sisters come to rest about this long after they part


@dataclass(frozen=True)
class Pose:
    """The body at one moment. Lengths in um, centres (N, 3) as x, y, z, radii (N,)."""

    cells: FloatArray
    cell_radii: FloatArray
    cell_strength: FloatArray  # (N,) 0 to 1: how much of the cell still stands out of the mass
    nuclei_strength: float
    pronuclei: FloatArray  # (0 or 2, 4): x, y, z, radius
    specks: FloatArray  # (F, 6): x, y, z, radius, path gain, outline: fragments, polar bodies, ghost contours
    zona_outer_um: float
    zona_inner_um: float
    compaction: float  # 0 apart, 1 a compact morula
    sheet: float  # 0 to 1: how much trophectoderm there is
    body_radius_um: float
    cavity: tuple[float, float, float, float]  # x, y, z, radius; radius 0: no cavity
    bulge: tuple[float, float, float]  # x, y, radius of what has hatched; radius 0: nothing
    decay: float  # 0 to 1 after an arrest


def _ramp(value: float, low: float, high: float) -> float:
    t = min(max((value - low) / (high - low), 0.0), 1.0)
    return t * t * (3 - 2 * t)


def _relaxed(centres: FloatArray, radii: FloatArray, wall_um: float, overlap: float, rounds: int) -> FloatArray:
    """`centres` pushed apart until spheres barely overlap, and kept inside of a sphere of `wall_um`."""
    reach = (radii[:, None] + radii[None, :]) * overlap
    np.fill_diagonal(reach, 0.0)
    room = np.maximum(wall_um - radii, 1.0)
    for _ in range(rounds):
        apart = centres[:, None] - centres[None]
        gap = np.sqrt((apart**2).sum(-1)) + 1e-6
        centres = centres + 0.3 * (apart / gap[..., None] * np.maximum(reach - gap, 0.0)[..., None]).sum(1)
        far = np.sqrt((centres**2).sum(1)) + 1e-6
        centres = centres * (np.minimum(far, room) / far)[:, None] * 0.997
    return centres


class Lineage:
    """Which cell divides into which, and where each comes to rest, for 1 to `CELLS_AT_MOST` cells."""

    def __init__(self, rng: np.random.Generator, life: Life, wall_um: float, zygote_radius_um: float) -> None:
        self._divisions_h = life.divisions_h
        overlap = float(rng.uniform(0.9, 1.04))
        centres, radii = rng.normal(0.0, 1.5, (1, 3)), np.array([zygote_radius_um])
        generation = np.zeros(1)
        self._rest: list[tuple[FloatArray, FloatArray]] = [(centres, radii)]
        self._parent: list[int] = []
        for n in range(1, min(CELLS_AT_MOST, len(life.divisions_h) + 1)):
            i = int(np.argmax(radii - 100.0 * generation))  # the largest of those that have divided least
            share = float(np.clip(0.5 + 0.5 * life.unevenness * rng.normal(), 0.28, 0.72))
            keep = 1.0 - 0.35 * life.fragmentation_ratio * (n < 4)  # fragments take volume from the cells
            axis = rng.normal(size=3) * (1.0, 1.0, 0.3 if n < 4 else 0.6)
            axis *= 0.55 * radii[i] / (np.linalg.norm(axis) + 1e-6)
            centres = np.vstack([centres, centres[i] + axis])
            centres[i] -= axis
            radii = np.append(radii, radii[i] * (keep * (1 - share)) ** (1 / 3))
            radii[i] *= (keep * share) ** (1 / 3)
            generation = np.append(generation, generation[i] + 1)
            generation[i] += 1
            centres = _relaxed(centres, radii, wall_um, overlap, rounds=24 if n < 8 else 10)
            self._parent.append(i)
            self._rest.append((centres, radii.copy()))

    def at(self, hpi_h: float) -> tuple[FloatArray, FloatArray]:
        """Centres (N, 3) and radii (N,) in um: each division starts from where its parent was, without a jump."""
        centres, radii = self._rest[0]
        for n, (since_h, parent) in enumerate(zip(self._divisions_h, self._parent, strict=False), start=1):
            if since_h > hpi_h:
                break
            until_h = self._divisions_h[n] if n < len(self._parent) else hpi_h
            left = float(np.exp(-(min(until_h, hpi_h) - since_h) / SETTLE_H))
            rest, rest_radii = self._rest[n]
            start, start_radii = np.vstack([centres, centres[parent]]), np.append(radii, radii[parent])
            toward = 0.25 * (rest[[parent, n]] - start[[parent, n]])  # twins never lie exactly on each other
            start[[parent, n]] += toward
            centres = rest + (start - rest) * left
            radii = rest_radii + (0.92 * start_radii - rest_radii) * left * (start_radii > 1.1 * rest_radii)
        return centres, radii


class Body:
    """One embryo's geometry at any hour."""

    def __init__(self, life: Life) -> None:
        rng = np.random.default_rng((life.seed, 0xB0D7))
        self.life = life
        self._zona_inner_um = float(rng.uniform(56.0, 62.0))
        self._zona_outer_um = self._zona_inner_um + float(rng.uniform(15.0, 21.0))
        self._zygote_radius_um = float(rng.uniform(50.0, 54.0))
        self._lineage = Lineage(rng, life, self._zona_inner_um - 2.0, self._zygote_radius_um)
        self._drift = rng.uniform(0.0, 2 * np.pi, (CELLS_AT_MOST, 3))
        self._drift_h = rng.uniform(5.0, 14.0, (CELLS_AT_MOST, 1))
        angle = float(rng.uniform(0, 2 * np.pi))
        self._inner_mass = np.array([np.cos(angle), np.sin(angle), float(rng.normal(0.0, 0.45))])
        self._inner_mass /= np.linalg.norm(self._inner_mass)
        self._pn = np.concatenate([rng.normal(0, 8.0, 3), rng.normal(size=3), rng.uniform(9.5, 12.5, 2)])
        self._polar = rng.normal(size=(2, 3)) * (1.0, 1.0, 0.35)
        self._polar_radius_um = rng.uniform(4.5, 8.0, 2)
        self._hatch_angle = float(rng.uniform(0, 2 * np.pi))
        self._expands = float(rng.uniform(0.85, 1.1))
        self._debris = self._sample_debris(rng)
        self._ghosts = self._sample_ghosts(rng)

    def _sample_debris(self, rng: np.random.Generator) -> FloatArray:
        """(F, 7): unit-less place x, y, z inside of the zona, radius um, path gain, outline, birth as hpi."""
        first_h = self.life.onsets_h.get("t2", 26.0)
        count = int(min(6 + rng.poisson(170 * self.life.fragmentation_ratio), 44))
        nests = rng.normal(0.0, 0.42, (3, 3))
        place = nests[rng.integers(0, 3, count)] + rng.normal(0.0, float(rng.uniform(0.1, 0.3)), (count, 3))
        place *= (np.minimum(1.0, 0.93 / (np.linalg.norm(place, axis=1) + 1e-6)))[:, None]
        radius_um = np.clip(np.exp(rng.normal(np.log(3.6), 0.45, count)), 1.4, 10.0)
        birth_h = first_h + rng.exponential(9.0, count)
        late = rng.random(count) < 0.25
        birth_h[late] = self.life.frozen_after_h + rng.uniform(4.0, 60.0, int(late.sum()))
        return np.column_stack([place, radius_um, rng.uniform(0.5, 1.1, count), rng.uniform(0.35, 1.0, count), birth_h])

    def _sample_ghosts(self, rng: np.random.Generator) -> FloatArray:
        """(G, 7) as debris: folds, vacuoles and unfocused membranes; clean spheres alone look like too few contours."""
        count = int(rng.integers(6, 16))
        place = rng.normal(0.0, 0.35, (count, 3))
        radius_um = np.clip(np.exp(rng.normal(np.log(8.0), 0.5, count)), 3.0, 19.0)
        birth_h = self.life.onsets_h.get("t2", 26.0) + rng.exponential(12.0, count)
        return np.column_stack([place, radius_um, rng.normal(0.0, 0.22, count), rng.uniform(0.1, 0.6, count), birth_h])

    def _cavity_progress(self, hpi_h: float) -> float:
        """0.06 at tSB, 0.5 at tB, 0.88 at tEB; what never reaches the next of these creeps on a little and stays."""
        onsets_h = self.life.onsets_h
        if "tSB" not in onsets_h or hpi_h < onsets_h["tSB"]:
            return 0.0
        cavity_h = onsets_h["tSB"]
        blastocyst_h = onsets_h.get("tB", cavity_h + 20.0)
        if "tEB" not in onsets_h:
            return float(np.interp(hpi_h, [cavity_h, blastocyst_h, blastocyst_h + 25.0], [0.06, 0.5, 0.62]))
        expanded_h = onsets_h["tEB"]
        return float(np.interp(hpi_h, [cavity_h, blastocyst_h, expanded_h, expanded_h + 12.0], [0.06, 0.5, 0.88, 1.08]))

    def _compaction(self, hpi_h: float) -> float:
        morula_h = self.life.onsets_h.get("tM")
        return 0.0 if morula_h is None else _ramp(hpi_h, morula_h - 5.0, morula_h + 5.0)

    def _body_radius_um(self, progress: float, compaction: float) -> float:
        packed_um = self._zona_inner_um * (1.0 - 0.1 * compaction)
        full_um = self._zona_inner_um * 1.02
        wide_um = (self._zona_outer_um - 3.0) * self._expands
        return float(np.interp(progress, [0.0, 0.5, 0.9, 1.08], [packed_um, full_um, wide_um, wide_um * 1.05]))

    def at(self, hpi_h: float) -> Pose:
        """The pose at `hpi_h` (hours post insemination)."""
        hour = min(hpi_h, self.life.frozen_after_h)
        decay = _ramp(hpi_h - self.life.frozen_after_h, 6.0, 60.0) if np.isfinite(self.life.frozen_after_h) else 0.0
        progress, compaction = self._cavity_progress(hour), self._compaction(hour)
        radius_um = self._body_radius_um(progress, compaction)
        cells, radii = self._lineage.at(hour)
        cells = cells + 0.9 * np.sin(2 * np.pi * hour / self._drift_h[: len(cells)] + self._drift[: len(cells)])
        cells, radii = cells * (1 - 0.14 * compaction), radii * (1 + 0.1 * compaction) * (1 - 0.08 * decay)
        if len(cells) > 1:
            radii = radii * 1.06  # pressed against each other, cells are flatter and wider than free balls
        cavity_um = radius_um * float(np.interp(progress, [0.0, 0.06, 0.5, 1.08], [0.0, 0.24, 0.74, 0.92]))
        cavity = np.append(-self._inner_mass * (radius_um - cavity_um) * 0.85, cavity_um)
        strength = np.ones(len(cells))
        if progress > 0:
            cells, radii, strength = self._around_cavity(cells, radii, radius_um, progress)
        zona_inner_um = max(self._zona_inner_um, radius_um + 0.8)
        thin = (self._zona_inner_um / zona_inner_um) ** 4
        return Pose(
            cells=cells,
            cell_radii=radii,
            cell_strength=strength,
            nuclei_strength=(1 - compaction) * (1 - decay),
            pronuclei=self._pronuclei(hour),
            specks=self._specks(hpi_h, hour, decay, progress),
            zona_outer_um=zona_inner_um + (self._zona_outer_um - self._zona_inner_um) * thin,
            zona_inner_um=zona_inner_um,
            compaction=compaction,
            sheet=_ramp(progress, 0.05, 0.55),
            body_radius_um=radius_um,
            cavity=(float(cavity[0]), float(cavity[1]), float(cavity[2]), float(cavity[3])),
            bulge=self._bulge(hour, radius_um),
            decay=decay,
        )

    def _around_cavity(
        self, cells: FloatArray, radii: FloatArray, radius_um: float, progress: float
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Cells moved out of the growing cavity: those near one pole form the inner cell mass, others thin out."""
        inner = np.argsort(-(cells @ self._inner_mass), kind="stable")[: max(len(cells) * 2 // 5, 3)]
        is_inner = np.isin(np.arange(len(cells)), inner)
        moved = _ramp(progress, 0.0, 0.5)
        ray = cells / (np.linalg.norm(cells, axis=1, keepdims=True) + 1e-6)
        nest_um = radius_um * (0.36 - 0.06 * moved)
        nest = self._inner_mass * (radius_um - nest_um * 0.9) + (cells - cells[inner].mean(0)) * 0.62
        goal = np.where(is_inner[:, None], nest, ray * (radius_um - 6.0))
        goal_radii = np.where(is_inner, 10.5, 9.0)
        strength = np.where(is_inner, 1.0 + 0.5 * moved, 1.0 - 0.6 * moved)
        return cells + (goal - cells) * moved, radii + (goal_radii - radii) * moved, strength

    def _pronuclei(self, hour: float) -> FloatArray:
        onsets_h = self.life.onsets_h
        appear_h, fade_h = onsets_h.get("tPNa", np.inf), onsets_h.get("tPNf", np.inf)
        if not appear_h <= hour < fade_h:
            return np.zeros((0, 4))
        grown = 0.65 + 0.35 * _ramp(hour - appear_h, 0.0, 6.0)
        apart = 2.4 - 1.5 * _ramp(hour - appear_h, 0.0, 8.0)
        axis = self._pn[3:6] * (1.0, 1.0, 0.4)
        axis = axis / np.linalg.norm(axis)
        reach = 0.5 * apart * self._pn[6:].mean()
        return np.stack(
            [np.append(self._pn[:3] + side * reach * axis, self._pn[6 + i] * grown) for i, side in enumerate((-1, 1))]
        )

    def _specks(self, hpi_h: float, hour: float, decay: float, progress: float) -> FloatArray:
        """(F, 6): all that is small: fragments and ghosts born by now, and the one or two polar bodies."""
        born = self._debris[self._debris[:, 6] <= hpi_h]
        ghosts = self._ghosts[self._ghosts[:, 6] <= hour]
        parts = [born[:, :6].copy(), ghosts[:, :6].copy()]
        for part in parts:
            part[:, :3] *= self._zona_inner_um
        parts[0][:, 3] *= 1.0 + 0.35 * decay
        parts[0][:, 4:] *= 1.0 - 0.6 * progress  # a blastocyst has taken in or hidden most of them
        parts[1][:, 4:] *= 1.0 - 0.5 * progress
        seen = 2 if hour >= self.life.onsets_h.get("tPB2", 3.0) else 1
        place = self._polar / np.linalg.norm(self._polar, axis=1, keepdims=True) * (self._zona_inner_um - 4.0)
        polar = np.column_stack([place, self._polar_radius_um, [0.9, 0.9], [0.8, 0.8]])[:seen]
        return np.vstack([*parts, polar * (1, 1, 1, 1, 1 - 0.7 * progress, 1 - 0.7 * progress)])

    def _bulge(self, hour: float, radius_um: float) -> tuple[float, float, float]:
        since_h = self.life.onsets_h.get("tHB")
        if since_h is None or hour < since_h:
            return (0.0, 0.0, 0.0)
        out_um = 12.0 + 15.0 * _ramp(hour - since_h, 0.0, 14.0)
        reach_um = radius_um
        return (float(np.cos(self._hatch_angle)) * reach_um, float(np.sin(self._hatch_angle)) * reach_um, out_um)

"""Where everything of one embryo is at a given hour: lobes, specks, zona, cavity, in um around its centre.

Axes: x right, y down, z up (towards the higher planes). It knows geometry over time; it refuses to know light.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from monitor.simulator.blastocyst import Hatch, Shell
from monitor.simulator.cleavage import FloatArray, Fragments, Lineage, balls, ramp
from monitor.simulator.life import CELLS_AT_MOST, Life

_HATCHED_AFTER_H = 14.0  # from the first cell outside to all of them
_NUCLEI = 12


@dataclass(frozen=True)
class Pose:
    """The body at one moment, in um.

    A lobe is a row of nine: centre x, y, z, semi-axes a and b in the picture, angle of a, path height, outline (0 to
    1), grain (0 to about 1.5). `lobes` (L, 9) of one depth meet in a line; `specks` (F, 9) add to what lies there.
    """

    cells: FloatArray  # (N, 3): centres of all cells that are counted; of a blastocyst its inner cell mass
    cell_radii: FloatArray  # (N,)
    lobes: FloatArray
    specks: FloatArray
    zona_outer_um: float
    zona_inner_um: float
    zona_gap: tuple[float, float]  # angle and half width in radians; half width 0: closed
    compaction: float  # 0 apart, 1 a compact morula
    sheet: float  # 0 to 1: how much trophectoderm there is
    radius_um: float  # of the body inside of the zona
    hatch: Hatch
    decay: float  # 0 to 1 after an arrest
    lift_um: float  # how far a wide blastocyst's middle rises above the well's floor
    sheet_um: float  # thickness of the trophectoderm
    inner: FloatArray  # (M, 3): centres of the inner cell mass's cells; none before there is a cavity
    inner_radii: FloatArray

    @property
    def reach_um(self) -> float:
        """Distance from the centre that holds everything."""
        far = self.hatch.inside_um + 1.8 * self.hatch.outside_um if self.hatch.share > 0 else 0.0
        specks = np.abs(self.specks[:, :2]).max(initial=0.0) + 8.0
        return max(self.zona_outer_um + 6.0, far + 6.0, min(float(specks), self.zona_outer_um + 32.0))

    def turned(self, angle: float) -> Pose:
        """The same body, turned around its centre by `angle` radians."""
        cos, sin = np.cos(angle), np.sin(angle)
        turn = np.array([[cos, sin], [-sin, cos]])
        moved = {}
        for name in ("cells", "inner", "lobes", "specks"):
            rows = getattr(self, name).copy()
            rows[:, :2] = rows[:, :2] @ turn
            if rows.shape[1] > 5:
                rows[:, 5] += angle
            moved[name] = rows
        hatch = replace(self.hatch, angle=self.hatch.angle + angle)
        return replace(self, hatch=hatch, zona_gap=(self.zona_gap[0] + angle, self.zona_gap[1]), **moved)


class Body:
    """One embryo's geometry at any hour."""

    def __init__(self, life: Life) -> None:
        rng = np.random.default_rng((life.seed, 0xB0D7))
        self.life = life
        self._zygote_radius_um = float(rng.uniform(48.0, 54.0))
        self._zona_inner_um = self._zygote_radius_um + float(rng.uniform(4.5, 12.0))
        self._zona_um = float(rng.uniform(13.0, 20.0))
        self._widest_um = float(np.clip(np.exp(rng.normal(np.log(79.0), 0.13)), 66.0, 108.0))
        self._lineage = Lineage(rng, life, self._zona_inner_um - 1.5, self._zygote_radius_um)
        self._fragments = Fragments(rng, life)
        self._drift = rng.uniform(0.0, 2 * np.pi, (CELLS_AT_MOST, 3))
        self._drift_h = rng.uniform(5.0, 14.0, (CELLS_AT_MOST, 1))
        self._pn = np.concatenate([rng.normal(0, 9.0, 3), rng.normal(size=3), rng.uniform(8.5, 12.5, 2)])
        polar = rng.normal(size=(2, 3)) * (1.0, 1.0, 0.35)
        self._polar = polar / np.linalg.norm(polar, axis=1, keepdims=True)
        self._polar_um = rng.uniform(4.0, 8.5, 2)
        self._hatch_angle = float(rng.uniform(0, 2 * np.pi))
        self._nuclei = rng.normal(0.0, 0.22, (_NUCLEI, 3)), rng.random(_NUCLEI)
        self._vacuole = rng.normal(0.0, 0.3, (16, 3)), rng.integers(0, CELLS_AT_MOST, 16)
        self._ghosts = self._sample_ghosts(rng)
        self._granules = self._sample_granules(rng)
        self._clumps = self._sample_clumps(rng)
        self._height_um = float(rng.uniform(8.0, 14.0))
        self._lobed = float(rng.uniform(0.2, 0.9))  # how much of its cells' outlines a compact morula keeps
        self._shell = Shell(np.random.default_rng((life.seed, 0x7E)), life)

    def _sample_ghosts(self, rng: np.random.Generator) -> FloatArray:
        """(G, 10): folds, vacuoles and unfocused membranes, a lobe each and its birth as hpi: clean balls show too few."""
        count = int(rng.integers(6, 20))
        columns = np.zeros((count, 10))
        columns[:, :3] = rng.normal(0.0, 0.36, (count, 3))
        size = np.clip(np.exp(rng.normal(np.log(7.5), 0.5, count)), 2.5, 19.0)
        columns[:, 3], columns[:, 4] = size, size * rng.uniform(0.3, 1.0, count)
        columns[:, 5], columns[:, 6] = rng.uniform(0, np.pi, count), rng.normal(0.0, 2.2, count)
        columns[:, 7], columns[:, 8] = rng.uniform(0.1, 0.6, count), 0.5
        columns[:, 9] = self.life.onsets_h.get("t2", 26.0) + rng.exponential(10.0, count)
        return columns

    def _sample_granules(self, rng: np.random.Generator) -> FloatArray:
        """(G, 9): fine debris in the perivitelline space, in one stretch of it."""
        count = int(rng.integers(0, 40)) if rng.random() < 0.7 else 0
        angle = rng.uniform(0, 2 * np.pi) + rng.normal(0.0, float(rng.uniform(0.3, 2.0)), count)
        away_um = self._zona_inner_um - rng.uniform(0.5, 5.5, count)
        place = np.column_stack([np.cos(angle) * away_um, np.sin(angle) * away_um, rng.normal(0, 9.0, count)])
        size_um = rng.uniform(0.7, 2.4, count)
        return balls(place, size_um, rng.uniform(0.8, 2.0, count), rng.uniform(0.2, 0.8, count), 1.0)

    def _sample_clumps(self, rng: np.random.Generator) -> FloatArray:
        """(C, 9): what sticks to the zona from outside: single balls, and clumps of granulosa cells."""
        parts = []
        for count, wide_um in [(1, 2.0)] * int(rng.poisson(1.5)) + [(int(rng.integers(5, 26)), 9.0)] * int(
            rng.poisson(0.45)
        ):
            angle, away_um = (
                float(rng.uniform(0, 2 * np.pi)),
                self._zona_inner_um + self._zona_um + rng.uniform(-2.0, 16.0),
            )
            place = rng.normal(0.0, wide_um, (count, 3)) + (np.cos(angle) * away_um, np.sin(angle) * away_um, 0.0)
            size_um = np.clip(np.exp(rng.normal(np.log(2.6), 0.4, count)), 1.0, 6.0)
            parts.append(balls(place, size_um, size_um * 1.3, rng.uniform(0.4, 1.1, count), 1.0))
        return np.vstack(parts) if parts else np.zeros((0, 9))

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
        return float(np.interp(hpi_h, [cavity_h, blastocyst_h, expanded_h, expanded_h + 14.0], [0.06, 0.5, 0.85, 1.08]))

    def _compaction(self, hpi_h: float) -> float:
        morula_h = self.life.onsets_h.get("tM")
        return 0.0 if morula_h is None else ramp(hpi_h, morula_h - 5.0, morula_h + 5.0)

    def _full_radius_um(self, progress: float, compaction: float) -> float:
        """Radius without any collapse: from tB on it presses the zona outwards."""
        packed_um = self._zona_inner_um * (1.0 - 0.13 * compaction)
        full_um = self._zona_inner_um * 1.01
        return float(
            np.interp(progress, [0.0, 0.45, 0.9, 1.08], [packed_um, full_um, 0.94 * self._widest_um, self._widest_um])
        )

    def _collapse(self, hour: float) -> float:
        """0 full, to 1 when the whole cavity is gone: it falls within half an hour and fills up slowly."""
        deep = 0.0
        for start_h, depth, recovered_h in self.life.collapses:
            fallen = ramp(hour, start_h, start_h + 0.5) * (
                1 - ramp(hour, start_h + 0.5, max(recovered_h, start_h + 0.6))
            )
            deep = max(deep, depth * fallen)
        return deep

    def _hatch(self, hour: float, radius_um: float) -> Hatch:
        since_h = hour - self.life.hatching_h
        if not since_h > 0:
            return Hatch(angle=self._hatch_angle)
        share = min(since_h / _HATCHED_AFTER_H, 1.0)
        out = 0.08 + 0.92 * share  # of the surface
        whole_um = min(radius_um * 0.98, 80.0)
        return Hatch(share, self._hatch_angle, whole_um * float(np.sqrt(out)), whole_um * float(np.sqrt(1 - out)))

    def at(self, hpi_h: float) -> Pose:
        """The pose at `hpi_h` (hours post insemination)."""
        hour = min(hpi_h, self.life.frozen_after_h)
        decay = ramp(hpi_h - self.life.frozen_after_h, 6.0, 60.0) if np.isfinite(self.life.frozen_after_h) else 0.0
        progress, compaction = self._cavity_progress(hour), self._compaction(hour)
        full_um = self._full_radius_um(progress, compaction)
        radius_um = full_um * (1.0 - 0.3 * self._collapse(hour))
        hatch = self._hatch(hour, radius_um)
        cells, radii = self._cells(hour, compaction, decay)
        specks = self._specks(hpi_h, hour, decay, progress, cells, radii, hatch.share > 0)
        grown = ramp(progress, 0.1, 0.9) * (1.0 - 0.7 * self._collapse(hour))
        there = ramp(progress, 0.0, 0.3)
        lobes = balls(cells, radii, self._height_um * (1 - there), (1 - there) * self._outline(compaction), 1.0 - there)
        if there > 0:
            lobes = np.vstack([lobes[: len(lobes) * (there < 1)], self._shell.lobes(radius_um, grown, hatch, there)])
        mass = self._shell.icm_at(radius_um, grown, hatch) if progress > 0 else np.zeros((0, 4))
        if progress >= 0.3:
            cells, radii = mass[:, :3], mass[:, 3]
        zona_inner_um = max(self._zona_inner_um, full_um + 0.8)
        return Pose(
            cells=cells,
            cell_radii=radii,
            lobes=lobes,
            specks=specks,
            zona_outer_um=zona_inner_um + self._zona_um * (self._zona_inner_um / zona_inner_um) ** 3.2,
            zona_inner_um=zona_inner_um,
            zona_gap=(hatch.angle, 0.0 if hatch.share <= 0 else 0.12 + 0.25 * hatch.share),
            compaction=compaction,
            sheet=there,
            radius_um=hatch.inside_um if hatch.share > 0 else radius_um,
            hatch=hatch,
            decay=decay,
            lift_um=0.8 * max(full_um - self._zona_inner_um, 0.0),
            sheet_um=self._shell.thickness_um * (2.7 - 1.7 * grown) * 0.9,
            inner=mass[:, :3],
            inner_radii=mass[:, 3],
        )

    def _outline(self, compaction: float) -> float:
        return 1.0 - compaction * (0.9 - self._lobed)

    def _cells(self, hour: float, compaction: float, decay: float) -> tuple[FloatArray, FloatArray]:
        cells, radii = self._lineage.at(hour)
        cells = cells + 0.9 * np.sin(2 * np.pi * hour / self._drift_h[: len(cells)] + self._drift[: len(cells)])
        cells, radii = cells * (1 - 0.16 * compaction), radii * (1 + 0.12 * compaction) * (1 - 0.08 * decay)
        if len(cells) > 1:
            radii = radii * 1.06  # pressed against each other, cells are flatter and wider than free balls
        return cells, radii

    def _specks(
        self,
        hpi_h: float,
        hour: float,
        decay: float,
        progress: float,
        cells: FloatArray,
        radii: FloatArray,
        open_: bool,
    ) -> FloatArray:
        """(F, 9): all that is small: nuclei, fragments, ghosts and debris born by now, and the polar bodies."""
        inner_um = self._zona_inner_um
        left = max(1.0 - 1.4 * progress, 0.0)  # a blastocyst has taken in or hidden most of them
        fragments = self._fragments.at(hpi_h, inner_um, cells, radii, decay)
        ghosts = self._ghosts[self._ghosts[:, 9] <= hour][:, :9].copy()
        ghosts[:, :3] *= inner_um
        granules = self._granules.copy()
        seen = 2 if hour >= self.life.onsets_h.get("tPB2", 3.0) else 1
        polar_um = self._polar_um[:seen]
        polar = balls(self._polar[:seen] * (inner_um - 0.9 * polar_um)[:, None], polar_um, 1.1 * polar_um, 0.8, 1.0)
        inside = [fragments, ghosts, granules, polar]
        if progress < 0.2:
            inside += [self._pronuclei(hour), self._nuclei_at(hour, cells, radii), self._vacuoles(hpi_h, cells, radii)]
        body = np.vstack(inside)
        body[:, 6:] *= left
        return np.vstack([body[: len(body) * (left > 0)], self._clumps])

    def _pronuclei(self, hour: float) -> FloatArray:
        """(0 or 2 to 16, 9): two clear balls that meet, each with a row of nucleoli; they fade before tPNf."""
        onsets_h = self.life.onsets_h
        appear_h, fade_h = onsets_h.get("tPNa", np.inf), onsets_h.get("tPNf", np.inf)
        if not appear_h <= hour < fade_h:
            return np.zeros((0, 9))
        grown = 0.65 + 0.35 * ramp(hour - appear_h, 0.0, 6.0)
        clear = ramp(hour, appear_h - 0.2, appear_h + 1.0) * ramp(fade_h - hour, -0.1, 0.8)
        axis = self._pn[3:6] * (1.0, 1.0, 0.4)
        axis = axis / np.linalg.norm(axis)
        reach = (1.15 - 0.7 * ramp(hour - appear_h, 0.0, 8.0)) * self._pn[6:].mean()
        parts = []
        for i, side in enumerate((-1, 1)):
            centre, r_um = self._pn[:3] + side * reach * axis, self._pn[6 + i] * grown
            turn = 2.4 * np.arange(6) + i
            dots = (
                centre
                + 0.55 * r_um * np.column_stack([np.cos(turn), np.sin(turn), 0 * turn]) * self._nuclei[1][:6, None]
            )
            parts.append(balls(centre[None], np.array([r_um]), -3.0 * clear, 0.35 * clear, 0.3))
            parts.append(balls(dots, np.full(6, 1.5), 2.2 * clear, 0.35 * clear, 0.6))
        return np.vstack(parts)

    def _nuclei_at(self, hour: float, cells: FloatArray, radii: FloatArray) -> FloatArray:
        """(K, 9): one faint nucleus in about every other cell, several small ones in a multinucleated cell."""
        if len(cells) < 2 or len(cells) > 10:
            return np.zeros((0, 9))
        offset, chance = self._nuclei
        several = set(self.life.multinucleated) if len(cells) == 2 else set()
        parts = []
        for i in range(len(cells)):
            count = 2 + int(3 * chance[i]) if i in several else int(chance[i] < 0.55)
            share = 0.17 if i in several else 0.27
            for k in range(count):
                place = cells[i] + (2.2 if count > 1 else 1.0) * offset[(i + 3 * k) % _NUCLEI] * radii[i]
                parts.append(balls(place[None], np.array([share * radii[i]]), -3.0, 0.22 if count == 1 else 0.5, 0.3))
                parts.append(balls(place[None] + 1.5, np.array([1.6]), 1.6, 0.25, 0.5))
        return np.vstack(parts) if parts else np.zeros((0, 9))

    def _vacuoles(self, hpi_h: float, cells: FloatArray, radii: FloatArray) -> FloatArray:
        """(V, 9): clear balls with a hard outline inside of a cell, while they last."""
        parts = []
        for k, (birth_h, gone_h, ratio) in enumerate(self.life.vacuoles[:16]):
            if birth_h <= hpi_h < gone_h:
                i = int(self._vacuole[1][k]) % len(cells)
                place = cells[i] + self._vacuole[0][k] * radii[i]
                parts.append(balls(place[None], np.array([min(ratio * radii[i], 16.0)]), -7.0, 1.0, 0.1))
        return np.vstack(parts) if parts else np.zeros((0, 9))

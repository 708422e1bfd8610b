"""Where everything of one embryo is at a given hour: lobes, specks, zona, cavity, in um around its centre.

Axes: x right, y down, z up (towards the higher planes). It knows geometry over time; it refuses to know light.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from monitor.simulator.blastocyst import Hatch, Shell, around_cavity
from monitor.simulator.cleavage import FloatArray, Lineage, balls, ramp
from monitor.simulator.life import CELLS_AT_MOST, Life
from monitor.simulator.specks import Specks

_HATCHED_AFTER_H = 14.0  # from the first cell outside to all of them


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
    lift_um: float  # how far its middle lies above where a zygote's lies; a blastocyst sinks, a wide one less
    sheet_um: float  # thickness of the trophectoderm
    clear: float  # 0 to 1: how much of a cell is seen through the one in front of it
    cavity: FloatArray  # (K, 5): balls whose union is a growing blastocoel: x, y, z, radius, clearness 0 to 1
    inner: FloatArray  # (M, 3): centres of the inner cell mass's cells; none before there is a cavity
    inner_radii: FloatArray

    @property
    def reach_um(self) -> float:
        """Distance from the centre that holds everything."""
        far = self.hatch.zona_um + 1.75 * self.hatch.outside_um if self.hatch.share > 0 else 0.0
        specks = np.abs(self.specks[:, :2]).max(initial=0.0) + 8.0
        return max(self.zona_outer_um + 6.0, far + 6.0, min(float(specks), self.zona_outer_um + 32.0))

    def turned(self, angle: float) -> Pose:
        """The same body, turned around its centre by `angle` radians."""
        cos, sin = np.cos(angle), np.sin(angle)
        turn = np.array([[cos, sin], [-sin, cos]])
        moved = {}
        for name in ("cells", "inner", "lobes", "specks", "cavity"):
            rows = getattr(self, name).copy()
            rows[:, :2] = rows[:, :2] @ turn
            if rows.shape[1] > 5:
                rows[:, 5] += angle
            moved[name] = rows
        hatch = replace(self.hatch, angle=self.hatch.angle + angle)
        return replace(self, hatch=hatch, zona_gap=(self.zona_gap[0] + angle, self.zona_gap[1]), **moved)


def _press(lobes: FloatArray) -> None:
    """Makes each cell short towards its nearest neighbour, as far as the two overlap, and wide across."""
    if len(lobes) < 2:
        return
    apart = lobes[:, None, :3] - lobes[None, :, :3]
    gap = np.sqrt((apart**2).sum(-1))
    np.fill_diagonal(gap, np.inf)
    rows, other = np.arange(len(lobes)), gap.argmin(1)
    nearest, gap_um = apart[rows, other], gap[rows, other] + 1e-6
    lobes[:, 5] = np.arctan2(nearest[:, 1], nearest[:, 0]) + np.pi / 2
    in_plane = np.hypot(nearest[:, 0], nearest[:, 1]) / gap_um
    short = np.clip(1.0 - gap_um / (lobes[:, 3] + lobes[other, 3]), 0.0, 0.3) * in_plane
    short *= np.interp(len(lobes), [2, 4, 8], [1.0, 0.7, 0.4])  # one of many is pressed from all sides
    lobes[:, 3] *= 1.04 + 0.3 * short
    lobes[:, 4] *= 0.98 - 0.8 * short


class Body:
    """One embryo's geometry at any hour."""

    def __init__(self, life: Life) -> None:
        rng = np.random.default_rng((life.seed, 0xB0D7))
        self.life = life
        self._zygote_radius_um = float(rng.uniform(49.0, 55.0))
        self._zona_inner_um = self._zygote_radius_um + float(rng.uniform(3.5, 11.0))
        self._zona_um = float(rng.uniform(12.0, 18.5))
        self._widest_um = float(np.clip(np.exp(rng.normal(np.log(79.0), 0.13)), 66.0, 108.0))
        self._lineage = Lineage(rng, life, self._zona_inner_um - 1.5, self._zygote_radius_um)
        self._drift = rng.uniform(0.0, 2 * np.pi, (CELLS_AT_MOST, 3))
        self._drift_h = rng.uniform(5.0, 14.0, (CELLS_AT_MOST, 1))
        self._hatch_angle = float(rng.uniform(0, 2 * np.pi))
        self._lump = np.array([*rng.uniform(0.76, 1.1, 2), rng.uniform(0.8, 1.0)])
        self._lump_at_um = rng.normal(0.0, 3.0, 3)
        self._excluded = int(rng.integers(1, 4)) if rng.random() < 0.35 else 0
        self._specks = Specks(rng, life, self._zona_inner_um, self._zona_um, self._zygote_radius_um)
        self._height_um = float(rng.uniform(7.5, 12.5))
        self._clear = float(rng.uniform(0.15, 0.85))
        self._lobed = float(rng.uniform(0.6, 1.1))  # how much of its cells' outlines a compact morula keeps
        self._shell = Shell(np.random.default_rng((life.seed, 0x7E)), life)

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

    def _hatch(self, hour: float, radius_um: float, zona_um: float) -> Hatch:
        since_h = hour - self.life.hatching_h
        if not since_h > 0:
            return Hatch(0.0, self._hatch_angle, 0.0, radius_um, zona_um)
        share = min(since_h / _HATCHED_AFTER_H, 1.0)
        out = 0.02 + 0.98 * share  # of the surface
        whole_um = radius_um + (min(radius_um, 68.0) - radius_um) * share
        return Hatch(
            share, self._hatch_angle, whole_um * float(np.sqrt(out)), whole_um * float(np.sqrt(1 - out)), zona_um
        )

    def at(self, hpi_h: float) -> Pose:
        """The pose at `hpi_h` (hours post insemination)."""
        hour = min(hpi_h, self.life.frozen_after_h)
        decay = ramp(hpi_h - self.life.frozen_after_h, 6.0, 60.0) if np.isfinite(self.life.frozen_after_h) else 0.0
        progress, compaction = self._cavity_progress(hour), self._compaction(hour)
        full_um = self._full_radius_um(progress, compaction)
        radius_um = full_um * (1.0 - 0.3 * self._collapse(hour))
        zona_inner_um = max(self._zona_inner_um, full_um + 0.8)
        hatch = self._hatch(hour, radius_um, zona_inner_um)
        cells, radii = self._cells(hour, compaction, decay)
        specks = self._specks.at(hpi_h, decay, progress, cells, radii)
        grown = ramp(progress, 0.1, 0.9) * (1.0 - 0.7 * self._collapse(hour))
        there = ramp(progress, 0.0, 0.3)
        cavity = self._shell.cavity(progress, radius_um, 1.0 - self._collapse(hour), hatch)
        left = 1.0 - ramp(progress, 0.35, 0.6)
        lobes = self._blastomeres(cells, radii, compaction, left)
        if there > 0:
            around_cavity(lobes, cavity, radius_um)
            spread = ramp(progress, 0.15, 0.5)
            shell = self._shell.lobes(grown, hatch, spread)
            specks = np.vstack([specks, self._shell.nuclei(shell, spread)])
            lobes = np.vstack([lobes[: len(lobes) * (left > 0)], shell])
        mass = self._shell.icm_at(grown, hatch) if progress > 0 else np.zeros((0, 4))
        if progress >= 0.3:
            cells, radii = mass[:, :3], mass[:, 3]
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
            radius_um=radius_um,
            hatch=hatch,
            decay=decay,
            lift_um=0.3 * max(full_um - self._zona_inner_um, 0.0) - 7.0 * there,
            sheet_um=self._shell.thickness_um * (2.0 - 1.0 * grown) * 0.9,
            clear=self._clear * (1 - 0.35 * compaction) * (1 - there),
            cavity=cavity,
            inner=mass[:, :3],
            inner_radii=mass[:, 3],
        )

    def _blastomeres(self, cells: FloatArray, radii: FloatArray, compaction: float, there: float) -> FloatArray:
        """(N, 9) lobes of the cells; a morula's are lower and lose most of their outlines."""
        outline = 1.0 - compaction * (0.9 - self._lobed)
        lobes = balls(cells, radii, self._height_um * there * (1 - 0.15 * compaction), there * outline, there)
        _press(lobes)
        return lobes

    def _cells(self, hour: float, compaction: float, decay: float) -> tuple[FloatArray, FloatArray]:
        cells, radii = self._lineage.at(hour)
        cells = cells + 0.9 * np.sin(2 * np.pi * hour / self._drift_h[: len(cells)] + self._drift[: len(cells)])
        lump = 1.0 + (self._lump - 1.0) * compaction
        cells = (cells * lump + self._lump_at_um * compaction) * (1 - 0.16 * compaction)
        radii = radii * (1 + 0.12 * compaction) * (1 - 0.08 * decay)
        if self._excluded and len(cells) > 9 and compaction > 0:  # a morula may leave some of its cells out
            last = slice(len(cells) - self._excluded, None)
            away = np.linalg.norm(cells[last], axis=1, keepdims=True) + 1e-6
            goal = cells[last] / away * np.maximum(self._zona_inner_um - radii[last, None] - 2.0, 1.0)
            cells[last] += (goal - cells[last]) * compaction
        if len(cells) > 1:
            radii = radii * (
                1.08 if len(cells) < 5 else 1.03
            )  # pressed against each other, cells are flatter and wider than free balls
        return cells, radii

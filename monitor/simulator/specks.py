"""All that is small in and on one embryo: nuclei, vacuoles, fragments, ghosts of membranes, polar bodies, debris.

Lengths in um around the embryo's centre. It refuses to know light and the cells' own motion.
"""

from __future__ import annotations

import numpy as np

from monitor.simulator.cleavage import FloatArray, Fragments, balls, ramp
from monitor.simulator.life import CELLS_AT_MOST, Life

_NUCLEI = 12


class Specks:
    """What is small, at any hour, for one embryo inside of a zona of `zona_inner_um` and thickness `zona_um`."""

    def __init__(
        self, rng: np.random.Generator, life: Life, zona_inner_um: float, zona_um: float, zygote_radius_um: float
    ) -> None:
        self.life = life
        self._zona_inner_um, self._zona_um = zona_inner_um, zona_um
        self._fragments = Fragments(rng, life, zygote_radius_um)
        self._pn = np.concatenate([rng.normal(0, 9.0, 3), rng.normal(size=3), rng.uniform(8.5, 12.5, 2)])
        self._pn_clear = float(rng.uniform(0.5, 1.4))
        polar = rng.normal(size=(2, 3)) * (1.0, 1.0, 0.35)
        self._polar = polar / np.linalg.norm(polar, axis=1, keepdims=True)
        self._polar_um = rng.uniform(5.0, 9.5, 2)
        self._nuclei = rng.normal(0.0, 0.22, (_NUCLEI, 3)), rng.random(_NUCLEI)
        self._vacuole = rng.normal(0.0, 0.3, (16, 3)), rng.integers(0, CELLS_AT_MOST, 16)
        self._ghosts = self._sample_ghosts(rng)
        self._granules = self._sample_granules(rng)
        self._clumps = self._sample_clumps(rng)

    def at(self, hpi_h: float, decay: float, progress: float, cells: FloatArray, radii: FloatArray) -> FloatArray:
        """(F, 9) lobes of all that is there at `hpi_h`, in a body whose cavity has come as far as `progress`."""
        hour = min(hpi_h, self.life.frozen_after_h)
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
        clear = ramp(hour, appear_h - 0.2, appear_h + 1.0) * ramp(fade_h - hour, -0.1, 0.8) * self._pn_clear
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

    def _sample_ghosts(self, rng: np.random.Generator) -> FloatArray:
        """(G, 10): folds, vacuoles and unfocused membranes, a lobe each and its birth as hpi."""
        count, large = int(rng.integers(4, 14)), int(rng.integers(0, 3))
        columns = np.zeros((count, 10))
        columns[:, :3] = rng.normal(0.0, 0.36, (count, 3))
        size = np.clip(np.exp(rng.normal(np.log(7.5), 0.5, count)), 2.5, 19.0)
        columns[:, 3], columns[:, 4] = size, size * rng.uniform(0.3, 1.0, count)
        columns[:, 5], columns[:, 6] = rng.uniform(0, np.pi, count), rng.normal(0.0, 1.8, count)
        columns[:, 7], columns[:, 8] = rng.uniform(0.08, 0.42, count), 0.4
        columns[:large, 3] = rng.uniform(13.0, 30.0, large)  # arcs as long as a cell's own
        columns[:large, 4] = columns[:large, 3] * rng.uniform(0.6, 1.0, large)
        columns[:large, 7] += 0.2
        columns[:, 9] = self.life.onsets_h.get("t2", 26.0) + rng.exponential(10.0, count)
        return columns

    def _sample_granules(self, rng: np.random.Generator) -> FloatArray:
        """(G, 9): fine debris in the perivitelline space, in one stretch of it."""
        count = int(rng.integers(15, 110)) if rng.random() < 0.75 else int(rng.integers(0, 8))
        angle = rng.uniform(0, 2 * np.pi) + rng.normal(0.0, float(rng.uniform(0.3, 2.0)), count)
        away_um = self._zona_inner_um - rng.uniform(0.5, 7.5, count)
        place = np.column_stack([np.cos(angle) * away_um, np.sin(angle) * away_um, rng.normal(0, 9.0, count)])
        size_um = rng.uniform(0.7, 2.4, count)
        return balls(place, size_um, rng.uniform(0.9, 2.8, count), rng.uniform(0.2, 0.8, count), 1.0)

    def _sample_clumps(self, rng: np.random.Generator) -> FloatArray:
        """(C, 9): what sticks to the zona from outside: single balls, and clumps of granulosa cells."""
        parts = []
        for count, wide_um in [(1, 2.0)] * int(rng.poisson(3.0)) + [(int(rng.integers(5, 26)), 9.0)] * int(
            rng.poisson(0.9)
        ):
            angle, away_um = (
                float(rng.uniform(0, 2 * np.pi)),
                self._zona_inner_um + self._zona_um + rng.uniform(-2.0, 20.0),
            )
            place = rng.normal(0.0, wide_um, (count, 3))
            place[:, :2] += away_um * np.cos(angle), away_um * np.sin(angle)
            size_um = np.clip(np.exp(rng.normal(np.log(2.6), 0.4, count)), 1.0, 6.0)
            parts.append(balls(place, size_um, size_um * 1.3, rng.uniform(0.4, 1.1, count), 1.0))
        return np.vstack(parts) if parts else np.zeros((0, 9))

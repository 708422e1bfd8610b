"""Blastomeres and fragments from the zygote to the morula: who divides into whom, and where each comes to rest.

Lengths in um around the embryo's centre. It knows geometry over time; it refuses to know light and the blastocyst.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from monitor.simulator.life import CELLS_AT_MOST, Life

FloatArray = npt.NDArray[np.float64]

SETTLE_H = 0.45  # sisters come to rest about this long after they part
_FRAGMENTS_AT_MOST = 80
_PACKED = {2: 0.78, 3: 0.82, 4: 0.87}  # cells lie this much nearer than free balls: pressed flat; later ones .93


def ramp(value: float, low: float, high: float) -> float:
    """0 below `low`, 1 above `high`, smooth in between."""
    t = min(max((value - low) / (high - low), 0.0), 1.0)
    return t * t * (3 - 2 * t)


def relaxed(centres: FloatArray, radii: FloatArray, wall_um: float, overlap: float, rounds: int) -> FloatArray:
    """`centres` (N, 3) pushed apart until spheres barely overlap, and kept inside of a sphere of `wall_um`."""
    reach = (radii[:, None] + radii[None, :]) * overlap
    np.fill_diagonal(reach, 0.0)
    room = np.maximum(wall_um - radii, 1.0)
    for _ in range(rounds):
        apart = centres[:, None] - centres[None]
        gap = np.sqrt((apart**2).sum(-1)) + 1e-6
        centres = centres + 0.3 * (apart / gap[..., None] * np.maximum(reach - gap, 0.0)[..., None]).sum(1)
        far = np.sqrt((centres**2).sum(1)) + 1e-6
        centres = centres * (np.minimum(far, room) / far)[:, None] * 0.999
    return centres


class Lineage:
    """Which cell divides into which, and where each comes to rest, for 1 to `CELLS_AT_MOST` cells."""

    def __init__(self, rng: np.random.Generator, life: Life, wall_um: float, zygote_radius_um: float) -> None:
        self._divisions_h = life.divisions_h
        self._fused = life.reverse_cleavage
        overlap = float(rng.uniform(0.88, 1.02))
        swell = float(rng.uniform(0.97, 1.1))  # most fill the zona, pressed flat against it
        flat = float(rng.uniform(0.35, 0.9))  # many four-cell embryos lie in one plane, others are tetrahedra
        centres, radii = rng.normal(0.0, 2.0, (1, 3)), np.array([zygote_radius_um])
        generation = np.zeros(1)
        self._rest: list[tuple[FloatArray, FloatArray]] = [(centres, radii)]
        self._parent: list[int] = []
        for n in range(1, min(CELLS_AT_MOST, len(life.divisions_h) + 1)):
            i = int(np.argmax(radii - 100.0 * generation))  # the largest of those that have divided least
            share = float(np.clip(0.5 + 0.5 * life.unevenness * rng.normal(), 0.28, 0.72))
            keep = 1.0 - 0.35 * life.fragmentation_ratio * (n < 4)  # fragments take volume from the cells
            axis = rng.normal(size=3) * (1.0, 1.0, 0.75 * flat if n < 2 else flat)
            axis *= 0.55 * radii[i] / (np.linalg.norm(axis) + 1e-6)
            centres = np.vstack([centres, centres[i] + axis])
            centres[i] -= axis
            radii = np.append(radii, radii[i] * (keep * (1 - share)) ** (1 / 3))
            radii[i] *= (keep * share) ** (1 / 3)
            generation = np.append(generation, generation[i] + 1)
            generation[i] += 1
            wide = radii * (swell if n > 1 else 1.0 + 0.3 * (swell - 1.0))
            packed = wide * _PACKED.get(n + 1, 0.93)
            centres = relaxed(centres, packed, wall_um - 1.5, overlap, rounds=24 if n < 8 else 10)
            self._parent.append(i)
            self._rest.append((centres, wide))

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
        return self._with_fused(hpi_h, centres, radii)

    def _with_fused(self, hpi_h: float, centres: FloatArray, radii: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The last two sisters flow into one while a reverse cleavage lasts: their volumes add up."""
        for start_h, end_h in self._fused:
            if start_h <= hpi_h < end_h and len(radii) > 1:
                parent = self._parent[len(radii) - 2]
                one = (radii[parent] ** 3 + radii[-1] ** 3) ** (1 / 3)
                middle = 0.5 * (centres[parent] + centres[-1])
                centres, radii = centres[:-1].copy(), radii[:-1].copy()
                centres[parent], radii[parent] = middle, one
        return centres, radii


def _fragment_radii_um(rng: np.random.Generator, ratio: float, zygote_radius_um: float) -> FloatArray:
    """Radii of pieces that together hold `ratio` of the zygote's volume, beside crumbs that hold next to nothing."""
    middle_um = float(rng.uniform(2.8, 6.5))
    sizes_um = np.clip(np.exp(rng.normal(np.log(middle_um), 0.55, _FRAGMENTS_AT_MOST)), 1.3, 15.0)
    if rng.random() < 0.4:
        sizes_um[0] = rng.uniform(8.0, 14.0)  # one as large as a small cell's nucleus, or larger
    wanted = ratio * zygote_radius_um**3
    held = np.cumsum(sizes_um**3)
    count = int(np.searchsorted(held, wanted)) + 1
    if count > _FRAGMENTS_AT_MOST:
        sizes_um = np.minimum(sizes_um * min((wanted / held[-1]) ** (1 / 3), 1.6), 16.0)
    crumbs = int(rng.poisson(float(rng.uniform(8.0, 45.0)) if rng.random() < 0.45 else 3.0))
    small_um = rng.uniform(1.3, 3.2, crumbs)
    return np.concatenate([sizes_um[:count], small_um])[:_FRAGMENTS_AT_MOST]


class Fragments:
    """Anucleate pieces: born around divisions, lying in nests, always pushed out of the cells into the crevices."""

    def __init__(self, rng: np.random.Generator, life: Life, zygote_radius_um: float) -> None:
        first_h = life.onsets_h.get("t2", 26.0)
        self._radius_um = _fragment_radii_um(rng, life.fragmentation_ratio, zygote_radius_um)
        count = len(self._radius_um)
        nests = rng.normal(0.0, 0.55, (int(rng.integers(1, 4)), 3))
        place = nests[rng.integers(0, len(nests), count)] + rng.normal(0.0, float(rng.uniform(0.15, 0.42)), (count, 3))
        self._place = place * np.minimum(1.0, 0.93 / (np.linalg.norm(place, axis=1) + 1e-6))[:, None]
        self._birth_h = first_h + rng.exponential(9.0, count)
        late = rng.random(count) < 0.25
        self._birth_h[late] = life.frozen_after_h + rng.uniform(4.0, 60.0, int(late.sum()))
        self._height = (
            rng.uniform(0.5, 1.1, count) * np.minimum(4.0 / self._radius_um, 1.0) ** 0.45
        )  # they lie in heaps
        self._outline = rng.uniform(0.4, 1.0, count)
        self._pushed = rng.random(count) < 0.7  # the others lie above or below a cell

    def at(self, hpi_h: float, wall_um: float, cells: FloatArray, radii: FloatArray, decay: float) -> FloatArray:
        """(F, 9) lobes of the fragments there at `hpi_h`."""
        born = self._birth_h <= hpi_h
        place, size_um = self._place[born] * wall_um, self._radius_um[born] * (1.0 + 0.35 * decay)
        if len(place):
            apart = place[:, None] - cells[None]
            gap = np.sqrt((apart**2).sum(-1)) + 1e-6
            inside = radii[None] + 0.3 * size_um[:, None] - gap
            worst = inside.argmax(1)
            rows = np.arange(len(place))
            push = self._pushed[born] * np.maximum(inside[rows, worst], 0.0) / gap[rows, worst]
            place = place + push[:, None] * apart[rows, worst]
            far = np.sqrt((place**2).sum(1)) + 1e-6
            place = place * (np.minimum(far, np.maximum(wall_um - size_um, 1.0)) / far)[:, None]
        return balls(place, size_um, self._height[born] * size_um, self._outline[born], 1.2)


def balls(
    centres: FloatArray,
    radii: FloatArray,
    height_um: FloatArray | float,
    outline: FloatArray | float,
    grain: FloatArray | float,
) -> FloatArray:
    """(N, 9) lobes that are round: x, y, z, semi-axes a and b, angle of a, path height, outline, grain."""
    columns = np.zeros((len(radii), 9))
    columns[:, :3], columns[:, 3], columns[:, 4] = centres, radii, radii
    columns[:, 6], columns[:, 7], columns[:, 8] = height_um, outline, grain
    return columns

"""How a blastocyst's size goes on over time: how fast it expands; when it collapsed, how deep, when it was back.

Pure: sizes and hours in, numbers out. Sizes come from masks, so one wrong mask must not look like a collapse. It
refuses to know pictures, grades and what a collapse means for an embryo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

COLLAPSE_DEPTH = 0.12  # of the area lost: a sphere then has lost 17 % of its volume; our choice, above a mask's scatter
RECOVERED = 0.95  # of the area it had before
RATE_WINDOW_H = 6.0
LEAST_RATE_H = 1.5  # frames closer together tell scatter, not growth
LEAST_FRAMES = 3
LEAST_SMOOTHED = 5  # with fewer a wrong mask cannot be told from a right one


@dataclass(frozen=True)
class Sized:
    """One segmented moment: hours (any fixed zero) and the body's area, in the square of one unit throughout."""

    at_h: float
    body_area: float


@dataclass(frozen=True)
class Collapse:
    """`depth`: share of the area lost at its lowest, 0 to 1. `began_h`: last frame before it; `recovered_h`: first
    frame back at 95 % of that area, None while it is not."""

    began_h: float
    lowest_h: float
    depth: float
    recovered_h: float | None


@dataclass(frozen=True)
class Course:
    """`rate_per_h`: area gained an hour over the last 6 h outside of collapses, None before there is enough to tell."""

    rate_per_h: float | None
    collapses: tuple[Collapse, ...]


def course_of(moments: Sequence[Sized]) -> Course:
    """Of one embryo's segmented moments, in any order. Raises ValueError on an area that is not above 0."""
    if not all(np.isfinite(one.at_h) and np.isfinite(one.body_area) and one.body_area > 0 for one in moments):
        raise ValueError("each moment needs an hour and an area above 0; leave out what was not segmented")
    ordered = sorted(moments, key=lambda one: one.at_h)
    hours_h, areas = np.array([one.at_h for one in ordered]), _without_outliers([one.body_area for one in ordered])
    collapses = _collapses(hours_h, areas)
    growing = np.ones(len(hours_h), np.bool_)
    for one in collapses:
        growing &= ~((hours_h > one.began_h) & (hours_h < (one.recovered_h or np.inf)))
    return Course(_rate(hours_h[growing], areas[growing]), tuple(collapses))


def _without_outliers(areas: Sequence[float]) -> npt.NDArray[np.float64]:
    """Each area as the median of itself and its two neighbours: one wrong mask moves nothing. An end as the median of
    itself, its neighbour and where the line through the next two would be (Tukey), for the newest frame counts most."""
    plain = np.array(areas, dtype=np.float64)
    if len(plain) < LEAST_SMOOTHED:
        return plain
    middle = np.median(np.stack([plain[:-2], plain[1:-1], plain[2:]]), axis=0)
    first = np.median([plain[0], middle[0], 2 * middle[0] - middle[1]])
    last = np.median([plain[-1], middle[-1], 2 * middle[-1] - middle[-2]])
    return np.concatenate([[first], middle, [last]])


def _collapses(hours_h: npt.NDArray[np.float64], areas: npt.NDArray[np.float64]) -> list[Collapse]:
    found: list[Collapse] = []
    peak = lowest = 0
    for now in range(1, len(areas)):
        if areas[now] >= areas[peak] * RECOVERED:
            if areas[lowest] < areas[peak] * (1 - COLLAPSE_DEPTH):
                found.append(_collapse(hours_h, areas, peak, lowest, float(hours_h[now])))
                peak = now  # a new course begins where it is back
            lowest = peak = now if areas[now] >= areas[peak] else peak
        elif areas[now] < areas[lowest]:
            lowest = now
    if len(areas) and areas[lowest] < areas[peak] * (1 - COLLAPSE_DEPTH):
        found.append(_collapse(hours_h, areas, peak, lowest, None))
    return found


def _collapse(
    hours_h: npt.NDArray[np.float64], areas: npt.NDArray[np.float64], peak: int, lowest: int, recovered_h: float | None
) -> Collapse:
    """`began_h` is the last frame before the fall that still had 95 % of the peak."""
    before = max(i for i in range(peak, lowest) if areas[i] >= RECOVERED * areas[peak])
    return Collapse(float(hours_h[before]), float(hours_h[lowest]), float(1 - areas[lowest] / areas[peak]), recovered_h)


def _rate(hours_h: npt.NDArray[np.float64], areas: npt.NDArray[np.float64]) -> float | None:
    """Median slope over all pairs of frames at least an hour and a half apart (Theil and Sen), in the last 6 h."""
    if len(hours_h) < LEAST_FRAMES:
        return None
    recent = hours_h >= hours_h[-1] - RATE_WINDOW_H
    hours_h, areas = hours_h[recent], areas[recent]
    apart_h = hours_h[None] - hours_h[:, None]
    pairs = apart_h >= LEAST_RATE_H
    if len(hours_h) < LEAST_FRAMES or not pairs.any():
        return None
    return float(np.median((areas[None] - areas[:, None])[pairs] / apart_h[pairs]))

"""How far an incubator's pictures have moved from what they once were: brightness, contrast, sharpness, focus.

It is told the numbers of each frame and keeps a few of them; it flags no frame, since a reading must not depend on
other embryos. It knows no picture, no journal and no clock.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from statistics import median

import numpy as np
import numpy.typing as npt

from monitor.vocabulary import Measured, Outcome, Reading

BASELINE_FRAMES = 1000  # 14 h of 12 wells at a frame each 10 min; of a single well a week
RECENT_FRAMES = 5  # of each well
RECENT = timedelta(hours=24)  # a well that was quiet for longer has no say
WELLS = 512  # at most held of one incubator; 240 lie in a full one

# feature -> the least spread that counts as one unit: below it frames differ by rounding, not by light or focus
FEATURES = {"brightness": 1.0, "contrast": 0.2, "sharpness": 0.03, "focus": 5.0}
SIGMA_PER_MAD = 1.4826  # of a normal distribution

Numbers = tuple[float, float, float, float]
_Four = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Seen:
    """The numbers of one frame, in order of `FEATURES`; `at` is None where the source has no clock."""

    well: tuple[str, str]
    at: datetime | None
    numbers: Numbers
    fit: bool


def seen_in(reading: Reading) -> Seen | None:
    """What a reading says of the light and the lens; None where nothing was measured, or not of a frame of now."""
    measured = reading.quality.measured
    if measured is None or reading.outcome in (Outcome.REVISED, Outcome.OUT_OF_ORDER):
        return None
    well = (reading.embryo.dish, reading.embryo.well)
    return Seen(well, reading.frame.captured_at, _numbers(measured), reading.quality.fit)


def _numbers(measured: Measured) -> Numbers:
    return measured.mean_gray, measured.contrast_gray, measured.sharpness, float(measured.sharpest_plane_um)


@dataclass
class _Well:
    at: datetime | None
    recent: deque[Numbers] = field(default_factory=lambda: deque(maxlen=RECENT_FRAMES))
    middle: tuple[float, ...] = ()

    def take(self, seen: Seen) -> None:
        self.at = seen.at
        self.recent.append(seen.numbers)
        self.middle = tuple(median(column) for column in zip(*self.recent, strict=True))


class Drift:
    """One incubator. `baseline`: its first frames, oldest first; of them those that were fit count."""

    def __init__(self, baseline: Iterable[Seen] = ()) -> None:
        self._first: list[Numbers] = []
        self._middle: _Four | None = None  # (4,) median of the baseline
        self._unit: _Four | None = None  # (4,) its spread
        self._wells: OrderedDict[tuple[str, str], _Well] = OrderedDict()
        self._newest: datetime | None = None
        for seen in baseline:
            self._add_to_baseline(seen)

    def see(self, seen: Seen) -> None:
        """Take in a new frame."""
        self._add_to_baseline(seen)
        self.recall(seen)

    def recall(self, seen: Seen) -> None:
        """Take in a frame as one of the last of its well only: at a start, where the baseline is given apart."""
        self._wells.setdefault(seen.well, _Well(seen.at)).take(seen)
        self._wells.move_to_end(seen.well)
        if seen.at is not None:
            self._newest = seen.at if self._newest is None else max(self._newest, seen.at)
        while len(self._wells) > WELLS:
            self._wells.popitem(last=False)

    def figures(self) -> dict[str, float]:
        """feature -> how many of the baseline's standard deviations the typical well lies from it; empty until the
        baseline is whole. Positive: brighter, more contrast, sharper, focused on a higher plane.

        A well's word is the median of its last frames, the incubator's the median of its wells: one odd well moves
        nothing. The standard deviation is robust (1.4826 x median distance from the median) and of single frames of
        all wells, so that what differs between wells and over an embryo's days is within a unit or two.
        """
        wells = [well.middle for well in self._wells.values() if not self._is_stale(well)]  # (W, 4)
        if self._middle is None or self._unit is None or not wells:
            return {}
        away = (np.median(np.array(wells), axis=0) - self._middle) / self._unit
        return {feature: round(float(figure), 3) for feature, figure in zip(FEATURES, away, strict=True)}

    def _add_to_baseline(self, seen: Seen) -> None:
        if self._middle is not None or not seen.fit:
            return
        self._first.append(seen.numbers)
        if len(self._first) == BASELINE_FRAMES:
            frames = np.array(self._first)  # (N, 4)
            self._middle = np.median(frames, axis=0)
            spread = SIGMA_PER_MAD * np.median(np.abs(frames - self._middle), axis=0)
            self._unit = np.maximum(spread, list(FEATURES.values()))
            self._first.clear()

    def _is_stale(self, well: _Well) -> bool:
        return well.at is not None and self._newest is not None and self._newest - well.at > RECENT

"""How far an incubator's pictures have moved from what they once were: brightness, contrast, sharpness, focus, the time
between frames, the embryo's size.

It is told the numbers of each frame and keeps a few of them; it flags no frame, since a reading must not depend on
other embryos. It knows no picture, no journal and no clock.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from statistics import median

import numpy as np

from monitor.vocabulary import Measured, Outcome, Reading

BASELINE_FRAMES = 1000  # 14 h of 12 wells at a frame each 10 min; of a single well a week
RECENT_FRAMES = 5  # of each well
RECENT = timedelta(hours=24)  # a well that was quiet for longer has no say
WELLS = 512  # at most held of one incubator; 240 lie in a full one

# feature -> the least spread that counts as one unit: below it frames differ by rounding, not by light or focus
FEATURES = {
    "brightness": 1.0,
    "contrast": 0.2,
    "sharpness": 0.03,
    "focus": 5.0,
    "cadence": 0.5,
    "embryo_size": 0.05,  # the sizes that are looked for lie .06 apart
}
SIGMA_PER_MAD = 1.4826  # of a normal distribution

Numbers = tuple[float, float, float, float]
Row = tuple[float | None, ...]  # in order of `FEATURES`, None where a frame does not tell it
Reference = dict[str, tuple[float, float]]  # feature -> the middle of the first frames, and its unit


@dataclass(frozen=True)
class Seen:
    """The numbers of one frame, the first four of `FEATURES`; `at` is None where the source has no clock; `size`: the
    embryo's diameter, a share of the well's, None where it was not looked for."""

    well: tuple[str, str]
    at: datetime | None
    numbers: Numbers
    fit: bool
    size: float | None = None


def seen_in(reading: Reading) -> Seen | None:
    """What a reading says of the light and the lens; None where nothing was measured, or not of a frame of now."""
    measured = reading.quality.measured
    if measured is None or reading.outcome in (Outcome.REVISED, Outcome.OUT_OF_ORDER):
        return None
    well = (reading.embryo.dish, reading.embryo.well)
    return Seen(well, reading.frame.captured_at, _numbers(measured), reading.quality.fit, measured.embryo_ratio)


def _numbers(measured: Measured) -> Numbers:
    return measured.mean_gray, measured.contrast_gray, measured.sharpness, float(measured.sharpest_plane_um)


@dataclass
class _Well:
    at: datetime | None
    recent: deque[Row] = field(default_factory=lambda: deque(maxlen=RECENT_FRAMES))
    middle: Row = ()

    def take(self, seen: Seen, row: Row) -> None:
        self.at = seen.at
        self.recent.append(row)
        self.middle = tuple(_middle(column) for column in zip(*self.recent, strict=True))


class Drift:
    """One incubator. `reference`: what its first frames were like, where that is known already; else `baseline`: its
    first frames, oldest first, of which those that were fit count."""

    def __init__(
        self, baseline: Iterable[Seen] = (), reference: Mapping[str, tuple[float, float]] | None = None
    ) -> None:
        self.reference: Reference = dict(reference or {})
        self._first: list[Row] = []
        self._last_at: dict[tuple[str, str], datetime] = {}
        self._wells: OrderedDict[tuple[str, str], _Well] = OrderedDict()
        self._newest: datetime | None = None
        for seen in baseline:
            self._add_to_baseline(seen, self._row(seen))
        self._last_at.clear()

    def see(self, seen: Seen) -> None:
        """Take in a new frame."""
        row = self._row(seen)
        self._add_to_baseline(seen, row)
        self._take(seen, row)

    def recall(self, seen: Seen) -> None:
        """Take in a frame as one of the last of its well only: at a start, where the baseline is given apart."""
        self._take(seen, self._row(seen))

    def _take(self, seen: Seen, row: Row) -> None:
        self._wells.setdefault(seen.well, _Well(seen.at)).take(seen, row)
        self._wells.move_to_end(seen.well)
        if seen.at is not None:
            self._newest = seen.at if self._newest is None else max(self._newest, seen.at)
        while len(self._wells) > WELLS:
            well, _ = self._wells.popitem(last=False)
            self._last_at.pop(well, None)

    def figures(self) -> dict[str, float]:
        """feature -> how many of the baseline's standard deviations the typical well lies from it; empty until the
        baseline is whole. Positive: brighter, more contrast, sharper, focused on a higher plane, fewer frames, larger.

        A well's word is the median of its last frames, the incubator's the median of its wells: one odd well moves
        nothing. The standard deviation is robust (1.4826 x median distance from the median) and of single frames of
        all wells, so that what differs between wells and over an embryo's days is within a unit or two.
        """
        wells = [well.middle for well in self._wells.values() if not self._is_stale(well)]
        found: dict[str, float] = {}
        for feature, column in zip(FEATURES, zip(*wells, strict=True), strict=False):
            now = _middle(column)
            if now is not None and feature in self.reference:
                middle, unit = self.reference[feature]
                found[feature] = round(float(now - middle) / unit, 3)
        return found

    def _row(self, seen: Seen) -> Row:
        """The frame's numbers, and the minutes since the well's last one."""
        before = self._last_at.get(seen.well)
        if seen.at is None:
            return (*seen.numbers, None, seen.size)
        self._last_at[seen.well] = seen.at
        apart = None if before is None else seen.at - before
        known = apart is not None and timedelta(0) < apart <= RECENT
        return (*seen.numbers, apart / timedelta(minutes=1) if apart is not None and known else None, seen.size)

    def _add_to_baseline(self, seen: Seen, row: Row) -> None:
        if self.reference or not seen.fit:
            return
        self._first.append(row)
        if len(self._first) == BASELINE_FRAMES:
            self.reference = reference_of(self._first)
            self._first.clear()

    def _is_stale(self, well: _Well) -> bool:
        return well.at is not None and self._newest is not None and self._newest - well.at > RECENT


def reference_of(rows: Iterable[Row]) -> Reference:
    """What the first frames were like, of each feature that half of them tell."""
    found: Reference = {}
    for (feature, least), column in zip(FEATURES.items(), zip(*rows, strict=True), strict=True):
        told = np.array([number for number in column if number is not None])
        if len(told) >= len(column) / 2:
            middle = float(np.median(told))
            spread = SIGMA_PER_MAD * float(np.median(np.abs(told - middle)))
            found[feature] = (round(middle, 6), round(max(spread, least), 6))
    return found


def _middle(column: Iterable[float | None]) -> float | None:
    told = [number for number in column if number is not None]
    return median(told) if told else None

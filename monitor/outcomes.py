"""The lab's own indicators: what share of embryos became blastocysts, what had been predicted of them, and whether the
predictions are spread as they once were.

Of each embryo whose run is over a few numbers are kept; from the last of them the figures come. Pure: no journal, no
clock. They are of a laboratory, never of one embryo.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

CHECKS_H = {"3": 68.0, "4": 92.0, "5": 116.0}  # day -> the hour from which a frame is that day's check
WITHIN_H = 6.0  # a check is the first judged frame so long after
LAST = 60  # embryos that the figures are of; of them some may have no prediction at a day's check
REFERENCE = 50  # embryos, the first, whose predictions are the reference
LEAST = 10  # with fewer nothing is said


@dataclass(frozen=True)
class Outcome:
    """One embryo. `predicted`: day -> probability at its check; `reached`: whether it became a blastocyst, None where
    nobody knows; `said_by`: who says so; `model`: whose probabilities they are (SHA-256)."""

    predicted: dict[str, float]
    reached: bool | None
    said_by: str | None
    model: str


@dataclass(frozen=True)
class Indicators:
    """`known`: embryos of which it is known whether they reached blastocyst; `share`: of them; `predicted`: day -> mean
    prediction of those of them that have one; `apart`: day -> how far the last predictions are from the first, 0 to 1.
    """

    known: int
    share: float | None
    predicted: dict[str, float]
    apart: dict[str, float]


class Outcomes:
    """One incubator's embryos. `reference`: day -> sorted predictions of the first ones, once known."""

    def __init__(self) -> None:
        self._last: deque[Outcome] = deque(maxlen=LAST)
        self.reference: dict[str, list[float]] = {}

    def begin_anew(self, reference: dict[str, list[float]]) -> None:
        """Forget the embryos; what is known of the first ones of a model may be known already."""
        self._last.clear()
        self.reference = dict(reference)

    def add(self, one: Outcome) -> bool:
        """Take in an embryo; True where the reference of a day has become known by it."""
        self._last.append(one)
        new = {}
        for day in CHECKS_H:
            told = [each.predicted[day] for each in self._last if day in each.predicted]
            if day not in self.reference and len(told) >= REFERENCE:
                new[day] = sorted(told)
        self.reference |= new
        return bool(new)

    def indicators(self) -> Indicators:
        known = [one for one in self._last if one.reached is not None]
        share = sum(bool(one.reached) for one in known) / len(known) if len(known) >= LEAST else None
        predicted: dict[str, float] = {}
        apart: dict[str, float] = {}
        for day in CHECKS_H:
            of_known = [one.predicted[day] for one in known if day in one.predicted]
            if len(of_known) >= LEAST:
                predicted[day] = sum(of_known) / len(of_known)
            now = [one.predicted[day] for one in self._last if day in one.predicted]
            if day in self.reference and len(now) >= LEAST:
                apart[day] = distance(self.reference[day], now)
        return Indicators(len(known), share, predicted, apart)


def distance(one: Sequence[float], other: Sequence[float]) -> float:
    """Kolmogorov and Smirnov's: the largest difference between the shares below any number; 0 alike, 1 wholly apart."""
    points = sorted({*one, *other})
    return max(abs(_share_to(one, point) - _share_to(other, point)) for point in points)


def _share_to(numbers: Sequence[float], point: float) -> float:
    return sum(number <= point for number in numbers) / len(numbers)


def check_values(frames: Iterable[tuple[float | None, float | None]]) -> dict[str, float]:
    """(hpi, probability) of an embryo's frames in order -> day -> the probability at its check."""
    found: dict[str, float] = {}
    for hpi, probability in frames:
        for day, from_h in CHECKS_H.items():
            if day not in found and hpi is not None and probability is not None and 0 <= hpi - from_h < WITHIN_H:
                found[day] = probability
    return found

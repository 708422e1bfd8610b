"""What the frames of each incubator say of its camera and its clock: drift and skew, told as metrics.

It joins the readings, the journal and the metrics; how the figures come about is `monitor.drift` and `monitor.skew`.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from monitor.drift import BASELINE_FRAMES, RECENT_FRAMES, Drift, seen_in
from monitor.journal import Journal
from monitor.metrics import Metrics
from monitor.skew import Skew
from monitor.vocabulary import FocalStack, Outcome, Reading


class Imaging:
    """The incubators of one node. What their first frames were like is kept in the journal once it is known, and stays
    as it is from then on; at a start the last frames are remembered from the readings."""

    def __init__(self, incubators: Iterable[str], journal: Journal, metrics: Metrics) -> None:
        self._metrics, self._journal = metrics, journal
        self._drifts = {name: remembered_drift(journal, name) for name in incubators}
        self._skews = {name: Skew() for name in self._drifts}
        self._frozen = {name: journal.reference(name) is not None for name in self._drifts}
        self._moved = set(self._drifts)  # whose figures are to be told anew

    def told(self, reading: Reading, stack: FocalStack, now: datetime) -> None:
        """A reading was journalled; `stack` is what it was made from."""
        name = reading.embryo.incubator
        if reading.revision > 1 or reading.outcome is Outcome.OUT_OF_ORDER:
            return
        if (skew_s := self._skews[name].see(stack, now)) is not None:
            self._metrics.clock_skew.labels(name).set(skew_s)
        if (seen := seen_in(reading)) is not None:
            self._drifts[name].see(seen)
            self._moved.add(name)

    def refresh(self, now: datetime) -> None:
        """Tell the figures of the incubators that have new frames. Raises StorageError."""
        for name in self._moved & self._frozen.keys():
            if not self._frozen[name] and self._drifts[name].reference:
                self._journal.freeze(name, self._drifts[name].reference, now)
                self._frozen[name] = True
        while self._moved:
            name = self._moved.pop()
            for feature, figure in self._drifts[name].figures().items():
                self._metrics.input_drift.labels(name, feature).set(figure)


def remembered_drift(journal: Journal, incubator: str) -> Drift:
    """The drift as it was when the node stopped, from its reference and the numbers that stand in the readings."""
    reference = journal.reference(incubator)
    earliest = () if reference else journal.earliest_readings(incubator, BASELINE_FRAMES)
    drift = Drift((seen for reading in earliest if (seen := seen_in(reading)) is not None), reference)
    for reading in journal.latest_readings(incubator, RECENT_FRAMES + 1):  # the one before tells an interval
        if (seen := seen_in(reading)) is not None:
            drift.recall(seen)
    return drift

"""The time between an incubator's frames: configured, or measured from the frames it gave, or unknown.

It is asked for often and measured once a minute. It knows the journal's frame names and no pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from itertools import pairwise
from statistics import median

from monitor.last_frames import LastFrames

FRAMES = 9  # of each embryo: eight intervals, enough for a median that one gap does not move
MEASURED_EVERY_S = 60.0


class Cadences:
    """Of the incubators of one node. `configured`: minutes by incubator, None where the operator did not say."""

    def __init__(
        self, configured: Mapping[str, float | None], last_frames: LastFrames, monotonic: Callable[[], float]
    ) -> None:
        self._configured, self._last_frames, self._monotonic = configured, last_frames, monotonic
        self._measured: dict[str, tuple[float, float | None]] = {}  # when, and what

    def configured_min(self, incubator: str) -> float | None:
        return self._configured[incubator]

    def measured_min(self, incubator: str) -> float | None:
        """None where no clock names two frames of one embryo."""
        now = self._monotonic()
        before = self._measured.get(incubator)
        if before is None or before[1] is None or now - before[0] >= MEASURED_EVERY_S:
            before = now, measured_cadence_min(self._last_frames.recent_keys(incubator, FRAMES))
            self._measured[incubator] = before
        return before[1]

    def minutes(self, incubator: str) -> float | None:
        """What was configured goes before what was measured."""
        return self.configured_min(incubator) or self.measured_min(incubator)


def measured_cadence_min(recent_frame_keys: Iterable[Sequence[str]]) -> float | None:
    """Median time between neighbouring frames, from each embryo's last frame names; None where no clock names two."""
    gaps_min = []
    for keys in recent_frame_keys:
        times = sorted(map(_captured_at, keys))
        gaps_min += [(later - sooner).total_seconds() / 60 for sooner, later in pairwise(times)]
    return median(gaps_min) if gaps_min else None


def _captured_at(key: str) -> datetime:
    """The time in a frame's name, `20260131T061000Z`; `strptime` takes several times as long, for thousands of them."""
    year, month, day = int(key[:4]), int(key[4:6]), int(key[6:8])
    return datetime(year, month, day, int(key[9:11]), int(key[11:13]), int(key[13:15]), tzinfo=timezone.utc)

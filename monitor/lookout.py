"""What no frame tells: that none comes, and that the disk runs full. Looked at every few seconds, decided in `alarms`.

It knows the node's clock, shares and disk; it judges no picture.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from monitor.alarms import Alarms, Silence
from monitor.alert import Alert
from monitor.cadence import Cadences
from monitor.journal import Journal
from monitor.share import Share
from monitor.vocabulary import Clock

LOOK_EVERY_S = 10.0
AWAY_COUNTS_AFTER_S = 60.0  # a share that is mounted a moment after us is no silence
CADENCE_UNKNOWN_MIN = 20.0  # incubators take 5 to 20 minutes; where nobody knows, the alert comes late, not never


class Lookout:
    """The looks of one node, for the one thread that works."""

    def __init__(
        self,
        alarms: Alarms,
        journal: Journal,
        shares: Sequence[Share],
        cadences: Cadences,
        storage: Path,
        clock: Clock,
    ) -> None:
        self._alarms, self._journal, self._shares = alarms, journal, shares
        self._cadences, self._storage, self._clock = cadences, storage, clock
        self._next_s = -1e9
        self._seen: dict[str, tuple[datetime | None, float]] = {}  # last frame recorded, and when (monotonic)

    def look(self) -> list[Alert]:
        """Look if that is due; the words that were recorded. Raises StorageError."""
        now_s = self._clock.monotonic()
        if now_s < self._next_s:
            return []
        self._next_s = now_s + LOOK_EVERY_S
        embryos = self._journal.open_runs()
        silences = [
            silence
            for share in self._shares
            if (silence := self._silence(share, embryos.get(share.name, 0))) is not None
        ]
        now = self._clock.now()
        said = self._alarms.node(silences, shutil.disk_usage(self._storage).free, now)
        return [*said, *self._alarms.remind(now)]

    def _silence(self, share: Share, embryos: int) -> Silence | None:
        """None while nobody can say: a share just begun, back or gone, and one with frames that wait to be judged."""
        silence_s = self._since_last_frame_s(share)
        if share.away:
            if share.away_s < AWAY_COUNTS_AFTER_S:
                return None
        elif not share.settled or len(share.intake.assembler):
            return None
        cadence_min = self._cadences.minutes(share.name) or CADENCE_UNKNOWN_MIN
        # of a share that is away nobody knows what lies in the incubator
        return Silence(share.name, silence_s if embryos or share.away else 0.0, cadence_min, embryos)

    def _since_last_frame_s(self, share: Share) -> float:
        """By the clock that is never set; only for what was before this start the wall clock is asked, once."""
        last, now_s = self._journal.last_frames.of(share.name), self._clock.monotonic()
        recorded_at = None if last is None else last.recorded_at
        seen = self._seen.get(share.name)
        if seen is None:
            before_s = 0.0 if recorded_at is None else max(0.0, (self._clock.now() - recorded_at).total_seconds())
            seen = recorded_at, now_s - before_s
        elif seen[0] != recorded_at:
            seen = recorded_at, now_s
        self._seen[share.name] = seen
        return now_s - seen[1]

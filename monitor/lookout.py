"""What no frame tells: that none comes, and that the disk runs full. Looked at every few seconds, decided in `alarms`.

It knows the node's clock, shares and disk; it judges no picture.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from monitor.alarms import Alarms, Silence
from monitor.alert import Alert
from monitor.cadence import Cadences
from monitor.journal import Journal
from monitor.share import Share
from monitor.vocabulary import Clock

LOOK_EVERY_S = 10.0
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
        return self._alarms.node(silences, shutil.disk_usage(self._storage).free, self._clock.now())

    def _silence(self, share: Share, embryos: int) -> Silence | None:
        """None while nobody can say: before the folder was looked over, and while frames of it wait to be judged."""
        if (share.looked_s is None and not share.away) or len(share.intake.assembler):
            return None
        last = self._journal.last_frames.of(share.name)
        if last is None:
            return None
        cadence_min = self._cadences.minutes(share.name) or CADENCE_UNKNOWN_MIN
        silence_s = max(0.0, (self._clock.now() - last.recorded_at).total_seconds())
        return Silence(share.name, silence_s if embryos else 0.0, cadence_min, embryos)

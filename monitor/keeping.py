"""Once a day, when no frame waits: runs that nobody ended are closed and what is older than `keep_days` is removed.

It asks the journal to do it, a slice at a time; it knows no rows. What is removed does not come back, so that nothing
is while the wall clock is in doubt: a minute of a wrong one would be enough to remove everything.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from monitor.alarms import Alarms
from monitor.alert import Alert
from monitor.journal import Journal, Recorded
from monitor.runs import Run
from monitor.vocabulary import Clock

log = logging.getLogger(__name__)

EVERY_S = 86_400.0
FIRST_AFTER_S = 600.0  # a start has other things to do
MOVED_S = 86_400.0  # no clock drifts so far while a process runs: somebody or something has set it
SILENCE = timedelta(days=30)  # a start under a wrong clock: only the frames tell another time


class Keeping:
    """`keep_days` None: everything is kept. `forget` is told each run that was closed, to free what is held of it;
    `say` the alerts that went with it."""

    def __init__(
        self,
        journal: Journal,
        alarms: Alarms,
        keep_days: int | None,
        clock: Clock,
        forget: Callable[[Run, Recorded], None],
        say: Callable[[list[Alert]], None],
    ) -> None:
        self._journal, self._alarms, self._keep_days, self._clock = journal, alarms, keep_days, clock
        self._forget, self._say = forget, say
        self._next_s = clock.monotonic() + FIRST_AFTER_S
        self._began, self._began_s = clock.now(), clock.monotonic()
        self._removed = 0
        self._doubt = ""

    def turn(self) -> bool:
        """A slice, if it is time; whether there may be more. Raises StorageError."""
        if self._keep_days is None or self._clock.monotonic() < self._next_s:
            return False
        now = self._clock.now()
        if doubt := self._doubt_of(now):
            if doubt != self._doubt:
                log.warning("nothing is removed that is kept no longer", extra={"why": doubt, "now": now.isoformat()})
            self._doubt, self._next_s = doubt, self._clock.monotonic() + FIRST_AFTER_S
            return False
        self._doubt = ""
        before = now - timedelta(days=self._keep_days)
        for run in self._journal.silent_runs(before):
            recorded = self._journal.expire(run, self._alarms.ended(run, now), now)
            log.warning("a run that nobody ended is closed", extra={"embryo_id": run.embryo_id})
            self._forget(run, recorded)
            self._say(recorded.alerts)
        pruned = self._journal.prune(before, now)
        if pruned is not None:
            self._removed += pruned.rows
            return True
        if self._removed:
            log.info("what is kept no longer was removed", extra={"rows": self._removed, "before": before.isoformat()})
        self._removed, self._next_s = 0, self._clock.monotonic() + EVERY_S
        return False

    def _doubt_of(self, now: datetime) -> str:
        """Why the wall clock is not believed; empty where it is."""
        ran_s = self._clock.monotonic() - self._began_s
        if (now - self._began).total_seconds() - ran_s > MOVED_S:
            return "the wall clock was set forward by over a day since the start: check it, then start again"
        newest = self._journal.last_frames.newest()
        if newest is not None and now - newest > SILENCE:
            return f"the newest frame is over {SILENCE.days} days old: nothing comes in, or the wall clock is wrong"
        return ""

"""One incubator's folder as the loop sees it: when to look it over, how long to leave it alone, whether events come.

A folder that cannot be looked over is a share that is away: said once, tried again later and later, and looked over
fully when it is back. It judges no file and knows no other incubator.
"""

from __future__ import annotations

import logging

from monitor.errors import StorageError
from monitor.intake import Intake
from monitor.metrics import Metrics
from monitor.timezero import TimeZero
from monitor.vocabulary import Clock
from monitor.watch import Waker

log = logging.getLogger(__name__)

LOOK_EVERY_S = 5.0  # nobody needs to wake us: a share raises no events
LOOK_SOON_S = 0.5  # while a file is half seen or a frame waits for its planes
LOOK_GAP_S = 0.2  # between two looks, however many files move
FULL_LOOK_EVERY_S = 900.0  # every folder, also those that have not changed for long
LONGEST_REST_S = 60.0  # between two tries of a share that is away
SCAN_IS_FRESH_S = 60.0


class Share:
    """The folder of one incubator, for the one thread that works. Times are monotonic seconds.

    `next_s`: when it is to be looked over again.
    """

    def __init__(self, intake: Intake, time_zero: TimeZero, waker: Waker, metrics: Metrics, clock: Clock) -> None:
        self.intake = intake
        self._time_zero, self._waker, self._metrics, self._clock = time_zero, waker, metrics, clock
        self.next_s = 0.0
        self._last_s = -1e9
        self._full_s = 0.0
        self._success_s: float | None = None
        self._failures = 0
        self._listening = False

    @property
    def name(self) -> str:
        return self.intake.name

    @property
    def fresh(self) -> bool:
        """It was looked over not long ago."""
        return self._success_s is not None and self._clock.monotonic() - self._success_s < SCAN_IS_FRESH_S

    def look(self, moved: bool) -> None:
        """Look it over if that is due; `moved`: a file event came. Raises StorageError; then it comes again soon."""
        now = self._clock.monotonic()
        if moved and self._failures == 0:  # not at every event: seven planes come as fourteen of them
            self.next_s = min(self.next_s, self._last_s + LOOK_GAP_S)
        if now < self.next_s:
            return
        self._last_s = now
        full = now >= self._full_s or self._failures > 0  # back again: what was missed is offered again at once
        try:
            with self._metrics.scan.time():
                self._time_zero.refresh()
                self.intake.look(full)
            self._listen()
        except OSError as fault:
            self._away(now, fault)
            return
        except StorageError:
            self.next_s = now + LOOK_EVERY_S
            raise
        if full:
            self._full_s = now + FULL_LOOK_EVERY_S
        self._failures, self._success_s = 0, now
        self.next_s = now + (LOOK_EVERY_S if self.intake.idle else LOOK_SOON_S)
        self._metrics.share_reachable.labels(self.name).set(1)
        self._metrics.scan_success.labels(self.name).set(self._clock.now().timestamp())

    def _away(self, now: float, fault: OSError) -> None:
        self._failures, self._listening = self._failures + 1, False
        self.next_s = now + min(LONGEST_REST_S, 2.0 ** min(self._failures, 6))
        self._metrics.share_reachable.labels(self.name).set(0)
        log.warning("a share is away", extra={"incubator": self.name, "fault": str(fault)})

    def _listen(self) -> None:
        if self._listening:
            return
        self._listening = True
        try:
            self._waker.watch(self.intake.root)
        except OSError as fault:  # no inotify here: the timed look still finds everything
            log.warning("no file events, looking by time", extra={"incubator": self.name, "fault": str(fault)})

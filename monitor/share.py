"""One incubator's folder as the loop sees it: when to look it over, whether it is there, whether events come from it.

What touches the folder (asking whether it is there, listing, reading pictures) is an errand in a thread of its own, so
that a mount that hangs holds neither the loop nor another incubator. There is at most one such errand for each share,
and one that opens the ears; a hung one is not joined by another. A share is away while it gives no sign of life, while
it gives errors, and while its folder is empty though it was not: then nothing of it is judged, no deadline runs, and
it is looked over fully when it is back. It judges no file and knows no other incubator.

What it cannot do: take back a thread from a call that hangs in the kernel. Where a hung mount is replaced while the
call still hangs (`umount -l`), the share stays away until the call returns or the daemon is started anew.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from monitor.assemble import Assembled, FrameName
from monitor.errand import Errand
from monitor.errors import StorageError
from monitor.intake import Found, Intake
from monitor.metrics import Metrics
from monitor.timezero import TimeZero
from monitor.vocabulary import Clock
from monitor.waker import Waker
from monitor.watch import Root, probe

log = logging.getLogger(__name__)

LOOK_EVERY_S = 5.0  # nobody needs to wake us: a share raises no events
LOOK_SOON_S = 0.5  # while a file is half seen or a frame waits for its planes
LOOK_GAP_S = 0.2  # between two looks, however many files move
FULL_LOOK_EVERY_S = 900.0  # every folder, also those that have not changed for long
LONGEST_REST_S = 60.0  # between two tries of a share that is away
SCAN_IS_FRESH_S = 60.0
PATIENCE_S = 1.0  # so long the loop waits for an errand before it goes on with the other incubators
HANGS_AFTER_S = 10.0  # without a sign of life: no folder or file more, no frame more


class Share:
    """The folder of one incubator, for the one thread that works. Times are monotonic seconds.

    `next_s`: when it is to be called again at the latest. `wake` is called from an errand's thread when it comes back
    later than the loop waited. `ask` and `patience_s` are for tests: the probe, and the real time the loop waits.
    """

    def __init__(
        self,
        intake: Intake,
        time_zero: TimeZero,
        waker: Waker,
        metrics: Metrics,
        clock: Clock,
        wake: Callable[[], None] = lambda: None,
        ask: Callable[[Path], Root] = probe,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.intake = intake
        self._time_zero, self._waker, self._metrics, self._clock = time_zero, waker, metrics, clock
        self._wake, self._probe, self._patience_s = wake, ask, patience_s
        self.next_s = 0.0
        self._last_s = -1e9  # when it was last begun to be looked over
        self._moved = False  # a file event came since
        self._full_s = 0.0  # when every folder is due
        self._success_s: float | None = None
        self._failures = 0
        self._away_since_s = 0.0
        self._there_since_s = 0.0  # since the first look that succeeded, or the last time it came back
        self._away_text = ""
        self._had_entries = False
        self._looking: Errand[tuple[Root, list[Found]]] | None = None
        self._reading: Errand[list[Assembled]] | None = None
        self._listening: Errand[None] | None = None
        self._heard: tuple[int, int] | None = None  # the root below which we listen
        self._deaf = False  # no ears to be had below this root
        self._frames_read = 0
        self._hung = False  # the errand under way has given no sign of life for long
        self._life = (0, 0.0)  # the last sign of life: steps, and when they were seen to move

    @property
    def name(self) -> str:
        return self.intake.name

    @property
    def fresh(self) -> bool:
        """It was looked over not long ago."""
        return self._success_s is not None and self._clock.monotonic() - self._success_s < SCAN_IS_FRESH_S

    @property
    def settled(self) -> bool:
        """It has been there for so long that what lay in it was seen twice and taken in."""
        there_s = self._clock.monotonic() - self._there_since_s
        return self._success_s is not None and not self.away and there_s >= self.intake.watch.stable_s + LOOK_EVERY_S

    @property
    def away_s(self) -> float:
        """How long it has been away; 0 while it is there."""
        return self._clock.monotonic() - self._away_since_s if self.away else 0.0

    @property
    def looked_s(self) -> float | None:
        """When it was last looked over with success."""
        return self._success_s

    @property
    def away(self) -> bool:
        return self._failures > 0

    # -- looking over --------------------------------------------------------------------------------------------------

    def look(self, moved: bool, lost: bool = False) -> None:
        """Look it over if that is due, or take in what a look has found that was under way.

        `moved`: a file event came; `lost`: some were dropped, so every folder is due. Raises StorageError; then what
        was found is found again soon.
        """
        now = self._clock.monotonic()
        if lost:
            self._full_s, self._heard = now, None  # also what was to tell of new folders may be lost: listen anew
        self._moved = self._moved or moved or lost  # kept while a look is under way: it may have passed there
        if self._moved and not self.away:  # not at every event: seven planes come as fourteen of them
            self.next_s = min(self.next_s, self._last_s + LOOK_GAP_S)
        if self._looking is None and self._reading is None and now >= self.next_s:
            self._looking = self._begin_look(now)
        if self._looking is not None and self._is_back(self._looking, now):
            errand, self._looking = self._looking, None
            self._end_look(errand, now)

    def _begin_look(self, now: float) -> Errand[tuple[Root, list[Found]]]:
        full = now >= self._full_s or self.away  # back again: what was missed is offered again at once
        if full:
            self._full_s = now + FULL_LOOK_EVERY_S
        self._last_s, self._life = now, (self._steps, now)
        self._moved = self._hung = False
        return Errand(f"look-{self.name}", lambda: self._look_over(full), self._wake)

    def _look_over(self, full: bool) -> tuple[Root, list[Found]]:
        """In the errand's thread."""
        with self._metrics.scan.time():
            root = self._ask()
            self._time_zero.refresh()
            return root, self.intake.find(full)

    def _ask(self) -> Root:
        """What stands at the root. Raises OSError; an empty folder that was none is a share that is not mounted."""
        root = self._probe(self.intake.root)
        if root.empty and (known := self.intake.watch.known):
            raise OSError(f"{self.intake.root} is empty though {known} files of it are known: is it mounted?")
        if root.empty and self._had_entries:
            raise OSError(f"{self.intake.root} is empty though it held something before: is it mounted?")
        return root

    def _end_look(self, errand: Errand[tuple[Root, list[Found]]], now: float) -> None:
        try:
            root, found = errand.result()
        except OSError as fault:
            self._fail(now, str(fault))
            return
        try:
            self.intake.take_in(found)
        except StorageError:
            self.next_s = now + LOOK_EVERY_S
            raise
        if self.away:
            self._come_back(now)
        self._had_entries = self._had_entries or not root.empty
        self._there_since_s = now if self._success_s is None else self._there_since_s
        self._success_s = now
        self.next_s = now + (LOOK_EVERY_S if self.intake.idle else LOOK_SOON_S)
        if self._hung:  # what it saw before it hung is old
            self._full_s = self.next_s = now
        self._metrics.share_reachable.labels(self.name).set(1)
        self._metrics.scan_success.labels(self.name).set(self._clock.now().timestamp())
        self._listen(root)

    # -- reading pictures ----------------------------------------------------------------------------------------------

    def due(self) -> list[FrameName]:
        """Frames that may go on now; none while the share is away or under way."""
        if self.away or self._looking is not None or self._reading is not None:
            return []
        return self.intake.due()

    @property
    def waiting(self) -> int:
        """Frames that could be judged now, also while it is being looked over; what is being read is one."""
        if self._reading is not None:
            return 1
        return 0 if self.away else len(self.intake.due())

    def read(self, names: Sequence[FrameName]) -> None:
        """Begin to read the pictures of frames that are due; `frames` gives them."""
        self._life, self._hung = (self._steps, self._clock.monotonic()), False
        self._reading = Errand(f"read-{self.name}", lambda: self._read_frames(names), self._wake)

    def _read_frames(self, names: Sequence[FrameName]) -> list[Assembled]:
        """In the errand's thread. A picture that cannot be read counts only against a share that is there."""
        frames = []
        for name in names:
            if (frame := self.intake.assemble(name)) is not None:
                frames.append(frame)
            self._frames_read += 1
        if any(frame.unread for frame in frames):
            self._ask()
        return frames

    def frames(self) -> list[Assembled]:
        """What has been read since it was asked last; nothing while that is under way."""
        now = self._clock.monotonic()
        if self._reading is None or not self._is_back(self._reading, now):
            return []
        errand, self._reading = self._reading, None
        self.next_s = now if self._hung else self.next_s
        try:
            return errand.result()
        except OSError as fault:
            self._fail(now, str(fault))
            return []

    # -- away and back -------------------------------------------------------------------------------------------------

    @property
    def _steps(self) -> int:
        return self.intake.watch.steps + self._frames_read

    def _is_back(self, errand: Errand[Any], now: float) -> bool:
        """Whether an errand is back; a share that holds one and gives no sign of life is away."""
        if errand.wait(self._patience_s):
            return True
        if self._steps != self._life[0]:
            self._life = (self._steps, now)
        elif now - self._life[1] >= HANGS_AFTER_S and not self._hung:
            self._hung = True
            self._fail(now, f"{self.intake.root} gives no answer")
        self.next_s = now + LOOK_SOON_S
        return False

    def _fail(self, now: float, text: str) -> None:
        if not self.away:
            self._away_since_s = now
        self._failures, self._heard = self._failures + 1, None
        self.next_s = now + min(LONGEST_REST_S, 2.0 ** min(self._failures, 6))
        self._metrics.share_reachable.labels(self.name).set(0)
        if text != self._away_text:  # said once, however often it is tried
            log.warning("a share is away", extra={"incubator": self.name, "fault": text})
        self._away_text = text

    def _come_back(self, now: float) -> None:
        lost_s = now - (self._away_since_s if self._success_s is None else self._success_s)
        settling_s = self.intake.watch.stable_s + LOOK_EVERY_S  # what was written meanwhile is to be seen twice
        self.intake.assembler.excuse(lost_s + settling_s)  # no frame is told lacking because its share was away
        self._failures, self._away_text, self._there_since_s = 0, "", now
        log.info("a share is back", extra={"incubator": self.name, "away_s": round(now - self._away_since_s, 1)})

    # -- file events ---------------------------------------------------------------------------------------------------

    def _listen(self, root: Root) -> None:
        """Open the ears where they are not, or are below a root that is gone, or have died."""
        if not self._waker.running or (self._listening is not None and not self._listening.back):
            return
        if self._heard == root.identity and (self._deaf or self._waker.hears(self.intake.root)):
            return
        self._heard = root.identity
        self._listening = Errand(f"listen-{self.name}", self._open_ears, lambda: None)

    def _open_ears(self) -> None:
        """In the errand's thread: it walks the whole tree."""
        self._deaf = False
        try:
            self._waker.watch(self.intake.root)
        except OSError as fault:  # no inotify here: the timed look still finds everything
            self._deaf = True
            log.warning("no file events, looking by time", extra={"incubator": self.name, "fault": str(fault)})

"""One incubator's way in: look over the folder, read the names, gather the planes, put aside what does not fit.

It composes watch, layout and assembler; it steps no engine. What it hands on is either journalled (`done`) or offered
again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from monitor.assemble import Assembled, Assembler, FrameName
from monitor.errors import FrameError, StorageError
from monitor.file_table import FileRecord
from monitor.journal import Journal
from monitor.layouts import Layout
from monitor.retention import LEAST_DAYS
from monitor.vocabulary import Clock, FileSeen, Place, PlaneFile
from monitor.watch import Watch

log = logging.getLogger(__name__)

FUTURE = timedelta(hours=24)
LEAST_KEPT = timedelta(days=LEAST_DAYS) - FUTURE  # less what a clock that is true enough may have gone back since

Found = tuple[FileSeen, PlaneFile | FrameError | None]  # None: no picture of ours


def refuse_the_future(plane: PlaneFile, now: datetime) -> None:
    """A clock a day or more ahead would open a run that shuts out every true frame after it. Raises FrameError."""
    at = plane.moment.at
    if at is not None and at - now > FUTURE:
        whose = "dated" if plane.moment.captured_at is not None else "its file's time is"
        raise FrameError("clock", f"{plane.file.path}: {whose} over {FUTURE} in the future")


class Intake:
    """The folder of one incubator. `count_quarantine` is told the reason of every file that is put aside."""

    def __init__(
        self,
        name: str,
        root: Path,
        layout: Layout,
        planes_um: tuple[int, ...],
        allowed_counts: tuple[int, ...],
        journal: Journal,
        clock: Clock,
        insemination: Callable[[Place], datetime | None] = lambda place: None,
        stable_s: float = 0.0,
        deadline_s: float = 0.0,
        count_quarantine: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self.name, self.root = name, root
        self._layout, self._planes_um, self._journal = layout, planes_um, journal
        self._clock, self._count_quarantine = clock, count_quarantine
        self._unread: list[str] = []
        self._disbelieved: datetime | None = None
        self.watch = Watch(root, journal.files.known(name), stable_s, clock.monotonic)
        self.assembler = Assembler(
            root,
            planes_um,
            allowed_counts,
            deadline_s,
            earlier=lambda place, moment: journal.files.of_frame(place, moment, insemination(place), layout.stacked),
        )

    @property
    def idle(self) -> bool:
        """Nothing is half seen and nothing waits."""
        return self.watch.unsettled == 0 and len(self.assembler) == 0

    def look(self, full: bool = False) -> int:
        """Take in what is finished and new; how many files that was. Raises OSError when the share is away."""
        return self.take_in(self.find(full))

    def find(self, full: bool = False) -> list[Found]:
        """What is finished and new, and how its names read. Raises OSError when the share is away.

        It asks the folder and nobody else, so that it may run beside the thread that works; only, nobody else may use
        this intake meanwhile.
        """
        if full:
            while self._unread:
                self.watch.forget(self._unread.pop())
        files = self.watch.look(full)
        try:
            return [(file, self._read_name(file)) for file in files]
        except OSError:
            self._forget(files)
            raise

    def take_in(self, found: list[Found]) -> int:
        """Hand the planes on and put aside what is none; how many files that was. Raises StorageError."""
        try:
            aside = self._add(found)
            if aside:
                records = [FileRecord(self.name, file, reason=fault.reason) for file, fault in aside]
                self._journal.put_aside(records, self._clock.now())
        except StorageError:
            self._forget([file for file, _ in found])
            raise
        for file, fault in aside:
            self._tell_aside(file, fault)
        return len(found)

    def _forget(self, files: list[FileSeen]) -> None:
        for file in files:  # adding a file twice is adding it once
            self.watch.forget(file.path)

    def _read_name(self, file: FileSeen) -> PlaneFile | FrameError | None:
        try:
            plane = self._layout.read(self.name, self.root, file)
            if plane is not None:
                refuse_the_future(plane, self._clock.now())
        except FrameError as fault:
            return None if self._is_of_old(file.mtime) else fault
        return None if plane is None or self._is_of_old(plane.moment.at or file.mtime) else plane

    def _is_of_old(self, at: datetime) -> bool:
        """From before what the journal keeps: it was told in its time, and its rows are gone.

        Nobody keeps less than six months. Where the journal says so all the same, a wrong clock has pruned it (or ours
        is wrong now), and to believe it would hide frames of embryos that live.
        """
        since = self._journal.kept_since
        if since is None or at >= since:
            return False
        if since <= self._clock.now() - LEAST_KEPT:
            return True
        if since != self._disbelieved:
            facts = {"incubator": self.name, "kept_since": since.isoformat()}
            log.error("the journal was pruned by a clock that is not this one: no frame counts as old", extra=facts)
        self._disbelieved = since
        return False

    def _add(self, found: list[Found]) -> list[tuple[FileSeen, FrameError]]:
        """Hand the planes to the assembler; the files that are none, each with the reason."""
        aside: list[tuple[FileSeen, FrameError]] = []
        for file, plane in found:
            if isinstance(plane, FrameError):
                aside.append((file, plane))
            elif plane is not None:
                try:
                    for each in self._layout.planes_of(plane, self._planes_um):
                        self.assembler.add(each, self._clock.monotonic())
                except FrameError as fault:
                    aside.append((file, fault))
        return aside

    def due(self) -> list[FrameName]:
        return self.assembler.due(self._clock.monotonic())

    def assemble(self, name: FrameName) -> Assembled | None:
        return self.assembler.assemble(name, self._clock.monotonic())

    def done(self, frame: Assembled) -> None:
        """The frame is in the journal: count what was put aside on its way, and let it go.

        What could not be read is offered again at the next full look.
        """
        for file, fault in frame.files_aside:
            self._tell_aside(file, fault)
        for plane, fault in frame.unread:
            path = plane.file.path
            if path not in self._unread:  # a file of several planes is said once
                facts = {"incubator": self.name, "path": path, "fault": str(fault)}
                log.warning("a plane could not be read", extra=facts)
                self._unread.append(path)
        self.assembler.done(frame.name)

    def _tell_aside(self, file: FileSeen, fault: FrameError) -> None:
        self._count_quarantine(fault.reason)
        facts = {"incubator": self.name, "path": file.path, "reason": fault.reason, "detail": fault.detail}
        log.warning("a file is put aside", extra=facts)

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
from monitor.journal import FileRecord, Journal
from monitor.layouts import Layout
from monitor.vocabulary import Clock, FileSeen, Place, PlaneFile
from monitor.watch import Watch

log = logging.getLogger(__name__)

FUTURE = timedelta(hours=24)


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
        self.watch = Watch(root, journal.known_files(name), stable_s, clock.monotonic)
        self.assembler = Assembler(
            root,
            planes_um,
            allowed_counts,
            deadline_s,
            earlier=lambda place, moment: journal.frame_files(place, moment, insemination(place), layout.stacked),
        )

    @property
    def idle(self) -> bool:
        """Nothing is half seen and nothing waits."""
        return self.watch.unsettled == 0 and len(self.assembler) == 0

    def look(self, full: bool = False) -> int:
        """Take in what is finished and new; how many files that was. Raises OSError when the share is away."""
        if full:
            while self._unread:
                self.watch.forget(self._unread.pop())
        files = self.watch.look(full)
        try:
            aside = self._add(files)
            if aside:
                self._journal.put_aside([FileRecord(self.name, file, reason=fault.reason) for file, fault in aside])
        except (OSError, StorageError):
            for file in files:  # adding a file twice is adding it once
                self.watch.forget(file.path)
            raise
        for file, fault in aside:
            self._tell_aside(file, fault)
        return len(files)

    def _add(self, files: list[FileSeen]) -> list[tuple[FileSeen, FrameError]]:
        """Hand the planes to the assembler; the files that are none, each with the reason."""
        aside: list[tuple[FileSeen, FrameError]] = []
        for file in files:
            try:
                plane = self._layout.read(self.name, self.root, file)
                if plane is not None:
                    refuse_the_future(plane, self._clock.now())
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

"""The work of day 5 between frames: whose turn it is, its pictures read again, the result recorded once.

One embryo at a time, and only while no frame waits for its step. Whose turn it is, is read from the journal each time:
what was recorded is done, what was not is due again, so a process that is killed at any point comes to the same result
under the same id. Pictures are read in a thread of their own, and only those that the frame was judged from: a picture
that is not there, or has changed, is tried again a minute later. It knows no model and no broker.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

import cv2

from monitor.alert_machine import Voice
from monitor.day5_body import Day5, Day5Collapse, Day5Course, Day5Frame
from monitor.day5_due import Work, next_due
from monitor.day5_judge import (
    DIGITS,
    Day5Judge,
    Judged5,
    say_none,
    told_agreement,
    told_criteria,
    told_grade,
    told_measured,
)
from monitor.day5_table import Due, Worked
from monitor.errand import Errand
from monitor.errors import FrameError, StorageError
from monitor.event import Event, event_id
from monitor.expansion import Sized, course_of
from monitor.file_table import Source
from monitor.journal import Journal
from monitor.overlay import Picture
from monitor.pictures import read_pages, read_plane
from monitor.states import StateFiles
from monitor.vocabulary import Clock, Gray, Reading

log = logging.getLogger(__name__)

PATIENCE_S = 1.0  # so long the loop waits for pictures before it goes on with other things
AGAIN_S = 60.0  # after pictures that could not be read, or a disk that took nothing
OVERLAYS = "day5"  # the folder below the storage's, of `<2 digits>/<SHA-256>.png`

Planes = dict[int, Gray]


@dataclass(frozen=True)
class Pictures:
    """Where an incubator's pictures lie; `planes`: how many pages a file of all planes has, None where a file is one.
    `um_per_px`: the width of a pixel, None where it is not known."""

    root: Path
    planes: int | None = None
    um_per_px: float | None = None


class Day5Work:
    """What of day 5 is due on this node, for the one thread that works. Times are monotonic seconds.

    `told` hears every result that was recorded and is not withheld (`monitor.blind`). `patience_s` None: a picture is
    waited for as long as it takes.
    """

    def __init__(
        self,
        judge: Day5Judge,
        journal: Journal,
        overlays: StateFiles,
        pictures: Mapping[str, Pictures],
        voice: Voice,
        clock: Clock,
        told: Callable[[Event], None] = lambda event: None,
        wake: Callable[[], None] = lambda: None,
        patience_s: float | None = PATIENCE_S,
    ) -> None:
        self._judge, self._journal, self._overlays, self._pictures = judge, journal, overlays, pictures
        self._voice, self._clock, self._told = voice, clock, told
        self.wake, self.patience_s = wake, patience_s
        self._reading: dict[str, tuple[Due, Errand[Planes | FrameError]]] = {}  # incubator -> what is under way
        self._rests_until_s: dict[str, float] = {}  # embryo

    def turn(self, frames_waiting: int, away: Set[str] = frozenset()) -> bool:
        """Read one embryo's pictures, or do its work with them; whether there may be more. Between the two the loop
        sees whether a frame has come. `away`: incubators whose folder is away.

        Raises StorageError; then nothing has happened.
        """
        if frames_waiting > 0:
            return False
        chosen = self._next(away)
        if chosen is None:
            return False
        one, work = chosen
        if work is Work.SAY_NONE:
            self._record(one, self._journal.day5.reading(one), say_none(one.progress.furthest))
            return True
        name = one.place.incubator
        under_way = self._reading.get(name)
        if under_way is None or under_way[0].reading != one.reading:  # or a newer frame has come meanwhile
            self._reading[name] = one, (errand := self._errand(one))
            return errand.wait(1e9 if self.patience_s is None else self.patience_s)
        del self._reading[name]
        planes = _brought(under_way[1])
        if isinstance(planes, FrameError):
            self._rest(one, planes)
        else:
            self._finish(one, planes)
        return True

    def catch_up(self) -> None:
        """Do all that is due now, in order, and wait for every picture. Raises StorageError."""
        self.patience_s = None
        while self.turn(0):
            continue

    def _next(self, away: Set[str]) -> tuple[Due, Work] | None:
        now = self._clock.monotonic()
        waiting = {one.progress.embryo_id: one for one in self._journal.day5.waiting()}
        held = {name for name, (_, errand) in self._reading.items() if not errand.back}
        free = [
            one.progress
            for one in waiting.values()
            if one.place.incubator not in away | held and self._rests_until_s.get(one.progress.embryo_id, now) <= now
        ]
        # what has been read comes first: its pictures are held
        read = {one.progress.embryo_id for one, errand in self._reading.values() if errand.back}
        chosen = next_due([one for one in free if one.embryo_id in read], 0) or next_due(free, 0)
        return None if chosen is None else (waiting[chosen[0].embryo_id], chosen[1])

    # -- pictures ------------------------------------------------------------------------------------------------------

    def _errand(self, one: Due) -> Errand[Planes | FrameError]:
        sources = self._journal.files.judged_from(one.place, one.progress.embryo_id, one.frame_key)
        pictures = self._pictures[one.place.incubator]
        return Errand(f"day5-{one.place.incubator}", lambda: read_again(pictures, sources), self.wake)

    def _rest(self, one: Due, fault: Exception) -> None:
        embryo_id = one.progress.embryo_id
        self._rests_until_s[embryo_id] = self._clock.monotonic() + AGAIN_S
        facts = {"embryo_id": embryo_id, "frame": one.frame_key, "fault": str(fault)}
        log.warning("the work of day 5 on a frame is put off", extra=facts)

    # -- the result ----------------------------------------------------------------------------------------------------

    def _finish(self, one: Due, planes: Planes) -> None:
        reading = self._journal.day5.reading(one)
        hpi = "" if reading.frame.hpi is None else f"   {reading.frame.hpi:.1f} hpi"
        judged = self._judge.judge(
            planes,
            one.progress.furthest,
            still=one.frame_key == "only",
            um_per_px=self._pictures[one.place.incubator].um_per_px,
            title=f"{one.place}   {one.frame_key}{hpi}",
        )
        self._record(one, reading, judged)

    def _record(self, one: Due, reading: Reading, judged: Judged5) -> None:
        """The picture on the disk, then event, outbox and what is done in one transaction. Raises StorageError."""
        try:
            overlay = None if judged.picture is None else self._overlays.put(png(judged.picture))
            event, freed = self._journal.record_day5(self._worked(one, reading, judged, overlay), self._clock.now())
        except StorageError as fault:
            self._rest(one, fault)
            raise
        self._overlays.drop(freed)
        self._rests_until_s.pop(one.progress.embryo_id, None)
        facts = {"embryo_id": one.progress.embryo_id, "frame": one.frame_key, "seq": event.seq, "id": event.id}
        if self._journal.blind.hides(one.progress.embryo_id):  # who reads the log assesses, too
            log.info("day 5", extra=facts)
            return
        log.info("day 5", extra=facts | {"result": judged.reading.text(), "outcome": judged.outcome})
        self._told(event)

    def _worked(self, one: Due, reading: Reading, judged: Judged5, overlay: str | None) -> Worked:
        progress, before = one.progress, self._journal.day5.last(one.progress.embryo_id)
        revision = 1 if before is None else before.revision + 1
        name = event_id(self._voice.site, self._voice.node, progress.embryo_id, "grade", one.frame_key, revision)
        measured = told_measured(judged.reading.measured)
        area, unit = (None, None) if measured is None else (measured.body_area, measured.unit)
        told = Day5(
            id=name,
            revision=revision,
            frame=Day5Frame(
                reading=one.reading,
                captured_at=reading.frame.captured_at,
                run=reading.frame.run,
                hpi=reading.frame.hpi,
            ),
            outcome=judged.outcome,
            reason=judged.reading.reason,
            stage=progress.furthest,
            grade=told_grade(judged.reading),
            agreement=told_agreement(judged.reading),
            criteria=told_criteria(judged.reading),
            measured=measured,
            course=None if unit is None else self._course(one, unit, area),
            flags=judged.flags,
            crop_confidence=None if judged.crop_confidence is None else round(judged.crop_confidence, DIGITS),
            plane_um=judged.plane_um,
            overlay=overlay,
            engines={} if judged.picture is None else self._judge.models.digests,
        )
        event = Event(
            id=name,
            occurred_at=reading.occurred_at,
            revision=revision,
            supersedes=None if before is None else before.id,
            embryo=reading.embryo,
            day5=told,
        )
        return Worked(event, progress.newest_order or 0.0, progress.newest_h, area, unit)

    def _course(self, one: Due, unit: str, area: float | None) -> Day5Course | None:
        """None before a second moment."""
        sizes = self._journal.day5.sizes(one.progress.embryo_id, unit)
        if one.progress.newest_h is not None and area is not None:
            sizes.append(Sized(one.progress.newest_h, area))
        if len(sizes) < 2:
            return None
        course = course_of(sizes)
        collapses = tuple(
            Day5Collapse(
                began_h=c.began_h, lowest_h=c.lowest_h, depth=round(c.depth, DIGITS), recovered_h=c.recovered_h
            )
            for c in course.collapses
        )
        rate = None if course.rate_per_h is None else round(course.rate_per_h, DIGITS)
        return Day5Course(rate_per_h=rate, collapses=collapses)


def _brought(errand: Errand[Planes | FrameError]) -> Planes | FrameError:
    """What an errand that is back brought: the frame's planes by um, or why they cannot be had now."""
    try:
        return errand.result()
    except OSError as fault:
        return FrameError("unreadable", str(fault))


def read_again(pictures: Pictures, sources: list[Source]) -> Planes | FrameError:
    """The planes of a frame by um, or why not all of them are as they were when it was told."""
    opened: dict[str, tuple[list[Gray | FrameError], str]] = {}
    planes: Planes = {}
    try:
        for source in sources:
            if source.path not in opened:
                opened[source.path] = _open(pictures, pictures.root / source.path)
            pages, digest = opened[source.path]
            if digest != source.sha256:
                return FrameError("unreadable", f"{source.path}: it is not the picture that was judged")
            gray = pages[source.page]
            if isinstance(gray, FrameError):
                return gray
            planes[source.plane_um] = gray
    except FrameError as fault:
        return fault
    return planes or FrameError("vanished", "the journal names no picture of the frame")


def _open(pictures: Pictures, path: Path) -> tuple[list[Gray | FrameError], str]:
    if pictures.planes is None:
        gray, digest = read_plane(path)
        return [gray], digest
    pages, digest = read_pages(path, pictures.planes)
    return list(pages), digest


def png(picture: Picture) -> bytes:
    """The picture's bytes; equal pictures give equal bytes."""
    done, data = cv2.imencode(".png", picture)
    if not done:
        raise StorageError("the picture of day 5 cannot be written as PNG")
    return data.tobytes()

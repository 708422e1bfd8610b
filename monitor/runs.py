"""Which embryo a frame belongs to, and what is to become of the frame: pure rules of identity, order and revision.

An embryo is incubator + dish + well + run start. A new run begins on a changed insemination entry for the well, past
200 hours, or after a gap of over 24 hours (then it is flagged, for somebody to confirm). Where file names hold the
maker's name of the slide, that tells embryos apart and no clock does: a file's time is moved by whoever copies it.
It knows no engine, no file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum

from monitor.timezero import Age
from monitor.vocabulary import FocalStack, Moment, Observation, Place, Reading, elapsed_h

RUN_ENDS_H = 200.0
GAP_ENDS_RUN_H = 24.0
GAP_IN_CADENCES = 2.5


@dataclass(frozen=True)
class Run:
    """One embryo's stay in one well. `stepped_order` is the order of the last frame the engines judged, `stepped_h` its
    hours since the first frame.

    `insemination` is the entry the run counts from; `spent` says that the entry belonged to the run before, so that
    this run's hours are unknown until another entry comes.
    """

    embryo_id: str
    place: Place
    first: Moment
    latest: Moment
    stepped_order: float | None = None
    stepped_h: float | None = None
    insemination: datetime | None = None
    spent: bool = False
    unconfirmed: bool = False
    ended: str | None = None  # why, once it has
    stated: datetime | None = None  # when it was inseminated, as somebody said by command: holds before any entry

    @property
    def counts_from(self) -> datetime | None:
        if self.stated is not None:
            return self.stated
        return None if self.spent else self.insemination


class Fate(str, Enum):
    """What is to be done with a frame."""

    STEP = "step"
    KEEP_ONLY = "keep_only"  # journalled and told, no engine
    REVISE = "revise"
    NOTHING_NEW = "nothing_new"


@dataclass(frozen=True, eq=False)
class Visit:
    """A frame, the run it belongs to (`ended`: the run it closes, and why), and its fate."""

    observation: Observation
    run: Run
    ended: tuple[Run, str] | None
    prior: Reading | None
    fate: Fate
    out_of_order: bool
    age: Age
    elapsed_h: float | None  # since the run's first frame
    flags: tuple[str, ...]

    @property
    def stack(self) -> FocalStack:
        return self.observation.stack


def elapsed_since_first_h(moment: Moment, first: Moment) -> float | None:
    """Hours since the run's first frame; None where neither clock nor time file tells (never number x constant)."""
    if moment.captured_at is not None and first.captured_at is not None:
        return elapsed_h(moment.captured_at, first.captured_at)
    if moment.hours is not None and first.hours is not None:
        return moment.hours - first.hours
    if moment.file_at is not None and first.file_at is not None:
        hours = elapsed_h(moment.file_at, first.file_at)
        return hours if abs(hours) <= RUN_ENDS_H else None  # no embryo lies so long: one of the files was touched
    return None


def why_new_run(run: Run, moment: Moment, age: Age, entry: datetime | None) -> str | None:
    """The reason this frame cannot belong to the open run, or None."""
    if entry is not None and run.insemination is not None and entry != run.insemination:
        return "insemination_changed"
    if moment.slide != run.first.slide:
        return "slide_changed"
    if moment.slide is not None:
        return None
    since_latest = elapsed_since_first_h(moment, run.latest)
    if since_latest is not None and since_latest > GAP_ENDS_RUN_H:
        return "gap"
    elapsed = elapsed_since_first_h(moment, run.first)
    began_past_it = run.first.hours is not None and run.first.hours > RUN_ENDS_H  # else each frame would be a run
    has_hour = age.source in ("file", "config") or run.stated is not None
    hours = age.hpi if has_hour and not began_past_it else elapsed
    if hours is not None and hours > RUN_ENDS_H and moment.order > run.latest.order:
        return "past_200_h"
    return None


def owner_of(
    runs: Sequence[Run],
    moment: Moment,
    age_in: Callable[[Run], Age],
    entry: datetime | None,
    ended_at: Callable[[Run], datetime | None] = lambda run: None,
) -> tuple[Run | None, tuple[Run, str] | None]:
    """The run in a well (oldest first) that a frame nobody has told of belongs to, or the open run that it ends.

    A frame of a slide goes to that slide's run, also if it has ended.

    A frame from before the open run may be a late word of the one before, but only within what that run spans;
    otherwise it belongs to the open run, however oddly it is dated: a frame never goes to a former patient's embryo
    because a clock was wrong.

    `ended_at`: when somebody ended a run, by the clock that dates the frames. With no open run a frame from before that
    is a late word of the run that was ended, and begins none.
    """
    of_slide = [run for run in runs if moment.slide is not None and run.first.slide == moment.slide]
    if of_slide and of_slide[-1].ended is not None:
        return of_slide[-1], None
    still_open = [run for run in runs if run.ended is None]
    if not still_open:
        return (runs[-1] if runs and _is_late_word(moment, runs[-1], ended_at) else None), None
    run = still_open[-1]
    if moment.captured_at is not None and moment.order < run.first.order:
        before = [other for other in runs if other.ended is not None and other.first.order <= moment.order]
        if before and moment.order <= before[-1].latest.order:
            return before[-1], None
        return run, None
    reason = why_new_run(run, moment, age_in(run), entry)
    return (run, None) if reason is None else (None, (run, reason))


def _is_late_word(moment: Moment, run: Run, ended_at: Callable[[Run], datetime | None]) -> bool:
    """Whether a frame was taken before somebody ended this run, and came after.

    Only a clock tells: numbers begin anew with the next embryo. A frame over 24 hours away from all that the run spans
    is none of it, as while it was open.
    """
    if run.ended != "command" or moment.captured_at is None or moment.slide != run.first.slide:
        return False
    first, latest = run.first.captured_at, run.latest.captured_at
    near = timedelta(hours=GAP_ENDS_RUN_H)
    if first is None or latest is None or not first - near <= moment.captured_at <= latest + near:
        return False
    if moment.order <= run.latest.order:
        return True
    ended = ended_at(run)
    return ended is not None and moment.captured_at < ended


def begin_run(
    place: Place,
    moment: Moment,
    entry: datetime | None,
    after: str | None,
    before: Run | None,
    earlier_starts: int = 0,
) -> Run:
    """The run that starts with this frame; `earlier_starts`: runs in this well that began with a frame of this name.

    Frame numbers begin anew with each embryo, so the second embryo that starts at run1 is `run1.2`.
    """
    same_entry = entry is not None and before is not None and before.insemination == entry
    spent = same_entry and after is not None and after != "insemination_changed"
    if entry is not None and moment.at is not None:  # an entry nobody took out of the list
        spent = spent or elapsed_h(moment.at, entry) > RUN_ENDS_H
    return Run(
        embryo_id=f"{place}/{moment.key}" + (f".{earlier_starts + 1}" if earlier_starts else ""),
        place=place,
        first=moment,
        latest=moment,
        insemination=entry,
        spent=spent,
        unconfirmed=after == "gap",
    )


def is_of_the_past(moment: Moment, run: Run) -> bool:
    """Whether a frame is of a slide from before the one that lies in the well: it is told, and ends nothing."""
    return moment.slide is not None and run.first.slide is not None and moment.slide < run.first.slide


def moment_flags(run: Run, moment: Moment, age: Age, cadence_min: float | None) -> set[str]:
    """What is odd about its time: `after_gap`, `clock_unknown`, `clock_from_file`, `before_insemination`,
    `run_unconfirmed`."""
    flags = set()
    if moment.captured_at is None and moment.file_at is not None:
        flags.add("clock_from_file")
    if run.unconfirmed:
        flags.add("run_unconfirmed")
    if age.hpi is not None and age.hpi < 0:
        flags.add("before_insemination")
    if elapsed_since_first_h(moment, run.first) is None and moment.key != run.first.key:
        flags.add("clock_unknown")
    since = elapsed_since_first_h(moment, run.latest)
    late = cadence_min is not None and since is not None and since * 60 > GAP_IN_CADENCES * cadence_min
    skipped = moment.run is not None and run.latest.run is not None and moment.run > run.latest.run + 1
    if late or skipped:
        flags.add("after_gap")
    return flags


def fate_of(observation: Observation, run: Run, prior: Reading | None, changed: bool) -> tuple[Fate, bool]:
    """What to do with a frame, and whether it came out of order.

    A frame already judged is only revised: no engine is stepped again. One older than the last frame judged, or of a
    run that has ended, is told, not stepped.
    """
    if prior is not None and not changed:
        return Fate.NOTHING_NEW, False
    if prior is not None and prior.blastocyst is not None:
        return Fate.REVISE, False
    late = run.stepped_order is not None and observation.stack.moment.order < run.stepped_order
    if late or run.ended is not None:
        return Fate.KEEP_ONLY, True
    return (Fate.STEP if observation.fit else Fate.KEEP_ONLY), False


def after_visit(visit: Visit, judged: bool) -> Run:
    """The run as this frame leaves it."""
    moment, run = visit.stack.moment, visit.run
    latest = moment if moment.order > run.latest.order else run.latest
    if not judged:
        return replace(run, latest=latest)
    stepped_h = run.stepped_h if visit.elapsed_h is None else visit.elapsed_h
    return replace(run, latest=latest, stepped_order=moment.order, stepped_h=stepped_h)

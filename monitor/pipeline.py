"""The way of a frame, in one place: observe -> step(state) -> read -> decide -> journal + outbox (one transaction).

It composes the stages and holds no I/O of its own; what it is given does. A frame is either told and remembered, or it
has not happened and may be offered again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime

from engines.manifest import Preprocess
from engines.segments import SegmentMemory, SegmentPolicy
from monitor.alarms import Alarms, Batch
from monitor.assemble import Assembled
from monitor.errors import EngineError
from monitor.file_table import FileRecord
from monitor.fitting import Fitting
from monitor.journal import Entry, Journal, Recorded
from monitor.memory import Memory
from monitor.read import Judgement, Speaker, make_reading
from monitor.runs import Fate, Run, Visit, after_visit
from monitor.stages import Staged, Stages
from monitor.vocabulary import FocalStack, Observation

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Judged:
    """What the engines made of one frame: the judgement, the memory to keep (None: as it was), what qualifies it, and
    what the stage model is to keep (None: there is none); how large the embryo is in its well."""

    judgement: Judgement
    memory: SegmentMemory | None
    flags: frozenset[str] = frozenset()
    staged: Staged | None = None
    embryo_ratio: float | None = None


class Pipeline:
    """One node's way from stacks to readings. `count_failure` is told why a step gave nothing. `stages`: the stage
    model, where one serves; whatever becomes of its step, the blastocyst model's answer stands. `drop_overlays` is
    told the day-5 pictures that nothing names any more."""

    def __init__(
        self,
        policy: SegmentPolicy,
        preprocess: Preprocess,
        model: str,
        observe: Callable[[FocalStack], Observation],
        memory: Memory,
        journal: Journal,
        speaker: Speaker,
        alarms: Alarms,
        now: Callable[[], datetime],
        count_failure: Callable[[str], None] = lambda reason: None,
        time_step: Callable[[], AbstractContextManager[object]] = nullcontext,
        stages: Stages | None = None,
        drop_overlays: Callable[[set[str]], None] = lambda digests: None,
    ) -> None:
        self._policy, self._preprocess, self._model = policy, preprocess, model
        self._observe, self._memory, self._journal = observe, memory, journal
        self._speaker, self._alarms, self._now = speaker, alarms, now
        self._count_failure, self._time_step, self._stages = count_failure, time_step, stages
        self._drop_overlays = drop_overlays

    def advance(self, frames: Sequence[Assembled]) -> Recorded:
        """Take one frame of each of several embryos the whole way; the readings and alerts as they were recorded.

        Raises StorageError when they could not be recorded: then nothing has happened and the frames may come again.
        """
        visits = [self._memory.visit(self._observe(frame.stack)) for frame in frames]
        due = [index for index, visit in enumerate(visits) if visit.fate is Fate.STEP]
        judged = dict(zip(due, self._judge_all([Fitting(visits[index]) for index in due]), strict=True))
        batch = self._alarms.batch()
        entries = [self._entry(frame, visits[i], judged.get(i), batch) for i, frame in enumerate(frames)]
        now = self._now()
        told = [entry.reading for entry in entries if entry.reading is not None]
        recorded = self._journal.commit(entries, now, batch.engine(self._model, told, now))
        for index, visit in enumerate(visits):
            self._remember(visit, judged.get(index))
        self._memory.drop_files(recorded.freed)
        self._drop_overlays(recorded.freed_overlays)
        return recorded

    def forget(self, run: Run, recorded: Recorded) -> None:
        """A run has ended without a frame that ended it: free what is held of its embryo."""
        self._memory.forget(run.embryo_id)
        if self._stages is not None:
            self._stages.forget(run.embryo_id)
        self._memory.drop_files(recorded.freed)
        self._drop_overlays(recorded.freed_overlays)

    def _judge_all(self, fittings: Sequence[Fitting]) -> list[Judged]:
        """Every model's word about each frame."""
        judged = self._judge(fittings)
        if self._stages is None:
            return judged
        return [
            replace(
                one,
                judgement=replace(one.judgement, stage=staged.answer, classes=self._stages.classes),
                flags=one.flags | staged.flags,
                staged=staged,
            )
            for one, staged in zip(judged, self._stages.judge(fittings), strict=True)
        ]

    def _judge(self, fittings: Sequence[Fitting]) -> list[Judged]:
        """One answer for each; when a batch fails, each row is tried alone, so that one bad frame spoils no other."""
        if not fittings:
            return []
        try:
            return self._step(fittings)
        except EngineError as fault:
            if len(fittings) > 1:
                return [judged for fitting in fittings for judged in self._judge([fitting])]
            observation = fittings[0].visit.observation
            log.error("a frame is lost to the engine", extra=_frame(observation) | {"fault": str(fault)})
            self._count_failure("engine")
            return [Judged(Judgement(None, str(fault)), None)]

    def _step(self, fittings: Sequence[Fitting]) -> list[Judged]:
        visits = [fitting.visit for fitting in fittings]
        memories = [self._memory.recall(visit.run.embryo_id) for visit in visits]
        stacks = [fitting.stack(self._preprocess) for fitting in fittings]
        hpi = [visit.age.told for visit in visits]
        with self._time_step():
            after, answers = self._policy.advance(memories, stacks, [visit.elapsed_h for visit in visits], hpi)
        for answer in answers:
            if answer.failed:
                self._count_failure("not_finite")
        return [
            Judged(
                Judgement(answer),
                None if new is old else new,
                fitting.flags(self._preprocess),
                embryo_ratio=fitting.embryo_ratio(self._preprocess),
            )
            for old, new, answer, fitting in zip(memories, after, answers, fittings, strict=True)
        ]

    def _entry(self, frame: Assembled, visit: Visit, judged: Judged | None, batch: Batch) -> Entry:
        judgement = None if judged is None else judged.judgement
        stepped = judged is not None and (_answered(judged.judgement) or _remembers(judged.staged))
        reading = None
        if visit.fate is not Fate.NOTHING_NEW:
            lost = self._memory.lost_flag(visit.run.embryo_id) if judged is not None else None
            extra = (judged.flags if judged else frozenset()) | ({lost} if lost else set())
            day5 = self._journal.day5.of(visit.run.embryo_id)
            reading = make_reading(_sized(visit, judged), judgement, self._speaker, extra_flags=extra, day5=day5)
        changed = None if judged is None else judged.memory
        states = {} if changed is None else {self._model: self._memory.save(changed)}
        staged = None if judged is None else judged.staged
        if staged is not None and self._stages is not None:
            states |= self._stages.saved(staged)
        return Entry(
            run=after_visit(visit, stepped),
            ended=visit.ended,
            reading=reading,
            moment=visit.stack.moment,
            files=_records(frame, visit.run.embryo_id),
            states=states,
            complete_at=frame.stack.complete_at,
            verdicts=batch.after(visit, reading),
            features=() if staged is None else staged.features,
            elapsed_h=visit.elapsed_h,
        )

    def _remember(self, visit: Visit, judged: Judged | None) -> None:
        if visit.ended is not None:
            self._memory.forget(visit.ended[0].embryo_id)
        if judged is not None:
            self._memory.keep(visit.run.embryo_id, judged.memory)
        if self._stages is not None and visit.ended is not None:
            self._stages.forget(visit.ended[0].embryo_id)
        if self._stages is not None and judged is not None and judged.staged is not None:
            self._stages.keep(visit.run.embryo_id, judged.staged)


def _sized(visit: Visit, judged: Judged | None) -> Visit:
    """The visit with the embryo's size among what was measured, where it was looked for."""
    measured = visit.observation.measured
    if judged is None or judged.embryo_ratio is None or measured is None:
        return visit
    measured = measured.model_copy(update={"embryo_ratio": judged.embryo_ratio})
    return replace(visit, observation=replace(visit.observation, measured=measured))


def _records(frame: Assembled, embryo_id: str) -> tuple[FileRecord, ...]:
    taken = [FileRecord.of(image.source, embryo_id, sha256=image.digest) for image in frame.stack.images]
    aside = [FileRecord.of(plane, embryo_id, reason=fault.reason) for plane, fault in frame.quarantined]
    return (*taken, *aside)


def _answered(judgement: Judgement) -> bool:
    return judgement.answer is not None and not judgement.answer.failed


def _remembers(staged: Staged | None) -> bool:
    return staged is not None and staged.memory is not None


def _frame(observation: Observation) -> dict[str, str]:
    return {"embryo": str(observation.stack.place), "frame": observation.stack.moment.key}

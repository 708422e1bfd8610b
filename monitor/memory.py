"""What is remembered of each embryo between frames: its run and the model's memory; never reset in silence.

It asks the journal and the state files; it decides with the rules of `monitor.runs`. It knows no broker and no folder.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from engines.segments import SegmentMemory, SegmentPolicy
from monitor.errors import EngineError, StateMismatchError, StorageError
from monitor.journal import Journal
from monitor.runs import Run, Visit, begin_run, elapsed_since_first_h, fate_of, is_of_the_past, moment_flags, owner_of
from monitor.states import StateFiles
from monitor.timezero import Age, TimeZero
from monitor.vocabulary import Moment, Observation, Reading

log = logging.getLogger(__name__)

HELD = 512  # embryos whose memory stays at hand; 240 lie in three full incubators


@dataclass(frozen=True)
class IncubatorFacts:
    """What the rules need to know of an incubator."""

    time_zero: TimeZero
    cadence_min: float | None = None


class Memory:
    """Runs and model memories. `count_restore` hears "restored", "lost" or "other_model" at every recall from disk."""

    def __init__(
        self,
        journal: Journal,
        states: StateFiles,
        policy: SegmentPolicy,
        model: str,
        incubators: dict[str, IncubatorFacts],
        count_restore: Callable[[str], None] = lambda outcome: None,
    ) -> None:
        self._journal, self._states, self._policy = journal, states, policy
        self._model, self._incubators = model, incubators
        self._count_restore = count_restore
        self._held: OrderedDict[str, SegmentMemory] = OrderedDict()
        self._lost: dict[str, str] = {}

    def visit(self, observation: Observation) -> Visit:
        """Which run a frame belongs to, whether it is new, late or out of order, and so what is to be done with it."""
        stack = observation.stack
        facts = self._incubators[stack.place.incubator]
        entry = facts.time_zero.of(stack.place)
        runs = self._journal.runs(stack.place)
        run, prior, ended = self._run_of(runs, stack.moment, facts.time_zero, entry)
        if prior is not None and stack.moment.file_at is not None:  # what was told stays, whoever touched the files
            stack = replace(stack, moment=replace(stack.moment, file_at=prior.frame.captured_at))
            observation = replace(observation, stack=stack)
        is_new = run is None
        if run is None:
            starts = sum(other.first.key == stack.moment.key for other in runs)
            before = ended or _ended_by_command(runs)
            run = begin_run(stack.place, stack.moment, entry, before and before[1], before and before[0], starts)
            if ended is not None and is_of_the_past(stack.moment, ended[0]):
                run, ended = replace(run, ended="slide_before"), None
        elif run.insemination is None and run.ended is None and entry is not None:
            run = replace(run, insemination=entry)
        age = facts.time_zero.age(stack.moment, run.counts_from, run.stated is not None)
        known = {} if prior is None else self._known_digests(observation, run)
        now = {image.source.plane_um: image.digest for image in stack.images}
        changed = any(known.get(plane_um) != digest for plane_um, digest in now.items())
        fate, out_of_order = fate_of(observation, run, prior, changed)
        flags = moment_flags(run, stack.moment, age, facts.cadence_min)
        judged_before = prior is not None and prior.blastocyst is not None
        if judged_before and any(known.get(plane_um, digest) != digest for plane_um, digest in now.items()):
            flags.add("source_changed")
        elapsed = elapsed_since_first_h(stack.moment, run.first)
        if elapsed is None and is_new:
            elapsed = 0.0
        if elapsed is not None:  # the first frame may have been a lack, and one from before it come later;
            elapsed = max(0.0, run.stepped_h or 0.0, elapsed)  # and files that were copied may be dated back
        return Visit(observation, run, ended, prior, fate, out_of_order, age, elapsed, tuple(sorted(flags)))

    def _run_of(
        self, runs: Sequence[Run], moment: Moment, time_zero: TimeZero, entry: datetime | None
    ) -> tuple[Run | None, Reading | None, tuple[Run, str] | None]:
        for run in reversed(runs):
            # a frame number begins anew with each embryo: only a clock time, or a slide, names a frame for good
            same_embryo = run.ended is None and (entry is None or run.insemination in (None, entry))
            lasting = moment.captured_at is not None or moment.slide is not None
            if run.first.slide == moment.slide and (same_embryo or lasting):
                prior = self._journal.latest_reading(run.embryo_id, moment.key)
                if prior is not None:
                    return run, prior, None

        def age_in(run: Run) -> Age:
            return time_zero.age(moment, run.counts_from, run.stated is not None)

        def ended_at(run: Run) -> datetime | None:
            ended = self._journal.ended_at(run.embryo_id)
            return None if ended is None else time_zero.as_dated(ended)

        owner, ended = owner_of(runs, moment, age_in, entry, ended_at)
        return owner, None, ended

    def _known_digests(self, observation: Observation, run: Run) -> dict[int, str]:
        """plane in um -> digest of the picture the frame was judged from."""
        stack = observation.stack
        files = self._journal.files.of_frame(stack.place, stack.moment, run.insemination)
        return {file.plane_um: digest for file, digest in files.items()}

    def recall(self, embryo_id: str) -> SegmentMemory:
        """The model's memory of an embryo: held, restored from disk, or the zero start."""
        if embryo_id not in self._held:
            self._held[embryo_id] = self._restore(embryo_id)
        self._held.move_to_end(embryo_id)
        while len(self._held) > HELD:  # what leaves is on the disk, and comes back bit for bit
            self._held.popitem(last=False)
        return self._held[embryo_id]

    def _restore(self, embryo_id: str) -> SegmentMemory:
        digest = self._journal.state_digest(embryo_id, self._model)
        if digest is None:
            return self._policy.start()
        try:
            memory = self._policy.restore(self._states.get(digest))
        except StateMismatchError as fault:
            self._lose(embryo_id, "memory_of_other_model", "other_model", fault)
        except (StorageError, EngineError) as fault:
            self._lose(embryo_id, "memory_lost", "lost", fault)
        else:
            self._count_restore("restored")
            return memory
        return self._policy.start()

    def _lose(self, embryo_id: str, flag: str, outcome: str, fault: Exception) -> None:
        self._lost[embryo_id] = flag
        self._count_restore(outcome)
        log.error("an embryo's memory starts from zero", extra={"embryo_id": embryo_id, "fault": str(fault)})

    def lost_flag(self, embryo_id: str) -> str | None:
        """Why the memory had to start from zero, to be said in the next reading."""
        return self._lost.get(embryo_id)

    def save(self, memory: SegmentMemory) -> str:
        """The memory's bytes on disk; their digest."""
        return self._states.put(self._policy.save(memory))

    def keep(self, embryo_id: str, memory: SegmentMemory | None) -> None:
        """The frame is committed: from now on this is what is remembered (None: what was)."""
        if memory is not None:
            self._held[embryo_id] = memory
        self._lost.pop(embryo_id, None)

    def forget(self, embryo_id: str) -> None:
        """The run has ended: free what is held."""
        self._held.pop(embryo_id, None)

    def drop_files(self, digests: set[str]) -> None:
        self._states.drop(digests)


def _ended_by_command(runs: Sequence[Run]) -> tuple[Run, str] | None:
    """The run before, where somebody has ended it: its insemination entry is not the next embryo's."""
    return (runs[-1], "command") if runs and runs[-1].ended == "command" else None

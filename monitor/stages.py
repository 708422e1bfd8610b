"""The stage model on its way of a frame: its memories, held, made again after a restart, and what is to be journalled.

Each frame's vector and hours go into the journal with its reading; every 36 frames the whole memory goes to the disk
beside it. After a restart the memory is the last of these and the steps taken since, taken again from the journal: bit
for bit the same on a CPU. A snapshot that is lost costs nothing but time, for the journal keeps every frame of a run.
It asks the journal and the state files; it knows no broker and no folder.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from engines.stages import StageAnswer, StageFrame, StageMemory, StagePolicy
from monitor.errors import EngineError, StateMismatchError, StorageError
from monitor.feature_table import FeatureRow
from monitor.fitting import Fitting
from monitor.journal import Journal
from monitor.states import StateFiles

log = logging.getLogger(__name__)

SNAPSHOT_EVERY = 36  # frames: six hours of one every ten minutes
HELD = 512  # embryos whose memory stays at hand


@dataclass(frozen=True, eq=False)
class Staged:
    """What the stage model made of a frame: its answer (None: the engine failed), the memory to keep (None: as it was),
    and what goes into the journal."""

    answer: StageAnswer | None
    memory: StageMemory | None = None
    features: tuple[FeatureRow, ...] = ()
    flags: frozenset[str] = frozenset()


class Stages:
    """The stage model of a node. `count_restore` hears "restored", "lost" or "other_model" at every recall from disk,
    `count_failure` why a step gave nothing."""

    def __init__(
        self,
        policy: StagePolicy,
        model: str,
        journal: Journal,
        states: StateFiles,
        count_restore: Callable[[str], None] = lambda outcome: None,
        count_failure: Callable[[str], None] = lambda reason: None,
        time_step: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self._policy, self.model = policy, model
        self._journal, self._states = journal, states
        self._count_restore, self._count_failure, self._time_step = count_restore, count_failure, time_step
        self._held: OrderedDict[str, StageMemory] = OrderedDict()
        self._lost: dict[str, str] = {}

    @property
    def classes(self) -> tuple[str, ...]:
        return self._policy.classes

    def judge(self, fittings: Sequence[Fitting]) -> list[Staged]:
        """One answer for each; when a batch fails, each row is tried alone, so that one bad frame spoils no other."""
        if not fittings:
            return []
        try:
            return self._step(fittings)
        except EngineError as fault:
            if len(fittings) > 1:
                return [staged for fitting in fittings for staged in self.judge([fitting])]
            embryo_id = fittings[0].visit.run.embryo_id
            log.error("a frame is lost to the stage model", extra={"embryo_id": embryo_id, "fault": str(fault)})
            self._count_failure("engine")
            return [Staged(None, flags=frozenset({"stage_failed"}))]

    def _step(self, fittings: Sequence[Fitting]) -> list[Staged]:
        how, ids = self._policy.preprocess, [fitting.visit.run.embryo_id for fitting in fittings]
        memories = [self._recall(embryo_id) for embryo_id in ids]
        stacks, present = [fitting.stack(how) for fitting in fittings], [tuple(one.grays) for one in fittings]
        with self._time_step():
            vectors = self._policy.encode(stacks, present)
            frames = [
                None if vector is None else StageFrame(vector, one.visit.age.told, one.visit.elapsed_h)
                for vector, one in zip(vectors, fittings, strict=True)
            ]
            after, answers = self._policy.take(memories, frames)
        return [self._staged(*row) for row in zip(fittings, memories, after, answers, strict=True)]

    def _staged(self, fitting: Fitting, old: StageMemory, new: StageMemory, answer: StageAnswer) -> Staged:
        embryo_id, flags = fitting.visit.run.embryo_id, set(fitting.flags(self._policy.preprocess))
        if embryo_id in self._lost:
            flags.add(self._lost[embryo_id])
        if answer.frame is None:
            self._count_failure("not_finite")
            return Staged(answer, flags=frozenset({*flags, "stage_failed"}))
        row = FeatureRow(self.model, self._policy.state_id, old.frames, answer.frame)
        return Staged(answer, new, (row,), frozenset(flags))

    def saved(self, staged: Staged) -> dict[str, str]:
        """model -> digest of the memory, where a snapshot is due; then it is on the disk. Raises StorageError."""
        if staged.memory is None or staged.memory.frames % SNAPSHOT_EVERY:
            return {}
        return {self.model: self._states.put(self._policy.save(staged.memory))}

    def keep(self, embryo_id: str, staged: Staged) -> None:
        """The frame is committed: from now on this is what is remembered."""
        if staged.memory is not None:
            self._held[embryo_id] = staged.memory
            self._lost.pop(embryo_id, None)

    def forget(self, embryo_id: str) -> None:
        """The run has ended: free what is held."""
        self._held.pop(embryo_id, None)

    # -- after a restart -----------------------------------------------------------------------------------------------

    def _recall(self, embryo_id: str) -> StageMemory:
        if embryo_id not in self._held:
            self._held[embryo_id] = self._restored(embryo_id)
        self._held.move_to_end(embryo_id)
        while len(self._held) > HELD:  # what leaves can be made again, bit for bit
            self._held.popitem(last=False)
        return self._held[embryo_id]

    def _restored(self, embryo_id: str) -> StageMemory:
        journal, model, state_id = self._journal, self.model, self._policy.state_id
        memory, of_other_model = self._snapshot(embryo_id)
        try:
            frames = journal.features.of(embryo_id, model, state_id, memory.frames)
        except StorageError as fault:
            self._lose(embryo_id, "memory_lost", "lost", fault)
            return self._policy.start()
        if not frames and (of_other_model or journal.features.of_others(embryo_id, model, state_id)):
            self._lose(embryo_id, "memory_of_other_model", "other_model", "other weights have taken its frames so far")
        for frame in frames:
            ((memory,), _) = self._policy.take([memory], [frame])
        if memory.frames:
            self._count_restore("restored")
        return memory

    def _snapshot(self, embryo_id: str) -> tuple[StageMemory, bool]:
        """The last one, or the start; and whether it was another model's."""
        digest = self._journal.state_digest(embryo_id, self.model)
        if digest is None:
            return self._policy.start(), False
        try:
            return self._policy.restore(self._states.get(digest)), False
        except StateMismatchError:
            return self._policy.start(), True
        except (StorageError, EngineError) as fault:
            log.warning(
                "a snapshot is lost: all frames are taken again", extra={"embryo_id": embryo_id, "fault": str(fault)}
            )
            return self._policy.start(), False

    def _lose(self, embryo_id: str, flag: str, outcome: str, fault: object) -> None:
        self._lost[embryo_id] = flag
        self._count_restore(outcome)
        log.error("an embryo's stage memory starts from zero", extra={"embryo_id": embryo_id, "fault": str(fault)})

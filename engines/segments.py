"""When a clip model's cache is committed and when only peeked at: the cadence policy around an engine.

AMSNet learned a stride of 6 hours (28 segments, one frame each: the paper, section 4.1); an incubator gives a frame
every 10 to 15 minutes. Shifting on every frame would change the stride 24 to 36 fold. So time is cut into segments
counted from the embryo's first frame. Every frame of segment s is judged from the cache that segment s-1 left (a peek:
an answer, the cache untouched). The segment's first frame is its representative: its pixels are kept, and when a later
segment opens it is stepped once more and the cache committed. The stream's answer on a representative frame therefore
equals the clip's answer, step for step. Segments without a frame are told, never papered over: the cache simply ages.

It knows hours and pixels; no embryo, no clock, no file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.contract import Array, Arrays, Engine, EngineError, State, StateMismatchError
from engines.manifest import Preprocess, Segments, Stability
from engines.packing import pack, unpack
from engines.preprocess import refilled, to_tensor

Gray = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class SegmentMemory:
    """One embryo's memory of a clip model. Hours are counted from the embryo's first frame.

    `segment` is the one now open (-1 before the first frame) and `seen` how many segments had a frame. `committed_h` is
    the hour of the last representative in the cache, None while the cache is still the zero start. Of the open
    segment's representative: its pixels, its hour, its hour post insemination where known, and how far the answers to
    it spread when planes are taken away (None: not asked).
    """

    state: State
    segment: int = -1
    seen: int = 0
    representative: Gray | None = None  # P H W
    representative_h: float = 0.0
    committed_h: float | None = None
    representative_hpi: float | None = None
    spread: float | None = None


@dataclass(frozen=True)
class SegmentAnswer:
    """What a frame was told, and from how old a memory. `failed`: the numbers were not finite; nothing was kept."""

    outputs: dict[str, Array]  # no batch axis
    state_age_h: float | None
    segments_missed: int
    failed: bool = False
    beyond_training: bool = False  # a later segment than any the model was trained on
    spread: float | None = None  # of the answers to the segment's representative with planes taken away
    too_little: tuple[str, ...] = ()  # why it is not enough data: "few_segments" seen, too "wide_spread"

    @property
    def not_enough_data(self) -> bool:
        return bool(self.too_little)


class SegmentPolicy:
    """Peek, keep a representative, commit: over any number of embryos at once."""

    def __init__(
        self, engine: Engine, segments: Segments, preprocess: Preprocess, stability: Stability | None = None
    ) -> None:
        self._engine, self._stability = engine, stability
        self._asks_hours = any(tensor.name == "hours" for tensor in engine.spec.inputs)
        self._segments = segments
        self._preprocess = preprocess
        self._shape = (len(preprocess.planes_um), preprocess.height_px, preprocess.width_px)

    def start(self) -> SegmentMemory:
        return SegmentMemory(self._engine.initial_state())

    def segment_of(self, elapsed_h: float) -> int:
        if not (math.isfinite(elapsed_h) and elapsed_h >= 0):
            raise EngineError(f"{elapsed_h} are no hours since the first frame")
        # frame names carry whole seconds: half a second keeps "exactly 6 h" out of the reach of float rounding
        return math.floor((elapsed_h + 0.5 / 3600) / self._segments.segment_h)

    def advance(
        self,
        memories: Sequence[SegmentMemory],
        stacks: Sequence[Gray],
        elapsed_h: Sequence[float | None],
        hpi: Sequence[float | None] | None = None,
    ) -> tuple[list[SegmentMemory], list[SegmentAnswer]]:
        """One frame of each embryo: stacks (P, H, W) uint8, hours since each embryo's first frame.

        A frame whose hour is unknown (None) is judged within the segment that is open. `hpi`: hours post insemination
        where known, for a model that asks for them.

        Raises EngineError when a frame lies in a segment before the open one (the caller must not offer frames that
        are older than the last one judged), when a stack is not what the model takes, or when the engine fails; then
        no memory has changed. A memory that comes back as the very same object has not changed either.
        """
        if not memories:
            return [], []
        for stack in stacks:
            self._check(stack)
        now = [
            max(memory.segment, 0) if hours is None else self.segment_of(hours)
            for memory, hours in zip(memories, elapsed_h, strict=True)
        ]
        for memory, segment in zip(memories, now, strict=True):
            if segment < memory.segment:
                raise EngineError(f"a frame of segment {segment} came after segment {memory.segment} had opened")
        ready, hpi = self._commit(list(memories), now), [None] * len(memories) if hpi is None else hpi
        step = self._engine.peek([memory.state for memory in ready], self._inputs(stacks, hpi))
        after: list[SegmentMemory] = []
        answers: list[SegmentAnswer] = []
        for index, (memory, segment, hours) in enumerate(zip(ready, now, elapsed_h, strict=True)):
            failed = index in step.failed
            if segment > memory.segment and not failed:
                memory = replace(
                    memory,
                    segment=segment,
                    seen=memory.seen + 1,
                    representative=_kept(stacks[index]),
                    representative_h=float(hours or 0.0),
                    representative_hpi=hpi[index],
                    spread=self._spread(memory.state, stacks[index], hpi[index]),
                )
            after.append(memories[index] if failed else memory)
            age_h = None if memory.committed_h is None or hours is None else hours - memory.committed_h
            missed = segment + 1 - memory.seen - (1 if failed and segment > memory.segment else 0)
            row = {name: output[index] for name, output in step.outputs.items()}
            beyond = segment >= self._segments.count
            answers.append(SegmentAnswer(row, age_h, missed, failed, beyond, memory.spread, self._too_little(memory)))
        return after, answers

    def _spread(self, state: State, stack: Gray, hpi: float | None) -> float | None:
        """Largest less smallest answer to one frame with planes taken away; None where that leaves the same picture."""
        subsets = () if self._stability is None else self._stability.plane_subsets_um
        fewer = [refilled(stack, self._preprocess.planes_um, subset) for subset in subsets]
        if not fewer or all(np.array_equal(one, stack) for one in fewer):
            return None
        step = self._engine.peek([state] * len(fewer), self._inputs(fewer, [hpi] * len(fewer)))
        said = step.outputs[self._engine.spec.outputs[0].name]
        return None if step.failed else float(said.max() - said.min())

    def _too_little(self, memory: SegmentMemory) -> tuple[str, ...]:
        if self._stability is None:
            return ()
        wide = memory.spread is not None and memory.spread > self._stability.most_spread
        few = memory.seen < self._stability.least_segments
        return (*(("few_segments",) if few else ()), *(("wide_spread",) if wide else ()))

    def _commit(self, memories: list[SegmentMemory], now: Sequence[int]) -> list[SegmentMemory]:
        due = [i for i, memory in enumerate(memories) if memory.representative is not None and now[i] > memory.segment]
        if not due:
            return memories
        stacks = [stack for i in due if (stack := memories[i].representative) is not None]
        step = self._engine.step(
            [memories[i].state for i in due], self._inputs(stacks, [memories[i].representative_hpi for i in due])
        )
        for row, i in enumerate(due):
            if row in step.failed:  # judged well once, not any more (another runtime?): its segment counts as missed
                memories[i] = replace(memories[i], representative=None, seen=memories[i].seen - 1)
                continue
            memories[i] = replace(
                memories[i],
                state=step.states[row],
                representative=None,
                committed_h=memories[i].representative_h,
            )
        return memories

    def _inputs(self, stacks: Sequence[Gray], hpi: Sequence[float | None]) -> dict[str, Array]:
        """x (B, P, H, W); for a model that asks, hours (B, 2): hours post insemination and 1, or 0 and 0 if unknown."""
        inputs: dict[str, Array] = {"x": to_tensor(np.stack(list(stacks)), self._preprocess)}
        if self._asks_hours:
            inputs["hours"] = np.array([(0.0, 0.0) if h is None else (h, 1.0) for h in hpi], np.float32)
        return inputs

    def save(self, memory: SegmentMemory) -> bytes:
        """The memory as bytes; equal memories give equal bytes. Segment and hours stand in a header, not in float32."""
        kept = {} if memory.representative is None else {"representative": memory.representative}
        header = {
            "segment": memory.segment,
            "seen": memory.seen,
            "representative_h": memory.representative_h,
            "committed_h": memory.committed_h,
            "representative_hpi": memory.representative_hpi,
            "spread": memory.spread,
            "state_id": memory.state.state_id,
            "sees": self._sees(),
        }
        state = np.frombuffer(self._engine.save(memory.state), np.uint8)
        return pack(header, {"state": state, **kept})

    def restore(self, blob: bytes) -> SegmentMemory:
        """The inverse of `save`. Raises EngineError (torn), StateMismatchError (another model's)."""
        header, arrays = unpack(blob)
        if header.get("state_id") != self._engine.spec.state_id:
            raise StateMismatchError(
                f"{self._engine.spec.name}: the saved memory is of {str(header.get('state_id'))[:12]}, "
                f"this model is {self._engine.spec.state_id[:12]}"
            )
        if header.get("sees") != self._sees():
            raise StateMismatchError(
                f"{self._engine.spec.name}: the saved memory was made with other preprocessing or segments "
                f"({header.get('sees')}, now {self._sees()})"
            )
        try:
            return self._memory_of(header, arrays)
        except (KeyError, TypeError, ValueError) as fault:
            raise EngineError(f"{self._engine.spec.name}: the saved memory does not read ({fault!r})") from fault

    def _sees(self) -> list[float | str]:
        """What, beside the weights, a memory's meaning hangs on."""
        how = self._preprocess
        cut: list[float | str] = [] if how.crop is None else [how.crop, how.width_in_well_radii]
        return [*how.planes_um, how.height_px, how.width_px, how.mean, how.std, self._segments.segment_h, *cut]

    def _memory_of(self, header: dict[str, Any], arrays: Arrays) -> SegmentMemory:
        representative = arrays.get("representative")
        if representative is not None:
            self._check(representative)
        return SegmentMemory(
            state=self._engine.restore(arrays["state"].tobytes()),
            segment=int(header["segment"]),
            seen=int(header["seen"]),
            representative=None if representative is None else _kept(representative),
            representative_h=float(header["representative_h"]),
            committed_h=_float(header["committed_h"]),
            representative_hpi=_float(header.get("representative_hpi")),  # memories of before 0.2 have neither
            spread=_float(header.get("spread")),
        )

    def _check(self, stack: Array) -> None:
        if stack.dtype != np.uint8 or stack.shape != self._shape:
            raise EngineError(
                f"{self._engine.spec.name}: a stack must be uint8 {self._shape}, got {stack.dtype} {stack.shape}"
            )


def _float(value: object) -> float | None:
    return None if value is None else float(str(value))


def _kept(stack: Gray) -> Gray:
    """A copy of one's own: the caller may write over the array it gave, or let go of the bytes it is a view of."""
    own: Gray = stack.copy()
    own.setflags(write=False)
    return own

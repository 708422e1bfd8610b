"""The engine guard: a plan serves only after it has said what the CPU says, and the CPU takes over whenever it fails.

On a plan that is missing, torn, of another version or wrong, on a device that fails, hangs or answers with something
that is no number, ONNX Runtime serves, the very call that failed included: every state is also in host memory, so no
embryo loses its memory. A plan that failed is built again once, and must prove itself anew. Loading, proving and
building go on beside the work, which never waits for them. A device that once gave no answer is left alone by all
guards of its toolkit until the process ends. It knows no CUDA word, no embryo and no clock.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from engines.build import PROFILE
from engines.contract import Arrays, Engine, EngineError, EngineSpec, State, Step, check_inputs
from engines.device_memory import DeviceError, HangError, PlanError, Profile, Toolkit
from engines.device_thread import DeviceThread
from engines.golden import apart
from engines.manifest import Part, Tolerance
from engines.plans import PlanStore, key_of
from engines.tensorrt_engine import TensorRtEngine

log = logging.getLogger(__name__)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Limits:
    """How long a device may take: to open and take a plan, and for a step."""

    load_s: float = 300.0
    step_s: float = 10.0  # the daemon's watchdog bites after 60 s, and a turn of the pipeline has several steps


_ONE_TRY, _ONE_BUILD = threading.Lock(), threading.Lock()  # each takes much memory: never two at once in a process


class OnDevice:
    """An engine on a thread of its own, so that a device that hangs holds nobody else. Raises DeviceError.

    What gives no answer within its limit is told to all who use the toolkit.
    """

    def __init__(self, toolkit: Toolkit, plan: bytes, part: Part, limits: Limits) -> None:
        self._thread, self._limits, self._standing = DeviceThread(f"gpu {part.spec.name}"), limits, toolkit.standing
        facts = toolkit.facts
        runtime = f"{facts.runtime} {part.precision.compute}, {facts.name}"
        try:
            self._engine = self._call(lambda: self._opened(toolkit, plan, part, runtime), limits.load_s)
        except EngineError:
            self._thread.end()
            raise

    @staticmethod
    def _opened(toolkit: Toolkit, plan: bytes, part: Part, runtime: str) -> TensorRtEngine:
        engine = TensorRtEngine(toolkit.open(), plan, part.spec, runtime)
        try:
            engine.bind_all()
        except EngineError:
            engine.close()
            raise
        return engine

    @property
    def spec(self) -> EngineSpec:
        return self._engine.spec

    @property
    def runtime(self) -> str:
        return self._engine.runtime

    def initial_state(self) -> State:
        return self._engine.initial_state()

    def step(self, states: Sequence[State], inputs: Arrays) -> Step:
        return self._call(lambda: self._engine.step(states, inputs), self._limits.step_s)

    def peek(self, states: Sequence[State], inputs: Arrays) -> Step:
        return self._call(lambda: self._engine.peek(states, inputs), self._limits.step_s)

    def save(self, state: State) -> bytes:
        return self._call(lambda: self._engine.save(state), self._limits.step_s)

    def restore(self, blob: bytes) -> State:
        return self._engine.restore(blob)

    def close(self) -> None:
        """In its thread, without waiting: it may hang."""
        self._thread.end(self._engine.close)

    def _call(self, work: Callable[[], Result], limit_s: float) -> Result:
        try:
            return self._thread.call(work, limit_s)
        except HangError as fault:
            self._standing.hangs = self._standing.hangs or str(fault)
            raise


@dataclass(frozen=True)
class _Now:
    """What serves, or why the device does not. One value, so that nobody sees half of a change."""

    serving: OnDevice | None
    fallback: str | None


class GuardedEngine:
    """Serves on the device while that proves right, on the reference while not. `fallback`: why not, or None.

    `build` makes the plan anew, however long that takes; None: nothing on the disk is touched. `start` runs what
    goes on beside the work: first the try of the plan that is there, then, where it must be, a build.
    """

    def __init__(
        self,
        reference: Engine,
        part: Part,
        tolerance: Tolerance,
        toolkit: Toolkit,
        store: PlanStore,
        build: Callable[[], None] | None,
        profile: Profile = PROFILE,
        limits: Limits | None = None,
        start: Callable[[Callable[[], None]], None] | None = None,
    ) -> None:
        self._reference, self._part, self._tolerance = reference, part, tolerance
        self._toolkit, self._store, self._limits = toolkit, store, limits or Limits()
        self._key, self._most = key_of(part, toolkit.facts, profile), profile.most
        self._build, self._start = build, start or _beside
        self._may_rebuild = True
        self._lock, self._closed = threading.Lock(), False  # around every change of what serves
        self._now = _Now(None, "its plan was not tried yet")

    def begin(self) -> None:
        """Take the plan that is there. Where there is none, or it is not fit, one is built. Both beside the work."""
        self._start(self._take_or_build)

    @property
    def fallback(self) -> str | None:
        return self._now.fallback if self._toolkit.standing.hangs is None else self._hangs

    @property
    def _hangs(self) -> str:
        return f"the device hangs, it is left alone until the next start: {self._toolkit.standing.hangs}"

    def _take_or_build(self) -> None:
        try:
            there = self._store.find(self._key) is not None
        except PlanError:
            there = True
        if self._take() or self._build is None or self._given_up():
            return
        self._may_rebuild = not there  # a plan that failed at once has had its second try with this one
        self._start(self._build_and_take)

    @property
    def spec(self) -> EngineSpec:
        return self._reference.spec

    @property
    def runtime(self) -> str:
        serving = self._now.serving
        hangs = self._toolkit.standing.hangs is not None
        return self._reference.runtime if serving is None or hangs else serving.runtime

    def initial_state(self) -> State:
        return self._reference.initial_state()

    def step(self, states: Sequence[State], inputs: Arrays) -> Step:
        return self._run("step", states, inputs)

    def peek(self, states: Sequence[State], inputs: Arrays) -> Step:
        return self._run("peek", states, inputs)

    def save(self, state: State) -> bytes:
        return self._reference.save(state)

    def restore(self, blob: bytes) -> State:
        return self._reference.restore(blob)

    def close(self) -> None:
        with self._lock:
            serving, self._closed = self._now.serving, True
            self._now = _Now(None, "closed")
        if serving is not None:
            serving.close()
        self._reference.close()

    # -- the call ------------------------------------------------------------------------------------------------------

    def _run(self, call: str, states: Sequence[State], inputs: Arrays) -> Step:
        check_inputs(self.spec, states, inputs)
        serving = self._now.serving
        if serving is not None and self._toolkit.standing.hangs is not None:
            self._fall_back(serving, self._hangs, at_fault=False)
        elif serving is not None:
            try:
                step: Step = getattr(serving, call)(states, inputs)
            except DeviceError as fault:
                self._fall_back(serving, str(fault))
            else:
                lost = [row for row in step.failed if _finite(inputs, row)]
                if not lost:
                    return step
                return self._judged_again(serving, call, step, lost, states, inputs)
        again: Step = getattr(self._reference, call)(states, inputs)
        return again

    def _judged_again(
        self,
        serving: OnDevice,
        call: str,
        step: Step,
        lost: Sequence[int],
        states: Sequence[State],
        inputs: Arrays,
    ) -> Step:
        """The device had no number for rows whose inputs were numbers: if the reference has, the device is wrong."""
        again: Step = getattr(self._reference, call)(states, inputs)
        if all(row in again.failed for row in lost):
            return step
        self._fall_back(serving, "it gave no number where the reference gives one")
        return again

    def _fall_back(self, serving: OnDevice, reason: str, at_fault: bool = True) -> None:
        """Away from `serving`, unless another has taken its place by now. `at_fault`: its plan goes."""
        with self._lock:
            if self._now.serving is not serving:
                return
            self._now = _Now(None, reason)
            again = self._build is not None and self._may_rebuild and self._toolkit.standing.hangs is None
            self._may_rebuild = self._may_rebuild and not again
        log.error(
            "the GPU engine is not fit to serve: the CPU goes on", extra={"model": self.spec.name, "reason": reason}
        )
        serving.close()
        if at_fault:
            self._drop()
        if again:
            self._start(self._build_and_take)

    # -- plans ---------------------------------------------------------------------------------------------------------

    def _take(self) -> bool:
        """Load and prove the plan that is there; whether it serves now."""
        try:
            with _ONE_TRY:
                candidate = self._proven()
        except EngineError as fault:
            self._tell(str(fault))
            if not isinstance(fault, _NoPlan):
                log.error("a plan may not serve", extra={"model": self.spec.name, "reason": str(fault)})
            return False
        with self._lock:
            late = self._given_up()
            if not late:
                self._now = _Now(candidate, None)
        if late:  # while it was proven the device was given up, or this engine ended
            candidate.close()
            return False
        log.info("the GPU serves", extra={"model": self.spec.name, "runtime": candidate.runtime})
        return True

    def _tell(self, reason: str) -> None:
        """Why the device does not serve; nothing where it does."""
        with self._lock:
            if self._now.serving is None:
                self._now = _Now(None, reason)

    def _given_up(self) -> bool:
        return self._closed or self._toolkit.standing.hangs is not None

    def _proven(self) -> OnDevice:
        """Raises EngineError saying why there is none; a plan that is not fit is gone then."""
        name, store = self.spec.name, self._store
        if self._given_up():
            raise HangError(f"{name}: not tried: {self._toolkit.standing.hangs or 'it was closed'}")
        if store.ended_a_process(self._key):
            self._drop()
            raise PlanError(f"{name}: the last try of its plan ended the process")
        try:
            plan = store.find(self._key)
            if plan is None:
                raise _NoPlan(f"{name}: no plan for {self._toolkit.facts.name} with {self._toolkit.facts.runtime} yet")
            with nullcontext() if self._build is None else store.trying(self._key):
                candidate = OnDevice(self._toolkit, plan, self._part, self._limits)
                fault = self._fault_of(candidate)
        except (PlanError, HangError):
            self._drop()
            raise
        if fault is not None:
            self._drop()
            raise DeviceError(f"{name}: {fault}")
        return candidate

    def _drop(self) -> None:
        if self._build is None:
            return
        try:
            self._store.drop(self._key)
        except EngineError as fault:  # it may be tried again, and must prove itself again
            log.error("a plan could not be dropped", extra={"model": self.spec.name, "reason": str(fault)})

    def _fault_of(self, candidate: OnDevice) -> str | None:
        try:
            fault = apart(candidate, self._reference, most=self._most).fault(self._part, self._tolerance)
        except EngineError:
            candidate.close()
            raise
        if fault is not None:
            candidate.close()
        return fault

    def _build_and_take(self) -> None:
        if self._build is None:
            return
        waited_for = self._now.fallback
        self._tell(f"{waited_for}; its plan is being built")
        with _ONE_BUILD:
            if self._given_up():
                return
            try:
                self._build()
            except EngineError as fault:
                self._tell(f"{waited_for}; its plan could not be built: {fault}")
                log.error("a plan could not be built", extra={"model": self.spec.name, "reason": str(fault)})
                return
        self._take()


class _NoPlan(EngineError):
    """Nothing was tried: nothing is wrong."""


def _finite(inputs: Arrays, row: int) -> bool:
    return all(bool(np.isfinite(array[row]).all()) for array in inputs.values())


def _beside(work: Callable[[], None]) -> None:
    threading.Thread(target=work, name="plan", daemon=True).start()

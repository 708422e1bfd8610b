"""The engine guard: a plan serves only after it has said what the CPU says, and the CPU takes over whenever it fails.

On a plan that is missing, torn, of another version or wrong, on a device that fails, hangs or answers with something
that is no number, ONNX Runtime serves, the very call that failed included: every state is also in host memory, so no
embryo loses its memory. A plan that failed is built again once, beside the work, and must prove itself anew.
It knows no CUDA word, no embryo and no clock.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np

from engines.build import PROFILE
from engines.contract import Arrays, Engine, EngineError, EngineSpec, State, Step, check_inputs
from engines.device_memory import DeviceError, PlanError, Profile, Toolkit
from engines.device_thread import DeviceThread
from engines.golden import apart
from engines.manifest import Part, Tolerance
from engines.plans import PlanStore, key_of
from engines.tensorrt_engine import TensorRtEngine

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """How long a device may take: to open and take a plan, and for a step."""

    load_s: float = 300.0
    step_s: float = 30.0


class OnDevice:
    """An engine on a thread of its own, so that a device that hangs holds nobody else. Raises DeviceError."""

    def __init__(self, toolkit: Toolkit, plan: bytes, part: Part, limits: Limits) -> None:
        self._thread, self._limits = DeviceThread(f"gpu {part.spec.name}"), limits
        facts = toolkit.facts
        runtime = f"{facts.runtime} {part.precision.compute}, {facts.name}"
        try:
            self._engine = self._thread.call(lambda: self._opened(toolkit, plan, part, runtime), limits.load_s)
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
        return self._thread.call(lambda: self._engine.step(states, inputs), self._limits.step_s)

    def peek(self, states: Sequence[State], inputs: Arrays) -> Step:
        return self._thread.call(lambda: self._engine.peek(states, inputs), self._limits.step_s)

    def save(self, state: State) -> bytes:
        return self._thread.call(lambda: self._engine.save(state), self._limits.step_s)

    def restore(self, blob: bytes) -> State:
        return self._engine.restore(blob)

    def close(self) -> None:
        """In its thread, without waiting: it may hang."""
        self._thread.end(self._engine.close)


class GuardedEngine:
    """Serves on the device while that proves right, on the reference while not. `fallback`: why not, or None.

    `build` makes the plan anew, however long that takes; None: nothing on the disk is touched. `start` runs what
    goes on beside the work.
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
        self._key = key_of(part, toolkit.facts, profile)
        self._build, self._start = build, start or _beside
        self._may_rebuild = True
        self._serving: OnDevice | None = None
        self.fallback: str | None = "not tried yet"

    def begin(self) -> None:
        """Take the plan that is there. Where there is none, or it is not fit, one is built beside the work."""
        try:
            there = self._store.find(self._key) is not None
        except PlanError:
            there = True
        if self._take() or self._build is None:
            return
        self._may_rebuild = not there  # a plan that failed at once has had its second try with this one
        self._start(self._build_and_take)

    @property
    def spec(self) -> EngineSpec:
        return self._reference.spec

    @property
    def runtime(self) -> str:
        serving = self._serving
        return self._reference.runtime if serving is None else serving.runtime

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
        serving, self._serving = self._serving, None
        if serving is not None:
            serving.close()
        self._reference.close()

    # -- the call ------------------------------------------------------------------------------------------------------

    def _run(self, call: str, states: Sequence[State], inputs: Arrays) -> Step:
        check_inputs(self.spec, states, inputs)
        serving = self._serving
        if serving is not None:
            try:
                step: Step = getattr(serving, call)(states, inputs)
            except DeviceError as fault:
                self._fall_back(str(fault))
            else:
                lost = [row for row in step.failed if _finite(inputs, row)]
                if not lost:
                    return step
                return self._judged_again(call, step, lost, states, inputs)
        again: Step = getattr(self._reference, call)(states, inputs)
        return again

    def _judged_again(
        self, call: str, step: Step, lost: Sequence[int], states: Sequence[State], inputs: Arrays
    ) -> Step:
        """The device had no number for rows whose inputs were numbers: if the reference has, the device is wrong."""
        again: Step = getattr(self._reference, call)(states, inputs)
        if all(row in again.failed for row in lost):
            return step
        self._fall_back("it gave no number where the reference gives one")
        return again

    def _fall_back(self, reason: str) -> None:
        serving, self._serving = self._serving, None
        self.fallback = reason
        log.error(
            "the GPU engine is not fit to serve: the CPU goes on", extra={"model": self.spec.name, "reason": reason}
        )
        if serving is not None:
            serving.close()
        self._drop()
        if self._build is not None and self._may_rebuild:
            self._may_rebuild = False
            self._start(self._build_and_take)

    # -- plans ---------------------------------------------------------------------------------------------------------

    def _take(self) -> bool:
        """Load and prove the plan that is there; whether it serves now."""
        try:
            candidate = self._proven()
        except EngineError as fault:
            self.fallback = str(fault)
            if not isinstance(fault, _NoPlan):
                log.error("a plan may not serve", extra={"model": self.spec.name, "reason": self.fallback})
            return False
        self._serving, self.fallback = candidate, None
        log.info("the GPU serves", extra={"model": self.spec.name, "runtime": candidate.runtime})
        return True

    def _proven(self) -> OnDevice:
        """Raises EngineError saying why there is none; a plan that is not fit is gone then."""
        name, store = self.spec.name, self._store
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
        except PlanError:
            self._drop()
            raise
        if fault is not None:
            self._drop()
            raise DeviceError(f"{name}: {fault}")
        return candidate

    def _drop(self) -> None:
        if self._build is not None:
            self._store.drop(self._key)

    def _fault_of(self, candidate: OnDevice) -> str | None:
        try:
            fault = apart(candidate, self._reference).fault(self._part, self._tolerance)
        except EngineError:
            candidate.close()
            raise
        if fault is not None:
            candidate.close()
        return fault

    def _build_and_take(self) -> None:
        if self._build is None:
            return
        waited_for = self.fallback
        self.fallback = f"{waited_for}; its plan is being built"
        try:
            self._build()
        except EngineError as fault:
            self.fallback = f"{waited_for}; its plan could not be built: {fault}"
            log.error("a plan could not be built", extra={"model": self.spec.name, "reason": str(fault)})
            return
        self._take()


class _NoPlan(EngineError):
    """Nothing was tried: nothing is wrong."""


def _finite(inputs: Arrays, row: int) -> bool:
    return all(bool(np.isfinite(array[row]).all()) for array in inputs.values())


def _beside(work: Callable[[], None]) -> None:
    threading.Thread(target=work, name="plan", daemon=True).start()

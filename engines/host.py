"""What every engine whose states live in host memory shares: checks, rows one by one, save and restore.

Rows are run one at a time on purpose. On a CPU a batch gains little, while matrix kernels that see another batch size
round differently: single rows make "a batch of n equals n singles" exact, and with it a restart that batches otherwise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from engines.contract import (
    Array,
    Arrays,
    EngineError,
    EngineSpec,
    HostState,
    State,
    StateMismatchError,
    Step,
    check_inputs,
)
from engines.packing import pack, unpack


class HostEngine(ABC):
    """An engine with `run_row` left open."""

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec

    @property
    def spec(self) -> EngineSpec:
        return self._spec

    @abstractmethod
    def run_row(self, state: Array, inputs: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        """One row, no batch axis anywhere: the next state and the outputs. Raises EngineError."""

    def initial_state(self) -> State:
        return HostState(self._spec.state_id, _frozen(np.zeros(self._spec.state.shape, np.float32)))

    def step(self, states: Sequence[State], inputs: Arrays) -> Step:
        check_inputs(self._spec, states, inputs)
        outputs: dict[str, Array] = {
            tensor.name: np.full((len(states), *tensor.shape), np.nan, np.float32) for tensor in self._spec.outputs
        }
        after: list[State] = []
        failed: list[int] = []
        for index, state in enumerate(states):
            row = {name: array[index] for name, array in inputs.items()}
            next_row, results = self.run_row(_host(state), row)
            finite = np.isfinite(next_row).all() and all(np.isfinite(result).all() for result in results.values())
            if not finite:
                failed.append(index)
                after.append(state)
                continue
            for name, result in results.items():
                outputs[name][index] = result
            after.append(HostState(self._spec.state_id, _frozen(next_row)))
        return Step(tuple(after), outputs, tuple(failed))

    def peek(self, states: Sequence[State], inputs: Arrays) -> Step:
        step = self.step(states, inputs)
        return Step(tuple(states), step.outputs, step.failed)

    def save(self, state: State) -> bytes:
        return pack_state(self._spec, state.state_id, _host(state))

    def restore(self, blob: bytes) -> State:
        return HostState(self._spec.state_id, _frozen(unpack_state(self._spec, blob)))

    def close(self) -> None:  # noqa: B027 - a runtime that holds something overrides it
        """Nothing to free in host memory."""


def pack_state(spec: EngineSpec, state_id: str, row: Array) -> bytes:
    """A state as bytes, the same of every runtime. Raises StateMismatchError for another model's."""
    if state_id != spec.state_id:
        raise StateMismatchError(f"{spec.name}: asked to save a state of {state_id[:12]}")
    return pack({"state_id": state_id}, {"state": row})


def unpack_state(spec: EngineSpec, blob: bytes) -> Array:
    """A row of one's own, of the spec's shape. Raises EngineError (torn), StateMismatchError (another model's)."""
    header, arrays = unpack(blob)
    if header.get("state_id") != spec.state_id:
        raise StateMismatchError(
            f"{spec.name}: the saved state is of {str(header.get('state_id'))[:12]}, this model is {spec.state_id[:12]}"
        )
    row = arrays.get("state")
    if row is None or row.shape != spec.state.shape or row.dtype != np.float32:
        raise EngineError(f"{spec.name}: the saved state is not float32 {spec.state.shape}")
    if not np.isfinite(row).all():
        raise EngineError(f"{spec.name}: the saved state is not finite")
    return row.astype(np.float32)


def _host(state: State) -> Array:
    if not isinstance(state, HostState):
        raise StateMismatchError(f"a state of another runtime ({type(state).__name__}): save and restore it first")
    return state.row


def _frozen(row: Array) -> Array:
    row.setflags(write=False)
    return row

"""The one contract every engine keeps: `step(states, inputs) -> Step(states, outputs)`, carry first, always.

Axes: B rows (one per state), then whatever the spec declares per row. A model without memory has an empty state and
nothing else changes. This module knows no runtime, no file, no embryo.

The promises (each is checked over every engine by `engines.verify.contract_faults`):
a step, failed or not, leaves the state it was given as it was; same state and inputs give the same outputs; two rows of
one batch equal each alone, and a NaN in one never reaches the other; a saved and restored state goes on as if nothing
had happened; a state of other weights is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]


class EngineError(Exception):
    """An engine could not do what it was asked; the frame is lost, the state is as it was before."""


class StateMismatchError(EngineError):
    """A state was offered that other weights (or another layout of them) have made."""


@dataclass(frozen=True)
class TensorSpec:
    """A named array as one row of a batch sees it: `shape` has no batch axis."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class EngineSpec:
    """What goes in, what comes out, and whose memory it is.

    `state_id` is the digest of the source weights and of the state's layout. All precisions and runtimes of one model
    share it, so that a fallback from one runtime to another keeps every embryo's memory.
    """

    name: str
    task: str
    state_id: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    state: TensorSpec


@dataclass(frozen=True, eq=False)
class State:
    """One row of a model's memory: opaque to the caller, made, saved and restored by an engine only.

    A runtime that keeps memory on a device puts its own handle behind a subclass. A state is a value: neither `step`
    nor `peek` uses it up, for a frame may fail after its step (another row of the batch, the journal) and then comes
    again from the same state. What a handle holds is freed when nobody holds the state any more.
    """

    state_id: str


@dataclass(frozen=True, eq=False)
class HostState(State):
    """A state that lives in host memory: `row` has the shape of `EngineSpec.state`, float32, read-only."""

    row: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Step:
    """What one step gives: one state and one row of every output for each row that went in.

    `failed` names the rows whose outputs or next state were not finite: their outputs are NaN and their state is the
    one that came in.
    """

    states: tuple[State, ...]
    outputs: dict[str, Array]
    failed: tuple[int, ...] = field(default=())


class Engine(Protocol):
    """A model on one runtime."""

    @property
    def spec(self) -> EngineSpec: ...

    @property
    def runtime(self) -> str:
        """For example `onnxruntime 1.23.0 cpu`."""

    def initial_state(self) -> State:
        """The state before the first frame."""

    def step(self, states: Sequence[State], inputs: Arrays) -> Step:
        """Advance each row by one. Raises EngineError, StateMismatchError; then no state has changed."""

    def peek(self, states: Sequence[State], inputs: Arrays) -> Step:
        """What `step` would give, but without taking it: the states stay valid and are returned as they came."""

    def save(self, state: State) -> bytes:
        """The state as bytes, in fp32 whatever the runtime's precision. Equal states give equal bytes."""

    def restore(self, blob: bytes) -> State:
        """The inverse of `save`. Raises StateMismatchError when another model saved it."""

    def close(self) -> None:
        """Free what the runtime holds."""


def check_inputs(spec: EngineSpec, states: Sequence[State], inputs: Arrays) -> None:
    """Refuse what does not fit the spec, naming it. Raises EngineError, StateMismatchError."""
    wanted = {tensor.name for tensor in spec.inputs}
    if set(inputs) != wanted:
        raise EngineError(f"{spec.name}: inputs are {sorted(wanted)}, got {sorted(inputs)}")
    for state in states:
        if state.state_id != spec.state_id:
            raise StateMismatchError(
                f"{spec.name}: the state was made by {state.state_id[:12]}, this model is {spec.state_id[:12]}"
            )
    for tensor in spec.inputs:
        array = inputs[tensor.name]
        shape = (len(states), *tensor.shape)
        if array.shape != shape or array.dtype != np.dtype(tensor.dtype):
            raise EngineError(
                f"{spec.name}: input {tensor.name} must be {tensor.dtype} {shape}, got {array.dtype} {array.shape}"
            )

"""A model's plan on a device: states in an arena there, batches of fixed sizes, two sets of buffers in turn.

A batch is cut into pieces of 1, 2, 4 ... rows, the last one filled up. For each: gather the rows' states, run, scatter
the next states to fresh rows. While one set of buffers is on its way the host fills the other. A state's row is never
written again, so a step that fails leaves every state as it was, and a state may be stepped twice.

`mirrored`: each next state also comes to host memory, so that another runtime goes on from it even where the device is
lost. It knows no CUDA word: `engines.device_memory` is its only door. All calls come from the device's own thread.
"""

from __future__ import annotations

import math
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engines.arena import Arena, Floats, Row, frozen
from engines.contract import Array, Arrays, EngineError, EngineSpec, HostState, State, Step, check_inputs
from engines.device_memory import Buffer, Device, Launch, Mark, PlanError, Port, Program
from engines.host import pack_state, unpack_state

SIZES = (1, 2, 4, 8, 16, 32, 64)
ARENA_BYTES = 2**28  # an embryo's frame comes every few minutes: a row that was pushed out costs one copy
MOST_ROWS = 1024


class DeviceState(HostState):
    """A state on a device that another runtime can read: `row` is fetched when it is asked for."""

    held: Row
    arena: Arena
    _shape: tuple[int, ...]

    def __init__(self, spec: EngineSpec, held: Row, arena: Arena) -> None:
        for name, value in (
            ("state_id", spec.state_id),
            ("held", held),
            ("arena", arena),
            ("_shape", spec.state.shape),
        ):
            object.__setattr__(self, name, value)

    @property
    def row(self) -> Floats:
        return self.arena.fetch(self.held)[: math.prod(self._shape)].reshape(self._shape)


@dataclass
class _Set:
    """The buffers of one batch size, and the program bound to them. `host_*`: page-locked twins."""

    buffers: dict[str, Buffer]
    host_inputs: dict[str, Array]
    host_outputs: dict[str, Array]
    host_state: Floats | None
    launch: Launch


@dataclass
class _Flight:
    """A piece of a batch on its way: its rows, whose inputs were finite, and where its next states went."""

    first: int
    rows: int
    finite: list[bool]
    buffers: _Set
    after: list[Row]
    mark: Mark


class TensorRtEngine:
    """The engine over one device. It owns the device and closes it. Raises PlanError where the plan is not the spec's.

    `runtime`: what it calls itself.
    """

    def __init__(
        self,
        device: Device,
        plan: bytes,
        spec: EngineSpec,
        runtime: str,
        mirrored: bool = True,
        arena_bytes: int = ARENA_BYTES,
    ) -> None:
        self._device, self._spec, self.runtime, self.mirrored = device, spec, runtime, mirrored
        self._state_floats = math.prod(spec.state.shape)
        self._sets: dict[int, tuple[_Set, _Set]] = {}
        self._buffers: list[Buffer] = []
        self._others: weakref.WeakKeyDictionary[State, Row] = weakref.WeakKeyDictionary()
        self._turn = 0
        program: Program | None = None
        try:
            self._program = program = device.load(plan)
            check_ports(spec, program.ports)
            row_bytes, most = max(4 * self._state_floats, 1), program.most
            rows = min(MOST_ROWS, max(arena_bytes // row_bytes, 4 * most))
            self._arena = Arena(device, max(self._state_floats, 1), rows, 2 * most)
        except EngineError:
            if program is not None:
                program.close()
            device.close()
            raise
        self._sizes = tuple(size for size in SIZES if size <= most)
        self._start = Row(None, frozen(np.zeros(max(self._state_floats, 1), np.float32)))

    @property
    def spec(self) -> EngineSpec:
        return self._spec

    @property
    def most(self) -> int:
        """The largest batch that runs in one piece."""
        return self._sizes[-1]

    @property
    def captured(self) -> bool:
        """Whether every batch size used so far runs as a recorded graph."""
        return all(one.launch.captured for pair in self._sets.values() for one in pair)

    @property
    def free_rows(self) -> int:
        return self._arena.free

    def bind_all(self) -> None:
        """Every batch size now: the first use of a size may compile for seconds. Raises DeviceError."""
        for size in self._sizes:
            self._sets_of(size)

    def initial_state(self) -> State:
        return self._state(self._start)

    def step(self, states: Sequence[State], inputs: Arrays) -> Step:
        return self._run(states, inputs, keep=True)

    def peek(self, states: Sequence[State], inputs: Arrays) -> Step:
        return self._run(states, inputs, keep=False)

    def save(self, state: State) -> bytes:
        if not isinstance(state, HostState):
            raise EngineError(f"a state of another runtime ({type(state).__name__}): save and restore it first")
        return pack_state(self._spec, state.state_id, state.row)

    def restore(self, blob: bytes) -> State:
        row = unpack_state(self._spec, blob)
        return self._state(Row(None, frozen(row.reshape(-1)) if row.size else self._start.host))

    def close(self) -> None:
        """Buffers, program and device, in that order."""
        self._sets.clear()
        for buffer in self._buffers:
            buffer.free()
        self._buffers.clear()
        self._arena.close()
        self._program.close()
        self._device.close()

    # -- a batch -------------------------------------------------------------------------------------------------------

    def _run(self, states: Sequence[State], inputs: Arrays, keep: bool) -> Step:
        check_inputs(self._spec, states, inputs)
        rows = [self._row(state) for state in states]
        outputs = {
            tensor.name: np.full((len(states), *tensor.shape), np.nan, np.float32) for tensor in self._spec.outputs
        }
        after, flights = list(states), deque[_Flight]()
        first = 0
        while first < len(rows) or flights:
            if first < len(rows) and len(flights) < 2:
                piece = rows[first : first + self._sizes[-1]]
                flights.append(self._start_flight(piece, inputs, first, keep))
                first += len(piece)
                continue
            self._land(flights.popleft(), outputs, after)
        failed = tuple(i for i in range(len(states)) if any(np.isnan(output[i]).any() for output in outputs.values()))
        return Step(tuple(after) if keep else tuple(states), outputs, failed)

    def _start_flight(self, rows: Sequence[Row], inputs: Arrays, first: int, keep: bool) -> _Flight:
        one = self._next_set(next(size for size in self._sizes if size >= len(rows)))
        finite = [True] * len(rows)
        for name, staging in one.host_inputs.items():
            piece = inputs[name][first : first + len(rows)]
            for index, value in enumerate(piece):
                well = bool(np.isfinite(value).all())  # a kernel may swallow a NaN: a row that brings one has no answer
                staging[index] = value if well else 0
                finite[index] &= well
            self._device.upload(one.buffers[name], 0, staging)
        if one.host_state is not None:
            for index, row in enumerate(rows):
                self._arena.gather(row, one.buffers["state"], index, one.host_state[index])
        one.launch.run()
        for name, target in one.host_outputs.items():
            self._device.download(target, one.buffers[name], 0)
        after: list[Row] = []
        if one.host_state is not None:
            if keep:
                after = [self._arena.scatter(one.buffers["state_next"], index) for index in range(len(rows))]
            if self.mirrored:
                self._device.download(one.host_state, one.buffers["state_next"], 0)
        return _Flight(first, len(rows), finite, one, after, self._device.mark())

    def _land(self, flight: _Flight, outputs: dict[str, Array], after: list[State]) -> None:
        """Wait for it; take over what is finite. A row that is not keeps its state and stays NaN."""
        flight.mark.wait()
        one = flight.buffers
        for index in range(flight.rows):
            results = {name: target[index] for name, target in one.host_outputs.items()}
            well = flight.finite[index] and all(np.isfinite(result).all() for result in results.values())
            memory = one.host_state[index] if one.host_state is not None and self.mirrored else None
            if not well or (memory is not None and not np.isfinite(memory).all()):
                continue
            for name, result in results.items():
                outputs[name][flight.first + index] = result
            if flight.after:
                row = flight.after[index]
                row.host = None if memory is None else frozen(memory)
                after[flight.first + index] = self._state(row)

    def _next_set(self, size: int) -> _Set:
        self._turn += 1
        return self._sets_of(size)[self._turn % 2]

    def _sets_of(self, size: int) -> tuple[_Set, _Set]:
        if size not in self._sets:
            self._sets[size] = (self._new_set(size), self._new_set(size))
        return self._sets[size]

    def _new_set(self, size: int) -> _Set:
        device = self._device
        buffers: dict[str, Buffer] = {}
        for port in self._program.ports:
            buffers[port.name] = device.allocate(_bytes(port, size))
            self._buffers.append(buffers[port.name])  # at once: the next may find no room
        host = {port.name: device.page_locked((size, *port.shape), port.dtype) for port in self._program.ports}
        floats = host.pop("state", None)
        host.pop("state_next", None)
        return _Set(
            buffers,
            {tensor.name: host[tensor.name] for tensor in self._spec.inputs},
            {tensor.name: host[tensor.name] for tensor in self._spec.outputs},
            None if floats is None else np.asarray(floats, np.float32).reshape(size, -1),
            self._program.bind(size, buffers),
        )

    # -- states --------------------------------------------------------------------------------------------------------

    def _row(self, state: State) -> Row:
        if isinstance(state, DeviceState) and state.arena is self._arena:
            return state.held
        if isinstance(state, HostState):  # another runtime's, or another device's: its row comes over host memory
            if (row := self._others.get(state)) is None:
                row = self._others[state] = Row(None, state.row.reshape(-1)) if self._state_floats else self._start
            return row
        raise EngineError(f"a state of another runtime ({type(state).__name__}): save and restore it first")

    def _state(self, row: Row) -> State:
        return DeviceState(self._spec, row, self._arena)


def check_ports(spec: EngineSpec, ports: Sequence[Port]) -> None:
    """Raises PlanError where a plan's tensors are not the spec's."""
    given = {port.name: (port.shape, port.dtype, port.is_input) for port in ports}
    wanted = {tensor.name: (tensor.shape, tensor.dtype, True) for tensor in spec.inputs}
    wanted |= {tensor.name: (tensor.shape, tensor.dtype, False) for tensor in spec.outputs}
    if math.prod(spec.state.shape):
        wanted |= {"state": (spec.state.shape, "float32", True), "state_next": (spec.state.shape, "float32", False)}
    if given != wanted:
        raise PlanError(f"{spec.name}: the plan has {given}, its manifest says {wanted}")


def _bytes(port: Port, size: int) -> int:
    return size * math.prod(port.shape) * np.dtype(port.dtype).itemsize

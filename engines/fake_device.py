"""A device that is none: its memory lies in host memory, and it executes with ONNX Runtime.

For tests, and to see the way of a plan where no accelerator is. A plan of it is an ONNX graph behind a header with the
facts that it is bound to. It is stricter than the real one: a freed buffer, one buffer for two tensors, a page-locked
array read before its mark, a call from another thread, are errors. `faults` makes it fail as a test asks.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime

from engines.contract import Array, EngineError
from engines.device_memory import (
    Buffer,
    Device,
    DeviceError,
    GpuFacts,
    Launch,
    Mark,
    PlanError,
    Port,
    Profile,
    Program,
    Say,
    Standing,
)
from engines.packing import pack, unpack

FACTS = GpuFacts("fake accelerator", "0.0", "0", "fake 1.0")


@dataclass
class Faults:
    """What the next calls do. `wrong_by` is added to every first output; `hold`: a run waits for it (a hang)."""

    allocations_bytes: int | None = None
    load: str = ""
    run: str = ""
    build: str = ""
    lost: bool = False  # nothing works any more, not even reading memory
    capture_refused: bool = False
    wrong_by: float = 0.0
    wrong_rows: int | None = None  # only a batch bound for so many
    hold: threading.Event | None = None
    not_finite_rows: tuple[int, ...] = ()


@dataclass
class FakeToolkit:
    """Builds and opens. `builds` and `opened` tell what was asked."""

    facts: GpuFacts = FACTS
    faults: Faults = field(default_factory=Faults)
    builds: int = 0
    opened: list[FakeDevice] = field(default_factory=list)
    standing: Standing = field(default_factory=Standing)

    def build(self, graph: bytes, profile: Profile, tf32: bool, timing: Path | None, say: Say) -> bytes:
        self.builds += 1
        if self.faults.build:
            raise DeviceError(self.faults.build)
        say("building")
        if timing is not None:
            timing.write_bytes(b"timings")
        header = {"facts": asdict(self.facts), "most": profile.most, "tf32": tf32}
        return pack(header, {"graph": np.frombuffer(graph, np.uint8)})

    def open(self) -> Device:
        self.opened.append(FakeDevice(self.facts, self.faults))
        return self.opened[-1]


class FakeBuffer:
    """Bytes, and whether they are still there."""

    def __init__(self, owner: FakeDevice, size_bytes: int) -> None:
        self._owner, self._bytes = owner, np.zeros(size_bytes, np.uint8)
        self.freed = False

    @property
    def size_bytes(self) -> int:
        return self._bytes.size

    def part(self, at: int, size: int) -> Array:
        if self.freed or at < 0 or at + size > self._bytes.size:
            raise DeviceError(f"{size} bytes at {at} of a buffer of {self._bytes.size}{', freed' * self.freed}")
        return self._bytes[at : at + size]

    def free(self) -> None:
        self.freed = True
        self._owner.allocated_bytes -= self._bytes.size


class FakeDevice:
    """Everything is done at once, but what is downloaded shows only at a mark: until then it is not a number."""

    def __init__(self, facts: GpuFacts, faults: Faults) -> None:
        self._facts, self._faults = facts, faults
        self._thread = threading.get_ident()
        self._landing: list[tuple[Array, Array]] = []
        self.allocated_bytes = 0
        self.runs: list[int] = []
        self.binds: list[int] = []
        self.ended = threading.Event()

    def check(self) -> None:
        if threading.get_ident() != self._thread:
            raise DeviceError("called from a thread that did not open the device")
        if self._faults.lost or self.closed:
            raise DeviceError("the device is lost")

    def allocate(self, size_bytes: int) -> Buffer:
        self.check()
        most = self._faults.allocations_bytes
        if most is not None and self.allocated_bytes + size_bytes > most:
            raise DeviceError(f"out of memory: {size_bytes} bytes")
        self.allocated_bytes += size_bytes
        return FakeBuffer(self, size_bytes)

    def page_locked(self, shape: tuple[int, ...], dtype: str) -> Array:
        self.check()
        return np.zeros(shape, dtype)

    def upload(self, target: Buffer, at_bytes: int, source: Array) -> None:
        self.check()
        _fake(target).part(at_bytes, source.nbytes)[...] = np.frombuffer(source.tobytes(), np.uint8)

    def download(self, target: Array, source: Buffer, at_bytes: int) -> None:
        self.check()
        came = np.frombuffer(_fake(source).part(at_bytes, target.nbytes).tobytes(), target.dtype)
        target[...] = np.nan
        self._landing.append((target, came.reshape(target.shape)))

    def copy(self, target: Buffer, target_bytes: int, source: Buffer, source_bytes: int, size_bytes: int) -> None:
        self.check()
        _fake(target).part(target_bytes, size_bytes)[...] = _fake(source).part(source_bytes, size_bytes)

    def mark(self) -> Mark:
        self.check()
        landing, self._landing = self._landing, []
        return FakeMark(self, landing)

    def synchronise(self) -> None:
        self.mark().wait()

    def load(self, plan: bytes) -> Program:
        self.check()
        if self._faults.load:
            raise PlanError(self._faults.load)
        try:
            header, arrays = unpack(plan)
        except EngineError as fault:
            raise PlanError(f"the plan does not read: {fault}") from fault
        if header["facts"] != asdict(self._facts):
            raise PlanError(f"the plan is for {header['facts']}, this is {asdict(self._facts)}")
        return FakeProgram(self, self._faults, arrays["graph"].tobytes(), int(header["most"]))

    @property
    def closed(self) -> bool:
        return self.ended.is_set()

    def close(self) -> None:
        self.ended.set()


@dataclass
class FakeMark:
    device: FakeDevice
    landing: list[tuple[Array, Array]]

    def wait(self) -> None:
        self.device.check()
        for target, came in self.landing:
            target[...] = came


class FakeProgram:
    """An ONNX graph whose batch axis is open."""

    def __init__(self, device: FakeDevice, faults: Faults, graph: bytes, most: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        self.device, self.faults, self.most = device, faults, most
        self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        nodes = [(node, True) for node in self.session.get_inputs()]
        nodes += [(node, False) for node in self.session.get_outputs()]
        self.ports = tuple(Port(node.name, tuple(node.shape[1:]), "float32", inside) for node, inside in nodes)

    def bind(self, rows: int, buffers: Mapping[str, Buffer]) -> Launch:
        self.device.check()
        if not 1 <= rows <= self.most:
            raise DeviceError(f"a batch of {rows}: the plan is for 1 to {self.most}")
        if len({id(buffer) for buffer in buffers.values()}) != len(self.ports):
            raise DeviceError("every tensor needs a buffer of its own")
        self.device.binds.append(rows)
        return FakeLaunch(self, rows, buffers)

    def close(self) -> None:
        self.device.check()


class FakeLaunch:
    """One batch size over its buffers."""

    def __init__(self, program: FakeProgram, rows: int, buffers: Mapping[str, Buffer]) -> None:
        self._program, self._rows, self._buffers = program, rows, buffers
        self.captured = not program.faults.capture_refused

    def run(self) -> None:
        program, faults, rows = self._program, self._program.faults, self._rows
        program.device.check()
        if faults.hold is not None:
            faults.hold.wait()
        if faults.run:
            raise DeviceError(faults.run)
        program.device.runs.append(rows)
        feed = {port.name: self._at(port).copy() for port in program.ports if port.is_input}
        names = [port.name for port in program.ports if not port.is_input]
        results = dict(zip(names, program.session.run(names, feed), strict=True))
        off = faults.wrong_by if faults.wrong_rows in (None, rows) else 0.0
        first = np.array(results[names[0]]) + np.float32(off)
        for row in faults.not_finite_rows:
            first[row : row + 1] = np.nan
        results[names[0]] = first
        for port in program.ports:
            if not port.is_input:
                self._at(port)[...] = results[port.name]

    def _at(self, port: Port) -> Array:
        """(rows, ...), a view of the buffer's bytes."""
        size = self._rows * int(np.prod(port.shape)) * 4
        bytes_ = _fake(self._buffers[port.name]).part(0, size)
        return bytes_.view(np.float32).reshape(self._rows, *port.shape)


def _fake(buffer: Buffer) -> FakeBuffer:
    if not isinstance(buffer, FakeBuffer):
        raise DeviceError(f"a {type(buffer).__name__} is no buffer of this device")
    return buffer

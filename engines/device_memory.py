"""The one door to an accelerator: its memory, its stream and the programs on it, as the engine above needs them.

Everything is enqueued in order on one stream of the device; only `synchronise` and `Mark.wait` wait. `engines.
pycuda_device` opens the door on NVIDIA's hardware, `engines.fake_device` on host memory. It refuses to know what a
model is, what a state is, and when anything runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from engines.contract import Array, EngineError

Say = Callable[[str], None]


class DeviceError(EngineError):
    """The device, its driver or its runtime did not do what it was asked: another runtime may."""


class PlanError(DeviceError):
    """A plan that this device and runtime do not take: it must be built again."""


class HangError(DeviceError):
    """The device gave no answer within its limit."""


@dataclass(frozen=True)
class GpuFacts:
    """What a plan is bound to: the device, its driver and the runtime (`runtime`: name and version)."""

    name: str
    capability: str
    driver: str
    runtime: str


@dataclass(frozen=True)
class Profile:
    """Batch sizes a plan is built for: every one from 1 to `most`, fastest at `best`."""

    best: int
    most: int


@dataclass(frozen=True)
class Port:
    """A tensor of a program, without its batch axis."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    is_input: bool


class Buffer(Protocol):
    """Bytes on the device."""

    @property
    def size_bytes(self) -> int: ...

    def free(self) -> None: ...


class Mark(Protocol):
    """A place in the stream."""

    def wait(self) -> None:
        """Until everything enqueued before it is done. Raises DeviceError."""


class Launch(Protocol):
    """A program at one batch size over buffers of its own, to be run again and again."""

    @property
    def captured(self) -> bool:
        """Whether it runs as one recorded graph, not call by call."""

    def run(self) -> None:
        """Enqueue it once. Raises DeviceError."""


class Program(Protocol):
    """A plan that the device has taken."""

    @property
    def ports(self) -> tuple[Port, ...]: ...

    @property
    def most(self) -> int:
        """The largest batch."""

    def bind(self, rows: int, buffers: Mapping[str, Buffer]) -> Launch:
        """Fix batch size and buffers. No buffer may stand for two tensors. Raises DeviceError."""

    def close(self) -> None: ...


class Device(Protocol):
    """Memory and one stream. All calls come from the thread that opened it."""

    def allocate(self, size_bytes: int) -> Buffer:
        """Zeroed bytes, aligned as every tensor needs it. Raises DeviceError where there is no room."""

    def page_locked(self, shape: tuple[int, ...], dtype: str) -> Array:
        """An array in host memory that the device reads and writes by itself; zeroed."""

    def upload(self, target: Buffer, at_bytes: int, source: Array) -> None:
        """Enqueue a copy of a page-locked array to the device: it may not be written to before a later mark."""

    def download(self, target: Array, source: Buffer, at_bytes: int) -> None:
        """Enqueue a copy to a page-locked array: it may not be read before a later mark."""

    def copy(self, target: Buffer, target_bytes: int, source: Buffer, source_bytes: int, size_bytes: int) -> None:
        """Enqueue a copy within the device."""

    def mark(self) -> Mark: ...

    def synchronise(self) -> None: ...

    def load(self, plan: bytes) -> Program:
        """Raises PlanError where the plan is another version's, another device's or torn."""

    def close(self) -> None: ...


@dataclass
class Standing:
    """What all who use one device share. `hangs`: what gave no answer; then none of them tries it in this process."""

    hangs: str | None = None


class Toolkit(Protocol):
    """What makes plans and opens the device."""

    @property
    def facts(self) -> GpuFacts: ...

    @property
    def standing(self) -> Standing: ...

    def build(self, graph: bytes, profile: Profile, tf32: bool, timing: Path | None, say: Say) -> bytes:
        """An ONNX graph -> a plan. `timing`: a file of timings that it reads and renews. Raises DeviceError."""

    def open(self) -> Device:
        """Raises DeviceError."""


@dataclass(frozen=True)
class Lacking:
    """Why there is no toolkit here. `meant`: a device is there, and only software is missing."""

    what: str
    remedy: str
    meant: bool = False

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}"

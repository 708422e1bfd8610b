"""The device on NVIDIA's hardware: pycuda for memory and stream, TensorRT for programs. The only file with either.

Written to what NVIDIA and pycuda document; its names are held against TensorRT-RTX by a test, its memory half has run
against a played driver, and nothing of it on a GPU yet. It must be opened and closed in one thread. The primary context
is shared with whatever else the process runs there.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping
from functools import cache, wraps
from typing import Any, TypeVar

import numpy as np
import pycuda.driver as cuda

from engines.contract import Array
from engines.device_memory import Buffer, Device, DeviceError, Launch, Mark, PlanError, Port, Program
from engines.nvidia import LOGGER, dtype_name, trt

_TAKES_WORKSPACE = hasattr(trt.IExecutionContext, "set_device_memory")
_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
Work = TypeVar("Work", bound=Callable[..., Any])


def _told(work: Work) -> Work:
    """pycuda's errors as ours."""

    @wraps(work)
    def guarded(*arguments: Any, **named: Any) -> Any:
        try:
            return work(*arguments, **named)
        except cuda.Error as fault:
            raise DeviceError(f"CUDA: {fault}") from fault

    return guarded  # type: ignore[return-value]


class CudaBuffer:
    """`cuMemAlloc`: aligned to 256 bytes."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._memory = cuda.mem_alloc(max(size_bytes, 256))
        self.address = int(self._memory)
        cuda.memset_d8(self.address, 0, max(size_bytes, 256))

    def free(self) -> None:
        self._memory.free()


class PycudaDevice:
    """Device 0, its primary context, one stream."""

    @_told
    def __init__(self) -> None:
        cuda.init()
        self._context = cuda.Device(0).retain_primary_context()
        self._context.push()
        self.stream = cuda.Stream()
        self._runtime = trt.Runtime(LOGGER)

    @_told
    def allocate(self, size_bytes: int) -> Buffer:
        return CudaBuffer(size_bytes)

    @_told
    def page_locked(self, shape: tuple[int, ...], dtype: str) -> Array:
        array: Array = cuda.pagelocked_zeros(shape, np.dtype(dtype)) if math.prod(shape) else np.zeros(shape, dtype)
        return array

    @_told
    def upload(self, target: Buffer, at_bytes: int, source: Array) -> None:
        if source.nbytes:
            cuda.memcpy_htod_async(address(target) + at_bytes, source, self.stream)

    @_told
    def download(self, target: Array, source: Buffer, at_bytes: int) -> None:
        if target.nbytes:
            cuda.memcpy_dtoh_async(target, address(source) + at_bytes, self.stream)

    @_told
    def copy(self, target: Buffer, target_bytes: int, source: Buffer, source_bytes: int, size_bytes: int) -> None:
        cuda.memcpy_dtod_async(address(target) + target_bytes, address(source) + source_bytes, size_bytes, self.stream)

    @_told
    def mark(self) -> Mark:
        return CudaMark(self.stream)

    @_told
    def synchronise(self) -> None:
        self.stream.synchronize()

    @_told
    def load(self, plan: bytes) -> Program:
        LOGGER.errors.clear()
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise PlanError(f"TensorRT does not take the plan: {LOGGER.take()}")
        return TensorRtProgram(engine, self)

    @_told
    def close(self) -> None:
        self.stream.synchronize()
        self._runtime = None
        self._context.pop()
        self._context.detach()


class CudaMark:
    """An event."""

    def __init__(self, stream: Any) -> None:
        self._event = cuda.Event(cuda.event_flags.DISABLE_TIMING)
        self._event.record(stream)

    @_told
    def wait(self) -> None:
        self._event.synchronize()


class TensorRtProgram:
    """A deserialised engine. Its contexts share one workspace, since one stream runs them one after another."""

    def __init__(self, engine: Any, device: PycudaDevice) -> None:
        self._engine, self._device = engine, device
        self._workspace: CudaBuffer | None = None
        self._launches: list[TensorRtLaunch] = []
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self.ports = tuple(self._port(name) for name in names)
        first = next(port.name for port in self.ports if port.is_input)
        _least, _best, most = engine.get_tensor_profile_shape(first, 0)
        self.most = int(next(iter(most)))

    def _port(self, name: str) -> Port:
        is_input = self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        shape = tuple(self._engine.get_tensor_shape(name))[1:]
        return Port(name, shape, dtype_name(self._engine.get_tensor_dtype(name)), is_input)

    @_told
    def bind(self, rows: int, buffers: Mapping[str, Buffer]) -> Launch:
        launch = TensorRtLaunch(self.context(), self.ports, rows, buffers, self._device.stream)
        self._launches.append(launch)
        return launch

    def context(self) -> Any:
        """An execution context over the shared workspace, where this version can share it."""
        engine, strategies = self._engine, getattr(trt, "ExecutionContextAllocationStrategy", None)
        if strategies is None or not hasattr(engine, "device_memory_size_v2") or not _TAKES_WORKSPACE:
            context = engine.create_execution_context()
        else:
            context = engine.create_execution_context(strategies.USER_MANAGED)
            if context is not None and (size := int(engine.device_memory_size_v2)) > 0:
                if self._workspace is None:
                    self._workspace = CudaBuffer(size)
                context.set_device_memory(self._workspace.address, size)
        if context is None:
            raise DeviceError(f"TensorRT gives no execution context: {LOGGER.take()}")
        return context

    @_told
    def close(self) -> None:
        """Contexts, then the engine; the runtime goes with the device."""
        self._device.stream.synchronize()
        for launch in self._launches:
            launch.close()
        self._launches.clear()
        self._engine = None
        if self._workspace is not None:
            self._workspace.free()


class TensorRtLaunch:
    """One batch size in a context of its own; recorded as a CUDA graph where that is possible."""

    def __init__(
        self, context: Any, ports: tuple[Port, ...], rows: int, buffers: Mapping[str, Buffer], stream: Any
    ) -> None:
        self._context, self._stream, self._graph = context, stream, None
        for port in ports:
            if port.is_input:
                _must(context.set_input_shape(port.name, (rows, *port.shape)), f"shape of {port.name}")
            _must(context.set_tensor_address(port.name, address(buffers[port.name])), f"address of {port.name}")
        self._enqueue()  # the first one after a shape is set allocates and loads: not to be recorded
        self._stream.synchronize()
        self._graph = _captured(stream, self._enqueue) if self._capturable() else None

    @property
    def captured(self) -> bool:
        return self._graph is not None

    @_told
    def run(self) -> None:
        if self._graph is None:
            self._enqueue()
        else:
            _checked(_driver().cuGraphLaunch(self._graph, ctypes.c_void_p(self._stream.handle)), "cuGraphLaunch")

    def close(self) -> None:
        if self._graph is not None:
            _driver().cuGraphExecDestroy(self._graph)
        self._graph = self._context = None

    def _enqueue(self) -> None:
        _must(self._context.execute_async_v3(self._stream.handle), "enqueue")

    def _capturable(self) -> bool:
        ask = getattr(self._context, "is_stream_capturable", None)
        return ask is None or bool(ask(self._stream.handle))


def _captured(stream: Any, enqueue: Callable[[], None]) -> ctypes.c_void_p | None:
    """What `enqueue` enqueues as an executable graph; None where it cannot be recorded (then it runs call by call)."""
    driver, handle, graph, ready = _driver(), ctypes.c_void_p(stream.handle), ctypes.c_void_p(), ctypes.c_void_p()
    if driver.cuStreamBeginCapture_v2(handle, _THREAD_LOCAL):
        return None
    try:
        enqueue()
        refused = False
    except DeviceError:
        refused = True
    code = driver.cuStreamEndCapture(handle, ctypes.byref(graph))
    if refused or code or not graph.value:
        return None
    code = driver.cuGraphInstantiateWithFlags(ctypes.byref(ready), graph, ctypes.c_ulonglong(0))
    driver.cuGraphDestroy(graph)
    return None if code else ready


def address(buffer: Buffer) -> int:
    if not isinstance(buffer, CudaBuffer):
        raise DeviceError(f"a {type(buffer).__name__} is no buffer of this device")
    return buffer.address


@cache
def _driver() -> Any:
    return ctypes.CDLL("libcuda.so.1")  # pycuda has no calls for graphs


def _checked(code: int, what: str) -> None:
    if code:
        raise DeviceError(f"{what}: CUDA driver error {code}")


def _must(done: bool, what: str) -> None:
    if not done:
        raise DeviceError(f"TensorRT refuses the {what}: {LOGGER.take()}")


_DEVICE: type[Device] = PycudaDevice  # the type checker holds it against the door here

"""TensorRT's builder, strongly typed, for TensorRT 10.3 to 11.4 and TensorRT-RTX: the only file that imports one.

Precision stands in the graph: no precision flag of the builder is set (TensorRT 11 has none). TensorRT-RTX parses and
builds without a device, which is how every model is tried without one. It refuses to know what runs.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engines.device_memory import Device, DeviceError, GpuFacts, Profile, Say, Standing

try:
    import tensorrt as trt

    FLAVOUR = "tensorrt"
except ImportError:  # the same interface, an engine for desktop GPUs
    import tensorrt_rtx as trt

    FLAVOUR = "tensorrt_rtx"

__all__ = ["LOGGER", "RUNTIME", "Built", "NvidiaToolkit", "build", "dtype_name", "trt"]
log = logging.getLogger(__name__)
RUNTIME = f"{FLAVOUR} {trt.__version__}"
_LEVELS = {0: logging.ERROR, 1: logging.ERROR, 2: logging.WARNING, 3: logging.DEBUG, 4: logging.DEBUG}


class Logger(trt.ILogger):  # type: ignore[misc]
    """TensorRT's words to our log; the errors are kept, for they say why something came back empty."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors: list[str] = []

    def log(self, severity: Any, message: str) -> None:
        level = _LEVELS.get(int(severity), logging.DEBUG)
        if level == logging.ERROR:
            self.errors.append(message)
        log.log(level, message)

    def take(self) -> str:
        """Why it failed, and nothing the next time."""
        text, self.errors = "; ".join(self.errors) or "no reason given", []
        return text


LOGGER = Logger()  # it must outlive every object of TensorRT


@dataclass(frozen=True)
class Built:
    """A plan, and what the parser and the profile made of the graph: name -> (shape with -1 for the batch, dtype)."""

    plan: bytes
    inputs: Mapping[str, tuple[tuple[int, ...], str]]
    outputs: Mapping[str, tuple[tuple[int, ...], str]]
    batches: Mapping[str, tuple[int, int, int]]


class NvidiaToolkit:
    """Builds plans and opens the device."""

    def __init__(self, device: GpuFacts) -> None:
        self.facts, self.standing = replace(device, runtime=RUNTIME), Standing()

    def build(self, graph: bytes, profile: Profile, tf32: bool, timing: Path | None, say: Say) -> bytes:
        return build(graph, profile, tf32, timing, say).plan

    def open(self) -> Device:
        from engines.pycuda_device import PycudaDevice

        return PycudaDevice()


def build(
    graph: bytes, profile: Profile, tf32: bool, timing: Path | None = None, say: Say = lambda line: None
) -> Built:
    """Parse and build; no device is needed with TensorRT-RTX. Raises DeviceError with TensorRT's own reason."""
    LOGGER.errors.clear()
    builder = trt.Builder(LOGGER)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, LOGGER)  # the network must live as long as the parser
    if not parser.parse(graph):
        faults = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise DeviceError(f"TensorRT does not read the graph: {faults}")
    config = builder.create_builder_config()
    if not tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    batches = _add_profile(builder, network, config, profile)
    monitor = _progress(config, say)
    cache = _timings(config, timing)
    plan = builder.build_serialized_network(network, config)
    del monitor  # it must outlive the build
    if plan is None:
        raise DeviceError(f"TensorRT does not build the plan: {LOGGER.take()}")
    if timing is not None and cache is not None:
        _keep_timings(cache, timing)
    ports = [
        {tensor.name: (tuple(tensor.shape), dtype_name(tensor.dtype)) for tensor in tensors}
        for tensors in (
            [network.get_input(i) for i in range(network.num_inputs)],
            [network.get_output(i) for i in range(network.num_outputs)],
        )
    ]
    return Built(bytes(memoryview(plan)), ports[0], ports[1], batches)


def dtype_name(dtype: Any) -> str:
    """As numpy calls it."""
    names = {"FLOAT": "float32", "HALF": "float16", "INT8": "int8", "INT32": "int32", "INT64": "int64", "BOOL": "bool"}
    return names.get(str(dtype).rpartition(".")[2].split(":")[0].strip("<> "), str(dtype))


def _add_profile(builder: Any, network: Any, config: Any, profile: Profile) -> dict[str, tuple[int, int, int]]:
    """One profile over all inputs: only the batch axis is open. Raises DeviceError where another axis is."""
    one = builder.create_optimization_profile()
    sizes = (1, profile.best, profile.most)
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        row = tuple(tensor.shape)[1:]
        if tensor.shape[0] != -1 or any(side < 0 for side in row):
            raise DeviceError(f"input {tensor.name} is {tuple(tensor.shape)}: only its batch may, and must, be open")
        one.set_shape(tensor.name, *[(size, *row) for size in sizes])
    if config.add_optimization_profile(one) != 0:
        raise DeviceError(f"TensorRT refuses the profile {sizes}: {LOGGER.take()}")
    return {network.get_input(i).name: (sizes[0], sizes[1], sizes[2]) for i in range(network.num_inputs)}


def _progress(config: Any, say: Say) -> object:
    """Tells each outer phase once; None where this version has no such interface."""
    if not hasattr(trt, "IProgressMonitor") or not hasattr(config, "progress_monitor"):
        return None

    class Progress(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            if not parent:
                say(f"{phase} ({steps} steps)")

        def step_complete(self, phase: str, step: int) -> bool:
            return True

        def phase_finish(self, phase: str) -> None:
            pass

    monitor = Progress()
    config.progress_monitor = monitor
    return monitor


def _timings(config: Any, path: Path | None) -> Any:
    """The timings of earlier builds, or none; those of another device or version are left out."""
    if path is None or FLAVOUR == "tensorrt_rtx":  # TensorRT-RTX times nothing while it builds
        return None
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as fault:
        log.warning("timings of earlier builds do not read", extra={"reason": str(fault)})
        content = b""
    for attempt in (content, b""):
        cache = config.create_timing_cache(attempt)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
    LOGGER.errors.clear()
    return None


def _keep_timings(cache: Any, path: Path) -> None:
    """For the next build; a disk that refuses costs that one some minutes, and this one nothing."""
    blob = cache.serialize()
    if blob is None:
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}")  # another process may build as well
    try:
        draft.write_bytes(bytes(memoryview(blob)))
        draft.replace(path)
    except OSError as fault:
        log.warning("timings of this build are not kept", extra={"reason": str(fault)})

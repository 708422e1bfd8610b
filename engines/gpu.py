"""Is there a GPU here, and what is missing to use it: asked of the driver, none of its software is imported.

The order is that of cause: driver, device, TensorRT, pycuda. Only where all are there `engines.nvidia` is imported:
NVIDIA's runtime may end the process on a machine without a device.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable
from functools import cache
from typing import Any

from engines.device_memory import DeviceError, GpuFacts, HangError, Lacking, Toolkit
from engines.device_thread import DeviceThread

DRIVER_LIMIT_S, IMPORT_LIMIT_S = 10.0, 60.0  # a cold disk reads gigabytes of TensorRT; both lie within TimeoutStartSec
NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
_CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
TENSORRT = ("tensorrt", "tensorrt_rtx")
_EXTRA = "pip install 'pellucid[tensorrt]' (on a Jetson 'pellucid[jetson]'"
_SOFTWARE = {
    "TensorRT": (TENSORRT, f"{_EXTRA}, and apt-get install python3-libnvinfer: deploy/jetson.md)"),
    "pycuda": (("pycuda",), f"{_EXTRA}); it is compiled here, nvcc must be on the PATH"),
    "onnx": (("onnx",), f"{_EXTRA})"),
}


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def look(
    load_driver: Callable[[], Any] = lambda: ctypes.CDLL("libcuda.so.1"),
    is_installed: Callable[[str], bool] = installed,
) -> GpuFacts | Lacking:
    """The first device (its runtime not yet named), or the first thing that is missing."""
    try:
        driver = load_driver()
    except OSError:
        return Lacking("no NVIDIA driver (libcuda.so.1)", "on a machine with an NVIDIA GPU, install its driver")
    code, count = int(driver.cuInit(0)), ctypes.c_int()
    if code == 0:
        code = int(driver.cuDeviceGetCount(ctypes.byref(count)))
    if code == NO_DEVICE or (code == 0 and count.value == 0):
        return Lacking(
            "an NVIDIA driver, but no device", "see that the GPU is in, powered and given to this machine (nvidia-smi)"
        )
    if code:
        remedy = "driver and kernel module may differ after an update: restart the machine (nvidia-smi says more)"
        return Lacking(f"the NVIDIA driver does not start (error {code})", remedy, meant=True)
    facts = _facts(driver)
    missing = [(what, remedy) for what, (names, remedy) in _SOFTWARE.items() if not any(map(is_installed, names))]
    if missing:
        names = " and ".join(what for what, _ in missing)
        return Lacking(f"{facts.name} is here, but {names} not installed", missing[0][1])
    return facts


def _facts(driver: Any) -> GpuFacts:
    device, version, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
    driver.cuDeviceGet(ctypes.byref(device), 0)
    driver.cuDeviceGetName(name, 256, device)
    driver.cuDriverGetVersion(ctypes.byref(version))
    numbers = []
    for attribute in _CAPABILITY:
        value = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        numbers.append(str(value.value))
    text = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return GpuFacts(name.value.decode(), ".".join(numbers), text, "")


@cache
def find_toolkit() -> Toolkit | Lacking:
    """What serves this process, or why nothing does."""
    return within_limits(look, _toolkit)


def within_limits(
    look: Callable[[], GpuFacts | Lacking],
    load: Callable[[GpuFacts], Toolkit | Lacking],
    driver_s: float = DRIVER_LIMIT_S,
    import_s: float = IMPORT_LIMIT_S,
) -> Toolkit | Lacking:
    """Both on a thread that nobody waits for longer: a wedged driver never comes back from `cuInit`."""
    thread, limit_s, doing = DeviceThread("gpu driver"), driver_s, "the NVIDIA driver"
    try:
        found = thread.call(look, driver_s)
        if isinstance(found, Lacking):
            return found
        facts, limit_s, doing = found, import_s, "the load of TensorRT and pycuda"
        return thread.call(lambda: load(facts), import_s)
    except HangError:
        return Lacking(f"{doing} gives no answer within {limit_s:g} s", "restart the machine (nvidia-smi)", meant=True)
    except DeviceError as fault:
        return Lacking(f"{doing} fails ({fault})", "see that driver and software fit (nvidia-smi)", meant=True)
    finally:
        thread.end()


def _toolkit(found: GpuFacts) -> Toolkit | Lacking:
    try:
        import engines.pycuda_device  # noqa: F401 - what does not load is to be told here, not in the first step
        from engines.nvidia import NvidiaToolkit

        return NvidiaToolkit(found)
    except Exception as fault:  # noqa: BLE001 - NVIDIA's packages raise what they like while they are imported
        return Lacking(f"TensorRT or pycuda does not load ({fault!r})", "install what fits this driver", meant=True)

"""What an operator wants to know of a GPU: memory, temperature, power, and whether it is slowed down.

On a box from NVML (`pip install 'pellucid[tensorrt]'` brings it), on a Jetson from sysfs, whose memory is the whole
machine's. A figure that is not to be had is None. It may hang where the device hangs: whoever calls waits in a thread.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# clocks are held down by: power cap, hardware slowdown, software and hardware thermal slowdown, power brake
SLOWED = 0x4 | 0x8 | 0x20 | 0x40 | 0x80
_MICRO = 1e-6  # mV times mA is microwatts


@dataclass(frozen=True)
class GpuFigures:
    """Of one GPU, by its index."""

    gpu: str
    memory_used_bytes: float | None = None
    memory_total_bytes: float | None = None
    temperature_celsius: float | None = None
    power_watts: float | None = None
    throttled: bool | None = None


def read_figures(root: Path = Path("/"), nvml: Any = None) -> list[GpuFigures]:
    """Of every GPU here; none where there is none, or nothing tells. `root`, `nvml`: for a test to put others there."""
    if is_jetson(root):
        return [jetson_figures(root)]
    if nvml is None:
        if importlib.util.find_spec("pynvml") is None:
            return []
        nvml = importlib.import_module("pynvml")
    return nvml_figures(nvml)


def is_jetson(root: Path) -> bool:
    return "jetson" in _text(root / "proc/device-tree/model").lower()


def nvml_figures(nvml: Any) -> list[GpuFigures]:
    """`nvml`: the module of nvidia-ml-py."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:  # no driver here, or not the one that fits
        return []
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        return [_of_handle(nvml, str(index), handle) for index, handle in enumerate(handles)]
    except nvml.NVMLError:
        return []
    finally:
        nvml.nvmlShutdown()


def _of_handle(nvml: Any, index: str, handle: Any) -> GpuFigures:
    def asked(work: Callable[[], Any]) -> Any:
        try:
            return work()
        except nvml.NVMLError:  # this GPU does not tell
            return None

    memory = asked(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
    power_mw = asked(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
    ask = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
    reasons = asked(lambda: (ask or nvml.nvmlDeviceGetCurrentClocksThrottleReasons)(handle))
    return GpuFigures(
        index,
        None if memory is None else float(memory.used),
        None if memory is None else float(memory.total),
        _float(asked(lambda: nvml.nvmlDeviceGetTemperature(handle, 0))),
        None if power_mw is None else power_mw / 1e3,
        None if reasons is None else bool(reasons & SLOWED),
    )


def jetson_figures(root: Path) -> GpuFigures:
    """The integrated GPU of a Jetson, as JetPack 6 and 7 lay it out."""
    total, available = (_meminfo(root, key) for key in ("MemTotal", "MemAvailable"))
    states = [_number(path / "cur_state") for path, kind in _typed(root, "cooling_device") if "gpu" in kind]
    known = [state for state in states if state is not None]
    hot = [_thousandth(path / "temp") for path, kind in _typed(root, "thermal_zone") if kind.startswith("gpu")]
    return GpuFigures(
        "0",
        None if total is None or available is None else total - available,
        total,
        next(iter(hot), None),
        _jetson_power_watts(root),
        any(state > 0 for state in known) if known else None,
    )


def _typed(root: Path, kind: str) -> Iterator[tuple[Path, str]]:
    """Thermal zones or cooling devices, with what they call themselves."""
    for path in sorted((root / "sys/class/thermal").glob(f"{kind}*")):
        yield path, _text(path / "type").lower()


def _jetson_power_watts(root: Path) -> float | None:
    """The rail that carries the GPU: VDD_GPU_SOC, VDD_CPU_GPU_CV, VDD_GPU; what else hangs on it is in the figure."""
    for label in sorted((root / "sys/class/hwmon").glob("hwmon*/in*_label")):
        if "gpu" not in _text(label).lower():
            continue
        number = label.name.removeprefix("in").removesuffix("_label")
        volts, amperes = (_number(label.with_name(f"{what}{number}_input")) for what in ("in", "curr"))
        if volts is not None and amperes is not None:
            return volts * amperes * _MICRO
    return None


def _meminfo(root: Path, key: str) -> float | None:
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith(f"{key}:"):
            return float(line.split()[1]) * 1024
    return None


def _thousandth(path: Path) -> float | None:
    value = _number(path)
    return None if value is None else value / 1e3


def _number(path: Path) -> float | None:
    try:
        return float(_text(path))
    except ValueError:
        return None


def _float(value: Any) -> float | None:
    return None if value is None else float(value)


def _text(path: Path) -> str:
    """Empty where it does not read: a sensor of a part that sleeps gives an error."""
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:
        return ""

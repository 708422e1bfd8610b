"""What serves is told as it changes; the GPU's figures come in a thread and never look newer than they are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engines.device_memory import Lacking
from engines.gpu_figures import GpuFigures, jetson_figures, nvml_figures, read_figures
from engines.load import BUNDLED_MODELS, GpuUse, find_manifest, load_engine
from monitor.check import _engine, _gpu
from monitor.metrics import Metrics
from monitor.serving import EVERY_S, Serving, engine_facts
from tests.house import FakeClock, new_metrics, scripted

BOX = GpuFigures("0", 2e9, 8e9, 61.0, 120.5, False)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"pellucid_{name}", labels)


def test_an_engine_that_falls_back_and_comes_back_is_told_with_the_reason() -> None:
    metrics, loaded = new_metrics(clock := FakeClock()), scripted()
    loaded.engine.fallback = None  # type: ignore[attr-defined]
    serving = Serving(loaded, metrics, clock.monotonic, lambda: ())
    for reason in (None, "the device is lost", None):
        loaded.engine.fallback = reason  # type: ignore[attr-defined]
        serving.refresh()
        assert value(metrics, "engine_fallback", engine="scripted") == int(reason is not None)
        (facts,) = serving.facts()
        assert (facts.fallback, facts.reason) == (reason is not None, reason)


def test_what_a_model_lacks_is_its_fallback() -> None:
    (facts,) = engine_facts(replace(scripted(), lacks="no TensorRT: install it"))
    assert facts.fallback and facts.reason == "no TensorRT: install it"


class Answers:
    """Figures that come when a test lets them; `done` tells that the thread is through."""

    def __init__(self) -> None:
        self.go, self.asked = threading.Event(), 0
        self.figures: Sequence[GpuFigures] = (BOX,)

    def __call__(self) -> Sequence[GpuFigures]:
        self.asked += 1
        self.go.wait()
        return self.figures


def refresh_until(serving: Serving, holds: Callable[[], bool]) -> None:
    for _ in range(100_000):
        serving.refresh()
        if holds():
            return
    raise AssertionError("it never came")


def test_figures_of_the_gpu_are_metrics_and_are_gone_while_the_driver_gives_no_answer() -> None:
    metrics, clock, answers = new_metrics(FakeClock()), FakeClock(), Answers()
    serving = Serving(scripted(), metrics, clock.monotonic, answers)
    answers.go.set()
    refresh_until(serving, lambda: value(metrics, "gpu_power_watts", gpu="0") == 120.5)
    assert value(metrics, "gpu_memory_bytes", gpu="0", kind="used") == 2e9
    assert value(metrics, "gpu_memory_bytes", gpu="0", kind="total") == 8e9
    assert value(metrics, "gpu_temperature_celsius", gpu="0") == 61.0
    assert value(metrics, "gpu_throttled", gpu="0") == 0
    serving.refresh()
    assert answers.asked == 1, "it is asked once in a while only"
    answers.go.clear()
    clock.pass_s(EVERY_S)
    serving.refresh()
    clock.pass_s(EVERY_S)
    serving.refresh()
    assert answers.asked == 2 and value(metrics, "gpu_power_watts", gpu="0") is None
    answers.go.set()
    refresh_until(serving, lambda: value(metrics, "gpu_power_watts", gpu="0") == 120.5)


def test_a_figure_that_is_not_told_has_no_series() -> None:
    metrics = new_metrics(FakeClock())
    metrics.gpu_told([replace(BOX, power_watts=None, throttled=True)])
    assert value(metrics, "gpu_power_watts", gpu="0") is None and value(metrics, "gpu_throttled", gpu="0") == 1


# Where they come from


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def orin(root: Path) -> None:
    write(root, "proc/device-tree/model", "NVIDIA Jetson Orin NX Engineering Reference Developer Kit\0")
    write(root, "proc/meminfo", "MemTotal:       16000000 kB\nMemFree: 1 kB\nMemAvailable:    6000000 kB\n")
    write(root, "sys/class/thermal/thermal_zone0/type", "cpu-thermal\n")
    write(root, "sys/class/thermal/thermal_zone0/temp", "99000\n")
    write(root, "sys/class/thermal/thermal_zone1/type", "gpu-thermal\n")
    write(root, "sys/class/thermal/thermal_zone1/temp", "54625\n")
    write(root, "sys/class/thermal/cooling_device3/type", "gpu-throttle-alert\n")
    write(root, "sys/class/thermal/cooling_device3/cur_state", "0\n")
    for number, label, milli_v, milli_a in ((1, "VDD_IN", 5000, 3000), (2, "VDD_CPU_GPU_CV", 5000, 1500)):
        write(root, f"sys/class/hwmon/hwmon4/in{number}_label", f"{label}\n")
        write(root, f"sys/class/hwmon/hwmon4/in{number}_input", f"{milli_v}\n")
        write(root, f"sys/class/hwmon/hwmon4/curr{number}_input", f"{milli_a}\n")


def test_a_jetson_tells_by_sysfs(tmp_path: Path) -> None:
    orin(tmp_path)
    assert read_figures(tmp_path) == [GpuFigures("0", 10_000_000 * 1024, 16_000_000 * 1024, 54.625, 7.5, False)]
    write(tmp_path, "sys/class/thermal/cooling_device3/cur_state", "1\n")
    assert jetson_figures(tmp_path).throttled is True


def test_what_a_jetson_does_not_tell_is_none(tmp_path: Path) -> None:
    write(tmp_path, "proc/device-tree/model", "NVIDIA Jetson\0")
    write(tmp_path, "sys/class/thermal/thermal_zone1/type", "gpu-thermal\n")  # its temperature gives an error
    assert read_figures(tmp_path) == [GpuFigures("0")]


class NvmlError(Exception):
    pass


def nvml(**other: Any) -> Any:
    def refuses(*_: object) -> Any:
        raise NvmlError("not supported")

    told = {
        "NVMLError": NvmlError,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(used=2e9, total=8e9),
        "nvmlDeviceGetTemperature": lambda handle, sensor: 61,
        "nvmlDeviceGetPowerUsage": lambda handle: refuses() if handle else 120_500,
        "nvmlDeviceGetCurrentClocksEventReasons": lambda handle: 0x1 | (0x40 if handle else 0),
    }
    return SimpleNamespace(**(told | {name: refuses if what is None else what for name, what in other.items()}))


def test_a_box_tells_by_nvml_each_gpu_as_far_as_it_does(tmp_path: Path) -> None:
    assert read_figures(tmp_path, nvml()) == [BOX, replace(BOX, gpu="1", power_watts=None, throttled=True)]


@pytest.mark.parametrize("refused", ["nvmlInit", "nvmlDeviceGetCount"])
def test_a_box_without_a_driver_tells_nothing(refused: str) -> None:
    assert nvml_figures(nvml(**{refused: None})) == []


# What `check` says


@pytest.mark.parametrize(
    ("device", "meant", "level"), [("auto", False, "ok"), ("auto", True, "warning"), ("gpu", False, "error")]
)
def test_check_tells_what_of_a_gpu_is_missing_and_how_to_get_it(device: Any, meant: bool, level: str) -> None:
    use = GpuUse(find=lambda: Lacking("Orin is here, but pycuda not installed", "pip install it", meant))
    loaded = load_engine(find_manifest("amsnet-small", BUNDLED_MODELS), device, 1, use)
    finding = _gpu(loaded, device)
    assert finding.level == level and "Orin is here, but pycuda not installed: pip install it" in finding.detail
    assert _engine(loaded).level == "ok" and "onnxruntime" in _engine(loaded).detail


def test_check_tells_that_a_gpu_engine_is_on_its_fallback_and_looks_for_no_gpu_where_the_cpu_was_asked_for() -> None:
    loaded = scripted()
    loaded.engine.fallback = "no plan yet"  # type: ignore[attr-defined]
    finding = _engine(loaded)
    assert finding.level == "warning" and "not on the GPU: no plan yet" in finding.detail
    assert "not looked for" in _gpu(loaded, "cpu").detail

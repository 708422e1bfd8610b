"""What is said of a GPU and of what is missing to use it, by a driver that a test plays."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from engines.device_memory import GpuFacts, Lacking
from engines.gpu import look, within_limits

HOME = Path(__file__).resolve().parents[1]


class Driver:
    """libcuda as far as it is asked; `code` is what `cuInit` says."""

    def __init__(self, code: int = 0, devices: int = 1, name: bytes = b"Orin", version: int = 12060) -> None:
        self.code, self.devices, self.name, self.version = code, devices, name, version

    def cuInit(self, flags: int) -> int:
        return self.code

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self.devices
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: ctypes.c_int) -> int:
        name.value = self.name
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = self.version
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: ctypes.c_int) -> int:
        value._obj.value = {75: 8, 76: 7}[attribute]
        return 0


def no_driver() -> Any:
    raise OSError("libcuda.so.1: cannot open shared object file")


@pytest.mark.parametrize(
    ("load", "what", "meant"),
    [
        (no_driver, "no NVIDIA driver", False),
        (lambda: Driver(100), "an NVIDIA driver, but no device", False),
        (lambda: Driver(devices=0), "an NVIDIA driver, but no device", False),
        (lambda: Driver(803), "the NVIDIA driver does not start (error 803)", True),
    ],
)
def test_it_tells_no_driver_from_no_device_from_a_driver_that_does_not_start(load: Any, what: str, meant: bool) -> None:
    found = look(load, lambda name: True)
    assert isinstance(found, Lacking) and found.what.startswith(what) and found.meant is meant and found.remedy


@pytest.mark.parametrize(
    ("there", "missing"),
    [
        ((), "TensorRT and pycuda and onnx not installed"),
        (("tensorrt", "onnx"), "pycuda not installed"),
        (("tensorrt_rtx", "pycuda"), "onnx not installed"),
    ],
)
def test_it_names_what_is_not_installed_and_how_to_get_it(there: tuple[str, ...], missing: str) -> None:
    found = look(Driver, lambda name: name in there)
    assert isinstance(found, Lacking) and found.what == f"Orin is here, but {missing}"
    assert "pip install 'pellucid[tensorrt]'" in found.remedy and not found.meant


def test_a_device_is_named_with_its_capability_and_driver() -> None:
    found = look(Driver, lambda name: name in ("tensorrt_rtx", "pycuda", "onnx"))
    assert found == GpuFacts("Orin", "8.7", "12.6", "")


def test_a_driver_that_gives_no_answer_is_told_and_not_waited_for() -> None:
    never = threading.Event()
    found = within_limits(lambda: Lacking(str(never.wait()), ""), lambda facts: Lacking("", ""), driver_s=0.05)
    assert isinstance(found, Lacking) and found.meant
    assert found.what == "the NVIDIA driver gives no answer within 0.05 s"
    never.set()


def test_software_that_never_comes_back_from_its_import_is_not_waited_for_either() -> None:
    never, facts = threading.Event(), GpuFacts("Orin", "8.7", "12.6", "")
    found = within_limits(lambda: facts, lambda facts: Lacking(str(never.wait()), ""), import_s=0.05)
    assert isinstance(found, Lacking) and found.what.startswith("the load of TensorRT and pycuda gives no answer")
    never.set()


def test_a_driver_that_lacks_a_function_is_told() -> None:
    found = within_limits(lambda: look(object, lambda name: True), lambda facts: Lacking("", ""))
    assert isinstance(found, Lacking) and "cuInit" in found.what and found.meant


def test_looking_for_a_gpu_imports_nothing_of_nvidias() -> None:
    code = "import sys, engines.gpu, engines.guard; engines.gpu.find_toolkit(); print(sorted(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=HOME).stdout
    if "'engines.nvidia'" in said:
        pytest.skip("this machine has a GPU and all of its software")
    for library in ("tensorrt", "tensorrt_rtx", "pycuda", "pynvml", "onnxruntime"):
        assert f"'{library}'" not in said

"""Every model read and built by NVIDIA's own parser and builder, without a GPU: TensorRT-RTX does both on a CPU.

What is asserted is what the engine relies on: names, shapes, types, the one profile, and that a plan came of it. That
a plan runs, and says what ONNX Runtime says, only a GPU can show: deploy/gpu-check.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.rtx
trt = pytest.importorskip("tensorrt_rtx", reason="needs the extra rtx-check: make test-rtx")
pytest.importorskip("onnx", reason="needs the extra rtx-check: make test-rtx")

from engines import nvidia  # noqa: E402
from engines.build import PROFILE  # noqa: E402
from engines.device_memory import DeviceError, Port, Profile  # noqa: E402
from engines.load import BUNDLED_MODELS, find_manifests  # noqa: E402
from engines.manifest import Part, graph_path, read_manifest  # noqa: E402
from engines.precision import ready_graph  # noqa: E402
from engines.tensorrt_engine import check_ports  # noqa: E402
from tests.tiny import GRAPH, write_tiny  # noqa: E402

HOME = Path(__file__).resolve().parents[1]
FULL_SIZE = HOME / "build" / "models"  # where `make full-size` puts it, or a part of it
MANIFESTS = [*find_manifests(BUNDLED_MODELS), *sorted(FULL_SIZE.glob("*.json"))]
GRAPHS = [(path, index) for path in MANIFESTS for index in range(len(read_manifest(path).parts()))]


def part_of(path: Path, index: int, compute: str | None = None) -> tuple[bytes, Part]:
    """The graph made ready as its manifest says, or in the precision `compute`."""
    manifest = read_manifest(path)
    part = manifest.parts()[index]
    if compute is not None:
        part = Part(part.graph, part.spec, part.precision.model_copy(update={"compute": compute}))
    return ready_graph(graph_path(path, manifest, part.graph), part.precision), part


def ports(built: nvidia.Built) -> list[Port]:
    sides = ((built.inputs, True), (built.outputs, False))
    return [Port(name, shape[1:], dtype, inside) for told, inside in sides for name, (shape, dtype) in told.items()]


def initializers(graph: bytes) -> list[Any]:
    import onnx

    return list(onnx.load_model_from_string(graph).graph.initializer)


@pytest.mark.parametrize(("path", "index"), GRAPHS, ids=[f"{path.stem}-{index}" for path, index in GRAPHS])
def test_every_model_is_built_as_its_manifest_says(path: Path, index: int) -> None:
    graph, part = part_of(path, index)
    built = nvidia.build(graph, PROFILE, tf32=part.precision.compute == "fp16")
    check_ports(part.spec, ports(built))
    assert {shape[0] for shape, _ in (*built.inputs.values(), *built.outputs.values())} == {-1}, "the batch is open"
    assert built.batches == dict.fromkeys(built.inputs, (1, PROFILE.best, PROFILE.most))
    assert len(built.plan) > 10_000


@pytest.mark.parametrize("compute", ["fp16", "fp32"])
def test_the_other_precision_is_built_too(compute: str) -> None:
    path = next(path for path in MANIFESTS if path.stem == "amsnet-small")
    graph, part = part_of(path, 0, compute)
    built = nvidia.build(graph, Profile(2, 4), tf32=False)
    check_ports(part.spec, ports(built))  # in and out stay fp32, whatever is computed in between
    assert (b"float16" in graph or len(graph) < 0.7 * path.with_suffix(".onnx").stat().st_size) == (compute == "fp16")


def test_the_build_tells_its_phases_and_writes_nothing_where_nothing_is_timed(tmp_path: Path) -> None:
    said: list[str] = []
    nvidia.build(GRAPH, Profile(2, 4), False, tmp_path / "timing.cache", said.append)
    assert any("steps)" in line for line in said) and not list(tmp_path.iterdir())


def test_a_graph_that_is_none_is_refused_with_the_parsers_reason() -> None:
    with pytest.raises(DeviceError, match=r"TensorRT does not read the graph: .+"):
        nvidia.build(b"not a graph", PROFILE, False)


def test_a_graph_the_builder_refuses_is_told_with_its_reason() -> None:
    """Weights kept as whole numbers, not yet folded: the reason that graphs are made ready."""
    import onnx

    raw = [graph_path(path, read_manifest(path), read_manifest(path).parts()[index].graph) for path, index in GRAPHS]
    whole = (one.read_bytes() for one in raw)
    rounded = next((one for one in whole if any(i.data_type == onnx.TensorProto.INT8 for i in initializers(one))), None)
    if rounded is None:
        pytest.skip("no model keeps its weights as whole numbers")
    with pytest.raises(DeviceError, match=r"TensorRT does not build the plan: .*[Qq]uantized constant"):
        nvidia.build(rounded, PROFILE, False)


def test_an_axis_that_is_open_beside_the_batch_is_refused(tmp_path: Path) -> None:
    import onnx

    model = onnx.load_model_from_string(GRAPH)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "H"
    with pytest.raises(DeviceError, match=r"input x is .*: only its batch may, and must, be open"):
        nvidia.build(model.SerializeToString(), PROFILE, False)


def test_every_call_the_device_makes_to_tensorrt_is_one_that_it_has() -> None:
    """The device's file cannot be imported without pycuda; its text can be read."""
    owners = {
        **dict.fromkeys(("engine", "_engine"), trt.ICudaEngine),
        **dict.fromkeys(("context", "_context"), trt.IExecutionContext),
        "_runtime": trt.Runtime,
        "trt": trt,
    }
    of_pycuda = {"push", "pop", "detach"}
    asked: set[tuple[str, str]] = set()
    for node in ast.walk(ast.parse((HOME / "engines" / "pycuda_device.py").read_text())):
        if isinstance(node, ast.Attribute) and node.attr not in of_pycuda:
            base = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
            if base in owners:
                asked.add((base, node.attr))
    assert len(asked) > 12
    assert not [one for one in sorted(asked) if not hasattr(owners[one[0]], one[1])]


def test_a_plan_without_a_device_is_refused_with_a_reason_and_the_process_lives() -> None:
    plan = nvidia.build(GRAPH, Profile(2, 4), False).plan
    if trt.Runtime(nvidia.LOGGER).deserialize_cuda_engine(plan) is not None:
        pytest.skip("this machine has a GPU")
    assert "CUDA" in nvidia.LOGGER.take()


def test_the_runtime_names_its_flavour_and_version(tmp_path: Path) -> None:
    assert f"tensorrt_rtx {trt.__version__}" == nvidia.RUNTIME and write_tiny(tmp_path).exists()

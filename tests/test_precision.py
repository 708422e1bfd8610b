"""The fp16 graph that is made for a GPU: what stays fp32, and how far it lies from what the CPU says.

ONNX Runtime's CPU kernels compute fp16 graphs in fp32 between casts: weights and maps are rounded as on a GPU, sums are
not. On a GPU the guard's golden frames decide.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.golden import apart
from engines.load import BUNDLED_MODELS, find_manifests
from engines.manifest import FP32_OPERATIONS, Manifest, Part, Precision, graph_path, read_manifest
from engines.onnxruntime_engine import OnnxRuntimeEngine
from engines.precision import ready_graph
from tests.tiny import write_tiny

MANIFESTS = find_manifests(BUNDLED_MODELS)
GRAPHS = [(path, index) for path in MANIFESTS for index in range(len(read_manifest(path).parts()))]
every_graph = pytest.mark.parametrize(("path", "index"), GRAPHS, ids=[f"{path.stem}-{index}" for path, index in GRAPHS])


def halved(path: Path, index: int) -> tuple[Manifest, Part, Path]:
    manifest = read_manifest(path)
    part = manifest.parts()[index]
    half = Part(part.graph, part.spec, part.precision.model_copy(update={"compute": "fp16"}))
    return manifest, half, graph_path(path, manifest, part.graph)


@pytest.mark.rtx
@every_graph
def test_the_fp16_twin_says_within_its_tolerance_what_the_cpu_says(path: Path, index: int, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    manifest, part, graph = halved(path, index)
    twin = tmp_path / "twin.onnx"
    twin.write_bytes(ready_graph(graph, part.precision))
    found = apart(OnnxRuntimeEngine(twin, part.spec, 1), OnnxRuntimeEngine(graph, part.spec, 1))
    assert found.fault(part, manifest.tolerance) is None
    assert found.outputs > 0, "nothing was rounded: it is no fp16 twin"


@pytest.mark.rtx
@every_graph
def test_sensitive_operations_see_no_fp16_and_convolutions_see_nothing_else(path: Path, index: int) -> None:
    onnx = pytest.importorskip("onnx")
    _, part, graph = halved(path, index)
    whole = onnx.load_model_from_string(ready_graph(graph, part.precision))
    onnx.checker.check_model(whole, full_check=True)
    model = whole.graph
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    assert {value.type.tensor_type.elem_type for value in (*model.input, *model.output)} == {single}
    types = {value.name: value.type.tensor_type.elem_type for value in model.input}
    types |= {one.name: one.data_type for one in model.initializer}
    seen = set()
    for node in model.node:  # in order: what goes in decides what comes out, but for a cast
        given = {types[name] for name in node.input if name} & {half, single}
        assert len(given) <= 1, f"{node.op_type} {node.name} mixes precisions"
        to = [one.i for one in node.attribute if node.op_type == "Cast" and one.name == "to"]
        types |= dict.fromkeys(node.output, (to or [*given, onnx.TensorProto.INT64])[0])
        seen.add((node.op_type, *given))
    assert not {kind for kind in seen if kind[0] in FP32_OPERATIONS and half in kind}
    assert ("Conv", single) not in seen


def test_a_manifest_says_which_precision_and_which_operations(tmp_path: Path) -> None:
    manifest = read_manifest(write_tiny(tmp_path, compute="fp16"))
    (part,) = manifest.parts()
    assert (part.precision.compute, part.precision.fp32_operations) == ("fp16", FP32_OPERATIONS)
    assert manifest.model_copy(update={"precision": None}).parts()[0].precision == Precision(compute="fp16")


def test_the_head_of_a_stage_model_stays_in_fp32_unless_its_manifest_says_otherwise() -> None:
    path = next(path for path in MANIFESTS if read_manifest(path).encoder is not None)
    manifest = read_manifest(path)
    assert [part.precision.compute for part in manifest.parts()] == ["fp16", "fp32"]
    told = manifest.model_copy(update={"precision": Precision(compute="fp16")})
    assert [part.precision.compute for part in told.parts()] == ["fp16", "fp16"]


def test_in_fp32_the_graph_is_only_folded_and_says_the_same(tmp_path: Path) -> None:
    path = write_tiny(tmp_path)
    (part,) = read_manifest(path).parts()
    folded = tmp_path / "folded.onnx"
    folded.write_bytes(ready_graph(path.with_suffix(".onnx"), part.precision))
    ours = OnnxRuntimeEngine(path.with_suffix(".onnx"), part.spec, 1)
    assert apart(OnnxRuntimeEngine(folded, part.spec, 1), ours).outputs < 1e-6

"""A graph made ready for a device: what is constant is folded, and, where asked for, computed in fp16.

The fp16 graph is made on the machine that builds the plan and never shipped. Inputs, outputs and the packed state stay
fp32, so that states move between runtimes as they are. Both steps are ONNX Runtime's own tools.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnxruntime

from engines.device_memory import DeviceError
from engines.manifest import Precision

RECIPE = 1  # of what is done here: a plan made by another recipe is another plan


def ready_graph(graph: Path, precision: Precision) -> bytes:
    """The bytes to build from. Raises DeviceError where a tool refuses the graph."""
    with tempfile.TemporaryDirectory() as folder:
        folded = Path(folder) / "folded.onnx"
        _fold(graph, folded)
        return folded.read_bytes() if precision.compute == "fp32" else _halved(folded, precision)


def _fold(graph: Path, folded: Path) -> None:
    """Constants are worked out: weights kept as whole numbers and scales are refused by TensorRT's parser."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC  # stays plain ONNX
    options.optimized_model_filepath = str(folded)
    options.log_severity_level = 3
    try:
        onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as fault:  # onnxruntime's own exceptions share no base class
        raise DeviceError(f"{graph.name}: ONNX Runtime cannot fold its constants: {fault}") from fault


def _halved(folded: Path, precision: Precision) -> bytes:
    import onnx
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    try:
        half = convert_float_to_float16(
            onnx.load(folded),
            keep_io_types=True,
            op_block_list=[*DEFAULT_OP_BLOCK_LIST, *precision.fp32_operations],
        )
    except (ValueError, TypeError, KeyError, RuntimeError) as fault:
        raise DeviceError(f"{folded.name}: its fp16 twin cannot be made: {fault!r}") from fault
    del half.graph.value_info[:]  # what the tool leaves there of types is out of date
    OnnxModel(half).topological_sort()  # and its casts stand at the end, which not every parser forgives
    return bytes(half.SerializeToString())

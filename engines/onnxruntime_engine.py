"""ONNX Runtime on the CPU: the embedded default. One packed state tensor in, one out; threads set; no spinning.

A model without memory has no state tensor in its graph.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

from engines.contract import Array, EngineError, EngineSpec
from engines.host import HostEngine


class OnnxRuntimeEngine(HostEngine):
    """A model's ONNX graph on ONNX Runtime.

    `spec`: as its manifest gives it. `threads`: intra-op threads (0 = one per physical core). Raises EngineError when
    the graph does not load or is not the one its manifest describes.
    """

    def __init__(self, graph: Path, spec: EngineSpec, threads: int = 0) -> None:
        super().__init__(spec)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        # a frame comes every few minutes: a spinning pool would burn a core the incubator's other software needs
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        except Exception as fault:  # onnxruntime's own exceptions share no base class
            raise EngineError(f"{spec.name}: ONNX Runtime cannot load {graph}: {fault}") from fault
        self._remembers = spec.state.shape != (0,)
        self._outputs = [tensor.name for tensor in spec.outputs] + (["state_next"] if self._remembers else [])
        self._check_names()

    @property
    def runtime(self) -> str:
        return f"onnxruntime {onnxruntime.__version__} cpu"

    def run_row(self, state: Array, inputs: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        feed = {name: np.ascontiguousarray(array[None]) for name, array in inputs.items()}
        if self._remembers:
            feed["state"] = np.ascontiguousarray(state[None])
        try:
            results = self._session.run(self._outputs, feed)
        except Exception as fault:  # onnxruntime's own exceptions share no base class
            raise EngineError(f"{self.spec.name}: ONNX Runtime failed: {fault}") from fault
        named = {name: np.asarray(result)[0] for name, result in zip(self._outputs, results, strict=True)}
        return (named.pop("state_next") if self._remembers else state), named

    def _check_names(self) -> None:
        given = {node.name: tuple(node.shape[1:]) for node in self._session.get_inputs()}
        memory = {"state": self.spec.state.shape} if self._remembers else {}
        wanted = {tensor.name: tensor.shape for tensor in self.spec.inputs} | memory
        if given != wanted:
            raise EngineError(f"{self.spec.name}: the graph takes {given}, its manifest says {wanted}")
        made = {node.name: tuple(node.shape[1:]) for node in self._session.get_outputs()}
        promised = {tensor.name: tensor.shape for tensor in self.spec.outputs}
        if self._remembers:
            promised["state_next"] = self.spec.state.shape
        if made != promised:
            raise EngineError(f"{self.spec.name}: the graph gives {made}, its manifest says {promised}")

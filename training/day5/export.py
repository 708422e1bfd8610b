"""A network of day 5 as an ONNX graph with its manifest, held against PyTorch before anyone may use it.

Does: folds batch norm into the convolutions, exports `x` -> named probabilities with a dynamic batch and no state,
writes graph and manifest atomically, runs ONNX Runtime and PyTorch side by side. Refuses to know: the papers, the
monitor.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from monitor.simulator import PLANES_UM
from training.amsnet.export import INTENDED_USE, OPSET, fold_norms, write_atomically
from training.day5 import checkpoint as checkpoints
from training.day5.grading import classes_of
from training.day5.look import CHANNELS_UM

PICTURES, SEEN_BRIGHT = 4, (1.0, 0.3, 0.6, 0.05)  # of the comparison: normal, dim, between, nearly black


@dataclass(frozen=True)
class Output:
    """One named output: probabilities over `classes`, for a picture or for each of its pixels."""

    name: str
    classes: tuple[str, ...]
    pixels: bool = False


@dataclass(frozen=True)
class Exported:
    """What a paper hands in. `graph`: its network with probabilities as outputs, in the order of `outputs`."""

    paper: str
    task: str
    source: str
    network: nn.Module
    graph: nn.Module
    outputs: tuple[Output, ...]
    planes: int
    input_px: int
    provenance: dict[str, Any]

    def shape_of(self, output: Output) -> list[int]:
        """Without the batch axis."""
        return [len(output.classes), *([self.input_px] * 2 if output.pixels else [])]


class FailingOnNaN(nn.Module):
    """Adds nothing to every output, or NaN where the picture holds one: a runtime's ReLU may swallow a NaN, and the
    engine contract wants a broken picture to fail, never to get a number."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.answers = graph

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        nothing = (x * 0).sum(dim=(1, 2, 3))  # (B,)
        return tuple(said + nothing.reshape(-1, *[1] * (said.ndim - 1)) for said in self.answers(x))


def onnx_graph(exported: Exported) -> onnx.ModelProto:
    """The checked graph, weights inside, free of the exporter's notes about this machine."""
    # a batch of 2: an example of 1 would let the exporter specialise the batch to one
    example = torch.zeros(2, exported.planes, exported.input_px, exported.input_px)
    program = torch.onnx.export(
        FailingOnNaN(fold_norms(exported.graph)).eval(),
        (example,),
        input_names=["x"],
        output_names=[output.name for output in exported.outputs],
        dynamic_shapes=({0: torch.export.Dim("B", min=1)},),
        opset_version=OPSET,
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    model = program.model_proto
    graph = model.graph
    for node in graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer, graph):
        value.ClearField("metadata_props")
    onnx.checker.check_model(model, full_check=True)
    return model


# with fp16: the worst of some 300,000 probabilities, where two parts meet; a single output is held to .01
PIXELS_APART = 0.05


def manifest_of(exported: Exported, name: str, version: str, graph: bytes, tolerance: float) -> dict[str, Any]:
    """The JSON beside the graph (`pellucid.manifest/1`); shapes are per row. A model without memory has state (0,)."""
    shape = [exported.planes, exported.input_px, exported.input_px]
    defaults = {"trained_on": "unknown", "seed": 0, "steps": 0, "date": date.today().isoformat(), "figures": {}}
    return {
        "schema": "pellucid.manifest/1",
        "name": name,
        "version": version,
        "task": exported.task,
        "graph": {"file": f"{name}.onnx", "sha256": hashlib.sha256(graph).hexdigest(), "opset": OPSET},
        "state_id": checkpoints.weights_id(exported.network),
        "inputs": [{"name": "x", "shape": shape, "dtype": "float32"}],
        "outputs": [
            {
                "name": output.name,
                "shape": exported.shape_of(output),
                "dtype": "float32",
                "classes": list(output.classes),
            }
            for output in exported.outputs
        ],
        "state": {"shape": [0], "dtype": "float32"},
        "preprocess": {
            "planes_um": list(CHANNELS_UM) if exported.planes == len(CHANNELS_UM) else [0],
            "height_px": exported.input_px,
            "width_px": exported.input_px,
            "mean": 0.0,  # the network itself takes out the picture's mean and spread
            "std": 1.0,
            "allowed_plane_counts": list(range(1, len(PLANES_UM) + 1)),
            "crop": "blastocyst",
        },
        "tolerance": {"absolute": tolerance},
        **({"precision": {"absolute": PIXELS_APART}} if any(one.pixels for one in exported.outputs) else {}),
        "provenance": {"source": exported.source, **defaults, "licence": "Apache-2.0", **exported.provenance},
        "intended_use": INTENDED_USE,
    }


def write(exported: Exported, out: Path, name: str, version: str, tolerance: float) -> Path:
    """NAME.onnx, then NAME.json, which never names a graph that is not there yet; gives the manifest's path."""
    graph = onnx_graph(exported).SerializeToString(deterministic=True)
    manifest = manifest_of(exported, name, version, graph, tolerance)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / f"{name}.onnx", graph)
    write_atomically(out / f"{name}.json", (json.dumps(manifest, indent=2) + "\n").encode())
    return out / f"{name}.json"


def refusals(manifest_path: Path, exported: Exported) -> list[str]:
    """Why this pair of files is not this network's export; empty when it is."""
    manifest = json.loads(manifest_path.read_text())
    graph = manifest_path.with_name(manifest["graph"]["file"])
    found = []
    if hashlib.sha256(graph.read_bytes()).hexdigest() != manifest["graph"]["sha256"]:
        found.append(f"{graph.name} is not the graph the manifest names (sha256 differs)")
    if manifest["state_id"] != checkpoints.weights_id(exported.network):
        found.append("state_id differs: the manifest belongs to other weights")
    return found


def compare(manifest_path: Path, exported: Exported, seed: int = 0) -> float:
    """Largest absolute difference of any output between ONNX Runtime and PyTorch, over pictures of unlike light."""
    manifest = json.loads(manifest_path.read_text())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    graph = str(manifest_path.with_name(manifest["graph"]["file"]))
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(seed)
    x = rng.random((PICTURES, *manifest["inputs"][0]["shape"]), np.float32)
    x *= np.array(SEEN_BRIGHT, np.float32)[:, None, None, None]
    theirs = session.run([output.name for output in exported.outputs], {"x": x})
    with torch.inference_mode():
        ours = exported.graph.eval()(torch.from_numpy(x))
    apart = [float(np.abs(one - other.numpy()).max()) for one, other in zip(theirs, ours, strict=True)]
    return float(np.max(apart))  # np.max carries a NaN on, where max() may drop it


def verify(manifest_path: Path, exported: Exported) -> bool:
    """Say what was found, in lines on stdout; True when the files may be used."""
    reasons = refusals(manifest_path, exported)
    for reason in reasons:
        print(f"refused: {reason}")
    if reasons:
        return False
    apart, limit = compare(manifest_path, exported), json.loads(manifest_path.read_text())["tolerance"]["absolute"]
    holds = apart <= limit  # a NaN never holds
    print(
        f"{'agrees' if holds else 'refused: differs'}: ONNX Runtime against PyTorch {apart:.2e}, tolerance {limit:.0e}"
    )
    return holds


class GradesGraph(nn.Module):
    """Probabilities instead of logits, for each answer of a grader."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """x (B, planes, H, W) gray / 255 -> y_expansion, y_icm, y_te, each (B, classes)."""
        return tuple(torch.softmax(logits.float(), dim=1) for logits in self.network(x))


def grade_outputs(expansions: Sequence[str]) -> tuple[Output, ...]:
    """The outputs of every grader: the same names, so that they can be compared."""
    return tuple(Output(f"y_{answer}", classes) for answer, classes in classes_of(expansions).items())


def run(
    paper: str,
    trained: Callable[[Path], Exported],
    untrained: Callable[[bool, int], Exported],
    arguments: list[str] | None,
) -> int:
    """The export command of a paper; exit code 0 when graph and network agree. `untrained`: (paper's size?, seed)."""
    parser = argparse.ArgumentParser(
        prog=f"python -m training.{paper}.export", description="ONNX graph and manifest, held against PyTorch."
    )
    weights = parser.add_mutually_exclusive_group(required=True)
    weights.add_argument("--checkpoint", type=Path, help=f"what training.{paper}.train wrote")
    weights.add_argument("--random-weights", action="store_true", help="no checkpoint: right shapes, no meaning")
    parser.add_argument("--paper", action="store_true", help="with --random-weights: the paper's size")
    parser.add_argument("--seed", type=int, default=0, help="with --random-weights")
    parser.add_argument("--out", type=Path, required=True, help="folder for NAME.onnx and NAME.json")
    parser.add_argument("--name", default=f"{paper}-small")
    parser.add_argument("--version", default="0.1.0")
    parser.add_argument("--tolerance", type=float, default=1e-5, help="largest absolute difference, in the manifest")
    parser.add_argument("--verify-only", action="store_true", help="write nothing, hold the files in --out to account")
    chosen = parser.parse_args(arguments)
    try:
        exported = untrained(chosen.paper, chosen.seed) if chosen.random_weights else trained(chosen.checkpoint)
    except ValueError as fault:
        print(fault, file=sys.stderr)
        return 2
    manifest_path = chosen.out / f"{chosen.name}.json"
    if not chosen.verify_only:
        write(exported, chosen.out, chosen.name, chosen.version, chosen.tolerance)
        print(f"wrote {manifest_path.with_suffix('.onnx')} and {manifest_path}")
    return 0 if verify(manifest_path, exported) else 1

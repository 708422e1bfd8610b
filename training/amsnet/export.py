"""AMSNet's step as an ONNX graph with its manifest, held against PyTorch before anyone may use it.

Does: folds batch norm and the temporal shift into the convolutions, exports one step (`x`, `state`, where the network
asks for them `hours` -> `y_blastocyst`, `state_next`) with a dynamic batch, writes graph and manifest atomically, runs
ONNX Runtime and PyTorch side by side over chained steps.
Refuses to know: training, the monitor, fp16 and TensorRT variants.

    python -m training.amsnet.export --checkpoint training/runs/amsnet-small.pt --out engines/models
    python -m training.amsnet.export --random-weights --backbone resnet50 --name amsnet-resnet50 --out build/models
Exit code 0 when the graph agrees with PyTorch within the manifest's tolerance, 1 when it does not.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import sys
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from training.amsnet import checkpoint as checkpoints
from training.amsnet.blocks import ConvNorm, Memory, ShiftedBottleneck
from training.amsnet.checkpoint import Checkpoint
from training.amsnet.model import AMSNet, AMSNetConfig
from training.amsnet.report import figures_of

OPSET = 18
SOURCE = "AMSNet: early blastocyst development prediction from time-lapse videos (reimplemented)"
INTENDED_USE = "research use, not validated on patients"


class StepGraph(nn.Module):
    """What is exported: probability instead of logit, names and order of the packed-state contract."""

    def __init__(self, model: AMSNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, state: Tensor, hours: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (B, P, H, W), state (B, S), hours (B, 2): hours post insemination and 1, or 0 and 0 where unknown ->
        y_blastocyst (B, 1) probability, state_next (B, S); all float32."""
        logit, state_next = self.model.step(state, x, hours)
        return torch.sigmoid(logit.float()), state_next


def fold_norms(model: AMSNet) -> AMSNet:
    """A copy whose batch norms are folded into the convolutions before them (exact in evaluation mode, up to rounding).

    Done here and not left to the exporter, so that the graph's bytes do not depend on what its optimiser fuses.
    """
    folded = copy.deepcopy(model).eval()
    for module in folded.modules():
        if isinstance(module, ConvNorm):
            module.conv = fuse_conv_bn_eval(module.conv, module.norm)
            module.norm = nn.Identity()
    return folded


class FoldedShift(nn.Module):
    """A shifted bottleneck (norms folded) that never builds the shifted map: conv1(past and rest) = two terms.

    ONNX Runtime keeps maps in blocks of channels. Cutting a map and joining it with the cache unpacks and packs it
    again: 29 of 214 ms of the paper's network, most of it in Res-1, whose maps hold seven planes. Here conv1 sees the
    whole map with the shifted columns of its kernel at zero, and a small convolution of the cache is added to it.
    """

    def __init__(self, block: ShiftedBottleneck) -> None:
        super().__init__()
        whole, self.shifted = block.conv1.conv, block.shifted
        self.present, self.past = copy.deepcopy(whole), nn.Conv2d(self.shifted, whole.out_channels, 1, bias=False)
        self.past.weight.data = whole.weight.data[:, : self.shifted].clone()
        self.present.weight.data[:, : self.shifted] = 0.0
        self.conv2, self.conv3, self.identity = block.conv2, block.conv3, block.identity

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """(rows, C, H, W) -> (rows, 4 * width, H', W'), as the block it stands for."""
        branch = torch.relu(self.present(x) + self.past(memory.previous(x[:, : self.shifted])))
        branch = torch.relu(self.conv2(branch))
        return torch.relu(self.identity(x) + self.conv3(branch))


def fold_shifts(folded: AMSNet) -> AMSNet:
    """Put a FoldedShift in the place of every shifted block of a network without norms; in place (same values)."""
    for stage in (folded.res1, folded.res2, folded.res3, folded.res4):
        for index, block in enumerate(stage):
            if block.shifted:
                stage[index] = FoldedShift(block)
    return folded


def step_graph(model: AMSNet) -> onnx.ModelProto:
    """The checked ONNX graph of one step, weights inside, free of the exporter's notes about this machine."""
    if not model.state_size:
        raise ValueError("a network without the temporal shift has no state; only streaming models are exported")
    side_px, planes = int(model.config.input_px or 0), model.config.planes
    # Batch of 2: an example of 1 would let the exporter specialise the batch to one.
    example = [torch.zeros(2, planes, side_px, side_px), torch.zeros(2, model.state_size)]
    names = ["x", "state"]
    if model.config.hours:
        example.append(torch.zeros(2, 2))
        names.append("hours")
    batch = torch.export.Dim("B", min=1)
    program = torch.onnx.export(
        StepGraph(fold_shifts(fold_norms(model))).eval(),
        tuple(example),
        input_names=names,
        output_names=["y_blastocyst", "state_next"],
        dynamic_shapes=tuple({0: batch} for _ in ("x", "state", "hours"))[: len(names)],
        opset_version=OPSET,
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    graph = program.model_proto
    for node in graph.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in (*graph.graph.input, *graph.graph.output, *graph.graph.value_info, *graph.graph.initializer):
        value.ClearField("metadata_props")
    graph.graph.ClearField("metadata_props")
    onnx.checker.check_model(graph, full_check=True)
    return graph


def manifest_of(source: Checkpoint, name: str, version: str, graph_bytes: bytes, tolerance: float) -> dict[str, Any]:
    """The JSON beside the graph (`pellucid.manifest/1`); shapes are per row, without the batch axis."""
    config, size, how = source.model.config, source.model.state_size, source.preprocess()
    inputs = [{"name": "x", "shape": [config.planes, config.input_px, config.input_px], "dtype": "float32"}]
    if config.hours:
        inputs.append({"name": "hours", "shape": [2], "dtype": "float32"})
    defaults = {"source": SOURCE, "trained_on": "unknown", "seed": 0, "steps": 0, "date": date.today().isoformat()}
    provenance = {**defaults, "licence": "Apache-2.0", **source.provenance}
    provenance["figures"] = dict(source.provenance.get("figures", {}))
    return {
        "schema": "pellucid.manifest/1",
        "name": name,
        "version": version,
        "task": "blastocyst",
        "graph": {"file": f"{name}.onnx", "sha256": hashlib.sha256(graph_bytes).hexdigest(), "opset": OPSET},
        "state_id": checkpoints.state_id(source),
        "inputs": inputs,
        "outputs": [{"name": "y_blastocyst", "shape": [1], "dtype": "float32", "classes": ["blastocyst"]}],
        "state": {"shape": [size], "dtype": "float32"},
        "preprocess": how,
        "segments": {"segment_h": 6.0, "count": 28},  # section 4.1
        "calibration": source.calibration,
        "stability": source.stability or None,
        "tolerance": {"absolute": tolerance},
        "provenance": provenance,
        "intended_use": INTENDED_USE,
    }


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside the target, flush, rename. The graph goes first: a manifest never names a graph not yet there."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    with unfinished.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def export(
    source: Checkpoint,
    out: Path,
    name: str,
    version: str = "0.1.0",
    tolerance: float = 1e-5,
    report_path: Path | None = None,
) -> Path:
    """Write `name`.onnx and `name`.json into `out`; returns the manifest's path."""
    found = figures_of(report_path, checkpoints.state_id(source)) if report_path else {}
    graph_bytes = step_graph(source.model).SerializeToString(deterministic=True)
    manifest = manifest_of(source, name, version, graph_bytes, tolerance)
    manifest["provenance"]["figures"] |= found
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / f"{name}.onnx", graph_bytes)
    write_atomically(out / f"{name}.json", (json.dumps(manifest, indent=2) + "\n").encode())
    return out / f"{name}.json"


@dataclass(frozen=True)
class Agreement:
    """Largest absolute differences between ONNX Runtime and PyTorch over the chained steps, and the limit they face."""

    output: float
    state: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """A NaN never holds."""
        return self.output <= self.tolerance and self.state <= self.tolerance


def refusals(manifest_path: Path, source: Checkpoint) -> list[str]:
    """Why this pair of files is not this checkpoint's export; empty when it is."""
    manifest = json.loads(manifest_path.read_text())
    graph_path = manifest_path.with_name(manifest["graph"]["file"])
    found = []
    if hashlib.sha256(graph_path.read_bytes()).hexdigest() != manifest["graph"]["sha256"]:
        found.append(f"{graph_path.name} is not the graph the manifest names (sha256 differs)")
    if manifest["state_id"] != checkpoints.state_id(source):
        found.append("state_id differs: the manifest belongs to other weights, another function or preprocessing")
    return found


def compare(manifest_path: Path, model: AMSNet, steps: int = 8, batch: int = 2, seed: int = 0) -> Agreement:
    """Run both over `steps` chained steps, each on its own state, from zero; inputs are seeded standard normal."""
    manifest = json.loads(manifest_path.read_text())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    graph_path = str(manifest_path.with_name(manifest["graph"]["file"]))
    session = onnxruntime.InferenceSession(graph_path, options, providers=["CPUExecutionProvider"])
    reference = StepGraph(model).eval()
    generator = np.random.default_rng(seed)
    state_ort, state_torch = np.zeros((batch, model.state_size), np.float32), model.initial_state(batch)
    worst_output = worst_state = 0.0
    for _ in range(steps):
        x = generator.standard_normal((batch, *manifest["inputs"][0]["shape"])).astype(np.float32)  # (B, P, H, W)
        feed, told = {"x": x, "state": state_ort}, None
        if model.config.hours:
            known = generator.integers(0, 2, (batch, 1))
            feed["hours"] = (np.hstack([generator.uniform(0, 168, (batch, 1)), np.ones((batch, 1))]) * known).astype(
                np.float32
            )
            told = torch.from_numpy(feed["hours"])
        y_ort, state_ort = session.run(["y_blastocyst", "state_next"], feed)
        with torch.inference_mode():
            y_torch, state_torch = reference(torch.from_numpy(x), state_torch, told)
        # np.maximum carries a NaN on, where max() would drop it
        worst_output = float(np.maximum(worst_output, np.abs(y_ort - y_torch.numpy()).max()))
        worst_state = float(np.maximum(worst_state, np.abs(state_ort - state_torch.numpy()).max()))
    return Agreement(worst_output, worst_state, manifest["tolerance"]["absolute"])


def verify(manifest_path: Path, source: Checkpoint) -> bool:
    """Say what was found, in lines on stdout; True when the files may be used."""
    for reason in (reasons := refusals(manifest_path, source)):
        print(f"refused: {reason}")
    if reasons:
        return False
    agreement = compare(manifest_path, source.model)
    print(
        f"{'agrees' if agreement.holds else 'refused: differs'}: ONNX Runtime against PyTorch, output "
        f"{agreement.output:.2e}, state {agreement.state:.2e}, tolerance {agreement.tolerance:.0e}"
    )
    return agreement.holds


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.amsnet.export", description=__doc__.splitlines()[0])
    weights = parser.add_mutually_exclusive_group(required=True)
    weights.add_argument("--checkpoint", type=Path, help="what training.amsnet.train wrote")
    weights.add_argument("--random-weights", action="store_true", help="no checkpoint: right shapes, no meaning")
    parser.add_argument("--backbone", choices=["resnet50", "small"], default="small", help="with --random-weights")
    parser.add_argument("--pooled-keys", action="store_true", help="with --random-weights: a quarter of the affinity")
    parser.add_argument("--seed", type=int, default=0, help="with --random-weights")
    parser.add_argument("--out", type=Path, required=True, help="folder for NAME.onnx and NAME.json")
    parser.add_argument("--name", default="amsnet-small")
    parser.add_argument("--version", default="0.1.0")
    parser.add_argument("--tolerance", type=float, default=1e-5, help="largest absolute difference, in the manifest")
    parser.add_argument("--report", type=Path, help="report.json of training.amsnet.evaluate: into the manifest")
    parser.add_argument("--verify-only", action="store_true", help="write nothing, hold the files in --out to account")
    chosen = parser.parse_args(arguments)
    if chosen.random_weights:
        config = AMSNetConfig(chosen.backbone, key_pool=2 if chosen.pooled_keys else None)
        source = checkpoints.with_random_weights(config, chosen.seed)
    else:
        source = checkpoints.load(chosen.checkpoint)
    manifest_path = chosen.out / f"{chosen.name}.json"
    if not chosen.verify_only:
        export(source, chosen.out, chosen.name, chosen.version, chosen.tolerance, chosen.report)
        print(f"wrote {manifest_path.with_suffix('.onnx')} and {manifest_path}")
    return 0 if verify(manifest_path, source) else 1


if __name__ == "__main__":
    sys.exit(main())

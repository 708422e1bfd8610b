"""EmbryoDiff as two ONNX graphs and one manifest, held against PyTorch before anyone may use them.

Does: exports the encoder (`x`, `present` -> `y_feature`) with its 8-bit weights and one step of the causal head
(`feature`, `hours`, `hours_known`, `elapsed`, `state` -> `y_stage`, `state_next`), writes both and the manifest
atomically, runs ONNX Runtime and PyTorch side by side over chained steps. Refuses to know: training, the monitor.

    python -m training.embryodiff.export --encoder RUNS/first-frozen.pt --head RUNS/first-causal.pt --out engines/models
    python -m training.embryodiff.export --random-weights --trunk resnet18 --name embryodiff-resnet18 --out build/models
Exit code 0 when the graphs agree with PyTorch within the manifest's tolerance, 1 when they do not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from monitor.simulator import PLANES_UM
from monitor.vocabulary import PHASES
from training.amsnet.export import OPSET, write_atomically
from training.datasets.cut import WIDTH_IN_WELL_RADII
from training.embryodiff import checkpoint as checkpoints
from training.embryodiff.checkpoint import Checkpoint, rounded
from training.embryodiff.encoder import TRUNKS, EncoderConfig, FrameEncoder
from training.embryodiff.model import SMALL, EmbryoDiff, HeadConfig

SOURCE = "EmbryoDiff: a conditional diffusion framework with multi-focal feature fusion (reimplemented, made causal)"
INTENDED_USE = "research use, not validated on patients"
HEAD_INPUTS = ("feature", "hours", "hours_known", "elapsed")
_LEAST_ROUNDED = 256  # values: smaller kernels are kept in float32


class EncoderGraph(nn.Module):
    """What is exported of the encoder: names and order of the contract."""

    def __init__(self, encoder: FrameEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """x (B, P, H, W) gray in 0..1, present (B, P) -> y_feature (B, D)."""
        return self.encoder(x, present)


class StepGraph(nn.Module):
    """What is exported of the head: one causal step, a posterior instead of its logarithm."""

    def __init__(self, head: EmbryoDiff) -> None:
        super().__init__()
        self.head = head

    def forward(
        self, feature: Tensor, hours: Tensor, hours_known: Tensor, elapsed: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """feature (B, D), hours, hours_known, elapsed (B, 1), state (B, S) -> y_stage (B, 16), state_next (B, S)."""
        said, state_next = self.head.step(state, feature, hours, hours_known, elapsed)
        return said.exp(), state_next


def _exported(module: nn.Module, example: tuple[Tensor, ...], inputs: Sequence[str], outputs: Sequence[str]) -> Any:
    """A checked graph with a dynamic batch, free of the exporter's notes about this machine."""
    batch = torch.export.Dim("B", min=1)
    program = torch.onnx.export(
        module.eval(),
        example,
        input_names=list(inputs),
        output_names=list(outputs),
        dynamic_shapes=tuple({0: batch} for _ in example),
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
    return graph


def encoder_graph(encoder: FrameEncoder) -> onnx.ModelProto:
    """The frozen encoder's graph; its large kernels as 8-bit numbers and a scale per channel, multiplied at loading."""
    planes, side_px = encoder.config.planes, int(encoder.config.input_px or 0)
    # batch of 2: an example of 1 would let the exporter specialise the batch to one
    example = (torch.rand(2, planes, side_px, side_px), torch.ones(2, planes))
    graph = _exported(EncoderGraph(encoder), example, ("x", "present"), ("y_feature",))
    _store_rounded(graph.graph)
    onnx.checker.check_model(graph, full_check=True)
    return graph


def _store_rounded(graph: onnx.GraphProto) -> None:
    """Replace kernels by `Cast(int8) * scale`. In place; nothing where a kernel is not of rounded weights."""
    kernels = {node.input[1] for node in graph.node if node.op_type == "Conv"}
    added = []
    for kept in [kernel for kernel in graph.initializer if kernel.name in kernels]:
        weight = torch.from_numpy(numpy_helper.to_array(kept).copy())
        whole, scale = rounded(weight)
        shape = (-1, *[1] * (weight.ndim - 1))
        if weight.numel() < _LEAST_ROUNDED or not torch.allclose(whole * scale.reshape(shape), weight, atol=1e-7):
            continue
        name = kept.name
        graph.initializer.remove(kept)
        graph.initializer.append(numpy_helper.from_array(whole.numpy().astype(np.int8), f"{name}.whole"))
        graph.initializer.append(numpy_helper.from_array(scale.reshape(shape).numpy(), f"{name}.scale"))
        added.append(helper.make_node("Cast", [f"{name}.whole"], [f"{name}.cast"], to=TensorProto.FLOAT))
        added.append(helper.make_node("Mul", [f"{name}.cast", f"{name}.scale"], [name]))
    nodes = [*added, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def head_graph(head: EmbryoDiff) -> onnx.ModelProto:
    """The graph of one step."""
    if not head.config.causal:
        raise ValueError("only the causal twin is exported: the other cannot step")
    example = (torch.randn(2, head.config.features), *(torch.rand(2, 1) for _ in range(3)), head.initial_state(2))
    graph = _exported(StepGraph(head), example, (*HEAD_INPUTS, "state"), ("y_stage", "state_next"))
    onnx.checker.check_model(graph, full_check=True)
    return graph


@dataclass(frozen=True)
class Pair:
    """A frozen encoder and the head trained on its features. ValueError when they do not belong together."""

    encoder: FrameEncoder
    head: EmbryoDiff
    provenance: dict[str, Any]

    @classmethod
    def of(cls, encoder: Checkpoint, head: Checkpoint) -> Pair:
        if not encoder.frozen:
            raise ValueError("this encoder is not frozen: take <name>-frozen.pt")
        trained_on = head.provenance.get("encoder")
        if trained_on != checkpoints.encoder_id(encoder.network):
            raise ValueError(f"the head was trained on the features of encoder {str(trained_on)[:12]}, not of this one")
        told = {"trained_on": trained_on_of(encoder.provenance, head.provenance)}
        told |= {"encoder": encoder.provenance, "head": head.provenance}
        return cls(encoder.network, head.network, told)

    @classmethod
    def with_random_weights(cls, trunk: str, config: HeadConfig, seed: int) -> Pair:
        """Right in size and speed, without meaning."""
        torch.manual_seed(seed)
        encoder = checkpoints.frozen(FrameEncoder(EncoderConfig(trunk)))
        head = EmbryoDiff(config).eval()
        return cls(encoder, head, {"trained_on": "nothing: random weights, no meaning", "seed": seed})


def trained_on_of(encoder: dict[str, Any], head: dict[str, Any]) -> str:
    """In a sentence, for `pellucid engines list`."""
    drawn = [encoder["seeds"][1] - encoder["seeds"][0], head["seeds"][1] - head["seeds"][0]]
    text = (
        f"virtual incubator: encoder {encoder['minutes']:.0f} min on frames of {drawn[0]} drawn embryos"
        f"{' and crops of ' + str(encoder['crops']) if encoder['crops'] else ''}, "
        f"head {head['minutes']:.0f} min on {drawn[1]} drawn embryos"
        f"{', begun from ' + head['start'] if head.get('start') else ''}"
    )
    mixed = "; the encoder also on the first 30 generated pictures of each stagegen class (MIT)"
    return text + (mixed if encoder["stagegen"] else "")


def manifest_of(
    pair: Pair,
    name: str,
    version: str,
    graphs: dict[str, bytes],
    tolerance: float,
    decoding: dict[str, Any],
    hours_told: bool,
) -> dict[str, Any]:
    """The JSON beside the graphs (`pellucid.manifest/1`); shapes are per row, without the batch axis."""
    encoder, head = pair.encoder.config, pair.head.config
    x = [encoder.planes, encoder.input_px, encoder.input_px]
    graph = {
        part: {"file": f"{file}.onnx", "sha256": hashlib.sha256(graphs[file]).hexdigest(), "opset": OPSET}
        for part, file in (("head", name), ("encoder", f"{name}-encoder"))
    }
    defaults = {"source": SOURCE, "date": date.today().isoformat(), "licence": "Apache-2.0", "figures": {}}
    return {
        "schema": "pellucid.manifest/1",
        "name": name,
        "version": version,
        "task": "stage",
        "graph": graph["head"],
        "state_id": checkpoints.state_id(pair.encoder, pair.head),
        "inputs": [
            {"name": "feature", "shape": [head.features], "dtype": "float32"},
            *({"name": scalar, "shape": [1], "dtype": "float32"} for scalar in HEAD_INPUTS[1:]),
        ],
        "outputs": [{"name": "y_stage", "shape": [len(PHASES)], "dtype": "float32", "classes": list(PHASES)}],
        "state": {"shape": [pair.head.state_size], "dtype": "float32"},
        "encoder": {
            "graph": graph["encoder"],
            "inputs": [
                {"name": "x", "shape": x, "dtype": "float32"},
                {"name": "present", "shape": [encoder.planes], "dtype": "float32"},
            ],
            "outputs": [{"name": "y_feature", "shape": [encoder.features], "dtype": "float32"}],
        },
        "preprocess": preprocess_of(encoder),
        "decoding": decoding,
        "hours_told": hours_told,
        "tolerance": {"absolute": tolerance},
        "provenance": {**defaults, "trunk": encoder.trunk, **pair.provenance},
        "intended_use": INTENDED_USE,
    }


def preprocess_of(encoder: EncoderConfig) -> dict[str, Any]:
    """Gray in 0..1: the encoder standardises each plane itself."""
    return {
        "planes_um": list(PLANES_UM),
        "height_px": encoder.input_px,
        "width_px": encoder.input_px,
        "mean": 0.0,
        "std": 1.0,
        "allowed_plane_counts": list(range(1, encoder.planes + 1)),
        "crop": "embryo",
        "width_in_well_radii": WIDTH_IN_WELL_RADII,
    }


def export(
    pair: Pair,
    out: Path,
    name: str,
    version: str,
    tolerance: float = 1e-5,
    decoding: dict[str, Any] | None = None,
    hours_told: bool = True,
) -> Path:
    """Write the graphs, then the manifest that names them; returns the manifest's path."""
    graphs = {
        name: head_graph(pair.head).SerializeToString(deterministic=True),
        f"{name}-encoder": encoder_graph(pair.encoder).SerializeToString(deterministic=True),
    }
    manifest = manifest_of(pair, name, version, graphs, tolerance, decoding or {}, hours_told)
    out.mkdir(parents=True, exist_ok=True)
    for file, content in graphs.items():
        write_atomically(out / f"{file}.onnx", content)
    write_atomically(out / f"{name}.json", (json.dumps(manifest, indent=2) + "\n").encode())
    return out / f"{name}.json"


@dataclass(frozen=True)
class Agreement:
    """Largest absolute differences between ONNX Runtime and PyTorch, and the limit they face."""

    feature: float
    posterior: float
    state: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """A NaN never holds."""
        return (
            max(self.feature, self.posterior, self.state) <= self.tolerance
            and not np.isnan([self.feature, self.posterior, self.state]).any()
        )


def compare(manifest_path: Path, pair: Pair, steps: int = 40, seed: int = 0) -> Agreement:
    """Both runtimes over `steps` chained steps, each on its own state; features of two embryos from both encoders."""
    manifest = json.loads(manifest_path.read_text())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()

    def session(graph: dict[str, Any]) -> onnxruntime.InferenceSession:
        path = str(manifest_path.with_name(graph["file"]))
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    rng = np.random.default_rng(seed)
    encoder, head = session(manifest["encoder"]["graph"]), session(manifest["graph"])
    x = rng.random((2, *manifest["encoder"]["inputs"][0]["shape"]), np.float32)
    present = np.ones((2, x.shape[1]), np.float32)
    present[1, ::2] = 0.0
    (feature,) = encoder.run(None, {"x": x, "present": present})
    with torch.inference_mode():
        feature_apart = _apart(feature, pair.encoder(torch.from_numpy(x), torch.from_numpy(present)))
    posterior_apart = state_apart = 0.0
    state, carried, reference = pair.head.initial_state(2).numpy(), pair.head.initial_state(2), StepGraph(pair.head)
    for _ in range(steps):
        given = [rng.standard_normal(feature.shape).astype(np.float32)]
        given += [rng.random((2, 1), np.float32) * size for size in (100, 1, 1)]
        said, state = head.run(
            ["y_stage", "state_next"], dict(zip((*HEAD_INPUTS, "state"), (*given, state), strict=True))
        )
        with torch.inference_mode():
            expected, carried = reference(*(torch.from_numpy(one) for one in given), carried)
        posterior_apart = float(np.maximum(posterior_apart, _apart(said, expected)))
        state_apart = float(np.maximum(state_apart, _apart(state, carried)))
    return Agreement(feature_apart, posterior_apart, state_apart, manifest["tolerance"]["absolute"])


def _apart(ours: np.ndarray, theirs: Tensor) -> float:
    return float(np.abs(ours - theirs.numpy()).max())


def verify(manifest_path: Path, pair: Pair) -> bool:
    """Say what was found, in a line on stdout; True when the files may be used."""
    if json.loads(manifest_path.read_text())["state_id"] != checkpoints.state_id(pair.encoder, pair.head):
        print("refused: state_id differs: the manifest belongs to other weights or another state layout")
        return False
    found = compare(manifest_path, pair)
    print(
        f"{'agrees' if found.holds else 'refused: differs'}: ONNX Runtime against PyTorch, "
        f"feature {found.feature:.2e}, posterior {found.posterior:.2e}, state {found.state:.2e}, "
        f"tolerance {found.tolerance:.0e}"
    )
    return found.holds


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.embryodiff.export", description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", type=Path, help="NAME-frozen.pt of training.embryodiff.train encoder")
    parser.add_argument("--head", type=Path, help="NAME-causal.pt of training.embryodiff.train head")
    parser.add_argument("--random-weights", action="store_true", help="no checkpoints: right shapes, no meaning")
    parser.add_argument("--trunk", choices=sorted(TRUNKS), default="small", help="with --random-weights")
    parser.add_argument("--head-size", choices=("small", "paper"), default="small", help="with --random-weights")
    parser.add_argument("--seed", type=int, default=0, help="with --random-weights")
    parser.add_argument("--hours-masked", action="store_true", help="in use the head is never told the hour")
    parser.add_argument("--decoding", type=json.loads, default={}, help="rules of engines.decoding, as JSON")
    parser.add_argument("--figures", type=json.loads, default={}, help="what was measured, as JSON, for the provenance")
    parser.add_argument("--out", type=Path, required=True, help="folder for the graphs and NAME.json")
    parser.add_argument("--name", default="embryodiff-small")
    parser.add_argument("--version", default="0.1.0")
    parser.add_argument("--tolerance", type=float, default=1e-5, help="largest absolute difference, in the manifest")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.random_weights:
            size = SMALL if chosen.head_size == "small" else HeadConfig()
            pair = Pair.with_random_weights(chosen.trunk, size, chosen.seed)
        elif chosen.encoder and chosen.head:
            pair = Pair.of(checkpoints.load_encoder(chosen.encoder), checkpoints.load_head(chosen.head))
        else:
            parser.error("give --encoder and --head, or --random-weights")
    except ValueError as fault:
        print(fault, file=sys.stderr)
        return 2
    pair.provenance["figures"] = chosen.figures
    path = export(
        pair, chosen.out, chosen.name, chosen.version, chosen.tolerance, chosen.decoding, not chosen.hours_masked
    )
    print(f"wrote {path} and its two graphs")
    return 0 if verify(path, pair) else 1


if __name__ == "__main__":
    sys.exit(main())

"""A pair as PyTorch networks again, read out of its exported graphs: to measure what is shipped, or to go on from it.

Does: finds every weight in the two ONNX graphs, builds encoder and head of the sizes they have, gives a frozen encoder
its batch norms back. Refuses to know: training, pictures beyond those that set the norms' statistics.

What an export does not hold starts anew: the encoder's two classification heads, and of the head what only other
diffusion steps than the last one use (label embeddings; the weights behind the two constants it was folded into).

    python -m training.embryodiff.bundled --manifest engines/models/embryodiff-small.json --out RUNS --name base
writes RUNS/base-frozen.pt and RUNS/base-causal.pt: heads can be trained on that encoder, and both measured.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from training.embryodiff import checkpoint as checkpoints
from training.embryodiff import diffusion
from training.embryodiff.checkpoint import Checkpoint, folded
from training.embryodiff.encoder import EncoderConfig, FrameEncoder
from training.embryodiff.model import EmbryoDiff, HeadConfig

Array = npt.NDArray[np.float32]

# of the head: used by other diffusion steps or by the losses alone, or folded into two constants
_NOT_EXPORTED = ("labels", "noise", "kept", "denoiser.enter.", "denoiser.time.", "semantic_head.", "boundary_head.")


@dataclass(frozen=True)
class Bundled:
    """A frozen encoder and a head as they are shipped; `origin` says of which manifest, `provenance` is its own."""

    encoder: FrameEncoder
    head: EmbryoDiff
    origin: str
    provenance: dict[str, Any]

    def save(self, out: Path, name: str) -> None:
        """As checkpoints NAME-frozen.pt and NAME-causal.pt, each with what the manifest says of its training."""
        encoder, head = (dict(self.provenance.get(part, {})) for part in ("encoder", "head"))
        checkpoints.save(out / f"{name}-frozen.pt", Checkpoint(self.encoder, encoder, frozen=True))
        # read back, the encoder has another identity: its classification heads are new
        head["encoder"] = checkpoints.encoder_id(self.encoder)
        checkpoints.save(out / f"{name}-causal.pt", Checkpoint(self.head, head))


class Graph:
    """The constants of an exported graph, by their parameter's name or by what they are multiplied with."""

    def __init__(self, path: Path, prefix: str) -> None:
        graph = onnx.load(path).graph
        self._prefix, self._path = prefix, path
        self._values = {kept.name: numpy_helper.to_array(kept) for kept in graph.initializer}
        self._made_by = {name: node for node in graph.node for name in node.output}
        self._read_by: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._read_by.setdefault(name, []).append(node)

    def __contains__(self, name: str) -> bool:
        full = self._prefix + name
        return full in self._values or f"{full}.whole" in self._values

    def value(self, name: str) -> Array:
        """The parameter; a kernel of whole numbers times its scales. ValueError where there is none."""
        full = self._prefix + name
        if f"{full}.whole" in self._values:
            return self._values[f"{full}.whole"].astype(np.float32) * self._values[f"{full}.scale"]
        if full not in self._values:
            raise ValueError(f"{self._path}: no constant of the name {full} (the exporter merges equal ones)")
        return np.asarray(self._values[full], np.float32)

    def multiplied_with(self, bias: str) -> Array:
        """The (in, out) matrix of the product that this bias is added to; its name was lost in the export."""
        for adding in self._read_by.get(self._prefix + bias, ()):
            for name in adding.input:
                product = self._made_by.get(name)
                if product is not None and product.op_type == "MatMul" and product.input[1] in self._values:
                    return np.asarray(self._values[product.input[1]], np.float32)
        raise ValueError(f"{self._path}: no product that {self._prefix}{bias} is added to")

    def unnamed(self, stem: str) -> list[Array]:
        """The constants `stem`, `stem_1`, `stem_2` ... in order."""
        found, name = [], stem
        while name in self._values:
            found.append(np.asarray(self._values[name], np.float32))
            name = f"{stem}_{len(found)}"
        return found

    def folded(self, stem: str, ndim: int) -> Array:
        """The one constant of so many axes that the exporter calculated of others. ValueError unless it is one."""
        found = [one for name, one in self._values.items() if name.startswith(stem) and one.ndim == ndim]
        if len(found) != 1:
            raise ValueError(f"{self._path}: {len(found)} constants {stem}* of {ndim} axes, not one")
        return np.asarray(found[0], np.float32)

    def count(self, pattern: str) -> int:
        """How many of `pattern` with 0, 1, 2 ... in the place of `{}` there are."""
        number = 0
        while pattern.format(number) in self:
            number += 1
        return number


def read_bundled(manifest_path: Path) -> Bundled:
    """Both networks of an exported pair in evaluation mode. ValueError names what does not fit."""
    told = json.loads(manifest_path.read_text())
    if told.get("task") != "stage" or "encoder" not in told:
        raise ValueError(f"{manifest_path}: no stage model")
    encoder = _encoder_of(told, Graph(manifest_path.with_name(told["encoder"]["graph"]["file"]), "encoder."))
    head = _head_of(Graph(manifest_path.with_name(told["graph"]["file"]), "head."))
    if head.state_size != told["state"]["shape"][0]:
        raise ValueError(f"{manifest_path}: a state of {told['state']['shape'][0]}, this head has {head.state_size}")
    return Bundled(encoder, head, f"{told['name']} {told['version']} ({told['state_id'][:12]})", told["provenance"])


def _encoder_of(told: dict[str, Any], graph: Graph) -> FrameEncoder:
    planes, side_px, _ = told["encoder"]["inputs"][0]["shape"]
    heads = graph.value("fusion.query").shape[0]
    features = told["encoder"]["outputs"][0]["shape"][0]
    trunk = told["provenance"].get("trunk", "small")
    torch.manual_seed(0)  # of the classification heads, which no export holds
    encoder = folded(FrameEncoder(EncoderConfig(trunk, planes, side_px, features, heads)))
    weights = encoder.state_dict()
    for name in weights:
        if name.split(".")[0] in ("phase", "stage"):
            continue
        lost = name in ("fusion.key.weight", "fusion.value.weight")
        found = graph.multiplied_with(name.replace("weight", "bias")).T if lost else graph.value(name)
        weights[name] = _fitting(name, found, weights[name])
    encoder.load_state_dict(weights)
    return encoder.requires_grad_(False)


def _head_of(graph: Graph) -> EmbryoDiff:
    distances = graph.unnamed("t")
    if not distances:
        raise ValueError("the head's graph holds no distances of a window: exported by another version?")
    window, heads = distances[0].shape
    config = HeadConfig(
        features=graph.value("norm.weight").shape[0],
        channels=graph.value("semantic.enter.weight").shape[0],
        layers=graph.count("semantic.layers.{}.out.weight"),
        heads=heads,
        window=window,
        label_channels=graph.value("denoiser.semantic.weight").shape[0],
        blocks=graph.count("denoiser.blocks.{}.out.weight"),
        boundary="boundary.enter.weight" in graph,
    )
    head = EmbryoDiff(config).eval()
    weights = head.state_dict()
    named = [name for name in weights if name.endswith("attention.distance")]
    if len(named) != len(distances):
        raise ValueError(f"{len(named)} windows, but {len(distances)} tables of distances: equal ones were merged")
    for name, found in zip(sorted(named, key=_place), distances, strict=True):
        weights[name] = _fitting(name, found.T, weights[name])
    for name in weights:
        if not name.startswith(_NOT_EXPORTED) and name not in named:
            weights[name] = _fitting(name, graph.value(name), weights[name])
    head.load_state_dict(weights)
    _begin_alike(head, graph)
    return head


def _place(name: str) -> tuple[int, int]:
    """In which order windows are met: semantic layers, boundary layers, blocks."""
    first, _, number = name.split(".")[:3]
    return ("semantic", "boundary", "denoiser").index(first), int(number)


def _begin_alike(head: EmbryoDiff, graph: Graph) -> None:
    """Biases that make the fixed noise and the last step what the export folded them into: time (1, E), noise (E,)."""
    time, noise = graph.folded("linear_", 2), graph.folded("linear_", 1)
    denoiser = head.denoiser
    assert denoiser is not None
    with torch.no_grad():
        last = torch.full((1,), diffusion.STEPS - 1)
        denoiser.time[2].bias += torch.tensor(time[0]) - denoiser.told_step(last)[0]
        denoiser.enter.bias += torch.tensor(noise) - denoiser.enter(head.noise)


def _fitting(name: str, found: Array, own: Tensor) -> Tensor:
    if tuple(found.shape) != tuple(own.shape):
        raise ValueError(f"{name} is {tuple(found.shape)} in the export, {tuple(own.shape)} in a network of its size")
    return torch.from_numpy(np.array(found, np.float32))


@torch.no_grad()
def thawed(frozen: FrameEncoder, planes: Tensor) -> FrameEncoder:
    """A frozen encoder with batch norms again, ready to be trained on: in evaluation mode the same function.

    `planes` (N, 1, H, W) standardised set the norms' statistics, so that in training mode it is nearly the same.
    """
    encoder = FrameEncoder(frozen.config).eval()
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def watch(name: str, conv: nn.Conv2d) -> torch.utils.hooks.RemovableHandle:
        def keep(_: nn.Module, __: object, out: Tensor) -> None:
            bare = out - conv.bias.reshape(1, -1, 1, 1)
            seen[name] = bare.mean((0, 2, 3)), bare.var((0, 2, 3), unbiased=False)

        return conv.register_forward_hook(keep)

    source = copy.deepcopy(frozen)
    convs = {name: module for name, module in source.trunk.named_modules() if isinstance(module, nn.Conv2d)}
    hooks = [watch(name, conv) for name, conv in convs.items()]
    source.trunk(planes)
    for hook in hooks:
        hook.remove()
    own = dict(encoder.trunk.named_modules())
    for name, conv in convs.items():
        own[name].weight.copy_(conv.weight)
        norm, (mean, var) = own[_norm_after(name)], seen[name]
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(var)
        norm.weight.copy_((var + norm.eps).sqrt())
        norm.bias.copy_(conv.bias + mean)
    rest = {name: value for name, value in frozen.state_dict().items() if not name.startswith("trunk.")}
    encoder.load_state_dict(rest, strict=False)
    return encoder


def _norm_after(conv: str) -> str:
    """The batch norm that was folded into a convolution."""
    if conv == "stem":
        return "norm"
    head, _, last = conv.rpartition(".")
    return f"{head}.{'1' if last == '0' else last.replace('conv', 'norm')}"


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    described = argparse.ArgumentParser(
        prog="python -m training.embryodiff.bundled", description=__doc__.splitlines()[0]
    )
    described.add_argument("--manifest", type=Path, required=True)
    described.add_argument("--out", type=Path, default=Path("training/runs/embryodiff"))
    described.add_argument("--name", default="base")
    chosen = described.parse_args(arguments)
    try:
        bundled = read_bundled(chosen.manifest)
    except (ValueError, OSError) as fault:
        print(fault, file=sys.stderr)
        return 2
    bundled.save(chosen.out, chosen.name)
    print(f"{bundled.origin}: {chosen.out / chosen.name}-frozen.pt and -causal.pt")
    return 0


if __name__ == "__main__":
    sys.exit(main())

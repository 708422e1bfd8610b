"""A network to train on with, taken back out of its export: what is bundled may be gone on from without its checkpoint.

Does: reads every weight from the graph beside a manifest, undoes what the export folded (norms, shift), holds the
network against the graph, measures the norms anew so that training sees numbers as in any other run. Refuses to know
training, and graphs that export.py did not write. What an export does not hold (the other questions' heads, the
optimiser) begins afresh.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from training.amsnet import export
from training.amsnet.blocks import ConvNorm
from training.amsnet.checkpoint import Checkpoint
from training.amsnet.model import AMSNet, AMSNetConfig

_PREFIX = "model."  # of the weights of StepGraph's network
_HELD_STEPS = 3  # of graph and network side by side


def reclaim(manifest_path: Path, config: AMSNetConfig) -> Checkpoint:
    """The exported network, the same function in evaluation mode; each norm is a plain bias until it is measured.

    ValueError where the export is of another network than `config`, or where the two say different things.
    """
    manifest = json.loads(manifest_path.read_text())
    graph_path = manifest_path.with_name(manifest["graph"]["file"])
    given = {
        tensor.name.removeprefix(_PREFIX): torch.from_numpy(numpy_helper.to_array(tensor).copy())
        for tensor in onnx.load(graph_path).graph.initializer
    }
    model = AMSNet(config).eval()
    weights = {**model.state_dict(), **dict(_unfolded(model, given, manifest_path))}
    try:
        model.load_state_dict(weights)
    except RuntimeError as fault:
        raise ValueError(f"{manifest_path} is the export of another network than {config}: {fault}") from fault
    agreement = export.compare(manifest_path, model, steps=_HELD_STEPS)
    if not agreement.holds:
        raise ValueError(
            f"{manifest_path}: the network read from it differs from its graph (output {agreement.output:.1e}, state "
            f"{agreement.state:.1e}): it was exported with another configuration than {config}"
        )
    how = manifest["preprocess"]
    return Checkpoint(model, how["mean"], how["std"], how.get("width_in_well_radii"), tuple(how["planes_um"]))


def _unfolded(model: AMSNet, given: dict[str, Tensor], told: Path) -> Iterator[tuple[str, Tensor]]:
    """Names of ours and the values that stand for the folded ones."""

    def taken(name: str) -> Tensor:
        if name not in given:
            raise ValueError(f"{told}: its graph has no weight {name!r}: not an export of this network")
        return given[name]

    modules = dict(model.named_modules())
    for name, module in modules.items():
        if isinstance(module, ConvNorm):
            # the exporter calls a shifted block's first convolution `present` and `past`
            block = name.removesuffix(".conv1")
            folded = f"{block}.present" if f"{block}.present.weight" in given else f"{name}.conv"
            kernel = taken(f"{folded}.weight").clone()
            if folded.endswith(".present"):
                past = taken(f"{block}.past.weight")
                kernel[:, : past.shape[1]] = past
            yield f"{name}.conv.weight", kernel
            yield f"{name}.norm.bias", taken(f"{folded}.bias")
            yield f"{name}.norm.weight", torch.ones(kernel.shape[0])
            yield f"{name}.norm.running_mean", torch.zeros(kernel.shape[0])
            yield f"{name}.norm.running_var", torch.full((kernel.shape[0],), 1 - module.norm.eps)
    for name in model.state_dict():
        if not isinstance(modules.get(name.rsplit(".", 2)[0]), ConvNorm):
            yield name, taken(name)


def measure_norms(model: AMSNet, show: Callable[[], object]) -> None:
    """Give every norm the mean and variance of what it is shown; the function in evaluation mode stays what it was.

    `show` runs the network over pictures as in training. Each kernel is brought to the size a fresh one would have: the
    folding left kernels of any size, and an optimiser's step would change small ones much and large ones little.
    """
    model.eval()
    with torch.no_grad(), _moments(model) as moments:
        show()
        for unit in _units(model):
            total, squares, count = moments[unit]
            mean = (total / count).float()
            variance = (squares / count - (total / count).square()).clamp(min=0).float()
            kernel = unit.conv.weight
            fresh = (2 / (kernel.shape[0] * kernel[0, 0].numel())) ** 0.5  # Kaiming's, by what goes out
            size = kernel.flatten(1).square().mean(dim=1).sqrt()
            by = torch.where(size > 0, fresh / size.clamp(min=1e-12), 1.0)  # (C out,)
            _rescale(unit, mean, variance, by)


def _rescale(unit: ConvNorm, mean: Tensor, variance: Tensor, by: Tensor) -> None:
    """Kernel times `by`, statistics of what then comes out of it, and the weight and bias that undo both."""
    norm = unit.norm
    assert isinstance(norm, nn.BatchNorm2d)
    slope = norm.weight / (norm.running_var + norm.eps).sqrt()  # the norm as it stands: slope * x + lift
    lift = norm.bias - slope * norm.running_mean
    unit.conv.weight *= by[:, None, None, None]
    norm.running_mean.copy_(by * mean)
    norm.running_var.copy_(by.square() * variance)
    norm.weight.copy_(slope * (norm.running_var + norm.eps).sqrt() / by)
    norm.bias.copy_(lift + slope * mean)


def _units(model: AMSNet) -> list[ConvNorm]:
    return [module for module in model.modules() if isinstance(module, ConvNorm)]


@contextmanager
def _moments(model: AMSNet) -> Iterator[dict[ConvNorm, tuple[Tensor, Tensor, int]]]:
    """Sums, sums of squares and counts of what every norm is given, per channel, while the context is open."""
    found: dict[ConvNorm, tuple[Tensor, Tensor, int]] = {}

    def watch(unit: ConvNorm) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            x = given[0].double().transpose(0, 1).flatten(1)  # (C, rows * H * W)
            total, squares, count = found.get(unit, (0.0, 0.0, 0))
            found[unit] = (total + x.sum(dim=1), squares + x.square().sum(dim=1), count + x.shape[1])

        return add

    handles = [unit.norm.register_forward_pre_hook(watch(unit)) for unit in _units(model)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()

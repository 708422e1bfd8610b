"""One file with everything a trained AMSNet is: configuration, weights, preprocessing numbers, where it came from.

Does: writes it atomically, reads it back, makes a stand-in with random weights, computes the `state_id`. Refuses to
know: ONNX, the training loop, optimiser moments (train.py keeps those in `extra`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from training.amsnet.model import AMSNet, AMSNetConfig

SCHEMA = "pellucid.amsnet.checkpoint/2"
PLANE_SPACING_UM = 15


@dataclass
class Checkpoint:
    """A model and what must travel with it; `mean` and `std` are in units of uint8 / 255.

    `width_in_well_radii`: of the crop around the embryo; None: the whole middle of the picture. `planes_um`: None means
    15 um apart around 0. `calibration` and `stability` are what the manifest says under these names.
    """

    model: AMSNet
    mean: float
    std: float
    width_in_well_radii: float | None = None
    planes_um: tuple[int, ...] | None = None
    calibration: dict[str, Any] = field(default_factory=dict)
    stability: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    def preprocess(self) -> dict[str, Any]:
        """The manifest's `preprocess`: how plane images become the input."""
        planes, side_px = self.model.config.planes, self.model.config.input_px
        planes_um = self.planes_um or tuple(PLANE_SPACING_UM * (index - planes // 2) for index in range(planes))
        how = {
            "planes_um": list(planes_um),
            "height_px": side_px,
            "width_px": side_px,
            "mean": self.mean,
            "std": self.std,
            "allowed_plane_counts": list(range(1, planes + 1)),  # trained with plane dropout
        }
        if self.width_in_well_radii is not None:
            how |= {"crop": "embryo", "width_in_well_radii": self.width_in_well_radii}
        return how


_KEPT = ("mean", "std", "width_in_well_radii", "planes_um", "calibration", "stability", "provenance", "extra")


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write beside the target, flush to the disk, rename: an interrupted run leaves the old file whole."""
    content = {
        "schema": SCHEMA,
        "config": asdict(checkpoint.model.config),
        "weights": checkpoint.model.state_dict(),
        **{name: getattr(checkpoint, name) for name in _KEPT},
    }
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    with unfinished.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def load(path: Path) -> Checkpoint:
    """Read what `save` wrote; unpickles tensors and plain values only. The model comes in evaluation mode."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    if content.get("schema") != SCHEMA:
        raise ValueError(f"{path} is no AMSNet checkpoint of this version ({content.get('schema')}, not {SCHEMA})")
    model = AMSNet(AMSNetConfig(**content["config"]))
    model.load_state_dict(content["weights"])
    return Checkpoint(model.eval(), **{name: content[name] for name in _KEPT})


def load_first_weights(model: AMSNet, path: Path) -> list[str]:
    """Begin from a local file: an AMSNet checkpoint, or a ResNet's state dict in torchvision's names.

    Gives the names of the weights that were taken; what has another shape or is not there stays as it was. Of a stem
    for three colours the sum over the colours is taken. Raises ValueError where nothing at all fits.
    """
    content = torch.load(path, map_location="cpu", weights_only=True)
    given = content["weights"] if content.get("schema") == SCHEMA else _from_resnet(content.get("state_dict", content))
    own = model.state_dict()
    taken = {name: value for name, value in given.items() if name in own and own[name].shape == value.shape}
    if not taken:
        raise ValueError(
            f"{path}: no weight of it fits this network (a ResNet in torchvision's names, or our checkpoint)"
        )
    model.load_state_dict(taken, strict=False)
    return sorted(taken)


def scale_of(path: Path) -> tuple[float, float] | None:
    """Mean and deviation of the pixels that the weights in this file were trained on; None where it does not say.

    Weights that are gone on from see pictures as they always did, or the first layers begin again.
    """
    content = torch.load(path, map_location="cpu", weights_only=True)
    return (content["mean"], content["std"]) if content.get("schema") == SCHEMA else None


def _from_resnet(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """torchvision's names -> ours: conv1, bn1, layer<n>.<i>.conv<k>, bn<k>, downsample.0, .1."""
    renamed = {}
    for name, value in given.items():
        ours = re.sub(r"^conv1\.", "stem.0.conv.", re.sub(r"^bn1\.", "stem.0.norm.", name))
        ours = re.sub(r"^layer(\d)\.(\d+)\.", r"res\1.\2.", ours)
        ours = re.sub(r"\.downsample\.0\.", ".identity.conv.", ours)
        ours = re.sub(r"\.downsample\.1\.", ".identity.norm.", ours)
        ours = re.sub(r"(res\d\.\d+)\.conv(\d)\.", r"\1.conv\2.conv.", ours)
        ours = re.sub(r"(res\d\.\d+)\.bn(\d)\.", r"\1.conv\2.norm.", ours)
        renamed[ours] = value.sum(dim=1, keepdim=True) if ours == "stem.0.conv.weight" else value
    return renamed


def with_random_weights(config: AMSNetConfig, seed: int) -> Checkpoint:
    """An untrained network of the right shape, for tests of export, parity and speed; its outputs mean nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AMSNet(config).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # fresh norms are near the identity and would hide an export error
            module.weight.data.uniform_(0.5, 1.0, generator=generator)
            module.bias.data.uniform_(-0.2, 0.2, generator=generator)
            module.running_mean.data.uniform_(-0.2, 0.2, generator=generator)
            module.running_var.data.uniform_(0.8, 1.6, generator=generator)
    provenance = {
        "trained_on": "nothing: random weights, no meaning",
        "seed": seed,
        "steps": 0,
        "figures": {},
    }
    return Checkpoint(model, mean=0.5, std=0.25, provenance=provenance)


def state_id(source: Checkpoint) -> str:
    """SHA-256 over the source weights (sorted names, shapes, little-endian float32 bytes), what else shapes the
    function (the configuration, the preprocessing) and the state's layout: two models that differ in any of these never
    share a state.

    Taken before any folding or precision change, so that every runtime and precision of one model shares it.
    """
    digest = hashlib.sha256()
    for name, value in sorted(source.model.state_dict().items()):
        if name.endswith("num_batches_tracked"):  # a training counter, no part of the function
            continue
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.detach().float().contiguous().cpu().numpy().astype("<f4").tobytes())
    for cache in source.model.layout:
        digest.update(f"{cache.block}{cache.shape}".encode())
    shaping = {"config": asdict(source.model.config), "preprocess": source.preprocess()}
    digest.update(json.dumps(shaping, sort_keys=True).encode())
    return digest.hexdigest()

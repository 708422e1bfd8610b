"""One file with everything a trained AMSNet is: configuration, weights, preprocessing numbers, where it came from.

Does: writes it atomically, reads it back, makes a stand-in with random weights, computes the `state_id`. Refuses to
know: ONNX, the training loop, optimiser moments (train.py keeps those in `extra`).
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from training.amsnet.model import AMSNet, AMSNetConfig


@dataclass
class Checkpoint:
    """A model and what must travel with it; `mean` and `std` are in units of uint8 / 255."""

    model: AMSNet
    mean: float
    std: float
    provenance: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write beside the target, flush to the disk, rename: an interrupted run leaves the old file whole."""
    content = {
        "schema": "pellucid.amsnet.checkpoint/1",
        "config": asdict(checkpoint.model.config),
        "weights": checkpoint.model.state_dict(),
        "mean": checkpoint.mean,
        "std": checkpoint.std,
        "provenance": checkpoint.provenance,
        "extra": checkpoint.extra,
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
    if content.get("schema") != "pellucid.amsnet.checkpoint/1":
        raise ValueError(f"{path} is not an AMSNet checkpoint")
    model = AMSNet(AMSNetConfig(**content["config"]))
    model.load_state_dict(content["weights"])
    return Checkpoint(model.eval(), content["mean"], content["std"], content["provenance"], content["extra"])


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


def state_id(model: AMSNet) -> str:
    """SHA-256 over the source weights (sorted names, shapes, little-endian float32 bytes) and the state's layout.

    Taken before any folding or precision change, so that every runtime and precision of one model shares it.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if name.endswith("num_batches_tracked"):  # a training counter, no part of the function
            continue
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.detach().float().contiguous().cpu().numpy().astype("<f4").tobytes())
    for cache in model.layout:
        digest.update(f"{cache.block}{cache.shape}".encode())
    return digest.hexdigest()

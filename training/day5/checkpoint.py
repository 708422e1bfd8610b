"""One file with everything a trained network of day 5 is: paper, configuration, weights, where it came from.

Does: writes it atomically, reads it back, makes stand-ins with random weights, names the weights. Refuses to know: the
networks (the caller makes them), ONNX.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

RANDOM = {"trained_on": "nothing: random weights, no meaning", "seed": 0, "steps": 0, "figures": {}}


@dataclass
class Checkpoint:
    """`paper`: "i2cnet", "gardner", "memebg". `config`: plain values. `extra`: what only a resumed run needs."""

    paper: str
    config: dict[str, Any]
    weights: dict[str, torch.Tensor]
    provenance: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)


def save(path: Path, kept: Checkpoint) -> None:
    """Write beside the target, flush to the disk, rename: an interrupted run leaves the old file whole."""
    content = {"schema": f"pellucid.{kept.paper}.checkpoint/1", **kept.__dict__}
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    with unfinished.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def load(path: Path, paper: str) -> Checkpoint:
    """Read what `save` wrote; unpickles tensors and plain values only. ValueError where it is another paper's."""
    if not path.is_file():
        raise ValueError(f"{path} is not there: train first (python -m training.{paper}.train --help)")
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict) or content.get("schema") != f"pellucid.{paper}.checkpoint/1":
        raise ValueError(f"{path} is not a checkpoint of {paper}")
    content.pop("schema")
    return Checkpoint(**content)


def with_norms_away_from_identity(network: nn.Module, seed: int = 0) -> nn.Module:
    """An untrained network for tests of export, parity and speed: fresh norms would hide an export error."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.0, generator=generator)
            module.bias.data.uniform_(-0.2, 0.2, generator=generator)
            module.running_mean.data.uniform_(-0.2, 0.2, generator=generator)
            module.running_var.data.uniform_(0.8, 1.6, generator=generator)
    return network.eval()


def weights_id(network: nn.Module) -> str:
    """SHA-256 over the weights: sorted names, shapes, little-endian float32 bytes. The manifest's `state_id`."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        if name.endswith("num_batches_tracked"):  # a training counter, no part of the function
            continue
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.detach().float().contiguous().cpu().numpy().astype("<f4").tobytes())
    return digest.hexdigest()

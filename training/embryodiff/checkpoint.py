"""Files with everything a trained encoder or head is; the frozen encoder; the identity of the pair.

Does: writes atomically and reads back, folds norms and rounds weights when an encoder is frozen, computes the
`state_id`. Refuses to know: ONNX, the training loop (it keeps its optimiser in `extra`).
"""

from __future__ import annotations

import copy
import hashlib
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from training.embryodiff.encoder import EncoderConfig, FrameEncoder
from training.embryodiff.model import EmbryoDiff, HeadConfig

LEVELS = 127  # of an 8-bit weight, on each side of zero
_SCHEMAS = {FrameEncoder: "pellucid.embryodiff.encoder/1", EmbryoDiff: "pellucid.embryodiff.head/1"}


@dataclass
class Checkpoint:
    """A network and what must travel with it. `frozen`: an encoder with folded norms and rounded weights."""

    network: FrameEncoder | EmbryoDiff
    provenance: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    frozen: bool = False


def save(path: Path, kept: Checkpoint) -> None:
    """Write beside the target, flush to the disk, rename: an interrupted run leaves the old file whole."""
    content = {
        "schema": _SCHEMAS[type(kept.network)],
        "config": asdict(kept.network.config),
        "weights": kept.network.state_dict(),
        "provenance": kept.provenance,
        "extra": kept.extra,
        "frozen": kept.frozen,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    with unfinished.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def _read(path: Path, kind: type) -> dict[str, Any]:
    if not path.exists():
        raise ValueError(f"{path} is not there: train it first (python -m training.embryodiff.train --help)")
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if content.get("schema") != _SCHEMAS[kind]:
        raise ValueError(f"{path} is {content.get('schema')!r}, not {_SCHEMAS[kind]!r}")
    return content


def load_encoder(path: Path) -> Checkpoint:
    """An encoder in evaluation mode, frozen or not. ValueError names what is wrong."""
    content = _read(path, FrameEncoder)
    network = FrameEncoder(EncoderConfig(**content["config"])).eval()
    if content["frozen"]:
        network = folded(network)
    network.load_state_dict(content["weights"])
    return Checkpoint(network, content["provenance"], content["extra"], content["frozen"])


def load_head(path: Path) -> Checkpoint:
    """A temporal head in evaluation mode. ValueError names what is wrong."""
    content = _read(path, EmbryoDiff)
    network = EmbryoDiff(HeadConfig(**content["config"])).eval()
    network.load_state_dict(content["weights"])
    return Checkpoint(network, content["provenance"], content["extra"])


def folded(encoder: FrameEncoder) -> FrameEncoder:
    """A copy in evaluation mode whose batch norms are folded into the convolutions before them."""
    copied = copy.deepcopy(encoder).eval()
    for module in list(copied.trunk.modules()):
        names = dict(module.named_children())
        pairs = [(name, name.replace("conv", "norm")) for name in names if name.startswith("conv")]
        pairs += [("stem", "norm")] if "stem" in names else []
        pairs += (
            [("0", "1")] if isinstance(module, nn.Sequential) and isinstance(names.get("1"), nn.BatchNorm2d) else []
        )
        for conv, norm in pairs:
            setattr(module, conv, fuse_conv_bn_eval(names[conv], names[norm]))
            setattr(module, norm, nn.Identity())
    return copied


def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(O, ...) float32 -> whole numbers of -127..127 and one scale per output channel; their product is the weight."""
    scale = weight.flatten(1).abs().amax(1).clamp(min=1e-12) / LEVELS
    shape = (-1, *[1] * (weight.ndim - 1))
    return (weight / scale.reshape(shape)).round().clamp(-LEVELS, LEVELS), scale


def frozen(encoder: FrameEncoder) -> FrameEncoder:
    """What the head is trained on and what is shipped: norms folded, convolution weights rounded to 8 bits a channel.

    The rounding is part of the model, not of a runtime: PyTorch and ONNX Runtime calculate with the same rounded
    weights in float32, and the file is a quarter as large.
    """
    copied = folded(encoder)
    for module in copied.trunk.modules():
        if isinstance(module, nn.Conv2d):
            whole, scale = rounded(module.weight.data)
            module.weight.data = whole * scale.reshape(-1, 1, 1, 1)
    return copied.requires_grad_(False)


def encoder_id(encoder: FrameEncoder) -> str:
    """SHA-256 over an encoder's configuration and weights: names the features it makes."""
    digest = hashlib.sha256(repr(encoder.config).encode())
    _add_weights(digest, encoder)
    return digest.hexdigest()


def state_id(encoder: FrameEncoder, head: EmbryoDiff) -> str:
    """SHA-256 over both networks' weights and the state's layout: shared by all runtimes and precisions."""
    digest = hashlib.sha256(encoder_id(encoder).encode())
    _add_weights(digest, head)
    digest.update(repr((head.config, head.register_shapes())).encode())
    return digest.hexdigest()


def _add_weights(digest: Any, network: nn.Module) -> None:
    for name, value in sorted(network.state_dict().items()):
        if name.endswith("num_batches_tracked"):  # a training counter, no part of the function
            continue
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.detach().float().contiguous().cpu().numpy().astype("<f4").tobytes())

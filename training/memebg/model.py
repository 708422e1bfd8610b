"""MEmEBG's network: a ResNet-18 with an embedding layer, optionally beside a frozen DINOv2, and three heads.

Does: what the digest of the paper says; what it leaves open are fields of the configuration. Refuses to know: pictures
on disk, losses, ONNX.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.amsnet.blocks import ConvNorm
from training.day5.blocks import Standardise
from training.day5.grading import EXPANSION_CLASSES, LETTERS, Answers
from training.memebg.dinov2 import DinoShape, DinoV2

RESNET18_WIDTHS = (64, 128, 256, 512)


@dataclass(frozen=True)
class MEmEBGConfig:
    """`embedding`: width of each branch's embedding layer; `shared`: of the representation the heads read.

    `dino`: shape of the DINOv2 branch; None leaves it out.
    """

    widths: tuple[int, ...] = RESNET18_WIDTHS
    planes: int = 3
    input_px: int = 224
    embedding: int = 128
    shared: int = 128
    dropout: float = 0.3
    expansions: tuple[str, ...] = EXPANSION_CLASSES
    dino: DinoShape | None = None

    @classmethod
    def small(cls, dino: DinoShape | None = None) -> MEmEBGConfig:
        """The bundled variant: a quarter of the width, 128 px."""
        return cls((16, 32, 64, 112), input_px=128, embedding=64, shared=64, dropout=0.2, dino=dino)

    @classmethod
    def read(cls, kept: Mapping[str, object]) -> MEmEBGConfig:
        """From a checkpoint's plain values."""
        tuples = {name: tuple(kept[name]) for name in ("widths", "expansions")}  # type: ignore[call-overload]
        dino = DinoShape(**kept["dino"]) if kept["dino"] else None  # type: ignore[arg-type]
        return cls(**{**kept, **tuples, "dino": dino})  # type: ignore[arg-type]

    def plain(self) -> dict[str, object]:
        """The inverse of `read`."""
        return asdict(self)


class BasicBlock(nn.Module):
    """ResNet-18's: two 3x3 convolutions and a shortcut."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels_in, channels_out, 3, stride)
        self.conv2 = ConvNorm(channels_out, channels_out, 3)
        same = stride == 1 and channels_in == channels_out
        self.shortcut: nn.Module = nn.Identity() if same else ConvNorm(channels_in, channels_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H / stride, W / stride)."""
        return torch.relu(self.conv2(torch.relu(self.conv1(x))) + self.shortcut(x))


class MEmEBG(nn.Module):
    """(B, planes, H, W) gray / 255 -> logits of expansion, ICM and TE."""

    def __init__(self, config: MEmEBGConfig) -> None:
        super().__init__()
        if config.dino and config.planes != 3:
            raise ValueError(f"DINOv2 sees three channels, the network has {config.planes}")
        self.config = config
        self.standardise = Standardise()
        wide = config.widths
        self.stem = ConvNorm(config.planes, wide[0], 7, 2)
        self.layers = nn.Sequential(
            *(
                nn.Sequential(BasicBlock(before, width, 1 if i == 0 else 2), BasicBlock(width, width, 1))
                for i, (before, width) in enumerate(zip((wide[0], *wide), wide, strict=False))
            )
        )
        self.embed = nn.Linear(wide[-1], config.embedding)
        self.dino = DinoV2(config.dino) if config.dino else None
        self.dino_embed = nn.Linear(config.dino.width, config.embedding) if config.dino else None
        self.shared = nn.Linear(config.embedding * (2 if config.dino else 1), config.shared)
        self.drop = nn.Dropout(config.dropout)
        classes = (len(config.expansions), len(LETTERS), len(LETTERS))
        self.heads = nn.ModuleList(nn.Linear(config.shared, count) for count in classes)

    def forward(self, x: Tensor) -> Answers:
        shared = self.drop(self.embedding(x))
        expansion, icm, te = (head(shared) for head in self.heads)
        return expansion, icm, te

    def embedding(self, x: Tensor) -> Tensor:
        """(B, planes, H, W) -> (B, shared): the representation that all three grades are read from."""
        y = functional.max_pool2d(torch.relu(self.stem(self.standardise(x))), 3, 2, 1)
        parts = [torch.relu(self.embed(self.layers(y).mean(dim=(2, 3))))]
        if self.dino is not None and self.dino_embed is not None:
            parts.append(torch.relu(self.dino_embed(self.dino(x))))
        return torch.relu(self.shared(torch.cat(parts, dim=1)))

    def load_imagenet(self, path: Path) -> None:
        """The ResNet-18 from a file in torchvision's layout; its last layer is left out.

        ValueError names what is missing or of another shape; then nothing has been loaded.
        """
        kept = torch.load(path, map_location="cpu", weights_only=True)
        named = {_our_name(name): value for name, value in kept.items() if not name.startswith("fc.")}
        ours = {name: value for name, value in self.state_dict().items() if name.startswith(("stem.", "layers."))}
        # some files carry no batch counters
        wanted = {name for name in ours if not name.endswith("num_batches_tracked")}
        wrong = sorted(name for name in wanted if name not in named or named[name].shape != ours[name].shape) + sorted(
            named.keys() - ours.keys()
        )
        if wrong:
            raise ValueError(f"{path}: not the weights of a ResNet-18 of this size ({len(wrong)} differ: {wrong[0]})")
        self.load_state_dict(named, strict=False)


def _our_name(theirs: str) -> str:
    """`layer1.0.bn2.bias` -> `layers.0.0.conv2.norm.bias`; `conv1.weight` -> `stem.conv.weight`."""
    name = re.sub(r"^layer(\d)", lambda found: f"layers.{int(found[1]) - 1}", theirs)
    name = name.replace("downsample.0", "shortcut.conv").replace("downsample.1", "shortcut.norm")
    name = re.sub(r"(^|\.)conv(\d)\.", r"\1conv\2.conv.", name)
    name = re.sub(r"(^|\.)bn(\d)\.", r"\1conv\2.norm.", name)
    return re.sub(r"^conv1\.", "stem.", name)

"""The multi-label grader of Lockhart et al.: the convolutions of a VGG16, then one small branch for each grade.

Does: the slides' network; a small variant with norms that trains from nothing; optional ImageNet weights from a file
the user names. Refuses to know: pictures on disk, losses, ONNX.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.amsnet.blocks import ConvNorm
from training.day5.blocks import Standardise
from training.day5.grading import EXPANSION_CLASSES, LETTERS, Answers

VGG16_WIDTHS, VGG16_CONVOLUTIONS = (64, 128, 256, 512, 512), (2, 2, 3, 3, 3)
SLIDES_EXPANSIONS = ("4", "3", "2")  # "ZP (Expansion) score" of the slides, in their order


@dataclass(frozen=True)
class GardnerConfig:
    """`widths`, `convolutions`: of the five blocks. `norms`: batch norm after each, without which nothing so deep
    trains from random weights. `hidden`: the two dense layers of each branch (32, 8 in the authors' code).
    `expansions`: the classes of the first branch."""

    widths: tuple[int, ...] = VGG16_WIDTHS
    convolutions: tuple[int, ...] = VGG16_CONVOLUTIONS
    norms: bool = False
    planes: int = 3
    input_px: int = 320
    hidden: tuple[int, int] = (32, 8)
    dropout: float = 0.5
    expansions: tuple[str, ...] = SLIDES_EXPANSIONS

    @classmethod
    def small(cls) -> GardnerConfig:
        """The bundled variant: a narrow VGG16 with norms, 128 px, all six expansions and "none"."""
        return cls(
            widths=(8, 16, 32, 64, 96),
            norms=True,
            input_px=128,
            hidden=(32, 16),
            dropout=0.2,
            expansions=EXPANSION_CLASSES,
        )

    @classmethod
    def read(cls, kept: Mapping[str, object]) -> GardnerConfig:
        """From a checkpoint's plain values."""
        tuples = {name: tuple(kept[name]) for name in ("widths", "convolutions", "hidden", "expansions")}  # type: ignore[call-overload]
        return cls(**{**kept, **tuples})  # type: ignore[arg-type]


class PlainConv(nn.Module):
    """VGG16's own: a 3x3 convolution with a bias and no norm."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H, W)."""
        return self.conv(x)


class Branch(nn.Module):
    """One grade: dense 32, dropout, dense 8, dropout, one logit a class."""

    def __init__(self, features: int, classes: int, config: GardnerConfig) -> None:
        super().__init__()
        first, second = config.hidden
        self.layers = nn.Sequential(
            nn.Linear(features, first), nn.ReLU(), nn.Dropout(config.dropout),
            nn.Linear(first, second), nn.ReLU(), nn.Dropout(config.dropout),
            nn.Linear(second, classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """(B, features) -> (B, classes)."""
        return self.layers(x)


class GardnerNet(nn.Module):
    """(B, planes, H, W) gray / 255 -> logits of expansion, ICM and TE."""

    def __init__(self, config: GardnerConfig) -> None:
        super().__init__()
        self.config = config
        self.standardise = Standardise()
        layers, last = [], config.planes
        for width, count in zip(config.widths, config.convolutions, strict=True):
            for _ in range(count):
                layers.append(ConvNorm(last, width, 3) if config.norms else PlainConv(last, width))
                last = width
        self.convolutions = nn.ModuleList(layers)
        classes = (len(config.expansions), len(LETTERS), len(LETTERS))
        self.branches = nn.ModuleList(Branch(last, count, config) for count in classes)
        for layer in self.convolutions:  # as VGG16 is begun; with the library's own, thirteen layers fade to nothing
            nn.init.kaiming_normal_(layer.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Answers:
        y, layer = self.standardise(x), iter(self.convolutions)
        for count in self.config.convolutions:
            for _ in range(count):
                y = torch.relu(next(layer)(y))
            y = functional.max_pool2d(y, 2)
        features = y.mean(dim=(2, 3))
        expansion, icm, te = (branch(features) for branch in self.branches)
        return expansion, icm, te

    def freeze_all_but(self, last: int) -> None:
        """Only so many convolutions and the branches go on learning (the slides: "last 3 layers trainable")."""
        for layer in list(self.convolutions)[: max(len(self.convolutions) - last, 0)]:
            layer.requires_grad_(False)

    def load_imagenet(self, path: Path) -> None:
        """Convolutions from a file in torchvision's layout of VGG16 (`features.0.weight`, ...), in their order.

        ValueError names the first that is missing or of another shape; then nothing has been loaded.
        """
        kept = torch.load(path, map_location="cpu", weights_only=True)
        numbers = sorted(
            {
                int(name.split(".")[1])
                for name, value in kept.items()
                if name.startswith("features.") and value.ndim == 4
            }
        )
        if self.config.norms or len(numbers) != len(self.convolutions):
            raise ValueError(f"{path}: {len(numbers)} convolutions for a network of {len(self.convolutions)}; VGG16 "
                             "weights fit only the paper's size, without norms")  # fmt: skip
        found: list[tuple[nn.Conv2d, Tensor, Tensor]] = []
        for number, layer in zip(numbers, self.convolutions, strict=True):
            weight, bias = kept[f"features.{number}.weight"], kept.get(f"features.{number}.bias")
            if weight.shape != layer.conv.weight.shape or bias is None:
                raise ValueError(f"{path}: features.{number} is {tuple(weight.shape)}, "
                                 f"the network has {tuple(layer.conv.weight.shape)}")  # fmt: skip
            found.append((layer.conv, weight, bias))
        for conv, weight, bias in found:
            conv.weight.data.copy_(weight)
            conv.bias.data.copy_(bias)  # type: ignore[union-attr]

"""A ResNet-18 of half width with two heads: six merged stages, and the phase as a help in training.

Refuses to know: crops, losses, files.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from monitor.vocabulary import PHASES
from training.sim2real.labels import STAGES

WIDTHS = (32, 64, 128, 256)


class Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut."""

    def __init__(self, wide_in: int, wide_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(wide_in, wide_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(wide_out)
        self.conv2 = nn.Conv2d(wide_out, wide_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(wide_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or wide_in != wide_out:
            self.shortcut = nn.Sequential(nn.Conv2d(wide_in, wide_out, 1, stride, bias=False), nn.BatchNorm2d(wide_out))

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class StageNet(nn.Module):
    """(B, planes, 112, 112) standardised -> logits (B, 6) of the stages, (B, 16) of the phases, features (B, 256)."""

    def __init__(self, planes: int = 1) -> None:
        super().__init__()
        self.planes = planes
        self.stem = nn.Conv2d(planes, WIDTHS[0], 7, 2, 3, bias=False)
        self.norm = nn.BatchNorm2d(WIDTHS[0])
        wide = [WIDTHS[0], *WIDTHS]
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(Block(wide[i], wide[i + 1], 1 if i == 0 else 2), Block(wide[i + 1], wide[i + 1], 1))
                for i in range(4)
            )
        )
        self.drop = nn.Dropout(0.2)
        self.stage = nn.Linear(WIDTHS[-1], len(STAGES))
        self.phase = nn.Linear(WIDTHS[-1], len(PHASES))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = functional.max_pool2d(functional.relu(self.norm(self.stem(x))), 3, 2, 1)
        features = self.blocks(y).mean(dim=(2, 3))
        dropped = self.drop(features)
        return self.stage(dropped), self.phase(dropped), features


class Averaged:
    """Exponential moving average of everything a network holds; short-sighted at first, so that it starts useful."""

    def __init__(self, network: StageNet, decay: float = 0.998) -> None:
        self.decay, self.steps = decay, 0
        self.network = StageNet(network.planes).requires_grad_(False).eval()
        self.network.load_state_dict(network.state_dict())

    @torch.no_grad()
    def follow(self, network: StageNet) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for own, new in zip(self.network.state_dict().values(), network.state_dict().values(), strict=True):
            if own.dtype.is_floating_point:
                own.lerp_(new, 1 - decay)
            else:
                own.copy_(new)

"""Stage 1: a shared-weight trunk on every focal plane, attention across the planes, one vector per frame.

Does: ResNets of three sizes, multi-focal fusion that copes with missing planes, the frame's own class logits (which
train the encoder and are left out of what is shipped). Refuses to know: time, sequences, crops, augmentation.

Axes: B frames, P focal planes, C channels, H and W pixels, K phases, D the frame's vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional

from monitor.vocabulary import PHASES
from training.sim2real.labels import STAGES
from training.sim2real.model import Block as BasicBlock

FEATURES = 128  # D: it is journalled for every frame, 512 bytes
CLIPPED_AT = 5.0  # deviations: the ring's glare is cut off, as in training.sim2real.augment
LEAST_SPREAD = 2.0 / 255  # of gray in 0..1: a blank picture is not blown up to noise


@dataclass(frozen=True)
class Trunk:
    """Widths of a ResNet: stem channels, then (channels, blocks) of each stage; `bottleneck` as in ResNet-50."""

    stem_channels: int
    stages: tuple[tuple[int, int], ...]
    bottleneck: bool
    input_px: int


TRUNKS = {
    "resnet50": Trunk(64, ((256, 3), (512, 4), (1024, 6), (2048, 3)), bottleneck=True, input_px=224),
    "resnet18": Trunk(64, ((64, 2), (128, 2), (256, 2), (512, 2)), bottleneck=False, input_px=224),
    "small": Trunk(32, ((32, 2), (64, 2), (128, 2), (256, 2)), bottleneck=False, input_px=112),
    "tiny": Trunk(8, ((8, 1), (8, 1)), bottleneck=False, input_px=32),  # for tests
}


@dataclass(frozen=True)
class EncoderConfig:
    """Everything that shapes the encoder. `input_px` None: the trunk's own."""

    trunk: str = "small"
    planes: int = 7
    input_px: int | None = None
    features: int = FEATURES
    heads: int = 4

    def __post_init__(self) -> None:
        if self.trunk not in TRUNKS:
            raise ValueError(f"unknown trunk {self.trunk!r}; known: {sorted(TRUNKS)}")
        if self.features % self.heads:
            raise ValueError(f"{self.features} features do not divide into {self.heads} heads")
        if self.input_px is None:
            object.__setattr__(self, "input_px", TRUNKS[self.trunk].input_px)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1 convolutions and a shortcut; the middle ones a quarter as wide (He et al. 2016)."""

    def __init__(self, wide_in: int, wide_out: int, stride: int) -> None:
        super().__init__()
        narrow = wide_out // 4
        self.conv1 = nn.Conv2d(wide_in, narrow, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(narrow)
        self.conv2 = nn.Conv2d(narrow, narrow, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(narrow)
        self.conv3 = nn.Conv2d(narrow, wide_out, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(wide_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or wide_in != wide_out:
            self.shortcut = nn.Sequential(nn.Conv2d(wide_in, wide_out, 1, stride, bias=False), nn.BatchNorm2d(wide_out))

    def forward(self, x: Tensor) -> Tensor:
        """(rows, C, H, W) -> (rows, wide_out, H', W')."""
        y = functional.relu(self.norm1(self.conv1(x)))
        y = functional.relu(self.norm2(self.conv2(y)))
        return functional.relu(self.norm3(self.conv3(y)) + self.shortcut(x))


class PlaneTrunk(nn.Module):
    """One plane's picture -> one vector; the same weights for every plane.

    Parameters are named as in `training.sim2real.model.StageNet`, whose weights may start the small one.
    """

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, trunk.stem_channels, 7, 2, 3, bias=False)
        self.norm = nn.BatchNorm2d(trunk.stem_channels)
        block = Bottleneck if trunk.bottleneck else BasicBlock
        stages, wide_in = [], trunk.stem_channels
        for number, (channels, blocks) in enumerate(trunk.stages):
            strides = [1 if number == 0 else 2, *[1] * (blocks - 1)]
            widths = [wide_in, *[channels] * blocks]
            stages.append(nn.Sequential(*(block(widths[i], channels, stride) for i, stride in enumerate(strides))))
            wide_in = channels
        self.blocks = nn.Sequential(*stages)
        self.channels = wide_in

    def forward(self, x: Tensor) -> Tensor:
        """(rows, 1, H, W) standardised -> (rows, C)."""
        y = functional.max_pool2d(functional.relu(self.norm(self.stem(x))), 3, 2, 1)
        return self.blocks(y).mean(dim=(2, 3))


class PlaneFusion(nn.Module):
    """Attention of learned queries over the planes that are there: (B, P, C) and a mask -> (B, D).

    A plane that is absent gets no weight at all, so one plane and seven go through the same weights. The focal offset
    enters the keys only: what a plane shows counts wherever the embryo's middle happens to be.
    """

    def __init__(self, channels: int, config: EncoderConfig) -> None:
        super().__init__()
        self.heads, self.width = config.heads, config.features // config.heads
        self.query = nn.Parameter(torch.randn(config.heads, self.width) / sqrt(self.width))
        self.offset = nn.Parameter(torch.zeros(config.planes, config.features))
        self.key = nn.Linear(channels, config.features)
        self.value = nn.Linear(channels, config.features)
        self.norm = nn.LayerNorm(config.features)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """x (B, P, C), present (B, P) 1 or 0, at least one 1 in a row -> (B, D), normalised over D."""
        return self.joined(*self.parts(x), present)

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, P, C) -> what each plane brings by itself: scores (B, P, heads), values (B, P, heads, D / heads)."""
        split = (*x.shape[:2], self.heads, self.width)
        keys = (self.key(x) + self.offset).reshape(split)
        return (keys * self.query).sum(-1) / sqrt(self.width), self.value(x).reshape(split)

    def joined(self, scores: Tensor, values: Tensor, present: Tensor) -> Tensor:
        """What `parts` gave, and which planes are there -> (B, D)."""
        # not -inf: a row without a plane stays a number
        weights = (scores + (present.unsqueeze(-1) - 1.0) * 1e4).softmax(dim=1).unsqueeze(-1)  # (B, P, heads, 1)
        return self.norm((weights * values).sum(dim=1).flatten(1))


class FrameEncoder(nn.Module):
    """The planes of one moment -> one vector; `classify` adds the heads that train it."""

    def __init__(self, config: EncoderConfig | None = None) -> None:
        super().__init__()
        self.config = config or EncoderConfig()
        self.trunk = PlaneTrunk(TRUNKS[self.config.trunk])
        self.fusion = PlaneFusion(self.trunk.channels, self.config)
        self.drop = nn.Dropout(0.2)
        self.phase = nn.Linear(self.config.features, len(PHASES))
        self.stage = nn.Linear(self.config.features, len(STAGES))

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """x (B, P, H, W) gray in 0..1 (absent planes: anything finite), present (B, P) 1 or 0 -> vectors (B, D)."""
        return self.fusion(self.each_plane(x), present)

    def each_plane(self, x: Tensor) -> Tensor:
        """x (B, P, H, W) gray in 0..1 -> what the trunk says of each plane by itself, (B, P, C).

        What a plane says never hangs on which others are there: kept once, it can be fused in any choice of planes.
        """
        return self.trunk(standardised(x.flatten(0, 1).unsqueeze(1))).reshape(*x.shape[:2], -1)

    def fuse_present(self, planes: Tensor, present: Tensor) -> Tensor:
        """Only the planes that are there, standardised: (N, 1, H, W) in order of (frame, plane) -> vectors (B, D).

        `present` (B, P) has N ones. The same vectors as `forward`, without the trunk on planes that are absent.
        """
        own = self.trunk(planes)
        filled = own.new_zeros(*present.shape, own.shape[-1])
        filled[present > 0] = own
        return self.fusion(filled, present)

    def classify(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D) -> logits (B, 16) of the phases and (B, 6) of the merged stages."""
        dropped = self.drop(features)
        return self.phase(dropped), self.stage(dropped)


def standardised(x: Tensor) -> Tensor:
    """(rows, 1, H, W) gray -> each row with mean 0 and deviation 1 in its middle, cut off at 5 deviations.

    As `training.sim2real.augment.standardised` does for one plane: light tells the network nothing.
    """
    edge_y, edge_x = x.shape[2] // 5, x.shape[3] // 5
    middle = x[:, :, edge_y : x.shape[2] - edge_y, edge_x : x.shape[3] - edge_x].flatten(1)
    level = middle.mean(1, keepdim=True)
    spread = (middle - level).square().mean(1, keepdim=True).sqrt().clamp(min=LEAST_SPREAD)
    return ((x - level[:, :, None, None]) / spread[:, :, None, None]).clamp(-CLIPPED_AT, CLIPPED_AT)


def start_trunk(encoder: FrameEncoder, stage_net: dict[str, Tensor]) -> None:
    """Put a one-plane `StageNet`'s weights into the trunk. ValueError when they are of another size."""
    own = {name: value for name, value in stage_net.items() if name.split(".")[0] in ("stem", "norm", "blocks")}
    try:
        encoder.trunk.load_state_dict(own)
    except RuntimeError as fault:
        raise ValueError(f"these weights do not start a {encoder.config.trunk} trunk: {fault}") from fault

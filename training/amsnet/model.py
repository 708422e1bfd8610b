"""AMSNet as one network with two equal ways to run it: over a whole clip, and one frame at a time with a carried state.

Does: puts the blocks of blocks.py together as "AMSNet: early blastocyst development prediction from time-lapse videos"
(sections 3.1, 3.2 and 4.1) does, for 1, 3, 5 or 7 planes, in the paper's size and in a small one. Refuses to know:
files, hours, segments, which frame deserves a step, how pictures became tensors, how it is trained or exported.

Axes: B embryos, T steps, P focal planes, U planes present, C channels, H and W pixels (h, w on a feature map).
Hours come as pairs (hours since insemination, 1 where they are known or else 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from training.amsnet.blocks import (
    EXPANSION,
    CarriedMemory,
    ChannelAttention,
    ClipMemory,
    ConvNorm,
    GaussianNonLocal,
    Memory,
    ShiftedBottleneck,
)


@dataclass(frozen=True)
class Backbone:
    """Widths of a bottleneck ResNet: stem channels, then (width of the 3x3 convolution, blocks) for Res-1 to Res-4."""

    stem_channels: int
    stages: tuple[tuple[int, int], ...]
    input_px: int
    key_pool: int


BACKBONES = {
    "resnet50": Backbone(64, ((64, 3), (128, 4), (256, 6), (512, 3)), input_px=224, key_pool=1),
    "small": Backbone(16, ((16, 2), (32, 2), (64, 2), (128, 2)), input_px=112, key_pool=4),
}
HOURS_APART, LAST_HOUR = 12.0, 168.0  # knots of the embedding of the hour
HEAD_WIDTH = 64  # of the hidden layer where hour and picture meet


@dataclass(frozen=True)
class AMSNetConfig:
    """Everything that shapes the network; with the weights it is the whole model.

    `None` for `input_px` or `key_pool` means the backbone's own. `tsm`, `channel_attention` and `spatial_attention`
    are the switches of the paper's Table 1; `affinity_scale` multiplies x_i . x_j (1 = the paper's Gaussian form);
    `key_pool` is the side of the max-pool over keys and values (1: all positions). `hours` adds the hour since
    insemination before the head, which the paper does not have: without it only the memory tells how late it is.
    """

    backbone: str = "small"
    planes: int = 7
    input_px: int | None = None
    shift_divisor: int = 8
    mlp_reduction: int = 16
    key_pool: int | None = None
    affinity_scale: float = 1.0
    tsm: bool = True
    channel_attention: bool = True
    spatial_attention: bool = True
    hours: bool = False

    def __post_init__(self) -> None:
        """Refuse a network the paper does not describe, by name."""
        if self.backbone not in BACKBONES:
            raise ValueError(f"unknown backbone {self.backbone!r}; known: {sorted(BACKBONES)}")
        if self.planes not in (1, 3, 5, 7):
            raise ValueError(f"planes must be 1, 3, 5 or 7, not {self.planes}")
        if self.input_px is None:
            object.__setattr__(self, "input_px", BACKBONES[self.backbone].input_px)
        if self.key_pool is None:
            object.__setattr__(self, "key_pool", BACKBONES[self.backbone].key_pool)


class MultiFocusFusion(nn.Module):
    """The part of the MFS module after Res-1: planes' features side by side -> one feature map as wide as Res-1's."""

    def __init__(self, channels: int, config: AMSNetConfig) -> None:
        super().__init__()
        self.planes = config.planes
        wide = config.planes * channels
        attend, reduce = config.channel_attention, config.channel_attention or config.planes > 1
        self.channel: nn.Module = ChannelAttention(wide, config.mlp_reduction) if attend else nn.Identity()
        self.reduce: nn.Module = nn.Sequential(ConvNorm(wide, channels, 1), nn.ReLU()) if reduce else nn.Identity()
        spatial = GaussianNonLocal(channels, int(config.key_pool or 1), config.affinity_scale)
        self.spatial: nn.Module = spatial if config.spatial_attention else nn.Identity()

    def forward(self, x: Tensor, source: Sequence[int] | None = None) -> Tensor:
        """(rows*P, C, H, W) -> (rows, C, H, W); with `source` (P indices) x holds the U present planes only."""
        if source is not None and self.planes > 1:  # of one plane there is nothing to fill
            return self._from_present(x, source)
        side_by_side = x.reshape(-1, self.planes * x.shape[1], *x.shape[2:])  # (rows, P*C, H, W)
        return self.spatial(self.reduce(self.channel(side_by_side)))

    def _from_present(self, x: Tensor, source: Sequence[int]) -> Tensor:
        """The same value as filling the planes first, but copies are made of channel means and kernels, not of maps.

        Scale and reduction are linear, so each row gets one kernel in which the planes that share a picture are summed.
        """
        maps = x.reshape(-1, max(source) + 1, *x.shape[1:]).permute(0, 1, 3, 4, 2)  # (rows, U, H, W, C): as they lie
        rows, count, height, width, channels = maps.shape
        picked = torch.zeros(self.planes, count, device=x.device)  # (P, U): which picture each plane uses
        picked[range(self.planes), list(source)] = 1.0
        kernel = self.reduce[0].conv.weight.reshape(1, channels, self.planes, channels)  # (1, C out, P, C in)
        if isinstance(self.channel, ChannelAttention):
            pooled = (maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3)))  # each (rows, U, C)
            weight = self.channel.weight(*((picked @ value).flatten(1) for value in pooled))  # (rows, P*C)
            kernel = kernel * weight.reshape(rows, 1, self.planes, channels)
        kernel = torch.einsum("ropc,pu->urco", kernel.expand(rows, -1, -1, -1), picked)  # (U, rows, C in, C out)
        flat = maps.reshape(rows, count, height * width, channels)
        reduced = sum(one @ own for one, own in zip(flat.unbind(1), kernel, strict=True))  # (rows, H*W, C)
        seen = reduced.reshape(rows, height, width, channels).permute(0, 3, 1, 2)  # (rows, C, H, W), channels last
        return self.spatial(self.reduce[1](self.reduce[0].norm(seen)))


@dataclass(frozen=True)
class CacheShape:
    """One shifted block's share of the packed state: its name and the shape of one embryo's cache."""

    block: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Float32 values in it."""
        return prod(self.shape)


class HourHead(nn.Module):
    """One hidden layer where the picture's features meet the hour since insemination; an unknown hour adds nothing."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        knots = torch.arange(0.0, LAST_HOUR + HOURS_APART, HOURS_APART)
        self.register_buffer("knots", knots, persistent=False)
        self.hidden = nn.Linear(channels, HEAD_WIDTH)
        self.hour = nn.Linear(len(knots), HEAD_WIDTH, bias=False)
        self.out = nn.Linear(HEAD_WIDTH, 1)

    def forward(self, features: Tensor, hours: Tensor) -> Tensor:
        """features (rows, C), hours (rows, 2) -> logits (rows, 1). Between two knots the embedding goes straight."""
        h, known = hours[:, :1].clamp(0.0, LAST_HOUR), hours[:, 1:]
        near = torch.relu(1 - (h - self.knots).abs() / HOURS_APART) * known  # (rows, knots)
        return self.out(torch.relu(self.hidden(features) + self.hour(near)))


class AMSNet(nn.Module):
    """Stem and Res-1 on every plane with shared weights, fusion, Res-2 to Res-4, average pool, one logit."""

    def __init__(self, config: AMSNetConfig | None = None) -> None:
        super().__init__()
        self.config = config or AMSNetConfig()
        backbone = BACKBONES[self.config.backbone]
        self.stem = nn.Sequential(ConvNorm(1, backbone.stem_channels, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1))
        self.layout: list[CacheShape] = []  # in the order the blocks run
        self.channels = backbone.stem_channels  # of the feature map while the stages are laid out
        self.side_px = _halved(_halved(int(self.config.input_px or 0)))
        self.res1 = self._stage(1, *backbone.stages[0])
        self.fusion = MultiFocusFusion(self.channels, self.config)
        self.res2, self.res3, self.res4 = (self._stage(n, *backbone.stages[n - 1]) for n in (2, 3, 4))
        self.head: nn.Module = HourHead(self.channels) if self.config.hours else nn.Linear(self.channels, 1)
        self.apply(_initialise)

    def _stage(self, number: int, width: int, blocks: int) -> nn.ModuleList:
        stage = nn.ModuleList()
        for index in range(blocks):
            stride = 2 if number > 1 and index == 0 else 1
            shifted = self.channels // self.config.shift_divisor if self.config.tsm else 0
            stage.append(ShiftedBottleneck(self.channels, width, stride, shifted))
            if shifted:
                per_embryo = (self.config.planes,) if number == 1 else ()  # Res-1 runs, and remembers, plane by plane
                self.layout.append(
                    CacheShape(f"res{number}.{index}", (*per_embryo, shifted, self.side_px, self.side_px))
                )
            self.channels = width * EXPANSION
            self.side_px = _halved(self.side_px) if stride == 2 else self.side_px
        return stage

    @property
    def state_size(self) -> int:
        """Float32 values of one embryo's packed state (S); 0 without the temporal shift."""
        return sum(cache.size for cache in self.layout)

    def initial_state(self, batch: int = 1) -> Tensor:
        """(B, S) float32 zeros: before its first segment an embryo has no past (section 3.2; never uninitialised)."""
        return torch.zeros(batch, self.state_size, dtype=torch.float32)

    def forward(self, sequence: Tensor, source: Sequence[int] | None = None, hours: Tensor | None = None) -> Tensor:
        """Whole clip: (B, T, P, H, W) standardised grey -> logits (B, T), each from its own and earlier steps only.

        With `source` (P indices) the clip holds only the planes that are present, (B, T, U, H, W), and plane p is
        filled with present plane source[p]: the same logits as filling the pictures, without Res-1 on copies.
        `hours` (B, T, 2); None means that none is known.
        """
        return self.judged(self.features(sequence, source), hours)

    def features(self, sequence: Tensor, source: Sequence[int] | None = None) -> Tensor:
        """What the head reads of every step: (B, T, P, H, W) -> (B, T, C)."""
        batch, steps = sequence.shape[:2]
        seen = self._network(sequence.reshape(-1, *sequence.shape[2:]), ClipMemory(batch, steps), source)
        return seen.reshape(batch, steps, -1)

    def judged(self, features: Tensor, hours: Tensor | None) -> Tensor:
        """Features (B, T, C) and hours (B, T, 2) -> logits (B, T)."""
        batch, steps = features.shape[:2]
        told = features.new_zeros(batch, steps, 2) if hours is None else hours
        return self._head(features.flatten(0, 1), told.flatten(0, 1)).reshape(batch, steps)

    def _head(self, features: Tensor, hours: Tensor) -> Tensor:
        return self.head(features, hours) if self.config.hours else self.head(features)

    def step(self, state: Tensor, x: Tensor, hours: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One step: state (B, S) float32, x (B, P, H, W), hours (B, 2) -> logit (B, 1), next state (B, S) float32."""
        memory = CarriedMemory([cache.to(x.dtype) for cache in self._unpack(state)])
        features = self._network(x, memory)
        logits = self._head(features, x.new_zeros(x.shape[0], 2) if hours is None else hours)
        packed = [
            kept.reshape(-1, cache.size).float() for kept, cache in zip(memory.kept, self.layout, strict=True)
        ]  # (B, size) each: Res-1's (B*P, c, h, w) falls into rows of P planes by the same reshape
        return logits, torch.cat(packed, dim=1) if packed else state

    def _unpack(self, state: Tensor) -> list[Tensor]:
        """(B, S) -> one (B, c, h, w) or, for Res-1, (B*P, c, h, w) per shifted block."""
        if not self.layout:
            return []
        parts = torch.split(state, [cache.size for cache in self.layout], dim=1)
        return [part.reshape(-1, *cache.shape[-3:]) for part, cache in zip(parts, self.layout, strict=True)]

    def _network(self, frames: Tensor, memory: Memory, source: Sequence[int] | None = None) -> Tensor:
        """(rows, P, H, W) -> (rows, C), rows being B or B*T; (rows, U, H, W) where `source` fills the planes."""
        features = self.stem(frames.reshape(-1, 1, *frames.shape[2:]))  # (rows*P, C, h, w)
        for block in self.res1:
            features = block(features, memory)
        features = self.fusion(features, source)  # (rows, C, h, w)
        for block in (*self.res2, *self.res3, *self.res4):
            features = block(features, memory)
        return features.mean(dim=(2, 3))


def _halved(side_px: int) -> int:
    return (side_px + 1) // 2  # what a stride of 2 with "same" padding leaves


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

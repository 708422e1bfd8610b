"""The network of I2CNet: five encoder blocks, and at every level the maps of the level below guide the features.

Does: section 3 of the paper, equations 1 to 12, with what it leaves open as fields of the configuration. Refuses to
know: pictures on disk, losses, ONNX.

Axes: B, C channels, H, W of a level; K = 5 classes in the order of `engines.day5.Part`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from engines.day5 import Part
from training.amsnet.blocks import ConvNorm
from training.day5.blocks import Standardise

K = len(Part)
PAPER_WIDTHS = (64, 128, 256, 512, 1024)  # the paper gives none; the usual ones of a U-Net
SMALL_WIDTHS = (8, 16, 32, 64, 128)


@dataclass(frozen=True)
class I2CNetConfig:
    """What the paper leaves open, and the rows of its Table 1. Raises ValueError where no group would get a channel.

    `intra`, `inter`: the two context modules (IACCM, IRCCM); with neither the maps are only handed down. `weighting`:
    the mapping U of equation 12, with `alpha` and `beta`. `relu_logits`: L ends in a ReLU, as written; then no class
    is ever less likely than .5 in the maps. `clamp_sum`: sums of maps are held below 1 before U. `logit_gain`: times
    this the norm of L, which begins as much smaller: the same network, whose confidence learns that much faster.
    """

    widths: tuple[int, ...] = PAPER_WIDTHS
    planes: int = 1
    input_px: int = 256
    intra: bool = True
    inter: bool = True
    weighting: bool = True
    relu_logits: bool = True
    clamp_sum: bool = False
    alpha: float = 1.0
    beta: float = 2.0
    logit_gain: float = 1.0

    def __post_init__(self) -> None:
        if min(self.widths) < K or len(self.widths) < 2:
            raise ValueError(f"widths {self.widths}: two levels or more, of at least {K} channels each")
        if self.input_px % 2 ** len(self.widths):
            raise ValueError(f"{self.input_px} px cannot be halved {len(self.widths)} times")

    @classmethod
    def small(cls) -> I2CNetConfig:
        """The bundled variant: three planes, logits without the ReLU, sums held below 1 (measured: README.md)."""
        return cls(SMALL_WIDTHS, planes=3, relu_logits=False, clamp_sum=True, logit_gain=8.0)

    @classmethod
    def read(cls, kept: Mapping[str, object]) -> I2CNetConfig:
        """From a checkpoint's plain values."""
        return cls(**{**kept, "widths": tuple(kept["widths"])})  # type: ignore[arg-type, call-overload]


def group_sizes(channels: int, groups: int) -> list[int]:
    """Equation 9: floor(C / groups) channels each, what is left over to the last."""
    each = channels // groups
    return [each] * (groups - 1) + [channels - each * (groups - 1)]


def weight_of(x: Tensor, alpha: float = 1.0, beta: float = 2.0) -> Tensor:
    """Equation 12, U: 1 where a pixel is surely in or out, up to 1 + alpha (1 - e^(-.5^beta)) where x is .5.

    The base of the power is taken as |x - .5|, so that any beta can be asked for; with 2 it is the same.
    """
    return alpha * (torch.exp(-((x - 0.5).abs() ** beta)) - torch.exp(-(torch.tensor(0.5) ** beta))) + 1


class GroupedBy(nn.Module):
    """Multiplies each group of channels by its own map. The maps are spread by a fixed 1x1 kernel of ones and zeros:
    the same values as cutting, multiplying and joining, without moving the features about."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        owners = [group for group, size in enumerate(group_sizes(channels, groups)) for _ in range(size)]
        self.register_buffer("spread", torch.eye(groups)[owners][:, :, None, None], persistent=False)

    def forward(self, features: Tensor, maps: Tensor) -> Tensor:
        """(B, C, H, W) and (B, groups, H, W) -> (B, C, H, W)."""
        return features * functional.conv2d(maps, self.spread)


class IntraClass(nn.Module):
    """IACCM, equation 10: K groups of channels, each seen through the map of one class; 1x1 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.grouped = GroupedBy(channels, K)
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, features: Tensor, inside_out: Tensor) -> Tensor:
        """(B, C, H, W) and maps (B, K, H, W) from inside to outside -> (B, C, H, W)."""
        return self.mix(self.grouped(features, inside_out))


class InterClass(nn.Module):
    """IRCCM, equation 11: K - 1 groups, group k seen through U(P_1 + ... + P_k); 1x1 convolution."""

    def __init__(self, channels: int, config: I2CNetConfig) -> None:
        super().__init__()
        self.config = config
        self.grouped = GroupedBy(channels, K - 1)
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, features: Tensor, inside_out: Tensor) -> Tensor:
        """(B, C, H, W) and maps (B, K, H, W) from inside to outside -> (B, C, H, W)."""
        sums = [inside_out[:, :1]]
        for k in range(1, K - 1):
            sums.append(sums[-1] + inside_out[:, k : k + 1])
        within = torch.cat(sums, dim=1)  # (B, K - 1, H, W): in ICM; in ICM or blastocoel; ... or TE; ... or ZP
        if self.config.clamp_sum:
            within = within.clamp(max=1.0)
        if self.config.weighting:
            within = weight_of(within, self.config.alpha, self.config.beta)
        return self.mix(self.grouped(features, within))


class I2CModule(nn.Module):
    """Equation 7: both contexts joined by a 1x1 convolution. Without any, maps and features are joined as they are."""

    def __init__(self, channels: int, config: I2CNetConfig) -> None:
        super().__init__()
        self.intra = IntraClass(channels) if config.intra else None
        self.inter = InterClass(channels, config) if config.inter else None
        contexts = config.intra + config.inter
        self.mix = nn.Conv2d(channels * contexts if contexts else channels + K, channels, 1)

    def forward(self, features: Tensor, maps: Tensor) -> Tensor:
        """Features (B, C, H, W), maps (B, K, H, W) in the order of `Part` -> (B, C, H, W)."""
        inside_out = torch.cat([maps[:, 1:], maps[:, :1]], dim=1)  # ICM, blastocoel, TE, ZP, background
        joined = [module(features, inside_out) for module in (self.intra, self.inter) if module is not None]
        return self.mix(torch.cat(joined or [features, inside_out], dim=1))


class Squeeze(nn.Module):
    """F, equation 2: two 1x1 convolutions down to K channels. We halve in between, and a ReLU stands there, or the two
    would be one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels // 2, 1)
        self.second = nn.Conv2d(channels // 2, K, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K, H, W)."""
        return self.second(torch.relu(self.first(x)))


class Encoder(nn.Module):
    """E, equation 1: two 3x3 convolutions with batch norm and ReLU, then a 2x2 max-pool."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.first = ConvNorm(channels_in, channels_out, 3)
        self.second = ConvNorm(channels_out, channels_out, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H / 2, W / 2)."""
        return functional.max_pool2d(torch.relu(self.second(torch.relu(self.first(x)))), 2)


class I2CNet(nn.Module):
    """(B, planes, H, W) gray / 255 -> logits of every level, the finest first; level n is (B, K, H / 2^n, W / 2^n)."""

    def __init__(self, config: I2CNetConfig) -> None:
        super().__init__()
        self.config = config
        self.standardise = Standardise()
        wide = config.widths
        self.encoders = nn.ModuleList(Encoder(a, b) for a, b in zip((config.planes, *wide), wide, strict=False))
        self.squeezes = nn.ModuleList(Squeeze(width) for width in wide)
        self.supervised = nn.ModuleList(ConvNorm(K, K, 3) for _ in wide)
        self.contexts = nn.ModuleList(I2CModule(width, config) for width in wide[:-1])
        self.apply(_kaiming)
        for level in self.supervised:
            assert isinstance(level, ConvNorm)
            nn.init.constant_(level.norm.weight, 1 / config.logit_gain)

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        y = self.standardise(x)
        for encoder in self.encoders:
            y = encoder(y)
            features.append(y)
        logits = [self._logits(len(features) - 1, features[-1])]
        for level in range(len(features) - 2, -1, -1):
            maps = functional.interpolate(  # P of equation 4
                torch.sigmoid(logits[0]), scale_factor=2, mode="bilinear", align_corners=False
            )
            logits.insert(0, self._logits(level, self.contexts[level](features[level], maps)))
        return logits

    def probabilities(self, x: Tensor) -> Tensor:
        """(B, planes, H, W) -> (B, K, H, W), one in all classes together: the finest level, enlarged."""
        finest = self.forward(x)[0]
        whole = functional.interpolate(finest, scale_factor=2, mode="bilinear", align_corners=False)
        return torch.softmax(whole.float(), dim=1)

    def _logits(self, level: int, features: Tensor) -> Tensor:
        """L of equation 3: convolution, batch norm, and the paper's ReLU where it is asked for."""
        logits = self.config.logit_gain * self.supervised[level](self.squeezes[level](features))
        return torch.relu(logits) if self.config.relu_logits else logits


def _kaiming(module: nn.Module) -> None:
    """Section 4.1: the modules are initialised randomly by kaiming."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def loss_of(logits: list[Tensor], labels: Tensor) -> Tensor:
    """Equation 15: the mean over levels of the cross-entropy against labels (B, H, W) shrunk to each level."""
    losses = []
    for level in logits:
        step = labels.shape[-1] // level.shape[-1]
        middle = labels[:, step // 2 :: step, step // 2 :: step]  # the nearest pixel to the middle of each block
        losses.append(functional.cross_entropy(level.float(), middle.long()))
    return torch.stack(losses).mean()

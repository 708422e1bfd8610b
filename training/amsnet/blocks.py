"""The blocks AMSNet is made of: shifted bottlenecks with their memory, channel attention, the Gaussian non-local block.

Does: one block each, as sections 3.1 and 3.2 of the paper describe them. Refuses to know: how many there are, in what
order, and whether the memory is a clip's own past or a carried cache (a block only asks it for the previous step).

Axes: rows are embryos, times steps, times planes in Res-1; C channels, H and W feature positions, K keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

EXPANSION = 4  # a bottleneck's output is four times as wide as its 3x3 convolution (ResNet-50, the paper's section 3)


class Memory(Protocol):
    """Where a block's shifted channels come from: the previous step of the same clip, or a carried cache."""

    def previous(self, own: Tensor) -> Tensor | None:
        """Take this step's own first channels (rows, c, h, w); give those of the step before, same shape.

        None stands for zeros: before a first step there is nothing.
        """


class ClipMemory:
    """Memory within a clip whose rows are ordered (B, T, anything); before the first step there is zero."""

    def __init__(self, batch: int, steps: int) -> None:
        self.batch, self.steps = batch, steps

    def previous(self, own: Tensor) -> Tensor | None:
        """Move (B*T*inner, c, h, w) one step later along T; the last step's channels fall off."""
        if self.steps == 1:
            return None
        clip = own.reshape(self.batch, self.steps, -1, *own.shape[1:])  # (B, T, inner, c, h, w)
        later = torch.cat([torch.zeros_like(clip[:, :1]), clip[:, :-1]], dim=1)
        return later.reshape(own.shape)


class CarriedMemory:
    """Memory handed in from the step before, one cache per block in the order the blocks run."""

    def __init__(self, caches: Sequence[Tensor]) -> None:
        self.caches = iter(caches)
        self.kept: list[Tensor] = []

    def previous(self, own: Tensor) -> Tensor:
        """Keep the channels as they were before the shift: they are what the next step receives."""
        self.kept.append(own)
        return next(self.caches)


class ConvNorm(nn.Module):
    """Convolution without bias, then batch norm; the pair is folded into one convolution before export."""

    def __init__(self, channels_in: int, channels_out: int, size: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, size, stride, padding=size // 2, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """(rows, C_in, H, W) -> (rows, C_out, H', W')."""
        return self.norm(self.conv(x))


class ShiftedBottleneck(nn.Module):
    """ResNet bottleneck whose first C/divisor input channels come from the previous step (section 3.2, residual TSM).

    Only the branch into the first convolution is shifted; the identity path stays unshifted, so the present frame is
    never overwritten. `shifted` is the number of those channels; 0 switches the shift off.

    The shifted map is never built: the first convolution sees the whole map with the shifted columns of its kernel at
    zero, and a small convolution of the past is added. The same value, a fifth less of a training step.
    """

    def __init__(self, channels_in: int, width: int, stride: int, shifted: int) -> None:
        super().__init__()
        self.shifted = shifted
        self.conv1 = ConvNorm(channels_in, width, 1)
        self.conv2 = ConvNorm(width, width, 3, stride)
        self.conv3 = ConvNorm(width, width * EXPANSION, 1)
        same = stride == 1 and channels_in == width * EXPANSION
        self.identity: nn.Module = nn.Identity() if same else ConvNorm(channels_in, width * EXPANSION, 1, stride)

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """(rows, C, H, W) -> (rows, 4 * width, H', W')."""
        branch = torch.relu(self._first(x, memory) if self.shifted else self.conv1(x))
        branch = torch.relu(self.conv2(branch))
        return torch.relu(self.identity(x) + self.conv3(branch))

    def _first(self, x: Tensor, memory: Memory) -> Tensor:
        """conv1 and its norm over the past's first channels and this step's others."""
        kernel, past = self.conv1.conv.weight, memory.previous(x[:, : self.shifted])
        present = torch.cat([torch.zeros_like(kernel[:, : self.shifted]), kernel[:, self.shifted :]], dim=1)
        seen = functional.conv2d(x, present, self.conv1.conv.bias)
        if past is not None:
            seen = seen + functional.conv2d(past, kernel[:, : self.shifted])
        return self.conv1.norm(seen)


class ChannelAttention(nn.Module):
    """Weigh each channel of the concatenated planes (section 3.1): shared MLP on average and maximum, sum, sigmoid."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(rows, P*C, H, W) -> the same shape, scaled per channel."""
        return x * self.weight(x.mean(dim=(2, 3)), x.amax(dim=(2, 3)))[:, :, None, None]

    def weight(self, average: Tensor, maximum: Tensor) -> Tensor:
        """Average and maximum of each channel (rows, P*C) -> its weight in (0, 1), same shape."""
        return torch.sigmoid(self.mlp(average) + self.mlp(maximum))


class GaussianNonLocal(nn.Module):
    """2-D Gaussian non-local block with a residual (section 3.1): softmax_j(x_i . x_j) over g(x_j), then a projection.

    No theta or phi. Affinity, softmax and weighted sum are float32 whatever precision surrounds them: x_i . x_j over
    256 post-ReLU channels overflows fp16. With `key_pool` 2 keys and values are 2x2 max-pooled, a quarter of the cost.
    """

    def __init__(self, channels: int, key_pool: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.value = nn.Conv2d(channels, channels // 2, 1)
        self.project = ConvNorm(channels // 2, channels, 1)
        self.pool: nn.Module = nn.MaxPool2d(key_pool) if key_pool > 1 else nn.Identity()
        nn.init.zeros_(self.project.norm.weight)  # starts as the identity, as the non-local paper advises

    def forward(self, x: Tensor) -> Tensor:
        """(rows, C, H, W) -> the same shape."""
        gathered = self.gather(x, self.pool(x), self.pool(self.value(x)))
        return x + self.project(gathered.to(x.dtype))

    def gather(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Queries (rows, C, H, W), keys (rows, C, h, w), values (rows, C/2, h, w) -> (rows, C/2, H, W) float32."""
        with torch.autocast(x.device.type, enabled=False):  # autocast would quietly make the products half again
            query = x.float().flatten(2).transpose(1, 2)  # (rows, H*W, C)
            products = query @ keys.float().flatten(2)  # (rows, H*W, K): a map of its own, so scaled only if asked
            affinity = torch.softmax(products if self.scale == 1 else products * self.scale, dim=-1)
            summed = affinity @ values.float().flatten(2).transpose(1, 2)  # (rows, H*W, C/2)
        return summed.transpose(1, 2).reshape(values.shape[0], values.shape[1], *x.shape[2:])

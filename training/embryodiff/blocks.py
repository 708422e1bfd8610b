"""What the temporal head is made of: dilated convolutions, windowed attention and norms that run whole or step by step.

Each block has `forward` over a sequence and, when it is causal, `step` over one frame with its registers; both give the
same numbers. A register holds the last inputs of a layer, oldest first; what lies before the first frame is zero, as
padding is. Refuses to know: what is diffused, labels, losses.

Axes: B embryos, T frames, C channels, N frames of a register, W frames of a window.
"""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional

Registers = list[Tensor]  # each (B, N, C)
MASKED = -1e4  # not -inf: exact zeros after the softmax, and no NaN where a whole window is masked


class FrameNorm(nn.Module):
    """Per-frame norm over channels (causal), or over the time of each channel (the paper's base: DiffAct).

    The second needs the whole sequence: it is what makes the published model unable to stream.
    """

    def __init__(self, channels: int, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.frame = nn.LayerNorm(channels)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """x (B, T, C), valid (B, T) 1 or 0 (None: all) -> the same shape."""
        if self.causal:
            return self.frame(x)
        valid = torch.ones(x.shape[:2]) if valid is None else valid
        weight = (valid / valid.sum(1, keepdim=True).clamp(min=1.0)).unsqueeze(-1)
        centred = x - (x * weight).sum(1, keepdim=True)
        spread = ((centred.square() * weight).sum(1, keepdim=True) + 1e-5).sqrt()
        return centred / spread * self.frame.weight + self.frame.bias


class DilatedConv(nn.Module):
    """Convolution of three taps `dilation` frames apart: present and past (causal), or past, present, future."""

    def __init__(self, channels_in: int, channels_out: int, dilation: int, causal: bool) -> None:
        super().__init__()
        self.dilation, self.channels_in = dilation, channels_in
        self.ahead = 0 if causal else dilation
        self.taps = nn.Linear(3 * channels_in, channels_out)

    def register_shapes(self) -> list[tuple[int, int]]:
        """(N, C) of the one register: the last (3 - 1) x dilation inputs."""
        return [(2 * self.dilation, self.channels_in)]

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C_in) -> (B, T, C_out); padding is zero on the left (causal) or on both sides."""
        frames, dilation = x.shape[1], self.dilation
        padded = functional.pad(x, (0, 0, 2 * dilation - self.ahead, self.ahead))
        return self.taps(torch.cat([padded[:, i * dilation : i * dilation + frames] for i in range(3)], dim=-1))

    def step(self, x: Tensor, registers: Registers) -> tuple[Tensor, Registers]:
        """One frame: x (B, C_in), the register -> (B, C_out), the register with x in it and its oldest frame gone."""
        (past,) = registers
        out = self.taps(torch.cat([past[:, 0], past[:, self.dilation], x], dim=-1))
        return out, [torch.cat([past[:, 1:], x.unsqueeze(1)], dim=1)]


class WindowAttention(nn.Module):
    """Attention over a window: the last `window` frames, the present one included (causal), or as many around it.

    Queries and keys come from one input, values from another (the hybrid block needs that; elsewhere they are equal).
    A bias per head and distance tells how far back a frame lies.
    """

    def __init__(self, query_in: int, value_in: int, channels: int, heads: int, window: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.window, self.channels = heads, window, channels
        self.ahead = 0 if causal else window // 2
        self.query, self.key = nn.Linear(query_in, channels), nn.Linear(query_in, channels)
        self.value, self.out = nn.Linear(value_in, channels), nn.Linear(channels, channels)
        self.distance = nn.Parameter(torch.zeros(heads, window))

    def register_shapes(self) -> list[tuple[int, int]]:
        """(N, C) of the past keys and values."""
        return [(self.window - 1, self.channels), (self.window - 1, self.channels)]

    def forward(self, query_in: Tensor, value_in: Tensor, valid: Tensor) -> Tensor:
        """(B, T, query_in), (B, T, value_in), valid (B, T) 1 or 0 -> (B, T, C).

        Queries in chunks of a window's length, each against the two chunks that its windows can reach: work and memory
        grow with T, not with its square.
        """
        (batch, frames), size = valid.shape, self.window
        chunks = -(-frames // size)
        spare = chunks * size - frames
        query = functional.pad(self.query(query_in), (0, 0, 0, spare))
        query = query.reshape(batch, chunks, size, self.heads, -1).transpose(2, 3)  # (B, chunks, heads, W, C / heads)
        key, value = (self._reached(x, spare) for x in (self.key(query_in), self.value(value_in)))
        seen = self._reached(valid.unsqueeze(-1), spare)[..., 0]  # (B, chunks, 2 W)
        key, value = (x.unflatten(-1, (self.heads, -1)).transpose(2, 3) for x in (key, value))
        scores = query @ key.transpose(3, 4) / sqrt(key.shape[-1]) + self._band()  # (B, chunks, heads, W, 2 W)
        weights = (scores + ((1.0 - seen) * MASKED)[:, :, None, None]).softmax(dim=-1)
        return self.out((weights @ value).transpose(2, 3).reshape(batch, chunks * size, -1)[:, :frames])

    def _reached(self, x: Tensor, spare: int) -> Tensor:
        """(B, T, C) -> (B, chunks, 2 W, C): what lies within reach of each chunk, zero beyond the ends."""
        padded = functional.pad(x, (0, 0, self.window - self.ahead, self.ahead + spare))
        chunks = padded.unflatten(1, (-1, self.window))
        return torch.cat([chunks[:, :-1], chunks[:, 1:]], dim=2)

    def _band(self) -> Tensor:
        """(heads, W, 2 W): the bias of each distance within two chunks, and a mask outside of the window."""
        at = torch.arange(2 * self.window)
        place = at[None, :] - at[: self.window, None] - 1
        inside = (place >= 0) & (place < self.window)
        return self.distance[:, place.clamp(0, self.window - 1)] + torch.where(inside, 0.0, MASKED)

    def step(self, query_in: Tensor, value_in: Tensor, seen: Tensor, registers: Registers) -> tuple[Tensor, Registers]:
        """One frame: (B, query_in), (B, value_in), which past frames there are (B, W - 1) -> (B, C), registers."""
        past_keys, past_values = registers
        keys = torch.cat([past_keys, self.key(query_in).unsqueeze(1)], dim=1)  # (B, W, C)
        values = torch.cat([past_values, self.value(value_in).unsqueeze(1)], dim=1)
        seen = torch.cat([seen, torch.ones_like(seen[:, :1])], dim=1)
        out = self._attend(self.query(query_in), keys, values, seen)
        return out, [keys[:, 1:], values[:, 1:]]

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> Tensor:
        """query (B, C), keys and values (B, W, C), seen (B, W) -> (B, C)."""
        heads, width = self.heads, self.channels // self.heads
        query = query.reshape(-1, 1, heads, width)
        keys, values = (x.reshape(-1, self.window, heads, width) for x in (keys, values))
        scores = (query * keys).sum(-1) / sqrt(width) + self.distance.t() + ((1.0 - seen) * MASKED).unsqueeze(2)
        weights = scores.softmax(dim=1).unsqueeze(-1)  # (B, W, heads, 1)
        return self.out((weights * values).sum(1).flatten(1))


class ConditionLayer(nn.Module):
    """One layer of a condition encoder: dilated convolution, attention over the window, both added to the input."""

    def __init__(self, channels: int, dilation: int, heads: int, window: int, causal: bool, dropout: float) -> None:
        super().__init__()
        self.conv = DilatedConv(channels, channels, dilation, causal)
        self.norm = FrameNorm(channels, causal)
        self.attention = WindowAttention(channels, channels, channels, heads, window, causal)
        self.out = nn.Linear(channels, channels)
        self.drop = nn.Dropout(dropout)

    def register_shapes(self) -> list[tuple[int, int]]:
        return self.conv.register_shapes() + self.attention.register_shapes()

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """x (B, T, C), zero where not valid (B, T) -> the same."""
        y = functional.gelu(self.conv(x))
        n = self.norm(y, valid)
        y = y + self.attention(n, n, valid)
        return (x + self.drop(self.out(y))) * valid.unsqueeze(-1)

    def step(self, x: Tensor, seen: Tensor, registers: Registers) -> tuple[Tensor, Registers]:
        """One frame: (B, C) -> (B, C) and the registers after it."""
        y, conv = self.conv.step(x, registers[:1])
        y = functional.gelu(y)
        n = self.norm(y)
        attended, past = self.attention.step(n, n, seen, registers[1:])
        return x + self.out(y + attended), conv + past


class ConditionEncoder(nn.Module):
    """Six layers with dilation 1, 2, 4 ...; the outputs of every second one side by side are the cue (MODELS.md, 2)."""

    def __init__(
        self, features: int, channels: int, layers: int, heads: int, window: int, causal: bool, dropout: float
    ) -> None:
        super().__init__()
        self.enter = nn.Linear(features, channels)
        self.layers = nn.ModuleList(
            ConditionLayer(channels, 2**i, heads, window, causal, dropout) for i in range(layers)
        )
        self.cue_channels = channels * (layers // 2)

    def register_shapes(self) -> list[tuple[int, int]]:
        return [shape for layer in self.layers for shape in layer.register_shapes()]

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """(B, T, features), valid (B, T) -> the cue (B, T, cue_channels)."""
        y, kept = self.enter(x) * valid.unsqueeze(-1), []
        for number, layer in enumerate(self.layers):
            y = layer(y, valid)
            if number % 2:
                kept.append(y)
        return torch.cat(kept, dim=-1)

    def step(self, x: Tensor, seen: Tensor, registers: Registers) -> tuple[Tensor, Registers]:
        """One frame: (B, features) -> the cue (B, cue_channels) and the registers after it."""
        y, kept, after = self.enter(x), [], []
        for number, layer in enumerate(self.layers):
            own = len(layer.register_shapes())
            y, new = layer.step(y, seen, registers[number * own : (number + 1) * own])
            after += new
            if number % 2:
                kept.append(y)
        return torch.cat(kept, dim=-1), after


class HybridBlock(nn.Module):
    """The hybrid semantic-boundary condition block: queries and keys from [noisy, semantic], values from noisy, beside
    it a boundary convolution of three frames on [noisy, boundary]; both added to the noisy stream, then a pointwise
    network. Without boundary (the ablation) the convolution sees the noisy stream alone."""

    def __init__(self, channels: int, boundary: bool, heads: int, window: int, causal: bool, dropout: float) -> None:
        super().__init__()
        self.norm = FrameNorm(channels, causal)
        self.attention = WindowAttention(2 * channels, channels, channels, heads, window, causal)
        self.conv = DilatedConv(2 * channels if boundary else channels, channels, 1, causal)
        self.wide = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, 2 * channels), nn.GELU())
        self.out = nn.Linear(2 * channels, channels)
        self.drop = nn.Dropout(dropout)

    def register_shapes(self) -> list[tuple[int, int]]:
        return self.attention.register_shapes() + self.conv.register_shapes()

    def forward(self, noisy: Tensor, semantic: Tensor, boundary: Tensor | None, valid: Tensor) -> Tensor:
        """All (B, T, C), valid (B, T) -> (B, T, C)."""
        n = self.norm(noisy, valid) * valid.unsqueeze(-1)
        beside = n if boundary is None else torch.cat([n, boundary], dim=-1)
        noisy = noisy + self.drop(self.attention(torch.cat([n, semantic], dim=-1), n, valid))
        noisy = noisy + self.drop(functional.gelu(self.conv(beside)))
        return (noisy + self.drop(self.out(self.wide(noisy)))) * valid.unsqueeze(-1)

    def step(
        self, noisy: Tensor, semantic: Tensor, boundary: Tensor | None, seen: Tensor, registers: Registers
    ) -> tuple[Tensor, Registers]:
        """One frame: all (B, C) -> (B, C) and the registers after it."""
        n = self.norm(noisy)
        beside = n if boundary is None else torch.cat([n, boundary], dim=-1)
        attended, past = self.attention.step(torch.cat([n, semantic], dim=-1), n, seen, registers[:2])
        turned, conv = self.conv.step(beside, registers[2:])
        noisy = noisy + attended
        noisy = noisy + functional.gelu(turned)
        return noisy + self.out(self.wide(noisy)), past + conv

"""The image encoder of DINOv2 (Oquab et al. 2023), frozen, from a weight file that the user names.

Does: reads a state dict in the public layout (`cls_token`, `pos_embed`, `patch_embed.proj`, `blocks.N...`, `norm`),
takes width and depth from it, gives one vector a picture. Refuses to know: where the file comes from (nothing is ever
fetched), grades.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

HEAD_WIDTH = 64  # of all its public sizes
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class DinoShape:
    """`grid`: patches a side that the position embedding was learned for; `heads` of attention."""

    width: int
    depth: int
    heads: int
    patch: int
    grid: int


def shape_of(weights: Mapping[str, Tensor]) -> DinoShape:
    """From the tensors' shapes. ValueError where it is no plain DINOv2 encoder: registers, gated MLPs are others."""
    try:
        width, _, patch, _ = weights["patch_embed.proj.weight"].shape
        places = weights["pos_embed"].shape[1] - 1
    except (KeyError, ValueError) as fault:
        raise ValueError(f"no DINOv2 weights in the public layout: {fault}") from fault
    depth = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
    grid = round(places**0.5)
    if grid * grid != places or not depth or "register_tokens" in weights or "blocks.0.mlp.w12.weight" in weights:
        raise ValueError("these are not the weights of a plain DINOv2 encoder (ViT-S, -B or -L without registers)")
    return DinoShape(width, depth, max(width // HEAD_WIDTH, 1), patch, grid)


class Scaled(nn.Module):
    """LayerScale: one factor a channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) -> the same."""
        return x * self.gamma


class Attention(nn.Module):
    """Self-attention over all tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) -> the same."""
        batch, tokens, width = x.shape
        query, key, value = (
            self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        )
        seen = functional.scaled_dot_product_attention(query, key, value)
        return self.proj(seen.transpose(1, 2).reshape(batch, tokens, width))


class Mlp(nn.Module):
    """Two layers with a GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) -> the same."""
        return self.fc2(functional.gelu(self.fc1(x)))


class Block(nn.Module):
    """Attention and MLP, each after a norm, scaled, added."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = Attention(width, heads), Mlp(width)
        self.ls1, self.ls2 = Scaled(width), Scaled(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) -> the same."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class _PatchEmbed(nn.Module):
    """Its own level only because the public names have it."""

    def __init__(self, shape: DinoShape) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, shape.width, shape.patch, shape.patch)


class DinoV2(nn.Module):
    """(B, 3, H, W) gray / 255 in three channels -> (B, width), the class token after the last norm; never trained."""

    def __init__(self, shape: DinoShape) -> None:
        super().__init__()
        self.shape = shape
        self.cls_token = nn.Parameter(torch.zeros(1, 1, shape.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + shape.grid**2, shape.width))
        self.patch_embed = _PatchEmbed(shape)
        self.blocks = nn.ModuleList(Block(shape.width, shape.heads) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.width, eps=1e-6)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        side_px = max(x.shape[-1] // self.shape.patch, 1) * self.shape.patch
        if x.shape[-1] != side_px:
            x = functional.interpolate(x, size=(side_px, side_px), mode="bilinear", align_corners=False)
        patches = self.patch_embed.proj((x - self.mean) / self.std)  # (B, width, h, w)
        tokens = patches.flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), tokens], dim=1) + self._places(patches.shape[-1])
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)[:, 0]

    def train(self, mode: bool = True) -> DinoV2:
        """It is frozen: it has nothing that differs in training."""
        return super().train(False)

    def _places(self, side: int) -> Tensor:
        """Position embedding (1, 1 + side^2, width), bicubic from the grid it was learned on."""
        if side == self.shape.grid:
            return self.pos_embed
        own = self.pos_embed[:, 1:].reshape(1, self.shape.grid, self.shape.grid, -1).permute(0, 3, 1, 2)
        resized = functional.interpolate(own, size=(side, side), mode="bicubic", antialias=False, align_corners=False)
        return torch.cat([self.pos_embed[:, :1], resized.flatten(2).transpose(1, 2)], dim=1)


def load_dinov2(path: Path) -> DinoV2:
    """The encoder of a local file. ValueError names the file and what is wrong with it."""
    if not path.is_file():
        raise ValueError(f"{path} is not there: DINOv2 weights are never fetched, name a local file or leave it out")
    weights = torch.load(path, map_location="cpu", weights_only=True)
    try:
        network = DinoV2(shape_of(weights))
        network.load_state_dict({name: value for name, value in weights.items() if name != "mask_token"})
    except (ValueError, RuntimeError) as fault:
        raise ValueError(f"{path}: {fault}") from fault
    return network.eval()

"""Stage 2: frame vectors and hours in, the posterior of the 16 phases out; whole sequences or one frame at a time.

Does: semantic and boundary condition encoders, the label-embedding denoiser with hybrid condition blocks, the two twins
(non-causal: the paper; causal: ours) from one code, the packed state of the causal one. Refuses to know: pictures, how
vectors were made, losses, decoding.

Axes: B embryos, T frames, D frame vector, K phases, E label embedding, S values of a packed state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from monitor.vocabulary import PHASES
from training.embryodiff import diffusion
from training.embryodiff.blocks import ConditionEncoder, HybridBlock, Registers
from training.embryodiff.encoder import FEATURES

PERIODS_H = (1000.0, 300.0, 100.0, 48.0, 24.0)  # of the sines and cosines that tell the hour
USUAL_ELAPSED_H = 0.25


@dataclass(frozen=True)
class HeadConfig:
    """Everything that shapes the head. The defaults are the published size; `SMALL` is what is shipped.

    `diffusion` and `boundary` are the switches of the ablation: without diffusion the semantic head's own posterior is
    the answer, without boundary there is no boundary encoder and no boundary loss.
    """

    features: int = FEATURES
    channels: int = 96
    layers: int = 6
    heads: int = 4
    window: int = 16
    label_channels: int = 128
    blocks: int = 8
    dropout: float = 0.1
    causal: bool = True
    diffusion: bool = True
    boundary: bool = True


SMALL = HeadConfig(channels=48, label_channels=64, blocks=3)


@dataclass(frozen=True)
class Sequence:
    """Frames of several embryos, left-aligned: `features` (B, T, D), and (B, T) each: `hours_h` post insemination,
    `known` (0: the hour is not known and `hours_h` means nothing), `elapsed_h` since the frame before (0 at the first),
    `valid` (0: padding after the end)."""

    features: Tensor
    hours_h: Tensor
    known: Tensor
    elapsed_h: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Cues:
    """What the condition encoders say of a sequence: cues (B, T, cue), logits (B, T, K) and (B, T)."""

    semantic: Tensor
    semantic_logits: Tensor
    boundary: Tensor | None
    boundary_logits: Tensor | None


def clock(hours_h: Tensor, known: Tensor, elapsed_h: Tensor) -> Tensor:
    """(...,) each -> (..., 2 * len(PERIODS_H) + 2): the hour in sines and cosines, zero where it is not known; whether
    it is; how long since the frame before, in a logarithm."""
    turns = [hours_h * (2 * math.pi / period_h) for period_h in PERIODS_H]
    told = torch.stack([wave(turn) for turn in turns for wave in (torch.sin, torch.cos)], dim=-1)
    return torch.cat(
        [told * known.unsqueeze(-1), known.unsqueeze(-1), torch.log1p(elapsed_h / USUAL_ELAPSED_H).unsqueeze(-1)],
        dim=-1,
    )


class Denoiser(nn.Module):
    """Noisy label embeddings and the cues -> logits of the clean labels.

    The semantic cue is also added where the noisy stream enters [ours]: the values of the first block come from the
    noisy stream alone, which at the last step is one fixed vector, so nothing of the cue could pass otherwise.
    """

    def __init__(self, config: HeadConfig, cue_channels: int) -> None:
        super().__init__()
        wide = config.label_channels
        self.enter = nn.Linear(wide, wide)
        self.semantic = nn.Linear(cue_channels, wide)
        self.boundary = nn.Linear(cue_channels, wide) if config.boundary else None
        self.time = nn.Sequential(nn.Linear(wide, wide), nn.SiLU(), nn.Linear(wide, wide))
        self.blocks = nn.ModuleList(
            HybridBlock(wide, config.boundary, config.heads, config.window, config.causal, config.dropout)
            for _ in range(config.blocks)
        )
        self.leave = nn.Sequential(nn.LayerNorm(wide), nn.Linear(wide, len(PHASES)))

    def told_step(self, steps: Tensor) -> Tensor:
        """Diffusion steps (B,) -> (B, E), sinusoidal, through two layers."""
        half = self.enter.in_features // 2
        rates = torch.exp(torch.arange(half, dtype=torch.float32) * (-math.log(10_000.0) / half))
        turns = steps.to(torch.float32).unsqueeze(1) * rates
        return self.time(torch.cat([turns.sin(), turns.cos()], dim=1))

    def entered(self, noisy: Tensor, semantic: Tensor, time: Tensor) -> Tensor:
        """The stream that the blocks work on."""
        return self.enter(noisy) + semantic + time

    def forward(self, noisy: Tensor, steps: Tensor, cues: tuple[Tensor, Tensor | None], valid: Tensor) -> Tensor:
        """noisy (B, T, E), steps (B,), cues (B, T, cue), valid (B, T) -> logits (B, T, K)."""
        semantic = self.semantic(cues[0])
        there = valid.unsqueeze(-1)
        boundary = None if self.boundary is None or cues[1] is None else self.boundary(cues[1]) * there
        stream = self.entered(noisy, semantic, self.told_step(steps).unsqueeze(1)) * there
        for block in self.blocks:
            stream = block(stream, semantic, boundary, valid)
        return self.leave(stream)


class EmbryoDiff(nn.Module):
    """The temporal head."""

    def __init__(self, config: HeadConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or HeadConfig()
        self.norm = nn.LayerNorm(config.features)
        entering = config.features + 2 * len(PERIODS_H) + 2

        def encoder() -> ConditionEncoder:
            size = (entering, config.channels, config.layers, config.heads, config.window)
            return ConditionEncoder(*size, config.causal, config.dropout)

        self.semantic = encoder()
        self.semantic_head = nn.Linear(self.semantic.cue_channels, len(PHASES))
        self.boundary = encoder() if config.boundary else None
        self.boundary_head = nn.Linear(self.semantic.cue_channels, 1) if config.boundary else None
        self.denoiser = Denoiser(config, self.semantic.cue_channels) if config.diffusion else None
        labels = torch.randn(len(PHASES), config.label_channels, generator=torch.Generator().manual_seed(1))
        self.labels = nn.Parameter(labels)
        noise = torch.randn(config.label_channels, generator=torch.Generator().manual_seed(2))
        self.register_buffer("noise", noise)  # the one fixed vector
        self.register_buffer("kept", diffusion.alpha_bars().float())

    def embeddings(self) -> Tensor:
        """(K, E) of unit variance a channel, whatever training does to the table."""
        return functional.normalize(self.labels, dim=-1) * math.sqrt(self.config.label_channels)

    def entering(self, sequence: Sequence) -> Tensor:
        """(B, T, D + clock), zero where not valid."""
        told = clock(sequence.hours_h, sequence.known, sequence.elapsed_h)
        return torch.cat([self.norm(sequence.features), told], dim=-1) * sequence.valid.unsqueeze(-1)

    def cues(self, sequence: Sequence) -> Cues:
        """What the two condition encoders say."""
        x = self.entering(sequence)
        semantic = self.semantic(x, sequence.valid)
        boundary = None if self.boundary is None else self.boundary(x, sequence.valid)
        said = None if self.boundary_head is None or boundary is None else self.boundary_head(boundary).squeeze(-1)
        return Cues(semantic, self.semantic_head(semantic), boundary, said)

    def forward(self, sequence: Sequence, steps: int = 1) -> Tensor:
        """Whole sequences -> log posterior (B, T, K), sampled in `steps` denoising steps from the fixed vector."""
        cues = self.cues(sequence)
        if self.denoiser is None:
            return cues.semantic_logits.log_softmax(-1)
        batch, frames = sequence.valid.shape
        noisy = self.noise.expand(batch, frames, -1)
        visited = diffusion.sampling_steps(steps)
        said = torch.zeros(0)
        for number, step in enumerate(visited):
            said = self.denoiser(
                noisy, torch.full((batch,), step), (cues.semantic, cues.boundary), sequence.valid
            ).log_softmax(-1)
            if number + 1 < len(visited):
                kept, kept_next = float(self.kept[step]), float(self.kept[visited[number + 1]])
                noisy = diffusion.towards(noisy, said.exp() @ self.embeddings(), kept, kept_next)
        return said

    # -- one frame at a time -------------------------------------------------------------------------------------------

    def register_shapes(self) -> list[tuple[int, int]]:
        """(N, C) of every register, in the order they run; the first is the validity channel of all windows."""
        shapes = [(self.config.window - 1, 1), *self.semantic.register_shapes()]
        if self.denoiser is not None:
            shapes += self.boundary.register_shapes() if self.boundary is not None else []
            shapes += [shape for block in self.denoiser.blocks for shape in block.register_shapes()]
        return shapes

    @property
    def state_size(self) -> int:
        """Float32 values of one embryo's packed state (S)."""
        return sum(prod(shape) for shape in self.register_shapes())

    @property
    def receptive_field(self) -> int:
        """Frames, the present one included, that a posterior can depend on."""
        layers, windows = self.config.layers, self.config.window - 1
        reach = 2 * (2**layers - 1) + layers * windows
        return 1 + reach + (self.config.blocks * (windows + 2) if self.config.diffusion else 0)

    def initial_state(self, batch: int = 1) -> Tensor:
        """(B, S) zeros: before its first frame an embryo has no past, and the validity channel says so."""
        return torch.zeros(batch, self.state_size)

    def step(
        self, state: Tensor, features: Tensor, hours_h: Tensor, known: Tensor, elapsed_h: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One frame of each embryo, whatever their ages: state (B, S), features (B, D), (B, 1) each ->
        log posterior (B, K) in one denoising step, and the next state (B, S)."""
        if not self.config.causal:
            raise ValueError("only the causal twin steps: the other needs frames that have not come yet")
        (valid, *registers), after = self._unpack(state), []
        seen = valid[:, :, 0]
        x = torch.cat([self.norm(features), clock(hours_h[:, 0], known[:, 0], elapsed_h[:, 0])], dim=-1)

        def own(shapes: list[tuple[int, int]]) -> Registers:
            return [registers.pop(0) for _ in shapes]

        semantic, new = self.semantic.step(x, seen, own(self.semantic.register_shapes()))
        after += new
        if self.denoiser is None:
            said = self.semantic_head(semantic)
        else:
            boundary = None
            if self.boundary is not None:
                boundary, new = self.boundary.step(x, seen, own(self.boundary.register_shapes()))
                after += new
            said, new = self._denoised(semantic, boundary, seen, registers)
            after += new
        kept = torch.cat([valid[:, 1:], torch.ones_like(valid[:, :1])], dim=1)
        return said.log_softmax(-1), torch.cat([array.flatten(1) for array in (kept, *after)], dim=1)

    def _denoised(
        self, semantic: Tensor, boundary: Tensor | None, seen: Tensor, registers: Registers
    ) -> tuple[Tensor, Registers]:
        """One frame through the denoiser, at the last diffusion step, from the fixed vector."""
        denoiser, after = self.denoiser, []
        told = denoiser.semantic(semantic)
        beside = None if denoiser.boundary is None or boundary is None else denoiser.boundary(boundary)
        time = denoiser.told_step(torch.full((1,), diffusion.STEPS - 1))
        stream = denoiser.entered(self.noise, told, time)
        for block in denoiser.blocks:
            count = len(block.register_shapes())
            stream, new = block.step(stream, told, beside, seen, registers[:count])
            registers = registers[count:]
            after += new
        return denoiser.leave(stream), after

    def _unpack(self, state: Tensor) -> list[Tensor]:
        """(B, S) -> one (B, N, C) per register."""
        shapes = self.register_shapes()
        parts = torch.split(state, [prod(shape) for shape in shapes], dim=1)
        return [part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]

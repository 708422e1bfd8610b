"""The noise of label-embedding diffusion: 1,000 steps, cosine schedule (Nichol and Dhariwal 2021), x0 prediction, DDIM.

Does: how much of a label's embedding is left at each step, how noise is put on and taken off. Refuses to know: the
network that predicts.

At the last step sqrt(alpha-bar) is 5e-5: nothing of the label is left, so that one denoising step is a regression from
the conditions, and the noise may be one fixed vector, the same for every frame and every embryo.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

STEPS = 1000
_OFFSET = 0.008
_MOST_BETA = 0.999


def alpha_bars() -> Tensor:
    """(1000,) share of the signal's variance that is left after each step, in float64."""

    def left(step: int) -> float:
        return math.cos((step / STEPS + _OFFSET) / (1 + _OFFSET) * math.pi / 2) ** 2

    betas = [min(1 - left(step + 1) / left(step), _MOST_BETA) for step in range(STEPS)]
    return torch.cumprod(1 - torch.tensor(betas, dtype=torch.float64), dim=0)


def noised(clean: Tensor, noise: Tensor, kept: Tensor) -> Tensor:
    """clean and noise (B, T, E), kept = alpha-bar (B,) -> sqrt(kept) clean + sqrt(1 - kept) noise."""
    kept = kept.reshape(-1, 1, 1)
    return kept.sqrt() * clean + (1 - kept).sqrt() * noise


def sampling_steps(count: int) -> list[int]:
    """The steps a sampler of `count` steps visits, from 999 down."""
    if not 1 <= count <= STEPS:
        raise ValueError(f"a sampler takes 1 to {STEPS} steps, not {count}")
    return [STEPS - 1 - (STEPS * i) // count for i in range(count)]


def towards(noisy: Tensor, clean: Tensor, kept: float, kept_next: float) -> Tensor:
    """One DDIM step without new noise (eta 0): from alpha-bar `kept` to `kept_next`, given the predicted clean."""
    noise = (noisy - math.sqrt(kept) * clean) / math.sqrt(max(1 - kept, 1e-12))
    return math.sqrt(kept_next) * clean + math.sqrt(1 - kept_next) * noise

"""What is asked of the network while it learns, and the optimisers that may teach it.

Does: the per-step loss of the outcome (hard label, the teacher's odds, or both), the auxiliary questions about what is
to be seen (their heads are dropped at export), groups of parameters, the rate over time. Refuses to know embryos, files
and the loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.amsnet.batches import ALL_PLANES, Batch, Chances
from training.amsnet.model import AMSNet
from training.amsnet.targets import BEFORE_ANY_PHASE, NO_PHASE, SIGNS

WARM_UP_STEPS = 20
CLASSES = BEFORE_ANY_PHASE + 1
SIGN_WEIGHTS = (1.0, 1.0, 0.5, 0.2)  # of fragments, unevenness, cells, arrest: the first two tell most of the end


@dataclass(frozen=True)
class Recipe:
    """How one kind of network is taught. Rates are peaks; each part cools down to zero by itself.

    `frames_share`: first share of the training on single frames, without a past; then clips of `clip_steps` (one of
    them per batch). `frame_rows` with few planes; more planes, fewer rows. `teacher_share`: of the teacher's odds in
    the outcome's target, the rest is the hard label. `settled_norms`: after the single frames batch norm is measured
    once and stays, so that small batches of clips do not shake it.
    """

    backbone: str
    hours: bool
    optimizer: str
    frames_share: float
    frame_rows: int
    frame_lr: float
    clip_rows: int
    clip_steps: tuple[int, ...]
    clip_lr: float
    weight_decay: float
    teacher_share: float
    auxiliary: float
    settled_norms: bool
    chances: Chances


RECIPES = {
    # section 4.1: SGD, clips of 28 segments, every plane, the hard label after every step and nothing else
    "paper": Recipe("resnet50", False, "sgd", 0.0, 0, 0.0, 8, (28,), 0.01, 5e-4, 0.0, 0.0, False, ALL_PLANES),
    # ours: AdamW because it is several times faster in the first thousand steps, and there are no more
    "small": Recipe("small", True, "adamw", 0.6, 48, 2e-3, 6, (8, 14, 20), 2e-4, 0.02, 0.75, 0.5, True, Chances()),
}


class Signs(nn.Module):
    """Auxiliary heads on the features: the phase and the signs of targets.py."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.phase = nn.Linear(channels, CLASSES)
        self.signs = nn.Linear(channels, len(SIGNS))

    def loss(self, features: Tensor, batch: Batch) -> Tensor:
        """Features (B, T, C): cross-entropy of the phase and squared errors of the signs, where they are known."""
        real = batch.counts > 0
        phase = torch.where(real, batch.phase, NO_PHASE)
        asked = (phase != NO_PHASE).sum().clamp(min=1)
        logits = self.phase(features).flatten(0, 1)
        wrong = functional.cross_entropy(logits, phase.flatten(), ignore_index=NO_PHASE, reduction="sum") / asked
        known = real[..., None] & ~batch.signs.isnan()
        off = torch.where(known, self.signs(features) - batch.signs.nan_to_num(), 0.0).square()
        each = off.sum(dim=(0, 1)) / known.sum(dim=(0, 1)).clamp(min=1)  # (4,)
        return wrong + (each * each.new_tensor(SIGN_WEIGHTS)).sum()


def outcome_loss(logits: Tensor, batch: Batch, teacher_share: float) -> Tensor:
    """Binary cross-entropy after every step, mean over real steps; padded steps carry no loss (section 4.1)."""
    odds = torch.where(batch.outlook.isnan(), batch.reaches, batch.outlook)
    target = teacher_share * odds + (1 - teacher_share) * batch.reaches
    each = functional.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")  # (B, T)
    return (each * batch.counts).sum() / batch.counts.sum()


def rate(peak: float, steps_before: int, progress: float) -> float:
    """Linear warm-up, then a cosine from `peak` to zero as `progress` goes from 0 to 1."""
    return peak * min(1.0, (steps_before + 1) / WARM_UP_STEPS) * 0.5 * (1 + float(np.cos(np.pi * min(progress, 1.0))))


def optimizer_of(recipe: Recipe, model: AMSNet, signs: Signs) -> torch.optim.Optimizer:
    """Decay on kernels only. With SGD a tenth of the rate for the head, whose many positive inputs make it swing."""
    body = [p for name, p in model.named_parameters() if not name.startswith("head")]
    head = [*model.head.parameters(), *signs.parameters()]
    kernels, rest = [p for p in body if p.ndim > 1], [p for p in body if p.ndim <= 1]  # rest: norms and biases
    head_share = 0.1 if recipe.optimizer == "sgd" else 1.0
    groups: list[dict[str, Any]] = [
        {"params": kernels, "weight_decay": recipe.weight_decay, "share": 1.0},
        {"params": rest, "weight_decay": 0.0, "share": 1.0},
        {"params": head, "weight_decay": 0.0, "share": head_share},
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.clip_lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=recipe.clip_lr)


def forget_the_past(model: AMSNet) -> None:
    """Columns of each conv1 that read the step before, at zero: what single frames taught is then also a clip's start.

    Single frames never train these columns (their past is zero), so at random they would be noise when clips begin.
    """
    with torch.no_grad():
        for stage in (model.res1, model.res2, model.res3, model.res4):
            for block in stage:
                block.conv1.conv.weight[:, : block.shifted] = 0.0

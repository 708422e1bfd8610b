"""The losses of the temporal head, as MODELS.md, section 2 gives them, and what is hidden from the denoiser.

Does: arithmetic on logits and labels. Refuses to know: networks, files.

Axes: B embryos, T frames, K phases.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from monitor.vocabulary import PHASES

UNLABELLED = -100
SEMANTIC, SMOOTH, BOUNDARY, DIFFUSION = 0.8, 0.3, 0.5, 1.0
_TRUNCATED_AT = 4.0  # T-MSE: a real change of phase is not smoothed away
_BOUNDARY_WEIGHT = 8.0  # [ours] a boundary is one frame in thirty: without it the boundary head says no for ever
# [ours] how often which cue is hidden in training; DiffAct hides in the same four ways and says no shares
MASKS = (("full", 0.5), ("none", 0.1), ("boundary", 0.2), ("relation", 0.2))


@dataclass(frozen=True)
class Labels:
    """`phases` (B, T) int64, UNLABELLED where nothing is known; `weights` (B, T) of each frame's loss."""

    phases: Tensor
    weights: Tensor

    @property
    def known(self) -> Tensor:
        return self.phases != UNLABELLED


def cross_entropy(logits: Tensor, labels: Labels, smoothing: float = 0.05) -> Tensor:
    """Weighted mean over labelled frames."""
    each = functional.cross_entropy(
        logits.flatten(0, 1),
        labels.phases.flatten(),
        ignore_index=UNLABELLED,
        reduction="none",
        label_smoothing=smoothing,
    )
    weights = labels.weights.flatten() * labels.known.flatten()
    return (each * weights).sum() / weights.sum().clamp(min=1e-6)


def ordinal_targets(reach: float = 0.8, own: float = 0.8, uniform: float = 0.05) -> Tensor:
    """(K, K) soft labels: `own` for the phase itself, `uniform` for all alike, the rest for its neighbours in order,
    falling off by e for every `reach` phases: five cells called six are nearly right, five called one are not."""
    number = torch.arange(len(PHASES), dtype=torch.float32)
    apart = (number[:, None] - number[None, :]).abs()
    beside = torch.exp(-apart / reach) * (apart > 0)
    rest = 1.0 - own - uniform
    return own * torch.eye(len(PHASES)) + uniform / len(PHASES) + rest * beside / beside.sum(1, keepdim=True)


def ordinal_cross_entropy(logits: Tensor, phases: Tensor, targets: Tensor) -> Tensor:
    """(N, K) logits against the soft labels (K, K) of (N,) phases; mean over those that are known, 0 without any."""
    known = phases != UNLABELLED
    each = -(targets[phases.clamp(min=0)] * logits.log_softmax(-1)).sum(-1)
    return (each * known).sum() / known.sum().clamp(min=1)


def smoothness(logits: Tensor, labels: Labels) -> Tensor:
    """Truncated mean squared difference of neighbouring log posteriors (Farha and Gall 2019)."""
    said = logits.log_softmax(-1)
    apart = (said[:, 1:] - said[:, :-1].detach()).abs().clamp(max=_TRUNCATED_AT).square()
    both = (labels.known[:, 1:] & labels.known[:, :-1]).unsqueeze(-1).float()
    return (apart * both).sum() / (both.sum() * apart.shape[-1]).clamp(min=1.0)


def boundaries(labels: Labels) -> Tensor:
    """(B, T) 1 at the first frame of each phase after the first one."""
    phases = labels.phases
    changed = (phases[:, 1:] != phases[:, :-1]) & labels.known[:, 1:] & labels.known[:, :-1]
    return functional.pad(changed.float(), (1, 0))


def boundary_loss(logits: Tensor, labels: Labels) -> Tensor:
    """Binary cross-entropy of (B, T) logits against the first frames of the phases."""
    target = boundaries(labels)
    weight = torch.where(target > 0, _BOUNDARY_WEIGHT, 1.0) * labels.known.float()
    each = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (each * weight).sum() / weight.sum().clamp(min=1.0)


def shown(labels: Labels, kinds: list[str], rng: torch.Generator) -> Tensor:
    """(B, T) 1 where the denoiser may see the cues, 0 where they are hidden, by the kind drawn for each embryo.

    "full": all seen; "none": nothing; "boundary": hidden within two frames of a change; "relation": one phase hidden,
    so that it has to be told from its neighbours in time.
    """
    mask = torch.ones(labels.phases.shape)
    near = functional.max_pool1d(boundaries(labels).unsqueeze(1), 5, 1, 2)[:, 0]
    for row, kind in enumerate(kinds):
        present = labels.phases[row][labels.known[row]].unique()
        if kind == "none":
            mask[row] = 0.0
        elif kind == "boundary":
            mask[row] = 1.0 - near[row]
        elif kind == "relation" and len(present):
            hidden = present[int(torch.randint(len(present), (1,), generator=rng))]
            mask[row] = (labels.phases[row] != hidden).float()
    return mask


def drawn_kinds(count: int, rng: torch.Generator) -> list[str]:
    """One way of hiding for each embryo of a batch."""
    names, shares = zip(*MASKS, strict=True)
    return [names[int(i)] for i in torch.multinomial(torch.tensor(shares), count, replacement=True, generator=rng)]

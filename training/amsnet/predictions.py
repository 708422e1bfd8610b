"""What a network says of whole embryos, offline: one pass over the clip of one frame per segment.

It knows the network, hours and stacks; it refuses to know where they come from and what the answers are worth.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from training.amsnet.checkpoint import Checkpoint
from training.amsnet.metrics import Floats
from training.datasets.embryo import Embryo


@torch.inference_mode()
def offline(kept: Checkpoint, embryo: Embryo, at: Sequence[int], hours: bool = True) -> Floats:
    """(len(at),) probabilities, each from its own and earlier frames of the clip `at`; `hours` False hides the hours.

    Stacks must have the network's size already.
    """
    stacks = np.stack([embryo.stack(t) for t in at]).astype(np.float32)  # (T, P, H, W)
    frames = torch.from_numpy((stacks / np.float32(255) - np.float32(kept.mean)) / np.float32(kept.std))[None]
    told = torch.zeros(1, len(at), 2)
    if hours and embryo.hours_known:
        told[0, :, 0], told[0, :, 1] = torch.from_numpy(embryo.hours_h[list(at)].astype(np.float32)), 1.0
    logits = kept.model.eval()(frames, None, told)[0]
    return np.asarray(torch.sigmoid(logits).numpy(), dtype=np.float64)

"""A piece of network that all three papers of day 5 use."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LEAST_SPREAD = 0.01  # of gray / 255: a blank picture stays blank


class Standardise(nn.Module):
    """Each picture to mean 0 and deviation 1 over all its planes: the lamp's brightness tells the network nothing.

    Lockhart's slides call it sample-wise normalisation; the other two papers are silent.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, planes, H, W) -> the same shape."""
        off = x - x.mean(dim=(1, 2, 3), keepdim=True)
        spread = torch.sqrt((off * off).mean(dim=(1, 2, 3), keepdim=True))
        return off / spread.clamp(min=LEAST_SPREAD)

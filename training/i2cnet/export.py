"""I2CNet as an ONNX graph: `x` -> `y_parts`, the probability of each part at each pixel of the square.

    python -m training.i2cnet.export --checkpoint training/runs/i2cnet-small.pt --out engines/models
    python -m training.i2cnet.export --random-weights --paper --name i2cnet --out build/models
Exit code 0 when the graph agrees with PyTorch within the manifest's tolerance, 1 when it does not.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.day5 import checkpoint, export
from training.day5.export import Exported, Output
from training.i2cnet.evaluate import NAMES, load_network
from training.i2cnet.model import I2CNet, I2CNetConfig

SOURCE = "I2CNet: intra- and inter-class context for blastocyst segmentation, IJCAI 2022 (reimplemented)"


class PartsGraph(nn.Module):
    """What is exported: probabilities at the size of the square."""

    def __init__(self, network: I2CNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """x (B, planes, H, W) gray / 255 -> y_parts (B, 5, H, W) in the order of `engines.day5.Part`."""
        return (self.network.probabilities(x),)


def exported(network: I2CNet, provenance: dict[str, Any]) -> Exported:
    """Everything the shared exporter needs."""
    config = network.config
    outputs = (Output("y_parts", NAMES, pixels=True),)
    graph = PartsGraph(network).eval()
    return Exported(
        "i2cnet", "segmentation", SOURCE, network, graph, outputs, config.planes, config.input_px, provenance
    )


def trained(path: Path) -> Exported:
    """From a checkpoint. ValueError names what is wrong with it."""
    network, kept = load_network(path)
    return exported(network, kept.provenance)


def untrained(paper: bool, seed: int) -> Exported:
    """Right in size and speed, without meaning."""
    torch.manual_seed(seed)
    network = I2CNet(I2CNetConfig() if paper else I2CNetConfig.small())
    checkpoint.with_norms_away_from_identity(network, seed)
    return exported(network.eval(), {**checkpoint.RANDOM, "seed": seed})


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    return export.run("i2cnet", trained, untrained, arguments)


if __name__ == "__main__":
    sys.exit(main())

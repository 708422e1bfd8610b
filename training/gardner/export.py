"""The Gardner grader as an ONNX graph: `x` -> `y_expansion`, `y_icm`, `y_te`, the probability of each class.

    python -m training.gardner.export --checkpoint training/runs/gardner-small.pt --out engines/models
    python -m training.gardner.export --random-weights --paper --name gardner --out build/models
Exit code 0 when the graph agrees with PyTorch within the manifest's tolerance, 1 when it does not.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from training.day5 import checkpoint, export
from training.day5.export import Exported, GradesGraph, grade_outputs
from training.gardner.evaluate import network_of
from training.gardner.model import GardnerConfig, GardnerNet

SOURCE = "Multi-label blastocyst grading, Lockhart et al., MMSP 2019, slides (reimplemented)"


def exported(network: GardnerNet, provenance: dict[str, Any]) -> Exported:
    """Everything the shared exporter needs."""
    config, graph = network.config, GradesGraph(network).eval()
    outputs = grade_outputs(config.expansions)
    return Exported("gardner", "grade", SOURCE, network, graph, outputs, config.planes, config.input_px, provenance)


def trained(path: Path) -> Exported:
    """From a checkpoint. ValueError names what is wrong with it."""
    kept = checkpoint.load(path, "gardner")
    return exported(network_of(kept), kept.provenance)


def untrained(paper: bool, seed: int) -> Exported:
    """Right in size and speed, without meaning."""
    torch.manual_seed(seed)
    network = GardnerNet(GardnerConfig() if paper else GardnerConfig.small())
    checkpoint.with_norms_away_from_identity(network, seed)
    return exported(network, {**checkpoint.RANDOM, "seed": seed})


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    return export.run("gardner", trained, untrained, arguments)


if __name__ == "__main__":
    sys.exit(main())

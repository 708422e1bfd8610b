"""MEmEBG as an ONNX graph: `x` -> `y_expansion`, `y_icm`, `y_te`, the probability of each class.

    python -m training.memebg.export --checkpoint training/runs/memebg-small.pt --out engines/models
    python -m training.memebg.export --random-weights --paper --name memebg --out build/models
Exit code 0 when the graph agrees with PyTorch within the manifest's tolerance, 1 when it does not.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from training.day5 import checkpoint, export
from training.day5.export import Exported, GradesGraph, grade_outputs
from training.memebg.evaluate import network_of
from training.memebg.model import MEmEBG, MEmEBGConfig

SOURCE = "MEmEBG: multitask embedding for blastocyst grading (reimplemented from a digest)"


def exported(network: MEmEBG, provenance: dict[str, Any]) -> Exported:
    """Everything the shared exporter needs."""
    config, graph = network.config, GradesGraph(network).eval()
    outputs = grade_outputs(config.expansions)
    provenance = {**provenance, "dinov2_branch": config.dino is not None}
    return Exported("memebg", "grade", SOURCE, network, graph, outputs, config.planes, config.input_px, provenance)


def trained(path: Path) -> Exported:
    """From a checkpoint. ValueError names what is wrong with it."""
    kept = checkpoint.load(path, "memebg")
    return exported(network_of(kept), kept.provenance)


def untrained(paper: bool, seed: int) -> Exported:
    """Right in size and speed, without meaning."""
    torch.manual_seed(seed)
    network = MEmEBG(MEmEBGConfig() if paper else MEmEBGConfig.small())
    checkpoint.with_norms_away_from_identity(network, seed)
    return exported(network, {**checkpoint.RANDOM, "seed": seed})


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    return export.run("memebg", trained, untrained, arguments)


if __name__ == "__main__":
    sys.exit(main())

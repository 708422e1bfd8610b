"""How well a trained MEmEBG grades: macro F1, precision, recall, quadratic kappa, confusion of each answer.

python -m training.memebg.evaluate --checkpoint training/runs/memebg-small.pt --cache training/cache
"""

from __future__ import annotations

import sys

from training.day5 import grader
from training.day5.checkpoint import Checkpoint
from training.day5.grader import Paper
from training.day5.look import Varied
from training.day5.run import Recipe
from training.memebg.model import MEmEBG, MEmEBGConfig


def network_of(kept: Checkpoint) -> MEmEBG:
    """The trained network, in evaluation mode."""
    network = MEmEBG(MEmEBGConfig.read(kept.config))
    network.load_state_dict(kept.weights)
    return network.eval()


def paper_of(kept: Checkpoint) -> Paper:
    """As trained; nothing of it is trained here."""
    network = network_of(kept)
    config = network.config
    recipe = Recipe(steps=1)
    return Paper("memebg", lambda: network, kept.config, config.input_px, config.expansions, Varied(), recipe)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    return grader.evaluated("memebg", paper_of, arguments)


if __name__ == "__main__":
    sys.exit(main())

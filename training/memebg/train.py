"""MEmEBG on drawn blastocysts, or on Kromp 2023 where the user has it.

Does: the joint loss of three heads, or one task alone for comparison; one run, or the paper's 5 x 2 cross-validation;
a DINOv2 branch where the user names its weights. Refuses to know: ONNX, how good a longer training would be.

    python -m training.memebg.train --minutes 4 --cache training/cache
    python -m training.memebg.train --paper --imagenet resnet18.pth --dinov2 dinov2_vits14.pth --folds --name memebg
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from training.day5 import grader
from training.day5.folds import Fold, five_by_two
from training.day5.grader import SMALL_LR, Paper
from training.day5.grading import ANSWERS
from training.day5.look import Varied
from training.day5.run import Recipe
from training.memebg.dinov2 import load_dinov2
from training.memebg.model import MEmEBG, MEmEBGConfig

VARIED = Varied(scale=(0.9, 1.12), turn_deg=15.0, shift=0.05, quarter_turns=True)


def paper_of(chosen: argparse.Namespace) -> Paper:
    """Size and recipe as asked for. ValueError where a weight file does not fit."""
    dino = load_dinov2(chosen.dinov2) if chosen.dinov2 else None
    shape = dino.shape if dino else None
    config = MEmEBGConfig(dino=shape) if chosen.paper else MEmEBGConfig.small(shape)

    def make() -> MEmEBG:
        network = MEmEBG(config)
        if dino is not None and network.dino is not None:
            network.dino.load_state_dict(dino.state_dict())
        if chosen.imagenet:
            network.load_imagenet(chosen.imagenet)
        return network

    lr = chosen.lr or (1e-4 if chosen.paper else SMALL_LR)
    recipe = Recipe("adamw", lr, 0.02, "cosine", chosen.batch, 0, chosen.minutes, chosen.seed, half=chosen.half)
    tasks = (chosen.only,) if chosen.only else ANSWERS
    return Paper("memebg", make, config.plain(), config.input_px, config.expansions, VARIED, recipe, tasks)


def folds_of(labels: Sequence[int]) -> list[Fold]:
    """Ten: five times two halves."""
    return five_by_two(labels)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.memebg.train", description=__doc__.splitlines()[0])
    grader.add_arguments(parser, "memebg-small")
    parser.add_argument("--dinov2", type=Path, help="local DINOv2 weights (ViT without registers); left out without")
    parser.add_argument("--only", choices=ANSWERS, help="a single task, to compare with all three together")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    chosen.out.mkdir(parents=True, exist_ok=True)
    try:
        return grader.run_training(chosen, paper_of(chosen), folds_of)
    except ValueError as fault:
        print(fault, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

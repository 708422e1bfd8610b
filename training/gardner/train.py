"""Lockhart's multi-label grader on drawn blastocysts, or on Kromp 2023 where the user has it.

Does: the slides' recipe with --paper, a short one for the small variant without; one run, or the slides' three
stratified folds. Refuses to know: ONNX, how good a longer training would be.

    python -m training.gardner.train --minutes 6 --cache training/cache
    python -m training.gardner.train --paper --imagenet vgg16.pth --kromp PICTURES TABLE --folds --name gardner
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace

import torch

from training.day5 import grader
from training.day5.folds import Fold, lockhart_folds
from training.day5.grader import SMALL_LR, Paper
from training.day5.look import Varied
from training.day5.run import Recipe
from training.gardner.model import GardnerConfig, GardnerNet

TRAINABLE_CONVOLUTIONS = 3
VARIED = Varied(scale=(0.9, 1.12), turn_deg=15.0, shift=0.05, shear=0.08, quarter_turns=True)


def paper_of(chosen: argparse.Namespace) -> Paper:
    """Size and recipe as asked for. ValueError where the weight file does not fit."""
    config = GardnerConfig() if chosen.paper else GardnerConfig.small()

    def make() -> GardnerNet:
        network = GardnerNet(config)
        if chosen.imagenet:
            network.load_imagenet(chosen.imagenet)
            network.freeze_all_but(TRAINABLE_CONVOLUTIONS)
        return network

    slides = Recipe("rmsprop", 1e-6, 0.0, "plateau", chosen.batch, 0, chosen.minutes, chosen.seed, average=0.0)
    short = Recipe("adamw", SMALL_LR, 0.02, "cosine", chosen.batch, 0, chosen.minutes, chosen.seed)
    recipe = slides if chosen.paper else short
    recipe = replace(recipe, lr=chosen.lr or recipe.lr, half=chosen.half)
    return Paper("gardner", make, asdict(config), config.input_px, config.expansions, VARIED, recipe)


def folds_of(labels: Sequence[int]) -> list[Fold]:
    """Three, 70 / 15 / 15 %."""
    return lockhart_folds(labels)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.gardner.train", description=__doc__.splitlines()[0])
    grader.add_arguments(parser, "gardner-small")
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

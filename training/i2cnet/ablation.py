"""The rows of I2CNet's Table 1, trained alike at small scale, and two of our own: what its modules are worth.

Does: one short training a row on the same pictures in the same order, the same measure on validation embryos, one
table. Refuses to know: what a long training at the paper's size would say.

    python -m training.i2cnet.ablation --minutes 1 --cache training/cache
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch

from engines.day5 import Labels
from engines.square import Gray
from training.day5 import blastocysts
from training.day5.blastocysts import Blastocyst
from training.day5.grading import fitted
from training.day5.run import Recipe
from training.i2cnet import evaluate
from training.i2cnet.evaluate import Pictures, drawn_pictures
from training.i2cnet.model import I2CNet, I2CNetConfig
from training.i2cnet.pictures import Picture, drawn_for_training
from training.i2cnet.train import SMALL_LR, SMALL_VARIED, batch_loss, new_run

AS_WRITTEN = replace(I2CNetConfig.small(), relu_logits=True, clamp_sum=False)
ROWS = {
    "backbone": replace(AS_WRITTEN, intra=False, inter=False),
    "IACCM": replace(AS_WRITTEN, inter=False),
    "IRCCM without U": replace(AS_WRITTEN, intra=False, weighting=False),
    "IRCCM with U": replace(AS_WRITTEN, intra=False),
    "both": AS_WRITTEN,
    "both, no ReLU on logits": replace(AS_WRITTEN, relu_logits=False),
    "both, no ReLU, sums below 1": I2CNetConfig.small(),
}
PAPER_JACCARD = (80.28, 84.68, 83.28, 84.77, 85.25)  # Table 1, of the public set, after 2,000 epochs


@dataclass(frozen=True)
class Shrunken:
    """A picture at a smaller side."""

    whole: Picture
    side_px: int

    @property
    def labels(self) -> Labels:
        return shrunken(self.whole.labels, self.side_px)

    def channels(self, rng: np.random.Generator) -> Gray:
        return fitted(self.whole.channels(rng), self.side_px)


def shrunken(labels: Labels, side_px: int) -> Labels:
    """(H, W) of classes -> (side_px, side_px), the nearest pixel's."""
    return np.asarray(cv2.resize(labels, (side_px, side_px), interpolation=cv2.INTER_NEAREST), dtype=np.uint8)


def to_measure(drawn: list[Blastocyst], side_px: int) -> Pictures:
    """Three planes each."""
    for channels, labels in drawn_pictures(drawn, "three"):
        yield fitted(channels, side_px), shrunken(labels, side_px)


def table(found: dict[str, dict[str, float]]) -> str:
    """Markdown, in percent, the paper's Jaccard beside."""
    lines = [
        "| row | accuracy | precision | recall | Dice | Jaccard | paper's Jaccard |",
        "|---|---|---|---|---|---|---|",
    ]
    theirs = [f"{value:.2f}" for value in PAPER_JACCARD] + ["", ""]
    for (name, row), paper in zip(found.items(), theirs, strict=False):
        values = [row["pixel_accuracy"], *(row[f"{what}_mean"] for what in evaluate.FIGURES[1:])]
        lines.append(f"| {name} | " + " | ".join(f"{100 * value:.2f}" for value in values) + f" | {paper} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.i2cnet.ablation", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=0.0, help="of training, of each row; 0: only --steps counts")
    parser.add_argument("--steps", type=int, default=0, help="of training, of each row; 0: only --minutes counts")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--side-px", type=int, default=128)
    parser.add_argument("--count", type=int, default=900, help="drawn squares to train on")
    parser.add_argument("--test-count", type=int, default=60, help="validation embryos to measure on")
    parser.add_argument("--half", action="store_true", help="products in bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=Path("training/cache"), help="drawn squares")
    parser.add_argument("--out", type=Path, default=Path("training/runs"), help="checkpoints, losses, table as JSON")
    parser.add_argument("--resume", action="store_true", help="rows that are done are not trained again")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    chosen.out.mkdir(parents=True, exist_ok=True)
    try:
        found = _trained_rows(chosen)
    except ValueError as fault:
        print(fault, file=sys.stderr)
        return 2
    print(table(found))
    (chosen.out / "i2cnet-ablation.json").write_text(json.dumps(found, indent=2) + "\n")
    return 0


def _trained_rows(chosen: argparse.Namespace) -> dict[str, dict[str, float]]:
    moments = blastocysts.training_moments(chosen.count)
    whole = drawn_for_training(blastocysts.drawn(chosen.cache, moments, chosen.workers))
    pictures = [Shrunken(one, chosen.side_px) for one in whole]
    test = blastocysts.drawn(chosen.cache, blastocysts.validation_moments(chosen.test_count), chosen.workers)
    limits = {"steps": chosen.steps, "minutes": chosen.minutes}
    recipe = Recipe(lr=SMALL_LR, batch=chosen.batch, seed=chosen.seed, half=chosen.half, **limits)
    found = {}
    for number, (name, row) in enumerate(ROWS.items()):
        config = replace(row, input_px=chosen.side_px)
        about = f"{blastocysts.named(blastocysts.Settings())}: {len(pictures)} blastocysts at {chosen.side_px} px"
        run = new_run(chosen.out / f"i2cnet-ablation-{number}.pt", config, recipe, about, chosen.resume)
        run.go(batch_loss(pictures, recipe.batch, SMALL_VARIED, config))
        network = run.average.network
        assert isinstance(network, I2CNet)
        measured = evaluate.counted(partial(evaluate.parts_of, network), to_measure(test, chosen.side_px))
        found[name] = evaluate.figures(measured) | {"steps": float(run.step)}
        print(f"{name}: mean Jaccard {100 * found[name]['jaccard_mean']:.2f} % after {run.step} steps", flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())

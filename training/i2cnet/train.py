"""I2CNet on drawn blastocysts, or on BlastsOnline where the user has it.

Does: draws what is missing, trains with the paper's loss, augmentation and poly rate, stops after so many minutes, goes
on with --resume, measures on seeds nobody trains on. Refuses to know: ONNX, how good a longer training would be.

    python -m training.i2cnet.train --minutes 10 --cache training/cache
    python -m training.i2cnet.train --paper --blasts ../BlastsOnline --epochs 2000 --name i2cnet
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from training.day5 import blastocysts, checkpoint
from training.day5.blastocysts import Blastocyst
from training.day5.look import Varied, varied
from training.day5.run import Loss, Recipe, Run
from training.i2cnet import evaluate
from training.i2cnet.model import I2CNet, I2CNetConfig, loss_of
from training.i2cnet.pictures import Picture, blasts_pictures, drawn_for_training, split

PAPER_VARIED = Varied()
SMALL_VARIED = Varied(scale=(0.8, 1.3), turn_deg=15.0, quarter_turns=True)  # the square is cut to scale already
SMALL_LR = 2e-3  # of a run of minutes; the paper's 1e-4 is for 2,000 epochs


def batch_loss(pictures: Sequence[Picture], batch: int, how: Varied, config: I2CNetConfig) -> Loss:
    """The loss of one batch drawn from `pictures`, and the share of pixels right at the finest level."""

    def loss_and_right(network: nn.Module, rng: np.random.Generator) -> tuple[torch.Tensor, float]:
        rows, parts = [], []
        for index in rng.integers(0, len(pictures), batch):
            picture = pictures[int(index)]
            image, labels = varied(picture.channels(rng), picture.labels, rng, how, config.input_px)
            rows.append(image if config.planes == len(image) else image[[1] * config.planes])
            parts.append(labels)
        truth = torch.from_numpy(np.stack(parts))
        logits = network(torch.from_numpy(np.stack(rows)))
        step = truth.shape[-1] // logits[0].shape[-1]
        right = logits[0].detach().argmax(1) == truth[:, step // 2 :: step, step // 2 :: step]
        return loss_of(logits, truth), float(right.float().mean())

    return loss_and_right


def new_run(path: Path, config: I2CNetConfig, recipe: Recipe, about: str, resume: bool = False) -> Run:
    """A network with fresh weights (of the recipe's seed), or the run's own where it is gone on with."""
    torch.manual_seed(recipe.seed)
    run = Run(path, "i2cnet", I2CNet(config), asdict(config), recipe, about)
    if resume:
        run.resume()
    return run


def start_from(run: Run, path: Path) -> None:
    """Begin with the weights of another run of the same network. ValueError where it is another one's."""
    kept = checkpoint.load(path, "i2cnet")
    if I2CNetConfig.read(kept.config) != I2CNetConfig.read(run.config):
        raise ValueError(f"{path} is a network of another size or row")
    run.network.load_state_dict(kept.weights)
    run.average.network.load_state_dict(kept.weights)
    run.about += f", after {kept.extra['step']} steps of {kept.extra['recipe']['batch']} ({path.stem})"


def measured(run: Run, test: list[Blastocyst]) -> dict[str, float]:
    """What goes into the manifest: the look with three planes in full, the other looks by their mean Jaccard."""
    network = run.average.network
    assert isinstance(network, I2CNet)
    looks = evaluate.looks_compared(network, test)
    for look, found in looks.items():
        print(evaluate.text(f"virtual test embryos, look `{look}`", found))
    return looks["three"] | {f"jaccard_mean_{look}": found["jaccard_mean"] for look, found in looks.items()}


def parser() -> argparse.ArgumentParser:
    """What the command line takes."""
    described = argparse.ArgumentParser(prog="python -m training.i2cnet.train", description=__doc__.splitlines()[0])
    described.add_argument("--paper", action="store_true", help="the paper's size and recipe, not the small one")
    described.add_argument("--blasts", type=Path, help="folder of BlastsOnline: train on its 80 %% instead")
    described.add_argument("--count", type=int, default=900, help="drawn squares to train on")
    described.add_argument("--test-count", type=int, default=200, help="of the fixed virtual test embryos")
    described.add_argument("--minutes", type=float, default=0.0, help="of a core; 0: only --epochs counts")
    described.add_argument("--epochs", type=float, default=0.0, help="the paper's 2,000; 0: only --minutes counts")
    described.add_argument("--batch", type=int, default=8)
    described.add_argument("--lr", type=float, help=f"default: 1e-4 with --paper, else {SMALL_LR}")
    described.add_argument("--half", action="store_true", help="products in bfloat16")
    described.add_argument("--seed", type=int, default=0)
    described.add_argument("--cache", type=Path, default=Path("training/cache"), help="drawn squares")
    described.add_argument("--out", type=Path, default=Path("training/runs"), help="checkpoint and losses")
    described.add_argument("--name", default="i2cnet-small")
    described.add_argument("--start", type=Path, help="a checkpoint whose weights to begin with")
    described.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    described.add_argument("--workers", type=int, default=1, help="processes that draw")
    described.add_argument("--threads", type=int, default=1, help="of torch")
    return described


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    chosen = parser().parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    chosen.out.mkdir(parents=True, exist_ok=True)
    try:
        return _trained(chosen)
    except ValueError as fault:
        print(fault, file=sys.stderr)
        return 2


def _trained(chosen: argparse.Namespace) -> int:
    config = I2CNetConfig() if chosen.paper else I2CNetConfig.small()
    pictures: Sequence[Picture]
    if chosen.blasts:
        pictures, still_test = split(blasts_pictures(chosen.blasts))
        about = f"BlastsOnline: {len(pictures)} pictures"
    else:
        moments = blastocysts.training_moments(chosen.count)
        pictures = drawn_for_training(blastocysts.drawn(chosen.cache, moments, chosen.workers))
        about = f"{blastocysts.named(blastocysts.Settings())}: {len(pictures)} blastocysts"
    recipe = Recipe(
        lr=chosen.lr or (1e-4 if chosen.paper else SMALL_LR),
        batch=chosen.batch,
        steps=round(chosen.epochs * len(pictures) / chosen.batch),
        minutes=chosen.minutes,
        seed=chosen.seed,
        half=chosen.half,
    )
    run = new_run(chosen.out / f"{chosen.name}.pt", config, recipe, about)
    if chosen.start:
        start_from(run, chosen.start)
    if chosen.resume:
        run.resume()
    run.go(batch_loss(pictures, recipe.batch, PAPER_VARIED if chosen.paper else SMALL_VARIED, config))
    network = run.average.network
    assert isinstance(network, I2CNet)
    if chosen.blasts:
        tables = evaluate.counted(partial(evaluate.parts_of, network), evaluate.shown_stills(still_test))
        found = evaluate.figures(tables)
        print(evaluate.text("BlastsOnline, its fifth for testing", found))
    else:
        test = blastocysts.test_moments(chosen.test_count)
        found = measured(run, blastocysts.drawn(chosen.cache, test, chosen.workers))
    run.provenance = {
        "trained_on": f"{run.about}, {run.spent_s / 60:.1f} min on one CPU core",
        "seed": recipe.seed,
        "steps": run.step,
        "date": date.today().isoformat(),
        "figures": found,
    }
    run.save()
    return 0


if __name__ == "__main__":
    sys.exit(main())

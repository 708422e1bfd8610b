"""The commands of both graders: what pictures, how long, folds or one run, what is written down.

Does: reads the command line they share, trains once or fold by fold, measures. Refuses to know: the networks; each
paper hands in how one is made.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from training import metrics
from training.day5 import blastocysts, checkpoint, grading
from training.day5.folds import Fold
from training.day5.grading import ANSWERS, DrawnGraded, Graded, joint_loss, targets_of
from training.day5.look import Varied
from training.day5.run import Recipe, Run

SMALL_LR = 2e-3


@dataclass(frozen=True)
class Paper:
    """What a paper hands in. `make`: a fresh network; `plain`: its configuration as plain values."""

    name: str
    make: Callable[[], nn.Module]
    plain: dict[str, Any]
    input_px: int
    expansions: Sequence[str]
    varied: Varied
    recipe: Recipe
    tasks: Sequence[str] = ANSWERS


def new_run(path: Path, paper: Paper, about: str, resume: bool) -> Run:
    """A fresh network (of the recipe's seed), or the run's own where it is gone on with."""
    torch.manual_seed(paper.recipe.seed)
    run = Run(path, paper.name, paper.make(), paper.plain, paper.recipe, about)
    if resume:
        run.resume()
    return run


def trained(run: Run, paper: Paper, train: Sequence[Graded], validation: Sequence[Graded] = ()) -> nn.Module:
    """The averaged network at the end of the recipe."""
    loss = grading.batch_loss(train, paper.recipe.batch, paper.varied, paper.input_px, paper.expansions, paper.tasks)
    watched = None
    if validation:
        aims = torch.from_numpy(np.stack([targets_of(one, paper.expansions) for one in validation]))

        def watched(network: nn.Module) -> float:
            said = grading.answers_to(network, validation, paper.input_px)
            logits = [torch.from_numpy(np.log(np.maximum(rows, 1e-12))) for rows in said]
            return float(joint_loss((logits[0], logits[1], logits[2]), aims, paper.tasks))

    run.go(loss, watched)
    return run.average.network


def measured(network: nn.Module, pictures: Sequence[Graded], paper: Paper) -> dict[str, metrics.Counts]:
    """A table for each answer."""
    return grading.tables(grading.answers_to(network, pictures, paper.input_px), pictures, paper.expansions)


def cross_validated(
    folds: Sequence[Fold], pictures: Sequence[Graded], paper: Paper, out: Path, name: str, about: str, resume: bool
) -> dict[str, metrics.Counts]:
    """Train and test every fold; the sum of their tables. Each fold keeps a checkpoint of its own."""
    summed: dict[str, metrics.Counts] = {}
    for number, fold in enumerate(folds, start=1):
        own = replace(paper, recipe=replace(paper.recipe, seed=paper.recipe.seed + number))
        run = new_run(out / f"{name}-fold{number}.pt", own, f"{about}, fold {number} of {len(folds)}", resume)
        network = trained(run, own, [pictures[i] for i in fold.train], [pictures[i] for i in fold.validation])
        found = measured(network, [pictures[i] for i in fold.test], own)
        for answer, table in found.items():
            summed[answer] = summed.get(answer, 0) + table
        f1 = ", ".join(f"{answer} {metrics.per_class(table).mean()['dice']:.3f}" for answer, table in found.items())
        print(f"{name}: fold {number} of {len(folds)}, macro F1: {f1}", flush=True)
    return summed


def chosen_pictures(chosen: argparse.Namespace) -> tuple[list[Graded], str]:
    """What the command line asks to train on, and its name."""
    if chosen.kromp:
        return list(grading.kromp_pictures(*chosen.kromp)), f"Kromp 2023 ({chosen.kromp[1].name})"
    moments = blastocysts.training_moments(chosen.count)
    drawn = blastocysts.drawn(chosen.cache, moments, chosen.workers)
    return [DrawnGraded(one) for one in drawn], blastocysts.named(blastocysts.Settings())


def virtual(moments: Sequence[blastocysts.Moment], chosen: argparse.Namespace) -> list[Graded]:
    """Drawn ones as pictures with grades."""
    return [DrawnGraded(one) for one in blastocysts.drawn(chosen.cache, moments, chosen.workers)]


def stratum(pictures: Sequence[Graded], expansions: Sequence[str]) -> list[int]:
    """(N,) class of each picture in the answer whose rarest class is the rarest of all: what folds are cut by.

    In Lockhart's set this is ICM, with 1 % of C. Pictures without that grade are a class of their own.
    """
    targets = np.stack([targets_of(one, expansions) for one in pictures])
    least = []
    for column in targets.T:
        counts = np.unique(column[column != grading.UNKNOWN], return_counts=True)[1]
        least.append(counts.min() if len(counts) > 1 else len(pictures))
    return [int(value) for value in targets[:, int(np.argmin(least))]]


def add_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    """What both graders' training takes."""
    parser.add_argument("--paper", action="store_true", help="the paper's size and recipe, not the small one")
    parser.add_argument("--imagenet", type=Path, help="local weight file in torchvision's layout, with --paper")
    parser.add_argument(
        "--kromp", type=Path, nargs=2, metavar=("PICTURES", "TABLE"), help="train on Kromp 2023 instead of drawn ones"
    )
    parser.add_argument("--folds", action="store_true", help="the paper's cross-validation instead of one run")
    parser.add_argument("--count", type=int, default=900, help="drawn squares to train on")
    parser.add_argument("--test-count", type=int, default=200, help="of the fixed virtual test embryos")
    parser.add_argument("--minutes", type=float, default=4.0, help="of a core, of each fold with --folds")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, help=f"default: the paper's with --paper, else {SMALL_LR}")
    parser.add_argument("--half", action="store_true", help="products in bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=Path("training/cache"), help="drawn squares")
    parser.add_argument("--out", type=Path, default=Path("training/runs"), help="checkpoint and losses")
    parser.add_argument("--name", default=name)
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw")
    parser.add_argument("--threads", type=int, default=1, help="of torch")


def run_training(chosen: argparse.Namespace, paper: Paper, folds_of: Callable[[Sequence[int]], list[Fold]]) -> int:
    """Train as asked for, print and keep the figures; the exit code. ValueError names what cannot be."""
    pictures, about = chosen_pictures(chosen)
    if tuple(paper.tasks) != ANSWERS:
        about = f"{about}, {', '.join(paper.tasks)} alone"
    counts = grading.class_counts(pictures, paper.expansions)
    print(f"{about}: {len(pictures)} pictures; {counts}", flush=True)
    if chosen.folds:
        folds = folds_of(stratum(pictures, paper.expansions))
        found = cross_validated(folds, pictures, paper, chosen.out, chosen.name, about, chosen.resume)
        print(grading.text(f"{len(folds)} folds together", found, paper.expansions))
        (chosen.out / f"{chosen.name}-folds.json").write_text(json.dumps(grading.figures(found), indent=2) + "\n")
        return 0
    run = new_run(chosen.out / f"{chosen.name}.pt", paper, about, chosen.resume)
    validation = virtual(blastocysts.validation_moments(60), chosen) if paper.recipe.schedule == "plateau" else []
    network = trained(run, paper, pictures, validation)
    found = measured(network, virtual(blastocysts.test_moments(chosen.test_count), chosen), paper)
    print(grading.text("fixed virtual test embryos", found, paper.expansions))
    run.provenance = {
        "trained_on": f"{about}: {len(pictures)} pictures, {run.spent_s / 60:.1f} min on one CPU core",
        "classes": counts,
        "seed": paper.recipe.seed,
        "steps": run.step,
        "date": date.today().isoformat(),
        "figures": grading.figures(found),
    }
    run.save()
    return 0


def evaluated(name: str, load: Callable[[checkpoint.Checkpoint], Paper], arguments: list[str] | None) -> int:
    """The evaluate command of a grader: fixed virtual test embryos, or Kromp's pictures; the exit code."""
    parser = argparse.ArgumentParser(
        prog=f"python -m training.{name}.evaluate", description="Grades against the truth: F1, kappa, confusion."
    )
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("training/cache"), help="drawn squares")
    parser.add_argument("--count", type=int, default=200, help="of the fixed virtual test embryos")
    parser.add_argument("--kromp", type=Path, nargs=2, metavar=("PICTURES", "TABLE"), help="Kromp 2023 instead")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--json", type=Path, help="write the figures there")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    try:
        kept = checkpoint.load(chosen.checkpoint, name)
        paper = load(kept)
        pictures: list[Graded] = (
            list(grading.kromp_pictures(*chosen.kromp))
            if chosen.kromp
            else virtual(blastocysts.test_moments(chosen.count), chosen)
        )
    except ValueError as fault:
        print(fault, file=sys.stderr)
        return 2
    found = measured(paper.make(), pictures, paper)
    print(grading.text("Kromp 2023" if chosen.kromp else "fixed virtual test embryos", found, paper.expansions))
    if chosen.json:
        chosen.json.write_text(json.dumps(grading.figures(found), indent=2) + "\n")
    return 0

"""A short honest recipe for the small AMSNet on the virtual incubator.

Does: renders or reuses clips, trains with per-step binary cross-entropy (sections 3 and 4.1), keeps a resumable
checkpoint and a CSV of losses, re-estimates batch norm, evaluates on seeds nobody trains on. Refuses to know: real
embryos, ONNX, how good a longer training would be.

    python -m training.amsnet.train --embryos 200 --epochs 12 --cache training/cache --out training/runs
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_

from training.amsnet import checkpoint as checkpoints
from training.amsnet import clips, evaluate
from training.amsnet.checkpoint import Checkpoint
from training.amsnet.clips import Batch, Clip
from training.amsnet.model import AMSNet, AMSNetConfig

FIRST_PX, FINAL_PX = 72, 112  # the middle of the picture first, at the same scale: cheaper
WARM_UP_STEPS = 20
TRAINED_ON = "virtual incubator only; begun on its first drawing (37 min), gone on with on the second"


def masked_loss(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Binary cross-entropy after every step, mean over real steps; padded steps carry no loss (section 4.1)."""
    each = functional.binary_cross_entropy_with_logits(logits, batch.target, reduction="none")  # (B, T)
    return (each * batch.counts).sum() / batch.counts.sum()


def learning_rate(peak: float, step: int, progress: float) -> float:
    """Linear warm-up, then a cosine from `peak` to zero as `progress` goes from 0 to 1."""
    return peak * min(1.0, (step + 1) / WARM_UP_STEPS) * 0.5 * (1 + float(np.cos(np.pi * min(progress, 1.0))))


def chosen_at(step: int, train: list[Clip], batch: int, seed: int) -> list[Clip]:
    """Embryos of one step: a fresh order every epoch, from the step alone, so that a resumed run is the same.

    Both classes are spread evenly over the order: six embryos are six labels, and batches of one class made it diverge.
    """
    epoch, place = divmod(step * batch, len(train) // batch * batch)
    truth = np.array([clip.reaches_blastocyst for clip in train])
    rng, rank = np.random.default_rng((seed, epoch)), np.empty(len(train))
    for group in (truth, ~truth):
        rank[group] = (rng.permutation(int(group.sum())) + rng.random()) / max(int(group.sum()), 1)
    return [train[i] for i in np.argsort(rank)[place : place + batch]]


def parameter_groups(model: AMSNet) -> list[dict[str, Any]]:
    """Decay on kernels only; a tenth of the rate for the head, whose 512 positive inputs made the bias swing."""
    body = [p for name, p in model.named_parameters() if not name.startswith("head")]
    kernels, rest = [p for p in body if p.ndim > 1], [p for p in body if p.ndim <= 1]  # rest: norms and biases
    return [
        {"params": kernels, "weight_decay": 3e-4, "share": 1.0},
        {"params": rest, "weight_decay": 0.0, "share": 1.0},
        {"params": list(model.head.parameters()), "weight_decay": 0.0, "share": 0.1},
    ]


class Run:
    """One training run: network, optimiser, how far it is, and the files it keeps."""

    def __init__(self, chosen: argparse.Namespace, train: list[Clip]) -> None:
        self.chosen, self.train = chosen, train
        self.path = chosen.out / f"{chosen.name}.pt"
        self.losses = chosen.out / f"{chosen.name}-losses.csv"
        self.step, self.spent_s = 0, 0.0
        mean, std = clips.brightness(train[:24])
        torch.manual_seed(chosen.seed)
        self.kept = Checkpoint(AMSNet(AMSNetConfig("small")), mean, std)
        if chosen.resume and self.path.exists():
            self.kept = checkpoints.load(self.path)
            self.step, self.spent_s = self.kept.extra["step"], self.kept.extra["spent_s"]
        self.model = self.kept.model.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(parameter_groups(self.model), lr=chosen.lr, momentum=0.9, nesterov=True)
        if self.step:
            self.optimizer.load_state_dict(self.kept.extra["optimizer"])
        self.steps = chosen.epochs * (len(train) // chosen.batch)

    @property
    def progress(self) -> float:
        """0 to 1, by steps or by the clock, whichever is further: a run that is cut short still cools down."""
        clock = self.spent_s / (60 * self.chosen.time_limit_min) if self.chosen.time_limit_min else 0.0
        return max(self.step / self.steps, clock)

    def once(self) -> dict[str, Any]:
        """One optimiser step; returns the row for the CSV."""
        started = time.monotonic()
        side_px = FIRST_PX if self.progress < self.chosen.middle_share else FINAL_PX
        rng = np.random.default_rng((self.chosen.seed, 1, self.step))
        embryos = chosen_at(self.step, self.train, self.chosen.batch, self.chosen.seed)
        batch = clips.make_batch(embryos, rng, side_px, self.kept.mean, self.kept.std)
        rate = learning_rate(self.chosen.lr, self.step, self.progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        self.model.train()
        self.optimizer.zero_grad()
        logits = self.model(batch.frames, batch.source)
        loss = masked_loss(logits, batch)
        loss.backward()
        clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimizer.step()
        self.step += 1
        self.spent_s += time.monotonic() - started
        right = (((logits > 0) == (batch.target > 0.5)) * batch.counts).sum() / batch.counts.sum()
        return {
            "step": self.step,
            "spent_s": round(self.spent_s, 1),
            "side_px": side_px,
            "planes": batch.frames.shape[2],
            "lr": round(rate, 5),
            "loss": round(float(loss.detach()), 4),
            "accuracy": round(float(right), 3),
        }

    def record(self, row: dict[str, Any]) -> None:
        """Append to the CSV, say something every ten steps, save every twenty."""
        new = not self.losses.exists()
        with self.losses.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)
        if self.step % 10 == 0:
            print(" ".join(f"{name}={value}" for name, value in row.items()), f"of {self.steps}", flush=True)
        if self.step % 20 == 0:
            self.save()

    def forget_unsaved_losses(self) -> None:
        """Keep only the rows up to the checkpoint's step: a resumed run writes the later ones again."""
        if not self.losses.exists():
            return
        header, *rows = self.losses.read_text().splitlines(keepends=True)
        kept = [row for row in rows if int(row.split(",", 1)[0]) <= self.step]
        self.losses.write_text(header + "".join(kept))

    def save(self) -> None:
        """Write the checkpoint with everything a resumed run needs."""
        moments = self.optimizer.state_dict()
        self.kept.extra = {"step": self.step, "spent_s": self.spent_s, "optimizer": moments}
        checkpoints.save(self.path, self.kept)


@torch.no_grad()
def settle_norms(model: AMSNet, train: list[Clip], mean: float, std: float) -> None:
    """Batch norm statistics afresh from whole, unaugmented pictures: training saw the middle of most of them."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # plain average over the clips below
    model.train()
    for clip in train:
        model(((torch.from_numpy(np.asarray(clip.stacks, dtype=np.float32)) / 255 - mean) / std)[None])
    for norm in norms:
        norm.momentum = 0.1
    model.eval()


def drawn(chosen: argparse.Namespace, first_seed: int, count: int) -> list[Clip]:
    """Clips of `count` seeds, rendered where they are missing."""
    cache = chosen.cache / f"clips-{clips.STORED_PX}px-{clips.drawing_digest()}"
    seeds = list(range(first_seed, first_seed + count))
    for done in clips.render_all(cache, seeds, chosen.workers):
        if done % 20 == 0:
            print(f"drawn {done} of {count} embryos from seed {first_seed}", flush=True)
    return [clips.load(cache, seed) for seed in seeds]


def finish(run: Run, train: list[Clip], test: list[Clip]) -> None:
    """Settle the norms, measure on unseen seeds, keep both in the checkpoint."""
    settle_norms(run.model, train[:16], run.kept.mean, run.kept.std)
    found = evaluate.figures(run.model, train, test, run.kept.mean, run.kept.std)
    run.kept.provenance = {
        "trained_on": f"{TRAINED_ON}: {len(train)} drawn embryos, {run.spent_s / 60:.0f} min on a 2-core CPU",
        "seed": run.chosen.seed,
        "steps": run.step,
        "date": date.today().isoformat(),
        "figures": found,
    }
    run.save()
    for name, value in found.items():
        print(f"{name} {value}")


def parser() -> argparse.ArgumentParser:
    """What the command line takes."""
    described = argparse.ArgumentParser(prog="python -m training.amsnet.train", description=__doc__.splitlines()[0])
    described.add_argument("--embryos", type=int, default=200, help="drawn embryos to train on (seeds 0 .. n-1)")
    described.add_argument("--test-embryos", type=int, default=80, help=f"seeds from {clips.TEST_SEEDS_FROM} on")
    described.add_argument("--epochs", type=int, default=12)
    described.add_argument("--batch", type=int, default=6, help="embryos per step")
    described.add_argument(
        "--middle-share", type=float, default=0.5, help="first share: only the middle of the picture"
    )
    described.add_argument("--lr", type=float, default=0.06, help="peak learning rate of SGD with momentum 0.9")
    described.add_argument("--seed", type=int, default=0)
    described.add_argument("--cache", type=Path, default=Path("training/cache"), help="rendered stacks")
    described.add_argument("--out", type=Path, default=Path("training/runs"), help="checkpoint and losses")
    described.add_argument("--name", default="amsnet-small")
    described.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    described.add_argument("--time-limit-min", type=float, default=0.0, help="minutes of training steps; 0 = none")
    described.add_argument("--workers", type=int, default=2, help="processes that draw")
    described.add_argument("--threads", type=int, default=2, help="torch threads")
    described.add_argument("--render-only", action="store_true", help="draw and stop")
    return described


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    chosen = parser().parse_args(arguments)
    if not chosen.batch <= chosen.embryos <= clips.TEST_SEEDS_FROM:
        print(f"--embryos must lie between --batch and {clips.TEST_SEEDS_FROM} (test seeds begin there)")
        return 2
    torch.set_num_threads(chosen.threads)
    chosen.out.mkdir(parents=True, exist_ok=True)
    train, test = drawn(chosen, 0, chosen.embryos), drawn(chosen, clips.TEST_SEEDS_FROM, chosen.test_embryos)
    if chosen.render_only:
        return 0
    run = Run(chosen, train)
    run.forget_unsaved_losses()
    while run.progress < 1.0:
        run.record(run.once())
    run.save()
    finish(run, train, test)
    return 0


if __name__ == "__main__":
    sys.exit(main())

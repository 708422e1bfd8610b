"""One training run of a day-5 network: steps until the minutes are spent, stopped and resumed at will.

Does: rates, averaged weights, a checkpoint, a CSV of losses. Refuses to know: what a batch is and what its loss means;
the paper's own train.py says so.
"""

from __future__ import annotations

import copy
import csv
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from training.day5 import checkpoint as checkpoints
from training.day5.checkpoint import Checkpoint

Loss = Callable[[nn.Module, np.random.Generator], tuple[torch.Tensor, float]]
Now = Callable[[], float]


@dataclass(frozen=True)
class Recipe:
    """How long and how fast. It ends with `steps` or `minutes` of training, whichever comes first; 0: no such limit.

    `schedule`: "poly" is (1 - share done)^.9 of I2CNet, "cosine" warms up and cools down, "plateau" multiplies the rate
    by .3 when the loss of `patience` looks has not fallen (Lockhart). `decay`: weight decay. `average`: the longest
    memory of the averaged weights, 0 for the last weights themselves. `minutes` are a core's, so that a busy machine
    trains as long. `half`: products in bfloat16, twice as fast where the processor has them; weights stay float32.
    """

    optimizer: str = "adam"
    lr: float = 1e-4
    decay: float = 1e-5
    schedule: str = "poly"
    batch: int = 8
    steps: int = 0
    minutes: float = 0.0
    seed: int = 0
    average: float = 0.995
    patience: int = 5
    half: bool = False

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS or self.schedule not in ("poly", "cosine", "plateau"):
            raise ValueError(f"optimizer {self.optimizer!r}, schedule {self.schedule!r}: no such thing here")
        if not (self.steps or self.minutes):
            raise ValueError("a run without a limit never ends: give --steps or --minutes")
        if not 0 <= self.average < 1:
            raise ValueError(f"average {self.average}: a share of memory, 0 to below 1")


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,  # decay is added to the gradient, as in the paper's framework
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
}


def rate_at(recipe: Recipe, share: float) -> float:
    """Learning rate when this share (0 to 1) of the run is done; a plateau's falls are applied by the run."""
    share = min(max(share, 0.0), 1.0)
    if recipe.schedule == "poly":
        return recipe.lr * (1 - share) ** 0.9
    if recipe.schedule == "cosine":
        warm = min(1.0, 0.1 + 0.9 * share / 0.03)
        return recipe.lr * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))
    return recipe.lr


class Average:
    """Exponential moving average of all a network holds; short-sighted at first, so that it starts useful."""

    def __init__(self, network: nn.Module, memory: float) -> None:
        self.memory, self.steps = memory, 0
        self.network = copy.deepcopy(network).requires_grad_(False).eval()

    @torch.no_grad()
    def follow(self, network: nn.Module) -> None:
        self.steps += 1
        memory = min(self.memory, (1 + self.steps) / (10 + self.steps)) if self.memory else 0.0
        for own, new in zip(self.network.state_dict().values(), network.state_dict().values(), strict=True):
            if own.dtype.is_floating_point:
                own.lerp_(new, 1 - memory)
            else:
                own.copy_(new)


class Run:
    """A network in training and the two files it keeps: `path`, NAME.pt, and beside it NAME-losses.csv.

    `about`: what the pictures are; a checkpoint made from others is not gone on with.
    """

    def __init__(
        self, path: Path, paper: str, network: nn.Module, config: dict[str, Any], recipe: Recipe, about: str
    ) -> None:
        self.path, self.losses = path, path.with_name(f"{path.stem}-losses.csv")
        self.paper, self.network, self.config, self.recipe, self.about = paper, network, config, recipe, about
        if recipe.half:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = Average(network, recipe.average)
        self.optimizer = _optimizer(network, recipe)
        self.step, self.spent_s = 0, 0.0
        self.factor, self.best, self.stale = 1.0, math.inf, 0  # of the plateau
        self.provenance: dict[str, Any] = {}

    @property
    def share(self) -> float:
        """0 to 1, by steps or by the clock, whichever is further."""
        by_steps = self.step / self.recipe.steps if self.recipe.steps else 0.0
        by_clock = self.spent_s / (60 * self.recipe.minutes) if self.recipe.minutes else 0.0
        return max(by_steps, by_clock)

    def resume(self) -> None:
        """Go on from the checkpoint, where there is one. ValueError when pictures, network or recipe are others."""
        if not self.path.exists():
            return
        kept = checkpoints.load(self.path, self.paper)
        ours = {**asdict(self.recipe), "minutes": 0, "steps": 0}  # a run may be given more time
        theirs = {**kept.extra["recipe"], "minutes": 0, "steps": 0}
        if (kept.extra["about"], kept.config, theirs) != (self.about, self.config, ours):
            raise ValueError(f"{self.path} is of other pictures, another network or recipe: give another --name")
        self.network.load_state_dict(kept.extra["weights"])
        self.average.network.load_state_dict(kept.weights)
        self.optimizer.load_state_dict(kept.extra["optimizer"])
        self.step = self.average.steps = kept.extra["step"]
        self.spent_s, self.provenance = kept.extra["spent_s"], kept.provenance
        self.factor, self.best, self.stale = kept.extra["plateau"]

    def save(self) -> None:
        """The averaged weights are the network that is used; the others travel in `extra`."""
        extra = {
            "weights": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "recipe": asdict(self.recipe),
            "about": self.about,
            "step": self.step,
            "spent_s": self.spent_s,
            "plateau": [self.factor, self.best, self.stale],
        }
        weights = self.average.network.state_dict()
        checkpoints.save(self.path, Checkpoint(self.paper, self.config, weights, self.provenance, extra))

    def once(self, loss_of: Loss) -> tuple[float, float]:
        """One optimiser step; the batch depends on seed and step alone. Gives the loss and the caller's own figure."""
        rate = rate_at(self.recipe, self.share) * self.factor
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.network.train()
        torch.manual_seed(self.recipe.seed * 1_000_003 + self.step)  # dropout, too, is that of the step
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.half):
            loss, figure = loss_of(self.network, np.random.default_rng((self.recipe.seed, self.step)))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimizer.step()
        self.average.follow(self.network)
        self.step += 1
        return float(loss.detach()), figure

    def look(self, loss: float) -> None:
        """Lockhart's plateau: the rate falls to .3 of itself when `patience` looks in a row brought no lower loss."""
        if self.recipe.schedule != "plateau":
            return
        self.stale = 0 if loss < self.best else self.stale + 1
        self.best = min(self.best, loss)
        if self.stale >= self.recipe.patience:
            self.factor, self.stale = self.factor * 0.3, 0

    def go(
        self,
        loss_of: Loss,
        watched: Callable[[nn.Module], float] | None = None,
        now: Now = time.process_time,
        every_s: float = 20.0,
    ) -> None:
        """Train to the end of the recipe; a row of the CSV, a line and a checkpoint every `every_s` seconds.

        `watched`: the loss of validation pictures under the averaged weights, which a plateau waits for; without it,
        the training loss.
        """
        self._forget_unsaved()
        last = told = now()
        losses: list[float] = []
        figures: list[float] = []
        while self.share < 1:
            loss, figure = self.once(loss_of)
            losses.append(loss)
            figures.append(figure)
            self.spent_s += now() - last
            last = now()
            if last - told >= every_s or self.share >= 1:
                row = [self.step, round(self.spent_s, 1), round(_mean(losses), 4), round(_mean(figures), 4)]
                self._write(row)
                print(f"{self.path.stem}: step {row[0]}, {row[1]} s, loss {row[2]:.3f}, right {row[3]:.3f}", flush=True)
                self.look(watched(self.average.network) if watched is not None else _mean(losses))
                self.save()
                losses, figures, last = [], [], now()
                told = last

    def _write(self, row: list[object]) -> None:
        new = not self.losses.exists()
        with self.losses.open("a", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            if new:
                rows.writerow(["step", "spent_s", "loss", "right"])
            rows.writerow(row)

    def _forget_unsaved(self) -> None:
        """Keep only the rows up to the checkpoint's step: a resumed run writes the later ones again."""
        if self.losses.exists():
            header, *rows = self.losses.read_text().splitlines(keepends=True)
            kept = [row for row in rows if int(row.split(",", 1)[0]) <= self.step]
            self.losses.write_text(header + "".join(kept))


def _optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Decay on kernels only; what an optional weight file has frozen is left out."""
    free = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in free if p.ndim > 1], "weight_decay": recipe.decay},
        {"params": [p for p in free if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return OPTIMIZERS[recipe.optimizer]([group for group in groups if group["params"]], lr=recipe.lr)


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")

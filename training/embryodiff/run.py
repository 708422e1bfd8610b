"""One training run in its folder: resumable checkpoint, averaged weights, a CSV of losses, a rate that cools down.

Does: the same for encoder and head. Refuses to know: batches, losses, what a network is for.
"""

from __future__ import annotations

import copy
import csv
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from training.embryodiff import checkpoint as checkpoints
from training.embryodiff.checkpoint import Checkpoint
from training.embryodiff.encoder import FrameEncoder
from training.embryodiff.model import EmbryoDiff

WARM_UP_SHARE = 0.04
SAID_EVERY_S = 20.0

Batch = Any
Loss = Callable[[nn.Module, int], tuple[Tensor, dict[str, float]]]


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; what beside it decides the weights (data, start) the caller adds to `told`.

    It ends with its minutes, or with `steps` where they are given: an ablation is only fair by steps, for on a machine
    with other work a minute is not a minute. `trunk_share`: of the rate, for a trunk that starts from weights while all
    behind it starts at random. `half`: products in bfloat16, twice as fast where the processor has them; weights stay
    float32.
    """

    minutes: float
    lr: float
    weight_decay: float
    batch: int
    seed: int = 0
    averaged: float = 0.998
    trunk_share: float = 1.0
    steps: int = 0
    half: bool = False


def rate_at(share_done: float, peak: float) -> float:
    """Warm-up over the first 4 %, then a cosine to a hundredth."""
    if share_done < WARM_UP_SHARE:
        return peak * (0.1 + 0.9 * share_done / WARM_UP_SHARE)
    done = min((share_done - WARM_UP_SHARE) / (1 - WARM_UP_SHARE), 1.0)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def parameter_groups(network: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Decay on matrices and kernels only; the trunk at its own share of the rate."""
    groups = []
    for trunk, share in ((False, 1.0), (True, recipe.trunk_share)):
        own = [p for name, p in network.named_parameters() if name.startswith("trunk.") == trunk]
        for plain, decay in ((False, recipe.weight_decay), (True, 0.0)):
            chosen = [p for p in own if (p.ndim <= 1) == plain]
            if chosen:
                groups.append({"params": chosen, "weight_decay": decay, "share": share})
    return groups


class Average:
    """Exponential moving average of everything a network holds; short-sighted at first, so that it starts useful."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay, self.steps = copy.deepcopy(network).requires_grad_(False).eval(), decay, 0

    @torch.no_grad()
    def follow(self, network: nn.Module) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for own, new in zip(self.network.state_dict().values(), network.state_dict().values(), strict=True):
            if own.dtype.is_floating_point:
                own.lerp_(new, 1 - decay)
            else:
                own.copy_(new)


class Run:
    """Trains one network. `told`: what else the weights depend on; a resumed run must be told the same."""

    def __init__(self, path: Path, network: FrameEncoder | EmbryoDiff, recipe: Recipe, told: dict[str, Any]) -> None:
        self.path, self.network, self.recipe, self.told = path, network, recipe, told
        self.average = Average(network, recipe.averaged)
        self.optimiser = torch.optim.AdamW(parameter_groups(network, recipe), lr=recipe.lr)
        self.steps, self.trained_s = 0, 0.0
        self._resume()

    def _asked(self) -> dict[str, Any]:
        """Without the minutes: a run may be given more of them."""
        return {**{name: value for name, value in asdict(self.recipe).items() if name != "minutes"}, **self.told}

    def _resume(self) -> None:
        if not self.path.exists():
            return
        encoder = isinstance(self.network, FrameEncoder)
        kept = checkpoints.load_encoder(self.path) if encoder else checkpoints.load_head(self.path)
        if kept.extra.get("asked") != self._asked():
            raise ValueError(f"{self.path} was trained on other data or by another recipe: give another --name")
        self.average.network.load_state_dict(kept.network.state_dict())
        self.network.load_state_dict(kept.extra["weights"])
        self.optimiser.load_state_dict(kept.extra["optimiser"])
        self.average.steps = self.steps = kept.extra["steps"]
        self.trained_s = kept.extra["trained_s"]

    def save(self) -> None:
        """The averaged weights are the network; the rest is there to go on."""
        extra = {
            "asked": self._asked(),
            "weights": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "steps": self.steps,
            "trained_s": self.trained_s,
        }
        checkpoints.save(self.path, Checkpoint(self.average.network, self.provenance(), extra))

    @property
    def progress(self) -> float:
        """0 to 1."""
        if self.recipe.steps:
            return self.steps / self.recipe.steps
        return self.trained_s / max(60 * self.recipe.minutes, 1e-9)

    def provenance(self) -> dict[str, Any]:
        return {**self._asked(), "steps": self.steps, "minutes": round(self.trained_s / 60, 1)}

    def once(self, loss_of: Loss) -> dict[str, float]:
        """One optimiser step; `loss_of(network, step)` makes its batch from the step alone."""
        for group in self.optimiser.param_groups:
            group["lr"] = group["share"] * rate_at(self.progress, self.recipe.lr)
        self.network.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.half):
            loss, told = loss_of(self.network, self.steps)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimiser.step()
        self.average.follow(self.network)
        self.steps += 1
        return {"loss": float(loss.detach()), **told}

    def train(
        self, loss_of: Loss, say: Callable[[str], None] = print, now: Callable[[], float] = time.monotonic
    ) -> None:
        """To the recipe's end, counted over all resumed parts; a row of the CSV every 20 s."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.with_suffix(".json").write_text(json.dumps(self._asked(), indent=2) + "\n")
        self._forget_unsaved_rows()
        since = told_at = now()
        rows: list[dict[str, float]] = []
        while self.progress < 1.0:
            rows.append(self.once(loss_of))
            self.trained_s += now() - since
            since = now()
            if since - told_at >= SAID_EVERY_S or self.progress >= 1.0:
                means = {name: round(float(np.mean([row[name] for row in rows])), 4) for name in rows[0]}
                pace = len(rows) / max(since - told_at, 1e-6)
                self._record({"steps": self.steps, "trained_s": round(self.trained_s), **means})
                told = "  ".join(f"{name} {value:.3f}" for name, value in means.items())
                say(f"step {self.steps}  {self.trained_s:.0f} s  {told}  {pace:.2f} steps/s")
                self.save()
                told_at, rows = now(), []
                since = told_at

    def _forget_unsaved_rows(self) -> None:
        """Keep only the CSV's rows up to the checkpoint's step: a resumed run writes the later ones again."""
        path = self.path.with_suffix(".csv")
        if path.exists():
            head, *rows = path.read_text().splitlines(keepends=True)
            path.write_text(head + "".join(row for row in rows if int(row.split(",", 1)[0]) <= self.steps))

    def _record(self, row: dict[str, float]) -> None:
        path = self.path.with_suffix(".csv")
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)

"""One training run: the network, its optimiser, how far it is, and the files it keeps.

Does: takes optimiser steps, first on single frames, then on clips; settles the norms between; keeps a checkpoint that
resumes to the step and a CSV of the losses. Refuses to know where embryos come from, and the command line.
"""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import nn
from torch.nn.utils import clip_grad_norm_

from training.amsnet import checkpoint as checkpoints
from training.amsnet.batches import (
    ALL_PLANES,
    Batch,
    Pupil,
    brightness,
    chosen_at,
    draw_segments,
    frames_batch,
    make_batch,
)
from training.amsnet.checkpoint import Checkpoint
from training.amsnet.lesson import Recipe, Signs, forget_the_past, optimizer_of, outcome_loss, rate
from training.amsnet.model import AMSNet, AMSNetConfig
from training.amsnet.reclaim import measure_norms, reclaim

SETTLING_BATCHES = 40
SAVED_EVERY = 50  # steps


@dataclass(frozen=True)
class Limits:
    """Where a run ends: after `steps`, or after `minutes` of optimiser steps (0: no such limit), whichever is first."""

    steps: int
    minutes: float = 0.0


class Run:
    """`path`: the checkpoint; beside it NAME-losses.csv."""

    def __init__(
        self,
        recipe: Recipe,
        config: AMSNetConfig,
        pupils: Sequence[Pupil],
        limits: Limits,
        path: Path,
        seed: int = 0,
        resume: bool = False,
        device: str = "cpu",
        precision: str = "fp32",
        first_weights: Path | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock_s = clock_s  # what the limit of minutes is measured by: the wall's clock, or the processor's
        self.recipe, self.pupils, self.limits, self.path, self.seed = recipe, pupils, limits, path, seed
        self.device, self.precision = torch.device(device), precision
        self.step, self.frame_steps, self.clips_seen, self.settled = 0, 0, 0, False
        self.spent_s, self.busy_s = 0.0, 0.0  # by that clock, and of the processor
        torch.manual_seed(seed)
        resumed = resume and path.exists()
        self.kept = self._saved(config) if resumed else self._begin(config, first_weights)
        self.signs = Signs(self.kept.model.channels)
        if resumed:
            self._resume()
        else:
            self.losses.unlink(missing_ok=True)
        self.model = self.kept.model.to(self.device, memory_format=torch.channels_last)
        self.signs.to(self.device)
        self.optimizer = optimizer_of(recipe, self.model, self.signs)
        if self.step:
            self.optimizer.load_state_dict(self.kept.extra["optimizer"])

    def _begin(self, config: AMSNetConfig, first_weights: Path | None) -> Checkpoint:
        """Fresh weights, or those of a file; whoever goes on from weights of ours scales the pixels as they were."""
        if first_weights is not None and first_weights.suffix == ".json":
            kept = reclaim(first_weights, config)
            measure_norms(kept.model, lambda: self._show(kept))
            return kept
        model, scale = AMSNet(config), None
        if self.recipe.frames_share:
            forget_the_past(model)
        if first_weights is not None:
            checkpoints.load_first_weights(model, first_weights)
            scale = checkpoints.scale_of(first_weights)
        return Checkpoint(model, *(scale or brightness(self.pupils[:24])))

    def _saved(self, config: AMSNetConfig) -> Checkpoint:
        kept = checkpoints.load(self.path)
        if kept.model.config != config:
            raise ValueError(f"{self.path} is of another network ({kept.model.config}): give another --name")
        return kept

    def _resume(self) -> None:
        kept = self.kept.extra
        self.step, self.frame_steps = kept["step"], kept["frame_steps"]
        self.spent_s, self.busy_s = kept["spent_s"], kept["busy_s"]
        self.clips_seen, self.settled = kept["clips_seen"], kept["settled"]
        self.signs.load_state_dict(kept["signs"])
        self._trim_losses()

    @property
    def progress(self) -> float:
        """0 to 1, by steps or by the clock, whichever is further: a run that is cut short still cools down."""
        clock = self.spent_s / (60 * self.limits.minutes) if self.limits.minutes else 0.0
        return max(self.step / self.limits.steps, clock)

    def once(self) -> dict[str, Any]:
        """One optimiser step; returns the row for the CSV."""
        started, busy, progress, share = self.clock_s(), time.process_time(), self.progress, self.recipe.frames_share
        on_frames = progress < share
        rng = np.random.default_rng((self.seed, 1, self.step))
        if on_frames:
            batch = self._frames(rng)
            now = rate(self.recipe.frame_lr, self.step, progress / share)
        else:
            self._settle_once()
            batch = self._clips(rng)
            now = rate(self.recipe.clip_lr, self.step - self.frame_steps, (progress - share) / (1 - share))
        for group in self.optimizer.param_groups:
            group["lr"] = now * group["share"]
        row = {"step": self.step + 1, "part": "frames" if on_frames else "clips"}
        row |= {"rows": batch.frames.shape[0], "steps": batch.frames.shape[1], "planes": batch.frames.shape[2]}
        row |= {"lr": round(now, 6), **self._learn(batch.to(self.device), frozen=self.settled)}
        self.step += 1
        self.frame_steps += on_frames
        self.spent_s += self.clock_s() - started
        self.busy_s += time.process_time() - busy
        return {**row, "spent_s": round(self.spent_s, 1)}

    def _present(self, rng: np.random.Generator) -> list[int]:
        return self.recipe.chances.planes(rng, self.kept.model.config.planes)

    def _frames(self, rng: np.random.Generator) -> Batch:
        present = self._present(rng)
        rows = _fewer(self.recipe.frame_rows, len(present))
        return frames_batch(self.pupils, rows, present, rng, self.kept.mean, self.kept.std)

    def _clips(self, rng: np.random.Generator) -> Batch:
        present, longest = self._present(rng), int(rng.choice(self.recipe.clip_steps))
        rows = (
            self.recipe.clip_rows if self.recipe.chances == ALL_PLANES else _fewer(self.recipe.clip_rows, len(present))
        )
        chosen = chosen_at(self.clips_seen, self.pupils, min(rows, len(self.pupils)), self.seed)
        self.clips_seen += len(chosen)
        clips = [(pupil, draw_segments(pupil.embryo.hours_h, rng, longest)) for pupil in chosen]
        return make_batch(clips, longest, present, rng, self.kept.mean, self.kept.std)

    def _learn(self, batch: Batch, frozen: bool) -> dict[str, float]:
        self.model.train()
        if frozen:
            for norm in _norms(self.model):
                norm.eval()
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            features = self.model.features(batch.frames, batch.source)
        features = features.float()
        logits = self.model.judged(features, batch.hours)
        outcome = outcome_loss(logits, batch, self.recipe.teacher_share)
        asked = self.signs.loss(features, batch) if self.recipe.auxiliary else outcome.new_zeros(())
        loss = outcome + self.recipe.auxiliary * asked
        loss.backward()
        clip_grad_norm_([*self.model.parameters(), *self.signs.parameters()], 5.0)
        self.optimizer.step()
        right = (((logits > 0) == (batch.reaches > 0.5)) * batch.counts).sum() / batch.counts.sum()
        told = {"loss": outcome, "signs_loss": asked, "accuracy": right}
        return {name: round(float(value.detach()), 4) for name, value in told.items()}

    def _settle_once(self) -> None:
        """Batch norm statistics afresh from single frames, half of them with every plane; then they stay."""
        if self.settled or not self.recipe.settled_norms or not self.recipe.frames_share:
            return
        norms = _norms(self.model)
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # plain average over the batches below
        self.model.train()
        self._show(self.kept)
        for norm in norms:
            norm.momentum = 0.1
        self.settled = True

    @torch.no_grad()
    def _show(self, kept: Checkpoint) -> None:
        """Single frames to measure norms by, half of the batches with every plane."""
        planes = kept.model.config.planes
        device = next(kept.model.parameters()).device
        for turn in range(SETTLING_BATCHES):
            rng = np.random.default_rng((self.seed, 3, turn))
            present = self.recipe.chances.planes(rng, planes) if turn % 2 else range(planes)
            rows = max(self.recipe.frame_rows // 3, 2)  # batch norm needs more than one
            batch = frames_batch(self.pupils, rows, present, rng, kept.mean, kept.std)
            kept.model.features(batch.frames.to(device), batch.source)

    def go_on(self, say: bool = True) -> None:
        """To the end: a row of the CSV for each step, a save every fifty; a bar, or in a log every tenth row."""
        with Progress(disable=not say or not sys.stdout.isatty()) as bar:
            shown = bar.add_task(self.path.stem, total=1.0, completed=self.progress)
            while self.progress < 1.0:
                row = self.once()
                self._record(row)
                told = " ".join(f"{name}={value}" for name, value in row.items())
                bar.update(shown, completed=self.progress, description=f"{row['part']} loss {row['loss']:.3f}")
                if say and bar.disable and self.step % 10 == 0:
                    print(f"{told} {100 * self.progress:.0f} %", flush=True)
                if self.step % SAVED_EVERY == 0:
                    self.save()
        self.save()

    @property
    def losses(self) -> Path:
        """The CSV beside the checkpoint."""
        return self.path.with_name(f"{self.path.stem}-losses.csv")

    def _record(self, row: dict[str, Any]) -> None:
        new = not self.losses.exists()
        with self.losses.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)

    def _trim_losses(self) -> None:
        """Keep only the rows up to the checkpoint's step: a resumed run writes the later ones again."""
        if not self.losses.exists():
            return
        header, *rows = self.losses.read_text().splitlines(keepends=True)
        kept = [row for row in rows if int(row.split(",", 1)[0]) <= self.step]
        self.losses.write_text(header + "".join(kept))

    def save(self) -> None:
        """Write the checkpoint with everything a resumed run needs."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.kept.extra = {
            "step": self.step,
            "frame_steps": self.frame_steps,
            "clips_seen": self.clips_seen,
            "spent_s": self.spent_s,
            "busy_s": self.busy_s,
            "settled": self.settled,
            "signs": self.signs.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "recipe": {name: value for name, value in asdict(self.recipe).items() if name != "chances"},
        }
        checkpoints.save(self.path, self.kept)


def _fewer(rows: int, planes: int) -> int:
    """Rows of a batch that shows so many planes, at about the cost of `rows` with one or two; 2 at least."""
    return rows if planes <= 2 else max(rows * 2 // (planes + 1), 2)


def _norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]

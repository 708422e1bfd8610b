"""Table 1's rows at small scale, one command for all: what each part of the network adds on the very same embryos.

Does: trains each row for the same number of processor minutes on the same embryos from the same seed, judges the same
held-out embryos, gives areas under the ROC curve, accuracies, and their paired differences to the row before with
bootstrap intervals. A row that is done is not done again. Refuses to know the shipped model: rows are as the paper has
them, without hours, on smaller pictures, for a few minutes; what they rank here they need not rank elsewhere.

    python -m training.amsnet.ablation --cache CACHE --out build/ablation --minutes-per-row 4
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from monitor.simulator import PLANES_UM
from training.amsnet import metrics, validation
from training.amsnet.batches import Pupil
from training.amsnet.lesson import RECIPES
from training.amsnet.model import AMSNetConfig
from training.amsnet.run import Limits, Run
from training.amsnet.targets import Teacher
from training.amsnet.train import LAST_H, VALIDATION_CLOCK, pupils_of
from training.datasets.clock import Clock
from training.datasets.embryo import Embryo, Gray
from training.datasets.virtual import VALIDATION_SEEDS_FROM

DAYS = (3, 4, 5)
CACHED_PX = 112  # the cache is the shipped model's; rows shrink what lies there
MANY_STEPS = 10**6


@dataclass(frozen=True)
class Row:
    """One row: the planes the network takes, its switches, and the row that it is held against."""

    name: str
    planes: int
    tsm: bool = True
    channel_attention: bool = True
    spatial_attention: bool = True
    against: str | None = None

    def config(self, side_px: int) -> AMSNetConfig:
        """The small network with this row's switches; no hours, as in the paper."""
        return AMSNetConfig(
            "small",
            self.planes,
            side_px,
            tsm=self.tsm,
            channel_attention=self.channel_attention,
            spatial_attention=self.spatial_attention,
        )


ROWS = (
    Row("baseline", 1, tsm=False, channel_attention=False, spatial_attention=False),
    Row("+TSM", 1, channel_attention=False, spatial_attention=False, against="baseline"),
    Row("+7 planes", 7, channel_attention=False, spatial_attention=False, against="+TSM"),
    Row("+channel attention", 7, spatial_attention=False, against="+7 planes"),
    Row("full", 7, against="+channel attention"),
    Row("full, 5 planes", 5, against="full"),
    Row("full, 3 planes", 3, against="full"),
    Row("full, 1 plane", 1, against="full"),
)


@dataclass(frozen=True)
class Shrunk:
    """An embryo's stacks with fewer planes around the middle one, and smaller."""

    embryo: Embryo
    planes: int
    side_px: int

    def __getattr__(self, name: str) -> Any:
        return getattr(self.embryo, name)

    @property
    def planes_um(self) -> tuple[int, ...]:
        """The middle ones."""
        middle, half = len(self.embryo.planes_um) // 2, self.planes // 2
        return self.embryo.planes_um[middle - half : middle + half + 1]

    def stack(self, t: int) -> Gray:
        """(planes, side_px, side_px) uint8, averaged over areas."""
        shown = [self.embryo.planes_um.index(plane_um) for plane_um in self.planes_um]
        whole = self.embryo.stack(t)
        size = (self.side_px, self.side_px)
        return np.stack([cv2.resize(whole[i], size, interpolation=cv2.INTER_AREA) for i in shown])


def shrunk(pupils: Sequence[Pupil], row: Row, side_px: int) -> list[Pupil]:
    """The same embryos as this row sees them."""
    return [Pupil(Shrunk(pupil.embryo, row.planes, side_px), pupil.targets) for pupil in pupils]


def train_row(
    row: Row, train: Sequence[Pupil], held_out: Sequence[Pupil], limits: Limits, side_px: int, out: Path, seed: int
) -> dict[str, Any]:
    """One row from its first or last saved step to its answers, which are kept as JSON when they are whole.

    ValueError where the answers that are there were asked for otherwise: they cannot be paired with these.
    """
    done, seeds = out / f"{row.name.replace(' ', '_')}.json", [pupil.embryo.name for pupil in held_out]
    asked = {**asdict(limits), "embryos": len(train), "input_px": side_px, "seed": seed}
    if done.exists():
        kept: dict[str, Any] = json.loads(done.read_text())
        if kept["seeds"] != seeds or kept.get("asked", asked) != asked:
            raise ValueError(f"{done} was made with other embryos or settings: remove it or give another --out")
        return kept
    recipe = replace(RECIPES["small"], hours=False)
    path = done.with_suffix(".pt")
    config, pupils = row.config(side_px), shrunk(train, row, side_px)
    # processor time: a row that ran while the machine was busy has learned as much as the others
    run = Run(recipe, config, pupils, limits, path, seed, resume=True, clock_s=time.process_time)
    run.go_on(say=False)
    judged = validation.judge(run.kept, shrunk(held_out, row, side_px))
    said = {str(day): [float(validation.probability(one.logits)[one.at(24 * day)]) for one in judged] for day in DAYS}
    answers = {
        "row": row.name,
        "asked": asked,
        "steps": run.step,
        "minutes": round(run.spent_s / 60, 2),
        "seeds": seeds,
        "reaches": [one.reaches for one in judged],
        "probability": said,
    }
    unfinished = done.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(answers, indent=1) + "\n")
    unfinished.replace(done)
    return answers


def _scores(answers: dict[str, Any], day: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    return np.array(answers["probability"][str(day)]), np.array(answers["reaches"])


def table(found: dict[str, dict[str, Any]]) -> str:
    """Markdown: per row the area under the ROC curve and the accuracy by day, with their paired differences."""
    head = [f"AUC day {day} | accuracy day {day}" for day in DAYS]
    lines = [f"| row | against | steps | {' | '.join(head)} |", "|---|---|---|" + "---|---|" * len(DAYS)]
    for row in ROWS:
        if row.name not in found:
            continue
        ours, cells = found[row.name], []
        theirs = found.get(row.against or "")
        for day in DAYS:
            scores, truth = _scores(ours, day)
            area, right = metrics.auc(scores, truth), metrics.accuracy(scores, truth)
            if theirs is None:
                cells += [f"{area:.3f}", f"{right:.3f}"]
                continue
            before = _scores(theirs, day)[0]
            cells.append(f"{area:.3f} ({_signed(metrics.auc_difference(scores, before, truth))})")
            cells.append(f"{right:.3f} ({_signed(metrics.accuracy_difference(scores, before, truth))})")
        lines.append(f"| {row.name} | {row.against or ''} | {ours['steps']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _signed(difference: metrics.Estimate) -> str:
    return f"{difference.value:+.3f}, {difference.low:+.3f} to {difference.high:+.3f}"


def parser() -> argparse.ArgumentParser:
    """What the command line takes."""
    described = argparse.ArgumentParser(prog="python -m training.amsnet.ablation", description=__doc__.splitlines()[0])
    described.add_argument("--cache", type=Path, required=True, help="of drawn stacks, shared with train.py")
    described.add_argument("--out", type=Path, required=True, help="folder for rows, checkpoints and table.md")
    described.add_argument("--minutes-per-row", type=float, default=4.0, help="of processor time in optimiser steps")
    described.add_argument("--steps", type=int, default=MANY_STEPS, help="optimiser steps of a row, if fewer")
    described.add_argument("--rows", nargs="+", choices=[row.name for row in ROWS], help="only these")
    described.add_argument("--embryos", type=int, default=240, help="to train on, seeds from 0")
    described.add_argument("--frames", type=int, default=2, help="drawn moments per 6-h segment")
    described.add_argument("--last-hour", type=float, default=LAST_H, help="of the drawn clips")
    described.add_argument("--validation", type=int, default=80, help=f"to judge, seeds from {VALIDATION_SEEDS_FROM}")
    described.add_argument("--input-px", type=int, default=80)
    described.add_argument("--teacher-lives", type=int, default=4000, help="lives the teacher's odds are fitted to")
    described.add_argument("--seed", type=int, default=0)
    described.add_argument("--workers", type=int, default=2, help="processes that draw")
    described.add_argument("--threads", type=int, default=1, help="of torch")
    return described


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    chosen = parser().parse_args(arguments)
    chosen.planes = PLANES_UM
    torch.set_num_threads(chosen.threads)
    chosen.out.mkdir(parents=True, exist_ok=True)
    teacher = Teacher(chosen.teacher_lives)
    clock = Clock("segments", frames=chosen.frames, last_h=chosen.last_hour)
    train = list(pupils_of(chosen, range(chosen.embryos), clock, CACHED_PX, teacher))
    seeds = range(VALIDATION_SEEDS_FROM, VALIDATION_SEEDS_FROM + chosen.validation)
    held_out = list(pupils_of(chosen, seeds, VALIDATION_CLOCK, CACHED_PX, teacher))
    limits = Limits(chosen.steps, chosen.minutes_per_row)
    found = {}
    for row in ROWS:
        if chosen.rows is None or row.name in chosen.rows:
            found[row.name] = train_row(row, train, held_out, limits, chosen.input_px, chosen.out, chosen.seed)
            print(f"{row.name}: {found[row.name]['steps']} steps", flush=True)
    said = table(found)
    (chosen.out / "table.md").write_text(said + "\n")
    print(said)
    return 0


if __name__ == "__main__":
    sys.exit(main())

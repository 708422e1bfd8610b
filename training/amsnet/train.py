"""Train AMSNet on the virtual incubator: the paper's recipe, or ours for the small network that is shipped.

Does: reads the command line, fills the cache of drawn embryos, trains (run.py), calibrates on embryos that were not
trained on, writes the checkpoint that export.py takes. Refuses to know ONNX and the test embryos (evaluate.py).

    python -m training.amsnet.train --recipe small --embryos 240 --cache CACHE --out training/runs --time-limit-min 45
    python -m training.amsnet.train --recipe paper --device cuda --steps 20000 --init resnet50.pth
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import torch

from monitor.simulator import PLANES_UM
from training.amsnet import validation
from training.amsnet.batches import Pupil
from training.amsnet.curves import draw_curves
from training.amsnet.lesson import RECIPES
from training.amsnet.model import BACKBONES, AMSNetConfig
from training.amsnet.run import Limits, Run
from training.amsnet.targets import Teacher, targets_of
from training.datasets.clock import Clock
from training.datasets.cut import WIDTH_IN_WELL_RADII
from training.datasets.virtual import VALIDATION_SEEDS_FROM, Settings, VirtualCrops, fill

LAST_H = 168.0  # 28 segments of 6 h
VALIDATION_CLOCK = Clock("segments", frames=1, last_h=132.0)
DRAWN_AT_PX = 250  # frames, for crops up to 160 px; larger crops are cut from 500 px


def pupils_of(
    chosen: argparse.Namespace, seeds: range, clock: Clock, side_px: int, teacher: Teacher | None
) -> Iterator[Pupil]:
    """Embryos of these seeds, drawn where they are missing."""
    planes_um = tuple(sorted(chosen.planes))
    frame_px = DRAWN_AT_PX if side_px <= 160 else 500
    settings = Settings(clock, planes_um, side_px, WIDTH_IN_WELL_RADII, frame_px)
    for done in fill(settings, chosen.cache, list(seeds), chosen.workers):
        if done % 20 == 0 or done == len(seeds):
            print(f"drawn {done} of {len(seeds)} embryos from seed {seeds[0]}", flush=True)
    for seed in seeds:
        embryo = VirtualCrops(chosen.cache, seed, clock, side_px, planes_um, WIDTH_IN_WELL_RADII, frame_px)
        yield Pupil(embryo, targets_of(embryo, teacher))


def taught(chosen: argparse.Namespace, side_px: int, teacher: Teacher) -> list[Pupil]:
    """The embryos to learn from: whole clips, then early ones, which are drawn until `--early-last-hour` only.

    What fragments and uneven cells look like is learned from as many embryos, not frames, and early ones cost less. A
    whole one is there as often as its clip is longer, so that every drawn frame is equally likely.
    """
    whole = Clock("segments", frames=chosen.frames, last_h=chosen.last_hour)
    pupils = list(pupils_of(chosen, range(chosen.embryos), whole, side_px, teacher))
    if not chosen.early_embryos:
        return pupils
    seeds = range(chosen.embryos, chosen.embryos + chosen.early_embryos)
    early = replace(whole, last_h=chosen.early_last_hour)
    times = max(round(chosen.last_hour / chosen.early_last_hour), 1)
    return pupils * times + list(pupils_of(chosen, seeds, early, side_px, teacher))


def _embryos_of(pupils: Sequence[Pupil]) -> str:
    """`450 drawn embryos`, and how many of them only early on."""
    seen = {pupil.embryo.name: len(pupil.embryo.hours_h) for pupil in pupils}
    early = sum(frames < max(seen.values()) - 1 for frames in seen.values())  # one: first frames come at 1 to 5 h
    return f"{len(seen)} drawn embryos" + (f" ({early} of them early on only)" if early else "")


def _time_of(run: Run) -> str:
    """On a CPU the processor's own minutes: those of the wall say how busy the machine was."""
    if run.device.type == "cpu":
        return f"{run.busy_s / 60:.0f} core-minutes"
    return f"{run.spent_s / 60:.0f} min of {run.device.type} time"


def finish(run: Run, held_out: list[Pupil], begun_from: str | None = None) -> None:
    """Measure and calibrate on embryos that were not trained on; everything goes into the checkpoint.

    A run that was finished before and has learned nothing since is left alone: its temperature is in its weights.
    """
    kept = run.kept
    kept.model.to("cpu")
    if kept.calibration and kept.provenance.get("steps") == run.step:
        return
    kept.width_in_well_radii = WIDTH_IN_WELL_RADII
    kept.planes_um = run.pupils[0].embryo.planes_um
    found = {}
    if held_out:
        told = f"{len(held_out)} virtual embryos, seeds from {VALIDATION_SEEDS_FROM}"
        judged = validation.judge(kept, held_out, with_spread=True)
        found = {f"validation_{name}": value for name, value in validation.auc_by_day(judged).items()}
        validation.calibrate(kept, judged, told)
        if len(kept.planes_um) == validation.PLANES_TO_TAKE_FROM:
            cooled = [one.divided(kept.calibration["temperature"]) for one in judged]
            kept.stability = validation.stability(kept, cooled, told)
    kept.provenance = {
        "trained_on": f"virtual incubator only: {_embryos_of(run.pupils)}, {_time_of(run)}"
        + (f", gone on from {begun_from}" if begun_from else ""),
        "seed": run.seed,
        "steps": run.step,
        "date": date.today().isoformat(),
        "figures": {"validation_embryos": float(len(held_out)), **found},
    }
    run.save()
    for name, value in {**found, **kept.calibration, **kept.stability}.items():
        print(f"{name} {value}")


def _named(init: Path | None) -> str | None:
    """First weights as a manifest tells of them: an export by its name and version, another file by its name."""
    if init is None or init.suffix != ".json":
        return init.name if init else None
    told = json.loads(init.read_text())
    return f"{told['name']} {told['version']}"


def parser() -> argparse.ArgumentParser:
    """What the command line takes."""
    described = argparse.ArgumentParser(prog="python -m training.amsnet.train", description=__doc__.splitlines()[0])
    described.add_argument(
        "--recipe", choices=sorted(RECIPES), default="small", help="paper: ResNet-50, SGD, clips only"
    )
    described.add_argument("--embryos", type=int, default=240, help="drawn embryos to train on (seeds 0 .. n-1)")
    described.add_argument("--early-embryos", type=int, default=0, help="the next n seeds, drawn early on only")
    described.add_argument("--early-last-hour", type=float, default=84.0, help="of these")
    described.add_argument("--validation", type=int, default=80, help=f"embryos, seeds from {VALIDATION_SEEDS_FROM}")
    described.add_argument("--frames", type=int, default=2, help="drawn moments per 6-h segment")
    described.add_argument("--last-hour", type=float, default=LAST_H, help="of the drawn clips (168: 28 segments)")
    described.add_argument("--planes", type=_planes, default=PLANES_UM, help="um, 1, 3, 5 or 7: --planes=-15,0,15")
    described.add_argument("--input-px", type=int, help="of the crop; default: the backbone's own")
    described.add_argument("--steps", type=int, default=4000, help="optimiser steps, single frames and clips together")
    described.add_argument("--time-limit-min", type=float, default=0.0, help="minutes of optimiser steps; 0: no limit")
    described.add_argument("--rows", type=int, help="clips in a batch; default: the recipe's")
    described.add_argument("--rate", type=float, default=1.0, help="times the recipe's rates; less with --init")
    described.add_argument("--no-hours", action="store_true", help="leave the hour out, as the paper does")
    described.add_argument("--no-teacher", action="store_true", help="hard labels only")
    described.add_argument(
        "--init", type=Path, help="first weights: our checkpoint, the manifest of an export, or a ResNet state dict"
    )
    described.add_argument("--teacher-lives", type=int, default=4000, help="lives the teacher's odds are fitted to")
    described.add_argument("--seed", type=int, default=0)
    described.add_argument("--cache", type=Path, default=Path("training/cache"), help="of drawn stacks")
    described.add_argument("--out", type=Path, default=Path("training/runs"), help="checkpoint, losses, curves")
    described.add_argument("--name", default="amsnet-small")
    described.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    described.add_argument("--workers", type=int, default=2, help="processes that draw")
    described.add_argument("--threads", type=int, default=1, help="of torch on the CPU")
    described.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    described.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="bf16 pays on a GPU only")
    return described


def _planes(text: str) -> tuple[int, ...]:
    planes = tuple(sorted({int(word) for word in text.split(",")}))
    if len(planes) not in (1, 3, 5, 7) or not set(planes) <= set(PLANES_UM):
        raise argparse.ArgumentTypeError(f"{text!r}: 1, 3, 5 or 7 of {PLANES_UM}")
    return planes


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    chosen = parser().parse_args(arguments)
    if chosen.embryos < 1 or chosen.embryos + chosen.early_embryos > VALIDATION_SEEDS_FROM:
        print(f"--embryos and --early-embryos: 1 to {VALIDATION_SEEDS_FROM} together (validation seeds begin there)")
        return 2
    torch.set_num_threads(chosen.threads)
    recipe = RECIPES[chosen.recipe]
    recipe = replace(
        recipe,
        hours=recipe.hours and not chosen.no_hours,
        teacher_share=0.0 if chosen.no_teacher else recipe.teacher_share,
        clip_rows=chosen.rows or recipe.clip_rows,
        frame_lr=chosen.rate * recipe.frame_lr,
        clip_lr=chosen.rate * recipe.clip_lr,
    )
    side_px = chosen.input_px or BACKBONES[recipe.backbone].input_px
    config = AMSNetConfig(recipe.backbone, len(chosen.planes), side_px, hours=recipe.hours)
    teacher = Teacher(chosen.teacher_lives)
    train = taught(chosen, side_px, teacher)
    seeds = range(VALIDATION_SEEDS_FROM, VALIDATION_SEEDS_FROM + chosen.validation)
    held_out = list(pupils_of(chosen, seeds, VALIDATION_CLOCK, side_px, teacher)) if chosen.validation else []
    chosen.out.mkdir(parents=True, exist_ok=True)
    run = Run(
        recipe,
        config,
        train,
        Limits(chosen.steps, chosen.time_limit_min),
        chosen.out / f"{chosen.name}.pt",
        chosen.seed,
        chosen.resume,
        chosen.device,
        chosen.precision,
        chosen.init,
    )
    run.go_on()
    finish(run, held_out, _named(chosen.init))
    draw_curves(run.losses, run.path.with_name(f"{run.path.stem}-losses.png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())

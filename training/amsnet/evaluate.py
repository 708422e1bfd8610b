"""How well a trained AMSNet foretells, by a given day, which virtual embryos become blastocysts; in tables.

Does: draws the test embryos that nobody trains or tunes on, judges them offline and as a stream, and puts the answers
beside one who knows the truth so far and one who knows the hour and counts cells. Refuses to know training. What it
measures is a network on a drawing: virtual embryos are not patients.

    python -m training.amsnet.evaluate --weights training/runs/amsnet-small.pt --cache CACHE --out build/evaluation
    python -m training.amsnet.evaluate --weights ... --cache CACHE --out ... --embryos 40 --stream-embryos 4

Costs: 400 embryos of 28 stacks are about 10 minutes of drawing on one core, once. A streamed embryo is drawn at one
frame in 10 minutes within the window and at one in 6 h elsewhere: 136 stacks (6 s) for the 18 h from 60 to 78, where
all of its week would be 1,000.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from engines.load import Loaded, load_engine
from training.amsnet import checkpoint as checkpoints
from training.amsnet import metrics, plots, report
from training.amsnet.answers import Judged, answers_at, representatives
from training.amsnet.baselines import CellCounter
from training.amsnet.checkpoint import Checkpoint
from training.amsnet.export import export
from training.amsnet.metrics import DAYS, ROC_DAYS
from training.amsnet.predictions import offline
from training.amsnet.report import CEILING, COUNTER, OURS
from training.amsnet.stream_pass import Streamed, clip_to, compare, shifted_at_every_frame, stepped, stream
from training.amsnet.targets import Teacher
from training.datasets.clock import Clock
from training.datasets.cut import WIDTH_IN_WELL_RADII
from training.datasets.virtual import TEST_SEEDS_FROM, Settings, VirtualCrops, fill

TEST_EMBRYOS = 400
LAST_H = 168.0  # 28 segments of 6 h


def drawn(cache: Path, kept: Checkpoint, clock: Clock, seeds: range, workers: int) -> list[VirtualCrops]:
    """These embryos at the size and planes that the network takes, drawn where they are missing."""
    how = kept.preprocess()
    side_px, planes_um = int(how["width_px"]), tuple(how["planes_um"])
    width, frame_px = kept.width_in_well_radii or WIDTH_IN_WELL_RADII, 250 if side_px <= 160 else 500
    settings = Settings(clock, planes_um, side_px, width, frame_px)
    frames, started_s = len(clock.hours_h(seeds[0])) if seeds else 0, time.monotonic()
    for done in fill(settings, cache, seeds, workers) if seeds else ():
        spent_s = time.monotonic() - started_s
        print(f"\r{done} of {len(seeds)} embryos of about {frames} frames, {spent_s:.0f} s ", end="", flush=True)
    print()
    return [VirtualCrops(cache, seed, clock, side_px, planes_um, width, frame_px) for seed in seeds]


def judged_by(loaded: Loaded, embryo: VirtualCrops, hours: bool) -> Judged:
    """One embryo's answers on the first frame of each segment. The graph is what is shipped, and it is four times as
    fast as the network it was made of; that both say the same is shown on the streamed embryos."""
    at = representatives(embryo.hours_h)
    said = stepped(loaded, embryo, at, hours)
    return Judged(embryo.name, embryo.hours_h[at], said, embryo.reaches_blastocyst)


def answers_of(loaded: Loaded, embryos: Sequence[VirtualCrops], hours: bool, lives: int) -> dict[str, list[Judged]]:
    """The exported graph's answers, and those of the two comparisons (fitted on so many lives) at the same moments."""
    ours = [judged_by(loaded, embryo, hours) for embryo in embryos]
    found = {OURS: ours}
    predictors: dict[str, Teacher | CellCounter] = {
        CEILING: Teacher(lives),
        COUNTER: CellCounter.of_lives_nobody_draws(lives),
    }
    for name, predictor in predictors.items():
        found[name] = [
            Judged(one.name, one.hours_h, predictor.probability(embryo.life, one.hours_h), one.reaches)
            for one, embryo in zip(ours, embryos, strict=True)
        ]
    return found


def streamed_of(
    kept: Checkpoint, loaded: Loaded, embryo: VirtualCrops, window_h: tuple[float, float], hours: bool
) -> Streamed:
    """Both passes and the wrong cadence over one embryo."""
    at, end = representatives(embryo.hours_h), int(np.searchsorted(embryo.hours_h, window_h[1])) - 1
    return Streamed(
        hours_h=embryo.hours_h,
        right=stream(loaded, embryo, hours),
        wrong=shifted_at_every_frame(loaded, embryo, window_h, hours),
        clip=offline(kept, embryo, at, hours),
        at=at,
        end=end,
        clip_end=float(offline(kept, embryo, clip_to(embryo.hours_h, end), hours)[-1]),
        reaches=embryo.reaches_blastocyst,
    )


def draw_plots(out: Path, answers: report.Answers, days: Sequence[report.Day], streamed: Sequence[Streamed]) -> None:
    """roc.png, accuracy.png, reliability.png, and stream.png where there was a stream."""
    curves, bins = {}, {}
    for day in (one for one in days if one.day in ROC_DAYS and one.embryos):
        said = {name: answers_at(judged, 24 * day.day)[:2] for name, judged in answers.items()}
        curves[day.day] = {f"{name} ({day.auc[name].value:.3f})": metrics.roc_curve(*of) for name, of in said.items()}
        bins[day.day] = metrics.reliability(*said[OURS])
    plots.roc(curves, out / "roc.png")
    plots.reliability(bins, out / "reliability.png")
    rows = {name: [day.accuracy[name].value for day in days] for name in answers}
    plots.accuracy_over_time([day.day for day in days], rows, [day.embryos for day in days], out / "accuracy.png")
    if streamed:
        plots.cadences(streamed, out / "stream.png")


def parser() -> argparse.ArgumentParser:
    """What the command line takes."""
    described = argparse.ArgumentParser(prog="python -m training.amsnet.evaluate", description=__doc__.splitlines()[0])
    described.add_argument("--weights", type=Path, required=True, help="checkpoint that training.amsnet.train wrote")
    described.add_argument("--cache", type=Path, required=True, help="folder of drawn stacks")
    described.add_argument("--out", type=Path, required=True, help="folder for report.json, CSVs and pictures")
    described.add_argument("--embryos", type=int, default=TEST_EMBRYOS, help="the first n test embryos")
    described.add_argument("--first-seed", type=int, default=TEST_SEEDS_FROM, help="to try the command on others")
    described.add_argument("--last-hour", type=float, default=LAST_H, help="how long they are imaged (168: all 7 days)")
    described.add_argument("--no-hours", action="store_true", help="hide the hour since insemination from the network")
    described.add_argument("--lives", type=int, default=4000, help="that the two comparisons are fitted on")
    described.add_argument("--rounds", type=int, default=1000, help="of the bootstrap")
    described.add_argument("--stream-embryos", type=int, default=40, help="the first n also as a stream; 0: none")
    described.add_argument("--stream-window", type=_window, default=(60.0, 78.0), help="FROM:TO hours, every frame")
    described.add_argument("--stream-minutes", type=float, default=10.0, help="between two frames of the window")
    described.add_argument("--engine", type=Path, help="manifest of the exported graph; else exported into --out")
    described.add_argument("--workers", type=int, default=2, help="processes that draw")
    described.add_argument("--threads", type=int, default=1, help="of torch")
    return described


def _window(text: str) -> tuple[float, float]:
    try:
        from_h, to_h = (float(word) for word in text.split(":"))
    except ValueError as fault:
        raise argparse.ArgumentTypeError(f"{text!r}: a window is FROM:TO in hours, as in 60:78") from fault
    if not 6 <= from_h < to_h <= LAST_H:
        raise argparse.ArgumentTypeError(f"{text!r}: a window lies between 6 and {LAST_H:g} h")
    return from_h, to_h


def main(arguments: list[str] | None = None) -> int:
    """Command line; 0, or 1 when stream and clip do not agree, 2 when what was asked cannot be judged."""
    chosen = parser().parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    kept = checkpoints.load(chosen.weights)
    if kept.width_in_well_radii is None and kept.provenance.get("steps"):
        print(f"{chosen.weights} was trained on whole wells; here crops around the embryo are judged", file=sys.stderr)
        return 2
    if chosen.stream_embryos and chosen.stream_window[1] > chosen.last_hour:
        print(
            f"no frame after {chosen.last_hour:g} h: end --stream-window before, or --stream-embryos 0", file=sys.stderr
        )
        return 2
    chosen.out.mkdir(parents=True, exist_ok=True)
    hours, seeds = not chosen.no_hours, range(chosen.first_seed, chosen.first_seed + chosen.embryos)
    clock = Clock("segments", last_h=chosen.last_hour)
    loaded = _engine_of(chosen, kept)
    answers = answers_of(loaded, drawn(chosen.cache, kept, clock, seeds, chosen.workers), hours, chosen.lives)
    days = [report.day_of(answers, day, chosen.rounds) for day in DAYS]
    areas = report.areas_of(answers, rounds=chosen.rounds)
    streamed = _streamed(chosen, kept, loaded, hours) if chosen.stream_embryos else []
    both = compare(streamed, chosen.stream_window, chosen.rounds) if streamed else None
    reaches = sum(one.reaches for one in answers[OURS])
    about = {
        "weights": chosen.weights.name,
        "state_id": checkpoints.state_id(kept),
        "embryos": chosen.embryos,
        "first_seed": chosen.first_seed,
        "reach_blastocyst": reaches,
        "imaged_until_h": chosen.last_hour,
        "hours_given": hours,
    }
    report.write_json(chosen.out / "report.json", about, days, areas, both)
    report.write_days(chosen.out / "days.csv", days)
    report.write_rates(chosen.out / "rates.csv", days)
    report.write_reliability(chosen.out / "reliability.csv", answers)
    report.write_answers(chosen.out / "answers.csv", answers)
    draw_plots(chosen.out, answers, days, streamed)
    print(f"{chosen.embryos} virtual embryos from seed {chosen.first_seed}, {reaches} become blastocysts")
    print(report.text_of(days, areas, both))
    return 0 if both is None or both.agrees else 1


def _engine_of(chosen: argparse.Namespace, kept: Checkpoint) -> Loaded:
    """The graph that is judged: the one given, or exported here. SystemExit for that of other weights."""
    manifest = chosen.engine or export(kept, chosen.out / "engine", "amsnet-evaluated")
    loaded = load_engine(manifest, "cpu", threads=1)
    if loaded.manifest.state_id != checkpoints.state_id(kept):
        raise SystemExit(f"{manifest} is not the export of {chosen.weights}")
    return loaded


def _streamed(chosen: argparse.Namespace, kept: Checkpoint, loaded: Loaded, hours: bool) -> list[Streamed]:
    from_h, to_h = chosen.stream_window
    clock = Clock("stream", chosen.stream_minutes / 60, last_h=chosen.last_hour, from_h=from_h, to_h=to_h)
    seeds = range(chosen.first_seed, chosen.first_seed + chosen.stream_embryos)
    embryos = drawn(chosen.cache, kept, clock, seeds, chosen.workers)
    return [streamed_of(kept, loaded, embryo, chosen.stream_window, hours) for embryo in embryos]


if __name__ == "__main__":
    sys.exit(main())

"""Virtual embryos beside real ones, to be looked at: `python -m monitor.simulator.sheet --real DATA --out DIR`.

It knows where the public pictures lie and which of them the drawing may be tuned on; it refuses to judge.
Without the pictures the virtual half is drawn alone, and a line says so.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from engines.locate import locate
from monitor.simulator import curves, focus
from monitor.simulator.curves import Frame
from monitor.simulator.draw import VirtualEmbryo
from monitor.simulator.life import PHASES
from monitor.simulator.optics import PLANES_UM

Gray = npt.NDArray[np.uint8]

DRAWN_PX = 500
_GAP_PX = 8
_CLOSE_UM = 88.0
_EACH = 6  # pictures of a phase on each half
_TUNING = {  # the drawing is tuned on these; all others are kept for the report
    "stork": ("23765483", "27002081", "32176207", "32898300", "33996213"),
    "nantes": ("AA83-7",),
}
_TUNING_STAGEGEN = 30
_STAGEGEN = {"t2": "2cell", "t4": "4cell", "t8": "8cell", "tM": "Morula", "tB": "Blastocyst", "tEB": "Blastocyst"}
_STORK = {"tSB": "1", "tB": "2", "tEB": "3"}  # first letter of its grades
_LAST_PHASE_H = 12.0  # how long after the last onset a phase is still looked at


@dataclass(frozen=True)
class Shown(Frame):
    """A frame and its caption."""

    caption: str


def _found(gray: Gray, caption: str) -> Shown:
    body = locate(gray).embryo
    return Shown(gray, (round(body.y_px), round(body.x_px)), caption)


def _centre_px(one: VirtualEmbryo, hpi_h: float) -> tuple[int, int]:
    x_px, y_px, _ = one.truth_at(hpi_h, DRAWN_PX).embryo
    return round(y_px), round(x_px)


def read_gray(path: Path) -> Gray:
    """(H, W) uint8 of a picture file; ValueError when it cannot be decoded."""
    gray = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if gray is None:
        raise ValueError(f"{path} is no picture that OpenCV can decode; fetch the data again")
    return np.asarray(gray, dtype=np.uint8)


def stork_stacks(data: Path, report: bool = False) -> dict[str, list[Path]]:
    """Embryo and grade -> its 7 plane files in order of `PLANES_UM`; the tuning embryos, or the others for a report."""
    index = data / "stork" / "index.csv"
    if not index.is_file():
        return {}
    with index.open(newline="") as file:
        grades = {row["embryo"]: row["grade"] for row in csv.DictReader(file)}
    wanted = [e for e in sorted(grades) if (e in _TUNING["stork"]) != report]
    return {f"{e} {grades[e]}": [data / "stork" / e / f"{e}_F{um}.jpg" for um in PLANES_UM] for e in wanted}


def nantes_frames(data: Path, phase: str, report: bool = False) -> list[tuple[str, Path]]:
    """Video and run -> middle-plane file, of all annotated frames of `phase`."""
    found = []
    for table in sorted((data / "nantes" / "embryo_dataset_annotations").glob("*_phases.csv")):
        video = table.name.removesuffix("_phases.csv")
        if (video in _TUNING["nantes"]) == report:
            continue
        with table.open(newline="") as file:
            spans = [(int(a), int(b)) for name, a, b in csv.reader(file) if name == phase]
        runs = {int(p.stem.rsplit("RUN", 1)[1]): p for p in (data / "nantes" / "embryo_dataset" / video).glob("*RUN*")}
        found += [(f"{video} {n}", runs[n]) for a, b in spans for n in range(a, b + 1) if n in runs]
    return found


def stagegen_frames(data: Path, phase: str, report: bool = False) -> list[tuple[str, Path]]:
    """Class and file of the generated pictures that show `phase`."""
    if phase not in _STAGEGEN:
        return []
    files = sorted((data / "stagegen" / _STAGEGEN[phase]).glob("*.png"))
    files = files[_TUNING_STAGEGEN:] if report else files[:_TUNING_STAGEGEN]
    return [(f"stagegen {p.stem}", p) for p in files]


def _spread(items: Sequence[tuple[str, Path]], count: int) -> list[tuple[str, Path]]:
    """`count` of `items`, evenly spaced."""
    chosen = sorted({round(i) for i in np.linspace(0, len(items) - 1, min(count, len(items)))}) if items else []
    return [items[i] for i in chosen]


def real_of(data: Path, phase: str, report: bool) -> list[Shown]:
    """At most `_EACH` real pictures of one phase, from every source that has some."""
    stork = [(k, files[3]) for k, files in stork_stacks(data, report).items() if k.split()[1][0] == _STORK.get(phase)]
    sources = [s for s in (nantes_frames(data, phase, report), stagegen_frames(data, phase, report), stork) if s]
    picked = [one for s in sources for one in _spread(s, max(_EACH // len(sources), 1))]
    return [_found(read_gray(path), caption) for caption, path in picked[:_EACH]]


@lru_cache(maxsize=64)
def embryo(seed: int) -> VirtualEmbryo:
    return VirtualEmbryo(seed, arrest_share=0.2)


def moment_h(one: VirtualEmbryo, phase: str, share: float) -> float | None:
    """An hour `share` (0 to 1) of the way through a phase; None when this embryo never shows it."""
    onsets_h = one.life.onsets_h
    if phase not in onsets_h:
        return None
    later = [h for h in onsets_h.values() if h > onsets_h[phase]]
    end_h = min([*later, one.life.frozen_after_h, onsets_h[phase] + (_LAST_PHASE_H if not later else 99.0)])
    return onsets_h[phase] + share * (end_h - onsets_h[phase])


def virtual_of(phase: str, first_seed: int, count: int = _EACH) -> list[Shown]:
    """The first `count` embryos from `first_seed` on that show `phase`, each at another share of it."""
    shown: list[Shown] = []
    seed = first_seed
    while len(shown) < count and seed < first_seed + 300:
        hour = moment_h(embryo(seed), phase, (0.15 + 0.37 * seed) % 1.0)
        if hour is not None:
            gray = embryo(seed).stack(hour, DRAWN_PX, planes_um=(0,))[0]
            shown.append(Shown(gray, _centre_px(embryo(seed), hour), f"seed {seed} {hour:.0f} h"))
        seed += 1
    return shown


def _thumbnail(shown: Shown, side_px: int, close: bool) -> Gray:
    gray = shown.gray[shown.window(_CLOSE_UM)] if close else shown.gray
    way = cv2.INTER_AREA if gray.shape[0] > side_px else cv2.INTER_LINEAR
    tile = np.array(cv2.resize(gray, (side_px, side_px), interpolation=way))
    cv2.putText(tile, shown.caption, (3, side_px - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.32, 255, 1, cv2.LINE_AA)
    return np.asarray(tile, dtype=np.uint8)


def _row(label: str, left: list[Shown], right: list[Shown], each: int, side_px: int, close: bool) -> Gray:
    """One row: a label, `each` virtual thumbnails, a gap, `each` real ones; what is missing stays black."""
    name = np.zeros((side_px, 60), np.uint8)
    cv2.putText(name, label, (4, side_px // 2), cv2.FONT_HERSHEY_SIMPLEX, 0.4, 255, 1, cv2.LINE_AA)
    halves = []
    for half in (left, right):
        tiles = [_thumbnail(one, side_px, close) for one in half[:each]]
        tiles += [np.zeros((side_px, side_px), np.uint8)] * (each - len(tiles))
        halves.append(np.hstack(tiles))
    return np.asarray(np.hstack([name, halves[0], np.full((side_px, _GAP_PX), 255, np.uint8), halves[1]]))


def phase_sheet(data: Path, phases: Iterable[str], side_px: int, close: bool, seed: int, report: bool) -> Gray:
    """All phases in the middle plane, virtual on the left and real on the right."""
    rows = [
        _row(phase, virtual_of(phase, seed + 7 * i), real_of(data, phase, report), _EACH, side_px, close)
        for i, phase in enumerate(phases)
    ]
    return np.asarray(np.vstack(rows))


def plane_sheet(data: Path, side_px: int, seed: int, report: bool) -> Gray:
    """Blastocysts in all seven planes: a virtual row left of each real one."""
    reals = list(stork_stacks(data, report).items()) or [("", [])] * 5
    rows = []
    for i, (name, files) in enumerate(reals):
        phase = {"1": "tSB", "2": "tB"}.get(name.split()[1][0], "tEB") if name else ("tSB", "tB", "tEB")[i % 3]
        right = [_found(read_gray(p), f"{um} um") for p, um in zip(files, PLANES_UM, strict=False)]
        rows.append(_row(name.split()[-1] if name else "", _stack_of(phase, seed + 11 * i), right, 7, side_px, False))
    return np.asarray(np.vstack(rows))


def _stack_of(phase: str, seed: int) -> list[Shown]:
    hour = moment_h(embryo(seed), phase, 0.6)
    if hour is None:
        return _stack_of(phase, seed + 1)
    planes = embryo(seed).stack(hour, DRAWN_PX)
    return [
        Shown(plane, _centre_px(embryo(seed), hour), f"{um} um") for plane, um in zip(planes, PLANES_UM, strict=True)
    ]


def _grays_of(phase: str, seed: int) -> list[Gray]:
    return [plane.gray for plane in _stack_of(phase, seed)]


def speed_stacks_per_s(size_px: int, count: int, planes_um: tuple[int, ...] = PLANES_UM) -> tuple[float, float]:
    """Stacks drawn a second by one thread, over hours 5 to 140 of one embryo: by the clock, and by processor time."""
    one = VirtualEmbryo(3, arrest_share=0.0)
    one.stack(100.0, size_px)
    clock_s, processor_s = time.perf_counter(), time.process_time()
    for hour in np.linspace(5.0, 140.0, count):
        one.stack(float(hour), size_px, planes_um)
    return count / (time.perf_counter() - clock_s), count / (time.process_time() - processor_s)


def _speed_of_one(size_px: int, count: int, planes_um: tuple[int, ...]) -> tuple[float, float]:
    cv2.setNumThreads(1)  # one process a core, as training draws
    return speed_stacks_per_s(size_px, count, planes_um)


def _print_speed(processes: int) -> None:
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        list(pool.map(_speed_of_one, [112] * processes, [2] * processes, [(0,)] * processes))  # start and import
        for size_px, count in ((112, 60), (224, 40), (500, 15)):
            for planes_um in (PLANES_UM, (0,)):
                asked = ([size_px] * processes, [count] * processes, [planes_um] * processes)
                clock, processor = np.sum(list(pool.map(_speed_of_one, *asked)), axis=0)
                name = f"{len(planes_um)} x {size_px} x {size_px}, {processes} processes"
                print(f"{name}: {clock:.1f} stacks/s by the clock, {processor:.1f} by processor time")


def _pictures(data: Path, seed: int, report: bool) -> Mapping[str, Gray]:
    """All sheets by name; what they measure is printed."""
    sharp_real = [focus.detail_by_plane([read_gray(p) for p in files]) for files in stork_stacks(data, report).values()]
    sharp_drawn = [focus.detail_by_plane(_grays_of("tEB" if i % 2 else "tB", seed + 13 * i)) for i in range(_EACH)]
    print(focus.table({"virtual": sharp_drawn, "stork": sharp_real}))
    phases = ("tPNa", "t2", "t4", "t8", "tM", "tB", "tEB")
    real = {phase: real_of(data, phase, report) for phase in phases}
    drawn = {phase: virtual_of(phase, seed + 40) for phase in phases}
    groups = {f"{name} {p}": frames[p] for p in phases for name, frames in (("virtual", drawn), ("real", real))}
    print(curves.table(groups))
    return {
        "phases": phase_sheet(data, PHASES, 120, False, seed, report),
        "close_ups_early": phase_sheet(data, PHASES[:8], 200, True, seed, report),
        "close_ups_late": phase_sheet(data, PHASES[8:], 200, True, seed, report),
        "planes": plane_sheet(data, 120, seed, report),
        "curves": curves.chart(*([one for group in half.values() for one in group] for half in (drawn, real))),
        "focus": focus.chart(sharp_drawn, sharp_real),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m monitor.simulator.sheet", description=__doc__)
    parser.add_argument("--real", type=Path, default=Path("../shared/data"), help="folder with stork, nantes, stagegen")
    parser.add_argument("--out", type=Path, help="where the sheets are written, as PNG")
    parser.add_argument("--seed", type=int, default=0, help="first virtual embryo")
    parser.add_argument("--report", action="store_true", help="the real pictures kept from tuning, once a round")
    parser.add_argument("--speed", action="store_true", help="only measure how fast stacks are drawn")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="that draw at once, for --speed")
    args = parser.parse_args(argv)
    if args.speed:
        _print_speed(args.processes)
        return 0
    if args.out is None:
        parser.error("say where to write with --out DIR")
    absent = [name for name in ("stork", "nantes", "stagegen") if not (args.real / name).is_dir()]
    if absent:
        print(f"no {', '.join(absent)} under {args.real}: that part of the real half stays black")
    args.out.mkdir(parents=True, exist_ok=True)
    for name, picture in _pictures(args.real, args.seed, args.report).items():
        path = args.out / f"{name}.png"
        cv2.imwrite(str(path), picture)
        print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

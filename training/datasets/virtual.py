"""The virtual incubator as a data set: stacks drawn once, cut around the embryo, kept on disk, read back by memory map.

Does: names a cache folder by everything its pixels depend on (drawing, locator, clock, planes, size), fills it with a
pool of processes, goes on where a stopped filling ended, gives each embryo with its truth. Refuses to know: networks,
augmentation, real pictures.

    python -m training.datasets.virtual --cache DIR --seeds 0:300 --clock segments:3 --workers 2
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

import engines.locate
import monitor.simulator
from engines.locate import Circle, Located
from monitor.simulator import PLANES_UM, Life, VirtualEmbryo
from monitor.simulator.truth import MASKS, FrameTruth, frame_truth
from training.datasets import clock as clock_module
from training.datasets import cut as cut_module
from training.datasets.clock import Clock
from training.datasets.cut import SIDE_PX, WIDTH_IN_WELL_RADII, cut_masks, cut_stack
from training.datasets.embryo import Grades, Gray

TEST_SEEDS_FROM = 1_000_000  # never trained on, never tuned on; the first 400 are the test embryos
VALIDATION_SEEDS_FROM = 900_000
FRAME_PX = 250  # what is drawn before it is cut: 112 px of 1.45 well radii are then about 1.5 px each
_NOT_DRAWING = {  # what writes, tells or counts; a change there leaves every pixel as it was
    *("__init__.py", "curves.py", "faults.py", "folders.py", "incubator.py", "outlook.py", "plan.py", "samples.py"),
    *("sheet.py", "statistics.py", "truth.py"),
}
_FOUND = (
    *("well_x_px", "well_y_px", "well_radius_px", "embryo_x_px", "embryo_y_px", "embryo_radius_px"),
    *("well_confidence", "embryo_confidence"),
)


@lru_cache(maxsize=1)
def drawing_digest() -> str:
    """Short digest of the sources that decide a drawn pixel or a label."""
    digest = hashlib.sha256()
    for path in sorted(Path(monitor.simulator.__file__).parent.glob("*.py")):
        if path.name not in _NOT_DRAWING:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _cutting_digest() -> str:
    digest = hashlib.sha256()
    for module in (engines.locate, clock_module, cut_module):
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()[:12]


# as this process was started: a source that is changed while it runs does not change what it does
_CUTTING, _ = _cutting_digest(), drawing_digest()


@dataclass(frozen=True)
class Settings:
    """What a cached stack depends on, beside its seed and the sources of drawing, locator, clock and cut."""

    clock: Clock
    planes_um: tuple[int, ...] = PLANES_UM
    side_px: int = SIDE_PX
    width_in_well_radii: float = WIDTH_IN_WELL_RADII
    frame_px: int = FRAME_PX

    def __post_init__(self) -> None:
        if self.planes_um != tuple(sorted(set(self.planes_um) & set(PLANES_UM))) or not self.planes_um:
            raise ValueError(f"planes {self.planes_um} um: some of {PLANES_UM}, ascending")

    def folder(self, cache: Path) -> Path:
        """Below `cache`; another drawing, locator or setting gets another one, never a stale picture."""
        known = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode())
        known.update((drawing_digest() + _CUTTING).encode())
        return cache / f"virtual-{self.clock.kind}-{len(self.planes_um)}x{self.side_px}px-{known.hexdigest()[:12]}"


@dataclass(frozen=True)
class VirtualCrops:
    """A virtual embryo whose stacks (P, side_px, side_px) are cut around it; an `Embryo` of the source "virtual".

    What is not in the cache is drawn when it is first asked for, the whole embryo at once (about 60 ms a stack of seven
    planes): fill the cache with `fill` before a training.
    """

    cache: Path
    seed: int
    clock: Clock
    side_px: int = SIDE_PX
    planes_um: tuple[int, ...] = PLANES_UM
    width_in_well_radii: float = WIDTH_IN_WELL_RADII
    frame_px: int = FRAME_PX
    source: str = field(default="virtual", init=False)
    hours_known: bool = field(default=True, init=False)

    @cached_property
    def settings(self) -> Settings:
        return Settings(self.clock, self.planes_um, self.side_px, self.width_in_well_radii, self.frame_px)

    @property
    def name(self) -> str:
        return str(self.seed)

    @property
    def group(self) -> str:
        """Each virtual embryo is a couple of its own."""
        return str(self.seed)

    @cached_property
    def hours_h(self) -> npt.NDArray[np.float64]:
        """(T,) hours post insemination."""
        return self.clock.hours_h(self.seed)

    @cached_property
    def life(self) -> Life:
        return Life.sample(self.seed)

    @cached_property
    def phases(self) -> tuple[str | None, ...]:
        return tuple(self.life.phase_at(float(hpi_h)) for hpi_h in self.hours_h)

    @property
    def reaches_blastocyst(self) -> bool:
        return self.life.reaches_blastocyst

    @property
    def grades(self) -> Grades | None:
        """As at the last frame; None for an embryo that is no blastocyst by then."""
        expansion = self.life.expansion_at(float(self.hours_h[-1]))
        return Grades(expansion, self.life.icm_grade, self.life.te_grade) if expansion else None

    @cached_property
    def stacks(self) -> Gray:
        """(T, P, side_px, side_px) uint8, read-only: pages of the cache file, in memory only where they are touched."""
        draw_missing(self.settings, self.cache, self.seed)
        stacks: Gray = np.load(_pixels(self.settings.folder(self.cache), self.seed), mmap_mode="r")
        return stacks

    def stack(self, t: int) -> Gray:
        return np.asarray(self.stacks[t])

    @cached_property
    def _found(self) -> npt.NDArray[np.float64]:
        draw_missing(self.settings, self.cache, self.seed)
        found: npt.NDArray[np.float64] = np.load(_places(self.settings.folder(self.cache), self.seed))
        return found

    def located(self, t: int) -> Located:
        """Where the locator found well and embryo, in pixels of the frame that was drawn."""
        row = [float(value) for value in self._found[t]]
        return Located(Circle(*row[:3]), Circle(*row[3:6]), row[6], row[7])

    @property
    def embryo_confidence(self) -> npt.NDArray[np.float64]:
        """(T,) how sure the locator was of the embryo, 0 to 1."""
        return np.asarray(self._found[:, _FOUND.index("embryo_confidence")])

    @property
    def well_confidence(self) -> npt.NDArray[np.float64]:
        """(T,) how sure the locator was of the well, 0 to 1."""
        return np.asarray(self._found[:, _FOUND.index("well_confidence")])

    def truth(self, t: int) -> FrameTruth:
        """What is true of frame `t`; places in pixels of the crop. Drawn embryos only: real ones have no such thing."""
        truth = frame_truth(_embryo(self.seed), float(self.hours_h[t]), self.frame_px)
        found = self.located(t)
        scale = self.side_px / (self.width_in_well_radii * found.well.radius_px)

        def in_crop(x: npt.NDArray[np.float64], middle_px: float) -> npt.NDArray[np.float64]:
            return np.asarray((x - middle_px) * scale + (self.side_px - 1) / 2)

        cells = truth.cells.copy()
        cells[:, 0], cells[:, 1] = in_crop(cells[:, 0], found.middle.x_px), in_crop(cells[:, 1], found.middle.y_px)
        cells[:, 2] *= scale
        x, y, radius = truth.embryo
        x, y = (float(in_crop(np.array(at), of)) for at, of in ((x, found.middle.x_px), (y, found.middle.y_px)))
        return replace(truth, cells=cells, embryo=(x, y, radius * scale))

    def masks(self, t: int) -> dict[str, Gray] | None:
        """As the public sets mark a blastocyst, in the crop; None before there is one."""
        if not self.life.expansion_at(float(self.hours_h[t])):
            return None
        drawn = _embryo(self.seed).masks(float(self.hours_h[t]), self.frame_px)
        whole = {part: drawn[part].astype(np.uint8) * np.uint8(255) for part in MASKS}
        return cut_masks(whole, self.located(t), self.side_px, self.width_in_well_radii)


@lru_cache(maxsize=4)
def _embryo(seed: int) -> VirtualEmbryo:
    return VirtualEmbryo(seed)


def _pixels(folder: Path, seed: int) -> Path:
    return folder / f"{seed}.npy"


def _places(folder: Path, seed: int) -> Path:
    return folder / f"{seed}.found.npy"


def draw_missing(settings: Settings, cache: Path, seed: int) -> int:
    """Draw, cut and keep one embryo unless it is there; places first, pixels last and by renaming. Gives the seed."""
    folder = settings.folder(cache)
    if _pixels(folder, seed).exists():
        return seed
    folder.mkdir(parents=True, exist_ok=True)
    embryo, hours_h = VirtualEmbryo(seed), settings.clock.hours_h(seed)
    stacks = np.empty((len(hours_h), len(settings.planes_um), settings.side_px, settings.side_px), np.uint8)
    places = np.empty((len(hours_h), len(_FOUND)))
    for t, hpi_h in enumerate(hours_h):
        drawn = embryo.stack(float(hpi_h), settings.frame_px, settings.planes_um)
        stacks[t], found = cut_stack(drawn, settings.planes_um, settings.side_px, settings.width_in_well_radii)
        circles = [(one.x_px, one.y_px, one.radius_px) for one in (found.well, found.embryo)]
        places[t] = (*circles[0], *circles[1], found.well_confidence, found.embryo_confidence)
    put(_places(folder, seed), places)
    put(_pixels(folder, seed), stacks)
    return seed


def put(path: Path, array: npt.NDArray[np.generic]) -> None:
    """A hidden name, then a rename: a stopped drawing leaves nothing that looks whole."""
    unfinished = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        np.save(unfinished, array)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def one_thread_each() -> None:
    cv2.setNumThreads(1)  # the pool already uses one process per core


def fill(settings: Settings, cache: Path, seeds: Sequence[int], workers: int) -> Iterator[int]:
    """Draw what is missing with `workers` processes; yields how many of `seeds` are there, at first and after each.

    RuntimeError when the sources of the drawing were changed since this process was started.
    """
    folder = settings.folder(cache)
    missing = [seed for seed in seeds if not _pixels(folder, seed).exists()]
    done = len(seeds) - len(missing)
    yield done
    if not missing:
        return
    folder.mkdir(parents=True, exist_ok=True)
    told = {**asdict(settings), "drawing": drawing_digest(), "found": _FOUND}
    (folder / "settings.json").write_text(json.dumps(told, indent=2) + "\n")
    # spawned, not forked: torch's threads do not survive a fork
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=one_thread_each)
    try:
        for drawn in as_completed([pool.submit(draw_missing, settings, cache, seed) for seed in missing]):
            if not _pixels(folder, drawn.result()).exists():  # it is in the folder of another drawing
                raise RuntimeError("the sources of the drawing were changed while it ran: give the command again")
            done += 1
            yield done
    finally:
        pool.shutdown(cancel_futures=True)


def seed_range(text: str) -> range:
    """`0:300` -> 0 .. 299."""
    first, colon, end = text.partition(":")
    if not (colon and first.isdigit() and end.isdigit() and int(first) < int(end)):
        raise argparse.ArgumentTypeError(f"{text!r}: seeds are FIRST:END, the end not included, as in 0:300")
    return range(int(first), int(end))


def _clock(text: str) -> Clock:
    try:
        return Clock.read(text)
    except ValueError as fault:
        raise argparse.ArgumentTypeError(str(fault)) from fault


def _planes(text: str) -> tuple[int, ...]:
    try:
        return Settings(Clock("every"), tuple(sorted(int(word) for word in text.split(",")))).planes_um
    except ValueError as fault:
        raise argparse.ArgumentTypeError(str(fault)) from fault


def parser() -> argparse.ArgumentParser:
    """What the command line takes."""
    described = argparse.ArgumentParser(
        prog="python -m training.datasets.virtual", description="Fill a cache of drawn, cropped stacks."
    )
    described.add_argument("--cache", type=Path, required=True, help="folder; a folder of its own for each setting")
    described.add_argument("--seeds", type=seed_range, required=True, help="FIRST:END, the end not included")
    described.add_argument("--clock", type=_clock, default=Clock("every"), help="hourly, every:0.5, segments:3, ...")
    described.add_argument("--planes", type=_planes, default=PLANES_UM, help="um, as in --planes=-15,0,15; all seven")
    described.add_argument("--side-px", type=int, default=SIDE_PX)
    described.add_argument("--width", type=float, default=WIDTH_IN_WELL_RADII, help="of the crop, in well radii")
    described.add_argument("--workers", type=int, default=2, help="processes that draw")
    return described


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    chosen = parser().parse_args(arguments)
    settings = Settings(chosen.clock, chosen.planes, chosen.side_px, chosen.width)
    frames = len(chosen.clock.hours_h(chosen.seeds[0]))
    gb = len(chosen.seeds) * frames * len(settings.planes_um) * settings.side_px**2 / 1e9
    print(f"{settings.folder(chosen.cache)}: {len(chosen.seeds)} embryos of about {frames} frames, {gb:.2f} GB")
    there, started_s = None, time.monotonic()
    for done in fill(settings, chosen.cache, chosen.seeds, chosen.workers):
        there = done if there is None else there
        spent_s = time.monotonic() - started_s
        left = f", {(len(chosen.seeds) - done) * spent_s / (done - there) / 60:.0f} min left" if done > there else ""
        print(f"\r{done} of {len(chosen.seeds)} embryos, {spent_s:.0f} s{left}   ", end="", flush=True)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())

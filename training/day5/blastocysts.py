"""Drawn blastocysts of day 5, each at one moment: which seeds at which hour, and their squares kept on disk.

Does: chooses moments between 100 and 130 hpi so that every expansion is there, draws all seven planes, cuts the square
that the monitor would cut, keeps picture, parts and place; goes on where a stopped drawing ended. Refuses to know:
networks, augmentation, real pictures.

    python -m training.day5.blastocysts --cache DIR --count 900 --workers 2
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, astuple, dataclass
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from engines import blastocyst, day5, locate, pieces, square, still
from engines.blastocyst import Ellipse, Found, find_in_well, sharpest_plane
from engines.day5 import EXPANSIONS, Gardner, Labels, from_life, label_image
from engines.preprocess import nearest_plane_um
from engines.square import SIDE_PX, Gray, Square
from monitor.simulator import PLANES_UM, Life, VirtualEmbryo
from monitor.simulator.optics import FIELD_UM
from training.datasets.virtual import (
    TEST_SEEDS_FROM,
    VALIDATION_SEEDS_FROM,
    drawing_digest,
    one_thread_each,
    put,
)

FIRST_H, LAST_H = 100.0, 130.0  # around the check of day 5 at 116 +- 2 h
TEST_EMBRYOS = 400  # seeds from TEST_SEEDS_FROM on that no training of the project ever sees
NO_BLASTOCYST_SHARE = 1 / 8  # a single moment without history must be told from a blastocyst by the networks
_ROOM = 1.45  # of the well's radius, where the monitor would find no embryo: it would say so, a training looks on


@dataclass(frozen=True)
class Moment:
    """One virtual embryo at one hour. `expansion` 1 to 6 of Gardner's scale, 0 where it is no blastocyst then."""

    seed: int
    hpi_h: float
    expansion: int


def _cutting_digest() -> str:
    digest = hashlib.sha256()
    for module in (blastocyst, day5, locate, pieces, square, still):
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.hexdigest() + hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


# as this process was started: a source that is changed while it runs does not change what it does
_CUTTING = _cutting_digest()


@dataclass(frozen=True)
class Settings:
    """What a cached square depends on, beside its moment and the sources of drawing and cutting."""

    frame_px: int = 400  # .7 um a pixel: about one pixel of the crop is then one of the frame
    side_px: int = SIDE_PX
    planes_um: tuple[int, ...] = PLANES_UM

    def folder(self, cache: Path) -> Path:
        """Below `cache`; another drawing, cutting or setting gets another one, never a stale picture."""
        known = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode())
        known.update(drawing_digest().encode())
        known.update(_CUTTING.encode())
        return cache / f"day5-{len(self.planes_um)}x{self.side_px}px-{known.hexdigest()[:12]}"


@dataclass(frozen=True)
class Blastocyst:
    """One moment as drawn and cut: `planes` (P, side, side) uint8, `labels` (side, side) of `engines.day5.Part`."""

    moment: Moment
    settings: Settings
    cache: Path

    @cached_property
    def planes(self) -> Gray:
        """Read-only pages of the cache file; drawn now where the cache has not got it."""
        draw_missing(self.settings, self.cache, self.moment)
        planes: Gray = np.load(_path(self.settings.folder(self.cache), self.moment, "planes"), mmap_mode="r")
        return planes

    @cached_property
    def labels(self) -> Labels:
        draw_missing(self.settings, self.cache, self.moment)
        labels: Labels = np.load(_path(self.settings.folder(self.cache), self.moment, "labels"))
        return labels

    @cached_property
    def found(self) -> Found:
        """Where the monitor found it in the drawn frame; confidence 0 where it found nothing."""
        draw_missing(self.settings, self.cache, self.moment)
        x_px, y_px, width_px, *outline, confidence = (
            float(value) for value in np.load(_path(self.settings.folder(self.cache), self.moment, "place"))
        )
        return Found(Square(x_px, y_px, width_px, self.settings.side_px), Ellipse(*outline), confidence)

    @property
    def um_per_px(self) -> float:
        """Of the crop."""
        return self.found.square.step_px * FIELD_UM / self.settings.frame_px

    @property
    def best_plane(self) -> int:
        """Index of the plane that the monitor would call the sharpest, told from the crop."""
        where, outline = self.found.square, self.found.outline
        (x_px, y_px), step_px = where.points_to_crop(np.array([[outline.x_px, outline.y_px]]))[0], where.step_px
        half_px = outline.half_long_px / step_px, outline.half_short_px / step_px
        return sharpest_plane(self.planes, Found(where, Ellipse(x_px, y_px, *half_px, outline.angle_rad), 1.0))

    @property
    def gardner(self) -> Gardner:
        """The true grades at that hour; all None where it is no blastocyst."""
        life = Life.sample(self.moment.seed)
        return from_life(self.moment.expansion, life.icm_grade, life.te_grade)


def find(stack: Gray, planes_um: tuple[int, ...], side_px: int) -> Found:
    """Where day 5 looks in a stack (P, H, W), found in the plane nearest to 0 um; confidence 0 where nothing is."""
    frame = stack[planes_um.index(nearest_plane_um(0, planes_um))]
    found = find_in_well(frame, side_px)
    if isinstance(found, Found):
        return found
    place = locate.locate(frame)
    x_px, y_px, room_px = place.middle.x_px, place.middle.y_px, _ROOM * place.well.radius_px
    guess = Ellipse(x_px, y_px, room_px / 3, room_px / 3, 0.0)
    return Found(Square(x_px, y_px, room_px, side_px), guess, 0.0)


def hours_by_expansion(seed: int) -> dict[int, list[float]]:
    """Expansion -> hours of day 5 (each half hour, moved by up to as much) at which this embryo shows it.

    0: no blastocyst. Hours between tSB and tB are left out: some would grade that cavity 1, some not at all.
    """
    rng, life = np.random.default_rng((seed, 0xDA5)), Life.sample(seed)
    hours: dict[int, list[float]] = {}
    for start_h in np.arange(FIRST_H, LAST_H, 0.5):
        hpi_h = round(float(start_h + rng.uniform(0.0, 0.5)), 4)
        if life.expansion_at(hpi_h) or life.phase_at(hpi_h) != "tSB":
            hours.setdefault(life.expansion_at(hpi_h), []).append(hpi_h)
    return hours


def moments(first_seed: int, count: int, last_seed: int | None = None) -> list[Moment]:
    """`count` moments of as many embryos: an eighth no blastocyst, the others of all six expansions alike.

    Seeds are taken in order; one whose kinds are all filled is passed over. With `last_seed` (not included) the
    choice ends there, and the rarer expansions stay below their share. The same arguments give the same list.
    """
    none = round(count * NO_BLASTOCYST_SHARE)
    shares = np.array_split(np.arange(count - none), len(EXPANSIONS))
    open_places = {0: none, **{e: len(share) for e, share in zip(EXPANSIONS, shares, strict=True)}}
    chosen: list[Moment] = []
    seed = first_seed
    while any(open_places.values()) and (last_seed is None or seed < last_seed):
        hours = hours_by_expansion(seed)
        fitting = [expansion for expansion in hours if open_places[expansion]]
        if fitting:
            expansion = max(fitting, key=lambda e: (open_places[e], e))  # what is wanted most; of equals the rarest
            rng = np.random.default_rng((seed, 0xDA6))
            chosen.append(Moment(seed, float(rng.choice(hours[expansion])), expansion))
            open_places[expansion] -= 1
        seed += 1
    return chosen


def training_moments(count: int) -> list[Moment]:
    """Raises ValueError where the seeds of the validation embryos would be needed."""
    chosen = moments(0, count, VALIDATION_SEEDS_FROM)
    if len(chosen) < count:
        raise ValueError(f"{count} moments need more seeds than there are for training")
    return chosen


def validation_moments(count: int) -> list[Moment]:
    return moments(VALIDATION_SEEDS_FROM, count, TEST_SEEDS_FROM)


def test_moments(count: int = 200) -> list[Moment]:
    """At most `count` of the 400 fixed test embryos; hatched ones and early cavities are fewer than their share."""
    return moments(TEST_SEEDS_FROM, count, TEST_SEEDS_FROM + TEST_EMBRYOS)


def told(chosen: Sequence[Moment]) -> dict[str, dict[str, int]]:
    """How many there are of each class: for the log and the manifest."""
    lives = [Life.sample(moment.seed) for moment in chosen]
    grades = [from_life(m.expansion, life.icm_grade, life.te_grade) for m, life in zip(chosen, lives, strict=True)]
    counts = {
        "expansion": Counter(str(moment.expansion or "none") for moment in chosen),
        "icm": Counter(grade.icm.value for grade in grades if grade.icm),
        "te": Counter(grade.te.value for grade in grades if grade.te),
    }
    return {name: dict(sorted(counter.items())) for name, counter in counts.items()}


def named(settings: Settings) -> str:
    """The set for a manifest: which drawing, and which squares of it."""
    return f"virtual incubator, drawing {drawing_digest()}, squares {settings.folder(Path()).name}"


def _path(folder: Path, moment: Moment, what: str) -> Path:
    return folder / f"{moment.seed}-{round(moment.hpi_h * 3600)}.{what}.npy"


def draw_missing(settings: Settings, cache: Path, moment: Moment) -> Moment:
    """Draw, cut and keep one moment unless it is there; the planes come last and by renaming. Gives the moment."""
    folder = settings.folder(cache)
    if _path(folder, moment, "planes").exists():
        return moment
    folder.mkdir(parents=True, exist_ok=True)
    embryo = VirtualEmbryo(moment.seed)
    stack = embryo.stack(moment.hpi_h, settings.frame_px, settings.planes_um)
    found = find(stack, settings.planes_um, settings.side_px)
    where, marked = found.square, label_image(embryo.masks(moment.hpi_h, settings.frame_px))
    place = (where.x_px, where.y_px, where.width_px, *astuple(found.outline), found.confidence)
    put(_path(folder, moment, "place"), np.array(place))
    put(_path(folder, moment, "labels"), where.cut_labels(marked))
    put(_path(folder, moment, "planes"), np.stack([where.cut(plane) for plane in stack]))
    return moment


def fill(settings: Settings, cache: Path, chosen: Sequence[Moment], workers: int) -> Iterator[int]:
    """Draw what is missing with `workers` processes; yields how many are there, at first and after each."""
    folder = settings.folder(cache)
    missing = [moment for moment in chosen if not _path(folder, moment, "planes").exists()]
    done = len(chosen) - len(missing)
    yield done
    if not missing:
        return
    # spawned, not forked: torch's threads do not survive a fork
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=one_thread_each)
    try:
        for drawn in as_completed([pool.submit(draw_missing, settings, cache, moment) for moment in missing]):
            drawn.result()
            done += 1
            yield done
    finally:
        pool.shutdown(cancel_futures=True)


def drawn(cache: Path, chosen: Sequence[Moment], workers: int, settings: Settings | None = None) -> list[Blastocyst]:
    """All of them, drawn where they are missing, with a line now and then."""
    settings, started_s = settings or Settings(), time.monotonic()
    for done in fill(settings, cache, chosen, workers):
        if done % 50 == 0 or done == len(chosen):
            print(f"drawn {done} of {len(chosen)} squares, {time.monotonic() - started_s:.0f} s", flush=True)
    return [Blastocyst(moment, settings, cache) for moment in chosen]


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m training.day5.blastocysts", description="Fill a cache of drawn blastocysts of day 5."
    )
    parser.add_argument("--cache", type=Path, required=True, help="folder; a folder of its own for each drawing")
    parser.add_argument("--count", type=int, default=900, help="to train on; 60 to validate and 200 to test on join in")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw")
    chosen = parser.parse_args(arguments)
    for name, some in (
        ("train", training_moments(chosen.count)),
        ("validate", validation_moments(60)),
        ("test", test_moments()),
    ):
        print(f"{name}: {len(some)} squares, {told(some)}")
        drawn(chosen.cache, some, chosen.workers)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What goes wrong in a rehearsal, well by well: a script, the same for every run. It draws nothing and judges nothing.

What happens to the embryos themselves (arrest, direct and reverse cleavage) is in their lives: of those with a frame
each hour at the rates of the public tables, of those with one each ten minutes in turn, so that a few of them hold
each. The troubles here are those of pictures, lamps and dishes, alone and in pairs. Hours are post insemination.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from monitor.simulator import Life

WELLS = 12  # of one incubator
FIRST_SEED = 970_000  # far from every embryo that a model is trained, tuned or tested on
FIRST_H, LAST_H = 17.0, 132.0
TEN_MIN_LAST_H = 72.0  # cleavages are over: what a finer cadence is asked about

_NEXT_SEED = 980_000  # of those that are looked through for what is to happen
_TURN = ("nothing", "direct", "nothing", "reverse", "direct second", "both")

TroubleKind = Literal["dark", "blurred", "missing_planes", "lacking", "blank", "empty", "gap"]


@dataclass(frozen=True)
class Trouble:
    """Something wrong from `from_h` for `hours`."""

    kind: TroubleKind
    from_h: float
    hours: float

    def at(self, hpi_h: float) -> bool:
        return self.from_h <= hpi_h < self.from_h + self.hours


@dataclass(frozen=True)
class Well:
    """One embryo of the script, by its seed, and what goes wrong with its pictures alone."""

    number: int
    seed: int
    troubles: tuple[Trouble, ...] = ()


@dataclass(frozen=True)
class Scene:
    """One incubator of the script. `troubles` strike all of its wells at once."""

    name: str
    wells: tuple[Well, ...]
    every_min: float
    last_h: float
    troubles: tuple[Trouble, ...] = ()

    def hours(self) -> list[float]:
        count = int((self.last_h - FIRST_H) * 60 / self.every_min + 1e-9) + 1
        return [round(FIRST_H + k * self.every_min / 60, 6) for k in range(count)]

    def trouble_at(self, well: Well, hpi_h: float) -> tuple[TroubleKind, ...]:
        return tuple(one.kind for one in (*self.troubles, *well.troubles) if one.at(hpi_h))


def script(embryos: int, ten_min: int = 0) -> list[Scene]:
    """`embryos` with a frame each hour, twelve to an incubator, and `ten_min` more with one each ten minutes."""
    seeds = iter(range(FIRST_SEED, FIRST_SEED + embryos))
    scenes = [_scene(number, size, seeds) for number, size in enumerate(_sizes(embryos), 1)]
    chosen = _in_turn()
    for number, size in enumerate(_sizes(ten_min), 1):
        wells = tuple(Well(well, next(chosen)) for well in range(1, size + 1))
        scenes.append(Scene(f"ten{number}", wells, 10.0, TEN_MIN_LAST_H))
    return scenes


def _in_turn() -> Iterator[int]:
    """Seeds of lives in which nothing, a direct or a reverse cleavage, one in the second cycle, or both happen."""
    seed = _NEXT_SEED
    while True:
        for wanted in _TURN:
            while _happens(Life.sample(seed)) != wanted:
                seed += 1
            yield seed
            seed += 1


def _happens(life: Life) -> str:
    at = life.onsets_h
    second = "t3" in at and "t5" in at and at["t5"] - at["t3"] < 5 and not life.direct_cleavage
    reverse = any(ends_h - begins_h >= 1 for begins_h, ends_h in life.reverse_cleavage)
    if life.frozen_after_h < TEN_MIN_LAST_H or (second and reverse):
        return "something else"
    if life.direct_cleavage:
        return "both" if reverse else "direct"
    return "direct second" if second else "reverse" if reverse else "nothing"


def _sizes(embryos: int) -> list[int]:
    return [min(WELLS, embryos - begun) for begun in range(0, embryos, WELLS)]


def _scene(number: int, size: int, seeds: Iterator[int]) -> Scene:
    shift_h = 5.0 * (number % 4)  # not every incubator's trouble at one hour of the embryos' lives
    wells = tuple(Well(well, next(seeds), _of_well(well, shift_h)) for well in range(1, size + 1))
    return Scene(f"inc{number}", wells, 60.0, LAST_H, _of_all(number, shift_h))


def _of_well(well: int, shift_h: float) -> tuple[Trouble, ...]:
    """Wells 1 to 5 are left alone; 6 has trouble too short to be told; the others one or two that are to be told."""
    troubles: dict[int, tuple[Trouble, ...]] = {
        6: (Trouble("dark", 40 + shift_h, 1), Trouble("blurred", 70 + shift_h, 2)),
        7: (Trouble("dark", 30 + shift_h, 8),),
        8: (Trouble("missing_planes", 50 + shift_h, 8),),
        9: (Trouble("empty", 90 + shift_h, LAST_H),),
        10: (Trouble("blank", 60 + shift_h, 8),),
        11: (Trouble("blurred", 25 + shift_h, 7), Trouble("lacking", 80 + shift_h, 7)),
        12: (Trouble("missing_planes", 35 + shift_h, 12), Trouble("empty", 41 + shift_h, 10)),
    }
    return troubles.get(well, ())


def _of_all(number: int, shift_h: float) -> tuple[Trouble, ...]:
    if number % 3 == 1:  # the camera's lamp goes out for everybody
        return (Trouble("dark", 64 + shift_h, 8),)
    return (Trouble("gap", 100 + shift_h, 5),) if number % 3 == 2 else ()

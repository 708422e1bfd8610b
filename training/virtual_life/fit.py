"""Fits the chain of intervals to the public tables, phase by phase, with arrests and skips in force.

For each phase the knots of its interval are moved until the percentiles of those who show both ends are the table's.
How much of the pace so far carries over, and by how much of their own sampling error the intervals are taken longer
than the table's (its medians do not add up to those of the onsets), are the values of a grid that bring onsets and
intervals nearest to the tables together. Run `python -m training.virtual_life.fit`; it prints what
`monitor/simulator/timing.py` holds.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np

from monitor.simulator.chance import Chance
from monitor.simulator.fate import DIVISIONS, TIMED, draw_fate
from monitor.simulator.tables import INTERVAL_H, INTERVAL_PERCENT, ONSET_H, ONSET_PERCENT, ONSET_VIDEOS
from monitor.simulator.timing import INDEX, KNOT_Z, Carry, Draws, Knots, chain_h

ORDER = ("tPB2", "tPNa", "tPNf", "t2", "t3", "t4", "t5", "t8", "t6", "t7", "t9+", "tM", "tSB", "tB", "tEB")
SINCE = {later: earlier for earlier, later in INTERVAL_H}
WITHIN = ("t6", "t7")  # timed as a share of the span between two others
# How much of the vigour shows in each interval: ours, small where it would make those that get far too fast.
OF_VIGOUR = {"tPB2": 0.1, "tPNa": 0.1, "t9+": 0.3, "tM": 0.2, "tSB": 0.15, "tB": 0.1, "tEB": 0.1}
OF_VIGOUR_ELSE = 0.25
PACE = {"tPB2": 0.0, "tPNa": 0.45, "tPNf": 0.45}  # their intervals are in no table: onsets alone do not tell
PACES = (-0.8, -0.6, -0.45, -0.3, -0.15, 0.0, 0.15, 0.3, 0.45, 0.6, 0.75)
LONGER = (0.0, 0.4, 0.8, 1.2, 1.6)  # sampling errors
TURNS = 8
LEAST = 0.02  # no knot lies lower


@dataclass(frozen=True)
class Model:
    """What is fitted so far, and first guesses of the rest."""

    knots_h: dict[str, Knots]
    carry: dict[str, Carry]

    def changed(self, phase: str, knots_h: list[float], carry: Carry) -> Model:
        return Model({**self.knots_h, phase: tuple(round(float(k), 3) for k in knots_h)}, {**self.carry, phase: carry})


class Sample:
    """`count` fates as arrays, one row per embryo."""

    def __init__(self, count: int, seed: int) -> None:
        fates = [draw_fate(Chance(seed + i, 0x11FE), arrest_share=0.36) for i in range(count)]
        self.draws = Draws.of(fates)
        self._last = np.array([TIMED.index(fate.last) for fate in fates])

    def shown(self, phase: str) -> np.ndarray:
        reached = self._last >= INDEX[phase]
        return reached & ~self.draws.hidden[:, DIVISIONS.index(phase)] if phase in DIVISIONS else reached

    def onsets_h(self, model: Model, phase: str) -> np.ndarray:
        """Of those that show `phase`."""
        return chain_h(self.draws, model.knots_h, model.carry)[self.shown(phase), INDEX[phase]]

    def intervals_h(self, model: Model, phase: str) -> np.ndarray:
        """Of those that show both ends and do not cleave directly."""
        hours = chain_h(self.draws, model.knots_h, model.carry)
        both = self.shown(phase) & self.shown(SINCE[phase]) & ~self.draws.direct
        return hours[both, INDEX[phase]] - hours[both, INDEX[SINCE[phase]]]


def first_knots(phase: str) -> list[float]:
    """At `KNOT_Z`, from the table's percentiles; where it has three, those between by geometric means if skewed."""
    if phase in WITHIN:
        return list(np.interp(KNOT_Z, (-3.0, 0.0, 3.0), (0.05, 0.4, 0.9)))
    if phase not in SINCE:
        p5, p25, p50, p75, p95 = ONSET_H[phase]
    else:
        p5, p50, p95 = INTERVAL_H[(SINCE[phase], phase)]
        if p95 / p50 < 2:
            p25, p75 = p50 + 0.41 * (p5 - p50), p50 + 0.41 * (p95 - p50)
        else:
            p25, p75 = p50 * (p5 / p50) ** 0.41, p50 * (p95 / p50) ** 0.41
    return [max(p5 - 0.6 * (p25 - p5), 0.15 * p5), p5, p25, p50, p75, p95, p95 + 0.5 * (p95 - p75)]


def moved(phase: str, knots_h: list[float], sample: Sample, model: Model, longer: float) -> list[float]:
    """The knots one step nearer to the table."""
    if phase in WITHIN:
        step = (ONSET_H[phase][2] - float(np.median(sample.onsets_h(model, phase)))) / 8
        return [min(max(k + step, LEAST), 0.95) for k in knots_h]
    new = list(knots_h)
    if phase not in SINCE:
        have, want, at = np.percentile(sample.onsets_h(model, phase), ONSET_PERCENT), ONSET_H[phase], (1, 2, 3, 4, 5)
    else:
        share = np.array(INTERVAL_PERCENT) / 100
        share = share - longer * np.sqrt(share * (1 - share) / ONSET_VIDEOS)
        have = np.percentile(sample.intervals_h(model, phase), np.clip(100 * share, 0.5, 99))
        want, at = INTERVAL_H[(SINCE[phase], phase)], (1, 3, 5)
    for k, found, wanted in zip(at, have, want, strict=True):
        new[k] = max(new[k] + 0.7 * (wanted - float(found)), LEAST)
    if phase in SINCE:  # what lies between and beyond keeps its proportion
        low, high = ((knots_h[k + 1] - knots_h[k]) / (knots_h[k + 2] - knots_h[k]) for k in (1, 3))
        new[2], new[4] = new[1] + low * (new[3] - new[1]), new[3] + high * (new[5] - new[3])
        new[0], new[6] = max(0.6 * new[1], LEAST), new[5] + 0.5 * (new[5] - new[4])
    return [float(k) for k in np.maximum.accumulate(new)]


def misfit(phase: str, sample: Sample, model: Model) -> float:
    """Sum of squares of how far the table's percentiles lie from the sample's, in their own sampling errors."""
    pairs = [(sample.onsets_h(model, phase), ONSET_H[phase], ONSET_PERCENT)]
    if phase in SINCE:
        pairs.append((sample.intervals_h(model, phase), INTERVAL_H[(SINCE[phase], phase)], INTERVAL_PERCENT))
    total = 0.0
    for hours, table_h, percent in pairs:
        videos = ONSET_VIDEOS * len(hours) / len(sample.draws.vigour)
        for p, h in zip(percent, table_h, strict=True):
            total += (float((hours < h).mean()) - p / 100) ** 2 / (p / 100 * (1 - p / 100) / videos)
    return total


def fitted(phase: str, sample: Sample, model: Model, pace: float, longer: float) -> Model:
    """`model` with the knots of one phase fitted at one point of the grid."""
    carry = (pace, OF_VIGOUR.get(phase, OF_VIGOUR_ELSE))
    model = model.changed(phase, first_knots(phase), carry)
    for _ in range(TURNS):
        model = model.changed(phase, moved(phase, list(model.knots_h[phase]), sample, model, longer), carry)
    return model


def main() -> None:
    """Fit all phases in their order and print the constants."""
    parser = argparse.ArgumentParser(description="fit the hours of virtual embryos to the public tables")
    parser.add_argument("--embryos", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=1_000_000, help="of the first; far from those that others look at")
    arguments = parser.parse_args()
    sample = Sample(arguments.embryos, arguments.seed)
    model = Model({p: tuple(first_knots(p)) for p in ORDER}, {p: (0.0, OF_VIGOUR.get(p, 0.25)) for p in ORDER})
    for phase in ORDER:
        grid = [(PACE[phase], 0.0)] if phase in PACE else [
            (pace, longer) for pace in PACES for longer in (LONGER if phase in SINCE else (0.0,))
        ]  # fmt: skip
        tried = [fitted(phase, sample, model, *point) for point in grid]
        off = [misfit(phase, sample, one) for one in tried]
        model = tried[int(np.argmin(off))]
        print(f"# {phase}: {min(off):.1f} over {8 if phase in SINCE else 5} percentiles", flush=True)
    for name, values in (("KNOTS_H", model.knots_h), ("CARRY", model.carry)):
        print(f"{name} = {{", *(f'    "{phase}": {value},' for phase, value in values.items()), "}", sep="\n")


if __name__ == "__main__":
    main()

"""Fits the chain of intervals to the public tables, phase by phase, with arrests and skips in force.

For each phase: the knots of its interval are moved until the percentiles of those who show both ends are the table's;
how much of the pace so far carries over is the value of a grid that brings the onset's percentiles nearest to theirs.
Run: `python -m training.virtual_life.fit` (about a minute); paste what it prints into `monitor/simulator/timing.py`.
"""

from __future__ import annotations

import argparse
import math
import pprint

import numpy as np

from monitor.simulator.chance import Chance
from monitor.simulator.fate import DIVISIONS, TIMED, draw_fate
from monitor.simulator.tables import INTERVAL_H, INTERVAL_PERCENT, ONSET_H, ONSET_PERCENT
from monitor.simulator.timing import INDEX, KNOT_Z, SINCE, Carry, Draws, Knots, chain_h

WEAK = {"tPB2": 0.1, "tPNa": 0.1, "tPNf": 0.25, "t9+": 0.3, "tM": 0.2, "tSB": 0.15, "tB": 0.1, "tEB": 0.1}
PACE = {"tPB2": 0.0, "tPNa": 0.45, "tPNf": 0.45}  # their intervals are in no table: onsets alone do not tell
LONGER = (0.0, 0.4, 0.8, 1.2, 1.6)
ORDER = ("tPB2", "tPNa", "tPNf", "t2", "t3", "t4", "t5", "t8", "t6", "t7", "t9+", "tM", "tSB", "tB", "tEB")
PACES = (-0.8, -0.6, -0.45, -0.3, -0.15, 0.0, 0.15, 0.3, 0.45, 0.6, 0.75)


class Sample:
    """`count` fates as arrays, one row per embryo."""

    def __init__(self, count: int, seed: int) -> None:
        fates = [draw_fate(Chance(seed + i, 0x11FE), arrest_share=0.36) for i in range(count)]
        self.draws = Draws.of(fates)
        self.direct, self._hidden = self.draws.direct, self.draws.hidden
        self._last = np.array([TIMED.index(fate.last) for fate in fates])

    def shown(self, phase: str) -> np.ndarray:
        shown = self._last >= INDEX[phase]
        return shown & ~self._hidden[:, DIVISIONS.index(phase)] if phase in DIVISIONS else shown


def start_knots(phase: str) -> list[float]:
    """Percentiles of the table at `KNOT_Z`; where it has three, those between by geometric means."""
    if phase in ("t6", "t7"):
        low, high = (0.05, 0.9) if phase == "t6" else (0.05, 0.92)
        return list(np.interp(KNOT_Z, [-3.0, 0.0, 3.0], [low, 0.4, high]))
    if phase not in SINCE:
        p5, p25, p50, p75, p95 = ONSET_H[phase]
    else:
        p5, p50, p95 = INTERVAL_H[(SINCE[phase], phase)]
        p25, p75 = p50 * (p5 / p50) ** 0.41, p50 * (p95 / p50) ** 0.41
        if p95 / p50 < 2 or phase == "t9+":
            p25, p75 = p50 + 0.41 * (p5 - p50), p50 + 0.41 * (p95 - p50)
    return [max(p5 - 0.6 * (p25 - p5), 0.15 * p5), p5, p25, p50, p75, p95, p95 + 0.5 * (p95 - p75)]


def off(hours: np.ndarray, table_h: tuple[float, ...], percent: tuple[int, ...], count: float) -> float:
    """Sum of squares of how far the table's percentiles lie from the sample's, in their own sampling errors."""
    found = [(hours < h).mean() - p / 100 for h, p in zip(table_h, percent, strict=True)]
    return float(sum(d * d / (p / 100 * (1 - p / 100) / count) for d, p in zip(found, percent, strict=True)))


def fit_phase(
    sample: Sample, phase: str, knots: dict[str, Knots], carry: dict[str, Carry], pace: float, longer: float
) -> tuple[float, list[float]]:
    """(misfit, knots) at one value of `pace`."""
    own, trial = start_knots(phase), {**carry, phase: (pace, WEAK.get(phase, 0.25))}
    shown = sample.shown(phase)
    bend = ((own[2] - own[1]) / (own[3] - own[1]), (own[4] - own[3]) / (own[5] - own[3]))
    between = INTERVAL_H.get((SINCE.get(phase, ""), phase))
    pairs = ()
    for _ in range(8):
        hours = chain_h(sample.draws, {**knots, phase: tuple(own)}, trial)
        at = hours[:, INDEX[phase]]
        if phase in ("t6", "t7"):
            want, have = ONSET_H[phase], np.percentile(at[shown], ONSET_PERCENT)
            step = (want[2] - have[2]) / 8
            own = [min(max(k + step, 0.02), 0.95) for k in own]
            continue
        if between is None:
            have = np.percentile(at[shown], ONSET_PERCENT)
            pairs = list(zip((1, 2, 3, 4, 5), have, ONSET_H[phase], strict=True))
        else:
            since = hours[:, INDEX[SINCE[phase]]]
            both = shown & sample.shown(SINCE[phase]) & ~sample.direct
            percent = [100 * (p / 100 - longer * (p / 100 * (1 - p / 100) / 82) ** 0.5) for p in INTERVAL_PERCENT]
            have = np.percentile((at - since)[both], np.clip(percent, 0.5, 99))
            pairs = list(zip((1, 3, 5), have, between, strict=True))
        for k, found, wanted in pairs:
            own[k] = max(own[k] + 0.7 * (wanted - float(found)), 0.02)
        own = list(np.maximum.accumulate(own))
        if between is not None:
            own[2] = own[1] + bend[0] * (own[3] - own[1])
            own[4] = own[3] + bend[1] * (own[5] - own[3])
            own[0], own[6] = max(0.6 * own[1], 0.02), own[5] + 0.5 * (own[5] - own[4])
    hours = chain_h(sample.draws, {**knots, phase: tuple(own)}, trial)
    at = hours[:, INDEX[phase]]
    misfit = off(at[shown], ONSET_H[phase], ONSET_PERCENT, 82 * shown.mean())
    if between is not None:
        both = shown & sample.shown(SINCE[phase]) & ~sample.direct
        lag = (at - hours[:, INDEX[SINCE[phase]]])[both]
        misfit += off(lag, between, INTERVAL_PERCENT, 82 * both.mean())
    return misfit, own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--embryos", type=int, default=12000)
    parser.add_argument("--seed", type=int, default=1_000_000)
    arguments = parser.parse_args()
    sample = Sample(arguments.embryos, arguments.seed)
    knots = {phase: tuple(start_knots(phase)) for phase in ORDER}
    carry = {phase: (0.0, WEAK.get(phase, 0.25)) for phase in ORDER}
    for phase in ORDER:
        weak = WEAK.get(phase, 0.25)
        paces = [PACE[phase]] if phase in PACE else [p for p in PACES if p * p + weak * weak < 0.98]
        tried = [
            (*fit_phase(sample, phase, knots, carry, pace, longer), pace)
            for pace in paces
            for longer in (LONGER if phase in SINCE else (0.0,))
        ]
        misfit, own, pace = min(tried, key=lambda t: t[0] if math.isfinite(t[0]) else math.inf)
        knots[phase] = tuple(round(float(k), 3) for k in own)
        carry[phase] = (pace, weak)
        hours = chain_h(sample.draws, knots, carry)
        at = hours[sample.shown(phase), INDEX[phase]]
        print([round(float((at < h).mean()), 3) for h in ONSET_H[phase]], end=" ")
        print(f"{phase:5} misfit {misfit:7.2f} pace {pace:5.2f}", flush=True)
    print("KNOTS_H: Mapping[str, tuple[float, ...]] =", pprint.pformat(knots, sort_dicts=False, width=118))
    print("CARRY: Mapping[str, tuple[float, float]] =", pprint.pformat(carry, sort_dicts=False, width=118))


if __name__ == "__main__":
    main()

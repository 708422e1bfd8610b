"""Virtual embryos against the tables of the public videos: `python -m monitor.simulator.statistics` prints both.

A table's percentile is compared on the scale of shares: the share of virtual embryos below it has, when both come from
one population, the sampling error sqrt(p (1 - p) / n) of the n videos behind the table. That needs no shape of the
distribution and no assumption about its tails. It refuses to know pictures.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from monitor.simulator.life import Life
from monitor.simulator.outlook import outlook_auc
from monitor.simulator.tables import (
    INTERVAL_H,
    INTERVAL_PERCENT,
    ONSET_H,
    ONSET_PERCENT,
    ONSET_VIDEOS,
    REACHED,
    SHARE_VIDEOS,
    SKIPPED,
)

_TWO_SIDED_95 = 1.96


@dataclass(frozen=True)
class Row:
    """One figure of the tables beside that of the virtual embryos, both in `unit` (h or %).

    `errors`: how many of the table's own sampling errors lie between the two, on the scale of shares.
    """

    what: str
    unit: str
    table: float
    virtual: float
    errors: float

    @property
    def within(self) -> bool:
        """Whether the difference is one that sampling the videos alone makes in 19 of 20 figures."""
        return abs(self.errors) <= _TWO_SIDED_95


def _percentiles(
    what: str, virtual_h: Sequence[float], table_h: tuple[float, ...], percent: tuple[int, ...], videos: float
) -> Iterator[Row]:
    hours = np.array(virtual_h)
    for p, table in zip(percent, table_h, strict=True):
        error = (p / 100 * (1 - p / 100) / videos) ** 0.5
        below = float((hours < table).mean())
        yield Row(f"{what} p{p}", "h", table, float(np.percentile(hours, p)), (p / 100 - below) / error)


def onset_rows(lives: Sequence[Life]) -> list[Row]:
    """Percentiles of each onset among those that reach and show it."""
    rows: list[Row] = []
    for phase, table_h in ONSET_H.items():
        hours = [life.onsets_h[phase] for life in lives if phase in life.onsets_h]
        videos = ONSET_VIDEOS * REACHED.get(phase, 1.0)
        rows += _percentiles(phase, hours, table_h, ONSET_PERCENT, videos)
    return rows


def interval_rows(lives: Sequence[Life]) -> list[Row]:
    """Percentiles of the hours between two onsets among those that show both; without direct cleavages."""
    rows: list[Row] = []
    for (earlier, later), table_h in INTERVAL_H.items():
        both = [x.onsets_h for x in lives if not x.direct_cleavage and {earlier, later} <= x.onsets_h.keys()]
        videos = ONSET_VIDEOS * REACHED.get(earlier, 1.0) * REACHED[later] / _reached_beyond(earlier)
        rows += _percentiles(
            f"{later} - {earlier}", [h[later] - h[earlier] for h in both], table_h, INTERVAL_PERCENT, videos
        )
    return rows


def _reached_beyond(phase: str) -> float:
    """Share of the videos that get at least as far as `phase`, whether they show it or not."""
    phases = list(REACHED)
    return max(REACHED[later] for later in phases[phases.index(phase) :]) if phase in phases else 1.0


def share_rows(lives: Sequence[Life]) -> list[Row]:
    """Shares that show a phase, and that skip from one to the next but one."""
    rows = []
    follow = [set(pairwise(life.onsets_h)) for life in lives]
    found = {f"shows {phase}": (share, [phase in x.onsets_h for x in lives]) for phase, share in REACHED.items()}
    found |= {f"{a} -> {b}": (share, [(a, b) in pairs for pairs in follow]) for (a, b), share in SKIPPED.items()}
    for what, (share, shown) in found.items():
        error = (share * (1 - share) / SHARE_VIDEOS) ** 0.5
        virtual = float(np.mean(shown))
        rows.append(Row(what, "%", 100 * share, 100 * virtual, (virtual - share) / error))
    return rows


def compare(lives: Sequence[Life]) -> list[Row]:
    """Every figure of the tables, beside the same one of `lives`."""
    return onset_rows(lives) + interval_rows(lives) + share_rows(lives)


def _print_table(rows: Sequence[Row]) -> None:
    print(f"{'figure':18} {'tables':>8} {'virtual':>8} {'differ':>8}  sampling errors of the tables")
    for row in rows:
        mark = "" if row.within else "  outside"
        differ = row.virtual - row.table
        print(f"{row.what:18} {row.table:8.2f} {row.virtual:8.2f} {differ:+8.2f} {row.unit:1} {row.errors:+5.1f}{mark}")
    outside = [row.what for row in rows if not row.within]
    print(f"{len(outside)} of {len(rows)} figures outside of 1.96 sampling errors: {', '.join(outside) or 'none'}")


def _print_others(lives: Sequence[Life]) -> None:
    reach = [life for life in lives if life.reaches_blastocyst]
    fragments = np.percentile([life.fragmentation_ratio for life in lives], (5, 50, 95))
    print(f"do not reach tB {1 - len(reach) / len(lives):.3f}, ", end="")
    for name in ("direct_cleavage", "reverse_cleavage", "multinucleated", "vacuoles"):
        print(f"{name} {np.mean([bool(getattr(life, name)) for life in lives]):.3f}", end=", ")
    print(f"fragmentation p5/50/95 {fragments[0]:.2f}/{fragments[1]:.2f}/{fragments[2]:.2f}")
    print(f"of blastocysts: collapses {np.mean([bool(life.collapses) for life in reach]):.3f}, ", end="")
    print(f"hatch {np.mean([np.isfinite(life.hatching_h) for life in reach]):.3f}", end="")
    for grade in "ABC":
        icm, te = (np.mean([getattr(x, name) == grade for x in reach]) for name in ("icm_grade", "te_grade"))
        print(f", ICM {grade} {icm:.2f} TE {grade} {te:.2f}", end="")
    print()


def main() -> None:
    """Print the tables for `--embryos` lives, and how well their end could be told by `--outlook` others."""
    parser = argparse.ArgumentParser(description="virtual embryos against the tables of the public videos")
    parser.add_argument("--embryos", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the first embryo")
    parser.add_argument("--outlook", type=int, default=4000, help="embryos of the outlook; 0 leaves it out")
    arguments = parser.parse_args()
    lives = [Life.sample(arguments.seed + n) for n in range(arguments.embryos)]
    _print_table(compare(lives))
    _print_others(lives)
    if arguments.outlook:
        more = [Life.sample(arguments.seed + n) for n in range(arguments.outlook)]
        said = ", ".join(f"day {day} {outlook_auc(more, 24.0 * day):.3f}" for day in (1, 2, 3, 4, 5))
        print(f"ROC AUC for reaching tB, of a regression given the truth known by then: {said}")


if __name__ == "__main__":
    main()

"""What a virtual incubator will write, and when: one delivery per well and moment, before anything is drawn.

It refuses to know names of files, pixels and faults; those take deliveries and give deliveries back.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from monitor.simulator.optics import PLANES_UM


class Look(str, Enum):
    """What the camera sees."""

    EMBRYO = "embryo"
    EMPTY = "empty"  # the well without an embryo
    BLANK = "blank"  # no well: an even gray
    DARK = "dark"  # the lamp is out


@dataclass(frozen=True)
class Delivery:
    """What is written of one well at one moment.

    `well` and `run` (the number of the moment) count from 1. `at`: when the pictures are taken (UTC), `hpi_h` after
    insemination. `named_at`: what the incubator's clock says then. `due_at`: when the files appear. `cut_um`: planes
    whose files end early, after `cut_share` of their bytes. `twice_um`: planes of which a second file appears.
    """

    well: int
    run: int
    at: datetime
    hpi_h: float
    named_at: datetime
    due_at: datetime
    planes_um: tuple[int, ...] = PLANES_UM
    look: Look = Look.EMBRYO
    cut_um: tuple[int, ...] = ()
    cut_share: float = 0.5
    twice_um: tuple[int, ...] = ()


@dataclass(frozen=True)
class Schedule:
    """`wells` wells for `hours` from `start` (UTC), a moment each `every_min` minutes, the first `first_hpi_h` after
    insemination.
    """

    start: datetime
    wells: int
    hours: float
    every_min: float
    first_hpi_h: float = 0.0

    @property
    def moments(self) -> int:
        """How many times each well is looked at."""
        return int(self.hours * 60 / self.every_min + 1e-9) + 1

    @property
    def cadence(self) -> timedelta:
        return timedelta(minutes=self.every_min)

    def hpi_h(self, run: int) -> float:
        """Hours post insemination of the moment numbered `run`."""
        return round(self.first_hpi_h + (run - 1) * self.every_min / 60, 6)

    def deliveries(self, last_only: bool = False) -> list[Delivery]:
        """In the order in which they are written: all wells of a moment before the next. `last_only`: one moment."""
        planned = []
        for run in range(self.moments if last_only else 1, self.moments + 1):
            at = self.start + (run - 1) * self.cadence
            for well in range(1, self.wells + 1):
                planned.append(Delivery(well, run, at, self.hpi_h(run), named_at=at, due_at=at))
        return planned

"""Hours post insemination of a frame, and where the hour comes from. A time zero may be unknown: then so is the hour.

It knows configuration and moments; no pictures, no journal.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Literal

from monitor.config import read_insemination
from monitor.errors import ConfigError
from monitor.vocabulary import Moment, Place, elapsed_h

HpiSource = Literal["file", "config", "command", "assumed", "unknown"]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Age:
    """`hpi`: hours post insemination, None where unknown."""

    hpi: float | None
    source: HpiSource

    @property
    def told(self) -> float | None:
        """What a model is told: an hour that was only assumed (a day-5 check) is not known."""
        return None if self.source == "assumed" else self.hpi


class TimeZero:
    """The insemination times of one incubator: one time for all wells, a CSV of `dish,well,time`, or nothing.

    The CSV is read again when it changes, since dishes are loaded while the monitor runs. Raises ConfigError at the
    start; a file that becomes unreadable later is logged and its last good content is kept.
    """

    def __init__(
        self,
        insemination: datetime | Path | None,
        clock_skew_s: float = 0.0,
        stated_hpi: float | None = None,
        assumed_hpi: float | None = None,
    ) -> None:
        self._for_all = insemination.astimezone(timezone.utc) if isinstance(insemination, datetime) else None
        self._path = insemination if isinstance(insemination, Path) else None
        self._skew = timedelta(seconds=clock_skew_s)
        self._stated_hpi, self._assumed_hpi = stated_hpi, assumed_hpi
        self._wells: Mapping[tuple[str, str], datetime] = {}
        self._read_at: int | None = None
        self._fault = ""
        self._read()

    def refresh(self) -> None:
        """Read the CSV again if it has changed; a fault is tried again at every refresh, and said once."""
        try:
            self._read()
            self._fault = ""
        except ConfigError as fault:
            if str(fault) != self._fault:
                log.error("insemination times keep their last good content", extra={"fault": str(fault)})
            self._fault = str(fault)

    def _read(self) -> None:
        if self._path is None:
            return
        try:
            changed_at: int | None = (
                self._path.stat().st_mtime_ns
            )  # before the content: a change in between is not lost
        except OSError:
            changed_at = None  # reading says what is wrong
        if changed_at is None or changed_at != self._read_at:
            self._wells = read_insemination(self._path)
            self._read_at = changed_at

    def of(self, place: Place) -> datetime | None:
        """When the embryo in this well was inseminated, if the configuration says so."""
        return self._wells.get((place.dish, place.well), self._for_all)

    def as_dated(self, at: datetime) -> datetime:
        """A time of ours, as the incubator's clock tells it."""
        return at + self._skew

    def age(self, moment: Moment, insemination: datetime | None, by_command: bool = False) -> Age:
        """The hour of a frame, given the insemination its run counts from, and whether somebody has said that one."""
        if moment.hours is not None:
            return Age(round(moment.hours, 4), "file")
        if moment.at is not None and insemination is not None:
            source: HpiSource = "command" if by_command else "config"
            return Age(round(elapsed_h(moment.at - self._skew, insemination), 4), source)
        if self._stated_hpi is not None:
            return Age(self._stated_hpi, "command")
        if self._assumed_hpi is not None:
            return Age(self._assumed_hpi, "assumed")
        return Age(None, "unknown")

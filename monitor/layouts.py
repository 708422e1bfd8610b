"""How one maker's files are named: a path below the incubator's folder -> embryo, plane, moment. Presets and patterns.

It reads names (and, for the public Nantes set, the time file beside the pictures; where names hold no clock, the file's
own time); it opens no picture. A name that fits no pattern, or whose words could not stand in an MQTT topic, is refused
by a FrameError with the reason `name`.
"""

from __future__ import annotations

import csv
import logging
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path

from monitor.errors import ConfigError, FrameError
from monitor.vocabulary import FileSeen, Moment, Place, PlaneFile

log = logging.getLogger(__name__)

PICTURES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")
WORD = re.compile(r"(?!\.\.?\Z)[A-Za-z0-9._-]{1,64}\Z")
YEARS = range(1970, 2200)  # a dead clock battery says 1970; beyond these lie only names that hold no time
_PICTURE = r"\.(?i:jpe?g|png|tiff?|bmp)"

# hours of each frame number, from a file beside the pictures: (incubator folder, dish) -> {run: hours}
HoursFile = Callable[[Path, str], dict[int, float]]


@dataclass(frozen=True)
class Layout:
    """A pattern and what its groups leave open.

    Groups: `dish` and `plane` or nothing (then 0 um), `well` or nothing (then 1), `captured_at` or `run` or neither
    (one moment for each embryo), `slide` (what frame numbers count within) or nothing. `ignored` names files that
    belong to the set but are no frames. `stacked`: a file holds all planes, a page each. `file_clock`: the file's time
    tells when the frame was taken.
    """

    name: str
    pattern: re.Pattern[str]
    ignored: re.Pattern[str] | None = None
    hours_file: HoursFile | None = None
    assumed_hpi: float | None = None
    stacked: bool = False
    file_clock: bool = False

    def read(self, incubator: str, root: Path, file: FileSeen) -> PlaneFile | None:
        """The plane this file is (of a stack: its first page), None when it is no picture of ours.

        Raises FrameError with the reason `name`.
        """
        hidden = any(part.startswith(".") and part not in (".", "..") for part in file.path.split("/"))
        if hidden or not file.path.lower().endswith(PICTURES):  # hidden folders: snapshots, a desktop's trash
            return None
        if self.ignored is not None and self.ignored.match(file.path):
            return None
        match = self.pattern.fullmatch(file.path)
        if match is None:
            raise FrameError("name", f"{file.path[:200]!r} does not fit layout {self.name!r}")
        groups = match.groupdict()
        place = Place(incubator, _word(groups["dish"] or ""), _word(groups.get("well") or "1"))
        moment = _moment(groups)
        if self.hours_file is not None and moment.run is not None:
            moment = replace(moment, hours=self.hours_file(root, place.dish).get(moment.run))
        if self.file_clock:
            moment = replace(moment, file_at=file.mtime.replace(microsecond=0))
        return PlaneFile(place, moment, _number(groups.get("plane") or "0"), file, page=0 if self.stacked else None)

    def planes_of(self, file: PlaneFile, planes_um: tuple[int, ...]) -> list[PlaneFile]:
        """The planes in a file that was read: itself, or a page for each declared plane in ascending order."""
        if not self.stacked:
            return [file]
        return [replace(file, plane_um=plane_um, page=page) for page, plane_um in enumerate(sorted(planes_um))]


def _word(text: str) -> str:
    if not WORD.match(text):
        raise FrameError("name", f"{text[:80]!r} may hold only A-Z a-z 0-9 . _ - (at most 64)")
    return text


def _number(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,9}", text):
        raise FrameError("name", f"{text[:80]!r} is not a number of at most 9 digits")
    return int(text)


def _moment(groups: dict[str, str | None]) -> Moment:
    if (stamp := groups.get("captured_at")) is not None:
        for form in ("%Y%m%dT%H%M%SZ", "%Y%m%d%H%M%S", "%Y-%m-%dT%H:%M:%SZ"):
            try:
                moment = datetime.strptime(stamp, form).replace(tzinfo=timezone.utc)
            except ValueError:
                continue
            if moment.year in YEARS:
                return Moment(captured_at=moment)
        raise FrameError("name", f"{stamp[:80]!r} is not a time like 20260131T061000Z")
    run = groups.get("run")
    return Moment(run=None if run is None else _number(run), slide=groups.get("slide"))


@lru_cache(maxsize=1024)
def _read_hours(path: Path, mtime_ns: int) -> dict[int, float]:
    """`frame_index,time` in hours; the index is the picture's RUN number (index 0 has no picture)."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            rows = csv.DictReader(lines)
            if not {"frame_index", "time"} <= set(rows.fieldnames or ()):
                raise ValueError(f"its first line is {rows.fieldnames}")
            return {int(row["frame_index"]): _hours(row["time"]) for row in rows}
    except (KeyError, TypeError, ValueError, csv.Error) as fault:
        log.error("a time file does not read: its hours are unknown", extra={"path": str(path), "fault": repr(fault)})
        return {}


def _hours(text: str) -> float:
    hours = float(text)
    if not math.isfinite(hours):
        raise ValueError(f"{text!r} is no hour")
    return hours


def nantes_hours(root: Path, video: str) -> dict[int, float]:
    """Hours of each RUN of a video of the public set, empty where it has no time file (never index x constant).

    Raises OSError when the share is away: such hours are not unknown, only not to be had now.
    """
    path = root / "embryo_dataset_time_elapsed" / f"{video}_timeElapsed.csv"
    try:
        stamp = path.stat().st_mtime_ns
    except FileNotFoundError:
        return {}
    return _read_hours(path, stamp)


_TIME = r"(?P<captured_at>\d{8}T\d{6}Z)"
# an EmbryoScope's export; date, slide and instrument name the dish, whatever the folder is called
_SLIDE = r"(?P<slide>D\d{4}\.\d\d\.\d\d_S\d{1,9}_I\d{1,9})(?:_P)?"
PRESETS = {
    "generic": Layout(
        "generic", re.compile(rf"(?P<dish>[^/]+)/(?P<well>[^/]+)/{_TIME}_F(?P<plane>-?\d{{1,3}}){_PICTURE}", re.ASCII)
    ),
    # the set's own defect: 211 videos carry a second copy of their frames in a folder F0/ of their own
    "nantes": Layout(
        "nantes",
        re.compile(
            r"embryo_dataset(?:_F(?P<plane>-?\d{1,3}))?/(?P<dish>[^/]+)/"
            rf"D\d{{4}}\.\d\d\.\d\d_S\d+_I\d+(?:_P)?_WELL\d+_RUN(?P<run>\d+){_PICTURE}",
            re.ASCII,
        ),
        ignored=re.compile(r"embryo_dataset(?:_F-?\d+)?/[^/]+/F0/"),
        hours_file=nantes_hours,
    ),
    # a folder `<slide>-<n>` that holds WELL<n> is that well of that slide; any other folder is a dish with its wells
    "embryoscope": Layout(
        "embryoscope",
        re.compile(
            r"(?P<dish>[^/]+?)(?:-(?P<same>\d{1,9})(?=/.*_WELL(?P=same)_))?/F(?P<plane>-?\d{1,3})/"
            rf"{_SLIDE}_WELL(?P<well>\d{{1,9}})_RUN(?P<run>\d+){_PICTURE}",
            re.ASCII,
        ),
        file_clock=True,
    ),
    "tiff-stack": Layout(
        "tiff-stack", re.compile(rf"(?P<dish>[^/]+)/(?P<well>[^/]+)/{_TIME}\.(?i:tiff?)", re.ASCII), stacked=True
    ),
    "single-moment": Layout(
        "single-moment",
        re.compile(rf"(?P<dish>[^/]+)/(?P=dish)_F(?P<plane>-?\d{{1,3}}){_PICTURE}", re.ASCII),
        assumed_hpi=116.0,  # the day-5 check; the reading says "assumed"
    ),
}
_GROUPS = {"dish", "well", "plane", "captured_at", "run"}


def layout(text: str) -> Layout:
    """A preset's name, or a regular expression of one's own with named groups. Raises ConfigError."""
    if text in PRESETS:
        return PRESETS[text]
    known = f"presets: {', '.join(sorted(PRESETS))}; or a regular expression with groups {', '.join(sorted(_GROUPS))}"
    if "(?P<" not in text:
        raise ConfigError(f"layout = {text!r} is not known ({known})")
    try:
        pattern = re.compile(text)
    except re.error as fault:
        raise ConfigError(f"layout = {text!r} is not a regular expression: {fault} ({known})") from fault
    groups = set(pattern.groupindex)
    if "dish" not in groups or groups - _GROUPS or {"captured_at", "run"} <= groups:
        raise ConfigError(
            f"layout = {text!r} has the groups {sorted(groups)}; it needs `dish`, may have `well` and `plane`, "
            f"and one of `captured_at` and `run` at most ({known})"
        )
    return Layout("pattern", pattern)

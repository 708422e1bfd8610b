"""The course of each embryo over time: one point a frame, read from the journal once and kept, bounded.

Cards show a thinned course (every 2nd, 4th, 8th ... frame), the embryo's own page all of it. It knows rows.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime

from monitor.database import Looker
from monitor.last_frames import read_time

THIN = 96  # points of a thinned course, up to twice as many
_KEPT_THIN, _KEPT_WHOLE = 512, 6  # embryos
_AT_ONCE = 500  # names in one query; SQLite takes 999 at least
_POINT = (
    "SELECT frame_key, revision, id, json_extract(body, '$.frame.hpi', '$.frame.captured_at', '$.outcome', "
    "'$.blastocyst.probability', '$.blastocyst.spread', '$.stage.live', '$.quality.flags', "
    "'$.quality.measured.sharpest_plane_um', '$.frame.planes') FROM reading WHERE embryo_id = ?"
)


@dataclass(frozen=True)
class Point:
    """One frame as last told. `at`: by the incubator's clock; None, as every other value, where it is not known."""

    frame_key: str
    revision: int
    reading: str
    hpi: float | None
    at: datetime | None
    outcome: str
    probability: float | None
    spread: float | None
    stage: str | None
    flags: tuple[str, ...]
    sharpest_um: int | None
    planes: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Track:
    """All or some frames of one embryo in order. `frames`: how many there are. The same object while nothing is new."""

    points: tuple[Point, ...]
    frames: int


class Tracks:
    """Within `looking`. `latest`: the id of the embryo's newest reading; while it stands, what was read stands."""

    def __init__(self, looker: Looker) -> None:
        self._looker = looker
        self._thin: OrderedDict[str, tuple[str | None, Track]] = OrderedDict()
        self._whole: OrderedDict[str, tuple[str | None, Track]] = OrderedDict()

    def thin(self, embryo_id: str, latest: str | None) -> Track:
        return self._of(self._thin, _KEPT_THIN, embryo_id, latest, THIN)

    def whole(self, embryo_id: str, latest: str | None) -> Track:
        return self._of(self._whole, _KEPT_WHOLE, embryo_id, latest, 0)

    def _of(
        self,
        kept: OrderedDict[str, tuple[str | None, Track]],
        most: int,
        embryo_id: str,
        latest: str | None,
        thin: int,
    ) -> Track:
        before = kept.get(embryo_id)
        if before is None or before[0] != latest or latest is None:
            kept[embryo_id] = latest, self._read(embryo_id, thin, before[1] if before else None)
        kept.move_to_end(embryo_id)
        while len(kept) > most:
            kept.popitem(last=False)
        return kept[embryo_id][1]

    def _read(self, embryo_id: str, thin: int, before: Track | None) -> Track:
        query = "SELECT frame_key, MAX(revision) FROM reading WHERE embryo_id = ? GROUP BY frame_key"
        names = sorted(self._looker.rows(query, (embryo_id,)), key=lambda row: frame_rank(row[0]))
        step = 1
        while thin and len(names) > 2 * thin * step:  # doubles: of the points there, half stay and none moves
            step *= 2
        wanted = [name for number, name in enumerate(names) if number % step == 0 or number == len(names) - 1]
        have = {(point.frame_key, point.revision): point for point in (before.points if before else ())}
        missing = [name for name in wanted if name not in have]
        for start in range(0, len(missing), _AT_ONCE):
            have |= self._points(embryo_id, missing[start : start + _AT_ONCE])
        return Track(tuple(have[name] for name in wanted), len(names))

    def _points(self, embryo_id: str, names: list[tuple[str, int]]) -> dict[tuple[str, int], Point]:
        keys = sorted({key for key, _ in names})
        rows = self._looker.rows(f"{_POINT} AND frame_key IN ({','.join('?' * len(keys))})", (embryo_id, *keys))
        return {(key, revision): _point(key, revision, reading, text) for key, revision, reading, text in rows}


def _point(key: str, revision: int, reading: str, text: str) -> Point:
    hpi, at, outcome, probability, spread, stage, flags, sharpest, planes = json.loads(text)
    return Point(
        *(key, revision, reading, hpi, at and read_time(at), outcome, probability, spread, stage),
        *(tuple(flags), sharpest, tuple(planes)),
    )


def frame_rank(frame_key: str) -> tuple[int, str]:
    """Sorts frame names of one embryo: times as they are written, frame numbers by their size."""
    number = frame_key.removeprefix("run")
    return (len(number), number) if number != frame_key else (0, frame_key)

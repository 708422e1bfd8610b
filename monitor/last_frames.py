"""The last frame of each incubator, remembered over restarts: one row each, written with the reading it comes from.

It knows rows, no folder; a late word about an earlier frame is not the last frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone

from monitor.database import Database
from monitor.vocabulary import Outcome, Reading

_ABOUT_EARLIER_FRAMES = (Outcome.OUT_OF_ORDER, Outcome.REVISED)


@dataclass(frozen=True)
class LastFrame:
    """Of one incubator. `captured_at`: by its clock, None without one; `recorded_at`: by ours.

    `judged_at`: when a frame was last judged, None where none ever was.
    """

    captured_at: datetime | None
    recorded_at: datetime
    judged_at: datetime | None


class LastFrames:
    """Part of the journal: `record` belongs into the transaction that holds the reading."""

    def __init__(self, database: Database) -> None:
        self._db = database.connection

    def record(self, reading: Reading, now: datetime) -> None:
        if reading.outcome in _ABOUT_EARLIER_FRAMES:
            return
        at = reading.occurred_at and sortable(reading.occurred_at)
        judged_at = sortable(now) if reading.outcome is Outcome.JUDGED else None
        self._db.execute(
            "INSERT INTO last_frame VALUES (:incubator, :at, :now, :judged_at) ON CONFLICT (incubator) DO UPDATE SET "
            "captured_at = :at, recorded_at = :now, "
            "judged_at = COALESCE(:judged_at, judged_at)",
            {"incubator": reading.embryo.incubator, "at": at, "now": sortable(now), "judged_at": judged_at},
        )

    def of(self, incubator: str) -> LastFrame | None:
        """None before the first frame."""
        row = self._db.execute(
            "SELECT captured_at, recorded_at, judged_at FROM last_frame WHERE incubator = ?", (incubator,)
        ).fetchone()
        if row is None:
            return None
        captured_at, recorded_at, judged_at = row
        return LastFrame(
            captured_at and read_time(captured_at), read_time(recorded_at), judged_at and read_time(judged_at)
        )

    def newest(self) -> datetime | None:
        """When the newest frame of all incubators was captured, by their clocks, which a wrong one of ours does not
        move (without one: recorded); None before the first frame."""
        (at,) = self._db.execute("SELECT MAX(COALESCE(captured_at, recorded_at)) FROM last_frame").fetchone()
        return at and read_time(at)

    def recent_keys(self, incubator: str, count: int) -> list[list[str]]:
        """Of each open run the names of its last `count` frames that a clock names, newest first."""
        runs = self._db.execute(
            "SELECT embryo_id FROM run WHERE incubator = ? AND ended IS NULL ORDER BY embryo_id", (incubator,)
        ).fetchall()
        return [self._keys_of(embryo_id, count) for (embryo_id,) in runs]

    def _keys_of(self, embryo_id: str, count: int) -> list[str]:
        rows = self._db.execute(  # answered from the index alone; `run7` and `only` sort after every digit
            "SELECT DISTINCT frame_key FROM reading WHERE embryo_id = ? AND frame_key < 'A' "
            "ORDER BY frame_key DESC LIMIT ?",
            (embryo_id, count),
        )
        return [key for (key,) in rows]


def sortable(moment: datetime) -> str:
    """Times as texts that sort as the times do; `rfc3339` leaves out a fraction of zero."""
    return moment.astimezone(timezone.utc).isoformat(timespec="milliseconds")


def read_time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))

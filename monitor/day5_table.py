"""Day 5 in the journal: each embryo's newest judged frame, what was made of it, and every result that was told.

`judged`, `record` and `end` belong into a transaction. It knows rows; no picture and no network.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from monitor.database import Database
from monitor.day5_body import Day5
from monitor.day5_due import Progress
from monitor.event import Event
from monitor.expansion import Sized
from monitor.vocabulary import PHASES, Outcome, Place, Reading, Stage


@dataclass(frozen=True)
class Due:
    """An embryo's newest judged frame, and what is known to decide whether its day-5 work is due."""

    place: Place
    reading: str
    frame_key: str
    progress: Progress


@dataclass(frozen=True)
class Worked:
    """A result to be recorded: the event, the frame's order and hours (`Progress`), and the body's area in the square
    of `unit` (None: not measured)."""

    event: Event
    frame_order: float
    at_h: float | None
    body_area: float | None
    unit: str | None


def furthest_of(stage: Stage | None) -> str | None:
    """The furthest phase that an embryo has reached, as its stage model has it at a frame: the path that never steps
    back, or the live label where that is ahead. A collapse that looks like a morula moves only the live one, and a
    frame or two that look like a blastocyst do not stay with the embryo once the path has passed them by."""
    return None if stage is None else max(stage.live, stage.revised, key=PHASES.index)


class Day5Table:
    """Rows of day 5 over one database connection."""

    def __init__(self, database: Database) -> None:
        self._db = database.connection

    def judged(self, reading: Reading, frame_key: str, frame_order: float, at_h: float | None) -> None:
        """The engines judged a frame of an open run: it is the embryo's newest. Nothing where they did not."""
        if reading.outcome is not Outcome.JUDGED:
            return
        # a single moment has no history, whatever a stage model says of it; a frame that it failed on changes nothing
        furthest = None if frame_key == "only" else furthest_of(reading.stage)
        self._db.execute(
            "INSERT INTO judged (embryo_id, reading, frame_key, frame_order, at_h, hpi, furthest) "
            "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (embryo_id) DO UPDATE SET reading = excluded.reading, "
            "frame_key = excluded.frame_key, frame_order = excluded.frame_order, at_h = excluded.at_h, "
            "hpi = excluded.hpi, furthest = COALESCE(excluded.furthest, furthest)",
            (reading.embryo.embryo_id, reading.id, frame_key, frame_order, at_h, reading.frame.hpi, furthest),
        )

    def waiting(self) -> list[Due]:
        """Every open run with a judged frame that is newer than what was worked on."""
        rows = self._db.execute(
            "SELECT r.incubator, r.dish, r.well, j.reading, j.frame_key, j.embryo_id, j.frame_order, j.at_h, j.hpi, "
            "j.furthest, j.done_order, j.done_h FROM judged j JOIN run r USING (embryo_id) "
            "WHERE j.done_order IS NULL OR j.frame_order > j.done_order"
        )
        return [Due(Place(*row[:3]), row[3], row[4], Progress(*row[5:])) for row in rows]

    def reading(self, due: Due) -> Reading:
        """The reading of the frame."""
        (body,) = self._db.execute("SELECT body FROM reading WHERE id = ?", (due.reading,)).fetchone()
        return Reading.model_validate_json(body)

    def last(self, embryo_id: str) -> Event | None:
        """What was last told of an embryo whose run is open."""
        row = self._db.execute(
            "SELECT d.body FROM judged j JOIN day5 d ON d.id = j.day5 WHERE j.embryo_id = ?", (embryo_id,)
        ).fetchone()
        return None if row is None else Event.model_validate_json(row[0])

    def of(self, embryo_id: str) -> Day5 | None:
        """The result that the embryo's next reading tells."""
        last = self.last(embryo_id)
        return None if last is None else last.day5

    def sizes(self, embryo_id: str, unit: str) -> list[Sized]:
        """The body's area, in the square of `unit`, at every moment where it was measured and its hour is known."""
        rows = self._db.execute(
            "SELECT at_h, body_area FROM day5 WHERE embryo_id = ? AND unit = ? AND at_h IS NOT NULL "
            "AND body_area IS NOT NULL ORDER BY revision",
            (embryo_id, unit),
        )
        return [Sized(at_h, body_area) for at_h, body_area in rows]

    def record(self, worked: Worked, body: str) -> set[str]:
        """Put a result; the overlay that it takes the place of, if any."""
        event, embryo_id = worked.event, worked.event.embryo.embryo_id
        (before,) = self._db.execute("SELECT overlay FROM judged WHERE embryo_id = ?", (embryo_id,)).fetchone()
        self._db.execute(
            "INSERT INTO day5 VALUES (?, ?, ?, ?, ?, ?, ?)",
            (event.id, embryo_id, event.revision, worked.at_h, worked.body_area, worked.unit, body),
        )
        self._db.execute(
            "UPDATE judged SET done_order = ?, done_h = ?, day5 = ?, overlay = ? WHERE embryo_id = ?",
            (worked.frame_order, worked.at_h, event.id, event.day5.overlay, embryo_id),
        )
        return {before} if before is not None and before != event.day5.overlay else set()

    def end(self, embryo_id: str) -> set[str]:
        """The run has ended: no work is due any more, and its overlay is not needed. What was told stays."""
        rows = self._db.execute("SELECT overlay FROM judged WHERE embryo_id = ?", (embryo_id,)).fetchall()
        self._db.execute("DELETE FROM judged WHERE embryo_id = ?", (embryo_id,))
        return {overlay for (overlay,) in rows if overlay is not None}

    def overlays(self) -> set[str]:
        """Those of open runs."""
        rows = self._db.execute("SELECT overlay FROM judged WHERE overlay IS NOT NULL")
        return {overlay for (overlay,) in rows}

    def named(self, overlay: str) -> bool:
        return self._db.execute("SELECT 1 FROM judged WHERE overlay = ? LIMIT 1", (overlay,)).fetchone() is not None

    def bodies(self) -> Iterator[str]:
        """Every event's JSON text: per embryo, in order of its revisions."""
        rows = self._db.execute(
            "SELECT d.body FROM day5 d JOIN run ON run.embryo_id = d.embryo_id "
            "ORDER BY run.incubator, run.dish, run.well, run.slide, run.first_order, run.number, d.revision"
        )
        return (body for (body,) in rows)

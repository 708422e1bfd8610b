"""What the journal knows of runs, readings and states: questions only, each answered from the rows as they are.

It writes nothing; what goes in is `monitor.journal`'s.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime

from monitor.command_table import CommandTable
from monitor.database import Database
from monitor.last_frames import read_time
from monitor.runs import Run
from monitor.vocabulary import Moment, Place, Reading


class JournalReads:
    """The questions, over one database connection."""

    def __init__(self, database: Database) -> None:
        self._db = database.connection
        self.commands = CommandTable(database)

    def runs(self, place: Place) -> list[Run]:
        """The runs in a well, oldest first."""
        stated = self.commands.time_zeros(place.incubator, place.dish, place.well)
        rows = self._db.execute(
            "SELECT embryo_id, first, latest, stepped_order, stepped_h, insemination, spent, unconfirmed, ended "
            "FROM run WHERE incubator = ? AND dish = ? AND well = ? ORDER BY number",
            (place.incubator, place.dish, place.well),
        )
        return [
            Run(
                embryo_id=embryo_id,
                place=place,
                first=_load(first),
                latest=_load(latest),
                stepped_order=stepped_order,
                stepped_h=stepped_h,
                insemination=insemination and datetime.fromisoformat(insemination),
                spent=bool(spent),
                unconfirmed=bool(unconfirmed),
                ended=ended,
                stated=stated.get(embryo_id),
            )
            for embryo_id, first, latest, stepped_order, stepped_h, insemination, spent, unconfirmed, ended in rows
        ]

    def ended_at(self, embryo_id: str) -> datetime | None:
        """When the end of a run was recorded; None where the audit does not tell."""
        row = self._db.execute(
            "SELECT recorded_at FROM audit WHERE subject = ? AND kind = 'run_ended' ORDER BY number DESC LIMIT 1",
            (f"embryo/{embryo_id}",),
        ).fetchone()
        return None if row is None else read_time(row[0])

    def latest_reading(self, embryo_id: str, frame_key: str) -> Reading | None:
        """The last revision of a frame's reading."""
        row = self._db.execute(
            "SELECT body FROM reading WHERE embryo_id = ? AND frame_key = ? ORDER BY revision DESC LIMIT 1",
            (embryo_id, frame_key),
        ).fetchone()
        return None if row is None else Reading.model_validate_json(row[0])

    def newest_reading(self, embryo_id: str) -> str | None:
        """The id of the reading that stands in the embryo's topic."""
        row = self._db.execute("SELECT latest_reading FROM run WHERE embryo_id = ?", (embryo_id,)).fetchone()
        return None if row is None else row[0]

    def earliest_readings(self, incubator: str, limit: int) -> list[Reading]:
        """The first revisions of an incubator's earliest frames, in order of time (or of frame number).

        They are found in the index; only `limit` bodies are read. Its first `limit` embryos are looked at.
        """
        return self._readings(
            "SELECT embryo_id, frame_key FROM reading WHERE revision = 1 AND embryo_id IN "
            "(SELECT embryo_id FROM run WHERE incubator = ? ORDER BY number LIMIT ?) "
            "ORDER BY length(frame_key), frame_key LIMIT ?",
            (incubator, limit, limit),
        )

    def latest_readings(self, incubator: str, each: int) -> list[Reading]:
        """The first revisions of the last `each` frames of every open run; of one run oldest first."""
        runs = self._db.execute("SELECT embryo_id FROM run WHERE incubator = ? AND ended IS NULL", (incubator,))
        back = (
            "SELECT embryo_id, frame_key FROM reading WHERE revision = 1 AND embryo_id = ? "
            "ORDER BY length(frame_key) DESC, frame_key DESC LIMIT ?"
        )
        found = [self._readings(back, (embryo_id, each)) for (embryo_id,) in runs.fetchall()]
        return [reading for of_run in found for reading in reversed(of_run)]

    def _readings(self, names: str, values: tuple[object, ...]) -> list[Reading]:
        """The first revisions of frames that a query names by embryo and key: all of it stands in one index."""
        rows = self._db.execute(names, values).fetchall()
        of_frame = "SELECT body FROM reading WHERE embryo_id = ? AND frame_key = ? AND revision = 1"
        return [Reading.model_validate_json(self._db.execute(of_frame, row).fetchone()[0]) for row in rows]

    def bodies(self) -> Iterator[str]:
        """Every reading's JSON text: per embryo, in order of frame and revision."""
        rows = self._db.execute(
            "SELECT r.body FROM reading r JOIN run ON run.embryo_id = r.embryo_id "
            "ORDER BY r.incubator, r.dish, r.well, run.slide, run.first_order, run.number, r.frame_order, r.revision"
        )
        return (body for (body,) in rows)

    def state_digest(self, embryo_id: str, model: str) -> str | None:
        row = self._db.execute(
            "SELECT digest FROM state WHERE embryo_id = ? AND model = ?", (embryo_id, model)
        ).fetchone()
        return None if row is None else str(row[0])

    def state_digests(self) -> set[str]:
        """Those that are still needed: an earlier version kept the rows of ended runs."""
        rows = self._db.execute("SELECT digest FROM state JOIN run USING (embryo_id) WHERE run.ended IS NULL")
        return {digest for (digest,) in rows}

    def _named(self, digest: str) -> bool:
        return self._db.execute("SELECT 1 FROM state WHERE digest = ? LIMIT 1", (digest,)).fetchone() is not None

    def open_runs(self) -> dict[str, int]:
        """incubator -> how many embryos lie in it."""
        rows = self._db.execute("SELECT incubator, COUNT(*) FROM run WHERE ended IS NULL GROUP BY incubator")
        return dict(rows.fetchall())

    def _is_open(self, embryo_id: str) -> bool:
        row = self._db.execute("SELECT ended FROM run WHERE embryo_id = ?", (embryo_id,)).fetchone()
        return row is not None and row[0] is None


def dump(moment: Moment) -> str:
    at, file_at = (time and time.isoformat() for time in (moment.captured_at, moment.file_at))
    return json.dumps([at, moment.run, moment.hours, moment.slide, file_at])


def _load(text: str) -> Moment:
    at, run, hours, slide, file_at = json.loads(text)
    return Moment(at and datetime.fromisoformat(at), run, hours, slide, file_at and datetime.fromisoformat(file_at))

"""Rows of commands in the journal: each that was carried out with its answer, assessments, time zeros that were given.

It writes inside a transaction that somebody else has opened; it decides nothing.
"""

from __future__ import annotations

from datetime import datetime

from monitor.command_body import Answer, Assess
from monitor.database import Database
from monitor.vocabulary import rfc3339


class CommandTable:
    """Rows over one database connection."""

    def __init__(self, database: Database) -> None:
        self._db = database.connection

    def put(self, command_id: str, content: str, answer: Answer) -> None:
        """A command that was carried out, under the sender's id. `content`: the digest of what it said."""
        row = (command_id, content, answer.body())
        self._db.execute("INSERT INTO command (id, content, answer) VALUES (?, ?, ?)", row)

    def answered(self, command_id: str) -> tuple[str, Answer] | None:
        """The digest of what was said under an id, and the answer to it."""
        row = self._db.execute("SELECT content, answer FROM command WHERE id = ?", (command_id,)).fetchone()
        return None if row is None else (str(row[0]), Answer.model_validate_json(row[1]))

    # -- assessments ---------------------------------------------------------------------------------------------------

    def put_assessment(self, embryo_id: str, reading: str | None, assessment: Assess, at: datetime) -> None:
        """What an embryologist says of an embryo; `reading`: the newest one then."""
        body = assessment.model_dump_json(include={"by", "stage", "grade", "note"})
        self._db.execute(
            "INSERT INTO assessment (embryo_id, reading, at, body) VALUES (?, ?, ?, ?)",
            (embryo_id, reading, rfc3339(at), body),
        )

    def assessments(self, embryo_id: str) -> list[str]:
        """Each as JSON text (`by`, `stage`, `grade`, `note`), oldest first."""
        rows = self._db.execute("SELECT body FROM assessment WHERE embryo_id = ? ORDER BY number", (embryo_id,))
        return [body for (body,) in rows]

    def is_assessed(self, embryo_id: str) -> bool:
        row = self._db.execute("SELECT 1 FROM assessment WHERE embryo_id = ? LIMIT 1", (embryo_id,)).fetchone()
        return row is not None

    # -- time zero -----------------------------------------------------------------------------------------------------

    def put_time_zero(self, embryo_id: str, inseminated_at: datetime) -> None:
        """When an embryo was inseminated, as somebody said; the latest word holds."""
        self._db.execute("INSERT OR REPLACE INTO time_zero VALUES (?, ?)", (embryo_id, inseminated_at.isoformat()))

    def time_zeros(self, incubator: str, dish: str, well: str) -> dict[str, datetime]:
        """embryo_id -> when it was inseminated, of the embryos of a well of which somebody said so."""
        rows = self._db.execute(
            "SELECT embryo_id, inseminated_at FROM time_zero JOIN run USING (embryo_id) "
            "WHERE incubator = ? AND dish = ? AND well = ?",
            (incubator, dish, well),
        )
        return {embryo_id: datetime.fromisoformat(at) for embryo_id, at in rows}

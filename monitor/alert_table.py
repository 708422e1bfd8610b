"""The alerts' rows in the journal: what is remembered between two words, and every word that was said.

It writes inside a transaction that somebody else has opened; it decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from monitor.alert import Alert, AlertState, AlertSubject
from monitor.alert_machine import EMPTY, Watching
from monitor.database import Database
from monitor.runs import GAP_ENDS_RUN_H
from monitor.vocabulary import rfc3339


@dataclass(frozen=True)
class Verdict:
    """What was decided on one subject: the words to say, and the watchings that differ from what is stored, by slot.

    `ended`: the subject is no more; nothing of it is watched any longer.
    """

    subject: AlertSubject
    watchings: Mapping[str, Watching] = field(default_factory=dict)
    words: tuple[Alert, ...] = ()
    ended: bool = False


class AlertTable:
    """Rows of alerts over one database connection."""

    def __init__(self, database: Database) -> None:
        self._database, self._db = database, database.connection

    def watchings(self, subject: str) -> dict[str, Watching]:
        """What is remembered of a subject, by slot (the column `kind`: a kind may tell of several facts)."""
        rows = self._db.execute("SELECT kind, body FROM watching WHERE subject = ?", (subject,))
        return {slot: Watching.model_validate_json(body) for slot, body in rows}

    def of_embryos(self, kind: str, incubator: str) -> dict[str, Watching]:
        """What is remembered of one kind of an incubator's embryos, by subject, also of those nobody has ended."""
        first, after = f"embryo/{incubator}/", f"embryo/{incubator}0"  # 0 comes after / : the range is in the index
        query = "SELECT subject, body FROM watching WHERE subject >= ? AND subject < ? AND kind = ?"
        rows = self._db.execute(query, (first, after, kind))
        return {subject: Watching.model_validate_json(body) for subject, body in rows}

    def lying(self, incubator: str, at: datetime | None) -> set[str]:
        """The embryos that lie in an incubator, by subject: those with a frame in the 24 hours before `at`, since a
        dish may be taken out and its run be ended by nobody. Where no time tells, and where none has one, all do."""
        query = (
            "SELECT 'embryo/' || embryo_id, julianday(COALESCE(json_extract(latest, '$[0]'), json_extract(latest, "
            "'$[4]'))) < julianday(?) - ? / 24.0 FROM run WHERE incubator = ? AND ended IS NULL"
        )
        rows = self._db.execute(query, (at and at.isoformat(), GAP_ENDS_RUN_H, incubator)).fetchall()
        return {key for key, is_old in rows if not is_old} or {key for key, _ in rows}

    def put(
        self,
        verdict: Verdict,
        boot_id: str | None,
        now: datetime,
        complete_at: str,
        hides: Callable[[Alert], bool] = lambda word: False,
    ) -> list[Alert]:
        """Store a verdict; its words as recorded (with `seq` where there is a boot id). Inside a transaction.

        `complete_at`: since when they could have been said. `hides`: a word that nobody is told now has no `seq`.
        """
        key = verdict.subject.key
        for slot, watching in verdict.watchings.items():
            if watching == EMPTY:
                self._db.execute("DELETE FROM watching WHERE subject = ? AND kind = ?", (key, slot))
            else:
                body = watching.model_dump_json(exclude_defaults=True)
                self._db.execute("INSERT OR REPLACE INTO watching VALUES (?, ?, ?)", (key, slot, body))
        if verdict.ended:
            self._db.execute("DELETE FROM watching WHERE subject = ?", (key,))
        return [self._put_word(word, key, None if hides(word) else boot_id, now, complete_at) for word in verdict.words]

    def _put_word(self, word: Alert, subject: str, boot_id: str | None, now: datetime, complete_at: str) -> Alert:
        if boot_id is not None:
            word = word.model_copy(update={"seq": self._database.count("seq"), "boot_id": boot_id})
        body = word.body()
        self._db.execute(
            "INSERT INTO alert (alert_id, revision, kind, subject, state, recorded_at, body) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (word.alert_id, word.revision, word.kind, subject, word.state.value, rfc3339(now), body),
        )
        if word.state is AlertState.CLEARED:
            self._db.execute("DELETE FROM open_alert WHERE alert_id = ?", (word.alert_id,))
        else:
            row = (word.alert_id, word.kind, complete_at, body)
            self._db.execute("INSERT OR REPLACE INTO open_alert VALUES (?, ?, ?, ?)", row)
        return word

    def number(self, word: Alert) -> int:
        """The row of a word that was put."""
        query = "SELECT number FROM alert WHERE alert_id = ? AND revision = ?"
        return int(self._db.execute(query, (word.alert_id, word.revision)).fetchone()[0])

    def open_words(self) -> list[tuple[str, str, str]]:
        """(alert_id, the last word, since when it could have been said) of each alert that stands open."""
        return self._db.execute("SELECT alert_id, body, complete_at FROM open_alert ORDER BY alert_id").fetchall()

    def open_bodies(self) -> dict[str, str]:
        """alert_id -> the last word about each alert that stands open."""
        return {alert_id: body for alert_id, body, _ in self.open_words()}

    def standing(self) -> list[Alert]:
        """The last word about each alert that stands open."""
        return [Alert.model_validate_json(body) for body in self.open_bodies().values()]

    def open_counts(self) -> dict[str, int]:
        """kind -> how many stand open."""
        return dict(self._db.execute("SELECT kind, COUNT(*) FROM open_alert GROUP BY kind").fetchall())

    def bodies(self) -> Iterator[str]:
        """Every word's JSON text: by subject, in order of saying."""
        return (body for (body,) in self._db.execute("SELECT body FROM alert ORDER BY subject, number"))


def alert_topic(alert_id: str) -> str:
    """Below the root."""
    return f"alert/{alert_id}"

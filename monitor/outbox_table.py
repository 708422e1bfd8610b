"""The outbox's rows in the journal: what waits to be said, and what stands in retained topics.

`put` belongs into the transaction that makes a thing true; the rest is for whoever says it. It knows no broker.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from monitor.alert import Alert
from monitor.alert_table import AlertTable, alert_topic
from monitor.blind import Blind, withheld
from monitor.database import Database
from monitor.event import Event
from monitor.last_frames import read_time, sortable
from monitor.outbox import OutboxRow
from monitor.vocabulary import Place, Reading, rfc3339

# A broker killed before it saved brings back what it had when it last did (Mosquitto: every 30 minutes): a topic is
# cleared again at each connect for so long after it was, by the journal's time.
CLEARED_AGAIN = timedelta(hours=48)


class OutboxTable:
    """The `Outbox` on disk."""

    def __init__(self, database: Database, alerts: AlertTable, blind: Blind) -> None:
        self._database, self._db, self._alerts, self._blind = database, database.connection, alerts, blind

    def put(
        self,
        kind: str,
        topic: str,
        reading: str | None,
        retain: bool,
        complete_at: str | None,
        now: datetime,
        text: str = "",
    ) -> None:
        """Append one message, inside a transaction: the body is `reading`'s where one is named, else `text`."""
        body = None if reading is not None else text
        self._db.execute(
            "INSERT INTO outbox (kind, topic, reading, body, retain, complete_at, recorded_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (kind, topic, reading, body, retain, complete_at, rfc3339(now)),
        )
        if retain:
            self._db.execute("DELETE FROM cleared WHERE topic = ? OR at < ?", (topic, sortable(now - CLEARED_AGAIN)))
        if retain and body == "":
            self._db.execute("INSERT INTO cleared VALUES (?, ?)", (topic, sortable(now)))

    def pending(self, after_row: int, limit: int) -> list[OutboxRow]:
        """Messages the broker has not acknowledged, in order; a reading as it may be shown now, whenever it was put."""
        rows = self._db.execute(
            "SELECT row_id, o.kind, o.topic, COALESCE(r.body, o.body), o.retain, o.complete_at, r.embryo_id "
            "FROM outbox o LEFT JOIN reading r ON r.id = o.reading WHERE row_id > ? ORDER BY row_id LIMIT ?",
            (after_row, limit),
        )
        return [
            _outbox_row(row_id, kind, topic, self._shown(embryo_id, body), retain, complete_at)
            for row_id, kind, topic, body, retain, complete_at, embryo_id in rows
        ]

    def withhold(self, now: datetime) -> None:
        """What was put before scores were withheld and tells them does not go out, inside a transaction: such words
        leave, and a topic that one would stand in is cleared."""
        query = "SELECT row_id, kind, topic, body, retain FROM outbox WHERE kind IN ('alert', 'event') AND body != ''"
        for row_id, kind, topic, body, retain in self._db.execute(query).fetchall():
            if not self._tells(kind, body):
                continue
            self._db.execute("DELETE FROM outbox WHERE row_id = ?", (row_id,))
            if retain:
                self.put("clear", topic, None, True, None, now)

    def _tells(self, kind: str, body: str) -> bool:
        if kind == "alert":
            return self._blind.hides_word(Alert.model_validate_json(body))
        return self._blind.hides(Event.model_validate_json(body).embryo.embryo_id)

    def remove(self, row_ids: Sequence[int]) -> None:
        """The broker has these: they leave."""
        with self._database.transaction():
            self._db.executemany("DELETE FROM outbox WHERE row_id = ?", [(row_id,) for row_id in row_ids])

    def next_session(self) -> int:
        with self._database.transaction():
            return self._database.count("session")

    def retained(self) -> list[OutboxRow]:
        """What stands in retained topics and has nothing waiting in the outbox: told again at every connect.

        The latest reading of every open run, every alert that stands open, and an empty body for every topic cleared
        lately.
        """
        waiting = {topic for (topic,) in self._db.execute("SELECT DISTINCT topic FROM outbox WHERE retain")}
        told = [*self._retained_readings(), *self._open_alerts(), *self._cleared_topics()]
        return [row for row in told if row.topic not in waiting]

    def _retained_readings(self) -> list[OutboxRow]:
        rows = self._db.execute(
            "SELECT r.incubator, r.dish, r.well, r.body, r.complete_at, r.embryo_id "
            "FROM run JOIN reading r ON r.id = run.latest_reading "
            "WHERE run.ended IS NULL ORDER BY r.incubator, r.dish, r.well"
        )
        return [
            _outbox_row(0, "reading", reading_topic(Place(*row[:3])), self._shown(row[5], row[3]), 1, row[4])
            for row in rows
        ]

    def _shown(self, embryo_id: str | None, body: str) -> str:
        return withheld(Reading.model_validate_json(body)).body() if self._blind.hides(embryo_id) else body

    def _open_alerts(self) -> list[OutboxRow]:
        """Those that are withheld are cleared instead: they may have been told before that was asked for."""
        told: list[OutboxRow] = []
        for alert_id, body, at in self._alerts.open_words():
            topic = alert_topic(alert_id)
            if self._blind.on and self._blind.hides_word(Alert.model_validate_json(body)):
                told.append(_outbox_row(0, "clear", topic, "", 1, None))
            else:
                told.append(_outbox_row(0, "alert", topic, body, 1, at))
        return told

    def _cleared_topics(self) -> list[OutboxRow]:
        rows = self._db.execute("SELECT topic FROM cleared ORDER BY topic")
        return [_outbox_row(0, "clear", topic, "", 1, None) for (topic,) in rows]

    def depth(self) -> tuple[int, datetime | None]:
        """How many messages wait, and since when the first of them does. Asked at every turn, also when a broker has
        been away for a week: no row's content is looked through."""
        (count,) = self._db.execute("SELECT COUNT(*) FROM outbox").fetchone()
        first = self._db.execute("SELECT recorded_at FROM outbox ORDER BY row_id LIMIT 1").fetchone()
        return count, first and read_time(first[0])


def _outbox_row(row_id: int, kind: str, topic: str, body: str, retain: int, complete_at: str | None) -> OutboxRow:
    at = None if complete_at is None else datetime.fromisoformat(complete_at)
    return OutboxRow(row_id=row_id, kind=kind, topic=topic, body=body, retain=bool(retain), complete_at=at)


def reading_topic(place: Place) -> str:
    """Below the root."""
    return f"embryo/{place.incubator}/{place.dish}/{place.well}/reading"

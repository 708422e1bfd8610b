"""Stand-ins for tests, for `pellucid demo` and for rehearsals: an outbox and what alerts remember in memory, a session
without a broker.

Nothing here keeps a promise of durability.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from datetime import datetime

from monitor.alert import Alert
from monitor.alert_machine import EMPTY, Watching
from monitor.alert_table import Verdict
from monitor.mqtt_session import Acknowledged, Connected, Ended, Event, Will
from monitor.outbox import OutboxRow


class ScriptedOutbox:
    """The `Outbox` in memory; `put` plays the journal's part."""

    def __init__(self) -> None:
        self._rows: dict[int, OutboxRow] = {}
        self._retained: dict[str, OutboxRow] = {}
        self._last_row = 0
        self._last_session = 0
        self.removals: list[list[int]] = []

    def put(
        self, kind: str, topic: str, body: str, *, retain: bool = False, complete_at: datetime | None = None
    ) -> OutboxRow:
        """Append one message; row ids grow by one."""
        self._last_row += 1
        row = OutboxRow(self._last_row, kind, topic, body, retain, complete_at)
        self._rows[row.row_id] = row
        if retain:
            self._retained[topic] = OutboxRow(0, kind, topic, body, True, complete_at)
        return row

    def pending(self, after_row: int, limit: int) -> list[OutboxRow]:
        return [row for row in self._rows.values() if row.row_id > after_row][:limit]

    def remove(self, row_ids: Sequence[int]) -> None:
        self.removals.append(list(row_ids))
        for row_id in row_ids:
            self._rows.pop(row_id, None)

    def next_session(self) -> int:
        self._last_session += 1
        return self._last_session

    def retained(self) -> list[OutboxRow]:
        waiting = {row.topic for row in self._rows.values()}
        return [row for topic, row in self._retained.items() if topic not in waiting]


class ScriptedSession:
    """A `Session` that sends nothing: what was published is in `sent`, what the broker says is put into `events`."""

    def __init__(self, will: Will) -> None:
        self.will = will
        self.events: deque[Event] = deque()
        self.sent: list[tuple[int, str, bytes, bool]] = []
        self.subscribed: list[str] = []
        self.correlations: dict[int, bytes] = {}  # by message id
        self.answered = 0
        self.alive = True
        self.said_goodbye = False
        self.abandoned = False

    def next_event(self, timeout_s: float = 0.0) -> Event | None:
        if self.events:
            return self.events.popleft()
        return None if self.alive else Ended("the network thread died")

    def publish(self, topic: str, payload: bytes, *, retain: bool, correlation: bytes | None = None) -> int:
        if "#" in topic or "+" in topic:
            raise ValueError("a topic cannot hold wildcards")
        message_id = len(self.sent) + 1
        self.sent.append((message_id, topic, payload, retain))
        if correlation is not None:
            self.correlations[message_id] = correlation
        return message_id

    def subscribe(self, topics: str) -> None:
        self.subscribed.append(topics)

    def disconnect(self) -> None:
        self.said_goodbye = True

    def abandon(self) -> None:
        self.abandoned = True
        self.alive = False

    def join(self, timeout_s: float) -> bool:
        self.alive = False
        return True

    def accept(self, limits: Connected | None = None) -> None:
        """The broker accepts the session."""
        self.events.append(limits or Connected())

    def acknowledge(self, refuse_topics: Sequence[str] = (), reason: str = "Not authorized (135)") -> None:
        """The broker answers everything sent and not yet answered, in order."""
        for message_id, topic, _, _ in self.sent[self.answered :]:
            refused = any(topic.endswith(word) for word in refuse_topics)
            self.events.append(Acknowledged(message_id, reason if refused else None))
        self.answered = len(self.sent)


class Shelf:
    """What is remembered of alerts (`hearing.Remembered`), in memory; `embryos`: the subjects that lie there."""

    def __init__(self) -> None:
        self.by_subject: dict[str, dict[str, Watching]] = {}
        self.embryos: set[str] = set()

    def watchings(self, subject: str) -> dict[str, Watching]:
        return dict(self.by_subject.get(subject, {}))

    def of_embryos(self, kind: str, incubator: str) -> dict[str, Watching]:
        of = {key: slots for key, slots in self.by_subject.items() if key.startswith(f"embryo/{incubator}/")}
        return {key: slots[kind] for key, slots in of.items() if kind in slots}

    def lying(self, incubator: str, at: datetime | None) -> set[str]:
        return {key for key in self.embryos if key.startswith(f"embryo/{incubator}/")}

    def put(self, verdicts: Sequence[Verdict]) -> list[Alert]:
        """Store what was decided; the words, in order."""
        for one in verdicts:
            slots = self.by_subject.setdefault(one.subject.key, {})
            slots.update(one.watchings)
            for slot in [slot for slot, watching in slots.items() if watching == EMPTY]:
                del slots[slot]
            if one.ended:
                del self.by_subject[one.subject.key]
                self.embryos.discard(one.subject.key)
        return [word for one in verdicts for word in one.words]

"""What is on its way within one session, and which topics must wait because the broker refused them.

Rows go out in row order, several at a time. A refused row holds up its own topic only: that topic is tried again, with
its first row alone, after 1 s, 2 s ... 60 s, while all others go on. A row that overtook a refused one of its topic,
because both were on their way, stays in the outbox and is said again after it: the last word on a topic is always
its latest row. What is in no outbox (birth, health, retained state said again) and is refused is tried again in the
same rhythm, until a newer word on its topic replaces it. Refuses to know how sessions come and go.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from monitor.mqtt_session import Acknowledged, Connected, Session
from monitor.outbox import Outbox, OutboxRow, PublishObserver, stamped

log = logging.getLogger(__name__)

READ_ROWS = 200
READS_PER_TICK = 10  # keeps one tick short where thousands of rows of refused topics stand in front
ACK_LIMIT_S = 60.0  # a broker that answers pings but acknowledges nothing is as good as gone
SUSPECT_S = 120.0  # how long a topic rests on which the broker hangs up; each new try costs a session
PACKET_HEAD_BYTES = 32  # upper bound of what MQTT adds to topic and payload
ANSWER = "answer"  # kind of a message that is in no outbox and is not tried again
WAITING = 0  # in `Refusals`: no row of the topic is on its way


class Backoff:
    """1 s, 2 s, 4 s ... 60 s, each shortened by up to half; `jitter` gives numbers in [0, 1)."""

    def __init__(self, jitter: Callable[[], float], longest_s: float = 60.0) -> None:
        self._jitter = jitter
        self._longest_s = longest_s
        self._whole_s = 1.0

    def next_s(self) -> float:
        """How long to wait this time; the next wait is about twice as long."""
        whole_s = self._whole_s
        self._whole_s = min(self._longest_s, 2 * whole_s)
        return whole_s * (1.0 - self._jitter() / 2)

    def reset(self) -> None:
        """It went well: the next wait is short again."""
        self._whole_s = 1.0


@dataclass
class _Held:
    backoff: Backoff
    retry_at_s: float = 0.0
    probe: int = WAITING  # the topic's one row on its way


@dataclass
class _Denied:
    """A topic of `_first` that was refused; `row` is its latest word, None while that is on its way."""

    row: OutboxRow | None
    backoff: Backoff
    retry_at_s: float


class Refusals:
    """Topics the broker refused in this session; each comes free when a single row of it has been taken."""

    def __init__(self, jitter: Callable[[], float]) -> None:
        self._jitter = jitter
        self._held: dict[str, _Held] = {}
        self._due: set[str] = set()
        self._came_free = False

    @property
    def holding(self) -> bool:
        """True while any topic waits."""
        return bool(self._held)

    def may_send(self, topic: str) -> bool:
        """True for a topic never refused, or whose turn to be tried again has come."""
        return topic not in self._held or topic in self._due

    def sent(self, topic: str, row_id: int) -> None:
        """A row is on its way; on a refused topic it is the only one."""
        if topic in self._due:
            self._due.remove(topic)
            self._held[topic].probe = row_id

    def refused(self, topic: str, now_s: float, rest_s: float = 0.0) -> bool:
        """Hold the topic, for `rest_s` at least; True when it was not held before."""
        new = topic not in self._held
        held = self._held.setdefault(topic, _Held(Backoff(self._jitter)))
        if new or held.probe != WAITING:  # else: one more row of the same volley
            held.retry_at_s = now_s + max(rest_s, held.backoff.next_s())
        held.probe = WAITING
        self._due.discard(topic)
        return new

    def delivered(self, topic: str, row_id: int) -> bool:
        """True when the row is done with; False when it overtook a refused row and must be said again."""
        held = self._held.get(topic)
        if held is None:
            return True
        if held.probe != row_id:
            return False
        del self._held[topic]
        self._came_free = True
        return True

    def reopened(self, now_s: float) -> bool:
        """True, once, when rows passed over until now may be sent: the outbox must be read from its beginning."""
        came_free, self._came_free = self._came_free, False
        due = {t for t, held in self._held.items() if held.probe == WAITING and now_s >= held.retry_at_s}
        new = due - self._due
        self._due |= new
        return came_free or bool(new)


class Delivery:
    """The messages of one session, from its acceptance to its end. A new session starts with a new Delivery."""

    def __init__(
        self,
        session: Session,
        limits: Connected,
        outbox: Outbox,
        root: str,
        observe: PublishObserver,
        *,
        max_inflight: int,
        jitter: Callable[[], float],
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
    ) -> None:
        self._session, self._outbox, self._root, self._observe = session, outbox, root, observe
        self._now, self._monotonic = now, monotonic
        self._window = max(1, min(max_inflight, limits.receive_maximum))  # above it, v5 brokers hang up
        self._packet_limit_bytes = limits.packet_limit_bytes
        self._jitter = jitter
        self._refusals = Refusals(jitter)
        self._first: dict[str, OutboxRow] = {}  # by topic; goes before the outbox's rows
        self._denied: dict[str, _Denied] = {}  # by topic; of `_first`, refused
        self._answers: deque[tuple[str, bytes, bytes | None]] = deque()  # topic, payload, correlation: said once
        self._taken: set[str] = set()  # topics of `_first` that the broker took
        self._overtaken: set[str] = set()  # topics on which a row of the outbox was sent: a newer word
        self._inflight: dict[int, OutboxRow] = {}  # by message id, in the order of sending
        self._sent_rows: set[int] = set()
        self._delivered: list[int] = []  # acknowledged, to be removed from the outbox
        self._cursor = 0  # rows up to here were sent or passed over
        self._progress_s = monotonic()
        self._answered = False

    @property
    def inflight(self) -> int:
        """Messages sent and not yet answered."""
        return len(self._inflight)

    def say_first(self, row: OutboxRow) -> None:
        """Send before the outbox's rows; replaces what has not left yet on the same topic."""
        if (denied := self._denied.get(row.topic)) is not None:
            denied.row = row
        else:
            self._first[row.topic] = row

    def say_last(self, row: OutboxRow) -> None:
        """Forget whatever has not left yet but this."""
        self._first = {row.topic: row}
        self._denied.clear()

    def answer(self, topic: str, payload: bytes, correlation: bytes | None) -> None:
        """Send an answer to whoever waits for it, once: nobody waits for it in another session."""
        self._answers.append((topic, payload, correlation))

    def has_taken(self, topic: str) -> bool:
        """True when the broker took what was said on `topic` outside the outbox at least once."""
        return topic in self._taken

    def says(self, topic: str) -> bool:
        """True while a message on `topic` waits to leave or to be answered."""
        return topic in self._first or any(row.topic == topic for row in self._inflight.values())

    def suspect(self, topic: str) -> None:
        """Let a topic rest on which broker after broker hung up (brokers may answer a denied 3.1.1 publish so)."""
        self._refusals.refused(topic, self._monotonic(), SUSPECT_S)

    def oldest_unanswered(self) -> OutboxRow | None:
        """The row the broker's silence began with, brokers answering in order.

        None where it never answered at all in this session, or where it was no row of the outbox.
        """
        oldest = next(iter(self._inflight.values()), None) if self._answered else None
        return oldest if oldest is not None and oldest.row_id else None

    def overdue(self) -> bool:
        """True when messages are on their way and none has been answered for ACK_LIMIT_S."""
        return bool(self._inflight) and self._monotonic() - self._progress_s >= ACK_LIMIT_S

    def pump_first(self) -> None:
        """Send what goes before the outbox's rows, as far as there is room."""
        for topic, denied in self._denied.items():
            if denied.row is not None and self._monotonic() >= denied.retry_at_s:
                self._first[topic], denied.row = denied.row, None
        while self._first and self._room() > 0:
            self._send(self._first.pop(next(iter(self._first))))
        while self._answers and self._room() > 0:
            self._send_answer(*self._answers.popleft())

    def pump(self) -> bool:
        """Send what there is room for; True when it stopped short and wants to be called again soon."""
        self.pump_first()
        if self._refusals.reopened(self._monotonic()):
            self._cursor = 0
        for _ in range(READS_PER_TICK):
            wanted = READ_ROWS if self._refusals.holding else self._room()
            rows = self._outbox.pending(self._cursor, wanted) if self._room() > 0 else []
            for row in rows:
                if self._room() <= 0:
                    return False
                self._cursor = row.row_id
                if row.row_id not in self._sent_rows and self._refusals.may_send(row.topic):
                    self._send(row)
            if len(rows) < wanted or not rows:
                return False
        return True

    def settle(self, answer: Acknowledged) -> None:
        """Take the broker's answer to one message."""
        row = self._inflight.pop(answer.message_id, None)
        self._progress_s, self._answered = self._monotonic(), True
        if row is None:
            return
        if row.kind == ANSWER:
            if answer.refused_because is not None:
                log.warning("the answer on %s was refused: %s", row.topic, answer.refused_because)
            self._observe.published(row.kind, "refused" if answer.refused_because else "delivered", row)
        elif answer.refused_because is not None:
            self._refuse(row, answer.refused_because)
        elif row.row_id == 0:
            self._taken.add(row.topic)
            self._denied.pop(row.topic, None)
            self._observe.published(row.kind, "repeated", row)
        elif self._refusals.delivered(row.topic, row.row_id):
            self._delivered.append(row.row_id)
            self._observe.published(row.kind, "delivered", row)
        else:
            self._sent_rows.discard(row.row_id)

    def remove_delivered(self) -> None:
        """Take the acknowledged rows out of the outbox, all at once."""
        if self._delivered:
            self._outbox.remove(self._delivered)
            self._sent_rows.difference_update(self._delivered)
            self._delivered = []

    def _room(self) -> int:
        return self._window - len(self._inflight)

    def _send(self, row: OutboxRow) -> None:
        topic = f"{self._root}/{row.topic}"
        try:
            message_id = self._session.publish(topic, self._payload(row, topic), retain=row.retain)
        except (
            ValueError
        ) as error:  # cannot be carried: sent, it would end every session; so it waits like a refused one
            self._refuse(row, str(error))
            return
        if not self._inflight:
            self._progress_s = self._monotonic()
        self._inflight[message_id] = row
        if row.row_id:
            self._overtaken.add(row.topic)
            self._denied.pop(row.topic, None)
            self._sent_rows.add(row.row_id)
            self._refusals.sent(row.topic, row.row_id)

    def _send_answer(self, topic: str, payload: bytes, correlation: bytes | None) -> None:
        try:
            message_id = self._session.publish(topic, payload, retain=False, correlation=correlation)
        except ValueError as error:  # a topic with wildcards, for one: whoever asked for it gets nothing
            log.warning("an answer cannot be sent to %r: %s", topic[:100], error)
            return
        if not self._inflight:
            self._progress_s = self._monotonic()
        self._inflight[message_id] = OutboxRow(0, ANSWER, topic, "", False, None)

    def _payload(self, row: OutboxRow, topic: str) -> bytes:
        payload = stamped(row, self._now())
        packet_bytes = len(payload) + len(topic.encode()) + PACKET_HEAD_BYTES
        if packet_bytes > self._packet_limit_bytes:
            raise ValueError(f"{packet_bytes} bytes are above the broker's limit of {self._packet_limit_bytes}")
        return payload

    def _refuse(self, row: OutboxRow, reason: str) -> None:
        self._sent_rows.discard(row.row_id)
        new = self._refusals.refused(row.topic, self._monotonic()) if row.row_id else self._deny(row)
        fate = "it stays in the outbox and its topic waits" if row.row_id else "it is tried again"
        log.log(
            logging.WARNING if new else logging.DEBUG,
            "message on %s/%s refused: %s; %s", self._root, row.topic, reason, fate,
        )  # fmt: skip
        self._observe.published(row.kind, "refused", row)

    def _deny(self, row: OutboxRow) -> bool:
        """Keep what no outbox keeps; True when its topic was not refused before."""
        if row.topic in self._overtaken:
            return True
        denied = self._denied.get(row.topic)
        new = denied is None
        if denied is None:
            denied = self._denied[row.topic] = _Denied(None, Backoff(self._jitter), 0.0)
        denied.row = denied.row or row
        denied.retry_at_s = self._monotonic() + denied.backoff.next_s()
        return new

"""Outbox to MQTT: a row leaves the outbox when, and only when, the broker has taken responsibility for it.

`tick()` belongs to the one thread that does the work; it never waits for the network. What a lost session left
unacknowledged goes out again in the next one, so a message may come twice (its id is the same) but is never lost. No
paho queue is relied on: it lives in memory only (paho #223, #634).

Refuses to know what a reading is, how rows are stored, and which thread or clock drives it.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from monitor.bulletin_body import NodeStatus
from monitor.delivery import Backoff, Delivery
from monitor.mqtt_login import MqttSettings
from monitor.mqtt_session import Connected, Ended, Event, MqttSession, Received, Session, Subscribed, Will
from monitor.outbox import Outbox, OutboxRow, PublishObserver, SilentObserver, stamped

__all__ = ["MqttSettings", "Outbox", "OutboxRow", "PublishObserver", "Publisher", "Reply", "SilentObserver", "Will"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reply:
    """Where the answer to a command goes: in which session, on which topic (None: nowhere), with what beside it."""

    session: int
    topic: str | None
    correlation: bytes | None


FIRST_REASSERT_S = 10.0  # the last session's will may come after our birth: it does not stand for long
REASSERT_STATUS_S = 300.0  # an old session's will can land after our birth (wallbox-mqtt-bridge #107)
CONNECT_LIMIT_S = 15.0  # amqtt, for one, never answers a v5 CONNECT
LEAVE_LIMIT_S = 30.0  # how long an old network thread may hold up the next session
STRIKES = 3  # sessions in a row that end on one and the same row before its topic is laid aside


class Publisher:
    """Says everything in the outbox to one broker, session after session, until `stop`.

    `root` is `pellucid/v1/<site>/<node>`; `now` gives aware UTC, `monotonic` seconds; `wake` is called from paho's
    thread whenever a tick has something to do and must not block. Errors of the outbox and the observer pass through
    `tick`, which may then be called again.
    """

    def __init__(
        self,
        settings: MqttSettings,
        root: str,
        outbox: Outbox,
        *,
        boot_id: str,
        version: str,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
        wake: Callable[[], None],
        observe: PublishObserver | None = None,
        jitter: Callable[[], float] = random.random,
        open_session: Callable[[Will], Session] | None = None,
        on_command: Callable[[str, bytes, Reply], None] | None = None,
    ) -> None:
        client_id = "-".join(["pellucid", *root.split("/")[2:]])
        self._settings, self._root, self._outbox = settings, root, outbox
        self._boot_id, self._version = boot_id, version
        self._now, self._monotonic, self._wake = now, monotonic, wake
        self._observe = observe or SilentObserver()
        self._open_session = open_session or (lambda will: MqttSession(settings, client_id, will, wake))
        self._on_command = on_command
        self._deaf_because: str | None = None
        self._jitter = jitter
        self._backoff = Backoff(jitter)

        self._session: Session | None = None
        self._delivery: Delivery | None = None  # there while connected
        self._leaving: Session | None = None  # the last session, whose thread may still live
        self._greeted = False
        self._number = 0
        self._stopped = False
        self._next_attempt_s = self._began_s = self._reassert_s = monotonic()
        self._born_at = now()
        self._ended_on: OutboxRow | None = None
        self._strikes = 0

    @property
    def connected(self) -> bool:
        """True from the broker's taking our birth to the end of the session.

        A broker that lets us in and then denies us our own topics is none we are connected to (v5 only: with 3.1.1 it
        drops them without a word).
        """
        return self._greeted

    @property
    def session(self) -> int:
        """Number of the current or last session; 0 before the first attempt."""
        return self._number

    @property
    def inflight(self) -> int:
        """Messages sent in this session and not yet answered."""
        return 0 if self._delivery is None else self._delivery.inflight

    def tick(self) -> None:
        """Do what can be done without waiting: connect, take the broker's answers, send what is due."""
        if self._stopped:
            return
        if self._session is None:
            self._try_to_connect()
        self._take_events()
        self._reassert_status()
        self._pump()

    def publish_now(self, topic: str, body: str, retain: bool) -> bool:
        """Say a coalesced message (health, incubator status; `topic` below the root) once, outside the outbox.

        False, and forgotten, where there is no connection: the next one replaces it anyway. A newer body replaces one
        of the same topic that has not left yet.
        """
        if self._delivery is None:
            return False
        self._delivery.say_first(OutboxRow(0, "status", topic, body, retain, None))
        self._delivery.pump_first()
        return True

    def answer(self, reply: Reply, body: str) -> None:
        """Answer a command, where its sender asked for it and the session it came in still stands. Never waits."""
        if not reply.topic:
            return
        if self._delivery is None or reply.session != self._number:
            log.warning("an answer is not sent: the session its command came in has ended")
            return
        if not self._may_answer_on(reply.topic):
            log.warning("an answer is not sent: its topic lies among the monitor's own", extra={"topic": reply.topic})
            return
        self._delivery.answer(reply.topic, body.encode(), reply.correlation)
        self._delivery.pump_first()

    def _may_answer_on(self, topic: str) -> bool:
        """Whoever may command us must not speak through us on topics that only we may write."""
        ours = topic == "pellucid" or topic.startswith("pellucid/")
        return not topic.startswith("$") and (not ours or topic.startswith(f"{self._root}/answer/"))

    def stop(self, grace_s: float) -> None:
        """Deliver what can be within `grace_s`, say "stopped" and goodbye, so that the will is not sent.

        Returns within `grace_s` + 1 s whatever the broker does; what was not acknowledged stays in the outbox.
        """
        until_s = self._monotonic() + grace_s
        while self._delivery is not None and self._monotonic() < until_s:
            if not self._pump() and self._delivery.inflight == 0:
                break
            self._take_events(0.02)
        self._say_stopped()
        self._stopped = True
        if self._session is not None:
            session = self._session
            if self._delivery is not None:
                session.disconnect()
                session.join(0.3)
            self._end("stopped")
            session.join(0.2)

    def _say_stopped(self) -> None:
        until_s = self._monotonic() + 0.4
        if self._delivery is not None:
            self._delivery.say_last(self._status("stopped", self._now()))
        while self._delivery is not None and self._delivery.says("status") and self._monotonic() < until_s:
            self._delivery.pump_first()
            self._take_events(0.02)

    def _try_to_connect(self) -> None:
        now_s = self._monotonic()
        if now_s < self._next_attempt_s:
            return
        if self._leaving is not None and self._leaving.alive and now_s - self._next_attempt_s < LEAVE_LIMIT_S:
            return  # two threads of one client id would push each other out
        self._number = self._outbox.next_session()
        self._leaving, self._began_s = None, now_s
        will = Will(f"{self._root}/status", stamped(self._status("offline", None), self._now()))
        try:
            self._session = self._open_session(will)
        except (OSError, ValueError) as error:
            self._postpone(f"cannot begin: {error}")

    def _take_events(self, timeout_s: float = 0.0) -> None:
        """Take every event there is, waiting at most `timeout_s` for the first."""
        while self._session is not None:
            event = self._session.next_event(timeout_s) or self._overdue()
            if event is None:
                break
            self._take(event)
            timeout_s = 0.0
        if self._delivery is not None:
            self._delivery.remove_delivered()

    def _take(self, event: Event) -> None:
        if isinstance(event, Ended):
            self._end(event.reason)
        elif isinstance(event, Connected):
            self._welcome(event)
        elif isinstance(event, Received):
            self._hear(event)
        elif isinstance(event, Subscribed):
            self._listening(event)
        elif self._delivery is not None:
            self._backoff.reset()  # only now: a broker that accepts and hangs up is not to be called every second
            self._delivery.settle(event)
            if not self._greeted and self._delivery.has_taken("status"):
                self._greeted = True
                self._observe.connected(True, self._number)

    def _hear(self, message: Received) -> None:
        name = message.topic.removeprefix(f"{self._root}/command/")
        if self._on_command is None or name == message.topic:
            return
        if message.retained:  # it would act anew in every session
            log.warning("a retained command is not heard", extra={"command": name[:64]})
            return
        self._on_command(name, message.payload, Reply(self._number, message.reply_to, message.correlation))

    def _listening(self, answer: Subscribed) -> None:
        if answer.refused_because is not None and answer.refused_because != self._deaf_because:
            log.warning(
                "commands are not heard: %s; the broker's access list has to let us read %s/command/+",
                answer.refused_because, self._root,
            )  # fmt: skip
        self._deaf_because = answer.refused_because

    def _overdue(self) -> Ended | None:
        if self._delivery is not None:
            return Ended("nothing acknowledged for too long") if self._delivery.overdue() else None
        late = self._monotonic() - self._began_s >= CONNECT_LIMIT_S
        silent = f"no answer to CONNECT in {CONNECT_LIMIT_S:.0f} s; look at mqtt.protocol (5 or 311) and mqtt.port"
        return Ended(silent) if late else None

    def _welcome(self, limits: Connected) -> None:
        if self._session is None:
            return
        retained = self._outbox.retained()  # said again below: Mosquitto loses retained state on kill -9
        self._delivery = Delivery(
            self._session,
            limits,
            self._outbox,
            self._root,
            self._observe,
            max_inflight=self._settings.max_inflight,
            jitter=self._jitter,
            now=self._now,
            monotonic=self._monotonic,
        )
        log.info("MQTT session %d with %s, %s", self._number, self._where(), limits.tls_version or "no TLS")
        self._born_at, self._reassert_s = self._now(), self._monotonic() + FIRST_REASSERT_S
        self._delivery.say_first(self._status("online", self._born_at))
        if self._strikes >= STRIKES and self._ended_on is not None:
            log.warning("%d sessions ended on %s/%s; it is laid aside", self._strikes, self._root, self._ended_on.topic)
            self._delivery.suspect(self._ended_on.topic)
        for row in retained:
            self._delivery.say_first(row)
        if self._on_command is not None:
            self._session.subscribe(f"{self._root}/command/+")

    def _end(self, reason: str) -> None:
        session, delivery = self._session, self._delivery
        self._session, self._delivery, self._leaving = None, None, session
        if session is not None:
            session.abandon()
        if not self._stopped:
            self._postpone(reason)
        if self._greeted:
            self._greeted = False
            self._observe.connected(False, self._number)
        if delivery is not None:
            self._count_strike(delivery)
            delivery.remove_delivered()

    def _count_strike(self, delivery: Delivery) -> None:
        row = delivery.oldest_unanswered()
        if row is not None:
            self._strikes = self._strikes + 1 if row == self._ended_on else 1
            self._ended_on = row

    def _postpone(self, reason: str) -> None:
        delay_s = self._backoff.next_s()
        self._next_attempt_s = self._monotonic() + delay_s
        log.warning("MQTT session %d with %s: %s; next attempt in %.1f s", self._number, self._where(), reason, delay_s)

    def _pump(self) -> bool:
        """True when there is more to look through than one tick may take."""
        more = self._delivery is not None and self._delivery.pump()
        if more:
            self._wake()
        return more

    def _reassert_status(self) -> None:
        if self._delivery is not None and self._monotonic() >= self._reassert_s:
            self._reassert_s = self._monotonic() + REASSERT_STATUS_S
            self._delivery.say_first(self._status("online", self._born_at))

    def _status(self, status: Literal["online", "stopped", "offline"], occurred_at: datetime | None) -> OutboxRow:
        """`occurred_at` is null in the will: when it is handed over nobody knows when we shall be gone."""
        body = NodeStatus(
            id=f"{self._boot_id}-{self._number}-{status}",
            status=status,
            boot_id=self._boot_id,
            session=self._number,
            version=self._version,
            occurred_at=occurred_at,
        )
        return OutboxRow(0, "status", "status", body.model_dump_json(by_alias=True), True, None)

    def _where(self) -> str:
        return f"{self._settings.host}:{self._settings.port}"

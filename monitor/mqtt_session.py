"""One MQTT session: one paho client, one network thread, one will, used once and thrown away.

A new client for every session, because the will must carry that session's number and because nothing of an old
session's queue may be sent again behind our back: what is still to be said is read from the outbox again.

paho's callbacks only put an event into a queue and call `wake`; every decision is taken by the thread that asks for
`next_event`. This room refuses to know the outbox, when to connect again, and what the messages say.
"""

from __future__ import annotations

import logging
import queue
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from monitor import mqtt_faults
from monitor.mqtt_login import MqttSettings, check_host, read_password, tls_context

log = logging.getLogger(__name__)

QOS = 1  # never 2: Mosquitto 2.0.11 silently lost 10 to 80 % of a QoS 2 burst
TCP_TIMEOUT_S = 5.0
MQTT_RECEIVE_MAXIMUM = 65_535  # MQTT 5, 3.2.2.3.3: what an absent Receive Maximum means
MQTT_PACKET_LIMIT_BYTES = 268_435_455  # the most a variable byte integer can announce


@dataclass(frozen=True)
class Will:
    """What the broker says, retained, on `topic` when the session ends without a goodbye."""

    topic: str
    payload: bytes


@dataclass(frozen=True)
class Connected:
    """The broker accepted the session; how many unacknowledged messages and what packet size it takes.

    `tls_version`: for example "TLSv1.3", None without TLS.
    """

    receive_maximum: int = MQTT_RECEIVE_MAXIMUM
    packet_limit_bytes: int = MQTT_PACKET_LIMIT_BYTES
    tls_version: str | None = None


@dataclass(frozen=True)
class Acknowledged:
    """The broker answered one message; `refused_because` is None where it took responsibility for it."""

    message_id: int
    refused_because: str | None = None


@dataclass(frozen=True)
class Received:
    """A message on a topic that was subscribed to. `reply_to` and `correlation`: v5 only, where an answer is wanted."""

    topic: str
    payload: bytes
    retained: bool
    reply_to: str | None = None
    correlation: bytes | None = None


@dataclass(frozen=True)
class Subscribed:
    """The broker's answer to a subscription; `refused_because` is None where it will send."""

    refused_because: str | None = None


@dataclass(frozen=True)
class Ended:
    """The session is over (or never came about); nothing more will be acknowledged in it."""

    reason: str


Event = Connected | Acknowledged | Received | Subscribed | Ended


class Session(Protocol):
    """What the publisher needs of a session; `fakes.ScriptedSession` is one without a broker."""

    @property
    def alive(self) -> bool: ...
    def next_event(self, timeout_s: float = 0.0) -> Event | None: ...
    def publish(self, topic: str, payload: bytes, *, retain: bool, correlation: bytes | None = None) -> int: ...
    def subscribe(self, topics: str) -> None: ...
    def disconnect(self) -> None: ...
    def abandon(self) -> None: ...
    def join(self, timeout_s: float) -> bool: ...


class MqttSession:
    """A session that begins to connect, in paho's own thread, as soon as it is made.

    Password, authorities, certificate and key are read from their files here, so each new session takes what an
    operator has put there since. Raises ValueError that names the key where a file cannot be read or it, or the host,
    makes no sense; never waits for the network. Without a will (`check`) nothing is said when the line is cut.
    """

    def __init__(self, settings: MqttSettings, client_id: str, will: Will | None, wake: Callable[[], None]) -> None:
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._wake = wake
        self._settings = settings
        self._abandoned = self._accepted = False
        self._fault: OSError | None = None  # why the line went down, where paho only tells its log
        check_host(settings.host)
        self._client = self._make_client(settings, client_id, will)
        self._client.connect_async(
            settings.host,
            settings.port,
            keepalive=settings.keepalive_s,
            clean_start=True if settings.protocol == 5 else paho.MQTT_CLEAN_START_FIRST_ONLY,
        )
        self._client.loop_start()
        # paho shows its thread nowhere, yet it can die in silence (paho #894) and loop_stop() joins it without a limit.
        self._thread: threading.Thread | None = self._client._thread

    def _make_client(self, settings: MqttSettings, client_id: str, will: Will | None) -> paho.Client:
        v5 = settings.protocol == 5
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=None if v5 else True,
            protocol=MQTTProtocolVersion.MQTTv5 if v5 else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
        )
        client.suppress_exceptions = True  # a callback that raises must not end the network thread (paho #894)
        client.on_log = self._on_log
        client.max_inflight_messages_set(0)  # the publisher counts; a second limit would only hide messages from it
        client.reconnect_delay_set(0, 0)  # after a failed connection its thread would linger for a second
        client.connect_timeout = TCP_TIMEOUT_S
        if will is not None:
            client.will_set(will.topic, will.payload, qos=QOS, retain=True)
        if settings.username is not None:
            client.username_pw_set(settings.username, read_password(settings.password_file))
        if settings.tls:
            client.tls_set_context(tls_context(settings))
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        client.on_subscribe = self._on_subscribe
        client.on_socket_open = self._on_socket_open
        return client

    @property
    def alive(self) -> bool:
        """True while the network thread lives."""
        return self._thread is not None and self._thread.is_alive()

    def next_event(self, timeout_s: float = 0.0) -> Event | None:
        """The oldest event not yet taken, or None where none came within `timeout_s`.

        A network thread that died without a word is an `Ended` too, once all it left has been taken.
        """
        alive = self.alive  # asked before the queue: an event put just before the thread ended must come first
        try:
            return self._events.get(timeout=timeout_s)
        except queue.Empty:
            return None if alive else Ended("the network thread died")

    def publish(self, topic: str, payload: bytes, *, retain: bool, correlation: bytes | None = None) -> int:
        """Hand one QoS 1 message to the network thread; returns its message id. `correlation` goes with an answer.

        Never waits for the network; where the line is down the session's end follows. Raises ValueError for what
        cannot be carried.
        """
        properties = None
        if correlation is not None and self._settings.protocol == 5:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.CorrelationData = correlation
        message = self._client.publish(topic, payload, qos=QOS, retain=retain, properties=properties)
        if message.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:
            raise ValueError("no message id is free")
        return message.mid

    def subscribe(self, topics: str) -> None:
        """Ask for messages on these topics; a `Subscribed` follows. What was retained is not asked for (v5)."""
        if self._settings.protocol == 5:
            wanted = SubscribeOptions(qos=QOS, noLocal=True, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
            self._client.subscribe(topics, options=wanted)
        else:
            self._client.subscribe(topics, qos=QOS)

    def disconnect(self) -> None:
        """Say goodbye: the broker will not send the will."""
        self._client.disconnect()

    def abandon(self) -> None:
        """Cut the line without a goodbye, at once: the broker sends the will. Harmless when already over."""
        self._abandoned = True
        sock = self._client.socket()
        if isinstance(sock, socket.socket):
            _cut(sock)
        else:
            self._client.disconnect()  # no line yet: this only tells paho's thread not to wait and try again

    def join(self, timeout_s: float) -> bool:
        """Wait at most `timeout_s` for the network thread to end; True when it has."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return not self.alive

    def _tell(self, event: Event) -> None:
        self._events.put(event)
        self._wake()

    def _on_connect(self, _c: paho.Client, _u: Any, _f: Any, reason: ReasonCode, properties: Properties | None) -> None:
        if reason.is_failure:
            self._tell(Ended(mqtt_faults.refused(str(reason), reason.value)))
            return
        self._accepted = True
        sock = self._client.socket()
        self._tell(
            Connected(
                getattr(properties, "ReceiveMaximum", MQTT_RECEIVE_MAXIMUM),
                getattr(properties, "MaximumPacketSize", MQTT_PACKET_LIMIT_BYTES),
                sock.version() if isinstance(sock, ssl.SSLSocket) else None,
            )
        )

    def _on_connect_fail(self, _c: paho.Client, _u: Any) -> None:
        # paho tells no reason, but calls us while it handles the OSError
        self._tell(Ended(mqtt_faults.no_connection(sys.exc_info()[1], self._settings)))

    def _on_disconnect(self, _c: paho.Client, _u: Any, flags: Any, reason: ReasonCode, _p: Any) -> None:
        if flags.is_disconnect_packet_from_server:
            self._tell(Ended(f"the broker ended the session: {reason} ({reason.value})"))
        elif not self._accepted:
            self._tell(Ended(mqtt_faults.hung_up(self._fault, self._settings)))
        else:
            self._tell(Ended(f"the connection ended: {self._fault or reason}"))

    def _on_publish(self, _c: paho.Client, _u: Any, message_id: int, reason: ReasonCode, _p: Any) -> None:
        # An ACL denial shows only here and only in MQTT 5 (reason 135); in 3.1.1 the broker acknowledges and drops.
        because = mqtt_faults.not_taken(str(reason), reason.value) if reason.is_failure else None
        self._tell(Acknowledged(message_id, because))

    def _on_message(self, _c: paho.Client, _u: Any, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:  # paho decodes it here; a topic that is no text is none of ours
            return
        properties = message.properties
        reply_to = getattr(properties, "ResponseTopic", None)
        correlation = getattr(properties, "CorrelationData", None)
        self._tell(Received(topic, bytes(message.payload), bool(message.retain), reply_to, correlation))

    def _on_subscribe(self, _c: paho.Client, _u: Any, _mid: int, reasons: list[ReasonCode], _p: Any) -> None:
        refused = next((reason for reason in reasons if reason.is_failure), None)
        self._tell(Subscribed(None if refused is None else mqtt_faults.not_taken(str(refused), refused.value)))

    def _on_log(self, _c: paho.Client, _u: Any, _level: int, text: str) -> None:
        # paho calls every lost line an error; that is told once, with its reason, by whoever takes the event
        error = sys.exc_info()[1]  # paho logs from within its `except`, and tells the error nobody else
        if isinstance(error, OSError):
            self._fault = error
        log.log(logging.ERROR if text.startswith("Caught exception") else logging.DEBUG, "paho: %s", text)

    def _on_socket_open(self, _c: paho.Client, _u: Any, sock: Any) -> None:
        if self._abandoned:  # connected too late: as the same client id it would push out the session that came after
            _cut(sock)


def _cut(sock: socket.socket) -> None:
    """Shut a socket that another thread may be using; below TLS, whose own shutdown is not thread-safe."""
    try:
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    except OSError as error:
        log.debug("the line was already down: %s", error)

"""A reader of what a node says, over the broker like any other. It knows topics and payloads only.

The demo's table is fed from here: by what arrived, not by what was meant.
"""

from __future__ import annotations

import json
import queue
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion


class Subscriber:
    """Collects messages below a root. `messages` holds (topic below the root, payload) in order of arrival."""

    def __init__(self, host: str, port: int, root: str, protocol: int = mqtt.MQTTv311) -> None:
        self._root = root
        self.messages: queue.SimpleQueue[tuple[str, dict[str, Any] | None]] = queue.SimpleQueue()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion(protocol))
        self._client.on_connect = self._subscribe
        self._client.on_message = self._take
        self._client.connect(host, port)
        self._client.loop_start()

    def _subscribe(self, client: mqtt.Client, *_: object) -> None:
        client.subscribe(f"{self._root}/#", qos=1)

    def _take(self, _client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage) -> None:
        topic = message.topic.removeprefix(f"{self._root}/")
        self.messages.put((topic, json.loads(message.payload) if message.payload else None))

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

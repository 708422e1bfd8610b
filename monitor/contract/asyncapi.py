"""The AsyncAPI 3 document: every topic, what is said on it, and the commands with their answers.

It says what `deploy/contract.md` says, for machines; whoever has this file alone can build a subscriber.
"""

from __future__ import annotations

import re
from typing import Any

from monitor.contract.schemas import ANSWER, HEARD, SAID, Message, parts

Document = dict[str, Any]
ROOT = "pellucid/v1/{site}/{node}"
PARAMETERS = {
    "site": "The clinic or laboratory: [site] name.",
    "node": "The machine: [site] node.",
    "incubator": "One of its incubators, by its configured name.",
    "dish": "A dish, as the incubator's files name it.",
    "well": "A well of the dish.",
    "alert_id": "The same from `raised` to `cleared`.",
}
WORD = "One topic word: 1 to 64 of A-Z a-z 0-9 . _ -"
SUMMARIES = {
    "reading": "What is told of one frame of one embryo.",
    "event": "What happened to an embryo, said once.",
    "alert": "One word about one alert.",
    "status": "Whether the node is online; also its will.",
    "health": "How the node is, every 60 s.",
    "incubator": "How one incubator is, every 60 s and when it changes.",
    "answer": "The answer to a command.",
    "command-acknowledge": "Somebody has taken note of an alert.",
    "command-insemination": "Time zero of the embryo in a well, for its readings from then on.",
    "command-assess": "An embryologist's own assessment of the embryo in a well.",
    "command-end": "The embryo has left its well: its run ends and its topics are cleared.",
}
CLEARS = (
    "Retained. An empty payload clears the topic: the run has ended (reading), the alert is cleared (alert). "
    "The same fact has the same `id` however often it is sent."
)


def document() -> Document:
    """The whole document. Raises ValueError where two schemas share a name."""
    schemas, names = parts()
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Pellucid",
            "version": "1.0.0",
            "description": (
                "A streaming monitor for IVF time-lapse incubators. Research use, not validated on patients; "
                "adjunctive information only. Adding topics, keys and words is `v1`: take no offence at what you do "
                "not know. Changing or removing is `v2`."
            ),
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "broker": {
                "host": "{host}:{port}",
                "protocol": "mqtt",
                "protocolVersion": "5.0",
                "description": "The clinic's broker; 3.1.1 works as well, without answers to commands. TLS: mqtts.",
                "variables": {"host": {"default": "broker.lab"}, "port": {"default": "1883"}},
            }
        },
        "channels": {**{one.name: _channel(one) for one in (*SAID, *HEARD)}, "answer": _answers()},
        "operations": {
            **{f"say-{one.name}": _says(one) for one in SAID},
            **{f"hear-{one.name}": _hears(one) for one in HEARD},
        },
        "components": {
            "messages": {one.name: _message(one, names[one.name]) for one in (*SAID, ANSWER, *HEARD)},
            "schemas": schemas,
        },
    }


def _channel(message: Message) -> Document:
    address = f"{ROOT}/{message.topic}"
    return {
        "address": address,
        "description": CLEARS if message.name in ("reading", "alert") else SUMMARIES[message.name],
        "messages": {message.name: {"$ref": f"#/components/messages/{message.name}"}},
        "parameters": {
            name: {"description": f"{PARAMETERS[name]} {WORD}"} for name in re.findall(r"\{(\w+)\}", address)
        },
    }


def _answers() -> Document:
    return {
        "address": None,
        "description": "The response topic that the command named (MQTT v5). Without one there is no answer.",
        "messages": {"answer": {"$ref": "#/components/messages/answer"}},
    }


def _says(message: Message) -> Document:
    return {
        "action": "send",
        "summary": SUMMARIES[message.name],
        "channel": {"$ref": f"#/channels/{message.name}"},
        "messages": [{"$ref": f"#/channels/{message.name}/messages/{message.name}"}],
        "bindings": {"mqtt": {"qos": 1, "retain": message.retained, "bindingVersion": "0.2.0"}},
    }


def _hears(message: Message) -> Document:
    return {
        "action": "receive",
        "summary": SUMMARIES[message.name],
        "channel": {"$ref": f"#/channels/{message.name}"},
        "messages": [{"$ref": f"#/channels/{message.name}/messages/{message.name}"}],
        "bindings": {"mqtt": {"qos": 1, "retain": False, "bindingVersion": "0.2.0"}},
        "reply": {
            "address": {"location": "$message.header#/responseTopic", "description": "MQTT v5 Response Topic."},
            "channel": {"$ref": "#/channels/answer"},
            "messages": [{"$ref": "#/channels/answer/messages/answer"}],
        },
    }


def _message(message: Message, schema: str) -> Document:
    made: Document = {
        "name": message.name,
        "summary": SUMMARIES[message.name],
        "contentType": "application/json",
        "payload": {"$ref": f"#/components/schemas/{schema}"},
    }
    if message in HEARD:
        made["bindings"] = {
            "mqtt": {
                "responseTopic": {"type": "string", "description": "Where the answer is to go."},
                "correlationData": {"type": "string", "description": "Comes back with the answer, as it is."},
                "bindingVersion": "0.2.0",
            }
        }
    return made

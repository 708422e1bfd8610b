"""A JSON Schema (2020-12) for each kind of message, made from its model.

What the node says is told as it is sent, with what is added on the way. It is open: a reader must take no offence at a
key it does not know, since adding stays `v1`. What the node hears (commands) is closed, as the node itself is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from monitor.alert import Alert
from monitor.bulletin_body import Health, IncubatorStatus, NodeStatus
from monitor.command_body import COMMANDS, Answer
from monitor.event import Event
from monitor.vocabulary import Reading

Schema = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"
TIME = {"type": "string", "format": "date-time"}
STAMPS: Schema = {
    "published_at": {**TIME, "description": "When this copy was sent. Copies of one id differ in it."},
    "historical": {"type": "boolean", "description": "Sent over 300 s after the frame's last file was complete."},
}


@dataclass(frozen=True)
class Message:
    """A kind of message: its model, its words below the root, whether it is retained, and what it carries besides."""

    name: str
    model: type[BaseModel]
    topic: str
    retained: bool = False
    counted: bool = False  # it has a `seq`
    stamped: bool = True  # it has `published_at` and `historical`


SAID = (
    Message("reading", Reading, "embryo/{incubator}/{dish}/{well}/reading", retained=True, counted=True),
    Message("event", Event, "embryo/{incubator}/{dish}/{well}/event", counted=True),
    Message("alert", Alert, "alert/{alert_id}", retained=True, counted=True),
    Message("status", NodeStatus, "status", retained=True),
    Message("health", Health, "health", retained=True),
    Message("incubator", IncubatorStatus, "incubator/{incubator}/status", retained=True),
)
ANSWER = Message("answer", Answer, "", stamped=False)
HEARD = tuple(Message(f"command-{name}", model, f"command/{name}", stamped=False) for name, model in COMMANDS.items())


def schemas() -> dict[str, Schema]:
    """name -> the whole schema of each kind of message."""
    return {message.name: _whole(message) for message in (*SAID, ANSWER, *HEARD)}


def parts() -> tuple[dict[str, Schema], dict[str, str]]:
    """Every model's schema by its own name, each `$ref` below `#/components/schemas/`; and message -> name of its own.

    Raises ValueError where two messages mean different things by one name.
    """
    together: dict[str, Schema] = {}
    names: dict[str, str] = {}
    for message in (*SAID, ANSWER, *HEARD):
        whole = _moved(_whole(message))
        own = message.model.__name__
        found = {**whole.pop("$defs", {}), own: {key: value for key, value in whole.items() if key[0] != "$"}}
        for name, schema in found.items():
            if together.setdefault(name, schema) != schema:
                raise ValueError(f"two schemas are named {name}")
        names[message.name] = own
    return dict(sorted(together.items())), names


def _whole(message: Message) -> Schema:
    mode: Literal["validation", "serialization"] = "validation" if message in HEARD else "serialization"
    model = message.model
    _, made = models_json_schema([(model, mode)], ref_template="#/$defs/{model}")
    definitions = {name: _plain(schema, open_=message not in HEARD) for name, schema in made["$defs"].items()}
    schema = definitions.pop(model.__name__)
    properties, required = dict(schema["properties"]), set(schema.get("required", ()))
    if message.counted:  # absent from a replay, never from what is sent
        properties["seq"] = {"type": "integer", "minimum": 1, "description": "Counts readings, events and alerts."}
        properties["boot_id"] = {"type": "string", "description": "Of the process that recorded it."}
        required |= {"seq", "boot_id"}
    if message.stamped:
        properties |= STAMPS
        required |= set(STAMPS)
    schema |= {"title": message.name, "properties": properties, "required": sorted(required)}
    return {"$schema": DIALECT, **schema, **({"$defs": definitions} if definitions else {})}


def _plain(schema: Schema, open_: bool) -> Schema:
    """Without what says nothing to a reader: titles made from names, and (`open_`) the ban on further keys."""
    if open_:
        schema.pop("additionalProperties", None) if schema.get("additionalProperties") is False else None
    return {key: _untitled(value) for key, value in schema.items() if key != "title"}


def _untitled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _untitled(one) for key, one in value.items() if key != "title" or not isinstance(one, str)}
    return [_untitled(one) for one in value] if isinstance(value, list) else value


def _moved(value: Any) -> Any:
    """References as they are within an AsyncAPI document."""
    if isinstance(value, dict):
        return {
            key: one.replace("#/$defs/", "#/components/schemas/") if key == "$ref" else _moved(one)
            for key, one in value.items()
        }
    return [_moved(one) for one in value] if isinstance(value, list) else value

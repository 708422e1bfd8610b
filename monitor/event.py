"""What happened to an embryo, said once: the event. In this version one kind, `grade`: the result of day 5."""

from __future__ import annotations

import hashlib
from typing import Literal

from pydantic import Field

from monitor.body import INTENDED_USE, Body, Time
from monitor.day5_body import Day5
from monitor.vocabulary import EmbryoName, Place


class Event(Body):
    """Schema `pellucid.event/1`. `id` is stable; `seq` counts readings, events and alerts of this node without gaps; it
    and `boot_id` are absent from a replay. `supersedes`: the event before it of the same kind and embryo."""

    schema_: Literal["pellucid.event/1"] = Field(default="pellucid.event/1", alias="schema")
    id: str
    seq: int | None = None
    boot_id: str | None = None
    occurred_at: Time | None
    kind: Literal["grade"] = "grade"
    revision: int
    supersedes: str | None
    embryo: EmbryoName
    day5: Day5
    intended_use: str = INTENDED_USE

    def body(self) -> str:
        """The JSON text that is journalled and sent."""
        absent = {name for name in ("seq", "boot_id") if getattr(self, name) is None}
        return self.model_dump_json(by_alias=True, exclude=absent)


def event_id(site: str, node: str, embryo_id: str, kind: str, frame_key: str, revision: int) -> str:
    """32 hex digits of SHA-256 over what it is about, not over what it says."""
    text = "\n".join((site, node, embryo_id, kind, frame_key, str(revision)))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def event_topic(place: Place) -> str:
    """Below the root."""
    return f"embryo/{place.incubator}/{place.dish}/{place.well}/event"

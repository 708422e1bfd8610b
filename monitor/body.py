"""What every told thing is made of: a frozen body, times as texts, and what it is meant for."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Annotated

from pydantic import BaseModel, ConfigDict, PlainSerializer, WithJsonSchema

INTENDED_USE = "research use, not validated on patients; adjunctive information only"


def rfc3339(moment: datetime) -> str:
    """`2026-01-31T06:10:00Z`; a fraction only where there is one (milliseconds)."""
    utc = moment.astimezone(timezone.utc)
    text = utc.isoformat(timespec="milliseconds" if utc.microsecond else "seconds")
    return text.replace("+00:00", "Z")


Time = Annotated[
    datetime,
    PlainSerializer(rfc3339, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]


class Body(BaseModel):
    """Of what is told: frozen, and no key that is not declared."""

    model_config = ConfigDict(extra="forbid", frozen=True)

"""What waits to be said: the row, the store it waits in, and the payload as it leaves.

Refuses to know how rows are stored (that is the journal) and how they travel (that is `publish`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from monitor.vocabulary import rfc3339

HISTORICAL_AFTER_S = 300.0


@dataclass(frozen=True)
class OutboxRow:
    """One message to be said: `topic` below the root, `body` a JSON object without what is only known when sending.

    An empty body clears a retained topic. `complete_at`: when the frame's last file was complete (aware UTC), None for
    what no frame caused. `row_id` 0: not in the outbox (retained state said again, status, health).
    """

    row_id: int
    kind: str
    topic: str
    body: str
    retain: bool
    complete_at: datetime | None


class Outbox(Protocol):
    """Where messages wait on disk."""

    def pending(self, after_row: int, limit: int) -> list[OutboxRow]:
        """At most `limit` rows with a row id above `after_row`, ordered by row id."""

    def remove(self, row_ids: Sequence[int]) -> None:
        """Forget acknowledged rows; ids no longer there are no error."""

    def next_session(self) -> int:
        """A number that grows by one at each call and survives a restart."""

    def retained(self) -> list[OutboxRow]:
        """The latest message of each retained topic that has no pending row, with row id 0.

        An empty body here clears the topic at each connect: for topics cleared so lately that a broker killed before
        it saved may bring them back.
        """


class PublishObserver(Protocol):
    """Where the numbers go. Called in the worker's thread, after the publisher's own state is settled."""

    def connected(self, up: bool, session: int) -> None:
        """The broker took the birth of session number `session`, or that session ended."""

    def published(self, kind: str, outcome: str, row: OutboxRow) -> None:
        """The broker answered. `outcome` is one of

        "delivered"  the row leaves the outbox
        "repeated"   taken, but no row of the outbox: retained state said again, status, health
        "refused"    not taken, by the broker or because it cannot be carried; a row stays in the outbox
        """


class SilentObserver:
    """Counts nothing."""

    def connected(self, up: bool, session: int) -> None:
        """Nothing to do."""

    def published(self, kind: str, outcome: str, row: OutboxRow) -> None:
        """Nothing to do."""


def stamped(row: OutboxRow, now: datetime) -> bytes:
    """The payload as it leaves now: the body's own bytes, then `published_at` and `historical`.

    Raises ValueError where the body is neither empty nor the text of a JSON object.
    """
    if not row.body:
        return b""
    if not (row.body.startswith("{") and row.body.endswith("}")):
        raise ValueError("the body is not a JSON object")
    late = row.complete_at is not None and (now - row.complete_at).total_seconds() > HISTORICAL_AFTER_S
    comma = "" if row.body == "{}" else ", "
    tail = f'{comma}"published_at": "{rfc3339(now)}", "historical": {"true" if late else "false"}}}'
    return (row.body[:-1] + tail).encode()

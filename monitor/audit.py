"""The audit: a chain of rows in the journal, each with the hash of the one before it, for whoever must be able to say
later what was told, from what, by which software and which models.

A row is written in the transaction of the thing it is about. What stands in a table of its own (a reading, a word of an
alert, an event) is not stored twice: the chain holds the digest of that row, `ref` is its key. It knows rows and
digests; what they mean is the journal's, and whether the chain holds is asked in `monitor.audit_check`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from monitor.database import Reads
from monitor.last_frames import sortable

GENESIS = "0" * 64  # before the first row
# kind of row -> the table its `ref` is a key of, and the column of the key
KEPT_ELSEWHERE = {"reading": ("reading", "id"), "alert": ("alert", "number"), "event": ("day5", "id")}
# the rows that are remembered of one embryo and change with its frames
STANDING = (
    ("run", "embryo_id = ?1"),
    ("state", "embryo_id = ?1"),
    ("judged", "embryo_id = ?1"),
    ("watching", "subject = 'embryo/' || ?1"),
    ("time_zero", "embryo_id = ?1"),
    ("assessment", "embryo_id = ?1"),
)
REST = (
    *((table, "TRUE") for table in ("meta", "outbox", "open_alert", "cleared", "last_frame", "command")),
    ("watching", "subject NOT LIKE 'embryo/%'"),
)


@dataclass(frozen=True)
class Link:
    """One row of the chain, as it is stored. `body` is canonical JSON."""

    number: int
    kind: str
    subject: str
    recorded_at: str
    ref: str | None
    body: str
    previous: str
    hash: str

    def computed(self) -> str:
        """The hash that belongs to what the row says."""
        return link_hash(self.number, self.kind, self.subject, self.recorded_at, self.ref, self.body, self.previous)


COLUMNS = "number, kind, subject, recorded_at, ref, body, previous, hash"


class Audit:
    """Appends to the chain; inside a transaction that somebody else has opened."""

    def __init__(self, db: Reads) -> None:
        self._db = db

    def append(self, kind: str, subject: str, body: Mapping[str, object], at: datetime, ref: str | None = None) -> Link:
        """One row more; as it was written. `body` must be JSON."""
        number, previous = self.head()
        text, recorded_at = canonical(body), sortable(at)
        made = link_hash(number + 1, kind, subject, recorded_at, ref, text, previous)
        link = Link(number + 1, kind, subject, recorded_at, ref, text, previous, made)
        self._db.execute(
            f"INSERT INTO audit ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (link.number, kind, subject, recorded_at, ref, text, previous, made),
        )
        return link

    def append_kept(self, kind: str, subject: str, key: str | int, body: Mapping[str, object], at: datetime) -> Link:
        """One row about a row that was put into a table of its own: its digest, and `body`."""
        table, column = KEPT_ELSEWHERE[kind]
        row = self._db.execute(f"SELECT * FROM {table} WHERE {column} = ?", (key,)).fetchone()
        return self.append(kind, subject, {"row": row_digest(row), **body}, at, str(key))

    def append_change(self, kind: str, subject: str, value: Mapping[str, object], at: datetime) -> Link | None:
        """One row where `value` is not what it was when last said: what it is now, and each key that has changed with
        what it was and is. None where nothing changed."""
        before = self.last(subject)
        was = {} if before is None else json.loads(before.body)["value"]
        if before is not None and was == json.loads(canonical(value)):
            return None
        changed = {} if before is None else differences(was, value)
        return self.append(kind, subject, {"value": value, "changed": changed}, at)

    def head(self) -> tuple[int, str]:
        """Number and hash of the last row; (0, zeros) before the first."""
        row = self._db.execute("SELECT number, hash FROM audit ORDER BY number DESC LIMIT 1").fetchone()
        return (0, GENESIS) if row is None else (int(row[0]), str(row[1]))

    def last(self, subject: str) -> Link | None:
        """The last row about a subject."""
        row = self._db.execute(
            f"SELECT {COLUMNS} FROM audit WHERE subject = ? ORDER BY number DESC LIMIT 1", (subject,)
        ).fetchone()
        return None if row is None else Link(*row)

    def standing(self, embryo_id: str) -> str:
        """The digest of all that is remembered of an embryo between its frames."""
        return self.digest_of((table, where, (embryo_id,)) for table, where in STANDING)

    def files(self, frame: tuple[str, str, str, str]) -> str:
        """The digest of the rows of a frame's files; a frame is incubator, dish, well, key."""
        return self.digest_of([("file", "incubator = ? AND dish = ? AND well = ? AND frame_key = ?", frame)])

    def file(self, incubator: str, path: str) -> str:
        """The digest of the rows of one file."""
        return self.digest_of([("file", "incubator = ? AND path = ?", (incubator, path))])

    def rest(self) -> str:
        """The digest of what belongs to no embryo and no frame: counters, the outbox, what stands open or cleared."""
        return self.digest_of((table, where, ()) for table, where in REST)

    def digest_of(self, parts: Iterable[tuple[str, str, tuple[object, ...]]]) -> str:
        """One digest of the rows of several tables that meet a condition, each in order of its primary key."""
        whole = hashlib.sha256()
        for table, where, values in parts:
            index = "INDEXED BY file_of_frame " if "frame_key" in where else ""  # see `FileTable`
            rows = self._db.execute(f"SELECT * FROM {table} {index}WHERE {where}", values).fetchall()
            for text in sorted(map(_row_text, rows)):
                whole.update(f"{table} {text}\n".encode())
        return whole.hexdigest()


def canonical(value: object) -> str:
    """The one JSON text of a value: keys sorted, no spaces. Raises ValueError for what is no number."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def link_hash(number: int, kind: str, subject: str, recorded_at: str, ref: str | None, body: str, previous: str) -> str:
    """SHA-256 over the canonical JSON of what a row says and the hash before it."""
    text = canonical([number, kind, subject, recorded_at, ref, body, previous])
    return hashlib.sha256(text.encode()).hexdigest()


def row_digest(row: tuple[object, ...]) -> str:
    """SHA-256 of a row of another table, all its columns in order; bytes as hex."""
    return hashlib.sha256(_row_text(row).encode()).hexdigest()


def _row_text(row: tuple[object, ...]) -> str:
    return canonical([{"hex": value.hex()} if isinstance(value, bytes) else value for value in row])


def differences(was: Mapping[str, object], now: Mapping[str, object], at: str = "") -> dict[str, list[object]]:
    """dotted key -> [before, after], of what differs; a list is looked at as a whole, absent is null."""
    found: dict[str, list[object]] = {}
    for key in sorted({*was, *now}):
        before, after = was.get(key), now.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found |= differences(before, after, f"{at}{key}.")
        elif canonical(before) != canonical(after):
            found[f"{at}{key}"] = [before, after]
    return found

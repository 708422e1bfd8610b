"""What is kept no longer: the chain's oldest rows go, and with them all that they tell of; the rest still holds.

A row `pruned` at the chain's end says what was removed and holds the hash of the last row that went, so that a
beginning cut off by anybody else is found. What still stands is said again from the chain, never from the tables, so
that pruning makes no change good that nobody wrote. It works inside a transaction that somebody else has opened; it
knows no clock.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile
from typing import Any

from monitor.audit import COLUMNS, KEPT_ELSEWHERE, Audit, Link, row_digest
from monitor.database import Database
from monitor.last_frames import read_time, sortable

LEAST_DAYS = 183  # six months
SLICE_ROWS = 500  # of the chain, in one transaction: frames do not wait for it
_OF_EMBRYO = ("run", "time_zero", "assessment", "state", "judged", "feature")
Told = tuple[Link, dict[str, Any]]  # a row, and its body read


@dataclass(frozen=True)
class Pruned:
    """`rows` of the chain up to number `through` were removed."""

    rows: int
    through: int


class Retention:
    """Rows that go, over one database connection."""

    def __init__(self, database: Database, audit: Audit) -> None:
        self._db, self._audit = database.connection, audit

    def since(self) -> datetime | None:
        """What is older was removed; None where nothing ever was."""
        last = self._audit.last("pruned")
        return None if last is None else read_time(json.loads(last.body)["before"])

    def silent_runs(self, before: datetime) -> list[str]:
        """Open runs of which nothing was recorded since."""
        runs = self._db.execute("SELECT embryo_id FROM run WHERE ended IS NULL ORDER BY number").fetchall()
        last = {embryo_id: self._audit.last(f"embryo/{embryo_id}") for (embryo_id,) in runs}
        return [embryo_id for embryo_id, link in last.items() if link and link.recorded_at < sortable(before)]

    def prune(self, before: datetime, now: datetime) -> Pruned | None:
        """Remove a slice of what was recorded before; None where nothing is left to go."""
        links = self._slice(before)
        if not links:
            return None
        last = links[-1]
        told = [(link, json.loads(link.body)) for link in links]
        later = self._later(told, last.number)
        self._say_again(told, later, last.number, now)
        body = {
            "through": last.number,
            "hash": last.hash,
            "rows": len(links),
            "from": links[0].recorded_at,
            "to": last.recorded_at,
            "before": sortable(before),
        }
        self._audit.append("pruned", "pruned", body, now)
        self._remove(told, later, last.number)
        self._db.execute("DELETE FROM audit WHERE number <= ?", (last.number,))
        return Pruned(len(links), last.number)

    def _slice(self, before: datetime) -> list[Link]:
        """The oldest rows, as far as nothing that waits to be told and no open run is left without its last row."""
        (oldest,) = self._db.execute("SELECT MIN(recorded_at) FROM outbox").fetchone()
        until = sortable(before if oldest is None else min(before, read_time(oldest)))
        rows = self._db.execute(f"SELECT {COLUMNS} FROM audit ORDER BY number LIMIT ?", (SLICE_ROWS,))
        links = list(takewhile(lambda link: link.recorded_at < until, (Link(*row) for row in rows.fetchall())))
        for (embryo_id,) in self._db.execute("SELECT embryo_id FROM run WHERE ended IS NULL").fetchall():
            last = self._audit.last(f"embryo/{embryo_id}")
            if last is not None and links and last.number <= links[-1].number:
                links = [link for link in links if link.number < last.number]
        return links

    # -- what still stands ---------------------------------------------------------------------------------------------

    def _later(self, told: Sequence[Told], through: int) -> dict[str, set[str]]:
        """subject -> what its rows after these tell of: their keys, frames and paths. Read once for a slice, not for
        each frame of it: frames wait meanwhile."""
        subjects = {link.subject for link, _ in told}
        subjects |= {f"incubator/{frame.split('/')[0]}" for _, body in told for frame in body.get("files", {})}
        later: dict[str, set[str]] = {subject: set() for subject in subjects}
        for subject, names in later.items():
            query = "SELECT body FROM audit WHERE subject = ? AND number > ?"
            for (text,) in self._db.execute(query, (subject, through)):
                body = json.loads(text)
                names.update(body, body.get("files", ()), body.get("aside", ()))
        return later

    def _say_again(self, told: Sequence[Told], later: dict[str, set[str]], through: int, now: datetime) -> None:
        """What the last row about a thing said, where that row goes and the thing stays."""
        values = {link.subject: (link, body) for link, body in told if "value" in body}
        for subject, (link, body) in values.items():
            if "value" not in later[subject]:
                self._audit.append(link.kind, subject, {**body, "changed": {}, "said_again": link.number}, now)
        starts = [(link, body) for link, body in told if link.kind == "start"]
        if starts and "version" not in later["start"]:  # it names the software of a boot
            link, body = starts[-1]
            self._audit.append("start", "start", {**body, "said_again": link.number}, now)
        for subject, standing in {link.subject: body["standing"] for link, body in told if "standing" in body}.items():
            if not self._is_gone(subject, through) and "standing" not in later[subject]:
                self._audit.append("kept", subject, {"standing": standing, "said_again": True}, now)
        refs = {link.ref for link, _ in told if link.kind == "alert"}
        open_before = {alert_id: digest for _, body in told for alert_id, digest in body.get("open_alerts", {}).items()}
        still: dict[str, str] = {}
        for (alert_id,) in self._db.execute("SELECT alert_id FROM open_alert").fetchall():
            row = self._db.execute(
                "SELECT number, body FROM alert WHERE alert_id = ? ORDER BY revision DESC LIMIT 1", (alert_id,)
            ).fetchone()
            if row is not None and str(row[0]) in refs:
                still[alert_id] = row_digest((row[1],))
            elif row is None and alert_id in open_before:
                still[alert_id] = open_before[alert_id]
        if still:
            self._audit.append("kept", "node", {"open_alerts": still, "said_again": True}, now)

    def _is_gone(self, subject: str, through: int) -> bool:
        """Nothing more is told of an embryo after these rows."""
        last = self._audit.last(subject)
        return subject.startswith("embryo/") and (last is None or last.number <= through)

    # -- what goes -----------------------------------------------------------------------------------------------------

    def _remove(self, told: Sequence[Told], later: dict[str, set[str]], through: int) -> None:
        for kind, (table, column) in KEPT_ELSEWHERE.items():
            keys = [(link.ref,) for link, _ in told if link.kind == kind]
            self._db.executemany(f"DELETE FROM {table} WHERE {column} = ?", keys)
        for subject in sorted({link.subject for link, _ in told}):
            if self._is_gone(subject, through):
                for table in _OF_EMBRYO:
                    self._db.execute(f"DELETE FROM {table} WHERE embryo_id = ?", (subject.removeprefix("embryo/"),))
        for link, body in told:
            for frame in body.get("files", {}):
                incubator, dish, well, key = frame.split("/")
                if frame not in later[link.subject] and frame not in later[f"incubator/{incubator}"]:
                    self._db.execute(
                        "DELETE FROM file WHERE incubator = ? AND dish = ? AND well = ? AND frame_key = ?",
                        (incubator, dish, well, key),
                    )
            for path in body.get("aside", {}):
                if path not in later[link.subject]:
                    self._db.execute(
                        "DELETE FROM file WHERE incubator = ? AND path = ? AND frame_key IS NULL",
                        (link.subject.removeprefix("incubator/"), path),
                    )

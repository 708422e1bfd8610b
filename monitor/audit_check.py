"""Does the journal still say what was written? Walks the chain from its first row to its last and holds against it
every row that the chain covers.

It finds what was changed, added, left out or moved. It cannot find that somebody wrote the whole chain anew, nor that
its last rows are gone: for that the head's hash must have been kept elsewhere (`pellucid.health/1` tells it every
minute) and be given here. It reads a connection and changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from monitor.audit import COLUMNS, GENESIS, KEPT_ELSEWHERE, REST, STANDING, Audit, Link, row_digest
from monitor.blind import withheld
from monitor.database import Connection, Damage, expected_schema
from monitor.vocabulary import Reading

MOST_FAULTS = 20  # are told; the first one is what matters


@dataclass(frozen=True)
class Fault:
    """What is not as it was written. `row`: the row of the chain that it shows at, None where no row names it."""

    row: int | None
    text: str

    def __str__(self) -> str:
        return self.text if self.row is None else f"row {self.row}: {self.text}"


@dataclass
class Report:
    """`faults` in order of the rows they show at; `covered`: rows of each table that were held against the chain."""

    rows: int = 0
    head: tuple[int, str] = (0, GENESIS)
    sealed: bool = False
    pruned_through: int = 0
    covered: dict[str, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)


def check(db: Connection, heads: Mapping[int, str] | None = None) -> Report:
    """The whole check. `heads`: number -> hash of heads that were kept elsewhere."""
    walk = _Walk(db, dict(heads or {}))
    try:
        walk.structure()
        walk.chain()
        walk.ends()
    except Damage as fault:
        walk.blame(walk.report.rows or None, f"the file itself is damaged here or after: {fault}")
    report = walk.report
    report.faults.sort(key=lambda one: (one.row is None, one.row or 0))
    return report


class _Walk:
    """One walk; what the last row about each thing said is gathered on the way."""

    def __init__(self, db: Connection, heads: dict[int, str]) -> None:
        self._db, self._heads, self._audit = db, heads, Audit(db)
        self.report = Report()
        self._standing: dict[str, tuple[int, str]] = {}  # embryo -> what its last row says of it
        self._files: dict[str, int] = {}  # frames whose files are not what their last row says
        self._aside: dict[tuple[str, str], tuple[int, str]] = {}
        self._features: dict[tuple[str, str, int], tuple[int, str]] = {}
        self._alerts: dict[str, tuple[int, str]] = {}  # alerts that stand open -> digest of their last word
        self._anchor: tuple[int, int, str] | None = None  # at which row, rows removed through, the hash of the last
        self._first: Link | None = None
        self._open: set[str] = set()

    def blame(self, row: int | None, text: str) -> None:
        self.report.faults.append(Fault(row, text))

    def _rows(self, query: str, values: Sequence[object] = ()) -> Iterator[tuple[Any, ...]]:
        return self._db.rows(query, values)

    # -- the file ------------------------------------------------------------------------------------------------------

    def structure(self) -> None:
        """Pages, indexes and the tables' own text."""
        for (text,) in self._rows(f"PRAGMA integrity_check({MOST_FAULTS})"):
            if text != "ok":
                self.blame(None, f"the file's structure: {text}")
        found = {name: " ".join(sql.split()) for name, sql in self._rows(_SCHEMA_QUERY)}
        for name, sql in expected_schema().items():
            if found.pop(name, None) != sql:
                self.blame(None, f"`{name}` is not the table or index that this version makes")
        for name in found:
            self.blame(None, f"`{name}` does not belong into a journal")

    # -- the chain -----------------------------------------------------------------------------------------------------

    def chain(self) -> None:
        self._open = {embryo for (embryo,) in self._rows("SELECT embryo_id FROM run WHERE ended IS NULL")}
        number, previous = 0, GENESIS
        for row in self._rows(f"SELECT {COLUMNS} FROM audit ORDER BY number"):
            link = Link(*row)
            if self._first is None:
                self._first = link
                if link.number != 1:  # what was before was pruned; `ends` asks for the anchor
                    number, previous = link.number - 1, link.previous
            self._link(link, number, previous)
            number, previous = link.number, link.hash
            self.report.rows += 1
        self.report.head = (number, previous)

    def _link(self, link: Link, number: int, previous: str) -> None:
        if link.number != number + 1:
            self.blame(link.number, f"rows {number + 1} to {link.number - 1} before it are missing")
        if link.previous != previous:
            self.blame(link.number, "it does not hang on the row before it")
        if link.computed() != link.hash:
            self.blame(link.number, f"it ({link.kind}, {link.subject}) is not what was written")
            return
        if (known := self._heads.pop(link.number, None)) is not None and known != link.hash:
            self.blame(link.number, "its hash is not the one that was kept elsewhere: the chain was written anew")
        self._follow(link, json.loads(link.body))

    def _follow(self, link: Link, body: dict[str, Any]) -> None:
        """Hold against the chain what a row speaks of; remember what only the last row about a thing can tell."""
        self.report.sealed = link.kind == "stop"
        if link.kind == "stop":
            self._sealed = (link.number, str(body["rest"]))
        if link.kind == "pruned":
            self._anchor = (link.number, int(body["through"]), str(body["hash"]))
        if link.kind in KEPT_ELSEWHERE:
            self._kept(link, body)
        embryo_id = link.subject.removeprefix("embryo/")
        if "standing" in body:
            self._standing[embryo_id] = (link.number, str(body["standing"]))
        for frame, digest in body.get("files", {}).items():
            self._files.pop(frame, None)
            incubator, dish, well, key = frame.split("/")
            if self._audit.files((incubator, dish, well, key)) != digest:
                self._files[frame] = link.number
        for path, (_, digest) in body.get("aside", {}).items():
            self._aside[link.subject.removeprefix("incubator/"), path] = (link.number, str(digest))
        if embryo_id in self._open:
            for model, number, digest in body.get("features", []):
                self._features[embryo_id, model, number] = (link.number, str(digest))
        for alert_id, digest in body.get("open_alerts", {}).items():
            self._alerts[alert_id] = (link.number, str(digest))

    def _kept(self, link: Link, body: dict[str, Any]) -> None:
        table, column = KEPT_ELSEWHERE[link.kind]
        row = next(self._rows(f"SELECT * FROM {table} WHERE {column} = ?", (link.ref,)), None)
        self.report.covered[table] = self.report.covered.get(table, 0) + 1
        if row is None:
            self.blame(link.number, f"the {link.kind} that it tells of is gone")
        elif row_digest(row) != body["row"]:
            self.blame(link.number, f"the {link.kind} that it tells of was changed ({_name(row)})")
        elif link.kind == "alert":
            word = json.loads(row[-1])
            self._alerts[word["alert_id"]] = (link.number, row_digest((row[-1],)))
            if word["state"] == "cleared":
                del self._alerts[word["alert_id"]]

    # -- what is left at the end ---------------------------------------------------------------------------------------

    def ends(self) -> None:
        self._beginning()
        for number in sorted(self._heads):
            self.blame(number, "it was there when its hash was kept elsewhere, and is not in the chain")
        for frame, number in self._files.items():
            self.blame(number, f"the rows of the files of {frame} were changed")
        self._strangers()
        self._embryos()
        self._files_aside()
        self._vectors()
        self._open_alerts()
        self._outbox()
        if self.report.sealed and self._audit.rest() != self._sealed[1]:
            self.blame(self._sealed[0], f"something in {', '.join(sorted({table for table, _ in REST}))} was changed")

    def _beginning(self) -> None:
        if self._first is None:
            if next(self._rows("SELECT 1 FROM reading LIMIT 1"), None) is not None:
                self.blame(None, "there is no chain")
            return
        first, anchor = self._first, self._anchor
        if first.number == 1:
            return
        if anchor is None or anchor[1:] != (first.number - 1, first.previous):
            self.blame(first.number, "the rows before it are missing, and no row says that they were pruned")
        else:
            self.report.pruned_through = anchor[1]

    def _strangers(self) -> None:
        """Rows that no row of the chain tells of."""
        for kind, (table, column) in KEPT_ELSEWHERE.items():
            (count,) = next(self._rows(f"SELECT COUNT(*) FROM {table}"))
            if count == self.report.covered.get(table, 0):
                continue
            told = f"SELECT ref FROM audit WHERE kind = '{kind}'"
            query = f"SELECT {column} FROM {table} WHERE CAST({column} AS TEXT) NOT IN ({told}) LIMIT {MOST_FAULTS}"
            for (key,) in self._rows(query):
                self.blame(None, f"the {kind} {key} was added: no row of the chain tells of it")

    def _embryos(self) -> None:
        for embryo_id, (number, digest) in self._standing.items():
            if self._audit.standing(embryo_id) != digest:
                tables = ", ".join(table for table, _ in STANDING)
                self.blame(number, f"what is remembered of {embryo_id} was changed (in {tables})")
        for table in ("run", "state", "judged"):
            for (embryo_id,) in self._rows(f"SELECT DISTINCT embryo_id FROM {table}"):
                if embryo_id not in self._standing:
                    self.blame(None, f"a row of {embryo_id} was added to `{table}`")
        for (subject,) in self._rows("SELECT DISTINCT subject FROM watching WHERE subject LIKE 'embryo/%'"):
            if subject.removeprefix("embryo/") not in self._standing:
                self.blame(None, f"a row of {subject} was added to `watching`")

    def _files_aside(self) -> None:
        seen = set()
        for incubator, path in self._rows("SELECT DISTINCT incubator, path FROM file WHERE frame_key IS NULL"):
            seen.add((incubator, path))
            number, digest = self._aside.get((incubator, path), (None, ""))
            if self._audit.file(incubator, path) != digest:
                self.blame(number, f"the row of the file {path} of {incubator}, put aside, was changed or added")
        told = "SELECT 1 FROM file WHERE incubator = ? AND path = ?"
        for incubator, path in self._aside.keys() - seen:
            if next(self._rows(told, (incubator, path)), None) is None:
                self.blame(self._aside[incubator, path][0], f"the row of the file {path} of {incubator} is gone")
        unread = "SELECT 1 FROM reading r WHERE r.embryo_id = f.embryo_id AND r.frame_key = f.frame_key"
        query = f"SELECT path FROM file f WHERE frame_key IS NOT NULL AND NOT EXISTS ({unread})"
        for (path,) in self._rows(query):
            self._lone_file(path)

    def _lone_file(self, path: str) -> None:
        """A file of a frame of which no reading tells: there only where its readings were pruned."""
        if not self.report.pruned_through:
            self.blame(None, f"a row of the file {path} was added, or its frame's reading is gone")

    def _vectors(self) -> None:
        for embryo_id, model, number, *_ in self._rows("SELECT embryo_id, model, number FROM feature"):
            query = "SELECT * FROM feature WHERE embryo_id = ? AND model = ? AND number = ?"
            row = next(self._rows(query, (embryo_id, model, number)))
            told, digest = self._features.pop((embryo_id, model, number), (None, ""))
            if row_digest(row) != digest:
                self.blame(told, f"vector {number} of {embryo_id} was changed or added")
        for (embryo_id, _, number), (told, _) in self._features.items():
            self.blame(told, f"vector {number} of {embryo_id} is gone")

    def _open_alerts(self) -> None:
        for alert_id, body in self._rows("SELECT alert_id, body FROM open_alert"):
            number, digest = self._alerts.pop(alert_id, (None, ""))
            if row_digest((body,)) != digest:
                self.blame(number, f"what stands open of alert {alert_id} is not its last word")
        for alert_id, (number, _) in self._alerts.items():
            self.blame(number, f"alert {alert_id} stood open and is gone")

    def _outbox(self) -> None:
        """Nothing waits to be said that was not recorded."""
        lost = "SELECT row_id FROM outbox WHERE reading IS NOT NULL AND reading NOT IN (SELECT id FROM reading)"
        for (row_id,) in self._rows(lost):
            self.blame(None, f"outbox row {row_id} waits with a reading that is not there")
        for row_id, body in self._rows("SELECT row_id, body FROM outbox WHERE body != ''"):
            if not self._recorded(body):
                self.blame(None, f"outbox row {row_id} waits with a message that nothing has recorded")

    def _recorded(self, body: str) -> bool:
        try:
            said = json.loads(body)
            if "alert_id" in said:
                query, key = "alert WHERE alert_id = ? AND revision = ?", (said["alert_id"], said["revision"])
                return next(self._rows(f"SELECT body FROM {query}", key), None) == (body,)
            if "day5" in said and "kind" in said:  # said again when its embryo is disclosed, under another number
                kept = next(self._rows("SELECT body FROM day5 WHERE id = ?", (said["id"],)), ("{}",))
                return _unnumbered(json.loads(kept[0])) == _unnumbered(said)
            rows = self._rows("SELECT body FROM reading WHERE embryo_id = ?", (said["embryo"]["embryo_id"],))
            return any(withheld(Reading.model_validate_json(kept)).body() == body for (kept,) in rows)
        except (ValueError, KeyError, TypeError):
            return False


def _unnumbered(said: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in said.items() if key not in ("seq", "boot_id")}


_SCHEMA_QUERY = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'"


def _name(row: tuple[Any, ...]) -> str:
    return " ".join(str(value) for value in row[:6] if value is not None)

"""The journal's own things as rows of the audit: a frame, words of alerts, the end of a run, files put aside.

Each belongs into the transaction of the thing itself, after it was put. It decides nothing and puts no other row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

from monitor.alert import Alert
from monitor.alert_table import AlertTable
from monitor.audit import KEPT_ELSEWHERE, Audit
from monitor.database import Database
from monitor.entry import Entry
from monitor.feature_table import FeatureTable
from monitor.file_table import FileRecord, FileTable, FrameOf
from monitor.outcome_table import OutcomeTable
from monitor.runs import Run

GOING_ON_ROWS = 2000  # a second's work or less, also on a slow disk
T = TypeVar("T")


class AuditRows:
    """Over one database connection and the tables whose rows the chain tells of."""

    def __init__(
        self,
        database: Database,
        audit: Audit,
        alerts: AlertTable,
        files: FileTable,
        features: FeatureTable,
        outcomes: OutcomeTable,
    ) -> None:
        self._db, self._audit = database.connection, audit
        self._alerts, self._files, self._features, self._outcomes = alerts, files, features, outcomes

    def aside(self, records: Sequence[FileRecord], touched: set[FrameOf], now: datetime) -> None:
        """Files that were put aside; `touched`: frames whose files are others by that."""
        aside: dict[str, dict[str, object]] = {}
        for one in records:
            row = self._audit.file(one.incubator, one.file.path)
            aside.setdefault(one.incubator, {})[one.file.path] = [one.reason, row]
        for incubator, files in aside.items():
            body = {"aside": files, "files": self._files_of(touched)}
            self._audit.append("put_aside", f"incubator/{incubator}", body, now)

    def adopt(self, now: datetime, going_on: Callable[[], None] = lambda: None) -> None:
        """Rows from before there was an audit: their digests as they are now. Years of them take minutes; `going_on` is
        called all along."""
        for kind, (table, column) in KEPT_ELSEWHERE.items():
            about = "subject" if table == "alert" else "'embryo/' || embryo_id"
            rows = self._db.execute(f"SELECT {column}, {about} FROM {table}").fetchall()
            for key, subject in _telling(rows, GOING_ON_ROWS, going_on):
                self._audit.append_kept(kind, subject, key, {"adopted": True}, now)
        runs = self._db.execute("SELECT embryo_id FROM run ORDER BY number").fetchall()
        for (embryo_id,) in _telling(runs, 1, going_on):  # each with its thousands of files
            body: dict[str, object] = {"adopted": True, "standing": self._audit.standing(embryo_id)}
            body["files"] = self._files_of(self._files.frames_of(embryo_id))
            body["features"] = self._features.digests(embryo_id)
            self._audit.append("kept", f"embryo/{embryo_id}", body, now)
        for incubator, files in self._files.aside().items():
            telling = _telling(files, GOING_ON_ROWS, going_on)
            aside = {path: [reason, self._audit.file(incubator, path)] for path, reason in telling}
            self._audit.append("put_aside", f"incubator/{incubator}", {"adopted": True, "aside": aside}, now)
        if runs:
            going_on()  # to commit so much takes a while too

    def frame(self, entry: Entry, stood: str, before: Mapping[str, str], touched: set[FrameOf], now: datetime) -> None:
        """What a frame has made of an embryo: its reading, from which pictures, the memories before and after."""
        embryo_id = entry.run.embryo_id
        after = self.states_of(embryo_id)
        told: dict[str, object] = {"standing": self._audit.standing(embryo_id), "files": self._files_of(touched)}
        told["pictures"] = {str(one.plane_um): one.sha256 for one in entry.files if one.sha256 is not None}
        told["states"] = {model: [before.get(model), after.get(model)] for model in sorted({*before, *after})}
        if entry.features:
            numbers = [(row.model, row.number) for row in entry.features]
            told["features"] = self._features.digests(embryo_id, numbers)
        if entry.reading is not None:
            self._audit.append_kept("reading", f"embryo/{embryo_id}", entry.reading.id, told, now)
        elif told["standing"] != stood or touched:
            self._audit.append("kept", f"embryo/{embryo_id}", told, now)

    def words(self, words: Iterable[Alert], now: datetime) -> None:
        """Words of alerts that were put."""
        for word in words:
            key = self._alerts.number(word)
            self._audit.append_kept("alert", word.subject.key, key, {}, now)

    def end(self, run: Run, reason: str, now: datetime) -> None:
        """A run is over, and what is known of its embryo."""
        body = {"why": reason, "standing": self._audit.standing(run.embryo_id)}
        self._audit.append("run_ended", f"embryo/{run.embryo_id}", body, now)
        self._outcomes.end(run.place.incubator, run.embryo_id, now)

    def _files_of(self, frames: Iterable[FrameOf]) -> dict[str, str]:
        return {"/".join(frame): self._audit.files(frame) for frame in frames}

    def states_of(self, embryo_id: str) -> dict[str, str]:
        """model -> digest of what it remembers of an embryo."""
        return dict(self._db.execute("SELECT model, digest FROM state WHERE embryo_id = ?", (embryo_id,)).fetchall())


def _telling(rows: Iterable[T], every: int, going_on: Callable[[], None]) -> Iterator[T]:
    """The rows, and a word before every so many of them."""
    for number, row in enumerate(rows):
        if number % every == 0:
            going_on()
        yield row

"""SQLite: readings, files taken in, runs, digests of states and the outbox, in one transaction.

What is committed here is true and will be told; what is not committed has not happened. WAL with synchronous FULL: a
committed row survives kill -9 and loss of power. State bytes are not here but beside (`monitor.states`); this file
names their digests. It knows no engine, no broker and no folder, only rows.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from monitor.alert import Alert, AlertState
from monitor.alert_table import AlertTable, Verdict, alert_topic
from monitor.audit import Audit
from monitor.audit_rows import AuditRows
from monitor.blind import Blind, withheld
from monitor.database import Database
from monitor.day5_table import Day5Table, Worked
from monitor.entry import Deed, Entry, Recorded
from monitor.event import Event, event_topic
from monitor.feature_table import FeatureTable
from monitor.file_table import FileRecord, FileTable
from monitor.journal_reads import JournalReads, dump
from monitor.last_frames import LastFrames
from monitor.outbox_table import OutboxTable, reading_topic
from monitor.outcome_table import OutcomeTable
from monitor.retention import Pruned, Retention
from monitor.runs import Run
from monitor.vocabulary import Place, Reading

__all__ = ["Deed", "Entry", "Journal", "Recorded"]


class Journal(JournalReads):
    """One writer. `boot_id` stands in every reading recorded in this life; None (a replay) records no outbox rows.
    `blind_first`: what the models say of an embryo is not sent before it was assessed (`monitor.blind`).

    Raises ConfigError when another daemon holds the folder, StorageError when the file is damaged or of another schema.
    """

    def __init__(self, folder: Path, boot_id: str | None, blind_first: bool = False) -> None:
        self._boot_id = boot_id
        self._database = Database(folder)
        super().__init__(self._database)
        self.audit = Audit(self._db)
        self.outcomes = OutcomeTable(self._database, self.audit)
        self._retention = Retention(self._database, self.audit)
        self.kept_since = self._retention.since()  # read by other threads: what is older is no news
        self.alerts = AlertTable(self._database)
        self.files = FileTable(self._database)
        self.features = FeatureTable(self._database)
        self.blind = Blind(blind_first and boot_id is not None, self.commands.is_assessed)
        self.outbox = OutboxTable(self._database, self.alerts, self.blind)
        self.last_frames = LastFrames(self._database)
        self.day5 = Day5Table(self._database)
        self._rows = AuditRows(self._database, self.audit, self.alerts, self.files, self.features, self.outcomes)

    @property
    def is_new(self) -> bool:
        """It was made at this start: nothing that lies beside it was named by it."""
        return self._database.is_new

    def close(self) -> None:
        self._database.close()

    # -- the way in ----------------------------------------------------------------------------------------------------

    def commit(self, entries: Sequence[Entry], now: datetime, verdicts: Sequence[Verdict] = ()) -> Recorded:
        """All or nothing; `verdicts`: what all entries together decide.

        Raises StorageError (disk full, damage); then nothing has happened.
        """
        told: list[Reading] = []
        alerts: list[Alert] = []
        freed: set[str] = set()
        overlays: set[str] = set()
        with self._database.transaction():
            for entry in entries:
                embryo_id = entry.run.embryo_id
                stood = self.audit.standing(embryo_id) if entry.reading is None else ""
                before = self._rows.states_of(embryo_id)
                if entry.ended is not None:
                    freed |= self._end_run(*entry.ended, now)
                    overlays |= self.day5.end(entry.ended[0].embryo_id)
                self._put_run(entry.run)
                touched = self.files.put(entry.files)
                freed |= self._put_states(embryo_id, entry.states)
                for row in entry.features:
                    self.features.put(embryo_id, row)
                if entry.reading is not None:
                    told.append(self._put_reading(entry, entry.reading, now))
                words = self._put_verdicts(entry.verdicts, entry.complete_at, now)
                if entry.ended is not None:
                    self._rows.end(*entry.ended, now)
                self._rows.frame(entry, stood, before, touched, now)
                self._rows.words(words, now)
                alerts += words
            words = self._put_verdicts(verdicts, None, now)
            self._rows.words(words, now)
            alerts += words
            freed = {digest for digest in freed if not self._named(digest)}
            overlays = {digest for digest in overlays if not self.day5.named(digest)}
        return Recorded(told, alerts, freed, overlays)

    def record_day5(self, worked: Worked, now: datetime) -> tuple[Event, set[str]]:
        """Record what was made of an embryo's newest frame, and lay it into the outbox: the event as it will be told,
        and the overlays that no row names any more. Raises StorageError; then nothing has happened."""
        event = worked.event
        with self._database.transaction():
            tells = self._boot_id is not None and not self.blind.hides(event.embryo.embryo_id)
            event, embryo = self._numbered(event) if tells else event, event.embryo
            freed = self.day5.record(worked, event.body())
            if tells:
                self._send_event(event, now)
            standing = {"standing": self.audit.standing(embryo.embryo_id)}
            self.audit.append_kept("event", f"embryo/{embryo.embryo_id}", event.id, standing, now)
            freed = {digest for digest in freed if not self.day5.named(digest)}
        return event, freed

    def _numbered(self, event: Event) -> Event:
        return event.model_copy(update={"seq": self._database.count("seq"), "boot_id": self._boot_id})

    def _send_event(self, event: Event, now: datetime) -> None:
        query = "SELECT complete_at FROM reading WHERE id = ?"
        (complete_at,) = self._db.execute(query, (event.day5.frame.reading,)).fetchone()
        topic = event_topic(Place(event.embryo.incubator, event.embryo.dish, event.embryo.well))
        self.outbox.put("event", topic, None, False, complete_at, now, event.body())

    def _disclose(self, run: Run, now: datetime) -> None:
        """An embryo has been assessed: its newest reading and its last result are said as they are."""
        reading = self.newest_reading(run.embryo_id)
        if reading is not None:
            (complete_at,) = self._db.execute("SELECT complete_at FROM reading WHERE id = ?", (reading,)).fetchone()
            self.outbox.put("reading", reading_topic(run.place), reading, True, complete_at, now)
        if (last := self.day5.last(run.embryo_id)) is not None:
            self._send_event(self._numbered(last), now)

    def alerts_open(self) -> dict[str, int]:
        """kind -> how many stand open, of those that are not withheld."""
        if not self.blind.on:
            return self.alerts.open_counts()
        return dict(Counter(word.kind for word in self.alerts.standing() if not self.blind.hides_word(word)))

    def decide(self, verdicts: Sequence[Verdict], now: datetime) -> list[Alert]:
        """Record what was decided without a frame; the words as recorded."""
        with self._database.transaction():
            words = self._put_verdicts(verdicts, None, now)
            self._rows.words(words, now)
            for embryo_id in {one.subject.embryo_id for one in verdicts}:
                if embryo_id is not None:  # what is watched of it is another now
                    standing = {"standing": self.audit.standing(embryo_id)}
                    self.audit.append("watched", f"embryo/{embryo_id}", standing, now)
            return words

    def act(self, deed: Deed, now: datetime) -> Recorded:
        """Record what a command changes, with its answer. Raises StorageError; then nothing has happened."""
        freed: set[str] = set()
        overlays: set[str] = set()
        with self._database.transaction():
            if deed.answered is not None:
                self.commands.put(*deed.answered)
            if deed.time_zero is not None:
                self.commands.put_time_zero(deed.time_zero[0].embryo_id, deed.time_zero[1])
            if deed.assessed is not None:
                run, reading, assessment = deed.assessed
                discloses = self.blind.hides(run.embryo_id)
                self.commands.put_assessment(run.embryo_id, reading, assessment, now)
                if discloses:
                    self._disclose(run, now)
            if deed.ended is not None:
                freed, overlays = self._end_run(deed.ended, "command", now), self.day5.end(deed.ended.embryo_id)
            words = self._put_verdicts(deed.verdicts, None, now)
            if deed.ended is not None:
                self._rows.end(deed.ended, "command", now)
            self.audit.append("command", deed.subject, self._with_standing(deed.subject, deed.audit), now)
            self._rows.words(words, now)
            freed = {digest for digest in freed if not self._named(digest)}
            overlays = {digest for digest in overlays if not self.day5.named(digest)}
        return Recorded([], words, freed, overlays)

    def _with_standing(self, subject: str, body: Mapping[str, object]) -> dict[str, object]:
        kind, _, embryo_id = subject.partition("/")
        return {**body, "standing": self.audit.standing(embryo_id)} if kind == "embryo" else dict(body)

    def put_aside(self, records: Sequence[FileRecord], now: datetime) -> None:
        """Record files that will not be judged, with the reason. The pictures stay where they are."""
        with self._database.transaction():
            self._rows.aside(records, self.files.put(records), now)

    # -- the audit -----------------------------------------------------------------------------------------------------

    def begin(
        self,
        facts: Mapping[str, object],
        models: Mapping[str, object],
        now: datetime,
        going_on: Callable[[], None] = lambda: None,
    ) -> None:
        """A start: this software and boot, and what models serve, where that has changed. A journal from before there
        was an audit is taken into it as it stands; `going_on` is called while that lasts. Raises StorageError."""
        with self._database.transaction():
            if self.audit.head()[0] == 0:
                self._rows.adopt(now, going_on)
            self.audit.append("start", "start", {**facts, "boot_id": self._boot_id}, now)
            self.audit.append_change("models", "models", models, now)
            if self.blind.on:  # it may have been switched on while words were waiting
                self.outbox.withhold(now)

    def serves(self, models: Mapping[str, object], now: datetime) -> None:
        """What models serve, where it is not what it was: a runtime has taken another's place. Raises StorageError."""
        with self._database.transaction():
            self.audit.append_change("models", "models", models, now)

    def configured(self, config: Mapping[str, object], now: datetime) -> None:
        """What the operator has set, where it is not what it was. Raises StorageError."""
        with self._database.transaction():
            self.audit.append_change("config", "config", config, now)

    def freeze(self, incubator: str, reference: Mapping[str, tuple[float, float]], now: datetime) -> None:
        """What an incubator's first frames were like, for good. Raises StorageError."""
        with self._database.transaction():
            value = {feature: list(numbers) for feature, numbers in reference.items()}
            self.audit.append_change("reference", f"reference/{incubator}", value, now)

    def freeze_predictions(self, incubator: str, model: str, reference: dict[str, list[float]], now: datetime) -> None:
        """What a model predicted of an incubator's first embryos, for good. Raises StorageError."""
        with self._database.transaction():
            self.outcomes.freeze(incubator, model, reference, now)

    def reference(self, incubator: str) -> dict[str, tuple[float, float]] | None:
        """As it was frozen; None before."""
        last = self.audit.last(f"reference/{incubator}")
        if last is None:
            return None
        return {feature: (middle, unit) for feature, (middle, unit) in json.loads(last.body)["value"].items()}

    def seal(self, now: datetime) -> None:
        """A clean stop: the digest of every row that no embryo's own row covers, so that until the next start the whole
        file is held. Raises StorageError."""
        with self._database.transaction():
            self.audit.append("stop", "start", {"boot_id": self._boot_id, "rest": self.audit.rest()}, now)

    def silent_runs(self, before: datetime) -> list[Run]:
        """Open runs of which nothing was recorded since."""
        names = set(self._retention.silent_runs(before))
        query = "SELECT DISTINCT incubator, dish, well FROM run WHERE ended IS NULL"
        places = [Place(*row) for row in self._db.execute(query).fetchall()] if names else []
        return [run for place in places for run in self.runs(place) if run.embryo_id in names and run.ended is None]

    def expire(self, run: Run, verdicts: Sequence[Verdict], now: datetime) -> Recorded:
        """End a run of which nothing has come for longer than anything is kept. Raises StorageError."""
        with self._database.transaction():
            freed, overlays = self._end_run(run, "expired", now), self.day5.end(run.embryo_id)
            words = self._put_verdicts(verdicts, None, now)
            self._rows.end(run, "expired", now)
            self._rows.words(words, now)
            freed = {digest for digest in freed if not self._named(digest)}
            overlays = {digest for digest in overlays if not self.day5.named(digest)}
        return Recorded([], words, freed, overlays)

    def prune(self, before: datetime, now: datetime) -> Pruned | None:
        """Remove a slice of what was recorded before; None where nothing is left to go. Raises StorageError."""
        with self._database.transaction():
            pruned = self._retention.prune(before, now)
        if pruned is not None:
            self.kept_since = before
        return pruned

    def _put_run(self, run: Run) -> None:
        self._db.execute(
            "INSERT INTO run (embryo_id, incubator, dish, well, slide, first, latest, first_order, stepped_order, "
            "stepped_h, insemination, spent, unconfirmed, ended) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (embryo_id) DO UPDATE SET latest = excluded.latest, "
            "stepped_order = excluded.stepped_order, stepped_h = excluded.stepped_h, "
            "insemination = excluded.insemination, spent = excluded.spent, unconfirmed = excluded.unconfirmed",
            (
                *(run.embryo_id, run.place.incubator, run.place.dish, run.place.well, run.first.slide),
                *(dump(run.first), dump(run.latest), run.first.order, run.stepped_order, run.stepped_h),
                *(run.insemination and run.insemination.isoformat(), run.spent, run.unconfirmed, run.ended),
            ),
        )

    def _end_run(self, run: Run, reason: str, now: datetime) -> set[str]:
        """Its states go with it, since a late word of an ended run is never stepped; their digests are given."""
        self._db.execute("UPDATE run SET ended = ? WHERE embryo_id = ?", (reason, run.embryo_id))
        freed = self._db.execute("SELECT digest FROM state WHERE embryo_id = ?", (run.embryo_id,)).fetchall()
        self._db.execute("DELETE FROM state WHERE embryo_id = ?", (run.embryo_id,))
        self.features.drop(run.embryo_id)
        if self._boot_id is not None:
            self.outbox.put("clear", reading_topic(run.place), None, True, None, now)
        return {digest for (digest,) in freed}

    def _put_states(self, embryo_id: str, states: dict[str, str]) -> set[str]:
        replaced = set()
        for model, digest in states.items():
            before = self.state_digest(embryo_id, model)
            if before is not None and before != digest:
                replaced.add(before)
            self._db.execute("INSERT OR REPLACE INTO state VALUES (?, ?, ?)", (embryo_id, model, digest))
        return replaced

    def _put_reading(self, entry: Entry, reading: Reading, now: datetime) -> Reading:
        if self._boot_id is not None:
            reading = reading.model_copy(update={"seq": self._database.count("seq"), "boot_id": self._boot_id})
        place = entry.run.place
        newest = entry.moment.order >= entry.run.latest.order and self._is_open(reading.embryo.embryo_id)
        complete_at = None if entry.complete_at is None else entry.complete_at.isoformat()
        self._db.execute(
            "INSERT INTO reading VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(reading.id, place.incubator, place.dish, place.well, reading.embryo.embryo_id, entry.moment.key),
                *(entry.moment.order, reading.revision, complete_at, reading.body()),
            ),
        )
        if newest:
            self._db.execute(
                "UPDATE run SET latest_reading = ? WHERE embryo_id = ?", (reading.id, reading.embryo.embryo_id)
            )
        if self._is_open(reading.embryo.embryo_id):
            self.day5.judged(reading, entry.moment.key, entry.moment.order, entry.elapsed_h)
        if self._boot_id is not None:
            self.last_frames.record(reading, now)
            # only the newest frame may stand in the retained topic: a late word about an old one must not replace it
            topic = reading_topic(place)
            if self.blind.hides(reading.embryo.embryo_id):
                self.outbox.put("reading", topic, None, newest, complete_at, now, withheld(reading).body())
            else:
                self.outbox.put("reading", topic, reading.id, newest, complete_at, now)
        return reading

    def _put_verdicts(self, verdicts: Iterable[Verdict], complete_at: datetime | None, now: datetime) -> list[Alert]:
        at = (complete_at or now).isoformat()
        hides = self.blind.hides_word
        words = [word for one in verdicts for word in self.alerts.put(one, self._boot_id, now, at, hides)]
        for word in words if self._boot_id is not None else ():
            if hides(word):
                continue
            topic, cleared = alert_topic(word.alert_id), word.state is AlertState.CLEARED
            self.outbox.put("alert", topic, None, not cleared, at, now, word.body())
            if cleared:  # the last word is heard by whoever listens; then the topic is empty
                self.outbox.put("clear", topic, None, True, None, now)
        return words

"""SQLite: readings, files taken in, runs, digests of states and the outbox, in one transaction.

What is committed here is true and will be told; what is not committed has not happened. WAL with synchronous FULL: a
committed row survives kill -9 and loss of power. State bytes are not here but beside (`monitor.states`); this file
names their digests. It knows no engine, no broker and no folder, only rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from monitor.alert import Alert, AlertState
from monitor.alert_table import AlertTable, Verdict, alert_topic
from monitor.audit import KEPT_ELSEWHERE, Audit
from monitor.blind import Blind, withheld
from monitor.command_body import Answer, Assess
from monitor.command_table import CommandTable
from monitor.database import Database
from monitor.day5_table import Day5Table, Worked
from monitor.event import Event, event_topic
from monitor.feature_table import FeatureRow, FeatureTable
from monitor.file_table import FileRecord, FileTable, FrameOf
from monitor.last_frames import LastFrames
from monitor.outbox_table import OutboxTable, reading_topic
from monitor.runs import Run
from monitor.vocabulary import Moment, Place, Reading


@dataclass(frozen=True)
class Entry:
    """What one frame adds: the run as it leaves it, its reading (None: nothing new), files, new state digests, what the
    stage model was told of it, and its hours since the run's first frame (None: not known)."""

    run: Run
    ended: tuple[Run, str] | None
    reading: Reading | None
    moment: Moment
    files: tuple[FileRecord, ...]
    states: dict[str, str]
    complete_at: datetime | None
    verdicts: tuple[Verdict, ...] = ()
    features: tuple[FeatureRow, ...] = ()
    elapsed_h: float | None = None


@dataclass(frozen=True)
class Deed:
    """What a command changes. `audit`: what was said and what came of it; `answered`: the sender's id, the digest of
    what it stood on, and the answer; `assessed`: of whom, at which reading, and what."""

    subject: str
    audit: Mapping[str, object]
    answered: tuple[str, str, Answer] | None = None
    verdicts: tuple[Verdict, ...] = ()
    ended: Run | None = None
    assessed: tuple[Run, str | None, Assess] | None = None
    time_zero: tuple[Run, datetime] | None = None


@dataclass(frozen=True)
class Recorded:
    """What a transaction made true: readings and alerts as they will be told (with `seq`), in order; and the digests of
    states and of day-5 pictures that no row names any more."""

    readings: list[Reading]
    alerts: list[Alert]
    freed: set[str]
    freed_overlays: set[str] = field(default_factory=set)


class Journal:
    """One writer. `boot_id` stands in every reading recorded in this life; None (a replay) records no outbox rows.
    `blind_first`: what the models say of an embryo is not sent before it was assessed (`monitor.blind`).

    Raises ConfigError when another daemon holds the folder, StorageError when the file is damaged or of another schema.
    """

    def __init__(self, folder: Path, boot_id: str | None, blind_first: bool = False) -> None:
        self._boot_id = boot_id
        self._database = Database(folder)
        self._db = self._database.connection
        self.audit = Audit(self._db)
        self.alerts = AlertTable(self._database)
        self.files = FileTable(self._database)
        self.features = FeatureTable(self._database)
        self.commands = CommandTable(self._database)
        self.blind = Blind(blind_first and boot_id is not None, self.commands.is_assessed)
        self.outbox = OutboxTable(self._database, self.alerts, self.blind)
        self.last_frames = LastFrames(self._database)
        self.day5 = Day5Table(self._database)

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
                before = self._states_of(embryo_id)
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
                    self._audit_end(*entry.ended, now)
                self._audit_frame(entry, stood, before, touched, now)
                self._audit_words(words, now)
                alerts += words
            words = self._put_verdicts(verdicts, None, now)
            self._audit_words(words, now)
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

    def decide(self, verdicts: Sequence[Verdict], now: datetime) -> list[Alert]:
        """Record what was decided without a frame; the words as recorded."""
        with self._database.transaction():
            words = self._put_verdicts(verdicts, None, now)
            self._audit_words(words, now)
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
                self._audit_end(deed.ended, "command", now)
            self.audit.append("command", deed.subject, self._with_standing(deed.subject, deed.audit), now)
            self._audit_words(words, now)
            freed = {digest for digest in freed if not self._named(digest)}
            overlays = {digest for digest in overlays if not self.day5.named(digest)}
        return Recorded([], words, freed, overlays)

    def _with_standing(self, subject: str, body: Mapping[str, object]) -> dict[str, object]:
        kind, _, embryo_id = subject.partition("/")
        return {**body, "standing": self.audit.standing(embryo_id)} if kind == "embryo" else dict(body)

    def put_aside(self, records: Sequence[FileRecord], now: datetime) -> None:
        """Record files that will not be judged, with the reason. The pictures stay where they are."""
        with self._database.transaction():
            touched = self.files.put(records)
            aside: dict[str, dict[str, object]] = {}
            for one in records:
                row = self.audit.file(one.incubator, one.file.path)
                aside.setdefault(one.incubator, {})[one.file.path] = [one.reason, row]
            for incubator, files in aside.items():
                body = {"aside": files, "files": self._files_of(touched)}
                self.audit.append("put_aside", f"incubator/{incubator}", body, now)

    # -- the audit -----------------------------------------------------------------------------------------------------

    def begin(self, facts: Mapping[str, object], models: Mapping[str, object], now: datetime) -> None:
        """A start: this software and boot, and what models serve, where that has changed. A journal from before there
        was an audit is taken into it as it stands. Raises StorageError."""
        with self._database.transaction():
            if self.audit.head()[0] == 0:
                self._adopt(now)
            self.audit.append("start", "start", {**facts, "boot_id": self._boot_id}, now)
            self.audit.append_change("models", "models", models, now)

    def configured(self, config: Mapping[str, object], now: datetime) -> None:
        """What the operator has set, where it is not what it was. Raises StorageError."""
        with self._database.transaction():
            self.audit.append_change("config", "config", config, now)

    def seal(self, now: datetime) -> None:
        """A clean stop: the digest of every row that no embryo's own row covers, so that until the next start the whole
        file is held. Raises StorageError."""
        with self._database.transaction():
            self.audit.append("stop", "start", {"boot_id": self._boot_id, "rest": self.audit.rest()}, now)

    def _adopt(self, now: datetime) -> None:
        """Rows from before there was an audit: their digests as they are now."""
        for kind, (table, column) in KEPT_ELSEWHERE.items():
            about = "subject" if table == "alert" else "'embryo/' || embryo_id"
            for key, subject in self._db.execute(f"SELECT {column}, {about} FROM {table}").fetchall():
                self.audit.append_kept(kind, subject, key, {"adopted": True}, now)
        for (embryo_id,) in self._db.execute("SELECT embryo_id FROM run ORDER BY number").fetchall():
            body: dict[str, object] = {"adopted": True, "standing": self.audit.standing(embryo_id)}
            body["files"] = self._files_of(self.files.frames_of(embryo_id))
            body["features"] = self.features.digests(embryo_id)
            self.audit.append("kept", f"embryo/{embryo_id}", body, now)
        for incubator, files in self.files.aside().items():
            aside = {path: [reason, self.audit.file(incubator, path)] for path, reason in files}
            self.audit.append("put_aside", f"incubator/{incubator}", {"adopted": True, "aside": aside}, now)

    def _audit_frame(
        self, entry: Entry, stood: str, before: Mapping[str, str], touched: set[FrameOf], now: datetime
    ) -> None:
        """What a frame has made of an embryo: its reading, from which pictures, the memories before and after."""
        embryo_id = entry.run.embryo_id
        after = self._states_of(embryo_id)
        told: dict[str, object] = {"standing": self.audit.standing(embryo_id), "files": self._files_of(touched)}
        told["pictures"] = {str(one.plane_um): one.sha256 for one in entry.files if one.sha256 is not None}
        told["states"] = {model: [before.get(model), after.get(model)] for model in sorted({*before, *after})}
        if entry.features:
            numbers = [(row.model, row.number) for row in entry.features]
            told["features"] = self.features.digests(embryo_id, numbers)
        if entry.reading is not None:
            self.audit.append_kept("reading", f"embryo/{embryo_id}", entry.reading.id, told, now)
        elif told["standing"] != stood or touched:
            self.audit.append("kept", f"embryo/{embryo_id}", told, now)

    def _audit_words(self, words: Iterable[Alert], now: datetime) -> None:
        for word in words:
            key = self.alerts.number(word)
            self.audit.append_kept("alert", word.subject.key, key, {}, now)

    def _audit_end(self, run: Run, reason: str, now: datetime) -> None:
        body = {"why": reason, "standing": self.audit.standing(run.embryo_id)}
        self.audit.append("run_ended", f"embryo/{run.embryo_id}", body, now)

    def _files_of(self, frames: Iterable[FrameOf]) -> dict[str, str]:
        return {"/".join(frame): self.audit.files(frame) for frame in frames}

    def _states_of(self, embryo_id: str) -> dict[str, str]:
        """model -> digest of what it remembers of an embryo."""
        return dict(self._db.execute("SELECT model, digest FROM state WHERE embryo_id = ?", (embryo_id,)).fetchall())

    def _put_run(self, run: Run) -> None:
        self._db.execute(
            "INSERT INTO run (embryo_id, incubator, dish, well, slide, first, latest, first_order, stepped_order, "
            "stepped_h, insemination, spent, unconfirmed, ended) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (embryo_id) DO UPDATE SET latest = excluded.latest, "
            "stepped_order = excluded.stepped_order, stepped_h = excluded.stepped_h, "
            "insemination = excluded.insemination, spent = excluded.spent, unconfirmed = excluded.unconfirmed",
            (
                *(run.embryo_id, run.place.incubator, run.place.dish, run.place.well, run.first.slide),
                *(_dump(run.first), _dump(run.latest), run.first.order, run.stepped_order, run.stepped_h),
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

    def _is_open(self, embryo_id: str) -> bool:
        row = self._db.execute("SELECT ended FROM run WHERE embryo_id = ?", (embryo_id,)).fetchone()
        return row is not None and row[0] is None

    # -- what is known -------------------------------------------------------------------------------------------------

    def runs(self, place: Place) -> list[Run]:
        """The runs in a well, oldest first."""
        stated = self.commands.time_zeros(place.incubator, place.dish, place.well)
        rows = self._db.execute(
            "SELECT embryo_id, first, latest, stepped_order, stepped_h, insemination, spent, unconfirmed, ended "
            "FROM run WHERE incubator = ? AND dish = ? AND well = ? ORDER BY number",
            (place.incubator, place.dish, place.well),
        )
        return [
            Run(
                embryo_id=embryo_id,
                place=place,
                first=_load(first),
                latest=_load(latest),
                stepped_order=stepped_order,
                stepped_h=stepped_h,
                insemination=insemination and datetime.fromisoformat(insemination),
                spent=bool(spent),
                unconfirmed=bool(unconfirmed),
                ended=ended,
                stated=stated.get(embryo_id),
            )
            for embryo_id, first, latest, stepped_order, stepped_h, insemination, spent, unconfirmed, ended in rows
        ]

    def latest_reading(self, embryo_id: str, frame_key: str) -> Reading | None:
        """The last revision of a frame's reading."""
        row = self._db.execute(
            "SELECT body FROM reading WHERE embryo_id = ? AND frame_key = ? ORDER BY revision DESC LIMIT 1",
            (embryo_id, frame_key),
        ).fetchone()
        return None if row is None else Reading.model_validate_json(row[0])

    def newest_reading(self, embryo_id: str) -> str | None:
        """The id of the reading that stands in the embryo's topic."""
        row = self._db.execute("SELECT latest_reading FROM run WHERE embryo_id = ?", (embryo_id,)).fetchone()
        return None if row is None else row[0]

    def earliest_readings(self, incubator: str, limit: int) -> list[Reading]:
        """The first revisions of an incubator's earliest frames, in order of time (or of frame number).

        They are found in the index; only `limit` bodies are read. Its first `limit` embryos are looked at.
        """
        return self._readings(
            "SELECT embryo_id, frame_key FROM reading WHERE revision = 1 AND embryo_id IN "
            "(SELECT embryo_id FROM run WHERE incubator = ? ORDER BY number LIMIT ?) "
            "ORDER BY length(frame_key), frame_key LIMIT ?",
            (incubator, limit, limit),
        )

    def latest_readings(self, incubator: str, each: int) -> list[Reading]:
        """The first revisions of the last `each` frames of every open run; of one run oldest first."""
        runs = self._db.execute("SELECT embryo_id FROM run WHERE incubator = ? AND ended IS NULL", (incubator,))
        back = (
            "SELECT embryo_id, frame_key FROM reading WHERE revision = 1 AND embryo_id = ? "
            "ORDER BY length(frame_key) DESC, frame_key DESC LIMIT ?"
        )
        found = [self._readings(back, (embryo_id, each)) for (embryo_id,) in runs.fetchall()]
        return [reading for of_run in found for reading in reversed(of_run)]

    def _readings(self, names: str, values: tuple[object, ...]) -> list[Reading]:
        """The first revisions of frames that a query names by embryo and key: all of it stands in one index."""
        rows = self._db.execute(names, values).fetchall()
        of_frame = "SELECT body FROM reading WHERE embryo_id = ? AND frame_key = ? AND revision = 1"
        return [Reading.model_validate_json(self._db.execute(of_frame, row).fetchone()[0]) for row in rows]

    def bodies(self) -> Iterator[str]:
        """Every reading's JSON text: per embryo, in order of frame and revision."""
        rows = self._db.execute(
            "SELECT r.body FROM reading r JOIN run ON run.embryo_id = r.embryo_id "
            "ORDER BY r.incubator, r.dish, r.well, run.slide, run.first_order, run.number, r.frame_order, r.revision"
        )
        return (body for (body,) in rows)

    def state_digest(self, embryo_id: str, model: str) -> str | None:
        row = self._db.execute(
            "SELECT digest FROM state WHERE embryo_id = ? AND model = ?", (embryo_id, model)
        ).fetchone()
        return None if row is None else str(row[0])

    def state_digests(self) -> set[str]:
        """Those that are still needed: an earlier version kept the rows of ended runs."""
        rows = self._db.execute("SELECT digest FROM state JOIN run USING (embryo_id) WHERE run.ended IS NULL")
        return {digest for (digest,) in rows}

    def _named(self, digest: str) -> bool:
        return self._db.execute("SELECT 1 FROM state WHERE digest = ? LIMIT 1", (digest,)).fetchone() is not None

    def open_runs(self) -> dict[str, int]:
        """incubator -> how many embryos lie in it."""
        rows = self._db.execute("SELECT incubator, COUNT(*) FROM run WHERE ended IS NULL GROUP BY incubator")
        return dict(rows.fetchall())


def _dump(moment: Moment) -> str:
    at, file_at = (time and time.isoformat() for time in (moment.captured_at, moment.file_at))
    return json.dumps([at, moment.run, moment.hours, moment.slide, file_at])


def _load(text: str) -> Moment:
    at, run, hours, slide, file_at = json.loads(text)
    return Moment(at and datetime.fromisoformat(at), run, hours, slide, file_at and datetime.fromisoformat(file_at))

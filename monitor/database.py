"""The SQLite file: one writer, WAL with synchronous FULL, so that a committed row survives kill -9 and loss of power.

It knows the tables' shape and transactions; what the rows mean is the journal's.
"""

from __future__ import annotations

import fcntl
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from monitor.errors import ConfigError, StorageError

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE run (
  number INTEGER PRIMARY KEY, embryo_id TEXT NOT NULL UNIQUE, incubator TEXT NOT NULL, dish TEXT NOT NULL,
  well TEXT NOT NULL, slide TEXT, first TEXT NOT NULL, latest TEXT NOT NULL, first_order REAL NOT NULL,
  stepped_order REAL, stepped_h REAL, insemination TEXT, spent INTEGER NOT NULL, unconfirmed INTEGER NOT NULL,
  ended TEXT, latest_reading TEXT);
CREATE INDEX run_of_place ON run (incubator, dish, well);
CREATE TABLE reading (
  id TEXT PRIMARY KEY, incubator TEXT NOT NULL, dish TEXT NOT NULL, well TEXT NOT NULL, embryo_id TEXT NOT NULL,
  frame_key TEXT NOT NULL, frame_order REAL NOT NULL, revision INTEGER NOT NULL, complete_at TEXT, body TEXT NOT NULL,
  UNIQUE (embryo_id, frame_key, revision)) WITHOUT ROWID;
CREATE INDEX reading_of_frame ON reading (incubator, dish, well, frame_key);
CREATE TABLE file (
  incubator TEXT NOT NULL, path TEXT NOT NULL, page INTEGER NOT NULL, size_bytes INTEGER NOT NULL,
  mtime_ns INTEGER NOT NULL, sha256 TEXT, dish TEXT, well TEXT, embryo_id TEXT, frame_key TEXT, plane_um INTEGER,
  reason TEXT, PRIMARY KEY (incubator, path, page)) WITHOUT ROWID;
CREATE INDEX file_of_frame ON file (incubator, dish, well, frame_key);
CREATE TABLE state (
  embryo_id TEXT NOT NULL, model TEXT NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (embryo_id, model)) WITHOUT ROWID;
CREATE INDEX state_digest ON state (digest);
CREATE TABLE outbox (
  row_id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, topic TEXT NOT NULL, reading TEXT, body TEXT,
  retain INTEGER NOT NULL, complete_at TEXT, recorded_at TEXT NOT NULL);
CREATE INDEX outbox_topic ON outbox (topic);
CREATE TABLE watching (
  subject TEXT NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (subject, kind)) WITHOUT ROWID;
CREATE TABLE alert (
  number INTEGER PRIMARY KEY, alert_id TEXT NOT NULL, revision INTEGER NOT NULL, kind TEXT NOT NULL,
  subject TEXT NOT NULL, state TEXT NOT NULL, recorded_at TEXT NOT NULL, body TEXT NOT NULL,
  UNIQUE (alert_id, revision));
CREATE INDEX alert_of_subject ON alert (subject);
CREATE TABLE open_alert (
  alert_id TEXT PRIMARY KEY, kind TEXT NOT NULL, complete_at TEXT NOT NULL, body TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE cleared (topic TEXT PRIMARY KEY, at TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE last_frame (
  incubator TEXT PRIMARY KEY, captured_at TEXT, recorded_at TEXT NOT NULL, judged_at TEXT) WITHOUT ROWID;
"""
FEATURES = """
CREATE TABLE feature (
  embryo_id TEXT NOT NULL, model TEXT NOT NULL, number INTEGER NOT NULL, state_id TEXT NOT NULL, hpi REAL,
  elapsed_h REAL, vector BLOB NOT NULL, PRIMARY KEY (embryo_id, model, number)) WITHOUT ROWID;
"""
DAY5 = """
CREATE TABLE judged (
  embryo_id TEXT PRIMARY KEY, reading TEXT NOT NULL, frame_key TEXT NOT NULL, frame_order REAL NOT NULL, at_h REAL,
  hpi REAL, furthest TEXT, done_order REAL, done_h REAL, day5 TEXT, overlay TEXT) WITHOUT ROWID;
CREATE TABLE day5 (
  id TEXT PRIMARY KEY, embryo_id TEXT NOT NULL, revision INTEGER NOT NULL, at_h REAL, body_area REAL, unit TEXT,
  body TEXT NOT NULL, UNIQUE (embryo_id, revision)) WITHOUT ROWID;
"""
AUDIT = """
CREATE TABLE audit (
  number INTEGER PRIMARY KEY, kind TEXT NOT NULL, subject TEXT NOT NULL, recorded_at TEXT NOT NULL, ref TEXT,
  body TEXT NOT NULL, previous TEXT NOT NULL, hash TEXT NOT NULL);
CREATE INDEX audit_subject ON audit (subject);
"""
COMMANDS = """
CREATE TABLE command (id TEXT PRIMARY KEY, content TEXT NOT NULL, answer TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE assessment (
  number INTEGER PRIMARY KEY, embryo_id TEXT NOT NULL, reading TEXT, at TEXT NOT NULL, body TEXT NOT NULL);
CREATE INDEX assessment_of_embryo ON assessment (embryo_id);
CREATE TABLE time_zero (embryo_id TEXT PRIMARY KEY, inseminated_at TEXT NOT NULL) WITHOUT ROWID;
"""
SCHEMA_VERSION = 5
BEFORE_FEATURES, BEFORE_DAY5, BEFORE_AUDIT = 2, 3, 4
LACKING = {  # version of a file -> the tables it lacks, and gets
    0: SCHEMA + FEATURES + DAY5 + AUDIT + COMMANDS,
    BEFORE_FEATURES: FEATURES + DAY5 + AUDIT + COMMANDS,
    BEFORE_DAY5: DAY5 + AUDIT + COMMANDS,
    BEFORE_AUDIT: AUDIT + COMMANDS,
}


class Reads(Protocol):
    """What can be asked."""

    def execute(self, query: str, values: Sequence[Any] = (), /) -> sqlite3.Cursor: ...


class Damage(StorageError):
    """A file does not give what it holds; what SQLite says of it."""


class Connection:
    """A journal for reading only, as it was at one moment, beside a daemon that may be at work on it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def execute(self, query: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        """As SQLite's own. Raises Damage."""
        try:
            return self._connection.execute(query, values)
        except sqlite3.Error as fault:
            raise Damage(str(fault)) from fault

    def rows(self, query: str, values: Sequence[object] = ()) -> Iterator[tuple[Any, ...]]:
        """Row for row. Raises Damage, also in the middle."""
        cursor = self.execute(query, values)
        try:
            yield from cursor
        except (sqlite3.Error, UnicodeError) as fault:
            raise Damage(str(fault)) from fault


def _connected_for_reading(path: Path, check_same_thread: bool = True) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=check_same_thread
    )
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version != SCHEMA_VERSION:
            raise StorageError(
                f"{path} has schema {version}, this version of pellucid reads {SCHEMA_VERSION}: start the daemon once, "
                "which brings an older file to it, or use the version that wrote it"
            )
    except sqlite3.Error as fault:
        connection.close()
        raise StorageError(f"{path}: {fault}") from fault
    except StorageError:
        connection.close()
        raise
    return connection


@contextmanager
def opened_for_reading(folder: Path) -> Iterator[Connection]:
    """Raises ConfigError where there is no journal, StorageError where it is none or of another schema."""
    path = folder / "journal.sqlite"
    if not path.is_file():
        raise ConfigError(f"{path}: there is no journal; name the folder of [storage] path")
    connection = _connected_for_reading(path)
    try:
        connection.execute("BEGIN")
        yield Connection(connection)
    except sqlite3.Error as fault:
        raise StorageError(f"{path}: {fault}") from fault
    finally:
        connection.close()


def expected_schema() -> dict[str, str]:
    """name -> the text of each table and index of a journal, spaces aside."""
    fresh = sqlite3.connect(":memory:")
    fresh.executescript(LACKING[0])
    rows = fresh.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'")
    found = {name: " ".join(sql.split()) for name, sql in rows}
    fresh.close()
    return found


class Database:
    """One connection, for one thread at a time, and a lock on the folder.

    Raises ConfigError when another daemon holds the folder, StorageError when it is damaged or of another schema.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / "lock").open("w")
        except OSError as fault:
            raise ConfigError(f"storage.path = {str(folder)!r}: {fault.strerror}") from fault
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as fault:
            self._lock.close()
            raise ConfigError(f"storage.path = {str(folder)!r}: another pellucid works in this folder") from fault
        self._path = folder / "journal.sqlite"
        self.is_new = not self._path.exists()
        try:
            # one thread at a time: whoever opens it may hand it to the thread that works
            self.connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            self._open()
        except sqlite3.OperationalError as fault:  # full, locked, not allowed: nothing is wrong with the file
            self._lock.close()
            raise StorageError(f"{self._path}: {fault}") from fault
        except sqlite3.DatabaseError as fault:
            self._lock.close()
            raise StorageError(
                f"{self._path}: {fault}; restore it from a backup, or move the whole folder aside and keep it: "
                "a new one is made, and every frame still there is judged and told again"
            ) from fault

    def _open(self) -> None:
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("PRAGMA synchronous = FULL")
        version = self.connection.execute("PRAGMA user_version").fetchone()[0]
        if version in LACKING:
            self._set_up(LACKING[version])
        elif version != SCHEMA_VERSION:
            raise StorageError(
                f"{self._path} has schema {version}, this version of pellucid reads {SCHEMA_VERSION}: run the version "
                "that wrote it, or move the whole folder aside and keep it: a new one is made, and every frame still "
                "there is judged and told again"
            )

    def _set_up(self, tables: str) -> None:
        statements = ("BEGIN IMMEDIATE", tables, f"PRAGMA user_version = {SCHEMA_VERSION}", "COMMIT")
        self.connection.executescript(";".join(statements))

    def close(self) -> None:
        self.connection.close()
        self._lock.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of what is done inside, or nothing. Raises StorageError when the disk or the file refuses."""
        try:
            self.connection.execute("BEGIN IMMEDIATE")
            yield
            self.connection.execute("COMMIT")
        except sqlite3.Error as fault:
            raise StorageError(f"{self._path}: {fault}") from fault
        finally:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")

    def count(self, key: str) -> int:
        """The next number of a counter that survives restarts; inside a transaction."""
        self.connection.execute(
            "INSERT INTO meta VALUES (?, 1) ON CONFLICT (key) DO UPDATE SET value = value + 1", (key,)
        )
        return int(self.connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()[0])


class Looker:
    """The same file seen from another process: it reads only, takes no lock that the writer waits for, and may be asked
    from several threads. What is asked within one `looking` is of one moment; it is kept short, for while it lasts the
    writer's log cannot be folded back.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "journal.sqlite"
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None

    @contextmanager
    def looking(self) -> Iterator[Looker]:
        """Raises StorageError when there is no journal, or one of another schema, or it cannot be read now."""
        with self._lock:
            try:
                connection = self._open()
                connection.execute("BEGIN")
                yield self
            except sqlite3.Error as fault:
                raise StorageError(f"{self._path}: {fault}") from fault
            finally:
                if self._connection is not None and self._connection.in_transaction:
                    self._connection.execute("COMMIT")

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None:
            return self._connection
        if not self._path.is_file():
            raise StorageError(f"{self._path}: there is no journal yet; the daemon makes it")
        self._connection = _connected_for_reading(self._path, check_same_thread=False)
        return self._connection

    def rows(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Within `looking`."""
        return self._open().execute(query, values).fetchall()

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

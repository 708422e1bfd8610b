"""The files' rows in the journal: which were taken in or put aside, and what a frame was judged from.

`put` belongs into the transaction that makes it true. It opens no file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from monitor.database import Database
from monitor.vocabulary import FileSeen, Moment, Place, PlaneFile

FrameOf = tuple[str, str, str, str]  # incubator, dish, well, key


@dataclass(frozen=True)
class FileRecord:
    """A file, or a page of one, that has been taken in (`sha256`) or put aside (`reason`)."""

    incubator: str
    file: FileSeen
    place: Place | None = None
    embryo_id: str | None = None
    frame_key: str | None = None
    plane_um: int | None = None
    sha256: str | None = None
    reason: str | None = None
    page: int | None = None

    @classmethod
    def of(cls, plane: PlaneFile, embryo_id: str, sha256: str | None = None, reason: str | None = None) -> FileRecord:
        """Of a plane that belongs to a frame."""
        place, key = plane.place, plane.moment.key
        return cls(place.incubator, plane.file, place, embryo_id, key, plane.plane_um, sha256, reason, plane.page)


@dataclass(frozen=True)
class Source:
    """A plane that was judged: its file below the incubator's folder, the page in it (0: it is the plane), digest."""

    plane_um: int
    path: str
    page: int
    sha256: str


class FileTable:
    """Rows of files over one database connection. The index is named where a frame's files are asked for: left to
    itself SQLite goes through every file of the incubator."""

    def __init__(self, database: Database) -> None:
        self._db = database.connection

    def put(self, records: Iterable[FileRecord]) -> set[FrameOf]:
        """A row for each page (0 where the file is the plane); of an older version of the file no page is left.

        Gives the frames whose rows may be others now: those the records belong to, and those that lost one.
        """
        records = tuple(records)
        touched = {
            (record.incubator, record.place.dish, record.place.well, record.frame_key)
            for record in records
            if record.place is not None and record.frame_key is not None
        }
        for incubator, path in {(record.incubator, record.file.path) for record in records}:
            frames = self._db.execute(
                "SELECT incubator, dish, well, frame_key FROM file WHERE incubator = ? AND path = ? "
                "AND frame_key IS NOT NULL",
                (incubator, path),
            )
            touched |= set(frames.fetchall())
        self._db.executemany(
            "DELETE FROM file WHERE incubator = ? AND path = ? AND (size_bytes, mtime_ns) != (?, ?)",
            {(record.incubator, record.file.path, record.file.size_bytes, record.file.mtime_ns) for record in records},
        )
        self._db.executemany(
            "INSERT OR REPLACE INTO file VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    *(record.incubator, record.file.path, record.page or 0),
                    *(record.file.size_bytes, record.file.mtime_ns, record.sha256),
                    *((record.place.dish, record.place.well) if record.place else (None, None)),
                    *(record.embryo_id, record.frame_key, record.plane_um, record.reason),
                )
                for record in records
            ],
        )
        return touched

    def known(self, incubator: str) -> dict[str, tuple[int, int]]:
        """path -> (size, mtime_ns) of every file that was taken in or put aside.

        Not those put aside for what they are called: the next start may read names otherwise, and asks no decoding.
        """
        rows = self._db.execute(
            "SELECT path, size_bytes, mtime_ns FROM file WHERE incubator = ? "
            "AND (reason IS NULL OR reason NOT IN ('name', 'plane', 'clock'))",
            (incubator,),
        )
        return {path: (size, mtime_ns) for path, size, mtime_ns in rows}

    def frames_of(self, embryo_id: str) -> list[FrameOf]:
        """The frames of an embryo, by their files."""
        query = (
            "SELECT DISTINCT f.incubator, f.dish, f.well, f.frame_key FROM run r JOIN file f INDEXED BY file_of_frame "
            "USING (incubator, dish, well) WHERE r.embryo_id = ? AND f.embryo_id = r.embryo_id AND f.frame_key NOT NULL"
        )
        return self._db.execute(query, (embryo_id,)).fetchall()

    def aside(self) -> dict[str, list[tuple[str, str | None]]]:
        """incubator -> path and reason of each file that belongs to no frame."""
        found: dict[str, list[tuple[str, str | None]]] = {}
        query = "SELECT DISTINCT incubator, path, reason FROM file WHERE frame_key IS NULL"
        for incubator, path, reason in self._db.execute(query):
            found.setdefault(incubator, []).append((path, reason))
        return found

    def judged_from(self, place: Place, embryo_id: str, frame_key: str) -> list[Source]:
        """What a frame of an embryo was last told from, in order of its planes."""
        rows = self._db.execute(
            "SELECT plane_um, path, page, sha256 FROM file INDEXED BY file_of_frame "
            "WHERE incubator = ? AND dish = ? AND well = ? AND frame_key = ? AND embryo_id = ? "
            "AND reason IS NULL ORDER BY plane_um",
            (place.incubator, place.dish, place.well, frame_key, embryo_id),
        )
        return [Source(*row) for row in rows]

    def of_frame(
        self, place: Place, moment: Moment, entry: datetime | None, stacked: bool = False
    ) -> dict[PlaneFile, str]:
        """The files a frame was judged from -> their SHA-256; `stacked`: each is a page of its file.

        A frame number begins anew with each embryo in a well, so it names a frame of the open run only, and only while
        the well's insemination entry is the run's; a clock time, and a number within a slide, name one for good.
        """
        rows = self._db.execute(
            "SELECT path, size_bytes, mtime_ns, plane_um, sha256, page FROM file INDEXED BY file_of_frame "
            "JOIN run USING (embryo_id) WHERE file.incubator = :incubator AND file.dish = :dish AND file.well = :well "
            "AND frame_key = :key "
            "AND reason IS NULL AND run.slide IS :slide AND "
            "(:lasting OR (run.ended IS NULL AND COALESCE(run.insemination = :entry, TRUE))) ORDER BY plane_um",
            {
                "incubator": place.incubator,
                "dish": place.dish,
                "well": place.well,
                "key": moment.key,
                "slide": moment.slide,
                "lasting": moment.captured_at is not None or moment.slide is not None,
                "entry": entry and entry.isoformat(),
            },
        )
        return {
            PlaneFile(place, moment, plane_um, FileSeen(path, size, mtime_ns), page if stacked else None): sha256
            for path, size, mtime_ns, plane_um, sha256, page in rows
        }

"""What the journal says now, gathered for a view: embryos of an incubator, one embryo, alerts, the outbox.

Each gathering is one short look (`Looker.looking`), so that a view shows one moment and the daemon's writing never
waits. It knows rows; no picture, no page.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

from monitor.alert import Alert
from monitor.blind import Blind
from monitor.database import Looker
from monitor.day5_body import Day5
from monitor.event import Event
from monitor.last_frames import read_time
from monitor.vocabulary import Place, Reading
from monitor.web.tracks import Track, Tracks, frame_rank

_RECENT_ALERTS = 50


@dataclass(frozen=True)
class Embryo:
    """One run. `latest`: the newest frame's reading; `judged`: the newest one that the engines judged; None: none."""

    embryo_id: str
    place: Place
    first: str
    ended: str | None
    unconfirmed: bool
    latest: Reading | None
    latest_key: str | None
    judged: Reading | None
    day5: Day5 | None
    track: Track
    alerts: tuple[Alert, ...]


@dataclass(frozen=True)
class LastFrame:
    """Of one incubator: by its clock (None without one) and by ours."""

    captured_at: datetime | None
    recorded_at: datetime


@dataclass(frozen=True)
class Incubator:
    """`last_frame` None: none yet. `alerts`: those about the incubator itself."""

    name: str
    embryos: tuple[Embryo, ...]
    last_frame: LastFrame | None
    alerts: tuple[Alert, ...]


@dataclass(frozen=True)
class Assessment:
    """What an embryologist said of an embryo."""

    at: datetime
    by: str
    stage: str | None
    grade: str | None
    note: str | None


@dataclass(frozen=True)
class Source:
    """A plane that was judged: its file below the incubator's folder, the page in it, its digest."""

    path: str
    page: int
    sha256: str


class Look:
    """Over one journal. Every method raises StorageError where it cannot be read. `blind_first`: what the models say of
    an embryo is not to be seen before it has been assessed; words of alerts that tell it are left out here."""

    def __init__(self, looker: Looker, blind_first: bool = False) -> None:
        self._looker, self._tracks = looker, Tracks(looker)
        self._blind = Blind(blind_first, self._is_assessed)

    def hides(self, embryo_id: str) -> bool:
        """Whether what the models say of it is not to be seen yet."""
        with self._looker.looking():
            return self._blind.hides(embryo_id)

    def assessments(self, embryo_id: str) -> list[Assessment]:
        """Oldest first."""
        query = "SELECT at, body FROM assessment WHERE embryo_id = ? ORDER BY number"
        with self._looker.looking() as look:
            rows = look.rows(query, (embryo_id,))
        said = [(read_time(at), json.loads(body)) for at, body in rows]
        return [Assessment(at, one["by"], one["stage"], one["grade"], one["note"]) for at, one in said]

    def version(self) -> int:
        """Another number after anything has been written."""
        with self._looker.looking() as look:
            ((version,),) = look.rows("PRAGMA data_version")
        return int(version)

    def embryos_in(self, names: tuple[str, ...]) -> dict[str, int]:
        """Incubator -> embryos that lie in it."""
        with self._looker.looking() as look:
            rows = look.rows("SELECT incubator, COUNT(*) FROM run WHERE ended IS NULL GROUP BY incubator")
        counts = dict(rows)
        return {name: counts.get(name, 0) for name in names}

    def incubator(self, name: str) -> Incubator:
        """All embryos that lie in it, with thinned courses."""
        with self._looker.looking() as look:
            alerts = self._open_alerts()
            rows = look.rows(f"{_RUN} WHERE run.incubator = ? AND run.ended IS NULL ORDER BY run.number", (name,))
            embryos = tuple(self._embryo(row, alerts, whole=False) for row in rows)
            last = self._last_frame(name)
        own = [one for one in alerts if one.subject.incubator == name and one.subject.embryo_id is None]
        return Incubator(name, embryos, last, tuple(own))

    def embryo(self, embryo_id: str) -> Embryo | None:
        """One embryo with its whole course, also after its run has ended; None where there is none of that name."""
        with self._looker.looking() as look:
            rows = look.rows(f"{_RUN} WHERE run.embryo_id = ?", (embryo_id,))
            return self._embryo(rows[0], self._open_alerts(), whole=True) if rows else None

    def former(self, name: str, limit: int = 24) -> list[tuple[str, str]]:
        """(embryo, why it ended) of an incubator's runs that ended last."""
        query = "SELECT embryo_id, ended FROM run WHERE incubator = ? AND ended IS NOT NULL ORDER BY number DESC"
        with self._looker.looking() as look:
            return [(embryo_id, ended) for embryo_id, ended in look.rows(f"{query} LIMIT ?", (name, limit))]

    def reading(self, embryo_id: str, frame_key: str) -> Reading | None:
        """The last revision of a frame's reading."""
        query = "SELECT body FROM reading WHERE embryo_id = ? AND frame_key = ? ORDER BY revision DESC LIMIT 1"
        with self._looker.looking() as look:
            rows = look.rows(query, (embryo_id, frame_key))
        return Reading.model_validate_json(rows[0][0]) if rows else None

    def source(self, embryo_id: str, frame_key: str, plane_um: int) -> tuple[str, Source] | None:
        """(incubator, what a plane was judged from); None where the journal names no such picture."""
        query = (
            "SELECT file.incubator, file.path, file.page, file.sha256 FROM run JOIN file ON "
            "file.incubator = run.incubator AND file.dish = run.dish AND file.well = run.well AND "
            "file.embryo_id = run.embryo_id AND file.frame_key = ? AND file.plane_um = ? AND file.reason IS NULL "
            "WHERE run.embryo_id = ? LIMIT 1"
        )
        with self._looker.looking() as look:
            rows = look.rows(query, (frame_key, plane_um, embryo_id))
        return (rows[0][0], Source(*rows[0][1:])) if rows else None

    def names_overlay(self, digest: str) -> bool:
        """Whether it is the picture of day 5 of an embryo that lies in an incubator."""
        with self._looker.looking() as look:
            return bool(look.rows("SELECT 1 FROM judged WHERE overlay = ? LIMIT 1", (digest,)))

    def open_alerts(self) -> list[Alert]:
        with self._looker.looking():
            return self._open_alerts()

    def former_alerts(self) -> list[Alert]:
        """The words that were said last of alerts that stand open no longer, newest first."""
        query = "SELECT body FROM alert WHERE state = 'cleared' ORDER BY number DESC LIMIT ?"
        with self._looker.looking() as look:
            return self._words(look.rows(query, (_RECENT_ALERTS,)))

    def alerts_of(self, embryo_id: str) -> list[Alert]:
        """Every word said of an embryo, newest first."""
        query = "SELECT body FROM alert WHERE subject = ? ORDER BY number DESC"
        with self._looker.looking() as look:
            return self._words(look.rows(query, (f"embryo/{embryo_id}",)))

    def last_frame(self, name: str) -> LastFrame | None:
        """Of an incubator; None before its first."""
        with self._looker.looking():
            return self._last_frame(name)

    def outbox(self) -> tuple[int, datetime | None]:
        """How many messages the broker has not acknowledged, and since when the oldest waits."""
        with self._looker.looking() as look:
            ((count, oldest),) = look.rows("SELECT COUNT(*), MIN(recorded_at) FROM outbox")
        return count, oldest and read_time(oldest)

    def put_aside(self) -> list[tuple[str, str, int]]:
        """(incubator, reason, how many) of files that could not be used."""
        query = "SELECT incubator, reason, COUNT(*) FROM file WHERE reason IS NOT NULL GROUP BY 1, 2 ORDER BY 1, 2"
        with self._looker.looking() as look:
            return [(incubator, reason, count) for incubator, reason, count in look.rows(query)]

    # -- within `looking` ----------------------------------------------------------------------------------------------

    def _open_alerts(self) -> list[Alert]:
        return self._words(self._looker.rows("SELECT body FROM open_alert ORDER BY alert_id"))

    def _words(self, rows: list[tuple[str]]) -> list[Alert]:
        words = [Alert.model_validate_json(body) for (body,) in rows]
        return [word for word in words if not self._blind.hides_word(word)]

    def _is_assessed(self, embryo_id: str) -> bool:
        return bool(self._looker.rows("SELECT 1 FROM assessment WHERE embryo_id = ? LIMIT 1", (embryo_id,)))

    def _last_frame(self, name: str) -> LastFrame | None:
        rows = self._looker.rows("SELECT captured_at, recorded_at FROM last_frame WHERE incubator = ?", (name,))
        if not rows:
            return None
        captured_at, recorded_at = rows[0]
        return LastFrame(read_time(captured_at) if captured_at else None, read_time(recorded_at))

    def _embryo(self, row: tuple[object, ...], alerts: list[Alert], whole: bool) -> Embryo:
        embryo_id, incubator, dish, well, ended, unconfirmed, latest, latest_id, judged, judged_id, event = row
        name = str(embryo_id)
        read = self._tracks.whole if whole else self._tracks.thin
        track = read(name, None if ended else str(latest_id))
        newest = None if latest is None else Reading.model_validate_json(str(latest))
        judged_reading = newest if judged_id == latest_id else _read(judged)
        if ended is not None:
            judged_reading, event = self._after_the_end(name, newest)
        return Embryo(
            embryo_id=name,
            place=Place(str(incubator), str(dish), str(well)),
            first=name.rsplit("/", 1)[-1],
            ended=None if ended is None else str(ended),
            unconfirmed=bool(unconfirmed),
            latest=newest,
            latest_key=track.points[-1].frame_key if track.points else None,
            judged=judged_reading,
            day5=Event.model_validate_json(str(event)).day5 if event else None,
            track=track,
            alerts=tuple(one for one in alerts if one.subject.embryo_id == name),
        )

    def _after_the_end(self, embryo_id: str, newest: Reading | None) -> tuple[Reading | None, object]:
        """What `judged` named while the run was open: the newest judged reading and the last event of day 5."""
        bodies = self._looker.rows(
            "SELECT frame_key, body FROM reading WHERE embryo_id = ? AND json_extract(body, '$.outcome') = 'judged'",
            (embryo_id,),
        )
        newest_judged = max(bodies, key=lambda row: frame_rank(row[0]), default=None)
        events = self._looker.rows(
            "SELECT body FROM day5 WHERE embryo_id = ? ORDER BY revision DESC LIMIT 1", (embryo_id,)
        )
        reading = newest if newest_judged is None else Reading.model_validate_json(newest_judged[1])
        return (None if newest_judged is None else reading), (events[0][0] if events else None)


_RUN = (
    "SELECT run.embryo_id, run.incubator, run.dish, run.well, run.ended, run.unconfirmed, n.body, n.id, j.body, j.id, "
    "d.body FROM run LEFT JOIN reading n ON n.id = run.latest_reading "
    "LEFT JOIN judged ON judged.embryo_id = run.embryo_id "
    "LEFT JOIN reading j ON j.id = judged.reading LEFT JOIN day5 d ON d.id = judged.day5"
)


def _read(body: object) -> Reading | None:
    return None if body is None else Reading.model_validate_json(str(body))

"""A journal full of scripted readings, through the real journal: for tests of the page and for its bench.

Embryos of a chosen number with frames of a chosen number; a course of probability and stages that looks like one, gaps,
flags, alerts, and a result of day 5. Nothing here was judged by a model, and no figure of it means anything.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from monitor.alert import Alert, AlertLimits, AlertState, AlertSubject, Evidence
from monitor.alert_machine import Open, Watching
from monitor.alert_table import Verdict
from monitor.alert_texts import TEXTS
from monitor.day5_body import Day5, Day5Criterion, Day5Frame, Day5Grade, Day5Measured
from monitor.day5_table import Worked
from monitor.event import Event, event_id
from monitor.file_table import FileRecord
from monitor.journal import Entry, Journal
from monitor.runs import Run, begin_run
from monitor.vocabulary import (
    PHASES,
    Blastocyst,
    EmbryoName,
    FileSeen,
    FrameBody,
    Measured,
    Moment,
    Outcome,
    Place,
    Quality,
    Reading,
    Stage,
    reading_id,
)

PLANES_UM = (-45, -30, -15, 0, 15, 30, 45)
ONSETS_H = (0.0, 7.0, 22.0, 26.0, 36.0, 38.0, 48.0, 50.0, 52.0, 56.0, 66.0, 86.0, 97.0, 104.0, 110.0, 118.0)
SITE, NODE = "lab", "box"
_BATCH = 200
_ENGINES = {"scripted": "0" * 64}

# (place, moment, plane in um) -> the file below the incubator's folder and its SHA-256; None: no picture
Pictured = Callable[[Place, Moment, int], tuple[str, str] | None]


def fill(
    journal: Journal,
    places: Sequence[Place],
    start: datetime,
    hours: float,
    every_min: float,
    pictured: Pictured = lambda place, moment, plane_um: None,
    staged: bool = True,
    first_hpi: float = 0.0,
) -> list[str]:
    """A run for each place with a frame every so many minutes. The embryos' ids."""
    names = []
    for number, place in enumerate(places):
        first = Moment(captured_at=start)
        run = begin_run(place, first, start - timedelta(hours=first_hpi), None, None, 0)
        entries: list[Entry] = []
        for k in range(int(hours * 60 / every_min) + 1):
            moment = Moment(captured_at=start + timedelta(minutes=every_min * k))
            entry = _entry(run, moment, first_hpi + every_min * k / 60, number, pictured, staged)
            run = entry.run
            entries.append(entry)
            if len(entries) == _BATCH:
                journal.commit(entries, start)
                entries = []
        journal.commit(entries, start)
        names.append(run.embryo_id)
    return names


def one_more(
    journal: Journal,
    places: Sequence[Place],
    at: datetime,
    pictured: Pictured = lambda place, moment, plane_um: None,
) -> None:
    """A frame more for the embryo in each place."""
    entries = []
    for number, place in enumerate(places):
        run = journal.runs(place)[-1]
        start = run.insemination or run.first.captured_at or at
        hpi = (at - start) / timedelta(hours=1)
        entries.append(_entry(run, Moment(captured_at=at), hpi, number, pictured, staged=True))
    journal.commit(entries, at)


def phase_at(hpi: float) -> int:
    """The number of the phase that a textbook embryo is in."""
    return max(n for n, onset in enumerate(ONSETS_H) if onset <= max(hpi, 0.0))


def _entry(run: Run, moment: Moment, hpi: float, number: int, pictured: Pictured, staged: bool) -> Entry:
    planes = PLANES_UM if number % 5 or int(hpi) % 17 else PLANES_UM[1:6]
    files = {um: found for um in planes if (found := pictured(run.place, moment, um)) is not None}
    fit = bool(number % 7) or not 40 <= hpi < 44
    reading = _reading(run, moment, hpi, number, planes, {um: path for um, (path, _) in files.items()}, fit, staged)
    records = tuple(
        FileRecord(run.place.incubator, FileSeen(path, 1, 1), run.place, run.embryo_id, moment.key, um, digest)
        for um, (path, digest) in files.items()
    )
    after = replace(run, latest=moment, stepped_order=moment.order if fit else run.stepped_order)
    return Entry(after, None, reading, moment, records, {}, moment.captured_at, elapsed_h=hpi)


def _reading(
    run: Run,
    moment: Moment,
    hpi: float,
    number: int,
    planes: tuple[int, ...],
    paths: dict[int, str],
    fit: bool,
    staged: bool,
) -> Reading:
    place, flags = run.place, {"missing_planes"} if len(planes) < len(PLANES_UM) else set()
    if not fit:
        flags.add("blurred")
    if hpi < 12:
        flags.add("not_enough_data")
    return Reading(
        id=reading_id(SITE, NODE, run.embryo_id, moment.key, 1),
        occurred_at=moment.captured_at,
        revision=1,
        supersedes=None,
        embryo=EmbryoName(incubator=place.incubator, dish=place.dish, well=place.well, embryo_id=run.embryo_id),
        frame=FrameBody(
            captured_at=moment.captured_at,
            run=None,
            hpi=round(hpi, 4),
            hpi_source="config",
            planes=planes,
            missing_planes=tuple(um for um in PLANES_UM if um not in planes),
            sources=tuple(paths.get(um, "") for um in planes),
        ),
        outcome=Outcome.JUDGED if fit else Outcome.UNFIT,
        blastocyst=_blastocyst(hpi, number) if fit else None,
        stage=_stage(hpi) if fit and staged else None,
        quality=Quality(
            fit=fit,
            flags=tuple(sorted(flags)),
            measured=Measured(mean_gray=55.0, contrast_gray=5.0, sharpness=1.3, sharpest_plane_um=0),
        ),
        engines=_ENGINES,
    )


def _blastocyst(hpi: float, number: int) -> Blastocyst:
    towards = (0.95, 0.08, 0.7)[number % 3]
    p = 0.5 + (towards - 0.5) / (1 + math.exp((60 - hpi) / 12)) + 0.03 * math.sin(hpi / 3 + number)
    return Blastocyst(
        probability=round(min(max(p, 0.01), 0.99), 6),
        state_age_h=None if hpi < 6 else round(hpi % 6, 4),
        segments_missed=0,
        spread=None if hpi < 6 else round(0.3 * math.exp(-hpi / 60), 6),
    )


def _stage(hpi: float) -> Stage:
    now = phase_at(hpi)
    onsets = {PHASES[n]: ONSETS_H[n] for n in range(1, now + 1)}
    return Stage(
        live=PHASES[now],
        live_probability=0.85,
        revised=PHASES[now],
        probabilities={phase: 0.85 if n == now else 0.01 for n, phase in enumerate(PHASES)},
        onsets_h=onsets,
        onsets_sd_h=dict.fromkeys(onsets, 0.8),
        onsets_since="insemination",
        stepped_back=False,
    )


def raise_alert(journal: Journal, embryo_id: str, at: datetime, kind: str = "low_blastocyst_probability") -> Alert:
    """An alert about an embryo, raised."""
    incubator, dish, well, _ = embryo_id.split("/")
    subject = AlertSubject(incubator=incubator, dish=dish, well=well, embryo_id=embryo_id)
    name = hashlib.sha256(f"{embryo_id} {kind}".encode()).hexdigest()[:20]
    alert = Alert(
        id=f"{name}-1",
        occurred_at=at,
        alert_id=name,
        kind=kind,
        state=AlertState.RAISED,
        revision=1,
        subject=subject,
        raised_at=at,
        value=0.07,
        limits=AlertLimits(enter=0.1, leave=0.2, for_min=360, unit=""),
        text=TEXTS[kind],
        evidence=Evidence(),
        runbook=f"runbook.md#{kind}",
    )
    standing = Open(alert_id=name, revision=1, raised_at=at, first_reading=None, worst=0.07, said_s=None, told_at=at)
    journal.decide([Verdict(subject, {kind: Watching(open=standing)}, (alert,))], at)
    return alert


def grade(journal: Journal, embryo_id: str, latest: Reading, overlay: bytes, storage: Path, at: datetime) -> Event:
    """A result of day 5 of an embryo's newest frame, and its picture below `<storage>/day5`."""
    digest = hashlib.sha256(overlay).hexdigest()
    folder = storage / "day5" / digest[:2]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{digest}.png").write_bytes(overlay)
    one = Day5Criterion(
        grade="4", reason=None, probabilities={"3": 0.2, "4": 0.7, "5": 0.1}, said={"one": "4"}, agreement="same"
    )
    letter = Day5Criterion(
        grade="A", reason=None, probabilities={"A": 0.6, "B": 0.3, "C": 0.1}, said={"one": "A"}, agreement="same"
    )
    none = dict.fromkeys(Day5Measured.model_fields)
    measured = {**none, "unit": "um", "body_area": 15210.4, "body_diameter": 139.0, "blastocoel_fraction": 0.61}
    name = event_id(SITE, NODE, embryo_id, "grade", "newest", 1)
    day5 = Day5(
        id=name,
        revision=1,
        frame=Day5Frame(
            reading=latest.id, captured_at=latest.frame.captured_at, run=latest.frame.run, hpi=latest.frame.hpi
        ),
        outcome="graded",
        reason=None,
        stage="tEB",
        grade=Day5Grade(expansion=4, icm="A", te="A"),
        agreement="same",
        criteria={"expansion": one, "icm": letter, "te": letter},
        measured=Day5Measured.model_validate(measured),
        flags=("zona_thick",),
        crop_confidence=0.97,
        plane_um=0,
        overlay=digest,
        engines=_ENGINES,
    )
    event = Event(id=name, occurred_at=latest.occurred_at, revision=1, supersedes=None, embryo=latest.embryo, day5=day5)
    order = latest.occurred_at.timestamp() if latest.occurred_at else 0.0
    journal.record_day5(Worked(event, order, latest.frame.hpi, 15210.4, "um"), at)
    return event

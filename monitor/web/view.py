"""What a view shows, made from what was looked up: cards, dishes, words for what is unknown. Pure; it knows no HTML.

Nothing is guessed: where a number is missing the view holds the reason in words.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from markupsafe import Markup

from monitor.alert import Alert
from monitor.vocabulary import Reading
from monitor.web.charts import USUAL_END_H, axis_of, spark
from monitor.web.look import Embryo, Incubator
from monitor.web.tracks import Point, Track
from monitor.web.words import FLAG_WORDS, HPI_SOURCE_WORDS, OUTCOME_WORDS, PHASE_WORDS, alert_words, grade_words

_MOST_EMPTY = 24  # a dish with a well 96 is not drawn with 90 empty places
_SMALL_DISH = 16
_CHARTS = 1024  # small ones that are kept

Veiled = Callable[[str], bool]  # embryo -> whether its scores are hidden until it has been assessed


@dataclass(frozen=True)
class Flag:
    word: str
    says: str


@dataclass(frozen=True)
class Numbers:
    """The probability as it is shown. `probability` None: `why` says why. `since`: it is of an earlier frame."""

    probability: float | None
    spread: float | None
    since: str | None
    why: str | None


@dataclass(frozen=True)
class Card:
    """One embryo at a glance."""

    embryo_id: str
    well: str
    hour: str
    at: datetime | None
    picture: str | None
    numbers: Numbers
    stage: str | None
    stage_says: str
    grade: str | None
    flags: tuple[Flag, ...]
    alerts: tuple[Alert, ...]
    chart: Markup
    veiled: bool


@dataclass(frozen=True)
class Dish:
    """Wells in their places, row by row; None: no embryo is known there, `empty` says which well it is."""

    name: str
    columns: int
    places: tuple[tuple[str, Card | None], ...]


def dishes(incubator: Incubator, veiled: Veiled) -> list[Dish]:
    """The incubator's dishes, by name; all charts have one axis."""
    end = max((_end_of(one.track) for one in incubator.embryos), default=USUAL_END_H)
    cards: dict[str, list[Card]] = {}
    for embryo in incubator.embryos:
        cards.setdefault(embryo.place.dish, []).append(card(embryo, end, veiled(embryo.embryo_id)))
    return [_dish(name, cards[name]) for name in sorted(cards, key=natural)]


def natural(text: str) -> list[tuple[int, int | str]]:
    """Sorts D2 before D10."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", text) if part]


def _dish(name: str, cards: list[Card]) -> Dish:
    by_well = {one.well: one for one in cards}
    numbers = [int(well) for well in by_well if well.isdecimal() and well == str(int(well))]
    most = max(numbers, default=0)
    if len(numbers) == len(by_well) and 1 <= most <= _MOST_EMPTY and min(numbers) >= 1:
        wells = [str(number) for number in range(1, most + 1)]
    else:
        wells = sorted(by_well, key=natural)
    columns = 4 if len(wells) <= _SMALL_DISH else 6
    return Dish(name, columns, tuple((well, by_well.get(well)) for well in wells))


def card(embryo: Embryo, axis_end: float, veiled: bool) -> Card:
    """`axis_end`: the hour to which the small chart reaches."""
    latest = embryo.latest
    stage, stage_says = stage_words(embryo)
    return Card(
        embryo_id=embryo.embryo_id,
        well=embryo.place.well,
        hour=hour_words(latest),
        at=None if latest is None else latest.occurred_at,
        picture=picture_of(embryo, embryo.latest_key, latest, 320),
        numbers=numbers(embryo),
        stage=stage,
        stage_says=stage_says,
        grade=None if embryo.day5 is None else grade_words(embryo.day5),
        flags=flags(latest),
        alerts=embryo.alerts,
        chart=Markup("") if veiled or embryo.judged is None else _chart(embryo.track, axis_end),
        veiled=veiled,
    )


@lru_cache(maxsize=_CHARTS)
def _end_of(track: Track) -> float:
    return axis_of(track.points).end


@lru_cache(maxsize=_CHARTS)
def _chart(track: Track, axis_end: float) -> Markup:
    """Drawn once for each frame that comes, not at each look."""
    return spark(track.points, axis_of(track.points, axis_end))


def hour_words(reading: Reading | None) -> str:
    if reading is None:
        return "no frame yet"
    return "hour unknown" if reading.frame.hpi is None else f"{reading.frame.hpi:.1f} h"


def hour_says(reading: Reading | None) -> str:
    """Where the hour comes from, or why there is none."""
    return "no frame yet" if reading is None else HPI_SOURCE_WORDS[reading.frame.hpi_source]


def flags(reading: Reading | None) -> tuple[Flag, ...]:
    words = () if reading is None else reading.quality.flags
    return tuple(Flag(*FLAG_WORDS.get(word, (word.replace("_", " "), word))) for word in words)


def numbers(embryo: Embryo) -> Numbers:
    """The newest frame's number; else the last one there was, with its hour, and why the newest has none."""
    latest, judged = embryo.latest, embryo.judged
    if latest is None:
        return Numbers(None, None, None, "no frame yet")
    if latest.blastocyst is not None:
        return Numbers(latest.blastocyst.probability, latest.blastocyst.spread, None, None)
    why = why_none(latest)
    if judged is None or judged.blastocyst is None:
        return Numbers(None, None, None, why)
    return Numbers(judged.blastocyst.probability, judged.blastocyst.spread, hour_words(judged), why)


def why_none(reading: Reading) -> str:
    """Why a reading has no probability."""
    if flags_ := flags(reading):
        return f"{OUTCOME_WORDS[reading.outcome.value]} ({', '.join(flag.word for flag in flags_)})"
    return OUTCOME_WORDS[reading.outcome.value]


def stage_words(embryo: Embryo) -> tuple[str | None, str]:
    """The live label (None: unknown) and what it means, or why there is none."""
    reading = embryo.latest if embryo.latest is not None and embryo.latest.stage is not None else embryo.judged
    if reading is None:
        return None, "no frame was judged yet"
    if reading.stage is None:
        failed = "stage_failed" in reading.quality.flags
        return None, "the stage model gave nothing" if failed else "no stage model serves"
    return reading.stage.live, PHASE_WORDS.get(reading.stage.live, reading.stage.live)


def best_plane(reading: Reading | None) -> int | None:
    """The sharpest plane of a frame, else the one nearest the middle; None where no plane came."""
    if reading is None or not reading.frame.planes:
        return None
    measured = reading.quality.measured
    return plane_near(reading.frame.planes, None if measured is None else measured.sharpest_plane_um)


def plane_near(planes: tuple[int, ...], wanted_um: int | None) -> int:
    """Of the planes that are there the one nearest to what is wanted."""
    return min(planes, key=lambda plane: (abs(plane - (wanted_um or 0)), plane))


def picture_of(embryo: Embryo, frame_key: str | None, reading: Reading | None, side_px: int) -> str | None:
    """The address of a frame's best picture; None where it has none. It names the revision, so that it never changes
    its meaning and a browser may keep it."""
    plane = best_plane(reading)
    if plane is None or frame_key is None or reading is None:
        return None
    return plane_href(embryo.embryo_id, frame_key, reading.revision, plane, side_px)


def plane_href(embryo_id: str, frame_key: str, revision: int, plane_um: int, side_px: int) -> str:
    return f"/page/picture/{embryo_id}/{frame_key}/{plane_um}.jpg?side={side_px}&rev={revision}"


def nearest(points: tuple[Point, ...], frame_key: str | None) -> int | None:
    """The place of a frame in the course; of an unknown one, the last."""
    if not points:
        return None
    return next((n for n, point in enumerate(points) if point.frame_key == frame_key), len(points) - 1)


def subject_words(alert: Alert) -> str:
    subject = alert.subject
    if subject.embryo_id is not None:
        return f"{subject.incubator}, dish {subject.dish}, well {subject.well}"
    if subject.incubator is not None:
        return f"incubator {subject.incubator}"
    return "this machine" if subject.engine is None else f"model {subject.engine}"


def alert_title(alert: Alert) -> str:
    return alert_words(alert.kind)

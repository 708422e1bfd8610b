"""The page's JSON, for other programs: `/api/v1/...`. What the journal says, in the words of the contract.

Where an embryo is to be assessed before its scores are seen, they are null here too and `hidden` is true.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import APIRouter, HTTPException, Query
from pydantic import BaseModel

from monitor.alert import Alert
from monitor.blind import withheld
from monitor.body import INTENDED_USE, rfc3339
from monitor.vocabulary import Reading
from monitor.web.look import Embryo, Look
from monitor.web.tracks import Point
from monitor.web.view import Veiled

MOST_FRAMES = 2000


class Incubators(BaseModel):
    incubators: list[dict[str, Any]]
    intended_use: str = INTENDED_USE


class EmbryoList(BaseModel):
    embryos: list[dict[str, Any]]
    intended_use: str = INTENDED_USE


class Frames(BaseModel):
    embryo_id: str
    frames: list[dict[str, Any]]
    intended_use: str = INTENDED_USE


class Readings(BaseModel):
    """`next`: what to give as `after` for those that follow; null: there are no more."""

    embryo_id: str
    readings: list[dict[str, Any]]
    next: str | None
    intended_use: str = INTENDED_USE


class AlertList(BaseModel):
    alerts: list[dict[str, Any]]
    intended_use: str = INTENDED_USE


def routes(look: Look, incubators: tuple[str, ...], veiled: Veiled) -> APIRouter:
    """Every route reads; none changes anything."""
    router = APIRouter(prefix="/api/v1")

    @router.get("/incubators")
    def the_incubators() -> Incubators:
        found = look.embryos_in(incubators)
        return Incubators(incubators=[{"name": name, "embryos": count} for name, count in found.items()])

    @router.get("/embryos")
    def the_embryos(incubator: str | None = None) -> EmbryoList:
        """Those that lie in an incubator, or in all."""
        if incubator is not None and incubator not in incubators:
            raise HTTPException(404, f"no such incubator: {', '.join(incubators)}")
        names = incubators if incubator is None else (incubator,)
        found = [one for name in names for one in look.incubator(name).embryos]
        return EmbryoList(embryos=[_embryo(one, veiled(one.embryo_id)) for one in found])

    _of_one(router, look, veiled)

    @router.get("/alerts")
    def the_alerts() -> AlertList:
        """Those that stand open: the last word about each."""
        return AlertList(alerts=[_alert(one) for one in look.open_alerts()])

    return router


def _of_one(router: APIRouter, look: Look, veiled: Veiled) -> None:
    def known(incubator: str, dish: str, well: str, first: str) -> Embryo:
        embryo = look.embryo("/".join((incubator, dish, well, first)))
        if embryo is None:
            raise HTTPException(404, "no such embryo: /api/v1/embryos lists those there are")
        return embryo

    @router.get("/embryos/{incubator}/{dish}/{well}/{first}")
    def the_embryo(incubator: str, dish: str, well: str, first: str) -> dict[str, Any]:
        embryo = known(incubator, dish, well, first)
        return {**_embryo(embryo, veiled(embryo.embryo_id)), "intended_use": INTENDED_USE}

    @router.get("/embryos/{incubator}/{dish}/{well}/{first}/frames")
    def the_frames(incubator: str, dish: str, well: str, first: str) -> Frames:
        """Every frame in a few words, in order."""
        embryo = known(incubator, dish, well, first)
        hide = veiled(embryo.embryo_id)
        return Frames(embryo_id=embryo.embryo_id, frames=[_frame(point, hide) for point in embryo.track.points])

    @router.get("/embryos/{incubator}/{dish}/{well}/{first}/readings")
    def the_readings(
        incubator: str,
        dish: str,
        well: str,
        first: str,
        after: str | None = None,
        limit: int = Query(default=200, ge=1, le=MOST_FRAMES),
    ) -> Readings:
        """The last revision of each frame's reading, in order. `after`: a frame's name, as `frames` gives it."""
        embryo = known(incubator, dish, well, first)
        keys = [point.frame_key for point in embryo.track.points]
        if after is not None and after not in keys:
            raise HTTPException(404, f"no such frame: {after[:80]!r}")
        start = 0 if after is None else keys.index(after) + 1
        chosen, hide = keys[start : start + limit], veiled(embryo.embryo_id)
        found = [reading for key in chosen if (reading := look.reading(embryo.embryo_id, key)) is not None]
        more = chosen[-1] if chosen and start + limit < len(keys) else None
        return Readings(embryo_id=embryo.embryo_id, readings=[_reading(one, hide) for one in found], next=more)


def _embryo(embryo: Embryo, hide: bool) -> dict[str, Any]:
    place = embryo.place
    day5 = None if embryo.day5 is None or hide else embryo.day5.model_dump(mode="json")
    return {
        "embryo_id": embryo.embryo_id,
        "incubator": place.incubator,
        "dish": place.dish,
        "well": place.well,
        "ended": embryo.ended,
        "run_unconfirmed": embryo.unconfirmed,
        "frames": embryo.track.frames,
        "hidden": hide,
        "latest": None if embryo.latest is None else _reading(embryo.latest, hide),
        "judged": None if embryo.judged is None else _reading(embryo.judged, hide),
        "day5": day5,
        "alerts_open": [one.alert_id for one in embryo.alerts],
    }


def _reading(reading: Reading, hide: bool) -> dict[str, Any]:
    return (withheld(reading) if hide else reading).model_dump(mode="json", by_alias=True)


def _frame(point: Point, hide: bool) -> dict[str, Any]:
    return {
        "frame": point.frame_key,
        "revision": point.revision,
        "reading": None if hide else point.reading,
        "hpi": point.hpi,
        "captured_at": _time(point.at),
        "outcome": point.outcome,
        "probability": None if hide else point.probability,
        "spread": None if hide else point.spread,
        "stage": None if hide else point.stage,
        "flags": list(point.flags),
        "planes": list(point.planes),
        "sharpest_plane_um": point.sharpest_um,
    }


def _alert(alert: Alert) -> dict[str, Any]:
    return alert.model_dump(mode="json", by_alias=True)


def _time(at: datetime | None) -> str | None:
    return None if at is None else rfc3339(at)

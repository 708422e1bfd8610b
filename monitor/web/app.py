"""The page's routes: what is asked for is looked up, put into a template and given back. It changes nothing.

Everything a browser needs comes from here, and its policy forbids it to fetch anything from elsewhere. Scripts add
comfort: without them every view can be read.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException as StarletteHTTPException

import monitor
from monitor.config import Config
from monitor.database import Looker
from monitor.day5_work import OVERLAYS
from monitor.errors import FrameError, StorageError
from monitor.web import api, view
from monitor.web.charts import course
from monitor.web.gallery import Gallery
from monitor.web.health import Figures, Health
from monitor.web.look import Embryo, Look
from monitor.web.render import STATIC, Render, renderer
from monitor.web.system import checks

POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
_FOR_GOOD = "private, max-age=604800, immutable"
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True)
class Page:
    """What the page is made of. `commands`: those that are carried out where it is served."""

    config: Config
    look: Look
    gallery: Gallery
    health: Health
    commands: tuple[str, ...]
    now: Callable[[], datetime] = lambda: datetime.now(timezone.utc)


def page_of(config: Config, health: Health, behind_daemon: bool) -> Page:
    """Over the storage of a configuration. `behind_daemon`: the daemon's own server stands before it, and takes
    commands."""
    look = Look(Looker(config.storage.path), config.commands.blind_first)
    gallery = Gallery(config.incubator, config.storage.path / OVERLAYS)
    return Page(config, look, gallery, health, tuple(config.commands.enabled) if behind_daemon else ())


def application(page: Page) -> FastAPI:
    """The whole page. FastAPI's own documentation pages stay away: they fetch from elsewhere."""
    app = FastAPI(
        title="Pellucid", version=monitor.__version__, docs_url=None, redoc_url=None, openapi_url="/api/v1/openapi.json"
    )
    render = renderer(page.config, page.commands, page.now)
    _dress(app, render)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.include_router(api.routes(page.look, _names(page), page.look.hides))
    _views(app, page, render)
    _pictures(app, page)
    return app


def _names(page: Page) -> tuple[str, ...]:
    return tuple(one.name for one in page.config.incubator)


def _dress(app: FastAPI, render: Render) -> None:
    """Headers of every answer, and faults as pages (to a browser) or JSON (to a program)."""

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "same-origin"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        static = request.url.path.startswith("/static/") and response.status_code == 200
        response.headers.setdefault("Cache-Control", _FOR_GOOD if static else "no-store")
        return response

    def told(request: Request, status: int, text: str) -> Response:
        if request.url.path.startswith("/api/"):
            return JSONResponse({"error": text}, status)
        return render("fault.html", status, status_code=status, text=text)

    @app.exception_handler(StorageError)
    def no_journal(request: Request, fault: Exception) -> Response:
        return told(request, 503, str(fault))

    @app.exception_handler(StarletteHTTPException)
    def refused(request: Request, fault: Exception) -> Response:
        assert isinstance(fault, StarletteHTTPException)
        return told(request, fault.status_code, str(fault.detail))


def _views(app: FastAPI, page: Page, render: Render) -> None:
    names = _names(page)

    @app.get("/", include_in_schema=False)
    def front() -> Response:
        if len(names) == 1:
            return RedirectResponse(f"/page/incubator/{names[0]}", 303)
        return render("front.html", counts=page.look.embryos_in(names), alerts=page.look.open_alerts())

    @app.get("/page/incubator/{name}", include_in_schema=False)
    def incubator(request: Request, name: str, part: str = "") -> Response:
        if name not in names:
            raise HTTPException(404, f"no incubator is named {name[:80]!r}: there are {', '.join(names)}")
        figures = page.health.figures()
        reachable = figures.of("share_reachable", incubator=name)
        tag = _tag(page, reachable, figures.fault)  # before the look: what is written in between is news next time
        if part and request.headers.get("If-None-Match") == tag:
            return Response(status_code=304, headers={"ETag": tag})
        found = page.look.incubator(name)
        response = render(
            "cards.html" if part == "cards" else "incubator.html",
            incubator=found,
            dishes=view.dishes(found, page.look.hides),
            reachable=reachable,
            figures=figures,
            former=[] if part else page.look.former(name),
        )
        response.headers["ETag"] = tag
        return response

    _embryo_views(app, page, render)

    @app.get("/page/alerts", include_in_schema=False)
    def alerts(part: str = "") -> Response:
        template = "alerts_now.html" if part == "now" else "alerts.html"
        return render(template, alerts=page.look.open_alerts(), former=page.look.former_alerts())

    @app.get("/page/system", include_in_schema=False)
    def system(part: str = "") -> Response:
        figures: Figures = page.health.figures()
        rows = checks(figures, page.look, names, page.now())
        return render("system_now.html" if part == "now" else "system.html", figures=figures, groups=rows)

    @app.get("/page/words", include_in_schema=False)
    def words() -> Response:
        return render("words.html")


def _embryo_views(app: FastAPI, page: Page, render: Render) -> None:
    @app.get("/page/embryo/{incubator}/{dish}/{well}/{first}", include_in_schema=False)
    def embryo(
        incubator: str, dish: str, well: str, first: str, frame: str = "", plane: int | None = None, part: str = ""
    ) -> Response:
        one = _known(page, "/".join((incubator, dish, well, first)))
        facts = _embryo_facts(page, one, frame, plane)
        return render("embryo_now.html" if part == "now" else "embryo.html", **facts)

    @app.get("/page/report/{incubator}/{dish}/{well}/{first}", include_in_schema=False)
    def report(incubator: str, dish: str, well: str, first: str) -> Response:
        one = _known(page, "/".join((incubator, dish, well, first)))
        return render("report.html", printed=True, **_embryo_facts(page, one, "", None))


_LIFE = secrets.token_hex(4)  # another process counts the journal's versions otherwise


def _tag(page: Page, *facts: object) -> str:
    """An ETag of the journal as it is and what else a view shows."""
    text = repr((page.look.version(), *facts))
    return f'"{_LIFE}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"'


def _known(page: Page, embryo_id: str) -> Embryo:
    embryo = page.look.embryo(embryo_id)
    if embryo is None:
        raise HTTPException(404, f"no embryo is named {embryo_id[:200]!r}")
    return embryo


def _embryo_facts(page: Page, one: Embryo, frame: str, plane: int | None) -> dict[str, Any]:
    """What the view of one embryo and its report show; `frame`, `plane`: the picture that is looked at."""
    points = one.track.points
    number = view.nearest(points, frame or None)
    point = None if number is None else points[number]
    reading = None if point is None else page.look.reading(one.embryo_id, point.frame_key)
    shown = None
    if reading is not None and reading.frame.planes:
        shown = view.plane_near(reading.frame.planes, view.best_plane(reading) if plane is None else plane)
    newest_staged = next((r for r in (one.latest, one.judged) if r is not None and r.stage is not None), None)
    stage = None if newest_staged is None else newest_staged.stage
    veiled = page.look.hides(one.embryo_id)
    first_phase = next((p.stage for p in points if p.stage is not None), None) if stage is not None else None
    return {
        "embryo": one,
        "card": view.card(one, 0.0, veiled),
        "veiled": veiled,
        "points": points,
        "number": number,
        "point": point,
        "reading": reading,
        "plane": shown,
        "planes": () if reading is None else reading.frame.planes,
        "picture": _shown_picture(one, point, shown, 640),
        "large_picture": _shown_picture(one, point, shown, 1280),
        "stage": stage,
        "chart": course(points, stage.onsets_h if stage else {}, first_phase) if points and not veiled else None,
        "hour_says": view.hour_says(one.latest),
        "history": page.look.alerts_of(one.embryo_id),
        "assessments": page.look.assessments(one.embryo_id),
        "declared": next((i.planes for i in page.config.incubator if i.name == one.place.incubator), ()),
    }


def _shown_picture(one: Embryo, point: Any, plane: int | None, side_px: int) -> str | None:
    if point is None or plane is None:
        return None
    return view.plane_href(one.embryo_id, point.frame_key, point.revision, plane, side_px)


def _pictures(app: FastAPI, page: Page) -> None:
    @app.get("/page/picture/{incubator}/{dish}/{well}/{first}/{frame}/{plane_um}.jpg", include_in_schema=False)
    async def picture(
        incubator: str, dish: str, well: str, first: str, frame: str, plane_um: int, side: int = 640
    ) -> Response:
        embryo_id = "/".join((incubator, dish, well, first))
        found = await run_in_threadpool(page.look.source, embryo_id, frame, plane_um)
        if found is None:
            return Response("the journal names no such picture\n", 404, media_type="text/plain")
        try:
            data = await page.gallery.plane(found[0], found[1], side)
        except FrameError as fault:
            status = {"path": 403, "away": 503}.get(fault.reason, 404)
            return Response(f"{fault}\n", status, media_type="text/plain")
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": _FOR_GOOD})

    @app.get("/page/overlay/{digest}.png", include_in_schema=False)
    def overlay(digest: str) -> Response:
        if not _DIGEST.match(digest) or not page.look.names_overlay(digest):
            return Response("no embryo that lies here has such a picture\n", 404, media_type="text/plain")
        try:
            data = page.gallery.overlay(digest)
        except FrameError as fault:
            return Response(f"{fault}\n", 404, media_type="text/plain")
        return Response(data, media_type="image/png", headers={"Cache-Control": _FOR_GOOD})

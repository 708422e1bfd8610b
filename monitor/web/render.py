"""Facts into HTML: the templates, the words and forms of numbers that they may use, and nothing else.

Everything that comes from outside is escaped; a name that a template uses and nobody gave is an error, not a blank.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fastapi import Response
from jinja2 import Environment, PackageLoader, StrictUndefined

import monitor
from monitor.body import INTENDED_USE, rfc3339
from monitor.config import Config
from monitor.vocabulary import PHASES
from monitor.web import view
from monitor.web.words import (
    AGREEMENT_WORDS,
    CONTRADICTION_WORDS,
    FLAG_WORDS,
    INTERVAL_WORDS,
    LACK_WORDS,
    MEASURED_WORDS,
    OUTCOME_WORDS,
    PHASE_WORDS,
    alert_words,
    grade_words,
    plane_words,
    probability_words,
)

STATIC = Path(__file__).parent / "static"
Render = Callable[..., Response]


def renderer(config: Config, commands: tuple[str, ...], now: Callable[[], datetime]) -> Render:
    """Puts facts into a template by its name. Every template is read and compiled here, so that a fault in one shows at
    the start. `commands`: those that are carried out where the page is served."""
    environment = Environment(
        loader=PackageLoader("monitor.web"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.lstrip_blocks = True
    environment.filters |= {
        "when": _when,
        "stamp": rfc3339,
        "alert_words": alert_words,
        "subject": view.subject_words,
        "number": _number,
        "um": plane_words,
        "prob": probability_words,
    }
    environment.globals |= {
        "intended_use": INTENDED_USE,
        "version": monitor.__version__,
        "assets": _assets(),
        "site": config.site,
        "incubators": tuple(one.name for one in config.incubator),
        "commands": commands,
        "login": config.http.token_file is not None,  # it is refused alone where one is set
        "printed": False,
        "PHASES": PHASES,
        "PHASE_WORDS": PHASE_WORDS,
        "FLAG_WORDS": FLAG_WORDS,
        "OUTCOME_WORDS": OUTCOME_WORDS,
        "MEASURED_WORDS": MEASURED_WORDS,
        "INTERVAL_WORDS": INTERVAL_WORDS,
        "AGREEMENT_WORDS": AGREEMENT_WORDS,
        "CONTRADICTION_WORDS": CONTRADICTION_WORDS,
        "LACK_WORDS": LACK_WORDS,
        "grade_words": grade_words,
    }

    templates = {name: environment.get_template(name) for name in environment.list_templates()}  # compiled now

    def render(template: str, status: int = 200, **facts: Any) -> Response:
        text = templates[template].render(now=now(), **facts)
        return Response(text, status, media_type="text/html; charset=utf-8", headers={"Cache-Control": "no-store"})

    return render


def _assets() -> str:
    """Changes with the style sheet and the script, so that a browser never keeps those of another version."""
    files = sorted(STATIC.iterdir())
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def _when(at: datetime | None) -> str:
    return "unknown" if at is None else f"{at.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"


def _number(value: float | None, digits: int = 2) -> str:
    return "unknown" if value is None else f"{value:.{digits}f}"

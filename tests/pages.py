"""A page over a journal full of scripted readings and real pictures: no daemon, no process, no port."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

from monitor.alarms import Alarms
from monitor.alert_machine import Voice
from monitor.alert_rules import DEFAULTS
from monitor.command_body import COMMANDS
from monitor.commands import Commands
from monitor.config import Config, make_config
from monitor.journal import Journal
from monitor.timezero import TimeZero
from monitor.vocabulary import Moment, Place
from monitor.web import virtual
from tests.house import picture

START = datetime(2026, 1, 5, 8, 0, tzinfo=timezone.utc)


def page_config(root: Path, blind_first: bool = False, **http: object) -> Config:
    return make_config(
        {
            "site": {"name": "lab", "node": "box"},
            "incubator": [{"name": "inc1", "path": root / "inc"}, {"name": "inc2", "path": root / "other"}],
            "mqtt": {"host": "127.0.0.1"},
            "storage": {"path": root / "store"},
            "http": {"port": 0, **http},
            "commands": {"blind_first": blind_first},
        }
    )


def pictured(root: Path, size_px: int = 64) -> virtual.Pictured:
    """Every frame has files of its own in the layout `generic`; each plane shows always the same."""
    (root / "inc").mkdir(exist_ok=True)
    made: dict[int, tuple[Path, str]] = {}

    def of(place: Place, moment: Moment, plane_um: int) -> tuple[str, str]:
        if plane_um not in made:
            data = picture(120, size_px, seed=plane_um + 100)
            (root / f"plane_{plane_um}.jpg").write_bytes(data)
            made[plane_um] = root / f"plane_{plane_um}.jpg", hashlib.sha256(data).hexdigest()
        source, digest = made[plane_um]
        path = f"{place.dish}/{place.well}/{moment.key}_F{plane_um}.jpg"
        (root / "inc" / path).parent.mkdir(parents=True, exist_ok=True)
        os.link(source, root / "inc" / path)
        return path, digest

    return of


def wells(*names: str, dish: str = "D1", incubator: str = "inc1") -> list[Place]:
    return [Place(incubator, dish, name) for name in names]


def filled(
    root: Path,
    places: Sequence[Place],
    hours: float = 118.0,
    every_min: float = 120.0,
    pictures: virtual.Pictured | None = None,
    staged: bool = True,
    blind_first: bool = False,
) -> tuple[Journal, list[str]]:
    """The journal (still open: somebody writes while the page reads) and the embryos' ids."""
    journal = Journal(root / "store", "boot1", blind_first)
    found = pictures or pictured(root)
    return journal, virtual.fill(journal, places, START, hours, every_min, found, staged)


def commands_over(journal: Journal) -> Commands:
    """The daemon's own commands."""
    zeros = {name: TimeZero(None, 0.0, None, None) for name in ("inc1", "inc2")}
    alarms = Alarms(journal, DEFAULTS, Voice(virtual.SITE, virtual.NODE), lambda: START)
    return Commands(journal, alarms, zeros, tuple(COMMANDS), "boot1", lambda: START, lambda run, recorded: None)


def key(hours: float) -> str:
    """The name of the frame so long after the first."""
    return f"{START + timedelta(hours=hours):%Y%m%dT%H%M%SZ}"

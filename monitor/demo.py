"""Everything on one machine with no set-up: broker, virtual incubator, bundled model, daemon, metrics, a live table.

The incubator draws in a process of its own, as fast as it goes; the daemon is the real one; the table shows what came
back over MQTT. It ends by itself, and says whether every frame drawn was told.
"""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.live import Live
from rich.table import Table

from engines.day5 import from_life
from engines.load import BUNDLED_MODELS, find_manifests
from engines.manifest import read_manifest
from monitor.broker import EmbeddedBroker
from monitor.clock import SystemClock
from monitor.config import Config, make_config
from monitor.daemon import Daemon
from monitor.day5_due import DAY_5_EITHER_WAY_H, DAY_5_H
from monitor.day5_work import OVERLAYS
from monitor.metrics import Metrics
from monitor.node import load_models
from monitor.notify import Notifier
from monitor.page_process import can_serve, endpoints_up
from monitor.simulator import PLANES_UM, Life, VirtualEmbryo, simulate
from monitor.simulator.optics import FIELD_UM
from monitor.subscriber import Subscriber

BAR = 4  # characters: the table fits 80 columns with its flags
PLAIN_EVERY_S = 5.0
QUIET_S = 3.0  # without a word, once every frame is told
DRAIN_LIMIT_S = 120.0  # without a single new reading, once everything is drawn


@dataclass(frozen=True)
class Settings:
    """What of the demo can be set. Hours of virtual life, minutes between frames."""

    embryos: int = 6
    hours: float = 119.0  # frames at 0, 1, ... 119 h: five days of hourly frames
    every_min: float = 60.0
    seed: int = 0
    size_px: int = 250
    http_port: int = 9464
    pictures: Path = field(default_factory=lambda: Path(tempfile.gettempdir()) / "pellucid-demo-day5")

    @property
    def frames(self) -> int:
        return self.embryos * (int(self.hours * 60 / self.every_min) + 1)


@dataclass
class Board:
    """What came over MQTT: the latest reading of each well, and which frames were told (a message may come twice)."""

    latest: dict[str, dict[str, Any]] = field(default_factory=dict)
    frames: set[tuple[str, str]] = field(default_factory=set)
    day5: dict[str, dict[str, Any]] = field(default_factory=dict)  # well -> its last result
    doubtful: int = 0  # told, but without a probability

    def take(self, topic: str, payload: dict[str, Any] | None) -> None:
        if topic.endswith("/event") and payload is not None:
            self.day5[payload["embryo"]["well"]] = payload["day5"]
        if not topic.endswith("/reading") or payload is None:
            return
        frame = (payload["embryo"]["well"], payload["occurred_at"])
        self.doubtful += frame not in self.frames and payload["blastocyst"] is None
        self.frames.add(frame)
        self.latest[payload["embryo"]["well"]] = payload


def demo(settings: Settings, console: Console) -> int:
    """Run it all; 0 when every frame drawn was told over MQTT, 1 when not."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pellucid-demo-") as folder:
        broker = EmbeddedBroker()
        port = broker.start()
        try:
            return _run(settings, console, Path(folder), port, started)
        finally:
            broker.stop()


def _run(settings: Settings, console: Console, folder: Path, port: int, started: float) -> int:
    incubator = folder / "incubator"
    incubator.mkdir()
    start = datetime.now(timezone.utc).replace(minute=0, second=0, microsecond=0) - timedelta(hours=settings.hours)
    config = _config(folder, incubator, port, start, settings)
    clock = SystemClock()
    metrics = Metrics(CollectorRegistry(), clock.now)
    daemon = Daemon(config, load_models(config.engines), metrics, clock, Notifier({}))
    subscriber = Subscriber("127.0.0.1", port, daemon.root)
    worker = threading.Thread(target=daemon.run, name="daemon")
    drawing = multiprocessing.get_context("spawn").Process(target=_draw, args=(incubator, settings, start))
    with endpoints_up(config, metrics.registry, daemon.ready, daemon.submit) as endpoints:
        _greet(console, settings, endpoints.url, config.http.page, port, daemon.root)
        try:
            worker.start()
            drawing.start()
            board = _show(settings, console, subscriber, drawing, worker)
        finally:
            if drawing.is_alive():
                drawing.terminate()
            daemon.stop()
            worker.join()
            subscriber.close()
    _keep_pictures(settings.pictures, config.storage.path, board, console)
    return _sum_up(settings, console, board, metrics, time.monotonic() - started)


def _keep_pictures(kept: Path, storage: Path, board: Board, console: Console) -> None:
    """The last picture of day 5 of each well, out of the storage that goes with the demo; says where each lies."""
    for well, day5 in sorted(board.day5.items(), key=lambda pair: int(pair[0])):
        digest = day5["overlay"]
        if digest is None or not (picture := storage / OVERLAYS / digest[:2] / f"{digest}.png").is_file():
            continue  # no picture was looked at, or a later one has taken its place as the demo ended
        kept.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(picture, kept / f"well-{well}.png")
        console.print(
            f"day 5, well {well}: {_graded(day5)}, {kept / f'well-{well}.png'}", highlight=False, soft_wrap=True
        )


def _config(folder: Path, incubator: Path, port: int, start: datetime, settings: Settings) -> Config:
    return make_config(
        {
            "site": {"name": "demo", "node": "virtual"},
            "incubator": [
                {
                    "name": "inc1",
                    "path": incubator,
                    "insemination": start,
                    "stable_s": 0.2,
                    "deadline_s": 20.0,
                    "pixel_size_um": FIELD_UM / settings.size_px,
                }
            ],
            "mqtt": {"host": "127.0.0.1", "port": port, "protocol": 311},
            "storage": {"path": folder / "storage"},
            "engines": {"threads": 1, **bundled_models()},
            "http": {"port": settings.http_port, "page": can_serve()},
        },
        "the demo's own configuration",
    )


def bundled_models() -> dict[str, Any]:
    """The bundled models of day 5 as settings, where none of them is missing; AMSNet and the stage's need no naming."""
    manifests = [read_manifest(path) for path in find_manifests(BUNDLED_MODELS)]
    names = {task: [one.name for one in manifests if one.task == task] for task in ("segmentation", "grade")}
    if names["segmentation"] and names["grade"]:
        return {"segmenter": names["segmentation"][0], "graders": names["grade"]}
    return {}


def _draw(out: Path, settings: Settings, start: datetime) -> None:
    simulate(
        out,
        embryos=settings.embryos,
        hours=settings.hours,
        every_min=settings.every_min,
        seed=settings.seed,
        start=start,
        size_px=settings.size_px,
    )


def _greet(console: Console, settings: Settings, url: str, page: bool, port: int, root: str) -> None:
    days = settings.hours / 24
    console.print(
        f"[bold]Pellucid demo[/bold]: {settings.embryos} virtual embryos, {days:.0f} days, a frame of "
        f"{len(PLANES_UM)} planes every {settings.every_min:.0f} min, at high speed."
    )
    told = f"{url}/" if page else "not here: it needs the extra `web`"
    console.print(f"page     {told}", highlight=False, soft_wrap=True, markup=False)
    console.print(f"metrics  {url}/metrics   (also /healthz, /readyz)", highlight=False, soft_wrap=True)
    console.print(
        f"mqtt     mosquitto_sub -h 127.0.0.1 -p {port} -V mqttv311 -v -t '{root}/#'\n", highlight=False, soft_wrap=True
    )


def _show(
    settings: Settings, console: Console, subscriber: Subscriber, drawing: Any, worker: threading.Thread
) -> Board:
    board, printed_at, moved_at = Board(), time.monotonic(), time.monotonic()
    heard_at = moved_at
    with Live(console=console, refresh_per_second=4, auto_refresh=False) if console.is_terminal else _Silent() as live:
        # day 5 is worked on once no frame waits: its results come behind the last reading
        while worker.is_alive() and (len(board.frames) < settings.frames or time.monotonic() - heard_at < QUIET_S):
            now, before = time.monotonic(), len(board.frames)
            while not subscriber.messages.empty():
                board.take(*subscriber.messages.get())
                heard_at = now
            if len(board.frames) > before or drawing.is_alive():
                moved_at = now
            live.update(_table(board, settings), refresh=True)
            if not console.is_terminal and now - printed_at >= PLAIN_EVERY_S:
                printed_at = now
                console.print(f"{len(board.frames)} of {settings.frames} readings told")
            if now - moved_at > DRAIN_LIMIT_S:
                break
            time.sleep(0.1)
    if not console.is_terminal:
        console.print(_table(board, settings))
    return board


class _Silent:
    """Stands where the live table would, when nobody watches a terminal."""

    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to restore."""

    def update(self, _table: Table, refresh: bool = False) -> None:
        """Nothing to draw on."""


def _table(board: Board, settings: Settings) -> Table:
    table = Table(title=f"{len(board.frames)} of {settings.frames} readings received over MQTT", title_justify="left")
    day5 = ("day 5",) if board.day5 else ()  # no column without models
    # what else a reading says is left out: the table fits 80 columns
    drawn = "drawn" if day5 else "drawn truth"
    for name in ("well", "hpi", "P(blast.)", "stage", *day5, "flags", drawn):
        left = name in ("flags", drawn, "P(blast.)", "stage", "day 5")
        table.add_column(name, justify="left" if left else "right", no_wrap=name != "flags")
    for well, reading in sorted(board.latest.items(), key=lambda pair: int(pair[0])):
        blastocyst, hpi = reading["blastocyst"], reading["frame"]["hpi"]
        life = VirtualEmbryo(settings.seed + int(well) - 1).life
        phase = "-" if hpi is None else life.phase_at(hpi) or "-"
        will = "reaches tB" if life.reaches_blastocyst else "arrests"
        if day5 and (grade := _drawn_grade(life, hpi)) is not None:
            will = grade
        table.add_row(
            well,
            "unknown" if hpi is None else f"{hpi:.1f}",
            "not judged" if blastocyst is None else _bar(blastocyst["probability"]),
            _staged(reading["stage"]),
            *([_graded(board.day5.get(well))] if day5 else []),
            ", ".join(reading["quality"]["flags"]) or "-",
            f"{phase:<5} {will}",
        )
    return table


def _staged(stage: dict[str, Any] | None) -> str:
    """The live label and its probability; behind it the revised one where that differs."""
    if stage is None:
        return "-"
    revised = "" if stage["revised"] == stage["live"] else f" ({stage['revised']})"
    return f"{stage['live']} {stage['live_probability']:.2f}{revised}"


def _graded(day5: dict[str, Any] | None) -> str:
    """`4AB` with how many measures speak against it, or why there is no grade, in a word or two."""
    if day5 is None:
        return "-"
    if day5["grade"] is None:
        return {"no_blastocyst": "none", "not_gradable": "ungraded", "no_embryo": "empty"}[str(day5["outcome"])]
    told = "".join(str(day5["grade"][key] or "-") for key in ("expansion", "icm", "te"))
    return told + (f" ({len(day5['flags'])} flags)" if day5["flags"] else "")


def _drawn_grade(life: Life, hpi: float | None) -> str | None:
    """What is true of a drawn blastocyst on day 5; None before, and where it is none."""
    if hpi is None or hpi < DAY_5_H - DAY_5_EITHER_WAY_H:
        return None
    grade = from_life(life.expansion_at(hpi), life.icm_grade, life.te_grade)
    return None if grade.expansion is None else str(grade)


def _bar(probability: float) -> str:
    full = round(probability * BAR)
    return f"{probability:.2f} {'█' * full}{'·' * (BAR - full)}"


def _sum_up(settings: Settings, console: Console, board: Board, metrics: Metrics, took_s: float) -> int:
    latency = metrics.registry.get_sample_value("pellucid_frame_latency_seconds_sum") or 0.0
    count = metrics.registry.get_sample_value("pellucid_frame_latency_seconds_count") or 0.0
    told = len(board.frames)
    missing = settings.frames - told
    console.print(
        f"\n{told} readings of {settings.frames} frames arrived over MQTT, {board.doubtful} of them without a "
        f"probability; {latency / max(count, 1):.2f} s from file to broker on average; {took_s:.0f} s in all.",
        highlight=False,
    )
    console.print("Virtual embryos are not patients: research use, not validated on patients.", highlight=False)
    if missing:
        console.print(f"[bold red]{missing} frames were not told[/bold red]")
    return 1 if missing else 0

"""How quick the page is with 72 embryos, and what it costs the daemon: `python -m monitor.web.bench`.

The real page process behind the real server, over a journal of five days at a frame every 10 minutes (scripted
readings, drawn pictures). A frame's whole way (seven files on disk to its reading acknowledged) is timed in turns:
nobody looks; a view refreshes itself, as a browser's does; somebody opens the whole view with all pictures again and
again. All in one run: on a shared machine two runs differ by more than what is looked for. It asserts no time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import statistics
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from monitor.bench import broker_beside, machine
from monitor.clock import SystemClock
from monitor.config import Engines, Mqtt, make_config
from monitor.errors import PellucidError
from monitor.metrics import Metrics
from monitor.node import load_models
from monitor.page_process import endpoints_up
from monitor.vocabulary import Moment, Place
from monitor.way import START, Pictures, Stopwatch, Way
from monitor.web import virtual
from monitor.web.visitor import TURNS, VIEW, get, open_view, visitor

EMBRYOS, WELLS_A_DISH = 72, 12
HOURS, EVERY_MIN = 118.0, 10.0


def bench(rounds: int, embryos: int, hours: float) -> dict[str, Any]:
    """Every figure in seconds, as `told` prints them."""
    loaded = load_models(Engines(threads=1))
    with tempfile.TemporaryDirectory(prefix="pellucid-page-bench-") as name, broker_beside() as broker:
        folder = Path(name)
        pictures = Pictures(folder / "pictures", embryos=12)
        way = Way(loaded, folder / "node", pictures, broker, Stopwatch())
        began = time.monotonic()
        pictured = _pictured(way, folder / "pictures", hours)
        readings = _fill(way, pictured, embryos, hours)
        filled_s = time.monotonic() - began
        try:
            with _served(folder, broker) as url:
                up_s = _up(url)
                return {
                    "embryos": embryos,
                    "readings": readings,
                    "filled_s": filled_s,
                    "up_s": up_s,
                    **_views(url, rounds, _newer(way, pictured, embryos, hours)),
                    "way": _ways(way, url, rounds),
                    "machine": machine(),
                }
        finally:
            way.close()


def _pictured(way: Way, drawn: Path, hours: float) -> virtual.Pictured:
    """The files of a frame are links to drawn ones; frames before those that a view shows have none."""
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in drawn.iterdir()}

    def of(place: Place, moment: Moment, plane_um: int) -> tuple[str, str] | None:
        if moment.captured_at is None or moment.captured_at < START + timedelta(hours=hours - 2):
            return None
        source = f"{int(place.well) % 12}_{plane_um}.jpg"
        # hidden from the daemon's look: as far as the journal knows it has judged them
        path = f".told/{place.dish}/{place.well}/{moment.key}_F{plane_um}.jpg"
        (way.root / path).parent.mkdir(parents=True, exist_ok=True)
        os.link(drawn / source, way.root / path)
        return path, digests[source]

    return of


def _fill(way: Way, pictured: virtual.Pictured, embryos: int, hours: float) -> int:
    """A course for every embryo. How many readings."""
    virtual.fill(way.node.journal, _places(embryos), START, hours, EVERY_MIN, pictured)
    way.node.journal.outbox.remove([row.row_id for row in way.node.journal.outbox.pending(0, 10**9)])
    return embryos * (int(hours * 60 / EVERY_MIN) + 1)


def _places(embryos: int) -> list[Place]:
    numbers = range(embryos)
    return [Place("inc1", f"P{1 + number // WELLS_A_DISH}", str(1 + number % WELLS_A_DISH)) for number in numbers]


@contextmanager
def _served(folder: Path, broker: Mqtt) -> Iterator[str]:
    config = make_config(
        {
            "site": {"name": "bench", "node": "bench"},
            "incubator": [{"name": "inc1", "path": folder / "node" / "inc1"}],
            "mqtt": broker.model_dump(),
            "storage": {"path": folder / "node" / "store"},
            "http": {"port": 0, "page": True},
        }
    )
    metrics = Metrics(CollectorRegistry(), SystemClock().now)
    with endpoints_up(config, metrics.registry, dict) as endpoints:
        yield endpoints.url


def _up(url: str) -> float:
    """Seconds from the start of the page's process to its first answer."""
    began = time.monotonic()
    while True:
        try:
            get(url + "/page/words")
        except OSError:
            if time.monotonic() - began > 120:
                raise
            threading.Event().wait(0.05)
        else:
            return time.monotonic() - began


def _timed(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def _newer(way: Way, pictured: virtual.Pictured, embryos: int, hours: float) -> Callable[[], None]:
    """Gives every embryo one frame more, each time it is called."""
    frames = [0]

    def all_of_them() -> None:
        frames[0] += 1
        at = START + timedelta(hours=hours, minutes=EVERY_MIN * frames[0])
        virtual.one_more(way.node.journal, _places(embryos), at, pictured)

    return all_of_them


def _page_pid() -> int:
    """The page's process: of our children the one that was started as such."""
    for children in Path("/proc/self/task").glob("*/children"):
        for pid in children.read_text().split():
            if b"\0page\0" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return int(pid)
    raise PellucidError("bench: the page has no process")


def _worked_s(pid: int) -> float:
    """Processor time of a process so far: what a busy machine does not lengthen."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _work(pid: int, rounds: int, work: Callable[[], object]) -> float:
    """Processor time of the page for one of so many, in seconds."""
    began = _worked_s(pid)
    for _ in range(rounds):
        work()
    return (_worked_s(pid) - began) / rounds


def _views(url: str, rounds: int, newer: Callable[[], None]) -> dict[str, Any]:
    embryo = re.search(r'href="(/page/embryo/[^"]+)"', get(url + VIEW + "?part=cards").decode())
    assert embryo is not None
    firsts: list[float] = []
    pid = _page_pid()
    first = _timed(lambda: get(url + VIEW))
    worked = {"first_whole": _work(pid, 1, lambda: firsts.append(open_view(url)))}
    laps: dict[str, list[float]] = {name: [] for name in ("view", "whole", "refresh", "embryo", "system")}
    for _ in range(rounds):
        laps["view"].append(_timed(lambda: get(url + VIEW)))
        laps["whole"].append(open_view(url))
        laps["refresh"].append(_timed(lambda: get(url + VIEW + "?part=cards")))
        laps["embryo"].append(_timed(lambda: get(url + embryo[1])))
        laps["system"].append(_timed(lambda: get(url + "/page/system")))
    cards = url + VIEW + "?part=cards"
    worked["refresh"] = _work(pid, 5 * rounds, lambda: get(cards))
    laps["all_new"], worked["all_new"] = [], 0.0
    for _ in range(rounds):
        newer()
        worked["all_new"] += _work(pid, 1, lambda: laps["all_new"].append(_timed(lambda: get(cards)))) / rounds
    known = {"If-None-Match": _tag(cards)}
    worked["nothing_new"] = _work(pid, 5 * rounds, lambda: _unchanged(cards, known))
    worked["embryo"] = _work(pid, rounds, lambda: get(url + embryo[1]))
    medians = {name: statistics.median(values) for name, values in laps.items()}
    return {"first_view_s": first, "first_whole_s": firsts[0], "medians_s": medians, "worked_s": worked}


def _tag(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return str(answer.headers["ETag"])


def _unchanged(url: str, headers: dict[str, str]) -> None:
    """As a browser refreshes a view of which nothing is new: 304."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30).close()
    except urllib.error.HTTPError as answer:
        if answer.code != 304:
            raise


# -- a frame's way while somebody looks --------------------------------------------------------------------------------


def _ways(way: Way, url: str, rounds: int) -> dict[str, dict[str, float]]:
    """Of each turn the median, the longest but a tenth, and the median's ratio to that of the same round of nobody."""
    laps: dict[str, list[float]] = {turn: [] for turn in TURNS}
    frame = 0
    with visitor(url) as look:
        for _ in range(rounds):
            for turn in TURNS:
                look(turn)
                threading.Event().wait(0.3)  # until it is under way
                for _ in range(5):
                    way.put(1, timedelta(minutes=2 * frame))
                    frame += 1
                    way.take(turn)
                    laps[turn].append(way.stopwatch.laps[turn][-1])
        look("nobody")
    alone = laps["nobody"]
    return {
        turn: {
            "median_s": statistics.median(own),
            "p90_s": sorted(own)[int(len(own) * 0.9)],
            "over_nobody": statistics.median(a / b for a, b in zip(own, alone, strict=True)),
        }
        for turn, own in laps.items()
    }


def told(found: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    medians, worked = found["medians_s"], found["worked_s"]
    first = f"the view of {found['embryos']} embryos with all its pictures, first time"
    rows: list[tuple[str, float | None, float | None, str]] = [
        (first, found["first_whole_s"], worked["first_whole"], "under 1 s"),
        ("the same, later", medians["whole"], None, ""),
        ("the view without its pictures, first time", found["first_view_s"], None, ""),
        ("a refresh after every embryo has a new frame", medians["all_new"], worked["all_new"], "under .2 s of work"),
        ("a refresh in full, nothing new", medians["refresh"], worked["refresh"], ""),
        ("a refresh as a browser asks, nothing new", None, worked["nothing_new"], ""),
        ("one embryo, all its frames", medians["embryo"], worked["embryo"], ""),
        ("the system", medians["system"], None, ""),
        ("the page's process, start to first answer", found["up_s"], None, ""),
    ]
    lines = ["| the page | ms | its processor time, ms | goal |", "|---|---|---|---|"]
    lines += [f"| {what} | {_ms(took)} | {_ms(work)} | {goal} |" for what, took, work, goal in rows]
    lines += [
        "",
        "| a frame's whole way while looks | median, ms | 90 % within, ms | over nobody |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {turn} | {1000 * way['median_s']:.0f} | {1000 * way['p90_s']:.0f} | {way['over_nobody']:.2f} |"
        for turn, way in found["way"].items()
    ]
    return "\n".join([*lines, "", f"{found['readings']} readings in the journal; {found['machine']}"])


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{1000 * seconds:.0f}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m monitor.web.bench", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--embryos", type=int, default=EMBRYOS)
    parser.add_argument("--hours", type=float, default=HOURS)
    parser.add_argument("--json-file", type=Path)
    arguments = parser.parse_args(argv)
    found = bench(arguments.rounds, arguments.embryos, arguments.hours)
    print(told(found))
    if arguments.json_file is not None:
        arguments.json_file.write_text(json.dumps({"schema": "pellucid.page-bench/1", **found}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

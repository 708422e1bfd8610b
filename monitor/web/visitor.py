"""Somebody who looks at the page, for its bench: opens a view as a browser does, in a process of their own."""

from __future__ import annotations

import multiprocessing
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event

AT_ONCE = 6  # connections that a browser opens to one server
REFRESH_S = 10.0
VIEW = "/page/incubator/inc1"
TURNS = ("nobody", "a view that refreshes", "opened again and again")


def get(url: str) -> bytes:
    """What stands there. Raises OSError."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        return bytes(answer.read())


def open_view(url: str) -> float:
    """Seconds until the view and every picture in it, the style sheet and the script are there, as a browser asks."""
    began = time.monotonic()
    text = get(url + VIEW).decode()
    found = re.findall(r'(?:src|href)="(/(?:page/picture|static)/[^"]+)"', text)
    with ThreadPoolExecutor(AT_ONCE) as browser:
        list(browser.map(lambda path: get(url + path.replace("&amp;", "&")), found))
    return time.monotonic() - began


@contextmanager
def visitor(url: str) -> Iterator[Callable[[str], None]]:
    """Somebody in a process of their own, who does what they are told."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    changed = context.Event()
    process = context.Process(target=_look, args=(url, theirs, changed), daemon=True)
    process.start()
    ours.recv()

    def tell(turn: str) -> None:
        ours.send(turn)
        changed.set()

    try:
        yield tell
    finally:
        tell("end")
        process.join(10)


def _look(url: str, told: Connection, changed: Event) -> None:
    told.send("ready")
    turn = "nobody"
    while turn != "end":
        while told.poll():
            turn = told.recv()
            changed.clear()
        if turn == TURNS[2]:
            open_view(url)
            continue
        if turn == TURNS[1]:
            get(url + VIEW + "?part=cards")
        changed.wait(REFRESH_S / 5)  # five times as often as a browser: each turn shall meet some

"""File events: they wake the scan and are never the truth; the kernel's word that it dropped some is passed on.

It asks watchdog, reads no file and knows no layout. Where there are no events (NFS, SMB, no inotify watches left), or
where they stop, nothing is missed: the timed look finds everything.
"""

from __future__ import annotations

import importlib
import logging
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from watchdog.events import (
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver
from watchdog.utils import UnsupportedLibcError

log = logging.getLogger(__name__)
# watchdog 7 warns of itself where a folder is watched as it is made; the scan finds whatever an event does not tell
warnings.filterwarnings("ignore", "Callback with id", RuntimeWarning, r"watchdog\.")

# Files that are closed or renamed are what we wait for. "Created" is for what was moved in from outside the root, and
# for a new folder: what was closed in it before watchdog listened there (its new-directory race) it tells as created.
# And before 7.1 it listens in new folders only where somebody asks for creations.
_KINDS: list[type[FileSystemEvent]] = [FileClosedEvent, FileCreatedEvent, FileMovedEvent]


class Waker(FileSystemEventHandler):
    """Calls `wake` when something below one of the roots was closed, made or moved; whoever wakes looks for himself.

    `overflowed` is called when the kernel dropped events because nobody read them in time. Both are called from other
    threads. Each root has an observer of its own, so that a mount that hangs makes no other one deaf.
    """

    def __init__(self, wake: Callable[[], None], overflowed: Callable[[], None] = lambda: None) -> None:
        self._wake, self.overflowed = wake, overflowed
        self._lock = threading.Lock()
        self._observers: dict[Path, BaseObserver] = {}
        self._running = threading.Event()

    def on_any_event(self, event: FileSystemEvent) -> None:
        self._wake()

    def watch(self, root: Path) -> None:
        """Listen below `root`, anew if we did. It does nothing before `start` or after `stop`.

        Raises OSError (share away, no inotify watches left): then only the timed scan looks. It walks the whole tree,
        and where the mount hangs it does not come back.
        """
        with self._lock:
            if not self._running.is_set():
                return
            stale = self._observers.pop(root, None)
        if stale is not None:  # the share was away: the old watch is deaf
            stale.stop()
        observer: BaseObserver = Observer()
        try:
            observer.schedule(self, str(root), recursive=True, event_filter=_KINDS)
            observer.start()
        except OSError:
            observer.stop()
            raise
        with self._lock:
            if self._running.is_set():
                self._observers[root] = observer
                return
        observer.stop()

    def hears(self, root: Path) -> bool:
        """Whether all threads that listen below `root` are alive; they end when the root is removed."""
        with self._lock:
            observer = self._observers.get(root)
        return observer is not None and observer.is_alive() and all(part.is_alive() for part in observer.emitters)

    @property
    def running(self) -> bool:
        return self._running.is_set()

    def start(self) -> None:
        self._running.set()
        if _count_overflows():
            _listeners.add(self)
        else:
            log.warning("dropped file events are not counted: this version of watchdog hides them")

    def stop(self) -> None:
        """Let go, within a second: the threads of a mount that hangs are left behind."""
        _listeners.discard(self)
        with self._lock:
            self._running.clear()
            observers = list(self._observers.values())
            self._observers.clear()

        def let_go() -> None:
            for observer in observers:
                observer.stop()

        if observers:
            letting_go = threading.Thread(target=let_go, name="waker-stop", daemon=True)
            letting_go.start()
            letting_go.join(timeout=1)


_Record = tuple[int, int, int, bytes]  # inotify's: watch descriptor, mask, cookie, name
_Q_OVERFLOW = 0x4000  # inotify(7): IN_Q_OVERFLOW, with the watch descriptor -1
_listeners: set[Waker] = set()


def _count_overflows() -> bool:
    """Look over watchdog's shoulder while it takes the kernel's records apart; whether that is possible.

    It drops the record of an overflow without a word (up to 6), or only logs it (7). The one place that both have is
    the static `_parse_event_buffer`; in another version, or without inotify, overflows go uncounted.
    """
    try:
        module = importlib.import_module("watchdog.observers.inotify_c")
    except (ImportError, UnsupportedLibcError):  # no inotify on this machine
        return False
    owner = getattr(module, "InotifyFD", None) or getattr(module, "Inotify", None)
    parse = getattr(owner, "_parse_event_buffer", None)
    if owner is None or parse is None:
        return False
    if not hasattr(parse, "tells_overflows"):
        owner._parse_event_buffer = staticmethod(_telling(parse))
    return True


def _telling(parse: Callable[[bytes], Iterable[_Record]]) -> Callable[[bytes], Iterator[_Record]]:
    def told(event_buffer: bytes) -> Iterator[_Record]:
        for record in parse(event_buffer):
            if record[0] == -1 and record[1] & _Q_OVERFLOW:
                for listener in list(_listeners):
                    listener.overflowed()
            yield record

    told.tells_overflows = True  # type: ignore[attr-defined]
    return told

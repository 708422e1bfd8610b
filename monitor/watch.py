"""Which files are finished and new: a reconciling scan is the truth, events (`monitor.waker`) only wake it.

Events overflow (python-watchdog #654), never come from NFS and SMB, and do not tell of files that were there before;
so every look lists folders and compares sizes and times of change with what is already known. The first look is a look
like any other. It opens no file and knows no layout.

A call on a mount that hangs does not come back: whoever must not hang asks from a thread of its own.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from monitor.vocabulary import FileSeen

log = logging.getLogger(__name__)

# A folder whose time of change has stood still for so long is not listed again in a quick look. Generous, because
# some file systems keep folder times to 2 s only (FAT, SMB) and cache them for up to 60 s (NFS acdirmax).
FOLDER_SETTLES_S = 120.0

# For so long after it was handed out a file is looked at again in every quick look: a torn one may be written anew.
# Later rewrites are the full look's: a quick look costs a listing, not one stat for each file of a whole week.
FRESH_S = 600.0

LAST_NS = 2**63 - 1  # in the year 2262: what a journal row can hold; a file may claim to be younger
_GONE = (errno.ENOENT, errno.ENOTDIR)
_CLOSED = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG)  # lost+found of a mount, for one

Stamp = tuple[int, int]  # size in bytes, time of last change in ns


@dataclass
class _Folder:
    mtime_ns: int
    changed_at: float  # when we saw that it had changed, our monotonic clock
    listed_at: float
    children: tuple[str, ...] = ()
    closed: set[str] = field(default_factory=set)  # names of files that a quick look need not ask about again

    @property
    def settled(self) -> bool:
        """It was listed once more after its time of change could no longer stand still under a change."""
        return self.listed_at - self.changed_at > FOLDER_SETTLES_S


class Watch:
    """The files below one incubator's folder.

    `known`: path -> (size, mtime_ns) of what the journal has already taken in. `stable_s`: how long a file must be
    unchanged before it counts as finished (0: at once, for recorded folders).
    """

    def __init__(self, root: Path, known: Mapping[str, Stamp], stable_s: float, monotonic: Callable[[], float]) -> None:
        self.root = root
        self._handed: dict[str, Stamp] = dict(known)
        self._fresh: dict[str, float] = {}  # path -> when it was handed out, oldest first
        self._looked = False
        self._unsettled: dict[str, tuple[Stamp, float]] = {}
        self._waiting_in: set[str] = set()
        self._folders: dict[str, _Folder] = {}
        self._closed: set[str] = set()
        self.stable_s = stable_s
        self._monotonic = monotonic
        self.steps = 0  # folders and files looked at so far: who waits for a long look sees that it moves

    @property
    def known(self) -> int:
        """Files that are known, here or by the journal."""
        return len(self._handed) + len(self._unsettled)

    @property
    def unsettled(self) -> int:
        """Files seen but not yet quiet for long enough."""
        return len(self._unsettled)

    def look(self, full: bool = False) -> list[FileSeen]:
        """Files that are finished and were not handed out before (or have changed since), in order of path.

        A quick look skips folders that have not changed for a while, and files handed out over 10 minutes ago; a full
        one (the first always is) also finds an old file that was rewritten in place. A folder that may not be read is
        logged and left out; it hides no other one. Raises OSError when the share is away; then nothing is handed out
        and nothing forgotten.
        """
        now = self._monotonic()
        full = full or not self._looked
        while self._fresh and now - next(iter(self._fresh.values())) > FRESH_S:
            del self._fresh[next(iter(self._fresh))]
        finished: list[FileSeen] = []
        seen: set[str] = set()
        self._waiting_in = {path.rpartition("/")[0] for path in self._unsettled}
        try:
            found = list(self._walk(full))  # the whole walk first: a share may go away in the middle of it
        except OSError:
            self._folders.clear()
            raise
        self._looked = True
        now = self._monotonic()  # a walk may take long; what it saw was seen no later than this
        for path, stamp in found:
            seen.add(path)
            if self._handed.get(path) == stamp:
                self._unsettled.pop(path, None)  # it is again what it was
                continue
            before, since = self._unsettled.get(path, (None, now))
            if before != stamp:
                since = now
            if now - since >= self.stable_s and (before == stamp or self.stable_s == 0):
                self._unsettled.pop(path, None)
                self._handed[path] = stamp
                self._fresh.pop(path, None)
                self._fresh[path] = now
                self._reopen(path)
                finished.append(FileSeen(path, *stamp))
            else:
                self._unsettled[path] = (stamp, since)
        for gone in [path for path in self._unsettled if path not in seen]:
            del self._unsettled[gone]  # renamed or removed before it was finished: nothing to wait for
        return sorted(finished, key=lambda file: file.path)

    def forget(self, path: str) -> None:
        """Offer this file again at the next look (it was handed out but could not be taken in)."""
        self._handed.pop(path, None)
        self._folders.clear()

    def _walk(self, full: bool) -> Iterator[tuple[str, Stamp]]:
        todo = [""]
        while todo:
            folder = todo.pop()
            try:
                children, files = self._list(folder, full)
            except OSError as fault:
                self._folders.pop(folder, None)
                if not folder or fault.errno not in (*_GONE, *_CLOSED):
                    raise
                if fault.errno in _CLOSED and folder not in self._closed:
                    self._closed.add(folder)
                    log.error("a folder cannot be read", extra={"path": _printable(folder), "fault": str(fault)})
                continue
            self._closed.discard(folder)
            todo.extend(children)
            yield from files

    def _list(self, folder: str, full: bool) -> tuple[tuple[str, ...], list[tuple[str, Stamp]]]:
        """The folders and files in a folder; no files when it is skipped because nothing has moved in it."""
        here = self.root / folder
        mtime_ns = here.stat().st_mtime_ns
        now = self._monotonic()
        self.steps += 1
        last = self._folders.get(folder)
        if last is None or last.mtime_ns != mtime_ns:
            known = set() if last is None else last.closed
            last = self._folders[folder] = _Folder(mtime_ns, changed_at=now, listed_at=now, closed=known)
        elif not full and last.settled and _printable(folder) not in self._waiting_in:
            return last.children, []
        files: list[tuple[str, Stamp]] = []
        children: list[str] = []
        # a week's files are known by name alone; not where one is being written anew
        closed = set() if full or _printable(folder) in self._waiting_in else last.closed
        with os.scandir(here) as entries:
            for entry in entries:
                self.steps += 1
                if entry.name in closed:
                    continue
                path = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir(follow_symlinks=False):
                    children.append(path)
                elif not full and not self._is_open(path):
                    last.closed.add(entry.name)
                elif (stamp := _stamp(entry)) is not None:
                    files.append((_printable(path), stamp))
        last.children, last.listed_at = tuple(children), now
        return last.children, files

    def _reopen(self, path: str) -> None:
        """It may be written anew soon: quick looks ask about it again."""
        folder, _, name = path.rpartition("/")
        if (known := self._folders.get(folder)) is not None:
            known.closed.discard(name)

    def _is_open(self, path: str) -> bool:
        """Whether a file may still be new, or be written anew."""
        return path not in self._handed or path in self._fresh or path in self._unsettled


def _stamp(entry: os.DirEntry[str]) -> Stamp | None:
    """Size and time of change; None for what is no file, or is gone, or is a link that leads nowhere."""
    try:
        facts = entry.stat()
    except FileNotFoundError:  # renamed between listing and looking
        return None
    except OSError:
        if entry.is_symlink():
            return None
        raise
    return (facts.st_size, min(facts.st_mtime_ns, LAST_NS)) if stat.S_ISREG(facts.st_mode) else None


def _printable(path: str) -> str:
    """The path, with bytes that are no UTF-8 escaped: such a name is refused later, but its record must be writable."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class Root:
    """What stands at a share's root: another `identity` (device, inode) is another mount, or a folder made anew."""

    identity: tuple[int, int]
    empty: bool


def probe(root: Path) -> Root:
    """Ask the share itself whether it is there. Raises OSError; does not come back where the mount hangs."""
    os.statvfs(root)  # the server answers: the folder's own facts may come from a cache, up to a minute old on NFS
    facts = root.stat()
    with os.scandir(root) as entries:
        return Root((facts.st_dev, facts.st_ino), next(entries, None) is None)

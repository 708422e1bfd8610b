"""Pictures for the page: a plane of a frame as JPEG, made small, kept in memory up to a limit.

A share may hang in the kernel: each incubator has two threads of its own for reading, and who waits longer than a few
seconds is told so; nobody else waits. A path that leads out of the incubator's folder is refused, and so is a picture
that is no longer the one that was judged. It knows files and pixels; no journal.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2

from monitor.config import Incubator
from monitor.errors import FrameError
from monitor.pictures import read_bytes, read_pages, read_plane
from monitor.vocabulary import Gray
from monitor.web.look import Source

SIDES_PX = (160, 320, 640, 1280)  # of what is asked for, the next larger one is made
KEPT_BYTES = 64 * 2**20
PATIENCE_S = 5.0
_QUALITY = 85
_WAITING = 64  # readings of one incubator that may queue: more would only be told the same


class Cache:
    """Bytes by name, the least lately used leave first. From several threads."""

    def __init__(self, most_bytes: int) -> None:
        self._most, self._size = most_bytes, 0
        self._kept: OrderedDict[tuple[object, ...], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: tuple[object, ...]) -> bytes | None:
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
            return self._kept.get(name)

    def put(self, name: tuple[object, ...], data: bytes) -> None:
        with self._lock:
            self._size += len(data) - len(self._kept.pop(name, b""))
            self._kept[name] = data
            while self._size > self._most and self._kept:
                _, gone = self._kept.popitem(last=False)
                self._size -= len(gone)

    @property
    def size_bytes(self) -> int:
        return self._size


@dataclass(frozen=True)
class _Folder:
    root: Path
    pages: int | None
    threads: ThreadPoolExecutor


class Gallery:
    """The incubators' pictures and the overlays of day 5 (below `overlays`)."""

    def __init__(self, incubators: tuple[Incubator, ...], overlays: Path, patience_s: float = PATIENCE_S) -> None:
        self._folders = {
            one.name: _Folder(
                one.path,
                len(one.planes) if one.reader.stacked else None,
                ThreadPoolExecutor(2, thread_name_prefix=f"pictures-{one.name}"),
            )
            for one in incubators
        }
        self._waiting = dict.fromkeys(self._folders, 0)
        self._overlays, self._patience_s = overlays, patience_s
        self.cache = Cache(KEPT_BYTES)

    async def plane(self, incubator: str, source: Source, side_px: int) -> bytes:
        """A JPEG whose longer side has `side_px` or more, the file's own size at most. Raises FrameError: as
        `read_plane`, `path` for one that leads elsewhere, `changed`, `away` for a folder that gives no answer."""
        side_px = next((side for side in SIDES_PX if side >= side_px), SIDES_PX[-1])
        name = (source.sha256, source.page, side_px)
        kept = self.cache.get(name)
        if kept is not None:
            return kept
        folder = self._folders.get(incubator)
        if folder is None:
            raise FrameError("path", f"{incubator} is an incubator that is configured no longer")
        if self._waiting[incubator] >= _WAITING:
            raise FrameError("away", f"the folder of {incubator} gives no answer")
        self._waiting[incubator] += 1
        work = folder.threads.submit(_small, folder, source, side_px)
        work.add_done_callback(lambda _: self._came_back(incubator))
        try:
            data = await asyncio.wait_for(asyncio.wrap_future(work), self._patience_s)
        except asyncio.TimeoutError as fault:
            raise FrameError("away", f"the folder of {incubator} gives no answer") from fault
        self.cache.put(name, data)
        return data

    def _came_back(self, incubator: str) -> None:
        self._waiting[incubator] -= 1

    def overlay(self, digest: str) -> bytes:
        """The PNG of day 5. Raises FrameError."""
        return read_bytes(self._overlays / digest[:2] / f"{digest}.png")

    def close(self) -> None:
        for folder in self._folders.values():
            folder.threads.shutdown(wait=False, cancel_futures=True)


def _small(folder: _Folder, source: Source, side_px: int) -> bytes:
    path = inside(folder.root, source.path)
    gray = _read(path, folder.pages, source)
    scale = side_px / max(gray.shape)
    if scale < 1:
        size = (max(1, round(gray.shape[1] * scale)), max(1, round(gray.shape[0] * scale)))
        gray = cv2.resize(gray, size, interpolation=cv2.INTER_AREA).astype(gray.dtype)
    done, data = cv2.imencode(".jpg", gray, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not done:
        raise FrameError("unreadable", f"{source.path}: it cannot be written as JPEG")
    return data.tobytes()


def inside(root: Path, path: str) -> Path:
    """The file below `root`, links followed. Raises FrameError `path` where it leads out of it."""
    try:
        home, found = root.resolve(), (root / path).resolve()
    except (OSError, ValueError, RuntimeError) as fault:
        raise FrameError("path", f"{path[:200]!r}: {fault}") from fault
    if not found.is_relative_to(home):
        raise FrameError("path", f"{path[:200]!r} leads out of the incubator's folder")
    return found


def _read(path: Path, pages: int | None, source: Source) -> Gray:
    if pages is None:
        gray, digest = read_plane(path)
    else:
        each, digest = read_pages(path, pages)
        page = each[source.page] if source.page < len(each) else FrameError("pages", f"{path.name} has no such page")
        if isinstance(page, FrameError):
            raise page
        gray = page
    if digest != source.sha256:
        raise FrameError("changed", f"{path.name}: it is no longer the picture that was judged")
    return gray

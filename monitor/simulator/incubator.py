"""Writes virtual embryos as an incubator would: the wells of one dish, moment by moment, file by file, with its faults.

Files appear whole under their final names (unless a fault cuts them). What is true of the embryos lies beside them
under `<out>/truth/`. It refuses to know who watches the directory.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from monitor.simulator import truth
from monitor.simulator.draw import VirtualEmbryo
from monitor.simulator.faults import Fault, apply, utc
from monitor.simulator.folders import Folders, NamedFile
from monitor.simulator.optics import PLANES_UM
from monitor.simulator.plan import Delivery, Look, Schedule

_JPEG_QUALITY = 90
_NAP_S = 1.0  # a wait is asked at least so often whether to stop
_DARK_SHARE = 0.02
_BLANK_GRAY, _BLANK_NOISE = 96, 2


def _never() -> bool:
    return False


def simulate(
    out: Path,
    *,
    start: datetime,
    embryos: int = 6,
    hours: float = 120.0,
    every_min: float = 60.0,
    first_hpi_h: float = 0.0,
    seed: int = 0,
    size_px: int = 250,
    dish: str = "D1",
    layout: str = "generic",
    faults: Sequence[Fault] = (),
    arrest_share: float = 0.36,
    masks: Path | None = None,
    speed: float | None = None,
    stop: Callable[[], bool] = _never,
    sleep: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
    on_frame: Callable[[int, int], None] | None = None,
) -> int:
    """Write `embryos` wells for `hours` from `start` (aware), one frame of 7 planes each `every_min` minutes.

    The frame at `start` shows `first_hpi_h` hours post insemination. Well n holds `VirtualEmbryo(seed + n - 1)`.
    `layout`: one of `folders.LAYOUTS`; single-moment holds the last moment only. `faults`: what goes wrong, recorded in
    `truth/faults.json`. `masks`: a folder outside of `out` for blastocysts and their masks. `speed`: virtual seconds
    per real second; None writes as fast as it can and never sleeps. `stop` is asked before every frame and while
    waiting. `on_frame(done, total)` follows every frame, written or already there. Frames that exist are left as
    they are, so a run that was stopped can be resumed with the same arguments. Returns the number of frames written.
    Raises ValueError on arguments that do not go together.
    """
    _check(start, embryos, hours, every_min, size_px, speed)
    schedule = Schedule(start.astimezone(timezone.utc), embryos, hours, every_min, first_hpi_h)
    folders = Folders(layout, dish, schedule.start, seed)
    _check_faults(folders, faults)
    planned, records = apply(faults, schedule.deliveries(folders.one_moment), schedule, seed)
    if masks is not None and masks.resolve().is_relative_to(out.resolve()):
        raise ValueError(f"masks = {masks}: choose a folder outside of {out}, where pictures would be taken for frames")
    wells = {n: VirtualEmbryo(seed + n - 1, arrest_share) for n in range(1, embryos + 1)}
    incubator = _Incubator(out, folders, schedule, wells, size_px)
    incubator.tell_truth(records)
    pace = _Pace(schedule.start, speed, sleep, monotonic, stop)
    written = 0
    for done, one in enumerate(planned, start=1):
        missing = incubator.missing(one)
        if missing and not pace.wait_for(one.due_at):
            return written
        if stop():
            return written
        if missing:
            incubator.write(one, missing)
            written += 1
        if on_frame is not None:
            on_frame(done, len(planned))
    if masks is not None:
        incubator.put_masks(masks)
    return written


def _check(start: datetime, embryos: int, hours: float, every_min: float, size_px: int, speed: float | None) -> None:
    if start.tzinfo is None:
        raise ValueError("start needs a time zone, e.g. datetime(2026, 1, 5, 9, tzinfo=timezone.utc)")
    if embryos < 1 or hours < 0 or every_min <= 0 or size_px < 32:
        raise ValueError("embryos >= 1, hours >= 0, every_min > 0 and size_px >= 32 are needed")
    if every_min < 1 / 60:
        raise ValueError("every_min is at least a second: names of files hold no less")
    if speed is not None and speed <= 0:
        raise ValueError("speed is virtual seconds per real second: above 0, or None for as fast as it goes")


def _check_faults(folders: Folders, faults: Sequence[Fault]) -> None:
    names = [fault.name for fault in faults]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"fault {name!r} is named twice")
    if folders.clockless and "clock-skew" in names:
        raise ValueError(f"fault 'clock-skew': nothing in layout {folders.layout!r} tells the clock")
    if folders.stacked and "late-planes" in names:
        raise ValueError(f"fault 'late-planes': in layout {folders.layout!r} all planes come in one file")


@dataclass
class _Pace:
    """Keeps `speed`, counted from the first thing that has to be written: drawing time is part of the wait."""

    start: datetime
    speed: float | None
    sleep: Callable[[float], None]
    monotonic: Callable[[], float]
    stop: Callable[[], bool]
    _since: tuple[datetime, float] | None = None

    def wait_for(self, due_at: datetime) -> bool:
        """True once it is time; False when asked to stop before."""
        if self.speed is None:
            return True
        if self._since is None:
            self._since = due_at, self.monotonic()
        first_at, began_s = self._since
        due_s = began_s + (due_at - first_at).total_seconds() / self.speed
        while (left_s := due_s - self.monotonic()) > 1e-6:
            self.sleep(min(left_s, _NAP_S))
            if self.stop():
                return False
        return True


@dataclass
class _Incubator:
    out: Path
    folders: Folders
    schedule: Schedule
    wells: dict[int, VirtualEmbryo]
    size_px: int

    def tell_truth(self, records: list[dict[str, object]]) -> None:
        """What is known before the first frame: lives, tables of the videos, insemination, faults to come."""
        home = self.out / "truth"
        videos = {self.folders.video(n): embryo.life for n, embryo in self.wells.items()}
        truth.put_video_tables(self.out if self.folders.layout == "nantes" else home, videos, self.schedule)
        dish, inseminated_at = self.folders.dish, self.schedule.start - timedelta(hours=self.schedule.first_hpi_h)
        truth.put_insemination(home / "insemination.csv", dish, self.wells, inseminated_at)
        for n, embryo in self.wells.items():
            known = {"dish": dish, "well": str(n), **truth.life_json(embryo.life)}
            truth.put_json(home / f"{dish}_{n}.json", known)
        truth.put_json(home / "faults.json", records)

    def missing(self, one: Delivery) -> list[NamedFile]:
        """The files of a delivery that are not there yet."""
        files = self.folders.files(one)
        files += [self.folders.second(file) for file in files if set(file.planes_um) & set(one.twice_um)]
        return [file for file in files if not (self.out / file.path).exists()]

    def write(self, one: Delivery, files: list[NamedFile]) -> None:
        """Write the truth of the moment, then its files plane by plane: no frame is whole and without truth."""
        embryo = self.wells[one.well]
        known = truth.frame_truth(embryo, one.hpi_h, self.size_px).as_json()
        path = self.out / "truth" / "frames" / self.folders.video(one.well) / f"RUN{one.run}.json"
        truth.put_json(path, {"run": one.run, "captured_at": utc(one.at), "look": one.look.value, **known})
        stack = _seen(embryo, one, self.size_px)
        for file in files:
            pages = stack[[PLANES_UM.index(plane_um) for plane_um in file.planes_um]]
            content = _stack_bytes(pages) if self.folders.stacked else _jpeg(pages[0])
            if set(file.planes_um) & set(one.cut_um):
                content = content[: round(len(content) * one.cut_share)]
            truth.put(self.out / file.path, content, one.named_at if self.folders.file_clock else None)

    def put_masks(self, folder: Path) -> None:
        """Of each well that holds a blastocyst at some moment."""
        for n, embryo in self.wells.items():
            hpi_h = truth.mask_hour_h(embryo.life, self.schedule)
            if hpi_h is not None:
                truth.put_masks(folder, f"{self.folders.video(n)} {hpi_h:.0f}h", embryo, hpi_h, self.size_px)


def _seen(embryo: VirtualEmbryo, one: Delivery, size_px: int) -> npt.NDArray[np.uint8]:
    """(P, H, W) what the camera sees; the same for the same moment, however often it is written."""
    if one.look is Look.EMPTY:
        return embryo.empty(one.hpi_h, size_px)
    if one.look is Look.BLANK:
        rng = np.random.default_rng((embryo.seed, 0xB1A2, one.run))
        gray = rng.normal(_BLANK_GRAY, _BLANK_NOISE, (len(PLANES_UM), size_px, size_px))
        return np.asarray(np.round(gray), dtype=np.uint8)
    stack = embryo.stack(one.hpi_h, size_px)
    return np.asarray(stack * _DARK_SHARE, dtype=np.uint8) if one.look is Look.DARK else stack


def _jpeg(plane: npt.NDArray[np.uint8]) -> bytes:
    return truth.encoded(".jpg", plane, cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY)


def _stack_bytes(pages: npt.NDArray[np.uint8]) -> bytes:
    """A TIFF of one page a plane. By way of a file: OpenCV 4.10 writes several pages no other way."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stack.tif"
        if not cv2.imwritemulti(str(path), list(pages)):
            raise RuntimeError(f"OpenCV could not write a TIFF of {len(pages)} pages")
        return path.read_bytes()

"""Writes virtual embryos as an incubator would: the wells of one dish, moment by moment, plane by plane, file by file.

The layout is `generic`: `<out>/<dish>/<well>/<YYYYMMDDTHHMMSSZ>_F<plane>.jpg`, planes as signed um. What is true of the
embryos lies beside it under `<out>/truth/`. It refuses to know who watches the directory.
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from monitor.simulator.draw import VirtualEmbryo
from monitor.simulator.optics import PLANES_UM

_JPEG_QUALITY = 90


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
    speed: float | None = None,
    stop: Callable[[], bool] = _never,
    sleep: Callable[[float], None] = time.sleep,
    on_frame: Callable[[int, int], None] | None = None,
) -> int:
    """Write `embryos` wells for `hours` from `start` (aware), one frame of 7 planes each `every_min` minutes.

    The frame at `start` shows `first_hpi_h` hours post insemination. Well n holds `VirtualEmbryo(seed + n - 1)`.
    `speed`: virtual seconds per real second; None writes as fast as it can and never sleeps. `stop` is asked before
    every frame. `on_frame(done, total)` follows every frame, written or already there. Frames that exist with all
    planes are left as they are, so a run that was stopped can be resumed. Returns the number of frames written.
    """
    _check(start, embryos, hours, every_min, size_px, speed)
    start_utc = start.astimezone(timezone.utc)
    wells = [VirtualEmbryo(seed + n) for n in range(embryos)]
    _write_truth(out / "truth", wells, dish, start_utc - timedelta(hours=first_hpi_h))
    moments = int(hours * 60 / every_min + 1e-9) + 1
    total, done, written = moments * embryos, 0, 0
    for k in range(moments):
        wrote_before = written
        for n, embryo in enumerate(wells, start=1):
            if stop():
                return written
            at, hpi_h = start_utc + timedelta(minutes=k * every_min), first_hpi_h + k * every_min / 60
            written += _write_frame(out / dish / str(n), at, embryo, hpi_h, size_px)
            done += 1
            if on_frame is not None:
                on_frame(done, total)
        if speed is not None and k + 1 < moments and written > wrote_before:
            sleep(every_min * 60 / speed)
    return written


def _check(start: datetime, embryos: int, hours: float, every_min: float, size_px: int, speed: float | None) -> None:
    if start.tzinfo is None:
        raise ValueError("start needs a time zone, e.g. datetime(2026, 1, 5, 9, tzinfo=timezone.utc)")
    if embryos < 1 or hours < 0 or every_min <= 0 or size_px < 32:
        raise ValueError("embryos >= 1, hours >= 0, every_min > 0 and size_px >= 32 are needed")
    if speed is not None and speed <= 0:
        raise ValueError("speed is virtual seconds per real second: above 0, or None for as fast as it goes")


def _write_frame(well: Path, at: datetime, embryo: VirtualEmbryo, hpi_h: float, size_px: int) -> bool:
    """Writes the planes of one moment that are missing; False if all were there."""
    paths = [well / f"{at:%Y%m%dT%H%M%SZ}_F{plane_um}.jpg" for plane_um in PLANES_UM]
    missing = [not path.exists() for path in paths]
    if not any(missing):
        return False
    well.mkdir(parents=True, exist_ok=True)
    for path, plane, absent in zip(paths, embryo.stack(hpi_h, size_px), missing, strict=True):
        if absent:
            _put(path, _jpeg(plane))
    return True


def _jpeg(plane: npt.NDArray[np.uint8]) -> bytes:
    ok, encoded = cv2.imencode(".jpg", plane, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not ok:
        raise RuntimeError("OpenCV could not encode a JPEG")
    return encoded.tobytes()


def _put(path: Path, content: bytes) -> None:
    """A hidden name, then a rename in the same directory: no reader ever sees half a file under the final name."""
    hidden = path.with_name(f".{path.name}.tmp")
    hidden.write_bytes(content)
    hidden.replace(path)


def _write_truth(truth: Path, wells: list[VirtualEmbryo], dish: str, insemination: datetime) -> None:
    truth.mkdir(parents=True, exist_ok=True)
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["dish", "well", "time"])
    for n, embryo in enumerate(wells, start=1):
        rows.writerow([dish, n, insemination.isoformat().replace("+00:00", "Z")])
        life = embryo.life
        known = {
            "dish": dish,
            "well": str(n),
            "seed": life.seed,
            "onsets_h": life.onsets_h,
            "reaches_blastocyst": life.reaches_blastocyst,
            "fragmentation_ratio": life.fragmentation_ratio,
            "unevenness": life.unevenness,
        }
        _put(truth / f"{dish}_{n}.json", (json.dumps(known, indent=2) + "\n").encode())
    _put(truth / "insemination.csv", table.getvalue().encode())

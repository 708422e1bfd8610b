"""What is true of virtual embryos, in the formats of the public sets, so that one loader reads theirs and ours.

Nantes: `<video>_phases.csv`, `<video>_timeElapsed.csv`, the grades' CSV. BlastsOnline: a blastocyst's picture and its
masks of ICM, TE and ZP. And JSON: one of each embryo, one of each frame. It refuses to know who reads it, and writes
nothing that is there already.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from monitor.simulator.draw import VirtualEmbryo
from monitor.simulator.faults import utc
from monitor.simulator.life import Life
from monitor.simulator.optics import PLANES_UM
from monitor.simulator.plan import Schedule
from monitor.simulator.tables import PHASES

MASKS = ("ICM", "TE", "ZP")
DAY_5_H = 116.0


@dataclass(frozen=True)
class FrameTruth:
    """What is true of one frame. Lengths in pixels of that frame.

    `phase`: the label, None before the first onset. `cell_count`: one less than the phase says while sisters are fused.
    `embryo`: x, y, radius of the zona's outside. `cells` (N, 4): x, y, radius, and height in um above the middle plane,
    of the cells that can be told apart. `reaches_blastocyst` and the grades are those of its whole life.
    """

    seed: int
    hpi_h: float
    phase: str | None
    cell_count: int
    expansion: int
    arrested: bool
    reaches_blastocyst: bool
    icm_grade: str | None
    te_grade: str | None
    embryo: tuple[float, float, float]
    cells: npt.NDArray[np.float64]

    def as_json(self) -> dict[str, Any]:
        """Plain values; pixels and um rounded to 0.01."""
        plain = {**self.__dict__, "cells": np.round(self.cells, 2).tolist()}
        plain["embryo"] = [round(value, 2) for value in self.embryo]
        return plain


def frame_truth(embryo: VirtualEmbryo, hpi_h: float, size_px: int) -> FrameTruth:
    """The truth of the frame that `embryo.stack(hpi_h, size_px)` draws."""
    life, places = embryo.life, embryo.truth_at(hpi_h, size_px)
    return FrameTruth(
        seed=life.seed,
        hpi_h=hpi_h,
        phase=life.phase_at(hpi_h),
        cell_count=life.cell_count_at(hpi_h),
        expansion=life.expansion_at(hpi_h),
        arrested=hpi_h >= life.frozen_after_h,
        reaches_blastocyst=life.reaches_blastocyst,
        icm_grade=life.icm_grade,
        te_grade=life.te_grade,
        embryo=places.embryo,
        cells=np.column_stack([places.cells, places.depth_um]),
    )


def life_json(life: Life) -> dict[str, Any]:
    """Everything of a life in plain values; what never happens is null."""
    plain = {**life.__dict__, "seed": life.seed}
    for name in ("frozen_after_h", "hatching_h"):
        plain[name] = plain[name] if np.isfinite(plain[name]) else None
    return plain


def phase_rows(life: Life, schedule: Schedule) -> list[tuple[str, int, int]]:
    """(phase, first run, last run) of every phase that a frame shows, both ends included, in order."""
    seen = [(run, life.phase_at(schedule.hpi_h(run))) for run in range(1, schedule.moments + 1)]
    rows = []
    for phase in PHASES:
        runs = [run for run, shown in seen if shown == phase]
        if runs:
            rows.append((phase, runs[0], runs[-1]))
    return rows


def put(path: Path, content: bytes, changed_at: datetime | None = None) -> None:
    """A hidden name, then a rename in the same directory: no reader ever sees half a file under the final name.

    `changed_at`: the file's own time, now if not given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f".{path.name}.tmp")
    hidden.write_bytes(content)
    if changed_at is not None:
        os.utime(hidden, (changed_at.timestamp(), changed_at.timestamp()))
    hidden.replace(path)


def put_json(path: Path, content: Any) -> None:
    put(path, (json.dumps(content, indent=2) + "\n").encode())


def put_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    put(path, text.getvalue().encode())


def put_video_tables(folder: Path, videos: dict[str, Life], schedule: Schedule) -> None:
    """The three tables of the Nantes set below `folder`. Frame 0 of a time table has no picture, as in the set."""
    times: list[tuple[object, object]] = [("frame_index", "time")]
    for run in range(schedule.moments + 1):
        times.append((run, f"{max(schedule.hpi_h(run), 0.0):.4f}"))
    for video, life in videos.items():
        put_csv(folder / "embryo_dataset_annotations" / f"{video}_phases.csv", phase_rows(life, schedule))
        put_csv(folder / "embryo_dataset_time_elapsed" / f"{video}_timeElapsed.csv", times)
    graded = [(video, life.te_grade or "NA", life.icm_grade or "NA") for video, life in videos.items()]
    put_csv(folder / "embryo_dataset_grades.csv", [("video_name", "TE", "ICM"), *graded])


def put_insemination(path: Path, dish: str, wells: Iterable[int], moment: datetime) -> None:
    """The CSV of dish, well, time that the monitor's configuration names as `insemination`."""
    put_csv(path, [("dish", "well", "time"), *((dish, well, utc(moment)) for well in wells)])


def mask_hour_h(life: Life, schedule: Schedule) -> float | None:
    """The moment nearest to day 5 at which there is a blastocyst; None where there never is one."""
    hours = [schedule.hpi_h(run) for run in range(1, schedule.moments + 1)]
    return min((h for h in hours if life.expansion_at(h) >= 1), key=lambda h: abs(h - DAY_5_H), default=None)


def put_masks(folder: Path, stem: str, embryo: VirtualEmbryo, hpi_h: float, size_px: int) -> None:
    """One blastocyst in the form of the BlastsOnline set: `Images/<stem>.BMP`, `GT_<part>/<stem> <part>_Mask.bmp`."""
    pictures = {f"Images/{stem}.BMP": embryo.stack(hpi_h, size_px)[len(PLANES_UM) // 2]}
    masks = embryo.masks(hpi_h, size_px)
    for part in MASKS:
        pictures[f"GT_{part}/{stem} {part}_Mask.bmp"] = masks[part].astype(np.uint8) * np.uint8(255)
    for name, picture in pictures.items():
        if not (folder / name).exists():
            put(folder / name, encoded(".bmp", picture))


def encoded(ending: str, picture: npt.NDArray[np.uint8], *settings: int) -> bytes:
    """The bytes of a picture file. Raises RuntimeError where OpenCV cannot write one."""
    ok, data = cv2.imencode(ending, picture, settings)
    if not ok:
        raise RuntimeError(f"OpenCV could not encode a {ending} of shape {picture.shape}")
    return data.tobytes()

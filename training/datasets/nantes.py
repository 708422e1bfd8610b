"""The time-lapse set of Gomez et al. 2022 (Zenodo 7912264, CC BY-NC-SA 4.0), with every defect that we know of.

Frames are joined to labels and hours by the RUN number in their name, never by position: runs are missing, frame 0 of
the time table has no picture, and the set's own loader is off by one for that reason. A second copy of the frames in a
folder F0/ is left alone (211 videos). Truncated pictures (52 videos) raise when they are decoded. Labels on a 0.2-h
clock (32 videos) are told in `notes` where they run past the pictures (`label_clock` looks at the others) and put right
only when asked. Blank wells are for `survey --decode` to find. It refuses to know what is in a picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from monitor.layouts import PICTURES, PRESETS
from training.datasets.embryo import PHASES, DatasetError, Grades, outcome_of
from training.datasets.stored import StoredEmbryo
from training.datasets.tables import records_of, rows_of

LABEL_CLOCK_H = 0.2  # what some videos were annotated on, whatever their pictures' own interval
LATE_START_H = 12.0
_BEYOND = 1.03  # labels that run this far past the last picture were not made on the pictures' clock
_PLANES_UM = (-45, -30, -15, 0, 15, 30, 45)
_UNGRADED = ("", "NA", "NULL", "ND")


def video_names(root: Path) -> list[str]:
    """The videos that have a folder of pictures in focus, in order of name. DatasetError where there are none."""
    folder = root / "embryo_dataset"
    names = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if not names:
        raise DatasetError(folder, "holds no video; the set has embryo_dataset/<VIDEO>/<NAME>_RUN<n>.jpeg")
    return names


def read_videos(root: Path, put_right: bool = False) -> tuple[list[StoredEmbryo], list[DatasetError]]:
    """Every video that can be read, and why each of the others cannot."""
    videos, faults = [], []
    for name in video_names(root):
        try:
            videos.append(read_video(root, name, put_right))
        except DatasetError as fault:
            faults.append(fault)
    return videos, faults


def read_video(root: Path, name: str, put_right: bool = False) -> StoredEmbryo:
    """One video. `put_right`: labels that were made on the 0.2-h clock are moved to the pictures' (see `clock`).

    DatasetError: no pictures, no or damaged tables, hours that do not ascend.
    """
    files, strange = _files_of(root, name)
    hours_h = _hours_of(root, name)
    unknown = [run for run in files if run not in hours_h]
    if len(unknown) == len(files):
        raise DatasetError(_hours_path(root, name), "tells no hour of any picture")
    runs = [run for run in sorted(files) if run in hours_h]
    own = np.array([hours_h[run] for run in runs])
    if (np.diff(own) <= 0).any():
        at = runs[int(np.argmax(np.diff(own) <= 0)) + 1]
        raise DatasetError(_hours_path(root, name), f"frame {at} is not later than the frame before it")
    notes = _notes(runs, own, strange, len(unknown))
    spans = _spans_of(root, name)
    if spans and spans[-1][2] > _BEYOND * runs[-1]:
        notes.append(f"labels run to {spans[-1][2]}, pictures to {runs[-1]}: made on a {LABEL_CLOCK_H}-h clock")
    if put_right and spans:
        spans = on_the_pictures_clock(spans, runs, own)
        notes.append(f"labels moved from a {LABEL_CLOCK_H}-h clock to the pictures'")
    labels = {run: phase for phase, first, last in spans for run in range(first, last + 1)}
    phases = tuple(labels.get(run) for run in runs)
    planes_um = tuple(um for um in _PLANES_UM if any(um in files[run] for run in runs))
    return StoredEmbryo(
        name=name,
        source="nantes",
        group=couple_of(name),
        planes_um=planes_um,
        files=tuple(files[run] for run in runs),
        hours_h=own,
        hours_known=True,
        phases=phases,
        # also by labels behind the last picture: a wrong clock moves a blastocyst, it does not undo it
        reaches_blastocyst=outcome_of((*phases, *(phase for phase, _, _ in spans)), own),
        grades=_grades_of(root).get(name),
        runs=tuple(runs),
        notes=tuple(notes),
    )


def couple_of(video: str) -> str:
    """The couple's code that begins a video's name: `AA83-7` -> `AA83`."""
    return video.partition("-")[0]


def on_the_pictures_clock(
    spans: Sequence[tuple[str, int, int]], runs: Sequence[int], hours_h: npt.NDArray[np.float64]
) -> list[tuple[str, int, int]]:
    """(phase, first run, last run) made every 0.2 h -> the same at the pictures' own mean interval (factor 1.25).

    A phase lasts until the next begins, the last one as far as it was labelled. What was cut off is not brought back.
    """
    interval_h = float(hours_h[-1] - hours_h[0]) / (runs[-1] - runs[0])
    share = LABEL_CLOCK_H / interval_h
    firsts = [round(first * share) for _, first, _ in spans]
    lasts = [first - 1 for first in firsts[1:]] + [round(spans[-1][2] * share)]
    moved = zip((phase for phase, _, _ in spans), firsts, lasts, strict=True)
    return [(phase, first, last) for phase, first, last in moved if last >= first]


def _files_of(root: Path, name: str) -> tuple[dict[int, dict[int, Path]], int]:
    """Run -> plane -> file, and how many names fit no pattern. Only the video's own folders: never their subfolders."""
    files: dict[int, dict[int, Path]] = {}
    strange = 0
    for plane_um in _PLANES_UM:
        folder = root / ("embryo_dataset" if plane_um == 0 else f"embryo_dataset_F{plane_um}") / name
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.suffix.lower() not in PICTURES or path.name.startswith("."):
                continue
            match = PRESETS["nantes"].pattern.fullmatch(f"{folder.parent.name}/{name}/{path.name}")
            if match is None:
                strange += 1
                continue
            files.setdefault(int(match["run"]), {})[plane_um] = path
    if not files:
        raise DatasetError(root / "embryo_dataset" / name, "holds no picture named ..._WELL<n>_RUN<n>.jpeg")
    return files, strange


def _hours_path(root: Path, name: str) -> Path:
    return root / "embryo_dataset_time_elapsed" / f"{name}_timeElapsed.csv"


def _hours_of(root: Path, name: str) -> dict[int, float]:
    """Run -> hours post insemination; the table begins with a frame 0 that has no picture."""
    path, hours_h = _hours_path(root, name), {}
    for number, record in records_of(path, ("frame_index", "time")):
        try:
            hours_h[int(record["frame_index"])] = float(record["time"])
        except ValueError as fault:
            raise DatasetError(path, f"line {number}: {fault}") from fault
    return {run: hours for run, hours in hours_h.items() if np.isfinite(hours)}


def _spans_of(root: Path, name: str) -> list[tuple[str, int, int]]:
    """(phase, first run, last run), both ends included, in the order of their runs."""
    path, spans = root / "embryo_dataset_annotations" / f"{name}_phases.csv", []
    for number, (phase, first, last) in rows_of(path, 3):
        if phase not in PHASES or not (first.isdigit() and last.isdigit()) or int(first) > int(last):
            raise DatasetError(path, f"line {number}: `{phase},{first},{last}` is not `phase,first run,last run`")
        spans.append((phase, int(first), int(last)))
    return sorted(spans, key=lambda span: span[1])


@lru_cache(maxsize=4)
def _grades_of(root: Path) -> Mapping[str, Grades]:
    """Grades by video; empty where the table is not there. The set grades no expansion."""
    path = root / "embryo_dataset_grades.csv"
    graded: dict[str, Grades] = {}
    for number, record in records_of(path, ("video_name", "TE", "ICM")) if path.exists() else ():
        te, icm = (None if record[part] in _UNGRADED else record[part] for part in ("TE", "ICM"))
        try:
            if te or icm:
                graded[record["video_name"]] = Grades(None, icm, te)
        except ValueError as fault:
            raise DatasetError(path, f"line {number}: {fault}") from fault
    return graded


def _notes(runs: Sequence[int], hours_h: npt.NDArray[np.float64], strange: int, without_hour: int) -> list[str]:
    def told() -> Iterator[str]:
        if hours_h[0] > LATE_START_H:
            yield f"starts late, at {hours_h[0]:.1f} h"
        if gaps := runs[-1] - runs[0] + 1 - len(runs) - without_hour:
            yield f"{gaps} runs have no picture"
        if without_hour:
            yield f"{without_hour} pictures have no hour and are left out"
        if strange:
            yield f"{strange} pictures have another name and are left out"

    return list(told())

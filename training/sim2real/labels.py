"""What is asked: six merged stages; and which real pictures may be used for what.

Does: maps phases to stages, lists the labelled pictures of each set in the public layouts, holds the hour-only
predictor's table. Refuses to know: pixels, the network, the simulator.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from monitor.vocabulary import PHASES

STAGES = ("zygote", "2", "3-4", "5-8", "9+/morula", "blastocyst")
STAGE_OF = dict(zip(PHASES, (0, 0, 0, 1, 2, 2, 3, 3, 3, 3, 4, 4, 5, 5, 5, 5), strict=True))
STAGE_OF_GENERATED = {"2cell": 1, "4cell": 2, "8cell": 3, "Morula": 4, "Blastocyst": 5}
GENERATED_TO_TUNE = 30  # the first of each class; the others are for the report

TUNE_VIDEO, REPORT_VIDEO = "AA83-7", "AAL839-6"
TUNE_SETS, REPORT_SETS = (TUNE_VIDEO, "stagegen-tune"), (REPORT_VIDEO, "stagegen-report")

# Hour at which 5, 25, 50, 75, 95 % of 82 public videos have entered each stage after the first (Gomez et al. 2022).
ENTERED_H = np.array(
    [
        [19.0, 22.8, 24.4, 27.5, 31.4],  # t2
        [27.4, 31.8, 35.0, 38.3, 43.4],  # t3
        [35.4, 42.8, 45.9, 51.6, 57.3],  # t5
        [49.7, 60.1, 65.7, 71.6, 81.9],  # t9+
        [76.9, 84.7, 90.4, 99.7, 110.4],  # tSB
    ]
)


@dataclass(frozen=True)
class Picture:
    """One labelled real picture. `hour`: post insemination, None where there is no clock. `phase`: None if unknown."""

    path: Path
    stage: int
    phase: str | None = None
    hour: float | None = None


def read_phases(path: Path) -> dict[int, str]:
    """RUN -> phase of a public `<VIDEO>_phases.csv` (`phase,first,last`, both included). ValueError on other lines."""
    found: dict[int, str] = {}
    with path.open(newline="") as file:
        for row in csv.reader(file):
            if len(row) != 3 or row[0] not in STAGE_OF:
                raise ValueError(f"{path}: `{','.join(row)}` is not `phase,first run,last run`")
            found |= dict.fromkeys(range(int(row[1]), int(row[2]) + 1), row[0])
    return found


def read_hours(path: Path) -> dict[int, float]:
    """RUN -> hours of a public `<VIDEO>_timeElapsed.csv`, which starts with a frame 0 that has no picture."""
    with path.open(newline="") as file:
        return {int(row["frame_index"]): float(row["time"]) for row in csv.DictReader(file)}


def video(nantes: Path, name: str) -> list[Picture]:
    """The labelled pictures of one video in the layout of the Nantes set, plane 0, in the order of their RUN."""
    phases = read_phases(nantes / "embryo_dataset_annotations" / f"{name}_phases.csv")
    hours = read_hours(nantes / "embryo_dataset_time_elapsed" / f"{name}_timeElapsed.csv")
    runs = {}
    for path in (nantes / "embryo_dataset" / name).glob("*.jpeg"):
        match = re.search(r"_RUN(\d+)\.jpeg$", path.name)
        if match is not None and int(match[1]) in phases:
            runs[int(match[1])] = path
    if not runs:
        raise ValueError(f"no labelled picture of {name} under {nantes}")
    return [Picture(runs[run], STAGE_OF[phases[run]], phases[run], hours[run]) for run in sorted(runs)]


def generated(stagegen: Path, tune: bool) -> list[Picture]:
    """The first 30 pictures of each class of `stagegen` (`tune`), or the others."""
    pictures = []
    for folder, stage in STAGE_OF_GENERATED.items():
        paths = sorted((stagegen / folder).glob("*.png"))
        if not paths:
            raise ValueError(f"no pictures in {stagegen / folder}")
        chosen = paths[:GENERATED_TO_TUNE] if tune else paths[GENERATED_TO_TUNE:]
        pictures += [Picture(path, stage) for path in chosen]
    return pictures


def pictures_of(data: Path, name: str) -> list[Picture]:
    """All pictures of one of the four sets. `data` holds `nantes/` and `stagegen/`."""
    if name in (TUNE_VIDEO, REPORT_VIDEO):
        return video(data / "nantes", name)
    return generated(data / "stagegen", tune=name == "stagegen-tune")


def stage_by_hour(hour: float) -> int:
    """What someone says who knows only the hour: the last stage that half of all embryos have entered."""
    return int((ENTERED_H[:, 2] <= hour).sum())


def hour_prior(hours: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(N,) hours -> (N, 6): share of embryos in each stage then, never below .02 before it is made to add up to 1."""
    percent = np.array([0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0])
    entered = [np.ones(len(hours))]
    for row in ENTERED_H:
        ends = (row[0] - (row[1] - row[0]), *row, row[-1] + (row[-1] - row[-2]))
        entered.append(np.interp(hours, ends, percent))
    shares = np.stack(entered, 1) - np.stack([*entered[1:], np.zeros(len(hours))], 1)
    shares = np.maximum(shares, 0.02)
    return np.asarray(shares / shares.sum(1, keepdims=True), dtype=np.float64)


def phases_to_spans(onsets_h: Mapping[str, float], first_h: float, last_h: float) -> list[tuple[str, float, float]]:
    """(phase, from, to) in hours for the phases of one life that lie between two hours; before the first: tPB2."""
    names, starts = list(onsets_h), [min(first_h, next(iter(onsets_h.values()))), *list(onsets_h.values())[1:]]
    ends = [*starts[1:], last_h]
    spans = [(n, max(a, first_h), min(b, last_h)) for n, a, b in zip(names, starts, ends, strict=True)]
    return [span for span in spans if span[2] > span[1]]

"""The words of day 5: a blastocyst's parts in a label image, Gardner's grades, and how each source writes them.

Axes: H, W. It knows numbers and letters only. It refuses to know how a part is found, who grades, and what a grade is
good for.

Gardner and Schoolcraft: expansion 1 (cavity under half of the embryo), 2 (half or more), 3 (fills it), 4 (larger, zona
thin), 5 (hatching), 6 (hatched); inner cell mass and trophectoderm A, B or C, graded from expansion 3 on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum, IntEnum
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from engines.contract import EngineError

Labels = npt.NDArray[np.uint8]

EXPANSIONS = (1, 2, 3, 4, 5, 6)
GRADED_FROM_EXPANSION = 3  # Gardner: before that, neither cell mass nor trophectoderm is graded


class Part(IntEnum):
    """What a pixel of a label image (H, W) uint8 shows; the order of the classes in every segmenter's output."""

    BACKGROUND = 0
    ICM = 1
    BLASTOCOEL = 2
    TE = 3
    ZP = 4


class Grade(str, Enum):
    """Quality of the inner cell mass or the trophectoderm; the order of the classes in every grader's output."""

    A = "A"
    B = "B"
    C = "C"


@dataclass(frozen=True)
class Gardner:
    """One grading. `expansion` 1 to 6; None: not graded, or graded in a scale that is not Gardner's.

    A source may grade ICM and TE below expansion 3; `as_gardner` leaves those out. Raises EngineError on an expansion
    outside of the scale.
    """

    expansion: int | None = None
    icm: Grade | None = None
    te: Grade | None = None

    def __post_init__(self) -> None:
        if self.expansion is not None and self.expansion not in EXPANSIONS:
            raise EngineError(f"expansion {self.expansion}: Gardner's scale goes from 1 to 6; None is not graded")

    def as_gardner(self) -> Gardner:
        """The same without ICM and TE where the expansion is known and below 3."""
        if self.expansion is not None and self.expansion < GRADED_FROM_EXPANSION:
            return replace(self, icm=None, te=None)
        return self

    def __str__(self) -> str:
        """`4AB`; what is not graded is a dash."""
        letters = (grade.value if grade else "-" for grade in (self.icm, self.te))
        return f"{self.expansion or '-'}{''.join(letters)}"


def from_kromp(expansion: str, icm: str, te: str) -> Gardner:
    """Columns 2 to 4 of the tables of Kromp et al. 2023 (figshare 20123153): expansion 0 to 4 is Gardner's 1 to 5
    (their own scripts grade ICM and TE from code 2 on); letters 0 = A, 1 = B, 2 = C, 3 = not defined; empty: no vote.
    """
    coded = {"0": 1, "1": 2, "2": 3, "3": 4, "4": 5, "": None}
    letters = {"0": Grade.A, "1": Grade.B, "2": Grade.C, "3": None, "": None}
    source = "Kromp"
    return Gardner(_of(coded, expansion, source), _of(letters, icm, source), _of(letters, te, source))


def from_lockhart_slides(zona: int, icm: int, te: int) -> Gardner:
    """Class numbers of the slides of Lockhart et al. 2019: 0 = A or 4, 1 = B or 3, 2 = C or 2."""
    grades, source = list(Grade), "Lockhart's slides"
    letters = dict(enumerate(grades))
    return Gardner(_of({0: 4, 1: 3, 2: 2}, zona, source), _of(letters, icm, source), _of(letters, te, source))


def from_lockhart_code(expansion: int, icm: int, te: int) -> Gardner:
    """Class numbers of the same authors' code (BE, ICM, TE), which runs the other way: 2 = A or 4, 0 = C or 2."""
    letters, source = {2: Grade.A, 1: Grade.B, 0: Grade.C}, "Lockhart's code"
    return Gardner(_of({2: 4, 1: 3, 0: 2}, expansion, source), _of(letters, icm, source), _of(letters, te, source))


def from_stork(grade: str) -> Gardner:
    """A grade of the STORK set as written, `3AA`, `1B-B-`: the digit is the clinic's own 1 to 3 and is left out; a
    letter with a minus is its letter."""
    found = re.fullmatch(r"[1-6]([ABC])[+-]?([ABC])[+-]?", grade)
    if found is None:
        raise EngineError(f"`{grade}` is no grade of the STORK set: expected a digit and two letters, such as 3AB-")
    return Gardner(None, Grade(found[1]), Grade(found[2]))


def from_nantes(te: str, icm: str) -> Gardner:
    """Columns 2 and 3 of `embryo_dataset_grades.csv` (Gomez et al. 2022): TE before ICM, letters or NA."""
    letters: dict[str, Grade | None] = {grade.value: grade for grade in Grade} | {"NA": None}
    return Gardner(None, _of(letters, icm, "Nantes"), _of(letters, te, "Nantes"))


def from_life(expansion: int, icm: str | None, te: str | None) -> Gardner:
    """What the simulator says is true at an hour: expansion 0 is no blastocyst yet; letters are those it will have."""
    if expansion == 0:
        return Gardner()
    return Gardner(expansion, Grade(icm) if icm else None, Grade(te) if te else None).as_gardner()


def _of(coding: Mapping[Any, Any], code: object, source: str) -> Any:
    if code not in coding:
        raise EngineError(f"{source}: `{code}` is no label of this source; it has {', '.join(map(repr, coding))}")
    return coding[code]


def label_image(masks: Mapping[str, npt.NDArray[Any]]) -> Labels:
    """(H, W) of `Part` from masks (H, W) by name, anything but 0 inside: "ICM", "TE", "ZP" and, if there, "blastocoel".

    Without a blastocoel (the public set has none) it is what the zona encloses and no other mask holds: it then takes
    the space between trophectoderm and zona too. Where masks overlap the inner part wins. Raises EngineError on a
    missing mask or shapes that differ.
    """
    names = {"ICM": Part.ICM, "TE": Part.TE, "ZP": Part.ZP}
    absent = [name for name in names if name not in masks]
    shapes = {mask.shape for mask in masks.values()}
    if absent or len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise EngineError(f"masks of ICM, TE and ZP in one shape (H, W) are needed: lacking {absent}, shapes {shapes}")
    labels = np.zeros(next(iter(shapes)), np.uint8)
    cavity = masks["blastocoel"] > 0 if "blastocoel" in masks else _enclosed(masks)
    labels[cavity] = Part.BLASTOCOEL
    for name in ("ZP", "TE", "ICM"):
        labels[masks[name] > 0] = names[name]
    return labels


def _enclosed(masks: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.bool_]:
    """(H, W) bool: within the outermost outlines of all masks together, where a blastocyst is there at all."""
    held = ((masks["ICM"] > 0) | (masks["TE"] > 0) | (masks["ZP"] > 0)).astype(np.uint8)
    if not (masks["ICM"] > 0).any() and not (masks["TE"] > 0).any():  # a zona alone encloses no cavity
        return np.zeros(held.shape, np.bool_)
    outlines, _ = cv2.findContours(held, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(held, outlines, -1, 1, cv2.FILLED)
    return np.asarray(held > 0, dtype=np.bool_)

"""What every data set gives: an embryo with its frames, hours, labels and grades, decoded or drawn when asked.

It knows the words of the field and the rules that all sets share. It refuses to know files, crops and networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from monitor.simulator.tables import ONSET_H, PHASES

__all__ = ["LAST_BLASTULATION_H", "PHASES", "DatasetError", "Embryo", "Grades", "Gray", "outcome_of"]

Gray = npt.NDArray[np.uint8]

LAST_BLASTULATION_H = ONSET_H["tB"][-1]  # 95 % of those that become blastocysts have done so by then
_BLASTOCYST = frozenset(PHASES[PHASES.index("tB") :])
_LETTERS = ("A", "B", "C")


class DatasetError(Exception):
    """A data set cannot be read as it lies there: names the file, what is wrong with it, and where known the remedy."""

    def __init__(self, path: Path, fault: str) -> None:
        super().__init__(f"{path}: {fault}")
        self.path = path
        self.fault = fault


@dataclass(frozen=True)
class Grades:
    """A blastocyst's grade: `expansion` 1 to 6 of Gardner's scale (or the clinic's own, as its set says), `icm` and
    `te` "A", "B" or "C". None: not graded. Raises ValueError for anything else.
    """

    expansion: int | None = None
    icm: str | None = None
    te: str | None = None

    def __post_init__(self) -> None:
        if self.expansion is not None and not 0 <= self.expansion <= 6:
            raise ValueError(f"expansion {self.expansion}: the scale goes from 0 to 6")
        for name, letter in (("icm", self.icm), ("te", self.te)):
            if letter is not None and letter not in _LETTERS:
                raise ValueError(f"{name} {letter!r} is not A, B or C")


@runtime_checkable
class Embryo(Protocol):
    """One embryo of one set. Axes: T frames in ascending hours, P planes in ascending um, H, W."""

    @property
    def name(self) -> str:
        """Unique in its set."""

    @property
    def source(self) -> str:
        """The set: "virtual", "nantes", "stork", ..."""

    @property
    def group(self) -> str:
        """Couple or patient, where the set tells it; a split never cuts a group."""

    @property
    def planes_um(self) -> tuple[int, ...]: ...

    @property
    def hours_h(self) -> npt.NDArray[np.float64]:
        """(T,) hours post insemination; hours since the first frame where `hours_known` is False."""

    @property
    def hours_known(self) -> bool: ...

    @property
    def phases(self) -> tuple[str | None, ...]:
        """(T,) one of PHASES for each frame, None where it carries no label."""

    @property
    def reaches_blastocyst(self) -> bool | None:
        """None where nobody knows: it was not watched for long enough, or the set does not say."""

    @property
    def grades(self) -> Grades | None: ...

    def stack(self, t: int) -> Gray:
        """(P, H, W) uint8 of frame `t`, decoded or drawn now. DatasetError names the file that does not decode."""

    def masks(self, t: int) -> dict[str, Gray] | None:
        """ "ICM", "TE", "ZP" -> (H, W) uint8, 255 inside and 0 outside; None where nobody has marked the frame."""


def outcome_of(
    phases: Sequence[str | None], hours_h: npt.NDArray[np.float64], watched_until_h: float = LAST_BLASTULATION_H
) -> bool | None:
    """Whether an embryo reaches the blastocyst stage, from the labels of its frames.

    True with a label of tB or later. False when it was watched until `watched_until_h` hours without one. None when it
    was not, or when it carries no label at all: an embryo taken out on day 3 has not failed. 0 h gives the reading of
    the public benchmarks, in which whatever is never labelled tB has failed.
    """
    labelled = [phase for phase in phases if phase is not None]
    if not labelled:
        return None
    if not _BLASTOCYST.isdisjoint(labelled):
        return True
    return False if hours_h[-1] >= watched_until_h else None

"""One frame of day 5, from its planes to what is told and the picture beside it: crop, parts, measures, grades.

Every way it can end is an outcome: graded, no blastocyst, not gradable, no embryo found. A model that fails makes a
frame not gradable; it never stops anything. It refuses to know files, the journal and which frame comes next.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import cv2
import numpy as np

from engines.blastocyst import Found, NotFound, sharpest_plane
from engines.contract import EngineError
from engines.day5 import Grade, Labels
from engines.day5_models import NO_BLASTOCYST, Day5Models, Said
from engines.measure import Measurements, measure
from engines.preprocess import Gray, nearest_plane_um
from monitor.contradictions import TABLE
from monitor.day5_body import Day5Criterion, Day5Grade, Day5Measured, Day5Outcome
from monitor.gardner import Agreement, Criterion, Day5Reading, Opinion, not_gradable, read_gardner
from monitor.overlay import Picture, Shown, draw_overlay, draw_without

log = logging.getLogger(__name__)

DIGITS = 4
FAULTS = (EngineError, ValueError, ArithmeticError, LookupError, cv2.error)  # of one frame: the next may do better
_SAYS = {one.word: one.says for one in TABLE}


@dataclass(frozen=True, eq=False)
class Judged5:
    """What was made of one frame. `picture` None: no picture was looked at. Areas in the square of `measured.unit`."""

    reading: Day5Reading
    outcome: Day5Outcome
    flags: tuple[str, ...] = ()
    picture: Picture | None = None
    crop_confidence: float | None = None
    plane_um: int | None = None


def say_none(stage: str | None) -> Judged5:
    """Day 5 is here and no blastocyst is: no picture need be looked at."""
    reading = read_gardner((), None, stage)
    return Judged5(reading, _outcome(reading))


class Day5Judge:
    """The models of day 5 and what becomes of their answers. `count_failure` is told the model and why it gave none."""

    def __init__(
        self, models: Day5Models, count_failure: Callable[[str, str], None] = lambda model, reason: None
    ) -> None:
        self.models, self._count_failure = models, count_failure

    def judge(
        self, planes: Mapping[int, Gray], stage: str | None, still: bool, um_per_px: float | None, title: str
    ) -> Judged5:
        """One frame's planes by um, each (H, W) uint8. `still`: it may show no well; `um_per_px` None: not known."""
        try:
            return self._judge(planes, stage, still, um_per_px, title)
        except FAULTS as fault:  # a frame that cannot be worked on must not be met again at the next start
            log.error("a frame of day 5 is lost", extra={"title": title, "fault": repr(fault)})
            return Judged5(not_gradable(f"the frame could not be worked on ({fault})"), "not_gradable")

    def _judge(
        self, planes: Mapping[int, Gray], stage: str | None, still: bool, um_per_px: float | None, title: str
    ) -> Judged5:
        found = self.models.find(planes, still)
        planes_um = tuple(sorted(planes))
        if isinstance(found, NotFound):
            reading = not_gradable(found.reason)
            plane_um = nearest_plane_um(0, planes_um)
            picture = draw_without(planes[plane_um], Shown(title, reading.text()))
            return Judged5(reading, "no_embryo", (), picture, found.confidence, plane_um)
        plane_um = planes_um[sharpest_plane(np.stack([planes[um] for um in planes_um]), found)]
        labels, measured = self._measured(planes, found, um_per_px)
        said, flags = self._said(planes, found)
        reading = self._read(said, labels, measured, stage)
        told = tuple(sorted({*flags, *reading.flags}))
        shown = Shown(f"{title}   F{plane_um:+d} um", _verdict(reading), tuple(_SAYS.get(one, one) for one in told))
        picture = draw_overlay(planes[plane_um], found, shown, labels, measured, um_per_px)
        return Judged5(reading, _outcome(reading), told, picture, found.confidence, plane_um)

    def _measured(
        self, planes: Mapping[int, Gray], found: Found, um_per_px: float | None
    ) -> tuple[Labels | None, Measurements | None]:
        """The parts and their measures, in um or in px of the frame; None where the segmenter failed."""
        try:
            labels, square = self.models.segment(planes, found)
        except EngineError as fault:
            self._failed(self.models.segmenter, fault)
            return None, None
        measured = measure(labels, (um_per_px or 1.0) * square.step_px)
        return labels, measured if um_per_px is not None else replace(measured, unit="px")

    def _said(self, planes: Mapping[int, Gray], found: Found) -> tuple[list[Opinion], set[str]]:
        """The opinions of the graders that gave one, and `grader_failed` where one did not."""
        opinions: list[Opinion] = []
        for name in self.models.graders:
            try:
                opinions.append(opinion_of(self.models.grade(name, planes, found)))
            except (EngineError, ValueError) as fault:
                self._failed(name, fault)
        return opinions, {"grader_failed"} if len(opinions) < len(self.models.graders) else set()

    def _failed(self, model: str, fault: Exception) -> None:
        log.error("a model of day 5 gave no answer", extra={"model": model, "fault": str(fault)})
        self._count_failure(model, "engine")

    def _read(
        self, said: Sequence[Opinion], labels: Labels | None, measured: Measurements | None, stage: str | None
    ) -> Day5Reading:
        """Grades rest on parts that were seen: without any, a grade would be a guess that nothing speaks against."""
        if measured is None:
            return not_gradable("the segmenter gave no answer")
        if measured.body_area is None:
            return not_gradable("no part of an embryo was segmented", measured)
        return read_gardner(said, measured, stage)


def opinion_of(said: Said) -> Opinion:
    """A grader's words as classes. P("none") stands for itself; the others are made to add up to 1 without it.

    Raises ValueError where that cannot be.
    """
    none = said.expansion.get(NO_BLASTOCYST)
    classes = {int(word): p for word, p in said.expansion.items() if word != NO_BLASTOCYST}
    total = sum(classes.values())
    if none is not None and not total > 0:  # sure of none: what it would be if it were one, nobody has said
        classes, total = dict.fromkeys(classes, 1.0), float(len(classes))
    expansion = classes if none is None else {one: p / total for one, p in classes.items()}
    icm, te = ({Grade(word): p for word, p in one.items()} for one in (said.icm, said.te))
    return Opinion(said.grader, expansion, icm, te, none)


def _outcome(reading: Day5Reading) -> Day5Outcome:
    if reading.gradable:
        return "graded"
    return "no_blastocyst" if (reading.reason or "").startswith("no blastocyst") else "not_gradable"


def _verdict(reading: Day5Reading) -> str:
    return str(reading.grade) if reading.gradable else reading.text()


# -- into the words of the contract --------------------------------------------------------------------------------


def told_grade(reading: Day5Reading) -> Day5Grade | None:
    """None where nothing is graded."""
    grade = reading.grade
    if grade.expansion is None:
        return None
    return Day5Grade(expansion=grade.expansion, icm=grade.icm and grade.icm.value, te=grade.te and grade.te.value)


def told_criteria(reading: Day5Reading) -> dict[Literal["expansion", "icm", "te"], Day5Criterion]:
    """Those that were asked about, in this order."""
    told: dict[Literal["expansion", "icm", "te"], Day5Criterion] = {}
    if reading.expansion is not None:
        told["expansion"] = _criterion(reading.expansion, str)
    if reading.icm is not None:
        told["icm"] = _criterion(reading.icm, lambda one: one.value)
    if reading.te is not None:
        told["te"] = _criterion(reading.te, lambda one: one.value)
    return told


def _criterion(one: Criterion, word: Callable[..., str]) -> Day5Criterion:  # type: ignore[type-arg]
    return Day5Criterion(
        grade=None if one.grade is None else word(one.grade),
        reason=one.reason,
        probabilities={word(name): round(p, DIGITS) for name, p in one.probabilities.items()},
        said={grader: word(name) for grader, name in one.said.items()},
        agreement=one.agreement and one.agreement.value,
    )


def told_agreement(reading: Day5Reading) -> Literal["same", "one_apart", "apart", "alone"] | None:
    """The least of the criteria's; a single grader agrees with nobody."""
    order = (Agreement.ALONE, Agreement.APART, Agreement.ONE_APART, Agreement.SAME)
    said = [one.agreement for one in (reading.expansion, reading.icm, reading.te) if one is not None]
    least = min((one for one in said if one is not None), key=order.index, default=None)
    return None if least is None else least.value


def told_measured(measured: Measurements | None) -> Day5Measured | None:
    if measured is None:
        return None
    values = asdict(measured)
    return Day5Measured(**{name: round(v, DIGITS) if isinstance(v, float) else v for name, v in values.items()})

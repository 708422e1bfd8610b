"""One Gardner reading of one moment: what two graders say, how far they agree, and which measurements speak against it.

Pure: no picture, no clock, no file. It refuses to know how a grader or a segmenter works, and to say what should be
done with an embryo: its words are information beside an embryologist's own assessment.

The rule. Expansion first: each class gets the mean of the probabilities that the graders who know it give it, made to
add up to 1; the best class is the grade if it has at least `LEAST_SURE` and the graders' own first choices lie at most
one step apart. From expansion 3 on ICM and TE are graded by the same rule, each for itself. Measurements never change a
grade: where they contradict one they raise a flag, and a person looks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

import numpy as np

from engines.day5 import EXPANSIONS, GRADED_FROM_EXPANSION, Gardner, Grade
from engines.measure import Measurements
from monitor.contradictions import contradictions
from monitor.vocabulary import PHASES

LEAST_SURE = 0.4  # of 3 or 6 classes: clearly above the even share of three; below, a grade would be a guess
MOST_STEPS_APART = 1  # embryologists who grade the same picture are often one step apart, seldom two
LEAST_CAVITY = 0.1  # of the body's area: below it no cavity is seen that could be graded

Class = TypeVar("Class", int, Grade)


class Agreement(str, Enum):
    """Of the graders' first choices: the same, one step apart, further apart; or only one grader spoke."""

    SAME = "same"
    ONE_APART = "one_apart"
    APART = "apart"
    ALONE = "alone"


@dataclass(frozen=True)
class Opinion:
    """What one grader says: class -> probability; a class it does not know is absent (Lockhart's knows expansion 2 to
    4). `none`: its probability that the picture shows no blastocyst, None where it does not know that class; the others
    are those of one that is. Raises ValueError unless each adds up to 1."""

    grader: str
    expansion: Mapping[int, float]
    icm: Mapping[Grade, float]
    te: Mapping[Grade, float]
    none: float | None = None

    def __post_init__(self) -> None:
        for what, said in (("expansion", self.expansion), ("ICM", self.icm), ("TE", self.te)):
            values = np.array(list(said.values()), dtype=np.float64)
            if not (np.isfinite(values).all() and (values >= 0).all() and abs(values.sum() - 1) < 0.01):
                raise ValueError(f"{self.grader}: probabilities of {what} must add up to 1, got {dict(said)}")
        if not set(self.expansion) <= set(EXPANSIONS):
            raise ValueError(f"{self.grader}: expansion goes from 1 to 6, got {sorted(self.expansion)}")


@dataclass(frozen=True)
class Criterion(Generic[Class]):
    """One of expansion, ICM, TE. `grade` None with the reason; `probabilities` are the combined ones, `said` each
    grader's first choice by its name."""

    grade: Class | None
    reason: str | None
    probabilities: Mapping[Class, float]
    said: Mapping[str, Class]
    agreement: Agreement | None


@dataclass(frozen=True)
class Day5Reading:
    """What is told. `reason`: why nothing is graded, None where the expansion is. `flags`: words of
    `monitor.contradictions`, in order of name."""

    grade: Gardner
    reason: str | None
    expansion: Criterion[int] | None = None
    icm: Criterion[Grade] | None = None
    te: Criterion[Grade] | None = None
    flags: tuple[str, ...] = ()
    measured: Measurements | None = None

    @property
    def gradable(self) -> bool:
        return self.reason is None

    def text(self) -> str:
        """One line for people."""
        if self.reason is not None:
            return self.reason
        return str(self.grade) + (f" ({', '.join(self.flags)})" if self.flags else "")


def not_gradable(why: str, measured: Measurements | None = None) -> Day5Reading:
    """`why` in words for people: "no embryo found: ...", "the segmenter gave no answer"."""
    return Day5Reading(Gardner(), f"not gradable: {why}", measured=measured)


def read_gardner(opinions: Sequence[Opinion], measured: Measurements | None, stage: str | None) -> Day5Reading:
    """One reading. `stage`: the live phase of the embryo's history, None for a single moment without one.

    Below tSB there is no blastocyst whatever the graders say, for they were never shown one that is none. Without a
    history the cavity that was segmented decides. Raises ValueError on a phase that is none.
    """
    early = _no_blastocyst(measured, stage)
    if early is not None:
        return Day5Reading(Gardner(), f"no blastocyst, not gradable: {early}", measured=measured)
    if not opinions:
        return not_gradable("no grader gave an answer", measured)
    if _none_is_likely(opinions):
        if stage is not None:  # the history has one, this picture does not show it
            return not_gradable("the graders see no blastocyst", measured)
        return Day5Reading(Gardner(), "no blastocyst, not gradable: the graders see none", measured=measured)
    expansion = _combined({said.grader: said.expansion for said in opinions}, EXPANSIONS)
    if expansion.grade is None:
        return Day5Reading(Gardner(), f"not gradable: expansion: {expansion.reason}", expansion, measured=measured)
    icm = te = None
    if expansion.grade >= GRADED_FROM_EXPANSION:
        icm = _combined({said.grader: said.icm for said in opinions}, tuple(Grade))
        te = _combined({said.grader: said.te for said in opinions}, tuple(Grade))
    grade = Gardner(expansion.grade, icm.grade if icm else None, te.grade if te else None)
    flags = () if measured is None else contradictions(grade, measured)
    return Day5Reading(grade, None, expansion, icm, te, flags, measured)


def _no_blastocyst(measured: Measurements | None, stage: str | None) -> str | None:
    """Why there is none, or None where there is, or may be, one."""
    if stage is not None:
        if stage not in PHASES:
            raise ValueError(f"`{stage}` is no phase; phases are {', '.join(PHASES)}")
        return f"the stage is {stage}" if PHASES.index(stage) < PHASES.index("tSB") else None
    if measured is not None and (measured.blastocoel_fraction or 0.0) < LEAST_CAVITY:
        return "no cavity is seen"
    return None


def _none_is_likely(opinions: Sequence[Opinion]) -> bool:
    """Whether the graders who know that class find no blastocyst likelier than one, on average."""
    said = [one.none for one in opinions if one.none is not None]
    return bool(said) and float(np.mean(said)) > 0.5


def _combined(said: Mapping[str, Mapping[Class, float]], classes: Sequence[Class]) -> Criterion[Class]:
    """The graders' probabilities of one criterion put together by the rule above."""
    known = {one: [told[one] for told in said.values() if one in told] for one in classes}
    mean = {one: float(np.mean(values)) if values else 0.0 for one, values in known.items()}
    total = sum(mean.values())
    probabilities = {one: value / total for one, value in mean.items()}
    first = {grader: max(told, key=lambda one: told[one]) for grader, told in said.items()}
    steps = [classes.index(one) for one in first.values()]
    apart = max(steps) - min(steps)
    agreement = Agreement.ALONE if len(said) == 1 else _agreement(apart)
    best = max(classes, key=lambda one: probabilities[one])
    reason = None
    if apart > MOST_STEPS_APART:
        reason = "the graders disagree (" + ", ".join(f"{grader} {_word(one)}" for grader, one in first.items()) + ")"
    elif probabilities[best] < LEAST_SURE:
        reason = f"no class is likely enough ({_word(best)} at {probabilities[best]:.2f})"
    return Criterion(best if reason is None else None, reason, probabilities, first, agreement)


def _agreement(apart: int) -> Agreement:
    return (Agreement.SAME, Agreement.ONE_APART)[apart] if apart <= 1 else Agreement.APART


def _word(one: int | Grade) -> str:
    return one.value if isinstance(one, Grade) else str(one)

"""What a reading does not say, or says on too little, and why: one word for each lack. Pure; it changes no number."""

from __future__ import annotations

from collections.abc import Set

from engines.segments import SegmentAnswer
from monitor.vocabulary import PHASES, Blastocyst, Outcome, Stage

INTERVALS = {"cc2": ("t2", "t3"), "s2": ("t3", "t4"), "cc3": ("t3", "t5"), "s3": ("t5", "t8")}
_NOT_JUDGED = {Outcome.UNFIT: "unfit", Outcome.LACKING: "lacking", Outcome.OUT_OF_ORDER: "out_of_order"}
_UNSURE = ("memory_lost", "memory_of_other_model", "embryo_not_located", "beyond_training")


def lacks_of(
    outcome: Outcome,
    blastocyst: Blastocyst | None,
    answer: SegmentAnswer | None,
    stage: Stage | None,
    stage_serves: bool,
    hpi: float | None,
    flags: Set[str],
) -> dict[str, str]:
    """name -> why, for the hour, the probability, the stage and the intervals between onsets."""
    found = {"hpi": None if hpi is not None else "time_zero_unknown"}
    found["blastocyst"] = _of_probability(outcome, blastocyst, answer, flags)
    if stage is None:
        found["stage"] = _NOT_JUDGED.get(outcome) or ("stage_failed" if stage_serves else "no_model")
    else:
        found |= {name: _of_interval(stage, *ends) for name, ends in INTERVALS.items()}
    return {name: why for name, why in found.items() if why is not None}


def _of_probability(
    outcome: Outcome, told: Blastocyst | None, answer: SegmentAnswer | None, flags: Set[str]
) -> str | None:
    if told is None:
        return _NOT_JUDGED.get(outcome) or "engine_failed"
    if unsure := [flag for flag in _UNSURE if flag in flags]:
        return unsure[0]
    if answer is not None and answer.too_little:
        return answer.too_little[0]
    return "no_memory" if told.state_age_h is None else None


def _of_interval(stage: Stage, earlier: str, later: str) -> str | None:
    """Why an interval is not known; None where it is."""
    for phase in (earlier, later):
        if phase not in stage.onsets_h:
            if PHASES.index(stage.revised) < PHASES.index(phase):
                return "not_reached"
            began_later = all(PHASES.index(other) > PHASES.index(phase) for other in stage.onsets_h)
            return "before_first_frame" if began_later else "passed_over"
    return None


def intervals_of(
    onsets_h: dict[str, float], onsets_sd_h: dict[str, float]
) -> tuple[dict[str, float], dict[str, float]]:
    """The intervals of which both onsets are known, and their standard deviations as if the onsets erred apart."""
    known = {
        name: ends for name, ends in INTERVALS.items() if all(phase in onsets_h for phase in ends)
    }  # fmt: skip
    hours = {name: round(onsets_h[later] - onsets_h[earlier], 4) for name, (earlier, later) in known.items()}
    sds = {
        name: round((onsets_sd_h[earlier] ** 2 + onsets_sd_h[later] ** 2) ** 0.5, 4)
        for name, (earlier, later) in known.items()
    }
    return hours, sds

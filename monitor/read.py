"""The engines' outputs of one moment, and what was known of the frame -> one Reading. Pure: no clock, no file.

A number that is not finite, or that a failed engine did not give, is told as absent, with a flag; never as a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

from engines.segments import SegmentAnswer
from engines.stages import StageAnswer
from monitor.day5_body import Day5
from monitor.lacks import intervals_of, lacks_of
from monitor.runs import Fate, Visit
from monitor.vocabulary import (
    Blastocyst,
    Calibration,
    EmbryoName,
    FrameBody,
    Outcome,
    Quality,
    Reading,
    Stage,
    reading_id,
)

PROBABILITY_DIGITS = 6
HOUR_DIGITS = 4


@dataclass(frozen=True)
class Judgement:
    """What the blastocyst engine said of a frame; `fault` where it could not. `stage`: what the stage model said, whose
    phases are `classes`; None where there is none, or it failed."""

    answer: SegmentAnswer | None
    fault: str | None = None
    stage: StageAnswer | None = None
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Speaker:
    """Who speaks: site, node, and the digests of the engines that serve (`engines` of every reading); how the
    blastocyst model is calibrated, and whether a stage model serves."""

    site: str
    node: str
    engines: dict[str, str]
    calibration: Calibration | None = None
    stages: bool = False


def make_reading(
    visit: Visit,
    judgement: Judgement | None,
    speaker: Speaker,
    extra_flags: Set[str] = frozenset(),
    day5: Day5 | None = None,
) -> Reading:
    """One frame's reading. A revision repeats what the engines said when they judged the frame. `day5`: what was last
    made of a frame of the embryo; a late word about an earlier frame has none."""
    stack, prior = visit.stack, visit.prior
    repeated = prior if visit.fate is Fate.REVISE else None
    blastocyst, fault = _blastocyst(judgement, speaker.calibration)
    frame, stage, outcome = _frame(visit, repeated), _stage(visit, judgement), _outcome(visit, fault)
    quality = _quality(visit, frame, judgement, fault, extra_flags, repeated)
    answer = None if judgement is None else judgement.answer
    lacks = lacks_of(outcome, blastocyst, answer, stage, speaker.stages, frame.hpi, set(quality.flags))
    embryo_id = visit.run.embryo_id if prior is None else prior.embryo.embryo_id
    revision = 1 if prior is None else prior.revision + 1
    return Reading(
        id=reading_id(speaker.site, speaker.node, embryo_id, stack.moment.key, revision),
        occurred_at=stack.moment.at,
        revision=revision,
        supersedes=None if prior is None else prior.id,
        embryo=EmbryoName(
            incubator=stack.place.incubator, dish=stack.place.dish, well=stack.place.well, embryo_id=embryo_id
        ),
        frame=frame,
        outcome=outcome,
        blastocyst=blastocyst if repeated is None else repeated.blastocyst,
        stage=stage if repeated is None else repeated.stage,
        day5=repeated.day5 if repeated is not None else None if visit.out_of_order else day5,
        lacks=lacks if repeated is None else repeated.lacks,
        quality=quality,
        engines=speaker.engines if repeated is None else repeated.engines,
    )


def _frame(visit: Visit, repeated: Reading | None) -> FrameBody:
    """What the frame was judged from; in a revision what has come since stands beside what was there before."""
    stack = visit.stack
    sources = {image.source.plane_um: image.source.file.path for image in stack.images}
    if repeated is not None:
        before = dict(zip(repeated.frame.planes, repeated.frame.sources, strict=True))
        sources = before | sources
    return FrameBody(
        captured_at=stack.moment.at,
        run=stack.moment.run,
        hpi=visit.age.hpi,
        hpi_source=visit.age.source,
        planes=tuple(sorted(sources)),
        missing_planes=tuple(plane_um for plane_um in stack.missing_um if plane_um not in sources),
        sources=tuple(sources[plane_um] for plane_um in sorted(sources)),
    )


def _quality(
    visit: Visit,
    frame: FrameBody,
    judgement: Judgement | None,
    fault: str | None,
    extra_flags: Set[str],
    repeated: Reading | None,
) -> Quality:
    flags = set(visit.flags) | extra_flags
    if repeated is not None:  # what qualified the number still does
        flags |= set(repeated.quality.flags) - {"missing_planes", "broken_planes"}
        flags |= {"missing_planes"} if frame.missing_planes else set()
        flags |= {"broken_planes"} if visit.stack.broken else set()
        return Quality(fit=repeated.quality.fit, flags=tuple(sorted(flags)), measured=repeated.quality.measured)
    flags |= set(visit.observation.flags)
    if fault is not None:
        flags.add(fault)
    answer = None if judgement is None else judgement.answer
    if answer is not None and answer.beyond_training:
        flags.add("beyond_training")
    if answer is not None and answer.not_enough_data:
        flags.add("not_enough_data")
    if visit.out_of_order:
        flags.add("out_of_order")
    observation = visit.observation
    return Quality(fit=observation.fit, flags=tuple(sorted(flags)), measured=observation.measured)


def calibration_of(told: Mapping[str, object]) -> Calibration | None:
    """What a manifest says of how its probabilities were calibrated; None where it says nothing."""
    method, fitted_on, ece = (told.get(name) for name in ("method", "fitted_on", "ece_after"))
    if method is None or fitted_on is None:
        return None
    return Calibration(method=str(method), fitted_on=str(fitted_on), ece=ece if isinstance(ece, float) else None)


def _blastocyst(judgement: Judgement | None, calibration: Calibration | None) -> tuple[Blastocyst | None, str | None]:
    if judgement is None:
        return None, None
    if judgement.answer is None:
        return None, "engine_failed"
    if judgement.answer.failed:
        return None, "not_finite"
    probability = float(judgement.answer.outputs["y_blastocyst"][0])
    if not 0.0 <= probability <= 1.0:
        return None, "not_finite"
    age_h, spread = judgement.answer.state_age_h, judgement.answer.spread
    told = Blastocyst(
        probability=round(probability, PROBABILITY_DIGITS),
        state_age_h=None if age_h is None else round(age_h, 4),
        segments_missed=judgement.answer.segments_missed,
        spread=None if spread is None else round(spread, PROBABILITY_DIGITS),
        calibration=calibration,
    )
    return told, None


def _stage(visit: Visit, judgement: Judgement | None) -> Stage | None:
    answer = None if judgement is None else judgement.stage
    if judgement is None or answer is None or answer.decoded is None or answer.probabilities is None:
        return None
    said, classes = answer.decoded, judgement.classes
    probabilities = [round(float(p), PROBABILITY_DIGITS) for p in answer.probabilities]
    # the decoder counts from the first frame; hours post insemination are told where both clocks are known
    hpi, elapsed_h = visit.age.hpi, visit.elapsed_h
    known = hpi is not None and elapsed_h is not None
    shift_h = (hpi or 0.0) - (elapsed_h or 0.0) if known else 0.0

    def hours(by_phase: dict[int, float], shift_h: float = 0.0) -> dict[str, float]:
        return {classes[phase]: round(hour + shift_h, HOUR_DIGITS) for phase, hour in by_phase.items()}

    onsets_h, onsets_sd_h = hours(said.onsets_h, shift_h), hours(said.onsets_sd_h)
    intervals_h, intervals_sd_h = intervals_of(onsets_h, onsets_sd_h)
    return Stage(
        live=classes[said.live],
        live_probability=probabilities[said.live],
        revised=classes[said.revised],
        probabilities=dict(zip(classes, probabilities, strict=True)),
        onsets_h=onsets_h,
        onsets_sd_h=onsets_sd_h,
        onsets_since="insemination" if known else "first_frame",
        stepped_back=said.fallen_back,
        intervals_h=intervals_h,
        intervals_sd_h=intervals_sd_h,
    )


def _outcome(visit: Visit, fault: str | None) -> Outcome:
    if visit.fate is Fate.REVISE:
        return Outcome.REVISED
    if visit.out_of_order:
        return Outcome.OUT_OF_ORDER
    if visit.stack.lacking:
        return Outcome.LACKING
    if not visit.observation.fit:
        return Outcome.UNFIT
    return Outcome.JUDGED if fault is None else Outcome.ENGINE_FAILED

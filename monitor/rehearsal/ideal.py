"""The readings of models that err in nothing, for the same script: what the rules of alerts make of the truth itself.

Against it a record shows what the models cost. It draws nothing; it knows lives, troubles and the flags they lead to.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from monitor.rehearsal.cases import Scene, TroubleKind, Well
from monitor.rehearsal.record import DISH, INSEMINATED, NODE, SITE
from monitor.rehearsal.truth import gone_h, true_stage
from monitor.simulator import Life
from monitor.vocabulary import (
    Blastocyst,
    EmbryoName,
    FrameBody,
    Outcome,
    Quality,
    Reading,
    Stage,
    reading_id,
)

FLAG: dict[TroubleKind, str] = {
    "dark": "dark",
    "blurred": "blurred",
    "missing_planes": "missing_planes",
    "lacking": "lacking",
    "blank": "blank",
    "empty": "blank",
}
JUDGED_ALL_THE_SAME = {"missing_planes"}
SETTLED_FRAMES = 4  # a decoder believes in fewer cells after so many frames


def readings(scene: Scene) -> Iterator[Reading]:
    """Every frame of a scene, moment by moment."""
    lives = {well: Life.sample(well.seed) for well in scene.wells}
    for hpi_h in scene.hours():
        for well, life in lives.items():
            troubles = scene.trouble_at(well, hpi_h)
            if "gap" not in troubles:
                yield _reading(scene, well, life, hpi_h, troubles)


def _reading(scene: Scene, well: Well, life: Life, hpi_h: float, troubles: tuple[TroubleKind, ...]) -> Reading:
    at = INSEMINATED + timedelta(seconds=round(hpi_h * 3600))
    flags = tuple(sorted({FLAG[trouble] for trouble in troubles}))
    fit = not set(flags) - JUDGED_ALL_THE_SAME
    place = (scene.name, DISH, str(well.number))
    embryo_id = "/".join((*place, "1"))
    return Reading(
        id=reading_id(SITE, NODE, embryo_id, str(hpi_h), 1),
        occurred_at=at,
        revision=1,
        supersedes=None,
        embryo=EmbryoName(incubator=place[0], dish=place[1], well=place[2], embryo_id=embryo_id),
        frame=FrameBody(
            captured_at=at, run=None, hpi=hpi_h, hpi_source="config", planes=(0,), missing_planes=(), sources=("",)
        ),
        outcome=Outcome.JUDGED if fit else Outcome.UNFIT,
        blastocyst=_blastocyst(scene, well, life, hpi_h) if fit else None,
        stage=_stage(scene, life, hpi_h) if fit else None,
        quality=Quality(fit=fit, flags=flags),
        engines={},
    )


def _blastocyst(scene: Scene, well: Well, life: Life, hpi_h: float) -> Blastocyst:
    becomes = life.reaches_blastocyst and hpi_h < gone_h(scene, well)
    return Blastocyst(probability=float(becomes), state_age_h=6.0, segments_missed=0)


def _stage(scene: Scene, life: Life, hpi_h: float) -> Stage:
    """Onsets fall on the first frame that shows them, as a decoder would have it."""
    hours = scene.hours()
    seen = {}
    for phase, onset_h in life.onsets_h.items():
        first_h = next((hour for hour in hours if hour >= onset_h), None)
        if first_h is not None and hours[0] < onset_h and first_h <= hpi_h:
            seen[phase] = first_h
    shown = {phase: hour for phase, hour in seen.items() if _last(seen, hour) == phase}
    stage = true_stage(life, shown, hpi_h)
    settled_h = (SETTLED_FRAMES - 1) * scene.every_min / 60
    back = any(begins_h + settled_h <= hpi_h < ends_h for begins_h, ends_h in life.reverse_cleavage)
    spread_h = scene.every_min / 60 / 12**0.5  # it began somewhere between two frames
    return stage.model_copy(update={"onsets_sd_h": dict.fromkeys(shown, spread_h), "stepped_back": back})


def _last(seen: dict[str, float], hour: float) -> str:
    """Of the phases that begin within one frame only the last is seen."""
    return [phase for phase, other in seen.items() if other == hour][-1]

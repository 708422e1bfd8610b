"""What ought to be told of a scripted scene: from the lives and the script alone, before anything was read or decided.

It knows no model and no alert that was raised.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from monitor.milestones import CYCLES, direct_cleavage, lateness
from monitor.rehearsal.cases import Scene, Well
from monitor.simulator import Life
from monitor.vocabulary import PHASES, Stage

DEGRADES = ("dark", "blurred", "missing_planes", "lacking")
EMPTIES = ("blank", "empty")
LONG_ENOUGH_H = 5.0  # of frames an hour apart: half of the last six, and one more


@dataclass(frozen=True)
class Due:
    """One thing to be told of: of which incubator or well, from when it is so, until when a word about it is one.

    `clear_h`: when the rule itself, given the truth, could say so. `also`: another kind that says it as well: where
    nothing is left to see, an empty well and a lens out of focus look alike.
    """

    kind: str
    incubator: str
    well: str | None
    from_h: float
    until_h: float
    fact: str | None = None
    clear_h: float | None = None
    also: str | None = None


def due(scene: Scene) -> list[Due]:
    """Everything that is to be told of a scene."""
    found = [one for well in scene.wells for one in (*_of_pictures(scene, well), *_of_life(scene, well))]
    for trouble in scene.troubles:
        kind = "frame_gap" if trouble.kind == "gap" else "imaging_degraded"
        found.append(Due(kind, scene.name, None, trouble.from_h, _grace(scene, trouble.from_h + trouble.hours)))
    return found


def _grace(scene: Scene, until_h: float) -> float:
    """Words come with a frame, and the last window lasts on."""
    return until_h + 3 * scene.every_min / 60


def _of_pictures(scene: Scene, well: Well) -> list[Due]:
    found = []
    for trouble in well.troubles:
        if trouble.hours >= LONG_ENOUGH_H and trouble.from_h < scene.last_h:
            kind = "well_empty" if trouble.kind in EMPTIES else "imaging_degraded"
            also = {"empty": "imaging_degraded", "blurred": "well_empty"}.get(trouble.kind)
            until_h = _grace(scene, trouble.from_h + trouble.hours)
            found.append(Due(kind, scene.name, str(well.number), trouble.from_h, until_h, also=also))
    return found


def gone_h(scene: Scene, well: Well) -> float:
    """When the embryo is taken out for good."""
    return min((one.from_h for one in well.troubles if one.kind == "empty" and one.hours >= scene.last_h), default=1e9)


def _of_life(scene: Scene, well: Well) -> list[Due]:
    life, last_h = Life.sample(well.seed), min(scene.last_h, gone_h(scene, well))
    name, number = scene.name, str(well.number)
    found: list[Due] = []
    if math.isfinite(life.frozen_after_h) and (clear_h := _plain_arrest_h(scene, life, last_h)) is not None:
        found.append(Due("arrest", name, number, life.frozen_after_h, math.inf, clear_h=clear_h))
    at = {phase: hour for phase, hour in life.onsets_h.items() if scene.hours()[0] < hour < last_h}
    for cycle, (_, ends) in CYCLES.items():
        said = direct_cleavage(true_stage(life, at, last_h), cycle)
        if said.value is not None and said.value > 0.5:
            hour = next(at[phase] for phase in ends if phase in at)
            found.append(Due("direct_cleavage", name, number, hour, math.inf, cycle))
    found += [
        Due("reverse_cleavage", name, number, begins_h, _grace(scene, ends_h) + 2)
        for begins_h, ends_h in life.reverse_cleavage
        if ends_h < last_h
    ]
    if life.onsets_h.get("tB", math.inf) < last_h - 3:
        found.append(Due("blastocyst_reached", name, number, life.onsets_h["tB"], math.inf))
    return found


def _plain_arrest_h(scene: Scene, life: Life, last_h: float) -> float | None:
    """The first hour at which the rule, told the truth, calls the arrest; None within the record."""
    for hpi_h in scene.hours():
        if life.frozen_after_h <= hpi_h < last_h - 3:
            late = lateness(true_stage(life, life.onsets_h, hpi_h), hpi_h).value
            if late is not None and late >= 2:
                return hpi_h
    return None


def true_stage(life: Life, onsets_h: dict[str, float], hpi_h: float) -> Stage:
    """What a model that errs in nothing would say."""
    now = life.phase_at(hpi_h) or "tPB2"
    passed = {phase: hour for phase, hour in onsets_h.items() if hour <= hpi_h}
    return Stage(
        live=now,
        live_probability=1.0,
        revised=now,
        probabilities={phase: float(phase == now) for phase in PHASES},
        onsets_h=passed,
        onsets_sd_h=dict.fromkeys(passed, 0.0),
        onsets_since="insemination",
        stepped_back=False,
    )

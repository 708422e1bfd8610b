"""What one reading says, kind by kind -> alerts raised, updated, cleared. Pure: nothing is kept here.

The machine that raises and clears is `monitor.alert_machine`; what a stage says is `monitor.milestones`; what most
wells of an incubator say together is `monitor.alert_group`. It knows no journal and no broker.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from monitor import milestones
from monitor.alert import Alert, AlertSubject, Evidence
from monitor.alert_machine import EMPTY, Signal, Values, Voice, Watching, advance, kind_of
from monitor.alert_rules import Alerts, Checkpoint, LowBlastocystProbability, Rule
from monitor.alert_texts import TEXTS
from monitor.milestones import Said
from monitor.vocabulary import Outcome, Reading, Stage

WINDOW_FRAMES = 6
CHECK_WITHIN_H = 6.0  # a check is made at its hour, or as soon after it as there are frames
DEGRADED = frozenset({"dark", "bright", "blurred", "missing_planes", "broken_planes", "lacking"})
DOUBTFUL = frozenset(
    {"memory_lost", "memory_of_other_model", "beyond_training", "not_enough_data", "embryo_not_located"}
)
DOUBTFUL_STAGE = frozenset({"memory_lost", "memory_of_other_model", "embryo_not_located"})


@dataclass(frozen=True)
class Look:
    """One number of one reading: where it is watched, what was remembered there, and the rule that holds for it."""

    slot: str
    watching: Watching
    rule: Rule
    said: Said

    @property
    def kind(self) -> str:
        return kind_of(self.slot)


def subject_of(reading: Reading) -> AlertSubject:
    embryo = reading.embryo
    return AlertSubject(incubator=embryo.incubator, dish=embryo.dish, well=embryo.well, embryo_id=embryo.embryo_id)


def clock_s(reading: Reading) -> float | None:
    """Seconds on the embryo's own clock: the frame's time, else the hour its time file gives, else unknown."""
    frame = reading.frame
    if frame.captured_at is not None:
        return frame.captured_at.timestamp()
    return frame.hpi * 3600 if frame.hpi is not None and frame.hpi_source == "file" else None


def is_news(reading: Reading) -> bool:
    """Late words and revisions of old frames raise and clear nothing."""
    return reading.outcome not in (Outcome.OUT_OF_ORDER, Outcome.REVISED)


def hear(
    reading: Reading,
    remembered: Mapping[str, Watching],
    rules: Alerts,
    voice: Voice,
    heard_at: datetime | None = None,
) -> tuple[dict[str, Watching], list[Alert]]:
    """What one new reading changes: the watchings that differ, by slot, and the words to say."""
    changed: dict[str, Watching] = {}
    said: list[Alert] = []
    for look in looks(reading, remembered, rules):
        after, word = advance(look.watching, signal_of(reading, look, rules, heard_at), look.rule, voice)
        if after != remembered.get(look.slot, EMPTY):
            changed[look.slot] = after
        if word is not None:
            said.append(word)
    return changed, said


def looks(reading: Reading, remembered: Mapping[str, Watching], rules: Alerts) -> Iterator[Look]:
    """Every number that this reading gives to look at."""
    if not is_news(reading):
        return
    first_word = reading.revision == 1  # a frame told before (a lack judged after all) is no other one of the last
    bad = {"imaging_degraded": _degraded(reading), "well_empty": _empty(reading)}
    for kind, one in bad.items():
        watching, value = share(remembered.get(kind, EMPTY), one if first_word else None, WINDOW_FRAMES)
        yield Look(kind, watching, rules.of(kind), Said(value, _of_pictures(reading)))
    yield from _probability_looks(reading, remembered, rules.low_blastocyst_probability)
    if reading.stage is not None and not DOUBTFUL_STAGE & set(reading.quality.flags):
        yield from _stage_looks(reading, reading.stage, remembered, rules)


def signal_of(reading: Reading, look: Look, rules: Alerts, heard_at: datetime | None) -> Signal:
    frame = reading.frame
    return Signal(
        kind=look.kind,
        subject=subject_of(reading),
        value=look.said.value,
        name=reading.id,
        at_s=clock_s(reading),
        occurred_at=frame.captured_at,
        text=TEXTS[look.kind],
        evidence=Evidence(readings=(reading.id,), values={"hpi": frame.hpi, "run": frame.run, **look.said.values}),
        file_clock="clock_from_file" in reading.quality.flags,
        fact=look.said.fact,
        heard_at=heard_at,
        quiet=rules.is_quiet(look.kind, heard_at),
    )


def share(watching: Watching, bad: bool | None, frames: int) -> tuple[Watching, float | None]:
    """One more look (None: there was nothing to see), and the share of the last `frames` looks that were bad."""
    if bad is None:
        return watching, None
    window = (*watching.window, int(bad))[-frames:]
    return watching.model_copy(update={"window": window if any(window) else ()}), sum(window) / frames


# -- pictures ----------------------------------------------------------------------------------------------------------


def _of_pictures(reading: Reading) -> Values:
    return {"flags": " ".join(reading.quality.flags), "missing_planes": len(reading.frame.missing_planes)}


def _degraded(reading: Reading) -> bool:
    return bool(DEGRADED & set(reading.quality.flags))


def _empty(reading: Reading) -> bool | None:
    """Whether no embryo was seen; nobody can say where the picture itself is not fit to look at.

    A picture that is blank and blurred may show an empty well, or a lens so far out of focus that nothing is left.
    """
    flags = set(reading.quality.flags)
    if "blank" in flags and not {"blurred", "lacking"} & flags:
        return True
    return False if reading.quality.fit else None


# -- the probability ---------------------------------------------------------------------------------------------------


def _probability_looks(
    reading: Reading, remembered: Mapping[str, Watching], rule: LowBlastocystProbability
) -> Iterator[Look]:
    """At the check of day 3, at that of day 4, and always from `from_hpi` on; one alert of the kind stands at most."""
    kind, hpi = "low_blastocyst_probability", reading.frame.hpi
    probability = _probability(reading)
    values: Values = {} if reading.blastocyst is None else reading.blastocyst.model_dump(exclude={"calibration"})
    checks = {f"{kind}/day3": rule.day3, f"{kind}/day4": rule.day4}
    standing = [slot for slot in (*checks, kind) if remembered.get(slot, EMPTY).open is not None]
    old_enough = hpi is not None and hpi >= rule.from_hpi
    for slot, check in checks.items():
        due = not standing and not old_enough and hpi is not None and _is_due(check, rule, hpi)
        value = probability if due or slot in standing else None
        name = slot.partition("/")[2]
        own = rule.model_copy(update={"enter": check.enter})
        yield Look(slot, remembered.get(slot, EMPTY), own, Said(value, {**values, "check": name}, name))
    free = old_enough and not (set(standing) - {kind})
    yield Look(kind, remembered.get(kind, EMPTY), rule, Said(probability if free else None, values))


def _is_due(check: Checkpoint, rule: Rule, hpi: float) -> bool:
    """From as long before the check as the probability must have lasted, to a while after it."""
    return check.enter > 0 and check.hpi - rule.for_min / 60 <= hpi <= check.hpi + CHECK_WITHIN_H


def _probability(reading: Reading) -> float | None:
    """P(blastocyst) where it can be taken at its word: from a whole memory, within what was trained."""
    told = reading.blastocyst
    if told is None or told.state_age_h is None or DOUBTFUL & set(reading.quality.flags):
        return None
    return told.probability


# -- stages ------------------------------------------------------------------------------------------------------------


def _stage_looks(reading: Reading, stage: Stage, remembered: Mapping[str, Watching], rules: Alerts) -> Iterator[Look]:
    def at(slot: str) -> Watching:
        return remembered.get(slot, EMPTY)

    yield Look("arrest", at("arrest"), rules.arrest, milestones.lateness(stage, reading.frame.hpi))
    for cycle in milestones.CYCLES:
        slot = f"direct_cleavage/{cycle}"
        yield Look(slot, at(slot), rules.direct_cleavage, milestones.direct_cleavage(stage, cycle))
    back = milestones.stepped_back(stage) if reading.revision == 1 else None
    watching, value = share(at("reverse_cleavage"), back, WINDOW_FRAMES)
    said = Said(value, {"live": stage.live, "revised": stage.revised})
    yield Look("reverse_cleavage", watching, rules.reverse_cleavage, said)
    slot = "blastocyst_reached"
    yield Look(slot, at(slot), rules.blastocyst_reached, milestones.blastocyst_share(stage))


def of_node(
    kind: str,
    subject: AlertSubject,
    value: float | None,
    now: datetime,
    values: Values,
    reading: str | None = None,
    quiet: bool = False,
) -> Signal:
    """A number of the node itself, looked at now, or with a `reading` that told it."""
    evidence = Evidence(readings=() if reading is None else (reading,), values=values)
    return Signal(
        kind,
        subject,
        value,
        reading or now.isoformat(),
        now.timestamp(),
        now,
        TEXTS[kind],
        evidence,
        heard_at=now,
        quiet=quiet,
    )

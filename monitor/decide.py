"""The history of readings -> alerts raised, updated, cleared. Pure: time comes with what is told, nothing is kept here.

One machine for all kinds: a number is past its `enter` limit for long enough and the alert is raised; it is past its
`leave` limit and the alert is cleared; between the two nothing changes, so that a number that trembles at a limit does
not ring. What is remembered between two words is a `Watching`, stored by whoever calls. It knows no journal, no broker.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from monitor.alert import Alert, AlertLimits, AlertState, AlertSubject, Evidence, WhyCleared
from monitor.alert_rules import Alerts, LowBlastocystProbability, Rule
from monitor.vocabulary import Outcome, Reading

WINDOW_FRAMES = 6
DEGRADED = frozenset({"dark", "bright", "blurred", "missing_planes", "broken_planes", "lacking"})
DOUBTFUL = frozenset(
    {"memory_lost", "memory_of_other_model", "beyond_training", "not_enough_data", "embryo_not_located"}
)
UPDATE_EVERY_S = 3600.0
FASTEST_CADENCE_MIN = 5.0  # between an incubator's frames
VALUE_DIGITS = 4


@dataclass(frozen=True)
class Signal:
    """One look at one number. `value` None: nothing can be said now, so nothing changes.

    `at_s`: seconds on the subject's own clock, None where its frames have none. `name`: what the moment is called; it
    makes the alert's identity, so it must not depend on when it was processed.
    """

    kind: str
    subject: AlertSubject
    value: float | None
    name: str
    at_s: float | None
    occurred_at: datetime | None
    text: str
    evidence: Evidence
    file_clock: bool = False  # `at_s` is a file's time, which a copy may have flattened: enough frames count as well


class Open(BaseModel):
    """An alert that stands: what is needed to say the next word about it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    alert_id: str
    revision: int
    raised_at: datetime | None
    first_reading: str | None
    worst: float
    said_s: float | None


class Watching(BaseModel):
    """What is remembered of one kind and one subject; the empty one is not stored."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    past_since_s: float | None = None  # since when the value has been past `enter` without a break
    past_frames: int = 0
    first_reading: str | None = None
    cleared_s: float | None = None
    window: tuple[int, ...] = ()  # the last frames, 1 where it was bad; empty while all are good
    open: Open | None = None


EMPTY = Watching()


@dataclass(frozen=True)
class Voice:
    """Who speaks; part of every alert's identity."""

    site: str
    node: str


def advance(watching: Watching, signal: Signal, rule: Rule, voice: Voice) -> tuple[Watching, Alert | None]:
    """One signal further: what to remember, and the word to say, if any."""
    if not rule.enabled:
        return _silenced(watching, signal, rule)
    if signal.value is None:
        return watching, None
    if watching.open is not None:
        return _while_open(watching, watching.open, signal, signal.value, rule)
    return _while_quiet(watching, signal, signal.value, rule, voice)


def _while_quiet(
    watching: Watching, signal: Signal, value: float, rule: Rule, voice: Voice
) -> tuple[Watching, Alert | None]:
    if not rule.entered(value):
        return watching.model_copy(update={"past_since_s": None, "past_frames": 0, "first_reading": None}), None
    first = watching.first_reading or next(iter(signal.evidence.readings), None)
    since = signal.at_s if watching.past_since_s is None else watching.past_since_s
    frames = watching.past_frames + 1
    pending = watching.model_copy(update={"past_since_s": since, "past_frames": frames, "first_reading": first})
    lasted = frames >= rule.frames and _elapsed_min(since, signal.at_s) >= rule.for_min
    if signal.file_clock:
        lasted = lasted or frames >= rule.frames + rule.for_min / FASTEST_CADENCE_MIN
    if not lasted or _elapsed_min(watching.cleared_s, signal.at_s) < rule.cooldown_min:
        return pending, None
    alert_id = _digest(voice.site, voice.node, signal.kind, signal.subject.key, signal.name)[:20]
    standing = Open(
        alert_id=alert_id,
        revision=1,
        raised_at=signal.occurred_at,
        first_reading=first,
        worst=value,
        said_s=signal.at_s,
    )
    after = pending.model_copy(update={"open": standing, "past_since_s": None, "past_frames": 0, "first_reading": None})
    return after, _word(AlertState.RAISED, standing, signal, rule)


def _while_open(
    watching: Watching, standing: Open, signal: Signal, value: float, rule: Rule
) -> tuple[Watching, Alert | None]:
    if rule.left(value):
        after = watching.model_copy(update={"open": None, "cleared_s": signal.at_s})
        return after, _word(AlertState.CLEARED, _next(standing), signal, rule, "recovered")
    twice_as_bad = value <= standing.worst / 2 if rule.low_is_bad else value >= standing.worst * 2
    due = _elapsed_min(standing.said_s, signal.at_s) * 60 >= UPDATE_EVERY_S
    if not due or not twice_as_bad:
        return watching, None
    standing = _next(standing).model_copy(update={"worst": value, "said_s": signal.at_s})
    return watching.model_copy(update={"open": standing}), _word(AlertState.UPDATED, standing, signal, rule)


def _silenced(watching: Watching, signal: Signal, rule: Rule) -> tuple[Watching, Alert | None]:
    """The operator has switched this kind off: what stands open is cleared, and says why."""
    if watching.open is None:
        return EMPTY, None
    return EMPTY, _word(AlertState.CLEARED, _next(watching.open), signal, rule, "switched_off")


def end(
    remembered: dict[str, Watching],
    subject: AlertSubject,
    at: datetime | None,
    rules: Alerts,
    why: WhyCleared = "run_ended",
) -> list[Alert]:
    """The last words about what stands open for a subject that is watched no longer."""
    return [
        _word(
            AlertState.CLEARED,
            _next(watching.open),
            Signal(kind, subject, None, "", None, at, TEXTS[kind], Evidence()),
            rules.of(kind),
            why,
        )
        for kind, watching in sorted(remembered.items())
        if watching.open is not None
    ]


def _next(standing: Open) -> Open:
    return standing.model_copy(update={"revision": standing.revision + 1})


def _elapsed_min(since_s: float | None, at_s: float | None) -> float:
    """Minutes between two moments; without a clock (or before the first) nothing keeps an alert waiting."""
    return float("inf") if since_s is None or at_s is None else (at_s - since_s) / 60


def _word(
    state: AlertState, standing: Open, signal: Signal, rule: Rule, why_cleared: WhyCleared | None = None
) -> Alert:
    readings = dict.fromkeys((standing.first_reading, *signal.evidence.readings))
    told = tuple(reading for reading in readings if reading is not None)
    return Alert(
        id=_digest(standing.alert_id, str(standing.revision))[:32],
        occurred_at=signal.occurred_at,
        alert_id=standing.alert_id,
        kind=signal.kind,
        state=state,
        revision=standing.revision,
        subject=signal.subject,
        raised_at=standing.raised_at,
        value=None if signal.value is None else round(signal.value, VALUE_DIGITS),
        limits=AlertLimits(enter=rule.enter, leave=rule.leave, for_min=rule.for_min, unit=rule.unit),
        text=signal.text,
        why_cleared=why_cleared,
        evidence=Evidence(readings=told, values=signal.evidence.values),
        runbook=f"runbook.md#{signal.kind}",
    )


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


# -- what readings say -------------------------------------------------------------------------------------------------


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
    reading: Reading, remembered: dict[str, Watching], rules: Alerts, voice: Voice
) -> tuple[dict[str, Watching], list[Alert]]:
    """What one new reading changes: the watchings that differ, by kind, and the words to say."""
    changed: dict[str, Watching] = {}
    said: list[Alert] = []
    if not is_news(reading):
        return changed, said

    def once(bad: bool | None) -> bool | None:
        """A frame told before (a lack that was judged after all) is no other one of the last frames."""
        return bad if reading.revision == 1 else None

    looked = {
        "imaging_degraded": share(remembered.get("imaging_degraded", EMPTY), once(_degraded(reading)), WINDOW_FRAMES),
        "well_empty": share(remembered.get("well_empty", EMPTY), once(_empty(reading)), WINDOW_FRAMES),
        "low_blastocyst_probability": (
            remembered.get("low_blastocyst_probability", EMPTY),
            _probability(reading, rules.low_blastocyst_probability),
        ),
    }
    for kind, (watching, value) in looked.items():
        after, word = advance(watching, _of_frame(reading, kind, value), rules.of(kind), voice)
        if after != remembered.get(kind, EMPTY):
            changed[kind] = after
        if word is not None:
            said.append(word)
    return changed, said


def share(watching: Watching, bad: bool | None, frames: int) -> tuple[Watching, float | None]:
    """One more look (None: there was nothing to see), and the share of the last `frames` looks that were bad."""
    if bad is None:
        return watching, None
    window = (*watching.window, int(bad))[-frames:]
    return watching.model_copy(update={"window": window if any(window) else ()}), sum(window) / frames


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


def _probability(reading: Reading, rule: LowBlastocystProbability) -> float | None:
    """P(blastocyst) where it can be taken at its word: old enough, from a whole memory, within what was trained."""
    told, hpi = reading.blastocyst, reading.frame.hpi
    if told is None or told.state_age_h is None or hpi is None or hpi < rule.from_hpi:
        return None
    return None if DOUBTFUL & set(reading.quality.flags) else told.probability


TEXTS = {
    "imaging_degraded": "the pictures of this embryo are degraded",
    "well_empty": "no embryo is seen in this well",
    "low_blastocyst_probability": "the model's probability of a blastocyst stays low",
    "frame_gap": "no frame has come from this incubator for longer than its cadence allows",
    "engine_failing": "the engine gives no answer to some frames",
    "storage_low": "free space where the journal lies is low",
}


def _of_frame(reading: Reading, kind: str, value: float | None) -> Signal:
    frame = reading.frame
    values: dict[str, float | int | str | None] = {"hpi": frame.hpi, "run": frame.run}
    if kind == "low_blastocyst_probability" and reading.blastocyst is not None:
        values |= reading.blastocyst.model_dump()
    else:
        values |= {"flags": " ".join(reading.quality.flags), "missing_planes": len(frame.missing_planes)}
    return Signal(
        kind=kind,
        subject=subject_of(reading),
        value=value,
        name=reading.id,
        at_s=clock_s(reading),
        occurred_at=frame.captured_at,
        text=TEXTS[kind],
        evidence=Evidence(readings=(reading.id,), values=values),
        file_clock="clock_from_file" in reading.quality.flags,
    )


def of_node(
    kind: str,
    subject: AlertSubject,
    value: float | None,
    now: datetime,
    values: dict[str, float | int | str | None],
    reading: str | None = None,
) -> Signal:
    """A number of the node itself, looked at now, or with a `reading` that told it."""
    evidence = Evidence(readings=() if reading is None else (reading,), values=values)
    return Signal(kind, subject, value, reading or now.isoformat(), now.timestamp(), now, TEXTS[kind], evidence)

"""One machine for all alerts: raised, updated, acknowledged, escalated, cleared. Pure: time comes with what is told.

A number is past its `enter` limit for long enough and the alert is raised; it is past its `leave` limit and the
alert is cleared; between the two nothing changes, so that a number that trembles at a limit does not ring. What is
remembered between two words is a `Watching`, stored by whoever calls. It knows no reading, no journal, no broker.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from monitor.alert import Acknowledged, Alert, AlertLimits, AlertState, AlertSubject, Evidence, WhyCleared
from monitor.alert_rules import Alerts, Rule
from monitor.alert_texts import OF_INCUBATOR, TEXTS

UPDATE_EVERY_S = 3600.0
FASTEST_CADENCE_MIN = 5.0  # between an incubator's frames
VALUE_DIGITS = 4

Values = dict[str, float | int | str | None]


@dataclass(frozen=True)
class Signal:
    """One look at one number. `value` None: nothing can be said now, so nothing changes.

    `at_s`: seconds on the subject's own clock, None where its frames have none. `name`: what the moment is called; it
    makes the alert's identity, so it must not depend on when it was processed. `fact`: where a kind tells of something
    that is true once and for good, its name: it makes the identity instead, and is told once. `heard_at`: by the node's
    clock, None in a replay; `quiet`: within the quiet hours of its kind.
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
    fact: str | None = None
    members: tuple[str, ...] = ()
    heard_at: datetime | None = None
    quiet: bool = False


class Open(BaseModel):
    """An alert that stands: what is needed to say the next word about it.

    `told_at`: when it was raised aloud, by the node's clock; `quiet`: so far only within quiet hours.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    alert_id: str
    revision: int
    raised_at: datetime | None
    first_reading: str | None
    worst: float
    said_s: float | None
    told_at: datetime | None = None
    quiet: bool = False
    members: tuple[str, ...] = ()
    acknowledged: Acknowledged | None = None
    escalated_at: datetime | None = None


class Watching(BaseModel):
    """What is remembered of one kind and one subject; the empty one is not stored."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    past_since_s: float | None = None  # since when the value has been past `enter` without a break
    past_frames: int = 0
    first_reading: str | None = None
    cleared_s: float | None = None
    window: tuple[int, ...] = ()  # the last frames, 1 where it was bad; empty while all are good
    told: tuple[str, ...] = ()  # facts that were told, never to be told again
    open: Open | None = None

    @property
    def past(self) -> bool:
        """Whether its number is past `enter`, or was and has not left since."""
        return self.open is not None or self.past_frames > 0


EMPTY = Watching()


@dataclass(frozen=True)
class Voice:
    """Who speaks; part of every alert's identity."""

    site: str
    node: str


def kind_of(slot: str) -> str:
    """A kind is watched in several slots where it tells of several facts: `<kind>/<fact>`."""
    return slot.partition("/")[0]


def advance(
    watching: Watching, signal: Signal, rule: Rule, voice: Voice, hold: bool = False
) -> tuple[Watching, Alert | None]:
    """One signal further: what to remember, and the word to say, if any. `hold`: nothing may be raised now."""
    if not rule.enabled:
        return _silenced(watching, signal, rule)
    if signal.value is None:
        return watching, None
    if watching.open is not None:
        return _while_open(watching, watching.open, signal, signal.value, rule)
    return _while_quiet(watching, signal, signal.value, rule, voice, hold)


def _while_quiet(
    watching: Watching, signal: Signal, value: float, rule: Rule, voice: Voice, hold: bool
) -> tuple[Watching, Alert | None]:
    if not rule.entered(value) or signal.fact in watching.told:
        return watching.model_copy(update={"past_since_s": None, "past_frames": 0, "first_reading": None}), None
    first = watching.first_reading or next(iter(signal.evidence.readings), None)
    since = signal.at_s if watching.past_since_s is None else watching.past_since_s
    frames = watching.past_frames + 1
    pending = watching.model_copy(update={"past_since_s": since, "past_frames": frames, "first_reading": first})
    lasted = frames >= rule.frames and _elapsed_min(since, signal.at_s) >= rule.for_min
    if signal.file_clock:
        lasted = lasted or frames >= rule.frames + rule.for_min / FASTEST_CADENCE_MIN
    if hold or not lasted or _elapsed_min(watching.cleared_s, signal.at_s) < rule.cooldown_min:
        return pending, None
    standing = Open(
        alert_id=_digest(voice.site, voice.node, signal.kind, signal.subject.key, signal.fact or signal.name)[:20],
        revision=1,
        raised_at=signal.occurred_at,
        first_reading=first,
        worst=value,
        said_s=signal.at_s,
        told_at=signal.heard_at,
        quiet=signal.quiet,
        members=signal.members,
    )
    told = watching.told if signal.fact is None else (*watching.told, signal.fact)
    at_rest = {"past_since_s": None, "past_frames": 0, "first_reading": None}
    return pending.model_copy(update={**at_rest, "open": standing, "told": told}), _word(
        AlertState.RAISED, standing, signal, rule
    )


def _while_open(
    watching: Watching, standing: Open, signal: Signal, value: float, rule: Rule
) -> tuple[Watching, Alert | None]:
    if rule.left(value):
        after = watching.model_copy(update={"open": None, "cleared_s": signal.at_s})
        return after, _word(AlertState.CLEARED, _next(standing), signal, rule, "recovered")
    twice_as_bad = value <= standing.worst / 2 if rule.low_is_bad else value >= standing.worst * 2
    due = _elapsed_min(standing.said_s, signal.at_s) * 60 >= UPDATE_EVERY_S
    if not due or not twice_as_bad or signal.fact is not None:  # a fact grows no worse by lasting
        return watching, None
    changes: dict[str, object] = {"worst": value, "said_s": signal.at_s, "members": signal.members or standing.members}
    if standing.quiet and not signal.quiet:
        changes |= {"quiet": False, "told_at": signal.heard_at}
    standing = _next(standing).model_copy(update=changes)
    return watching.model_copy(update={"open": standing}), _word(AlertState.UPDATED, standing, signal, rule)


def _silenced(watching: Watching, signal: Signal, rule: Rule) -> tuple[Watching, Alert | None]:
    """The operator has switched this kind off: what stands open is cleared, and says why."""
    if watching.open is None:
        return EMPTY, None
    return EMPTY, _word(AlertState.CLEARED, _next(watching.open), signal, rule, "switched_off")


def end(
    remembered: Mapping[str, Watching],
    subject: AlertSubject,
    at: datetime | None,
    rules: Alerts,
    why: WhyCleared = "run_ended",
) -> list[Alert]:
    """The last words about what stands open for a subject that is watched no longer."""
    words = []
    for slot, watching in sorted(remembered.items()):
        if watching.open is not None:
            kind = kind_of(slot)
            of_many = bool(watching.open.members)
            text, rule = (OF_INCUBATOR[kind], rules.most_wells) if of_many else (TEXTS[kind], rules.of(kind))
            signal = Signal(kind, subject, None, "", None, at, text, Evidence())
            words.append(_word(AlertState.CLEARED, _next(watching.open), signal, rule, why))
    return words


# -- words that no number brings about ---------------------------------------------------------------------------------


def acknowledge(watching: Watching, last: Alert, by: Acknowledged) -> tuple[Watching, Alert | None]:
    """Somebody has taken note. `last`: the last word. Nothing where it was acknowledged before, or stands no longer."""
    standing = watching.open
    if standing is None or standing.acknowledged is not None:
        return watching, None
    return _follow(watching, standing, last, AlertState.ACKNOWLEDGED, by.at, {"acknowledged": by})


def disclose(watching: Watching, last: Alert, at: datetime, quiet: bool) -> tuple[Watching, Alert | None]:
    """What nobody was told of may be told now: a standing alert is said again, and waits for its call from then."""
    standing = watching.open
    if standing is None:
        return watching, None
    return _follow(watching, standing, last, AlertState.UPDATED, at, {"quiet": quiet, "told_at": at})


def remind(watching: Watching, last: Alert, rule: Rule, now: datetime, quiet: bool) -> tuple[Watching, Alert | None]:
    """What time alone brings about: quiet hours that end, and a call for who has not taken note in time."""
    standing = watching.open
    if standing is None or quiet or standing.acknowledged is not None:
        return watching, None
    if standing.quiet:
        return _follow(watching, standing, last, AlertState.UPDATED, now, {"quiet": False, "told_at": now})
    if standing.told_at is None:  # raised by a version that did not note it: its call is waited for from now
        return watching.model_copy(update={"open": standing.model_copy(update={"told_at": now})}), None
    waited_min = (now - standing.told_at).total_seconds() / 60
    if standing.escalated_at is not None or not rule.escalate_after_min or waited_min < rule.escalate_after_min:
        return watching, None
    return _follow(watching, standing, last, AlertState.ESCALATED, now, {"escalated_at": now})


def _follow(
    watching: Watching, standing: Open, last: Alert, state: AlertState, at: datetime, changes: dict[str, object]
) -> tuple[Watching, Alert]:
    """Another word that repeats what the last one said of value and evidence."""
    standing = _next(standing).model_copy(update=changes)
    word = last.model_copy(
        update={
            "id": _digest(standing.alert_id, str(standing.revision))[:32],
            "seq": None,
            "boot_id": None,
            "occurred_at": at,
            "state": state,
            "revision": standing.revision,
            "acknowledged": standing.acknowledged,
            "escalated_at": standing.escalated_at,
            "quiet": standing.quiet,
        }
    )
    return watching.model_copy(update={"open": standing}), word


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
        acknowledged=standing.acknowledged,
        escalated_at=standing.escalated_at,
        members=signal.members or standing.members,
        quiet=signal.quiet,
        evidence=Evidence(readings=told, values=signal.evidence.values),
        runbook=f"runbook.md#{signal.kind}",
    )


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
